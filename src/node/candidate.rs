//! A node whose cluster holds no seat, or not yet: it waits until the chain gives it one. Others let it in when that has been ordered and
//! has begun; until then it has nothing but a key, and a disk that the order can name.

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
    /// Its cluster.
    pub cluster: ClusterId,
    /// Names its disk.
    pub disk: u64,
    /// The chain's beginning.
    pub genesis: Arc<Genesis>,
}

/// A node that waits for its cluster's seat.
#[derive(Debug)]
pub struct Candidate {
    handle: CandidateHandle,
    bridge: Bridge,
    search: Search,
}

/// What has been found of the epochs so far.
#[derive(Debug, Clone)]
struct Search {
    cluster: ClusterId,
    book: Arc<GrantBook>,
    peers: Peers,
    seated: Arc<watch::Sender<bool>>,
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
                let is_seated = self.book.seat_of_cluster(&self.cluster).is_some();
                tracing::info!(epoch = self.book.epoch().0, is_seated, "an epoch has begun");
                self.seated.send_replace(is_seated);
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
    /// Starts waiting: names the disk, durably, and listens.
    pub fn start(config: &NodeConfig) -> Result<Self, NodeError> {
        let genesis = Arc::new(config.genesis()?);
        let key = SecretKey::read(&config.key_file)?.public();
        let node = key.node_id();
        let cluster = cluster_of(config, &genesis, &node)?;
        let (opened, _) = Opened::open(member_config(config, &genesis, (node, &cluster), Default::default()))?;
        let disk = opened.name_disk()?;
        let (bridge, transport) = bridge_of(config, genesis.digest())?;
        let prepared = Bridge::prepare(&bridge);
        // What was known before stays so: a cluster that was removed waits for a later epoch.
        let known = GrantBook::open(&config.data_dir.join("grants"), genesis.grant_table())?;
        let book = Arc::new(known.into_unkept());
        let search = Search {
            cluster: cluster.clone(),
            book,
            peers: prepared.clone(),
            seated: Arc::new(watch::channel(false).0),
        };
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
        let handle = CandidateHandle { name, node, key, bridge: listens, cluster, disk, genesis };
        Ok(Self { handle, bridge, search })
    }

    /// What the node offers.
    pub fn handle(&self) -> &CandidateHandle {
        &self.handle
    }

    /// Waits until the chain has given the cluster a seat.
    pub async fn seated(&self) {
        let mut seated = self.search.seated.subscribe();
        tokio::select! {
            // The sender lives as long as this.
            _ = seated.wait_for(|seated| *seated) => {}
            () = self.search.go_on() => {}
        }
    }

    /// Stops, and keeps what was found: a node that starts afterwards knows its seat.
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
