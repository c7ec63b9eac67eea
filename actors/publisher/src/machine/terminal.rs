//! A terminal's side of one topic: each datum once, in order, without a gap, whoever sends it and how often.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use standin_foundation::Digest;

use crate::frame::{Content, Entry};
use crate::ids::{Fence, Sequence};
use crate::messages::Takeover;
#[cfg(feature = "mutations")]
use crate::mutation::Mutation;

/// Frames that are remembered, to tell a repetition from a contradiction.
const REMEMBERED: usize = 1_024;

/// Where a terminal stands in a topic. It is stored together with what the data did, so that neither is without the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The highest fence that it has seen proven.
    pub fence: Fence,
    /// The last datum that it has; it is the last of its frame.
    pub last: Sequence,
    /// The topic's chain up to and with that.
    pub chain: Digest,
}

impl Default for Position {
    /// Before the first datum.
    fn default() -> Self {
        Self { fence: Fence(0), last: Sequence(0), chain: Digest::ZERO }
    }
}

/// A frame, as a server sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Under which fence.
    pub fence: Fence,
    /// Its place.
    pub entry: Entry,
    /// Its data.
    pub content: Content,
}

/// What becomes of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is the next one: here are its data, and where the terminal stands behind them.
    Deliver {
        /// The frame.
        entry: Entry,
        /// Its data.
        content: Content,
        /// To be stored with what they do.
        position: Position,
    },
    /// It was delivered before. Nothing happens.
    Repeated,
    /// Its sender has been superseded.
    Stale {
        /// The sender's fence.
        found: Fence,
        /// The highest that is known.
        newest: Fence,
    },
    /// Its fence is above all that were proven: the sender must show the takeover first.
    Unproven {
        /// The sender's fence.
        found: Fence,
    },
    /// Something before it is missing: the sender is to go on from the terminal's position.
    Gap {
        /// What comes next.
        next: Sequence,
        /// What came.
        found: Sequence,
    },
    /// It contradicts itself or what the terminal has: its sender, or what the terminal got before, is false.
    Alarm(Alarm),
}

/// A contradiction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Alarm {
    /// The content is not the one that its hash says.
    #[error("the content of frame {first} is not what its hash says")]
    Content {
        /// The frame.
        first: Sequence,
    },
    /// The chain value does not follow.
    #[error("frame {first} does not follow the chain up to {}", first.0.saturating_sub(1))]
    Chain {
        /// The frame.
        first: Sequence,
    },
    /// Another frame was delivered in its place.
    #[error("two frames at {first}: one was delivered, another one came now")]
    Equivocation {
        /// The frame.
        first: Sequence,
    },
    /// A takeover that does not fit what was delivered.
    #[error("the takeover under fence {fence} begins behind another history")]
    Takeover {
        /// Its fence.
        fence: Fence,
    },
}

/// How often what has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Data that were delivered.
    pub delivered: u64,
    /// Data that came again.
    pub repeated: u64,
    /// Frames of superseded senders.
    pub stale: u64,
    /// Frames before which something was missing.
    pub gaps: u64,
    /// Contradictions.
    pub alarms: u64,
}

/// A terminal's side of one topic.
#[derive(Debug)]
pub struct Terminal {
    position: Position,
    /// The chain behind each of the last frames, by the last datum.
    delivered: VecDeque<(Sequence, Digest)>,
    counters: Counters,
    #[cfg(feature = "mutations")]
    mutation: Option<Mutation>,
}

impl Terminal {
    /// One that goes on from where it stood.
    pub fn new(position: Position) -> Self {
        Self {
            position,
            delivered: [(position.last, position.chain)].into(),
            counters: Counters::default(),
            #[cfg(feature = "mutations")]
            mutation: None,
        }
    }

    /// Switches a rule off.
    #[cfg(feature = "mutations")]
    pub fn mutate(&mut self, mutation: Option<Mutation>) {
        self.mutation = mutation;
    }

    #[cfg(feature = "mutations")]
    fn lacks(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// Where it stands.
    pub fn position(&self) -> Position {
        self.position
    }

    /// What has happened.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Takes the record of a takeover that has been proven: its fence holds from now on, and lower ones no more.
    pub fn takeover(&mut self, takeover: &Takeover) -> Result<(), Alarm> {
        let Takeover { fence, from, before, .. } = *takeover;
        if fence <= self.position.fence {
            return Ok(());
        }
        let behind = Sequence(from.0.saturating_sub(1));
        if self.chain_at(behind).is_some_and(|chain| chain != before) {
            self.counters.alarms += 1;
            return Err(Alarm::Takeover { fence });
        }
        self.position.fence = fence;
        Ok(())
    }

    /// Judges a frame.
    pub fn frame(&mut self, published: Published) -> Verdict {
        let Published { fence, entry, content } = published;
        if let Some(verdict) = self.judge_fence(fence) {
            return verdict;
        }
        if let Some(alarm) = self.contradiction(&entry, &content) {
            self.counters.alarms += 1;
            return Verdict::Alarm(alarm);
        }
        let next = Sequence(self.position.last.0.saturating_add(1));
        if entry.last() < next {
            self.counters.repeated += u64::from(entry.count);
            return Verdict::Repeated;
        }
        if entry.first > next {
            self.counters.gaps += 1;
            return Verdict::Gap { next, found: entry.first };
        }
        self.position.last = entry.last();
        self.position.chain = entry.chain;
        self.delivered.push_back((entry.last(), entry.chain));
        if self.delivered.len() > REMEMBERED {
            self.delivered.pop_front();
        }
        self.counters.delivered += u64::from(entry.count);
        Verdict::Deliver { entry, content, position: self.position }
    }

    /// The chain behind the frame that ends at a datum, if it is remembered.
    fn chain_at(&self, last: Sequence) -> Option<Digest> {
        let place = self.delivered.binary_search_by_key(&last, |(last, _)| *last).ok()?;
        self.delivered.get(place).map(|(_, chain)| *chain)
    }

    fn judge_fence(&mut self, found: Fence) -> Option<Verdict> {
        #[cfg(feature = "mutations")]
        if self.lacks(Mutation::FenceUnchecked) {
            return None;
        }
        let newest = self.position.fence;
        if found < newest {
            self.counters.stale += 1;
            return Some(Verdict::Stale { found, newest });
        }
        (found > newest).then_some(Verdict::Unproven { found })
    }

    /// What is wrong with a frame that is not ahead of the terminal.
    fn contradiction(&self, entry: &Entry, content: &Content) -> Option<Alarm> {
        let first = entry.first;
        if usize::from(entry.count) != content.count() || entry.content != content.hash() {
            return Some(Alarm::Content { first });
        }
        #[cfg(feature = "mutations")]
        if self.lacks(Mutation::ChainUnchecked) {
            return None;
        }
        let next = Sequence(self.position.last.0.saturating_add(1));
        if first == next {
            return (!entry.follows(&self.position.chain)).then_some(Alarm::Chain { first });
        }
        if first > next {
            return None;
        }
        // Frames are fixed when they enter the queue: one that straddles the terminal's position is another history.
        let is_other = match self.chain_at(entry.last()) {
            Some(chain) => chain != entry.chain,
            None => entry.last() >= next || self.delivered.front().is_some_and(|(oldest, _)| *oldest < entry.last()),
        };
        is_other.then_some(Alarm::Equivocation { first })
    }
}
