//! Blocks from a height on, and then as they come, without a gap.

use futures_util::Stream;
use futures_util::stream::unfold;
use standin_foundation::{Digest, Height, PublicKey};
use standin_ledger::store::StoredBlock;
use standin_ledger::{Batch, Outcome, Transaction, TransactionId};

use super::{Application, Node};
pub use crate::node::BlocksError;
use crate::node::Follower;

/// A block.
#[derive(Debug, Clone)]
pub struct Block<C> {
    /// Its height.
    pub height: Height,
    /// Its hash.
    pub hash: Digest,
    /// The proposer's clock, in ms since 1970; 0 in a block that orders nothing. Advisory.
    pub time_ms: u64,
    /// What it orders.
    pub entries: Vec<Entry<C>>,
}

/// A transaction in a block.
#[derive(Debug, Clone)]
pub struct Entry<C> {
    /// Its id.
    pub id: TransactionId,
    /// Whoever signed it.
    pub sender: Option<PublicKey>,
    /// The application's command; none for what is no command of this application's.
    pub command: Option<C>,
    /// What became of it.
    pub outcome: Outcome,
}

impl<S: Application> Node<S> {
    /// Blocks from `from` on, by rising height, each once; when there is none, the next one is waited for. The stream ends after an error.
    pub fn blocks(&self, from: Height) -> impl Stream<Item = Result<Block<S::Command>, BlocksError>> + Send + use<S> {
        let follower = Some(Follower::new(&self.inner.handle, from));
        unfold(follower, |follower| async move {
            let mut follower = follower?;
            match follower.next().await {
                Ok(block) => Some((Ok(shown::<S>(&block)), Some(follower))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }
}

fn shown<S: Application>(block: &StoredBlock) -> Block<S::Command> {
    let batches = block.payloads.iter().filter_map(|payload| Batch::parse(payload.clone()).ok());
    let transactions: Vec<Transaction> = batches.flat_map(|batch| batch.transactions().to_vec()).collect();
    let entries = transactions.iter().zip(&block.receipts).map(|(transaction, receipt)| Entry {
        id: transaction.id(),
        sender: transaction.sender(),
        command: serde_json::from_slice(transaction.payload()).ok(),
        outcome: receipt.outcome.clone(),
    });
    Block {
        height: block.header.height(),
        hash: block.hash,
        time_ms: block.header.proposal.time_ms,
        entries: entries.collect(),
    }
}
