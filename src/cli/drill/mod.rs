//! `drill`: failure drills on real node processes. Each drill is a file or a function with its name; all end with the same
//! judgement.

mod disks;
mod replicas;

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde::Serialize;
use standin::config::NodeConfig;
use standin_foundation::Height;

use super::Failure;
use super::layout::Layout;
use super::load::{Judgement, Load};
use super::network::Network;
use super::read::json;
use super::verify::verify_node;

#[derive(Debug, Args)]
pub(super) struct DrillArguments {
    #[command(subcommand)]
    command: DrillCommand,
}

#[derive(Debug, Subcommand)]
enum DrillCommand {
    /// List all drills with their default layout.
    List,
    /// Run drills by name, or `all`.
    Run {
        /// Names, or `all`.
        #[arg(required = true)]
        names: Vec<String>,
        /// The layout; each drill has a default.
        #[arg(long)]
        layout: Option<String>,
        /// Print one JSON object a drill on stdout.
        #[arg(long)]
        json: bool,
    },
}

const LAYOUT: &str = "four-seats";

/// All drills, with what they do.
const DRILLS: [(&str, &str); 7] = [
    ("replica-killed", "a replica that is not primary is killed under load and comes back"),
    ("replica-frozen", "a replica is stopped with SIGSTOP under load and goes on later"),
    ("primary-killed-under-load", "the primary is killed under load and comes back"),
    ("all-restarted", "all replicas are killed at once under load and start again"),
    ("two-killed-then-back", "two of four are killed: the chain stops, and resumes by itself when they are back"),
    ("log-torn", "a replica is killed and its log gets a torn tail, then damage in the middle"),
    ("disk-full", "a replica's disk fills up: it stops in order, the others go on, it comes back"),
];

/// One thing that a drill looks at.
#[derive(Debug, Serialize)]
struct Check {
    name: String,
    passed: bool,
    detail: String,
}

/// What came of a drill.
#[derive(Debug, Serialize)]
struct Report {
    drill: String,
    layout: String,
    passed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<String>,
    checks: Vec<Check>,
    recovery_ms: Option<u64>,
    lost: u64,
    doubled: u64,
    forks: u64,
}

/// A drill under way.
struct Drill {
    network: Network,
    load: Load,
    checks: Vec<Check>,
    recovery_ms: Option<u64>,
}

/// How a drill ends early.
enum Ended {
    /// Something that it needs is missing.
    Skipped(String),
    /// Something went wrong with the drill itself.
    Failed(Failure),
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<std::io::Error> for Ended {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.into())
    }
}

pub(super) async fn drill(arguments: DrillArguments) -> Result<(), Failure> {
    match arguments.command {
        DrillCommand::List => {
            for (name, what) in DRILLS {
                println!("{name:<28} {LAYOUT:<12} {what}");
            }
            Ok(())
        }
        DrillCommand::Run { names, layout, json } => run(&names, layout.as_deref().unwrap_or(LAYOUT), json).await,
    }
}

async fn run(names: &[String], layout: &str, as_json: bool) -> Result<(), Failure> {
    let layout = Layout::named(layout)?;
    let known = |name: &String| name == "all" || DRILLS.iter().any(|(known, _)| known == name);
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        return Err(Failure::new(2, format!("drill `{unknown}` is not known; see `standin drill list`")));
    }
    let all = names.iter().any(|name| name == "all");
    let mut failed = 0;
    for (name, _) in DRILLS.iter().filter(|(name, _)| all || names.iter().any(|wanted| wanted == name)) {
        let report = run_one(name, &layout).await;
        if as_json {
            println!("{}", json(&report));
        } else {
            print(&report);
        }
        failed += u32::from(!report.passed && report.skipped.is_none());
    }
    if failed == 0 { Ok(()) } else { Err(Failure::new(1, format!("{failed} drills failed"))) }
}

fn print(report: &Report) {
    let state = match (&report.skipped, report.passed) {
        (Some(why), _) => format!("skipped: {why}"),
        (None, true) => "passed".to_owned(),
        (None, false) => "FAILED".to_owned(),
    };
    let recovery = report.recovery_ms.map(|ms| format!(", recovered in {ms} ms")).unwrap_or_default();
    println!("{}: {state}{recovery}", report.drill);
    for check in &report.checks {
        println!("  [{}] {}: {}", if check.passed { '+' } else { '-' }, check.name, check.detail);
    }
}

async fn run_one(name: &str, layout: &Layout) -> Report {
    let mut report = Report {
        drill: name.to_owned(),
        layout: layout.name.clone(),
        passed: false,
        skipped: None,
        checks: Vec::new(),
        recovery_ms: None,
        lost: 0,
        doubled: 0,
        forks: 0,
    };
    let done = match name {
        "disk-full" => disks::disk_full(layout).await,
        _ => plain(name, layout).await,
    };
    match done {
        Ok((drill, judgement)) => {
            report.checks = drill.checks;
            report.recovery_ms = drill.recovery_ms;
            (report.lost, report.doubled, report.forks) = (judgement.lost, judgement.doubled, judgement.forks);
            report.passed = report.checks.iter().all(|check| check.passed);
        }
        Err(Ended::Skipped(why)) => report.skipped = Some(why),
        Err(Ended::Failed(failure)) => {
            report.checks.push(Check { name: "drill".to_owned(), passed: false, detail: failure.text });
        }
    }
    report
}

async fn plain(name: &str, layout: &Layout) -> Result<(Finished, Judgement), Ended> {
    let network = Network::start(&super::demo::plan(&format!("drill-{name}"), layout.clone())).await?;
    let mut drill = Drill::start(network).await?;
    match name {
        "replica-killed" => replicas::replica_killed(&mut drill).await?,
        "replica-frozen" => replicas::replica_frozen(&mut drill).await?,
        "primary-killed-under-load" => replicas::primary_killed_under_load(&mut drill).await?,
        "all-restarted" => replicas::all_restarted(&mut drill).await?,
        "two-killed-then-back" => replicas::two_killed_then_back(&mut drill).await?,
        _ => disks::log_torn(&mut drill).await?,
    }
    drill.finish().await
}

/// What is left of a drill when its network is gone.
struct Finished {
    checks: Vec<Check>,
    recovery_ms: Option<u64>,
}

const RATE: u64 = 300;

impl Drill {
    async fn start(network: Network) -> Result<Self, Ended> {
        let load = Load::start(&network, RATE)?;
        let mut drill = Self { network, load, checks: Vec::new(), recovery_ms: None };
        drill.progress("before", 200, Duration::from_secs(20)).await;
        Ok(drill)
    }

    fn check(&mut self, name: &str, passed: bool, detail: impl Into<String>) {
        self.checks.push(Check { name: name.to_owned(), passed, detail: detail.into() });
    }

    /// Waits until `count` more transactions have an outcome; gives the time until the first, in ms.
    async fn progress(&mut self, when: &str, count: usize, within: Duration) -> Option<u64> {
        let begun = Instant::now();
        let (before, mut first) = (self.load.finished(), None);
        while self.load.finished() < before + count && begun.elapsed() < within {
            tokio::time::sleep(Duration::from_millis(5)).await;
            if first.is_none() && self.load.finished() > before {
                first = Some(begun.elapsed().as_millis() as u64);
            }
        }
        let finished = self.load.finished() - before;
        let detail = format!("{finished} of {count} outcomes in {} ms", begun.elapsed().as_millis());
        self.check(&format!("progress {when}"), finished >= count, detail);
        first
    }

    /// Waits until a node that came back has executed what the others had.
    async fn caught_up(&mut self, seat: usize, within: Duration) -> Result<(), Failure> {
        let begun = Instant::now();
        let mut target = Height(0);
        for other in (0..self.network.size()).filter(|other| *other != seat) {
            target = target.max(self.network.height(other).await.unwrap_or_default());
        }
        let mut height = None;
        while begun.elapsed() < within {
            height = self.network.height(seat).await;
            if height.is_some_and(|height| height >= target) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let detail = format!("height {height:?} of {target} in {} ms", begun.elapsed().as_millis());
        self.check(&format!("s{} caught up", seat + 1), height.is_some_and(|height| height >= target), detail);
        Ok(())
    }

    /// The judgement that every drill ends with: nothing lost, nothing doubled, no fork, and every store sound.
    async fn finish(mut self) -> Result<(Finished, Judgement), Ended> {
        let judgement = self.load.judge(&mut self.network).await?;
        let Judgement { submitted, committed, lost, doubled, forks, .. } = judgement;
        let mut checks = self.checks;
        let mut check = |name: &str, passed: bool, detail: String| {
            checks.push(Check { name: name.to_owned(), passed, detail });
        };
        check(
            "nothing lost",
            lost == 0 && committed * 100 >= submitted * 95,
            format!("{committed} of {submitted} committed, {lost} lost"),
        );
        check("nothing doubled", doubled == 0, format!("{doubled} doubled"));
        check("no fork", forks == 0, format!("{forks} forks up to height {}", judgement.height));
        let (took, clean) = self.network.stop().await?;
        check("stopped in order", clean && took < Duration::from_secs(5), format!("{} ms", took.as_millis()));
        for seat in 0..self.network.size() {
            let config = NodeConfig::read(&self.network.config(seat)).map_err(Failure::from)?;
            match verify_node(&config) {
                Ok(found) => check(
                    &format!("s{} verifies", seat + 1),
                    true,
                    format!("height {}, {} blocks", found.height, found.blocks),
                ),
                Err(failure) => check(&format!("s{} verifies", seat + 1), false, failure.text),
            }
        }
        Ok((Finished { checks, recovery_ms: self.recovery_ms }, judgement))
    }
}
