//! The grants that a node knows, shared by all that judge votes, and kept over restarts.
//!
//! Nothing rests on their durability: a grant proves itself, and what was lost with the power is fetched again. So they are
//! written and not waited for.

use std::path::Path;
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};

use standin_foundation::wire::Wire;
use standin_foundation::{Digest, NodeId, Seat, Term};

use crate::certificate::{Authority, SeatVote, Verdict, VoteTarget};
use crate::error::LedgerError;
use crate::grant::{GrantTable, Noted, SignedGrant};
use crate::log::{Log, LogError, LogOptions};

/// Size of a segment of the grants' log, in bytes.
const SEGMENT_BYTES: u64 = 64 * 1024;

/// A table of grants that many threads read, with its file.
#[derive(Debug)]
pub struct GrantBook {
    table: RwLock<GrantTable>,
    log: Option<Mutex<Log>>,
}

impl GrantBook {
    /// A book that is not kept: of a chain whose seats are fixed, or for one look.
    pub fn unkept(table: GrantTable) -> Self {
        Self { table: RwLock::new(table), log: None }
    }

    /// Opens the book in `folder`, or makes a new one, on top of `table`.
    pub fn open(folder: &Path, mut table: GrantTable) -> Result<Self, LogError> {
        let options = LogOptions { segment_bytes: SEGMENT_BYTES, chain: *table.chain() };
        let (log, recovered) = Log::open(folder, options)?;
        for (_, bytes) in recovered.records {
            // What another version wrote, or for a cluster that is gone, is fetched again when it is needed.
            let noted = SignedGrant::from_wire(&bytes).map(|grant| table.note(grant));
            if let Ok(Err(error)) = noted {
                return Err(LogError::Foreign { path: folder.to_owned(), what: error.to_string() });
            }
        }
        Ok(Self { table: RwLock::new(table), log: Some(Mutex::new(log)) })
    }

    /// Checks a grant and takes it in.
    pub fn note(&self, grant: SignedGrant) -> Result<Noted, LedgerError> {
        // Most grants come many times: only a new one shuts out those that judge votes.
        if self.read().knows(&grant) {
            return Ok(Noted::Known);
        }
        let noted = self.table.write().unwrap_or_else(PoisonError::into_inner).note(grant.clone())?;
        if matches!(noted, Noted::Newest(_) | Noted::Older) {
            self.keep(&grant);
        }
        Ok(noted)
    }

    fn keep(&self, grant: &SignedGrant) {
        let Some(log) = &self.log else { return };
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(bytes) = grant.to_wire() {
            // A grant that is not kept is fetched again; a full disk is told by those that cannot go on with it.
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

    /// The grant of a seat for a term.
    pub fn grant(&self, seat: Seat, term: Term) -> Option<SignedGrant> {
        self.read().grant(seat, term).cloned()
    }

    /// All grants that are known, by seat and rising term.
    pub fn all(&self) -> Vec<SignedGrant> {
        self.read().all().cloned().collect()
    }

    /// Up to `count` terms below the newest whose grants are not known here, of all seats.
    pub fn missing(&self, count: usize) -> Vec<(Seat, Term)> {
        self.read().missing(count)
    }

    /// Whether votes of a seat under this term cannot be judged here before its grant is known.
    pub fn lacks(&self, seat: Seat, term: Term) -> bool {
        let table = self.read();
        table.is_granted(seat) && term > Term(0) && table.grant(seat, term).is_none()
    }

    /// The node that speaks for a seat now, as far as is known here.
    pub fn holder(&self, seat: Seat) -> Option<NodeId> {
        let table = self.read();
        let term = table.term(seat);
        let holder = table.holder(seat, term).copied();
        drop(table);
        holder.map(|key| key.node_id())
    }
}

impl Authority for GrantBook {
    fn seats(&self) -> usize {
        self.read().seats()
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

    use standin_foundation::{ClusterId, Epoch, Incarnation, SecretKey};

    use super::*;
    use crate::grant::{Cause, Grant};
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
        drop(book);
        let error = GrantBook::open(folder.path(), table(8)).unwrap_err().to_string();
        assert!(error.contains("signature is not valid"), "the auth node's key is another one: {error}");
    }
}
