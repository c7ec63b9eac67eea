//! What a process logs.

use std::sync::Arc;

use standin_console::actions::{About, Action, Answer, Argument, Kind, Order, Preview};
use standin_console::protocol::{Refusal, Role};

use super::{answer, preview};

/// How a process's log is set: the library starts no logging of its own.
pub trait LevelControl: Send + Sync {
    /// The filter that is in force.
    fn current(&self) -> String;

    /// Whether a filter can be read; the error says what is wrong.
    fn check(&self, filter: &str) -> Result<(), String>;

    /// Puts a filter in force.
    fn set(&self, filter: &str) -> Result<(), String>;
}

/// Sets what the process logs.
#[derive(Clone)]
pub struct LogLevel {
    /// The node's name.
    pub node: String,
    /// Sets it.
    pub control: Arc<dyn LevelControl>,
}

impl std::fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogLevel").field("node", &self.node).finish_non_exhaustive()
    }
}

impl LogLevel {
    fn filter(&self, order: &Order) -> Result<String, Refusal> {
        super::is_named(&self.node, order)?;
        let form = "such as `info`, `debug`, or `standin_consensus=debug,info`";
        let filter = order.arg("filter").ok_or_else(|| Refusal::new("malformed", "`filter` is needed", form))?;
        let wrong = |error| Refusal::new("malformed", format!("`{filter}` is no filter: {error}"), form);
        self.control.check(filter).map_err(wrong)?;
        Ok(filter.to_owned())
    }
}

impl Action for LogLevel {
    fn about(&self) -> About {
        About {
            name: "log-level",
            role: Role::Operator,
            what: "Sets what the process logs, until it starts anew.",
            on: "node",
            arguments: &[Argument {
                name: "filter",
                what: "such as `info` or `standin_consensus=debug,info`",
                needed: true,
                kind: Kind::Text,
            }],
        }
    }

    fn preview(&self, order: &Order) -> Answer<Preview> {
        let (shown, name, before) = (self.filter(order), self.node.clone(), self.control.current());
        answer(async move {
            let filter = shown?;
            Ok(preview(
                &name,
                [format!("{name} logs by `{filter}`, in the place of `{before}`, until its process starts anew.")],
            ))
        })
    }

    fn carry_out(&self, order: &Order) -> Answer<String> {
        let (filter, control, name) = (self.filter(order), Arc::clone(&self.control), self.node.clone());
        answer(async move {
            let filter = filter?;
            control.set(&filter).map_err(|error| Refusal::new("unavailable", error, ""))?;
            Ok(format!("{name} logs by `{filter}`"))
        })
    }
}
