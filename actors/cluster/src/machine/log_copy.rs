//! A node's copy of the seat's log, from its base on, in memory.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

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
    /// Nothing waits for the record's release, unless it carries what an earlier one names: it goes to the other members with the next one
    /// that something waits for.
    pub may_wait: bool,
}

/// Reads a record's description; none if the record is of no known kind.
pub type Describe = fn(&Bytes) -> Option<Description>;

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
    /// The first record that carries each payload.
    carriers: BTreeMap<Digest, Lsn>,
    /// Records that mark a base.
    bases: BTreeSet<Lsn>,
    /// Records that name a payload which no record before them carried. Of those that are durable the first still lacks it.
    lacking: BTreeSet<Lsn>,
    /// The newest record whose release something waits for.
    urgent: Lsn,
    durable: Lsn,
}

fn chained(before: &Digest, record: &[u8]) -> Digest {
    Digest::sha256_of(&[before.as_bytes(), record])
}

impl LogCopy {
    pub(super) fn new(describe: Describe, base: Mark) -> Self {
        Self {
            describe,
            base,
            entries: VecDeque::new(),
            carriers: BTreeMap::new(),
            bases: BTreeSet::new(),
            lacking: BTreeSet::new(),
            urgent: base.lsn,
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
        Entry { lsn: head.lsn + 1, hash: chained(&head.hash, &record), record }
    }

    /// Whether the entry's hash is what stands before it and its record give.
    pub(super) fn is_chained(&self, entry: &Entry) -> bool {
        let before = entry.lsn.checked_sub(1).and_then(|lsn| self.hash_at(lsn));
        before.is_some_and(|before| chained(&before, &entry.record) == entry.hash)
    }

    /// Appends the entry that follows the head. `sequence` is the number of its record in the node's log. True if records before it have
    /// waited for the payload that it carries.
    pub(super) fn append(&mut self, entry: Entry, sequence: u64) -> bool {
        let Description { carries, names, base, may_wait } = (self.describe)(&entry.record).unwrap_or_default();
        let is_lacked = carries.is_some_and(|(digest, _)| self.is_lacked(&digest));
        if is_lacked || !may_wait {
            self.urgent = entry.lsn;
        }
        let lacks: Vec<_> = names.into_iter().filter(|name| !self.carriers.contains_key(name)).collect();
        if !lacks.is_empty() {
            self.lacking.insert(entry.lsn);
        }
        if base.is_some() {
            self.bases.insert(entry.lsn);
        }
        if let Some((digest, _)) = carries {
            self.carriers.entry(digest).or_insert(entry.lsn);
        }
        self.entries.push_back(Kept { entry, sequence, lacks, carries, base });
        is_lacked
    }

    fn is_lacked(&self, payload: &Digest) -> bool {
        self.lacking.iter().filter_map(|lsn| self.kept(*lsn)).any(|kept| kept.lacks.contains(payload))
    }

    /// Drops the contents of the newest entries: their places stay.
    pub(super) fn forget_contents(&mut self) {
        for kept in self.entries.iter_mut().rev().take_while(|kept| !kept.entry.record.is_empty()) {
            (kept.entry.record, kept.lacks) = (Bytes::new(), Vec::new());
        }
        (self.carriers, self.lacking) = (BTreeMap::new(), BTreeSet::new());
    }

    /// Drops what stands above `to`.
    pub(super) fn cut_back(&mut self, to: Lsn) {
        while self.entries.back().is_some_and(|kept| kept.entry.lsn > to) {
            self.entries.pop_back();
        }
        self.carriers.retain(|_, lsn| *lsn <= to);
        self.bases.split_off(&(to + 1));
        self.durable = self.durable.min(to);
        self.urgent = self.urgent.min(to);
        // What a record lacked may have come with one that is gone.
        let lacking = self.entries.iter().filter(|kept| !kept.lacks.is_empty()).map(|kept| kept.entry.lsn);
        self.lacking = lacking.collect();
        self.forget_filled();
    }

    /// Drops what stands before `from`.
    pub(super) fn cut_front(&mut self, from: Lsn) {
        while self.entries.front().is_some_and(|kept| kept.entry.lsn < from) {
            if let Some(kept) = self.entries.pop_front() {
                self.base = Mark { lsn: kept.entry.lsn, hash: kept.entry.hash };
            }
        }
        self.carriers = BTreeMap::new();
        for kept in &self.entries {
            if let Some(digest) = kept.carried() {
                self.carriers.entry(digest).or_insert(kept.entry.lsn);
            }
        }
        self.lacking = self.lacking.split_off(&from);
        self.bases = self.bases.split_off(&from);
        self.durable = self.durable.max(self.base.lsn);
    }

    /// The node's log is durable up to this record.
    pub(super) fn persisted(&mut self, sequence: u64) {
        while self.kept(self.durable + 1).is_some_and(|kept| kept.sequence <= sequence) {
            self.durable += 1;
        }
        self.forget_filled();
    }

    /// Passes over the records whose payloads have become durable.
    fn forget_filled(&mut self) {
        while let Some(first) = self.lacking.first().copied()
            && first <= self.durable
            && self.kept(first).is_none_or(|kept| self.is_filled(kept))
        {
            self.lacking.pop_first();
        }
    }

    /// The last record that is durable here with all before it.
    pub(super) fn durable(&self) -> Lsn {
        self.durable
    }

    /// For no record behind this one does anything wait. What stands before it and was followed, or read from the disk, may be waited for: it
    /// goes to the members with the next tick.
    pub(super) fn urgent(&self) -> Lsn {
        self.urgent
    }

    /// The last record up to which everything is durable, payloads that are named included.
    pub(super) fn durable_with_payloads(&self) -> Lsn {
        let open = self.lacking.first().filter(|first| **first <= self.durable);
        open.map_or(self.durable, |first| first - 1)
    }

    fn is_filled(&self, kept: &Kept) -> bool {
        kept.lacks.iter().all(|digest| self.carriers.get(digest).is_some_and(|lsn| *lsn <= self.durable))
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
        self.carriers.contains_key(digest)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn describe(bytes: &Bytes) -> Option<Description> {
        let text = std::str::from_utf8(bytes).unwrap();
        let digest = |name: &str| Digest::sha256(name.as_bytes());
        Some(Description {
            carries: text.strip_prefix('+').map(|name| (digest(name), 1)),
            names: text.strip_prefix('?').map(digest).into_iter().collect(),
            ..Description::default()
        })
    }

    fn log(records: &[&'static str]) -> LogCopy {
        let mut log = LogCopy::new(describe, Mark::default());
        for (sequence, record) in (1..).zip(records) {
            let entry = log.next_entry(Bytes::from_static(record.as_bytes()));
            log.append(entry, sequence);
        }
        log
    }

    #[test]
    fn l1_a_record_counts_when_the_payload_that_it_names_is_durable_and_no_more_when_that_is_cut_back() {
        let mut log = log(&["x", "?a", "?b", "+b", "+a", "y"]);
        for (durable, sound) in [(1, 1), (2, 1), (3, 1), (4, 1), (5, 5), (6, 6)] {
            log.persisted(durable);
            assert_eq!(log.durable_with_payloads(), sound, "durable up to {durable}");
        }
        log.cut_back(4);
        assert_eq!(log.durable_with_payloads(), 1, "the payload is gone with its record");
        let entry = log.next_entry(Bytes::from_static(b"+a"));
        log.append(entry, 9);
        log.persisted(9);
        assert_eq!(log.durable_with_payloads(), 5);
    }

    #[test]
    fn l1_a_payload_before_the_cut_does_not_serve_a_record_behind_it() {
        let mut log = log(&["+a", "x", "?a", "+a", "?a"]);
        log.persisted(5);
        assert_eq!(log.durable_with_payloads(), 5);
        log.cut_front(3);
        assert!(log.carries(&Digest::sha256(b"a")), "a later record carries it, too");
        assert_eq!(log.durable_with_payloads(), 5);
    }
}
