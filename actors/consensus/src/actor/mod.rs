//! The replica's actor: carries the machine's effects out, and brings it what it needs to know.
//!
//! Threads: the actor's arbiter steps the machine; one thread owns the log, one owns chain and store, a bounded pool checks
//! signatures. They talk to the actor through its address only.

mod cutting;
mod directory;
mod events;
mod executor;
mod following;
mod ingress;
mod mempool;
mod misbehaviour;
mod open;
mod peers;
mod pool;
mod reports;
mod served;
mod serving;
mod signatures;
mod status;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use actix::SpawnHandle;
use standin_foundation::wire::Wire;
use standin_foundation::{Digest, Epoch, Height, Lsn, Millis, NodeId, Seat, Term};
use standin_ledger::certificate::{CommitCertificate, SeatVote};
use standin_ledger::seat_log::{FoundLog, LogPiece, SeatFact, SeatLog, SeatLogEvent};
use standin_ledger::{Batch, CheckpointResult, Genesis, StateMachine};
use standin_stage::{Address, Alarm, Ctx, Lane, Message, Remote, RemoteMessage, Reports, Role, Throttle};

pub use directory::Directory;
pub use executor::{ChainRules, ExecutionError, Ledger, LedgerReader, ReadRefused};
pub use ingress::{GrantSink, Ingress, routes};
pub use mempool::{Finished, Submit, SubmitError};
pub use misbehaviour::Misbehaviour;
pub use open::{OpenError, Storage};
pub use pool::{PoolFull, Urgency, VerifyPool};
pub use reports::{GrantKnown, HolderChanged};
pub use signatures::SignatureCheck;
pub use status::{AskStatus, Counters, Pause, ReplicaStatus, Times};

use crate::config::Config;
use crate::effect::{Effect, Event, Input, Recipient};
use crate::gate::Gate;
use crate::machine::{self, Machine};
use crate::messages::{BatchPayload, Body, Forward, Note, Signed, Transfer};
use crate::record::Record;
use crate::verify::{KeySigner, Verifier, sign};
use cutting::Barrier;
use executor::{Command, Executor};
use following::{Lacking, WaitsFor};
use mempool::Mempool;
use misbehaviour::distorted;
use open::Restoring;
use reports::{Report, to_replica};

/// A seat counts as heard for so long.
const HEARD_WITHIN: Duration = Duration::from_secs(1);
/// How often the log is told when each was heard, while they speak.
const HEARD_TOLD_EVERY: Duration = Duration::from_millis(50);

impl Message for Signed {
    type Reply = ();
    const LANE: Lane = Lane::Control;
}

impl RemoteMessage for Signed {}

impl Message for Note {
    type Reply = ();
    const LANE: Lane = Lane::Control;
}

impl RemoteMessage for Note {}

impl Message for BatchPayload {
    type Reply = ();
    const LANE: Lane = Lane::Ordinary;
}

impl RemoteMessage for BatchPayload {}

impl Message for Forward {
    type Reply = ();
    const LANE: Lane = Lane::Ordinary;
}

impl RemoteMessage for Forward {}

impl Message for Transfer {
    type Reply = ();
    const LANE: Lane = Lane::Bulk;
}

impl RemoteMessage for Transfer {}

/// What a replica is made of.
pub struct ReplicaConfig {
    /// The chain's beginning.
    pub genesis: Genesis,
    /// The seat's signer.
    pub signer: KeySigner,
    /// The machine's configuration.
    pub consensus: Config,
    /// Where its data lies.
    pub storage: Storage,
    /// The log is cut when it has grown to this many bytes.
    pub log_bytes_max: u64,
    /// What transactions do.
    pub state_machine: Arc<dyn StateMachine>,
    /// The other nodes.
    pub directory: Directory,
    /// How it misbehaves, on a chain of a drill.
    pub misbehaviour: Option<Misbehaviour>,
    /// Told of everything that the machine reports. It must not block.
    pub on_event: Box<dyn Fn(&Event) + Send + Sync>,
    /// Told of the first block that carries the vote of a holder that took over: its term, the block's height, and the time since it began
    /// to speak, in ms.
    pub on_first_block: Box<dyn Fn(Term, Height, u64) + Send + Sync>,
    /// Told of every block that was executed, and of a snapshot that was installed: up to where. It must not block.
    pub on_executed: Box<dyn Fn(Height) + Send + Sync>,
    /// Called when an epoch is known that was not: others hold seats in it, and its messages can be judged.
    pub on_epoch: Box<dyn Fn() + Send + Sync>,
    /// Called once when the replica must not go on; the node stops.
    pub on_fatal: Box<dyn Fn(String) + Send + Sync>,
}

impl std::fmt::Debug for ReplicaConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplicaConfig").field("seat", &self.signer.seat).finish_non_exhaustive()
    }
}

/// The actor.
pub struct Replica {
    machine: Machine,
    restoring: Restoring,
    /// Why what the log says has to wait, and what it has said since.
    waits_for: Option<WaitsFor>,
    backlog: VecDeque<SeatLogEvent>,
    /// What was asked for in vain.
    given_up: BTreeSet<Lacking>,
    gate: Gate,
    config: ReplicaConfig,
    log: Option<Box<dyn SeatLog>>,
    executor: Executor,
    reports: Reports<Report>,
    payloads: BTreeMap<Digest, Arc<Batch>>,
    mempool: Mempool,
    started: Instant,
    alarm: Alarm,
    flush_timer: Option<SpawnHandle>,
    status_due: Millis,
    released: Lsn,
    log_bytes: u64,
    barrier: Barrier,
    /// The stable checkpoint at the last cut: before the next one there is nothing more to drop.
    cut_at: Height,
    counters: Counters,
    times: Times,
    /// Of what other seats do.
    warnings: Throttle,
    /// Answers to each node that are under way.
    serving: BTreeMap<NodeId, Arc<AtomicUsize>>,
    /// Own results that are not proven.
    computed: BTreeMap<Height, CheckpointResult>,
    /// When each other seat was last heard.
    heard: BTreeMap<Seat, Instant>,
    heard_told: Instant,
    /// The newest epoch of which this replica has told those who wait for it.
    epoch_told: Epoch,
    /// A member of the cluster that has executed more than this node.
    mate_ahead: Option<NodeId>,
    /// When this node began to speak, until the first block that carries its vote.
    began_to_speak: Option<Instant>,
    /// It listens, and says nothing to other seats: as if its links lost everything, which the protocol is made for.
    paused: bool,
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica").field("seat", &self.config.signer.seat).finish_non_exhaustive()
    }
}

impl Replica {
    /// Opens the store, and starts the executor. The actor itself is started by its cell; it speaks when its log says so.
    pub fn open(config: ReplicaConfig, found: FoundLog, address: &Address<Self>) -> Result<Self, OpenError> {
        let restoring = Restoring::new(&config.genesis, config.signer.seat, config.consensus);
        let book = &config.directory.book;
        let opened = open::open(&config.storage, &config.genesis, book, &config.state_machine, found)?;
        let reports = Reports::default();
        let report_ledger = to_replica(&reports, address);
        let machine = Arc::clone(&config.state_machine);
        let genesis = config.genesis.clone();
        let report = move |report| report_ledger(Report::Ledger(report));
        let book = Arc::clone(&config.directory.book);
        let executor = Executor::start(opened.ledger, genesis, machine, book, report)?;
        Ok(Self {
            machine: restoring.blank(&opened.stored),
            restoring,
            waits_for: Some(WaitsFor::Judgement(Box::new((opened.log, opened.stored)), None)),
            backlog: VecDeque::new(),
            given_up: BTreeSet::new(),
            gate: Gate::default(),
            log: None,
            executor,
            reports,
            payloads: BTreeMap::new(),
            mempool: Mempool::default(),
            started: Instant::now(),
            alarm: Alarm::default(),
            flush_timer: None,
            status_due: Millis(0),
            released: 0,
            log_bytes: 0,
            barrier: Barrier::default(),
            cut_at: Height(0),
            counters: Counters::default(),
            times: Times::default(),
            warnings: Throttle::default(),
            serving: BTreeMap::new(),
            computed: opened.results.into_iter().map(|result| (result.height, result)).collect(),
            heard: BTreeMap::new(),
            heard_told: Instant::now(),
            epoch_told: Epoch(0),
            mate_ahead: None,
            began_to_speak: None,
            paused: false,
            config,
        })
    }

    /// Takes what happens to the seat's log, without loss.
    pub fn log_sink(&self, address: &Address<Self>) -> impl Fn(SeatLogEvent) + Send + use<> {
        let report = to_replica(&self.reports, address);
        move |event| report(Report::Log(event))
    }

    /// Gives the replica its log. Without one it can say nothing.
    #[must_use]
    pub fn with_log(self, log: Box<dyn SeatLog>) -> Self {
        Self { log: Some(log), ..self }
    }

    /// Reads of chain and store.
    pub fn reader(&self) -> LedgerReader {
        self.executor.reader()
    }

    fn speaks(&self) -> bool {
        self.machine.role() == machine::Role::Active && !self.machine.is_halted() && !self.is_rebuilding()
    }

    fn now(&self) -> Millis {
        Millis(self.started.elapsed().as_millis() as u64)
    }

    fn note_heard(&mut self, seat: Seat) {
        if seat == self.config.directory.seat {
            return;
        }
        let before = self.heard.insert(seat, Instant::now());
        let is_new = before.is_none_or(|at| at.elapsed() >= HEARD_WITHIN);
        if is_new || self.heard_told.elapsed() >= HEARD_TOLD_EVERY {
            self.tell_seats_heard();
        }
    }

    fn tell_seats_heard(&mut self) {
        self.heard_told = Instant::now();
        let seats = self.machine.seats();
        let heard = self.heard.iter().filter(|(seat, _)| seats.contains(**seat)).map(|(_, at)| at.elapsed());
        let ages = heard.filter(|age| *age < HEARD_WITHIN);
        let (ages, needed) = (ages.map(|age| age.as_millis() as u64).collect(), self.machine.others_needed());
        self.tell_log(SeatFact::SeatsHeard { ages, needed });
    }

    fn tell_log(&self, fact: SeatFact) {
        if let Some(log) = &self.log {
            log.tell(fact);
        }
    }

    fn step(&mut self, input: Input, ctx: &mut Ctx<Self>) {
        if !self.is_rebuilding() {
            let effects = self.machine.step(self.now(), input);
            self.carry_out_all(effects);
            self.release();
        }
        self.set_timer(ctx);
    }

    fn carry_out_all(&mut self, effects: Vec<Effect>) {
        let mut pieces = Vec::new();
        for effect in effects {
            match effect {
                Effect::Log { record, .. } => pieces.extend(self.piece(&record)),
                effect => self.carry_out(effect),
            }
        }
        if let Some(log) = self.log.as_ref().filter(|_| !pieces.is_empty()) {
            log.append(self.config.signer.writer, pieces);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            // Handed in together, before anything else of the step.
            Effect::Log { .. } => {}
            Effect::Send { to, epoch, body, after } => self.gate.hold(to, epoch, body, after),
            Effect::Relay { to, message } => self.send_to(to, &*message),
            Effect::Tell { to, note } => self.tell_note(to, &note),
            Effect::Commit { proposal, certificate } => {
                self.tell_first_block(&certificate);
                let names = proposal.batches.iter().map(|batch| batch.digest());
                let batches = names.filter_map(|name| self.payloads.get(&name).cloned()).collect();
                self.executor.send(Command::Execute { proposal, certificate, batches });
            }
            Effect::Stabilize(certificate) => {
                let height = certificate.result.height;
                self.computed = self.computed.split_off(&height.next());
                self.tell_log(SeatFact::Proven(height));
                self.executor.send(Command::Certify(certificate));
            }
            Effect::ResultBacked(result) => self.tell_log(SeatFact::Decided(result.height, result.digest())),
            Effect::InstallSnapshot(snapshot, certificate) => {
                self.executor.send(Command::Install(snapshot, certificate));
            }
            Effect::DropBatches(digests) => {
                let dropped = digests.iter().filter_map(|digest| self.payloads.remove(digest));
                self.mempool.batches_dropped(dropped);
            }
            Effect::ForgetBatches(digests) => {
                for digest in digests {
                    self.payloads.remove(&digest);
                }
            }
            Effect::Report(event) => self.report(event),
        }
    }

    /// The last step of a hand-over: a block is final by this holder's vote, among others.
    fn tell_first_block(&mut self, certificate: &CommitCertificate) {
        let (seat, term) = (self.config.signer.seat, self.config.signer.writer.term);
        let is_own = |vote: &SeatVote| vote.seat == seat && vote.term == term;
        if self.began_to_speak.is_some() && self.speaks() && certificate.votes.iter().any(is_own) {
            let ms = self.began_to_speak.take().map_or(0, |began| began.elapsed().as_millis() as u64);
            tracing::info!(height = certificate.height.0, ms, "first block");
            (self.config.on_first_block)(term, certificate.height, ms);
        }
    }

    fn piece(&mut self, record: &Record) -> Option<LogPiece> {
        if record.base().is_some() {
            self.barrier.cuts = false;
        }
        let payload = record.carries().and_then(|batch| self.payloads.get(&batch.digest()).cloned());
        match record.to_wire() {
            Ok(bytes) => Some(LogPiece { record: bytes.into(), payload }),
            Err(error) => {
                self.fatal(format!("a record cannot be written: {error}"));
                None
            }
        }
    }

    /// Lets out what is released by now. Own messages come back as inputs, whose effects may let out more.
    fn release(&mut self) {
        while let Some(mut held) = self.gate.release() {
            let Directory { book, seat, .. } = &self.config.directory;
            if !book.counts_in(held.epoch, *seat, self.config.signer.writer.term) {
                // Nobody would count it.
                continue;
            }
            if let (Some(Misbehaviour::WrongVote), Body::Checkpoint(result)) =
                (self.config.misbehaviour, &mut held.body)
            {
                *result = distorted(*result);
            }
            let lsn = held.after.max(self.config.signer.start);
            let message = sign(&self.config.signer, held.epoch, held.body, lsn);
            match held.to {
                Recipient::One(seat) => self.send_to(seat, &*message),
                Recipient::All => {
                    self.send_to_all(&*message);
                    let effects = self.machine.step(self.now(), Input::MessageReceived(message));
                    self.carry_out_all(effects);
                }
            }
        }
    }

    /// Whoever follows says nothing that a pause could keep back, and must fetch what it lacks.
    fn is_silent(&self) -> bool {
        self.paused && self.speaks()
    }

    /// Where a seat is reached: at its holder; the own one at its holder, or at a member that has executed more.
    fn remote_of(&self, seat: Seat) -> Option<Remote> {
        let directory = &self.config.directory;
        let ahead = || self.mate_ahead.filter(|_| seat == directory.seat);
        directory.holder(seat).or_else(|| directory.node(&ahead()?))
    }

    fn send_to<M: RemoteMessage>(&self, seat: Seat, message: &M) {
        if self.is_silent() {
            return;
        }
        if let Some(remote) = self.remote_of(seat)
            && let Err(error) = remote.tell(message)
        {
            tracing::debug!(seat = seat.0, kind = M::NAME, %error, "message not sent");
        }
    }

    fn send_to_all<M: RemoteMessage>(&self, message: &M) {
        if self.is_silent() {
            return;
        }
        match message.to_wire() {
            Ok(bytes) => {
                let bytes = bytes::Bytes::from(bytes);
                let directory = &self.config.directory;
                for remote in directory.other_seats().filter_map(|seat| directory.holder(seat)) {
                    if let Err(error) = remote.tell_encoded::<M>(bytes.clone()) {
                        tracing::debug!(peer = %remote.id().short(), kind = M::NAME, %error, "message not sent");
                    }
                }
            }
            Err(error) => tracing::error!(kind = M::NAME, %error, "message cannot be encoded"),
        }
    }

    fn tell_note(&self, to: Recipient, note: &Note) {
        if let (Recipient::One(seat), Note::FetchBlocks { .. } | Note::FetchManifest) = (to, note) {
            let node = self.remote_of(seat).map(|remote| remote.id().short());
            tracing::debug!(seat = seat.0, ?node, ?note, "fetch");
        }
        match to {
            Recipient::One(seat) => self.send_to(seat, note),
            Recipient::All => {
                self.send_to_all(note);
                // The other members follow: they see from it whether they lack blocks.
                if let Note::Status(_) = note {
                    for mate in self.config.directory.mates() {
                        drop(mate.tell(note));
                    }
                }
            }
        }
    }

    fn set_timer(&mut self, ctx: &mut Ctx<Self>) {
        let machine_due = if self.is_rebuilding() { Millis(u64::MAX) } else { self.machine.deadline() };
        let (wanted, now) = (machine_due.min(self.status_due), self.now());
        self.alarm.set(wanted, now, ctx, |replica, ctx| {
            replica.alarm.rang();
            replica.take_reports(ctx);
            replica.tell_where_it_stands(ctx);
            replica.step(Input::Tick, ctx);
        });
    }

    /// Word of an epoch may have found the mailbox full, and whoever begins a log anew has no other proof of the boundary.
    fn enter_proven_epoch(&mut self, ctx: &mut Ctx<Self>) {
        let book = Arc::clone(&self.config.directory.book);
        if self.epoch_told < book.epoch() {
            self.epoch_known(book.epoch(), ctx);
        }
        if !self.speaks() {
            return;
        }
        let Some(proof) = book.epoch_proof(self.machine.epoch().next()) else { return };
        let verifier = Verifier { authority: book, window: self.config.genesis.parameters.window };
        if let Ok(certificate) = verifier.checkpoint(proof.certificate().clone()) {
            self.step(Input::StableReceived(certificate), ctx);
        }
    }

    /// The proof of the next epoch, or of one that is known from the chain alone, is asked for of one node after the other. Whoever
    /// takes part in nothing yet may be the one that the chain has named.
    fn ask_for_proof(&self) {
        let directory = &self.config.directory;
        let epoch = directory.book.unproven_epoch();
        let (connected, round) =
            (directory.connected(), self.now().0 / self.config.consensus.status_interval_ms.max(1));
        if let Some(remote) = connected.get(round as usize % connected.len().max(1)) {
            // What does not get through is asked for again.
            let _ = remote.tell(&Note::FetchEpoch(epoch));
        }
    }

    /// At an interval the log is told what it may have missed, and what waits is passed on again.
    fn tell_where_it_stands(&mut self, ctx: &mut Ctx<Self>) {
        if self.now() < self.status_due {
            return;
        }
        self.status_due = self.now() + self.config.consensus.status_interval_ms;
        self.tell_seats_heard();
        self.tell_log(SeatFact::Executed(self.machine.executed()));
        self.tell_log(SeatFact::Proven(self.machine.stable()));
        if !self.is_rebuilding() {
            self.tell_log(SeatFact::Final(self.machine.status().committed));
        }
        self.enter_proven_epoch(ctx);
        self.ask_for_proof();
        self.look_for_grant(ctx);
        self.flush_mempool(ctx);
    }
}

impl Role for Replica {
    fn started(&mut self, ctx: &mut Ctx<Self>) {
        for result in self.computed.values() {
            self.tell_log(SeatFact::Computed(result.height, result.digest()));
        }
        self.judge(ctx);
        self.take_reports(ctx);
        self.set_timer(ctx);
    }
}
