//! A node's console: what happens at the node, and which nodes there are. What it shows of itself is in `views.rs`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use standin_auth::actor::ClusterView;
use standin_consensus::Event as ReplicaEvent;
use standin_console::actions::Actions;
use standin_console::actor::{ConsoleActor, ConsoleConfig, Happened, Lost, Row, Views, unix_ms};
use standin_console::audit::{self, Audit, AuditError};
use standin_console::http::{Console, Rules};
use standin_console::login::Logins;
use standin_console::{Happening, Kind};
use standin_foundation::{ClusterId, Digest, Height, NodeId};
use standin_ledger::{EpochStart, Genesis, Grant, GrantBook, MemberBook, MemberDescriptor};
use standin_stage::bridge::Peers;
use standin_stage::{Address, Cell, Throttle};

use crate::config::{NodeConfig, NodeRole};

/// Entries of the audit log that a page finds.
const ACTS_SHOWN: usize = 200;
/// Where an auth node stands, by the layouts.
const WITNESS: &str = "witness";

/// Where an auth node stands.
pub(super) fn site_of(config: &NodeConfig) -> String {
    if config.site.is_empty() { WITNESS.to_owned() } else { config.site.clone() }
}

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
            Kind::Refused
                | Kind::CatchingUp
                | Kind::WrongResult
                | Kind::Equivocation
                | Kind::RolledBack
                | Kind::Publishes
                | Kind::Fault
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

    /// The node publishes a topic from now on; so long after the lock was released, in ms.
    pub(super) fn publishes(&self, detail: String, ms: Option<u64>) {
        self.tell(Kind::Publishes, None, ms, detail);
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
        let own = (node, row(json!({ "kind": "auth", "site": site_of(config) })));
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
    pub(super) fn take(&self, genesis: &Genesis, view: &ClusterView) {
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

/// The fields of an object.
pub(super) fn row(fields: Value) -> Row {
    match fields {
        Value::Object(row) => row,
        _ => Row::new(),
    }
}
