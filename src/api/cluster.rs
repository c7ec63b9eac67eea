//! A node's cluster: who holds its seat, who follows, and how far; and the grants that the node knows.

use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};
use standin_cluster::actor::{MemberStatus, Resign};
use standin_consensus::actor::Ledger;
use standin_foundation::wire::Wire;
use standin_foundation::{ClusterId, Digest, Height, NodeId, PublicKey};
use standin_ledger::grant::Noted;
use standin_ledger::trie::{StateProof, Trie};
use standin_ledger::{Authority, Chain, Grant, GrantTable, Held, RecordedGrant, SignedGrant, history};

use super::{ErrorView, HttpFault, bad, read, respond, unavailable};
use crate::node::NodeHandle;

/// What a node is to its seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoleView {
    /// It speaks for the seat.
    Active,
    /// It is the first to take over.
    Standby,
    /// It follows.
    Reserve,
}

/// A node's cluster, as the node sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClusterView {
    /// The cluster.
    pub cluster: String,
    /// Its seat.
    pub seat: u16,
    /// The node's name.
    pub name: String,
    /// The node.
    pub node: NodeId,
    /// Its key.
    pub key: PublicKey,
    /// Names its disk, in hexadecimal digits: another one has another name. An order that is to make the node begin a seat's log
    /// names it.
    pub disk: String,
    /// The life of the auth node's register, by its last answer to this node; zero before one has come.
    pub register: u64,
    /// Where it stands.
    pub site: String,
    /// What it is to the seat.
    pub role: RoleView,
    /// The newest term that it knows.
    pub term: u64,
    /// The node that the newest grant names as active.
    pub holder: Option<NodeId>,
    /// The nodes that must have a record before what it stands for may leave.
    pub in_sync: Vec<NodeId>,
    /// Its log holds all that its seat has said.
    pub complete: bool,
    /// The last record of its log.
    pub head: u64,
    /// The last record that it can acknowledge: durable with all before it, payloads that they name included.
    pub sound: u64,
    /// What was released, as far as it knows.
    pub released: u64,
    /// Why it suspects the holder; none if it does not.
    pub suspicion: Option<String>,
    /// For how long it has, in ms.
    pub suspicion_ms: Option<u64>,
    /// When this node last took the seat over from another; none if it never did.
    pub took_over: Option<TookOverView>,
    /// The other members.
    pub mates: Vec<MateView>,
}

/// A takeover.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct TookOverView {
    /// The term that it began.
    pub term: u64,
    /// From the suspicion of the holder before to the new one speaking, in ms.
    pub ms: u64,
}

/// Another member, as the node last heard it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MateView {
    /// Who.
    pub node: NodeId,
    /// How long ago anything of it came, in ms; none if nothing ever did.
    pub heard_ms: Option<u64>,
    /// Up to here it has executed, by its own word.
    pub executed: Height,
    /// Its log is complete, by its own word.
    pub complete: bool,
    /// Records of the log that it has not acknowledged; only the holder knows.
    pub behind: Option<u64>,
}

pub(super) async fn cluster(node: web::Data<NodeHandle>) -> HttpResponse {
    match node.cluster().await {
        Ok(status) => HttpResponse::Ok().json(view_of(&node, status)),
        Err(error) => unavailable(error.to_string()),
    }
}

fn view_of(node: &NodeHandle, MemberStatus { view, took_over }: MemberStatus) -> ClusterView {
    let member = node.members.member(&node.node);
    let role = match (view.active, view.standby == Some(node.node)) {
        (true, _) => RoleView::Active,
        (false, true) => RoleView::Standby,
        (false, false) => RoleView::Reserve,
    };
    let mate = |mate: standin_cluster::machine::MateView| MateView {
        node: mate.node,
        heard_ms: mate.heard_ms,
        executed: mate.executed,
        complete: mate.complete,
        behind: mate.behind,
    };
    ClusterView {
        cluster: node.cluster.to_string(),
        seat: node.seat.0,
        name: node.name.clone(),
        node: node.node,
        key: node.key,
        disk: format!("{:016x}", view.disk),
        register: view.register.0,
        site: member.map(|member| member.site.clone()).unwrap_or_default(),
        role,
        term: view.term.0,
        holder: view.holder,
        in_sync: view.in_sync.into_iter().collect(),
        complete: view.complete || view.active,
        head: view.head,
        sound: view.sound,
        released: view.released,
        suspicion: view.suspicion.map(|(cause, _)| format!("{cause:?}").to_lowercase()),
        suspicion_ms: view.suspicion.map(|(_, ms)| ms),
        took_over: took_over.map(|(term, ms)| TookOverView { term: term.0, ms }),
        mates: view.mates.into_iter().map(mate).collect(),
    }
}

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

#[derive(Debug, Deserialize)]
pub(super) struct SwitchQuery {
    /// The member that is to succeed; the first of the others without it.
    to: Option<String>,
}

/// Gives the seat up on purpose. Only the node that holds it can.
pub(super) async fn switch(node: web::Data<NodeHandle>, query: web::Query<SwitchQuery>) -> HttpResponse {
    let to = match query.to.as_deref().map(str::parse::<NodeId>).transpose() {
        Ok(to) => to,
        Err(error) => return bad(format!("to: {error}")),
    };
    let Ok(MemberStatus { view, .. }) = node.cluster().await else {
        return unavailable("the member does not answer".to_owned());
    };
    let refused = |error: String| HttpResponse::Conflict().json(ErrorView::from(error));
    if !view.active {
        return refused(format!("{} does not hold the seat: ask the node that does", node.name));
    }
    if node.genesis.auth.is_none() {
        return refused("on a chain without an auth node a seat is held by one node for ever".to_owned());
    }
    if let Some(to) = to.filter(|to| !view.in_sync.contains(to) || *to == node.node) {
        return refused(format!("{to} is not another member of the in-sync set: only such a one can take over"));
    }
    if view.in_sync.len() < 2 {
        return refused("the in-sync set has no other member: nobody could take over".to_owned());
    }
    match node.member.ask(Resign(to), std::time::Duration::from_secs(2)).await {
        Ok(true) => HttpResponse::Accepted().json(serde_json::json!({ "term": view.term.0 })),
        Ok(false) => refused(format!("{} does not hold the seat any more", node.name)),
        Err(error) => unavailable(error.to_string()),
    }
}

/// Who belongs to which cluster, as far as the node knows.
pub(super) async fn members(node: web::Data<NodeHandle>) -> HttpResponse {
    HttpResponse::Ok().json(node.members.memberships())
}

/// The proofs of all epochs that the node knows: each is judged by the one before.
pub(super) async fn epochs(node: web::Data<NodeHandle>) -> HttpResponse {
    HttpResponse::Ok().json(node.book.epoch_proofs())
}

/// All grants that the node knows: what votes in certificates are judged by. They prove themselves.
pub(super) async fn grants(node: web::Data<NodeHandle>) -> HttpResponse {
    HttpResponse::Ok().json(node.book.all())
}
