//! What becomes of a grant that comes from anywhere: the auth node, another member, another seat.

use std::sync::Arc;
use std::time::Duration;

use standin_auth::{Answer, Request};
use standin_cluster::actor::{Auths, Granted, MemberActor};
use standin_consensus::actor::{HolderChanged, Ingress, Replica};
use standin_foundation::Seat;
use standin_ledger::grant::Noted;
use standin_ledger::{GrantBook, SignedGrant};
use standin_stage::Address;

/// How often the auth node is asked who holds the seats. New grants are told to all at once; this finds what was lost.
const LOOK_UP_INTERVAL: Duration = Duration::from_secs(1);

/// Whom a grant concerns.
#[derive(Debug, Clone)]
pub(super) struct Grants {
    pub(super) seat: Seat,
    pub(super) book: Arc<GrantBook>,
    pub(super) ingress: Arc<Ingress>,
    pub(super) member: Address<MemberActor>,
    pub(super) replica: Address<Replica>,
}

impl Grants {
    /// Checks a grant, and tells those whom it concerns. False if it does not hold.
    pub(super) fn take(&self, grant: SignedGrant) -> bool {
        let own_holder = self.book.holder(self.seat);
        match self.book.note(grant.clone()) {
            Ok(Noted::Newest(seat)) => {
                // Full mailboxes: the member hears of it again with its next keep-alive, the replica with the next status.
                if seat == self.seat {
                    drop(self.member.tell(Granted(grant)));
                }
                if seat != self.seat || self.book.holder(seat) != own_holder {
                    drop(self.replica.tell(HolderChanged(seat)));
                }
                self.ingress.unpark(&self.replica);
                true
            }
            Ok(Noted::Older) => {
                self.ingress.unpark(&self.replica);
                true
            }
            Ok(Noted::Known) => true,
            Ok(Noted::Contradiction(known)) => {
                tracing::error!(?known, ?grant, "two grants for one term: the auth node, or its key, is faulty");
                false
            }
            Err(error) => {
                tracing::warn!(%error, "grant refused");
                false
            }
        }
    }

    /// Asks the auth node who holds the seats, now and then, for as long as the member runs.
    pub(super) async fn look_up(self, auths: Auths) {
        let mut interval = tokio::time::interval(LOOK_UP_INTERVAL);
        while !self.member.has_ended() {
            interval.tick().await;
            if let Some(Answer::Actives(grants)) = auths.ask(Request::LookUp { cluster: None }).await {
                for grant in grants {
                    self.take(grant);
                }
            }
        }
    }
}
