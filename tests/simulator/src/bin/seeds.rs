//! Runs seeds: `seeds --seeds N --from S`, or one of them again: `seeds --replay SEED`. Exits with 1 on a violation; the
//! last line is a summary.
#![allow(clippy::print_stdout, reason = "this is a command")]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::{Parser, ValueEnum};
use standin_consensus::mutation::Mutation;
use standin_simulator::invariants::Violation;
use standin_simulator::{Report, Scenario, run};

/// A whole network in one thread, from one seed.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 2_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Run one seed again, and say what it was.
    #[arg(long)]
    replay: Option<u64>,
    /// Switch one rule off; without a rule, try each and print after how many seeds it was caught.
    #[arg(long)]
    mutation: Option<Rule>,
    /// Try every mutation and print the table: rule, seeds until caught. Fails if one is not caught.
    #[arg(long)]
    mutations: bool,
}

/// A rule that can be switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Rule {
    /// 2f votes make a certificate.
    QuorumTooSmall,
    /// A message leaves before its record is durable.
    SendBeforeSync,
    /// A re-sent message does not pass the gate.
    ResendUngated,
    /// A view-change leaves out what was prepared.
    ForgetPrepared,
    /// A slot takes a second proposal in one view.
    AcceptTwice,
    /// What was read from the page cache counts as durable.
    TrustPageCache,
    /// A replica goes on although its result is not the proven one.
    IgnoreOwnResult,
}

impl Rule {
    fn mutation(self) -> Mutation {
        match self {
            Self::QuorumTooSmall => Mutation::QuorumTooSmall,
            Self::SendBeforeSync => Mutation::SendBeforeSync,
            Self::ResendUngated => Mutation::ResendUngated,
            Self::ForgetPrepared => Mutation::ForgetPrepared,
            Self::AcceptTwice => Mutation::AcceptTwice,
            Self::TrustPageCache => Mutation::TrustPageCache,
            Self::IgnoreOwnResult => Mutation::IgnoreOwnResult,
        }
    }
}

/// What a campaign found.
#[derive(Debug, Default)]
struct Found {
    /// The lowest seed with a violation.
    violation: Option<(u64, Violation)>,
    steps: u64,
    blocks: u64,
    faulty: BTreeMap<&'static str, u64>,
}

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|_| {}));
    let arguments = Arguments::parse();
    if arguments.mutations {
        return table(arguments.seeds, arguments.from);
    }
    let mutation = arguments.mutation.map(Rule::mutation);
    if let Some(seed) = arguments.replay {
        return replay(seed, mutation);
    }
    let found = campaign(arguments.from, arguments.seeds, mutation);
    for (name, count) in &found.faulty {
        println!("{count:>8} seeds with faulty seat: {}", if name.is_empty() { "none" } else { name });
    }
    match &found.violation {
        None => {
            println!("{} seeds, {} events, {} blocks: no violation", arguments.seeds, found.steps, found.blocks);
            ExitCode::SUCCESS
        }
        Some((seed, violation)) => {
            println!("replay: cargo run --release -p standin-simulator --bin seeds -- --replay {seed}");
            println!("VIOLATION in seed {seed}: {violation}");
            ExitCode::FAILURE
        }
    }
}

fn replay(seed: u64, mutation: Option<Mutation>) -> ExitCode {
    match run(&Scenario { seed, mutation }) {
        Ok(report) => {
            println!("seed {seed}: {report:?}: no violation");
            ExitCode::SUCCESS
        }
        Err(violation) => {
            println!("VIOLATION in seed {seed}: {violation}");
            ExitCode::FAILURE
        }
    }
}

fn table(seeds: u64, from: u64) -> ExitCode {
    let mut all_caught = true;
    for rule in Rule::value_variants() {
        let name = rule.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        match campaign(from, seeds, Some(rule.mutation())).violation {
            Some((seed, violation)) => println!("{name:<18} caught after {:>5} seeds by {violation}", seed - from + 1),
            None => {
                all_caught = false;
                println!("{name:<18} NOT CAUGHT in {seeds} seeds");
            }
        }
    }
    println!("mutations: {}", if all_caught { "all caught" } else { "some were not caught" });
    if all_caught { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs seeds on all cores until one shows a violation; the lowest such seed is reported.
fn campaign(from: u64, seeds: u64, mutation: Option<Mutation>) -> Found {
    let next = AtomicU64::new(from);
    let lowest = AtomicU64::new(u64::MAX);
    let found = Mutex::new(Found::default());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + seeds || seed > lowest.load(Ordering::Relaxed) {
                        return;
                    }
                    let outcome = run(&Scenario { seed, mutation });
                    if outcome.is_err() {
                        lowest.fetch_min(seed, Ordering::Relaxed);
                    }
                    note(&found, seed, outcome);
                }
            });
        }
    });
    found.into_inner().unwrap_or_default()
}

fn note(found: &Mutex<Found>, seed: u64, outcome: Result<Report, Violation>) {
    let Ok(mut found) = found.lock() else { return };
    match outcome {
        Ok(report) => {
            found.steps += report.steps;
            found.blocks += report.height;
            *found.faulty.entry(report.faulty).or_default() += 1;
        }
        Err(violation) => {
            if found.violation.as_ref().is_none_or(|(lowest, _)| seed < *lowest) {
                found.violation = Some((seed, violation));
            }
        }
    }
}
