//! Which servers can be reached from here, and since when not.

use std::collections::BTreeMap;

use standin_foundation::{Millis, NodeId, PublicKey};

/// A server, as seen from here.
#[derive(Debug, Clone, Copy)]
struct Link {
    key: PublicKey,
    /// Since when it cannot be reached; none while it can.
    lost_since: Option<Millis>,
}

/// The other servers.
#[derive(Debug, Clone, Default)]
pub(super) struct Links {
    others: BTreeMap<NodeId, Link>,
}

impl Links {
    /// A connection came, or went.
    pub(super) fn note(&mut self, now: Millis, key: PublicKey, is_up: bool) {
        let link = self.others.entry(key.node_id()).or_insert(Link { key, lost_since: None });
        link.lost_since = match is_up {
            true => None,
            false => link.lost_since.or(Some(now)),
        };
    }

    /// Since when a server cannot be reached; none while it can, or if nothing is known of it.
    pub(super) fn lost_since(&self, node: &NodeId) -> Option<Millis> {
        self.others.get(node)?.lost_since
    }

    /// Those that can be reached.
    pub(super) fn reached(&self) -> impl Iterator<Item = &PublicKey> {
        self.others.values().filter(|link| link.lost_since.is_none()).map(|link| &link.key)
    }
}
