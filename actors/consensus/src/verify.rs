//! Checking messages before they reach the machine. Pure, but slow: it runs on a pool.

use std::ops::Deref;

use standin_foundation::{Digest, Domain, Epoch, Height, Lsn, Seat, Seats, SecretKey, Signature, Term, View, Writer};
use standin_ledger::certificate::{
    Authority, CheckpointCertificate, CommitCertificate, SeatVote, VoteKind, VoteTarget,
};
use standin_ledger::error::LedgerError;
use standin_ledger::snapshot::Manifest;

use crate::messages::{Body, NewView, Place, PreparedCertificate, Signed, ViewChange};

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
    /// It was sent under a term that has ended: its sender does not know the newest grant.
    #[error("message of seat {seat} under term {found}, its term is {ours}")]
    OldTerm {
        /// The seat.
        seat: Seat,
        /// The message's.
        found: Term,
        /// The highest that is known here.
        ours: Term,
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
    /// Who signs: the holder of a term, in one of its lives.
    fn writer(&self) -> Writer;
    /// The record with which this writer took the seat's log over.
    fn start(&self) -> Lsn;
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
    /// Who signs.
    pub writer: Writer,
    /// Where this writer took the seat's log over.
    pub start: Lsn,
    /// The holder's key.
    pub key: SecretKey,
}

impl Signer for KeySigner {
    fn seat(&self) -> Seat {
        self.seat
    }

    fn writer(&self) -> Writer {
        self.writer
    }

    fn start(&self) -> Lsn {
        self.start
    }

    fn sign(&self, target: &VoteTarget) -> Signature {
        self.key.sign(Domain::Consensus, &target.signed_content(&self.chain, self.seat, self.writer.term))
    }
}

/// Signs an own message that stands behind record `lsn`. What one has signed oneself needs no check.
pub fn sign(signer: &impl Signer, epoch: Epoch, body: Body, lsn: Lsn) -> Verified<Signed> {
    let (signature, writer) = (signer.sign(&body.target(epoch)), signer.writer());
    let place = Place { writer, start: signer.start(), lsn };
    Verified(Signed { place, ..Signed::new(epoch, signer.seat(), writer.term, signature, body) })
}

/// Everything that checking needs to know.
#[derive(Debug)]
pub struct Verifier<A> {
    /// Who may speak for a seat.
    pub authority: A,
    /// Slots that may be open above a stable checkpoint.
    pub window: u64,
}

impl<A: Authority> Verifier<A> {
    /// Checks a message that came over the link of `from`. Only a new-view may be passed on by another than its signer.
    pub fn message(&self, from: Seat, mut message: Signed) -> Result<Verified<Signed>, VerifyError> {
        let signed = message.seat();
        if signed != from {
            if !matches!(message.body, Body::NewView(_)) {
                return Err(VerifyError::WrongSender { signed, sent: from });
            }
            // Another's word for where it stands is worth nothing.
            message.place = Place::default();
        } else if message.place.writer.term != message.vote.term || message.place.start > message.place.lsn {
            return Err(VerifyError::Inconsistent("a message's place in its seat's log contradicts itself"));
        } else if message.vote.term < self.authority.term(signed) {
            // V1. What is passed on is a proof, and is judged by its own term.
            let (found, ours) = (message.vote.term, self.authority.term(signed));
            return Err(VerifyError::OldTerm { seat: signed, found, ours });
        }
        self.signature(&message)?;
        let epoch = message.epoch;
        match &message.body {
            Body::PrePrepare { view, proposal } => {
                proposal.check_limits()?;
                self.check_primary(epoch, *view, signed)?;
            }
            Body::ViewChange(body) => self.view_change(epoch, body)?,
            Body::NewView(body) => self.new_view(epoch, signed, body)?,
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
        self.seats(message.epoch)?;
        Ok(self.authority.verify("consensus message", &message.target(), &message.vote)?)
    }

    /// The seats of an epoch that is known.
    fn seats(&self, epoch: Epoch) -> Result<Seats, LedgerError> {
        self.authority.seats(epoch).ok_or(LedgerError::UnknownEpoch(epoch))
    }

    fn check_primary(&self, epoch: Epoch, view: View, seat: Seat) -> Result<(), VerifyError> {
        if primary_of(view, self.seats(epoch)?) == seat {
            Ok(())
        } else {
            Err(VerifyError::Inconsistent("only the primary of the view may say this"))
        }
    }

    fn view_change(&self, epoch: Epoch, body: &ViewChange) -> Result<(), VerifyError> {
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
            self.prepared(epoch, prepared)?;
            last = height;
        }
        Ok(())
    }

    fn prepared(&self, epoch: Epoch, certificate: &PreparedCertificate) -> Result<(), VerifyError> {
        let primary = primary_of(certificate.view, self.seats(epoch)?);
        let target = VoteTarget {
            kind: VoteKind::Prepare,
            epoch,
            view: certificate.view,
            height: certificate.proposal.height,
            digest: certificate.proposal.digest(),
        };
        let with_kind = |vote: &SeatVote| match vote.seat == primary {
            true => VoteTarget { kind: VoteKind::PrePrepare, ..target },
            false => target,
        };
        self.authority.verify_quorum(epoch, certificate.votes.iter().map(|vote| (with_kind(vote), vote)))?;
        Ok(())
    }

    fn new_view(&self, epoch: Epoch, sender: Seat, body: &NewView) -> Result<(), VerifyError> {
        self.check_primary(epoch, body.view, sender)?;
        let seats = self.seats(epoch)?;
        let mut seen = Seats::default();
        for message in &body.view_changes {
            let Body::ViewChange(view_change) = &message.body else {
                return Err(VerifyError::Inconsistent("a new-view holds something else than view-changes"));
            };
            if view_change.view != body.view || message.epoch != epoch {
                return Err(VerifyError::Inconsistent("a new-view holds a view-change for another view"));
            }
            if !seats.contains(message.seat()) || !seen.insert(message.seat()) {
                return Err(LedgerError::BadSeat(message.seat()).into());
            }
            self.signature(message)?;
            self.view_change(epoch, view_change)?;
        }
        let (found, needed) = (seen.len(), self.authority.quorum(seats.len()));
        if found < needed {
            return Err(LedgerError::NoQuorum { found, needed }.into());
        }
        Ok(())
    }
}

/// The seat that leads a view: they take turns.
pub fn primary_of(view: View, seats: Seats) -> Seat {
    seats.at_turn(view.0).unwrap_or_default()
}
