//! The network: delay, loss, duplicates, reordering, partitions.

use std::collections::BTreeSet;
use std::sync::Arc;

use fastrand::Rng;
use standin_auth::messages::Answer;
use standin_cluster::Message;
use standin_consensus::{BatchPayload, Note, Signed, Transfer};
use standin_foundation::{Seat, Term};
use standin_ledger::{Batch, SignedGrant};

/// Index of a node in the world; the auth node's is one past the last. Nodes can share a seat: the members of a cluster, or
/// twins.
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
    /// From a member of the own cluster, with the payloads that its records carry.
    Cluster(Box<Message>, Vec<Arc<Batch>>),
    /// The auth node answers.
    Answer(Box<Answer>),
    /// A grant, from wherever.
    Grant(Box<SignedGrant>),
    /// The sender lacks a grant.
    WantGrant(Seat, Term),
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

    /// A fast network in which single messages come very late: acknowledgements of terms that are long over.
    pub fn late(rng: &mut Rng) -> Self {
        Self {
            delay_min_us: 50,
            delay_max_us: rng.choice([400, 2_000]).unwrap_or(400),
            late_one_in: rng.choice([4, 12]).unwrap_or(4),
            ..Self::calm()
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
