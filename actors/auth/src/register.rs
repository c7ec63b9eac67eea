//! Where the register stands: a store that swaps one cluster's record at a time, durably.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};
use standin_foundation::limits::LOG_RECORD_BYTES_MAX;
use standin_foundation::wire::{Wire, WireError};
use standin_foundation::{ClusterId, Digest, Epoch, Incarnation};
use standin_ledger::log::{Log, LogError, LogOptions};
use tokio::sync::oneshot;

use crate::machine::Record;

/// Swaps that may wait.
const SWAPS_MAX: usize = 1_024;
/// Size of a segment, in bytes.
const SEGMENT_BYTES: u64 = 256 * 1024;
/// The log is written anew when it has grown to this, in bytes.
const LOG_BYTES_MAX: u64 = 1024 * 1024;
/// The life of the register stands above this bit of its count, so that a later life always counts higher.
const LIFE_SHIFT: u32 = 40;

/// Why a register does not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// Its log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A record that this version does not know.
    #[error("record {sequence} of the register is of no known kind: it was written by another version")]
    UnknownRecord {
        /// Its number.
        sequence: u64,
    },
    /// A record that cannot be written.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
    /// Too many swaps wait.
    #[error("the register is busy: {SWAPS_MAX} changes wait")]
    Busy,
    /// Nobody answers for it now: what was asked may or may not have been done.
    #[error("the register cannot be reached: {0}")]
    Unreachable(String),
    /// Somebody began a new life of the register after a backup.
    #[error("the register was recalled and lives its life {found}; this auth node knows life {known}: start it again")]
    Recalled {
        /// The life that is known here.
        known: Incarnation,
        /// The register's.
        found: Incarnation,
    },
    /// An etcd that cannot be used.
    #[cfg(feature = "etcd")]
    #[error(transparent)]
    Etcd(standin_etcd::Error),
    /// It has stopped, and said why.
    #[error("the register has stopped")]
    Stopped,
}

#[cfg(feature = "etcd")]
impl From<standin_etcd::Error> for RegisterError {
    fn from(error: standin_etcd::Error) -> Self {
        match error {
            standin_etcd::Error::Unreachable(why) => Self::Unreachable(why),
            error => Self::Etcd(error),
        }
    }
}

/// An answer that may take a while.
pub type Pending<T> = Pin<Box<dyn Future<Output = Result<T, RegisterError>> + Send>>;

/// A cluster's record, and the mark by which a swap says that it is still this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The record.
    pub record: Record,
    /// Another with each change.
    pub mark: u64,
}

/// Something that was read, or came of a swap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted<T> {
    /// What.
    pub content: T,
    /// The register's count at that moment. It rises with every change, and is never lower than what anyone was told before.
    pub count: u64,
}

/// A store of records, shared by all auth nodes of a chain. What it has told is durable; what it reads is the newest.
pub trait Register: std::fmt::Debug + Send + Sync {
    /// The record of a cluster; none if the register does not know it.
    fn read(&self, cluster: &ClusterId) -> Pending<Counted<Option<Stored>>>;

    /// All records.
    fn read_all(&self) -> Pending<Vec<Record>>;

    /// Puts a record in the place of the one with this mark. False if that one is not there any more.
    fn swap(&self, mark: u64, next: Record) -> Pending<Counted<bool>>;

    /// Puts in the record of a cluster that the register does not know; one that it knows stays as it is.
    fn add(&self, record: Record) -> Pending<()>;

    /// The register's life: one more whenever it was brought back from a copy.
    fn incarnation(&self) -> Incarnation;
}

/// The count of a register that has seen so many changes in this life.
pub(crate) fn count_of(incarnation: Incarnation, changes: u64) -> u64 {
    (incarnation.0 << LIFE_SHIFT) | changes
}

/// What a register writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Written {
    Life(Incarnation),
    Record(Box<Record>),
}

impl Wire for Written {
    const NAME: &'static str = "auth.register";
    const BYTES_MAX: usize = LOG_RECORD_BYTES_MAX;
}

/// What is durable.
#[derive(Debug, Clone, Default)]
struct Content {
    incarnation: Incarnation,
    records: BTreeMap<ClusterId, Record>,
}

impl Content {
    fn count(&self) -> u64 {
        count_of(self.incarnation, self.records.values().map(|record| record.version).sum())
    }

    fn take(&mut self, written: Written) {
        match written {
            Written::Life(incarnation) => self.incarnation = incarnation,
            Written::Record(record) => drop(self.records.insert(record.cluster.clone(), *record)),
        }
    }
}

struct Swap {
    /// Of the record that is replaced; none for the first of its cluster.
    mark: Option<u64>,
    next: Record,
    done: oneshot::Sender<Result<Counted<bool>, RegisterError>>,
}

/// The register in a log of its own, next to the auth node. One thread owns the file.
#[derive(Debug)]
pub struct LogRegister {
    durable: Arc<RwLock<Content>>,
    swaps: Option<SyncSender<Swap>>,
    thread: Option<JoinHandle<()>>,
}

fn load(folder: &Path, chain: Digest) -> Result<(Log, Content), RegisterError> {
    let (log, recovered) = Log::open(folder, LogOptions { segment_bytes: SEGMENT_BYTES, chain })?;
    let mut content = Content::default();
    for (sequence, bytes) in &recovered.records {
        let written = Written::from_wire(bytes).map_err(|_| RegisterError::UnknownRecord { sequence: *sequence })?;
        content.take(written);
    }
    Ok((log, content))
}

fn write(log: &mut Log, written: &Written) -> Result<(), RegisterError> {
    log.append(&[&written.to_wire()?])?;
    Ok(())
}

/// Writes everything into a new segment, and drops those before.
fn write_anew(log: &mut Log, content: &Content) -> Result<(), RegisterError> {
    log.roll()?;
    let first = log.next();
    for record in content.records.values() {
        write(log, &Written::Record(Box::new(record.clone())))?;
    }
    // Last: a new life without the marks of its records would grant again what was granted before.
    write(log, &Written::Life(content.incarnation))?;
    log.sync()?;
    Ok(log.cut_before(first)?)
}

impl LogRegister {
    /// Opens the register in `folder`, or begins one, for a key that has signed grants since `issuer`. Clusters that it does not know
    /// yet begin with `first`.
    pub fn open(folder: &Path, chain: Digest, issuer: Epoch, first: Vec<Record>) -> Result<Self, RegisterError> {
        let (mut log, mut content) = load(folder, chain)?;
        content.incarnation = content.incarnation.max(Incarnation::first_of(issuer));
        for record in first {
            content.records.entry(record.cluster.clone()).or_insert(record);
        }
        write_anew(&mut log, &content)?;
        let durable = Arc::new(RwLock::new(content.clone()));
        let (swaps, receiver) = sync_channel(SWAPS_MAX);
        let shared = Arc::clone(&durable);
        let thread = std::thread::Builder::new().name("register".to_owned());
        let thread = thread.spawn(move || run(log, content, &shared, &receiver))?;
        Ok(Self { durable, swaps: Some(swaps), thread: Some(thread) })
    }

    /// Begins a new life of a register that was brought back from a copy: no cluster gets a grant before each of its admitted
    /// nodes has said what it knows, and promised to refuse what an earlier life granted (G5). Gives the new life.
    pub fn recall(folder: &Path, chain: Digest, issuer: Epoch) -> Result<Incarnation, RegisterError> {
        let (mut log, mut content) = load(folder, chain)?;
        content.incarnation = content.incarnation.max(Incarnation::first_of(issuer)).next();
        for record in content.records.values_mut() {
            record.version += 1;
            record.recalling = Some(Default::default());
        }
        write_anew(&mut log, &content)?;
        Ok(content.incarnation)
    }

    fn read_durable<T>(&self, read: impl FnOnce(&Content) -> T) -> T {
        read(&self.durable.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for LogRegister {
    fn drop(&mut self) {
        drop(self.swaps.take());
        if let Some(thread) = self.thread.take() {
            // A panic in the thread has been printed already.
            let _ = thread.join();
        }
    }
}

impl Register for LogRegister {
    fn read(&self, cluster: &ClusterId) -> Pending<Counted<Option<Stored>>> {
        let read = self.read_durable(|content| {
            let record = content.records.get(cluster).cloned();
            Counted { content: record.map(|record| Stored { mark: record.version, record }), count: content.count() }
        });
        Box::pin(std::future::ready(Ok(read)))
    }

    fn read_all(&self) -> Pending<Vec<Record>> {
        let records = self.read_durable(|content| content.records.values().cloned().collect());
        Box::pin(std::future::ready(Ok(records)))
    }

    fn swap(&self, mark: u64, next: Record) -> Pending<Counted<bool>> {
        self.hand_in(Some(mark), next)
    }

    fn add(&self, record: Record) -> Pending<()> {
        let added = self.hand_in(None, record);
        Box::pin(async move { added.await.map(drop) })
    }

    fn incarnation(&self) -> Incarnation {
        self.read_durable(|content| content.incarnation)
    }
}

impl LogRegister {
    fn hand_in(&self, mark: Option<u64>, next: Record) -> Pending<Counted<bool>> {
        let (done, answer) = oneshot::channel();
        let handed_in = match &self.swaps {
            None => Err(RegisterError::Stopped),
            Some(swaps) => swaps.try_send(Swap { mark, next, done }).map_err(|error| match error {
                TrySendError::Full(_) => RegisterError::Busy,
                TrySendError::Disconnected(_) => RegisterError::Stopped,
            }),
        };
        Box::pin(async move {
            handed_in?;
            answer.await.map_err(|_| RegisterError::Stopped)?
        })
    }
}

/// Takes whatever swaps wait, writes those that fit, and syncs once for all of them.
fn run(mut log: Log, mut content: Content, durable: &RwLock<Content>, swaps: &Receiver<Swap>) {
    while let Ok(first) = swaps.recv() {
        let mut answers = Vec::new();
        let mut next = Some(first);
        let mut written = Ok(());
        while let Some(Swap { mark, next: record, done }) = next {
            let current = content.records.get(&record.cluster).map(|record| record.version);
            let fits = current == mark && mark.is_none_or(|mark| record.version > mark);
            if fits && written.is_ok() {
                let change = Written::Record(Box::new(record));
                written = write(&mut log, &change);
                content.take(change);
            }
            answers.push((done, fits));
            next = swaps.try_recv().ok();
        }
        let synced = written.and_then(|()| match log.bytes() > LOG_BYTES_MAX {
            true => write_anew(&mut log, &content),
            false => log.sync().map(|_| ()).map_err(RegisterError::from),
        });
        if let Err(error) = synced {
            // Nobody is told what is not durable; whoever asks is told why, and the thread ends.
            let mut answers = answers.into_iter();
            if let Some((done, _)) = answers.next() {
                let _ = done.send(Err(error));
            }
            return;
        }
        let count = content.count();
        durable.write().unwrap_or_else(PoisonError::into_inner).clone_from(&content);
        for (done, content) in answers {
            // The asker may have gone.
            let _ = done.send(Ok(Counted { content, count }));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use standin_foundation::SecretKey;

    use super::*;

    fn record(version: u64) -> Record {
        Record { version, ..Record::new("a".parse().unwrap(), [key(7)]) }
    }

    fn key(n: u8) -> standin_foundation::PublicKey {
        SecretKey::from_bytes(&[n; 32]).unwrap().public()
    }

    fn open(folder: &Path) -> LogRegister {
        LogRegister::open(folder, Digest::ZERO, Epoch(0), vec![record(0)]).unwrap()
    }

    fn swap(register: &LogRegister, version: u64) -> bool {
        let rt = tokio::runtime::Builder::new_current_thread().build().unwrap();
        rt.block_on(register.swap(version - 1, record(version))).unwrap().content
    }

    fn count(register: &LogRegister) -> u64 {
        register.read(&"a".parse().unwrap()).now_or_never().unwrap().unwrap().count
    }

    fn version(register: &LogRegister) -> u64 {
        let read = register.read(&"a".parse().unwrap()).now_or_never();
        read.unwrap().unwrap().content.unwrap().record.version
    }

    #[test]
    fn g1_a_swap_is_durable_and_goes_through_for_the_next_version_only() {
        let folder = tempfile::tempdir().unwrap();
        let register = open(folder.path());
        assert!(swap(&register, 1));
        assert!(!swap(&register, 1), "another was faster");
        assert!(!swap(&register, 3), "a version is missing");
        assert!(swap(&register, 2));
        let count = count(&register);
        drop(register);
        let register = open(folder.path());
        assert_eq!((version(&register), self::count(&register)), (2, count));
    }

    #[test]
    fn the_log_of_the_register_does_not_grow_without_a_bound() {
        let folder = tempfile::tempdir().unwrap();
        let register = open(folder.path());
        let rt = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let big = |version| Record { version, ..Record::new("a".parse().unwrap(), (1..=200u8).map(key)) };
        for version in 1..=200 {
            assert!(rt.block_on(register.swap(version - 1, big(version))).unwrap().content);
        }
        drop(register);
        let bytes: u64 = std::fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).sum();
        assert!(bytes <= LOG_BYTES_MAX + 2 * SEGMENT_BYTES, "{bytes}");
        assert_eq!(version(&open(folder.path())), 200);
    }

    #[test]
    fn a_cluster_is_added_once() {
        let folder = tempfile::tempdir().unwrap();
        let register = open(folder.path());
        let rt = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let added = |version, key| Record { version, ..Record::new("e".parse().unwrap(), [key]) };
        rt.block_on(register.add(added(0, key(1)))).unwrap();
        assert!(rt.block_on(register.swap(0, added(1, key(1)))).unwrap().content);
        rt.block_on(register.add(added(0, key(2)))).unwrap();
        drop(register);
        let read = rt.block_on(open(folder.path()).read(&"e".parse().unwrap())).unwrap().content.unwrap();
        assert_eq!(read.record, added(1, key(1)), "what is there stays");
    }

    /// G5: a register that was brought back from a copy counts higher than any of its lives before.
    #[test]
    fn g5_a_recalled_register_counts_higher_than_before_and_asks_every_node() {
        let folder = tempfile::tempdir().unwrap();
        let register = open(folder.path());
        assert!(swap(&register, 1) && swap(&register, 2));
        let before = count(&register);
        drop(register);
        assert_eq!(LogRegister::recall(folder.path(), Digest::ZERO, Epoch(0)).unwrap(), Incarnation(2));
        let register = open(folder.path());
        assert!(count(&register) > before);
        let record = register.read(&"a".parse().unwrap()).now_or_never().unwrap().unwrap().content.unwrap().record;
        assert_eq!((record.version, record.recalling), (3, Some(Default::default())));
        // One that is lost whole begins a new life of its issuer's.
        let lost = tempfile::tempdir().unwrap();
        let life = LogRegister::recall(lost.path(), Digest::ZERO, Epoch(3)).unwrap();
        assert_eq!(life, Incarnation::first_of(Epoch(3)).next());
        let register = LogRegister::open(lost.path(), Digest::ZERO, Epoch(3), Vec::new()).unwrap();
        assert_eq!(register.incarnation(), life);
    }
}
