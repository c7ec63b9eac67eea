//! One slot of the order: what was proposed for it, who voted how, and what is proven.

use std::collections::{BTreeMap, BTreeSet};

use standin_foundation::{Digest, Height, Millis, Seat, View};
use standin_ledger::Proposal;
use standin_ledger::certificate::{CommitCertificate, SeatVote, VoteKind};

use crate::messages::PreparedCertificate;

/// A vote in one of the phases of a slot.
#[derive(Debug, Clone)]
pub(super) struct PhaseVote {
    pub(super) kind: VoteKind,
    pub(super) view: View,
    pub(super) digest: Digest,
    pub(super) vote: SeatVote,
}

/// A proposal that was assigned to the slot in a view.
#[derive(Debug, Clone)]
pub(super) struct Accepted {
    pub(super) view: View,
    pub(super) digest: Digest,
    pub(super) proposal: Proposal,
    /// When.
    pub(super) since: Millis,
}

/// What became of a vote that came in.
#[derive(Debug)]
pub(super) enum Noted {
    /// It counts.
    New,
    /// It is known, or older than what is known. What it says has not changed.
    Known,
    /// The seat voted for something else in the same view: here is what it said before.
    Conflict(Box<PhaseVote>),
}

/// One slot.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// Accepted in the current view, or in the last in which the slot had anything.
    pub(super) accepted: Option<Accepted>,
    /// An assignment that cannot be judged yet: payloads are missing, or its view has not begun.
    pub(super) parked: Option<(View, Proposal)>,
    /// Newest pre-prepare or prepare of each seat.
    prepares: BTreeMap<Seat, PhaseVote>,
    /// Newest commit of each seat.
    commits: BTreeMap<Seat, PhaseVote>,
    /// The prepared certificate of the highest view.
    pub(super) prepared: Option<PreparedCertificate>,
    /// Final.
    pub(super) committed: Option<(Proposal, CommitCertificate)>,
    /// When something last happened here.
    pub(super) touched: Millis,
}

/// A place in the order, and what it waits for, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotView {
    /// The place: a block's height.
    pub height: Height,
    /// The view of the assignment that was accepted, or of the one that is final.
    pub view: Option<View>,
    /// The seats that have proposed or prepared it.
    pub prepared: BTreeSet<Seat>,
    /// The seats that have committed it.
    pub committed: BTreeSet<Seat>,
    /// It is final.
    pub is_final: bool,
}

impl Slot {
    /// The slot for people. Who follows a seat's log sees what is final, and not each vote.
    pub(super) fn seen(&self, height: Height) -> SlotView {
        let accepted = self.accepted.as_ref().map(|accepted| (accepted.view, accepted.digest));
        let votes = |votes: &BTreeMap<Seat, PhaseVote>| -> BTreeSet<Seat> {
            let counts =
                |vote: &&PhaseVote| accepted.is_none_or(|(view, digest)| vote.view == view && vote.digest == digest);
            votes.values().filter(counts).map(|vote| vote.vote.seat).collect()
        };
        let certified = self.committed.iter().flat_map(|(_, certificate)| &certificate.votes).map(|vote| vote.seat);
        SlotView {
            height,
            view: accepted.map(|(view, _)| view),
            prepared: votes(&self.prepares),
            committed: votes(&self.commits).into_iter().chain(certified).collect(),
            is_final: self.committed.is_some(),
        }
    }

    /// Notes a vote. A seat's vote of a higher view takes the place of its older one.
    pub(super) fn note(&mut self, vote: PhaseVote) -> Noted {
        let votes = if vote.kind == VoteKind::Commit { &mut self.commits } else { &mut self.prepares };
        match votes.get(&vote.vote.seat) {
            Some(known) if known.view == vote.view && known.digest != vote.digest => {
                Noted::Conflict(Box::new(known.clone()))
            }
            Some(known) if known.view >= vote.view => Noted::Known,
            _ => {
                votes.insert(vote.vote.seat, vote);
                Noted::New
            }
        }
    }

    /// The seats' votes for this assignment in the first two phases.
    pub(super) fn prepares_for(&self, view: View, digest: Digest) -> Vec<SeatVote> {
        matching(&self.prepares, view, digest)
    }

    /// The seats' commits for this assignment.
    pub(super) fn commits_for(&self, view: View, digest: Digest) -> Vec<SeatVote> {
        matching(&self.commits, view, digest)
    }

    /// The proposal with this digest, if the slot knows it.
    pub(super) fn proposal(&self, digest: Digest) -> Option<&Proposal> {
        let accepted = self.accepted.as_ref().filter(|accepted| accepted.digest == digest);
        let prepared = || self.prepared.as_ref().map(|prepared| &prepared.proposal);
        let parked = || self.parked.as_ref().map(|(_, proposal)| proposal);
        accepted
            .map(|accepted| &accepted.proposal)
            .or_else(|| prepared().filter(|proposal| proposal.digest() == digest))
            .or_else(|| parked().filter(|proposal| proposal.digest() == digest))
    }

    /// Forgets everything but what is final.
    pub(super) fn keep_final(&mut self) {
        *self = Self { committed: self.committed.take(), touched: self.touched, ..Self::default() };
    }

    /// Whether something was assigned in this view and nothing is final.
    pub(super) fn is_open(&self, view: View) -> bool {
        let accepted = self.accepted.as_ref().is_some_and(|accepted| accepted.view == view);
        let parked = self.parked.as_ref().is_some_and(|(parked, _)| *parked == view);
        self.committed.is_none() && (accepted || parked)
    }
}

fn matching(votes: &BTreeMap<Seat, PhaseVote>, view: View, digest: Digest) -> Vec<SeatVote> {
    let matches = |vote: &&PhaseVote| vote.view == view && vote.digest == digest;
    votes.values().filter(matches).map(|vote| vote.vote.clone()).collect()
}
