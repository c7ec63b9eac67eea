//! Sources, and their pushes.

use fastrand::Rng;
use standin_foundation::{Height, Millis};
use standin_ledger::Transaction;
use standin_ledger::transaction::TransactionBody;
use standin_publisher::frame::Push;
use standin_publisher::machine::source::Effect;

use super::{From, Happening, World};
use crate::invariants::Violation;

impl World {
    /// Sources have data until a time.
    pub fn load(&mut self, rng: &mut Rng, until: u64) {
        for source in 0..self.sources.len() {
            for topic in 0..self.topics.len() {
                let (mut at, gap) = (rng.u64(1..500), rng.u64(20..300));
                while at < until {
                    // Sometimes a burst: several frames under way.
                    let count = if rng.u8(0..60) == 0 { 300 } else { 1 };
                    (0..count).for_each(|_| self.at(at, Happening::Datum { source, topic }));
                    at += rng.u64(1..=2 * gap);
                }
            }
        }
    }

    pub(super) fn drive_source(&mut self, source: usize, topic: usize, told: Vec<Effect>) -> Result<(), Violation> {
        let (effects, next) = self.sources[source][topic].due(Millis(self.now));
        for effect in told.into_iter().chain(effects) {
            match effect {
                Effect::Push(push) => self.push(source, topic, &push),
                Effect::Stopped { why } => {
                    return Err(Violation {
                        invariant: "sources_go_on",
                        what: format!("source {source} stopped: {why}"),
                    });
                }
                Effect::Acknowledged { nonce, .. } => {
                    while let Some((_, number)) = self.pushed[source][topic].pop_front_if(|(known, _)| *known <= nonce)
                    {
                        self.checker.acknowledged(topic, (source, number));
                    }
                }
            }
        }
        if let Some(next) = next {
            self.at(next.0.max(self.now + 1), Happening::SourceWake { source, topic });
        }
        Ok(())
    }

    pub(super) fn push(&mut self, source: usize, topic: usize, push: &Push) {
        self.nonce += 1;
        let body = TransactionBody {
            title: self.topics[topic].title(),
            nonce: self.nonce,
            expires: Height(u64::MAX),
            payload: push.to_payload(),
        };
        let transaction = Transaction::unsigned(&self.source_keys[source], &body);
        let transaction = transaction.unwrap_or_else(|error| panic!("{error}"));
        if self.faulty && self.rng.u8(0..20) == 0 {
            return;
        }
        // Through another node it takes another time.
        let after = if self.rng.u8(0..10) == 0 { self.rng.u64(1..400) } else { self.rng.u64(1..6) };
        self.at(
            self.now + after,
            Happening::Order {
                transaction,
                from: From::Source { source, topic, session: push.session, nonce: push.nonce },
            },
        );
    }
}
