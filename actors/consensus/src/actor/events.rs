//! What the machine reports, in the node's log and counters.

use standin_ledger::EpochStart;

use super::Replica;
use crate::effect::Event;

impl Replica {
    pub(super) fn report(&mut self, event: Event) {
        (self.config.on_event)(&event);
        match &event {
            Event::ViewChangeStarted { to, cause } => {
                self.counters.view_changes += 1;
                tracing::warn!(view = to.0, ?cause, "left the view");
            }
            Event::EpochBegan(EpochStart { epoch, after, .. }) => {
                tracing::info!(epoch = epoch.0, after = after.0, "epoch began");
            }
            Event::Removed(EpochStart { epoch, after, .. }) => {
                tracing::warn!(
                    epoch = epoch.0,
                    after = after.0,
                    "the chain has removed this node's cluster: it stands still here, and may be stopped"
                );
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
            Event::Diverged { own, certificate } => {
                let (height, proven) = (own.height, certificate.result);
                let folder = self.config.storage.folder.join("store");
                self.fatal(format!(
                    "at block {height} this node computed {own:?}, and a quorum of seats {proven:?}: its state is wrong, or its state \
                     machine is not the others'. See to the second first; then remove {} and start the node: it resyncs, and its log stays",
                    folder.display()
                ));
            }
            fatal => self.fatal(format!("{fatal:?}")),
        }
    }

    pub(super) fn fatal(&self, why: String) {
        tracing::error!(why, "the replica must not go on");
        (self.config.on_fatal)(why);
    }
}
