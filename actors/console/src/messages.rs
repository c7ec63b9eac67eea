//! What happens, and what nodes tell each other for the console.

use serde::{Deserialize, Serialize};
use standin_foundation::wire::Wire;

/// Something that an operator wants to see as it happens. Its name is the same in the log, in the console and in the documentation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happening {
    /// When, by the clock of the node where it happened, in ms since 1970.
    pub at_ms: u64,
    /// What.
    pub kind: Kind,
    /// The cluster that it is about.
    pub cluster: Option<String>,
    /// The term that it is about.
    pub term: Option<u64>,
    /// From the suspicion of the holder to this step of a hand-over, in ms.
    pub ms: Option<u64>,
    /// More, for people.
    pub detail: String,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Kind {
    /// A member suspects the holder of its seat.
    #[serde(rename = "suspected")]
    Suspected,
    /// It asks the auth node for a grant.
    #[serde(rename = "asked")]
    Asked,
    /// A grant was accepted.
    #[serde(rename = "granted")]
    Granted,
    /// A member has fenced all earlier terms.
    #[serde(rename = "fenced")]
    Fenced,
    /// The node speaks for its seat.
    #[serde(rename = "active")]
    Active,
    /// Another seat knows of the grant.
    #[serde(rename = "notified")]
    Notified,
    /// The first block carries the new holder's vote.
    #[serde(rename = "first block")]
    FirstBlock,
    /// A request was refused.
    #[serde(rename = "refused")]
    Refused,
    /// A member's log was cut back to the holder's.
    #[serde(rename = "cut back")]
    CutBack,
    /// A view was left.
    #[serde(rename = "view left")]
    ViewLeft,
    /// A view began.
    #[serde(rename = "view began")]
    ViewBegan,
    /// An epoch began.
    #[serde(rename = "epoch began")]
    EpochBegan,
    /// A node catches up with the others.
    #[serde(rename = "catching up")]
    CatchingUp,
    /// A seat's result differs from a quorum's.
    #[serde(rename = "wrong result")]
    WrongResult,
    /// A seat contradicts itself.
    #[serde(rename = "equivocation")]
    Equivocation,
    /// A seat's log has lost its end.
    #[serde(rename = "rolled back")]
    RolledBack,
    /// A server publishes a topic from now on.
    #[serde(rename = "publishes")]
    Publishes,
    /// Something that must not be: see the node's log.
    #[serde(rename = "fault")]
    Fault,
}

/// For some seconds, the sender wants to know what this node shows of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch;

impl Wire for Watch {
    const NAME: &'static str = "console.watch";
    const BYTES_MAX: usize = 16;
}

/// What a node shows of itself to one that watches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The life of the sender's process: numbers of another one mean nothing.
    pub life: u64,
    /// Its rows.
    pub rows: Vec<ReportedRow>,
    /// Number of the first happening.
    pub from: u64,
    /// What happened.
    pub happened: Vec<Happening>,
}

impl Wire for Report {
    const NAME: &'static str = "console.report";
    const BYTES_MAX: usize = 256 * 1024;
}

/// A row of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedRow {
    /// The table.
    pub topic: String,
    /// Its key below the node's own; empty for the row that is the node's.
    pub key: String,
    /// A JSON object.
    pub json: String,
}

#[cfg(feature = "actor")]
mod remote {
    use standin_stage::{Lane, Message, RemoteMessage};

    use super::{Report, Watch};

    impl Message for Watch {
        type Reply = ();
        const LANE: Lane = Lane::Ordinary;
    }

    impl RemoteMessage for Watch {}

    impl Message for Report {
        type Reply = ();
        const LANE: Lane = Lane::Ordinary;
    }

    impl RemoteMessage for Report {}
}
