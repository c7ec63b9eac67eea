//! One node: the real machines, gate and chain on a simulated disk. It does what the node's actors do.

mod driving;
mod lives;
mod receiving;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use fastrand::Rng;
use standin_auth::Statement;
use standin_auth::messages::{Answer, BegunEpoch, Request, WrongResult};
use standin_cluster::machine::Description;
use standin_cluster::messages::Message;
use standin_cluster::{Member, NodeRecord};
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
use standin_ledger::grant::{Cause, Noted};
use standin_ledger::snapshot::{ServedSnapshot, Snapshot};
use standin_ledger::{Batch, Chain, EpochProof, Genesis, Proposal, SignedGrant, Transaction};

use crate::authority::{SimulatedAuthority, SimulatedSigner};
use crate::disk::{Disk, StoredBlock, decode};
use crate::network::Envelope;
use crate::rules::{Driver, Rule};
use lives::{describe, identity, open_member};

/// Blocks in one answer.
const BLOCKS_PER_ANSWER: u64 = 16;
/// An active looks up who holds the other seats at this interval, in ms.
const LOOK_UP_MS: u64 = 1_000;
/// Messages that wait for a grant.
const PARKED_MAX: usize = 256;

/// What a node wants the world to do.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "short-lived, and most of them are of the large kind")]
pub enum Action {
    /// Deliver something to other seats.
    Deliver(Recipient, Envelope),
    /// Deliver something to a node.
    DeliverTo(NodeId, Envelope),
    /// Ask the auth node.
    Ask(Request),
    /// Tell the node later that its log is durable up to here.
    Sync(u64),
    /// Tell the node later that what may wait has waited for long enough.
    SyncSoon,
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
    Released(Writer, Lsn, Digest),
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
    /// The last record of the disk that must be synced at once.
    waited_for: u64,
    /// What may wait until it is synced has a time by which it is.
    syncs_soon: bool,
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
    /// Epochs that have begun, and are not taken in yet.
    begun: Vec<EpochProof>,
    /// The life before which the disk was lost.
    wiped_in: Option<u64>,
    actions: Vec<Action>,
}

impl Node {
    /// A node of a new chain.
    pub fn new(setup: Setup) -> Self {
        let chain = Chain::new(&setup.genesis, Arc::new(Builtin));
        let machine = Machine::shadow(identity(&setup), setup.config, Millis(0));
        let known = SimulatedAuthority {
            table: setup.genesis.grant_table(),
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
            waited_for: 0,
            syncs_soon: false,
            own_batches: BTreeMap::new(),
            again: Vec::new(),
            parked: Vec::new(),
            heard: BTreeMap::new(),
            look_up_due: Millis(0),
            wrong_result: None,
            todo: VecDeque::new(),
            for_member: Vec::new(),
            begun: Vec::new(),
            wiped_in: None,
            actions: Vec::new(),
        };
        node.set_up_machine();
        node
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
        let seats = self.machine.seats();
        let heard = self.heard.iter().filter(|(seat, at)| seats.contains(**seat) && **at + 1_000 > now);
        let ages = heard.map(|(_, at)| now - *at).collect();
        let needed = self.machine.others_needed();
        self.step_member(now, standin_cluster::Input::SeatsHeard { ages, needed });
        self.step_member(now, standin_cluster::Input::Executed(self.chain.height()));
        self.step_member(now, standin_cluster::Input::Final(self.machine.status().committed));
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
        if self.setup.cluster.is_some() && self.look_up_due <= now {
            self.look_up_due = now + LOOK_UP_MS;
            self.actions.push(Action::Ask(Request::LookUp { cluster: None }));
            self.tell_own_base(now);
            self.enter_proven_epoch(now);
            let next = (1..).map(Epoch).find(|epoch| !self.disk.epochs.contains_key(epoch)).unwrap_or_default();
            self.ask_anyone(now.0 / LOOK_UP_MS, Note::FetchEpoch(next));
        }
        let again = std::mem::take(&mut self.again);
        // In small batches: one with all of it might never find room.
        let mut actions = std::mem::take(&mut self.actions);
        for part in again.chunks(16) {
            actions.extend(self.submit(now, part.to_vec()));
        }
        actions
    }

    /// Whoever begins a log anew has no other proof of the boundary.
    fn enter_proven_epoch(&mut self, now: Millis) {
        let Some(proof) = self.disk.epochs.get(&self.machine.epoch().next()) else { return };
        if let Ok(certificate) = self.verifier().checkpoint(proof.certificate().clone()) {
            self.step(now, Input::StableReceived(certificate));
        }
    }

    /// One holder, or one of the other members, after the other.
    fn ask_anyone(&mut self, round: u64, note: Note) {
        let mates = self.setup.cluster.iter().flat_map(|cluster| cluster.members.keys().copied());
        let mates: Vec<_> = mates.filter(|node| *node != self.setup.id).collect();
        let seats = self.known.table.newest_table().start().seats;
        let place = round as usize % (seats.len() + mates.len());
        self.actions.push(match place.checked_sub(seats.len()).and_then(|place| mates.get(place)) {
            Some(mate) => Action::DeliverTo(*mate, Envelope::Note(note)),
            None => {
                let seat = seats.at_turn(place as u64).unwrap_or_default();
                Action::Deliver(Recipient::One(seat), Envelope::Note(note))
            }
        });
    }

    /// The log is durable up to this record.
    pub fn synced(&mut self, now: Millis, sequence: u64) -> Vec<Action> {
        self.syncing = false;
        self.disk.sync(sequence);
        self.step_member(now, standin_cluster::Input::Persisted(sequence));
        self.sync_more();
        std::mem::take(&mut self.actions)
    }

    /// What may wait has waited for long enough.
    pub fn sync_due(&mut self) -> Vec<Action> {
        (self.syncs_soon, self.waited_for) = (false, self.disk.last());
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
        let ordered = self.chain.ordered_epoch();
        self.step(now, Input::Executed { height, checkpoint, ordered });
        match checkpoint {
            Some(_) if self.setup.unchecked => self.step(now, Input::ResultAgreed(height)),
            Some(result) => self.step_member(now, standin_cluster::Input::Computed(height, result.digest())),
            None => {}
        }
    }

    /// The snapshot is in place.
    pub fn installed(&mut self, now: Millis) -> Vec<Action> {
        // Outcomes below are not known here: clients are told so.
        self.waiting.clear();
        if let Some(certificate) = self.installing.take() {
            let epochs = self.chain.epochs();
            self.step(now, Input::SnapshotInstalled { certificate, epochs });
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
}
