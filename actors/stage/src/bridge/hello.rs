//! The hello: both sides say who they are, and prove it for this very session.
//!
//! Each side sends its hello, then a signature over (session binding, own hello, the other's hello) in the domain of its
//! side. Nonces of both, ids of both and the binding stand in what is signed: nothing can be replayed, reflected or relayed.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use standin_foundation::limits::HELLO_BYTES_MAX;
use standin_foundation::{Decoder, Digest, Domain, Encoder, MalformedBytes, NodeId, PublicKey, SecretKey, Signature};

use super::frame::PROTOCOL_VERSION;
use super::pipe::Pipe;

/// Which side of a connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// It opened the connection.
    Dialler,
    /// It accepted the connection.
    Acceptor,
}

impl Side {
    fn domain(self) -> Domain {
        match self {
            Self::Dialler => Domain::HelloDialler,
            Self::Acceptor => Domain::HelloAcceptor,
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Dialler => Self::Acceptor,
            Self::Acceptor => Self::Dialler,
        }
    }
}

/// Why a connection is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HelloError {
    /// It ended, or took too long.
    #[error("the connection ended before the hello was done")]
    Ended,
    /// The bytes are no hello.
    #[error("not a hello: {0}")]
    Malformed(#[from] MalformedBytes),
    /// Larger than a hello can be.
    #[error("a hello of {0} bytes is over the limit of {HELLO_BYTES_MAX}")]
    TooLarge(usize),
    /// Another protocol version.
    #[error("the peer speaks protocol version {found}, this node speaks {PROTOCOL_VERSION}: upgrade the older one")]
    Version {
        /// The peer's.
        found: u8,
    },
    /// Another chain.
    #[error("the peer belongs to another chain (genesis {found}, this node has {ours})")]
    AnotherChain {
        /// The peer's genesis digest.
        found: Digest,
        /// Ours.
        ours: Digest,
    },
    /// Its key is not on the admission list.
    #[error("node {0} is not admitted: add its public key to the peers, if it belongs to the chain")]
    NotAdmitted(NodeId),
    /// Somebody else was expected.
    #[error("node {found} answered, {expected} was dialled: check the address")]
    WrongNode {
        /// Who answered.
        found: NodeId,
        /// Who was expected.
        expected: NodeId,
    },
    /// The proof does not hold.
    #[error("node {0} did not prove its key for this session")]
    BadProof(NodeId),
    /// Too many others were proving who they are.
    #[error("newer connections took its place before the hello was done")]
    Evicted,
    /// No random bytes for the nonce.
    #[error("the system gave no random bytes")]
    Random,
}

/// What a node needs for its hellos.
#[derive(Debug)]
pub struct Credentials {
    /// The node's key.
    pub key: SecretKey,
    /// The chain's genesis digest.
    pub chain: Digest,
    /// Who is admitted.
    pub admitted: Admitted,
}

/// The nodes that are admitted, shared and changed while the bridge runs. An id is its key's hash: it stands for the key.
#[derive(Debug, Clone, Default)]
pub struct Admitted(Arc<RwLock<BTreeSet<NodeId>>>);

impl FromIterator<NodeId> for Admitted {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        Self(Arc::new(RwLock::new(nodes.into_iter().collect())))
    }
}

impl Admitted {
    fn contains(&self, node: &NodeId) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(node)
    }

    pub(super) fn insert(&self, node: NodeId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(node);
    }

    pub(super) fn remove(&self, node: &NodeId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(node);
    }
}

/// One side's hello.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hello {
    version: u8,
    chain: Digest,
    key: PublicKey,
    nonce: [u8; 32],
}

impl Hello {
    fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.raw(b"standin").u8(self.version).digest(&self.chain).raw(self.key.as_bytes()).raw(&self.nonce);
        out.into_bytes()
    }

    fn decode(bytes: &[u8]) -> Result<Self, HelloError> {
        if bytes.len() > HELLO_BYTES_MAX {
            return Err(HelloError::TooLarge(bytes.len()));
        }
        let mut input = Decoder::new(bytes);
        if input.raw(7)? != b"standin" {
            return Err(MalformedBytes { offset: 0, what: "does not begin as a hello" }.into());
        }
        // The version comes first: what follows may differ in another one.
        let version = input.u8()?;
        if version != PROTOCOL_VERSION {
            return Err(HelloError::Version { found: version });
        }
        let chain = input.digest()?;
        let key = PublicKey::try_from_bytes(input.array()?).map_err(|_| input.fault("not a public key"))?;
        let nonce = input.array()?;
        input.finish()?;
        Ok(Self { version, chain, key, nonce })
    }
}

impl Credentials {
    /// Says hello on a new connection; gives the peer's id. `binding` is the keying material exported from the TLS session.
    pub async fn greet(
        &self,
        pipe: &mut Pipe,
        side: Side,
        binding: &[u8],
        expected: Option<NodeId>,
    ) -> Result<NodeId, HelloError> {
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce).map_err(|_| HelloError::Random)?;
        let own = Hello { version: PROTOCOL_VERSION, chain: self.chain, key: self.key.public(), nonce }.encode();
        pipe.send(own.clone().into()).await.ok_or(HelloError::Ended)?;
        let theirs = pipe.receive().await.ok_or(HelloError::Ended)?;
        let peer = self.judge(&theirs, expected)?;
        let proof = self.key.sign(side.domain(), &transcript(binding, &own, &theirs));
        pipe.send(Bytes::copy_from_slice(proof.as_bytes())).await.ok_or(HelloError::Ended)?;
        let proof = pipe.receive().await.ok_or(HelloError::Ended)?;
        let id = peer.node_id();
        let signature = proof.as_ref().try_into().map(Signature).map_err(|_| HelloError::BadProof(id))?;
        if peer.verify(side.other().domain(), &transcript(binding, &theirs, &own), &signature) {
            Ok(id)
        } else {
            Err(HelloError::BadProof(id))
        }
    }

    fn judge(&self, bytes: &[u8], expected: Option<NodeId>) -> Result<PublicKey, HelloError> {
        let hello = Hello::decode(bytes)?;
        if hello.chain != self.chain {
            return Err(HelloError::AnotherChain { found: hello.chain, ours: self.chain });
        }
        let id = hello.key.node_id();
        if let Some(expected) = expected.filter(|expected| *expected != id) {
            return Err(HelloError::WrongNode { found: id, expected });
        }
        if !self.admitted.contains(&id) {
            return Err(HelloError::NotAdmitted(id));
        }
        Ok(hello.key)
    }
}

fn transcript(binding: &[u8], signer: &[u8], other: &[u8]) -> Vec<u8> {
    let mut out = Encoder::default();
    out.bytes(binding).bytes(signer).bytes(other);
    out.into_bytes()
}

#[cfg(test)]
mod tests {
    use futures_util::future::join;

    use super::*;

    fn credentials(seed: u8, admitted: &[u8], chain: &[u8]) -> Credentials {
        let key = |seed| SecretKey::from_bytes(&[seed; 32]).unwrap();
        let admitted = admitted.iter().map(|seed| key(*seed).public().node_id()).collect();
        Credentials { key: key(seed), chain: Digest::sha256(chain), admitted }
    }

    async fn meet(
        dialler: &Credentials,
        acceptor: &Credentials,
        bindings: [&[u8]; 2],
    ) -> (Result<NodeId, HelloError>, Result<NodeId, HelloError>) {
        let (mut left, mut right) = Pipe::pair(4);
        let dial = async move {
            let expected = acceptor.key.public().node_id();
            let met = dialler.greet(&mut left, Side::Dialler, bindings[0], Some(expected)).await;
            (met, left)
        };
        let accept = async move {
            let met = acceptor.greet(&mut right, Side::Acceptor, bindings[1], None).await;
            // A refusal closes the connection.
            if met.is_err() {
                drop(right);
                return (met, None);
            }
            (met, Some(right))
        };
        let ((dialled, _), (accepted, _)) = join(dial, accept).await;
        (dialled, accepted)
    }

    #[actix::test]
    async fn admitted_nodes_of_one_chain_meet() {
        let (a, b) = (credentials(1, &[2], b"c"), credentials(2, &[1], b"c"));
        let (dialled, accepted) = meet(&a, &b, [b"session", b"session"]).await;
        assert_eq!(dialled.unwrap(), b.key.public().node_id());
        assert_eq!(accepted.unwrap(), a.key.public().node_id());
    }

    #[actix::test]
    async fn strangers_other_chains_and_relayed_sessions_are_refused() {
        let (a, b) = (credentials(1, &[2], b"c"), credentials(2, &[3], b"c"));
        let (_, accepted) = meet(&a, &b, [b"s", b"s"]).await;
        assert_eq!(accepted.unwrap_err(), HelloError::NotAdmitted(a.key.public().node_id()));
        let (a, b) = (credentials(1, &[2], b"c"), credentials(2, &[1], b"other"));
        let (_, accepted) = meet(&a, &b, [b"s", b"s"]).await;
        assert!(matches!(accepted.unwrap_err(), HelloError::AnotherChain { .. }));
        let (a, b) = (credentials(1, &[2], b"c"), credentials(2, &[1], b"c"));
        let (_, accepted) = meet(&a, &b, [b"one session", b"another session"]).await;
        assert_eq!(accepted.unwrap_err(), HelloError::BadProof(a.key.public().node_id()));
    }

    #[test]
    fn garbage_other_versions_and_oversize_are_told_apart() {
        let hello = Hello {
            version: PROTOCOL_VERSION,
            chain: Digest::ZERO,
            key: SecretKey::from_bytes(&[1; 32]).unwrap().public(),
            nonce: [0; 32],
        };
        let mut bytes = hello.encode();
        assert_eq!(Hello::decode(&bytes).unwrap(), hello);
        bytes[7] = 9;
        assert_eq!(Hello::decode(&bytes), Err(HelloError::Version { found: 9 }));
        assert!(matches!(Hello::decode(b"GET / HTTP/1.1"), Err(HelloError::Malformed(_))));
        assert!(matches!(Hello::decode(&[0; HELLO_BYTES_MAX + 1]), Err(HelloError::TooLarge(_))));
    }
}
