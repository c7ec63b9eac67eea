//! The PBFT replica of a seat.
//!
//! # The protocol in words
//!
//! Every seat makes batches of transactions and pushes them to all. The primary of the view assigns proposals, which name
//! batches, to consecutive slots (pre-prepare). A backup that holds the payloads accepts at most one proposal a slot and
//! view (prepare). Who sees a quorum of these holds a prepared certificate, logs it and says so (commit). A quorum of
//! commits is final, in whatever view it is seen. Every so many blocks results are compared (checkpoint): a quorum of
//! equal results is stable, makes room for further slots, and shows who computed something else.
//!
//! When nothing is committed in time, replicas leave the view with everything that they prepared (view-change). The next
//! primary shows a quorum of these (new-view); what must be proposed again follows from them. f+1 view-changes pull
//! everyone along. Time-outs grow by half and never above a maximum.
//!
//! ```text
//!           verified messages, persisted           effects
//!  bridge ──► pool ──► actor ──────────► machine ──────────► log ─┐
//!     ▲                  ▲                                        ▼
//!     └── sign ◄── gate ◄┴──────────────────────────────── durable up to lsn
//! ```
//!
//! # Invariants
//!
//! - No binding message leaves before its record is durable ([`gate`], the only place that decides it).
//! - No two different messages of one seat for the same (view, slot, phase), across crashes.
//! - Two certificates never contradict each other while at most f seats are faulty. If they do, the replica stops.
//! - The machine is a function of its inputs ([`machine`] builds without clock, threads or I/O).
//!
//! Source: Castro and Liskov, TOCS 2002. Deviations are named in [`machine`].

#[cfg(feature = "actor")]
pub mod actor;
pub mod config;
pub mod effect;
pub mod gate;
pub mod machine;
pub mod messages;
pub mod mutation;
pub mod record;
pub mod verify;

pub use config::Config;
pub use effect::{Effect, Event, Input, Recipient};
pub use gate::Gate;
pub use machine::{Identity, Machine, Role};
pub use messages::{BatchPayload, Body, Forward, Note, Place, Signed, Status, Transfer};
pub use record::Record;
pub use verify::{KeySigner, Signer, Verified, Verifier, VerifyError};
