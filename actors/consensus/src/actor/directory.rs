//! Who can be reached for which seat: its holder by the newest grant that is known here.

use std::collections::BTreeMap;
use std::sync::Arc;

use standin_foundation::{NodeId, Seat};
use standin_ledger::{Authority, GrantBook};
use standin_stage::Remote;

/// The nodes of a chain, as one of them sees them.
#[derive(Debug, Clone)]
pub struct Directory {
    /// The node's own seat.
    pub seat: Seat,
    /// Grants that are known here.
    pub book: Arc<GrantBook>,
    /// The other nodes.
    pub remotes: Arc<BTreeMap<NodeId, Remote>>,
    /// The seat of each node, the own one included.
    pub members: Arc<BTreeMap<NodeId, Seat>>,
}

impl Directory {
    /// Another node.
    pub fn node(&self, node: &NodeId) -> Option<&Remote> {
        self.remotes.get(node)
    }

    /// The holder of a seat, unless nobody holds it or this node does.
    pub fn holder(&self, seat: Seat) -> Option<&Remote> {
        self.node(&self.book.holder(seat)?)
    }

    /// All other seats.
    pub fn other_seats(&self) -> impl Iterator<Item = Seat> + use<> {
        let own = self.seat;
        (0..self.book.seats() as u16).map(Seat).filter(move |seat| *seat != own)
    }

    /// The other members of the own cluster.
    pub fn mates(&self) -> impl Iterator<Item = &Remote> {
        self.remotes.iter().filter(|(node, _)| self.members.get(*node) == Some(&self.seat)).map(|(_, remote)| remote)
    }

    /// The seat that a node belongs to.
    pub fn seat_of(&self, node: &NodeId) -> Option<Seat> {
        self.members.get(node).copied()
    }
}
