//! `status --cluster`, `switch`, `auth`: who holds the seats.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde_json::json;
use standin::api::{ClusterView, RoleView};
use standin::client::Client;
use standin::config::NodeConfig;
use standin_console::actions::Order;
use standin_foundation::NodeId;

use super::act::OperatorArguments;
use super::output::OutputArguments;
use super::{ClientArguments, Failure};

/// How often a condition is looked at again.
const POLL: Duration = Duration::from_millis(10);

#[derive(Debug, Args)]
pub(super) struct SwitchArguments {
    #[command(flatten)]
    client: ClientArguments,
    #[command(flatten)]
    operator: OperatorArguments,
    /// The cluster whose seat is to move.
    cluster: String,
    /// The member that is to hold it, by name or id; the first of the others without it.
    #[arg(long)]
    to: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct AuthArguments {
    #[command(subcommand)]
    command: AuthCommand,
}

#[derive(Debug, Subcommand)]
enum AuthCommand {
    /// Show an auth node's register: who holds which seat, since which term.
    Status {
        /// The auth node's address.
        #[arg(long)]
        node: String,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Write down that grants are to be signed with another key, for an auth node that is lost, or whose key may be known to others. Every
    /// cluster begins anew with the node that holds its seat now, or with one that has all of its log: those must live until others follow
    /// them. Whom the auth node before had barred, since its results were wrong, is to be removed first. Nobody is asked yet.
    Replace {
        #[command(flatten)]
        client: ClientArguments,
        /// A new auth node that runs and waits (`standin init --role auth`): its HTTP address, and where its bridge can be reached, if that
        /// is not where it listens. Several share a key and a register.
        #[arg(long = "with", required = true, value_name = "HTTP[,BRIDGE]")]
        with: Vec<String>,
        /// The file to write.
        #[arg(long)]
        out: PathBuf,
    },
    /// Say of a stopped auth node that its register was brought back from a copy: no seat is granted before every node of its
    /// cluster has said what it knows.
    Recall {
        /// The auth node's configuration.
        #[arg(short, long)]
        config: PathBuf,
    },
}

/// What each node that answers says of its cluster.
pub(super) async fn views(clients: &[Client], wanted: &str) -> Result<Vec<(Client, ClusterView)>, Failure> {
    let (mut views, mut last) = (Vec::new(), None);
    for client in clients {
        match client.cluster().await {
            Ok(view) if wanted == "all" || view.cluster == wanted => views.push((client.clone(), view)),
            Ok(_) => {}
            Err(error) => last = Some(error),
        }
    }
    match last {
        _ if !views.is_empty() => Ok(views),
        Some(error) => Err(error.into()),
        None => Err(Failure::new(4, format!("none of the nodes given is in cluster `{wanted}`"))),
    }
}

pub(super) async fn status(clients: &ClientArguments, wanted: &str, output: OutputArguments) -> Result<(), Failure> {
    let mut views: Vec<_> = views(&clients.clients(), wanted).await?.into_iter().map(|(_, view)| view).collect();
    views.sort_by_key(|view| {
        (view.seat, view.role != RoleView::Active, view.role != RoleView::Standby, view.name.clone())
    });
    output.all(&views, print_table);
    Ok(())
}

fn print_table(views: &[ClusterView]) {
    let names: BTreeMap<_, _> = views.iter().map(|view| (view.node, view.name.as_str())).collect();
    let name = |node: &NodeId| names.get(node).map_or_else(|| node.short(), |name| (*name).to_owned());
    println!(
        "{:<8} {:>4} {:<10} {:<8} {:<8} {:>5} {:<10} {:<28} {:>7} suspicion",
        "cluster", "seat", "node", "site", "role", "term", "holder", "in sync", "behind"
    );
    for view in views {
        let holder = view.holder.as_ref().map(name).unwrap_or_else(|| "-".to_owned());
        let in_sync = view.in_sync.iter().map(name).collect::<Vec<_>>().join(" ");
        // The holder knows what has been acknowledged; whoever follows knows what its holder has released.
        let behind = view.mates.iter().filter_map(|mate| mate.behind).max();
        let behind = behind.unwrap_or_else(|| view.released.saturating_sub(view.sound));
        let suspicion = match (&view.suspicion, view.suspicion_ms, view.complete) {
            (Some(cause), Some(ms), _) => format!("{cause} for {ms} ms"),
            (_, _, false) => "not complete".to_owned(),
            _ => "-".to_owned(),
        };
        let role = format!("{:?}", view.role).to_lowercase();
        println!(
            "{:<8} {:>4} {:<10} {:<8} {role:<8} {:>5} {holder:<10} {in_sync:<28} {behind:>7} {suspicion}",
            view.cluster, view.seat, view.name, view.site, view.term
        );
    }
}

/// Moves a seat on purpose, and waits until another node holds it.
pub(super) async fn switch(arguments: SwitchArguments) -> Result<(), Failure> {
    let clients = arguments.client.clients();
    let found = views(&clients, &arguments.cluster).await?;
    let active = found.iter().find(|(_, view)| view.role == RoleView::Active);
    let (holder, view) = active.ok_or_else(|| {
        Failure::new(6, format!("none of the nodes given holds the seat of cluster `{}` now", arguments.cluster))
    })?;
    let to = match &arguments.to {
        None => None,
        Some(text) => {
            let named = found.iter().find(|(_, view)| view.name == *text).map(|(_, view)| view.node);
            let unknown = || Failure::new(4, format!("`{text}` is no member of cluster `{}`", arguments.cluster));
            Some(named.or_else(|| text.parse().ok()).ok_or_else(unknown)?)
        }
    };
    let (begun, before) = (Instant::now(), view.node);
    let args = to.map(|to| ("to".to_owned(), to.to_string())).into_iter().collect();
    let order = Order { on: arguments.cluster.clone(), args };
    let Some(done) = arguments.operator.order(holder, "switch", order).await? else { return Ok(()) };
    let deadline = begun + Duration::from_secs(10);
    loop {
        for (client, _) in &found {
            if let Ok(view) = client.cluster().await
                && view.role == RoleView::Active
                && view.node != before
            {
                let ms = begun.elapsed().as_millis();
                let (cluster, term, name) = (&view.cluster, view.term, &view.name);
                let told = json!({
                    "done": done, "cluster": cluster, "node": view.node, "name": name, "term": term, "ms": ms as u64
                });
                arguments.operator.output.one(&told, |_| {
                    println!("{done}\ncluster {cluster}: {name} holds the seat, term {term}, after {ms} ms");
                });
                return Ok(());
            }
        }
        if Instant::now() > deadline {
            return Err(Failure::new(5, "no other node has taken the seat over: see `status --cluster all`"));
        }
        tokio::time::sleep(POLL).await;
    }
}

pub(super) async fn auth(arguments: AuthArguments) -> Result<(), Failure> {
    match arguments.command {
        AuthCommand::Status { node, output } => auth_status(&node, output).await,
        AuthCommand::Replace { client, with, out } => {
            let with: Result<Vec<_>, _> = with.iter().map(|text| text.parse()).collect();
            let with = with.map_err(|error: String| Failure::new(2, error))?;
            let clients = client.clients();
            let change = super::consortium::replace_auth(&clients, &with).await?;
            super::reconfigure::write_draft(&client.first()?, change, &out).await
        }
        AuthCommand::Recall { config } => {
            let incarnation = standin::node::recall(&NodeConfig::read(&config)?)?;
            println!("the register begins its life {incarnation}: start the auth node, and every node will be asked");
            Ok(())
        }
    }
}

async fn auth_status(node: &str, output: OutputArguments) -> Result<(), Failure> {
    output.all(&Client::new(node, Duration::from_secs(5)).auth().await?, |clusters| {
        println!("{:<8} {:>5} {:<10} {:<28} {:>8} state", "cluster", "term", "holder", "in sync", "age ms");
        for cluster in clusters {
            let holder = cluster.holder.map_or_else(|| "-".to_owned(), |holder| holder.short());
            let in_sync = cluster.in_sync.iter().map(|node| node.short()).collect::<Vec<_>>().join(" ");
            let age = cluster.age_ms.map_or_else(|| "-".to_owned(), |age| age.to_string());
            let state = match (cluster.recalling, cluster.vacant) {
                (Some(missing), _) => format!("recalling, {missing} nodes have not answered"),
                (None, true) => "vacant".to_owned(),
                (None, false) => "held".to_owned(),
            };
            println!("{:<8} {:>5} {holder:<10} {in_sync:<28} {age:>8} {state}", cluster.cluster, cluster.term);
        }
    });
    Ok(())
}
