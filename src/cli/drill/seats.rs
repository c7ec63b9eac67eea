//! What a drill looks at and waits for where seats are held by clusters.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use standin::api::{ClusterView, RoleView};
use standin::client::{Client, ClientError};
use standin_console::actions::Order;
use standin_foundation::{ClusterId, Height, NodeId, Seat, SecretKey, Term};
use standin_ledger::SeatVote;
use standin_ledger::certificate::faulty_max;
use standin_ledger::grant::{Cause, Grant};

use super::{Drill, Failure};
use crate::cli::act;

/// A cluster comes to rest within this time.
pub(super) const SOON: Duration = Duration::from_secs(20);
/// How often a condition is looked at again.
pub(super) const POLL: Duration = Duration::from_millis(5);

/// A seat's holder at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Holder {
    pub(super) node: usize,
    pub(super) seat: Seat,
    pub(super) term: Term,
    pub(super) height: Height,
}

impl Drill {
    /// What each node that runs says of its cluster.
    pub(super) async fn cluster_views(&mut self) -> Vec<(usize, ClusterView)> {
        let mut views = Vec::new();
        for node in self.network.members() {
            if self.network.answers(node)
                && let Ok(client) = self.network.client(node)
                && let Ok(view) = client.cluster().await
            {
                views.push((node, view));
            }
        }
        views
    }

    pub(super) async fn holder_of(&mut self, seat: Seat) -> Result<Holder, Failure> {
        let begun = Instant::now();
        loop {
            let views = self.cluster_views().await;
            let active = views.iter().filter(|(_, view)| view.seat == seat.0 && view.role == RoleView::Active);
            if let Some((node, view)) = active.max_by_key(|(_, view)| view.term) {
                let height = self.network.height(*node).await.unwrap_or_default();
                return Ok(Holder { node: *node, seat, term: Term(view.term), height });
            }
            if begun.elapsed() > SOON {
                return Err(Failure::new(1, format!("nobody holds seat {seat}")));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The holder of the seat that leads the view: to lose it without a view change is the hardest.
    pub(super) async fn primary(&mut self) -> Result<Holder, Failure> {
        let status = self.network.client(0)?.status().await?;
        self.holder_of(Seat(status.primary)).await
    }

    /// Waits until a block carries a vote of the seat under a later term; in ms since `begun`.
    pub(super) async fn taken_over(&mut self, lost: Holder, begun: Instant) -> Result<Option<u64>, Failure> {
        // A certificate holds the first votes of a quorum, and those differ from node to node: the seat's own members see its
        // vote first.
        let mates: Vec<_> = self.mates_of(lost).into_iter().filter(|node| self.network.answers(*node)).collect();
        self.seen_voting(&mates, lost, begun).await
    }

    /// Waits until one of these nodes has a block that carries a vote of the seat under a later term; in ms since `begun`.
    pub(super) async fn seen_voting(
        &mut self,
        mates: &[usize],
        lost: Holder,
        begun: Instant,
    ) -> Result<Option<u64>, Failure> {
        let clients: Result<Vec<_>, _> = mates.iter().map(|mate| self.network.client(*mate).cloned()).collect();
        let clients = clients?;
        let mut seen = vec![lost.height; clients.len()];
        while begun.elapsed() < SOON {
            for (client, seen) in clients.iter().zip(&mut seen) {
                let Some(block) =
                    first_with(client, seen, |vote| vote.seat == lost.seat && vote.term > lost.term).await
                else {
                    continue;
                };
                let ms = begun.elapsed().as_millis() as u64;
                self.check("another member holds the seat", true, format!("block {block} after {ms} ms"));
                return Ok(Some(ms));
            }
            tokio::time::sleep(POLL).await;
        }
        self.check("another member holds the seat", false, "no block carries its vote".to_owned());
        Ok(None)
    }

    /// Waits until a node of another cluster shows, with proofs, that the seat is held under a later term by the chain's own record.
    pub(super) async fn on_record(&mut self, lost: Holder) -> Result<(), Failure> {
        let cluster = self.cluster_of(lost)?;
        let away = [&self.mates_of(lost)[..], &[lost.node]].concat();
        let witness = (0..self.network.size()).find(|node| !away.contains(node) && self.network.answers(*node));
        let client = self.network.client(witness.unwrap_or_default())?.clone();
        let genesis = self.network.files().genesis.clone();
        let begun = Instant::now();
        loop {
            let view = client.held(&cluster, None).await?;
            let term = view.grant.as_ref().map_or(Term(0), |signed| signed.grant.term);
            if term > lost.term || begun.elapsed() > SOON {
                let proven = view.verify(&cluster, &client.grant_table(&genesis).await?);
                let detail = format!("term {term} of cluster {cluster} at block {}, proofs: {proven:?}", view.at);
                self.check("the takeover is on the chain's record", term > lost.term && proven.is_ok(), detail);
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Every step of the hand-over is in the logs: of the new holder, of the auth node, and of a node of another cluster.
    pub(super) async fn step_by_step(&mut self, lost: Holder) -> Result<(), Failure> {
        let next = self.holder_of(lost.seat).await?;
        let (before, term, cluster) = (lost.term.0, next.term.0, self.cluster_of(lost)?);
        let mates = self.mates_of(lost);
        let others = (0..self.network.size()).filter(|node| *node != lost.node && !mates.contains(node));
        let other = others.into_iter().find(|node| self.network.answers(*node)).unwrap_or_default();
        let own = |step: &str| (next.node, step.to_owned());
        let steps = [
            own(&format!("suspected term={before} ")),
            own(&format!("asked term={before} ")),
            own(&format!("granted term={term} ")),
            own(&format!("fenced term={term} ")),
            own(&format!("active term={term} ")),
            own("first block height="),
            (self.auth()?, format!("granted cluster={cluster} term={term} ")),
            (self.auth()?, format!("notified cluster={cluster} term={term} ")),
            (other, format!("notified seat={} term={term} ", lost.seat.0)),
        ];
        let begun = Instant::now();
        let missing = loop {
            // The newest term is known before its holder has taken all steps.
            let is_missing = |(node, step): &&(usize, String)| !self.network.output(*node).contains(step);
            let missing: Vec<_> = steps.iter().filter(is_missing).cloned().collect();
            if missing.is_empty() || begun.elapsed() > SOON {
                break missing;
            }
            tokio::time::sleep(POLL).await;
        };
        self.check("the hand-over is in the logs, step by step", missing.is_empty(), format!("missing: {missing:?}"));
        Ok(())
    }

    fn cluster_of(&self, holder: Holder) -> Result<ClusterId, Failure> {
        let node = self.layout.nodes.get(holder.node);
        node.map(|node| node.cluster.clone()).ok_or_else(|| Failure::new(1, "the layout does not have the holder"))
    }

    pub(super) async fn view_changes(&mut self) -> BTreeMap<usize, u64> {
        let mut counts = BTreeMap::new();
        for node in 0..self.network.size() {
            if self.network.answers(node)
                && let Ok(client) = self.network.client(node)
                && let Ok(status) = client.status().await
                && status.active
            {
                counts.insert(node, status.view_changes);
            }
        }
        counts
    }

    /// No active has left its view since `before` was read.
    pub(super) async fn check_no_view_change(&mut self, before: &BTreeMap<usize, u64>) {
        let after = self.view_changes().await;
        let left: Vec<_> =
            after.iter().filter(|(node, count)| **count > before.get(node).copied().unwrap_or(0)).collect();
        let detail = left.iter().map(|(node, _)| self.network.name(**node)).collect::<Vec<_>>().join(" ");
        self.check("no view change", left.is_empty(), if left.is_empty() { "none".to_owned() } else { detail });
    }

    /// Waits until every cluster's in-sync set holds all of its members again.
    pub(super) async fn made_whole(&mut self) -> Result<(), Failure> {
        let begun = Instant::now();
        let sizes = self.cluster_sizes();
        loop {
            let views = self.cluster_views().await;
            let whole: BTreeSet<_> = views
                .iter()
                .filter(|(_, view)| view.role == RoleView::Active && sizes.get(&view.seat) == Some(&view.in_sync.len()))
                .map(|(_, view)| view.seat)
                .collect();
            let members: usize = sizes.values().sum();
            let complete = views.iter().filter(|(_, view)| view.complete).count();
            let passed = whole.len() == sizes.len() && complete == members;
            if passed || begun.elapsed() > SOON {
                let ms = begun.elapsed().as_millis();
                let detail =
                    format!("{} of {} clusters, {complete} of {members} logs after {ms} ms", whole.len(), sizes.len());
                self.check("all members in sync again", passed, detail);
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    pub(super) fn cluster_sizes(&self) -> BTreeMap<u16, usize> {
        let seats = self.network.files().genesis.seats.iter().enumerate();
        seats.map(|(seat, descriptor)| (seat as u16, descriptor.members.len())).collect()
    }

    /// Waits until so many seats are held at these sites that they are a quorum.
    pub(super) async fn seats_at(&mut self, sites: &[String]) -> Result<bool, Failure> {
        let begun = Instant::now();
        let (client, seats) = (self.network.client(self.auth()?)?.clone(), self.cluster_sizes().len());
        while begun.elapsed() < SOON {
            let clusters = client.auth().await?;
            let stands_there = |view: &standin_auth::actor::ClusterView| {
                let holder = view.holder.and_then(|holder| view.admitted.get(&holder));
                holder.is_some_and(|member| sites.contains(&member.site))
            };
            if clusters.iter().filter(|view| stands_there(view)).count() + faulty_max(seats) >= seats {
                return Ok(true);
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(false)
    }

    /// Waits until every node has told a recalled register what it knows.
    pub(super) async fn recalled(&mut self, auth: usize) -> Result<(), Failure> {
        let begun = Instant::now();
        let client = self.network.client(auth)?.clone();
        loop {
            let recalling = client.auth().await?.iter().filter(|cluster| cluster.recalling.is_some()).count();
            if recalling == 0 || begun.elapsed() > SOON {
                let detail = format!("{recalling} clusters are recalled after {} ms", begun.elapsed().as_millis());
                self.check("every node has said what it knows", recalling == 0, detail);
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until an auth node that has just started has heard somebody of every cluster: before that it knows of nobody whether
    /// it lives, and may not have been found again.
    pub(super) async fn hears_clusters(&mut self, auth: usize) -> Result<(), Failure> {
        let (begun, client) = (Instant::now(), self.network.client(auth)?.clone());
        while begun.elapsed() < SOON {
            let clusters = client.auth().await?;
            if clusters.iter().all(|cluster| cluster.age_ms.is_some()) {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
        Err(Failure::new(5, "the auth node does not hear every cluster"))
    }

    /// Moves the seat that a node holds, by an operator's order.
    pub(super) async fn switch(&self, holder: usize, to: Option<NodeId>) -> Result<(), Failure> {
        let args = to.map(|to| ("to".to_owned(), to.to_string())).into_iter().collect();
        let ask = act::ask(Order { on: String::new(), args }, "a drill");
        self.network.client(holder)?.act("switch", ask, &self.operator_key()?).await?;
        Ok(())
    }

    /// The key of the only operator.
    pub(super) fn operator_key(&self) -> Result<SecretKey, Failure> {
        SecretKey::read(&self.network.files().operator_key).map_err(|error| Failure::new(78, error.to_string()))
    }

    pub(super) async fn kill_all(&mut self, nodes: &[usize]) -> Result<(), Failure> {
        for node in nodes {
            self.network.kill(*node).await?;
        }
        Ok(())
    }

    pub(super) async fn start_all(&mut self, nodes: &[usize]) -> Result<(), Failure> {
        for node in nodes {
            self.network.start_node(*node)?;
        }
        self.network.wait_ready(SOON).await
    }
}

impl Drill {
    /// Waits until this node holds the seat.
    pub(super) async fn held_by(&mut self, seat: Seat, node: usize) -> Result<(), Failure> {
        let begun = Instant::now();
        while self.holder_of(seat).await?.node != node {
            if begun.elapsed() > SOON {
                let name = self.network.name(node);
                return Err(Failure::new(1, format!("{name} does not get seat {seat}")));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Waits until the auth node has granted a later term of the holder's seat; gives it.
    pub(super) async fn term_above(&mut self, auth: usize, holder: Holder) -> Result<Term, Failure> {
        let cluster = self.layout.nodes.get(holder.node).map(|node| node.cluster.clone());
        let client = self.network.client(auth)?.clone();
        let begun = Instant::now();
        loop {
            let clusters = client.auth().await?;
            let term = clusters.iter().find(|view| Some(&view.cluster) == cluster.as_ref()).map(|view| view.term);
            match term.filter(|term| *term > holder.term) {
                Some(term) => return Ok(term),
                None if begun.elapsed() > SOON => return Err(Failure::new(5, "the silent member is not left out")),
                None => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// Moves the seat to a node that has just started, as soon as it may take it. Where the machine stood still for a moment it may have
    /// it already, or have had it.
    pub(super) async fn give(&mut self, before: Holder, wanted: NodeId) -> Result<(), Failure> {
        let begun = Instant::now();
        while !self.grants_after(before).await?.iter().any(|grant| grant.holder_id() == wanted) {
            let holder = self.holder_of(before.seat).await?;
            if let Err(refused) = self.switch(holder.node, Some(wanted)).await
                && begun.elapsed() > SOON
            {
                return Err(refused);
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Waits until `wanted` has held the seat after `before`, and was replaced: the last term of its own, and why the next was granted.
    pub(super) async fn replaced(&mut self, before: Holder, wanted: NodeId) -> Result<(Term, Option<Cause>), Failure> {
        let begun = Instant::now();
        loop {
            let later = self.grants_after(before).await?;
            let held = later.iter().skip_while(|grant| grant.holder_id() != wanted);
            let own = held.clone().take_while(|grant| grant.holder_id() == wanted).last().map(|grant| grant.term);
            let next = held.clone().find(|grant| grant.holder_id() != wanted).map(|grant| grant.cause);
            match (own, next) {
                (Some(term), cause @ Some(_)) => return Ok((term, cause)),
                (own, _) if begun.elapsed() > SOON => return Ok((own.unwrap_or(before.term), None)),
                _ => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// The grants of the seat after this holder's, as a node of another cluster knows them.
    async fn grants_after(&mut self, before: Holder) -> Result<Vec<Grant>, Failure> {
        let cluster = self.mates_of(before);
        let is_outside = |node: &usize| *node != before.node && !cluster.contains(node);
        let witness = (0..self.network.size()).find(|node| is_outside(node) && self.network.answers(*node));
        let genesis = &self.network.files().genesis;
        let table = self.network.client(witness.unwrap_or_default())?.grant_table(genesis).await?;
        let grants = table.all().map(|signed| &signed.grant);
        let later = grants
            .filter(|grant| table.seat_of_cluster(&grant.cluster) == Some(before.seat) && grant.term > before.term);
        Ok(later.cloned().collect())
    }

    /// The auth node that heard the holder last: the one that its cluster asks.
    pub(super) async fn asked_front(&self, holder: Holder) -> Result<usize, Failure> {
        let cluster = self.layout.nodes.get(holder.node).map(|node| &node.cluster);
        let mut ages = Vec::new();
        for front in self.network.auths() {
            let clusters = self.network.client(front)?.auth().await?;
            let age = clusters.iter().find(|view| Some(&view.cluster) == cluster).and_then(|view| view.age_ms);
            ages.extend(age.map(|age| (age, front)));
        }
        ages.into_iter().min().map(|(_, front)| front).ok_or_else(|| Failure::new(1, "no auth node hears the holder"))
    }

    pub(super) fn auth(&self) -> Result<usize, Failure> {
        self.network.auths().next().ok_or_else(|| Failure::new(2, "the layout has no auth node"))
    }

    pub(super) fn nodes_at(&self, sites: &[String]) -> Vec<usize> {
        let nodes = self.layout.nodes.iter().enumerate();
        nodes.filter(|(_, node)| sites.contains(&node.site)).map(|(index, _)| index).collect()
    }

    pub(super) fn mates_of(&self, holder: Holder) -> Vec<usize> {
        let cluster = self.layout.nodes.get(holder.node).map(|node| &node.cluster);
        let nodes = self.layout.nodes.iter().enumerate();
        nodes.filter(|(index, node)| Some(&node.cluster) == cluster && *index != holder.node).map(|(i, _)| i).collect()
    }
}

/// The first block above `seen` whose certificate has such a vote; moves `seen` on to what was looked at.
async fn first_with(client: &Client, seen: &mut Height, wanted: impl Fn(&SeatVote) -> bool) -> Option<Height> {
    let blocks = match client.blocks(seen.next(), 50).await {
        // It has taken a snapshot meanwhile: what it has from there on will do.
        Err(ClientError::Gone { first, .. }) => client.blocks(first, 50).await,
        blocks => blocks,
    };
    for block in blocks.unwrap_or_default() {
        *seen = block.height;
        if block.certificate.votes.iter().any(&wanted) {
            return Some(block.height);
        }
    }
    None
}
