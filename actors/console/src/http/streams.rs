//! What a stream of the console holds now, in one answer: for those who are to find out later what has happened.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::Value;

use super::{Console, not_logged_in, refused};
use crate::actor::{AUDIT, EVENTS, LOGS, Read};
use crate::machine::{Part, Want};
use crate::protocol::Filter;

/// The actor answers within this time.
const READ_TIME: Duration = Duration::from_secs(5);

#[derive(Debug, Serialize)]
struct Stream {
    /// The newest entry's number.
    seq: u64,
    /// The entries that are kept, the oldest first.
    entries: Vec<Value>,
}

pub(super) async fn stream(
    console: web::Data<Console>,
    request: HttpRequest,
    topic: web::Path<String>,
) -> HttpResponse {
    if console.login_of(&request).is_none() {
        return not_logged_in();
    }
    let topic = topic.into_inner();
    let want = Want { topic: topic.clone(), after: None, filter: Filter::default() };
    let Ok(reading) = console.actor.ask(Read(vec![want]), READ_TIME).await else {
        return refused(HttpResponse::ServiceUnavailable(), "the console does not answer: try again in a moment");
    };
    match reading.parts.into_iter().next() {
        Some(Part::Whole { sequence: seq, data: Value::Array(entries), .. }) => {
            HttpResponse::Ok().json(Stream { seq, entries })
        }
        _ => {
            let what = format!("there is no stream `{topic}`: {EVENTS}, {LOGS} and {AUDIT} are kept");
            refused(HttpResponse::NotFound(), what)
        }
    }
}
