//! The two ends of publication, for programs: [`Terminal`] follows a topic at several nodes, [`Publisher`] pushes to one. A program that runs a node of
//! its own has both at that: `Node::publish` and `Node::follow`.

mod door;
mod publisher;
mod terminal;

pub use door::{Answer, Door};
pub use publisher::{Acknowledged, PublishError, Publisher};
pub use terminal::{Begin, Delivered, FollowError, Notice, Terminal};

pub use standin_publisher::machine::source::SourceConfig;
pub use standin_publisher::machine::terminal::{Alarm, Counters, Position};
pub use standin_publisher::{Datum, Entry, Fence, Sequence, Topic};

pub(crate) use door::{TOLD_WITHIN, settled};
