//! Locks that stand in a lock service outside the chain: what a server asks of it, and what it says.
//!
//! The service decides who may ask the chain; the chain takes whom it has named last, gives the fence, and takes a lock away as ever when seats
//! lose its owner or it stalls. So a service that is wrong, as every lease is at times, costs a hand-over and never a datum.

/// What a server asks of the lock service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// The lock, if nobody has it, or only somebody to whom it was given under a number that the chain has taken away.
    Acquire {
        /// The number of a grant that the chain has ended: whatever was given under it, or before, is over. 0 where a grant holds.
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
    /// Another has it.
    Refused {
        /// How far the service had come then.
        at: u64,
    },
    /// The service does not answer.
    Failed,
    /// It has more time.
    Renewed {
        /// What it was given under.
        number: u64,
        /// The renewal.
        renewal: u64,
    },
    /// The server does not have any more what it was given under this number.
    Lost {
        /// The number.
        number: u64,
    },
    /// Nobody has it.
    Freed {
        /// How far the service had come then: what was given under a higher number is not meant.
        at: u64,
    },
}
