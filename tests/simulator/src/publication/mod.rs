//! Publication under locks: servers, sources and terminals around an ordered chain, from one seed.
//!
//! The chain is taken for granted here (the other campaigns are about it): an order of transactions that the real rules execute, and whose
//! events reach every server in that order, each after a while of its own. Servers, sources, sessions and terminals are the real machines.
//!
//! - [`world`]: time, the chain, pipes, faults.
//! - [`checker`]: what terminals and sources were promised, judged from what they saw alone.

pub mod checker;
pub mod world;

use fastrand::Rng;
use standin_publisher::mutation::Mutation;

use crate::invariants::Violation;
use world::{Fault, ServerFault, World};

/// Length of the time with faults, in ms.
const FAULTS_MS: u64 = 12_000;
/// After healing everything must have arrived within this time, in ms.
const LIVENESS_MS: u64 = 20_000;

/// A rule that is switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switched {
    /// In the machines.
    Machine(Mutation),
    /// Around them.
    Driver(Driver),
}

/// A rule that is kept around the machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// Servers number data when they publish them, each in the order in which it has come to know them.
    SequenceAtPublishing,
    /// Leases are measured on clocks that people set.
    WallClock,
    /// Terminals believe in takeovers on the word of whoever shows them.
    TakeoverUnproven,
    /// Servers that lack data that wait compete for their topics all the same.
    LackUntold,
}

/// The rules whose lack the campaign must notice, by name.
pub const RULES: [(&str, Switched); 13] = [
    ("fence-unchecked", Switched::Machine(Mutation::FenceUnchecked)),
    ("sequence-at-publishing", Switched::Driver(Driver::SequenceAtPublishing)),
    ("acknowledged-early", Switched::Machine(Mutation::AcknowledgedEarly)),
    ("wall-clock", Switched::Driver(Driver::WallClock)),
    ("deadline-ignored", Switched::Machine(Mutation::DeadlineIgnored)),
    ("chain-unchecked", Switched::Machine(Mutation::ChainUnchecked)),
    ("nonce-unchecked", Switched::Machine(Mutation::NonceUnchecked)),
    ("stale-checkpoint", Switched::Machine(Mutation::StaleCheckpoint)),
    ("takeover-unproven", Switched::Driver(Driver::TakeoverUnproven)),
    ("retired-believed", Switched::Machine(Mutation::RetiredBelieved)),
    ("gap-ignored", Switched::Machine(Mutation::GapIgnored)),
    ("bar-unkept", Switched::Machine(Mutation::BarUnkept)),
    ("lack-untold", Switched::Driver(Driver::LackUntold)),
];

/// What came out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Report {
    /// Events.
    pub steps: u64,
    /// Data that every terminal has.
    pub delivered: u64,
    /// Grants of locks.
    pub grants: u64,
    /// Data that came to terminals again and were dropped.
    pub repeated: u64,
    /// Frames of superseded servers that terminals refused.
    pub stale: u64,
}

/// Runs a seed. The same seed gives the same result, always. A panic is a violation, too.
pub fn run(seed: u64, switched: Option<Switched>) -> Result<Report, Violation> {
    Violation::guard(|| run_unguarded(seed, switched))
}

fn run_unguarded(seed: u64, switched: Option<Switched>) -> Result<Report, Violation> {
    let mut rng = Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x7075_626c_6973_6865);
    let mut world = World::new(&mut rng, switched)?;
    let mut plan = plan(&mut rng, &world);
    plan.extend(keepers(seed, &world));
    for (at, fault) in plan {
        world.fault_at(at, fault);
    }
    world.load(&mut rng, FAULTS_MS);
    world.run_until(FAULTS_MS)?;
    world.heal();
    world.run_until_settled(FAULTS_MS + LIVENESS_MS)?;
    Ok(world.report())
}

/// What goes wrong when.
fn plan(rng: &mut Rng, world: &World) -> Vec<(u64, Fault)> {
    let mut plan = Vec::new();
    for _ in 0..rng.u64(0..8) {
        let at = rng.u64(500..FAULTS_MS - 2_000);
        let lasts = rng.u64(20..2_500);
        let kind = rng.choice(ServerFault::ALL).unwrap_or(ServerFault::Crash);
        // Most of what matters happens to owners.
        let server = if rng.bool() { None } else { Some(rng.usize(0..world.servers())) };
        plan.push((at, Fault::Server { kind, server, lasts }));
    }
    for _ in 0..rng.u64(0..6) {
        let terminal = rng.usize(0..world.terminals());
        plan.push((rng.u64(100..FAULTS_MS), Fault::Terminal { terminal, restarts: rng.bool() }));
    }
    for _ in 0..rng.u64(0..3) {
        plan.push((rng.u64(100..FAULTS_MS), Fault::Source(rng.usize(0..world.sources()))));
    }
    for _ in 0..rng.u64(0..2) {
        plan.push((rng.u64(100..FAULTS_MS), Fault::Forgotten));
    }
    if world.servers() > 3 && rng.u8(0..4) == 0 {
        plan.push((rng.u64(0..FAULTS_MS), Fault::Forger(rng.usize(0..world.servers()))));
    }
    plan
}

/// A faulty seat whose servers want locks for nothing, in one of four runs in which there may be one. Drawn apart: seeds that have found something keep their meaning.
fn keepers(seed: u64, world: &World) -> Option<(u64, Fault)> {
    let mut rng = Rng::with_seed(seed ^ 0x6b65_6570_6572_7300);
    let is_so = world.seats() > 3 && rng.u8(0..4) == 0;
    is_so.then(|| (rng.u64(0..FAULTS_MS / 2), Fault::Keepers(rng.usize(0..world.seats()))))
}
