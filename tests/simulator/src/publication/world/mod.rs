//! Time, pipes and faults around servers, sources and terminals.

mod chain;
mod faults;
mod keepers;
mod outside;
mod sources;
mod terminals;
mod witnesses;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use fastrand::Rng;
use standin_foundation::{Digest, Epoch, Millis, PublicKey, SecretKey};
use standin_ledger::builtin::Builtin;
use standin_ledger::trie::Trie;
use standin_ledger::{Genesis, Operators, Parameters, SeatDescriptor, Transaction};
use standin_publisher::frame::{Content, Datum, Entry};
use standin_publisher::machine::outside::{Ask, Said};
use standin_publisher::machine::server::{Effect, Input, Server};
use standin_publisher::machine::session::Session;
use standin_publisher::machine::source::{Outcome, Source, SourceConfig};
use standin_publisher::machine::terminal::{Position, Published, Terminal};
use standin_publisher::machine::view::View;
use standin_publisher::machine::witness::{TakeoverProof, Witnesses, Word};
use standin_publisher::messages::{Event, Instruction, Takeover};
use standin_publisher::mutation::Mutation;
use standin_publisher::{Config, Sequence, Topic, Topics};

pub use faults::{Fault, ServerFault};
use outside::Outside;
use witnesses::Seats;

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
    /// A seat's word for a takeover comes to a server.
    Word {
        server: usize,
        word: Word,
    },
    /// Another epoch begins.
    Epoch,
    /// A server has come so far that it knows of an epoch.
    EpochKnown {
        server: usize,
        epoch: Epoch,
    },
    /// A server asks for words that it lacks.
    WantWords {
        server: usize,
    },
    /// A server that keeps locks for nothing looks at one.
    Keep {
        server: usize,
        topic: Topic,
    },
    /// A server has all frames that wait, in the life of this number.
    Fetched {
        server: usize,
        life: u64,
    },
    /// Something comes to the lock service outside the chain.
    OutsideAsk {
        server: usize,
        topic: Topic,
        ask: Ask,
    },
    /// Its answer, or its news, comes to a server.
    OutsideSaid {
        server: usize,
        topic: Topic,
        said: Said,
    },
    /// A server learns which locks are held there.
    OutsideListed {
        server: usize,
    },
    /// A lease may have run out there.
    OutsideExpires {
        topic: Topic,
        number: u64,
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
    JoinStore,
}

/// Who wants to know what became of a transaction.
#[derive(Debug, Clone, Copy)]
enum From {
    Server,
    Source { source: usize, topic: usize, session: u64, nonce: u64 },
}

#[derive(Debug, Clone)]
enum Message {
    Takeover(Arc<TakeoverProof>),
    Frame(Published),
}

/// A server with its surroundings.
struct Host {
    key: PublicKey,
    server: Option<Server>,
    witnesses: Witnesses,
    /// The newest epoch that it knows.
    epoch: Epoch,
    /// Events of the chain that it has.
    at: usize,
    /// When the last ones come that are on their way.
    chain_arrives: u64,
    paused_until: u64,
    cut_from_chain: bool,
    cut_from_servers: bool,
    cut_from_store: bool,
    held_until: u64,
    forges: bool,
    /// It takes locks, and publishes nothing.
    keeps: bool,
    /// Topics of which it lacks frames that wait.
    lacks: BTreeSet<Topic>,
    /// How often it has started.
    life: u64,
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
    /// For what came to the campaign later: seeds that have found something keep their meaning.
    apart: Rng,
    switched: Option<Switched>,
    seats: Seats,
    chain: Digest,
    machine: Topics<Builtin>,
    outside: Outside,
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
    SecretKey::from_bytes(&bytes).unwrap_or_else(|| panic!("a fixed key is valid")).public()
}

impl World {
    /// Some seats with a server each or two, some topics, sources and terminals.
    pub fn new(rng: &mut Rng, switched: Option<Switched>) -> Result<Self, Violation> {
        let mut apart = Rng::with_seed(rng.clone().u64(..) ^ 0x6170_6172_7400_0000);
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
        let terminal = |topic| {
            let mut terminal = Terminal::new(topic, Position::default());
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
            seats: Seats::new(seats),
            chain: genesis.digest(),
            state: genesis.state(),
            machine: {
                let mut machine = Topics::new(Arc::new(genesis), Builtin);
                machine.mutate(mutation);
                machine
            },
            outside: Outside::default(),
            height: 0,
            events: Vec::new(),
            frames: vec![Vec::new(); topics.len()],
            hosts,
            terminals: (0..terminals)
                .map(|_| TerminalHost {
                    topics: topics.iter().map(|topic| terminal(*topic)).collect(),
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
            apart: apart.fork(),
        };
        world.move_some_outside();
        world.begin_epoch_later();
        for server in 0..servers {
            world.at(1_000, Happening::OutsideListed { server });
            world.start(server)?;
            world.at(witnesses::WANTED_EVERY_MS, Happening::WantWords { server });
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

    /// How many seats.
    pub fn seats(&self) -> usize {
        self.seats.len()
    }

    /// How many sources.
    pub fn sources(&self) -> usize {
        self.sources.len()
    }

    /// How many terminals.
    pub fn terminals(&self) -> usize {
        self.terminals.len()
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
            | Happening::Word { server, .. }
            | Happening::WantWords { server }
            | Happening::Fetched { server, .. }
            | Happening::EpochKnown { server, .. }
            | Happening::OutsideSaid { server, .. }
            | Happening::OutsideListed { server }
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
            Happening::Word { server, word } => self.heard(server, word)?,
            Happening::WantWords { server } => self.want_words(server)?,
            Happening::Keep { server, topic } => self.keep_always(server, topic),
            Happening::Fetched { server, life } => self.fetched(server, life)?,
            Happening::Epoch => self.begin_epoch(),
            Happening::EpochKnown { server, epoch } => {
                let known = &mut self.hosts[server].epoch;
                *known = epoch.max(*known);
            }
            Happening::OutsideAsk { server, topic, ask } => self.outside_asked(server, topic, ask),
            Happening::OutsideSaid { server, topic, said } => self.step(server, Input::Outside { topic, said })?,
            Happening::OutsideListed { server } => self.outside_listed(server)?,
            Happening::OutsideExpires { topic, number } => self.outside_expires(topic, number)?,
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
        host.witnesses = Witnesses::default();
        host.at = self.events.len();
        host.wake = None;
        self.lose_some(server);
        let lacks = match self.switched {
            Some(Switched::Driver(Driver::LackUntold)) => BTreeSet::new(),
            _ => self.hosts[server].lacks.clone(),
        };
        // All of them speak for their seats: a seat counts once, whoever speaks.
        for input in [Input::Lacks(lacks), Input::Speaks(true), Input::Serves(true)] {
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
        if let Input::Event(Event::Granted(takeover)) = &input {
            self.witness(server, *takeover);
        }
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
                // Of a server that keeps locks for nothing only what it says of others is its machine's.
                Effect::Submit(instruction) => {
                    if !self.hosts[server].keeps || matches!(instruction, Instruction::Attest(_)) {
                        self.submit(server, &instruction);
                    }
                }
                Effect::Outside { topic, ask } => self.ask_outside(server, topic, ask),
                Effect::Publish { topic, .. } => {
                    if self.hosts[server].lacks.contains(&topic) {
                        let what = format!("server {server} owns {topic} and lacks data of it that wait");
                        return Err(Violation { invariant: "publishes_what_it_has", what });
                    }
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
}

impl Host {
    fn new(key: PublicKey, rng: &mut Rng) -> Self {
        Self {
            key,
            server: None,
            witnesses: Witnesses::default(),
            epoch: Epoch(0),
            at: 0,
            chain_arrives: 0,
            paused_until: 0,
            cut_from_chain: false,
            cut_from_servers: false,
            cut_from_store: false,
            held_until: 0,
            forges: false,
            keeps: false,
            lacks: BTreeSet::new(),
            life: 0,
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
