//! How a replica stands, for people and metrics.

use std::collections::BTreeMap;
use std::time::Instant;

use standin_foundation::{Height, Lsn, Seat};
use standin_stage::{Ctx, Distribution, Handle, Lane, Message, Reply};

use super::{HEARD_WITHIN, Replica};
use crate::machine::SlotView;
use crate::messages::Status;

/// Places in the order that a status shows.
const SLOTS_SHOWN: usize = 8;

/// Counters of a replica, for metrics.
#[derive(Debug, Default, Clone)]
pub struct Counters {
    /// Blocks executed since the start.
    pub blocks: u64,
    /// Transactions that took a place in a block since the start.
    pub transactions: u64,
    /// Views that were left.
    pub view_changes: u64,
    /// Seats that were found to contradict themselves.
    pub equivocations: u64,
    /// Results of other seats that differ from a quorum's.
    pub wrong_results: u64,
    /// Transfers that were refused.
    pub bad_transfers: u64,
    /// Times that catch-up began.
    pub catch_ups: u64,
}

/// How long things take at a replica.
#[derive(Debug, Default, Clone)]
pub struct Times {
    /// From a transaction's submission at this node to its outcome.
    pub commit: Distribution,
    /// From one block to the next.
    pub block_interval: Distribution,
    /// When the last block was executed.
    pub(super) executed: Option<Instant>,
}

/// A replica at one moment.
#[derive(Debug, Clone)]
pub struct ReplicaStatus {
    /// Its seat.
    pub seat: Seat,
    /// Whether it speaks for the seat now.
    pub speaks: bool,
    /// The chain has removed its cluster: it stands still.
    pub removed: bool,
    /// It says nothing to other seats until it is told to.
    pub paused: bool,
    /// Where it stands.
    pub status: Status,
    /// The last block of its epoch, once the next one has been ordered.
    pub epoch_ends: Option<Height>,
    /// The seat that leads its view.
    pub primary: Seat,
    /// Up to here blocks have been executed.
    pub executed: Height,
    /// Batches that wait for their order: number and bytes.
    pub pending: (usize, usize),
    /// Transactions of clients that wait for an outcome.
    pub waiting: usize,
    /// Messages that wait for the log.
    pub gated: usize,
    /// The log is released up to this record.
    pub released: Lsn,
    /// Bytes of the log.
    pub log_bytes: u64,
    /// What the other seats say of where they stand, and whether they are connected.
    pub peers: BTreeMap<Seat, (Status, bool)>,
    /// The newest places in the order, and what they wait for.
    pub slots: Vec<SlotView>,
    /// Other seats of which anything came within the last second.
    pub heard: usize,
    /// Counters.
    pub counters: Counters,
    /// How long things take.
    pub times: Times,
}

impl Replica {
    fn status(&self) -> ReplicaStatus {
        let directory = &self.config.directory;
        let connected = |seat: Seat| directory.holder(seat).is_some_and(|holder| holder.is_connected());
        let statuses = self.machine.statuses();
        let peer = |seat: Seat| (statuses.get(&seat).copied().unwrap_or_default(), connected(seat));
        ReplicaStatus {
            seat: self.config.signer.seat,
            speaks: self.speaks(),
            removed: self.machine.is_halted(),
            paused: self.paused,
            status: self.machine.status(),
            epoch_ends: self.machine.epoch_ends(),
            primary: self.machine.primary(),
            executed: self.machine.executed(),
            pending: self.machine.pending(),
            waiting: self.mempool.waiting(),
            gated: self.gate.len(),
            released: self.released,
            log_bytes: self.log_bytes,
            peers: directory.other_seats().map(|seat| (seat, peer(seat))).collect(),
            slots: self.machine.newest_slots(SLOTS_SHOWN),
            heard: self.heard.values().filter(|at| at.elapsed() < HEARD_WITHIN).count(),
            counters: self.counters.clone(),
            times: self.times.clone(),
        }
    }
}

/// Asks how the replica stands.
#[derive(Debug)]
pub struct AskStatus;

impl Message for AskStatus {
    type Reply = ReplicaStatus;
    const LANE: Lane = Lane::Control;
}

impl Handle<AskStatus> for Replica {
    fn handle(&mut self, _: AskStatus, reply: Reply<ReplicaStatus>, _: &mut Ctx<Self>) {
        reply.send(self.status());
    }
}

/// An operator has the replica say nothing to other seats, or speak again.
#[derive(Debug)]
pub struct Pause(pub bool);

impl Message for Pause {
    type Reply = ();
    const LANE: Lane = Lane::Control;
}

impl Handle<Pause> for Replica {
    fn handle(&mut self, Pause(paused): Pause, reply: Reply<()>, _: &mut Ctx<Self>) {
        // What was lost meanwhile is said again with the next status, as on a link that is back.
        self.paused = paused;
        reply.send(());
    }
}
