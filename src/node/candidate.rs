//! A node that the chain has no place for, or not yet: a member whose cluster holds no seat, or an auth node with whose key no grants are
//! signed. It waits until an epoch names it. Others let it in when that has begun; until then it has nothing but a key, and a disk that
//! the order can name.

use std::sync::Arc;
use std::time::Duration;

use standin_cluster::actor::Opened;
use standin_consensus::Note;
use standin_foundation::{ClusterId, NodeId, PublicKey, SecretKey};
use standin_ledger::error::LedgerError;
use standin_ledger::grant_book::EpochError;
use standin_ledger::{EpochProof, Genesis, GrantBook};
use standin_stage::bridge::{Bridge, Peers, Router};
use tokio::sync::watch;

use super::member::{cluster_of, member_config};
use super::{NodeError, bridge_of};
use crate::config::NodeConfig;

/// How often one of the others is asked for the next epoch.
const ASK_INTERVAL: Duration = Duration::from_millis(200);

/// A handle to what a waiting node offers. Cheap to clone; works from any thread.
#[derive(Debug, Clone)]
pub struct CandidateHandle {
    /// The node's name.
    pub name: String,
    /// Its id.
    pub node: NodeId,
    /// Its key.
    pub key: PublicKey,
    /// Where its bridge listens.
    pub bridge: std::net::SocketAddr,
    /// What it is to be.
    pub wanted: Wanted,
    /// The chain's beginning.
    pub genesis: Arc<Genesis>,
}

/// What the chain must give a node before it can start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// A seat for its cluster.
    Seat {
        /// The cluster.
        cluster: ClusterId,
        /// Names the node's disk.
        disk: u64,
    },
    /// That grants are signed with this key.
    Issuer(PublicKey),
}

impl Wanted {
    fn is_given(&self, book: &GrantBook) -> bool {
        match self {
            Self::Seat { cluster, .. } => book.seat_of_cluster(cluster).is_some(),
            Self::Issuer(key) => book.issuer_since(key).is_some(),
        }
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Seat { cluster, .. } => write!(f, "cluster {cluster} holds no seat"),
            Self::Issuer(_) => f.write_str("the chain does not have grants signed with the node's key"),
        }
    }
}

/// A node that waits for its place.
#[derive(Debug)]
pub struct Candidate {
    handle: CandidateHandle,
    bridge: Bridge,
    search: Search,
}

/// What has been found of the epochs so far.
#[derive(Debug, Clone)]
struct Search {
    wanted: Wanted,
    book: Arc<GrantBook>,
    peers: Peers,
    given: Arc<watch::Sender<bool>>,
}

impl Search {
    fn tell(&self, node: &NodeId, note: &Note) {
        if let Some(remote) = self.peers.remote(node) {
            // What is lost is asked for again.
            let _ = remote.tell(note);
        }
    }

    fn take_epoch(&self, from: NodeId, proof: EpochProof) {
        match self.book.note_epoch(proof) {
            Ok(true) => {
                let is_given = self.wanted.is_given(&self.book);
                tracing::info!(epoch = self.book.epoch().0, is_given, "an epoch has begun");
                self.given.send_replace(is_given);
                self.tell(&from, &Note::FetchEpoch(self.book.epoch().next()));
            }
            Ok(false) => {}
            Err(EpochError::Unproven(LedgerError::UnknownGrant { seat, term })) => {
                self.tell(&from, &Note::WantGrant(seat, term));
            }
            Err(error) => tracing::warn!(%error, from = %from.short(), "epoch refused"),
        }
    }

    /// Asks one of the others after the other, for ever.
    async fn go_on(&self) {
        let mut interval = tokio::time::interval(ASK_INTERVAL);
        loop {
            interval.tick().await;
            let mut connected = self.peers.all();
            connected.retain(|remote| remote.is_connected());
            if let Some(remote) = connected.get(fastrand::usize(..connected.len().max(1))) {
                // Another one is asked next time.
                let _ = remote.tell(&Note::FetchEpoch(self.book.epoch().next()));
            }
        }
    }
}

impl Candidate {
    /// Starts waiting: names a member's disk, durably, and listens.
    pub fn start(config: &NodeConfig) -> Result<Self, NodeError> {
        let genesis = Arc::new(config.genesis()?);
        let key = SecretKey::read(&config.key_file)?.public();
        let node = key.node_id();
        let wanted = match &config.auth {
            Some(section) => Wanted::Issuer(SecretKey::read(&section.key_file)?.public()),
            None => {
                let cluster = cluster_of(config, &genesis, &node)?;
                let (opened, _) = Opened::open(member_config(config, &genesis, (node, &cluster), Default::default()))?;
                Wanted::Seat { cluster, disk: opened.name_disk()? }
            }
        };
        let (bridge, transport, _) = bridge_of(config, genesis.digest())?;
        let prepared = Bridge::prepare(&bridge);
        // What was known before stays so: a cluster that was removed waits for a later epoch.
        let known = GrantBook::open(&config.data_dir.join("grants"), genesis.grant_table())?;
        let book = Arc::new(known.into_unkept());
        let given = Arc::new(watch::channel(false).0);
        let search = Search { wanted: wanted.clone(), book, peers: prepared.clone(), given };
        let noted = search.clone();
        let router = Router::default().tell::<Note>(move |from, note| {
            match note {
                Note::Epoch(proof) => noted.take_epoch(from, *proof),
                // One that does not hold is of no use, and one that is not there is asked for again.
                Note::Grant(grant) => drop(noted.book.note(*grant)),
                _ => {}
            }
            Ok(())
        });
        let bridge = Bridge::start(bridge, prepared, Arc::new(transport), router, None)?;
        let (name, listens) = (config.name.clone(), config.bridge_listen);
        let handle = CandidateHandle { name, node, key, bridge: listens, wanted, genesis };
        Ok(Self { handle, bridge, search })
    }

    /// What the node offers.
    pub fn handle(&self) -> &CandidateHandle {
        &self.handle
    }

    /// Waits until the chain has given the node its place.
    pub async fn given(&self) {
        let mut given = self.search.given.subscribe();
        tokio::select! {
            // The sender lives as long as this.
            _ = given.wait_for(|given| *given) => {}
            () = self.search.go_on() => {}
        }
    }

    /// Stops, and keeps what was found: a node that starts afterwards knows its place.
    pub async fn shutdown(self, config: &NodeConfig) -> Result<(), NodeError> {
        self.bridge.stop().await;
        let (found, genesis) = (&self.search.book, &self.handle.genesis);
        let kept = GrantBook::open(&config.data_dir.join("grants"), genesis.grant_table())?;
        for proof in found.epoch_proofs() {
            // Those of the epoch before prove it; what is known already is left out, here and below.
            found.all().into_iter().for_each(|grant| drop(kept.note(grant)));
            if let Err(error) = kept.note_epoch(proof) {
                tracing::warn!(%error, "the proof of an epoch is not kept: it is asked for again");
            }
        }
        Ok(())
    }
}
