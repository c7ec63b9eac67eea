//! Reconfiguration ordered by the chain: where one epoch ends, and how the next begins.
//!
//! What was ordered is executed long before its boundary, and nobody votes beyond the boundary in the epoch before. When the
//! boundary's checkpoint is stable, everything at or below it is decided; as soon as the table of the next epoch is durable
//! here, with its proof, that epoch begins: with view 0, and without slots, votes or view-changes.

use standin_foundation::{Epoch, Height};
use standin_ledger::epoch::{EpochStart, Epochs};

use super::*;

/// Messages of the next epoch that are kept of one seat: what is lost is sent again.
const EARLY_PER_SEAT_MAX: usize = 128;

impl Machine {
    /// The epoch that this replica votes in.
    pub fn epoch(&self) -> Epoch {
        self.start.epoch
    }

    /// The last block of the epoch that this replica votes in, once the next one has been ordered.
    pub fn epoch_ends(&self) -> Option<Height> {
        self.epochs.end_of(self.start.epoch)
    }

    /// The last block of the current epoch, as soon as an order for the next one has been executed.
    pub(super) fn boundary(&self) -> Option<Height> {
        self.epoch_ends().filter(|_| self.mutation != Some(Mutation::VoteBeyondBoundary))
    }

    /// Whether the boundary is known and blocks are missing up to there: they are proposed even if they are empty.
    pub(super) fn hurries(&self) -> bool {
        self.boundary().is_some_and(|boundary| self.delivered < boundary)
    }

    /// Whether a block lies beyond the current epoch.
    pub(super) fn is_beyond(&self, height: Height) -> bool {
        self.boundary().is_some_and(|boundary| height > boundary)
    }

    /// The table of an epoch is durable here.
    pub(super) fn on_epoch_known(&mut self, epoch: Epoch) {
        self.known = self.known.max(epoch);
        self.begin_due_epochs();
    }

    /// Begins the epochs that are known and whose boundary is stable.
    pub(super) fn begin_due_epochs(&mut self) {
        while self.start.epoch < self.known
            && let Some(start) =
                self.epochs.start_of(self.start.epoch.next()).filter(|next| next.after <= self.stable())
        {
            self.begin_epoch(start);
            // Before anything that is said in it.
            self.log_epoch();
            if self.leave_if_removed() {
                return;
            }
            for result in self.checkpoints.take_postponed() {
                self.on_result_agreed(result);
            }
            self.deliver();
            self.take_early();
        }
    }

    /// A message of the next epoch may come before that has begun here.
    pub(super) fn keep_early(&mut self, message: &Signed) {
        let is_next = message.epoch == self.start.epoch.next() && self.boundary().is_some();
        let of_seat = self.early.iter().filter(|early| early.seat() == message.seat()).count();
        if is_next && of_seat < EARLY_PER_SEAT_MAX {
            self.early.push(message.clone());
        }
    }

    fn take_early(&mut self) {
        for message in std::mem::take(&mut self.early) {
            self.on_message(message);
        }
    }

    /// Writes which epoch the records behind it are of, where the log does not say so yet.
    pub(super) fn log_epoch(&mut self) {
        if self.role == Role::Active && self.logged_epoch < self.start.epoch {
            self.log(Record::Epoch(self.start));
            self.logged_epoch = self.start.epoch;
        }
    }

    /// A record of the log says that those behind it are of this epoch.
    pub(super) fn merge_epoch(&mut self, start: EpochStart) {
        self.epochs.note(start);
        self.logged_epoch = self.logged_epoch.max(start.epoch);
        if start.epoch > self.start.epoch {
            self.begin_epoch(start);
            self.leave_if_removed();
        }
    }

    /// A cluster that holds no seat any more has nothing to say, and nobody speaks to it: it stands still where the chain has left it.
    /// Where a later epoch is known, it may have been given a seat in that: a node starts when one is known that gives it a seat.
    fn leave_if_removed(&mut self) -> bool {
        let is_removed = !self.start.seats.contains(self.identity.seat) && self.start.epoch >= self.known;
        if is_removed {
            self.halt(Event::Removed(self.start));
        }
        is_removed
    }

    /// Leaves the epoch: of it there remains what is final.
    fn begin_epoch(&mut self, start: EpochStart) {
        self.start = start;
        if self.mutation != Some(Mutation::CarryViewsOver) {
            self.leave_views();
        }
        self.required.clear();
        self.view_floor = start.after;
        self.waiting_since.clear();
        self.rejoined_at.clear();
        self.slots.values_mut().for_each(Slot::keep_final);
        self.slots.retain(|_, slot| slot.committed.is_some());
        let votes = |seat: &Seat| start.seats.contains(*seat);
        self.statuses.retain(|seat, _| votes(seat));
        self.fresh_holders.retain(votes);
        self.checkpoints.leave_epoch();
        self.pool.unassign_all(self.now);
        // What a log had said in the epoch before is void: where it began anew does not matter any more.
        self.seen.clear();
        self.spared_view = None;
        self.failed_views = 0;
        self.view_deadline = None;
        self.idle_since = self.now;
        self.report(Event::EpochBegan(start));
    }

    fn leave_views(&mut self) {
        self.view = View(0);
        self.mode = Mode::Normal;
        self.new_view = None;
        self.view_changes.clear();
        self.own_view_change = None;
    }

    /// Takes in what a snapshot's state says of the epochs.
    pub(super) fn note_epochs(&mut self, epochs: &Epochs) {
        epochs.iter().for_each(|start| self.epochs.note(start));
    }

    /// A seat that is not in this epoch: it is of a later one and has the proof of the next, or it was removed and does not know.
    pub(super) fn answer_stranger(&mut self, from: Seat, status: &Status) {
        if self.may_help(from) {
            self.ask_for_epoch(from, status);
            self.tell(Recipient::One(from), Note::Status(self.status()));
        }
    }

    /// A seat that is in a later epoch has the proof that this one has ended.
    pub(super) fn ask_for_epoch(&mut self, from: Seat, status: &Status) {
        if status.epoch > self.start.epoch {
            self.tell(Recipient::One(from), Note::FetchEpoch(self.start.epoch.next()));
        }
    }
}
