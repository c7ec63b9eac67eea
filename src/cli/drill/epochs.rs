//! What operators order through the chain takes effect while nodes are lost.

use std::time::{Duration, Instant};

use standin::client::Client;
use standin_foundation::{Epoch, SecretKey};
use standin_ledger::Operators;
use standin_ledger::reconfiguration::Change;

use super::super::reconfigure::{draft, submit, wait_for_epoch};
use super::seats::SOON;
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

/// The operators order a new epoch in which nothing has changed, and all nodes enter it.
pub(super) async fn another_epoch(drill: &mut Drill) -> Result<(), Failure> {
    let key = drill.operator_key()?;
    let next = Epoch(anyone(drill)?.status().await?.epoch).next();
    replace(drill, &key, &key).await?;
    in_epoch(drill, next, None).await
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
    let client = anyone(drill)?;
    let operators = Operators { keys: vec![to.public()], needed: 1 };
    let mut approved = draft(&client, vec![Change::Operators(operators)]).await?;
    approved.approvals.push(approved.reconfiguration.approve(from));
    submit(&client, from, &approved).await.map(drop)
}

fn anyone(drill: &mut Drill) -> Result<Client, Failure> {
    let running = (0..drill.network.size()).find(|node| drill.network.answers(*node));
    Ok(drill.network.client(running.unwrap_or_default())?.clone())
}

async fn in_epoch(drill: &mut Drill, epoch: Epoch, but: Option<usize>) -> Result<(), Failure> {
    let begun = Instant::now();
    for node in (0..drill.network.size()).filter(|node| Some(*node) != but) {
        wait_for_epoch(drill.network.client(node)?, epoch, EPOCH_SOON).await?;
    }
    let detail = format!("all nodes that run after {} ms", begun.elapsed().as_millis());
    drill.check(&format!("epoch {epoch} has begun"), true, detail);
    Ok(())
}
