//! Fail-over inside a seat, on real node processes under 500 tx/s: the active is killed, or stopped with SIGSTOP, and the clock
//! runs from the signal to the first block that carries the new holder's vote, by the time at which that node logs it. Beside it,
//! in the same run, what one dead replica costs a plain PBFT of ours, whose seats are held by one node each: the primary is killed,
//! and the clock runs to the next block.
//!
//! `cargo bench --bench failover -- 20` takes 20 of each instead of 100.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, clippy::indexing_slicing, reason = "a bench")]

mod common;

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::network::{Network, POLL};
use rustix::process::Signal;
use standin::client::Client;
use standin_foundation::{Height, SecretKey};
use standin_ledger::builtin::Operation;
use standin_ledger::transaction::TransactionBody;
use standin_ledger::{Genesis, Transaction};

/// As in the demo: logs are cut many times in a run.
const SMALL_LOGS: &[(&str, &str)] =
    &[("STANDIN__STORE__SEGMENT_BYTES", "4194304"), ("STANDIN__STORE__LOG_BYTES_MAX", "16777216")];
const RATE: u64 = 500;
/// Kills of a plain PBFT's primary: each costs a view change.
const PLAIN_ROUNDS: usize = 10;
/// A seat that nobody has taken by then may be one that nobody may take.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(10);

fn main() {
    let rounds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(100);
    actix::System::new().block_on(async {
        let mut network = Loaded::start("four-sites").await;
        let mut killed = Vec::new();
        let mut frozen = Vec::new();
        let mut alone = 0;
        for round in 0..rounds {
            for (samples, signal) in [(&mut killed, Signal::KILL), (&mut frozen, Signal::STOP)] {
                match network.fail_over(round, signal).await {
                    Some(ms) => samples.push(ms),
                    None => alone += 1,
                }
            }
        }
        let views = network.view().await;
        drop(network);
        let mut plain_network = Loaded::start("four-seats").await;
        let mut plain = Vec::new();
        for _ in 0..PLAIN_ROUNDS.min(rounds) {
            plain.push(plain_network.kill_primary().await);
        }
        print("failover: active killed", &mut killed);
        print("failover: active frozen", &mut frozen);
        println!("failover: not counted, since the holder was alone in its set: {alone}");
        println!("failover: views that were left meanwhile: {views}");
        print("failover: plain PBFT, primary killed", &mut plain);
    });
}

fn print(name: &str, samples: &mut [f64]) {
    samples.sort_by(f64::total_cmp);
    let at = |quantile: f64| samples[((samples.len() - 1) as f64 * quantile).round() as usize];
    let (p50, p99) = (at(0.5), at(0.99));
    println!("{name:<38} {:>4} times: p50 {p50:>7.1} ms, p99 {p99:>7.1} ms, most {:>7.1} ms", samples.len(), at(1.0));
}

/// A network under load.
struct Loaded {
    network: Network,
    task: actix_rt::task::JoinHandle<()>,
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Loaded {
    async fn start(layout: &str) -> Self {
        let mut network = Network::init(layout, "bench", |_| {});
        network.start(SMALL_LOGS).await;
        let (clients, genesis, key) = (network.clients(), network.genesis.clone(), Rc::clone(&network.client_key));
        Self { task: actix_rt::spawn(load(Rc::new(clients), genesis, key)), network }
    }

    /// Takes the active of a cluster away, and brings it back; in ms. None if just then it was alone in its in-sync set, as it is for a moment
    /// on a machine that is far too busy: nobody may take its seat then.
    async fn fail_over(&mut self, round: usize, signal: Signal) -> Option<f64> {
        let holders = self.network.whole().await;
        let (lost, view) = holders[round % holders.len()].clone();
        let mates: Vec<_> = self.network.views().await.into_iter().filter(|(_, mate)| mate.seat == view.seat).collect();
        let mates: Vec<_> = mates.into_iter().map(|(index, _)| index).filter(|index| *index != lost).collect();
        let before: Vec<_> = mates.iter().map(|mate| self.network.nodes[*mate].log().len()).collect();
        let begun = seconds_of_day(SystemTime::now());
        self.network.nodes[lost].signal(signal);
        let deadline = Instant::now() + GIVEN_UP_AFTER;
        let ends = loop {
            let logs = mates.iter().zip(&before).map(|(mate, before)| (self.network.nodes[*mate].log(), *before));
            if let Some(at) = logs.filter_map(|(log, before)| first_block(log.get(before..)?)).next() {
                break Some(at);
            }
            if Instant::now() > deadline {
                let mate = self.network.client(mates[0]).cluster().await.unwrap();
                assert!(mate.in_sync.len() == 1, "nobody took the seat of cluster {}: {mate:?}", view.cluster);
                break None;
            }
            tokio::time::sleep(POLL).await;
        };
        let ms = ends.map(|ends| (ends - begun).rem_euclid(DAY) * 1_000.0);
        let told = ms.map_or("not counted: it was alone in its set".to_owned(), |ms| format!("{ms:.0} ms"));
        eprintln!("round {round}: cluster {}, {signal:?}: {told}", view.cluster);
        match signal {
            Signal::STOP => self.network.nodes[lost].signal(Signal::CONT),
            _ => {
                self.network.nodes[lost].reap();
                self.network.nodes[lost].start(SMALL_LOGS);
            }
        }
        ms
    }

    /// Kills the seat that leads the view, and brings it back; to the next block, in ms.
    async fn kill_primary(&mut self) -> f64 {
        for node in 0..self.network.nodes.len() {
            while !matches!(self.network.client(node).ready().await, Ok((true, _))) {
                tokio::time::sleep(POLL).await;
            }
        }
        // A node that was just restarted may not have heard of the newest view.
        let mut newest = (0, 0);
        for node in 0..self.network.nodes.len() {
            let status = self.network.client(node).status().await.unwrap();
            newest = newest.max((status.view, status.primary));
        }
        let (view, lost) = (newest.0, usize::from(newest.1));
        let witness = self.network.client((lost + 1) % self.network.nodes.len());
        let begun = Instant::now();
        self.network.nodes[lost].signal(Signal::KILL);
        let mut last = None;
        loop {
            let status = witness.status().await.unwrap();
            let in_new_view = status.view > view && status.changing_to.is_none();
            // The first block that the new view has made.
            if in_new_view && *last.get_or_insert(status.committed) < status.committed {
                break;
            }
            tokio::time::sleep(POLL).await;
        }
        let ms = begun.elapsed().as_secs_f64() * 1_000.0;
        self.network.nodes[lost].reap();
        self.network.nodes[lost].start(SMALL_LOGS);
        ms
    }

    async fn view(&self) -> u64 {
        let mut highest = 0;
        for node in self.network.nodes.iter().filter_map(|node| node.client.as_ref()) {
            highest = highest.max(node.status().await.map_or(0, |status| status.view));
        }
        highest
    }
}

/// Seconds of a day.
const DAY: f64 = 86_400.0;

fn seconds_of_day(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap().as_secs_f64() % DAY
}

/// When a node says that a block carries its vote as the seat's new holder, in seconds of the day: lines begin with the time in UTC, as in
/// `2026-01-31T12:34:56.123456Z`.
fn first_block(log: &str) -> Option<f64> {
    let line = log.lines().find(|line| line.contains("first block"))?;
    let time = line.split_once('T')?.1.split_once('Z')?.0;
    let mut fields = time.split(':').map(|field| field.parse::<f64>().unwrap());
    Some(fields.next()? * 3_600.0 + fields.next()? * 60.0 + fields.next()?)
}

/// Signed transactions at a fixed rate, over all nodes, until it is aborted.
async fn load(clients: Rc<Vec<Client>>, genesis: Genesis, key: Rc<SecretKey>) {
    const EACH: u64 = 5;
    let mut tick = tokio::time::interval(Duration::from_millis(1_000 * EACH / RATE));
    let newest = Rc::new(Cell::new(Height(0)));
    let mut nonce = 0u64;
    loop {
        tick.tick().await;
        if nonce.is_multiple_of(RATE) {
            // Beside the load: a frozen node answers nothing, and the rate must not depend on it.
            for client in &*clients {
                let (client, newest) = (client.clone(), Rc::clone(&newest));
                actix_rt::spawn(async move {
                    let height = client.status().await.map_or(Height(0), |status| status.height);
                    newest.set(newest.get().max(height));
                });
            }
        }
        let height = newest.get();
        let transactions: Vec<_> = (0..EACH)
            .filter_map(|_| {
                nonce += 1;
                let payload =
                    Operation::Put { key: (nonce % 5_000).to_be_bytes().to_vec(), value: vec![1; 16] }.to_payload();
                let title = "bench".parse().ok()?;
                let body = TransactionBody { title, nonce, expires: height.plus(2_000), payload };
                Transaction::sign(&genesis.digest(), &key, &body).ok()
            })
            .collect();
        let client = clients[(nonce / EACH) as usize % clients.len()].clone();
        actix_rt::spawn(async move {
            // Whether it gets through is not what is measured.
            let _ = client.submit(&transactions, Duration::ZERO).await;
        });
    }
}
