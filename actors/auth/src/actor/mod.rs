//! The auth node's actor: it checks what a request carries against keys, lets the machine decide, and answers when what was
//! decided is durable.

mod orders;
mod telling;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::fut::wrap_future;
use actix::{ActorFutureExt, AsyncContext};
use bytes::Bytes;
use standin_foundation::limits::SEATS_MAX;
use standin_foundation::{ClusterId, Digest, Epoch, Millis, NodeId, SecretKey, Signature, Term};
use standin_ledger::grant::{Cause, MEMBERS_MAX};
use standin_ledger::grant_book::EpochError;
use standin_ledger::{
    Authority, Genesis, Grant, GrantBook, Member, Membership, SeatDescriptor, SignedGrant, SignedMembership,
};
use standin_stage::bridge::Peers;
use standin_stage::{CallError, Ctx, Handle, Lane, Message, RemoteMessage, Reply, Role, Shell, Throttle};

pub use orders::Ordered;
pub use telling::{AskClusters, ClusterView, MembershipNotice, Notice, WantMembers};

use crate::machine::Presented;
use crate::messages::{BegunEpoch, Refusal, RegisterCount, WrongResult};
use crate::register::{Counted, Register, RegisterError, Stored};
use crate::{Answer, Auth, Claim, Config, Decision, Record, Request, ticket};
use telling::Told;

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
    /// The epoch since which grants are signed with the key: the register is that issuer's.
    pub issuer: Epoch,
    /// Grants by which votes in evidence are judged.
    pub book: GrantBook,
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
    counted: std::cell::Cell<Option<RegisterCount>>,
    /// What is told of each cluster, as last read.
    told: BTreeMap<ClusterId, Told>,
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
        let table = setup.book.newest_table();
        let machine = Auth::new(chain, setup.register.incarnation(), setup.config.clone(), table);
        let (started, refusals) = (Instant::now(), Throttle::default());
        let (counted, told) = (std::cell::Cell::default(), BTreeMap::new());
        Self { machine, setup, chain, started, refusals, counted, told }
    }

    fn now(&self) -> Millis {
        Millis(self.started.elapsed().as_millis() as u64)
    }

    fn fatal(&self, why: String) {
        tracing::error!(why, "the auth node must not go on");
        (self.setup.on_fatal)(why);
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
                let speaks = |told: &&Told| told.grant.as_ref().is_some_and(|signed| signed.grant.holder_id() == from);
                presented.speaks_for = self.told.values().find(speaks).and_then(Told::cluster);
                presented.wrong_in = presented.speaks_for.as_ref().and_then(|_| self.wrong_in(report));
            }
            _ => {}
        }
        presented
    }

    /// The term in which the accused seat signed something else than a quorum; none if the evidence does not show it.
    fn wrong_in(&self, report: &WrongResult) -> Option<Term> {
        let WrongResult { cluster, result, vote, certificate } = report;
        let seat = self.setup.book.seat_of_cluster(cluster)?;
        let target = result.target(certificate.epoch);
        let differs = result.height == certificate.result.height && *result != certificate.result;
        let signed = vote.seat == seat && self.setup.book.verify("vote", &target, vote).is_ok();
        (differs && signed && certificate.verify(&self.setup.book).is_ok()).then_some(vote.term)
    }

    /// Takes in that an epoch has begun. Grants prove themselves, and the epoch by those.
    fn take_epoch(&mut self, begun: &BegunEpoch, from: NodeId, ctx: &mut Ctx<Self>) {
        let (book, epoch) = (&self.setup.book, begun.proof.epoch());
        if epoch <= book.epoch() {
            return;
        }
        for grant in begun.grants.iter().take(SEATS_MAX) {
            if let Err(error) = book.note(grant.clone()) {
                tracing::debug!(%error, from = %from.short(), "grant refused");
            }
        }
        match book.note_epoch(begun.proof.clone()) {
            Ok(true) => {
                tracing::info!(epoch = epoch.0, "epoch began");
                self.machine.begin(&book.newest_table());
                // Grants of the epoch that another auth node made could not be noted before.
                self.told.clear();
                self.look(ctx);
            }
            Ok(false) => {}
            Err(EpochError::Unproven(error)) => {
                if let Some(suppressed) = self.refusals.pass() {
                    tracing::warn!(%error, epoch = epoch.0, from = %from.short(), suppressed, "epoch refused");
                }
            }
            Err(error) => self.fatal(error.to_string()),
        }
    }

    /// Nothing is granted or ordered by a register whose key does not sign grants any more, or does so again, from another register.
    fn check_issuer(&self) -> Result<(), Refusal> {
        let epoch = self.setup.book.epoch();
        match self.setup.book.issuer_since(&self.setup.key.public()) {
            Some(issuer) if issuer == self.setup.issuer => Ok(()),
            Some(_) => {
                self.fatal(format!("its key was named anew by epoch {epoch} at the latest: start it again"));
                Err(Refusal::NotIssuer { epoch })
            }
            None => Err(Refusal::NotIssuer { epoch }),
        }
    }

    /// Whether what a node tells a recalled register of its cluster was signed with this key.
    fn holds(&self, cluster: &ClusterId, newest: Option<&SignedGrant>, membership: Option<&SignedMembership>) -> bool {
        let (key, chain) = (self.setup.key.public(), &self.chain);
        let is_proven = |signed: &SignedGrant| self.setup.book.knows(signed) || signed.verify(chain, &key).is_ok();
        let grant_holds = |signed: &SignedGrant| signed.grant.cluster == *cluster && is_proven(signed);
        let list_holds =
            |signed: &SignedMembership| signed.membership.cluster == *cluster && signed.verify(chain, &key).is_ok();
        newest.is_none_or(grant_holds) && membership.is_none_or(list_holds)
    }

    fn decide(&mut self, asked: Asked, attempt: usize, reply: Reply<Answer>, ctx: &mut Ctx<Self>) {
        if let Request::Epoch(begun) = &asked.request {
            self.take_epoch(begun, asked.from, ctx);
        }
        let Some(cluster) = asked.request.cluster().cloned() else {
            return self.look_up(None, reply, ctx);
        };
        if let Err(why) = self.check_issuer() {
            return reply.send(Answer::Refused { why, current: None });
        }
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
        let current = self.told(&record).grant;
        let presented = self.present(asked.from, &asked.request, &record, count);
        match self.machine.decide(self.now(), &record.cluster, &record, &presented) {
            Decision::Refused(why) => {
                if let Some(suppressed) = self.refusals.pass() {
                    tracing::info!(from = %asked.from.short(), cluster = %record.cluster, %why, suppressed, "refused");
                }
                reply.send(Answer::Refused { why, current });
            }
            Decision::Repeated(grant) => self.answer_granted(self.signed(grant), reply),
            Decision::Alive => reply.send(self.alive(&record, current, &asked.request, count)),
            Decision::RolledBack { seen } => {
                self.fatal(format!(
                    "the register counts {count} changes, and node {} was told of {seen}: the register was brought back from a \
                     copy; say so with `standin auth recall`, and start again",
                    asked.from.short()
                ));
                reply.refuse(CallError::Stopped);
            }
            Decision::Named(next) => self.name(asked, (mark, *next), attempt, reply, ctx),
            Decision::Swap(next) => self.swap(asked, Stored { record, mark }, *next, attempt, reply, ctx),
        }
    }

    /// A cluster goes on from what the chain has ordered for it; then the request is looked at.
    fn name(
        &mut self,
        asked: Asked,
        (mark, next): (u64, Record),
        attempt: usize,
        reply: Reply<Answer>,
        ctx: &mut Ctx<Self>,
    ) {
        let swapped = wrap_future(self.setup.register.swap(mark, next.clone()));
        ctx.spawn(swapped.map(move |swapped, shell: &mut Shell<Self>, ctx| match swapped {
            Err(error) => shell.role.register_failed(error, reply),
            Ok(_) if attempt >= ATTEMPTS_MAX => {
                reply.refuse(CallError::Overloaded { queued: attempt, limit: ATTEMPTS_MAX });
            }
            Ok(Counted { content: is_in, .. }) => {
                if is_in {
                    tracing::warn!(cluster = %next.cluster, term = next.term().0, "goes on as the chain has ordered");
                }
                shell.role.decide(asked, attempt + 1, reply, ctx);
            }
        }));
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
        let newest = self.told(&next).grant;
        let is_new = |signed: &&SignedGrant| before.grant.as_ref() != Some(&signed.grant);
        let Some(granted) = newest.as_ref().filter(is_new) else {
            return reply.send(self.alive(&next, newest, &asked.request, count));
        };
        let Grant { term, cause, .. } = &granted.grant;
        let holder = granted.grant.holder_id();
        tracing::info!(cluster = %next.cluster, term = term.0, holder = %holder.short(), ?cause, "granted");
        match asked.request {
            Request::Recall { .. } => reply.send(self.alive(&next, newest.clone(), &asked.request, count)),
            _ => self.answer_granted(granted.clone(), reply),
        }
        let nodes = self.tell_all(&Notice(granted.clone()));
        tracing::info!(cluster = %next.cluster, term = term.0, nodes, "notified");
    }

    /// A grant of the register, signed. What the chain has ordered is nobody's word.
    fn signed(&self, grant: Grant) -> SignedGrant {
        match grant.cause {
            Cause::Ordered => SignedGrant { grant, signature: Signature::NONE },
            _ => grant.sign(&self.setup.key),
        }
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

    fn answer_granted(&self, grant: SignedGrant, reply: Reply<Answer>) {
        let ticket = self.ticket_of(&grant.grant.cluster).unwrap_or_default();
        reply.send(Answer::Granted { grant, ticket });
    }

    fn alive(&self, record: &Record, newest: Option<SignedGrant>, request: &Request, count: u64) -> Answer {
        let (term, lacks_ticket) = match request {
            Request::KeepAlive(keep_alive) => (keep_alive.term, keep_alive.lacks_ticket),
            _ => (record.term(), false),
        };
        Answer::Alive {
            newer: newest.filter(|newest| newest.grant.term > term),
            register_count: self.counted(count),
            incarnation: self.machine.incarnation(),
            forced: record.forced.or(self.machine.moves_from(self.now(), &record.cluster)),
            recall: record.recalling.is_some(),
            ticket: (lacks_ticket && record.grant.is_some()).then(|| self.ticket_of(&record.cluster)).flatten(),
        }
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
}

impl Role for AuthActor {
    fn started(&mut self, ctx: &mut Ctx<Self>) {
        self.look(ctx);
        ctx.run_interval(LOOK_INTERVAL, |shell, ctx| shell.role.look(ctx));
    }
}

impl Handle<Asked> for AuthActor {
    fn handle(&mut self, asked: Asked, reply: Reply<Answer>, ctx: &mut Ctx<Self>) {
        self.decide(asked, 0, reply, ctx);
    }
}
