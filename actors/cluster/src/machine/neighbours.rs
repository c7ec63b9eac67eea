//! The neighbour table: what is known of the other members, and what is told to them.

use standin_auth::messages::KeepAlive;

use super::*;
use crate::messages::Pulse;

/// A neighbour as last heard.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Neighbour {
    /// What it said of itself last.
    pub(super) pulse: Pulse,
    /// When anything of it came last; none if nothing ever did.
    pub(super) heard: Option<Millis>,
    /// Its end closed the connection, and nothing came since.
    pub(super) link_down: bool,
    /// When anything was sent to it last.
    pub(super) told: Option<Millis>,
    /// What this node said of itself to it last, and when.
    pub(super) pulsed: Option<(Pulse, Millis)>,
}

/// So many intervals may pass without a pulse while other messages show that this node lives: less than what makes it suspected, since
/// these may be large, and a pulse gets past them.
const PULSE_EVERY: u64 = 2;

impl Neighbour {
    /// Whether a pulse would tell it nothing: both have just sent the other something, and what it decides by has not changed.
    fn needs_no_pulse(&self, pulse: &Pulse, now: Millis, interval_ms: u64) -> bool {
        let same = |(said, at): (Pulse, Millis)| {
            Pulse { head: pulse.head, executed: pulse.executed, ..said } == *pulse
                && at + PULSE_EVERY * interval_ms > now
        };
        let just_now = |at: Option<Millis>| at.is_some_and(|at| at + interval_ms / 2 > now);
        just_now(self.told) && just_now(self.heard) && self.pulsed.is_some_and(same)
    }
}

impl Member {
    pub(super) fn mates(&self) -> impl Iterator<Item = NodeId> + use<> {
        self.neighbours.keys().copied().collect::<Vec<_>>().into_iter()
    }

    /// Whether a mate was heard lately.
    pub(super) fn hears(&self, node: &NodeId) -> bool {
        let neighbour = self.neighbours.get(node);
        neighbour.is_some_and(|n| !n.link_down && n.heard.is_some_and(|at| at + self.config.suspect_ms > self.now))
    }

    /// The member that has executed most, as far as it has been heard: it can be asked for blocks.
    pub fn furthest_mate(&self) -> Option<(NodeId, Height)> {
        let heard = self.neighbours.iter().filter(|(node, _)| self.hears(node));
        heard.map(|(node, neighbour)| (*node, neighbour.pulse.executed)).max_by_key(|(_, executed)| *executed)
    }

    /// Who belongs to the cluster has changed. Whoever was removed stays a neighbour until it has left the in-sync set: until
    /// then its acknowledgement is required.
    pub(super) fn on_members(&mut self, members: BTreeMap<NodeId, u8>) {
        let own = self.identity.node;
        if members == self.identity.members {
            return;
        }
        for (node, priority) in members.iter().filter(|(node, _)| **node != own) {
            let pulse = Pulse { priority: *priority, ..Pulse::default() };
            self.neighbours.entry(*node).or_insert(Neighbour { pulse, ..Neighbour::default() });
            if let Some(holding) = &mut self.holding {
                holding.add(*node);
            }
        }
        self.identity.members = members;
        self.forget_strangers();
        self.check_members();
    }

    /// Whoever must acknowledge is a neighbour, also one that was removed while this node was the holder, and is in the set still.
    pub(super) fn know_required(&mut self) {
        if self.is_holder() && !self.identity.fixed {
            for node in self.required() {
                self.neighbours.entry(node).or_default();
            }
        }
    }

    /// Nothing is said any more to whoever is neither a member nor in the in-sync set.
    pub(super) fn forget_strangers(&mut self) {
        let in_sync = self.in_sync();
        let required = self.required();
        let stays = |node: &NodeId| {
            self.identity.members.contains_key(node) || in_sync.contains(node) || required.contains(node)
        };
        let gone: Vec<_> = self.neighbours.keys().filter(|node| !stays(node)).copied().collect();
        for node in gone {
            self.neighbours.remove(&node);
            if let Some(holding) = &mut self.holding {
                holding.remove(&node);
            }
        }
    }

    pub(super) fn send_to_mates(&mut self, message: &Message) {
        for mate in self.mates() {
            self.send(mate, message.clone());
        }
    }

    /// Notes that something came of a member; whether it is one.
    pub(super) fn note_heard(&mut self, from: NodeId) -> bool {
        let Some(neighbour) = self.neighbours.get_mut(&from) else { return false };
        (neighbour.heard, neighbour.link_down) = (Some(self.now), false);
        true
    }

    /// A neighbour's word for how it is. Whoever knows less of the newest grant, or lacks the ticket, is told.
    pub(super) fn on_pulse(&mut self, from: NodeId, pulse: Pulse) {
        if let Some(neighbour) = self.neighbours.get_mut(&from) {
            neighbour.pulse = pulse;
        }
        if pulse.term < self.facts.term() {
            self.show_grant(from);
        } else if pulse.term > self.facts.term() || (pulse.term > Term(0) && self.facts.ticket.is_empty()) {
            self.send(from, Message::WantGrant);
        }
    }

    /// A member's priority: what it says of itself, or what is listed until it has said something.
    pub(super) fn priority_of(&self, node: &NodeId) -> u8 {
        let listed = self.identity.members.get(node).copied().unwrap_or(0);
        self.neighbours.get(node).map_or(listed, |neighbour| neighbour.pulse.priority)
    }

    /// Says to the neighbours and to the auth node that this node lives. Called from the loop that writes the log (S3).
    pub(super) fn pulse(&mut self) {
        let pulse = Pulse {
            term: self.facts.term(),
            priority: self.priority_of(&self.identity.node),
            head: self.log.durable(),
            complete: self.facts.complete,
            executed: self.executed,
            mute: (self.is_holder() && !self.is_active())
                || self.holding.as_ref().is_some_and(|holding| holding.is_mute(self.now, self.config.mute_ms)),
            heard_seats: self.seats_heard.len() as u16,
            drains: self.drains.is_some(),
        };
        let (now, interval_ms) = (self.now, self.config.keep_alive_ms);
        for mate in self.mates() {
            let Some(neighbour) = self.neighbours.get_mut(&mate) else { continue };
            if !neighbour.needs_no_pulse(&pulse, now, interval_ms) {
                neighbour.pulsed = Some((pulse, now));
                self.send(mate, Message::Pulse(pulse));
            }
        }
        self.tell_results();
        if !self.identity.fixed {
            let active = self.is_active();
            self.effects.push(Effect::Ask(Request::KeepAlive(KeepAlive {
                cluster: self.identity.cluster.clone(),
                term: self.facts.term(),
                released: active.then(|| self.released()),
                heard_seats: active.then_some(self.seats_heard.len() as u16),
                register_count: self.register_count,
                lacks_ticket: self.facts.ticket.is_empty(),
            })));
        }
    }

    /// The system at a member's end has closed the connection: its process is gone.
    pub(super) fn on_link_down(&mut self, node: NodeId) {
        if let Some(neighbour) = self.neighbours.get_mut(&node) {
            (neighbour.link_down, neighbour.pulsed) = (true, None);
        }
        self.check_members();
        self.check_holder();
    }
}
