//! A model check over the real machines: one seat held by two nodes, three by one, a window of two, the register; and every
//! course of events that differs from the ordinary one in at most two places.
//!
//! The ordinary course is that of a calm network in which four transactions are ordered. A *place* is a message that arrives, a
//! disk that says that it is done, or a request that reaches the auth node; there anything of [`Deviation`] can happen. All
//! single deviations are tried, and all pairs whose first takes a node of the seat of two away and whose second lies within a given
//! number of places behind it, where the hand-over is. The node that is down or frozen comes back a little later. Pulses,
//! statuses and keep-alives are no places: they only say again what the others do.
//!
//! With a faulty seat it is one of the three others.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use fastrand::Rng;
use standin_auth::messages::{Answer, Request};
use standin_cluster::Message;
use standin_consensus::Note;
use standin_consensus::config::Config;
use standin_ledger::{ClientSignatures, Parameters};

use crate::byzantine;
use crate::faults::Fault;
use crate::invariants::Violation;
use crate::network::{Envelope, Network, NodeIndex};
use crate::rules::Rule;
use crate::scenario::transaction;
use crate::stories::{Build, build};
use crate::world::{Event, World};

/// The seats, with the number of nodes that hold each.
const SIZES: [usize; 4] = [2, 1, 1, 1];
/// The first start of all clusters, grants and all.
const SETTLED_US: u64 = 1_500_000;
/// The time in which places are counted.
const WATCHED_US: u64 = 1_200_000;
/// How late a late message is.
const LATE_US: u64 = 250_000;
/// How long a node is down or frozen.
const AWAY_US: u64 = 300_000;
/// How long whatever was begun may go on afterwards.
const AFTER_US: u64 = 800_000;

/// What can happen at a place in the course of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deviation {
    /// The message is lost, or the disk's word: the node waits for the next one.
    Lose,
    /// It comes late, after what was to come after it.
    Late,
    /// It comes twice, the second time late.
    Twice,
    /// The node loses its power just before: what it has not synced is lost.
    Crash,
    /// The node's process is killed just before; the others see it.
    Kill,
    /// The node is stopped just before, and finds everything waiting when it goes on.
    Freeze,
}

const DEVIATIONS: [Deviation; 6] =
    [Deviation::Lose, Deviation::Late, Deviation::Twice, Deviation::Crash, Deviation::Kill, Deviation::Freeze];

/// A deviation at a place.
pub type Step = (usize, Deviation);

/// Watches the course of events, and changes it at certain places.
#[derive(Debug, Default)]
pub(crate) struct Director {
    steps: Vec<Step>,
    from_us: u64,
    /// Which node each place is about, as far as the run went.
    places: Vec<NodeIndex>,
}

/// What becomes of an event.
#[derive(Debug)]
pub(crate) enum Directed {
    /// It happens.
    Happens(Event),
    /// It does not.
    Lost,
    /// It happens after so many µs.
    Late(u64, Event),
    /// It happens, and so does this after so many µs.
    Twice(Event, u64, Event),
    /// First comes a fault, and later its end.
    After(Fault, (u64, Fault), Event),
}

impl Director {
    /// Looks at an event that is about to happen.
    pub(crate) fn direct(&mut self, now_us: u64, event: Event) -> Directed {
        let node = place_of(&event).filter(|_| (self.from_us..self.from_us + WATCHED_US).contains(&now_us));
        let Some(node) = node else { return Directed::Happens(event) };
        let place = self.places.len();
        self.places.push(node);
        let Some((_, deviation)) = self.steps.iter().find(|(at, _)| *at == place) else {
            return Directed::Happens(event);
        };
        match deviation {
            Deviation::Lose => Directed::Lost,
            Deviation::Late => Directed::Late(LATE_US, event),
            Deviation::Twice => match copy_of(&event) {
                Some(copy) => Directed::Twice(event, LATE_US, copy),
                None => Directed::Happens(event),
            },
            Deviation::Crash => Directed::After(Fault::Crash(node), (AWAY_US, Fault::Restart(node)), event),
            Deviation::Kill => Directed::After(Fault::Kill(node), (AWAY_US, Fault::Restart(node)), event),
            Deviation::Freeze => Directed::After(Fault::Freeze(node), (AWAY_US, Fault::Thaw(node)), event),
        }
    }
}

/// The node that an event is about, unless it only says again what others do.
fn place_of(event: &Event) -> Option<NodeIndex> {
    match event {
        Event::Synced(node, ..) => Some(*node),
        Event::Asked(_, request) if matches!(**request, Request::KeepAlive(_) | Request::LookUp { .. }) => None,
        Event::Asked(node, _) => Some(*node),
        Event::Arrives(node, _, envelope) => match &**envelope {
            Envelope::Note(Note::Status(_)) => None,
            Envelope::Cluster(message, _) if matches!(**message, Message::Pulse(_) | Message::Results(_)) => None,
            Envelope::Answer(answer) if matches!(**answer, Answer::Alive { .. } | Answer::Actives { .. }) => None,
            _ => Some(*node),
        },
        _ => None,
    }
}

fn copy_of(event: &Event) -> Option<Event> {
    match event {
        Event::Arrives(to, from, envelope) => Some(Event::Arrives(*to, *from, envelope.clone())),
        Event::Asked(from, request) => Some(Event::Asked(*from, request.clone())),
        _ => None,
    }
}

/// What is checked.
#[derive(Debug, Clone, Copy)]
pub struct Model {
    /// What the last of the seats is like; none if all are correct.
    pub faulty: Option<&'static str>,
    /// The rule that is switched off.
    pub rule: Option<Rule>,
}

/// What a search came to.
#[derive(Debug, Clone, Default)]
pub struct Searched {
    /// Courses of events that were tried.
    pub courses: usize,
    /// Places of the ordinary course.
    pub places: usize,
    /// The first course that broke something.
    pub violation: Option<(Vec<Step>, Violation)>,
}

impl Model {
    /// Runs one course of events; gives the node of each of its places. A panic is a violation, too.
    pub fn run(&self, steps: &[Step]) -> Result<Vec<NodeIndex>, Violation> {
        Violation::guard(|| self.run_unguarded(steps))
    }

    fn run_unguarded(&self, steps: &[Step]) -> Result<Vec<NodeIndex>, Violation> {
        let mut world = self.world();
        world.run_until(SETTLED_US)?;
        world.director = Some(Director { steps: steps.to_vec(), from_us: SETTLED_US, places: Vec::new() });
        for (nonce, after_us) in [(1, 0), (2, 1_500), (3, 400_000), (4, 900_000)] {
            // One for the seat of two, which leads the view; others for another.
            let node = if nonce % 2 == 1 { 0 } else { 2 };
            world.schedule(after_us, Event::Submit(node, vec![transaction(nonce, 450)]));
        }
        world.run_until(SETTLED_US + WATCHED_US + AFTER_US)?;
        let director = world.director.take().unwrap_or_default();
        world.heal()?;
        world.run_until(world.now_us + AFTER_US)?;
        Ok(director.places)
    }

    fn world(&self) -> World {
        let parameters = Parameters {
            checkpoint_interval: 1,
            window: 2,
            replay_window: 500,
            client_signatures: ClientSignatures::None,
            version: 1,
        };
        let config = Config { view_timeout_ms: 400, status_interval_ms: 100, ..Config::default() };
        let network = Network { delay_min_us: 400, delay_max_us: 600, ..Network::calm() };
        let last = SIZES.len() - 1;
        let build_with = Build { sizes: &SIZES, parameters, config, network, rule: self.rule };
        let faulty = |seat: usize| self.faulty.filter(|_| seat == last);
        build(
            &build_with,
            |_, _, _| {},
            |seat| faulty(seat).and_then(|name| byzantine::behaviour(name, SIZES.len())),
            Rng::with_seed(7),
        )
    }

    /// Tries every single deviation, and with it every second one that comes at most `near` places behind a first that takes a node
    /// of the seat of two away. On all cores.
    pub fn search(&self, near: usize) -> Searched {
        let places = match self.run(&[]) {
            Ok(places) => places,
            Err(violation) => return Searched { courses: 1, places: 0, violation: Some((Vec::new(), violation)) },
        };
        let single = |place: usize| DEVIATIONS.into_iter().map(move |deviation| vec![(place, deviation)]);
        let singles: Vec<Vec<Step>> = (0..places.len()).flat_map(single).collect();
        let (courses, violation) = self.try_all(&singles, &places, near);
        Searched { courses: courses + 1, places: places.len(), violation }
    }

    /// Gives the number of courses, and the first that broke something.
    fn try_all(
        &self,
        singles: &[Vec<Step>],
        nodes: &[NodeIndex],
        near: usize,
    ) -> (usize, Option<(Vec<Step>, Violation)>) {
        let (next, courses, found) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(None));
        let stop = AtomicUsize::new(usize::MAX);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let try_one = |number: usize, steps: Vec<Step>| {
            courses.fetch_add(1, Ordering::Relaxed);
            let outcome = self.run(&steps);
            if let Err(violation) = &outcome
                && let Ok(mut found) = found.lock()
                && number < stop.load(Ordering::Relaxed)
            {
                stop.store(number, Ordering::Relaxed);
                *found = Some((steps, violation.clone()));
            }
            outcome
        };
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let Some(steps) = singles.get(number).filter(|_| number < stop.load(Ordering::Relaxed)) else {
                            return;
                        };
                        let Ok(places) = try_one(number, steps.clone()) else { continue };
                        let takes_away = |(place, deviation): &Step| {
                            let away = matches!(deviation, Deviation::Crash | Deviation::Kill | Deviation::Freeze);
                            away && nodes.get(*place).is_some_and(|node| *node < SIZES[0])
                        };
                        let Some(first) = steps.first().copied().filter(takes_away) else { continue };
                        for place in (first.0 + 1..places.len()).take(near) {
                            for deviation in DEVIATIONS {
                                if number >= stop.load(Ordering::Relaxed) {
                                    return;
                                }
                                let _ = try_one(number, vec![first, (place, deviation)]);
                            }
                        }
                    }
                });
            }
        });
        (courses.into_inner(), found.into_inner().unwrap_or_default())
    }
}
