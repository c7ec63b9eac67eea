//! `drill`: failure drills on real node processes. Each drill is a file or a function with its name, [`kinds`] lists them, and all end with the same judgement.

mod clusters;
mod consortium;
mod disks;
mod epochs;
mod forger;
mod grow;
mod handed_in;
mod kinds;
mod publishers;
mod replicas;
mod seats;
mod stream;
mod torn;

use std::io::Write as _;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde::Serialize;
use standin::config::NodeConfig;
use standin_foundation::Height;

use super::Failure;
use super::etcd::{Etcd, NOT_INSTALLED};
use super::init::Plan;
use super::layout::{Layout, RegisterPlace};
use super::load::{Judgement, Load};
use super::network::Network;
use super::output::{OutputArguments, json};
use super::verify::verify_node;
use disks::SmallDisk;
use kinds::{DRILLS, Kind};
use stream::StreamJudgement;

#[derive(Debug, Args)]
pub(super) struct DrillArguments {
    #[command(subcommand)]
    command: DrillCommand,
}

#[derive(Debug, Subcommand)]
enum DrillCommand {
    /// List all drills with their default layout.
    List {
        #[command(flatten)]
        output: OutputArguments,
    },
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

/// One thing that a drill looks at.
#[derive(Debug, Serialize)]
struct Check {
    pub(super) name: String,
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
    /// Of drills with terminals: data that came under a superseded fence.
    #[serde(skip_serializing_if = "Option::is_none")]
    stale: Option<u64>,
    /// And data that came out of order.
    #[serde(skip_serializing_if = "Option::is_none")]
    reordered: Option<u64>,
}

/// A drill under way.
struct Drill {
    network: Network,
    layout: Layout,
    load: Load,
    checks: Vec<Check>,
    recovery_ms: Option<u64>,
    /// Where locks of topics may stand.
    etcd: Option<Etcd>,
    /// What came of data on their way to terminals, where there are some.
    streamed: Option<StreamJudgement>,
}

/// How a drill ends early.
enum Ended {
    /// Something that it needs is missing.
    Skipped(String),
    /// Something went wrong with the drill itself; what was looked at before.
    Failed(Failure, Vec<Check>),
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure, Vec::new())
    }
}

impl From<std::io::Error> for Ended {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.into(), Vec::new())
    }
}

pub(super) async fn drill(arguments: DrillArguments) -> Result<(), Failure> {
    match arguments.command {
        DrillCommand::List { output } => {
            output.all(DRILLS, |drills| {
                for Kind { name, what, layouts, .. } in drills {
                    println!("{name:<28} {:<12} {what}", layouts.first().copied().unwrap_or_default());
                }
            });
            Ok(())
        }
        DrillCommand::Run { names, layout, json } => run(&names, layout.as_deref(), json).await,
    }
}

async fn run(names: &[String], layout: Option<&str>, as_json: bool) -> Result<(), Failure> {
    if let Some(name) = layout {
        Layout::named(name)?;
    }
    let mut failed = 0;
    for kind in chosen(names, layout)? {
        let layout = Layout::named(layout.or(kind.layouts.first().copied()).unwrap_or_default())?;
        let report = run_one(kind, &layout).await;
        if as_json {
            println!("{}", json(&report));
        } else {
            print(&report);
        }
        failed += u32::from(!report.passed && report.skipped.is_none());
    }
    if failed == 0 { Ok(()) } else { Err(Failure::new(1, format!("{failed} drills failed"))) }
}

/// The drills with these names; `all` stands for every one that the layout supports.
fn chosen(names: &[String], layout: Option<&str>) -> Result<Vec<&'static Kind>, Failure> {
    let supports = |kind: &Kind| layout.is_none_or(|layout| kind.layouts.contains(&layout));
    if names.iter().any(|name| name == "all") {
        return Ok(DRILLS.iter().filter(|kind| supports(kind)).collect());
    }
    let find = |name: &String| {
        let kind = DRILLS.iter().find(|kind| kind.name == *name);
        let kind =
            kind.ok_or_else(|| Failure::new(2, format!("drill `{name}` is not known; see `standin drill list`")))?;
        match supports(kind) {
            true => Ok(kind),
            false => Err(Failure::new(2, format!("drill `{name}` runs on {}", kind.layouts.join(", ")))),
        }
    };
    names.iter().map(find).collect()
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

async fn run_one(kind: &Kind, layout: &Layout) -> Report {
    let mut report = Report {
        drill: kind.name.to_owned(),
        layout: layout.name.clone(),
        passed: false,
        skipped: None,
        checks: Vec::new(),
        recovery_ms: None,
        lost: 0,
        doubled: 0,
        forks: 0,
        stale: None,
        reordered: None,
    };
    let done = carry_out(kind, layout).await;
    match done {
        Ok((drill, judgement)) => {
            report.checks = drill.checks;
            report.recovery_ms = drill.recovery_ms;
            (report.lost, report.doubled, report.forks) = (judgement.lost, judgement.doubled, judgement.forks);
            if let Some(streamed) = drill.streamed {
                report.lost += streamed.lost;
                report.doubled += streamed.doubled;
                (report.stale, report.reordered) = (Some(streamed.stale), Some(streamed.reordered));
            }
            report.passed = report.checks.iter().all(|check| check.passed);
        }
        Err(Ended::Skipped(why)) => report.skipped = Some(why),
        Err(Ended::Failed(failure, checks)) => {
            report.checks = checks;
            report.checks.push(Check { name: "drill".to_owned(), passed: false, detail: failure.text });
        }
    }
    report
}

async fn carry_out(kind: &Kind, layout: &Layout) -> Result<(Finished, Judgement), Ended> {
    if (layout.register == RegisterPlace::Etcd || kind.etcd_locks) && !Etcd::is_installed() {
        return Err(Ended::Skipped(NOT_INSTALLED.to_owned()));
    }
    let plan = super::demo::plan(&format!("drill-{}", kind.name), layout.clone());
    let mut network = Network::prepare(&Plan { relayed: kind.relayed, ..plan }).await?;
    let disk = kind.small_disk.then(|| SmallDisk::mount(&network.data(disks::VICTIM))).transpose()?;
    let etcd = if kind.etcd_locks { Some(Etcd::start().await?) } else { None };
    let mut more = String::new();
    if kind.small_journals {
        more += &format!("\n[publisher]\njournal_bytes = {JOURNAL_BYTES}\n");
    }
    if let Some(etcd) = &etcd {
        more += &format!("\n[publisher]\nlock_store = \"etcd\"\n[etcd]\nendpoints = \"{}\"\n", etcd.url());
    }
    for node in 0..network.size() {
        let mut config = std::fs::OpenOptions::new().append(true).open(network.config(node))?;
        config.write_all(more.as_bytes())?;
    }
    network.launch().await?;
    let mut drill = Drill { etcd, ..Drill::start(network, layout).await? };
    if let Err(failure) = (kind.steps)(&mut drill).await {
        return Err(Ended::Failed(failure, drill.broken_off()));
    }
    let finished = drill.finish().await;
    // Not before its node is gone.
    drop(disk);
    finished
}

fn read_config(network: &Network, node: usize) -> Result<NodeConfig, Failure> {
    Ok(NodeConfig::read(&network.config(node))?)
}

/// What is left of a drill when its network is gone.
struct Finished {
    checks: Vec<Check>,
    recovery_ms: Option<u64>,
    streamed: Option<StreamJudgement>,
}

const RATE: u64 = 300;
/// Small journals: the least that a node may keep.
const JOURNAL_BYTES: u64 = 512 << 10;

impl Drill {
    async fn start(network: Network, layout: &Layout) -> Result<Self, Ended> {
        let load = Load::start(&network, RATE)?;
        let mut drill = Self {
            network,
            layout: layout.clone(),
            load,
            checks: Vec::new(),
            recovery_ms: None,
            etcd: None,
            streamed: None,
        };
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
        self.check(
            &format!("{} caught up", self.network.name(seat)),
            height.is_some_and(|height| height >= target),
            detail,
        );
        Ok(())
    }

    /// What was looked at before a drill broke off, and the last words of each process that has ended by itself.
    fn broken_off(mut self) -> Vec<Check> {
        for node in 0..self.network.processes() {
            if self.network.has_ended(node) {
                let (name, last_words) = (self.network.name(node), self.network.last_words(node));
                self.check(&format!("{name} runs"), false, last_words);
            }
        }
        self.checks
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
        for seat in self.network.members() {
            let config = read_config(&self.network, seat)?;
            let name = self.network.name(seat);
            match verify_node(&config) {
                Ok(found) => check(
                    &format!("{name} verifies"),
                    true,
                    format!("height {}, {} blocks", found.height, found.blocks),
                ),
                Err(failure) => check(&format!("{name} verifies"), false, failure.text),
            }
        }
        Ok((Finished { checks, recovery_ms: self.recovery_ms, streamed: self.streamed }, judgement))
    }
}
