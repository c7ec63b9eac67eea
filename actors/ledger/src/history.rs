//! Who held which seat: grants on record in the chain's state.
//!
//! Votes are judged by grants wherever they come from, and not by this record. It makes them part of what every node has for ever,
//! in snapshots, too, so that anyone can ask who held a seat at a height. A grant is on record soon after it was made: the node that it
//! names sees to that, or whoever speaks for another seat. Between the two the record still names the holder before; the certificate of a
//! block names the terms under which its own votes were given.

use serde::{Deserialize, Serialize};
use standin_foundation::wire::Wire;
use standin_foundation::{ClusterId, Digest, Epoch, Height, Term};

use crate::epoch::{EpochTable, SYSTEM_PREFIX};
use crate::grant::{Cause, SignedGrant};
use crate::state::State;
use crate::state_machine::Reject;
use crate::trie::Trie;

/// Grants that one transaction puts on record: each of them costs a check of a signature.
pub const RECORDED_AT_ONCE: usize = 32;

/// A grant on record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedGrant {
    /// The block that put it on record.
    pub height: Height,
    /// The newest term of the cluster that was on record before; none for the first. Whoever is shown this record and the one that it
    /// names knows that there was nothing between them.
    pub before: Option<Term>,
    /// The grant.
    pub grant: SignedGrant,
}

impl Wire for RecordedGrant {
    const NAME: &'static str = "recorded grant";
    const BYTES_MAX: usize = SignedGrant::BYTES_MAX + 64;
}

/// The newest term of a cluster that is on record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Newest(Term);

impl Wire for Newest {
    const NAME: &'static str = "newest recorded term";
    const BYTES_MAX: usize = 16;
}

/// Who held a seat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// The holder by a grant on record, with the next one that was put on record above the height that was asked for.
    Granted {
        /// The newest grant on record at that height.
        granted: Box<RecordedGrant>,
        /// The first one above it; none if there is none yet.
        next: Option<Box<RecordedGrant>>,
    },
    /// The node that the chain's own order named, as the base that it began with.
    Ordered(Box<SignedGrant>),
    /// No grant was on record.
    Nobody,
}

/// Where a grant stands in the state.
pub fn state_key(cluster: &ClusterId, term: Term) -> Vec<u8> {
    [&[SYSTEM_PREFIX, b'g'][..], &term.0.to_be_bytes(), cluster.as_str().as_bytes()].concat()
}

fn newest_key(cluster: &ClusterId) -> Vec<u8> {
    [&[SYSTEM_PREFIX, b'h'][..], cluster.as_str().as_bytes()].concat()
}

/// The grant of a term, if it is on record.
pub fn recorded(state: &Trie, cluster: &ClusterId, term: Term) -> Option<RecordedGrant> {
    RecordedGrant::from_wire(state.get(&state_key(cluster, term))?).ok()
}

/// Puts grants on record. `table` gives those of the epochs that have begun.
///
/// Only what votes could be judged by is recorded, and the first of two grants for one term stands, as in [`crate::GrantTable`]. A
/// grant that comes behind a later one is recorded, too, and does not change who held the seat.
pub(crate) fn record(
    state: &mut State<'_>,
    table: impl Fn(Epoch) -> Option<EpochTable>,
    chain: &Digest,
    height: Height,
    grants: Vec<SignedGrant>,
) -> Result<(), Reject> {
    let mut is_new = false;
    for grant in grants {
        let (cluster, term) = (grant.grant.cluster.clone(), grant.grant.term);
        let key = state_key(&cluster, term);
        let known = state.get(&key).and_then(|bytes| RecordedGrant::from_wire(bytes).ok());
        match &known {
            Some(known) if known.grant == grant => continue,
            Some(known) if known.grant.grant.incarnation >= grant.grant.incarnation => {
                return Err(Reject::new(format!("another grant of cluster {cluster} for term {term} is on record")));
            }
            _ => {}
        }
        check(&grant, table(grant.grant.epoch), chain)?;
        let newest = state.get(&newest_key(&cluster)).and_then(|bytes| Newest::from_wire(bytes).ok());
        let is_newest = newest.is_none_or(|Newest(newest)| newest < term);
        let before = known.map_or(newest.filter(|_| is_newest).map(|Newest(term)| term), |known| known.before);
        let unencodable = |error: standin_foundation::wire::WireError| Reject::new(error.to_string());
        state.put(key, RecordedGrant { height, before, grant }.to_wire().map_err(unencodable)?);
        if is_newest {
            state.put(newest_key(&cluster), Newest(term).to_wire().map_err(unencodable)?);
        }
        is_new = true;
    }
    if is_new { Ok(()) } else { Err(Reject::new("these grants are on record already")) }
}

/// Whether a vote could be judged by a grant.
fn check(grant: &SignedGrant, table: Option<EpochTable>, chain: &Digest) -> Result<(), Reject> {
    let wrong = |what: &str| {
        let (cluster, term) = (&grant.grant.cluster, grant.grant.term);
        Err(Reject::new(format!("grant of cluster {cluster} for term {term}: {what}")))
    };
    let Some(table) = table else { return wrong("its epoch has not begun") };
    let Some(auth) = &table.auth else { return wrong("this chain has no auth node") };
    let Some(seat) = table.seats.values().find(|seat| seat.cluster == grant.grant.cluster) else {
        return wrong("the cluster holds no seat in its epoch");
    };
    let term = grant.grant.term;
    if grant.grant.cause == Cause::Ordered || term.lineage() != seat.since || term == Term::first_of(seat.since) {
        return wrong("the chain has ordered another holder: it is void");
    }
    grant.verify(chain, auth).map_err(|error| Reject::new(error.to_string()))
}

/// Who held a cluster's seat at a block; none if the cluster held none then.
pub(crate) fn held(
    state: &Trie,
    tables: &[EpochTable],
    chain: &Digest,
    cluster: &ClusterId,
    height: Height,
) -> Option<Held> {
    let table = tables.iter().rev().find(|table| table.after < height || table.after == Height(0))?;
    let seat = table.seats.values().find(|seat| seat.cluster == *cluster)?;
    let mut next = None;
    let mut term =
        state.get(&newest_key(cluster)).and_then(|bytes| Newest::from_wire(bytes).ok()).map(|newest| newest.0);
    while let Some(granted) = term.and_then(|term| recorded(state, cluster, term)).map(Box::new) {
        if granted.grant.grant.term.lineage() < seat.since {
            break;
        }
        if granted.height <= height {
            return Some(Held::Granted { granted, next });
        }
        term = granted.before;
        next = Some(granted);
    }
    Some(table.base_grant(chain, seat).map_or(Held::Nobody, |base| Held::Ordered(Box::new(base))))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use standin_foundation::Incarnation;

    use super::*;
    use crate::chain::tests::{genesis, step};
    use crate::chain::{Chain, ExecutedBlock};
    use crate::epoch::Base;
    use crate::genesis::Genesis;
    use crate::grant::Grant;
    use crate::receipt::Outcome;
    use crate::system::{SYSTEM_TITLE, SystemTransaction};
    use crate::transaction::tests::key;
    use crate::transaction::{Transaction, TransactionBody};
    use crate::{Reconfiguration, builtin::Builtin, genesis::Operators, reconfiguration::Change};

    fn granted() -> Genesis {
        Genesis {
            auth: Some(key(9).public()),
            operators: Operators { keys: vec![key(21).public()], needed: 1 },
            clients: Default::default(),
            ..genesis(100)
        }
    }

    fn grant(genesis: &Genesis, cluster: &str, term: Term, holder: u8) -> Grant {
        let holder = key(holder).public();
        Grant {
            chain: genesis.digest(),
            epoch: Epoch(0),
            cluster: cluster.parse().unwrap(),
            term,
            holder,
            in_sync: [holder.node_id()].into(),
            previous: Digest::ZERO,
            cause: Cause::Suspected,
            incarnation: Incarnation(1),
            request: Digest::ZERO,
        }
    }

    fn carry_out(chain: &mut Chain, what: SystemTransaction) -> ExecutedBlock {
        let nonce = chain.height().0;
        let title = SYSTEM_TITLE.parse().unwrap();
        let body = TransactionBody { title, nonce, expires: Height(90), payload: what.to_wire().unwrap() };
        step(chain, vec![Transaction::unsigned(&key(1).public(), &body).unwrap()])
    }

    fn record(chain: &mut Chain, grants: &[Grant]) -> Outcome {
        let signed = grants.iter().map(|grant| grant.clone().sign(&key(9))).collect();
        carry_out(chain, SystemTransaction::Record(signed)).receipts[0].outcome.clone()
    }

    fn reason(outcome: Outcome) -> String {
        match outcome {
            Outcome::Rejected(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    fn term_at(chain: &Chain, cluster: &str, height: u64) -> Option<u64> {
        match chain.held(&cluster.parse().unwrap(), Height(height)) {
            Some(Held::Granted { granted, .. }) => Some(granted.grant.grant.term.0),
            Some(Held::Ordered(base)) => Some(base.grant.term.0),
            Some(Held::Nobody) => Some(0),
            None => None,
        }
    }

    #[test]
    fn who_held_a_seat_at_a_height_is_on_record_whatever_order_grants_come_in() {
        let genesis = granted();
        let mut chain = Chain::new(&genesis, Arc::new(Builtin));
        let of = |term, holder| grant(&genesis, "c1", Term(term), holder);
        assert!(record(&mut chain, &[of(1, 1)]).is_applied());
        step(&mut chain, vec![]);
        assert!(record(&mut chain, &[of(2, 2), of(5, 1)]).is_applied());
        assert!(record(&mut chain, &[of(4, 2)]).is_applied(), "behind a later one");
        assert!(record(&mut chain, &[of(5, 1), of(6, 2)]).is_applied(), "the one is known, the other is not");
        let terms: Vec<_> = (0..=5).map(|height| term_at(&chain, "c1", height).unwrap()).collect();
        assert_eq!(terms, [0, 1, 1, 5, 5, 6]);
        let Some(Held::Granted { granted, next: Some(next) }) = chain.held(&"c1".parse().unwrap(), Height(2)) else {
            panic!("nobody held it");
        };
        assert_eq!((granted.before, next.before, next.height), (None, Some(Term(1)), Height(3)), "nothing between");
        assert_eq!((term_at(&chain, "c2", 5), term_at(&chain, "c9", 5)), (Some(0), None));
        assert!(chain.is_recorded(&of(4, 2).sign(&key(9))) && !chain.is_recorded(&of(4, 1).sign(&key(9))));
        // It is undone with its block.
        chain.undo_to(Height(2)).unwrap();
        assert!(!chain.is_recorded(&of(2, 2).sign(&key(9))) && term_at(&chain, "c1", 2) == Some(1));
    }

    #[test]
    fn only_grants_that_votes_could_be_judged_by_are_recorded() {
        let genesis = granted();
        let mut chain = Chain::new(&genesis, Arc::new(Builtin));
        let of = |term| grant(&genesis, "c1", Term(term), 1);
        assert!(record(&mut chain, &[of(3)]).is_applied());
        let mut refuse = |grants: &[Grant], why: &str| {
            let refused = reason(record(&mut chain, grants));
            assert!(refused.contains(why), "{refused}");
        };
        refuse(&[], "1 to 32 are recorded at once");
        refuse(&vec![of(4); RECORDED_AT_ONCE + 1], "1 to 32 are recorded at once");
        refuse(&[of(3)], "on record already");
        refuse(&[grant(&genesis, "c1", Term(3), 2)], "another grant of cluster c1 for term 3");
        refuse(&[Grant { epoch: Epoch(1), ..of(4) }], "its epoch has not begun");
        refuse(&[grant(&genesis, "c9", Term(1), 1)], "holds no seat");
        refuse(&[Grant { cause: Cause::Ordered, ..of(4) }], "void");
        refuse(&[of(Term::first_of(Epoch(1)).0)], "void");
        refuse(&[Grant { chain: Digest::ZERO, ..of(4) }], "another chain");
        refuse(&[of(4), Grant { in_sync: [].into(), ..of(5) }], "contradicts itself");
        let forged = SystemTransaction::Record(vec![of(4).sign(&key(1))]);
        let refused = reason(carry_out(&mut chain, forged).receipts[0].outcome.clone());
        assert!(refused.contains("signature is not valid"), "{refused}");
        assert_eq!(term_at(&chain, "c1", 12), Some(3), "none of them changed anything");
        // A life of the register that does not know what the one before granted.
        let recalled = Grant { incarnation: Incarnation(2), ..grant(&genesis, "c1", Term(3), 2) };
        assert!(record(&mut chain, &[recalled]).is_applied());
        let fixed = genesis_without_auth();
        let mut chain = Chain::new(&fixed, Arc::new(Builtin));
        let refused = reason(record(&mut chain, &[grant(&fixed, "c1", Term(1), 1)]));
        assert!(refused.contains("no auth node"), "{refused}");
    }

    fn genesis_without_auth() -> Genesis {
        genesis(100)
    }

    /// E2: a named seat is held by its base until a grant under that is on record, and what was granted before counts for the time before.
    #[test]
    fn e2_a_named_seat_was_held_by_who_the_chain_named() {
        let genesis = granted();
        let mut chain = Chain::new(&genesis, Arc::new(Builtin));
        assert!(record(&mut chain, &[grant(&genesis, "c1", Term(1), 1)]).is_applied());
        let base = Base { holder: key(2).public(), disk: 7, incarnation: Incarnation(1) };
        let changes = vec![Change::Hold { cluster: "c1".parse().unwrap(), base }];
        let reconfiguration = Reconfiguration { chain: genesis.digest(), epoch: Epoch(0), changes };
        let approved = crate::ApprovedReconfiguration::draft(reconfiguration).by(&key(21));
        let ordered = carry_out(&mut chain, SystemTransaction::Reconfigure(approved));
        assert!(ordered.receipts[0].outcome.is_applied(), "{:?}", ordered.receipts);
        while chain.epoch_tables().len() < 2 {
            step(&mut chain, vec![]);
        }
        let after = chain.height();
        step(&mut chain, vec![]);
        let first = Term::first_of(Epoch(1));
        assert!(record(&mut chain, &[grant(&genesis, "c1", Term(2), 1)]).is_applied(), "late, and of the epoch before");
        let under = Grant { epoch: Epoch(1), ..grant(&genesis, "c1", first.next(), 3) };
        assert!(record(&mut chain, &[under]).is_applied());
        let terms = [after.0, after.0 + 1, after.0 + 2, after.0 + 3].map(|height| term_at(&chain, "c1", height));
        assert_eq!(terms, [Some(1), Some(first.0), Some(first.0), Some(first.0 + 1)]);
    }
}
