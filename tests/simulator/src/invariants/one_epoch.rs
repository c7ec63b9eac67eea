//! E1: votes of an epoch lie within it, blocks are proven by votes of their own epoch, and all agree on where an epoch begins.

use std::collections::BTreeMap;

use standin_consensus::{Body, Signed};
use standin_foundation::{Epoch, Height, Seat};
use standin_ledger::{CommitCertificate, EpochStart};

use super::Violation;

#[derive(Debug, Default)]
pub(super) struct OneEpoch {
    /// Where each begins, and with which seats.
    begins: BTreeMap<Epoch, EpochStart>,
    /// The highest slot that anyone voted for.
    highest: BTreeMap<Epoch, (Height, Seat)>,
    /// The epoch of each block's certificate.
    proven: BTreeMap<Height, Epoch>,
}

fn violation(what: String) -> Result<(), Violation> {
    Err(Violation { invariant: "one_epoch", what })
}

impl OneEpoch {
    pub(super) fn begun(&mut self, start: EpochStart) -> Result<(), Violation> {
        let EpochStart { epoch, after, .. } = start;
        let first = *self.begins.entry(epoch).or_insert(start);
        if first != start {
            return violation(format!("epoch {epoch} begins as {first:?} and as {start:?}"));
        }
        let before = Epoch(epoch.0 - 1);
        match self.highest.get(&before) {
            Some((highest, seat)) if *highest > after => {
                violation(format!("seat {seat} voted for {highest} in epoch {before}, which ends with {after}"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn said(&mut self, message: &Signed) -> Result<(), Violation> {
        let height = match &message.body {
            Body::PrePrepare { proposal, .. } => proposal.height,
            Body::Prepare { height, .. } | Body::Commit { height, .. } => *height,
            Body::Checkpoint(result) => result.height,
            Body::ViewChange(_) | Body::NewView(_) => return Ok(()),
        };
        let (epoch, seat) = (message.epoch, message.seat());
        let highest = self.highest.entry(epoch).or_insert((height, seat));
        *highest = (*highest).max((height, seat));
        let begins = self.begins.get(&epoch).map(|start| start.after).unwrap_or_default();
        let ends = self.begins.get(&Epoch(epoch.0 + 1)).map_or(Height(u64::MAX), |start| start.after);
        if height <= begins || height > ends {
            return violation(format!(
                "seat {seat} voted for {height} in epoch {epoch}: it begins above {begins} and ends with {ends}"
            ));
        }
        Ok(())
    }

    pub(super) fn executed(&mut self, height: Height, certificate: &CommitCertificate) -> Result<(), Violation> {
        let begun = self.begins.iter().rev().find(|(_, start)| start.after < height);
        if let Some((expected, _)) = begun.filter(|(expected, _)| certificate.epoch < **expected) {
            return violation(format!("block {height} of epoch {expected} was proven in epoch {}", certificate.epoch));
        }
        let first = *self.proven.entry(height).or_insert(certificate.epoch);
        if first != certificate.epoch {
            return violation(format!("block {height} was proven in epoch {first} and in epoch {}", certificate.epoch));
        }
        Ok(())
    }
}
