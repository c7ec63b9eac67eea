//! What a replica writes to its durable log.
//!
//! Records of one epoch merge: reading one twice, or an older one after a newer one, changes nothing. So the log is cut by writing
//! the live records once more at its end and then dropping everything before them. What stands before the record of an epoch
//! binds nobody any more.

use serde::{Deserialize, Serialize};
use standin_foundation::limits::LOG_RECORD_BYTES_MAX;
use standin_foundation::wire::Wire;
use standin_foundation::{Digest, Height, Lsn, View};
use standin_ledger::certificate::{CheckpointCertificate, CheckpointResult, CommitCertificate};
use standin_ledger::{BatchRef, EpochStart, Proposal};

use crate::messages::{PreparedCertificate, Signed, ViewChange};

/// A record of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// A batch's payload is here. The driver writes the payload next to it.
    Batch(BatchRef),
    /// The replica assigned or accepted this proposal in this view, and so may send its pre-prepare or prepare.
    Accepted {
        /// The view.
        view: View,
        /// The proposal.
        proposal: Proposal,
    },
    /// The replica holds this certificate, and so may send its commit.
    Prepared(PreparedCertificate),
    /// A proposal is final.
    Committed {
        /// The proposal.
        proposal: Proposal,
        /// The proof.
        certificate: CommitCertificate,
    },
    /// The replica's own result, and so its checkpoint vote.
    Checkpoint(CheckpointResult),
    /// A checkpoint is stable.
    Stable(CheckpointCertificate),
    /// The replica left all views below this one.
    ViewChange(ViewChange),
    /// The replica, if it is the primary, may send this; in any case the view has begun for it. The message as signed
    /// by the primary, or unsigned before its own has come back.
    NewView(Signed),
    /// The records behind this one are of this epoch: those before it bind nobody any more, but for what is final.
    Epoch(EpochStart),
    /// All that is live has been logged once more, beginning with this record: what stands before may go.
    Base {
        /// The first record to keep.
        from: Lsn,
        /// The stable checkpoint that the records stand on: who has executed less still needs what stands before.
        stable: Height,
    },
}

impl Record {
    /// The payload that stands next to the record.
    pub fn carries(&self) -> Option<&BatchRef> {
        match self {
            Self::Batch(batch) => Some(batch),
            _ => None,
        }
    }

    /// Payloads that the record names: whoever keeps it for its seat must hold them.
    pub fn names(&self) -> Vec<Digest> {
        let proposal = match self {
            Self::Accepted { proposal, .. } | Self::Committed { proposal, .. } => proposal,
            Self::Prepared(certificate) => &certificate.proposal,
            _ => return Vec::new(),
        };
        proposal.batches.iter().map(BatchRef::digest).collect()
    }

    /// If this one marks a base: the first record to keep, and the height that must have been executed without the others.
    pub fn base(&self) -> Option<(Lsn, Height)> {
        match self {
            Self::Base { from, stable } => Some((*from, *stable)),
            _ => None,
        }
    }

    /// Whether nothing that leaves this node waits for the record: the seat is bound by it through later ones alone, or by none. A payload that
    /// an earlier record names is waited for all the same.
    pub fn may_wait(&self) -> bool {
        matches!(self, Self::Batch(_) | Self::Committed { .. } | Self::Stable(_) | Self::Base { .. })
    }
}

impl Wire for Record {
    const NAME: &'static str = "consensus.record";
    const BYTES_MAX: usize = LOG_RECORD_BYTES_MAX;
}
