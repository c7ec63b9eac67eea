//! A node inside a program: what it promises to whoever embeds it.

use std::time::Duration;

use futures_util::StreamExt;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use standin::publication::Begin;
use standin::testing::{Shape, TestNetwork};
use standin::{
    Application, BlocksError, Call, ConfigError, Freshness, Height, Node, NodeConfig, NodeError, QueryError, Reject,
    Store, StoreView, SubmitError,
};
use standin_foundation::Digest;
use standin_ledger::reconfiguration::Change;
use standin_publisher::machine::terminal::Position;
use standin_publisher::{Datum, Sequence};

/// Keeps the sum of what it was told, and refuses 13.
struct Adder(&'static str);

impl Application for Adder {
    type Command = u64;
    type Output = u64;
    type Query = String;
    type Answer = u64;

    fn title(&self) -> &str {
        self.0
    }

    fn check(&self, command: &u64) -> Result<(), Reject> {
        if *command == 0 { Err(Reject::new("nothing to add")) } else { Ok(()) }
    }

    fn apply(&self, call: &Call<'_>, command: u64, store: &mut Store<'_, '_>) -> Result<u64, Reject> {
        // What is written before a refusal is not kept.
        store.put("last", &call.context.height.0)?;
        if command == 13 {
            return Err(Reject::new("unlucky"));
        }
        assert!(command != 666, "an application's own mistake");
        let sum = store.get::<u64>("sum")?.unwrap_or_default() + command;
        store.put("sum", &sum)?;
        Ok(sum)
    }

    fn query(&self, store: &StoreView<'_>, key: String) -> Result<u64, Reject> {
        assert!(key != "panic", "another mistake");
        store.get(&key)?.ok_or_else(|| Reject::new("nothing stands there"))
    }
}

fn sum() -> String {
    "sum".to_owned()
}

/// A source and a terminal at nodes of one's own program: each datum once and in order, while the node that publishes is stopped.
#[actix_web::test]
async fn data_are_published_and_followed_through_nodes_of_ones_own() {
    let mut network = TestNetwork::start(|| Adder("sums")).await.unwrap();
    let topic = "rates".parse().unwrap();
    let mut source = network.node(0).unwrap().publish(topic).await.unwrap();
    let datum = |number: u64| Datum { id: "EURUSD".into(), value: number.to_string().into() };
    (0..50).for_each(|number| _ = source.push(datum(number)).unwrap());
    while source.waiting() > 0 {
        source.acknowledged().await.unwrap();
    }
    let unknown = network.node(0).unwrap().follow("nothing".parse().unwrap(), Begin::Now).await.unwrap_err();
    assert!(unknown.to_string().contains("there is no topic `nothing`"), "{unknown}");
    // A terminal at each of the first two nodes; the last is stopped, whether it publishes or not.
    let (mut seen, mut terminals) = ([Vec::new(), Vec::new()], Vec::new());
    for index in 0..2 {
        let node = network.node(index).unwrap().clone();
        node.query(&"nothing".to_owned(), Freshness::Linearizable).await.unwrap_err();
        terminals.push(node.follow(topic, Begin::At(Sequence(1))).await.unwrap());
    }
    network.stop_node(3).await;
    (50..100).for_each(|number| _ = source.push(datum(number)).unwrap());
    while source.waiting() > 0 {
        source.acknowledged().await.unwrap();
    }
    for (terminal, seen) in terminals.iter_mut().zip(&mut seen) {
        while seen.len() < 100 {
            let frame = tokio::time::timeout(Duration::from_secs(20), terminal.next()).await.unwrap().unwrap();
            seen.extend(frame.data.iter().map(|datum| String::from_utf8(datum.value.to_vec()).unwrap()));
        }
    }
    let all: Vec<_> = (0..100).map(|number: u64| number.to_string()).collect();
    assert_eq!(seen, [all.clone(), all]);
    // From a position that was stored it goes on behind it; from one of another history it does not.
    let position = terminals[0].position();
    let again = network.node(1).unwrap().follow(topic, Begin::Behind(position)).await;
    assert_eq!(again.unwrap().position().last, Sequence(100));
    let forged = Begin::Behind(Position { chain: Digest::sha256(b"forged"), ..position });
    let refused = network.node(1).unwrap().follow(topic, forged).await.unwrap_err();
    assert!(refused.to_string().contains("no frame that ends at"), "{refused}");
    network.shutdown().await;
}

#[actix_web::test]
async fn a_command_takes_effect_once_however_often_it_is_submitted() {
    let network = TestNetwork::start(|| Adder("sums")).await.unwrap();
    let (node, other) = (network.node(0).unwrap(), network.node(2).unwrap());
    let kept = node.prepare(&5).await.unwrap();
    let first = node.submit_prepared(&kept).await.unwrap();
    assert_eq!(first.output, 5);
    assert_eq!(node.submit_prepared(&kept).await.unwrap(), first, "again, at the same node");
    assert_eq!(other.submit_prepared(&kept).await.unwrap(), first, "and at another");
    assert_eq!(other.outcome(&kept.id()).await.unwrap(), Some(first));
    let unknown = node.prepare(&6).await.unwrap();
    assert_eq!(node.outcome(&unknown.id()).await.unwrap(), None);
    let rejected = node.submit(&13).await.unwrap_err();
    assert!(
        matches!(&rejected, SubmitError::Rejected { reason, height: Some(_) } if reason == "unlucky"),
        "{rejected}"
    );
    let rejected = node.submit(&0).await.unwrap_err();
    assert!(
        matches!(&rejected, SubmitError::Rejected { reason, height: None } if reason.contains("nothing to add")),
        "before it was ordered: {rejected}"
    );
    assert_eq!(node.submit(&1).await.unwrap().output, 6);
    network.shutdown().await;
}

#[actix_web::test]
async fn a_read_says_how_new_it_is_and_is_as_new_as_it_was_asked_to_be() {
    let mut network = TestNetwork::start(|| Adder("sums")).await.unwrap();
    let node = network.node(0).unwrap().clone();
    let refused = node.query(&sum(), Freshness::Local).await.unwrap_err();
    assert_eq!(refused, QueryError::Rejected("nothing stands there".to_owned()));
    for number in 14..=33 {
        let done = node.submit(&number).await.unwrap();
        let other = network.node(number as usize % 4).unwrap();
        let read = other.query(&sum(), Freshness::AtLeast(done.height)).await.unwrap();
        assert!(read.height >= done.height && read.answer == done.output, "{read:?} {done:?}");
        let read = network.node(3).unwrap().query(&sum(), Freshness::Linearizable).await.unwrap();
        assert_eq!(read.answer, done.output);
    }
    // Without a quorum nothing can be known for certain, and what is local can be read all the same.
    network.stop_node(2).await;
    network.stop_node(3).await;
    let config = NodeConfig::read(&network.config_file(1)).unwrap();
    network.stop_node(1).await;
    let patient =
        Node::builder(Adder("sums")).config(config).submit_within(Duration::from_millis(300)).start().await.unwrap();
    assert_eq!(patient.query(&sum(), Freshness::Local).await.unwrap().answer, 470);
    let unknown = patient.query(&sum(), Freshness::Linearizable).await.unwrap_err();
    assert!(matches!(unknown, QueryError::Submit(SubmitError::OutcomeUnknown { .. })), "{unknown}");
    let wanted = Height(1_000_000);
    let behind = patient.query(&sum(), Freshness::AtLeast(wanted)).await.unwrap_err();
    assert!(matches!(behind, QueryError::Behind { wanted: found, .. } if found == wanted), "{behind}");
    patient.shutdown().await;
    network.shutdown().await;
}

#[actix_web::test]
async fn blocks_come_without_a_gap_from_the_first_on_and_end_with_the_node() {
    let mut network = TestNetwork::start_as(Shape { seats: 4, members: 2 }, || Adder("sums")).await.unwrap();
    let node = network.node(1).unwrap().clone();
    let follower = node.clone();
    let followed = actix_web::rt::spawn(async move {
        let mut blocks = Box::pin(follower.blocks(Height(0)));
        let (mut next, mut added) = (1, 0);
        while added < 30 {
            let block = blocks.next().await.unwrap().unwrap();
            assert_eq!(block.height, Height(next), "each once, in order");
            next += 1;
            added += block.entries.iter().filter_map(|entry| entry.command).count();
        }
        added
    });
    for number in 0..30 {
        if number == 10 {
            let holder = network.holder(2).await.unwrap();
            network.stop_node(holder).await;
        }
        node.submit(&1).await.unwrap();
    }
    assert_eq!(followed.await.unwrap(), 30);
    let mut rest = Box::pin(node.blocks(Height(u64::MAX)));
    let waiting = actix_web::rt::spawn(async move { rest.next().await });
    drop(network.node(1).unwrap().stopped());
    network.stop_node(1).await;
    assert_eq!(waiting.await.unwrap().unwrap().unwrap_err(), BlocksError::Stopped);
    assert_eq!(node.stopped().await, None, "it was told to");
    assert!(node.submit(&1).await.is_err());
    network.shutdown().await;
}

#[actix_web::test]
async fn what_cannot_start_says_why_and_metrics_are_the_programs() {
    let none = Node::builder(Adder("sums")).start().await.unwrap_err();
    assert!(matches!(none, NodeError::Config(ConfigError::Missing)), "{none}");
    let gone = Node::builder(Adder("sums")).config_file("/nowhere/node.toml").start().await.unwrap_err();
    assert!(gone.to_string().contains("/nowhere/node.toml"), "{gone}");
    let network = TestNetwork::start(|| Adder("sums")).await.unwrap();
    let title = Node::builder(Adder("")).config_file(network.config_file(0)).start().await.unwrap_err();
    assert!(title.to_string().contains("title"), "{title}");
    let taken = Node::builder(Adder("sums")).config_file(network.config_file(0)).start().await.unwrap_err();
    assert!(matches!(taken, NodeError::Listen { .. }), "its ports are in use by the one that runs: {taken}");

    network.node(0).unwrap().submit(&1).await.unwrap();
    let mut registry = Registry::default();
    let labelled = registry.sub_registry_with_labels([("node".into(), "first".into())].into_iter());
    network.node(0).unwrap().metrics(labelled).await.unwrap();
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    assert!(text.contains("commit_seconds_count{node=\"first\"} 1"), "{text}");
    network.shutdown().await;
}

#[actix_web::test]
async fn a_panic_of_the_application_is_its_askers_or_stops_the_node_and_says_why() {
    let network = TestNetwork::start(|| Adder("sums")).await.unwrap();
    let node = network.node(0).unwrap();
    let panicked = node.query(&"panic".to_owned(), Freshness::Local).await.unwrap_err();
    assert_eq!(panicked, QueryError::Submit(SubmitError::ReadFailed));
    assert_eq!(node.submit(&1).await.unwrap().output, 1, "it goes on");
    let unknown = node.submit(&666).await.unwrap_err();
    assert!(matches!(unknown, SubmitError::OutcomeUnknown { .. } | SubmitError::Stopped), "{unknown}");
    let why = node.stopped().await.unwrap();
    assert!(why.contains("an application's own mistake"), "{why}");
    network.shutdown().await;
}

/// Says by which version of its rules it is carried out.
struct Versioned(u32);

impl Application for Versioned {
    type Command = u64;
    type Output = u32;
    type Query = ();
    type Answer = u32;

    fn version(&self) -> u32 {
        self.0
    }

    fn apply(&self, call: &Call<'_>, _: u64, store: &mut Store<'_, '_>) -> Result<u32, Reject> {
        store.put("version", &call.context.version)?;
        Ok(call.context.version)
    }

    fn query(&self, store: &StoreView<'_>, (): ()) -> Result<u32, Reject> {
        Ok(store.get("version")?.unwrap_or_default())
    }
}

/// Programs are replaced one by one, and the rules change at one block. The node that was forgotten stops before it, and goes on with a newer program.
#[actix_web::test]
async fn rules_change_for_all_at_one_block_and_an_old_program_stops_before_it() {
    let made = std::sync::atomic::AtomicU32::new(0);
    // The fourth node has the old program; when it is started again, the new one.
    let program = move || Versioned(if made.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 3 { 1 } else { 2 });
    let mut network = TestNetwork::start(program).await.unwrap();
    let node = network.node(0).unwrap().clone();
    assert_eq!(node.submit(&1).await.unwrap().output, 1, "whoever knows the new rules goes on by the old ones");
    network.reconfigure(vec![Change::Version(2)]).await.unwrap();
    // The epoch begins some blocks later, by itself or with what is ordered.
    let mut newest = node.submit(&2).await.unwrap();
    for _ in 0..10_000 {
        if newest.output == 2 {
            break;
        }
        newest = node.submit(&2).await.unwrap();
    }
    assert_eq!(newest.output, 2);
    let stopped = network.node(3).unwrap().stopped();
    let why = tokio::time::timeout(Duration::from_secs(30), stopped).await.unwrap().unwrap();
    assert!(why.contains("version 2 of the state machine, this program knows versions up to 1"), "{why}");
    network.stop_node(3).await;
    network.start_node(3).await.unwrap();
    let back = network.node(3).unwrap();
    let read = back.query(&(), Freshness::AtLeast(newest.height)).await.unwrap();
    assert_eq!(read.answer, 2);
    assert_eq!(back.submit(&3).await.unwrap().output, 2);
    let wrong = network.reconfigure(vec![Change::Version(2)]).await.unwrap_err().to_string();
    assert!(wrong.contains("version 2 of the state machine, 2 is in force"), "{wrong}");
    network.shutdown().await;
}
