//! Locks, beside those of etcd and Redis, which are started here where Debian's packages are installed; interleaved, medians of the rounds.
//!
//! **Fail-over**: whoever holds the lock is killed; ours until a terminal has the first datum of the next publisher, theirs until the next one has the lock, which is less.
//! A lease of etcd takes at least 2 s whatever is asked for; the lock in Redis expires after 1 s, and is safe for nobody. One seat is a cluster of its own, with an auth
//! node and no other seats.
//!
//! **Cycles**: the lock is taken and given back, over HTTP as clients do; by one, and by 16 that all want it. etcd's is its lock recipe. Ours are transactions: each is
//! signed, ordered, durable at 2f+1 seats and executed there before it counts.
//!
//! `cargo bench --bench locks -- 1` takes one round instead of five.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::indexing_slicing, clippy::panic, reason = "a bench")]

mod common;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::median;
use common::network::{Network, Node, POLL};
use common::peers::Peer;
use rustix::process::Signal;
use serde_json::json;
use standin::client::Client;
use standin::publication::{Begin, Datum, Notice, Publisher, Sequence, SourceConfig, Terminal};
use standin_etcd::{Client as Etcd, Config as EtcdConfig, encoded};
use standin_foundation::SecretKey;
use standin_ledger::Outcome;
use standin_publisher::messages::Instruction;
use standin_publisher::{Fence, Topic};

/// Cycles of a round, by one; and by all that contend.
const CYCLES: usize = 200;
const CONTENDERS: usize = 16;
/// A datum comes every so many ms while a publisher is lost.
const EVERY: Duration = Duration::from_millis(4);
/// The lease that is asked for, in s; etcd gives 2.
const ETCD_LEASE_S: u64 = 1;
const REDIS_LEASE: Duration = Duration::from_secs(1);
/// How often one who waits for Redis' lock asks for it.
const REDIS_POLL: Duration = Duration::from_millis(10);

#[derive(Default)]
struct Figures(Vec<(&'static str, Vec<f64>)>);

impl Figures {
    fn note(&mut self, name: &'static str, figure: Option<f64>) {
        let Some(figure) = figure else { return };
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, figures)) => figures.push(figure),
            None => self.0.push((name, vec![figure])),
        }
    }

    fn print(&self, what: &str, ratios: &[(&str, &str, &str)]) {
        println!("{what}");
        for (name, figures) in &self.0 {
            let least = figures.iter().copied().fold(f64::MAX, f64::min);
            let most = figures.iter().copied().fold(0.0, f64::max);
            println!("  {name:<34} {:>9.0}   ({least:.0} to {most:.0})", median(figures.clone()));
        }
        let figures = |name: &str| self.0.iter().find(|(known, _)| *known == name).map(|(_, figures)| figures);
        for (ours, peer, goal) in ratios {
            if let (Some(ours_figures), Some(peers)) = (figures(ours), figures(peer)) {
                let ratio = median(ours_figures.iter().zip(peers).map(|(ours, peer)| ours / peer).collect());
                println!("  {ours} / {peer}: {ratio:.2}   (goal {goal})");
            }
        }
    }
}

fn main() {
    let rounds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(5);
    actix::System::new().block_on(async {
        let (etcd, redis) = (Peer::etcd(), Peer::redis(false));
        cycles(rounds, etcd.as_ref()).await;
        fail_overs(rounds, etcd.as_ref(), redis.as_ref()).await;
    });
}

async fn cycles(rounds: usize, etcd: Option<&Peer>) {
    let (mut figures, mut profiles) = (Figures::default(), Vec::new());
    let (one, four) = (contended(1).await, contended(4).await);
    for round in 0..rounds {
        profiles.clear();
        let runs = [
            ("one seat, by one", &one, 1),
            ("four seats, by one", &four, 1),
            ("one seat, 16 contend", &one, CONTENDERS),
            ("four seats, 16 contend", &four, CONTENDERS),
        ];
        for (name, chain, contenders) in runs {
            let (figure, profile) = profiled(chain, round * 2 + usize::from(contenders > 1), contenders).await;
            figures.note(name, Some(figure));
            profiles.push((name, profile));
        }
        if let Some(etcd) = etcd {
            figures.note("etcd, by one", Some(etcd_cycled(etcd, round * 2, 1).await));
            figures.note("etcd, 16 contend", Some(etcd_cycled(etcd, round * 2 + 1, CONTENDERS).await));
        }
    }
    figures.print(
        "lock taken and given back, times a second",
        &[
            ("one seat, by one", "etcd, by one", "1.0"),
            ("four seats, by one", "etcd, by one", "-"),
            ("one seat, 16 contend", "etcd, 16 contend", "5.0"),
            ("four seats, 16 contend", "etcd, 16 contend", "-"),
        ],
    );
    profiles.iter().for_each(|(name, profile)| profile.print(name));
}

/// A chain, and the keys of those who contend for locks on it.
struct Contended {
    network: Network,
    keys: Vec<SecretKey>,
}

/// A chain of so many seats, of a node each, whose nodes want no locks for themselves. Those who contend have the keys of the other members.
async fn contended(seats: usize) -> Contended {
    let mut network = clusters(seats);
    let mut seen = BTreeSet::new();
    let cluster = |node: &Node| node.name().split('-').next().unwrap().to_owned();
    let mut is_first = |node: &mut Node| node.client.is_none() || seen.insert(cluster(node));
    let others: Vec<_> = network.nodes.extract_if(.., |node| !is_first(node)).collect();
    network.start(&[("STANDIN__PUBLISHER__COMPETES", "false"), ("STANDIN__CONSENSUS__LINGER_MS", "0")]).await;
    Contended { network, keys: others.iter().map(Node::key).collect() }
}

/// The clusters of so many seats, and the node that grants them.
fn clusters(seats: usize) -> Network {
    let name = format!("bench-{seats}");
    let mut network = Network::init("four-sites", &name, |genesis| genesis.seats.truncate(seats));
    let clusters: Vec<_> = network.genesis.seats.iter().map(|seat| format!("{}-", seat.cluster)).collect();
    network.nodes.retain(|node| node.client.is_none() || clusters.iter().any(|name| node.name().starts_with(name)));
    network
}

/// A topic, which begins with its first datum.
async fn topic(network: &Network, name: &str) -> Topic {
    let (clients, topic): (_, Topic) = (network.clients(), name.parse().unwrap());
    let key = SecretKey::generate().unwrap();
    let mut source = Publisher::begin(clients.clone(), topic, key, 1, SourceConfig::default()).await.unwrap();
    source.push(Datum { id: Default::default(), value: "0".into() }).unwrap();
    source.acknowledged().await.unwrap();
    for client in clients {
        while client.topic(topic).await.is_err() {
            tokio::time::sleep(POLL).await;
        }
    }
    topic
}

/// Where the time of a cycle goes: means in ms, but for the counts.
#[derive(Debug, Default, Clone)]
struct Profile {
    /// From the request to its answer: of what took the lock, of what was refused, and of what gave it back.
    taken: Vec<f64>,
    refused: Vec<f64>,
    given: Vec<f64>,
    /// Looks at the topic, to see whose turn it is.
    looks: usize,
    /// From a transaction's arrival at the node to its outcome, and how long a sync of the log takes; each with its number.
    commit: (f64, f64),
    sync: (f64, f64),
}

impl Profile {
    /// Sum and count of a histogram of the nodes' metrics, in ms.
    async fn of_nodes(network: &Network, name: &str) -> (f64, f64) {
        let (mut sum, mut count) = (0.0, 0.0);
        for client in network.clients() {
            let (_, text) = client.text("/metrics").await.unwrap();
            let all = |end: &str| {
                let of = format!("standin_{name}{end}");
                let lines = text.lines().filter(|line| line.starts_with(&of));
                lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
            };
            sum += all("_sum") * 1_000.0;
            count += all("_count");
        }
        (sum, count)
    }

    fn print(&self, name: &str) {
        let mean = |all: &[f64]| all.iter().fold(0.0, |sum, ms| sum + ms) / all.len().max(1) as f64;
        let cycles = self.given.len().max(1) as f64;
        println!(
            "  {name}, a cycle: {:.2} ms to take it, {:.2} ms to give it back; {:.1} asks were refused, of {:.2} ms each, and {:.1} looks were taken meanwhile",
            mean(&self.taken),
            mean(&self.given),
            self.refused.len() as f64 / cycles,
            mean(&self.refused),
            self.looks as f64 / cycles,
        );
        println!(
            "    at the nodes: {:.1} transactions of {:.2} ms from arrival to outcome, {:.1} syncs of {:.2} ms",
            self.commit.1 / cycles,
            self.commit.0 / self.commit.1.max(1.0),
            self.sync.1 / cycles,
            self.sync.0 / self.sync.1.max(1.0),
        );
    }
}

/// Takes and gives the lock back, by so many that want it; cycles a second, and where the time went.
async fn profiled(contended: &Contended, number: usize, contenders: usize) -> (f64, Profile) {
    let network = &contended.network;
    let (commit, sync) =
        (Profile::of_nodes(network, "commit_seconds").await, Profile::of_nodes(network, "log_sync_seconds").await);
    let profile = Rc::<RefCell<Profile>>::default();
    let figure = cycled(contended, number, contenders, &profile).await;
    let mut profile = Rc::unwrap_or_clone(profile).into_inner();
    let since = |now: (f64, f64), before: (f64, f64)| (now.0 - before.0, now.1 - before.1);
    profile.commit = since(Profile::of_nodes(network, "commit_seconds").await, commit);
    profile.sync = since(Profile::of_nodes(network, "log_sync_seconds").await, sync);
    (figure, profile)
}

async fn cycled(
    Contended { network, keys }: &Contended,
    number: usize,
    contenders: usize,
    profile: &Rc<RefCell<Profile>>,
) -> f64 {
    let topic = topic(network, &format!("cycles-{number}")).await;
    let left = Rc::new(Cell::new(CYCLES));
    let begun = Instant::now();
    let contend = |contender: usize| {
        let clients = network.clients();
        let (client, key) = (clients[contender % clients.len()].clone(), &keys[contender % keys.len()]);
        let genesis = network.genesis.clone();
        let profile = Rc::clone(profile);
        let (left, mut nonce) = (Rc::clone(&left), (number * CONTENDERS + contender) as u64 * 1_000_000);
        async move {
            let mut height = client.status().await.unwrap().height;
            let mut after = client.topic(topic).await.unwrap().fence;
            let mut carried_out = async |instruction: Instruction| {
                nonce += 1;
                let transaction = instruction.sign(&genesis, key, nonce, height).unwrap();
                let asked = Instant::now();
                let submitted = client.submit(&[transaction], Duration::from_secs(10)).await.unwrap();
                height = submitted[0].height.unwrap();
                let is_done = matches!(submitted[0].outcome, Some(Outcome::Applied(_)));
                let ms = asked.elapsed().as_secs_f64() * 1_000.0;
                let mut profile = profile.borrow_mut();
                match (&instruction, is_done) {
                    (Instruction::Release { .. }, _) => profile.given.push(ms),
                    (_, true) => profile.taken.push(ms),
                    (_, false) => profile.refused.push(ms),
                }
                is_done
            };
            while left.get() > 0 {
                // As servers do: one is next for the lock, and the others look again, each in its turn.
                let turn = (contender + contenders - after.0 as usize % contenders) % contenders;
                if turn > 0 {
                    tokio::time::sleep(POLL * (turn as u32 - 1)).await;
                    after = client.topic(topic).await.unwrap().fence;
                    profile.borrow_mut().looks += 1;
                    continue;
                }
                // Whoever is next asks before the lock is free, too: it is refused, and asks again.
                if carried_out(Instruction::Acquire { topic, after, lease_ms: 60_000, outside: None }).await {
                    after = Fence(after.0 + 1);
                    assert!(carried_out(Instruction::Release { topic, fence: after }).await, "it is its own");
                    left.set(left.get().saturating_sub(1));
                }
            }
        }
    };
    futures_util::future::join_all((0..contenders).map(contend)).await;
    CYCLES as f64 / begun.elapsed().as_secs_f64()
}

/// The same with etcd's lock recipe, through its gateway.
async fn etcd_cycled(peer: &Peer, number: usize, contenders: usize) -> f64 {
    let name = encoded(format!("lock-{number}"));
    let left = Rc::new(Cell::new(CYCLES));
    let begun = Instant::now();
    let contend = |_| {
        let (url, name, left) = (peer.url(), name.clone(), Rc::clone(&left));
        async move {
            let http = awc::Client::builder().timeout(Duration::from_secs(30)).finish();
            let ask = async |what: &str, body: serde_json::Value| {
                let mut answer = http.post(format!("{url}/v3/{what}")).send_json(&body).await.unwrap();
                assert!(answer.status().is_success(), "{what}");
                answer.json::<serde_json::Value>().await.unwrap()
            };
            let lease = ask("lease/grant", json!({ "TTL": "60" })).await["ID"].clone();
            while left.get() > 0 {
                let key = ask("lock/lock", json!({ "name": name, "lease": lease })).await["key"].clone();
                left.set(left.get().saturating_sub(1));
                ask("lock/unlock", json!({ "key": key })).await;
            }
        }
    };
    futures_util::future::join_all((0..contenders).map(contend)).await;
    CYCLES as f64 / begun.elapsed().as_secs_f64()
}

async fn fail_overs(rounds: usize, etcd: Option<&Peer>, redis: Option<&Peer>) {
    let mut figures = Figures::default();
    let (mut one, mut four) = (Streaming::begin(1).await, Streaming::begin(4).await);
    for round in 0..rounds {
        figures.note("one seat", Some(one.lose_publisher(round).await));
        figures.note("four seats", Some(four.lose_publisher(round).await));
        if let Some(etcd) = etcd {
            figures.note("etcd, lease of 2 s", Some(etcd_expired(etcd, round).await));
        }
        figures.note("Redis, 1 s", redis.map(|redis| redis_expired(redis, round)));
    }
    figures.print("fail-over, in ms: ours until a terminal has the next publisher's first datum, theirs until another one has the lock", &[
        ("one seat", "etcd, lease of 2 s", "0.25"),
        ("four seats", "etcd, lease of 2 s", "0.25"),
        ("one seat", "Redis, 1 s", "-"),
        ("four seats", "Redis, 1 s", "-"),
    ]);
}

/// A network whose nodes compete for locks.
struct Streaming(Network);

/// Data on their way, under each fence since when the terminal has them.
struct Stream {
    topic: Topic,
    firsts: Rc<RefCell<Vec<(Fence, Instant)>>>,
    tasks: Vec<actix_rt::task::JoinHandle<()>>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.tasks.iter().for_each(actix_rt::task::JoinHandle::abort);
    }
}

impl Streaming {
    async fn begin(seats: usize) -> Self {
        let mut network = clusters(seats);
        network.start(&[]).await;
        network.whole().await;
        Self(network)
    }

    /// Kills whoever publishes; in ms until the terminal has a datum of the next. Then it comes back.
    async fn lose_publisher(&mut self, round: usize) -> f64 {
        // Each time another topic: a lock that is lost more than twice a minute is let go later and later.
        let stream = self.stream(round).await;
        let (lost, fence) = self.publishing(&stream).await;
        let begun = Instant::now();
        self.0.nodes[lost].signal(Signal::KILL);
        let first = loop {
            let last = stream.firsts.borrow().last().copied();
            if let Some((_, at)) = last.filter(|(now, _)| *now > fence) {
                break at;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "nobody publishes");
            tokio::time::sleep(POLL).await;
        };
        self.0.nodes[lost].reap();
        self.0.nodes[lost].start(&[]);
        self.0.whole().await;
        first.duration_since(begun).as_secs_f64() * 1_000.0
    }

    async fn stream(&self, round: usize) -> Stream {
        let (clients, topic) = (self.0.clients(), topic(&self.0, &format!("stream-{round}")).await);
        let firsts = Rc::new(RefCell::new(Vec::<(Fence, Instant)>::new()));
        let mut terminal = Terminal::begin(clients.clone(), self.0.genesis.clone(), topic, Begin::At(Sequence(1)));
        let seen = Rc::clone(&firsts);
        let followed = actix_rt::spawn(async move {
            loop {
                match terminal.next().await.unwrap() {
                    Notice::Delivered(frame) => {
                        let fence = frame.position.fence;
                        let mut seen = seen.borrow_mut();
                        if seen.last().is_none_or(|(last, _)| *last < fence) {
                            seen.push((fence, Instant::now()));
                        }
                    }
                    Notice::Alarm { alarm, .. } => panic!("{alarm}"),
                    Notice::Takeover { .. } | Notice::Renewed { .. } => {}
                }
            }
        });
        Stream { topic, firsts, tasks: vec![followed, actix_rt::spawn(push(clients, topic))] }
    }

    /// Who publishes, once the terminal has a datum of it.
    async fn publishing(&self, stream: &Stream) -> (usize, Fence) {
        loop {
            for (index, node) in self.0.nodes.iter().enumerate() {
                let Some(client) = node.client.as_ref().filter(|_| node.is_running()) else { continue };
                let Ok(view) = client.topic(stream.topic).await else { continue };
                let seen = stream.firsts.borrow().last().is_some_and(|(fence, _)| *fence == view.fence);
                if view.owner == Some(node.key().public()) && seen {
                    return (index, view.fence);
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

async fn push(clients: Vec<Client>, topic: Topic) {
    let key = SecretKey::generate().unwrap();
    let mut source = Publisher::begin(clients, topic, key, 1, SourceConfig::default()).await.unwrap();
    let mut interval = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            _ = interval.tick() => {
                source.push(Datum { id: Default::default(), value: "1".into() }).unwrap();
            }
            acknowledged = source.acknowledged() => drop(acknowledged.unwrap()),
        }
    }
}

/// A key of etcd that is bound to a lease which its owner does not renew any more; in ms until another one has the key.
async fn etcd_expired(peer: &Peer, round: usize) -> f64 {
    let config =
        EtcdConfig { endpoints: vec![peer.url()], timeout_ms: 5_000, ca_file: None, certificate: None, user: None };
    let etcd = Etcd::new(&config).unwrap();
    let key = format!("owner-{round}");
    let bound = async |lease: u64| {
        let (key, value, lease) = (encoded(&key), encoded("owner"), lease.to_string());
        let body = json!({
            "compare": [{ "target": "CREATE", "key": key, "create_revision": "0", "result": "EQUAL" }],
            "success": [{ "request_put": { "key": key, "value": value, "lease": lease } }],
        });
        etcd.transact(&body).await.unwrap().succeeded
    };
    let (owners, next) = (etcd.grant(ETCD_LEASE_S).await.unwrap(), etcd.grant(60).await.unwrap());
    let mut watch = etcd.watch(&encoded(&key), &encoded(format!("{key}~"))).await.unwrap();
    assert!(bound(owners.id.0).await);
    // It dies between two renewals, at another place each time.
    etcd.keep_alive(owners.id).await.unwrap();
    let period = Duration::from_secs(ETCD_LEASE_S) / 3;
    tokio::time::sleep(period * (round as u32 % 5) / 5).await;
    let begun = Instant::now();
    while !bound(next.id.0).await {
        watch.next().await.unwrap().unwrap();
    }
    begun.elapsed().as_secs_f64() * 1_000.0
}

/// A key of Redis that its owner does not renew any more; in ms until another one has it.
fn redis_expired(peer: &Peer, round: usize) -> f64 {
    let key = format!("owner-{round}");
    assert!(peer.redis_taken(&key, REDIS_LEASE));
    let period = REDIS_LEASE / 3;
    std::thread::park_timeout(period * (round as u32 % 5) / 5);
    let begun = Instant::now();
    while !peer.redis_taken(&key, REDIS_LEASE) {
        std::thread::park_timeout(REDIS_POLL);
    }
    begun.elapsed().as_secs_f64() * 1_000.0
}
