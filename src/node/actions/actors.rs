//! A node's actors.

use standin_console::actions::{About, Action, Answer, Order, Preview};
use standin_console::protocol::{Refusal, Role};
use standin_stage::Registry;

use super::{answer, preview, unknown};

/// Starts an actor again.
pub(in crate::node) struct Restart(pub(in crate::node) Registry);

impl Restart {
    fn check(&self, order: &Order) -> Result<Preview, Refusal> {
        let actors = self.0.list();
        let names = || actors.iter().map(|actor| actor.name.as_str()).collect::<Vec<_>>().join(", ");
        let found = actors.iter().find(|actor| actor.name == order.on);
        let actor = found.ok_or_else(|| unknown(format!("there is no actor `{}`; there are {}", order.on, names())))?;
        if !actor.restartable {
            let what = format!("`{}` is never started again: its state must be what the log says", actor.name);
            return Err(Refusal::new("never_restarted", what, "start the node anew, after `drain`"));
        }
        Ok(preview(
            &actor.name,
            [
                format!("`{}` ends after the message that it works on, and begins with a fresh state.", actor.name),
                "What waits for it is kept; whoever waits for its answer is told.".to_owned(),
            ],
        ))
    }
}

impl Action for Restart {
    fn about(&self) -> About {
        About {
            name: "restart-actor",
            role: Role::Admin,
            what: "Starts one of the node's actors again.",
            on: "actor",
            arguments: &[],
        }
    }

    fn preview(&self, order: &Order) -> Answer<Preview> {
        let shown = self.check(order);
        answer(async move { shown })
    }

    fn carry_out(&self, order: &Order) -> Answer<String> {
        let (shown, actors, name) = (self.check(order), self.0.clone(), order.on.clone());
        answer(async move {
            shown?;
            match actors.restart(&name) {
                Ok(true) => Ok(format!("`{name}` is started again")),
                Ok(false) | Err(_) => Err(Refusal::new("ended", format!("`{name}` has ended meanwhile"), "")),
            }
        })
    }
}
