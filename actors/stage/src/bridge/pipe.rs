//! A connection as the bridge sees it: websocket messages in and out. Sockets in production, memory in tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use standin_foundation::limits::FRAME_BYTES_MAX;
use tokio::sync::mpsc;

/// Both directions of a connection. Dropping it closes the connection.
#[derive(Debug)]
pub struct Pipe {
    outgoing: mpsc::Sender<Bytes>,
    incoming: mpsc::Receiver<Bytes>,
    allowance: Arc<Allowance>,
}

/// Bytes that the other end may send before a message is complete: few until it has proven who it is.
#[derive(Debug)]
pub struct Allowance {
    limit: AtomicUsize,
    used: AtomicUsize,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { limit: AtomicUsize::new(STRANGER_BYTES_MAX), used: AtomicUsize::new(0) }
    }
}

impl Allowance {
    /// So many more bytes have come; whether they were allowed.
    pub fn take(&self, bytes: usize) -> bool {
        let used = self.used.fetch_add(bytes, Ordering::AcqRel).saturating_add(bytes);
        used <= self.limit.load(Ordering::Acquire)
    }

    /// A message is complete: the count begins anew.
    pub fn message_done(&self) {
        self.used.store(0, Ordering::Release);
    }
}

/// What a stranger may send: a hello and a proof, and the websocket around them.
const STRANGER_BYTES_MAX: usize = 64 * 1024;
/// What an admitted peer may send before a message is complete. Bytes of the next one may have been counted already.
const PEER_BYTES_MAX: usize = 4 * FRAME_BYTES_MAX;

impl Pipe {
    /// A pipe made of its two directions.
    pub fn new(outgoing: mpsc::Sender<Bytes>, incoming: mpsc::Receiver<Bytes>) -> Self {
        Self { outgoing, incoming, allowance: Arc::default() }
    }

    /// The same pipe, where this is what its other end may send.
    #[must_use]
    pub fn with_allowance(self, allowance: Arc<Allowance>) -> Self {
        Self { allowance, ..self }
    }

    /// The other end has proven who it is.
    pub fn admit(&self) {
        self.allowance.limit.store(PEER_BYTES_MAX, Ordering::Release);
    }

    /// Two ends of one connection in memory, with room for so many messages each way.
    pub fn pair(capacity: usize) -> (Self, Self) {
        let (left, from_left) = mpsc::channel(capacity);
        let (right, from_right) = mpsc::channel(capacity);
        (Self::new(left, from_right), Self::new(right, from_left))
    }

    /// Sends a message; none if the connection has ended.
    pub async fn send(&self, message: Bytes) -> Option<()> {
        self.outgoing.send(message).await.ok()
    }

    /// The next message; none if the connection has ended.
    pub async fn receive(&mut self) -> Option<Bytes> {
        self.incoming.recv().await
    }

    /// The two directions.
    pub fn split(self) -> (mpsc::Sender<Bytes>, mpsc::Receiver<Bytes>) {
        (self.outgoing, self.incoming)
    }
}
