//! What a replica writes to its durable log.
//!
//! Records merge: reading one twice, or an older one after a newer one, changes nothing. So the log is cut by writing the
//! live records once more at its end and then dropping everything before them.

use serde::{Deserialize, Serialize};
use standin_foundation::View;
use standin_foundation::limits::LOG_RECORD_BYTES_MAX;
use standin_foundation::wire::Wire;
use standin_ledger::certificate::{CheckpointCertificate, CheckpointResult, CommitCertificate};
use standin_ledger::{BatchRef, Proposal};

use crate::messages::{PreparedCertificate, Signed, ViewChange};

/// Number of a record in the log, from 1. Zero means "nothing needs to be durable first".
pub type Lsn = u64;

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
}

impl Wire for Record {
    const NAME: &'static str = "consensus.record";
    const BYTES_MAX: usize = LOG_RECORD_BYTES_MAX;
}
