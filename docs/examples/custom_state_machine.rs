//! A state machine of your own, on a chain of four nodes in this process: transfers between accounts that never lose or make money.
//!
//!     cargo run --release --example custom_state_machine
#![allow(clippy::print_stdout, clippy::expect_used, reason = "an example says what it does")]

use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use standin::testing::TestNetwork;
use standin::{Application, Call, Freshness, Height, Reject, Store, StoreView, SubmitError};

/// What every account begins with.
const OPENING: u64 = 100;

struct Bank;

#[derive(Debug, Serialize, Deserialize)]
struct Transfer {
    from: String,
    to: String,
    amount: u64,
}

impl Application for Bank {
    type Command = Transfer;
    type Output = u64;
    type Query = String;
    type Answer = u64;

    fn check(&self, transfer: &Transfer) -> Result<(), Reject> {
        match transfer.from == transfer.to {
            true => Err(Reject::new("from and to are the same account")),
            false => Ok(()),
        }
    }

    fn apply(&self, _: &Call<'_>, transfer: Transfer, store: &mut Store<'_, '_>) -> Result<u64, Reject> {
        let held = store.get(&transfer.from)?.unwrap_or(OPENING);
        let left = held.checked_sub(transfer.amount).ok_or_else(|| Reject::new("insufficient funds"))?;
        let received = store.get(&transfer.to)?.unwrap_or(OPENING);
        let received =
            received.checked_add(transfer.amount).ok_or_else(|| Reject::new("the account cannot hold so much"))?;
        store.put(&transfer.from, &left)?;
        store.put(&transfer.to, &received)?;
        Ok(left)
    }

    fn query(&self, store: &StoreView<'_>, account: String) -> Result<u64, Reject> {
        Ok(store.get(&account)?.unwrap_or(OPENING))
    }
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let network = TestNetwork::start(|| Bank).await?;
    let (one, other) = (network.node(0).ok_or("no node")?, network.node(3).ok_or("no node")?);
    let transfer = |from: &str, to: &str, amount| Transfer { from: from.into(), to: to.into(), amount };

    let paid = one.submit(&transfer("ann", "bob", 30)).await?;
    println!("ann paid bob 30 in block {}, and has {} left", paid.height, paid.output);
    match one.submit(&transfer("ann", "bob", 1_000)).await {
        Err(SubmitError::Rejected { reason, .. }) => println!("ann cannot pay bob 1,000: {reason}"),
        other => return Err(format!("{other:?}").into()),
    }

    // Another node may be behind; it is asked for a state that has the payment.
    let bob = other.query(&"bob".to_owned(), Freshness::AtLeast(paid.height)).await?;
    println!("bob has {} at block {}, says another node", bob.answer, bob.height);
    assert_eq!(bob.answer, OPENING + 30);
    let ann = other.query(&"ann".to_owned(), Freshness::Linearizable).await?;
    assert_eq!(ann.answer, OPENING - 30);

    // All blocks from the first on, and then as they come: stopped after the one with the payment.
    let mut blocks = Box::pin(other.blocks(Height(1)));
    while let Some(block) = blocks.next().await {
        let block = block?;
        block
            .entries
            .iter()
            .for_each(|entry| println!("block {}: {:?} {:?}", block.height, entry.command, entry.outcome));
        if block.height >= paid.height {
            break;
        }
    }
    network.shutdown().await;
    Ok(())
}
