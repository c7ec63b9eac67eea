//! What a node shows of itself in the console: its views, and what happens at it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use standin_auth::actor::{AskClusters, AuthActor, ClusterView};
use standin_cluster::actor::{AskMember, MemberActor, MemberStatus};
use standin_consensus::Event as ReplicaEvent;
use standin_consensus::actor::{AskStatus, LedgerReader, Replica};
use standin_console::actions::Actions;
use standin_console::actor::{ConsoleActor, ConsoleConfig, Happened, Lost, NODES, Row, Rows, View, Views, unix_ms};
use standin_console::audit::{self, Audit, AuditError};
use standin_console::http::{Console, Rules};
use standin_console::login::Logins;
use standin_console::{Happening, Kind};
use standin_foundation::{ClusterId, Digest, Height, NodeId, Seat};
use standin_ledger::certificate::quorum;
use standin_ledger::store::StoredBlock;
use standin_ledger::{EpochStart, Genesis, Grant, GrantBook, MemberBook, MemberDescriptor};
use standin_stage::bridge::Peers;
use standin_stage::{Address, Cell, Distribution, Registry, Throttle, Window};
use tokio::sync::oneshot;

use super::actions::Modes;
use crate::config::{NodeConfig, NodeRole};

/// An actor that does not answer within this time shows nothing.
const ASK_TIME: Duration = Duration::from_millis(400);
/// Blocks that a page shows.
const BLOCKS_SHOWN: u64 = 50;
/// Entries of the audit log that a page finds.
const ACTS_SHOWN: usize = 200;
/// Where an auth node stands, by the layouts.
const WITNESS: &str = "witness";

/// Tells the console of what happens. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Teller {
    console: Address<ConsoleActor>,
    cluster: Option<String>,
    /// How long the last hand-over to this node took until it spoke, in ms.
    spoke: Arc<Mutex<Option<u64>>>,
    /// What others can cause as often as they like is told now and then.
    throttle: Arc<Throttle>,
}

impl Teller {
    pub(super) fn new(console: Address<ConsoleActor>, cluster: Option<String>) -> Self {
        let throttle = Arc::new(Throttle::new(Duration::from_secs(1), 10));
        Self { console, cluster, spoke: Arc::default(), throttle }
    }

    fn tell(&self, kind: Kind, term: Option<u64>, ms: Option<u64>, detail: impl Into<String>) {
        self.tell_of(self.cluster.clone(), kind, term, ms, detail.into());
    }

    fn tell_of(&self, cluster: Option<String>, kind: Kind, term: Option<u64>, ms: Option<u64>, detail: String) {
        let is_caused = matches!(
            kind,
            Kind::Refused | Kind::CatchingUp | Kind::WrongResult | Kind::Equivocation | Kind::RolledBack | Kind::Fault
        );
        if is_caused && self.throttle.pass().is_none() {
            return;
        }
        let happening = Happening { at_ms: unix_ms(), kind, cluster, term, ms, detail };
        // A full mailbox: what is not shown stands in the log, and the actor counts it.
        drop(self.console.tell(Happened(happening)));
    }

    /// The steps of a hand-over.
    pub(super) fn member(&self, event: &standin_cluster::Event, ms: Option<u64>) {
        use standin_cluster::Event as Of;
        match event {
            Of::Suspected { term, cause } => {
                self.tell(Kind::Suspected, Some(term.0), ms, cause.to_string());
            }
            Of::Asked { term, what } => self.tell(Kind::Asked, Some(term.0), ms, *what),
            Of::Granted { term, holder, in_sync } => {
                let set = in_sync.iter().map(|node| node.short()).collect::<Vec<_>>().join(" ");
                self.tell(Kind::Granted, Some(term.0), ms, format!("to {}, in sync {set}", holder.short()));
            }
            Of::Fenced { term } => self.tell(Kind::Fenced, Some(term.0), ms, ""),
            Of::Activated { writer } => {
                *self.spoke.lock().unwrap_or_else(PoisonError::into_inner) = ms;
                self.tell(Kind::Active, Some(writer.term.0), ms, "");
            }
            Of::Refused(why) => self.tell(Kind::Refused, None, ms, why.to_string()),
            Of::CutBack { records } => self.tell(Kind::CutBack, None, ms, format!("{records} records")),
            fault => self.tell(Kind::Fault, None, ms, format!("{fault:?}")),
        }
    }

    /// The last step of one.
    pub(super) fn first_block(&self, term: u64, height: Height, ms: u64) {
        let spoke = self.spoke.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.tell(Kind::FirstBlock, Some(term), spoke.map(|spoke| spoke + ms), format!("block {height}"));
    }

    /// Another seat's grant is known.
    pub(super) fn notified(&self, grant: &Grant) {
        let (cluster, term) = (grant.cluster.to_string(), grant.term.0);
        let detail = format!("held by {}", grant.holder_id().short());
        self.tell_of(Some(cluster), Kind::Notified, Some(term), None, detail);
    }

    /// What the replica reports.
    pub(super) fn replica(&self, event: &ReplicaEvent) {
        use ReplicaEvent as Of;
        let (kind, detail) = match event {
            Of::ViewChangeStarted { to, cause } => (Kind::ViewLeft, format!("for view {}: {cause:?}", to.0)),
            Of::ViewEntered { view, primary } => (Kind::ViewBegan, format!("view {}, led by seat {primary}", view.0)),
            Of::EpochBegan(EpochStart { epoch, after, .. }) => {
                (Kind::EpochBegan, format!("epoch {epoch} after block {after}"))
            }
            Of::CatchUpStarted { target, snapshot } => {
                let how = if *snapshot { "by a snapshot" } else { "by blocks" };
                (Kind::CatchingUp, format!("to block {target}, {how}"))
            }
            Of::WrongResult { seat, result, .. } => {
                (Kind::WrongResult, format!("seat {seat} at block {}", result.height))
            }
            Of::Equivocation { seat, .. } => (Kind::Equivocation, format!("seat {seat} contradicts itself")),
            Of::RolledBack { seat, start, seen } => {
                (Kind::RolledBack, format!("seat {seat}: its log begins at {start}, {seen} was seen"))
            }
            Of::BatchRefused { .. } | Of::BadTransfer { .. } => return,
            Of::Removed(_) => (Kind::Fault, "the chain has removed this node's cluster".to_owned()),
            fault => (Kind::Fault, format!("{fault:?}")),
        };
        self.tell(kind, None, None, detail);
    }

    /// Another node closed its connection.
    pub(super) fn lost(&self, node: NodeId) {
        drop(self.console.tell(Lost(node)));
    }
}

/// The console's actor, which has a thread of its own: stopped if the node does not come to run.
#[derive(Debug)]
pub(super) struct Started(Cell<ConsoleActor>, Actions);

impl Started {
    /// Where the actor can be reached.
    pub(super) fn address(&self) -> &Address<ConsoleActor> {
        self.0.address()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // They hold the node's handle, which holds them.
        self.1.clear();
        self.0.stop();
    }
}

/// The console of a node: its actor, and what its routes share.
pub(super) fn start(
    config: &NodeConfig,
    (node, chain): (NodeId, Digest),
    peers: Peers,
    roster: impl Fn() -> BTreeMap<NodeId, Row> + Send + Sync + 'static,
) -> Result<(Started, Console, Views), AuditError> {
    let audit = Audit::open(&config.data_dir)?;
    let folder = config.data_dir.clone();
    // Read again when the actor starts anew; one that cannot be read is told of where it is written.
    let recorded = Box::new(move || audit::newest(&folder, ACTS_SHOWN).unwrap_or_default());
    let views = Views::default();
    let (name, roster) = (config.name.clone(), Box::new(roster));
    let cell = ConsoleActor::start(ConsoleConfig { node, name, peers, views: views.clone(), roster, recorded });
    let logins = Logins::new(&config.data_dir);
    let rules = Rules { enabled: config.console.actions, operators: config.console.operators.clone(), chain };
    let console = Console::new((node, config.name.clone()), cell.address().clone(), logins, audit, rules);
    Ok((Started(cell, console.actions().clone()), console, views))
}

/// All nodes that a member knows of: where each belongs is the auth node's and the chain's word.
pub(super) fn roster(
    config: &NodeConfig,
    book: Arc<GrantBook>,
    members: Arc<MemberBook>,
) -> impl Fn() -> BTreeMap<NodeId, Row> + use<> {
    let auths = auth_rows(config);
    move || {
        let table = book.newest_table();
        let all = members.all().into_iter().map(|(seat, member)| {
            let cluster = table.seats.get(&seat).map(|seat| seat.cluster.to_string());
            let known = json!({ "kind": "member", "seat": seat.0, "cluster": cluster, "site": member.site });
            (member.key.node_id(), row(known))
        });
        all.chain(auths.clone()).collect()
    }
}

/// All nodes that an auth node knows of: its view keeps the list.
#[derive(Debug, Clone, Default)]
pub(super) struct Listed(Arc<Mutex<BTreeMap<NodeId, Row>>>);

impl Listed {
    /// Those of the genesis, the configured auth nodes, and this node itself.
    pub(super) fn new(config: &NodeConfig, node: NodeId, genesis: &Genesis) -> Self {
        let own = (node, row(json!({ "kind": "auth", "site": WITNESS })));
        let members = genesis.seats.iter().enumerate().flat_map(|(seat, descriptor)| {
            let of = move |member: &MemberDescriptor| {
                (member.key.node_id(), member_row(Some(seat), &descriptor.cluster, &member.site))
            };
            descriptor.members.iter().map(of)
        });
        Self(Arc::new(Mutex::new(members.chain(auth_rows(config)).chain([own]).collect())))
    }

    pub(super) fn all(&self) -> BTreeMap<NodeId, Row> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes in who is admitted to a cluster.
    fn take(&self, genesis: &Genesis, view: &ClusterView) {
        let seat = genesis.seats.iter().position(|seat| seat.cluster == view.cluster);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|node, row| {
            row.get("cluster") != Some(&json!(view.cluster.to_string())) || view.admitted.contains_key(node)
        });
        let admitted = view.admitted.iter();
        all.extend(admitted.map(|(node, member)| (*node, member_row(seat, &view.cluster, &member.site))));
    }
}

fn member_row(seat: Option<usize>, cluster: &ClusterId, site: &str) -> Row {
    row(json!({ "kind": "member", "seat": seat, "cluster": cluster.to_string(), "site": site }))
}

fn auth_rows(config: &NodeConfig) -> Vec<(NodeId, Row)> {
    let auths = config.peers.iter().filter(|peer| peer.role == NodeRole::Auth);
    auths.map(|peer| (peer.key.node_id(), row(json!({ "kind": "auth", "site": WITNESS })))).collect()
}

fn row(fields: Value) -> Row {
    match fields {
        Value::Object(row) => row,
        _ => Row::new(),
    }
}

/// A member's own row.
pub(super) struct MemberView {
    pub(super) name: String,
    pub(super) node: NodeId,
    pub(super) replica: Address<Replica>,
    pub(super) member: Address<MemberActor>,
    /// When transactions were last counted, and how many there were.
    pub(super) counted: Arc<Mutex<Option<(Instant, u64)>>>,
    pub(super) modes: Modes,
}

impl View for MemberView {
    fn table(&self) -> &'static str {
        NODES
    }

    fn rows(&self) -> Pin<Box<dyn Future<Output = Rows> + Send>> {
        let (replica, member) = (self.replica.clone(), self.member.clone());
        let (name, node, counted) = (self.name.clone(), self.node, Arc::clone(&self.counted));
        let modes = self.modes.clone();
        Box::pin(async move {
            let mut shown = row(json!({
                "name": name,
                "draining": modes.draining().then_some(true),
                "read_only": modes.read_only().then_some(true),
            }));
            if let Ok(status) = replica.ask(AskStatus, ASK_TIME).await {
                let transactions = status.counters.transactions;
                let before =
                    counted.lock().unwrap_or_else(PoisonError::into_inner).replace((Instant::now(), transactions));
                let rate = before.map(|(at, count)| {
                    (transactions.saturating_sub(count) as f64 / at.elapsed().as_secs_f64()).round()
                });
                shown.extend(row(json!({
                    "height": status.executed.0,
                    "committed": status.status.committed.0,
                    "stable": status.status.stable.0,
                    "epoch": status.status.epoch.0,
                    "view": status.status.view.0,
                    "changing_to": status.status.changing_to.map(|view| view.0),
                    "primary": status.primary.0,
                    "removed": status.removed.then_some(true),
                    "paused": status.paused.then_some(true),
                    "waiting": status.waiting,
                    "tps": rate,
                })));
            }
            if let Ok(MemberStatus { view, .. }) = member.ask(AskMember, ASK_TIME).await {
                let role = match (view.active, view.standby == Some(node)) {
                    (true, _) => "active",
                    (false, true) => "standby",
                    (false, false) => "reserve",
                };
                shown.extend(row(json!({
                    "role": role,
                    "term": view.term.0,
                    "holder": view.holder.map(|node| node.to_string()),
                    "in_sync": view.in_sync.iter().map(ToString::to_string).collect::<Vec<_>>(),
                    "complete": view.complete || view.active,
                    "head": view.head,
                    "sound": view.sound,
                    "released": view.released,
                    "suspicion": view.suspicion.map(|(cause, _)| cause.to_string()),
                })));
            }
            vec![(String::new(), shown)]
        })
    }
}

/// The newest blocks that the node has executed.
pub(super) struct BlocksView {
    pub(super) reader: LedgerReader,
    /// Those that were read last.
    pub(super) newest: Arc<Mutex<BTreeMap<Height, Row>>>,
}

impl View for BlocksView {
    fn table(&self) -> &'static str {
        "blocks"
    }

    fn is_local(&self) -> bool {
        true
    }

    fn rows(&self) -> Pin<Box<dyn Future<Output = Rows> + Send>> {
        let (reader, newest) = (self.reader.clone(), Arc::clone(&self.newest));
        Box::pin(async move {
            let (sender, read) = oneshot::channel();
            let known = newest.lock().unwrap_or_else(PoisonError::into_inner).keys().next_back().copied();
            let asked = reader.read(move |ledger| {
                let head = ledger.chain.height();
                let from = head.0.saturating_sub(BLOCKS_SHOWN - 1).max(known.map_or(1, |known| known.0 + 1));
                let blocks = (from..=head.0).filter_map(|height| ledger.store.block(Height(height)).ok().flatten());
                // Nobody may look any more.
                drop(sender.send(blocks.map(|block| (block.header.height(), block_row(&block))).collect::<Vec<_>>()));
            });
            let read = if asked { read.await.unwrap_or_default() } else { Vec::new() };
            let mut newest = newest.lock().unwrap_or_else(PoisonError::into_inner);
            newest.extend(read);
            while newest.len() as u64 > BLOCKS_SHOWN {
                newest.pop_first();
            }
            newest.iter().map(|(height, row)| (height.to_string(), row.clone())).collect()
        })
    }
}

fn block_row(block: &StoredBlock) -> Row {
    let proposal = &block.header.proposal;
    let refused = block.receipts.iter().filter(|receipt| !receipt.outcome.is_applied()).count();
    row(json!({
        "height": proposal.height.0,
        "hash": block.hash.to_string(),
        "at_ms": proposal.time_ms,
        "view": block.certificate.view.0,
        "seat": proposal.proposer.0,
        "batches": proposal.batches.len(),
        "bytes": proposal.batches.iter().map(|batch| u64::from(batch.bytes)).sum::<u64>(),
        "transactions": block.receipts.len(),
        "refused": refused,
        "votes": block.certificate.votes.iter().map(|vote| vote.seat.0).collect::<Vec<_>>(),
    }))
}

/// What the newest places in the order wait for, and how long things take.
pub(super) struct ConsensusView {
    pub(super) replica: Address<Replica>,
    pub(super) member: Address<MemberActor>,
    /// What was counted since the rows were last asked for.
    pub(super) windows: Arc<Mutex<Vec<(&'static str, Window)>>>,
}

impl View for ConsensusView {
    fn table(&self) -> &'static str {
        "consensus"
    }

    fn is_local(&self) -> bool {
        true
    }

    fn rows(&self) -> Pin<Box<dyn Future<Output = Rows> + Send>> {
        let (replica, member, windows) = (self.replica.clone(), self.member.clone(), Arc::clone(&self.windows));
        Box::pin(async move {
            let Ok(status) = replica.ask(AskStatus, ASK_TIME).await else { return Vec::new() };
            let syncs = member.ask(AskMember, ASK_TIME).await.ok().map(|member| member.syncs);
            let seats = |seats: &BTreeSet<Seat>| seats.iter().map(|seat| seat.0).collect::<Vec<_>>();
            let slots = status.slots.iter().map(|slot| {
                let shown = json!({
                    "height": slot.height.0,
                    "view": slot.view.map(|view| view.0),
                    "prepared": seats(&slot.prepared),
                    "committed": seats(&slot.committed),
                    "final": slot.is_final,
                });
                (format!("slot/{}", slot.height), row(shown))
            });
            let of_seats = status.peers.len() + 1;
            let state = row(json!({
                "speaks": status.speaks,
                "seats": of_seats,
                "quorum": quorum(of_seats),
                "view": status.status.view.0,
                "changing_to": status.status.changing_to.map(|view| view.0),
                "primary": status.primary.0,
                "pending_batches": status.pending.0,
                "pending_bytes": status.pending.1,
                "waiting": status.waiting,
                "gated": status.gated,
                "log_bytes": status.log_bytes,
            }));
            let times = [
                ("commit", Some(status.times.commit)),
                ("block_interval", Some(status.times.block_interval)),
                ("log_sync", syncs),
            ];
            let times = times_of(&mut windows.lock().unwrap_or_else(PoisonError::into_inner), times);
            slots.chain([("state".to_owned(), state)]).chain(times).collect()
        })
    }
}

/// Percentiles of what was counted since the last time, in ms.
fn times_of(
    windows: &mut Vec<(&'static str, Window)>,
    times: [(&'static str, Option<Distribution>); 3],
) -> Vec<(String, Row)> {
    let mut rows = Vec::with_capacity(times.len());
    for (name, of) in times {
        let Some(of) = of else { continue };
        match windows.iter_mut().find(|(known, _)| *known == name) {
            None => windows.push((name, Window::new(of))),
            Some((_, window)) => {
                let since = window.take();
                let ms = |quantile| since.value_at_quantile(quantile) as f64 / 1_000.0;
                let shown = match since.is_empty() {
                    true => json!({ "count": 0 }),
                    false => {
                        json!({ "count": since.len(), "p50": ms(0.5), "p95": ms(0.95), "p99": ms(0.99), "max": since.max() as f64 / 1_000.0 })
                    }
                };
                rows.push((format!("times/{name}"), row(shown)));
            }
        }
    }
    rows
}

/// The node's actors.
pub(super) struct ActorsView(pub(super) Registry);

impl View for ActorsView {
    fn table(&self) -> &'static str {
        "actors"
    }

    fn rows(&self) -> Pin<Box<dyn Future<Output = Rows> + Send>> {
        let actors = self.0.list().into_iter().map(|actor| {
            let shown = json!({
                "depth": actor.depth,
                "oldest_ms": actor.oldest.as_millis() as u64,
                "handled": actor.handled,
                "shed": actor.shed,
                "expired": actor.expired,
                "restarts": actor.restarts,
                "last_panic": actor.last_panic,
                "ended": actor.ended.then_some(true),
                "restartable": actor.restartable.then_some(true),
            });
            (actor.name, row(shown))
        });
        Box::pin(std::future::ready(actors.collect()))
    }
}

/// An auth node's own row.
pub(super) struct AuthView {
    pub(super) name: String,
    pub(super) auth: Address<AuthActor>,
    pub(super) genesis: Arc<Genesis>,
    pub(super) listed: Listed,
}

impl View for AuthView {
    fn table(&self) -> &'static str {
        NODES
    }

    fn rows(&self) -> Pin<Box<dyn Future<Output = Rows> + Send>> {
        let (name, auth) = (self.name.clone(), self.auth.clone());
        let (genesis, listed) = (Arc::clone(&self.genesis), self.listed.clone());
        Box::pin(async move {
            let clusters = auth.ask(AskClusters, ASK_TIME).await;
            let register = match &clusters {
                Ok(clusters) => {
                    clusters.iter().for_each(|view| listed.take(&genesis, view));
                    format!("{} clusters", clusters.len())
                }
                Err(error) => format!("the register does not answer: {error}"),
            };
            let shown = json!({ "name": name, "kind": "auth", "site": WITNESS, "register": register });
            vec![(String::new(), row(shown))]
        })
    }
}
