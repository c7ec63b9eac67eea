//! The gate: nothing binding leaves before it is durable. One comparison, in one place, for the actor and the simulator.

use std::collections::VecDeque;

use crate::effect::Recipient;
use crate::messages::Body;
use crate::record::Lsn;

/// A binding message that waits for its record.
#[derive(Debug)]
pub struct Held {
    /// The record that must be durable first.
    pub after: Lsn,
    /// To whom it goes.
    pub to: Recipient,
    /// What it says.
    pub body: Body,
}

/// Holds binding messages until the log is durable up to their record.
///
/// Invariant: messages leave in the order in which they were handed in, and none leaves with `after` above the highest
/// position reported durable. Positions of an earlier incarnation count for nothing: a gate lives as long as its node.
#[derive(Debug, Default)]
pub struct Gate {
    durable: Lsn,
    held: VecDeque<Held>,
}

impl Gate {
    /// A gate for a log that is durable up to `durable`.
    pub fn new(durable: Lsn) -> Self {
        Self { durable, held: VecDeque::new() }
    }

    /// Hands in a message.
    pub fn hold(&mut self, to: Recipient, body: Body, after: Lsn) {
        self.held.push_back(Held { after, to, body });
    }

    /// The log is durable up to `durable`. Never goes back.
    pub fn durable(&mut self, durable: Lsn) {
        self.durable = self.durable.max(durable);
    }

    /// The next message that may leave.
    pub fn release(&mut self) -> Option<Held> {
        if self.held.front()?.after > self.durable {
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
    use standin_foundation::{Digest, Height, View};

    use super::*;

    #[test]
    fn a_message_leaves_only_when_its_record_is_durable_and_in_order() {
        let body = || Body::Prepare { view: View(0), height: Height(1), digest: Digest::ZERO };
        let mut gate = Gate::new(0);
        gate.hold(Recipient::All, body(), 2);
        gate.hold(Recipient::All, body(), 1);
        assert!(gate.release().is_none());
        gate.durable(1);
        assert!(gate.release().is_none(), "the first still waits, and order is kept");
        gate.durable(2);
        gate.durable(1);
        assert_eq!(gate.release().map(|held| held.after), Some(2));
        assert_eq!(gate.release().map(|held| held.after), Some(1));
        assert!(gate.is_empty());
    }
}
