//! The links between the nodes of a demo or a drill: relays that carry bytes, or hold them as a cut cable would.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::Failure;

/// Bytes that a relay holds each way.
const BUFFER: usize = 64 * 1024;

/// Where a node dials to reach another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    /// The node that dials.
    pub(super) from: usize,
    /// The node that is dialled.
    pub(super) to: usize,
    /// What `from` dials.
    pub(super) relay: SocketAddr,
    /// Where `to` listens.
    pub(super) target: SocketAddr,
}

/// Running relays. They end with this.
#[derive(Debug)]
pub(super) struct Links {
    links: Vec<(Link, watch::Sender<bool>)>,
}

impl Links {
    /// Starts a relay for each link; all carry.
    pub(super) async fn start(links: &[Link]) -> Result<Self, Failure> {
        let mut running = Vec::new();
        for link in links {
            let listener = TcpListener::bind(link.relay).await?;
            let (carries, carried) = watch::channel(true);
            actix::spawn(accept(listener, link.target, carried));
            running.push((*link, carries));
        }
        Ok(Self { links: running })
    }

    /// Cuts a node off from all others, or joins it again.
    pub(super) fn set(&self, node: usize, carries: bool) {
        let touched = self.links.iter().filter(|(link, _)| link.from == node || link.to == node);
        for (_, carrying) in touched {
            carrying.send_replace(carries);
        }
    }
}

impl Links {
    /// Cuts all links between two sets of nodes, or joins them again.
    pub(super) fn set_between(&self, these: &[usize], those: &[usize], carries: bool) {
        let between = |link: &Link| {
            (these.contains(&link.from) && those.contains(&link.to))
                || (those.contains(&link.from) && these.contains(&link.to))
        };
        for (_, carrying) in self.links.iter().filter(|(link, _)| between(link)) {
            carrying.send_replace(carries);
        }
    }
}

/// Ends when the links are dropped.
async fn accept(listener: TcpListener, target: SocketAddr, carries: watch::Receiver<bool>) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = gone(carries.clone()) => return,
            accepted = listener.accept() => accepted,
        };
        if let Ok((dialler, _)) = accepted {
            actix::spawn(relay(dialler, target, carries.clone()));
        }
    }
}

async fn relay(dialler: TcpStream, target: SocketAddr, carries: watch::Receiver<bool>) {
    if carries.clone().wait_for(|carries| *carries).await.is_err() {
        return;
    }
    let Ok(acceptor) = TcpStream::connect(target).await else { return };
    // Only latency suffers without it.
    let _ = (dialler.set_nodelay(true), acceptor.set_nodelay(true));
    let ((from_dialler, to_dialler), (from_acceptor, to_acceptor)) = (dialler.into_split(), acceptor.into_split());
    let there = carry(from_dialler, to_acceptor, carries.clone());
    let back = carry(from_acceptor, to_dialler, carries.clone());
    tokio::select! {
        biased;
        () = gone(carries) => {}
        () = there => {}
        () = back => {}
    }
}

/// Waits until the links are dropped.
async fn gone(mut carries: watch::Receiver<bool>) {
    while carries.changed().await.is_ok() {}
}

async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut carries: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; BUFFER];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let Some(bytes) = buffer.get(..read) else { return };
        if carries.wait_for(|carries| *carries).await.is_err() || to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[actix::test]
    async fn a_cut_link_holds_bytes_and_a_joined_one_carries_them() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let link = Link { from: 0, to: 1, relay: free, target: server.local_addr().unwrap() };
        let links = Links::start(&[link]).await.unwrap();
        let mut client = TcpStream::connect(free).await.unwrap();
        let (mut served, _) = server.accept().await.unwrap();
        let mut byte = [0];
        client.write_all(b"a").await.unwrap();
        served.read_exact(&mut byte).await.unwrap();
        links.set(1, false);
        client.write_all(b"b").await.unwrap();
        let held = tokio::time::timeout(Duration::from_millis(200), served.read_exact(&mut byte)).await;
        assert!(held.is_err(), "the link is cut");
        links.set(0, true);
        served.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"b");
        drop(links);
        client.write_all(b"c").await.unwrap();
        assert_eq!(served.read(&mut byte).await.unwrap_or(0), 0, "without links nothing is carried");
    }
}
