//! Batches: what one seat pushes to the others, named by the root of its namespaced tree.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use standin_foundation::limits::{BATCH_BYTES_MAX, BATCH_TRANSACTIONS_MAX, TRANSACTION_BYTES_MAX};
use standin_foundation::{Canonical, Decoder, Digest, Encoder, MalformedBytes};

use crate::error::LedgerError;
use crate::merkle;
use crate::namespaced::{CompletenessStep, NamespacedNode, prove_completeness, verify_completeness};
use crate::transaction::{Title, Transaction};

/// A batch as a proposal names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchRef {
    /// Number of transactions, at least one.
    pub count: u32,
    /// Canonical bytes of the payload.
    pub bytes: u32,
    /// Root of the namespaced tree over the transactions.
    pub root: NamespacedNode,
}

impl BatchRef {
    /// The batch's name.
    pub fn digest(&self) -> Digest {
        Digest::sha256(&self.canonical_bytes())
    }
}

impl Canonical for BatchRef {
    fn encode(&self, out: &mut Encoder) {
        out.u32(self.count).u32(self.bytes).digest(&self.root.digest());
    }
}

/// The transactions of one seat's push, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    payload: Bytes,
    transactions: Vec<Transaction>,
    reference: BatchRef,
    digest: Digest,
}

impl Batch {
    /// Puts transactions into a batch. They are sorted by title, stably, so that proofs stay short.
    pub fn new(mut transactions: Vec<Transaction>) -> Result<Self, LedgerError> {
        transactions.sort_by_key(Transaction::title);
        let size = transactions.iter().map(|transaction| transaction.bytes().len() + 4).sum::<usize>() + 4;
        let mut out = Encoder::with_capacity(size);
        out.length(transactions.len());
        for transaction in &transactions {
            out.bytes(transaction.bytes());
        }
        Self::parse(out.into_bytes().into())
    }

    /// Reads a payload: checks limits and encodings, and computes its name. Signatures are not checked here.
    pub fn parse(payload: Bytes) -> Result<Self, LedgerError> {
        if payload.len() > BATCH_BYTES_MAX {
            return Err(LedgerError::TooLarge { what: "batch bytes", found: payload.len(), limit: BATCH_BYTES_MAX });
        }
        let transactions = parse_transactions(&payload)?;
        let leaves: Vec<_> = transactions.iter().map(leaf_of).collect();
        let root = merkle::root(&leaves).ok_or(LedgerError::TooLarge {
            what: "an empty batch's transactions",
            found: 0,
            limit: 0,
        })?;
        let reference = BatchRef { count: transactions.len() as u32, bytes: payload.len() as u32, root };
        Ok(Self { digest: reference.digest(), payload, transactions, reference })
    }

    /// The first transactions of a payload, as far as they can be read: for who looks at some, and needs no name of it.
    pub fn first_of(payload: &Bytes, count: usize) -> Vec<Transaction> {
        let mut input = Decoder::new(payload);
        let all = input.length(BATCH_TRANSACTIONS_MAX).unwrap_or_default();
        (0..all.min(count)).map_while(|_| next_transaction(&mut input, payload).ok()).collect()
    }

    /// The batch's name.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// How a proposal names it.
    pub fn reference(&self) -> BatchRef {
        self.reference
    }

    /// The canonical payload.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// The transactions, in order.
    pub fn transactions(&self) -> &[Transaction] {
        &self.transactions
    }

    /// Checks every signature for the chain with this genesis digest.
    pub fn verify_signatures(&self, chain: &Digest) -> Result<(), LedgerError> {
        self.transactions.iter().try_for_each(|transaction| transaction.verify(chain))
    }

    /// The proof that transaction `index` is in this batch.
    pub fn prove_inclusion(&self, index: usize) -> Option<Vec<NamespacedNode>> {
        merkle::path(&self.leaves(), index)
    }

    /// The proof that the transactions of `title` in this batch are all there are.
    pub fn prove_completeness(&self, title: Title) -> Vec<CompletenessStep> {
        prove_completeness(&self.leaves(), title)
    }

    fn leaves(&self) -> Vec<NamespacedNode> {
        self.transactions.iter().map(leaf_of).collect()
    }
}

impl BatchRef {
    /// Whether `transaction` is number `index` of the batch, as `path` says.
    pub fn verify_inclusion(&self, transaction: &Transaction, index: usize, path: &[NamespacedNode]) -> bool {
        merkle::root_from_path(&leaf_of(transaction), index, self.count as usize, path) == Some(self.root)
    }

    /// Whether `transactions` are, in order, all of `title` in the batch, as `steps` say.
    pub fn verify_completeness(&self, title: Title, transactions: &[Transaction], steps: &[CompletenessStep]) -> bool {
        let claimed: Vec<_> = transactions.iter().map(leaf_of).collect();
        verify_completeness(title, self.count as usize, &claimed, steps) == Some(self.root)
    }
}

/// A leaf covers the id and the signature: nobody can swap a signature without changing the batch's name.
fn leaf_of(transaction: &Transaction) -> NamespacedNode {
    let id = transaction.id();
    NamespacedNode::leaf(transaction.title(), &[id.as_bytes(), transaction.signature().as_bytes()])
}

fn parse_transactions(payload: &Bytes) -> Result<Vec<Transaction>, LedgerError> {
    let mut input = Decoder::new(payload);
    let count = input.length(BATCH_TRANSACTIONS_MAX).map_err(malformed)?;
    let mut transactions = Vec::with_capacity(count);
    for _ in 0..count {
        transactions.push(next_transaction(&mut input, payload)?);
    }
    input.finish().map_err(malformed)?;
    Ok(transactions)
}

fn next_transaction(input: &mut Decoder<'_>, payload: &Bytes) -> Result<Transaction, LedgerError> {
    let length = input.length(TRANSACTION_BYTES_MAX).map_err(malformed)?;
    let start = input.offset();
    input.raw(length).map_err(malformed)?;
    Transaction::parse(payload.slice(start..start + length))
}

fn malformed(source: MalformedBytes) -> LedgerError {
    LedgerError::Malformed { what: "batch", source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transaction::tests::{body, key};

    fn batch(titles: &[&str]) -> Batch {
        let transaction = |(nonce, title): (usize, &&str)| {
            Transaction::unsigned(&key(1).public(), &body(title, nonce as u64, b"p")).unwrap()
        };
        Batch::new(titles.iter().enumerate().map(transaction).collect()).unwrap()
    }

    #[test]
    fn a_batch_reads_back_under_the_same_name() {
        let whole = batch(&["a", "b", "c"]);
        assert_eq!(Batch::first_of(whole.payload(), 2), whole.transactions()[..2]);
        assert_eq!(Batch::first_of(whole.payload(), 9), whole.transactions());
        assert_eq!(Batch::first_of(&whole.payload().slice(..whole.payload().len() - 1), 9).len(), 2);

        let batch = batch(&["b", "a", "b"]);
        let read = Batch::parse(batch.payload().clone()).unwrap();
        assert_eq!(read, batch);
        assert_eq!(read.transactions()[0].title().as_str(), "a");
    }

    #[test]
    fn inclusion_and_completeness_are_proven_against_the_name() {
        let batch = batch(&["b", "a", "b", "c", "b"]);
        let reference = batch.reference();
        for (index, transaction) in batch.transactions().iter().enumerate() {
            let path = batch.prove_inclusion(index).unwrap();
            assert!(reference.verify_inclusion(transaction, index, &path));
            assert!(!reference.verify_inclusion(transaction, (index + 1) % 5, &path));
        }
        let b: Title = "b".parse().unwrap();
        let steps = batch.prove_completeness(b);
        let all = &batch.transactions()[1..4];
        assert!(reference.verify_completeness(b, all, &steps));
        assert!(!reference.verify_completeness(b, &all[1..], &steps));
    }

    #[test]
    fn a_swapped_signature_changes_the_name() {
        let batch = batch(&["a"]);
        let mut payload = batch.payload().to_vec();
        *payload.last_mut().unwrap() ^= 1;
        assert_ne!(Batch::parse(payload.into()).unwrap().digest(), batch.digest());
    }

    #[test]
    fn empty_truncated_and_oversized_payloads_are_refused() {
        assert!(Batch::new(Vec::new()).is_err());
        let batch = batch(&["a", "b"]);
        for length in 0..batch.payload().len() {
            assert!(Batch::parse(batch.payload().slice(..length)).is_err());
        }
        assert!(matches!(Batch::parse(vec![0; BATCH_BYTES_MAX + 1].into()), Err(LedgerError::TooLarge { .. })));
    }
}
