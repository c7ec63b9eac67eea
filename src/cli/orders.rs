//! `order`: what operators order together, as a file that each of them approves on a host of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::json;
use standin::client::Client;
use standin_auth::messages::{Action, MemberOrder};
use standin_foundation::{PublicKey, SecretKey};
use standin_ledger::approval::Approved;
use standin_ledger::clients::{ClientChange, ClientOrder};
use standin_ledger::epoch::Base;
use standin_ledger::reconfiguration::{Change, Named};
use standin_ledger::{LedgerError, Member, Operators, Outcome, Reconfiguration, SystemTransaction, Transaction};
use standin_publisher::Instruction;
use standin_publisher::messages::{Settings, TopicChange, TopicOrder};

use super::files::replace;
use super::output::{OutputArguments, json as as_json};
use super::reconfigure::wait_for_epoch;
use super::submit::unique_nonce;
use super::{ClientArguments, Failure};

/// How long an outcome is waited for.
const OUTCOME_WAIT: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(super) struct OrderArguments {
    #[command(subcommand)]
    command: OrderCommand,
}

#[derive(Debug, Subcommand)]
enum OrderCommand {
    /// Show what a file orders, and which keys have signed it.
    Show {
        /// The file.
        file: PathBuf,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Show what a file orders, and add an operator's approval to it.
    Approve {
        /// The file.
        file: PathBuf,
        /// The operator's key file.
        #[arg(long, env = "STANDIN_KEY")]
        key: PathBuf,
    },
    /// Submit what operators have approved, and wait until it has taken effect.
    Submit {
        #[command(flatten)]
        client: ClientArguments,
        /// The file.
        file: PathBuf,
        /// The key that signs the transaction, where the chain carries the order out: an operator's, or that of a client that may submit.
        #[arg(long, env = "STANDIN_KEY")]
        key: Option<PathBuf>,
        /// Address of an auth node, where it carries the order out: the members of a cluster.
        #[arg(long, env = "STANDIN_AUTH")]
        auth: Option<String>,
        /// How long to wait for the next epoch, in s.
        #[arg(long, default_value_t = 60)]
        within: u64,
    },
}

/// By whom an order is approved: by keys that are here, or by operators elsewhere.
#[derive(Debug, Clone, Args)]
pub(super) struct Approving {
    /// Key files of operators, with commas: as many as must approve.
    #[arg(long, env = "STANDIN_KEY", value_delimiter = ',', required_unless_present = "out")]
    key: Vec<PathBuf>,
    /// Write the order to this file in the place of submitting it: operators approve it with `standin order approve`.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// What stands in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Draft {
    /// For the next epoch.
    Reconfiguration(Approved<Reconfiguration>),
    /// About clients.
    Clients(Approved<ClientOrder>),
    /// About the members of a cluster.
    Members(Approved<MemberOrder>),
    /// About topics and their locks.
    Topics(Approved<TopicOrder>),
}

impl Draft {
    fn read(path: &Path) -> Result<Self, Failure> {
        let text = fs::read_to_string(path).map_err(|error| Failure::new(1, format!("{}: {error}", path.display())))?;
        serde_json::from_str(&text)
            .map_err(|error| Failure::new(78, format!("{}: no order of operators: {error}", path.display())))
    }

    /// Writes a file that is not there yet.
    pub(super) fn write_new(&self, out: &Path) -> Result<(), Failure> {
        if out.exists() {
            return Err(Failure::new(6, format!("{} exists: nothing is overwritten", out.display())));
        }
        self.write(out)?;
        println!("{} is to be approved with `standin order approve`", out.display());
        Ok(())
    }

    fn write(&self, path: &Path) -> Result<(), Failure> {
        // The others' approvals stand in it.
        replace(path, format!("{}\n", as_json(self)).as_bytes())
    }

    pub(super) fn by(self, key: &SecretKey) -> Self {
        match self {
            Self::Reconfiguration(order) => Self::Reconfiguration(order.by(key)),
            Self::Clients(order) => Self::Clients(order.by(key)),
            Self::Members(order) => Self::Members(order.by(key)),
            Self::Topics(order) => Self::Topics(order.by(key)),
        }
    }

    fn signers(&self) -> Vec<PublicKey> {
        match self {
            Self::Reconfiguration(order) => order.signers(),
            Self::Clients(order) => order.signers(),
            Self::Members(order) => order.signers(),
            Self::Topics(order) => order.signers(),
        }
    }

    fn show(&self) {
        match self {
            Self::Reconfiguration(Approved { order: Reconfiguration { chain, epoch, changes }, .. }) => {
                println!("ordered in epoch {epoch} of the chain {chain}:");
                changes.iter().for_each(|change| println!("  {}", told(change)));
            }
            Self::Clients(Approved { order: ClientOrder { chain, number, changes }, .. }) => {
                println!("order {number} about the clients of the chain {chain}:");
                changes.iter().for_each(|change| println!("  {}", told_of_client(change)));
            }
            Self::Topics(Approved { order: TopicOrder { chain, number, changes }, .. }) => {
                println!("order {number} about the topics of the chain {chain}:");
                changes.iter().for_each(|change| println!("  {}", told_of_topic(change)));
            }
            Self::Members(Approved {
                order: MemberOrder { chain, cluster, listed, version, action, clears }, ..
            }) => {
                println!(
                    "ordered for version {version} of cluster {cluster}'s members since epoch {listed}, of the chain {chain}:"
                );
                println!("  {}", told_of_member(action));
                if *clears {
                    println!("  its results were wrong: it may be elected again all the same");
                }
            }
        }
    }

    fn show_signers(&self) {
        let signers = self.signers();
        println!("signed by {} keys; whether they are operators, the chain knows:", signers.len());
        signers.iter().for_each(|key| println!("  {key}"));
    }

    /// Has it carried out; gives the block above which an epoch begins, where one is ordered.
    pub(super) async fn submit(
        &self,
        client: Option<&Client>,
        auth: Option<&Client>,
        key: &SecretKey,
    ) -> Result<(), Failure> {
        let chain = || client.ok_or_else(|| Failure::new(2, "--node: the chain carries this order out"));
        match self {
            Self::Reconfiguration(order) => {
                carry_out(chain()?, key, SystemTransaction::Reconfigure(order.clone())).await
            }
            Self::Clients(order) => carry_out(chain()?, key, SystemTransaction::Clients(order.clone())).await,
            Self::Topics(order) => carry_out_topics(chain()?, key, order.clone()).await,
            Self::Members(order) => {
                let missing = || Failure::new(2, "--auth: an auth node carries this order out");
                auth.ok_or_else(missing)?.order(order).await?;
                Ok(())
            }
        }
    }
}

impl Approving {
    fn keys(&self) -> Result<Vec<SecretKey>, Failure> {
        self.key.iter().map(|path| read_key(path)).collect()
    }

    /// Writes the order to a file, or approves it with the keys given and has it carried out; says whether it was.
    pub(super) async fn settle(
        &self,
        draft: Draft,
        client: Option<&Client>,
        auth: Option<&Client>,
    ) -> Result<bool, Failure> {
        if let Some(out) = &self.out {
            draft.write_new(out)?;
            return Ok(false);
        }
        let keys = self.keys()?;
        let first = keys.first().ok_or_else(|| Failure::new(2, "--key: an operator's key file is needed"))?;
        keys.iter().fold(draft, |draft, key| draft.by(key)).submit(client, auth, first).await?;
        Ok(true)
    }
}

pub(super) async fn order(arguments: OrderArguments) -> Result<(), Failure> {
    match arguments.command {
        OrderCommand::Show { file, output } => {
            let draft = Draft::read(&file)?;
            output.one(&json!({ "order": draft, "signers": draft.signers() }), |_| {
                draft.show();
                draft.show_signers();
            });
            Ok(())
        }
        OrderCommand::Approve { file, key } => {
            let draft = Draft::read(&file)?;
            draft.show();
            let approved = draft.by(&read_key(&key)?);
            approved.write(&file)?;
            approved.show_signers();
            Ok(())
        }
        OrderCommand::Submit { client, file, key, auth, within } => {
            let (draft, client) = (Draft::read(&file)?, client.first()?);
            if let Draft::Members(order) = &draft {
                let auth = auth.ok_or_else(|| Failure::new(2, "--auth: an auth node carries this order out"))?;
                Client::new(&auth, Duration::from_secs(10)).order(order).await?;
                println!("done: {}", told_of_member(&order.order.action));
                return Ok(());
            }
            let key = key.ok_or_else(|| {
                Failure::new(
                    2,
                    "--key: the transaction needs a signature: an operator's, or that of a client that may submit",
                )
            })?;
            draft.submit(Some(&client), None, &read_key(&key)?).await?;
            let Draft::Reconfiguration(approved) = &draft else {
                println!("done");
                return Ok(());
            };
            let begins = approved.order.epoch.next();
            if let Some(after) = client.status().await?.epoch_ends {
                println!("ordered: epoch {begins} begins above block {after}");
            }
            wait_for_epoch(&client, begins, Duration::from_secs(within)).await?;
            println!("epoch {begins} has begun");
            Ok(())
        }
    }
}

/// Has the chain carry out a transaction of its own.
pub(super) async fn carry_out(client: &Client, key: &SecretKey, what: SystemTransaction) -> Result<(), Failure> {
    let (genesis, status) = (client.genesis().await?, client.status().await?);
    let signed = what.sign(&genesis, key, unique_nonce(), status.height);
    have_ordered(client, signed).await
}

/// As [`carry_out`], of what is said about topics.
async fn carry_out_topics(client: &Client, key: &SecretKey, order: Approved<TopicOrder>) -> Result<(), Failure> {
    let (genesis, status) = (client.genesis().await?, client.status().await?);
    let signed = Instruction::Order(order).sign(&genesis, key, unique_nonce(), status.height);
    have_ordered(client, signed).await
}

async fn have_ordered(client: &Client, signed: Result<Transaction, LedgerError>) -> Result<(), Failure> {
    let transaction = signed.map_err(|error| Failure::new(6, error.to_string()))?;
    let results = client.submit(&[transaction], OUTCOME_WAIT).await?;
    match results.into_iter().next() {
        Some(result) => match (result.outcome, result.refused) {
            (Some(Outcome::Applied(_) | Outcome::Duplicate), _) => Ok(()),
            (Some(Outcome::Rejected(reason)), _) | (None, Some(reason)) => Err(Failure::new(6, reason)),
            (Some(outcome), _) => Err(Failure::new(6, format!("{outcome:?}"))),
            (None, None) => Err(Failure::new(5, format!("no outcome within {} s", OUTCOME_WAIT.as_secs()))),
        },
        None => Err(Failure::new(1, "the node says nothing of the transaction")),
    }
}

/// A key file.
pub(super) fn read_key(path: &Path) -> Result<SecretKey, Failure> {
    SecretKey::read(path).map_err(|error| Failure::new(78, error.to_string()))
}

fn told_of_client(change: &ClientChange) -> String {
    match change {
        ClientChange::Set(key, client) => {
            let roles: Vec<_> = client.roles.iter().map(ToString::to_string).collect();
            let roles = if roles.is_empty() { "nothing".to_owned() } else { roles.join(", ") };
            let rate = match client.per_second {
                0 => String::new(),
                rate => format!(", {rate} transactions a second at each node"),
            };
            format!("client {key} may: {roles}{rate}")
        }
        ClientChange::Remove(key) => format!("client {key} is listed no more"),
        ClientChange::Admission(standin_ledger::Admission::Open) => "everybody may submit and read".to_owned(),
        ClientChange::Admission(standin_ledger::Admission::Listed) => {
            "nobody but listed clients may submit and read".to_owned()
        }
    }
}

fn told_of_topic(change: &TopicChange) -> String {
    match change {
        TopicChange::Set(topic, Settings { sources, text, outside }) => {
            let what = if *text { "text" } else { "anything" };
            let takes = match sources {
                None => format!("topic {topic} takes {what} of every client that may publish"),
                Some(keys) => {
                    let keys: Vec<_> = keys.iter().map(ToString::to_string).collect();
                    format!("topic {topic} takes {what} of these sources: {}", keys.join(", "))
                }
            };
            let place = if *outside { "in the lock service of the nodes" } else { "on the chain" };
            format!("{takes}; its lock stands {place}")
        }
        TopicChange::Release(topic, fence) => {
            format!("whoever holds the lock of topic {topic} under fence {fence} loses it")
        }
        TopicChange::Skip { topic, from, upto } => {
            format!("data {from} to {upto} of topic {topic} are lost: they are given up, and no server publishes them")
        }
    }
}

fn told_of_member(action: &Action) -> String {
    match action {
        Action::Admit(Member { key, priority, site, address }) => {
            let node = key.node_id().short();
            // The file may come from anywhere: nothing in it is to look like something else.
            format!("node {node} ({key}) at {address:?}, site {site:?}, priority {priority}, is a member")
        }
        Action::Remove(node) => format!("node {node} is a member no more"),
    }
}

fn told(change: &Change) -> String {
    match change {
        Change::Hold { cluster, base: Base { holder, disk, .. } } => {
            let node = holder.node_id().short();
            format!(
                "node {node} ({holder}), on disk {disk:016x}, holds the seat of cluster {cluster}, with an empty log"
            )
        }
        Change::Operators(Operators { keys, needed }) => {
            let keys: Vec<_> = keys.iter().map(ToString::to_string).collect();
            format!("{needed} of these operators must approve: {}", keys.join(", "))
        }
        Change::Version(version) => {
            format!("blocks are executed by version {version} of the state machine; older programs stop")
        }
        Change::Add { cluster, members, base: Base { holder, disk, .. } } => {
            let member = |member: &Member| {
                let Member { key, priority, site, address } = member;
                format!("{} ({key}) at {address:?}, site {site:?}, priority {priority}", key.node_id().short())
            };
            let members: Vec<_> = members.iter().map(member).collect();
            let node = holder.node_id().short();
            let members = members.join("; ");
            format!(
                "cluster {cluster} is given a seat, held by node {node} on disk {disk:016x} at first. Members: {members}"
            )
        }
        Change::Auth { key, nodes, clusters } => {
            let nodes: Vec<_> = nodes.iter().map(|node| format!("{:?}", node.address)).collect();
            let named = |named: &Named| {
                let Named { cluster, members, holder, disk } = named;
                let node = holder.node_id().short();
                format!("{cluster} of {} members, held by node {node} on disk {disk:016x}", members.len())
            };
            let clusters: Vec<_> = clusters.iter().map(named).collect();
            format!(
                "grants are signed with {key}, by auth nodes at {}; every cluster begins with an empty log: {}",
                nodes.join(", "),
                clusters.join("; ")
            )
        }
        Change::Remove(cluster) => format!("cluster {cluster} holds its seat no more"),
    }
}
