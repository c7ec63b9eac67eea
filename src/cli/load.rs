//! Signed load on a network, and the judgement of what became of it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use standin::client::{Client, ClientError};
use standin_foundation::{Digest, Height, SecretKey};
use standin_ledger::{Genesis, Outcome, Transaction, TransactionId};
use tokio::task::JoinHandle;

use super::Failure;
use super::inputs::Line;
use super::network::Network;
use super::submit::unique_nonce;

/// Interval at which transactions are made.
const TICK: Duration = Duration::from_millis(10);
/// How long one request waits for outcomes before the same transactions are submitted at another node.
const OUTCOME_WAIT: Duration = Duration::from_secs(3);
/// Transactions whose outcome stays unknown are submitted again for this long.
const GIVE_UP: Duration = Duration::from_secs(60);
/// Transactions that may be without an outcome: above this none is made.
const OPEN_MAX: usize = 20_000;

/// What became of the load so far.
#[derive(Debug, Default)]
struct Tally {
    /// What a node told the client: applied, not applied, or nothing yet.
    outcomes: BTreeMap<TransactionId, Option<bool>>,
    /// In ms, of those with an outcome.
    latencies: Vec<u64>,
    /// The highest block that a client was told of: transactions live from there.
    height: Height,
    open: usize,
    stopping: bool,
}

/// A running load.
#[derive(Debug)]
pub(super) struct Load {
    tally: Rc<RefCell<Tally>>,
    task: JoinHandle<()>,
    begun: Instant,
}

/// The numbers of a finished load.
#[derive(Debug, Clone, Default)]
pub(super) struct Judgement {
    pub(super) submitted: u64,
    pub(super) committed: u64,
    pub(super) rejected: u64,
    pub(super) lost: u64,
    pub(super) doubled: u64,
    pub(super) forks: u64,
    pub(super) height: Height,
    pub(super) tps: f64,
    pub(super) p50_ms: u64,
    pub(super) p99_ms: u64,
}

struct Source {
    clients: Vec<Client>,
    genesis: Genesis,
    key: SecretKey,
    rate: u64,
    tally: Rc<RefCell<Tally>>,
}

impl Load {
    /// Begins to submit `rate` transactions a second, spread over all nodes.
    pub(super) fn start(network: &Network, rate: u64) -> Result<Self, Failure> {
        let tally = Rc::new(RefCell::new(Tally::default()));
        let source = Rc::new(Source {
            clients: network.clients().to_vec(),
            genesis: network.files().genesis.clone(),
            key: network.client_key()?,
            rate,
            tally: Rc::clone(&tally),
        });
        Ok(Self { tally, task: actix::spawn(source.run()), begun: Instant::now() })
    }

    /// Transactions with an outcome so far.
    pub(super) fn finished(&self) -> usize {
        self.tally.borrow().latencies.len()
    }

    /// Ends the load, waits until every transaction has an outcome, and compares what clients were told with the chains of
    /// all nodes that run.
    pub(super) async fn judge(self, network: &mut Network) -> Result<Judgement, Failure> {
        self.tally.borrow_mut().stopping = true;
        let made_for = self.begun.elapsed();
        self.task.await.map_err(|error| Failure::new(1, format!("the load ended early: {error}")))?;
        network.wait_level(Duration::from_secs(30)).await?;
        let mut chains = Vec::new();
        for seat in 0..network.size() {
            if network.is_running(seat) {
                chains.push(read_chain(network.client(seat)?).await?);
            }
        }
        let tally = self.tally.borrow();
        let mut judgement = compare(&tally.outcomes, &chains);
        let mut histogram = Histogram::<u64>::new(3).map_err(|error| Failure::new(1, error.to_string()))?;
        for latency in &tally.latencies {
            histogram.record(*latency).map_err(|error| Failure::new(1, error.to_string()))?;
        }
        judgement.p50_ms = histogram.value_at_quantile(0.5);
        judgement.p99_ms = histogram.value_at_quantile(0.99);
        judgement.tps = (judgement.committed as f64 / made_for.as_secs_f64() * 10.0).round() / 10.0;
        Ok(judgement)
    }
}

impl Source {
    async fn run(self: Rc<Self>) {
        let mut tick = tokio::time::interval(TICK);
        let begun = Instant::now();
        let base = unique_nonce();
        let mut made = 0u64;
        let mut sequence = 0usize;
        while !self.tally.borrow().stopping {
            tick.tick().await;
            let due = (begun.elapsed().as_secs_f64() * self.rate as f64) as u64;
            let count = due.saturating_sub(made);
            made = due;
            if count == 0 || self.tally.borrow().open > OPEN_MAX {
                continue;
            }
            sequence += 1;
            let transactions: Vec<_> =
                (made - count..made).filter_map(|number| self.transaction(base.wrapping_add(number))).collect();
            let mut tally = self.tally.borrow_mut();
            tally.open += transactions.len();
            tally.outcomes.extend(transactions.iter().map(|transaction| (transaction.id(), None)));
            drop(tally);
            actix::spawn(Rc::clone(&self).follow(transactions, sequence));
        }
        let deadline = Instant::now() + GIVE_UP;
        while self.tally.borrow().open > 0 && Instant::now() < deadline {
            tick.tick().await;
        }
    }

    fn transaction(&self, nonce: u64) -> Option<Transaction> {
        let title = "demo".parse().ok()?;
        let line = Line::Put { title, key: format!("key-{}", nonce % 5_000), value: format!("value {nonce}") };
        let height = self.tally.borrow().height;
        line.sign(&self.genesis, &self.key, nonce, height).ok()
    }

    /// Submits transactions until each has an outcome, at another node after each try. They are the same transactions, so
    /// trying again cannot double anything.
    async fn follow(self: Rc<Self>, transactions: Vec<Transaction>, first: usize) {
        let begun = Instant::now();
        let mut open = transactions;
        let mut attempt = first;
        while !open.is_empty() && begun.elapsed() < GIVE_UP {
            let Some(client) = self.clients.get(attempt % self.clients.len()) else { return };
            attempt += 1;
            match tokio::time::timeout(OUTCOME_WAIT * 2, client.submit(&open, OUTCOME_WAIT)).await {
                Ok(Ok(results)) => {
                    let highest = results.iter().filter_map(|result| result.height).max().unwrap_or_default();
                    let known: BTreeMap<_, _> =
                        results.into_iter().filter_map(|result| Some((result.id, result.outcome?))).collect();
                    self.note(&known, begun);
                    let mut tally = self.tally.borrow_mut();
                    tally.height = tally.height.max(highest);
                    drop(tally);
                    open.retain(|transaction| !known.contains_key(&transaction.id()));
                }
                _ => tokio::time::sleep(TICK).await,
            }
        }
    }

    fn note(&self, known: &BTreeMap<TransactionId, Outcome>, begun: Instant) {
        let mut tally = self.tally.borrow_mut();
        for (id, outcome) in known {
            // A duplicate has taken effect before, under the same id.
            let applied = matches!(outcome, Outcome::Applied(_) | Outcome::Duplicate);
            if let Some(place) = tally.outcomes.get_mut(id)
                && place.is_none()
            {
                *place = Some(applied);
                tally.open -= 1;
                tally.latencies.push(begun.elapsed().as_millis() as u64);
            }
        }
    }
}

/// A node's chain as far as it can be read: hashes, and applied transactions with how often.
struct ReadChain {
    /// The first block that the node has, or will have: it began with a snapshot if that is not the chain's first.
    first: Height,
    hashes: BTreeMap<Height, Digest>,
    applied: BTreeMap<TransactionId, u64>,
}

impl ReadChain {
    /// Whether no block is missing: a node that took a snapshot does not have the blocks before it, and may have none behind it.
    fn is_whole(&self) -> bool {
        self.first == Height(1)
    }
}

async fn read_chain(client: &Client) -> Result<ReadChain, Failure> {
    let mut chain = ReadChain { first: Height(1), hashes: BTreeMap::new(), applied: BTreeMap::new() };
    let mut from = chain.first;
    loop {
        let blocks = match client.blocks(from, 200).await {
            Err(ClientError::Gone { first, .. }) if first > from => {
                (chain.first, from) = (first, first);
                continue;
            }
            blocks => blocks?,
        };
        let Some(last) = blocks.last().map(|block| block.height) else { return Ok(chain) };
        for block in blocks {
            chain.hashes.insert(block.height, block.hash);
            for receipt in block.receipts.iter().filter(|receipt| receipt.outcome.is_applied()) {
                *chain.applied.entry(receipt.transaction).or_default() += 1;
            }
        }
        from = last.next();
    }
}

fn compare(outcomes: &BTreeMap<TransactionId, Option<bool>>, chains: &[ReadChain]) -> Judgement {
    let mut judgement = Judgement { submitted: outcomes.len() as u64, ..Judgement::default() };
    for (id, outcome) in outcomes {
        match outcome {
            Some(true) => {
                judgement.committed += 1;
                let whole = chains.iter().filter(|chain| chain.is_whole());
                if whole.clone().count() == 0 || whole.clone().any(|chain| !chain.applied.contains_key(id)) {
                    judgement.lost += 1;
                }
            }
            Some(false) => judgement.rejected += 1,
            None => {}
        }
    }
    let doubled = |chain: &ReadChain| chain.applied.values().filter(|count| **count > 1).count() as u64;
    judgement.doubled = chains.iter().map(doubled).max().unwrap_or(0);
    let mut agreed: BTreeMap<Height, Digest> = BTreeMap::new();
    for (height, hash) in chains.iter().flat_map(|chain| &chain.hashes) {
        judgement.forks += u64::from(*agreed.entry(*height).or_insert(*hash) != *hash);
    }
    judgement.height = agreed.last_key_value().map(|(height, _)| *height).unwrap_or_default();
    judgement
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> TransactionId {
        hex::encode([n; 32]).parse().unwrap()
    }

    /// A chain with one transaction a block, named after its height.
    fn chain(heights: std::ops::RangeInclusive<u64>) -> ReadChain {
        let hashes = heights.clone().map(|height| (Height(height), Digest::sha256(&height.to_be_bytes()))).collect();
        ReadChain {
            first: Height(*heights.start()),
            hashes,
            applied: heights.map(|height| (id(height as u8), 1)).collect(),
        }
    }

    /// A node whose disk was lost has the blocks behind its snapshot only, or none yet: it does not say what was lost before.
    #[test]
    fn a_chain_that_begins_with_a_snapshot_loses_nothing() {
        let committed = (1..=9).map(|n| (id(n), Some(true))).collect();
        let none_yet = ReadChain { first: Height(9), hashes: BTreeMap::new(), applied: BTreeMap::new() };
        for short in [chain(5..=9), chain(8..=9), none_yet] {
            let judgement = compare(&committed, &[chain(1..=9), short]);
            assert_eq!((judgement.committed, judgement.lost, judgement.forks), (9, 0, 0));
        }
        assert_eq!(compare(&committed, &[chain(1..=9), chain(1..=8)]).lost, 1, "a whole chain must have all");
        let lost_all = ReadChain { first: Height(1), hashes: BTreeMap::new(), applied: BTreeMap::new() };
        assert_eq!(compare(&committed, &[chain(1..=9), lost_all]).lost, 9, "it did not begin with a snapshot");
        assert_eq!(compare(&committed, &[chain(2..=9)]).lost, 9, "nobody shows what became of them");
        let mut forked = chain(5..=9);
        forked.hashes.insert(Height(7), Digest::ZERO);
        assert_eq!(compare(&committed, &[chain(1..=9), forked]).forks, 1);
    }
}
