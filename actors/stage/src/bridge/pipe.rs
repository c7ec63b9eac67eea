//! A connection as the bridge sees it: websocket messages in and out. Sockets in production, memory in tests.

use bytes::Bytes;
use tokio::sync::mpsc;

/// Both directions of a connection. Dropping it closes the connection.
#[derive(Debug)]
pub struct Pipe {
    outgoing: mpsc::Sender<Bytes>,
    incoming: mpsc::Receiver<Bytes>,
}

impl Pipe {
    /// A pipe made of its two directions.
    pub fn new(outgoing: mpsc::Sender<Bytes>, incoming: mpsc::Receiver<Bytes>) -> Self {
        Self { outgoing, incoming }
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
