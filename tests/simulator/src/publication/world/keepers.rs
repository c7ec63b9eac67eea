//! Servers of a faulty seat that take every lock they can get, before anybody who keeps to the rules has so much as heard that it is free; keep it with renewals
//! that are never late; and publish nothing.

use standin_publisher::Topic;
use standin_publisher::messages::{Hold, Instruction};
use standin_publisher::record;

use super::{Happening, World};

/// They look at each lock so often, in ms, besides when one becomes free.
const LOOKED_EVERY_MS: u64 = 50;
const LEASE_MS: u32 = 1_000;

impl World {
    /// From now on the servers of a seat are such.
    pub(super) fn begin_keeping(&mut self, seat: usize) {
        for server in (seat..self.hosts.len()).step_by(self.seats.len()) {
            self.hosts[server].keeps = true;
            for topic in self.topics.clone() {
                self.at(self.now, Happening::Keep { server, topic });
            }
        }
    }

    pub(super) fn keep_always(&mut self, server: usize, topic: Topic) {
        self.keep(server, topic);
        self.at(self.now + LOOKED_EVERY_MS, Happening::Keep { server, topic });
    }

    /// A lock has just become free.
    pub(super) fn keep_what_is_free(&mut self, topic: Topic) {
        for server in (0..self.hosts.len()).filter(|server| self.hosts[*server].keeps).collect::<Vec<_>>() {
            self.keep(server, topic);
        }
    }

    /// Locks of a service outside the chain are that service's to give: what it does for whoever lies to it is not the chain's.
    fn keep(&mut self, server: usize, topic: Topic) {
        let record = record::topic(&self.state, topic).unwrap_or_default();
        if record.settings.outside {
            return;
        }
        let instruction = match record.lock.held {
            None => Instruction::Acquire { topic, after: record.lock.fence, lease_ms: LEASE_MS, outside: None },
            Some(grant) if grant.owner == self.hosts[server].key => {
                if grant.release_at_ms > self.now + u64::from(LEASE_MS) / 2 {
                    return;
                }
                let renewal = Some(grant.renewals + 1);
                Instruction::Hold(vec![Hold { topic, fence: record.lock.fence, renewal, published: None }])
            }
            Some(_) => return,
        };
        self.submit(server, &instruction);
    }
}
