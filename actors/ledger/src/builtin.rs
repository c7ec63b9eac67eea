//! The built-in state machine: key-value records by title, and accounts that hold an amount.

use bytes::Bytes;
use standin_foundation::limits::{STATE_KEY_BYTES_MAX, TRANSACTION_BYTES_MAX};
use standin_foundation::{Decoder, Encoder, MalformedBytes, PublicKey};

use crate::state::{State, Write};
use crate::state_machine::{Context, Reject, StateMachine};
use crate::transaction::{Title, Transaction};
use crate::trie::Trie;

/// What a payload of the built-in state machine says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Sets a record of the transaction's title.
    Put {
        /// The record's key.
        key: Vec<u8>,
        /// Its new value.
        value: Vec<u8>,
    },
    /// Removes a record of the transaction's title.
    Delete {
        /// The record's key.
        key: Vec<u8>,
    },
    /// Moves an amount from the sender's account.
    Transfer {
        /// The receiver.
        to: PublicKey,
        /// How much.
        amount: u64,
    },
}

impl Operation {
    /// The payload that says this.
    pub fn to_payload(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        match self {
            Self::Put { key, value } => out.u8(1).bytes(key).bytes(value),
            Self::Delete { key } => out.u8(2).bytes(key),
            Self::Transfer { to, amount } => out.u8(3).raw(to.as_bytes()).u64(*amount),
        };
        out.into_bytes()
    }

    /// Reads a payload.
    pub fn from_payload(payload: &[u8]) -> Result<Self, MalformedBytes> {
        let mut input = Decoder::new(payload);
        let operation = match input.u8()? {
            1 => {
                let key = input.bytes(STATE_KEY_BYTES_MAX)?.to_vec();
                Self::Put { key, value: input.bytes(TRANSACTION_BYTES_MAX)?.to_vec() }
            }
            2 => Self::Delete { key: input.bytes(STATE_KEY_BYTES_MAX)?.to_vec() },
            3 => {
                let to = PublicKey::try_from_bytes(input.array()?).map_err(|_| input.fault("not a public key"))?;
                Self::Transfer { to, amount: input.u64()? }
            }
            _ => return Err(MalformedBytes { offset: 0, what: "unknown operation" }),
        };
        input.finish()?;
        Ok(operation)
    }
}

/// What can be asked of the built-in state machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// A record of a title.
    Record {
        /// The title.
        title: Title,
        /// The record's key.
        key: Vec<u8>,
    },
    /// What an account holds.
    Balance {
        /// The account.
        account: PublicKey,
    },
}

impl Question {
    /// Where the answer stands in the state: what a state proof is about.
    pub fn state_key(&self) -> Vec<u8> {
        match self {
            Self::Record { title, key } => record_key(*title, key),
            Self::Balance { account } => account_key(account.as_bytes()),
        }
    }
}

/// Key-value records and accounts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Builtin;

impl Builtin {
    /// The state of a new chain in which these accounts hold these amounts.
    pub fn genesis_writes(accounts: &[(PublicKey, u64)]) -> Vec<Write> {
        let write = |(account, amount): &(PublicKey, u64)| {
            (Bytes::from(account_key(account.as_bytes())), Some(amount_bytes(*amount)))
        };
        accounts.iter().map(write).collect()
    }

    /// What `account` holds.
    pub fn balance(state: &Trie, account: &PublicKey) -> u64 {
        amount_of(state.get(&account_key(account.as_bytes())))
    }
}

impl StateMachine for Builtin {
    fn apply(&self, _context: &Context, transaction: &Transaction, state: &mut State<'_>) -> Result<Vec<u8>, Reject> {
        match read(transaction)? {
            Operation::Put { key, value } => state.put(record_key(transaction.title(), &key), value),
            Operation::Delete { key } => {
                let key = record_key(transaction.title(), &key);
                if state.get(&key).is_none() {
                    return Err(Reject::new("no such record"));
                }
                state.delete(key);
            }
            Operation::Transfer { to, amount } => transfer(state, transaction.sender_bytes(), &to, amount)?,
        }
        Ok(Vec::new())
    }

    fn query(&self, state: &Trie, query: &[u8]) -> Result<Vec<u8>, Reject> {
        state.get(query).map(|value| value.to_vec()).ok_or_else(|| Reject::new("nothing stands there"))
    }

    fn check(&self, transaction: &Transaction) -> Result<(), Reject> {
        read(transaction).map(|_| ())
    }
}

fn read(transaction: &Transaction) -> Result<Operation, Reject> {
    Operation::from_payload(transaction.payload()).map_err(|error| Reject::new(format!("payload: {error}")))
}

fn transfer(state: &mut State<'_>, from: &[u8; 33], to: &PublicKey, amount: u64) -> Result<(), Reject> {
    let held = amount_of(state.get(&account_key(from)));
    let left = held
        .checked_sub(amount)
        .ok_or_else(|| Reject::new(format!("insufficient funds: {held} held, {amount} wanted")))?;
    state.put(account_key(from), amount_bytes(left));
    let received = amount_of(state.get(&account_key(to.as_bytes())))
        .checked_add(amount)
        .ok_or_else(|| Reject::new("the receiver's account would overflow"))?;
    state.put(account_key(to.as_bytes()), amount_bytes(received));
    Ok(())
}

fn record_key(title: Title, key: &[u8]) -> Vec<u8> {
    [b"r", title.as_padded_bytes().as_slice(), key].concat()
}

fn account_key(account: &[u8; 33]) -> Vec<u8> {
    [b"a", account.as_slice()].concat()
}

fn amount_bytes(amount: u64) -> Bytes {
    Bytes::copy_from_slice(&amount.to_be_bytes())
}

fn amount_of(value: Option<&Bytes>) -> u64 {
    value.and_then(|bytes| bytes.as_ref().try_into().ok()).map_or(0, u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transaction::tests::{body, key};
    use standin_foundation::Height;

    fn apply(trie: &mut Trie, sender: u8, operation: &Operation) -> Result<(), Reject> {
        let body = body("t", 0, &operation.to_payload());
        let transaction = Transaction::unsigned(&key(sender).public(), &body).unwrap();
        let mut state = State::new(trie);
        Builtin.apply(&Context { height: Height(1), time_ms: 0, version: 1 }, &transaction, &mut state)?;
        for (key, value) in state.into_writes() {
            match value {
                Some(value) => drop(trie.insert(key, value)),
                None => assert!(trie.remove(&key).is_some()),
            }
        }
        Ok(())
    }

    fn with_funds(amount: u64) -> Trie {
        let mut trie = Trie::default();
        for (key, value) in Builtin::genesis_writes(&[(key(1).public(), amount)]) {
            trie.insert(key, value.unwrap());
        }
        trie
    }

    #[test]
    fn transfers_conserve_the_sum_and_need_funds() {
        let mut trie = with_funds(100);
        let (a, b) = (key(1).public(), key(2).public());
        apply(&mut trie, 1, &Operation::Transfer { to: b, amount: 60 }).unwrap();
        let error = apply(&mut trie, 1, &Operation::Transfer { to: b, amount: 41 }).unwrap_err();
        assert_eq!(error.0, "insufficient funds: 40 held, 41 wanted");
        apply(&mut trie, 1, &Operation::Transfer { to: a, amount: 40 }).unwrap();
        assert_eq!((Builtin::balance(&trie, &a), Builtin::balance(&trie, &b)), (40, 60));
    }

    #[test]
    fn records_are_set_and_removed_within_their_title() {
        let mut trie = Trie::default();
        apply(&mut trie, 1, &Operation::Put { key: b"k".to_vec(), value: b"v".to_vec() }).unwrap();
        let asked = Question::Record { title: "t".parse().unwrap(), key: b"k".to_vec() };
        assert_eq!(Builtin.query(&trie, &asked.state_key()).unwrap(), b"v");
        let other = Question::Record { title: "u".parse().unwrap(), key: b"k".to_vec() };
        assert!(Builtin.query(&trie, &other.state_key()).is_err());
        apply(&mut trie, 1, &Operation::Delete { key: b"k".to_vec() }).unwrap();
        assert!(apply(&mut trie, 1, &Operation::Delete { key: b"k".to_vec() }).is_err());
    }

    #[test]
    fn operations_read_back_and_garbage_is_refused() {
        let operations = [
            Operation::Put { key: b"k".to_vec(), value: vec![0; 300] },
            Operation::Delete { key: vec![] },
            Operation::Transfer { to: key(3).public(), amount: u64::MAX },
        ];
        for operation in operations {
            let payload = operation.to_payload();
            assert_eq!(Operation::from_payload(&payload).unwrap(), operation);
            assert!(Operation::from_payload(&payload[..payload.len() - 1]).is_err());
            assert!(Operation::from_payload(&[&payload[..], &[0]].concat()).is_err());
        }
        assert!(Operation::from_payload(&[9]).is_err());
    }
}
