//! `cluster`: which clusters hold seats, as operators order it through the chain.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand};
use standin::api::CandidateView;
use standin::client::Client;
use standin_foundation::{ClusterId, Incarnation};
use standin_ledger::Member;
use standin_ledger::epoch::Base;
use standin_ledger::reconfiguration::Change;

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
        if view.cluster != cluster.as_str() {
            let CandidateView { name, cluster: found, .. } = view;
            return Err(Failure::new(
                6,
                format!("{name} is configured as a node of cluster {found}, not of {cluster}"),
            ));
        }
        known.push((member, view));
    }
    let register = other.cluster().await?.register;
    let (_, first) = known.first().ok_or_else(|| Failure::new(2, "--member: a cluster has one at least"))?;
    if register == 0 {
        return Err(Failure::new(5, "the auth node has not answered the node that is asked: does it run?"));
    }
    let disk = u64::from_str_radix(&first.disk, 16).map_err(|error| Failure::new(1, error.to_string()))?;
    let base = Base { holder: first.key, disk, incarnation: Incarnation(register) };
    let priorities = (0..u8::try_from(known.len()).unwrap_or(u8::MAX)).rev();
    let admitted = known.iter().zip(priorities).map(|((new, view), priority)| Member {
        key: view.key,
        priority,
        site: new.site.clone(),
        address: new.bridge.clone().unwrap_or_else(|| view.bridge.clone()),
    });
    let members: Vec<_> = admitted.collect();
    if let Some((member, why)) = members.iter().find_map(|member| Some((member, member.check().err()?))) {
        return Err(Failure::new(2, format!("{}: {why}", member.key)));
    }
    Ok(Change::Add { cluster, members, base })
}
