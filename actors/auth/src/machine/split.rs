//! S4: the sites have lost each other, and not the auth node. No part of them is a quorum by itself, so clusters are moved to one site
//! from which it is. Nothing of this is kept: it follows from what the holders have said within the last moments.

use super::*;

/// What the holder says of how many other seats it hears, and who could take over.
#[derive(Debug, Clone, Default)]
pub(super) struct Split {
    /// Since when holders of this cluster have heard too few, and when one said so last.
    alone: Option<(Millis, Millis)>,
    /// Nodes that could take over, by the record of this version, with their sites.
    candidates: (u64, BTreeMap<NodeId, String>),
}

impl Split {
    /// The record is this one now.
    pub(super) fn note_record(&mut self, record: &Record) {
        let Some(grant) = record.grant.as_ref().filter(|_| self.candidates.0 != record.version) else { return };
        let may = |node: &NodeId| grant.in_sync.contains(node) && !record.not_electable.contains(node);
        let members = record.admitted.iter().filter(|(node, _)| may(node));
        self.candidates = (record.version, members.map(|(node, member)| (*node, member.site.clone())).collect());
    }
}

impl Auth {
    /// A holder says how many other seats it hears.
    pub(super) fn note_seats_heard(&mut self, now: Millis, cluster: &ClusterId, heard: u16) {
        let (needed, gap) = (2 * faulty_max(self.seats()), 4 * self.config.live_ms);
        let Some(watch) = self.watches.get_mut(cluster) else { return };
        // Of what was said before a silence nothing follows.
        let before = watch.split.alone.filter(|(_, last)| now - *last <= gap).map(|(since, _)| since);
        watch.split.alone = (usize::from(heard) < needed).then_some((before.unwrap_or(now), now));
        self.choose_refuge(now);
    }

    /// The term of a cluster that is to end, since the cluster is to move.
    pub fn moves_from(&self, now: Millis, cluster: &ClusterId) -> Option<Term> {
        self.move_of(now, cluster).map(|(term, _)| term)
    }

    /// The term that is to end, and the site to which the cluster is to move: while its holder says that it is cut off, stands
    /// elsewhere, and somebody lives there who could take over.
    pub(super) fn move_of(&self, now: Millis, cluster: &ClusterId) -> Option<(Term, &String)> {
        let ((site, _), watch) = (self.refuge.as_ref()?, self.watches.get(cluster)?);
        let stands_there = watch.holder.is_some_and(|holder| watch.split.candidates.1.get(&holder) == Some(site));
        let moves = self.is_split(now) && self.is_alone(now, watch) && !stands_there;
        (moves && watch.lives_at(now, site, self.config.live_ms)).then_some((watch.term, site))
    }

    /// One site for the whole of a split: others from which a quorum could speak are looked for only when that has been dead for long.
    fn choose_refuge(&mut self, now: Millis) {
        if !self.is_split(now) {
            self.refuge = None;
            return;
        }
        let kept = self.refuge.take().filter(|(_, lived)| now - *lived <= self.config.age_max_ms);
        let could_speak = |site: &String| {
            let lives = self.watches.values().filter(|watch| watch.lives_at(now, site, self.config.live_ms));
            lives.count() + faulty_max(self.seats()) >= self.seats()
        };
        let chosen = || self.config.split_preference.iter().find(|site| could_speak(site)).cloned();
        self.refuge = match kept {
            Some((site, lived)) => {
                let lives = could_speak(&site);
                Some((site, if lives { now } else { lived }))
            }
            None => chosen().map(|site| (site, now)),
        };
    }

    /// More than f holders hear too few others for long, and so many are heard here that no dead ones can be the reason.
    fn is_split(&self, now: Millis) -> bool {
        let faulty = faulty_max(self.seats());
        let lives = |watch: &&Watch| now - watch.holder_heard <= self.config.live_ms;
        let alone = self.watches.values().filter(|watch| self.is_alone(now, watch)).count();
        alone > faulty && self.watches.values().filter(lives).count() + faulty >= self.seats()
    }

    fn is_alone(&self, now: Millis, watch: &Watch) -> bool {
        let Config { split_after_ms, live_ms, .. } = &self.config;
        watch.split.alone.is_some_and(|(since, last)| since + *split_after_ms <= now && now - last <= *live_ms)
    }
}

impl Watch {
    /// Whether a node at this site lives that could hold the seat, or does.
    fn lives_at(&self, now: Millis, site: &str, live_ms: u64) -> bool {
        let lives = |node: &NodeId| self.heard.get(node).is_some_and(|at| now - *at <= live_ms);
        self.split.candidates.1.iter().any(|(node, at)| at == site && lives(node))
    }
}
