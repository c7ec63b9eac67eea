//! The bridge: actors on other machines.
//!
//! One websocket for each pair of nodes, over mutual TLS. The node with the lower id dials, with jittered backoff, for ever;
//! the other listens. A connection counts only after the hello ([`hello`]). Messages are delivered at most once; a queue that
//! is full, or a peer that is not there, is told to the sender at once.

pub mod frame;
pub mod hello;
mod outbox;
mod peer;
mod pipe;
mod router;
mod session;
pub mod tls;
mod transport;
#[cfg(test)]
mod turmoil_tests;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use standin_foundation::limits::{HELLO_TIMEOUT_MS, HELLOS_PENDING_MAX};
use standin_foundation::{Digest, NodeId, PublicKey, SecretKey};
use tokio::sync::Notify;

pub use hello::Admitted;
pub use peer::{Down, Peers, Remote};
pub use pipe::Pipe;
pub use router::Router;
pub use session::SessionEnd;
pub use tls::TlsIdentity;
pub use transport::{Listening, Local, Opened, SocketTransport, Take, Transport};

use crate::mailbox::MailboxLimits;
use crate::policy::Backoff;
use crate::throttle::Throttle;
use hello::{Credentials, HelloError, Side};
use peer::Peer;

/// A session that lasted so long was sound.
const SOUND_SESSION: Duration = Duration::from_secs(2);

/// Why the bridge cannot work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BridgeError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A peer cannot be reached.
    #[error("cannot connect to {address}: {what}")]
    Dial {
        /// Its address.
        address: String,
        /// Why.
        what: String,
    },
    /// The hello failed.
    #[error(transparent)]
    Hello(#[from] HelloError),
}

/// A node that is admitted.
#[derive(Debug, Clone)]
pub struct PeerConfig {
    /// Its key.
    pub key: PublicKey,
    /// Where it can be reached: host and port.
    pub address: String,
}

/// What a bridge needs.
#[derive(Debug)]
pub struct BridgeConfig {
    /// The node's key.
    pub key: SecretKey,
    /// The chain's genesis digest.
    pub chain: Digest,
    /// Who is admitted.
    pub peers: Vec<PeerConfig>,
    /// Bounds of what waits for one peer.
    pub limits: MailboxLimits,
}

#[derive(Debug)]
struct Shared {
    credentials: Credentials,
    transport: Arc<dyn Transport>,
    peers: Peers,
    limits: MailboxLimits,
    router: Router,
    on_down: Option<OnDown>,
    hellos: Hellos,
    refusals: Throttle,
    stopping: AtomicBool,
    stop: Notify,
}

impl Shared {
    fn warn_refused(&self, error: &dyn std::fmt::Display) {
        if let Some(suppressed) = self.refusals.pass() {
            tracing::warn!(%error, suppressed, "connection refused");
        }
    }
}

/// Told of each peer whose end closed its connection: mostly its process is gone. It must not block.
pub struct OnDown(pub Box<dyn Fn(NodeId) + Send + Sync>);

impl std::fmt::Debug for OnDown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnDown")
    }
}

/// The connections of a node.
#[derive(Debug)]
pub struct Bridge {
    shared: Arc<Shared>,
    listening: Box<dyn Listening>,
}

impl Bridge {
    /// The peers as they will be reachable: to be wired before the bridge starts.
    pub fn prepare(config: &BridgeConfig) -> Peers {
        let own = config.key.public().node_id();
        let peers = Peers::default();
        for PeerConfig { key, address } in config.peers.iter().filter(|peer| peer.key.node_id() != own) {
            peers.insert(Arc::new(Peer::new(key.node_id(), address.clone(), config.limits)));
        }
        peers
    }

    /// Listens, and dials those peers whose id is above the own one.
    pub fn start(
        config: BridgeConfig,
        peers: Peers,
        transport: Arc<dyn Transport>,
        router: Router,
        on_down: Option<OnDown>,
    ) -> Result<Self, BridgeError> {
        let admitted = config.peers.iter().map(|peer| peer.key.node_id()).collect();
        let shared = Arc::new(Shared {
            credentials: Credentials { key: config.key, chain: config.chain, admitted },
            transport,
            peers,
            limits: config.limits,
            router,
            on_down,
            hellos: Hellos::default(),
            // Strangers can come as often as they like.
            refusals: Throttle::new(Duration::from_secs(1), 10),
            stopping: AtomicBool::new(false),
            stop: Notify::new(),
        });
        let accepting = Arc::clone(&shared);
        let listening = shared.transport.listen(Arc::new(move |opened| {
            actix_rt::spawn(accept(Arc::clone(&accepting), opened));
        }))?;
        let bridge = Self { shared, listening };
        for remote in bridge.shared.peers.all() {
            bridge.roster().dial(remote.peer);
        }
        Ok(bridge)
    }

    /// Admits and dismisses peers while the bridge runs.
    pub fn roster(&self) -> Roster {
        Roster { shared: Arc::clone(&self.shared) }
    }

    /// Says goodbye to all peers, and stops listening. Ends within about a second.
    pub async fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.stop.notify_waiters();
        for remote in self.shared.peers.all() {
            remote.peer.disconnect();
        }
        self.listening.stop().await;
    }
}

/// Who is admitted to a bridge that runs.
#[derive(Debug, Clone)]
pub struct Roster {
    shared: Arc<Shared>,
}

impl Roster {
    /// Admits a node, or notes where one that is admitted has moved. To be called on a thread that runs actors.
    pub fn admit(&self, PeerConfig { key, address }: &PeerConfig) {
        let id = key.node_id();
        if id == self.shared.credentials.key.public().node_id() || self.shared.stopping.load(Ordering::Acquire) {
            return;
        }
        match self.shared.peers.get(&id) {
            Some(peer) => peer.move_to(address),
            None => {
                let peer = Arc::new(Peer::new(id, address.clone(), self.shared.limits));
                self.shared.peers.insert(Arc::clone(&peer));
                self.shared.credentials.admitted.insert(id);
                tracing::info!(peer = %id.short(), address, "admitted");
                self.dial(peer);
            }
        }
    }

    /// Ends the connection to a node, and refuses it from now on.
    pub fn dismiss(&self, id: &NodeId) {
        self.shared.credentials.admitted.remove(id);
        if let Some(peer) = self.shared.peers.remove(id) {
            tracing::info!(peer = %id.short(), "dismissed");
            peer.dismiss();
        }
    }

    /// The node with the lower id dials.
    fn dial(&self, peer: Arc<Peer>) {
        if peer.id() > self.shared.credentials.key.public().node_id() {
            actix_rt::spawn(keep_dialling(Arc::clone(&self.shared), peer));
        }
    }
}

async fn accept(shared: Arc<Shared>, Opened { mut pipe, binding }: Opened) {
    let hello = shared.hellos.begin();
    let greeted = tokio::select! {
        biased;
        () = hello.evicted.notified() => Err(HelloError::Evicted),
        greeted = greet(&shared, &mut pipe, Side::Acceptor, &binding, None) => greeted,
    };
    shared.hellos.end(&hello);
    match greeted {
        Ok(id) => run_session(&shared, pipe, id).await,
        Err(error) => shared.warn_refused(&error),
    }
}

/// Connections that are proving who they are, oldest first. When there are too many, the oldest goes: a peer proves itself
/// within some round trips, and those who never do must not keep it out.
#[derive(Debug, Default)]
struct Hellos {
    next: AtomicU64,
    pending: Mutex<VecDeque<Hello>>,
}

#[derive(Debug, Clone)]
struct Hello {
    number: u64,
    evicted: Arc<Notify>,
}

impl Hellos {
    fn begin(&self) -> Hello {
        let hello = Hello { number: self.next.fetch_add(1, Ordering::Relaxed), evicted: Arc::default() };
        if let Ok(mut pending) = self.pending.lock() {
            pending.push_back(hello.clone());
            if pending.len() > HELLOS_PENDING_MAX
                && let Some(oldest) = pending.pop_front()
            {
                oldest.evicted.notify_one();
            }
        }
        hello
    }

    fn end(&self, hello: &Hello) {
        if let Ok(mut pending) = self.pending.lock() {
            pending.retain(|other| other.number != hello.number);
        }
    }
}

async fn greet(
    shared: &Shared,
    pipe: &mut Pipe,
    side: Side,
    binding: &[u8],
    expected: Option<NodeId>,
) -> Result<NodeId, HelloError> {
    let within = Duration::from_millis(HELLO_TIMEOUT_MS);
    let greeting = shared.credentials.greet(pipe, side, binding, expected);
    let greeted = tokio::time::timeout(within, greeting).await.unwrap_or(Err(HelloError::Ended))?;
    pipe.admit();
    Ok(greeted)
}

async fn run_session(shared: &Shared, pipe: Pipe, id: NodeId) {
    if shared.stopping.load(Ordering::Acquire) {
        return;
    }
    if let Some(peer) = &shared.peers.get(&id) {
        let told = peer.news.pass();
        if let Some(suppressed) = told {
            tracing::info!(peer = %id.short(), suppressed, "connected");
        }
        let end = session::run(pipe, peer, &shared.router).await;
        let by_peer = matches!(end, SessionEnd::Disconnected | SessionEnd::Goodbye);
        if let Some(OnDown(told)) = shared.on_down.as_ref().filter(|_| by_peer && !peer.is_connected()) {
            told(id);
        }
        if told.is_some() {
            tracing::info!(peer = %id.short(), ?end, "disconnected");
        }
    }
}

async fn keep_dialling(shared: Arc<Shared>, peer: Arc<Peer>) {
    let id = peer.id();
    let backoff = Backoff { min: Duration::from_millis(50), max: Duration::from_secs(2) };
    let mut attempt = 0;
    while !shared.stopping.load(Ordering::Acquire) && !peer.is_dismissed() {
        match connect(&shared, &peer).await {
            Ok(pipe) => {
                let begun = tokio::time::Instant::now();
                run_session(&shared, pipe, id).await;
                // A peer that ends each session at once is not dialled any faster than one that is not there.
                attempt = if begun.elapsed() >= SOUND_SESSION { 0 } else { attempt + 1 };
            }
            Err(error) => {
                attempt += 1;
                tracing::debug!(peer = %id.short(), %error, "no connection");
            }
        }
        let stopped = shared.stop.notified();
        // Woken early or not: the loop looks at the flag.
        let _ = tokio::time::timeout(backoff.delay(attempt), stopped).await;
    }
}

async fn connect(shared: &Shared, peer: &Peer) -> Result<Pipe, BridgeError> {
    let (within, address) = (Duration::from_millis(HELLO_TIMEOUT_MS), peer.address());
    let dialled = tokio::time::timeout(within, shared.transport.dial(&address)).await;
    let Opened { mut pipe, binding } =
        dialled.unwrap_or_else(|_| Err(BridgeError::Dial { address, what: "timed out".to_owned() }))?;
    greet(shared, &mut pipe, Side::Dialler, &binding, Some(peer.id())).await?;
    Ok(pipe)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use serde::{Deserialize, Serialize};
    use standin_foundation::wire::Wire;

    use super::*;
    use crate::call::CallError;
    use crate::cell::{Cell, Ctx, Handle, Reply, Role};
    use crate::message::{Message, RemoteMessage};
    use crate::policy::Supervision;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Echo(String);

    impl Wire for Echo {
        const NAME: &'static str = "test.echo";
        const BYTES_MAX: usize = 1_000;
    }

    impl Message for Echo {
        type Reply = Self;
    }

    impl RemoteMessage for Echo {}

    struct Parrot;

    impl Role for Parrot {}

    impl Handle<Echo> for Parrot {
        fn handle(&mut self, message: Echo, reply: Reply<Echo>, _: &mut Ctx<Self>) {
            if message.0 != "silence" {
                reply.send(Echo(format!("{}!", message.0)));
            }
        }
    }

    struct TestNode {
        bridge: Bridge,
        peers: Peers,
        remote: Remote,
        _cell: Cell<Parrot>,
    }

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_bytes(&[seed; 32]).unwrap()
    }

    fn start(own: u8, other: u8, listeners: &[TcpListener; 2], addresses: &[String; 2]) -> TestNode {
        let (certificate, private) = tls::make_certificate("node", 1).unwrap();
        let peers = (1..=2)
            .map(|seed: u8| PeerConfig { key: key(seed).public(), address: addresses[usize::from(seed) - 1].clone() })
            .collect();
        let config =
            BridgeConfig { key: key(own), chain: Digest::sha256(b"chain"), peers, limits: MailboxLimits::default() };
        let cell = Cell::spawn("parrot", Supervision::default(), MailboxLimits::default(), |_| Parrot);
        let peers = Bridge::prepare(&config);
        let remote = peers.remote(&key(other).public().node_id()).unwrap();
        let listener = listeners[usize::from(own) - 1].try_clone().unwrap();
        let router = Router::default().ask::<Echo, _>(cell.address().clone());
        let tls = TlsIdentity::from_pem(&certificate, &private).unwrap();
        let transport = Arc::new(SocketTransport::new(tls, Some(listener)));
        let bridge = Bridge::start(config, peers.clone(), transport, router, None).unwrap();
        TestNode { bridge, peers, remote, _cell: cell }
    }

    const SOON: Duration = Duration::from_secs(10);

    async fn ask_until_connected(remote: &Remote) -> Echo {
        loop {
            match remote.ask(&Echo("hello".into()), SOON).await {
                Ok(answer) => return answer,
                Err(CallError::Disconnected { .. }) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[actix::test]
    async fn the_oldest_hello_gives_way_when_too_many_are_pending() {
        let hellos = Hellos::default();
        let first = hellos.begin();
        let others: Vec<_> = (0..HELLOS_PENDING_MAX).map(|_| hellos.begin()).collect();
        first.evicted.notified().await;
        others.iter().for_each(|hello| hellos.end(hello));
        assert_eq!(hellos.pending.lock().unwrap().len(), 0);
    }

    #[actix::test]
    async fn actors_on_two_nodes_ask_each_other_over_real_sockets_and_stop_quickly() {
        let listeners = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let addresses = [0, 1].map(|i: usize| listeners[i].local_addr().unwrap().to_string());
        let one = start(1, 2, &listeners, &addresses);
        let two = start(2, 1, &listeners, &addresses);
        assert_eq!(ask_until_connected(&one.remote).await, Echo("hello!".into()));
        assert_eq!(ask_until_connected(&two.remote).await, Echo("hello!".into()));
        let silence = one.remote.ask(&Echo("silence".into()), SOON).await;
        assert_eq!(silence, Err(CallError::Refused("the receiver dropped the message".into())));
        let large = one.remote.ask(&Echo("x".repeat(2_000)), SOON).await;
        assert!(matches!(large, Err(CallError::Refused(what)) if what.contains("limit")));
        let two_id = key(2).public().node_id();
        one.bridge.roster().dismiss(&two_id);
        assert!(matches!(one.remote.tell(&Echo("late".into())), Err(CallError::Disconnected { .. })));
        assert!(one.peers.remote(&two_id).is_none());
        one.bridge.roster().admit(&PeerConfig { key: key(2).public(), address: addresses[1].clone() });
        let back = one.peers.remote(&two_id).unwrap();
        assert_eq!(ask_until_connected(&back).await, Echo("hello!".into()), "it is admitted again");
        let begun = std::time::Instant::now();
        two.bridge.stop().await;
        one.bridge.stop().await;
        assert!(begun.elapsed() < Duration::from_secs(5), "stopping took {:?}", begun.elapsed());
        assert!(matches!(one.remote.tell(&Echo("late".into())), Err(CallError::Disconnected { sent: false })));
    }
}
