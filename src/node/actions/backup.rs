//! A backup into the node's own folder.

use standin_console::actions::{About, Action, Answer, Order, Preview};
use standin_console::protocol::Role;

use super::{answer, preview, unavailable};
use crate::node::NodeHandle;

/// Writes the state at the newest proven checkpoint to a file.
pub(super) struct Snapshot(pub(super) NodeHandle);

impl Action for Snapshot {
    fn about(&self) -> About {
        About {
            name: "snapshot",
            role: Role::Operator,
            what: "Has the node write the state at its newest proven checkpoint to a file in its own folder, which `standin restore` reads.",
            on: "node",
            arguments: &[],
        }
    }

    fn preview(&self, order: &Order) -> Answer<Preview> {
        let (node, order) = (self.0.clone(), order.clone());
        answer(async move {
            super::is_named(&node.name, &order)?;
            let status = node.status().await.map_err(unavailable)?;
            let effect = format!(
                "{} writes the state at its newest proven checkpoint, block {} or later, to `backups/` in its data folder. It goes on meanwhile.",
                node.name, status.status.stable
            );
            Ok(preview(&node.name, [effect]))
        })
    }

    fn carry_out(&self, order: &Order) -> Answer<String> {
        let (node, order) = (self.0.clone(), order.clone());
        answer(async move {
            super::is_named(&node.name, &order)?;
            let (path, height) = node.backups.write(&node).await.map_err(unavailable)?;
            Ok(format!("the state at block {height} is in {}", path.display()))
        })
    }
}
