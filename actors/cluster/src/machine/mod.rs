//! The member machine: inputs and time in, effects out. No clock, randomness, I/O, threads or unordered iteration.

mod following;
mod holding;
mod log_copy;
mod neighbours;
mod restart;
mod results;
mod takeover;
#[cfg(test)]
mod tests;
mod view;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use standin_auth::messages::{Answer, RegisterCount, Request};
use standin_auth::{Claim, Statement};
use standin_foundation::{ClusterId, Digest, Height, Incarnation, Lsn, Millis, NodeId, Term, Writer};
use standin_ledger::SignedGrant;

pub use log_copy::{Describe, Description};
pub use restart::Found;
pub use view::{MateView, View};

use crate::config::Config;
use crate::effect::{Effect, Event, Input, Suspicion};
use crate::messages::{Entry, Fact, Facts, Mark, Message, NodeRecord};
use crate::mutation::Mutation;
use following::Following;
use holding::Holding;
use log_copy::LogCopy;
use neighbours::Neighbour;
use results::Results;
use takeover::Takeover;

/// What a member must know of itself and its cluster.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The node.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// The members, with their priorities: the higher, the earlier. The node itself is one of them.
    pub members: BTreeMap<NodeId, u8>,
    /// The seat is held by this node for ever, in term 0: a chain without an auth node.
    pub fixed: bool,
}

/// What must wait until the node's log is durable.
#[derive(Debug)]
enum Deferred {
    Ask(Box<Request>),
    Activate,
    Rebase,
    Fenced(Term),
    Head { to: NodeId, writer: Writer, round: u64, probed: Option<Mark> },
    Cut(u64),
}

/// A member of a cluster.
#[derive(Debug)]
pub struct Member {
    identity: Identity,
    config: Config,
    mutation: Option<Mutation>,
    facts: Facts,
    log: LogCopy,
    /// Number of the next record of the node's log, and of the last that is durable.
    next_sequence: u64,
    durable_sequence: u64,
    /// No acknowledgement leaves before this record is durable: the last fact that acknowledgements depend on.
    fence_sequence: u64,
    deferred: VecDeque<(u64, Deferred)>,
    neighbours: BTreeMap<NodeId, Neighbour>,
    following: Following,
    holding: Option<Holding>,
    takeover: Takeover,
    results: Results,
    register_count: RegisterCount,
    /// The register's life, by the auth node's last answer to this node; zero before one has come.
    register: Incarnation,
    /// When it was last told what this node knows.
    recalled_at: Option<Millis>,
    executed: Height,
    stored: Height,
    /// The first grant that is known of a new lineage, and up to where blocks must be durable in the store before it is accepted, once
    /// that is known.
    named: Option<(SignedGrant, Option<Height>)>,
    /// When each other seat that is heard was heard last.
    seats_heard: Vec<Millis>,
    /// How many of them a holder must hear; none before the replica has said so.
    seats_needed: Option<usize>,
    /// The node is being taken out of service: when it last resigned since, if it did.
    drains: Option<Option<Millis>>,
    started: Millis,
    now: Millis,
    woke: Millis,
    pulse_due: Millis,
    /// In this step the members are sent what nothing waits for, too.
    collects: bool,
    effects: Vec<Effect>,
}

impl Member {
    /// Tells the machine a fact; what must be done about it comes back, in order.
    pub fn step(&mut self, now: Millis, input: Input) -> Vec<Effect> {
        self.note_pause(now);
        self.now = self.now.max(now);
        match input {
            Input::Tick => self.on_tick(),
            Input::Append(records) => self.on_append(records),
            Input::Persisted(sequence) => self.on_persisted(sequence),
            Input::Received { from, message } => self.on_message(from, message),
            Input::LinkDown(node) => self.on_link_down(node),
            Input::Granted(grant) => self.accept_gossip(grant),
            Input::Answered(answer) => self.on_answer(answer),
            Input::Stated(statement) => self.on_stated(statement),
            Input::Members(members) => self.on_members(members),
            Input::SeatsHeard { ages, needed } => {
                self.seats_needed = Some(needed);
                self.seats_heard = ages.into_iter().map(|age| Millis(self.now.0.saturating_sub(age))).collect();
            }
            Input::Executed(height) => self.executed = self.executed.max(height),
            Input::Final(height) => self.on_final(height),
            Input::Stored(height) => {
                self.stored = self.stored.max(height);
                self.following.answer_again();
                self.cut_front();
                self.consider_founding();
            }
            Input::Computed(height, digest) => self.on_computed(height, digest),
            Input::Decided(height, digest) => self.on_decided(height, digest),
            Input::Proven(height) => self.on_proven(height),
            Input::Resign(to) => self.on_resign(to),
            Input::Drain(drains) => {
                self.drains = drains.then_some(None);
                self.resign_if_drained();
            }
        }
        self.push_to_all();
        self.collects = false;
        self.acknowledge();
        std::mem::take(&mut self.effects)
    }

    /// When the machine wants to be told [`Input::Tick`] at the latest.
    pub fn deadline(&self) -> Millis {
        if self.identity.fixed {
            return Millis(u64::MAX);
        }
        let quick = self.takeover.is_under_way() || self.holding.as_ref().is_some_and(|holding| holding.is_waiting());
        if quick { self.pulse_due.min(self.now + self.config.keep_alive_ms / 5) } else { self.pulse_due }
    }

    /// The seat's log as it is here, from its base on.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.log.entries()
    }

    /// Whether a record of the log here carries this payload.
    pub fn carries(&self, payload: &Digest) -> bool {
        self.log.carries(payload)
    }

    /// Up to here this node has executed, as far as it was told.
    pub fn executed(&self) -> Height {
        self.executed
    }

    /// What is durably known, and what has been written of it.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Whether this node speaks for the seat.
    pub fn is_active(&self) -> bool {
        self.holding.as_ref().is_some_and(|holding| holding.is_active())
    }

    /// What has been released, as far as this node knows.
    pub fn released(&self) -> Lsn {
        self.holding.as_ref().map_or(self.following.released, |holding| holding.released)
    }

    /// The last place of the log.
    pub fn head(&self) -> Mark {
        self.log.head()
    }

    /// Up to where blocks must be durable in the store before the log can be cut at the front, or counts as complete; none
    /// while nothing waits for it.
    pub fn wants_stored(&self) -> Option<Height> {
        let founded = Some(self.log.base_height()).filter(|_| !self.facts.complete);
        let (_, height) = self.log.released_base(self.released()).unwrap_or_default();
        // A log that is to go need not become complete any more.
        let named = self.named.as_ref().map(|(_, up_to)| up_to.unwrap_or_default());
        Some(named.unwrap_or(founded.unwrap_or_default().max(height))).filter(|height| *height > self.stored)
    }

    /// A seat that one node holds for ever pushes its log to nobody, and is never followed: it need not keep in memory what the
    /// disk holds. Otherwise nothing happens.
    pub fn forget_contents(&mut self) {
        if self.identity.fixed {
            self.log.forget_contents();
        }
    }

    /// Whether this node has asked for a grant that it may yet get.
    pub fn is_asking(&self) -> bool {
        !self.facts.asked.is_empty() || self.takeover.asked()
    }

    /// The holder, by the newest grant.
    pub fn holder(&self) -> Option<NodeId> {
        if self.identity.fixed {
            return Some(self.identity.node);
        }
        self.facts.grant.as_ref().map(|grant| grant.grant.holder_id())
    }

    /// Whether a node is another member of the cluster.
    pub fn is_mate(&self, node: &NodeId) -> bool {
        *node != self.identity.node && self.identity.members.contains_key(node)
    }

    /// Whether enough other seats have been heard at or after this time to act against a member (S1).
    fn heard_enough_since(&self, at: Millis) -> bool {
        let heard = self.seats_heard.iter().filter(|heard| **heard >= at).count();
        self.seats_needed.is_some_and(|needed| heard >= needed)
    }

    /// Whether everything that was released is in the log here (L7).
    fn is_complete(&self) -> bool {
        self.facts.complete || self.is_off(Mutation::AlwaysComplete) || self.is_off(Mutation::AnyoneTakesOver)
    }

    fn is_listed(&self) -> bool {
        self.facts.grant.as_ref().is_some_and(|grant| grant.grant.in_sync.contains(&self.identity.node))
    }

    fn is_holder(&self) -> bool {
        self.holder() == Some(self.identity.node)
    }

    fn is_off(&self, rule: Mutation) -> bool {
        self.mutation == Some(rule)
    }

    /// The current set; of a fixed seat the node alone.
    fn in_sync(&self) -> BTreeSet<NodeId> {
        match &self.facts.grant {
            Some(grant) => grant.grant.in_sync.clone(),
            None => [self.identity.node].into(),
        }
    }

    fn send(&mut self, to: NodeId, message: Message) {
        if let Some(neighbour) = self.neighbours.get_mut(&to) {
            neighbour.told = Some(self.now);
        }
        self.effects.push(Effect::Send { to, message });
    }

    fn report(&mut self, event: Event) {
        self.effects.push(Effect::Report(event));
    }

    fn write(&mut self, record: NodeRecord) -> u64 {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.effects.push(Effect::Write { sequence, record });
        sequence
    }

    fn write_fact(&mut self, fact: Fact) -> u64 {
        self.facts.note(&fact);
        self.write(NodeRecord::Fact(fact))
    }

    /// Writes a fact that every later acknowledgement depends on.
    fn write_fence(&mut self, fact: Fact) -> u64 {
        self.fence_sequence = self.write_fact(fact);
        self.fence_sequence
    }

    fn append(&mut self, entry: Entry) {
        let sequence = self.write(NodeRecord::Entry(entry.clone()));
        if self.log.append(entry, sequence) {
            self.effects.push(Effect::Sync);
        }
        self.forget_contents();
    }

    fn when_durable(&mut self, sequence: u64, deferred: Deferred) {
        if sequence > self.durable_sequence {
            self.effects.push(Effect::Sync);
        }
        self.deferred.push_back((sequence, deferred));
        self.carry_out_deferred();
    }

    fn on_persisted(&mut self, sequence: u64) {
        self.durable_sequence = self.durable_sequence.max(sequence);
        self.log.persisted(self.durable_sequence);
        self.carry_out_deferred();
        self.release();
        self.cut_front();
    }

    fn carry_out_deferred(&mut self) {
        while self.deferred.front().is_some_and(|(sequence, _)| *sequence <= self.durable_sequence) {
            let Some((_, deferred)) = self.deferred.pop_front() else { return };
            match deferred {
                Deferred::Ask(request) => self.effects.push(Effect::Ask(*request)),
                Deferred::Activate => self.activate(),
                Deferred::Rebase => self.rebase(),
                Deferred::Fenced(term) => self.report(Event::Fenced { term }),
                Deferred::Head { to, writer, round, probed } => self.send_head(to, writer, round, probed),
                Deferred::Cut(sequence) => self.effects.push(Effect::CutBefore(sequence)),
            }
        }
    }

    /// Drops what stands before a base that has been released: nobody will ever cut back behind it. Blocks that are not
    /// durable in the store may be needed from the log.
    fn cut_front(&mut self) {
        let released = if self.is_off(Mutation::CutEarly) { self.log.head().lsn } else { self.released() };
        let Some((from, _)) = self.log.released_base(released).filter(|(_, height)| *height <= self.stored) else {
            return;
        };
        let Some(sequence) = self.log.sequence_of(from) else { return };
        self.log.cut_front(from);
        self.facts.base = self.log.base();
        let written = self.write(NodeRecord::Facts(Box::new(self.facts.clone())));
        self.when_durable(written, Deferred::Cut(sequence));
    }

    fn on_tick(&mut self) {
        self.collects = true;
        if self.now >= self.pulse_due {
            self.pulse_due = self.now + self.config.keep_alive_ms;
            self.pulse();
        }
        self.check_restart();
        self.check_members();
        self.check_holder();
        self.resign_if_drained();
    }

    /// Whoever was paused has heard nothing, and nobody is to blame for it.
    fn note_pause(&mut self, now: Millis) {
        let gap = now - self.now;
        if gap < self.config.pause_ms {
            return;
        }
        self.woke = now;
        for neighbour in self.neighbours.values_mut() {
            neighbour.heard = neighbour.heard.map(|at| at + gap);
        }
        self.takeover.shift(gap);
        if let Some(holding) = &mut self.holding {
            holding.woke(now);
        }
    }

    fn on_message(&mut self, from: NodeId, message: Message) {
        if !self.note_heard(from) {
            return;
        }
        match message {
            Message::Pulse(pulse) => self.on_pulse(from, pulse),
            Message::Grant { grant, ticket } => {
                self.keep_ticket(ticket);
                self.accept_gossip(grant);
            }
            Message::WantGrant => self.show_grant(from),
            Message::Statement(statement) => self.on_statement(statement),
            Message::Results(results) => self.on_results(from, results),
            Message::HandOver { statement, to } => self.on_hand_over(statement, to),
            Message::Probe { writer, round, head } => self.on_probe(from, writer, round, head),
            Message::Push { .. } => self.on_push(from, message),
            Message::FetchTail { writer, after } => self.on_fetch_tail(from, writer, after),
            Message::Head { .. } => self.on_head(from, message),
            Message::Ack { writer, round, session, lsn } => self.on_ack(from, writer, round, session, lsn),
            Message::Tail { writer, previous, entries } => self.on_tail(from, writer, previous, entries),
        }
    }

    fn show_grant(&mut self, to: NodeId) {
        if let Some(grant) = self.facts.grant.clone() {
            let ticket = self.facts.ticket.clone();
            self.send(to, Message::Grant { grant, ticket });
        }
    }

    fn keep_ticket(&mut self, ticket: Bytes) {
        if !ticket.is_empty() && ticket != self.facts.ticket {
            self.write_fact(Fact::Ticket(ticket));
            if self.is_holder() {
                // The grant may have come another way, without the ticket, and been passed on so.
                self.mates().for_each(|mate| self.show_grant(mate));
            }
        }
    }

    fn on_answer(&mut self, answer: Answer) {
        match answer {
            Answer::Granted { grant, ticket } => {
                self.keep_ticket(ticket);
                self.accept(grant);
            }
            Answer::Refused { why, current } => {
                if why == standin_auth::Refusal::BadTicket && !self.facts.ticket.is_empty() {
                    // Another auth node's: this one gives its own to whoever lacks it.
                    self.write_fact(Fact::Ticket(Bytes::new()));
                }
                self.report(Event::Refused(why));
                if let Some(current) = current {
                    self.accept(current);
                }
            }
            Answer::Alive { newer, register_count, incarnation, forced, recall, ticket } => {
                self.keep_ticket(ticket.unwrap_or_default());
                let (found, seen) = (register_count.count, self.register_count.count);
                match found {
                    found if found < seen => self.report(Event::RegisterRolledBack { found, seen }),
                    _ => self.register_count = register_count,
                }
                if let Some(newer) = newer {
                    self.accept(newer);
                }
                self.register = incarnation;
                if recall && self.recalled_at.is_none_or(|at| at + self.config.retry_ms <= self.now) {
                    self.recalled_at = Some(self.now);
                    self.promise(incarnation);
                }
                self.takeover.forced = forced;
            }
            Answer::Actives { .. } => {}
        }
    }

    /// G5: what is known here is said to a register that may have lost its end, and grants of older ones are refused from
    /// then on, durably.
    fn promise(&mut self, incarnation: Incarnation) {
        let written = match incarnation > self.facts.promised {
            true => self.write_fact(Fact::Promised(incarnation)),
            false => self.next_sequence - 1,
        };
        let request = Request::Recall {
            cluster: self.identity.cluster.clone(),
            newest: self.facts.grant.clone(),
            membership: None,
            promised: self.facts.promised,
        };
        self.when_durable(written, Deferred::Ask(Box::new(request)));
    }
}
