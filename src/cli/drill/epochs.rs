//! What operators order through the chain takes effect while nodes are lost.

use std::time::{Duration, Instant};

use standin::client::Client;
use standin_foundation::{Epoch, SecretKey};
use standin_ledger::Operators;
use standin_ledger::reconfiguration::Change;

use super::super::reconfigure::{draft, hold, submit, wait_for_epoch};
use super::grow::{all_in_sync, join};
use super::seats::{Holder, SOON};
use super::{Drill, Failure, replicas};

/// How long an epoch may take to begin, with a view change on the way.
const EPOCH_SOON: Duration = Duration::from_secs(30);

/// The operators are replaced by others, twice: the first time the primary's node is lost as soon as the order is executed, the
/// second time a node that has lost its disk comes back; in the end all nodes are killed and start again.
pub(super) async fn operators_replaced(drill: &mut Drill) -> Result<(), Failure> {
    let first = drill.operator_key()?;
    let second = SecretKey::generate().map_err(|error| Failure::new(1, error.to_string()))?;
    let begun = Instant::now();
    replace(drill, &first, &second).await?;
    let lost = leader(drill).await?;
    drill.network.kill(lost).await?;
    drill.progress("after the order, without the primary's node", 300, SOON).await;
    in_epoch(drill, Epoch(1), Some(lost)).await?;
    drill.recovery_ms = Some(begun.elapsed().as_millis() as u64);
    drill.start_all(&[lost]).await?;
    in_epoch(drill, Epoch(1), None).await?;

    let late = replace(drill, &first, &second).await.err().map(|failure| failure.text).unwrap_or_default();
    drill.check("who was replaced approves nothing more", late.contains("approved by 0 operators"), late);
    let lost = (leader(drill).await? + 1) % drill.network.size();
    drill.network.kill(lost).await?;
    std::fs::remove_dir_all(drill.network.data(lost))?;
    replace(drill, &second, &first).await?;
    drill.progress("after the second order", 300, SOON).await;
    drill.start_all(&[lost]).await?;
    in_epoch(drill, Epoch(2), None).await?;
    drill.caught_up(lost, SOON).await?;

    let all: Vec<_> = (0..drill.network.size()).collect();
    drill.kill_all(&all).await?;
    drill.start_all(&all).await?;
    drill.progress("after all were killed and came back", 300, SOON).await;
    in_epoch(drill, Epoch(2), None).await
}

/// All nodes of a cluster are lost with their disks. A spare takes the seat by the chain's order; then it is killed and comes back,
/// and the lost nodes come back with empty disks and follow it; last, one that comes back takes the seat over.
pub(super) async fn cold_spare(drill: &mut Drill) -> Result<(), Failure> {
    let (operator, lost) = (drill.operator_key()?, drill.primary().await?);
    let nodes: Vec<_> = drill.mates_of(lost).into_iter().chain([lost.node]).collect();
    let described = drill.layout.nodes.get(lost.node).map(|node| (node.cluster.clone(), node.site.clone()));
    let (cluster, site) = described.ok_or_else(|| Failure::new(2, "the layout has no such node"))?;
    drill.kill_all(&nodes).await?;
    for node in &nodes {
        std::fs::remove_dir_all(drill.network.data(*node))?;
    }
    drill.progress("of the others, with a view change", 300, EPOCH_SOON).await;

    let spare = join(drill, cluster.clone(), format!("{site}-spare")).await?;
    drill.network.wait_ready(SOON).await?;
    let begun = Instant::now();
    let other = anyone(drill).await?;
    let change = hold(drill.network.client(spare.index)?, &other, cluster.clone()).await?;
    order(drill, &operator, change).await?;
    let was = Holder { node: spare.index, ..lost };
    drill.recovery_ms = drill.seen_voting(&[spare.index], was, begun).await?;
    drill.progress("with the spare", 300, SOON).await;
    drill.caught_up(spare.index, SOON).await?;

    drill.network.kill(spare.index).await?;
    drill.start_all(&[spare.index]).await?;
    drill.held_by(lost.seat, spare.index).await?;
    drill.start_all(&nodes).await?;
    let members = nodes.len() + 1;
    all_in_sync(drill, "the lost nodes follow the spare", |view| {
        if view.cluster == cluster { members } else { view.in_sync.len() }
    })
    .await?;
    let held = drill.holder_of(lost.seat).await?;
    let begun = Instant::now();
    drill.network.kill(spare.index).await?;
    drill.seen_voting(&nodes, held, begun).await?;
    drill.start_all(&[spare.index]).await?;
    drill.progress("without what was lost", 300, SOON).await;
    Ok(())
}

/// The operators order a new epoch in which nothing has changed, and all nodes enter it.
pub(super) async fn another_epoch(drill: &mut Drill) -> Result<(), Failure> {
    let next = Epoch(anyone(drill).await?.status().await?.epoch).next();
    order_another_epoch(drill).await?;
    in_epoch(drill, next, None).await
}

/// The operators order a new epoch in which nothing has changed.
pub(super) async fn order_another_epoch(drill: &mut Drill) -> Result<(), Failure> {
    let key = drill.operator_key()?;
    replace(drill, &key, &key).await
}

/// The node that leads the view now.
async fn leader(drill: &mut Drill) -> Result<usize, Failure> {
    if drill.layout.auth.is_empty() {
        return replicas::primary(drill).await;
    }
    Ok(drill.primary().await?.node)
}

/// One operator orders that another takes its place.
async fn replace(drill: &mut Drill, from: &SecretKey, to: &SecretKey) -> Result<(), Failure> {
    order(drill, from, Change::Operators(Operators { keys: vec![to.public()], needed: 1 })).await
}

/// The only operator has the chain carry out a change.
pub(super) async fn order(drill: &mut Drill, operator: &SecretKey, change: Change) -> Result<(), Failure> {
    let client = anyone(drill).await?;
    let mut approved = draft(&client, vec![change]).await?;
    approved = approved.by(operator);
    submit(&client, operator, &approved).await.map(drop)
}

/// A node that runs and holds a seat, or stands by.
pub(super) async fn anyone(drill: &mut Drill) -> Result<Client, Failure> {
    for node in 0..drill.network.size() {
        let client = drill.network.client(node)?.clone();
        if drill.network.answers(node) && client.status().await.is_ok_and(|status| !status.removed) {
            return Ok(client);
        }
    }
    Err(Failure::new(5, "no node answers"))
}

pub(super) async fn in_epoch(drill: &mut Drill, epoch: Epoch, but: Option<usize>) -> Result<(), Failure> {
    let begun = Instant::now();
    for node in (0..drill.network.size()).filter(|node| Some(*node) != but) {
        wait_for_epoch(drill.network.client(node)?, epoch, EPOCH_SOON).await?;
    }
    let detail = format!("all nodes that run after {} ms", begun.elapsed().as_millis());
    drill.check(&format!("epoch {epoch} has begun"), true, detail);
    Ok(())
}
