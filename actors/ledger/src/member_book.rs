//! The members of all clusters that a node knows of, shared by all that ask, and kept over restarts. A file that is lost is told
//! again by the auth node or by others; until then the node takes those whom the genesis does not name for strangers.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};

use serde::{Deserialize, Serialize};
use standin_foundation::limits::SEATS_MAX;
use standin_foundation::wire::Wire;
use standin_foundation::{ClusterId, Digest, Epoch, NodeId, PublicKey, Seat};

use crate::epoch::EpochTable;
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

/// What the file holds: the newest membership of each cluster that the auth node has changed, and who was removed by it and may have
/// to be heard a little longer.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept(Vec<(SignedMembership, Vec<Member>)>);

impl Wire for Kept {
    const NAME: &'static str = "memberships";
    const BYTES_MAX: usize = 4 * SEATS_MAX * SignedMembership::BYTES_MAX;
}

/// One cluster's members.
#[derive(Debug)]
struct Entry {
    /// The seat that the cluster holds, or held last.
    seat: Seat,
    /// The cluster holds no seat any more. Its nodes are let in until the next epoch begins, to learn of it.
    gone: bool,
    newest: Membership,
    /// With its signature, unless the chain itself has said so.
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

    /// Who was a member and is not any more.
    fn replace(&mut self, newest: Membership, signed: Option<SignedMembership>) {
        let before = std::mem::replace(&mut self.newest, newest);
        self.signed = signed;
        self.remember_removed(before.members.into_values().collect());
    }

    fn members(&self) -> impl Iterator<Item = (Seat, Member)> {
        self.newest.members.values().map(|member| (self.seat, member.clone()))
    }
}

/// Who holds seats in the newest epoch that the book was told of.
#[derive(Debug)]
struct Clusters {
    epoch: Epoch,
    auth: Option<PublicKey>,
    entries: BTreeMap<ClusterId, Entry>,
}

impl Clusters {
    fn holding(&self, seat: Seat) -> Option<&Entry> {
        self.entries.values().find(|entry| entry.seat == seat && !entry.gone)
    }

    fn of_node(&self, node: &NodeId) -> Option<&Entry> {
        let has = |entry: &&Entry| entry.newest.members.contains_key(node);
        self.entries.values().filter(has).max_by_key(|entry| (!entry.gone, entry.newest.listed))
    }
}

/// The newest membership of each cluster that holds a seat, with its file.
#[derive(Debug)]
pub struct MemberBook {
    chain: Digest,
    clusters: RwLock<Clusters>,
    path: Option<Mutex<PathBuf>>,
}

impl MemberBook {
    /// A book that is not kept.
    pub fn unkept(genesis: &Genesis) -> Self {
        let clusters = Clusters { epoch: Epoch(0), auth: genesis.auth, entries: BTreeMap::new() };
        let book = Self { chain: genesis.digest(), clusters: RwLock::new(clusters), path: None };
        book.begin(&genesis.epoch_table());
        book
    }

    /// Opens the book in this file, or makes a new one; `newest` is the table of the newest epoch that is known.
    pub fn open(path: &Path, genesis: &Genesis, newest: Option<&EpochTable>) -> Result<Self, MemberBookError> {
        let book = Self::unkept(genesis);
        newest.into_iter().for_each(|table| book.begin(table));
        book.clusters.write().unwrap_or_else(PoisonError::into_inner).entries.retain(|_, entry| !entry.gone);
        let wrong = |what: String| MemberBookError { path: path.to_owned(), what };
        match fs::read(path) {
            Ok(bytes) => {
                let Kept(kept) = Kept::from_wire(&bytes).map_err(|error| wrong(error.to_string()))?;
                // A cluster that holds no seat now, or not yet, is told again when it does.
                let holds = |signed: &SignedMembership| book.read().entries.contains_key(&signed.membership.cluster);
                for (signed, removed) in kept.into_iter().filter(|(signed, _)| holds(signed)) {
                    match book.note(signed) {
                        Ok(seat) => book.remember_removed(seat, removed),
                        Err(LedgerError::UnknownEpoch(_)) => {}
                        Err(error) => return Err(wrong(error.to_string())),
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(wrong(error.to_string())),
        }
        Ok(Self { path: Some(Mutex::new(path.to_owned())), ..book })
    }

    /// Takes in who holds the seats from an epoch on. It has been proven, or executed.
    pub fn begin(&self, table: &EpochTable) {
        let mut clusters = self.clusters.write().unwrap_or_else(PoisonError::into_inner);
        if table.epoch < clusters.epoch {
            return;
        }
        if table.epoch > clusters.epoch {
            clusters.entries.retain(|_, entry| !entry.gone);
        }
        let skips = table.epoch > clusters.epoch.next();
        (clusters.epoch, clusters.auth) = (table.epoch, table.auth);
        for entry in clusters.entries.values_mut() {
            entry.gone = true;
        }
        for (number, seat) in &table.seats {
            let first = Membership::of_seat(self.chain, seat);
            let entry = clusters.entries.entry(seat.cluster.clone()).or_insert_with(|| Entry {
                seat: *number,
                gone: false,
                newest: first.clone(),
                signed: None,
                removed: Vec::new(),
            });
            (entry.seat, entry.gone) = (*number, false);
            if entry.newest.order() < first.order() {
                entry.replace(first, None);
            }
        }
        // Whoever comes as one that holds a seat is taken for it: of the others only those of the epoch before are let in.
        clusters.entries.retain(|_, entry| !entry.gone || !(skips || table.seats.contains_key(&entry.seat)));
        drop(clusters);
        self.keep();
    }

    /// Checks a membership and takes it in; gives its seat if it is newer than what was known.
    pub fn note(&self, signed: SignedMembership) -> Result<Option<Seat>, LedgerError> {
        let Membership { cluster, version, .. } = &signed.membership;
        let bad = |what| LedgerError::BadMembership { cluster: cluster.clone(), version: *version, what };
        let is_newer = |entry: &Entry| entry.newest.order() < signed.membership.order();
        let clusters = self.read();
        let auth = clusters.auth.ok_or_else(|| bad("this chain has no auth node"))?;
        if signed.membership.listed > clusters.epoch {
            return Err(LedgerError::UnknownEpoch(signed.membership.listed));
        }
        let entry = clusters.entries.get(cluster).ok_or_else(|| bad("the cluster holds no seat"))?;
        if !is_newer(entry) {
            return Ok(None);
        }
        drop(clusters);
        signed.verify(&self.chain, &auth)?;
        let mut clusters = self.clusters.write().unwrap_or_else(PoisonError::into_inner);
        // Another may have been faster.
        let Some(entry) = clusters.entries.get_mut(cluster).filter(|entry| is_newer(entry)) else { return Ok(None) };
        let seat = entry.seat;
        entry.replace(signed.membership.clone(), Some(signed));
        drop(clusters);
        self.keep();
        Ok(Some(seat))
    }

    /// Nothing rests on the file: what is not kept is told again.
    fn keep(&self) {
        let Some(path) = &self.path else { return };
        let path = path.lock().unwrap_or_else(PoisonError::into_inner);
        let clusters = self.read();
        let kept = |entry: &Entry| Some((entry.signed.clone()?, entry.removed.clone()));
        let kept = Kept(clusters.entries.values().filter_map(kept).collect());
        drop(clusters);
        if let Ok(bytes) = kept.to_wire() {
            let _ = replace(&path, &bytes);
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Clusters> {
        self.clusters.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember_removed(&self, seat: Option<Seat>, removed: Vec<Member>) {
        let mut clusters = self.clusters.write().unwrap_or_else(PoisonError::into_inner);
        for entry in clusters.entries.values_mut().filter(|entry| Some(entry.seat) == seat) {
            entry.remember_removed(removed.clone());
        }
    }

    /// This node is in no in-sync set any more, and need not be heard.
    pub fn forget_removed(&self, node: &NodeId) {
        let mut clusters = self.clusters.write().unwrap_or_else(PoisonError::into_inner);
        for entry in clusters.entries.values_mut() {
            entry.removed.retain(|member| member.key.node_id() != *node);
        }
    }

    /// Who was removed from clusters, with their seats: they may be in an in-sync set still.
    pub fn removed(&self) -> Vec<(Seat, Member)> {
        let clusters = self.read();
        let of =
            |entry: &Entry| entry.removed.clone().into_iter().map(|member| (entry.seat, member)).collect::<Vec<_>>();
        clusters.entries.values().flat_map(of).collect()
    }

    /// The newest memberships that the auth node has signed.
    pub fn signed(&self) -> Vec<SignedMembership> {
        self.read().entries.values().filter_map(|entry| entry.signed.clone()).collect()
    }

    /// The newest memberships of all clusters that hold seats.
    pub fn memberships(&self) -> Vec<Membership> {
        let clusters = self.read();
        let held = clusters.entries.values().filter(|entry| !entry.gone);
        held.map(|entry| entry.newest.clone()).collect()
    }

    /// The newest membership of a seat's cluster, with its signature unless the chain itself has said so.
    pub fn signed_of(&self, seat: Seat) -> Option<SignedMembership> {
        self.read().holding(seat)?.signed.clone()
    }

    /// The newest membership of a seat's cluster.
    pub fn of(&self, seat: Seat) -> Option<Membership> {
        self.read().holding(seat).map(|entry| entry.newest.clone())
    }

    /// The seat whose cluster a node is a member of. A cluster that was removed with the newest epoch still counts.
    pub fn seat_of(&self, node: &NodeId) -> Option<Seat> {
        self.read().of_node(node).map(|entry| entry.seat)
    }

    /// A member.
    pub fn member(&self, node: &NodeId) -> Option<Member> {
        self.read().of_node(node)?.newest.members.get(node).cloned()
    }

    /// All members with their seats, also those of clusters that were removed with the newest epoch.
    pub fn all(&self) -> Vec<(Seat, Member)> {
        self.read().entries.values().flat_map(Entry::members).collect()
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
    use standin_foundation::Height;

    use super::*;
    use crate::epoch::EpochSeat;
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
            clients: Default::default(),
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
        let (chain, cluster) = (genesis().digest(), "a".parse().unwrap());
        Membership { chain, cluster, listed: Epoch(0), version, members }
    }

    #[test]
    fn a_newer_membership_stands_in_the_place_of_the_older_and_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("members");
        let book = MemberBook::open(&path, &genesis(), None).unwrap();
        let id = |n| key(n).public().node_id();
        assert_eq!((book.seat_of(&id(1)), book.seat_of(&id(3))), (Some(Seat(0)), None));
        assert_eq!(book.note(with(2, &[1, 3]).sign(&key(9))).unwrap(), Some(Seat(0)));
        assert_eq!(book.note(with(1, &[1]).sign(&key(9))).unwrap(), None, "an older one comes late");
        assert_eq!(book.seat_of(&id(3)), Some(Seat(0)));
        drop(book);
        let again = MemberBook::open(&path, &genesis(), None).unwrap();
        assert_eq!((again.seat_of(&id(3)), again.all().len()), (Some(Seat(0)), 3));
        again.note(with(3, &[3]).sign(&key(9))).unwrap();
        assert_eq!(again.seat_of(&id(1)), None, "it was removed");
        again.note(with(4, &[4]).sign(&key(9))).unwrap();
        drop(again);
        let again = MemberBook::open(&path, &genesis(), None).unwrap();
        let removed = |book: &MemberBook| book.removed().into_iter().map(|(_, m)| m.key).collect::<Vec<_>>();
        assert_eq!(removed(&again), [key(1).public(), key(3).public()], "both may be in a set still");
        again.forget_removed(&id(3));
        again.note(with(5, &[1, 4]).sign(&key(9))).unwrap();
        assert_eq!(removed(&again), [], "one is a member again");
        fs::write(&path, b"rot").unwrap();
        assert!(MemberBook::open(&path, &genesis(), None).unwrap_err().to_string().contains("delete the file"));
    }

    /// Whoever was removed is let in until the next epoch begins, unless another holds the number; after a restart not at all.
    #[test]
    fn clusters_come_and_go_with_the_epochs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("members");
        let book = MemberBook::open(&path, &genesis(), None).unwrap();
        let id = |n| key(n).public().node_id();
        book.note(with(1, &[1, 3]).sign(&key(9))).unwrap();
        let mut next = EpochTable { epoch: Epoch(1), after: Height(64), ..genesis().epoch_table() };
        next.seats.remove(&Seat(0));
        book.begin(&next);
        assert_eq!((book.seat_of(&id(3)), book.of(Seat(0)).is_some()), (Some(Seat(0)), false), "heard still");
        assert_eq!(MemberBook::open(&path, &genesis(), Some(&next)).unwrap().seat_of(&id(3)), None);
        let member = |n| Member { address: "h:1".to_owned(), site: "s".to_owned(), ..Member::from(key(n).public()) };
        let added = |listed, members: &[u8]| EpochSeat {
            cluster: "e".parse().unwrap(),
            members: members.iter().map(|n| member(*n)).collect(),
            listed: Epoch(listed),
            since: Epoch(listed),
            base: None,
        };
        next.epoch = Epoch(2);
        next.seats.insert(Seat(0), added(2, &[5]));
        let late = Membership { cluster: "e".parse().unwrap(), listed: Epoch(2), ..with(1, &[5, 6]) };
        assert_eq!(book.note(late.clone().sign(&key(9))), Err(LedgerError::UnknownEpoch(Epoch(2))));
        book.begin(&next);
        assert_eq!((book.seat_of(&id(3)), book.seat_of(&id(5))), (None, Some(Seat(0))));
        assert_eq!(book.note(late.clone().sign(&key(9))).unwrap(), Some(Seat(0)));
        // A list of a later order stands before every one that came before it, and another key signs.
        next.epoch = Epoch(3);
        next.auth = Some(key(8).public());
        next.seats.insert(Seat(0), added(3, &[5]));
        book.begin(&next);
        assert_eq!(book.seat_of(&id(6)), None);
        assert_eq!(book.note(Membership { version: 9, ..late.clone() }.sign(&key(9))).unwrap(), None);
        let new = Membership { listed: Epoch(3), ..late };
        assert!(book.note(new.clone().sign(&key(9))).is_err() && book.note(new.sign(&key(8))).is_ok());
        assert_eq!(book.memberships().len(), 2);
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
