//! The limits table: every bound that the outside world can run into, in one place.
//!
//! Where an operator may need another value, the configuration has a key whose default is the constant here.

/// Largest frame on a bridge connection, in bytes, header included.
pub const FRAME_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest frame before a peer has proven who it is, in bytes.
pub const HELLO_BYTES_MAX: usize = 2 * 1024;
/// Time that a new connection has to prove who it is, in ms.
pub const HELLO_TIMEOUT_MS: u64 = 5_000;
/// Connections that may be proving who they are at one time.
pub const HELLOS_PENDING_MAX: usize = 256;
/// Largest canonical transaction, in bytes, signature included.
pub const TRANSACTION_BYTES_MAX: usize = 64 * 1024;
/// Largest title (namespace) of a transaction, in bytes.
pub const TITLE_BYTES_MAX: usize = 32;
/// Transactions in one batch.
pub const BATCH_TRANSACTIONS_MAX: usize = 4_096;
/// Bytes in one batch.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Batches in one proposal.
pub const PROPOSAL_BATCHES_MAX: usize = 32;
/// Bytes of transactions in one proposal.
pub const PROPOSAL_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Seats of one chain.
pub const SEATS_MAX: usize = 64;
/// Largest key of the built-in key-value state, in bytes.
pub const STATE_KEY_BYTES_MAX: usize = 1_024;
/// Largest entry of a state, key and value, in bytes: a chunk of a snapshot holds it.
pub const STATE_ENTRY_BYTES_MAX: usize = 256 * 1024;
/// Largest output of a transaction, in bytes.
pub const OUTPUT_BYTES_MAX: usize = 256 * 1024;
/// Bytes of all outputs of a block.
pub const BLOCK_OUTPUT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest reason of a rejection, in bytes: what is longer is cut.
pub const REASON_BYTES_MAX: usize = 256;
/// Largest record of the durable log, in bytes.
pub const LOG_RECORD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Largest chunk of a snapshot, in bytes.
pub const SNAPSHOT_CHUNK_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Largest body of an HTTP request, in bytes.
pub const HTTP_BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Largest request of a query, in bytes.
pub const QUERY_BYTES_MAX: usize = 4 * 1024;
