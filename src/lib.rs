//! Standin: replicated, supervised actors on Actix for consortium chains that do not stop.
//!
//! This crate is the framework's face and the node process. [`node`] is the only place that wires actors together;
//! [`config`] reads what an operator wrote; [`api`] is HTTP; [`client`] talks to it.

pub mod api;
pub mod client;
pub mod config;
pub mod metrics;
pub mod node;

pub use config::{ConfigError, NodeConfig};
pub use node::{AuthNode, Node, NodeError};
