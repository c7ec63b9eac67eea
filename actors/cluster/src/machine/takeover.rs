//! Suspecting the holder, asking for its seat, and accepting what was granted.

use standin_auth::messages::{Register, Update};
use standin_ledger::grant::{Cause, request_digest};

use super::*;
use crate::election::{Candidate, order};

/// Statements that may be lost one after the other before a member does not count as suspecting the holder any more.
const STATEMENTS_LOST: u64 = 4;
/// A holder that drains, and still holds the seat, resigns again after this time, in ms.
const DRAIN_RETRY_MS: u64 = 1_000;

/// How a member stands to the holder of the current term.
#[derive(Debug, Default)]
pub(super) struct Takeover {
    suspected: Option<(Millis, Suspicion)>,
    /// Since when the holder says that it is mute or alone.
    complains_since: Option<Millis>,
    own: Option<Statement>,
    stated_at: Option<Millis>,
    /// What the others state of this term's holder, and when they last did.
    suspicions: BTreeMap<NodeId, (Statement, Millis)>,
    resignation: Option<Statement>,
    /// Whom the holder wants to succeed it.
    successor: Option<NodeId>,
    /// The term whose holder was ordered away.
    pub(super) forced: Option<Term>,
    asked_at: Option<Millis>,
}

impl Takeover {
    pub(super) fn is_under_way(&self) -> bool {
        self.suspected.is_some()
    }

    pub(super) fn suspected(&self) -> Option<(Millis, Suspicion)> {
        self.suspected
    }

    pub(super) fn asked(&self) -> bool {
        self.asked_at.is_some()
    }

    pub(super) fn shift(&mut self, gap: u64) {
        let moved = |at: Millis| at + gap;
        self.suspected = self.suspected.map(|(at, cause)| (moved(at), cause));
        self.complains_since = self.complains_since.map(moved);
        self.suspicions.values_mut().for_each(|(_, at)| *at = moved(*at));
    }
}

impl Member {
    /// Looks at the holder, and asks for its seat where there is a ground.
    pub(super) fn check_holder(&mut self) {
        if self.identity.fixed || self.is_holder() {
            return;
        }
        if self.facts.grant.is_none() {
            self.consider_registering();
            return;
        }
        let Some(cause) = self.suspicion() else {
            (self.takeover.suspected, self.takeover.own) = (None, None);
            return;
        };
        let term = self.facts.term();
        if self.takeover.suspected.is_none() {
            self.takeover.suspected = Some((self.now, cause));
            self.report(Event::Suspected { term, cause });
        }
        let again = self.takeover.stated_at.is_none_or(|at| at + self.config.retry_ms <= self.now);
        match self.takeover.own.clone() {
            None if again => {
                self.takeover.stated_at = Some(self.now);
                self.effects.push(Effect::State(Claim::Suspicion, term));
            }
            Some(own) if again => self.on_stated(own),
            _ => {}
        }
        self.consider_asking();
    }

    fn suspicion(&mut self) -> Option<Suspicion> {
        let holder = self.holder()?;
        let neighbour = self.neighbours.get(&holder).copied();
        let hears_too_few = |heard: u16| self.seats_needed.is_some_and(|needed| usize::from(heard) < needed);
        let complains = neighbour
            .is_some_and(|n| n.pulse.term == self.facts.term() && (n.pulse.mute || hears_too_few(n.pulse.heard_seats)));
        match complains {
            true => {
                self.takeover.complains_since.get_or_insert(self.now);
            }
            false => self.takeover.complains_since = None,
        }
        let long = self.takeover.complains_since.is_some_and(|since| since + self.config.mute_ms <= self.now);
        let heard = neighbour.and_then(|n| n.heard).unwrap_or(self.started).max(self.woke);
        if self.takeover.forced == Some(self.facts.term()) {
            Some(Suspicion::Forced)
        } else if self.takeover.resignation.is_some() {
            Some(Suspicion::Resigned)
        } else if neighbour.is_some_and(|n| n.link_down) {
            Some(Suspicion::LinkDown)
        } else if heard + self.config.suspect_ms <= self.now {
            Some(Suspicion::Silence)
        } else if long && neighbour.is_some_and(|n| n.pulse.mute) {
            Some(Suspicion::Mute)
        } else if long {
            Some(Suspicion::Alone)
        } else {
            None
        }
    }

    /// S2: the table orders the candidates and never forbids.
    fn candidates(&self) -> Vec<NodeId> {
        let (holder, in_sync) = (self.holder(), self.in_sync());
        let candidate = |node: &NodeId| Candidate {
            node: *node,
            priority: self.priority_of(node),
            is_standby: self.takeover.successor == Some(*node),
            electable: Some(*node) != holder && self.identity.members.contains_key(node),
            drains: self.drains(node),
        };
        order(in_sync.iter().map(candidate))
    }

    fn rank(&self) -> Option<usize> {
        self.candidates().iter().position(|node| *node == self.identity.node)
    }

    /// Whether a member is being taken out of service, as far as this one has heard.
    pub(super) fn drains(&self, node: &NodeId) -> bool {
        match *node == self.identity.node {
            true => self.drains.is_some(),
            false => self.neighbours.get(node).is_some_and(|neighbour| neighbour.pulse.drains),
        }
    }

    /// The first of the candidates.
    pub(super) fn standby(&self) -> Option<NodeId> {
        self.candidates().first().copied()
    }

    fn consider_asking(&mut self) {
        let Some((since, cause)) = self.takeover.suspected else { return };
        // Whoever still suspects the holder says so again.
        let (now, repeated_ms) = (self.now, self.config.retry_ms.max(self.config.keep_alive_ms));
        let fresh_ms = STATEMENTS_LOST * repeated_ms;
        self.takeover.suspicions.retain(|_, (_, stated_at)| *stated_at + fresh_ms > now);
        let anyone = self.is_off(Mutation::AnyoneTakesOver);
        let may_ask = anyone || (self.is_listed() && self.is_complete());
        let Some(rank) = self.rank().or(anyone.then_some(1)).filter(|_| may_ask) else { return };
        if since + rank as u64 * self.config.rank_delay_ms > self.now
            || self.takeover.asked_at.is_some_and(|at| at + self.config.retry_ms > self.now)
        {
            return;
        }
        let holder = self.holder();
        let reachable: BTreeSet<_> = self.in_sync().into_iter().filter(|node| self.hears(node)).collect();
        let silent_about = |node: &NodeId| Some(*node) != holder && !self.takeover.suspicions.contains_key(node);
        let missing = reachable.iter().any(silent_about) || self.takeover.own.is_none();
        let needs_all = !matches!(cause, Suspicion::Resigned | Suspicion::Forced);
        if needs_all && missing && since + self.config.retry_ms > self.now {
            return;
        }
        self.ask_for_seat(reachable);
    }

    /// A member asks without sealing first: a refusal, or an auth node that is away, leaves it acknowledging as before (L5).
    fn ask_for_seat(&mut self, mut in_sync: BTreeSet<NodeId>) {
        in_sync.insert(self.identity.node);
        if self.is_off(Mutation::CandidateAdds) {
            in_sync.extend(self.mates().filter(|mate| self.hears(mate)));
        }
        // A holder that is suspected does not acknowledge anyone: it comes back by being taken in.
        if let Some(holder) = self.holder().filter(|_| self.takeover.resignation.is_none()) {
            in_sync.remove(&holder);
        }
        // Whoever was removed is no member of the new set, although it acknowledges in the old one.
        in_sync.retain(|node| self.identity.members.contains_key(node));
        self.takeover.asked_at = Some(self.now);
        let others = self.takeover.suspicions.values().map(|(statement, _)| statement.clone());
        let statements = others.chain(self.takeover.own.clone()).chain(self.takeover.resignation.clone()).collect();
        let request = Update {
            cluster: self.identity.cluster.clone(),
            term: self.facts.term(),
            in_sync,
            head: self.log.durable(),
            session: self.facts.session,
            ticket: self.facts.ticket.clone(),
            statements,
        };
        self.report(Event::Asked { term: self.facts.term(), what: "the seat" });
        // A node whose disk hangs does not ask: it could not accept what it is granted.
        self.when_durable(self.next_sequence - 1, Deferred::Ask(Box::new(Request::Update(request))));
    }

    /// R0: a cluster that never had a holder elects one from its table.
    fn consider_registering(&mut self) {
        let own = self.identity.node;
        let alive: BTreeSet<_> = self.mates().filter(|mate| self.hears(mate)).chain([own]).collect();
        let candidate = |node: &NodeId| Candidate {
            node: *node,
            priority: self.priority_of(node),
            is_standby: false,
            electable: true,
            drains: self.drains(node),
        };
        let rank = order(alive.iter().map(candidate)).iter().position(|node| *node == own).unwrap_or(0) as u64;
        let turn = self.started + 2 * self.config.suspect_ms + rank * 10 * self.config.rank_delay_ms;
        if turn > self.now || self.takeover.asked_at.is_some_and(|at| at + self.config.retry_ms > self.now) {
            return;
        }
        self.takeover.asked_at = Some(self.now);
        let (cluster, session) = (self.identity.cluster.clone(), self.facts.session);
        self.report(Event::Asked { term: Term(0), what: "the first grant" });
        let request = Request::Register(Register { cluster, in_sync: alive, session });
        self.when_durable(self.next_sequence - 1, Deferred::Ask(Box::new(request)));
    }

    pub(super) fn on_stated(&mut self, statement: Statement) {
        if statement.term != self.facts.term() {
            return;
        }
        self.takeover.stated_at = Some(self.now);
        match statement.claim {
            Claim::Suspicion => {
                self.takeover.own = Some(statement.clone());
                self.send_to_mates(&Message::Statement(statement));
                self.consider_asking();
            }
            Claim::Resignation => {
                let to = self.takeover.successor;
                self.send_to_mates(&Message::HandOver { statement, to });
            }
        }
    }

    pub(super) fn on_statement(&mut self, statement: Statement) {
        if statement.term != self.facts.term() || statement.cluster != self.identity.cluster {
            return;
        }
        let node = statement.node.node_id();
        let counts = self.identity.members.contains_key(&node) || self.in_sync().contains(&node);
        if statement.claim == Claim::Suspicion && counts {
            self.takeover.suspicions.insert(node, (statement, self.now));
            self.consider_asking();
        }
    }

    pub(super) fn on_hand_over(&mut self, statement: Statement, to: Option<NodeId>) {
        let by_holder = self.holder() == Some(statement.node.node_id());
        if statement.claim == Claim::Resignation && statement.term == self.facts.term() && by_holder {
            self.takeover.resignation = Some(statement);
            self.takeover.successor = to;
            self.check_holder();
        }
    }

    pub(super) fn on_resign(&mut self, to: Option<NodeId>) {
        if self.is_active() && !self.identity.fixed {
            self.takeover.successor = to;
            self.effects.push(Effect::State(Claim::Resignation, self.facts.term()));
        }
    }

    /// A holder that drains resigns as often as it takes, as long as somebody could succeed it who does not drain, too.
    pub(super) fn resign_if_drained(&mut self) {
        let Some(resigned) = self.drains else { return };
        let is_due = resigned.is_none_or(|at| at + DRAIN_RETRY_MS <= self.now);
        let own = self.identity.node;
        let can = |node: &NodeId| *node != own && self.hears(node) && !self.drains(node);
        if is_due && self.is_active() && self.in_sync().iter().any(can) {
            self.drains = Some(Some(self.now));
            self.on_resign(None);
        }
    }

    /// Takes in a grant that came from anywhere. A node that knows none may have lost its disk, and what it had fenced with
    /// it: the first it takes from the auth node, which knows the newest.
    pub(super) fn accept_gossip(&mut self, grant: SignedGrant) {
        if self.facts.grant.is_some() {
            self.accept(grant);
        }
    }

    /// Takes in a grant of the own cluster. Of a higher term it fences all terms below, durably (L5).
    pub(super) fn accept(&mut self, grant: SignedGrant) {
        let known = self.facts.term();
        if grant.grant.cluster != self.identity.cluster || grant.grant.term <= known {
            return;
        }
        // What the chain has ordered is of no register.
        if grant.grant.incarnation < self.facts.promised && grant.grant.cause != Cause::Ordered {
            self.report(Event::Refused(standin_auth::Refusal::Recovering));
            return;
        }
        if grant.grant.term.lineage() > known.lineage() {
            return self.name(grant);
        }
        let was_holder = self.is_holder() && self.is_active();
        let was_restarting = self.is_holder() && self.holding.as_ref().is_some_and(|holding| !holding.is_active());
        let (term, holder) = (grant.grant.term, grant.grant.holder_id());
        let follows = self.facts.grant.as_ref().is_some_and(|known| known.grant.digest() == grant.grant.previous);
        let begins = grant.grant.cause == Cause::First && self.asked_for(&grant) && self.log.head() == Mark::default();
        let in_sync = grant.grant.in_sync.clone();
        let may_count = self.facts.complete || self.facts.doubtful;
        if may_count && !in_sync.contains(&self.identity.node) {
            // First, or a crash in between would leave a log that counts as complete, and is not kept up any more.
            self.write_fence(Fact::Session { session: self.facts.session, complete: false });
        }
        self.write_fence(Fact::Granted(Box::new(grant.clone())));
        self.following.fence();
        self.takeover = Takeover { forced: self.takeover.forced, ..Takeover::default() };
        self.report(Event::Granted { term, holder, in_sync });
        if begins {
            self.write_fence(Fact::Session { session: self.facts.session, complete: true });
        }
        self.when_durable(self.fence_sequence, Deferred::Fenced(term));
        self.forget_strangers();
        if self.is_holder() {
            let ticket = self.facts.ticket.clone();
            self.send_to_mates(&Message::Grant { grant, ticket });
            if was_holder {
                self.when_durable(self.fence_sequence, Deferred::Rebase);
            } else if (was_restarting || (self.is_complete() && !follows && !begins)) && self.in_sync().len() > 1 {
                // L4: this node was the holder before, or may have been, in a life that it does not remember.
                self.ask_members_first();
            } else if self.is_complete() {
                self.holding = None;
                self.when_durable(self.fence_sequence, Deferred::Activate);
            } else {
                self.report(Event::CannotActivate { term });
            }
        } else if let Some(holding) = self.holding.take() {
            self.following.released = self.following.released.max(holding.released);
            self.effects.push(Effect::Rebuild);
        }
        if self.is_off(Mutation::LoserDeletes) && !self.is_holder() && self.is_listed() {
            self.write(NodeRecord::BeginAt(Mark::default()));
            self.log = LogCopy::new(self.log.describe(), Mark::default());
            self.effects.push(Effect::Rebuild);
        }
    }

    /// E2: the chain has named the seat since. Before the log goes, all that it says to be final must be durable in the store: if all
    /// seats were named, it might be nowhere else. A log that holds nothing can go at once.
    fn name(&mut self, grant: SignedGrant) {
        let up_to = match self.named.take() {
            Some((known, up_to)) if known.grant.term >= grant.grant.term => return self.named = Some((known, up_to)),
            Some((_, up_to)) => up_to,
            None => Some(Height(0)).filter(|_| self.log.head() == Mark::default()),
        };
        self.named = Some((grant, up_to));
        self.consider_founding();
    }

    /// The replica has read the log, and says up to where that knows blocks to be final.
    pub(super) fn on_final(&mut self, height: Height) {
        if let Some((_, up_to @ None)) = &mut self.named {
            *up_to = Some(height);
            self.consider_founding();
        }
    }

    pub(super) fn consider_founding(&mut self) {
        let stored = self.stored;
        if let Some((grant, _)) = self.named.take_if(|(_, up_to)| up_to.is_some_and(|up_to| up_to <= stored)) {
            self.found(grant);
        }
    }

    /// The chain has named the seat since. Nothing that was said for it in the lineage before counts any more, and its log is
    /// deleted. The holder that the chain has named begins the new log, if its disk is still the one that was named: on one that is
    /// lost it may have begun before, and not know of it. Everyone else follows.
    fn found(&mut self, grant: SignedGrant) {
        let (term, holder, in_sync) = (grant.grant.term, grant.grant.holder_id(), grant.grant.in_sync.clone());
        let is_named = grant.grant.cause == Cause::Ordered && holder == self.identity.node;
        let is_disk = self.is_answer_to(&grant, self.facts.disk) || self.is_off(Mutation::FoundAgain);
        let begins = is_named && is_disk;
        let session = self.facts.session + 1;
        self.facts.found(&grant, session, begins);
        let record = NodeRecord::Founded { grant: Box::new(grant.clone()), session, complete: begins };
        self.fence_sequence = self.write(record);
        self.log = LogCopy::new(self.log.describe(), Mark::default());
        self.following = Following::default();
        self.takeover = Takeover::default();
        self.holding = None;
        self.effects.push(Effect::Rebuild);
        self.report(Event::Granted { term, holder, in_sync });
        self.when_durable(self.fence_sequence, Deferred::Fenced(term));
        self.forget_strangers();
        if !self.is_holder() {
            return;
        }
        let ticket = self.facts.ticket.clone();
        self.send_to_mates(&Message::Grant { grant, ticket });
        if begins {
            self.when_durable(self.fence_sequence, Deferred::Activate);
        } else {
            self.report(Event::CannotActivate { term });
        }
    }

    /// Whether this node asked for this grant, in the session in which its log is now.
    pub(super) fn asked_for(&self, grant: &SignedGrant) -> bool {
        self.is_answer_to(grant, self.facts.session)
    }

    fn is_answer_to(&self, grant: &SignedGrant, log: u64) -> bool {
        grant.grant.request == request_digest(&self.identity.node, Term(0), &grant.grant.in_sync, Some(log))
    }
}
