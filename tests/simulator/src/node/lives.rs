//! How a node ends, and how it starts from its disk.

use standin_consensus::machine::Remains;
use standin_foundation::Seats;

use super::*;

impl Node {
    /// Sets what no log tells: the rule that is switched off, and the node's clock. Clocks differ by hours.
    pub(super) fn set_up_machine(&mut self) {
        let hours = self.setup.id.as_bytes().first().map_or(0, |byte| u64::from(*byte % 48));
        self.machine.set_unix_ms_at_zero(hours * 3_600_000);
        if let Some(mutation) = self.setup.core_rule() {
            self.machine.mutate(mutation);
        }
    }

    /// The power fails. Of what was not synced, a random beginning survives.
    pub fn crash(&mut self, rng: &mut Rng, may_tear: bool) {
        self.kill();
        self.disk.crash(rng, may_tear);
    }

    /// The process is killed. Nothing that it wrote is lost, unless the power fails before it is synced.
    pub fn kill(&mut self) {
        self.up = false;
        self.life += 1;
    }

    /// The disk is lost while the process is down: it comes back with an empty one.
    pub fn wipe(&mut self) {
        self.disk = Disk::default();
        self.wiped_in = Some(self.life);
    }

    /// Whether its disk was lost and does not hold again all that its seat has said.
    pub fn is_wiped(&self) -> bool {
        self.wiped_in.is_some_and(|life| life == self.life || !self.member.facts().complete)
    }

    /// Names the disk of a node that waits for its cluster's seat; the name is durable.
    pub fn name_disk(&mut self, now: Millis, session: u64) -> u64 {
        let mut member = open_member(&self.setup, &mut self.disk, session, now);
        for effect in member.step(now, standin_cluster::Input::Tick) {
            if let standin_cluster::Effect::Write { sequence, record } = effect {
                self.disk.append(sequence, record, |_| None);
            }
        }
        self.disk.reopen();
        member.facts().disk
    }

    /// The node's cluster has been given this seat: that is what it found out while it waited. It starts with the next restart.
    pub fn take_seat(&mut self, seat: Seat, known: SimulatedAuthority, epochs: BTreeMap<Epoch, EpochProof>) {
        let setup = Setup { seat, ..self.setup.clone() };
        let mut disk = std::mem::take(&mut self.disk);
        disk.epochs = epochs;
        *self = Self { disk, up: false, life: self.life + 1, ..Self::new(setup) };
        self.known.table = known.table;
    }

    /// The process starts again from its disk. `session` names the session of a log that has none.
    pub fn restart(&mut self, now: Millis, session: u64) -> Vec<Action> {
        self.up = true;
        (self.disk.full, self.disk.refused) = (false, false);
        self.life += 1;
        self.chain = Chain::new(&self.setup.genesis, Arc::new(Builtin));
        self.snapshots.clear();
        self.served = None;
        self.waiting.clear();
        self.computed.clear();
        self.parked.clear();
        self.todo.clear();
        if let Some((snapshot, certificate)) = self.disk.base.clone() {
            self.served = Some(ServedSnapshot::new(&snapshot, certificate));
            self.chain = Chain::from_snapshot(&self.setup.genesis, Arc::new(Builtin), snapshot);
        }
        let results = self.execute_stored();
        self.chain.entered_epochs().into_iter().for_each(|table| self.known.table.begin(table));
        self.payloads = self.disk.payloads().map(|batch| (batch.digest(), Arc::clone(batch))).collect();
        self.own_batches.clear();
        self.again.clear();
        self.wrong_result = None;
        self.installing = None;
        (self.syncing, self.syncs_soon, self.waited_for) = (false, false, 0);
        self.disk.reopen();
        self.member = open_member(&self.setup, &mut self.disk, session, now);
        self.rebuild(now);
        for result in results {
            self.computed.insert(result.height, result);
            self.note_executed(now, result.height, Some(result));
        }
        self.step_member(now, standin_cluster::Input::Tick);
        std::mem::take(&mut self.actions)
    }

    /// Builds the replica's machine anew, as a shadow, from the seat's log and the store.
    pub(super) fn rebuild(&mut self, now: Millis) {
        self.to_execute.clear();
        if !self.setup.breaks(Driver::GateByNumber) {
            self.gate = Gate::default();
        }
        let records: Vec<_> = self.member.entries().map(|entry| (entry.lsn, decode(&entry.record))).collect();
        let logged = logged_stable(&records);
        // A log that has just begun says of no checkpoint that it is stable.
        let base = match logged {
            Height(0) => self.disk.newest_certificate().cloned(),
            _ => self.disk.base.as_ref().map(|(_, certificate)| certificate.clone()),
        };
        let stable = logged.max(base.as_ref().map_or(Height(0), |base| base.result.height));
        let above: Vec<_> = self.disk.blocks.iter().filter(|block| block.proposal.height > stable).collect();
        for block in &above {
            self.payloads.extend(block.batches.iter().map(|batch| (batch.digest(), Arc::clone(batch))));
        }
        let remains = Remains {
            base,
            records,
            blocks: above.into_iter().map(|block| (block.proposal.clone(), block.certificate.clone())).collect(),
            executed: self.chain.height(),
            epochs: self.chain.epochs(),
            known: self.known.table.epoch(),
            next_lsn: self.member.head().lsn + 1,
        };
        let holds = |digest: &Digest| self.payloads.contains_key(digest);
        self.machine = Machine::restore(identity(&self.setup), self.setup.config, now, remains, holds);
        self.set_up_machine();
    }

    pub(super) fn execute_stored(&mut self) -> Vec<CheckpointResult> {
        let blocks = self.disk.blocks.clone();
        let mut results = Vec::new();
        for block in blocks {
            if let Ok(executed) = self.chain.execute(block.proposal, &block.batches)
                && let Some(result) = executed.checkpoint
            {
                let result = self.maybe_wrong(result);
                self.snapshots.insert(result.height, self.chain.snapshot());
                results.push(result);
            }
        }
        results
    }

    pub(super) fn maybe_wrong(&mut self, mut result: CheckpointResult) -> CheckpointResult {
        if self.setup.wrong_from.is_some_and(|from| result.height >= from) {
            result.state_root = Digest::sha256(b"wrong");
            self.wrong_result = Some(result.height);
        }
        result
    }
}

pub(super) fn identity(setup: &Setup) -> Identity {
    Identity { seat: setup.seat, seats: Seats::first(setup.genesis.seats.len()), parameters: setup.genesis.parameters }
}

pub(super) fn logged_stable(records: &[(Lsn, Record)]) -> Height {
    let stable = |(_, record): &(Lsn, Record)| match record {
        Record::Stable(certificate) => Some(certificate.result.height),
        _ => None,
    };
    records.iter().filter_map(stable).max().unwrap_or_default()
}

pub(super) fn open_member(setup: &Setup, disk: &mut Disk, session: u64, now: Millis) -> Member {
    let alone = || ClusterSetup {
        cluster: setup.genesis.seats[setup.seat.index()].cluster.clone(),
        members: [(setup.id, 0)].into(),
        config: standin_cluster::Config::default(),
    };
    let cluster = setup.cluster.as_deref().cloned().unwrap_or_else(alone);
    let identity = standin_cluster::Identity {
        node: setup.id,
        cluster: cluster.cluster,
        members: cluster.members,
        fixed: setup.cluster.is_none(),
    };
    let mutation = setup.rule.and_then(|rule| rule.member);
    Member::open_mutated(identity, cluster.config, describe, disk.found(session), now, mutation)
}

pub(super) fn describe(bytes: &Bytes) -> Option<Description> {
    let record = decode(bytes);
    let carries = record.carries().map(|batch| (batch.digest(), batch.bytes));
    Some(Description { carries, names: record.names(), base: record.base(), may_wait: record.may_wait() })
}
