//! What a member says to the other members and to the auth node, and what they say to it.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use standin_auth::messages::{Answer, Request};
use standin_auth::{Claim, Statement};
use standin_foundation::limits::FRAME_BYTES_MAX;
use standin_foundation::wire::Wire;
use standin_foundation::{ClusterId, Digest, NodeId, Seat, SecretKey, Term};
use standin_ledger::{MemberBook, SignedGrant};
use standin_stage::bridge::{Peers, Router};
use standin_stage::{Address, CallError, Lane, Message as StageMessage, Remote, RemoteMessage};

use super::MemberActor;
use crate::Event;
use crate::messages::{Message, Switching, WantSwitch};

/// How long an answer of the auth node is waited for. The machine asks again by itself.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

impl StageMessage for Message {
    type Reply = ();
    const LANE: Lane = Lane::Control;
}

impl RemoteMessage for Message {}

impl StageMessage for WantSwitch {
    type Reply = Switching;
    const LANE: Lane = Lane::Control;
}

impl RemoteMessage for WantSwitch {}

/// What a node wants, and which: the link has proven it.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) from: NodeId,
    pub(super) want: WantSwitch,
}

impl StageMessage for Wanted {
    type Reply = Switching;
    const LANE: Lane = Lane::Control;
}

/// A message with the payloads that its records carry. All pushes go this way, so that they keep their order, and a pulse
/// does not wait behind them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pushed {
    /// The message.
    pub message: Message,
    /// The payloads.
    pub payloads: Vec<Bytes>,
}

impl Wire for Pushed {
    const NAME: &'static str = "cluster.push";
    const BYTES_MAX: usize = FRAME_BYTES_MAX - 1024;
}

impl StageMessage for Pushed {
    type Reply = ();
    const LANE: Lane = Lane::Ordinary;
}

impl RemoteMessage for Pushed {}

/// A message of another member.
#[derive(Debug)]
pub(super) struct FromMate {
    pub(super) from: NodeId,
    pub(super) message: Message,
    pub(super) payloads: Vec<Bytes>,
}

impl StageMessage for FromMate {
    type Reply = ();
    const LANE: Lane = Lane::Control;

    fn bytes(&self) -> usize {
        let entries = match &self.message {
            Message::Push { entries, .. } | Message::Tail { entries, .. } => entries.as_slice(),
            _ => &[],
        };
        let records: usize = entries.iter().map(|entry| entry.record.len() + 64).sum();
        size_of_val(self) + records + self.payloads.iter().map(Bytes::len).sum::<usize>()
    }
}

/// Whether a node is another member of the own cluster, or is still in its in-sync set.
pub type IsMate = Arc<dyn Fn(&NodeId) -> bool + Send + Sync>;

/// Hands what the other members say to the member. Nobody else gets at its mailbox.
pub fn routes(router: Router, member: &Address<MemberActor>, is_mate: IsMate) -> Router {
    let small = member.clone();
    let tell = move |message: FromMate| match is_mate(&message.from) {
        true => small.tell(message),
        false => Err(CallError::Refused("the sender is not of this node's cluster".to_owned())),
    };
    let tell_pushed = tell.clone();
    router
        .ask_as::<WantSwitch, Wanted, _>(member.clone(), |from, want| Wanted { from, want })
        .tell::<Message>(move |from, message| tell(FromMate { from, message, payloads: Vec::new() }))
        .tell::<Pushed>(move |from, Pushed { message, payloads }| tell_pushed(FromMate { from, message, payloads }))
}

/// Checks a grant, and tells those whom it concerns; false if it does not hold. It must not block.
pub type GrantSink = Arc<dyn Fn(SignedGrant) -> bool + Send + Sync>;

/// An auth node that does not answer is left alone for so long, if there is another: shorter than any entry's maximum age.
const LEFT_FOR: Duration = Duration::from_secs(1);

/// The auth node, or several that share a register, in the order in which they are asked: the first that can be reached and has
/// not failed lately. All nodes have the same order, so that as a rule one auth node hears all of a cluster.
#[derive(Debug, Clone)]
pub struct Auths {
    fronts: Arc<RwLock<Arc<[Front]>>>,
    begun: Instant,
}

#[derive(Debug)]
struct Front {
    remote: Remote,
    /// Not asked before this, in ms since the beginning.
    left_until: AtomicU64,
}

fn fronts_of(remotes: Vec<Remote>) -> Arc<[Front]> {
    remotes.into_iter().map(|remote| Front { remote, left_until: AtomicU64::new(0) }).collect()
}

impl Default for Auths {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Auths {
    /// These, in order of preference.
    pub fn new(fronts: Vec<Remote>) -> Self {
        Self { fronts: Arc::new(RwLock::new(fronts_of(fronts))), begun: Instant::now() }
    }

    /// From now on these, since the chain has said so.
    pub fn replace(&self, fronts: Vec<Remote>) {
        let known = self.fronts();
        let are_known = fronts.iter().map(Remote::id).eq(known.iter().map(|front| front.remote.id()));
        if !are_known {
            *self.fronts.write().unwrap_or_else(PoisonError::into_inner) = fronts_of(fronts);
        }
    }

    fn fronts(&self) -> Arc<[Front]> {
        Arc::clone(&self.fronts.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn now(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    /// The first that may be asked; if all have failed, the one that failed first.
    fn place(&self, fronts: &[Front]) -> Option<usize> {
        let now = self.now();
        let left_until = |front: &Front| front.left_until.load(Ordering::Relaxed);
        let may = |front: &Front| front.remote.is_connected() && left_until(front) <= now;
        let least = || (0..fronts.len()).min_by_key(|place| fronts.get(*place).map(left_until));
        fronts.iter().position(may).or_else(least)
    }

    /// Asks; none if there is no answer.
    pub fn ask(&self, request: Request) -> impl Future<Output = Option<Answer>> + use<> {
        let (auths, fronts) = (self.clone(), self.fronts());
        let place = self.place(&fronts);
        async move {
            let front = fronts.get(place?)?;
            let answered = front.remote.ask(&request, ANSWER_WITHIN).await;
            if let Err(error) = &answered {
                tracing::debug!(%error, "the auth node does not answer");
                front.left_until.store(auths.now() + LEFT_FOR.as_millis() as u64, Ordering::Relaxed);
            }
            answered.ok()
        }
    }
}

/// Told of an event, and of the time since the holder was suspected, in ms.
pub type OnEvent = Box<dyn Fn(&Event, Option<u64>) + Send + Sync>;

/// A member's ways to others, and its key.
pub struct Links {
    /// The node's key.
    pub key: SecretKey,
    /// The chain's genesis digest.
    pub chain: Digest,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its seat.
    pub seat: Seat,
    /// Who belongs to it.
    pub members: Arc<MemberBook>,
    /// Who can be reached.
    pub peers: Peers,
    /// The auth node.
    pub auths: Auths,
    /// Where grants go.
    pub grants: GrantSink,
    /// Told of everything that happens. It must not block.
    pub on_event: OnEvent,
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl Links {
    pub(super) fn node(&self) -> NodeId {
        self.key.public().node_id()
    }

    pub(super) fn sign(&self, claim: Claim, term: Term) -> Statement {
        Statement::sign(&self.key, &self.chain, claim, self.cluster.clone(), term)
    }

    /// Asks the auth node. What only this side knows is put in.
    pub(super) fn ask(&self, mut request: Request) -> impl Future<Output = Option<Answer>> + use<> {
        if let Request::Recall { membership, .. } = &mut request {
            *membership = self.members.signed_of(self.seat);
        }
        self.auths.ask(request)
    }

    pub(super) fn take_grant(&self, grant: &SignedGrant) -> bool {
        (self.grants)(grant.clone())
    }

    /// Whether the signatures in a message hold.
    pub(super) fn admits(&self, message: &Message) -> bool {
        match message {
            Message::Grant { grant, .. } => self.take_grant(grant),
            Message::Statement(statement) | Message::HandOver { statement, .. } => statement.verify(&self.chain),
            _ => true,
        }
    }

    pub(super) fn send(&self, to: NodeId, message: Message, payloads: Vec<Bytes>) {
        let Some(remote) = self.peers.remote(&to) else { return };
        let sent = match message {
            Message::Push { .. } | Message::Tail { .. } => remote.tell(&Pushed { message, payloads }),
            message => remote.tell(&message),
        };
        if let Err(error) = sent {
            tracing::debug!(mate = %to.short(), %error, "message not sent");
        }
    }
}
