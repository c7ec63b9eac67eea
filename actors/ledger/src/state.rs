//! The state that transactions act on: keys and values, with the writes of one transaction held back until it is
//! applied.

use bytes::Bytes;

use crate::trie::Trie;

/// The state as a state machine sees it while it applies one transaction.
///
/// Reads see the transaction's own writes. Writes take effect only if `apply` returns `Ok`.
#[derive(Debug)]
pub struct State<'a> {
    trie: &'a Trie,
    writes: Vec<Write>,
}

/// A key and its new value; none deletes it.
pub type Write = (Bytes, Option<Bytes>);

impl<'a> State<'a> {
    /// The state `trie`, without writes.
    pub fn new(trie: &'a Trie) -> Self {
        Self { trie, writes: Vec::new() }
    }

    /// The value of `key`.
    pub fn get(&self, key: &[u8]) -> Option<&Bytes> {
        match self.writes.iter().rev().find(|(written, _)| written == key) {
            Some((_, value)) => value.as_ref(),
            None => self.trie.get(key),
        }
    }

    /// The state before the transaction, without its own writes.
    pub fn before(&self) -> &'a Trie {
        self.trie
    }

    /// Sets the value of `key`.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.writes.push((key.into(), Some(value.into())));
    }

    /// Removes `key`.
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        self.writes.push((key.into(), None));
    }

    /// The writes so far, in order.
    pub fn writes(&self) -> &[Write] {
        &self.writes
    }

    /// The writes, in order.
    pub fn into_writes(self) -> Vec<Write> {
        self.writes
    }
}
