//! A running node: the only place that wires actors together.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use bytes::Bytes;
use standin_cluster::Identity;
use standin_cluster::actor::{MemberActor, MemberConfig, Opened};
use standin_cluster::machine::Description;
use standin_consensus::actor::{
    AskStatus, Ingress, LedgerReader, OpenError, Replica, ReplicaConfig, ReplicaStatus, Storage, VerifyPool, routes,
};
use standin_consensus::{KeySigner, Record};
use standin_foundation::wire::Wire;
use standin_foundation::{KeyError, Seat, SecretKey, Writer};
use standin_ledger::builtin::Builtin;
use standin_ledger::seat_log::FoundLog;
use standin_ledger::{Genesis, StateMachine};
use standin_stage::bridge::tls::TlsError;
use standin_stage::bridge::{Bridge, BridgeConfig, BridgeError, PeerConfig, Router, SocketTransport, TlsIdentity};
use standin_stage::{Address, CallError, Cell, MailboxLimits, Registry, Role, Supervision};
use tokio::sync::watch;

use crate::config::{ConfigError, NodeConfig};

/// Jobs that may wait for the signature pool.
const VERIFY_JOBS_MAX: usize = 8_192;

/// Why a node cannot start, or had to stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The node's key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The key holds no seat.
    #[error("the key in {0} holds no seat in the genesis: is it the key of another node or chain?")]
    NoSeat(std::path::PathBuf),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The bridge.
    #[error(transparent)]
    Bridge(#[from] BridgeError),
    /// A port is taken.
    #[error("cannot listen on {address} ({role}): {source}{holder}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What it is for.
        role: &'static str,
        /// What the system said.
        source: std::io::Error,
        /// Who holds the port, if it can be known.
        holder: String,
    },
    /// The node's log.
    #[error(transparent)]
    Log(#[from] standin_cluster::actor::OpenError),
    /// The store.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The replica's threads.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// The replica must not go on.
    #[error("the replica stopped: {0}")]
    Fatal(String),
}

/// A handle to what a node offers. Cheap to clone; works from any thread.
#[derive(Debug, Clone)]
pub struct NodeHandle {
    /// The chain's beginning.
    pub genesis: Arc<Genesis>,
    /// The seat that this node speaks for.
    pub seat: Seat,
    /// The replica.
    pub replica: Address<Replica>,
    /// Reads of chain and store.
    pub reader: LedgerReader,
    /// Checks of what comes in.
    pub ingress: Arc<Ingress>,
    /// The signature pool.
    pub pool: VerifyPool,
    /// The node's actors, by name.
    pub actors: Registry,
}

impl NodeHandle {
    /// How the replica stands.
    pub async fn status(&self) -> Result<ReplicaStatus, CallError> {
        self.replica.ask(AskStatus, Duration::from_secs(2)).await
    }
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    handle: NodeHandle,
    bridge: Bridge,
    member: Cell<MemberActor>,
    replica: Cell<Replica>,
    fatal: watch::Receiver<Option<String>>,
}

impl Node {
    /// Starts a node with the built-in state machine: opens log and store, joins the others.
    pub fn start(config: &NodeConfig) -> Result<Self, NodeError> {
        Self::start_with(config, Arc::new(Builtin))
    }

    /// Starts a node with a state machine of one's own.
    pub fn start_with(config: &NodeConfig, state_machine: Arc<dyn StateMachine>) -> Result<Self, NodeError> {
        let genesis = Arc::new(config.genesis()?);
        let key = SecretKey::read(&config.key_file)?;
        let seat = genesis.grant_table().seat_of(&key.public());
        let seat = seat.ok_or_else(|| NodeError::NoSeat(config.key_file.clone()))?;
        let listener = listen(config.bridge_listen, "bridge")?;
        let tls = TlsIdentity::read(&config.certificate_file, &config.certificate_key_file)?;
        let transport = Arc::new(SocketTransport::new(tls, Some(listener)));
        let bridge = BridgeConfig {
            key: SecretKey::read(&config.key_file)?,
            chain: genesis.digest(),
            peers: peers(config),
            limits: MailboxLimits::default(),
        };
        let prepared = Bridge::prepare(&bridge);
        let seats = genesis.seats.iter().enumerate();
        let remotes: BTreeMap<_, _> = seats
            .filter_map(|(index, seat)| Some((Seat(index as u16), prepared.remote(&seat.holder.node_id())?)))
            .collect();
        let (fatal_sender, fatal) = watch::channel(None);
        let (opened, found) = Opened::open(member_config(config, &genesis, seat))?;
        let signer = KeySigner { chain: genesis.digest(), seat, writer: Writer::default(), start: 0, key };
        let replica_config = ReplicaConfig {
            genesis: (*genesis).clone(),
            signer,
            consensus: config.consensus,
            storage: Storage {
                folder: config.data_dir.clone(),
                reserve_bytes: config.reserve_bytes,
                index_transactions: config.index_transactions,
            },
            log_bytes_max: config.log_bytes_max,
            state_machine,
            remotes,
            on_fatal: Box::new(move |why| drop(fatal_sender.send(Some(why)))),
        };
        let (member, replica, reader) = start_seat(opened, found, replica_config)?;
        let threads = match config.verify_threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let pool = VerifyPool::start(threads, VERIFY_JOBS_MAX).map_err(NodeError::Thread)?;
        let ingress = Arc::new(Ingress::new(&genesis, pool.clone()));
        let router = routes(Router::default(), &ingress, replica.address());
        let bridge = Bridge::start(bridge, prepared, transport, router)?;
        let actors = Registry::default();
        // The first of its name in a registry of its own.
        let _ = actors.register(replica.address());
        let _ = actors.register(member.address());
        let handle = NodeHandle { genesis, seat, replica: replica.address().clone(), reader, ingress, pool, actors };
        Ok(Self { handle, bridge, member, replica, fatal })
    }

    /// What the node offers.
    pub fn handle(&self) -> &NodeHandle {
        &self.handle
    }

    /// Waits until the node must not go on; says why.
    pub async fn failed(&self) -> NodeError {
        let mut fatal = self.fatal.clone();
        tokio::select! {
            biased;
            why = fatal.wait_for(Option::is_some) => {
                let why = why.ok().and_then(|why| why.clone());
                NodeError::Fatal(why.unwrap_or_else(|| "it ended".to_owned()))
            }
            exit = self.replica.ended() => NodeError::Fatal(format!("{exit:?}")),
            exit = self.member.ended() => NodeError::Fatal(format!("{exit:?}")),
        }
    }

    /// Stops in order: connections, the replica with its store, then the log; that makes everything durable.
    pub async fn shutdown(self) {
        self.bridge.stop().await;
        self.replica.stop();
        self.replica.ended().await;
        self.member.stop();
        self.member.ended().await;
    }
}

/// What the node is in its cluster: on a chain without an auth node each seat has one node, for ever.
fn member_config(config: &NodeConfig, genesis: &Genesis, seat: Seat) -> MemberConfig {
    let descriptor = genesis.seats.get(seat.index());
    #[allow(clippy::expect_used, reason = "the seat was found in this genesis")]
    let descriptor = descriptor.expect("a seat of the genesis");
    let node = descriptor.holder.node_id();
    MemberConfig {
        identity: Identity {
            node,
            cluster: descriptor.cluster.clone(),
            members: [(node, 0)].into(),
            seats_needed: 2 * standin_ledger::certificate::faulty_max(genesis.seats.len()),
            fixed: true,
        },
        config: standin_cluster::Config::default(),
        describe,
        folder: config.data_dir.join("log"),
        segment_bytes: config.segment_bytes,
        chain: genesis.digest(),
    }
}

/// What a member must know of a record of the replica. One that cannot be read is nothing to it: the replica refuses it.
fn describe(record: &Bytes) -> Description {
    let record = Record::from_wire(record).ok();
    record.map_or_else(Description::default, |record| Description {
        carries: record.carries(),
        names: record.names(),
        base: record.base(),
    })
}

/// A cell for an actor that is made once: after a panic its state is unknown, and the node stops. Those who report to it need
/// its address first; its arbiter does not run before this thread yields.
fn cell_for_one<R: Role>(name: &'static str) -> (Cell<R>, Sender<R>) {
    let (hand_over, made) = std::sync::mpsc::channel();
    #[allow(clippy::expect_used, reason = "the cell is stopped before its first turn if nothing was handed over")]
    let make = move |_| made.try_recv().expect("the actor was handed over");
    (Cell::spawn(name, Supervision::never_restart(), MailboxLimits::default(), make), hand_over)
}

/// The member that keeps the seat's log, and the replica that fills it.
fn start_seat(
    opened: Opened,
    found: FoundLog,
    config: ReplicaConfig,
) -> Result<(Cell<MemberActor>, Cell<Replica>, LedgerReader), NodeError> {
    let (member_cell, member_made) = cell_for_one::<MemberActor>("member");
    let (replica_cell, replica_made) = cell_for_one::<Replica>("replica");
    let made = || {
        let replica = Replica::open(config, found, replica_cell.address())?;
        let sink = Box::new(replica.log_sink(replica_cell.address()));
        let (member, log) = opened.start(member_cell.address().clone(), sink)?;
        let reader = replica.reader();
        // The receivers live as long as the cells.
        drop(member_made.send(member));
        drop(replica_made.send(replica.with_log(Box::new(log))));
        Ok::<_, NodeError>(reader)
    };
    match made() {
        Ok(reader) => Ok((member_cell, replica_cell, reader)),
        Err(error) => {
            member_cell.stop();
            replica_cell.stop();
            Err(error)
        }
    }
}

fn peers(config: &NodeConfig) -> Vec<PeerConfig> {
    config.peers.iter().map(|peer| PeerConfig { key: peer.key, address: peer.address.clone() }).collect()
}

/// Binds a port; says who holds it if it is taken.
pub fn listen(address: std::net::SocketAddr, role: &'static str) -> Result<TcpListener, NodeError> {
    TcpListener::bind(address).map_err(|source| {
        let holder = match source.kind() {
            std::io::ErrorKind::AddrInUse => holder_of(address.port()),
            _ => String::new(),
        };
        NodeError::Listen { address, role, source, holder }
    })
}

/// Who listens on a port: the kernel's table of sockets, and the processes that hold the socket.
fn holder_of(port: u16) -> String {
    let wanted = format!(":{port:04X}");
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let inode = tables.iter().flat_map(|table| table.lines()).find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let listens = fields.get(1)?.ends_with(&wanted) && *fields.get(3)? == "0A";
        listens.then(|| fields.get(9).map(|inode| format!("socket:[{inode}]")))?
    });
    inode.and_then(|inode| process_with(&inode)).map_or_else(String::new, |process| format!(", held by {process}"))
}

fn process_with(socket: &str) -> Option<String> {
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    processes.into_iter().find_map(|process| {
        let holds = std::fs::read_dir(process.path().join("fd"))
            .ok()?
            .flatten()
            .any(|fd| std::fs::read_link(fd.path()).is_ok_and(|target| target.to_string_lossy() == socket));
        let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        holds.then(|| format!("process {} ({})", process.file_name().to_string_lossy(), name.trim()))
    })
}
