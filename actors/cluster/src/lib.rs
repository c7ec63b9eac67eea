//! A member of a cluster: one of the nodes that together hold a seat.
//!
//! # In words
//!
//! One member is the *holder*: it speaks for the seat. What binds the seat is a record of the seat's log first. A record's
//! message leaves only when the record is durable at the holder and at every member that the grant lists (the *in-sync
//! set*), acknowledged in that very term. So a member that has accepted a newer grant, and acknowledges nothing older any
//! more, has silenced the old holder, wherever that one is and whatever it believes: the acknowledgement is the fence, and
//! no clock is needed.
//!
//! A listed member with a complete log may take the seat over. It asks the auth node, which changes (term, holder, set) by
//! compare-and-swap; it accepts the grant durably, goes on from everything that it had acknowledged, says it all again under
//! the new term, and the others notice nothing but a signature of another key.
//!
//! # Invariants
//!
//! - There is one log of a seat: what has left under any term is in the log of every later holder, in the same order.
//! - A node acknowledges nothing of a term below the newest grant that it has accepted.
//! - A complete log that the newest grant lists is never deleted; it is cut back only to what it shares with a newer holder's.
//!
//! [`machine`] is pure. Lineage: primary and backup with a configuration manager (Vertical Paxos II, Lamport, Malkhi and
//! Zhou 2009; PacificA, Lin and others 2008), applied to the log of one replica.

#[cfg(feature = "actor")]
pub mod actor;
pub mod config;
pub mod effect;
pub mod election;
pub mod machine;
pub mod messages;
pub mod mutation;

pub use config::Config;
pub use effect::{Effect, Event, Input};
pub use machine::{Identity, Member};
pub use messages::{Entry, Message, NodeRecord};
