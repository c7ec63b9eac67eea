//! The grants that a node knows, shared by all that judge votes, and kept over restarts.
//!
//! Nothing rests on the durability of grants: each proves itself, and what was lost with the power is fetched again. So they are
//! written and not waited for. Epochs are waited for.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};

use serde::{Deserialize, Serialize};
use standin_foundation::wire::{Wire, WireError};
use standin_foundation::{ClusterId, Digest, Epoch, Height, NodeId, PublicKey, Seat, Seats, Term};

use crate::certificate::{Authority, SeatVote, Verdict, VoteTarget};
use crate::epoch::{EpochProof, EpochStart, EpochTable};
use crate::error::LedgerError;
use crate::grant::{Grant, GrantTable, Noted, SignedGrant};
use crate::log::{Log, LogError, LogOptions};

/// Size of a segment of the grants' log, in bytes.
const SEGMENT_BYTES: u64 = 64 * 1024;

/// A table of grants that many threads read, with its file.
#[derive(Debug)]
pub struct GrantBook {
    table: RwLock<GrantTable>,
    proofs: RwLock<BTreeMap<Epoch, EpochProof>>,
    log: Option<Mutex<Log>>,
}

/// Why the proof of an epoch is not taken in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EpochError {
    /// It proves nothing.
    #[error(transparent)]
    Unproven(#[from] LedgerError),
    /// It cannot be made durable.
    #[error("the proof of an epoch cannot be kept: {0}")]
    NotKept(#[from] LogError),
    /// It has no place in the book's file.
    #[error("the proof of an epoch cannot be kept: {0}")]
    TooLarge(WireError),
}

/// An entry of the book's file.
#[derive(Debug, Serialize, Deserialize)]
enum Entry {
    Grant(Box<SignedGrant>),
    Epoch(Box<EpochProof>),
}

impl Wire for Entry {
    const NAME: &'static str = "grant book's entry";
    const BYTES_MAX: usize = EpochProof::BYTES_MAX + 64;
}

impl GrantBook {
    /// A book that is not kept, for one look.
    pub fn unkept(table: GrantTable) -> Self {
        Self { table: RwLock::new(table), proofs: RwLock::default(), log: None }
    }

    /// Opens the book in `folder`, or makes a new one, on top of `table`.
    pub fn open(folder: &Path, mut table: GrantTable) -> Result<Self, LogError> {
        let options = LogOptions { segment_bytes: SEGMENT_BYTES, chain: *table.chain() };
        let (log, recovered) = Log::open(folder, options)?;
        let mut proofs = BTreeMap::new();
        for (_, bytes) in recovered.records {
            // What another version wrote, or an epoch that is not known here any more, is fetched again when it is needed.
            let noted = match Entry::from_wire(&bytes) {
                Ok(Entry::Grant(grant)) => table.note(*grant).map(drop),
                // It was checked when it was taken in, with grants that may stand behind it here.
                Ok(Entry::Epoch(proof)) => proof.table().map(|begun| {
                    table.begin(begun);
                    proofs.insert(proof.epoch(), *proof);
                }),
                Err(_) => Ok(()),
            };
            if let Err(error) = noted.or_else(|error| match error {
                LedgerError::UnknownEpoch(_) => Ok(()),
                error => Err(error),
            }) {
                return Err(LogError::Foreign { path: folder.to_owned(), what: error.to_string() });
            }
        }
        Ok(Self { table: RwLock::new(table), proofs: RwLock::new(proofs), log: Some(Mutex::new(log)) })
    }

    /// What is known, without the file.
    pub fn into_unkept(self) -> Self {
        Self { log: None, ..self }
    }

    /// Takes in the tables of epochs that this node has executed.
    pub fn begin(&self, tables: impl IntoIterator<Item = EpochTable>) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        tables.into_iter().for_each(|begun| table.begin(begun));
    }

    /// Checks the proof of an epoch and takes it in; says whether the epoch was not known here. The proof is durable before the
    /// epoch counts as known: records of the epoch may be durable before the store has its boundary, and could not be judged.
    pub fn note_epoch(&self, proof: EpochProof) -> Result<bool, EpochError> {
        let epoch = proof.epoch();
        if self.epoch_proof(epoch).is_some() {
            return Ok(false);
        }
        proof.verify(&*self.read())?;
        self.keep_epoch(proof)
    }

    /// Takes in the proof of an epoch whose boundary this node has executed itself; `before` are the tables of the epochs that it
    /// has been in, some of which it may know from a snapshot alone.
    pub fn keep_own_epoch(&self, proof: EpochProof, before: Vec<EpochTable>) -> Result<(), EpochError> {
        self.begin(before);
        self.keep_epoch(proof).map(drop)
    }

    fn keep_epoch(&self, proof: EpochProof) -> Result<bool, EpochError> {
        let (epoch, begun) = (proof.epoch(), proof.table()?);
        if self.epoch_proof(epoch).is_some() {
            return Ok(false);
        }
        if let Some(log) = &self.log {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            let bytes = Entry::Epoch(Box::new(proof.clone())).to_wire().map_err(EpochError::TooLarge)?;
            log.append(&[&bytes])?;
            log.sync()?;
        }
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = table.epoch() < epoch;
        table.begin(begun);
        drop(table);
        self.proofs.write().unwrap_or_else(PoisonError::into_inner).insert(epoch, proof);
        Ok(is_new)
    }

    /// Where an epoch begins, if it is known.
    pub fn epoch_start(&self, epoch: Epoch) -> Option<EpochStart> {
        self.read().table(epoch).map(EpochTable::start)
    }

    /// The lowest epoch whose proof is not kept here: it may not have begun yet, or be known from the chain alone.
    pub fn unproven_epoch(&self) -> Epoch {
        let proofs = self.proofs.read().unwrap_or_else(PoisonError::into_inner);
        (1..).map(Epoch).find(|epoch| !proofs.contains_key(epoch)).unwrap_or_default()
    }

    /// The proof that an epoch has begun, if it is kept here.
    pub fn epoch_proof(&self, epoch: Epoch) -> Option<EpochProof> {
        self.proofs.read().unwrap_or_else(PoisonError::into_inner).get(&epoch).cloned()
    }

    /// The proofs of all epochs that are kept here, by rising number.
    pub fn epoch_proofs(&self) -> Vec<EpochProof> {
        self.proofs.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The newest epoch that is known.
    pub fn epoch(&self) -> Epoch {
        self.read().epoch()
    }

    /// Checks a grant and takes it in.
    pub fn note(&self, grant: SignedGrant) -> Result<Noted, LedgerError> {
        // Most grants come many times: only a new one shuts out those that judge votes.
        if self.read().knows(&grant) {
            return Ok(Noted::Known);
        }
        let noted = self.table.write().unwrap_or_else(PoisonError::into_inner).note(grant.clone())?;
        if matches!(noted, Noted::Newest(_) | Noted::Older) {
            self.keep(grant);
        }
        Ok(noted)
    }

    fn keep(&self, grant: SignedGrant) {
        let Some(log) = &self.log else { return };
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(bytes) = Entry::Grant(Box::new(grant)).to_wire() {
            // What is not kept is fetched again; a full disk is told by those that cannot go on with it.
            let _ = log.append(&[&bytes]).and_then(|_| log.write_out());
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, GrantTable> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The chain's genesis digest.
    pub fn chain(&self) -> Digest {
        *self.read().chain()
    }

    /// The newest grant of a seat.
    pub fn newest(&self, seat: Seat) -> Option<SignedGrant> {
        self.read().newest(seat).cloned()
    }

    /// Whether this very grant is known.
    pub fn knows(&self, grant: &SignedGrant) -> bool {
        self.read().knows(grant)
    }

    /// The table of the newest epoch that is known.
    pub fn newest_table(&self) -> EpochTable {
        self.read().newest_table().clone()
    }

    /// The epoch since which this key has signed grants; none if another one does now, or none.
    pub fn issuer_since(&self, key: &PublicKey) -> Option<Epoch> {
        self.read().issuer_since(key)
    }

    /// The seat of a cluster, in the newest epoch.
    pub fn seat_of_cluster(&self, cluster: &ClusterId) -> Option<Seat> {
        self.read().seat_of_cluster(cluster)
    }

    /// Whether a term of a seat counts in an epoch: see [`GrantTable::counts_in`].
    pub fn counts_in(&self, epoch: Epoch, seat: Seat, term: Term) -> bool {
        self.read().counts_in(epoch, seat, term)
    }

    /// The seats that the newest epoch has named.
    pub fn named_seats(&self) -> Vec<Seat> {
        self.read().named_seats()
    }

    /// The grant of a seat for a term.
    pub fn grant(&self, seat: Seat, term: Term) -> Option<SignedGrant> {
        self.read().grant(seat, term).cloned()
    }

    /// All grants that are known, by seat and rising term.
    pub fn all(&self) -> Vec<SignedGrant> {
        self.read().all().cloned().collect()
    }

    /// The grants that are wanted, by seat and rising term.
    pub fn matching(&self, wanted: impl Fn(&Grant) -> bool) -> Vec<SignedGrant> {
        self.read().all().filter(|signed| wanted(&signed.grant)).cloned().collect()
    }

    /// Up to `count` terms below the newest whose grants are not known here, of all seats.
    pub fn missing(&self, count: usize) -> Vec<(Seat, Term)> {
        self.read().missing(count)
    }

    /// Whether a node may speak for a seat in a term of an epoch, as far as is known here.
    pub fn may_speak(&self, node: &NodeId, epoch: Epoch, seat: Seat, term: Term) -> bool {
        self.read().holder_in(epoch, seat, term).is_none_or(|holder| holder.node_id() == *node)
    }

    /// The key that speaks for a seat in a term of an epoch, as far as is known here.
    pub fn holder_in(&self, epoch: Epoch, seat: Seat, term: Term) -> Option<PublicKey> {
        self.read().holder_in(epoch, seat, term).copied()
    }

    /// Whether votes of a seat under this term cannot be judged here before its grant is known.
    pub fn lacks(&self, seat: Seat, term: Term) -> bool {
        self.read().lacks(seat, term)
    }

    /// The node that speaks for a seat now, as far as is known here.
    pub fn holder(&self, seat: Seat) -> Option<NodeId> {
        self.read().speaker(seat).map(PublicKey::node_id)
    }
}

impl Authority for GrantBook {
    fn seats(&self, epoch: Epoch) -> Option<Seats> {
        self.read().seats(epoch)
    }

    fn epoch_at(&self, height: Height) -> Epoch {
        self.read().epoch_at(height)
    }

    fn term(&self, seat: Seat) -> Term {
        self.read().term(seat)
    }

    fn judge(&self, target: &VoteTarget, vote: &SeatVote) -> Verdict {
        self.read().judge(target, vote)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use standin_foundation::{ClusterId, Incarnation, SecretKey};

    use super::*;
    use crate::grant::Cause;
    use crate::transaction::tests::key;

    fn grant(term: u64, holder: &SecretKey) -> SignedGrant {
        let grant = Grant {
            chain: Digest::ZERO,
            epoch: Epoch(0),
            cluster: "a".parse().unwrap(),
            term: Term(term),
            holder: holder.public(),
            in_sync: BTreeSet::from([holder.public().node_id()]),
            previous: Digest::ZERO,
            cause: Cause::First,
            incarnation: Incarnation(1),
            request: Digest::ZERO,
        };
        grant.sign(&key(9))
    }

    fn table(auth: u8) -> GrantTable {
        let cluster: ClusterId = "a".parse().unwrap();
        GrantTable::granted(Digest::ZERO, key(auth).public(), vec![cluster])
    }

    #[test]
    fn grants_outlive_a_restart_and_each_is_kept_once() {
        let folder = tempfile::tempdir().unwrap();
        let book = GrantBook::open(folder.path(), table(9)).unwrap();
        assert_eq!(book.holder(Seat(0)), None);
        assert_eq!(book.note(grant(1, &key(1))).unwrap(), Noted::Newest(Seat(0)));
        assert_eq!(book.note(grant(3, &key(2))).unwrap(), Noted::Newest(Seat(0)));
        assert_eq!(book.note(grant(3, &key(2))).unwrap(), Noted::Known);
        assert!(book.note(grant(4, &key(2)).grant.sign(&key(1))).is_err(), "another signed it");
        drop(book);
        let book = GrantBook::open(folder.path(), table(9)).unwrap();
        assert_eq!(book.holder(Seat(0)), Some(key(2).public().node_id()));
        assert_eq!(book.grant(Seat(0), Term(1)).unwrap(), grant(1, &key(1)));
        let may_speak = |signer, term| book.may_speak(&key(signer).public().node_id(), Epoch(0), Seat(0), Term(term));
        assert!(may_speak(1, 1) && may_speak(2, 3) && !may_speak(2, 1) && !may_speak(1, 3));
        drop(book);
        let error = GrantBook::open(folder.path(), table(8)).unwrap_err().to_string();
        assert!(error.contains("signature is not valid"), "the auth node's key is another one: {error}");
    }
}
