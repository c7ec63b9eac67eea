//! The members of all clusters that a node knows of, shared by all that ask, and kept over restarts. A file that is lost is told
//! again by the auth node or by others; until then the node takes those whom the genesis does not name for strangers.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};

use serde::{Deserialize, Serialize};
use standin_foundation::limits::SEATS_MAX;
use standin_foundation::wire::Wire;
use standin_foundation::{Digest, NodeId, PublicKey, Seat};

use crate::error::LedgerError;
use crate::genesis::Genesis;
use crate::grant::MEMBERS_MAX;
use crate::membership::{Member, Membership, SignedMembership};

/// Removed members of a cluster that are remembered: those of two whole sets.
const REMOVED_MAX: usize = 2 * MEMBERS_MAX;

/// Why a book cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {what}; delete the file, its content is told again by the auth node")]
pub struct MemberBookError {
    path: PathBuf,
    what: String,
}

/// What the file holds: the newest membership of each cluster that has changed since the genesis, and who was removed by it and may
/// have to be heard a little longer.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept(Vec<(SignedMembership, Vec<Member>)>);

impl Wire for Kept {
    const NAME: &'static str = "memberships";
    const BYTES_MAX: usize = 4 * SEATS_MAX * SignedMembership::BYTES_MAX;
}

/// One cluster's members.
#[derive(Debug)]
struct Entry {
    newest: Membership,
    /// With its signature, unless it is the genesis'.
    signed: Option<SignedMembership>,
    /// Who was removed, and may be in an in-sync set still.
    removed: Vec<Member>,
}

impl Entry {
    /// Whoever is a member again is not removed; of too many the first are forgotten.
    fn remember_removed(&mut self, removed: Vec<Member>) {
        for member in removed {
            self.removed.retain(|known| known.key != member.key);
            self.removed.push(member);
        }
        self.removed.retain(|member| !self.newest.members.contains_key(&member.key.node_id()));
        let surplus = self.removed.len().saturating_sub(REMOVED_MAX);
        self.removed.drain(..surplus);
    }
}

/// The newest membership of each seat's cluster, with its file.
#[derive(Debug)]
pub struct MemberBook {
    chain: Digest,
    auth: Option<PublicKey>,
    entries: RwLock<Vec<Entry>>,
    path: Option<Mutex<PathBuf>>,
}

impl MemberBook {
    /// A book that is not kept.
    pub fn unkept(genesis: &Genesis) -> Self {
        let chain = genesis.digest();
        let entry = |seat| Entry { newest: Membership::of_genesis(chain, seat), signed: None, removed: Vec::new() };
        let entries = RwLock::new(genesis.seats.iter().map(entry).collect());
        Self { chain, auth: genesis.auth, entries, path: None }
    }

    /// Opens the book in this file, or makes a new one.
    pub fn open(path: &Path, genesis: &Genesis) -> Result<Self, MemberBookError> {
        let book = Self::unkept(genesis);
        let wrong = |what: String| MemberBookError { path: path.to_owned(), what };
        match fs::read(path) {
            Ok(bytes) => {
                let Kept(kept) = Kept::from_wire(&bytes).map_err(|error| wrong(error.to_string()))?;
                for (signed, removed) in kept {
                    let seat = book.note(signed).map_err(|error| wrong(error.to_string()))?;
                    book.remember_removed(seat, removed);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(wrong(error.to_string())),
        }
        Ok(Self { path: Some(Mutex::new(path.to_owned())), ..book })
    }

    /// Checks a membership and takes it in; gives its seat if it is newer than what was known.
    pub fn note(&self, signed: SignedMembership) -> Result<Option<Seat>, LedgerError> {
        let Membership { cluster, version, .. } = &signed.membership;
        let bad = |what| LedgerError::BadMembership { cluster: cluster.clone(), version: *version, what };
        let auth = self.auth.ok_or_else(|| bad("this chain has no auth node"))?;
        let index = self.read().iter().position(|entry| entry.newest.cluster == *cluster);
        let index = index.ok_or_else(|| bad("the cluster holds no seat"))?;
        if self.read().get(index).is_none_or(|entry| entry.newest.version >= *version) {
            return Ok(None);
        }
        signed.verify(&self.chain, &auth)?;
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        // Another may have been faster.
        let Some(entry) = entries.get_mut(index).filter(|entry| entry.newest.version < *version) else {
            return Ok(None);
        };
        let newest = signed.membership.clone();
        let gone = entry.newest.members.iter().filter(|(node, _)| !newest.members.contains_key(*node));
        let gone: Vec<_> = gone.map(|(_, member)| member.clone()).collect();
        (entry.newest, entry.signed) = (newest, Some(signed));
        entry.remember_removed(gone);
        drop(entries);
        self.keep();
        Ok(Some(Seat(index as u16)))
    }

    /// Nothing rests on the file: what is not kept is told again.
    fn keep(&self) {
        let Some(path) = &self.path else { return };
        let path = path.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = self.read();
        let kept = entries.iter().filter_map(|entry| Some((entry.signed.clone()?, entry.removed.clone())));
        let kept = Kept(kept.collect());
        drop(entries);
        if let Ok(bytes) = kept.to_wire() {
            let _ = replace(&path, &bytes);
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Vec<Entry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember_removed(&self, seat: Option<Seat>, removed: Vec<Member>) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = seat.and_then(|seat| entries.get_mut(seat.index())) {
            entry.remember_removed(removed);
        }
    }

    /// This node is in no in-sync set any more, and need not be heard.
    pub fn forget_removed(&self, node: &NodeId) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        for entry in entries.iter_mut() {
            entry.removed.retain(|member| member.key.node_id() != *node);
        }
    }

    /// Who was removed from clusters, with their seats: they may be in an in-sync set still.
    pub fn removed(&self) -> Vec<(Seat, Member)> {
        let entries = self.read();
        let of = |(index, entry): (usize, &Entry)| {
            entry.removed.clone().into_iter().map(move |member| (Seat(index as u16), member))
        };
        entries.iter().enumerate().flat_map(of).collect()
    }

    /// The newest memberships that are not the genesis'.
    pub fn signed(&self) -> Vec<SignedMembership> {
        self.read().iter().filter_map(|entry| entry.signed.clone()).collect()
    }

    /// The newest membership of a seat's cluster, with its signature unless it is the genesis'.
    pub fn signed_of(&self, seat: Seat) -> Option<SignedMembership> {
        self.read().get(seat.index())?.signed.clone()
    }

    /// The newest membership of a seat's cluster.
    pub fn of(&self, seat: Seat) -> Option<Membership> {
        self.read().get(seat.index()).map(|entry| entry.newest.clone())
    }

    /// The seat whose cluster a node is a member of.
    pub fn seat_of(&self, node: &NodeId) -> Option<Seat> {
        let place = self.read().iter().position(|entry| entry.newest.members.contains_key(node));
        place.map(|index| Seat(index as u16))
    }

    /// A member.
    pub fn member(&self, node: &NodeId) -> Option<Member> {
        self.read().iter().find_map(|entry| entry.newest.members.get(node).cloned())
    }

    /// All members with their seats.
    pub fn all(&self) -> Vec<(Seat, Member)> {
        let entries = self.read();
        let of = |(index, entry): (usize, &Entry)| {
            let members: Vec<_> = entry.newest.members.values().cloned().collect();
            members.into_iter().map(move |member| (Seat(index as u16), member))
        };
        entries.iter().enumerate().flat_map(of).collect()
    }
}

/// Puts a file in the place of another, whole or not at all.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transaction::tests::key;
    use crate::{MemberDescriptor, SeatDescriptor};

    fn genesis() -> Genesis {
        let member = |n| MemberDescriptor { key: key(n).public(), priority: n, site: format!("s{n}") };
        let seat = |cluster: &str, n| SeatDescriptor { cluster: cluster.parse().unwrap(), members: vec![member(n)] };
        Genesis {
            chain: "test-members".parse().unwrap(),
            time_ms: 1,
            auth: Some(key(9).public()),
            operators: Default::default(),
            parameters: Default::default(),
            seats: vec![seat("a", 1), seat("b", 2)],
            accounts: Vec::new(),
        }
    }

    fn with(version: u64, members: &[u8]) -> Membership {
        let member = |n: &u8| Member {
            key: key(*n).public(),
            priority: *n,
            site: "s".to_owned(),
            address: "127.0.0.1:1".to_owned(),
        };
        let members = members.iter().map(|n| (key(*n).public().node_id(), member(n))).collect();
        Membership { chain: genesis().digest(), cluster: "a".parse().unwrap(), version, members }
    }

    #[test]
    fn a_newer_membership_stands_in_the_place_of_the_older_and_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("members");
        let book = MemberBook::open(&path, &genesis()).unwrap();
        let id = |n| key(n).public().node_id();
        assert_eq!((book.seat_of(&id(1)), book.seat_of(&id(3))), (Some(Seat(0)), None));
        assert_eq!(book.note(with(2, &[1, 3]).sign(&key(9))).unwrap(), Some(Seat(0)));
        assert_eq!(book.note(with(1, &[1]).sign(&key(9))).unwrap(), None, "an older one comes late");
        assert_eq!(book.seat_of(&id(3)), Some(Seat(0)));
        drop(book);
        let again = MemberBook::open(&path, &genesis()).unwrap();
        assert_eq!((again.seat_of(&id(3)), again.all().len()), (Some(Seat(0)), 3));
        again.note(with(3, &[3]).sign(&key(9))).unwrap();
        assert_eq!(again.seat_of(&id(1)), None, "it was removed");
        again.note(with(4, &[4]).sign(&key(9))).unwrap();
        drop(again);
        let again = MemberBook::open(&path, &genesis()).unwrap();
        let removed = |book: &MemberBook| book.removed().into_iter().map(|(_, m)| m.key).collect::<Vec<_>>();
        assert_eq!(removed(&again), [key(1).public(), key(3).public()], "both may be in a set still");
        again.forget_removed(&id(3));
        again.note(with(5, &[1, 4]).sign(&key(9))).unwrap();
        assert_eq!(removed(&again), [], "one is a member again");
        fs::write(&path, b"rot").unwrap();
        assert!(MemberBook::open(&path, &genesis()).unwrap_err().to_string().contains("delete the file"));
    }

    #[test]
    fn a_membership_that_does_not_hold_is_refused() {
        let book = MemberBook::unkept(&genesis());
        let refused = |membership: SignedMembership| book.note(membership).unwrap_err().to_string();
        assert!(refused(with(1, &[1]).sign(&key(1))).contains("signature is not valid"));
        assert!(refused(with(1, &[]).sign(&key(9))).contains("contradicts itself"));
        assert!(refused(Membership { chain: Digest::ZERO, ..with(1, &[1]) }.sign(&key(9))).contains("another chain"));
        let stranger = Membership { cluster: "z".parse().unwrap(), ..with(1, &[1]) };
        assert!(refused(stranger.sign(&key(9))).contains("holds no seat"));
    }
}
