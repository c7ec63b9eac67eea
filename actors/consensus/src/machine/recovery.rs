//! From the log back to a replica, and the shortest log that would give the same replica.

use standin_foundation::{Height, Millis};
use standin_ledger::certificate::{CheckpointResult, CommitCertificate};
use standin_ledger::{BatchRef, Proposal};

use super::slot::Accepted;
use super::*;

/// What is left of a replica's earlier lives.
#[derive(Debug, Default)]
pub struct Remains {
    /// The proof of the snapshot that the store began with, if it did.
    pub base: Option<CheckpointCertificate>,
    /// The records of the seat's log, with their numbers.
    pub records: Vec<(Lsn, Record)>,
    /// The store's final blocks above the log's last stable checkpoint: their records may not be in the log.
    pub blocks: Vec<(Proposal, CommitCertificate)>,
    /// The height up to which the store has executed blocks.
    pub executed: Height,
    /// Where the epochs begin, as the chain at that height says.
    pub epochs: Epochs,
    /// The newest epoch whose table is durable.
    pub known: Epoch,
    /// Number of the next record; at least 1.
    pub next_lsn: Lsn,
}

impl Machine {
    /// A replica as its log and its store say it was, as a shadow: [`Input::Activated`] makes it speak. Final blocks above what
    /// was executed come out as effects of the first step. `has_payload` says which batches' payloads were found.
    pub fn restore(
        identity: Identity,
        config: Config,
        now: Millis,
        remains: Remains,
        has_payload: impl Fn(&Digest) -> bool,
    ) -> Self {
        let Remains { base, records, blocks, executed, epochs, known, next_lsn } = remains;
        let mut machine = Self::shadow(identity, config, now);
        machine.next_lsn = next_lsn.max(1);
        machine.binding_lsn = machine.next_lsn - 1;
        (machine.epochs, machine.known) = (epochs, known);
        base.into_iter().for_each(|certificate| machine.checkpoints.set_stable(certificate));
        for (lsn, record) in records {
            machine.merge(lsn, record);
        }
        // What happened in an earlier life was told then.
        machine.effects.clear();
        for (proposal, certificate) in blocks {
            let slot = machine.slots.entry(proposal.height).or_default();
            if slot.committed.is_none() {
                machine.unlogged.insert(proposal.height);
                slot.committed = Some((proposal, certificate));
            }
        }
        machine.executed = executed;
        machine.delivered = executed;
        machine.finish_restore(&has_payload);
        machine
    }

    /// Blocks that this node has executed and that its seat's log does not have, since they became final under a holder whose last
    /// records were cut: a store that loses its end with the power must find them in the log, as all others.
    fn log_unlogged(&mut self) {
        // What waits may be proposed, and whoever keeps the proposal must find the payload.
        for batch in self.pool.unlogged() {
            let lsn = self.log(Record::Batch(batch));
            self.pool.note_logged(&batch.digest(), lsn);
        }
        for height in std::mem::take(&mut self.unlogged) {
            let committed = self.slots.get(&height).and_then(|slot| slot.committed.clone());
            if let Some((proposal, certificate)) = committed {
                for batch in &proposal.batches {
                    self.log(Record::Batch(*batch));
                }
                self.log(Record::Committed { proposal, certificate });
            }
        }
    }

    pub(super) fn merge(&mut self, lsn: Lsn, record: Record) {
        // A shadow that took a snapshot may be in a later epoch than its holder.
        let is_void = self.logged_epoch < self.start.epoch;
        match record {
            Record::Epoch(start) => self.merge_epoch(start),
            Record::Accepted { .. }
            | Record::Prepared(_)
            | Record::Checkpoint(_)
            | Record::ViewChange(_)
            | Record::NewView(_)
                if is_void => {}
            Record::Batch(batch) => {
                self.pool.note_logged(&batch.digest(), lsn);
                if !self.pool.holds(&batch.digest()) {
                    self.pool.add(batch, self.identity.seat, self.now, Some(lsn));
                }
            }
            Record::Accepted { view, proposal } => {
                let slot = self.slots.entry(proposal.height).or_default();
                if slot.accepted.as_ref().is_none_or(|accepted| accepted.view < view) {
                    slot.accepted = Some(Accepted { view, digest: proposal.digest(), proposal, since: self.now });
                }
            }
            Record::Prepared(certificate) => {
                let slot = self.slots.entry(certificate.proposal.height).or_default();
                if slot.prepared.as_ref().is_none_or(|prepared| prepared.view < certificate.view) {
                    slot.prepared = Some(certificate);
                }
            }
            Record::Committed { proposal, certificate } => {
                self.unlogged.remove(&proposal.height);
                let slot = self.slots.entry(proposal.height).or_default();
                slot.committed = Some((proposal, certificate));
            }
            Record::Checkpoint(result) if result.height <= self.stable() => {}
            Record::Checkpoint(result) => self.checkpoints.restore_own(result),
            Record::Stable(certificate) => {
                self.logged_stable = self.logged_stable.max(certificate.result.height);
                if certificate.result.height > self.stable() {
                    self.checkpoints.set_stable(certificate);
                }
            }
            Record::ViewChange(body) => {
                if self.own_view_change.as_ref().is_none_or(|own| own.view < body.view) && body.view > self.view {
                    self.mode = Mode::Changing(body.view);
                    self.own_view_change = Some(body);
                }
            }
            Record::NewView(message) => self.merge_new_view(message),
            Record::Base { from, .. } => {
                let named = self.named_batches().into_iter().map(|batch| batch.digest()).collect();
                let dropped = self.pool.forget_cut(from, &named);
                if !dropped.is_empty() {
                    self.effects.push(Effect::ForgetBatches(dropped));
                }
            }
        }
    }

    fn merge_new_view(&mut self, message: Signed) {
        let Body::NewView(body) = message.body.clone() else { return };
        let unsigned = message.vote.signature == standin_foundation::Signature::NONE;
        if unsigned {
            // Written by this replica as primary, and perhaps never sent: it is sent again, not entered.
            if body.view > self.view {
                self.new_view = Some(message);
            }
        } else if body.view > self.view {
            self.restore_view(message, &body);
        }
    }

    fn finish_restore(&mut self, has_payload: &impl Fn(&Digest) -> bool) {
        // The store may be behind the last stable checkpoint: final blocks above it are executed again from the log.
        let kept = self.stable().min(self.executed);
        let executed = self.slots.range(..=self.executed).filter_map(|(_, slot)| slot.committed.as_ref());
        for (proposal, _) in executed {
            for batch in &proposal.batches {
                // What was ordered long ago may be neither in the log nor among the blocks that the store gave.
                if has_payload(&batch.digest()) {
                    self.pool.order(*batch, proposal.height);
                }
            }
        }
        self.slots = self.slots.split_off(&kept.next());
        self.required = self.required.split_off(&self.stable().next());
        self.forget_ordered(kept);
        self.begin_due_epochs();
        self.deliver();
    }

    /// Speaks for the seat from now on: what was said before is said again, since others may have lost it.
    pub(super) fn activate(&mut self) {
        self.role = Role::Active;
        let begins = self.next_lsn == 1;
        self.statuses.clear();
        if !self.catch_up.is_installing() {
            self.catch_up = CatchUp::of_new_holder();
        }
        self.adopt_logged_stable();
        // It may have come with a snapshot: those who follow this log need it as much as the votes above it.
        if let Some(stable) = self.checkpoints.stable().cloned() {
            self.log_stable(&stable);
        }
        self.begin_due_epochs();
        self.log_epoch();
        self.log_unlogged();
        if begins && self.stable() > Height(0) {
            // The log of a seat that begins anew stands on blocks that are not in it.
            self.log(Record::Base { from: 1, stable: self.stable() });
        }
        let current = |slot: &Slot| slot.accepted.as_ref().filter(|accepted| accepted.view == self.view).cloned();
        let open = self.slots.range(self.delivered.next()..).map(|(_, slot)| slot);
        let accepted: Vec<_> = open.filter_map(current).collect();
        for batch in accepted.iter().flat_map(|accepted| &accepted.proposal.batches) {
            self.pool.assign(batch.digest());
        }
        (self.idle_since, self.status_due) = (self.now, self.now + self.config.status_interval_ms);
        self.view_deadline = None;
        // Nobody could order anything here while the seat had no holder.
        self.pool.wait_anew(self.now);
        self.send_all_again();
        self.tell(Recipient::All, Note::Status(self.status()));
        self.deliver();
    }

    /// Forgets batches that were ordered more than a window below `height`. A faulty primary, or one that lost its memory,
    /// may name a batch again: it stays as long as a slot names it.
    pub(super) fn forget_ordered(&mut self, height: Height) -> Vec<Digest> {
        let named = self.named_batches().into_iter().map(|batch| batch.digest()).collect();
        self.pool.forget_ordered(Height(height.0.saturating_sub(self.identity.parameters.window)), &named)
    }

    /// The batches that slots above `height` name.
    pub(super) fn named_above(&self, height: Height) -> BTreeSet<Digest> {
        let slots = self.slots.range(height.next()..).map(|(_, slot)| slot);
        slots.flat_map(batches_of).map(|batch| batch.digest()).collect()
    }

    /// The batches that slots name: parked, accepted, prepared or final.
    fn named_batches(&self) -> Vec<BatchRef> {
        self.slots.values().flat_map(batches_of).collect()
    }

    /// Whether the payload of this batch was asked for, and has not come.
    pub fn wants_payload(&self, digest: &Digest) -> bool {
        self.pool.is_wanted(digest)
    }

    /// Whether the payload of this batch is needed here.
    pub fn needs_payload(&self, digest: &Digest) -> bool {
        self.pool.holds(digest)
    }

    /// Own votes are not in memory any more: they are signed again and come back through the gate, as the first time.
    pub(super) fn send_all_again(&mut self) {
        let after = self.binding_lsn;
        let own: Vec<CheckpointResult> = self.checkpoints.own().filter(|own| !self.is_disputed(own)).copied().collect();
        for result in own {
            self.send(Recipient::All, Body::Checkpoint(result), after);
        }
        if let Some(body) = self.unsent_new_view() {
            self.send(Recipient::All, body, after);
        }
        match (self.mode, self.own_view_change.clone()) {
            (Mode::Changing(_), Some(body)) => {
                self.send(Recipient::All, Body::ViewChange(body), after);
            }
            _ => {
                let heights: Vec<_> = self.slots.keys().copied().collect();
                let votes: Vec<_> = heights.into_iter().flat_map(|height| self.votes_of(height)).collect();
                for body in votes {
                    self.send(Recipient::All, body, after);
                }
                // A primary may have died between its new-view and the assignments that the new-view requires.
                self.assign_required(self.required_proposals());
            }
        }
    }

    /// Writes the live records once more, so that everything before them can go.
    pub(super) fn on_log_full(&mut self) {
        let keep_from = self.next_lsn;
        for record in self.live_records() {
            self.log(record);
        }
        self.log(Record::Base { from: keep_from, stable: self.stable() });
    }

    /// The shortest log that gives this replica: all that it may still be asked about, or must not contradict.
    fn live_records(&self) -> Vec<Record> {
        let epoch = Some(self.start).filter(|start| start.epoch > Epoch(0)).map(Record::Epoch);
        let mut records: Vec<_> = epoch.into_iter().chain(self.pool.all().map(Record::Batch)).collect();
        // Payloads that execution may have to see again after a restart.
        let named = self.named_batches().into_iter().filter_map(|batch| self.pool.ordered(&batch.digest()));
        let ordered: BTreeMap<_, _> = named.map(|batch| (batch.digest(), batch)).collect();
        let ordered = ordered.into_values().filter(|batch| !self.pool.is_pending(&batch.digest()));
        records.extend(ordered.map(Record::Batch));
        records.extend(self.checkpoints.stable().cloned().map(Record::Stable));
        records.extend(self.new_view.clone().map(Record::NewView));
        if matches!(self.mode, Mode::Changing(_)) {
            records.extend(self.own_view_change.clone().map(Record::ViewChange));
        }
        for slot in self.slots.values() {
            if let Some(Accepted { view, proposal, .. }) = slot.accepted.clone() {
                records.push(Record::Accepted { view, proposal });
            }
            records.extend(slot.prepared.clone().map(Record::Prepared));
            if let Some((proposal, certificate)) = slot.committed.clone() {
                records.push(Record::Committed { proposal, certificate });
            }
        }
        records.extend(self.checkpoints.own().copied().map(Record::Checkpoint));
        records
    }
}

fn batches_of(slot: &Slot) -> Vec<BatchRef> {
    let accepted = slot.accepted.as_ref().map(|accepted| &accepted.proposal);
    let prepared = slot.prepared.as_ref().map(|prepared| &prepared.proposal);
    let committed = slot.committed.as_ref().map(|(proposal, _)| proposal);
    let parked = slot.parked.as_ref().map(|(_, proposal)| proposal);
    let all = [parked, accepted, prepared, committed].into_iter().flatten();
    all.flat_map(|proposal| proposal.batches.clone()).collect()
}
