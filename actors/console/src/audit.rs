//! What people did at a node: a file of JSON lines, each of which names the hash of the one before. A line that was changed, left out or put in
//! breaks the chain; whoever has noted a hash elsewhere can tell, too, whether the end is missing.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use standin_foundation::Digest;

use crate::protocol::Role;

/// Bytes of a line; what people write is cut to fit.
const LINE_BYTES_MAX: usize = 64 * 1024;
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

/// The audit log of a node.
#[derive(Debug)]
pub struct Audit {
    path: PathBuf,
    state: Mutex<(File, Head)>,
}

/// Where the audit log of a node with this data folder stands.
pub fn path_of(data_dir: &Path) -> PathBuf {
    data_dir.join("console").join("audit.jsonl")
}

impl Audit {
    /// Opens or begins the audit log of a node with this data folder. A last line that was not finished is cut: what it was to tell of has not
    /// been done.
    pub fn open(data_dir: &Path) -> Result<Self, AuditError> {
        let path = path_of(data_dir);
        let failed = |source| AuditError::File { path: path.clone(), source };
        if let Some(folder) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        }
        let mut options = OpenOptions::new();
        let mut file = options.read(true).append(true).create(true).mode(0o600).open(&path).map_err(failed)?;
        let (head, bytes) = read(&path, &file, |_| ())?;
        file.set_len(bytes).and_then(|()| file.seek(SeekFrom::End(0))).map_err(failed)?;
        Ok(Self { path, state: Mutex::new((file, head)) })
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
        *head = Head { entries: line.number, hash: line.hash };
        Ok(*head)
    }
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    text
}

/// Checks a node's audit log from its beginning to its end, also while the node runs.
pub fn verify(data_dir: &Path) -> Result<Head, AuditError> {
    let path = path_of(data_dir);
    let file = File::open(&path).map_err(|source| AuditError::File { path: path.clone(), source })?;
    Ok(read(&path, &file, |_| ())?.0)
}

/// The newest entries of a node's audit log, at most so many.
pub fn newest(data_dir: &Path, count: usize) -> Result<Vec<Act>, AuditError> {
    let path = path_of(data_dir);
    let file = File::open(&path).map_err(|source| AuditError::File { path: path.clone(), source })?;
    let mut newest = VecDeque::with_capacity(count);
    read(&path, &file, |act| {
        if newest.len() == count {
            newest.pop_front();
        }
        newest.push_back(act);
    })?;
    Ok(newest.into())
}

/// Reads all finished lines: how far they go, and how many bytes they are.
fn read(path: &Path, file: &File, mut found: impl FnMut(Act)) -> Result<(Head, u64), AuditError> {
    let mut reader = BufReader::new(file);
    let mut head = Head { entries: 0, hash: Digest::ZERO };
    let mut bytes = 0;
    loop {
        let broken = |what: String| AuditError::Broken { path: path.to_owned(), line: head.entries + 1, what };
        let mut text = Vec::new();
        let mut bounded = reader.by_ref().take(LINE_BYTES_MAX as u64);
        let count = bounded.read_until(b'\n', &mut text);
        let count = count.map_err(|source| AuditError::File { path: path.to_owned(), source })?;
        if count >= LINE_BYTES_MAX {
            return Err(broken(format!("it is longer than {LINE_BYTES_MAX} bytes")));
        }
        if !text.ends_with(b"\n") {
            return Ok((head, bytes));
        }
        let line: Line = serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
        if line.before != head.hash || line.number != head.entries + 1 {
            return Err(broken(
                "it does not follow from the line before: one was changed, left out or put in".to_owned(),
            ));
        }
        let sound = Line::new(line.number, line.act.clone(), line.before).map_err(|error| broken(error.to_string()))?;
        if sound != line {
            return Err(broken("it was changed: its hash is another".to_owned()));
        }
        head = Head { entries: line.number, hash: line.hash };
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
        match verify(folder) {
            Err(AuditError::Broken { line, .. }) => line,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_was_recorded_is_found_again_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let head = filled(folder.path());
        assert_eq!((head.entries, verify(folder.path()).unwrap()), (3, head));
        let audit = Audit::open(folder.path()).unwrap();
        let next = audit.record(act("four")).unwrap();
        assert_eq!((next.entries, verify(folder.path()).unwrap()), (4, next));
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
        assert_eq!(verify(folder.path()).unwrap(), head);
        let audit = Audit::open(folder.path()).unwrap();
        let next = audit.record(act("four")).unwrap();
        assert_eq!((next.entries, verify(folder.path()).unwrap()), (4, next));
    }

    #[test]
    fn whatever_people_write_fits_into_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::open(folder.path()).unwrap();
        let long = "\u{1}".repeat(10_000);
        let giant =
            Act { user: long.clone(), reason: long.clone(), on: long.clone(), outcome: long.clone(), ..act(&long) };
        let head = audit.record(giant).unwrap();
        assert_eq!(verify(folder.path()).unwrap(), head);
    }
}
