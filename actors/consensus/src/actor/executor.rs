//! The thread that owns the chain and its store: it executes final blocks in order, and answers reads in between.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use standin_foundation::{Epoch, Height};
use standin_ledger::certificate::{CheckpointCertificate, CheckpointResult, CommitCertificate};
use standin_ledger::error::LedgerError;
use standin_ledger::grant_book::EpochError;
use standin_ledger::snapshot::Snapshot;
use standin_ledger::store::{Store, StoreError, StoredBlock};
use standin_ledger::{
    Batch, Chain, ClientBook, Clients, EpochProof, EpochStart, Epochs, Genesis, GrantBook, Proposal, Receipt,
    StateMachine,
};

use super::open::Stored;
use super::served::Served;

/// Commands that may wait. Consensus keeps far fewer blocks open.
const COMMANDS_MAX: usize = 1_024;
/// Reads that may wait: few enough that they never keep execution waiting for a place in the queue.
const READS_MAX: usize = 64;

/// Why execution cannot go on. The node must stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecutionError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The next epoch, which a proven checkpoint begins.
    #[error(transparent)]
    Epoch(#[from] EpochError),
    /// A final block cannot be executed: something is damaged.
    #[error("a final block cannot be executed: {0}")]
    Ledger(#[from] LedgerError),
    /// The state machine panicked, or what carries it.
    #[error("executing a block panicked: {0}")]
    Panic(String),
}

/// What reads see.
#[derive(Debug)]
pub struct Ledger {
    /// The head of the chain.
    pub chain: Chain,
    /// The store.
    pub store: Store,
    /// Snapshots that other seats can fetch.
    pub(super) served: Served,
    /// Snapshots at checkpoints that are not proven yet.
    pub(super) snapshots: BTreeMap<Height, Snapshot>,
}

impl Ledger {
    /// The state at the newest checkpoint that is proven, with the proof. Costs nothing but a reference.
    pub fn newest_snapshot(&self) -> Option<(Snapshot, CheckpointCertificate)> {
        self.served.newest().cloned()
    }
}

type Read = Box<dyn FnOnce(&Ledger) + Send>;

pub(super) enum Command {
    Execute {
        proposal: Proposal,
        certificate: CommitCertificate,
        batches: Vec<Arc<Batch>>,
    },
    Certify(CheckpointCertificate),
    Install(Box<Snapshot>, CheckpointCertificate),
    Barrier,
    /// Say what the store holds above this height.
    Look(Height),
    Read(Read),
    Stop,
}

/// What the executor says.
#[derive(Debug)]
pub(super) enum ExecutorReport {
    Executed {
        height: Height,
        checkpoint: Option<CheckpointResult>,
        ordered: Option<EpochStart>,
        receipts: Vec<Receipt>,
    },
    Installed {
        certificate: CheckpointCertificate,
        epochs: Epochs,
    },
    /// The table of an epoch is durable.
    EpochKnown(Epoch),
    BarrierDone(Height),
    Looked(Stored),
    Failed(ExecutionError),
}

/// What the chain says at the head that other threads must know before they let anything in.
#[derive(Debug, Default)]
pub struct ChainRules {
    /// Who may submit, read and publish.
    pub clients: ClientBook,
    version: AtomicU32,
    ordered_version: AtomicU32,
}

impl ChainRules {
    /// The version of the state machine's rules by which the next block is executed.
    pub fn version(&self) -> u32 {
        self.version.load(Ordering::Relaxed)
    }

    /// The version that holds with the epoch that has been ordered, or else now.
    pub fn ordered_version(&self) -> u32 {
        self.ordered_version.load(Ordering::Relaxed)
    }

    /// Says of a version that has just been ordered.
    fn note_versions(&self, chain: &Chain) -> Option<u32> {
        self.version.store(chain.version(), Ordering::Relaxed);
        let ordered = chain.ordered_version();
        (self.ordered_version.swap(ordered, Ordering::Relaxed) < ordered).then_some(ordered)
    }
}

/// Why a read does not take place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadRefused {
    /// Too many wait.
    Busy,
    /// The node has stopped.
    Stopped,
}

/// A handle to the executor. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LedgerReader {
    commands: SyncSender<Command>,
    waiting: Arc<AtomicUsize>,
    rules: Arc<ChainRules>,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Command")
    }
}

impl LedgerReader {
    /// What the chain says at the head.
    pub fn rules(&self) -> &ChainRules {
        &self.rules
    }

    /// Runs `read` on the executor's thread, between two blocks. False if too many reads wait, or the node has stopped.
    pub fn read(&self, read: impl FnOnce(&Ledger) + Send + 'static) -> bool {
        self.try_read(read).is_ok()
    }

    /// As [`LedgerReader::read`], and says why not.
    pub fn try_read(&self, read: impl FnOnce(&Ledger) + Send + 'static) -> Result<(), ReadRefused> {
        if self.waiting.fetch_add(1, Ordering::AcqRel) >= READS_MAX {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            return Err(ReadRefused::Busy);
        }
        let waiting = Arc::clone(&self.waiting);
        let counted = move |ledger: &Ledger| {
            waiting.fetch_sub(1, Ordering::AcqRel);
            read(ledger);
        };
        match self.commands.try_send(Command::Read(Box::new(counted))) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.waiting.fetch_sub(1, Ordering::AcqRel);
                Err(match error {
                    TrySendError::Full(_) => ReadRefused::Busy,
                    TrySendError::Disconnected(_) => ReadRefused::Stopped,
                })
            }
        }
    }
}

/// The executor's thread.
#[derive(Debug)]
pub(super) struct Executor {
    reader: LedgerReader,
    stop: SyncSender<Command>,
    thread: Option<JoinHandle<()>>,
}

impl Executor {
    pub(super) fn start(
        ledger: Ledger,
        genesis: Genesis,
        machine: Arc<dyn StateMachine>,
        book: Arc<GrantBook>,
        report: impl Fn(ExecutorReport) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (commands, receiver) = sync_channel(COMMANDS_MAX);
        let rules = Arc::new(ChainRules::default());
        rules.clients.replace(Clients::of(ledger.chain.state()));
        let mut worker = Worker { ledger, genesis, machine, book, rules: Arc::clone(&rules) };
        worker.note_versions();
        let run = move || worker.run(&receiver, &report);
        let thread = std::thread::Builder::new().name("executor".to_owned()).spawn(run)?;
        let reader = LedgerReader { commands: commands.clone(), waiting: Arc::default(), rules };
        Ok(Self { reader, stop: commands, thread: Some(thread) })
    }

    pub(super) fn reader(&self) -> LedgerReader {
        self.reader.clone()
    }

    /// Hands in a command; waits if execution is far behind.
    pub(super) fn send(&self, command: Command) {
        // The thread ends early only after it has reported why.
        let _ = self.stop.send(command);
    }
}

impl Drop for Executor {
    /// Waits until everything handed in is done and the store is closed: that makes it durable.
    fn drop(&mut self) {
        self.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic in the thread has been printed already.
            let _ = thread.join();
        }
    }
}

/// What a panic said.
fn told(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

struct Worker {
    ledger: Ledger,
    genesis: Genesis,
    machine: Arc<dyn StateMachine>,
    book: Arc<GrantBook>,
    rules: Arc<ChainRules>,
}

impl Worker {
    fn run(&mut self, commands: &Receiver<Command>, report: &impl Fn(ExecutorReport)) {
        while let Ok(command) = commands.recv() {
            if matches!(command, Command::Stop) {
                // The store makes its last commits durable when it is dropped, with this worker.
                return;
            }
            // A read changes nothing: its panic is its asker's. After one of the rest the state is unknown, and the node must stop.
            let is_read = matches!(command, Command::Read(_));
            let taken = catch_unwind(AssertUnwindSafe(|| self.take(command)));
            match taken
                .unwrap_or_else(|panic| if is_read { Ok(None) } else { Err(ExecutionError::Panic(told(&*panic))) })
            {
                Ok(Some(done)) => report(done),
                Ok(None) => {}
                Err(error) => {
                    report(ExecutorReport::Failed(error));
                    return;
                }
            }
        }
    }

    fn take(&mut self, command: Command) -> Result<Option<ExecutorReport>, ExecutionError> {
        match command {
            Command::Execute { proposal, certificate, batches } => {
                self.execute(proposal, certificate, &batches).map(Some)
            }
            Command::Certify(certificate) => self.certify(certificate),
            Command::Install(snapshot, certificate) => {
                self.ledger.store.install(&snapshot, &certificate)?;
                let proof = EpochProof::new(&snapshot, &certificate);
                self.ledger.served.set_newest((*snapshot).clone(), certificate.clone());
                self.ledger.snapshots.clear();
                self.ledger.chain = Chain::from_snapshot(&self.genesis, Arc::clone(&self.machine), *snapshot);
                self.rules.clients.replace(Clients::of(self.ledger.chain.state()));
                self.note_versions();
                if let Some(proof) = proof {
                    self.book.keep_own_epoch(proof, self.ledger.chain.entered_epochs())?;
                }
                let epochs = self.ledger.chain.epochs();
                Ok(Some(ExecutorReport::Installed { certificate, epochs }))
            }
            Command::Barrier => {
                let begun = Instant::now();
                self.ledger.store.barrier()?;
                tracing::debug!(ms = begun.elapsed().as_millis() as u64, "the store is durable");
                Ok(Some(ExecutorReport::BarrierDone(self.ledger.store.head())))
            }
            Command::Look(above) => {
                Ok(Some(ExecutorReport::Looked(Stored::read(&self.ledger.store, &self.ledger.chain, above)?)))
            }
            Command::Read(read) => {
                read(&self.ledger);
                Ok(None)
            }
            Command::Stop => Ok(None),
        }
    }

    fn execute(
        &mut self,
        proposal: Proposal,
        certificate: CommitCertificate,
        batches: &[Arc<Batch>],
    ) -> Result<ExecutorReport, ExecutionError> {
        let executed = self.ledger.chain.execute(proposal, batches)?;
        self.rules.clients.note(&executed.writes);
        self.note_versions();
        let height = executed.header.height();
        let block = StoredBlock {
            header: executed.header,
            hash: executed.hash,
            certificate,
            receipts_root: executed.receipts_root,
            payloads: batches.iter().map(|batch| batch.payload().clone()).collect(),
            receipts: executed.receipts,
        };
        self.ledger.store.append(&block, executed.writes)?;
        if let Some(result) = &executed.checkpoint {
            self.ledger.store.flush(result)?;
            self.ledger.store.prune()?;
            self.ledger.snapshots.insert(height, self.ledger.chain.snapshot());
        }
        let ordered = self.ledger.chain.ordered_epoch();
        Ok(ExecutorReport::Executed { height, checkpoint: executed.checkpoint, ordered, receipts: block.receipts })
    }

    /// An operator must have time to install another program before the node stops.
    fn note_versions(&self) {
        let known = self.machine.version();
        if let Some(version) = self.rules.note_versions(&self.ledger.chain)
            && version > known
        {
            tracing::error!(
                version,
                known,
                "operators have ordered a version of the state machine that this program does not know: the node stops where it begins; install \
                 a newer program"
            );
        }
    }

    /// A checkpoint is proven; if an epoch begins above it, that is, too.
    fn certify(&mut self, certificate: CheckpointCertificate) -> Result<Option<ExecutorReport>, ExecutionError> {
        let height = certificate.result.height;
        self.ledger.store.certify(&certificate)?;
        let mut known = None;
        if let Some(snapshot) = self.ledger.snapshots.remove(&height) {
            if let Some(proof) = EpochProof::new(&snapshot, &certificate) {
                known = Some(ExecutorReport::EpochKnown(proof.epoch()));
                self.book.keep_own_epoch(proof, self.ledger.chain.entered_epochs())?;
            }
            self.ledger.served.set_newest(snapshot, certificate);
        }
        self.ledger.snapshots = self.ledger.snapshots.split_off(&height);
        Ok(known)
    }
}
