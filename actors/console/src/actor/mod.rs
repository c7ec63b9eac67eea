//! The console's actor: it collects what this node and the others show of themselves, while somebody looks.

mod others;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use actix::fut::wrap_future;
use actix::{ActorFutureExt, AsyncContext};
use serde_json::{Map, Value};
use standin_foundation::NodeId;
use standin_stage::bridge::{Peers, Router};
use standin_stage::{Address, Cell, Ctx, Handle, Lane, MailboxLimits, Message, Reply, Role, Shell, Supervision};

use self::others::Others;
use crate::Happening;
use crate::audit::Act;
use crate::machine::{Hub, Part, Want};
use crate::messages::{Report, ReportedRow, Watch};

/// How often rows are collected while somebody looks.
const COLLECT_INTERVAL: Duration = Duration::from_millis(500);
/// For this long after it was asked, a node goes on telling; asked again in half of it.
const WATCH_TIME: Duration = Duration::from_secs(6);
/// Happenings that a page finds when it opens.
const EVENTS_KEPT: usize = 1_000;
/// Lines of the audit log that it finds.
const AUDIT_KEPT: usize = 200;
/// Lines of the node's log that it finds.
const LOGS_KEPT: usize = 2_000;
/// Own happenings that are kept for nodes that begin to watch.
const OWN_KEPT: usize = 64;
/// Bytes of a happening's detail.
const DETAIL_BYTES_MAX: usize = 512;
/// Rows of one node, in all tables; and bytes of a key.
const ROWS_OF_NODE_MAX: usize = 512;
const KEY_BYTES_MAX: usize = 128;
/// Bytes of rows in a report, about: what does not fit is left out.
const ROWS_BYTES_MAX: usize = 160 * 1024;

/// The table of nodes: the key is the node's id.
pub const NODES: &str = "nodes";
/// The stream of happenings.
pub const EVENTS: &str = "events";
/// The stream of what people did at this node.
pub const AUDIT: &str = "audit";
/// The stream of this node's log.
pub const LOGS: &str = "logs";

/// A row of a table.
pub type Row = Map<String, Value>;
/// Rows by key.
pub type Rows = Vec<(String, Row)>;

/// Something that a node shows of itself: what a concept adds to the console.
pub trait View: Send + Sync {
    /// Its table; [`NODES`] for fields of the node's own row.
    fn table(&self) -> &'static str;

    /// Whether it is shown at this node's page alone, and not told to others that watch.
    fn is_local(&self) -> bool {
        false
    }

    /// Its rows by key below the node's own; the empty key is the node's. Asked while somebody looks.
    fn rows(&self) -> Pin<Box<dyn Future<Output = Rows> + Send>>;
}

/// What a node shows of itself. Set once, when there is something to show: what happens before that is told already.
#[derive(Clone, Default)]
pub struct Views(Arc<OnceLock<Vec<Box<dyn View>>>>);

impl Views {
    /// Sets them. A second time changes nothing.
    pub fn set(&self, views: Vec<Box<dyn View>>) {
        self.0.get_or_init(|| views);
    }

    fn all(&self) -> &[Box<dyn View>] {
        self.0.get().map(Vec::as_slice).unwrap_or_default()
    }
}

impl std::fmt::Debug for Views {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.all().iter().map(|view| view.table())).finish()
    }
}

/// What the console needs.
pub struct ConsoleConfig {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// The other nodes, as far as they can be reached.
    pub peers: Peers,
    /// What this node shows of itself.
    pub views: Views,
    /// What is known of all nodes, whether they are heard or not: fields of their rows, by id.
    pub roster: Box<dyn Fn() -> BTreeMap<NodeId, Row> + Send + Sync>,
    /// The newest entries of the audit log.
    pub recorded: Box<dyn Fn() -> Vec<Act> + Send + Sync>,
}

impl std::fmt::Debug for ConsoleConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConsoleConfig").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The console's actor.
#[derive(Debug)]
pub struct ConsoleActor {
    config: Arc<ConsoleConfig>,
    hub: Hub,
    /// Names this life of the actor.
    life: u64,
    others: Others,
    /// The other nodes that have a row: one that belongs to nothing any more has none.
    shown: BTreeSet<NodeId>,
    /// Until when somebody looks at this node's page.
    looked_at: Option<Instant>,
    /// When the others were last asked to tell.
    asked: Option<Instant>,
    /// Nodes that watch this one: until when, and the number of the next happening that they are to be told.
    watchers: BTreeMap<NodeId, (Instant, u64)>,
    happened: VecDeque<Happening>,
    /// Number of the happening after the newest.
    next: u64,
    rows: Vec<ReportedRow>,
    /// Where each node's rows stand: those that it does not show any more go.
    places: BTreeMap<NodeId, BTreeSet<(String, String)>>,
    collecting: bool,
    ticking: bool,
}

impl ConsoleActor {
    fn new(config: Arc<ConsoleConfig>) -> Self {
        let life = fastrand::u64(1..);
        let mut hub = Hub::new(format!("{life:016x}"));
        hub.add_table(NODES);
        hub.add_stream(EVENTS, EVENTS_KEPT);
        hub.add_stream(AUDIT, AUDIT_KEPT);
        hub.add_stream(LOGS, LOGS_KEPT);
        (config.recorded)().iter().for_each(|act| _ = hub.push(AUDIT, shown_act(act)));
        Self {
            config,
            hub,
            life,
            others: Others::default(),
            shown: BTreeSet::new(),
            looked_at: None,
            asked: None,
            watchers: BTreeMap::new(),
            happened: VecDeque::new(),
            next: 0,
            rows: Vec::new(),
            places: BTreeMap::new(),
            collecting: false,
            ticking: false,
        }
    }

    /// Starts the actor on a thread of its own: what people look at must not delay what the chain waits for.
    pub fn start(config: ConsoleConfig) -> Cell<Self> {
        let config = Arc::new(config);
        let (made, cell) = std::sync::mpsc::channel();
        let arbiter = actix_rt::Arbiter::new();
        arbiter.spawn_fn(move || {
            let make = move |_| Self::new(Arc::clone(&config));
            // Whoever starts it waits for it.
            let cell = Cell::spawn("console", Supervision::default(), MailboxLimits::default(), make);
            let address = cell.address().clone();
            actix_rt::spawn(async move {
                address.ended().await;
                actix_rt::Arbiter::current().stop();
            });
            drop(made.send(cell));
        });
        #[allow(clippy::expect_used, reason = "an arbiter that was just made runs what it is given")]
        cell.recv().expect("a new arbiter runs")
    }

    fn is_looked_at(&self) -> bool {
        self.looked_at.is_some_and(|until| until > Instant::now())
    }

    /// Collects now, and again for as long as somebody looks.
    fn begin_ticking(&mut self, ctx: &mut Ctx<Self>) {
        if !std::mem::replace(&mut self.ticking, true) {
            self.tick(ctx);
        }
    }

    fn tick(&mut self, ctx: &mut Ctx<Self>) {
        let now = Instant::now();
        self.watchers.retain(|_, (until, _)| *until > now);
        let is_looked_at = self.is_looked_at();
        if !is_looked_at && self.watchers.is_empty() {
            self.ticking = false;
            return;
        }
        if is_looked_at && self.asked.is_none_or(|asked| now - asked > WATCH_TIME / 2) {
            self.asked = Some(now);
            // Whom it does not reach is asked again.
            self.config.peers.all().iter().for_each(|peer| drop(peer.tell(&Watch)));
        }
        if is_looked_at {
            self.show_others();
        }
        for view in self.config.views.all() {
            if !self.hub.is_table(view.table()) {
                self.hub.add_table(view.table());
            }
        }
        if !std::mem::replace(&mut self.collecting, true) {
            let config = Arc::clone(&self.config);
            let collected = wrap_future(async move { collect(&config, is_looked_at).await });
            ctx.spawn(collected.map(|rows, shell: &mut Shell<Self>, _| shell.role.take_own(rows)));
        }
        ctx.run_later(COLLECT_INTERVAL, |shell, ctx| shell.role.tick(ctx));
    }

    fn take_own(&mut self, rows: Vec<(Shown, String, Row)>) {
        self.collecting = false;
        self.rows.clear();
        let mut bytes = 0;
        let mut shown = Vec::with_capacity(rows.len());
        for (Shown { table, is_local }, key, mut row) in rows {
            let json = if is_local { String::new() } else { Value::Object(row.clone()).to_string() };
            bytes += json.len();
            if !is_local && bytes <= ROWS_BYTES_MAX {
                self.rows.push(ReportedRow { topic: table.to_owned(), key: key.clone(), json });
            }
            if table == NODES && key.is_empty() {
                row.extend((self.config.roster)().remove(&self.config.node).unwrap_or_default());
                row.insert("state".to_owned(), "live".into());
            }
            shown.push((table.to_owned(), key, row));
        }
        self.place(self.config.node, shown);
        self.tell_watchers(true);
    }

    /// Puts a node's rows in the place of those that it had.
    fn place(&mut self, node: NodeId, rows: Vec<(String, String, Row)>) {
        let mut places = BTreeSet::new();
        let of = node.to_string();
        for (table, key, row) in rows.into_iter().take(ROWS_OF_NODE_MAX) {
            let place = if key.is_empty() { of.clone() } else { format!("{of}/{key}") };
            if key.len() <= KEY_BYTES_MAX && self.hub.put(&table, &place, row) {
                places.insert((table, place));
            }
        }
        let before = self.places.insert(node, places).unwrap_or_default();
        let now = self.places.get(&node);
        let gone = before.iter().filter(|place| now.is_none_or(|now| !now.contains(*place)));
        gone.for_each(|(table, place)| self.hub.remove(table, place));
    }

    /// Tells all that watch what they have not been told.
    fn tell_watchers(&mut self, with_rows: bool) {
        let rows = if with_rows { self.rows.as_slice() } else { &[] };
        let first = self.next - self.happened.len() as u64;
        for (node, (_, next)) in &mut self.watchers {
            let from = (*next).max(first);
            let happened: Vec<_> = self.happened.iter().skip((from - first) as usize).cloned().collect();
            if rows.is_empty() && happened.is_empty() {
                continue;
            }
            let report = Report { life: self.life, rows: rows.to_vec(), from, happened };
            let told = self.config.peers.remote(node).map(|peer| peer.tell(&report));
            if let Some(Ok(())) = told {
                *next = self.next;
            }
        }
    }

    fn show_others(&mut self) {
        let (own, now) = (self.config.node, Instant::now());
        let connected = |node: &NodeId| self.config.peers.remote(node).is_some_and(|peer| peer.is_connected());
        let roster = (self.config.roster)();
        let rows = self.others.rows(&roster, connected, now);
        let gone: Vec<_> = self.shown.iter().filter(|node| !roster.contains_key(*node)).copied().collect();
        for node in gone {
            self.hub.remove(NODES, &node.to_string());
            self.place(node, Vec::new());
            self.places.remove(&node);
            self.others.forget(&node);
            self.shown.remove(&node);
        }
        for (node, row) in rows.into_iter().filter(|(node, _)| *node != own) {
            self.hub.put(NODES, &node.to_string(), row);
            self.shown.insert(node);
        }
    }

    fn show(&mut self, node: &NodeId, happening: &Happening) {
        if let Ok(Value::Object(mut entry)) = serde_json::to_value(happening) {
            entry.insert("node".to_owned(), node.to_string().into());
            self.hub.push(EVENTS, Value::Object(entry));
        }
    }
}

impl Role for ConsoleActor {}

/// Where a row is shown.
#[derive(Debug, Clone, Copy)]
struct Shown {
    table: &'static str,
    /// At this node's page alone.
    is_local: bool,
}

async fn collect(config: &ConsoleConfig, is_looked_at: bool) -> Vec<(Shown, String, Row)> {
    let mut all = Vec::new();
    for view in config.views.all().iter().filter(|view| is_looked_at || !view.is_local()) {
        let (rows, shown) = (view.rows().await, Shown { table: view.table(), is_local: view.is_local() });
        all.extend(rows.into_iter().map(|(key, row)| (shown, key, row)));
    }
    all
}

/// This clock's time in ms since 1970.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Something happened at this node.
#[derive(Debug)]
pub struct Happened(pub Happening);

impl Message for Happened {
    type Reply = ();

    fn bytes(&self) -> usize {
        size_of::<Self>() + self.0.detail.len()
    }
}

impl Handle<Happened> for ConsoleActor {
    fn handle(&mut self, Happened(mut happening): Happened, _: Reply<()>, _: &mut Ctx<Self>) {
        let cut = happening.detail.floor_char_boundary(DETAIL_BYTES_MAX);
        happening.detail.truncate(cut);
        let own = self.config.node;
        self.show(&own, &happening);
        self.happened.push_back(happening);
        self.next += 1;
        if self.happened.len() > OWN_KEPT {
            self.happened.pop_front();
        }
        self.tell_watchers(false);
    }
}

/// Somebody did something at this node: it stands in the audit log.
#[derive(Debug)]
pub struct Recorded(pub Act);

impl Message for Recorded {
    type Reply = ();

    fn bytes(&self) -> usize {
        size_of::<Self>() + self.0.reason.len() + self.0.outcome.len()
    }
}

impl Handle<Recorded> for ConsoleActor {
    fn handle(&mut self, Recorded(act): Recorded, _: Reply<()>, _: &mut Ctx<Self>) {
        self.hub.push(AUDIT, shown_act(&act));
    }
}

fn shown_act(act: &Act) -> Value {
    serde_json::to_value(act).unwrap_or_default()
}

/// Lines of this node's log.
#[derive(Debug)]
pub struct Logged(pub Vec<Value>);

impl Message for Logged {
    type Reply = ();
    const LANE: Lane = Lane::Bulk;

    fn bytes(&self) -> usize {
        size_of::<Self>() + self.0.len() * size_of::<Value>()
    }
}

impl Handle<Logged> for ConsoleActor {
    fn handle(&mut self, Logged(lines): Logged, _: Reply<()>, _: &mut Ctx<Self>) {
        lines.into_iter().for_each(|line| _ = self.hub.push(LOGS, line));
    }
}

/// The connection to another node was closed by its end.
#[derive(Debug)]
pub struct Lost(pub NodeId);

impl Message for Lost {
    type Reply = ();
}

impl Handle<Lost> for ConsoleActor {
    fn handle(&mut self, Lost(node): Lost, _: Reply<()>, _: &mut Ctx<Self>) {
        self.others.lost(&node);
        if self.is_looked_at() {
            self.show_others();
        }
    }
}

/// Reads what a websocket has subscribed to. Whoever reads looks: the others are asked to tell.
#[derive(Debug)]
pub struct Read(pub Vec<Want>);

/// What was read.
#[derive(Debug)]
pub struct Reading {
    /// The life of the actor.
    pub epoch: String,
    /// Topics that there are.
    pub topics: Vec<&'static str>,
    /// What was wanted, and is new.
    pub parts: Vec<Part>,
}

impl Message for Read {
    type Reply = Reading;
}

impl Handle<Read> for ConsoleActor {
    fn handle(&mut self, Read(wants): Read, reply: Reply<Reading>, ctx: &mut Ctx<Self>) {
        self.looked_at = Some(Instant::now() + WATCH_TIME);
        self.begin_ticking(ctx);
        let parts = wants.iter().filter_map(|want| self.hub.read(want)).collect();
        reply.send(Reading { epoch: self.hub.epoch().to_owned(), topics: self.hub.topics().collect(), parts });
    }
}

/// Another node watches this one.
struct Watched(NodeId);

impl Message for Watched {
    type Reply = ();
}

impl Handle<Watched> for ConsoleActor {
    fn handle(&mut self, Watched(node): Watched, _: Reply<()>, ctx: &mut Ctx<Self>) {
        let until = Instant::now() + WATCH_TIME;
        self.watchers.entry(node).or_insert((until, 0)).0 = until;
        self.begin_ticking(ctx);
    }
}

/// Another node tells.
struct Reported(NodeId, Report);

impl Message for Reported {
    type Reply = ();

    fn bytes(&self) -> usize {
        let rows = self.1.rows.iter().map(|row| row.json.len() + row.key.len() + row.topic.len());
        size_of::<Self>() + rows.sum::<usize>() + self.1.happened.len() * (size_of::<Happening>() + DETAIL_BYTES_MAX)
    }
}

impl Handle<Reported> for ConsoleActor {
    fn handle(&mut self, Reported(node, report): Reported, _: Reply<()>, _: &mut Ctx<Self>) {
        if !self.is_looked_at() {
            return;
        }
        for happening in self.others.new_of(&node, &report) {
            self.show(&node, &happening);
        }
        if report.rows.is_empty() {
            return;
        }
        // What is no row is not shown: the node speaks for itself alone.
        let row = |row: ReportedRow| Some((row.topic, row.key, serde_json::from_str::<Row>(&row.json).ok()?));
        let (own, rest): (Vec<_>, Vec<_>) =
            report.rows.into_iter().filter_map(row).partition(|(topic, key, _)| topic == NODES && key.is_empty());
        // A node has one row among the nodes.
        self.place(node, rest.into_iter().filter(|(topic, ..)| topic != NODES).collect());
        own.into_iter().for_each(|(_, _, row)| self.others.told(node, row, unix_ms()));
        self.show_others();
    }
}

/// Takes what other nodes say for the console.
pub fn routes(router: Router, console: &Address<ConsoleActor>) -> Router {
    let (watched, reported) = (console.clone(), console.clone());
    router
        .tell::<Watch>(move |from, Watch| watched.tell(Watched(from)))
        .tell::<Report>(move |from, report| reported.tell(Reported(from, report)))
}
