//! Following the log of the seat's holder.

use super::*;

impl Machine {
    /// What concerns a machine that says nothing: the holder's records, execution, and what is missing for it.
    pub(super) fn take_as_shadow(&mut self, input: Input) {
        match input {
            Input::Followed { lsn, record } => self.follow(lsn, record),
            Input::Activated => self.activate(),
            Input::Tick => {
                self.check_catch_up();
                if self.now >= self.status_due {
                    self.status_due = self.now + self.config.status_interval_ms;
                    self.fetch_wanted_again();
                }
            }
            Input::StatusReceived(from, status) if from == self.identity.seat => {
                self.statuses = [(from, status)].into();
                self.check_catch_up();
            }
            Input::BatchReceived { from, batch, needed } => {
                let digest = batch.digest();
                if (needed || self.pool.is_wanted(&digest)) && self.pool.ordered(&digest).is_none() {
                    self.on_batch(from, batch, needed);
                }
            }
            Input::Executed { .. }
            | Input::BlocksReceived { .. }
            | Input::UnavailableReceived(_)
            | Input::ManifestReceived(..)
            | Input::ChunkReceived { .. }
            | Input::SnapshotInstalled { .. }
            | Input::EpochKnown(_) => self.take(input),
            Input::MessageReceived(_)
            | Input::StatusReceived(..)
            | Input::OfferReceived(..)
            | Input::StableReceived(_)
            | Input::ResultAgreed(_)
            | Input::LogFull
            | Input::Rebased
            | Input::HolderChanged(_) => {}
        }
    }

    fn follow(&mut self, lsn: Lsn, record: Option<Record>) {
        (self.next_lsn, self.binding_lsn) = (lsn + 1, lsn);
        match record {
            Some(Record::Stable(certificate)) => {
                self.logged_stable = self.logged_stable.max(certificate.result.height);
                self.on_stable_certificate(certificate);
            }
            Some(record) => self.merge(lsn, record),
            None => {}
        }
        self.deliver();
    }
}
