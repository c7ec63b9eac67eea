//! Runs seeds: `seeds --seeds N --from S`, or one of them again: `seeds --replay SEED`. Exits with 1 on a violation; the
//! last line is a summary.
#![allow(clippy::print_stdout, reason = "this is a command")]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::{Parser, ValueEnum};
use standin_simulator::invariants::Violation;
use standin_simulator::rules;
use standin_simulator::{Protocol, Report, Rule, Scenario, publication, run};

/// A whole network in one thread, from one seed.
#[derive(Debug, Parser)]
struct Arguments {
    /// What to simulate.
    #[arg(long, value_enum, default_value = "consensus")]
    protocol: Campaign,
    /// How many seeds to run.
    #[arg(long, default_value_t = 2_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Run one seed again, and say what it was.
    #[arg(long)]
    replay: Option<u64>,
    /// Switch one rule off, by its name in the table.
    #[arg(long)]
    mutation: Option<String>,
    /// Try every mutation and print the table: rule, seeds until caught. Fails if one is not caught.
    #[arg(long)]
    mutations: bool,
    /// In the table, leave out the rules whose lack only rare hand-overs show.
    #[arg(long)]
    short: bool,
}

/// What is simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Campaign {
    /// Consensus among seats of one node each.
    Consensus,
    /// Seats that are held by clusters, and an auth node.
    Clusters,
    /// Topics, locks, sources and terminals around an ordered chain.
    Publication,
}

/// A rule of a campaign.
#[derive(Debug, Clone, Copy)]
struct Named {
    name: &'static str,
    is_rare: bool,
    masked_by: Option<&'static str>,
    what: Switch,
}

/// Where a rule is switched off.
#[derive(Debug, Clone, Copy)]
enum Switch {
    Network(Rule),
    Publication(publication::Switched),
}

impl Campaign {
    /// The rules that the campaign looks at.
    fn rules(self) -> Vec<Named> {
        let network = |rule: &Rule| {
            let Rule { name, is_rare, masked_by, .. } = *rule;
            Named { name, is_rare, masked_by, what: Switch::Network(*rule) }
        };
        match self {
            Self::Consensus => rules::CONSENSUS.iter().map(network).collect(),
            Self::Clusters => rules::CLUSTERS.iter().map(network).collect(),
            Self::Publication => {
                let named =
                    |(name, what)| Named { name, is_rare: false, masked_by: None, what: Switch::Publication(what) };
                publication::RULES.into_iter().map(named).collect()
            }
        }
    }

    /// Runs a seed, with a rule switched off.
    fn run(self, seed: u64, rule: Option<Named>) -> Result<Ran, Violation> {
        let network = |protocol| {
            let rule = rule.and_then(|rule| match rule.what {
                Switch::Network(rule) => Some(rule),
                Switch::Publication(_) => None,
            });
            run(&Scenario { protocol, seed, rule }).map(Ran::Network)
        };
        match self {
            Self::Consensus => network(Protocol::Consensus),
            Self::Clusters => network(Protocol::Clusters),
            Self::Publication => {
                let switched = rule.and_then(|rule| match rule.what {
                    Switch::Publication(switched) => Some(switched),
                    Switch::Network(_) => None,
                });
                publication::run(seed, switched).map(Ran::Publication)
            }
        }
    }
}

/// What a seed gave.
#[derive(Debug)]
enum Ran {
    Network(Report),
    Publication(publication::Report),
}

/// What a campaign found.
#[derive(Debug, Default)]
struct Found {
    /// The lowest seed with a violation.
    violation: Option<(u64, Violation)>,
    steps: u64,
    blocks: u64,
    grants: u64,
    epochs: u64,
    reseated: u64,
    issuers: u64,
    faulty: BTreeMap<&'static str, u64>,
    delivered: u64,
    repeated: u64,
    stale: u64,
}

impl Found {
    fn summary(&self, campaign: Campaign, seeds: u64) -> String {
        let Self { steps, blocks, grants, epochs, reseated, issuers, delivered, repeated, stale, .. } = self;
        match campaign {
            Campaign::Publication => format!(
                "{seeds} seeds, {steps} events, {grants} grants, {delivered} data at all terminals, {repeated} repeated, {stale} stale frames \
                 refused: no violation"
            ),
            Campaign::Consensus | Campaign::Clusters => format!(
                "{seeds} seeds, {steps} events, {blocks} blocks, {grants} grants, {epochs} epochs, {reseated} clusters come or gone, {issuers} auth \
                 nodes replaced: no violation"
            ),
        }
    }
}

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|_| {}));
    let arguments = Arguments::parse();
    let campaign_of = arguments.protocol;
    if arguments.mutations {
        return table(campaign_of, arguments.short, arguments.seeds, arguments.from);
    }
    let named = |name: &String| campaign_of.rules().into_iter().find(|rule| rule.name == name);
    let rule = arguments.mutation.as_ref().and_then(named);
    if let (Some(name), None) = (&arguments.mutation, rule) {
        let known: Vec<_> = campaign_of.rules().iter().map(|rule| rule.name).collect();
        println!("no rule is called {name}; there are {}", known.join(", "));
        return ExitCode::from(2);
    }
    let run_seed = |seed| campaign_of.run(seed, rule);
    if let Some(seed) = arguments.replay {
        return replay(seed, run_seed(seed));
    }
    let found = campaign(arguments.from, arguments.seeds, &run_seed);
    for (name, count) in &found.faulty {
        println!("{count:>8} seeds with faulty seat: {}", if name.is_empty() { "none" } else { name });
    }
    match &found.violation {
        None => {
            println!("{}", found.summary(campaign_of, arguments.seeds));
            ExitCode::SUCCESS
        }
        Some((seed, violation)) => {
            let name = campaign_of.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
            println!(
                "replay: cargo run --release -p standin-simulator --bin seeds -- --protocol {name} --replay {seed}"
            );
            println!("VIOLATION in seed {seed}: {violation}");
            ExitCode::FAILURE
        }
    }
}

fn replay(seed: u64, ran: Result<Ran, Violation>) -> ExitCode {
    match ran {
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

fn table(of: Campaign, short: bool, seeds: u64, from: u64) -> ExitCode {
    let mut all_caught = true;
    for rule in of.rules().into_iter().filter(|rule| !(short && rule.is_rare)) {
        let name = rule.name;
        if let Some(behind) = rule.masked_by {
            println!("{name:<24} masked by {behind}: a test of the machine shows it");
            continue;
        }
        let run_seed = |seed| of.run(seed, Some(rule));
        match campaign(from, seeds, &run_seed).violation {
            Some((seed, violation)) => {
                println!("{name:<24} caught after {:>5} seeds by {}", seed - from + 1, violation.invariant);
            }
            None => {
                all_caught = false;
                println!("{name:<24} NOT CAUGHT in {seeds} seeds");
            }
        }
    }
    println!("mutations: {}", if all_caught { "all caught" } else { "some were not caught" });
    if all_caught { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs seeds on all cores until one shows a violation; the lowest such seed is reported.
fn campaign(from: u64, seeds: u64, run_seed: &(dyn Fn(u64) -> Result<Ran, Violation> + Sync)) -> Found {
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
                    let outcome = run_seed(seed);
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

fn note(found: &Mutex<Found>, seed: u64, outcome: Result<Ran, Violation>) {
    let Ok(mut found) = found.lock() else { return };
    match outcome {
        Ok(Ran::Publication(report)) => {
            found.steps += report.steps;
            found.grants += report.grants;
            found.delivered += report.delivered;
            found.repeated += report.repeated;
            found.stale += report.stale;
        }
        Ok(Ran::Network(report)) => {
            found.steps += report.steps;
            found.blocks += report.height;
            found.grants += report.grants;
            found.epochs += report.epoch;
            found.reseated += report.reseated;
            found.issuers += report.issuers;
            *found.faulty.entry(report.faulty).or_default() += 1;
        }
        Err(violation) => {
            if found.violation.as_ref().is_none_or(|(lowest, _)| seed < *lowest) {
                found.violation = Some((seed, violation));
            }
        }
    }
}
