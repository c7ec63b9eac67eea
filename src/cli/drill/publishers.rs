//! Publication: whoever publishes dies, stands still, is cut off, and wakes up late, while a source pushes and terminals follow.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use standin::client::Client;
use standin::publication::{Begin, Notice, Publisher, Terminal};
use standin_foundation::NodeId;
use standin_ledger::Genesis;
use standin_publisher::frame::Datum;
use standin_publisher::machine::source::SourceConfig;
use standin_publisher::{Fence, Sequence, Topic};

use super::seats::SOON;
use super::{Drill, Failure};

/// A datum comes every so many ms.
const EVERY: Duration = Duration::from_millis(4);
/// Terminals that follow.
const TERMINALS: usize = 2;
/// Topics of `many-topics`.
const TOPICS: usize = 24;

/// A datum, as a terminal saw it.
#[derive(Debug, Clone, Copy)]
struct Seen {
    sequence: Sequence,
    fence: Fence,
    number: u64,
    at: Instant,
}

/// What source and terminals have told.
#[derive(Debug, Default)]
struct Told {
    pushed: u64,
    acknowledged: u64,
    seen: [Vec<Seen>; TERMINALS],
    failed: Option<String>,
    stops: bool,
}

/// A stream under way.
pub(super) struct Stream {
    topic: Topic,
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

fn topic_named(name: &str) -> Result<Topic, Failure> {
    name.parse().map_err(|error| Failure::new(1, format!("{error}")))
}

fn micros() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    now.as_micros() as u64
}

impl Stream {
    /// A source that pushes numbers, and terminals that are connected to all nodes.
    fn start(drill: &Drill, name: &str) -> Result<Self, Failure> {
        let (topic, told) = (topic_named(name)?, Rc::new(RefCell::new(Told::default())));
        let (nodes, key) = (drill.network.clients().to_vec(), drill.network.client_key()?);
        let genesis = drill.network.files().genesis.clone();
        let (shared, sources) = (Rc::clone(&told), nodes.clone());
        actix_rt::spawn(async move {
            let begun = Publisher::begin(sources, topic, key, micros(), SourceConfig::default()).await;
            let done = match begun {
                Ok(publisher) => push(publisher, &shared).await,
                Err(error) => Err(error.to_string()),
            };
            if let Err(why) = done {
                shared.borrow_mut().failed.get_or_insert(format!("the source: {why}"));
            }
        });
        for number in 0..TERMINALS {
            actix_rt::spawn(follow(Rc::clone(&told), (nodes.clone(), genesis.clone()), topic, number));
        }
        Ok(Self { topic, told })
    }

    /// Data that every terminal has.
    fn common(&self) -> usize {
        self.told.borrow().seen.iter().map(Vec::len).min().unwrap_or(0)
    }

    /// Since when each terminal has a datum that was first published under a fence above this; the last of them.
    fn first_above(&self, fence: Fence) -> Option<Instant> {
        let told = self.told.borrow();
        let first = |seen: &Vec<Seen>| seen.iter().find(|seen| seen.fence > fence).map(|seen| seen.at);
        told.seen.iter().map(first).collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    /// No more is pushed; waits until all that was pushed has been acknowledged and has come, and judges it.
    async fn judge(&self, within: Duration) -> (StreamJudgement, String) {
        self.told.borrow_mut().stops = true;
        let begun = Instant::now();
        let is_done = || {
            let told = self.told.borrow();
            told.failed.is_some()
                || (told.acknowledged == told.pushed && told.seen.iter().all(|seen| seen.len() as u64 >= told.pushed))
        };
        while !is_done() && begun.elapsed() < within {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let told = self.told.borrow();
        let mut judgement = StreamJudgement::default();
        for seen in &told.seen {
            let numbers: BTreeSet<_> = seen.iter().map(|seen| seen.number).collect();
            judgement.lost += (0..told.acknowledged).filter(|number| !numbers.contains(number)).count() as u64;
            judgement.doubled += (seen.len() - numbers.len()) as u64;
            let follows = |(a, b): &(&Seen, &Seen)| b.number > a.number && Some(b.sequence) == a.sequence.next();
            judgement.reordered += seen.iter().zip(seen.iter().skip(1)).filter(|pair| !follows(pair)).count() as u64;
            judgement.stale += seen.iter().zip(seen.iter().skip(1)).filter(|(a, b)| b.fence < a.fence).count() as u64;
        }
        let counts: Vec<_> = told.seen.iter().map(Vec::len).collect();
        let failed = told.failed.as_ref().map(|why| format!("; {why}")).unwrap_or_default();
        let detail = format!(
            "topic {}: {} pushed, {} acknowledged, terminals have {counts:?}{failed}",
            self.topic, told.pushed, told.acknowledged
        );
        (judgement, detail)
    }
}

/// Pushes numbers until it is to stop, and then until all are acknowledged.
async fn push(mut publisher: Publisher, told: &RefCell<Told>) -> Result<(), String> {
    let mut interval = tokio::time::interval(EVERY);
    loop {
        let stops = told.borrow().stops;
        if stops && publisher.waiting() == 0 {
            return Ok(());
        }
        tokio::select! {
            _ = interval.tick(), if !stops => {
                let number = told.borrow().pushed;
                let datum = Datum { id: Default::default(), value: number.to_string().into() };
                publisher.push(datum).map_err(|error| error.to_string())?;
                told.borrow_mut().pushed += 1;
            }
            safe = publisher.acknowledged() => {
                told.borrow_mut().acknowledged = safe.map_err(|error| error.to_string())?.nonce + 1;
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
                let number = std::str::from_utf8(&datum.value).ok().and_then(|text| text.parse().ok());
                seen.extend(number.map(|number| Seen { sequence, fence, number, at }));
            }
        }
        Notice::Takeover(_) => {}
        Notice::Alarm { node, alarm } => failed(format!("ALARM: {node}: {alarm}")),
    }
}

impl Drill {
    /// The stream has come so much further at every terminal.
    async fn streams(&mut self, stream: &Stream, when: &str, count: usize) {
        let (begun, before) = (Instant::now(), stream.common());
        while stream.common() < before + count && begun.elapsed() < SOON {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let come = stream.common() - before;
        let detail = format!("{come} of {count} data in {} ms", begun.elapsed().as_millis());
        self.check(&format!("data come {when}"), come >= count, detail);
    }

    /// The node that publishes a topic, and under which fence.
    async fn publishing(&mut self, topic: Topic) -> Result<(usize, Fence), Failure> {
        let nodes: BTreeMap<NodeId, usize> = self.node_ids().await?;
        let begun = Instant::now();
        while begun.elapsed() < SOON {
            for index in 0..self.network.size() {
                if !self.network.answers(index) {
                    continue;
                }
                let view = self.network.client(index)?.topic(topic).await;
                if let Ok(view) = view
                    && let Some(owner) = view.owner
                    && let Some(node) = nodes.get(&owner.node_id())
                {
                    return Ok((*node, view.fence));
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Err(Failure::new(1, format!("nobody publishes topic {topic}")))
    }

    async fn node_ids(&mut self) -> Result<BTreeMap<NodeId, usize>, Failure> {
        let ids = (0..self.network.size()).map(|index| {
            let config = super::read_config(&self.network, index)?;
            let key = standin_foundation::SecretKey::read(&config.key_file);
            let key = key.map_err(|error| Failure::new(78, error.to_string()))?;
            Ok((key.public().node_id(), index))
        });
        ids.collect()
    }

    /// When the terminals had the first new datum of another server, in ms since then.
    async fn published_again(&mut self, stream: &Stream, fence: Fence, since: Instant) -> Option<u64> {
        let begun = Instant::now();
        let mut first = None;
        while first.is_none() && begun.elapsed() < SOON {
            first = stream.first_above(fence);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let ms = first.map(|at| at.saturating_duration_since(since).as_millis() as u64);
        self.check("another server publishes", ms.is_some(), format!("{ms:?} ms until every terminal had new data"));
        ms
    }

    /// The judgement that each of these drills ends with.
    async fn judge_stream(&mut self, stream: &Stream) {
        let (judgement, detail) = stream.judge(SOON).await;
        let StreamJudgement { lost, doubled, stale, reordered } = judgement;
        let has_failed = stream.told.borrow().failed.is_some();
        self.check("nothing failed at the ends", !has_failed, detail.clone());
        self.check("every acknowledged datum came", lost == 0, detail);
        self.check("none came twice", doubled == 0, format!("{doubled}"));
        self.check("none came stale", stale == 0, format!("{stale}"));
        self.check("none came out of order", reordered == 0, format!("{reordered}"));
        let total = self.streamed.get_or_insert_default();
        total.lost += lost;
        total.doubled += doubled;
        total.stale += stale;
        total.reordered += reordered;
    }

    /// Fences rose by one, and the holdings cover every datum once.
    async fn holdings_are_whole(&mut self, stream: &Stream) -> Result<(), Failure> {
        let witness = (0..self.network.size()).find(|index| self.network.answers(*index)).unwrap_or_default();
        let mut holdings = self.network.client(witness)?.holdings(stream.topic, None).await?;
        holdings.reverse();
        let fences: Vec<_> = holdings.iter().map(|holding| holding.fence.0).collect();
        let mut next = Some(Sequence(1));
        for holding in &holdings {
            next = next.filter(|next| holding.from == *next).and_then(|next| match holding.upto {
                Some(upto) => upto.next(),
                None => Some(next),
            });
        }
        let is_whole = next.is_some() && fences.iter().copied().eq(1..=fences.len() as u64);
        self.check("the ledger says who published each datum", is_whole, format!("holdings under fences {fences:?}"));
        Ok(())
    }
}

pub(super) async fn publisher_killed(drill: &mut Drill) -> Result<(), Failure> {
    let stream = Stream::start(drill, "stream")?;
    drill.streams(&stream, "before", 100).await;
    let (holder, fence) = drill.publishing(stream.topic).await?;
    let begun = Instant::now();
    drill.network.kill(holder).await?;
    drill.recovery_ms = drill.published_again(&stream, fence, begun).await;
    drill.streams(&stream, "after it died", 100).await;
    drill.start_all(&[holder]).await?;
    drill.made_whole().await?;
    drill.judge_stream(&stream).await;
    drill.holdings_are_whole(&stream).await
}

pub(super) async fn publisher_frozen(drill: &mut Drill) -> Result<(), Failure> {
    let stream = Stream::start(drill, "stream")?;
    drill.streams(&stream, "before", 100).await;
    let (holder, fence) = drill.publishing(stream.topic).await?;
    let begun = Instant::now();
    drill.network.freeze(holder)?;
    drill.recovery_ms = drill.published_again(&stream, fence, begun).await;
    drill.streams(&stream, "while it is frozen", 100).await;
    drill.network.thaw(holder)?;
    drill.streams(&stream, "after it woke up", 200).await;
    drill.made_whole().await?;
    drill.judge_stream(&stream).await;
    drill.holdings_are_whole(&stream).await
}

/// H9: it reaches its terminals, and not the chain.
pub(super) async fn publisher_partitioned(drill: &mut Drill) -> Result<(), Failure> {
    let stream = Stream::start(drill, "stream")?;
    drill.streams(&stream, "before", 100).await;
    let (holder, fence) = drill.publishing(stream.topic).await?;
    let begun = Instant::now();
    drill.network.cut_off(holder);
    drill.recovery_ms = drill.published_again(&stream, fence, begun).await;
    drill.streams(&stream, "while it is cut off", 100).await;
    let still = drill.network.client(holder)?.topic(stream.topic).await.is_ok_and(|view| view.publishes_here);
    drill.check("it has stopped by itself", !still, format!("publishes: {still}"));
    drill.network.join(holder);
    drill.streams(&stream, "after it came back", 100).await;
    drill.made_whole().await?;
    drill.judge_stream(&stream).await;
    drill.holdings_are_whole(&stream).await
}

/// H12: whoever publishes and whoever leads the view, in one moment.
pub(super) async fn holder_and_active_killed(drill: &mut Drill) -> Result<(), Failure> {
    let stream = Stream::start(drill, "stream")?;
    drill.streams(&stream, "before", 100).await;
    let (holder, fence) = drill.publishing(stream.topic).await?;
    let active = drill.primary().await?;
    let lost: Vec<_> = BTreeSet::from([holder, active.node]).into_iter().collect();
    let begun = Instant::now();
    drill.kill_all(&lost).await?;
    drill.recovery_ms = drill.published_again(&stream, fence, begun).await;
    drill.streams(&stream, "after they died", 100).await;
    drill.start_all(&lost).await?;
    drill.made_whole().await?;
    drill.judge_stream(&stream).await;
    drill.holdings_are_whole(&stream).await
}

/// H13 in the small: one holder after the other is killed, and the one before comes back; fences rise by one each time.
pub(super) async fn two_standbys_race(drill: &mut Drill) -> Result<(), Failure> {
    let stream = Stream::start(drill, "stream")?;
    drill.streams(&stream, "before", 100).await;
    let mut worst = 0;
    for round in 1..=5 {
        let (holder, fence) = drill.publishing(stream.topic).await?;
        let begun = Instant::now();
        drill.network.kill(holder).await?;
        worst = drill.published_again(&stream, fence, begun).await.unwrap_or(u64::MAX).max(worst);
        drill.streams(&stream, &format!("after round {round}"), 50).await;
        drill.start_all(&[holder]).await?;
        drill.made_whole().await?;
    }
    drill.recovery_ms = Some(worst);
    drill.judge_stream(&stream).await;
    drill.holdings_are_whole(&stream).await
}

/// A server that fails gives up all of its topics; they go to the others.
pub(super) async fn many_topics(drill: &mut Drill) -> Result<(), Failure> {
    let key = || drill.network.client_key();
    let nodes = drill.network.clients().to_vec();
    let topics = (0..TOPICS).map(|number| topic_named(&format!("topic-{number}"))).collect::<Result<Vec<_>, _>>()?;
    for topic in &topics {
        let begun = Publisher::begin(nodes.clone(), *topic, key()?, micros(), SourceConfig::default()).await;
        let mut publisher = begun.map_err(|error| Failure::new(1, error.to_string()))?;
        let pushed = publisher.push(Datum { id: Default::default(), value: "0".into() });
        pushed.map_err(|error| Failure::new(1, error.to_string()))?;
        publisher.acknowledged().await.map_err(|error| Failure::new(1, error.to_string()))?;
    }
    let stream = Stream::start(drill, "stream")?;
    drill.streams(&stream, "before", 50).await;
    let held = drill.held(TOPICS + 1).await?;
    let most = held.values().max().copied().unwrap_or_default();
    let detail = format!("{} servers hold {:?} topics", held.len(), held.values().collect::<Vec<_>>());
    drill.check("topics are spread", most <= TOPICS / 3 && held.len() >= 4, detail);
    let (lost, _) = drill.publishing(stream.topic).await?;
    let begun = Instant::now();
    drill.network.kill(lost).await?;
    let held = drill.held(TOPICS + 1).await?;
    drill.recovery_ms = Some(begun.elapsed().as_millis() as u64);
    drill.check("its topics went to others", !held.contains_key(&lost), format!("{held:?}"));
    drill.streams(&stream, "after it died", 50).await;
    drill.start_all(&[lost]).await?;
    drill.made_whole().await?;
    drill.judge_stream(&stream).await;
    drill.holdings_are_whole(&stream).await
}

impl Drill {
    /// How many topics each running node holds, as soon as all of them are held by running nodes.
    async fn held(&mut self, topics: usize) -> Result<BTreeMap<usize, usize>, Failure> {
        let nodes = self.node_ids().await?;
        let begun = Instant::now();
        let mut held = BTreeMap::new();
        while begun.elapsed() < SOON {
            held.clear();
            let witness = (0..self.network.size()).find(|index| self.network.answers(*index)).unwrap_or_default();
            let views = self.network.client(witness)?.topics().await?.topics;
            for view in views {
                let holder = view.owner.and_then(|owner| nodes.get(&owner.node_id()).copied());
                if let Some(holder) = holder.filter(|holder| self.network.answers(*holder)) {
                    *held.entry(holder).or_default() += 1;
                }
            }
            if held.values().sum::<usize>() == topics {
                return Ok(held);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.check("every topic has a holder", false, format!("{held:?} of {topics}"));
        Ok(held)
    }
}
