//! The log of a seat, as the replica that fills it sees it. Who keeps it, on how many nodes, is the keeper's business.

use bytes::Bytes;
use standin_foundation::{Height, Lsn, Writer};

/// A record with the payload that stands next to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPiece {
    /// The record, encoded.
    pub record: Bytes,
    /// The payload; empty where the record carries none.
    pub payload: Bytes,
}

/// A seat's log, as it was found: its records, from its base on, with their payloads.
#[derive(Debug)]
pub struct FoundLog {
    /// The records.
    pub pieces: Vec<LogPiece>,
    /// Number of the next.
    pub next: Lsn,
}

/// Where a replica writes to. No call waits for a disk or a network, unless the keeper is far behind.
pub trait SeatLog: std::fmt::Debug + Send + Sync {
    /// Appends records, next in order. What another writer than the current one appends comes too late, and is void.
    fn append(&self, writer: Writer, pieces: Vec<LogPiece>);

    /// Up to here executed blocks are durable in the store: the log need not keep what they stand for.
    fn stored(&self, height: Height);
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
    /// What stands behind this record may leave, if the writer is still the same.
    Released {
        /// For whom.
        writer: Writer,
        /// The record.
        lsn: Lsn,
    },
    /// The log has this size, in bytes.
    Grown(u64),
    /// The log cannot be written any more, and says why. The node must stop.
    Failed(String),
}
