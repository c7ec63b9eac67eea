//! The dictionary of a topic, as the chain keeps it: what is queued, in which order, and up to where it was published.

use serde::{Deserialize, Serialize};
use standin_foundation::Digest;

use crate::frame::{Entry, Push};
use crate::ids::Sequence;

/// Frames that may wait to be published. Beyond them sources have to wait.
pub const WAITING_MAX: u64 = 16_384;
/// Frames that one checkpoint may pass.
pub const CHECKPOINT_FRAMES_MAX: u64 = 4_096;

/// Where a topic's queue begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dictionary {
    /// The sequence of the next datum.
    pub next: Sequence,
    /// The chain up to it.
    pub chain: Digest,
    /// The last datum that was published, as far as checkpoints say.
    pub published: Sequence,
    /// The chain up to and with that.
    pub published_chain: Digest,
    /// Frames in between.
    pub waiting: u64,
}

impl Default for Dictionary {
    /// An empty one.
    fn default() -> Self {
        Self {
            next: Sequence(1),
            chain: Digest::ZERO,
            published: Sequence(0),
            published_chain: Digest::ZERO,
            waiting: 0,
        }
    }
}

/// How far a source has come in a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SourceRecord {
    /// Its newest session.
    pub session: u64,
    /// The nonce of its next datum there.
    pub next: u64,
}

/// What became of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pushed {
    /// It is a frame of the queue.
    Queued(Entry),
    /// All of it was queued before.
    Known,
    /// The source's data before it are missing.
    Gap,
    /// Too much waits to be published: to be pushed again later.
    Full,
}

/// Why the dictionary does not do what it was told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DictionaryRefused {
    /// The source has begun another session since.
    #[error(
        "the source has begun session {newest}, and this is of session {found}: another process pushes with its key"
    )]
    Superseded {
        /// What was shown.
        found: u64,
        /// The newest.
        newest: u64,
    },
    /// Sequences end.
    #[error("the topic has no more sequences")]
    NoSequence,
    /// A frame that begins with data that were queued before and ends with new ones.
    #[error("the push begins with nonce {nonce}, and {next} is the next one: push what is new alone")]
    Straddles {
        /// Its first.
        nonce: u64,
        /// The next one that the chain takes.
        next: u64,
    },
    /// The checkpoint does not go on.
    #[error("checkpoint at {upto}: {published} is published already")]
    NotBeyond {
        /// What was shown.
        upto: Sequence,
        /// What is.
        published: Sequence,
    },
    /// No frame ends there, or too far on.
    #[error("up to {upto}: no frame that waits ends there; the last that ends before it ends at {before}")]
    NoFrame {
        /// What was shown.
        upto: Sequence,
        /// The end of the last frame before, of as many as may be passed at one time.
        before: Sequence,
    },
    /// What is to be given up does not begin with what waits.
    #[error("data from {from} on are to be given up, and the first that waits is {next}: draft it anew")]
    NotFirst {
        /// What was shown.
        from: Sequence,
        /// What is.
        next: Sequence,
    },
    /// It is of another history.
    #[error("checkpoint at {upto}: its chain value is not that of the dictionary")]
    WrongChain {
        /// What was shown.
        upto: Sequence,
    },
}

impl Dictionary {
    /// Takes a push. `source` moves on with what is queued.
    pub fn push(&mut self, source: &mut SourceRecord, push: &Push) -> Result<Pushed, DictionaryRefused> {
        let Push { session, nonce, content } = push;
        let (newest, nonce) = (source.session, *nonce);
        if *session < newest {
            return Err(DictionaryRefused::Superseded { found: *session, newest });
        }
        let next = if *session > newest { 0 } else { source.next };
        let after = nonce.saturating_add(content.count() as u64);
        if after <= next {
            return Ok(Pushed::Known);
        }
        if nonce > next {
            return Ok(Pushed::Gap);
        }
        if nonce < next {
            return Err(DictionaryRefused::Straddles { nonce, next });
        }
        if self.waiting >= WAITING_MAX {
            return Ok(Pushed::Full);
        }
        let entry = Entry::following(&self.chain, self.next, content).ok_or(DictionaryRefused::NoSequence)?;
        *source = SourceRecord { session: *session, next: after };
        (self.next, self.chain) = (entry.next(), entry.chain);
        self.waiting += 1;
        Ok(Pushed::Queued(entry))
    }

    /// Takes a checkpoint. `frame_at` gives the frame that begins at a sequence; gives the frames that it passes, by their first sequences.
    pub fn publish(
        &mut self,
        upto: Sequence,
        chain: &Digest,
        frame_at: impl Fn(Sequence) -> Option<Entry>,
    ) -> Result<Vec<Sequence>, DictionaryRefused> {
        if upto <= self.published {
            return Err(DictionaryRefused::NotBeyond { upto, published: self.published });
        }
        let (passed, last) = self.frames_upto(upto, CHECKPOINT_FRAMES_MAX, frame_at)?;
        if last.chain != *chain {
            return Err(DictionaryRefused::WrongChain { upto });
        }
        self.pass(&passed, &last);
        Ok(passed)
    }

    /// Gives up what waits from the first datum that does up to this one: nobody has it any more. Gives the frames that it passes, and the chain value behind them.
    pub fn skip(
        &mut self,
        from: Sequence,
        upto: Sequence,
        frame_at: impl Fn(Sequence) -> Option<Entry>,
    ) -> Result<(Vec<Sequence>, Digest), DictionaryRefused> {
        match self.published.next().ok_or(DictionaryRefused::NoSequence)? {
            next if next != from => return Err(DictionaryRefused::NotFirst { from, next }),
            _ => {}
        }
        let (passed, last) = self.frames_upto(upto, WAITING_MAX, frame_at)?;
        self.pass(&passed, &last);
        Ok((passed, last.chain))
    }

    /// The frames that wait up to a datum, by their first sequences, and the last of them, which ends there.
    fn frames_upto(
        &self,
        upto: Sequence,
        frames_max: u64,
        frame_at: impl Fn(Sequence) -> Option<Entry>,
    ) -> Result<(Vec<Sequence>, Entry), DictionaryRefused> {
        let mut passed = Vec::new();
        let mut next = self.published.next().ok_or(DictionaryRefused::NoSequence)?;
        for _ in 0..frames_max {
            let Some(entry) = frame_at(next).filter(|entry| entry.last() <= upto) else { break };
            passed.push(entry.first);
            if entry.last() == upto {
                return Ok((passed, entry));
            }
            next = entry.next();
        }
        Err(DictionaryRefused::NoFrame { upto, before: Sequence(next.0.saturating_sub(1)) })
    }

    fn pass(&mut self, passed: &[Sequence], last: &Entry) {
        (self.published, self.published_chain) = (last.last(), last.chain);
        self.waiting = self.waiting.saturating_sub(passed.len() as u64);
    }

    /// Whether something waits to be published.
    pub fn has_waiting(&self) -> bool {
        self.waiting > 0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::frame::tests::content;

    fn queued(pushed: Result<Pushed, DictionaryRefused>) -> Entry {
        match pushed {
            Ok(Pushed::Queued(entry)) => entry,
            other => panic!("{other:?}"),
        }
    }

    fn push(session: u64, nonce: u64, values: &[&str]) -> Push {
        Push { session, nonce, content: content(values) }
    }

    /// H5: a source that did not hear the answer pushes again.
    #[test]
    fn h5_a_nonce_is_queued_once_however_often_it_comes() {
        let (mut dictionary, mut source) = (Dictionary::default(), SourceRecord::default());
        let first = queued(dictionary.push(&mut source, &push(1, 0, &["a", "b"])));
        assert_eq!((first.first, first.last(), source.next), (Sequence(1), Sequence(2), 2));
        let before = (dictionary, source);
        assert_eq!(dictionary.push(&mut source, &push(1, 0, &["a", "b"])), Ok(Pushed::Known));
        assert_eq!(dictionary.push(&mut source, &push(1, 1, &["b"])), Ok(Pushed::Known));
        assert_eq!(dictionary.push(&mut source, &push(1, 3, &["d"])), Ok(Pushed::Gap), "2 is missing");
        let straddles = dictionary.push(&mut source, &push(1, 1, &["b", "c"])).unwrap_err();
        assert!(straddles.to_string().contains("2 is the next one"), "{straddles}");
        assert_eq!((dictionary, source), before, "none of them changed anything");
        let second = queued(dictionary.push(&mut source, &push(1, 2, &["c"])));
        assert_eq!(second.first, Sequence(3));
        let mut other = SourceRecord::default();
        assert_eq!(queued(dictionary.push(&mut other, &push(1, 0, &["x"]))).first, Sequence(4), "of another source");
    }

    /// A source that starts again does not know what is still under way of its life before: that must not take its new data's places.
    #[test]
    fn what_an_earlier_session_left_under_way_is_never_taken_for_what_a_later_one_pushes() {
        let (mut dictionary, mut source) = (Dictionary::default(), SourceRecord::default());
        queued(dictionary.push(&mut source, &push(1, 0, &["a"])));
        let late = push(1, 1, &["b"]);
        assert_eq!(dictionary.push(&mut source, &push(2, 1, &["c"])), Ok(Pushed::Gap), "a session begins with 0");
        queued(dictionary.push(&mut source, &push(2, 0, &["c"])));
        assert_eq!(dictionary.push(&mut source, &late), Err(DictionaryRefused::Superseded { found: 1, newest: 2 }));
        assert_eq!(source, SourceRecord { session: 2, next: 1 });
        queued(dictionary.push(&mut source, &push(2, 1, &["d"])));
    }

    #[test]
    fn a_checkpoint_is_taken_at_the_end_of_a_frame_of_this_very_history() {
        let (mut dictionary, mut source, mut entries) =
            (Dictionary::default(), SourceRecord::default(), BTreeMap::new());
        for (n, values) in [&["a", "b"][..], &["c"], &["d"]].into_iter().enumerate() {
            let next = source.next;
            let entry = queued(dictionary.push(&mut source, &push(1, next, values)));
            entries.insert(entry.first, entry);
            assert_eq!(dictionary.waiting, n as u64 + 1);
        }
        let chain_at = |first: u64| entries[&Sequence(first)].chain;
        let at = |sequence| entries.get(&sequence).copied();
        let mut publish = |upto: u64, chain: Digest| dictionary.publish(Sequence(upto), &chain, at);
        assert_eq!(
            publish(1, chain_at(1)),
            Err(DictionaryRefused::NoFrame { upto: Sequence(1), before: Sequence(0) }),
            "within a frame"
        );
        assert_eq!(
            publish(5, chain_at(4)),
            Err(DictionaryRefused::NoFrame { upto: Sequence(5), before: Sequence(4) }),
            "not queued"
        );
        assert_eq!(publish(3, chain_at(1)), Err(DictionaryRefused::WrongChain { upto: Sequence(3) }));
        assert_eq!(publish(3, chain_at(3)), Ok(vec![Sequence(1), Sequence(3)]));
        assert!(matches!(publish(2, chain_at(1)), Err(DictionaryRefused::NotBeyond { .. })));
        assert!(matches!(publish(3, chain_at(3)), Err(DictionaryRefused::NotBeyond { .. })), "once");
        assert_eq!(publish(4, chain_at(4)), Ok(vec![Sequence(4)]));
        assert!(!dictionary.has_waiting());
        assert_eq!(dictionary.published_chain, dictionary.chain);
    }

    /// What nobody has any more is passed, and the order goes on behind it.
    #[test]
    fn what_is_given_up_ends_with_a_frame_and_begins_with_what_waits() {
        let (mut dictionary, mut source, mut entries) =
            (Dictionary::default(), SourceRecord::default(), BTreeMap::new());
        for values in [&["a", "b"][..], &["c"], &["d", "e"]] {
            let next = source.next;
            let entry = queued(dictionary.push(&mut source, &push(1, next, values)));
            entries.insert(entry.first, entry);
        }
        let chain_at = |first: u64| entries[&Sequence(first)].chain;
        let at = |sequence| entries.get(&sequence).copied();
        let mut skip = |from: u64, upto: u64| dictionary.skip(Sequence(from), Sequence(upto), at);
        assert_eq!(
            skip(1, 1),
            Err(DictionaryRefused::NoFrame { upto: Sequence(1), before: Sequence(0) }),
            "within a frame"
        );
        assert_eq!(
            skip(1, 6),
            Err(DictionaryRefused::NoFrame { upto: Sequence(6), before: Sequence(5) }),
            "not queued"
        );
        assert_eq!(skip(3, 3), Err(DictionaryRefused::NotFirst { from: Sequence(3), next: Sequence(1) }));
        assert_eq!(skip(1, 3), Ok((vec![Sequence(1), Sequence(3)], chain_at(3))));
        assert_eq!(skip(1, 3), Err(DictionaryRefused::NotFirst { from: Sequence(1), next: Sequence(4) }), "once");
        assert_eq!((dictionary.waiting, dictionary.next), (1, Sequence(6)));
        assert_eq!(dictionary.publish(Sequence(5), &chain_at(4), at), Ok(vec![Sequence(4)]));
    }

    #[test]
    fn a_full_queue_takes_nothing_until_something_is_published() {
        let mut dictionary = Dictionary { waiting: WAITING_MAX, ..Dictionary::default() };
        let mut source = SourceRecord::default();
        assert_eq!(dictionary.push(&mut source, &push(1, 0, &["a"])), Ok(Pushed::Full));
        assert_eq!((source, dictionary.next), (SourceRecord::default(), Sequence(1)));
        dictionary.waiting -= 1;
        queued(dictionary.push(&mut source, &push(1, 0, &["a"])));
        let mut last = Dictionary { next: Sequence(u64::MAX), ..Dictionary::default() };
        let refused = last.push(&mut SourceRecord::default(), &push(1, 0, &["a"]));
        assert_eq!(refused, Err(DictionaryRefused::NoSequence));
    }
}
