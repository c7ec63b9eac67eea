//! The server's own copy of the frames, in files, with an index in memory.
//!
//! It is made of the node's blocks and can be made of them again, so nothing waits for its disk: what a crash takes from its end comes again
//! from the blocks behind the last height that it has. A file that is damaged is no loss either: the journal begins anew.
//!
//! The oldest file goes when there is more than is to be kept. Frames in it that still wait to be published are copied to the end first, and that
//! is waited for, since their blocks are behind that height: so a topic that nobody publishes keeps its own frames, and not those of all others.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::{fs, io};

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
/// Frames whose hashes begin alike that are looked at for one of them. By accident there are none.
const ALIKE_MAX: usize = 8;
/// Bytes that are copied ahead at one time: publishing must not wait for more.
const COPIED_BYTES: u64 = 1 << 20;
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
    /// The file that was the newest when it was last looked at how much may be kept; and that, in bytes.
    looked: (u64, u64),
    /// Something was copied ahead, and not synced since.
    copied: bool,
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
    /// The beginning of the content's hash.
    hash: u64,
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
        let (mut height, mut found) = (Height(0), BTreeMap::<Topic, BTreeMap<Sequence, Indexed>>::new());
        let mut unreadable = false;
        let (log, _) = Log::open_cutting(folder, options, |_, place, payload| match read_record(&payload) {
            Some(Record { height: at, frame: None }) => height = at,
            Some(Record { height: at, frame: Some((topic, entry, _)) }) => {
                // Others of its block may have been lost: it is looked at once more.
                height = height.max(at.previous());
                // One that was copied stands behind later ones, and perhaps twice.
                found.entry(topic).or_default().insert(entry.first, Indexed::of(&entry, place));
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
        let index = found.into_iter().map(|(topic, frames)| {
            let mut connected = VecDeque::with_capacity(frames.len());
            frames.into_values().for_each(|indexed| note(&mut connected, indexed));
            (topic, connected)
        });
        let (index, recent) = (index.collect(), Recent::default());
        let (looked, copied) = ((0, retention_bytes), false);
        let inner = Inner { log, retention_bytes, looked, copied, height, marked: height, index, recent };
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
            inner.forget(&self.folder, published)
        })
    }

    /// Takes in a frame that stands directly before what is kept of its topic, or, where nothing is, ends with the `last` that is queued; whether it did.
    pub(super) fn put_before(
        &self,
        topic: Topic,
        (entry, last): (&Entry, Sequence),
        content: &Content,
    ) -> Result<bool, LogError> {
        self.write_lock(|inner| {
            let front = inner.index.get(&topic).and_then(VecDeque::front);
            if front.map_or(entry.last() != last, |front| entry.next() != front.first) {
                return Ok(false);
            }
            let place = inner.write(inner.height, topic, entry, content)?;
            inner.log.write_out()?;
            inner.index.entry(topic).or_default().push_front(Indexed::of(entry, place));
            Ok(true)
        })
    }

    /// Forgets topics of which it has not the end, as `last` tells what is queued: what was forgotten in memory may stand in a file still, and nobody could go
    /// on from there.
    pub(super) fn keep_whole(&self, last: impl Fn(Topic) -> Sequence) {
        self.write_lock(|inner| {
            inner.index.retain(|topic, frames| {
                frames.back().is_some_and(|newest| newest.next().0.saturating_sub(1) >= last(*topic).0)
            });
        });
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
        self.look(topic, first).map(|(found, _)| found)
    }

    /// As [`Journal::find`], with the content of a frame.
    pub fn look(&self, topic: Topic, first: Sequence) -> Result<(Found, Option<Content>), LogError> {
        loop {
            let other = self.read_lock(|inner| {
                let frames = inner.index.get(&topic).filter(|frames| !frames.is_empty());
                let Some(frames) = frames else { return Some(Found::Beyond) };
                match frames.binary_search_by_key(&first, |indexed| indexed.first) {
                    Ok(_) => None,
                    Err(0) => {
                        Some(frames.front().map_or(Found::Beyond, |indexed| Found::Forgotten { first: indexed.first }))
                    }
                    Err(place) if place == frames.len() => Some(Found::Beyond),
                    Err(_) => Some(Found::Within),
                }
            });
            if let Some(other) = other {
                return Ok((other, None));
            }
            // None if it was forgotten in this moment: then that is what there is.
            if let Some((entry, content)) = self.frame(topic, first)? {
                return Ok((Found::Frame(entry), Some(content)));
            }
        }
    }

    /// The frame that begins at a sequence.
    pub fn frame(&self, topic: Topic, first: Sequence) -> Result<Option<(Entry, Content)>, LogError> {
        self.read(topic, |frames| {
            let place = frames.binary_search_by_key(&first, |indexed| indexed.first).ok()?;
            frames.get(place).copied()
        })
    }

    /// The frame that a datum is in.
    pub fn frame_of(&self, topic: Topic, sequence: Sequence) -> Result<Option<(Entry, Content)>, LogError> {
        self.read(topic, |frames| {
            let behind = frames.partition_point(|indexed| indexed.first <= sequence);
            frames.get(behind.checked_sub(1)?).filter(|indexed| sequence < indexed.next()).copied()
        })
    }

    /// The newest frame of a topic whose content has a hash. Of those whose hash begins alike a few are looked at.
    pub fn content(&self, topic: Topic, hash: &Digest) -> Result<Option<(Entry, Content)>, LogError> {
        let begins = beginning(hash);
        let firsts: Vec<_> = self.read_lock(|inner| {
            let frames = inner.index.get(&topic).into_iter().flatten().rev();
            let alike = frames.filter(|indexed| indexed.hash == begins).map(|indexed| indexed.first);
            alike.take(ALIKE_MAX).collect()
        });
        for first in firsts {
            if let Some(found) = self.frame(topic, first)?.filter(|(entry, _)| entry.content == *hash) {
                return Ok(Some(found));
            }
        }
        Ok(None)
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

    /// The frame that is looked up in the index. Between that and the reading its file may be cut: then it is looked up again.
    fn read(
        &self,
        topic: Topic,
        look: impl Fn(&VecDeque<Indexed>) -> Option<Indexed>,
    ) -> Result<Option<(Entry, Content)>, LogError> {
        let mut missing = None;
        loop {
            let found = self.read_lock(|inner| {
                let indexed = look(inner.index.get(&topic)?)?;
                Some((indexed.place, inner.recent.get(topic, indexed.first).cloned()))
            });
            let place = match found {
                None => return Ok(None),
                Some((_, Some(recent))) => return Ok(Some(recent)),
                Some((place, None)) => place,
            };
            let payload = match place.read(&self.folder) {
                Err(LogError::Io { source, .. })
                    if source.kind() == io::ErrorKind::NotFound && missing != Some(place) =>
                {
                    missing = Some(place);
                    continue;
                }
                read => Bytes::from(read?),
            };
            let record = read_record(&payload).and_then(|record| record.frame);
            let sound = record.filter(|(_, entry, content)| content.hash() == entry.content);
            let damaged = || LogError::Damaged {
                path: self.folder.clone(),
                offset: place.offset,
                what: "a record is not the frame that it was",
            };
            return sound.map(|(_, entry, content)| Some((entry, content))).ok_or_else(damaged);
        }
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
        let place = self.write(height, topic, entry, content)?;
        self.marked = height;
        note(self.index.entry(topic).or_default(), Indexed::of(entry, place));
        self.recent.put(topic, *entry, content.clone());
        Ok(())
    }

    fn write(&mut self, height: Height, topic: Topic, entry: &Entry, content: &Content) -> Result<Place, LogError> {
        let mut head = Encoder::with_capacity(160);
        head.u8(FRAME).u64(height.0).bytes(topic.as_str().as_bytes());
        head.bytes(&entry.to_wire().unwrap_or_default());
        self.log.append_placed(&[&head.into_bytes(), content.bytes()]).map(|(_, place)| place)
    }

    fn mark(&mut self) -> Result<(), LogError> {
        let mut record = Encoder::default();
        record.u8(MARK).u64(self.height.0);
        self.log.append(&[&record.into_bytes()])?;
        self.marked = self.height;
        self.log.write_out()
    }

    /// Drops the oldest files beyond what is to be kept; what waits in them is copied to the end first, some of it each time.
    ///
    /// Twice the waiting bytes may stay beyond what is to be kept, so that of what is gone through less is copied than dropped.
    fn forget(&mut self, folder: &Path, published: impl Fn(Topic) -> Sequence) -> Result<(), LogError> {
        if self.log.bytes() <= self.retention_bytes {
            return Ok(());
        }
        let newest = self.log.last_segment();
        if self.looked.0 != newest {
            let waiting: u64 = self.waiting(&published).map(|(_, indexed)| u64::from(indexed.place.length)).sum();
            self.looked = (newest, self.retention_bytes.saturating_add(waiting.saturating_mul(2)));
        }
        let mut left = COPIED_BYTES;
        while self.log.bytes() > self.looked.1
            && let Some(second) = self.log.second_segment()
        {
            if !self.copy_ahead(folder, second, &mut left, &published)? {
                break;
            }
            if std::mem::take(&mut self.copied) {
                self.log.sync()?;
            }
            self.log.cut_before(second)?;
            for frames in self.index.values_mut() {
                // Behind a frame that is gone a topic begins anew, also where earlier ones had been copied while they waited.
                let gone = frames.iter().rposition(|indexed| indexed.place.segment < second);
                frames.drain(..gone.map_or(0, |gone| gone + 1));
            }
        }
        Ok(())
    }

    /// The frames that wait to be published.
    fn waiting(&self, published: &impl Fn(Topic) -> Sequence) -> impl Iterator<Item = (Topic, Indexed)> {
        self.index.iter().flat_map(|(topic, frames)| {
            let published = published(*topic);
            let first = frames.partition_point(|indexed| indexed.next().0 <= published.0.saturating_add(1));
            frames.range(first..).map(|indexed| (*topic, *indexed))
        })
    }

    /// Copies what waits in files before `second` to the end, at most so many bytes; whether that is all. What cannot be read is there no more: other servers
    /// have it.
    fn copy_ahead(
        &mut self,
        folder: &Path,
        second: u64,
        left: &mut u64,
        published: &impl Fn(Topic) -> Sequence,
    ) -> Result<bool, LogError> {
        let in_front = |(_, indexed): &(Topic, Indexed)| indexed.place.segment < second;
        let waiting: Vec<_> = self.waiting(published).filter(in_front).collect();
        let mut is_all = true;
        for (topic, indexed) in waiting {
            is_all = *left > 0;
            if !is_all {
                break;
            }
            *left = left.saturating_sub(u64::from(indexed.place.length));
            let record = indexed.place.read(folder).map(Bytes::from).ok();
            let is_it = |record: &Bytes| {
                let read = read_record(record).and_then(|record| record.frame);
                read.is_some_and(|(of, entry, content)| {
                    (of, entry.first) == (topic, indexed.first) && content.hash() == entry.content
                })
            };
            let place = match record.filter(is_it) {
                Some(record) => Some(self.log.append_placed(&[&record])?.1),
                None => None,
            };
            self.copied |= place.is_some();
            let Some(frames) = self.index.get_mut(&topic) else { continue };
            let Ok(at) = frames.binary_search_by_key(&indexed.first, |indexed| indexed.first) else { continue };
            match (place, frames.get_mut(at)) {
                (Some(place), Some(copied)) => copied.place = place,
                _ => {
                    tracing::error!(%topic, first = %indexed.first, "a frame that waits cannot be read any more: it is fetched from other nodes");
                    frames.drain(..=at);
                }
            }
        }
        self.log.write_out()?;
        Ok(is_all)
    }
}

impl Indexed {
    fn of(entry: &Entry, place: Place) -> Self {
        Self { first: entry.first, count: entry.count, hash: beginning(&entry.content), place }
    }

    /// The sequence behind it.
    fn next(&self) -> Sequence {
        Sequence(self.first.0.saturating_add(u64::from(self.count)))
    }
}

/// Adds a frame to those of its topic.
fn note(frames: &mut VecDeque<Indexed>, indexed: Indexed) {
    let next = frames.back().map_or(indexed.first, Indexed::next);
    if indexed.first != next {
        // Blocks are missing between: from what was before nobody could go on.
        frames.clear();
    }
    frames.push_back(indexed);
}

fn beginning(hash: &Digest) -> u64 {
    hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
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
mod tests;
