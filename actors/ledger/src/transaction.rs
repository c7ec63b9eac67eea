//! Signed transactions: what a client wants done, on which chain, until when.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use standin_foundation::limits::{TITLE_BYTES_MAX, TRANSACTION_BYTES_MAX};
use standin_foundation::{Decoder, Digest, Domain, Encoder, Height, MalformedBytes, PublicKey, SecretKey, Signature};

use crate::error::LedgerError;

/// SHA-256 of a transaction's canonical body (everything but the signature).
pub type TransactionId = Digest;

const VERSION: u8 = 1;
const SIGNATURE_BYTES: usize = 64;

/// The namespace of a transaction: 1 to 32 characters of a-z, 0-9, `-`, `_` and `.`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Title([u8; TITLE_BYTES_MAX]);

impl Title {
    /// The text, padded with zero bytes: sorts as the text does.
    pub fn as_padded_bytes(&self) -> &[u8; TITLE_BYTES_MAX] {
        &self.0
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        let text = self.0.split(|byte| *byte == 0).next().unwrap_or_default();
        std::str::from_utf8(text).unwrap_or_default()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let allowed = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(b);
        let mut padded = [0; TITLE_BYTES_MAX];
        if bytes.is_empty() || !bytes.iter().all(allowed) {
            return None;
        }
        padded.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Self(padded))
    }
}

impl FromStr for Title {
    type Err = LedgerError;

    fn from_str(text: &str) -> Result<Self, LedgerError> {
        Self::from_bytes(text.as_bytes())
            .ok_or_else(|| LedgerError::BadTitle { found: text.chars().take(80).collect() })
    }
}

impl fmt::Display for Title {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Title {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Title({self})")
    }
}

impl Serialize for Title {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Title {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a client fills in before it signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionBody {
    /// The namespace.
    pub title: Title,
    /// A number that makes equal content a different transaction.
    pub nonce: u64,
    /// The last height at which it may take effect; at most the chain's replay window above the head.
    pub expires: Height,
    /// What the state machine is told.
    pub payload: Vec<u8>,
}

/// A signed transaction: its canonical bytes, and what stands in them.
#[derive(Clone, PartialEq, Eq)]
pub struct Transaction {
    bytes: Bytes,
    id: TransactionId,
    title: Title,
    sender: PublicKeyBytes,
    nonce: u64,
    expires: Height,
    payload_start: usize,
}

/// A compressed key that has not been parsed as a point yet: parsing costs as much as many hashes.
type PublicKeyBytes = [u8; 33];

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transaction({} {} nonce {})", self.id.short(), self.title, self.nonce)
    }
}

impl Transaction {
    /// Signs `body` for the chain whose genesis has the digest `chain`.
    pub fn sign(chain: &Digest, key: &SecretKey, body: &TransactionBody) -> Result<Self, LedgerError> {
        let unsigned = encode_body(body, key.public().as_bytes());
        let id = Digest::sha256(&unsigned);
        let signature = key.sign(Domain::Transaction, &signed_content(chain, &id));
        Self::assemble(unsigned, &signature)
    }

    /// Makes a transaction without a signature: only chains without client signatures take it.
    pub fn unsigned(sender: &PublicKey, body: &TransactionBody) -> Result<Self, LedgerError> {
        Self::assemble(encode_body(body, sender.as_bytes()), &Signature::NONE)
    }

    fn assemble(mut bytes: Vec<u8>, signature: &Signature) -> Result<Self, LedgerError> {
        bytes.extend_from_slice(signature.as_bytes());
        Self::parse(bytes.into())
    }

    /// Reads canonical bytes. The signature is not checked: that is [`Transaction::verify`].
    pub fn parse(bytes: Bytes) -> Result<Self, LedgerError> {
        if bytes.len() > TRANSACTION_BYTES_MAX {
            return Err(LedgerError::TooLarge {
                what: "transaction bytes",
                found: bytes.len(),
                limit: TRANSACTION_BYTES_MAX,
            });
        }
        Self::parse_fields(bytes).map_err(|source| LedgerError::Malformed { what: "transaction", source })
    }

    fn parse_fields(bytes: Bytes) -> Result<Self, MalformedBytes> {
        let mut input = Decoder::new(&bytes);
        if input.u8()? != VERSION {
            return Err(MalformedBytes { offset: 0, what: "unknown transaction version" });
        }
        let title_length = usize::from(input.u8()?);
        let title = Title::from_bytes(input.raw(title_length)?).ok_or_else(|| input.fault("not a title"))?;
        let sender = input.array()?;
        let nonce = input.u64()?;
        let expires = Height(input.u64()?);
        let payload_length = input.length(TRANSACTION_BYTES_MAX)?;
        let payload_start = input.offset();
        input.raw(payload_length)?;
        let body_end = input.offset();
        input.raw(SIGNATURE_BYTES)?;
        input.finish()?;
        let id = Digest::sha256(bytes.get(..body_end).unwrap_or_default());
        Ok(Self { id, title, sender, nonce, expires, payload_start, bytes })
    }

    /// Checks the sender's key and signature for the chain with this genesis digest.
    pub fn verify(&self, chain: &Digest) -> Result<(), LedgerError> {
        let bad = LedgerError::BadSignature { what: "transaction" };
        let sender = self.sender().ok_or_else(|| bad.clone())?;
        let valid = sender.verify(Domain::Transaction, &signed_content(chain, &self.id), &self.signature());
        if valid { Ok(()) } else { Err(bad) }
    }

    /// The id.
    pub fn id(&self) -> TransactionId {
        self.id
    }

    /// The namespace.
    pub fn title(&self) -> Title {
        self.title
    }

    /// The sender's key; none if the bytes are no point of the curve, which a verified transaction rules out.
    pub fn sender(&self) -> Option<PublicKey> {
        PublicKey::try_from_bytes(self.sender).ok()
    }

    /// The sender's compressed key as it stands in the bytes.
    pub fn sender_bytes(&self) -> &[u8; 33] {
        &self.sender
    }

    /// The nonce.
    pub fn nonce(&self) -> u64 {
        self.nonce
    }

    /// The last height at which it may take effect.
    pub fn expires(&self) -> Height {
        self.expires
    }

    /// What the state machine is told.
    pub fn payload(&self) -> &[u8] {
        let end = self.bytes.len().saturating_sub(SIGNATURE_BYTES);
        self.bytes.get(self.payload_start..end).unwrap_or_default()
    }

    /// The signature.
    pub fn signature(&self) -> Signature {
        let start = self.bytes.len().saturating_sub(SIGNATURE_BYTES);
        let bytes = self.bytes.get(start..).unwrap_or_default();
        Signature(bytes.try_into().unwrap_or([0; SIGNATURE_BYTES]))
    }

    /// The canonical bytes, signature included.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

fn encode_body(body: &TransactionBody, sender: &PublicKeyBytes) -> Vec<u8> {
    let title = body.title.as_str().as_bytes();
    let mut out = Encoder::with_capacity(128 + body.payload.len());
    out.u8(VERSION).u8(title.len() as u8).raw(title).raw(sender);
    out.u64(body.nonce).u64(body.expires.0).bytes(&body.payload);
    out.into_bytes()
}

fn signed_content(chain: &Digest, id: &TransactionId) -> [u8; 64] {
    let mut content = [0; 64];
    let (first, second) = content.split_at_mut(32);
    first.copy_from_slice(chain.as_bytes());
    second.copy_from_slice(id.as_bytes());
    content
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn key(seed: u8) -> SecretKey {
        SecretKey::from_bytes(&[seed; 32]).unwrap()
    }

    pub(crate) fn body(title: &str, nonce: u64, payload: &[u8]) -> TransactionBody {
        TransactionBody { title: title.parse().unwrap(), nonce, expires: Height(100), payload: payload.to_vec() }
    }

    #[test]
    fn a_transaction_reads_back_and_verifies_on_its_chain_only() {
        let chain = Digest::sha256(b"chain");
        let signed = Transaction::sign(&chain, &key(1), &body("orders", 7, b"payload")).unwrap();
        let read = Transaction::parse(signed.bytes().clone()).unwrap();
        assert_eq!(read, signed);
        assert_eq!((read.title().as_str(), read.nonce(), read.expires()), ("orders", 7, Height(100)));
        assert_eq!(read.payload(), b"payload");
        read.verify(&chain).unwrap();
        assert!(read.verify(&Digest::sha256(b"another")).is_err());
    }

    #[test]
    fn an_altered_transaction_does_not_verify() {
        let chain = Digest::sha256(b"chain");
        let signed = Transaction::sign(&chain, &key(1), &body("orders", 7, b"payload")).unwrap();
        for offset in 0..signed.bytes().len() {
            let mut altered = signed.bytes().to_vec();
            altered[offset] ^= 1;
            if let Ok(transaction) = Transaction::parse(altered.into()) {
                assert!(transaction.verify(&chain).is_err(), "offset {offset}");
            }
        }
    }

    #[test]
    fn malformed_bytes_are_refused_with_the_reason() {
        let signed = Transaction::unsigned(&key(1).public(), &body("orders", 7, b"payload")).unwrap();
        let whole = signed.bytes();
        for length in 0..whole.len() {
            assert!(Transaction::parse(whole.slice(..length)).is_err());
        }
        let mut longer = whole.to_vec();
        longer.push(0);
        assert!(Transaction::parse(longer.into()).unwrap_err().to_string().contains("trailing"));
        let huge = Transaction::parse(vec![0; TRANSACTION_BYTES_MAX + 1].into()).unwrap_err();
        assert!(matches!(huge, LedgerError::TooLarge { .. }));
        assert!("No Title".parse::<Title>().is_err());
    }
}
