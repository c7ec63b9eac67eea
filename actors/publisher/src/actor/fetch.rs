//! Frames that wait to be published, and that this server's blocks do not have: after a snapshot it gets them from other servers.
//!
//! Whom they come from does not matter: the chain has the hash of each, and they are taken from the end of the queue on, so that they connect. What was not asked
//! for is not looked at.

use std::collections::{BTreeMap, BTreeSet};

use standin_foundation::{Millis, NodeId};
use standin_stage::{Ctx, Handle, Lane, Message, Reply};

use super::{Publisher, WANTED_EVERY, clock};
use crate::frame::Content;
use crate::ids::{Sequence, Topic};
use crate::messages::{FRAMES_AT_ONCE_MAX, FRAMES_BYTES_MAX, Frames, WantFrames};

/// Which topic is asked for, and whom.
#[derive(Debug, Default)]
pub(super) struct Fetch {
    /// What was asked for and has not come counts on: the next try is of another topic, and then goes to another server.
    tries: usize,
    /// When somebody was asked last.
    last: Option<Millis>,
    /// Who was asked for frames of which topic, and when: an answer may be long under way.
    open: BTreeMap<(NodeId, Topic), Millis>,
    /// Whom frames were given: since when, and how often.
    gave: BTreeMap<NodeId, (Millis, u32)>,
}

/// An answer that has not come after this time, in ms, does not count any more.
const OPEN_MS: u64 = 30_000;
/// One server is given frames so often in a time of so many ms: files are read for each.
const GIVEN: (u32, u64) = (16, 100);

impl Publisher {
    /// Asks another server for frames of a topic that is lacking some.
    pub(super) fn want_frames(&mut self, lacks: &BTreeSet<Topic>) {
        let now = clock::now();
        let is_early = self.fetch.last.is_some_and(|at| now < at + WANTED_EVERY.as_millis() as u64);
        // What is still to come from its own blocks is not asked for.
        if lacks.is_empty() || is_early || self.leaves || !self.is_current() {
            return;
        }
        let others: Vec<_> = self.surroundings.others().into_iter().filter(|(_, is_up)| *is_up).collect();
        let topic = lacks.iter().nth(self.fetch.tries % lacks.len()).copied();
        let other = others.get(self.fetch.tries / lacks.len() % others.len().max(1));
        let (Some(topic), Some((other, _))) = (topic, other) else { return };
        let frames = self.missing(topic);
        if !frames.is_empty() {
            self.fetch.last = Some(now);
            self.fetch.open.retain(|_, at| now < *at + OPEN_MS);
            self.fetch.open.insert((*other, topic), now);
            self.surroundings.want_frames(*other, &WantFrames { topic, frames });
        }
        self.fetch.tries = self.fetch.tries.wrapping_add(1);
    }

    /// The first data of the frames that are to be asked for next: the newest first, since each has to connect to what is there.
    fn missing(&self, topic: Topic) -> Vec<Sequence> {
        let view = self.server.as_ref().and_then(|(server, _)| server.view().get(topic));
        let kept = self.journal.range(topic).map(|(first, _)| first);
        let firsts = view.into_iter().flat_map(|view| view.waiting.keys().rev()).copied();
        firsts.filter(|first| kept.is_none_or(|kept| *first < kept)).take(FRAMES_AT_ONCE_MAX).collect()
    }

    /// Takes the frames that are those of the chain; gives how many.
    fn take_frames(&mut self, Frames { topic, frames }: Frames) -> usize {
        let view = self.server.as_ref().and_then(|(server, _)| server.view().get(topic));
        let Some(view) = view else { return 0 };
        let (mut taken, last) = (0, view.last());
        for (first, bytes) in frames.into_iter().take(FRAMES_AT_ONCE_MAX) {
            let entry = view.waiting.get(&first);
            let content = Content::parse(bytes).ok();
            let sound = entry.zip(content).filter(|(entry, content)| content.hash() == entry.content);
            let Some((entry, content)) = sound else { break };
            match self.journal.put_before(topic, (entry, last), &content) {
                Ok(true) => taken += 1,
                Ok(false) => {}
                Err(error) => {
                    // As when it cannot keep the frames of its blocks.
                    tracing::error!(%error, "the journal cannot be written: this node publishes nothing until it is started again");
                    self.leaves = true;
                    break;
                }
            }
        }
        taken
    }
}

/// Another server wants frames.
#[derive(Debug)]
pub struct FramesWanted {
    /// Which.
    pub by: NodeId,
    /// These.
    pub frames: WantFrames,
}

impl Message for FramesWanted {
    type Reply = ();
    const LANE: Lane = Lane::Bulk;

    fn bytes(&self) -> usize {
        self.frames.bytes()
    }
}

impl Handle<FramesWanted> for Publisher {
    fn handle(&mut self, FramesWanted { by, frames: wanted }: FramesWanted, _: Reply<()>, _: &mut Ctx<Self>) {
        let now = clock::now();
        self.fetch.gave.retain(|_, (since, _)| now < *since + GIVEN.1);
        let (_, given) = self.fetch.gave.entry(by).or_insert((now, 0));
        *given += 1;
        if self.surroundings.seat_of(&by).is_none() || *given > GIVEN.0 {
            // Whoever has no answer asks again, or another one.
            return;
        }
        let (topic, mut frames, mut bytes) = (wanted.topic, Vec::new(), 0);
        for first in wanted.frames.into_iter().take(FRAMES_AT_ONCE_MAX) {
            // What it does not have, or cannot read, another one may.
            let Ok(Some((_, content))) = self.journal.frame(topic, first) else { break };
            bytes += content.bytes().len();
            if bytes > FRAMES_BYTES_MAX {
                break;
            }
            frames.push((first, content.bytes().clone()));
        }
        if !frames.is_empty() {
            self.surroundings.give_frames(by, &Frames { topic, frames });
        }
    }
}

/// Another server gives frames.
#[derive(Debug)]
pub struct FramesGiven {
    /// Which.
    pub by: NodeId,
    /// What it gives.
    pub frames: Frames,
}

impl Message for FramesGiven {
    type Reply = ();
    const LANE: Lane = Lane::Bulk;

    fn bytes(&self) -> usize {
        self.frames.bytes()
    }
}

impl Handle<FramesGiven> for Publisher {
    fn handle(&mut self, FramesGiven { by, frames }: FramesGiven, _: Reply<()>, ctx: &mut Ctx<Self>) {
        let topic = frames.topic;
        let is_asked = self.fetch.open.remove(&(by, topic)).is_some();
        if !is_asked || self.leaves || !self.is_current() {
            return;
        }
        let bytes: usize = frames.frames.iter().map(|(_, bytes)| bytes.len()).sum();
        let taken = self.take_frames(frames);
        if taken > 0 {
            tracing::info!(%topic, frames = taken, "frames that wait were fetched from another node");
            if taken >= FRAMES_AT_ONCE_MAX / 2 || bytes >= FRAMES_BYTES_MAX / 2 {
                // Whoever had so many has the ones before them, too.
                self.fetch.tries = self.fetch.tries.wrapping_sub(1);
            }
            self.fetch.last = None;
            self.look(ctx);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use bytes::Bytes;
    use standin_foundation::{Digest, Epoch, Height, Seat, SecretKey};
    use standin_ledger::log::LogOptions;
    use standin_stage::{Address, Cell, MailboxLimits, Supervision};

    use super::super::{Begin, Board, Followed, Happened, Journal, LockStore, NoLockStore, Surroundings};
    use super::*;
    use crate::config::Config;
    use crate::frame::Entry;
    use crate::frame::tests::content;
    use crate::machine::view::View;
    use crate::machine::witness::Word;
    use crate::messages::{Event, Instruction, Takeover, WantWords, Words};

    type Servers = Arc<Mutex<Vec<(NodeId, Address<Publisher>)>>>;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Lies {
        No,
        /// It gives false data.
        Data,
        /// It gives frames of the chain, but of the middle, and without being asked, too.
        Order,
    }

    /// A server among others that are reached at once; what one of them gives may be false.
    #[derive(Clone)]
    struct Among {
        own: NodeId,
        servers: Servers,
        lies: Lies,
        locks: Arc<NoLockStore>,
    }

    impl Among {
        fn tell<M: Message<Reply = ()>>(&self, to: NodeId, message: M)
        where
            Publisher: Handle<M>,
        {
            let servers = self.servers.lock().unwrap();
            let (_, address) = servers.iter().find(|(node, _)| *node == to).unwrap();
            address.tell(message).unwrap();
        }
    }

    impl Surroundings for Among {
        fn submit(&self, _: Instruction) {}
        fn lock_store(&self) -> &dyn LockStore {
            &*self.locks
        }
        fn others(&self) -> Vec<(NodeId, bool)> {
            let servers = self.servers.lock().unwrap();
            servers.iter().filter(|(node, _)| *node != self.own).map(|(node, _)| (*node, true)).collect()
        }
        fn speaks(&self) -> bool {
            false
        }
        fn serves(&self) -> bool {
            false
        }
        fn epoch(&self) -> Epoch {
            Epoch(0)
        }
        fn seats(&self, _: Epoch) -> Option<usize> {
            Some(4)
        }
        fn word(&self, _: &Takeover, _: Option<&Word>) -> Option<Word> {
            None
        }
        fn seat_of(&self, _: &NodeId) -> Option<Seat> {
            Some(Seat(0))
        }
        fn is_sound(&self, _: &Word) -> bool {
            false
        }
        fn say(&self, _: Option<NodeId>, _: &Words) {}
        fn want(&self, _: &WantWords) {}
        fn want_frames(&self, from: NodeId, wanted: &WantFrames) {
            self.tell(from, FramesWanted { by: self.own, frames: wanted.clone() });
        }
        fn give_frames(&self, to: NodeId, given: &Frames) {
            let mut frames = given.clone();
            match self.lies {
                Lies::No => {}
                Lies::Data => {
                    frames.frames.iter_mut().for_each(|(_, bytes)| *bytes = content(&["false"]).bytes().clone());
                }
                Lies::Order => frames.frames.reverse(),
            }
            self.tell(to, FramesGiven { by: self.own, frames });
        }
        fn tell(&self, _: Happened) {}
    }

    /// A queue of frames that nobody has published.
    fn queue(topic: Topic, count: u64) -> Vec<(Topic, Entry, Content)> {
        let mut before = Digest::ZERO;
        let frame = |n| {
            let content = content(&[&format!("{n}-{}", "x".repeat(9_000))]);
            let entry = Entry::following(&before, Sequence(n), &content).unwrap();
            before = entry.chain;
            (topic, entry, content)
        };
        (1..=count).map(frame).collect()
    }

    async fn serve(servers: &Servers, number: u8, folder: &Path, lies: Lies) -> (Cell<Publisher>, Journal) {
        let key = SecretKey::from_bytes(&[number; 32]).unwrap().public();
        let options = LogOptions { segment_bytes: 1 << 20, chain: Digest::ZERO };
        let journal = Journal::open(&folder.join(number.to_string()), options, 1 << 24).unwrap();
        let among =
            Among { own: key.node_id(), servers: Arc::clone(servers), lies, locks: Arc::<NoLockStore>::default() };
        let made_of = journal.clone();
        let make = move |_| {
            Publisher::new((key, Config::default()), (made_of.clone(), Board::default()), Box::new(among.clone()))
        };
        let cell = Cell::spawn("publisher", Supervision::default(), MailboxLimits::default(), make);
        servers.lock().unwrap().push((key.node_id(), cell.address().clone()));
        (cell, journal)
    }

    /// One that knows of a queue by a snapshot alone has all of it from others, whatever a false one gives, and goes on with what comes.
    #[actix::test]
    async fn frames_that_a_snapshot_does_not_have_come_from_others_and_only_those_of_the_chain() {
        let (folder, servers, topic) = (tempfile::tempdir().unwrap(), Servers::default(), "t".parse().unwrap());
        let frames = queue(topic, 200);
        let mut view = View::default();
        let events: Vec<_> = frames.iter().map(|(_, entry, _)| Event::Queued { topic, entry: *entry }).collect();
        view.note(&Event::Set { topic, outside: false });
        events.iter().take(150).for_each(|event| _ = view.note(event));

        let mut cells = Vec::new();
        for (number, lies) in [(1, Lies::Data), (2, Lies::Order), (4, Lies::No)] {
            let (cell, _) = serve(&servers, number, folder.path(), lies).await;
            let within = Duration::from_secs(10);
            cell.address().ask(Begin { view: View::default(), height: Height(0) }, within).await.unwrap();
            let (events, frames) = (events.clone(), frames.clone());
            cell.address().ask(Followed { height: Height(1), events, frames }, within).await.unwrap().unwrap();
            cells.push(cell);
        }
        let (cell, journal) = serve(&servers, 3, folder.path(), Lies::No).await;
        journal.restart_at(Height(9)).unwrap();
        cell.address().ask(Begin { view, height: Height(9) }, Duration::from_secs(10)).await.unwrap();
        // What nobody asked for is not taken, also where it is true.
        let by = servers.lock().unwrap()[2].0;
        let (_, middle, of_middle) = frames[70].clone();
        let unasked = Frames { topic, frames: vec![(middle.first, of_middle.bytes().clone())] };
        cell.address().tell(FramesGiven { by, frames: unasked }).unwrap();
        // A part of the queue comes in blocks of its own meanwhile.
        let (events, newer) = (events[150..].to_vec(), frames[150..].to_vec());
        let followed = Followed { height: Height(10), events, frames: newer };
        cell.address().ask(followed, Duration::from_secs(10)).await.unwrap().unwrap();

        let all = async {
            let mut interval = tokio::time::interval(Duration::from_millis(2));
            while journal.range(topic) != Some((Sequence(1), Sequence(200))) {
                interval.tick().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), all).await.expect("all frames come");
        for (_, entry, content) in &frames {
            assert_eq!(journal.frame(topic, entry.first).unwrap(), Some((*entry, content.clone())));
        }
        cells.push(cell);
        cells.iter().for_each(Cell::stop);
        drop(journal);
        let options = LogOptions { segment_bytes: 1 << 20, chain: Digest::ZERO };
        let journal = Journal::open(&folder.path().join("3"), options, 1 << 24).unwrap();
        assert_eq!(journal.range(topic), Some((Sequence(1), Sequence(200))), "and are kept");
    }

    #[test]
    fn an_answer_fits_its_message() {
        use standin_foundation::wire::Wire as _;

        let topic = "t".repeat(26).parse().unwrap();
        let each = FRAMES_BYTES_MAX / FRAMES_AT_ONCE_MAX;
        let frames = vec![(Sequence(u64::MAX), Bytes::from(vec![0; each])); FRAMES_AT_ONCE_MAX];
        assert!(Frames { topic, frames }.to_wire().is_ok());
        let wanted = WantFrames { topic, frames: vec![Sequence(u64::MAX); FRAMES_AT_ONCE_MAX] };
        assert!(wanted.to_wire().is_ok());
        const { assert!(FRAMES_BYTES_MAX >= crate::frame::PUSH_BYTES_MAX, "the largest fits") };
    }
}
