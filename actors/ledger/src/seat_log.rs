//! The log of a seat, as the replica that fills it or follows it sees it. Who keeps it, on how many nodes, is the keeper's
//! business.

use std::sync::Arc;

use bytes::Bytes;
use standin_foundation::{Digest, Height, Lsn, NodeId, Writer};

use crate::batch::Batch;

/// A record with the payload that stands next to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPiece {
    /// The record, encoded.
    pub record: Bytes,
    /// The payload, where the record carries one.
    pub payload: Option<Arc<Batch>>,
}

/// A seat's log, as it is: its records, from its base on, with their payloads.
#[derive(Debug)]
pub struct FoundLog {
    /// The records.
    pub pieces: Vec<LogPiece>,
    /// Number of the next.
    pub next: Lsn,
}

/// What a replica tells the keeper of its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeatFact {
    /// Up to here blocks have been executed.
    Executed(Height),
    /// Up to here executed blocks are durable in the store: the log need not keep what they stand for.
    Stored(Height),
    /// This node computed this at a checkpoint.
    Computed(Height, Digest),
    /// f+1 other seats voted for this result.
    Decided(Height, Digest),
    /// A quorum of seats has proven a result at this height.
    Proven(Height),
    /// The other seats that are heard.
    SeatsHeard {
        /// How long ago anything of each came last, in ms.
        ages: Vec<u64>,
        /// How many a holder must hear to act against a member: 2f, in the epoch that the replica is in.
        needed: usize,
    },
    /// Up to here blocks are known to be final, by all that the log says.
    Final(Height),
}

/// Where a replica writes to. No call waits for a disk or a network, unless the keeper is far behind.
pub trait SeatLog: std::fmt::Debug + Send + Sync {
    /// Appends records, next in order. What comes from before the last [`SeatLogEvent::Activated`], or after a
    /// [`SeatLogEvent::Rebuild`], comes too late, and is void; a [`SeatLogEvent::Rebased`] on its way changes nothing.
    fn append(&self, writer: Writer, pieces: Vec<LogPiece>);

    /// Tells what the replica has found out.
    fn tell(&self, fact: SeatFact);
}

/// What the keeper tells the replica, in order, and without loss.
#[derive(Debug)]
pub enum SeatLogEvent {
    /// The replica speaks for the seat from now on, as this writer; it took the log over at `start`.
    Activated {
        /// As whom.
        writer: Writer,
        /// The last record that it took over.
        start: Lsn,
    },
    /// It goes on speaking in a new term: what waits for a release must not leave, all of it is sent anew.
    Rebased {
        /// As whom.
        writer: Writer,
        /// The last record of the term before.
        start: Lsn,
    },
    /// What stands behind this record may leave, if the writer is still the same.
    Released {
        /// For whom.
        writer: Writer,
        /// The record.
        lsn: Lsn,
    },
    /// A record of another holder, next in the log.
    Followed {
        /// Its number.
        lsn: Lsn,
        /// The record.
        piece: LogPiece,
    },
    /// The log is not what the replica has written or followed: it is to be read anew, by a replica that says nothing.
    Rebuild(FoundLog),
    /// All who must agree computed what this node computed at this height: the seat may vote for it.
    Agreed(Height),
    /// Blocks up to this height must be durable in the store before the log can be cut, or counts as complete.
    WantsStored(Height),
    /// Another member of the cluster has executed more than this node: it can be asked for blocks.
    MateAhead {
        /// Who.
        node: NodeId,
        /// Up to where.
        executed: Height,
    },
    /// The log has this size, in bytes.
    Grown(u64),
    /// The log cannot be written any more, and says why. The node must stop.
    Failed(String),
}
