//! S4: the sites have lost each other, and not the auth node. No part of them is a quorum by itself, so clusters are moved to one site
//! from which it is.

use standin_ledger::certificate::faulty_max;

use super::*;

/// What holders say of how many other seats they hear, and to where their clusters are to move.
#[derive(Debug, Clone, Default)]
pub(super) struct Split {
    /// Since when the holder of the newest term has heard too few.
    alone_since: Option<Millis>,
    /// The term that is to end, and the site to which the cluster is to move.
    pub(super) moves: Option<(Term, String)>,
    /// Nodes that could take over, by the record of this version, with their sites.
    candidates: (u64, BTreeMap<NodeId, String>),
}

impl Split {
    /// The record is this one now.
    pub(super) fn note_record(&mut self, record: &Record) {
        let Some(grant) = record.grant.as_ref().filter(|_| self.candidates.0 != record.version) else { return };
        if self.moves.as_ref().is_some_and(|(term, _)| *term != grant.term) {
            *self = Self::default();
        }
        let may = |node: &NodeId| grant.in_sync.contains(node) && !record.not_electable.contains(node);
        let members = record.admitted.iter().filter(|(node, _)| may(node));
        self.candidates = (record.version, members.map(|(node, member)| (*node, member.site.clone())).collect());
    }
}

impl Auth {
    /// A holder says how many other seats it hears.
    pub(super) fn note_seats_heard(&mut self, now: Millis, cluster: &ClusterId, heard: u16) {
        let needed = 2 * faulty_max(self.config.seats);
        let Some(watch) = self.watches.get_mut(cluster) else { return };
        if usize::from(heard) < needed {
            watch.split.alone_since.get_or_insert(now);
        } else {
            (watch.split.alone_since, watch.split.moves) = (None, None);
        }
        if watch.split.alone_since.is_some() {
            self.consider_moving(now, cluster);
        }
    }

    /// The term of a cluster that is to end, since the cluster is to move.
    pub fn moves_from(&self, cluster: &ClusterId) -> Option<Term> {
        self.move_of(cluster).map(|(term, _)| *term)
    }

    /// The term that is to end, and the site to which the cluster is to move.
    pub(super) fn move_of(&self, cluster: &ClusterId) -> Option<&(Term, String)> {
        self.watches.get(cluster)?.split.moves.as_ref()
    }

    fn consider_moving(&mut self, now: Millis, cluster: &ClusterId) {
        let Some(site) = self.refuge(now).cloned() else { return };
        let Some(watch) = self.watches.get_mut(cluster) else { return };
        let stands_there = watch.holder.is_some_and(|holder| watch.split.candidates.1.get(&holder) == Some(&site));
        if !stands_there && watch.lives_at(now, &site, self.config.live_ms) {
            watch.split.moves.get_or_insert((watch.term, site));
        }
    }

    /// More than f holders hear too few others for long: the first of the listed sites from which a quorum of seats could speak.
    fn refuge(&self, now: Millis) -> Option<&String> {
        let faulty = faulty_max(self.config.seats);
        let is_alone = |watch: &&Watch| {
            let long = watch.split.alone_since.is_some_and(|since| since + self.config.split_after_ms <= now);
            long && now - watch.holder_heard <= self.config.live_ms
        };
        if self.watches.values().filter(is_alone).count() <= faulty {
            return None;
        }
        let could_speak = |site: &&String| {
            let lives = self.watches.values().filter(|watch| watch.lives_at(now, site, self.config.live_ms));
            lives.count() + faulty >= self.config.seats
        };
        self.config.split_preference.iter().find(could_speak)
    }
}

impl Watch {
    /// Whether a node at this site lives that could hold the seat, or does.
    fn lives_at(&self, now: Millis, site: &str, live_ms: u64) -> bool {
        let lives = |node: &NodeId| self.heard.get(node).is_some_and(|at| now - *at <= live_ms);
        self.split.candidates.1.iter().any(|(node, at)| at == site && lives(node))
    }
}
