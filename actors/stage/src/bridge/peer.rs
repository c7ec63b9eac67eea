//! A peer: a node on another machine, whether it is connected or not.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use standin_foundation::NodeId;
use tokio::sync::{Notify, oneshot, watch};

use super::frame::{Frame, FrameKind, type_of};
use super::outbox::Outbox;
use super::router::encode;
use crate::call::CallError;
use crate::mailbox::MailboxLimits;
use crate::message::{Lane, Message, RemoteMessage};
use crate::throttle::Throttle;
use standin_foundation::wire::Wire;

type Waiting = BTreeMap<u64, oneshot::Sender<Result<Bytes, CallError>>>;

/// State of a peer that outlives its connections.
#[derive(Debug)]
pub(super) struct Peer {
    id: NodeId,
    /// Where it can be reached: host and port.
    address: Mutex<String>,
    /// It is not admitted any more.
    dismissed: AtomicBool,
    pub(super) outbox: Outbox,
    waiting: Mutex<Waiting>,
    next_correlation: AtomicU64,
    sessions: AtomicU64,
    current: Mutex<Option<(u64, Arc<Notify>)>>,
    /// There is a session, for those who wait for one.
    open: watch::Sender<bool>,
    pub(super) refused: AtomicU64,
    /// How long the newest answered ping was under way, in µs; 0 before the first.
    round_trip_us: AtomicU64,
    /// Questions of the peer that are being answered.
    pub(super) asked: Arc<AtomicUsize>,
    /// Of lines about its coming and going.
    pub(super) news: Throttle,
}

impl Peer {
    pub(super) fn new(id: NodeId, address: String, limits: MailboxLimits) -> Self {
        Self {
            id,
            address: Mutex::new(address),
            dismissed: AtomicBool::new(false),
            outbox: Outbox::new(limits),
            waiting: Mutex::new(Waiting::new()),
            // A late answer to a question of an earlier process must not meet one of this process.
            next_correlation: AtomicU64::new(fastrand::u64(..)),
            sessions: AtomicU64::new(0),
            current: Mutex::new(None),
            open: watch::Sender::new(false),
            refused: AtomicU64::new(0),
            round_trip_us: AtomicU64::new(0),
            asked: Arc::default(),
            news: Throttle::new(Duration::from_secs(1), 10),
        }
    }

    pub(super) fn id(&self) -> NodeId {
        self.id
    }

    pub(super) fn address(&self) -> String {
        self.address.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn move_to(&self, address: &str) {
        address.clone_into(&mut self.address.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn is_dismissed(&self) -> bool {
        self.dismissed.load(Ordering::Acquire)
    }

    /// Nobody connects to it any more, and it is refused.
    pub(super) fn dismiss(&self) {
        self.dismissed.store(true, Ordering::Release);
        self.outbox.set_open(false);
        self.disconnect();
    }

    /// A connection is ready: an older one gives way.
    pub(super) fn session_began(&self) -> (u64, Arc<Notify>) {
        let id = self.sessions.fetch_add(1, Ordering::Relaxed) + 1;
        let replaced = Arc::new(Notify::new());
        if let Ok(mut current) = self.current.lock()
            && let Some((_, older)) = current.replace((id, Arc::clone(&replaced)))
        {
            older.notify_one();
        }
        // Whoever asks in between is told at once, and by the right session.
        self.outbox.set_open(false);
        self.fail_waiting();
        self.outbox.set_open(true);
        self.open.send_replace(true);
        (id, replaced)
    }

    pub(super) fn session_ended(&self, id: u64) {
        if let Ok(mut current) = self.current.lock()
            && current.as_ref().is_some_and(|(current, _)| *current == id)
        {
            *current = None;
            self.outbox.set_open(false);
            self.open.send_replace(false);
            drop(current);
            self.fail_waiting();
        }
    }

    /// Ends the session, if there is one.
    pub(super) fn disconnect(&self) {
        if let Ok(current) = self.current.lock()
            && let Some((_, session)) = &*current
        {
            session.notify_one();
        }
    }

    /// A ping was answered after so many µs. One that the other end made up says nothing.
    pub(super) fn heard_back(&self, after_us: Option<u64>) {
        if let Some(after) = after_us {
            self.round_trip_us.store(after.max(1), Ordering::Relaxed);
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.current.lock().is_ok_and(|current| current.is_some())
    }

    pub(super) fn answered(&self, correlation: u64, result: Result<Bytes, CallError>) {
        let waiting = self.waiting.lock().ok().and_then(|mut waiting| waiting.remove(&correlation));
        if let Some(waiting) = waiting {
            // The asker may have given up.
            let _ = waiting.send(result);
        }
    }

    fn fail_waiting(&self) {
        let waiting = self.waiting.lock().map(|mut waiting| std::mem::take(&mut *waiting)).unwrap_or_default();
        for (_, waiting) in waiting {
            let _ = waiting.send(Err(CallError::Disconnected { sent: true }));
        }
    }
}

/// An actor, or a whole node, on another machine.
#[derive(Debug, Clone)]
pub struct Remote {
    pub(super) peer: Arc<Peer>,
}

impl Remote {
    /// The node.
    pub fn id(&self) -> NodeId {
        self.peer.id
    }

    /// Whether there is a session.
    pub fn is_connected(&self) -> bool {
        self.peer.is_connected()
    }

    /// How long the newest ping of this session or the one before was under way, both ways; none while there is no session, or none was answered.
    pub fn round_trip(&self) -> Option<Duration> {
        let us = self.peer.round_trip_us.load(Ordering::Relaxed);
        (us > 0 && self.is_connected()).then(|| Duration::from_micros(us))
    }

    /// Waits until there is a session. It may be gone again when this returns.
    pub async fn connected(&self) {
        // The sender lives as long as the peer.
        drop(self.peer.open.subscribe().wait_for(|open| *open).await);
    }

    /// Messages of this peer that were not taken.
    pub fn refused(&self) -> u64 {
        self.peer.refused.load(Ordering::Relaxed)
    }

    /// Tells the peer something. An error means that it did not leave; without one it may still be lost.
    pub fn tell<M: RemoteMessage>(&self, message: &M) -> Result<(), CallError> {
        self.tell_encoded::<M>(encode(message)?)
    }

    /// Tells the peer something that is encoded already: one encoding for many peers.
    pub fn tell_encoded<M: RemoteMessage>(&self, payload: Bytes) -> Result<(), CallError> {
        self.peer.outbox.push(M::LANE, frame::<M>(FrameKind::Tell, 0, 0, payload))
    }

    /// Asks the peer, and waits at most so long for the answer.
    pub async fn ask<M: RemoteMessage>(&self, message: &M, within: Duration) -> Result<M::Reply, CallError> {
        let (waiting, receiver) = self.wait();
        let deadline_ms = u32::try_from(within.as_millis()).unwrap_or(u32::MAX);
        let frame = frame::<M>(FrameKind::Ask, waiting.correlation, deadline_ms, encode(message)?);
        self.peer.outbox.push(M::LANE, frame)?;
        let answer = match tokio::time::timeout(within, receiver).await {
            Err(_) => Err(CallError::TimedOut),
            Ok(Err(_)) => Err(CallError::Disconnected { sent: true }),
            Ok(Ok(answer)) => answer,
        };
        <M as Message>::Reply::from_wire(&answer?).map_err(|error| CallError::Incompatible(error.to_string()))
    }

    /// Waits until the actor that takes messages of this kind at the peer has ended for good, or cannot be told from one that
    /// has: the session is gone. A peer that comes back is watched anew. Keep the future: each call is a watch at the peer.
    pub async fn down<M: RemoteMessage>(&self) -> Down {
        let (waiting, receiver) = self.wait();
        let watch = frame::<M>(FrameKind::Watch, waiting.correlation, 0, Bytes::new());
        let answer = match self.peer.outbox.push(Lane::Control, Frame { lane: Lane::Control as u8, ..watch }) {
            Ok(()) => receiver.await.unwrap_or(Err(CallError::Disconnected { sent: true })),
            Err(error) => Err(error),
        };
        match answer {
            Ok(exit) => Down::Ended(String::from_utf8_lossy(&exit).into_owned()),
            Err(CallError::Disconnected { .. }) => Down::Unreachable,
            Err(error) => Down::Refused(error),
        }
    }

    fn wait(&self) -> (Correlated, oneshot::Receiver<Result<Bytes, CallError>>) {
        let correlation = self.peer.next_correlation.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        if let Ok(mut waiting) = self.peer.waiting.lock() {
            waiting.insert(correlation, sender);
        }
        (Correlated { peer: Arc::clone(&self.peer), correlation }, receiver)
    }
}

/// A question that waits for its answer: forgotten when nobody waits any more.
struct Correlated {
    peer: Arc<Peer>,
    correlation: u64,
}

impl Drop for Correlated {
    fn drop(&mut self) {
        if let Ok(mut waiting) = self.peer.waiting.lock() {
            waiting.remove(&self.correlation);
        }
    }
}

/// The nodes that a bridge reaches, connected or not; shared by all that speak with them, and changed while it runs.
#[derive(Debug, Clone, Default)]
pub struct Peers(Arc<RwLock<BTreeMap<NodeId, Arc<Peer>>>>);

impl Peers {
    /// The peer with this id.
    pub fn remote(&self, id: &NodeId) -> Option<Remote> {
        self.get(id).map(|peer| Remote { peer })
    }

    /// All peers.
    pub fn all(&self) -> Vec<Remote> {
        let peers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        peers.values().map(|peer| Remote { peer: Arc::clone(peer) }).collect()
    }

    pub(super) fn get(&self, id: &NodeId) -> Option<Arc<Peer>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    pub(super) fn insert(&self, peer: Arc<Peer>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(peer.id, peer);
    }

    pub(super) fn remove(&self, id: &NodeId) -> Option<Arc<Peer>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(id)
    }
}

/// What a death watch on another machine saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Down {
    /// The actor has ended for good: how, in the peer's words.
    Ended(String),
    /// There is no session any more: the actor may live.
    Unreachable,
    /// The peer does not watch it: it has no such actor, or too many watches.
    Refused(CallError),
}

fn frame<M: RemoteMessage>(kind: FrameKind, correlation: u64, deadline_ms: u32, payload: Bytes) -> Frame {
    Frame { kind, lane: M::LANE as u8, correlation, message_type: type_of(M::NAME), deadline_ms, payload }
}
