//! Results of checkpoints, compared inside the cluster before the seat votes for one (C1).

use standin_foundation::Digest;

use super::*;

/// Results that are remembered, and told again, until they are proven: the window of slots bounds them, too.
const RESULTS_MAX: usize = 128;

/// What was computed here, and by the others.
#[derive(Debug, Default)]
pub(super) struct Results {
    own: BTreeMap<Height, Digest>,
    told: BTreeMap<Height, BTreeMap<NodeId, Digest>>,
    /// Decided by f+1 equal votes of other seats.
    decided: BTreeMap<Height, Digest>,
    agreed: Height,
    disputed: BTreeSet<Height>,
    /// Members whose results were decided against: how many have agreed since.
    wrong: BTreeMap<NodeId, u32>,
}

fn bound<T>(results: &mut BTreeMap<Height, T>) {
    while results.len() > RESULTS_MAX {
        results.pop_first();
    }
}

impl Member {
    /// This node computed a result. As holder it votes for it once all members agree.
    pub(super) fn on_computed(&mut self, height: Height, digest: Digest) {
        self.results.own.insert(height, digest);
        bound(&mut self.results.own);
        self.tell_results();
        self.consider_results();
    }

    /// A follower tells its holder what it computed: at once, and again with each pulse, since it may be lost.
    pub(super) fn tell_results(&mut self) {
        let Some(holder) = self.holder().filter(|holder| *holder != self.identity.node) else { return };
        let own: Vec<_> = self.results.own.iter().map(|(height, digest)| (*height, *digest)).collect();
        if !own.is_empty() {
            self.send(holder, Message::Results(own));
        }
    }

    pub(super) fn on_results(&mut self, from: NodeId, results: Vec<(Height, Digest)>) {
        for (height, digest) in results.into_iter().take(RESULTS_MAX) {
            self.results.told.entry(height).or_default().insert(from, digest);
        }
        bound(&mut self.results.told);
        self.consider_results();
    }

    /// f+1 equal votes of other seats: at least one of them is correct.
    pub(super) fn on_decided(&mut self, height: Height, digest: Digest) {
        self.results.decided.insert(height, digest);
        bound(&mut self.results.decided);
        self.consider_results();
    }

    /// A quorum of seats has proven a result: what lies at or below needs no vote any more.
    pub(super) fn on_proven(&mut self, height: Height) {
        let Results { own, told, decided, disputed, agreed, .. } = &mut self.results;
        own.retain(|at, _| *at > height);
        told.retain(|at, _| *at > height);
        decided.retain(|at, _| *at > height);
        disputed.retain(|at| *at > height);
        if height > *agreed {
            *agreed = height;
            self.consider_results();
        }
    }

    /// Goes through the own results that are not agreed on, in order.
    pub(super) fn consider_results(&mut self) {
        if !self.is_active() {
            return;
        }
        let open: Vec<_> = self.results.own.range(self.results.agreed.next()..).map(|(h, d)| (*h, *d)).collect();
        for (height, own) in open {
            if !self.consider_result(height, own) {
                return;
            }
        }
    }

    fn consider_result(&mut self, height: Height, own: Digest) -> bool {
        let required: BTreeSet<_> =
            self.required().into_iter().filter(|node| !self.results.wrong.contains_key(node)).collect();
        let told = self.results.told.get(&height).cloned().unwrap_or_default();
        let differing: Vec<_> =
            required.iter().filter(|node| told.get(*node).is_some_and(|d| *d != own)).copied().collect();
        if !differing.is_empty() {
            if self.results.disputed.insert(height) {
                self.report(Event::Disputed { height, members: differing.clone() });
            }
            match self.results.decided.get(&height) {
                None => return false,
                Some(decided) if *decided != own => {
                    // This node is the one that is wrong. It has not voted, and leaves the seat to another.
                    self.report(Event::WrongHere { height });
                    self.effects.push(Effect::State(Claim::Resignation, self.facts.term()));
                    return false;
                }
                Some(_) => self.results.wrong.extend(differing.into_iter().map(|node| (node, 0))),
            }
        }
        let wrong = &self.results.wrong;
        let missing = required.iter().any(|node| !wrong.contains_key(node) && !told.contains_key(node));
        if missing {
            return false;
        }
        for (node, digest) in &told {
            if let Some(since) = self.results.wrong.get_mut(node) {
                *since = if *digest == own { since.saturating_add(1) } else { 0 };
            }
        }
        let enough = self.config.agreements_after_wrong;
        self.results.wrong.retain(|_, since| *since < enough);
        self.results.agreed = height;
        self.effects.push(Effect::Agreed(height));
        true
    }

    /// Members whose results were wrong, and that have not agreed often enough since.
    pub(super) fn wrong_members(&self) -> BTreeSet<NodeId> {
        self.results.wrong.keys().copied().collect()
    }

    /// A new holder's results may not have been voted for: it asks its members anew.
    pub(super) fn reopen_results(&mut self) {
        self.results.agreed = Height(0);
    }
}
