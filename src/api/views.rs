//! What `/api/v1` answers with, read by [`crate::client`]; and the checks of what claims to be proven.

use serde::{Deserialize, Serialize};
use standin_console::actions::Place;
use standin_foundation::{Digest, Height, NodeId, PublicKey};
use standin_ledger::GrantTable;
use standin_ledger::certificate::{CheckpointCertificate, CommitCertificate};
use standin_ledger::namespaced::{CompletenessStep, NamespacedNode};
use standin_ledger::store::StoredBlock;
use standin_ledger::trie::StateProof;
use standin_ledger::{Header, Outcome, Receipt, ReceiptProof, Title, Transaction, TransactionId};
use standin_publisher::frame::{Content, Datum, Entry};
use standin_publisher::machine::lock::Reason;
pub use standin_publisher::terminal::BytesView;
use standin_publisher::{Fence, Sequence, Topic};

/// What became of a submitted transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submitted {
    /// Its id.
    pub id: TransactionId,
    /// Height of its block, if it has one.
    pub height: Option<Height>,
    /// Its place there.
    pub index: Option<usize>,
    /// What became of it; none if that is not known yet.
    pub outcome: Option<Outcome>,
    /// Why it was not taken at all.
    pub refused: Option<String>,
}

/// How a topic stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicView {
    /// The topic.
    pub topic: Topic,
    /// The newest grant's number.
    pub fence: Fence,
    /// Who publishes; none while the lock is free.
    pub owner: Option<PublicKey>,
    /// The lease, in ms.
    pub lease_ms: Option<u32>,
    /// How often it was renewed.
    pub renewals: Option<u64>,
    /// The last datum that is queued.
    pub queued: Sequence,
    /// The last that was published, as far as checkpoints say.
    pub published: Sequence,
    /// The first datum that this node keeps.
    pub kept_from: Option<Sequence>,
    /// This node publishes it.
    pub publishes_here: bool,
    /// Data wait that this node does not have: it asks other nodes for them, and does not publish the topic before.
    pub lacks: bool,
}

/// All topics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicsView {
    /// Orders about topics that have been carried out: the number of the next one.
    pub orders: u64,
    /// The topics, by name.
    pub topics: Vec<TopicView>,
}

/// Who published what, under which fence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldingView {
    /// Who.
    pub owner: PublicKey,
    /// The fence.
    pub fence: Fence,
    /// The block that granted it.
    pub granted: Height,
    /// The first datum.
    pub from: Sequence,
    /// The last, as far as checkpoints say; none if there is none.
    pub upto: Option<Sequence>,
    /// The topic's chain up to and with that.
    pub chain: Digest,
    /// Why it ended.
    pub ended: Option<Reason>,
    /// In which block.
    pub ended_at: Option<Height>,
}

/// A frame of a topic, as a node keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameView {
    /// The topic.
    pub topic: Topic,
    /// The first datum's sequence.
    pub first: Sequence,
    /// How many data.
    pub count: u16,
    /// The hash of the content: BLAKE3 of its one encoding ([`Content::bytes`]). The chain has it, too.
    pub content: Digest,
    /// The topic's chain before the frame.
    pub before: Digest,
    /// And with it.
    pub chain: Digest,
    /// The data, in order.
    pub data: Vec<DatumView>,
}

/// A datum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatumView {
    /// What it is about.
    pub id: BytesView,
    /// What is said.
    pub value: BytesView,
}

impl FrameView {
    pub(crate) fn of(topic: Topic, entry: &Entry, content: &Content) -> Self {
        let Entry { first, count, content: hash, before, chain } = *entry;
        let data = content.data();
        let view = |datum: &Datum| DatumView { id: (&datum.id).into(), value: (&datum.value).into() };
        Self { topic, first, count, content: hash, before, chain, data: data.iter().map(view).collect() }
    }

    /// Whether the data are those of the hash, and the chain is that of them behind what was before.
    pub fn is_sound(&self) -> bool {
        let datum = |view: &DatumView| Some(Datum { id: view.id.bytes()?, value: view.value.bytes()? });
        let data: Option<Vec<_>> = self.data.iter().map(datum).collect();
        let content = data.and_then(|data| Content::new(&data).ok());
        let entry = content.and_then(|content| Entry::following(&self.before, self.first, &content));
        let Self { first, count, content, before, chain, .. } = *self;
        entry == Some(Entry { first, count, before, content, chain })
    }
}

/// How far a source has come in a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceView {
    /// Its newest session.
    pub session: u64,
    /// The nonce of its next datum there.
    pub next_nonce: u64,
}

/// Versions of the state machine's rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionsView {
    /// The newest that the node's program knows.
    pub known: u32,
    /// The one by which the next block is executed.
    pub active: u32,
    /// The one that holds with the epoch that has been ordered, or else now.
    pub ordered: u32,
}

/// Where a node stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StatusView {
    /// The chain's name.
    pub chain: String,
    /// The node's name.
    pub name: String,
    /// The node.
    pub node: NodeId,
    /// Whether it speaks for its seat.
    pub active: bool,
    /// The chain has removed the node's cluster: the node stands still.
    pub removed: bool,
    /// It is being taken out of service.
    pub draining: bool,
    /// It says nothing to other seats.
    pub paused: bool,
    /// It takes no transactions.
    pub read_only: bool,
    /// Versions of the state machine's rules.
    pub state_machine: VersionsView,
    /// The node's cluster.
    pub cluster: String,
    /// Its seat.
    pub seat: u16,
    /// The epoch: the number of the configuration of seats.
    pub epoch: u64,
    /// The last block of the epoch, once the next one has been ordered.
    pub epoch_ends: Option<Height>,
    /// The view.
    pub view: u64,
    /// The view that it wants, while it changes views.
    pub changing_to: Option<u64>,
    /// The seat that leads the view.
    pub primary: u16,
    /// Up to here blocks have been committed.
    pub committed: Height,
    /// Up to here blocks have been executed.
    pub height: Height,
    /// The last stable checkpoint.
    pub stable: Height,
    /// Batches that wait for their order.
    pub pending_batches: usize,
    /// Bytes of these.
    pub pending_bytes: usize,
    /// Transactions of clients that wait for an outcome.
    pub waiting: usize,
    /// Bytes of the durable log.
    pub log_bytes: u64,
    /// Seats whose result was found to differ from a quorum's.
    pub wrong_results: u64,
    /// Seats that were found to contradict themselves.
    pub equivocations: u64,
    /// Views that were left.
    pub view_changes: u64,
    /// Transactions that took a place in a block since the start.
    pub transactions: u64,
    /// The other seats.
    pub peers: Vec<PeerView>,
}

/// Another seat, as this node sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerView {
    /// The seat.
    pub seat: u16,
    /// Whether there is a connection.
    pub connected: bool,
    /// Its view, as it last said.
    pub view: u64,
    /// Up to here it has committed, as it last said.
    pub committed: Height,
}

/// A block.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BlockView {
    /// Its height.
    pub height: Height,
    /// Its hash.
    pub hash: Digest,
    /// Its header.
    pub header: Header,
    /// 2f+1 commits.
    pub certificate: CommitCertificate,
    /// Root over the receipts.
    pub receipts_root: Digest,
    /// A receipt for each transaction, in order.
    pub receipts: Vec<Receipt>,
}

/// Which block is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhichBlock {
    /// The newest.
    Latest,
    /// The one at this height.
    At(Height),
    /// The one with this hash.
    Hash(Digest),
}

impl std::str::FromStr for WhichBlock {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let height = text.parse().ok().filter(|_| text.len() < 64).map(|height| Self::At(Height(height)));
        let is_latest = (text == "latest").then_some(Self::Latest);
        let which = is_latest.or(height).or_else(|| text.parse().ok().map(Self::Hash));
        which.ok_or_else(|| format!("`{text}` names no block: a height, a hash or `latest` is needed"))
    }
}

impl std::fmt::Display for WhichBlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::At(height) => write!(f, "{height}"),
            Self::Hash(hash) => write!(f, "{hash}"),
        }
    }
}

impl From<StoredBlock> for BlockView {
    fn from(block: StoredBlock) -> Self {
        Self {
            height: block.header.height(),
            hash: block.hash,
            header: block.header,
            certificate: block.certificate,
            receipts_root: block.receipts_root,
            receipts: block.receipts,
        }
    }
}

/// A transaction with the proofs that it is in its block, and that its receipt is covered by a checkpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TransactionView {
    /// Its canonical bytes, hex.
    pub bytes: String,
    /// Header of its block.
    pub header: Header,
    /// 2f+1 commits for that block.
    pub certificate: CommitCertificate,
    /// Place of its batch in the block.
    pub batch: usize,
    /// Its place in the batch.
    pub index_in_batch: usize,
    /// Siblings on the way to the batch's name.
    pub inclusion: Vec<NamespacedNode>,
    /// What became of it.
    pub receipt: Receipt,
    /// The proof of the receipt; none while no checkpoint covers the block.
    pub receipt_proof: Option<ReceiptProof>,
    /// The checkpoint that covers it, once it is proven.
    pub checkpoint: Option<CheckpointCertificate>,
}

/// All transactions of one title in a block, with the proof that there are no others.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TitleView {
    /// The title.
    pub title: Title,
    /// Header of the block.
    pub header: Header,
    /// 2f+1 commits for that block.
    pub certificate: CommitCertificate,
    /// For each batch of the block, in order.
    pub batches: Vec<TitleBatch>,
}

/// All transactions of one title in a batch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TitleBatch {
    /// Their canonical bytes, hex, in order.
    pub transactions: Vec<String>,
    /// The proof that these are all.
    pub completeness: Vec<CompletenessStep>,
}

/// An answer about the state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AnswerView {
    /// The state is that after this block.
    pub height: Height,
    /// What stands there, hex; none if nothing does.
    pub value: Option<String>,
    /// Root of the trie.
    pub root: Digest,
    /// The proof of the value, or of its absence, against the root.
    pub proof: StateProof,
}

/// An answer of the node's own state machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MachineAnswerView {
    /// The state is that after this block.
    pub height: Height,
    /// What the state machine says, hex.
    pub answer: String,
}

/// What can be done at a node.
#[derive(Debug, Clone, Deserialize)]
pub struct OfferedView {
    /// What an order is signed for.
    #[serde(flatten)]
    pub place: Place,
    /// The node carries actions out.
    pub enabled: bool,
    /// Their names, and what they do.
    pub actions: Vec<ActionView>,
}

/// Something that can be done.
#[derive(Debug, Clone, Deserialize)]
pub struct ActionView {
    /// Its name.
    pub name: String,
    /// What it does.
    pub what: String,
}

/// What an action would do.
#[derive(Debug, Clone, Deserialize)]
pub struct PreviewView {
    /// Its effect, in sentences.
    pub effect: Vec<String>,
    /// Names what is shown here.
    pub seen: String,
}

/// What an action did.
#[derive(Debug, Clone, Deserialize)]
pub struct DoneView {
    /// In a sentence.
    pub done: String,
}

/// An error, as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorView {
    /// What is wrong, and what to do.
    pub error: String,
    /// Where blocks were asked for that the node does not have any more: the first that it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<Height>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl From<String> for ErrorView {
    fn from(error: String) -> Self {
        Self { error, first: None, hint: None }
    }
}

impl TransactionView {
    /// Checks everything that this view claims, against the genesis and the grants alone: that the transaction is the one that was asked
    /// for, that it is in a block with a valid certificate, and that its receipt is covered by a proven checkpoint.
    pub fn verify(&self, id: &TransactionId, seats: &GrantTable) -> Result<(), String> {
        let transaction = parse_hex(&self.bytes)?;
        if transaction.id() != *id || self.receipt.transaction != *id {
            return Err("another transaction came back".to_owned());
        }
        verify_block(&self.header, &self.certificate, seats)?;
        let batch = self.header.proposal.batches.get(self.batch).ok_or("the block has no such batch")?;
        if !batch.verify_inclusion(&transaction, self.index_in_batch, &self.inclusion) {
            return Err("the inclusion proof does not lead to the batch's name".to_owned());
        }
        let (Some(proof), Some(checkpoint)) = (&self.receipt_proof, &self.checkpoint) else {
            return Err("no proven checkpoint covers the block yet".to_owned());
        };
        checkpoint.verify(seats).map_err(|error| format!("checkpoint certificate: {error}"))?;
        if proof.height != self.header.height() || !proof.verify(&self.receipt, &checkpoint.result) {
            return Err("the receipt's proof does not lead to the checkpoint".to_owned());
        }
        Ok(())
    }
}

impl TitleView {
    /// Checks, against the genesis and the grants alone, that the block has a valid certificate and that these are all of its transactions
    /// with this title; gives them, in order.
    pub fn verify(&self, title: Title, height: Height, seats: &GrantTable) -> Result<Vec<Transaction>, String> {
        verify_block(&self.header, &self.certificate, seats)?;
        if self.title != title || self.header.height() != height {
            return Err("another title or block came back".to_owned());
        }
        let names = &self.header.proposal.batches;
        if names.len() != self.batches.len() {
            return Err(format!("the block has {} batches, {} came back", names.len(), self.batches.len()));
        }
        let mut all = Vec::new();
        for (number, (name, batch)) in names.iter().zip(&self.batches).enumerate() {
            let transactions: Result<Vec<_>, _> = batch.transactions.iter().map(|bytes| parse_hex(bytes)).collect();
            let transactions = transactions?;
            if !name.verify_completeness(title, &transactions, &batch.completeness) {
                return Err(format!("batch {number}: the proof does not show that these are all of its transactions"));
            }
            all.extend(transactions);
        }
        Ok(all)
    }
}

fn parse_hex(bytes: &str) -> Result<Transaction, String> {
    let bytes = hex::decode(bytes).map_err(|error| format!("transaction bytes: {error}"))?;
    Transaction::parse(bytes.into()).map_err(|error| error.to_string())
}

fn verify_block(header: &Header, certificate: &CommitCertificate, seats: &GrantTable) -> Result<(), String> {
    if certificate.digest != header.proposal.digest() || certificate.height != header.height() {
        return Err("the block's certificate is for another proposal".to_owned());
    }
    certificate.verify(seats).map_err(|error| format!("block certificate: {error}"))
}
