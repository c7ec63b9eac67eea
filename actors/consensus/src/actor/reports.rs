//! What the replica is told by its own threads, by its log, and about grants; and what it does then.

use std::time::Instant;

use standin_foundation::{Epoch, Height, Lsn, Seat, Writer};
use standin_ledger::seat_log::{SeatFact, SeatLogEvent};
use standin_ledger::{CheckpointResult, EpochStart};
use standin_stage::{Address, Ctx, Handle, Lane, Message, Reply, Reports};

use super::Replica;
use super::executor::ExecutorReport;
use super::misbehaviour::{Misbehaviour, distorted};
use crate::effect::Input;
use crate::gate::Gate;

/// What the replica's own threads say, and its log.
#[derive(Debug)]
pub(super) enum Report {
    /// The seat's log says what became of it.
    Log(SeatLogEvent),
    /// The executor says what it has done.
    Ledger(ExecutorReport),
}

/// There are reports.
#[derive(Debug)]
struct ReportsWait;

impl Message for ReportsWait {
    type Reply = ();
    const LANE: Lane = Lane::Control;
}

impl Handle<ReportsWait> for Replica {
    fn handle(&mut self, _: ReportsWait, _: Reply<()>, ctx: &mut Ctx<Self>) {
        self.take_reports(ctx);
    }
}

/// A way for reports that must not be lost.
pub(super) fn to_replica(reports: &Reports<Report>, address: &Address<Replica>) -> impl Fn(Report) + Send + use<> {
    let (reports, address) = (reports.clone(), address.clone());
    move |report| {
        reports.push(report);
        // A full mailbox has messages with which the reports are looked at; a replica that has ended wants none.
        let _ = address.tell(ReportsWait);
    }
}

/// A seat, the own one or another, has a new holder.
#[derive(Debug)]
pub struct HolderChanged(pub Seat);

impl Message for HolderChanged {
    type Reply = ();
    const LANE: Lane = Lane::Control;
}

impl Handle<HolderChanged> for Replica {
    fn handle(&mut self, HolderChanged(seat): HolderChanged, _: Reply<()>, ctx: &mut Ctx<Self>) {
        self.take_reports(ctx);
        self.look_for_grant(ctx);
        if seat == self.config.directory.seat {
            self.mempool.begin_anew();
            self.flush_mempool(ctx);
        } else {
            self.step(Input::HolderChanged(seat), ctx);
        }
    }
}

/// An epoch is known that was not.
#[derive(Debug)]
pub struct EpochKnown(pub Epoch);

impl Message for EpochKnown {
    type Reply = ();
    const LANE: Lane = Lane::Control;
}

impl Handle<EpochKnown> for Replica {
    fn handle(&mut self, EpochKnown(epoch): EpochKnown, _: Reply<()>, ctx: &mut Ctx<Self>) {
        self.take_reports(ctx);
        self.epoch_known(epoch, ctx);
    }
}

/// A grant is known that was not.
#[derive(Debug)]
pub struct GrantKnown;

impl Message for GrantKnown {
    type Reply = ();
    const LANE: Lane = Lane::Control;
}

impl Handle<GrantKnown> for Replica {
    fn handle(&mut self, _: GrantKnown, _: Reply<()>, ctx: &mut Ctx<Self>) {
        self.look_for_grant(ctx);
    }
}

impl Replica {
    pub(super) fn take_reports(&mut self, ctx: &mut Ctx<Self>) {
        while let Some(report) = self.reports.take() {
            match report {
                Report::Log(event) => self.log_reported(event, ctx),
                Report::Ledger(report) => self.ledger_reported(report, ctx),
            }
        }
    }

    pub(super) fn log_reported(&mut self, event: SeatLogEvent, ctx: &mut Ctx<Self>) {
        match event {
            // About the disk, and not about what stands in the log: it waits for nothing.
            SeatLogEvent::Grown(bytes) => {
                self.log_bytes = bytes;
                self.consider_cutting();
            }
            SeatLogEvent::Failed(why) => self.fatal(why),
            event if self.must_wait(&event) => self.backlog.push_back(event),
            SeatLogEvent::Rebuild(found) => {
                if self.waits_for.is_some() {
                    // What was to be followed is in the log that is read now, or cut from it.
                    self.backlog.clear();
                }
                self.begin_rebuild(found);
            }
            SeatLogEvent::Activated { writer, start } => self.activate(writer, start, ctx),
            SeatLogEvent::Rebased { writer, start } => {
                self.speak_as(writer, start);
                self.step(Input::Rebased, ctx);
            }
            SeatLogEvent::Released { writer, lsn } => {
                self.released = lsn;
                self.gate.released(writer, lsn);
                self.release();
                self.set_timer(ctx);
            }
            SeatLogEvent::Followed { lsn, piece } => self.follow(lsn, piece, ctx),
            SeatLogEvent::Agreed(height) => self.step(Input::ResultAgreed(height), ctx),
            SeatLogEvent::WantsStored(height) => {
                self.barrier.wanted = Some(height);
                self.consider_storing();
            }
            SeatLogEvent::MateAhead { node, executed } => self.note_mate(node, executed, ctx),
        }
    }

    fn speak_as(&mut self, writer: Writer, start: Lsn) {
        (self.config.signer.writer, self.config.signer.start) = (writer, start);
        self.gate = Gate::new(writer);
    }

    /// Speaks for the seat from now on.
    fn activate(&mut self, writer: Writer, start: Lsn, ctx: &mut Ctx<Self>) {
        self.speak_as(writer, start);
        self.began_to_speak = Some(Instant::now());
        // As a follower it was told of the holder before, which may be gone.
        self.mate_ahead = None;
        // What was paused was this node as the holder it had been.
        self.paused = false;
        self.step(Input::Activated, ctx);
        self.mempool.begin_anew();
        self.flush_mempool(ctx);
    }

    /// A result is voted for when all members have computed the same.
    pub(super) fn note_result(
        &mut self,
        height: Height,
        checkpoint: Option<CheckpointResult>,
        ordered: Option<EpochStart>,
        ctx: &mut Ctx<Self>,
    ) {
        self.step(Input::Executed { height, checkpoint, ordered }, ctx);
        if let Some(result) = checkpoint {
            self.tell_log(SeatFact::Computed(height, result.digest()));
        }
    }

    /// What waits for the epoch can be judged.
    pub(super) fn epoch_known(&mut self, epoch: Epoch, ctx: &mut Ctx<Self>) {
        self.epoch_told = self.epoch_told.max(epoch);
        self.step(Input::EpochKnown(epoch), ctx);
        (self.config.on_epoch)();
        self.look_for_grant(ctx);
    }

    fn ledger_reported(&mut self, report: ExecutorReport, ctx: &mut Ctx<Self>) {
        match report {
            ExecutorReport::Executed { height, checkpoint, ordered, receipts } => {
                self.counters.blocks += 1;
                self.counters.transactions += receipts.len() as u64;
                if let Some(before) = self.times.executed.replace(Instant::now()) {
                    self.times.block_interval.record(before.elapsed());
                }
                self.mempool.executed(height, receipts, &self.times.commit);
                (self.config.on_executed)(height);
                let wrong = self.config.misbehaviour == Some(Misbehaviour::WrongResult) && self.speaks();
                let checkpoint = if wrong { checkpoint.map(distorted) } else { checkpoint };
                self.computed.extend(checkpoint.map(|result| (height, result)));
                self.note_result(height, checkpoint, ordered, ctx);
                self.consider_storing();
                self.flush_mempool(ctx);
            }
            ExecutorReport::Installed { certificate, epochs } => {
                self.mempool.skipped_to(certificate.result.height);
                (self.config.on_executed)(certificate.result.height);
                self.step(Input::SnapshotInstalled { certificate, epochs }, ctx);
                self.epoch_known(self.config.directory.book.epoch(), ctx);
                self.consider_storing();
                self.flush_mempool(ctx);
            }
            ExecutorReport::EpochKnown(epoch) => self.epoch_known(epoch, ctx),
            ExecutorReport::BarrierDone(height) => self.barrier_done(height, ctx),
            ExecutorReport::Looked(stored) => self.looked(stored, ctx),
            ExecutorReport::Failed(error) => self.fatal(error.to_string()),
        }
    }
}
