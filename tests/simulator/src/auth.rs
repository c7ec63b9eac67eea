//! The auth node: the real machine over a register in memory, and what of it is durable.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use standin_auth::machine::Presented;
use standin_auth::messages::{Answer, RegisterCount, Request};
use standin_auth::mutation::Mutation;
use standin_auth::{Auth, Claim, Config, Decision, Record};
use standin_foundation::{ClusterId, Incarnation, Millis, NodeId, PublicKey, Signature, Term};
use standin_ledger::{EpochProof, Genesis, Grant, GrantTable, SignedGrant};

/// Copies of the register that a backup may have kept.
const BACKUPS_MAX: usize = 64;

/// What leaves the auth node once the register is durable.
#[derive(Debug)]
pub struct Outbox {
    /// Who asked.
    pub to: NodeId,
    /// The answer.
    pub answer: Answer,
    /// A grant that is new: everyone is told.
    pub granted: Option<SignedGrant>,
    /// The register as it must be on the disk before anything of this leaves.
    register: BTreeMap<ClusterId, Record>,
}

/// The auth node.
#[derive(Debug)]
pub struct AuthHost {
    /// It runs.
    pub up: bool,
    /// Counts starts.
    pub life: u64,
    auth: Auth,
    config: Config,
    mutation: Option<Mutation>,
    register: BTreeMap<ClusterId, Record>,
    durable: BTreeMap<ClusterId, Record>,
    backups: Vec<BTreeMap<ClusterId, Record>>,
    incarnation: Incarnation,
    /// What it knows of epochs, durably.
    table: GrantTable,
    genesis: GrantTable,
}

impl AuthHost {
    /// An auth node for these clusters, by seat, with their admitted nodes.
    pub fn new(
        genesis: &Genesis,
        clusters: Vec<(ClusterId, Vec<PublicKey>)>,
        config: Config,
        mutation: Option<Mutation>,
    ) -> Self {
        let record = |(cluster, keys): (ClusterId, Vec<PublicKey>)| (cluster.clone(), Record::new(cluster, keys));
        let register: BTreeMap<_, _> = clusters.into_iter().map(record).collect();
        let mut host = Self {
            up: true,
            life: 0,
            auth: Auth::new(genesis.digest(), Incarnation(1), config.clone(), genesis.epoch_table()),
            config,
            mutation,
            durable: register.clone(),
            backups: vec![register.clone()],
            register,
            incarnation: Incarnation(1),
            table: genesis.grant_table(),
            genesis: genesis.grant_table(),
        };
        host.start();
        host
    }

    fn start(&mut self) {
        let (chain, newest) = (*self.table.chain(), self.table.newest_table().clone());
        self.auth = Auth::new(chain, self.incarnation, self.config.clone(), newest);
        if let Some(mutation) = self.mutation {
            self.auth.mutate(mutation);
        }
    }

    /// The current grant of a cluster.
    pub fn grant_of(&self, cluster: &ClusterId) -> Option<&Grant> {
        self.register.get(cluster)?.grant.as_ref()
    }

    /// The register's life.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Grants that were made.
    pub fn grants(&self) -> u64 {
        let granted = |record: &Record| record.term().0 - Term::first_of(record.term().lineage()).0;
        self.register.values().map(granted).sum()
    }

    /// What is not durable is lost.
    pub fn crash(&mut self) {
        self.up = false;
        self.life += 1;
        self.register = self.durable.clone();
    }

    /// It starts again.
    pub fn restart(&mut self) {
        self.up = true;
        self.life += 1;
        self.start();
    }

    /// It starts from an old copy, and its operator says so.
    pub fn restore_backup(&mut self) {
        self.crash();
        self.incarnation = self.incarnation.next();
        let old = self.backups.len() / 2;
        self.register = self.backups[old].clone();
        self.table = self.genesis.clone();
        for record in self.register.values_mut() {
            record.recalling = Some(BTreeSet::new());
        }
        self.durable = self.register.clone();
        self.restart();
    }

    /// Decides a request. What comes of it leaves when it is durable.
    pub fn handle(&mut self, now: Millis, from: NodeId, request: &Request) -> Option<Outbox> {
        if let Request::Epoch(begun) = request {
            self.take_epoch(&begun.proof);
        }
        if let Request::LookUp { cluster: None } | Request::Epoch(_) = request {
            let grants = self.register.values().filter_map(|record| record.grant.clone());
            let (grants, epoch) = (grants.map(signed).collect(), self.table.epoch());
            let answer = Answer::Actives { grants, memberships: Vec::new(), epoch };
            return Some(Outbox { to: from, answer, granted: None, register: self.register.clone() });
        }
        let cluster = request.cluster()?.clone();
        if let Some(named) = self.auth.named(self.register.get(&cluster)?) {
            self.register.insert(cluster.clone(), named);
        }
        let record = self.register.get(&cluster)?.clone();
        let holds = |record: &&Record| record.grant.as_ref().is_some_and(|grant| grant.holder_id() == from);
        let speaks_for = self.register.values().find(holds).map(|record| record.cluster.clone());
        let presented = present(from, request, speaks_for);
        let decision = self.auth.decide(now, &cluster, &record, &presented);
        let mut granted = None;
        let ticket = Bytes::copy_from_slice(cluster.as_str().as_bytes());
        let answer = match decision {
            // Copies are brought back by an operator who says so, and nobody was told of any count.
            Decision::RolledBack { .. } | Decision::Named(_) => return None,
            Decision::Refused(why) => Answer::Refused { why, current: record.grant.clone().map(signed) },
            Decision::Repeated(grant) => Answer::Granted { grant: signed(grant), ticket },
            Decision::Alive => self.alive(now, &record, request),
            Decision::Swap(next) => {
                let grant = next.grant.clone();
                let is_new = grant != record.grant && !matches!(request, Request::Recall { .. });
                self.register.insert(cluster, *next);
                match grant.map(signed).filter(|_| is_new) {
                    Some(grant) => {
                        granted = Some(grant.clone());
                        Answer::Granted { grant, ticket }
                    }
                    None => self.alive(now, &record, request),
                }
            }
        };
        Some(Outbox { to: from, answer, granted, register: self.register.clone() })
    }

    /// Votes were checked by whoever keeps the proof: nobody shows the simulated auth node a false one.
    fn take_epoch(&mut self, proof: &EpochProof) {
        let Ok(table) = proof.table() else { return };
        let issuer = self.table.newest_table().auth;
        self.table.begin(table);
        if self.table.newest_table().auth != issuer {
            self.take_place();
        }
        self.auth.begin(self.table.newest_table());
        for record in self.auth.ordered_records() {
            self.register.entry(record.cluster.clone()).or_insert(record);
        }
    }

    /// Another auth node is asked from now on: it knows of the clusters what the chain has ordered, and nothing else.
    fn take_place(&mut self) {
        self.genesis = self.table.clone();
        self.incarnation = Incarnation::first_of(self.table.epoch());
        self.register.clear();
        self.start();
        for record in self.auth.ordered_records() {
            self.register.insert(record.cluster.clone(), record);
        }
        self.durable = self.register.clone();
        self.backups = vec![self.register.clone()];
        self.life += 1;
    }

    fn alive(&self, now: Millis, record: &Record, request: &Request) -> Answer {
        let (term, lacks_ticket) = match request {
            Request::KeepAlive(keep_alive) => (keep_alive.term, keep_alive.lacks_ticket),
            _ => (record.term(), false),
        };
        let ticket = Bytes::copy_from_slice(record.cluster.as_str().as_bytes());
        Answer::Alive {
            newer: record.grant.clone().filter(|grant| grant.term > term).map(signed),
            register_count: RegisterCount::NONE,
            incarnation: self.incarnation,
            forced: record.forced.or(self.auth.moves_from(now, &record.cluster)),
            recall: record.recalling.is_some(),
            ticket: (lacks_ticket && record.grant.is_some()).then_some(ticket),
        }
    }

    /// The register is durable as it was when this was decided.
    pub fn synced(&mut self, outbox: &Outbox) {
        for (cluster, record) in &outbox.register {
            let is_newer = self.durable.get(cluster).is_none_or(|durable| durable.version < record.version);
            if is_newer {
                self.durable.insert(cluster.clone(), record.clone());
            }
        }
        if outbox.granted.is_some() && self.backups.len() < BACKUPS_MAX {
            self.backups.push(self.durable.clone());
        }
    }
}

fn signed(grant: Grant) -> SignedGrant {
    SignedGrant { grant, signature: Signature::NONE }
}

/// What a driver does with keys is taken as done: nobody in the simulation states what is another's.
fn present(from: NodeId, request: &Request, speaks_for: Option<ClusterId>) -> Presented {
    let mut presented = Presented { speaks_for, ..Presented::of(from, request.clone(), 0) };
    if let Request::ReportWrong(report) = request {
        presented.wrong_in = Some(report.vote.term);
    }
    if let Request::Update(update) = request {
        presented.ticket_opened = std::str::from_utf8(&update.ticket).ok().and_then(|text| text.parse().ok());
        for statement in update.statements.iter().filter(|statement| statement.term == update.term) {
            match statement.claim {
                Claim::Suspicion => {
                    presented.suspected_by.insert(statement.node.node_id());
                }
                Claim::Resignation => presented.resigned = Some(statement.node.node_id()),
            }
        }
    }
    presented
}
