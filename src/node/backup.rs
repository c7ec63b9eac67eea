//! Backups of a node's chain: the state at the newest proven checkpoint, with all that proves it.

use std::fs::{self, File};
use std::io::BufWriter;
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

/// Backups of one node are made one at a time: each holds the whole state in memory once more while it is cut.
#[derive(Debug, Clone)]
pub struct Backups(Arc<Semaphore>, PathBuf);

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
    pub(super) fn new(data_dir: &Path) -> Self {
        Self(Arc::new(Semaphore::new(1)), data_dir.join("backups"))
    }

    /// The newest backup that can be made now, and the place that it holds until it is dropped.
    pub async fn begin(&self, node: &NodeHandle) -> Result<(Backup, OwnedSemaphorePermit), BackupFailed> {
        let permit = Arc::clone(&self.0).try_acquire_owned().map_err(|_| BackupFailed::Busy)?;
        let (sender, receiver) = oneshot::channel();
        // Whoever asked may have gone.
        let taken = node.reader.try_read(move |ledger| drop(sender.send(ledger.newest_snapshot())));
        taken.map_err(|_| BackupFailed::NotRead)?;
        let (snapshot, certificate) =
            receiver.await.map_err(|_| BackupFailed::NotRead)?.ok_or(BackupFailed::NoCheckpoint)?;
        let (epoch, book) = (certificate.epoch, &node.book);
        let epochs = book.epoch_proofs().into_iter().filter(|proof| proof.epoch() <= epoch).collect();
        let grants = if node.genesis.auth.is_some() { book.all() } else { Vec::new() };
        // Cutting takes time in proportion to the state.
        let cut = move || Backup::new(&snapshot, certificate, epochs, grants);
        let backup = tokio::task::spawn_blocking(cut).await.map_err(|_| BackupFailed::NotRead)?;
        Ok((backup, permit))
    }

    /// Writes one into the node's own folder; gives the file and its height. It is there whole, or not at all.
    pub async fn write(&self, node: &NodeHandle) -> Result<(PathBuf, Height), BackupFailed> {
        let (backup, permit) = self.begin(node).await?;
        let (folder, height) = (self.1.clone(), backup.height());
        let path = folder.join(format!("{height}.backup"));
        let target = path.clone();
        let write = move || {
            let failed = |source| BackupFailed::Io { path: target.clone(), source };
            fs::create_dir_all(&folder).map_err(failed)?;
            let new = target.with_extension("new");
            let mut file = BufWriter::new(File::create(&new).map_err(failed)?);
            backup.write(&mut file)?;
            file.into_inner().map_err(|error| failed(error.into_error()))?.sync_all().map_err(failed)?;
            fs::rename(&new, &target).map_err(failed)?;
            drop(permit);
            Ok::<_, BackupFailed>(())
        };
        tokio::task::spawn_blocking(write).await.map_err(|_| BackupFailed::NotRead)??;
        Ok((path, height))
    }
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
