//! A 32-byte digest, and SHA-256 as the default way to make one.

use sha2::{Digest as _, Sha256};

use crate::fixed_bytes::fixed_bytes;
use crate::ids::InvalidId;

/// A 32-byte hash value. Which function made it is fixed by the place where it stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest(pub [u8; 32]);

fixed_bytes!(Digest, 32, "digest");

impl Digest {
    /// Thirty-two zero bytes: "no digest", such as the parent of the genesis block.
    pub const ZERO: Self = Self([0; 32]);

    /// SHA-256 of `bytes`.
    pub fn sha256(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// SHA-256 over several pieces, as if they were one.
    pub fn sha256_of(pieces: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new();
        for piece in pieces {
            hasher.update(piece);
        }
        Self(hasher.finalize().into())
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first eight hexadecimal digits, for logs.
    pub fn short(&self) -> String {
        let [a, b, c, d, ..] = self.0;
        hex::encode([a, b, c, d])
    }

    fn try_from_bytes(bytes: [u8; 32]) -> Result<Self, InvalidId> {
        Ok(Self(bytes))
    }
}
