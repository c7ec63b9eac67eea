//! What happens, as server-sent events: for scripts, and for those who have no websocket.

use std::convert::Infallible;
use std::time::Duration;

use actix_web::http::header;
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::stream;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};

use super::{Console, Seated, refused};
use crate::actor::{EVENTS, Read, Reading};
use crate::machine::{Part, Want};
use crate::protocol::{FRAME_MS, Filter};

/// The actor answers within this time, or the stream ends: whoever follows comes back.
const READ_TIME: Duration = Duration::from_secs(1);
/// Frames without an event after which a comment tells that the node lives.
const SILENCE_MAX: u32 = 100;

/// Follows what happens: each event has a number, and whoever comes back with the last one's (`Last-Event-ID`) misses nothing that the
/// node still has. Fields in the query are values that an event must have.
pub(super) async fn events(
    console: web::Data<Console>,
    request: HttpRequest,
    filter: web::Query<Filter>,
) -> HttpResponse {
    let Some(seated) = console.seat("events") else {
        return refused(HttpResponse::ServiceUnavailable(), "too many follow the events: end one of them");
    };
    let filter = filter.into_inner();
    if !filter.is_bounded() {
        return refused(HttpResponse::BadRequest(), "the query has too many fields");
    }
    let last = request.headers().get("last-event-id").and_then(|id| id.to_str().ok()?.split_once('/'));
    let since = last.and_then(|(epoch, sequence)| Some((epoch.to_owned(), sequence.parse().ok()?)));
    let mut ticks = tokio::time::interval(Duration::from_millis(FRAME_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stopping = console.stopping.subscribe();
    let want = Want { topic: EVENTS.to_owned(), after: None, filter };
    let console = console.get_ref().clone();
    let follower = Follower { console, since, want, epoch: None, silence: 0, ticks, stopping, _seated: seated };
    let body = stream::unfold(follower, |mut follower| async move {
        let told = follower.next().await?;
        Some((Ok::<_, Infallible>(told), follower))
    });
    HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .streaming(body)
}

/// Reads when there is room for more, and not before.
struct Follower {
    console: Console,
    /// What it had when it came: the life of the node, and the number.
    since: Option<(String, u64)>,
    want: Want,
    epoch: Option<String>,
    silence: u32,
    ticks: Interval,
    stopping: watch::Receiver<bool>,
    _seated: Seated,
}

impl Follower {
    async fn next(&mut self) -> Option<Bytes> {
        if self.epoch.is_none() {
            let Reading { epoch, .. } = self.read(Vec::new()).await?;
            self.want.after = self.since.take().filter(|(since, _)| *since == epoch).map(|(_, sequence)| sequence);
            self.epoch = Some(epoch);
        }
        loop {
            tokio::select! {
                biased;
                _ = self.stopping.wait_for(|stopping| *stopping) => return None,
                _ = self.ticks.tick() => {}
            }
            let reading = self.read(vec![self.want.clone()]).await?;
            if self.epoch.as_ref() != Some(&reading.epoch) {
                return None;
            }
            let (sequence, added) = match reading.parts.into_iter().next() {
                Some(Part::Whole { sequence, data: Value::Array(entries), .. }) => (sequence, entries),
                Some(Part::Entries { entries: (_, sequence), added, .. }) => (sequence, added),
                _ => (self.want.after.unwrap_or_default(), Vec::new()),
            };
            self.want.after = Some(sequence);
            self.silence += 1;
            if !added.is_empty() {
                self.silence = 0;
                return Some(told(&reading.epoch, sequence, &added));
            }
            if self.silence >= SILENCE_MAX {
                self.silence = 0;
                return Some(Bytes::from_static(b":\n\n"));
            }
        }
    }

    async fn read(&self, wants: Vec<Want>) -> Option<Reading> {
        self.console.actor.ask(Read(wants), READ_TIME).await.ok()
    }
}

/// Those that came together have one number, which stands with the last: whoever has not got that gets them again.
fn told(epoch: &str, sequence: u64, events: &[Value]) -> Bytes {
    let last = events.len().saturating_sub(1);
    let lines = events.iter().enumerate().map(|(number, event)| {
        let id = if number == last { format!("id: {epoch}/{sequence}\n") } else { String::new() };
        format!("{id}data: {event}\n\n")
    });
    lines.collect::<String>().into()
}
