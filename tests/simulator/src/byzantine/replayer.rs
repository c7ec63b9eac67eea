//! Sends its old messages again, at the worst times.

use fastrand::Rng;
use standin_foundation::Seat;

use super::Behaviour;
use crate::authority::SimulatedSigner;
use crate::network::Envelope;

#[derive(Debug, Default)]
pub(super) struct Replayer {
    old: Vec<Envelope>,
}

impl Behaviour for Replayer {
    fn name(&self) -> &'static str {
        "replayer"
    }

    fn send(&mut self, rng: &mut Rng, _: SimulatedSigner, _: Seat, envelope: &Envelope) -> Vec<Envelope> {
        if self.old.len() < 500 {
            self.old.push(envelope.clone());
        } else if let Some(place) = self.old.get_mut(rng.usize(0..500)) {
            *place = envelope.clone();
        }
        let mut sent = vec![envelope.clone()];
        if rng.u8(0..3) == 0 {
            sent.extend(rng.choice(&self.old).cloned());
        }
        sent
    }
}
