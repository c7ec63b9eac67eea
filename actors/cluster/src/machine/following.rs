//! A member that is not the holder: it keeps the holder's log, and acknowledges it.

use super::*;

/// What is known of the writer that is followed.
#[derive(Debug, Default)]
pub(super) struct Following {
    /// A push of the writer that this node is aligned to, for its session, has been taken; none since the last fence.
    taken: Option<NodeId>,
    round: u64,
    /// The log is the writer's up to here.
    matched: Lsn,
    /// What a holder said it had released. In one lineage it never goes back.
    pub(super) released: Lsn,
    /// Up to where the writer's records may have been released, by its own word in this session: what it released, and all
    /// that it took over.
    stated: Option<Lsn>,
    /// The last acknowledgement.
    acknowledged: Option<Lsn>,
    /// An answer is due, whether or not it says anything new.
    answer: bool,
}

impl Following {
    /// What was acknowledged may now mean more.
    pub(super) fn answer_again(&mut self) {
        self.answer = true;
    }

    /// Nothing of any earlier writer is acknowledged any more.
    pub(super) fn fence(&mut self) {
        *self = Self { released: self.released, ..Self::default() };
    }
}

impl Member {
    /// Whether this writer may be followed; tells the sender what it does not know.
    fn may_follow(&mut self, from: NodeId, writer: Writer) -> bool {
        let known = self.facts.term();
        if self.facts.grant.is_none() || writer.term > known {
            self.send(from, Message::WantGrant);
            return false;
        }
        if writer.term < known && !self.is_off(Mutation::NoFence) {
            self.show_grant(from);
            return false;
        }
        let is_holder = self.holder() == Some(from) || self.is_off(Mutation::NoFence);
        let is_later = writer >= self.facts.aligned || self.is_off(Mutation::UndoAlignment);
        is_holder && is_later && from != self.identity.node
    }

    /// Follows this writer from now on, and no earlier one (L3).
    fn align(&mut self, writer: Writer) {
        if writer == self.facts.aligned {
            return;
        }
        let anew = self.is_off(Mutation::UndoAlignment) && writer < self.facts.aligned;
        let may_differ = writer.term > self.facts.aligned.term || self.facts.may_differ || anew;
        self.write_fence(Fact::Aligned { writer, may_differ });
        self.following.fence();
    }

    pub(super) fn on_probe(&mut self, from: NodeId, writer: Writer, round: u64, head: Mark) {
        if self.may_follow(from, writer) {
            self.align(writer);
            self.answer_with_head(from, writer, round, Some(head));
        }
    }

    fn answer_with_head(&mut self, to: NodeId, writer: Writer, round: u64, probed: Option<Mark>) {
        self.when_durable(self.fence_sequence, Deferred::Head { to, writer, round, probed });
    }

    pub(super) fn send_head(&mut self, to: NodeId, writer: Writer, round: u64, probed: Option<Mark>) {
        if writer != self.facts.aligned {
            return;
        }
        let extends = probed.is_some_and(|mark| self.log.contains(&mark) && mark.lsn <= self.log.durable());
        let (session, marks) = (self.facts.session, self.log.marks());
        self.send(to, Message::Head { writer, round, session, marks, extends });
    }

    pub(super) fn on_push(&mut self, from: NodeId, message: Message) {
        let Message::Push { writer, round, session, previous, from_base, head, start, released, entries } = message
        else {
            return;
        };
        if !self.may_follow(from, writer) {
            return;
        }
        self.align(writer);
        if session != self.facts.session {
            self.answer_with_head(from, writer, round, None);
            return;
        }
        let shares = self.log.contains(&previous) || (from_base && self.begin_at(previous));
        if !shares {
            self.answer_with_head(from, writer, round, None);
            return;
        }
        if !self.take_entries(&entries) {
            return;
        }
        let matched = entries.last().map_or(previous.lsn, |entry| entry.lsn);
        self.following.matched = self.following.matched.max(matched);
        if self.following.matched >= head && self.log.head().lsn > head && self.facts.may_differ {
            self.cut_back(head.max(self.following.matched));
        }
        if self.facts.may_differ && self.log.head().lsn <= self.following.matched {
            self.write_fence(Fact::Aligned { writer, may_differ: false });
        }
        self.following.taken = Some(from);
        self.following.round = round;
        self.following.released = self.following.released.max(released);
        self.following.stated = Some(released.max(start));
        self.following.answer = true;
        self.cut_front();
    }

    /// Takes what is new of the entries; where the own log differs, it is cut back if it may be.
    fn take_entries(&mut self, entries: &[Entry]) -> bool {
        for entry in entries {
            match self.log.hash_at(entry.lsn) {
                Some(hash) if hash == entry.hash => {}
                Some(_) if self.may_cut_back() && self.log.is_chained(entry) => {
                    self.cut_back(entry.lsn - 1);
                    self.take(entry.clone());
                }
                Some(_) => {
                    self.report(Event::Contradicted { lsn: entry.lsn });
                    return false;
                }
                None if self.log.head().lsn + 1 == entry.lsn && self.log.is_chained(entry) => self.take(entry.clone()),
                // Before the own base: it is final.
                None if entry.lsn <= self.log.base().lsn => {}
                None => return false,
            }
        }
        true
    }

    fn take(&mut self, entry: Entry) {
        self.append(entry.clone());
        self.effects.push(Effect::Follow(entry));
    }

    /// L6: only for a holder of a higher term, with which the log has not been compared to the end yet; or where the log
    /// counts for nothing.
    fn may_cut_back(&self) -> bool {
        self.facts.may_differ || !self.is_listed() || !self.facts.complete || self.is_off(Mutation::LoserDeletes)
    }

    fn cut_back(&mut self, to: Lsn) {
        let records = self.log.head().lsn.saturating_sub(to);
        self.write(NodeRecord::CutBack { to });
        self.log.cut_back(to);
        self.report(Event::CutBack { records });
        self.effects.push(Effect::Rebuild);
    }

    /// Begins an empty log behind the holder's base. A log that must not be deleted stays; another is deleted in a new session
    /// first, so that nothing that was acknowledged of it counts any more (L7).
    fn begin_at(&mut self, base: Mark) -> bool {
        let is_empty = self.log.head() == Mark::default();
        if !is_empty {
            if !(self.is_listed() && self.facts.complete) {
                self.begin_session(self.facts.session + 1);
            }
            return false;
        }
        self.write(NodeRecord::BeginAt(base));
        self.log = LogCopy::new(self.log.describe(), base);
        self.facts.base = base;
        true
    }

    /// The log is empty from now on, and counts for nothing.
    pub(super) fn begin_session(&mut self, session: u64) {
        self.write_fence(Fact::Session { session, complete: false });
        self.write(NodeRecord::BeginAt(Mark::default()));
        self.log = LogCopy::new(self.log.describe(), Mark::default());
        self.facts.base = Mark::default();
        self.following.fence();
        self.effects.push(Effect::Rebuild);
    }

    /// Acknowledges what is durable of the writer's log.
    pub(super) fn acknowledge(&mut self) {
        let Some(holder) = self.following.taken else { return };
        if self.durable_sequence < self.fence_sequence {
            return;
        }
        let durable = match self.is_off(Mutation::AcknowledgeWithoutPayload) {
            true => self.log.durable(),
            false => self.log.durable_with_payloads(),
        };
        let lsn = durable.min(self.following.matched);
        // A log without the blocks that it stands on is of no use to anyone who takes over.
        let is_founded = self.log.base_height() <= self.stored;
        let is_reached = is_founded && self.following.stated.is_some_and(|stated| lsn >= stated);
        if !self.facts.complete && is_reached {
            self.write_fact(Fact::Session { session: self.facts.session, complete: true });
        }
        // What is being written is answered once it is durable: an answer before that would say nothing.
        let answers = self.following.answer && self.log.durable() >= self.following.matched;
        if answers || self.following.acknowledged != Some(lsn) {
            self.following.answer = false;
            self.following.acknowledged = Some(lsn);
            let (writer, round, session) = (self.facts.aligned, self.following.round, self.facts.session);
            self.send(holder, Message::Ack { writer, round, session, lsn });
        }
    }

    pub(super) fn on_fetch_tail(&mut self, from: NodeId, writer: Writer, after: Mark) {
        if !self.may_follow(from, writer) || writer != self.facts.aligned || !self.log.contains(&after) {
            return;
        }
        let durable = self.log.durable();
        let mut entries = self.log.after(after.lsn, holding::PUSH_ENTRIES, holding::PUSH_BYTES);
        entries.retain(|entry| entry.lsn <= durable);
        self.send(from, Message::Tail { writer, previous: after, entries });
    }
}
