//! Topics: how they stand, who published what, and a websocket for each terminal.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use actix_web::{HttpRequest, HttpResponse, web};
use actix_ws::{AggregatedMessage, CloseReason};
use bytes::Bytes;
use serde::Deserialize;
use standin_foundation::{Digest, Height, PublicKey};
use standin_publisher::machine::session::SessionRefused;
use standin_publisher::machine::terminal::{Position, Published};
use standin_publisher::record;
use standin_publisher::terminal::{SUBPROTOCOL, ToTerminal};
use standin_publisher::{Fence, Sequence, Topic, WhichFrame};
use tokio::time::MissedTickBehavior;

use super::reading::MayRead;
use super::views::{FrameView, HoldingView, SourceView, TopicView, TopicsView};
use super::{ErrorView, HttpFault, bad, read, respond, unavailable};
use crate::node::{Begin, Feed, FeedError, NodeHandle, Publication};

/// Terminals that a node serves at one time: half of the connections that it takes.
const TERMINALS_MAX: u64 = 1_024;
/// A terminal that takes nothing for so long is cut.
const TAKEN_WITHIN: Duration = Duration::from_secs(10);
/// How often a terminal is asked whether it lives, and after how long without a word it is cut.
const HEARTBEAT: Duration = Duration::from_secs(5);
const SILENT_MAX: Duration = Duration::from_secs(20);
/// Bytes of what a terminal says.
const INBOUND_BYTES_MAX: usize = 1_024;
/// Holdings in one answer.
const HOLDINGS_MAX: u64 = 100;

fn topic_of(name: &str) -> Result<Topic, Box<HttpResponse>> {
    name.parse().map_err(|error| Box::new(bad(format!("{error}"))))
}

fn view_of(publication: &Publication, topic: Topic) -> Option<TopicView> {
    let standing = publication.board.get(topic)?;
    let kept = publication.journal.range(topic);
    Some(TopicView {
        topic,
        fence: standing.takeover.map(|takeover| takeover.fence).unwrap_or_default(),
        owner: standing.held.map(|held| held.owner),
        lease_ms: standing.held.map(|held| held.lease_ms),
        renewals: standing.held.map(|held| held.renewals),
        queued: standing.queued,
        published: standing.published.upto,
        kept_from: kept.map(|(first, _)| first),
        publishes_here: standing.publishes(publication.board.now()),
        lacks: standing.lacks,
    })
}

/// All topics.
pub(super) async fn topics(_: MayRead, node: web::Data<NodeHandle>) -> HttpResponse {
    if !node.topics_current().await {
        return not_live();
    }
    let all = node.publication.board.all();
    let topics: Vec<_> = all.into_iter().filter_map(|(topic, _)| view_of(&node.publication, topic)).collect();
    let orders = read(&node, |ledger| Ok(record::register(ledger.chain.state()).orders)).await;
    respond(orders.map(|orders| TopicsView { orders, topics }))
}

/// One topic.
pub(super) async fn topic(_: MayRead, node: web::Data<NodeHandle>, name: web::Path<String>) -> HttpResponse {
    let topic = match topic_of(&name) {
        Ok(topic) => topic,
        Err(answer) => return *answer,
    };
    if !node.topics_current().await {
        return not_live();
    }
    respond(view_of(&node.publication, topic).ok_or_else(|| unknown(topic)))
}

fn not_live() -> HttpResponse {
    unavailable("this node does not know now how topics stand: ask another one, or again in a moment".to_owned())
}

fn unknown(topic: Topic) -> HttpFault {
    HttpFault::NotFound(format!("there is no topic `{topic}`"))
}

#[derive(Debug, Deserialize)]
pub(super) struct WhichHolding {
    /// The datum whose holding is wanted.
    sequence: Option<u64>,
    /// Older ones than of this fence.
    before: Option<u64>,
}

/// Who published a topic under which fences: the newest holdings, those before a fence, or the one of a datum.
pub(super) async fn holdings(
    _: MayRead,
    node: web::Data<NodeHandle>,
    name: web::Path<String>,
    which: web::Query<WhichHolding>,
) -> HttpResponse {
    let topic = match topic_of(&name) {
        Ok(topic) => topic,
        Err(answer) => return *answer,
    };
    let WhichHolding { sequence, before } = which.into_inner();
    respond(
        read(&node, move |ledger| {
            let state = ledger.chain.state();
            let record = record::topic(state, topic).ok_or_else(|| unknown(topic))?;
            let view = |holding: record::Holding| HoldingView {
                owner: holding.owner,
                fence: holding.fence,
                granted: holding.granted,
                from: holding.from,
                upto: Some(holding.upto).filter(|upto| *upto >= holding.from),
                chain: holding.chain,
                ended: holding.ended.map(|(reason, _)| reason),
                ended_at: holding.ended.map(|(_, height)| height),
            };
            Ok(match sequence {
                Some(sequence) => {
                    record::holding_of(state, topic, Sequence(sequence)).into_iter().map(view).collect::<Vec<_>>()
                }
                None => {
                    let newest = record.lock.fence.0.min(before.map_or(u64::MAX, |before| before.saturating_sub(1)));
                    let fences = newest.saturating_sub(HOLDINGS_MAX - 1).max(1)..=newest;
                    fences.rev().filter_map(|fence| record::holding(state, topic, Fence(fence))).map(view).collect()
                }
            })
        })
        .await,
    )
}

/// A frame: the one that a datum is in, or the newest with a content of this hash. Asked for `application/octet-stream`, the content itself, of
/// which the hash is BLAKE3.
pub(super) async fn frame(
    _: MayRead,
    node: web::Data<NodeHandle>,
    request: HttpRequest,
    path: web::Path<(String, String)>,
) -> HttpResponse {
    let (name, which) = path.into_inner();
    let topic = match topic_of(&name) {
        Ok(topic) => topic,
        Err(answer) => return *answer,
    };
    let which = match which.parse() {
        Ok(which) => which,
        Err(error) => return bad(format!("{error}")),
    };
    if !node.topics_current().await {
        return not_live();
    }
    let journal = node.publication.journal.clone();
    // Files are read.
    let found = web::block(move || {
        let found = match which {
            WhichFrame::Of(sequence) => journal.frame_of(topic, sequence),
            WhichFrame::Hash(hash) => journal.content(topic, &hash),
        };
        (found, journal.range(topic))
    });
    let Ok((found, kept)) = found.await else {
        return unavailable("the read did not end; try again in a moment".to_owned());
    };
    let (entry, content) = match found {
        Ok(Some(found)) => found,
        Ok(None) if node.publication.board.get(topic).is_none() => return respond::<()>(Err(unknown(topic))),
        Ok(None) => {
            let kept = kept.map_or_else(|| "nothing".to_owned(), |(first, last)| format!("data {first} to {last}"));
            let what = format!("this node keeps {kept} of topic `{topic}`, and {which} is not there: ask another node");
            return respond::<()>(Err(HttpFault::NotFound(what)));
        }
        Err(error) => return refused(&FeedError::from(error)),
    };
    let accepts = request.headers().get(actix_web::http::header::ACCEPT).and_then(|accepts| accepts.to_str().ok());
    match accepts {
        Some("application/octet-stream") => {
            HttpResponse::Ok().content_type("application/octet-stream").body(content.bytes().clone())
        }
        _ => respond(Ok(FrameView::of(topic, &entry, &content))),
    }
}

/// How far a source has come.
pub(super) async fn source(_: MayRead, node: web::Data<NodeHandle>, path: web::Path<(String, String)>) -> HttpResponse {
    let (name, key) = path.into_inner();
    let topic = match topic_of(&name) {
        Ok(topic) => topic,
        Err(answer) => return *answer,
    };
    let key: PublicKey = match key.parse() {
        Ok(key) => key,
        Err(error) => return bad(format!("{error}")),
    };
    respond(
        read(&node, move |ledger| {
            let record = record::source(ledger.chain.state(), topic, &key);
            Ok(SourceView { session: record.session, next_nonce: record.next })
        })
        .await,
    )
}

/// Where a terminal stands.
#[derive(Debug, Deserialize)]
pub(super) struct Where {
    /// It begins with the frame that this datum is in; with the next that comes without anything.
    from: Option<u64>,
    /// Or it goes on behind this datum, …
    last: Option<u64>,
    /// … whose chain value was this, …
    chain: Option<Digest>,
    /// … under this fence.
    fence: Option<u64>,
    /// Texts of JSON in the place of binary messages.
    #[serde(default)]
    json: bool,
    /// The terminal is connected to other nodes, too: what another server publishes comes a little later, unless the terminal has said that it has it.
    #[serde(default)]
    late: bool,
}

/// A terminal.
pub(super) async fn follow(
    reader: MayRead,
    node: web::Data<NodeHandle>,
    request: HttpRequest,
    body: web::Payload,
    name: web::Path<String>,
    place: web::Query<Where>,
) -> Result<HttpResponse, actix_web::Error> {
    let topic = match topic_of(&name) {
        Ok(topic) => topic,
        Err(answer) => return Ok(*answer),
    };
    let publication = node.publication.clone();
    node.topics_current().await;
    if publication.board.counted().terminals.load(Ordering::Relaxed) >= TERMINALS_MAX {
        return Ok(unavailable("too many terminals are connected to this node: ask another one".to_owned()));
    }
    let (feed, position) = match Feed::begin(publication, topic, place.begin(), place.late) {
        Ok(begun) => begun,
        Err(error) => return Ok(refused(&error)),
    };
    let (response, socket, stream) = actix_ws::handle_with_protocols(&request, body, &[SUBPROTOCOL])?;
    let stream = stream.max_frame_size(INBOUND_BYTES_MAX).aggregate_continuations();
    let (node, json) = (node.get_ref().clone(), place.json);
    let served = Served { reader, node, feed, socket, json };
    actix_web::rt::spawn(served.run(stream.max_continuation_size(INBOUND_BYTES_MAX), position));
    Ok(response)
}

impl Where {
    fn begin(&self) -> Begin {
        match (self.last, self.from) {
            (Some(last), _) => {
                let (chain, fence) = (self.chain.unwrap_or_default(), Fence(self.fence.unwrap_or(0)));
                Begin::Behind(Position { fence, last: Sequence(last), chain, ..Position::default() })
            }
            (None, Some(from)) => Begin::At(Sequence(from)),
            (None, None) => Begin::Now,
        }
    }
}

fn refused(error: &FeedError) -> HttpResponse {
    let what = error.to_string();
    match error {
        FeedError::Unknown(_) => respond::<()>(Err(HttpFault::NotFound(what))),
        FeedError::Refused(SessionRefused::Forgotten { first, .. }) => {
            HttpResponse::Gone().json(ErrorView { first: Some(Height(first.0)), ..what.into() })
        }
        FeedError::Ahead { .. } => HttpResponse::RangeNotSatisfiable().json(ErrorView::from(what)),
        FeedError::Refused(_) => HttpResponse::Conflict().json(ErrorView::from(what)),
        _ => unavailable(what),
    }
}

/// A terminal that is served.
struct Served {
    reader: MayRead,
    node: NodeHandle,
    feed: Feed,
    socket: actix_ws::Session,
    json: bool,
}

/// Why a terminal is let go.
enum End {
    /// It has gone, or takes nothing.
    Gone,
    /// It is told why.
    Told(FeedError),
    /// The node stops, or it may not read any more.
    Closed(&'static str),
}

impl Served {
    async fn run(mut self, mut stream: actix_ws::AggregatedMessageStream, position: Position) {
        let end = match self.send(&ToTerminal::Start(position)).await {
            Ok(()) => self.serve(&mut stream).await,
            Err(end) => end,
        };
        let description = match &end {
            End::Gone => None,
            End::Told(refused) => {
                let first = match refused {
                    FeedError::Refused(SessionRefused::Forgotten { first, .. }) => Some(*first),
                    _ => None,
                };
                drop(self.send(&ToTerminal::Refused { why: refused.to_string(), first }).await);
                Some(refused.to_string())
            }
            End::Closed(why) => Some((*why).to_owned()),
        };
        if !matches!(end, End::Closed(_)) {
            self.node.publication.board.counted().cut.fetch_add(1, Ordering::Relaxed);
        }
        let reason = CloseReason { code: actix_ws::CloseCode::Normal, description };
        drop(tokio::time::timeout(Duration::from_secs(1), self.socket.close(Some(reason))).await);
    }

    async fn serve(&mut self, stream: &mut actix_ws::AggregatedMessageStream) -> End {
        let mut stopping = self.node.console.stopping();
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        loop {
            if let Err(end) = self.send_what_it_may_have().await {
                return end;
            }
            tokio::select! {
                biased;
                _ = stopping.wait_for(|stopping| *stopping) => return End::Closed("the node stops"),
                changed = self.feed.changed() => if changed.is_err() { return End::Closed("the node stops") },
                said = stream.recv() => {
                    heard = Instant::now();
                    match said {
                        Some(Ok(AggregatedMessage::Text(text))) => match text.parse::<u64>() {
                            Ok(last) => self.feed.acknowledge(Sequence(last)),
                            Err(_) => return End::Closed("a terminal says the last sequence that it has, as a number, and nothing else"),
                        },
                        Some(Ok(AggregatedMessage::Ping(bytes))) => {
                            if !matches!(tokio::time::timeout(TAKEN_WITHIN, self.socket.pong(&bytes)).await, Ok(Ok(()))) {
                                return End::Gone;
                            }
                        }
                        Some(Ok(AggregatedMessage::Pong(_))) => {}
                        Some(Ok(AggregatedMessage::Binary(_))) => return End::Closed("a terminal says numbers, as texts"),
                        Some(Ok(AggregatedMessage::Close(_)) | Err(_)) | None => return End::Gone,
                    }
                }
                _ = heartbeat.tick() => {
                    if !self.reader.still_may(&self.node) {
                        return End::Closed("the role `read` is needed");
                    }
                    let pinged = tokio::time::timeout(TAKEN_WITHIN, self.socket.ping(b"")).await;
                    if heard.elapsed() > SILENT_MAX || !matches!(pinged, Ok(Ok(()))) {
                        return End::Gone;
                    }
                }
            }
        }
    }

    /// Sends until there is nothing more that it may have, or it has enough to do.
    async fn send_what_it_may_have(&mut self) -> Result<(), End> {
        while let Some(message) = self.feed.next_message().map_err(End::Told)? {
            if let ToTerminal::Frame(Published { entry, .. }) = &message {
                let counted = self.node.publication.board.counted();
                counted.sent.fetch_add(u64::from(entry.count), Ordering::Relaxed);
            }
            self.send(&message).await?;
        }
        Ok(())
    }

    async fn send(&mut self, message: &ToTerminal) -> Result<(), End> {
        let sent = match self.json {
            true => tokio::time::timeout(TAKEN_WITHIN, self.socket.text(message.to_json())).await,
            false => tokio::time::timeout(TAKEN_WITHIN, self.socket.binary(Bytes::from(message.to_bytes()))).await,
        };
        if matches!(sent, Ok(Ok(()))) { Ok(()) } else { Err(End::Gone) }
    }
}
