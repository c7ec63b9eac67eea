//! Checkpoints: results are compared, and what is proven makes room.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use standin_foundation::{Height, Seat};
use standin_ledger::certificate::{CheckpointCertificate, CheckpointResult, SeatVote};

use super::*;

/// Votes of one seat that are kept: checkpoints may lie closer than the interval, but not without bound.
const VOTES_PER_SEAT_MAX: usize = 16;
/// Stable certificates that are kept, to judge votes that come late.
const CERTIFICATES_MAX: usize = 8;

/// Votes and certificates.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    stable: Option<CheckpointCertificate>,
    /// What this seat has voted for above the stable checkpoint.
    own: BTreeMap<Height, CheckpointResult>,
    /// What this node has computed above the stable checkpoint.
    computed: BTreeMap<Height, CheckpointResult>,
    last_taken: Height,
    /// Results that were agreed on, of blocks beyond the current epoch.
    postponed: BTreeSet<Height>,
    votes: BTreeMap<Seat, BTreeMap<Height, (CheckpointResult, SeatVote)>>,
    /// Proven, but not reached by execution.
    ahead: Option<CheckpointCertificate>,
    past: VecDeque<CheckpointCertificate>,
}

impl Checkpoints {
    pub(super) fn stable(&self) -> Option<&CheckpointCertificate> {
        self.stable.as_ref()
    }

    pub(super) fn stable_height(&self) -> Height {
        self.stable.as_ref().map_or(Height(0), |certificate| certificate.result.height)
    }

    /// Height of the last checkpoint that this replica took or saw proven.
    pub(super) fn last_taken(&self) -> Height {
        self.last_taken.max(self.stable_height())
    }

    pub(super) fn own(&self) -> impl DoubleEndedIterator<Item = &CheckpointResult> {
        self.own.values()
    }

    /// The certificate for `height`, if it is still known.
    fn certificate(&self, height: Height) -> Option<&CheckpointCertificate> {
        self.past.iter().chain(&self.ahead).find(|certificate| certificate.result.height == height)
    }

    /// Own results from the log.
    pub(super) fn restore_own(&mut self, result: CheckpointResult) {
        self.last_taken = self.last_taken.max(result.height);
        self.own.insert(result.height, result);
    }

    pub(super) fn set_stable(&mut self, certificate: CheckpointCertificate) {
        let height = certificate.result.height;
        self.own.retain(|at, _| *at > height);
        self.computed.retain(|at, _| *at > height);
        for votes in self.votes.values_mut() {
            votes.retain(|at, _| *at > height);
        }
        self.ahead = self.ahead.take().filter(|ahead| ahead.result.height > height);
        self.past.push_back(certificate.clone());
        if self.past.len() > CERTIFICATES_MAX {
            self.past.pop_front();
        }
        self.stable = Some(certificate);
    }

    /// Forgets what seats have said in an epoch that has ended.
    pub(super) fn leave_epoch(&mut self) {
        self.votes.clear();
        self.own.clear();
    }

    /// Results that could not be voted for before their epoch began.
    pub(super) fn take_postponed(&mut self) -> BTreeSet<Height> {
        std::mem::take(&mut self.postponed)
    }

    fn note(&mut self, result: CheckpointResult, vote: SeatVote) {
        let votes = self.votes.entry(vote.seat).or_default();
        votes.entry(result.height).or_insert((result, vote));
        if votes.len() > VOTES_PER_SEAT_MAX {
            votes.pop_first();
        }
    }

    fn votes_for(&self, result: &CheckpointResult) -> Vec<SeatVote> {
        let vote = |votes: &BTreeMap<Height, (CheckpointResult, SeatVote)>| {
            votes.get(&result.height).filter(|(voted, _)| voted == result).map(|(_, vote)| vote.clone())
        };
        self.votes.values().filter_map(vote).collect()
    }
}

impl Machine {
    pub(super) fn on_executed(
        &mut self,
        height: Height,
        checkpoint: Option<CheckpointResult>,
        ordered: Option<EpochStart>,
    ) {
        if let Some(start) = ordered {
            self.epochs.note(start);
            self.begin_due_epochs();
        }
        let was_behind = self.executed < self.stable();
        self.executed = self.executed.max(height);
        if was_behind && self.is_normal() {
            self.assign_required(self.required_proposals());
            self.consider_all_parked();
        }
        match (checkpoint, self.checkpoints.certificate(height).cloned()) {
            (Some(result), Some(certificate)) if !self.agrees(&result, &certificate) => return,
            // Executed again after a restart, behind what is proven.
            (Some(_), Some(certificate)) if height <= self.stable() => {
                self.effects.push(Effect::Stabilize(certificate));
            }
            (Some(result), _) if height > self.stable() => {
                self.checkpoints.last_taken = self.checkpoints.last_taken.max(height);
                self.checkpoints.computed.insert(height, result);
            }
            _ => {}
        }
        self.adopt_ahead();
    }

    pub(super) fn on_result_agreed(&mut self, height: Height) {
        if height <= self.start.after {
            // Of an epoch that has ended.
            return;
        }
        if self.is_beyond(height) {
            self.checkpoints.postponed.insert(height);
        } else if let Some(result) = self.checkpoints.computed.get(&height).copied() {
            self.vote_for_result(result);
        }
    }

    fn vote_for_result(&mut self, result: CheckpointResult) {
        if let Some(voted) = self.checkpoints.own.get(&result.height).copied().filter(|voted| *voted != result) {
            // A seat says one thing, or nothing more.
            self.report(Event::Disputed { computed: result, voted });
            return;
        }
        self.checkpoints.restore_own(result);
        let lsn = self.log(Record::Checkpoint(result));
        self.send(Recipient::All, Body::Checkpoint(result), lsn);
    }

    /// Whether the own result is the proven one; stops the replica if not.
    fn agrees(&mut self, own: &CheckpointResult, certificate: &CheckpointCertificate) -> bool {
        if *own == certificate.result || self.mutation == Some(Mutation::IgnoreOwnResult) {
            return true;
        }
        self.halt(Event::Diverged { own: *own, certificate: Box::new(certificate.clone()) });
        false
    }

    pub(super) fn on_checkpoint(&mut self, vote: SeatVote, result: CheckpointResult) {
        if let Some(certificate) = self.checkpoints.certificate(result.height).cloned() {
            self.compare(&result, &vote, &certificate);
            return;
        }
        let highest = self.stable().plus(2 * self.identity.parameters.window);
        if result.height <= self.stable() || result.height > highest || self.is_beyond(result.height) {
            return;
        }
        let own = vote.seat == self.identity.seat;
        self.checkpoints.note(result, vote);
        let votes = self.checkpoints.votes_for(&result);
        let others = votes.iter().filter(|vote| vote.seat != self.identity.seat).count();
        if !own && others == self.faulty_max() + 1 {
            self.effects.push(Effect::ResultBacked(result));
        }
        if votes.len() >= self.quorum() {
            self.proven(CheckpointCertificate { epoch: self.start.epoch, result, votes });
        }
    }

    /// Reports a seat whose result is not the proven one.
    fn compare(&mut self, result: &CheckpointResult, vote: &SeatVote, certificate: &CheckpointCertificate) {
        if *result != certificate.result && vote.seat != self.identity.seat {
            self.report(Event::WrongResult {
                seat: vote.seat,
                result: *result,
                vote: vote.clone(),
                certificate: Box::new(certificate.clone()),
            });
        }
    }

    pub(super) fn on_stable_certificate(&mut self, certificate: CheckpointCertificate) {
        if certificate.result.height > self.stable() {
            self.proven(certificate);
        }
    }

    fn proven(&mut self, certificate: CheckpointCertificate) {
        let height = certificate.result.height;
        let differing: Vec<_> =
            self.checkpoints.votes.values().filter_map(|votes| votes.get(&height)).cloned().collect();
        for (result, vote) in differing {
            self.compare(&result, &vote, &certificate);
        }
        if let Some(computed) = self.checkpoints.computed.get(&height).copied()
            && !self.agrees(&computed, &certificate)
        {
            return;
        }
        if self.checkpoints.ahead.as_ref().is_none_or(|ahead| ahead.result.height < height) {
            self.checkpoints.ahead = Some(certificate);
        }
        self.adopt_ahead();
    }

    /// Whether this node has computed another result than its seat has voted for, under an earlier holder.
    pub(super) fn is_disputed(&self, voted: &CheckpointResult) -> bool {
        self.checkpoints.computed.get(&voted.height).is_some_and(|computed| computed != voted)
    }

    /// What the holder before had as stable is stable, also if execution here has not come so far: what is voted on lies
    /// in the window above it.
    pub(super) fn adopt_logged_stable(&mut self) {
        let logged = self.checkpoints.ahead.as_ref().filter(|ahead| ahead.result.height > self.stable());
        if let Some(certificate) = logged.cloned() {
            self.required = self.required.split_off(&certificate.result.height.next());
            self.checkpoints.set_stable(certificate);
        }
    }

    /// A proven checkpoint becomes stable here once execution has reached it.
    fn adopt_ahead(&mut self) {
        let reached = self.checkpoints.ahead.as_ref().filter(|ahead| ahead.result.height <= self.executed);
        if let Some(certificate) = reached.cloned() {
            self.stabilize(certificate);
        }
    }

    /// Logs that a checkpoint is stable, unless the log says so of a later one.
    pub(super) fn log_stable(&mut self, certificate: &CheckpointCertificate) {
        let height = certificate.result.height;
        if self.role == Role::Active && height > self.logged_stable {
            self.log(Record::Stable(certificate.clone()));
            self.logged_stable = height;
        }
    }

    pub(super) fn stabilize(&mut self, certificate: CheckpointCertificate) {
        let height = certificate.result.height;
        self.log_stable(&certificate);
        self.checkpoints.set_stable(certificate.clone());
        self.forget_below(height);
        self.effects.push(Effect::Stabilize(certificate));
        let dropped = self.forget_ordered(height);
        if !dropped.is_empty() {
            self.effects.push(Effect::ForgetBatches(dropped));
        }
        self.begin_due_epochs();
        self.consider_all_parked();
    }

    fn forget_below(&mut self, height: Height) {
        self.slots = self.slots.split_off(&height.next());
        self.required = self.required.split_off(&height.next());
        self.delivered = self.delivered.max(height);
        self.executed = self.executed.max(height);
        self.deliver();
    }

    pub(super) fn on_snapshot_installed(&mut self, certificate: CheckpointCertificate, epochs: &Epochs) {
        self.note_epochs(epochs);
        self.catch_up = CatchUp::default();
        // What a shadow holds stands in its seat's log, which may name it in the next record.
        if self.role == Role::Active {
            let named = self.named_above(certificate.result.height);
            let dropped = self.pool.clear(&named);
            self.effects.push(Effect::DropBatches(dropped));
        }
        if certificate.result.height > self.stable() {
            self.stabilize(certificate);
        } else {
            self.forget_below(certificate.result.height);
        }
    }
}
