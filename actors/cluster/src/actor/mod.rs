//! The member's actor: it owns the node's log, speaks with the other members and the auth node, and carries the machine's
//! effects out.
//!
//! The seat's replica hands in records through [`SeatLog`]; what becomes of them comes back as [`SeatLogEvent`]s, in order and
//! without loss. One thread owns the file.

mod links;
mod log_writer;
mod open;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use actix::fut::wrap_future;
use actix::{ActorFutureExt, AsyncContext};
use bytes::Bytes;
use standin_auth::messages::{Answer, Request};
use standin_foundation::{Digest, Millis, NodeId, Term, Writer};
use standin_ledger::seat_log::{FoundLog, LogPiece, SeatFact, SeatLog, SeatLogEvent};
use standin_ledger::{Batch, SignedGrant};
use standin_stage::{
    Address, Alarm, Ctx, Distribution, Handle, Lane, Message as StageMessage, Reply, Reports, Role, Shell, Throttle,
};

pub use links::{Auths, GrantSink, IsMate, Links, OnEvent, Pushed, routes};
pub use open::{MemberConfig, OpenError, Opened};

use crate::effect::without_void;
use crate::machine::{Describe, Description, Member, View};
use crate::messages::{Entry, Message, NodeRecord, Switching};
use crate::{Effect, Event, Input};
use links::{FromMate, Wanted};
use log_writer::{LogCommand, LogReport, LogWriter};

/// Takes what happens to the seat's log. It must not block.
pub type Sink = Box<dyn Fn(SeatLogEvent) + Send>;

/// What the replica hands in.
#[derive(Debug)]
enum FromReplica {
    Append(Writer, Vec<LogPiece>),
    Fact(SeatFact),
}

/// The actor.
pub struct MemberActor {
    member: Member,
    describe: Describe,
    fixed: bool,
    log: LogWriter,
    reports: Reports<LogReport>,
    from_replica: Reports<FromReplica>,
    sink: Sink,
    links: Links,
    /// As whom the replica was told to speak, until it is told otherwise. In later terms of the same holder it goes on: what it
    /// appended before it heard of them stands in the same log.
    activated: Option<Writer>,
    /// Payloads that records of the log carry, and of those that are about to be written.
    payloads: BTreeMap<Digest, Arc<Batch>>,
    started: Instant,
    alarm: Alarm,
    /// When the holder was last suspected, while no other has taken over: a hand-over is told with its time.
    suspected: Option<Instant>,
    took_over: Option<(Term, u64)>,
    refusals: Throttle,
}

impl std::fmt::Debug for MemberActor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemberActor").field("head", &self.member.head().lsn).finish_non_exhaustive()
    }
}

/// The replica's way to its member. It never waits: both may share a thread. What is handed in is bounded by what peers and
/// clients may make the replica log, and is taken out in the member's next turn; there the disk is waited for.
#[derive(Debug, Clone)]
pub struct MemberLog {
    queue: Reports<FromReplica>,
    address: Address<MemberActor>,
}

impl MemberLog {
    fn hand_in(&self, what: FromReplica) {
        self.queue.push(what);
        // A full mailbox has messages with which the queue is looked at; a member that has ended has told the replica why.
        let _ = self.address.tell(Look);
    }
}

impl SeatLog for MemberLog {
    fn append(&self, writer: Writer, pieces: Vec<LogPiece>) {
        self.hand_in(FromReplica::Append(writer, pieces));
    }

    fn tell(&self, fact: SeatFact) {
        self.hand_in(FromReplica::Fact(fact));
    }
}

/// There is something in the member's queues.
#[derive(Debug)]
struct Look;

impl StageMessage for Look {
    type Reply = ();
    const LANE: Lane = Lane::Control;
}

impl Handle<Look> for MemberActor {
    fn handle(&mut self, _: Look, _: Reply<()>, ctx: &mut Ctx<Self>) {
        self.look(ctx);
    }
}

impl Handle<FromMate> for MemberActor {
    fn handle(&mut self, FromMate { from, message, payloads }: FromMate, _: Reply<()>, ctx: &mut Ctx<Self>) {
        self.look(ctx);
        if self.links.admits(&message)
            && let Some(came) = self.take_payloads(&message, payloads)
        {
            self.step(Input::Received { from, message }, ctx);
            // What was not taken is not kept either.
            for digest in came.iter().filter(|digest| !self.member.carries(digest)) {
                self.payloads.remove(digest);
            }
        }
        self.set_timer(ctx);
    }
}

/// A grant of the member's own cluster, checked.
#[derive(Debug)]
pub struct Granted(pub SignedGrant);

impl StageMessage for Granted {
    type Reply = ();
    const LANE: Lane = Lane::Control;
}

impl Handle<Granted> for MemberActor {
    fn handle(&mut self, Granted(grant): Granted, _: Reply<()>, ctx: &mut Ctx<Self>) {
        self.step(Input::Granted(grant), ctx);
        self.set_timer(ctx);
    }
}

/// Who belongs to the cluster from now on, with their priorities.
#[derive(Debug)]
pub struct MembersChanged(pub BTreeMap<NodeId, u8>);

impl StageMessage for MembersChanged {
    type Reply = ();
    const LANE: Lane = Lane::Control;
}

impl Handle<MembersChanged> for MemberActor {
    fn handle(&mut self, MembersChanged(members): MembersChanged, _: Reply<()>, ctx: &mut Ctx<Self>) {
        self.step(Input::Members(members), ctx);
        self.set_timer(ctx);
    }
}

/// The end of a node closed its connection.
#[derive(Debug)]
pub struct LinkDown(pub NodeId);

impl StageMessage for LinkDown {
    type Reply = ();
    const LANE: Lane = Lane::Control;
}

impl Handle<LinkDown> for MemberActor {
    fn handle(&mut self, LinkDown(node): LinkDown, _: Reply<()>, ctx: &mut Ctx<Self>) {
        self.step(Input::LinkDown(node), ctx);
        self.set_timer(ctx);
    }
}

/// Gives the seat up, in favour of a member if one is named. Without effect on one that does not hold it.
#[derive(Debug)]
pub struct Resign(pub Option<NodeId>);

impl StageMessage for Resign {
    type Reply = bool;
    const LANE: Lane = Lane::Control;
}

impl Handle<Resign> for MemberActor {
    fn handle(&mut self, Resign(to): Resign, reply: Reply<bool>, ctx: &mut Ctx<Self>) {
        let holds = self.member.is_active() && !self.fixed;
        if holds {
            self.step(Input::Resign(to), ctx);
            self.set_timer(ctx);
        }
        reply.send(holds);
    }
}

impl Handle<Wanted> for MemberActor {
    fn handle(&mut self, Wanted { from, want }: Wanted, reply: Reply<Switching>, ctx: &mut Ctx<Self>) {
        let may = self.member.is_mate(&from) && self.member.is_active() && !self.fixed;
        if may {
            self.step(Input::Resign(want.0), ctx);
            self.set_timer(ctx);
        }
        reply.send(Switching(may));
    }
}

/// The node is to be taken out of service, or is back.
#[derive(Debug)]
pub struct Drain(pub bool);

impl StageMessage for Drain {
    type Reply = ();
    const LANE: Lane = Lane::Control;
}

impl Handle<Drain> for MemberActor {
    fn handle(&mut self, Drain(drains): Drain, reply: Reply<()>, ctx: &mut Ctx<Self>) {
        self.step(Input::Drain(drains), ctx);
        self.set_timer(ctx);
        reply.send(());
    }
}

/// Asks how the member stands.
#[derive(Debug)]
pub struct AskMember;

/// How a member stands.
#[derive(Debug, Clone)]
pub struct MemberStatus {
    /// The machine.
    pub view: View,
    /// The last term in which this node took the seat over from another, and how long after it had suspected that one, in ms.
    pub took_over: Option<(Term, u64)>,
    /// How long syncs of the log take.
    pub syncs: Distribution,
}

impl StageMessage for AskMember {
    type Reply = MemberStatus;
    const LANE: Lane = Lane::Control;
}

impl Handle<AskMember> for MemberActor {
    fn handle(&mut self, _: AskMember, reply: Reply<MemberStatus>, _: &mut Ctx<Self>) {
        let (view, took_over, syncs) = (self.member.view(), self.took_over, self.log.syncs().clone());
        reply.send(MemberStatus { view, took_over, syncs });
    }
}

impl Role for MemberActor {
    fn started(&mut self, ctx: &mut Ctx<Self>) {
        self.step(Input::Tick, ctx);
        self.look(ctx);
    }

    /// What the replica handed in last is written before the log's thread ends.
    fn stopping(&mut self) {
        for effect in self.take_appends() {
            if let Effect::Write { sequence, record } = effect {
                self.write(sequence, &record);
            }
        }
    }
}

impl MemberActor {
    fn now(&self) -> Millis {
        Millis(self.started.elapsed().as_millis() as u64)
    }

    fn look(&mut self, ctx: &mut Ctx<Self>) {
        while let Some(report) = self.reports.take() {
            match report {
                Ok((durable, bytes)) => {
                    self.step(Input::Persisted(durable), ctx);
                    (self.sink)(SeatLogEvent::Grown(bytes));
                }
                Err(error) => (self.sink)(SeatLogEvent::Failed(error.to_string())),
            }
        }
        let effects = self.take_appends();
        self.carry_out_all(effects, ctx);
        if self.fixed {
            // All of it is written: a seat that one node holds for ever pushes to nobody. Not earlier, since a batch may have
            // been logged twice in one turn.
            self.payloads.clear();
        }
        self.set_timer(ctx);
    }

    /// Takes all that the replica handed in. Records go in together: one push each would cost more than they do.
    fn take_appends(&mut self) -> Vec<Effect> {
        let (mut effects, mut records) = (Vec::new(), Vec::new());
        let now = self.now();
        while let Some(handed_in) = self.from_replica.take() {
            match handed_in {
                FromReplica::Append(writer, pieces) if self.activated.is_some_and(|activated| writer >= activated) => {
                    for LogPiece { record, payload } in pieces {
                        self.payloads.extend(payload.map(|batch| (batch.digest(), batch)));
                        records.push(record);
                    }
                }
                // It comes too late: another writes by now.
                FromReplica::Append(..) => {}
                FromReplica::Fact(fact) => {
                    let appended = Input::Append(std::mem::take(&mut records));
                    effects.extend(self.member.step(now, appended));
                    effects.extend(self.member.step(now, input_of(fact)));
                }
            }
        }
        if !records.is_empty() {
            effects.extend(self.member.step(now, Input::Append(records)));
        }
        effects
    }

    fn step(&mut self, input: Input, ctx: &mut Ctx<Self>) {
        let effects = self.member.step(self.now(), input);
        self.carry_out_all(effects, ctx);
    }

    fn carry_out_all(&mut self, effects: Vec<Effect>, ctx: &mut Ctx<Self>) {
        let mut effects: VecDeque<_> = without_void(effects).collect();
        while let Some(effect) = effects.pop_front() {
            match effect {
                // What follows from it comes after all that came before: records are written in order.
                Effect::State(claim, term) => {
                    let stated = Input::Stated(self.links.sign(claim, term));
                    effects.extend(without_void(self.member.step(self.now(), stated)));
                }
                effect => self.carry_out(effect, ctx),
            }
        }
    }

    fn carry_out(&mut self, effect: Effect, ctx: &mut Ctx<Self>) {
        match effect {
            Effect::Write { sequence, record } => self.write(sequence, &record),
            Effect::Sync => self.log.send(LogCommand::Sync),
            Effect::Send { to, message } => self.send(to, message),
            Effect::Ask(request) => self.ask(request, ctx),
            // Carried out in its place.
            Effect::State(..) => {}
            Effect::Follow(entry) => {
                let (lsn, piece) = (entry.lsn, self.piece_of(&entry));
                (self.sink)(SeatLogEvent::Followed { lsn, piece });
            }
            Effect::Rebuild => {
                self.activated = None;
                let pieces = self.member.entries().map(|entry| self.piece_of(entry)).collect();
                (self.sink)(SeatLogEvent::Rebuild(FoundLog { pieces, next: self.member.head().lsn + 1 }));
            }
            Effect::Activate { writer, start } => {
                self.activated = Some(writer);
                (self.sink)(SeatLogEvent::Activated { writer, start });
            }
            Effect::Rebase { writer, start } => (self.sink)(SeatLogEvent::Rebased { writer, start }),
            Effect::Released { writer, lsn } => (self.sink)(SeatLogEvent::Released { writer, lsn }),
            Effect::Agreed(height) => (self.sink)(SeatLogEvent::Agreed(height)),
            Effect::CutBefore(sequence) => {
                self.log.send(LogCommand::CutBefore(sequence));
                let member = &self.member;
                self.payloads.retain(|digest, _| member.carries(digest));
            }
            Effect::Report(event) => self.report(&event),
        }
    }

    fn piece_of(&self, entry: &Entry) -> LogPiece {
        let carried = (self.describe)(&entry.record).and_then(|description| description.carries);
        let payload = carried.and_then(|(digest, _)| self.payloads.get(&digest).cloned());
        LogPiece { record: entry.record.clone(), payload }
    }

    fn write(&mut self, sequence: u64, record: &NodeRecord) {
        let described = match record {
            NodeRecord::Entry(entry) => (self.describe)(&entry.record).unwrap_or_default(),
            _ => Description::default(),
        };
        if described.base.is_some() {
            // What stands before a run of live records lies in segments of its own, and can be dropped as a whole.
            self.log.send(LogCommand::Roll);
        }
        let carried = described.carries.map(|(digest, _)| self.payloads.get(&digest).ok_or(digest));
        let payload = match carried.transpose() {
            Ok(batch) => batch.map(|batch| batch.payload().clone()).unwrap_or_default(),
            Err(digest) => {
                let why =
                    format!("the payload {digest} of a record of the seat's log is not here: it would be lost (L1)");
                return (self.sink)(SeatLogEvent::Failed(why));
            }
        };
        match log_writer::encode(record) {
            Ok(record) => {
                let may_wait = described.may_wait;
                self.log.send(LogCommand::Append { sequence, record, payload, may_wait });
            }
            Err(error) => (self.sink)(SeatLogEvent::Failed(format!("a record cannot be written: {error}"))),
        }
    }

    /// The payloads that a message's records carry; none if a record is of no known kind.
    fn carried(&self, message: &Message) -> Option<Vec<Digest>> {
        let entries = match message {
            Message::Push { entries, .. } | Message::Tail { entries, .. } => entries.as_slice(),
            _ => &[],
        };
        let described: Option<Vec<_>> = entries.iter().map(|entry| (self.describe)(&entry.record)).collect();
        Some(described?.into_iter().filter_map(|description| description.carries.map(|(digest, _)| digest)).collect())
    }

    /// Keeps the payloads that a message's records carry, and says which were new; none if one is missing, or a record cannot be
    /// read: whoever acknowledged it would be of no use when the holder is lost (L1).
    fn take_payloads(&mut self, message: &Message, payloads: Vec<Bytes>) -> Option<Vec<Digest>> {
        let Some(wanted) = self.carried(message) else {
            tracing::warn!("the holder's log has a record of no known kind: not taken; does it run another version?");
            return None;
        };
        let parsed = payloads.into_iter().filter_map(|payload| Batch::parse(payload).ok());
        let mut came: BTreeMap<_, _> = parsed.map(|batch| (batch.digest(), batch)).collect();
        came.retain(|digest, _| wanted.contains(digest) && !self.payloads.contains_key(digest));
        let missing =
            wanted.iter().filter(|digest| !self.payloads.contains_key(*digest) && !came.contains_key(*digest));
        match missing.count() {
            0 => {
                let new = came.keys().copied().collect();
                self.payloads.extend(came.into_iter().map(|(digest, batch)| (digest, Arc::new(batch))));
                Some(new)
            }
            missing => {
                tracing::warn!(missing, "a push came without the payloads of its records: not taken");
                None
            }
        }
    }

    fn send(&self, to: NodeId, message: Message) {
        let carried = self.carried(&message).unwrap_or_default();
        let payloads =
            carried.iter().filter_map(|digest| self.payloads.get(digest)).map(|batch| batch.payload().clone());
        self.links.send(to, message, payloads.collect());
    }

    fn ask(&self, request: Request, ctx: &mut Ctx<Self>) {
        let asked = wrap_future(self.links.ask(request));
        ctx.spawn(asked.map(|answer, shell: &mut Shell<Self>, ctx| {
            if let Some(answer) = answer {
                shell.role.take_answer(answer, ctx);
            }
        }));
    }

    fn take_answer(&mut self, answer: Answer, ctx: &mut Ctx<Self>) {
        let grant = match &answer {
            Answer::Granted { grant, .. } => Some(grant),
            Answer::Refused { current, .. } => current.as_ref(),
            Answer::Alive { newer, .. } => newer.as_ref(),
            Answer::Actives { .. } => None,
        };
        if grant.is_none_or(|grant| self.links.take_grant(grant)) {
            self.step(Input::Answered(answer), ctx);
            self.set_timer(ctx);
        }
    }

    /// The steps of a hand-over, with the time since the holder was suspected.
    fn report(&mut self, event: &Event) {
        if let Event::Suspected { .. } = event {
            self.suspected.get_or_insert_with(Instant::now);
        }
        let ms = self.suspected.map(|at| at.elapsed().as_millis() as u64);
        (self.links.on_event)(event, ms);
        match event {
            Event::Suspected { term, cause } => tracing::warn!(term = term.0, ?cause, "suspected"),
            Event::Asked { term, what } => tracing::info!(term = term.0, what, ms, "asked"),
            Event::Granted { term, holder, in_sync } => {
                let in_sync = in_sync.iter().map(|node| node.short()).collect::<Vec<_>>().join(" ");
                tracing::info!(term = term.0, holder = %holder.short(), in_sync, ms, "granted");
            }
            Event::Fenced { term } => {
                tracing::info!(term = term.0, ms, "fenced");
                self.suspected = self.suspected.filter(|_| self.member.holder() == Some(self.links.node()));
            }
            Event::Activated { writer } => {
                tracing::info!(term = writer.term.0, incarnation = writer.incarnation.0, ms, "active");
                self.took_over = ms.map(|ms| (writer.term, ms)).or(self.took_over);
                self.suspected = None;
            }
            Event::Refused(why) => {
                if let Some(suppressed) = self.refusals.pass() {
                    tracing::info!(%why, ms, suppressed, "refused");
                }
            }
            Event::CutBack { records } => tracing::info!(records, "log cut back to the holder's"),
            Event::CannotActivate { .. }
            | Event::Contradicted { .. }
            | Event::Disputed { .. }
            | Event::WrongHere { .. }
            | Event::RegisterRolledBack { .. } => tracing::error!(?event, "member"),
        }
    }

    fn set_timer(&mut self, ctx: &mut Ctx<Self>) {
        let (wanted, now) = (self.member.deadline(), self.now());
        self.alarm.set(wanted, now, ctx, |member, ctx| {
            member.alarm.rang();
            member.look(ctx);
            member.step(Input::Tick, ctx);
            member.tell_replica();
            member.set_timer(ctx);
        });
    }

    /// What only the member knows and only the replica can do something about.
    fn tell_replica(&self) {
        if let Some(height) = self.member.wants_stored() {
            (self.sink)(SeatLogEvent::WantsStored(height));
        }
        if let Some((node, executed)) = self.member.furthest_mate().filter(|(_, at)| *at > self.member.executed()) {
            (self.sink)(SeatLogEvent::MateAhead { node, executed });
        }
    }
}

fn input_of(fact: SeatFact) -> Input {
    match fact {
        SeatFact::Executed(height) => Input::Executed(height),
        SeatFact::Stored(height) => Input::Stored(height),
        SeatFact::Computed(height, digest) => Input::Computed(height, digest),
        SeatFact::Decided(height, digest) => Input::Decided(height, digest),
        SeatFact::Proven(height) => Input::Proven(height),
        SeatFact::Final(height) => Input::Final(height),
        SeatFact::SeatsHeard { ages, needed } => Input::SeatsHeard { ages, needed },
    }
}
