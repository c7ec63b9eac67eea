//! What users write: a state machine of types of their own.

use serde::Serialize;
use serde::de::DeserializeOwned;
use standin_foundation::PublicKey;
use standin_foundation::limits::{STATE_KEY_BYTES_MAX, TRANSACTION_BYTES_MAX};
use standin_ledger::trie::Trie;
use standin_ledger::{Context, Reject, State, StateMachine, Transaction};

/// A deterministic state machine: what its commands do to keyed values, and what can be asked of them.
///
/// Every node runs it over the same commands in the same order, and the nodes compare what came of it. So it may know nothing but the command, the
/// [`Call`] and the [`Store`]: no clock, no random number, no file, no order of a `HashMap`.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use standin::{Application, Call, Reject, Store, StoreView};
///
/// struct Bank;
///
/// #[derive(Serialize, Deserialize)]
/// struct Transfer { from: String, to: String, amount: u64 }
///
/// impl Application for Bank {
///     type Command = Transfer;
///     type Output = u64;
///     type Query = String;
///     type Answer = u64;
///
///     fn apply(&self, _: &Call<'_>, transfer: Transfer, store: &mut Store<'_, '_>) -> Result<u64, Reject> {
///         let held: u64 = store.get(&transfer.from)?.unwrap_or(100);
///         let left = held.checked_sub(transfer.amount).ok_or_else(|| Reject::new("insufficient funds"))?;
///         let held: u64 = store.get(&transfer.to)?.unwrap_or(100);
///         let received = held.checked_add(transfer.amount).ok_or_else(|| Reject::new("too much"))?;
///         store.put(&transfer.from, &left)?;
///         store.put(&transfer.to, &received)?;
///         Ok(left)
///     }
///
///     fn query(&self, store: &StoreView<'_>, account: String) -> Result<u64, Reject> {
///         Ok(store.get(&account)?.unwrap_or(100))
///     }
/// }
/// ```
pub trait Application: Send + Sync + 'static {
    /// What is submitted. It is ordered as JSON, so that clients in any language can make it.
    type Command: Serialize + DeserializeOwned + Send + 'static;
    /// What comes of a command; stands in its receipt.
    type Output: Serialize + DeserializeOwned + Send + 'static;
    /// What can be asked.
    type Query: Serialize + DeserializeOwned + Send + 'static;
    /// What is answered.
    type Answer: Serialize + DeserializeOwned + Send + 'static;

    /// The namespace of its transactions: those of one title can be proven to be complete.
    fn title(&self) -> &str {
        "app"
    }

    /// The newest version of its rules that this program knows. By which one a command is carried out the chain says ([`Call::context`]): as long as operators
    /// have not ordered the newest, `apply` goes on by the one that holds. So programs are replaced one by one, and the rules change for all at one block; a
    /// node whose program does not know them stops before it.
    fn version(&self) -> u32 {
        1
    }

    /// Refuses a command that can never take effect, before it is ordered. It must not depend on the state.
    fn check(&self, _command: &Self::Command) -> Result<(), Reject> {
        Ok(())
    }

    /// Carries a command out. `Err` means that nothing changes; its reason stands in the receipt.
    fn apply(&self, call: &Call<'_>, command: Self::Command, store: &mut Store<'_, '_>)
    -> Result<Self::Output, Reject>;

    /// Answers a question.
    fn query(&self, store: &StoreView<'_>, query: Self::Query) -> Result<Self::Answer, Reject>;
}

/// What an application may know besides the command and the store.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Height and time of the block, and the version of the rules that holds for it. The time is a proposer's word.
    pub context: &'a Context,
    /// Whoever signed the command.
    pub sender: &'a PublicKey,
}

/// The values, by key, while a command is carried out.
#[derive(Debug)]
pub struct Store<'a, 's>(&'a mut State<'s>);

impl Store<'_, '_> {
    /// The value that stands at a key; none if nothing does.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Reject> {
        self.0.get(key.as_bytes()).map(|bytes| parse(key, bytes)).transpose()
    }

    /// Puts a value in the place of what stands at a key.
    pub fn put<T: Serialize>(&mut self, key: &str, value: &T) -> Result<(), Reject> {
        if key.is_empty() || key.len() > STATE_KEY_BYTES_MAX {
            return Err(Reject::new(format!("a key has {} bytes: 1 to {STATE_KEY_BYTES_MAX} are allowed", key.len())));
        }
        let bytes = serde_json::to_vec(value).map_err(|error| Reject::new(format!("value of `{key}`: {error}")))?;
        self.0.put(key.as_bytes().to_vec(), bytes);
        Ok(())
    }

    /// Removes what stands at a key.
    pub fn delete(&mut self, key: &str) {
        self.0.delete(key.as_bytes().to_vec());
    }
}

/// The values, by key, after a block.
#[derive(Debug, Clone, Copy)]
pub struct StoreView<'a>(&'a Trie);

impl StoreView<'_> {
    /// The value that stands at a key; none if nothing does.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Reject> {
        self.0.get(key.as_bytes()).map(|bytes| parse(key, bytes)).transpose()
    }
}

fn parse<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, Reject> {
    serde_json::from_slice(bytes)
        .map_err(|error| Reject::new(format!("what stands at `{key}` is of another type: {error}")))
}

/// The payload that changes nothing: whoever waits for its place in the order has seen all that was ordered before.
pub(super) const BARRIER: &[u8] = b"";

/// An application, as the ledger knows state machines.
pub(super) struct Typed<S>(pub(super) S);

impl<S: Application> Typed<S> {
    /// Commands of another title would be missing where those of the application's are proven to be complete.
    fn check_title(&self, transaction: &Transaction) -> Result<(), Reject> {
        match transaction.title().as_str() == self.0.title() {
            true => Ok(()),
            false => {
                Err(Reject::new(format!("the title is `{}`, not the application's", transaction.title().as_str())))
            }
        }
    }

    fn command(transaction: &Transaction) -> Result<S::Command, Reject> {
        let payload = transaction.payload();
        if payload.len() > TRANSACTION_BYTES_MAX {
            return Err(Reject::new("the command is too large"));
        }
        serde_json::from_slice(payload).map_err(|error| Reject::new(format!("the command cannot be read: {error}")))
    }
}

impl<S: Application> StateMachine for Typed<S> {
    fn version(&self) -> u32 {
        self.0.version()
    }

    fn apply(&self, context: &Context, transaction: &Transaction, state: &mut State<'_>) -> Result<Vec<u8>, Reject> {
        if transaction.payload() == BARRIER {
            return Ok(Vec::new());
        }
        self.check_title(transaction)?;
        let sender = transaction.sender().ok_or_else(|| Reject::new("the sender's key is none"))?;
        let call = Call { context, sender: &sender };
        let output = self.0.apply(&call, Self::command(transaction)?, &mut Store(state))?;
        serde_json::to_vec(&output).map_err(|error| Reject::new(format!("output: {error}")))
    }

    fn query(&self, state: &Trie, query: &[u8]) -> Result<Vec<u8>, Reject> {
        let wrong = |error: serde_json::Error| Reject::new(format!("the question cannot be read: {error}"));
        let answer = self.0.query(&StoreView(state), serde_json::from_slice(query).map_err(wrong)?)?;
        serde_json::to_vec(&answer).map_err(|error| Reject::new(format!("answer: {error}")))
    }

    fn check(&self, transaction: &Transaction) -> Result<(), Reject> {
        match transaction.payload() {
            BARRIER => Ok(()),
            _ => {
                self.check_title(transaction)?;
                self.0.check(&Self::command(transaction)?)
            }
        }
    }
}
