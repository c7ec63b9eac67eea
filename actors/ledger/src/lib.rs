//! The ledger: what is ordered, what comes of it, and how anyone can check it.
//!
//! # From transaction to proof
//!
//! ```text
//! Transaction ─► Batch ─► BatchRef (namespaced Merkle root) ─► Proposal ─► Header ─► Block + CommitCertificate
//!                                                                              │
//!                    Receipt ─► receipts' root ─┐                              │ hash
//!                    State   ─► state root ─────┴──► CheckpointResult ─► CheckpointCertificate
//! ```
//!
//! - A [`Transaction`] carries a [`Title`], its namespace. Its id is SHA-256 of its canonical body.
//! - A [`Batch`] is what one seat pushes to all others. It is named by the root of a Merkle tree whose nodes know the
//!   smallest and the largest title below them, so that both inclusion and completeness can be proven.
//! - A [`Proposal`] is what the consensus votes on. It names batches, and not its parent (docs/decisions/0001).
//! - A [`Header`] adds the parent's hash and the derived time; [`Chain`] makes it when it executes the proposal.
//! - A [`CheckpointCertificate`] is 2f+1 seats' word for a header, a state root and the receipts' root of all blocks
//!   since the checkpoint before it.
//!
//! # Invariants
//!
//! - Execution is a function of genesis and the sequence of proposals with their batches; nothing else enters.
//! - A rejected transaction changes nothing but its receipt.
//! - A transaction id takes effect at most once: ids are remembered for as many heights as a transaction may live.
//!
//! The pure part builds without files and threads (`--no-default-features`); [`log`] and [`store`] are behind the
//! feature `store`.

pub mod approval;
pub mod backup;
pub mod batch;
pub mod block;
pub mod builtin;
pub mod certificate;
pub mod chain;
pub mod clients;
pub mod epoch;
pub mod error;
pub mod genesis;
pub mod grant;
#[cfg(feature = "store")]
pub mod grant_book;
pub mod history;
#[cfg(feature = "store")]
pub mod log;
#[cfg(feature = "store")]
pub mod member_book;
pub mod membership;
pub mod merkle;
pub mod namespaced;
pub mod receipt;
pub mod reconfiguration;
pub mod seat_log;
pub mod snapshot;
pub mod state;
pub mod state_machine;
#[cfg(feature = "store")]
pub mod store;
pub mod system;
pub mod transaction;
pub mod trie;

pub use approval::{Approval, Approved, Order};
pub use batch::{Batch, BatchRef};
pub use block::{Block, Header, Proposal};
pub use certificate::{
    Authority, CheckpointCertificate, CheckpointResult, CommitCertificate, SeatVote, Verdict, VoteKind, VoteTarget,
};
pub use chain::{Chain, ExecutedBlock};
pub use clients::{Admission, Client, ClientBook, ClientChange, ClientOrder, Clients, FirstClients, Role};
pub use epoch::{EpochProof, EpochStart, EpochTable, Epochs};
pub use error::LedgerError;
pub use genesis::{ClientSignatures, Genesis, MemberDescriptor, Operators, Parameters, SeatDescriptor};
pub use grant::{Grant, GrantTable, SignedGrant};
#[cfg(feature = "store")]
pub use grant_book::GrantBook;
pub use history::{Held, RecordedGrant};
#[cfg(feature = "store")]
pub use member_book::MemberBook;
pub use membership::{Member, Membership, SignedMembership};
pub use receipt::{Outcome, Receipt, ReceiptProof};
pub use reconfiguration::{ApprovedReconfiguration, Reconfiguration};
pub use state::State;
pub use state_machine::{Context, Reject, StateMachine};
pub use system::SystemTransaction;
pub use transaction::{Title, Transaction, TransactionId};
