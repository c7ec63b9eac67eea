//! Where a source hands its pushes in: at nodes over HTTP, or at the node in its own process.

use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use standin_foundation::Height;
use standin_ledger::{Outcome as LedgerOutcome, Transaction};
use standin_publisher::machine::source::Outcome;
use standin_publisher::state_machine::events_of;
use std::time::Duration;

use crate::api::Submitted;
use crate::client::{Client, ClientError};

/// A node that does not say within this time what became of pushes is left for the next one: they are handed in again, and queued once.
pub(crate) const TOLD_WITHIN: Duration = Duration::from_secs(3);

/// What became of pushes, in their order, and a height that the chain has come to, if that was told.
pub type Answer = (Vec<Outcome>, Option<Height>);

/// Takes transactions to be ordered.
pub trait Door {
    /// What becomes of some.
    type Answering: Future<Output = Answer> + 'static;

    /// Hands transactions in, to be ordered as they stand. They may be handed in again, here or elsewhere.
    fn hand_in(&self, transactions: Vec<Transaction>) -> Self::Answering;
}

impl Door for Client {
    type Answering = LocalBoxFuture<'static, Answer>;

    fn hand_in(&self, transactions: Vec<Transaction>) -> Self::Answering {
        let client = self.clone();
        async move {
            let submitted = match client.submit(&transactions, TOLD_WITHIN).await {
                Ok(submitted) => submitted,
                Err(ClientError::Refused(why) | ClientError::NotAllowed(why)) => {
                    return (vec![Outcome::Refused(why); transactions.len()], None);
                }
                // A node that is being taken out of service, too: another one takes them.
                Err(_) => return (vec![Outcome::Unknown; transactions.len()], None),
            };
            let is_expired = |told: &Submitted| told.outcome == Some(LedgerOutcome::Expired);
            let height = match submitted.iter().any(is_expired) {
                // The head may be far beyond what the source knows of it.
                true => client.status().await.ok().map(|status| status.height),
                false => submitted.iter().filter_map(|told| told.height).max(),
            };
            let told = submitted.into_iter().map(Some).chain(std::iter::repeat(None));
            let outcomes = transactions.iter().zip(told).map(|(transaction, told)| outcome_of(transaction, told));
            (outcomes.collect(), height)
        }
        .boxed_local()
    }
}

fn outcome_of(transaction: &Transaction, submitted: Option<Submitted>) -> Outcome {
    match submitted {
        Some(Submitted { outcome: Some(outcome), .. }) => settled(transaction, outcome),
        // A rate that is used up is no reason to give up.
        Some(Submitted { refused: Some(why), .. }) if !why.ends_with("try again in a moment") => Outcome::Refused(why),
        _ => Outcome::Unknown,
    }
}

/// What the chain's outcome says of a push.
pub(crate) fn settled(transaction: &Transaction, outcome: LedgerOutcome) -> Outcome {
    match outcome {
        LedgerOutcome::Applied(output) => {
            events_of(transaction, &output).into_iter().next().map_or(Outcome::Unknown, Outcome::Event)
        }
        LedgerOutcome::Rejected(why) => Outcome::Refused(why),
        LedgerOutcome::Duplicate | LedgerOutcome::Expired => Outcome::Unknown,
    }
}
