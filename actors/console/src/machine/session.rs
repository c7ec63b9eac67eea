//! One websocket: what was subscribed to, how far each topic is, and when it is to be closed.

use std::collections::BTreeMap;

use standin_foundation::Millis;

use super::{Part, Want};
use crate::protocol::{ClientMessage, Delta, FRAME_MS, Filter, Refusal, ServerMessage};

/// Something comes of each end at least this often, in ms.
pub(crate) const HEARTBEAT_MS: u64 = 10_000;
/// Heartbeats that may be missed.
const MISSES_MAX: u64 = 2;
/// A message that has not left after this time, in ms, never will: the reader is too slow.
const SEND_MS: u64 = 5_000;
/// Messages a second, over some seconds, that a console may send.
const INBOUND_PER_SECOND: u64 = 20;
/// Topics that a console may be subscribed to.
const TOPICS_MAX: usize = 32;

/// Why a websocket is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// The node stops (1012): come back.
    Restart,
    /// Nothing was heard for too long (1001).
    Gone,
    /// What was sent does not leave (1013).
    TooSlow,
    /// A frame is too large (1009).
    TooLarge,
    /// The login has expired (4401).
    LogIn,
    /// Too many messages (4429).
    TooMany,
    /// Too many consoles are open (4503): come back later.
    Full,
}

impl Close {
    /// The code in the closing frame.
    pub fn code(self) -> u16 {
        match self {
            Self::Restart => 1012,
            Self::Gone => 1001,
            Self::TooSlow => 1013,
            Self::TooLarge => 1009,
            Self::LogIn => 4401,
            Self::TooMany => 4429,
            Self::Full => 4503,
        }
    }

    /// What it says there.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Restart => "the node stops",
            Self::Gone => "nothing was heard",
            Self::TooSlow => "the reader is too slow",
            Self::TooLarge => "the frame is too large",
            Self::LogIn => "log in again",
            Self::TooMany => "too many messages",
            Self::Full => "too many consoles are open at this node, or of this user: close one",
        }
    }
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Send this. The session is told by [`Session::sent`] when it has left.
    Send(ServerMessage),
    /// Send a ping of the websocket's own.
    Ping,
    /// Close the websocket.
    Close(Close),
}

/// A websocket.
#[derive(Debug)]
pub struct Session {
    /// This life of the node.
    epoch: String,
    expires: Millis,
    subscriptions: BTreeMap<String, Subscription>,
    /// When the oldest message began to leave that has not left.
    leaving_since: Option<Millis>,
    /// Messages that have not left.
    leaving: usize,
    heard: Millis,
    pinged: Millis,
    read: Option<Millis>,
    /// The second, and the messages in it.
    inbound: (u64, u64),
}

#[derive(Debug)]
struct Subscription {
    after: Option<u64>,
    filter: Filter,
}

impl Session {
    /// A websocket that was just opened, by somebody whose login ends at `expires`, to a node in the life `epoch`.
    pub fn new(epoch: String, expires: Millis, now: Millis) -> Self {
        Self {
            epoch,
            expires,
            subscriptions: BTreeMap::new(),
            leaving_since: None,
            leaving: 0,
            heard: now,
            pinged: now,
            read: None,
            inbound: (0, 0),
        }
    }

    /// A text frame came.
    pub fn received(&mut self, now: Millis, text: &str) -> Vec<Effect> {
        self.heard = now;
        let second = now.0 / 1_000;
        self.inbound = (second, if self.inbound.0 == second { self.inbound.1 + 1 } else { 1 });
        if self.inbound.1 > INBOUND_PER_SECOND {
            return vec![Effect::Close(Close::TooMany)];
        }
        match serde_json::from_str(text) {
            Ok(message) => self.asked(message),
            Err(error) => vec![refuse(None, "malformed", format!("the message cannot be read: {error}"), "")],
        }
    }

    /// Something else came: a pong.
    pub fn heard(&mut self, now: Millis) {
        self.heard = now;
    }

    fn asked(&mut self, message: ClientMessage) -> Vec<Effect> {
        match message {
            ClientMessage::Ping { id } => vec![done(id)],
            ClientMessage::Unsub { topic } => {
                self.subscriptions.remove(&topic);
                Vec::new()
            }
            ClientMessage::Sub { id, filter, .. } if !filter.is_bounded() => {
                vec![refuse(Some(id), "filter_too_large", "the filter has too many fields".to_owned(), "")]
            }
            ClientMessage::Sub { id, topic, .. }
                if self.subscriptions.len() >= TOPICS_MAX && !self.subscriptions.contains_key(&topic) =>
            {
                let what = format!("at most {TOPICS_MAX} topics can be subscribed to");
                vec![refuse(Some(id), "too_many_topics", what, "end another subscription first")]
            }
            ClientMessage::Sub { id, topic, filter, since } => {
                let after = since.filter(|since| since.epoch == self.epoch).map(|since| since.seq);
                self.subscriptions.insert(topic, Subscription { after, filter });
                vec![done(id)]
            }
        }
    }

    /// What is to be read for the next frame; nothing if it is not time, or if the last one has not left.
    pub fn wants(&mut self, now: Millis) -> Vec<Want> {
        if self.leaving > 0 || self.read.is_some_and(|read| now - read < FRAME_MS) {
            return Vec::new();
        }
        self.read = Some(now);
        let want = |(topic, subscription): (&String, &Subscription)| Want {
            topic: topic.clone(),
            after: subscription.after,
            filter: subscription.filter.clone(),
        };
        self.subscriptions.iter().map(want).collect()
    }

    /// What was read. `unix_ms` is the node's clock.
    pub fn read(&mut self, unix_ms: u64, parts: Vec<Part>) -> Vec<Effect> {
        let mut effects = Vec::new();
        let mut deltas = Vec::new();
        for part in parts {
            match part {
                Part::Whole { topic, sequence, data } if self.is_at(&topic, sequence) => {
                    effects.push(Effect::Send(ServerMessage::Snap { topic, seq: sequence, data }));
                }
                Part::Rows { topic, changes: (from, to), patch } if self.is_at(&topic, to) => {
                    deltas.push(Delta::Rows { topic, from, to, patch });
                }
                Part::Entries { topic, entries: (from, to), added, skipped } if self.is_at(&topic, to) => {
                    deltas.push(Delta::Entries { topic, from, to, add: added, skipped });
                }
                Part::Unknown(topic) => {
                    self.subscriptions.remove(&topic);
                    let known = "the hello says which there are";
                    effects.push(refuse(None, "unknown_topic", format!("there is no topic `{topic}`"), known));
                }
                // The subscription ended meanwhile.
                Part::Whole { .. } | Part::Rows { .. } | Part::Entries { .. } => {}
            }
        }
        if !deltas.is_empty() {
            effects.push(Effect::Send(ServerMessage::Frame { at_ms: unix_ms, d: deltas }));
        }
        effects
    }

    fn is_at(&mut self, topic: &str, sequence: u64) -> bool {
        match self.subscriptions.get_mut(topic) {
            Some(subscription) => {
                subscription.after = Some(sequence);
                true
            }
            None => false,
        }
    }

    /// A message is about to leave.
    pub fn leaves(&mut self, now: Millis) {
        self.leaving += 1;
        self.leaving_since.get_or_insert(now);
    }

    /// A message has left.
    pub fn sent(&mut self, now: Millis) {
        self.leaving = self.leaving.saturating_sub(1);
        self.leaving_since = (self.leaving > 0).then_some(now);
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Millis) -> Vec<Effect> {
        if now >= self.expires {
            return vec![Effect::Close(Close::LogIn)];
        }
        if self.leaving_since.is_some_and(|since| now - since >= SEND_MS) {
            return vec![Effect::Close(Close::TooSlow)];
        }
        if now - self.heard > (MISSES_MAX + 1) * HEARTBEAT_MS {
            return vec![Effect::Close(Close::Gone)];
        }
        if now - self.pinged >= HEARTBEAT_MS {
            self.pinged = now;
            return vec![Effect::Ping];
        }
        Vec::new()
    }
}

fn done(id: u64) -> Effect {
    Effect::Send(ServerMessage::Res { id: Some(id), ok: true, err: None })
}

fn refuse(id: Option<u64>, code: &'static str, msg: String, hint: &str) -> Effect {
    let err = Some(Refusal { code, msg, hint: hint.to_owned() });
    Effect::Send(ServerMessage::Res { id, ok: false, err })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::machine::Hub;

    const NEVER: Millis = Millis(u64::MAX);

    fn session() -> Session {
        Session::new("life".into(), NEVER, Millis(0))
    }

    fn hub() -> Hub {
        let mut hub = Hub::new("life".into());
        hub.add_stream("events", 10);
        hub.add_table("nodes");
        hub
    }

    /// One round: what is wanted is read, and leaves at once.
    fn round(session: &mut Session, hub: &Hub, now: u64) -> Vec<ServerMessage> {
        let parts = session.wants(Millis(now)).iter().filter_map(|want| hub.read(want)).collect();
        let sent = |effect| match effect {
            Effect::Send(message) => message,
            other => panic!("{other:?}"),
        };
        session.read(now, parts).into_iter().map(sent).collect()
    }

    fn json_of(messages: &[ServerMessage]) -> serde_json::Value {
        serde_json::to_value(messages).unwrap()
    }

    #[test]
    fn a_topic_comes_as_a_whole_and_then_as_numbered_changes() {
        let (mut session, mut hub) = (session(), hub());
        hub.push("events", json!({ "kind": "suspected" }));
        let answer = session.received(Millis(0), r#"{"t":"sub","id":1,"topic":"events"}"#);
        assert_eq!(answer, vec![done(1)]);
        let snap = json!([{ "t": "snap", "topic": "events", "seq": 1, "data": [{ "kind": "suspected" }] }]);
        assert_eq!(json_of(&round(&mut session, &hub, 0)), snap);
        hub.push("events", json!({ "kind": "granted" }));
        assert_eq!(round(&mut session, &hub, 99), vec![], "not before its time");
        let frame = json!([{ "t": "frame", "at_ms": 100, "d": [
            { "topic": "events", "from": 2, "to": 2, "add": [{ "kind": "granted" }], "skipped": 0 }
        ] }]);
        assert_eq!(json_of(&round(&mut session, &hub, 100)), frame);
        assert_eq!(round(&mut session, &hub, 200), vec![], "nothing is new");
    }

    #[test]
    fn whoever_comes_back_gets_only_what_it_missed_unless_the_node_has_started_anew() {
        let mut hub = hub();
        (0..3).for_each(|n| assert!(hub.push("events", json!({ "n": n }))));
        let since = |epoch| format!(r#"{{"t":"sub","id":1,"topic":"events","since":{{"epoch":"{epoch}","seq":2}}}}"#);
        let mut same = session();
        same.received(Millis(0), &since("life"));
        let missed = round(&mut same, &hub, 0);
        assert!(matches!(&missed[..], [ServerMessage::Frame { d, .. }]
            if matches!(&d[..], [Delta::Entries { from: 3, to: 3, .. }])));
        let mut other = session();
        other.received(Millis(0), &since("another"));
        assert!(matches!(&round(&mut other, &hub, 0)[..], [ServerMessage::Snap { seq: 3, .. }]));
    }

    #[test]
    fn a_slow_reader_is_not_written_to_and_then_cut() {
        let (mut session, mut hub) = (session(), hub());
        session.received(Millis(0), r#"{"t":"sub","id":1,"topic":"nodes"}"#);
        assert_eq!(round(&mut session, &hub, 0).len(), 1);
        session.leaves(Millis(0));
        for now in (100..SEND_MS).step_by(100) {
            let row = [("height".to_owned(), json!(now))].into_iter().collect();
            hub.put("nodes", "a", row);
            assert_eq!(session.wants(Millis(now)), vec![], "what has not left is waited for");
            assert_eq!(session.tick(Millis(now)), vec![]);
        }
        assert_eq!(session.tick(Millis(SEND_MS)), vec![Effect::Close(Close::TooSlow)]);
        session.sent(Millis(SEND_MS));
        let all = round(&mut session, &hub, SEND_MS);
        assert!(matches!(&all[..], [ServerMessage::Frame { d, .. }] if d.len() == 1), "all at once, once it has");
    }

    #[test]
    fn what_cannot_be_read_or_is_not_there_is_refused_with_the_reason() {
        let (mut session, hub) = (session(), hub());
        for text in ["", "[]", "{}", r#"{"t":"fly"}"#, r#"{"t":"ping","id":1,"more":2}"#, r#"{"t":"sub","id":-1}"#] {
            let refused = session.received(Millis(5_000), text);
            assert!(
                matches!(&refused[..], [Effect::Send(ServerMessage::Res { ok: false, err: Some(why), .. })]
                if why.code == "malformed"),
                "{text}"
            );
        }
        session.received(Millis(10_000), r#"{"t":"sub","id":1,"topic":"elsewhere"}"#);
        assert!(matches!(&round(&mut session, &hub, 10_000)[..],
            [ServerMessage::Res { ok: false, err: Some(why), .. }] if why.code == "unknown_topic"));
        assert_eq!(round(&mut session, &hub, 10_100), vec![], "said once");
    }

    #[test]
    fn too_many_topics_or_messages_are_refused() {
        let mut session = session();
        for topic in 0..TOPICS_MAX {
            let text = format!(r#"{{"t":"sub","id":1,"topic":"{topic}"}}"#);
            assert_eq!(session.received(Millis(topic as u64 * 1_000), &text), vec![done(1)]);
        }
        let refused = session.received(Millis(90_000), r#"{"t":"sub","id":1,"topic":"one more"}"#);
        assert!(matches!(&refused[..], [Effect::Send(ServerMessage::Res { ok: false, .. })]));
        let ping = |session: &mut Session| session.received(Millis(99_000), r#"{"t":"ping","id":1}"#);
        (0..INBOUND_PER_SECOND).for_each(|_| assert_eq!(ping(&mut session), vec![done(1)]));
        assert_eq!(ping(&mut session), vec![Effect::Close(Close::TooMany)]);
    }

    #[test]
    fn who_is_silent_or_has_no_login_any_more_is_cut() {
        let mut silent = session();
        assert_eq!(silent.tick(Millis(HEARTBEAT_MS)), vec![Effect::Ping]);
        silent.heard(Millis(HEARTBEAT_MS));
        let gone = HEARTBEAT_MS + (MISSES_MAX + 1) * HEARTBEAT_MS + 1;
        assert_eq!(silent.tick(Millis(gone)), vec![Effect::Close(Close::Gone)]);
        let mut expired = Session::new("life".into(), Millis(500), Millis(0));
        assert_eq!(expired.tick(Millis(499)), vec![]);
        assert_eq!(expired.tick(Millis(500)), vec![Effect::Close(Close::LogIn)]);
    }
}
