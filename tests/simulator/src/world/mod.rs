//! Time, events and delivery: one queue, one source of randomness.

mod consortium;
mod faulting;
mod naming;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use fastrand::Rng;
use standin_auth::messages::Request;
use standin_consensus::Recipient;
use standin_consensus::effect::Event as ConsensusEvent;
use standin_foundation::{Epoch, Millis, NodeId, Seat};
use standin_ledger::Transaction;
use standin_ledger::certificate::Authority as _;

use crate::auth::{AuthHost, Outbox};
use crate::byzantine::Behaviour;
use crate::faults::Fault;
use crate::invariants::{Invariants, Violation};
use crate::model::{Directed, Director};
use crate::network::{Envelope, Network, NodeIndex};
use crate::node::{Action, Node, Observation};
use crate::scenario::key_of;

/// No run of a seed needs more events than this: more are a storm.
const STEPS_MAX: u64 = 400_000;

/// What nothing waits for is synced within this time.
const SYNC_WITHIN_US: u64 = 20_000;

/// A request is not under way for longer than this.
const REQUEST_LIFE_US: u64 = 2_500_000;

/// Something that happens at a time.
#[derive(Debug)]
pub enum Event {
    /// Something arrives.
    Arrives(NodeIndex, NodeIndex, Box<Envelope>),
    /// A node's timer.
    Tick(NodeIndex, u64),
    /// A node's log is durable up to here.
    Synced(NodeIndex, u64, u64),
    /// What a node's log has put off is to be synced.
    SyncDue(NodeIndex, u64),
    /// A node's executor is done with the block before.
    Executes(NodeIndex, u64),
    /// A node's snapshot is in place.
    Installed(NodeIndex, u64),
    /// A fault.
    Fault(Fault),
    /// A client hands transactions to a node, or to the active of its cluster.
    Submit(NodeIndex, Vec<Transaction>),
    /// The operator orders that this node holds its seat from the epoch after this one on, by a transaction with this nonce.
    Name(NodeIndex, Epoch, u64),
    /// The operator orders that the cluster of the nodes that wait is given a seat.
    AddCluster(u64),
    /// The operator orders that this node's cluster holds its seat no more.
    RemoveCluster(NodeIndex, u64),
    /// The operator orders that another auth node takes the place of the one that is asked.
    ReplaceAuth(u64),
    /// A node sees that another has closed their connection.
    LinkDown(NodeIndex, NodeIndex),
    /// A request reaches the auth node.
    Asked(NodeIndex, Box<Request>),
    /// What the auth node has decided is durable there.
    Decided(u64, Box<Outbox>),
}

/// What one node's surroundings are like.
#[derive(Debug)]
struct Place {
    behaviour: Option<Box<dyn Behaviour>>,
    frozen: bool,
    waiting: Vec<Event>,
    disk_latency_us: u64,
    /// The clock runs this much faster or slower, in parts per thousand.
    drift: i64,
    next_tick_us: u64,
    /// When the node last asked for a grant: the request may still be under way.
    asked_us: Option<u64>,
}

/// The world.
#[derive(Debug)]
pub struct World {
    /// The nodes.
    pub nodes: Vec<Node>,
    /// Nodes whose disks must not be lost.
    irreplaceable: BTreeSet<NodeIndex>,
    /// The seat whose only log has been lost.
    lost_all: Option<Seat>,
    /// Nodes that an order names, or named: a disk that is lost before it takes effect strands the seat until it is named again.
    named: BTreeSet<NodeIndex>,
    /// Nodes whose cluster has not been given a seat yet.
    waiting: BTreeSet<NodeIndex>,
    /// A cluster was to be removed.
    removes: bool,
    /// The auth node, where there is one.
    pub auth: Option<AuthHost>,
    /// The links.
    pub network: Network,
    /// What must hold.
    pub invariants: Invariants,
    /// Randomness.
    pub rng: Rng,
    /// Now, in µs.
    pub now_us: u64,
    /// Events so far.
    pub steps: u64,
    /// More events than this are a violation.
    pub steps_max: u64,
    /// Changes the course of events, in a model check.
    pub(crate) director: Option<Director>,
    auth_id: NodeId,
    places: Vec<Place>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    next_event: u64,
}

impl World {
    /// A world of these nodes; a node with a behaviour is faulty.
    pub fn new(mut rng: Rng, network: Network, nodes: Vec<(Node, Option<Box<dyn Behaviour>>)>) -> Self {
        let seats = nodes.first().map_or(1, |(node, _)| node.setup.genesis.seats.len());
        let mut world = Self {
            nodes: Vec::new(),
            irreplaceable: BTreeSet::new(),
            lost_all: None,
            named: BTreeSet::new(),
            waiting: BTreeSet::new(),
            removes: false,
            auth: None,
            network,
            invariants: Invariants::new(seats),
            now_us: 0,
            steps: 0,
            steps_max: STEPS_MAX,
            director: None,
            auth_id: key_of(0).node_id(),
            places: Vec::new(),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            next_event: 0,
            rng: rng.fork(),
        };
        for (node, behaviour) in nodes {
            world.nodes.push(node);
            world.places.push(Place {
                behaviour,
                frozen: false,
                waiting: Vec::new(),
                disk_latency_us: 150,
                drift: rng.i64(-100..=100),
                next_tick_us: 0,
                asked_us: None,
            });
        }
        for index in 0..world.nodes.len() {
            world.schedule(0, Event::Tick(index, 0));
        }
        world
    }

    /// Whether nobody who speaks for the seat is faulty, and its log was never lost as a whole.
    fn is_honest(&self, seat: Seat) -> bool {
        let mut nodes = (0..self.nodes.len())
            .filter(|index| self.nodes[*index].setup.seat == seat && !self.waiting.contains(index));
        nodes.all(|index| self.is_correct(index)) && self.lost_all != Some(seat)
    }

    /// Adds an event `after_us` from now.
    pub fn schedule(&mut self, after_us: u64, event: Event) {
        let id = self.next_event;
        self.next_event += 1;
        self.queue.push(Reverse((self.now_us + after_us, id)));
        self.events.insert(id, event);
    }

    /// Whether the node behaves.
    pub fn is_correct(&self, index: NodeIndex) -> bool {
        let seat = self.nodes[index].setup.seat;
        let alone = || self.nodes.iter().filter(|node| node.setup.seat == seat).count() == 1;
        let is_one = self.nodes[index].setup.cluster.is_some() || alone();
        let setup = &self.nodes[index].setup;
        let is_honest = self.places[index].behaviour.is_none() && setup.wrong_from.is_none();
        is_honest && is_one && !setup.excused && !self.waiting.contains(&index)
    }

    /// Runs until `until_us`.
    pub fn run_until(&mut self, until_us: u64) -> Result<(), Violation> {
        while let Some(Reverse((at, id))) = self.queue.peek().copied() {
            if at > until_us {
                break;
            }
            self.queue.pop();
            self.now_us = at;
            self.steps += 1;
            if self.steps > self.steps_max {
                let what = format!("{} events by {} ms", self.steps_max, self.now_us / 1_000);
                return Err(Violation { invariant: "bounded_work", what });
            }
            if let Some(event) = self.events.remove(&id) {
                self.happen_directed(event)?;
            }
        }
        self.now_us = until_us;
        Ok(())
    }

    /// Ends all faults: links work, disks are fast, everyone runs. Faulty seats stay faulty.
    pub fn heal(&mut self) -> Result<(), Violation> {
        self.network = Network::calm();
        for index in 0..self.nodes.len() {
            self.places[index].disk_latency_us = 150;
            self.happen(Event::Fault(Fault::Thaw(index)))?;
            self.happen(Event::Fault(Fault::Restart(index)))?;
        }
        Ok(())
    }

    fn node_time(&self, index: NodeIndex) -> Millis {
        let drift = self.places[index].drift;
        Millis((self.now_us as i64 * (1_000 + drift) / 1_000_000) as u64)
    }

    fn happen_directed(&mut self, event: Event) -> Result<(), Violation> {
        let now_us = self.now_us;
        let directed = match &mut self.director {
            Some(director) => director.direct(now_us, event),
            None => Directed::Happens(event),
        };
        match directed {
            Directed::Happens(event) => self.happen(event),
            Directed::Lost => Ok(()),
            Directed::Late(after_us, event) => {
                self.schedule(after_us, event);
                Ok(())
            }
            Directed::Twice(event, after_us, copy) => {
                self.schedule(after_us, copy);
                self.happen(event)
            }
            Directed::After(fault, (after_us, end), event) => {
                self.fault(fault)?;
                self.schedule(after_us, Event::Fault(end));
                self.happen(event)
            }
        }
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        let (index, life) = match &event {
            Event::Fault(fault) => return self.fault(fault.clone()),
            Event::Asked(from, request) => {
                self.ask_auth(*from, request);
                return Ok(());
            }
            Event::Decided(life, outbox) => return self.auth_decided(*life, outbox),
            Event::Name(index, epoch, nonce) => {
                self.name(*index, *epoch, *nonce);
                return Ok(());
            }
            Event::AddCluster(nonce) => {
                return self.add_cluster(*nonce);
            }
            Event::RemoveCluster(index, nonce) => {
                self.remove_cluster(*index, *nonce);
                return Ok(());
            }
            Event::ReplaceAuth(nonce) => {
                self.replace_auth(*nonce);
                return Ok(());
            }
            Event::Submit(index, transactions) if self.nodes[*index].setup.cluster.is_some() => {
                return self.submit_to_cluster(*index, transactions);
            }
            Event::Arrives(index, ..) | Event::Submit(index, _) | Event::LinkDown(index, _) => (*index, None),
            Event::Tick(index, life)
            | Event::Synced(index, life, _)
            | Event::SyncDue(index, life)
            | Event::Executes(index, life)
            | Event::Installed(index, life) => (*index, Some(*life)),
        };
        let node = &self.nodes[index];
        if !node.up || life.is_some_and(|life| life != node.life) {
            return Ok(());
        }
        if matches!(event, Event::Tick(..))
            && (self.places[index].next_tick_us != self.now_us || self.places[index].frozen)
        {
            // A timer that was set again in the meantime; a frozen node gets its tick when it thaws.
            return Ok(());
        }
        if self.places[index].frozen {
            self.places[index].waiting.push(event);
            return Ok(());
        }
        self.step(index, event)
    }

    fn step(&mut self, index: NodeIndex, event: Event) -> Result<(), Violation> {
        let now = self.node_time(index);
        let node = &mut self.nodes[index];
        let actions = match event {
            Event::Arrives(_, from, envelope) => {
                let (id, seat) = match self.nodes.get(from) {
                    Some(from) => (from.setup.id, from.setup.seat),
                    // The auth node speaks for no seat.
                    None => (self.auth_id, Seat(u16::MAX)),
                };
                self.nodes[index].receive(now, id, seat, *envelope)
            }
            Event::LinkDown(_, other) => {
                let id = self.nodes[other].setup.id;
                self.nodes[index].link_down(now, id)
            }
            Event::Tick(..) => {
                self.places[index].next_tick_us = u64::MAX;
                node.tick(now)
            }
            Event::Synced(_, _, sequence) => node.synced(now, sequence),
            Event::SyncDue(..) => node.sync_due(),
            Event::Executes(..) => node.execute(now),
            Event::Installed(..) => node.installed(now),
            Event::Submit(_, transactions) => {
                for transaction in &transactions {
                    self.invariants.submitted(transaction.id());
                }
                node.submit(now, transactions)
            }
            Event::Fault(_)
            | Event::Asked(..)
            | Event::Decided(..)
            | Event::Name(..)
            | Event::AddCluster(_)
            | Event::RemoveCluster(..)
            | Event::ReplaceAuth(_) => Vec::new(),
        };
        self.act(index, actions)
    }

    fn act(&mut self, index: NodeIndex, actions: Vec<Action>) -> Result<(), Violation> {
        for action in actions {
            let life = self.nodes[index].life;
            match action {
                Action::Deliver(to, envelope) => self.deliver(index, to, &envelope),
                Action::DeliverTo(id, envelope) => {
                    if let Some(to) = self.index_of(&id) {
                        self.send(index, to, &envelope);
                    }
                }
                Action::Ask(request) => self.ask(index, request),
                Action::Sync(sequence) => {
                    let latency = self.places[index].disk_latency_us;
                    let latency = self.rng.u64(latency / 2..=latency * 2);
                    self.schedule(latency, Event::Synced(index, life, sequence));
                }
                Action::SyncSoon => self.schedule(SYNC_WITHIN_US, Event::SyncDue(index, life)),
                Action::Execute => {
                    let latency = self.rng.u64(20..1_000);
                    self.schedule(latency, Event::Executes(index, life));
                }
                Action::Installed => self.schedule(5_000, Event::Installed(index, life)),
                Action::Observe(observation) => self.observe(index, &observation)?,
            }
        }
        // A node that must not go on ends its process; but for one that notices nothing of itself.
        let setup = &self.nodes[index].setup;
        let is_over = self.nodes[index].machine().is_halted() && setup.cluster.is_some() && !setup.unchecked;
        if self.nodes[index].disk.refused || (is_over && self.nodes[index].up) {
            return self.fault(Fault::Kill(index));
        }
        self.schedule_tick(index);
        Ok(())
    }

    fn observe(&mut self, index: NodeIndex, observation: &Observation) -> Result<(), Violation> {
        if !self.is_correct(index) {
            return Ok(());
        }
        let node = &self.nodes[index];
        if let Observation::Emitted(message) = observation
            && let Some(grant) = node.known.table.grant(node.setup.seat, message.vote.term)
        {
            let listed = |other: &&Node| grant.grant.in_sync.contains(&other.setup.id) && !other.is_wiped();
            self.invariants.emitted_by_holder(
                message,
                self.nodes.iter().filter(listed).map(|other| (other.setup.id == node.setup.id, &other.disk)),
            )?;
        }
        self.invariants.check(node.setup.seat, &node.disk, observation)?;
        if let Observation::Event(ConsensusEvent::RolledBack { seat, start, seen }) = observation
            && self.is_honest(*seat)
        {
            let what = format!("seat {}: the log of seat {seat} begins at {start}, {seen} was seen", node.setup.seat);
            return Err(Violation { invariant: "no_roll_back", what });
        }
        self.invariants.check_log(node, observation)?;
        match observation {
            Observation::Event(ConsensusEvent::EpochBegan(_)) => self.seat_candidates(),
            _ => Ok(()),
        }
    }

    fn schedule_tick(&mut self, index: NodeIndex) {
        let (now, wanted) = (self.node_time(index), self.nodes[index].deadline());
        if self.nodes[index].machine().is_halted() {
            return;
        }
        let after_us = ((wanted - now) * 1_000 * 1_000 / (1_000 + self.places[index].drift) as u64).max(1_000);
        let at = self.now_us + after_us;
        if at < self.places[index].next_tick_us || self.places[index].next_tick_us <= self.now_us {
            self.places[index].next_tick_us = at;
            let life = self.nodes[index].life;
            self.schedule(after_us, Event::Tick(index, life));
        }
    }

    /// Which node has this id. Twins share one, and neither is told apart by it.
    fn index_of(&self, id: &NodeId) -> Option<NodeIndex> {
        self.nodes.iter().position(|node| node.setup.id == *id)
    }

    /// To other seats: to the node that the sender takes for their holder; to all that share a fixed one.
    fn deliver(&mut self, from: NodeIndex, to: Recipient, envelope: &Envelope) {
        let holders: Vec<_> = match self.nodes[from].setup.cluster {
            None => (0..self.nodes.len()).collect(),
            Some(_) => {
                let known = &self.nodes[from].known;
                let seats = known.seats(known.table.epoch()).unwrap_or_default();
                let others = seats.iter().filter(|seat| *seat != self.nodes[from].setup.seat);
                others.filter_map(|seat| self.index_of(&known.holder(seat)?)).collect()
            }
        };
        for index in holders {
            let seat = self.nodes[index].setup.seat;
            let meant = match to {
                Recipient::All => index != from,
                Recipient::One(one) => seat == one && index != from,
            };
            if meant {
                self.send(from, index, envelope);
            }
        }
    }

    fn send(&mut self, from: NodeIndex, to: NodeIndex, envelope: &Envelope) {
        let (own, seat) = (self.nodes[from].signer(), self.nodes[to].setup.seat);
        let is_inner = self.nodes[from].setup.cluster.is_some() && self.are_mates(from, to);
        let sent = match &mut self.places[from].behaviour {
            Some(behaviour) if !is_inner => behaviour.send(&mut self.rng, own, seat, envelope),
            _ => vec![envelope.clone()],
        };
        for envelope in sent {
            self.post(from, to, envelope);
        }
    }

    fn post(&mut self, from: NodeIndex, to: NodeIndex, envelope: Envelope) {
        for delay in self.network.delays(&mut self.rng, from, to) {
            self.schedule(delay, Event::Arrives(to, from, Box::new(envelope.clone())));
        }
    }

    fn ask(&mut self, from: NodeIndex, request: Request) {
        let auth = self.nodes.len();
        if matches!(request, Request::Register(_) | Request::Update(_) | Request::SetChange(_)) {
            self.places[from].asked_us = Some(self.now_us);
        }
        for delay in self.network.delays(&mut self.rng, from, auth) {
            self.schedule(delay, Event::Asked(from, Box::new(request.clone())));
        }
    }

    fn ask_auth(&mut self, from: NodeIndex, request: &Request) {
        let (id, now, latency) = (self.nodes[from].setup.id, Millis(self.now_us / 1_000), self.rng.u64(80..400));
        let Some(auth) = self.auth.as_mut().filter(|auth| auth.up) else { return };
        if let Some(outbox) = auth.handle(now, id, request) {
            let life = auth.life;
            self.schedule(latency, Event::Decided(life, Box::new(outbox)));
        }
    }

    fn auth_decided(&mut self, life: u64, outbox: &Outbox) -> Result<(), Violation> {
        let host = self.nodes.len();
        let Some(auth) = self.auth.as_mut().filter(|auth| auth.up && auth.life == life) else { return Ok(()) };
        auth.synced(outbox);
        if let Some(grant) = &outbox.granted {
            self.invariants.granted(grant)?;
            for index in 0..self.nodes.len() {
                self.post(host, index, Envelope::Grant(Box::new(grant.clone())));
            }
        }
        if let Some(to) = self.index_of(&outbox.to) {
            self.post(host, to, Envelope::Answer(Box::new(outbox.answer.clone())));
        }
        Ok(())
    }

    /// A client tries the nodes of a cluster until one takes its transactions.
    fn submit_to_cluster(&mut self, index: NodeIndex, transactions: &[Transaction]) -> Result<(), Violation> {
        // Whoever gets no answer from a cluster asks another.
        let index = if self.is_seated(index) { index } else { self.rng.usize(0..self.nodes.len()) };
        let serves = |other: &NodeIndex| {
            let node = &self.nodes[*other];
            self.are_mates(*other, index) && node.up && node.is_active() && !self.places[*other].frozen
        };
        let Some(active) = (0..self.nodes.len()).find(serves) else {
            self.schedule(100_000, Event::Submit(index, transactions.to_vec()));
            return Ok(());
        };
        for transaction in transactions {
            self.invariants.submitted(transaction.id());
        }
        let now = self.node_time(active);
        let actions = self.nodes[active].submit(now, transactions.to_vec());
        self.act(active, actions)
    }
}
