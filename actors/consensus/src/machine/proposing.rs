//! What a primary does: puts batches into proposals, and fills silence with checkpoints.

use standin_foundation::{Height, Millis, Seat};
use standin_ledger::{BatchRef, Proposal};

use super::*;

/// Batches that are ordered a second time for one offer.
const AGAIN_PER_OFFER_MAX: usize = 4;
/// Nothing lingers for longer than this, in ms, unless it is configured so.
const LINGER_MAX_MS: u64 = 20;
/// A commit that took longer than this counts as one that took so long, in ms: it was held up.
const COMMIT_MAX_MS: u64 = 200;

impl Machine {
    pub(super) fn on_batch(&mut self, from: Seat, batch: BatchRef, needed: bool) {
        let digest = batch.digest();
        // A late copy of what was ordered is dropped, but not if this seat's own clients wait for an outcome once more.
        let is_ordered = self.pool.ordered(&digest).is_some();
        let again = is_ordered && from == self.identity.seat;
        if self.pool.is_pending(&digest) || (is_ordered && !again) {
            return;
        }
        let wanted = needed || self.pool.is_wanted(&digest);
        // What this seat's own clients ask again for is bounded before it comes here.
        let full = !again && self.pool.bytes_of(from) + batch.bytes as usize > self.config.pending_bytes_max;
        if full && !wanted {
            self.effects.push(Effect::DropBatches(vec![digest]));
            self.report(Event::BatchRefused { seat: from });
            return;
        }
        let lsn = self.log(Record::Batch(batch));
        self.pool.add(batch, from, self.now, Some(lsn).filter(|_| self.role == Role::Active));
        if again && !self.is_primary() {
            // The primary dropped its copy as late.
            self.tell(Recipient::One(self.primary()), Note::Offer(vec![digest]));
        }
        if wanted {
            self.consider_all_parked();
            self.deliver();
        }
    }

    pub(super) fn on_offer(&mut self, from: Seat, digests: &[Digest]) {
        let unknown: Vec<_> = digests.iter().copied().filter(|digest| !self.pool.holds(digest)).take(256).collect();
        if !unknown.is_empty() {
            self.tell(Recipient::One(from), Note::FetchBatches(unknown));
        }
        if self.is_primary() && self.is_normal() {
            self.order_again(from, digests);
        }
    }

    /// A seat that waits for what was ordered long ago does not know of it: it began with a snapshot, or got a late copy, or
    /// its clients ask again. A second place settles it everywhere; execution refuses the transactions as duplicates. A few
    /// at a time, since a faulty seat could offer all that it has seen.
    fn order_again(&mut self, from: Seat, digests: &[Digest]) {
        let late = |digest: &Digest| self.pool.ordered(digest).filter(|_| !self.pool.is_pending(digest));
        let late: Vec<_> = digests.iter().filter_map(late).take(AGAIN_PER_OFFER_MAX).collect();
        if late.is_empty()
            || self.again_at.get(&from).is_some_and(|at| *at + self.config.status_interval_ms / 2 > self.now)
        {
            return;
        }
        self.again_at.insert(from, self.now);
        for batch in late {
            if self.pool.bytes_of(from) + batch.bytes as usize <= self.config.pending_bytes_max {
                let lsn = self.log(Record::Batch(batch));
                self.pool.add(batch, from, self.now, Some(lsn));
            }
        }
    }

    /// Batches that have waited for long may never have reached the primary.
    pub(super) fn offer_old_batches(&mut self) {
        if self.is_primary() || !self.is_normal() {
            return;
        }
        let before = Millis(self.now.0.saturating_sub(self.config.status_interval_ms));
        let digests = self.pool.old(before, 64);
        if !digests.is_empty() {
            self.tell(Recipient::One(self.primary()), Note::Offer(digests));
        }
    }

    /// Payloads that were asked for and did not come are asked for again, from another seat each time.
    pub(super) fn fetch_wanted_again(&mut self) {
        let wanted = self.pool.wanted(64);
        let others: Vec<_> = self.sources().collect();
        self.fetch_round = self.fetch_round.wrapping_add(1);
        if let Some(seat) = others.get(self.fetch_round % others.len().max(1)).copied().filter(|_| !wanted.is_empty()) {
            self.tell(Recipient::One(seat), Note::FetchBatches(wanted));
        }
        self.deliver();
    }

    /// How long what could go out is kept for more to go with it while something is under way, in ms: half of what a commit takes, since
    /// where that is long, by distance or by load, few large blocks serve everybody better than many small ones.
    pub fn linger_ms(&self) -> u64 {
        let half = self.commit_eighths / 16;
        half.min(LINGER_MAX_MS).max(self.config.linger_ms)
    }

    /// Takes in how long the block at this height took.
    pub(super) fn note_commit_time(&mut self, height: Height) {
        if let Some(accepted) = self.slots.get(&height).and_then(|slot| slot.accepted.as_ref()) {
            let took = self.now - accepted.since;
            self.commit_eighths = self.commit_eighths - self.commit_eighths / 8 + took.min(COMMIT_MAX_MS);
        }
    }

    /// When the primary has waited long enough for more batches.
    pub(super) fn linger_deadline(&self) -> Option<Millis> {
        if !self.may_propose() {
            return None;
        }
        let idle = self.wants_checkpoint().then_some(self.idle_since + self.config.idle_checkpoint_ms);
        let linger = self.pool.oldest_unassigned().map(|since| since + self.linger_ms());
        [idle, linger].into_iter().flatten().min()
    }

    /// Proposes as long as there is something to propose and room for it.
    pub(super) fn propose(&mut self) {
        while self.may_propose() {
            let Some(proposal) = self.next_proposal() else { return };
            self.idle_since = self.now;
            self.accept(self.view, proposal);
        }
    }

    fn may_propose(&self) -> bool {
        !self.halted
            && self.is_normal()
            && self.is_primary()
            && self.required_are_assigned()
            && self.may_vote(self.next_height())
            && self.open_slots() < self.config.in_flight_max
    }

    fn required_are_assigned(&self) -> bool {
        let assigned = |height: &Height| {
            let slot = self.slots.get(height);
            slot.is_none_or(|slot| slot.accepted.as_ref().is_some_and(|accepted| accepted.view == self.view))
        };
        self.required.keys().filter(|height| self.in_window(**height)).all(assigned)
    }

    fn open_slots(&self) -> u64 {
        self.next_height().0 - self.delivered.0 - 1
    }

    /// The first slot that nothing was assigned to in this view.
    fn next_height(&self) -> Height {
        let assigned = |slot: &Slot| {
            slot.committed.is_some() || slot.accepted.as_ref().is_some_and(|accepted| accepted.view == self.view)
        };
        let last = self.slots.iter().rev().find(|(_, slot)| assigned(slot)).map(|(height, _)| *height);
        let required = self.required.last_key_value().map(|(height, _)| *height);
        [last, required, Some(self.delivered), Some(self.stable())]
            .into_iter()
            .flatten()
            .fold(Height(0), Height::max)
            .next()
    }

    /// Whether there are results that no checkpoint covers, and nothing is under way.
    fn wants_checkpoint(&self) -> bool {
        self.open_slots() == 0 && self.executed == self.delivered && self.delivered > self.checkpoints.last_taken()
    }

    fn next_proposal(&self) -> Option<Proposal> {
        let open = self.open_slots();
        let waited = self.pool.oldest_unassigned().is_some_and(|since| since + self.linger_ms() <= self.now);
        let batches = if open == 0 || waited || self.pool.is_plenty() { self.pool.next() } else { Vec::new() };
        let silent = self.idle_since + self.config.idle_checkpoint_ms <= self.now;
        let checkpoint = batches.is_empty() && silent && self.wants_checkpoint();
        (checkpoint || !batches.is_empty() || self.hurries()).then(|| Proposal {
            height: self.next_height(),
            epoch: self.start.epoch,
            view: self.view,
            proposer: self.identity.seat,
            time_ms: self.unix_ms_at_zero + self.now.0,
            checkpoint,
            batches,
        })
    }
}
