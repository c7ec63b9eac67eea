//! Grants: who holds a seat in a term, and which nodes must acknowledge what the holder says.
//!
//! The auth node signs them; each names the one before it by hash. A grant proves itself, so it may come from anyone. The
//! table of grants is what votes are judged by: each vote by the grant of its own term.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use standin_foundation::wire::Wire;
use standin_foundation::{
    Canonical, ClusterId, Digest, Domain, Encoder, Epoch, Height, Incarnation, NodeId, PublicKey, Seat, Seats,
    SecretKey, Signature, Term,
};

use crate::certificate::{Authority, SeatVote, Verdict, VoteTarget};
use crate::epoch::{Base, EpochSeat, EpochTable};
use crate::error::LedgerError;
use crate::genesis::Operators;

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
    /// The chain ordered it: a seat begins anew, with an empty log.
    Ordered = 9,
    /// The sites have lost each other, and clusters move to one from which a quorum can speak.
    Split = 10,
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

/// Names what a grant answers: the same request, however often it comes, has the same digest. `session` is that of the sender's log,
/// where the grant may begin it.
pub fn request_digest(from: &NodeId, term: Term, in_sync: &BTreeSet<NodeId>, session: Option<u64>) -> Digest {
    let mut out = Encoder::default();
    out.raw(from.as_bytes()).u64(term.0).length(in_sync.len());
    for node in in_sync {
        out.raw(node.as_bytes());
    }
    match session {
        None => out.u8(0),
        Some(session) => out.u8(1).u64(session),
    };
    Digest::sha256(&out.into_bytes())
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

/// The grants of one seat since the chain last ordered who holds it. Gaps are allowed.
#[derive(Debug, Clone)]
struct Lineage {
    cluster: ClusterId,
    /// The epoch in which it began.
    since: Epoch,
    grants: BTreeMap<Term, SignedGrant>,
}

/// A table of epoch 0 that names clusters and nothing else.
fn first_table(auth: Option<PublicKey>, seats: impl Iterator<Item = (ClusterId, Option<Base>)>) -> EpochTable {
    let seat = |(cluster, base)| EpochSeat { cluster, members: Vec::new(), listed: Epoch(0), since: Epoch(0), base };
    let (operators, seats) = (Operators::default(), (0..).map(Seat).zip(seats.map(seat)).collect());
    EpochTable { epoch: Epoch(0), after: Height(0), auth, auth_nodes: Vec::new(), operators, version: 1, seats }
}

/// All that is known of who may speak for which seat, in which epoch.
///
/// For a seat that an epoch does not name the lineage of grants goes on; for one that it names a new one begins with the base
/// that was ordered, and every other grant of that epoch which the base does not stand under is void (E2).
#[derive(Debug, Clone)]
pub struct GrantTable {
    chain: Digest,
    genesis: EpochTable,
    /// Those of the epochs from 1 on, without a gap.
    later: Vec<EpochTable>,
    lineages: Vec<Lineage>,
}

impl GrantTable {
    /// The table of a chain that begins with `genesis`, the table of epoch 0.
    pub fn new(chain: Digest, genesis: EpochTable) -> Self {
        let mut table = Self { chain, genesis: genesis.clone(), later: Vec::new(), lineages: Vec::new() };
        table.begin_lineages(&genesis);
        table
    }

    /// The table of a chain without an auth node: each seat has one node.
    pub fn fixed(chain: Digest, holders: Vec<PublicKey>) -> Self {
        let base = |holder: PublicKey| Base { holder, disk: 0, incarnation: Incarnation(0) };
        let cluster = |seat: usize| ClusterId::from_str(&format!("seat-{seat}")).ok();
        let seats = holders.into_iter().enumerate();
        let seats = seats.filter_map(|(seat, holder)| Some((cluster(seat)?, Some(base(holder)))));
        Self::new(chain, first_table(None, seats))
    }

    /// The table of a chain whose seats are held by clusters, in order, under grants of `auth`.
    pub fn granted(chain: Digest, auth: PublicKey, clusters: Vec<ClusterId>) -> Self {
        Self::new(chain, first_table(Some(auth), clusters.into_iter().map(|cluster| (cluster, None))))
    }

    /// Takes in the table of the next epoch; one that does not follow is left out. It has been proven, or executed.
    pub fn begin(&mut self, table: EpochTable) {
        if table.epoch != self.epoch().next() {
            return;
        }
        self.begin_lineages(&table);
        self.later.push(table);
    }

    fn begin_lineages(&mut self, table: &EpochTable) {
        for seat in table.seats.values().filter(|seat| seat.since == table.epoch) {
            let base = table.base_grant(&self.chain, seat).map(|base| (base.grant.term, base));
            let grants = base.into_iter().collect();
            self.lineages.push(Lineage { cluster: seat.cluster.clone(), since: seat.since, grants });
        }
    }

    /// The newest epoch that is known.
    pub fn epoch(&self) -> Epoch {
        Epoch(self.later.len() as u64)
    }

    /// The table of an epoch.
    pub fn table(&self, epoch: Epoch) -> Option<&EpochTable> {
        match epoch.0.checked_sub(1) {
            None => Some(&self.genesis),
            Some(place) => self.later.get(usize::try_from(place).ok()?),
        }
    }

    /// The table of the newest epoch.
    pub fn newest_table(&self) -> &EpochTable {
        self.later.last().unwrap_or(&self.genesis)
    }

    /// The epoch since which this key has signed grants; none if another one does now, or none.
    pub fn issuer_since(&self, key: &PublicKey) -> Option<Epoch> {
        let of_key = self.tables_down().take_while(|table| table.auth.as_ref() == Some(key));
        of_key.last().map(|table| table.epoch)
    }

    /// All tables, the newest first.
    fn tables_down(&self) -> impl Iterator<Item = &EpochTable> {
        self.later.iter().rev().chain([&self.genesis])
    }

    /// The chain's genesis digest.
    pub fn chain(&self) -> &Digest {
        &self.chain
    }

    /// A seat in an epoch.
    fn seat(&self, epoch: Epoch, seat: Seat) -> Option<&EpochSeat> {
        self.table(epoch)?.seats.get(&seat)
    }

    /// The grants that count for a seat in an epoch.
    fn grants(&self, epoch: Epoch, seat: Seat) -> Option<&BTreeMap<Term, SignedGrant>> {
        let EpochSeat { cluster, since, .. } = self.seat(epoch, seat)?;
        let lineage = self.lineages.iter().find(|lineage| lineage.since == *since && lineage.cluster == *cluster)?;
        Some(&lineage.grants)
    }

    /// The lineage that a grant stands in: the one that its cluster had in its epoch.
    fn lineage_of(&self, grant: &Grant) -> Option<usize> {
        let of = |lineage: &&Lineage| lineage.cluster == grant.cluster && lineage.since <= grant.epoch;
        let newest = self.lineages.iter().filter(of).map(|lineage| lineage.since).max()?;
        self.lineages.iter().position(|lineage| lineage.cluster == grant.cluster && lineage.since == newest)
    }

    /// The seat that a lineage holds in the newest epoch.
    fn seat_of_lineage(&self, place: usize) -> Option<Seat> {
        let Lineage { cluster, since, .. } = self.lineages.get(place)?;
        let holds = |seat: &EpochSeat| seat.cluster == *cluster && seat.since == *since;
        let seats = &self.newest_table().seats;
        seats.iter().find(|(_, seat)| holds(seat)).map(|(number, _)| *number)
    }

    /// Whether this very grant is known.
    pub fn knows(&self, grant: &SignedGrant) -> bool {
        let lineage = self.lineage_of(&grant.grant).and_then(|place| self.lineages.get(place));
        lineage.and_then(|lineage| lineage.grants.get(&grant.grant.term)) == Some(grant)
    }

    /// Checks a grant and takes it in.
    pub fn note(&mut self, grant: SignedGrant) -> Result<Noted, LedgerError> {
        if self.knows(&grant) {
            return Ok(Noted::Known);
        }
        let Grant { epoch, cause, .. } = grant.grant;
        let bad = |grant: SignedGrant, what| {
            Err(LedgerError::BadGrant { cluster: grant.grant.cluster, term: grant.grant.term, what })
        };
        let Some(table) = self.table(epoch) else { return Err(LedgerError::UnknownEpoch(epoch)) };
        let Some(auth) = table.auth else { return bad(grant, "this chain has no auth node") };
        if cause == Cause::Ordered {
            return bad(grant, "the chain has not ordered it");
        }
        grant.verify(&self.chain, &auth)?;
        self.note_verified(grant)
    }

    /// Takes in a grant whose signature has been checked.
    pub fn note_verified(&mut self, grant: SignedGrant) -> Result<Noted, LedgerError> {
        let term = grant.grant.term;
        let bad = |grant: SignedGrant, what| Err(LedgerError::BadGrant { cluster: grant.grant.cluster, term, what });
        let Some(place) = self.lineage_of(&grant.grant) else { return bad(grant, "the cluster holds no seat") };
        let current = self.seat_of_lineage(place);
        let Some(lineage) = self.lineages.get_mut(place) else { return Ok(Noted::Known) };
        if term.lineage() != lineage.since || term == Term::first_of(lineage.since) {
            return bad(grant, "the chain has ordered another holder: it is void");
        }
        match lineage.grants.get(&term) {
            Some(known) if known.grant == grant.grant => return Ok(Noted::Known),
            // Whatever an older life of the register granted there, no node of the cluster knows of it any more.
            Some(known) if known.grant.incarnation < grant.grant.incarnation => {}
            Some(known) => return Ok(Noted::Contradiction(Box::new(known.clone()))),
            None => {}
        }
        let is_newest = lineage.grants.last_key_value().is_none_or(|(newest, _)| *newest <= term);
        lineage.grants.insert(term, grant);
        Ok(current.filter(|_| is_newest).map_or(Noted::Older, Noted::Newest))
    }

    /// All grants, by lineage and rising term.
    pub fn all(&self) -> impl Iterator<Item = &SignedGrant> {
        self.lineages.iter().flat_map(|lineage| lineage.grants.values())
    }

    /// Up to `count` terms below the newest whose grants are not known here, of all lines of grants: blocks of clusters that were removed
    /// are judged by theirs.
    pub fn missing(&self, count: usize) -> Vec<(Seat, Term)> {
        let mut missing = Vec::new();
        for Lineage { cluster, since, grants } in self.lineages.iter().rev() {
            let table = self.table(*since).filter(|table| table.auth.is_some());
            let Some(seat) = table.and_then(|table| table.seat_of(cluster)) else { continue };
            let mut next = Term::first_of(*since).next();
            for term in grants.keys() {
                while next < *term && missing.len() < count {
                    missing.push((seat, next));
                    next = next.next();
                }
                next = term.next();
            }
        }
        missing
    }

    /// Whether votes of a seat under this term cannot be judged here before its grant, or the epoch that its line of grants began in, is
    /// known.
    pub fn lacks(&self, seat: Seat, term: Term) -> bool {
        let may_be_granted = match self.table(term.lineage()) {
            Some(table) => table.auth.is_some() && table.seats.contains_key(&seat),
            None => true,
        };
        term > Term(0) && may_be_granted && self.grant(seat, term).is_none()
    }

    /// Whether a seat is held under grants.
    pub fn is_granted(&self, seat: Seat) -> bool {
        let table = self.newest_table();
        table.auth.is_some() && table.seats.contains_key(&seat)
    }

    /// The newest grant of a seat, in the newest epoch in which it was held: who holds none any more can be told of it.
    pub fn newest(&self, seat: Seat) -> Option<&SignedGrant> {
        let held = self.tables_down().find(|table| table.seats.contains_key(&seat))?;
        self.grants(held.epoch, seat)?.last_key_value().map(|(_, grant)| grant)
    }

    /// The grant of a seat for a term, of whatever lineage.
    pub fn grant(&self, seat: Seat, term: Term) -> Option<&SignedGrant> {
        self.grants(term.lineage(), seat)?.get(&term)
    }

    /// The key that speaks for a seat now, as far as is known here; for one that is held no more, the last that did.
    pub fn speaker(&self, seat: Seat) -> Option<&PublicKey> {
        self.newest(seat).map(|granted| &granted.grant.holder).or_else(|| self.holder(seat, Term(0)))
    }

    /// The key that speaks for `seat` in `term` of the newest epoch.
    pub fn holder(&self, seat: Seat, term: Term) -> Option<&PublicKey> {
        self.holder_in(self.epoch(), seat, term)
    }

    /// The key that speaks for `seat` in `term` of `epoch`.
    pub fn holder_in(&self, epoch: Epoch, seat: Seat, term: Term) -> Option<&PublicKey> {
        let EpochSeat { since, base, .. } = self.seat(epoch, seat)?;
        let base = base.as_ref().filter(|_| Term::first_of(*since) == term);
        let granted = || Some(&self.grants(epoch, seat)?.get(&term)?.grant.holder);
        base.map(|base| &base.holder).or_else(granted)
    }

    /// Whether a term of a seat is of the lineage that counts in an epoch. In any other its holder speaks for nobody (E2): it was
    /// named for a later epoch and has not come there yet, or another has been named since.
    pub fn counts_in(&self, epoch: Epoch, seat: Seat, term: Term) -> bool {
        self.seat(epoch, seat).is_some_and(|seat| seat.since == term.lineage())
    }

    /// The seats that the newest epoch has named.
    pub fn named_seats(&self) -> Vec<Seat> {
        let table = self.newest_table();
        let is_named = |seat: &EpochSeat| seat.since == table.epoch && seat.base.is_some();
        table.seats.iter().filter(|(_, seat)| is_named(seat)).map(|(number, _)| *number).collect()
    }

    /// The seat of a cluster.
    pub fn seat_of_cluster(&self, cluster: &ClusterId) -> Option<Seat> {
        self.newest_table().seat_of(cluster)
    }

    /// What can be said of a vote before its signature is looked at: whose it must be.
    pub fn voter(&self, target: &VoteTarget, vote: &SeatVote) -> Result<&PublicKey, Verdict> {
        let Some(table) = self.table(target.epoch) else { return Err(Verdict::Unknown) };
        let has_terms = table.auth.is_some() && vote.term > Term(0);
        let may_come = has_terms && self.counts_in(target.epoch, vote.seat, vote.term);
        let unknown = if may_come { Verdict::Unknown } else { Verdict::Invalid };
        self.holder_in(target.epoch, vote.seat, vote.term).ok_or(unknown)
    }
}

impl Authority for GrantTable {
    fn seats(&self, epoch: Epoch) -> Option<Seats> {
        self.table(epoch).map(|table| table.start().seats)
    }

    fn epoch_at(&self, height: Height) -> Epoch {
        let begun = self.tables_down().find(|table| table.after < height);
        begun.map(|table| table.epoch).unwrap_or_default()
    }

    fn term(&self, seat: Seat) -> Term {
        self.newest(seat).map_or(Term(0), |grant| grant.grant.term)
    }

    fn judge(&self, target: &VoteTarget, vote: &SeatVote) -> Verdict {
        let holder = match self.voter(target, vote) {
            Ok(holder) => holder,
            Err(verdict) => return verdict,
        };
        let content = target.signed_content(&self.chain, vote.seat, vote.term);
        if holder.verify(Domain::Consensus, &content, &vote.signature) { Verdict::Valid } else { Verdict::Invalid }
    }
}

#[cfg(test)]
mod tests {
    use standin_foundation::View;

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

    /// Old blocks carry votes of clusters that hold no seat any more: what they are judged by is missed, and asked for.
    #[test]
    fn g6_a_grant_of_a_cluster_that_was_removed_can_be_lacking() {
        let mut table = table();
        table.note(grant(1, 1, Digest::ZERO).sign(&key(9))).unwrap();
        table.note(grant(3, 2, Digest::ZERO).sign(&key(9))).unwrap();
        let mut next = EpochTable { epoch: Epoch(1), after: Height(64), ..table.table(Epoch(0)).unwrap().clone() };
        next.seats.remove(&Seat(0));
        table.begin(next);
        assert_eq!(table.judge(&vote(2, 1).0, &vote(2, 1).1), Verdict::Unknown);
        let lacks = |seat, term| table.lacks(Seat(seat), term);
        assert!(lacks(0, Term(2)) && !lacks(0, Term(3)) && !lacks(0, Term(0)), "although it holds no seat now");
        assert!(lacks(0, Term::first_of(Epoch(9))), "of an epoch that is not known");
        assert!(!lacks(0, Term::first_of(Epoch(1)).next()), "it has none in that epoch");
        assert_eq!(table.missing(9), [(Seat(0), Term(2))]);
        assert_eq!(table.speaker(Seat(0)), Some(&key(2).public()), "who held it last");
    }

    /// T10, and the design that takes only votes of the current term for a certificate's, too: what was certified would be lost with each hand-over.
    /// T11: two holders of one seat are one seat, to a client as to a replica.
    #[test]
    fn t10_t11_a_certificate_outlives_the_terms_of_its_votes_and_counts_a_seat_once() {
        let clusters = ["a", "b", "c", "d"].map(|name| name.parse().unwrap());
        let mut table = GrantTable::granted(Digest::sha256(CHAIN), key(9).public(), clusters.to_vec());
        let mut grant_of = |name: &str, term, holder| {
            let cluster = name.parse().unwrap();
            table.note(Grant { cluster, ..grant(term, holder, Digest::ZERO) }.sign(&key(9))).unwrap()
        };
        for (name, holder) in [("a", 1), ("b", 2), ("c", 3)] {
            grant_of(name, 1, holder);
        }
        let voted = |seat: u16, term, signer| {
            let (target, _) = vote(1, 1);
            let content = target.signed_content(&Digest::sha256(CHAIN), Seat(seat), Term(term));
            SeatVote { seat: Seat(seat), term: Term(term), signature: key(signer).sign(Domain::Consensus, &content) }
        };
        let certificate = |votes: &[SeatVote]| crate::CommitCertificate {
            epoch: Epoch(0),
            view: standin_foundation::View(0),
            height: Height(3),
            digest: Digest::sha256(b"p"),
            votes: votes.to_vec(),
        };
        let made = certificate(&[voted(0, 1, 1), voted(1, 1, 2), voted(2, 1, 3)]);
        let mut grant_of = |name: &str, term, holder| {
            let cluster = name.parse().unwrap();
            table.note(Grant { cluster, ..grant(term, holder, Digest::ZERO) }.sign(&key(9))).unwrap()
        };
        for (name, holder) in [("a", 4), ("b", 5), ("c", 6)] {
            grant_of(name, 2, holder);
        }
        assert_eq!(made.verify(&table), Ok(()), "all of its terms have ended");
        assert_eq!(certificate(&[voted(0, 2, 4), voted(1, 1, 2), voted(2, 2, 6)]).verify(&table), Ok(()));
        let twice = certificate(&[voted(0, 1, 1), voted(0, 2, 4), voted(1, 1, 2)]);
        assert_eq!(twice.verify(&table), Err(LedgerError::BadSeat(Seat(0))));
    }

    /// A design that looks right and is not: a quorum of other seats grants while the auth node is away. The auth node may have granted the
    /// same term a moment before. There is one issuer in each epoch, and what anyone else signs is no grant.
    #[test]
    fn design_3_nobody_grants_beside_the_auth_node() {
        let mut table = table();
        table.note(grant(1, 1, Digest::ZERO).sign(&key(9))).unwrap();
        for seat in 2..5 {
            let beside = grant(2, 2, Digest::ZERO).sign(&key(seat));
            assert!(table.note(beside).unwrap_err().to_string().contains("signature is not valid"));
        }
        table.note(grant(2, 1, Digest::ZERO).sign(&key(9))).unwrap();
        assert!(matches!(table.note(grant(2, 2, Digest::ZERO).sign(&key(9))), Ok(Noted::Contradiction(_))));
        assert_eq!(table.holder(Seat(0), Term(2)), Some(&key(1).public()));
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

    /// E2: for a seat that an epoch names its base stands, and what was granted before, or is not under the base, is void; for one
    /// that it does not name the lineage goes on.
    #[test]
    fn e2_a_named_seat_begins_with_its_base_and_the_lineage_of_the_others_goes_on() {
        let mut table = table();
        table.note(grant(1, 1, Digest::ZERO).sign(&key(9))).unwrap();
        let other =
            |term, epoch| Grant { cluster: "b".parse().unwrap(), epoch: Epoch(epoch), ..grant(term, 2, Digest::ZERO) };
        table.note(other(1, 0).sign(&key(9))).unwrap();
        let mut next = EpochTable { epoch: Epoch(1), after: Height(64), ..table.table(Epoch(0)).unwrap().clone() };
        let holder = key(3).public();
        let base = Base { holder, disk: 7, incarnation: Incarnation(1) };
        let first = Term::first_of(Epoch(1));
        let named = next.seats.get_mut(&Seat(0)).unwrap();
        (named.since, named.base) = (Epoch(1), Some(base));
        assert!(matches!(
            table.note(Grant { epoch: Epoch(1), ..grant(first.0 + 1, 1, Digest::ZERO) }.sign(&key(9))),
            Err(LedgerError::UnknownEpoch(Epoch(1)))
        ));
        table.begin(next);
        assert_eq!((table.term(Seat(0)), table.holder(Seat(0), first)), (first, Some(&holder)));
        assert_eq!(table.term(Seat(1)), Term(1), "not named");
        let voted = |epoch, seat: u16, term, signer| {
            let target = VoteTarget { epoch: Epoch(epoch), ..vote(1, 1).0 };
            let content = target.signed_content(&Digest::sha256(CHAIN), Seat(seat), Term(term));
            let signature = key(signer).sign(Domain::Consensus, &content);
            (target, SeatVote { seat: Seat(seat), term: Term(term), signature })
        };
        let judge = |table: &GrantTable, (target, vote)| table.judge(&target, &vote);
        assert_eq!(judge(&table, voted(0, 0, 1, 1)), Verdict::Valid, "in its own epoch");
        assert_eq!(judge(&table, voted(1, 0, 1, 1)), Verdict::Invalid, "not in the next");
        assert_eq!(judge(&table, voted(1, 0, first.0, 3)), Verdict::Valid);
        let counts = |epoch, term| table.counts_in(Epoch(epoch), Seat(0), term);
        assert_eq!(
            [counts(0, Term(1)), counts(1, Term(1)), counts(0, first), counts(1, first)],
            [true, false, false, true]
        );
        assert_eq!(judge(&table, voted(1, 1, 1, 2)), Verdict::Valid);
        // Granted in the epoch before, whenever it comes: void for the one, newest for the other.
        assert_eq!(table.note(grant(7, 1, Digest::ZERO).sign(&key(9))).unwrap(), Noted::Older);
        assert_eq!(table.term(Seat(0)), first);
        assert_eq!(table.note(other(2, 0).sign(&key(9))).unwrap(), Noted::Newest(Seat(1)));
        for void in [8, first.0, Term::first_of(Epoch(2)).0 + 1] {
            let void = Grant { epoch: Epoch(1), ..grant(void, 1, Digest::ZERO) };
            assert!(table.note(void.sign(&key(9))).unwrap_err().to_string().contains("void"));
        }
        let early = Grant { epoch: Epoch(0), ..grant(first.0 + 2, 1, Digest::ZERO) };
        assert!(
            table.note(early.sign(&key(9))).unwrap_err().to_string().contains("void"),
            "not of that epoch's lineage"
        );
        let under = Grant { epoch: Epoch(1), ..grant(first.0 + 1, 1, Digest::ZERO) };
        assert_eq!(table.note(under.sign(&key(9))).unwrap(), Noted::Newest(Seat(0)));
        let forged = Grant { epoch: Epoch(1), cause: Cause::Ordered, ..grant(first.0 + 2, 1, Digest::ZERO) };
        assert!(table.note(forged.sign(&key(9))).unwrap_err().to_string().contains("has not ordered"));
    }
}
