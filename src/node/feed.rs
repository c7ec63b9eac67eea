//! What a node gives a terminal of a topic: a cursor over its journal, up to where it may.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use standin_foundation::Digest;
use standin_ledger::log::LogError;
use standin_publisher::actor::{Seated, Standing};
use standin_publisher::machine::session::{Found, Next, Session, SessionRefused};
use standin_publisher::machine::terminal::{Position, Published};
use standin_publisher::machine::witness::TakeoverProof;
use standin_publisher::terminal::ToTerminal;
use standin_publisher::{Fence, Sequence, Topic};
use tokio::sync::watch;

use super::Publication;

/// Data that may be under way to a terminal.
const WINDOW: u64 = 4_096;
/// What another server publishes is kept back for so long from a terminal that may have it from there.
const KEPT_BACK: Duration = Duration::from_millis(50);

/// Where a terminal begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// With the next datum that is published.
    Now,
    /// With this datum: the frame that it is in comes whole.
    At(Sequence),
    /// Behind what it has, as it has stored it.
    Behind(Position),
}

/// Why a terminal is not served, or no more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FeedError {
    /// The node does not know now how topics stand.
    #[error("this node does not know now how topics stand: ask another one, or again in a moment")]
    NotLive,
    /// The chain has no such topic.
    #[error("there is no topic `{0}`")]
    Unknown(Topic),
    /// The terminal is ahead of the node: of its queue, or of the takeovers that it knows. Another node may be further, or this one in a moment.
    #[error("the terminal stands at datum {} under fence {}, and this node has come to datum {queued} and fence {fence} itself", .position.last, .position.fence)]
    Ahead {
        /// Where the terminal stands.
        position: Position,
        /// The last datum that is queued, as far as the node knows.
        queued: Sequence,
        /// The newest grant of the topic's lock, as far as the node knows.
        fence: Fence,
    },
    /// Nobody can say here what comes before the datum that was asked for: data that wait before it are not here. Another node may have them, or this one in a moment.
    #[error("this node does not have all data of topic `{topic}` that wait before datum {from}")]
    Lacks {
        /// The topic.
        topic: Topic,
        /// The datum that was asked for.
        from: Sequence,
    },
    /// What it needs is forgotten, or its position is of another history.
    #[error(transparent)]
    Refused(#[from] SessionRefused),
    /// The journal cannot be read.
    #[error("the node cannot read its journal: {0}")]
    Journal(String),
    /// The node stops.
    #[error("the node stops")]
    Stopped,
}

impl From<LogError> for FeedError {
    fn from(error: LogError) -> Self {
        tracing::error!(%error, "the journal cannot be read");
        Self::Journal(error.to_string())
    }
}

/// What one terminal is given.
#[derive(Debug)]
pub struct Feed {
    publication: Publication,
    topic: Topic,
    session: Session,
    standing: watch::Receiver<Standing>,
    kept_back: Option<KeptBack>,
    seated: Seated,
}

impl Feed {
    /// Begins; gives the position from which it goes on. `late`: what other servers publish is kept back a little.
    pub fn begin(
        publication: Publication,
        topic: Topic,
        begin: Begin,
        late: bool,
    ) -> Result<(Self, Position), FeedError> {
        if !publication.board.is_live() {
            return Err(FeedError::NotLive);
        }
        let standing = publication.board.follow(topic).ok_or(FeedError::Unknown(topic))?;
        let stands = standing.borrow().clone();
        let position = position_of(&publication, topic, begin, &stands)?;
        let (queued, fence) = (stands.queued, stands.takeover.map_or(Fence(0), |takeover| takeover.fence));
        if position.last > queued || position.fence > fence {
            return Err(FeedError::Ahead { position, queued, fence });
        }
        let session = resume(&publication, topic, &position, &stands)?;
        let kept_back = late.then(|| KeptBack { upto: stands.published.upto, waiting: VecDeque::new() });
        let seated = publication.board.seat(topic, position.last);
        Ok((Self { publication, topic, session, standing, kept_back, seated }, position))
    }

    /// The terminal has everything up to here.
    pub fn acknowledge(&mut self, last: Sequence) {
        self.session.acknowledge(last);
        self.seated.has(last);
    }

    /// What it gets next; none until there is more, or it has said that it has what is under way.
    pub fn next_message(&mut self) -> Result<Option<ToTerminal>, FeedError> {
        // Looked at before each message: a lease may have run out since the last.
        let (standing, now) = (self.standing.borrow_and_update().clone(), self.publication.board.now());
        // Also while nothing of it is needed: what has been kept back for long enough must not be waited for.
        let kept_back = self.kept_back.as_mut().map(|kept_back| kept_back.limit(standing.published.upto));
        let Some(mut limit) = standing.limit(now) else { return Ok(None) };
        if let Some(upto) = kept_back.filter(|_| !standing.publishes(now)) {
            limit.upto = upto;
        }
        let (journal, topic) = (&self.publication.journal, self.topic);
        let (mut broken, mut content) = (None, None);
        let behind = Sequence(standing.published.upto.0.saturating_add(1));
        let find = |next| match journal.look(topic, next) {
            // Given up, or forgotten with all else: what comes will be behind it.
            Ok((Found::Beyond, _)) if next < behind && journal.range(topic).is_none() => {
                Found::Forgotten { first: behind }
            }
            Ok((found, read)) => {
                content = read;
                found
            }
            Err(error) => {
                broken = Some(error);
                Found::Beyond
            }
        };
        let next = self.session.next(&limit, find)?;
        if let Some(error) = broken {
            return Err(error.into());
        }
        Ok(match next {
            None => None,
            // A limit is of the takeover that the proof is of.
            Some(Next::Takeover(_)) => {
                standing.proof.as_ref().map(|proof| ToTerminal::Takeover(TakeoverProof::clone(proof)))
            }
            Some(Next::Frame(fence, entry)) => {
                content.map(|content| ToTerminal::Frame(Published { fence, entry, content }))
            }
        })
    }

    /// Waits until there may be more.
    pub async fn changed(&mut self) -> Result<(), FeedError> {
        tokio::select! {
            changed = self.standing.changed() => changed.map_err(|_| FeedError::Stopped),
            () = KeptBack::passed(self.kept_back.as_ref()) => Ok(()),
        }
    }
}

/// Where it is to go on.
fn position_of(
    publication: &Publication,
    topic: Topic,
    begin: Begin,
    standing: &Standing,
) -> Result<Position, FeedError> {
    let at = |last, chain| Position { last, chain, ..Position::default() };
    let published = at(standing.published.upto, standing.published.chain);
    let from = match begin {
        Begin::Behind(position) => return Ok(position),
        Begin::Now => return Ok(published),
        Begin::At(from) => Sequence(from.0.max(1)),
    };
    Ok(match publication.journal.frame_of(topic, from)? {
        Some((entry, _)) => at(Sequence(entry.first.0.saturating_sub(1)), entry.before),
        None if from > standing.published.upto && standing.lacks => return Err(FeedError::Lacks { topic, from }),
        None if from > standing.published.upto => published,
        // It is not kept, and that is said.
        None => at(Sequence(from.0.saturating_sub(1)), Digest::ZERO),
    })
}

fn resume(
    publication: &Publication,
    topic: Topic,
    position: &Position,
    standing: &Standing,
) -> Result<Session, SessionRefused> {
    let published = standing.published;
    let chain = match position.last {
        Sequence(0) => Some(Digest::ZERO),
        last if last == published.upto => Some(published.chain),
        last => publication.journal.chain_behind(topic, last).ok().flatten(),
    };
    // A topic of which nothing is kept goes on behind what was published.
    let nothing = Sequence(published.upto.0.saturating_add(1));
    let first = publication.journal.range(topic).map_or(nothing, |(first, _)| first);
    // Data that wait and are not here may come yet.
    let first = if standing.lacks { first.min(nothing) } else { first };
    Session::resume(position, WINDOW, chain, first)
}

/// What other servers have published, and when this one heard of it.
#[derive(Debug)]
struct KeptBack {
    /// The last datum that has been kept back long enough.
    upto: Sequence,
    waiting: VecDeque<(Instant, Sequence)>,
}

impl KeptBack {
    /// Up to where the terminal may be served of what was published up to a datum.
    fn limit(&mut self, published: Sequence) -> Sequence {
        if self.waiting.back().map_or(self.upto, |(_, upto)| *upto) < published {
            self.waiting.push_back((Instant::now(), published));
        }
        while let Some((_, upto)) = self.waiting.pop_front_if(|(at, _)| at.elapsed() >= KEPT_BACK) {
            self.upto = upto;
        }
        self.upto
    }

    /// When there may be more.
    async fn passed(this: Option<&Self>) {
        match this.and_then(|kept| kept.waiting.front()) {
            Some((at, _)) => tokio::time::sleep_until((*at + KEPT_BACK).into()).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_kept_back_for_long_enough_is_not_waited_for() {
        let mut kept = KeptBack { upto: Sequence(3), waiting: VecDeque::new() };
        assert_eq!(kept.limit(Sequence(9)), Sequence(3));
        assert!(!kept.waiting.is_empty());
        kept.waiting.iter_mut().for_each(|(at, _)| *at -= KEPT_BACK);
        assert_eq!(kept.limit(Sequence(9)), Sequence(9));
        let waits = tokio::time::timeout(Duration::from_secs(3_600), KeptBack::passed(Some(&kept))).await;
        assert!(waits.is_err(), "there is nothing to wait for");
    }
}
