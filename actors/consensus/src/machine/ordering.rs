//! The three phases: an assignment is accepted, prepared, and final.

use standin_foundation::{Digest, Height, Seat, View};
use standin_ledger::Proposal;
use standin_ledger::certificate::{CommitCertificate, SeatVote, VoteKind, VoteTarget};

use super::slot::{Accepted, Noted, PhaseVote};
use super::*;
use crate::messages::PreparedCertificate;

impl Machine {
    pub(super) fn on_pre_prepare(&mut self, vote: SeatVote, view: View, proposal: Proposal) {
        let height = proposal.height;
        let own = vote.seat == self.identity.seat;
        if view < self.view || !self.in_window(height) || vote.seat != primary_of(view, self.start.seats) {
            return;
        }
        let phase = PhaseVote { kind: VoteKind::PrePrepare, view, digest: proposal.digest(), vote };
        match self.note_vote(height, phase) {
            Noted::Conflict(_) => {}
            Noted::New if own => self.check_prepared(height),
            Noted::Known if own => {}
            // Known votes too: what was parked before may have given way to another.
            Noted::New | Noted::Known => {
                self.park(height, view, proposal);
                self.consider_parked(height);
            }
        }
    }

    /// Keeps an assignment for which it is too early. The view that this replica is in, or changes to, comes before the one
    /// after it; later ones are not kept, since any seat leads one of them and could fill every slot.
    fn park(&mut self, height: Height, view: View, proposal: Proposal) {
        let wanted = self.wanted_view();
        let rank = |view: View| match view {
            view if view == wanted => 2,
            view if view == wanted.next() => 1,
            _ => 0,
        };
        let slot = self.slots.entry(height).or_default();
        let parked = slot.parked.as_ref().map_or(0, |(parked, _)| rank(*parked));
        if rank(view) > 0 && rank(view) >= parked {
            slot.parked = Some((view, proposal));
        }
    }

    pub(super) fn on_prepare(&mut self, vote: SeatVote, view: View, height: Height, digest: Digest) {
        let by_primary = vote.seat == primary_of(view, self.start.seats);
        if by_primary || view < self.view || !self.in_window(height) {
            return;
        }
        let vote = PhaseVote { kind: VoteKind::Prepare, view, digest, vote };
        if matches!(self.note_vote(height, vote), Noted::New) {
            self.check_prepared(height);
        }
    }

    pub(super) fn on_commit(&mut self, vote: SeatVote, view: View, height: Height, digest: Digest) {
        if !self.in_window(height) {
            return;
        }
        let vote = PhaseVote { kind: VoteKind::Commit, view, digest, vote };
        if matches!(self.note_vote(height, vote), Noted::New) {
            self.check_committed(height, view, digest);
        }
    }

    /// Notes a vote. A contradiction is reported, and the first vote counts.
    fn note_vote(&mut self, height: Height, vote: PhaseVote) -> Noted {
        let slot = self.slots.entry(height).or_default();
        let noted = slot.note(vote.clone());
        match &noted {
            Noted::New => slot.touched = self.now,
            Noted::Known => {}
            Noted::Conflict(known) => {
                let epoch = self.start.epoch;
                let evidence = |vote: &PhaseVote| {
                    let PhaseVote { kind, view, digest, .. } = *vote;
                    (VoteTarget { kind, epoch, view, height, digest }, vote.vote.clone())
                };
                let evidence = Box::new([evidence(known), evidence(&vote)]);
                self.report(Event::Equivocation { seat: vote.vote.seat, evidence });
            }
        }
        noted
    }

    /// Looks again at an assignment that could not be judged before.
    pub(super) fn consider_parked(&mut self, height: Height) {
        let Some((view, proposal)) = self.slots.get(&height).and_then(|slot| slot.parked.clone()) else { return };
        if view < self.view || self.already_accepted(height, view) {
            if let Some(slot) = self.slots.get_mut(&height) {
                slot.parked = None;
            }
            return;
        }
        if view > self.view || !self.is_normal() || !self.is_acceptable(view, &proposal) {
            return;
        }
        if self.want_missing(&proposal, self.primary()) {
            return;
        }
        if let Some(slot) = self.slots.get_mut(&height) {
            slot.parked = None;
        }
        self.accept(view, proposal);
    }

    fn already_accepted(&self, height: Height, view: View) -> bool {
        let accepted = self.slots.get(&height).and_then(|slot| slot.accepted.as_ref());
        accepted.is_some_and(|accepted| accepted.view >= view) && self.mutation != Some(Mutation::AcceptTwice)
    }

    /// Whether a backup may accept this assignment, payloads aside.
    fn is_acceptable(&self, view: View, proposal: &Proposal) -> bool {
        if !self.may_vote(proposal.height) || proposal.height <= self.view_floor {
            return false;
        }
        let digest = proposal.digest();
        let committed = self.slots.get(&proposal.height).and_then(|slot| slot.committed.as_ref());
        if committed.is_some_and(|(committed, _)| committed.digest() != digest) {
            return false;
        }
        match self.required.get(&proposal.height) {
            Some(required) => *required == digest,
            None if self.required.last_key_value().is_some_and(|(last, _)| proposal.height < *last) => false,
            None => {
                proposal.view == view
                    && proposal.epoch == self.start.epoch
                    && proposal.proposer == primary_of(view, self.start.seats)
                    && (!proposal.checkpoint || proposal.batches.is_empty())
                    && proposal.check_limits().is_ok()
            }
        }
    }

    /// Asks for payloads that a proposal names and that are not here; says whether any is missing.
    pub(super) fn want_missing(&mut self, proposal: &Proposal, ask: Seat) -> bool {
        let names = proposal.batches.iter().map(|batch| batch.digest());
        let missing: Vec<_> = names.filter(|digest| !self.pool.holds(digest)).collect();
        let new: Vec<_> = missing.iter().copied().filter(|digest| !self.pool.is_wanted(digest)).collect();
        for digest in &new {
            self.pool.want(*digest);
        }
        let own = self.identity.seat;
        let source = if self.role == Role::Shadow { Some(own) } else { Some(ask).filter(|ask| *ask != own) };
        if let Some(ask) = source.filter(|_| !new.is_empty()) {
            self.tell(Recipient::One(ask), Note::FetchBatches(new));
        }
        !missing.is_empty()
    }

    /// Accepts an assignment in the current view: logs it, and votes for it.
    pub(super) fn accept(&mut self, view: View, proposal: Proposal) {
        let (height, digest) = (proposal.height, proposal.digest());
        // What execution has can be asked for a second time: it is in no slot that is still to come.
        if height > self.delivered {
            proposal.batches.iter().for_each(|batch| self.pool.assign(batch.digest()));
        }
        // A batch that was ordered before may not be in the log any more: a restart must find its payload.
        let names = proposal.batches.iter().filter(|batch| !self.pool.is_pending(&batch.digest()));
        let again: Vec<_> = names.filter_map(|batch| self.pool.ordered(&batch.digest())).collect();
        for batch in again {
            self.log(Record::Batch(batch));
        }
        let slot = self.slots.entry(height).or_default();
        slot.accepted = Some(Accepted { view, digest, proposal: proposal.clone(), since: self.now });
        slot.touched = self.now;
        let lsn = self.log(Record::Accepted { view, proposal: proposal.clone() });
        let body = match self.is_primary() {
            true => Body::PrePrepare { view, proposal },
            false => Body::Prepare { view, height, digest },
        };
        self.send(Recipient::All, body, lsn);
        self.check_prepared(height);
        self.check_commits_of(height, digest);
    }

    pub(super) fn check_prepared(&mut self, height: Height) {
        if !self.is_normal() {
            return;
        }
        let (view, quorum) = (self.view, self.quorum());
        let Some(slot) = self.slots.get_mut(&height) else { return };
        let Some(accepted) = slot.accepted.as_ref().filter(|accepted| accepted.view == view) else { return };
        let digest = accepted.digest;
        if slot.prepared.as_ref().is_some_and(|prepared| prepared.view >= view) {
            return;
        }
        let mut votes = slot.prepares_for(view, digest);
        if votes.len() < quorum {
            return;
        }
        votes.truncate(quorum);
        let certificate = PreparedCertificate { view, proposal: accepted.proposal.clone(), votes };
        slot.prepared = Some(certificate.clone());
        let lsn = self.log(Record::Prepared(certificate));
        self.send(Recipient::All, Body::Commit { view, height, digest }, lsn);
    }

    /// Commits may have come before the proposal that they are for.
    fn check_commits_of(&mut self, height: Height, digest: Digest) {
        for view in (0..=self.view.0).rev().take(2).map(View) {
            self.check_committed(height, view, digest);
        }
    }

    fn check_committed(&mut self, height: Height, view: View, digest: Digest) {
        let (epoch, quorum) = (self.start.epoch, self.quorum());
        let Some(slot) = self.slots.get(&height) else { return };
        let mut votes = slot.commits_for(view, digest);
        if votes.len() < quorum {
            return;
        }
        if let Some((committed, _)) = &slot.committed {
            let digests = [committed.digest(), digest];
            if digests[0] != digests[1] {
                self.halt(Event::SafetyViolated { height, digests });
            }
            return;
        }
        votes.truncate(quorum);
        let Some(proposal) = slot.proposal(digest).cloned() else {
            // The others are ahead: the block comes by catch-up.
            return;
        };
        let certificate = CommitCertificate { epoch, view, height, digest, votes };
        self.commit(proposal, certificate);
    }

    /// A proposal is final.
    pub(super) fn commit(&mut self, proposal: Proposal, certificate: CommitCertificate) {
        let height = proposal.height;
        self.log(Record::Committed { proposal: proposal.clone(), certificate: certificate.clone() });
        let slot = self.slots.entry(height).or_default();
        slot.committed = Some((proposal, certificate));
        slot.touched = self.now;
        self.deliver();
    }

    /// Hands final blocks to execution, in order, as far as their payloads are here; nothing while a snapshot is about to
    /// take the place of what execution stands on.
    pub(super) fn deliver(&mut self) {
        if self.catch_up.is_installing() {
            return;
        }
        while let Some((proposal, certificate)) = self.next_committed() {
            let ask = self.someone_with(&certificate);
            if self.want_missing(&proposal, ask) {
                return;
            }
            self.delivered = proposal.height;
            self.note_commit_time(proposal.height);
            for batch in &proposal.batches {
                self.pool.order(*batch, proposal.height);
            }
            self.failed_views = 0;
            self.view_deadline = None;
            self.idle_since = self.now;
            self.effects.push(Effect::Commit { proposal, certificate });
        }
    }

    fn next_committed(&self) -> Option<(Proposal, CommitCertificate)> {
        self.slots.get(&self.delivered.next())?.committed.clone()
    }

    fn someone_with(&self, certificate: &CommitCertificate) -> Seat {
        let others = certificate.votes.iter().map(|vote| vote.seat).filter(|seat| *seat != self.identity.seat);
        others.min_by_key(|seat| u8::from(*seat == self.primary())).unwrap_or(self.identity.seat)
    }
}
