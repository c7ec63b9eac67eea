//! Signatures that cost a hash: nobody in the simulation can make another's without its secret.

use standin_consensus::Signer;
use standin_foundation::{Digest, Seat, Signature, Term};
use standin_ledger::certificate::{Authority, SeatVote, VoteTarget};

fn signature_of(seat: Seat, term: Term, target: &VoteTarget) -> Signature {
    let chain = Digest::sha256(b"simulated chain");
    let content = target.signed_content(&chain, seat, term);
    let digest = Digest::sha256_of(&[b"secret of", &seat.0.to_be_bytes(), &content]);
    let mut bytes = [1; 64];
    bytes[..32].copy_from_slice(digest.as_bytes());
    Signature(bytes)
}

/// Judges simulated signatures.
#[derive(Debug, Clone, Copy)]
pub struct SimulatedAuthority {
    /// Number of seats.
    pub seats: usize,
    /// Makes 2f votes a quorum: the mutation "quorum too small" reaches into certificates, too.
    pub small_quorum: bool,
}

impl Authority for SimulatedAuthority {
    fn seats(&self) -> usize {
        self.seats
    }

    fn quorum(&self) -> usize {
        match self.small_quorum {
            true => 2 * self.faulty_max(),
            false => (self.seats + self.faulty_max() + 2) / 2,
        }
    }

    fn verify(&self, target: &VoteTarget, vote: &SeatVote) -> bool {
        vote.seat.index() < self.seats && vote.signature == signature_of(vote.seat, vote.term, target)
    }
}

/// Signs for a seat.
#[derive(Debug, Clone, Copy)]
pub struct SimulatedSigner(pub Seat);

impl Signer for SimulatedSigner {
    fn seat(&self) -> Seat {
        self.0
    }

    fn term(&self) -> Term {
        Term(0)
    }

    fn sign(&self, target: &VoteTarget) -> Signature {
        signature_of(self.0, Term(0), target)
    }
}
