//! Watches: what changes under a range of keys, as it happens.
//!
//! A watch begins with what comes: never at a revision of the past, which etcd would hold back for up to 100 ms. So whoever wants to miss nothing begins
//! the watch first, and reads then.

use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{Stream, StreamExt as _};
use serde::Deserialize;
use serde_json::json;

use crate::answers::Entry;
use crate::client::{ANSWER_BYTES_MAX, Client, Error};

/// A watch is over after this time, and is to be begun anew: one whose other end has gone without a word says nothing for ever.
const LASTS: Duration = Duration::from_secs(20);

/// What has changed under one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// It was put.
    Put(Entry),
    /// It is gone.
    Gone(Entry),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Line {
    result: Told,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Told {
    canceled: bool,
    events: Vec<Event>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Event {
    /// `PUT` is left out.
    #[serde(rename = "type")]
    kind: String,
    kv: Entry,
}

type Body = Pin<Box<dyn Stream<Item = Result<Bytes, awc::error::PayloadError>>>>;

/// A watch. It belongs to the thread that made it.
pub struct Watch {
    body: Body,
    begun: BytesMut,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl Client {
    /// Watches the keys from one to before another, both encoded. It has begun when this returns.
    pub async fn watch(&self, from: &str, to: &str) -> Result<Watch, Error> {
        let endpoint = self.endpoint().ok_or_else(|| Error::Unreachable("no endpoint is configured".to_owned()))?;
        let unreachable = |why: String| Error::Unreachable(format!("{endpoint}: {why}"));
        let body = json!({ "create_request": { "key": from, "range_end": to } });
        let sent = self.request(&endpoint, "watch").send_json(&body);
        // The head comes with the first line, which says that the watch is there.
        let response = sent.await.map_err(|error| unreachable(error.to_string()))?;
        let response = response.timeout(LASTS);
        if !response.status().is_success() {
            return Err(unreachable(response.status().to_string()));
        }
        let mut watch = Watch { body: Box::pin(response), begun: BytesMut::new() };
        watch.next().await?;
        Ok(watch)
    }
}

impl Watch {
    /// What has changed next, in order; none when the watch is over.
    pub async fn next(&mut self) -> Result<Option<Vec<Changed>>, Error> {
        loop {
            if let Some(end) = self.begun.iter().position(|byte| *byte == b'\n') {
                let line = self.begun.split_to(end + 1);
                return changes(&line).map(Some);
            }
            if self.begun.len() > ANSWER_BYTES_MAX {
                return Err(Error::Unreachable("a watch says more than can be read at once".to_owned()));
            }
            match self.body.next().await {
                Some(Ok(more)) => self.begun.extend_from_slice(&more),
                Some(Err(awc::error::PayloadError::Io(error))) if error.kind() == std::io::ErrorKind::TimedOut => {
                    return Ok(None);
                }
                Some(Err(error)) => return Err(Error::Unreachable(format!("a watch: {error}"))),
                None => return Err(Error::Unreachable("a watch has ended".to_owned())),
            }
        }
    }
}

fn changes(line: &[u8]) -> Result<Vec<Changed>, Error> {
    let read: Line =
        serde_json::from_slice(line).map_err(|error| Error::Unreachable(format!("a watch says: {error}")))?;
    if read.result.canceled {
        return Err(Error::Unreachable("a watch was cancelled".to_owned()));
    }
    let change = |event: Event| match event.kind.as_str() {
        "DELETE" => Changed::Gone(event.kv),
        _ => Changed::Put(event.kv),
    };
    Ok(read.result.events.into_iter().map(change).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_watch_says_is_read() {
        let begun = br#"{"result":{"header":{"revision":"7"},"created":true}}"#;
        assert_eq!(changes(begun).unwrap(), []);
        let both = br#"{"result":{"events":[{"kv":{"key":"YQ==","create_revision":"8","mod_revision":"8","value":"eA=="}},{"type":"DELETE","kv":{"key":"YQ==","mod_revision":"9"}}]}}"#;
        let [Changed::Put(put), Changed::Gone(gone)] = &changes(both).unwrap()[..] else { panic!("two changes") };
        assert_eq!((put.create_revision, put.value.as_str(), gone.key.as_str()), (8, "eA==", "YQ=="));
        assert!(changes(br#"{"result":{"canceled":true}}"#).is_err());
        assert!(changes(b"<html>").is_err());
    }
}
