//! What the node does for clients.

use standin_console::actions::{About, Action, Answer, Argument, Kind, Order, Preview};
use standin_console::protocol::{Refusal, Role};

use super::{answer, preview};
use crate::node::NodeHandle;

/// Has the node take transactions, or not.
pub(super) struct ReadOnly(pub(super) NodeHandle);

fn wanted(order: &Order) -> Result<bool, Refusal> {
    match order.arg("set") {
        Some("on") => Ok(true),
        Some("off") => Ok(false),
        _ => Err(Refusal::new("malformed", "`set` must be `on` or `off`", "")),
    }
}

impl Action for ReadOnly {
    fn about(&self) -> About {
        About {
            name: "read-only",
            role: Role::Operator,
            what: "Has the node take no transactions of clients, or take them again; it takes part either way.",
            on: "node",
            arguments: &[Argument {
                name: "set",
                what: "`on` or `off`",
                needed: true,
                kind: Kind::OneOf(&["on", "off"]),
            }],
        }
    }

    fn preview(&self, order: &Order) -> Answer<Preview> {
        let (node, order) = (self.0.clone(), order.clone());
        answer(async move {
            super::is_named(&node.name, &order)?;
            let on = wanted(&order)?;
            if node.modes.read_only() == on {
                let state = if on { "takes no transactions already" } else { "takes transactions" };
                return Err(Refusal::new("no_change", format!("{} {state}", node.name), ""));
            }
            let effect = match on {
                true => "refuses transactions; clients are told to ask another node. Those that it has taken go on.",
                false => "takes transactions again.",
            };
            let until = "until `read-only off`, or until its process starts anew".to_owned();
            Ok(preview(&node.name, [format!("{} {effect}", node.name)].into_iter().chain(on.then_some(until))))
        })
    }

    fn carry_out(&self, order: &Order) -> Answer<String> {
        let (shown, node, order) = (self.preview(order), self.0.clone(), order.clone());
        answer(async move {
            shown.await?;
            let on = wanted(&order)?;
            node.modes.set_read_only(on);
            Ok(format!("{} takes {}transactions", node.name, if on { "no " } else { "" }))
        })
    }
}
