//! The store: blocks, state and indices in parity-db, always as a materialisation that may be behind the durable log.
//!
//! parity-db's commit is not durable when it returns, and there is no call that waits for it. So nothing relies on it:
//! what must survive is in the log, and is cut off there only after [`Store::barrier`], which drops the database (that
//! drains and syncs it) and opens it again. After a crash the database is an exact prefix of what was committed, across
//! columns: a block is one commit, with the head in it.
//!
//! One owner, on a thread of its own. There is no `Arc` of the database.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parity_db::{ColumnOptions, CompressionType, Db, Options};
use serde::{Deserialize, Serialize};
use standin_foundation::wire::{Wire, WireError};
use standin_foundation::{Digest, Height};

use crate::block::Header;
use crate::certificate::{CheckpointCertificate, CheckpointResult, CommitCertificate};
use crate::receipt::{Outcome, Receipt};
use crate::snapshot::{RecentIds, Snapshot};
use crate::state::Write;
use crate::transaction::TransactionId;
use crate::trie::Trie;

/// Blocks by height: everything but the payloads.
const BLOCKS: u8 = 0;
/// Parts of blocks by (height, part): payloads and receipts, at most [`PART_BYTES`] each.
const PARTS: u8 = 1;
/// Heights by block hash.
const HASHES: u8 = 2;
/// Places of transactions by id.
const TRANSACTIONS: u8 = 3;
/// The state at the height that the flush mark names.
const STATE: u8 = 4;
/// Checkpoint results and certificates by height.
const CHECKPOINTS: u8 = 5;
/// Single values.
const META: u8 = 6;
const COLUMNS: u8 = 7;

/// Heights that are forgotten in one commit, at least.
const PRUNED_AT_ONCE: u64 = 64;

/// parity-db is made for values below 32 KiB.
const PART_BYTES: usize = 32 * 1024 - 64;

const CHAIN: &[u8] = b"chain";
const HEAD: &[u8] = b"head";
const FLUSHED: &[u8] = b"flushed";
const BASE: &[u8] = b"base";
const FIRST: &[u8] = b"first";
const RECENT: &[u8] = b"recent";

/// Why the store cannot be used. After any of these the node must stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The database failed.
    #[error("store {path}: {source}")]
    Database {
        /// The folder.
        path: PathBuf,
        /// What parity-db said.
        source: parity_db::Error,
    },
    /// The system refused.
    #[error("store {path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It belongs to another chain.
    #[error("store {path} belongs to another chain (genesis {found}, this node has {expected})")]
    AnotherChain {
        /// The folder.
        path: PathBuf,
        /// The genesis digest in it.
        found: Digest,
        /// The configured one.
        expected: Digest,
    },
    /// What stands in it cannot be right.
    #[error("store {path} is damaged: {what}; remove it and let this node resync from the others")]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Less space than must be kept free.
    #[error("store {path}: {free} bytes are free, {reserve} must stay free (store.reserve_bytes)")]
    Full {
        /// The folder.
        path: PathBuf,
        /// Free bytes.
        free: u64,
        /// Bytes to keep free.
        reserve: u64,
    },
}

/// How a store is kept.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The folder.
    pub path: PathBuf,
    /// The chain's genesis digest.
    pub chain: Digest,
    /// Bytes that must stay free on the file system: a full disk ends a memory-mapped database with SIGBUS.
    pub reserve_bytes: u64,
    /// Whether transactions can be looked up by id.
    pub index_transactions: bool,
    /// The newest blocks that [`Store::prune`] leaves; none for all.
    pub keep_blocks: Option<u64>,
}

/// A block as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredBlock {
    /// The header.
    pub header: Header,
    /// Its hash.
    pub hash: Digest,
    /// 2f+1 commits.
    pub certificate: CommitCertificate,
    /// Root over the receipts.
    pub receipts_root: Digest,
    /// Payloads, as the proposal names them.
    #[serde(skip)]
    pub payloads: Vec<Bytes>,
    /// A receipt for each transaction.
    #[serde(skip)]
    pub receipts: Vec<Receipt>,
}

impl Wire for StoredBlock {
    const NAME: &'static str = "store.block";
    const BYTES_MAX: usize = PART_BYTES;
}

/// What belongs to a block and may be large.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Body {
    payloads: Vec<Bytes>,
    receipts: Vec<Receipt>,
}

impl Wire for Body {
    const NAME: &'static str = "store.body";
    const BYTES_MAX: usize = 16 * 1024 * 1024;
}

/// What the store says of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredCheckpoint {
    /// The own result.
    pub result: CheckpointResult,
    /// The proof that it is everyone's, once there is one.
    pub certificate: Option<CheckpointCertificate>,
}

impl Wire for StoredCheckpoint {
    const NAME: &'static str = "store.checkpoint";
    const BYTES_MAX: usize = PART_BYTES;
}

/// The block that the store is based on: a snapshot's, or genesis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Base(Header);

impl Wire for Base {
    const NAME: &'static str = "store.base";
    const BYTES_MAX: usize = PART_BYTES;
}

/// An open store.
pub struct Store {
    options: StoreOptions,
    /// None only while a barrier is under way.
    database: Option<Db>,
    /// State changes since the last flush: the last write of each key.
    unflushed: BTreeMap<Bytes, Option<Bytes>>,
    head: Height,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.options.path).field("head", &self.head).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store, or makes a new one that holds the state at genesis.
    pub fn open(options: StoreOptions, genesis: &Trie) -> Result<Self, StoreError> {
        let path = &options.path;
        fs::create_dir_all(path).map_err(|source| StoreError::Io { path: path.clone(), source })?;
        check_space(&options)?;
        let is_new = !path.join("metadata").exists();
        let database = open_database(&options)?;
        if is_new {
            // The power may fail before parity-db gets round to it: then the database could never be opened again.
            sync_new(path).map_err(|source| StoreError::Io { path: path.clone(), source })?;
        }
        let mut store = Self { options, database: Some(database), unflushed: BTreeMap::new(), head: Height(0) };
        store.check_chain(genesis)?;
        store.head = store.number(HEAD)?;
        Ok(store)
    }

    /// Height of the last block.
    pub fn head(&self) -> Height {
        self.head
    }

    /// The height at which the stored state stands.
    pub fn flushed(&self) -> Result<Height, StoreError> {
        self.number(FLUSHED)
    }

    /// Adds the next block, in one commit. `writes` are kept in memory until [`Store::flush`].
    pub fn append(&mut self, block: &StoredBlock, writes: Vec<Write>) -> Result<(), StoreError> {
        check_space(&self.options)?;
        let height = block.header.height();
        let body = Body { payloads: block.payloads.clone(), receipts: block.receipts.clone() };
        let body = self.encode(&body)?;
        let mut changes = vec![
            (BLOCKS, key_of(height).to_vec(), Some(self.encode(block)?)),
            (HASHES, block.hash.as_bytes().to_vec(), Some(key_of(height).to_vec())),
            (META, HEAD.to_vec(), Some(key_of(height).to_vec())),
        ];
        for (part, bytes) in body.chunks(PART_BYTES).enumerate() {
            changes.push((PARTS, part_key(height, part as u32), Some(bytes.to_vec())));
        }
        if self.options.index_transactions {
            let place = |index: usize| [key_of(height).as_slice(), &(index as u32).to_be_bytes()].concat();
            for (index, Receipt { transaction, outcome }) in block.receipts.iter().enumerate() {
                // What comes a second time is found at its first place.
                let is_second = match outcome {
                    Outcome::Duplicate => true,
                    Outcome::Expired => self.transaction(transaction)?.is_some(),
                    _ => false,
                };
                if !is_second {
                    changes.push((TRANSACTIONS, transaction.as_bytes().to_vec(), Some(place(index))));
                }
            }
        }
        self.commit(changes)?;
        self.head = height;
        self.unflushed.extend(writes);
        Ok(())
    }

    /// Tells again what a block above the flush mark wrote, when it has been executed again after a restart.
    pub fn restore_writes(&mut self, writes: Vec<Write>) {
        self.unflushed.extend(writes);
    }

    /// Writes the state as it is after the block at the head, and the own result at this checkpoint.
    pub fn flush(&mut self, result: &CheckpointResult) -> Result<(), StoreError> {
        let checkpoint = StoredCheckpoint { result: *result, certificate: None };
        let mut changes: Vec<_> = std::mem::take(&mut self.unflushed)
            .into_iter()
            .map(|(key, value)| (STATE, key.to_vec(), value.map(|value| value.to_vec())))
            .collect();
        changes.push((CHECKPOINTS, key_of(result.height).to_vec(), Some(self.encode(&checkpoint)?)));
        changes.push((META, FLUSHED.to_vec(), Some(key_of(result.height).to_vec())));
        self.commit(changes)
    }

    /// Adds the proof of a checkpoint.
    pub fn certify(&mut self, certificate: &CheckpointCertificate) -> Result<(), StoreError> {
        let result = certificate.result;
        let checkpoint = StoredCheckpoint { result, certificate: Some(certificate.clone()) };
        let value = self.encode(&checkpoint)?;
        self.commit(vec![(CHECKPOINTS, key_of(result.height).to_vec(), Some(value))])
    }

    /// Puts a snapshot in the place of everything, and makes it durable.
    pub fn install(&mut self, snapshot: &Snapshot, certificate: &CheckpointCertificate) -> Result<(), StoreError> {
        let height = snapshot.header.height();
        let mut changes: Vec<_> = self.read_state()?.keys().map(|key| (STATE, key.to_vec(), None::<Vec<u8>>)).collect();
        changes.extend(snapshot.state.entries().into_iter().map(|(k, v)| (STATE, k.to_vec(), Some(v.to_vec()))));
        changes.extend(self.remembered(&snapshot.recent)?);
        let checkpoint = StoredCheckpoint { result: certificate.result, certificate: Some(certificate.clone()) };
        changes.push((CHECKPOINTS, key_of(height).to_vec(), Some(self.encode(&checkpoint)?)));
        changes.push((META, BASE.to_vec(), Some(self.encode(&Base(snapshot.header.clone()))?)));
        for mark in [HEAD, FLUSHED] {
            changes.push((META, mark.to_vec(), Some(key_of(height).to_vec())));
        }
        self.unflushed.clear();
        self.commit(changes)?;
        self.head = height;
        self.barrier()
    }

    /// Makes everything that was committed durable: drops the database, which drains and syncs it, and opens it again.
    pub fn barrier(&mut self) -> Result<(), StoreError> {
        drop(self.database.take());
        self.database = Some(open_database(&self.options)?);
        Ok(())
    }

    /// The snapshot at the flush mark, for a chain that remembers ids for `replay_window` heights; none if no state has
    /// ever been written.
    pub fn snapshot(&self, replay_window: u64) -> Result<Option<Snapshot>, StoreError> {
        let flushed = self.flushed()?;
        if flushed == Height(0) {
            return Ok(None);
        }
        let header = match self.block_without_body(flushed)? {
            Some(block) => block.header,
            None => self
                .decode::<Base>(self.get(META, BASE)?)?
                .map(|base| base.0)
                .ok_or_else(|| self.damaged(format!("the state stands at block {flushed}, which is not there")))?,
        };
        let mut state = Trie::default();
        for (key, value) in self.read_state()? {
            state.insert(key, value);
        }
        let recent = self.recent(flushed, replay_window)?;
        Ok(Some(Snapshot { header, state, recent }))
    }

    /// The ids that a chain at `height` remembers: those of the snapshot that the store began with, as far as they are
    /// within the window, and those in the blocks since.
    fn recent(&self, height: Height, window: u64) -> Result<RecentIds, StoreError> {
        let first = Height((height.0 + 1).saturating_sub(window).max(1));
        let base = self.base()?;
        let mut recent = Vec::new();
        if base >= first {
            let mut bytes = Vec::new();
            let mut part = 0;
            while let Some(more) = self.get(META, &recent_key(part))? {
                bytes.extend(more);
                part += 1;
            }
            let remembered = read_remembered(&bytes).ok_or_else(|| self.damaged("the remembered ids".to_owned()))?;
            recent.extend(remembered.into_iter().filter(|(height, _)| *height >= first));
        }
        for height in (first.max(base.next()).0..=height.0).map(Height) {
            let block = self.block(height)?.ok_or_else(|| self.damaged(format!("block {height} is not there")))?;
            let took_place = |receipt: &&Receipt| !matches!(receipt.outcome, Outcome::Duplicate | Outcome::Expired);
            let ids = block.receipts.iter().filter(took_place).map(|receipt| receipt.transaction).collect();
            recent.push((height, ids));
        }
        Ok(recent)
    }

    /// The block at `height`.
    pub fn block(&self, height: Height) -> Result<Option<StoredBlock>, StoreError> {
        let Some(mut block) = self.block_without_body(height)? else { return Ok(None) };
        let mut bytes = Vec::new();
        let mut part = 0;
        while let Some(more) = self.get(PARTS, &part_key(height, part))? {
            bytes.extend(more);
            part += 1;
        }
        let body = self.decode::<Body>(Some(bytes))?.unwrap_or_default();
        (block.payloads, block.receipts) = (body.payloads, body.receipts);
        Ok(Some(block))
    }

    /// The block at `height` without payloads and receipts.
    pub fn block_without_body(&self, height: Height) -> Result<Option<StoredBlock>, StoreError> {
        self.decode(self.get(BLOCKS, &key_of(height))?)
    }

    /// Height of the block with this hash.
    pub fn height_of(&self, hash: &Digest) -> Result<Option<Height>, StoreError> {
        Ok(self.get(HASHES, hash.as_bytes())?.and_then(|bytes| height_from(&bytes)))
    }

    /// Height of the block that a transaction stands in, and its place there.
    pub fn transaction(&self, id: &TransactionId) -> Result<Option<(Height, usize)>, StoreError> {
        let Some(place) = self.get(TRANSACTIONS, id.as_bytes())? else { return Ok(None) };
        let height = place.get(..8).and_then(height_from);
        let index = place.get(8..).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
        Ok(height.zip(index.map(|index| index as usize)))
    }

    /// The first checkpoint at or above `height`: the one that covers a block there.
    pub fn checkpoint_covering(&self, height: Height) -> Result<Option<StoredCheckpoint>, StoreError> {
        let database = self.database()?;
        let mut iterator = database.iter(CHECKPOINTS).map_err(|source| self.failed(source))?;
        iterator.seek(&key_of(height)).map_err(|source| self.failed(source))?;
        let found = iterator.next().map_err(|source| self.failed(source))?;
        self.decode(found.map(|(_, value)| value))
    }

    /// The newest proof of a checkpoint at or below the head.
    pub fn newest_certificate(&self) -> Result<Option<CheckpointCertificate>, StoreError> {
        let mut height = self.head.next();
        while height > Height(0) {
            height = self.checkpoint_before(height)?;
            let checkpoint = self.checkpoint_covering(height)?.filter(|found| found.result.height == height);
            if let Some(certificate) = checkpoint.and_then(|checkpoint| checkpoint.certificate) {
                return Ok(Some(certificate));
            }
        }
        Ok(None)
    }

    /// Height of the last checkpoint below `height`; genesis if there is none.
    pub fn checkpoint_before(&self, height: Height) -> Result<Height, StoreError> {
        let database = self.database()?;
        let mut iterator = database.iter(CHECKPOINTS).map_err(|source| self.failed(source))?;
        iterator.seek(&key_of(height)).map_err(|source| self.failed(source))?;
        while let Some((key, _)) = iterator.prev().map_err(|source| self.failed(source))? {
            // The first step back gives the entry that was sought itself, if it is there.
            if let Some(found) = height_from(&key).filter(|found| *found < height) {
                return Ok(found);
            }
        }
        Ok(Height(0))
    }

    /// The first block that the store has: what was before it came with a snapshot, or has been forgotten.
    pub fn first(&self) -> Result<Height, StoreError> {
        Ok(self.number(FIRST)?.max(self.base()?.next()))
    }

    /// Forgets the oldest blocks above what is to be kept, some at a time, with what leads to them; gives how many. Those since a checkpoint stay, so that
    /// receipts of what is kept can be proven. The state, and the proofs of epochs, are not of it.
    pub fn prune(&mut self) -> Result<u64, StoreError> {
        let Some(keep) = self.options.keep_blocks.filter(|keep| self.head.0 > *keep) else { return Ok(0) };
        // Those from before a snapshot, too: they are told of no more, and are still there. What it has skipped is passed over at once.
        let (marked, base) = (self.number(FIRST)?.max(Height(1)), self.base()?);
        let mut first = marked;
        if first <= base {
            first = self.next_stored(first)?.unwrap_or(base.next()).min(base.next());
        }
        // More go than come.
        let step = PRUNED_AT_ONCE.max(2 * (self.head.0 - self.checkpoint_before(self.head)?.0));
        let end = Height((self.head.0 - keep).min(first.0 + step - 1));
        let last = match self.checkpoint_before(end.next())? {
            checkpoint if checkpoint >= first => checkpoint,
            _ => end.min(base),
        };
        if last < first {
            return Ok(0);
        }
        let mut changes: Vec<Change> = Vec::new();
        for height in (first.0..=last.0).map(Height) {
            // The last one says where the interval of the first block begins that stays.
            let is_checkpoint = self.get(CHECKPOINTS, &key_of(height))?.is_some();
            if is_checkpoint && height < last {
                changes.push((CHECKPOINTS, key_of(height).to_vec(), None));
            }
            let Some(block) = self.block(height)? else { continue };
            changes.push((BLOCKS, key_of(height).to_vec(), None));
            changes.push((HASHES, block.hash.as_bytes().to_vec(), None));
            let mut part = 0;
            while self.get(PARTS, &part_key(height, part))?.is_some() {
                changes.push((PARTS, part_key(height, part), None));
                part += 1;
            }
            for Receipt { transaction, .. } in &block.receipts {
                // What stood here a second time has its first place elsewhere.
                if self.transaction(transaction)?.is_some_and(|(place, _)| place == height) {
                    changes.push((TRANSACTIONS, transaction.as_bytes().to_vec(), None));
                }
            }
        }
        // Where the interval of what was kept so far began.
        let before = Height(marked.0 - 1);
        if self.get(CHECKPOINTS, &key_of(before))?.is_some() {
            changes.push((CHECKPOINTS, key_of(before).to_vec(), None));
        }
        changes.push((META, FIRST.to_vec(), Some(key_of(last.next()).to_vec())));
        self.commit(changes)?;
        Ok(last.0 - first.0 + 1)
    }

    /// The lowest height at or above this one of which a block or a checkpoint is stored.
    fn next_stored(&self, height: Height) -> Result<Option<Height>, StoreError> {
        let mut lowest = None;
        for column in [BLOCKS, CHECKPOINTS] {
            let mut iterator = self.database()?.iter(column).map_err(|source| self.failed(source))?;
            iterator.seek(&key_of(height)).map_err(|source| self.failed(source))?;
            let next = iterator.next().map_err(|source| self.failed(source))?;
            let found = next.and_then(|(key, _)| height_from(&key));
            lowest = lowest.into_iter().chain(found).min();
        }
        Ok(lowest)
    }

    /// Height of the snapshot that the store began with; genesis if there was none.
    pub fn base(&self) -> Result<Height, StoreError> {
        Ok(self.decode::<Base>(self.get(META, BASE)?)?.map_or(Height(0), |base| base.0.height()))
    }

    fn remembered(&self, recent: &RecentIds) -> Result<Vec<Change>, StoreError> {
        let mut bytes = Vec::new();
        for (height, ids) in recent {
            bytes.extend_from_slice(&height.0.to_be_bytes());
            bytes.extend_from_slice(&(ids.len() as u64).to_be_bytes());
            ids.iter().for_each(|id| bytes.extend_from_slice(id.as_bytes()));
        }
        let parts = bytes.chunks(PART_BYTES).enumerate();
        let mut changes: Vec<Change> =
            parts.map(|(part, bytes)| (META, recent_key(part as u32), Some(bytes.to_vec()))).collect();
        // Whatever an earlier, longer list left behind must not be read as part of this one.
        let mut part = changes.len() as u32;
        while self.get(META, &recent_key(part))?.is_some() {
            changes.push((META, recent_key(part), None));
            part += 1;
        }
        Ok(changes)
    }

    fn read_state(&self) -> Result<BTreeMap<Bytes, Bytes>, StoreError> {
        let database = self.database()?;
        let mut iterator = database.iter(STATE).map_err(|source| self.failed(source))?;
        iterator.seek_to_first().map_err(|source| self.failed(source))?;
        let mut state = BTreeMap::new();
        while let Some((key, value)) = iterator.next().map_err(|source| self.failed(source))? {
            state.insert(key.into(), value.into());
        }
        Ok(state)
    }

    fn check_chain(&mut self, genesis: &Trie) -> Result<(), StoreError> {
        let expected = self.options.chain;
        match self.get(META, CHAIN)? {
            None => {
                let state = genesis.entries().into_iter().map(|(k, v)| (STATE, k.to_vec(), Some(v.to_vec())));
                let mark = (META, CHAIN.to_vec(), Some(expected.as_bytes().to_vec()));
                self.commit(state.chain([mark]).collect())
            }
            Some(found) if found == expected.as_bytes() => Ok(()),
            Some(found) => {
                let found = found.try_into().map(Digest).unwrap_or(Digest::ZERO);
                Err(StoreError::AnotherChain { path: self.options.path.clone(), found, expected })
            }
        }
    }

    fn number(&self, key: &[u8]) -> Result<Height, StoreError> {
        Ok(self.get(META, key)?.and_then(|bytes| height_from(&bytes)).unwrap_or_default())
    }

    fn database(&self) -> Result<&Db, StoreError> {
        self.database.as_ref().ok_or_else(|| self.damaged("a barrier failed before".to_owned()))
    }

    fn get(&self, column: u8, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.database()?.get(column, key).map_err(|source| self.failed(source))
    }

    fn commit(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        self.database()?.commit(changes).map_err(|source| self.failed(source))
    }

    fn encode<T: Wire>(&self, value: &T) -> Result<Vec<u8>, StoreError> {
        value.to_wire().map_err(|error| self.damaged(error.to_string()))
    }

    fn decode<T: Wire>(&self, bytes: Option<Vec<u8>>) -> Result<Option<T>, StoreError> {
        let decoded: Result<Option<T>, WireError> = bytes.map(|bytes| T::from_wire(&bytes)).transpose();
        decoded.map_err(|error| self.damaged(error.to_string()))
    }

    fn failed(&self, source: parity_db::Error) -> StoreError {
        database_error(&self.options.path, source)
    }

    fn damaged(&self, what: String) -> StoreError {
        StoreError::Damaged { path: self.options.path.clone(), what }
    }
}

type Change = (u8, Vec<u8>, Option<Vec<u8>>);

fn key_of(height: Height) -> [u8; 8] {
    height.0.to_be_bytes()
}

fn height_from(bytes: &[u8]) -> Option<Height> {
    bytes.try_into().ok().map(u64::from_be_bytes).map(Height)
}

fn part_key(height: Height, part: u32) -> Vec<u8> {
    [key_of(height).as_slice(), &part.to_be_bytes()].concat()
}

/// Reads what a snapshot's remembered ids were written as: height, count, ids, for each height. There may be many.
fn read_remembered(mut bytes: &[u8]) -> Option<RecentIds> {
    let mut recent = RecentIds::new();
    while !bytes.is_empty() {
        let (height, rest) = bytes.split_first_chunk().map(|(number, rest)| (u64::from_be_bytes(*number), rest))?;
        let (count, rest) = rest.split_first_chunk().map(|(number, rest)| (u64::from_be_bytes(*number), rest))?;
        let (ids, rest) = rest.split_at_checked(usize::try_from(count).ok()?.checked_mul(32)?)?;
        recent.push((Height(height), ids.as_chunks().0.iter().copied().map(Digest).collect()));
        bytes = rest;
    }
    Some(recent)
}

fn recent_key(part: u32) -> Vec<u8> {
    [RECENT, &part.to_be_bytes()].concat()
}

/// Stops before the disk is full.
fn check_space(options: &StoreOptions) -> Result<(), StoreError> {
    let stat = rustix::fs::statvfs(&options.path)
        .map_err(|error| StoreError::Io { path: options.path.clone(), source: error.into() })?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free >= options.reserve_bytes {
        return Ok(());
    }
    Err(StoreError::Full { path: options.path.clone(), free, reserve: options.reserve_bytes })
}

fn open_database(options: &StoreOptions) -> Result<Db, StoreError> {
    let ordered = || ColumnOptions { btree_index: true, ..ColumnOptions::default() };
    let uniform = || ColumnOptions { uniform: true, ..ColumnOptions::default() };
    let mut database = Options::with_columns(&options.path, COLUMNS);
    let columns = [
        (BLOCKS, ordered()),
        (PARTS, ColumnOptions { compression: CompressionType::Lz4, ..ColumnOptions::default() }),
        (HASHES, uniform()),
        (TRANSACTIONS, uniform()),
        (STATE, ordered()),
        (CHECKPOINTS, ordered()),
        (META, ordered()),
    ];
    for (column, wanted) in columns {
        if let Some(place) = database.columns.get_mut(usize::from(column)) {
            *place = wanted;
        }
    }
    Db::open_or_create(&database).map_err(|source| database_error(&options.path, source))
}

fn database_error(path: &Path, source: parity_db::Error) -> StoreError {
    let path = path.to_owned();
    match source {
        parity_db::Error::Corruption(what) => StoreError::Damaged { path, what },
        source => StoreError::Database { path, source },
    }
}

fn sync_new(path: &Path) -> io::Result<()> {
    File::open(path.join("metadata"))?.sync_all()?;
    File::open(path)?.sync_all()?;
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use standin_foundation::{Epoch, View};

    use super::*;
    use crate::builtin::Builtin;
    use crate::chain::tests::{chain, genesis, put, step};
    use crate::chain::{Chain, ExecutedBlock};

    fn options(path: &Path) -> StoreOptions {
        let chain = genesis(40).digest();
        StoreOptions { path: path.to_owned(), chain, reserve_bytes: 0, index_transactions: true, keep_blocks: None }
    }

    fn stored(executed: &ExecutedBlock) -> StoredBlock {
        StoredBlock {
            header: executed.header.clone(),
            hash: executed.hash,
            certificate: CommitCertificate {
                epoch: Epoch(0),
                view: View(0),
                height: executed.header.height(),
                digest: executed.header.proposal.digest(),
                votes: vec![],
            },
            receipts_root: executed.receipts_root,
            payloads: vec![Bytes::from(vec![executed.header.height().0 as u8; 100_000])],
            receipts: executed.receipts.clone(),
        }
    }

    fn grow(store: &mut Store, chain: &mut Chain, blocks: u64) -> Vec<StoredBlock> {
        (0..blocks)
            .map(|_| {
                let next = chain.height().0 + 1;
                let executed = step(chain, vec![put(next, next + 5)]);
                let block = stored(&executed);
                store.append(&block, executed.writes).unwrap();
                if let Some(result) = executed.checkpoint {
                    store.flush(&result).unwrap();
                }
                block
            })
            .collect()
    }

    /// What is kept is whole, what is forgotten is gone from every index, and the store opens with the same state and memory.
    #[test]
    fn old_blocks_are_forgotten_with_what_leads_to_them() {
        let folder = tempfile::tempdir().unwrap();
        let kept = |keep_blocks| StoreOptions { keep_blocks, ..options(folder.path()) };
        let mut chain = chain(10);
        let mut store = Store::open(kept(Some(30)), &genesis(10).state()).unwrap();
        let blocks = grow(&mut store, &mut chain, 200);
        let mut pruned = Vec::new();
        while let forgotten @ 1.. = store.prune().unwrap() {
            pruned.push(forgotten);
        }
        // A checkpoint every four blocks: 168 is the last one below the thirty.
        assert_eq!(pruned, [64, 64, 40]);
        assert_eq!((store.first().unwrap(), store.base().unwrap()), (Height(169), Height(0)));
        store.barrier().unwrap();
        drop(store);
        let store = Store::open(kept(None), &genesis(10).state()).unwrap();
        assert_eq!(store.first().unwrap(), Height(169));
        for (height, block) in (1..).map(Height).zip(&blocks) {
            let is_kept = height >= Height(169);
            let id = block.receipts[0].transaction;
            assert_eq!(store.block(height).unwrap().as_ref(), is_kept.then_some(block), "{height}");
            assert_eq!(store.height_of(&block.hash).unwrap(), is_kept.then_some(height));
            assert_eq!(store.transaction(&id).unwrap(), is_kept.then_some((height, 0)));
        }
        let snapshot = store.snapshot(10).unwrap().unwrap();
        assert_eq!(snapshot.state.root(), chain.state().root());
        assert_eq!(snapshot.recent.len(), 10);
        assert_eq!(store.checkpoint_before(Height(169)).unwrap(), Height(168), "the interval's beginning is known");
        assert_eq!(store.checkpoint_before(Height(168)).unwrap(), Height(0));
        let mut again =
            Store::open(StoreOptions { path: folder.path().join("other"), ..kept(Some(500)) }, &genesis(10).state())
                .unwrap();
        grow(&mut again, &mut crate::chain::tests::chain(10), 20);
        assert_eq!((again.prune().unwrap(), again.first().unwrap()), (0, Height(1)));
    }

    /// A node that is away again and again, and gets a snapshot each time, keeps no blocks from before for ever.
    #[test]
    fn what_lies_before_a_snapshot_is_forgotten_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        let kept = StoreOptions { keep_blocks: Some(20), path, ..options(folder.path()) };
        let (mut ahead, mut own) = (chain(10), chain(10));
        let mut store = Store::open(kept, &genesis(10).state()).unwrap();
        let old = grow(&mut store, &mut own, 40);
        let mut result = None;
        for next in 1..=400 {
            result = step(&mut ahead, vec![put(next, next + 5)]).checkpoint.or(result);
        }
        let certificate = CheckpointCertificate { epoch: Epoch(0), result: result.unwrap(), votes: vec![] };
        store.install(&ahead.snapshot(), &certificate).unwrap();
        assert_eq!(store.first().unwrap(), Height(401));
        let mut joined = Chain::from_snapshot(&genesis(10), Arc::new(Builtin), ahead.snapshot());
        grow(&mut store, &mut joined, 60);
        let mut rounds = 0;
        while store.prune().unwrap() > 0 {
            rounds += 1;
        }
        assert!(rounds <= 3, "what was skipped is passed over: {rounds}");
        assert_eq!(store.first().unwrap(), Height(441));
        for block in &old {
            assert_eq!(store.block(block.header.height()).unwrap(), None);
            assert_eq!(store.height_of(&block.hash).unwrap(), None);
            assert_eq!(store.transaction(&block.receipts[0].transaction).unwrap(), None);
        }
        assert!(store.block(Height(441)).unwrap().is_some());
        assert_eq!(store.checkpoint_before(Height(440)).unwrap(), Height(0), "and no checkpoint of theirs");
    }

    #[test]
    fn blocks_state_and_indices_are_there_after_a_barrier_and_after_opening_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut chain = chain(40);
        let mut store = Store::open(options(folder.path()), &genesis(40).state()).unwrap();
        let blocks = grow(&mut store, &mut chain, 10);
        store.barrier().unwrap();
        drop(store);
        let store = Store::open(options(folder.path()), &genesis(40).state()).unwrap();
        assert_eq!((store.head(), store.flushed().unwrap()), (Height(10), Height(8)));
        for block in &blocks {
            let height = block.header.height();
            assert_eq!(store.block(height).unwrap().as_ref(), Some(block));
            assert_eq!(store.height_of(&block.hash).unwrap(), Some(height));
            assert_eq!(store.transaction(&block.receipts[0].transaction).unwrap(), Some((height, 0)));
        }
        assert_eq!(store.checkpoint_covering(Height(5)).unwrap().unwrap().result.height, Height(8));
        assert_eq!(store.checkpoint_before(Height(8)).unwrap(), Height(4));
        assert_eq!(store.checkpoint_before(Height(3)).unwrap(), Height(0));
        let snapshot = store.snapshot(40).unwrap().unwrap();
        let mut again = Chain::from_snapshot(&genesis(40), Arc::new(Builtin), snapshot);
        for height in 9..=10 {
            step(&mut again, vec![put(height, height + 5)]);
        }
        assert_eq!((again.hash(), again.state().root()), (chain.hash(), chain.state().root()));
    }

    #[test]
    fn a_snapshot_takes_the_place_of_everything() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut ahead = chain(40);
        let mut source = Store::open(options(one.path()), &genesis(40).state()).unwrap();
        grow(&mut source, &mut ahead, 20);
        let mut behind = Store::open(options(two.path()), &genesis(40).state()).unwrap();
        grow(&mut behind, &mut chain(40), 6);
        let result = source.checkpoint_covering(Height(20)).unwrap().unwrap().result;
        let certificate = CheckpointCertificate { epoch: Epoch(0), result, votes: vec![] };
        behind.install(&ahead.snapshot(), &certificate).unwrap();
        drop(behind);
        let behind = Store::open(options(two.path()), &genesis(40).state()).unwrap();
        assert_eq!((behind.head(), behind.base().unwrap()), (Height(20), Height(20)));
        let snapshot = behind.snapshot(40).unwrap().unwrap();
        assert_eq!(snapshot.state_root(), result.state_root);
    }

    #[test]
    fn a_store_of_another_chain_and_a_full_disk_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        drop(Store::open(options(folder.path()), &genesis(40).state()).unwrap());
        let other = StoreOptions { chain: Digest::sha256(b"other"), ..options(folder.path()) };
        assert!(matches!(Store::open(other, &genesis(40).state()), Err(StoreError::AnotherChain { .. })));
        let full = StoreOptions { reserve_bytes: u64::MAX, ..options(folder.path()) };
        let error = Store::open(full, &genesis(40).state()).unwrap_err();
        assert!(error.to_string().contains("store.reserve_bytes"), "{error}");
    }
}
