//! What was committed anywhere carries votes of a quorum of distinct seats for that very proposal, counted here anew.

use std::collections::{BTreeMap, BTreeSet};

use standin_foundation::{Digest, Height};
use standin_ledger::Proposal;
use standin_ledger::certificate::CommitCertificate;

use super::Violation;

#[derive(Debug)]
pub(super) struct NoLoss {
    seats: usize,
    committed: BTreeMap<Height, Digest>,
}

impl NoLoss {
    pub(super) fn new(seats: usize) -> Self {
        Self { seats, committed: BTreeMap::new() }
    }

    pub(super) fn committed(
        &mut self,
        height: Height,
        certificate: &CommitCertificate,
        proposal: &Proposal,
    ) -> Result<(), Violation> {
        let digest = proposal.digest();
        let violation = |what| Err(Violation { invariant: "no_loss", what });
        let seats: BTreeSet<_> = certificate.votes.iter().map(|vote| vote.seat).collect();
        // Any two such sets share a correct seat, and enough correct seats are left to make one.
        let tolerated = (self.seats - 1) / 3;
        let is_quorum = 2 * seats.len() > self.seats + tolerated;
        if !is_quorum || certificate.digest != digest || certificate.height != height {
            return violation(format!("height {height}: a certificate of {} seats", seats.len()));
        }
        let first = *self.committed.entry(height).or_insert(digest);
        if first != digest {
            return violation(format!("height {height}: committed {} and {}", first.short(), digest.short()));
        }
        Ok(())
    }
}
