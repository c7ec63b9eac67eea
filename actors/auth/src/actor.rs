//! The auth node's actor: it checks what a request carries against keys, lets the machine decide, and answers when what was
//! decided is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::fut::wrap_future;
use actix::{ActorFutureExt, AsyncContext};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use standin_foundation::wire::Wire;
use standin_foundation::{ClusterId, Digest, Millis, NodeId, PublicKey, SecretKey, Term};
use standin_ledger::grant::MEMBERS_MAX;
use standin_ledger::{
    Authority, Genesis, Grant, GrantBook, Member, Membership, SeatDescriptor, SignedGrant, SignedMembership,
};
use standin_stage::bridge::Peers;
use standin_stage::{CallError, Ctx, Handle, Lane, Message, RemoteMessage, Reply, Role, Shell, Throttle};

use crate::machine::Presented;
use crate::messages::{Action, Order, Refusal, RegisterCount, SignedOrder, WrongResult};
use crate::register::{Counted, Register, RegisterError, Stored};
use crate::{Answer, Auth, Claim, Config, Decision, Record, Request, ticket};

/// Statements of one update that are looked at: a suspicion of each member, and the holder's resignation.
const STATEMENTS_MAX: usize = MEMBERS_MAX + 1;

/// How often the whole register is looked at, for what other auth nodes have changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How often a request is decided anew because another change was faster.
const ATTEMPTS_MAX: usize = 16;

impl Message for Request {
    type Reply = Answer;
    const LANE: Lane = Lane::Control;
}

impl RemoteMessage for Request {}

/// A grant that is new, told to every node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice(pub SignedGrant);

impl Wire for Notice {
    const NAME: &'static str = "auth.notice";
    const BYTES_MAX: usize = SignedGrant::BYTES_MAX;
}

impl Message for Notice {
    type Reply = ();
    const LANE: Lane = Lane::Control;
}

impl RemoteMessage for Notice {}

/// A list of members that is new, told to every node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipNotice(pub SignedMembership);

impl Wire for MembershipNotice {
    const NAME: &'static str = "auth.membership";
    const BYTES_MAX: usize = SignedMembership::BYTES_MAX;
}

impl Message for MembershipNotice {
    type Reply = ();
    const LANE: Lane = Lane::Control;
}

impl RemoteMessage for MembershipNotice {}

/// Asks another node for the lists of members that it knows. They are told as notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantMembers;

impl Wire for WantMembers {
    const NAME: &'static str = "auth.want_members";
    const BYTES_MAX: usize = 16;
}

impl Message for WantMembers {
    type Reply = ();
    const LANE: Lane = Lane::Control;
}

impl RemoteMessage for WantMembers {}

/// An operator's order. The answer is the list of members that came of it, or why nothing was changed.
#[derive(Debug)]
pub struct Ordered(pub SignedOrder);

impl Message for Ordered {
    type Reply = Result<Membership, Refusal>;
    const LANE: Lane = Lane::Control;
}

/// A request, and who asks: the link has proven it.
#[derive(Debug)]
pub struct Asked {
    /// Who.
    pub from: NodeId,
    /// What for.
    pub request: Request,
}

impl Message for Asked {
    type Reply = Answer;
    const LANE: Lane = Lane::Control;
}

/// A cluster as the auth node sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClusterView {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its newest term; zero before the first.
    pub term: Term,
    /// The holder by the newest grant.
    pub holder: Option<NodeId>,
    /// The in-sync set.
    pub in_sync: BTreeSet<NodeId>,
    /// Version of its record: an order names it.
    pub version: u64,
    /// The nodes that are admitted.
    pub admitted: BTreeMap<NodeId, Member>,
    /// How long ago the holder was last heard, in ms.
    pub age_ms: Option<u64>,
    /// The holder is past its maximum age.
    pub vacant: bool,
    /// Nodes that may not become holder.
    pub not_electable: BTreeSet<NodeId>,
    /// The register was brought back from a copy, and so many nodes have not said what they know.
    pub recalling: Option<usize>,
}

/// Asks for all clusters.
#[derive(Debug)]
pub struct AskClusters;

impl Message for AskClusters {
    type Reply = Vec<ClusterView>;
    const LANE: Lane = Lane::Control;
}

/// What an auth node is made of.
pub struct AuthConfig {
    /// The chain's beginning.
    pub genesis: Arc<Genesis>,
    /// The key that signs grants.
    pub key: SecretKey,
    /// The machine's numbers.
    pub config: Config,
    /// Where the register stands.
    pub register: Arc<dyn Register>,
    /// Grants by which votes in evidence are judged.
    pub book: GrantBook,
    /// Operators: whoever has one of these keys may change who belongs to a cluster.
    pub operators: BTreeSet<PublicKey>,
    /// All nodes: they are told of new grants and members.
    pub peers: Peers,
    /// Told of each list of members that is not the genesis'.
    pub on_membership: Box<dyn Fn(&Membership) + Send + Sync>,
    /// Called once when the auth node must not go on.
    pub on_fatal: Box<dyn Fn(String) + Send + Sync>,
}

impl std::fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig").field("register", &self.register).finish_non_exhaustive()
    }
}

/// The actor.
pub struct AuthActor {
    machine: Auth,
    setup: AuthConfig,
    chain: Digest,
    started: Instant,
    refusals: Throttle,
    /// The newest grant of each cluster, as last read: who may report others.
    newest: BTreeMap<ClusterId, Grant>,
    counted: std::cell::Cell<Option<RegisterCount>>,
    /// What was told of each cluster last.
    told: BTreeMap<ClusterId, Told>,
}

/// What is told of a cluster at a version of its record.
#[derive(Debug, Clone)]
struct Told {
    version: u64,
    grant: Option<SignedGrant>,
    membership: Option<SignedMembership>,
}

impl std::fmt::Debug for AuthActor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthActor").field("setup", &self.setup).finish_non_exhaustive()
    }
}

/// The records of a chain that begins.
pub fn first_records(genesis: &Genesis) -> Vec<Record> {
    let record = |seat: &SeatDescriptor| Record::new(seat.cluster.clone(), seat.members.iter().map(Member::of_genesis));
    genesis.seats.iter().map(record).collect()
}

impl AuthActor {
    /// An auth node that starts now: every entry gets one full maximum age.
    pub fn new(setup: AuthConfig) -> Self {
        let chain = setup.genesis.digest();
        let epoch = standin_foundation::Epoch(0);
        let machine = Auth::new(chain, epoch, setup.register.incarnation(), setup.config);
        let (started, refusals, newest) = (Instant::now(), Throttle::default(), BTreeMap::new());
        let (counted, told) = (std::cell::Cell::default(), BTreeMap::new());
        Self { machine, setup, chain, started, refusals, newest, counted, told }
    }

    fn now(&self) -> Millis {
        Millis(self.started.elapsed().as_millis() as u64)
    }

    fn fatal(&self, why: String) {
        tracing::error!(why, "the auth node must not go on");
        (self.setup.on_fatal)(why);
    }

    fn sign(&self, grant: Grant) -> SignedGrant {
        grant.sign(&self.setup.key)
    }

    /// Checks what a request carries, as far as its sender may ask for it at all: signatures cost time that all share.
    fn present(&self, from: NodeId, request: &Request, record: &Record, count: u64) -> Presented {
        let mut presented = Presented::of(from, request.clone(), count);
        match request {
            Request::KeepAlive(keep_alive)
                if presented.told_count > count
                    && !keep_alive.register_count.verify(&self.setup.key.public(), &self.chain) =>
            {
                if let Some(suppressed) = self.refusals.pass() {
                    tracing::warn!(from = %from.short(), suppressed, "shows a count that no auth node with this key has told");
                }
                presented.told_count = 0;
            }
            Request::Update(update) if record.admitted.contains_key(&from) => {
                presented.ticket_opened = ticket::open(&self.setup.key, &self.chain, &update.ticket);
                let about = |s: &&crate::Statement| s.term == update.term && s.cluster == update.cluster;
                let told = update.statements.iter().filter(about).take(STATEMENTS_MAX);
                for statement in told.filter(|s| s.verify(&self.chain)) {
                    match statement.claim {
                        Claim::Suspicion => drop(presented.suspected_by.insert(statement.node.node_id())),
                        Claim::Resignation => presented.resigned = Some(statement.node.node_id()),
                    }
                }
            }
            Request::ReportWrong(report) => {
                let speaks = |(_, grant): &(&ClusterId, &Grant)| grant.holder_id() == from;
                presented.speaks_for = self.newest.iter().find(speaks).map(|(cluster, _)| cluster.clone());
                presented.wrong_in = presented.speaks_for.as_ref().and_then(|_| self.wrong_in(report));
            }
            _ => {}
        }
        presented
    }

    /// The term in which the accused seat signed something else than a quorum; none if the evidence does not show it.
    fn wrong_in(&self, report: &WrongResult) -> Option<Term> {
        let WrongResult { cluster, result, vote, certificate } = report;
        let seat = self.setup.genesis.seats.iter().position(|seat| seat.cluster == *cluster)?;
        let target = result.target(certificate.epoch);
        let differs = result.height == certificate.result.height && *result != certificate.result;
        let signed = vote.seat.index() == seat && self.setup.book.verify("vote", &target, vote).is_ok();
        (differs && signed && certificate.verify(&self.setup.book).is_ok()).then_some(vote.term)
    }

    /// Whether what a node tells a recalled register of its cluster was signed with this key.
    fn holds(&self, cluster: &ClusterId, newest: Option<&SignedGrant>, membership: Option<&SignedMembership>) -> bool {
        let (key, chain) = (self.setup.key.public(), &self.chain);
        let grant_holds = |signed: &SignedGrant| signed.grant.cluster == *cluster && signed.verify(chain, &key).is_ok();
        let list_holds =
            |signed: &SignedMembership| signed.membership.cluster == *cluster && signed.verify(chain, &key).is_ok();
        newest.is_none_or(grant_holds) && membership.is_none_or(list_holds)
    }

    fn decide(&mut self, asked: Asked, attempt: usize, reply: Reply<Answer>, ctx: &mut Ctx<Self>) {
        let Some(cluster) = asked.request.cluster().cloned() else {
            return self.look_up(None, reply, ctx);
        };
        if let Request::LookUp { .. } = &asked.request {
            return self.look_up(Some(cluster), reply, ctx);
        }
        if let Request::Recall { newest, membership, .. } = &asked.request
            && !self.holds(&cluster, newest.as_ref(), membership.as_ref())
        {
            return reply.send(Answer::Refused { why: Refusal::BadEvidence, current: None });
        }
        let read = wrap_future(self.setup.register.read(&cluster));
        ctx.spawn(read.map(move |read, shell: &mut Shell<Self>, ctx| match read {
            Ok(Counted { content: Some(stored), count }) => {
                shell.role.decide_on(asked, stored, count, attempt, reply, ctx);
            }
            Ok(_) => reply.send(Answer::Refused { why: Refusal::NotAdmitted, current: None }),
            Err(error) => shell.role.register_failed(error, reply),
        }));
    }

    fn decide_on(
        &mut self,
        asked: Asked,
        Stored { record, mark }: Stored,
        count: u64,
        attempt: usize,
        reply: Reply<Answer>,
        ctx: &mut Ctx<Self>,
    ) {
        if let Some(grant) = &record.grant {
            self.newest.insert(record.cluster.clone(), grant.clone());
        }
        let presented = self.present(asked.from, &asked.request, &record, count);
        match self.machine.decide(self.now(), &record.cluster, &record, &presented) {
            Decision::Refused(why) => {
                if let Some(suppressed) = self.refusals.pass() {
                    tracing::info!(from = %asked.from.short(), cluster = %record.cluster, %why, suppressed, "refused");
                }
                reply.send(Answer::Refused { why, current: record.grant.map(|grant| self.sign(grant)) });
            }
            Decision::Repeated(grant) => self.answer_granted(grant, reply),
            Decision::Alive => reply.send(self.alive(&record, &asked.request, count)),
            Decision::RolledBack { seen } => {
                self.fatal(format!(
                    "the register counts {count} changes, and node {} was told of {seen}: the register was brought back from a \
                     copy; say so with `standin auth recall`, and start again",
                    asked.from.short()
                ));
                reply.refuse(CallError::Stopped);
            }
            Decision::Swap(next) => self.swap(asked, Stored { record, mark }, *next, attempt, reply, ctx),
        }
    }

    fn swap(
        &mut self,
        asked: Asked,
        before: Stored,
        next: Record,
        attempt: usize,
        reply: Reply<Answer>,
        ctx: &mut Ctx<Self>,
    ) {
        let swapped = wrap_future(self.setup.register.swap(before.mark, next.clone()));
        ctx.spawn(swapped.map(move |swapped, shell: &mut Shell<Self>, ctx| match swapped {
            Ok(Counted { content: true, count }) => {
                shell.role.swapped(&asked, &before.record, Counted { content: next, count }, reply);
            }
            Ok(_) if attempt < ATTEMPTS_MAX => shell.role.decide(asked, attempt + 1, reply, ctx),
            Ok(_) => reply.refuse(CallError::Overloaded { queued: attempt, limit: ATTEMPTS_MAX }),
            Err(error) => shell.role.register_failed(error, reply),
        }));
    }

    fn swapped(&mut self, asked: &Asked, before: &Record, next: Counted<Record>, reply: Reply<Answer>) {
        let Counted { content: next, count } = next;
        if let Some(term) = next.forced.filter(|_| next.forced != before.forced) {
            tracing::warn!(cluster = %next.cluster, term = term.0, "forced to switch: its results were proven wrong");
        }
        match next.grant.clone().filter(|grant| before.grant.as_ref() != Some(grant)) {
            Some(grant) => {
                let Grant { term, holder, cause, .. } = &grant;
                let holder = holder.node_id();
                tracing::info!(cluster = %next.cluster, term = term.0, holder = %holder.short(), ?cause, "granted");
                self.newest.insert(next.cluster.clone(), grant.clone());
                let signed = self.sign(grant.clone());
                // It was made here, and holds.
                let _ = self.setup.book.note(signed.clone());
                if !matches!(asked.request, Request::Recall { .. }) {
                    self.answer_granted(grant, reply);
                } else {
                    reply.send(self.alive(&next, &asked.request, count));
                }
                self.tell_all(&signed);
            }
            None => reply.send(self.alive(&next, &asked.request, count)),
        }
    }

    fn tell_all(&self, grant: &SignedGrant) {
        for node in self.setup.peers.all() {
            // Whoever is not reached hears of it with its next keep-alive, or from those that are.
            let _ = node.tell(&Notice(grant.clone()));
        }
    }

    /// The records of all clusters, whose members may have been changed by another auth node.
    fn tell_memberships(&self, records: &[Record]) {
        for record in records.iter().filter(|record| record.membership_version > 0) {
            (self.setup.on_membership)(&record.membership(self.chain));
        }
    }

    fn order(&mut self, signed: SignedOrder, reply: Reply<Result<Membership, Refusal>>, ctx: &mut Ctx<Self>) {
        if !self.setup.operators.contains(&signed.operator) || !signed.verify(&self.chain) {
            return reply.send(Err(Refusal::NotOperator));
        }
        let read = wrap_future(self.setup.register.read_all());
        ctx.spawn(read.map(move |read, shell: &mut Shell<Self>, ctx| match read {
            Ok(records) => shell.role.order_on(signed.order, &records, reply, ctx),
            Err(error) => shell.role.register_failed(error, reply),
        }));
    }

    fn order_on(
        &mut self,
        order: Order,
        records: &[Record],
        reply: Reply<Result<Membership, Refusal>>,
        ctx: &mut Ctx<Self>,
    ) {
        let is_elsewhere = |node: NodeId| {
            records.iter().any(|record| record.cluster != order.cluster && record.admitted.contains_key(&node))
        };
        if let Action::Admit(member) = &order.action
            && is_elsewhere(member.key.node_id())
        {
            let what = "the node is a member of another cluster".to_owned();
            return reply.send(Err(Refusal::BadMember { what }));
        }
        let read = wrap_future(self.setup.register.read(&order.cluster));
        ctx.spawn(read.map(move |read, shell: &mut Shell<Self>, ctx| match read {
            Ok(Counted { content: Some(stored), .. }) => shell.role.swap_ordered(&order, &stored, reply, ctx),
            Ok(_) => reply.send(Err(Refusal::BadMember { what: format!("there is no cluster `{}`", order.cluster) })),
            Err(error) => shell.role.register_failed(error, reply),
        }));
    }

    fn swap_ordered(
        &mut self,
        order: &Order,
        stored: &Stored,
        reply: Reply<Result<Membership, Refusal>>,
        ctx: &mut Ctx<Self>,
    ) {
        let next = match self.machine.order(&stored.record, order) {
            Ok(next) => next,
            Err(why) => return reply.send(Err(why)),
        };
        let swapped = wrap_future(self.setup.register.swap(stored.mark, next.clone()));
        ctx.spawn(swapped.map(move |swapped, shell: &mut Shell<Self>, _| match swapped {
            Ok(Counted { content: true, .. }) => reply.send(Ok(shell.role.ordered(&next))),
            Ok(_) => reply.send(Err(Refusal::Changed { version: next.version })),
            Err(error) => shell.role.register_failed(error, reply),
        }));
    }

    fn ordered(&self, next: &Record) -> Membership {
        let membership = next.membership(self.chain);
        let members = membership.members.keys().map(NodeId::short).collect::<Vec<_>>().join(" ");
        tracing::warn!(cluster = %next.cluster, version = membership.version, members, "an operator changed the members");
        (self.setup.on_membership)(&membership);
        let notice = MembershipNotice(membership.clone().sign(&self.setup.key));
        for node in self.setup.peers.all() {
            // Whoever is not reached looks it up.
            let _ = node.tell(&notice);
        }
        membership
    }

    /// The register's count, signed; the same until it changes.
    fn counted(&self, count: u64) -> RegisterCount {
        let last = self.counted.get().filter(|last| last.count == count);
        let signed = last.unwrap_or_else(|| RegisterCount::sign(&self.setup.key, &self.chain, count));
        self.counted.set(Some(signed));
        signed
    }

    fn ticket_of(&self, cluster: &ClusterId) -> Option<Bytes> {
        let sealed = ticket::seal(&self.setup.key.public(), &self.chain, cluster);
        sealed.inspect_err(|error| tracing::error!(%error, "no ticket can be made")).ok()
    }

    fn answer_granted(&self, grant: Grant, reply: Reply<Answer>) {
        let ticket = self.ticket_of(&grant.cluster).unwrap_or_default();
        reply.send(Answer::Granted { grant: self.sign(grant), ticket });
    }

    fn alive(&self, record: &Record, request: &Request, count: u64) -> Answer {
        let (term, lacks_ticket) = match request {
            Request::KeepAlive(keep_alive) => (keep_alive.term, keep_alive.lacks_ticket),
            _ => (record.term(), false),
        };
        let newer = record.grant.clone().filter(|grant| grant.term > term);
        Answer::Alive {
            newer: newer.map(|grant| self.sign(grant)),
            register_count: self.counted(count),
            incarnation: self.machine.incarnation(),
            forced: record.forced,
            recall: record.recalling.is_some(),
            ticket: (lacks_ticket && record.grant.is_some()).then(|| self.ticket_of(&record.cluster)).flatten(),
        }
    }

    fn look_up(&mut self, cluster: Option<ClusterId>, reply: Reply<Answer>, ctx: &mut Ctx<Self>) {
        let read = wrap_future(self.setup.register.read_all());
        ctx.spawn(read.map(move |read, shell: &mut Shell<Self>, _| match read {
            Ok(records) => {
                shell.role.tell_memberships(&records);
                let wanted = |record: &&Record| cluster.as_ref().is_none_or(|cluster| record.cluster == *cluster);
                reply.send(shell.role.actives(records.iter().filter(wanted)));
            }
            Err(error) => shell.role.register_failed(error, reply),
        }));
    }

    /// Looks at the whole register: another auth node may have granted and admitted meanwhile. Votes in evidence are judged by its
    /// grants, too, and whoever it admitted must be let in to be heard.
    fn look(&mut self, ctx: &mut Ctx<Self>) {
        let read = wrap_future(self.setup.register.read_all());
        ctx.spawn(read.map(|read, shell: &mut Shell<Self>, _| match read {
            Ok(records) => {
                shell.role.tell_memberships(&records);
                let _ = shell.role.actives(records.iter());
            }
            Err(error) => tracing::debug!(%error, "the register cannot be read"),
        }));
    }

    fn actives<'a>(&mut self, records: impl Iterator<Item = &'a Record>) -> Answer {
        let (mut grants, mut memberships) = (Vec::new(), Vec::new());
        for record in records {
            let told = self.told.get(&record.cluster).filter(|told| told.version >= record.version).cloned();
            let told = told.unwrap_or_else(|| self.tell_anew(record));
            grants.extend(told.grant);
            memberships.extend(told.membership);
        }
        Answer::Actives { grants, memberships }
    }

    /// Signatures cost time: what has not changed keeps its own.
    fn tell_anew(&mut self, record: &Record) -> Told {
        let grant = record.grant.clone().map(|grant| self.sign(grant));
        if let Some(grant) = &grant {
            self.newest.insert(record.cluster.clone(), grant.grant.clone());
            // It was made with this very key, and holds.
            let _ = self.setup.book.note(grant.clone());
        }
        let is_changed = record.membership_version > 0;
        let membership = is_changed.then(|| record.membership(self.chain).sign(&self.setup.key));
        let told = Told { version: record.version, grant, membership };
        self.told.insert(record.cluster.clone(), told.clone());
        told
    }

    fn register_failed<T: Send + 'static>(&self, error: RegisterError, reply: Reply<T>) {
        match error {
            RegisterError::Busy => reply.refuse(CallError::Overloaded { queued: 0, limit: 0 }),
            // Whoever asks asks again, here or at another auth node: the same request has the same outcome.
            RegisterError::Unreachable(why) => {
                if let Some(suppressed) = self.refusals.pass() {
                    tracing::error!(why, suppressed, "the register cannot be reached");
                }
                reply.refuse(CallError::Disconnected { sent: true });
            }
            error => {
                self.fatal(format!("the register: {error}"));
                reply.refuse(CallError::Stopped);
            }
        }
    }

    fn view(&self, record: Record) -> ClusterView {
        let now = self.now();
        let silent = |told: &BTreeSet<NodeId>| record.admitted.keys().filter(|node| !told.contains(*node)).count();
        ClusterView {
            term: record.term(),
            holder: record.grant.as_ref().map(Grant::holder_id),
            in_sync: record.grant.as_ref().map(|grant| grant.in_sync.clone()).unwrap_or_default(),
            age_ms: self.machine.age(&record.cluster, now),
            vacant: self.machine.is_vacant(&record.cluster, now),
            recalling: record.recalling.as_ref().map(silent),
            version: record.version,
            admitted: record.admitted,
            not_electable: record.not_electable,
            cluster: record.cluster,
        }
    }
}

impl Role for AuthActor {
    fn started(&mut self, ctx: &mut Ctx<Self>) {
        self.look(ctx);
        ctx.run_interval(LOOK_INTERVAL, |shell, ctx| shell.role.look(ctx));
    }
}

impl Handle<Ordered> for AuthActor {
    fn handle(&mut self, Ordered(order): Ordered, reply: Reply<Result<Membership, Refusal>>, ctx: &mut Ctx<Self>) {
        self.order(order, reply, ctx);
    }
}

impl Handle<Asked> for AuthActor {
    fn handle(&mut self, asked: Asked, reply: Reply<Answer>, ctx: &mut Ctx<Self>) {
        self.decide(asked, 0, reply, ctx);
    }
}

impl Handle<AskClusters> for AuthActor {
    fn handle(&mut self, _: AskClusters, reply: Reply<Vec<ClusterView>>, ctx: &mut Ctx<Self>) {
        let read = wrap_future(self.setup.register.read_all());
        ctx.spawn(read.map(move |read, shell: &mut Shell<Self>, _| match read {
            Ok(records) => reply.send(records.into_iter().map(|record| shell.role.view(record)).collect()),
            Err(_) => reply.refuse(CallError::Stopped),
        }));
    }
}
