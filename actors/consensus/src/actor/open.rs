//! From the disk to a running replica: the log, the store, the chain, the machine.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use standin_foundation::wire::Wire;
use standin_foundation::{Digest, Epoch, Height, Lsn, Millis, Seat, Seats};
use standin_ledger::certificate::{CheckpointCertificate, CheckpointResult};
use standin_ledger::error::LedgerError;
use standin_ledger::seat_log::FoundLog;
use standin_ledger::store::{Store, StoreError, StoreOptions, StoredBlock};
use standin_ledger::{Batch, Chain, Epochs, Genesis, GrantBook, StateMachine};

use super::executor::{ExecutionError, Ledger};
use super::served::Served;
use crate::config::Config;
use crate::machine::{Identity, Machine, Remains};
use crate::record::Record;

/// Where a replica's data lies, and how it is kept.
#[derive(Debug, Clone)]
pub struct Storage {
    /// The folder: `store/` is in it.
    pub folder: PathBuf,
    /// Bytes that must stay free.
    pub reserve_bytes: u64,
    /// Whether transactions can be looked up by id.
    pub index_transactions: bool,
    /// The newest blocks that are kept; none for all. Never fewer than the chain needs.
    pub keep_blocks: Option<u64>,
}

/// The least number of blocks that a node keeps: what a restart remembers ids from, and what others that are a little behind ask for.
fn keep_blocks_min(genesis: &Genesis) -> u64 {
    genesis.parameters.replay_window + 4 * genesis.parameters.window
}

/// Why a replica cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The blocks in the store.
    #[error("the store's blocks cannot be executed again: {0}")]
    Execution(#[from] ExecutionError),
    /// A record that this version does not know.
    #[error("record {lsn} of the log is of no known kind: it was written by another version")]
    UnknownRecord {
        /// Its number.
        lsn: Lsn,
    },
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// A replica as it was when it stopped, before its log has been judged.
pub(super) struct Opened {
    pub(super) log: DecodedLog,
    pub(super) stored: Stored,
    pub(super) ledger: Ledger,
    /// Own results since the last flush, to be told to the machine again.
    pub(super) results: Vec<CheckpointResult>,
}

pub(super) fn open(
    storage: &Storage,
    genesis: &Genesis,
    book: &GrantBook,
    state_machine: &Arc<dyn StateMachine>,
    found: FoundLog,
) -> Result<Opened, OpenError> {
    let options = StoreOptions {
        path: storage.folder.join("store"),
        chain: genesis.digest(),
        reserve_bytes: storage.reserve_bytes,
        index_transactions: storage.index_transactions,
        // Ids are remembered from blocks, and others may ask for what a window behind them holds.
        keep_blocks: storage.keep_blocks.map(|keep| keep.max(keep_blocks_min(genesis))),
    };
    let mut store = Store::open(options, &genesis.state())?;
    let (chain, results, mut ledger_snapshots) = rebuild_chain(&mut store, genesis, state_machine)?;
    let log = DecodedLog::read(found)?;
    book.begin(chain.entered_epochs());
    let stored = Stored::read(&store, &chain, log.stable(book))?;
    let stable = log.stable_certificate(book).or(stored.base.as_ref());
    let stable_height = stable.map_or(Height(0), |stable| stable.result.height);
    ledger_snapshots.retain(|height, _| *height >= stable_height);
    let mut ledger = Ledger { chain, store, served: Served::default(), snapshots: ledger_snapshots };
    if let (Some(certificate), Some(snapshot)) = (stable, ledger.snapshots.get(&stable_height)) {
        ledger.served.set_newest(snapshot.clone(), certificate.clone());
    }
    Ok(Opened { log, stored, ledger, results })
}

/// What a machine is restored with, besides what log and store hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Restoring {
    pub(super) identity: Identity,
    pub(super) config: Config,
    /// What the Unix clock showed, in ms, when the replica's time was zero.
    pub(super) unix_ms_at_zero: u64,
}

/// A machine, and the payloads that it needs.
pub(super) struct Restored {
    pub(super) machine: Machine,
    pub(super) payloads: BTreeMap<Digest, Arc<Batch>>,
}

impl Restoring {
    pub(super) fn new(genesis: &Genesis, seat: Seat, config: Config) -> Self {
        let seats = Seats::first(genesis.seats.len());
        let identity = Identity { seat, seats, parameters: genesis.parameters };
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self { identity, config, unix_ms_at_zero: now.as_millis() as u64 }
    }

    /// A machine that knows nothing but how far the store is, until its log has been judged.
    pub(super) fn blank(&self, stored: &Stored) -> Machine {
        let remains = Remains { executed: stored.head, epochs: stored.epochs.clone(), ..Remains::default() };
        Machine::restore(self.identity, self.config, Millis(0), remains, |_| false)
    }

    /// A machine that says nothing yet, from its seat's log and the store. The log has been judged.
    /// `known` is the newest epoch whose table is durable.
    pub(super) fn restore(
        &self,
        log: DecodedLog,
        stored: Stored,
        known: Epoch,
        now: Millis,
    ) -> Result<Restored, ExecutionError> {
        let DecodedLog { records, mut payloads, next, .. } = log;
        let Stored { head, base, blocks, epochs } = stored;
        let mut stored = Vec::with_capacity(blocks.len());
        for block in blocks {
            for payload in &block.payloads {
                let batch = Batch::parse(payload.clone())?;
                payloads.insert(batch.digest(), Arc::new(batch));
            }
            stored.push((block.header.proposal, block.certificate));
        }
        let holds = |digest: &Digest| payloads.contains_key(digest);
        let remains = Remains { base, records, blocks: stored, executed: head, epochs, known, next_lsn: next };
        let mut machine = Machine::restore(self.identity, self.config, now, remains, holds);
        payloads.retain(|digest, _| machine.needs_payload(digest));
        machine.set_unix_ms_at_zero(self.unix_ms_at_zero);
        Ok(Restored { machine, payloads })
    }
}

/// A seat's log, read.
#[derive(Debug)]
pub(super) struct DecodedLog {
    records: Vec<(Lsn, Record)>,
    payloads: BTreeMap<Digest, Arc<Batch>>,
    next: Lsn,
}

impl DecodedLog {
    pub(super) fn read(found: FoundLog) -> Result<Self, OpenError> {
        let mut records = Vec::with_capacity(found.pieces.len());
        let mut payloads = BTreeMap::new();
        let first = found.next - found.pieces.len() as u64;
        for (lsn, piece) in (first..).zip(found.pieces) {
            records.push((lsn, Record::from_wire(&piece.record).map_err(|_| OpenError::UnknownRecord { lsn })?));
            payloads.extend(piece.payload.map(|batch| (batch.digest(), batch)));
        }
        Ok(Self { records, payloads, next: found.next })
    }

    /// The last stable checkpoint that is logged, and proven by what is known now.
    pub(super) fn stable(&self, book: &GrantBook) -> Height {
        self.stable_certificate(book).map(|certificate| certificate.result.height).unwrap_or_default()
    }

    fn stable_certificate(&self, book: &GrantBook) -> Option<&CheckpointCertificate> {
        let stable = self.records.iter().filter_map(|(_, record)| match record {
            Record::Stable(certificate) => Some(certificate),
            _ => None,
        });
        let proven = stable.filter(|certificate| certificate.verify(book).is_ok());
        proven.max_by_key(|certificate| certificate.result.height)
    }

    /// The record at this place.
    pub(super) fn record(&self, place: usize) -> Option<&Record> {
        self.records.get(place).map(|(_, record)| record)
    }

    /// The places of records that say something to be final or stable and do not prove it, and why they do not. What the store has
    /// executed was judged before, and its blocks stand in the place of what the log says of them.
    pub(super) fn unproven(&self, stored: &Stored, book: &GrantBook) -> Vec<(usize, LedgerError)> {
        let is_old = |record: &Record| match record {
            Record::Committed { proposal, .. } => proposal.height <= stored.head,
            _ => false,
        };
        let records = self.records.iter().map(|(_, record)| record);
        let judged = records.enumerate().filter(|(_, record)| !is_old(record));
        judged.filter_map(|(place, record)| Some((place, check_proven(record, book).err()?))).collect()
    }

    /// Leaves the record at this place out; gives its number. Those behind it go first.
    pub(super) fn leave_out(&mut self, place: usize) -> Lsn {
        self.records.remove(place).0
    }
}

/// What a store holds that a machine must know of.
#[derive(Debug)]
pub(super) struct Stored {
    head: Height,
    /// The proof of the last checkpoint that the log need not prove: of the snapshot that the store began with, or of the newest
    /// one, where the log says of none that it is stable since it has just begun.
    base: Option<CheckpointCertificate>,
    /// Final blocks whose records may not be in the log.
    blocks: Vec<StoredBlock>,
    /// Where the epochs begin, as the chain at the head says.
    epochs: Epochs,
}

impl Stored {
    pub(super) fn read(store: &Store, chain: &Chain, above: Height) -> Result<Self, StoreError> {
        let (base, head) = (store.base()?, store.head());
        let certificate = match (above, base) {
            (Height(0), _) => store.newest_certificate()?,
            (_, Height(0)) => None,
            (_, base) => store.checkpoint_covering(base)?.and_then(|checkpoint| checkpoint.certificate),
        };
        let proven = certificate.as_ref().map_or(Height(0), |certificate| certificate.result.height);
        let mut blocks = Vec::new();
        for height in above.max(proven).0 + 1..=head.0 {
            blocks.extend(store.block(Height(height))?);
        }
        Ok(Self { head, base: certificate, blocks, epochs: chain.epochs() })
    }
}

type Rebuilt = (Chain, Vec<CheckpointResult>, BTreeMap<Height, standin_ledger::snapshot::Snapshot>);

/// The chain at the store's head: the flushed state, and the blocks since executed again.
fn rebuild_chain(
    store: &mut Store,
    genesis: &Genesis,
    state_machine: &Arc<dyn StateMachine>,
) -> Result<Rebuilt, OpenError> {
    let machine = Arc::clone(state_machine);
    let mut snapshots = BTreeMap::new();
    let mut results = Vec::new();
    let mut chain = match store.snapshot(genesis.parameters.replay_window)? {
        Some(snapshot) => {
            snapshots.insert(snapshot.header.height(), snapshot.clone());
            if let Some(checkpoint) = store.checkpoint_covering(snapshot.header.height())? {
                results.push(checkpoint.result);
            }
            Chain::from_snapshot(genesis, machine, snapshot)
        }
        None => Chain::new(genesis, machine),
    };
    while chain.height() < store.head() {
        let height = chain.height().next();
        let block = store.block(height)?.ok_or_else(|| StoreError::Damaged {
            path: PathBuf::from("store"),
            what: format!("block {height} is missing below the head {}", store.head()),
        })?;
        let batches: Result<Vec<_>, _> =
            block.payloads.iter().map(|payload| Batch::parse(payload.clone()).map(Arc::new)).collect();
        let batches = batches.map_err(ExecutionError::from)?;
        let executed = chain.execute(block.header.proposal, &batches).map_err(ExecutionError::from)?;
        store.restore_writes(executed.writes);
        if let Some(result) = executed.checkpoint {
            store.flush(&result)?;
            snapshots.insert(height, chain.snapshot());
            results.push(result);
        }
    }
    Ok((chain, results, snapshots))
}

/// A member takes its holder's word for what the seat has said, and for nothing else: what is final or stable must be
/// proven to it as to anyone.
pub(super) fn check_proven(record: &Record, book: &GrantBook) -> Result<(), LedgerError> {
    match record {
        Record::Committed { proposal, certificate } => {
            let is_for_it = certificate.digest == proposal.digest() && certificate.height == proposal.height;
            if !is_for_it {
                return Err(LedgerError::BadSignature { what: "a block's certificate for another proposal" });
            }
            certificate.verify(book)
        }
        Record::Stable(certificate) => certificate.verify(book),
        Record::Epoch(start) => match book.epoch_start(start.epoch) {
            Some(known) if known == *start => Ok(()),
            Some(known) => {
                Err(LedgerError::WrongEpoch { height: start.after, found: start.epoch, expected: known.epoch })
            }
            None => Err(LedgerError::UnknownEpoch(start.epoch)),
        },
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use standin_foundation::{Epoch, PublicKey, SecretKey, View};
    use standin_ledger::seat_log::LogPiece;
    use standin_ledger::{CommitCertificate, EpochStart, GrantTable, Proposal};

    use super::*;

    fn key(n: u8) -> PublicKey {
        SecretKey::from_bytes(&[n; 32]).unwrap().public()
    }

    fn committed(height: u64) -> Record {
        let proposal = Proposal {
            height: Height(height),
            epoch: Epoch(0),
            view: View(0),
            proposer: Seat(0),
            time_ms: 1,
            checkpoint: false,
            batches: Vec::new(),
        };
        let (height, digest) = (proposal.height, proposal.digest());
        let certificate = CommitCertificate { epoch: Epoch(0), view: View(0), height, digest, votes: Vec::new() };
        Record::Committed { proposal, certificate }
    }

    /// A holder that says something to be final and does not prove it stops nobody who read its log: it is left out.
    #[test]
    fn what_a_log_says_to_be_final_and_does_not_prove_is_left_out() {
        let records = [committed(3), committed(4), committed(5)];
        let piece = |record: &Record| LogPiece { record: record.to_wire().unwrap().into(), payload: None };
        let found = FoundLog { pieces: records.iter().map(piece).collect(), next: 12 };
        let mut log = DecodedLog::read(found).unwrap();
        let book = GrantBook::unkept(GrantTable::fixed(Digest::ZERO, (1..=4).map(key).collect()));
        let stored = Stored { head: Height(3), base: None, blocks: Vec::new(), epochs: Epochs::default() };
        let places: Vec<_> = log.unproven(&stored, &book).into_iter().map(|(place, _)| place).collect();
        assert_eq!(places, [1, 2], "what the store has executed was judged before");
        assert_eq!((log.leave_out(2), log.leave_out(1)), (11, 10));
        assert_eq!(log.records, [(9, committed(3))]);
    }

    /// A member takes its holder's word for what the seat has said, not for where an epoch begins.
    #[test]
    fn where_an_epoch_begins_is_proven_or_waited_for() {
        let book = GrantBook::unkept(GrantTable::fixed(Digest::ZERO, (1..=4).map(key).collect()));
        let begins = |epoch, after| {
            let start = EpochStart { epoch: Epoch(epoch), after: Height(after), seats: Seats::first(4) };
            check_proven(&Record::Epoch(start), &book)
        };
        assert_eq!(begins(0, 0), Ok(()));
        assert!(matches!(begins(0, 7), Err(LedgerError::WrongEpoch { .. })), "left out");
        assert_eq!(begins(1, 64), Err(LedgerError::UnknownEpoch(Epoch(1))), "asked for");
    }
}
