//! Running nodes: the only place that wires actors together.

mod access;
pub mod actions;
mod auth;
mod backup;
mod blocks;
mod candidate;
mod certificate;
mod console;
mod feed;
mod grants;
mod hand_over;
mod listen;
mod member;
mod members;
mod misbehaviour;
mod publisher;
mod recorder;
mod views;

use std::sync::mpsc::Sender;

use standin_foundation::{Epoch, KeyError, SecretKey};
use standin_stage::bridge::tls::TlsError;
use standin_stage::bridge::{BridgeConfig, BridgeError, PeerConfig, SocketTransport};
use standin_stage::{Cell, MailboxLimits, Role, Supervision};
use tokio::sync::watch;

pub(crate) use access::Bucket;
pub use access::{Access, Denied};
pub use auth::{AuthHandle, AuthNode, recall};
pub use backup::{BackupFailed, Backups, RestoreFailed, restore};
pub(crate) use blocks::blocks_from;
pub use blocks::{BlocksError, Follower};
pub use candidate::{Candidate, CandidateHandle, Wanted};
pub use certificate::Certificate;
pub use feed::{Begin, Feed, FeedError};
pub use listen::listen;
pub use member::{MemberNode, NodeHandle};
pub use misbehaviour::Misbehaviour;
pub use publisher::Publication;

use crate::config::{ConfigError, NodeConfig};

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
    #[error(
        "the key in {0} is in no cluster of the genesis: is it the key of another node or chain? A node that joined later names its \
         cluster in `node.cluster`"
    )]
    NoSeat(std::path::PathBuf),
    /// The key that signs grants is not the one that the genesis names.
    #[error(
        "the key in {path} is not the auth key that the genesis names ({expected}): grants that it signs would be refused. A node that \
         is to take the auth node's place needs `auth.successor = true`"
    )]
    AuthKey {
        /// The key file.
        path: std::path::PathBuf,
        /// What the genesis says.
        expected: String,
    },
    /// The chain does not have grants signed with this key, or not yet: the node waits as a [`Candidate`].
    #[error("in epoch {epoch}, the newest that the node knows, the chain does not have grants signed with its key")]
    Unnamed {
        /// The newest epoch that the node knows.
        epoch: Epoch,
    },
    /// The chain has another auth key.
    #[error(
        "the chain has grants signed with another key since epoch {epoch} at the latest: this auth node is not needed any more. One \
         that is to be named again needs `auth.successor = true`"
    )]
    Replaced {
        /// The newest epoch that the node knows.
        epoch: Epoch,
    },
    /// The chain has clusters, and nobody is named who grants their seats.
    #[error("the seats of this chain are granted by an auth node, and no [[peer]] has the role \"auth\"")]
    NoAuth,
    /// Nodes misbehave in drills only.
    #[error("nodes misbehave on chains named `drill-…` only, this one is `{0}`")]
    NoDrill(String),
    /// The title of an application.
    #[error("the application's title: {0}")]
    Title(String),
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
    /// The cluster holds no seat, as far as the node knows: it waits for one as a [`Candidate`].
    #[error("cluster `{cluster}` holds no seat in epoch {epoch}, the newest that the node knows")]
    Unseated {
        /// The cluster.
        cluster: String,
        /// The newest epoch that the node knows.
        epoch: Epoch,
    },
    /// The members that the node knows.
    #[error(transparent)]
    Members(#[from] standin_ledger::member_book::MemberBookError),
    /// The grants that the node knows.
    #[error(transparent)]
    Grants(#[from] standin_ledger::log::LogError),
    /// The register.
    #[error("the register: {0}")]
    Register(#[from] standin_auth::register::RegisterError),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] standin_console::audit::AuditError),
    /// The store.
    #[error(transparent)]
    Open(#[from] standin_consensus::actor::OpenError),
    /// The replica's threads.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// The node must not go on.
    #[error("the node stopped: {0}")]
    Fatal(String),
}

/// A cell for an actor that is made once: after a panic its state is unknown, and the node stops. Those who report to it need
/// its address first; its arbiter does not run before this thread yields.
fn cell_for_one<R: Role>(name: &'static str) -> (Cell<R>, Sender<R>) {
    let (hand_over, made) = std::sync::mpsc::channel();
    #[allow(clippy::expect_used, reason = "the cell is stopped before its first turn if nothing was handed over")]
    let make = move |_| made.try_recv().expect("the actor was handed over");
    (Cell::spawn(name, Supervision::never_restart(), MailboxLimits::default(), make), hand_over)
}

/// What the node's bridge needs, its transport, and the certificate.
fn bridge_of(
    config: &NodeConfig,
    chain: standin_foundation::Digest,
) -> Result<(BridgeConfig, SocketTransport, Certificate), NodeError> {
    let listener = listen(config.bridge_listen, "bridge")?;
    let certificate = Certificate::read(config)?;
    let key = SecretKey::read(&config.key_file)?;
    // A file that all nodes share names this one, too.
    let others = config.peers.iter().filter(|peer| peer.key != key.public());
    let peers = others.map(|peer| PeerConfig { key: peer.key, address: peer.address.clone() }).collect();
    let bridge = BridgeConfig { key, chain, peers, limits: MailboxLimits::default() };
    Ok((bridge, SocketTransport::new(certificate.tls(), Some(listener)), certificate))
}

/// Waits until somebody says why the node must not go on.
async fn told(fatal: &watch::Receiver<Option<String>>) -> NodeError {
    let mut fatal = fatal.clone();
    let why = fatal.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
    NodeError::Fatal(why.unwrap_or_else(|| "it ended".to_owned()))
}
