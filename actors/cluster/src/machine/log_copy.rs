//! A node's copy of the seat's log, from its base on, in memory.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use standin_foundation::{Digest, Height, Lsn};

use crate::messages::{Entry, Mark};

/// What a member must know of a record, besides its bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Description {
    /// The payload that stands next to it, and its size in bytes.
    pub carries: Option<(Digest, u32)>,
    /// Payloads that it names: whoever acknowledges it must hold them.
    pub names: Vec<Digest>,
    /// Everything live has been logged once more from this record on, for whoever has stored blocks up to this height.
    pub base: Option<(Lsn, Height)>,
}

/// Reads a record's description.
pub type Describe = fn(&Bytes) -> Description;

/// An entry with what is known of it here.
#[derive(Debug, Clone)]
struct Kept {
    entry: Entry,
    /// Number of its record in the node's log.
    sequence: u64,
    /// Payloads that it names and that no record before carried.
    lacks: Vec<Digest>,
    carries: Option<(Digest, u32)>,
    base: Option<(Lsn, Height)>,
}

impl Kept {
    fn carried(&self) -> Option<Digest> {
        self.carries.map(|(digest, _)| digest)
    }

    /// Bytes that it takes on its way to another member, about.
    fn bytes(&self) -> usize {
        self.entry.record.len() + 64 + self.carries.map_or(0, |(_, bytes)| bytes as usize)
    }
}

/// The copy.
#[derive(Debug)]
pub(super) struct LogCopy {
    describe: Describe,
    base: Mark,
    entries: VecDeque<Kept>,
    carried: BTreeSet<Digest>,
    /// Records that mark a base.
    bases: BTreeSet<Lsn>,
    /// Records that name a payload which no record before them carried.
    lacking: BTreeSet<Lsn>,
    durable: Lsn,
}

impl LogCopy {
    pub(super) fn new(describe: Describe, base: Mark) -> Self {
        Self {
            describe,
            base,
            entries: VecDeque::new(),
            carried: BTreeSet::new(),
            bases: BTreeSet::new(),
            lacking: BTreeSet::new(),
            durable: base.lsn,
        }
    }

    /// The last place.
    pub(super) fn head(&self) -> Mark {
        self.entries.back().map_or(self.base, |kept| Mark { lsn: kept.entry.lsn, hash: kept.entry.hash })
    }

    pub(super) fn describe(&self) -> Describe {
        self.describe
    }

    pub(super) fn base(&self) -> Mark {
        self.base
    }

    /// The place before the first record, learned after the records.
    pub(super) fn set_base(&mut self, base: Mark) {
        if self.entries.is_empty() || self.entries.front().is_some_and(|first| first.entry.lsn == base.lsn + 1) {
            self.base = base;
        }
    }

    fn index(&self, lsn: Lsn) -> Option<usize> {
        usize::try_from(lsn.checked_sub(self.base.lsn + 1)?).ok()
    }

    fn kept(&self, lsn: Lsn) -> Option<&Kept> {
        self.entries.get(self.index(lsn)?)
    }

    /// The hash at a record, or at the base.
    pub(super) fn hash_at(&self, lsn: Lsn) -> Option<Digest> {
        if lsn == self.base.lsn { Some(self.base.hash) } else { self.kept(lsn).map(|kept| kept.entry.hash) }
    }

    pub(super) fn contains(&self, mark: &Mark) -> bool {
        self.hash_at(mark.lsn) == Some(mark.hash)
    }

    /// The entry that follows the head, for a record.
    pub(super) fn next_entry(&self, record: Bytes) -> Entry {
        let head = self.head();
        let hash = Digest::sha256_of(&[head.hash.as_bytes(), &record]);
        Entry { lsn: head.lsn + 1, hash, record }
    }

    /// Appends the entry that follows the head. `sequence` is the number of its record in the node's log.
    pub(super) fn append(&mut self, entry: Entry, sequence: u64) {
        let Description { carries, names, base } = (self.describe)(&entry.record);
        let lacks: Vec<_> = names.into_iter().filter(|name| !self.carried.contains(name)).collect();
        if !lacks.is_empty() {
            self.lacking.insert(entry.lsn);
        }
        if base.is_some() {
            self.bases.insert(entry.lsn);
        }
        self.carried.extend(carries.map(|(digest, _)| digest));
        self.entries.push_back(Kept { entry, sequence, lacks, carries, base });
    }

    /// Drops the contents of the newest entries: their places stay.
    pub(super) fn forget_contents(&mut self) {
        for kept in self.entries.iter_mut().rev().take_while(|kept| !kept.entry.record.is_empty()) {
            (kept.entry.record, kept.lacks) = (Bytes::new(), Vec::new());
        }
        (self.carried, self.lacking) = (BTreeSet::new(), BTreeSet::new());
    }

    /// Drops what stands above `to`.
    pub(super) fn cut_back(&mut self, to: Lsn) {
        while self.entries.back().is_some_and(|kept| kept.entry.lsn > to) {
            if let Some(digest) = self.entries.pop_back().and_then(|kept| kept.carried()) {
                self.carried.remove(&digest);
            }
        }
        self.lacking.split_off(&(to + 1));
        self.bases.split_off(&(to + 1));
        // A payload may have been carried twice.
        self.carried.extend(self.entries.iter().filter_map(Kept::carried));
        self.durable = self.durable.min(to);
    }

    /// Drops what stands before `from`.
    pub(super) fn cut_front(&mut self, from: Lsn) {
        while self.entries.front().is_some_and(|kept| kept.entry.lsn < from) {
            if let Some(kept) = self.entries.pop_front() {
                self.base = Mark { lsn: kept.entry.lsn, hash: kept.entry.hash };
            }
        }
        self.carried = self.entries.iter().filter_map(Kept::carried).collect();
        self.lacking = self.lacking.split_off(&from);
        self.bases = self.bases.split_off(&from);
        self.durable = self.durable.max(self.base.lsn);
    }

    /// The node's log is durable up to this record.
    pub(super) fn persisted(&mut self, sequence: u64) {
        while self.kept(self.durable + 1).is_some_and(|kept| kept.sequence <= sequence) {
            self.durable += 1;
        }
    }

    /// The last record that is durable here with all before it.
    pub(super) fn durable(&self) -> Lsn {
        self.durable
    }

    /// The last record up to which everything is durable, payloads that are named included.
    pub(super) fn durable_with_payloads(&self) -> Lsn {
        let lacking = self.lacking.range(..=self.durable).filter_map(|lsn| self.kept(*lsn));
        let open = lacking.into_iter().find(|kept| !self.is_filled(kept));
        open.map_or(self.durable, |kept| kept.entry.lsn - 1)
    }

    fn is_filled(&self, kept: &Kept) -> bool {
        let carried_later = |digest: &Digest| {
            let durable = |other: &&Kept| other.entry.lsn <= self.durable && other.carried() == Some(*digest);
            self.carried.contains(digest) && self.entries.iter().any(|other| durable(&other))
        };
        kept.lacks.iter().all(carried_later)
    }

    /// The newest base mark at or below `released` that is durable here: its record, and the first to keep.
    pub(super) fn released_base(&self, released: Lsn) -> Option<(Lsn, Height)> {
        let limit = released.min(self.durable);
        let newest = self.bases.range(..=limit).next_back()?;
        self.kept(*newest).and_then(|kept| kept.base).filter(|(from, _)| *from > self.base.lsn + 1)
    }

    /// The height that the log's own base stands on: what was executed up to there cannot be had from the log.
    pub(super) fn base_height(&self) -> Height {
        let bases = self.bases.iter().filter_map(|lsn| self.kept(*lsn)).filter_map(|kept| kept.base);
        let own = bases.into_iter().find(|(from, _)| *from == self.base.lsn + 1);
        own.map_or(Height(0), |(_, height)| height)
    }

    /// Number in the node's log of this record.
    pub(super) fn sequence_of(&self, lsn: Lsn) -> Option<u64> {
        self.kept(lsn).map(|kept| kept.sequence)
    }

    /// Whether a record that carries this payload is in the log.
    pub(super) fn carries(&self, digest: &Digest) -> bool {
        self.carried.contains(digest)
    }

    /// Up to `count` entries behind `after`, of not more than `bytes` together with their payloads, but at least one.
    pub(super) fn after(&self, after: Lsn, count: usize, bytes: usize) -> Vec<Entry> {
        let start = self.index(after + 1).unwrap_or(0);
        let mut total = 0;
        let within = |kept: &&Kept| {
            let first = total == 0;
            total += kept.bytes();
            first || total <= bytes
        };
        self.entries.iter().skip(start).take(count).take_while(within).map(|kept| kept.entry.clone()).collect()
    }

    /// All entries.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().map(|kept| &kept.entry)
    }

    /// Places of the durable log: its head, then at doubling distances, and the base.
    pub(super) fn marks(&self) -> Vec<Mark> {
        let mut marks = Vec::new();
        let (mut lsn, mut step) = (self.durable, 1);
        while lsn > self.base.lsn {
            marks.extend(self.hash_at(lsn).map(|hash| Mark { lsn, hash }));
            lsn = lsn.saturating_sub(step);
            step *= 2;
        }
        marks.push(self.base);
        marks
    }
}
