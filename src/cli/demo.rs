//! `demo`: a whole network of real node processes, under signed load.

use std::io::{BufRead, IsTerminal};
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use standin_ledger::ClientSignatures;
use tokio::sync::mpsc;

use super::Failure;

use super::init::Plan;
use super::layout::Layout;
use super::load::{Judgement, Load};
use super::network::Network;
use super::read::json;

#[derive(Debug, Args)]
pub(super) struct DemoArguments {
    /// The layout: `four-sites`, `two-sites`, `four-sites-plus` or `four-seats`.
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
    ms: u64,
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
        store: format!("segment_bytes = 4194304\nlog_bytes_max = 16777216\nreserve_bytes = {DEMO_RESERVE_BYTES}\n"),
        log_level: "info".to_owned(),
        relayed: false,
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
    let load = Load::start(&network, arguments.rate)?;
    eprintln!("load:     {} transactions a second", arguments.rate);
    let ended = match arguments.duration {
        Some(seconds) => watch(&load, Duration::from_secs(seconds)).await,
        None => interact(&mut network, &load).await,
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
    let (took, clean) = network.stop().await?;
    eprintln!("stopped in {} ms", took.as_millis());
    let sound = print(&arguments, &network, &judgement);
    if sound && clean { Ok(()) } else { Err(Failure::new(1, "the network is not sound: see above")) }
}

fn print(arguments: &DemoArguments, network: &Network, judgement: &Judgement) -> bool {
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
        failovers: Vec::new(),
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

const KEYS: &str = "keys, each with a node's number and Enter:  k kill · r restart · f freeze · t thaw · c cut off · j join;  \
                    s status · q quit";

/// Takes commands from the terminal until `q`.
async fn interact(network: &mut Network, load: &Load) -> Result<(), Failure> {
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
                if let Err(failure) = command(network, load, line).await {
                    eprintln!("{}", failure.text);
                }
            }
        }
    }
}

async fn command(network: &mut Network, load: &Load, line: &str) -> Result<(), Failure> {
    let (key, number) = line.split_at(line.len().min(1));
    let seat = number.trim().parse::<usize>().ok().and_then(|number| number.checked_sub(1));
    match (key, seat.filter(|seat| *seat < network.size())) {
        ("k", Some(seat)) => network.kill(seat).await?,
        ("f", Some(seat)) => network.freeze(seat)?,
        ("t", Some(seat)) => network.thaw(seat)?,
        ("c", Some(seat)) => network.cut_off(seat),
        ("j", Some(seat)) => network.join(seat),
        ("r", Some(seat)) => {
            network.kill(seat).await?;
            network.start_node(seat)?;
        }
        ("s", _) => {
            for seat in 0..network.size() {
                match network.client(seat)?.status().await {
                    Ok(view) => eprintln!(
                        "s{}  height {}  view {}  primary s{}",
                        seat + 1,
                        view.height,
                        view.view,
                        view.primary + 1
                    ),
                    Err(error) => eprintln!("s{}  {error}", seat + 1),
                }
            }
            eprintln!("{} transactions have an outcome", load.finished());
            return Ok(());
        }
        _ => {
            eprintln!("{KEYS}");
            return Ok(());
        }
    }
    let name = match key {
        "k" => "killed",
        "f" => "frozen",
        "t" => "thawed",
        "c" => "cut off from the others",
        "j" => "joined to the others",
        _ => "restarted",
    };
    eprintln!("s{} {name}", seat.unwrap_or_default() + 1);
    Ok(())
}
