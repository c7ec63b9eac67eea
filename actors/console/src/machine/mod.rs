//! What decides, without a socket or a clock: what is known and how it changed ([`Hub`]), and how far one websocket is ([`Session`]).

mod hub;
mod session;

pub use hub::{Hub, Part, Want};
#[cfg(feature = "actor")]
pub(crate) use session::HEARTBEAT_MS;
pub use session::{Close, Effect, Session};
