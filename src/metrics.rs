//! `/metrics` in the text format of Prometheus, made anew from the node's state at each scrape.

use actix_web::{HttpResponse, web};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::node::NodeHandle;

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
    let probe = node.replica.probe();
    let (depth, oldest) = node.replica.depth();
    gauge("height", "Up to here blocks have been executed", status.executed.0);
    gauge("committed_height", "Up to here blocks have been committed", status.status.committed.0);
    gauge("stable_height", "The last stable checkpoint", status.status.stable.0);
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
    gauge("replica_mailbox_depth", "Messages that wait for the replica", depth as u64);
    gauge("replica_mailbox_oldest_ms", "How long the oldest of them has waited", oldest.as_millis() as u64);
    gauge("replica_mailbox_handled", "Messages that the replica has handled", probe.handled());
    gauge("replica_mailbox_shed", "Messages that the replica's mailbox refused", probe.shed());
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => HttpResponse::Ok().content_type("application/openmetrics-text; version=1.0.0").body(text),
        Err(error) => HttpResponse::InternalServerError().body(error.to_string()),
    }
}
