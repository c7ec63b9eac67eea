//! Blocks as server-sent events: from a height on, each once, and then as they come.

use std::convert::Infallible;
use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::stream;
use serde::Deserialize;
use standin_foundation::Height;

use super::reading::MayRead;
use super::{BlockView, HttpFault, gone, respond, unavailable};
use crate::node::{BlocksError, Follower, NodeHandle};

/// Without a block for so long a comment tells that the node lives.
const SILENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Deserialize)]
pub(super) struct From {
    /// The first height; the next block that comes without it.
    from: Option<u64>,
}

/// Follows the chain. Whoever comes back with the number of the last block that it has (`Last-Event-ID`) misses none.
pub(super) async fn stream(
    _: MayRead,
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
        (None, None) => node.executed.borrow().next(),
    };
    let mut follower = Follower::new(&node, from);
    match follower.look().await {
        Ok(_) => {}
        Err(BlocksError::Gone { first }) => return respond::<()>(Err(gone(first))),
        Err(error) => return respond::<()>(Err(HttpFault::Refused(error.to_string()))),
    }
    let stopping = node.console.stopping();
    let body = stream::unfold((follower, stopping, place), |(mut follower, mut stopping, place)| async move {
        let told = tokio::select! {
            biased;
            _ = stopping.wait_for(|stopping| *stopping) => return None,
            next = tokio::time::timeout(SILENCE, follower.next()) => match next {
                Ok(Ok(block)) => told(&BlockView::from(block))?,
                // It comes back, and is told why it gets nothing.
                Ok(Err(_)) => return None,
                Err(_) => Bytes::from_static(b":\n\n"),
            },
        };
        Some((Ok::<_, Infallible>(told), (follower, stopping, place)))
    });
    HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .streaming(body)
}

fn told(block: &BlockView) -> Option<Bytes> {
    let data = serde_json::to_string(block).ok()?;
    Some(format!("id: {}\ndata: {data}\n\n", block.height).into())
}
