//! `cluster` and `auth replace`: which clusters hold seats, and who grants them, as operators order it through the chain.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand};
use standin::api::{CandidateView, RoleView};
use standin::client::Client;
use standin_foundation::{ClusterId, Incarnation};
use standin_ledger::Member;
use standin_ledger::epoch::{AuthNode, Base};
use standin_ledger::reconfiguration::{Change, Named};

use super::cluster::views;
use super::reconfigure::write_draft;
use super::{ClientArguments, Failure};

#[derive(Debug, Args)]
pub(super) struct ClusterArguments {
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// Write down that a cluster is to be given a seat. Its nodes run, and wait for it; the first of them holds the seat at first.
    /// Nobody is asked yet.
    Add {
        #[command(flatten)]
        client: ClientArguments,
        /// The cluster.
        cluster: ClusterId,
        /// A node of it, the first to be elected first: its HTTP address, its site, and where its bridge can be reached, if that is not
        /// where it listens.
        #[arg(long = "member", required = true, value_name = "HTTP,SITE[,BRIDGE]")]
        members: Vec<NewMember>,
        /// The file to write.
        #[arg(long)]
        out: PathBuf,
    },
    /// Write down that a cluster is to hold its seat no more. Nobody is asked yet.
    Remove {
        #[command(flatten)]
        client: ClientArguments,
        /// The cluster.
        cluster: ClusterId,
        /// The file to write.
        #[arg(long)]
        out: PathBuf,
    },
}

/// A node of a cluster that is to be added.
#[derive(Debug, Clone)]
pub(super) struct NewMember {
    /// Where its HTTP is reached.
    pub(super) http: String,
    /// Where it stands.
    pub(super) site: String,
    /// Where its bridge can be reached; none for where it listens.
    pub(super) bridge: Option<String>,
}

impl FromStr for NewMember {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<_> = text.split(',').map(|part| part.trim().to_owned()).collect();
        match parts.as_slice() {
            [http, site] => Ok(Self { http: http.clone(), site: site.clone(), bridge: None }),
            [http, site, bridge] => Ok(Self { http: http.clone(), site: site.clone(), bridge: Some(bridge.clone()) }),
            _ => Err("expected HTTP,SITE or HTTP,SITE,BRIDGE, such as http://10.0.0.5:8001,frankfurt".to_owned()),
        }
    }
}

pub(super) async fn cluster(arguments: ClusterArguments) -> Result<(), Failure> {
    match arguments.command {
        ClusterCommand::Add { client, cluster, members, out } => {
            let client = client.first()?;
            let change = add(&client, cluster, &members).await?;
            write_draft(&client, change, &out).await
        }
        ClusterCommand::Remove { client, cluster, out } => {
            let client = client.first()?;
            if client.epoch_table().await?.seat_of(&cluster).is_none() {
                return Err(Failure::new(4, format!("cluster `{cluster}` holds no seat")));
            }
            write_draft(&client, Change::Remove(cluster), &out).await
        }
    }
}

/// That a cluster of these nodes is to be given a seat, which the first of them holds with the disk that it has now. `other` tells the life
/// of the auth node's register.
pub(super) async fn add(other: &Client, cluster: ClusterId, members: &[NewMember]) -> Result<Change, Failure> {
    let mut known = Vec::with_capacity(members.len());
    for member in members {
        let view = Client::new(&member.http, Duration::from_secs(10)).candidate().await?;
        if view.cluster.as_deref() != Some(cluster.as_str()) {
            let CandidateView { name, cluster: found, .. } = view;
            let found = found.map_or_else(|| "an auth node".to_owned(), |found| format!("a node of cluster {found}"));
            return Err(Failure::new(6, format!("{name} is configured as {found}, not as one of {cluster}")));
        }
        known.push((member, view));
    }
    for membership in other.memberships().await? {
        if let Some((_, view)) = known.iter().find(|(_, view)| membership.members.contains_key(&view.node)) {
            let (name, of) = (&view.name, &membership.cluster);
            return Err(Failure::new(6, format!("{name} is a member of cluster {of}: remove it there first")));
        }
    }
    let register = other.cluster().await?.register;
    let (_, first) = known.first().ok_or_else(|| Failure::new(2, "--member: a cluster has one at least"))?;
    if register == 0 {
        return Err(Failure::new(5, "the auth node has not answered the node that is asked: does it run?"));
    }
    let disk = u64::from_str_radix(first.disk.as_deref().unwrap_or_default(), 16)
        .map_err(|error| Failure::new(1, error.to_string()))?;
    let base = Base { holder: first.key, disk, incarnation: Incarnation(register) };
    let priorities = (0..u8::try_from(known.len()).unwrap_or(u8::MAX)).rev();
    let admitted = known.iter().zip(priorities).map(|((new, view), priority)| Member {
        key: view.key,
        priority,
        site: new.site.clone(),
        address: new.bridge.clone().unwrap_or_else(|| view.bridge.clone()),
    });
    let members: Vec<_> = admitted.collect();
    for member in &members {
        member.check().map_err(|why| Failure::new(2, format!("{}: {why}", member.key)))?;
        check_reachable(&member.address)?;
    }
    Ok(Change::Add { cluster, members, base })
}

/// What a node listens on may be all of its addresses, which is nothing that others can dial.
fn check_reachable(address: &str) -> Result<(), Failure> {
    match address.parse::<SocketAddr>() {
        Ok(parsed) if parsed.ip().is_unspecified() => {
            Err(Failure::new(2, format!("{address} is no address that others can reach: give the bridge's")))
        }
        _ => Ok(()),
    }
}

/// A new auth node.
#[derive(Debug, Clone)]
pub(super) struct NewAuth {
    /// Where its HTTP is reached.
    pub(super) http: String,
    /// Where its bridge can be reached; none for where it listens.
    pub(super) bridge: Option<String>,
}

impl FromStr for NewAuth {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<_> = text.split(',').map(|part| part.trim().to_owned()).collect();
        match parts.as_slice() {
            [http] => Ok(Self { http: http.clone(), bridge: None }),
            [http, bridge] => Ok(Self { http: http.clone(), bridge: Some(bridge.clone()) }),
            _ => Err("--with: expected HTTP or HTTP,BRIDGE, such as http://10.0.0.9:8001".to_owned()),
        }
    }
}

/// That grants are to be signed by these auth nodes, which wait. Every cluster is named with the node that holds its seat, or with one
/// that has all of its log, among those that are asked.
pub(super) async fn replace_auth(clients: &[Client], with: &[NewAuth]) -> Result<Change, Failure> {
    let (mut nodes, mut keys) = (Vec::new(), Vec::new());
    for new in with {
        let CandidateView { name, key, grants, bridge, .. } =
            Client::new(&new.http, Duration::from_secs(10)).candidate().await?;
        let grants = grants.ok_or_else(|| Failure::new(6, format!("{name} is not configured as an auth node")))?;
        keys.push(grants);
        let address = new.bridge.clone().unwrap_or(bridge);
        check_reachable(&address)?;
        nodes.push(AuthNode { key, address });
    }
    let key = match keys.as_slice() {
        [first, others @ ..] if others.iter().all(|other| other == first) => *first,
        _ => {
            return Err(Failure::new(
                6,
                "the new auth nodes have different keys (`auth.key_file`): they must share one",
            ));
        }
    };
    let first = clients.first().ok_or_else(|| Failure::new(2, "--node needs an address"))?;
    let (table, memberships) = (first.epoch_table().await?, first.memberships().await?);
    let views = views(clients, "all").await?;
    let mut named = Vec::new();
    for seat in table.seats.into_values() {
        let of_cluster = views.iter().map(|(_, view)| view).filter(|view| view.cluster == seat.cluster.as_str());
        let whole = of_cluster.filter(|view| view.complete);
        let holder = whole.max_by_key(|view| (view.role == RoleView::Active, view.term, view.head));
        let holder = holder.ok_or_else(|| {
            let what =
                format!("none of the nodes given has the log of cluster {}: name others with --node", seat.cluster);
            Failure::new(6, what)
        })?;
        let disk = u64::from_str_radix(&holder.disk, 16).map_err(|error| Failure::new(1, error.to_string()))?;
        let members = memberships.iter().find(|membership| membership.cluster == seat.cluster);
        let members = members.map(|membership| membership.members.values().cloned().collect()).unwrap_or(seat.members);
        named.push(Named { cluster: seat.cluster, members, holder: holder.key, disk });
    }
    Ok(Change::Auth { key, nodes, clusters: named })
}
