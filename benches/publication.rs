//! How many data a second go from a source to every terminal, end to end, beside Redis and NATS, which are started here where Debian's packages are installed.
//! Interleaved, a round of each after the other; medians of the rounds, and the ratios of each round.
//!
//! Ours are durable at 2f+1 seats before they are published, and every terminal checks them; Redis PUBLISH and NATS keep nothing, JetStream syncs its files every other
//! minute, and XADD with `appendfsync always` keeps them on one disk. All processes share this machine, the nodes of four seats as well: what each of them would do on a machine of its own
//! it does here on a part of one.
//!
//! `cargo bench --bench publication -- 1` takes one round instead of five.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::indexing_slicing, clippy::panic, reason = "a bench")]

mod common;

use std::time::{Duration, Instant};

use common::median;
use common::network::Network;
use common::peers::Peer;
use standin::client::Client;
use standin::publication::{Begin, Datum, Notice, Publisher, Sequence, SourceConfig, Terminal};
use standin_foundation::SecretKey;
use standin_ledger::ClientSignatures;

/// Data of a round, and bytes of each.
const COUNT: usize = 200_000;
const BYTES: usize = 256;
/// Terminals.
const MANY: usize = 10;

fn main() {
    let rounds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(5);
    actix::System::new().block_on(async {
        let (mut one, mut four) = (network(1).await, network(4).await);
        let (redis, durable) = (Peer::redis(false), Peer::redis(true));
        let (nats, jet_stream) = (Peer::nats(false), Peer::nats(true));
        let mut rows: Vec<(&str, Vec<f64>)> = Vec::new();
        let mut note = |name: &'static str, rate: Option<f64>| {
            let Some(rate) = rate else { return };
            match rows.iter_mut().find(|(known, _)| *known == name) {
                Some((_, rates)) => rates.push(rate),
                None => rows.push((name, vec![rate])),
            }
        };
        for round in 0..rounds {
            note("one seat, to 1", Some(published(&mut one, round * 4, 1).await));
            note("four seats, to 1", Some(published(&mut four, round * 4, 1).await));
            note(
                "Redis XADD, always synced, to nobody",
                durable.as_ref().map(|peer| peer.redis_appended(COUNT / 4, BYTES)),
            );
            note("Redis PUBLISH, not durable, to 1", redis.as_ref().map(|peer| peer.redis_published(COUNT, BYTES, 1)));
            note("NATS, not durable, to 1", nats.as_ref().map(|peer| peer.nats_published(COUNT, BYTES, 1)));
            let streamed = |number, consumers| {
                jet_stream.as_ref().map(|peer| peer.jet_stream_published(number, (COUNT, BYTES), consumers))
            };
            note("JetStream, not durable, to 1", streamed(round * 2, 1));
            note("one seat, to 10", Some(published(&mut one, round * 4 + 1, MANY).await));
            note("four seats, to 10", Some(published(&mut four, round * 4 + 1, MANY).await));
            note(
                "Redis PUBLISH, not durable, to 10",
                redis.as_ref().map(|peer| peer.redis_published(COUNT, BYTES, MANY)),
            );
            note("NATS, not durable, to 10", nats.as_ref().map(|peer| peer.nats_published(COUNT, BYTES, MANY)));
            note("JetStream, not durable, to 10", streamed(round * 2 + 1, MANY));
        }
        print(&rows);
    });
}

/// A chain of so many seats, of a node each.
async fn network(seats: usize) -> Network {
    let mut network = Network::init("four-seats", &format!("bench-{seats}"), |genesis| {
        genesis.parameters.client_signatures = ClientSignatures::Required;
        genesis.seats.truncate(seats);
    });
    network.nodes.truncate(seats);
    network.start(&[]).await;
    network
}

/// A topic's data a second, from the first push until the last terminal has all of them.
async fn published(network: &mut Network, number: usize, terminals: usize) -> f64 {
    let (clients, topic) = (network.clients(), format!("bench-{number}").parse().unwrap());
    let key = SecretKey::generate().unwrap();
    let config = SourceConfig { queue_max: COUNT + 1, ..SourceConfig::default() };
    let mut source = Publisher::begin(clients.clone(), topic, key, 1, config).await.unwrap();
    let datum = || Datum { id: Default::default(), value: vec![b'x'; BYTES].into() };
    // The topic begins with its first datum; terminals are connected before the clock runs.
    source.push(datum()).unwrap();
    source.acknowledged().await.unwrap();
    let mut following = Vec::new();
    for terminal in 0..terminals {
        let node = &clients[terminal % clients.len()];
        while node.topic(topic).await.is_err() {
            tokio::time::sleep(common::network::POLL).await;
        }
        // Each has a thread of its own, as the peers' subscribers have.
        let (url, genesis) = (node.base().to_owned(), network.genesis.clone());
        let (connected, is_connected) = tokio::sync::oneshot::channel();
        let (done, is_done) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            actix::System::new().block_on(async {
                let node = Client::new(&url, Duration::from_secs(5));
                let mut terminal = Terminal::begin(vec![node], genesis, topic, Begin::At(Sequence(1)));
                wait_for(&mut terminal, 1).await;
                connected.send(()).unwrap();
                wait_for(&mut terminal, COUNT as u64 + 1).await;
                done.send(()).unwrap();
            });
        });
        is_connected.await.unwrap();
        following.push(is_done);
    }
    let begun = Instant::now();
    (0..COUNT).for_each(|_| _ = source.push(datum()).unwrap());
    let pushed = async {
        while source.waiting() > 0 {
            source.acknowledged().await.unwrap();
        }
    };
    let (_, all) = tokio::join!(pushed, futures_util::future::join_all(following));
    all.into_iter().for_each(Result::unwrap);
    COUNT as f64 / begun.elapsed().as_secs_f64()
}

async fn wait_for(terminal: &mut Terminal, upto: u64) {
    loop {
        let next = tokio::time::timeout(Duration::from_secs(60), terminal.next()).await.unwrap().unwrap();
        match next {
            Notice::Delivered(frame) if frame.position.last.0 >= upto => return,
            Notice::Alarm { alarm, .. } => panic!("{alarm}"),
            _ => {}
        }
    }
}

fn print(rows: &[(&str, Vec<f64>)]) {
    println!("{COUNT} data of {BYTES} bytes, from one source to every terminal, data a second");
    for (name, rates) in rows {
        let (least, most) =
            rates.iter().fold((f64::MAX, 0.0_f64), |(least, most), rate| (least.min(*rate), most.max(*rate)));
        println!("  {name:<40} {:>9.0}   ({least:.0} to {most:.0})", median(rates.clone()));
    }
    println!("ratios, medians of the rounds");
    let rates = |name: &str| rows.iter().find(|(known, _)| *known == name).map(|(_, rates)| rates);
    for (ours, peer, goal) in [
        ("one seat, to 1", "Redis XADD, always synced, to nobody", "1.0"),
        ("four seats, to 1", "Redis XADD, always synced, to nobody", "-"),
        ("one seat, to 1", "JetStream, not durable, to 1", "0.5"),
        ("four seats, to 1", "JetStream, not durable, to 1", "-"),
        ("one seat, to 10", "Redis PUBLISH, not durable, to 10", "0.5"),
        ("one seat, to 10", "NATS, not durable, to 10", "0.5"),
        ("four seats, to 10", "Redis PUBLISH, not durable, to 10", "-"),
        ("four seats, to 10", "NATS, not durable, to 10", "-"),
        ("one seat, to 10", "JetStream, not durable, to 10", "-"),
        ("four seats, to 10", "JetStream, not durable, to 10", "-"),
    ] {
        if let (Some(ours_rates), Some(peers)) = (rates(ours), rates(peer)) {
            let ratio = median(ours_rates.iter().zip(peers).map(|(ours, peer)| ours / peer).collect());
            println!("  {ours} / {peer}: {ratio:.2}   (goal {goal})");
        }
    }
}
