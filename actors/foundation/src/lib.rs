//! What every part of Standin shares: identifiers, keys, canonical bytes, signing domains, limits and time.
//!
//! Nothing here knows Actix, a network, a file layout or a concept such as consensus. Two encodings live side by
//! side, on purpose:
//!
//! - [`canonical`]: explicit big-endian bytes, written field by field. Whatever is hashed or signed uses it, so that a
//!   serializer's change of mind can never change an identity.
//! - [`wire`]: the one door to `bincode`, for messages between nodes and records in files. It has a size limit, and
//!   refuses input that it did not consume to the end.
//!
//! A signature is always made over [`signing::signing_digest`], which begins with a [`signing::Domain`]: bytes signed
//! for one purpose never verify for another.

pub mod canonical;
pub mod digest;
pub mod ids;
pub mod keys;
pub mod limits;
pub mod position;
pub mod seats;
pub mod signing;
pub mod time;
pub mod wire;

mod fixed_bytes;

pub use canonical::{Canonical, Decoder, Encoder, MalformedBytes};
pub use digest::Digest;
pub use ids::{ChainId, ClusterId, Epoch, Height, Incarnation, InvalidId, NodeId, Seat, Term, View};
pub use keys::{KeyError, PublicKey, SecretKey};
pub use position::{Lsn, Writer};
pub use seats::Seats;
pub use signing::{Domain, Signature};
pub use time::Millis;
