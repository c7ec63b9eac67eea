//! Time, events and delivery: one queue, one source of randomness.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use fastrand::Rng;
use standin_consensus::{Lsn, Recipient};
use standin_foundation::{Millis, Seat};
use standin_ledger::Transaction;

use crate::byzantine::Behaviour;
use crate::faults::Fault;
use crate::invariants::{Invariants, Violation};
use crate::network::{Envelope, Network, NodeIndex};
use crate::node::{Action, Node, Observation};

/// No run needs more events than this: more are a storm.
const STEPS_MAX: u64 = 400_000;

/// Something that happens at a time.
#[derive(Debug)]
pub enum Event {
    /// Something arrives.
    Arrives(NodeIndex, Seat, Box<Envelope>),
    /// A node's timer.
    Tick(NodeIndex, u64),
    /// A node's log is durable up to here.
    Synced(NodeIndex, u64, Lsn),
    /// A node's executor is done with the block before.
    Executes(NodeIndex, u64),
    /// A node's snapshot is in place.
    Installed(NodeIndex, u64),
    /// A fault.
    Fault(Fault),
    /// A client hands transactions to a node.
    Submit(NodeIndex, Vec<Transaction>),
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
}

/// The world.
#[derive(Debug)]
pub struct World {
    /// The nodes.
    pub nodes: Vec<Node>,
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
            network,
            invariants: Invariants::new(seats),
            now_us: 0,
            steps: 0,
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
            });
        }
        for index in 0..world.nodes.len() {
            world.schedule(0, Event::Tick(index, 0));
        }
        world
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
        let alone = self.nodes.iter().filter(|node| node.setup.seat == self.nodes[index].setup.seat).count() == 1;
        self.places[index].behaviour.is_none() && alone && self.nodes[index].setup.wrong_from.is_none()
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
            if self.steps > STEPS_MAX {
                let what = format!("{STEPS_MAX} events by {} ms", self.now_us / 1_000);
                return Err(Violation { invariant: "bounded_work", what });
            }
            if let Some(event) = self.events.remove(&id) {
                self.happen(event)?;
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

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        let (index, life) = match &event {
            Event::Fault(fault) => return self.fault(fault.clone()),
            Event::Arrives(index, ..) | Event::Submit(index, _) => (*index, None),
            Event::Tick(index, life)
            | Event::Synced(index, life, _)
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
            Event::Arrives(_, from, envelope) => node.receive(now, from, *envelope),
            Event::Tick(..) => {
                self.places[index].next_tick_us = u64::MAX;
                node.tick(now)
            }
            Event::Synced(_, _, lsn) => node.synced(now, lsn),
            Event::Executes(..) => node.execute(now),
            Event::Installed(..) => node.installed(now),
            Event::Submit(_, transactions) => {
                for transaction in &transactions {
                    self.invariants.submitted(transaction.id());
                }
                node.submit(now, transactions)
            }
            Event::Fault(_) => Vec::new(),
        };
        self.act(index, actions)
    }

    fn act(&mut self, index: NodeIndex, actions: Vec<Action>) -> Result<(), Violation> {
        for action in actions {
            let life = self.nodes[index].life;
            match action {
                Action::Deliver(to, envelope) => self.deliver(index, to, &envelope),
                Action::Sync(lsn) => {
                    let latency = self.places[index].disk_latency_us;
                    let latency = self.rng.u64(latency / 2..=latency * 2);
                    self.schedule(latency, Event::Synced(index, life, lsn));
                }
                Action::Execute => {
                    let latency = self.rng.u64(20..1_000);
                    self.schedule(latency, Event::Executes(index, life));
                }
                Action::Installed => self.schedule(5_000, Event::Installed(index, life)),
                Action::Observe(observation) => self.observe(index, &observation)?,
            }
        }
        if self.nodes[index].disk.refused {
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
        self.invariants.check(node.setup.seat, &node.disk, observation)
    }

    fn schedule_tick(&mut self, index: NodeIndex) {
        let machine = self.nodes[index].machine();
        let (now, wanted) = (self.node_time(index), machine.deadline());
        if machine.is_halted() {
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

    fn deliver(&mut self, from: NodeIndex, to: Recipient, envelope: &Envelope) {
        let own = self.nodes[from].setup.seat;
        for index in 0..self.nodes.len() {
            let seat = self.nodes[index].setup.seat;
            let meant = match to {
                Recipient::All => index != from,
                Recipient::One(one) => seat == one && index != from,
            };
            if meant {
                let sent = match &mut self.places[from].behaviour {
                    Some(behaviour) => behaviour.send(&mut self.rng, own, seat, envelope),
                    None => vec![envelope.clone()],
                };
                for envelope in sent {
                    self.post(from, index, own, envelope);
                }
            }
        }
    }

    fn post(&mut self, from: NodeIndex, to: NodeIndex, own: Seat, envelope: Envelope) {
        for delay in self.network.delays(&mut self.rng, from, to) {
            self.schedule(delay, Event::Arrives(to, own, Box::new(envelope.clone())));
        }
    }

    fn fault(&mut self, fault: Fault) -> Result<(), Violation> {
        if let Fault::Restart(index) = fault {
            // Whoever starts a process has made room, also where the process never noticed.
            self.nodes[index].disk.full = false;
        }
        match fault {
            Fault::Crash(index) | Fault::Kill(index) if self.nodes[index].up => {
                match fault {
                    Fault::Kill(_) => self.nodes[index].kill(),
                    _ => self.nodes[index].crash(&mut self.rng),
                }
                self.places[index].waiting.clear();
                self.places[index].frozen = false;
            }
            Fault::Restart(index) if !self.nodes[index].up => {
                let now = self.node_time(index);
                self.places[index].next_tick_us = 0;
                let actions = self.nodes[index].restart(now);
                self.act(index, actions)?;
            }
            Fault::DiskFull(index) if self.nodes[index].up => self.nodes[index].disk.full = true,
            Fault::Freeze(index) => self.places[index].frozen = true,
            Fault::Thaw(index) => {
                self.places[index].frozen = false;
                self.places[index].next_tick_us = self.now_us;
                self.happen(Event::Tick(index, self.nodes[index].life))?;
                for event in std::mem::take(&mut self.places[index].waiting) {
                    self.happen(event)?;
                }
            }
            Fault::Partition { group, one_way } => {
                for a in 0..self.nodes.len() {
                    for b in 0..self.nodes.len() {
                        let crosses = group.contains(&a) != group.contains(&b);
                        if crosses && (!one_way || group.contains(&a)) {
                            self.network.cut.insert((a, b));
                        }
                    }
                }
            }
            Fault::Heal => self.network.cut.clear(),
            Fault::DiskLatency(index, latency) => self.places[index].disk_latency_us = latency,
            Fault::CutLog(index) if self.nodes[index].up && !self.places[index].frozen => {
                let now = self.node_time(index);
                let actions = self.nodes[index].cut_log(now);
                self.act(index, actions)?;
            }
            Fault::Crash(_) | Fault::Kill(_) | Fault::DiskFull(_) | Fault::Restart(_) | Fault::CutLog(_) => {}
        }
        Ok(())
    }
}
