//! Grants: who holds a seat in a term, and which nodes must acknowledge what the holder says.
//!
//! The auth node signs them; each names the one before it by hash. A grant proves itself, so it may come from anyone. The
//! table of grants is what votes are judged by: each vote by the grant of its own term.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use standin_foundation::wire::Wire;
use standin_foundation::{
    Canonical, ClusterId, Digest, Domain, Encoder, Epoch, Incarnation, NodeId, PublicKey, Seat, SecretKey, Signature,
    Term,
};

use crate::certificate::{Authority, SeatVote, Verdict, VoteTarget};
use crate::error::LedgerError;

/// Members of one cluster.
pub const MEMBERS_MAX: usize = 8;

/// Why a grant was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Cause {
    /// The cluster never had one.
    First = 1,
    /// The auth node heard nothing of the holder for its maximum age.
    Aged = 2,
    /// The holder gave the seat up.
    Resigned = 3,
    /// Every live member of the in-sync set suspected the holder.
    Suspected = 4,
    /// The holder's results were proven wrong.
    Forced = 5,
    /// The holder left a silent member out.
    Shrink = 6,
    /// The holder took a member in.
    Grow = 7,
    /// The register was brought back from a copy, and all nodes have said what they know.
    Recovered = 8,
}

/// Who holds a seat in a term.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The chain's genesis digest.
    pub chain: Digest,
    /// The epoch.
    pub epoch: Epoch,
    /// The cluster that holds the seat.
    pub cluster: ClusterId,
    /// One more than in the grant before.
    pub term: Term,
    /// The node that speaks for the seat.
    pub holder: PublicKey,
    /// The nodes, the holder among them, that must have a record before what it stands for may leave.
    pub in_sync: BTreeSet<NodeId>,
    /// Digest of the grant before; zero for the first.
    pub previous: Digest,
    /// Why it was made.
    pub cause: Cause,
    /// The register's life: a node that has promised to a later one refuses it.
    pub incarnation: Incarnation,
    /// Digest of the request that it answers.
    pub request: Digest,
}

impl Canonical for Grant {
    fn encode(&self, out: &mut Encoder) {
        out.digest(&self.chain).u64(self.epoch.0).bytes(self.cluster.as_str().as_bytes()).u64(self.term.0);
        out.raw(self.holder.as_bytes()).length(self.in_sync.len());
        for node in &self.in_sync {
            out.raw(node.as_bytes());
        }
        out.digest(&self.previous).u8(self.cause as u8).u64(self.incarnation.0).digest(&self.request);
    }
}

impl Grant {
    /// What the next grant names as the one before.
    pub fn digest(&self) -> Digest {
        Digest::sha256(&self.canonical_bytes())
    }

    /// The holder's id.
    pub fn holder_id(&self) -> NodeId {
        self.holder.node_id()
    }

    /// Signs it. The same grant always gets the same signature, whoever signs with the auth node's key.
    pub fn sign(self, key: &SecretKey) -> SignedGrant {
        let signature = key.sign(Domain::Grant, &self.canonical_bytes());
        SignedGrant { grant: self, signature }
    }
}

/// A grant with the auth node's signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedGrant {
    /// The grant.
    pub grant: Grant,
    /// The auth node's signature.
    pub signature: Signature,
}

impl Wire for SignedGrant {
    const NAME: &'static str = "grant";
    const BYTES_MAX: usize = 1_024;
}

impl SignedGrant {
    /// Whether it holds by itself.
    pub fn verify(&self, chain: &Digest, auth: &PublicKey) -> Result<(), LedgerError> {
        let Grant { cluster, term, in_sync, .. } = &self.grant;
        let bad = |what| Err(LedgerError::BadGrant { cluster: cluster.clone(), term: *term, what });
        if self.grant.chain != *chain {
            return bad("it is of another chain");
        }
        if *term == Term(0) || in_sync.len() > MEMBERS_MAX || !in_sync.contains(&self.grant.holder_id()) {
            return bad("it contradicts itself");
        }
        if !auth.verify(Domain::Grant, &self.grant.canonical_bytes(), &self.signature) {
            return bad("the auth node's signature is not valid");
        }
        Ok(())
    }
}

/// What became of a grant that was shown to the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Noted {
    /// It is the newest of its seat.
    Newest(Seat),
    /// It is new here and older than the newest: it serves to judge old votes.
    Older,
    /// It was known.
    Known,
    /// Another one is known for the same term: the auth node, or its key, is faulty.
    Contradiction(Box<SignedGrant>),
}

/// How a seat is held.
#[derive(Debug, Clone)]
enum Lineage {
    /// By one node for ever, in term 0: a chain without an auth node.
    Fixed(PublicKey),
    /// By grants.
    Granted {
        /// The cluster.
        cluster: ClusterId,
        /// Its grants that are known here. Gaps are allowed.
        grants: BTreeMap<Term, SignedGrant>,
    },
}

/// All that is known of who may speak for which seat.
#[derive(Debug, Clone)]
pub struct GrantTable {
    chain: Digest,
    auth: Option<PublicKey>,
    seats: Vec<Lineage>,
}

impl GrantTable {
    /// The table of a chain without an auth node: each seat has one node.
    pub fn fixed(chain: Digest, holders: Vec<PublicKey>) -> Self {
        Self { chain, auth: None, seats: holders.into_iter().map(Lineage::Fixed).collect() }
    }

    /// The table of a chain whose seats are held by clusters, in order, under grants of `auth`.
    pub fn granted(chain: Digest, auth: PublicKey, clusters: Vec<ClusterId>) -> Self {
        let lineage = |cluster| Lineage::Granted { cluster, grants: BTreeMap::new() };
        Self { chain, auth: Some(auth), seats: clusters.into_iter().map(lineage).collect() }
    }

    /// The chain's genesis digest.
    pub fn chain(&self) -> &Digest {
        &self.chain
    }

    /// Whether this very grant is known.
    pub fn knows(&self, grant: &SignedGrant) -> bool {
        let seat = self.seat_of_cluster(&grant.grant.cluster);
        seat.and_then(|seat| self.grant(seat, grant.grant.term)) == Some(grant)
    }

    /// Checks a grant and takes it in.
    pub fn note(&mut self, grant: SignedGrant) -> Result<Noted, LedgerError> {
        let Some(auth) = &self.auth else {
            let (cluster, term) = (grant.grant.cluster, grant.grant.term);
            return Err(LedgerError::BadGrant { cluster, term, what: "this chain has no auth node" });
        };
        if self.knows(&grant) {
            return Ok(Noted::Known);
        }
        grant.verify(&self.chain, auth)?;
        self.note_verified(grant)
    }

    /// Takes in a grant whose signature has been checked.
    pub fn note_verified(&mut self, grant: SignedGrant) -> Result<Noted, LedgerError> {
        let term = grant.grant.term;
        let of =
            |lineage: &Lineage| matches!(lineage, Lineage::Granted { cluster, .. } if *cluster == grant.grant.cluster);
        let Some(index) = self.seats.iter().position(of) else {
            let cluster = grant.grant.cluster;
            return Err(LedgerError::BadGrant { cluster, term, what: "the cluster holds no seat" });
        };
        let Some(Lineage::Granted { grants, .. }) = self.seats.get_mut(index) else { return Ok(Noted::Known) };
        match grants.get(&term) {
            Some(known) if known.grant == grant.grant => return Ok(Noted::Known),
            // Whatever an older life of the register granted there, no node of the cluster knows of it any more.
            Some(known) if known.grant.incarnation < grant.grant.incarnation => {}
            Some(known) => return Ok(Noted::Contradiction(Box::new(known.clone()))),
            None => {}
        }
        let is_newest = grants.last_key_value().is_none_or(|(newest, _)| *newest <= term);
        grants.insert(term, grant);
        Ok(if is_newest { Noted::Newest(Seat(index as u16)) } else { Noted::Older })
    }

    /// All grants, by seat and rising term.
    pub fn all(&self) -> impl Iterator<Item = &SignedGrant> {
        let granted = self.seats.iter().filter_map(|lineage| match lineage {
            Lineage::Granted { grants, .. } => Some(grants),
            Lineage::Fixed(_) => None,
        });
        granted.flat_map(BTreeMap::values)
    }

    /// Up to `count` terms below the newest whose grants are not known here, of all seats.
    pub fn missing(&self, count: usize) -> Vec<(Seat, Term)> {
        let mut missing = Vec::new();
        for (index, lineage) in self.seats.iter().enumerate() {
            let Lineage::Granted { grants, .. } = lineage else { continue };
            let mut next = Term(1);
            for term in grants.keys() {
                while next < *term && missing.len() < count {
                    missing.push((Seat(index as u16), next));
                    next = next.next();
                }
                next = term.next();
            }
        }
        missing
    }

    /// Whether a seat is held under grants.
    pub fn is_granted(&self, seat: Seat) -> bool {
        matches!(self.seats.get(seat.index()), Some(Lineage::Granted { .. }))
    }

    /// The newest grant of a seat.
    pub fn newest(&self, seat: Seat) -> Option<&SignedGrant> {
        match self.seats.get(seat.index())? {
            Lineage::Granted { grants, .. } => grants.last_key_value().map(|(_, grant)| grant),
            Lineage::Fixed(_) => None,
        }
    }

    /// The grant of a seat for a term.
    pub fn grant(&self, seat: Seat, term: Term) -> Option<&SignedGrant> {
        match self.seats.get(seat.index())? {
            Lineage::Granted { grants, .. } => grants.get(&term),
            Lineage::Fixed(_) => None,
        }
    }

    /// The key that speaks for `seat` in `term`.
    pub fn holder(&self, seat: Seat, term: Term) -> Option<&PublicKey> {
        match self.seats.get(seat.index())? {
            Lineage::Fixed(holder) => (term == Term(0)).then_some(holder),
            Lineage::Granted { grants, .. } => grants.get(&term).map(|grant| &grant.grant.holder),
        }
    }

    /// The seat of a cluster.
    pub fn seat_of_cluster(&self, cluster: &ClusterId) -> Option<Seat> {
        let of = |lineage: &Lineage| matches!(lineage, Lineage::Granted { cluster: own, .. } if own == cluster);
        self.seats.iter().position(of).map(|index| Seat(index as u16))
    }
}

impl Authority for GrantTable {
    fn seats(&self) -> usize {
        self.seats.len()
    }

    fn term(&self, seat: Seat) -> Term {
        self.newest(seat).map_or(Term(0), |grant| grant.grant.term)
    }

    fn judge(&self, target: &VoteTarget, vote: &SeatVote) -> Verdict {
        let Some(lineage) = self.seats.get(vote.seat.index()) else { return Verdict::Invalid };
        let Some(holder) = self.holder(vote.seat, vote.term) else {
            return match lineage {
                Lineage::Granted { .. } if vote.term > Term(0) => Verdict::Unknown,
                _ => Verdict::Invalid,
            };
        };
        let content = target.signed_content(&self.chain, vote.seat, vote.term);
        if holder.verify(Domain::Consensus, &content, &vote.signature) { Verdict::Valid } else { Verdict::Invalid }
    }
}

#[cfg(test)]
mod tests {
    use standin_foundation::{Height, View};

    use super::*;
    use crate::certificate::VoteKind;
    use crate::transaction::tests::key;

    const CHAIN: &[u8] = b"chain";

    fn grant(term: u64, holder: u8, previous: Digest) -> Grant {
        let holder = key(holder).public();
        Grant {
            chain: Digest::sha256(CHAIN),
            epoch: Epoch(0),
            cluster: "a".parse().unwrap(),
            term: Term(term),
            holder,
            in_sync: [holder.node_id()].into(),
            previous,
            cause: Cause::First,
            incarnation: Incarnation(1),
            request: Digest::ZERO,
        }
    }

    fn table() -> GrantTable {
        GrantTable::granted(Digest::sha256(CHAIN), key(9).public(), vec!["a".parse().unwrap(), "b".parse().unwrap()])
    }

    fn vote(term: u64, signer: u8) -> (VoteTarget, SeatVote) {
        let target = VoteTarget {
            kind: VoteKind::Commit,
            epoch: Epoch(0),
            view: View(0),
            height: Height(3),
            digest: Digest::sha256(b"p"),
        };
        let content = target.signed_content(&Digest::sha256(CHAIN), Seat(0), Term(term));
        let signature = key(signer).sign(Domain::Consensus, &content);
        (target, SeatVote { seat: Seat(0), term: Term(term), signature })
    }

    /// V3: in a certificate each vote is judged by the grant of its own term.
    #[test]
    fn v3_a_vote_is_judged_by_the_grant_of_its_own_term() {
        let mut table = table();
        table.note(grant(1, 1, Digest::ZERO).sign(&key(9))).unwrap();
        let (target, old) = vote(1, 1);
        assert_eq!(table.judge(&target, &old), Verdict::Valid);
        let (_, new) = vote(2, 2);
        assert_eq!(table.judge(&target, &new), Verdict::Unknown, "its grant may be fetched");
        table.note(grant(2, 2, grant(1, 1, Digest::ZERO).digest()).sign(&key(9))).unwrap();
        assert_eq!(table.judge(&target, &new), Verdict::Valid);
        assert_eq!(table.judge(&target, &old), Verdict::Valid, "a vote does not become invalid later");
        let (_, stolen) = vote(2, 1);
        assert_eq!(table.judge(&target, &stolen), Verdict::Invalid, "the old holder cannot speak for the new term");
        assert_eq!(table.term(Seat(0)), Term(2));
    }

    /// G6: grants prove themselves, and gaps in the chain of hashes do not matter.
    #[test]
    fn g6_a_grant_proves_itself_wherever_it_comes_from() {
        let mut table = table();
        let later = grant(7, 2, Digest::sha256(b"never seen")).sign(&key(9));
        assert_eq!(table.note(later.clone()).unwrap(), Noted::Newest(Seat(0)));
        assert_eq!(table.note(later).unwrap(), Noted::Known);
        assert_eq!(table.note(grant(3, 1, Digest::ZERO).sign(&key(9))).unwrap(), Noted::Older);
        assert_eq!(table.term(Seat(0)), Term(7));
        let missing: Vec<_> = [1, 2, 4, 5].map(|term| (Seat(0), Term(term))).to_vec();
        assert_eq!((table.missing(4), table.missing(2)), (missing.clone(), missing[..2].to_vec()));
        let forged = grant(8, 1, Digest::ZERO).sign(&key(1));
        assert!(table.note(forged).unwrap_err().to_string().contains("signature is not valid"));
        let mut alone = grant(8, 1, Digest::ZERO);
        alone.in_sync.clear();
        assert!(table.note(alone.sign(&key(9))).unwrap_err().to_string().contains("contradicts itself"));
        let mut foreign = grant(8, 1, Digest::ZERO);
        foreign.chain = Digest::ZERO;
        assert!(table.note(foreign.sign(&key(9))).unwrap_err().to_string().contains("another chain"));
        let mut stranger = grant(8, 1, Digest::ZERO);
        stranger.cluster = "z".parse().unwrap();
        assert!(table.note(stranger.sign(&key(9))).unwrap_err().to_string().contains("holds no seat"));
    }

    /// T7: two grants for one term are noticed by whoever sees both.
    #[test]
    fn t7_two_grants_for_one_term_are_a_contradiction() {
        let mut table = table();
        table.note(grant(1, 1, Digest::ZERO).sign(&key(9))).unwrap();
        let other = table.note(grant(1, 2, Digest::ZERO).sign(&key(9))).unwrap();
        assert!(matches!(other, Noted::Contradiction(known) if known.grant.holder == key(1).public()));
        assert_eq!(table.holder(Seat(0), Term(1)), Some(&key(1).public()), "the first stands");
    }
}
