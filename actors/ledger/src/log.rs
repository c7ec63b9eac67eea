//! The append-only durable log: what must survive before something leaves the node.
//!
//! Preallocated segments, each a header and records `length | checksum | sequence | payload`. Appends are buffered;
//! [`Log::sync`] writes them and waits for one `fdatasync`: a group commit. A torn tail, which only an unsynced write can
//! leave, is cut at opening. Damage anywhere else refuses to open, with file and offset: a vote may have been in it.
//!
//! After any error of writing or syncing the log is poisoned and the node must stop: the kernel may have dropped what it
//! failed to write, and a second sync would say nothing about it.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::FallocateFlags;
use standin_foundation::Digest;
use standin_foundation::limits::LOG_RECORD_BYTES_MAX;

const MAGIC: &[u8; 8] = b"SI-LOG-1";
const HEADER_BYTES: u64 = 64;
const RECORD_HEADER_BYTES: usize = 16;

/// Why the log cannot be opened or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The system refused.
    #[error("log {path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no room.
    #[error("log {path}: no space for the next segment; free space on this file system")]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// A record in the middle is damaged.
    #[error(
        "log {path}: damaged at offset {offset}: {what}; restore this file, or resync this node with an empty store"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where, in bytes.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// It belongs to another chain.
    #[error("log {path} belongs to another chain (genesis {found}, this node has {expected})")]
    AnotherChain {
        /// The file.
        path: PathBuf,
        /// The genesis digest in it.
        found: Digest,
        /// The configured one.
        expected: Digest,
    },
    /// What stands in it contradicts the genesis.
    #[error("log {path}: {what}; is the key of another auth node configured?")]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A record is over the limit.
    #[error("a record of {found} bytes is over the limit of {LOG_RECORD_BYTES_MAX}")]
    RecordTooLarge {
        /// Its size.
        found: usize,
    },
    /// An earlier error: nothing may be written any more.
    #[error("the log failed before and takes nothing any more")]
    Poisoned,
}

/// How a log is kept.
#[derive(Debug, Clone, Copy)]
pub struct LogOptions {
    /// Size of a segment, in bytes.
    pub segment_bytes: u64,
    /// The chain's genesis digest.
    pub chain: Digest,
}

/// What was found when a log was opened.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Sequence numbers and payloads, in order.
    pub records: Vec<(u64, Bytes)>,
    /// A torn tail was cut here.
    pub torn_at: Option<(PathBuf, u64)>,
}

/// Where a record's payload stands in the log's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The number of the segment's first record: its file has it as its name.
    pub segment: u64,
    /// Offset of the payload there, in bytes.
    pub offset: u64,
    /// Its bytes.
    pub length: u32,
}

impl Place {
    /// Reads the payload. It must have been written out.
    pub fn read(&self, folder: &Path) -> Result<Vec<u8>, LogError> {
        let path = segment_path(folder, self.segment);
        let mut payload = vec![0; self.length as usize];
        let read = File::open(&path).and_then(|file| file.read_exact_at(&mut payload, self.offset));
        read.map_err(|source| io_error(&path, source)).map(|()| payload)
    }
}

/// An open log. One owner; it is not shared.
#[derive(Debug)]
pub struct Log {
    folder: PathBuf,
    options: LogOptions,
    /// First sequence numbers and paths of all segments, oldest first.
    segments: VecDeque<(u64, PathBuf)>,
    file: File,
    /// Where the next byte goes.
    offset: u64,
    /// Size of the current segment.
    capacity: u64,
    next: u64,
    buffer: Vec<u8>,
    poisoned: bool,
}

impl Log {
    /// Opens the log in `folder`, or makes a new one whose first record has number 1.
    pub fn open(folder: &Path, options: LogOptions) -> Result<(Self, Recovered), LogError> {
        let mut records = Vec::new();
        let (log, torn_at) =
            Self::open_visiting(folder, options, |number, _, payload| records.push((number, payload)))?;
        Ok((log, Recovered { records, torn_at }))
    }

    /// As [`Log::open`], and shows each record in turn, with its number and place, in the place of collecting them. Gives where a torn tail was
    /// cut, too.
    pub fn open_visiting(
        folder: &Path,
        options: LogOptions,
        visit: impl FnMut(u64, Place, Bytes),
    ) -> Result<(Self, Option<(PathBuf, u64)>), LogError> {
        Self::open_or_cut(folder, options, visit, false)
    }

    /// As [`Log::open_visiting`], of a log whose records come again from elsewhere: its newest file was not synced when the power failed, and may have a hole
    /// with sound records behind it. It is cut at the first break, and nothing is left behind that.
    pub fn open_cutting(
        folder: &Path,
        options: LogOptions,
        visit: impl FnMut(u64, Place, Bytes),
    ) -> Result<(Self, Option<(PathBuf, u64)>), LogError> {
        Self::open_or_cut(folder, options, visit, true)
    }

    fn open_or_cut(
        folder: &Path,
        options: LogOptions,
        mut visit: impl FnMut(u64, Place, Bytes),
        cuts: bool,
    ) -> Result<(Self, Option<(PathBuf, u64)>), LogError> {
        fs::create_dir_all(folder).map_err(|source| io_error(folder, source))?;
        let mut segments = segment_files(folder)?;
        let mut torn_at = None;
        let mut next = segments.front().map_or(1, |(first, _)| *first);
        let mut end = HEADER_BYTES;
        let last_index = segments.len().saturating_sub(1);
        let mut unusable = None;
        for (index, (first, path)) in segments.iter().enumerate() {
            let is_last = index == last_index;
            let bytes = fs::read(path).map_err(|source| io_error(path, source))?;
            if is_last && is_unwritten_header(&bytes) {
                // The crash came between the creation of the segment and its first sync.
                unusable = Some(path.clone());
                break;
            }
            check_header(path, &bytes, *first, &options)?;
            if *first != next {
                return Err(damaged(path, 0, "a segment is missing before this one"));
            }
            let segment = Segment { path, first: *first, is_last, cuts: is_last && cuts };
            end = read_segment(&segment, &bytes.into(), &mut next, &mut visit, &mut torn_at)?;
        }
        if let Some(path) = unusable {
            fs::remove_file(&path).map_err(|source| io_error(&path, source))?;
            segments.pop_back();
            end = u64::MAX;
        }
        let mut log = match segments.back().cloned() {
            Some((_, path)) if end < u64::MAX => Self::reopen(folder, options, segments, &path, end, next)?,
            _ => Self::begin(folder, options, segments, next)?,
        };
        if let Some((path, offset)) = &torn_at {
            log.erase_tail(path, *offset)?;
        }
        Ok((log, torn_at))
    }

    fn reopen(
        folder: &Path,
        options: LogOptions,
        segments: VecDeque<(u64, PathBuf)>,
        path: &Path,
        offset: u64,
        next: u64,
    ) -> Result<Self, LogError> {
        let open = || {
            let file = OpenOptions::new().read(true).write(true).open(path)?;
            // What a killed process wrote may be in the page cache only: before anything relies on it, it must be durable.
            file.sync_data()?;
            let capacity = file.metadata()?.len();
            Ok((file, capacity))
        };
        let (file, capacity) = open().map_err(|source| io_error(path, source))?;
        let folder = folder.to_owned();
        Ok(Self { folder, options, segments, file, offset, capacity, next, buffer: Vec::new(), poisoned: false })
    }

    fn begin(
        folder: &Path,
        options: LogOptions,
        mut segments: VecDeque<(u64, PathBuf)>,
        next: u64,
    ) -> Result<Self, LogError> {
        let (path, file, capacity) = create_segment(folder, &options, next, 0)?;
        segments.push_back((next, path));
        let folder = folder.to_owned();
        Ok(Self {
            folder,
            options,
            segments,
            file,
            offset: HEADER_BYTES,
            capacity,
            next,
            buffer: Vec::new(),
            poisoned: false,
        })
    }

    /// Writes zeros over a torn tail, so that it cannot be taken for damage later.
    fn erase_tail(&mut self, path: &Path, offset: u64) -> Result<(), LogError> {
        let length = self.capacity.saturating_sub(offset);
        let zeros = vec![0u8; usize::try_from(length).unwrap_or(0)];
        let done = self.file.write_all_at(&zeros, offset).and_then(|()| self.file.sync_data());
        done.map_err(|source| io_error(path, source))
    }

    /// Number of the next record.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Bytes on disk, about.
    pub fn bytes(&self) -> u64 {
        let full = self.segments.len().saturating_sub(1) as u64;
        full * self.options.segment_bytes + self.offset + self.buffer.len() as u64
    }

    /// Buffers a record made of `pieces`; gives its number. It is durable after the next [`Log::sync`].
    pub fn append(&mut self, pieces: &[&[u8]]) -> Result<u64, LogError> {
        self.append_placed(pieces).map(|(number, _)| number)
    }

    /// As [`Log::append`], and says where the record will stand once it is written out.
    pub fn append_placed(&mut self, pieces: &[&[u8]]) -> Result<(u64, Place), LogError> {
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        if length > LOG_RECORD_BYTES_MAX {
            return Err(LogError::RecordTooLarge { found: length });
        }
        let room = self.capacity.saturating_sub(self.offset + self.buffer.len() as u64);
        if room < (length + RECORD_HEADER_BYTES) as u64 {
            self.roll_for(length as u64)?;
        }
        let sequence = self.next;
        self.next += 1;
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(&sequence.to_le_bytes());
        pieces.iter().for_each(|piece| checksum.update(piece));
        self.buffer.extend_from_slice(&(length as u32).to_le_bytes());
        self.buffer.extend_from_slice(&checksum.finalize().to_le_bytes());
        self.buffer.extend_from_slice(&sequence.to_le_bytes());
        pieces.iter().for_each(|piece| self.buffer.extend_from_slice(piece));
        let end = self.offset + self.buffer.len() as u64;
        let segment = self.last_segment();
        Ok((sequence, Place { segment, offset: end - length as u64, length: length as u32 }))
    }

    /// Makes everything that was appended durable; gives the number of the last durable record.
    pub fn sync(&mut self) -> Result<u64, LogError> {
        self.write_out()?;
        let synced = self.file.sync_data();
        self.guard(synced)?;
        Ok(self.next - 1)
    }

    /// Begins a new segment, so that everything before can be cut off as a whole.
    pub fn roll(&mut self) -> Result<(), LogError> {
        self.roll_for(0)
    }

    /// Number of the first record that is kept.
    pub fn first(&self) -> u64 {
        self.segments.front().map_or(1, |(first, _)| *first)
    }

    /// Number of the first record of the second segment, if there is one: what [`Log::cut_before`] needs to drop the first.
    pub fn second_segment(&self) -> Option<u64> {
        self.segments.get(1).map(|(first, _)| *first)
    }

    /// Number of the first record of the segment that is written now.
    pub fn last_segment(&self) -> u64 {
        self.segments.back().map_or(1, |(first, _)| *first)
    }

    /// Drops the segments in which every record is below `keep_from`.
    pub fn cut_before(&mut self, keep_from: u64) -> Result<(), LogError> {
        while self.segments.get(1).is_some_and(|(first, _)| *first <= keep_from) {
            if let Some((_, path)) = self.segments.pop_front() {
                fs::remove_file(&path).map_err(|source| io_error(&path, source))?;
            }
        }
        Ok(())
    }

    fn roll_for(&mut self, length: u64) -> Result<(), LogError> {
        self.sync()?;
        let made = create_segment(&self.folder, &self.options, self.next, length);
        self.poisoned |= made.is_err();
        let (path, file, capacity) = made?;
        if self.segments.back().is_some_and(|(first, _)| *first == self.next) {
            // The segment before holds no record: the new file has taken its name.
            self.segments.pop_back();
        }
        self.segments.push_back((self.next, path));
        (self.file, self.capacity, self.offset) = (file, capacity, HEADER_BYTES);
        Ok(())
    }

    /// Hands everything that was appended to the system, without waiting for the disk: it outlives the process, and not the
    /// power.
    pub fn write_out(&mut self) -> Result<(), LogError> {
        if self.poisoned {
            return Err(LogError::Poisoned);
        }
        let written = self.file.write_all_at(&self.buffer, self.offset);
        self.guard(written)?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn guard(&mut self, result: io::Result<()>) -> Result<(), LogError> {
        result.map_err(|source| {
            self.poisoned = true;
            let path = self.segments.back().map_or_else(|| self.folder.clone(), |(_, path)| path.clone());
            io_error(&path, source)
        })
    }
}

fn io_error(path: &Path, source: io::Error) -> LogError {
    match source.kind() {
        io::ErrorKind::StorageFull => LogError::Full { path: path.to_owned() },
        _ => LogError::Io { path: path.to_owned(), source },
    }
}

fn damaged(path: &Path, offset: u64, what: &'static str) -> LogError {
    LogError::Damaged { path: path.to_owned(), offset, what }
}

fn segment_path(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:020}.log"))
}

fn segment_files(folder: &Path) -> Result<VecDeque<(u64, PathBuf)>, LogError> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(folder).map_err(|source| io_error(folder, source))? {
        let path = entry.map_err(|source| io_error(folder, source))?.path();
        let first = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".log")?.parse().ok());
        segments.extend(first.map(|first: u64| (first, path)));
    }
    segments.sort();
    Ok(segments.into())
}

/// Preallocates a segment, writes its header, and makes both the file and its name durable.
fn create_segment(
    folder: &Path,
    options: &LogOptions,
    first: u64,
    record_bytes: u64,
) -> Result<(PathBuf, File, u64), LogError> {
    let path = segment_path(folder, first);
    let capacity = options.segment_bytes.max(record_bytes + HEADER_BYTES + RECORD_HEADER_BYTES as u64);
    let make = || {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, capacity)?;
        file.write_all_at(&header(options, first), 0)?;
        file.sync_all()?;
        File::open(folder)?.sync_all()?;
        Ok(file)
    };
    let file = make().map_err(|source| io_error(&path, source))?;
    Ok((path, file, capacity))
}

fn header(options: &LogOptions, first: u64) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_BYTES as usize);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(options.chain.as_bytes());
    header.extend_from_slice(&first.to_le_bytes());
    header.extend_from_slice(&crc32fast::hash(&header).to_le_bytes());
    header.resize(HEADER_BYTES as usize, 0);
    header
}

fn is_unwritten_header(bytes: &[u8]) -> bool {
    bytes.iter().take(HEADER_BYTES as usize).all(|byte| *byte == 0)
}

fn check_header(path: &Path, bytes: &[u8], first: u64, options: &LogOptions) -> Result<(), LogError> {
    let expected = header(options, first);
    let found = bytes.get(..HEADER_BYTES as usize).ok_or_else(|| damaged(path, 0, "the segment's header is cut"))?;
    if found == expected {
        return Ok(());
    }
    let sound = found.get(48..52) == Some(&crc32fast::hash(found.get(..48).unwrap_or_default()).to_le_bytes());
    let chain = found.get(8..40).and_then(|bytes| bytes.try_into().ok()).map(Digest);
    match chain {
        Some(found) if sound && found != options.chain => {
            Err(LogError::AnotherChain { path: path.to_owned(), found, expected: options.chain })
        }
        _ => Err(damaged(path, 0, "the segment's header is damaged")),
    }
}

/// A segment that is read.
struct Segment<'a> {
    path: &'a Path,
    first: u64,
    is_last: bool,
    /// It is cut at the first break.
    cuts: bool,
}

/// Reads the records of a segment; gives the offset of its end.
fn read_segment(
    &Segment { path, first, is_last, cuts }: &Segment<'_>,
    bytes: &Bytes,
    next: &mut u64,
    visit: &mut impl FnMut(u64, Place, Bytes),
    torn_at: &mut Option<(PathBuf, u64)>,
) -> Result<u64, LogError> {
    let mut offset = HEADER_BYTES as usize;
    loop {
        match record_at(bytes, offset, *next) {
            Found::Record(payload) => {
                let start = (offset + RECORD_HEADER_BYTES) as u64;
                let place = Place { segment: first, offset: start, length: payload.len() as u32 };
                offset += RECORD_HEADER_BYTES + payload.len();
                visit(*next, place, payload);
                *next += 1;
            }
            Found::End => {
                if cuts && bytes.get(offset..).is_some_and(|rest| rest.iter().any(|byte| *byte != 0)) {
                    *torn_at = Some((path.to_owned(), offset as u64));
                }
                return Ok(offset as u64);
            }
            Found::Broken if is_last && (cuts || !any_record_after(bytes, offset, *next)) => {
                *torn_at = Some((path.to_owned(), offset as u64));
                return Ok(offset as u64);
            }
            Found::Broken => return Err(damaged(path, offset as u64, "a record's checksum does not hold")),
        }
    }
}

enum Found {
    Record(Bytes),
    End,
    Broken,
}

fn record_at(bytes: &Bytes, offset: usize, sequence: u64) -> Found {
    let number = |from: usize, to: usize| bytes.get(offset + from..offset + to);
    let Some(length) = number(0, 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes) else { return Found::End };
    let rest_is_zero = || bytes.get(offset..offset + RECORD_HEADER_BYTES).is_none_or(|b| b.iter().all(|b| *b == 0));
    if length == 0 && rest_is_zero() {
        return Found::End;
    }
    let start = offset + RECORD_HEADER_BYTES;
    let Some(payload) = bytes.get(start..start.saturating_add(length as usize)) else { return Found::Broken };
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&sequence.to_le_bytes());
    checksum.update(payload);
    let sound =
        number(4, 8) == Some(&checksum.finalize().to_le_bytes()) && number(8, 16) == Some(&sequence.to_le_bytes());
    if sound { Found::Record(bytes.slice(start..start + payload.len())) } else { Found::Broken }
}

/// Whether a sound record with a later number stands anywhere behind `offset`: then the break is no torn tail.
fn any_record_after(bytes: &Bytes, offset: usize, sequence: u64) -> bool {
    (offset + 1..bytes.len().saturating_sub(RECORD_HEADER_BYTES)).any(|at| {
        let found = bytes.get(at + 8..at + 16).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
        let plausible = found.filter(|found| *found > sequence && *found - sequence < 1_000_000);
        plausible.is_some_and(|found| matches!(record_at(bytes, at, found), Found::Record(_)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(chain: &[u8]) -> LogOptions {
        LogOptions { segment_bytes: 4_096, chain: Digest::sha256(chain) }
    }

    fn open(folder: &Path) -> (Log, Recovered) {
        Log::open(folder, options(b"chain")).unwrap()
    }

    fn payload(n: u64) -> Vec<u8> {
        vec![n as u8; (n as usize * 37) % 900 + 1]
    }

    fn filled(folder: &Path, count: u64) -> Log {
        let (mut log, _) = open(folder);
        for n in 1..=count {
            assert_eq!(log.append(&[&payload(n)[..1], &payload(n)[1..]]).unwrap(), n);
        }
        assert_eq!(log.sync().unwrap(), count);
        log
    }

    fn numbers(recovered: &Recovered) -> Vec<u64> {
        assert!(recovered.records.iter().all(|(n, bytes)| *bytes == payload(*n)));
        recovered.records.iter().map(|(n, _)| *n).collect()
    }

    fn last_file(folder: &Path) -> PathBuf {
        segment_files(folder).unwrap().back().unwrap().1.clone()
    }

    #[test]
    fn what_was_synced_is_there_after_opening_again() {
        let folder = tempfile::tempdir().unwrap();
        drop(filled(folder.path(), 50));
        let (mut log, recovered) = open(folder.path());
        assert_eq!(numbers(&recovered), (1..=50).collect::<Vec<_>>());
        assert!(recovered.torn_at.is_none());
        log.append(&[&payload(51)]).unwrap();
        log.sync().unwrap();
        drop(log);
        assert_eq!(numbers(&open(folder.path()).1).len(), 51);
    }

    #[test]
    fn what_was_not_synced_is_lost_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = filled(folder.path(), 3);
        log.append(&[&payload(4)]).unwrap();
        drop(log);
        assert_eq!(numbers(&open(folder.path()).1), [1, 2, 3]);
    }

    #[test]
    fn a_torn_tail_is_cut_wherever_it_is_torn() {
        for keep in 1..40 {
            let folder = tempfile::tempdir().unwrap();
            let log = filled(folder.path(), 2);
            let end = log.offset;
            drop(log);
            let path = last_file(folder.path());
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            let mut torn = vec![0u8; 60];
            torn[..4].copy_from_slice(&44u32.to_le_bytes());
            torn[8..16].copy_from_slice(&3u64.to_le_bytes());
            torn[keep..].fill(0);
            file.write_all_at(&torn, end).unwrap();
            let (mut log, recovered) = open(folder.path());
            assert_eq!(numbers(&recovered), [1, 2]);
            log.append(&[&payload(3)]).unwrap();
            log.sync().unwrap();
            drop(log);
            assert_eq!(numbers(&open(folder.path()).1), [1, 2, 3]);
        }
    }

    #[test]
    fn damage_in_the_middle_refuses_and_names_file_and_offset() {
        let folder = tempfile::tempdir().unwrap();
        drop(filled(folder.path(), 5));
        let path = last_file(folder.path());
        let mut bytes = fs::read(&path).unwrap();
        let second = HEADER_BYTES as usize + RECORD_HEADER_BYTES + payload(1).len();
        bytes[second + RECORD_HEADER_BYTES] ^= 1;
        fs::write(&path, bytes).unwrap();
        let error = Log::open(folder.path(), options(b"chain")).unwrap_err();
        assert!(matches!(&error, LogError::Damaged { offset, .. } if *offset == second as u64), "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()));
    }

    #[test]
    fn a_damaged_segment_that_is_not_the_last_refuses() {
        let folder = tempfile::tempdir().unwrap();
        drop(filled(folder.path(), 50));
        let (_, first) = segment_files(folder.path()).unwrap().front().unwrap().clone();
        let mut bytes = fs::read(&first).unwrap();
        bytes[HEADER_BYTES as usize + 4] ^= 1;
        fs::write(&first, bytes).unwrap();
        assert!(matches!(Log::open(folder.path(), options(b"chain")), Err(LogError::Damaged { .. })));
        fs::remove_file(&first).unwrap();
        let (_, second) = segment_files(folder.path()).unwrap().front().unwrap().clone();
        fs::remove_file(segment_files(folder.path()).unwrap().get(1).unwrap().1.clone()).unwrap();
        let error = Log::open(folder.path(), options(b"chain")).unwrap_err();
        assert!(error.to_string().contains("missing before"), "{error} {second:?}");
    }

    #[test]
    fn a_log_of_another_chain_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        drop(filled(folder.path(), 1));
        assert!(matches!(Log::open(folder.path(), options(b"other")), Err(LogError::AnotherChain { .. })));
    }

    #[test]
    fn cutting_drops_whole_segments_and_keeps_what_must_stay() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = filled(folder.path(), 50);
        log.roll().unwrap();
        log.roll().unwrap();
        log.append(&[&payload(51)]).unwrap();
        log.sync().unwrap();
        log.cut_before(51).unwrap();
        drop(log);
        assert_eq!(numbers(&open(folder.path()).1), [51]);
    }

    #[test]
    fn a_record_larger_than_a_segment_gets_one_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let (mut log, _) = open(folder.path());
        log.append(&[&vec![7; 20_000]]).unwrap();
        log.append(&[&[1]]).unwrap();
        log.sync().unwrap();
        drop(log);
        assert_eq!(open(folder.path()).1.records.iter().map(|(_, b)| b.len()).collect::<Vec<_>>(), [20_000, 1]);
        let (mut log, _) = open(folder.path());
        let huge = vec![0; LOG_RECORD_BYTES_MAX + 1];
        assert!(matches!(log.append(&[&huge]), Err(LogError::RecordTooLarge { .. })));
    }
}
