//! Where everything about publication stands in the chain's state, and how to read it there.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use standin_foundation::wire::Wire;
use standin_foundation::{ClusterId, Digest, Epoch, Height, PublicKey};
use standin_ledger::trie::Trie;

use crate::frame::Entry;
use crate::ids::{Fence, Sequence, TOPIC_PREFIX, Topic};
use crate::machine::dictionary::{Dictionary, SourceRecord};
use crate::machine::lock::{Lock, Reason};
use crate::messages::{SOURCES_MAX, Settings};

/// Keys of the state that begin with this byte are the publisher's: no other state machine writes them.
pub const PUBLISHER_PREFIX: u8 = 0xfe;
/// Topics of a chain.
pub const TOPICS_MAX: usize = 1_024;
/// Holdings of a topic that the state remembers; earlier ones stand in blocks alone.
pub const HOLDINGS_KEPT: u64 = 1_024;

/// All that the chain says of a topic, but frames, sources and former holdings.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TopicRecord {
    /// Who may push, and what.
    pub settings: Settings,
    /// Who publishes.
    pub lock: Lock,
    /// What is queued.
    pub dictionary: Dictionary,
}

impl Wire for TopicRecord {
    const NAME: &'static str = "topic";
    const BYTES_MAX: usize = 4_096 + SOURCES_MAX * 64;
}

/// A holding of a lock, and what was published under it: the ledger of the data resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// Who published.
    pub owner: PublicKey,
    /// Under which fence.
    pub fence: Fence,
    /// For how long after each renewal, in ms.
    pub lease_ms: u32,
    /// The block that granted it.
    pub granted: Height,
    /// The first datum.
    pub from: Sequence,
    /// The topic's chain before that.
    pub before: Digest,
    /// The last datum, as far as checkpoints say; the one before `from` while there is none.
    pub upto: Sequence,
    /// The topic's chain up to and with that: it stands for the hash of every frame.
    pub chain: Digest,
    /// Why it ended, and in which block; none while it goes on.
    pub ended: Option<(Reason, Height)>,
}

impl Wire for Holding {
    const NAME: &'static str = "holding";
    const BYTES_MAX: usize = 512;
}

/// Which topics there are, and how many orders about them have been carried out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Register {
    /// The topics.
    pub topics: BTreeSet<Topic>,
    /// Orders about topics that have been carried out: the number of the next one.
    pub orders: u64,
}

impl Wire for Register {
    const NAME: &'static str = "register of topics";
    const BYTES_MAX: usize = 64 + TOPICS_MAX * 32;
}

/// The members of a cluster that the chain knows, where they are not those of the genesis or of the order that seated it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterMembers {
    /// The epoch that the list is of.
    pub listed: Epoch,
    /// The list's version.
    pub version: u64,
    /// The members.
    pub keys: BTreeSet<PublicKey>,
}

impl Wire for ClusterMembers {
    const NAME: &'static str = "members of a cluster";
    const BYTES_MAX: usize = 2_048;
}

impl Wire for SourceRecord {
    const NAME: &'static str = "source";
    const BYTES_MAX: usize = 32;
}

impl Wire for Entry {
    const NAME: &'static str = "entry of a dictionary";
    const BYTES_MAX: usize = 160;
}

/// A key of the publisher's: what it is, and the topic at full width, so that no topic's keys begin another's.
fn key_of(kind: u8, topic: Topic, rest: &[u8]) -> Vec<u8> {
    let title = topic.title();
    let name = title.as_padded_bytes().get(TOPIC_PREFIX.len()..).unwrap_or_default();
    [&[PUBLISHER_PREFIX, kind], name, rest].concat()
}

/// Where a topic's record stands.
pub fn topic_key(topic: Topic) -> Vec<u8> {
    key_of(b't', topic, &[])
}

/// Where the entry of the frame stands that begins with a sequence, while it waits to be published.
pub fn entry_key(topic: Topic, first: Sequence) -> Vec<u8> {
    key_of(b'e', topic, &first.0.to_be_bytes())
}

/// Where a source's record stands.
pub fn source_key(topic: Topic, source: &[u8; 33]) -> Vec<u8> {
    key_of(b's', topic, source)
}

/// Where a holding stands.
pub fn holding_key(topic: Topic, fence: Fence) -> Vec<u8> {
    key_of(b'h', topic, &fence.0.to_be_bytes())
}

/// Where the register of topics stands.
pub fn register_key() -> Vec<u8> {
    vec![PUBLISHER_PREFIX, b'r']
}

/// Where a cluster's members stand.
pub fn members_key(cluster: &ClusterId) -> Vec<u8> {
    [&[PUBLISHER_PREFIX, b'm'], cluster.as_str().as_bytes()].concat()
}

fn read<T: Wire>(found: Option<&Bytes>) -> Option<T> {
    // Whatever stands there the state machine has written.
    T::from_wire(found?).ok()
}

/// Which topics a state has.
pub fn register(state: &Trie) -> Register {
    read(state.get(&register_key())).unwrap_or_default()
}

/// A topic's record.
pub fn topic(state: &Trie, topic: Topic) -> Option<TopicRecord> {
    read(state.get(&topic_key(topic)))
}

/// The entry of the frame that begins with a sequence, while it waits to be published.
pub fn entry(state: &Trie, topic: Topic, first: Sequence) -> Option<Entry> {
    read(state.get(&entry_key(topic, first)))
}

/// How far a source has come in a topic.
pub fn source(state: &Trie, topic: Topic, source: &PublicKey) -> SourceRecord {
    read(state.get(&source_key(topic, source.as_bytes()))).unwrap_or_default()
}

/// The members of a cluster that have been shown to the chain.
pub fn members(state: &Trie, cluster: &ClusterId) -> Option<ClusterMembers> {
    read(state.get(&members_key(cluster)))
}

/// The holding under a fence.
pub fn holding(state: &Trie, topic: Topic, fence: Fence) -> Option<Holding> {
    read(state.get(&holding_key(topic, fence)))
}

/// The holding under which a datum was published, as far as checkpoints say and the state remembers.
pub fn holding_of(state: &Trie, of: Topic, sequence: Sequence) -> Option<Holding> {
    let newest = topic(state, of)?.lock.fence.0;
    let (mut low, mut high) = (newest.saturating_sub(HOLDINGS_KEPT - 1).max(1), newest.checked_add(1)?);
    // Holdings begin at rising places: the last that begins at or before the datum is its own.
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        match holding(state, of, Fence(middle))?.from <= sequence {
            true => low = middle,
            false => high = middle,
        }
    }
    holding(state, of, Fence(low)).filter(|found| (found.from..=found.upto).contains(&sequence))
}
