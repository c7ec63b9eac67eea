//! The node's publisher: what it follows, what it hands in, and where it is seen.

use std::sync::Arc;
use std::time::{Duration, Instant};

use standin_consensus::actor::{Directory, LedgerReader, Replica, Submit};
use standin_foundation::wire::Wire;
use standin_foundation::{Digest, Epoch, Height, NodeId, PublicKey, Seat, SecretKey, Term};
use standin_ledger::log::{LogError, LogOptions};
use standin_ledger::store::StoredBlock;
use standin_ledger::{Authority as _, Batch, Genesis, Outcome};
#[cfg(feature = "etcd")]
use standin_publisher::actor::etcd::EtcdLocks;
use standin_publisher::actor::{
    Begin, Board, FollowError, Followed, Happened, Journal, Leave, LockStore, NoLockStore, Publisher, Surroundings,
};
use standin_publisher::machine::view::View;
use standin_publisher::machine::witness::{Speakers as _, Word};
use standin_publisher::messages::{Frames, Takeover, WantFrames, WantWords, Words};
use standin_publisher::state_machine::{content_of, events_of};
use standin_publisher::{Config, Event, Instruction, Topic, record};
use standin_stage::{Address, CallError, Cell, MailboxLimits, Supervision};
use tokio::sync::{oneshot, watch};

use super::NodeHandle;
use super::actions::Modes;
use super::blocks::{BlocksError, Follower};
use super::console::Teller;
use crate::config::NodeConfig;

/// How long the actor may take for a block.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);
/// How long the replica may take for what is handed in.
const HANDED_IN_WITHIN: Duration = Duration::from_secs(5);
/// And the chain for an outcome.
const OUTCOME_WITHIN: Duration = Duration::from_secs(5);
/// An instruction that is said again within so many blocks is the same transaction.
const SAME_FOR_BLOCKS: u64 = 64;
const ASKED_FOR_BLOCKS: u64 = 4;
/// After something went wrong it is tried again after this time.
const AGAIN: Duration = Duration::from_millis(200);
/// How often the chain's list of a cluster's members is compared with the auth node's.
const SHOWN_EVERY: Duration = Duration::from_secs(1);
/// A list that the chain did not take is shown again after this time.
const SHOWN_AGAIN: Duration = Duration::from_secs(30);
/// A node that stops waits so long for its locks to be released.
const RELEASED_WITHIN: Duration = Duration::from_millis(500);

/// What a node offers of publication. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Publication {
    /// How topics stand, for whoever serves terminals.
    pub board: Board,
    /// The frames that the node keeps.
    pub journal: Journal,
    /// The actor.
    pub publisher: Address<Publisher>,
}

/// A publisher that runs.
#[derive(Debug)]
pub(super) struct Started {
    cell: Cell<Publisher>,
    board: Board,
    own: PublicKey,
}

impl Started {
    pub(super) fn address(&self) -> &Address<Publisher> {
        self.cell.address()
    }

    pub(super) fn board(&self) -> Board {
        self.board.clone()
    }

    pub(super) fn offered(&self, journal: Journal) -> Publication {
        Publication { board: self.board.clone(), journal, publisher: self.cell.address().clone() }
    }

    /// Gives the locks back, and stops.
    pub(super) async fn stop(self) {
        if let Ok(1..) = self.cell.address().ask(Leave, RELEASED_WITHIN).await {
            let released = async {
                let mut interval = tokio::time::interval(Duration::from_millis(5));
                while self.board.held_by(&self.own) > 0 {
                    interval.tick().await;
                }
            };
            // A node that cannot have them released loses them by time-out.
            drop(tokio::time::timeout(RELEASED_WITHIN, released).await);
        }
        self.cell.stop();
        self.cell.ended().await;
    }
}

/// What the actor sees of the node.
#[derive(Clone)]
pub(super) struct Around {
    pub(super) genesis: Arc<Genesis>,
    pub(super) key: Arc<SecretKey>,
    pub(super) directory: Directory,
    pub(super) replica: Address<Replica>,
    pub(super) executed: watch::Receiver<Height>,
    pub(super) reader: LedgerReader,
    pub(super) modes: Modes,
    pub(super) teller: Teller,
    pub(super) locks: Arc<dyn LockStore>,
    pub(super) competes: bool,
}

impl Surroundings for Around {
    fn submit(&self, instruction: Instruction) {
        let around = self.clone();
        actix_rt::spawn(async move {
            let newest = *around.executed.borrow();
            let height = match newest {
                // Nothing was executed since the node started.
                Height(0) => around.head().await.unwrap_or_default(),
                height => height,
            };
            // Said again while nothing moves it is the same transaction: without a quorum nothing piles up. What asks for a lock is judged anew sooner.
            let same_for =
                if matches!(instruction, Instruction::Acquire { .. }) { ASKED_FOR_BLOCKS } else { SAME_FOR_BLOCKS };
            let height = Height(height.0 / same_for * same_for);
            let signed = instruction.sign(&around.genesis, &around.key, nonce_of(&instruction), height);
            let Ok(transaction) =
                signed.inspect_err(|error| tracing::error!(%error, "an instruction that does not fit"))
            else {
                return;
            };
            let submitted = around.replica.ask(Submit { transactions: vec![transaction] }, HANDED_IN_WITHIN).await;
            match submitted {
                Ok(Ok(mut outcomes)) => {
                    // What has no outcome for so long is said again, and must not be waited for as well.
                    if let Some(outcome) = outcomes.pop()
                        && let Ok(Ok(finished)) = tokio::time::timeout(OUTCOME_WITHIN, outcome).await
                        && let Outcome::Rejected(why) = finished.outcome
                    {
                        tracing::debug!(why, "the chain refuses an instruction");
                    }
                }
                // It is said again, as long as it is so.
                Ok(Err(error)) => tracing::debug!(%error, "an instruction was not handed in"),
                Err(error) => tracing::debug!(%error, "an instruction was not handed in"),
            }
        });
    }

    fn lock_store(&self) -> &dyn LockStore {
        &*self.locks
    }

    fn others(&self) -> Vec<(NodeId, bool)> {
        self.directory.nodes().iter().map(|remote| (remote.id(), remote.is_connected())).collect()
    }

    fn speaks(&self) -> bool {
        self.directory.book.holder(self.directory.seat) == Some(self.directory.own)
    }

    fn serves(&self) -> bool {
        self.competes && !self.modes.draining() && !self.modes.read_only()
    }

    fn epoch(&self) -> Epoch {
        self.directory.book.epoch()
    }

    fn seats(&self, epoch: Epoch) -> Option<usize> {
        self.directory.book.count(epoch)
    }

    fn word(&self, takeover: &Takeover, known: Option<&Word>) -> Option<Word> {
        let (book, seat) = (&self.directory.book, self.directory.seat);
        let (epoch, newest) = (book.epoch(), book.term(seat));
        let is_of = |known: &Word, term| known.epoch == epoch && known.witness.term == term;
        if known.is_some_and(|known| is_of(known, newest)) {
            return None;
        }
        let speaks = |term: &Term| book.speaker(epoch, seat, *term) == Some(self.key.public());
        let term = Some(newest).filter(speaks).or_else(|| {
            // Where nobody grants seats, the term is the one that the chain's order has begun.
            let table = book.newest_table();
            let first = table.seats.get(&seat).map(|seat| Term::first_of(seat.since));
            first.filter(|_| table.auth.is_none()).filter(speaks)
        })?;
        if known.is_some_and(|known| is_of(known, term)) {
            return None;
        }
        Some(Word::sign(&self.genesis.digest(), &self.key, *takeover, (epoch, seat, term)))
    }

    fn seat_of(&self, node: &NodeId) -> Option<Seat> {
        self.directory.seat_of(node)
    }

    fn is_sound(&self, word: &Word) -> bool {
        word.is_sound(&self.genesis.digest(), &*self.directory.book)
    }

    fn say(&self, to: Option<NodeId>, words: &Words) {
        let others = match to {
            Some(node) => self.directory.node(&node).into_iter().collect(),
            None => self.directory.nodes(),
        };
        // Whoever lacks one asks for it.
        others.iter().for_each(|other| drop(other.tell(words)));
    }

    fn want(&self, words: &WantWords) {
        self.directory.nodes().iter().for_each(|other| drop(other.tell(words)));
    }

    fn want_frames(&self, from: NodeId, wanted: &WantFrames) {
        // Another one is asked if nothing comes of it.
        self.directory.node(&from).into_iter().for_each(|other| drop(other.tell(wanted)));
    }

    fn give_frames(&self, to: NodeId, given: &Frames) {
        self.directory.node(&to).into_iter().for_each(|other| drop(other.tell(given)));
    }

    fn tell(&self, happened: Happened) {
        match happened {
            Happened::Begun { takeover: Takeover { topic, fence, from, .. }, after } => {
                tracing::info!(%topic, %fence, %from, "publishes");
                let (before, ms) = match after {
                    Some((owner, reason, ms)) => (format!(", after {}: {reason}", owner.node_id().short()), Some(ms)),
                    None => (String::new(), None),
                };
                self.teller.publishes(format!("topic {topic} from datum {from} on, under fence {fence}{before}"), ms);
            }
            Happened::Event(Event::Released { topic, fence, reason, .. }) => {
                tracing::info!(%topic, %fence, %reason, "lock released");
            }
            Happened::Event(Event::Skipped { topic, from, checkpoint }) => {
                tracing::warn!(%topic, %from, upto = %checkpoint.upto, "data that no node has were given up, by order of operators");
            }
            Happened::Event(_) => {}
        }
    }
}

/// The same instruction has the same nonce.
fn nonce_of(instruction: &Instruction) -> u64 {
    let digest = Digest::sha256(&instruction.to_wire().unwrap_or_default());
    digest.as_bytes().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

impl Around {
    async fn head(&self) -> Option<Height> {
        let (sender, receiver) = oneshot::channel();
        self.reader.read(move |ledger| _ = sender.send(ledger.chain.height()));
        receiver.await.ok()
    }
}

/// Opens the journal of a node.
pub(super) fn open_journal(config: &NodeConfig, genesis: &Genesis) -> Result<Journal, LogError> {
    // Several files, so that what is forgotten is a small part of what is kept.
    let segment_bytes = (config.journal_bytes / 8).clamp(64 * 1024, config.segment_bytes.max(64 * 1024));
    let options = LogOptions { segment_bytes, chain: genesis.digest() };
    Journal::open(&config.data_dir.join("journal"), options, config.journal_bytes)
}

/// Where the locks of topics stand that are not on the chain; and what is to run once the actor does.
pub(super) fn lock_store(config: &NodeConfig, of: (Digest, NodeId)) -> (Arc<dyn LockStore>, RunsLocks) {
    match &config.lock_store {
        #[cfg(feature = "etcd")]
        Some(etcd) => {
            let (locks, asked) = EtcdLocks::new();
            let etcd = etcd.clone();
            let run: RunsLocks = Box::new(move |publisher| {
                actix_rt::spawn(EtcdLocks::run(etcd, of, asked, publisher));
            });
            (Arc::new(locks), run)
        }
        // A configuration that names another is refused.
        _ => (Arc::<NoLockStore>::default(), Box::new(|_| {})),
    }
}

/// Begins to carry out what is asked of a lock store.
pub(super) type RunsLocks = Box<dyn FnOnce(Address<Publisher>)>;

/// Starts the actor. It begins when [`follow`] has read what the chain says.
pub(super) fn start(config: Config, journal: &Journal, around: Around) -> Started {
    let (board, own) = (Board::default(), around.key.public());
    let (made_of, shown) = (journal.clone(), board.clone());
    let make = move |_| {
        let surroundings = Box::new(around.clone());
        Publisher::new((around.key.public(), config), (made_of.clone(), shown.clone()), surroundings)
    };
    let cell = Cell::spawn("publisher", Supervision::default(), MailboxLimits::default(), make);
    Started { cell, board, own }
}

/// Follows the node's blocks for the actor, for as long as the node runs.
pub(super) async fn follow(node: NodeHandle) {
    let Publication { journal, publisher, .. } = node.publication.clone();
    loop {
        match follow_once(&node, &journal, &publisher).await {
            Ok(()) => break,
            Err(why) => tracing::warn!(why, "the publisher begins anew with what the chain says"),
        }
        if publisher.has_ended() {
            break;
        }
        tokio::time::sleep(AGAIN).await;
    }
    node.publication.board.end();
}

/// Shows the chain who belongs to the node's cluster, for as long as the node speaks for it: members that the auth node has admitted compete and
/// attest like those of the genesis.
pub(super) async fn show_members(around: Around) {
    let mut interval = tokio::time::interval(SHOWN_EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut shown: Option<(_, Instant)> = None;
    while !around.replica.has_ended() {
        interval.tick().await;
        let newest = around.directory.members.signed_of(around.directory.seat).filter(|_| around.speaks());
        let Some(signed) = newest else { continue };
        let (cluster, order) = (signed.membership.cluster.clone(), signed.membership.order());
        let (sender, receiver) = oneshot::channel();
        let is_known = move |known: record::ClusterMembers| (known.listed, known.version) >= order;
        around.reader.read(move |ledger| {
            let known = record::members(ledger.chain.state(), &cluster).is_some_and(is_known);
            _ = sender.send(known);
        });
        // What is not known was not read: at the next look.
        let was_shown = shown.is_some_and(|(known, at)| known == order && at.elapsed() < SHOWN_AGAIN);
        if receiver.await == Ok(false) && !was_shown {
            shown = Some((order, Instant::now()));
            around.submit(Instruction::Members(signed));
        }
    }
}

/// Ends with the node; fails if the actor has to begin anew.
async fn follow_once(node: &NodeHandle, journal: &Journal, publisher: &Address<Publisher>) -> Result<(), String> {
    let (sender, receiver) = oneshot::channel();
    if !node.reader.read(move |ledger| drop(sender.send((View::of(ledger.chain.state()), ledger.chain.height())))) {
        return Err("too many reads wait".to_owned());
    }
    let Ok((view, height)) = receiver.await else { return Ok(()) };
    publisher.ask(Begin { view, height }, TAKEN_WITHIN).await.map_err(|error| error.to_string())?;
    // Events behind the state, and frames behind the journal; what both have already is passed over.
    let mut follower = Follower::new(node, height.min(journal.height()).next());
    loop {
        let block = match follower.next().await {
            Ok(block) => block,
            Err(BlocksError::Stopped) => return Ok(()),
            Err(BlocksError::Gone { first }) => {
                tracing::warn!(%first, "blocks are missing that the journal does not have: it begins anew");
                journal.restart_at(first.previous()).map_err(|error| error.to_string())?;
                return Err("blocks are missing".to_owned());
            }
            Err(error) => return Err(error.to_string()),
        };
        match publisher.ask(followed(&block), TAKEN_WITHIN).await {
            Ok(Ok(())) => {}
            Ok(Err(FollowError::Journal(error))) => {
                tracing::error!(%error, "the journal cannot be written: this node publishes nothing until it is started again");
                node.publication.board.end();
                return Ok(());
            }
            Ok(Err(error)) => return Err(error.to_string()),
            Err(CallError::Stopped) => return Ok(()),
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// What a block says of publication.
fn followed(block: &StoredBlock) -> Followed {
    let (mut events, mut frames) = (Vec::new(), Vec::<(Topic, _, _)>::new());
    let mut receipts = block.receipts.iter();
    // The payloads of a block of one's own store are sound.
    for batch in block.payloads.iter().filter_map(|payload| Batch::parse(payload.clone()).ok()) {
        for (transaction, receipt) in batch.transactions().iter().zip(receipts.by_ref()) {
            let Outcome::Applied(output) = &receipt.outcome else { continue };
            for event in events_of(transaction, output) {
                if let Event::Queued { topic, entry } = &event {
                    frames.extend(content_of(transaction).map(|content| (*topic, *entry, content)));
                }
                events.push(event);
            }
        }
    }
    Followed { height: block.header.height(), events, frames }
}
