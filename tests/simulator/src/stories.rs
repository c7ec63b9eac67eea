//! Stories: one certain thing goes wrong in a calm network, and what must come of it. Seeds find what nobody thought of; a
//! story shows what was promised.

use std::sync::Arc;

use fastrand::Rng;
use standin_consensus::config::Config;
use standin_foundation::{Height, Seat};
use standin_ledger::grant::Cause;
use standin_ledger::{Genesis, Parameters, SeatDescriptor};

use crate::auth::AuthHost;
use crate::byzantine::Behaviour;
use crate::faults::Fault;
use crate::invariants::Violation;
use crate::network::{Network, NodeIndex};
use crate::node::{ClusterSetup, Node, Setup};
use crate::rules::Rule;
use crate::scenario::{cluster_name, key_of, transaction};
use crate::world::{Event, World};

/// What a network is built from.
#[derive(Debug)]
pub(crate) struct Build<'a> {
    /// Nodes of each seat.
    pub(crate) sizes: &'a [usize],
    /// The chain's numbers.
    pub(crate) parameters: Parameters,
    /// The replicas' numbers.
    pub(crate) config: Config,
    /// The links.
    pub(crate) network: Network,
    /// The rule that is switched off.
    pub(crate) rule: Option<Rule>,
}

/// A network whose seats are held by clusters. In each the first node has the highest priority. `tune` changes what is special
/// about a node; `behaviour` says what a faulty seat is like.
pub(crate) fn build(
    of: &Build<'_>,
    tune: impl Fn(usize, usize, &mut Setup),
    behaviour: impl Fn(usize) -> Option<Box<dyn Behaviour>>,
    rng: Rng,
) -> World {
    let mut next_key = 1;
    let mut clusters = Vec::new();
    for (seat, size) in of.sizes.iter().enumerate() {
        let keys: Vec<_> = (next_key..next_key + size).map(key_of).collect();
        next_key += size;
        clusters.push((cluster_name(seat), keys));
    }
    let descriptor = |(cluster, keys): &(_, Vec<_>)| SeatDescriptor::of_one(Clone::clone(cluster), keys[0]);
    let genesis = Genesis {
        chain: "test-story".parse().unwrap_or_else(|_| unreachable!("a valid name")),
        time_ms: 1,
        auth: Some(key_of(0)),
        parameters: of.parameters,
        seats: clusters.iter().map(descriptor).collect(),
        operators: Default::default(),
        clients: Default::default(),
        accounts: Vec::new(),
    };
    let mut nodes = Vec::new();
    for (seat, (cluster, keys)) in clusters.iter().enumerate() {
        let priority = |n: usize| 10 - n as u8;
        let members = keys.iter().enumerate().map(|(n, key)| (key.node_id(), priority(n))).collect();
        let (cluster, config) = (cluster.clone(), standin_cluster::Config::default());
        let cluster = Arc::new(ClusterSetup { cluster, members, config });
        for (n, key) in keys.iter().enumerate() {
            let mut setup = Setup {
                genesis: genesis.clone(),
                seat: Seat(seat as u16),
                config: of.config,
                id: key.node_id(),
                key: *key,
                cluster: Some(Arc::clone(&cluster)),
                rule: of.rule,
                wrong_from: None,
                excused: false,
                unchecked: false,
            };
            tune(seat, n, &mut setup);
            nodes.push((Node::new(setup), behaviour(seat)));
        }
    }
    let mut world = World::new(rng, of.network.clone(), nodes);
    let mutation = of.rule.and_then(|rule| rule.auth);
    world.auth = Some(AuthHost::new(&genesis, clusters, standin_auth::Config::default(), mutation));
    world
}

/// A calm network of clusters in which a story is told.
#[derive(Debug)]
pub struct Story {
    /// The world.
    pub world: World,
    nonce: u64,
}

impl Story {
    /// A network whose seats are held by clusters of these sizes. In each the first node has the highest priority. `tune`
    /// changes what is special about a node.
    pub fn new(sizes: &[usize], tune: impl Fn(usize, usize, &mut Setup)) -> Result<Self, Violation> {
        let parameters = Parameters {
            checkpoint_interval: 8,
            window: 32,
            replay_window: 500,
            client_signatures: standin_ledger::ClientSignatures::None,
            version: 1,
        };
        let of = Build { sizes, parameters, config: Config::default(), network: Network::calm(), rule: None };
        let world = build(&of, tune, |_| None, Rng::with_seed(7));
        let mut story = Self { world, nonce: 0 };
        story.run(2_000)?;
        let all_active = (0..sizes.len()).all(|seat| story.active(seat).is_some());
        story.expect(all_active, "every seat has a holder two seconds after the first start")?;
        Ok(story)
    }

    /// Lets so many ms pass, with a transaction every 200 ms, for one seat after the other.
    pub fn run(&mut self, ms: u64) -> Result<(), Violation> {
        self.run_at_pace(ms, 200)
    }

    /// Lets so many ms pass, with a transaction every so many ms; now and then logs are cut.
    fn run_at_pace(&mut self, ms: u64, pace_ms: u64) -> Result<(), Violation> {
        let end = self.world.now_us + ms * 1_000;
        let seats = self.seats();
        while self.world.now_us < end {
            if let Some(active) = self.active(self.nonce as usize % seats) {
                let transaction = transaction(self.nonce, self.height() + 300);
                self.world.schedule(0, Event::Submit(active, vec![transaction]));
                if self.nonce.is_multiple_of(16) {
                    self.world.schedule(0, Event::Fault(Fault::CutLog(active)));
                }
            }
            self.nonce += 1;
            self.world.run_until((self.world.now_us + pace_ms * 1_000).min(end))?;
        }
        Ok(())
    }

    fn seats(&self) -> usize {
        self.world.nodes.iter().map(|node| node.setup.seat.index() + 1).max().unwrap_or(0)
    }

    /// The node that speaks for a seat.
    pub fn active(&self, seat: usize) -> Option<NodeIndex> {
        let speaks = |node: &Node| node.up && node.is_active() && node.setup.seat.index() == seat;
        self.world.nodes.iter().position(speaks)
    }

    /// The highest block that any node has executed.
    pub fn height(&self) -> u64 {
        self.world.nodes.iter().map(|node| node.chain().height().0).max().unwrap_or(0)
    }

    /// Something goes wrong now.
    pub fn fault(&mut self, fault: Fault) -> Result<(), Violation> {
        self.world.schedule(0, Event::Fault(fault));
        self.world.run_until(self.world.now_us + 1)
    }

    /// A part of the promise.
    pub fn expect(&self, holds: bool, what: &str) -> Result<(), Violation> {
        if holds {
            return Ok(());
        }
        let actives: Vec<_> = (0..self.seats()).map(|seat| self.active(seat)).collect();
        let what =
            format!("{what}; at {} ms, height {}, actives {actives:?}", self.world.now_us / 1_000, self.height());
        Err(Violation { invariant: "story", what })
    }

    fn grows(&mut self, ms: u64) -> Result<bool, Violation> {
        let before = self.height();
        self.run_at_pace(ms, if ms < 60_000 { 200 } else { 7_000 })?;
        Ok(self.height() > before)
    }
}

/// While the auth node is away the chain runs: for an hour, also with one seat that has lost a member and waits. With more than
/// f such seats it stops, and goes on when the auth node is back.
pub fn auth_down_for_an_hour() -> Result<(), Violation> {
    let mut story = Story::new(&[2, 2, 2, 2], |_, _, _| {})?;
    story.world.steps_max = u64::MAX;
    story.fault(Fault::AuthDown)?;
    for _ in 0..30 {
        let grows = story.grows(60_000)?;
        story.expect(grows, "the chain runs without the auth node")?;
    }
    let standby = |seat: usize| 2 * seat + 1;
    story.fault(Fault::Kill(standby(0)))?;
    for _ in 0..25 {
        let grows = story.grows(60_000)?;
        story.expect(grows, "one seat waits for its member; the chain runs")?;
    }
    story.fault(Fault::Kill(standby(1)))?;
    story.run(5_000)?;
    let grows = story.grows(240_000)?;
    story.expect(!grows, "two seats wait: the chain stops")?;
    story.fault(Fault::AuthUp)?;
    story.run(10_000)?;
    let grows = story.grows(2_000)?;
    story.expect(grows, "the auth node is back: the silent members are left out, and the chain goes on")?;
    for seat in [0, 1] {
        story.fault(Fault::Restart(standby(seat)))?;
    }
    story.run(10_000)?;
    let heights: Vec<_> = story.world.nodes.iter().map(|node| node.chain().height().0).collect();
    let (low, high) = (heights.iter().min().copied(), heights.iter().max().copied());
    story.expect(high.zip(low).is_some_and(|(high, low)| high - low < 20), "and all have what was missed")
}

/// An active that computes wrong results is found inside its cluster, before the seat has voted for one.
pub fn wrong_result_found_inside() -> Result<(), Violation> {
    let mut story = Story::new(&[3, 3, 3, 3], |seat, n, setup| {
        setup.excused = seat == 0;
        setup.wrong_from = (seat == 0 && n == 0).then_some(Height(10));
    })?;
    story.run(8_000)?;
    story.expect(story.active(0).is_some_and(|active| active != 0), "the standby speaks for the seat")?;
    let forced = story.world.auth.as_ref().and_then(|auth| auth.grant_of(&cluster_name(0))).map(|grant| grant.cause);
    story.expect(forced != Some(Cause::Forced), "nobody had to order it")?;
    let grows = story.grows(2_000)?;
    story.expect(grows, "and the chain runs")
}

/// Where the members' check is switched off, the other seats report it, and the auth node orders the cluster to switch.
pub fn wrong_result_found_by_the_others() -> Result<(), Violation> {
    let mut story = Story::new(&[3, 3, 3, 3], |seat, n, setup| {
        setup.excused = seat == 0;
        setup.unchecked = seat == 0;
        setup.wrong_from = (seat == 0 && n == 0).then_some(Height(10));
    })?;
    story.run(8_000)?;
    story.expect(story.active(0).is_some_and(|active| active != 0), "the standby speaks for the seat")?;
    let causes = story.world.invariants.causes(&cluster_name(0));
    story.expect(causes.contains(&Cause::Forced), &format!("by order, and not {causes:?}"))?;
    let grows = story.grows(2_000)?;
    story.expect(grows, "and the chain runs")
}

/// T12: the auth node's word reaches nobody but the cluster that it is about. The others learn of the new holder from what it says: its
/// messages wait, its grant is fetched, and its votes count. Without them there would be no quorum.
pub fn a_grant_that_only_its_cluster_hears_of() -> Result<(), Violation> {
    let mut story = Story::new(&[2, 2, 2, 2], |_, _, _| {})?;
    let auth = story.world.nodes.len();
    for node in 2..auth {
        story.fault(Fault::Cut(auth, node))?;
        story.fault(Fault::Cut(node, auth))?;
    }
    for node in [6, 7] {
        story.fault(Fault::Kill(node))?;
    }
    let Some(active) = story.active(0) else { return story.expect(false, "a seat without a holder") };
    story.fault(Fault::Kill(active))?;
    story.run(1_000)?;
    story.expect(story.active(0).is_some_and(|next| next != active), "the standby speaks for the seat")?;
    let grows = story.grows(1_000)?;
    story.expect(grows, "and is heard by the two other seats")
}

/// The active is killed, the active and the standby are killed: no view changes, and nobody loses a block.
pub fn actives_killed_one_by_one() -> Result<(), Violation> {
    let mut story = Story::new(&[3, 3, 3, 3], |_, _, _| {})?;
    let view = |story: &Story| story.world.nodes.iter().map(|node| node.machine().status().view.0).max();
    for seat in 0..4 {
        for _ in 0..2 {
            let Some(active) = story.active(seat) else { return story.expect(false, "a seat without a holder") };
            story.fault(Fault::Kill(active))?;
            story.run(600)?;
            story.expect(story.active(seat).is_some(), "the next member speaks for the seat within 600 ms")?;
        }
    }
    story.expect(view(&story) == Some(0), "no view changed, although eight of twelve nodes are gone")?;
    let grows = story.grows(2_000)?;
    story.expect(grows, "and the chain runs")
}
