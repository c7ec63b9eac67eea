//! From the disk to a member; and a holder that comes back (L4).

use standin_ledger::grant::Cause;

use super::*;
use crate::messages::Pulse;

/// A restarted holder that asks its members where their logs stand.
#[derive(Debug, Default)]
pub(super) struct Restarting {
    /// Members that have not answered.
    missing: BTreeSet<NodeId>,
    /// The longest log that extends the own: who has it, and where it ends.
    longest: Option<(NodeId, Lsn)>,
    asked_at: Option<Millis>,
}

/// What a node finds when it starts.
#[derive(Debug, Default)]
pub struct Found {
    /// The records of its log, with their numbers.
    pub records: Vec<(u64, NodeRecord)>,
    /// Number of the next record.
    pub next_sequence: u64,
    /// A torn end of the log was cut.
    pub torn: bool,
    /// Names the session of a log that has none yet: no log of this node may ever have had the same.
    pub new_session: u64,
}

impl Member {
    /// A member as its disk says it was. What is to be done comes with the first step.
    pub fn open(identity: Identity, config: Config, describe: Describe, found: Found, now: Millis) -> Self {
        Self::blank(identity, config, describe, now).begin(found)
    }

    /// As [`Member::open`], with one rule switched off from the beginning.
    #[cfg(feature = "mutations")]
    pub fn open_mutated(
        identity: Identity,
        config: Config,
        describe: Describe,
        found: Found,
        now: Millis,
        mutation: Option<Mutation>,
    ) -> Self {
        Self { mutation, ..Self::blank(identity, config, describe, now) }.begin(found)
    }

    fn blank(identity: Identity, config: Config, describe: Describe, now: Millis) -> Self {
        let own = identity.node;
        let neighbour = |priority: &u8| Neighbour {
            pulse: Pulse { priority: *priority, ..Pulse::default() },
            ..Neighbour::default()
        };
        let mates = identity.members.iter().filter(|(node, _)| **node != own);
        let neighbours = mates.map(|(node, priority)| (*node, neighbour(priority))).collect();
        Self {
            identity,
            config,
            mutation: None,
            facts: Facts::default(),
            log: LogCopy::new(describe, Mark::default()),
            next_sequence: 1,
            durable_sequence: 0,
            fence_sequence: 0,
            deferred: VecDeque::new(),
            neighbours,
            following: Following::default(),
            holding: None,
            takeover: Takeover::default(),
            results: Results::default(),
            register_count: RegisterCount::NONE,
            register: Incarnation(0),
            recalled_at: None,
            executed: Height(0),
            stored: Height(0),
            named: None,
            seats_heard: Vec::new(),
            seats_needed: None,
            started: now,
            now,
            drains: None,
            woke: now,
            pulse_due: now,
            collects: false,
            effects: Vec::new(),
        }
    }

    fn begin(mut self, found: Found) -> Self {
        self.next_sequence = found.next_sequence.max(1);
        self.durable_sequence = self.next_sequence - 1;
        for (sequence, record) in found.records {
            self.replay(sequence, record);
        }
        self.log.persisted(self.durable_sequence);
        self.know_required();
        self.following.released = self.log.base().lsn;
        self.begin_life(found.torn, found.new_session);
        self
    }

    fn replay(&mut self, sequence: u64, record: NodeRecord) {
        match record {
            NodeRecord::Entry(entry) => {
                if self.log.head().lsn + 1 != entry.lsn {
                    // The log's front was cut: what stood before is void.
                    let base = Mark { lsn: entry.lsn - 1, hash: Default::default() };
                    self.log = LogCopy::new(self.log.describe(), base);
                }
                self.log.append(entry, sequence);
            }
            NodeRecord::CutBack { to } => self.log.cut_back(to),
            NodeRecord::BeginAt(base) => {
                self.log = LogCopy::new(self.log.describe(), base);
                self.facts.base = base;
            }
            NodeRecord::Fact(fact) => self.facts.note(&fact),
            NodeRecord::Founded { grant, session, complete } => {
                self.log = LogCopy::new(self.log.describe(), Mark::default());
                self.facts.found(&grant, session, complete);
            }
            NodeRecord::Facts(facts) => {
                self.log.cut_front(facts.base.lsn + 1);
                self.log.set_base(facts.base);
                self.facts = *facts;
            }
        }
    }

    fn begin_life(&mut self, torn: bool, new_session: u64) {
        let goes_on = self.is_off(Mutation::RestartAlone) && self.facts.incarnation > Incarnation(0);
        self.write_fence(Fact::Life(if goes_on { self.facts.incarnation } else { self.facts.incarnation.next() }));
        if self.facts.session == 0 {
            self.write_fence(Fact::Session { session: new_session, complete: self.identity.fixed });
        }
        let alone = self.is_holder() && self.in_sync().len() == 1;
        if torn && !alone {
            // L9: what was cut may have been acknowledged, so what was acknowledged in the session before counts no more. The
            // holder, or all members together, say whether anything is missing.
            let doubtful = self.facts.complete || self.facts.doubtful;
            self.write_fence(Fact::Session { session: self.facts.session + 1, complete: false });
            if doubtful {
                self.write_fence(Fact::Doubtful);
            }
        }
        if !self.is_holder() {
            return;
        }
        let first = self.facts.grant.clone().filter(|grant| grant.grant.cause == Cause::First);
        if !self.facts.complete
            && self.log.head() == Mark::default()
            && first.is_some_and(|grant| self.asked_for(&grant))
        {
            // The grant was durable, and that the log is complete was not.
            self.write_fence(Fact::Session { session: self.facts.session, complete: true });
        }
        if alone || self.is_off(Mutation::RestartAlone) {
            self.when_durable(self.fence_sequence, Deferred::Activate);
        } else if self.is_complete() || self.facts.doubtful {
            self.ask_members_first();
        }
    }

    /// Holds the seat, but speaks only after all members have said where their logs stand.
    pub(super) fn ask_members_first(&mut self) {
        let own = self.identity.node;
        let missing = self.in_sync().into_iter().filter(|node| *node != own).collect();
        self.hold().restarting = Some(Restarting { missing, ..Restarting::default() });
    }

    /// A member whose log begins above the own head has dropped what is missing here: this node cannot go on from its log.
    pub(super) fn on_head_while_restarting(&mut self, from: NodeId, (base, head): (Lsn, Lsn), extends: bool) {
        let own = self.log.head().lsn;
        if base > own {
            self.report(Event::Contradicted { lsn: own });
            return;
        }
        let Some(restarting) = self.holding.as_mut().and_then(|holding| holding.restarting.as_mut()) else { return };
        restarting.missing.remove(&from);
        if extends && head > own && restarting.longest.is_none_or(|(_, longest)| head > longest) {
            restarting.longest = Some((from, head));
        }
        self.go_on_restarting();
    }

    /// Adopts the longest log that extends the own, once all members have answered; then begins as a new holder does.
    fn go_on_restarting(&mut self) {
        let head = self.log.head();
        let Some(holding) = &mut self.holding else { return };
        let writer = holding.writer;
        let Some(restarting) = holding.restarting.as_mut().filter(|restarting| restarting.missing.is_empty()) else {
            return;
        };
        match restarting.longest {
            Some((node, longest)) if longest > head.lsn => {
                restarting.asked_at = Some(self.now);
                self.send(node, Message::FetchTail { writer, after: head });
            }
            _ => {
                // What all members have is all that was ever released.
                if !self.facts.complete {
                    self.write_fence(Fact::Session { session: self.facts.session, complete: true });
                }
                self.holding = None;
                self.when_durable(self.next_sequence - 1, Deferred::Activate);
            }
        }
    }

    pub(super) fn on_tail(&mut self, from: NodeId, writer: Writer, previous: Mark, entries: Vec<Entry>) {
        let restarting = self.holding.as_ref().filter(|h| h.writer == writer).and_then(|h| h.restarting.as_ref());
        let was_asked = restarting.and_then(|restarting| restarting.longest).is_some_and(|(node, _)| node == from);
        if !was_asked || previous != self.log.head() {
            return;
        }
        for entry in entries {
            if entry.lsn == self.log.head().lsn + 1 && self.log.is_chained(&entry) {
                self.append(entry.clone());
                self.effects.push(Effect::Follow(entry));
            }
        }
        self.go_on_restarting();
    }

    /// What was asked while restarting and got no answer is asked again.
    pub(super) fn check_restart(&mut self) {
        let (now, retry) = (self.now, self.config.retry_ms);
        let Some(restarting) = self.holding.as_ref().and_then(|holding| holding.restarting.as_ref()) else { return };
        if restarting.asked_at.is_some_and(|at| at + retry <= now) {
            self.go_on_restarting();
        }
    }
}
