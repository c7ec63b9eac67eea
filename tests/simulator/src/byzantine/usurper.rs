//! Acts as the primary of views that have not begun: junk for every slot, and view-changes to the end of all views.

use fastrand::Rng;
use standin_consensus::messages::ViewChange;
use standin_consensus::{Body, Note};
use standin_foundation::{Epoch, Height, Seat, View};
use standin_ledger::Proposal;

use super::{Behaviour, signed_as};
use crate::authority::SimulatedSigner;
use crate::network::Envelope;

#[derive(Debug)]
pub(super) struct Usurper {
    seats: u64,
    epoch: Epoch,
    view: View,
    committed: Height,
}

impl Usurper {
    pub(super) fn new(seats: usize) -> Self {
        Self { seats: seats as u64, epoch: Epoch(0), view: View(0), committed: Height(0) }
    }
}

impl Behaviour for Usurper {
    fn name(&self) -> &'static str {
        "usurper"
    }

    fn send(&mut self, rng: &mut Rng, own: SimulatedSigner, _: Seat, envelope: &Envelope) -> Vec<Envelope> {
        if let Envelope::Note(Note::Status(status)) = envelope {
            (self.epoch, self.view, self.committed) = (status.epoch, status.view, status.committed);
        }
        let mut sent = vec![envelope.clone()];
        let extra = match rng.u8(0..8) {
            0..=2 => {
                // The next views that this seat leads.
                let next = self.view.0 - self.view.0 % self.seats + u64::from(own.seat.0) + self.seats * rng.u64(0..3);
                let height = Height(self.committed.0 + rng.u64(1..20));
                let proposal = Proposal {
                    checkpoint: true,
                    time_ms: rng.u64(0..1_000),
                    ..Proposal::null(height, self.epoch, View(next), own.seat)
                };
                Body::PrePrepare { view: View(next), proposal }
            }
            3 if rng.u8(0..20) == 0 => {
                let view = View(rng.choice([self.view.0 + 5, u64::MAX - 1, u64::MAX]).unwrap_or(u64::MAX));
                Body::ViewChange(ViewChange { view, stable: None, prepared: Vec::new() })
            }
            _ => return sent,
        };
        sent.push(signed_as(own, self.epoch, extra));
        sent
    }
}
