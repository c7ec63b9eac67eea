//! Clients' transactions of this node, from submission to their outcome.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::AsyncContext;
use standin_foundation::Height;
use standin_foundation::limits::{BATCH_BYTES_MAX, BATCH_TRANSACTIONS_MAX};
use standin_ledger::{Batch, Outcome, Receipt, Transaction, TransactionId};
use standin_stage::{Ctx, Distribution, Handle, Message, Reply};
use tokio::sync::oneshot;

use super::Replica;
use crate::effect::Input;
use crate::messages::{BatchPayload, Forward};

/// Transactions that may wait for a batch or an outcome.
const WAITING_MAX: usize = 200_000;
/// What was passed on to a member that, as far as it knows, is not the seat's holder is kept for so long: by then it hears that it is, or it never was.
const EARLY_FOR: Duration = Duration::from_secs(1);
/// A batch is made when this much waits.
const BATCH_BYTES: usize = BATCH_BYTES_MAX / 4;
/// Bytes of own batches without an order above which no new ones are made.
const OWN_PENDING_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Why a transaction is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// Too much waits: try again later.
    #[error("busy: {WAITING_MAX} transactions wait already; try again in a moment")]
    Busy,
    /// The replica takes part no more.
    #[error("the node stands still: the chain has removed its cluster; ask a node of another one")]
    Removed,
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

/// A transaction whose outcome somebody waits for at this node.
#[derive(Debug)]
struct Awaited {
    transaction: Transaction,
    waiters: Vec<Waiter>,
    since: Instant,
}

impl Awaited {
    fn is_alive(&self, height: Height) -> bool {
        self.transaction.expires() > height && self.waiters.iter().any(|waiter| !waiter.is_closed())
    }
}

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Mempool {
    queue: Vec<Transaction>,
    queue_bytes: usize,
    /// Passed on by members that know sooner than this one that it is to speak for the seat; and when.
    early: Vec<(Instant, Transaction)>,
    awaited: BTreeMap<TransactionId, Awaited>,
    /// Waiters of all transactions.
    waiter_count: usize,
    height: Height,
}

impl Mempool {
    pub(super) fn waiting(&self) -> usize {
        self.queue.len() + self.early.len() + self.waiter_count
    }

    fn add(&mut self, transaction: Transaction, waiter: Waiter, now: Instant) {
        let awaited = self.awaited.entry(transaction.id()).or_insert_with(|| Awaited {
            transaction: transaction.clone(),
            waiters: Vec::new(),
            since: now,
        });
        let before = awaited.waiters.len();
        awaited.waiters.retain(|waiter| !waiter.is_closed());
        awaited.waiters.push(waiter);
        self.waiter_count = self.waiter_count + awaited.waiters.len() - before;
        self.enqueue(transaction);
    }

    fn enqueue(&mut self, transaction: Transaction) {
        self.queue_bytes += transaction.bytes().len() + 4;
        self.queue.push(transaction);
    }

    /// Own batches whose order nobody waits for any more: their transactions go into new ones while they live. If they
    /// were ordered after all, execution refuses the second.
    pub(super) fn batches_dropped(&mut self, dropped: impl Iterator<Item = Arc<Batch>>) {
        for batch in dropped {
            let lives = |id: &TransactionId| self.awaited.get(id).is_some_and(|awaited| awaited.is_alive(self.height));
            let again: Vec<_> = batch.transactions().iter().filter(|t| lives(&t.id())).cloned().collect();
            again.into_iter().for_each(|transaction| self.enqueue(transaction));
        }
    }

    /// Keeps what was passed on to a holder that does not speak for its seat yet: who passed it on has done so once, for this holder.
    fn keep_early(&mut self, transactions: Vec<Transaction>, now: Instant) {
        self.early.extend(transactions.into_iter().map(|transaction| (now, transaction)));
    }

    /// This node speaks for its seat.
    fn take_early(&mut self) {
        std::mem::take(&mut self.early).into_iter().for_each(|(_, transaction)| self.enqueue(transaction));
    }

    fn forget_early(&mut self, now: Instant) {
        self.early.retain(|(at, _)| now.duration_since(*at) < EARLY_FOR);
    }

    /// Another node speaks for the seat from now on, or this one does: whatever is still waited for goes its way anew.
    pub(super) fn begin_anew(&mut self) {
        let queued: BTreeSet<_> = self.queue.iter().map(Transaction::id).collect();
        let lost = self.awaited.values().filter(|awaited| awaited.is_alive(self.height));
        let lost: Vec<_> = lost.map(|awaited| awaited.transaction.clone()).collect();
        let lost = lost.into_iter().filter(|transaction| !queued.contains(&transaction.id()));
        lost.for_each(|transaction| self.enqueue(transaction));
    }

    pub(super) fn executed(&mut self, height: Height, receipts: Vec<Receipt>, commit: &Distribution) {
        self.height = height;
        if self.awaited.is_empty() {
            return;
        }
        let now = Instant::now();
        for (index, Receipt { transaction, outcome }) in receipts.into_iter().enumerate() {
            let Some(Awaited { waiters, since, .. }) = self.awaited.remove(&transaction) else { continue };
            commit.record(now - since);
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
        self.awaited.clear();
        self.waiter_count = 0;
    }

    /// Forgets whom nobody waits for any more: expired, or given up by its client.
    fn forget_abandoned(&mut self) {
        let height = self.height;
        self.awaited.retain(|_, awaited| awaited.is_alive(height));
        self.waiter_count = self.awaited.values().map(|awaited| awaited.waiters.len()).sum();
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
        if self.machine.is_halted() {
            return reply.send(Err(SubmitError::Removed));
        }
        if self.mempool.waiting() + transactions.len() > WAITING_MAX {
            self.mempool.forget_abandoned();
        }
        if self.mempool.waiting() + transactions.len() > WAITING_MAX {
            reply.send(Err(SubmitError::Busy));
            return;
        }
        let (mut receivers, now) = (Vec::with_capacity(transactions.len()), Instant::now());
        for transaction in transactions {
            let (waiter, receiver) = oneshot::channel();
            self.mempool.add(transaction, waiter, now);
            receivers.push(receiver);
        }
        reply.send(Ok(receivers));
        self.flush_mempool(ctx);
    }
}

impl Replica {
    /// Makes batches of what waits: at once when nothing is under way, else when enough waits or has waited long enough. A
    /// replica that does not speak for its seat makes none: it passes on what waits to the one that does.
    pub(super) fn flush_mempool(&mut self, ctx: &mut Ctx<Self>) {
        if !self.speaks() {
            self.forget_early();
            return self.forward();
        }
        self.mempool.take_early();
        while !self.mempool.queue.is_empty() {
            let (count, _) = self.machine.pending();
            if self.machine.own_pending_bytes() > OWN_PENDING_BYTES_MAX || (count > 0 && !self.mempool.is_plenty()) {
                self.set_flush_timer(ctx);
                return;
            }
            let transactions = self.mempool.cut();
            self.push_batch(transactions, ctx);
        }
    }

    /// The outcome is seen here, where the client waits: every member executes every block. What is lost on the way goes
    /// again when the holder changes, or when the client asks again.
    fn forward(&mut self) {
        let Some(holder) = self.config.directory.holder(self.config.directory.seat) else { return };
        while !self.mempool.queue.is_empty() && holder.is_connected() {
            let transactions = self.mempool.cut();
            let bytes = transactions.iter().map(|transaction| transaction.bytes().clone()).collect();
            if let Err(error) = holder.tell(&Forward(bytes)) {
                tracing::debug!(%error, "transactions not passed on");
                transactions.into_iter().for_each(|transaction| self.mempool.enqueue(transaction));
                return;
            }
        }
    }

    /// Transactions that another member passed on. It may know before this one does that this one is to speak; and to one that speaks no more they come
    /// too late: whoever passed them on does so again when it hears of the next holder.
    pub(super) fn take_forwarded(&mut self, transactions: Vec<Transaction>, ctx: &mut Ctx<Self>) {
        self.forget_early();
        if self.mempool.waiting() + transactions.len() > WAITING_MAX {
            return;
        }
        if !self.speaks() {
            return self.mempool.keep_early(transactions, Instant::now());
        }
        transactions.into_iter().for_each(|transaction| self.mempool.enqueue(transaction));
        self.flush_mempool(ctx);
    }

    /// A seat that is this node's by its grant is waited for, however long it takes until it may speak.
    fn forget_early(&mut self) {
        let directory = &self.config.directory;
        if directory.book.holder(directory.seat) != Some(directory.own) {
            self.mempool.forget_early(Instant::now());
        }
    }

    fn set_flush_timer(&mut self, ctx: &mut Ctx<Self>) {
        if self.flush_timer.is_none() {
            // Never no time at all: what comes with the next request is to go along.
            let linger = Duration::from_millis(self.machine.linger_ms().max(1));
            let timer = ctx.run_later(linger, |shell, ctx| {
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
                let from = self.config.directory.seat;
                self.step(Input::BatchReceived { from, batch: reference, needed: false }, ctx);
            }
            Err(error) => tracing::error!(%error, "a batch cannot be made"),
        }
    }
}

#[cfg(test)]
mod tests {
    use standin_foundation::SecretKey;
    use standin_ledger::transaction::TransactionBody;

    use super::*;

    fn transaction(nonce: u64) -> Transaction {
        let body = TransactionBody { title: "t".parse().unwrap(), nonce, expires: Height(10), payload: vec![1] };
        Transaction::unsigned(&SecretKey::from_bytes(&[1; 32]).unwrap().public(), &body).unwrap()
    }

    /// Who passes transactions on may know sooner than the next holder does that it is that: nothing is lost by it, and nothing is kept for ever.
    #[test]
    fn what_comes_before_a_holder_speaks_waits_until_it_does() {
        let (mut mempool, begun) = (Mempool::default(), Instant::now());
        mempool.keep_early(vec![transaction(1)], begun);
        mempool.keep_early(vec![transaction(2), transaction(3)], begun + EARLY_FOR / 2);
        assert_eq!((mempool.queue.len(), mempool.waiting()), (0, 3), "they count");
        mempool.forget_early(begun + EARLY_FOR);
        mempool.take_early();
        let taken: Vec<_> = mempool.queue.iter().map(Transaction::id).collect();
        assert_eq!(taken, [transaction(2).id(), transaction(3).id()], "and the first has waited for too long");
        mempool.take_early();
        assert_eq!((mempool.queue.len(), mempool.waiting()), (2, 2), "once");
    }
}
