//! A node's public descriptor: all that leaves its host before a chain begins. It is signed with the node's key, so that whoever builds the genesis
//! cannot mistake one.

use serde::{Deserialize, Serialize};
use standin_foundation::{Canonical, ClusterId, Domain, Encoder, PublicKey, SecretKey, Signature};

use super::NodeRole;

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Descriptor {
    /// What it is.
    pub role: NodeRole,
    /// Its name.
    pub name: String,
    /// Its key.
    pub key: PublicKey,
    /// A member's cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterId>,
    /// Where it stands: what is lost together has the same name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub site: String,
    /// A member's priority: the higher, the earlier it is elected.
    #[serde(default)]
    pub priority: u8,
    /// Where its bridge can be reached: host and port.
    pub address: String,
    /// An auth node's key for grants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grants: Option<PublicKey>,
    /// The node's signature under all of it.
    #[serde(default = "unsigned")]
    pub signature: Signature,
}

fn unsigned() -> Signature {
    Signature::NONE
}

/// Why a descriptor cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DescriptorError {
    /// It is none.
    #[error("no descriptor: {0}")]
    Malformed(String),
    /// It was changed since its node made it, or is another node's.
    #[error("the descriptor of `{0}` is not signed by its key: take the file as `standin init --role` wrote it")]
    BadSignature(String),
    /// Something is missing that its role needs.
    #[error("the descriptor of `{name}`: {what}")]
    Incomplete {
        /// The node's name.
        name: String,
        /// What is missing.
        what: &'static str,
    },
}

impl Canonical for Descriptor {
    fn encode(&self, out: &mut Encoder) {
        let cluster = self.cluster.as_ref().map_or("", ClusterId::as_str);
        out.u8(self.role as u8).bytes(self.name.as_bytes()).raw(self.key.as_bytes()).bytes(cluster.as_bytes());
        out.bytes(self.site.as_bytes()).u8(self.priority).bytes(self.address.as_bytes());
        out.length(usize::from(self.grants.is_some()));
        if let Some(grants) = &self.grants {
            out.raw(grants.as_bytes());
        }
    }
}

impl Descriptor {
    /// Signs it with the node's key.
    #[must_use]
    pub fn signed(self, key: &SecretKey) -> Self {
        let signature = key.sign(Domain::Descriptor, &self.canonical_bytes());
        Self { signature, ..self }
    }

    /// Reads and checks a file's text.
    pub fn parse(text: &str) -> Result<Self, DescriptorError> {
        let read: Self = toml::from_str(text).map_err(|error| DescriptorError::Malformed(error.to_string()))?;
        if !read.key.verify(Domain::Descriptor, &read.canonical_bytes(), &read.signature) {
            return Err(DescriptorError::BadSignature(read.name));
        }
        let lacks = match read.role {
            NodeRole::Member if read.cluster.is_none() => Some("a member needs its cluster"),
            NodeRole::Auth if read.grants.is_none() => Some("an auth node needs its key for grants"),
            _ if !super::peers::is_address(&read.address) => Some("host and port of its bridge are needed"),
            _ => None,
        };
        match lacks {
            Some(what) => Err(DescriptorError::Incomplete { name: read.name, what }),
            None => Ok(read),
        }
    }

    /// As a file.
    pub fn to_toml(&self) -> String {
        let text = toml::to_string(self).unwrap_or_default();
        format!("# What others need to know of this node before the chain begins. Nothing in it is secret.\n{text}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor() -> (Descriptor, SecretKey) {
        let key = SecretKey::from_bytes(&[7; 32]).unwrap();
        let descriptor = Descriptor {
            role: NodeRole::Member,
            name: "a1".to_owned(),
            key: key.public(),
            cluster: Some("a".parse().unwrap()),
            site: "fra".to_owned(),
            priority: 2,
            address: "a1.bank-a.example:7001".to_owned(),
            grants: None,
            signature: Signature::NONE,
        };
        (descriptor, key)
    }

    #[test]
    fn a_descriptor_reads_back_and_nothing_in_it_can_be_changed() {
        let (unsigned, key) = descriptor();
        let signed = unsigned.signed(&key);
        let text = signed.to_toml();
        assert_eq!(Descriptor::parse(&text).unwrap(), signed);
        for (from, to) in [("fra", "ber"), ("= 2", "= 3"), ("bank-a", "bank-b"), ("\"a\"", "\"b\""), ("member", "auth")]
        {
            let error = Descriptor::parse(&text.replacen(from, to, 1)).unwrap_err();
            assert_eq!(error, DescriptorError::BadSignature("a1".to_owned()), "{from}");
        }
        assert!(matches!(Descriptor::parse("[node]"), Err(DescriptorError::Malformed(_))));
    }

    #[test]
    fn what_its_role_needs_must_be_there() {
        let (sound, key) = descriptor();
        let lacks = |changed: Descriptor| match Descriptor::parse(&changed.signed(&key).to_toml()) {
            Err(DescriptorError::Incomplete { what, .. }) => what,
            other => panic!("{other:?}"),
        };
        assert!(lacks(Descriptor { cluster: None, ..sound.clone() }).contains("its cluster"));
        assert!(lacks(Descriptor { role: NodeRole::Auth, ..sound.clone() }).contains("key for grants"));
        assert!(lacks(Descriptor { address: "somewhere".to_owned(), ..sound }).contains("host and port"));
    }
}
