//! Leaving a view and beginning the next.

use standin_foundation::{Digest, Height, Seat, View};
use standin_ledger::Proposal;

use super::*;
use crate::effect::ViewChangeCause;
use crate::messages::PreparedCertificate;

impl Machine {
    /// Whether something waits to be committed.
    fn has_work(&self) -> bool {
        self.hurries() || self.pool.has_new() || self.slots.values().any(|slot| slot.is_open(self.view))
    }

    /// Starts the view's timer where there is something to wait for, and stops it where there is not.
    pub(super) fn set_view_timer(&mut self) {
        if self.halted {
            self.view_deadline = None;
            return;
        }
        match self.mode {
            Mode::Normal if !self.has_work() => self.view_deadline = None,
            Mode::Changing(view) if self.gone_as_far_as(view) < self.quorum() => self.view_deadline = None,
            _ if self.view_deadline.is_none() => {
                self.view_deadline = Some(self.now + self.config.view_timeout(self.failed_views));
            }
            _ => {}
        }
    }

    pub(super) fn check_view_timer(&mut self) {
        let expired = self.view_deadline.is_some_and(|deadline| deadline <= self.now);
        let starved = self.pool.oldest().is_some_and(|since| since + self.config.starvation_ms <= self.now);
        match self.mode {
            Mode::Normal if expired => self.start_view_change(self.view.next(), ViewChangeCause::NoProgress),
            Mode::Normal if starved => self.start_view_change(self.view.next(), ViewChangeCause::Starvation),
            Mode::Changing(view) if expired => self.start_view_change(view.next(), ViewChangeCause::NoNewView),
            _ => {}
        }
    }

    /// A seat that left the view alone cannot come back into it; after a while the others come to it, though not often,
    /// since a faulty seat could ask for ever.
    pub(super) fn join_waiting_seats(&mut self) {
        if !self.is_normal() {
            return;
        }
        let ripe = |seat: &Seat, since: &Millis| {
            let rejoined = self.rejoined_at.get(seat).copied();
            *since + self.config.rejoin_after_ms <= self.now
                && rejoined.is_none_or(|at| at + self.config.rejoin_interval_ms <= self.now)
        };
        let waiting = self.waiting_since.iter().find(|(seat, since)| ripe(seat, since)).map(|(seat, _)| *seat);
        let Some(seat) = waiting else { return };
        let Some(view) = self.view_changes.get(&seat).map(|message| message.body.view()) else { return };
        self.rejoined_at.insert(seat, self.now);
        // A correct seat that is alone has no quorum to move it further than a few views; a faulty one could name the last.
        let within_reach = view.0 <= self.view.0.saturating_add(self.start.seats.len() as u64);
        if within_reach {
            self.start_view_change(view, ViewChangeCause::Rejoin);
        }
    }

    /// Leaves all views below `to`. A second view-change to the same view, or to an earlier one, could contradict the first.
    pub(super) fn start_view_change(&mut self, to: View, cause: ViewChangeCause) {
        if to <= self.view || self.own_view_change.as_ref().is_some_and(|own| own.view >= to) {
            self.view_deadline = None;
            return;
        }
        if matches!(cause, ViewChangeCause::NoProgress | ViewChangeCause::NoNewView) {
            self.failed_views = self.failed_views.saturating_add(1);
        }
        self.mode = Mode::Changing(to);
        self.view_deadline = None;
        let body =
            ViewChange { view: to, stable: self.checkpoints.stable().cloned(), prepared: self.prepared_certificates() };
        self.own_view_change = Some(body.clone());
        let lsn = self.log(Record::ViewChange(body.clone()));
        self.send(Recipient::All, Body::ViewChange(body), lsn);
        self.report(Event::ViewChangeStarted { to, cause });
    }

    fn prepared_certificates(&self) -> Vec<PreparedCertificate> {
        if self.mutation == Some(Mutation::ForgetPrepared) {
            return Vec::new();
        }
        let within = |height: &Height| self.in_window(*height);
        self.slots.iter().filter(|(height, _)| within(height)).filter_map(|(_, slot)| slot.prepared.clone()).collect()
    }

    pub(super) fn on_view_change(&mut self, message: Signed, view: View) {
        let seat = message.seat();
        let known = self.view_changes.get(&seat).map(|known| known.body.view());
        if view <= self.view || known.is_some_and(|known| known >= view) {
            return;
        }
        self.view_changes.insert(seat, message);
        if seat != self.identity.seat {
            self.waiting_since.entry(seat).or_insert(self.now);
        }
        self.join_others();
        self.begin_view_if_primary();
    }

    fn supporters(&self, view: View) -> Vec<&Signed> {
        self.view_changes.values().filter(|message| message.body.view() == view).collect()
    }

    /// Seats that want this view or a higher one. When they are a quorum, this view begins in time or never: a seat that
    /// is ahead has given it up already.
    fn gone_as_far_as(&self, view: View) -> usize {
        self.view_changes.values().filter(|message| message.body.view() >= view).count()
    }

    /// The view that this replica is in, or changes to.
    pub(super) fn wanted_view(&self) -> View {
        match self.mode {
            Mode::Normal => self.view,
            Mode::Changing(view) => view,
        }
    }

    /// f+1 seats want a higher view: at least one of them is correct.
    fn join_others(&mut self) {
        let wanted = self.wanted_view();
        let others = self.view_changes.iter().filter(|(seat, _)| **seat != self.identity.seat);
        let mut views: Vec<_> = others.map(|(_, message)| message.body.view()).filter(|view| *view > wanted).collect();
        views.sort_unstable_by(|a, b| b.cmp(a));
        if let Some(view) = views.get(self.faulty_max()).copied() {
            self.start_view_change(view, ViewChangeCause::Joined);
        }
    }

    fn begin_view_if_primary(&mut self) {
        let Mode::Changing(view) = self.mode else { return };
        if primary_of(view, self.start.seats) != self.identity.seat {
            return;
        }
        let supporters = self.supporters(view);
        let own_is_in = supporters.iter().any(|message| message.seat() == self.identity.seat);
        let already = self.new_view.as_ref().is_some_and(|message| message.body.view() >= view);
        if supporters.len() < self.quorum() || !own_is_in || already {
            return;
        }
        let view_changes: Vec<_> = supporters.into_iter().take(self.quorum()).cloned().collect();
        let body = Body::NewView(NewView { view, view_changes });
        let unsigned = Signed::new(
            self.start.epoch,
            self.identity.seat,
            standin_foundation::Term(0),
            standin_foundation::Signature::NONE,
            body.clone(),
        );
        self.new_view = Some(unsigned.clone());
        let lsn = self.log(Record::NewView(unsigned));
        self.send(Recipient::All, body, lsn);
    }

    pub(super) fn on_new_view(&mut self, message: Signed, body: &NewView) {
        let wanted = match self.mode {
            Mode::Normal => self.view.next(),
            Mode::Changing(view) => view,
        };
        if body.view < wanted {
            return;
        }
        self.log(Record::NewView(message.clone()));
        self.enter_view(message, body);
    }

    /// Enters a view: what its new-view requires is assigned again, the rest of the slots is open.
    fn enter_view(&mut self, message: Signed, body: &NewView) {
        let outcome = outcome_of(body, self.start.epoch, self.start.seats);
        self.view = body.view;
        self.mode = Mode::Normal;
        self.new_view = Some(message);
        self.view_changes.retain(|_, message| message.body.view() > body.view);
        self.waiting_since.retain(|seat, _| self.view_changes.contains_key(seat));
        self.required = outcome.proposals.iter().map(|(height, proposal)| (*height, proposal.digest())).collect();
        self.view_floor = outcome.floor();
        self.pool.unassign_all(self.now);
        self.view_deadline = None;
        self.idle_since = self.now;
        self.report(Event::ViewEntered { view: self.view, primary: self.primary() });
        if let Some(certificate) = outcome.stable {
            self.on_stable_certificate(certificate);
        }
        self.assign_required(outcome.proposals);
        self.consider_all_parked();
        self.deliver();
    }

    /// The primary assigns again what its new-view requires.
    pub(super) fn assign_required(&mut self, proposals: BTreeMap<Height, Proposal>) {
        for (height, proposal) in proposals {
            let is_superseded = self.is_superseded(height, proposal.digest());
            if self.halted {
                return;
            }
            let assigned = self.slots.get(&height).and_then(|slot| slot.accepted.as_ref());
            let is_open = assigned.is_none_or(|accepted| accepted.view < self.view);
            if self.is_primary() && self.may_vote(height) && is_open && !is_superseded {
                // The primary may lack a payload that a quorum holds: it proposes by name, and fetches.
                self.want_missing(&proposal, self.someone_else());
                self.accept(self.view, proposal);
            }
        }
    }

    pub(super) fn consider_all_parked(&mut self) {
        let parked: Vec<_> = self.slots.iter().filter(|(_, slot)| slot.parked.is_some()).map(|(h, _)| *h).collect();
        for height in parked {
            self.consider_parked(height);
        }
    }

    /// Whether a final block stands where the view wants another one. If it became final in this view or a later one, this
    /// replica has entered a view that the others have left. If it did so earlier, the view had to take it over.
    fn is_superseded(&mut self, height: Height, digest: Digest) -> bool {
        let committed = self.slots.get(&height).and_then(|slot| slot.committed.as_ref());
        let Some((committed, view)) = committed.map(|(proposal, proof)| (proposal.digest(), proof.view)) else {
            return false;
        };
        if committed != digest && view < self.view {
            self.halt(Event::SafetyViolated { height, digests: [committed, digest] });
        }
        committed != digest
    }

    pub(super) fn someone_else(&self) -> Seat {
        let primary = self.primary();
        self.other_seats().find(|seat| *seat != primary).unwrap_or(self.identity.seat)
    }

    /// Puts the machine into the view that a new-view from its log began.
    pub(super) fn restore_view(&mut self, message: Signed, body: &NewView) {
        let outcome = outcome_of(body, self.start.epoch, self.start.seats);
        self.view = body.view;
        self.new_view = Some(message);
        self.view_floor = outcome.floor();
        self.required = outcome.proposals.iter().map(|(height, proposal)| (*height, proposal.digest())).collect();
        if self.own_view_change.as_ref().is_none_or(|own| own.view <= body.view) {
            self.mode = Mode::Normal;
        }
    }

    /// The proposals that the current view's new-view requires, by slot.
    pub(super) fn required_proposals(&self) -> BTreeMap<Height, Proposal> {
        match self.new_view.as_ref().map(|message| &message.body) {
            Some(Body::NewView(body)) if body.view == self.view => {
                outcome_of(body, self.start.epoch, self.start.seats).proposals
            }
            _ => BTreeMap::new(),
        }
    }
}

/// What a new-view leads to.
struct Outcome {
    /// The highest stable checkpoint in it.
    stable: Option<CheckpointCertificate>,
    /// What must be proposed again above that, by slot, without a gap.
    proposals: BTreeMap<Height, Proposal>,
}

impl Outcome {
    fn floor(&self) -> Height {
        self.stable.as_ref().map_or(Height(0), |certificate| certificate.result.height)
    }
}

/// The same for everyone: for each slot the proposal that was prepared in the highest view, or a null request.
fn outcome_of(body: &NewView, epoch: Epoch, seats: Seats) -> Outcome {
    let view_changes = || {
        body.view_changes.iter().filter_map(|message| match &message.body {
            Body::ViewChange(view_change) => Some(view_change),
            _ => None,
        })
    };
    let stable = view_changes().filter_map(|vc| vc.stable.as_ref()).max_by_key(|certificate| certificate.result.height);
    let floor = stable.map_or(Height(0), |certificate| certificate.result.height);
    let mut best: BTreeMap<Height, &PreparedCertificate> = BTreeMap::new();
    for prepared in view_changes().flat_map(|vc| &vc.prepared).filter(|p| p.proposal.height > floor) {
        let entry = best.entry(prepared.proposal.height).or_insert(prepared);
        if entry.view < prepared.view {
            *entry = prepared;
        }
    }
    let top = best.last_key_value().map_or(floor, |(height, _)| *height);
    let primary = primary_of(body.view, seats);
    let proposal = |height: Height| match best.get(&height) {
        Some(prepared) => prepared.proposal.clone(),
        None => Proposal::null(height, epoch, body.view, primary),
    };
    let proposals = (floor.0 + 1..=top.0).map(Height).map(|height| (height, proposal(height))).collect();
    Outcome { stable: stable.cloned(), proposals }
}
