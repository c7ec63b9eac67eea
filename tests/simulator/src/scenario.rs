//! What a seed means, and how a run is judged.

use std::sync::{Arc, OnceLock};

use fastrand::Rng;
use standin_consensus::config::Config;
use standin_foundation::wire::Wire;
use standin_foundation::{ClusterId, Epoch, Height, PublicKey, Seat, SecretKey};
use standin_ledger::builtin::Operation;
use standin_ledger::certificate::Authority as _;
use standin_ledger::reconfiguration::Change;
use standin_ledger::system::{SYSTEM_TITLE, SystemTransaction};
use standin_ledger::transaction::TransactionBody;
use standin_ledger::{
    ApprovedReconfiguration, Genesis, Operators, Parameters, Reconfiguration, SeatDescriptor, Transaction,
};

use crate::auth::AuthHost;
use crate::byzantine::{self, Behaviour};
use crate::faults;
use crate::invariants::Violation;
use crate::network::Network;
use crate::node::{ClusterSetup, Node, Setup};
use crate::rules::Rule;
use crate::world::{Event, World};

/// Length of the time with faults, in µs.
const FAULTS_US: u64 = 12_000_000;
/// After healing, progress is demanded within this time, in µs: the longest view time-out, twice, and some.
const LIVENESS_US: u64 = 30_000_000;

/// What is simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Consensus among seats of one node each.
    Consensus,
    /// Seats that are held by clusters, and an auth node.
    Clusters,
}

/// What a run is about.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// What is simulated.
    pub protocol: Protocol,
    /// The seed.
    pub seed: u64,
    /// The rule that is switched off.
    pub rule: Option<Rule>,
}

/// What came out.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Events.
    pub steps: u64,
    /// Height of the highest correct node.
    pub height: u64,
    /// Highest view.
    pub view: u64,
    /// Highest epoch.
    pub epoch: u64,
    /// What the faulty seat was like; empty for none.
    pub faulty: &'static str,
    /// Grants that were made.
    pub grants: u64,
    /// Clusters that hold a seat and did not at genesis, or the reverse.
    pub reseated: u64,
    /// How often the auth node was replaced.
    pub issuers: u64,
}

/// Runs a scenario. The same scenario gives the same result, always. A panic is a violation, too.
pub fn run(scenario: &Scenario) -> Result<Report, Violation> {
    Violation::guard(|| run_unguarded(scenario))
}

fn run_unguarded(scenario: &Scenario) -> Result<Report, Violation> {
    let mut rng = Rng::with_seed(scenario.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5354_414e_4449_4e00);
    // A mutation of another rule is found soonest where nothing of this goes on.
    let reseats = scenario.rule.is_none_or(|rule| rule.reseats);
    // Draws of its own: what a seed without a change of clusters does stays as it was.
    let mut consortium = Rng::with_seed(scenario.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x636c_7573_7465_7273);
    let (mut world, faulty) = match scenario.protocol {
        Protocol::Consensus => build(&mut rng, scenario.rule),
        Protocol::Clusters => build_clusters(&mut rng, reseats.then_some(&mut consortium), scenario.rule),
    };
    let plan = match scenario.protocol {
        Protocol::Consensus => faults::plan(&mut rng, world.nodes.len(), FAULTS_US),
        Protocol::Clusters => {
            let seats = world.nodes.iter().map(|node| node.setup.seat.index() + 1).max().unwrap_or(1);
            faults::cluster_plan(&mut rng, world.nodes.len(), seats, FAULTS_US)
        }
    };
    let storm = plan.iter().filter(|(_, fault)| matches!(fault, faults::Fault::Storm { .. })).map(|(at, _)| *at);
    let storm = storm.clone().min().zip(storm.max());
    for (at, fault) in plan {
        world.schedule(at, Event::Fault(fault));
    }
    load(&mut rng, &mut world, storm);
    orders(&mut rng, &mut world);
    if scenario.protocol == Protocol::Clusters && reseats {
        consortium_orders(&mut consortium, &mut world);
    }
    world.run_until(FAULTS_US)?;
    world.heal()?;
    demand_progress(&mut rng, &mut world)?;
    demand_that_a_diverged_node_stopped(&world)?;
    let correct = || (0..world.nodes.len()).filter(|index| world.is_correct(*index)).map(|index| &world.nodes[index]);
    Ok(Report {
        steps: world.steps,
        height: correct().map(|node| node.chain().height().0).max().unwrap_or(0),
        view: correct().map(|node| node.machine().status().view.0).max().unwrap_or(0),
        epoch: correct().map(|node| node.machine().epoch().0).max().unwrap_or(0),
        faulty,
        grants: world.auth.as_ref().map_or(0, AuthHost::grants),
        reseated: world.reseated(),
        issuers: world.issuers(),
    })
}

/// The keys of all simulated nodes are made once: number 0 is the auth node's.
pub(crate) fn key_of(number: usize) -> PublicKey {
    static KEYS: OnceLock<Vec<PublicKey>> = OnceLock::new();
    let key = |n: u8| SecretKey::from_bytes(&[n + 1; 32]).unwrap_or_else(|| unreachable!("a small number is a key"));
    KEYS.get_or_init(|| (0..60).map(|n| key(n).public()).collect())[number]
}

pub(crate) fn cluster_name(seat: usize) -> ClusterId {
    format!("c{seat}").parse().unwrap_or_else(|_| unreachable!("c0 to c6 are names"))
}

fn build(rng: &mut Rng, rule: Option<Rule>) -> (World, &'static str) {
    let genesis = genesis(rng);
    let seats = genesis.seats.len();
    let config = config(rng);
    let setup = |seat: Seat| {
        let key = genesis.seats[seat.index()].members[0].key;
        let genesis = genesis.clone();
        Setup {
            genesis,
            seat,
            config,
            id: key.node_id(),
            key,
            cluster: None,
            rule,
            wrong_from: None,
            excused: false,
            unchecked: false,
        }
    };
    let node = Node::new;
    let mut nodes: Vec<(Node, Option<Box<dyn Behaviour>>)> =
        (0..seats as u16).map(|seat| (node(setup(Seat(seat))), None)).collect();
    let mut order: Vec<_> = (0..seats as u16).map(Seat).collect();
    rng.shuffle(&mut order);
    let mut faulty = "";
    for seat in order.into_iter().take((seats - 1) / 3) {
        let kind = rng.choice(["none", "none", "byzantine", "byzantine", "twins", "wrong-result"]).unwrap_or("none");
        let told = match kind {
            "byzantine" => {
                let name = rng.choice(byzantine::NAMES).unwrap_or("silent");
                nodes[seat.index()].1 = byzantine::behaviour(name, seats);
                name
            }
            "twins" => {
                nodes.push((node(setup(seat)), None));
                "twins"
            }
            "wrong-result" => {
                let wrong_from = Some(Height(rng.u64(1..20)));
                nodes[seat.index()].0 = node(Setup { wrong_from, ..setup(seat) });
                "wrong-result"
            }
            _ => continue,
        };
        faulty = if faulty.is_empty() { told } else { "two of them" };
    }
    let network = Network::rough(rng);
    (World::new(rng.fork(), network, nodes), faulty)
}

/// Clusters of one to four nodes, an auth node, and up to f seats whose nodes are all faulty.
fn build_clusters(rng: &mut Rng, consortium: Option<&mut Rng>, rule: Option<Rule>) -> (World, &'static str) {
    let mut genesis = genesis(rng);
    genesis.seats.truncate(rng.choice([1, 4, 4, 4]).unwrap_or(4));
    let seats = genesis.seats.len();
    genesis.auth = Some(key_of(0));
    let (config, member_config) = (config(rng), member_config(rng));
    let mut next_key = 1;
    let mut clusters = Vec::new();
    for seat in 0..seats {
        let size = rng.choice([1, 2, 2, 3, 3, 4]).unwrap_or(2).max(if seats == 1 { 2 } else { 1 });
        let keys: Vec<_> = (next_key..next_key + size).map(key_of).collect();
        next_key += size;
        genesis.seats[seat] = SeatDescriptor::of_one(cluster_name(seat), keys[0]);
        clusters.push((cluster_name(seat), keys));
    }
    let faulty_seat = (seats > 3 && rng.u8(0..3) == 0).then(|| rng.usize(0..seats));
    let faulty = faulty_seat.and_then(|_| rng.choice(byzantine::NAMES)).unwrap_or("");
    // One node of a cluster computes wrong results.
    let wrong = (faulty_seat.is_none() && seats > 3 && rng.u8(0..5) == 0).then(|| {
        let seat = rng.usize(0..seats);
        let keys = &clusters[seat].1;
        (seat, keys[rng.usize(0..keys.len())].node_id())
    });
    let faulty = if wrong.is_some() { "wrong-result" } else { faulty };
    let mut nodes: Vec<(Node, Option<Box<dyn Behaviour>>)> = Vec::new();
    for (seat, (cluster, keys)) in clusters.iter().enumerate() {
        let members = keys.iter().map(|key| (key.node_id(), rng.u8(0..4))).collect();
        let cluster = Arc::new(ClusterSetup { cluster: cluster.clone(), members, config: member_config });
        for key in keys {
            let (id, cluster) = (key.node_id(), Some(Arc::clone(&cluster)));
            let (genesis, seat) = (genesis.clone(), Seat(seat as u16));
            let excused = wrong.is_some_and(|(wrong, _)| wrong == seat.index());
            let wrong_from = wrong.filter(|(_, node)| *node == id).map(|_| Height(rng.u64(1..30)));
            let setup =
                Setup { genesis, seat, config, id, key: *key, cluster, rule, wrong_from, excused, unchecked: false };
            let behaviour = faulty_seat.filter(|faulty| *faulty == seat.index());
            let behaviour = behaviour.and_then(|_| byzantine::behaviour(faulty, seats));
            nodes.push((Node::new(setup), behaviour));
        }
    }
    let coming =
        |draws: &mut Rng| (0..if draws.bool() { draws.usize(1..4) } else { 0 }).map(|_| draws.u8(0..4)).collect();
    let priorities: Vec<u8> = consortium.filter(|_| seats == 4).map(coming).unwrap_or_default();
    let waiting = nodes.len()..nodes.len() + priorities.len();
    let keys: Vec<_> = (next_key..next_key + priorities.len()).map(key_of).collect();
    let members = keys.iter().map(PublicKey::node_id).zip(priorities).collect();
    let cluster = Arc::new(ClusterSetup { cluster: cluster_name(seats), members, config: member_config });
    for key in keys {
        let (id, genesis, seat, cluster) =
            (key.node_id(), genesis.clone(), Seat(seats as u16), Some(Arc::clone(&cluster)));
        let setup =
            Setup { genesis, seat, config, id, key, cluster, rule, wrong_from: None, excused: false, unchecked: false };
        nodes.push((Node::new(setup), None));
    }
    let network = match rng.u8(0..3) {
        0 => Network::late(rng),
        _ => Network::rough(rng),
    };
    let mutation = rule.and_then(|rule| rule.auth);
    let auth_config =
        standin_auth::Config { age_max_ms: rng.choice([500, 3_000]).unwrap_or(500), ..standin_auth::Config::default() };
    let mut world = World::new(rng.fork(), network, nodes);
    world.auth = Some(AuthHost::new(&genesis, clusters, auth_config, mutation));
    world.set_waiting(waiting);
    (world, faulty)
}

fn member_config(rng: &mut Rng) -> standin_cluster::Config {
    standin_cluster::Config {
        grow_after_ms: rng.choice([100, 500]).unwrap_or(100),
        rank_delay_ms: rng.choice([0, 20, 100]).unwrap_or(20),
        window: rng.choice([8, 64, 4_096]).unwrap_or(64),
        ..standin_cluster::Config::default()
    }
}

fn genesis(rng: &mut Rng) -> Genesis {
    let seat = |n: usize| SeatDescriptor::of_one(cluster_name(n), key_of(n + 1));
    let checkpoint_interval = rng.choice([4, 8, 16]).unwrap_or(8);
    let parameters = Parameters {
        checkpoint_interval,
        window: checkpoint_interval * rng.u64(2..5),
        replay_window: 500,
        client_signatures: standin_ledger::ClientSignatures::None,
        version: 1,
    };
    Genesis {
        chain: "test-simulation".parse().unwrap_or_else(|_| unreachable!("a valid name")),
        time_ms: 1,
        auth: None,
        parameters,
        seats: (0..rng.choice([4, 4, 4, 4, 5, 6, 7]).unwrap_or(4)).map(seat).collect(),
        operators: Operators { keys: vec![operator().public()], needed: 1 },
        clients: Default::default(),
        accounts: Vec::new(),
    }
}

fn config(rng: &mut Rng) -> Config {
    let view_timeout_ms = rng.choice([300, 1_000]).unwrap_or(1_000);
    Config {
        view_timeout_ms,
        status_interval_ms: view_timeout_ms / 4,
        in_flight_max: rng.u64(1..16),
        snapshot_gap: rng.choice([10, 40, 4_096]).unwrap_or(40),
        pending_bytes_max: rng.choice([20_000, 1 << 24]).unwrap_or(1 << 24),
        ..Config::default()
    }
}

/// Clients submit at random times to random nodes; some transactions go to two nodes.
fn load(rng: &mut Rng, world: &mut World, storm: Option<(u64, u64)>) {
    let (begins, ends) = storm.unwrap_or_default();
    let (count, extra) = (rng.u64(20..160), (ends - begins) / 20_000);
    for nonce in 0..count + extra {
        // In a storm there is always something to be said.
        let at = if nonce < count { rng.u64(0..FAULTS_US) } else { rng.u64(begins..=ends) };
        let transactions: Vec<_> = (0..rng.u64(1..4)).map(|part| transaction(nonce * 4 + part, 450)).collect();
        for _ in 0..if rng.u8(0..5) == 0 { 2 } else { 1 } {
            let node = rng.usize(0..world.nodes.len());
            world.schedule(at + rng.u64(0..50_000), Event::Submit(node, transactions.clone()));
        }
    }
}

pub(crate) fn transaction(nonce: u64, expires: u64) -> Transaction {
    let value = nonce.to_be_bytes().to_vec();
    let payload = Operation::Put { key: vec![(nonce % 50) as u8], value }.to_payload();
    transaction_of("sim", nonce, expires, payload)
}

fn transaction_of(title: &str, nonce: u64, expires: u64, payload: Vec<u8>) -> Transaction {
    let title = title.parse().unwrap_or_else(|_| unreachable!("a valid title"));
    let sender = SecretKey::from_bytes(&[9; 32]).unwrap_or_else(|| unreachable!("a valid key")).public();
    let body = TransactionBody { title, nonce, expires: Height(expires), payload };
    Transaction::unsigned(&sender, &body).unwrap_or_else(|_| unreachable!("within all limits"))
}

/// Operators order new epochs, most of them too early, too late, or while another one has been ordered.
fn orders(rng: &mut Rng, world: &mut World) {
    if rng.u8(0..3) == 0 {
        return;
    }
    let genesis = world.nodes[0].setup.genesis.clone();
    for nonce in 0..rng.u64(1..12) {
        let (node, epoch, nonce) = (rng.usize(0..world.nodes.len()), Epoch(rng.u64(0..3)), ORDERS_FROM + nonce);
        let event = match genesis.auth.is_some() && rng.u8(0..2) == 0 {
            true => Event::Name(node, epoch, nonce),
            false => {
                let change = Change::Operators(genesis.operators.clone());
                Event::Submit(node, vec![order(&genesis, epoch, change, nonce)])
            }
        };
        world.schedule(rng.u64(0..FAULTS_US), event);
    }
}

/// Operators have clusters added and removed, and the auth node replaced; most of the orders come while another has been given.
fn consortium_orders(rng: &mut Rng, world: &mut World) {
    let nodes = world.nodes.len();
    for nonce in 0..rng.u64(0..8) {
        let nonce = ORDERS_FROM + 500 + nonce;
        let event = match rng.u8(0..5) {
            0..=1 => Event::AddCluster(nonce),
            2..=3 => Event::RemoveCluster(rng.usize(0..nodes), nonce),
            _ => Event::ReplaceAuth(nonce),
        };
        world.schedule(rng.u64(0..FAULTS_US), event);
    }
}

/// What the operator orders, approved.
pub(crate) fn order(genesis: &Genesis, epoch: Epoch, change: Change, nonce: u64) -> Transaction {
    let reconfiguration = Reconfiguration { chain: genesis.digest(), epoch, changes: vec![change] };
    let approved = ApprovedReconfiguration::draft(reconfiguration).by(&operator());
    let payload = SystemTransaction::Reconfigure(approved).to_wire().unwrap_or_else(|error| panic!("{error}"));
    transaction_of(SYSTEM_TITLE, nonce, 450, payload)
}

/// Nonces of orders begin here.
const ORDERS_FROM: u64 = 2_000_000;

/// The key of the only operator.
pub(crate) fn operator() -> SecretKey {
    SecretKey::from_bytes(&[77; 32]).unwrap_or_else(|| unreachable!("a valid key"))
}

/// After healing every correct node must commit what it is given, and all must come to the same height and hash.
fn demand_progress(rng: &mut Rng, world: &mut World) -> Result<(), Violation> {
    let before = highest(world);
    let seated = |world: &World| {
        let demanded = |index: &usize| world.is_correct(*index) && world.is_seated(*index);
        (0..world.nodes.len()).filter(demanded).collect::<Vec<_>>()
    };
    let correct = seated(world);
    let (mut ids, mut transactions) = (Vec::new(), Vec::new());
    for (number, index) in correct.iter().enumerate() {
        let transaction = transaction(1_000_000 + number as u64, before + 400);
        ids.push(transaction.id());
        transactions.push(transaction.clone());
        let after = rng.u64(0..200_000);
        world.schedule(after, Event::Submit(*index, vec![transaction]));
    }
    // A client that never got its answer asks again, with the same transactions, at another node.
    for (number, index) in correct.iter().enumerate() {
        let again = transaction(1_000_000 + ((number + 1) % correct.len()) as u64, before + 400);
        world.schedule(rng.u64(300_000..2_000_000), Event::Submit(*index, vec![again]));
    }
    world.run_until(world.now_us + 2_000_000)?;
    let end = world.now_us + LIVENESS_US;
    let mut nonce = ORDERS_FROM + 1_000;
    let mut asked_again = world.now_us;
    while world.now_us < end {
        world.run_until(world.now_us + 250_000)?;
        let correct = seated(world);
        // What a cluster had taken that was removed since, or begun anew, is asked for elsewhere.
        if world.auth.is_some() && asked_again + 3_000_000 < world.now_us {
            asked_again = world.now_us;
            let index = correct[rng.usize(0..correct.len())];
            world.schedule(0, Event::Submit(index, transactions.clone()));
        }
        // The operator names a seat again whose holder has another disk than was named.
        if let Some(stranded) = world.stranded() {
            nonce += 1;
            let epoch = correct.iter().map(|index| world.nodes[*index].machine().epoch()).max().unwrap_or_default();
            world.schedule(0, Event::Name(stranded, epoch, nonce));
        }
        let is_served = |index: &usize| {
            let node = &world.nodes[*index];
            // A client that waits at a node which has lost its seat asks elsewhere.
            has_all(node, &ids) && (node.waiting() == 0 || !node.is_active())
        };
        if correct.iter().all(is_served) && is_level(world, &correct) {
            return Ok(());
        }
    }
    let states: Vec<_> = seated(world)
        .iter()
        .map(|index| {
            let node = &world.nodes[*index];
            let missing = ids.iter().filter(|id| !node.chain().is_recent(id)).count();
            let (status, height, waiting) = (node.machine().status(), node.chain().height(), node.waiting());
            let (facts, active) = (node.member().facts(), node.is_active());
            let (term, complete, head) = (facts.term(), facts.complete, node.member().head().lsn);
            format!(
                "{index} (seat {}): {status:?} executed {height} missing {missing} waiting {waiting}; active {active} \
                 term {term} complete {complete} head {head} released {} knows {} of {:?}",
                node.setup.seat,
                node.member().released(),
                node.known.term(node.setup.seat),
                node.known.table.epoch(),
            )
        })
        .collect();
    Err(Violation { invariant: "liveness", what: format!("no progress after healing: {}", states.join("; ")) })
}

/// A node whose results are wrong has seen by now that a quorum got others: it must not vote any more.
fn demand_that_a_diverged_node_stopped(world: &World) -> Result<(), Violation> {
    for node in world.nodes.iter().filter(|node| node.up) {
        let Some(refuted) = node.refuted_result() else { continue };
        if !node.machine().is_halted() {
            let seat = node.setup.seat;
            let what = format!("seat {seat} was wrong at {refuted}, and goes on: {:?}", node.machine().status());
            return Err(Violation { invariant: "divergence", what });
        }
    }
    Ok(())
}

fn has_all(node: &Node, ids: &[standin_foundation::Digest]) -> bool {
    ids.iter().all(|id| node.chain().is_recent(id))
}

fn is_level(world: &World, correct: &[usize]) -> bool {
    let mut heads = correct.iter().map(|index| world.nodes[*index].chain().hash());
    let first = heads.next();
    heads.all(|hash| Some(hash) == first)
}

fn highest(world: &World) -> u64 {
    world.nodes.iter().map(|node| node.chain().height().0).max().unwrap_or(0)
}
