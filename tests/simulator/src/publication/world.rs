//! Time, pipes and faults around servers, sources and terminals.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use fastrand::Rng;
use standin_foundation::wire::Wire;
use standin_foundation::{Digest, Height, Millis, PublicKey, SecretKey};
use standin_ledger::builtin::Builtin;
use standin_ledger::transaction::TransactionBody;
use standin_ledger::trie::Trie;
use standin_ledger::{
    Context, Genesis, Operators, Parameters, Reject, SeatDescriptor, State, StateMachine as _, Transaction,
};
use standin_publisher::frame::{Content, Datum, Entry, Push};
use standin_publisher::ids::PUBLISHER_TITLE;
use standin_publisher::machine::server::{Effect, Input, Server};
use standin_publisher::machine::session::{Found, Limit, Next, Session};
use standin_publisher::machine::source::{Effect as SourceEffect, Outcome, Source, SourceConfig};
use standin_publisher::machine::terminal::{Position, Published, Terminal, Verdict};
use standin_publisher::machine::view::View;
use standin_publisher::messages::{Event, Instruction, Takeover};
use standin_publisher::mutation::Mutation;
use standin_publisher::state_machine::{content_of, events_of};
use standin_publisher::{Config, Sequence, Topic, Topics};

use super::checker::{Checker, Name};
use super::{Driver, Report, Switched};
use crate::invariants::Violation;

/// Data that may be under way to a terminal.
const SESSION_WINDOW: u64 = 64;
/// Servers notice a lost connection within this time, in ms.
const NOTICED_MS: u64 = 5;
/// A terminal that was cut off comes back after this time, in ms.
const RECONNECT_MS: u64 = 20;
/// What sources are like.
const SOURCE: SourceConfig =
    SourceConfig { window: 4, queue_max: 16_384, retry_ms: 1_000, backoff_ms: 20, linger_ms: 1 };

/// What goes wrong.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// With a server.
    Server {
        /// What.
        kind: ServerFault,
        /// Which; none for the owner of the first topic's lock at that time.
        server: Option<usize>,
        /// For how long, in ms.
        lasts: u64,
    },
    /// A terminal loses all connections.
    Terminal {
        /// Which.
        terminal: usize,
        /// Whether it starts again from what it has stored.
        restarts: bool,
    },
    /// A source starts again, and knows nothing of what it had pushed.
    Source(usize),
    /// From now on a server sends what it likes.
    Forger(usize),
}

/// What goes wrong with a server.
#[derive(Debug, Clone, Copy)]
pub enum ServerFault {
    /// It stops at once, and starts again later with nothing but the chain.
    Crash,
    /// It stands still: what was on its way to it waits, what it had decided it does when it wakes.
    Pause,
    /// It hears nothing of the chain, and the chain nothing of it.
    CutFromChain,
    /// The other servers lose their connections to it.
    CutFromServers,
    /// What it sends to terminals arrives much later.
    HoldPipes,
    /// Its wall clock is set.
    SetClock,
}

impl ServerFault {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Crash, Self::Pause, Self::CutFromChain, Self::CutFromServers, Self::HoldPipes, Self::SetClock];
}

/// What happens next.
#[derive(Debug)]
enum Happening {
    Fault(Fault),
    /// The end of a fault.
    Over(usize, Ending),
    /// A transaction comes to its place in the order.
    Order {
        transaction: Transaction,
        from: From,
    },
    /// The events up to this place come to a server.
    Chain {
        server: usize,
        upto: usize,
    },
    /// A server looks again.
    Wake {
        server: usize,
    },
    /// A connection between servers came or went.
    Link {
        server: usize,
        other: usize,
        is_up: bool,
    },
    /// Something comes to a terminal, on a connection of this number.
    Arrive {
        terminal: usize,
        server: usize,
        connection: u64,
        topic: usize,
        message: Message,
    },
    /// A terminal's word comes to a server.
    Acknowledge {
        terminal: usize,
        server: usize,
        connection: u64,
        topic: usize,
        last: Sequence,
    },
    /// A terminal connects.
    Connect {
        terminal: usize,
        server: usize,
    },
    /// A source has a datum.
    Datum {
        source: usize,
        topic: usize,
    },
    /// A source looks again.
    SourceWake {
        source: usize,
        topic: usize,
    },
    /// A source hears what became of a push.
    Outcome {
        source: usize,
        topic: usize,
        session: u64,
        nonce: u64,
        outcome: Outcome,
    },
}

#[derive(Debug, Clone, Copy)]
enum Ending {
    Start,
    Resume,
    JoinChain,
    JoinServers,
}

/// Who wants to know what became of a transaction.
#[derive(Debug, Clone, Copy)]
enum From {
    Server,
    Source { source: usize, topic: usize, session: u64, nonce: u64 },
}

#[derive(Debug, Clone)]
enum Message {
    Takeover(Takeover),
    Frame(Published),
}

/// A server with its surroundings.
struct Host {
    key: PublicKey,
    server: Option<Server>,
    /// Events of the chain that it has.
    at: usize,
    /// When the last ones come that are on their way.
    chain_arrives: u64,
    paused_until: u64,
    cut_from_chain: bool,
    cut_from_servers: bool,
    held_until: u64,
    forges: bool,
    /// Its clock: thousandths of its rate, and where it began.
    rate: u64,
    offset: u64,
    wall: i64,
    wake: Option<u64>,
    /// What happened while it was paused.
    missed: Vec<Happening>,
    sessions: BTreeMap<(usize, usize), (u64, Session)>,
    /// When the last message to a terminal arrives.
    pipes: BTreeMap<usize, u64>,
}

struct TerminalHost {
    topics: Vec<Terminal>,
    /// The number of its connection with each server.
    connections: Vec<u64>,
}

/// The world.
pub struct World {
    now: u64,
    steps: u64,
    order: u64,
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    happenings: BTreeMap<usize, Happening>,
    rng: Rng,
    switched: Option<Switched>,
    machine: Topics<Builtin>,
    state: Trie,
    height: u64,
    /// All events, in the chain's order.
    events: Vec<Event>,
    /// Frames in the order of the chain, per topic.
    frames: Vec<Vec<(Entry, Content)>>,
    topics: Vec<Topic>,
    hosts: Vec<Host>,
    terminals: Vec<TerminalHost>,
    sources: Vec<Vec<Source>>,
    source_keys: Vec<PublicKey>,
    /// How many data each source has had, per topic: their numbers.
    counts: Vec<Vec<u64>>,
    /// The session of each source.
    lives: Vec<u64>,
    /// Nonces and numbers of the data that a source was not told of.
    pushed: Vec<Vec<VecDeque<(u64, u64)>>>,
    /// Grants that ended because they were not renewed.
    expired: BTreeSet<(Topic, u64)>,
    checker: Checker,
    grants: u64,
    faulty: bool,
    connection: u64,
    nonce: u64,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("now", &self.now).finish_non_exhaustive()
    }
}

fn key(n: usize) -> PublicKey {
    let mut bytes = [7; 32];
    bytes[0] = u8::try_from(n).unwrap_or(u8::MAX);
    let key = SecretKey::from_bytes(&bytes).map(|key| key.public());
    key.unwrap_or_else(|| panic!("a fixed key is valid"))
}

impl World {
    /// Some seats with a server each or two, some topics, sources and terminals.
    pub fn new(rng: &mut Rng, switched: Option<Switched>) -> Result<Self, Violation> {
        let (seats, per_seat) = (rng.choice([1, 4, 4, 7]).unwrap_or(4), rng.usize(1..3));
        let servers = (seats * per_seat).max(2);
        let (topics, terminals, sources) = (rng.usize(1..4), rng.usize(1..4), rng.usize(1..3));
        let genesis = genesis(seats, servers);
        let topics: Vec<Topic> = (0..topics).filter_map(|n| format!("t{n}").parse().ok()).collect();
        let mut rng = rng.fork();
        let hosts = (0..servers).map(|n| Host::new(key(n), &mut rng)).collect();
        let mutation = match switched {
            Some(Switched::Machine(mutation)) => Some(mutation),
            _ => None,
        };
        let terminal = || {
            let mut terminal = Terminal::new(Position::default());
            terminal.mutate(mutation);
            terminal
        };
        let source = || {
            let mut source = Source::new(SOURCE, 1, 0);
            source.mutate(mutation);
            source
        };
        let mut world = Self {
            now: 0,
            steps: 0,
            order: 0,
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            switched,
            state: genesis.state(),
            machine: {
                let mut machine = Topics::new(Arc::new(genesis), Builtin);
                machine.mutate(mutation);
                machine
            },
            height: 0,
            events: Vec::new(),
            frames: vec![Vec::new(); topics.len()],
            hosts,
            terminals: (0..terminals)
                .map(|_| TerminalHost {
                    topics: topics.iter().map(|_| terminal()).collect(),
                    connections: vec![0; servers],
                })
                .collect(),
            sources: (0..sources).map(|_| topics.iter().map(|_| source()).collect()).collect(),
            source_keys: (0..sources).map(|n| key(200 + n)).collect(),
            counts: vec![vec![0; topics.len()]; sources],
            pushed: vec![vec![VecDeque::new(); topics.len()]; sources],
            expired: BTreeSet::new(),
            lives: vec![1; sources],
            checker: Checker::new(topics.len(), terminals),
            topics,
            grants: 0,
            faulty: true,
            connection: 0,
            nonce: 0,
            rng,
        };
        for server in 0..servers {
            world.start(server)?;
        }
        for terminal in 0..terminals {
            (0..servers).for_each(|server| world.at(1, Happening::Connect { terminal, server }));
        }
        Ok(world)
    }

    /// How many servers.
    pub fn servers(&self) -> usize {
        self.hosts.len()
    }

    /// How many sources.
    pub fn sources(&self) -> usize {
        self.sources.len()
    }

    /// How many terminals.
    pub fn terminals(&self) -> usize {
        self.terminals.len()
    }

    /// Something goes wrong at a time.
    pub fn fault_at(&mut self, at: u64, fault: Fault) {
        self.at(at, Happening::Fault(fault));
    }

    /// Sources have data until a time.
    pub fn load(&mut self, rng: &mut Rng, until: u64) {
        for source in 0..self.sources.len() {
            for topic in 0..self.topics.len() {
                let (mut at, gap) = (rng.u64(1..500), rng.u64(20..300));
                while at < until {
                    // Sometimes a burst: several frames under way.
                    let count = if rng.u8(0..60) == 0 { 300 } else { 1 };
                    (0..count).for_each(|_| self.at(at, Happening::Datum { source, topic }));
                    at += rng.u64(1..=2 * gap);
                }
            }
        }
    }

    /// Everything works again from now on.
    pub fn heal(&mut self) {
        self.faulty = false;
    }

    /// What came out.
    pub fn report(&self) -> Report {
        let counters = || self.terminals.iter().flat_map(|host| &host.topics).map(Terminal::counters);
        Report {
            steps: self.steps,
            delivered: self.checker.common(),
            grants: self.grants,
            repeated: counters().map(|counters| counters.repeated).sum(),
            stale: counters().map(|counters| counters.stale).sum(),
        }
    }

    /// Runs until a time.
    pub fn run_until(&mut self, until: u64) -> Result<(), Violation> {
        while let Some(Reverse((at, _, place))) = self.queue.peek().copied() {
            if at > until {
                break;
            }
            self.queue.pop();
            let Some(happening) = self.happenings.remove(&place) else { continue };
            self.now = at;
            self.steps += 1;
            self.happen(happening)?;
        }
        self.now = until;
        Ok(())
    }

    /// Runs until everything that was promised has come, or demands to know why it has not.
    pub fn run_until_settled(&mut self, until: u64) -> Result<(), Violation> {
        let mut at = self.now;
        while at < until {
            at += 500;
            self.run_until(at)?;
            let waits = self.sources.iter().flatten().any(|source| source.waiting() > 0);
            let is_whole =
                self.frames.iter().all(|frames| frames.last().is_none_or(|(entry, _)| entry.last().0 as usize > 0));
            if !waits && is_whole && self.checker.is_settled() && self.all_published() {
                return Ok(());
            }
        }
        let standing = self.standing();
        self.checker
            .demand_all()
            .map_err(|violation| Violation { what: format!("{}; {standing}", violation.what), ..violation })?;
        Err(Violation { invariant: "progress", what: standing })
    }

    /// How it all stands, for whoever has to find out why.
    fn standing(&self) -> String {
        let topic = |(place, topic): (usize, &Topic)| {
            let record = standin_publisher::record::topic(&self.state, *topic).unwrap_or_default();
            let owner = record.lock.held.and_then(|grant| self.hosts.iter().position(|host| host.key == grant.owner));
            let sources: Vec<_> = self.sources.iter().map(|topics| topics[place].waiting()).collect();
            let terminals: Vec<_> = self.terminals.iter().map(|host| host.topics[place].position()).collect();
            let terminals: Vec<_> = terminals.iter().map(|position| (position.fence.0, position.last.0)).collect();
            let (queued, published) = (record.dictionary.next.0 - 1, record.dictionary.published.0);
            format!(
                "{topic}: fence {} held by {owner:?}, {queued} queued, {published} published, sources wait for {sources:?}, terminals at {terminals:?}",
                record.lock.fence
            )
        };
        self.topics.iter().enumerate().map(topic).collect::<Vec<_>>().join("; ")
    }

    fn all_published(&self) -> bool {
        let queued: u64 = self.frames.iter().filter_map(|frames| frames.last()).map(|(entry, _)| entry.last().0).sum();
        self.checker.common() == queued
    }

    fn at(&mut self, at: u64, happening: Happening) {
        self.order += 1;
        let place = self.order as usize;
        self.queue.push(Reverse((at.max(self.now), self.order, place)));
        self.happenings.insert(place, happening);
    }

    fn is_wall(&self) -> bool {
        self.switched == Some(Switched::Driver(Driver::WallClock))
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Violation> {
        // A server that stands still takes nothing in; it all waits for it.
        let stands = match &happening {
            Happening::Chain { server, .. }
            | Happening::Wake { server }
            | Happening::Link { server, .. }
            | Happening::Acknowledge { server, .. }
            | Happening::Connect { server, .. } => {
                Some(*server).filter(|server| self.hosts[*server].paused_until > self.now)
            }
            _ => None,
        };
        if let Some(server) = stands {
            self.hosts[server].missed.push(happening);
            return Ok(());
        }
        match happening {
            Happening::Fault(fault) => self.fault(fault),
            Happening::Over(server, ending) => self.over(server, ending)?,
            Happening::Order { transaction, from } => self.execute(&transaction, from)?,
            Happening::Chain { server, upto } => {
                let from = self.hosts[server].at;
                if self.hosts[server].server.is_some() && upto > from {
                    for place in from..upto {
                        self.hosts[server].at = place + 1;
                        let event = self.events[place].clone();
                        self.step(server, Input::Event(event))?;
                    }
                }
            }
            Happening::Wake { server } => {
                if self.hosts[server].wake == Some(self.now) {
                    self.hosts[server].wake = None;
                    self.step(server, Input::Tick)?;
                }
            }
            Happening::Link { server, other, is_up } => {
                let other = self.hosts[other].key.node_id();
                self.step(server, Input::Link { server: other, is_up })?;
            }
            Happening::Arrive { terminal, server, connection, topic, message } => {
                if self.terminals[terminal].connections[server] == connection {
                    self.arrive(terminal, server, topic, message)?;
                }
            }
            Happening::Acknowledge { terminal, server, connection, topic, last } => {
                if let Some((known, session)) = self.hosts[server].sessions.get_mut(&(terminal, topic))
                    && *known == connection
                {
                    session.acknowledge(last);
                    self.serve(server, topic)?;
                }
            }
            Happening::Connect { terminal, server } => self.connect(terminal, server)?,
            Happening::Datum { source, topic } => {
                let number = self.counts[source][topic];
                let value = format!("{source}/{number}");
                let datum = Datum { id: Bytes::new(), value: value.into() };
                if let Ok(nonce) = self.sources[source][topic].push(Millis(self.now), datum) {
                    self.counts[source][topic] += 1;
                    self.pushed[source][topic].push_back((nonce, number));
                }
                self.drive_source(source, topic, Vec::new())?;
            }
            Happening::SourceWake { source, topic } => self.drive_source(source, topic, Vec::new())?,
            // What a source had under way before it started again it hears no more of.
            Happening::Outcome { source, session, .. } if self.lives[source] != session => {}
            Happening::Outcome { source, topic, nonce, outcome, .. } => {
                let effects = self.sources[source][topic].outcome(Millis(self.now), nonce, outcome);
                self.drive_source(source, topic, effects)?;
            }
        }
        Ok(())
    }

    fn fault(&mut self, fault: Fault) {
        if !self.faulty {
            return;
        }
        match fault {
            Fault::Server { kind, server, lasts } => {
                let server = server.unwrap_or_else(|| self.owner());
                self.server_fault(kind, server, lasts);
            }
            Fault::Terminal { terminal, restarts } => {
                if restarts {
                    let mutation = self.mutation();
                    for topic in &mut self.terminals[terminal].topics {
                        let mut again = Terminal::new(topic.position());
                        again.mutate(mutation);
                        *topic = again;
                    }
                }
                self.cut_terminal(terminal);
            }
            Fault::Source(source) => {
                self.lives[source] += 1;
                for topic in 0..self.topics.len() {
                    let mut again = Source::new(SOURCE, self.lives[source], 0);
                    again.mutate(self.mutation());
                    self.sources[source][topic] = again;
                    self.pushed[source][topic].clear();
                }
            }
            Fault::Forger(server) => self.hosts[server].forges = true,
        }
    }

    /// The owner of the first topic's lock.
    fn owner(&self) -> usize {
        let topic = self.topics.first().copied();
        let record = topic.and_then(|topic| standin_publisher::record::topic(&self.state, topic));
        let owner = record.and_then(|record| record.lock.held).map(|grant| grant.owner);
        self.hosts.iter().position(|host| Some(host.key) == owner).unwrap_or(0)
    }

    fn mutation(&self) -> Option<Mutation> {
        match self.switched {
            Some(Switched::Machine(mutation)) => Some(mutation),
            _ => None,
        }
    }

    fn server_fault(&mut self, kind: ServerFault, server: usize, lasts: u64) {
        let until = self.now + lasts;
        match kind {
            ServerFault::Crash => {
                let host = &mut self.hosts[server];
                if host.server.take().is_none() {
                    return;
                }
                host.sessions.clear();
                host.missed.clear();
                host.paused_until = 0;
                for terminal in &mut self.terminals {
                    terminal.connections[server] = 0;
                }
                self.links(server, false);
                self.at(until, Happening::Over(server, Ending::Start));
            }
            ServerFault::Pause => {
                self.hosts[server].paused_until = until;
                self.at(until, Happening::Over(server, Ending::Resume));
            }
            ServerFault::CutFromChain => {
                self.hosts[server].cut_from_chain = true;
                self.at(until, Happening::Over(server, Ending::JoinChain));
            }
            ServerFault::CutFromServers => {
                self.hosts[server].cut_from_servers = true;
                self.links(server, false);
                self.at(until, Happening::Over(server, Ending::JoinServers));
            }
            ServerFault::HoldPipes => self.hosts[server].held_until = until,
            // By so much, forwards or back.
            ServerFault::SetClock => {
                let by = (lasts * 8) as i64;
                self.hosts[server].wall += if self.rng.bool() { by } else { -by };
            }
        }
    }

    fn cut_terminal(&mut self, terminal: usize) {
        for server in 0..self.hosts.len() {
            self.terminals[terminal].connections[server] = 0;
            let after = RECONNECT_MS + self.rng.u64(0..200);
            self.at(self.now + after, Happening::Connect { terminal, server });
        }
    }

    fn over(&mut self, server: usize, ending: Ending) -> Result<(), Violation> {
        match ending {
            Ending::Start => self.start(server)?,
            Ending::Resume => {
                if self.hosts[server].paused_until <= self.now {
                    // What had come before it stood still comes now, in order.
                    let missed = std::mem::take(&mut self.hosts[server].missed);
                    for happening in missed {
                        if let Happening::Wake { server } = happening {
                            self.hosts[server].wake = Some(self.now);
                        }
                        self.happen(happening)?;
                    }
                }
            }
            Ending::JoinChain => {
                self.hosts[server].cut_from_chain = false;
                self.feed(server);
            }
            Ending::JoinServers => {
                self.hosts[server].cut_from_servers = false;
                self.links(server, true);
            }
        }
        Ok(())
    }

    /// A server begins with what the chain's state says.
    fn start(&mut self, server: usize) -> Result<(), Violation> {
        if self.hosts[server].server.is_some() {
            return Ok(());
        }
        let now = self.clock(server);
        let host = &mut self.hosts[server];
        let mut machine = Server::new(host.key, Config::default(), View::of(&self.state), now);
        machine.mutate(match self.switched {
            Some(Switched::Machine(mutation)) => Some(mutation),
            _ => None,
        });
        host.server = Some(machine);
        host.at = self.events.len();
        host.wake = None;
        // All of them speak for their seats: a seat counts once, whoever speaks.
        for input in [Input::Speaks(true), Input::Serves(true)] {
            let Some(machine) = self.hosts[server].server.as_mut() else { return Ok(()) };
            let (effects, next) = machine.step(now, input);
            self.carry_out(server, effects, next)?;
        }
        self.links(server, true);
        for other in 0..self.hosts.len() {
            let is_up = other != server && self.hosts[other].server.is_some() && !self.hosts[other].cut_from_servers;
            if other != server {
                self.at(self.now + 2, Happening::Link { server, other, is_up });
            }
        }
        for terminal in 0..self.terminals.len() {
            let after = self.rng.u64(5..100);
            self.at(self.now + after, Happening::Connect { terminal, server });
        }
        Ok(())
    }

    /// The others notice that a server has gone or come back.
    fn links(&mut self, server: usize, is_up: bool) {
        for other in (0..self.hosts.len()).filter(|other| *other != server) {
            let after = self.rng.u64(0..NOTICED_MS);
            if !is_up || !self.hosts[other].cut_from_servers {
                self.at(self.now + after, Happening::Link { server: other, other: server, is_up });
                self.at(self.now + after, Happening::Link { server, other, is_up });
            }
        }
    }

    /// A server's clock: it runs a little too fast or too slow, and began anywhere.
    fn clock(&self, server: usize) -> Millis {
        let host = &self.hosts[server];
        let monotonic = host.offset + self.now * host.rate / 1_000;
        match self.is_wall() {
            true => Millis(monotonic.saturating_add_signed(host.wall)),
            false => Millis(monotonic),
        }
    }

    /// When a server's clock shows a time.
    fn when(&self, server: usize, at: Millis) -> u64 {
        let ahead = at.0.saturating_sub(self.clock(server).0);
        self.now + (ahead * 1_000).div_ceil(self.hosts[server].rate).max(1)
    }

    fn step(&mut self, server: usize, input: Input) -> Result<(), Violation> {
        let now = self.clock(server);
        let Some(machine) = self.hosts[server].server.as_mut() else { return Ok(()) };
        let published: Option<usize> = match &input {
            Input::Event(Event::Published { topic, .. } | Event::Granted(Takeover { topic, .. })) => {
                self.topics.iter().position(|known| known == topic)
            }
            _ => None,
        };
        let (effects, next) = machine.step(now, input);
        self.carry_out(server, effects, next)?;
        published.map_or(Ok(()), |topic| self.serve(server, topic))
    }

    fn carry_out(&mut self, server: usize, effects: Vec<Effect>, next: Option<Millis>) -> Result<(), Violation> {
        for effect in effects {
            match effect {
                Effect::Submit(instruction) => self.submit(server, &instruction),
                Effect::Publish { topic, .. } => {
                    if let Some(topic) = self.topics.iter().position(|known| *known == topic) {
                        self.serve(server, topic)?;
                    }
                }
                Effect::Begin(_) | Effect::End { .. } => {}
            }
        }
        if let Some(next) = next {
            let at = self.when(server, next);
            if self.hosts[server].wake.is_none_or(|known| at < known || known <= self.now) {
                self.hosts[server].wake = Some(at);
                self.at(at, Happening::Wake { server });
            }
        }
        Ok(())
    }

    fn submit(&mut self, server: usize, instruction: &Instruction) {
        let Ok(payload) = instruction.to_wire() else { panic!("an instruction that does not fit: {instruction:?}") };
        self.nonce += 1;
        let body = TransactionBody {
            title: PUBLISHER_TITLE.parse().unwrap_or_else(|_| panic!("a fixed title")),
            nonce: self.nonce,
            expires: Height(u64::MAX),
            payload,
        };
        let transaction = Transaction::unsigned(&self.hosts[server].key, &body);
        let transaction = transaction.unwrap_or_else(|error| panic!("{error}"));
        let is_lost = self.hosts[server].cut_from_chain || (self.faulty && self.rng.u8(0..100) == 0);
        if !is_lost {
            let after = self.rng.u64(1..8);
            self.at(self.now + after, Happening::Order { transaction, from: From::Server });
        }
    }

    /// A transaction has its place: the chain carries it out.
    fn execute(&mut self, transaction: &Transaction, from: From) -> Result<(), Violation> {
        self.height += 1;
        let context = Context { height: Height(self.height), time_ms: self.now, version: 1 };
        let mut state = State::new(&self.state);
        let applied = self.machine.apply(&context, transaction, &mut state);
        let outcome = match applied {
            Ok(output) => {
                let writes = state.into_writes();
                for (key, value) in writes {
                    match value {
                        Some(value) => drop(self.state.insert(key, value)),
                        None => drop(self.state.remove(&key)),
                    }
                }
                let events = events_of(transaction, &output);
                for event in &events {
                    self.note(transaction, event)?;
                }
                self.events.extend(events.iter().cloned());
                events.into_iter().next().map_or(Outcome::Unknown, Outcome::Event)
            }
            Err(Reject(why)) => Outcome::Refused(why),
        };
        if let From::Source { source, topic, session, nonce } = from
            && !(self.faulty && self.rng.u8(0..20) == 0)
        {
            let after = self.rng.u64(1..20);
            self.at(self.now + after, Happening::Outcome { source, topic, session, nonce, outcome });
        }
        (0..self.hosts.len()).for_each(|server| self.feed(server));
        Ok(())
    }

    fn note(&mut self, transaction: &Transaction, event: &Event) -> Result<(), Violation> {
        match event {
            Event::Queued { topic, entry } => {
                let place = self.topics.iter().position(|known| known == topic).unwrap_or(0);
                if let Some(content) = content_of(transaction) {
                    self.frames[place].push((*entry, content));
                }
            }
            Event::Granted(takeover) => {
                self.grants += 1;
                let place = self.topics.iter().position(|known| *known == takeover.topic).unwrap_or(0);
                self.checker.granted(place, takeover.fence.0)?;
            }
            Event::Published { topic, fence, .. } => {
                let place = self.topics.iter().position(|known| known == topic).unwrap_or(0);
                self.checker.published(place, fence.0)?;
            }
            Event::Released { topic, fence, owner, reason } => {
                if *reason == standin_publisher::machine::lock::Reason::Expired {
                    self.expired.insert((*topic, fence.0));
                }
                // In the time that was agreed on an owner has stopped before others find that its lease has run out.
                let server = self.hosts.iter().position(|host| host.key == *owner);
                if let (Some(server), standin_publisher::machine::lock::Reason::Expired) = (server, reason)
                    && let Some((until, held, _)) =
                        self.hosts[server].server.as_ref().and_then(|server| server.publishes(*topic))
                    && held == *fence
                    && until > self.clock(server)
                {
                    return Err(Violation {
                        invariant: "leases_end_first",
                        what: format!(
                            "{topic}: fence {fence} was released as expired, and its owner may publish for {} ms more",
                            until - self.clock(server)
                        ),
                    });
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// What the chain did is on its way to a server.
    fn feed(&mut self, server: usize) {
        if self.hosts[server].cut_from_chain || self.hosts[server].server.is_none() {
            return;
        }
        let (upto, after) = (self.events.len(), self.rng.u64(1..6));
        let host = &mut self.hosts[server];
        host.chain_arrives = host.chain_arrives.max(self.now + after);
        let at = host.chain_arrives;
        self.at(at, Happening::Chain { server, upto });
    }

    fn connect(&mut self, terminal: usize, server: usize) -> Result<(), Violation> {
        if self.hosts[server].server.is_none() || self.terminals[terminal].connections[server] != 0 {
            return Ok(());
        }
        self.connection += 1;
        let connection = self.connection;
        self.terminals[terminal].connections[server] = connection;
        for topic in 0..self.topics.len() {
            let position = self.terminals[terminal].topics[topic].position();
            let chain = match position.last {
                Sequence(0) => Some(Digest::ZERO),
                last => self.known(server, topic).find(|(entry, _)| entry.last() == last).map(|(entry, _)| entry.chain),
            };
            match Session::resume(&position, SESSION_WINDOW, chain, Sequence(1)) {
                Ok(session) => {
                    self.hosts[server].sessions.insert((terminal, topic), (connection, session));
                    self.serve(server, topic)?;
                }
                // A server that has not come so far itself: the terminal asks again.
                Err(_) => {
                    self.terminals[terminal].connections[server] = 0;
                    self.at(self.now + RECONNECT_MS, Happening::Connect { terminal, server });
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The frames that a server knows.
    fn known(&self, server: usize, topic: usize) -> impl Iterator<Item = &(Entry, Content)> {
        let last = self.hosts[server].server.as_ref().and_then(|machine| machine.view().get(self.topics[topic]));
        let last = last.map_or(Sequence(0), |view| view.last());
        self.frames[topic].iter().take_while(move |(entry, _)| entry.last() <= last)
    }

    /// A server sends its terminals what they may have.
    fn serve(&mut self, server: usize, topic: usize) -> Result<(), Violation> {
        let Some((limit, is_own)) = self.limit(server, topic) else { return Ok(()) };
        let fence = limit.takeover.fence;
        if is_own && self.expired.contains(&(self.topics[topic], fence.0)) {
            let what =
                format!("server {server} publishes {} under fence {fence}, which has expired", self.topics[topic]);
            return Err(Violation { invariant: "silent_after_expiry", what });
        }
        for terminal in 0..self.terminals.len() {
            let Some((connection, mut session)) = self.hosts[server].sessions.remove(&(terminal, topic)) else {
                continue;
            };
            let mut sent = Vec::new();
            loop {
                let frames = &self.frames[topic];
                let place = |first: Sequence| frames.binary_search_by_key(&first, |(entry, _)| entry.first);
                let found = |next| match place(next) {
                    Ok(place) => Found::Frame(frames[place].0),
                    Err(place) if place == frames.len() => Found::Beyond,
                    Err(_) => Found::Within,
                };
                match session.next(&limit, found) {
                    Ok(Some(Next::Takeover(takeover))) => sent.push(Message::Takeover(takeover)),
                    Ok(Some(Next::Frame(fence, entry))) => {
                        let content = frames[place(entry.first).unwrap_or_default()].1.clone();
                        sent.push(Message::Frame(Published { fence, entry, content }));
                    }
                    _ => break,
                }
            }
            self.hosts[server].sessions.insert((terminal, topic), (connection, session));
            for message in sent {
                let message = match message {
                    Message::Frame(published) => Message::Frame(self.as_sent(server, topic, published)),
                    takeover @ Message::Takeover(_) => takeover,
                };
                self.send(server, terminal, connection, topic, message);
            }
        }
        Ok(())
    }

    /// What a server makes of a frame that it sends.
    fn as_sent(&mut self, server: usize, topic: usize, published: Published) -> Published {
        if self.hosts[server].forges && self.rng.bool() {
            return self.forged(published);
        }
        if self.switched != Some(Switched::Driver(Driver::SequenceAtPublishing)) {
            return published;
        }
        // It has come to know the two data of a pair the other way round.
        let frames = &self.frames[topic];
        let place = frames.binary_search_by_key(&published.entry.first, |(entry, _)| entry.first).unwrap_or_default();
        let other = if server % 2 == 1 { place ^ 1 } else { place };
        let Some((_, content)) = frames.get(other) else { return published };
        let before =
            place.checked_sub(1).and_then(|before| frames.get(before)).map_or(Digest::ZERO, |(entry, _)| entry.chain);
        let entry = Entry::following(&before, published.entry.first, content).unwrap_or(published.entry);
        Published { entry, content: content.clone(), ..published }
    }

    /// Another content, with or without its hash; or a frame in the place of another.
    fn forged(&mut self, published: Published) -> Published {
        let datum = Datum { id: Bytes::new(), value: Bytes::from_static(b"9/9") };
        let data = vec![datum; usize::from(published.entry.count)];
        let Ok(content) = Content::new(&data) else { return published };
        let entry = match self.rng.u8(0..3) {
            0 => published.entry,
            1 => Entry { content: content.hash(), ..published.entry },
            _ => Entry { first: Sequence(published.entry.first.0.saturating_sub(1).max(1)), ..published.entry },
        };
        Published { entry, content, ..published }
    }

    /// Up to where a server may serve terminals: as far as the chain says was published, or farther, as it publishes itself.
    fn limit(&self, server: usize, topic: usize) -> Option<(Limit, bool)> {
        let machine = self.hosts[server].server.as_ref()?;
        let view = machine.view().get(self.topics[topic])?;
        let takeover = view.takeover?;
        let ignores = self.switched == Some(Switched::Machine(Mutation::DeadlineIgnored));
        let own = machine.publishes(self.topics[topic]);
        let own = own.filter(|(until, fence, _)| (ignores || self.clock(server) < *until) && *fence == takeover.fence);
        let published = view.published.upto;
        let upto = own.map_or(published, |(_, _, upto)| upto.max(published));
        Some((Limit { takeover, upto }, upto > published))
    }

    fn send(&mut self, server: usize, terminal: usize, connection: u64, topic: usize, message: Message) {
        let after = self.rng.u64(1..10);
        let host = &mut self.hosts[server];
        let arrives = host.pipes.entry(terminal).or_default();
        *arrives = (*arrives).max(self.now + after).max(host.held_until);
        let at = *arrives;
        self.at(at, Happening::Arrive { terminal, server, connection, topic, message });
    }

    fn arrive(&mut self, terminal: usize, server: usize, topic: usize, message: Message) -> Result<(), Violation> {
        let machine = &mut self.terminals[terminal].topics[topic];
        match message {
            Message::Takeover(takeover) => match machine.takeover(&takeover) {
                Ok(()) => {
                    self.checker.learned(topic, terminal, takeover.fence.0);
                    Ok(())
                }
                Err(alarm) => Err(Violation { invariant: "no_alarm", what: alarm.to_string() }),
            },
            Message::Frame(published) => {
                let fence = published.fence;
                match machine.frame(published) {
                    Verdict::Deliver { entry, content, .. } => {
                        for datum in content.data() {
                            self.checker.delivered(topic, terminal, name_of(&datum), fence.0)?;
                        }
                        let (last, after) = (entry.last(), self.rng.u64(1..10));
                        let at = self.now + after;
                        for other in 0..self.hosts.len() {
                            let known = self.terminals[terminal].connections[other];
                            if known != 0 && (other == server || self.rng.bool()) {
                                self.at(
                                    at,
                                    Happening::Acknowledge { terminal, server: other, connection: known, topic, last },
                                );
                            }
                        }
                        Ok(())
                    }
                    Verdict::Repeated => {
                        // Its sender learns that it need not go on from so far back.
                        let last = self.terminals[terminal].topics[topic].position().last;
                        let connection = self.terminals[terminal].connections[server];
                        self.at(self.now + 1, Happening::Acknowledge { terminal, server, connection, topic, last });
                        Ok(())
                    }
                    Verdict::Stale { .. } => Ok(()),
                    // A pipe keeps its order: what comes without its takeover, or ahead, lost something, and the connection begins anew.
                    Verdict::Unproven { .. } | Verdict::Gap { .. } => {
                        self.terminals[terminal].connections[server] = 0;
                        self.at(self.now + RECONNECT_MS, Happening::Connect { terminal, server });
                        Ok(())
                    }
                    // Whoever sent it is left alone from now on.
                    Verdict::Alarm(_) if self.hosts[server].forges => {
                        self.terminals[terminal].connections[server] = 0;
                        Ok(())
                    }
                    Verdict::Alarm(alarm) => Err(Violation { invariant: "no_alarm", what: alarm.to_string() }),
                }
            }
        }
    }

    fn drive_source(&mut self, source: usize, topic: usize, told: Vec<SourceEffect>) -> Result<(), Violation> {
        let (effects, next) = self.sources[source][topic].due(Millis(self.now));
        for effect in told.into_iter().chain(effects) {
            match effect {
                SourceEffect::Push(push) => self.push(source, topic, &push),
                SourceEffect::Stopped { why } => {
                    return Err(Violation {
                        invariant: "sources_go_on",
                        what: format!("source {source} stopped: {why}"),
                    });
                }
                SourceEffect::Acknowledged { nonce, .. } => {
                    while let Some((_, number)) = self.pushed[source][topic].pop_front_if(|(known, _)| *known <= nonce)
                    {
                        self.checker.acknowledged(topic, (source, number));
                    }
                }
            }
        }
        if let Some(next) = next {
            self.at(next.0.max(self.now + 1), Happening::SourceWake { source, topic });
        }
        Ok(())
    }

    fn push(&mut self, source: usize, topic: usize, push: &Push) {
        self.nonce += 1;
        let body = TransactionBody {
            title: self.topics[topic].title(),
            nonce: self.nonce,
            expires: Height(u64::MAX),
            payload: push.to_payload(),
        };
        let transaction = Transaction::unsigned(&self.source_keys[source], &body);
        let transaction = transaction.unwrap_or_else(|error| panic!("{error}"));
        if self.faulty && self.rng.u8(0..20) == 0 {
            return;
        }
        // Through another node it takes another time.
        let after = if self.rng.u8(0..10) == 0 { self.rng.u64(1..400) } else { self.rng.u64(1..6) };
        self.at(
            self.now + after,
            Happening::Order {
                transaction,
                from: From::Source { source, topic, session: push.session, nonce: push.nonce },
            },
        );
    }
}

impl Host {
    fn new(key: PublicKey, rng: &mut Rng) -> Self {
        Self {
            key,
            server: None,
            at: 0,
            chain_arrives: 0,
            paused_until: 0,
            cut_from_chain: false,
            cut_from_servers: false,
            held_until: 0,
            forges: false,
            rate: rng.u64(990..=1_010),
            offset: rng.u64(0..1_000_000) + 100_000,
            wall: 0,
            wake: None,
            missed: Vec::new(),
            sessions: BTreeMap::new(),
            pipes: BTreeMap::new(),
        }
    }
}

/// The name that a datum carries in its value.
fn name_of(datum: &Datum) -> Name {
    let text = std::str::from_utf8(&datum.value).unwrap_or_default();
    let (source, number) = text.split_once('/').unwrap_or_default();
    (source.parse().unwrap_or(usize::MAX), number.parse().unwrap_or(u64::MAX))
}

/// A chain whose seats have servers as members.
fn genesis(seats: usize, servers: usize) -> Genesis {
    let member = |n: usize| standin_ledger::MemberDescriptor { key: key(n), priority: 0, site: String::new() };
    let seat = |seat: usize| SeatDescriptor {
        cluster: format!("c{seat}").parse().unwrap_or_else(|_| panic!("a fixed name")),
        members: (0..servers).filter(|server| server % seats == seat).map(member).collect(),
    };
    Genesis {
        chain: "test-publication".parse().unwrap_or_else(|_| panic!("a fixed name")),
        time_ms: 0,
        auth: Some(key(199)),
        operators: Operators::default(),
        clients: Default::default(),
        parameters: Parameters::default(),
        seats: (0..seats).map(seat).collect(),
        accounts: Vec::new(),
    }
}
