//! `/metrics` in the text format of Prometheus, made anew from the node's state at each scrape.

use std::sync::atomic::{AtomicU64, Ordering};

use actix_web::{HttpResponse, web};
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use standin_cluster::actor::MemberStatus;
use standin_foundation::Millis;
use standin_publisher::actor::Standing;
use standin_stage::bridge::Peers;
use standin_stage::{ActorView, CallError, Distribution};

use crate::node::{AuthHandle, Certificate, NodeHandle, Publication};

/// The metrics of a node.
pub async fn metrics(node: web::Data<NodeHandle>) -> HttpResponse {
    let mut registry = Registry::with_prefix("standin");
    match register(&node, &mut registry).await {
        Ok(()) => encoded(&registry),
        Err(error) => HttpResponse::ServiceUnavailable().body(format!("the replica does not answer: {error}\n")),
    }
}

/// Adds a node's metrics, as they are now, to a registry: whoever embeds nodes hands in one with labels of its own.
pub async fn register(node: &NodeHandle, registry: &mut Registry) -> Result<(), CallError> {
    let status = node.status().await?;
    let counters = &status.counters;
    let about = [
        ("name", node.name.clone()),
        ("cluster", node.cluster.to_string()),
        ("seat", node.seat.to_string()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    registry.register("node", "What the node is", Info::new(about.to_vec()));
    let mut gauge = |name: &str, help: &str, value: u64| registry.register(name, help, ConstGauge::new(signed(value)));
    gauge("height", "Up to here blocks have been executed", status.executed.0);
    gauge("committed_height", "Up to here blocks have been committed", status.status.committed.0);
    gauge("stable_height", "The last stable checkpoint", status.status.stable.0);
    let ahead = status.peers.values().map(|(peer, _)| peer.committed.0).max().unwrap_or_default();
    gauge(
        "behind_blocks",
        "Blocks that another seat says to have and this node has not executed",
        ahead.saturating_sub(status.executed.0),
    );
    gauge("epoch", "The epoch: the number of the configuration of seats", status.status.epoch.0);
    gauge("view", "The view", status.status.view.0);
    gauge("is_primary", "1 while this seat leads the view", u64::from(status.primary == node.seat));
    gauge("is_changing_views", "1 between two views", u64::from(status.status.changing_to.is_some()));
    let connected = status.peers.values().filter(|(_, on)| *on).count();
    gauge("peers_connected", "Other seats with a connection", connected as u64);
    gauge("peers_known", "Other seats", status.peers.len() as u64);
    gauge("pending_batches", "Batches that wait for their order", status.pending.0 as u64);
    gauge("pending_bytes", "Bytes of batches that wait for their order", status.pending.1 as u64);
    gauge("waiting_transactions", "Transactions of clients that wait for an outcome", status.waiting as u64);
    gauge("gated_messages", "Messages that wait for the log", status.gated as u64);
    gauge("log_bytes", "Bytes of the durable log", status.log_bytes);
    gauge("is_active", "1 while this node speaks for its seat", u64::from(status.speaks));
    gauge("is_removed", "1 after the chain has removed the node's cluster", u64::from(status.removed));
    gauge("is_paused", "1 while the node says nothing to other seats", u64::from(status.paused));
    gauge("is_draining", "1 while the node is out of service", u64::from(node.modes.draining()));
    gauge("is_read_only", "1 while the node takes no transactions", u64::from(node.modes.read_only()));
    gauge("console_sessions", "Websockets of the admin console that are open", node.console.sessions() as u64);
    let rules = node.reader.rules();
    gauge(
        "state_machine_version",
        "The newest version of the state machine that the program knows",
        node.state_machine.version().into(),
    );
    gauge("state_machine_version_active", "The version by which the next block is executed", rules.version().into());
    gauge(
        "state_machine_version_ordered",
        "The version that holds with the epoch that has been ordered, or else now",
        rules.ordered_version().into(),
    );
    register_certificate(registry, &node.certificate);
    register_links(registry, &node.peers);
    register_topics(registry, &node.publication);
    let mut counter = |name: &str, help: &str, value: u64| registry.register(name, help, ConstCounter::new(value));
    counter("blocks", "Blocks executed since the start", counters.blocks);
    counter("transactions", "Transactions that took a place in a block since the start", counters.transactions);
    counter("view_changes", "Views that were left since the start", counters.view_changes);
    counter("equivocations", "Contradictions of other seats that were found", counters.equivocations);
    counter("wrong_results", "Results of other seats that differ from a quorum's", counters.wrong_results);
    counter("catch_ups", "Times that catch-up began", counters.catch_ups);
    let mut seconds = |name: &str, help: &str, of: &Distribution| registry.register(name, help, Seconds(of.clone()));
    seconds("commit_seconds", "From a transaction's submission at this node to its outcome", &status.times.commit);
    seconds("block_interval_seconds", "From one block to the next", &status.times.block_interval);
    // Of a member that does not answer its mailbox tells (`actor_mailbox_oldest_ms`), with an alert: the rest is told all the same.
    if let Ok(MemberStatus { view, syncs, .. }) = node.cluster().await {
        seconds("log_sync_seconds", "How long syncs of the durable log take", &syncs);
        let mut gauge =
            |name: &str, help: &str, value: u64| registry.register(name, help, ConstGauge::new(signed(value)));
        gauge("term", "The newest term of the seat that this node knows", view.term.0);
        gauge("in_sync_members", "Members of the in-sync set by that term's grant", view.in_sync.len() as u64);
        gauge("is_complete", "1 while this node's log holds all that its seat has said", u64::from(view.complete));
        let behind = view.mates.iter().filter_map(|mate| mate.behind).max().unwrap_or_default();
        gauge("replication_lag_records", "As holder: records that the slowest member has not acknowledged", behind);
        gauge("holder_suspected", "1 while this node suspects the holder", u64::from(view.suspicion.is_some()));
    }
    register_actors(registry, &node.actors.list());
    Ok(())
}

/// What the node publishes, and to how many.
fn register_topics(registry: &mut Registry, publication: &Publication) {
    type Label = [(&'static str, String); 1];
    type Value = fn(&Standing, Millis) -> u64;
    let (now, all, counted) = (publication.board.now(), publication.board.all(), publication.board.counted());
    let gauges: [(&str, &str, Value); 5] = [
        ("topic_fence", "The newest grant of the topic's lock", |topic, _| {
            topic.takeover.map_or(0, |takeover| takeover.fence.0)
        }),
        ("topic_queued_sequence", "The last datum that is queued", |topic, _| topic.queued.0),
        ("topic_published_sequence", "The last datum that was published, as far as checkpoints say", |topic, _| {
            topic.published.upto.0
        }),
        ("topic_published_here", "1 while this node publishes the topic", |topic, now| u64::from(topic.publishes(now))),
        ("topic_lacks", "1 while data wait to be published that this node does not have", |topic, _| {
            u64::from(topic.lacks)
        }),
    ];
    for (name, help, value) in gauges {
        let family = Family::<Label, Gauge>::default();
        for (topic, standing) in &all {
            family.get_or_create(&[("topic", topic.to_string())]).set(signed(value(standing, now)));
        }
        registry.register(name, help, family);
    }
    let terminals = signed(counted.terminals.load(Ordering::Relaxed));
    registry.register("terminals", "Terminals that are connected", ConstGauge::new(terminals));
    let sent = counted.sent.load(Ordering::Relaxed);
    registry.register("published_data", "Data that were sent to terminals", ConstCounter::new(sent));
    let cut = counted.cut.load(Ordering::Relaxed);
    registry.register("terminals_left", "Terminals that have gone, or were cut", ConstCounter::new(cut));
}

/// How far the other nodes are away.
fn register_links(registry: &mut Registry, peers: &Peers) {
    let links = Family::<[(&str, String); 1], Gauge<f64, AtomicU64>>::default();
    for remote in peers.all() {
        if let Some(took) = remote.round_trip() {
            links.get_or_create(&[("peer", remote.id().short())]).set(took.as_secs_f64());
        }
    }
    registry.register(
        "peer_rtt_seconds",
        "How long the newest ping to a connected node was under way, both ways",
        links,
    );
}

/// A certificate's end, as Prometheus compares it with `time()`.
fn register_certificate(registry: &mut Registry, certificate: &Certificate) {
    let help = "When the bridge's certificate expires, in seconds since the Unix epoch";
    registry.register("certificate_expiry_timestamp_seconds", help, ConstGauge::new(certificate.expires_unix_s()));
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Upper bounds of the counts that a [`Distribution`] is shown as, in s.
const BOUNDS: [f64; 13] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

/// A distribution as a histogram of seconds.
#[derive(Debug)]
struct Seconds(Distribution);

impl EncodeMetric for Seconds {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> std::fmt::Result {
        let all = self.0.read();
        let mut below = 0;
        let mut buckets: Vec<_> = BOUNDS
            .iter()
            .map(|bound| {
                let up_to = all.count_between(0, (bound * 1e6) as u64);
                (*bound, up_to - std::mem::replace(&mut below, up_to))
            })
            .collect();
        buckets.push((f64::INFINITY, all.len() - below));
        encoder.encode_histogram::<NoLabelSet>(all.mean() * all.len() as f64 / 1e6, all.len(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// The metrics of an auth node.
pub async fn auth_metrics(auth: web::Data<AuthHandle>) -> HttpResponse {
    let mut registry = Registry::with_prefix("standin");
    match register_auth(&auth, &mut registry).await {
        Ok(()) => encoded(&registry),
        Err(error) => HttpResponse::ServiceUnavailable().body(format!("the register does not answer: {error}\n")),
    }
}

/// Adds an auth node's metrics, as they are now, to a registry.
pub async fn register_auth(auth: &AuthHandle, registry: &mut Registry) -> Result<(), CallError> {
    let clusters = auth.clusters().await?;
    let terms = Family::<[(&str, String); 1], Gauge>::default();
    let vacant = Family::<[(&str, String); 1], Gauge>::default();
    for cluster in clusters {
        let label = [("cluster", cluster.cluster.to_string())];
        terms.get_or_create(&label).set(i64::try_from(cluster.term.0).unwrap_or(i64::MAX));
        vacant.get_or_create(&label).set(i64::from(cluster.vacant));
    }
    registry.register("auth_term", "The newest term that was granted", terms);
    registry.register("auth_vacant", "1 while the holder has not been heard for its maximum age", vacant);
    register_certificate(registry, &auth.certificate);
    register_actors(registry, &auth.actors.list());
    Ok(())
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
    type Label = [(&'static str, String); 1];
    let label = |actor: &ActorView| [("actor", actor.name.clone())];
    let gauges: [(&str, &str, Value); 3] = [
        ("actor_mailbox_depth", "Messages that wait for the actor", |actor| actor.depth as u64),
        ("actor_mailbox_oldest_ms", "How long the oldest of them has waited, in ms", |actor| {
            actor.oldest.as_millis() as u64
        }),
        ("actor_ended", "1 after it has ended for good", |actor| u64::from(actor.ended)),
    ];
    for (name, help, value) in gauges {
        let family = Family::<Label, Gauge>::default();
        actors.iter().for_each(|actor| _ = family.get_or_create(&label(actor)).set(signed(value(actor))));
        registry.register(name, help, family);
    }
    let counters: [(&str, &str, Value); 4] = [
        ("actor_handled", "Messages that the actor has handled", |actor| actor.handled),
        ("actor_shed", "Messages that its mailbox refused, because a lane was full", |actor| actor.shed),
        ("actor_expired", "Messages whose deadline passed while they waited", |actor| actor.expired),
        ("actor_restarts", "How often it was started again", |actor| actor.restarts),
    ];
    for (name, help, value) in counters {
        let family = Family::<Label, Counter>::default();
        actors.iter().for_each(|actor| _ = family.get_or_create(&label(actor)).inc_by(value(actor)));
        registry.register(name, help, family);
    }
}
