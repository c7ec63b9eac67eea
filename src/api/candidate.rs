//! What a node shows that waits for its place in the chain: who it is, so that an order can name it.

use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};
use standin_foundation::{NodeId, PublicKey};

use super::unavailable;
use crate::node::{CandidateHandle, Wanted};

/// A node that the chain has no place for, or not yet.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CandidateView {
    /// The node's name.
    pub name: String,
    /// The node.
    pub node: NodeId,
    /// Its key.
    pub key: PublicKey,
    /// A member's cluster.
    pub cluster: Option<String>,
    /// Names a member's disk, in hexadecimal digits.
    pub disk: Option<String>,
    /// The key with which an auth node is to sign grants.
    pub grants: Option<PublicKey>,
    /// Where its bridge listens.
    pub bridge: String,
}

/// Adds the routes of a waiting node to an Actix application.
pub fn candidate_routes(handle: CandidateHandle) -> impl FnOnce(&mut web::ServiceConfig) {
    move |config| {
        config
            .app_data(web::Data::new(handle))
            .route("/livez", web::get().to(super::livez))
            .route("/readyz", web::get().to(readyz))
            .route("/api/v1/genesis", web::get().to(genesis))
            .route("/api/v1/candidate", web::get().to(candidate))
            .default_service(web::to(waits));
    }
}

async fn readyz(node: web::Data<CandidateHandle>) -> HttpResponse {
    HttpResponse::ServiceUnavailable().body(format!("[-]{}\n", node.wanted))
}

async fn genesis(node: web::Data<CandidateHandle>) -> HttpResponse {
    HttpResponse::Ok().json(&*node.genesis)
}

async fn candidate(node: web::Data<CandidateHandle>) -> HttpResponse {
    let (cluster, disk, grants) = match &node.wanted {
        Wanted::Seat { cluster, disk } => (Some(cluster.to_string()), Some(format!("{disk:016x}")), None),
        Wanted::Issuer(key) => (None, None, Some(*key)),
    };
    HttpResponse::Ok().json(CandidateView {
        name: node.name.clone(),
        node: node.node,
        key: node.key,
        cluster,
        disk,
        grants,
        bridge: node.bridge.to_string(),
    })
}

async fn waits(node: web::Data<CandidateHandle>) -> HttpResponse {
    unavailable(format!("{}: the node waits for an order of the chain", node.wanted))
}
