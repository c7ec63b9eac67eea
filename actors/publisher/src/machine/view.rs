//! What a server knows of all topics: made of the chain's state once, and of events from then on.

use std::collections::BTreeMap;

use standin_foundation::{NodeId, PublicKey};
use standin_ledger::trie::Trie;

use crate::frame::Entry;
use crate::ids::{Fence, Sequence, Topic};
use crate::machine::lock::Reason;
use crate::messages::{Checkpoint, Event, Takeover};
use crate::record::{self, Holding};

/// A topic, as the chain was after the newest event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicView {
    /// Where the lock stands outside the chain: the number that came with the newest grant.
    pub outside: Option<u64>,
    /// The newest grant's number.
    pub fence: Fence,
    /// The newest grant, while it holds.
    pub held: Option<Held>,
    /// The newest grant's record, whether it holds or not.
    pub takeover: Option<Takeover>,
    /// Who had the lock before, and why it ended.
    pub ended: Option<(PublicKey, Reason)>,
    /// What was published, as far as checkpoints say.
    pub published: Checkpoint,
    /// Frames that wait to be published, by their first sequences.
    pub waiting: BTreeMap<Sequence, Entry>,
}

/// A grant that holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Who publishes.
    pub owner: PublicKey,
    /// For how long after each renewal, in ms.
    pub lease_ms: u32,
    /// How often it has been renewed.
    pub renewals: u64,
}

impl Default for TopicView {
    fn default() -> Self {
        let published = Checkpoint { upto: Sequence(0), chain: standin_foundation::Digest::ZERO };
        Self {
            outside: None,
            fence: Fence(0),
            held: None,
            takeover: None,
            ended: None,
            published,
            waiting: BTreeMap::new(),
        }
    }
}

impl TopicView {
    /// The last datum that is queued, or published.
    pub fn last(&self) -> Sequence {
        self.waiting.values().next_back().map_or(self.published.upto, Entry::last)
    }

    /// The checkpoint at the end of the last frame that ends at or before a datum; none if nothing of that waits.
    pub fn checkpoint_at(&self, upto: Sequence, frames_max: usize) -> Option<Checkpoint> {
        let within = self.waiting.values().take(frames_max).take_while(|entry| entry.last() <= upto);
        within.last().map(|entry| Checkpoint { upto: entry.last(), chain: entry.chain })
    }
}

/// All topics.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    topics: BTreeMap<Topic, TopicView>,
}

impl View {
    /// What a state says.
    pub fn of(state: &Trie) -> Self {
        let topic = |topic| {
            let record = record::topic(state, topic)?;
            let published = Checkpoint { upto: record.dictionary.published, chain: record.dictionary.published_chain };
            let mut waiting = BTreeMap::new();
            let mut next = published.upto.next();
            while let Some(entry) = next.and_then(|next| record::entry(state, topic, next)) {
                next = Some(entry.next());
                waiting.insert(entry.first, entry);
            }
            let held = record.lock.held.map(|grant| Held {
                owner: grant.owner,
                lease_ms: grant.lease_ms,
                renewals: grant.renewals,
            });
            let last = record::holding(state, topic, record.lock.fence);
            let ended = last.as_ref().and_then(|holding| holding.ended.map(|(reason, _)| (holding.owner, reason)));
            let takeover = last.map(|Holding { owner, fence, lease_ms, from, before, .. }| Takeover {
                topic,
                fence,
                owner,
                lease_ms,
                from,
                before,
            });
            let outside = record.settings.outside.then_some(record.lock.outside);
            Some((topic, TopicView { outside, fence: record.lock.fence, held, takeover, ended, published, waiting }))
        };
        Self { topics: record::register(state).topics.into_iter().filter_map(topic).collect() }
    }

    /// Takes in what the chain did; gives the topic that it is about, if that changed.
    pub fn note(&mut self, event: &Event) -> Option<Topic> {
        match event {
            Event::Set { topic, outside } => {
                let view = self.topics.entry(*topic).or_default();
                view.outside = outside.then(|| view.outside.unwrap_or(0));
                Some(*topic)
            }
            Event::Outside { topic, number } => {
                self.topics.get_mut(topic)?.outside = Some(*number);
                None
            }
            Event::Queued { topic, entry } => {
                self.topics.entry(*topic).or_default().waiting.insert(entry.first, *entry);
                Some(*topic)
            }
            Event::Granted(takeover) => {
                let Takeover { topic, fence, owner, lease_ms, .. } = takeover;
                let view = self.topics.entry(*topic).or_default();
                (view.fence, view.takeover) = (*fence, Some(*takeover));
                view.held = Some(Held { owner: *owner, lease_ms: *lease_ms, renewals: 0 });
                Some(*topic)
            }
            Event::Renewed { topic, renewals, .. } => {
                let held = self.topics.get_mut(topic)?.held.as_mut()?;
                held.renewals = *renewals;
                Some(*topic)
            }
            Event::Published { topic, checkpoint, .. } | Event::Skipped { topic, checkpoint, .. } => {
                let view = self.topics.get_mut(topic)?;
                view.published = *checkpoint;
                view.waiting = view.waiting.split_off(&Sequence(checkpoint.upto.0.saturating_add(1)));
                Some(*topic)
            }
            Event::Released { topic, owner, reason, .. } => {
                let view = self.topics.get_mut(topic)?;
                (view.held, view.ended) = (None, Some((*owner, *reason)));
                Some(*topic)
            }
            Event::Known { .. }
            | Event::Gap { .. }
            | Event::Full { .. }
            | Event::Attested { .. }
            | Event::Members
            | Event::Refused { .. } => None,
        }
    }

    /// A topic.
    pub fn get(&self, topic: Topic) -> Option<&TopicView> {
        self.topics.get(&topic)
    }

    /// Whether a topic's lock stands outside the chain.
    pub fn is_outside(&self, topic: Topic) -> bool {
        self.topics.get(&topic).is_some_and(|view| view.outside.is_some())
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (Topic, &TopicView)> {
        self.topics.iter().map(|(topic, view)| (*topic, view))
    }

    /// How many locks a server holds.
    pub fn held_by(&self, server: &NodeId) -> usize {
        let held = self.topics.values().filter_map(|view| view.held.as_ref());
        held.filter(|held| held.owner.node_id() == *server).count()
    }
}
