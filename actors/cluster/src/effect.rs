//! What goes into the member machine, and what it wants done.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use standin_auth::messages::{Answer, Request};
use standin_auth::{Claim, Statement};
use standin_foundation::{Digest, Height, Lsn, NodeId, Term, Writer};
use standin_ledger::SignedGrant;

use crate::messages::{Entry, Message, NodeRecord};

/// A fact that the machine is told.
#[derive(Debug)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// Records that the seat's replica wants in the log, next in order.
    Append(Vec<Bytes>),
    /// The node's log is durable up to this record.
    Persisted(u64),
    /// A member of the own cluster says something. The link has proven who, and signatures in it have been checked.
    Received {
        /// Who.
        from: NodeId,
        /// What.
        message: Message,
    },
    /// The connection to a member was closed by its end.
    LinkDown(NodeId),
    /// A grant of the own cluster, checked, from wherever.
    Granted(SignedGrant),
    /// The auth node answers.
    Answered(Answer),
    /// The node's own statement, signed.
    Stated(Statement),
    /// Who belongs to the cluster from now on, with their priorities: the higher, the earlier.
    Members(BTreeMap<NodeId, u8>),
    /// The other seats that are heard.
    SeatsHeard {
        /// How long ago anything of each came last, in ms.
        ages: Vec<u64>,
        /// How many a holder must hear to act against a member: 2f.
        needed: usize,
    },
    /// Up to here blocks have been executed.
    Executed(Height),
    /// Up to here blocks are known to be final, by all that the log says.
    Final(Height),
    /// Up to here executed blocks are durable in the store.
    Stored(Height),
    /// This node computed this at a checkpoint.
    Computed(Height, Digest),
    /// f+1 other seats voted for this result.
    Decided(Height, Digest),
    /// A quorum of seats has proven a result at this height.
    Proven(Height),
    /// As holder: give the seat up, in favour of this member if one is named.
    Resign(Option<NodeId>),
    /// The node is to be taken out of service, or is back: it gives its seat up, and takes it only where nobody else does.
    Drain(bool),
}

/// Something to be done, in the order of the list.
#[derive(Debug)]
pub enum Effect {
    /// Append a record to the node's log. Records get consecutive numbers.
    Write {
        /// The record's number.
        sequence: u64,
        /// The record.
        record: NodeRecord,
    },
    /// What was written so far is waited for: make it durable now, also what could have waited.
    Sync,
    /// Send to a member. Payloads that entries carry go with them.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Ask the auth node.
    Ask(Request),
    /// Sign this about the current term, and say [`Input::Stated`].
    State(Claim, Term),
    /// A record of another holder, next in the seat's log: the replica follows it.
    Follow(Entry),
    /// The seat's log is not what the replica has followed: build it anew, as a shadow, from [`crate::Member::entries`]. Nothing of
    /// what the gate holds may leave.
    Rebuild,
    /// This node speaks for the seat from now on, as this writer; it took the log over at `start`.
    Activate {
        /// As whom.
        writer: Writer,
        /// The last record that it took over.
        start: Lsn,
    },
    /// The same holder goes on in a new term: what the gate holds must not leave, all of it is sent anew.
    Rebase {
        /// As whom.
        writer: Writer,
        /// The last record of the term before.
        start: Lsn,
    },
    /// What stands behind this record may leave.
    Released {
        /// As whom.
        writer: Writer,
        /// The record.
        lsn: Lsn,
    },
    /// All members computed what this node computed at this height: the seat may vote for it.
    Agreed(Height),
    /// Records of the node's log before this one may go.
    CutBefore(u64),
    /// Something that an operator wants to know.
    Report(Event),
}

/// Where the log is to be read anew, it stands for all that was to be followed: following it would repeat it.
pub fn without_void(effects: Vec<Effect>) -> impl Iterator<Item = Effect> {
    let rebuilds = effects.iter().any(|effect| matches!(effect, Effect::Rebuild));
    effects.into_iter().filter(move |effect| !rebuilds || !matches!(effect, Effect::Follow(_)))
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The holder is suspected.
    Suspected {
        /// In which term.
        term: Term,
        /// Why.
        cause: Suspicion,
    },
    /// This node asked the auth node for a grant.
    Asked {
        /// The term that is to end.
        term: Term,
        /// What for.
        what: &'static str,
    },
    /// A grant was accepted.
    Granted {
        /// Its term.
        term: Term,
        /// Its holder.
        holder: NodeId,
        /// Its set.
        in_sync: BTreeSet<NodeId>,
    },
    /// All terms below this one are fenced here, durably.
    Fenced {
        /// The term.
        term: Term,
    },
    /// This node speaks for the seat.
    Activated {
        /// As whom.
        writer: Writer,
    },
    /// This node is the holder by its grant, and its log is not complete: the seat needs another holder.
    CannotActivate {
        /// The term.
        term: Term,
    },
    /// The log was cut back to what it shares with the holder's.
    CutBack {
        /// Records that are gone.
        records: u64,
    },
    /// A holder's log contradicts what this node has acknowledged: it was brought back from a copy, or is faulty.
    Contradicted {
        /// At this record.
        lsn: Lsn,
    },
    /// Members computed another result than this node: the other seats decide.
    Disputed {
        /// Where.
        height: Height,
        /// Who.
        members: Vec<NodeId>,
    },
    /// The other seats decided against this node's result: it gives the seat up.
    WrongHere {
        /// Where.
        height: Height,
    },
    /// A request was refused.
    Refused(standin_auth::Refusal),
    /// The auth node knows less than it once did: its register was brought back from a copy.
    RegisterRolledBack {
        /// Changes that it counts.
        found: u64,
        /// Changes that it had counted.
        seen: u64,
    },
}

/// Why a holder is suspected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspicion {
    /// Nothing was heard of it.
    Silence,
    /// Its connection was closed.
    LinkDown,
    /// It says that it cannot speak.
    Mute,
    /// It hears too few seats.
    Alone,
    /// It resigned.
    Resigned,
    /// It was ordered away.
    Forced,
}

impl std::fmt::Display for Suspicion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Silence => "silent",
            Self::LinkDown => "its connection was closed",
            Self::Mute => "it cannot speak",
            Self::Alone => "it hears too few seats",
            Self::Resigned => "it resigned",
            Self::Forced => "it was ordered away",
        })
    }
}
