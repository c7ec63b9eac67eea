//! The server's own copy of the frames, in files, with an index in memory.
//!
//! It is made of the node's blocks and can be made of them again, so nothing waits for its disk: what a crash takes from its end comes again
//! from the blocks behind the last height that it has. A file that is damaged is no loss either: the journal begins anew.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use standin_foundation::wire::Wire;
use standin_foundation::{Digest, Encoder, Height};
use standin_ledger::log::{Log, LogError, LogOptions, Place};

use super::recent::Recent;
use crate::frame::{Content, Entry};
use crate::ids::{Sequence, Topic};
use crate::machine::session::Found;

/// A mark of the height is made after so many blocks without a frame: so far back a start has to look at the most.
const MARK_EVERY: u64 = 512;
/// Bytes of a record before the content: kind or topic, and height.
const MARK: u8 = 0;
const FRAME: u8 = 1;

/// The journal. Cheap to clone; all clones see the same.
#[derive(Debug, Clone)]
pub struct Journal {
    folder: PathBuf,
    shared: Arc<RwLock<Inner>>,
}

#[derive(Debug)]
struct Inner {
    log: Log,
    retention_bytes: u64,
    /// The last block that it has seen.
    height: Height,
    /// The last that stands in a file.
    marked: Height,
    index: BTreeMap<Topic, VecDeque<Indexed>>,
    recent: Recent,
}

/// A frame, as the index has it.
#[derive(Debug, Clone, Copy)]
struct Indexed {
    first: Sequence,
    count: u16,
    place: Place,
}

impl Journal {
    /// Opens it, or makes a new one. One that is damaged, or of another chain, begins anew.
    pub fn open(folder: &Path, options: LogOptions, retention_bytes: u64) -> Result<Self, LogError> {
        match Self::open_sound(folder, options, retention_bytes) {
            Err(error @ (LogError::Damaged { .. } | LogError::AnotherChain { .. })) => {
                tracing::warn!(%error, "the journal begins anew, from the node's blocks");
                fs::remove_dir_all(folder).map_err(|source| LogError::Io { path: folder.to_owned(), source })?;
                Self::open_sound(folder, options, retention_bytes)
            }
            opened => opened,
        }
    }

    fn open_sound(folder: &Path, options: LogOptions, retention_bytes: u64) -> Result<Self, LogError> {
        let (mut height, mut index) = (Height(0), BTreeMap::<Topic, VecDeque<Indexed>>::new());
        let mut unreadable = false;
        let (log, _) = Log::open_visiting(folder, options, |_, place, payload| match read_record(&payload) {
            Some(Record { height: at, frame: None }) => height = at,
            Some(Record { height: at, frame: Some((topic, entry, _)) }) => {
                // Others of its block may have been lost: it is looked at once more.
                height = height.max(at.previous());
                note(index.entry(topic).or_default(), &entry, place);
            }
            None => unreadable = true,
        })?;
        if unreadable {
            return Err(LogError::Damaged {
                path: folder.to_owned(),
                offset: 0,
                what: "a record is not the journal's",
            });
        }
        let inner = Inner { log, retention_bytes, height, marked: height, index, recent: Recent::default() };
        Ok(Self { folder: folder.to_owned(), shared: Arc::new(RwLock::new(inner)) })
    }

    /// The last block that it has seen.
    pub fn height(&self) -> Height {
        self.read_lock(|inner| inner.height)
    }

    /// Forgets everything: what comes next is not what follows.
    pub fn restart_at(&self, height: Height) -> Result<(), LogError> {
        self.write_lock(|inner| {
            inner.log.roll()?;
            let next = inner.log.next();
            inner.log.cut_before(next)?;
            inner.index.clear();
            inner.recent.clear();
            inner.height = height;
            inner.mark()
        })
    }

    /// Takes in the frames of a block. What it has already is passed over.
    /// `published` tells up to where a topic was published: what is behind that is never forgotten.
    pub fn append(
        &self,
        height: Height,
        frames: &[(Topic, Entry, Content)],
        published: impl Fn(Topic) -> Sequence,
    ) -> Result<(), LogError> {
        self.write_lock(|inner| {
            for (topic, entry, content) in frames {
                inner.append(height, *topic, entry, content)?;
            }
            inner.height = inner.height.max(height);
            match frames.is_empty() {
                false => inner.log.write_out()?,
                true if height.0 >= inner.marked.0 + MARK_EVERY => inner.mark()?,
                true => {}
            }
            inner.forget(published)
        })
    }

    /// Makes everything durable: a start that follows looks at no block twice.
    pub fn close(&self) -> Result<(), LogError> {
        self.write_lock(|inner| {
            inner.mark()?;
            inner.log.sync().map(drop)
        })
    }

    /// What there is at a place of a topic.
    pub fn find(&self, topic: Topic, first: Sequence) -> Result<Found, LogError> {
        let found = self.read_lock(|inner| {
            let frames = inner.index.get(&topic)?;
            let place = frames.binary_search_by_key(&first, |indexed| indexed.first);
            Some(match place {
                Ok(place) => Ok(frames.get(place).copied()),
                Err(0) => {
                    Err(frames.front().map_or(Found::Beyond, |indexed| Found::Forgotten { first: indexed.first }))
                }
                Err(place) if place == frames.len() => Err(Found::Beyond),
                Err(_) => Err(Found::Within),
            })
        });
        match found {
            None | Some(Ok(None)) => Ok(Found::Beyond),
            Some(Err(found)) => Ok(found),
            Some(Ok(Some(indexed))) => Ok(Found::Frame(self.read(topic, &indexed)?.0)),
        }
    }

    /// The frame that begins at a sequence.
    pub fn frame(&self, topic: Topic, first: Sequence) -> Result<Option<(Entry, Content)>, LogError> {
        let indexed = self.read_lock(|inner| {
            let frames = inner.index.get(&topic)?;
            let place = frames.binary_search_by_key(&first, |indexed| indexed.first).ok()?;
            frames.get(place).copied()
        });
        indexed.map(|indexed| self.read(topic, &indexed)).transpose()
    }

    /// The frame that a datum is in.
    pub fn frame_of(&self, topic: Topic, sequence: Sequence) -> Result<Option<(Entry, Content)>, LogError> {
        let indexed = self.read_lock(|inner| {
            let frames = inner.index.get(&topic)?;
            let behind = frames.partition_point(|indexed| indexed.first <= sequence);
            frames.get(behind.checked_sub(1)?).copied()
        });
        let holds = |indexed: &Indexed| sequence.0 < indexed.first.0.saturating_add(u64::from(indexed.count));
        let indexed = indexed.filter(holds);
        indexed.map(|indexed| self.read(topic, &indexed)).transpose()
    }

    /// The chain behind the frame that ends at a datum; none if nothing is kept of it, or no frame ends there.
    pub fn chain_behind(&self, topic: Topic, last: Sequence) -> Result<Option<Digest>, LogError> {
        if let Some((entry, _)) = self.frame_of(topic, last)? {
            return Ok((entry.last() == last).then_some(entry.chain));
        }
        // The frame behind it knows it, too.
        let next = last.next().map(|next| self.frame(topic, next)).transpose()?.flatten();
        Ok(next.map(|(entry, _)| entry.before))
    }

    /// The first and the last datum of a topic that are kept.
    pub fn range(&self, topic: Topic) -> Option<(Sequence, Sequence)> {
        self.read_lock(|inner| {
            let frames = inner.index.get(&topic)?;
            let (first, last) = (frames.front()?, frames.back()?);
            Some((first.first, Sequence((last.first.0 + u64::from(last.count)).saturating_sub(1))))
        })
    }

    fn read(&self, topic: Topic, indexed: &Indexed) -> Result<(Entry, Content), LogError> {
        if let Some(recent) = self.read_lock(|inner| inner.recent.get(topic, indexed.first).cloned()) {
            return Ok(recent);
        }
        let damaged = |what| LogError::Damaged { path: self.folder.clone(), offset: indexed.place.offset, what };
        let payload = Bytes::from(indexed.place.read(&self.folder)?);
        let record = read_record(&payload).and_then(|record| record.frame);
        let sound = record.filter(|(_, entry, content)| content.hash() == entry.content);
        sound
            .map(|(_, entry, content)| (entry, content))
            .ok_or_else(|| damaged("a record is not the frame that it was"))
    }

    fn read_lock<T>(&self, read: impl FnOnce(&Inner) -> T) -> T {
        read(&self.shared.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write_lock<T>(&self, write: impl FnOnce(&mut Inner) -> T) -> T {
        write(&mut self.shared.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Inner {
    fn append(&mut self, height: Height, topic: Topic, entry: &Entry, content: &Content) -> Result<(), LogError> {
        let frames = self.index.entry(topic).or_default();
        if frames.back().is_some_and(|last| entry.first < last.next()) {
            return Ok(());
        }
        let mut head = Encoder::with_capacity(160);
        head.u8(FRAME).u64(height.0).bytes(topic.as_str().as_bytes());
        head.bytes(&entry.to_wire().unwrap_or_default());
        let (_, place) = self.log.append_placed(&[&head.into_bytes(), content.bytes()])?;
        self.marked = height;
        note(self.index.entry(topic).or_default(), entry, place);
        self.recent.put(topic, *entry, content.clone());
        Ok(())
    }

    fn mark(&mut self) -> Result<(), LogError> {
        let mut record = Encoder::default();
        record.u8(MARK).u64(self.height.0);
        self.log.append(&[&record.into_bytes()])?;
        self.marked = self.height;
        self.log.write_out()
    }

    /// Drops the oldest files beyond what is to be kept.
    fn forget(&mut self, published: impl Fn(Topic) -> Sequence) -> Result<(), LogError> {
        while self.log.bytes() > self.retention_bytes
            && let Some(second) = self.log.second_segment()
        {
            let waits = |(topic, frames): (&Topic, &VecDeque<Indexed>)| {
                let behind = frames.partition_point(|indexed| indexed.place.segment < second);
                let last = behind.checked_sub(1).and_then(|last| frames.get(last));
                last.is_some_and(|last| last.next().0.saturating_sub(1) > published(*topic).0)
            };
            if self.index.iter().any(waits) {
                break;
            }
            self.log.cut_before(second)?;
            let first = self.log.first();
            for frames in self.index.values_mut() {
                let gone = frames.partition_point(|indexed| indexed.place.segment < first);
                frames.drain(..gone);
            }
        }
        Ok(())
    }
}

impl Indexed {
    /// The sequence behind it.
    fn next(&self) -> Sequence {
        Sequence(self.first.0.saturating_add(u64::from(self.count)))
    }
}

/// Adds a frame to those of its topic.
fn note(frames: &mut VecDeque<Indexed>, entry: &Entry, place: Place) {
    let next = frames.back().map_or(entry.first, Indexed::next);
    if entry.first != next {
        // Blocks are missing between: from what was before nobody could go on.
        frames.clear();
    }
    frames.push_back(Indexed { first: entry.first, count: entry.count, place });
}

struct Record {
    height: Height,
    frame: Option<(Topic, Entry, Content)>,
}

fn read_record(payload: &Bytes) -> Option<Record> {
    let mut input = standin_foundation::Decoder::new(payload);
    let (kind, height) = (input.u8().ok()?, Height(input.u64().ok()?));
    if kind == MARK {
        return Some(Record { height, frame: None });
    }
    let topic = std::str::from_utf8(input.bytes(64).ok()?).ok()?.parse().ok()?;
    let entry = Entry::from_wire(input.bytes(256).ok()?).ok()?;
    let content = Content::parse(payload.slice(input.offset()..)).ok()?;
    Some(Record { height, frame: Some((topic, entry, content)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::tests::content;

    fn topic(name: &str) -> Topic {
        name.parse().unwrap()
    }

    fn open(folder: &Path) -> Journal {
        let options = LogOptions { segment_bytes: 4_096, chain: Digest::sha256(b"chain") };
        Journal::open(folder, options, 16_384).unwrap()
    }

    fn fill(journal: &Journal, name: &str, from: u64, count: u64) -> Vec<Entry> {
        let mut before = journal.chain_behind(topic(name), Sequence(from - 1)).unwrap().unwrap_or_default();
        let mut entries = Vec::new();
        for n in from..from + count {
            let content = content(&[&format!("{name}-{n}-{}", "x".repeat(60))]);
            let entry = Entry::following(&before, Sequence(n), &content).unwrap();
            journal.append(Height(n), &[(topic(name), entry, content)], |_| Sequence(u64::MAX)).unwrap();
            before = entry.chain;
            entries.push(entry);
        }
        entries
    }

    #[test]
    fn frames_are_found_after_opening_again_and_blocks_are_followed_from_where_it_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let journal = open(folder.path());
        let entries = fill(&journal, "a", 1, 20);
        fill(&journal, "b", 1, 3);
        journal.append(Height(40), &[], |_| Sequence(0)).unwrap();
        journal.close().unwrap();
        drop(journal);
        let journal = open(folder.path());
        assert_eq!(journal.height(), Height(40));
        assert_eq!(journal.range(topic("a")), Some((Sequence(1), Sequence(20))));
        assert_eq!(journal.find(topic("a"), Sequence(7)).unwrap(), Found::Frame(entries[6]));
        assert_eq!(journal.find(topic("a"), Sequence(21)).unwrap(), Found::Beyond);
        assert_eq!(journal.find(topic("c"), Sequence(1)).unwrap(), Found::Beyond);
        let (entry, content) = journal.frame(topic("a"), Sequence(7)).unwrap().unwrap();
        assert_eq!((entry, content.hash()), (entries[6], entries[6].content));
        assert_eq!(journal.chain_behind(topic("a"), Sequence(20)).unwrap(), Some(entries[19].chain));
        // The same block once more changes nothing.
        fill(&journal, "b", 1, 3);
        assert_eq!(journal.range(topic("b")), Some((Sequence(1), Sequence(3))));
    }

    /// H18: what is forgotten is said to be, with what is left.
    #[test]
    fn h18_what_is_forgotten_is_never_a_silent_gap() {
        let folder = tempfile::tempdir().unwrap();
        let journal = open(folder.path());
        fill(&journal, "a", 1, 300);
        let (first, last) = journal.range(topic("a")).unwrap();
        assert!(first > Sequence(1) && last == Sequence(300), "{first}");
        assert_eq!(journal.find(topic("a"), Sequence(1)).unwrap(), Found::Forgotten { first });
        assert!(matches!(journal.find(topic("a"), first).unwrap(), Found::Frame(_)));
        let bytes: u64 = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
        assert!(bytes <= 16_384 + 4_096, "{bytes}");
        drop(journal);
        assert_eq!(open(folder.path()).range(topic("a")), Some((first, last)));
    }

    /// H7, H15: whatever a crash leaves of the last file, what is read is what was written, and the rest comes from blocks.
    #[test]
    fn h7_a_journal_that_is_cut_anywhere_has_a_beginning_of_what_it_had() {
        let folder = tempfile::tempdir().unwrap();
        let entries = fill(&open(folder.path()), "a", 1, 10);
        let file = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        let whole = fs::read(&file).unwrap();
        for end in (64..whole.len()).step_by(7) {
            let mut cut = whole.clone();
            cut[end..].fill(0);
            fs::write(&file, cut).unwrap();
            let journal = open(folder.path());
            let last = journal.range(topic("a")).map_or(0, |(_, last)| last.0);
            assert!(journal.height().0 < last.max(1), "the last block is looked at once more");
            for n in 1..=last {
                assert_eq!(journal.find(topic("a"), Sequence(n)).unwrap(), Found::Frame(entries[n as usize - 1]));
            }
            fill(&journal, "a", 1, 10);
            assert_eq!(journal.range(topic("a")), Some((Sequence(1), Sequence(10))), "cut at {end}");
        }
        let mut damaged = whole;
        damaged[200] ^= 1;
        fs::write(&file, damaged).unwrap();
        assert_eq!(open(folder.path()).height(), Height(0), "it begins anew");
    }

    /// A block whose frames were written in part is looked at once more, and one that is missing leaves no hole.
    #[test]
    fn h7_frames_of_a_block_that_was_cut_come_again_and_a_hole_is_no_history() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (content(&["a"]), content(&["b"]));
        let one = Entry::following(&Digest::ZERO, Sequence(1), &first).unwrap();
        let two = Entry::following(&one.chain, Sequence(2), &second).unwrap();
        let block = [(topic("a"), one, first), (topic("a"), two, second)];
        open(folder.path()).append(Height(9), &block[..1], |_| Sequence(0)).unwrap();
        let journal = open(folder.path());
        assert_eq!(journal.height(), Height(8));
        journal.append(Height(9), &block, |_| Sequence(0)).unwrap();
        assert_eq!(journal.range(topic("a")), Some((Sequence(1), Sequence(2))));
        let content = content(&["z"]);
        let far = Entry::following(&two.chain, Sequence(7), &content).unwrap();
        journal.append(Height(20), &[(topic("a"), far, content)], |_| Sequence(0)).unwrap();
        drop(journal);
        let journal = open(folder.path());
        assert_eq!(journal.range(topic("a")), Some((Sequence(7), Sequence(7))));
        assert_eq!(journal.chain_behind(topic("a"), Sequence(6)).unwrap(), Some(two.chain), "the first frame knows it");
    }

    /// What waits to be published is kept, however much that is.
    #[test]
    fn what_waits_is_never_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let journal = open(folder.path());
        let mut before = Digest::ZERO;
        for n in 1..=400 {
            let content = content(&[&"x".repeat(60)]);
            let entry = Entry::following(&before, Sequence(n), &content).unwrap();
            before = entry.chain;
            let published = Sequence(if n < 300 { 0 } else { n - 1 });
            journal.append(Height(n), &[(topic("a"), entry, content)], |_| published).unwrap();
            let first = journal.range(topic("a")).unwrap().0;
            assert!(if n < 300 { first == Sequence(1) } else { first > Sequence(1) || n < 305 }, "{n}: {first}");
        }
    }
}
