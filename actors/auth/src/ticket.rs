//! Sealed tickets: a cluster's id, encrypted to the auth node's own key, so that only an auth node can make use of one and
//! none needs to remember them.
//!
//! ECIES on secp256k1: ECDH with a key of its own for each ticket, HKDF-SHA256, ChaCha20-Poly1305. A ticket proves nothing
//! beyond what the grant that came with it proved: it is the second thing that a stolen node key does not hold.

use bytes::Bytes;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use standin_foundation::{ClusterId, Digest, KeyError, PublicKey, SecretKey};

const VERSION: u8 = 1;
const KEY_BYTES: usize = 33;

/// Seals a cluster's id to the holder of `to`.
pub fn seal(to: &PublicKey, chain: &Digest, cluster: &ClusterId) -> Result<Bytes, KeyError> {
    let once = SecretKey::generate()?;
    let mut ticket = Vec::with_capacity(1 + KEY_BYTES + 64);
    ticket.push(VERSION);
    ticket.extend_from_slice(once.public().as_bytes());
    let mut sealed = cluster.as_str().as_bytes().to_vec();
    let key = derive(once.agree(to).as_ref(), &once.public(), to, chain);
    // Each key seals one message, so one nonce is enough.
    key.and_then(|key| key.seal_in_place_append_tag(nonce(), aad(chain), &mut sealed).ok())
        .ok_or_else(|| KeyError::Random("a ticket cannot be sealed".to_owned()))?;
    ticket.extend_from_slice(&sealed);
    Ok(ticket.into())
}

/// Opens a ticket; none if it is damaged, of another chain, or sealed to another key.
pub fn open(key: &SecretKey, chain: &Digest, ticket: &[u8]) -> Option<ClusterId> {
    let (version, rest) = ticket.split_first()?;
    let (once, sealed) = rest.split_at_checked(KEY_BYTES).filter(|_| *version == VERSION)?;
    let once = PublicKey::try_from_bytes(once.try_into().ok()?).ok()?;
    let derived = derive(key.agree(&once).as_ref(), &once, &key.public(), chain)?;
    let mut sealed = sealed.to_vec();
    let opened = derived.open_in_place(nonce(), aad(chain), &mut sealed).ok()?;
    std::str::from_utf8(opened).ok()?.parse().ok()
}

fn derive(shared: &[u8], once: &PublicKey, to: &PublicKey, chain: &Digest) -> Option<LessSafeKey> {
    let secret = Salt::new(HKDF_SHA256, chain.as_bytes()).extract(shared);
    let info: [&[u8]; 3] = [b"standin/v1/ticket", once.as_bytes(), to.as_bytes()];
    let key = UnboundKey::from(secret.expand(&info, &CHACHA20_POLY1305).ok()?);
    Some(LessSafeKey::new(key))
}

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

fn aad(chain: &Digest) -> Aad<[u8; 32]> {
    Aad::from(*chain.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_opens_for_its_key_and_chain_only() {
        let (auth, other) = (SecretKey::from_bytes(&[1; 32]).unwrap(), SecretKey::from_bytes(&[2; 32]).unwrap());
        let (chain, cluster) = (Digest::sha256(b"chain"), "a".parse::<ClusterId>().unwrap());
        let ticket = seal(&auth.public(), &chain, &cluster).unwrap();
        assert_eq!(open(&auth, &chain, &ticket), Some(cluster.clone()));
        assert_eq!(open(&other, &chain, &ticket), None);
        assert_eq!(open(&auth, &Digest::sha256(b"another"), &ticket), None);
        assert_ne!(seal(&auth.public(), &chain, &cluster).unwrap(), ticket, "no two are equal");
        for length in 0..ticket.len() {
            assert_eq!(open(&auth, &chain, &ticket[..length]), None);
        }
        for place in 0..ticket.len() {
            let mut damaged = ticket.to_vec();
            damaged[place] ^= 1;
            assert_eq!(open(&auth, &chain, &damaged), None, "byte {place}");
        }
    }
}
