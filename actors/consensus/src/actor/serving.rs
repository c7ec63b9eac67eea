//! What other nodes ask for: payloads from memory, blocks and snapshots from chain and store.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use standin_foundation::{Digest, Height, NodeId};

use super::Replica;
use super::executor::Ledger;
use crate::messages::{BatchPayload, BlockTransfer, Note, Transfer};

/// Blocks in one answer.
const BLOCKS_PER_ANSWER: u64 = 64;
/// Bytes in one answer, unless a single block is larger: little enough for a slow link, where nothing else gets past it.
pub(super) const ANSWER_BYTES: usize = 256 * 1024;
/// Answers from chain and store to one node that may be under way.
const SERVED_PER_NODE_MAX: usize = 4;

impl Replica {
    pub(super) fn serve_batches(&self, to: NodeId, digests: &[Digest]) {
        let Some(remote) = self.config.directory.node(&to) else { return };
        let wanted: BTreeSet<_> = digests.iter().collect();
        for batch in wanted.into_iter().filter_map(|digest| self.payloads.get(digest)) {
            // The rest would find no room either: it is asked for again.
            if remote.tell(&BatchPayload(batch.payload().clone())).is_err() {
                return;
            }
        }
    }

    /// Answers from chain and store, on their thread, one question of a node at a time.
    pub(super) fn serve(&mut self, to: NodeId, answer: impl FnOnce(&Ledger) -> Option<Transfer> + Send + 'static) {
        let Some(remote) = self.config.directory.node(&to) else { return };
        let busy = Arc::clone(self.serving.entry(to).or_default());
        if busy.fetch_add(1, Ordering::AcqRel) >= SERVED_PER_NODE_MAX {
            busy.fetch_sub(1, Ordering::AcqRel);
            // It asks another one sooner than if it heard nothing.
            let _ = remote.tell(&Note::Unavailable);
            return;
        }
        let undone = Arc::clone(&busy);
        let taken = self.executor.reader().read(move |ledger| {
            busy.fetch_sub(1, Ordering::AcqRel);
            let sent = match answer(ledger) {
                Some(transfer) => remote.tell(&transfer),
                None => remote.tell(&Note::Unavailable),
            };
            if let Err(error) = sent {
                tracing::debug!(peer = %to.short(), %error, "answer not sent");
            }
        });
        if !taken {
            undone.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

pub(super) fn blocks_from(ledger: &Ledger, from: Height) -> Option<Transfer> {
    let mut blocks = Vec::new();
    let mut bytes = 0;
    for height in (from.0..from.0.saturating_add(BLOCKS_PER_ANSWER)).map(Height) {
        let Some(block) = ledger.store.block(height).ok().flatten() else { break };
        bytes += block.payloads.iter().map(bytes::Bytes::len).sum::<usize>();
        if bytes > ANSWER_BYTES && !blocks.is_empty() {
            break;
        }
        let (proposal, certificate) = (block.header.proposal, block.certificate);
        blocks.push(BlockTransfer { proposal, certificate, payloads: block.payloads });
    }
    (!blocks.is_empty()).then_some(Transfer::Blocks(blocks))
}

pub(super) fn manifest_of(ledger: &Ledger) -> Option<Transfer> {
    ledger.served.manifest().map(|manifest| Transfer::Manifest(Box::new(manifest)))
}

pub(super) fn chunk_of(ledger: &Ledger, height: Height, index: u32) -> Option<Transfer> {
    ledger.served.chunk(height, index as usize).map(|chunk| Transfer::Chunk { height, index, chunk })
}
