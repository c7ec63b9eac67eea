//! Lies about where it stands, hides what it prepared, computes wrong results, and has never what it is asked for.

use fastrand::Rng;
use standin_consensus::{Body, Note, Transfer};
use standin_foundation::{Digest, Height, Seat, View};
use standin_ledger::snapshot::Chunk;

use super::{Behaviour, signed_as};
use crate::authority::SimulatedSigner;
use crate::network::Envelope;

#[derive(Debug)]
pub(super) struct Liar;

impl Behaviour for Liar {
    fn name(&self) -> &'static str {
        "liar"
    }

    fn send(&mut self, rng: &mut Rng, own: SimulatedSigner, _: Seat, envelope: &Envelope) -> Vec<Envelope> {
        match envelope {
            Envelope::Note(Note::Status(status)) => {
                let mut status = *status;
                status.committed = Height(status.committed.0 + rng.u64(0..2_000));
                status.view = View(status.view.0 + rng.u64(0..3));
                if rng.u8(0..4) == 0 {
                    (status.committed, status.stable) = (Height(u64::MAX), Height(u64::MAX));
                }
                vec![Envelope::Note(Note::Status(status))]
            }
            Envelope::Signed(message) => match &message.body {
                Body::Checkpoint(result) => {
                    let mut result = *result;
                    result.state_root = Digest::sha256(b"a lie");
                    vec![signed_as(own, message.epoch, Body::Checkpoint(result))]
                }
                Body::ViewChange(body) => {
                    let mut body = body.clone();
                    body.prepared.clear();
                    vec![signed_as(own, message.epoch, Body::ViewChange(body))]
                }
                _ => vec![envelope.clone()],
            },
            // Begins to give a snapshot, and never goes on, or with what does not belong there.
            Envelope::Transfer(Transfer::Manifest(_)) => vec![envelope.clone()],
            Envelope::Transfer(Transfer::Chunk { height, index, .. }) if rng.u8(0..3) > 0 => {
                let chunk = Chunk::Recent(Vec::new());
                vec![Envelope::Transfer(Transfer::Chunk { height: *height, index: *index, chunk })]
            }
            Envelope::Transfer(_) if rng.bool() => Vec::new(),
            Envelope::Transfer(_) => vec![Envelope::Note(Note::Unavailable)],
            _ => vec![envelope.clone()],
        }
    }
}
