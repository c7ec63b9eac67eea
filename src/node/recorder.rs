//! Puts grants on the chain's record, so that anyone can ask it who held a seat at which height.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use standin_consensus::actor::{Directory, LedgerReader, Replica, Submit};
use standin_foundation::{ClusterId, SecretKey, Term};
use standin_ledger::grant::{Cause, Grant};
use standin_ledger::history::RECORDED_AT_ONCE;
use standin_ledger::{Genesis, Outcome, SignedGrant, SystemTransaction};
use standin_stage::Address;
use tokio::sync::oneshot;

/// How often a node that holds a seat looks for grants that are not on record.
const INTERVAL: Duration = Duration::from_secs(1);
/// In so many looks one is for the grants of other clusters, too: theirs may have nobody who holds a seat any more.
const OTHERS_EVERY: u64 = 30;
/// How long the outcome of a transaction is waited for, before the grants are looked for again.
const OUTCOME_WAIT: Duration = Duration::from_secs(10);

/// What a node that holds a seat does so that grants are on record.
pub(super) struct Recorder {
    pub(super) genesis: Arc<Genesis>,
    pub(super) key: SecretKey,
    pub(super) cluster: ClusterId,
    pub(super) directory: Directory,
    pub(super) replica: Address<Replica>,
    pub(super) reader: LedgerReader,
    /// Grants that are on record, or never will be.
    pub(super) settled: BTreeSet<(ClusterId, Term)>,
}

impl Recorder {
    /// Looks for grants that are not on record, for as long as the replica runs.
    pub(super) async fn run(mut self) {
        let mut interval = tokio::time::interval(INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut looks = 0u64;
        while !self.replica.has_ended() {
            interval.tick().await;
            looks += 1;
            if self.directory.book.holder(self.directory.seat) == Some(self.directory.own) {
                self.look(looks.is_multiple_of(OTHERS_EVERY)).await;
            }
        }
    }

    async fn look(&mut self, others_too: bool) {
        let is_wanted = |grant: &Grant| {
            grant.cause != Cause::Ordered
                && (others_too || grant.cluster == self.cluster)
                && !self.settled.contains(&(grant.cluster.clone(), grant.term))
        };
        let unsettled = self.directory.book.matching(RECORDED_AT_ONCE, is_wanted);
        if unsettled.is_empty() {
            return;
        }
        let Some((on_record, missing)) = self.split(unsettled).await else { return };
        self.settle(&on_record);
        if !missing.is_empty() && self.submit(missing.clone()).await == Some(false) {
            // One that cannot be recorded must not keep the others out.
            for grant in missing {
                if let Some(false) = self.submit(vec![grant.clone()]).await {
                    self.settle(&[grant]);
                }
            }
        }
    }

    fn settle(&mut self, grants: &[SignedGrant]) {
        self.settled.extend(grants.iter().map(|signed| (signed.grant.cluster.clone(), signed.grant.term)));
    }

    /// Those that are on record, and those that can be put there: the epoch of the others has not begun on this node's chain.
    async fn split(&self, grants: Vec<SignedGrant>) -> Option<(Vec<SignedGrant>, Vec<SignedGrant>)> {
        let (sender, receiver) = oneshot::channel();
        // A busy or stopping node: at the next look.
        let taken = self.reader.read(move |ledger| {
            let newest = ledger.chain.entered_epochs().last().map(|table| table.epoch);
            let (on_record, missing): (Vec<_>, Vec<_>) =
                grants.into_iter().partition(|grant| ledger.chain.is_recorded(grant));
            let missing = missing.into_iter().filter(|signed| Some(signed.grant.epoch) <= newest).collect();
            drop(sender.send((on_record, missing)));
        });
        if taken { receiver.await.ok() } else { None }
    }

    /// Whether the chain took them; none if that is not known, since a quorum is not at hand, or too much waits.
    async fn submit(&self, grants: Vec<SignedGrant>) -> Option<bool> {
        let (sender, height) = oneshot::channel();
        self.reader.read(move |ledger| _ = sender.send(ledger.chain.height()));
        let record = SystemTransaction::Record(grants);
        let signed = record.sign(&self.genesis, &self.key, fastrand::u64(..), height.await.ok()?);
        let transaction = signed.inspect_err(|error| tracing::warn!(%error, "grants cannot be put on record")).ok()?;
        let submitted = self.replica.ask(Submit { transactions: vec![transaction] }, OUTCOME_WAIT).await;
        let outcome = submitted.ok()?.ok()?.pop()?;
        let finished = tokio::time::timeout(OUTCOME_WAIT, outcome).await.ok()?.ok()?;
        match finished.outcome {
            Outcome::Applied(_) => Some(true),
            Outcome::Rejected(reason) => {
                tracing::debug!(reason, "grants not put on record");
                Some(false)
            }
            _ => None,
        }
    }
}
