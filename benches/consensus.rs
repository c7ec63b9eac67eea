//! Four real node processes on this machine: throughput and latency, at 128 and 512 B, without client signatures (a test
//! chain) and with every seat verifying. Transactions are made before the clock starts. The floor is what one thread can do
//! of the work that a replica cannot avoid: parse, hash, name the batch, execute.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::indexing_slicing, reason = "a bench")]

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use standin::client::Client;
use standin::config::read_genesis;
use standin_foundation::{Epoch, Height, Seat, SecretKey, View};
use standin_ledger::builtin::{Builtin, Operation};
use standin_ledger::transaction::TransactionBody;
use standin_ledger::{Batch, Chain, ClientSignatures, Genesis, Proposal, Transaction};

/// Transactions in one request, which becomes about one batch: few where each costs a signature check at every seat.
fn chunk(signatures: ClientSignatures) -> usize {
    match signatures {
        ClientSignatures::None => 500,
        ClientSignatures::Required => 100,
    }
}

/// Requests that are open at one time, over all nodes.
const OPEN: usize = 24;

struct Nodes(Vec<Child>);

impl Drop for Nodes {
    fn drop(&mut self) {
        for node in &mut self.0 {
            // Nothing can be done about a process that is gone.
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

fn main() {
    actix::System::new().block_on(async {
        // `cargo bench --bench consensus -- unsigned 128` measures one of the four.
        let wanted: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
        for (name, signatures, count) in
            [("unsigned", ClientSignatures::None, 400_000), ("signed", ClientSignatures::Required, 60_000)]
        {
            for bytes in [128, 512] {
                let labels = [name.to_owned(), bytes.to_string()];
                if wanted.iter().all(|wanted| labels.contains(wanted)) {
                    measure(signatures, bytes, count).await;
                }
            }
        }
    });
}

async fn measure(signatures: ClientSignatures, bytes: usize, count: usize) {
    let folder = tempfile::tempdir().unwrap();
    let network = folder.path().join("net");
    let (genesis, key, urls) = init(&network, signatures);
    let chunks = Rc::new(transactions(&genesis, &key, bytes, count));
    let floor = floor(&genesis, &chunks);
    let _nodes = start(&network);
    let clients: Vec<_> = urls.iter().map(|url| Client::new(url, Duration::from_secs(30))).collect();
    for client in &clients {
        while !matches!(client.ready().await, Ok((true, _))) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let rate = saturate(&clients, &chunks, 0..chunks.len() * 3 / 4).await;
    let latencies = pace(&clients, &chunks, chunks.len() * 3 / 4..chunks.len(), rate / 2.0).await;
    let name = match signatures {
        ClientSignatures::None => "unsigned",
        ClientSignatures::Required => "every seat verifies",
    };
    println!(
        "consensus: {bytes} B, {name:<20} {rate:>9.0} tx/s; at half of it p50 {:.1} ms, p99 {:.1} ms; floor {floor:.0} tx/s, ratio {:.2}",
        latencies.value_at_quantile(0.5) as f64 / 1_000.0,
        latencies.value_at_quantile(0.99) as f64 / 1_000.0,
        rate / floor
    );
}

fn init(network: &Path, signatures: ClientSignatures) -> (Genesis, SecretKey, Vec<String>) {
    let output = Command::new(env!("CARGO_BIN_EXE_standin"))
        .args(["init", network.to_str().unwrap(), "--chain", "test-bench"])
        .output()
        .unwrap();
    let talk = String::from_utf8(output.stderr).unwrap();
    let urls = talk.split_once("--node ").unwrap().1.split_whitespace().next().unwrap();
    let urls = urls.split(',').map(str::to_owned).collect();
    let path = network.join("genesis.toml");
    let mut genesis = read_genesis(&path).unwrap();
    genesis.parameters.client_signatures = signatures;
    genesis.parameters.replay_window = 60_000;
    std::fs::write(path, toml::to_string(&genesis).unwrap()).unwrap();
    (genesis, SecretKey::read(&network.join("client.key")).unwrap(), urls)
}

fn start(network: &Path) -> Nodes {
    let node = |seat: usize| {
        Command::new(env!("CARGO_BIN_EXE_standin"))
            .args(["run", "--die-with-parent", "-c"])
            .arg(network.join(format!("s{seat}/node.toml")))
            .env("STANDIN__LOG__LEVEL", "warn")
            .env("STANDIN__STORE__INDEX_TRANSACTIONS", "false")
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    Nodes((1..=4).map(node).collect())
}

fn transactions(genesis: &Genesis, key: &SecretKey, bytes: usize, count: usize) -> Vec<Vec<Transaction>> {
    let chain = genesis.digest();
    let make = |nonce: usize| {
        let overhead = 1 + 1 + 5 + 33 + 8 + 8 + 4 + 64 + 1 + 4 + 4 + 4;
        let key_bytes = ((nonce % 10_000) as u32).to_be_bytes().to_vec();
        let value = vec![nonce as u8; bytes.saturating_sub(overhead)];
        let payload = Operation::Put { key: key_bytes, value }.to_payload();
        let body =
            TransactionBody { title: "bench".parse().unwrap(), nonce: nonce as u64, expires: Height(59_000), payload };
        match genesis.parameters.client_signatures {
            ClientSignatures::None => Transaction::unsigned(&key.public(), &body).unwrap(),
            ClientSignatures::Required => Transaction::sign(&chain, key, &body).unwrap(),
        }
    };
    let size = chunk(genesis.parameters.client_signatures);
    (0..count / size).map(|chunk| (0..size).map(|i| make(chunk * size + i)).collect()).collect()
}

/// What one replica's work costs on one thread, all four on all cores: the rate that would leave nothing for the rest.
fn floor(genesis: &Genesis, chunks: &[Vec<Transaction>]) -> f64 {
    let chain_digest = genesis.digest();
    let mut chain = Chain::new(genesis, Arc::new(Builtin));
    let sample = &chunks[..chunks.len().min(40)];
    let count = sample.iter().map(Vec::len).sum();
    let rate = common::rate(count, || {
        for transactions in sample {
            let batch = Batch::new(transactions.clone()).unwrap();
            let batch = Arc::new(Batch::parse(batch.payload().clone()).unwrap());
            if genesis.parameters.client_signatures == ClientSignatures::Required {
                batch.verify_signatures(&chain_digest).unwrap();
            }
            let mut proposal = Proposal::null(chain.height().next(), Epoch(0), View(0), Seat(0));
            proposal.batches = vec![batch.reference()];
            chain.execute(proposal, &[batch]).unwrap();
        }
    });
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    rate * cores as f64 / 4.0
}

/// Keeps [`OPEN`] requests under way; gives the rate.
async fn saturate(clients: &[Client], chunks: &Rc<Vec<Vec<Transaction>>>, range: std::ops::Range<usize>) -> f64 {
    let begun = Instant::now();
    let next = Rc::new(std::cell::Cell::new(range.start));
    let count: usize = chunks[range.clone()].iter().map(Vec::len).sum();
    let tasks: Vec<_> = (0..OPEN)
        .map(|worker| {
            let (client, chunks, next) = (clients[worker % clients.len()].clone(), Rc::clone(chunks), Rc::clone(&next));
            let end = range.end;
            actix::spawn(async move {
                while next.get() < end {
                    let chunk = next.replace(next.get() + 1);
                    submit(&client, &chunks[chunk]).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    count as f64 / begun.elapsed().as_secs_f64()
}

/// Sends requests at a fixed rate, whatever becomes of those before; gives latencies in us, each from the moment at
/// which its request was due.
async fn pace(
    clients: &[Client],
    chunks: &Rc<Vec<Vec<Transaction>>>,
    range: std::ops::Range<usize>,
    rate: f64,
) -> Histogram<u64> {
    let begun = tokio::time::Instant::now();
    let interval = Duration::from_secs_f64(chunks[range.start].len() as f64 / rate);
    let mut tasks = Vec::new();
    for (number, chunk) in range.enumerate() {
        let due = begun + interval * number as u32;
        tokio::time::sleep_until(due).await;
        let (client, chunks) = (clients[number % clients.len()].clone(), Rc::clone(chunks));
        tasks.push(actix::spawn(async move {
            submit(&client, &chunks[chunk]).await;
            due.elapsed().as_micros() as u64
        }));
    }
    let mut latencies = Histogram::<u64>::new(3).unwrap();
    for task in tasks {
        latencies.record(task.await.unwrap()).unwrap();
    }
    latencies
}

/// Submits until a node takes it.
async fn submit(client: &Client, transactions: &[Transaction]) {
    while client.submit(transactions, Duration::from_secs(30)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
