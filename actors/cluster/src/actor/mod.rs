//! The member's actor: it owns the node's log, and carries the machine's effects out.
//!
//! The seat's replica hands in records through [`SeatLog`]; what becomes of them comes back as [`SeatLogEvent`]s, in order and
//! without loss. One thread owns the file.

mod log_writer;

use std::path::PathBuf;
use std::time::Instant;

use bytes::Bytes;
use standin_foundation::{Digest, Height, Millis, Writer};
use standin_ledger::log::{Log, LogError, LogOptions};
use standin_ledger::seat_log::{FoundLog, LogPiece, SeatLog, SeatLogEvent};
use standin_stage::{Address, Alarm, Ctx, Handle, Lane, Message, Reply, Reports, Role};

use crate::machine::{Describe, Found, Identity, Member};
use crate::messages::NodeRecord;
use crate::{Config, Effect, Input};
use log_writer::{LogCommand, LogReport, LogWriter};

/// Takes what happens to the seat's log. It must not block.
pub type Sink = Box<dyn Fn(SeatLogEvent) + Send>;

/// Why a member cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A record that this version does not know.
    #[error("record {sequence} of the log is of no known kind: it was written by another version")]
    UnknownRecord {
        /// Its number.
        sequence: u64,
    },
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// What a member is made of.
#[derive(Debug)]
pub struct MemberConfig {
    /// The node and its cluster.
    pub identity: Identity,
    /// The machine's numbers.
    pub config: Config,
    /// How the replica's records are read.
    pub describe: Describe,
    /// Where the log lies.
    pub folder: PathBuf,
    /// Size of a log segment, in bytes.
    pub segment_bytes: u64,
    /// The chain's genesis digest.
    pub chain: Digest,
}

/// What the replica hands in.
#[derive(Debug)]
enum FromReplica {
    Append(Writer, Vec<LogPiece>),
    Stored(Height),
}

/// The actor.
pub struct MemberActor {
    member: Member,
    describe: Describe,
    log: LogWriter,
    reports: Reports<LogReport>,
    from_replica: Reports<FromReplica>,
    sink: Sink,
    /// Payloads of records that are about to be written.
    payload: Bytes,
    started: Instant,
    alarm: Alarm,
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

    fn stored(&self, height: Height) {
        self.hand_in(FromReplica::Stored(height));
    }
}

/// An open log, before there is an actor.
#[derive(Debug)]
pub struct Opened {
    log: Log,
    member: Member,
    describe: Describe,
}

impl Opened {
    /// Opens the log, and reads what it holds.
    pub fn open(config: MemberConfig) -> Result<(Self, FoundLog), OpenError> {
        let options = LogOptions { segment_bytes: config.segment_bytes, chain: config.chain };
        let (log, recovered) = Log::open(&config.folder, options)?;
        if let Some((path, offset)) = &recovered.torn_at {
            tracing::warn!(path = %path.display(), offset, "a torn tail of the log was cut: what was in it never left");
        }
        let mut records = Vec::with_capacity(recovered.records.len());
        let mut payloads = std::collections::BTreeMap::new();
        for (sequence, bytes) in &recovered.records {
            let (record, payload) =
                log_writer::decode(bytes).ok_or(OpenError::UnknownRecord { sequence: *sequence })?;
            if let NodeRecord::Entry(entry) = &record {
                payloads.insert(entry.lsn, payload);
            }
            records.push((*sequence, record));
        }
        let found = Found {
            records,
            next_sequence: log.next(),
            torn: recovered.torn_at.is_some(),
            // Any number that no log of this node had before: a deleted one cannot be asked.
            new_session: fastrand::u64(1..),
        };
        let MemberConfig { identity, config, describe, .. } = config;
        let mut member = Member::open(identity, config, describe, found, Millis(0));
        let piece = |entry: &crate::Entry| LogPiece {
            record: entry.record.clone(),
            payload: payloads.remove(&entry.lsn).unwrap_or_default(),
        };
        let found = FoundLog { pieces: member.entries().map(piece).collect(), next: member.head().lsn + 1 };
        member.forget_contents();
        Ok((Self { log, member, describe }, found))
    }

    /// The member's actor, and the replica's way to it. `sink` is told what happens to the log.
    pub fn start(self, address: Address<MemberActor>, sink: Sink) -> Result<(MemberActor, MemberLog), OpenError> {
        let reports = Reports::default();
        let (sender, to) = (reports.clone(), address.clone());
        let log = LogWriter::start(self.log, move |report| {
            sender.push(report);
            // A full mailbox has messages with which the reports are looked at; a member that has ended wants none.
            let _ = to.tell(Look);
        })?;
        let from_replica = Reports::default();
        let queue = from_replica.clone();
        let actor = MemberActor {
            member: self.member,
            describe: self.describe,
            log,
            reports,
            from_replica,
            sink,
            payload: Bytes::new(),
            started: Instant::now(),
            alarm: Alarm::default(),
        };
        Ok((actor, MemberLog { queue, address }))
    }
}

/// There is something in the member's queues.
#[derive(Debug)]
struct Look;

impl Message for Look {
    type Reply = ();
    const LANE: Lane = Lane::Control;
}

impl Handle<Look> for MemberActor {
    fn handle(&mut self, _: Look, _: Reply<()>, ctx: &mut Ctx<Self>) {
        self.look(ctx);
    }
}

impl Role for MemberActor {
    fn started(&mut self, ctx: &mut Ctx<Self>) {
        self.step(Input::Tick);
        self.look(ctx);
    }

    /// What the replica handed in last is written before the log's thread ends.
    fn stopping(&mut self) {
        self.take_from_replica();
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
                    self.step(Input::Persisted(durable));
                    (self.sink)(SeatLogEvent::Grown(bytes));
                }
                Err(error) => (self.sink)(SeatLogEvent::Failed(error.to_string())),
            }
        }
        self.take_from_replica();
        self.set_timer(ctx);
    }

    fn take_from_replica(&mut self) {
        while let Some(handed_in) = self.from_replica.take() {
            match handed_in {
                FromReplica::Append(writer, pieces) => self.append(writer, pieces),
                FromReplica::Stored(height) => self.step(Input::Stored(height)),
            }
        }
    }

    fn append(&mut self, writer: Writer, pieces: Vec<LogPiece>) {
        if self.member.active_writer() != Some(writer) {
            return;
        }
        // A base ends a run of live records: what stands before lies in segments of its own, and can be dropped as a whole.
        if pieces.iter().any(|piece| (self.describe)(&piece.record).base.is_some()) {
            self.log.send(LogCommand::Roll);
        }
        for LogPiece { record, payload } in pieces {
            self.payload = payload;
            self.step(Input::Append(vec![record]));
        }
    }

    fn step(&mut self, input: Input) {
        let effects = self.member.step(self.now(), input);
        for effect in effects {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Write { sequence, record } => self.write(sequence, &record),
            Effect::Activate { writer, start } => (self.sink)(SeatLogEvent::Activated { writer, start }),
            Effect::Released { writer, lsn } => (self.sink)(SeatLogEvent::Released { writer, lsn }),
            Effect::CutBefore(sequence) => self.log.send(LogCommand::CutBefore(sequence)),
            Effect::Report(event) => tracing::info!(?event, "member"),
            // A seat that one node holds for ever has nobody to send to, to ask or to follow.
            Effect::Send { .. }
            | Effect::Ask(_)
            | Effect::State(..)
            | Effect::Follow(_)
            | Effect::Agreed(_)
            | Effect::Rebuild
            | Effect::Rebase { .. } => {}
        }
    }

    fn write(&mut self, sequence: u64, record: &NodeRecord) {
        let payload = match record {
            NodeRecord::Entry(_) => std::mem::take(&mut self.payload),
            _ => Bytes::new(),
        };
        match log_writer::encode(record) {
            Ok(encoded) => self.log.send(LogCommand::Append(sequence, encoded, payload)),
            Err(error) => (self.sink)(SeatLogEvent::Failed(format!("a record cannot be written: {error}"))),
        }
    }

    fn set_timer(&mut self, ctx: &mut Ctx<Self>) {
        let (wanted, now) = (self.member.deadline(), self.now());
        self.alarm.set(wanted, now, ctx, |member, ctx| {
            member.alarm.rang();
            member.step(Input::Tick);
            member.look(ctx);
        });
    }
}
