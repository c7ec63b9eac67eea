//! What was committed anywhere carries votes of a quorum of distinct seats for that very proposal, counted here anew.

use std::collections::{BTreeMap, BTreeSet};

use standin_foundation::{Digest, Height};
use standin_ledger::Proposal;
use standin_ledger::certificate::CommitCertificate;

use super::Violation;

#[derive(Debug, Default)]
pub(super) struct NoLoss {
    committed: BTreeMap<Height, Digest>,
}

impl NoLoss {
    pub(super) fn committed(
        &mut self,
        height: Height,
        certificate: &CommitCertificate,
        proposal: &Proposal,
    ) -> Result<(), Violation> {
        let digest = proposal.digest();
        let violation = |what| Err(Violation { invariant: "no_loss", what });
        let seats: BTreeSet<_> = certificate.votes.iter().map(|vote| vote.seat).collect();
        // Four seats tolerate one: three of them share a correct one with any other three.
        if seats.len() < 3 || certificate.digest != digest || certificate.height != height {
            return violation(format!("height {height}: a certificate of {} seats", seats.len()));
        }
        let first = *self.committed.entry(height).or_insert(digest);
        if first != digest {
            return violation(format!("height {height}: committed {} and {}", first.short(), digest.short()));
        }
        Ok(())
    }
}
