//! The PBFT machine: inputs and time in, effects out. No clock, randomness, I/O, threads or unordered iteration.
//!
//! Source: Castro and Liskov, "Practical Byzantine Fault Tolerance and Proactive Recovery" (TOCS 2002), section 4, with
//! these deviations: proposals name batches instead of holding requests; own messages count only when they come back
//! through the gate; certificates are transferable, so commits can be learned in any view; a view-change joins on f+1;
//! time-outs are bounded.

mod catch_up;
mod checkpoint;
mod epochs;
mod ordering;
mod pool;
mod proposing;
mod recovery;
mod shadow;
mod slot;
mod status;
mod succession;
#[cfg(test)]
mod tests;
mod view_change;

use std::collections::{BTreeMap, BTreeSet};

use standin_foundation::{Digest, Epoch, Height, Lsn, Millis, Seat, Seats, View, Writer};
use standin_ledger::Parameters;
use standin_ledger::certificate::{self, CheckpointCertificate};
use standin_ledger::epoch::{EpochStart, Epochs};

use crate::config::Config;
use crate::effect::{Effect, Event, Input, Recipient};
use crate::messages::{Body, NewView, Note, Signed, Status, ViewChange};
use crate::mutation::Mutation;
use crate::record::Record;
use crate::verify::primary_of;

use catch_up::CatchUp;
use checkpoint::Checkpoints;
use pool::Pool;
use slot::Slot;

pub use recovery::Remains;
pub use slot::SlotView;

/// What a machine must know of its chain.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// Its seat.
    pub seat: Seat,
    /// The seats of the genesis.
    pub seats: Seats,
    /// The chain's parameters.
    pub parameters: Parameters,
}

/// What a machine is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It speaks for its seat.
    Active,
    /// It follows the log of its seat's holder, executes what is final, and says nothing. Where it must ask for something, it
    /// asks its own seat: the holder.
    Shadow,
}

/// What has been seen of another seat's log.
#[derive(Debug, Clone, Default)]
struct SeenLog {
    writer: Writer,
    highest: Lsn,
    /// This writer's log had lost its end.
    rolled_back: bool,
    /// Where the newest writers began, up to [`WRITERS_MAX`] of them.
    starts: BTreeMap<Writer, Lsn>,
}

/// Writers of one seat that are remembered: an image of a disk that is older than so many hand-overs and restarts is known by its old
/// terms alone.
const WRITERS_MAX: usize = 16;

/// In a view, or between two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Taking part in the current view.
    Normal,
    /// Has left all views below this one, and waits for it to begin.
    Changing(View),
}

/// A replica of one seat.
///
/// Invariants, each checked by the simulator after every event: a slot gets at most one accepted proposal a view; a commit
/// is sent only with a prepared certificate in the log; no vote is cast in a view below one that a view-change named;
/// `executed ≤ delivered`; and `stable ≤ executed`, but at a new holder whose log is ahead of its store.
#[derive(Debug)]
pub struct Machine {
    identity: Identity,
    config: Config,
    mutation: Option<Mutation>,
    role: Role,

    /// Where the epoch began that this replica votes in.
    start: EpochStart,
    /// The newest epoch that the log says its records are of.
    logged_epoch: Epoch,
    /// The newest checkpoint that the log says to be stable.
    logged_stable: Height,
    /// Where epochs begin, as far as has been executed.
    epochs: Epochs,
    /// The newest epoch whose table is durable here.
    known: Epoch,
    /// Messages of the next epoch.
    early: Vec<Signed>,
    view: View,
    mode: Mode,
    /// The message that began the current view; none in view 0.
    new_view: Option<Signed>,
    /// What the current view must propose again, by slot.
    required: BTreeMap<Height, Digest>,
    /// The stable checkpoint that the current view began with: nothing is proposed again at or below it.
    view_floor: Height,
    /// Newest view-change of each seat.
    view_changes: BTreeMap<Seat, Signed>,
    /// Since when a seat's newest view-change is above our view.
    waiting_since: BTreeMap<Seat, Millis>,
    /// When others were last joined for the sake of one seat.
    rejoined_at: BTreeMap<Seat, Millis>,
    /// The own view-change that is in the log.
    own_view_change: Option<ViewChange>,

    slots: BTreeMap<Height, Slot>,
    /// Final blocks that the store has and the log has not.
    unlogged: BTreeSet<Height>,
    /// Up to here commits went out to execution, without a gap.
    delivered: Height,
    executed: Height,
    checkpoints: Checkpoints,
    pool: Pool,
    catch_up: CatchUp,
    /// Counts rounds of asking for payloads again, to ask another seat each time.
    fetch_round: usize,
    statuses: BTreeMap<Seat, Status>,
    /// What has been seen of the other seats' logs.
    seen: BTreeMap<Seat, SeenLog>,
    /// Seats with a new holder that has not said where it stands.
    fresh_holders: BTreeSet<Seat>,
    /// The view in which the timer was restarted for a new holder of the primary's seat.
    spared_view: Option<View>,
    /// When each seat was last helped after its status.
    helped_at: BTreeMap<Seat, Millis>,
    /// When batches were last ordered a second time for a seat.
    again_at: BTreeMap<Seat, Millis>,

    next_lsn: Lsn,
    /// The newest record that something may wait for: see [`Record::may_wait`].
    binding_lsn: Lsn,
    /// How long a proposal takes from being accepted here until it is handed to execution, smoothed, in eighths of a ms.
    commit_eighths: u64,
    now: Millis,
    /// What the Unix clock showed, in ms, when `now` was zero.
    unix_ms_at_zero: u64,
    /// Views that failed since the last commit.
    failed_views: u32,
    view_deadline: Option<Millis>,
    status_due: Millis,
    idle_since: Millis,
    halted: bool,
    effects: Vec<Effect>,
}

impl Machine {
    /// A shadow of a new chain.
    pub fn shadow(identity: Identity, config: Config, now: Millis) -> Self {
        Self { role: Role::Shadow, ..Self::new(identity, config, now) }
    }

    /// A replica of a new chain that speaks for its seat.
    pub fn new(identity: Identity, config: Config, now: Millis) -> Self {
        Self {
            identity,
            config,
            mutation: None,
            role: Role::Active,
            start: EpochStart::genesis(identity.seats),
            logged_epoch: Epoch(0),
            logged_stable: Height(0),
            epochs: Epochs::default(),
            known: Epoch(0),
            early: Vec::new(),
            view: View(0),
            mode: Mode::Normal,
            new_view: None,
            required: BTreeMap::new(),
            view_floor: Height(0),
            view_changes: BTreeMap::new(),
            waiting_since: BTreeMap::new(),
            rejoined_at: BTreeMap::new(),
            own_view_change: None,
            slots: BTreeMap::new(),
            unlogged: BTreeSet::new(),
            delivered: Height(0),
            executed: Height(0),
            checkpoints: Checkpoints::default(),
            pool: Pool::default(),
            catch_up: CatchUp::default(),
            fetch_round: 0,
            statuses: BTreeMap::new(),
            seen: BTreeMap::new(),
            fresh_holders: BTreeSet::new(),
            spared_view: None,
            helped_at: BTreeMap::new(),
            again_at: BTreeMap::new(),
            next_lsn: 1,
            binding_lsn: 0,
            commit_eighths: 0,
            now,
            unix_ms_at_zero: 0,
            failed_views: 0,
            view_deadline: None,
            status_due: now,
            idle_since: now,
            halted: false,
            effects: Vec::new(),
        }
    }

    /// Switches one rule off, to see whether the tests notice. A chain must never run with it.
    #[cfg(feature = "mutations")]
    pub fn mutate(&mut self, mutation: Mutation) {
        self.mutation = Some(mutation);
    }

    /// Tells the machine a fact; what must be done about it comes back, in order.
    pub fn step(&mut self, now: Millis, input: Input) -> Vec<Effect> {
        self.note_pause(now);
        self.now = self.now.max(now);
        if !self.halted {
            match self.role {
                Role::Shadow => self.take_as_shadow(input),
                Role::Active => self.take(input),
            }
            if self.role == Role::Active {
                self.propose();
                self.set_view_timer();
            }
        }
        std::mem::take(&mut self.effects)
    }

    /// Tells what the Unix clock showed, in ms, when the machine's time was zero. Proposals carry it; nothing depends on it.
    pub fn set_unix_ms_at_zero(&mut self, unix_ms_at_zero: u64) {
        self.unix_ms_at_zero = unix_ms_at_zero;
    }

    /// When the machine wants to be told [`Input::Tick`] at the latest. A halted machine wants nothing any more.
    pub fn deadline(&self) -> Millis {
        if self.halted {
            return Millis(u64::MAX);
        }
        [self.view_deadline, self.linger_deadline(), self.catch_up.deadline()]
            .into_iter()
            .flatten()
            .fold(self.status_due, Millis::min)
    }

    /// Where the replica stands.
    pub fn status(&self) -> Status {
        Status {
            epoch: self.start.epoch,
            view: self.view,
            changing_to: match self.mode {
                Mode::Normal => None,
                Mode::Changing(view) => Some(view),
            },
            stable: self.stable(),
            committed: self.delivered,
        }
    }

    /// The newest places in the order, for people; the highest last.
    pub fn newest_slots(&self, count: usize) -> Vec<SlotView> {
        let newest = self.slots.iter().rev().take(count).map(|(height, slot)| slot.seen(*height));
        let mut newest: Vec<_> = newest.collect();
        newest.reverse();
        newest
    }

    /// What the other seats last said of where they stand.
    pub fn statuses(&self) -> &BTreeMap<Seat, Status> {
        &self.statuses
    }

    /// The seat that leads the current view.
    pub fn primary(&self) -> Seat {
        primary_of(self.view, self.start.seats)
    }

    /// Up to here blocks have been executed.
    pub fn executed(&self) -> Height {
        self.executed
    }

    /// Height of the last stable checkpoint.
    pub fn stable(&self) -> Height {
        self.checkpoints.stable_height()
    }

    /// The proof of the last stable checkpoint; none at genesis.
    pub fn stable_certificate(&self) -> Option<&CheckpointCertificate> {
        self.checkpoints.stable()
    }

    /// Number and bytes of the batches that wait for their order.
    pub fn pending(&self) -> (usize, usize) {
        (self.pool.len(), self.pool.bytes())
    }

    /// Bytes of this seat's own batches that wait for their order.
    pub fn own_pending_bytes(&self) -> usize {
        self.pool.bytes_of(self.identity.seat)
    }

    /// The seats that vote in the replica's epoch.
    pub fn seats(&self) -> Seats {
        self.start.seats
    }

    /// How many other seats must be heard for a quorum to be near, whoever of them is faulty: 2f.
    pub fn others_needed(&self) -> usize {
        2 * self.faulty_max()
    }

    /// Whether the replica stopped because going on could do harm.
    pub fn is_halted(&self) -> bool {
        self.halted
    }

    /// What the machine is for.
    pub fn role(&self) -> Role {
        self.role
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Tick => self.on_tick(),
            Input::MessageReceived(message) => self.on_message(message.into_inner()),
            Input::StatusReceived(from, status) => self.on_status(from, status),
            Input::OfferReceived(from, digests) => self.on_offer(from, &digests),
            Input::BatchReceived { from, batch, needed } => self.on_batch(from, batch, needed),
            Input::BlocksReceived { from, blocks } => self.on_blocks(from, blocks),
            Input::UnavailableReceived(from) => self.on_unavailable(from),
            Input::StableReceived(certificate) => self.on_stable_certificate(certificate.into_inner()),
            Input::ManifestReceived(from, manifest) => self.on_manifest(from, manifest.into_inner()),
            Input::ChunkReceived { from, height, index, chunk } => self.on_chunk(from, height, index, chunk),
            Input::Executed { height, checkpoint, ordered } => self.on_executed(height, checkpoint, ordered),
            Input::ResultAgreed(height) => self.on_result_agreed(height),
            Input::SnapshotInstalled { certificate, epochs } => self.on_snapshot_installed(certificate, &epochs),
            Input::EpochKnown(epoch) => self.on_epoch_known(epoch),
            Input::LogFull => self.on_log_full(),
            Input::Rebased => {
                // All that the log held when the term began is said to stand before what is sent in it: that waits for all of it.
                if self.mutation != Some(Mutation::ClaimEarly) {
                    self.binding_lsn = self.next_lsn - 1;
                }
                self.send_all_again();
            }
            Input::HolderChanged(seat) => self.on_holder_changed(seat),
            Input::Followed { .. } | Input::Activated => {}
        }
    }

    fn on_message(&mut self, message: Signed) {
        if message.epoch != self.start.epoch || !self.is_whole(&message) {
            self.keep_early(&message);
            return;
        }
        let Signed { epoch: _, place: _, vote, body } = message.clone();
        match body {
            Body::PrePrepare { view, proposal } => self.on_pre_prepare(vote, view, proposal),
            Body::Prepare { view, height, digest } => self.on_prepare(vote, view, height, digest),
            Body::Commit { view, height, digest } => self.on_commit(vote, view, height, digest),
            Body::Checkpoint(result) => self.on_checkpoint(vote, result),
            Body::ViewChange(body) => self.on_view_change(message, body.view),
            Body::NewView(body) => self.on_new_view(message, &body),
        }
    }

    fn on_tick(&mut self) {
        self.check_view_timer();
        self.join_waiting_seats();
        self.check_catch_up();
        if self.now >= self.status_due {
            self.status_due = self.now + self.config.status_interval_ms;
            self.tell(Recipient::All, Note::Status(self.status()));
            self.offer_old_batches();
            self.fetch_wanted_again();
        }
    }

    /// A process that was paused finds its timers run out although it never listened: they start again.
    fn note_pause(&mut self, now: Millis) {
        let gap = now - self.now;
        if gap < self.config.pause_ms {
            return;
        }
        self.view_deadline = self.view_deadline.map(|deadline| deadline + gap);
        self.pool.shift(gap);
        self.waiting_since.values_mut().for_each(|since| *since = *since + gap);
    }

    fn quorum(&self) -> usize {
        if self.mutation == Some(Mutation::QuorumTooSmall) {
            return 2 * self.faulty_max();
        }
        let of_genesis = self.mutation == Some(Mutation::CountGenesisSeats);
        certificate::quorum(if of_genesis { self.identity.seats.len() } else { self.start.seats.len() })
    }

    fn faulty_max(&self) -> usize {
        certificate::faulty_max(self.start.seats.len())
    }

    fn is_primary(&self) -> bool {
        self.primary() == self.identity.seat && self.role == Role::Active
    }

    fn is_normal(&self) -> bool {
        self.mode == Mode::Normal
    }

    /// Whether votes may be cast for a slot. A new holder may know a checkpoint to be stable that it has not executed itself: what
    /// lies a window above its execution may be beyond a boundary that it has yet to learn of.
    fn may_vote(&self, height: Height) -> bool {
        self.in_window(height) && height <= self.executed.plus(self.identity.parameters.window)
    }

    /// Whether others' votes for a slot are kept.
    fn in_window(&self, height: Height) -> bool {
        let floor = self.stable().max(self.start.after);
        height > floor && height <= self.stable().plus(self.identity.parameters.window) && !self.is_beyond(height)
    }

    fn other_seats(&self) -> impl Iterator<Item = Seat> + use<> {
        let own = self.identity.seat;
        self.start.seats.iter().filter(move |seat| *seat != own)
    }

    /// Whom this replica may ask for what it lacks: the other seats; a shadow its own seat's holder.
    fn sources(&self) -> impl Iterator<Item = Seat> + use<> {
        let (own, role) = (self.identity.seat, self.role);
        let is_source = move |seat: &Seat| (*seat == own) == (role == Role::Shadow);
        self.start.seats.iter().filter(is_source)
    }

    /// Logs a record; a shadow follows the log of another.
    fn log(&mut self, record: Record) -> Lsn {
        if self.role == Role::Shadow {
            return self.binding_lsn;
        }
        let lsn = self.next_lsn;
        self.next_lsn += 1;
        if !record.may_wait() {
            self.binding_lsn = lsn;
        }
        self.effects.push(Effect::Log { lsn, record });
        lsn
    }

    fn send(&mut self, to: Recipient, body: Body, after: Lsn) {
        let after = if self.mutation == Some(Mutation::SendBeforeSync) { 0 } else { after };
        self.effects.push(Effect::Send { to, epoch: self.start.epoch, body, after });
    }

    fn tell(&mut self, to: Recipient, note: Note) {
        self.effects.push(Effect::Tell { to, note });
    }

    fn report(&mut self, event: Event) {
        self.effects.push(Effect::Report(event));
    }

    fn halt(&mut self, event: Event) {
        self.halted = true;
        self.report(event);
    }
}
