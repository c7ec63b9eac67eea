//! What became of a transaction, and the proof of it against a checkpoint.

use serde::{Deserialize, Serialize};
use standin_foundation::{Canonical, Digest, Encoder, Height};

use crate::certificate::CheckpointResult;
use crate::merkle;
use crate::transaction::TransactionId;

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It took effect; the state machine's answer.
    Applied(#[serde(with = "hex_bytes")] Vec<u8>),
    /// The state machine refused it: nothing changed. The reason.
    Rejected(String),
    /// The same transaction took effect before: nothing changed.
    Duplicate,
    /// It came after its last height, or with one too far ahead, or its block had no room for its output: nothing changed, and it may be
    /// submitted anew.
    Expired,
}

impl Outcome {
    /// Whether it took effect.
    pub fn is_applied(&self) -> bool {
        matches!(self, Self::Applied(_))
    }

    /// Bytes of the state machine's answer, or of its reason.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Applied(output) => output.len(),
            Self::Rejected(reason) => reason.len(),
            Self::Duplicate | Self::Expired => 0,
        }
    }
}

/// The receipt of one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The transaction.
    pub transaction: TransactionId,
    /// What became of it.
    pub outcome: Outcome,
}

impl Canonical for Receipt {
    fn encode(&self, out: &mut Encoder) {
        out.digest(&self.transaction);
        match &self.outcome {
            Outcome::Applied(output) => out.u8(0).bytes(output),
            Outcome::Rejected(reason) => out.u8(1).bytes(reason.as_bytes()),
            Outcome::Duplicate => out.u8(2),
            Outcome::Expired => out.u8(3),
        };
    }
}

impl Receipt {
    fn leaf(&self) -> Digest {
        merkle::leaf(&self.canonical_bytes())
    }
}

/// Root over the receipts of one block.
pub fn receipts_root(receipts: &[Receipt]) -> Digest {
    let leaves: Vec<_> = receipts.iter().map(Receipt::leaf).collect();
    merkle::digest_root(&leaves)
}

/// Root over the blocks' receipts' roots between two checkpoints.
pub fn interval_root(block_roots: &[Digest]) -> Digest {
    merkle::digest_root(block_roots)
}

/// The proof that a receipt is covered by a checkpoint: first up to its block's receipts' root, then up to the root of
/// the interval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptProof {
    /// Height of the block.
    pub height: Height,
    /// Place of the receipt in its block.
    pub index: usize,
    /// Number of receipts in the block.
    pub total: usize,
    /// Siblings within the block.
    pub path: Vec<Digest>,
    /// Place of the block in the interval.
    pub block_index: usize,
    /// Number of blocks in the interval.
    pub block_total: usize,
    /// Siblings within the interval.
    pub block_path: Vec<Digest>,
}

impl ReceiptProof {
    /// The proof for receipt `index` of the block that is number `block_index` of the interval with `block_roots`.
    pub fn new(
        height: Height,
        receipts: &[Receipt],
        index: usize,
        block_roots: &[Digest],
        block_index: usize,
    ) -> Option<Self> {
        let leaves: Vec<_> = receipts.iter().map(Receipt::leaf).collect();
        Some(Self {
            height,
            index,
            total: receipts.len(),
            path: merkle::path(&leaves, index)?,
            block_index,
            block_total: block_roots.len(),
            block_path: merkle::path(block_roots, block_index)?,
        })
    }

    /// Whether it leads from `receipt` to the receipts' root in `result`.
    pub fn verify(&self, receipt: &Receipt, result: &CheckpointResult) -> bool {
        let block_root = merkle::root_from_path(&receipt.leaf(), self.index, self.total, &self.path);
        let covered = self.block_total.checked_sub(self.block_index + 1).map(|after| self.height.0 + after as u64);
        covered == Some(result.height.0)
            && block_root
                .and_then(|root| merkle::root_from_path(&root, self.block_index, self.block_total, &self.block_path))
                == Some(result.receipts_root)
    }
}

/// Bytes as hex for people, as bytes for machines.
mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &Vec<u8>, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&hex::encode(bytes))
        } else {
            bytes.serialize(serializer)
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            hex::decode(text).map_err(serde::de::Error::custom)
        } else {
            Vec::deserialize(deserializer)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipts(count: u8) -> Vec<Receipt> {
        let receipt = |i: u8| Receipt { transaction: Digest::sha256(&[i]), outcome: Outcome::Applied(vec![i]) };
        (0..count).map(receipt).collect()
    }

    #[test]
    fn a_receipt_is_proven_against_the_checkpoint_that_covers_it() {
        let blocks: Vec<_> = (1..6).map(receipts).collect();
        let roots: Vec<_> = blocks.iter().map(|receipts| receipts_root(receipts)).collect();
        let result = CheckpointResult {
            height: Height(36),
            block_hash: Digest::ZERO,
            state_root: Digest::ZERO,
            receipts_root: interval_root(&roots),
        };
        for (block_index, receipts) in blocks.iter().enumerate() {
            for (index, receipt) in receipts.iter().enumerate() {
                let height = Height(32 + block_index as u64);
                let proof = ReceiptProof::new(height, receipts, index, &roots, block_index).unwrap();
                assert!(proof.verify(receipt, &result));
                let other = Receipt { outcome: Outcome::Duplicate, ..receipt.clone() };
                assert!(!proof.verify(&other, &result));
                let moved = ReceiptProof { height: height.next(), ..proof };
                assert!(!moved.verify(receipt, &result));
            }
        }
    }
}
