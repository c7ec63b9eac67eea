//! The network: delay, loss, duplicates, reordering, partitions.

use std::collections::BTreeSet;

use fastrand::Rng;
use standin_consensus::{BatchPayload, Note, Signed, Transfer};

/// Index of a node in the world. Two nodes can share a seat: twins.
pub type NodeIndex = usize;

/// Something on its way.
#[derive(Debug, Clone)]
pub enum Envelope {
    /// A binding message.
    Signed(Signed),
    /// A note.
    Note(Note),
    /// A batch's payload.
    Batch(BatchPayload),
    /// What was asked for to catch up.
    Transfer(Transfer),
}

/// How links behave.
#[derive(Debug, Clone)]
pub struct Network {
    /// Shortest delay, in µs.
    pub delay_min_us: u64,
    /// Longest ordinary delay, in µs.
    pub delay_max_us: u64,
    /// One message in so many is late by up to a second; 0 for none.
    pub late_one_in: u64,
    /// One message in so many is lost; 0 for none.
    pub loss_one_in: u64,
    /// One message in so many comes twice; 0 for none.
    pub double_one_in: u64,
    /// Links that carry nothing, in this direction.
    pub cut: BTreeSet<(NodeIndex, NodeIndex)>,
}

impl Network {
    /// A network that loses nothing.
    pub fn calm() -> Self {
        Self {
            delay_min_us: 100,
            delay_max_us: 2_000,
            late_one_in: 0,
            loss_one_in: 0,
            double_one_in: 0,
            cut: BTreeSet::new(),
        }
    }

    /// A network as bad as the seed wants it.
    pub fn rough(rng: &mut Rng) -> Self {
        let rate = |rng: &mut Rng, rates: [u64; 4]| rng.choice(rates).unwrap_or(0);
        Self {
            delay_min_us: rng.u64(50..500),
            delay_max_us: rng.choice([1_000, 5_000, 30_000, 120_000]).unwrap_or(1_000),
            late_one_in: rate(rng, [0, 200, 50, 10]),
            loss_one_in: rate(rng, [0, 100, 20, 5]),
            double_one_in: rate(rng, [0, 100, 20, 5]),
            cut: BTreeSet::new(),
        }
    }

    /// The delays after which a message arrives, in µs: none if it is lost, two if it is doubled.
    pub fn delays(&self, rng: &mut Rng, from: NodeIndex, to: NodeIndex) -> Vec<u64> {
        let hit = |rng: &mut Rng, one_in: u64| one_in > 0 && rng.u64(0..one_in) == 0;
        if self.cut.contains(&(from, to)) || hit(rng, self.loss_one_in) {
            return Vec::new();
        }
        let copies = if hit(rng, self.double_one_in) { 2 } else { 1 };
        let delay = |_| {
            let late = if hit(rng, self.late_one_in) { rng.u64(0..1_000_000) } else { 0 };
            rng.u64(self.delay_min_us..=self.delay_max_us) + late
        };
        (0..copies).map(delay).collect()
    }
}
