//! As primary it proposes batches that were ordered long ago, and puts proposals far ahead into the window.

use std::collections::BTreeSet;

use fastrand::Rng;
use standin_consensus::Body;
use standin_foundation::{Digest, Height, Seat, View};
use standin_ledger::{BatchRef, Proposal};

use super::{Behaviour, signed_as};
use crate::authority::SimulatedSigner;
use crate::network::Envelope;

/// A place far ahead, within a small window.
const AHEAD: u64 = 6;

#[derive(Debug, Default)]
pub(super) struct Repeater {
    seen: Vec<BatchRef>,
    known: BTreeSet<Digest>,
    ahead: BTreeSet<(View, Height)>,
}

impl Repeater {
    fn note(&mut self, proposal: &Proposal) {
        for batch in &proposal.batches {
            if self.known.insert(batch.digest()) {
                self.seen.push(*batch);
            }
        }
    }

    /// The same for every receiver: one of the first batches that were ever ordered.
    fn old(&self, height: Height) -> Option<BatchRef> {
        let first = self.seen.len().div_ceil(4).max(1) as u64;
        self.seen.get((height.0 % first) as usize).copied()
    }
}

impl Behaviour for Repeater {
    fn name(&self) -> &'static str {
        "repeater"
    }

    fn send(&mut self, _: &mut Rng, own: SimulatedSigner, _: Seat, envelope: &Envelope) -> Vec<Envelope> {
        let Envelope::Signed(message) = envelope else { return vec![envelope.clone()] };
        let Body::PrePrepare { view, proposal } = &message.body else { return vec![envelope.clone()] };
        self.note(proposal);
        let far = Height(proposal.height.0 + AHEAD);
        if self.ahead.contains(&(*view, proposal.height)) {
            // Its place was taken before: another proposal for it would be a contradiction.
            return Vec::new();
        }
        let mut sent = vec![envelope.clone()];
        if let Some(old) = self.old(far).filter(|_| proposal.height.0.is_multiple_of(5)) {
            self.ahead.insert((*view, far));
            let repeated = Proposal { height: far, checkpoint: false, batches: vec![old], ..proposal.clone() };
            sent.push(signed_as(own, proposal.epoch, Body::PrePrepare { view: *view, proposal: repeated }));
        }
        sent
    }
}
