//! What in-sync replication costs: seats that are held by clusters of two and of three against seats of one node each, on real
//! processes, in turns. At equal load below saturation: the actives' CPU time a transaction, and the median time to commit. Saturated:
//! the rate, with every seat verifying clients' signatures, and without any.
//!
//! All processes share this machine, and every member takes the CPU of a copy: it receives, writes and executes. Without signatures, where
//! that is most of the work, clusters of k can reach no more than 1/k of the rate of clusters of one here: that is the limit that is
//! printed. With signatures the share of the CPU that the actives had is printed beside the rate: what they would reach on machines of
//! their own is the rate by that share. `cargo bench --bench in_sync -- 1` takes one
//! round instead of three.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::indexing_slicing, reason = "a bench")]

mod common;

use common::load::{pace, requests, saturate};
use common::median;
use common::network::Network;
use standin_ledger::ClientSignatures;

/// Layouts whose clusters have one, two and three members.
const LAYOUTS: [&str; 3] = ["four-seats", "two-sites", "four-sites"];
/// Transactions a second below saturation, in requests of so many.
const RATE: f64 = 800.0;
const CHUNK: usize = 20;
/// Transactions of the equal load, of the saturated one with signatures, and of that without.
const PACED: usize = 8_000;
const SIGNED: usize = 20_000;
const UNSIGNED: usize = 100_000;

/// The figures of one size of clusters, a value a round.
#[derive(Default)]
struct Figures {
    cpu_us: Vec<f64>,
    p50_ms: Vec<f64>,
    signed: Vec<f64>,
    actives_share: Vec<f64>,
    unsigned: Vec<f64>,
}

fn main() {
    let rounds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(3);
    let mut figures: [Figures; 3] = Default::default();
    actix::System::new().block_on(async {
        for _ in 0..rounds {
            for (figures, layout) in figures.iter_mut().zip(LAYOUTS) {
                figures.measure(layout).await;
            }
        }
    });
    print(figures);
}

impl Figures {
    async fn measure(&mut self, layout: &str) {
        let (network, actives) = start(layout, ClientSignatures::Required).await;
        let clients: Vec<_> = actives.iter().map(|node| network.client(*node)).collect();
        let cpu = || cpu_ticks(&network, actives.iter().copied());
        let paced = requests(&network.genesis, &network.client_key, 256, PACED, CHUNK);
        // The first quarter warms up.
        let warm = paced.len() / 4;
        pace(&clients, &paced, 0..warm, RATE).await;
        let before = cpu();
        let latencies = pace(&clients, &paced, warm..paced.len(), RATE).await;
        let count = (paced.len() - warm) * CHUNK;
        self.cpu_us.push((cpu() - before) as f64 * 10_000.0 / count as f64);
        self.p50_ms.push(latencies.value_at_quantile(0.5) as f64 / 1_000.0);
        drop(network);
        let (rate, share) = saturated(layout, ClientSignatures::Required, SIGNED, 100).await;
        self.signed.push(rate);
        self.actives_share.push(share);
        self.unsigned.push(saturated(layout, ClientSignatures::None, UNSIGNED, 500).await.0);
    }
}

fn cpu_ticks(network: &Network, nodes: impl Iterator<Item = usize>) -> u64 {
    nodes.map(|node| network.nodes[node].cpu_ticks()).sum()
}

/// The rate, and the share of all nodes' CPU time that the actives had.
async fn saturated(layout: &str, signatures: ClientSignatures, count: usize, chunk: usize) -> (f64, f64) {
    let (network, actives) = start(layout, signatures).await;
    let clients: Vec<_> = actives.iter().map(|node| network.client(*node)).collect();
    let requests = requests(&network.genesis, &network.client_key, 128, count, chunk);
    let of_actives = || cpu_ticks(&network, actives.iter().copied());
    let of_all = || cpu_ticks(&network, 0..network.nodes.len());
    let before = (of_actives(), of_all());
    let rate = saturate(&clients, &requests, 0..requests.len()).await;
    (rate, (of_actives() - before.0) as f64 / (of_all() - before.1) as f64)
}

/// A network, and the nodes that hold its seats.
async fn start(layout: &str, signatures: ClientSignatures) -> (Network, Vec<usize>) {
    let mut network = Network::init(layout, "test-bench", |genesis| {
        genesis.parameters.client_signatures = signatures;
        genesis.parameters.replay_window = 60_000;
    });
    network.start(&[("STANDIN__LOG__LEVEL", "warn"), ("STANDIN__STORE__INDEX_TRANSACTIONS", "false")]).await;
    let actives = network.whole().await.into_iter().map(|(node, _)| node).collect();
    (network, actives)
}

fn print(figures: [Figures; 3]) {
    let medians = figures.map(|figures| {
        let Figures { cpu_us, p50_ms, signed, actives_share, unsigned } = figures;
        [cpu_us, p50_ms, signed, actives_share, unsigned].map(median)
    });
    let [cpu_of_one, p50_of_one, signed_of_one, _, unsigned_of_one] = medians[0];
    for (index, [cpu, p50, signed, share, unsigned]) in medians.into_iter().enumerate() {
        let members = index + 1;
        println!(
            "in-sync set of {members}: at {RATE} tx/s {cpu:.0} us CPU of the active a transaction ({:.2} x), commit p50 {p50:.1} ms \
             ({:+.1} ms); saturated, every seat verifies, {signed:.0} tx/s ({:.2} x, by the actives' {:.0} % of the CPU {:.2} x); unsigned {unsigned:.0} tx/s ({:.2} x, limit {:.2} x)",
            cpu / cpu_of_one,
            p50 - p50_of_one,
            signed / signed_of_one,
            share * 100.0,
            signed / share / signed_of_one,
            unsigned / unsigned_of_one,
            1.0 / members as f64
        );
    }
}
