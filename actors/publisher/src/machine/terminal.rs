//! A terminal's side of one topic: each datum once, in order, without a gap, whoever sends it and how often.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use standin_foundation::{Digest, Epoch};

use crate::frame::{Content, Entry};
use crate::ids::{Fence, Sequence, Topic};
use crate::machine::witness::{Proven, Unproven};
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
    /// The newest epoch whose seats have proven one: those of older ones may have retired, and prove nothing new.
    #[serde(default)]
    pub epoch: Epoch,
    /// The last datum that it has; it is the last of its frame.
    pub last: Sequence,
    /// The topic's chain up to and with that.
    pub chain: Digest,
}

impl Default for Position {
    /// Before the first datum.
    fn default() -> Self {
        Self { fence: Fence(0), epoch: Epoch(0), last: Sequence(0), chain: Digest::ZERO }
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
    /// Its server would begin behind the datum that was asked for: what lies between would never come.
    #[error("it begins behind datum {found}, and datum {wanted} was asked for")]
    Start {
        /// The first datum that was asked for.
        wanted: Sequence,
        /// Where it begins.
        found: Sequence,
    },
    /// A takeover of another topic.
    #[error("a takeover of topic {topic}")]
    Topic {
        /// That one.
        topic: Topic,
    },
    /// A takeover that is not proven.
    #[error("the takeover under fence {fence} is not proven: {why}")]
    Unproven {
        /// Its fence.
        fence: Fence,
        /// Why not.
        why: Unproven,
    },
    /// A takeover that is proven by seats that may have retired: its sender does not know the newest epoch, or is false.
    #[error("the takeover under fence {fence} is proven in epoch {epoch}, and epoch {newest} has begun")]
    Retired {
        /// Its fence.
        fence: Fence,
        /// The epoch of its words.
        epoch: Epoch,
        /// The newest one that is known.
        newest: Epoch,
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
    /// Frames of superseded senders, and takeovers proven by seats that may have retired.
    pub stale: u64,
    /// Frames before which something was missing.
    pub gaps: u64,
    /// Contradictions.
    pub alarms: u64,
}

/// A terminal's side of one topic.
#[derive(Debug)]
pub struct Terminal {
    topic: Topic,
    position: Position,
    /// The chain behind each of the last frames, by the last datum.
    delivered: VecDeque<(Sequence, Digest)>,
    counters: Counters,
    #[cfg(feature = "mutations")]
    mutation: Option<Mutation>,
}

impl Terminal {
    /// One that goes on from where it stood in a topic.
    pub fn new(topic: Topic, position: Position) -> Self {
        Self {
            topic,
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

    /// The topic.
    pub fn topic(&self) -> Topic {
        self.topic
    }

    /// Where it stands.
    pub fn position(&self) -> Position {
        self.position
    }

    /// What has happened.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Whether a takeover says anything new, under its fence or by the epoch that proves it: only then it is worth being proven.
    pub fn is_news(&self, fence: Fence, epoch: Epoch) -> bool {
        fence > self.position.fence || (fence == self.position.fence && epoch > self.position.epoch)
    }

    /// Takes a takeover that is proven: its fence holds from now on, and lower ones no more; and what older epochs say counts no more.
    pub fn takeover(&mut self, proven: &Proven) -> Result<(), Alarm> {
        let (Takeover { topic, fence, from, before, .. }, epoch) = (*proven.takeover(), proven.epoch());
        if topic != self.topic {
            self.counters.alarms += 1;
            return Err(Alarm::Topic { topic });
        }
        if !self.is_news(fence, epoch) {
            return Ok(());
        }
        let newest = self.position.epoch;
        let is_retired = epoch < newest;
        #[cfg(feature = "mutations")]
        let is_retired = is_retired && !self.lacks(Mutation::RetiredBelieved);
        if is_retired {
            self.counters.stale += 1;
            return Err(Alarm::Retired { fence, epoch, newest });
        }
        let behind = Sequence(from.0.saturating_sub(1));
        if self.chain_at(behind).is_some_and(|chain| chain != before) {
            self.counters.alarms += 1;
            return Err(Alarm::Takeover { fence });
        }
        (self.position.fence, self.position.epoch) = (fence, epoch.max(newest));
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

#[cfg(test)]
mod tests {
    use standin_foundation::SecretKey;

    use super::*;
    use crate::frame::tests::content;

    /// The frames of a topic, one datum each.
    fn history(values: &[&str]) -> Vec<(Entry, Content)> {
        let (mut before, mut first, mut frames) = (Digest::ZERO, Sequence(1), Vec::new());
        for value in values {
            let content = content(&[value]);
            let entry = Entry::following(&before, first, &content).unwrap();
            (before, first) = (entry.chain, entry.next());
            frames.push((entry, content));
        }
        frames
    }

    fn topic() -> Topic {
        "t".parse().unwrap()
    }

    fn takeover(fence: u64, from: u64, before: Digest) -> Proven {
        let owner = SecretKey::from_bytes(&[1; 32]).unwrap().public();
        let (topic, from) = (topic(), Sequence(from));
        Proven::without_proof(Takeover { topic, fence: Fence(fence), owner, lease_ms: 1_000, from, before }, Epoch(0))
    }

    fn send(terminal: &mut Terminal, fence: u64, frame: &(Entry, Content)) -> Verdict {
        terminal.frame(Published { fence: Fence(fence), entry: frame.0, content: frame.1.clone() })
    }

    /// A terminal that knows fence 1 and has the first frames.
    fn having(frames: &[(Entry, Content)], count: usize) -> Terminal {
        let mut terminal = Terminal::new(topic(), Position::default());
        terminal.takeover(&takeover(1, 1, Digest::ZERO)).unwrap();
        for frame in frames.iter().take(count) {
            assert!(matches!(send(&mut terminal, 1, frame), Verdict::Deliver { .. }));
        }
        terminal
    }

    /// H1, H10: what an old holder says after another took over is not seen, whether it is new or not, and however long it was under way.
    #[test]
    fn h1_h10_nothing_of_a_superseded_holder_is_seen() {
        let frames = history(&["a", "b", "c"]);
        let mut terminal = having(&frames, 1);
        terminal.takeover(&takeover(2, 2, frames[0].0.chain)).unwrap();
        let stale = Verdict::Stale { found: Fence(1), newest: Fence(2) };
        assert_eq!(send(&mut terminal, 1, &frames[1]), stale, "the same datum from the new holder is taken");
        assert!(matches!(send(&mut terminal, 2, &frames[1]), Verdict::Deliver { .. }));
        assert_eq!(send(&mut terminal, 1, &frames[1]), stale);
        assert_eq!((terminal.counters().stale, terminal.position().last), (2, Sequence(2)));
        terminal.takeover(&takeover(1, 1, Digest::ZERO)).unwrap();
        assert_eq!(terminal.position().fence, Fence(2), "an old record brings no fence back");
    }

    #[test]
    fn a_fence_of_the_future_is_not_taken_without_its_record() {
        let frames = history(&["a", "b"]);
        let mut terminal = having(&frames, 1);
        assert_eq!(send(&mut terminal, 9, &frames[1]), Verdict::Unproven { found: Fence(9) });
        assert_eq!(terminal.position().last, Sequence(1));
        let foreign = takeover(9, 2, Digest::sha256(b"another history"));
        assert_eq!(terminal.takeover(&foreign), Err(Alarm::Takeover { fence: Fence(9) }));
        assert_eq!(terminal.position().fence, Fence(1));
        let topic = "another".parse().unwrap();
        let elsewhere =
            Proven::without_proof(Takeover { topic, ..*takeover(9, 2, frames[0].0.chain).takeover() }, Epoch(0));
        assert_eq!(terminal.takeover(&elsewhere), Err(Alarm::Topic { topic }));
        assert_eq!(terminal.position().fence, Fence(1));
    }

    /// H2: what was sent before a crash and comes again from the next holder is dropped; a hole is not.
    #[test]
    fn h2_repetitions_are_dropped_and_gaps_are_not_passed_over() {
        let frames = history(&["a", "b", "c", "d"]);
        let mut terminal = having(&frames, 3);
        terminal.takeover(&takeover(2, 2, frames[0].0.chain)).unwrap();
        assert_eq!(send(&mut terminal, 2, &frames[1]), Verdict::Repeated);
        assert_eq!(send(&mut terminal, 2, &frames[2]), Verdict::Repeated);
        assert!(matches!(send(&mut terminal, 2, &frames[3]), Verdict::Deliver { .. }));
        let mut behind = having(&frames, 1);
        assert_eq!(send(&mut behind, 1, &frames[2]), Verdict::Gap { next: Sequence(2), found: Sequence(3) });
        assert_eq!(behind.position().last, Sequence(1));
    }

    /// H11: whatever a false server makes of a frame, it is an alarm and no datum.
    #[test]
    fn h11_a_frame_that_is_not_the_queues_is_an_alarm() {
        let frames = history(&["a", "b", "c"]);
        let others = history(&["a", "x", "y"]);
        let mut terminal = having(&frames, 2);
        let first = Sequence(2);
        assert_eq!(send(&mut terminal, 1, &others[1]), Verdict::Alarm(Alarm::Equivocation { first }));
        let first = Sequence(3);
        assert_eq!(send(&mut terminal, 1, &others[2]), Verdict::Alarm(Alarm::Chain { first }), "of another history");
        let swapped = (frames[2].0, others[2].1.clone());
        assert_eq!(send(&mut terminal, 1, &swapped), Verdict::Alarm(Alarm::Content { first }));
        let longer = (Entry { count: 2, ..frames[2].0 }, frames[2].1.clone());
        assert_eq!(send(&mut terminal, 1, &longer), Verdict::Alarm(Alarm::Content { first }));
        let whole = content(&["b", "c"]);
        let straddling = Entry::following(&frames[0].0.chain, Sequence(2), &whole).unwrap();
        let verdict = send(&mut terminal, 1, &(straddling, whole));
        assert_eq!(verdict, Verdict::Alarm(Alarm::Equivocation { first: Sequence(2) }), "frames keep their bounds");
        assert_eq!((terminal.counters().alarms, terminal.counters().delivered), (5, 2));
        assert!(matches!(send(&mut terminal, 1, &frames[2]), Verdict::Deliver { .. }), "and goes on with the others");
    }

    /// H6, H17: from what was stored it goes on exactly, and a fence that it has seen stays seen.
    #[test]
    fn h6_h17_a_terminal_goes_on_from_its_stored_position() {
        let frames = history(&["a", "b", "c"]);
        let mut terminal = having(&frames, 1);
        terminal.takeover(&takeover(5, 2, frames[0].0.chain)).unwrap();
        let mut again = Terminal::new(topic(), terminal.position());
        assert_eq!(send(&mut again, 4, &frames[1]), Verdict::Stale { found: Fence(4), newest: Fence(5) });
        assert_eq!(send(&mut again, 5, &frames[0]), Verdict::Repeated);
        let Verdict::Deliver { position, .. } = send(&mut again, 5, &frames[1]) else { panic!("it is the next") };
        assert_eq!(position, again.position());
        let chain = frames[1].0.chain;
        assert_eq!(position, Position { fence: Fence(5), epoch: Epoch(0), last: Sequence(2), chain });
    }

    /// Who held seats once may say anything now: once an epoch has proven a fence, older ones prove no higher one.
    #[test]
    fn h11_retired_seats_prove_nothing_new() {
        let frames = history(&["a", "b"]);
        let mut terminal = having(&frames, 1);
        let in_epoch = |fence, epoch| {
            let takeover = takeover(fence, 2, frames[0].0.chain);
            Proven::without_proof(*takeover.takeover(), Epoch(epoch))
        };
        terminal.takeover(&in_epoch(2, 0)).unwrap();
        assert!(terminal.is_news(Fence(2), Epoch(1)) && !terminal.is_news(Fence(1), Epoch(1)));
        terminal.takeover(&in_epoch(2, 1)).unwrap();
        assert_eq!(terminal.position(), Position { epoch: Epoch(1), ..terminal.position() });
        let retired = Alarm::Retired { fence: Fence(9), epoch: Epoch(0), newest: Epoch(1) };
        assert_eq!(terminal.takeover(&in_epoch(9, 0)), Err(retired));
        let mut again = Terminal::new(topic(), terminal.position());
        assert_eq!(again.takeover(&in_epoch(9, 0)), Err(retired), "also after it has begun anew");
        assert!(matches!(send(&mut terminal, 2, &frames[1]), Verdict::Deliver { .. }), "what was proven holds");
        terminal.takeover(&in_epoch(3, 1)).unwrap();
        terminal.takeover(&in_epoch(4, 2)).unwrap();
        assert_eq!((terminal.position().fence, terminal.position().epoch), (Fence(4), Epoch(2)));
    }
}
