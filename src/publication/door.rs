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

/// What became of pushes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// In their order.
    pub outcomes: Vec<Outcome>,
    /// A height that the chain has come to, if that was told.
    pub height: Option<Height>,
    /// Why the node takes some of them not at all: another one may.
    pub refused: Option<String>,
}

impl Answer {
    /// Nothing is known of so many.
    pub(crate) fn unknown(count: usize) -> Self {
        Self { outcomes: vec![Outcome::Unknown; count], height: None, refused: None }
    }
}

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
                    return Answer { refused: Some(why), ..Answer::unknown(transactions.len()) };
                }
                // A node that is being taken out of service, too: another one takes them.
                Err(_) => return Answer::unknown(transactions.len()),
            };
            // A rate that is used up is no reason to give up.
            let is_refusal = |why: &&String| !why.ends_with("try again in a moment");
            let refused = submitted.iter().filter_map(|told| told.refused.as_ref()).find(is_refusal).cloned();
            let is_expired = |told: &Submitted| told.outcome == Some(LedgerOutcome::Expired);
            let height = match submitted.iter().any(is_expired) {
                // The head may be far beyond what the source knows of it.
                true => client.status().await.ok().map(|status| status.height),
                false => submitted.iter().filter_map(|told| told.height).max(),
            };
            let told = submitted.into_iter().map(Some).chain(std::iter::repeat(None));
            let outcomes = transactions.iter().zip(told).map(|(transaction, told)| outcome_of(transaction, told));
            Answer { outcomes: outcomes.collect(), height, refused }
        }
        .boxed_local()
    }
}

fn outcome_of(transaction: &Transaction, submitted: Option<Submitted>) -> Outcome {
    match submitted {
        Some(Submitted { outcome: Some(outcome), .. }) => settled(transaction, outcome),
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
