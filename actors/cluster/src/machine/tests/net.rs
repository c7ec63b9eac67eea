//! A few members and an auth node in one hand: every message and every sync can be held back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use standin_auth::machine::Presented;
use standin_auth::messages::{Answer, RegisterCount, Request};
use standin_auth::{Auth, Claim, Decision, Record, Statement};
use standin_foundation::{
    ClusterId, Digest, Height, Incarnation, Lsn, Millis, NodeId, PublicKey, SecretKey, Signature, Writer,
};
use standin_ledger::{EpochTable, Grant, GrantTable, SignedGrant};

use crate::machine::{Description, Found, Identity, Member};
use crate::messages::{Message, NodeRecord};
use crate::{Config, Effect, Event, Input};

pub(super) fn key(n: usize) -> PublicKey {
    SecretKey::from_bytes(&[n as u8 + 1; 32]).unwrap().public()
}

pub(super) fn id(n: usize) -> NodeId {
    key(n).node_id()
}

pub(super) fn cluster() -> ClusterId {
    "a".parse().unwrap()
}

/// What the auth node answers whose register was brought back from a copy and lives its so many-th life.
pub(super) fn recalled(life: u64) -> Answer {
    Answer::Alive {
        newer: None,
        register_count: RegisterCount::NONE,
        incarnation: Incarnation(life),
        forced: None,
        recall: true,
        ticket: None,
    }
}

/// A record is text: `+x` carries payload x, `?x` names it, `|n` marks a base that keeps from record n on, and nothing waits for `~`.
pub(super) fn describe(bytes: &Bytes) -> Option<Description> {
    let text = std::str::from_utf8(bytes).unwrap();
    let digest = |name: &str| Digest::sha256(name.as_bytes());
    let (may_wait, text) = text.strip_prefix('~').map_or((false, text), |rest| (true, rest));
    Some(Description {
        carries: text.strip_prefix('+').map(|name| (digest(name), 0)),
        names: text.strip_prefix('?').map(digest).into_iter().collect(),
        base: text.strip_prefix('|').map(|from| (from.parse().unwrap(), Height(0))),
        may_wait,
    })
}

/// One member with its disk, and what it did.
pub(super) struct Node {
    pub(super) member: Member,
    pub(super) disk: Vec<(u64, NodeRecord)>,
    pub(super) synced: u64,
    pub(super) auto_sync: bool,
    pub(super) up: bool,
    /// Other seats that it hears.
    pub(super) hears: usize,
    /// Nothing new of them comes, and that has not been noticed yet.
    pub(super) frozen_ear: bool,
    pub(super) released: Option<(Writer, Lsn)>,
    pub(super) activated: Vec<Writer>,
    pub(super) rebased: Vec<Writer>,
    pub(super) rebuilt: usize,
    pub(super) agreed: Option<Height>,
    pub(super) events: Vec<Event>,
    pub(super) asked: Vec<Request>,
}

/// The table of epoch 0.
pub(super) fn first_table() -> EpochTable {
    GrantTable::granted(Digest::ZERO, key(99), vec![cluster()]).newest_table().clone()
}

/// All of it.
pub(super) struct Net {
    pub(super) nodes: Vec<Node>,
    pub(super) auth: Auth,
    pub(super) record: Record,
    pub(super) auth_up: bool,
    pub(super) queue: VecDeque<(usize, usize, Message)>,
    /// Links that lose everything.
    pub(super) cut: BTreeSet<(usize, usize)>,
    pub(super) now: Millis,
    config: Config,
}

impl Net {
    /// So many members; the first has the highest priority, and so becomes holder.
    pub(super) fn new(count: usize) -> Self {
        Self::with(count, Config::default())
    }

    /// As [`Net::new`], with numbers of one's own.
    pub(super) fn with(count: usize, config_of_members: Config) -> Self {
        let config = standin_auth::Config { age_max_ms: 2_000, ..standin_auth::Config::default() };
        let mut net = Self {
            nodes: Vec::new(),
            auth: Auth::new(Digest::ZERO, Incarnation(1), config, first_table()),
            record: Record::new(cluster(), (0..count).map(key)),
            auth_up: true,
            queue: VecDeque::new(),
            cut: BTreeSet::new(),
            now: Millis(0),
            config: config_of_members,
        };
        for n in 0..count {
            let found = Found { next_sequence: 1, new_session: 100 + n as u64, ..Found::default() };
            let member = open(n, count, config_of_members, found, Millis(0));
            net.nodes.push(Node {
                member,
                disk: Vec::new(),
                synced: 0,
                auto_sync: true,
                up: true,
                hears: 9,
                frozen_ear: false,
                released: None,
                activated: Vec::new(),
                rebased: Vec::new(),
                rebuilt: 0,
                agreed: None,
                events: Vec::new(),
                asked: Vec::new(),
            });
            net.step(n, Input::SeatsHeard { ages: vec![0; 9], needed: 2 });
        }
        net
    }

    /// So many members, with the first as holder and all in sync and complete.
    pub(super) fn settled(count: usize) -> Self {
        let mut net = Self::new(count);
        net.run(800);
        assert_eq!(net.grant().map(|grant| (grant.holder_id(), grant.in_sync.len())), Some((id(0), count)));
        assert!(net.nodes.iter().all(|node| node.member.facts().complete));
        net
    }

    /// An operator changes who is admitted.
    pub(super) fn order_members(&mut self, members: &[usize]) {
        self.record.admitted = Record::new(cluster(), members.iter().map(|n| key(*n))).admitted;
        self.record.version += 1;
        self.record.membership_version += 1;
    }

    pub(super) fn grant(&self) -> Option<&Grant> {
        self.record.grant.as_ref()
    }

    pub(super) fn step(&mut self, n: usize, input: Input) {
        let effects = self.nodes[n].member.step(self.now, input);
        for effect in effects {
            self.carry_out(n, effect);
        }
        if self.nodes[n].auto_sync {
            self.sync(n);
        }
    }

    /// Makes durable what the node has written.
    pub(super) fn sync(&mut self, n: usize) {
        let last = self.nodes[n].disk.last().map_or(0, |(sequence, _)| *sequence);
        if last > self.nodes[n].synced {
            self.nodes[n].synced = last;
            self.step(n, Input::Persisted(last));
        }
    }

    fn carry_out(&mut self, n: usize, effect: Effect) {
        let node = &mut self.nodes[n];
        match effect {
            Effect::Write { sequence, record } => node.disk.push((sequence, record)),
            Effect::Send { to, message } => {
                let to = (0..self.nodes.len()).find(|other| id(*other) == to).unwrap();
                self.queue.push_back((n, to, message));
            }
            Effect::Ask(request) => {
                if !matches!(request, Request::KeepAlive(_)) {
                    node.asked.push(request.clone());
                }
                self.ask(n, request);
            }
            Effect::State(claim, term) => {
                let statement = Statement { claim, cluster: cluster(), term, node: key(n), signature: Signature::NONE };
                self.step(n, Input::Stated(statement));
            }
            Effect::Activate { writer, .. } => node.activated.push(writer),
            Effect::Rebase { writer, .. } => node.rebased.push(writer),
            Effect::Released { writer, lsn } => node.released = Some((writer, lsn)),
            Effect::Rebuild => node.rebuilt += 1,
            Effect::CutBefore(sequence) => node.disk.retain(|(at, _)| *at >= sequence),
            Effect::Report(event) => node.events.push(event),
            Effect::Agreed(height) => node.agreed = Some(height),
            Effect::Follow(_) | Effect::Sync => {}
        }
    }

    fn ask(&mut self, n: usize, request: Request) {
        if !self.auth_up {
            return;
        }
        let mut presented = Presented { ticket_opened: Some(cluster()), ..Presented::of(id(n), request.clone(), 0) };
        if let Request::Update(update) = &request {
            for statement in &update.statements {
                match statement.claim {
                    Claim::Suspicion => drop(presented.suspected_by.insert(statement.node.node_id())),
                    Claim::Resignation => presented.resigned = Some(statement.node.node_id()),
                }
            }
        }
        let ticket = Bytes::from_static(b"ticket");
        let answer = match self.auth.decide(self.now, &cluster(), &self.record, &presented) {
            Decision::Refused(why) => Answer::Refused { why, current: self.record.grant.clone().map(signed) },
            Decision::Repeated(grant) => Answer::Granted { grant: signed(grant), ticket },
            Decision::Alive => {
                let term = if let Request::KeepAlive(alive) = &request { alive.term } else { self.record.term() };
                let newer = self.record.grant.clone().filter(|grant| grant.term > term).map(signed);
                let (incarnation, forced) = (self.auth.incarnation(), self.record.forced);
                Answer::Alive {
                    newer,
                    register_count: RegisterCount::NONE,
                    incarnation,
                    forced,
                    recall: false,
                    ticket: None,
                }
            }
            Decision::Named(record) => {
                self.record = *record;
                return self.ask(n, request);
            }
            Decision::RolledBack { seen } => panic!("nobody was told of {seen} changes"),
            Decision::Swap(record) => {
                self.record = *record;
                Answer::Granted { grant: signed(self.record.grant.clone().unwrap()), ticket }
            }
        };
        self.step(n, Input::Answered(answer));
    }

    /// Delivers everything that is under way.
    pub(super) fn pump(&mut self) {
        for _ in 0..10_000 {
            let Some((from, to, message)) = self.queue.pop_front() else { return };
            if self.nodes[to].up && self.nodes[from].up && !self.cut.contains(&(from, to)) {
                self.step(to, Input::Received { from: id(from), message });
            }
        }
        panic!("the members talk without end");
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, ms: u64) {
        let end = self.now + ms;
        while self.now < end {
            self.now = self.now + 10;
            for n in 0..self.nodes.len() {
                if self.nodes[n].up {
                    if !self.nodes[n].frozen_ear {
                        self.step(n, Input::SeatsHeard { ages: vec![0; self.nodes[n].hears], needed: 2 });
                    }
                    self.step(n, Input::Tick);
                }
            }
            self.pump();
        }
    }

    pub(super) fn append(&mut self, n: usize, records: &[&'static str]) {
        self.step(n, Input::Append(records.iter().map(|record| Bytes::from_static(record.as_bytes())).collect()));
    }

    /// The process ends; with `lost` records less than it had written, if they were not synced.
    pub(super) fn kill(&mut self, n: usize) {
        self.nodes[n].up = false;
        let synced = self.nodes[n].synced;
        self.nodes[n].disk.retain(|(sequence, _)| *sequence <= synced);
    }

    /// It starts again from its disk.
    pub(super) fn restart(&mut self, n: usize, torn: bool) {
        let records = self.nodes[n].disk.clone();
        let next_sequence = records.last().map_or(0, |(sequence, _)| *sequence) + 1;
        let count = self.nodes.len();
        let found = Found { records, next_sequence, torn, new_session: 900 + n as u64 };
        self.nodes[n].member = open(n, count, self.config, found, self.now);
        self.nodes[n].up = true;
        self.nodes[n].released = None;
        self.nodes[n].hears = 9;
        self.step(n, Input::SeatsHeard { ages: vec![0; 9], needed: 2 });
    }

    pub(super) fn released(&self, n: usize) -> Lsn {
        self.nodes[n].released.map_or(0, |(_, lsn)| lsn)
    }

    pub(super) fn texts(&self, n: usize) -> Vec<String> {
        let text = |entry: &crate::messages::Entry| String::from_utf8(entry.record.to_vec()).unwrap();
        self.nodes[n].member.entries().map(text).collect()
    }

    pub(super) fn has_event(&self, n: usize, fits: impl Fn(&Event) -> bool) -> bool {
        self.nodes[n].events.iter().any(fits)
    }
}

fn signed(grant: Grant) -> SignedGrant {
    SignedGrant { grant, signature: Signature::NONE }
}

fn open(n: usize, count: usize, config: Config, found: Found, now: Millis) -> Member {
    let members: BTreeMap<_, _> = (0..count).map(|other| (id(other), 10 - other as u8)).collect();
    let identity = Identity { node: id(n), cluster: cluster(), members, fixed: false };
    Member::open(identity, config, describe, found, now)
}
