//! Checking messages before they reach the machine. Pure, but slow: it runs on a pool.

use std::ops::Deref;

use standin_foundation::{Digest, Domain, Epoch, Height, Seat, SecretKey, Signature, Term, View};
use standin_ledger::certificate::{
    Authority, CheckpointCertificate, CommitCertificate, SeatVote, VoteKind, VoteTarget,
};
use standin_ledger::error::LedgerError;
use standin_ledger::snapshot::Manifest;

use crate::messages::{Body, NewView, PreparedCertificate, Signed, ViewChange};

/// Why a message is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// A signature or a certificate in it does not hold.
    #[error(transparent)]
    Certificate(#[from] LedgerError),
    /// It was signed by one seat and came from another.
    #[error("message of seat {signed} came from seat {sent}")]
    WrongSender {
        /// Whose signature it carries.
        signed: Seat,
        /// Whose link it came over.
        sent: Seat,
    },
    /// It is of another epoch.
    #[error("message of epoch {found}, this is epoch {ours}")]
    WrongEpoch {
        /// The message's.
        found: Epoch,
        /// Ours.
        ours: Epoch,
    },
    /// Its content contradicts itself.
    #[error("inconsistent message: {0}")]
    Inconsistent(&'static str),
}

/// A value that has been checked. It can be made here only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Verified<T> {
    /// The value.
    pub fn into_inner(self) -> T {
        self.0
    }
}

/// Signs for a seat.
pub trait Signer {
    /// The seat.
    fn seat(&self) -> Seat;
    /// The term under which it signs.
    fn term(&self) -> Term;
    /// Signs what `target` is about.
    fn sign(&self, target: &VoteTarget) -> Signature;
}

/// A seat's holder with its key.
#[derive(Debug)]
pub struct KeySigner {
    /// The chain's genesis digest.
    pub chain: Digest,
    /// The seat.
    pub seat: Seat,
    /// The term.
    pub term: Term,
    /// The holder's key.
    pub key: SecretKey,
}

impl Signer for KeySigner {
    fn seat(&self) -> Seat {
        self.seat
    }

    fn term(&self) -> Term {
        self.term
    }

    fn sign(&self, target: &VoteTarget) -> Signature {
        self.key.sign(Domain::Consensus, &target.signed_content(&self.chain, self.seat, self.term))
    }
}

/// Signs an own message. What one has signed oneself needs no check.
pub fn sign(signer: &impl Signer, epoch: Epoch, body: Body) -> Verified<Signed> {
    let signature = signer.sign(&body.target(epoch));
    Verified(Signed::new(epoch, signer.seat(), signer.term(), signature, body))
}

/// Everything that checking needs to know.
#[derive(Debug)]
pub struct Verifier<A> {
    /// Who may speak for a seat.
    pub authority: A,
    /// The epoch.
    pub epoch: Epoch,
    /// Slots that may be open above a stable checkpoint.
    pub window: u64,
}

impl<A: Authority> Verifier<A> {
    /// Checks a message that came over the link of `from`. Only a new-view may be passed on by another than its signer.
    pub fn message(&self, from: Seat, message: Signed) -> Result<Verified<Signed>, VerifyError> {
        let signed = message.seat();
        if signed != from && !matches!(message.body, Body::NewView(_)) {
            return Err(VerifyError::WrongSender { signed, sent: from });
        }
        self.signature(&message)?;
        match &message.body {
            Body::PrePrepare { view, proposal } => {
                proposal.check_limits()?;
                self.check_primary(*view, signed)?;
            }
            Body::ViewChange(body) => self.view_change(body)?,
            Body::NewView(body) => self.new_view(signed, body)?,
            Body::Prepare { .. } | Body::Commit { .. } | Body::Checkpoint(_) => {}
        }
        Ok(Verified(message))
    }

    /// Checks a block's certificate and that it belongs to this proposal.
    pub fn commit(
        &self,
        height: Height,
        digest: Digest,
        certificate: CommitCertificate,
    ) -> Result<Verified<CommitCertificate>, VerifyError> {
        if certificate.height != height || certificate.digest != digest {
            return Err(VerifyError::Inconsistent("a block's certificate is for another proposal"));
        }
        certificate.verify(&self.authority)?;
        Ok(Verified(certificate))
    }

    /// Checks a checkpoint certificate.
    pub fn checkpoint(
        &self,
        certificate: CheckpointCertificate,
    ) -> Result<Verified<CheckpointCertificate>, VerifyError> {
        certificate.verify(&self.authority)?;
        Ok(Verified(certificate))
    }

    /// Checks a manifest's certificate.
    pub fn manifest(&self, manifest: Manifest) -> Result<Verified<Manifest>, VerifyError> {
        manifest.certificate.verify(&self.authority)?;
        Ok(Verified(manifest))
    }

    fn signature(&self, message: &Signed) -> Result<(), VerifyError> {
        if message.epoch != self.epoch {
            return Err(VerifyError::WrongEpoch { found: message.epoch, ours: self.epoch });
        }
        if self.authority.verify(&message.target(), &message.vote) {
            Ok(())
        } else {
            Err(LedgerError::BadSignature { what: "consensus message" }.into())
        }
    }

    fn check_primary(&self, view: View, seat: Seat) -> Result<(), VerifyError> {
        if primary_of(view, self.authority.seats()) == seat {
            Ok(())
        } else {
            Err(VerifyError::Inconsistent("only the primary of the view may say this"))
        }
    }

    fn view_change(&self, body: &ViewChange) -> Result<(), VerifyError> {
        if let Some(certificate) = &body.stable {
            certificate.verify(&self.authority)?;
        }
        let stable = body.stable_height();
        let mut last = stable;
        for prepared in &body.prepared {
            let height = prepared.proposal.height;
            if height <= last || height > stable.plus(self.window) || prepared.view >= body.view {
                return Err(VerifyError::Inconsistent("a prepared certificate is out of place"));
            }
            self.prepared(prepared)?;
            last = height;
        }
        Ok(())
    }

    fn prepared(&self, certificate: &PreparedCertificate) -> Result<(), VerifyError> {
        let primary = primary_of(certificate.view, self.authority.seats());
        let target = VoteTarget {
            kind: VoteKind::Prepare,
            epoch: self.epoch,
            view: certificate.view,
            height: certificate.proposal.height,
            digest: certificate.proposal.digest(),
        };
        let with_kind = |vote: &SeatVote| match vote.seat == primary {
            true => VoteTarget { kind: VoteKind::PrePrepare, ..target },
            false => target,
        };
        self.authority.verify_quorum(certificate.votes.iter().map(|vote| (with_kind(vote), vote)))?;
        Ok(())
    }

    fn new_view(&self, sender: Seat, body: &NewView) -> Result<(), VerifyError> {
        self.check_primary(body.view, sender)?;
        let mut seen = vec![false; self.authority.seats()];
        for message in &body.view_changes {
            let Body::ViewChange(view_change) = &message.body else {
                return Err(VerifyError::Inconsistent("a new-view holds something else than view-changes"));
            };
            if view_change.view != body.view {
                return Err(VerifyError::Inconsistent("a new-view holds a view-change for another view"));
            }
            match seen.get_mut(message.seat().index()) {
                Some(seen) if !*seen => *seen = true,
                _ => return Err(LedgerError::BadSeat(message.seat()).into()),
            }
            self.signature(message)?;
            self.view_change(view_change)?;
        }
        let found = seen.iter().filter(|seen| **seen).count();
        let needed = self.authority.quorum();
        if found < needed {
            return Err(LedgerError::NoQuorum { found, needed }.into());
        }
        Ok(())
    }
}

/// The seat that leads a view.
pub fn primary_of(view: View, seats: usize) -> Seat {
    let seats = u64::try_from(seats).unwrap_or(1).max(1);
    Seat((view.0 % seats) as u16)
}
