//! Says one thing to some seats and another to the others, in every phase, and votes for everything that it hears of.

use fastrand::Rng;
use standin_consensus::Body;
use standin_foundation::{Digest, Seat};

use super::{Behaviour, signed_as};
use crate::authority::SimulatedSigner;
use crate::network::Envelope;

#[derive(Debug)]
pub(super) struct Equivocator;

impl Behaviour for Equivocator {
    fn name(&self) -> &'static str {
        "equivocator"
    }

    fn send(&mut self, rng: &mut Rng, own: SimulatedSigner, to: Seat, envelope: &Envelope) -> Vec<Envelope> {
        let Envelope::Signed(message) = envelope else { return vec![envelope.clone()] };
        let other = match &message.body {
            Body::PrePrepare { view, proposal } => {
                let mut proposal = proposal.clone();
                proposal.time_ms += 1;
                if rng.bool() {
                    proposal.batches.reverse();
                }
                Some(Body::PrePrepare { view: *view, proposal })
            }
            Body::Checkpoint(result) => {
                let mut result = *result;
                result.state_root = Digest::sha256(b"equivocation");
                Some(Body::Checkpoint(result))
            }
            _ => None,
        };
        let side = (to.0 + message.body.view().0 as u16).is_multiple_of(2);
        match other {
            Some(body) if side => vec![signed_as(own, message.epoch, body)],
            Some(body) if rng.u8(0..4) == 0 => vec![envelope.clone(), signed_as(own, message.epoch, body)],
            _ => vec![envelope.clone()],
        }
    }
}
