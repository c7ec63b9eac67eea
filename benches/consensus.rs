//! Four real node processes on this machine: throughput and latency, at 128 and 512 B, without client signatures (a test
//! chain) and with every seat verifying. Transactions are made before the clock starts. The floor is what one thread can do
//! of the work that a replica cannot avoid: parse, hash, name the batch, execute.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::indexing_slicing, reason = "a bench")]

mod common;

use std::sync::Arc;

use common::load::{pace, requests, saturate};
use common::network::Network;
use standin_foundation::{Epoch, Seat, View};
use standin_ledger::builtin::Builtin;
use standin_ledger::{Batch, Chain, ClientSignatures, Genesis, Proposal, Transaction};

/// Transactions in one request, which becomes about one batch: few where each costs a signature check at every seat.
fn chunk(signatures: ClientSignatures) -> usize {
    match signatures {
        ClientSignatures::None => 500,
        ClientSignatures::Required => 100,
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
    let mut network = Network::init("four-seats", "test-bench", |genesis| {
        genesis.parameters.client_signatures = signatures;
        genesis.parameters.replay_window = 60_000;
    });
    let requests = requests(&network.genesis, &network.client_key, bytes, count, chunk(signatures));
    let floor = floor(&network.genesis, &requests);
    network.start(&[("STANDIN__LOG__LEVEL", "warn"), ("STANDIN__STORE__INDEX_TRANSACTIONS", "false")]).await;
    let clients = network.clients();
    let rate = saturate(&clients, &requests, 0..requests.len() * 3 / 4).await;
    let latencies = pace(&clients, &requests, requests.len() * 3 / 4..requests.len(), rate / 2.0).await;
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
