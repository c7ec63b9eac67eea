//! `member`: who belongs to a cluster, by the auth node's register.

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use standin::client::Client;
use standin_auth::actor::ClusterView;
use standin_auth::messages::{Action, MemberOrder};
use standin_foundation::{ClusterId, NodeId, PublicKey, SecretKey};
use standin_ledger::{Approved, Member};

use super::Failure;
use super::orders::{Approving, Draft};
use super::output::OutputArguments;

/// How often a condition is looked at again.
const POLL: Duration = Duration::from_millis(20);

#[derive(Debug, Args)]
pub(super) struct MemberArguments {
    #[command(subcommand)]
    command: MemberCommand,
}

/// Whom to order, and as whom.
#[derive(Debug, Args)]
struct OrderArguments {
    /// Address of an auth node.
    #[arg(long, env = "STANDIN_AUTH")]
    auth: String,
    #[command(flatten)]
    approving: Approving,
}

/// A node that is to belong to a cluster.
#[derive(Debug, Args)]
struct NewMember {
    /// The cluster.
    cluster: ClusterId,
    /// The node's public key.
    public_key: PublicKey,
    /// Where its bridge can be reached: host and port.
    #[arg(long)]
    address: String,
    /// Where it stands: what is lost together has the same name.
    #[arg(long)]
    site: String,
    /// The higher, the earlier it is elected.
    #[arg(long, default_value_t = 0)]
    priority: u8,
}

#[derive(Debug, Subcommand)]
enum MemberCommand {
    /// Show the members of all clusters.
    List {
        /// Address of an auth node.
        #[arg(long, env = "STANDIN_AUTH")]
        auth: String,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Admit a node to a cluster, or change what is said of one that is admitted. One whose results were wrong may be elected again.
    Admit {
        #[command(flatten)]
        order: OrderArguments,
        #[command(flatten)]
        member: NewMember,
    },
    /// Admit a node, and wait until it is in its cluster's in-sync set.
    Add {
        #[command(flatten)]
        order: OrderArguments,
        #[command(flatten)]
        member: NewMember,
        /// How long to wait, in s.
        #[arg(long, default_value_t = 60)]
        within: u64,
    },
    /// Remove a node that does not hold its cluster's seat.
    Remove {
        #[command(flatten)]
        order: OrderArguments,
        /// The cluster.
        cluster: ClusterId,
        /// The node's id.
        node: NodeId,
    },
}

pub(super) async fn member(arguments: MemberArguments) -> Result<(), Failure> {
    match arguments.command {
        MemberCommand::List { auth, output } => list(&auth, output).await,
        MemberCommand::Admit { order, member } => admit(&order, member).await.map(drop),
        MemberCommand::Add { order, member, within } => match admit(&order, member).await? {
            Some(node) => in_sync(&order.auth, node, Duration::from_secs(within)).await,
            None => Ok(()),
        },
        MemberCommand::Remove { order, cluster, node } => {
            if carry_out(&order, cluster.clone(), Action::Remove(node)).await? {
                println!("{} is removed from cluster {cluster}", node.short());
            }
            Ok(())
        }
    }
}

fn client(auth: &str) -> Client {
    Client::new(auth, Duration::from_secs(10))
}

async fn admit(arguments: &OrderArguments, new: NewMember) -> Result<Option<NodeId>, Failure> {
    let NewMember { cluster, public_key, address, site, priority } = new;
    let node = public_key.node_id();
    let member = Member { key: public_key, priority, site, address };
    if !carry_out(arguments, cluster.clone(), Action::Admit(member)).await? {
        return Ok(None);
    }
    println!("{} is admitted to cluster {cluster}", node.short());
    Ok(Some(node))
}

/// Says whether it was done; it was not if it was written to a file.
async fn carry_out(arguments: &OrderArguments, cluster: ClusterId, action: Action) -> Result<bool, Failure> {
    let auth = client(&arguments.auth);
    let draft = Draft::Members(Approved::draft(draft(&auth, cluster, action).await?));
    arguments.approving.settle(draft, None, Some(&auth)).await
}

/// For the list of members that stands there now: if other operators are faster, nothing is done.
async fn draft(auth: &Client, cluster: ClusterId, action: Action) -> Result<MemberOrder, Failure> {
    let chain = auth.genesis().await?.digest();
    let clusters = auth.auth().await?;
    let found = clusters.into_iter().find(|view| view.cluster == cluster);
    let found = found.ok_or_else(|| Failure::new(4, format!("there is no cluster `{cluster}`")))?;
    let clears = matches!(&action, Action::Admit(member) if found.not_electable.contains(&member.key.node_id()));
    Ok(MemberOrder { chain, cluster, listed: found.listed, version: found.membership_version, action, clears })
}

/// Has the only operator's order carried out.
pub(super) async fn order(client: &Client, key: &SecretKey, cluster: ClusterId, action: Action) -> Result<(), Failure> {
    client.order(&Approved::draft(draft(client, cluster, action).await?).by(key)).await?;
    Ok(())
}

async fn in_sync(auth: &str, node: NodeId, within: Duration) -> Result<(), Failure> {
    let (client, begun) = (client(auth), Instant::now());
    loop {
        let clusters = client.auth().await?;
        if let Some(view) = clusters.iter().find(|view| view.in_sync.contains(&node)) {
            let ms = begun.elapsed().as_millis();
            println!(
                "{} is in the in-sync set of cluster {}, term {}, after {ms} ms",
                node.short(),
                view.cluster,
                view.term
            );
            return Ok(());
        }
        if begun.elapsed() > within {
            return Err(Failure::new(
                5,
                "the node is admitted, and not in sync: does it run, and is its address right?",
            ));
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn list(auth: &str, output: OutputArguments) -> Result<(), Failure> {
    output.all(&client(auth).auth().await?, |clusters| clusters.iter().for_each(print_members));
    Ok(())
}

fn print_members(view: &ClusterView) {
    println!("cluster {}, term {}", view.cluster, view.term);
    for (node, member) in &view.admitted {
        let state = match (view.holder == Some(*node), view.in_sync.contains(node)) {
            (true, _) => "holder",
            (false, true) => "in sync",
            (false, false) => "not in sync",
        };
        let barred = if view.not_electable.contains(node) { ", not electable: its results were wrong" } else { "" };
        let address = if member.address.is_empty() { "as configured" } else { &member.address };
        println!("  {node}  priority {:<3} site {:<10} at {address:<24} {state}{barred}", member.priority, member.site);
    }
}
