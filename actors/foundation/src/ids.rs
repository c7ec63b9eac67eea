//! Identifiers and counters, each a type of its own so that none is taken for another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::digest::Digest;
use crate::fixed_bytes::fixed_bytes;
use crate::keys::PublicKey;

/// A text or a byte string that is not the identifier it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{found}` is not valid: expected {expected}")]
pub struct InvalidId {
    /// What was to be read.
    pub what: &'static str,
    /// What stood there, cut to a printable length.
    pub found: String,
    /// What is allowed.
    pub expected: String,
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The next value; stays at the maximum instead of wrapping.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter!(
    /// Height of a block: genesis is 0. It is also the sequence number of the consensus slot that made the block.
    Height(u64)
);
counter!(
    /// View of the consensus: says which seat is primary.
    View(u64)
);
counter!(
    /// Number of a seat's current grant: rises at every change of holder or in-sync set.
    Term(u64)
);
counter!(
    /// A life of a node or of a register: rises at every start, or whenever what came before may be forgotten.
    Incarnation(u64)
);
counter!(
    /// Number of the configuration of seats: rises at every reconfiguration that the chain orders.
    Epoch(u64)
);
counter!(
    /// A replica's place in the consensus, from 0.
    Seat(u16)
);

impl Height {
    /// The height before this one; genesis has none and stays.
    #[must_use]
    pub fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// This height moved up by `count` blocks.
    #[must_use]
    pub fn plus(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }
}

/// Terms of a cluster in one lineage: more than an auth node can grant in a year of a grant in each 30 ms.
const TERMS_PER_LINEAGE: u64 = 1_000_000_000;

impl Term {
    /// The term in which a cluster begins that the chain has named in this epoch: above every term of the epochs before. In epoch 0
    /// it is zero, and nobody speaks in it: the first grant is for term 1.
    pub fn first_of(lineage: Epoch) -> Self {
        Self(lineage.0.saturating_mul(TERMS_PER_LINEAGE))
    }

    /// The epoch in which the cluster's line of grants began that this term belongs to: a seat has one log in each lineage.
    pub fn lineage(self) -> Epoch {
        Epoch(self.0 / TERMS_PER_LINEAGE)
    }
}

/// Lives that a register may begin under one auth key: beyond them it counts into those of a later key.
const LIVES_PER_ISSUER: u64 = 256;

impl Incarnation {
    /// The first life of the register of an auth node whose key signs grants from this epoch on: above every life of the registers of
    /// the keys before.
    pub fn first_of(issuer: Epoch) -> Self {
        Self(issuer.0.saturating_mul(LIVES_PER_ISSUER).saturating_add(1))
    }
}

impl Seat {
    /// The seat as an index into a table of seats.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        ///
        /// 1 to 48 characters: lower-case letters, digits, `-`, `_` and `.`, beginning with a letter or a digit.
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
                let first_fits = text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
                if text.len() <= 48 && first_fits && text.chars().all(allowed) {
                    return Ok(Self(text.to_owned()));
                }
                Err(InvalidId {
                    what: $what,
                    found: text.chars().take(80).collect(),
                    expected: "1 to 48 characters of a-z, 0-9, `-`, `_`, `.`, beginning with a letter or digit"
                        .to_owned(),
                })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

name!(
    /// Name of a chain. A chain whose name begins with `drill-` allows misbehaving nodes; one whose name begins with
    /// `test-` or `drill-` may switch off the check of client signatures.
    ChainId,
    "chain id"
);
name!(
    /// Name of a cluster: the nodes that together hold one seat.
    ClusterId,
    "cluster id"
);

impl ChainId {
    /// Whether nodes may be told to misbehave on this chain.
    pub fn is_drill(&self) -> bool {
        self.0.starts_with("drill-")
    }

    /// Whether this chain is marked as a test chain.
    pub fn is_test(&self) -> bool {
        self.is_drill() || self.0.starts_with("test-")
    }
}

/// A node's identity: SHA-256 of its compressed public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId([u8; 32]);

fixed_bytes!(NodeId, 32, "node id");

impl NodeId {
    /// The id of the node that holds `key`.
    pub fn of(key: &PublicKey) -> Self {
        Self(Digest::sha256_of(&[b"standin/v1/node-id", key.as_bytes()]).0)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first eight hexadecimal digits, for logs.
    pub fn short(&self) -> String {
        Digest(self.0).short()
    }

    fn try_from_bytes(bytes: [u8; 32]) -> Result<Self, InvalidId> {
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_and_the_error_says_what_is_allowed() {
        assert!("four-seats".parse::<ChainId>().is_ok());
        for bad in ["", "Upper", "-dash-first", "space inside", &"x".repeat(49)] {
            let error = bad.parse::<ChainId>().unwrap_err();
            assert!(error.to_string().contains("1 to 48 characters"), "{error}");
        }
    }

    #[test]
    fn only_marked_chains_allow_tests_and_drills() {
        let flags = |name: &str| {
            let id: ChainId = name.parse().unwrap();
            (id.is_test(), id.is_drill())
        };
        assert_eq!(flags("payments"), (false, false));
        assert_eq!(flags("test-bench"), (true, false));
        assert_eq!(flags("drill-four-seats"), (true, true));
    }

    #[test]
    fn digests_read_back_from_hex_and_refuse_other_lengths() {
        let digest = Digest::sha256(b"x");
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        assert!("abcd".parse::<Digest>().unwrap_err().to_string().contains("64 hexadecimal digits"));
    }
}
