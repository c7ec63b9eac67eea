//! What a faulty seat does. Each behaviour is a file: it sees what its correct machine would send, and sends what it
//! likes.

mod equivocator;
mod flooder;
mod forger;
mod liar;
mod repeater;
mod replayer;
mod silent;
mod usurper;

use std::fmt;

use fastrand::Rng;
use standin_foundation::{Epoch, Seat};

use crate::authority::SimulatedSigner;
use crate::network::Envelope;

/// A faulty seat's way to send. Given what a correct replica would send to `to`, says what is sent instead.
pub trait Behaviour: fmt::Debug {
    /// The name, which is the file's.
    fn name(&self) -> &'static str;

    /// What goes to seat `to` in the place of `envelope`.
    fn send(&mut self, rng: &mut Rng, own: SimulatedSigner, to: Seat, envelope: &Envelope) -> Vec<Envelope>;
}

/// The behaviours that a seed can choose.
pub const NAMES: [&str; 8] = ["equivocator", "flooder", "forger", "liar", "repeater", "replayer", "silent", "usurper"];

/// The behaviour with this name, on a chain of so many seats.
pub fn behaviour(name: &str, seats: usize) -> Option<Box<dyn Behaviour>> {
    match name {
        "equivocator" => Some(Box::new(equivocator::Equivocator)),
        "flooder" => Some(Box::new(flooder::Flooder)),
        "forger" => Some(Box::new(forger::Forger { seats })),
        "liar" => Some(Box::new(liar::Liar)),
        "repeater" => Some(Box::<repeater::Repeater>::default()),
        "replayer" => Some(Box::<replayer::Replayer>::default()),
        "silent" => Some(Box::<silent::Silent>::default()),
        "usurper" => Some(Box::new(usurper::Usurper::new(seats))),
        _ => None,
    }
}

/// Signs a changed body.
fn signed_as(own: SimulatedSigner, epoch: Epoch, body: standin_consensus::Body) -> Envelope {
    let message = standin_consensus::verify::sign(&own, epoch, body, own.start);
    Envelope::Signed(message.into_inner())
}
