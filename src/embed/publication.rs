//! Publication at the program's own node: a source that pushes through it, and a terminal that reads its journal.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use standin_consensus::actor::Finished;
use standin_foundation::Digest;
use standin_ledger::{GrantBook, Transaction};
use standin_publisher::machine::source::{Outcome, Source, SourceConfig};
use standin_publisher::machine::terminal::{Alarm, Counters, Position, Terminal, Verdict};
use standin_publisher::terminal::ToTerminal;
use standin_publisher::{Topic, record};

use super::{Application, Node, SubmitError};
use crate::node::{Begin, Feed, FeedError};
use crate::publication::{Answer, Delivered, Door, Publisher, TOLD_WITHIN, settled};

impl<S: Application> Door for Node<S> {
    type Answering = BoxFuture<'static, Answer>;

    fn hand_in(&self, transactions: Vec<Transaction>) -> Self::Answering {
        let node = self.clone();
        async move {
            let ordered = node.ordered_all(&transactions).await;
            let outcomes = transactions.iter().zip(ordered).map(|(transaction, ordered)| match ordered {
                Ok(finished) => settled(transaction, finished.outcome),
                Err(SubmitError::Rejected { reason, .. }) => Outcome::Refused(reason),
                Err(error @ (SubmitError::Stopped | SubmitError::Encode(_))) => Outcome::Refused(error.to_string()),
                // It is handed in again.
                Err(_) => Outcome::Unknown,
            });
            Answer { outcomes: outcomes.collect(), height: node.height().await.ok(), refused: None }
        }
        .boxed()
    }
}

impl<S: Application> Node<S> {
    /// Has transactions ordered as they stand; what became of each.
    async fn ordered_all(&self, transactions: &[Transaction]) -> Vec<Result<Finished, SubmitError>> {
        let all = |error: SubmitError| vec![Err(error); transactions.len()];
        let checked = match self.checked(transactions.to_vec()).await {
            Ok(checked) => checked,
            Err(error) => return all(error),
        };
        let sound: Vec<_> = checked.iter().filter_map(|checked| checked.as_ref().ok().cloned()).collect();
        let mut outcomes = match self.enqueued(sound).await {
            Ok(outcomes) => outcomes.into_iter(),
            Err(error) => return all(error),
        };
        let deadline = tokio::time::Instant::now() + TOLD_WITHIN;
        let mut ordered = Vec::with_capacity(transactions.len());
        for (transaction, checked) in transactions.iter().zip(checked) {
            let unknown = SubmitError::OutcomeUnknown { id: transaction.id() };
            if let Err(refused) = checked {
                ordered.push(Err(refused));
                continue;
            }
            ordered.push(match outcomes.next() {
                Some(outcome) => match tokio::time::timeout_at(deadline, outcome).await {
                    Ok(Ok(finished)) => Ok(finished),
                    _ => Err(unknown),
                },
                None => Err(unknown),
            });
        }
        ordered
    }
}

/// Why a terminal at the own node cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FollowingError {
    /// The node does not serve it.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// What the node gives contradicts what the terminal has.
    #[error(transparent)]
    Alarm(#[from] Alarm),
}

/// A terminal at the own node.
#[derive(Debug)]
pub struct Following {
    feed: Feed,
    machine: Terminal,
    chain: Digest,
    book: Arc<GrantBook>,
}

impl Following {
    /// The next frame. It may be waited for again whenever the wait was given up.
    pub async fn next(&mut self) -> Result<Delivered, FollowingError> {
        loop {
            match self.feed.next_message()? {
                None => self.feed.changed().await?,
                Some(ToTerminal::Takeover(proof)) => {
                    let fence = proof.takeover.fence;
                    let proven = proof.verify(&self.chain, &*self.book);
                    match self.machine.takeover(&proven.map_err(|why| Alarm::Unproven { fence, why })?) {
                        // The newest epoch's seats will say so, too.
                        Ok(()) | Err(Alarm::Retired { .. }) => {}
                        Err(alarm) => return Err(alarm.into()),
                    }
                }
                Some(ToTerminal::Frame(published)) => match self.machine.frame(published) {
                    Verdict::Deliver { entry, content, position } => {
                        self.feed.acknowledge(position.last);
                        return Ok(Delivered { entry, data: content.data(), position });
                    }
                    Verdict::Alarm(alarm) => return Err(alarm.into()),
                    // A journal keeps its order: there is nothing else than what came before.
                    Verdict::Repeated | Verdict::Stale { .. } | Verdict::Unproven { .. } | Verdict::Gap { .. } => {
                        self.feed.acknowledge(self.machine.position().last);
                    }
                },
                Some(ToTerminal::Start(_) | ToTerminal::Refused { .. }) => {}
            }
        }
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.machine.counters()
    }

    /// Where it stands behind the last frame: to be stored with what the data do.
    pub fn position(&self) -> Position {
        self.machine.position()
    }
}

impl<S: Application> Node<S> {
    /// A source that pushes to a topic through this node, with the node's own client key. What it has acknowledged will be published, whatever dies. A later
    /// source of the same key and topic shuts this one out.
    pub async fn publish(&self, topic: Topic) -> Result<Publisher<Self>, SubmitError> {
        let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
        let (height, key) = (self.height().await?, Arc::clone(&self.inner.key));
        // The clock may stand before where it stood.
        let own = key.public();
        let known = self.read(move |ledger| record::source(ledger.chain.state(), topic, &own).session).await?;
        let source = Source::new(SourceConfig::default(), micros.max(known.saturating_add(1)), 0);
        Ok(Publisher::at(vec![self.clone()], 0, (&self.inner.handle.genesis, height), topic, key, source))
    }

    /// Follows a topic at this node: each datum once, in order, without a gap, also while other nodes publish. What another node publishes is seen when the chain
    /// says so, some 20 ms later.
    pub async fn follow(&self, topic: Topic, begin: Begin) -> Result<Following, FollowingError> {
        let handle = &self.inner.handle;
        handle.topics_current().await;
        let (feed, position) = Feed::begin(handle.publication.clone(), topic, begin, false)?;
        let (chain, book) = (handle.genesis.digest(), Arc::clone(&handle.book));
        Ok(Following { feed, machine: Terminal::new(topic, position), chain, book })
    }
}
