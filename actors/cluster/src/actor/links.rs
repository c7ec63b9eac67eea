//! What a member says to the other members and to the auth node, and what they say to it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use standin_auth::messages::{Answer, Request};
use standin_auth::{Claim, Statement};
use standin_foundation::limits::FRAME_BYTES_MAX;
use standin_foundation::wire::Wire;
use standin_foundation::{ClusterId, Digest, NodeId, SecretKey, Term};
use standin_ledger::SignedGrant;
use standin_stage::bridge::Router;
use standin_stage::{Address, CallError, Lane, Message as StageMessage, Remote, RemoteMessage};

use super::MemberActor;
use crate::messages::Message;

/// How long an answer of the auth node is waited for. The machine asks again by itself.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

impl StageMessage for Message {
    type Reply = ();
    const LANE: Lane = Lane::Control;
}

impl RemoteMessage for Message {}

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

/// Hands what the other members say to the member. Nobody else gets at its mailbox.
pub fn routes(router: Router, member: &Address<MemberActor>, mates: BTreeSet<NodeId>) -> Router {
    let mates = Arc::new(mates);
    let tell = |member: &Address<MemberActor>, mates: &BTreeSet<NodeId>, from, message, payloads| match mates
        .contains(&from)
    {
        true => member.tell(FromMate { from, message, payloads }),
        false => Err(CallError::Refused("the sender is not of this node's cluster".to_owned())),
    };
    let (small, small_mates) = (member.clone(), Arc::clone(&mates));
    let pushed = member.clone();
    router
        .tell::<Message>(move |from, message| tell(&small, &small_mates, from, message, Vec::new()))
        .tell::<Pushed>(move |from, Pushed { message, payloads }| tell(&pushed, &mates, from, message, payloads))
}

/// Checks a grant, and tells those whom it concerns; false if it does not hold. It must not block.
pub type GrantSink = Arc<dyn Fn(SignedGrant) -> bool + Send + Sync>;

/// The auth node, or several that share a register: one of them is asked until it does not answer.
#[derive(Debug, Clone, Default)]
pub struct Auths {
    fronts: Vec<Remote>,
    current: Arc<AtomicUsize>,
}

impl Auths {
    /// These, in order of preference.
    pub fn new(fronts: Vec<Remote>) -> Self {
        Self { fronts, current: Arc::default() }
    }

    /// Asks; none if there is no answer.
    pub fn ask(&self, request: Request) -> impl Future<Output = Option<Answer>> + use<> {
        let asked = self.current.load(Ordering::Relaxed);
        let front = self.fronts.get(asked % self.fronts.len().max(1)).cloned();
        let current = Arc::clone(&self.current);
        async move {
            match front?.ask(&request, ANSWER_WITHIN).await {
                Ok(answer) => Some(answer),
                Err(error) => {
                    tracing::debug!(%error, "the auth node does not answer");
                    // Only the first who finds out moves on; what comes late is about a front that was left.
                    let _ = current.compare_exchange(asked, asked + 1, Ordering::Relaxed, Ordering::Relaxed);
                    None
                }
            }
        }
    }
}

/// A member's ways to others, and its key.
pub struct Links {
    /// The node's key.
    pub key: SecretKey,
    /// The chain's genesis digest.
    pub chain: Digest,
    /// Its cluster.
    pub cluster: ClusterId,
    /// The other members.
    pub mates: BTreeMap<NodeId, Remote>,
    /// The auth node.
    pub auths: Auths,
    /// Where grants go.
    pub grants: GrantSink,
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links").field("cluster", &self.cluster).field("mates", &self.mates).finish_non_exhaustive()
    }
}

impl Links {
    pub(super) fn node(&self) -> NodeId {
        self.key.public().node_id()
    }

    pub(super) fn sign(&self, claim: Claim, term: Term) -> Statement {
        Statement::sign(&self.key, &self.chain, claim, self.cluster.clone(), term)
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
        let Some(remote) = self.mates.get(&to) else { return };
        let sent = match message {
            Message::Push { .. } | Message::Tail { .. } => remote.tell(&Pushed { message, payloads }),
            message => remote.tell(&message),
        };
        if let Err(error) = sent {
            tracing::debug!(mate = %to.short(), %error, "message not sent");
        }
    }
}
