//! Clusters that grow and shrink on a live network.

use std::time::Instant;

use standin_auth::actor::ClusterView;
use standin_auth::messages::Action;
use standin_foundation::{ClusterId, NodeId, Seat};
use standin_ledger::Member;

use super::super::member::order;
use super::super::newcomer::{Where, write_newcomer};
use super::seats::{POLL, SOON};
use super::{Drill, Failure};

/// A member that joined.
pub(super) struct Joined {
    pub(super) index: usize,
    node: NodeId,
    cluster: ClusterId,
    site: String,
}

/// Every cluster gets a member at the site where it has none; then three of four sites are lost, and the one that is left holds
/// all seats; then one of the new members is removed.
pub(super) async fn grow(drill: &mut Drill) -> Result<(), Failure> {
    let mut joined = Vec::new();
    for cluster in drill.layout.clusters().into_iter().cloned().collect::<Vec<_>>() {
        let taken: Vec<_> =
            drill.layout.nodes.iter().filter(|n| n.cluster == cluster).map(|n| n.site.as_str()).collect();
        let site = drill.layout.sites().into_iter().find(|site| !taken.contains(site)).map(str::to_owned);
        let site = site.ok_or_else(|| Failure::new(2, "the cluster has a member at every site"))?;
        joined.push(join(drill, cluster, site).await?);
    }
    all_in_sync(drill, "every cluster has four members in sync", |_| 4).await?;
    drill.progress("after all clusters grew", 300, SOON).await;

    let last = drill.layout.sites().into_iter().next_back().unwrap_or_default().to_owned();
    let elsewhere = drill.layout.nodes.iter().enumerate().filter(|(_, node)| node.site != last).map(|(index, _)| index);
    let newcomers = joined.iter().filter(|joined| joined.site != last).map(|joined| joined.index);
    let lost: Vec<_> = elsewhere.chain(newcomers).collect();
    let begun = Instant::now();
    drill.kill_all(&lost).await?;
    let went_on = drill.progress(&format!("with all sites lost but {last}"), 300, SOON).await;
    drill.recovery_ms = Some(went_on.unwrap_or(begun.elapsed().as_millis() as u64));
    drill.start_all(&lost).await?;
    all_in_sync(drill, "all four are in sync again", |_| 4).await?;

    let leaves = joined.pop().ok_or_else(|| Failure::new(1, "nobody joined"))?;
    // It may have become the holder while the others were away.
    let clusters = drill.layout.clusters();
    let seat = Seat(clusters.iter().position(|cluster| **cluster == leaves.cluster).unwrap_or_default() as u16);
    if drill.holder_of(seat).await?.node == leaves.index {
        drill.switch(leaves.index, None).await?;
        let (begun, name) = (Instant::now(), drill.network.name(leaves.index));
        while drill.holder_of(seat).await?.node == leaves.index {
            if begun.elapsed() > SOON {
                return Err(Failure::new(5, format!("{name} does not give the seat up")));
            }
            tokio::time::sleep(POLL).await;
        }
    }
    ordered(drill, &leaves.cluster, Action::Remove(leaves.node)).await?;
    let cluster = leaves.cluster.clone();
    all_in_sync(drill, "the removed member has left", |view| if view.cluster == cluster { 3 } else { 4 }).await?;
    drill.progress("after a member was removed", 300, SOON).await;
    let name = drill.network.name(leaves.index);
    let alone = drill.network.client(leaves.index)?.status().await?.peers.iter().all(|peer| !peer.connected);
    drill.check("the removed member is let in by nobody", alone, name);
    for joined in &joined {
        drill.caught_up(joined.index, SOON).await?;
    }
    Ok(())
}

/// The key of the active that leads the view is replaced: a member with a new key comes beside it, takes the seat, and the old one is removed.
pub(super) async fn key_replaced(drill: &mut Drill) -> Result<(), Failure> {
    let old = drill.primary().await?;
    let before = drill.view_changes().await;
    let place = drill.layout.nodes.get(old.node).cloned();
    let place = place.ok_or_else(|| Failure::new(1, "the holder is no node of the layout"))?;
    let retired = drill.network.client(old.node)?.cluster().await?.node;
    let whole = drill.layout.nodes.iter().filter(|node| node.cluster == place.cluster).count();
    let name = format!("{}-new", drill.network.name(old.node));
    let new = join_as(drill, &name, place.cluster.clone(), place.site.clone()).await?;
    let cluster = place.cluster.clone();
    let size = |view: &ClusterView| if view.cluster == cluster { whole + 1 } else { whole };
    all_in_sync(drill, "the node with the new key is in sync", size).await?;

    let begun = Instant::now();
    drill.switch(old.node, Some(new.node)).await?;
    drill.recovery_ms = drill.taken_over(old, begun).await?;
    let holds = drill.holder_of(old.seat).await?.node == new.index;
    drill.check("the new key holds the seat", holds, drill.network.name(new.index));
    drill.progress("after the new key took the seat", 300, SOON).await;
    ordered(drill, &place.cluster, Action::Remove(retired)).await?;
    all_in_sync(drill, "the old key has left", |_| whole).await?;
    drill.progress("after the old key was removed", 300, SOON).await;
    let (name, begun) = (drill.network.name(old.node), Instant::now());
    let client = drill.network.client(old.node)?.clone();
    let mut alone = false;
    while !alone && begun.elapsed() < SOON {
        alone = client.status().await?.peers.iter().all(|peer| !peer.connected);
        tokio::time::sleep(POLL).await;
    }
    drill.check("the old key is let in by nobody", alone, name);
    drill.check_no_view_change(&before).await;
    drill.caught_up(new.index, SOON).await?;
    drill.network.kill(old.node).await
}

/// A new node is admitted to a cluster, and starts.
pub(super) async fn join(drill: &mut Drill, cluster: ClusterId, site: String) -> Result<Joined, Failure> {
    let name = format!("{cluster}-{site}");
    join_as(drill, &name, cluster, site).await
}

async fn join_as(drill: &mut Drill, name: &str, cluster: ClusterId, site: String) -> Result<Joined, Failure> {
    let like = drill.network.config(0);
    let folder = like.parent().and_then(|folder| folder.parent()).map(|network| network.join(name));
    let folder = folder.ok_or_else(|| Failure::new(1, "the network has no folder"))?;
    let newcomer = write_newcomer(&folder, &like, &cluster, name, Where::on_this_host(None)?)?;
    let (node, address) = (newcomer.key.node_id(), newcomer.address.to_string());
    let member = Member { key: newcomer.key, priority: 0, site: site.clone(), address };
    ordered(drill, &cluster, Action::Admit(member)).await?;
    let index = drill.network.join_newcomer(newcomer)?;
    Ok(Joined { index, node, cluster, site })
}

async fn ordered(drill: &Drill, cluster: &ClusterId, action: Action) -> Result<(), Failure> {
    let key = drill.operator_key()?;
    order(drill.network.client(drill.auth()?)?, &key, cluster.clone(), action).await
}

/// Waits until each cluster's in-sync set has so many members.
pub(super) async fn all_in_sync(
    drill: &mut Drill,
    what: &str,
    wanted: impl Fn(&ClusterView) -> usize,
) -> Result<(), Failure> {
    let client = drill.network.client(drill.auth()?)?.clone();
    let begun = Instant::now();
    loop {
        let clusters = client.auth().await?;
        let passed = clusters.iter().all(|view| view.in_sync.len() == wanted(view));
        if passed || begun.elapsed() > SOON {
            let sizes: Vec<_> = clusters.iter().map(|view| view.in_sync.len()).collect();
            drill.check(what, passed, format!("{sizes:?} after {} ms", begun.elapsed().as_millis()));
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}
