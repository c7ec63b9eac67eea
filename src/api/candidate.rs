//! What a node shows that waits for its cluster's seat: who it is, so that an order can name it.

use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};
use standin_foundation::{NodeId, PublicKey};

use super::unavailable;
use crate::node::CandidateHandle;

/// A node whose cluster holds no seat.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CandidateView {
    /// The node's name.
    pub name: String,
    /// The node.
    pub node: NodeId,
    /// Its key.
    pub key: PublicKey,
    /// Its cluster.
    pub cluster: String,
    /// Names its disk, in hexadecimal digits.
    pub disk: String,
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
    HttpResponse::ServiceUnavailable().body(format!("[-]cluster {} holds no seat\n", node.cluster))
}

async fn genesis(node: web::Data<CandidateHandle>) -> HttpResponse {
    HttpResponse::Ok().json(&*node.genesis)
}

async fn candidate(node: web::Data<CandidateHandle>) -> HttpResponse {
    HttpResponse::Ok().json(CandidateView {
        name: node.name.clone(),
        node: node.node,
        key: node.key,
        cluster: node.cluster.to_string(),
        disk: format!("{:016x}", node.disk),
        bridge: node.bridge.to_string(),
    })
}

async fn waits(node: web::Data<CandidateHandle>) -> HttpResponse {
    unavailable(format!("cluster {} holds no seat: the node waits for an order of the chain", node.cluster))
}
