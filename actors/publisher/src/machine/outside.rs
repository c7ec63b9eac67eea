//! Locks that stand in a lock service outside the chain: what a server asks of it, and what it says.
//!
//! The service decides who may ask the chain; the chain takes whom it has named last, gives the fence, and takes a lock away as ever when seats
//! lose its owner or it stalls. So a service that is wrong, as every lease is at times, costs a hand-over and never a datum.

/// What a server asks of the lock service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// The lock, if nobody has it, or only somebody to whom it was given under a number that the chain has taken away.
    Acquire {
        /// The highest number of a grant that the chain knows, and that does not hold any more.
        above: u64,
        /// For how long after each renewal, in ms: the service may give more.
        lease_ms: u32,
    },
    /// More time.
    Renew {
        /// The renewal that this is.
        renewal: u64,
    },
    /// It is given back.
    Release,
}

/// What the lock service says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// The server has the lock.
    Won {
        /// The number under which it was given: it only rises.
        number: u64,
        /// For how long after each renewal, in ms.
        lease_ms: u32,
    },
    /// Another has it, or the service does not answer.
    Refused,
    /// It has more time.
    Renewed {
        /// The renewal.
        renewal: u64,
    },
    /// The server has it no more.
    Lost,
    /// Nobody has it.
    Freed,
}
