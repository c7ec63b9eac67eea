//! The admin console: what nodes show of themselves, live in a browser.
//!
//! - Actors say what happens ([`Happening`]); views say how things stand. Neither knows who looks, and nothing is collected while nobody does.
//! - [`machine::Hub`] keeps tables and streams, each counted. A reader says how far it is and gets what came after, so a slow reader costs nothing:
//!   what it missed is joined, or it gets all of it anew.
//! - [`machine::Session`] is one websocket: what it has subscribed to, how far it is, its limits, and when it is closed.
//! - Nodes whose page is open ask the others for what these show of themselves ([`messages::Watch`]), and are told for some seconds. Each row of
//!   another node says whose word it is, and how old.
//! - [`actions`] are what can be done at a node: [`machine::Guard`] stands before them.
//! - Who logs in, and who orders what, stands in the node's audit log ([`audit`]), chained by hash, before it takes effect.
//!
//! The console knows no other concept: who has something to show hands over rows.

pub mod actions;
#[cfg(feature = "actor")]
pub mod actor;
#[cfg(feature = "actor")]
pub mod audit;
#[cfg(feature = "actor")]
pub mod http;
#[cfg(feature = "actor")]
pub mod login;
pub mod machine;
pub mod messages;
pub mod protocol;

pub use messages::{Happening, Kind};
