//! Votes that prove something to a third party, and certificates made of them.

use serde::{Deserialize, Serialize};
use standin_foundation::{Digest, Encoder, Epoch, Height, Seat, Seats, Signature, Term, View};

use crate::error::LedgerError;

/// What a consensus message says. The number is part of what is signed and never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum VoteKind {
    /// The primary assigns a proposal to a slot.
    PrePrepare = 1,
    /// A backup accepts the assignment.
    Prepare = 2,
    /// A replica holds a prepared certificate.
    Commit = 3,
    /// A replica's result at a checkpoint.
    Checkpoint = 4,
    /// A replica has left a view.
    ViewChange = 5,
    /// The new primary begins a view.
    NewView = 6,
}

/// What a vote is about: the same for all votes that add up to one certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VoteTarget {
    /// The kind.
    pub kind: VoteKind,
    /// The epoch.
    pub epoch: Epoch,
    /// The view; 0 where the kind has none.
    pub view: View,
    /// The slot; 0 where the kind has none.
    pub height: Height,
    /// Digest of the content: of a proposal, a checkpoint's result, or a message's body.
    pub digest: Digest,
}

impl VoteTarget {
    /// The bytes that a seat signs: chain, epoch, seat, term, kind, view, height, digest.
    pub fn signed_content(&self, chain: &Digest, seat: Seat, term: Term) -> Vec<u8> {
        let mut out = Encoder::with_capacity(128);
        out.digest(chain).u64(self.epoch.0).u16(seat.0).u64(term.0);
        out.u8(self.kind as u8).u64(self.view.0).u64(self.height.0).digest(&self.digest);
        out.into_bytes()
    }
}

/// One seat's signature under a [`VoteTarget`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeatVote {
    /// Who votes.
    pub seat: Seat,
    /// The term of the seat's grant under which it votes.
    pub term: Term,
    /// The holder's signature.
    pub signature: Signature,
}

/// How many of so many seats may be faulty: ⌊(n − 1) / 3⌋.
pub fn faulty_max(seats: usize) -> usize {
    seats.saturating_sub(1) / 3
}

/// How many of so many seats make a certificate: the least number of which any two sets share a correct seat,
/// ⌈(n + f + 1) / 2⌉. That is 2f+1 where n = 3f+1.
pub fn quorum(seats: usize) -> usize {
    (seats + faulty_max(seats) + 2) / 2
}

/// What can be said of a vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The seat's holder of that term signed it.
    Valid,
    /// It did not.
    Invalid,
    /// Who held the seat in that term is not known here.
    Unknown,
}

/// Knows who may speak for a seat in an epoch and a term, and checks that it did.
pub trait Authority {
    /// The seats that vote in an epoch; none where the epoch is not known.
    fn seats(&self, epoch: Epoch) -> Option<Seats>;

    /// The epoch of the block at `height`, as far as is known.
    fn epoch_at(&self, height: Height) -> Epoch;

    /// The highest term of a seat that is known here, in the newest epoch: only its holder speaks for the seat now.
    fn term(&self, seat: Seat) -> Term;

    /// Whether `vote` is a signature under `target` of who held the seat in the target's epoch and the vote's own term.
    fn judge(&self, target: &VoteTarget, vote: &SeatVote) -> Verdict;

    /// As [`Authority::judge`], with the reason as an error.
    fn verify(&self, what: &'static str, target: &VoteTarget, vote: &SeatVote) -> Result<(), LedgerError> {
        match self.judge(target, vote) {
            Verdict::Valid => Ok(()),
            Verdict::Invalid => Err(LedgerError::BadSignature { what }),
            Verdict::Unknown => Err(LedgerError::UnknownGrant { seat: vote.seat, term: vote.term }),
        }
    }

    /// How many of so many seats make a certificate.
    fn quorum(&self, seats: usize) -> usize {
        quorum(seats)
    }

    /// Checks that `votes` are valid votes of a quorum of distinct seats of this epoch. Each is judged by the grant of its own term.
    fn verify_quorum<'a>(
        &self,
        epoch: Epoch,
        votes: impl Iterator<Item = (VoteTarget, &'a SeatVote)>,
    ) -> Result<(), LedgerError>
    where
        Self: Sized,
    {
        let seats = self.seats(epoch).ok_or(LedgerError::UnknownEpoch(epoch))?;
        let mut voted = Seats::default();
        for (target, vote) in votes {
            if !seats.contains(vote.seat) || !voted.insert(vote.seat) {
                return Err(LedgerError::BadSeat(vote.seat));
            }
            self.verify("vote in a certificate", &target, vote)?;
        }
        let (found, needed) = (voted.len(), self.quorum(seats.len()));
        if found >= needed { Ok(()) } else { Err(LedgerError::NoQuorum { found, needed }) }
    }

    /// Checks that a certificate for `height` is of that height's epoch: votes of another one are void there (E1).
    fn check_epoch(&self, epoch: Epoch, height: Height) -> Result<(), LedgerError> {
        let expected = self.epoch_at(height);
        match self.seats(epoch) {
            None => Err(LedgerError::UnknownEpoch(epoch)),
            Some(_) if epoch != expected => Err(LedgerError::WrongEpoch { height, found: epoch, expected }),
            Some(_) => Ok(()),
        }
    }
}

impl<A: Authority> Authority for std::sync::Arc<A> {
    fn seats(&self, epoch: Epoch) -> Option<Seats> {
        A::seats(self, epoch)
    }

    fn epoch_at(&self, height: Height) -> Epoch {
        A::epoch_at(self, height)
    }

    fn term(&self, seat: Seat) -> Term {
        A::term(self, seat)
    }

    fn judge(&self, target: &VoteTarget, vote: &SeatVote) -> Verdict {
        A::judge(self, target, vote)
    }

    fn quorum(&self, seats: usize) -> usize {
        A::quorum(self, seats)
    }
}

/// 2f+1 commits for a proposal: the block is final.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitCertificate {
    /// The epoch.
    pub epoch: Epoch,
    /// The view in which the commits were cast.
    pub view: View,
    /// The slot.
    pub height: Height,
    /// Digest of the proposal.
    pub digest: Digest,
    /// The votes, of distinct seats.
    pub votes: Vec<SeatVote>,
}

impl CommitCertificate {
    /// What the votes are about.
    pub fn target(&self) -> VoteTarget {
        let Self { epoch, view, height, digest, .. } = *self;
        VoteTarget { kind: VoteKind::Commit, epoch, view, height, digest }
    }

    /// Checks epoch and votes.
    pub fn verify(&self, authority: &impl Authority) -> Result<(), LedgerError> {
        let target = self.target();
        authority.check_epoch(self.epoch, self.height)?;
        authority.verify_quorum(self.epoch, self.votes.iter().map(|vote| (target, vote)))
    }
}

/// What a replica computed, at a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CheckpointResult {
    /// The height.
    pub height: Height,
    /// Hash of the header at that height.
    pub block_hash: Digest,
    /// Root of the state after that block.
    pub state_root: Digest,
    /// Root over the receipts' roots of all blocks since the checkpoint before.
    pub receipts_root: Digest,
}

impl CheckpointResult {
    /// What votes name.
    pub fn digest(&self) -> Digest {
        let mut out = Encoder::with_capacity(128);
        out.u64(self.height.0).digest(&self.block_hash).digest(&self.state_root).digest(&self.receipts_root);
        Digest::sha256(&out.into_bytes())
    }

    /// What a vote for this result is about.
    pub fn target(&self, epoch: Epoch) -> VoteTarget {
        VoteTarget { kind: VoteKind::Checkpoint, epoch, view: View(0), height: self.height, digest: self.digest() }
    }
}

/// 2f+1 seats' word for a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointCertificate {
    /// The epoch.
    pub epoch: Epoch,
    /// The result.
    pub result: CheckpointResult,
    /// The votes, of distinct seats.
    pub votes: Vec<SeatVote>,
}

impl CheckpointCertificate {
    /// Checks epoch and votes.
    pub fn verify(&self, authority: &impl Authority) -> Result<(), LedgerError> {
        let target = self.result.target(self.epoch);
        authority.check_epoch(self.epoch, self.result.height)?;
        authority.verify_quorum(self.epoch, self.votes.iter().map(|vote| (target, vote)))
    }
}

#[cfg(test)]
mod tests {
    use standin_foundation::{Domain, SecretKey};

    use super::*;
    use crate::grant::GrantTable;

    fn keys() -> Vec<SecretKey> {
        (1..=4).map(|seed| SecretKey::from_bytes(&[seed; 32]).unwrap()).collect()
    }

    fn certificate(chain: &Digest, voters: &[u16]) -> CommitCertificate {
        let mut certificate = CommitCertificate {
            epoch: Epoch(0),
            view: View(2),
            height: Height(9),
            digest: Digest::sha256(b"proposal"),
            votes: Vec::new(),
        };
        let target = certificate.target();
        for seat in voters {
            let content = target.signed_content(chain, Seat(*seat), Term(0));
            let signature = keys()[usize::from(*seat)].sign(Domain::Consensus, &content);
            certificate.votes.push(SeatVote { seat: Seat(*seat), term: Term(0), signature });
        }
        certificate
    }

    #[test]
    fn a_certificate_needs_a_quorum_of_distinct_valid_seats() {
        let chain = Digest::sha256(b"chain");
        let table = GrantTable::fixed(chain, keys().iter().map(SecretKey::public).collect());
        certificate(&chain, &[0, 2, 3]).verify(&table).unwrap();
        let too_few = certificate(&chain, &[0, 2]).verify(&table);
        assert_eq!(too_few, Err(LedgerError::NoQuorum { found: 2, needed: 3 }));
        let mut twice = certificate(&chain, &[0, 2]);
        twice.votes.push(twice.votes[0].clone());
        assert_eq!(twice.verify(&table), Err(LedgerError::BadSeat(Seat(0))));
        let mut unknown = certificate(&chain, &[0, 1, 2]);
        unknown.votes[1].seat = Seat(9);
        assert_eq!(unknown.verify(&table), Err(LedgerError::BadSeat(Seat(9))));
        let mut stolen = certificate(&chain, &[0, 1, 2]);
        stolen.votes[1].seat = Seat(3);
        assert!(matches!(stolen.verify(&table), Err(LedgerError::BadSignature { .. })));
        let foreign = certificate(&Digest::sha256(b"another chain"), &[0, 1, 2]).verify(&table);
        assert!(matches!(foreign, Err(LedgerError::BadSignature { .. })));
    }
}
