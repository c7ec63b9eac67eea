//! A seat has one log: what was released under any term is in the log of everyone who speaks for the seat later, at the same
//! place; and there are never two grants for one term.

use std::collections::BTreeMap;

use standin_foundation::{ClusterId, Digest, Epoch, Lsn, Term, Writer};
use standin_ledger::grant::Cause;
use standin_ledger::{Grant, SignedGrant};

use super::Violation;
use crate::node::{Node, Observation};

#[derive(Debug, Default)]
pub(super) struct OneLog {
    /// By seat and lineage: what was released, by record.
    released: BTreeMap<(u16, Epoch), BTreeMap<Lsn, Digest>>,
    /// By seat: the highest term in which somebody spoke for it.
    spoke: BTreeMap<u16, Term>,
    grants: BTreeMap<String, BTreeMap<Term, Grant>>,
}

impl OneLog {
    pub(super) fn check(&mut self, node: &Node, observation: &Observation) -> Result<(), Violation> {
        let seat = node.setup.seat.0;
        let violation = |what| Err(Violation { invariant: "one_log", what });
        // Said a moment ago, in the same turn in which the node learned that the chain has named the seat: its log is another.
        let has_other_log = |writer: &Writer| writer.term.lineage() < node.member().facts().term().lineage();
        match observation {
            Observation::Released(writer, ..) | Observation::Activated(writer) if has_other_log(writer) => Ok(()),
            Observation::Released(writer, lsn, hash) => {
                let released = self.released.entry((seat, writer.term.lineage())).or_default();
                let first = *released.entry(*lsn).or_insert(*hash);
                if first != *hash {
                    return violation(format!("seat {seat} released {} and {} as {lsn}", first.short(), hash.short()));
                }
                match released.range(..lsn).next_back().filter(|(before, hash)| !has(node, **before, **hash)) {
                    Some((before, _)) => violation(format!("seat {seat} released {lsn} in a log that lacks {before}")),
                    None => Ok(()),
                }
            }
            Observation::Activated(writer) => {
                let newest = self.spoke.entry(seat).or_default();
                if writer.term < *newest {
                    // Whoever does not know that it was replaced has nothing that it could release.
                    return Ok(());
                }
                *newest = writer.term;
                let released =
                    self.released.get(&(seat, writer.term.lineage())).and_then(|released| released.last_key_value());
                match released.filter(|(lsn, hash)| !has(node, **lsn, **hash)) {
                    Some((lsn, _)) => {
                        let head = node.member().head().lsn;
                        violation(format!("seat {seat} goes on as {writer} with a log to {head} that lacks {lsn}"))
                    }
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    pub(super) fn causes(&self, cluster: &ClusterId) -> Vec<Cause> {
        let grants = self.grants.get(cluster.as_str()).into_iter().flat_map(BTreeMap::values);
        grants.map(|grant| grant.cause).collect()
    }

    pub(super) fn granted(&mut self, grant: &SignedGrant) -> Result<(), Violation> {
        let cluster = grant.grant.cluster.to_string();
        let grants = self.grants.entry(cluster.clone()).or_default();
        let first = grants.entry(grant.grant.term).or_insert_with(|| grant.grant.clone());
        // What an earlier life of the register granted there, every node of the cluster has promised to refuse (G5): if one of them
        // went by it nevertheless, the seat's log shows it.
        if first.incarnation < grant.grant.incarnation {
            *first = grant.grant.clone();
        }
        if *first != grant.grant {
            let what = format!("cluster {cluster}: two grants for term {}", grant.grant.term);
            return Err(Violation { invariant: "one_log", what });
        }
        Ok(())
    }
}

/// Whether the node's log has this record, or has cut it off at the front.
fn has(node: &Node, lsn: Lsn, hash: Digest) -> bool {
    let found = node.member().entries().find(|entry| entry.lsn == lsn).map(|entry| entry.hash);
    found.map_or(node.member().facts().base.lsn >= lsn, |found| found == hash)
}
