//! A client of etcd, through its JSON gateway, which runs from etcd 3.4 on: no generated code, and one HTTP client for all.
//!
//! What it gives are etcd's own guarantees and no more: transactions that compare, leases that etcd counts, watches. A lease alone never shuts out a client that
//! is late: whoever uses one needs a fence.

#[cfg(feature = "client")]
mod answers;
#[cfg(feature = "client")]
mod client;
mod config;
#[cfg(feature = "client")]
mod lease;
#[cfg(feature = "client")]
mod tls;
#[cfg(feature = "client")]
mod version;
#[cfg(feature = "client")]
mod watch;

#[cfg(feature = "client")]
pub use answers::{Entry, Told};
#[cfg(feature = "client")]
pub use client::{CALLS_MAX, Client, Error, decoded, encoded};
pub use config::Config;
#[cfg(feature = "client")]
pub use lease::{Lease, LeaseId};
#[cfg(feature = "client")]
pub use watch::{Changed, Watch};
