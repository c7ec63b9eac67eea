//! HTTP: health, metrics, and `/api/v1`.

mod auth;
mod backup;
mod candidate;
mod cluster;
mod holder;
mod limit;
mod query;
mod reading;
mod stream;
mod topics;
mod views;

pub use auth::{auth_api_routes, auth_routes};
pub use candidate::{CandidateView, candidate_routes};
pub use cluster::{ClusterView, MateView, RoleView, TookOverView};
pub use holder::{HeldView, ProvenRecord};
pub use limit::RequestLimit;
pub use reading::{Reading, authorization};
pub use views::{
    ActionView, AnswerView, BlockView, BytesView, DatumView, DoneView, ErrorView, FrameView, HoldingView,
    MachineAnswerView, OfferedView, PeerView, PreviewView, SourceView, StatusView, Submitted, TitleBatch, TitleView,
    TopicView, TopicsView, TransactionView, VersionsView, WhichBlock,
};

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::{HttpResponse, Responder, web};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use standin_consensus::actor::{Finished, Ledger, ReplicaStatus, Submit, Urgency};
use standin_foundation::Height;
use standin_foundation::limits::{BATCH_TRANSACTIONS_MAX, HTTP_BODY_BYTES_MAX};
use standin_ledger::certificate::{self, CheckpointCertificate};
use standin_ledger::store::{StoreError, StoredBlock};
use standin_ledger::{
    Authority, Batch, Outcome, Receipt, ReceiptProof, Reject, StateMachine, Title, Transaction, TransactionId, system,
};
use tokio::sync::oneshot;

use self::reading::MayRead;
use crate::node::{NodeHandle, blocks_from};

/// Longest time that a request may wait for outcomes.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Blocks in one listing.
const LIST_MAX: u64 = 1_000;

/// Adds all routes to an Actix application: health, metrics, `/api/v1` and the console.
pub fn routes(handle: NodeHandle) -> impl FnOnce(&mut web::ServiceConfig) {
    move |config| {
        config.configure(handle.console.clone().page_routes()).configure(api_routes(handle));
    }
}

/// Adds health, metrics and `/api/v1`, below the scope that is configured.
pub fn api_routes(handle: NodeHandle) -> impl FnOnce(&mut web::ServiceConfig) {
    move |config| {
        config
            .configure(handle.console.clone().api_routes())
            .app_data(web::Data::new(handle))
            .app_data(web::PayloadConfig::new(HTTP_BODY_BYTES_MAX))
            .route("/livez", web::get().to(livez))
            .route("/readyz", web::get().to(readyz))
            .route("/metrics", web::get().to(crate::metrics::metrics))
            .route("/api/v1/status", web::get().to(status))
            .route("/api/v1/genesis", web::get().to(genesis))
            .route("/api/v1/clients", web::get().to(clients))
            .route("/api/v1/grants", web::get().to(cluster::grants))
            .route("/api/v1/epochs", web::get().to(cluster::epochs))
            .route("/api/v1/members", web::get().to(cluster::members))
            .route("/api/v1/cluster", web::get().to(cluster::cluster))
            .route("/api/v1/clusters/{cluster}/holder", web::get().to(holder::held))
            .route("/api/v1/transactions", web::post().to(submit))
            .route("/api/v1/transactions/{id}", web::get().to(transaction))
            .route("/api/v1/blocks", web::get().to(blocks))
            .route("/api/v1/blocks/stream", web::get().to(stream::stream))
            .route("/api/v1/blocks/{height}", web::get().to(block))
            .route("/api/v1/blocks/{height}/titles/{title}", web::get().to(title))
            .route("/api/v1/topics", web::get().to(topics::topics))
            .route("/api/v1/topics/{topic}", web::get().to(topics::topic))
            .route("/api/v1/topics/{topic}/holdings", web::get().to(topics::holdings))
            .route("/api/v1/topics/{topic}/frames/{which}", web::get().to(topics::frame))
            .route("/api/v1/topics/{topic}/sources/{key}", web::get().to(topics::source))
            .route("/api/v1/topics/{topic}/follow", web::get().to(topics::follow))
            .route("/api/v1/backup", web::get().to(backup::backup))
            .route("/api/v1/query", web::get().to(query::query))
            .route("/api/v1/query", web::post().to(query::ask));
    }
}

async fn livez() -> impl Responder {
    "ok\n"
}

/// Ready: in a view, not behind the others, and connected to enough of them for a quorum.
async fn readyz(node: web::Data<NodeHandle>) -> HttpResponse {
    let Ok(status) = node.status().await else {
        return HttpResponse::ServiceUnavailable().body("[-]replica does not answer\n");
    };
    let seats = node.book.seats(status.status.epoch).unwrap_or_default().len();
    let quorum = certificate::quorum(seats);
    let connected = 1 + status.peers.values().filter(|(_, connected)| *connected).count();
    // What f+1 others say they have reached, at least one correct seat has.
    let mut reached: Vec<_> = status.peers.values().map(|(peer, _)| peer.committed).collect();
    reached.sort_unstable_by(|a, b| b.cmp(a));
    let ahead = reached.get(certificate::faulty_max(seats)).copied().unwrap_or_default();
    let window = node.genesis.parameters.window;
    let checks = [
        (!node.modes.draining(), "in service".to_owned()),
        (!status.paused, "votes".to_owned()),
        (!is_removed(&node, &status), format!("cluster {} holds its seat", node.cluster)),
        (connected >= quorum, format!("quorum {connected} of {seats} connected, {quorum} needed")),
        (status.status.changing_to.is_none(), format!("view {}", status.status.view)),
        (ahead <= status.executed.plus(window), format!("sync at {} of {ahead}", status.executed)),
    ];
    let line = |(sound, what): &(bool, String)| format!("[{}]{what}\n", if *sound { '+' } else { '-' });
    let text: String = checks.iter().map(line).collect();
    match checks.iter().all(|(sound, _)| *sound) {
        true => HttpResponse::Ok().body(text),
        false => HttpResponse::ServiceUnavailable().body(text),
    }
}

async fn status(node: web::Data<NodeHandle>) -> HttpResponse {
    match node.status().await {
        Ok(status) => HttpResponse::Ok().json(view_of(&node, &status)),
        Err(error) => unavailable(error.to_string()),
    }
}

/// Whether the chain has removed the node's cluster, as far as the node knows; its replica may not have come there.
fn is_removed(node: &NodeHandle, status: &ReplicaStatus) -> bool {
    status.removed || node.book.seat_of_cluster(&node.cluster) != Some(node.seat)
}

fn view_of(node: &NodeHandle, status: &ReplicaStatus) -> StatusView {
    let peer = |(seat, (status, connected)): (&standin_foundation::Seat, &(standin_consensus::Status, bool))| {
        PeerView { seat: seat.0, connected: *connected, view: status.view.0, committed: status.committed }
    };
    StatusView {
        chain: node.genesis.chain.to_string(),
        name: node.name.clone(),
        node: node.node,
        active: status.speaks,
        removed: is_removed(node, status),
        draining: node.modes.draining(),
        paused: status.paused,
        read_only: node.modes.read_only(),
        state_machine: VersionsView {
            known: node.state_machine.version(),
            active: node.reader.rules().version(),
            ordered: node.reader.rules().ordered_version(),
        },
        cluster: node.cluster.to_string(),
        seat: node.seat.0,
        epoch: status.status.epoch.0,
        epoch_ends: status.epoch_ends,
        view: status.status.view.0,
        changing_to: status.status.changing_to.map(|view| view.0),
        primary: status.primary.0,
        committed: status.status.committed,
        height: status.executed,
        stable: status.status.stable,
        pending_batches: status.pending.0,
        pending_bytes: status.pending.1,
        waiting: status.waiting,
        log_bytes: status.log_bytes,
        wrong_results: status.counters.wrong_results,
        equivocations: status.counters.equivocations,
        view_changes: status.counters.view_changes,
        transactions: status.counters.transactions,
        peers: status.peers.iter().map(peer).collect(),
    }
}

async fn genesis(node: web::Data<NodeHandle>) -> HttpResponse {
    HttpResponse::Ok().json(&*node.genesis)
}

/// The clients that the chain lists.
async fn clients(node: web::Data<NodeHandle>) -> HttpResponse {
    HttpResponse::Ok().json(&*node.reader.rules().clients.read())
}

#[derive(Debug, Deserialize)]
struct SubmitQuery {
    /// How long to wait for outcomes, in ms; 0 for not at all.
    #[serde(default)]
    wait_ms: u64,
}

/// Takes a batch's payload: count, then length and canonical bytes of each transaction.
async fn submit(node: web::Data<NodeHandle>, query: web::Query<SubmitQuery>, body: Bytes) -> HttpResponse {
    if node.modes.read_only() || node.modes.draining() {
        let why = if node.modes.draining() { "is going out of service" } else { "is read-only" };
        // Not 503: asking this node again helps nobody.
        return HttpResponse::Conflict().json(ErrorView::from(format!("{} {why}: ask another node", node.name)));
    }
    let transactions = match parse_transactions(&body) {
        Ok(transactions) => transactions,
        Err(error) => return bad(error),
    };
    let checked = match check(&node, transactions).await {
        Ok(checked) => checked,
        Err(busy) => return unavailable(busy),
    };
    let now = Instant::now();
    let let_in = |transaction: Transaction| match node.access.submits(&transaction, now) {
        Ok(()) => Ok(transaction),
        Err(denied) => Err((transaction.id(), denied.to_string())),
    };
    let checked: CheckedTransactions = checked.into_iter().map(|checked| checked.and_then(let_in)).collect();
    let taken: Vec<_> = checked.iter().filter_map(|checked| checked.as_ref().ok()).cloned().collect();
    let ids: Vec<_> = taken.iter().map(Transaction::id).collect();
    let outcomes = match node.replica.ask(Submit { transactions: taken }, Duration::from_secs(5)).await {
        Ok(Ok(outcomes)) => outcomes,
        Ok(Err(error)) => return unavailable(error.to_string()),
        Err(error) => return unavailable(error.to_string()),
    };
    let wait = Duration::from_millis(query.wait_ms).min(WAIT_MAX);
    let finished = settle_duplicates(&node, &ids, wait_for(outcomes, wait).await).await;
    let mut taken = ids.into_iter().zip(finished);
    let results: Vec<Submitted> = checked
        .into_iter()
        .filter_map(|checked| match checked {
            Ok(_) => taken.next().map(|(id, finished)| submitted(id, finished)),
            Err((id, why)) => Some(Submitted { id, height: None, index: None, outcome: None, refused: Some(why) }),
        })
        .collect();
    HttpResponse::Ok().json(results)
}

fn parse_transactions(body: &Bytes) -> Result<Vec<Transaction>, String> {
    use standin_foundation::Decoder;
    let mut input = Decoder::new(body);
    let malformed = |error: standin_foundation::MalformedBytes| format!("body: {error}");
    let count = input.length(BATCH_TRANSACTIONS_MAX).map_err(malformed)?;
    let mut transactions = Vec::with_capacity(count);
    for number in 0..count {
        let length = input.length(HTTP_BODY_BYTES_MAX).map_err(malformed)?;
        let start = input.offset();
        input.raw(length).map_err(malformed)?;
        let parsed = Transaction::parse(body.slice(start..start + length));
        transactions.push(parsed.map_err(|error| format!("transaction {number}: {error}"))?);
    }
    input.finish().map_err(malformed)?;
    Ok(transactions)
}

pub(crate) type CheckedTransactions = Vec<Result<Transaction, (TransactionId, String)>>;

/// Checks signatures on the pool, and what needs no state.
pub(crate) async fn check(node: &NodeHandle, transactions: Vec<Transaction>) -> Result<CheckedTransactions, String> {
    let (sender, receiver) = oneshot::channel();
    let (ingress, machine) = (Arc::clone(&node.ingress), Arc::clone(&node.state_machine));
    let job = move || {
        let check = |transaction: Transaction| {
            let id = transaction.id();
            if let Err(error) = ingress.signatures().check(&transaction) {
                return Err((id, error.to_string()));
            }
            match can_apply(&*machine, &transaction) {
                Ok(()) => Ok(transaction),
                Err(reject) => Err((id, reject.to_string())),
            }
        };
        // The client may have gone.
        drop(sender.send(transactions.into_iter().map(check).collect()));
    };
    node.pool.run(Urgency::Payloads, job).map_err(|error| error.to_string())?;
    receiver.await.map_err(|_| "the node is stopping".to_owned())
}

async fn wait_for(outcomes: Vec<oneshot::Receiver<Finished>>, wait: Duration) -> Vec<Option<Finished>> {
    let deadline = tokio::time::Instant::now() + wait;
    let mut finished = Vec::with_capacity(outcomes.len());
    for outcome in outcomes {
        finished.push(match wait.is_zero() {
            true => None,
            false => tokio::time::timeout_at(deadline, outcome).await.ok().and_then(Result::ok),
        });
    }
    finished
}

/// A client that asks again wants to know what became of its transaction the first time, not that this time it was refused.
/// Where the first place cannot be found, a duplicate stays one.
pub(crate) async fn settle_duplicates(
    node: &NodeHandle,
    ids: &[TransactionId],
    mut finished: Vec<Option<Finished>>,
) -> Vec<Option<Finished>> {
    // One that comes again when it has expired is told so, whatever became of it the first time.
    let is_duplicate = |finished: &Option<Finished>| {
        finished.as_ref().is_some_and(|finished| matches!(finished.outcome, Outcome::Duplicate | Outcome::Expired))
    };
    if !finished.iter().any(is_duplicate) {
        return finished;
    }
    let wanted: Vec<_> =
        ids.iter().zip(&finished).map(|(id, finished)| is_duplicate(finished).then_some(*id)).collect();
    let first_places = move |ledger: &Ledger| {
        let mut blocks = BTreeMap::new();
        let mut places = Vec::with_capacity(wanted.len());
        for id in wanted {
            places.push(match id {
                Some(id) => first_place(ledger, &id, &mut blocks)?,
                None => None,
            });
        }
        Ok(places)
    };
    if let Ok(places) = read(node, first_places).await {
        for (finished, place) in finished.iter_mut().zip(places) {
            *finished = place.or(finished.take());
        }
    }
    finished
}

fn first_place(
    ledger: &Ledger,
    id: &TransactionId,
    blocks: &mut BTreeMap<Height, Vec<Receipt>>,
) -> Result<Option<Finished>, HttpFault> {
    let Some((height, index)) = ledger.store.transaction(id)? else { return Ok(None) };
    if let Entry::Vacant(entry) = blocks.entry(height) {
        entry.insert(ledger.store.block(height)?.map(|block| block.receipts).unwrap_or_default());
    }
    let receipt = blocks.get(&height).and_then(|receipts| receipts.get(index));
    let is_it = |receipt: &&Receipt| receipt.transaction == *id;
    Ok(receipt.filter(is_it).map(|receipt| Finished { height, index, outcome: receipt.outcome.clone() }))
}

fn submitted(id: TransactionId, finished: Option<Finished>) -> Submitted {
    match finished {
        Some(Finished { height, index, outcome }) => {
            Submitted { id, height: Some(height), index: Some(index), outcome: Some(outcome), refused: None }
        }
        None => Submitted { id, height: None, index: None, outcome: None, refused: None },
    }
}

/// Runs a read on the executor's thread.
async fn read<T: Send + 'static>(
    node: &NodeHandle,
    read: impl FnOnce(&Ledger) -> Result<T, HttpFault> + Send + 'static,
) -> Result<T, HttpFault> {
    let (sender, receiver) = oneshot::channel();
    // The client may have gone.
    let taken = node.reader.read(move |ledger| drop(sender.send(read(ledger))));
    if !taken {
        return Err(HttpFault::Busy);
    }
    receiver.await.map_err(|_| HttpFault::Busy)?
}

enum HttpFault {
    Busy,
    NotFound(String),
    /// The node has blocks from this one on, and what was asked for may be in one before.
    Gone(Height, String),
    Store(StoreError),
    /// The state machine does not answer that.
    Refused(String),
}

impl From<StoreError> for HttpFault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

fn respond<T: Serialize>(result: Result<T, HttpFault>) -> HttpResponse {
    match result {
        Ok(value) => HttpResponse::Ok().json(value),
        Err(HttpFault::Busy) => unavailable("too many reads wait; try again in a moment".to_owned()),
        Err(HttpFault::NotFound(what)) => HttpResponse::NotFound().json(ErrorView::from(what)),
        Err(HttpFault::Gone(first, error)) => {
            HttpResponse::Gone().json(ErrorView { first: Some(first), ..error.into() })
        }
        Err(HttpFault::Refused(why)) => HttpResponse::UnprocessableEntity().json(ErrorView::from(why)),
        Err(HttpFault::Store(error)) => HttpResponse::InternalServerError().json(ErrorView::from(error.to_string())),
    }
}

async fn transaction(_: MayRead, node: web::Data<NodeHandle>, id: web::Path<String>) -> HttpResponse {
    if !node.indexes {
        return HttpResponse::NotFound().json(ErrorView::from(format!(
            "{} does not look transactions up by id (store.index_transactions): ask another node",
            node.name
        )));
    }
    let id: TransactionId = match id.parse() {
        Ok(id) => id,
        Err(error) => return bad(format!("{error}")),
    };
    respond(read(&node, move |ledger| transaction_view(ledger, &id)).await)
}

fn gone(first: Height) -> HttpFault {
    HttpFault::Gone(first, format!("this node has blocks from {first} on: ask for those, or ask another node"))
}

fn transaction_view(ledger: &Ledger, id: &TransactionId) -> Result<TransactionView, HttpFault> {
    let unknown = || HttpFault::NotFound(format!("no transaction {id} is in the chain"));
    let Some((height, _)) = ledger.store.transaction(id)? else {
        let first = ledger.store.first()?;
        // Whoever asks for the fate of a payment must not be told that there was none.
        let what = format!(
            "no transaction {id} is in the blocks from {first} on, and this node does not have those before: ask another node"
        );
        return Err(if first > Height(1) { HttpFault::Gone(first, what) } else { unknown() });
    };
    let block = ledger.store.block(height)?.ok_or_else(unknown)?;
    let batches: Vec<_> = block.payloads.iter().filter_map(|payload| Batch::parse(payload.clone()).ok()).collect();
    let place = batches.iter().enumerate().find_map(|(number, batch)| {
        batch.transactions().iter().position(|transaction| transaction.id() == *id).map(|index| (number, index))
    });
    let (batch_number, index_in_batch) = place.ok_or_else(unknown)?;
    let batch = batches.get(batch_number).ok_or_else(unknown)?;
    let before: usize = batches.iter().take(batch_number).map(|batch| batch.transactions().len()).sum();
    let index = before + index_in_batch;
    let receipt = block.receipts.get(index).cloned().ok_or_else(unknown)?;
    let (receipt_proof, checkpoint) = prove_receipt(ledger, height, &block.receipts, index)?;
    Ok(TransactionView {
        bytes: batch.transactions().get(index_in_batch).map(|t| hex::encode(t.bytes())).unwrap_or_default(),
        header: block.header,
        certificate: block.certificate,
        batch: batch_number,
        index_in_batch,
        inclusion: batch.prove_inclusion(index_in_batch).unwrap_or_default(),
        receipt,
        receipt_proof,
        checkpoint,
    })
}

type ProvenReceipt = (Option<ReceiptProof>, Option<CheckpointCertificate>);

fn prove_receipt(
    ledger: &Ledger,
    height: Height,
    receipts: &[Receipt],
    index: usize,
) -> Result<ProvenReceipt, StoreError> {
    let Some(checkpoint) = ledger.store.checkpoint_covering(height)? else { return Ok((None, None)) };
    let Some(certificate) = checkpoint.certificate else { return Ok((None, None)) };
    let first = ledger.store.checkpoint_before(height)?.next();
    let mut roots = Vec::new();
    for at in first.0..=certificate.result.height.0 {
        match ledger.store.block_without_body(Height(at))? {
            Some(block) => roots.push(block.receipts_root),
            None => return Ok((None, None)),
        }
    }
    let proof = ReceiptProof::new(height, receipts, index, &roots, (height.0 - first.0) as usize);
    Ok((proof, Some(certificate)))
}

async fn block(_: MayRead, node: web::Data<NodeHandle>, which: web::Path<String>) -> HttpResponse {
    let which: WhichBlock = match which.parse() {
        Ok(which) => which,
        Err(error) => return bad(error),
    };
    let view = move |ledger: &Ledger| {
        let height = match which {
            WhichBlock::Latest => ledger.chain.height(),
            WhichBlock::At(height) => height,
            WhichBlock::Hash(hash) => {
                let height = ledger.store.height_of(&hash)?;
                height.ok_or_else(|| HttpFault::NotFound(format!("no block with the hash {hash} is here")))?
            }
        };
        Ok(BlockView::from(stored_block(ledger, height)?))
    };
    respond(read(&node, view).await)
}

fn stored_block(ledger: &Ledger, height: Height) -> Result<StoredBlock, HttpFault> {
    if let Some(block) = ledger.store.block(height)? {
        return Ok(block);
    }
    let first = ledger.store.first()?;
    let is_below = height < first && height > Height(0);
    Err(if is_below { gone(first) } else { HttpFault::NotFound(format!("block {height} is not here")) })
}

/// All transactions of a title in a block, with the proof that there are no others.
async fn title(_: MayRead, node: web::Data<NodeHandle>, path: web::Path<(u64, String)>) -> HttpResponse {
    let (height, title) = path.into_inner();
    let title: Title = match title.parse() {
        Ok(title) => title,
        Err(error) => return bad(format!("title: {error}")),
    };
    respond(read(&node, move |ledger| title_view(ledger, Height(height), title)).await)
}

fn title_view(ledger: &Ledger, height: Height, title: Title) -> Result<TitleView, HttpFault> {
    let block = stored_block(ledger, height)?;
    let batches = block.payloads.into_iter().filter_map(|payload| Batch::parse(payload).ok());
    let of_title = |batch: Batch| {
        let wanted = batch.transactions().iter().filter(|transaction| transaction.title() == title);
        let transactions = wanted.map(|transaction| hex::encode(transaction.bytes())).collect();
        TitleBatch { transactions, completeness: batch.prove_completeness(title) }
    };
    let batches = batches.map(of_title).collect();
    Ok(TitleView { title, header: block.header, certificate: block.certificate, batches })
}

#[derive(Debug, Deserialize)]
struct ListQuery {
    /// The first height.
    from: u64,
    /// How many blocks.
    #[serde(default = "default_limit")]
    limit: u64,
}

fn default_limit() -> u64 {
    100
}

/// Lists blocks with receipts, by rising height, as far as there are, and fewer than were asked for where they are large. A list never begins
/// later than it was asked to.
async fn blocks(_: MayRead, node: web::Data<NodeHandle>, query: web::Query<ListQuery>) -> HttpResponse {
    let (from, limit) = (query.from.max(1), query.limit.min(LIST_MAX));
    let list = move |ledger: &Ledger| {
        let blocks = blocks_from(ledger, Height(from), limit)?.map_err(gone)?;
        Ok(blocks.into_iter().map(BlockView::from).collect::<Vec<_>>())
    };
    respond(read(&node, list).await)
}

fn bad(error: String) -> HttpResponse {
    HttpResponse::BadRequest().json(ErrorView::from(error))
}

fn unavailable(error: String) -> HttpResponse {
    HttpResponse::ServiceUnavailable().json(ErrorView::from(error))
}

/// Refuses a transaction that can never be applied, before it is ordered.
fn can_apply(machine: &dyn StateMachine, transaction: &Transaction) -> Result<(), Reject> {
    match system::is_system(transaction) {
        true => system::check(transaction),
        false => machine.check(transaction),
    }
}
