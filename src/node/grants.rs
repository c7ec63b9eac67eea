//! What becomes of a grant that comes from anywhere: the auth node, another member, another seat.

use std::sync::Arc;
use std::time::Duration;

use standin_auth::messages::BegunEpoch;
use standin_auth::{Answer, Request};
use standin_cluster::actor::{Auths, Granted, MemberActor};
use standin_consensus::Note;
use standin_consensus::actor::{Directory, GrantKnown, HolderChanged, Ingress, Replica};
use standin_foundation::Epoch;
use standin_ledger::SignedGrant;
use standin_ledger::error::LedgerError;
use standin_ledger::grant::{Cause, Noted};
use standin_stage::Address;

use super::console::Teller;
use super::members::Members;

/// How often the auth node is asked who holds the seats. New grants are told to all at once; this finds what was lost.
const LOOK_UP_INTERVAL: Duration = Duration::from_secs(1);

/// Grants that are asked for at one time.
const GAPS_AT_ONCE: usize = 64;

/// Whom a grant concerns.
#[derive(Debug, Clone)]
pub(super) struct Grants {
    pub(super) directory: Directory,
    pub(super) ingress: Arc<Ingress>,
    pub(super) members: Members,
    pub(super) member: Address<MemberActor>,
    pub(super) replica: Address<Replica>,
    pub(super) teller: Teller,
}

impl Grants {
    /// Checks a grant, and tells those whom it concerns. False if it does not hold.
    pub(super) fn take(&self, grant: SignedGrant) -> bool {
        let (own, book) = (self.directory.seat, &self.directory.book);
        let own_holder = book.holder(own);
        match book.note(grant.clone()) {
            Ok(Noted::Newest(seat)) => {
                // Full mailboxes: the member hears of it again with its next keep-alive, the replica with the next status.
                let (term, holder) = (grant.grant.term.0, grant.grant.holder_id().short());
                match seat == own {
                    true => drop(self.member.tell(Granted(grant))),
                    false => {
                        tracing::info!(seat = seat.0, term, holder, "notified");
                        self.teller.notified(&grant.grant);
                    }
                }
                let is_other = seat != own || book.holder(seat) != own_holder;
                drop(if is_other { self.replica.tell(HolderChanged(seat)) } else { self.replica.tell(GrantKnown) });
                self.ingress.unpark(&self.replica);
                self.members.dismiss_those_who_left();
                true
            }
            Ok(Noted::Older) => {
                drop(self.replica.tell(GrantKnown));
                self.ingress.unpark(&self.replica);
                true
            }
            Ok(Noted::Known) => true,
            Ok(Noted::Contradiction(known)) => {
                tracing::error!(?known, ?grant, "two grants for one term: the auth node, or its key, is faulty");
                false
            }
            Err(LedgerError::UnknownEpoch(epoch)) => {
                // Whoever sent it, or another, has the proof, and is asked for it.
                tracing::debug!(%epoch, "a grant of an epoch that is not known yet");
                false
            }
            Err(error) => {
                tracing::warn!(%error, "grant refused");
                false
            }
        }
    }

    /// An epoch is known that was not: what waits for it is looked at, and whoever holds a seat by it is told.
    pub(super) fn epoch_known(&self) {
        let Directory { seat: own, book, .. } = &self.directory;
        self.members.begin_epoch(&book.newest_table());
        for seat in book.named_seats() {
            let Some(newest) = book.newest(seat) else { continue };
            // Full mailboxes: the member hears of it again at the next look; the replica finds the holder in the book, and would only
            // have told it sooner what it says again anyway.
            if seat == *own {
                drop(self.member.tell(Granted(newest)));
            }
            drop(self.replica.tell(HolderChanged(seat)));
        }
        self.ingress.unpark(&self.replica);
    }

    /// Asks the auth node who holds the seats, now and then, for as long as the member runs.
    pub(super) async fn look_up(self, auths: Auths) {
        let mut interval = tokio::time::interval(LOOK_UP_INTERVAL);
        while !self.member.has_ended() {
            interval.tick().await;
            match auths.ask(Request::LookUp { cluster: None }).await {
                Some(Answer::Actives { grants, memberships, epoch }) => {
                    self.tell_epoch(&auths, epoch).await;
                    memberships.into_iter().for_each(|membership| self.members.take(membership));
                    for grant in grants {
                        self.take(grant);
                    }
                }
                // The chain runs without it, and so does the word of who belongs where: one of those who were there has it.
                _ => self.members.ask_anyone(),
            }
            self.members.tell_own();
            self.tell_own_base();
            self.fill_gaps();
        }
    }

    /// The member may not have been told what the chain has ordered for its seat.
    fn tell_own_base(&self) {
        let Directory { seat, book, .. } = &self.directory;
        let base = book.newest(*seat).filter(|newest| newest.grant.cause == Cause::Ordered);
        base.map(|base| self.member.tell(Granted(base)));
    }

    /// An auth node that does not know the epoch could not judge what is said in it.
    async fn tell_epoch(&self, auths: &Auths, known: Epoch) {
        let book = &self.directory.book;
        let Some(proof) = book.epoch_proof(known.next()) else { return };
        let votes = proof.certificate().votes.iter();
        let grants = votes.filter_map(|vote| book.grant(vote.seat, vote.term)).collect();
        // Told again, if need be, after the next look.
        drop(auths.ask(Request::Epoch(Box::new(BegunEpoch { proof, grants }))).await);
    }

    /// Old blocks are judged by old grants: whoever was away for a while asks one node after the other for what it missed.
    fn fill_gaps(&self) {
        let missing = self.directory.book.missing(GAPS_AT_ONCE);
        let connected = self.directory.connected();
        if missing.is_empty() || connected.is_empty() {
            return;
        }
        if let Some(remote) = connected.get(fastrand::usize(..connected.len())) {
            for (seat, term) in missing {
                // What does not get through is asked for again.
                let _ = remote.tell(&Note::WantGrant(seat, term));
            }
        }
    }
}
