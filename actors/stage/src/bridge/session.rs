//! One connection to a peer that has proven who it is: reading, writing, heartbeat.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use standin_foundation::NodeId;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::frame::{Frame, FrameError, FrameKind};
use super::outbox::CREDIT_BYTES;
use super::peer::Peer;
use super::pipe::Pipe;
use super::router::{Answer, Router};
use crate::call::CallError;
use crate::message::Lane;

/// Interval at which a side says that it is there.
const PING_INTERVAL: Duration = Duration::from_millis(1_000);
/// After so long without a frame the session is dead.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Questions of a peer that may be under way.
const ASKS_MAX: usize = 4_096;
/// Watches that a peer may have set.
const WATCHES_MAX: usize = 1_024;

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEnd {
    /// The connection broke.
    Disconnected,
    /// The peer said goodbye.
    Goodbye,
    /// The peer was silent for too long.
    Silent,
    /// The peer sent something that is no frame.
    Broken(FrameError),
    /// A newer connection took its place, or the node stops.
    Replaced,
}

/// When a session began: times in pings count from there.
#[derive(Debug, Clone, Copy)]
struct Began(Instant);

impl Began {
    fn elapsed_us(self, now: Instant) -> u64 {
        now.saturating_duration_since(self.0).as_micros() as u64
    }
}

/// Runs a session to its end.
pub(super) async fn run(pipe: Pipe, peer: &Arc<Peer>, router: &Router) -> SessionEnd {
    let (outgoing, mut incoming) = pipe.split();
    let (id, replaced) = peer.session_began();
    let began = Began(Instant::now());
    let writer = write(peer, &outgoing, began);
    let reader = read(peer, router, &mut incoming, began);
    let end = tokio::select! {
        biased;
        () = replaced.notified() => SessionEnd::Replaced,
        end = reader => end,
        () = writer => SessionEnd::Disconnected,
    };
    if end == SessionEnd::Replaced {
        let mut goodbye = BytesMut::new();
        Frame::signal(FrameKind::Goodbye).encode(&mut goodbye);
        // The connection may be gone already.
        let _ = outgoing.try_send(goodbye.freeze());
    }
    peer.session_ended(id);
    end
}

async fn write(peer: &Peer, outgoing: &mpsc::Sender<Bytes>, began: Began) {
    // At once: how far the other end is away is known from the beginning on.
    let mut due = Instant::now();
    loop {
        let message = match tokio::time::timeout_at(due, peer.outbox.next()).await {
            Ok(Some(message)) => Some(message),
            Ok(None) => return,
            Err(_) => None,
        };
        let now = Instant::now();
        // Also between messages that leave it no pause: how long it is under way says how the link is.
        let ping = (now >= due).then(|| {
            due = now + PING_INTERVAL;
            let mut ping = BytesMut::new();
            Frame { correlation: began.elapsed_us(now), ..Frame::signal(FrameKind::Ping) }.encode(&mut ping);
            ping.freeze()
        });
        for bytes in message.into_iter().chain(ping) {
            if outgoing.send(bytes).await.is_err() {
                return;
            }
        }
    }
}

async fn read(peer: &Arc<Peer>, router: &Router, incoming: &mut mpsc::Receiver<Bytes>, began: Began) -> SessionEnd {
    let mut heard = Instant::now();
    let mut taken = Taken::default();
    let watchers = Watchers::default();
    loop {
        let bytes = match tokio::time::timeout_at(heard + SILENCE_MAX, incoming.recv()).await {
            Err(_) => return SessionEnd::Silent,
            Ok(None) => return SessionEnd::Disconnected,
            Ok(Some(bytes)) => bytes,
        };
        heard = Instant::now();
        let frames = match Frame::decode_all(bytes) {
            Ok(frames) => frames,
            Err(error) => return SessionEnd::Broken(error),
        };
        for frame in frames {
            taken.note(&frame);
            match frame.kind {
                FrameKind::Goodbye => return SessionEnd::Goodbye,
                // A pong that finds no room says less than the traffic that took it.
                FrameKind::Ping => {
                    let pong = Frame { correlation: frame.correlation, ..Frame::signal(FrameKind::Pong) };
                    drop(peer.outbox.push(Lane::Control, pong));
                }
                FrameKind::Pong => peer.heard_back(began.elapsed_us(Instant::now()).checked_sub(frame.correlation)),
                FrameKind::Credit => peer.outbox.credit(frame.lane, frame.correlation),
                FrameKind::Watch => watchers.watch(peer, router, frame),
                FrameKind::Reply => peer.answered(frame.correlation, Ok(frame.payload)),
                FrameKind::Error => {
                    let text = String::from_utf8_lossy(&frame.payload).into_owned();
                    peer.answered(frame.correlation, Err(CallError::Refused(text)));
                }
                FrameKind::Tell | FrameKind::Ask => dispatch(peer, router, frame),
            }
        }
        taken.give_credit(peer);
    }
}

/// Bytes of each lane that were taken and not yet credited.
#[derive(Debug, Default)]
struct Taken([usize; 3]);

impl Taken {
    fn note(&mut self, frame: &Frame) {
        if let Some(taken) = self.0.get_mut(usize::from(frame.lane)) {
            *taken = taken.saturating_add(frame.payload.len());
        }
    }

    /// Gives credit for a good part of what a lane may have on its way. Where there is no room for it, the peer's next ping
    /// brings another chance.
    fn give_credit(&mut self, peer: &Peer) {
        for ((lane, taken), limit) in (0u8..).zip(&mut self.0).zip(CREDIT_BYTES) {
            if *taken < limit / 4 {
                continue;
            }
            let frame = Frame { lane, correlation: *taken as u64, ..Frame::signal(FrameKind::Credit) };
            if peer.outbox.push(Lane::Control, frame).is_ok() {
                *taken = 0;
            }
        }
    }
}

/// Watches that a peer has set on actors of this node: bounded, and gone with the session.
#[derive(Debug)]
struct Watchers {
    count: Arc<AtomicUsize>,
    session: watch::Sender<()>,
}

impl Default for Watchers {
    fn default() -> Self {
        Self { count: Arc::default(), session: watch::Sender::new(()) }
    }
}

impl Watchers {
    fn watch(&self, peer: &Arc<Peer>, router: &Router, frame: Frame) {
        let (lane, correlation) = (Lane::Control, frame.correlation);
        let Some(ended) = router.ended(frame.message_type) else {
            let unknown = CallError::UnknownMessage(format!("type {:016x}", frame.message_type));
            return reply(peer, lane, correlation, Err(unknown));
        };
        if self.count.fetch_add(1, Ordering::AcqRel) >= WATCHES_MAX {
            self.count.fetch_sub(1, Ordering::AcqRel);
            return reply(
                peer,
                lane,
                correlation,
                Err(CallError::Overloaded { queued: WATCHES_MAX, limit: WATCHES_MAX }),
            );
        }
        let (peer, count, mut session) = (Arc::clone(peer), Arc::clone(&self.count), self.session.subscribe());
        // On this session's own thread.
        actix_rt::spawn(async move {
            tokio::select! {
                biased;
                exit = ended => reply(&peer, lane, correlation, Ok(format!("{exit:?}").into())),
                _ = session.changed() => {}
            }
            count.fetch_sub(1, Ordering::AcqRel);
        });
    }
}

fn dispatch(peer: &Arc<Peer>, router: &Router, frame: Frame) {
    let lane = Lane::from_u8(frame.lane).unwrap_or(Lane::Bulk);
    let correlation = frame.correlation;
    let asking = (frame.kind == FrameKind::Ask).then(|| Asking::begin(peer));
    if let Some(Err(overloaded)) = asking {
        return reply(peer, lane, correlation, Err(overloaded));
    }
    let answer = asking.and_then(Result::ok).map(|asking| {
        let peer = Arc::clone(peer);
        let answer: Answer = Box::new(move |result| {
            drop(asking);
            reply(&peer, lane, correlation, result);
        });
        (Duration::from_millis(u64::from(frame.deadline_ms)), answer)
    });
    let asked = answer.is_some();
    let from: NodeId = peer.id();
    if let Err(error) = router.dispatch(from, frame.message_type, frame.payload, answer) {
        peer.refused.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(peer = %from.short(), %error, "message not taken");
        if asked {
            reply(peer, lane, correlation, Err(error));
        }
    }
}

/// A question of the peer that is being answered.
struct Asking(Arc<AtomicUsize>);

impl Asking {
    fn begin(peer: &Peer) -> Result<Self, CallError> {
        let queued = peer.asked.fetch_add(1, Ordering::AcqRel);
        let asking = Self(Arc::clone(&peer.asked));
        if queued < ASKS_MAX { Ok(asking) } else { Err(CallError::Overloaded { queued, limit: ASKS_MAX }) }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn reply(peer: &Peer, lane: Lane, correlation: u64, result: Result<Bytes, CallError>) {
    let (kind, payload) = match result {
        Ok(payload) => (FrameKind::Reply, payload),
        Err(error) => (FrameKind::Error, error.to_string().into()),
    };
    let frame = Frame { kind, lane: lane as u8, correlation, message_type: 0, deadline_ms: 0, payload };
    // The asker has a deadline: it learns of a lost answer by itself.
    let _ = peer.outbox.push(lane, frame);
}
