//! What replicas say to each other.
//!
//! [`Signed`] messages bind the seat that sends them: they may be shown to a third party. [`Note`]s bind nobody; the
//! link they come over says who sent them.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use standin_foundation::limits::{BATCH_BYTES_MAX, FRAME_BYTES_MAX};
use standin_foundation::wire::Wire;
use standin_foundation::{Canonical, Digest, Encoder, Epoch, Height, Lsn, Seat, Signature, Term, View, Writer};
use standin_ledger::certificate::{
    CheckpointCertificate, CheckpointResult, CommitCertificate, SeatVote, VoteKind, VoteTarget,
};
use standin_ledger::snapshot::{Chunk, Manifest};
use standin_ledger::{EpochProof, Proposal, SignedGrant};

/// The content of a binding message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// The primary assigns a proposal to its slot.
    PrePrepare {
        /// The view.
        view: View,
        /// The proposal, which names its slot.
        proposal: Proposal,
    },
    /// A backup accepts an assignment.
    Prepare {
        /// The view.
        view: View,
        /// The slot.
        height: Height,
        /// Digest of the proposal.
        digest: Digest,
    },
    /// A replica holds a prepared certificate for an assignment.
    Commit {
        /// The view.
        view: View,
        /// The slot.
        height: Height,
        /// Digest of the proposal.
        digest: Digest,
    },
    /// A replica's result at a checkpoint.
    Checkpoint(CheckpointResult),
    /// A replica leaves all views below this one.
    ViewChange(ViewChange),
    /// The primary of a view begins it.
    NewView(NewView),
}

/// A replica leaves all views below `view`, and says what it knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewChange {
    /// The view that it wants.
    pub view: View,
    /// Its last stable checkpoint; none at genesis.
    pub stable: Option<CheckpointCertificate>,
    /// For each slot above: the prepared certificate of the highest view, by rising height.
    pub prepared: Vec<PreparedCertificate>,
}

impl ViewChange {
    /// Height of the stable checkpoint.
    pub fn stable_height(&self) -> Height {
        self.stable.as_ref().map_or(Height(0), |certificate| certificate.result.height)
    }
}

/// The primary's proof that its view may begin: view-changes of a quorum. What must be proposed again follows from them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewView {
    /// The view.
    pub view: View,
    /// View-changes for this view, of distinct seats.
    pub view_changes: Vec<Signed>,
}

/// A quorum of seats accepted `proposal` in `view`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparedCertificate {
    /// The view in which it was prepared; the proposal itself may be older.
    pub view: View,
    /// The proposal.
    pub proposal: Proposal,
    /// The votes: the primary's pre-prepare, and prepares of the others.
    pub votes: Vec<SeatVote>,
}

/// Where in its seat's log a message stands. The link says that its sender said so; it proves nothing to others, and is not
/// signed: receivers use it to notice a log that has lost its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Place {
    /// Who writes the log.
    pub writer: Writer,
    /// Where this writer began: the last record that it took over.
    pub start: Lsn,
    /// The record that had to be released before the message left.
    pub lsn: Lsn,
}

/// A binding message with its sender.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// The epoch.
    pub epoch: Epoch,
    /// Where it stands in its seat's log.
    pub place: Place,
    /// The sender's seat, term and signature.
    pub vote: SeatVote,
    /// The content.
    pub body: Body,
}

impl Wire for Signed {
    const NAME: &'static str = "consensus.signed";
    const BYTES_MAX: usize = FRAME_BYTES_MAX - 1024;
}

impl Body {
    /// What the signature of a message with this body is about. It covers the body only through a digest, so that
    /// votes add up to certificates.
    pub fn target(&self, epoch: Epoch) -> VoteTarget {
        let target = |kind, view, height, digest| VoteTarget { kind, epoch, view, height, digest };
        match self {
            Self::PrePrepare { view, proposal } => {
                target(VoteKind::PrePrepare, *view, proposal.height, proposal.digest())
            }
            Self::Prepare { view, height, digest } => target(VoteKind::Prepare, *view, *height, *digest),
            Self::Commit { view, height, digest } => target(VoteKind::Commit, *view, *height, *digest),
            Self::Checkpoint(result) => result.target(epoch),
            Self::ViewChange(body) => {
                target(VoteKind::ViewChange, body.view, Height(0), Digest::sha256(&body.canonical_bytes()))
            }
            Self::NewView(body) => {
                target(VoteKind::NewView, body.view, Height(0), Digest::sha256(&body.canonical_bytes()))
            }
        }
    }
}

impl Body {
    /// The view that the message is about; view 0 for a checkpoint, which has none.
    pub fn view(&self) -> View {
        match self {
            Self::PrePrepare { view, .. } | Self::Prepare { view, .. } | Self::Commit { view, .. } => *view,
            Self::Checkpoint(_) => View(0),
            Self::ViewChange(body) => body.view,
            Self::NewView(body) => body.view,
        }
    }
}

impl Signed {
    /// Puts a signature under a body. It is not checked.
    pub fn new(epoch: Epoch, seat: Seat, term: Term, signature: Signature, body: Body) -> Self {
        Self { epoch, place: Place::default(), vote: SeatVote { seat, term, signature }, body }
    }

    /// What the signature is about.
    pub fn target(&self) -> VoteTarget {
        self.body.target(self.epoch)
    }

    /// The sender.
    pub fn seat(&self) -> Seat {
        self.vote.seat
    }
}

fn encode_votes(votes: &[SeatVote], out: &mut Encoder) {
    out.length(votes.len());
    for vote in votes {
        out.u16(vote.seat.0).u64(vote.term.0).raw(vote.signature.as_bytes());
    }
}

impl Canonical for PreparedCertificate {
    fn encode(&self, out: &mut Encoder) {
        out.u64(self.view.0).digest(&self.proposal.digest());
        encode_votes(&self.votes, out);
    }
}

impl Canonical for ViewChange {
    fn encode(&self, out: &mut Encoder) {
        out.u64(self.view.0);
        match &self.stable {
            None => {
                out.u8(0);
            }
            Some(certificate) => {
                out.u8(1).u64(certificate.epoch.0).digest(&certificate.result.digest());
                encode_votes(&certificate.votes, out);
            }
        }
        out.length(self.prepared.len());
        for certificate in &self.prepared {
            certificate.encode(out);
        }
    }
}

impl Canonical for NewView {
    fn encode(&self, out: &mut Encoder) {
        out.u64(self.view.0).length(self.view_changes.len());
        for message in &self.view_changes {
            let target = message.target();
            out.u64(target.epoch.0).digest(&target.digest);
            encode_votes(std::slice::from_ref(&message.vote), out);
        }
    }
}

/// Where a replica stands, told to all at an interval. It is what makes others send again what was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Status {
    /// The epoch that it votes in.
    pub epoch: Epoch,
    /// The view that it is in, or left last.
    pub view: View,
    /// The view that it wants, while it changes views.
    pub changing_to: Option<View>,
    /// Its last stable checkpoint.
    pub stable: Height,
    /// Up to here it has committed without a gap.
    pub committed: Height,
}

/// A message that binds nobody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Note {
    /// Where the sender stands.
    Status(Status),
    /// The sender holds these batches, and waits for their order.
    Offer(Vec<Digest>),
    /// Asks for batches.
    FetchBatches(Vec<Digest>),
    /// Asks for committed blocks from a height on.
    FetchBlocks {
        /// The first height.
        from: Height,
    },
    /// Asks for the manifest of the newest snapshot.
    FetchManifest,
    /// Asks for a chunk of the snapshot at `height`.
    FetchChunk {
        /// The snapshot's height.
        height: Height,
        /// The chunk's index.
        index: u32,
    },
    /// The sender does not have what was asked for.
    Unavailable,
    /// A checkpoint certificate that the receiver seems to lack.
    Stable(CheckpointCertificate),
    /// A grant that the receiver seems to lack, or asked for.
    Grant(Box<SignedGrant>),
    /// Asks for the grant of a seat for a term: without it a message of the receiver's cannot be judged.
    WantGrant(Seat, Term),
    /// Asks for the proof that an epoch has begun.
    FetchEpoch(Epoch),
    /// That an epoch has begun.
    Epoch(Box<EpochProof>),
}

impl Wire for Note {
    const NAME: &'static str = "consensus.note";
    const BYTES_MAX: usize = 64 * 1024;
}

/// A committed block on its way to a replica that lacks it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockTransfer {
    /// What was agreed on.
    pub proposal: Proposal,
    /// The proof.
    pub certificate: CommitCertificate,
    /// The payloads, as the proposal names them.
    pub payloads: Vec<Bytes>,
}

/// The payload of a batch, pushed by its maker or fetched: it travels behind votes and notes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchPayload(pub Bytes);

impl Wire for BatchPayload {
    const NAME: &'static str = "consensus.batch";
    const BYTES_MAX: usize = BATCH_BYTES_MAX + 64;
}

/// Transactions of clients that came to a member which does not speak for its seat: for the one that does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward(pub Vec<Bytes>);

impl Wire for Forward {
    const NAME: &'static str = "consensus.forward";
    const BYTES_MAX: usize = BATCH_BYTES_MAX + 64 * 1024;
}

/// What a seat that is behind asked for: it travels behind everything else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Transfer {
    /// Committed blocks, by rising height.
    Blocks(Vec<BlockTransfer>),
    /// What a snapshot consists of.
    Manifest(Box<Manifest>),
    /// A part of a snapshot.
    Chunk {
        /// The snapshot's height.
        height: Height,
        /// The chunk's index.
        index: u32,
        /// The chunk.
        chunk: Chunk,
    },
}

impl Wire for Transfer {
    const NAME: &'static str = "consensus.transfer";
    const BYTES_MAX: usize = FRAME_BYTES_MAX - 1024;
}
