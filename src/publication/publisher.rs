//! A source: it pushes data to a topic through any of several nodes, and says what is safe.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use standin_foundation::{Digest, Height, Millis, SecretKey};
use standin_ledger::transaction::TransactionBody;
use standin_ledger::{Genesis, Outcome as LedgerOutcome, Transaction};
use standin_publisher::frame::{Datum, Push};
use standin_publisher::machine::source::{Effect, Outcome, Source, SourceConfig, SourceRefused};
use standin_publisher::state_machine::events_of;
use standin_publisher::{Sequence, Topic};

use crate::api::Submitted;
use crate::client::{Client, ClientError};

/// An outcome is waited for so long before the push is handed in again.
const OUTCOME_WAIT: Duration = Duration::from_secs(5);

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

type Answer = (u64, usize, Option<Height>, Outcome);

/// A source. It belongs to the thread that made it.
pub struct Publisher {
    source: Source,
    topic: Topic,
    nodes: Vec<Client>,
    /// The node through which it pushes.
    at: usize,
    chain: Digest,
    genesis: Genesis,
    key: SecretKey,
    height: Height,
    began: Instant,
    under_way: FuturesUnordered<LocalBoxFuture<'static, Answer>>,
    told: VecDeque<Acknowledged>,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl Publisher {
    /// Begins a session, which must be higher than those of the key before: the time in µs is.
    pub async fn begin(
        nodes: Vec<Client>,
        topic: Topic,
        key: SecretKey,
        session: u64,
        config: SourceConfig,
    ) -> Result<Self, PublishError> {
        let mut error = ClientError::NotFound("no node is given".to_owned());
        for (at, node) in nodes.iter().enumerate() {
            let told = async { Ok::<_, ClientError>((node.genesis().await?, node.status().await?.height)) };
            match told.await {
                Ok((genesis, height)) => {
                    return Ok(Self {
                        source: Source::new(config, session, 0),
                        topic,
                        at,
                        chain: genesis.digest(),
                        genesis,
                        key,
                        height,
                        began: Instant::now(),
                        under_way: FuturesUnordered::new(),
                        told: VecDeque::new(),
                        nodes,
                    });
                }
                Err(found) => error = found,
            }
        }
        Err(error.into())
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

    /// Pushes, and waits until more is safe. It may be waited for again whenever the wait was given up.
    pub async fn acknowledged(&mut self) -> Result<Acknowledged, PublishError> {
        loop {
            let (effects, next) = self.source.due(self.now());
            self.carry_out(effects)?;
            if let Some(told) = self.told.pop_front() {
                return Ok(told);
            }
            let wait = next.map(|next| Duration::from_millis((next - self.now()).max(1)));
            let timer = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(answer) = self.under_way.next() => {
                    let (nonce, node, height, outcome) = answer;
                    self.height = height.map_or(self.height, |height| height.max(self.height));
                    if matches!(outcome, Outcome::Unknown) && node == self.at {
                        // Another node may know more.
                        self.at = (self.at + 1) % self.nodes.len().max(1);
                    }
                    let effects = self.source.outcome(self.now(), nonce, outcome);
                    self.carry_out(effects)?;
                }
                () = timer => {}
            }
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) -> Result<(), PublishError> {
        for effect in effects {
            match effect {
                Effect::Push(push) => self.hand_in(&push),
                Effect::Acknowledged { nonce, sequence } => self.told.push_back(Acknowledged { nonce, sequence }),
                Effect::Stopped { why } => return Err(PublishError::Rejected(why)),
            }
        }
        Ok(())
    }

    fn hand_in(&mut self, push: &Push) {
        let (nonce, node) = (push.nonce, self.at);
        let Some(client) = self.nodes.get(node).cloned() else { return };
        let expires = self.height.plus(self.genesis.parameters.replay_window / 2);
        let body = TransactionBody {
            title: self.topic.title(),
            nonce: fastrand::u64(..),
            expires,
            payload: push.to_payload(),
        };
        let signed = match self.genesis.parameters.client_signatures {
            standin_ledger::ClientSignatures::Required => Transaction::sign(&self.chain, &self.key, &body),
            standin_ledger::ClientSignatures::None => Transaction::unsigned(&self.key.public(), &body),
        };
        self.under_way.push(Box::pin(async move {
            let transaction = match signed {
                Ok(transaction) => transaction,
                Err(error) => return (nonce, node, None, Outcome::Refused(error.to_string())),
            };
            let submitted = client.submit(std::slice::from_ref(&transaction), OUTCOME_WAIT).await;
            // The head may be far beyond what the source knows of it.
            let expired = matches!(&submitted, Ok(all) if matches!(all.first(), Some(Submitted { outcome: Some(LedgerOutcome::Expired), .. })));
            let height = match expired {
                true => client.status().await.ok().map(|status| status.height),
                false => submitted.as_ref().ok().and_then(|all| all.first()?.height),
            };
            (nonce, node, height, outcome_of(&transaction, submitted))
        }));
    }
}

fn outcome_of(transaction: &Transaction, submitted: Result<Vec<Submitted>, ClientError>) -> Outcome {
    let submitted = match submitted {
        Ok(submitted) => submitted.into_iter().next(),
        Err(ClientError::Refused(why) | ClientError::NotAllowed(why)) => return Outcome::Refused(why),
        // A node that is being taken out of service, too: another one takes it.
        Err(_) => None,
    };
    match submitted {
        Some(Submitted { outcome: Some(LedgerOutcome::Applied(output)), .. }) => {
            events_of(transaction, &output).into_iter().next().map_or(Outcome::Unknown, Outcome::Event)
        }
        Some(Submitted { outcome: Some(LedgerOutcome::Rejected(why)), .. }) => Outcome::Refused(why),
        // A rate that is used up is no reason to give up.
        Some(Submitted { refused: Some(why), .. }) if !why.ends_with("try again in a moment") => Outcome::Refused(why),
        _ => Outcome::Unknown,
    }
}
