//! All drills: their names, what happens in each, and the layouts on which they run.

use serde::Serialize;

use futures_util::future::LocalBoxFuture;

use super::super::Failure;
use super::{Drill, clusters, consortium, disks, epochs, grow, publishers, replicas};

/// What a drill does with its network.
pub(super) type Steps = for<'a> fn(&'a mut Drill) -> LocalBoxFuture<'a, Result<(), Failure>>;

/// A drill: what it does, and the layouts that support it; the first is its default.
#[derive(Serialize)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    pub(super) layouts: &'static [&'static str],
    #[serde(skip)]
    pub(super) steps: Steps,
    /// Links can be cut: all that is said passes through relays.
    pub(super) relayed: bool,
    /// A node's disk is so small that it fills up.
    pub(super) small_disk: bool,
    /// Nodes keep little for terminals that were away.
    pub(super) small_journals: bool,
    /// Locks of topics may stand in an etcd.
    pub(super) etcd_locks: bool,
}

const SEATS: &[&str] = &["four-seats"];
const ALL: &[&str] = &["four-sites", "two-sites", "four-sites-plus", "four-seats"];
const CLUSTERS: &[&str] = &["four-sites", "two-sites", "four-sites-plus"];
const WIDE: &[&str] = &["four-sites", "four-sites-plus"];
const FOUR: &[&str] = &["four-sites"];
const FRONTS: &[&str] = &["four-sites-etcd"];
const PUBLISHERS: &[&str] = &["publishers"];

const fn kind(name: &'static str, layouts: &'static [&'static str], what: &'static str, steps: Steps) -> Kind {
    Kind { name, what, layouts, steps, relayed: false, small_disk: false, small_journals: false, etcd_locks: false }
}

impl Kind {
    const fn relayed(self) -> Self {
        Self { relayed: true, ..self }
    }

    const fn with_small_disk(self) -> Self {
        Self { small_disk: true, ..self }
    }

    const fn with_small_journals(self) -> Self {
        Self { small_journals: true, ..self }
    }

    const fn with_etcd_locks(self) -> Self {
        Self { etcd_locks: true, ..self }
    }
}

/// All drills.
pub(super) const DRILLS: &[Kind] = &[
    kind("replica-killed", SEATS, "a replica that is not primary is killed under load and comes back", |drill| {
        Box::pin(replicas::replica_killed(drill))
    }),
    kind("replica-frozen", SEATS, "a replica is stopped with SIGSTOP under load and goes on later", |drill| {
        Box::pin(replicas::replica_frozen(drill))
    }),
    kind("primary-killed-under-load", SEATS, "the primary is killed under load and comes back", |drill| {
        Box::pin(replicas::primary_killed_under_load(drill))
    }),
    kind("all-restarted", SEATS, "all replicas are killed at once under load and start again", |drill| {
        Box::pin(replicas::all_restarted(drill))
    }),
    kind(
        "two-killed-then-back",
        SEATS,
        "two of four are killed: the chain stops, and resumes by itself when they are back",
        |drill| Box::pin(replicas::two_killed_then_back(drill)),
    ),
    kind(
        "operators-replaced",
        ALL,
        "operators order through the chain that others take their place, while nodes and a disk are lost",
        |drill| Box::pin(epochs::operators_replaced(drill)),
    ),
    kind(
        "cold-spare",
        CLUSTERS,
        "all nodes of a cluster are lost with their disks: a spare takes the seat by the chain's order",
        |drill| Box::pin(epochs::cold_spare(drill)),
    ),
    kind(
        "cluster-added",
        CLUSTERS,
        "a fifth cluster is given a seat by the chain's order; then its holder is lost, and another cluster",
        |drill| Box::pin(consortium::cluster_added(drill)),
    ),
    kind(
        "cluster-removed",
        CLUSTERS,
        "the cluster that leads the view is removed by the chain's order, and added again later",
        |drill| Box::pin(consortium::cluster_removed(drill)),
    ),
    kind(
        "auth-replaced",
        CLUSTERS,
        "the auth node is lost with its key: another takes its place by the chain's order, with every cluster begun anew",
        |drill| Box::pin(consortium::auth_replaced(drill)),
    ),
    kind("log-torn", SEATS, "a replica is killed and its log gets a torn tail, then damage in the middle", |drill| {
        Box::pin(disks::log_torn(drill))
    }),
    kind(
        "disk-full",
        SEATS,
        "a replica's disk fills up: it stops in order, the others go on, it comes back",
        |drill| Box::pin(disks::disk_full(drill)),
    )
    .with_small_disk(),
    kind("first-start", CLUSTERS, "every cluster elects and registers its first holder, step by step", |drill| {
        Box::pin(clusters::first_start(drill))
    }),
    kind(
        "active-killed",
        CLUSTERS,
        "the active that leads the view is killed: its standby goes on without a view change",
        |drill| Box::pin(clusters::active_killed(drill)),
    ),
    kind(
        "active-frozen",
        CLUSTERS,
        "the active is stopped with SIGSTOP and wakes up after the takeover: its late votes count nowhere",
        |drill| Box::pin(clusters::active_frozen(drill)),
    ),
    kind("active-and-standby-killed", WIDE, "active and standby are killed at once: the reserve takes over", |drill| {
        Box::pin(clusters::active_and_standby_killed(drill))
    }),
    kind("seat-switched", CLUSTERS, "an operator moves a seat under load", |drill| Box::pin(clusters::switched(drill))),
    kind(
        "key-replaced",
        CLUSTERS,
        "the key of the active that leads the view is replaced under load, by a member with a new one",
        |drill| Box::pin(grow::key_replaced(drill)),
    ),
    kind("site-lost", CLUSTERS, "each whole site is killed, one after the other", |drill| {
        Box::pin(clusters::sites_lost(drill, 1))
    }),
    kind("two-sites-lost", WIDE, "every pair of sites is killed at once", |drill| {
        Box::pin(clusters::sites_lost(drill, 2))
    }),
    kind("three-sites-lost", WIDE, "every triple of sites is killed at once", |drill| {
        Box::pin(clusters::sites_lost(drill, 3))
    }),
    kind(
        "witness-and-site-lost",
        CLUSTERS,
        "a site and the auth node are killed; the chain goes on when the auth node is back",
        |drill| Box::pin(clusters::witness_and_site_lost(drill)),
    ),
    kind(
        "auth-down",
        CLUSTERS,
        "the chain runs without its auth node; a seat that loses its active waits for it",
        |drill| Box::pin(clusters::auth_down(drill)),
    ),
    kind(
        "auth-restarted-from-backup",
        CLUSTERS,
        "the register is brought back from a copy: it stops until its operator says so",
        |drill| Box::pin(clusters::auth_restarted_from_backup(drill)),
    ),
    kind(
        "auth-front-killed",
        FRONTS,
        "auth nodes that share a register in an etcd are killed and frozen, an active with each: the other takes over",
        |drill| Box::pin(clusters::auth_front_killed(drill)),
    ),
    kind(
        "rolling-restart",
        CLUSTERS,
        "every node is stopped and started again, one after the other, under load",
        |drill| Box::pin(clusters::rolling_restart(drill)),
    ),
    kind(
        "wrong-result",
        CLUSTERS,
        "an active computes wrong results, found inside; then votes for them, found by the others",
        |drill| Box::pin(clusters::wrong_result(drill)),
    ),
    kind(
        "forged-update",
        CLUSTERS,
        "updates with bad tickets, of other clusters, without a ground: refused, register unchanged",
        |drill| Box::pin(clusters::forged_update(drill)),
    ),
    kind("lost-disk", CLUSTERS, "a member, then an active, comes back with an empty disk", |drill| {
        Box::pin(clusters::lost_disk(drill))
    }),
    kind(
        "older-image",
        CLUSTERS,
        "a member, then an active, comes back with an older image of its disk; then of its log or store alone, and without a store",
        |drill| Box::pin(clusters::older_image(drill)),
    ),
    kind(
        "grow",
        FOUR,
        "fourth members join the live network: then any three sites may go; one is removed again",
        |drill| Box::pin(grow::grow(drill)),
    ),
    kind(
        "partition-active",
        CLUSTERS,
        "the active is cut off from its cluster and not from the others, then the reverse",
        |drill| Box::pin(clusters::partition_active(drill)),
    )
    .relayed(),
    kind(
        "sites-split",
        WIDE,
        "the sites fall into two halves that the auth node hears both: a quorum of seats moves to one site",
        |drill| Box::pin(clusters::sites_split(drill)),
    )
    .relayed(),
    kind(
        "publisher-killed",
        PUBLISHERS,
        "the server that holds a topic's lock is killed: another one goes on behind the last datum",
        |drill| Box::pin(publishers::publisher_killed(drill)),
    ),
    kind(
        "publisher-frozen",
        PUBLISHERS,
        "the server that holds a topic's lock is stopped with SIGSTOP and wakes up late: nothing of it is seen",
        |drill| Box::pin(publishers::publisher_frozen(drill)),
    ),
    kind(
        "publisher-partitioned",
        PUBLISHERS,
        "the server that holds a topic's lock reaches its terminals and not the chain: it stops by itself",
        |drill| Box::pin(publishers::publisher_partitioned(drill)),
    )
    .relayed(),
    kind(
        "publisher-stalled",
        PUBLISHERS,
        "the server that holds a topic's lock renews it and publishes nothing: the others take it from it",
        |drill| Box::pin(publishers::publisher_stalled(drill)),
    ),
    kind(
        "pushes-during-failover",
        PUBLISHERS,
        "sources push without a pause while whoever publishes is killed, and the node that they push through",
        |drill| Box::pin(publishers::pushes_during_failover(drill)),
    ),
    kind(
        "terminal-reconnects",
        PUBLISHERS,
        "every connection of the terminals breaks again and again, anywhere in the stream of bytes",
        |drill| Box::pin(publishers::terminal_reconnects(drill)),
    ),
    kind(
        "terminal-behind-retention",
        PUBLISHERS,
        "a terminal comes back when what it needs is forgotten: it is told so, and what is left",
        |drill| Box::pin(publishers::terminal_behind_retention(drill)),
    )
    .with_small_journals(),
    kind(
        "disk-full-at-holder",
        PUBLISHERS,
        "the disk of the server that publishes fills up: it stops in order, and another one goes on",
        |drill| Box::pin(publishers::disk_full_at_holder(drill)),
    )
    .with_small_disk(),
    kind(
        "publishers-reconfigured",
        PUBLISHERS,
        "a new epoch begins under the stream, and another one while whoever publishes is killed",
        |drill| Box::pin(publishers::publishers_reconfigured(drill)),
    ),
    kind(
        "lock-in-etcd",
        PUBLISHERS,
        "a topic's lock stands in an etcd: whoever publishes is killed, and stands still; then the etcd is away",
        |drill| Box::pin(publishers::lock_in_etcd(drill)),
    )
    .with_etcd_locks(),
    kind(
        "two-standbys-race",
        PUBLISHERS,
        "one holder after the other is killed: all standbys race, and one is granted each time",
        |drill| Box::pin(publishers::two_standbys_race(drill)),
    ),
    kind(
        "holder-and-active-killed",
        PUBLISHERS,
        "the server that publishes and the active that leads the view are killed at once",
        |drill| Box::pin(publishers::holder_and_active_killed(drill)),
    ),
    kind(
        "many-topics",
        PUBLISHERS,
        "topics are spread over the servers; one is killed, and its topics go to the others",
        |drill| Box::pin(publishers::many_topics(drill)),
    ),
];
