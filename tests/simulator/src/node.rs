//! One node: the real machine, gate and chain on a simulated disk. It does what the replica's actor does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use fastrand::Rng;
use standin_consensus::config::Config;
use standin_consensus::effect::{Effect, Event, Input, Recipient};
use standin_consensus::messages::BlockTransfer;
use standin_consensus::mutation::Mutation;
use standin_consensus::verify::sign;
use standin_consensus::{
    BatchPayload, Body, Gate, Identity, Lsn, Machine, Note, Record, Signed, Transfer, Verified, Verifier,
};
use standin_foundation::{Digest, Epoch, Height, Millis, Seat};
use standin_ledger::builtin::Builtin;
use standin_ledger::certificate::{CheckpointResult, CommitCertificate};
use standin_ledger::snapshot::{ServedSnapshot, Snapshot};
use standin_ledger::{Batch, Chain, Genesis, Proposal, Transaction};

use crate::authority::{SimulatedAuthority, SimulatedSigner};
use crate::disk::{Disk, StoredBlock};
use crate::network::Envelope;

/// Blocks in one answer.
const BLOCKS_PER_ANSWER: u64 = 16;

/// What a node wants the world to do.
#[derive(Debug)]
pub enum Action {
    /// Deliver something.
    Deliver(Recipient, Envelope),
    /// Tell the node later that its log is durable up to here.
    Sync(Lsn),
    /// Tell the node later to execute its next block.
    Execute,
    /// Tell the node later that the snapshot is in place.
    Installed,
    /// Something for the invariants.
    Observe(Observation),
}

/// What the invariants see.
#[derive(Debug)]
pub enum Observation {
    /// A binding message left the node.
    Emitted(Box<Signed>),
    /// A block was executed.
    Executed {
        /// What was agreed on.
        proposal: Proposal,
        /// The proof.
        certificate: CommitCertificate,
        /// The block's hash.
        hash: Digest,
        /// The transactions that took effect.
        applied: Vec<Digest>,
    },
    /// A snapshot took the place of execution.
    Installed(CheckpointResult),
    /// The machine reports something.
    Event(Event),
}

/// What does not change over a node's life.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The chain's beginning.
    pub genesis: Genesis,
    /// The seat.
    pub seat: Seat,
    /// The machine's configuration.
    pub config: Config,
    /// The rule that is switched off, if any.
    pub mutation: Option<Mutation>,
    /// Makes the node's own results wrong from this height on.
    pub wrong_from: Option<Height>,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    /// What does not change.
    pub setup: Setup,
    /// What survives a crash.
    pub disk: Disk,
    /// The node runs.
    pub up: bool,
    /// Counts starts: timers of an earlier life are void.
    pub life: u64,
    machine: Machine,
    gate: Gate,
    chain: Chain,
    payloads: BTreeMap<Digest, Arc<Batch>>,
    to_execute: VecDeque<(Proposal, CommitCertificate)>,
    snapshots: BTreeMap<Height, Snapshot>,
    served: Option<ServedSnapshot>,
    /// Transactions whose clients wait for an outcome at this node.
    waiting: BTreeSet<Digest>,
    installing: Option<standin_ledger::CheckpointCertificate>,
    syncing: bool,
    cut_when_durable: Option<(Lsn, Lsn)>,
    own_batches: BTreeMap<Digest, Vec<Transaction>>,
    /// Own transactions that need a new batch.
    again: Vec<Transaction>,
    /// Height of the last result that was made wrong in this life.
    wrong_result: Option<Height>,
    actions: Vec<Action>,
}

impl Node {
    /// A node of a new chain.
    pub fn new(setup: Setup) -> Self {
        let chain = Chain::new(&setup.genesis, Arc::new(Builtin));
        let machine = Machine::new(identity(&setup), setup.config, Millis(0));
        let mut node = Self {
            setup,
            disk: Disk::default(),
            up: true,
            life: 0,
            machine,
            gate: Gate::default(),
            chain,
            payloads: BTreeMap::new(),
            to_execute: VecDeque::new(),
            snapshots: BTreeMap::new(),
            served: None,
            waiting: BTreeSet::new(),
            installing: None,
            syncing: false,
            cut_when_durable: None,
            own_batches: BTreeMap::new(),
            again: Vec::new(),
            wrong_result: None,
            actions: Vec::new(),
        };
        node.apply_mutation();
        node
    }

    fn apply_mutation(&mut self) {
        if let Some(mutation) = self.setup.mutation {
            self.machine.mutate(mutation);
        }
    }

    /// The power fails. Of what was not synced, a random beginning survives.
    pub fn crash(&mut self, rng: &mut Rng) {
        self.kill();
        self.disk.crash(rng);
    }

    /// The process is killed. Nothing that it wrote is lost, unless the power fails before it is synced.
    pub fn kill(&mut self) {
        self.up = false;
        self.life += 1;
    }

    /// The process starts again from its disk.
    pub fn restart(&mut self, now: Millis) -> Vec<Action> {
        self.up = true;
        (self.disk.full, self.disk.refused) = (false, false);
        self.life += 1;
        self.chain = Chain::new(&self.setup.genesis, Arc::new(Builtin));
        self.snapshots.clear();
        self.served = None;
        self.waiting.clear();
        if let Some((snapshot, certificate)) = self.disk.base.clone() {
            self.served = Some(ServedSnapshot::new(&snapshot, certificate));
            self.chain = Chain::from_snapshot(&self.setup.genesis, Arc::new(Builtin), snapshot);
        }
        let results = self.execute_stored();
        self.payloads = self.disk.payloads().map(|batch| (batch.digest(), Arc::clone(batch))).collect();
        self.own_batches.clear();
        self.again.clear();
        self.wrong_result = None;
        self.to_execute.clear();
        self.installing = None;
        self.syncing = false;
        self.cut_when_durable = None;
        let stable = self.logged_stable();
        let committed = |block: &StoredBlock| Record::Committed {
            proposal: block.proposal.clone(),
            certificate: block.certificate.clone(),
        };
        let above = self.disk.blocks.iter().filter(|block| block.proposal.height > stable);
        for block in above.clone() {
            self.payloads.extend(block.batches.iter().map(|batch| (batch.digest(), Arc::clone(batch))));
        }
        let base = self.disk.base.iter().map(|(_, certificate)| Record::Stable(certificate.clone()));
        let records: Vec<_> =
            base.chain(self.disk.records().map(|(_, record)| record.clone())).chain(above.map(committed)).collect();
        let next = self.disk.last() + 1;
        if self.setup.mutation != Some(Mutation::TrustPageCache) {
            self.disk.reopen();
        }
        self.gate = Gate::new(self.disk.last());
        self.machine = Machine::restore(
            identity(&self.setup),
            self.setup.config,
            now,
            records,
            self.chain.height(),
            next,
            |digest| self.payloads.contains_key(digest),
        );
        self.apply_mutation();
        self.payloads.retain(|digest, _| self.machine.needs_payload(digest));
        for result in results.into_iter().filter(|result| result.height >= stable) {
            self.step(now, Input::Executed { height: result.height, checkpoint: Some(result) });
        }
        self.step(now, Input::Tick);
        std::mem::take(&mut self.actions)
    }

    fn logged_stable(&self) -> Height {
        let stable = |record: &Record| match record {
            Record::Stable(certificate) => Some(certificate.result.height),
            _ => None,
        };
        let logged = self.disk.records().filter_map(|(_, record)| stable(record)).max().unwrap_or_default();
        logged.max(self.disk.base_height())
    }

    fn execute_stored(&mut self) -> Vec<CheckpointResult> {
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

    fn maybe_wrong(&mut self, mut result: CheckpointResult) -> CheckpointResult {
        if self.setup.wrong_from.is_some_and(|from| result.height >= from) {
            result.state_root = Digest::sha256(b"wrong");
            self.wrong_result = Some(result.height);
        }
        result
    }

    /// The machine.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Height of a result that this node made wrong, if a quorum has since proven another one.
    pub fn refuted_result(&self) -> Option<Height> {
        let (base, stable) = (self.disk.base_height(), self.machine.stable());
        self.wrong_result.filter(|height| *height > base && *height <= stable)
    }

    /// The chain.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Transactions whose clients wait for an outcome at this node.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether a binding message's record is durable: asked by the invariant, answered from the disk alone.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// A client hands transactions to this node, which makes a batch of them and pushes it to all.
    pub fn submit(&mut self, now: Millis, transactions: Vec<Transaction>) -> Vec<Action> {
        self.waiting.extend(transactions.iter().map(Transaction::id));
        if let Ok(batch) = Batch::new(transactions) {
            self.own_batches.insert(batch.digest(), batch.transactions().to_vec());
            let envelope = Envelope::Batch(BatchPayload(batch.payload().clone()));
            self.actions.push(Action::Deliver(Recipient::All, envelope));
            self.take_batch(now, self.setup.seat, batch, false);
        }
        std::mem::take(&mut self.actions)
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Millis) -> Vec<Action> {
        self.step(now, Input::Tick);
        let again = std::mem::take(&mut self.again);
        if again.is_empty() { std::mem::take(&mut self.actions) } else { self.submit(now, again) }
    }

    /// The log is durable up to `lsn`.
    pub fn synced(&mut self, now: Millis, lsn: Lsn) -> Vec<Action> {
        self.syncing = false;
        self.disk.sync(lsn);
        self.gate.durable(lsn);
        if let Some((keep_from, when)) = self.cut_when_durable
            && lsn >= when
        {
            self.disk.cut(keep_from);
            self.cut_when_durable = None;
        }
        self.release(now);
        self.sync_more();
        std::mem::take(&mut self.actions)
    }

    /// Executes the next block.
    pub fn execute(&mut self, now: Millis) -> Vec<Action> {
        let Some((proposal, certificate)) = self.to_execute.pop_front() else { return Vec::new() };
        let names: Vec<_> = proposal.batches.iter().map(|batch| batch.digest()).collect();
        let batches: Vec<_> = names.iter().filter_map(|name| self.payloads.get(name).cloned()).collect();
        let height = proposal.height;
        match self.chain.execute(proposal.clone(), &batches) {
            Ok(executed) => {
                for receipt in &executed.receipts {
                    self.waiting.remove(&receipt.transaction);
                }
                let applied = executed.receipts.iter().filter(|receipt| receipt.outcome.is_applied());
                let applied = applied.map(|receipt| receipt.transaction).collect();
                self.disk.blocks.push(StoredBlock {
                    proposal: proposal.clone(),
                    certificate: certificate.clone(),
                    batches,
                });
                let hash = executed.hash;
                self.actions.push(Action::Observe(Observation::Executed { proposal, certificate, hash, applied }));
                let checkpoint = executed.checkpoint.map(|result| self.maybe_wrong(result));
                if checkpoint.is_some() {
                    self.snapshots.insert(height, self.chain.snapshot());
                }
                self.step(now, Input::Executed { height, checkpoint });
            }
            Err(error) => panic!("seat {} cannot execute block {height}: {error}", self.setup.seat),
        }
        std::mem::take(&mut self.actions)
    }

    /// The snapshot is in place.
    pub fn installed(&mut self, now: Millis) -> Vec<Action> {
        // Outcomes below are not known here: clients are told so.
        self.waiting.clear();
        if let Some(certificate) = self.installing.take() {
            self.step(now, Input::SnapshotInstalled(certificate));
        }
        std::mem::take(&mut self.actions)
    }

    /// The log is to be cut.
    pub fn cut_log(&mut self, now: Millis) -> Vec<Action> {
        if self.cut_when_durable.is_none() {
            self.disk.store_barrier();
            self.step(now, Input::LogFull);
        }
        std::mem::take(&mut self.actions)
    }

    /// Something arrived from a seat.
    pub fn receive(&mut self, now: Millis, from: Seat, envelope: Envelope) -> Vec<Action> {
        match envelope {
            Envelope::Signed(message) => {
                if let Ok(message) = self.verifier().message(from, message) {
                    self.step(now, Input::MessageReceived(message));
                }
            }
            Envelope::Note(note) => self.take_note(now, from, note),
            Envelope::Batch(BatchPayload(payload)) => {
                if let Ok(batch) = Batch::parse(payload) {
                    self.take_batch(now, from, batch, false);
                }
            }
            Envelope::Transfer(transfer) => self.take_transfer(now, from, transfer),
        }
        std::mem::take(&mut self.actions)
    }

    fn verifier(&self) -> Verifier<SimulatedAuthority> {
        let authority = SimulatedAuthority {
            seats: self.setup.genesis.seats.len(),
            small_quorum: self.setup.mutation == Some(Mutation::QuorumTooSmall),
        };
        Verifier { authority, epoch: Epoch(0), window: self.setup.genesis.parameters.window }
    }

    fn take_note(&mut self, now: Millis, from: Seat, note: Note) {
        let answer = match note {
            Note::Status(status) => return self.step(now, Input::StatusReceived(from, status)),
            Note::Offer(digests) => return self.step(now, Input::OfferReceived(from, digests)),
            Note::Unavailable => return self.step(now, Input::UnavailableReceived(from)),
            Note::Stable(certificate) => {
                if let Ok(certificate) = self.verifier().checkpoint(certificate) {
                    self.step(now, Input::StableReceived(certificate));
                }
                return;
            }
            Note::FetchBatches(digests) => {
                for batch in digests.iter().filter_map(|digest| self.payloads.get(digest)) {
                    let envelope = Envelope::Batch(BatchPayload(batch.payload().clone()));
                    self.actions.push(Action::Deliver(Recipient::One(from), envelope));
                }
                return;
            }
            Note::FetchBlocks { from } => self.blocks_from(from),
            Note::FetchManifest => {
                self.served.as_ref().map(|served| Transfer::Manifest(Box::new(served.manifest().clone())))
            }
            Note::FetchChunk { height, index } => self
                .served
                .as_ref()
                .filter(|served| served.manifest().certificate.result.height == height)
                .and_then(|served| served.chunk(index as usize))
                .map(|chunk| Transfer::Chunk { height, index, chunk }),
        };
        let envelope = answer.map_or(Envelope::Note(Note::Unavailable), Envelope::Transfer);
        self.actions.push(Action::Deliver(Recipient::One(from), envelope));
    }

    fn blocks_from(&self, from: Height) -> Option<Transfer> {
        let transfer = |height| {
            self.disk.block(height).map(|block| BlockTransfer {
                proposal: block.proposal.clone(),
                certificate: block.certificate.clone(),
                payloads: block.batches.iter().map(|batch| batch.payload().clone()).collect(),
            })
        };
        let blocks: Vec<_> =
            (from.0..from.0 + BLOCKS_PER_ANSWER).map_while(|height| transfer(Height(height))).collect();
        (!blocks.is_empty()).then_some(Transfer::Blocks(blocks))
    }

    fn take_transfer(&mut self, now: Millis, from: Seat, transfer: Transfer) {
        match transfer {
            Transfer::Blocks(blocks) => self.take_blocks(now, from, blocks),
            Transfer::Manifest(manifest) => {
                if let Ok(manifest) = self.verifier().manifest(*manifest) {
                    self.step(now, Input::ManifestReceived(from, manifest));
                }
            }
            Transfer::Chunk { height, index, chunk } => {
                self.step(now, Input::ChunkReceived { from, height, index, chunk });
            }
        }
    }

    fn take_batch(&mut self, now: Millis, from: Seat, batch: Batch, needed: bool) {
        let reference = batch.reference();
        self.payloads.entry(batch.digest()).or_insert_with(|| Arc::new(batch));
        self.step(now, Input::BatchReceived { from, batch: reference, needed });
    }

    fn take_blocks(&mut self, now: Millis, from: Seat, blocks: Vec<BlockTransfer>) {
        if !self.machine.awaits_blocks(from) {
            return;
        }
        let mut checked = Vec::new();
        for block in blocks {
            let Ok(certificate) =
                self.verifier().commit(block.proposal.height, block.proposal.digest(), block.certificate)
            else {
                break;
            };
            let batches: Vec<_> = block.payloads.into_iter().filter_map(|payload| Batch::parse(payload).ok()).collect();
            if batches.iter().map(Batch::reference).ne(block.proposal.batches.iter().copied()) {
                break;
            }
            for batch in batches {
                self.take_batch(now, from, batch, true);
            }
            checked.push((block.proposal, certificate));
        }
        self.step(now, Input::BlocksReceived { from, blocks: checked });
    }

    /// Steps the machine and carries its effects out. Own messages that leave come back as inputs.
    fn step(&mut self, now: Millis, input: Input) {
        let effects = self.machine.step(now, input);
        for effect in effects {
            self.carry_out(effect);
        }
        self.release(now);
        self.sync_more();
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Log { lsn, record } => {
                let payload = match &record {
                    Record::Batch(reference) => self.payloads.get(&reference.digest()).cloned(),
                    _ => None,
                };
                self.disk.append(lsn, record, payload);
            }
            // The gate keeps order, which would hide this mutation: what does not wait overtakes what does.
            Effect::Send { to, body, after: 0 } if self.setup.mutation == Some(Mutation::ResendUngated) => {
                self.emit(to, body);
            }
            Effect::Send { to, body, after } => self.gate.hold(to, body, after),
            Effect::Relay { to, message } => {
                self.actions.push(Action::Deliver(Recipient::One(to), Envelope::Signed(*message)));
            }
            Effect::Tell { to, note } => self.actions.push(Action::Deliver(to, Envelope::Note(note))),
            Effect::Commit { proposal, certificate } => {
                self.to_execute.push_back((proposal, certificate));
                self.actions.push(Action::Execute);
            }
            Effect::Stabilize(certificate) => {
                let height = certificate.result.height;
                if let Some(snapshot) = self.snapshots.get(&height) {
                    self.served = Some(ServedSnapshot::new(snapshot, certificate));
                }
                self.snapshots = self.snapshots.split_off(&height.next());
            }
            Effect::InstallSnapshot(snapshot, certificate) => self.install(*snapshot, certificate),
            Effect::DropBatches(digests) => self.drop_batches(&digests),
            Effect::ForgetBatches(digests) => {
                for digest in digests {
                    self.payloads.remove(&digest);
                    self.own_batches.remove(&digest);
                }
            }
            Effect::CutLog { keep_from } => self.cut_when_durable = Some((keep_from, self.disk.last())),
            Effect::Report(event) => self.actions.push(Action::Observe(Observation::Event(event))),
        }
    }

    fn install(&mut self, snapshot: Snapshot, certificate: standin_ledger::CheckpointCertificate) {
        self.actions.push(Action::Observe(Observation::Installed(certificate.result)));
        self.chain = Chain::from_snapshot(&self.setup.genesis, Arc::new(Builtin), snapshot.clone());
        self.served = Some(ServedSnapshot::new(&snapshot, certificate.clone()));
        self.disk.install(snapshot, certificate.clone());
        self.to_execute.clear();
        self.installing = Some(certificate);
        self.actions.push(Action::Installed);
    }

    /// Own transactions whose batch will not be ordered go into a new one, unless they were ordered in blocks that a
    /// snapshot stood for.
    fn drop_batches(&mut self, digests: &[Digest]) {
        for digest in digests {
            self.payloads.remove(digest);
            let own = self.own_batches.remove(digest).unwrap_or_default();
            let alive = |transaction: &Transaction| {
                transaction.expires() > self.chain.height() && !self.chain.is_recent(&transaction.id())
            };
            self.again.extend(own.into_iter().filter(alive));
        }
    }

    fn release(&mut self, now: Millis) {
        while let Some(held) = self.gate.release() {
            let message = self.emit(held.to, held.body);
            if held.to == Recipient::All {
                self.take_own(now, message);
            }
        }
    }

    fn emit(&mut self, to: Recipient, body: Body) -> Verified<Signed> {
        let message = sign(&SimulatedSigner(self.setup.seat), Epoch(0), body);
        self.actions.push(Action::Observe(Observation::Emitted(Box::new(Signed::clone(&message)))));
        self.actions.push(Action::Deliver(to, Envelope::Signed(Signed::clone(&message))));
        message
    }

    fn take_own(&mut self, now: Millis, message: Verified<Signed>) {
        let effects = self.machine.step(now, Input::MessageReceived(message));
        for effect in effects {
            self.carry_out(effect);
        }
    }

    fn sync_more(&mut self) {
        if !self.syncing && self.disk.last() > self.disk.durable() {
            self.syncing = true;
            self.actions.push(Action::Sync(self.disk.last()));
        }
    }
}

fn identity(setup: &Setup) -> Identity {
    Identity {
        seat: setup.seat,
        seats: setup.genesis.seats.len(),
        epoch: Epoch(0),
        parameters: setup.genesis.parameters,
    }
}
