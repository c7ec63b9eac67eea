//! The holder: it pushes the log to its members, and releases what all of them have acknowledged.

use standin_auth::messages::SetChange;

use super::*;

/// Records in one push.
pub(super) const PUSH_ENTRIES: usize = 512;
/// Bytes of records and payloads in one push, about.
pub(super) const PUSH_BYTES: usize = 512 * 1024;
/// A member that is no more than this many records behind keeps up.
const KEEPS_UP_RECORDS: u64 = 256;

/// A member as the holder sees it.
#[derive(Debug, Default)]
struct Progress {
    /// Counts sessions of its log, so that what was said of an earlier one is known to be late.
    round: u64,
    session: Option<u64>,
    acked: Lsn,
    sent: Lsn,
    pushed_at: Option<Millis>,
    /// Since when an answer is due; none while nothing is.
    waiting_since: Option<Millis>,
    /// Since when it has kept up.
    keeps_up_since: Option<Millis>,
}

/// The state of a holder.
#[derive(Debug)]
pub(super) struct Holding {
    pub(super) writer: Writer,
    /// The last record that this writer took over.
    start: Lsn,
    progress: BTreeMap<NodeId, Progress>,
    /// What was ever released, and what was released as this writer.
    pub(super) released: Lsn,
    released_now: Lsn,
    /// Since when something waits without any progress.
    blocked_since: Option<Millis>,
    /// The set that was asked for last, and when.
    asked: Option<(BTreeSet<NodeId>, Millis)>,
    /// A restarted holder that has not heard all its members.
    pub(super) restarting: Option<restart::Restarting>,
}

impl Holding {
    fn new(writer: Writer, start: Lsn, released: Lsn, mates: impl Iterator<Item = NodeId>, now: Millis) -> Self {
        Self {
            writer,
            start,
            progress: mates.map(|mate| (mate, Progress::default())).collect(),
            released,
            released_now: 0,
            blocked_since: Some(now),
            asked: None,
            restarting: None,
        }
    }

    /// Somebody has joined the cluster.
    pub(super) fn add(&mut self, mate: NodeId) {
        self.progress.entry(mate).or_default();
    }

    /// Somebody has left it, and the set.
    pub(super) fn remove(&mut self, mate: &NodeId) {
        self.progress.remove(mate);
    }

    pub(super) fn is_active(&self) -> bool {
        self.restarting.is_none()
    }

    /// Something is under way that should be looked at more often than at each pulse.
    pub(super) fn is_waiting(&self) -> bool {
        self.asked.is_some() || self.blocked_since.is_some()
    }

    /// Records that a member has not acknowledged.
    pub(super) fn behind(&self, node: &NodeId, head: Lsn) -> Option<u64> {
        self.progress.get(node).map(|progress| head.saturating_sub(progress.acked))
    }

    pub(super) fn is_mute(&self, now: Millis, after_ms: u64) -> bool {
        self.blocked_since.is_some_and(|since| since + after_ms <= now)
    }

    /// Whatever was asked before a pause was asked of nobody: answers are due from now.
    pub(super) fn woke(&mut self, now: Millis) {
        for progress in self.progress.values_mut() {
            progress.waiting_since = progress.waiting_since.map(|_| now);
            progress.keeps_up_since = progress.keeps_up_since.map(|_| now);
        }
        self.blocked_since = self.blocked_since.map(|_| now);
    }
}

impl Member {
    fn writer(&self) -> Writer {
        Writer { term: self.facts.term(), incarnation: self.facts.incarnation }
    }

    /// Becomes the holder's state, without speaking yet.
    pub(super) fn hold(&mut self) -> &mut Holding {
        let released = self.released();
        let holding = Holding::new(self.writer(), self.log.head().lsn, released, self.mates(), self.now);
        self.holding.insert(holding)
    }

    /// Speaks for the seat: the grant is durable here, and the log is complete.
    pub(super) fn activate(&mut self) {
        let is_durable = self.durable_sequence >= self.fence_sequence;
        if !self.is_holder() || !is_durable || self.is_active() || !(self.is_complete() || self.identity.fixed) {
            return;
        }
        let start = self.log.head().lsn;
        let writer = self.hold().writer;
        self.effects.push(Effect::Activate { writer, start });
        self.report(Event::Activated { writer });
        self.reopen_results();
        self.release();
        self.consider_results();
    }

    /// Goes on as holder in a new term.
    pub(super) fn rebase(&mut self) {
        let (writer, start, now) = (self.writer(), self.log.head().lsn, self.now);
        let Some(holding) = &mut self.holding else { return };
        if holding.writer == writer || holding.restarting.is_some() {
            return;
        }
        (holding.writer, holding.start) = (writer, start);
        holding.released_now = 0;
        holding.blocked_since = Some(now);
        holding.asked = None;
        for progress in holding.progress.values_mut() {
            // L2: what was acknowledged in another term counts for nothing. The place is shared all the same.
            progress.sent = progress.acked;
            progress.acked = 0;
            progress.pushed_at = None;
            progress.keeps_up_since = None;
        }
        self.effects.push(Effect::Rebase { writer, start });
        // What is sent anew waits for all of it.
        self.collects = true;
        self.release();
        // Whoever has left the set is not waited for.
        self.consider_results();
    }

    pub(super) fn on_append(&mut self, records: Vec<Bytes>) {
        if !self.is_active() {
            return;
        }
        for record in records {
            let entry = self.log.next_entry(record);
            self.append(entry);
        }
        if let Some(holding) = &mut self.holding {
            holding.blocked_since.get_or_insert(self.now);
        }
    }

    /// Whose acknowledgement is required: the members of the set, and of every set that was asked for in this term (L8).
    pub(super) fn required(&self) -> BTreeSet<NodeId> {
        let mut required = self.in_sync();
        if !self.is_off(Mutation::ForgetAsked) {
            required.extend(&self.facts.asked);
        }
        required.remove(&self.identity.node);
        required
    }

    /// L2: releases what is durable here and acknowledged by everyone whose acknowledgement is required.
    pub(super) fn release(&mut self) {
        let required = self.required();
        let (durable, head, alone) = (self.log.durable(), self.log.head().lsn, self.is_off(Mutation::ReleaseAlone));
        let writer = self.writer();
        // Between a new grant and the new term's beginning nothing leaves.
        let is_current = |holding: &&mut Holding| holding.is_active() && holding.writer == writer;
        let Some(holding) = self.holding.as_mut().filter(is_current) else { return };
        let acked = required.iter().filter(|_| !alone).map(|node| holding.progress.get(node).map_or(0, |p| p.acked));
        let lsn = acked.fold(durable, Lsn::min);
        if lsn > holding.released_now {
            holding.released_now = lsn;
            holding.released = holding.released.max(lsn);
            holding.blocked_since = (lsn < head).then_some(self.now);
            self.effects.push(Effect::Released { writer, lsn });
            self.cut_front();
        } else if lsn >= head {
            holding.blocked_since = None;
        }
    }

    pub(super) fn on_head(&mut self, from: NodeId, message: Message) {
        let Message::Head { writer, round, session, marks, extends } = message else { return };
        let Some(holding) = self.holding.as_mut().filter(|holding| holding.writer == writer) else { return };
        let Some(progress) = holding.progress.get_mut(&from) else { return };
        if round != progress.round {
            return;
        }
        if progress.session != Some(session) {
            progress.session = Some(session);
            progress.round += 1;
            progress.acked = 0;
        }
        let shared = marks.iter().find(|mark| self.log.contains(mark)).map(|mark| mark.lsn);
        progress.sent = shared.unwrap_or(self.log.base().lsn);
        progress.pushed_at = None;
        let ends = (marks.last().map_or(0, |mark| mark.lsn), marks.first().map_or(0, |mark| mark.lsn));
        if holding.restarting.is_some() {
            self.on_head_while_restarting(from, ends, extends);
        }
    }

    pub(super) fn on_ack(&mut self, from: NodeId, writer: Writer, round: u64, session: u64, lsn: Lsn) {
        let old_writers = self.is_off(Mutation::CountOldAcknowledgements);
        let (now, head) = (self.now, self.log.head().lsn);
        let Some(holding) = self.holding.as_mut() else { return };
        let same_writer = holding.writer == writer || old_writers;
        let Some(progress) = holding.progress.get_mut(&from) else { return };
        let same_session = round == progress.round && progress.session == Some(session);
        if !same_writer || !same_session {
            return;
        }
        let before = progress.acked;
        progress.acked = progress.acked.max(lsn.min(head));
        progress.sent = progress.sent.max(progress.acked);
        // Whoever answers and gets no further is as silent as one that does not answer.
        if progress.acked >= progress.sent {
            progress.waiting_since = None;
        } else if progress.acked > before {
            progress.waiting_since = Some(now);
        }
        match progress.acked + KEEPS_UP_RECORDS >= head {
            true => {
                progress.keeps_up_since.get_or_insert(now);
            }
            false => progress.keeps_up_since = None,
        }
        self.release();
    }

    /// Sends every member what it lacks; an empty push where there was nothing for a while.
    pub(super) fn push_to_all(&mut self) {
        let Some(mut holding) = self.holding.take() else { return };
        for (node, progress) in &mut holding.progress {
            let is_due = progress.pushed_at.is_none_or(|at| at + self.config.keep_alive_ms <= self.now);
            match progress.session {
                None if is_due => {
                    let (writer, round, head) = (holding.writer, progress.round, self.log.head());
                    self.send(*node, Message::Probe { writer, round, head });
                    progress.pushed_at = Some(self.now);
                    progress.waiting_since.get_or_insert(self.now);
                }
                Some(session) if holding.restarting.is_none() => {
                    let context = (holding.writer, holding.start, holding.released, session);
                    self.push(*node, progress, context, is_due);
                }
                _ => {}
            }
        }
        self.holding = Some(holding);
    }

    fn push(&mut self, to: NodeId, progress: &mut Progress, context: (Writer, Lsn, Lsn, u64), is_due: bool) {
        let (writer, start, released, session) = context;
        let head = self.log.head().lsn;
        // What nothing waits for goes along with what something waits for, or with the next tick.
        let wanted = if self.collects { head } else { self.log.urgent() };
        let mut is_due = is_due;
        progress.sent = progress.sent.max(self.log.base().lsn).min(head);
        let end = progress.acked.max(self.log.base().lsn) + self.config.window;
        while is_due || progress.sent < wanted.min(end) {
            let Some(hash) = self.log.hash_at(progress.sent) else { return };
            let previous = Mark { lsn: progress.sent, hash };
            let count = if progress.sent < end { PUSH_ENTRIES } else { 0 };
            let entries = self.log.after(progress.sent, count, PUSH_BYTES);
            let from_base = previous == self.log.base();
            progress.sent = entries.last().map_or(progress.sent, |entry| entry.lsn);
            progress.pushed_at = Some(self.now);
            progress.waiting_since.get_or_insert(self.now);
            is_due = false;
            let round = progress.round;
            let message = Message::Push { writer, round, session, previous, from_base, head, start, released, entries };
            self.send(to, message);
        }
    }

    /// Looks for members that are silent, and for those that may be taken in.
    pub(super) fn check_members(&mut self) {
        let Some(holding) = self.holding.as_mut().filter(|holding| holding.is_active()) else { return };
        let late = |since: Option<Millis>, ms: u64, now: Millis| since.is_some_and(|since| since + ms <= now);
        for progress in holding.progress.values_mut() {
            // Something was lost: from the last acknowledgement again.
            if late(progress.waiting_since, self.config.retry_ms, self.now)
                && late(progress.pushed_at, self.config.retry_ms, self.now)
            {
                (progress.sent, progress.pushed_at) = (progress.acked, None);
            }
        }
        if self.identity.fixed {
            return;
        }
        let in_sync = self.in_sync();
        if let Some(wanted) = self.wanted_set(&in_sync) {
            self.ask_for_set(wanted);
        }
    }

    fn wanted_set(&self, in_sync: &BTreeSet<NodeId>) -> Option<BTreeSet<NodeId>> {
        let holding = self.holding.as_ref()?;
        let is_silent = |node: &&NodeId| {
            let waiting = holding.progress.get(*node).and_then(|progress| progress.waiting_since);
            let link_down = self.neighbours.get(*node).is_some_and(|neighbour| neighbour.link_down);
            // In a split the other seats fall silent at about the same time, and a member that is cut off with them is not to blame.
            let shrink_ms = self.config.shrink_ms;
            let long = |since: Millis| since + shrink_ms <= self.now && self.heard_enough_since(since + shrink_ms / 2);
            waiting.is_some_and(|since| link_down || long(since))
        };
        let others = || in_sync.iter().filter(|node| **node != self.identity.node);
        let wrong = self.wrong_members();
        // Whoever was removed is to leave the set, and acknowledges until then.
        let leaves = |node: &NodeId| wrong.contains(node) || !self.identity.members.contains_key(node);
        let silent: BTreeSet<_> = others().filter(|node| is_silent(node) || leaves(node)).copied().collect();
        if !silent.is_empty() {
            // S1: whoever hears too few seats is itself the one to be left out.
            let left: BTreeSet<_> = in_sync.difference(&silent).copied().collect();
            let hears = self.heard_enough_since(Millis(0));
            let may = hears && left.len() >= self.config.min_in_sync;
            // Whoever was removed and lives may stay until somebody comes in its place.
            if may || !hears || silent.iter().any(|node| is_silent(&node) || wrong.contains(node)) {
                return may.then_some(left);
            }
        }
        // A set that is asked for names members only.
        let is_member = |node: &&NodeId| self.identity.members.contains_key(*node);
        let stay: BTreeSet<_> = in_sync.iter().filter(is_member).copied().collect();
        let pending: BTreeSet<_> = self.facts.asked.difference(in_sync).copied().collect();
        if !pending.is_empty() {
            // What was asked for may have been granted or not: only a newer grant tells. Whoever is silent by now is not
            // asked for again.
            let keep_up = pending.iter().all(|node| self.hears(node));
            let wanted = if keep_up { stay.union(&pending).copied().collect() } else { stay };
            return Some(wanted).filter(|wanted| wanted.len() >= self.config.min_in_sync || wanted == in_sync);
        }
        if stay.len() >= self.config.in_sync {
            return None;
        }
        let keeps_up = |(node, progress): &(&NodeId, &Progress)| {
            let long = progress.keeps_up_since.is_some_and(|since| since + self.config.grow_after_ms <= self.now);
            let is_member = self.identity.members.contains_key(*node);
            let complete = is_member && self.neighbours.get(*node).is_some_and(|neighbour| neighbour.pulse.complete);
            let ready = complete && !wrong.contains(node) && long && progress.acked >= holding.released;
            !in_sync.contains(*node) && ready && self.hears(node)
        };
        let newcomer = holding.progress.iter().find(keeps_up).map(|(node, _)| *node)?;
        let mut wanted = stay;
        wanted.insert(newcomer);
        Some(wanted)
    }

    /// L8: that it asks is durable before it is asked.
    fn ask_for_set(&mut self, wanted: BTreeSet<NodeId>) {
        let (now, retry) = (self.now, self.config.retry_ms);
        let Some(holding) = &mut self.holding else { return };
        if holding.asked.as_ref().is_some_and(|(asked, at)| *asked == wanted && *at + retry > now) {
            return;
        }
        holding.asked = Some((wanted.clone(), now));
        let is_known = wanted.iter().all(|node| self.facts.asked.contains(node));
        let written = if is_known { self.next_sequence - 1 } else { self.write_fact(Fact::Asked(wanted.clone())) };
        let term = self.facts.term();
        let request = SetChange { cluster: self.identity.cluster.clone(), term, in_sync: wanted };
        self.report(Event::Asked { term, what: "another in-sync set" });
        self.when_durable(written, Deferred::Ask(Box::new(Request::SetChange(request))));
    }
}
