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
            // No other seat has the blocks that the named node may lack.
            let mates: Vec<_> = (0..self.nodes.len()).filter(|other| self.are_mates(*other, index)).collect();
            self.irreplaceable.extend(mates);
        }
        let Some(cluster) = self.cluster_of(index) else { return };
        let incarnation = self.auth.as_ref().map(AuthHost::incarnation).unwrap_or_default();
        self.named.insert(index);
        let base = Base { holder: node.setup.key, disk: node.member().facts().disk, incarnation };
        let order = order(&node.setup.genesis, epoch, Change::Hold { cluster, base }, nonce);
        let anyone = self.rng.usize(0..self.nodes.len());
        self.schedule(1, Event::Submit(anyone, vec![order]));
    }

    /// A node that the chain has named and that cannot begin, since it has another disk; or one that got the cluster's first grant from a
    /// register that was brought back from a copy before the node had ever spoken.
    pub fn stranded(&self) -> Option<NodeIndex> {
        let is_stranded = |node: &Node| {
            let facts = node.member().facts();
            let cause = facts.grant.as_ref().map(|grant| grant.grant.cause);
            let may_be = match cause {
                Some(Cause::Ordered) => true,
                Some(Cause::Recovered) => node.member().head().lsn == 0,
                _ => false,
            };
            node.up && may_be && node.member().holder() == Some(node.setup.id) && !facts.complete
        };
        self.nodes.iter().position(is_stranded)
    }
}
