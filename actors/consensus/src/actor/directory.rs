//! Who can be reached for which seat: its holder by the newest grant that is known here.

use std::sync::Arc;

use standin_foundation::{NodeId, Seat};
use standin_ledger::{Authority, GrantBook, MemberBook};
use standin_stage::Remote;
use standin_stage::bridge::Peers;

/// The nodes of a chain, as one of them sees them.
#[derive(Debug, Clone)]
pub struct Directory {
    /// This node.
    pub own: NodeId,
    /// Its own seat.
    pub seat: Seat,
    /// Grants that are known here.
    pub book: Arc<GrantBook>,
    /// Who belongs to which cluster.
    pub members: Arc<MemberBook>,
    /// Who can be reached.
    pub peers: Peers,
}

impl Directory {
    /// Another node.
    pub fn node(&self, node: &NodeId) -> Option<Remote> {
        self.peers.remote(node)
    }

    /// The other nodes that hold seats or stand by.
    pub fn nodes(&self) -> Vec<Remote> {
        self.peers.all().into_iter().filter(|remote| self.members.seat_of(&remote.id()).is_some()).collect()
    }

    /// Those of them that are connected.
    pub fn connected(&self) -> Vec<Remote> {
        self.nodes().into_iter().filter(Remote::is_connected).collect()
    }

    /// The holder of a seat, unless nobody holds it or this node does.
    pub fn holder(&self, seat: Seat) -> Option<Remote> {
        self.node(&self.book.holder(seat)?)
    }

    /// All other seats.
    pub fn other_seats(&self) -> impl Iterator<Item = Seat> + use<> {
        let own = self.seat;
        let seats = self.book.seats(self.book.epoch()).unwrap_or_default();
        seats.iter().filter(move |seat| *seat != own)
    }

    /// The other members of the own cluster.
    pub fn mates(&self) -> Vec<Remote> {
        let members = self.members.of(self.seat).map(|membership| membership.members).unwrap_or_default();
        members.keys().filter(|node| **node != self.own).filter_map(|node| self.node(node)).collect()
    }

    /// Whether a node is of the own cluster: a member, or one that was removed and is in the in-sync set still.
    pub fn is_mate(&self, node: &NodeId) -> bool {
        let is_listed = || self.book.newest(self.seat).is_some_and(|grant| grant.grant.in_sync.contains(node));
        self.seat_of(node) == Some(self.seat) || is_listed()
    }

    /// The seat that a node belongs to.
    pub fn seat_of(&self, node: &NodeId) -> Option<Seat> {
        self.members.seat_of(node)
    }
}
