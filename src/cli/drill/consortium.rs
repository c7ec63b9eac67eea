//! Clusters are added to the chain and removed from it, and the auth node is replaced, by the chain's order, under load.

use std::collections::BTreeSet;
use std::time::Instant;

use standin_foundation::{ClusterId, Epoch, Seat};
use standin_ledger::reconfiguration::Change;

use super::super::consortium::{NewAuth, NewMember, add, replace_auth};
use super::super::newcomer::{Where, write_new_auth, write_newcomer};
use super::epochs::{anyone, in_epoch, order};
use super::seats::{Holder, POLL, SOON};
use super::{Drill, Failure};

/// A fifth cluster comes: its nodes run, the operators order it, and it votes. Then its holder is killed and its standby goes on; then
/// all nodes of another cluster are killed, which only five seats can do without and still have one more than half of the rest; last, all
/// nodes start anew.
pub(super) async fn cluster_added(drill: &mut Drill) -> Result<(), Failure> {
    let operator = drill.operator_key()?;
    let (cluster, seat) = (named("e")?, Seat(drill.cluster_sizes().len() as u16));
    let (nodes, members) = candidates(drill, &cluster).await?;
    drill.progress("while the new nodes wait", 300, SOON).await;

    let begun = Instant::now();
    let change = add(&anyone(drill).await?, cluster.clone(), &members).await?;
    order(drill, &operator, change).await?;
    let none = Holder {
        node: nodes.first().copied().unwrap_or_default(),
        seat,
        term: Default::default(),
        height: Default::default(),
    };
    drill.recovery_ms = drill.seen_voting(&nodes, none, begun).await?;
    drill.progress("with five clusters", 300, SOON).await;
    in_epoch(drill, Epoch(1), None).await?;
    all_follow(drill, &cluster, nodes.len()).await?;
    for node in &nodes {
        drill.caught_up(*node, SOON).await?;
    }

    let held = drill.holder_of(seat).await?;
    let mates: Vec<_> = nodes.iter().copied().filter(|node| *node != held.node).collect();
    let begun = Instant::now();
    drill.network.kill(held.node).await?;
    drill.seen_voting(&mates, held, begun).await?;
    drill.start_all(&[held.node]).await?;
    all_follow(drill, &cluster, nodes.len()).await?;

    let lost = drill.primary().await?;
    let lost: Vec<_> = drill.mates_of(lost).into_iter().chain([lost.node]).collect();
    drill.kill_all(&lost).await?;
    drill.progress("without another cluster: the new one's votes are needed", 300, SOON).await;
    drill.start_all(&lost).await?;
    let all: Vec<_> = drill.network.members().collect();
    drill.kill_all(&all).await?;
    drill.start_all(&all).await?;
    drill.progress("after all were killed and came back", 300, SOON).await;
    Ok(())
}

/// The cluster that leads the view is removed: the chain goes on without it, and its nodes stand still where it has left them, also after
/// a restart. Then the operators have it added again, and it begins anew with what its disks hold.
pub(super) async fn cluster_removed(drill: &mut Drill) -> Result<(), Failure> {
    let (operator, leads) = (drill.operator_key()?, drill.primary().await?);
    let nodes: Vec<_> = drill.mates_of(leads).into_iter().chain([leads.node]).collect();
    let cluster = drill.layout.nodes.get(leads.node).map(|node| node.cluster.clone());
    let cluster = cluster.ok_or_else(|| Failure::new(2, "the layout has no such node"))?;
    let others: BTreeSet<_> = drill.network.members().filter(|node| !nodes.contains(node)).collect();
    let other = others.first().copied().unwrap_or_default();

    let begun = Instant::now();
    order(drill, &operator, Change::Remove(cluster.clone())).await?;
    for node in &others {
        super::super::reconfigure::wait_for_epoch(drill.network.client(*node)?, Epoch(1), SOON).await?;
    }
    drill.recovery_ms = Some(begun.elapsed().as_millis() as u64);
    drill.progress("without the cluster", 300, SOON).await;
    let boundary = stands_still(drill, &nodes).await?;
    let height = drill.network.height(other).await.unwrap_or_default();
    drill.check("the chain has left it behind", height.0 > boundary, format!("{height} of {boundary}"));

    let members = restarted_as_candidates(drill, &nodes).await?;
    drill.progress("while the removed nodes wait", 300, SOON).await;
    let begun = Instant::now();
    let client = drill.network.client(other)?.clone();
    let change = add(&client, cluster.clone(), &members).await?;
    order(drill, &operator, change).await?;
    let before = Holder { height: Default::default(), ..leads };
    drill.seen_voting(&nodes, before, begun).await?;
    drill.progress("with the cluster again", 300, SOON).await;
    drill.made_whole().await?;
    for node in &nodes {
        drill.caught_up(*node, SOON).await?;
    }
    Ok(())
}

/// The auth node is lost for good, with its key. Another one is made; the chain orders that it grants the seats from now on, and every
/// cluster begins with its holder alone. Then an active is killed, which only the new auth node can replace; and the old one comes back,
/// and grants nothing any more.
pub(super) async fn auth_replaced(drill: &mut Drill) -> Result<(), Failure> {
    let (operator, old) = (drill.operator_key()?, drill.auth()?);
    let register = |views: Vec<standin_auth::actor::ClusterView>| {
        views.into_iter().map(|view| (view.cluster, view.version, view.term)).collect::<Vec<_>>()
    };
    let before = register(drill.network.client(old)?.auth().await?);
    drill.network.kill(old).await?;
    let like = drill.network.config(0);
    let network = like.parent().and_then(|folder| folder.parent());
    let network = network.ok_or_else(|| Failure::new(1, "the network has no folder"))?.to_owned();
    let newcomer = write_new_auth(&network.join("auth-new"), &like, "auth-new", Where::on_this_host(None)?)?;
    let with = NewAuth { http: format!("http://{}", newcomer.http), bridge: None };
    let new = drill.network.join_auth(newcomer)?;
    wait_as_candidates(drill, &[new]).await?;
    drill.progress("without an auth node", 300, SOON).await;

    let begun = Instant::now();
    let clients = drill.network.clients().to_vec();
    let change = replace_auth(&clients, &[with]).await?;
    order(drill, &operator, change).await?;
    in_epoch(drill, Epoch(1), None).await?;
    drill.recovery_ms =
        drill.progress("with every cluster begun anew", 300, SOON).await.map(|_| begun.elapsed().as_millis() as u64);
    drill.made_whole().await?;

    let lost = drill.primary().await?;
    let begun = Instant::now();
    drill.network.kill(lost.node).await?;
    drill.taken_over(lost, begun).await?;
    drill.start_all(&[lost.node]).await?;
    drill.made_whole().await?;

    drill.network.start_node(old)?;
    let all: Vec<_> = (0..drill.network.size()).collect();
    drill.kill_all(&all).await?;
    drill.start_all(&all).await?;
    drill.progress("after all were killed and came back, and the old auth node with them", 300, SOON).await;
    drill.made_whole().await?;
    let after = register(drill.network.client(old)?.auth().await?);
    let is_same = !after.is_empty() && after == before;
    drill.check("the old auth node's register stands as it was", is_same, format!("{after:?}"));
    Ok(())
}

fn named(cluster: &str) -> Result<ClusterId, Failure> {
    cluster.parse().map_err(|error| Failure::new(2, format!("{error}")))
}

/// Nodes of a cluster that the chain does not have, one at each of the first sites, running.
async fn candidates(drill: &mut Drill, cluster: &ClusterId) -> Result<(Vec<usize>, Vec<NewMember>), Failure> {
    let like = drill.network.config(0);
    let network = like.parent().and_then(|folder| folder.parent());
    let network = network.ok_or_else(|| Failure::new(1, "the network has no folder"))?.to_owned();
    let sites: Vec<_> = drill.layout.sites().into_iter().take(3).map(str::to_owned).collect();
    let (mut nodes, mut members) = (Vec::new(), Vec::new());
    for site in sites {
        let name = format!("{cluster}-{site}");
        let newcomer = write_newcomer(&network.join(&name), &like, cluster, &name, Where::on_this_host(None)?)?;
        members.push(NewMember { http: format!("http://{}", newcomer.http), site, bridge: None });
        nodes.push(drill.network.join_newcomer(newcomer)?);
    }
    wait_as_candidates(drill, &nodes).await?;
    Ok((nodes, members))
}

/// Waits until these nodes say that they wait for a seat.
async fn wait_as_candidates(drill: &mut Drill, nodes: &[usize]) -> Result<(), Failure> {
    let begun = Instant::now();
    for node in nodes {
        let client = drill.network.client(*node)?.clone();
        while client.candidate().await.is_err() {
            if begun.elapsed() > SOON {
                return Err(Failure::new(5, format!("{} does not wait for a seat", drill.network.name(*node))));
            }
            tokio::time::sleep(POLL).await;
        }
    }
    drill.check("nodes without a seat wait for one", true, format!("{} nodes", nodes.len()));
    Ok(())
}

/// The nodes of a cluster that was removed, started again.
async fn restarted_as_candidates(drill: &mut Drill, nodes: &[usize]) -> Result<Vec<NewMember>, Failure> {
    drill.kill_all(nodes).await?;
    let mut members = Vec::new();
    for node in nodes {
        drill.network.start_node(*node)?;
        let site = drill.layout.site_of(*node).to_owned();
        let http = drill.network.files().urls.get(*node).cloned().unwrap_or_default();
        members.push(NewMember { http, site, bridge: None });
    }
    wait_as_candidates(drill, nodes).await?;
    Ok(members)
}

/// Waits until all these nodes say that they were removed; gives the height at which they stand.
async fn stands_still(drill: &mut Drill, nodes: &[usize]) -> Result<u64, Failure> {
    let (begun, mut heights) = (Instant::now(), BTreeSet::new());
    for node in nodes {
        let client = drill.network.client(*node)?.clone();
        loop {
            match client.status().await {
                Ok(status) if status.removed => {
                    heights.insert(status.height.0);
                    break;
                }
                _ if begun.elapsed() > SOON => {
                    let name = drill.network.name(*node);
                    drill.check("the removed nodes stand still", false, name);
                    return Ok(0);
                }
                _ => tokio::time::sleep(POLL).await,
            }
        }
    }
    let height = heights.first().copied().unwrap_or_default();
    drill.check("the removed nodes stand still", heights.len() == 1, format!("at {heights:?}"));
    Ok(height)
}

/// Waits until so many nodes are in the cluster's in-sync set.
async fn all_follow(drill: &mut Drill, cluster: &ClusterId, members: usize) -> Result<(), Failure> {
    let (client, begun) = (drill.network.client(drill.auth()?)?.clone(), Instant::now());
    loop {
        let views = client.auth().await?;
        let in_sync = views.iter().find(|view| view.cluster == *cluster).map_or(0, |view| view.in_sync.len());
        if in_sync == members || begun.elapsed() > SOON {
            let detail = format!("{in_sync} of {members} after {} ms", begun.elapsed().as_millis());
            drill.check(&format!("all of cluster {cluster} are in sync"), in_sync == members, detail);
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}
