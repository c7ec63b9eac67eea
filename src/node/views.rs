//! What a node shows of itself in the console, a view each. They are asked while somebody looks, and not otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use standin_auth::actor::{AskClusters, AuthActor};
use standin_cluster::actor::{AskMember, MemberActor, MemberStatus};
use standin_consensus::actor::{AskStatus, LedgerReader, Replica};
use standin_console::actor::{NODES, Row, Rows, View};
use standin_foundation::{Height, NodeId, Seat};
use standin_ledger::certificate::quorum;
use standin_ledger::store::StoredBlock;
use standin_ledger::{Batch, Genesis, Outcome};
use standin_publisher::actor::{Board, Standing};
use standin_stage::bridge::Peers;
use standin_stage::{Address, Distribution, Registry, Remote, Window};
use tokio::sync::oneshot;

use super::actions::Modes;
use super::console::{Listed, row};

/// An actor that does not answer within this time shows nothing.
const ASK_TIME: Duration = Duration::from_millis(400);
/// Blocks that a page shows.
const BLOCKS_SHOWN: u64 = 50;
/// Transactions that a page shows, and of one block.
const TRANSACTIONS_SHOWN: usize = 100;
const TRANSACTIONS_OF_BLOCK: usize = 10;

/// A member's own row.
pub(super) struct MemberView {
    pub(super) name: String,
    pub(super) node: NodeId,
    pub(super) replica: Address<Replica>,
    pub(super) member: Address<MemberActor>,
    /// When transactions were last counted, and how many there were.
    pub(super) counted: Arc<Mutex<Option<(Instant, u64)>>>,
    pub(super) modes: Modes,
    pub(super) peers: Peers,
}

impl View for MemberView {
    fn table(&self) -> &'static str {
        NODES
    }

    fn rows(&self) -> Pin<Box<dyn Future<Output = Rows> + Send>> {
        let (replica, member) = (self.replica.clone(), self.member.clone());
        let (name, node, counted) = (self.name.clone(), self.node, Arc::clone(&self.counted));
        let modes = self.modes.clone();
        let links = links(&self.peers);
        Box::pin(async move {
            let mut shown = row(json!({
                "name": name,
                "links": links,
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

/// How long a word takes to each node that is connected, and back, in µs, rounded so that a page need not be told of what nobody sees.
pub(super) fn links(peers: &Peers) -> BTreeMap<String, u64> {
    let link = |remote: Remote| Some((remote.id().to_string(), rounded(remote.round_trip()?.as_micros() as u64)));
    peers.all().into_iter().filter_map(link).collect()
}

/// To two digits.
fn rounded(us: u64) -> u64 {
    let step = 10_u64.pow(us.max(1).ilog10().saturating_sub(1));
    us / step * step
}

/// The newest blocks that the node has executed, as they are shown. Cheap to clone.
#[derive(Clone)]
pub(super) struct Newest {
    pub(super) reader: LedgerReader,
    /// Those that were read last.
    pub(super) blocks: Arc<Mutex<BTreeMap<Height, Shown>>>,
}

/// A block, and the first of its transactions by their places.
#[derive(Clone)]
pub(super) struct Shown {
    block: Row,
    transactions: Vec<Row>,
}

impl Newest {
    /// Reads what was executed since the last time.
    async fn read(&self) -> BTreeMap<Height, Shown> {
        let (sender, read) = oneshot::channel();
        let lock = || self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().keys().next_back().copied();
        let asked = self.reader.read(move |ledger| {
            let head = ledger.chain.height();
            let from = head.0.saturating_sub(BLOCKS_SHOWN - 1).max(known.map_or(1, |known| known.0 + 1));
            let blocks = (from..=head.0).filter_map(|height| ledger.store.block(Height(height)).ok().flatten());
            // Nobody may look any more.
            drop(sender.send(blocks.collect::<Vec<_>>()));
        });
        let read = if asked { read.await.unwrap_or_default() } else { Vec::new() };
        // Not where blocks are executed.
        let shown = |block: StoredBlock| {
            let shown = Shown { block: block_row(&block), transactions: transaction_rows(&block) };
            (block.header.height(), shown)
        };
        let read: Vec<_> = read.into_iter().map(shown).collect();
        let mut blocks = lock();
        blocks.extend(read);
        while blocks.len() as u64 > BLOCKS_SHOWN {
            blocks.pop_first();
        }
        blocks.clone()
    }
}

/// The newest blocks.
pub(super) struct BlocksView(pub(super) Newest);

impl View for BlocksView {
    fn table(&self) -> &'static str {
        "blocks"
    }

    fn is_local(&self) -> bool {
        true
    }

    fn rows(&self) -> Pin<Box<dyn Future<Output = Rows> + Send>> {
        let newest = self.0.clone();
        Box::pin(async move {
            let blocks = newest.read().await;
            blocks.into_iter().map(|(height, shown)| (height.to_string(), shown.block)).collect()
        })
    }
}

/// The newest transactions: of each block the first, as many as a page can show.
pub(super) struct TransactionsView(pub(super) Newest);

impl View for TransactionsView {
    fn table(&self) -> &'static str {
        "transactions"
    }

    fn is_local(&self) -> bool {
        true
    }

    fn rows(&self) -> Pin<Box<dyn Future<Output = Rows> + Send>> {
        let newest = self.0.clone();
        Box::pin(async move {
            let blocks = newest.read().await.into_iter().rev();
            let all = blocks.flat_map(|(height, shown)| {
                let numbered = shown.transactions.into_iter().enumerate();
                numbered.map(move |(place, row)| (format!("{height}/{place}"), row))
            });
            all.take(TRANSACTIONS_SHOWN).collect()
        })
    }
}

fn transaction_rows(block: &StoredBlock) -> Vec<Row> {
    let height = block.header.height();
    let mut rows = Vec::new();
    for payload in &block.payloads {
        for transaction in Batch::first_of(payload, TRANSACTIONS_OF_BLOCK - rows.len()) {
            let Some(receipt) = block.receipts.get(rows.len()) else { return rows };
            let (outcome, why) = match &receipt.outcome {
                Outcome::Applied(_) => ("applied", None),
                Outcome::Rejected(why) => ("refused", Some(why.clone())),
                Outcome::Duplicate => ("duplicate", None),
                Outcome::Expired => ("expired", None),
            };
            rows.push(row(json!({
                "height": height.0,
                "place": rows.len(),
                "id": transaction.id().to_string(),
                "title": transaction.title().as_str(),
                "sender": transaction.sender().map(|sender| sender.to_string()),
                "outcome": outcome,
                "why": why,
            })));
        }
    }
    rows
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

/// Topics that a page shows.
const TOPICS_SHOWN: usize = 200;
/// Topics of whose terminals a node tells others.
const FOLLOWED_SHOWN: usize = 64;

/// How topics stand, as this node knows it: those of which most waits come first, where they are too many.
pub(super) struct TopicsView(pub(super) Board);

impl View for TopicsView {
    fn table(&self) -> &'static str {
        "topics"
    }

    fn is_local(&self) -> bool {
        true
    }

    fn rows(&self) -> Pin<Box<dyn Future<Output = Rows> + Send>> {
        let mut all = self.0.all();
        let waiting = |standing: &Standing| standing.queued.0.saturating_sub(standing.published.upto.0);
        if all.len() > TOPICS_SHOWN {
            all.sort_by_key(|(_, standing)| std::cmp::Reverse(waiting(standing)));
            all.truncate(TOPICS_SHOWN);
        }
        let shown = all.iter().map(|(topic, standing)| {
            let fields = json!({
                "fence": standing.takeover.map_or(0, |takeover| takeover.fence.0),
                "owner": standing.held.map(|held| held.owner.node_id().to_string()),
                "lease_ms": standing.held.map(|held| held.lease_ms),
                "queued": standing.queued.0,
                "published": standing.published.upto.0,
                "waiting": waiting(standing),
                "lacks": standing.lacks,
            });
            (topic.to_string(), row(fields))
        });
        Box::pin(std::future::ready(shown.collect()))
    }
}

/// Who follows topics at this node.
pub(super) struct TerminalsView(pub(super) Board);

impl View for TerminalsView {
    fn table(&self) -> &'static str {
        "terminals"
    }

    fn rows(&self) -> Pin<Box<dyn Future<Output = Rows> + Send>> {
        let shown = self.0.terminals().into_iter().take(FOLLOWED_SHOWN).map(|(topic, (count, least))| {
            // Of what it may have had from here.
            let upto = self.0.get(topic).map_or(0, |standing| standing.published.upto.0);
            let fields = json!({ "terminals": count, "behind": upto.saturating_sub(least.0) });
            (topic.to_string(), row(fields))
        });
        Box::pin(std::future::ready(shown.collect()))
    }
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
    pub(super) peers: Peers,
    pub(super) site: String,
}

impl View for AuthView {
    fn table(&self) -> &'static str {
        NODES
    }

    fn rows(&self) -> Pin<Box<dyn Future<Output = Rows> + Send>> {
        let (name, auth) = (self.name.clone(), self.auth.clone());
        let (genesis, listed) = (Arc::clone(&self.genesis), self.listed.clone());
        let (links, site) = (links(&self.peers), self.site.clone());
        Box::pin(async move {
            let clusters = auth.ask(AskClusters, ASK_TIME).await;
            let register = match &clusters {
                Ok(clusters) => {
                    clusters.iter().for_each(|view| listed.take(&genesis, view));
                    format!("{} clusters", clusters.len())
                }
                Err(error) => format!("the register does not answer: {error}"),
            };
            let shown = json!({ "name": name, "kind": "auth", "site": site, "register": register, "links": links });
            vec![(String::new(), row(shown))]
        })
    }
}
