//! The replica's actor: carries the machine's effects out, and brings it what it needs to know.
//!
//! Threads: the actor's arbiter steps the machine; one thread owns the log, one owns chain and store, a bounded pool checks
//! signatures. They talk to the actor through its address only.

mod directory;
mod executor;
mod ingress;
mod mempool;
mod open;
mod peers;
mod pool;
mod served;
mod serving;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use actix::SpawnHandle;
use standin_foundation::wire::Wire;
use standin_foundation::{Digest, Height, Lsn, Millis, NodeId, Seat, Term, Writer};
use standin_ledger::error::LedgerError;
use standin_ledger::seat_log::{FoundLog, LogPiece, SeatFact, SeatLog, SeatLogEvent};
use standin_ledger::{Batch, CheckpointResult, Genesis, StateMachine};
use standin_stage::{
    Address, Alarm, Ctx, Handle, Lane, Message, Remote, RemoteMessage, Reply, Reports, Role, Throttle,
};

pub use directory::Directory;
pub use executor::{ExecutionError, Ledger, LedgerReader};
pub use ingress::{GrantSink, Ingress, routes};
pub use mempool::{Finished, Submit, SubmitError};
pub use open::{OpenError, Storage};
pub use pool::{PoolFull, Urgency, VerifyPool};

use crate::config::Config;
use crate::effect::{Effect, Event, Input, Recipient};
use crate::gate::Gate;
use crate::machine::{self, Machine};
use crate::messages::{BatchPayload, Body, Forward, Note, Signed, Status, Transfer};
use crate::record::Record;
use crate::verify::{KeySigner, sign};
use executor::{Command, Executor, ExecutorReport};
use mempool::Mempool;
use open::{DecodedLog, Restored, Restoring, Stored};

/// A seat counts as heard for so long.
const HEARD_WITHIN: Duration = Duration::from_secs(1);

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

/// How a replica of a drill misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misbehaviour {
    /// While it speaks for its seat it computes wrong results.
    WrongResult,
    /// It votes for wrong results, whatever its cluster has agreed on.
    WrongVote,
}

impl std::str::FromStr for Misbehaviour {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "wrong-result" => Ok(Self::WrongResult),
            "wrong-vote" => Ok(Self::WrongVote),
            _ => Err("`wrong-result` and `wrong-vote` are known"),
        }
    }
}

fn distorted(mut result: CheckpointResult) -> CheckpointResult {
    result.state_root = Digest::sha256_of(&[b"wrong", result.state_root.as_bytes()]);
    result
}

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
    /// Told of each seat whose result differs from a quorum's, with the evidence.
    pub on_wrong_result: Box<dyn Fn(Event) + Send + Sync>,
    /// Called once when the replica must not go on; the node stops.
    pub on_fatal: Box<dyn Fn(String) + Send + Sync>,
}

impl std::fmt::Debug for ReplicaConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplicaConfig").field("seat", &self.signer.seat).finish_non_exhaustive()
    }
}

/// Counters of a replica, for metrics.
#[derive(Debug, Default, Clone)]
pub struct Counters {
    /// Blocks executed since the start.
    pub blocks: u64,
    /// Transactions that took a place in a block since the start.
    pub transactions: u64,
    /// Views that were left.
    pub view_changes: u64,
    /// Seats that were found to contradict themselves.
    pub equivocations: u64,
    /// Results of other seats that differ from a quorum's.
    pub wrong_results: u64,
    /// Transfers that were refused.
    pub bad_transfers: u64,
    /// Times that catch-up began.
    pub catch_ups: u64,
}

/// A replica at one moment.
#[derive(Debug, Clone)]
pub struct ReplicaStatus {
    /// Its seat.
    pub seat: Seat,
    /// Whether it speaks for the seat now.
    pub speaks: bool,
    /// Where it stands.
    pub status: Status,
    /// The seat that leads its view.
    pub primary: Seat,
    /// Up to here blocks have been executed.
    pub executed: Height,
    /// Batches that wait for their order: number and bytes.
    pub pending: (usize, usize),
    /// Transactions of clients that wait for an outcome.
    pub waiting: usize,
    /// Messages that wait for the log.
    pub gated: usize,
    /// The log is released up to this record.
    pub released: Lsn,
    /// Bytes of the log.
    pub log_bytes: u64,
    /// What the other seats say of where they stand, and whether they are connected.
    pub peers: BTreeMap<Seat, (Status, bool)>,
    /// Counters.
    pub counters: Counters,
}

/// The actor.
pub struct Replica {
    machine: Machine,
    restoring: Restoring,
    /// Why what the log says has to wait, and what it has said since.
    waits_for: Option<WaitsFor>,
    backlog: VecDeque<SeatLogEvent>,
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
    /// Of what other seats do.
    warnings: Throttle,
    /// Answers to each node that are under way.
    serving: BTreeMap<NodeId, Arc<AtomicUsize>>,
    /// Own results that are not proven.
    computed: BTreeMap<Height, CheckpointResult>,
    /// When each other seat was last heard.
    heard: BTreeMap<Seat, Instant>,
    /// A member of the cluster that has executed more than this node.
    mate_ahead: Option<NodeId>,
    /// When this node began to speak, until the first block after that.
    began_to_speak: Option<Instant>,
}

/// Why what the log says has to wait.
#[derive(Debug)]
enum WaitsFor {
    /// The log is being read anew: the executor is to say what the store holds.
    Store(DecodedLog),
    /// A followed certificate cannot be judged before a grant is known. Whoever is asked for it is another one each time.
    Grant(Seat, Term, usize),
}

/// Why the store is being made durable.
#[derive(Debug, Default)]
struct Barrier {
    under_way: bool,
    /// The log is to be cut afterwards.
    cuts: bool,
    /// The log waits for blocks up to this height.
    wanted: Option<Height>,
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
        let opened = open::open(&config.storage, &config.genesis, &restoring, &config.state_machine, found)?;
        let reports = Reports::default();
        let report_ledger = to_replica(&reports, address);
        let machine = Arc::clone(&config.state_machine);
        let genesis = config.genesis.clone();
        let report = move |report| report_ledger(Report::Ledger(report));
        let executor = Executor::start(opened.ledger, genesis, machine, report)?;
        Ok(Self {
            machine: opened.machine,
            restoring,
            waits_for: None,
            backlog: VecDeque::new(),
            gate: Gate::default(),
            log: None,
            executor,
            reports,
            payloads: opened.payloads,
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
            warnings: Throttle::default(),
            serving: BTreeMap::new(),
            computed: opened.results.into_iter().map(|result| (result.height, result)).collect(),
            heard: BTreeMap::new(),
            mate_ahead: None,
            began_to_speak: None,
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
        self.machine.role() == machine::Role::Active && !self.is_rebuilding()
    }

    fn is_rebuilding(&self) -> bool {
        matches!(self.waits_for, Some(WaitsFor::Store(_)))
    }

    fn now(&self) -> Millis {
        Millis(self.started.elapsed().as_millis() as u64)
    }

    fn note_heard(&mut self, seat: Seat) {
        if seat == self.config.directory.seat {
            return;
        }
        let before = self.heard.insert(seat, Instant::now());
        if before.is_none_or(|at| at.elapsed() >= HEARD_WITHIN) {
            self.tell_seats_heard();
        }
    }

    fn tell_seats_heard(&self) {
        let heard = self.heard.values().filter(|at| at.elapsed() < HEARD_WITHIN).count();
        self.tell_log(SeatFact::SeatsHeard(heard));
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
            Effect::Send { to, body, after } => self.gate.hold(to, body, after),
            Effect::Relay { to, message } => self.send_to(to, &*message),
            Effect::Tell { to, note } => self.tell_note(to, &note),
            Effect::Commit { proposal, certificate } => {
                if let Some(began) = self.began_to_speak.take().filter(|_| self.speaks()) {
                    let (height, ms) = (proposal.height.0, began.elapsed().as_millis() as u64);
                    tracing::info!(height, ms, "first block");
                }
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
            if let (Some(Misbehaviour::WrongVote), Body::Checkpoint(result)) =
                (self.config.misbehaviour, &mut held.body)
            {
                *result = distorted(*result);
            }
            let lsn = held.after.max(self.config.signer.start);
            let message = sign(&self.config.signer, standin_foundation::Epoch(0), held.body, lsn);
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

    /// Where a seat is reached: at its holder; the own one at its holder, or at a member that has executed more.
    fn remote_of(&self, seat: Seat) -> Option<&Remote> {
        let directory = &self.config.directory;
        let ahead = || self.mate_ahead.filter(|_| seat == directory.seat);
        directory.holder(seat).or_else(|| directory.node(&ahead()?))
    }

    fn send_to<M: RemoteMessage>(&self, seat: Seat, message: &M) {
        if let Some(remote) = self.remote_of(seat)
            && let Err(error) = remote.tell(message)
        {
            tracing::debug!(seat = seat.0, kind = M::NAME, %error, "message not sent");
        }
    }

    fn send_to_all<M: RemoteMessage>(&self, message: &M) {
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
        let (wanted, now) = (self.machine.deadline().min(self.status_due), self.now());
        self.alarm.set(wanted, now, ctx, |replica, ctx| {
            replica.alarm.rang();
            replica.take_reports(ctx);
            replica.tell_where_it_stands(ctx);
            replica.step(Input::Tick, ctx);
        });
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
        self.look_for_grant(ctx);
        self.flush_mempool(ctx);
    }

    fn report(&mut self, event: Event) {
        match &event {
            Event::ViewChangeStarted { to, cause } => {
                self.counters.view_changes += 1;
                tracing::warn!(view = to.0, ?cause, "left the view");
            }
            Event::ViewEntered { view, primary } => {
                tracing::info!(view = view.0, primary = primary.0, "view began");
            }
            Event::Equivocation { seat, evidence } => {
                self.counters.equivocations += 1;
                if let Some(suppressed) = self.warnings.pass() {
                    tracing::error!(seat = seat.0, ?evidence, suppressed, "a seat contradicts itself");
                }
            }
            Event::WrongResult { seat, result, certificate, .. } => {
                self.counters.wrong_results += 1;
                if let Some(suppressed) = self.warnings.pass() {
                    let proven = certificate.result;
                    tracing::error!(
                        seat = seat.0,
                        ?result,
                        ?proven,
                        suppressed,
                        "a seat's result differs from a quorum's"
                    );
                }
                (self.config.on_wrong_result)(event);
            }
            Event::RolledBack { seat, start, seen } => {
                if let Some(suppressed) = self.warnings.pass() {
                    tracing::error!(seat = seat.0, start, seen, suppressed, "a seat's log has lost its end");
                }
            }
            Event::CatchUpStarted { target, snapshot } => {
                self.counters.catch_ups += 1;
                tracing::info!(target = target.0, snapshot, "catching up");
            }
            Event::BatchRefused { seat } => tracing::debug!(seat = seat.0, "too many batches of a seat wait"),
            Event::BadTransfer { seat } => {
                self.counters.bad_transfers += 1;
                if let Some(suppressed) = self.warnings.pass() {
                    tracing::warn!(seat = seat.0, suppressed, "a transfer does not verify");
                }
            }
            Event::Disputed { computed, voted } => {
                tracing::error!(
                    ?computed,
                    ?voted,
                    "the seat voted for another result than this node computed: it does not vote"
                );
            }
            fatal => self.fatal(format!("{fatal:?}")),
        }
    }

    fn fatal(&self, why: String) {
        tracing::error!(why, "the replica must not go on");
        (self.config.on_fatal)(why);
    }

    /// Begins to cut the log: first the store must be durable, for the log will not remember.
    fn consider_cutting(&mut self) {
        // Execution stands still meanwhile, for some hundred ms: not at all seats at one time.
        let (seat, seats) = (self.config.signer.seat.0 as u64, self.config.genesis.seats.len() as u64);
        let is_long = self.log_bytes > self.config.log_bytes_max - self.config.log_bytes_max / (2 * seats) * seat;
        if !self.barrier.cuts && is_long && self.speaks() && self.machine.stable() > self.cut_at {
            self.barrier.cuts = true;
            self.begin_barrier();
        }
    }

    /// The log, here or elsewhere in the cluster, waits for blocks to be durable in this node's store.
    fn consider_storing(&mut self) {
        if self.barrier.wanted.is_some_and(|height| height <= self.machine.executed()) {
            self.barrier.wanted = None;
            self.begin_barrier();
        }
    }

    fn begin_barrier(&mut self) {
        if !std::mem::replace(&mut self.barrier.under_way, true) {
            self.executor.send(Command::Barrier);
        }
    }

    fn barrier_done(&mut self, height: Height, ctx: &mut Ctx<Self>) {
        self.barrier.under_way = false;
        self.tell_log(SeatFact::Stored(height));
        if self.barrier.cuts && height < self.machine.stable() {
            // Blocks became stable meanwhile that the barrier did not cover.
            self.begin_barrier();
        } else if self.barrier.cuts {
            self.cut_at = self.machine.stable();
            self.barrier.cuts = self.speaks();
            self.step(Input::LogFull, ctx);
        }
    }

    fn status(&self) -> ReplicaStatus {
        let directory = &self.config.directory;
        let connected = |seat: Seat| directory.holder(seat).is_some_and(Remote::is_connected);
        let statuses = self.machine.statuses();
        let peer = |seat: Seat| (statuses.get(&seat).copied().unwrap_or_default(), connected(seat));
        ReplicaStatus {
            seat: self.config.signer.seat,
            speaks: self.speaks(),
            status: self.machine.status(),
            primary: self.machine.primary(),
            executed: self.machine.executed(),
            pending: self.machine.pending(),
            waiting: self.mempool.waiting(),
            gated: self.gate.len(),
            released: self.released,
            log_bytes: self.log_bytes,
            peers: directory.other_seats().map(|seat| (seat, peer(seat))).collect(),
            counters: self.counters.clone(),
        }
    }
}

impl Role for Replica {
    fn started(&mut self, ctx: &mut Ctx<Self>) {
        for result in self.computed.clone().into_values() {
            self.note_result(result.height, Some(result), ctx);
        }
        self.take_reports(ctx);
        self.step(Input::Tick, ctx);
    }
}

/// A way for reports that must not be lost.
fn to_replica(reports: &Reports<Report>, address: &Address<Replica>) -> impl Fn(Report) + Send + use<> {
    let (reports, address) = (reports.clone(), address.clone());
    move |report| {
        reports.push(report);
        // A full mailbox has messages with which the reports are looked at; a replica that has ended wants none.
        let _ = address.tell(ReportsWait);
    }
}

/// What the replica's own threads say, and its log.
#[derive(Debug)]
enum Report {
    /// The seat's log says what became of it.
    Log(SeatLogEvent),
    /// The executor says what it has done.
    Ledger(ExecutorReport),
}

/// There are reports.
#[derive(Debug)]
struct ReportsWait;

impl Message for ReportsWait {
    type Reply = ();
    const LANE: Lane = Lane::Control;
}

impl Handle<ReportsWait> for Replica {
    fn handle(&mut self, _: ReportsWait, _: Reply<()>, ctx: &mut Ctx<Self>) {
        self.take_reports(ctx);
    }
}

/// A seat, the own one or another, has a new holder.
#[derive(Debug)]
pub struct HolderChanged(pub Seat);

impl Message for HolderChanged {
    type Reply = ();
    const LANE: Lane = Lane::Control;
}

impl Handle<HolderChanged> for Replica {
    fn handle(&mut self, HolderChanged(seat): HolderChanged, _: Reply<()>, ctx: &mut Ctx<Self>) {
        self.take_reports(ctx);
        self.look_for_grant(ctx);
        if seat == self.config.directory.seat {
            self.mempool.begin_anew();
            self.flush_mempool(ctx);
        } else {
            self.step(Input::HolderChanged(seat), ctx);
        }
    }
}

/// A grant is known that was not.
#[derive(Debug)]
pub struct GrantKnown;

impl Message for GrantKnown {
    type Reply = ();
    const LANE: Lane = Lane::Control;
}

impl Handle<GrantKnown> for Replica {
    fn handle(&mut self, _: GrantKnown, _: Reply<()>, ctx: &mut Ctx<Self>) {
        self.look_for_grant(ctx);
    }
}

impl Replica {
    fn take_reports(&mut self, ctx: &mut Ctx<Self>) {
        while let Some(report) = self.reports.take() {
            match report {
                Report::Log(event) => self.log_reported(event, ctx),
                Report::Ledger(report) => self.ledger_reported(report, ctx),
            }
        }
    }

    fn log_reported(&mut self, event: SeatLogEvent, ctx: &mut Ctx<Self>) {
        if self.waits_for.is_some() {
            self.backlog.push_back(event);
            return;
        }
        match event {
            SeatLogEvent::Activated { writer, start } => self.activate(writer, start, ctx),
            SeatLogEvent::Rebased { writer, start } => {
                self.speak_as(writer, start);
                self.step(Input::Rebased, ctx);
            }
            SeatLogEvent::Released { writer, lsn } => {
                self.released = lsn;
                self.gate.released(writer, lsn);
                self.release();
                self.set_timer(ctx);
            }
            SeatLogEvent::Followed { lsn, piece } => self.follow(lsn, piece, ctx),
            SeatLogEvent::Rebuild(found) => self.begin_rebuild(found),
            SeatLogEvent::Agreed(height) => self.step(Input::ResultAgreed(height), ctx),
            SeatLogEvent::WantsStored(height) => {
                self.barrier.wanted = Some(height);
                self.consider_storing();
            }
            SeatLogEvent::MateAhead { node, executed } => self.note_mate(node, executed, ctx),
            SeatLogEvent::Grown(bytes) => {
                self.log_bytes = bytes;
                self.consider_cutting();
            }
            SeatLogEvent::Failed(why) => self.fatal(why),
        }
    }

    fn speak_as(&mut self, writer: Writer, start: Lsn) {
        (self.config.signer.writer, self.config.signer.start) = (writer, start);
        self.gate = Gate::new(writer);
    }

    /// Speaks for the seat from now on.
    fn activate(&mut self, writer: Writer, start: Lsn, ctx: &mut Ctx<Self>) {
        self.speak_as(writer, start);
        self.began_to_speak = Some(Instant::now());
        self.step(Input::Activated, ctx);
        self.mempool.begin_anew();
        self.flush_mempool(ctx);
    }

    fn follow(&mut self, lsn: Lsn, piece: LogPiece, ctx: &mut Ctx<Self>) {
        let record = match Record::from_wire(&piece.record) {
            Ok(record) => record,
            Err(error) => return self.fatal(format!("record {lsn} of the seat's log is of no known kind: {error}")),
        };
        match self.check_followed(&record) {
            Ok(()) => {
                self.payloads.extend(piece.payload.map(|batch| (batch.digest(), batch)));
                self.step(Input::Followed { lsn, record }, ctx);
            }
            Err(LedgerError::UnknownGrant { seat, term }) => {
                self.backlog.push_front(SeatLogEvent::Followed { lsn, piece });
                self.waits_for = Some(WaitsFor::Grant(seat, term, 0));
                self.look_for_grant(ctx);
            }
            Err(error) => {
                self.fatal(format!("record {lsn} of the seat's log proves nothing, its holder is faulty: {error}"));
            }
        }
    }

    /// A member takes its holder's word for what the seat has said, and for nothing else: what is final or stable must be
    /// proven to it as to anyone.
    fn check_followed(&self, record: &Record) -> Result<(), LedgerError> {
        let book = &self.config.directory.book;
        match record {
            Record::Committed { proposal, certificate } => {
                let is_for_it = certificate.digest == proposal.digest() && certificate.height == proposal.height;
                if !is_for_it {
                    return Err(LedgerError::BadSignature { what: "a block's certificate for another proposal" });
                }
                certificate.verify(book)
            }
            Record::Stable(certificate) => certificate.verify(book),
            _ => Ok(()),
        }
    }

    /// Goes on where a grant was missing, or asks another node for it.
    fn look_for_grant(&mut self, ctx: &mut Ctx<Self>) {
        let Some(WaitsFor::Grant(seat, term, attempt)) = self.waits_for else { return };
        let directory = &self.config.directory;
        if directory.book.lacks(seat, term) {
            let connected: Vec<_> = directory.remotes.values().filter(|remote| remote.is_connected()).collect();
            if let Some(remote) = connected.get(attempt % connected.len().max(1)) {
                // Whoever is asked next time is another one.
                let _ = remote.tell(&Note::WantGrant(seat, term));
            }
            self.waits_for = Some(WaitsFor::Grant(seat, term, attempt + 1));
        } else {
            self.waits_for = None;
            self.take_backlog(ctx);
        }
    }

    fn take_backlog(&mut self, ctx: &mut Ctx<Self>) {
        while self.waits_for.is_none()
            && let Some(event) = self.backlog.pop_front()
        {
            self.log_reported(event, ctx);
        }
    }

    /// A member that has executed more can be asked for blocks, as any other seat could.
    fn note_mate(&mut self, node: NodeId, executed: Height, ctx: &mut Ctx<Self>) {
        self.mate_ahead = Some(node);
        if self.speaks() && executed > self.machine.executed() {
            let status = Status { stable: executed, committed: executed, ..Status::default() };
            self.step(Input::StatusReceived(self.config.directory.seat, status), ctx);
        }
    }

    /// The log is another one: the machine is built anew from it, and from what the store holds once everything that was
    /// handed to the executor is done.
    fn begin_rebuild(&mut self, found: FoundLog) {
        self.gate = Gate::default();
        match DecodedLog::read(found) {
            Ok(log) => {
                self.executor.send(Command::Look(log.stable()));
                self.waits_for = Some(WaitsFor::Store(log));
            }
            Err(error) => self.fatal(error.to_string()),
        }
    }

    fn finish_rebuild(&mut self, stored: Stored, ctx: &mut Ctx<Self>) {
        let Some(WaitsFor::Store(log)) = self.waits_for.take() else { return };
        match self.restoring.restore(log, stored, self.now()) {
            Ok(Restored { machine, payloads }) => (self.machine, self.payloads) = (machine, payloads),
            Err(error) => return self.fatal(error.to_string()),
        }
        for result in self.computed.clone().into_values() {
            self.step(Input::Executed { height: result.height, checkpoint: Some(result) }, ctx);
        }
        self.step(Input::Tick, ctx);
        self.take_backlog(ctx);
    }

    /// A result is voted for when all members have computed the same.
    fn note_result(&mut self, height: Height, checkpoint: Option<CheckpointResult>, ctx: &mut Ctx<Self>) {
        self.step(Input::Executed { height, checkpoint }, ctx);
        if let Some(result) = checkpoint {
            self.tell_log(SeatFact::Computed(height, result.digest()));
        }
    }

    fn ledger_reported(&mut self, report: ExecutorReport, ctx: &mut Ctx<Self>) {
        match report {
            ExecutorReport::Executed { height, checkpoint, receipts } => {
                self.counters.blocks += 1;
                self.counters.transactions += receipts.len() as u64;
                self.mempool.executed(height, receipts);
                let wrong = self.config.misbehaviour == Some(Misbehaviour::WrongResult) && self.speaks();
                let checkpoint = if wrong { checkpoint.map(distorted) } else { checkpoint };
                self.computed.extend(checkpoint.map(|result| (height, result)));
                self.note_result(height, checkpoint, ctx);
                self.consider_storing();
                self.flush_mempool(ctx);
            }
            ExecutorReport::Installed(certificate) => {
                self.mempool.skipped_to(certificate.result.height);
                self.step(Input::SnapshotInstalled(certificate), ctx);
                self.consider_storing();
                self.flush_mempool(ctx);
            }
            ExecutorReport::BarrierDone(height) => self.barrier_done(height, ctx),
            ExecutorReport::Looked(stored) => self.finish_rebuild(stored, ctx),
            ExecutorReport::Failed(error) => self.fatal(error.to_string()),
        }
    }
}

/// Asks how the replica stands.
#[derive(Debug)]
pub struct AskStatus;

impl Message for AskStatus {
    type Reply = ReplicaStatus;
    const LANE: Lane = Lane::Control;
}

impl Handle<AskStatus> for Replica {
    fn handle(&mut self, _: AskStatus, reply: Reply<ReplicaStatus>, _: &mut Ctx<Self>) {
        reply.send(self.status());
    }
}
