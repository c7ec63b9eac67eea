//! A lock service outside the chain, in which the locks of some topics stand: keys with leases, and a number that rises.

use std::collections::BTreeMap;

use standin_foundation::wire::Wire;
use standin_publisher::Topic;
use standin_publisher::machine::outside::{Ask, Said};
use standin_publisher::machine::server::Input;
use standin_publisher::messages::Settings;
use standin_publisher::record::{Register, TopicRecord, register_key, topic_key};

use super::{Happening, World};
use crate::invariants::Violation;

/// No lease is shorter, in ms.
const LEASE_MS_MIN: u32 = 2_000;

/// What stands there.
#[derive(Debug, Default)]
pub(super) struct Outside {
    revision: u64,
    keys: BTreeMap<Topic, Key>,
}

#[derive(Debug, Clone, Copy)]
struct Key {
    server: usize,
    number: u64,
    lease_ms: u32,
    until: u64,
}

impl World {
    /// The locks of some topics stand outside from the beginning on.
    pub(super) fn move_some_outside(&mut self) {
        let outside: Vec<_> = self.topics.clone().into_iter().filter(|_| self.rng.u8(0..3) == 0).collect();
        let register = Register { topics: outside.iter().copied().collect(), orders: 0 };
        let settings = Settings { outside: true, ..Settings::default() };
        let record = TopicRecord { settings, ..TopicRecord::default() };
        let records = outside.iter().map(|topic| (topic_key(*topic), record.to_wire()));
        for (key, value) in records.chain([(register_key(), register.to_wire())]) {
            let Ok(value) = value else { panic!("a record that does not fit") };
            drop(self.state.insert(key.into(), value.into()));
        }
    }

    /// A server asks; it takes a while.
    pub(super) fn ask_outside(&mut self, server: usize, topic: Topic, ask: Ask) {
        if self.reaches_store(server) {
            let after = self.rng.u64(1..15);
            self.at(self.now + after, Happening::OutsideAsk { server, topic, ask });
        }
    }

    fn reaches_store(&mut self, server: usize) -> bool {
        let is_lost = self.faulty && self.rng.u8(0..50) == 0;
        !self.hosts[server].cut_from_store && !is_lost
    }

    /// The service carries it out, and its answer is on its way, or lost.
    pub(super) fn outside_asked(&mut self, server: usize, topic: Topic, ask: Ask) {
        let known = self.outside.keys.get(&topic).copied();
        let own = known.filter(|key| key.server == server);
        let said = match ask {
            Ask::Acquire { above, lease_ms } => match known {
                Some(key) if key.server != server && key.number > above => Said::Refused { at: self.outside.revision },
                // Its own, since an answer was lost: its lease begins anew.
                Some(key) if key.server == server && key.number > above => {
                    let Key { number, lease_ms, .. } = self.renew_outside(topic, key);
                    Said::Won { number, lease_ms }
                }
                Some(_) | None => {
                    self.outside.revision += 1;
                    let (number, lease_ms) = (self.outside.revision, lease_ms.max(LEASE_MS_MIN));
                    let until = self.now + u64::from(lease_ms);
                    self.outside.keys.insert(topic, Key { server, number, lease_ms, until });
                    self.at(until, Happening::OutsideExpires { topic, number });
                    Said::Won { number, lease_ms }
                }
            },
            Ask::Renew { renewal } => match own {
                Some(key) => Said::Renewed { number: self.renew_outside(topic, key).number, renewal },
                None => match self.newest_outside(topic) {
                    0 => return,
                    number => Said::Lost { number },
                },
            },
            Ask::Release => {
                if own.is_some() {
                    self.forget_key(topic);
                }
                return;
            }
        };
        if self.reaches_store(server) {
            let after = self.rng.u64(1..15);
            self.at(self.now + after, Happening::OutsideSaid { server, topic, said });
        }
    }

    fn renew_outside(&mut self, topic: Topic, key: Key) -> Key {
        let until = self.now + u64::from(key.lease_ms);
        self.outside.keys.insert(topic, Key { until, ..key });
        self.at(until, Happening::OutsideExpires { topic, number: key.number });
        key
    }

    /// A lease has run out, unless it was renewed.
    pub(super) fn outside_expires(&mut self, topic: Topic, number: u64) -> Result<(), Violation> {
        let Some(key) = self.outside.keys.get(&topic).copied() else { return Ok(()) };
        if key.number != number || key.until > self.now {
            return Ok(());
        }
        self.forget_key(topic);
        let publishes = self.hosts[key.server].server.as_ref().and_then(|server| server.publishes(topic));
        match publishes {
            // A grant of the chain's for a later number is another matter.
            Some((until, _, _)) if until > self.clock(key.server) && self.newest_outside(topic) == number => {
                Err(Violation {
                    invariant: "leases_end_first",
                    what: format!(
                        "{topic}: the lease under number {number} has ended, and its owner may publish for {} ms more",
                        until - self.clock(key.server)
                    ),
                })
            }
            _ => Ok(()),
        }
    }

    fn newest_outside(&self, topic: Topic) -> u64 {
        standin_publisher::record::topic(&self.state, topic).map_or(0, |record| record.lock.outside)
    }

    /// The service loses a lease, and tells nobody but those that watch.
    pub(super) fn outside_forgets(&mut self) {
        let forgotten = self.outside.keys.keys().next().copied();
        if let Some(topic) = forgotten {
            self.forget_key(topic);
        }
    }

    /// Whoever watches learns of it, now or much later.
    fn forget_key(&mut self, topic: Topic) {
        self.outside.keys.remove(&topic);
        self.outside.revision += 1;
        let at = self.outside.revision;
        for server in 0..self.hosts.len() {
            if self.reaches_store(server) {
                let after = if self.rng.u8(0..10) == 0 { self.rng.u64(1..2_000) } else { self.rng.u64(1..30) };
                self.at(self.now + after, Happening::OutsideSaid { server, topic, said: Said::Freed { at } });
            }
        }
    }

    /// A server's watch begins anew, as it does now and then: it learns of all locks that are free.
    pub(super) fn outside_listed(&mut self, server: usize) -> Result<(), Violation> {
        self.at(self.now + 1_000, Happening::OutsideListed { server });
        if self.hosts[server].server.is_none() || self.hosts[server].cut_from_store {
            return Ok(());
        }
        for topic in self.topics.clone() {
            if !self.outside.keys.contains_key(&topic) {
                self.step(server, Input::Outside { topic, said: Said::Freed { at: self.outside.revision } })?;
            }
        }
        Ok(())
    }
}
