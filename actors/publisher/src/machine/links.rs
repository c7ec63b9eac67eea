//! Which servers can be reached from here, and since when not.

use std::collections::BTreeMap;

use standin_foundation::{Millis, NodeId};

/// The other servers.
#[derive(Debug, Clone, Default)]
pub(super) struct Links {
    /// Since when each cannot be reached; none while it can.
    others: BTreeMap<NodeId, Option<Millis>>,
}

impl Links {
    /// A connection came, or went.
    pub(super) fn note(&mut self, now: Millis, server: NodeId, is_up: bool) {
        let lost_since = self.others.entry(server).or_default();
        *lost_since = if is_up { None } else { lost_since.or(Some(now)) };
    }

    /// Since when a server cannot be reached; none while it can, or if nothing is known of it.
    pub(super) fn lost_since(&self, node: &NodeId) -> Option<Millis> {
        *self.others.get(node)?
    }

    /// Those that can be reached.
    pub(super) fn reached(&self) -> impl Iterator<Item = &NodeId> {
        self.others.iter().filter(|(_, lost_since)| lost_since.is_none()).map(|(server, _)| server)
    }
}
