//! A correct seat never says two different things for one (epoch, kind, view, height), over all its lives.

use std::collections::BTreeMap;

use standin_consensus::{Body, Signed};
use standin_foundation::Digest;
use standin_ledger::VoteKind;

use super::Violation;

/// Epoch, seat, kind, view, height.
type Place = (u64, u16, VoteKind, u64, u64);

#[derive(Debug, Default)]
pub(super) struct OneVote {
    said: BTreeMap<Place, Digest>,
    /// The highest view that a seat's view-change named.
    left: BTreeMap<u16, u64>,
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

    fn no_vote_in_a_view_that_was_left(&mut self, message: &Signed) -> Result<(), Violation> {
        let seat = message.seat().0;
        let left = self.left.entry(seat).or_default();
        match &message.body {
            Body::ViewChange(body) => *left = (*left).max(body.view.0),
            Body::PrePrepare { view, .. } | Body::Prepare { view, .. } | Body::Commit { view, .. } => {
                let known = self.said.len();
                if view.0 < *left {
                    let what = format!("seat {seat} voted in view {view} after it left for {left} ({known} votes)");
                    return Err(Violation { invariant: "one_vote", what });
                }
            }
            Body::Checkpoint(_) | Body::NewView(_) => {}
        }
        Ok(())
    }
}
