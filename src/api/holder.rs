//! Who held a seat at a block, by the chain's own record.

use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};
use standin_consensus::actor::Ledger;
use standin_foundation::wire::Wire;
use standin_foundation::{ClusterId, Digest, Height};
use standin_ledger::grant::Noted;
use standin_ledger::trie::{StateProof, Trie};
use standin_ledger::{Authority, Chain, Grant, GrantTable, Held, RecordedGrant, SignedGrant, history};

use super::{HttpFault, bad, read, respond};
use crate::node::NodeHandle;

/// Who held a cluster's seat at a block, by the grants that were on the chain's record by then. The grants prove themselves; when they were put
/// on record is the node's word, for the state with this root, as all that a query answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HeldView {
    /// The cluster.
    pub cluster: ClusterId,
    /// The block that was asked for.
    pub at: Height,
    /// The state is that after this block.
    pub height: Height,
    /// Root of the trie.
    pub root: Digest,
    /// The grant by which the seat was held; none if none was on record by then. Where the chain's own order named the holder it is the
    /// base that follows from that, which nobody signs.
    pub grant: Option<SignedGrant>,
    /// The grant's record; none for a base.
    pub record: Option<ProvenRecord>,
    /// The first record above the block, which names the one before: so there was nothing between them.
    pub next: Option<ProvenRecord>,
}

/// A grant on record, with the proof that it stands in the state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProvenRecord {
    /// The record.
    pub record: RecordedGrant,
    /// The proof against the root.
    pub proof: StateProof,
}

impl ProvenRecord {
    fn new(record: RecordedGrant, state: &Trie) -> Self {
        let Grant { cluster, term, .. } = &record.grant.grant;
        let proof = state.prove(&history::state_key(cluster, *term));
        Self { record, proof }
    }

    fn verify(&self, root: &Digest, seats: &GrantTable) -> Result<(), String> {
        let Grant { cluster, term, .. } = &self.record.grant.grant;
        let stands = self.proof.verify(root, &history::state_key(cluster, *term)).flatten();
        if stands.map(RecordedGrant::from_wire) != Some(Ok(self.record.clone())) {
            return Err(format!("the proof of the grant for term {term} does not lead to the root"));
        }
        match seats.clone().note(self.record.grant.clone()) {
            Ok(Noted::Contradiction(_)) => Err(format!("another grant for term {term} is known")),
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl HeldView {
    pub(super) fn new(chain: &Chain, cluster: ClusterId, at: Height) -> Option<Self> {
        let (held, state) = (chain.held(&cluster, at)?, chain.state());
        let prove = |record: Box<RecordedGrant>| ProvenRecord::new(*record, state);
        let (grant, record, next) = match held {
            Held::Granted { granted, next } => (Some(granted.grant.clone()), Some(prove(granted)), next.map(prove)),
            Held::Ordered(base) => (Some(*base), None, None),
            Held::Nobody => (None, None, None),
        };
        Some(Self { cluster, at, height: chain.height(), root: state.root(), grant, record, next })
    }

    /// Checks that this is an answer about the cluster, that its grants hold, by the genesis, the epochs and the grants alone, that they
    /// count at that block, and that they stand in the state with this root.
    pub fn verify(&self, cluster: &ClusterId, seats: &GrantTable) -> Result<(), String> {
        if self.cluster != *cluster || self.at > self.height {
            return Err("another cluster or block came back".to_owned());
        }
        let table = seats.table(seats.epoch_at(self.at)).ok_or("the epoch is not known")?;
        let seat = table.seats.values().find(|seat| seat.cluster == self.cluster);
        let seat = seat.ok_or("the cluster held no seat then")?;
        if self.grant.as_ref().is_some_and(|signed| signed.grant.term.lineage() != seat.since) {
            return Err("the chain had ordered another holder by then".to_owned());
        }
        for proven in self.record.iter().chain(&self.next) {
            proven.verify(&self.root, seats)?;
        }
        let term = |proven: &ProvenRecord| proven.record.grant.grant.term;
        match (&self.record, &self.next, &self.grant) {
            (Some(proven), next, Some(grant)) => {
                let is_it = proven.record.grant == *grant && proven.record.height <= self.at;
                let follows =
                    |next: &ProvenRecord| next.record.height > self.at && next.record.before == Some(term(proven));
                let stands = is_it && grant.grant.cluster == self.cluster && next.as_ref().is_none_or(follows);
                if stands { Ok(()) } else { Err("the records are not those of that block".to_owned()) }
            }
            (None, None, Some(base)) => {
                let ordered = table.base_grant(seats.chain(), seat);
                if ordered.as_ref() == Some(base) { Ok(()) } else { Err("the chain has not ordered it".to_owned()) }
            }
            (None, _, None) => Ok(()),
            _ => Err("the answer contradicts itself".to_owned()),
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct HeldQuery {
    /// The block; the newest without it.
    at: Option<u64>,
}

/// Who held a cluster's seat at a block.
pub(super) async fn held(
    node: web::Data<NodeHandle>,
    cluster: web::Path<String>,
    query: web::Query<HeldQuery>,
) -> HttpResponse {
    let cluster: ClusterId = match cluster.parse() {
        Ok(cluster) => cluster,
        Err(error) => return bad(format!("cluster: {error}")),
    };
    if node.genesis.auth.is_none() {
        return bad("on a chain without an auth node a seat is held by one node for ever".to_owned());
    }
    let at = query.at.map(Height);
    let view = move |ledger: &Ledger| {
        let head = ledger.chain.height();
        let at = at.unwrap_or(head);
        if at > head {
            return Err(HttpFault::NotFound(format!("block {at} is not here: the newest is {head}")));
        }
        let nobody = || HttpFault::NotFound(format!("cluster {cluster} held no seat at block {at}"));
        HeldView::new(&ledger.chain, cluster.clone(), at).ok_or_else(nobody)
    };
    respond(read(&node, view).await)
}
