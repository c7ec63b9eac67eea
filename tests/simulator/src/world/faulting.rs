//! What goes wrong, and what may.

use standin_ledger::grant::Cause;
use standin_ledger::{Grant, SignedGrant};

use super::*;

impl World {
    pub(super) fn fault(&mut self, fault: Fault) -> Result<(), Violation> {
        if let Fault::Restart(index) = fault {
            // Whoever starts a process has made room, also where the process never noticed.
            self.nodes[index].disk.full = false;
        }
        match fault {
            Fault::Crash(index) | Fault::Kill(index) if self.nodes[index].up => {
                match fault {
                    Fault::Kill(_) => self.nodes[index].kill(),
                    _ => {
                        // A record that was torn must be confirmed by another member (L9).
                        let may_tear = self.may_wipe(index);
                        self.nodes[index].crash(&mut self.rng, may_tear);
                    }
                }
                self.close_links(index, matches!(fault, Fault::Kill(_)));
                self.places[index].waiting.clear();
                self.places[index].frozen = false;
            }
            Fault::Restart(index) if !self.nodes[index].up && !self.waiting.contains(&index) => {
                let now = self.node_time(index);
                self.places[index].next_tick_us = 0;
                let session = self.rng.u64(1..);
                let actions = self.nodes[index].restart(now, session);
                self.act(index, actions)?;
            }
            Fault::DiskFull(index) if self.nodes[index].up => self.nodes[index].disk.full = true,
            Fault::Freeze(index) => self.places[index].frozen = true,
            Fault::Thaw(index) => {
                self.places[index].frozen = false;
                self.places[index].next_tick_us = self.now_us;
                self.happen(Event::Tick(index, self.nodes[index].life))?;
                for event in std::mem::take(&mut self.places[index].waiting) {
                    self.happen(event)?;
                }
            }
            Fault::Partition { group, one_way } => {
                for a in 0..=self.nodes.len() {
                    for b in 0..=self.nodes.len() {
                        let crosses = group.contains(&a) != group.contains(&b);
                        if crosses && (!one_way || group.contains(&a)) {
                            self.network.cut.insert((a, b));
                        }
                    }
                }
            }
            Fault::Heal => self.network.cut.clear(),
            Fault::DiskLatency(index, latency) => self.places[index].disk_latency_us = latency,
            Fault::CutLog(index) if self.nodes[index].up && !self.places[index].frozen => {
                let now = self.node_time(index);
                let actions = self.nodes[index].cut_log(now);
                self.act(index, actions)?;
            }
            Fault::Wipe(index) if self.may_wipe(index) => {
                let node = &self.nodes[index];
                let is_ordered = |grant: &SignedGrant| grant.grant.cause == Cause::Ordered;
                if self.named.contains(&index) || node.member().facts().grant.as_ref().is_some_and(is_ordered) {
                    self.lost_all = Some(node.setup.seat);
                }
                self.fault(Fault::Kill(index))?;
                self.nodes[index].wipe();
            }
            Fault::Resign(index) if self.nodes[index].up && !self.places[index].frozen => {
                let now = self.node_time(index);
                let actions = self.nodes[index].resign(now);
                self.act(index, actions)?;
            }
            Fault::Storm { seat, passing } => self.storm(seat, passing)?,
            Fault::Cut(from, to) => {
                self.network.cut.insert((from, to));
            }
            Fault::Mend(from, to) => {
                self.network.cut.remove(&(from, to));
            }
            Fault::AuthDown => {
                if let Some(auth) = &mut self.auth {
                    auth.crash();
                }
            }
            Fault::AuthUp => {
                if let Some(auth) = self.auth.as_mut().filter(|auth| !auth.up) {
                    auth.restart();
                }
            }
            Fault::AuthFromBackup => {
                if let Some(auth) = &mut self.auth {
                    auth.restore_backup();
                }
            }
            Fault::Wipe(_)
            | Fault::Resign(_)
            | Fault::Crash(_)
            | Fault::Kill(_)
            | Fault::DiskFull(_)
            | Fault::Restart(_)
            | Fault::CutLog(_) => {}
        }
        Ok(())
    }

    fn storm(&mut self, seat: usize, passing: bool) -> Result<(), Violation> {
        let members: Vec<_> =
            (0..self.nodes.len()).filter(|node| self.nodes[*node].setup.seat.index() == seat).collect();
        let active = members.iter().copied().find(|node| self.nodes[*node].up && self.nodes[*node].is_active());
        if members.is_empty() {
            return Ok(());
        }
        let any = members[self.rng.usize(0..members.len())];
        let target = active.filter(|_| self.rng.u8(0..10) < 6).unwrap_or(any);
        let soon = self.rng.u64(5_000..400_000);
        let then = |world: &mut Self, fault, undo| {
            world.schedule(soon, Event::Fault(undo));
            world.fault(fault)
        };
        if passing && self.rng.u8(0..4) > 0 {
            return match self.rng.u8(0..3) {
                0 => then(self, Fault::Cut(active.unwrap_or(any), any), Fault::Mend(active.unwrap_or(any), any)),
                _ => self.fault(Fault::Resign(active.unwrap_or(any))),
            };
        }
        match self.rng.u8(0..12) {
            0..=1 => then(self, Fault::Kill(target), Fault::Restart(target)),
            2 => then(self, Fault::Crash(target), Fault::Restart(target)),
            3..=5 => then(self, Fault::Freeze(target), Fault::Thaw(target)),
            6..=7 => self.fault(Fault::Resign(target)),
            8 => self.fault(Fault::CutLog(target)),
            9 => then(self, Fault::Wipe(target), Fault::Restart(target)),
            _ => then(self, Fault::Cut(target, any), Fault::Mend(target, any)),
        }
    }

    /// The system closes a killed process's connections; a machine that loses its power closes nothing.
    fn close_links(&mut self, index: NodeIndex, killed: bool) {
        if !killed || self.nodes[index].setup.cluster.is_none() {
            return;
        }
        for other in 0..self.nodes.len() {
            if other != index && self.are_mates(other, index) {
                for delay in self.network.delays(&mut self.rng, index, other) {
                    self.schedule(delay, Event::LinkDown(other, index));
                }
            }
        }
    }

    /// A disk may be lost as long as another member has all that the seat has said: more is a case for reconfiguration.
    fn may_wipe(&self, index: NodeIndex) -> bool {
        let node = &self.nodes[index];
        let cluster = self.cluster_of(index);
        let granted = self.auth.as_ref().zip(cluster).and_then(|(auth, cluster)| auth.grant_of(&cluster));
        let Some(grant) = granted else { return false };
        let is_whole = |other: &Node| {
            let facts = other.member().facts();
            let is_listed = grant.in_sync.contains(&other.setup.id);
            other.setup.id != node.setup.id && is_listed && facts.complete && !other.is_wiped()
        };
        let knows_newest = |other: &Node| other.member().facts().term() == grant.term;
        let in_flight = self.places[index].asked_us.is_some_and(|at| at + REQUEST_LIFE_US > self.now_us);
        node.up
            && !in_flight
            && !self.irreplaceable.contains(&index)
            && (!self.named.contains(&index) || self.may_strand(node.setup.seat))
            && !node.member().is_asking()
            && (self.nodes.iter().any(|other| is_whole(other) && knows_newest(other))
                || self.may_lose_all(index, grant))
    }

    /// The only log of a seat that the chain has named may be lost.
    fn may_lose_all(&self, index: NodeIndex, grant: &Grant) -> bool {
        let holds = grant.cause == Cause::Ordered && grant.holder_id() == self.nodes[index].setup.id;
        holds && self.may_strand(self.nodes[index].setup.seat)
    }

    /// A seat may have nobody who can speak for it, as long as it is the only faulty one.
    fn may_strand(&self, seat: Seat) -> bool {
        let is_first = self.lost_all.is_none_or(|lost| lost == seat);
        let are_correct = (0..self.nodes.len()).all(|other| self.waiting.contains(&other) || self.is_correct(other));
        is_first && are_correct && self.nodes[0].setup.genesis.seats.len() > 3 && !self.removes
    }
}
