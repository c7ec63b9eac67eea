//! What people did at a node: files of JSON lines, each of which names the hash of the one before. A line that was changed, left out or put in
//! breaks the chain; whoever has noted a hash elsewhere can tell, too, whether the end is missing.
//!
//! A file that has grown large is sealed: it gets a name that ends with the number of its last line, and the next one goes on from there. Whoever has put sealed files away
//! says from which line on the rest is to be checked.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use standin_foundation::Digest;

use crate::protocol::Role;

/// Bytes of a line; what people write is cut to fit.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// A file that has grown to this is sealed.
const SEALED_BYTES: u64 = 16 * 1024 * 1024;
/// Bytes of each text of an entry.
const TEXT_BYTES_MAX: usize = 1024;

/// Why there is no record of it, or why the record is not whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The file.
    #[error("the audit log {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line does not follow from the one before.
    #[error("the audit log {path}, line {line}: {what}")]
    Broken {
        /// Which file.
        path: PathBuf,
        /// The line, from 1 on.
        line: u64,
        /// What is wrong.
        what: String,
    },
}

/// Something that somebody did, or tried to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Act {
    /// When, in ms since 1970.
    pub at_ms: u64,
    /// Who; empty where nobody knows.
    pub user: String,
    /// As what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// What: the name of the action.
    pub action: String,
    /// On what: a cluster, a node.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub on: String,
    /// Why, in their words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What came of it.
    pub outcome: String,
}

impl Act {
    /// That the file before was sealed with this many lines.
    fn sealed(at_ms: u64, entries: u64) -> Self {
        let (action, outcome) = ("log sealed".to_owned(), format!("goes on after line {entries}"));
        let (user, on, reason) = (String::new(), String::new(), String::new());
        Self { at_ms, user, role: None, action, on, reason, outcome }
    }
}

/// A line of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    /// Counts from 1 on.
    number: u64,
    act: Act,
    /// Hash of the line before; zero for the first.
    before: Digest,
    /// Of all the rest.
    hash: Digest,
}

impl Line {
    fn new(number: u64, act: Act, before: Digest) -> Result<Self, serde_json::Error> {
        let said = serde_json::to_vec(&(number, &act, before))?;
        Ok(Self { number, act, before, hash: Digest::sha256_of(&[b"standin/v1/audit", &said]) })
    }
}

/// How far a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Lines.
    pub entries: u64,
    /// Hash of the last; zero where there is none.
    pub hash: Digest,
}

impl Head {
    /// Of a log without a line.
    const NONE: Self = Self { entries: 0, hash: Digest::ZERO };
}

/// The audit log of a node.
#[derive(Debug)]
pub struct Audit {
    path: PathBuf,
    sealed_bytes: u64,
    state: Mutex<(File, Head)>,
}

/// Where the newest part of the audit log of a node with this data folder stands.
pub fn path_of(data_dir: &Path) -> PathBuf {
    data_dir.join("console").join("audit.jsonl")
}

impl Audit {
    /// Opens or begins the audit log of a node with this data folder. A last line that was not finished is cut: what it was to tell of has not
    /// been done.
    pub fn open(data_dir: &Path) -> Result<Self, AuditError> {
        Self::open_with(data_dir, SEALED_BYTES)
    }

    fn open_with(data_dir: &Path, sealed_bytes: u64) -> Result<Self, AuditError> {
        let path = path_of(data_dir);
        let failed = |source| AuditError::File { path: path.clone(), source };
        if let Some(folder) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        }
        let before = match files(data_dir)?.into_iter().rev().find(|file| *file != path) {
            Some(sealed) => Some(read(&sealed, &open(&sealed)?, None, |_| ())?.head),
            None => None,
        };
        let mut file = new_file(&path).map_err(failed)?;
        let Found { head, bytes, .. } = read(&path, &file, before, |_| ())?;
        file.set_len(bytes).and_then(|()| file.seek(SeekFrom::End(0))).map_err(failed)?;
        let audit = Self { path: path.clone(), sealed_bytes, state: Mutex::new((file, head)) };
        if bytes == 0 && head.entries > 0 {
            let mut state = audit.state.lock().unwrap_or_else(PoisonError::into_inner);
            let (file, head) = &mut *state;
            *head = audit.add(file, *head, Act::sealed(crate::actor::unix_ms(), head.entries))?;
        }
        Ok(audit)
    }

    /// Gives a file that has grown large another name, and begins a new one; says whether it did. What cannot be sealed goes on growing.
    fn seal(&self, file: &mut File, head: &Head) -> bool {
        let sealed = self.path.with_file_name(format!("audit-{:020}.jsonl", head.entries));
        let begun = fs::rename(&self.path, &sealed).and_then(|()| new_file(&self.path));
        let kept = self.path.parent().map(|folder| File::open(folder).and_then(|folder| folder.sync_all()));
        match (begun, kept) {
            (Ok(begun), kept) => {
                if !matches!(kept, Some(Ok(()))) {
                    tracing::warn!(?kept, "the audit log's folder could not be synced");
                }
                *file = begun;
                true
            }
            (Err(error), _) => {
                tracing::warn!(%error, "the audit log could not be sealed");
                false
            }
        }
    }

    /// Adds a line, durably; gives how far the log is then.
    fn add(&self, file: &mut File, head: Head, act: Act) -> Result<Head, AuditError> {
        let failed = |source| AuditError::File { path: self.path.clone(), source };
        let length = file.metadata().map_err(failed)?.len();
        let line = Line::new(head.entries + 1, act, head.hash).map_err(|error| failed(error.into()))?;
        let mut text = serde_json::to_vec(&line).map_err(|error| failed(error.into()))?;
        text.push(b'\n');
        if let Err(error) = file.write_all(&text).and_then(|()| file.sync_data()) {
            // What stands there in part is no line; the next one must not be joined to it.
            drop(file.set_len(length));
            return Err(failed(error));
        }
        Ok(Head { entries: line.number, hash: line.hash })
    }

    /// Records something, durably: it may be done when this returns.
    pub fn record(&self, act: Act) -> Result<Head, AuditError> {
        let act = Act {
            user: cut(act.user),
            action: cut(act.action),
            on: cut(act.on),
            reason: cut(act.reason),
            outcome: cut(act.outcome),
            ..act
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, head) = &mut *state;
        let act_at = act.at_ms;
        *head = self.add(file, *head, act)?;
        let length = file.metadata().map(|found| found.len()).unwrap_or_default();
        if length >= self.sealed_bytes {
            let sealed = *head;
            if self.seal(file, &sealed) {
                // A file is never empty: whoever has only the newest knows where it goes on.
                match self.add(file, sealed, Act::sealed(act_at, sealed.entries)) {
                    Ok(added) => *head = added,
                    // What was recorded is recorded; the next start adds the line.
                    Err(error) => tracing::warn!(%error, "the audit log's new file has no first line yet"),
                }
            }
            return Ok(sealed);
        }
        Ok(*head)
    }
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    text
}

fn new_file(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)
}

fn open(path: &Path) -> Result<File, AuditError> {
    File::open(path).map_err(|source| AuditError::File { path: path.to_owned(), source })
}

/// The files of a node's audit log, in order: those that are sealed, and the newest.
pub fn files(data_dir: &Path) -> Result<Vec<PathBuf>, AuditError> {
    let newest = path_of(data_dir);
    let folder = newest.parent().unwrap_or(data_dir);
    let failed = |source| AuditError::File { path: folder.to_owned(), source };
    let is_sealed = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.strip_prefix("audit-")
            .and_then(|rest| rest.strip_suffix(".jsonl"))
            .is_some_and(|n| n.parse::<u64>().is_ok())
    };
    let entries = fs::read_dir(folder).map_err(failed)?;
    let mut sealed: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(is_sealed).collect();
    // The numbers in the names have one length.
    sealed.sort();
    Ok(sealed.into_iter().chain([newest]).collect())
}

/// Checks a node's audit log from this line on to its end, also while the node runs. The first line is 1; a later one where sealed files were put away.
pub fn verify(data_dir: &Path, from: u64) -> Result<Head, AuditError> {
    let listed = files(data_dir)?;
    match verify_files(&listed, from) {
        // A file may have been sealed between the listing and the reading.
        _ if files(data_dir)? != listed => verify_files(&files(data_dir)?, from),
        verified => verified,
    }
}

fn verify_files(files: &[PathBuf], from: u64) -> Result<Head, AuditError> {
    let mut head = (from <= 1).then_some(Head::NONE);
    for path in files {
        let found = read(path, &open(path)?, head, |_| ())?;
        if head.is_none() && found.first != from && found.first > 0 {
            let what = format!("it begins with line {}, line {from} was to be the first", found.first);
            return Err(AuditError::Broken { path: path.clone(), line: 1, what });
        }
        head = Some(found.head);
    }
    Ok(head.unwrap_or(Head::NONE))
}

/// The newest entries of a node's audit log, at most so many: of its newest file, and the one before.
pub fn newest(data_dir: &Path, count: usize) -> Result<Vec<Act>, AuditError> {
    let files = files(data_dir)?;
    let mut newest = VecDeque::with_capacity(count);
    for path in files.iter().skip(files.len().saturating_sub(2)) {
        read(path, &open(path)?, None, |act| {
            if newest.len() == count {
                newest.pop_front();
            }
            newest.push_back(act);
        })?;
    }
    Ok(newest.into())
}

/// What is in a file.
struct Found {
    /// The number of its first line; 0 where there is none.
    first: u64,
    /// How far it goes.
    head: Head,
    /// Bytes of all finished lines.
    bytes: u64,
}

/// Reads all finished lines, of which the first follows `before`, or whatever it says itself.
fn read(path: &Path, file: &File, before: Option<Head>, mut found: impl FnMut(Act)) -> Result<Found, AuditError> {
    let mut reader = BufReader::new(file);
    let (mut head, mut first, mut bytes) = (before, 0, 0);
    loop {
        let number = head.map_or(1, |head| head.entries + 1);
        let broken = |what: String| AuditError::Broken { path: path.to_owned(), line: number, what };
        let mut text = Vec::new();
        let mut bounded = reader.by_ref().take(LINE_BYTES_MAX as u64);
        let count = bounded.read_until(b'\n', &mut text);
        let count = count.map_err(|source| AuditError::File { path: path.to_owned(), source })?;
        if count >= LINE_BYTES_MAX {
            return Err(broken(format!("it is longer than {LINE_BYTES_MAX} bytes")));
        }
        if !text.ends_with(b"\n") {
            return Ok(Found { first, head: head.unwrap_or(Head::NONE), bytes });
        }
        let line: Line = serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
        let follows = head.is_none_or(|head| line.before == head.hash && line.number == head.entries + 1);
        if !follows {
            return Err(broken(
                "it does not follow from the line before: one was changed, left out or put in".to_owned(),
            ));
        }
        let sound = Line::new(line.number, line.act.clone(), line.before).map_err(|error| broken(error.to_string()))?;
        if sound != line {
            return Err(broken("it was changed: its hash is another".to_owned()));
        }
        if first == 0 {
            first = line.number;
        }
        head = Some(Head { entries: line.number, hash: line.hash });
        bytes += count as u64;
        found(line.act);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn act(action: &str) -> Act {
        let (user, action) = ("ops".to_owned(), action.to_owned());
        let role = Some(Role::Operator);
        Act { at_ms: 7, user, role, action, on: "a".into(), reason: "patching".into(), outcome: "done".into() }
    }

    fn filled(folder: &Path) -> Head {
        let audit = Audit::open(folder).unwrap();
        ["one", "two", "three"].map(|action| audit.record(act(action)).unwrap())[2]
    }

    fn change(folder: &Path, from: &str, to: &str) {
        let text = fs::read_to_string(path_of(folder)).unwrap();
        assert!(text.contains(from));
        fs::write(path_of(folder), text.replacen(from, to, 1)).unwrap();
    }

    fn broken_at(folder: &Path) -> u64 {
        match verify(folder, 1) {
            Err(AuditError::Broken { line, .. }) => line,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_was_recorded_is_found_again_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let head = filled(folder.path());
        assert_eq!((head.entries, verify(folder.path(), 1).unwrap()), (3, head));
        let audit = Audit::open(folder.path()).unwrap();
        let next = audit.record(act("four")).unwrap();
        assert_eq!((next.entries, verify(folder.path(), 1).unwrap()), (4, next));
    }

    #[test]
    fn a_line_that_was_changed_left_out_or_put_in_is_found() {
        let folder = tempfile::tempdir().unwrap();
        filled(folder.path());
        change(folder.path(), "two", "owt");
        assert_eq!(broken_at(folder.path()), 2);
        assert!(Audit::open(folder.path()).is_err(), "nothing is added to it");
        change(folder.path(), "owt", "two");
        let text = fs::read_to_string(path_of(folder.path())).unwrap();
        let lines: Vec<_> = text.split_inclusive('\n').collect();
        fs::write(path_of(folder.path()), [lines[0], lines[2]].concat()).unwrap();
        assert_eq!(broken_at(folder.path()), 2);
        fs::write(path_of(folder.path()), [lines[0], lines[0], lines[1]].concat()).unwrap();
        assert_eq!(broken_at(folder.path()), 2);
        fs::write(path_of(folder.path()), lines[1..].concat()).unwrap();
        assert_eq!(broken_at(folder.path()), 1);
        fs::write(path_of(folder.path()), "x".repeat(LINE_BYTES_MAX * 4)).unwrap();
        assert_eq!(broken_at(folder.path()), 1);
    }

    #[test]
    fn a_line_that_was_not_finished_is_no_act() {
        let folder = tempfile::tempdir().unwrap();
        let head = filled(folder.path());
        let mut text = fs::read(path_of(folder.path())).unwrap();
        text.extend_from_slice(br#"{"number":4,"act":{"at_ms":"#);
        fs::write(path_of(folder.path()), text).unwrap();
        assert_eq!(verify(folder.path(), 1).unwrap(), head);
        let audit = Audit::open(folder.path()).unwrap();
        let next = audit.record(act("four")).unwrap();
        assert_eq!((next.entries, verify(folder.path(), 1).unwrap()), (4, next));
    }

    #[test]
    fn whatever_people_write_fits_into_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::open(folder.path()).unwrap();
        let long = "\u{1}".repeat(10_000);
        let giant =
            Act { user: long.clone(), reason: long.clone(), on: long.clone(), outcome: long.clone(), ..act(&long) };
        let head = audit.record(giant).unwrap();
        assert_eq!(verify(folder.path(), 1).unwrap(), head);
    }

    /// A log that grows goes on in another file, over restarts, and is one chain; whoever puts sealed files away can check the rest.
    #[test]
    fn a_log_that_grows_is_sealed_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let mut head = Head::NONE;
        for round in 0..3 {
            let audit = Audit::open_with(folder.path(), 2_000).unwrap();
            for act_number in 0..10 {
                head = audit.record(act(&format!("{round}-{act_number}"))).unwrap();
            }
        }
        // Each sealed file is told of in the next.
        let told = verify(folder.path(), 1).unwrap();
        assert!(told.entries > 32 && head.entries + 1 >= told.entries, "{told:?} {head:?}");
        let all = files(folder.path()).unwrap();
        assert!(all.len() > 3, "{all:?}");
        assert!(newest(folder.path(), 3).unwrap().iter().any(|act| act.action == "2-9"));
        fs::remove_file(&all[0]).unwrap();
        let begins = read(&all[1], &open(&all[1]).unwrap(), None, |_| ()).unwrap().first;
        assert!(matches!(verify(folder.path(), 1), Err(AuditError::Broken { .. })), "the beginning is missing");
        assert_eq!(verify(folder.path(), begins).unwrap(), told);
        assert!(verify(folder.path(), begins + 1).is_err() && verify(folder.path(), begins - 1).is_err());
        fs::remove_file(&all[2]).unwrap();
        assert!(verify(folder.path(), begins).is_err(), "one in between is missing");
        // Whoever puts sealed files away takes the oldest, or all.
        let (newest_file, sealed) = all.split_last().unwrap();
        sealed.iter().filter(|path| path.exists()).for_each(|path| fs::remove_file(path).unwrap());
        let begins = read(newest_file, &open(newest_file).unwrap(), None, |_| ()).unwrap().first;
        let next = Audit::open_with(folder.path(), 2_000).unwrap().record(act("on")).unwrap();
        assert_eq!(next.entries, told.entries + 1);
        assert!(verify(folder.path(), begins).is_ok());
    }
}
