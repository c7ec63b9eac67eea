//! A server's side of one terminal and one topic: a cursor over frames, not a queue of them. A terminal that is slow costs no memory and
//! holds up nobody.

use standin_foundation::{Digest, Epoch};

use crate::frame::Entry;
use crate::ids::{Fence, Sequence};
use crate::machine::terminal::Position;
use crate::messages::Takeover;

/// What a server has at a place of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The frame that begins there.
    Frame(Entry),
    /// Nothing yet.
    Beyond,
    /// It has been forgotten: the first frame that is left begins here.
    Forgotten {
        /// The first datum that is left.
        first: Sequence,
    },
    /// No frame begins there.
    Within,
}

/// Up to where a server may serve terminals, and under which fence. The owner of the lock serves what it publishes, any other server what
/// the chain says was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// The takeover of the newest grant that the server knows.
    pub takeover: Takeover,
    /// The epoch whose seats prove it.
    pub epoch: Epoch,
    /// The last datum.
    pub upto: Sequence,
}

/// What goes to the terminal next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The record of a takeover, before anything under its fence.
    Takeover(Takeover),
    /// A frame.
    Frame(Fence, Entry),
}

/// Why a terminal is not served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionRefused {
    /// What comes next for it is forgotten.
    #[error("datum {next} is not kept any more: the first that is left is {first}")]
    Forgotten {
        /// What the terminal needs.
        next: Sequence,
        /// What there is.
        first: Sequence,
    },
    /// Its position is of another history, or forged.
    #[error("the topic has no frame that ends at {last} with the chain value that was shown")]
    Position {
        /// Where it says that it stands.
        last: Sequence,
    },
}

/// A terminal at a server.
#[derive(Debug, Clone)]
pub struct Session {
    /// The datum that is sent next.
    next: Sequence,
    /// The fence of the takeover that was sent last, and the epoch that proves it.
    told: (Fence, Epoch),
    /// The last datum that the terminal has said it has.
    acknowledged: Sequence,
    /// Data that may be under way to it.
    window: u64,
}

impl Session {
    /// Goes on from a terminal's position. `chain_at` is the chain value behind the frame that ends at the datum; none if no frame ends there,
    /// or it is forgotten.
    pub fn resume(
        position: &Position,
        window: u64,
        chain_at: Option<Digest>,
        first: Sequence,
    ) -> Result<Self, SessionRefused> {
        let (last, next) = (position.last, Sequence(position.last.0.saturating_add(1)));
        if next < first {
            return Err(SessionRefused::Forgotten { next, first });
        }
        // Right at the edge the frame before is forgotten, and there may be nothing to compare: the first frame will tell.
        let is_at_edge = next == first && last != Sequence(0);
        let is_refused = match chain_at {
            Some(chain) => chain != position.chain,
            None => !is_at_edge,
        };
        if is_refused {
            return Err(SessionRefused::Position { last });
        }
        Ok(Self { next, told: (Fence(0), Epoch(0)), acknowledged: last, window })
    }

    /// Data that it has not said it has.
    pub fn under_way(&self) -> u64 {
        self.next.0.saturating_sub(self.acknowledged.0).saturating_sub(1)
    }

    /// The last datum that it has said it has.
    pub fn acknowledged(&self) -> Sequence {
        self.acknowledged
    }

    /// The terminal has everything up to here, from this server or another one: what it has is not sent. A false word harms nobody but
    /// itself, since it finds the gap.
    pub fn acknowledge(&mut self, last: Sequence) {
        self.acknowledged = self.acknowledged.max(last);
        self.next = self.next.max(Sequence(last.0.saturating_add(1)));
    }

    /// What is sent now; none if there is nothing, or the terminal has enough to do.
    pub fn next(
        &mut self,
        limit: &Limit,
        found: impl FnOnce(Sequence) -> Found,
    ) -> Result<Option<Next>, SessionRefused> {
        let (fence, epoch) = (limit.takeover.fence, limit.epoch);
        if (fence, epoch) > self.told {
            self.told = (fence, epoch);
            // What went under the fence before may have been refused as stale: it goes once more, unless the terminal has said that it has it.
            self.next = Sequence(self.acknowledged.0.saturating_add(1));
            return Ok(Some(Next::Takeover(limit.takeover)));
        }
        if self.next > limit.upto || self.under_way() >= self.window {
            return Ok(None);
        }
        match found(self.next) {
            Found::Frame(entry) if entry.last() <= limit.upto => {
                self.next = entry.next();
                Ok(Some(Next::Frame(limit.takeover.fence, entry)))
            }
            Found::Frame(_) | Found::Beyond => Ok(None),
            Found::Forgotten { first } => Err(SessionRefused::Forgotten { next: self.next, first }),
            Found::Within => Err(SessionRefused::Position { last: Sequence(self.next.0.saturating_sub(1)) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use standin_foundation::SecretKey;

    use super::*;
    use crate::frame::tests::content;

    fn frames(count: u64) -> Vec<Entry> {
        let mut before = Digest::ZERO;
        let frame = |n| {
            let entry = Entry::following(&before, Sequence(n), &content(&[&n.to_string()])).unwrap();
            before = entry.chain;
            entry
        };
        (1..=count).map(frame).collect()
    }

    fn limit(fence: u64, upto: u64) -> Limit {
        let owner = SecretKey::from_bytes(&[1; 32]).unwrap().public();
        let (topic, from, before) = ("t".parse().unwrap(), Sequence(1), Digest::ZERO);
        let takeover = Takeover { topic, fence: Fence(fence), owner, lease_ms: 1_000, from, before };
        Limit { takeover, epoch: Epoch(0), upto: Sequence(upto) }
    }

    fn resume(last: u64, entries: &[Entry], window: u64) -> Session {
        let chain = last.checked_sub(1).map_or(Digest::ZERO, |place| entries[place as usize].chain);
        let position = Position { last: Sequence(last), chain, ..Position::default() };
        Session::resume(&position, window, Some(chain), Sequence(1)).unwrap()
    }

    fn sent(session: &mut Session, limit: &Limit, entries: &[Entry]) -> Vec<u64> {
        let find = |next: Sequence| match entries.iter().find(|entry| entry.first == next) {
            Some(entry) => Found::Frame(*entry),
            None => Found::Beyond,
        };
        let mut sent = Vec::new();
        while let Some(next) = session.next(limit, find).unwrap() {
            match next {
                Next::Takeover(takeover) => sent.push(takeover.fence.0 * 1_000),
                Next::Frame(_, entry) => sent.push(entry.first.0),
            }
        }
        sent
    }

    #[test]
    fn a_takeover_goes_before_anything_under_its_fence_and_nothing_beyond_the_limit() {
        let entries = frames(9);
        let mut session = resume(2, &entries, 100);
        assert_eq!(sent(&mut session, &limit(1, 4), &entries), [1_000, 3, 4]);
        assert_eq!(sent(&mut session, &limit(1, 4), &entries), Vec::<u64>::new());
        session.acknowledge(Sequence(3));
        assert_eq!(sent(&mut session, &limit(2, 6), &entries), [2_000, 4, 5, 6], "4 may have been refused");
    }

    /// H14: a terminal that takes nothing has its window under way and no more; what it has from others is not sent.
    #[test]
    fn h14_a_slow_terminal_gets_its_window_and_what_it_has_is_not_sent_again() {
        let entries = frames(20);
        let mut session = resume(0, &entries, 3);
        assert_eq!(sent(&mut session, &limit(1, 20), &entries), [1_000, 1, 2, 3]);
        session.acknowledge(Sequence(1));
        assert_eq!(sent(&mut session, &limit(1, 20), &entries), [4]);
        session.acknowledge(Sequence(15));
        assert_eq!(sent(&mut session, &limit(1, 20), &entries), [16, 17, 18], "it has the others from another server");
        session.acknowledge(Sequence(2));
        assert_eq!((session.acknowledged(), session.under_way()), (Sequence(15), 3), "an old word changes nothing");
        session.acknowledge(Sequence(u64::MAX));
        assert_eq!(sent(&mut session, &limit(1, 20), &entries), Vec::<u64>::new(), "its own harm");
    }

    /// H6, H18.
    #[test]
    fn a_position_that_is_forged_or_forgotten_is_refused() {
        let entries = frames(9);
        let at = |last: u64, chain| Position { last: Sequence(last), chain, ..Position::default() };
        let kept = |position: &Position, known| Session::resume(position, 9, known, Sequence(5));
        let forged = at(7, Digest::sha256(b"forged"));
        assert_eq!(kept(&forged, Some(entries[6].chain)).unwrap_err(), SessionRefused::Position { last: Sequence(7) });
        assert!(kept(&at(7, entries[6].chain), None).is_err(), "no frame ends there");
        assert!(kept(&at(7, entries[6].chain), Some(entries[6].chain)).is_ok());
        assert!(kept(&at(4, entries[3].chain), None).is_ok(), "right at the edge: its next frame will tell");
        let forged = at(4, Digest::sha256(b"forged"));
        assert!(kept(&forged, Some(entries[3].chain)).is_err(), "not where it is known what went before");
        let forgotten = SessionRefused::Forgotten { next: Sequence(4), first: Sequence(5) };
        assert_eq!(kept(&at(3, entries[2].chain), None).unwrap_err(), forgotten);
        let mut session = resume(0, &entries, 9);
        session.next(&limit(1, 9), |_| Found::Beyond).unwrap();
        let gone = session.next(&limit(1, 9), |_| Found::Forgotten { first: Sequence(5) });
        assert_eq!(gone.unwrap_err(), SessionRefused::Forgotten { next: Sequence(1), first: Sequence(5) });
    }
}
