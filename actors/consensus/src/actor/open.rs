//! From the disk to a running replica: the log, the store, the chain, the machine.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use standin_foundation::wire::Wire;
use standin_foundation::{Digest, Epoch, Height, Lsn, Millis, Seat};
use standin_ledger::certificate::CheckpointResult;
use standin_ledger::seat_log::FoundLog;
use standin_ledger::store::{Store, StoreError, StoreOptions, StoredBlock};
use standin_ledger::{Batch, Chain, Genesis, StateMachine};

use super::executor::{ExecutionError, Ledger};
use super::served::Served;
use crate::config::Config;
use crate::machine::{Identity, Machine};
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

/// A replica as it was when it stopped.
pub(super) struct Opened {
    pub(super) machine: Machine,
    pub(super) ledger: Ledger,
    pub(super) payloads: BTreeMap<Digest, Arc<Batch>>,
    /// Own results since the last flush, to be told to the machine again.
    pub(super) results: Vec<CheckpointResult>,
}

pub(super) fn open(
    storage: &Storage,
    genesis: &Genesis,
    seat: Seat,
    config: Config,
    state_machine: &Arc<dyn StateMachine>,
    found: FoundLog,
) -> Result<Opened, OpenError> {
    let chain_digest = genesis.digest();
    let options = StoreOptions {
        path: storage.folder.join("store"),
        chain: chain_digest,
        reserve_bytes: storage.reserve_bytes,
        index_transactions: storage.index_transactions,
    };
    let mut store = Store::open(options, &genesis.state())?;
    let (chain, results, mut ledger_snapshots) = rebuild_chain(&mut store, genesis, state_machine)?;
    let next = found.next;
    let (mut records, mut payloads) = decode_log(found)?;
    let stable = last_stable(&records);
    for block in blocks_above(&store, stable)? {
        for payload in &block.payloads {
            let batch = Batch::parse(payload.clone()).map_err(ExecutionError::from)?;
            payloads.insert(batch.digest(), Arc::new(batch));
        }
        records.push(Record::Committed { proposal: block.header.proposal, certificate: block.certificate });
    }
    let identity = Identity { seat, seats: genesis.seats.len(), epoch: Epoch(0), parameters: genesis.parameters };
    let mut machine = Machine::restore(identity, config, Millis(0), records, store.head(), next, |digest| {
        payloads.contains_key(digest)
    });
    payloads.retain(|digest, _| machine.needs_payload(digest));
    let now_unix_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    machine.set_unix_ms_at_zero(now_unix_ms.as_millis() as u64);
    ledger_snapshots.retain(|height, _| *height >= stable);
    let mut ledger = Ledger { chain, store, served: Served::default(), snapshots: ledger_snapshots };
    if let (Some(certificate), Some(snapshot)) = (machine.stable_certificate(), ledger.snapshots.get(&stable)) {
        ledger.served.set_newest(snapshot.clone(), certificate.clone());
    }
    Ok(Opened { machine, ledger, payloads, results })
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

type Decoded = (Vec<Record>, BTreeMap<Digest, Arc<Batch>>);

fn decode_log(found: FoundLog) -> Result<Decoded, OpenError> {
    let mut records = Vec::with_capacity(found.pieces.len());
    let mut payloads = BTreeMap::new();
    let first = found.next - found.pieces.len() as u64;
    for (lsn, piece) in (first..).zip(found.pieces) {
        let record = Record::from_wire(&piece.record).map_err(|_| OpenError::UnknownRecord { lsn })?;
        if let Record::Batch(reference) = &record {
            let batch = Batch::parse(piece.payload).map_err(|_| OpenError::UnknownRecord { lsn })?;
            payloads.insert(reference.digest(), Arc::new(batch));
        }
        records.push(record);
    }
    Ok((records, payloads))
}

fn last_stable(records: &[Record]) -> Height {
    let stable = |record: &Record| match record {
        Record::Stable(certificate) => Some(certificate.result.height),
        _ => None,
    };
    records.iter().filter_map(stable).max().unwrap_or_default()
}

/// The store may hold final blocks whose records were not durable.
fn blocks_above(store: &Store, stable: Height) -> Result<Vec<StoredBlock>, StoreError> {
    let mut blocks = Vec::new();
    for height in stable.0.max(store.base()?.0) + 1..=store.head().0 {
        blocks.extend(store.block(Height(height))?);
    }
    Ok(blocks)
}
