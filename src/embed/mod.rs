//! A node inside a program of one's own: a builder, an application of one's own types, and what a program asks of the chain.
//!
//! A node's actors run on threads of their own. A [`Node`] is a handle: cheap to clone, and usable from any thread and any runtime of the
//! program. There are no globals: many nodes live in one process, logging and signals are the program's.

mod application;
mod auth;
mod blocks;
mod publication;
mod running;

use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use actix_web::web::ServiceConfig;
use prometheus_client::registry::Registry;
use standin_consensus::actor::{Finished, Ledger, ReadRefused, Submit};
use standin_foundation::{Height, SecretKey};
use standin_ledger::store::StoreError;
use standin_ledger::transaction::TransactionBody;
use standin_ledger::{Outcome, Reject, SystemTransaction, Title, Transaction, TransactionId};
use standin_stage::CallError;
use tokio::sync::oneshot;

pub use application::{Application, Call, Store, StoreView};
pub use auth::{AuthBuilder, AuthNode};
pub use blocks::{Block, BlocksError, Entry};
pub use publication::{Following, FollowingError};

use crate::api;
use crate::config::{ConfigError, NodeConfig};
use crate::node::{MemberNode, NodeError, NodeHandle};
use application::{BARRIER, Typed};
use running::Running;

/// How long [`Node::submit`] waits for an outcome, unless the builder says otherwise.
const SUBMIT_WITHIN: Duration = Duration::from_secs(30);
/// A transaction without an outcome is handed in again after this time.
const ASKED_AGAIN: Duration = Duration::from_secs(1);
/// The replica may take so long to take what is handed in.
const ENQUEUED_WITHIN: Duration = Duration::from_secs(5);

/// What a node is started from. See [`Node::builder`].
#[derive(Debug)]
pub struct Builder<S> {
    application: S,
    config: Option<NodeConfig>,
    config_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    submit_within: Duration,
}

impl<S: Application> Builder<S> {
    /// The node's configuration, from a file; the environment (`STANDIN__SECTION__KEY`) goes on top.
    #[must_use]
    pub fn config_file(self, path: impl AsRef<Path>) -> Self {
        Self { config_file: Some(path.as_ref().to_owned()), ..self }
    }

    /// The node's configuration, in the place of a file.
    #[must_use]
    pub fn config(self, config: NodeConfig) -> Self {
        Self { config: Some(config), ..self }
    }

    /// The key that signs what the program submits. Without one it is the node's own.
    #[must_use]
    pub fn key_file(self, path: impl AsRef<Path>) -> Self {
        Self { key_file: Some(path.as_ref().to_owned()), ..self }
    }

    /// How long [`Node::submit`] waits for an outcome before it says that it is unknown.
    #[must_use]
    pub fn submit_within(self, within: Duration) -> Self {
        Self { submit_within: within, ..self }
    }

    /// Starts the node: opens log and store, and joins the others.
    pub async fn start(self) -> Result<Node<S>, NodeError> {
        let config = match (self.config, self.config_file) {
            (Some(config), _) => config,
            (None, Some(path)) => NodeConfig::read(&path)?,
            (None, None) => return Err(ConfigError::Missing.into()),
        };
        let key = SecretKey::read(self.key_file.as_ref().unwrap_or(&config.key_file))?;
        let title = self.application.title().parse().map_err(|error| NodeError::Title(format!("{error}")))?;
        let machine = Arc::new(Typed(self.application));
        let start = move || {
            let node = MemberNode::start_with(&config, machine, None)?;
            Ok((node.handle().clone(), node))
        };
        let (handle, running) = Running::start(start).await?;
        let key = Arc::new(key);
        let inner = Inner { handle, running, key, title, submit_within: self.submit_within };
        Ok(Node { inner: Arc::new(inner), application: PhantomData })
    }
}

struct Inner {
    handle: NodeHandle,
    running: Running,
    key: Arc<SecretKey>,
    title: Title,
    submit_within: Duration,
}

/// A member of a consortium chain that runs in this process. Cheap to clone; when the last clone goes, the node stops.
pub struct Node<S: Application> {
    inner: Arc<Inner>,
    application: PhantomData<fn() -> S>,
}

impl<S: Application> Clone for Node<S> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), application: PhantomData }
    }
}

impl<S: Application> std::fmt::Debug for Node<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Node").field(&self.inner.handle.name).finish()
    }
}

/// A command that took effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed<T> {
    /// Its id.
    pub id: TransactionId,
    /// Height of its block.
    pub height: Height,
    /// Its place there.
    pub index: usize,
    /// What came of it.
    pub output: T,
}

/// Why a command did not take effect, or may not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The application refuses it: nothing changed, and nothing will.
    #[error("refused: {reason}")]
    Rejected {
        /// Why.
        reason: String,
        /// The block in which its refusal stands; none where it was refused before it was ordered.
        height: Option<Height>,
    },
    /// It was too late to be ordered: it took no effect, and never will. Submitting it anew is safe.
    #[error("the command came too late, and took no effect: submit it again")]
    Expired,
    /// Nothing is known of it in time: it may take effect yet. [`Node::outcome`] tells; [`Node::submit_prepared`] with the same transaction never
    /// makes it take effect twice.
    #[error("the outcome of {id} is not known yet: it may take effect")]
    OutcomeUnknown {
        /// Its id.
        id: TransactionId,
    },
    /// The node has too much to do: it was not taken. Wait a moment.
    #[error("the node is busy: {0}")]
    Busy(String),
    /// An operator has set the node so that it takes nothing.
    #[error("{0} takes no transactions: use another node")]
    NotServing(String),
    /// The node stops, or has stopped.
    #[error("the node has stopped")]
    Stopped,
    /// The node's store cannot be read.
    #[error("the store: {0}")]
    Store(String),
    /// The application panicked while it was asked, or the node stopped just then: see its log.
    #[error("the read was not carried out to its end: see the node's log")]
    ReadFailed,
    /// The command cannot be put into a transaction.
    #[error("the command cannot be encoded: {0}")]
    Encode(String),
    /// What came back is of another type: another version of the application made it.
    #[error("the output of {id} cannot be read: {what}")]
    Output {
        /// The transaction.
        id: TransactionId,
        /// What is wrong.
        what: String,
    },
}

/// How new a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// What this node has executed: at once, and maybe behind the others.
    Local,
    /// At least this block: what was committed there is seen. Waits for it.
    AtLeast(Height),
    /// All that was committed anywhere before the read began: costs a place in the order, and waits for it.
    Linearizable,
}

/// An answer, and how new it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered<T> {
    /// The answer.
    pub answer: T,
    /// It is of the state after this block.
    pub height: Height,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// The application does not answer that.
    #[error("refused: {0}")]
    Rejected(String),
    /// The node was not new enough in time.
    #[error("the node has come to block {at} in time, and not to {wanted}")]
    Behind {
        /// Where it is.
        at: Height,
        /// Where it was to be.
        wanted: Height,
    },
    /// The node does not read now, or a place in the order could not be had.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// The question or the answer is of another type.
    #[error("the question or its answer cannot be encoded: {0}")]
    Encode(String),
}

impl<S: Application> Node<S> {
    /// Begins to describe a node that runs this application.
    pub fn builder(application: S) -> Builder<S> {
        Builder { application, config: None, config_file: None, key_file: None, submit_within: SUBMIT_WITHIN }
    }

    /// Has a command ordered and carried out; gives what came of it when it is final.
    pub async fn submit(&self, command: &S::Command) -> Result<Committed<S::Output>, SubmitError> {
        self.submit_prepared(&self.prepare(command).await?).await
    }

    /// Signs a command without submitting it: a program that keeps the transaction can submit it again after a crash, and it takes
    /// effect once.
    pub async fn prepare(&self, command: &S::Command) -> Result<Transaction, SubmitError> {
        self.sign(serde_json::to_vec(command).map_err(|error| SubmitError::Encode(error.to_string()))?).await
    }

    async fn sign(&self, payload: Vec<u8>) -> Result<Transaction, SubmitError> {
        let Inner { handle, key, title, .. } = &*self.inner;
        let height = self.height().await?;
        let expires = height.plus(handle.genesis.parameters.replay_window / 2);
        let body = TransactionBody { title: *title, nonce: fastrand::u64(..), expires, payload };
        Transaction::sign(&handle.genesis.digest(), key, &body).map_err(|error| SubmitError::Encode(error.to_string()))
    }

    /// Has the chain carry out what operators have ordered and approved; gives the block in which it was. This node's key signs the transaction, and counts
    /// for nothing in it.
    pub async fn carry_out(&self, order: &SystemTransaction) -> Result<Height, SubmitError> {
        let Inner { handle, key, .. } = &*self.inner;
        let signed = order.sign(&handle.genesis, key, fastrand::u64(..), self.height().await?);
        let transaction = signed.map_err(|error| SubmitError::Encode(error.to_string()))?;
        let Finished { height, outcome, .. } = self.ordered(&transaction).await?;
        match outcome {
            Outcome::Applied(_) => Ok(height),
            Outcome::Rejected(reason) => Err(SubmitError::Rejected { reason, height: Some(height) }),
            Outcome::Duplicate => Err(SubmitError::OutcomeUnknown { id: transaction.id() }),
            Outcome::Expired => Err(SubmitError::Expired),
        }
    }

    /// Submits a transaction that [`Node::prepare`] has signed. One that was ordered before gets the outcome that it has.
    pub async fn submit_prepared(&self, transaction: &Transaction) -> Result<Committed<S::Output>, SubmitError> {
        self.settled(transaction.id(), self.ordered(transaction).await?)
    }

    async fn ordered(&self, transaction: &Transaction) -> Result<Finished, SubmitError> {
        let Inner { handle, submit_within, .. } = &*self.inner;
        let id = transaction.id();
        let checked = self.checked(vec![transaction.clone()]).await?.pop();
        let transaction = checked.ok_or(SubmitError::Stopped)??;
        let enqueued = async || self.enqueued(vec![transaction.clone()]).await?.pop().ok_or(SubmitError::Stopped);
        let unknown = SubmitError::OutcomeUnknown { id };
        let deadline = tokio::time::Instant::now() + *submit_within;
        let mut outcome = enqueued().await?;
        let finished = loop {
            let again = (tokio::time::Instant::now() + ASKED_AGAIN).min(deadline);
            match tokio::time::timeout_at(again, &mut outcome).await {
                Ok(Ok(finished)) => break finished,
                Ok(Err(_)) => return Err(unknown),
                Err(_) if tokio::time::Instant::now() >= deadline => return Err(unknown),
                Err(_) => {}
            }
            // What is on its way to the seat's holder may be lost with it: handed in again, it takes effect once all the same. Where that
            // is refused, the first time still counts.
            if let Ok(newer) = enqueued().await {
                outcome = newer;
            }
        };
        let first =
            api::settle_duplicates(handle, &[id], vec![Some(finished)]).await.pop().flatten().ok_or(unknown.clone())?;
        // What has expired may have taken effect in a block that this node cannot look it up in.
        match first.outcome == Outcome::Expired && !self.has_all_of(&transaction).await {
            true => Err(unknown),
            false => Ok(first),
        }
    }

    /// Whether this node could find the transaction wherever it took effect.
    async fn has_all_of(&self, transaction: &Transaction) -> bool {
        let Inner { handle, .. } = &*self.inner;
        let first = transaction.expires().0.saturating_sub(handle.genesis.parameters.replay_window);
        let has = self.read(|ledger| ledger.store.first()).await;
        handle.indexes && has.is_ok_and(|has| has.is_ok_and(|has| has.0 <= first + 1))
    }

    /// Checks what is to be handed in, if this node takes anything.
    async fn checked(
        &self,
        transactions: Vec<Transaction>,
    ) -> Result<Vec<Result<Transaction, SubmitError>>, SubmitError> {
        let handle = &self.inner.handle;
        if handle.modes.draining() || handle.modes.read_only() {
            return Err(SubmitError::NotServing(handle.name.clone()));
        }
        let checked = api::check(handle, transactions).await.map_err(SubmitError::Busy)?;
        let refused = |(_, reason)| SubmitError::Rejected { reason, height: None };
        Ok(checked.into_iter().map(|checked| checked.map_err(refused)).collect())
    }

    /// Hands transactions in, or in again; gives where the outcome of each will come.
    async fn enqueued(&self, transactions: Vec<Transaction>) -> Result<Vec<oneshot::Receiver<Finished>>, SubmitError> {
        let Some(id) = transactions.first().map(Transaction::id) else { return Ok(Vec::new()) };
        match self.inner.handle.replica.ask(Submit { transactions }, ENQUEUED_WITHIN).await {
            Ok(Ok(outcomes)) => Ok(outcomes),
            Ok(Err(error)) => Err(SubmitError::Busy(error.to_string())),
            Err(CallError::Stopped) => Err(SubmitError::Stopped),
            Err(error) if error.maybe_executed() => Err(SubmitError::OutcomeUnknown { id }),
            Err(error) => Err(SubmitError::Busy(error.to_string())),
        }
    }

    fn settled(&self, id: TransactionId, finished: Finished) -> Result<Committed<S::Output>, SubmitError> {
        let Finished { height, index, outcome } = finished;
        match outcome {
            Outcome::Applied(bytes) => {
                let output = serde_json::from_slice(&bytes);
                let output = output.map_err(|error| SubmitError::Output { id, what: error.to_string() })?;
                Ok(Committed { id, height, index, output })
            }
            Outcome::Rejected(reason) => Err(SubmitError::Rejected { reason, height: Some(height) }),
            // Its first place is older than what this node can look up.
            Outcome::Duplicate => Err(SubmitError::OutcomeUnknown { id }),
            Outcome::Expired => Err(SubmitError::Expired),
        }
    }

    /// What became of a transaction, as far as this node knows; none while it has no place in the order.
    pub async fn outcome(&self, id: &TransactionId) -> Result<Option<Committed<S::Output>>, SubmitError> {
        let wanted = *id;
        let found = self.read(move |ledger| {
            let Some((height, index)) = ledger.store.transaction(&wanted)? else { return Ok(None) };
            let Some(block) = ledger.store.block(height)? else { return Ok(None) };
            let receipt = block.receipts.into_iter().nth(index).filter(|receipt| receipt.transaction == wanted);
            Ok::<_, StoreError>(receipt.map(|receipt| Finished { height, index, outcome: receipt.outcome }))
        });
        let found = found.await?.map_err(|error| SubmitError::Store(error.to_string()))?;
        found.map(|finished| self.settled(wanted, finished)).transpose()
    }

    /// Asks the application; the answer says of which block the state is.
    pub async fn query(&self, query: &S::Query, freshness: Freshness) -> Result<Answered<S::Answer>, QueryError> {
        let question = serde_json::to_vec(query).map_err(|error| QueryError::Encode(error.to_string()))?;
        match freshness {
            Freshness::Local => {}
            Freshness::AtLeast(height) => self.executed(height).await?,
            Freshness::Linearizable => _ = self.ordered(&self.sign(BARRIER.to_vec()).await?).await?,
        }
        let machine = Arc::clone(&self.inner.handle.state_machine);
        let answered = self.read(move |ledger| (ledger.chain.height(), machine.query(ledger.chain.state(), &question)));
        let (height, answer) = answered.await?;
        let answer = answer.map_err(|Reject(why)| QueryError::Rejected(why))?;
        let answer = serde_json::from_slice(&answer).map_err(|error| QueryError::Encode(error.to_string()))?;
        Ok(Answered { answer, height })
    }

    /// Waits until the node has executed this block.
    async fn executed(&self, wanted: Height) -> Result<(), QueryError> {
        let mut heights = self.inner.handle.executed.clone();
        // Since the start: the store may have more.
        let at = self.height().await?;
        if at >= wanted {
            return Ok(());
        }
        let waited = tokio::time::timeout(self.inner.submit_within, heights.wait_for(|height| *height >= wanted)).await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(SubmitError::Stopped.into()),
            Err(_) => Err(QueryError::Behind { at: *self.inner.handle.executed.borrow(), wanted }),
        }
    }

    /// Up to here the node has executed.
    pub async fn height(&self) -> Result<Height, SubmitError> {
        self.read(|ledger| ledger.chain.height()).await
    }

    /// Runs a read on the executor's thread.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Ledger) -> T + Send + 'static,
    ) -> Result<T, SubmitError> {
        let (sender, receiver) = oneshot::channel();
        // The asker may have gone.
        let taken = self.inner.handle.reader.try_read(move |ledger| drop(sender.send(read(ledger))));
        match taken {
            Ok(()) => receiver.await.map_err(|_| SubmitError::ReadFailed),
            Err(ReadRefused::Busy) => Err(SubmitError::Busy("too many reads wait".to_owned())),
            Err(ReadRefused::Stopped) => Err(SubmitError::Stopped),
        }
    }

    /// What the node offers besides: actors, grants, members.
    pub fn handle(&self) -> &NodeHandle {
        &self.inner.handle
    }

    /// Health, metrics and `/api/v1`, for `App::configure` or a scope of one's own.
    pub fn api(&self) -> impl FnOnce(&mut ServiceConfig) + Clone + use<S> {
        let handle = self.inner.handle.clone();
        move |config: &mut ServiceConfig| api::api_routes(handle)(config)
    }

    /// The admin console, at `console/` below the scope; it needs [`Node::api`] at the same scope.
    pub fn console(&self) -> impl FnOnce(&mut ServiceConfig) + Clone + use<S> {
        let console = self.inner.handle.console.clone();
        move |config: &mut ServiceConfig| console.page_routes()(config)
    }

    /// Adds the node's metrics, as they are now, to a registry of one's own. They do not change there: make the registry anew for each scrape, with
    /// the prefix `standin` that alerts and dashboard expect, and a label for each node where there are several. Fails if the node has stopped.
    ///
    /// ```
    /// # use prometheus_client::{encoding::text::encode, registry::Registry};
    /// # async fn scrape(node: &standin::Node<impl standin::Application>) -> Result<String, Box<dyn std::error::Error>> {
    /// let mut registry = Registry::with_prefix("standin");
    /// node.metrics(&mut registry).await?;
    /// let mut text = String::new();
    /// encode(&mut text, &registry)?;
    /// # Ok(text)
    /// # }
    /// ```
    pub async fn metrics(&self, registry: &mut Registry) -> Result<(), CallError> {
        crate::metrics::register(&self.inner.handle, registry).await
    }

    /// Waits until the node has stopped; gives why if it had to.
    pub async fn stopped(&self) -> Option<String> {
        self.inner.running.stopped().await
    }

    /// Stops the node in order, whoever else has a handle: it hands its seat over, as long as somebody can take it (500 ms at the latest), and
    /// what it has said is durable when this returns.
    pub async fn shutdown(&self) {
        self.inner.handle.hand_over().await;
        self.inner.handle.console.stop();
        self.inner.running.stop().await;
    }
}
