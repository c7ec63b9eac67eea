//! A stream under way: sources that push numbers, terminals that follow, and what they were promised, judged from what they saw.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use standin::client::Client;
use standin::publication::{Begin, Notice, Publisher, Terminal};
use standin_foundation::{Epoch, SecretKey};
use standin_ledger::Genesis;
use standin_publisher::frame::Datum;
use standin_publisher::machine::source::SourceConfig;
use standin_publisher::{Fence, Sequence, Topic};

use super::{Drill, Failure};

/// A datum comes every so many ms.
const EVERY: Duration = Duration::from_millis(4);
/// Terminals that follow.
const TERMINALS: usize = 2;
/// A datum, as a terminal saw it.
#[derive(Debug, Clone, Copy)]
struct Seen {
    sequence: Sequence,
    fence: Fence,
    source: usize,
    number: u64,
    at: Instant,
}

/// What source and terminals have told.
#[derive(Debug, Default)]
struct Told {
    /// By source.
    pushed: Vec<u64>,
    acknowledged: Vec<u64>,
    seen: [Vec<Seen>; TERMINALS],
    /// The newest epoch that each terminal has seen prove who publishes.
    epochs: [Epoch; TERMINALS],
    failed: Option<String>,
    stops: bool,
}

/// A stream under way.
pub(super) struct Stream {
    pub(super) topic: Topic,
    told: Rc<RefCell<Told>>,
}

/// What came of a stream.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct StreamJudgement {
    /// Data that were acknowledged and that a terminal does not have.
    pub(super) lost: u64,
    /// Data that a terminal got more than once.
    pub(super) doubled: u64,
    /// Data that came under a fence below one that the terminal had seen.
    pub(super) stale: u64,
    /// Data that came before others that were pushed earlier.
    pub(super) reordered: u64,
}

pub(super) fn topic_named(name: &str) -> Result<Topic, Failure> {
    name.parse().map_err(|error| Failure::new(1, format!("{error}")))
}

pub(super) fn micros() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    now.as_micros() as u64
}

impl Told {
    /// Data that were pushed.
    fn all(&self) -> u64 {
        self.pushed.iter().sum()
    }
}

impl Stream {
    /// Sources that push numbers, and terminals that are connected to these nodes.
    pub(super) fn start(drill: &Drill, name: &str, sources: usize, nodes: Vec<Client>) -> Result<Self, Failure> {
        let told = Told { pushed: vec![0; sources], acknowledged: vec![0; sources], ..Told::default() };
        let (topic, told) = (topic_named(name)?, Rc::new(RefCell::new(told)));
        let genesis = drill.network.files().genesis.clone();
        for source in 0..sources {
            // Each source has a key of its own; the first that of the network's client.
            let key = if source == 0 {
                drill.network.client_key()?
            } else {
                SecretKey::generate().map_err(|error| Failure::new(1, error.to_string()))?
            };
            let (shared, nodes) = (Rc::clone(&told), drill.network.clients().to_vec());
            actix_rt::spawn(async move {
                let begun = Publisher::begin(nodes, topic, key, micros(), SourceConfig::default()).await;
                let done = match begun {
                    Ok(publisher) => push(publisher, &shared, source).await,
                    Err(error) => Err(error.to_string()),
                };
                if let Err(why) = done {
                    shared.borrow_mut().failed.get_or_insert(format!("source {source}: {why}"));
                }
            });
        }
        for number in 0..TERMINALS {
            actix_rt::spawn(follow(Rc::clone(&told), (nodes.clone(), genesis.clone()), topic, number));
        }
        Ok(Self { topic, told })
    }

    /// Data that sources were told are safe.
    pub(super) fn acknowledged(&self) -> u64 {
        self.told.borrow().acknowledged.iter().sum()
    }

    /// Why the stream stopped, if it did.
    pub(super) fn failed(&self) -> Option<String> {
        self.told.borrow().failed.clone()
    }

    /// Data that every terminal has.
    pub(super) fn common(&self) -> usize {
        self.told.borrow().seen.iter().map(Vec::len).min().unwrap_or(0)
    }

    /// The newest epoch that every terminal has seen prove who publishes.
    pub(super) fn epoch(&self) -> Epoch {
        self.told.borrow().epochs.into_iter().min().unwrap_or_default()
    }

    /// Since when each terminal has a datum that was first published under a fence above this; the last of them.
    pub(super) fn first_above(&self, fence: Fence) -> Option<Instant> {
        let told = self.told.borrow();
        let first = |seen: &Vec<Seen>| seen.iter().find(|seen| seen.fence > fence).map(|seen| seen.at);
        told.seen.iter().map(first).collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    /// No more is pushed; waits until all that was pushed has been acknowledged and has come, and judges it; and whether all was acknowledged.
    pub(super) async fn judge(&self, within: Duration) -> (StreamJudgement, bool, String) {
        self.told.borrow_mut().stops = true;
        let begun = Instant::now();
        let is_done = || {
            let told = self.told.borrow();
            told.failed.is_some()
                || (told.acknowledged == told.pushed && told.seen.iter().all(|seen| seen.len() as u64 >= told.all()))
        };
        while !is_done() && begun.elapsed() < within {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let told = self.told.borrow();
        let mut judgement = StreamJudgement::default();
        for seen in &told.seen {
            let names: BTreeSet<_> = seen.iter().map(|seen| (seen.source, seen.number)).collect();
            for (source, acknowledged) in told.acknowledged.iter().enumerate() {
                judgement.lost +=
                    (0..*acknowledged).filter(|number| !names.contains(&(source, *number))).count() as u64;
                let numbers: Vec<_> =
                    seen.iter().filter(|seen| seen.source == source).map(|seen| seen.number).collect();
                judgement.reordered +=
                    numbers.iter().zip(numbers.iter().skip(1)).filter(|(a, b)| b <= a).count() as u64;
            }
            judgement.doubled += (seen.len() - names.len()) as u64;
            let follows = |(a, b): &(&Seen, &Seen)| Some(b.sequence) == a.sequence.next();
            judgement.reordered += seen.iter().zip(seen.iter().skip(1)).filter(|pair| !follows(pair)).count() as u64;
            judgement.stale += seen.iter().zip(seen.iter().skip(1)).filter(|(a, b)| b.fence < a.fence).count() as u64;
        }
        let counts: Vec<_> = told.seen.iter().map(Vec::len).collect();
        let failed = told.failed.as_ref().map(|why| format!("; {why}")).unwrap_or_default();
        let detail = format!(
            "topic {}: {:?} pushed, {:?} acknowledged, terminals have {counts:?}{failed}",
            self.topic, told.pushed, told.acknowledged
        );
        (judgement, told.acknowledged == told.pushed, detail)
    }
}

/// Pushes numbers until it is to stop, and then until all are acknowledged.
async fn push(mut publisher: Publisher, told: &RefCell<Told>, source: usize) -> Result<(), String> {
    let mut interval = tokio::time::interval(EVERY);
    let mut number = 0;
    loop {
        let stops = told.borrow().stops;
        if stops && publisher.waiting() == 0 {
            return Ok(());
        }
        tokio::select! {
            _ = interval.tick(), if !stops => {
                let datum = Datum { id: source.to_string().into(), value: number.to_string().into() };
                publisher.push(datum).map_err(|error| error.to_string())?;
                number += 1;
                told.borrow_mut().pushed.iter_mut().skip(source).take(1).for_each(|pushed| *pushed = number);
            }
            safe = publisher.acknowledged() => {
                let safe = safe.map_err(|error| error.to_string())?.nonce + 1;
                told.borrow_mut().acknowledged.iter_mut().skip(source).take(1).for_each(|known| *known = safe);
            }
            // Looks again at whether it is to stop.
            _ = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// Follows from the first datum on, and notes what it sees.
async fn follow(told: Rc<RefCell<Told>>, (nodes, genesis): (Vec<Client>, Genesis), topic: Topic, number: usize) {
    let failed = |why: String| _ = told.borrow_mut().failed.get_or_insert(format!("terminal {number}: {why}"));
    let mut terminal = loop {
        // The topic begins with its first datum.
        let mut terminal = Terminal::begin(nodes.clone(), genesis.clone(), topic, Begin::At(Sequence(1)));
        match terminal.next().await {
            Ok(notice) => {
                note(&told, number, notice, &failed);
                break terminal;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    while Rc::strong_count(&told) > 1 {
        match tokio::time::timeout(Duration::from_millis(200), terminal.next()).await {
            Ok(Ok(notice)) => note(&told, number, notice, &failed),
            Ok(Err(error)) => {
                failed(error.to_string());
                return;
            }
            Err(_) => {}
        }
    }
}

fn note(told: &RefCell<Told>, number: usize, notice: Notice, failed: &impl Fn(String)) {
    match notice {
        Notice::Delivered(delivered) => {
            let at = Instant::now();
            let fence = delivered.position.fence;
            let mut told = told.borrow_mut();
            let Some(seen) = told.seen.get_mut(number) else { return };
            for (sequence, datum) in (delivered.entry.first.0..).map(Sequence).zip(&delivered.data) {
                let parsed = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.parse::<u64>().ok();
                let name = parsed(&datum.id).zip(parsed(&datum.value));
                let seen_now = |(source, number)| Seen { sequence, fence, source: source as usize, number, at };
                seen.extend(name.map(seen_now));
            }
        }
        Notice::Takeover { position, .. } | Notice::Renewed { position } => {
            told.borrow_mut().epochs.iter_mut().skip(number).take(1).for_each(|epoch| *epoch = position.epoch);
        }
        Notice::Alarm { node, alarm } => failed(format!("ALARM: {node}: {alarm}")),
    }
}
