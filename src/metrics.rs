//! `/metrics` in the text format of Prometheus, made anew from the node's state at each scrape.

use actix_web::{HttpResponse, web};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use standin_cluster::actor::MemberStatus;
use standin_stage::ActorView;

use crate::node::{AuthHandle, NodeHandle};

/// The metrics of a node.
pub async fn metrics(node: web::Data<NodeHandle>) -> HttpResponse {
    let Ok(status) = node.status().await else {
        return HttpResponse::ServiceUnavailable().body("the replica does not answer\n");
    };
    let mut registry = Registry::with_prefix("standin");
    let mut gauge = |name: &str, help: &str, value: u64| {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    };
    let counters = &status.counters;
    gauge("height", "Up to here blocks have been executed", status.executed.0);
    gauge("committed_height", "Up to here blocks have been committed", status.status.committed.0);
    gauge("stable_height", "The last stable checkpoint", status.status.stable.0);
    gauge("epoch", "The epoch: the number of the configuration of seats", status.status.epoch.0);
    gauge("view", "The view", status.status.view.0);
    gauge("is_primary", "1 while this seat leads the view", u64::from(status.primary == node.seat));
    gauge("is_changing_views", "1 between two views", u64::from(status.status.changing_to.is_some()));
    gauge(
        "peers_connected",
        "Other seats with a connection",
        status.peers.values().filter(|(_, on)| *on).count() as u64,
    );
    gauge("pending_batches", "Batches that wait for their order", status.pending.0 as u64);
    gauge("pending_bytes", "Bytes of batches that wait for their order", status.pending.1 as u64);
    gauge("waiting_transactions", "Transactions of clients that wait for an outcome", status.waiting as u64);
    gauge("gated_messages", "Messages that wait for the log", status.gated as u64);
    gauge("log_bytes", "Bytes of the durable log", status.log_bytes);
    gauge("transactions", "Transactions that took a place in a block since the start", counters.transactions);
    gauge("view_changes", "Views that were left since the start", counters.view_changes);
    gauge("equivocations", "Contradictions of other seats that were found", counters.equivocations);
    gauge("wrong_results", "Results of other seats that differ from a quorum's", counters.wrong_results);
    gauge("catch_ups", "Times that catch-up began", counters.catch_ups);
    gauge("is_active", "1 while this node speaks for its seat", u64::from(status.speaks));
    gauge("console_sessions", "Websockets of the admin console that are open", node.console.sessions() as u64);
    if let Ok(MemberStatus { view, .. }) = node.cluster().await {
        gauge("term", "The newest term of the seat that this node knows", view.term.0);
        gauge("in_sync_members", "Members of the in-sync set by that term's grant", view.in_sync.len() as u64);
        gauge("is_complete", "1 while this node's log holds all that its seat has said", u64::from(view.complete));
        let behind = view.mates.iter().filter_map(|mate| mate.behind).max().unwrap_or_default();
        gauge("replication_lag_records", "As holder: records that the slowest member has not acknowledged", behind);
        gauge("holder_suspected", "1 while this node suspects the holder", u64::from(view.suspicion.is_some()));
    }
    register_actors(&mut registry, &node.actors.list());
    encoded(&registry)
}

/// The metrics of an auth node.
pub async fn auth_metrics(auth: web::Data<AuthHandle>) -> HttpResponse {
    let mut registry = Registry::with_prefix("standin");
    let Ok(clusters) = auth.clusters().await else {
        return HttpResponse::ServiceUnavailable().body("the register does not answer\n");
    };
    let terms = Family::<[(&str, String); 1], Gauge>::default();
    let vacant = Family::<[(&str, String); 1], Gauge>::default();
    for cluster in clusters {
        let label = [("cluster", cluster.cluster.to_string())];
        terms.get_or_create(&label).set(i64::try_from(cluster.term.0).unwrap_or(i64::MAX));
        vacant.get_or_create(&label).set(i64::from(cluster.vacant));
    }
    registry.register("auth_term", "The newest term that was granted", terms);
    registry.register("auth_vacant", "1 while the holder has not been heard for its maximum age", vacant);
    register_actors(&mut registry, &auth.actors.list());
    encoded(&registry)
}

fn encoded(registry: &Registry) -> HttpResponse {
    let mut text = String::new();
    match encode(&mut text, registry) {
        Ok(()) => HttpResponse::Ok().content_type("application/openmetrics-text; version=1.0.0").body(text),
        Err(error) => HttpResponse::InternalServerError().body(error.to_string()),
    }
}

/// What each actor shows of itself, by its name.
fn register_actors(registry: &mut Registry, actors: &[ActorView]) {
    type Value = fn(&ActorView) -> u64;
    let values: [(&str, &str, Value); 7] = [
        ("actor_mailbox_depth", "Messages that wait for the actor", |actor| actor.depth as u64),
        ("actor_mailbox_oldest_ms", "How long the oldest of them has waited, in ms", |actor| {
            actor.oldest.as_millis() as u64
        }),
        ("actor_handled", "Messages that the actor has handled", |actor| actor.handled),
        ("actor_shed", "Messages that its mailbox refused, because a lane was full", |actor| actor.shed),
        ("actor_expired", "Messages whose deadline passed while they waited", |actor| actor.expired),
        ("actor_restarts", "How often it was started again", |actor| actor.restarts),
        ("actor_ended", "1 after it has ended for good", |actor| u64::from(actor.ended)),
    ];
    for (name, help, value) in values {
        let family = Family::<[(&str, String); 1], Gauge>::default();
        for actor in actors {
            let value = i64::try_from(value(actor)).unwrap_or(i64::MAX);
            family.get_or_create(&[("actor", actor.name.clone())]).set(value);
        }
        registry.register(name, help, family);
    }
}
