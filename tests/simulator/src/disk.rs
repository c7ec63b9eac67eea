//! A node's disk: what survives a crash, and what does not.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use fastrand::Rng;
use standin_cluster::NodeRecord;
use standin_cluster::machine::Found;
use standin_consensus::Record;
use standin_foundation::wire::Wire;
use standin_foundation::{Digest, Epoch, Height};
use standin_ledger::certificate::{CheckpointCertificate, CommitCertificate};
use standin_ledger::snapshot::Snapshot;
use standin_ledger::{Batch, EpochProof, Proposal};

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

/// A record with its number, and what it says to the seat's replica.
#[derive(Debug)]
struct Written {
    sequence: u64,
    record: NodeRecord,
    of_seat: Option<Record>,
    payload: Option<Arc<Batch>>,
}

/// The log and the store.
#[derive(Debug, Default)]
pub struct Disk {
    records: Vec<Written>,
    durable: u64,
    /// Number of the last record that was ever appended and survived.
    last: u64,
    /// Blocks above the base, by rising height. They become durable some time after they were written.
    pub blocks: Vec<StoredBlock>,
    blocks_durable: usize,
    /// Nothing more fits: what is appended is refused, as by a system that says so.
    pub full: bool,
    /// Something was refused: the process must stop.
    pub refused: bool,
    /// The end of the log was lost: the process may find a torn record there.
    pub torn: bool,
    /// Proofs of checkpoints, above the base.
    certified: BTreeMap<Height, CheckpointCertificate>,
    /// Proofs of the epochs that have begun.
    pub epochs: BTreeMap<Epoch, EpochProof>,
    /// What the blocks stand on: none is genesis.
    pub base: Option<(Snapshot, CheckpointCertificate)>,
}

/// Reads a record of the seat's replica.
pub fn decode(bytes: &Bytes) -> Record {
    Record::from_wire(bytes).unwrap_or_else(|error| panic!("a record of the seat's log does not decode: {error}"))
}

impl Disk {
    /// Appends a record. It is lost in a crash until it is synced.
    pub fn append(&mut self, sequence: u64, record: NodeRecord, payload: impl Fn(&Digest) -> Option<Arc<Batch>>) {
        if self.full {
            self.refused = true;
            return;
        }
        let of_seat = match &record {
            NodeRecord::Entry(entry) => Some(decode(&entry.record)),
            _ => None,
        };
        let payload = match &of_seat {
            Some(Record::Batch(reference)) => payload(&reference.digest()),
            _ => None,
        };
        self.last = sequence;
        self.records.push(Written { sequence, record, of_seat, payload });
    }

    /// Number of the last record.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Makes everything up to this record durable.
    pub fn sync(&mut self, sequence: u64) {
        self.durable = self.durable.max(sequence);
    }

    /// The log is durable up to here.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// Drops records before this one, whose successors are durable.
    pub fn cut(&mut self, sequence: u64) {
        self.records.retain(|written| written.sequence >= sequence);
    }

    /// The store's barrier: everything written so far is durable.
    pub fn store_barrier(&mut self) {
        self.blocks_durable = self.blocks.len();
    }

    /// A process that starts again syncs what it finds, since it may have come from the page cache.
    pub fn reopen(&mut self) {
        self.durable = self.last;
    }

    /// The power fails: of what was not synced, a random beginning survives.
    pub fn crash(&mut self, rng: &mut Rng, may_tear: bool) {
        let survives = rng.u64(self.durable..=self.last.max(self.durable));
        self.records.retain(|written| written.sequence <= survives);
        self.torn = survives < self.last && rng.bool() && may_tear;
        (self.durable, self.last) = (survives, survives);
        let blocks = rng.usize(self.blocks_durable.min(self.blocks.len())..=self.blocks.len());
        self.blocks.truncate(blocks);
        let head = self.head();
        self.certified.retain(|height, _| *height <= head);
    }

    /// A snapshot takes the place of all blocks.
    pub fn install(&mut self, snapshot: Snapshot, certificate: CheckpointCertificate) {
        self.base = Some((snapshot, certificate));
        self.blocks.clear();
        self.certified.clear();
        self.blocks_durable = 0;
    }

    /// Adds the proof of a checkpoint.
    pub fn certify(&mut self, certificate: CheckpointCertificate) {
        self.certified.insert(certificate.result.height, certificate);
    }

    fn head(&self) -> Height {
        self.base_height().plus(self.blocks.len() as u64)
    }

    /// The newest proof of a checkpoint at or below the head.
    pub fn newest_certificate(&self) -> Option<&CheckpointCertificate> {
        let certified = self.certified.range(..=self.head()).next_back().map(|(_, certificate)| certificate);
        certified.or(self.base.as_ref().map(|(_, certificate)| certificate))
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

    /// What a process finds that starts. `new_session` names the session of a log that has none.
    pub fn found(&mut self, new_session: u64) -> Found {
        let records = self.records.iter().map(|written| (written.sequence, written.record.clone())).collect();
        Found { records, next_sequence: self.last + 1, torn: std::mem::take(&mut self.torn), new_session }
    }

    /// Whether a record of the seat's log that `fits` is durable.
    pub fn has_durable(&self, fits: impl Fn(&Record) -> bool) -> bool {
        let is_durable = |written: &&Written| written.sequence <= self.durable;
        self.records.iter().rev().filter(is_durable).any(|written| written.of_seat.as_ref().is_some_and(&fits))
    }

    /// The batches that the log's proposal with this digest names.
    pub fn named_at(&self, height: Height, digest: Digest) -> Vec<Digest> {
        let names = |record: &Record| match record {
            Record::Accepted { proposal, .. } if proposal.height == height && proposal.digest() == digest => {
                Some(record.names())
            }
            _ => None,
        };
        self.records.iter().rev().filter_map(|written| written.of_seat.as_ref()).find_map(names).unwrap_or_default()
    }

    /// Whether a payload is durable here, in the log or in a block.
    pub fn has_payload(&self, digest: &Digest) -> bool {
        let is_durable = |written: &&Written| written.sequence <= self.durable;
        let mut logged = self.records.iter().filter(is_durable).filter_map(|written| written.payload.as_ref());
        logged.any(|batch| batch.digest() == *digest)
            || self.blocks.iter().flat_map(|block| &block.batches).any(|batch| batch.digest() == *digest)
    }

    /// Payloads that the log holds.
    pub fn payloads(&self) -> impl Iterator<Item = &Arc<Batch>> {
        self.records.iter().filter_map(|written| written.payload.as_ref())
    }
}
