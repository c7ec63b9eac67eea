//! Replicas that die, freeze and come back.

use std::time::{Duration, Instant};

use super::{Drill, Failure};

const SOON: Duration = Duration::from_secs(20);

/// The primary, as a node tells it.
pub(super) async fn primary(drill: &Drill) -> Result<usize, Failure> {
    let status = drill.network.client(0)?.status().await?;
    Ok(usize::from(status.primary))
}

pub(super) async fn replica_killed(drill: &mut Drill) -> Result<(), Failure> {
    let victim = (primary(drill).await? + 1) % drill.network.size();
    drill.network.kill(victim).await?;
    drill.recovery_ms = drill.progress("while one is dead", 500, SOON).await;
    drill.network.start_node(victim)?;
    drill.network.wait_ready(SOON).await?;
    drill.caught_up(victim, SOON).await
}

pub(super) async fn replica_frozen(drill: &mut Drill) -> Result<(), Failure> {
    let victim = (primary(drill).await? + 2) % drill.network.size();
    drill.network.freeze(victim)?;
    drill.recovery_ms = drill.progress("while one is frozen", 1_000, SOON).await;
    drill.network.thaw(victim)?;
    drill.progress("after it went on", 300, SOON).await;
    drill.caught_up(victim, SOON).await
}

pub(super) async fn primary_killed_under_load(drill: &mut Drill) -> Result<(), Failure> {
    let victim = primary(drill).await?;
    drill.network.kill(victim).await?;
    drill.recovery_ms = drill.progress("after the primary died", 500, SOON).await;
    let survivor = (victim + 1) % drill.network.size();
    let view = drill.network.client(survivor)?.status().await?.view;
    drill.check("a new view", view > 0, format!("view {view}"));
    drill.network.start_node(victim)?;
    drill.network.wait_ready(SOON).await?;
    drill.caught_up(victim, SOON).await
}

pub(super) async fn all_restarted(drill: &mut Drill) -> Result<(), Failure> {
    for seat in 0..drill.network.size() {
        drill.network.kill(seat).await?;
    }
    let begun = Instant::now();
    for seat in 0..drill.network.size() {
        drill.network.start_node(seat)?;
    }
    drill.network.wait_ready(SOON).await?;
    drill.progress("after all came back", 500, SOON).await;
    drill.recovery_ms = Some(begun.elapsed().as_millis() as u64);
    Ok(())
}

pub(super) async fn two_killed_then_back(drill: &mut Drill) -> Result<(), Failure> {
    let (first, second) = (1, 2);
    drill.network.kill(first).await?;
    drill.network.kill(second).await?;
    // What was under way may still have come through; after that nothing may.
    let survivor = drill.network.client(0)?.clone();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = survivor.status().await?.committed;
    tokio::time::sleep(Duration::from_secs(9)).await;
    let after = survivor.status().await?.committed;
    drill.check("two of four order nothing", before == after, format!("height {before}, 9 s later {after}"));
    let begun = Instant::now();
    drill.network.start_node(first)?;
    drill.network.start_node(second)?;
    let resumed = loop {
        let height = survivor.status().await?.committed;
        if height > after || begun.elapsed() > SOON {
            break height;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let took = begun.elapsed();
    drill.recovery_ms = Some(took.as_millis() as u64);
    let within = resumed > after && took < Duration::from_secs(10);
    drill.check("resumes within 10 s", within, format!("height {resumed} after {} ms", took.as_millis()));
    drill.progress("after both came back", 500, SOON).await;
    Ok(())
}
