//! A server's side of one terminal and one topic: a cursor over frames, not a queue of them. A terminal that is slow costs no memory and
//! holds up nobody.

use standin_foundation::Digest;

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
    /// The fence of the takeover that was sent last.
    told: Fence,
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
        // Right at the edge the frame before is forgotten, and nothing can be compared: the first frame will tell.
        let is_known = next > first || last == Sequence(0);
        if is_known && chain_at != Some(position.chain) {
            return Err(SessionRefused::Position { last });
        }
        Ok(Self { next, told: Fence(0), acknowledged: last, window })
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
        if limit.takeover.fence > self.told {
            self.told = limit.takeover.fence;
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
