//! Who belongs to a cluster: the auth node's word, on top of what the genesis says.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use standin_foundation::wire::Wire;
use standin_foundation::{ClusterId, Digest, Domain, Encoder, Epoch, NodeId, PublicKey, SecretKey, Signature};

use crate::epoch::EpochSeat;
use crate::error::LedgerError;
use crate::genesis::MemberDescriptor;
use crate::grant::MEMBERS_MAX;

/// Bytes of a site's name or of an address.
pub const NAME_BYTES_MAX: usize = 255;

/// A member of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The node's key.
    pub key: PublicKey,
    /// The higher, the earlier it is elected; ties go by node id.
    pub priority: u8,
    /// Where it stands: what is lost together has the same name.
    pub site: String,
    /// Where its bridge can be reached: host and port. Empty for a member of the genesis, whose address each configuration has.
    pub address: String,
}

/// A member of which nothing but its key is known.
impl From<PublicKey> for Member {
    fn from(key: PublicKey) -> Self {
        Self { key, priority: 0, site: String::new(), address: String::new() }
    }
}

impl Member {
    /// A member of the genesis.
    pub fn of_genesis(descriptor: &MemberDescriptor) -> Self {
        let MemberDescriptor { key, priority, site } = descriptor.clone();
        Self { key, priority, site, address: String::new() }
    }

    /// As [`Member::check`], of one that may be reached where each configuration says.
    pub fn check_place(&self) -> Result<(), &'static str> {
        match self.address.is_empty() {
            true => Self { address: "configured:1".to_owned(), ..self.clone() }.check(),
            false => self.check(),
        }
    }

    /// Whether site and address are such as can be.
    pub fn check(&self) -> Result<(), &'static str> {
        let has_port = |address: &str| address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        if self.site.trim().is_empty() || self.site.len() > NAME_BYTES_MAX {
            return Err("a member needs the name of its site, of at most 255 bytes");
        }
        if self.address.len() > NAME_BYTES_MAX || !has_port(&self.address) {
            return Err("a member needs host and port of its bridge, such as bank-a.example:7001");
        }
        Ok(())
    }
}

/// The members of a cluster. A list with a higher version stands in the place of those before; that of the genesis, or of the order
/// that gave the cluster its seat, has version 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The chain.
    pub chain: Digest,
    /// The cluster.
    pub cluster: ClusterId,
    /// The epoch from which on the list of version 0 holds: versions are counted anew when the chain orders a list.
    pub listed: Epoch,
    /// Rises with each change.
    pub version: u64,
    /// The members, by id.
    pub members: BTreeMap<NodeId, Member>,
}

impl Membership {
    /// What the genesis says, or the chain has ordered.
    pub fn of_seat(chain: Digest, seat: &EpochSeat) -> Self {
        let members = seat.members.iter().map(|member| (member.key.node_id(), member.clone())).collect();
        Self { chain, cluster: seat.cluster.clone(), listed: seat.listed, version: 0, members }
    }

    /// Of two lists of a cluster the one that is higher here stands.
    pub fn order(&self) -> (Epoch, u64) {
        (self.listed, self.version)
    }

    fn canonical_bytes(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.digest(&self.chain).bytes(self.cluster.as_str().as_bytes()).u64(self.listed.0).u64(self.version);
        out.length(self.members.len());
        for member in self.members.values() {
            out.raw(member.key.as_bytes()).u8(member.priority);
            out.bytes(member.site.as_bytes()).bytes(member.address.as_bytes());
        }
        out.into_bytes()
    }

    /// Signs it with the key that signs grants.
    pub fn sign(self, key: &SecretKey) -> SignedMembership {
        let signature = key.sign(Domain::Membership, &self.canonical_bytes());
        SignedMembership { membership: self, signature }
    }
}

/// A membership with the auth node's signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedMembership {
    /// The membership.
    pub membership: Membership,
    /// The auth node's signature.
    pub signature: Signature,
}

impl Wire for SignedMembership {
    const NAME: &'static str = "membership";
    const BYTES_MAX: usize = 512 + (MEMBERS_MAX + 1) * (2 * NAME_BYTES_MAX + 128);
}

impl SignedMembership {
    /// Whether it holds by itself.
    pub fn verify(&self, chain: &Digest, auth: &PublicKey) -> Result<(), LedgerError> {
        let Membership { cluster, version, members, .. } = &self.membership;
        let bad = |what| Err(LedgerError::BadMembership { cluster: cluster.clone(), version: *version, what });
        if self.membership.chain != *chain {
            return bad("it is of another chain");
        }
        let are_named = members.iter().all(|(node, member)| member.key.node_id() == *node);
        if members.is_empty() || members.len() > MEMBERS_MAX || !are_named {
            return bad("it contradicts itself");
        }
        if !auth.verify(Domain::Membership, &self.membership.canonical_bytes(), &self.signature) {
            return bad("the auth node's signature is not valid");
        }
        Ok(())
    }
}
