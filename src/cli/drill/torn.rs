//! Connections of terminals that break again and again, anywhere in the stream of bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use standin::client::Client;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::Failure;

/// A connection breaks after at least so many bytes of the node's answers …
const BYTES_MIN: u64 = 300;
/// … and at most so many more.
const BYTES_SPREAD: u64 = 6_000;

/// Relays in front of nodes, each connection through which breaks. They end with the drill's runtime.
#[derive(Debug, Clone)]
pub(super) struct Torn {
    broken: Arc<AtomicU64>,
    breaks: Arc<AtomicBool>,
}

impl Torn {
    /// Relays in front of these nodes, and what to connect to in their place.
    pub(super) async fn before(nodes: &[Client]) -> Result<(Self, Vec<Client>), Failure> {
        let torn = Self { broken: Arc::default(), breaks: Arc::new(AtomicBool::new(true)) };
        let mut clients = Vec::new();
        for node in nodes {
            let target = node.base().trim_start_matches("http://").parse::<SocketAddr>();
            let target = target.map_err(|error| Failure::new(1, format!("{}: {error}", node.base())))?;
            let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
            clients.push(Client::new(&format!("http://{}", listener.local_addr()?), Duration::from_secs(5)));
            actix_rt::spawn(torn.clone().accept(listener, target));
        }
        Ok((torn, clients))
    }

    /// Connections that broke.
    pub(super) fn broken(&self) -> u64 {
        self.broken.load(Ordering::Relaxed)
    }

    /// From now on they hold.
    pub(super) fn mend(&self) {
        self.breaks.store(false, Ordering::Relaxed);
    }

    async fn accept(self, listener: TcpListener, target: SocketAddr) {
        let mut number = 0u64;
        while let Ok((stream, _)) = listener.accept().await {
            number += 1;
            // Anywhere, and the same each time.
            let after = BYTES_MIN + number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % BYTES_SPREAD;
            let torn = self.clone();
            actix_rt::spawn(async move {
                // A node that is not there: the terminal finds out.
                let Ok(upstream) = TcpStream::connect(target).await else { return };
                torn.carry(stream, upstream, after).await;
            });
        }
    }

    async fn carry(&self, mut down: TcpStream, mut up: TcpStream, after: u64) {
        let (mut said, mut heard, mut carried) = ([0; 4_096], [0; 4_096], 0u64);
        loop {
            tokio::select! {
                read = down.read(&mut said) => match read {
                    Ok(count @ 1..) if up.write_all(said.get(..count).unwrap_or_default()).await.is_ok() => {}
                    _ => return,
                },
                read = up.read(&mut heard) => {
                    let Ok(count @ 1..) = read else { return };
                    let left = after.saturating_sub(carried);
                    let breaks = self.breaks.load(Ordering::Relaxed) && left < count as u64;
                    // What stands before the break arrives.
                    let part = if breaks { left as usize } else { count };
                    if down.write_all(heard.get(..part).unwrap_or_default()).await.is_err() {
                        return;
                    }
                    if breaks {
                        self.broken.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                    carried += count as u64;
                }
            }
        }
    }
}
