//! `reconfigure`: what operators order for the next epoch, and what has taken effect.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use standin::api::StatusView;
use standin::client::Client;
use standin_foundation::{ClusterId, Epoch, Incarnation, PublicKey, SecretKey};
use standin_ledger::epoch::{Base, EpochTable};
use standin_ledger::reconfiguration::Change;
use standin_ledger::{Approved, ApprovedReconfiguration, Operators, Reconfiguration, SystemTransaction};

use super::orders::{Draft, carry_out};
use super::output::OutputArguments;
use super::{ClientArguments, Failure};

/// How often a condition is looked at again.
const POLL: Duration = Duration::from_millis(20);
/// How long a node that has just been admitted may wait for the auth node's first answer.
const AUTH_WAIT: Duration = Duration::from_secs(5);

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
        #[command(flatten)]
        output: OutputArguments,
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
    /// Write down that blocks are to be executed by a newer version of the state machine's rules. Nodes whose program does not know it stop
    /// there, so all that are named with --node are asked first. Nobody else is asked yet.
    Version {
        #[command(flatten)]
        client: ClientArguments,
        /// The version.
        version: u32,
        /// The file to write.
        #[arg(long)]
        out: PathBuf,
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
        ReconfigureCommand::Version { client, version, out } => {
            for node in client.clients() {
                let StatusView { name, state_machine, .. } = node.status().await?;
                if state_machine.known < version {
                    let what = format!("{name} runs a program that knows versions up to {}", state_machine.known);
                    return Err(Failure::new(6, format!("{what}: install a newer one there first")));
                }
            }
            write_draft(&client.first()?, Change::Version(version), &out).await
        }
    }
}

pub(super) async fn write_draft(client: &Client, change: Change, out: &Path) -> Result<(), Failure> {
    Draft::Reconfiguration(draft(client, vec![change]).await?).write_new(out)
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

/// A reconfiguration for the epoch that the node is in.
pub(super) async fn draft(client: &Client, changes: Vec<Change>) -> Result<ApprovedReconfiguration, Failure> {
    let (genesis, status) = (client.genesis().await?, client.status().await?);
    let order = Reconfiguration { chain: genesis.digest(), epoch: Epoch(status.epoch), changes };
    Ok(Approved::draft(order))
}

/// Has the chain carry it out; gives the status of the node once it has.
pub(super) async fn submit(
    client: &Client,
    key: &SecretKey,
    approved: &ApprovedReconfiguration,
) -> Result<StatusView, Failure> {
    carry_out(client, key, SystemTransaction::Reconfigure(approved.clone())).await?;
    Ok(client.status().await?)
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

async fn show(client: &Client, output: OutputArguments) -> Result<(), Failure> {
    let (status, table) = (client.status().await?, client.epoch_table().await?);
    output.one(&table, |table| print_epoch(&status, table));
    Ok(())
}

fn print_epoch(status: &StatusView, table: &EpochTable) {
    let EpochTable { epoch, after, auth, auth_nodes, operators, version, seats } = table;
    println!("epoch {epoch} since block {}", after.next());
    if let Some(after) = status.epoch_ends {
        println!("the next one has been ordered: it begins above block {after}");
    }
    println!(
        "version {version} of the state machine; this node's program knows versions up to {}",
        status.state_machine.known
    );
    if let Some(key) = auth {
        let nodes: Vec<_> = auth_nodes.iter().map(|node| node.address.as_str()).collect();
        let place = if nodes.is_empty() { "as configured".to_owned() } else { nodes.join(", ") };
        println!("grants are signed with {key}, by auth nodes at: {place}");
    }
    println!("{} of these operators must approve what changes:", operators.needed);
    operators.keys.iter().for_each(|key| println!("  {key}"));
    for (number, seat) in seats {
        let base = seat.base.filter(|_| auth.is_some());
        let base = base.map(|base| format!(", begun by node {}", base.holder.node_id().short())).unwrap_or_default();
        println!("seat {number}: cluster {}, since epoch {}{base}", seat.cluster, seat.since);
    }
}
