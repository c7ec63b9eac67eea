//! Sending again what was lost, as far as others' status says that it was.

use standin_foundation::Seat;
use standin_ledger::certificate::CheckpointResult;

use super::*;

/// Slots whose votes are sent again to one seat at one time.
const SLOTS_AGAIN_MAX: usize = 16;
/// Results that are sent again to one seat at one time: the highest, where all seats meet sooner or later.
const CHECKPOINTS_AGAIN_MAX: usize = 4;

impl Machine {
    pub(super) fn on_status(&mut self, from: Seat, status: Status) {
        if !self.start.seats.contains(from) && from != self.identity.seat {
            return self.answer_stranger(from, &status);
        }
        let is_first = self.statuses.insert(from, status).is_none();
        if from == self.identity.seat {
            // A member of the own cluster has executed more: it can be asked, and needs no help.
            self.check_catch_up();
            return;
        }
        let fresh = self.fresh_holders.remove(&from);
        if is_first || fresh {
            // What this node said when it began to speak may have come before the word that it speaks for the seat; what it said to a new
            // holder, before that one spoke.
            self.tell(Recipient::One(from), Note::Status(self.status()));
        }
        if self.may_help(from) || fresh {
            self.ask_for_epoch(from, &status);
            if status.epoch == self.start.epoch {
                self.help_into_view(from, &status);
                if self.is_normal() && status.view == self.view && status.changing_to.is_none() {
                    self.send_votes_again(from, &status, fresh);
                }
            }
            self.send_checkpoints_again(from, &status);
        }
        self.check_catch_up();
    }

    /// A small note can cause much work: a seat is helped no more often than an honest one says where it stands.
    pub(super) fn may_help(&mut self, seat: Seat) -> bool {
        let soon = |at: &Millis| *at + self.config.status_interval_ms / 2 > self.now;
        if self.helped_at.get(&seat).is_some_and(soon) {
            return false;
        }
        self.helped_at.insert(seat, self.now);
        true
    }

    fn help_into_view(&mut self, to: Seat, status: &Status) {
        if status.view < self.view
            && let Some(message) = self.signed_new_view()
        {
            self.effects.push(Effect::Relay { to, message: Box::new(message) });
        }
        let Mode::Changing(view) = self.mode else { return };
        if status.view < view
            && let Some(body) = self.own_view_change.clone()
        {
            let after = self.resend_after();
            self.send(Recipient::One(to), Body::ViewChange(body), after);
        }
        // The own new-view may have been lost, or have been written just before a crash.
        if status.view < view
            && let Some(body) = self.unsent_new_view()
        {
            self.send(Recipient::All, body, self.binding_lsn);
        }
    }

    /// The new-view of the current view with its signature.
    fn signed_new_view(&self) -> Option<Signed> {
        let signed = |message: &&Signed| message.vote.signature != standin_foundation::Signature::NONE;
        self.new_view.as_ref().filter(signed).filter(|message| message.body.view() == self.view).cloned()
    }

    /// The own new-view that is in the log and has not come back.
    pub(super) fn unsent_new_view(&self) -> Option<Body> {
        let unsigned = |message: &&Signed| message.vote.signature == standin_foundation::Signature::NONE;
        self.new_view.as_ref().filter(unsigned).map(|message| message.body.clone())
    }

    /// A new holder of a seat lacks all that was said to the one before, however lately.
    fn send_votes_again(&mut self, to: Seat, status: &Status, fresh: bool) {
        let old = |slot: &Slot| fresh || slot.touched + self.config.status_interval_ms <= self.now;
        let heights: Vec<_> = self
            .slots
            .range(status.committed.next()..)
            .filter(|(_, slot)| old(slot))
            .map(|(height, _)| *height)
            .take(if fresh { usize::MAX } else { SLOTS_AGAIN_MAX })
            .collect();
        for height in heights {
            for body in self.votes_of(height) {
                let after = self.resend_after();
                self.send(Recipient::One(to), body, after);
            }
        }
    }

    /// A message that was logged some time ago may still not be durable: it waits for all that binds, as the first time.
    fn resend_after(&self) -> Lsn {
        if self.mutation == Some(Mutation::ResendUngated) { 0 } else { self.binding_lsn }
    }

    /// What this replica has said about a slot in the current view.
    pub(super) fn votes_of(&self, height: Height) -> Vec<Body> {
        let view = self.view;
        let Some(slot) = self.slots.get(&height) else { return Vec::new() };
        let Some(accepted) = slot.accepted.as_ref().filter(|accepted| accepted.view == view) else {
            return Vec::new();
        };
        let digest = accepted.digest;
        let first = match self.is_primary() {
            true => Body::PrePrepare { view, proposal: accepted.proposal.clone() },
            false => Body::Prepare { view, height, digest },
        };
        let prepared = slot.prepared.as_ref().is_some_and(|prepared| prepared.view == view);
        let second = prepared.then_some(Body::Commit { view, height, digest });
        [Some(first), second].into_iter().flatten().collect()
    }

    fn send_checkpoints_again(&mut self, to: Seat, status: &Status) {
        if let Some(certificate) = self.checkpoints.stable().filter(|stable| stable.result.height > status.stable) {
            self.tell(Recipient::One(to), Note::Stable(certificate.clone()));
        }
        let unproven = |result: &&CheckpointResult| result.height > status.stable && result.height <= status.committed;
        let own = self.checkpoints.own().rev().filter(unproven).filter(|own| !self.is_disputed(own));
        let own: Vec<_> = own.copied().take(CHECKPOINTS_AGAIN_MAX).collect();
        for result in own {
            let after = self.resend_after();
            self.send(Recipient::One(to), Body::Checkpoint(result), after);
        }
    }
}
