//! Clusters: actives that die, freeze and wake up, sites that are lost, the auth node away.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use standin::api::RoleView;
use standin_foundation::{ClusterId, Seat, SecretKey};
use standin_ledger::grant::Cause;

use super::forger::Forger;
use super::seats::{Holder, SOON};
use super::{Drill, Failure};

pub(super) async fn active_killed(drill: &mut Drill) -> Result<(), Failure> {
    let lost = drill.primary().await?;
    let before = drill.view_changes().await;
    let handed_in = drill.hand_in(&drill.mates_of(lost)).await?;
    let begun = Instant::now();
    drill.network.kill(lost.node).await?;
    drill.recovery_ms = drill.taken_over(lost, begun).await?;
    drill.progress("after the active died", 300, SOON).await;
    drill.all_told(handed_in).await?;
    drill.check_no_view_change(&before).await;
    drill.step_by_step(lost).await?;
    drill.on_record(lost).await?;
    drill.start_all(&[lost.node]).await?;
    drill.made_whole().await
}

pub(super) async fn active_frozen(drill: &mut Drill) -> Result<(), Failure> {
    let lost = drill.primary().await?;
    let before = drill.view_changes().await;
    let begun = Instant::now();
    drill.network.freeze(lost.node)?;
    drill.recovery_ms = drill.taken_over(lost, begun).await?;
    drill.progress("while the old active is frozen", 300, SOON).await;
    drill.check_no_view_change(&before).await;
    let witness = (0..drill.network.size()).find(|node| *node != lost.node).unwrap_or_default();
    let height = drill.network.height(witness).await.unwrap_or_default();
    drill.network.thaw(lost.node)?;
    drill.progress("after it woke up", 300, SOON).await;
    // It may say under its old term what it likes: nobody counts it.
    let blocks = drill.network.client(witness)?.blocks(height.next(), 1_000).await?;
    let late = |block: &&standin::api::BlockView| {
        block.certificate.votes.iter().any(|vote| vote.seat == lost.seat && vote.term <= lost.term)
    };
    let counted = blocks.iter().filter(late).count();
    drill.check("its late votes count nowhere", counted == 0, format!("{counted} of {} blocks", blocks.len()));
    drill.made_whole().await
}

pub(super) async fn active_and_standby_killed(drill: &mut Drill) -> Result<(), Failure> {
    let lost = drill.primary().await?;
    let views = drill.cluster_views().await;
    let standby = views.iter().find(|(_, view)| view.seat == lost.seat.0 && view.role == RoleView::Standby);
    let standby = standby.map(|(node, _)| *node).ok_or_else(|| Failure::new(1, "the cluster has no standby"))?;
    let before = drill.view_changes().await;
    let begun = Instant::now();
    drill.kill_all(&[lost.node, standby]).await?;
    drill.recovery_ms = drill.taken_over(lost, begun).await?;
    drill.progress("with the reserve alone", 300, SOON).await;
    drill.check_no_view_change(&before).await;
    drill.start_all(&[lost.node, standby]).await?;
    drill.made_whole().await
}

/// R0: every cluster had its first holder elected, registered and given a ticket.
pub(super) async fn first_start(drill: &mut Drill) -> Result<(), Failure> {
    let views = drill.cluster_views().await;
    let seats = drill.cluster_sizes().len();
    let mut holders = BTreeSet::new();
    for (node, view) in views.iter().filter(|(_, view)| view.role == RoleView::Active) {
        holders.insert(view.seat);
        let said = drill.network.output(*node);
        let steps = ["asked term=0", "granted term=1", "fenced term=1", "active term=1"];
        let missing: Vec<_> = steps.into_iter().filter(|step| !said.contains(step)).collect();
        let name = drill.network.name(*node);
        drill.check(
            &format!("{name} was registered, step by step"),
            missing.is_empty(),
            format!("missing: {missing:?}"),
        );
    }
    drill.check("every seat has a holder", holders.len() == seats, format!("{} of {seats}", holders.len()));
    drill.made_whole().await
}

/// Loses sets of sites, one after the other.
pub(super) async fn sites_lost(drill: &mut Drill, together: usize) -> Result<(), Failure> {
    let sites: Vec<String> = drill.layout.sites().into_iter().map(str::to_owned).collect();
    let mut worst = 0;
    for lost in combinations(&sites, together) {
        let nodes = drill.nodes_at(&lost);
        let what = lost.join(" and ");
        let begun = Instant::now();
        drill.kill_all(&nodes).await?;
        let went_on = drill.progress(&format!("without {what}"), 300, SOON).await;
        worst = worst.max(went_on.unwrap_or(begun.elapsed().as_millis() as u64));
        drill.start_all(&nodes).await?;
        drill.made_whole().await?;
    }
    drill.recovery_ms = Some(worst);
    Ok(())
}

/// The witness and a site: the chain may pause, and goes on without a fork when the witness is back.
pub(super) async fn witness_and_site_lost(drill: &mut Drill) -> Result<(), Failure> {
    let site = drill.layout.sites().into_iter().next().unwrap_or_default().to_owned();
    let nodes = drill.nodes_at(std::slice::from_ref(&site));
    let auth = drill.auth()?;
    drill.network.kill(auth).await?;
    drill.kill_all(&nodes).await?;
    let begun = Instant::now();
    drill.network.start_node(auth)?;
    drill.progress(&format!("without {site}, the witness back"), 300, SOON).await;
    drill.recovery_ms = Some(begun.elapsed().as_millis() as u64);
    drill.start_all(&nodes).await?;
    drill.made_whole().await
}

/// The chain runs without the auth node; a seat that loses a member meanwhile waits.
pub(super) async fn auth_down(drill: &mut Drill) -> Result<(), Failure> {
    let auth = drill.auth()?;
    drill.network.kill(auth).await?;
    drill.progress("without the auth node", 3_000, Duration::from_secs(60)).await;
    let primary = drill.primary().await?;
    let seats = drill.cluster_sizes().len() as u16;
    let other = drill.holder_of(Seat((primary.seat.0 + 1) % seats)).await?;
    drill.network.kill(other.node).await?;
    drill.progress("with one seat waiting", 300, SOON).await;
    let views = drill.cluster_views().await;
    let held = views.iter().any(|(_, view)| view.seat == other.seat.0 && view.role == RoleView::Active);
    drill.check("the seat waits", !held, "nobody grants it");
    let begun = Instant::now();
    drill.network.start_node(auth)?;
    drill.recovery_ms = drill.taken_over(other, begun).await?;
    drill.start_all(&[other.node]).await?;
    drill.made_whole().await
}

/// Auth nodes that share a register: the one that an active's cluster asks is killed together with the active; then the one that
/// is asked by then is frozen. Each time the standby gets its grant from the one that is left.
pub(super) async fn auth_front_killed(drill: &mut Drill) -> Result<(), Failure> {
    let fronts: Vec<_> = drill.network.auths().collect();
    let mut worst = None;
    for frozen in [false, true] {
        let active = drill.primary().await?;
        let lost = drill.asked_front(active).await?;
        let name = drill.network.name(lost);
        match frozen {
            false => drill.network.kill(lost).await?,
            true => drill.network.freeze(lost)?,
        }
        let begun = Instant::now();
        drill.network.kill(active.node).await?;
        worst = worst.max(drill.taken_over(active, begun).await?);
        drill.progress(&format!("without {name}"), 300, SOON).await;
        match frozen {
            false => drill.network.start_node(lost)?,
            true => drill.network.thaw(lost)?,
        }
        drill.start_all(&[active.node]).await?;
        drill.made_whole().await?;
    }
    drill.recovery_ms = worst;
    let mut told = Vec::new();
    for front in fronts {
        let clusters = drill.network.client(front)?.auth().await?;
        told.push(clusters.into_iter().map(|c| (c.cluster, c.term, c.holder, c.in_sync)).collect::<Vec<_>>());
    }
    let same = told.windows(2).all(|pair| pair.first() == pair.last());
    drill.check("all auth nodes read the same register", same, format!("{} auth nodes", told.len()));
    Ok(())
}

/// The register is brought back from a copy, and its operator says so.
pub(super) async fn auth_restarted_from_backup(drill: &mut Drill) -> Result<(), Failure> {
    let auth = drill.auth()?;
    drill.network.kill(auth).await?;
    let register = drill.network.data(auth).join("register");
    let copy = drill.network.data(auth).join("copy");
    copy_folder(&register, &copy)?;
    drill.network.start_node(auth)?;
    drill.network.wait_ready(SOON).await?;
    drill.hears_clusters(auth).await?;
    // Grants that the copy does not know of.
    let lost = drill.primary().await?;
    drill.network.kill(lost.node).await?;
    drill.taken_over(lost, Instant::now()).await?;
    drill.start_all(&[lost.node]).await?;
    drill.made_whole().await?;
    drill.network.kill(auth).await?;
    std::fs::remove_dir_all(&register)?;
    copy_folder(&copy, &register)?;
    drill.network.start_node(auth)?;
    let stopped = drill.network.ends_within(auth, SOON).await;
    let told = drill.network.output(auth).contains("brought back from a");
    let last_words = drill.network.last_words(auth);
    drill.check("a register that knows less than it told stops", stopped && told, last_words);
    let recalled = standin::node::recall(&super::read_config(&drill.network, auth)?);
    drill.check("its operator says so", recalled.is_ok(), format!("{recalled:?}"));
    let begun = Instant::now();
    drill.network.start_node(auth)?;
    drill.network.wait_ready(SOON).await?;
    drill.recalled(auth).await?;
    let again = drill.primary().await?;
    drill.network.kill(again.node).await?;
    drill.taken_over(again, Instant::now()).await?;
    drill.recovery_ms = Some(begun.elapsed().as_millis() as u64);
    drill.start_all(&[again.node]).await?;
    drill.made_whole().await
}

/// Every node is stopped in order and started again, one after the other.
pub(super) async fn rolling_restart(drill: &mut Drill) -> Result<(), Failure> {
    let begun = Instant::now();
    for node in 0..drill.network.processes() {
        drill.network.stop_node(node).await?;
        drill.start_all(&[node]).await?;
        drill.made_whole().await?;
    }
    drill.progress("after all were restarted", 300, SOON).await;
    drill.recovery_ms = Some(begun.elapsed().as_millis() as u64);
    Ok(())
}

/// A member, then an active, comes back with an empty disk.
pub(super) async fn lost_disk(drill: &mut Drill) -> Result<(), Failure> {
    let active = drill.primary().await?;
    let views = drill.cluster_views().await;
    let member = views.iter().find(|(_, view)| view.seat == active.seat.0 && view.role != RoleView::Active);
    let member = member.map(|(node, _)| *node).ok_or_else(|| Failure::new(1, "the cluster has one member"))?;
    for node in [member, active.node] {
        let begun = Instant::now();
        drill.network.kill(node).await?;
        std::fs::remove_dir_all(drill.network.data(node))?;
        drill.progress("while its disk is lost", 300, SOON).await;
        drill.start_all(&[node]).await?;
        drill.made_whole().await?;
        drill.caught_up(node, SOON).await?;
        drill.recovery_ms = Some(begun.elapsed().as_millis() as u64);
    }
    Ok(())
}

/// L9: a member, then an active, comes back with an image of its disk from before; then a member with a log from before its store, with
/// a store from before its log, and without a store.
pub(super) async fn older_image(drill: &mut Drill) -> Result<(), Failure> {
    let active = drill.primary().await?;
    let member = drill.mates_of(active).into_iter().next();
    let member = member.ok_or_else(|| Failure::new(1, "the cluster has one member"))?;
    for (node, part) in [(member, ""), (active.node, ""), (member, "log"), (member, "store")] {
        let kept = drill.network.data(node).join(part);
        let image = drill.network.data(node).with_extension("image");
        drill.network.kill(node).await?;
        copy_folder(&kept, &image)?;
        drill.start_all(&[node]).await?;
        drill.made_whole().await?;
        drill.progress("after the image was taken", 300, SOON).await;
        let begun = Instant::now();
        drill.network.kill(node).await?;
        std::fs::remove_dir_all(&kept)?;
        std::fs::rename(&image, &kept)?;
        drill.start_all(&[node]).await?;
        drill.made_whole().await?;
        drill.caught_up(node, SOON).await?;
        drill.recovery_ms = drill.recovery_ms.max(Some(begun.elapsed().as_millis() as u64));
    }
    // A clean resync, as after a wrong result: the log stays.
    drill.network.kill(member).await?;
    std::fs::remove_dir_all(drill.network.data(member).join("store"))?;
    drill.start_all(&[member]).await?;
    drill.made_whole().await?;
    drill.caught_up(member, SOON).await
}

/// The active is cut off from its cluster and not from the others, and the reverse.
pub(super) async fn partition_active(drill: &mut Drill) -> Result<(), Failure> {
    let lost = drill.primary().await?;
    let mates = drill.mates_of(lost);
    drill.network.cut_between(&[lost.node], &mates, false);
    drill.progress("with the active cut off from its cluster", 300, SOON).await;
    drill.network.cut_between(&[lost.node], &mates, true);
    drill.made_whole().await?;
    let lost = drill.primary().await?;
    let mates = drill.mates_of(lost);
    let others: Vec<_> =
        (0..drill.network.processes()).filter(|node| *node != lost.node && !mates.contains(node)).collect();
    let begun = Instant::now();
    drill.network.cut_between(&[lost.node], &others, false);
    drill.recovery_ms = drill.taken_over(lost, begun).await?;
    drill.progress("with the active cut off from the others", 300, SOON).await;
    drill.network.cut_between(&[lost.node], &others, true);
    drill.made_whole().await
}

/// S4: the sites fall into two halves that do not hear each other, and the auth node hears both. Neither half is a quorum, until so many
/// seats have moved to the first site that its half is one; who hears a quorum does not move any more.
pub(super) async fn sites_split(drill: &mut Drill) -> Result<(), Failure> {
    let sites: Vec<String> = drill.layout.sites().into_iter().map(str::to_owned).collect();
    let (first, second) = sites.split_at(sites.len() / 2);
    let (these, those) = (drill.nodes_at(first), drill.nodes_at(second));
    let begun = Instant::now();
    drill.network.cut_between(&these, &those, false);
    let moved = drill.seats_at(first).await?;
    drill.check("a quorum of seats is in the first site's half", moved, first.join(", "));
    let went_on = drill.progress("with the sites in two halves", 300, SOON).await;
    drill.recovery_ms = went_on.map(|_| begun.elapsed().as_millis() as u64);
    drill.network.cut_between(&these, &those, true);
    drill.made_whole().await?;
    drill.progress("with the halves joined again", 300, SOON).await;
    Ok(())
}

/// An operator moves a seat: nothing stops, and nothing is lost.
pub(super) async fn switched(drill: &mut Drill) -> Result<(), Failure> {
    let from = drill.primary().await?;
    let before = drill.view_changes().await;
    let begun = Instant::now();
    drill.switch(from.node, None).await?;
    drill.recovery_ms = drill.taken_over(from, begun).await?;
    drill.progress("after the seat was moved", 300, SOON).await;
    drill.check_no_view_change(&before).await;
    drill.made_whole().await
}

/// R3. Found inside: an active that computes wrong results asks its members first, and gives the seat up. Found by the others:
/// one that votes behind its members' back is reported by distinct seats, and its cluster is ordered to switch.
pub(super) async fn wrong_result(drill: &mut Drill) -> Result<(), Failure> {
    for kind in ["wrong-result", "wrong-vote"] {
        if kind == "wrong-vote" {
            // The auth node judges reports by an epoch that it did not begin with.
            super::epochs::another_epoch(drill).await?;
        }
        let active = drill.primary().await?;
        let wanted = drill.network.client(active.node)?.cluster().await?.node;
        drill.network.kill(active.node).await?;
        drill.taken_over(active, Instant::now()).await?;
        drill.network.start_node_with(active.node, &["--misbehave", kind])?;
        drill.give(active, wanted).await?;
        let begun = Instant::now();
        // It may be found within moments: who held the seat is read from the grants, and not from the nodes.
        let (last, cause) = drill.replaced(active, wanted).await?;
        let wrong = Holder { term: last, ..active };
        let ms = drill.taken_over(wrong, begun).await?;
        drill.recovery_ms = drill.recovery_ms.max(ms);
        if kind == "wrong-result" {
            // With f+1 votes of the others it resigns, with one more it ends; if they come together, its cluster sees the end first.
            let before_voting = matches!(cause, Some(Cause::Resigned | Cause::Suspected));
            drill.check("wrong-result is found inside the cluster", before_voting, format!("{cause:?}"));
            let ended = drill.network.ends_within(active.node, SOON).await;
            let last_words = drill.network.last_words(active.node);
            drill.check("who is wrong ends", ended && last_words.contains("its state is wrong"), last_words);
        } else {
            drill.check("wrong-vote is found by the other seats", cause == Some(Cause::Forced), format!("{cause:?}"));
            let auth = drill.auth()?;
            let clusters = drill.network.client(auth)?.auth().await?;
            let barred = clusters.iter().any(|cluster| cluster.not_electable.contains(&wanted));
            drill.check("it may not be elected again", barred, drill.network.name(active.node));
        }
        drill.progress(&format!("after {kind}"), 300, SOON).await;
        drill.network.kill(active.node).await?;
        drill.start_all(&[active.node]).await?;
        drill.made_whole().await?;
    }
    Ok(())
}

/// Updates that nobody may make: with another cluster's ticket, with none, in the place of a holder that lives, by a node of
/// another cluster, by a stranger. Each is refused, and the register stays as it was.
pub(super) async fn forged_update(drill: &mut Drill) -> Result<(), Failure> {
    let auth = drill.auth()?;
    let before = drill.network.client(auth)?.auth().await?;
    let victim = drill.holder_of(Seat(0)).await?;
    let mates = drill.mates_of(victim);
    let mate = mates.last().copied().ok_or_else(|| Failure::new(1, "the cluster has one member"))?;
    // The node's key is used by another process: the node itself is down, and left out before long.
    drill.network.kill(mate).await?;
    let term = drill.term_above(auth, victim).await?;
    let forger = Forger::new(&drill.network, mate, auth).await?;
    let genesis = drill.network.files().genesis.clone();
    let cluster = |seat: usize| genesis.seats.get(seat).map(|seat| seat.cluster.clone());
    let (own, other) = (cluster(0).ok_or_else(no_cluster)?, cluster(1).ok_or_else(no_cluster)?);
    let grants =
        SecretKey::read(&drill.network.file(auth, "grants.key")).map_err(|e| Failure::new(78, e.to_string()))?;
    let sealed = |cluster: &ClusterId| {
        standin_auth::ticket::seal(&grants.public(), &genesis.digest(), cluster)
            .map_err(|error| Failure::new(1, error.to_string()))
    };
    let (good, foreign) = (sealed(&own)?, sealed(&other)?);
    let tries = [
        ("without a ticket", own.clone(), Bytes::new(), "ticket"),
        ("with a damaged ticket", own.clone(), good.slice(..good.len() - 1), "ticket"),
        ("with the ticket of another cluster", own.clone(), foreign.clone(), "ticket"),
        ("of a node outside the in-sync set", own, good, "in-sync set"),
        ("of a cluster that the node is not in", other, foreign, "not admitted"),
    ];
    for (what, cluster, ticket, expected) in tries {
        let refused = forger.update(cluster, term, ticket).await;
        let passed = refused.as_ref().is_ok_and(|why| why.contains(expected));
        drill.check(&format!("an update {what} is refused"), passed, format!("{refused:?}"));
    }
    forger.stop().await;
    let stranger = Forger::stranger(&drill.network, auth).await;
    drill.check("a stranger's key gets no connection", stranger.is_err(), "refused at the hello");
    let after = drill.network.client(auth)?.auth().await?;
    let grants = |clusters: &[standin_auth::actor::ClusterView]| {
        clusters.iter().filter(|c| c.cluster.as_str() != "a").map(|c| (c.term, c.holder)).collect::<Vec<_>>()
    };
    let held = after.iter().any(|c| before.iter().any(|b| b.cluster == c.cluster && b.holder == c.holder));
    drill.check("the register names the same holders", held && grants(&before) == grants(&after), "compared");
    drill.start_all(&[mate]).await?;
    drill.made_whole().await
}

fn no_cluster() -> Failure {
    Failure::new(1, "the genesis has fewer than two clusters")
}

fn combinations(of: &[String], count: usize) -> Vec<Vec<String>> {
    match (count, of.split_first()) {
        (0, _) => vec![Vec::new()],
        (_, None) => Vec::new(),
        (_, Some((first, rest))) => {
            let mut all = combinations(rest, count - 1);
            all.iter_mut().for_each(|chosen| chosen.insert(0, first.clone()));
            all.extend(combinations(rest, count));
            all
        }
    }
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) -> Result<(), Failure> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)?.flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        match from.is_dir() {
            true => copy_folder(&from, &to)?,
            false => drop(std::fs::copy(&from, &to)?),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_sites_is_lost_once() {
        let sites: Vec<_> = ["s1", "s2", "s3", "s4"].map(str::to_owned).to_vec();
        let pairs = combinations(&sites, 2);
        assert_eq!((pairs.len(), combinations(&sites, 3).len(), combinations(&sites, 1).len()), (6, 4, 4));
        assert_eq!(pairs.iter().collect::<BTreeSet<_>>().len(), 6);
    }
}
