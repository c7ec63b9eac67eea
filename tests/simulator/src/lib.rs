//! A whole network in one thread, from one seed.
//!
//! The machines, the gate, the execution and the snapshots are the real ones; the network, the disks, the clocks and the
//! signatures are simulated. One seed fixes the topology of faults, every delay and every choice, so a failure is
//! replayed by its number: `cargo run --release -p standin-simulator --bin seeds -- --replay SEED`.
//!
//! - [`world`]: time, events, delivery; steps nodes and calls the invariants after every event.
//! - [`node`]: what the actor does around the machine, on a simulated disk.
//! - [`network`], [`disk`]: what can go wrong with messages and with what was written.
//! - [`faults`]: when nodes crash, freeze and are cut off. [`byzantine`]: what a faulty seat does, a file each.
//! - [`invariants`]: what must hold, a file each, written without a look at the code that they judge.
//! - [`scenario`]: what a seed means. After the faults everything is healed, and the network must go on.
//! - [`stories`]: what happens when one certain thing goes wrong, told to the end.
//! - [`publication`]: a campaign of its own, about locks and data around an ordered chain.
//! - [`model`]: every course of events that differs from the ordinary one in at most two places, in a network as small as can be.
//! - [`rules`]: every rule that can be switched off, to see whether the invariants notice.

#![allow(clippy::indexing_slicing, clippy::panic, reason = "a test tool: a wrong index is a bug of the simulator")]

pub mod auth;
pub mod authority;
pub mod byzantine;
pub mod disk;
pub mod faults;
pub mod invariants;
pub mod model;
pub mod network;
pub mod node;
pub mod publication;
pub mod rules;
pub mod scenario;
pub mod stories;
pub mod world;

pub use rules::Rule;
pub use scenario::{Protocol, Report, Scenario, run};
