//! The actor kit: what Actix leaves to its users when actors must not stop.
//!
//! - [`Cell`]: supervision that survives panics. Messages queue outside the actor, so an address outlives the actor behind
//!   it; a factory makes a fresh actor, with backoff, up to an intensity; beyond that the cell escalates.
//! - [`Group`]: cells that stand and fall together, one for one, one for all, or the rest for one.
//! - [`mailbox`]: three lanes (control, ordinary, bulk), each bounded by count and by bytes. Control goes first.
//! - [`Address`] and [`Remote`]: one result type for local and remote, [`CallError`], which says whether a message may have
//!   been executed. Every ask has a deadline. [`Recipient`] is either of them; a [`Registry`] knows actors by name.
//! - [`bridge`]: actors on other machines, over websockets, behind mutual TLS and a signed hello.
//! - [`Probe`]: what each actor shows of itself.
//!
//! # Invariants
//!
//! - No queue grows without a bound, and what is refused is counted and told to the sender.
//! - A panic in a handler ends one incarnation of one actor: it is caught, counted and traced.
//! - Nothing is delivered twice. A message whose handler panicked is not delivered again.

pub mod address;
pub mod alarm;
pub mod bridge;
pub mod call;
pub mod cell;
pub mod distribution;
pub mod group;
pub mod mailbox;
pub mod message;
pub mod policy;
pub mod probe;
pub mod recipient;
pub mod registry;
pub mod reports;
pub mod throttle;

pub use address::Address;
pub use alarm::Alarm;
pub use bridge::{Bridge, Remote};
pub use call::CallError;
pub use cell::{Cell, Ctx, Exit, Handle, Reply, Role, Shell};
pub use distribution::{Distribution, Window};
pub use group::{Group, GroupHandle, Strategy};
pub use mailbox::MailboxLimits;
pub use message::{Lane, Message, RemoteMessage};
pub use policy::{Backoff, Intensity, RestartPolicy, Supervision};
pub use probe::Probe;
pub use recipient::Recipient;
pub use registry::{ActorView, Registry};
pub use reports::Reports;
pub use throttle::Throttle;

#[cfg(panic = "abort")]
compile_error!("supervision catches panics: build with panic = \"unwind\"");
