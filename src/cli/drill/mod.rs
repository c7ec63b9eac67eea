//! `drill`: failure drills on real node processes. Each drill is a file or a function with its name; all end with the same
//! judgement.

mod clusters;
mod consortium;
mod disks;
mod epochs;
mod forger;
mod grow;
mod handed_in;
mod publishers;
mod replicas;
mod seats;
mod stream;
mod torn;

use std::io::Write as _;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use futures_util::future::LocalBoxFuture;
use serde::Serialize;
use standin::config::NodeConfig;
use standin_foundation::Height;

use super::Failure;
use super::etcd::{Etcd, NOT_INSTALLED};
use super::init::Plan;
use super::layout::{Layout, RegisterPlace};
use super::load::{Judgement, Load};
use super::network::Network;
use super::read::json;
use super::verify::verify_node;
use disks::SmallDisk;
use stream::StreamJudgement;

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

/// What a drill does with its network.
type Steps = for<'a> fn(&'a mut Drill) -> LocalBoxFuture<'a, Result<(), Failure>>;

/// A drill: what it does, and the layouts that support it; the first is its default.
struct Kind {
    name: &'static str,
    what: &'static str,
    layouts: &'static [&'static str],
    steps: Steps,
    /// Links can be cut: all that is said passes through relays.
    relayed: bool,
    /// A node's disk is so small that it fills up.
    small_disk: bool,
    /// Nodes keep little for terminals that were away.
    small_journals: bool,
    /// Locks of topics may stand in an etcd.
    etcd_locks: bool,
}

const SEATS: &[&str] = &["four-seats"];
const ALL: &[&str] = &["four-sites", "two-sites", "four-sites-plus", "four-seats"];
const CLUSTERS: &[&str] = &["four-sites", "two-sites", "four-sites-plus"];
const WIDE: &[&str] = &["four-sites", "four-sites-plus"];
const FOUR: &[&str] = &["four-sites"];
const FRONTS: &[&str] = &["four-sites-etcd"];
const PUBLISHERS: &[&str] = &["publishers"];

const fn kind(name: &'static str, layouts: &'static [&'static str], what: &'static str, steps: Steps) -> Kind {
    Kind { name, what, layouts, steps, relayed: false, small_disk: false, small_journals: false, etcd_locks: false }
}

impl Kind {
    const fn relayed(self) -> Self {
        Self { relayed: true, ..self }
    }

    const fn with_small_disk(self) -> Self {
        Self { small_disk: true, ..self }
    }

    const fn with_small_journals(self) -> Self {
        Self { small_journals: true, ..self }
    }

    const fn with_etcd_locks(self) -> Self {
        Self { etcd_locks: true, ..self }
    }
}

/// All drills.
const DRILLS: &[Kind] = &[
    kind("replica-killed", SEATS, "a replica that is not primary is killed under load and comes back", |drill| {
        Box::pin(replicas::replica_killed(drill))
    }),
    kind("replica-frozen", SEATS, "a replica is stopped with SIGSTOP under load and goes on later", |drill| {
        Box::pin(replicas::replica_frozen(drill))
    }),
    kind("primary-killed-under-load", SEATS, "the primary is killed under load and comes back", |drill| {
        Box::pin(replicas::primary_killed_under_load(drill))
    }),
    kind("all-restarted", SEATS, "all replicas are killed at once under load and start again", |drill| {
        Box::pin(replicas::all_restarted(drill))
    }),
    kind(
        "two-killed-then-back",
        SEATS,
        "two of four are killed: the chain stops, and resumes by itself when they are back",
        |drill| Box::pin(replicas::two_killed_then_back(drill)),
    ),
    kind(
        "operators-replaced",
        ALL,
        "operators order through the chain that others take their place, while nodes and a disk are lost",
        |drill| Box::pin(epochs::operators_replaced(drill)),
    ),
    kind(
        "cold-spare",
        CLUSTERS,
        "all nodes of a cluster are lost with their disks: a spare takes the seat by the chain's order",
        |drill| Box::pin(epochs::cold_spare(drill)),
    ),
    kind(
        "cluster-added",
        CLUSTERS,
        "a fifth cluster is given a seat by the chain's order; then its holder is lost, and another cluster",
        |drill| Box::pin(consortium::cluster_added(drill)),
    ),
    kind(
        "cluster-removed",
        CLUSTERS,
        "the cluster that leads the view is removed by the chain's order, and added again later",
        |drill| Box::pin(consortium::cluster_removed(drill)),
    ),
    kind(
        "auth-replaced",
        CLUSTERS,
        "the auth node is lost with its key: another takes its place by the chain's order, with every cluster begun anew",
        |drill| Box::pin(consortium::auth_replaced(drill)),
    ),
    kind("log-torn", SEATS, "a replica is killed and its log gets a torn tail, then damage in the middle", |drill| {
        Box::pin(disks::log_torn(drill))
    }),
    kind(
        "disk-full",
        SEATS,
        "a replica's disk fills up: it stops in order, the others go on, it comes back",
        |drill| Box::pin(disks::disk_full(drill)),
    )
    .with_small_disk(),
    kind("first-start", CLUSTERS, "every cluster elects and registers its first holder, step by step", |drill| {
        Box::pin(clusters::first_start(drill))
    }),
    kind(
        "active-killed",
        CLUSTERS,
        "the active that leads the view is killed: its standby goes on without a view change",
        |drill| Box::pin(clusters::active_killed(drill)),
    ),
    kind(
        "active-frozen",
        CLUSTERS,
        "the active is stopped with SIGSTOP and wakes up after the takeover: its late votes count nowhere",
        |drill| Box::pin(clusters::active_frozen(drill)),
    ),
    kind("active-and-standby-killed", WIDE, "active and standby are killed at once: the reserve takes over", |drill| {
        Box::pin(clusters::active_and_standby_killed(drill))
    }),
    kind("seat-switched", CLUSTERS, "an operator moves a seat under load", |drill| Box::pin(clusters::switched(drill))),
    kind(
        "key-replaced",
        CLUSTERS,
        "the key of the active that leads the view is replaced under load, by a member with a new one",
        |drill| Box::pin(grow::key_replaced(drill)),
    ),
    kind("site-lost", CLUSTERS, "each whole site is killed, one after the other", |drill| {
        Box::pin(clusters::sites_lost(drill, 1))
    }),
    kind("two-sites-lost", WIDE, "every pair of sites is killed at once", |drill| {
        Box::pin(clusters::sites_lost(drill, 2))
    }),
    kind("three-sites-lost", WIDE, "every triple of sites is killed at once", |drill| {
        Box::pin(clusters::sites_lost(drill, 3))
    }),
    kind(
        "witness-and-site-lost",
        CLUSTERS,
        "a site and the auth node are killed; the chain goes on when the auth node is back",
        |drill| Box::pin(clusters::witness_and_site_lost(drill)),
    ),
    kind(
        "auth-down",
        CLUSTERS,
        "the chain runs without its auth node; a seat that loses its active waits for it",
        |drill| Box::pin(clusters::auth_down(drill)),
    ),
    kind(
        "auth-restarted-from-backup",
        CLUSTERS,
        "the register is brought back from a copy: it stops until its operator says so",
        |drill| Box::pin(clusters::auth_restarted_from_backup(drill)),
    ),
    kind(
        "auth-front-killed",
        FRONTS,
        "auth nodes that share a register in an etcd are killed and frozen, an active with each: the other takes over",
        |drill| Box::pin(clusters::auth_front_killed(drill)),
    ),
    kind(
        "rolling-restart",
        CLUSTERS,
        "every node is stopped and started again, one after the other, under load",
        |drill| Box::pin(clusters::rolling_restart(drill)),
    ),
    kind(
        "wrong-result",
        CLUSTERS,
        "an active computes wrong results, found inside; then votes for them, found by the others",
        |drill| Box::pin(clusters::wrong_result(drill)),
    ),
    kind(
        "forged-update",
        CLUSTERS,
        "updates with bad tickets, of other clusters, without a ground: refused, register unchanged",
        |drill| Box::pin(clusters::forged_update(drill)),
    ),
    kind("lost-disk", CLUSTERS, "a member, then an active, comes back with an empty disk", |drill| {
        Box::pin(clusters::lost_disk(drill))
    }),
    kind(
        "older-image",
        CLUSTERS,
        "a member, then an active, comes back with an older image of its disk; then of its log or store alone, and without a store",
        |drill| Box::pin(clusters::older_image(drill)),
    ),
    kind(
        "grow",
        FOUR,
        "fourth members join the live network: then any three sites may go; one is removed again",
        |drill| Box::pin(grow::grow(drill)),
    ),
    kind(
        "partition-active",
        CLUSTERS,
        "the active is cut off from its cluster and not from the others, then the reverse",
        |drill| Box::pin(clusters::partition_active(drill)),
    )
    .relayed(),
    kind(
        "sites-split",
        WIDE,
        "the sites fall into two halves that the auth node hears both: a quorum of seats moves to one site",
        |drill| Box::pin(clusters::sites_split(drill)),
    )
    .relayed(),
    kind(
        "publisher-killed",
        PUBLISHERS,
        "the server that holds a topic's lock is killed: another one goes on behind the last datum",
        |drill| Box::pin(publishers::publisher_killed(drill)),
    ),
    kind(
        "publisher-frozen",
        PUBLISHERS,
        "the server that holds a topic's lock is stopped with SIGSTOP and wakes up late: nothing of it is seen",
        |drill| Box::pin(publishers::publisher_frozen(drill)),
    ),
    kind(
        "publisher-partitioned",
        PUBLISHERS,
        "the server that holds a topic's lock reaches its terminals and not the chain: it stops by itself",
        |drill| Box::pin(publishers::publisher_partitioned(drill)),
    )
    .relayed(),
    kind(
        "publisher-stalled",
        PUBLISHERS,
        "the server that holds a topic's lock renews it and publishes nothing: the others take it from it",
        |drill| Box::pin(publishers::publisher_stalled(drill)),
    ),
    kind(
        "pushes-during-failover",
        PUBLISHERS,
        "sources push without a pause while whoever publishes is killed, and the node that they push through",
        |drill| Box::pin(publishers::pushes_during_failover(drill)),
    ),
    kind(
        "terminal-reconnects",
        PUBLISHERS,
        "every connection of the terminals breaks again and again, anywhere in the stream of bytes",
        |drill| Box::pin(publishers::terminal_reconnects(drill)),
    ),
    kind(
        "terminal-behind-retention",
        PUBLISHERS,
        "a terminal comes back when what it needs is forgotten: it is told so, and what is left",
        |drill| Box::pin(publishers::terminal_behind_retention(drill)),
    )
    .with_small_journals(),
    kind(
        "disk-full-at-holder",
        PUBLISHERS,
        "the disk of the server that publishes fills up: it stops in order, and another one goes on",
        |drill| Box::pin(publishers::disk_full_at_holder(drill)),
    )
    .with_small_disk(),
    kind(
        "publishers-reconfigured",
        PUBLISHERS,
        "a new epoch begins under the stream, and another one while whoever publishes is killed",
        |drill| Box::pin(publishers::publishers_reconfigured(drill)),
    ),
    kind(
        "lock-in-etcd",
        PUBLISHERS,
        "a topic's lock stands in an etcd: whoever publishes is killed, and stands still; then the etcd is away",
        |drill| Box::pin(publishers::lock_in_etcd(drill)),
    )
    .with_etcd_locks(),
    kind(
        "two-standbys-race",
        PUBLISHERS,
        "one holder after the other is killed: all standbys race, and one is granted each time",
        |drill| Box::pin(publishers::two_standbys_race(drill)),
    ),
    kind(
        "holder-and-active-killed",
        PUBLISHERS,
        "the server that publishes and the active that leads the view are killed at once",
        |drill| Box::pin(publishers::holder_and_active_killed(drill)),
    ),
    kind(
        "many-topics",
        PUBLISHERS,
        "topics are spread over the servers; one is killed, and its topics go to the others",
        |drill| Box::pin(publishers::many_topics(drill)),
    ),
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
            for Kind { name, what, layouts, .. } in DRILLS.iter() {
                println!("{name:<28} {:<12} {what}", layouts.first().copied().unwrap_or_default());
            }
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
        Err(Ended::Failed(failure)) => {
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
    (kind.steps)(&mut drill).await?;
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
