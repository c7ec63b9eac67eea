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
mod tests;
