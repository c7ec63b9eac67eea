//! `reconfigure`: what operators order through the chain, and what has taken effect.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use standin::api::StatusView;
use standin::client::Client;
use standin_foundation::{ClusterId, Epoch, Incarnation, PublicKey, SecretKey};
use standin_ledger::epoch::{Base, EpochTable};
use standin_ledger::reconfiguration::{Approval, Change, Named};
use standin_ledger::{ApprovedReconfiguration, Member, Operators, Outcome, Reconfiguration, SystemTransaction};

use super::read::json;
use super::submit::unique_nonce;
use super::{ClientArguments, Failure, Output};

/// How often a condition is looked at again.
const POLL: Duration = Duration::from_millis(20);
/// How long a node that has just been admitted may wait for the auth node's first answer.
const AUTH_WAIT: Duration = Duration::from_secs(5);
/// How long an outcome is waited for.
const OUTCOME_WAIT: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(super) struct ReconfigureArguments {
    #[command(subcommand)]
    command: ReconfigureCommand,
}

#[derive(Debug, Subcommand)]
enum ReconfigureCommand {
    /// Show the epoch, who holds the seats in it, and who approves what comes next.
    Show {
        #[command(flatten)]
        client: ClientArguments,
        /// How to print.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Write down that others are to approve reconfigurations; nobody is asked yet.
    Operators {
        #[command(flatten)]
        client: ClientArguments,
        /// The operators' public keys, separated by commas.
        #[arg(long, value_delimiter = ',', required = true)]
        keys: Vec<PublicKey>,
        /// How many of them must approve.
        #[arg(long, default_value_t = 1)]
        needed: u16,
        /// The file to write.
        #[arg(long)]
        out: PathBuf,
    },
    /// Write down that a node is to hold a seat that nobody can take over: with its nodes the seat's logs are lost, or nobody who is
    /// left may be elected. Its log begins anew, and whoever held it before speaks for it no more. Nobody is asked yet.
    Hold {
        #[command(flatten)]
        client: ClientArguments,
        /// The cluster that holds the seat.
        cluster: ClusterId,
        /// Address of the node that is to hold it: a member of the cluster that runs, on the disk that it is to go on with.
        #[arg(long)]
        holder: String,
        /// The file to write.
        #[arg(long)]
        out: PathBuf,
    },
    /// Add an operator's approval to a file, after showing what it approves.
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
        /// The key that signs the transaction: any.
        #[arg(long, env = "STANDIN_KEY")]
        key: PathBuf,
        /// How long to wait for the next epoch, in s.
        #[arg(long, default_value_t = 60)]
        within: u64,
    },
}

pub(super) async fn reconfigure(arguments: ReconfigureArguments) -> Result<(), Failure> {
    match arguments.command {
        ReconfigureCommand::Show { client, output } => show(&client.first()?, output).await,
        ReconfigureCommand::Operators { client, keys, needed, out } => {
            write_draft(&client.first()?, Change::Operators(Operators { keys, needed }), &out).await
        }
        ReconfigureCommand::Hold { client, cluster, holder, out } => {
            let client = client.first()?;
            let change = hold(&Client::new(&holder, Duration::from_secs(10)), &client, cluster).await?;
            write_draft(&client, change, &out).await
        }
        ReconfigureCommand::Approve { file, key } => approve(&file, &key),
        ReconfigureCommand::Submit { client, file, key, within } => {
            let (client, approved) = (client.first()?, read(&file)?);
            let begins = approved.reconfiguration.epoch.next();
            let status = submit(&client, &read_key(&key)?, &approved).await?;
            if let Some(after) = status.epoch_ends {
                println!("ordered: epoch {begins} begins above block {after}");
            }
            wait_for_epoch(&client, begins, Duration::from_secs(within)).await?;
            println!("epoch {begins} has begun");
            Ok(())
        }
    }
}

pub(super) async fn write_draft(client: &Client, change: Change, out: &Path) -> Result<(), Failure> {
    if out.exists() {
        return Err(Failure::new(6, format!("{} exists: nothing is overwritten", out.display())));
    }
    write(out, &draft(client, vec![change]).await?)?;
    println!("{} is to be approved with `standin reconfigure approve`", out.display());
    Ok(())
}

/// That this node is to hold the seat of its cluster, with the disk that it has now. Any other node tells the register's life, too: while
/// a register is recalled the auth node answers nobody whom it has not admitted, and admits nobody.
pub(super) async fn hold(node: &Client, other: &Client, cluster: ClusterId) -> Result<Change, Failure> {
    let mut view = node.cluster().await?;
    if view.cluster != cluster.as_str() {
        return Err(Failure::new(6, format!("{} is a node of cluster {}, not of {cluster}", view.name, view.cluster)));
    }
    let begun = Instant::now();
    while view.register == 0 && begun.elapsed() < AUTH_WAIT {
        tokio::time::sleep(POLL).await;
        view = node.cluster().await?;
    }
    let disk = u64::from_str_radix(&view.disk, 16).map_err(|error| Failure::new(1, error.to_string()))?;
    let register = view.register.max(other.cluster().await?.register);
    if register == 0 {
        return Err(Failure::new(
            5,
            "the auth node has answered neither this node nor the one that is asked: does it run?",
        ));
    }
    if view.register == 0 {
        eprintln!(
            "the auth node has not answered {}: it speaks for nobody before it is admitted (`standin member admit`)",
            view.name
        );
    }
    let base = Base { holder: view.key, disk, incarnation: Incarnation(register) };
    Ok(Change::Hold { cluster, base })
}

fn read_key(path: &Path) -> Result<SecretKey, Failure> {
    SecretKey::read(path).map_err(|error| Failure::new(78, error.to_string()))
}

fn read(path: &Path) -> Result<ApprovedReconfiguration, Failure> {
    let text = fs::read_to_string(path).map_err(|error| Failure::new(1, format!("{}: {error}", path.display())))?;
    serde_json::from_str(&text)
        .map_err(|error| Failure::new(78, format!("{}: no reconfiguration: {error}", path.display())))
}

fn write(path: &Path, approved: &ApprovedReconfiguration) -> Result<(), Failure> {
    Ok(fs::write(path, format!("{}\n", json(approved)))?)
}

fn approve(file: &Path, key: &Path) -> Result<(), Failure> {
    let (mut approved, key) = (read(file)?, read_key(key)?);
    let Reconfiguration { chain, epoch, changes } = &approved.reconfiguration;
    println!("ordered in epoch {epoch} of the chain {chain}:");
    changes.iter().for_each(|change| println!("  {}", told(change)));
    let approval = approved.reconfiguration.approve(&key);
    approved.approvals.retain(|known| known.operator != approval.operator);
    approved.approvals.push(approval);
    write(file, &approved)?;
    println!("approved by {} operators", approved.approved_by());
    Ok(())
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
        Change::Add { cluster, members, base: Base { holder, disk, .. } } => {
            let member = |member: &Member| {
                let Member { key, priority, site, address } = member;
                format!("{} ({key}) at {address}, site {site}, priority {priority}", key.node_id().short())
            };
            let members: Vec<_> = members.iter().map(member).collect();
            let node = holder.node_id().short();
            let members = members.join("; ");
            format!(
                "cluster {cluster} is given a seat, held by node {node} on disk {disk:016x} at first. Members: {members}"
            )
        }
        Change::Auth { key, nodes, clusters } => {
            let nodes: Vec<_> = nodes.iter().map(|node| node.address.as_str()).collect();
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

/// A reconfiguration for the epoch that the node is in.
pub(super) async fn draft(client: &Client, changes: Vec<Change>) -> Result<ApprovedReconfiguration, Failure> {
    let (genesis, status) = (client.genesis().await?, client.status().await?);
    let reconfiguration = Reconfiguration { chain: genesis.digest(), epoch: Epoch(status.epoch), changes };
    Ok(ApprovedReconfiguration { reconfiguration, approvals: Vec::<Approval>::new() })
}

/// Has the chain carry it out; gives the status of the node once it has.
pub(super) async fn submit(
    client: &Client,
    key: &SecretKey,
    approved: &ApprovedReconfiguration,
) -> Result<StatusView, Failure> {
    let (genesis, status) = (client.genesis().await?, client.status().await?);
    let signed = SystemTransaction::Reconfigure(approved.clone()).sign(&genesis, key, unique_nonce(), status.height);
    let transaction = signed.map_err(|error| Failure::new(6, error.to_string()))?;
    let results = client.submit(&[transaction], OUTCOME_WAIT).await?;
    match results.into_iter().next() {
        Some(result) => match (result.outcome, result.refused) {
            (Some(Outcome::Applied(_) | Outcome::Duplicate), _) => Ok(client.status().await?),
            (Some(Outcome::Rejected(reason)), _) | (None, Some(reason)) => Err(Failure::new(6, reason)),
            (Some(outcome), _) => Err(Failure::new(6, format!("{outcome:?}"))),
            (None, None) => Err(Failure::new(5, format!("no outcome within {} s", OUTCOME_WAIT.as_secs()))),
        },
        None => Err(Failure::new(1, "the node says nothing of the transaction")),
    }
}

/// Waits until a node votes in an epoch.
pub(super) async fn wait_for_epoch(client: &Client, epoch: Epoch, within: Duration) -> Result<(), Failure> {
    let begun = Instant::now();
    loop {
        let status = client.status().await;
        if status.as_ref().is_ok_and(|status| status.epoch >= epoch.0) {
            return Ok(());
        }
        if begun.elapsed() > within {
            let ends = status.ok().and_then(|status| status.epoch_ends);
            let ends = ends.map(|height| format!(": the epoch before ends with block {height}")).unwrap_or_default();
            return Err(Failure::new(5, format!("epoch {epoch} has not begun within {} s{ends}", within.as_secs())));
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn show(client: &Client, output: Output) -> Result<(), Failure> {
    let (status, table) = (client.status().await?, client.epoch_table().await?);
    if !matches!(output, Output::Table) {
        println!("{}", json(&table));
        return Ok(());
    }
    let EpochTable { epoch, after, auth, auth_nodes, operators, seats } = table;
    println!("epoch {epoch} since block {}", after.next());
    if let Some(after) = status.epoch_ends {
        println!("the next one has been ordered: it begins above block {after}");
    }
    if let Some(key) = auth {
        let nodes: Vec<_> = auth_nodes.iter().map(|node| node.address.as_str()).collect();
        let place = if nodes.is_empty() { "as configured".to_owned() } else { nodes.join(", ") };
        println!("grants are signed with {key}, by auth nodes at: {place}");
    }
    println!("{} of these operators must approve what changes:", operators.needed);
    operators.keys.iter().for_each(|key| println!("  {key}"));
    for (number, seat) in &seats {
        let base = seat.base.filter(|_| auth.is_some());
        let base = base.map(|base| format!(", begun by node {}", base.holder.node_id().short())).unwrap_or_default();
        println!("seat {number}: cluster {}, since epoch {}{base}", seat.cluster, seat.since);
    }
    Ok(())
}
