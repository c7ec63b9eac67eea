//! A node's disk: what survives a crash, and what does not.

use std::collections::BTreeMap;
use std::sync::Arc;

use fastrand::Rng;
use standin_consensus::{Lsn, Record};
use standin_foundation::Height;
use standin_ledger::certificate::{CheckpointCertificate, CommitCertificate};
use standin_ledger::snapshot::Snapshot;
use standin_ledger::{Batch, Proposal};

/// A block in the store.
#[derive(Debug, Clone)]
pub struct StoredBlock {
    /// What was agreed on.
    pub proposal: Proposal,
    /// The proof.
    pub certificate: CommitCertificate,
    /// The payloads.
    pub batches: Vec<Arc<Batch>>,
}

/// The log and the store.
#[derive(Debug, Default)]
pub struct Disk {
    records: Vec<(Lsn, Record)>,
    /// Payloads that stand next to batch records.
    payloads: BTreeMap<Lsn, Arc<Batch>>,
    durable: Lsn,
    /// Blocks above the base, by rising height. They become durable some time after they were written.
    pub blocks: Vec<StoredBlock>,
    blocks_durable: usize,
    /// Nothing more fits: what is appended is refused, as by a system that says so.
    pub full: bool,
    /// Something was refused: the process must stop.
    pub refused: bool,
    /// What the blocks stand on: none is genesis.
    pub base: Option<(Snapshot, CheckpointCertificate)>,
}

impl Disk {
    /// Appends a record. It is lost in a crash until it is synced.
    pub fn append(&mut self, lsn: Lsn, record: Record, payload: Option<Arc<Batch>>) {
        if self.full {
            self.refused = true;
            return;
        }
        if let Some(batch) = payload {
            self.payloads.insert(lsn, batch);
        }
        self.records.push((lsn, record));
    }

    /// Number of the last record.
    pub fn last(&self) -> Lsn {
        self.records.last().map_or(self.durable, |(lsn, _)| *lsn)
    }

    /// Makes everything up to `lsn` durable.
    pub fn sync(&mut self, lsn: Lsn) {
        self.durable = self.durable.max(lsn);
    }

    /// The log is durable up to here.
    pub fn durable(&self) -> Lsn {
        self.durable
    }

    /// Drops records before `keep_from`, whose successors are durable.
    pub fn cut(&mut self, keep_from: Lsn) {
        self.records.retain(|(lsn, _)| *lsn >= keep_from);
        self.payloads.retain(|lsn, _| *lsn >= keep_from);
    }

    /// The store's barrier: everything written so far is durable.
    pub fn store_barrier(&mut self) {
        self.blocks_durable = self.blocks.len();
    }

    /// A process that starts again syncs what it finds, since it may have come from the page cache.
    pub fn reopen(&mut self) {
        self.durable = self.last();
    }

    /// The power fails: of what was not synced, a random beginning survives.
    pub fn crash(&mut self, rng: &mut Rng) {
        let survives = rng.u64(self.durable..=self.last().max(self.durable));
        self.records.retain(|(lsn, _)| *lsn <= survives);
        self.payloads.retain(|lsn, _| *lsn <= survives);
        self.durable = survives;
        let blocks = rng.usize(self.blocks_durable.min(self.blocks.len())..=self.blocks.len());
        self.blocks.truncate(blocks);
    }

    /// A snapshot takes the place of all blocks.
    pub fn install(&mut self, snapshot: Snapshot, certificate: CheckpointCertificate) {
        self.base = Some((snapshot, certificate));
        self.blocks.clear();
        self.blocks_durable = 0;
    }

    /// Height of the base.
    pub fn base_height(&self) -> Height {
        self.base.as_ref().map_or(Height(0), |(_, certificate)| certificate.result.height)
    }

    /// The block at `height`, if it is in the store.
    pub fn block(&self, height: Height) -> Option<&StoredBlock> {
        let index = height.0.checked_sub(self.base_height().0 + 1)?;
        self.blocks.get(index as usize)
    }

    /// What the log holds.
    pub fn records(&self) -> impl Iterator<Item = &(Lsn, Record)> {
        self.records.iter()
    }

    /// Whether a record that `fits` is durable.
    pub fn has_durable(&self, fits: impl Fn(&Record) -> bool) -> bool {
        self.records.iter().rev().any(|(lsn, record)| *lsn <= self.durable && fits(record))
    }

    /// Payloads that the log holds.
    pub fn payloads(&self) -> impl Iterator<Item = &Arc<Batch>> {
        self.payloads.values()
    }
}
