//! What an auth node shows: health, metrics, and its register.

use actix_web::{HttpResponse, web};

use standin_auth::messages::{Action, MemberOrder};
use standin_ledger::Approved;

use super::{ErrorView, unavailable};
use crate::node::AuthHandle;

/// Adds the routes of an auth node to an Actix application.
pub fn auth_routes(handle: AuthHandle) -> impl FnOnce(&mut web::ServiceConfig) {
    move |config| {
        config.configure(handle.console.clone().page_routes()).configure(auth_api_routes(handle));
    }
}

/// Adds those of health, metrics and `/api/v1` alone.
pub fn auth_api_routes(handle: AuthHandle) -> impl FnOnce(&mut web::ServiceConfig) {
    move |config| {
        config
            .configure(handle.console.clone().api_routes())
            .app_data(web::Data::new(handle))
            .route("/livez", web::get().to(super::livez))
            .route("/readyz", web::get().to(readyz))
            .route("/metrics", web::get().to(crate::metrics::auth_metrics))
            .route("/api/v1/genesis", web::get().to(genesis))
            .route("/api/v1/auth", web::get().to(clusters))
            .route("/api/v1/auth/order", web::post().to(order));
    }
}

/// Ready: the register answers.
async fn readyz(auth: web::Data<AuthHandle>) -> HttpResponse {
    match auth.clusters().await {
        Ok(clusters) => HttpResponse::Ok().body(format!("[+]register of {} clusters\n", clusters.len())),
        Err(error) => HttpResponse::ServiceUnavailable().body(format!("[-]register: {error}\n")),
    }
}

async fn genesis(auth: web::Data<AuthHandle>) -> HttpResponse {
    HttpResponse::Ok().json(&*auth.genesis)
}

/// An order of operators, with their approvals.
async fn order(auth: web::Data<AuthHandle>, order: web::Json<Approved<MemberOrder>>) -> HttpResponse {
    let order = order.into_inner();
    let (action, node) = match &order.order.action {
        Action::Admit(member) => ("member-add", member.key.node_id()),
        Action::Remove(node) => ("member-remove", *node),
    };
    let on = format!("{} {node}", order.order.cluster);
    let operators = order.approvals.iter().map(|approval| format!("key {}", approval.operator));
    let operators = operators.collect::<Vec<_>>().join(", ");
    match auth.order(order).await {
        Ok(Ok(membership)) => {
            auth.console.record_order(operators, action, on);
            HttpResponse::Ok().json(membership)
        }
        Ok(Err(why)) => HttpResponse::Conflict().json(ErrorView::from(why.to_string())),
        Err(error) => unavailable(error.to_string()),
    }
}

async fn clusters(auth: web::Data<AuthHandle>) -> HttpResponse {
    match auth.clusters().await {
        Ok(clusters) => HttpResponse::Ok().json(clusters),
        Err(error) => unavailable(error.to_string()),
    }
}
