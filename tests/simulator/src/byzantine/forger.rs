//! Small changes to its own messages (a view or a height more or less, another digest, a vote too few), and messages in
//! the names of others.

use fastrand::Rng;
use standin_consensus::Body;
use standin_foundation::{Digest, Height, Seat, View};

use super::{Behaviour, signed_as};
use crate::authority::SimulatedSigner;
use crate::network::Envelope;

#[derive(Debug)]
pub(super) struct Forger {
    pub(super) seats: usize,
}

impl Behaviour for Forger {
    fn name(&self) -> &'static str {
        "forger"
    }

    fn send(&mut self, rng: &mut Rng, own: SimulatedSigner, _: Seat, envelope: &Envelope) -> Vec<Envelope> {
        let Envelope::Signed(message) = envelope else { return vec![envelope.clone()] };
        if rng.u8(0..3) > 0 {
            return vec![envelope.clone()];
        }
        let forged = signed_as(own, message.epoch, forge(rng, message.body.clone()));
        let mut in_anothers_name = message.clone();
        in_anothers_name.vote.seat = Seat(rng.u16(0..self.seats as u16));
        match rng.u8(0..3) {
            0 => vec![forged],
            1 => vec![envelope.clone(), forged],
            _ => vec![envelope.clone(), Envelope::Signed(in_anothers_name)],
        }
    }
}

fn forge(rng: &mut Rng, body: Body) -> Body {
    let mut near = |number: u64| (number + rng.u64(0..3)).saturating_sub(1);
    match body {
        Body::PrePrepare { view, mut proposal } => {
            proposal.height = Height(near(proposal.height.0));
            proposal.view = View(near(proposal.view.0));
            Body::PrePrepare { view: View(near(view.0)), proposal }
        }
        Body::Prepare { view, height, digest } => {
            Body::Prepare { view: View(near(view.0)), height: Height(near(height.0)), digest }
        }
        Body::Commit { view, height, .. } => {
            Body::Commit { view: View(near(view.0)), height: Height(near(height.0)), digest: Digest::sha256(b"forged") }
        }
        Body::Checkpoint(mut result) => {
            result.height = Height(near(result.height.0));
            Body::Checkpoint(result)
        }
        Body::ViewChange(mut body) => {
            body.view = View(near(body.view.0));
            body.prepared.pop();
            Body::ViewChange(body)
        }
        Body::NewView(mut body) => {
            body.view_changes.pop();
            Body::NewView(body)
        }
    }
}
