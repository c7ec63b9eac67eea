//! What clients may have at this node's door: roles and rates, as the chain lists them. The chain itself rejects what gets past it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use standin_consensus::actor::LedgerReader;
use standin_foundation::PublicKey;
use standin_ledger::clients::{Admission, Role};
use standin_ledger::{GrantBook, StateMachine, Transaction, system};

/// The door of a node. Cheap to clone.
#[derive(Clone)]
pub struct Access {
    reader: LedgerReader,
    book: Arc<GrantBook>,
    machine: Arc<dyn StateMachine>,
    buckets: Arc<Mutex<BTreeMap<PublicKey, Bucket>>>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").finish_non_exhaustive()
    }
}

/// Why a client gets nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Denied {
    /// Its roles do not allow it.
    #[error(transparent)]
    Role(#[from] standin_ledger::clients::Refused),
    /// It has had what it may have for now.
    #[error("the chain allows this client {0} transactions a second at each node: try again in a moment")]
    Rate(u32),
    /// The sender's key is none.
    #[error("the sender's key is not a point of the curve")]
    NoKey,
}

impl Access {
    pub(super) fn new(reader: LedgerReader, book: Arc<GrantBook>, machine: Arc<dyn StateMachine>) -> Self {
        Self { reader, book, machine, buckets: Arc::default() }
    }

    /// Whether a transaction, whose signature has been checked, may go in; counts it against its sender's rate.
    pub fn submits(&self, transaction: &Transaction, now: Instant) -> Result<(), Denied> {
        let clients = &self.reader.rules().clients;
        if clients.read().is_free() {
            return Ok(());
        }
        let sender = transaction.sender().ok_or(Denied::NoKey)?;
        // What is not for clients the chain judges by itself.
        let Some(role) = self.machine.role(transaction) else { return Ok(()) };
        match clients.may(&sender, role) {
            // Operators must be heard about a list that forgets them, too.
            Err(_) if system::is_system(transaction) && self.is_operator(&sender) => Ok(()),
            Err(refused) => Err(refused.into()),
            Ok(0) => Ok(()),
            Ok(rate) => self.count(sender, rate, now),
        }
    }

    /// Whether a client may ask for what is in the chain; none is one that has not said who it is.
    pub fn reads(&self, client: Option<&PublicKey>) -> Result<(), Denied> {
        let clients = &self.reader.rules().clients;
        match client {
            Some(client) => Ok(clients.may(client, Role::Read).map(drop)?),
            None if clients.read().admission == Admission::Open => Ok(()),
            None => Err(standin_ledger::clients::Refused::Unlisted.into()),
        }
    }

    fn is_operator(&self, key: &PublicKey) -> bool {
        self.book.newest_table().operators.keys.contains(key)
    }

    fn count(&self, client: PublicKey, rate: u32, now: Instant) -> Result<(), Denied> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let clients = self.reader.rules().clients.read();
        // Those of clients that are listed no more go when there are too many.
        if buckets.len() > 2 * clients.list.len() {
            buckets.retain(|key, _| clients.list.contains_key(key));
        }
        let bucket = buckets.entry(client).or_insert_with(|| Bucket::full(rate, now));
        if bucket.take(rate, now) { Ok(()) } else { Err(Denied::Rate(rate)) }
    }
}

/// A token bucket that holds what is allowed in one second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    /// A full one.
    pub(crate) fn full(rate: u32, now: Instant) -> Self {
        Self { left: f64::from(rate), at: now }
    }

    /// Whether nothing has been taken for a second or longer.
    pub(crate) fn is_full(&self, rate: u32, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left + passed * f64::from(rate) >= f64::from(rate)
    }

    /// Takes one token, if there is one.
    pub(crate) fn take(&mut self, rate: u32, now: Instant) -> bool {
        let rate = f64::from(rate);
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.left, self.at) = ((self.left + passed * rate).min(rate), self.at.max(now));
        let is_left = self.left >= 1.0;
        if is_left {
            self.left -= 1.0;
        }
        is_left
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_bucket_gives_its_rate_and_no_more_whatever_the_steps() {
        let start = Instant::now();
        let mut bucket = Bucket::full(10, start);
        let mut taken = 0;
        for ms in 0..5_000 {
            taken += u32::from(bucket.take(10, start + Duration::from_millis(ms)));
        }
        assert!((59..=60).contains(&taken), "a second's worth at first, then ten a second: {taken}");
        assert!(!bucket.take(10, start), "a clock that goes back gives nothing");
        let later = start + Duration::from_secs(3_600);
        let burst = (0..100).filter(|_| bucket.take(10, later)).count();
        assert_eq!(burst, 10, "what is not used is not saved for longer than a second");
    }
}
