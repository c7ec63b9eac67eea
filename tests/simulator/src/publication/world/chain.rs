//! The chain: an order of transactions, and what it tells every server.

use standin_foundation::Height;
use standin_foundation::wire::Wire;
use standin_ledger::transaction::TransactionBody;
use standin_ledger::{Context, Reject, State, StateMachine as _, Transaction};
use standin_publisher::ids::PUBLISHER_TITLE;
use standin_publisher::machine::lock::Reason;
use standin_publisher::machine::source::Outcome;
use standin_publisher::messages::{Event, Instruction};
use standin_publisher::state_machine::{content_of, events_of};

use super::{From, Happening, World};
use crate::invariants::Violation;

/// From one block to the next, in ms.
const BLOCK_MS: u64 = 5;

impl World {
    pub(super) fn submit(&mut self, server: usize, instruction: &Instruction) {
        let Ok(payload) = instruction.to_wire() else { panic!("an instruction that does not fit: {instruction:?}") };
        self.nonce += 1;
        let body = TransactionBody {
            title: PUBLISHER_TITLE.parse().unwrap_or_else(|_| panic!("a fixed title")),
            nonce: self.nonce,
            expires: Height(u64::MAX),
            payload,
        };
        let transaction = Transaction::unsigned(&self.hosts[server].key, &body);
        let transaction = transaction.unwrap_or_else(|error| panic!("{error}"));
        let is_lost = self.hosts[server].cut_from_chain || (self.faulty && self.rng.u8(0..100) == 0);
        if !is_lost {
            let after = self.rng.u64(1..8);
            self.at(self.now + after, Happening::Order { transaction, from: From::Server });
        }
    }

    /// A transaction has its place: the chain carries it out.
    pub(super) fn execute(&mut self, transaction: &Transaction, from: From) -> Result<(), Violation> {
        // A block takes in what comes within a few ms.
        self.height = self.height.max(1 + self.now / BLOCK_MS);
        let context = Context { height: Height(self.height), time_ms: self.now, version: 1 };
        let mut state = State::new(&self.state);
        let applied = self.machine.apply(&context, transaction, &mut state);
        let outcome = match applied {
            Ok(output) => {
                let writes = state.into_writes();
                for (key, value) in writes {
                    match value {
                        Some(value) => drop(self.state.insert(key, value)),
                        None => drop(self.state.remove(&key)),
                    }
                }
                let events = events_of(transaction, &output);
                for event in &events {
                    self.note(transaction, event)?;
                }
                self.events.extend(events.iter().cloned());
                events.into_iter().next().map_or(Outcome::Unknown, Outcome::Event)
            }
            Err(Reject(why)) => Outcome::Refused(why),
        };
        if let From::Source { source, topic, session, nonce } = from
            && !(self.faulty && self.rng.u8(0..20) == 0)
        {
            let after = self.rng.u64(1..20);
            self.at(self.now + after, Happening::Outcome { source, topic, session, nonce, outcome });
        }
        (0..self.hosts.len()).for_each(|server| self.feed(server));
        Ok(())
    }

    pub(super) fn note(&mut self, transaction: &Transaction, event: &Event) -> Result<(), Violation> {
        match event {
            Event::Queued { topic, entry } => {
                let place = self.topics.iter().position(|known| known == topic).unwrap_or(0);
                if let Some(content) = content_of(transaction) {
                    self.frames[place].push((*entry, content));
                }
            }
            Event::Granted(takeover) => {
                self.grants += 1;
                let place = self.topics.iter().position(|known| *known == takeover.topic).unwrap_or(0);
                self.checker.granted(place, takeover.fence.0)?;
            }
            Event::Published { topic, fence, .. } => {
                let place = self.topics.iter().position(|known| known == topic).unwrap_or(0);
                self.checker.published(place, fence.0)?;
            }
            Event::Released { topic, fence, owner, reason } => {
                if *reason == Reason::Expired {
                    self.expired.insert((*topic, fence.0));
                }
                self.keep_what_is_free(*topic);
                // In the time that was agreed on an owner has stopped before others find that its lease has run out.
                let server = self.hosts.iter().position(|host| host.key == *owner);
                if let (Some(server), Reason::Expired) = (server, reason)
                    && let Some((until, held, _)) =
                        self.hosts[server].server.as_ref().and_then(|server| server.publishes(*topic))
                    && held == *fence
                    && until > self.clock(server)
                {
                    return Err(Violation {
                        invariant: "leases_end_first",
                        what: format!(
                            "{topic}: fence {fence} was released as expired, and its owner may publish for {} ms more",
                            until - self.clock(server)
                        ),
                    });
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// What the chain did is on its way to a server.
    pub(super) fn feed(&mut self, server: usize) {
        if self.hosts[server].cut_from_chain || self.hosts[server].server.is_none() {
            return;
        }
        let (upto, after) = (self.events.len(), self.rng.u64(1..6));
        let host = &mut self.hosts[server];
        host.chain_arrives = host.chain_arrives.max(self.now + after);
        let at = host.chain_arrives;
        self.at(at, Happening::Chain { server, upto });
    }
}
