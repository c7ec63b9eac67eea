//! `demo`: a whole network of real node processes, under signed load.

use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal};
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use standin::config::NodeConfig;
use standin_console::protocol::Role;
use standin_foundation::ClusterId;
use standin_ledger::ClientSignatures;
use tokio::sync::mpsc;

use super::{Failure, console};

use super::init::Plan;
use super::layout::{Layout, LayoutNode};
use super::load::{Judgement, Load};
use super::network::Network;
use super::output::json;

#[derive(Debug, Args)]
pub(super) struct DemoArguments {
    /// The layout: `four-sites`, `two-sites`, `four-sites-plus`, `four-sites-etcd`, `four-seats` or `publishers`.
    #[arg(long, default_value = "four-sites")]
    layout: String,
    /// End by itself after so many seconds.
    #[arg(long = "for", value_name = "SECONDS")]
    duration: Option<u64>,
    /// Transactions a second.
    #[arg(long, default_value_t = 200)]
    rate: u64,
    /// Print the outcome as one JSON object on stdout.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Latency {
    p50: u64,
    p99: u64,
}

#[derive(Debug, Serialize)]
struct Failover {
    cluster: String,
    cause: String,
    /// From the suspicion to the new holder speaking; none if that node has taken the seat over once more since, or is new.
    ms: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Outcome {
    layout: String,
    nodes: usize,
    seats: usize,
    height: u64,
    submitted: u64,
    committed: u64,
    rejected: u64,
    lost: u64,
    doubled: u64,
    forks: u64,
    tps: f64,
    latency_ms: Latency,
    failovers: Vec<Failover>,
}

/// Bytes that must stay free for a node of the demo or of a drill.
pub(super) const DEMO_RESERVE_BYTES: u64 = 64 << 20;

/// The network that the demo and the drills run: small segments, and no more free space asked for than a laptop has.
pub(super) fn plan(chain: &str, layout: Layout) -> Plan {
    Plan {
        layout,
        chain: chain.to_owned(),
        port: None,
        signatures: ClientSignatures::Required,
        store: vec![
            ("segment_bytes", "4194304".to_owned()),
            ("log_bytes_max", "16777216".to_owned()),
            ("reserve_bytes", DEMO_RESERVE_BYTES.to_string()),
        ],
        log_level: "info".to_owned(),
        relayed: false,
        etcd: String::new(),
    }
}

pub(super) async fn demo(arguments: DemoArguments) -> Result<(), Failure> {
    let layout = Layout::named(&arguments.layout)?;
    let begun = Instant::now();
    // Whoever sits at the keys may cut links; a demo that ends by itself needs no relays.
    let plan = Plan { relayed: arguments.duration.is_none(), ..plan("demo", layout) };
    let mut network = Network::start(&plan).await?;
    let files = network.files();
    eprintln!(
        "{} nodes for {} seats, up in {:.1} s on loopback; mutual TLS, signed transactions",
        network.size(),
        files.genesis.seats.len(),
        begun.elapsed().as_secs_f64()
    );
    eprintln!("clients:  --node {} --key {}", files.node_urls(), files.client_key.display());
    eprintln!("operator: --key {}", files.operator_key.display());
    eprintln!("console:  {}", console_link(&network, &plan.layout)?);
    let load = Load::start(&network, arguments.rate)?;
    eprintln!("load:     {} transactions a second", arguments.rate);
    let ended = match arguments.duration {
        Some(seconds) => watch(&load, Duration::from_secs(seconds)).await,
        None => interact(&mut network, &plan.layout, &load).await,
    };
    if let Err(failure) = ended {
        network.stop().await?;
        return Err(failure);
    }
    for index in 0..network.processes() {
        if !network.is_running(index) {
            network.start_node(index)?;
        }
    }
    let judgement = load.judge(&mut network).await?;
    let failovers = failovers(&network).await?;
    let (took, clean) = network.stop().await?;
    eprintln!("stopped in {} ms", took.as_millis());
    let sound = print(&arguments, &network, &judgement, failovers);
    if sound && clean { Ok(()) } else { Err(Failure::new(1, "the network is not sound: see above")) }
}

/// The console of a member that is not among the first to hold a seat or to take it over: it sees the chain, and is not what is killed.
fn console_link(network: &Network, layout: &Layout) -> Result<String, Failure> {
    let lowest = |cluster: &ClusterId| {
        layout.nodes.iter().filter(|node| node.cluster == *cluster).map(|node| node.priority).min()
    };
    let is_last = |node: &LayoutNode| Some(node.priority) == lowest(&node.cluster);
    let index = layout.nodes.iter().rposition(is_last).unwrap_or_default();
    let config = NodeConfig::read(&network.config(index))?;
    let token = console::make(&config.data_dir, "demo", Role::Admin, 60)?;
    Ok(format!("http://{}/console/#t={token}", config.http_listen))
}

/// Every change of a seat's holder, from the grants; the time as the node that took over tells it.
async fn failovers(network: &Network) -> Result<Vec<Failover>, Failure> {
    let table = match network.clients().first() {
        Some(client) => client.grant_table(&network.files().genesis).await?,
        None => return Ok(Vec::new()),
    };
    let mut took_over = BTreeMap::new();
    for client in network.clients() {
        if let Ok(view) = client.cluster().await
            && let Some(took) = view.took_over
        {
            took_over.insert((view.cluster, took.term), took.ms);
        }
    }
    let mut failovers = Vec::new();
    let mut holders = BTreeMap::new();
    for grant in table.all().map(|signed| &signed.grant) {
        let cluster = grant.cluster.to_string();
        let before = holders.insert(cluster.clone(), grant.holder);
        if before.is_some_and(|before| before != grant.holder) {
            let ms = took_over.get(&(cluster.clone(), grant.term.0)).copied();
            failovers.push(Failover { cluster, cause: format!("{:?}", grant.cause).to_lowercase(), ms });
        }
    }
    Ok(failovers)
}

fn print(arguments: &DemoArguments, network: &Network, judgement: &Judgement, failovers: Vec<Failover>) -> bool {
    let Judgement { submitted, committed, rejected, lost, doubled, forks, .. } = *judgement;
    let outcome = Outcome {
        layout: arguments.layout.clone(),
        nodes: network.size(),
        seats: network.files().genesis.seats.len(),
        height: judgement.height.0,
        submitted,
        committed,
        rejected,
        lost,
        doubled,
        forks,
        tps: judgement.tps,
        latency_ms: Latency { p50: judgement.p50_ms, p99: judgement.p99_ms },
        failovers,
    };
    if arguments.json {
        println!("{}", json(&outcome));
    } else {
        println!(
            "{submitted} submitted, {committed} committed, {rejected} rejected; {lost} lost, {doubled} doubled, {forks} forks"
        );
        println!(
            "height {}; {} tx/s; p50 {} ms, p99 {} ms",
            outcome.height, outcome.tps, judgement.p50_ms, judgement.p99_ms
        );
    }
    lost == 0 && doubled == 0 && forks == 0
}

async fn watch(load: &Load, duration: Duration) -> Result<(), Failure> {
    let end = Instant::now() + duration;
    let mut second = tokio::time::interval(Duration::from_secs(1));
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    while Instant::now() < end {
        tokio::select! {
            biased;
            _ = interrupt.recv() => return Err(Failure::new(130, "interrupted")),
            _ = second.tick() => {}
        }
    }
    eprintln!("{} transactions have an outcome", load.finished());
    Ok(())
}

const KEYS: &str = "keys, each with a node's name or number, or a site's name, and Enter:  k kill · r restart · f freeze · t thaw · \
                    c cut off · j join;  s status · q quit";

/// Takes commands from the terminal until `q`.
async fn interact(network: &mut Network, layout: &Layout, load: &Load) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(2, "stdin is no terminal: say how long with --for SECONDS"));
    }
    eprintln!("{KEYS}");
    let (sender, mut lines) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    loop {
        let line = tokio::select! {
            biased;
            _ = interrupt.recv() => return Ok(()),
            line = lines.recv() => line,
        };
        match line.as_deref().map(str::trim) {
            None | Some("q") => return Ok(()),
            Some(line) => {
                if let Err(failure) = command(network, layout, load, line).await {
                    eprintln!("{}", failure.text);
                }
            }
        }
    }
}

/// The processes that a word on the terminal stands for: a name, a number, or a site.
fn meant(network: &Network, layout: &Layout, word: &str) -> Vec<usize> {
    let all = 0..network.processes();
    let by_number = word.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
    all.filter(|index| {
        by_number == Some(*index)
            || network.name(*index) == word
            || (!word.is_empty() && layout.site_of(*index) == word)
    })
    .collect()
}

async fn command(network: &mut Network, layout: &Layout, load: &Load, line: &str) -> Result<(), Failure> {
    let (key, word) = line.split_at(line.len().min(1));
    let word = word.trim();
    if key == "s" && word.is_empty() {
        return show(network, load).await;
    }
    let indexes = meant(network, layout, word);
    let done = match key {
        "k" => "killed",
        "f" => "frozen",
        "t" => "thawed",
        "c" => "cut off from the others",
        "j" => "joined to the others",
        "r" => "restarted",
        _ => "",
    };
    if indexes.is_empty() || done.is_empty() {
        eprintln!("{KEYS}");
        return Ok(());
    }
    for index in indexes {
        match key {
            "k" => network.kill(index).await?,
            "f" => network.freeze(index)?,
            "t" => network.thaw(index)?,
            "c" => network.cut_off(index),
            "j" => network.join(index),
            _ => {
                network.kill(index).await?;
                network.start_node(index)?;
            }
        }
        eprintln!("{} {done}", network.name(index));
    }
    Ok(())
}

async fn show(network: &mut Network, load: &Load) -> Result<(), Failure> {
    for index in 0..network.size() {
        let name = network.name(index);
        if !network.answers(index) {
            eprintln!("{name:<10} down or frozen");
            continue;
        }
        let client = network.client(index)?;
        match (client.status().await, client.cluster().await) {
            (Ok(status), Ok(cluster)) => {
                let role = format!("{:?}", cluster.role).to_lowercase();
                eprintln!(
                    "{name:<10} {:<4} {role:<8} term {:<4} height {:<8} view {}",
                    cluster.site, cluster.term, status.height, status.view
                );
            }
            (Err(error), _) | (_, Err(error)) => eprintln!("{name:<10} {error}"),
        }
    }
    eprintln!("{} transactions have an outcome", load.finished());
    Ok(())
}
