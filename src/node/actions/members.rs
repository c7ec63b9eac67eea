//! Who belongs to a cluster: changed by an operator's key, which no node and no browser has. The action shows the effect, and the command.

use standin_auth::actor::{AskClusters, AuthActor, ClusterView};
use standin_console::actions::{About, Action, Answer, Argument, Kind, Order, Preview};
use standin_console::protocol::{Refusal, Role};
use standin_foundation::PublicKey;
use standin_stage::Address;

use super::{answer, preview, unavailable, unknown};

/// What is done to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::node) enum Step {
    /// It is admitted, and it is waited for until it is in sync.
    Add,
    /// It is admitted, or something else is said of it.
    Admit,
    /// It is a member no more.
    Remove,
}

/// Shows what admitting or removing a member does, and with which command an operator does it.
pub(in crate::node) struct MemberChange {
    pub(in crate::node) auth: Address<AuthActor>,
    /// The auth node's HTTP address.
    pub(in crate::node) http: String,
    pub(in crate::node) step: Step,
}

const ASK_TIME: std::time::Duration = std::time::Duration::from_secs(2);
const NEW: &[Argument] = &[
    Argument { name: "key", what: "the node's public key", needed: true, kind: Kind::Text },
    Argument {
        name: "address",
        what: "where its bridge can be reached: host and port",
        needed: true,
        kind: Kind::Text,
    },
    Argument { name: "site", what: "where it stands", needed: true, kind: Kind::Text },
    Argument {
        name: "priority",
        what: "0 to 255: the higher, the earlier it is elected; 0 without it",
        needed: false,
        kind: Kind::Text,
    },
];
const GONE: &[Argument] = &[Argument { name: "node", what: "the node's id", needed: true, kind: Kind::Text }];

impl MemberChange {
    async fn command(auth: Address<AuthActor>, http: String, step: Step, order: Order) -> Result<Preview, Refusal> {
        let clusters = auth.ask(AskClusters, ASK_TIME).await.map_err(unavailable)?;
        let found = clusters.iter().find(|view| view.cluster.as_str() == order.on);
        let view = found.ok_or_else(|| unknown(format!("there is no cluster `{}`", order.on)))?;
        let needed = |name: &str| {
            let value = order.arg(name).filter(|value| value.chars().all(|c| c.is_ascii_graphic()));
            value.ok_or_else(|| Refusal::new("malformed", format!("`{name}` is needed, without spaces"), ""))
        };
        let keyed = format!("--auth http://{http} --key OPERATOR.key");
        let (effect, command) = match step {
            Step::Remove => {
                let node = needed("node")?;
                Self::may_go(view, node)?;
                let left = view.admitted.len().saturating_sub(1);
                let effect = format!("{node} is no member of cluster {} any more; {left} are left.", order.on);
                (effect, format!("standin member remove {keyed} {} {node}", order.on))
            }
            Step::Add | Step::Admit => {
                let (key, address, site) = (needed("key")?, needed("address")?, needed("site")?);
                let public: PublicKey = key.parse().map_err(|error| {
                    Refusal::new("malformed", format!("`key`: {error}"), "the node's descriptor has it")
                })?;
                let priority = match order.arg("priority").filter(|priority| !priority.is_empty()) {
                    None => String::new(),
                    Some(priority) => {
                        let wrong = |_| Refusal::new("malformed", "`priority` is a number from 0 to 255", "");
                        format!(" --priority {}", priority.parse::<u8>().map_err(wrong)?)
                    }
                };
                let effect = match view.admitted.contains_key(&public.node_id()) {
                    true => format!(
                        "{} is a member of cluster {} already: from then on it stands at {site}, is reached at {address}, and may be elected, \
                         whatever was wrong with its results.",
                        public.node_id(),
                        order.on
                    ),
                    false => format!(
                        "{} is admitted to cluster {} as its member number {}; it is in sync once it has the seat's log.",
                        public.node_id(),
                        order.on,
                        view.admitted.len() + 1
                    ),
                };
                let word = if step == Step::Add { "add" } else { "admit" };
                let command = format!(
                    "standin member {word} {keyed} {} {key} --address {address} --site {site}{priority}",
                    order.on
                );
                (effect, command)
            }
        };
        Ok(preview("", [effect, format!("An operator does it with: {command}")]))
    }

    fn may_go(view: &ClusterView, node: &str) -> Result<(), Refusal> {
        if view.holder.is_some_and(|holder| holder.to_string() == node) {
            let what = format!("{node} holds the seat of cluster {}", view.cluster);
            return Err(Refusal::new("holds_the_seat", what, "switch the seat to another member first"));
        }
        match view.admitted.keys().any(|admitted| admitted.to_string() == node) {
            true => Ok(()),
            false => Err(unknown(format!("{node} is no member of cluster {}", view.cluster))),
        }
    }
}

impl Action for MemberChange {
    fn about(&self) -> About {
        let (name, what, arguments) = match self.step {
            Step::Remove => (
                "member-remove",
                "Shows what removing a member does, and the command with which an operator does it.",
                GONE,
            ),
            Step::Admit => (
                "member-admit",
                "Shows what admitting a node does, or saying something else of a member, and the command with which an operator does it.",
                NEW,
            ),
            Step::Add => {
                ("member-add", "Shows what adding a member does, and the command with which an operator does it.", NEW)
            }
        };
        About { name, role: Role::Admin, what, on: "cluster", arguments }
    }

    fn preview(&self, order: &Order) -> Answer<Preview> {
        answer(Self::command(self.auth.clone(), self.http.clone(), self.step, order.clone()))
    }

    fn carry_out(&self, _: &Order) -> Answer<String> {
        let what = "who belongs to a cluster is changed by an operator's key alone, which no node has";
        answer(async move { Err(Refusal::new("needs_key", what, "use the command that the preview shows")) })
    }
}
