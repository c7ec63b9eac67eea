//! A test of an application against a network in which things go wrong: the node that holds a seat goes, and another member takes the seat
//! over. In a crate of your own this is a `#[actix_web::test]`.
//!
//!     cargo run --release --example test_network
#![allow(clippy::print_stdout, clippy::expect_used, reason = "an example says what it does")]

use standin::testing::{Shape, TestNetwork};
use standin::{Application, Call, Freshness, Reject, Store, StoreView};

/// Counts.
struct Counter;

impl Application for Counter {
    type Command = u64;
    type Output = u64;
    type Query = ();
    type Answer = u64;

    fn apply(&self, _: &Call<'_>, by: u64, store: &mut Store<'_, '_>) -> Result<u64, Reject> {
        let count =
            store.get::<u64>("count")?.unwrap_or_default().checked_add(by).ok_or_else(|| Reject::new("too much"))?;
        store.put("count", &count)?;
        Ok(count)
    }

    fn query(&self, store: &StoreView<'_>, (): ()) -> Result<u64, Reject> {
        Ok(store.get("count")?.unwrap_or_default())
    }
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Four seats, each held by one of two nodes; and an auth node, which grants the seats.
    let mut network = TestNetwork::start_as(Shape { seats: 4, members: 2 }, || Counter).await?;
    let follower = network.node(7).ok_or("no node")?.clone();
    assert_eq!(follower.submit(&1).await?.output, 1);

    let holder = network.held(0).await?;
    network.stop_node(holder).await;
    for expected in 2..=10 {
        assert_eq!(follower.submit(&1).await?.output, expected);
    }
    let now = network.held(0).await?;
    println!("node {holder} held the first seat, and node {now} does now");
    assert_ne!(holder, now);

    // It comes back, catches up, and says the same.
    network.start_node(holder).await?;
    let back = network.node(holder).ok_or("no node")?;
    let answered = back.query(&(), Freshness::Linearizable).await?;
    println!("it is back, and counts {} at block {}", answered.answer, answered.height);
    assert_eq!(answered.answer, 10);
    network.shutdown().await;
    Ok(())
}
