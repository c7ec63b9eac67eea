//! What was committed anywhere carries votes of a quorum of distinct seats for that very proposal, counted here anew.

use std::collections::{BTreeMap, BTreeSet};

use standin_foundation::{Digest, Epoch, Height, Seat};
use standin_ledger::certificate::CommitCertificate;
use standin_ledger::{EpochStart, Proposal};

use super::Violation;

#[derive(Debug)]
pub(super) struct NoLoss {
    /// The seats of each epoch, as first told.
    seats: BTreeMap<Epoch, BTreeSet<Seat>>,
    committed: BTreeMap<Height, Digest>,
}

impl NoLoss {
    pub(super) fn new(seats: usize) -> Self {
        Self { seats: [(Epoch(0), (0..seats as u16).map(Seat).collect())].into(), committed: BTreeMap::new() }
    }

    pub(super) fn begun(&mut self, start: EpochStart) {
        self.seats.entry(start.epoch).or_insert_with(|| start.seats.iter().collect());
    }

    pub(super) fn committed(
        &mut self,
        height: Height,
        certificate: &CommitCertificate,
        proposal: &Proposal,
    ) -> Result<(), Violation> {
        let digest = proposal.digest();
        let violation = |what| Err(Violation { invariant: "no_loss", what });
        // Any two such sets share a correct seat, and enough correct seats are left to make one.
        let Some(of_epoch) = self.seats.get(&certificate.epoch) else {
            return violation(format!("height {height}: epoch {} has begun nowhere", certificate.epoch));
        };
        let voted = certificate.votes.iter().map(|vote| vote.seat).filter(|seat| of_epoch.contains(seat));
        let (seats, all): (BTreeSet<_>, _) = (voted.collect(), of_epoch.len());
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
