//! Blocks from a height on, and then as they come, without a gap.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::unfold;
use standin_consensus::actor::Ledger;
use standin_foundation::{Digest, Height, PublicKey};
use standin_ledger::store::{StoreError, StoredBlock};
use standin_ledger::{Batch, Outcome, Transaction, TransactionId};

use super::{Application, Node, SubmitError};

/// Where too many reads wait, the next one is tried after this time.
const BUSY_WAIT: Duration = Duration::from_millis(20);
/// Blocks that are read at one time.
const READ_MAX: u64 = 64;

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

/// Why there are no more blocks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BlocksError {
    /// The node does not have the blocks before this one any more, or never had: another node may.
    #[error("the node has blocks from {first} on")]
    Gone {
        /// The first that it has.
        first: Height,
    },
    /// The node's store cannot be read.
    #[error("the store: {0}")]
    Store(String),
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

enum Read {
    Blocks(Vec<StoredBlock>),
    Gone(Height),
    Failed(String),
}

impl<S: Application> Node<S> {
    /// Blocks from `from` on, by rising height, each once; when there is none, the next one is waited for. The stream ends after an error.
    pub fn blocks(&self, from: Height) -> impl Stream<Item = Result<Block<S::Command>, BlocksError>> + Send + use<S> {
        let state = Some((self.clone(), Height(from.0.max(1)), VecDeque::new()));
        unfold(state, |state| async move {
            let (node, mut next, mut read) = state?;
            loop {
                if let Some(block) = read.pop_front() {
                    return Some((Ok(block), Some((node, next, read))));
                }
                let mut heights = node.inner.handle.executed.clone();
                heights.mark_unchanged();
                let error = match node.blocks_from(next).await {
                    Ok(Read::Gone(first)) => BlocksError::Gone { first },
                    Ok(Read::Failed(what)) => BlocksError::Store(what),
                    // Many read at one time: there is room again in a moment.
                    Err(SubmitError::Busy(_)) => {
                        tokio::time::sleep(BUSY_WAIT).await;
                        continue;
                    }
                    Err(_) => BlocksError::Stopped,
                    Ok(Read::Blocks(blocks)) if !blocks.is_empty() => {
                        next = next.plus(blocks.len() as u64);
                        read.extend(blocks.iter().map(shown::<S>));
                        continue;
                    }
                    Ok(Read::Blocks(_)) => match heights.changed().await {
                        Ok(()) => continue,
                        Err(_) => BlocksError::Stopped,
                    },
                };
                return Some((Err(error), None));
            }
        })
    }

    async fn blocks_from(&self, from: Height) -> Result<Read, SubmitError> {
        self.read(move |ledger| blocks_of(ledger, from).unwrap_or_else(|error| Read::Failed(error.to_string()))).await
    }
}

fn blocks_of(ledger: &Ledger, from: Height) -> Result<Read, StoreError> {
    let first = ledger.store.first()?;
    if first > from {
        return Ok(Read::Gone(first));
    }
    let up_to = ledger.chain.height().0.min(from.0.saturating_add(READ_MAX - 1));
    let blocks: Result<Vec<_>, _> =
        (from.0..=up_to).map_while(|height| ledger.store.block(Height(height)).transpose()).collect();
    Ok(Read::Blocks(blocks?))
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
