//! Floods the others with view-changes, requests, offers and batches of nothing that anyone wants.

use fastrand::Rng;
use standin_consensus::messages::ViewChange;
use standin_consensus::{Body, Note};
use standin_foundation::{Digest, Epoch, Height, Seat, View};

use super::{Behaviour, signed_as};
use crate::authority::SimulatedSigner;
use crate::network::Envelope;

#[derive(Debug)]
pub(super) struct Flooder;

impl Behaviour for Flooder {
    fn name(&self) -> &'static str {
        "flooder"
    }

    fn send(&mut self, rng: &mut Rng, own: SimulatedSigner, _: Seat, envelope: &Envelope) -> Vec<Envelope> {
        let mut sent = vec![envelope.clone()];
        let digest = Digest::sha256(&rng.u64(..).to_be_bytes());
        let height = Height(rng.u64(0..300));
        let view = View(rng.u64(0..40));
        let epoch = Epoch(rng.u64(0..3));
        let extra = match rng.u8(0..14) {
            0 => signed_as(own, epoch, Body::ViewChange(ViewChange { view, stable: None, prepared: Vec::new() })),
            1 => signed_as(own, epoch, Body::Commit { view, height, digest }),
            2 => signed_as(own, epoch, Body::Prepare { view, height, digest }),
            3 => Envelope::Note(Note::FetchBatches(vec![digest; 8])),
            4 => Envelope::Note(Note::Offer(vec![digest; 8])),
            5 => Envelope::Note(Note::FetchBlocks { from: height }),
            6 => Envelope::Note(Note::Unavailable),
            7 => Envelope::Note(Note::FetchManifest),
            _ => return sent,
        };
        sent.push(extra);
        sent
    }
}
