//! A terminal: it is connected to several nodes at a time, and gives each datum once, in order, without a gap, whichever of them die.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use standin_foundation::{Digest, Epoch};
use standin_ledger::certificate::faulty_max;
use standin_ledger::{Genesis, GrantTable};
use standin_publisher::frame::{Datum, Entry};
use standin_publisher::machine::terminal::{Alarm, Counters, Position, Terminal as Machine, Verdict};
use standin_publisher::machine::witness::{Proven, TakeoverProof};
use standin_publisher::messages::Takeover;
use standin_publisher::terminal::ToTerminal;
use standin_publisher::{Sequence, Topic};
use tokio::sync::{mpsc, watch};

use crate::client::{Client, ClientError, Said};
pub use crate::node::Begin;

/// Messages of all nodes that wait to be judged.
const AHEAD: usize = 256;
/// A node that cannot be reached is tried again after this time, which doubles up to the second.
const AGAIN_MIN: Duration = Duration::from_millis(20);
const AGAIN_MAX: Duration = Duration::from_secs(1);

/// A connection that lasts no longer did no good.
const SHORT_LIVED: Duration = Duration::from_millis(100);
/// A node that could not be reached for so long is not waited for, if all others refuse.
const ABSENT_MAX: Duration = Duration::from_secs(30);
/// Nor one that was behind the terminal for so long, and has not come any further meanwhile.
const BEHIND_MAX: Duration = Duration::from_secs(10);

/// A frame that is delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// The frame's place.
    pub entry: Entry,
    /// Its data, in order.
    pub data: Vec<Datum>,
    /// Where the terminal stands behind it: to be stored together with what the data do.
    pub position: Position,
}

/// What else a terminal hears of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A frame.
    Delivered(Delivered),
    /// Another server publishes from now on.
    Takeover {
        /// Which, from where on, under which fence.
        takeover: Takeover,
        /// Where the terminal stands with that: to be stored, too.
        position: Position,
    },
    /// The seats of a newer epoch say that the same server publishes.
    Renewed {
        /// Where the terminal stands with that: to be stored, too.
        position: Position,
    },
    /// A server said something false: it is not listened to any more.
    Alarm {
        /// The node's address.
        node: String,
        /// What.
        alarm: Alarm,
    },
}

/// Why a terminal cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FollowError {
    /// No node keeps what comes next any more.
    #[error("datum {next} is not kept by any node any more: the first that is left is {first}")]
    Forgotten {
        /// What it needs.
        next: Sequence,
        /// The first that there is.
        first: Sequence,
    },
    /// All nodes refuse it.
    #[error("every node refuses the terminal: {0}")]
    Refused(ClientError),
    /// What the terminal has is not the chain's history: a server has deceived it before. Seats have proven so, or f+1 nodes contradict what it
    /// was given. Where it follows no more than that, all but one do, and the false one may be among them: it stops all the same.
    #[error("what this terminal has is not the chain's history: {0}")]
    History(Alarm),
    /// Its position is ahead of every node: of another chain, made up, or of a chain that was brought back from an older copy.
    #[error("no node is as far as the terminal: {0}")]
    Ahead(String),
    /// All servers said something false.
    #[error("no server is left that has not contradicted itself or the others")]
    NobodyLeft,
}

/// What a connection says.
enum FromNode {
    Said {
        connection: u64,
        asked: Option<Position>,
        message: Box<ToTerminal>,
    },
    Refused(ClientError),
    /// The terminal is ahead of it.
    Behind(String),
    /// It cannot be reached, or has too much to do.
    Absent,
}

/// What all connections know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shared {
    position: Option<Position>,
}

/// A node that the terminal follows.
struct Followed {
    client: Client,
    /// Raised to have it connect anew.
    anew: watch::Sender<u64>,
    /// The connection that is listened to.
    connection: u64,
    /// The newest one of which anything was heard while it was not to be judged yet, and up to which they are given up.
    heard: u64,
    given_up: u64,
    is_silenced: bool,
}

/// What a node that showed a takeover, on a connection, says of who may speak for seats.
struct Looked {
    node: usize,
    connection: u64,
    proof: TakeoverProof,
    /// Nothing of the node is judged meanwhile.
    is_awaited: bool,
    known: Result<GrantTable, ClientError>,
}

/// Who may speak for seats, from the genesis on: what a takeover is judged by.
struct Trust {
    genesis: Genesis,
    chain: Digest,
    table: GrantTable,
}

/// A terminal. It belongs to the thread that made it.
pub struct Terminal {
    topic: Topic,
    machine: Option<Machine>,
    trust: Trust,
    /// Takeovers whose witnesses are not known yet: at most one of each node, and the epochs and grants by which they are judged, on their way.
    unproven: FuturesUnordered<LocalBoxFuture<'static, Looked>>,
    looks: BTreeSet<usize>,
    /// The newest epoch for which a node is being looked at although what it proves is known from an older one.
    renewing: BTreeMap<usize, Epoch>,
    /// What those nodes have said since.
    held_back: VecDeque<(usize, u64, Option<Position>, Box<ToTerminal>)>,
    begin: Begin,
    nodes: Vec<Followed>,
    shared: watch::Sender<Shared>,
    said: mpsc::Receiver<(usize, FromNode)>,
    /// Nodes that refuse it, and with what.
    refused: BTreeMap<usize, ClientError>,
    /// Nodes that cannot be reached, since when.
    absent: BTreeMap<usize, Instant>,
    /// Nodes that the terminal is ahead of, since when they have been where they say that they are.
    behind: BTreeMap<usize, (Instant, String)>,
    /// Nodes that contradict what was delivered.
    contradicted: BTreeSet<usize>,
    counters: Counters,
}

impl std::fmt::Debug for Terminal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Terminal").field("counters", &self.counters).finish_non_exhaustive()
    }
}

impl Terminal {
    /// Follows a topic at all of these nodes, of which none is trusted: whoever publishes is proven from the chain's genesis on. Must be called within
    /// a runtime.
    pub fn begin(nodes: Vec<Client>, genesis: Genesis, topic: Topic, begin: Begin) -> Self {
        let trust = Trust { chain: genesis.digest(), table: genesis.grant_table(), genesis };
        let machine = match begin {
            Begin::Behind(position) => Some(Machine::new(topic, position)),
            _ => None,
        };
        let shared = watch::Sender::new(Shared { position: machine.as_ref().map(Machine::position) });
        let (late, (sender, said)) = (nodes.len() > 1, mpsc::channel(AHEAD));
        let follow = |(number, client): (usize, Client)| {
            let (own, anew) = (client.clone(), watch::Sender::new(0));
            let connection = Connection {
                number,
                client,
                topic,
                begin,
                shared: shared.subscribe(),
                anew: anew.subscribe(),
                sender: sender.clone(),
                late,
            };
            actix_rt::spawn(connection.run());
            Followed { client: own, anew, connection: 0, heard: 0, given_up: 0, is_silenced: false }
        };
        let nodes = nodes.into_iter().enumerate().map(follow).collect();
        Self {
            topic,
            machine,
            trust,
            unproven: FuturesUnordered::new(),
            looks: BTreeSet::new(),
            renewing: BTreeMap::new(),
            held_back: VecDeque::new(),
            begin,
            nodes,
            shared,
            said,
            refused: BTreeMap::new(),
            absent: BTreeMap::new(),
            behind: BTreeMap::new(),
            contradicted: BTreeSet::new(),
            counters: Counters::default(),
        }
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.machine.as_ref().map_or(self.counters, Machine::counters)
    }

    /// What comes next. It may be waited for again whenever the wait was given up.
    pub async fn next(&mut self) -> Result<Notice, FollowError> {
        loop {
            self.check_hope()?;
            let place = self.held_back.iter().position(|(node, ..)| !self.looks.contains(node));
            if let Some((node, connection, asked, message)) = place.and_then(|place| self.held_back.remove(place)) {
                match self.judge(node, connection, asked, *message)? {
                    Some(notice) => return Ok(notice),
                    None => continue,
                }
            }
            let (node, from) = tokio::select! {
                biased;
                Some(looked) = self.unproven.next() => match self.looked(looked)? {
                    Some(notice) => return Ok(notice),
                    None => continue,
                },
                // Every connection keeps a sender while this lives.
                said = self.said.recv() => said.ok_or(FollowError::NobodyLeft)?,
            };
            match from {
                FromNode::Refused(error) => {
                    self.absent.remove(&node);
                    self.behind.remove(&node);
                    // It knows another history than the one that was delivered.
                    if matches!(error, ClientError::Conflict(_))
                        && self.counters().delivered > 0
                        && self.is_contradicted(node)
                    {
                        return Err(FollowError::Refused(error));
                    }
                    self.refused.insert(node, error);
                    self.check_hope()?;
                }
                FromNode::Behind(why) => {
                    self.absent.remove(&node);
                    self.refused.remove(&node);
                    // It says how far it is: one that catches up is waited for.
                    if self.behind.get(&node).is_none_or(|(_, before)| *before != why) {
                        self.behind.insert(node, (Instant::now(), why));
                    }
                    self.check_hope()?;
                }
                FromNode::Absent => {
                    // Whatever it said before, it may say something else when it is back.
                    self.refused.remove(&node);
                    self.absent.entry(node).or_insert_with(Instant::now);
                    self.check_hope()?;
                }
                FromNode::Said { connection, asked, message } if self.looks.contains(&node) => {
                    let Some(followed) = self.nodes.get_mut(node) else { continue };
                    followed.heard = followed.heard.max(connection);
                    if connection <= followed.given_up {
                        continue;
                    }
                    if self.held_back.len() < AHEAD {
                        self.held_back.push_back((node, connection, asked, message));
                    } else {
                        self.connect_anew(node);
                    }
                }
                FromNode::Said { connection, asked, message } => {
                    if let Some(notice) = self.judge(node, connection, asked, *message)? {
                        return Ok(notice);
                    }
                }
            }
        }
    }

    /// Whether there is a node left from which something can come.
    fn check_hope(&self) -> Result<(), FollowError> {
        let is_hopeless = |(node, followed): (usize, &Followed)| {
            let is_gone = self.absent.get(&node).is_some_and(|since| since.elapsed() > ABSENT_MAX);
            let is_behind = self.behind.get(&node).is_some_and(|(since, _)| since.elapsed() > BEHIND_MAX);
            followed.is_silenced || self.refused.contains_key(&node) || is_gone || is_behind
        };
        let is_silenced = self.nodes.iter().any(|followed| followed.is_silenced);
        let is_told = is_silenced || !self.refused.is_empty() || !self.behind.is_empty();
        // Nodes that cannot be reached alone are waited for, for ever.
        if !is_told || !self.nodes.iter().enumerate().all(is_hopeless) {
            return Ok(());
        }
        let last = self.machine.as_ref().map_or(Sequence(0), |machine| machine.position().last);
        let next = match self.begin {
            Begin::At(sequence) if self.machine.is_none() => sequence,
            _ => Sequence(last.0.saturating_add(1)),
        };
        let firsts = self.refused.values().filter_map(|error| match error {
            ClientError::Gone { first, .. } => Some(Sequence(first.0)),
            _ => None,
        });
        match (firsts.min(), self.refused.values().next(), self.behind.values().next()) {
            (Some(first), ..) => Err(FollowError::Forgotten { next, first }),
            (None, Some(error), _) => Err(FollowError::Refused(error.clone())),
            (None, None, Some((_, why))) => Err(FollowError::Ahead(why.clone())),
            (None, None, None) => Err(FollowError::NobodyLeft),
        }
    }

    fn judge(
        &mut self,
        node: usize,
        connection: u64,
        asked: Option<Position>,
        message: ToTerminal,
    ) -> Result<Option<Notice>, FollowError> {
        let Some(followed) = self.nodes.get_mut(node) else { return Ok(None) };
        if let ToTerminal::Start(position) = message {
            self.refused.remove(&node);
            self.absent.remove(&node);
            self.behind.remove(&node);
            followed.connection = connection;
            // What it leaves out would be missed by nobody.
            if let (None, Begin::At(wanted)) = (&self.machine, self.begin) {
                let (wanted, found) = (Sequence(wanted.0.max(1)), position.last);
                if found >= wanted || (found == Sequence(0) && position.chain != Digest::ZERO) {
                    return self.silence(node, Alarm::Start { wanted, found }).map(Some);
                }
            }
            match &self.machine {
                None => {
                    // Fences and epochs are nobody's word.
                    let position = Position { last: position.last, chain: position.chain, ..Position::default() };
                    self.machine = Some(Machine::new(self.topic, position));
                    self.shared.send_modify(|shared| shared.position = Some(position));
                }
                // Another node said where to begin: this one is to go on from there.
                Some(_) if asked.is_none() => self.connect_anew(node),
                Some(_) => {}
            }
            return Ok(None);
        }
        if connection != followed.connection || followed.is_silenced {
            return Ok(None);
        }
        let Some(machine) = &mut self.machine else { return Ok(None) };
        match message {
            // Most are known from another node.
            ToTerminal::Takeover(proof) if !machine.is_news(proof.takeover.fence, proof.epoch) => Ok(None),
            ToTerminal::Takeover(proof) => match proof.verify(&self.trust.chain, &self.trust.table) {
                Ok(proven) => self.take_over(node, &proven),
                Err(why) if why.may_be_proven() => {
                    // What is published under a fence that is proven waits for nothing; and then one look will do for all nodes.
                    let is_awaited = proof.takeover.fence > machine.position().fence;
                    let is_wanted = match is_awaited {
                        true => self.looks.insert(node),
                        false => self.renewing.get(&node).is_none_or(|epoch| *epoch < proof.epoch),
                    };
                    if is_wanted {
                        if !is_awaited {
                            self.renewing.insert(node, proof.epoch);
                        }
                        // Whoever shows a takeover can show the epochs and grants that prove it, which prove themselves from the genesis on.
                        let (client, genesis) = (followed.client.clone(), self.trust.genesis.clone());
                        let look = async move {
                            let known = client.grant_table(&genesis).await;
                            Looked { node, connection, proof, is_awaited, known }
                        };
                        self.unproven.push(look.boxed_local());
                    }
                    Ok(None)
                }
                Err(why) => {
                    let alarm = Alarm::Unproven { fence: proof.takeover.fence, why };
                    self.silence(node, alarm).map(Some)
                }
            },
            ToTerminal::Frame(published) => match machine.frame(published) {
                Verdict::Deliver { entry, content, position } => {
                    self.share();
                    Ok(Some(Notice::Delivered(Delivered { entry, data: content.data(), position })))
                }
                Verdict::Repeated | Verdict::Stale { .. } => Ok(None),
                Verdict::Unproven { .. } | Verdict::Gap { .. } => {
                    self.connect_anew(node);
                    Ok(None)
                }
                Verdict::Alarm(alarm @ (Alarm::Equivocation { .. } | Alarm::Chain { .. }))
                    if self.is_contradicted(node) =>
                {
                    Err(FollowError::History(alarm))
                }
                Verdict::Alarm(alarm) => self.silence(node, alarm).map(Some),
            },
            ToTerminal::Refused { .. } => {
                // It says why when it is asked again.
                self.connect_anew(node);
                Ok(None)
            }
            ToTerminal::Start(_) => Ok(None),
        }
    }

    fn take_over(&mut self, node: usize, proven: &Proven) -> Result<Option<Notice>, FollowError> {
        let Some(machine) = &mut self.machine else { return Ok(None) };
        let before = machine.position();
        let taken = machine.takeover(proven);
        let position = machine.position();
        match taken {
            Ok(()) if position == before => Ok(None),
            Ok(()) => {
                self.share();
                let takeover = *proven.takeover();
                let is_renewed = position.fence == before.fence;
                Ok(Some(if is_renewed {
                    Notice::Renewed { position }
                } else {
                    Notice::Takeover { takeover, position }
                }))
            }
            // It may not know the newest epoch yet.
            Err(Alarm::Retired { .. }) => {
                self.connect_anew(node);
                Ok(None)
            }
            // f+1 seats say that the history of this terminal is not the chain's.
            Err(alarm @ Alarm::Takeover { .. }) => Err(FollowError::History(alarm)),
            Err(alarm) => self.silence(node, alarm).map(Some),
        }
    }

    /// A takeover that could not be judged before is judged by what its node knows; no other node is waited for meanwhile.
    fn looked(&mut self, looked: Looked) -> Result<Option<Notice>, FollowError> {
        let Looked { node, connection, proof, is_awaited, known } = looked;
        if is_awaited {
            self.looks.remove(&node);
        } else if self.renewing.get(&node) == Some(&proof.epoch) {
            self.renewing.remove(&node);
        }
        let judged = match known {
            Ok(table) => proof.verify(&self.trust.chain, &table).map(|proven| (proven, table)),
            Err(error) => {
                tracing::debug!(%error, "a takeover cannot be judged now");
                self.connect_if_awaited(is_awaited, node, connection);
                return Ok(None);
            }
        };
        match judged {
            Ok((proven, table)) => {
                if table.epoch() >= self.trust.table.epoch() {
                    self.trust.table = table;
                }
                self.take_over(node, &proven)
            }
            // It may not know that itself yet.
            Err(why) if why.may_be_proven() => {
                self.connect_if_awaited(is_awaited, node, connection);
                Ok(None)
            }
            Err(why) => self.silence(node, Alarm::Unproven { fence: proof.takeover.fence, why }).map(Some),
        }
    }

    /// What is awaited is shown again on another connection; all else comes with the next takeover.
    fn connect_if_awaited(&mut self, is_awaited: bool, node: usize, connection: u64) {
        if is_awaited {
            self.connect_if_current(node, connection);
        }
    }

    fn connect_if_current(&mut self, node: usize, connection: u64) {
        if self.nodes.get(node).is_some_and(|followed| followed.connection == connection) {
            self.connect_anew(node);
        }
    }

    /// All nodes are told what the terminal has: none of them sends it again.
    fn share(&mut self) {
        let position = self.machine.as_ref().map(Machine::position);
        self.shared.send_modify(|shared| shared.position = position);
    }

    fn connect_anew(&mut self, node: usize) {
        if let Some(followed) = self.nodes.get_mut(node) {
            // Nothing more of this connection counts.
            followed.given_up = followed.heard.max(followed.connection);
            followed.connection = 0;
            followed.anew.send_modify(|count| *count += 1);
        }
    }

    /// A node contradicts what was delivered: either is false. True once so many do that nobody can go on with what was delivered.
    fn is_contradicted(&mut self, node: usize) -> bool {
        self.contradicted.insert(node);
        let enough = faulty_max(self.trust.genesis.seats.len()) + 1;
        let others = self.nodes.len().saturating_sub(1);
        others > 0 && self.contradicted.len() >= enough.min(others)
    }

    fn silence(&mut self, node: usize, alarm: Alarm) -> Result<Notice, FollowError> {
        let Some(followed) = self.nodes.get_mut(node) else { return Err(FollowError::NobodyLeft) };
        followed.is_silenced = true;
        Ok(Notice::Alarm { node: followed.client.base().to_owned(), alarm })
    }
}

/// A connection to a node, as often as it takes.
struct Connection {
    number: usize,
    client: Client,
    topic: Topic,
    begin: Begin,
    shared: watch::Receiver<Shared>,
    anew: watch::Receiver<u64>,
    sender: mpsc::Sender<(usize, FromNode)>,
    /// There are other connections.
    late: bool,
}

impl Connection {
    async fn run(mut self) {
        let (mut again, mut connection) = (AGAIN_MIN, 0u64);
        while !self.sender.is_closed() {
            connection += 1;
            self.anew.mark_unchanged();
            let asked = self.shared.borrow_and_update().position;
            match self.client.follow(self.topic, (self.begin, asked), self.late).await {
                Ok(socket) => {
                    let begun = Instant::now();
                    self.listen(socket, connection, asked).await;
                    // One that breaks at once, again and again, is not to be asked all the time.
                    if begun.elapsed() > SHORT_LIVED {
                        again = AGAIN_MIN;
                    }
                }
                Err(error @ (ClientError::Unreachable { .. } | ClientError::Busy(_))) => {
                    tracing::debug!(%error, "a node cannot be followed now");
                    if self.sender.send((self.number, FromNode::Absent)).await.is_err() {
                        return;
                    }
                }
                Err(ClientError::Ahead(why)) => {
                    if self.sender.send((self.number, FromNode::Behind(why))).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    if self.sender.send((self.number, FromNode::Refused(error))).await.is_err() {
                        return;
                    }
                }
            }
            let changed = async {
                // Nobody is left to say so.
                drop(self.anew.changed().await);
            };
            // Whoever is told to connect anew does so at once.
            drop(tokio::time::timeout(again, changed).await);
            again = (again * 2).min(AGAIN_MAX);
        }
    }

    /// Hands on what the node says, and tells it what the terminal has, until the connection ends.
    async fn listen(&mut self, mut socket: crate::client::Following, connection: u64, asked: Option<Position>) {
        loop {
            tokio::select! {
                biased;
                changed = self.anew.changed() => {
                    drop(changed);
                    return;
                }
                changed = self.shared.changed() => {
                    let Ok(()) = changed else { return };
                    let position = self.shared.borrow_and_update().position;
                    if let Some(position) = position
                        && !socket.say(position.last).await
                    {
                        return;
                    }
                }
                said = socket.hear() => {
                    let Some(Said(message)) = said else { return };
                    let from = FromNode::Said { connection, asked, message: Box::new(message) };
                    if self.sender.send((self.number, from)).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}
