//! What nodes ask of the auth node, and what it answers.
//!
//! The link says who asks. Statements are signed, since one node carries another's.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use standin_foundation::limits::SEATS_MAX;
use standin_foundation::wire::Wire;
use standin_foundation::{
    Canonical, ClusterId, Digest, Domain, Encoder, Epoch, Incarnation, Lsn, NodeId, PublicKey, SecretKey, Signature,
    Term,
};
use standin_ledger::certificate::{CheckpointCertificate, CheckpointResult, SeatVote};
use standin_ledger::{EpochProof, Member, Order, SignedGrant, SignedMembership};

/// What a node states about its cluster's holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum Claim {
    /// It suspects the holder of this term.
    Suspicion = 1,
    /// It is the holder of this term, and gives the seat up.
    Resignation = 2,
}

/// A node's word about the holder of a term of its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// What it states.
    pub claim: Claim,
    /// The cluster.
    pub cluster: ClusterId,
    /// The term.
    pub term: Term,
    /// Who states it.
    pub node: PublicKey,
    /// Its signature.
    pub signature: Signature,
}

impl Statement {
    fn content(chain: &Digest, claim: Claim, cluster: &ClusterId, term: Term) -> Vec<u8> {
        let mut out = Encoder::default();
        out.digest(chain).u8(claim as u8).bytes(cluster.as_str().as_bytes()).u64(term.0);
        out.into_bytes()
    }

    /// Signs a statement.
    pub fn sign(key: &SecretKey, chain: &Digest, claim: Claim, cluster: ClusterId, term: Term) -> Self {
        let signature = key.sign(Domain::Statement, &Self::content(chain, claim, &cluster, term));
        Self { claim, cluster, term, node: key.public(), signature }
    }

    /// Whether its node signed it.
    pub fn verify(&self, chain: &Digest) -> bool {
        let content = Self::content(chain, self.claim, &self.cluster, self.term);
        self.node.verify(Domain::Statement, &content, &self.signature)
    }
}

/// How often the register has changed, in the auth node's own word: whoever shows it a higher one than it finds proves that the
/// register was brought back from a copy (G5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterCount {
    /// The count.
    pub count: u64,
    /// Made with the key that signs grants.
    pub signature: Signature,
}

impl RegisterCount {
    /// What a node shows that was told of none.
    pub const NONE: Self = Self { count: 0, signature: Signature::NONE };

    fn content(chain: &Digest, count: u64) -> Vec<u8> {
        let mut out = Encoder::default();
        out.digest(chain).u64(count);
        out.into_bytes()
    }

    /// Signs a count.
    pub fn sign(key: &SecretKey, chain: &Digest, count: u64) -> Self {
        Self { count, signature: key.sign(Domain::RegisterCount, &Self::content(chain, count)) }
    }

    /// Whether this key signed it.
    pub fn verify(&self, key: &PublicKey, chain: &Digest) -> bool {
        key.verify(Domain::RegisterCount, &Self::content(chain, self.count), &self.signature)
    }
}

/// What a node asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant, reason = "few, and sent at once")]
pub enum Request {
    /// The first grant of a cluster that never had one.
    Register(Register),
    /// The sender wants to become holder in the place of the one before.
    Update(Update),
    /// The holder wants another in-sync set.
    SetChange(SetChange),
    /// The sender lives.
    KeepAlive(KeepAlive),
    /// The holder of another seat signed a wrong result.
    ReportWrong(Box<WrongResult>),
    /// An epoch has begun that the auth node does not know: what it judges may be of it.
    Epoch(Box<BegunEpoch>),
    /// Who holds this cluster's seat, or every seat.
    LookUp {
        /// The cluster; none for all.
        cluster: Option<ClusterId>,
    },
    /// What the sender durably knows of its cluster, for a register that may have lost its end.
    Recall {
        /// The cluster.
        cluster: ClusterId,
        /// Its newest grant.
        newest: Option<SignedGrant>,
        /// The newest list of its members, unless that is the genesis'.
        membership: Option<SignedMembership>,
        /// It refuses grants of registers older than this one.
        promised: Incarnation,
    },
}

/// That an epoch has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BegunEpoch {
    /// The proof.
    pub proof: EpochProof,
    /// The grants that the votes in it are judged by: an auth node need not have made them itself.
    pub grants: Vec<SignedGrant>,
}

/// Asks for the first grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// The cluster.
    pub cluster: ClusterId,
    /// The members to begin with: the sender and those that it hears.
    pub in_sync: BTreeSet<NodeId>,
    /// The session of the sender's log.
    pub session: u64,
}

/// Asks to take the seat over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// The cluster.
    pub cluster: ClusterId,
    /// The term that is to end.
    pub term: Term,
    /// The sender and those members of the set that it can reach.
    pub in_sync: BTreeSet<NodeId>,
    /// Head of the sender's durable log.
    pub head: Lsn,
    /// The session of the sender's log.
    pub session: u64,
    /// Proof that the sender's cluster is this one: what it got with the first grant.
    pub ticket: Bytes,
    /// Suspicions, or the holder's resignation.
    pub statements: Vec<Statement>,
}

/// Asks for another in-sync set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetChange {
    /// The cluster.
    pub cluster: ClusterId,
    /// The holder's term.
    pub term: Term,
    /// The set that is wanted.
    pub in_sync: BTreeSet<NodeId>,
}

/// What a seat signed, against what a quorum signed: it proves itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrongResult {
    /// The cluster whose seat was wrong.
    pub cluster: ClusterId,
    /// What it voted for.
    pub result: CheckpointResult,
    /// Its vote.
    pub vote: SeatVote,
    /// What the quorum voted for.
    pub certificate: CheckpointCertificate,
}

/// Says that the sender lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepAlive {
    /// The cluster.
    pub cluster: ClusterId,
    /// The sender's newest term.
    pub term: Term,
    /// What it has released, if it is the holder.
    pub released: Option<Lsn>,
    /// Other seats that it hears, if it is the holder.
    pub heard_seats: Option<u16>,
    /// The highest count of register changes that it was told.
    pub register_count: RegisterCount,
    /// It has no ticket: what came with the first grant was lost.
    pub lacks_ticket: bool,
}

impl Request {
    /// The cluster that the request is about.
    pub fn cluster(&self) -> Option<&ClusterId> {
        match self {
            Self::Register(Register { cluster, .. })
            | Self::Update(Update { cluster, .. })
            | Self::SetChange(SetChange { cluster, .. })
            | Self::KeepAlive(KeepAlive { cluster, .. })
            | Self::Recall { cluster, .. } => Some(cluster),
            Self::ReportWrong(report) => Some(&report.cluster),
            Self::LookUp { cluster } => cluster.as_ref(),
            Self::Epoch(_) => None,
        }
    }
}

/// Why a request was refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The sender is not on the admission list for this cluster.
    #[error("the node is not admitted to this cluster")]
    NotAdmitted,
    /// The chain has removed the cluster, or has not added it yet.
    #[error("the cluster holds no seat in epoch {epoch}")]
    NoSeat {
        /// The newest epoch that the auth node knows.
        epoch: Epoch,
    },
    /// The chain has another auth key.
    #[error("another auth node signs grants since epoch {epoch}")]
    NotIssuer {
        /// The newest epoch that this one knows.
        epoch: Epoch,
    },
    /// The ticket does not open, or is another cluster's.
    #[error("the ticket is not this cluster's")]
    BadTicket,
    /// The cluster has had a grant: later holders come by update.
    #[error("the cluster is registered already")]
    Registered,
    /// The cluster never had a grant.
    #[error("the cluster is not registered yet")]
    NotRegistered,
    /// The request is about a term that is not the current one.
    #[error("the current term is {current}")]
    OldTerm {
        /// The current term.
        current: Term,
    },
    /// Only a member of the in-sync set may take over.
    #[error("the node is not in the in-sync set")]
    NotInSync,
    /// Only the holder may change the set.
    #[error("the node is not the holder")]
    NotHolder,
    /// An operator or a clean resync must clear the node first.
    #[error("the node may not be elected: its results were wrong")]
    NotElectable,
    /// The wanted set is not one that the sender may ask for.
    #[error("the wanted in-sync set is not allowed: {why}")]
    BadSet {
        /// What is wrong with it.
        why: SetFault,
    },
    /// The sender's log ends below what the holder has released.
    #[error("the log ends at {head}, and {released} has been released")]
    LogTooShort {
        /// The sender's head.
        head: Lsn,
        /// What the holder has released.
        released: Lsn,
    },
    /// The holder lives, as far as can be known.
    #[error("there is no ground: {missing} live member(s) of the set do not suspect the holder")]
    NoGround {
        /// Members whose suspicion is missing.
        missing: u16,
    },
    /// The sites have lost each other, and the cluster is to move to one of them (S4).
    #[error("the cluster is to move to the site {site}, since the sites have lost each other")]
    Elsewhere {
        /// The site.
        site: String,
    },
    /// The register may have lost its end: every admitted node must say what it knows first.
    #[error("the register is being recovered")]
    Recovering,
    /// The lineage has no term left.
    #[error(
        "the cluster has used up the terms of its lineage: operators must order it anew (`standin reconfigure hold`)"
    )]
    OutOfTerms,
    /// An order that too few of the operators of the newest epoch approve that this auth node knows.
    #[error("the order does not count: {what}")]
    NotApproved {
        /// Why.
        what: String,
    },
    /// The members have been changed since the order was given.
    #[error(
        "the cluster's members have changed since, their list has version {version} of epoch {listed} now: look at it, and order again"
    )]
    Changed {
        /// The epoch in which the chain last said who they are.
        listed: Epoch,
        /// The version of the list since then.
        version: u64,
    },
    /// The holder cannot be removed.
    #[error("the node holds the seat: switch it to another member first")]
    IsHolder,
    /// A member that cannot be.
    #[error("{what}")]
    BadMember {
        /// Why.
        what: String,
    },
    /// A report of a wrong result whose evidence does not hold, or that is about a term that has ended.
    #[error("the report does not show that the holder is wrong")]
    BadEvidence,
}

/// What is wrong with a wanted in-sync set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum SetFault {
    /// The sender is not in it.
    #[error("the sender is not in it")]
    WithoutSender,
    /// Only the holder may add a member.
    #[error("only the holder may add a member")]
    Adds,
    /// It holds a node that is not admitted.
    #[error("it holds a node that is not admitted")]
    Stranger,
    /// It is too large.
    #[error("it is too large")]
    TooLarge,
}

/// What the auth node answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The grant that the request led to, now or when it came first.
    Granted {
        /// The grant.
        grant: SignedGrant,
        /// A ticket of the cluster, sealed to the auth node's key.
        ticket: Bytes,
    },
    /// Nothing was changed.
    Refused {
        /// Why.
        why: Refusal,
        /// The cluster's current grant.
        current: Option<SignedGrant>,
    },
    /// The keep-alive was taken.
    Alive {
        /// The cluster's current grant, where the sender's term is older.
        newer: Option<SignedGrant>,
        /// Changes of the register so far.
        register_count: RegisterCount,
        /// The register's life.
        incarnation: Incarnation,
        /// The cluster is to switch away from the holder of this term.
        forced: Option<Term>,
        /// The auth node must hear what the sender durably knows.
        recall: bool,
        /// The cluster's ticket, for a sender that lacks it.
        ticket: Option<Bytes>,
    },
    /// Current grants, and who belongs to the clusters whose members are not the genesis' any more.
    Actives {
        /// The grants.
        grants: Vec<SignedGrant>,
        /// The memberships.
        memberships: Vec<SignedMembership>,
        /// The newest epoch that the auth node knows.
        epoch: Epoch,
    },
}

/// What operators order about a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Admits a node; of one that is admitted, changes what is said of it.
    Admit(Member),
    /// Removes a node that is not the holder.
    Remove(NodeId),
}

/// What operators order about the members of a cluster. It counts for one version of the list of its members, and so once: grants and changes of the in-sync set do not
/// touch that, and a register that begins anew has lists of a later epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberOrder {
    /// The chain.
    pub chain: Digest,
    /// The cluster.
    pub cluster: ClusterId,
    /// The epoch in which the chain last said who its members are.
    pub listed: Epoch,
    /// The version of the list since then that the operators have seen.
    pub version: u64,
    /// What is to be done.
    pub action: Action,
    /// The node's results were wrong, the operators know it, and it may be elected again. One that is caught after they have signed stays barred.
    pub clears: bool,
}

impl Canonical for MemberOrder {
    fn encode(&self, out: &mut Encoder) {
        out.digest(&self.chain).bytes(self.cluster.as_str().as_bytes()).u64(self.listed.0).u64(self.version);
        out.u8(u8::from(self.clears));
        match &self.action {
            Action::Admit(Member { key, priority, site, address }) => {
                out.u8(1).raw(key.as_bytes()).u8(*priority).bytes(site.as_bytes()).bytes(address.as_bytes())
            }
            Action::Remove(node) => out.u8(2).raw(node.as_bytes()),
        };
    }
}

impl Order for MemberOrder {
    const DOMAIN: Domain = Domain::Order;

    fn chain(&self) -> &Digest {
        &self.chain
    }
}

impl Wire for Request {
    const NAME: &'static str = "auth.request";
    const BYTES_MAX: usize = 1024 + EpochProof::BYTES_MAX + SEATS_MAX * SignedGrant::BYTES_MAX;
}

impl Wire for Answer {
    const NAME: &'static str = "auth.answer";
    const BYTES_MAX: usize = 1024 + SEATS_MAX * (SignedGrant::BYTES_MAX + SignedMembership::BYTES_MAX);
}
