//! Publication: whoever publishes dies, stands still, is cut off, and wakes up late, while sources push and terminals follow.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use standin::publication::{Begin, FollowError, Notice, Publisher, Terminal};
use standin_foundation::{Epoch, NodeId};
use standin_ledger::approval::Approved;
use standin_publisher::frame::Datum;
use standin_publisher::machine::lock::Reason;
use standin_publisher::machine::source::SourceConfig;
use standin_publisher::machine::terminal::Position;
use standin_publisher::messages::{Settings, TopicChange, TopicOrder};
use standin_publisher::{Fence, Sequence, Topic};

use super::super::demo::DEMO_RESERVE_BYTES;
use super::super::orders::Draft;
use super::disks::{self, VICTIM};
use super::seats::SOON;
use super::stream::{Stream, StreamJudgement, micros, topic_named};
use super::torn::Torn;
use super::{Drill, Failure, epochs};

/// Topics of `many-topics`.
const TOPICS: usize = 24;
/// Bytes of a datum of `terminal-behind-retention`.
const LARGE_BYTES: usize = 20_000;
/// A node that is to hold a lock gets it within this time.
const WON_WITHIN: Duration = Duration::from_secs(60);

impl Drill {
    /// A stream, with one source and terminals at all nodes, that has come some way; and who publishes it, under which fence.
    async fn stream(&mut self) -> Result<(Stream, usize, Fence), Failure> {
        let stream = Stream::start(self, "stream", 1, self.network.clients().to_vec())?;
        self.streams(&stream, "before", 100).await;
        let (holder, fence) = self.publishing(stream.topic).await?;
        Ok((stream, holder, fence))
    }

    /// What each of these drills ends with: all nodes are whole, terminals have everything once, and the ledger tells who published it.
    async fn end_stream(&mut self, stream: &Stream) -> Result<(), Failure> {
        self.made_whole().await?;
        self.judge_stream(stream).await;
        self.holdings_are_whole(stream).await
    }

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

    /// The node that publishes a topic, and under which fence: of what all nodes say the newest, since one that came back just now tells the past.
    async fn publishing(&mut self, topic: Topic) -> Result<(usize, Fence), Failure> {
        let nodes: BTreeMap<NodeId, usize> = self.node_ids().await?;
        let begun = Instant::now();
        while begun.elapsed() < SOON {
            let mut newest = None;
            for index in 0..self.network.size() {
                if self.network.answers(index)
                    && let Ok(view) = self.network.client(index)?.topic(topic).await
                {
                    let holder = view.owner.and_then(|owner| nodes.get(&owner.node_id()).copied());
                    newest = newest.max(Some((view.fence, holder)));
                }
            }
            if let Some((fence, Some(holder))) = newest {
                return Ok((holder, fence));
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

    /// Every terminal has seen seats of an epoch prove who publishes.
    async fn proven_in(&mut self, stream: &Stream, epoch: Epoch) {
        let begun = Instant::now();
        while stream.epoch() < epoch && begun.elapsed() < SOON {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let (found, ms) = (stream.epoch(), begun.elapsed().as_millis());
        let detail = format!("epoch {found} after {ms} ms");
        self.check(&format!("seats of epoch {epoch} prove who publishes"), found == epoch, detail);
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
        let (judgement, is_acknowledged, detail) = stream.judge(SOON).await;
        let StreamJudgement { lost, doubled, stale, reordered } = judgement;
        self.check("nothing failed at the ends", stream.failed().is_none(), detail.clone());
        self.check("every push was acknowledged", is_acknowledged, detail.clone());
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
        let client = self.network.client(witness)?.clone();
        let mut holdings = client.holdings(stream.topic, None).await?;
        while let Some(oldest) = holdings.last().map(|holding| holding.fence).filter(|oldest| *oldest > Fence(1)) {
            match client.holdings_before(stream.topic, oldest).await? {
                older if older.is_empty() => break,
                older => holdings.extend(older),
            }
        }
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
    let (stream, holder, fence) = drill.stream().await?;
    let begun = Instant::now();
    drill.network.kill(holder).await?;
    drill.recovery_ms = drill.published_again(&stream, fence, begun).await;
    drill.streams(&stream, "after it died", 100).await;
    drill.start_all(&[holder]).await?;
    drill.end_stream(&stream).await
}

pub(super) async fn publisher_frozen(drill: &mut Drill) -> Result<(), Failure> {
    let (stream, holder, fence) = drill.stream().await?;
    let begun = Instant::now();
    drill.network.freeze(holder)?;
    drill.recovery_ms = drill.published_again(&stream, fence, begun).await;
    drill.streams(&stream, "while it is frozen", 100).await;
    drill.network.thaw(holder)?;
    drill.streams(&stream, "after it woke up", 200).await;
    drill.end_stream(&stream).await
}

/// H9: it reaches its terminals, and not the chain.
pub(super) async fn publisher_partitioned(drill: &mut Drill) -> Result<(), Failure> {
    let (stream, holder, fence) = drill.stream().await?;
    let begun = Instant::now();
    drill.network.cut_off(holder);
    drill.recovery_ms = drill.published_again(&stream, fence, begun).await;
    drill.streams(&stream, "while it is cut off", 100).await;
    let still = drill.network.client(holder)?.topic(stream.topic).await.is_ok_and(|view| view.publishes_here);
    drill.check("it has stopped by itself", !still, format!("publishes: {still}"));
    drill.network.join(holder);
    drill.streams(&stream, "after it came back", 100).await;
    drill.end_stream(&stream).await
}

/// H12: whoever publishes and whoever leads the view, in one moment.
pub(super) async fn holder_and_active_killed(drill: &mut Drill) -> Result<(), Failure> {
    let (stream, holder, fence) = drill.stream().await?;
    let active = drill.primary().await?;
    let lost: Vec<_> = BTreeSet::from([holder, active.node]).into_iter().collect();
    let begun = Instant::now();
    drill.kill_all(&lost).await?;
    drill.recovery_ms = drill.published_again(&stream, fence, begun).await;
    drill.streams(&stream, "after they died", 100).await;
    drill.start_all(&lost).await?;
    drill.end_stream(&stream).await
}

/// H13 in the small: one holder after the other is killed, and the one before comes back; fences rise by one each time.
pub(super) async fn two_standbys_race(drill: &mut Drill) -> Result<(), Failure> {
    let (stream, ..) = drill.stream().await?;
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
    drill.end_stream(&stream).await
}

/// A new epoch begins: its seats prove who publishes, and terminals believe no older ones; then whoever publishes is killed while the next epoch begins.
pub(super) async fn publishers_reconfigured(drill: &mut Drill) -> Result<(), Failure> {
    let (stream, ..) = drill.stream().await?;
    epochs::another_epoch(drill).await?;
    drill.proven_in(&stream, Epoch(1)).await;
    drill.streams(&stream, "in the next epoch", 100).await;
    let (holder, fence) = drill.publishing(stream.topic).await?;
    epochs::order_another_epoch(drill).await?;
    let begun = Instant::now();
    drill.network.kill(holder).await?;
    drill.recovery_ms = drill.published_again(&stream, fence, begun).await;
    drill.streams(&stream, "after it died", 100).await;
    epochs::in_epoch(drill, Epoch(2), Some(holder)).await?;
    drill.proven_in(&stream, Epoch(2)).await;
    drill.start_all(&[holder]).await?;
    drill.end_stream(&stream).await
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
    let (stream, ..) = drill.stream().await?;
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
    drill.end_stream(&stream).await
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

/// H16: a server lives, renews its leases, and publishes nothing.
pub(super) async fn publisher_stalled(drill: &mut Drill) -> Result<(), Failure> {
    let (stream, idle, fence) = drill.stream().await?;
    let killed = Instant::now();
    drill.network.kill(idle).await?;
    // Started sooner it would still be the owner, of a lock that is lost.
    drill.published_again(&stream, fence, killed).await;
    drill.network.start_node_with(idle, &["--misbehave", "stalled-publisher"])?;
    drill.network.wait_ready(SOON).await?;
    let fence = drill.published_by(stream.topic, idle).await?;
    let begun = Instant::now();
    drill.recovery_ms = drill.published_again(&stream, fence, begun).await;
    let holdings = drill.network.client(idle)?.holdings(stream.topic, None).await?;
    let ended = holdings.iter().find(|holding| holding.fence == fence).and_then(|holding| holding.ended);
    drill.check("its lock was released since it had stalled", ended == Some(Reason::Stalled), format!("{ended:?}"));
    drill.streams(&stream, "after it stalled", 100).await;
    drill.network.kill(idle).await?;
    drill.start_all(&[idle]).await?;
    drill.end_stream(&stream).await
}

/// H4: several sources push to one topic without a pause, while whoever publishes is killed, and the node that they push through.
pub(super) async fn pushes_during_failover(drill: &mut Drill) -> Result<(), Failure> {
    let stream = Stream::start(drill, "stream", 3, drill.network.clients().to_vec())?;
    drill.streams(&stream, "before", 200).await;
    let mut worst = 0;
    for round in 1..=3 {
        let (holder, fence) = drill.publishing(stream.topic).await?;
        // Sources begin at the first node.
        let lost: Vec<_> = BTreeSet::from([holder, 0]).into_iter().take(if round == 2 { 2 } else { 1 }).collect();
        let lost = if lost.contains(&holder) { lost } else { vec![holder] };
        let begun = Instant::now();
        drill.kill_all(&lost).await?;
        worst = drill.published_again(&stream, fence, begun).await.unwrap_or(u64::MAX).max(worst);
        drill.streams(&stream, &format!("after round {round}"), 200).await;
        drill.start_all(&lost).await?;
        drill.made_whole().await?;
    }
    drill.recovery_ms = Some(worst);
    drill.end_stream(&stream).await
}

/// H6: every connection of the terminals breaks, again and again and anywhere, while whoever publishes is killed.
pub(super) async fn terminal_reconnects(drill: &mut Drill) -> Result<(), Failure> {
    let (torn, clients) = Torn::before(drill.network.clients()).await?;
    let stream = Stream::start(drill, "stream", 1, clients)?;
    drill.streams(&stream, "before", 200).await;
    let (holder, fence) = drill.publishing(stream.topic).await?;
    let begun = Instant::now();
    drill.network.kill(holder).await?;
    drill.recovery_ms = drill.published_again(&stream, fence, begun).await;
    drill.streams(&stream, "after it died", 500).await;
    let broken = torn.broken();
    drill.check("connections broke", broken >= 20, format!("{broken}"));
    drill.start_all(&[holder]).await?;
    torn.mend();
    drill.end_stream(&stream).await
}

/// H18: a terminal comes back after what it needs has been forgotten everywhere: it is told so, and what is left.
pub(super) async fn terminal_behind_retention(drill: &mut Drill) -> Result<(), Failure> {
    let (stream, ..) = drill.stream().await?;
    let (topic, nodes) = (topic_named("large")?, drill.network.clients().to_vec());
    let key = drill.network.client_key()?;
    let (genesis, failed) = (drill.network.files().genesis.clone(), |why: String| Failure::new(1, why));
    let begun = Publisher::begin(nodes.clone(), topic, key, micros(), SourceConfig::default()).await;
    let mut source = begun.map_err(|error| failed(error.to_string()))?;
    let mut push = async |count: u64| {
        for _ in 0..count {
            let value = vec![b'x'; LARGE_BYTES].into();
            source.push(Datum { id: Default::default(), value }).map_err(|error| failed(error.to_string()))?;
        }
        while source.waiting() > 0 {
            source.acknowledged().await.map_err(|error| failed(error.to_string()))?;
        }
        Ok::<_, Failure>(())
    };
    push(4).await?;
    drill.published_up_to(topic, Sequence(4)).await?;
    let follow = |begin| Terminal::begin(nodes.clone(), genesis.clone(), topic, begin);
    let position = next_delivered(&mut follow(Begin::At(Sequence(1)))).await?.1;
    // Several times as much as the journals hold.
    push(120).await?;
    drill.published_up_to(topic, Sequence(124)).await?;
    let mut late = follow(Begin::Behind(position));
    let refused = loop {
        match tokio::time::timeout(SOON, late.next()).await {
            Ok(Ok(Notice::Takeover { .. } | Notice::Renewed { .. })) => {}
            Ok(Err(error)) => break Some(error),
            _ => break None,
        }
    };
    let told = format!("{refused:?}");
    let Some(FollowError::Forgotten { next, first }) = refused else {
        drill.check("it is told that data are forgotten", false, told);
        return Ok(());
    };
    let is_right = Some(next) == position.last.next() && first > next;
    drill.check(
        "it is told what is forgotten and what is left",
        is_right,
        format!("needs {next}, {first} is the first"),
    );
    let (found, _) = next_delivered(&mut follow(Begin::At(first))).await?;
    drill.check("it goes on with what is left", found >= first, format!("{found}"));
    drill.streams(&stream, "for all others", 100).await;
    drill.end_stream(&stream).await
}

/// The first datum of the next frame that a terminal has, and where it stands behind that.
async fn next_delivered(terminal: &mut Terminal) -> Result<(Sequence, Position), Failure> {
    loop {
        let next = tokio::time::timeout(SOON, terminal.next()).await;
        match next.map_err(|_| Failure::new(5, "nothing comes to a terminal"))? {
            Ok(Notice::Delivered(delivered)) => return Ok((delivered.entry.first, delivered.position)),
            Ok(_) => {}
            Err(error) => return Err(Failure::new(1, error.to_string())),
        }
    }
}

/// H7: the disk of whoever publishes is full: it stops in order, another one goes on, and nothing is missing.
pub(super) async fn disk_full_at_holder(drill: &mut Drill) -> Result<(), Failure> {
    let (stream, ..) = drill.stream().await?;
    let fence = drill.published_by(stream.topic, VICTIM).await?;
    drill.streams(&stream, "from the small disk", 50).await;
    let filler = drill.network.data(VICTIM).join("filler");
    let begun = Instant::now();
    disks::fill(&filler, DEMO_RESERVE_BYTES / 2)?;
    drill.recovery_ms = drill.published_again(&stream, fence, begun).await;
    disks::ended_for_want_of_space(drill, "below the reserve the node stops in order and says why").await;
    drill.streams(&stream, "after its disk was full", 100).await;
    disks::restart_with_space(drill, &filler).await?;
    drill.made_whole().await?;
    let fence = drill.published_by(stream.topic, VICTIM).await?;
    // Faster than any look at the free space.
    disks::fill(&filler, 0)?;
    drill.published_again(&stream, fence, Instant::now()).await;
    drill.streams(&stream, "after there was no space at all", 100).await;
    drill.network.kill(VICTIM).await?;
    disks::restart_with_space(drill, &filler).await?;
    drill.end_stream(&stream).await
}

/// The lock stands in an etcd: hand-overs are as on the chain; while etcd is away, what is pushed waits, and is published when it is back.
pub(super) async fn lock_in_etcd(drill: &mut Drill) -> Result<(), Failure> {
    let topic = topic_named("stream")?;
    let settings = Settings { outside: true, ..Settings::default() };
    drill.order_of_topics(vec![TopicChange::Set(topic, settings)]).await?;
    let (stream, holder, fence) = drill.stream().await?;
    let begun = Instant::now();
    drill.network.kill(holder).await?;
    drill.recovery_ms = drill.published_again(&stream, fence, begun).await;
    drill.streams(&stream, "after it died", 100).await;
    drill.start_all(&[holder]).await?;
    drill.made_whole().await?;

    let (holder, fence) = drill.publishing(topic).await?;
    drill.network.freeze(holder)?;
    drill.published_again(&stream, fence, Instant::now()).await;
    drill.streams(&stream, "while it is frozen", 100).await;
    drill.network.thaw(holder)?;
    drill.streams(&stream, "after it woke up", 100).await;

    let (holder, _) = drill.publishing(topic).await?;
    drill.etcd()?.kill().await?;
    let client = drill.network.client(holder)?.clone();
    let begun = Instant::now();
    while client.topic(topic).await?.publishes_here && begun.elapsed() < SOON {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let still = client.topic(topic).await?.publishes_here;
    let detail = format!("publishes: {still}, after {} ms", begun.elapsed().as_millis());
    drill.check("without the etcd it stops when its lease is over", !still, detail);
    let (before, seen) = (stream.acknowledged(), stream.common());
    drill.progress("of the chain without the etcd", 300, SOON).await;
    let (waits, more) = (stream.acknowledged() - before, stream.common() - seen);
    drill.check("pushes are queued without the etcd", waits > 50 && more < 50, format!("{waits} queued, {more} came"));
    // Whoever had it may go on under its fence, if nobody has missed it.
    drill.etcd()?.start_again().await?;
    drill.streams(&stream, "after the etcd came back", 100).await;
    drill.end_stream(&stream).await
}

impl Drill {
    fn etcd(&mut self) -> Result<&mut super::Etcd, Failure> {
        self.etcd.as_mut().ok_or_else(|| Failure::new(1, "the drill has no etcd"))
    }

    /// Has operators order something of topics.
    async fn order_of_topics(&mut self, changes: Vec<TopicChange>) -> Result<(), Failure> {
        let (operator, client) = (self.operator_key()?, self.network.client(0)?.clone());
        let (chain, number) = (client.genesis().await?.digest(), client.topics().await?.orders);
        let order = Draft::Topics(Approved::draft(TopicOrder { chain, number, changes })).by(&operator);
        order.submit(Some(&client), None, &operator).await
    }

    /// Has operators take a topic's lock away until this node gets it; gives its fence.
    async fn published_by(&mut self, topic: Topic, node: usize) -> Result<Fence, Failure> {
        let (begun, mut rounds) = (Instant::now(), 0);
        let client = self.network.client(node)?.clone();
        while begun.elapsed() < WON_WITHIN {
            let (holder, fence) = self.publishing(topic).await?;
            if holder == node {
                let detail = format!("after {rounds} orders, in {} ms", begun.elapsed().as_millis());
                self.check("the lock is where the drill wants it", true, detail);
                return Ok(fence);
            }
            rounds += 1;
            // It may have changed hands meanwhile: then at the next look.
            if self.order_of_topics(vec![TopicChange::Release(topic, fence)]).await.is_ok() {
                while client.topic(topic).await?.fence == fence && begun.elapsed() < WON_WITHIN {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
        Err(Failure::new(1, format!("{} does not get the lock of topic {topic}", self.network.name(node))))
    }

    /// Waits until the chain says that a topic was published up to a datum, at every node.
    async fn published_up_to(&mut self, topic: Topic, upto: Sequence) -> Result<(), Failure> {
        let begun = Instant::now();
        for node in 0..self.network.size() {
            let client = self.network.client(node)?.clone();
            // A node that is a little behind does not know the topic yet.
            while client.topic(topic).await.map_or(Sequence(0), |view| view.published) < upto {
                if begun.elapsed() > SOON {
                    return Err(Failure::new(5, format!("topic {topic} is not published up to {upto}")));
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        Ok(())
    }
}
