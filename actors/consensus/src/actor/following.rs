//! A replica that follows its seat's holder: records as events, what must wait, and the log that is read anew.

use standin_foundation::wire::Wire;
use standin_foundation::{Epoch, Height, Lsn, Millis, NodeId, Seat, Term};
use standin_ledger::GrantBook;
use standin_ledger::error::LedgerError;
use standin_ledger::seat_log::{FoundLog, LogPiece, SeatLogEvent};
use standin_stage::Ctx;

use super::Replica;
use super::executor::Command;
use super::open::{DecodedLog, Restored, Stored, check_proven};
use crate::effect::Input;
use crate::gate::Gate;
use crate::messages::{Note, Status};
use crate::record::Record;

/// Why what the log says has to wait.
#[derive(Debug)]
pub(super) enum WaitsFor {
    /// The log is being read anew: the executor is to say what the store holds.
    Store(DecodedLog),
    /// The log has been read, and waits to be judged: at the start of the node, or because of a grant.
    Judgement(Box<(DecodedLog, Stored)>, Option<Missing>),
    /// A followed certificate cannot be judged before a grant, or an epoch, is known.
    Grant(Missing),
}

/// What so many were asked for, over so many ms, is one that nobody has.
const GIVEN_UP_AFTER: (usize, u64) = (16, 10_000);

/// What a certificate cannot be judged without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lacking {
    Grant(Seat, Term),
    Epoch(Epoch),
}

impl Lacking {
    fn of(error: &LedgerError) -> Option<Self> {
        match error {
            LedgerError::UnknownGrant { seat, term } => Some(Self::Grant(*seat, *term)),
            LedgerError::UnknownEpoch(epoch) => Some(Self::Epoch(*epoch)),
            _ => None,
        }
    }

    fn is_lacking(self, book: &GrantBook) -> bool {
        match self {
            Self::Grant(seat, term) => book.lacks(seat, term),
            Self::Epoch(epoch) => book.epoch() < epoch,
        }
    }

    /// How it is asked for: epochs one after the other.
    fn question(self, book: &GrantBook) -> Note {
        match self {
            Self::Grant(seat, term) => Note::WantGrant(seat, term),
            Self::Epoch(_) => Note::FetchEpoch(book.epoch().next()),
        }
    }
}

/// Something that is not known here. Whoever is asked for it is another one each time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Missing {
    what: Lacking,
    since: Millis,
    /// How often another node was asked.
    asked: usize,
}

impl Missing {
    fn new(what: Lacking, since: Millis) -> Self {
        Self { what, since, asked: 0 }
    }
}

impl WaitsFor {
    fn missing(&mut self) -> Option<&mut Missing> {
        match self {
            Self::Store(_) => None,
            Self::Judgement(_, missing) => missing.as_mut(),
            Self::Grant(missing) => Some(missing),
        }
    }
}

impl Replica {
    pub(super) fn is_rebuilding(&self) -> bool {
        matches!(self.waits_for, Some(WaitsFor::Store(_) | WaitsFor::Judgement(..)))
    }

    /// Whether what the log says comes after something that waits. A log that is to be read anew stands for all that waits for a
    /// grant; not while the executor is asked for another one, since its answer belongs to that.
    pub(super) fn must_wait(&self, event: &SeatLogEvent) -> bool {
        match (&self.waits_for, event) {
            (None, _) => false,
            (Some(WaitsFor::Judgement(..) | WaitsFor::Grant(_)), SeatLogEvent::Rebuild(_)) => false,
            (Some(_), _) => true,
        }
    }

    pub(super) fn follow(&mut self, lsn: Lsn, piece: LogPiece, ctx: &mut Ctx<Self>) {
        let record = match Record::from_wire(&piece.record) {
            Ok(record) => record,
            Err(error) => return self.fatal(format!("record {lsn} of the seat's log is of no known kind: {error}")),
        };
        let proven = check_proven(&record, &self.config.directory.book);
        let lacking = proven.as_ref().err().and_then(Lacking::of);
        match lacking.filter(|what| !self.may_do_without(&record, *what)) {
            Some(what) => {
                self.backlog.push_front(SeatLogEvent::Followed { lsn, piece });
                self.waits_for = Some(WaitsFor::Grant(Missing::new(what, self.now())));
                self.look_for_grant(ctx);
            }
            None => {
                self.payloads.extend(piece.payload.map(|batch| (batch.digest(), batch)));
                let record = proven.map(|()| record).inspect_err(|error| self.tell_unproven(lsn, error)).ok();
                self.step(Input::Followed { lsn, record }, ctx);
            }
        }
    }

    /// A block or a checkpoint that the log says to be final and that is not proven is no vote of the seat: it is left out, and
    /// comes from others if there is anything to it. Its holder is faulty, or was.
    fn tell_unproven(&self, lsn: Lsn, error: &LedgerError) {
        if let Some(suppressed) = self.warnings.pass() {
            tracing::error!(lsn, %error, suppressed, "the seat's log says something to be final that is not proven: left out");
        }
    }

    /// A block whose proof needs a grant that nobody has is left out: it comes from others. A stable checkpoint is waited for, since
    /// what the seat has prepared counts from there on.
    fn may_do_without(&self, record: &Record, what: Lacking) -> bool {
        matches!(record, Record::Committed { .. }) && self.given_up.contains(&what)
    }

    /// Goes on where a grant was missing, or asks another node for it.
    pub(super) fn look_for_grant(&mut self, ctx: &mut Ctx<Self>) {
        let now = self.now();
        let Some(missing) = self.waits_for.as_mut().and_then(WaitsFor::missing) else { return };
        let directory = &self.config.directory;
        if missing.what.is_lacking(&directory.book) {
            let connected = directory.connected();
            if let Some(remote) = connected.get(missing.asked % connected.len().max(1)) {
                // Whoever is asked next time is another one.
                missing.asked += usize::from(remote.tell(&missing.what.question(&directory.book)).is_ok());
            }
            let (often, long) = GIVEN_UP_AFTER;
            if missing.asked < often || missing.since + long > now {
                return;
            }
            self.given_up.insert(missing.what);
        }
        if self.is_rebuilding() {
            self.judge(ctx);
        } else {
            self.waits_for = None;
            self.take_backlog(ctx);
        }
    }

    fn take_backlog(&mut self, ctx: &mut Ctx<Self>) {
        while self.waits_for.is_none()
            && let Some(event) = self.backlog.pop_front()
        {
            self.log_reported(event, ctx);
        }
    }

    /// A member that has executed more can be asked for blocks, as any other seat could.
    pub(super) fn note_mate(&mut self, node: NodeId, executed: Height, ctx: &mut Ctx<Self>) {
        self.mate_ahead = Some(node);
        if self.speaks() && executed > self.machine.executed() {
            let status = Status { stable: executed, committed: executed, ..Status::default() };
            self.step(Input::StatusReceived(self.config.directory.seat, status), ctx);
        }
    }

    /// The log is another one: the machine is built anew from it, and from what the store holds once everything that was
    /// handed to the executor is done.
    pub(super) fn begin_rebuild(&mut self, found: FoundLog) {
        self.gate = Gate::default();
        match DecodedLog::read(found) {
            Ok(log) => {
                self.executor.send(Command::Look(log.stable(&self.config.directory.book)));
                self.waits_for = Some(WaitsFor::Store(log));
            }
            Err(error) => self.fatal(error.to_string()),
        }
    }

    /// The executor says what the store holds.
    pub(super) fn looked(&mut self, stored: Stored, ctx: &mut Ctx<Self>) {
        if let Some(WaitsFor::Store(log)) = self.waits_for.take() {
            self.waits_for = Some(WaitsFor::Judgement(Box::new((log, stored)), None));
            self.judge(ctx);
        }
    }

    /// Judges the log that was read as a followed one is judged, and goes on from it.
    pub(super) fn judge(&mut self, ctx: &mut Ctx<Self>) {
        let Some(WaitsFor::Judgement(read, _)) = self.waits_for.take() else { return };
        let (mut log, stored) = *read;
        let unproven = log.unproven(&stored, &self.config.directory.book);
        for (place, error) in &unproven {
            if let Some(what) = Lacking::of(error)
                && !log.record(*place).is_some_and(|record| self.may_do_without(record, what))
            {
                let missing = Missing::new(what, self.now());
                self.waits_for = Some(WaitsFor::Judgement(Box::new((log, stored)), Some(missing)));
                return self.look_for_grant(ctx);
            }
        }
        for (place, error) in unproven.iter().rev() {
            self.tell_unproven(log.leave_out(*place), error);
        }
        match self.restoring.restore(log, stored, self.config.directory.book.epoch(), self.now()) {
            Ok(Restored { machine, payloads }) => (self.machine, self.payloads) = (machine, payloads),
            Err(error) => return self.fatal(error.to_string()),
        }
        for result in self.computed.clone().into_values() {
            let height = result.height;
            self.step(Input::Executed { height, checkpoint: Some(result), ordered: None }, ctx);
        }
        self.step(Input::Tick, ctx);
        self.take_backlog(ctx);
    }
}
