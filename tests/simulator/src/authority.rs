//! Signatures that cost a hash: nobody in the simulation can make another's without its secret. And what a node knows of who
//! holds which seat.

use standin_consensus::Signer;
use standin_foundation::{Digest, Epoch, Height, Lsn, NodeId, PublicKey, Seat, Seats, Signature, Term, Writer};
use standin_ledger::certificate::{Authority, SeatVote, Verdict, VoteTarget, faulty_max};
use standin_ledger::grant::Noted;
use standin_ledger::{GrantTable, SignedGrant};

fn signature_of(node: &NodeId, vote: (Seat, Term), target: &VoteTarget) -> Signature {
    let chain = Digest::sha256(b"simulated chain");
    let content = target.signed_content(&chain, vote.0, vote.1);
    let digest = Digest::sha256_of(&[b"secret of", node.as_bytes(), &content]);
    let mut bytes = [1; 64];
    bytes[..32].copy_from_slice(digest.as_bytes());
    Signature(bytes)
}

/// What one node knows of the seats; judges simulated signatures.
#[derive(Debug, Clone)]
pub struct SimulatedAuthority {
    /// Who may speak for which seat.
    pub table: GrantTable,
    /// Makes 2f votes a quorum: the mutation "quorum too small" reaches into certificates, too.
    pub small_quorum: bool,
    /// Judges every vote by the newest grant: a mutation of V3.
    pub by_newest: bool,
}

impl SimulatedAuthority {
    /// Takes in a grant; nothing if it does not count here.
    pub fn note(&mut self, grant: SignedGrant) -> Option<Noted> {
        if self.table.knows(&grant) {
            return Some(Noted::Known);
        }
        if self.table.epoch() < grant.grant.epoch {
            return None;
        }
        // The invariants find contradictions.
        self.table.note_verified(grant).ok()
    }

    /// The node that speaks for a seat, as far as is known.
    pub fn holder(&self, seat: Seat) -> Option<NodeId> {
        self.table.speaker(seat).map(PublicKey::node_id)
    }
}

impl Authority for SimulatedAuthority {
    fn seats(&self, epoch: Epoch) -> Option<Seats> {
        self.table.seats(epoch)
    }

    fn epoch_at(&self, height: Height) -> Epoch {
        self.table.epoch_at(height)
    }

    fn term(&self, seat: Seat) -> Term {
        self.table.term(seat)
    }

    fn quorum(&self, seats: usize) -> usize {
        let faulty = faulty_max(seats);
        if self.small_quorum { 2 * faulty } else { (seats + faulty + 2) / 2 }
    }

    fn judge(&self, target: &VoteTarget, vote: &SeatVote) -> Verdict {
        let holder = match self.table.voter(target, vote) {
            Ok(holder) => holder.node_id(),
            Err(verdict) => return verdict,
        };
        let is_old = self.by_newest && self.term(vote.seat) > vote.term;
        let is_valid = !is_old && vote.signature == signature_of(&holder, (vote.seat, vote.term), target);
        if is_valid { Verdict::Valid } else { Verdict::Invalid }
    }
}

/// Signs for a seat.
#[derive(Debug, Clone, Copy)]
pub struct SimulatedSigner {
    /// The seat.
    pub seat: Seat,
    /// Who signs.
    pub node: NodeId,
    /// As which writer.
    pub writer: Writer,
    /// Where the writer took the log over.
    pub start: Lsn,
}

impl Signer for SimulatedSigner {
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
        signature_of(&self.node, (self.seat, self.writer.term), target)
    }
}
