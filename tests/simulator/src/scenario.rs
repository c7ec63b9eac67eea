//! What a seed means, and how a run is judged.

use fastrand::Rng;
use standin_consensus::config::Config;
use standin_consensus::mutation::Mutation;
use standin_foundation::{Height, Seat, SecretKey};
use standin_ledger::builtin::Operation;
use standin_ledger::transaction::TransactionBody;
use standin_ledger::{Genesis, Parameters, SeatDescriptor, Transaction};

use crate::byzantine::{self, Behaviour};
use crate::faults;
use crate::invariants::Violation;
use crate::network::Network;
use crate::node::{Node, Setup};
use crate::world::{Event, World};

/// Length of the time with faults, in µs.
const FAULTS_US: u64 = 12_000_000;
/// After healing, progress is demanded within this time, in µs: the longest view time-out, twice, and some.
const LIVENESS_US: u64 = 30_000_000;

/// What a run is about.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The seed.
    pub seed: u64,
    /// The rule that is switched off.
    pub mutation: Option<Mutation>,
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
    /// What the faulty seat was like; empty for none.
    pub faulty: &'static str,
}

/// Runs a scenario. The same scenario gives the same result, always. A panic is a violation, too.
pub fn run(scenario: &Scenario) -> Result<Report, Violation> {
    std::panic::catch_unwind(|| run_unguarded(scenario)).unwrap_or_else(|cause| {
        let what = cause.downcast_ref::<String>().cloned();
        let what = what.or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(Violation { invariant: "no_panic", what: what.unwrap_or_default() })
    })
}

fn run_unguarded(scenario: &Scenario) -> Result<Report, Violation> {
    let mut rng = Rng::with_seed(scenario.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5354_414e_4449_4e00);
    let (mut world, faulty) = build(&mut rng, scenario.mutation);
    for (at, fault) in faults::plan(&mut rng, world.nodes.len(), FAULTS_US) {
        world.schedule(at, Event::Fault(fault));
    }
    load(&mut rng, &mut world);
    world.run_until(FAULTS_US)?;
    world.heal()?;
    demand_progress(&mut rng, &mut world)?;
    demand_that_a_diverged_node_stopped(&world)?;
    let correct = || (0..world.nodes.len()).filter(|index| world.is_correct(*index)).map(|index| &world.nodes[index]);
    Ok(Report {
        steps: world.steps,
        height: correct().map(|node| node.chain().height().0).max().unwrap_or(0),
        view: correct().map(|node| node.machine().status().view.0).max().unwrap_or(0),
        faulty,
    })
}

fn build(rng: &mut Rng, mutation: Option<Mutation>) -> (World, &'static str) {
    let genesis = genesis(rng);
    let seats = genesis.seats.len();
    let config = config(rng);
    let setup = |seat| Setup { genesis: genesis.clone(), seat, config, mutation, wrong_from: None };
    let mut nodes: Vec<(Node, Option<Box<dyn Behaviour>>)> =
        (0..seats as u16).map(|seat| (Node::new(setup(Seat(seat))), None)).collect();
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
                nodes.push((Node::new(setup(seat)), None));
                "twins"
            }
            "wrong-result" => {
                let wrong_from = Some(Height(rng.u64(1..20)));
                nodes[seat.index()].0 = Node::new(Setup { wrong_from, ..setup(seat) });
                "wrong-result"
            }
            _ => continue,
        };
        faulty = if faulty.is_empty() { told } else { "two of them" };
    }
    let network = Network::rough(rng);
    (World::new(rng.fork(), network, nodes), faulty)
}

fn genesis(rng: &mut Rng) -> Genesis {
    let seat = |n: u8| {
        let key = SecretKey::from_bytes(&[n + 1; 32]).unwrap_or_else(|| unreachable!("a small number is a key"));
        let cluster = format!("c{n}").parse().unwrap_or_else(|_| unreachable!("c0 to c6 are names"));
        SeatDescriptor { cluster, holder: key.public() }
    };
    let checkpoint_interval = rng.choice([4, 8, 16]).unwrap_or(8);
    let parameters = Parameters {
        checkpoint_interval,
        window: checkpoint_interval * rng.u64(2..5),
        replay_window: 500,
        client_signatures: standin_ledger::ClientSignatures::None,
    };
    Genesis {
        chain: "test-simulation".parse().unwrap_or_else(|_| unreachable!("a valid name")),
        time_ms: 1,
        parameters,
        seats: (0..rng.choice([4, 4, 4, 4, 5, 6, 7]).unwrap_or(4)).map(seat).collect(),
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
fn load(rng: &mut Rng, world: &mut World) {
    let count = rng.u64(20..160);
    for nonce in 0..count {
        let at = rng.u64(0..FAULTS_US);
        let transactions: Vec<_> = (0..rng.u64(1..4)).map(|part| transaction(nonce * 4 + part, 450)).collect();
        for _ in 0..if rng.u8(0..5) == 0 { 2 } else { 1 } {
            let node = rng.usize(0..world.nodes.len());
            world.schedule(at + rng.u64(0..50_000), Event::Submit(node, transactions.clone()));
        }
    }
}

fn transaction(nonce: u64, expires: u64) -> Transaction {
    let value = nonce.to_be_bytes().to_vec();
    let payload = Operation::Put { key: vec![(nonce % 50) as u8], value }.to_payload();
    let title = "sim".parse().unwrap_or_else(|_| unreachable!("a valid title"));
    let sender = SecretKey::from_bytes(&[9; 32]).unwrap_or_else(|| unreachable!("a valid key")).public();
    let body = TransactionBody { title, nonce, expires: Height(expires), payload };
    Transaction::unsigned(&sender, &body).unwrap_or_else(|_| unreachable!("within all limits"))
}

/// After healing every correct node must commit what it is given, and all must come to the same height and hash.
fn demand_progress(rng: &mut Rng, world: &mut World) -> Result<(), Violation> {
    let before = highest(world);
    let correct: Vec<_> = (0..world.nodes.len()).filter(|index| world.is_correct(*index)).collect();
    let mut ids = Vec::new();
    for (number, index) in correct.iter().enumerate() {
        let transaction = transaction(1_000_000 + number as u64, before + 400);
        ids.push(transaction.id());
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
    while world.now_us < end {
        world.run_until(world.now_us + 250_000)?;
        let is_served = |index: &usize| has_all(&world.nodes[*index], &ids) && world.nodes[*index].waiting() == 0;
        if correct.iter().all(is_served) && is_level(world, &correct) {
            return Ok(());
        }
    }
    let states: Vec<_> = correct
        .iter()
        .map(|index| {
            let node = &world.nodes[*index];
            let missing = ids.iter().filter(|id| !node.chain().is_recent(id)).count();
            let (status, height, waiting) = (node.machine().status(), node.chain().height(), node.waiting());
            format!("{index}: {status:?} executed {height} missing {missing} waiting {waiting}")
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
