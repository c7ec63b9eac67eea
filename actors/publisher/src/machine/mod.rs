//! The pure machines of publication. [`lock`] and [`dictionary`] are the chain's; [`server`] is a node's, with parts for what it watches,
//! competes for and publishes; [`source`] and [`terminal`] are at the two ends, and [`witness`] is why a terminal may believe in a takeover.

pub mod dictionary;
mod lease;
mod links;
pub mod lock;
pub mod outside;
mod publication;
mod race;
pub mod server;
pub mod session;
pub mod source;
pub mod terminal;
pub mod view;
mod watch;
pub mod witness;
