//! One node: the real machines, gate and chain on a simulated disk. It does what the node's actors do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use fastrand::Rng;
use standin_auth::Statement;
use standin_auth::messages::{Answer, Request, WrongResult};
use standin_cluster::Member;
use standin_cluster::machine::Description;
use standin_cluster::messages::Message;
use standin_consensus::config::Config;
use standin_consensus::effect::{Effect, Event, Input, Recipient};
use standin_consensus::messages::BlockTransfer;
use standin_consensus::mutation::Mutation;
use standin_consensus::verify::{VerifyError, sign};
use standin_consensus::{
    BatchPayload, Body, Gate, Identity, Machine, Note, Record, Role, Signed, Status, Transfer, Verified, Verifier,
};
use standin_foundation::wire::Wire;
use standin_foundation::{ClusterId, Digest, Epoch, Height, Lsn, Millis, NodeId, PublicKey, Seat, Signature, Writer};
use standin_ledger::builtin::Builtin;
use standin_ledger::certificate::{CheckpointResult, CommitCertificate};
use standin_ledger::error::LedgerError;
use standin_ledger::snapshot::{ServedSnapshot, Snapshot};
use standin_ledger::{Batch, Chain, Genesis, Proposal, SignedGrant, Transaction};

use crate::authority::{KnownSeat, SimulatedAuthority, SimulatedSigner};
use crate::disk::{Disk, StoredBlock, decode};
use crate::network::Envelope;
use crate::rules::{Driver, Rule};

/// Blocks in one answer.
const BLOCKS_PER_ANSWER: u64 = 16;
/// An active looks up who holds the other seats at this interval, in ms.
const LOOK_UP_MS: u64 = 1_000;
/// Messages that wait for a grant.
const PARKED_MAX: usize = 256;

/// What a node wants the world to do.
#[derive(Debug)]
pub enum Action {
    /// Deliver something to other seats.
    Deliver(Recipient, Envelope),
    /// Deliver something to a node.
    DeliverTo(NodeId, Envelope),
    /// Ask the auth node.
    Ask(Request),
    /// Tell the node later that its log is durable up to here.
    Sync(u64),
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
    /// The member machine reports something.
    Member(standin_cluster::Event),
    /// The seat's log was released up to here.
    Released(Lsn, Digest),
    /// The node speaks for its seat from now on.
    Activated(Writer),
}

/// A member's cluster.
#[derive(Debug, Clone)]
pub struct ClusterSetup {
    /// Its name.
    pub cluster: ClusterId,
    /// The members, with their priorities.
    pub members: BTreeMap<NodeId, u8>,
    /// The member machine's configuration.
    pub config: standin_cluster::Config,
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
    /// The node.
    pub id: NodeId,
    /// Its key.
    pub key: PublicKey,
    /// Its cluster; none on a chain whose seats are fixed.
    pub cluster: Option<Arc<ClusterSetup>>,
    /// The rule that is switched off, if any.
    pub rule: Option<Rule>,
    /// Makes the node's own results wrong from this height on.
    pub wrong_from: Option<Height>,
    /// Another node of its cluster is faulty: the seat is, and nothing is demanded of it.
    pub excused: bool,
    /// It votes for its results without asking its cluster, and goes on whatever is proven.
    pub unchecked: bool,
}

impl Setup {
    fn core_rule(&self) -> Option<Mutation> {
        if self.unchecked { Some(Mutation::IgnoreOwnResult) } else { self.rule?.core }
    }

    fn breaks(&self, rule: Driver) -> bool {
        self.rule.is_some_and(|broken| broken.driver == Some(rule))
    }
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
    /// What it knows of who holds which seat. Grants are on the disk as soon as they are known.
    pub known: SimulatedAuthority,
    machine: Machine,
    member: Member,
    signer: SimulatedSigner,
    gate: Gate,
    chain: Chain,
    payloads: BTreeMap<Digest, Arc<Batch>>,
    to_execute: VecDeque<(Proposal, CommitCertificate)>,
    snapshots: BTreeMap<Height, Snapshot>,
    served: Option<ServedSnapshot>,
    /// Own results that may not be proven.
    computed: BTreeMap<Height, CheckpointResult>,
    /// Transactions whose clients wait for an outcome at this node.
    waiting: BTreeSet<Digest>,
    installing: Option<standin_ledger::CheckpointCertificate>,
    syncing: bool,
    own_batches: BTreeMap<Digest, Vec<Transaction>>,
    /// Own transactions that need a new batch.
    again: Vec<Transaction>,
    /// Messages that wait for a grant.
    parked: Vec<(NodeId, Seat, Signed)>,
    /// When each other seat was last heard.
    heard: BTreeMap<Seat, Millis>,
    look_up_due: Millis,
    /// Height of the last result that was made wrong in this life.
    wrong_result: Option<Height>,
    todo: VecDeque<standin_cluster::Effect>,
    /// What the replica's machine has found out for the member machine.
    for_member: Vec<standin_cluster::Input>,
    /// The life before which the disk was lost.
    wiped_in: Option<u64>,
    actions: Vec<Action>,
}

impl Node {
    /// A node of a new chain.
    pub fn new(setup: Setup, seats: Vec<KnownSeat>) -> Self {
        let chain = Chain::new(&setup.genesis, Arc::new(Builtin));
        let machine = Machine::shadow(identity(&setup), setup.config, Millis(0));
        let known = SimulatedAuthority {
            seats,
            small_quorum: setup.core_rule() == Some(Mutation::QuorumTooSmall),
            by_newest: setup.breaks(Driver::JudgeByNewestTerm),
        };
        let mut disk = Disk::default();
        let member = open_member(&setup, &mut disk, 1, Millis(0));
        let signer = SimulatedSigner { seat: setup.seat, node: setup.id, writer: Writer::default(), start: 0 };
        let mut node = Self {
            setup,
            disk,
            up: true,
            life: 0,
            known,
            machine,
            member,
            signer,
            gate: Gate::default(),
            chain,
            payloads: BTreeMap::new(),
            to_execute: VecDeque::new(),
            snapshots: BTreeMap::new(),
            served: None,
            computed: BTreeMap::new(),
            waiting: BTreeSet::new(),
            installing: None,
            syncing: false,
            own_batches: BTreeMap::new(),
            again: Vec::new(),
            parked: Vec::new(),
            heard: BTreeMap::new(),
            look_up_due: Millis(0),
            wrong_result: None,
            todo: VecDeque::new(),
            for_member: Vec::new(),
            wiped_in: None,
            actions: Vec::new(),
        };
        node.apply_mutation();
        node
    }

    fn apply_mutation(&mut self) {
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
        self.payloads = self.disk.payloads().map(|batch| (batch.digest(), Arc::clone(batch))).collect();
        self.own_batches.clear();
        self.again.clear();
        self.wrong_result = None;
        self.installing = None;
        self.syncing = false;
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
    fn rebuild(&mut self, now: Millis) {
        self.to_execute.clear();
        if !self.setup.breaks(Driver::GateByNumber) {
            self.gate = Gate::default();
        }
        let records: Vec<_> = self.member.entries().map(|entry| decode(&entry.record)).collect();
        let stable = logged_stable(&records).max(self.disk.base_height());
        let committed = |block: &StoredBlock| Record::Committed {
            proposal: block.proposal.clone(),
            certificate: block.certificate.clone(),
        };
        let above: Vec<_> = self.disk.blocks.iter().filter(|block| block.proposal.height > stable).collect();
        for block in &above {
            self.payloads.extend(block.batches.iter().map(|batch| (batch.digest(), Arc::clone(batch))));
        }
        let base = self.disk.base.iter().map(|(_, certificate)| Record::Stable(certificate.clone()));
        let records: Vec<_> = base.chain(records).chain(above.into_iter().map(committed)).collect();
        let next = self.member.head().lsn + 1;
        let executed = self.chain.height();
        self.machine =
            Machine::restore(identity(&self.setup), self.setup.config, now, records, executed, next, |digest| {
                self.payloads.contains_key(digest)
            });
        self.apply_mutation();
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

    /// The member machine.
    pub fn member(&self) -> &Member {
        &self.member
    }

    /// Signs for the node.
    pub fn signer(&self) -> SimulatedSigner {
        self.signer
    }

    /// Whether this node speaks for its seat.
    pub fn is_active(&self) -> bool {
        self.machine.role() == Role::Active
    }

    /// When the node wants its next tick.
    pub fn deadline(&self) -> Millis {
        match self.setup.cluster {
            Some(_) => self.machine.deadline().min(self.member.deadline()),
            None => self.machine.deadline(),
        }
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
        if !self.is_active() {
            // A replica that does not speak yet makes no batches: nobody would keep them.
            self.again.extend(transactions);
            return std::mem::take(&mut self.actions);
        }
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
        let heard = self.heard.values().filter(|at| **at + 1_000 > now).count();
        self.step_member(now, standin_cluster::Input::SeatsHeard(heard));
        self.step_member(now, standin_cluster::Input::Executed(self.chain.height()));
        self.step_member(now, standin_cluster::Input::Proven(self.machine.stable()));
        if self.member.wants_stored().is_some_and(|height| self.chain.height() >= height) {
            self.store_barrier(now);
        }
        self.step_member(now, standin_cluster::Input::Tick);
        self.step(now, Input::Tick);
        if let Some((_, executed)) = self.member.furthest_mate().filter(|(_, executed)| *executed > self.chain.height())
            && self.is_active()
        {
            let status = Status { stable: executed, committed: executed, ..Status::default() };
            self.step(now, Input::StatusReceived(self.setup.seat, status));
        }
        if self.is_active() && self.setup.cluster.is_some() && self.look_up_due <= now {
            self.look_up_due = now + LOOK_UP_MS;
            self.actions.push(Action::Ask(Request::LookUp { cluster: None }));
        }
        let again = std::mem::take(&mut self.again);
        // In small batches: one with all of it might never find room.
        let mut actions = std::mem::take(&mut self.actions);
        for part in again.chunks(16) {
            actions.extend(self.submit(now, part.to_vec()));
        }
        actions
    }

    /// The log is durable up to this record.
    pub fn synced(&mut self, now: Millis, sequence: u64) -> Vec<Action> {
        self.syncing = false;
        self.disk.sync(sequence);
        self.step_member(now, standin_cluster::Input::Persisted(sequence));
        self.sync_more();
        std::mem::take(&mut self.actions)
    }

    /// The connection to another node was closed by its end.
    pub fn link_down(&mut self, now: Millis, node: NodeId) -> Vec<Action> {
        self.step_member(now, standin_cluster::Input::LinkDown(node));
        std::mem::take(&mut self.actions)
    }

    /// An operator wants the seat moved.
    pub fn resign(&mut self, now: Millis) -> Vec<Action> {
        self.step_member(now, standin_cluster::Input::Resign(None));
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
                if let Some(result) = checkpoint {
                    self.snapshots.insert(height, self.chain.snapshot());
                    self.computed.insert(height, result);
                }
                self.note_executed(now, height, checkpoint);
            }
            Err(error) => panic!("seat {} cannot execute block {height}: {error}", self.setup.seat),
        }
        std::mem::take(&mut self.actions)
    }

    /// A result is voted for when the cluster's members have agreed on it.
    fn note_executed(&mut self, now: Millis, height: Height, checkpoint: Option<CheckpointResult>) {
        self.step(now, Input::Executed { height, checkpoint });
        if let Some(result) = checkpoint {
            self.step_member(now, standin_cluster::Input::Computed(height, result.digest()));
            if self.setup.unchecked {
                self.step(now, Input::ResultAgreed(height));
            }
        }
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
        self.store_barrier(now);
        self.step(now, Input::LogFull);
        std::mem::take(&mut self.actions)
    }

    /// Makes the executed blocks durable, so that the log need not remember them.
    fn store_barrier(&mut self, now: Millis) {
        self.disk.store_barrier();
        self.step_member(now, standin_cluster::Input::Stored(self.chain.height()));
    }

    /// Something arrived from a node, which speaks for a seat if it is not of this node's cluster.
    pub fn receive(&mut self, now: Millis, from: NodeId, seat: Seat, envelope: Envelope) -> Vec<Action> {
        match envelope {
            Envelope::Signed(message) => self.take_signed(now, from, seat, message),
            Envelope::Note(note) => self.take_note(now, from, seat, note),
            Envelope::Batch(BatchPayload(payload)) => {
                if let Ok(batch) = Batch::parse(payload) {
                    self.take_batch(now, seat, batch, false);
                }
            }
            Envelope::Transfer(transfer) => self.take_transfer(now, from, seat, transfer),
            Envelope::Cluster(message, payloads) => {
                self.payloads.extend(payloads.into_iter().map(|batch| (batch.digest(), batch)));
                if let Message::Grant { grant, .. } = &*message {
                    self.note_grant(now, grant.clone());
                }
                self.step_member(now, standin_cluster::Input::Received { from, message: *message });
            }
            Envelope::Answer(answer) => self.take_answer(now, *answer),
            Envelope::Grant(grant) => self.note_grant(now, *grant),
            Envelope::WantGrant(seat, term) => {
                if let Some(grant) = self.known.grant(seat, term).cloned() {
                    self.actions.push(Action::DeliverTo(from, Envelope::Grant(Box::new(grant))));
                }
            }
        }
        std::mem::take(&mut self.actions)
    }

    fn take_signed(&mut self, now: Millis, from: NodeId, seat: Seat, message: Signed) {
        let own = self.setup.seat;
        match self.verifier().message(seat, message.clone()) {
            Ok(_) if seat == own && self.setup.cluster.is_some() => {}
            Ok(message) => {
                self.heard.insert(seat, now);
                self.step(now, Input::MessageReceived(message));
            }
            Err(error @ VerifyError::Certificate(LedgerError::UnknownGrant { .. })) => {
                if self.parked.len() < PARKED_MAX {
                    self.parked.push((from, seat, message));
                }
                self.want_grant(from, &error);
            }
            Err(VerifyError::OldTerm { seat: of, .. }) => {
                if let Some(newest) = self.known.newest(of).cloned() {
                    self.actions.push(Action::DeliverTo(from, Envelope::Grant(Box::new(newest))));
                }
            }
            Err(_) => {}
        }
    }

    /// What cannot be judged for want of a grant comes again; the grant is asked for.
    fn want_grant(&mut self, from: NodeId, error: &VerifyError) {
        if let VerifyError::Certificate(LedgerError::UnknownGrant { seat, term }) = error {
            self.actions.push(Action::DeliverTo(from, Envelope::WantGrant(*seat, *term)));
        }
    }

    fn take_answer(&mut self, now: Millis, answer: Answer) {
        if let Answer::Actives(grants) = answer {
            grants.into_iter().for_each(|grant| self.note_grant(now, grant));
            return;
        }
        let grant = match &answer {
            Answer::Granted { grant, .. } => Some(grant.clone()),
            Answer::Refused { current, .. } => current.clone(),
            Answer::Alive { newer, .. } => newer.clone(),
            Answer::Actives(_) => None,
        };
        if let Some(grant) = grant {
            self.note_grant(now, grant);
        }
        self.step_member(now, standin_cluster::Input::Answered(answer));
    }

    fn note_grant(&mut self, now: Millis, grant: SignedGrant) {
        let of_cluster = |seat: &standin_ledger::SeatDescriptor| seat.cluster == grant.grant.cluster;
        let Some(index) = self.setup.genesis.seats.iter().position(of_cluster) else { return };
        let seat = Seat(index as u16);
        let is_newest = self.known.note(seat, grant.clone());
        if seat == self.setup.seat {
            self.step_member(now, standin_cluster::Input::Granted(grant));
        } else if is_newest {
            self.step(now, Input::HolderChanged(seat));
        }
        for (from, seat, message) in std::mem::take(&mut self.parked) {
            self.take_signed(now, from, seat, message);
        }
    }

    fn verifier(&self) -> Verifier<SimulatedAuthority> {
        Verifier { authority: self.known.clone(), epoch: Epoch(0), window: self.setup.genesis.parameters.window }
    }

    fn take_note(&mut self, now: Millis, node: NodeId, from: Seat, note: Note) {
        self.heard.insert(from, now);
        let answer = match note {
            Note::Status(status) => return self.step(now, Input::StatusReceived(from, status)),
            Note::Offer(digests) => return self.step(now, Input::OfferReceived(from, digests)),
            Note::Unavailable => return self.step(now, Input::UnavailableReceived(from)),
            Note::Stable(certificate) => {
                match self.verifier().checkpoint(certificate) {
                    Ok(certificate) => self.step(now, Input::StableReceived(certificate)),
                    Err(error) => self.want_grant(node, &error),
                }
                return;
            }
            Note::FetchBatches(digests) => {
                for batch in digests.iter().filter_map(|digest| self.payloads.get(digest)) {
                    let envelope = Envelope::Batch(BatchPayload(batch.payload().clone()));
                    self.actions.push(Action::DeliverTo(node, envelope));
                }
                return;
            }
            // The simulation has envelopes for grants.
            Note::Grant(_) | Note::WantGrant(..) => return,
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
        self.actions.push(Action::DeliverTo(node, envelope));
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

    fn take_transfer(&mut self, now: Millis, node: NodeId, from: Seat, transfer: Transfer) {
        match transfer {
            Transfer::Blocks(blocks) => self.take_blocks(now, node, from, blocks),
            Transfer::Manifest(manifest) => match self.verifier().manifest(*manifest) {
                Ok(manifest) => self.step(now, Input::ManifestReceived(from, manifest)),
                Err(error) => self.want_grant(node, &error),
            },
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

    fn take_blocks(&mut self, now: Millis, node: NodeId, from: Seat, blocks: Vec<BlockTransfer>) {
        if !self.machine.awaits_blocks(from) {
            return;
        }
        let mut checked = Vec::new();
        for block in blocks {
            let (height, digest) = (block.proposal.height, block.proposal.digest());
            let certificate = match self.verifier().commit(height, digest, block.certificate) {
                Ok(certificate) => certificate,
                Err(error) => {
                    self.want_grant(node, &error);
                    break;
                }
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

    /// Steps the replica's machine and carries out what follows.
    fn step(&mut self, now: Millis, input: Input) {
        self.step_core(now, input);
        self.work_off(now);
    }

    /// Steps the member machine and carries out what follows.
    fn step_member(&mut self, now: Millis, input: standin_cluster::Input) {
        let effects = self.member.step(now, input);
        self.queue(effects);
        self.work_off(now);
    }

    fn queue(&mut self, effects: Vec<standin_cluster::Effect>) {
        self.todo.extend(standin_cluster::effect::without_void(effects));
    }

    fn step_core(&mut self, now: Millis, input: Input) {
        let effects = self.machine.step(now, input);
        let mut records = Vec::new();
        for effect in effects {
            match effect {
                Effect::Log { record, .. } => {
                    let bytes = record.to_wire().unwrap_or_else(|error| panic!("a record does not encode: {error}"));
                    records.push(Bytes::from(bytes));
                }
                other => self.carry_out(other),
            }
        }
        if !records.is_empty() {
            let effects = self.member.step(now, standin_cluster::Input::Append(records));
            self.queue(effects);
        }
    }

    fn work_off(&mut self, now: Millis) {
        self.release(now);
        while let Some(effect) = self.todo.pop_front() {
            self.carry_out_for_member(now, effect);
            self.release(now);
        }
        for input in std::mem::take(&mut self.for_member) {
            self.step_member(now, input);
        }
        self.sync_more();
    }

    fn carry_out_for_member(&mut self, now: Millis, effect: standin_cluster::Effect) {
        use standin_cluster::Effect as Of;
        match effect {
            Of::Write { sequence, record } => {
                self.disk.append(sequence, record, |digest| self.payloads.get(digest).cloned());
            }
            Of::Send { to, message } => {
                let payloads = self.payloads_of(&message);
                self.actions.push(Action::DeliverTo(to, Envelope::Cluster(Box::new(message), payloads)));
            }
            Of::Ask(request) => self.actions.push(Action::Ask(request)),
            Of::State(claim, term) => {
                let cluster = self.setup.genesis.seats[self.setup.seat.index()].cluster.clone();
                let statement = Statement { claim, cluster, term, node: self.setup.key, signature: Signature::NONE };
                let effects = self.member.step(now, standin_cluster::Input::Stated(statement));
                self.queue(effects);
            }
            Of::Follow(entry) => {
                self.step_core(now, Input::Followed { lsn: entry.lsn, record: decode(&entry.record) });
            }
            Of::Rebuild => {
                // Whoever has lost its seat tells its clients to ask elsewhere.
                self.waiting.clear();
                self.own_batches.clear();
                self.again.clear();
                self.rebuild(now);
                let results: Vec<_> = self.computed.values().copied().collect();
                for result in results {
                    self.step_core(now, Input::Executed { height: result.height, checkpoint: Some(result) });
                }
            }
            Of::Activate { writer, start } => {
                self.speak_as(writer, start);
                self.step_core(now, Input::Activated);
            }
            Of::Rebase { writer, start } => {
                self.speak_as(writer, start);
                self.step_core(now, Input::Rebased);
            }
            Of::Released { writer, lsn } => {
                if writer == self.signer.writer || self.setup.breaks(Driver::GateByNumber) {
                    let hash = self.member.entries().find(|entry| entry.lsn == lsn).map(|entry| entry.hash);
                    if let Some(hash) = hash {
                        self.actions.push(Action::Observe(Observation::Released(lsn, hash)));
                    }
                }
                let by_number = self.setup.breaks(Driver::GateByNumber);
                self.gate.released(if by_number { Writer::default() } else { writer }, lsn);
            }
            Of::Agreed(height) => self.step_core(now, Input::ResultAgreed(height)),
            Of::CutBefore(sequence) => self.disk.cut(sequence),
            Of::Report(event) => self.actions.push(Action::Observe(Observation::Member(event))),
        }
    }

    fn speak_as(&mut self, writer: Writer, start: Lsn) {
        (self.signer.writer, self.signer.start) = (writer, start);
        if !self.setup.breaks(Driver::GateByNumber) {
            self.gate = Gate::new(writer);
        }
        self.actions.push(Action::Observe(Observation::Activated(writer)));
    }

    fn payloads_of(&self, message: &Message) -> Vec<Arc<Batch>> {
        let entries = match message {
            Message::Push { entries, .. } | Message::Tail { entries, .. } => entries,
            _ => return Vec::new(),
        };
        let carried = entries.iter().filter_map(|entry| describe(&entry.record).carries.map(|(digest, _)| digest));
        carried.filter_map(|digest| self.payloads.get(&digest).cloned()).collect()
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Log { .. } => {}
            // The gate keeps order, which would hide this mutation: what does not wait overtakes what does.
            Effect::Send { to, body, after: 0 } if self.setup.core_rule() == Some(Mutation::ResendUngated) => {
                self.emit(to, body, 0);
            }
            Effect::Send { to, body, after } => self.gate.hold(to, body, after),
            Effect::Relay { to, message } => {
                self.actions.push(Action::Deliver(Recipient::One(to), Envelope::Signed(*message)));
            }
            Effect::Tell { to, note } => {
                if let (Recipient::All, Note::Status(_), Some(cluster)) = (to, &note, &self.setup.cluster) {
                    let mates = cluster.members.keys().filter(|node| **node != self.setup.id);
                    let tell = |mate: &NodeId| Action::DeliverTo(*mate, Envelope::Note(note.clone()));
                    self.actions.extend(mates.map(tell));
                }
                match to {
                    Recipient::One(seat) if seat == self.setup.seat => {
                        let furthest = || self.member.furthest_mate().map(|(mate, _)| mate);
                        let holder = self.member.holder().filter(|holder| *holder != self.setup.id);
                        if let Some(mate) = holder.or_else(furthest) {
                            self.actions.push(Action::DeliverTo(mate, Envelope::Note(note)));
                        }
                    }
                    to => self.actions.push(Action::Deliver(to, Envelope::Note(note))),
                }
            }
            Effect::Commit { proposal, certificate } => {
                self.to_execute.push_back((proposal, certificate));
                self.actions.push(Action::Execute);
            }
            Effect::Stabilize(certificate) => {
                let height = certificate.result.height;
                self.for_member.push(standin_cluster::Input::Proven(height));
                if let Some(snapshot) = self.snapshots.get(&height) {
                    self.served = Some(ServedSnapshot::new(snapshot, certificate));
                }
                self.snapshots = self.snapshots.split_off(&height.next());
                self.computed = self.computed.split_off(&height.next());
            }
            Effect::ResultBacked(result) => {
                self.for_member.push(standin_cluster::Input::Decided(result.height, result.digest()));
            }
            Effect::InstallSnapshot(snapshot, certificate) => self.install(*snapshot, certificate),
            Effect::DropBatches(digests) => self.drop_batches(&digests),
            Effect::ForgetBatches(digests) => {
                for digest in digests {
                    self.forget_payload(&digest);
                    self.own_batches.remove(&digest);
                }
            }
            Effect::Report(event) => {
                self.report_wrong(&event);
                self.actions.push(Action::Observe(Observation::Event(event)));
            }
        }
    }

    /// The auth node is told of a seat that was wrong.
    fn report_wrong(&mut self, event: &Event) {
        let Event::WrongResult { seat, result, vote, certificate } = event else { return };
        if let Some(descriptor) = self.setup.genesis.seats.get(seat.index()).filter(|_| self.setup.cluster.is_some()) {
            let cluster = descriptor.cluster.clone();
            let (result, vote, certificate) = (*result, vote.clone(), (**certificate).clone());
            let report = WrongResult { cluster, result, vote, certificate };
            self.actions.push(Action::Ask(Request::ReportWrong(Box::new(report))));
        }
    }

    /// A payload that a member may have to be given stays as long as the log that it stands in.
    fn forget_payload(&mut self, digest: &Digest) {
        if self.setup.cluster.is_none() {
            self.payloads.remove(digest);
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
            self.forget_payload(digest);
            let own = self.own_batches.remove(digest).unwrap_or_default();
            let (height, chain) = (self.chain.height(), &self.chain);
            let is_alive =
                |transaction: &Transaction| transaction.expires() > height && !chain.is_recent(&transaction.id());
            let (alive, settled): (Vec<_>, Vec<_>) = own.into_iter().partition(is_alive);
            self.again.extend(alive);
            // Ordered with another copy before: the client is told so.
            for transaction in settled {
                self.waiting.remove(&transaction.id());
            }
        }
    }

    fn release(&mut self, now: Millis) {
        while let Some(held) = self.gate.release() {
            let message = self.emit(held.to, held.body, held.after);
            if held.to == Recipient::All {
                self.step_core(now, Input::MessageReceived(message));
            }
        }
    }

    fn emit(&mut self, to: Recipient, body: Body, lsn: Lsn) -> Verified<Signed> {
        let message = sign(&self.signer, Epoch(0), body, lsn.max(self.signer.start));
        self.actions.push(Action::Observe(Observation::Emitted(Box::new(Signed::clone(&message)))));
        self.actions.push(Action::Deliver(to, Envelope::Signed(Signed::clone(&message))));
        message
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

fn logged_stable(records: &[Record]) -> Height {
    let stable = |record: &Record| match record {
        Record::Stable(certificate) => Some(certificate.result.height),
        _ => None,
    };
    records.iter().filter_map(stable).max().unwrap_or_default()
}

fn open_member(setup: &Setup, disk: &mut Disk, session: u64, now: Millis) -> Member {
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
        seats_needed: 2 * standin_ledger::certificate::faulty_max(setup.genesis.seats.len()),
        fixed: setup.cluster.is_none(),
    };
    let mutation = setup.rule.and_then(|rule| rule.member);
    Member::open_mutated(identity, cluster.config, describe, disk.found(session), now, mutation)
}

fn describe(bytes: &Bytes) -> Description {
    let record = decode(bytes);
    let carries = record.carries().map(|batch| (batch.digest(), batch.bytes));
    Description { carries, names: record.names(), base: record.base() }
}
