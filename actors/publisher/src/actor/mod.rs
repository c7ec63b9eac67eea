//! The publisher of a node: it follows the chain, keeps the frames, and carries out what the [`Server`] decides.

mod board;
mod clock;
#[cfg(feature = "etcd")]
pub mod etcd;
mod fetch;
mod journal;
mod locks;
mod recent;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use actix::AsyncContext;
use standin_foundation::{Epoch, Height, Millis, NodeId, PublicKey, Seat};
use standin_ledger::log::LogError;
use standin_stage::bridge::Router;
use standin_stage::{Address, Alarm, Ctx, Handle, Lane, Message, Reply, Role};

pub use board::{Board, Counted, Seated, Standing};
pub use fetch::{FramesGiven, FramesWanted};
pub use journal::Journal;
pub use locks::{LockStore, NoLockStore, OutsideListed, OutsideSaid};

use crate::config::Config;
use crate::frame::{Content, Entry};
use crate::ids::{Fence, Topic};
use crate::machine::lock::Reason;
use crate::machine::server::{Effect, Input, Server};
use crate::machine::view::{TopicView, View};
use crate::machine::witness::{Witnesses, Word};
use crate::messages::{AT_ONCE_MAX, Event, Frames, Instruction, Takeover, WantFrames, WantWords, Words};
use fetch::Fetch;

/// How often the other servers, and this node's own part, are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Words that are missing are asked for again after this time.
const WANTED_EVERY: Duration = Duration::from_millis(100);

/// What the actor needs of the node around it.
pub trait Surroundings: 'static {
    /// Has an instruction ordered, signed with the node's key. It must not block; what comes of it, the chain's events tell.
    fn submit(&self, instruction: Instruction);
    /// Where locks stand that are not on the chain.
    fn lock_store(&self) -> &dyn LockStore;
    /// The other servers, and whether they can be reached.
    fn others(&self) -> Vec<(NodeId, bool)>;
    /// Whether this node speaks for its seat.
    fn speaks(&self) -> bool;
    /// Whether this node may publish: it is in service, and not about to stop.
    fn serves(&self) -> bool;
    /// The newest epoch that is known.
    fn epoch(&self) -> Epoch;
    /// How many seats there are in an epoch, as far as is known.
    fn seats(&self, epoch: Epoch) -> Option<usize>;
    /// This seat's word for a takeover, if this node speaks for it, and unless `known` is of now already.
    fn word(&self, takeover: &Takeover, known: Option<&Word>) -> Option<Word>;
    /// The seat that a node is a member of.
    fn seat_of(&self, node: &NodeId) -> Option<Seat>;
    /// Whether another seat has said this.
    fn is_sound(&self, word: &Word) -> bool;
    /// Tells another server, or all of them.
    fn say(&self, to: Option<NodeId>, words: &Words);
    /// Asks all other servers for their seats' words.
    fn want(&self, words: &WantWords);
    /// Asks another server for frames.
    fn want_frames(&self, from: NodeId, wanted: &WantFrames);
    /// Gives frames to another server.
    fn give_frames(&self, to: NodeId, given: &Frames);
    /// Something happened that people want to see.
    fn tell(&self, happened: Happened);
}

/// Something that people want to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    /// The chain did this.
    Event(Event),
    /// This server publishes a topic from now on.
    Begun {
        /// What it takes over.
        takeover: Takeover,
        /// Who lost the lock before, why, and how long ago, in ms.
        after: Option<(PublicKey, Reason, u64)>,
    },
}

/// The actor.
pub struct Publisher {
    key: PublicKey,
    config: Config,
    surroundings: Box<dyn Surroundings>,
    journal: Journal,
    board: Board,
    /// None until it knows what the chain's state says; with the height of that.
    server: Option<(Server, Height)>,
    others: Vec<(NodeId, bool)>,
    /// Whether it speaks for its seat, whether it serves, and what it lacks.
    part: (bool, bool, BTreeSet<Topic>),
    /// What seats say of takeovers.
    witnesses: Witnesses,
    /// The locks that are held in the lock service outside the chain, as it listed them last.
    listed: Option<OutsideListed>,
    /// Locks that are free: who lost them, why, and when.
    released: BTreeMap<Topic, (PublicKey, Reason, Millis)>,
    /// The seat for which this node has given its word.
    own: Option<Seat>,
    /// When missing words were asked for last.
    wanted: Option<Millis>,
    /// The newest block that it has been told of, or that its state is of.
    followed: Height,
    /// The journal has been held against the chain since it came so far.
    compared: bool,
    /// Topics of which the board says that data are missing here.
    told_lacks: BTreeSet<Topic>,
    /// How frames that it lacks are asked for.
    fetch: Fetch,
    /// It publishes nothing any more: it cannot keep frames, or the node stops.
    leaves: bool,
    alarm: Alarm,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Publisher {
    /// A publisher that does nothing until it is told to [`Begin`].
    pub fn new(
        (key, config): (PublicKey, Config),
        (journal, board): (Journal, Board),
        surroundings: Box<dyn Surroundings>,
    ) -> Self {
        let (server, others, part, alarm) = (None, Vec::new(), (false, false, BTreeSet::new()), Alarm::default());
        let (witnesses, leaves) = (Witnesses::default(), false);
        Self {
            key,
            config,
            surroundings,
            journal,
            board,
            server,
            others,
            part,
            witnesses,
            listed: None,
            released: BTreeMap::new(),
            own: None,
            wanted: None,
            followed: Height(0),
            compared: false,
            told_lacks: BTreeSet::new(),
            fetch: Fetch::default(),
            leaves,
            alarm,
        }
    }

    /// The topics of which the journal does not have all frames that wait to be published.
    fn lacks(&self) -> BTreeSet<Topic> {
        let Some((server, _)) = &self.server else { return BTreeSet::new() };
        server.view().iter().filter(|(topic, view)| self.lacks_of(*topic, view)).map(|(topic, _)| topic).collect()
    }

    fn lacks_of(&self, topic: Topic, view: &TopicView) -> bool {
        let Some(first) = view.waiting.keys().next() else { return false };
        !self.journal.range(topic).is_some_and(|(from, last)| from <= *first && last >= view.last())
    }

    /// Whether the journal is where this actor is: not when it has blocks to take in, and not when it has begun anew.
    fn is_current(&self) -> bool {
        self.server.is_some() && self.journal.height() == self.followed
    }

    /// Once the journal has come to where the chain is, what it has of topics has to reach the ends of their queues.
    fn compare(&mut self) {
        if self.compared || !self.is_current() {
            return;
        }
        self.compared = true;
        if let Some((server, _)) = &self.server {
            self.journal.keep_whole(|topic| server.view().get(topic).map(TopicView::last).unwrap_or_default());
        }
        let lacks = self.lacks();
        if !lacks.is_empty() {
            let topics: Vec<_> = lacks.iter().map(Topic::as_str).collect();
            tracing::warn!(
                topics = topics.join(" "),
                "frames that wait to be published are not here: they are fetched from other nodes"
            );
        }
    }

    fn step(&mut self, input: Input, ctx: &mut Ctx<Self>) {
        let now = clock::now();
        let Some((server, _)) = &mut self.server else { return };
        let (effects, next) = server.step(now, input);
        for effect in effects {
            match effect {
                Effect::Submit(instruction) => self.surroundings.submit(instruction),
                Effect::Outside { topic, ask } => self.surroundings.lock_store().ask(topic, ask),
                Effect::Begin(takeover) => {
                    let after = self.released.remove(&takeover.topic);
                    let after = after.map(|(owner, reason, at)| (owner, reason, now - at));
                    self.surroundings.tell(Happened::Begun { takeover, after });
                }
                // The board tells sessions of both.
                Effect::Publish { topic, .. } | Effect::End { topic, .. } => self.show(topic),
            }
        }
        if let Some(next) = next {
            self.alarm.set(next, now, ctx, Self::ring);
        }
    }

    fn ring(&mut self, ctx: &mut Ctx<Self>) {
        self.alarm.rang();
        self.step(Input::Tick, ctx);
    }

    fn show(&mut self, topic: Topic) {
        let Some((server, _)) = &self.server else { return };
        let Some(view) = server.view().get(topic) else { return };
        let own = server.publishes(topic).map(|(until, _, upto)| (until, upto));
        let seats = |epoch| self.surroundings.seats(epoch);
        let proof = view.takeover.as_ref().and_then(|takeover| self.witnesses.proof(takeover, seats));
        let TopicView { takeover, held, published, .. } = *view;
        // What its own blocks still have to give it is not missing.
        let lacks = self.is_current() && self.lacks_of(topic, view);
        let standing = Standing { takeover, proof, held, queued: view.last(), published, own, lacks };
        self.board.set(topic, standing);
    }

    /// Gives this seat's words for takeovers, if it speaks for its seat.
    fn words(&mut self, takeovers: impl IntoIterator<Item = Takeover>) -> Words {
        let mut words = Vec::new();
        for takeover in takeovers {
            let known = self.own.and_then(|seat| self.witnesses.word(seat, takeover.topic));
            let known = known.filter(|known| known.takeover == takeover);
            let Some(word) = self.surroundings.word(&takeover, known) else {
                words.extend(known.cloned());
                continue;
            };
            self.own = Some(word.witness.seat);
            self.witnesses.note(word.clone());
            words.push(word);
        }
        Words(words)
    }

    /// The chain has granted a lock: this seat says so to whoever asks, and to all others at once.
    fn witness(&mut self, takeover: Takeover) {
        let words = self.words([takeover]);
        if !words.0.is_empty() {
            self.surroundings.say(None, &words);
        }
    }

    /// Asks for words that are missing.
    fn want_words(&mut self) {
        let now = clock::now();
        let Some((server, _)) = &self.server else { return };
        let is_early = self.wanted.is_some_and(|at| now < at + WANTED_EVERY.as_millis() as u64);
        let takeovers = server.view().iter().filter_map(|(_, view)| view.takeover);
        // Each epoch's seats prove what stands anew: terminals believe no older ones.
        let (epoch, witnesses) = (self.surroundings.epoch(), &self.witnesses);
        let missing: Vec<_> =
            takeovers.filter(|takeover| !witnesses.has_proof(takeover.topic, takeover.fence, epoch)).collect();
        if missing.is_empty() || is_early {
            return;
        }
        self.wanted = Some(now);
        for part in missing.chunks(AT_ONCE_MAX) {
            self.surroundings.want(&WantWords(part.iter().map(|missing| (missing.topic, missing.fence)).collect()));
        }
        // Its own, too: it may have come to speak for its seat only now.
        self.words(missing.iter().copied());
        missing.iter().for_each(|missing| self.show(missing.topic));
    }

    /// Looks at what nobody tells.
    fn look(&mut self, ctx: &mut Ctx<Self>) {
        self.want_words();
        let others = self.surroundings.others();
        for (server, is_up) in others.iter().copied().filter(|other| !self.others.contains(other)).collect::<Vec<_>>() {
            self.step(Input::Link { server, is_up }, ctx);
        }
        self.others = others;
        self.compare();
        let lacks = self.lacks();
        let told = if self.is_current() { lacks.clone() } else { BTreeSet::new() };
        let before = std::mem::replace(&mut self.told_lacks, told.clone());
        before.symmetric_difference(&told).for_each(|topic| self.show(*topic));
        self.want_frames(&lacks);
        let stays = !self.leaves;
        let part = (self.surroundings.speaks() && stays, self.surroundings.serves() && stays, lacks);
        if part != self.part {
            self.part = part.clone();
            let (speaks, serves, lacks) = part;
            self.step(Input::Speaks(speaks), ctx);
            self.step(Input::Idle(lacks.is_empty()), ctx);
            self.step(Input::Lacks(lacks), ctx);
            self.step(Input::Serves(serves), ctx);
        }
    }
}

impl Role for Publisher {
    fn started(&mut self, ctx: &mut Ctx<Self>) {
        ctx.run_interval(LOOK_EVERY, |shell, ctx| shell.role.look(ctx));
    }
}

/// What the chain's state says of topics: with what comes behind it, this incarnation of the actor begins.
#[derive(Debug)]
pub struct Begin {
    /// The topics.
    pub view: View,
    /// The block after which the state is so.
    pub height: Height,
}

impl Message for Begin {
    type Reply = ();
    const LANE: Lane = Lane::Ordinary;
}

impl Handle<Begin> for Publisher {
    fn handle(&mut self, Begin { view, height }: Begin, reply: Reply<()>, ctx: &mut Ctx<Self>) {
        let topics: Vec<_> = view.iter().map(|(topic, _)| topic).collect();
        self.server = Some((Server::new(self.key, self.config, view, clock::now()), height));
        (self.others, self.part) = (Vec::new(), (false, false, BTreeSet::new()));
        (self.followed, self.compared) = (height, false);
        self.compare();
        topics.into_iter().for_each(|topic| self.show(topic));
        self.board.begin();
        self.look_at_listed(ctx);
        self.look(ctx);
        self.board.come_to(height);
        reply.send(());
    }
}

/// Why a block was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FollowError {
    /// The actor has started anew, and does not know what came before.
    #[error("the publisher has started anew")]
    NotBegun,
    /// The journal cannot be written: this server publishes nothing more.
    #[error(transparent)]
    Journal(#[from] LogError),
}

/// A block that the chain has executed, as far as it is about publication.
#[derive(Debug)]
pub struct Followed {
    /// Its height.
    pub height: Height,
    /// What the chain did, in order.
    pub events: Vec<Event>,
    /// The frames that entered queues, in order.
    pub frames: Vec<(Topic, Entry, Content)>,
}

impl Message for Followed {
    type Reply = Result<(), FollowError>;
    const LANE: Lane = Lane::Ordinary;
}

impl Handle<Followed> for Publisher {
    fn handle(
        &mut self,
        Followed { height, events, frames }: Followed,
        reply: Reply<Result<(), FollowError>>,
        ctx: &mut Ctx<Self>,
    ) {
        let Some(from) = self.server.as_ref().map(|(_, from)| *from) else {
            reply.send(Err(FollowError::NotBegun));
            return;
        };
        let published = |topic: Topic| {
            let server = self.server.as_ref();
            server.and_then(|(server, _)| Some(server.view().get(topic)?.published.upto)).unwrap_or_default()
        };
        if let Err(error) = self.journal.append(height, &frames, published) {
            // A server that cannot keep frames gives its locks back.
            self.leaves = true;
            self.look(ctx);
            reply.send(Err(error.into()));
            return;
        }
        self.followed = self.followed.max(height);
        if height > from {
            for event in events {
                let topic = topic_of(&event);
                match &event {
                    Event::Granted(takeover) => self.witness(*takeover),
                    Event::Released { topic, owner, reason, .. } => {
                        self.released.insert(*topic, (*owner, *reason, clock::now()));
                    }
                    _ => {}
                }
                self.step(Input::Event(event.clone()), ctx);
                if let Event::Granted(takeover) = &event {
                    self.released.remove(&takeover.topic);
                }
                self.surroundings.tell(Happened::Event(event));
                topic.into_iter().for_each(|topic| self.show(topic));
            }
        }
        self.board.come_to(height);
        reply.send(Ok(()));
    }
}

/// Another server gives words.
#[derive(Debug)]
pub struct SaidWords {
    /// Which.
    pub by: NodeId,
    /// What it says.
    pub words: Words,
}

impl Message for SaidWords {
    type Reply = ();
    const LANE: Lane = Lane::Bulk;

    fn bytes(&self) -> usize {
        self.words.bytes()
    }
}

impl Handle<SaidWords> for Publisher {
    fn handle(&mut self, SaidWords { by, words: Words(words) }: SaidWords, _: Reply<()>, _: &mut Ctx<Self>) {
        // Nobody speaks for another seat, and who says something false is not listened to any further: a signature costs more to check than to invent.
        let Some(seat) = self.surroundings.seat_of(&by) else { return };
        let Some((server, _)) = &self.server else { return };
        let exists = |topic| server.view().get(topic).is_some();
        let mut heard = BTreeSet::new();
        for word in words.into_iter().take(AT_ONCE_MAX) {
            let topic = word.takeover.topic;
            if word.witness.seat != seat {
                break;
            }
            // Of what is proven or is no topic no more is wanted; and of one that this server does not know yet it asks.
            let is_proven = self.witnesses.has_proof(topic, word.takeover.fence, word.epoch);
            if is_proven || !exists(topic) || !self.witnesses.is_news(&word) {
                continue;
            }
            if !self.surroundings.is_sound(&word) {
                break;
            }
            self.witnesses.note(word);
            heard.insert(topic);
        }
        heard.into_iter().for_each(|topic| self.show(topic));
    }
}

/// Another server wants words.
#[derive(Debug)]
pub struct Wanted {
    /// Which.
    pub by: NodeId,
    /// Of these takeovers.
    pub words: WantWords,
}

impl Message for Wanted {
    type Reply = ();
    const LANE: Lane = Lane::Bulk;

    fn bytes(&self) -> usize {
        self.words.bytes()
    }
}

impl Handle<Wanted> for Publisher {
    fn handle(&mut self, Wanted { by, words: WantWords(wanted) }: Wanted, _: Reply<()>, _: &mut Ctx<Self>) {
        let Some((server, _)) = &self.server else { return };
        let newest = |(topic, fence): (Topic, Fence)| {
            server.view().get(topic)?.takeover.filter(|takeover| takeover.fence == fence)
        };
        let known: Vec<_> = wanted.into_iter().take(AT_ONCE_MAX).filter_map(newest).collect();
        let words = self.words(known);
        if !words.0.is_empty() {
            self.surroundings.say(Some(by), &words);
        }
    }
}

/// Takes what other servers say.
pub fn routes(router: Router, publisher: &Address<Publisher>) -> Router {
    let (said, wanted) = (publisher.clone(), publisher.clone());
    let (frames_wanted, frames_given) = (publisher.clone(), publisher.clone());
    router
        .tell::<Words>(move |by, words| said.tell(SaidWords { by, words }))
        .tell::<WantWords>(move |by, words| wanted.tell(Wanted { by, words }))
        .tell::<WantFrames>(move |by, frames| frames_wanted.tell(FramesWanted { by, frames }))
        .tell::<Frames>(move |by, frames| frames_given.tell(FramesGiven { by, frames }))
}

/// The connection to another server has come or gone: there is something to look at.
#[derive(Debug)]
pub struct LinksChanged;

impl Message for LinksChanged {
    type Reply = ();
    const LANE: Lane = Lane::Control;
}

impl Handle<LinksChanged> for Publisher {
    fn handle(&mut self, LinksChanged: LinksChanged, _: Reply<()>, ctx: &mut Ctx<Self>) {
        self.look(ctx);
    }
}

/// The node is about to stop: locks are given back.
#[derive(Debug)]
pub struct Leave;

impl Message for Leave {
    type Reply = usize;
    const LANE: Lane = Lane::Control;
}

impl Handle<Leave> for Publisher {
    fn handle(&mut self, Leave: Leave, reply: Reply<usize>, ctx: &mut Ctx<Self>) {
        let owned = self.server.as_ref().map_or(0, |(server, _)| server.owned());
        self.leaves = true;
        self.look(ctx);
        // What is not written comes again from blocks.
        drop(self.journal.close());
        reply.send(owned);
    }
}

fn topic_of(event: &Event) -> Option<Topic> {
    match event {
        Event::Set { topic, .. }
        | Event::Queued { topic, .. }
        | Event::Renewed { topic, .. }
        | Event::Published { topic, .. }
        | Event::Skipped { topic, .. }
        | Event::Released { topic, .. } => Some(*topic),
        Event::Granted(takeover) => Some(takeover.topic),
        _ => None,
    }
}
