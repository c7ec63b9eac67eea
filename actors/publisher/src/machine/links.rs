//! Which servers can be reached from here, and since when not.

use std::collections::BTreeMap;

use standin_foundation::{Millis, NodeId};

/// The other servers.
#[derive(Debug, Clone, Default)]
pub(super) struct Links {
    others: BTreeMap<NodeId, Link>,
}

/// How another server can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Link {
    /// It never could, as far as this life knows: that says nothing about it.
    #[default]
    Never,
    Up,
    Lost(Millis),
}

impl Links {
    /// A connection came, or went.
    pub(super) fn note(&mut self, now: Millis, server: NodeId, is_up: bool) {
        let link = self.others.entry(server).or_default();
        *link = match (is_up, *link) {
            (true, _) => Link::Up,
            (false, Link::Up) => Link::Lost(now),
            (false, known) => known,
        };
    }

    /// Since when a server that could be reached cannot be reached any more.
    pub(super) fn lost_since(&self, node: &NodeId) -> Option<Millis> {
        match self.others.get(node)? {
            Link::Lost(since) => Some(*since),
            Link::Never | Link::Up => None,
        }
    }

    /// Those that can be reached.
    pub(super) fn reached(&self) -> impl Iterator<Item = &NodeId> {
        self.others.iter().filter(|(_, link)| **link == Link::Up).map(|(server, _)| server)
    }
}
