//! The operators, who have clusters added to the chain and removed from it.

use standin_foundation::ClusterId;
use standin_ledger::epoch::{AuthNode, Base};
use standin_ledger::reconfiguration::{Change, Named};
use standin_ledger::{EpochTable, Member};

use super::*;
use crate::scenario::order;

/// Keys from this number on are those of later auth nodes, by the epoch in which they are ordered.
const AUTH_KEYS: usize = 40;

impl World {
    /// These nodes wait for their cluster's seat: they do not run before.
    pub fn set_waiting(&mut self, nodes: impl IntoIterator<Item = NodeIndex>) {
        for index in nodes {
            self.nodes[index].up = false;
            self.waiting.insert(index);
        }
    }

    pub(super) fn cluster_of(&self, index: NodeIndex) -> Option<ClusterId> {
        self.nodes[index].setup.cluster.as_ref().map(|cluster| cluster.cluster.clone())
    }

    pub(super) fn are_mates(&self, one: NodeIndex, other: NodeIndex) -> bool {
        let cluster = self.cluster_of(one);
        match cluster.is_some() {
            true => cluster == self.cluster_of(other),
            false => self.nodes[one].setup.seat == self.nodes[other].setup.seat,
        }
    }

    /// A correct node that knows the newest epoch.
    fn best_informed(&self) -> Option<&Node> {
        let correct = (0..self.nodes.len()).filter(|index| self.places[*index].behaviour.is_none());
        correct.map(|index| &self.nodes[index]).max_by_key(|node| node.known.table.epoch())
    }

    fn newest_table(&self) -> Option<&EpochTable> {
        self.best_informed().map(|node| node.known.table.newest_table())
    }

    /// The newest epoch that a correct node knows.
    pub fn epoch(&self) -> Epoch {
        self.newest_table().map(|table| table.epoch).unwrap_or_default()
    }

    /// How many clusters hold a seat and did not at genesis, or the reverse.
    pub fn reseated(&self) -> u64 {
        let names = |table: &EpochTable| table.seats.values().map(|seat| seat.cluster.clone()).collect::<BTreeSet<_>>();
        let first = names(&self.nodes[0].setup.genesis.epoch_table());
        let now = self.newest_table().map(names).unwrap_or_default();
        first.symmetric_difference(&now).count() as u64
    }

    /// How often another auth node has taken over.
    pub fn issuers(&self) -> u64 {
        let Some(known) = self.best_informed().map(|node| &node.known.table) else { return 0 };
        let keys: Vec<_> = (0..=known.epoch().0).filter_map(|epoch| known.table(Epoch(epoch))?.auth).collect();
        keys.windows(2).filter(|pair| pair[0] != pair[1]).count() as u64
    }

    /// Whether a node's cluster holds a seat in the newest epoch that is known.
    pub fn is_seated(&self, index: NodeIndex) -> bool {
        let Some(cluster) = self.cluster_of(index) else { return true };
        self.newest_table().is_some_and(|table| table.seat_of(&cluster).is_some())
    }

    fn member(&self, index: NodeIndex) -> Member {
        let (site, address) = ("anywhere".to_owned(), "simulated:1".to_owned());
        Member { key: self.nodes[index].setup.key, priority: 0, site, address }
    }

    fn order(&mut self, change: Change, nonce: u64) {
        let (genesis, epoch) = (self.nodes[0].setup.genesis.clone(), self.epoch());
        let anyone = self.rng.usize(0..self.nodes.len());
        self.schedule(1, Event::Submit(anyone, vec![order(&genesis, epoch, change, nonce)]));
    }

    /// The cluster of the nodes that wait is to be given a seat; any of them holds it.
    pub(super) fn add_cluster(&mut self, nonce: u64) -> Result<(), Violation> {
        if self.waiting.is_empty() {
            self.start_removed_anew()?;
        }
        let coming: Vec<_> = self.waiting.iter().copied().collect();
        if coming.is_empty() {
            return Ok(());
        }
        let holder = coming[self.rng.usize(0..coming.len())];
        let (session, now) = (self.rng.u64(1..), self.node_time(holder));
        let disk = self.nodes[holder].name_disk(now, session);
        let Some(cluster) = self.cluster_of(holder) else { return Ok(()) };
        let incarnation = self.auth.as_ref().map(AuthHost::incarnation).unwrap_or_default();
        let base = Base { holder: self.nodes[holder].setup.key, disk, incarnation };
        let members = coming.iter().map(|index| self.member(*index)).collect();
        self.order(Change::Add { cluster, members, base }, nonce);
        Ok(())
    }

    /// The nodes of a cluster that was removed are started again, and wait with what their disks hold.
    fn start_removed_anew(&mut self) -> Result<(), Violation> {
        let removed = (0..self.nodes.len()).find(|index| !self.is_seated(*index));
        let Some(one) = removed.filter(|index| self.is_correct(*index)) else { return Ok(()) };
        let mates: Vec<_> = (0..self.nodes.len()).filter(|other| self.are_mates(one, *other)).collect();
        for index in mates {
            self.fault(Fault::Kill(index))?;
            self.waiting.insert(index);
        }
        Ok(())
    }

    /// The cluster of a node is to hold its seat no more, as long as enough correct ones are left.
    pub(super) fn remove_cluster(&mut self, index: NodeIndex, nonce: u64) {
        let seats = self.newest_table().map_or(0, |table| table.seats.len());
        let are_correct = (0..self.nodes.len()).all(|node| self.waiting.contains(&node) || self.is_correct(node));
        let may_leave = seats > 4 || (seats == 4 && are_correct && self.lost_all.is_none());
        if let Some(cluster) = self.cluster_of(index).filter(|_| may_leave && self.is_seated(index)) {
            self.removes = true;
            self.order(Change::Remove(cluster), nonce);
        }
    }

    /// Another auth node takes over: every cluster is named with the node that speaks for it, if all have one.
    pub(super) fn replace_auth(&mut self, nonce: u64) {
        let Some(table) = self.newest_table().cloned() else { return };
        let mut clusters = Vec::new();
        for seat in table.seats.values() {
            let of_cluster = |index: &NodeIndex| self.cluster_of(*index).as_ref() == Some(&seat.cluster);
            let nodes: Vec<_> = (0..self.nodes.len()).filter(of_cluster).collect();
            let speaks = |index: &&NodeIndex| self.nodes[**index].up && self.nodes[**index].is_active();
            let Some(index) = nodes.iter().find(speaks).copied() else { return };
            // More named nodes that lose their disks before it takes effect than there may be faulty seats end the chain.
            self.irreplaceable.insert(index);
            if table.seats.len() == 1 {
                // No other seat has the blocks that the named node may lack.
                self.irreplaceable.extend(&nodes);
            }
            let holder = &self.nodes[index];
            let members = nodes.iter().map(|index| self.member(*index)).collect();
            let disk = holder.member().facts().disk;
            clusters.push(Named { cluster: seat.cluster.clone(), members, holder: holder.setup.key, disk });
        }
        let (key, address) = (key_of(AUTH_KEYS + table.epoch.0 as usize), "simulated:2".to_owned());
        self.order(Change::Auth { key, nodes: vec![AuthNode { key: key_of(0), address }], clusters }, nonce);
    }

    /// Nodes whose cluster has been given a seat start.
    pub(super) fn seat_candidates(&mut self) -> Result<(), Violation> {
        for index in self.waiting.clone() {
            let Some(informed) = self.best_informed() else { continue };
            let Some(cluster) = self.cluster_of(index) else { continue };
            let Some(seat) = informed.known.table.newest_table().seat_of(&cluster) else { continue };
            let (known, epochs) = (informed.known.clone(), informed.disk.epochs.clone());
            self.nodes[index].take_seat(seat, known, epochs);
            self.waiting.remove(&index);
            self.fault(Fault::Restart(index))?;
        }
        Ok(())
    }
}
