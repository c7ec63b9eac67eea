//! One server: it watches the owners of locks for its seat, competes for those that are free, and publishes under those that it owns.
//!
//! Pure: what happens comes in as [`Input`] with the time on this node's own clock, what to do comes out as [`Effect`]. All that it knows of
//! topics are the chain's events, in the chain's order.

use std::collections::{BTreeMap, BTreeSet};

use standin_foundation::{Millis, NodeId, PublicKey};

use crate::config::Config;
use crate::ids::{Fence, Sequence, Topic};
use crate::machine::lease::Lease;
use crate::machine::links::Links;
use crate::machine::outside::{Ask, Said};
use crate::machine::publication::Publication;
use crate::machine::race::{Attempt, Race};
use crate::machine::view::{TopicView, View};
use crate::machine::watch::Watch;
use crate::messages::{AT_ONCE_MAX, Event, Hold, Instruction, Takeover};
#[cfg(feature = "mutations")]
use crate::mutation::Mutation;

/// What happens to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The chain did something.
    Event(Event),
    /// A connection to another server came, or went.
    Link {
        /// The other.
        server: NodeId,
        /// Whether it can be reached.
        is_up: bool,
    },
    /// Whether this node speaks for its seat: then it attests, too.
    Speaks(bool),
    /// Whether it has nothing to catch up with, and room on its disk.
    Idle(bool),
    /// The topics of which it lacks data that wait to be published.
    Lacks(BTreeSet<Topic>),
    /// A lock service outside the chain says something.
    Outside {
        /// Of which topic's lock.
        topic: Topic,
        /// What.
        said: Said,
    },
    /// It may compete and publish, or it is about to stop, or it cannot write any more.
    Serves(bool),
    /// Time has passed.
    Tick,
}

/// What a server does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Have this ordered.
    Submit(Instruction),
    /// Ask the lock service outside the chain.
    Outside {
        /// About which topic's lock.
        topic: Topic,
        /// What.
        ask: Ask,
    },
    /// This server publishes a topic from now on.
    Begin(Takeover),
    /// Terminals may have everything of a topic up to here, under this fence, until the lease ends.
    Publish {
        /// The topic.
        topic: Topic,
        /// The fence.
        fence: Fence,
        /// The last datum.
        upto: Sequence,
    },
    /// This server publishes a topic no more.
    End {
        /// The topic.
        topic: Topic,
        /// The fence that ended.
        fence: Fence,
    },
}

/// A lock that this server has asked for, or owns.
#[derive(Debug)]
enum Own {
    /// Asked for, so long ago for the first time under this fence.
    Asked { after: Fence, at: Millis },
    /// The lock service outside the chain has given it; the chain was told so last at `said`.
    Won { after: Fence, at: Millis, number: u64, lease_ms: u32, said: Option<Millis> },
    /// Owned.
    Owned(Lease, Publication),
}

/// A server.
#[derive(Debug)]
pub struct Server {
    key: PublicKey,
    config: Config,
    view: View,
    links: Links,
    watch: Watch,
    race: Race,
    own: BTreeMap<Topic, Own>,
    /// Locks that the lock service outside the chain has taken from those whom the chain names, and how far it had come then.
    freed: BTreeMap<Topic, u64>,
    /// Topics of which it lacks data that wait: it neither competes for them nor keeps them.
    lacks: BTreeSet<Topic>,
    /// When locks that it does not use were given back last.
    given_back: BTreeMap<Topic, Millis>,
    speaks: bool,
    idle: bool,
    serves: bool,
    #[cfg(feature = "mutations")]
    mutation: Option<Mutation>,
}

impl Server {
    /// A server that begins now, with what the chain's state says; it serves when it is told to. Locks that it owned in an earlier life it gives back.
    pub fn new(key: PublicKey, config: Config, view: View, now: Millis) -> Self {
        let mut server = Self {
            key,
            config,
            view: View::default(),
            links: Links::default(),
            watch: Watch::default(),
            race: Race::default(),
            own: BTreeMap::new(),
            freed: BTreeMap::new(),
            lacks: BTreeSet::new(),
            given_back: BTreeMap::new(),
            speaks: false,
            idle: true,
            serves: false,
            #[cfg(feature = "mutations")]
            mutation: None,
        };
        let topics: Vec<_> = view.iter().map(|(topic, _)| topic).collect();
        server.view = view;
        topics.into_iter().for_each(|topic| server.look(now, topic));
        server
    }

    /// Switches a rule off.
    #[cfg(feature = "mutations")]
    pub fn mutate(&mut self, mutation: Option<Mutation>) {
        self.mutation = mutation;
    }

    /// What it knows of the topics.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Until when it may publish a topic, under which fence, up to which datum; none if it does not own the lock.
    pub fn publishes(&self, topic: Topic) -> Option<(Millis, Fence, Sequence)> {
        match self.own.get(&topic)? {
            Own::Owned(lease, publication) => Some((lease.valid_until(), lease.fence, publication.limit())),
            Own::Asked { .. } | Own::Won { .. } => None,
        }
    }

    /// Locks that it owns.
    pub fn owned(&self) -> usize {
        self.own.values().filter(|own| matches!(own, Own::Owned(..))).count()
    }

    /// Takes an input; gives what to do, and when to look again at the latest.
    pub fn step(&mut self, now: Millis, input: Input) -> (Vec<Effect>, Option<Millis>) {
        let mut effects = Vec::new();
        match input {
            Input::Event(event) => self.event(now, &event, &mut effects),
            Input::Link { server, is_up } => self.links.note(now, server, is_up),
            Input::Speaks(speaks) => self.speaks = speaks,
            Input::Idle(idle) => self.idle = idle,
            Input::Serves(serves) => {
                self.serves = serves;
                match serves {
                    true => self.look_anew(now),
                    false => self.resign(|_| true, &mut effects),
                }
            }
            Input::Lacks(lacks) => {
                self.lacks = lacks;
                let lacks = self.lacks.clone();
                self.resign(|topic| lacks.contains(topic), &mut effects);
            }
            Input::Outside { topic, said } => self.outside(now, topic, said, &mut effects),
            Input::Tick => {}
        }
        let next = self.due(now, &mut effects);
        (effects, next)
    }

    fn event(&mut self, now: Millis, event: &Event, effects: &mut Vec<Effect>) {
        if let Event::Granted(Takeover { topic, .. }) = event {
            self.freed.remove(topic);
        }
        if let Some(topic) = self.view.note(event) {
            self.look(now, topic);
        }
        match event {
            Event::Granted(takeover) if takeover.owner == self.key => self.granted(takeover, effects),
            Event::Granted(Takeover { topic, fence, .. }) => match self.own.get_mut(topic) {
                // The lock service has named this one later: the chain hears it again.
                Some(Own::Won { after, said, number, .. })
                    if self.view.get(*topic).and_then(|view| view.outside) < Some(*number) =>
                {
                    (*after, *said) = (*fence, None);
                }
                Some(Own::Asked { after, .. }) if self.view.is_outside(*topic) => *after = *fence,
                _ => self.drop_own(*topic, effects),
            },
            Event::Released { topic, fence, .. } => {
                if matches!(self.own.get(topic), Some(Own::Owned(lease, _)) if lease.fence == *fence) {
                    self.drop_own(*topic, effects);
                }
            }
            // A lock that has moved is asked for anew.
            Event::Set { topic, .. } if matches!(self.own.get(topic), Some(Own::Asked { .. } | Own::Won { .. })) => {
                self.drop_own(*topic, effects);
            }
            Event::Renewed { topic, fence, renewals } => {
                if let Some(Own::Owned(lease, _)) = self.own.get_mut(topic)
                    && lease.fence == *fence
                {
                    lease.renewed(*renewals, &self.config);
                }
            }
            _ => {}
        }
    }

    fn look(&mut self, now: Millis, topic: Topic) {
        let Some(view) = self.view.get(topic) else { return };
        self.watch.note(now, &self.config, topic, view);
        let about = (&self.config, &self.key, &self.links, self.idle);
        let freed = view.outside.is_some() && self.freed.contains_key(&topic);
        self.race.note(now, about, (topic, view), &self.view, freed);
    }

    /// The lock service outside the chain has said something.
    fn outside(&mut self, now: Millis, topic: Topic, said: Said, effects: &mut Vec<Effect>) {
        let Some(known) = self.view.get(topic).and_then(|view| view.outside) else {
            if matches!(said, Said::Won { .. }) {
                // The lock has moved to the chain meanwhile.
                effects.push(Effect::Outside { topic, ask: Ask::Release });
            }
            return;
        };
        match said {
            Said::Won { number, lease_ms } => match self.own.get_mut(&topic) {
                Some(Own::Asked { after, at }) if self.serves => {
                    let won = Own::Won { after: *after, at: *at, number, lease_ms, said: None };
                    self.own.insert(topic, won);
                }
                // Said twice.
                Some(Own::Won { .. } | Own::Owned(..)) => {}
                // No more wanted.
                _ => effects.push(Effect::Outside { topic, ask: Ask::Release }),
            },
            Said::Refused { .. } | Said::Failed => {
                if let Said::Refused { at } = said
                    && self.freed.get(&topic).is_some_and(|freed| *freed <= at)
                {
                    // When it is free again, that is told anew.
                    self.freed.remove(&topic);
                    self.look(now, topic);
                }
                if let Some(Own::Asked { .. }) = self.own.get(&topic) {
                    self.own.remove(&topic);
                }
            }
            Said::Renewed { number, renewal } => {
                if let Some(Own::Owned(lease, _)) = self.own.get_mut(&topic)
                    && number == known
                {
                    lease.renewed(renewal, &self.config);
                }
            }
            Said::Lost { number } => match self.own.get(&topic) {
                Some(Own::Won { number: own, .. }) if *own == number => self.drop_own(topic, effects),
                Some(Own::Owned(..)) if known == number => self.drop_own(topic, effects),
                _ => {}
            },
            Said::Freed { at } => {
                // What was told late is of a grant before.
                let holds = self.view.get(topic).is_some_and(|view| view.held.is_some());
                if holds && at <= known {
                    return;
                }
                if matches!(self.own.get(&topic), Some(Own::Owned(..))) {
                    self.drop_own(topic, effects);
                }
                self.freed.insert(topic, at);
                self.look(now, topic);
            }
        }
    }

    /// It has a lock no more, or does not want it.
    fn drop_own(&mut self, topic: Topic, effects: &mut Vec<Effect>) {
        let dropped = self.own.remove(&topic);
        if let Some(Own::Owned(lease, _)) = &dropped {
            effects.push(Effect::End { topic, fence: lease.fence });
        }
        if dropped.is_some() && self.view.is_outside(topic) {
            effects.push(Effect::Outside { topic, ask: Ask::Release });
        }
    }

    /// Locks that were free while it did not serve: it races for them as if they had become so now.
    fn look_anew(&mut self, now: Millis) {
        self.race.forget();
        let topics: Vec<_> = self.view.iter().map(|(topic, _)| topic).collect();
        topics.into_iter().for_each(|topic| self.look(now, topic));
    }

    fn granted(&mut self, takeover: &Takeover, effects: &mut Vec<Effect>) {
        let Takeover { topic, fence, lease_ms, .. } = *takeover;
        let asked = match self.own.get(&topic) {
            Some(Own::Asked { after, at } | Own::Won { after, at, .. }) if after.next() == Some(fence) => Some(*at),
            _ => None,
        };
        let Some(asked) = asked.filter(|_| self.serves && !self.lacks.contains(&topic)) else {
            // Asked for in an earlier life, or no more wanted: nobody can say when its lease began. It is given back below.
            self.drop_own(topic, effects);
            return;
        };
        let published = self.view.get(topic).map(|view| view.published.upto).unwrap_or_default();
        let lease = Lease::granted(fence, lease_ms, asked, &self.config);
        self.own.insert(topic, Own::Owned(lease, Publication::begin(published)));
        effects.push(Effect::Begin(*takeover));
    }

    /// Uses some of its locks no more: they are given back below.
    fn resign(&mut self, which: impl Fn(&Topic) -> bool, effects: &mut Vec<Effect>) {
        let go: Vec<_> = self.own.keys().filter(|topic| which(topic)).copied().collect();
        go.into_iter().for_each(|topic| self.drop_own(topic, effects));
    }

    /// Locks that are its own, by the chain, and that it does not use: of an earlier life, or resigned. Said again until the chain has heard it.
    fn give_back(&mut self, now: Millis, effects: &mut Vec<Effect>) -> Option<Millis> {
        let mut next = None::<Millis>;
        let (key, own) = (self.key, &self.own);
        let is_unused = |topic: &Topic, view: &TopicView| {
            view.held.is_some_and(|held| held.owner == key) && !matches!(own.get(topic), Some(Own::Owned(..)))
        };
        let unused: Vec<_> = self
            .view
            .iter()
            .filter(|(topic, view)| is_unused(topic, view))
            .map(|(topic, view)| (topic, view.fence))
            .collect();
        self.given_back.retain(|topic, _| unused.iter().any(|(unused, _)| unused == topic));
        for (topic, fence) in unused {
            let again = self.given_back.get(&topic).map(|at| *at + self.config.retry_ms);
            let at = match again.filter(|again| *again > now) {
                Some(again) => again,
                None => {
                    self.given_back.insert(topic, now);
                    effects.push(Effect::Submit(Instruction::Release { topic, fence }));
                    now + self.config.retry_ms
                }
            };
            next = Some(next.map_or(at, |next| next.min(at)));
        }
        next
    }

    /// Whatever time has come for.
    fn due(&mut self, now: Millis, effects: &mut Vec<Effect>) -> Option<Millis> {
        let mut next = self.publish(now, effects);
        let given_back = self.give_back(now, effects);
        let mut wake = |at: Option<Millis>| next = next.into_iter().chain(at).min();
        wake(given_back);
        if self.serves {
            let (attempts, at) = self.race.due(now, &self.config);
            wake(at);
            for Attempt { topic, after } in attempts.into_iter().filter(|attempt| !self.lacks.contains(&attempt.topic))
            {
                let view = self.view.get(topic);
                match self.own.get(&topic) {
                    // Asked for again: the lease counts from the first time.
                    Some(Own::Asked { after: known, .. }) if *known == after => {}
                    // It has it, and tells the chain.
                    Some(Own::Won { .. } | Own::Owned(..)) => continue,
                    _ => _ = self.own.insert(topic, Own::Asked { after, at: now }),
                }
                let lease_ms = self.config.lease_ms;
                // What the chain has not ended is not over, whatever the lock service tells.
                let ended = |view: &TopicView| view.outside.map(|number| if view.held.is_none() { number } else { 0 });
                effects.push(match view.and_then(ended) {
                    Some(above) => Effect::Outside { topic, ask: Ask::Acquire { above, lease_ms } },
                    None => Effect::Submit(Instruction::Acquire { topic, after, lease_ms, outside: None }),
                });
            }
        }
        wake(self.claim(now, effects));
        if self.speaks {
            let held = |topic| self.view.get(topic).and_then(|view| view.held);
            let (attestations, at) = self.watch.due(now, &self.config, (&self.key, &self.links), held);
            wake(at);
            let parts = attestations.chunks(AT_ONCE_MAX).map(<[_]>::to_vec);
            effects.extend(parts.map(|part| Effect::Submit(Instruction::Attest(part))));
        }
        next
    }

    /// Tells the chain of locks that the lock service outside has given, until it has heard that.
    fn claim(&mut self, now: Millis, effects: &mut Vec<Effect>) -> Option<Millis> {
        let mut next = None::<Millis>;
        for (topic, own) in &mut self.own {
            let Own::Won { after, number, lease_ms, said, .. } = own else { continue };
            if said.is_none_or(|said| now >= said + self.config.retry_ms) {
                *said = Some(now);
                let (topic, after, lease_ms, outside) = (*topic, *after, *lease_ms, Some(*number));
                effects.push(Effect::Submit(Instruction::Acquire { topic, after, lease_ms, outside }));
            }
            next = next.into_iter().chain(said.map(|said| said + self.config.retry_ms)).min();
        }
        next
    }

    /// Goes on with what it owns: renewals, frames, checkpoints.
    fn publish(&mut self, now: Millis, effects: &mut Vec<Effect>) -> Option<Millis> {
        let (mut holds, mut next) = (Vec::new(), None::<Millis>);
        #[cfg(feature = "mutations")]
        let ignores_deadline = self.mutation == Some(Mutation::DeadlineIgnored);
        #[cfg(not(feature = "mutations"))]
        let ignores_deadline = false;
        for (topic, own) in &mut self.own {
            let Own::Owned(lease, publication) = own else { continue };
            let Some(view) = self.view.get(*topic) else { continue };
            let (topic, fence) = (*topic, lease.fence);
            let (mut renewal, renew_at) = lease.due(now);
            if let Some(renewal) = renewal.take_if(|_| view.outside.is_some()) {
                effects.push(Effect::Outside { topic, ask: Ask::Renew { renewal } });
            }
            let (mut published, mut checkpoint_at) = (None, None);
            if lease.is_valid(now) || ignores_deadline {
                if let Some(upto) = publication.advance(now, &self.config, view) {
                    effects.push(Effect::Publish { topic, fence, upto });
                }
                (published, checkpoint_at) = publication.checkpoint(now, &self.config, view);
            }
            if renewal.is_some() || published.is_some() {
                holds.push(Hold { topic, fence, renewal, published });
            }
            next = next.into_iter().chain([renew_at]).chain(checkpoint_at).min();
        }
        let parts = holds.chunks(AT_ONCE_MAX).map(<[_]>::to_vec);
        effects.extend(parts.map(|part| Effect::Submit(Instruction::Hold(part))));
        next
    }
}

#[cfg(test)]
mod tests {
    use standin_foundation::{Digest, SecretKey};

    use super::*;
    use crate::frame::Entry;
    use crate::frame::tests::content;
    use crate::machine::lock::{Ground, Reason};
    use crate::messages::Checkpoint;

    fn key(n: u8) -> PublicKey {
        SecretKey::from_bytes(&[n; 32]).unwrap().public()
    }

    fn topic() -> Topic {
        "t".parse().unwrap()
    }

    fn server() -> Server {
        let mut server = Server::new(key(1), Config::default(), View::default(), Millis(0));
        server.step(Millis(0), Input::Serves(true));
        server.step(Millis(0), Input::Speaks(true));
        server.step(Millis(0), Input::Event(Event::Set { topic: topic(), outside: false }));
        server
    }

    fn granted(owner: u8, fence: u64) -> Input {
        granted_for(owner, fence, 1_000)
    }

    fn granted_for(owner: u8, fence: u64, lease_ms: u32) -> Input {
        let (owner, from, before) = (key(owner), Sequence(1), Digest::ZERO);
        Input::Event(Event::Granted(Takeover { topic: topic(), fence: Fence(fence), owner, lease_ms, from, before }))
    }

    fn released(owner: u8, fence: u64, reason: Reason) -> Input {
        Input::Event(Event::Released { topic: topic(), fence: Fence(fence), owner: key(owner), reason })
    }

    fn renewed(fence: u64, renewals: u64) -> Input {
        Input::Event(Event::Renewed { topic: topic(), fence: Fence(fence), renewals })
    }

    fn queued() -> (Entry, Input) {
        let entry = Entry::following(&Digest::ZERO, Sequence(1), &content(&["a"])).unwrap();
        (entry, Input::Event(Event::Queued { topic: topic(), entry }))
    }

    fn step(server: &mut Server, now: u64, input: Input) -> Vec<Effect> {
        server.step(Millis(now), input).0
    }

    /// A server of a topic whose lock stands outside the chain, and has asked for it.
    fn server_outside() -> Server {
        let mut server = Server::new(key(1), Config::default(), View::default(), Millis(0));
        server.step(Millis(0), Input::Serves(true));
        server.step(Millis(0), Input::Event(Event::Set { topic: topic(), outside: true }));
        server
    }

    fn says(said: Said) -> Input {
        Input::Outside { topic: topic(), said }
    }

    fn asked(effects: &[Effect]) -> Vec<Ask> {
        let of = |effect: &Effect| match effect {
            Effect::Outside { ask, .. } => Some(*ask),
            _ => None,
        };
        effects.iter().filter_map(of).collect()
    }

    fn claims(effects: &[Effect]) -> Vec<(Fence, Option<u64>)> {
        let of = |effect: &Effect| match effect {
            Effect::Submit(Instruction::Acquire { after, outside, .. }) => Some((*after, *outside)),
            _ => None,
        };
        effects.iter().filter_map(of).collect()
    }

    #[test]
    fn a_lock_outside_is_asked_for_there_and_then_claimed_on_the_chain_until_that_has_heard_it() {
        let mut server = Server::new(key(1), Config::default(), View::default(), Millis(0));
        server.step(Millis(0), Input::Serves(true));
        let effects = step(&mut server, 0, Input::Event(Event::Set { topic: topic(), outside: true }));
        assert_eq!((asked(&effects), claims(&effects).len()), (vec![Ask::Acquire { above: 0, lease_ms: 1_000 }], 0));
        let effects = step(&mut server, 10, says(Said::Won { number: 9, lease_ms: 2_000 }));
        assert_eq!(claims(&effects), [(Fence(0), Some(9))]);
        // A grant of before, which the chain had not heard of: it is named once more, behind that.
        step(&mut server, 20, Input::Event(Event::Outside { topic: topic(), number: 7 }));
        let effects = step(&mut server, 20, granted(2, 1));
        assert_eq!(claims(&effects), [(Fence(1), Some(9))]);
        assert_eq!(claims(&step(&mut server, 21, Input::Tick)), []);
        assert_eq!(claims(&step(&mut server, 1_020, Input::Tick)), [(Fence(1), Some(9))], "said again");
        step(&mut server, 1_030, Input::Event(Event::Outside { topic: topic(), number: 9 }));
        let effects = step(&mut server, 1_030, granted(1, 2));
        assert!(effects.iter().any(|effect| matches!(effect, Effect::Begin(_))));
        assert_eq!(server.publishes(topic()).map(|(_, fence, _)| fence), Some(Fence(2)));
    }

    #[test]
    fn a_lease_outside_is_renewed_there_and_a_server_that_loses_it_stops_and_gives_the_lock_back() {
        let mut server = server_outside();
        step(&mut server, 5, says(Said::Won { number: 9, lease_ms: 2_000 }));
        step(&mut server, 10, Input::Event(Event::Outside { topic: topic(), number: 9 }));
        step(&mut server, 10, granted_for(1, 1, 2_000));
        let until = |server: &Server| server.publishes(topic()).unwrap().0;
        let first = until(&server);
        assert!(first < Millis(2_000), "from before it was asked for");
        let renewal = asked(&step(&mut server, 700, Input::Tick));
        assert_eq!(renewal, [Ask::Renew { renewal: 1 }]);
        step(&mut server, 705, says(Said::Renewed { number: 8, renewal: 1 }));
        assert_eq!(until(&server), first, "of a lease before");
        step(&mut server, 710, says(Said::Renewed { number: 9, renewal: 1 }));
        assert!(until(&server) > first && until(&server) < Millis(2_700));
        step(&mut server, 800, says(Said::Lost { number: 8 }));
        step(&mut server, 800, says(Said::Freed { at: 9 }));
        assert!(server.publishes(topic()).is_some(), "all that is of a lease before");
        let effects = step(&mut server, 800, says(Said::Lost { number: 9 }));
        assert!(effects.contains(&Effect::End { topic: topic(), fence: Fence(1) }));
        let given_back = Effect::Submit(Instruction::Release { topic: topic(), fence: Fence(1) });
        assert!(effects.contains(&given_back), "{effects:?}");
        assert_eq!(server.publishes(topic()), None);
    }

    #[test]
    fn a_lock_that_is_free_outside_is_raced_for_although_the_chain_still_names_its_owner() {
        let mut server = server_outside();
        step(&mut server, 5, says(Said::Refused { at: 4 }));
        step(&mut server, 10, Input::Event(Event::Outside { topic: topic(), number: 5 }));
        step(&mut server, 10, granted(2, 1));
        assert_eq!(asked(&step(&mut server, 3_000, Input::Tick)), [], "no clock of its own ends it");
        assert_eq!(asked(&step(&mut server, 3_005, says(Said::Freed { at: 5 }))), [], "told late, of a grant before");
        let ask = Ask::Acquire { above: 0, lease_ms: 1_000 };
        assert_eq!(asked(&step(&mut server, 3_010, says(Said::Freed { at: 6 }))), [ask]);
        // Operators, or seats, may end it on the chain meanwhile: then what was given under its number is over.
        step(&mut server, 3_011, says(Said::Failed));
        step(&mut server, 3_012, released(2, 1, Reason::Ordered));
        let ask = Ask::Acquire { above: 5, lease_ms: 1_000 };
        assert_eq!(asked(&step(&mut server, 4_100, Input::Tick)), [ask]);
        let effects = step(&mut server, 4_120, says(Said::Won { number: 12, lease_ms: 2_000 }));
        assert_eq!(claims(&effects), [(Fence(1), Some(12))]);
        let again = step(&mut server, 5_200, Input::Tick);
        assert_eq!(
            (asked(&again).len(), claims(&again)),
            (0, vec![(Fence(1), Some(12))]),
            "it has it, and says so again"
        );
        step(&mut server, 5_230, Input::Serves(false));
        let effects = step(&mut server, 5_240, granted(1, 2));
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::Begin(_))), "no more wanted");
    }

    fn attested(effects: &[Effect]) -> Vec<Ground> {
        let of = |effect: &Effect| match effect {
            Effect::Submit(Instruction::Attest(attestations)) => Some(attestations[0].ground),
            _ => None,
        };
        effects.iter().filter_map(of).collect()
    }

    fn asks(effects: &[Effect]) -> bool {
        effects.iter().any(|effect| matches!(effect, Effect::Submit(Instruction::Acquire { .. })))
    }

    /// It has asked for the lock at 0, and owns it at 20.
    fn owner() -> Server {
        let mut server = server();
        assert_eq!(server.owned(), 0);
        let begun = step(&mut server, 20, granted(1, 1));
        assert!(matches!(begun[..], [Effect::Begin(_)]), "{begun:?}");
        server
    }

    #[test]
    fn a_server_alone_asks_for_a_free_lock_and_publishes_what_waits() {
        let mut server = Server::new(key(1), Config::default(), View::default(), Millis(0));
        assert!(
            !asks(&step(&mut server, 0, Input::Event(Event::Set { topic: topic(), outside: false }))),
            "not before it serves"
        );
        assert!(asks(&step(&mut server, 0, Input::Serves(true))));
        assert!(!asks(&step(&mut server, 10, Input::Tick)), "once");
        step(&mut server, 20, granted(1, 1));
        let (entry, input) = queued();
        let upto = entry.last();
        assert_eq!(step(&mut server, 30, input), [Effect::Publish { topic: topic(), fence: Fence(1), upto }]);
        let published = Some(Checkpoint { upto, chain: entry.chain });
        let hold = Hold { topic: topic(), fence: Fence(1), renewal: None, published };
        assert_eq!(step(&mut server, 50, Input::Tick), [Effect::Submit(Instruction::Hold(vec![hold]))]);
        assert!(step(&mut server, 70, Input::Tick).is_empty(), "the chain has not answered");
    }

    /// H8, H9: the deadline counts from before the renewal was sent, and nothing is published beyond it.
    #[test]
    fn h9_an_owner_whose_renewals_are_not_final_stops_by_itself_and_goes_on_when_they_are() {
        let mut server = owner();
        assert_eq!(server.publishes(topic()).map(|(until, ..)| until), Some(Millis(940)), "1 % and 50 ms less");
        let renewals = |effects: &[Effect]| {
            let of = |effect: &Effect| match effect {
                Effect::Submit(Instruction::Hold(holds)) => holds[0].renewal,
                _ => None,
            };
            effects.iter().filter_map(of).collect::<Vec<_>>()
        };
        assert_eq!(renewals(&step(&mut server, 340, Input::Tick)), [1]);
        assert_eq!(renewals(&step(&mut server, 680, Input::Tick)), [1], "the same again: each number counts once");
        assert!(step(&mut server, 950, queued().1).is_empty(), "the lease is over");
        let renewed_late = step(&mut server, 1_000, renewed(1, 1));
        assert_eq!(server.publishes(topic()).map(|(until, ..)| until), Some(Millis(340 + 940)), "from the first time");
        assert!(renewed_late.iter().any(|effect| matches!(effect, Effect::Publish { .. })), "{renewed_late:?}");
        let lost = step(&mut server, 1_100, released(1, 1, Reason::Expired));
        assert!(lost.contains(&Effect::End { topic: topic(), fence: Fence(1) }));
        assert_eq!(server.publishes(topic()), None);
    }

    #[test]
    fn a_lock_of_an_earlier_life_is_given_back() {
        let mut server = server();
        step(&mut server, 5, granted(2, 1));
        let effects = step(&mut server, 10, granted(1, 2));
        let release = Effect::Submit(Instruction::Release { topic: topic(), fence: Fence(2) });
        assert!(effects.contains(&release), "asked for by whoever had this key before: {effects:?}");
        assert_eq!(server.publishes(topic()), None);
    }

    /// H16, and time-out, and a lost connection, each said once and of what was seen.
    #[test]
    fn a_seat_says_what_it_has_seen_of_other_owners_and_never_of_its_own_server() {
        let mut server = server();
        step(&mut server, 0, granted(2, 1));
        assert!(attested(&step(&mut server, 1_010, Input::Tick)).is_empty());
        assert_eq!(attested(&step(&mut server, 1_011, Input::Tick)), [Ground::Expired { renewals: 0 }]);
        assert!(attested(&step(&mut server, 1_500, Input::Tick)).is_empty(), "once");
        step(&mut server, 1_600, renewed(1, 1));
        let link = |is_up| Input::Link { server: key(2).node_id(), is_up };
        step(&mut server, 1_620, link(false));
        assert!(attested(&step(&mut server, 1_690, Input::Tick)).is_empty(), "it never was connected");
        step(&mut server, 1_695, link(true));
        step(&mut server, 1_700, link(false));
        assert!(attested(&step(&mut server, 1_749, Input::Tick)).is_empty());
        assert_eq!(attested(&step(&mut server, 1_750, Input::Tick)), [Ground::Lost { renewals: 1 }]);
        step(&mut server, 1_760, link(true));
        step(&mut server, 1_770, queued().1);
        let mut at = 1_770;
        let mut said = Vec::new();
        for renewals in 2..20 {
            at += 300;
            said.extend(attested(&step(&mut server, at, renewed(1, renewals))));
        }
        assert_eq!(said.first(), Some(&Ground::Stalled { published: Sequence(0) }), "it renews, and publishes nothing");
        let mut own = owner();
        assert!(attested(&step(&mut own, 60_000, Input::Tick)).is_empty());
    }

    /// H13: false alarms make the next one wait longer.
    #[test]
    fn h13_a_lock_that_is_lost_again_and_again_is_given_more_time() {
        let mut server = server();
        let mut waits = Vec::new();
        let (mut now, mut fence) = (0, 0);
        for _ in 0..5 {
            fence += 1;
            step(&mut server, now, granted(2, fence));
            step(&mut server, now, Input::Link { server: key(2).node_id(), is_up: true });
            step(&mut server, now, Input::Link { server: key(2).node_id(), is_up: false });
            let waited = (0..2_000).find(|ms| !attested(&step(&mut server, now + ms, Input::Tick)).is_empty()).unwrap();
            waits.push(waited);
            now += waited;
            step(&mut server, now, released(2, fence, Reason::Lost));
            step(&mut server, now, Input::Link { server: key(2).node_id(), is_up: true });
        }
        assert_eq!(waits, [50, 50, 50, 100, 200]);
    }

    #[test]
    fn a_server_that_leaves_gives_its_locks_back_and_competes_no_more() {
        let mut server = owner();
        let effects = step(&mut server, 30, Input::Serves(false));
        let release = Effect::Submit(Instruction::Release { topic: topic(), fence: Fence(1) });
        assert_eq!(effects, [Effect::End { topic: topic(), fence: Fence(1) }, release]);
        assert!(!asks(&step(&mut server, 40, released(1, 1, Reason::Resigned))));
        assert!(!asks(&step(&mut server, 90_000, Input::Tick)));
        assert!(asks(&step(&mut server, 90_010, Input::Serves(true))), "until it serves again");
    }

    /// Whoever was found wanting lets the others try first.
    #[test]
    fn a_suspect_races_behind_all_others() {
        let mut server = owner();
        step(&mut server, 100, released(1, 1, Reason::Stalled));
        assert!(!asks(&step(&mut server, 1_099, Input::Tick)));
        assert!(asks(&step(&mut server, 1_101, Input::Tick)));
    }
}
