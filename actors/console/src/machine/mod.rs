//! What decides, without a socket or a clock: what is known and how it changed ([`Hub`]), how far one websocket is ([`Session`]),
//! and whether an order is to be carried out ([`Guard`]).

mod guard;
mod hub;
mod session;

pub use guard::{Asked, Begin, Guard, Outcome};
pub use hub::{Hub, Part, Want};
#[cfg(feature = "actor")]
pub(crate) use session::HEARTBEAT_MS;
pub use session::{Close, Effect, Session};
