//! The real bridge, actors and websocket codec on a simulated network: latency, partitions, crashes.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use standin_foundation::wire::Wire;
use standin_foundation::{Digest, SecretKey};
use turmoil::net::{TcpListener, TcpStream};

use super::transport::pipe_over;
use super::*;
use crate::call::CallError;
use crate::cell::{Cell, Ctx, Handle, Reply, Role};
use crate::message::{Message, RemoteMessage};
use crate::policy::Supervision;

const PORT: u16 = 9_000;
const SOON: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Simulated;

#[derive(Debug)]
struct SimulatedListening;

impl Transport for Simulated {
    fn dial<'a>(&'a self, address: &'a str) -> Local<'a, Result<Opened, BridgeError>> {
        let failed = |what: String| BridgeError::Dial { address: address.to_owned(), what };
        Box::pin(async move {
            let stream = TcpStream::connect(address).await.map_err(|error| failed(error.to_string()))?;
            let (socket, _) = tokio_tungstenite::client_async("ws://standin/bridge/v1", stream)
                .await
                .map_err(|error| failed(error.to_string()))?;
            Ok(Opened { pipe: pipe_over(socket), binding: b"simulated".to_vec() })
        })
    }

    fn listen(&self, take: Take) -> Result<Box<dyn Listening>, BridgeError> {
        actix_rt::spawn(async move {
            let listener = TcpListener::bind(("0.0.0.0", PORT)).await.unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let take = Arc::clone(&take);
                actix_rt::spawn(async move {
                    if let Ok(socket) = tokio_tungstenite::accept_async(stream).await {
                        take(Opened { pipe: pipe_over(socket), binding: b"simulated".to_vec() });
                    }
                });
            }
        });
        Ok(Box::new(SimulatedListening))
    }
}

impl Listening for SimulatedListening {
    fn stop(&self) -> Local<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// Asks to note a number; the answer is how many are known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Number(u64);

impl Wire for Number {
    const NAME: &'static str = "test.number";
    const BYTES_MAX: usize = 100;
}

impl Message for Number {
    type Reply = Self;
}

impl RemoteMessage for Number {}

/// Nobody takes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Unknown;

impl Wire for Unknown {
    const NAME: &'static str = "test.unknown";
    const BYTES_MAX: usize = 100;
}

impl Message for Unknown {
    type Reply = Self;
}

impl RemoteMessage for Unknown {}

/// Notes numbers, and panics at one that it has seen: nothing is delivered twice.
struct Notebook(Rc<RefCell<BTreeSet<u64>>>);

impl Role for Notebook {}

impl Handle<Number> for Notebook {
    fn handle(&mut self, Number(number): Number, reply: Reply<Number>, _: &mut Ctx<Self>) {
        assert!(self.0.borrow_mut().insert(number), "{number} came twice");
        reply.send(Number(self.0.borrow().len() as u64));
    }
}

fn key(seed: u8) -> SecretKey {
    SecretKey::from_bytes(&[seed; 32]).unwrap()
}

struct TestNode {
    _bridge: Bridge,
    cell: Cell<Notebook>,
    seen: Rc<RefCell<BTreeSet<u64>>>,
    other: Remote,
}

fn start(own: u8, other: u8) -> TestNode {
    let peer = |seed: u8| PeerConfig { key: key(seed).public(), address: format!("node-{seed}:{PORT}") };
    let config = BridgeConfig {
        key: key(own),
        chain: Digest::sha256(b"chain"),
        peers: vec![peer(1), peer(2)],
        limits: MailboxLimits::default(),
    };
    let seen = Rc::new(RefCell::new(BTreeSet::new()));
    let notes = Rc::clone(&seen);
    let make = move |_| Notebook(Rc::clone(&notes));
    let cell = Cell::spawn("notebook", Supervision::never_restart(), MailboxLimits::default(), make);
    let prepared = Bridge::prepare(&config);
    let other = prepared.remote(&key(other).public().node_id()).unwrap();
    let router = Router::default().ask::<Number, _>(cell.address().clone());
    let bridge = Bridge::start(config, prepared, Arc::new(Simulated), router, None).unwrap();
    TestNode { _bridge: bridge, cell, seen, other }
}

/// Asks until one is answered, each time with a new number.
async fn ask_until_answered(node: &TestNode, next: &mut u64) -> Vec<CallError> {
    let mut errors = Vec::new();
    loop {
        *next += 1;
        match node.other.ask(&Number(*next), SOON).await {
            Ok(_) => return errors,
            Err(error) => {
                errors.push(error);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn simulation(seed: u64) -> turmoil::Sim<'static> {
    let mut simulation = turmoil::Builder::new()
        .rng_seed(seed)
        .simulation_duration(Duration::from_secs(120))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(40))
        .build();
    simulation.host("node-2", || async {
        let node = start(2, 1);
        // Ends only by a panic of the notebook, which fails the run.
        panic!("{:?}", node.cell.ended().await);
    });
    simulation
}

#[test]
fn a_partition_is_noticed_and_healed_and_nothing_comes_twice() {
    for seed in 0..20 {
        let mut simulation = simulation(seed);
        simulation.client("node-1", async {
            let (node, mut next) = (start(1, 2), 0);
            ask_until_answered(&node, &mut next).await;
            for _ in 0..3 {
                turmoil::partition("node-1", "node-2");
                next += 1;
                let cut_off = node.other.ask(&Number(next), SOON).await.unwrap_err();
                assert!(cut_off.maybe_executed(), "{cut_off}");
                while node.other.is_connected() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                let not_there = node.other.tell(&Number(u64::MAX)).unwrap_err();
                assert_eq!(not_there, CallError::Disconnected { sent: false });
                turmoil::repair("node-1", "node-2");
                ask_until_answered(&node, &mut next).await;
            }
            Ok(())
        });
        simulation.run().unwrap();
    }
}

#[test]
fn a_death_watch_tells_an_end_from_a_lost_connection() {
    let mut simulation = turmoil::Builder::new().simulation_duration(Duration::from_secs(60)).build();
    simulation.host("node-2", || async {
        let node = start(2, 1);
        // The number that stops it.
        while !node.seen.borrow().contains(&7) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        node.cell.stop();
        std::future::pending().await
    });
    simulation.client("node-1", async {
        let (node, mut next) = (start(1, 2), 100);
        assert_eq!(node.other.down::<Number>().await, Down::Unreachable, "there is no session yet");
        ask_until_answered(&node, &mut next).await;
        let lost = tokio::task::spawn_local({
            let other = node.other.clone();
            async move { other.down::<Number>().await }
        });
        assert!(matches!(node.other.down::<Unknown>().await, Down::Refused(_)));
        turmoil::partition("node-1", "node-2");
        assert_eq!(lost.await.unwrap(), Down::Unreachable);
        turmoil::repair("node-1", "node-2");
        ask_until_answered(&node, &mut next).await;
        let (down, _) = futures_util::future::join(node.other.down::<Number>(), node.other.ask(&Number(7), SOON)).await;
        assert_eq!(down, Down::Ended("Stopped".to_owned()));
        Ok(())
    });
    simulation.run().unwrap();
}

#[test]
fn a_node_that_crashes_and_comes_back_is_found_again() {
    for seed in 0..20 {
        let mut simulation = simulation(seed);
        let answered = Rc::new(RefCell::new(0));
        let count = Rc::clone(&answered);
        simulation.client("node-1", async move {
            let (node, mut next) = (start(1, 2), 0);
            for _ in 0..40 {
                ask_until_answered(&node, &mut next).await;
                *count.borrow_mut() += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Ok(())
        });
        for at in [10, 25] {
            while *answered.borrow() < at {
                simulation.step().unwrap();
            }
            simulation.bounce("node-2");
        }
        while !simulation.step().unwrap() {}
        assert_eq!(*answered.borrow(), 40);
    }
}
