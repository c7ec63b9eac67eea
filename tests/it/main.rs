//! The process ring: real node processes on loopback, driven through the command line, as a user would.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod actions;
mod bad_input;
mod bad_peers;
mod browser;
mod console;
mod copies;
mod demo;
mod drills;
mod embedding;
mod examples;
mod founding;
mod network;
mod openapi;
mod ops;
mod proxies;
mod publication;
mod real_input;
mod reconfigure;
mod schema;
mod service;
mod simulator;
mod skips;
mod upgrade;
