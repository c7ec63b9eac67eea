//! Node and client keys: secp256k1, kept in files that only their owner can read.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::fixed_bytes::fixed_bytes;
use crate::ids::{InvalidId, NodeId};
use crate::signing::{Domain, Signature, signing_digest};

/// Why a key could not be read, written or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("key file {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else could read the file.
    #[error("key file {path} has mode {mode:04o}: others could read it; run `chmod 600 {path}`")]
    OpenPermissions {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file does not hold a key.
    #[error("key file {path} does not hold a secret key: {what}; make one with `standin keygen`")]
    NotAKey {
        /// The file.
        path: PathBuf,
        /// What is wrong; never the content.
        what: &'static str,
    },
    /// A key with this name is already there.
    #[error("key file {path} exists already and is not overwritten")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The system gave no random bytes.
    #[error("the system gave no random bytes: {0}")]
    Random(String),
}

/// A compressed secp256k1 public key (33 bytes), parsed once.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey {
    bytes: [u8; 33],
    point: secp256k1::PublicKey,
}

fixed_bytes!(PublicKey, 33, "public key");

impl PartialOrd for PublicKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for PublicKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.bytes.cmp(&other.bytes)
    }
}

impl PublicKey {
    /// The compressed bytes.
    pub fn as_bytes(&self) -> &[u8; 33] {
        &self.bytes
    }

    /// Reads compressed bytes; refuses what is no point of the curve.
    pub fn try_from_bytes(bytes: [u8; 33]) -> Result<Self, InvalidId> {
        let point = secp256k1::PublicKey::from_byte_array_compressed(bytes).map_err(|_| InvalidId {
            what: "public key",
            found: hex::encode(bytes),
            expected: "a compressed point of secp256k1".to_owned(),
        })?;
        Ok(Self { bytes, point })
    }

    /// The id of the node that holds this key.
    pub fn node_id(&self) -> NodeId {
        NodeId::of(self)
    }

    /// Whether `signature` was made by this key for `content` in `domain`. High-S signatures are refused, so that
    /// nobody can alter a signature without the key.
    pub fn verify(&self, domain: Domain, content: &[u8], signature: &Signature) -> bool {
        let message = secp256k1::Message::from_digest(signing_digest(domain, content).0);
        secp256k1::ecdsa::Signature::from_compact(&signature.0)
            .is_ok_and(|signature| self.point.verify(message, &signature).is_ok())
    }
}

/// A secp256k1 secret key. It is never printed, and its bytes are wiped when it is dropped.
pub struct SecretKey {
    secret: Zeroizing<[u8; 32]>,
    public: PublicKey,
}

impl std::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SecretKey(of {:?})", self.public)
    }
}

impl SecretKey {
    /// A new random key.
    pub fn generate() -> Result<Self, KeyError> {
        loop {
            let mut bytes = Zeroizing::new([0u8; 32]);
            getrandom::fill(bytes.as_mut()).map_err(|error| KeyError::Random(error.to_string()))?;
            if let Some(key) = Self::from_bytes(&bytes) {
                return Ok(key);
            }
        }
    }

    /// The key with these bytes; none for the few values that are no key.
    pub fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        let mut secret = secp256k1::SecretKey::from_secret_bytes(*bytes).ok()?;
        let point = secp256k1::PublicKey::from_secret_key(&secret);
        secret.non_secure_erase();
        let public = PublicKey { bytes: point.serialize(), point };
        Some(Self { secret: Zeroizing::new(*bytes), public })
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// Signs `content` for `domain` (deterministic, RFC 6979).
    pub fn sign(&self, domain: Domain, content: &[u8]) -> Signature {
        let message = secp256k1::Message::from_digest(signing_digest(domain, content).0);
        #[allow(clippy::expect_used, reason = "the bytes were accepted as a key when `self` was made")]
        let mut secret = secp256k1::SecretKey::from_secret_bytes(*self.secret).expect("checked in from_bytes");
        let signature = secp256k1::ecdsa::sign(message, &secret).serialize_compact();
        secret.non_secure_erase();
        Signature(signature)
    }

    /// What this key and the holder of `other` both can compute, and nobody else (ECDH: SHA-256 of the shared point).
    pub fn agree(&self, other: &PublicKey) -> Zeroizing<[u8; 32]> {
        #[allow(clippy::expect_used, reason = "the bytes were accepted as a key when `self` was made")]
        let mut secret = secp256k1::SecretKey::from_secret_bytes(*self.secret).expect("checked in from_bytes");
        let mut shared = secp256k1::ecdh::SharedSecret::new(&other.point, &secret);
        let agreed = Zeroizing::new(shared.to_secret_bytes());
        secret.non_secure_erase();
        shared.non_secure_erase();
        agreed
    }

    /// Reads a key file: one line of 64 hexadecimal digits, readable by its owner alone.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let file_error = |source| KeyError::File { path: path.to_owned(), source };
        let mode = fs::metadata(path).map_err(file_error)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::OpenPermissions { path: path.to_owned(), mode });
        }
        let not_a_key = |what| KeyError::NotAKey { path: path.to_owned(), what };
        let text = Zeroizing::new(fs::read(path).map_err(file_error)?);
        let mut bytes = Zeroizing::new([0u8; 32]);
        hex::decode_to_slice(text.trim_ascii(), bytes.as_mut())
            .map_err(|_| not_a_key("expected one line of 64 hexadecimal digits"))?;
        Self::from_bytes(&bytes).ok_or_else(|| not_a_key("the number is not a secp256k1 secret key"))
    }

    /// Writes the key to a new file with mode 0600; an existing file is left alone.
    pub fn write_new(&self, path: &Path) -> Result<(), KeyError> {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(
            |source| match source.kind() {
                io::ErrorKind::AlreadyExists => KeyError::Exists { path: path.to_owned() },
                _ => KeyError::File { path: path.to_owned(), source },
            },
        )?;
        let text = Zeroizing::new(format!("{}\n", hex::encode(self.secret.as_ref())));
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(|source| KeyError::File { path: path.to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_bytes(&[seed; 32]).unwrap()
    }

    #[test]
    fn a_signature_verifies_for_its_domain_content_and_key_only() {
        let signature = key(1).sign(Domain::Consensus, b"content");
        assert!(key(1).public().verify(Domain::Consensus, b"content", &signature));
        assert!(!key(1).public().verify(Domain::Transaction, b"content", &signature));
        assert!(!key(1).public().verify(Domain::Consensus, b"Content", &signature));
        assert!(!key(2).public().verify(Domain::Consensus, b"content", &signature));
    }

    #[test]
    fn two_keys_agree_on_what_a_third_cannot_compute() {
        assert_eq!(key(1).agree(&key(2).public()), key(2).agree(&key(1).public()));
        assert_ne!(key(1).agree(&key(2).public()), key(3).agree(&key(2).public()));
    }

    #[test]
    fn a_key_is_never_printed() {
        let key = key(7);
        assert!(!format!("{key:?}").contains("0707"));
    }

    #[test]
    fn key_files_round_trip_and_are_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.key");
        key(3).write_new(&path).unwrap();
        assert_eq!(SecretKey::read(&path).unwrap().public(), key(3).public());
        assert!(matches!(key(4).write_new(&path), Err(KeyError::Exists { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = SecretKey::read(&path).unwrap_err().to_string();
        assert!(error.contains("0644") && error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn unreadable_and_wrong_key_files_say_so_without_their_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.key");
        assert!(matches!(SecretKey::read(&path), Err(KeyError::File { .. })));
        for content in ["", "secret words", &"0".repeat(64), &"ab".repeat(33)] {
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let error = SecretKey::read(&path).unwrap_err().to_string();
            assert!(error.contains("does not hold a secret key"), "{error}");
            assert!(content.is_empty() || !error.contains(content), "{error}");
        }
    }
}
