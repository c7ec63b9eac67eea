//! What operators can do at a node. Each action is a file's concern; the page, `/api/v1/actions` and the commands reach the same ones.

mod actors;
mod backup;
mod levels;
mod members;
mod seat;
mod service;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use standin_console::actions::{Answer, Order, Preview};
use standin_console::protocol::Refusal;

pub(super) use actors::Restart;
pub use levels::{LevelControl, LogLevel};
pub(super) use members::{MemberChange, Step};

use super::NodeHandle;

/// What an operator has set for as long as the process runs. A node that starts anew serves and takes part.
#[derive(Debug, Clone, Default)]
pub struct Modes(Arc<Flags>);

#[derive(Debug, Default)]
struct Flags {
    read_only: AtomicBool,
    draining: AtomicBool,
}

impl Modes {
    /// The node takes no transactions, though it takes part.
    pub fn read_only(&self) -> bool {
        self.0.read_only.load(Ordering::Relaxed)
    }

    /// The node is being taken out of service.
    pub fn draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed)
    }

    /// The node goes: it takes no transactions any more, and is not ready.
    pub fn leave(&self) {
        self.set_draining(true);
    }

    fn set_read_only(&self, on: bool) {
        self.0.read_only.store(on, Ordering::Relaxed);
    }

    fn set_draining(&self, on: bool) {
        self.0.draining.store(on, Ordering::Relaxed);
    }
}

/// Adds what can be done at a member.
pub(super) fn add_to(node: &NodeHandle) {
    let actions = node.console.actions();
    actions.add(seat::Switch(node.clone()));
    actions.add(seat::Drain { node: node.clone(), on: true });
    actions.add(seat::Drain { node: node.clone(), on: false });
    actions.add(seat::Pause { node: node.clone(), on: true });
    actions.add(seat::Pause { node: node.clone(), on: false });
    actions.add(service::ReadOnly(node.clone()));
    actions.add(backup::Snapshot(node.clone()));
    actions.add(Restart(node.actors.clone()));
}

fn answer<T: Send + 'static>(answer: impl Future<Output = Result<T, Refusal>> + Send + 'static) -> Answer<T> {
    Box::pin(answer)
}

fn preview(confirm: &str, effect: impl IntoIterator<Item = String>) -> Preview {
    Preview { effect: effect.into_iter().collect(), confirm: confirm.to_owned() }
}

fn unavailable(error: impl std::fmt::Display) -> Refusal {
    Refusal::new("unavailable", error.to_string(), "ask again in a moment")
}

fn unknown(what: impl Into<String>) -> Refusal {
    Refusal::new("unknown", what, "")
}

/// The node that an order names must be this one; an empty name is the node that is asked.
fn is_named(name: &str, order: &Order) -> Result<(), Refusal> {
    match order.on.as_str() {
        "" => Ok(()),
        on if on == name => Ok(()),
        on => Err(unknown(format!("this is {name}, not `{on}`: order it there"))),
    }
}
