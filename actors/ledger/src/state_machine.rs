//! What users write: a deterministic function from a transaction and the state to new state.

use std::sync::Arc;

use standin_foundation::Height;

use crate::clients::Role;
use crate::state::State;
use crate::transaction::Transaction;
use crate::trie::Trie;

/// What a state machine may know besides the transaction and the state. There is no clock but the block's.
#[derive(Debug, Clone, Copy)]
pub struct Context {
    /// Height of the block.
    pub height: Height,
    /// The block's time, in ms since the Unix epoch. Advisory: it is a proposer's word.
    pub time_ms: u64,
    /// The version of the rules by which the block is executed, at most [`StateMachine::version`].
    pub version: u32,
}

/// Why a transaction is refused. It stands in the receipt, so it must be deterministic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Reject(pub String);

impl Reject {
    /// A refusal with this reason.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// A deterministic state machine. Snapshots, undo, the state root and proofs come with [`State`]; a state machine has
/// no state of its own.
///
/// ```
/// use standin_ledger::{Context, Reject, State, StateMachine, Transaction};
///
/// /// Counts how often each payload was seen.
/// struct Tally;
///
/// impl StateMachine for Tally {
///     fn apply(&self, _: &Context, tx: &Transaction, state: &mut State<'_>) -> Result<Vec<u8>, Reject> {
///         let key = tx.payload().to_vec();
///         let seen = state.get(&key).map_or(0, |value| value.len());
///         state.put(key, vec![b'|'; seen + 1]);
///         Ok(Vec::new())
///     }
///     fn query(&self, state: &standin_ledger::trie::Trie, query: &[u8]) -> Result<Vec<u8>, Reject> {
///         Ok(state.get(query).map(|value| value.to_vec()).unwrap_or_default())
///     }
/// }
/// ```
pub trait StateMachine: Send + Sync + 'static {
    /// Applies a verified transaction. `Err` means that nothing changes but the receipt.
    fn apply(&self, context: &Context, transaction: &Transaction, state: &mut State<'_>) -> Result<Vec<u8>, Reject>;

    /// Answers a question about a state.
    fn query(&self, state: &Trie, query: &[u8]) -> Result<Vec<u8>, Reject>;

    /// The newest version of its rules that this program knows. Which one holds, the chain says ([`Context::version`]): a program that knows a
    /// newer one goes on by the old one until operators order the new, and one that does not know what they order stops before it. So nodes
    /// are upgraded one by one, and never differ.
    fn version(&self) -> u32 {
        1
    }

    /// The role that a listed client needs for a transaction; none if it is not for clients, and the machine itself says who may.
    fn role(&self, _transaction: &Transaction) -> Option<Role> {
        Some(Role::Submit)
    }

    /// Refuses a transaction that can never be applied, before it is ordered. It must not depend on the state.
    fn check(&self, _transaction: &Transaction) -> Result<(), Reject> {
        Ok(())
    }
}

impl<M: StateMachine + ?Sized> StateMachine for Arc<M> {
    fn apply(&self, context: &Context, transaction: &Transaction, state: &mut State<'_>) -> Result<Vec<u8>, Reject> {
        (**self).apply(context, transaction, state)
    }

    fn query(&self, state: &Trie, query: &[u8]) -> Result<Vec<u8>, Reject> {
        (**self).query(state, query)
    }

    fn version(&self) -> u32 {
        (**self).version()
    }

    fn role(&self, transaction: &Transaction) -> Option<Role> {
        (**self).role(transaction)
    }

    fn check(&self, transaction: &Transaction) -> Result<(), Reject> {
        (**self).check(transaction)
    }
}
