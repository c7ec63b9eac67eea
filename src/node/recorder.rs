//! Puts grants on the chain's record, so that anyone can ask it who held a seat at which height.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use standin_consensus::actor::{Directory, LedgerReader, Replica, Submit};
use standin_foundation::{ClusterId, Digest, Encoder, Height, SecretKey};
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
    /// Grants that are on record, or never will be, by their digests.
    pub(super) settled: BTreeSet<Digest>,
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
                && !self.settled.contains(&grant.digest())
        };
        let unsettled = self.directory.book.matching(is_wanted);
        // By rising term: whatever is put there behind a later one does not say any more who held the seat.
        let Some(mut missing) = self.missing(unsettled).await else { return };
        missing.truncate(RECORDED_AT_ONCE);
        if missing.is_empty() || self.submit(&missing).await != Some(false) {
            return;
        }
        // Another node was faster, or one of them cannot be recorded: that must not keep the others out.
        for grant in self.missing(missing).await.unwrap_or_default() {
            if self.submit(std::slice::from_ref(&grant)).await == Some(false) {
                self.settled.insert(grant.grant.digest());
            }
        }
    }

    /// Those that are not on record and can be put there: the epoch of others has not begun on this node's chain. None from a node that is
    /// busy or stops: at the next look.
    async fn missing(&mut self, grants: Vec<SignedGrant>) -> Option<Vec<SignedGrant>> {
        if grants.is_empty() {
            return Some(grants);
        }
        let (sender, receiver) = oneshot::channel();
        let taken = self.reader.read(move |ledger| {
            let newest = ledger.chain.entered_epochs().last().map(|table| table.epoch);
            let (on_record, missing): (Vec<_>, Vec<_>) =
                grants.into_iter().partition(|grant| ledger.chain.is_recorded(grant));
            let missing: Vec<_> = missing.into_iter().filter(|signed| Some(signed.grant.epoch) <= newest).collect();
            drop(sender.send((on_record, missing)));
        });
        let (on_record, missing) = if taken { receiver.await.ok()? } else { return None };
        self.settled.extend(on_record.iter().map(|signed| signed.grant.digest()));
        Some(missing)
    }

    /// Whether the chain took them; none if that is not known, since a quorum is not at hand, or too much waits.
    async fn submit(&self, grants: &[SignedGrant]) -> Option<bool> {
        let (sender, height) = oneshot::channel();
        self.reader.read(move |ledger| _ = sender.send(ledger.chain.height()));
        // The same transaction for a while, however often it is tried: while there is no quorum nothing piles up.
        let while_blocks = (self.genesis.parameters.replay_window / 4).max(1);
        let height = Height(height.await.ok()?.0 / while_blocks * while_blocks);
        let record = SystemTransaction::Record(grants.to_vec());
        let signed = record.sign(&self.genesis, &self.key, nonce_of(grants), height);
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

fn nonce_of(grants: &[SignedGrant]) -> u64 {
    let mut out = Encoder::default();
    grants.iter().for_each(|signed| _ = out.digest(&signed.grant.digest()));
    let digest = Digest::sha256(&out.into_bytes());
    digest.as_bytes().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}
