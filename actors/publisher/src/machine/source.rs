//! A source's side of one topic: it numbers its data, keeps some pushes under way, and says what is safe.

use std::collections::VecDeque;

use standin_foundation::Millis;

use crate::frame::{Content, Datum, FRAME_DATA_MAX, FrameError, PUSH_BYTES_MAX, Push};
use crate::ids::Sequence;
use crate::messages::Event;
#[cfg(feature = "mutations")]
use crate::mutation::Mutation;

/// Numbers of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceConfig {
    /// Pushes that may be under way.
    pub window: usize,
    /// Data that may wait to be pushed.
    pub queue_max: usize,
    /// A push without an outcome is handed in again after this time, in ms.
    pub retry_ms: u64,
    /// A push of which nothing is known is handed in again after this time, in ms.
    pub backoff_ms: u64,
    /// What waits while others are under way is pushed after this time, in ms, or when a frame is full.
    pub linger_ms: u64,
}

impl Default for SourceConfig {
    fn default() -> Self {
        Self { window: 32, queue_max: 16_384, retry_ms: 10_000, backoff_ms: 50, linger_ms: 1 }
    }
}

/// What a source does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Have this push ordered. Handed in again it takes a transaction of its own: its data's nonces keep it from being queued twice.
    Push(Push),
    /// All data up to this nonce are queued: they will be published, whatever dies.
    Acknowledged {
        /// The last datum's nonce.
        nonce: u64,
        /// Its sequence, if this outcome tells it: a repeated push does not.
        sequence: Option<Sequence>,
    },
    /// The source pushes no more: what is not acknowledged may be queued or not.
    Stopped {
        /// What the chain said.
        why: String,
    },
}

/// What became of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The chain took it, and says this.
    Event(Event),
    /// It is not known, or it was too late or too much: it is handed in again.
    Unknown,
    /// The chain, or a node, refuses it for good.
    Refused(String),
}

/// A push under way.
#[derive(Debug)]
struct Flight {
    nonce: u64,
    content: Content,
    /// When it is handed in again.
    again: Millis,
    /// The outcome, once it is safe: the last datum's sequence, if that was told.
    safe: Option<Option<Sequence>>,
}

impl Flight {
    fn next(&self) -> u64 {
        self.nonce.saturating_add(self.content.count() as u64)
    }

    fn push(&self, session: u64) -> Effect {
        Effect::Push(Push { session, nonce: self.nonce, content: self.content.clone() })
    }
}

/// Why a datum is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SourceRefused {
    /// It can never be pushed.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The chain has refused an earlier one.
    #[error("the source has stopped: {0}")]
    Stopped(String),
    /// Too many wait.
    #[error("{0} data wait to be pushed: wait until some are acknowledged")]
    Full(usize),
}

/// A source's side of one topic.
#[derive(Debug)]
pub struct Source {
    config: SourceConfig,
    session: u64,
    /// Why it pushes no more.
    stopped: Option<String>,
    /// The nonce of the first datum that waits.
    next: u64,
    queue: VecDeque<Datum>,
    /// When the first of them came.
    waits_since: Option<Millis>,
    flights: VecDeque<Flight>,
    #[cfg(feature = "mutations")]
    mutation: Option<Mutation>,
}

impl Source {
    /// One that begins a session, or goes on with one whose data up to `next_nonce` it knows to be queued. A session that begins must be
    /// higher than those of its key before.
    pub fn new(config: SourceConfig, session: u64, next_nonce: u64) -> Self {
        Self {
            config,
            session,
            stopped: None,
            next: next_nonce,
            queue: VecDeque::new(),
            waits_since: None,
            flights: VecDeque::new(),
            #[cfg(feature = "mutations")]
            mutation: None,
        }
    }

    /// Switches a rule off.
    #[cfg(feature = "mutations")]
    pub fn mutate(&mut self, mutation: Option<Mutation>) {
        self.mutation = mutation;
    }

    #[cfg(feature = "mutations")]
    fn lacks(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// Why it pushes no more, if it does not.
    pub fn stopped(&self) -> Option<&str> {
        self.stopped.as_deref()
    }

    /// Data that are not acknowledged.
    pub fn waiting(&self) -> usize {
        self.queue.len() + self.flights.iter().map(|flight| flight.content.count()).sum::<usize>()
    }

    /// Takes a datum; gives its nonce.
    pub fn push(&mut self, now: Millis, datum: Datum) -> Result<u64, SourceRefused> {
        if let Some(why) = &self.stopped {
            return Err(SourceRefused::Stopped(why.clone()));
        }
        if self.queue.len() >= self.config.queue_max {
            return Err(SourceRefused::Full(self.queue.len()));
        }
        Content::new(std::slice::from_ref(&datum))?;
        let nonce = self.next.saturating_add(self.queue.len() as u64);
        self.queue.push_back(datum);
        self.waits_since = self.waits_since.or(Some(now));
        Ok(nonce)
    }

    /// Takes what became of the push that begins with a nonce.
    pub fn outcome(&mut self, now: Millis, nonce: u64, outcome: Outcome) -> Vec<Effect> {
        let Some(place) = self.flights.iter().position(|flight| flight.nonce == nonce) else { return Vec::new() };
        let Some(flight) = self.flights.get_mut(place) else { return Vec::new() };
        match outcome {
            Outcome::Event(Event::Queued { entry, .. }) => flight.safe = Some(Some(entry.last())),
            Outcome::Event(Event::Known { next_nonce, .. }) if next_nonce >= flight.next() => {
                flight.safe = flight.safe.or(Some(None));
            }
            #[cfg(feature = "mutations")]
            Outcome::Event(Event::Gap { .. }) if self.mutation == Some(Mutation::GapIgnored) => {
                flight.safe = Some(None);
            }
            Outcome::Refused(why) => {
                self.stopped = Some(why.clone());
                return vec![Effect::Stopped { why }];
            }
            Outcome::Event(Event::Full { .. }) => flight.again = now + self.config.retry_ms,
            // It came before those that it follows. They are under way, or are handed in again: and so is it, behind them.
            Outcome::Unknown => flight.again = now + self.config.backoff_ms,
            Outcome::Event(_) => flight.again = now,
        }
        self.acknowledge()
    }

    fn acknowledge(&mut self) -> Vec<Effect> {
        let mut newest = None;
        while let Some(flight) = self.flights.pop_front_if(|flight| flight.safe.is_some()) {
            let sequence = flight.safe.flatten();
            newest = Some(Effect::Acknowledged { nonce: flight.next().saturating_sub(1), sequence });
        }
        newest.into_iter().collect()
    }

    /// Pushes what waits, and what has to be handed in again; gives when to look again at the latest.
    pub fn due(&mut self, now: Millis) -> (Vec<Effect>, Option<Millis>) {
        let mut effects = Vec::new();
        if self.stopped.is_some() {
            return (effects, None);
        }
        let mut is_first = true;
        for flight in self.flights.iter_mut().filter(|flight| flight.safe.is_none()) {
            // One behind another that has no outcome yet would only come too early again.
            let retries = is_first && flight.again <= now;
            is_first = false;
            if retries {
                flight.again = now + self.config.retry_ms;
                effects.push(flight.push(self.session));
            }
        }
        while let Some(data) = self.next_frame(now) {
            let nonce = self.next;
            let Ok(content) = Content::new(&data) else { break };
            self.next = self.next.saturating_add(data.len() as u64);
            self.queue.drain(..data.len());
            self.waits_since = (!self.queue.is_empty()).then_some(now);
            let flight = Flight { nonce, content, again: now + self.config.retry_ms, safe: None };
            effects.push(flight.push(self.session));
            self.flights.push_back(flight);
            #[cfg(feature = "mutations")]
            if self.lacks(Mutation::AcknowledgedEarly)
                && let Some(flight) = self.flights.back()
            {
                effects.push(Effect::Acknowledged { nonce: flight.next() - 1, sequence: None });
            }
        }
        let again = self.flights.iter().find(|flight| flight.safe.is_none()).map(|flight| flight.again);
        let linger = self.waits_since.filter(|_| self.flights.len() < self.config.window);
        let next = again.into_iter().chain(linger.map(|since| since + self.config.linger_ms)).min();
        (effects, next)
    }

    /// The data of the next frame, if it is time for one: a full one, or the first in a while, or what has waited long enough.
    fn next_frame(&self, now: Millis) -> Option<Vec<Datum>> {
        if self.flights.len() >= self.config.window {
            return None;
        }
        let (mut data, mut bytes, mut is_full) = (Vec::new(), 16, false);
        for datum in &self.queue {
            bytes += datum.bytes();
            if data.len() == FRAME_DATA_MAX || bytes > PUSH_BYTES_MAX {
                is_full = true;
                break;
            }
            data.push(datum.clone());
        }
        let has_lingered = self.waits_since.is_some_and(|since| now >= since + self.config.linger_ms);
        let is_time = is_full || data.len() == FRAME_DATA_MAX || self.flights.is_empty() || has_lingered;
        (is_time && !data.is_empty()).then_some(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Entry;
    use crate::ids::Topic;

    fn source() -> Source {
        let config = SourceConfig { window: 2, queue_max: 300, ..SourceConfig::default() };
        Source::new(config, 7, 0)
    }

    fn datum(text: &str) -> Datum {
        Datum { id: Default::default(), value: text.to_owned().into() }
    }

    fn topic() -> Topic {
        "t".parse().unwrap()
    }

    fn queued(first: u64, count: u16) -> Outcome {
        let (before, content, chain) = Default::default();
        Outcome::Event(Event::Queued {
            topic: topic(),
            entry: Entry { first: Sequence(first), count, before, content, chain },
        })
    }

    /// The nonces and counts of the pushes that are handed in.
    fn pushed(source: &mut Source, now: u64) -> Vec<(u64, usize)> {
        let of = |effect| match effect {
            Effect::Push(push) => {
                assert_eq!(push.session, 7);
                Some((push.nonce, push.content.count()))
            }
            _ => None,
        };
        source.due(Millis(now)).0.into_iter().filter_map(of).collect()
    }

    #[test]
    fn the_first_datum_goes_at_once_and_others_go_together() {
        let mut source = source();
        source.push(Millis(0), datum("a")).unwrap();
        assert_eq!(pushed(&mut source, 0), [(0, 1)]);
        for n in 1..200 {
            assert_eq!(source.push(Millis(0), datum("b")), Ok(n));
        }
        assert_eq!(pushed(&mut source, 0), [(1, 128)], "a full frame; the rest waits for its place");
        assert_eq!(
            source.outcome(Millis(1), 0, queued(1, 1)),
            [Effect::Acknowledged { nonce: 0, sequence: Some(Sequence(1)) }]
        );
        assert_eq!(pushed(&mut source, 1), [(129, 71)]);
        assert_eq!(source.waiting(), 199);
    }

    #[test]
    fn nothing_is_acknowledged_before_all_that_came_before_it() {
        let mut source = source();
        source.push(Millis(0), datum("a")).unwrap();
        assert_eq!(pushed(&mut source, 0), [(0, 1)]);
        source.push(Millis(0), datum("b")).unwrap();
        assert_eq!(pushed(&mut source, 5), [(1, 1)]);
        // The second came first, too early; and then the outcome of the first is not known.
        let gap = Outcome::Event(Event::Gap { topic: topic(), next_nonce: 0 });
        assert!(source.outcome(Millis(6), 1, gap).is_empty());
        assert!(pushed(&mut source, 6).is_empty(), "behind one without an outcome it would only come too early again");
        assert!(source.outcome(Millis(7), 0, Outcome::Unknown).is_empty());
        assert!(pushed(&mut source, 8).is_empty(), "not at once");
        assert_eq!(pushed(&mut source, 60), [(0, 1)]);
        let known = Outcome::Event(Event::Known { topic: topic(), next_nonce: 1 });
        assert_eq!(source.outcome(Millis(61), 0, known), [Effect::Acknowledged { nonce: 0, sequence: None }]);
        assert_eq!(pushed(&mut source, 61), [(1, 1)]);
        let done = source.outcome(Millis(62), 1, queued(2, 1));
        assert_eq!(done, [Effect::Acknowledged { nonce: 1, sequence: Some(Sequence(2)) }]);
        assert_eq!((source.waiting(), source.due(Millis(63)).1), (0, None));
    }

    #[test]
    fn a_source_that_is_refused_stops_and_one_that_has_too_much_says_so() {
        let mut source = source();
        let large = datum(&"x".repeat(50_000));
        assert!(matches!(source.push(Millis(0), large), Err(SourceRefused::Frame(_))));
        (0..300).for_each(|_| drop(source.push(Millis(0), datum("a"))));
        assert_eq!(source.push(Millis(0), datum("a")), Err(SourceRefused::Full(300)));
        assert_eq!(pushed(&mut source, 0).len(), 2);
        let full = Outcome::Event(Event::Full { topic: topic() });
        assert!(source.outcome(Millis(1), 0, full).is_empty());
        assert!(pushed(&mut source, 2).is_empty(), "a full queue is not asked again at once");
        let stopped = source.outcome(Millis(3), 128, Outcome::Refused("superseded".to_owned()));
        assert_eq!(stopped, [Effect::Stopped { why: "superseded".to_owned() }]);
        assert!(pushed(&mut source, 99_999).is_empty());
        assert_eq!(source.push(Millis(4), datum("a")), Err(SourceRefused::Stopped("superseded".to_owned())));
    }
}
