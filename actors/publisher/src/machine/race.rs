//! The race for a lock that is free: idle servers first, those that hold less before those that hold more.
//!
//! All of it only saves attempts: two that ask at the same time are settled by the chain's order.

use std::collections::BTreeMap;

use standin_foundation::{Millis, NodeId, PublicKey};

use crate::config::Config;
use crate::ids::{Fence, Topic};
use crate::machine::links::Links;
use crate::machine::view::{TopicView, View};

/// A lock that this server waits to ask for.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    after: Fence,
    due: Millis,
}

/// The locks that are free.
#[derive(Debug, Default)]
pub(super) struct Race {
    free: BTreeMap<Topic, Waiting>,
}

/// A lock to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) topic: Topic,
    pub(super) after: Fence,
}

impl Race {
    /// A topic has changed. `is_idle`: this server has nothing to catch up with. `freed`: a lock service outside the chain has taken the lock from whom the chain
    /// names.
    pub(super) fn note(
        &mut self,
        now: Millis,
        (config, own, links, is_idle): (&Config, &PublicKey, &Links, bool),
        (topic, view): (Topic, &TopicView),
        all: &View,
        freed: bool,
    ) {
        if view.held.is_some() && !freed {
            self.free.remove(&topic);
            return;
        }
        if self.free.get(&topic).is_some_and(|waiting| waiting.after == view.fence) {
            return;
        }
        let was_suspect = view.ended.is_some_and(|(owner, reason)| owner == *own && reason.is_suspicion());
        let rank = self.rank((topic, view.fence), own, links, all);
        // A server that others have just found wanting must not be the next again, and one that is busy lets idle ones try first.
        let behind = if was_suspect { u64::from(config.lease_ms) } else { 0 };
        let busy = if is_idle { 0 } else { u64::from(config.lease_ms) / 5 };
        let due = now + (rank * config.rank_ms + behind + busy);
        self.free.insert(topic, Waiting { after: view.fence, due });
    }

    /// Everything is looked at anew.
    pub(super) fn forget(&mut self) {
        self.free.clear();
    }

    /// How many servers that can be reached come first: those that hold or want less; ties go by a hash that differs from lock to lock.
    fn rank(&self, (topic, fence): (Topic, Fence), own: &PublicKey, links: &Links, all: &View) -> u64 {
        let place = |server: &NodeId| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(topic.as_str().as_bytes()).update(&fence.0.to_be_bytes()).update(server.as_bytes());
            (all.held_by(server), *hasher.finalize().as_bytes())
        };
        let own_place = place(&own.node_id());
        links.reached().filter(|other| place(other) < own_place).count() as u64
    }

    /// The locks to ask for now, and when to look again. What is asked for is asked for again after a while, as long as it is free.
    pub(super) fn due(&mut self, now: Millis, config: &Config) -> (Vec<Attempt>, Option<Millis>) {
        let (mut due, mut next) = (Vec::new(), None::<Millis>);
        for (topic, waiting) in &mut self.free {
            if waiting.due <= now {
                due.push(Attempt { topic: *topic, after: waiting.after });
                waiting.due = now + config.retry_ms;
            }
            next = Some(next.map_or(waiting.due, |next| next.min(waiting.due)));
        }
        (due, next)
    }
}
