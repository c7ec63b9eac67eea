//! A process that has a node's key and says what the node never would.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use standin::config::NodeConfig;
use standin_auth::messages::Update;
use standin_auth::{Answer, Request};
use standin_foundation::{ClusterId, NodeId, SecretKey, Term};
use standin_stage::bridge::{Bridge, BridgeConfig, PeerConfig, Router, SocketTransport, TlsIdentity};
use standin_stage::{CallError, MailboxLimits, Remote};

use super::super::network::Network;
use super::Failure;

const WITHIN: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);

/// A connection to the auth node under another's key.
pub(super) struct Forger {
    node: NodeId,
    bridge: Bridge,
    auth: Remote,
}

impl Forger {
    /// In the name of a node that is down.
    pub(super) async fn new(network: &Network, node: usize, auth: usize) -> Result<Self, Failure> {
        let config = NodeConfig::read(&network.config(node))?;
        let key = SecretKey::read(&config.key_file).map_err(|error| Failure::new(78, error.to_string()))?;
        Self::connect(network, &config, key, auth).await
    }

    /// In nobody's name.
    pub(super) async fn stranger(network: &Network, auth: usize) -> Result<Self, Failure> {
        let config = NodeConfig::read(&network.config(0))?;
        let key = SecretKey::generate().map_err(|error| Failure::new(1, error.to_string()))?;
        Self::connect(network, &config, key, auth).await
    }

    async fn connect(network: &Network, config: &NodeConfig, key: SecretKey, auth: usize) -> Result<Self, Failure> {
        let of_auth = NodeConfig::read(&network.config(auth))?;
        let peer = SecretKey::read(&of_auth.key_file).map_err(|error| Failure::new(78, error.to_string()))?.public();
        let tls = TlsIdentity::read(&config.certificate_file, &config.certificate_key_file)
            .map_err(|error| Failure::new(78, error.to_string()))?;
        // Whoever has the lower id dials: the listener is there for the other case, and the auth node knows only the port of
        // the node whose key this is.
        let listener = std::net::TcpListener::bind(config.bridge_listen).ok();
        let bridge = BridgeConfig {
            key,
            chain: network.files().genesis.digest(),
            peers: vec![PeerConfig { key: peer, address: of_auth.bridge_listen.to_string() }],
            limits: MailboxLimits::default(),
        };
        let node = bridge.key.public().node_id();
        let prepared = Bridge::prepare(&bridge);
        let auth = prepared.remote(&peer.node_id()).ok_or_else(|| Failure::new(1, "the auth node has the same key"))?;
        let transport = Arc::new(SocketTransport::new(tls, listener));
        let bridge = Bridge::start(bridge, prepared, transport, Router::default(), None)
            .map_err(|error| Failure::new(1, error.to_string()))?;
        let begun = Instant::now();
        while !auth.is_connected() {
            if begun.elapsed() > WITHIN {
                bridge.stop().await;
                return Err(Failure::new(5, "no connection to the auth node"));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(Self { node, bridge, auth })
    }

    /// Asks for a seat; gives the reason why it was refused.
    pub(super) async fn update(&self, cluster: ClusterId, term: Term, ticket: Bytes) -> Result<String, CallError> {
        let update = Update {
            cluster,
            term,
            in_sync: [self.node].into(),
            head: u64::MAX,
            session: 1,
            ticket,
            statements: Vec::new(),
        };
        match self.auth.ask(&Request::Update(update), WITHIN).await? {
            Answer::Refused { why, .. } => Ok(why.to_string()),
            answer => Ok(format!("{answer:?}")),
        }
    }

    pub(super) async fn stop(self) {
        self.bridge.stop().await;
    }
}
