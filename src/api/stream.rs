//! Blocks as server-sent events: from a height on, each once, and then as they come.

use std::convert::Infallible;
use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::stream;
use serde::Deserialize;
use standin_foundation::Height;
use tokio::sync::mpsc;

use super::reading::MayRead;
use super::{BlockView, HttpFault, gone, read, respond, unavailable};
use crate::node::{BlocksError, Follower, NodeHandle};

/// Without a block for so long a comment tells that the node lives.
const SILENCE: Duration = Duration::from_secs(10);

/// Events that wait to be sent.
const EVENTS_AHEAD: usize = 2;
/// A follower that takes none within this time is let go.
const TAKEN_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug, Deserialize)]
pub(super) struct From {
    /// The first height; the next block that comes without it.
    from: Option<u64>,
}

/// Follows the chain. Whoever comes back with the number of the last block that it has (`Last-Event-ID`) misses none.
pub(super) async fn stream(
    reader: MayRead,
    node: web::Data<NodeHandle>,
    request: HttpRequest,
    query: web::Query<From>,
) -> HttpResponse {
    let Ok(place) = std::sync::Arc::clone(&node.followers).try_acquire_owned() else {
        return unavailable("too many follow the blocks of this node: ask another one".to_owned());
    };
    let last = request.headers().get("last-event-id").and_then(|id| id.to_str().ok()?.parse::<u64>().ok());
    let from = match (last, query.from) {
        (Some(last), _) => Height(last).next(),
        (None, Some(from)) => Height(from),
        (None, None) => match read(&node, |ledger| Ok(ledger.chain.height().next())).await {
            Ok(next) => next,
            Err(fault) => return respond::<()>(Err(fault)),
        },
    };
    let mut follower = Follower::new(&node, from);
    match follower.look().await {
        Ok(_) => {}
        Err(BlocksError::Gone { first }) => return respond::<()>(Err(gone(first))),
        Err(error) => return respond::<()>(Err(HttpFault::Refused(error.to_string()))),
    }
    let (sender, receiver) = mpsc::channel(EVENTS_AHEAD);
    let mut stopping = node.console.stopping();
    actix_web::rt::spawn(async move {
        let _place = place;
        loop {
            let event = tokio::select! {
                biased;
                _ = stopping.wait_for(|stopping| *stopping) => return,
                next = tokio::time::timeout(SILENCE, follower.next()) => match next {
                    // What it may read now, it need not be allowed to read for ever.
                    Ok(Ok(block)) if reader.still_may(&node) => told(&BlockView::from(block)),
                    // It comes back, and is told why it gets nothing.
                    Ok(_) => return,
                    Err(_) => Some(Bytes::from_static(b":\n\n")),
                },
            };
            let Some(event) = event else { return };
            // Whoever reads nothing for so long gives its place to others.
            let taken = tokio::select! {
                biased;
                _ = stopping.wait_for(|stopping| *stopping) => return,
                taken = tokio::time::timeout(TAKEN_WITHIN, sender.send(Ok::<_, Infallible>(event))) => taken,
            };
            if !matches!(taken, Ok(Ok(()))) {
                return;
            }
        }
    });
    let events = stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
    HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .streaming(events)
}

fn told(block: &BlockView) -> Option<Bytes> {
    let data = serde_json::to_string(block).ok()?;
    Some(format!("id: {}\ndata: {data}\n\n", block.height).into())
}
