//! A source: it pushes data to a topic through any of several nodes, and says what is safe.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use standin_foundation::{Digest, Height, Millis, SecretKey};
use standin_ledger::transaction::TransactionBody;
use standin_ledger::{ClientSignatures, Genesis, LedgerError, Transaction};
use standin_publisher::frame::{Datum, Push};
use standin_publisher::machine::source::{Effect, Outcome, Source, SourceConfig, SourceRefused};
use standin_publisher::{Sequence, Topic};

use super::door::{Answer, Door, TOLD_WITHIN};
use crate::client::{Client, ClientError};

/// What is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledged {
    /// All data up to the one with this number are queued, and will be published, whatever dies. Numbers begin with 0 in each session.
    pub nonce: u64,
    /// The last one's place in the topic, if it was told.
    pub sequence: Option<Sequence>,
}

/// Why nothing more can be pushed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The datum, or the source.
    #[error(transparent)]
    Refused(#[from] SourceRefused),
    /// The chain or a node refuses what was pushed.
    #[error("refused: {0}")]
    Rejected(String),
    /// No node says what chain it is of.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// A node answers so long after that at the latest, if it answers at all.
const ANSWERED_WITHIN: Duration = Duration::from_millis(500);
/// Bytes of the pushes that are handed in at once.
const AT_ONCE_BYTES: usize = 768 * 1024;

/// A request under way: the nonces of its pushes, the node, and what it will answer; until then.
struct UnderWay<D: Door> {
    nonces: Vec<u64>,
    node: usize,
    answering: Pin<Box<D::Answering>>,
    until: tokio::time::Instant,
}

/// A source. Over HTTP it belongs to the thread that made it.
pub struct Publisher<D: Door = Client> {
    source: Source,
    topic: Topic,
    nodes: Vec<D>,
    /// The node through which it pushes.
    at: usize,
    chain: Digest,
    signatures: ClientSignatures,
    replay_window: u64,
    key: Arc<SecretKey>,
    height: Height,
    began: Instant,
    /// What is to be handed in next. Pushes must be ordered as they are numbered, and what is under way on different connections overtakes each other: so there is
    /// one request at a time, with all that is ready.
    ready: VecDeque<Push>,
    under_way: Option<UnderWay<D>>,
    /// Nodes that took nothing since one did, and why: one may not know what the chain has decided, or be wrong. When all have refused it, it is refused.
    refusals: BTreeMap<usize, String>,
    /// What is safe and was not told yet: each word stands for all before it.
    told: Option<Acknowledged>,
}

impl<D: Door> std::fmt::Debug for Publisher<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl Publisher {
    /// Begins a session, which must be higher than those of the key before: the time in µs is, and where the chain knows of a higher one, one above
    /// that is taken. An older process that pushes with the same key is shut out.
    pub async fn begin(
        nodes: Vec<Client>,
        topic: Topic,
        key: SecretKey,
        session: u64,
        config: SourceConfig,
    ) -> Result<Self, PublishError> {
        let mut error = ClientError::NotFound("no node is given".to_owned());
        for (at, node) in nodes.iter().enumerate() {
            let told = async {
                let known = match node.source(topic, &key.public()).await {
                    Ok(source) => source.session,
                    // The topic begins with its first datum; or whoever pushes may not read, and its clock has to do.
                    Err(ClientError::NotFound(_) | ClientError::NotAllowed(_)) => 0,
                    Err(error) => return Err(error),
                };
                Ok::<_, ClientError>((node.genesis().await?, node.status().await?.height, known))
            };
            match told.await {
                Ok((genesis, height, known)) => {
                    let session = session.max(known.saturating_add(1));
                    return Ok(Self::at(
                        nodes,
                        at,
                        (&genesis, height),
                        topic,
                        Arc::new(key),
                        Source::new(config, session, 0),
                    ));
                }
                Err(found) => error = found,
            }
        }
        Err(error.into())
    }
}

impl<D: Door> Publisher<D> {
    /// One that pushes through the node at a place, whose chain has come to a height.
    pub(crate) fn at(
        nodes: Vec<D>,
        at: usize,
        (genesis, height): (&Genesis, Height),
        topic: Topic,
        key: Arc<SecretKey>,
        source: Source,
    ) -> Self {
        let (ready, began) = (VecDeque::new(), Instant::now());
        let (signatures, replay_window) = (genesis.parameters.client_signatures, genesis.parameters.replay_window);
        let chain = genesis.digest();
        Self {
            source,
            topic,
            nodes,
            at,
            chain,
            signatures,
            replay_window,
            key,
            height,
            began,
            ready,
            under_way: None,
            refusals: BTreeMap::new(),
            told: None,
        }
    }

    /// Data that are not acknowledged.
    pub fn waiting(&self) -> usize {
        self.source.waiting()
    }

    fn now(&self) -> Millis {
        Millis(self.began.elapsed().as_millis() as u64)
    }

    /// Takes a datum; gives its number. It is pushed while [`Publisher::acknowledged`] is waited for.
    pub fn push(&mut self, datum: Datum) -> Result<u64, PublishError> {
        Ok(self.source.push(self.now(), datum)?)
    }

    /// Pushes, and waits until more is safe: for ever, where nothing is without an acknowledgement ([`Publisher::waiting`]). It may be waited for again
    /// whenever the wait was given up. Fails, from then on each time, once the chain or every node has refused a push.
    pub async fn acknowledged(&mut self) -> Result<Acknowledged, PublishError> {
        loop {
            let (effects, next) = self.source.due(self.now());
            self.carry_out(effects);
            if let Some(told) = self.told.take() {
                return Ok(told);
            }
            if let Some(why) = self.source.stopped() {
                return Err(PublishError::Rejected(why.to_owned()));
            }
            self.hand_in()?;
            let wait = next.map(|next| Duration::from_millis((next - self.now()).max(1)));
            let timer = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            let answer = async {
                match &mut self.under_way {
                    Some(UnderWay { answering, until, .. }) => tokio::time::timeout_at(*until, answering).await.ok(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                answer = answer => self.answered(answer),
                () = timer => {}
            }
        }
    }

    /// None: it was not answered in time.
    fn answered(&mut self, answer: Option<Answer>) {
        let Some(UnderWay { nonces, node, .. }) = self.under_way.take() else { return };
        let Answer { mut outcomes, height, refused } = answer.unwrap_or_else(|| Answer::unknown(nonces.len()));
        match refused {
            Some(why) => drop(self.refusals.insert(node, why)),
            None => self.refusals.clear(),
        }
        if self.refusals.len() >= self.nodes.len()
            && let Some(why) = self.refusals.get(&node)
        {
            let unknown = outcomes.iter_mut().find(|outcome| matches!(outcome, Outcome::Unknown));
            unknown.into_iter().for_each(|outcome| *outcome = Outcome::Refused(why.clone()));
        }
        self.height = height.map_or(self.height, |height| height.max(self.height));
        if outcomes.iter().any(|outcome| matches!(outcome, Outcome::Unknown)) && node == self.at {
            // Another node may know more.
            self.at = (self.at + 1) % self.nodes.len().max(1);
        }
        for (nonce, outcome) in nonces.into_iter().zip(outcomes) {
            let effects = self.source.outcome(self.now(), nonce, outcome);
            self.carry_out(effects);
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Push(push) => {
                    // What is handed in again stands in the place of what waits, and before what comes after it.
                    self.ready.retain(|ready| ready.nonce != push.nonce);
                    let place = self.ready.partition_point(|ready| ready.nonce < push.nonce);
                    self.ready.insert(place, push);
                }
                Effect::Acknowledged { nonce, sequence } => self.told = Some(Acknowledged { nonce, sequence }),
                // Whoever waits is told, now and whenever it waits again.
                Effect::Stopped { .. } => self.ready.clear(),
            }
        }
    }

    /// Hands in what is ready, unless something is under way.
    fn hand_in(&mut self) -> Result<(), PublishError> {
        let (node, mut bytes) = (self.at, 0);
        let Some(door) = self.nodes.get(node).filter(|_| self.under_way.is_none() && !self.ready.is_empty()) else {
            return Ok(());
        };
        let (mut nonces, mut transactions) = (Vec::new(), Vec::new());
        while let Some(push) =
            self.ready.front().filter(|push| bytes == 0 || bytes + push.content.bytes().len() <= AT_ONCE_BYTES)
        {
            bytes += push.content.bytes().len();
            transactions.push(self.signed(push).map_err(|error| PublishError::Rejected(error.to_string()))?);
            nonces.push(push.nonce);
            self.ready.pop_front();
        }
        let (answering, until) =
            (Box::pin(door.hand_in(transactions)), tokio::time::Instant::now() + TOLD_WITHIN + ANSWERED_WITHIN);
        self.under_way = Some(UnderWay { nonces, node, answering, until });
        Ok(())
    }

    fn signed(&self, push: &Push) -> Result<Transaction, LedgerError> {
        let expires = self.height.plus(self.replay_window / 2);
        let body = TransactionBody {
            title: self.topic.title(),
            nonce: fastrand::u64(..),
            expires,
            payload: push.to_payload(),
        };
        match self.signatures {
            ClientSignatures::Required => Transaction::sign(&self.chain, &self.key, &body),
            ClientSignatures::None => Transaction::unsigned(&self.key.public(), &body),
        }
    }
}
