//! A node's cluster: who holds its seat, who follows, and how far; and the grants that the node knows.

use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};
use standin_cluster::actor::MemberStatus;
use standin_foundation::{Height, NodeId, PublicKey};

use super::unavailable;
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

fn view_of(node: &NodeHandle, MemberStatus { view, took_over, .. }: MemberStatus) -> ClusterView {
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
