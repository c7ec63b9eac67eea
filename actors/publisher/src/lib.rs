//! Publication of data under a distributed lock.

#[cfg(feature = "actor")]
pub mod actor;
pub mod config;
pub mod frame;
pub mod ids;
pub mod machine;
pub mod messages;
#[cfg(feature = "mutations")]
pub mod mutation;
pub mod record;
pub mod state_machine;
pub mod terminal;

pub use config::Config;
pub use frame::{Content, Datum, Entry, FrameError, Push};
pub use ids::{Fence, Sequence, Topic, WhichFrame};
pub use messages::{Event, Instruction};
pub use state_machine::Topics;
