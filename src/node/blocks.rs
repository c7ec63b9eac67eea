//! Blocks from a height on, and then as they come, without a gap.

use std::collections::VecDeque;
use std::time::Duration;

use standin_consensus::actor::{Ledger, ReadRefused};
use standin_foundation::Height;
use standin_ledger::store::{StoreError, StoredBlock};
use tokio::sync::{oneshot, watch};

use super::NodeHandle;

/// Where too many reads wait, the next one is tried after this time.
const BUSY_WAIT: Duration = Duration::from_millis(20);
/// Blocks that are read at one time, and bytes of their payloads and outputs, unless one alone has more.
const READ_MAX: u64 = 64;
const READ_BYTES_MAX: usize = 2 * 1024 * 1024;

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

/// Whoever follows the blocks of a node, each once, by rising height.
#[derive(Debug)]
pub struct Follower {
    node: NodeHandle,
    heights: watch::Receiver<Height>,
    next: Height,
    read: VecDeque<StoredBlock>,
}

impl Follower {
    /// Begins with the block at `from`.
    pub fn new(node: &NodeHandle, from: Height) -> Self {
        let heights = node.executed.clone();
        Self { node: node.clone(), heights, next: Height(from.0.max(1)), read: VecDeque::new() }
    }

    /// The height of the block that comes next.
    pub fn height(&self) -> Height {
        self.read.front().map_or(self.next, |block| block.header.height())
    }

    /// The next block, as soon as there is one.
    pub async fn next(&mut self) -> Result<StoredBlock, BlocksError> {
        loop {
            if let Some(block) = self.read.pop_front() {
                return Ok(block);
            }
            self.heights.mark_unchanged();
            if self.look().await? == 0 {
                self.heights.changed().await.map_err(|_| BlocksError::Stopped)?;
            }
        }
    }

    /// Reads what is there already; gives how many blocks.
    pub async fn look(&mut self) -> Result<usize, BlocksError> {
        let from = self.next;
        let blocks = loop {
            let (sender, receiver) = oneshot::channel();
            // Whoever follows may have gone.
            match self.node.reader.try_read(move |ledger| drop(sender.send(blocks_from(ledger, from, READ_MAX)))) {
                Ok(()) => break receiver.await.map_err(|_| BlocksError::Stopped)?,
                // Many read at one time: there is room again in a moment.
                Err(ReadRefused::Busy) => tokio::time::sleep(BUSY_WAIT).await,
                Err(ReadRefused::Stopped) => return Err(BlocksError::Stopped),
            }
        };
        let blocks = blocks.map_err(|error| BlocksError::Store(error.to_string()))?;
        let blocks = blocks.map_err(|first| BlocksError::Gone { first })?;
        self.next = self.next.plus(blocks.len() as u64);
        let count = blocks.len();
        self.read.extend(blocks);
        Ok(count)
    }
}

type Blocks = Result<Vec<StoredBlock>, Height>;

/// At most so many blocks from a height on, fewer where they are large; or else the first one that there is.
pub(crate) fn blocks_from(ledger: &Ledger, from: Height, count: u64) -> Result<Blocks, StoreError> {
    let first = ledger.store.first()?;
    if first > from {
        return Ok(Err(first));
    }
    let up_to = ledger.chain.height().0.min(from.0.saturating_add(count).saturating_sub(1));
    let (mut blocks, mut bytes) = (Vec::new(), 0);
    for height in (from.0..=up_to).map(Height) {
        let Some(block) = ledger.store.block(height)? else { break };
        let outputs = block.receipts.iter().map(|receipt| receipt.outcome.bytes());
        bytes += block.payloads.iter().map(bytes::Bytes::len).chain(outputs).sum::<usize>();
        if bytes > READ_BYTES_MAX && !blocks.is_empty() {
            break;
        }
        blocks.push(block);
    }
    Ok(Ok(blocks))
}
