//! The operator, who names nodes for seats through the chain.

use standin_ledger::epoch::Base;
use standin_ledger::grant::Cause;
use standin_ledger::reconfiguration::Change;

use super::*;
use crate::scenario::order;

impl World {
    /// A node that lives is named, with the disk that it has.
    pub(super) fn name(&mut self, index: NodeIndex, epoch: Epoch, nonce: u64) {
        let node = &self.nodes[index];
        if !node.up || self.places[index].behaviour.is_some() {
            return;
        }
        if node.setup.genesis.seats.len() == 1 {
            // With its disk the chain would be lost.
            self.irreplaceable.insert(index);
        }
        let cluster = node.setup.genesis.seats[node.setup.seat.index()].cluster.clone();
        let incarnation = self.auth.as_ref().map(AuthHost::incarnation).unwrap_or_default();
        let base = Base { holder: node.setup.key, disk: node.member().facts().disk, incarnation };
        let order = order(&node.setup.genesis, epoch, Change::Hold { cluster, base }, nonce);
        let anyone = self.rng.usize(0..self.nodes.len());
        self.schedule(1, Event::Submit(anyone, vec![order]));
    }

    /// A node that the chain has named and that cannot begin: it has another disk since.
    pub fn stranded(&self) -> Option<NodeIndex> {
        let is_stranded = |node: &Node| {
            let facts = node.member().facts();
            let is_named = facts.grant.as_ref().is_some_and(|grant| grant.grant.cause == Cause::Ordered);
            node.up && is_named && node.member().holder() == Some(node.setup.id) && !facts.complete
        };
        self.nodes.iter().position(is_stranded)
    }
}
