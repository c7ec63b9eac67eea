//! The register's rules: a request, a cluster's record and the time in; an answer out, and perhaps a record to swap in.

mod decide;
mod orders;
mod split;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use standin_foundation::{ClusterId, Digest, Epoch, Incarnation, Lsn, Millis, NodeId, Term};
use standin_ledger::certificate::faulty_max;
use standin_ledger::epoch::EpochSeat;
use standin_ledger::{EpochTable, Grant, Member, Membership};

use crate::config::Config;
use crate::messages::{Refusal, Request};
use crate::mutation::Mutation;
use split::Split;

/// What the register holds of one cluster. It is swapped as a whole, and never deleted (G2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The cluster.
    pub cluster: ClusterId,
    /// Rises with every change.
    pub version: u64,
    /// The members: the nodes that are admitted, by id.
    pub admitted: BTreeMap<NodeId, Member>,
    /// The epoch in which the chain last said who they are.
    pub listed: Epoch,
    /// Version of this list; zero for the chain's own.
    pub membership_version: u64,
    /// The newest grant, without its signature: whoever has the key makes the same one (G4).
    pub grant: Option<Grant>,
    /// Nodes that may not become holder.
    pub not_electable: BTreeSet<NodeId>,
    /// The cluster is to switch away from the holder of this term.
    pub forced: Option<Term>,
    /// The register was brought back from a copy: each admitted node must have said what it knows before the next grant (G5).
    pub recalling: Option<BTreeSet<NodeId>>,
}

impl Record {
    /// A cluster that never had a grant.
    pub fn new(cluster: ClusterId, members: impl IntoIterator<Item: Into<Member>>) -> Self {
        Self {
            cluster,
            version: 0,
            admitted: by_id(members.into_iter().map(Into::into)),
            listed: Epoch(0),
            membership_version: 0,
            grant: None,
            not_electable: BTreeSet::new(),
            forced: None,
            recalling: None,
        }
    }

    /// Who belongs to the cluster, to be signed.
    pub fn membership(&self, chain: Digest) -> Membership {
        let (cluster, listed, members) = (self.cluster.clone(), self.listed, self.admitted.clone());
        Membership { chain, cluster, listed, version: self.membership_version, members }
    }

    /// Whether the auth node has changed the members since the chain last said who they are.
    pub fn has_changed_members(&self) -> bool {
        self.membership_version > 0
    }

    /// The newest term; zero if there never was a grant.
    pub fn term(&self) -> Term {
        self.grant.as_ref().map_or(Term(0), |grant| grant.term)
    }
}

fn by_id(members: impl Iterator<Item = Member>) -> BTreeMap<NodeId, Member> {
    members.map(|member| (member.key.node_id(), member)).collect()
}

/// What an auth node has heard of a cluster since it started. It is not stored: an auth node that starts gives every entry one
/// full maximum age.
#[derive(Debug, Clone)]
struct Watch {
    /// When each node was last heard.
    heard: BTreeMap<NodeId, Millis>,
    /// When anything was first heard of the cluster.
    since: Millis,
    /// When the holder of the newest term was last heard, or the entry was first seen here.
    holder_heard: Millis,
    /// The term that `holder_heard` is about.
    term: Term,
    /// The most that a holder said it had released.
    released: Lsn,
    /// The holder of that term.
    holder: Option<NodeId>,
    /// Whether it is cut off from the other seats.
    split: Split,
    /// When each other cluster last reported this one's holder, in which term.
    reports: BTreeMap<ClusterId, (Millis, Term)>,
}

/// What comes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "one at a time, and read at once")]
pub enum Decision {
    /// Nothing is to be changed; the grant that the request led to before.
    Repeated(Grant),
    /// Nothing is to be changed; the sender was heard.
    Alive,
    /// Nothing is changed.
    Refused(Refusal),
    /// Nothing may be changed any more: somebody was told of later changes than the register holds. It was brought back from a
    /// copy, and its operator did not say so (G5).
    RolledBack {
        /// The count that somebody was told.
        seen: u64,
    },
    /// The chain has named the cluster since: swap this record in for the one that was read, and ask again, whether or not another
    /// was faster.
    Named(Box<Record>),
    /// Swap this record in for the one that was read. If it is in and durable, its grant is the answer; if another was faster,
    /// read again and ask again.
    Swap(Box<Record>),
}

/// An auth node's rules and what it has heard.
#[derive(Debug)]
pub struct Auth {
    chain: Digest,
    /// Who holds the seats in the newest epoch that was proven, and what the chain has ordered for those that it has named (E2).
    table: EpochTable,
    incarnation: Incarnation,
    config: Config,
    mutation: Option<Mutation>,
    watches: BTreeMap<ClusterId, Watch>,
    /// Where clusters move to while the sites have lost each other, and when that was last found to be alive.
    refuge: Option<(String, Millis)>,
}

/// A request whose sender, ticket and statements have been checked against keys.
#[derive(Debug, Clone)]
pub struct Presented {
    /// Who asks: the link has proven it.
    pub from: NodeId,
    /// What it asks for.
    pub request: Request,
    /// The cluster that the ticket opened to, where there is one.
    pub ticket_opened: Option<ClusterId>,
    /// The nodes whose valid suspicion of the request's term was carried.
    pub suspected_by: BTreeSet<NodeId>,
    /// The node whose valid resignation from the request's term was carried.
    pub resigned: Option<NodeId>,
    /// The register's count of its changes.
    pub register_count: u64,
    /// The highest count that the sender was told, as far as it shows that it was.
    pub told_count: u64,
    /// The cluster that the sender speaks for, if it is the holder of another one.
    pub speaks_for: Option<ClusterId>,
    /// The evidence of a report holds: a vote of the accused seat in this term against a quorum's certificate.
    pub wrong_in: Option<Term>,
}

impl Presented {
    /// A request that carries nothing, or whose evidence is still to be looked at.
    pub fn of(from: NodeId, request: Request, register_count: u64) -> Self {
        let told_count = match &request {
            Request::KeepAlive(keep_alive) => keep_alive.register_count.count,
            _ => 0,
        };
        Self {
            from,
            request,
            ticket_opened: None,
            suspected_by: BTreeSet::new(),
            resigned: None,
            register_count,
            told_count,
            speaks_for: None,
            wrong_in: None,
        }
    }
}

impl Auth {
    /// An auth node that starts. `incarnation` is the register's life, `table` that of the newest epoch that was proven to it.
    pub fn new(chain: Digest, incarnation: Incarnation, config: Config, table: EpochTable) -> Self {
        Self { chain, table, incarnation, config, mutation: None, watches: BTreeMap::new(), refuge: None }
    }

    /// An epoch has been proven: nothing is granted in an earlier one any more, the clusters that the chain has named go on from
    /// their bases (E2), and those that hold no seat any more get nothing.
    pub fn begin(&mut self, table: &EpochTable) {
        if table.epoch > self.table.epoch {
            self.table = table.clone();
            self.watches.retain(|cluster, _| table.seat_of(cluster).is_some());
        }
    }

    /// The records of clusters that hold seats by the chain's order, as they are where the register has none. A register that was brought
    /// back from a copy may have lost what it granted upon an order of an earlier life (G5).
    pub fn ordered_records(&self) -> Vec<Record> {
        let record = |seat: &EpochSeat| Record {
            listed: seat.listed,
            recalling: seat.base.filter(|base| base.incarnation < self.incarnation).map(|_| BTreeSet::new()),
            ..Record::new(seat.cluster.clone(), seat.members.iter().cloned())
        };
        self.table.seats.values().filter(|seat| seat.listed > Epoch(0)).map(record).collect()
    }

    /// How many seats there are.
    fn seats(&self) -> usize {
        self.table.seats.len()
    }

    /// Switches one rule off, to see whether the tests notice.
    #[cfg(feature = "mutations")]
    pub fn mutate(&mut self, mutation: Mutation) {
        self.mutation = Some(mutation);
    }

    /// The register's life.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// How long ago the holder of a cluster was last heard, in ms; none before anything was asked about the cluster.
    pub fn age(&self, cluster: &ClusterId, now: Millis) -> Option<u64> {
        self.watches.get(cluster).map(|watch| now - watch.holder_heard)
    }

    /// Whether the register has no holder for the cluster now: the newest grant's is past its maximum age.
    pub fn is_vacant(&self, cluster: &ClusterId, now: Millis) -> bool {
        self.age(cluster, now).is_some_and(|age| age > self.config.age_max_ms)
    }

    fn is_off(&self, rule: Mutation) -> bool {
        self.mutation == Some(rule)
    }
}
