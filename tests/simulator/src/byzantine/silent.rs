//! Sends nothing to some seats, for a while, or nothing at all.

use fastrand::Rng;
use standin_foundation::Seat;

use super::Behaviour;
use crate::authority::SimulatedSigner;
use crate::network::Envelope;

#[derive(Debug, Default)]
pub(super) struct Silent {
    deaf_to: u16,
    count: u64,
}

impl Behaviour for Silent {
    fn name(&self) -> &'static str {
        "silent"
    }

    fn send(&mut self, rng: &mut Rng, _: SimulatedSigner, to: Seat, envelope: &Envelope) -> Vec<Envelope> {
        if self.count.is_multiple_of(200) {
            self.deaf_to = rng.u16(..);
        }
        self.count += 1;
        if self.deaf_to >> (to.0 % 16) & 1 == 1 { Vec::new() } else { vec![envelope.clone()] }
    }
}
