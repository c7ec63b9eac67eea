//! Proposals, headers and blocks.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use standin_foundation::limits::{PROPOSAL_BATCHES_MAX, PROPOSAL_BYTES_MAX};
use standin_foundation::{Canonical, Digest, Encoder, Epoch, Height, Seat, View};

use crate::batch::{Batch, BatchRef};
use crate::certificate::CommitCertificate;
use crate::error::LedgerError;
use crate::merkle;

/// What the consensus votes on: the content of one slot. It does not name its parent (docs/decisions/0001, 3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// The slot, which is the block's height.
    pub height: Height,
    /// The epoch in which it was first proposed.
    pub epoch: Epoch,
    /// The view in which it was first proposed; a later view may propose it again, unchanged.
    pub view: View,
    /// The seat that first proposed it: the primary of `view`.
    pub proposer: Seat,
    /// The proposer's clock, in ms since the Unix epoch; 0 in a null request. Advisory.
    pub time_ms: u64,
    /// Asks for a checkpoint at this height, whatever the interval says.
    pub checkpoint: bool,
    /// The batches, in order of execution.
    pub batches: Vec<BatchRef>,
}

impl Proposal {
    /// The request that a new view puts into a slot for which nothing was prepared.
    pub fn null(height: Height, epoch: Epoch, view: View, proposer: Seat) -> Self {
        Self { height, epoch, view, proposer, time_ms: 0, checkpoint: false, batches: Vec::new() }
    }

    /// What votes name.
    pub fn digest(&self) -> Digest {
        Digest::sha256(&self.canonical_bytes())
    }

    /// Checks the limits of a proposal.
    pub fn check_limits(&self) -> Result<(), LedgerError> {
        let bytes: usize = self.batches.iter().map(|batch| batch.bytes as usize).sum();
        let over = |what, found, limit| Err(LedgerError::TooLarge { what, found, limit });
        if self.batches.len() > PROPOSAL_BATCHES_MAX {
            return over("a proposal's batches", self.batches.len(), PROPOSAL_BATCHES_MAX);
        }
        if bytes > PROPOSAL_BYTES_MAX {
            return over("a proposal's bytes", bytes, PROPOSAL_BYTES_MAX);
        }
        Ok(())
    }

    /// Root over the batches' names: the block's transactions' root.
    pub fn transactions_root(&self) -> Digest {
        let leaves: Vec<_> = self.batches.iter().map(|batch| merkle::leaf(&batch.canonical_bytes())).collect();
        merkle::digest_root(&leaves)
    }

    /// Number of transactions in all batches.
    pub fn transaction_count(&self) -> u64 {
        self.batches.iter().map(|batch| u64::from(batch.count)).sum()
    }
}

impl Canonical for Proposal {
    fn encode(&self, out: &mut Encoder) {
        out.u64(self.height.0).u64(self.epoch.0).u64(self.view.0).u16(self.proposer.0);
        out.u64(self.time_ms).u8(u8::from(self.checkpoint)).length(self.batches.len());
        for batch in &self.batches {
            batch.encode(out);
        }
    }
}

/// The header of a block: a function of the proposal and of the chain before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// What was agreed on.
    pub proposal: Proposal,
    /// Hash of the header before this one.
    pub parent: Digest,
    /// max(parent's time + 1 ms, proposer's clock), in ms since the Unix epoch. Advisory.
    pub time_ms: u64,
    /// Root over the batches' names.
    pub transactions_root: Digest,
}

impl Header {
    /// The header that follows `parent` when `proposal` is executed on it.
    pub fn following(parent: &Self, proposal: Proposal) -> Self {
        Self {
            parent: parent.hash(),
            time_ms: proposal.time_ms.max(parent.time_ms.saturating_add(1)),
            transactions_root: proposal.transactions_root(),
            proposal,
        }
    }

    /// The block's height.
    pub fn height(&self) -> Height {
        self.proposal.height
    }

    /// The block's hash.
    pub fn hash(&self) -> Digest {
        let mut out = Encoder::with_capacity(160);
        out.digest(&self.proposal.digest()).digest(&self.parent).u64(self.time_ms).digest(&self.transactions_root);
        Digest::sha256(&out.into_bytes())
    }
}

/// A block: header, payloads, and the proof that it was agreed on.
#[derive(Debug, Clone)]
pub struct Block {
    /// The header.
    pub header: Header,
    /// The payloads, as the proposal names them.
    pub batches: Vec<Arc<Batch>>,
    /// 2f+1 commits for the proposal.
    pub certificate: CommitCertificate,
}
