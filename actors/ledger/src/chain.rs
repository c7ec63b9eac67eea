//! Execution: the chain as a function of genesis and the sequence of proposals. Pure.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use standin_foundation::limits::{BLOCK_OUTPUT_BYTES_MAX, OUTPUT_BYTES_MAX, REASON_BYTES_MAX, STATE_ENTRY_BYTES_MAX};
use standin_foundation::{ClusterId, Digest, Encoder, Epoch, Height};

use crate::batch::Batch;
use crate::block::{Header, Proposal};
use crate::certificate::CheckpointResult;
use crate::clients::{self, Admission};
use crate::epoch::{self, EpochStart, EpochTable, Epochs, SYSTEM_PREFIX};
use crate::error::LedgerError;
use crate::genesis::{Genesis, Parameters};
use crate::grant::SignedGrant;
use crate::history::{self, Held};
use crate::receipt::{Outcome, Receipt, interval_root, receipts_root};
use crate::reconfiguration::ApprovedReconfiguration;
use crate::snapshot::{RecentIds, Snapshot};
use crate::state::{State, Write};
use crate::state_machine::{Context, Reject, StateMachine};
use crate::system::{SystemTransaction, is_system};
use crate::transaction::{Transaction, TransactionId};
use crate::trie::Trie;

/// How many blocks can be undone.
pub const UNDO_DEPTH: usize = 64;

/// The head of a chain: everything that the next block's execution depends on.
#[derive(Clone)]
pub struct Chain {
    machine: Arc<dyn StateMachine>,
    rules: Arc<Rules>,
    state: Trie,
    head: Head,
    /// What the last blocks replaced, oldest first, at most [`UNDO_DEPTH`].
    past: VecDeque<Replaced>,
    recent: RecentTransactions,
}

/// What the genesis says once and for all.
#[derive(Debug)]
struct Rules {
    chain: Digest,
    parameters: Parameters,
    /// The table of epoch 0.
    table: EpochTable,
}

/// A block as the one after it needs it.
#[derive(Debug, Clone)]
struct Head {
    header: Header,
    hash: Digest,
    /// Receipts' roots of the blocks since the last checkpoint, up to and with this one.
    interval: Vec<Digest>,
    /// The version of the rules by which the next block is executed.
    version: u32,
}

/// What a block replaced: the way back.
#[derive(Debug, Clone)]
struct Replaced {
    head: Head,
    /// Keys that the block wrote, and what they held before each write, in order.
    values: Vec<Write>,
}

/// What came of one block.
#[derive(Debug, Clone)]
pub struct ExecutedBlock {
    /// The header.
    pub header: Header,
    /// Its hash.
    pub hash: Digest,
    /// A receipt for each transaction, in order.
    pub receipts: Vec<Receipt>,
    /// Root over the receipts.
    pub receipts_root: Digest,
    /// What changed in the state, in order.
    pub writes: Vec<Write>,
    /// The result to vote for, where the block is a checkpoint.
    pub checkpoint: Option<CheckpointResult>,
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chain").field("height", &self.height()).field("head", &self.head.hash).finish_non_exhaustive()
    }
}

impl Chain {
    /// A chain at height 0.
    pub fn new(genesis: &Genesis, machine: Arc<dyn StateMachine>) -> Self {
        let header = genesis.header();
        let head = Head { hash: header.hash(), header, interval: Vec::new(), version: genesis.parameters.version };
        let rules = Rules { chain: genesis.digest(), parameters: genesis.parameters, table: genesis.epoch_table() };
        Self {
            machine,
            rules: Arc::new(rules),
            state: genesis.state(),
            head,
            past: VecDeque::new(),
            recent: RecentTransactions::default(),
        }
    }

    /// A chain that goes on from a snapshot. The snapshot must have been verified against a certificate.
    pub fn from_snapshot(genesis: &Genesis, machine: Arc<dyn StateMachine>, snapshot: Snapshot) -> Self {
        let Snapshot { header, state, recent } = snapshot;
        let mut chain = Self::new(genesis, machine);
        let version = epoch::newest(&state).map_or(chain.head.version, |table| table.version);
        chain.head = Head { hash: header.hash(), header, interval: Vec::new(), version };
        chain.state = state;
        for (height, ids) in recent {
            chain.recent.remember(height, ids);
        }
        chain
    }

    /// Height of the head.
    pub fn height(&self) -> Height {
        self.head.header.height()
    }

    /// The head's header.
    pub fn header(&self) -> &Header {
        &self.head.header
    }

    /// The head's hash.
    pub fn hash(&self) -> Digest {
        self.head.hash
    }

    /// The state after the head.
    pub fn state(&self) -> &Trie {
        &self.state
    }

    /// The parameters.
    pub fn parameters(&self) -> &Parameters {
        &self.rules.parameters
    }

    /// The version of the state machine's rules by which the next block is executed.
    pub fn version(&self) -> u32 {
        self.head.version
    }

    /// Receipts' roots of the blocks since the last checkpoint.
    pub fn interval(&self) -> &[Digest] {
        &self.head.interval
    }

    /// Whether a transaction with this id took a place within the replay window.
    pub fn is_recent(&self, id: &TransactionId) -> bool {
        self.recent.contains(id)
    }

    /// The tables of all epochs that have begun, the genesis' first.
    pub fn epoch_tables(&self) -> Vec<EpochTable> {
        std::iter::once(self.rules.table.clone()).chain(epoch::tables(&self.state)).collect()
    }

    /// Those of the epochs that a block up to the head belongs to. One whose boundary is the head has not been proven by that.
    pub fn entered_epochs(&self) -> Vec<EpochTable> {
        let height = self.height();
        self.epoch_tables().into_iter().filter(|table| table.after < height).collect()
    }

    /// Where the epochs begin, with the one that has been ordered.
    pub fn epochs(&self) -> Epochs {
        epoch::tables(&self.state).map(|table| table.start()).chain(self.ordered_epoch()).collect()
    }

    /// Where the epoch begins that has been ordered, while it has not begun.
    pub fn ordered_epoch(&self) -> Option<EpochStart> {
        epoch::ordered(&self.state).map(|table| table.start())
    }

    /// The version of the state machine's rules in the epoch that has been ordered, or else now.
    pub fn ordered_version(&self) -> u32 {
        epoch::ordered(&self.state).map_or(self.head.version, |table| table.version)
    }

    /// Answers a question about the state at the head.
    pub fn query(&self, query: &[u8]) -> Result<Vec<u8>, Reject> {
        self.machine.query(&self.state, query)
    }

    /// Who held a cluster's seat at a block up to the head, by the grants on record.
    pub fn held(&self, cluster: &ClusterId, height: Height) -> Option<Held> {
        history::held(&self.state, &self.epoch_tables(), &self.rules.chain, cluster, height)
    }

    /// Whether this very grant is on record.
    pub fn is_recorded(&self, grant: &SignedGrant) -> bool {
        let recorded = history::recorded(&self.state, &grant.grant.cluster, grant.grant.term);
        recorded.is_some_and(|recorded| recorded.grant == *grant)
    }

    /// Executes the next proposal. `batches` are the payloads that it names, in order.
    pub fn execute(&mut self, proposal: Proposal, batches: &[Arc<Batch>]) -> Result<ExecutedBlock, LedgerError> {
        self.check_next(&proposal, batches)?;
        let header = Header::following(&self.head.header, proposal);
        let height = header.height();
        let mut version = self.head.version;
        let context = Context { height, time_ms: header.time_ms, version };
        let mut receipts = Vec::with_capacity(header.proposal.transaction_count() as usize);
        let (mut writes, mut replaced) = (Vec::new(), Vec::new());
        let mut ids = Vec::with_capacity(receipts.capacity());
        self.recent.forget(height, self.rules.parameters.replay_window);
        let is_listed = |state: &Trie| clients::policy(state).admission == Admission::Listed;
        let mut listed = is_listed(&self.state);
        let mut room = BLOCK_OUTPUT_BYTES_MAX;
        for transaction in batches.iter().flat_map(|batch| batch.transactions()) {
            let outcome = self.apply((&context, listed, room), transaction, &mut writes, &mut replaced);
            if let Outcome::Applied(output) = &outcome {
                room -= output.len();
            }
            if is_system(transaction) {
                listed = is_listed(&self.state);
            }
            if !matches!(outcome, Outcome::Duplicate | Outcome::Expired) {
                self.recent.insert(transaction.id());
                ids.push(transaction.id());
            }
            receipts.push(Receipt { transaction: transaction.id(), outcome });
        }
        self.recent.close(height, ids.into());
        if let Some(table) = epoch::ordered(&self.state).filter(|table| table.after == height) {
            let begun = epoch::writes_of_beginning(&table).into_iter().flatten();
            self.write(begun, &mut writes, &mut replaced);
            version = table.version;
        }
        Ok(self.advance((header, version), receipts, writes, replaced))
    }

    fn write(&mut self, new: impl IntoIterator<Item = Write>, writes: &mut Vec<Write>, replaced: &mut Vec<Write>) {
        for (key, value) in new {
            let before = match &value {
                Some(value) => self.state.insert(key.clone(), value.clone()),
                None => self.state.remove(&key),
            };
            replaced.push((key.clone(), before));
            writes.push((key, value));
        }
    }

    /// Goes back to the state right after the block at `height`. Fails if that is further than [`UNDO_DEPTH`] blocks.
    pub fn undo_to(&mut self, height: Height) -> Result<(), LedgerError> {
        while self.height() > height {
            let Some(previous) = self.past.pop_back() else {
                return Err(LedgerError::NotNext { head: self.height(), found: height });
            };
            self.recent.undo(self.height());
            let mut values = previous.values;
            values.reverse();
            apply_writes(&mut self.state, &values);
            self.head = previous.head;
        }
        Ok(())
    }

    /// The whole state at the head, to be sent to others. Costs nothing but a reference.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { header: self.head.header.clone(), state: self.state.clone(), recent: self.recent.to_list() }
    }

    fn check_next(&self, proposal: &Proposal, batches: &[Arc<Batch>]) -> Result<(), LedgerError> {
        let (head, height) = (self.height(), proposal.height);
        if height != head.next() {
            return Err(LedgerError::NotNext { head, found: height });
        }
        let count = proposal.batches.len().max(batches.len());
        for index in 0..count {
            if proposal.batches.get(index) != batches.get(index).map(|batch| batch.reference()).as_ref() {
                return Err(LedgerError::WrongPayload { height, index });
            }
        }
        let (needed, known) = (self.head.version, self.machine.version());
        if needed > known { Err(LedgerError::ProgramTooOld { height, needed, known }) } else { Ok(()) }
    }

    fn apply(
        &mut self,
        (context, listed, room): (&Context, bool, usize),
        transaction: &Transaction,
        writes: &mut Vec<Write>,
        replaced: &mut Vec<Write>,
    ) -> Outcome {
        let expires = transaction.expires();
        if expires < context.height || expires > context.height.plus(self.rules.parameters.replay_window - 1) {
            return Outcome::Expired;
        }
        if self.recent.contains(&transaction.id()) {
            return Outcome::Duplicate;
        }
        let applied = match is_system(transaction) {
            true => self.apply_system(context, transaction).map(|writes| (Vec::new(), writes)),
            false => {
                let role = self.machine.role(transaction).filter(|_| listed);
                let check = |role| clients::check_sender(&self.state, transaction.sender_bytes(), role);
                role.map_or(Ok(()), check).and_then(|()| self.apply_user(context, transaction))
            }
        };
        match applied {
            Ok((output, _)) if output.len() > room => Outcome::Expired,
            Ok((output, new)) => {
                self.write(new, writes, replaced);
                Outcome::Applied(output)
            }
            Err(Reject(mut reason)) => {
                reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
                Outcome::Rejected(reason)
            }
        }
    }

    /// What the state machine answers and writes, within the bounds of what a block and a snapshot can hold.
    fn apply_user(&self, context: &Context, transaction: &Transaction) -> Result<(Vec<u8>, Vec<Write>), Reject> {
        let mut state = State::new(&self.state);
        let output = self.machine.apply(context, transaction, &mut state)?;
        let writes = state.into_writes();
        if writes.iter().any(|(key, _)| key.first() == Some(&SYSTEM_PREFIX)) {
            return Err(Reject::new("keys that begin with the byte 0xff are the chain's own"));
        }
        let size = |(key, value): &Write| key.len() + value.as_ref().map_or(0, Bytes::len);
        let (largest, answered) = (writes.iter().map(size).max().unwrap_or(0), output.len());
        if largest > STATE_ENTRY_BYTES_MAX {
            return Err(Reject::new(format!(
                "a key and its value have {largest} bytes: at most {STATE_ENTRY_BYTES_MAX} are allowed"
            )));
        }
        match answered > OUTPUT_BYTES_MAX {
            true => Err(Reject::new(format!("an output of {answered} bytes: at most {OUTPUT_BYTES_MAX} are allowed"))),
            false => Ok((output, writes)),
        }
    }

    fn apply_system(&self, context: &Context, transaction: &Transaction) -> Result<Vec<Write>, Reject> {
        match SystemTransaction::from_payload(transaction.payload())? {
            SystemTransaction::Reconfigure(approved) => self.order(context, &approved).map(|write| vec![write]),
            SystemTransaction::Clients(approved) => {
                // What was carried out before costs no check of a signature.
                let writes = approved.order.writes(&self.state)?;
                approved.check(&self.rules.chain, &self.newest_table().operators)?;
                Ok(writes)
            }
            SystemTransaction::Record(grants) => {
                let mut state = State::new(&self.state);
                let table = |epoch: Epoch| match epoch {
                    Epoch(0) => Some(self.rules.table.clone()),
                    later => epoch::table(&self.state, later),
                };
                history::record(&mut state, table, &self.rules.chain, context.height, grants)?;
                Ok(state.into_writes())
            }
        }
    }

    fn newest_table(&self) -> EpochTable {
        epoch::newest(&self.state).unwrap_or_else(|| self.rules.table.clone())
    }

    /// Carries out a reconfiguration: from the next epoch on its table holds.
    fn order(&self, context: &Context, approved: &ApprovedReconfiguration) -> Result<Write, Reject> {
        if let Some(EpochStart { epoch, after, .. }) = self.ordered_epoch() {
            return Err(Reject::new(format!(
                "epoch {epoch} has been ordered and begins above block {after}: order it then"
            )));
        }
        let current = self.newest_table();
        approved.order.check_epoch(&current)?;
        let tables = self.epoch_tables();
        let former = |cluster: &ClusterId| epoch::last_seat_of(tables.iter(), cluster);
        approved.check(&self.rules.chain, &current.operators)?;
        let next = approved.order.next_table(&current, former, &self.rules.parameters, context.height)?;
        epoch::write_of_order(&next).ok_or_else(|| Reject::new("the table of the next epoch is too large"))
    }

    fn advance(
        &mut self,
        (header, version): (Header, u32),
        receipts: Vec<Receipt>,
        writes: Vec<Write>,
        values: Vec<Write>,
    ) -> ExecutedBlock {
        let height = header.height();
        let receipts_root = receipts_root(&receipts);
        let mut interval = if self.is_checkpoint(&self.head.header) { Vec::new() } else { self.head.interval.clone() };
        interval.push(receipts_root);
        let head = Head { hash: header.hash(), header, interval, version };
        let head = std::mem::replace(&mut self.head, head);
        self.past.push_back(Replaced { head, values });
        if self.past.len() > UNDO_DEPTH {
            self.past.pop_front();
        }
        let checkpoint = self.is_checkpoint(&self.head.header).then(|| CheckpointResult {
            height,
            block_hash: self.head.hash,
            state_root: state_root(&self.state.root(), &self.recent.root()),
            receipts_root: interval_root(&self.head.interval),
        });
        let (header, hash) = (self.head.header.clone(), self.head.hash);
        ExecutedBlock { header, hash, receipts, receipts_root, writes, checkpoint }
    }

    fn is_checkpoint(&self, header: &Header) -> bool {
        is_checkpoint(&header.proposal, self.rules.parameters.checkpoint_interval)
    }
}

/// Whether a checkpoint is taken after this proposal.
pub fn is_checkpoint(proposal: &Proposal, interval: u64) -> bool {
    proposal.checkpoint || proposal.height.0.is_multiple_of(interval)
}

/// Applies writes, in order.
pub fn apply_writes(trie: &mut Trie, writes: &[Write]) {
    for (key, value) in writes {
        match value {
            Some(value) => trie.insert(key.clone(), value.clone()),
            None => trie.remove(key),
        };
    }
}

/// The state root that checkpoints certify: over the trie's root and over the ids that are remembered.
pub(crate) fn state_root(trie_root: &Digest, recent_root: &Digest) -> Digest {
    Digest::sha256_of(&[b"standin/v1/state", trie_root.as_bytes(), recent_root.as_bytes()])
}

/// The ids of the transactions of the last heights.
#[derive(Debug, Clone, Default)]
struct RecentTransactions {
    #[allow(clippy::disallowed_types, reason = "never iterated; a tree of this many digests costs several times more")]
    ids: std::collections::HashSet<TransactionId>,
    by_height: VecDeque<RecentHeight>,
    /// What each of the last blocks made go, newest last, for undo.
    forgotten: VecDeque<Vec<RecentHeight>>,
}

#[derive(Debug, Clone)]
struct RecentHeight {
    height: Height,
    ids: Arc<[TransactionId]>,
    root: Digest,
}

impl RecentTransactions {
    fn contains(&self, id: &TransactionId) -> bool {
        self.ids.contains(id)
    }

    fn insert(&mut self, id: TransactionId) {
        self.ids.insert(id);
    }

    /// Forgets what a block at `height` need not know any more. A transaction at height h has expires ≤ h + window − 1,
    /// so at h + window its id cannot come again.
    fn forget(&mut self, height: Height, window: u64) {
        let mut forgotten = Vec::new();
        while self.by_height.front().is_some_and(|oldest| oldest.height.plus(window) <= height) {
            let Some(oldest) = self.by_height.pop_front() else { break };
            for id in oldest.ids.iter() {
                self.ids.remove(id);
            }
            forgotten.push(oldest);
        }
        self.forgotten.push_back(forgotten);
        if self.forgotten.len() > UNDO_DEPTH {
            self.forgotten.pop_front();
        }
    }

    fn close(&mut self, height: Height, ids: Arc<[TransactionId]>) {
        let root = ids_root(height, &ids);
        self.by_height.push_back(RecentHeight { height, ids, root });
    }

    fn remember(&mut self, height: Height, ids: Arc<[TransactionId]>) {
        self.ids.extend(ids.iter());
        self.close(height, ids);
    }

    fn undo(&mut self, height: Height) {
        let Some(newest) = self.by_height.pop_back() else { return };
        debug_assert_eq!(newest.height, height);
        for id in newest.ids.iter() {
            self.ids.remove(id);
        }
        for old in self.forgotten.pop_back().unwrap_or_default().into_iter().rev() {
            self.ids.extend(old.ids.iter());
            self.by_height.push_front(old);
        }
    }

    fn root(&self) -> Digest {
        recent_root(self.by_height.iter().map(|recent| &recent.root))
    }

    fn to_list(&self) -> RecentIds {
        self.by_height.iter().map(|recent| (recent.height, Arc::clone(&recent.ids))).collect()
    }
}

pub(crate) fn ids_root(height: Height, ids: &[TransactionId]) -> Digest {
    let mut out = Encoder::with_capacity(16 + ids.len() * 32);
    out.u64(height.0).length(ids.len());
    for id in ids {
        out.digest(id);
    }
    Digest::sha256(&out.into_bytes())
}

pub(crate) fn recent_root<'a>(roots: impl Iterator<Item = &'a Digest>) -> Digest {
    let mut out = Encoder::default();
    for root in roots {
        out.digest(root);
    }
    Digest::sha256(&out.into_bytes())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::builtin::{Builtin, Operation};
    use crate::genesis::{Account, SeatDescriptor};
    use crate::transaction::TransactionBody;
    use crate::transaction::tests::key;
    use standin_foundation::{Decoder, Seat, View};

    pub(crate) fn genesis(replay_window: u64) -> Genesis {
        let seat = |n: u8| SeatDescriptor::of_one(format!("c{n}").parse().unwrap(), key(n).public());
        Genesis {
            chain: "test-chain".parse().unwrap(),
            time_ms: 1_000,
            auth: None,
            operators: Default::default(),
            clients: Default::default(),
            parameters: Parameters { replay_window, checkpoint_interval: 4, window: 8, ..Default::default() },
            seats: (1..=4).map(seat).collect(),
            accounts: vec![Account { key: key(1).public(), amount: 1_000 }],
        }
    }

    pub(crate) fn chain(replay_window: u64) -> Chain {
        Chain::new(&genesis(replay_window), Arc::new(Builtin))
    }

    pub(crate) fn put(nonce: u64, expires: u64) -> Transaction {
        let value = nonce.to_be_bytes().to_vec();
        let payload = Operation::Put { key: vec![(nonce % 7) as u8], value }.to_payload();
        let body = TransactionBody { title: "t".parse().unwrap(), nonce, expires: Height(expires), payload };
        Transaction::unsigned(&key(1).public(), &body).unwrap()
    }

    pub(crate) fn step(chain: &mut Chain, transactions: Vec<Transaction>) -> ExecutedBlock {
        let batches: Vec<_> =
            if transactions.is_empty() { vec![] } else { vec![Arc::new(Batch::new(transactions).unwrap())] };
        let mut proposal = Proposal::null(chain.height().next(), Epoch(0), View(0), Seat(0));
        proposal.batches = batches.iter().map(|batch| batch.reference()).collect();
        chain.execute(proposal, &batches).unwrap()
    }

    /// Proposers whose clocks differ by hours: a block's time never goes back, and nothing else depends on it. How long transactions live
    /// and are remembered is counted in heights.
    #[test]
    fn clocks_that_differ_by_hours_never_take_time_back() {
        let (mut chain, hour) = (chain(5), 3_600_000);
        let mut times = vec![chain.header().time_ms];
        for clock in [hour, 9 * hour, 2 * hour, 0, 9 * hour + 7, u64::MAX, hour, u64::MAX] {
            let batch = Arc::new(Batch::new(vec![put(chain.height().0, chain.height().0 + 3)]).unwrap());
            let mut proposal = Proposal::null(chain.height().next(), Epoch(0), View(0), Seat(0));
            (proposal.time_ms, proposal.batches) = (clock, vec![batch.reference()]);
            let block = chain.execute(proposal, &[batch]).unwrap();
            assert!(block.receipts[0].outcome.is_applied());
            times.push(block.header.time_ms);
        }
        assert_eq!(times[1..5], [hour, 9 * hour, 9 * hour + 1, 9 * hour + 2]);
        assert!(times.is_sorted(), "{times:?}");
    }

    /// Whatever a state machine answers, writes and gives for a reason: the block can be stored, and the state be sent.
    #[test]
    fn what_a_state_machine_makes_is_bounded() {
        struct Talker;
        impl StateMachine for Talker {
            fn apply(&self, _: &Context, transaction: &Transaction, state: &mut State<'_>) -> Result<Vec<u8>, Reject> {
                let mut input = Decoder::new(transaction.payload());
                let mut number = || input.u64().map_err(|error| Reject::new(error.to_string()));
                let (value, output, reason) = (number()? as usize, number()? as usize, number()? as usize);
                state.put(vec![1], vec![7; value]);
                match reason {
                    0 => Ok(vec![8; output]),
                    length => Err(Reject::new("ä".repeat(length))),
                }
            }
            fn query(&self, _: &Trie, _: &[u8]) -> Result<Vec<u8>, Reject> {
                Ok(vec![])
            }
        }
        let nonce = std::cell::Cell::new(0);
        let ask = |value: usize, output: usize, reason: usize| {
            nonce.set(nonce.get() + 1);
            let mut payload = Encoder::default();
            [value, output, reason].into_iter().for_each(|number| _ = payload.u64(number as u64));
            let (title, payload) = ("t".parse().unwrap(), payload.into_bytes());
            let body = TransactionBody { title, nonce: nonce.get(), expires: Height(50), payload };
            Transaction::unsigned(&key(1).public(), &body).unwrap()
        };
        let mut chain = Chain::new(&genesis(100), Arc::new(Talker));
        let (entry, output) = (STATE_ENTRY_BYTES_MAX - 1, OUTPUT_BYTES_MAX);
        let at =
            step(&mut chain, vec![ask(entry, output, 0), ask(entry + 1, 0, 0), ask(0, output + 1, 0), ask(0, 0, 999)]);
        let outcomes: Vec<_> = at.receipts.iter().map(|receipt| receipt.outcome.clone()).collect();
        assert!(outcomes[0].is_applied());
        let why = |index: usize| match &outcomes[index] {
            Outcome::Rejected(why) => why.as_str(),
            other => panic!("{other:?}"),
        };
        assert!(why(1).contains("a key and its value") && why(2).contains("an output"), "{outcomes:?}");
        assert_eq!(why(3).len(), REASON_BYTES_MAX);
        // As many as a block can name, and more than it has room for: it is stored whole, and comes back.
        let count = BLOCK_OUTPUT_BYTES_MAX / output;
        let all: Vec<_> = (0..=count).map(|_| ask(1, output, 0)).collect();
        let full = step(&mut chain, all.clone());
        assert!(full.receipts[..count].iter().all(|receipt| receipt.outcome.is_applied()));
        assert_eq!(full.receipts[count].outcome, Outcome::Expired);
        assert!(step(&mut chain, vec![all[count].clone()]).receipts[0].outcome.is_applied(), "it may come again");
    }

    #[test]
    fn a_transaction_takes_effect_once_within_its_life() {
        let mut chain = chain(5);
        let outcome = |block: ExecutedBlock| block.receipts[0].outcome.clone();
        assert!(outcome(step(&mut chain, vec![put(1, 4)])).is_applied());
        assert_eq!(outcome(step(&mut chain, vec![put(1, 4)])), Outcome::Duplicate);
        assert_eq!(outcome(step(&mut chain, vec![put(2, 2)])), Outcome::Expired);
        assert_eq!(outcome(step(&mut chain, vec![put(3, 9)])), Outcome::Expired, "too far ahead");
        assert!(outcome(step(&mut chain, vec![put(3, 9)])).is_applied());
        while chain.height() < Height(20) {
            step(&mut chain, vec![]);
        }
        assert_eq!(outcome(step(&mut chain, vec![put(3, 9)])), Outcome::Expired, "forgotten, but dead");
    }

    #[test]
    fn undo_brings_back_state_hash_and_memory() {
        let mut chain = chain(5);
        let mut past = vec![];
        for nonce in 0..30 {
            past.push((chain.hash(), chain.state().root(), chain.recent.root(), chain.recent.ids.clone()));
            let expires = chain.height().0 + 3;
            step(&mut chain, vec![put(nonce, expires)]);
        }
        for back in (0..30).rev() {
            chain.undo_to(Height(back as u64)).unwrap();
            let now = (chain.hash(), chain.state().root(), chain.recent.root(), chain.recent.ids.clone());
            assert_eq!(now, past[back]);
        }
        assert!(chain.clone().undo_to(Height(0)).is_ok());
    }

    #[test]
    fn undo_is_bounded_and_says_so() {
        let mut chain = chain(5);
        for _ in 0..UNDO_DEPTH + 10 {
            step(&mut chain, vec![]);
        }
        assert!(matches!(chain.undo_to(Height(3)), Err(LedgerError::NotNext { .. })));
    }

    #[test]
    fn checkpoints_fall_on_the_interval_and_where_a_proposal_asks() {
        let mut chain = chain(5);
        let mut heights = vec![];
        for height in 1..=12u64 {
            let mut proposal = Proposal::null(Height(height), Epoch(0), View(0), Seat(0));
            proposal.checkpoint = height == 6;
            if chain.execute(proposal, &[]).unwrap().checkpoint.is_some() {
                heights.push((height, chain.interval().len()));
            }
        }
        assert_eq!(heights, [(4, 4), (6, 2), (8, 2), (12, 4)]);
    }

    #[test]
    fn only_the_next_proposal_with_its_own_payloads_is_executed() {
        let mut chain = chain(5);
        let far = Proposal::null(Height(2), Epoch(0), View(0), Seat(0));
        assert!(matches!(chain.execute(far, &[]), Err(LedgerError::NotNext { .. })));
        let next = Proposal::null(Height(1), Epoch(0), View(0), Seat(0));
        let foreign = [Arc::new(Batch::new(vec![put(1, 4)]).unwrap())];
        assert!(matches!(chain.execute(next, &foreign), Err(LedgerError::WrongPayload { .. })));
    }

    #[test]
    fn time_never_goes_back() {
        let mut chain = chain(5);
        let mut proposal = Proposal::null(Height(1), Epoch(0), View(0), Seat(0));
        proposal.time_ms = 5_000;
        assert_eq!(chain.execute(proposal, &[]).unwrap().header.time_ms, 5_000);
        assert_eq!(step(&mut chain, vec![]).header.time_ms, 5_001);
    }
}
