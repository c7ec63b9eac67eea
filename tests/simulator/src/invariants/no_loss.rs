//! What was committed anywhere carries votes of a quorum of distinct seats for that very proposal, counted here anew.

use std::collections::{BTreeMap, BTreeSet};

use standin_foundation::{Digest, Epoch, Height};
use standin_ledger::certificate::CommitCertificate;
use standin_ledger::{EpochStart, Proposal};

use super::Violation;

#[derive(Debug)]
pub(super) struct NoLoss {
    /// How many seats there are in each epoch.
    seats: BTreeMap<Epoch, usize>,
    committed: BTreeMap<Height, Digest>,
}

impl NoLoss {
    pub(super) fn new(seats: usize) -> Self {
        Self { seats: [(Epoch(0), seats)].into(), committed: BTreeMap::new() }
    }

    pub(super) fn begun(&mut self, start: EpochStart) {
        self.seats.insert(start.epoch, start.seats.iter().count());
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
        let Some(all) = self.seats.get(&certificate.epoch).copied() else {
            return violation(format!("height {height}: epoch {} has begun nowhere", certificate.epoch));
        };
        let tolerated = (all - 1) / 3;
        let is_quorum = 2 * seats.len() > all + tolerated;
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
