//! `drain`, `pause`, `read-only`, `log-level`, …: what an operator has a node do, with a reason, by a key that the node's configuration lists.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;
use standin::client::Client;
use standin_console::actions::{Ask, Order};
use standin_foundation::SecretKey;

use super::output::OutputArguments;
use super::{ClientArguments, Failure};

/// As whom, and why.
#[derive(Debug, Args)]
pub(super) struct OperatorArguments {
    /// Key file of an operator that the node's configuration lists (`console.operators`).
    #[arg(long, env = "STANDIN_KEY")]
    key: Option<PathBuf>,
    /// The name of the node that is to do it, as an operator knows it: it is signed, and a node of another name refuses. Without it whatever
    /// answers at the address says which node it is.
    #[arg(long)]
    name: Option<String>,
    /// Why: stands in the node's audit log.
    #[arg(long, default_value = "by command")]
    reason: String,
    /// Show the effect, and do nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    pub(super) output: OutputArguments,
}

impl OperatorArguments {
    /// Has a node carry an action out, and gives what it did; or shows its effect.
    pub(super) async fn order(&self, client: &Client, action: &str, order: Order) -> Result<Option<String>, Failure> {
        if self.dry_run {
            let effect = client.preview(action, &order).await?.effect;
            self.output.one(&json!({ "effect": effect }), |_| effect.iter().for_each(|line| println!("{line}")));
            return Ok(None);
        }
        let missing = "--key FILE is needed, or STANDIN_KEY: an operator's key that the node's configuration lists";
        let path = self.key.as_ref().ok_or_else(|| Failure::new(2, missing))?;
        let key = SecretKey::read(path).map_err(|error| Failure::new(78, error.to_string()))?;
        let node = self.name.clone().unwrap_or_default();
        Ok(Some(client.act(action, Ask { node, ..ask(order, &self.reason) }, &key).await?))
    }
}

/// An order of its own.
pub(super) fn ask(order: Order, reason: &str) -> Ask {
    let (id, reason) = (format!("{:032x}", fastrand::u128(..)), reason.to_owned());
    let (node, confirm, seen) = Default::default();
    Ask { id, node, order, reason, confirm, seen, signed: None }
}

/// An action that is done to the node that is asked.
#[derive(Debug, Args)]
pub(super) struct NodeArguments {
    #[command(flatten)]
    client: ClientArguments,
    #[command(flatten)]
    operator: OperatorArguments,
}

#[derive(Debug, Args)]
pub(super) struct PauseArguments {
    #[command(flatten)]
    node: NodeArguments,
    /// Also if the chain stands still then.
    #[arg(long)]
    halt: bool,
}

#[derive(Debug, Args)]
pub(super) struct ReadOnlyArguments {
    /// Whether the node refuses transactions.
    #[arg(value_enum)]
    set: Switch,
    #[command(flatten)]
    node: NodeArguments,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Debug, Args)]
pub(super) struct LogLevelArguments {
    /// The filter, such as `info`, or `standin_consensus=debug,info`.
    filter: String,
    #[command(flatten)]
    node: NodeArguments,
}

#[derive(Debug, Args)]
pub(super) struct RestartActorArguments {
    /// The actor's name.
    actor: String,
    #[command(flatten)]
    node: NodeArguments,
}

async fn order(node: &NodeArguments, action: &str, args: &[(&str, &str)]) -> Result<(), Failure> {
    order_on(node, action, node.operator.name.clone().unwrap_or_default(), args).await
}

async fn order_on(node: &NodeArguments, action: &str, on: String, args: &[(&str, &str)]) -> Result<(), Failure> {
    let args: BTreeMap<_, _> = args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    if let Some(done) = node.operator.order(&node.client.first()?, action, Order { on, args }).await? {
        node.operator.output.one(&json!({ "done": done }), |_| println!("{done}"));
    }
    Ok(())
}

/// `drain`, `undrain`, `resume`, `snapshot`.
pub(super) async fn plain(action: &str, node: NodeArguments) -> Result<(), Failure> {
    order(&node, action, &[]).await
}

pub(super) async fn pause(arguments: PauseArguments) -> Result<(), Failure> {
    let halt: &[_] = if arguments.halt { &[("halt", "yes")] } else { &[] };
    order(&arguments.node, "pause", halt).await
}

pub(super) async fn read_only(arguments: ReadOnlyArguments) -> Result<(), Failure> {
    let set = if matches!(arguments.set, Switch::On) { "on" } else { "off" };
    order(&arguments.node, "read-only", &[("set", set)]).await
}

pub(super) async fn log_level(arguments: LogLevelArguments) -> Result<(), Failure> {
    order(&arguments.node, "log-level", &[("filter", &arguments.filter)]).await
}

pub(super) async fn restart_actor(arguments: RestartActorArguments) -> Result<(), Failure> {
    order_on(&arguments.node, "restart-actor", arguments.actor.clone(), &[]).await
}
