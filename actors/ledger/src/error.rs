//! What can be wrong with a transaction, a batch, a proof or a certificate.

use standin_foundation::wire::WireError;
use standin_foundation::{ClusterId, Digest, Epoch, Height, MalformedBytes, Seat, Term};

/// A value of the ledger that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The bytes are no canonical encoding.
    #[error("{what}: {source}")]
    Malformed {
        /// What was to be read.
        what: &'static str,
        /// Where and why it failed.
        source: MalformedBytes,
    },
    /// Over a limit.
    #[error("{what} has {found}, the limit is {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        found: usize,
        /// The largest size allowed.
        limit: usize,
    },
    /// It has no encoding within its limit.
    #[error(transparent)]
    Unencodable(#[from] WireError),
    /// The signature does not belong to the content and the key.
    #[error("{what}: the signature is not valid")]
    BadSignature {
        /// What was signed.
        what: &'static str,
    },
    /// A title that is no title.
    #[error("title `{found}` is not valid: 1 to 32 characters of a-z, 0-9, `-`, `_`, `.`")]
    BadTitle {
        /// What stood there.
        found: String,
    },
    /// A certificate with too few votes.
    #[error("a certificate holds valid votes of {found} seats, {needed} are needed")]
    NoQuorum {
        /// Distinct seats with a valid vote.
        found: usize,
        /// The quorum.
        needed: usize,
    },
    /// A certificate names a seat twice, or one that does not exist.
    #[error("a certificate names seat {0} twice, or the seat does not exist")]
    BadSeat(Seat),
    /// A vote of a term whose grant is not known here: it may hold, once the grant has been fetched.
    #[error("the grant of seat {seat} for term {term} is not known here")]
    UnknownGrant {
        /// The seat.
        seat: Seat,
        /// The term.
        term: Term,
    },
    /// Of an epoch that is not known here: it may hold, once the proof of the epoch has been fetched.
    #[error("epoch {0} is not known here")]
    UnknownEpoch(Epoch),
    /// A certificate of an epoch to which its block does not belong.
    #[error("a certificate of epoch {found} for block {height}, which belongs to epoch {expected}")]
    WrongEpoch {
        /// The block.
        height: Height,
        /// The certificate's epoch.
        found: Epoch,
        /// The block's.
        expected: Epoch,
    },
    /// A grant that cannot stand.
    #[error("grant of cluster {cluster} for term {term}: {what}")]
    BadGrant {
        /// The cluster.
        cluster: ClusterId,
        /// The term.
        term: Term,
        /// What is wrong.
        what: &'static str,
    },
    /// A membership that cannot stand.
    #[error("members of cluster {cluster}, version {version}: {what}")]
    BadMembership {
        /// The cluster.
        cluster: ClusterId,
        /// The version of the list.
        version: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// A proof leads to another root.
    #[error("{what}: the proof does not lead to the root {root}")]
    BadProof {
        /// What was to be proven.
        what: &'static str,
        /// The root that it should lead to.
        root: Digest,
    },
    /// A proposal that cannot follow.
    #[error("proposal for height {found} cannot follow block {head}")]
    NotNext {
        /// The head of the chain.
        head: Height,
        /// The proposal's height.
        found: Height,
    },
    /// Other payloads than those that the proposal names.
    #[error("the payload of batch {index} of block {height} is missing or is another one")]
    WrongPayload {
        /// Height of the block.
        height: Height,
        /// Place of the batch in the block.
        index: usize,
    },
    /// The chain has ordered rules that this program does not know.
    #[error(
        "block {height} is executed by version {needed} of the state machine, this program knows versions up to {known}: install a newer \
         one and start again; nothing is lost"
    )]
    ProgramTooOld {
        /// Height of the block.
        height: Height,
        /// The version that operators have ordered.
        needed: u32,
        /// The newest that the program knows.
        known: u32,
    },
    /// A genesis that cannot be used.
    #[error("genesis: {0}")]
    BadGenesis(String),
}
