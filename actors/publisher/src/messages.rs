//! What transactions about publication say, and what comes of them.
//!
//! A push has a form of its own ([`crate::frame::Push`]), since its data are hashed as they stand. All else is an [`Instruction`]. What the
//! chain did stands in the receipt as a list of [`Event`]s: servers read them and nothing else.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use standin_foundation::wire::Wire;
use standin_foundation::{Canonical, Digest, Domain, Encoder, Height, PublicKey, Seat, SecretKey};
use standin_ledger::transaction::TransactionBody;
use standin_ledger::{Approved, ClientSignatures, Genesis, LedgerError, Order, SignedMembership, Transaction};

use crate::frame::Entry;
use crate::ids::{Fence, PUBLISHER_TITLE, Sequence, Topic};
use crate::machine::lock::{Ground, Reason};
use crate::machine::witness::Word;

/// Holds or attestations in one transaction.
pub const AT_ONCE_MAX: usize = 256;
/// Changes in one order about topics.
pub const TOPIC_CHANGES_MAX: usize = 64;
/// Frames that a server asks another one for at one time.
pub const FRAMES_AT_ONCE_MAX: usize = 32;
/// And bytes of their contents that the other one gives.
pub const FRAMES_BYTES_MAX: usize = 256 * 1024;
/// Sources that a topic may list.
pub const SOURCES_MAX: usize = 64;

/// What a member or the operators tell the chain about topics and their locks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Instruction {
    /// A member wants the lock.
    Acquire {
        /// Of this topic.
        topic: Topic,
        /// The newest fence that it knows: whoever was slower than another has lost.
        after: Fence,
        /// For how long after each renewal, in ms.
        lease_ms: u32,
        /// Where the lock stands in a lock service outside the chain: the number under which that has given it. It only rises.
        outside: Option<u64>,
    },
    /// An owner renews leases and says what it has published.
    Hold(Vec<Hold>),
    /// An owner gives a lock back.
    Release {
        /// Of this topic.
        topic: Topic,
        /// Its fence.
        fence: Fence,
    },
    /// A member says for its seat that owners are to lose their locks.
    Attest(Vec<Attestation>),
    /// Who belongs to a cluster: its members may compete and attest. Anyone may show it: it proves itself.
    Members(SignedMembership),
    /// What operators order about topics.
    Order(Approved<TopicOrder>),
}

impl Wire for Instruction {
    const NAME: &'static str = "publisher's instruction";
    const BYTES_MAX: usize = crate::frame::PUSH_BYTES_MAX;
}

impl Instruction {
    /// The transaction that says this, signed where the chain asks for that. It lives for half of what the chain allows above `height`.
    pub fn sign(
        &self,
        genesis: &Genesis,
        key: &SecretKey,
        nonce: u64,
        height: Height,
    ) -> Result<Transaction, LedgerError> {
        let payload = self.to_wire()?;
        let expires = height.plus(genesis.parameters.replay_window / 2);
        let body = TransactionBody { title: PUBLISHER_TITLE.parse()?, nonce, expires, payload };
        match genesis.parameters.client_signatures {
            ClientSignatures::Required => Transaction::sign(&genesis.digest(), key, &body),
            ClientSignatures::None => Transaction::unsigned(&key.public(), &body),
        }
    }
}

/// An owner's word about one of its locks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The topic.
    pub topic: Topic,
    /// Under which fence.
    pub fence: Fence,
    /// The number of the renewal that this is; none for a checkpoint alone.
    pub renewal: Option<u64>,
    /// What it has published.
    pub published: Option<Checkpoint>,
}

/// Up to where a topic was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The last datum of a frame.
    pub upto: Sequence,
    /// The topic's chain up to and with that.
    pub chain: Digest,
}

/// A member's word, for its seat, that an owner is to lose a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attestation {
    /// The topic.
    pub topic: Topic,
    /// The grant that it is about.
    pub fence: Fence,
    /// What it has seen.
    pub ground: Ground,
}

/// Who may push to a topic, and what.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Settings {
    /// The keys that may; none for every client that may publish.
    pub sources: Option<BTreeSet<PublicKey>>,
    /// Ids and values are UTF-8.
    pub text: bool,
    /// The lock stands in a lock service outside the chain, and the chain takes whom that has named last.
    pub outside: bool,
}

/// One change that operators order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TopicChange {
    /// A topic is made, or its settings are changed.
    Set(Topic, Settings),
    /// Whoever holds the lock under this fence loses it.
    Release(Topic, Fence),
    /// Data that wait are given up, since nobody has them any more: the topic goes on behind them. Whoever holds the lock loses it.
    Skip {
        /// The topic.
        topic: Topic,
        /// The first datum that waits.
        from: Sequence,
        /// The last one that is given up: the last of a frame.
        upto: Sequence,
    },
}

/// What is ordered about topics. It takes effect with the next transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicOrder {
    /// The chain.
    pub chain: Digest,
    /// How many such orders have been carried out before: it counts once.
    pub number: u64,
    /// What changes.
    pub changes: Vec<TopicChange>,
}

impl Order for TopicOrder {
    const DOMAIN: Domain = Domain::TopicOrder;

    fn chain(&self) -> &Digest {
        &self.chain
    }
}

impl Canonical for TopicOrder {
    fn encode(&self, out: &mut Encoder) {
        out.digest(&self.chain).u64(self.number).length(self.changes.len());
        for change in &self.changes {
            match change {
                TopicChange::Set(topic, Settings { sources, text, outside }) => {
                    out.u8(1).bytes(topic.as_str().as_bytes()).u8(u8::from(*text)).u8(u8::from(*outside));
                    out.u8(u8::from(sources.is_some()));
                    let sources = sources.iter().flatten();
                    out.length(sources.clone().count());
                    sources.for_each(|key| _ = out.raw(key.as_bytes()));
                }
                TopicChange::Release(topic, fence) => {
                    out.u8(2).bytes(topic.as_str().as_bytes()).u64(fence.0);
                }
                TopicChange::Skip { topic, from, upto } => {
                    out.u8(3).bytes(topic.as_str().as_bytes()).u64(from.0).u64(upto.0);
                }
            }
        }
    }
}

/// What came of a transaction, for whoever follows the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A topic was made, or its settings were changed.
    Set {
        /// The topic.
        topic: Topic,
        /// Its lock stands outside the chain.
        outside: bool,
    },
    /// A lock service outside the chain has given a lock under this number: the grant comes next.
    Outside {
        /// The topic.
        topic: Topic,
        /// The number.
        number: u64,
    },
    /// A push is a frame of the queue: it will be published, whatever dies.
    Queued {
        /// The topic.
        topic: Topic,
        /// Its place.
        entry: Entry,
    },
    /// All of a push was queued before.
    Known {
        /// The topic.
        topic: Topic,
        /// The source's next nonce.
        next_nonce: u64,
    },
    /// Data of the source before the push are missing: it was not queued.
    Gap {
        /// The topic.
        topic: Topic,
        /// The nonce that is missing.
        next_nonce: u64,
    },
    /// Too much waits to be published: the push was not queued.
    Full {
        /// The topic.
        topic: Topic,
    },
    /// The lock was granted.
    Granted(Takeover),
    /// A lease was renewed.
    Renewed {
        /// The topic.
        topic: Topic,
        /// The grant.
        fence: Fence,
        /// The renewal.
        renewals: u64,
    },
    /// The topic was published up to here.
    Published {
        /// The topic.
        topic: Topic,
        /// Under which fence.
        fence: Fence,
        /// Up to where.
        checkpoint: Checkpoint,
    },
    /// A seat wants the lock released.
    Attested {
        /// The topic.
        topic: Topic,
        /// The grant.
        fence: Fence,
        /// The seat.
        seat: Seat,
        /// Why.
        ground: Ground,
    },
    /// Data that waited were given up: nobody publishes them.
    Skipped {
        /// The topic.
        topic: Topic,
        /// The first of them.
        from: Sequence,
        /// Up to where.
        checkpoint: Checkpoint,
    },
    /// The lock is free.
    Released {
        /// The topic.
        topic: Topic,
        /// The grant that ended.
        fence: Fence,
        /// Who had it.
        owner: PublicKey,
        /// Why it ended.
        reason: Reason,
    },
    /// The chain knows a cluster's members.
    Members,
    /// One of several that a transaction said was refused.
    Refused {
        /// The topic.
        topic: Topic,
        /// Why.
        why: String,
    },
}

/// The events of one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Events(pub Vec<Event>);

impl Wire for Events {
    const NAME: &'static str = "publisher's events";
    const BYTES_MAX: usize = AT_ONCE_MAX * 1_024;
}

/// The ledger's record that a server takes a topic over: from where on, and behind what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Takeover {
    /// The topic.
    pub topic: Topic,
    /// The grant.
    pub fence: Fence,
    /// Who publishes.
    pub owner: PublicKey,
    /// For how long after each renewal, in ms.
    pub lease_ms: u32,
    /// The first datum that it publishes.
    pub from: Sequence,
    /// The topic's chain before that.
    pub before: Digest,
}

/// What servers tell each other: for takeovers that stand on the chain they give their seats' words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Words(pub Vec<Word>);

impl Wire for Words {
    const NAME: &'static str = "publisher.words";
    const BYTES_MAX: usize = AT_ONCE_MAX * 512;
}

/// The sender wants a seat's words for the takeovers of these topics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantWords(pub Vec<(Topic, Fence)>);

impl Wire for WantWords {
    const NAME: &'static str = "publisher.want-words";
    const BYTES_MAX: usize = AT_ONCE_MAX * 64;
}

/// The sender wants frames of a topic's queue, by their first data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantFrames {
    /// The topic.
    pub topic: Topic,
    /// At most [`FRAMES_AT_ONCE_MAX`].
    pub frames: Vec<Sequence>,
}

impl Wire for WantFrames {
    const NAME: &'static str = "publisher.want-frames";
    const BYTES_MAX: usize = 128 + FRAMES_AT_ONCE_MAX * 16;
}

/// Frames of a topic's queue: the first datum of each, and its content as [`crate::frame::Content::bytes`] gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frames {
    /// The topic.
    pub topic: Topic,
    /// At most [`FRAMES_AT_ONCE_MAX`] and [`FRAMES_BYTES_MAX`], in the order that they were asked for.
    pub frames: Vec<(Sequence, Bytes)>,
}

impl Wire for Frames {
    const NAME: &'static str = "publisher.frames";
    const BYTES_MAX: usize = 128 + FRAMES_AT_ONCE_MAX * 32 + FRAMES_BYTES_MAX;
}

#[cfg(feature = "actor")]
mod remote {
    use standin_stage::{Lane, Message, RemoteMessage};

    use super::{Frames, WantFrames, WantWords, Words};

    impl Message for Words {
        type Reply = ();
        const LANE: Lane = Lane::Bulk;

        fn bytes(&self) -> usize {
            size_of::<Self>() + self.0.len() * size_of::<super::Word>()
        }
    }

    impl RemoteMessage for Words {}

    impl Message for WantWords {
        type Reply = ();
        const LANE: Lane = Lane::Bulk;

        fn bytes(&self) -> usize {
            size_of::<Self>() + self.0.len() * size_of::<(super::Topic, super::Fence)>()
        }
    }

    impl RemoteMessage for WantWords {}

    impl Message for WantFrames {
        type Reply = ();
        const LANE: Lane = Lane::Bulk;

        fn bytes(&self) -> usize {
            size_of::<Self>() + self.frames.len() * size_of::<super::Sequence>()
        }
    }

    impl RemoteMessage for WantFrames {}

    impl Message for Frames {
        type Reply = ();
        const LANE: Lane = Lane::Bulk;

        fn bytes(&self) -> usize {
            let each = self.frames.iter().map(|(_, bytes)| size_of::<(super::Sequence, super::Bytes)>() + bytes.len());
            size_of::<Self>() + each.sum::<usize>()
        }
    }

    impl RemoteMessage for Frames {}
}
