//! Signatures that cost a hash: nobody in the simulation can make another's without its secret. And what a node knows of who
//! holds which seat.

use std::collections::BTreeMap;

use standin_consensus::Signer;
use standin_foundation::{Digest, Lsn, NodeId, Seat, Signature, Term, Writer};
use standin_ledger::SignedGrant;
use standin_ledger::certificate::{Authority, SeatVote, Verdict, VoteTarget};

fn signature_of(node: &NodeId, vote: (Seat, Term), target: &VoteTarget) -> Signature {
    let chain = Digest::sha256(b"simulated chain");
    let content = target.signed_content(&chain, vote.0, vote.1);
    let digest = Digest::sha256_of(&[b"secret of", node.as_bytes(), &content]);
    let mut bytes = [1; 64];
    bytes[..32].copy_from_slice(digest.as_bytes());
    Signature(bytes)
}

/// How a node knows a seat.
#[derive(Debug, Clone)]
pub enum KnownSeat {
    /// Held by one node for ever.
    Fixed(NodeId),
    /// Held under grants, as far as they are known.
    Granted(BTreeMap<Term, SignedGrant>),
}

/// What one node knows of the seats; judges simulated signatures.
#[derive(Debug, Clone)]
pub struct SimulatedAuthority {
    /// The seats.
    pub seats: Vec<KnownSeat>,
    /// Makes 2f votes a quorum: the mutation "quorum too small" reaches into certificates, too.
    pub small_quorum: bool,
    /// Judges every vote by the newest grant: a mutation of V3.
    pub by_newest: bool,
}

impl SimulatedAuthority {
    /// The newest grant of a seat.
    pub fn newest(&self, seat: Seat) -> Option<&SignedGrant> {
        match self.seats.get(seat.index())? {
            KnownSeat::Granted(grants) => grants.last_key_value().map(|(_, grant)| grant),
            KnownSeat::Fixed(_) => None,
        }
    }

    /// The grant of a seat for a term.
    pub fn grant(&self, seat: Seat, term: Term) -> Option<&SignedGrant> {
        match self.seats.get(seat.index())? {
            KnownSeat::Granted(grants) => grants.get(&term),
            KnownSeat::Fixed(_) => None,
        }
    }

    /// Takes in a grant; says whether it is the newest of its seat.
    pub fn note(&mut self, seat: Seat, grant: SignedGrant) -> bool {
        let Some(KnownSeat::Granted(grants)) = self.seats.get_mut(seat.index()) else { return false };
        let term = grant.grant.term;
        let is_newest = grants.last_key_value().is_none_or(|(newest, _)| *newest < term);
        grants.entry(term).or_insert(grant);
        is_newest
    }

    /// The node that speaks for a seat, as far as is known.
    pub fn holder(&self, seat: Seat) -> Option<NodeId> {
        match self.seats.get(seat.index())? {
            KnownSeat::Fixed(node) => Some(*node),
            KnownSeat::Granted(_) => self.newest(seat).map(|grant| grant.grant.holder_id()),
        }
    }
}

impl Authority for SimulatedAuthority {
    fn seats(&self) -> usize {
        self.seats.len()
    }

    fn term(&self, seat: Seat) -> Term {
        self.newest(seat).map_or(Term(0), |grant| grant.grant.term)
    }

    fn quorum(&self) -> usize {
        match self.small_quorum {
            true => 2 * self.faulty_max(),
            false => (self.seats() + self.faulty_max() + 2) / 2,
        }
    }

    fn judge(&self, target: &VoteTarget, vote: &SeatVote) -> Verdict {
        let holder = match self.seats.get(vote.seat.index()) {
            Some(KnownSeat::Fixed(node)) if vote.term == Term(0) => *node,
            Some(KnownSeat::Granted(grants)) if vote.term > Term(0) => match grants.get(&vote.term) {
                Some(grant) => grant.grant.holder_id(),
                None => return Verdict::Unknown,
            },
            _ => return Verdict::Invalid,
        };
        let is_old = self.by_newest && self.newest(vote.seat).is_some_and(|newest| newest.grant.term > vote.term);
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
