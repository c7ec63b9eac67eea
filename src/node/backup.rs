//! Backups of a node's chain: the state at the newest proven checkpoint, with all that proves it.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use standin_foundation::Height;
use standin_ledger::GrantBook;
use standin_ledger::backup::{Backup, BackupError, Restored};
use standin_ledger::grant_book::EpochError;
use standin_ledger::log::LogError;
use standin_ledger::store::{Store, StoreError, StoreOptions};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::NodeHandle;
use crate::config::NodeConfig;

/// Files that are kept in the node's own folder; the oldest go.
const KEPT: usize = 3;
/// How many bytes are written between two looks at the disk.
const LOOK_EVERY: u64 = 4 * 1024 * 1024;

/// Backups of one node are made one at a time: each holds the whole state in memory once more while it is cut. What an operator orders
/// does not wait for what somebody fetches.
#[derive(Debug, Clone)]
pub struct Backups {
    fetched: Arc<Semaphore>,
    ordered: Arc<Semaphore>,
    folder: PathBuf,
    reserve_bytes: u64,
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupFailed {
    /// Another one is being made.
    #[error("another backup is being made at this node: ask again in a moment")]
    Busy,
    /// The node does not read now.
    #[error("the node has too many reads waiting, or is stopping")]
    NotRead,
    /// The chain has not come to its first checkpoint, or its proof is under way.
    #[error("no checkpoint has been proven since the node began: ask again in a moment")]
    NoCheckpoint,
    /// It could not be written.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The disk.
    #[error("backup {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Backups {
    pub(super) fn new(config: &NodeConfig) -> Self {
        let one = || Arc::new(Semaphore::new(1));
        let folder = config.data_dir.join("backups");
        Self { fetched: one(), ordered: one(), folder, reserve_bytes: config.reserve_bytes }
    }

    /// A backup for somebody who fetches it, and the place that it holds until it is dropped.
    pub async fn fetch(&self, node: &NodeHandle) -> Result<(Backup, OwnedSemaphorePermit), BackupFailed> {
        begin(node, &self.fetched).await
    }

    /// Writes one into the node's own folder; gives the file and its height. It is there whole, or not at all, and leaves the store what must stay free.
    pub async fn write(&self, node: &NodeHandle) -> Result<(PathBuf, Height), BackupFailed> {
        let (backup, permit) = begin(node, &self.ordered).await?;
        let (folder, reserve, height) = (self.folder.clone(), self.reserve_bytes, backup.height());
        let write = move || {
            let written = write_file(&folder, backup, reserve);
            drop(permit);
            written
        };
        let path = tokio::task::spawn_blocking(write).await.map_err(|_| BackupFailed::NotRead)??;
        Ok((path, height))
    }
}

async fn begin(node: &NodeHandle, places: &Arc<Semaphore>) -> Result<(Backup, OwnedSemaphorePermit), BackupFailed> {
    let permit = Arc::clone(places).try_acquire_owned().map_err(|_| BackupFailed::Busy)?;
    let (sender, receiver) = oneshot::channel();
    // Whoever asked may have gone.
    let taken = node.reader.try_read(move |ledger| drop(sender.send(ledger.newest_snapshot())));
    taken.map_err(|_| BackupFailed::NotRead)?;
    let (snapshot, certificate) =
        receiver.await.map_err(|_| BackupFailed::NotRead)?.ok_or(BackupFailed::NoCheckpoint)?;
    let (epoch, book) = (certificate.epoch, &node.book);
    let epochs = book.epoch_proofs().into_iter().filter(|proof| proof.epoch() <= epoch).collect();
    let grants = if node.genesis.auth.is_some() { book.all() } else { Vec::new() };
    // Cutting takes time in proportion to the state. It holds the place to its end, also if whoever asked goes.
    let cut = move || (Backup::new(&snapshot, certificate, epochs, grants), permit);
    tokio::task::spawn_blocking(cut).await.map_err(|_| BackupFailed::NotRead)
}

fn write_file(folder: &Path, mut backup: Backup, reserve: u64) -> Result<PathBuf, BackupFailed> {
    let path = folder.join(format!("{:020}.backup", backup.height().0));
    let new = path.with_extension("new");
    let failed = |source| BackupFailed::Io { path: path.clone(), source };
    let mut write = || {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        // What a crash has left half written.
        own_files(folder, "new").and_then(|left| left.iter().try_for_each(fs::remove_file)).map_err(failed)?;
        let mut options = File::options();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&new).map_err(failed)?;
        let (mut file, mut unseen) = (BufWriter::new(file), LOOK_EVERY);
        while let Some(piece) = backup.next_piece()? {
            unseen += piece.len() as u64;
            if unseen >= LOOK_EVERY {
                check_space(folder, reserve.saturating_add(LOOK_EVERY)).map_err(failed)?;
                unseen = 0;
            }
            file.write_all(&piece).map_err(failed)?;
        }
        file.into_inner().map_err(|error| failed(error.into_error()))?.sync_all().map_err(failed)?;
        fs::rename(&new, &path).map_err(failed)
    };
    if let Err(error) = write() {
        // What is half written is of no use; that it cannot be removed is less than what went wrong.
        let _ = fs::remove_file(&new);
        return Err(error);
    }
    remove_oldest(folder).map_err(failed)?;
    Ok(path)
}

/// The store stops the node when its disk has less than that left: a backup stops before.
fn check_space(folder: &Path, needed: u64) -> std::io::Result<()> {
    let stat = rustix::fs::statvfs(folder)?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free >= needed {
        return Ok(());
    }
    let what = format!("{free} bytes are free, {needed} are needed beside what is written (store.reserve_bytes)");
    Err(std::io::Error::new(std::io::ErrorKind::StorageFull, what))
}

/// Those that the node has written itself, oldest first: their names are heights of one length.
fn own_files(folder: &Path, extension: &str) -> std::io::Result<Vec<PathBuf>> {
    let is_own = |path: &PathBuf| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let is_height = name.len() == 20 && name.bytes().all(|byte| byte.is_ascii_digit());
        is_height && path.extension().is_some_and(|found| found == extension)
    };
    let mut own: Vec<_> = fs::read_dir(folder)?.flatten().map(|entry| entry.path()).filter(is_own).collect();
    own.sort();
    Ok(own)
}

fn remove_oldest(folder: &Path) -> std::io::Result<()> {
    let own = own_files(folder, "backup")?;
    own.iter().take(own.len().saturating_sub(KEPT)).try_for_each(fs::remove_file)
}

/// Why a node's folder cannot be made of a backup.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreFailed {
    /// The node has data.
    #[error("{0} holds a node's data: a backup is restored into an empty folder")]
    NotEmpty(PathBuf),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The book of grants.
    #[error(transparent)]
    Book(#[from] LogError),
    /// An epoch's proof.
    #[error(transparent)]
    Epoch(#[from] EpochError),
}

/// Makes the data of a node that has none of a backup, which has been checked: the state, and the proofs. Its log begins empty, as that of a node whose
/// disk was lost.
pub fn restore(config: &NodeConfig, restored: &Restored) -> Result<(), RestoreFailed> {
    let folder = &config.data_dir;
    if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(RestoreFailed::NotEmpty(folder.clone()));
    }
    let io = |source| StoreError::Io { path: folder.clone(), source };
    let genesis = config.genesis().map_err(|error| io(std::io::Error::other(error.to_string())))?;
    fs::create_dir_all(folder).map_err(io)?;
    let book = GrantBook::open(&folder.join("grants"), genesis.grant_table())?;
    let note = || restored.grants.iter().for_each(|grant| drop(book.note(grant.clone())));
    note();
    for proof in &restored.epochs {
        book.note_epoch(proof.clone())?;
        note();
    }
    let options = StoreOptions {
        path: folder.join("store"),
        chain: genesis.digest(),
        reserve_bytes: config.reserve_bytes,
        index_transactions: config.index_transactions,
        keep_blocks: None,
    };
    Store::open(options, &genesis.state())?.install(&restored.snapshot, &restored.certificate)?;
    Ok(())
}
