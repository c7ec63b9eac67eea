//! Clients' transactions of this node, from submission to their outcome.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::AsyncContext;
use standin_foundation::Height;
use standin_foundation::limits::{BATCH_BYTES_MAX, BATCH_TRANSACTIONS_MAX};
use standin_ledger::{Batch, Outcome, Receipt, Transaction, TransactionId};
use standin_stage::{Ctx, Handle, Message, Reply};
use tokio::sync::oneshot;

use super::Replica;
use crate::effect::Input;
use crate::messages::BatchPayload;

/// Transactions that may wait for a batch or an outcome.
const WAITING_MAX: usize = 200_000;
/// A batch is made when this much waits.
const BATCH_BYTES: usize = BATCH_BYTES_MAX / 4;
/// A batch is made when the oldest transaction has waited this long, unless nothing is under way: then at once.
const LINGER: Duration = Duration::from_millis(2);
/// Bytes of own batches without an order above which no new ones are made.
const OWN_PENDING_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Why a transaction is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// Too much waits: try again later.
    #[error("busy: {WAITING_MAX} transactions wait already; try again in a moment")]
    Busy,
}

/// A transaction has its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Height of its block.
    pub height: Height,
    /// Its place there.
    pub index: usize,
    /// What became of it.
    pub outcome: Outcome,
}

type Waiter = oneshot::Sender<Finished>;

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Mempool {
    queue: Vec<Transaction>,
    queue_bytes: usize,
    waiters: BTreeMap<TransactionId, Vec<Waiter>>,
    /// Waiters of all transactions.
    waiter_count: usize,
    height: Height,
}

impl Mempool {
    pub(super) fn waiting(&self) -> usize {
        self.queue.len() + self.waiter_count
    }

    fn add(&mut self, transaction: Transaction, waiter: Option<Waiter>) {
        if let Some(waiter) = waiter {
            let waiters = self.waiters.entry(transaction.id()).or_default();
            let before = waiters.len();
            waiters.retain(|waiter| !waiter.is_closed());
            waiters.push(waiter);
            self.waiter_count = self.waiter_count + waiters.len() - before;
        }
        self.queue_bytes += transaction.bytes().len() + 4;
        self.queue.push(transaction);
    }

    /// Own batches whose order nobody waits for any more: their transactions go into new ones while they live. If they
    /// were ordered after all, execution refuses the second.
    pub(super) fn batches_dropped(&mut self, dropped: impl Iterator<Item = Arc<Batch>>) {
        let height = self.height;
        for batch in dropped {
            let waited = |transaction: &&Transaction| {
                self.waiters.contains_key(&transaction.id()) && transaction.expires() > height
            };
            let again: Vec<_> = batch.transactions().iter().filter(waited).cloned().collect();
            for transaction in again {
                self.add(transaction, None);
            }
        }
    }

    pub(super) fn executed(&mut self, height: Height, receipts: Vec<Receipt>) {
        self.height = height;
        if self.waiters.is_empty() {
            return;
        }
        for (index, Receipt { transaction, outcome }) in receipts.into_iter().enumerate() {
            let waiters = self.waiters.remove(&transaction).unwrap_or_default();
            self.waiter_count -= waiters.len();
            for waiter in waiters {
                // The client may have gone.
                let _ = waiter.send(Finished { height, index, outcome: outcome.clone() });
            }
        }
    }

    /// Execution went on from a snapshot: outcomes below are not known here, and waiters are told so by the closed channel.
    pub(super) fn skipped_to(&mut self, height: Height) {
        self.height = height;
        self.waiters.clear();
        self.waiter_count = 0;
    }

    /// Takes as many transactions as fit into a batch.
    fn cut(&mut self) -> Vec<Transaction> {
        let mut bytes = 4;
        let fits = |transaction: &&Transaction| {
            bytes += transaction.bytes().len() + 4;
            bytes <= BATCH_BYTES.max(transaction.bytes().len() + 8)
        };
        let count = self.queue.iter().take(BATCH_TRANSACTIONS_MAX).take_while(fits).count().max(1);
        let cut: Vec<_> = self.queue.drain(..count.min(self.queue.len())).collect();
        self.queue_bytes -= cut.iter().map(|transaction| transaction.bytes().len() + 4).sum::<usize>();
        cut
    }

    fn is_plenty(&self) -> bool {
        self.queue_bytes >= BATCH_BYTES || self.queue.len() >= BATCH_TRANSACTIONS_MAX
    }
}

/// Hands in transactions whose signatures have been checked. The answer holds, for each, where its outcome will come.
#[derive(Debug)]
pub struct Submit {
    /// The transactions.
    pub transactions: Vec<Transaction>,
}

impl Message for Submit {
    type Reply = Result<Vec<oneshot::Receiver<Finished>>, SubmitError>;

    fn bytes(&self) -> usize {
        self.transactions.iter().map(|transaction| transaction.bytes().len()).sum()
    }
}

impl Handle<Submit> for Replica {
    fn handle(
        &mut self,
        Submit { transactions }: Submit,
        reply: Reply<Result<Vec<oneshot::Receiver<Finished>>, SubmitError>>,
        ctx: &mut Ctx<Self>,
    ) {
        if self.mempool.waiting() + transactions.len() > WAITING_MAX {
            reply.send(Err(SubmitError::Busy));
            return;
        }
        let mut receivers = Vec::with_capacity(transactions.len());
        for transaction in transactions {
            let (waiter, receiver) = oneshot::channel();
            self.mempool.add(transaction, Some(waiter));
            receivers.push(receiver);
        }
        reply.send(Ok(receivers));
        self.flush_mempool(ctx);
    }
}

impl Replica {
    /// Makes batches of what waits: at once when nothing is under way, else when enough waits or has waited long enough. A
    /// replica that does not speak for its seat makes none: nobody would keep them.
    pub(super) fn flush_mempool(&mut self, ctx: &mut Ctx<Self>) {
        while !self.mempool.queue.is_empty() && self.speaks() {
            let (count, _) = self.machine.pending();
            if self.machine.own_pending_bytes() > OWN_PENDING_BYTES_MAX || (count > 0 && !self.mempool.is_plenty()) {
                self.set_flush_timer(ctx);
                return;
            }
            let transactions = self.mempool.cut();
            self.push_batch(transactions, ctx);
        }
    }

    fn set_flush_timer(&mut self, ctx: &mut Ctx<Self>) {
        if self.flush_timer.is_none() {
            let timer = ctx.run_later(LINGER, |shell, ctx| {
                shell.role.flush_timer = None;
                shell.role.flush_late(ctx);
            });
            self.flush_timer = Some(timer);
        }
    }

    fn flush_late(&mut self, ctx: &mut Ctx<Self>) {
        if !self.mempool.queue.is_empty() && self.speaks() && self.machine.own_pending_bytes() <= OWN_PENDING_BYTES_MAX
        {
            let transactions = self.mempool.cut();
            self.push_batch(transactions, ctx);
        }
        self.flush_mempool(ctx);
    }

    fn push_batch(&mut self, transactions: Vec<Transaction>, ctx: &mut Ctx<Self>) {
        match Batch::new(transactions) {
            Ok(batch) => {
                self.send_to_all(&BatchPayload(batch.payload().clone()));
                let reference = batch.reference();
                self.payloads.insert(batch.digest(), Arc::new(batch));
                let from = self.config.signer.seat;
                self.step(Input::BatchReceived { from, batch: reference, needed: false }, ctx);
            }
            Err(error) => tracing::error!(%error, "a batch cannot be made"),
        }
    }
}
