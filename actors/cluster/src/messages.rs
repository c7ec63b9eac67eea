//! What the members of one cluster say to each other, and what a node writes to its log.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use standin_auth::Statement;
use standin_foundation::limits::{FRAME_BYTES_MAX, LOG_RECORD_BYTES_MAX};
use standin_foundation::wire::Wire;
use standin_foundation::{Digest, Height, Incarnation, Lsn, NodeId, Term, Writer};
use standin_ledger::SignedGrant;

/// A record of the seat's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number.
    pub lsn: Lsn,
    /// Hash over all records up to this one.
    pub hash: Digest,
    /// The record, as the seat's replica encoded it.
    pub record: Bytes,
}

/// A place in a log: two logs that share it are the same up to there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Mark {
    /// The record.
    pub lsn: Lsn,
    /// Hash over all records up to it.
    pub hash: Digest,
}

/// How a member is, told to its neighbours at an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pulse {
    /// Its newest term.
    pub term: Term,
    /// The higher, the earlier it is elected.
    pub priority: u8,
    /// Head of its durable log.
    pub head: Lsn,
    /// It may take the seat over.
    pub complete: bool,
    /// Up to here it has executed.
    pub executed: Height,
    /// As holder: it has something to say that its members have not acknowledged, for longer than it should take.
    pub mute: bool,
    /// As holder: the other seats that it hears.
    pub heard_seats: u16,
    /// It is being taken out of service: others are elected before it.
    pub drains: bool,
}

/// What one member says to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// It lives.
    Pulse(Pulse),
    /// The holder asks where a member's log stands.
    Probe {
        /// Who asks.
        writer: Writer,
        /// Its count of the member's sessions.
        round: u64,
        /// Where the holder's log stands.
        head: Mark,
    },
    /// Where a member's log stands.
    Head {
        /// Whom it answers.
        writer: Writer,
        /// What it answers.
        round: u64,
        /// The session of its log.
        session: u64,
        /// Places of its durable log: the head, and others at growing distances down to its base. By falling number.
        marks: Vec<Mark>,
        /// Its log holds the place that the probe named.
        extends: bool,
    },
    /// Records of the holder's log.
    Push {
        /// Who writes.
        writer: Writer,
        /// Its count of the member's sessions.
        round: u64,
        /// The member's session that this is for.
        session: u64,
        /// The place before the first of the records.
        previous: Mark,
        /// Whether `previous` is the base of the holder's log: a member without a log begins there.
        from_base: bool,
        /// The holder's last record.
        head: Lsn,
        /// Where this writer took the log over: all up to there may have been released before.
        start: Lsn,
        /// What the holder has released.
        released: Lsn,
        /// The records.
        entries: Vec<Entry>,
    },
    /// The member's durable log is the holder's up to here.
    Ack {
        /// Whom it answers.
        writer: Writer,
        /// Of this count of sessions.
        round: u64,
        /// The session of its log.
        session: u64,
        /// The last record.
        lsn: Lsn,
    },
    /// A restarted holder asks for what a member has beyond its own head.
    FetchTail {
        /// Who asks.
        writer: Writer,
        /// Its head.
        after: Mark,
    },
    /// What a member has beyond that.
    Tail {
        /// Whom it answers.
        writer: Writer,
        /// The place before the first of the records.
        previous: Mark,
        /// The records.
        entries: Vec<Entry>,
    },
    /// The newest grant that the sender knows, and the cluster's ticket.
    Grant {
        /// The grant.
        grant: SignedGrant,
        /// What the auth node asks for with an update.
        ticket: Bytes,
    },
    /// The sender does not know the newest grant, or lacks the ticket.
    WantGrant,
    /// What the sender computed at its last checkpoints.
    Results(Vec<(Height, Digest)>),
    /// What a node states about the holder.
    Statement(Statement),
    /// The holder gives the seat up, in favour of a certain member if there is one.
    HandOver {
        /// Its resignation.
        statement: Statement,
        /// Who should ask first.
        to: Option<NodeId>,
    },
}

impl Wire for Message {
    const NAME: &'static str = "cluster.message";
    const BYTES_MAX: usize = FRAME_BYTES_MAX - 1024;
}

/// What a node writes to its log: the seat's records, and facts about itself, in one sequence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeRecord {
    /// A record of the seat's log. A payload that it carries stands next to it.
    Entry(Entry),
    /// The seat's log was cut back: records above this one are void.
    CutBack {
        /// The last that stands.
        to: Lsn,
    },
    /// The seat's log was deleted, and begins anew behind this place.
    BeginAt(Mark),
    /// A fact about the node.
    Fact(Fact),
    /// It accepted this grant, the first of a lineage that it knows: the log of the lineage before is deleted, and a new one begins.
    /// One record, since half of it would be a log that counts for what it is not.
    Founded {
        /// The grant.
        grant: Box<SignedGrant>,
        /// The session of the new log.
        session: u64,
        /// The lineage begins with it.
        complete: bool,
    },
    /// All facts at one moment, written when the log is cut at the front. Everything that was said before about them is void.
    Facts(Box<Facts>),
}

/// An operator wants the seat to move, and said so to the sender: the holder is to give it up, in favour of a member if one is named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantSwitch(pub Option<NodeId>);

impl Wire for WantSwitch {
    const NAME: &'static str = "cluster.want_switch";
    const BYTES_MAX: usize = 64;
}

/// Whether the holder gives the seat up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switching(pub bool);

impl Wire for Switching {
    const NAME: &'static str = "cluster.switching";
    const BYTES_MAX: usize = 8;
}

impl Wire for NodeRecord {
    const NAME: &'static str = "cluster.node_record";
    const BYTES_MAX: usize = LOG_RECORD_BYTES_MAX;
}

/// One fact about a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fact {
    /// It accepted this grant: terms below are fenced.
    Granted(Box<SignedGrant>),
    /// The session of its log, and whether the log is complete.
    Session {
        /// The session.
        session: u64,
        /// Everything that was released is in it.
        complete: bool,
    },
    /// It lives for the so many-th time.
    Life(Incarnation),
    /// It follows this writer, and no earlier one.
    Aligned {
        /// The writer.
        writer: Writer,
        /// Its log may hold records that the writer's does not: they are cut when that shows.
        may_differ: bool,
    },
    /// As holder it has asked for this set.
    Asked(BTreeSet<NodeId>),
    /// A torn end of its log was cut: whether it is complete is not known.
    Doubtful,
    /// It refuses grants of registers older than this one.
    Promised(Incarnation),
    /// The cluster's ticket.
    Ticket(Bytes),
}

/// All facts about a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Facts {
    /// The newest grant that it accepted.
    pub grant: Option<SignedGrant>,
    /// Names the disk: the first session of a log on it. Another disk of the same node has another.
    pub disk: u64,
    /// The session of its log; zero before the first.
    pub session: u64,
    /// Everything that was released is in its log.
    pub complete: bool,
    /// It was complete before a torn end of its log was cut, and nobody has confirmed it since.
    pub doubtful: bool,
    /// Its life.
    pub incarnation: Incarnation,
    /// The writer that it follows.
    pub aligned: Writer,
    /// Its log may hold records that this writer's does not.
    pub may_differ: bool,
    /// As holder: the union of all sets that it has asked for in this term.
    pub asked: BTreeSet<NodeId>,
    /// It refuses grants of registers older than this one.
    pub promised: Incarnation,
    /// The cluster's ticket.
    pub ticket: Bytes,
    /// The place before the first record of its log.
    pub base: Mark,
}

impl Facts {
    /// Takes in one fact.
    pub fn note(&mut self, fact: &Fact) {
        match fact {
            Fact::Granted(grant) => {
                self.grant = Some((**grant).clone());
                self.asked.clear();
            }
            Fact::Session { session, complete } => {
                if self.session == 0 {
                    self.disk = *session;
                }
                (self.session, self.complete, self.doubtful) = (*session, *complete, false);
            }
            Fact::Doubtful => self.doubtful = true,
            Fact::Life(incarnation) => self.incarnation = *incarnation,
            Fact::Aligned { writer, may_differ } => (self.aligned, self.may_differ) = (*writer, *may_differ),
            Fact::Asked(in_sync) => self.asked.extend(in_sync),
            Fact::Promised(incarnation) => self.promised = *incarnation,
            Fact::Ticket(ticket) => self.ticket = ticket.clone(),
        }
    }

    /// Takes in that a new lineage has begun: its log is empty.
    pub fn found(&mut self, grant: &SignedGrant, session: u64, complete: bool) {
        self.note(&Fact::Granted(Box::new(grant.clone())));
        self.note(&Fact::Session { session, complete });
        self.base = Mark::default();
        // It may be another auth node's.
        self.ticket = Bytes::new();
    }

    /// The newest term that was accepted.
    pub fn term(&self) -> Term {
        self.grant.as_ref().map_or(Term(0), |grant| grant.grant.term)
    }
}
