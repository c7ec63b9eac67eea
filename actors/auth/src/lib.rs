//! The auth node: it admits nodes, keeps the register of who holds which seat, and signs grants.
//!
//! It is a configuration manager and nothing more: it changes (term, holder, in-sync set) of a cluster by compare-and-swap,
//! so that there are never two grants for one term. Grounds for a change are a damper against needless fail-over; what keeps
//! two holders from being counted is the in-sync set's acknowledgement, which the auth node is not asked for. So it is not on
//! the path of any vote: while it is away, the chain runs, and a seat that loses a member waits.
//!
//! [`machine`] decides, one cluster's record at a time; the register may be a file or a store that several auth nodes share.

#[cfg(feature = "actor")]
pub mod actor;
pub mod config;
#[cfg(feature = "etcd")]
pub mod etcd;
pub mod machine;
pub mod messages;
pub mod mutation;
#[cfg(feature = "actor")]
pub mod register;
#[cfg(feature = "actor")]
pub mod ticket;

pub use config::Config;
pub use machine::{Auth, Decision, Record};
pub use messages::{Answer, Claim, Refusal, Request, Statement};
