//! Signatures, and the domains that keep them apart.

use sha2::{Digest as _, Sha256};

use crate::digest::Digest;
use crate::fixed_bytes::fixed_bytes;
use crate::ids::InvalidId;

/// What a signature is for. Its text is hashed in front of everything that is signed, so that bytes signed for one
/// purpose never verify for another. A text is never reused with another meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Domain {
    /// A client's transaction.
    Transaction,
    /// A seat's consensus message.
    Consensus,
    /// The auth node's grant of a seat.
    Grant,
    /// What one node of a cluster states to the auth node about another, or about itself.
    Statement,
    /// An auth node's word for how often its register has changed.
    RegisterCount,
    /// An auth node's word for who belongs to a cluster.
    Membership,
    /// An operator's approval of an order about the members of a cluster.
    Order,
    /// An operator's approval of a reconfiguration.
    Reconfiguration,
    /// An operator's approval of an order about clients.
    ClientOrder,
    /// An operator's approval of an order about topics.
    TopicOrder,
    /// A member's word that a lock was granted.
    Takeover,
    /// A client's request to a node for what is in the chain.
    Read,
    /// A node's public descriptor.
    Descriptor,
    /// An operator's order to a node, to be carried out there.
    Action,
    /// A node's hello on a new connection, from the side that dialled.
    HelloDialler,
    /// A node's hello on a new connection, from the side that accepted.
    HelloAcceptor,
}

impl Domain {
    fn text(self) -> &'static [u8] {
        match self {
            Self::Transaction => b"standin/v1/transaction",
            Self::Consensus => b"standin/v1/consensus",
            Self::Grant => b"standin/v1/grant",
            Self::Statement => b"standin/v1/statement",
            Self::RegisterCount => b"standin/v1/register-count",
            Self::Membership => b"standin/v1/membership",
            Self::Order => b"standin/v1/order",
            Self::Reconfiguration => b"standin/v1/reconfiguration",
            Self::ClientOrder => b"standin/v1/client-order",
            Self::TopicOrder => b"standin/v1/topic-order",
            Self::Takeover => b"standin/v1/takeover",
            Self::Read => b"standin/v1/read",
            Self::Descriptor => b"standin/v1/descriptor",
            Self::Action => b"standin/v1/action",
            Self::HelloDialler => b"standin/v1/hello/dialler",
            Self::HelloAcceptor => b"standin/v1/hello/acceptor",
        }
    }
}

/// The digest that is signed: SHA-256 of the domain's length and text, then the content.
pub fn signing_digest(domain: Domain, content: &[u8]) -> Digest {
    let text = domain.text();
    let mut hasher = Sha256::new();
    hasher.update([text.len() as u8]);
    hasher.update(text);
    hasher.update(content);
    Digest(hasher.finalize().into())
}

/// A compact ECDSA signature over secp256k1: 64 bytes, low S.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature(pub [u8; 64]);

fixed_bytes!(Signature, 64, "signature");

impl Signature {
    /// The place of a signature that has not been made, such as on chains without client signatures.
    pub const NONE: Self = Self([0; 64]);

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }

    fn try_from_bytes(bytes: [u8; 64]) -> Result<Self, InvalidId> {
        Ok(Self(bytes))
    }
}
