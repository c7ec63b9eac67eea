//! The gate: nothing binding leaves before it is released. One comparison, in one place, for the actor and the simulator.

use std::collections::VecDeque;

use standin_foundation::{Epoch, Lsn, Writer};

use crate::effect::Recipient;
use crate::messages::Body;

/// A binding message that waits for its record.
#[derive(Debug)]
pub struct Held {
    /// The record that must be released first.
    pub after: Lsn,
    /// To whom it goes.
    pub to: Recipient,
    /// The epoch in which it is said.
    pub epoch: Epoch,
    /// What it says.
    pub body: Body,
}

/// Holds binding messages until the seat's log is released up to their record: durable at the holder, and acknowledged by
/// every member that its grant lists.
///
/// Invariants: messages leave in the order in which they were handed in, and none leaves with `after` above what was
/// released for the writer in which it was handed in. What is released for one writer says nothing for another, and a new
/// writer empties the queue (L3).
#[derive(Debug, Default)]
pub struct Gate {
    writer: Writer,
    released: Lsn,
    held: VecDeque<Held>,
}

impl Gate {
    /// A gate for a writer that has released nothing yet.
    pub fn new(writer: Writer) -> Self {
        Self { writer, released: 0, held: VecDeque::new() }
    }

    /// Hands in a message.
    pub fn hold(&mut self, to: Recipient, epoch: Epoch, body: Body, after: Lsn) {
        self.held.push_back(Held { after, to, epoch, body });
    }

    /// The log of `writer` is released up to `lsn`. Never goes back, and counts for nothing if it is of another writer.
    pub fn released(&mut self, writer: Writer, lsn: Lsn) {
        if writer == self.writer {
            self.released = self.released.max(lsn);
        }
    }

    /// The next message that may leave.
    pub fn release(&mut self) -> Option<Held> {
        if self.held.front()?.after > self.released {
            return None;
        }
        self.held.pop_front()
    }

    /// Messages that wait.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use standin_foundation::{Digest, Height, Incarnation, Term, View};

    use super::*;

    fn body() -> Body {
        Body::Prepare { view: View(0), height: Height(1), digest: Digest::ZERO }
    }

    fn writer(term: u64, incarnation: u64) -> Writer {
        Writer { term: Term(term), incarnation: Incarnation(incarnation) }
    }

    #[test]
    fn a_message_leaves_only_when_its_record_is_released_and_in_order() {
        let mut gate = Gate::new(writer(1, 1));
        gate.hold(Recipient::All, Epoch(0), body(), 2);
        gate.hold(Recipient::All, Epoch(0), body(), 1);
        assert!(gate.release().is_none());
        gate.released(writer(1, 1), 1);
        assert!(gate.release().is_none(), "the first still waits, and order is kept");
        gate.released(writer(1, 1), 2);
        gate.released(writer(1, 1), 1);
        assert_eq!(gate.release().map(|held| held.after), Some(2));
        assert_eq!(gate.release().map(|held| held.after), Some(1));
        assert!(gate.is_empty());
    }

    /// L3: a number alone says nothing; it counts for the writer that it was released for.
    #[test]
    fn l3_what_was_released_for_another_writer_counts_for_nothing() {
        let mut gate = Gate::new(writer(2, 1));
        gate.hold(Recipient::All, Epoch(0), body(), 5);
        gate.released(writer(1, 9), 9);
        gate.released(writer(2, 0), 9);
        gate.released(writer(3, 1), 9);
        assert!(gate.release().is_none());
        gate.released(writer(2, 1), 5);
        assert!(gate.release().is_some());
    }
}
