//! When the log is cut: first the store must be durable, for the log will not remember.

use standin_foundation::Height;
use standin_ledger::seat_log::SeatFact;
use standin_stage::Ctx;

use super::Replica;
use super::executor::Command;
use crate::effect::Input;

/// Why the store is being made durable.
#[derive(Debug, Default)]
pub(super) struct Barrier {
    pub(super) under_way: bool,
    /// The log is to be cut afterwards.
    pub(super) cuts: bool,
    /// The log waits for blocks up to this height.
    pub(super) wanted: Option<Height>,
}

impl Replica {
    /// Begins to cut the log where it has grown long.
    pub(super) fn consider_cutting(&mut self) {
        // Execution stands still meanwhile, for some hundred ms: not at all seats at one time.
        let seats = self.config.genesis.seats.len() as u64;
        let seat = u64::from(self.config.signer.seat.0) % seats;
        let is_long = self.log_bytes > self.config.log_bytes_max - self.config.log_bytes_max / (2 * seats) * seat;
        if !self.barrier.cuts && is_long && self.speaks() && self.machine.stable() > self.cut_at {
            self.barrier.cuts = true;
            self.begin_barrier();
        }
    }

    /// The log, here or elsewhere in the cluster, waits for blocks to be durable in this node's store.
    pub(super) fn consider_storing(&mut self) {
        if self.barrier.wanted.is_some_and(|height| height <= self.machine.executed()) {
            self.barrier.wanted = None;
            self.begin_barrier();
        }
    }

    fn begin_barrier(&mut self) {
        if !std::mem::replace(&mut self.barrier.under_way, true) {
            self.executor.send(Command::Barrier);
        }
    }

    pub(super) fn barrier_done(&mut self, height: Height, ctx: &mut Ctx<Self>) {
        self.barrier.under_way = false;
        self.tell_log(SeatFact::Stored(height));
        if self.barrier.cuts && height < self.machine.stable() {
            // Blocks became stable meanwhile that the barrier did not cover.
            self.begin_barrier();
        } else if self.barrier.cuts {
            self.cut_at = self.machine.stable();
            self.barrier.cuts = self.speaks();
            self.step(Input::LogFull, ctx);
        }
    }
}
