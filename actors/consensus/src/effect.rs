//! What goes into the machine, and what it wants done.

use standin_foundation::{Digest, Epoch, Height, Lsn, Seat, View};
use standin_ledger::certificate::{CheckpointCertificate, CheckpointResult, CommitCertificate, SeatVote};
use standin_ledger::epoch::{EpochStart, Epochs};
use standin_ledger::snapshot::{Chunk, Manifest, Snapshot};
use standin_ledger::{BatchRef, Proposal};

use crate::messages::{Body, Note, Signed, Status};
use crate::record::Record;
use crate::verify::Verified;

/// A fact that the machine is told.
#[derive(Debug)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// A binding message, checked; also the machine's own, when it has left.
    MessageReceived(Verified<Signed>),
    /// A seat says where it stands.
    StatusReceived(Seat, Status),
    /// A seat holds batches that wait for their order.
    OfferReceived(Seat, Vec<Digest>),
    /// A batch's payload has arrived, is well-formed, and its clients' signatures hold.
    BatchReceived {
        /// The seat that it came from.
        from: Seat,
        /// Its name.
        batch: BatchRef,
        /// A final block needs it: it is taken whatever waits already.
        needed: bool,
    },
    /// Blocks that were asked for, with certificates that have been checked. Their payloads came as batches before.
    BlocksReceived {
        /// The seat that sent them.
        from: Seat,
        /// The blocks, by rising height.
        blocks: Vec<(Proposal, Verified<CommitCertificate>)>,
    },
    /// A seat does not have what was asked for.
    UnavailableReceived(Seat),
    /// A stable certificate, checked.
    StableReceived(Verified<CheckpointCertificate>),
    /// A manifest whose certificate has been checked.
    ManifestReceived(Seat, Verified<Manifest>),
    /// A chunk of a snapshot.
    ChunkReceived {
        /// The seat that sent it.
        from: Seat,
        /// The snapshot's height.
        height: Height,
        /// The chunk's index.
        index: u32,
        /// The chunk, not checked: the machine checks it against the manifest.
        chunk: Chunk,
    },
    /// A committed block has been executed.
    Executed {
        /// Its height.
        height: Height,
        /// The result, at a checkpoint.
        checkpoint: Option<CheckpointResult>,
        /// Where the next epoch begins, while one is ordered and has not begun.
        ordered: Option<EpochStart>,
    },
    /// All who must agree computed what this node computed at this height: the seat may vote for it.
    ResultAgreed(Height),
    /// A snapshot is durable, and execution goes on from it.
    SnapshotInstalled {
        /// Its proof.
        certificate: CheckpointCertificate,
        /// What its state says of the epochs.
        epochs: Epochs,
    },
    /// The table of this epoch is durable here, and with it those of all before: its messages can be judged.
    EpochKnown(Epoch),
    /// The log is long: write the live records once more.
    LogFull,
    /// A record of the seat's holder, next in its log. For a shadow.
    Followed {
        /// Its number.
        lsn: Lsn,
        /// The record; none for one that says something to be final without a proof.
        record: Option<Record>,
    },
    /// This node speaks for the seat from now on.
    Activated,
    /// A new term of the same holder: nothing that was held back will leave, all of it is sent anew.
    Rebased,
    /// Another seat has a new holder, which lacks what was said to the one before.
    HolderChanged(Seat),
}

/// To whom a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recipient {
    /// To all other seats; a binding message comes back to its sender, too.
    All,
    /// To one seat.
    One(Seat),
}

/// Something to be done, in the order of the list.
#[derive(Debug)]
pub enum Effect {
    /// Append a record to the log. Records get consecutive numbers.
    Log {
        /// The record's number.
        lsn: Lsn,
        /// The record.
        record: Record,
    },
    /// Sign and send a binding message, but not before record `after` is durable.
    Send {
        /// To whom.
        to: Recipient,
        /// The epoch in which it is said.
        epoch: Epoch,
        /// What.
        body: Body,
        /// The record that must be durable first.
        after: Lsn,
    },
    /// Pass on a message that another seat signed.
    Relay {
        /// To whom.
        to: Seat,
        /// The message.
        message: Box<Signed>,
    },
    /// Send a message that binds nobody.
    Tell {
        /// To whom.
        to: Recipient,
        /// What.
        note: Note,
    },
    /// Execute this block, next in order.
    Commit {
        /// What was agreed on.
        proposal: Proposal,
        /// The proof.
        certificate: CommitCertificate,
    },
    /// This checkpoint is stable: everything before it can be forgotten by consensus.
    Stabilize(CheckpointCertificate),
    /// f+1 other seats voted for this result.
    ResultBacked(CheckpointResult),
    /// Make this snapshot durable and go on from it; then say [`Input::SnapshotInstalled`].
    InstallSnapshot(Box<Snapshot>, CheckpointCertificate),
    /// These batches are not waited for any more: they were refused, or may have been ordered in blocks that a snapshot
    /// stands for. Their payloads may be dropped.
    DropBatches(Vec<Digest>),
    /// These batches were ordered long ago: their payloads may be dropped.
    ForgetBatches(Vec<Digest>),
    /// Something that an operator wants to know.
    Report(Event),
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The replica left its view.
    ViewChangeStarted {
        /// The view that it wants.
        to: View,
        /// Why.
        cause: ViewChangeCause,
    },
    /// A view began.
    ViewEntered {
        /// The view.
        view: View,
        /// Its primary.
        primary: Seat,
    },
    /// A seat said two different things where it may say one.
    Equivocation {
        /// The seat.
        seat: Seat,
        /// Both votes with what they are about.
        evidence: Box<[(standin_ledger::VoteTarget, SeatVote); 2]>,
    },
    /// A seat's result differs from that of a quorum.
    WrongResult {
        /// The seat.
        seat: Seat,
        /// What it signed, and its signature: the evidence against the certificate.
        result: CheckpointResult,
        /// Its vote.
        vote: SeatVote,
        /// What the quorum signed.
        certificate: Box<CheckpointCertificate>,
    },
    /// This replica's own result differs from that of a quorum: it must not go on.
    Diverged {
        /// What it computed.
        own: CheckpointResult,
        /// What the quorum signed.
        certificate: Box<CheckpointCertificate>,
    },
    /// What the chain ordered has taken effect: an epoch began.
    EpochBegan(EpochStart),
    /// With this epoch the replica's cluster holds its seat no more: the replica stands still.
    Removed(EpochStart),
    /// Two certificates contradict each other: more than f seats are faulty. The node must stop.
    SafetyViolated {
        /// Where.
        height: Height,
        /// What was committed, and what contradicts it.
        digests: [Digest; 2],
    },
    /// Catch-up began.
    CatchUpStarted {
        /// The height that others have committed.
        target: Height,
        /// Whether by a snapshot.
        snapshot: bool,
    },
    /// A seat's log begins, in a new term or life, below what it had said before, or in one that is known elsewhere than it did: it has lost
    /// its end. Nothing that stands in that log is counted.
    RolledBack {
        /// The seat.
        seat: Seat,
        /// Where it says that the writer began.
        start: Lsn,
        /// What was seen before.
        seen: Lsn,
    },
    /// The seat voted for another result than this node has computed: an earlier holder was wrong, or this node is, or its
    /// state machine is not deterministic. The proven result will tell; this node does not vote.
    Disputed {
        /// What this node computed.
        computed: CheckpointResult,
        /// What was voted for.
        voted: CheckpointResult,
    },
    /// A seat's batch was not taken, since too many of it wait.
    BatchRefused {
        /// The seat.
        seat: Seat,
    },
    /// A chunk or a block was refused.
    BadTransfer {
        /// Who sent it.
        seat: Seat,
    },
}

/// Why a replica leaves its view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ViewChangeCause {
    /// Nothing was committed in time although there was something to commit.
    NoProgress,
    /// One batch was passed over for too long.
    Starvation,
    /// f+1 others left it.
    Joined,
    /// A seat that had left it alone could not come back in another way.
    Rejoin,
    /// The view that was wanted did not begin in time.
    NoNewView,
}
