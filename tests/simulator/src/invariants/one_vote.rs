//! A correct seat never says two different things for one (epoch, kind, view, height), over all its lives.

use std::collections::BTreeMap;

use standin_consensus::{Body, Signed};
use standin_foundation::{Digest, Lsn};
use standin_ledger::VoteKind;

use super::Violation;

/// Epoch, seat, kind, view, height.
type Place = (u64, u16, VoteKind, u64, u64);

#[derive(Debug, Default)]
pub(super) struct OneVote {
    said: BTreeMap<Place, Digest>,
    /// By epoch and seat: the views that its view-changes named, each with the first place in its log from which it said so.
    left: BTreeMap<(u64, u16), BTreeMap<u64, Lsn>>,
}

impl OneVote {
    pub(super) fn check(&mut self, message: &Signed) -> Result<(), Violation> {
        let target = message.target();
        let seat = message.seat().0;
        let place = (target.epoch.0, seat, target.kind, target.view.0, target.height.0);
        let first = *self.said.entry(place).or_insert(target.digest);
        if first != target.digest {
            let what = format!("seat {seat} said {} and {} as {place:?}", first.short(), target.digest.short());
            return Err(Violation { invariant: "one_vote", what });
        }
        self.no_vote_in_a_view_that_was_left(message)
    }

    /// In the order of the seat's log: what a frozen holder still had to say may come late.
    fn no_vote_in_a_view_that_was_left(&mut self, message: &Signed) -> Result<(), Violation> {
        let (seat, lsn) = (message.seat().0, message.place.lsn);
        let left = self.left.entry((message.epoch.0, seat)).or_default();
        match &message.body {
            Body::ViewChange(body) => {
                let first = left.entry(body.view.0).or_insert(lsn);
                *first = (*first).min(lsn);
            }
            Body::PrePrepare { view, .. } | Body::Prepare { view, .. } | Body::Commit { view, .. } => {
                let before = left.range(view.0 + 1..).find(|(_, said)| **said < lsn);
                if let Some((later, said)) = before {
                    let what = format!("seat {seat} voted in view {view} at {lsn} after it left for {later} at {said}");
                    return Err(Violation { invariant: "one_vote", what });
                }
            }
            Body::Checkpoint(_) | Body::NewView(_) => {}
        }
        Ok(())
    }
}
