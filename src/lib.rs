//! Standin: replicated, supervised actors on Actix for consortium chains that do not stop.
//!
//! [`Node`] is a member of a chain inside a program of one's own: it runs an [`Application`], takes commands, answers questions, and follows blocks.
//! [`testing::TestNetwork`] is a whole network in one process, for tests. The node process, `standin run`, is made of the same parts:
//! [`node`] is the only place that wires actors together; [`config`] reads what an operator wrote; [`api`] is HTTP; [`client`] talks to it.
//! The actor kit itself is [`stage`].

/// `docs/embedding.md`, whose programs are compiled with the tests.
#[doc = include_str!("../docs/embedding.md")]
pub mod embedding {}

pub mod api;
pub mod client;
pub mod config;
mod embed;
mod https;
pub mod metrics;
pub mod node;
pub mod ports;
pub mod publication;
pub mod testing;

pub use config::{ConfigError, NodeConfig};
pub use embed::{
    Answered, Application, AuthBuilder, AuthNode, Block, BlocksError, Builder, Call, Committed, Entry, Following,
    FollowingError, Freshness, Node, QueryError, Store, StoreView, SubmitError,
};
pub use node::NodeError;
pub use standin_foundation::Height;
pub use standin_ledger::Reject;
pub use standin_stage as stage;
