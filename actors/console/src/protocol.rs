//! The websocket protocol between a node and a console, version 1 (subprotocol [`SUBPROTOCOL`]): JSON text frames.
//!
//! The node says [`ServerMessage::Hello`] first. A console subscribes to topics, gets each as a whole once, and then what changed, at most
//! every [`FRAME_MS`]. Changes of a topic are numbered without gaps: a console that misses one subscribes anew, and says from where. Whatever
//! is not live (history, search) is asked over HTTP.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Name of the protocol in the upgrade.
pub const SUBPROTOCOL: &str = "standin-console.v1";
/// Version of the protocol.
pub const VERSION: u32 = 1;
/// Changes are sent at most this often, in ms.
pub const FRAME_MS: u64 = 100;
/// Largest frame that a node takes, in bytes.
pub const INBOUND_BYTES_MAX: usize = 64 * 1024;
/// Fields of a filter.
const FILTER_FIELDS_MAX: usize = 8;

/// What a node says.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "t", rename_all = "lowercase")]
pub enum ServerMessage {
    /// The first message.
    Hello {
        /// Version of the protocol.
        proto: u32,
        /// The node's name.
        node: String,
        /// Its id: the key of its row among the nodes.
        id: String,
        /// The program's version.
        version: &'static str,
        /// Names this life of the process: numbers of another one mean nothing.
        epoch: String,
        /// The node's clock, in ms since 1970: ages are told by it, not by the console's.
        now_ms: u64,
        /// Something comes at least this often, in ms.
        hb_ms: u64,
        /// Who is logged in.
        user: UserView,
        /// Topics that there are.
        topics: Vec<&'static str>,
    },
    /// All of a topic.
    Snap {
        /// The topic.
        topic: String,
        /// Number of the newest change in it.
        seq: u64,
        /// Rows by key, or entries.
        data: Value,
    },
    /// What changed since the last one, in all topics that are subscribed to.
    Frame {
        /// The node's clock, in ms since 1970.
        at_ms: u64,
        /// By topic.
        d: Vec<Delta>,
    },
    /// What became of a request.
    Res {
        /// The request's number; none where it could not be read.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
        /// It was carried out.
        ok: bool,
        /// Why it was not.
        #[serde(skip_serializing_if = "Option::is_none")]
        err: Option<Refusal>,
    },
}

/// What changed in a topic. `from` is one more than the `to` before it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Delta {
    /// Of a table.
    Rows {
        /// The topic.
        topic: String,
        /// Number of the first change.
        from: u64,
        /// Number of the last.
        to: u64,
        /// By key what changed in the row: fields with their new values, null for those that went; null for rows that went.
        patch: Map<String, Value>,
    },
    /// Of a stream.
    Entries {
        /// The topic.
        topic: String,
        /// Number of the first entry.
        from: u64,
        /// Number of the last.
        to: u64,
        /// The newest entries that fit the filter.
        add: Vec<Value>,
        /// How many more there were.
        skipped: u64,
    },
}

/// Who is logged in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserView {
    /// The name.
    pub name: String,
    /// The role.
    pub role: Role,
}

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// See.
    Viewer,
    /// Also act on running nodes.
    Operator,
    /// Also change members and keys.
    Admin,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        })
    }
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// For programs.
    pub code: &'static str,
    /// What is wrong.
    pub msg: String,
    /// What to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

impl Refusal {
    /// The rule `code` refuses, since `msg`; `hint` says what to do.
    pub fn new(code: &'static str, msg: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), hint: hint.into() }
    }
}

/// What a console says.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "t", rename_all = "lowercase", deny_unknown_fields)]
pub enum ClientMessage {
    /// Subscribes to a topic; in place of the subscription that there was.
    Sub {
        /// The request's number.
        id: u64,
        /// The topic.
        topic: String,
        /// Of a stream, only entries that have these values.
        #[serde(default)]
        filter: Filter,
        /// What the console has already.
        #[serde(default)]
        since: Option<Since>,
    },
    /// Ends a subscription.
    Unsub {
        /// The topic.
        topic: String,
    },
    /// Asks for an answer.
    Ping {
        /// The request's number.
        id: u64,
    },
}

/// How far a console is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Since {
    /// The life of the node that the number is of.
    pub epoch: String,
    /// Number of the last change that it has.
    pub seq: u64,
}

/// Values that an entry must have, by field.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Filter(BTreeMap<String, String>);

impl Filter {
    /// Whether an entry has them.
    pub fn fits(&self, entry: &Value) -> bool {
        let is_so = |(field, wanted): (&String, &String)| entry.get(field).and_then(Value::as_str) == Some(wanted);
        self.0.iter().all(is_so)
    }

    /// Whether it is no larger than a filter may be.
    pub fn is_bounded(&self) -> bool {
        self.0.len() <= FILTER_FIELDS_MAX
    }
}
