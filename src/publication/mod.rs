//! The two ends of publication, for programs: [`Terminal`] follows a topic at several nodes, [`Publisher`] pushes to one.

mod publisher;
mod terminal;

pub use publisher::{Acknowledged, PublishError, Publisher};
pub use terminal::{Begin, Delivered, FollowError, Notice, Terminal};
