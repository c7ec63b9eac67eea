//! What sessions need to know of each topic, without asking the actor: they read the journal and send by themselves.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use standin_foundation::{Height, Millis, PublicKey};
use tokio::sync::watch;

use super::clock;
use crate::ids::{Sequence, Topic};
use crate::machine::session::Limit;
use crate::machine::view::Held;
use crate::machine::witness::TakeoverProof;
use crate::messages::{Checkpoint, Takeover};

/// A topic, as this server knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The newest takeover.
    pub takeover: Option<Takeover>,
    /// What proves it; terminals are served when there is that.
    pub proof: Option<Arc<TakeoverProof>>,
    /// Who owns the lock now.
    pub held: Option<Held>,
    /// The last datum that is queued.
    pub queued: Sequence,
    /// Up to where the chain says that it was published, and the chain value there.
    pub published: Checkpoint,
    /// While this server owns the lock: until when, on this node's clock, and up to which datum it publishes.
    pub own: Option<(Millis, Sequence)>,
    /// Data wait of which this server does not have the frames: it does not compete for the lock.
    pub lacks: bool,
}

impl Standing {
    /// Whether this server may publish at a time.
    pub fn publishes(&self, now: Millis) -> bool {
        self.own.is_some_and(|(until, _)| now < until)
    }

    /// Up to where terminals may be served at a time.
    pub fn limit(&self, now: Millis) -> Option<Limit> {
        let published = self.published.upto;
        let own = self.own.filter(|(until, _)| now < *until).map_or(published, |(_, upto)| upto);
        let proof = self.proof.as_ref()?;
        Some(Limit { takeover: proof.takeover, epoch: proof.epoch, upto: own.max(published) })
    }
}

const BEGUN: u8 = 1;
const ENDED: u8 = 2;

/// What was counted at a server.
#[derive(Debug, Default)]
pub struct Counted {
    /// Terminals that have come so far.
    begun: AtomicU64,
    /// Terminals that are connected.
    pub terminals: AtomicU64,
    /// Data that were sent to them.
    pub sent: AtomicU64,
    /// Terminals that were cut because they took nothing, or had fallen behind what is kept.
    pub cut: AtomicU64,
}

/// The last datum that each terminal has, by topic and number.
type Terminals = BTreeMap<(Topic, u64), Arc<AtomicU64>>;

/// All topics. Cheap to clone; all clones see the same.
#[derive(Debug, Clone, Default)]
pub struct Board {
    topics: Arc<RwLock<BTreeMap<Topic, watch::Sender<Standing>>>>,
    counted: Arc<Counted>,
    terminals: Arc<Mutex<Terminals>>,
    /// After which block topics stand as they are told to.
    at: Arc<watch::Sender<Height>>,
    /// 0 until it is known how topics stand, 1 from then on, 2 when nobody says so any more.
    life: Arc<AtomicU8>,
}

impl Board {
    /// Says how a topic stands; wakes its sessions if that has changed.
    pub(super) fn set(&self, topic: Topic, standing: Standing) {
        if self.life.load(Ordering::Relaxed) == ENDED {
            return;
        }
        let known = self.read().get(&topic).cloned();
        let sender = known.unwrap_or_else(|| {
            let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
            topics.entry(topic).or_insert_with(|| watch::Sender::new(standing.clone())).clone()
        });
        sender.send_if_modified(|known| {
            let is_new = *known != standing;
            if is_new {
                *known = standing;
            }
            is_new
        });
    }

    /// From now on it is known which topics there are.
    pub(super) fn begin(&self) {
        let _ = self.life.compare_exchange(0, BEGUN, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Nobody says any more how topics stand: terminals are let go.
    pub fn end(&self) {
        self.life.store(ENDED, Ordering::Relaxed);
        self.topics.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Whether it is known which topics there are.
    pub fn is_live(&self) -> bool {
        self.life.load(Ordering::Relaxed) == BEGUN
    }

    /// Follows a topic; none if the chain does not have it.
    pub fn follow(&self, topic: Topic) -> Option<watch::Receiver<Standing>> {
        self.read().get(&topic).map(watch::Sender::subscribe)
    }

    /// Topics are told as they stood after this block, or a later one.
    pub(super) fn come_to(&self, height: Height) {
        self.at.send_if_modified(|at| height > std::mem::replace(at, height.max(*at)));
    }

    /// Waits until topics are told as they stood after this block.
    pub async fn wait_for(&self, height: Height) {
        // The sender is this board's own.
        drop(self.at.subscribe().wait_for(|at| *at >= height).await);
    }

    /// How a topic stands.
    pub fn get(&self, topic: Topic) -> Option<Standing> {
        self.read().get(&topic).map(|sender| sender.borrow().clone())
    }

    /// All topics, by name.
    pub fn all(&self) -> Vec<(Topic, Standing)> {
        self.read().iter().map(|(topic, sender)| (*topic, sender.borrow().clone())).collect()
    }

    /// What was counted.
    pub fn counted(&self) -> &Counted {
        &self.counted
    }

    /// Locks that a server owns.
    pub fn held_by(&self, server: &PublicKey) -> usize {
        self.all().iter().filter(|(_, standing)| standing.held.is_some_and(|held| held.owner == *server)).count()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<Topic, watch::Sender<Standing>>> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Board {
    /// A terminal follows a topic from behind a datum, until what is returned is dropped.
    pub fn seat(&self, topic: Topic, last: Sequence) -> Seated {
        let (number, has) = (self.counted.begun.fetch_add(1, Ordering::Relaxed), Arc::new(AtomicU64::new(last.0)));
        self.counted.terminals.fetch_add(1, Ordering::Relaxed);
        self.seats().insert((topic, number), Arc::clone(&has));
        Seated { board: self.clone(), place: (topic, number), has }
    }

    /// How many terminals follow each topic, and what the one that is farthest behind has.
    pub fn terminals(&self) -> BTreeMap<Topic, (usize, Sequence)> {
        let mut found = BTreeMap::new();
        for ((topic, _), has) in self.seats().iter() {
            let has = Sequence(has.load(Ordering::Relaxed));
            let (count, least) = found.entry(*topic).or_insert((0, has));
            (*count, *least) = (*count + 1, has.min(*least));
        }
        found
    }

    fn seats(&self) -> std::sync::MutexGuard<'_, Terminals> {
        self.terminals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time on the clock that standings speak of.
    pub fn now(&self) -> Millis {
        clock::now()
    }
}

/// A terminal's place.
#[derive(Debug)]
pub struct Seated {
    board: Board,
    place: (Topic, u64),
    has: Arc<AtomicU64>,
}

impl Seated {
    /// It has everything up to here.
    pub fn has(&self, last: Sequence) {
        self.has.fetch_max(last.0, Ordering::Relaxed);
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        self.board.counted.terminals.fetch_sub(1, Ordering::Relaxed);
        self.board.seats().remove(&self.place);
    }
}
