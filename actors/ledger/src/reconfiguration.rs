//! Reconfiguration: what operators order through the chain, since nobody may grant it. It takes effect with the next epoch.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use standin_foundation::limits::SEATS_MAX;
use standin_foundation::wire::Wire;
use standin_foundation::{
    Canonical, ClusterId, Digest, Domain, Encoder, Epoch, Height, Incarnation, PublicKey, Seat, Seats,
};

use crate::approval::{Approved, Order};
use crate::certificate::{faulty_max, quorum};
use crate::epoch::{AUTH_NODES_MAX, AuthNode, Base, EpochSeat, EpochTable};
use crate::genesis::{OPERATORS_MAX, Operators, Parameters, largest_window};
use crate::grant::MEMBERS_MAX;
use crate::membership::{Member, NAME_BYTES_MAX};
use crate::state_machine::Reject;

/// Changes in one reconfiguration.
const CHANGES_MAX: usize = 16;

/// One change of who holds the seats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A seat is held by this node from the boundary on, with an empty log, and whoever held it before speaks for it no more. For
    /// a seat that nobody can take over: its logs are lost, or nobody who is left may be elected.
    Hold {
        /// The cluster that holds the seat.
        cluster: ClusterId,
        /// What it begins with.
        base: Base,
    },
    /// Others approve reconfigurations from the next epoch on.
    Operators(Operators),
    /// A cluster is given a seat, with the lowest number that nobody has.
    Add {
        /// The cluster.
        cluster: ClusterId,
        /// Its members, with their addresses.
        members: Vec<Member>,
        /// What it begins with: one of the members holds the seat.
        base: Base,
    },
    /// A cluster holds its seat no more: quorums are counted without it.
    Remove(ClusterId),
    /// Blocks are executed by this version of the state machine's rules: a higher one than before.
    Version(u32),
    /// Grants are signed with another key. What the register of the one before knew is void: every cluster is named, with its members.
    Auth {
        /// The key that signs grants.
        key: PublicKey,
        /// Who has it, and is asked.
        nodes: Vec<AuthNode>,
        /// Every cluster that holds a seat.
        clusters: Vec<Named>,
    },
}

/// A cluster, as it begins under another auth key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its members. The address is empty for one that is reached where each configuration says.
    pub members: Vec<Member>,
    /// The node that speaks for the seat.
    pub holder: PublicKey,
    /// Names the holder's disk, as in [`Base`].
    pub disk: u64,
}

/// What is ordered. It is carried out in one epoch only, so it cannot be ordered a second time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconfiguration {
    /// The chain.
    pub chain: Digest,
    /// The epoch in which it is ordered.
    pub epoch: Epoch,
    /// What changes with the next one.
    pub changes: Vec<Change>,
}

impl Canonical for Reconfiguration {
    fn encode(&self, out: &mut Encoder) {
        out.digest(&self.chain).u64(self.epoch.0).length(self.changes.len());
        for change in &self.changes {
            match change {
                Change::Hold { cluster, base: Base { holder, disk, incarnation } } => {
                    out.u8(2).bytes(cluster.as_str().as_bytes()).raw(holder.as_bytes()).u64(*disk).u64(incarnation.0);
                }
                Change::Operators(Operators { keys, needed }) => {
                    out.u8(1).u16(*needed).length(keys.len());
                    for key in keys {
                        out.raw(key.as_bytes());
                    }
                }
                Change::Add { cluster, members, base: Base { holder, disk, incarnation } } => {
                    out.u8(3).bytes(cluster.as_str().as_bytes()).raw(holder.as_bytes()).u64(*disk).u64(incarnation.0);
                    encode_members(out, members);
                }
                Change::Remove(cluster) => _ = out.u8(4).bytes(cluster.as_str().as_bytes()),
                Change::Version(version) => _ = out.u8(6).u32(*version),
                Change::Auth { key, nodes, clusters } => {
                    out.u8(5).raw(key.as_bytes()).length(nodes.len());
                    for AuthNode { key, address } in nodes {
                        out.raw(key.as_bytes()).bytes(address.as_bytes());
                    }
                    out.length(clusters.len());
                    for Named { cluster, members, holder, disk } in clusters {
                        out.bytes(cluster.as_str().as_bytes()).raw(holder.as_bytes()).u64(*disk);
                        encode_members(out, members);
                    }
                }
            }
        }
    }
}

fn encode_members(out: &mut Encoder, members: &[Member]) {
    out.length(members.len());
    for Member { key, priority, site, address } in members {
        out.raw(key.as_bytes()).u8(*priority).bytes(site.as_bytes()).bytes(address.as_bytes());
    }
}

impl Reconfiguration {
    /// An order is for one epoch.
    pub(crate) fn check_epoch(&self, current: &EpochTable) -> Result<(), Reject> {
        let epoch = current.epoch;
        match self.epoch == epoch {
            true => Ok(()),
            false => Err(Reject::new(format!("ordered for epoch {}, this is epoch {epoch}", self.epoch))),
        }
    }

    /// `former` says which seat a cluster held last that holds none now.
    ///
    /// The table of the next epoch, if this is ordered at `height` of an epoch with `current` as its table. What is refused is
    /// refused by all: it depends on genesis and state alone.
    pub(crate) fn next_table(
        &self,
        current: &EpochTable,
        former: impl Fn(&ClusterId) -> Option<Seat>,
        parameters: &Parameters,
        height: Height,
    ) -> Result<EpochTable, Reject> {
        if self.changes.is_empty() || self.changes.len() > CHANGES_MAX {
            return Err(Reject::new(format!("{} changes, 1 to {CHANGES_MAX} are allowed", self.changes.len())));
        }
        let mut next = current.clone();
        (next.epoch, next.after) = (current.epoch.next(), boundary(height, parameters));
        for change in &self.changes {
            change.apply(&mut next, current.start().seats, &former)?;
        }
        // Whoever is behind at the boundary is helped by a quorum's correct seats that stay.
        let stays = |number: &&Seat| next.seats.get(number).map(|seat| &seat.cluster) == current.cluster_of(number);
        let (before, kept) = (current.seats.len(), current.seats.keys().filter(stays).count());
        let needed = before + faulty_max(before) + 1 - quorum(before);
        if kept < needed {
            let what =
                format!("of {before} clusters {kept} would stay, {needed} must: remove the others in later epochs");
            return Err(Reject::new(what));
        }
        let (seats, window) = (next.seats.len(), parameters.window);
        if window > largest_window(seats) {
            let most = largest_window(seats);
            return Err(Reject::new(format!(
                "{seats} seats can prove a window of {most} slots, this chain's is {window}"
            )));
        }
        let mut holders = BTreeSet::new();
        let bases = next.seats.values().filter_map(|seat| seat.base.as_ref().filter(|_| seat.since == next.epoch));
        if !bases.map(|base| base.holder).all(|holder| holders.insert(holder)) {
            return Err(Reject::new("a node would hold two seats"));
        }
        Ok(next)
    }
}

impl Change {
    /// `taken` are the seats that are held in the epoch before.
    fn apply(
        &self,
        table: &mut EpochTable,
        taken: Seats,
        former: &impl Fn(&ClusterId) -> Option<Seat>,
    ) -> Result<(), Reject> {
        if table.auth.is_none() && !matches!(self, Self::Operators(_) | Self::Version(_)) {
            return Err(Reject::new("a chain without an auth node has one node for each seat, for ever"));
        }
        match self {
            Self::Hold { cluster, base } => {
                let since = table.epoch;
                let named = table.seats.values_mut().find(|seat| seat.cluster == *cluster);
                let seat = named.ok_or_else(|| Reject::new(format!("cluster {cluster} holds no seat")))?;
                if seat.since == since {
                    return Err(Reject::new(format!("cluster {cluster} is named twice")));
                }
                (seat.since, seat.base) = (since, Some(*base));
            }
            Self::Add { cluster, members, base } => {
                if table.seat_of(cluster).is_some() {
                    return Err(Reject::new(format!("cluster {cluster} holds a seat")));
                }
                check_members(table, cluster, members, &base.holder)?;
                let next: Seats = table.seats.keys().copied().chain(taken.iter()).collect();
                let lowest =
                    || next.lowest_vacant().ok_or_else(|| Reject::new(format!("all {SEATS_MAX} seats are held")));
                // Its nodes' disks hold the log of that seat.
                let seat = former(cluster).map_or_else(lowest, Ok)?;
                if next.contains(seat) {
                    let what =
                        format!("cluster {cluster} held seat {seat}, which another has now: add it under another name");
                    return Err(Reject::new(what));
                }
                let (cluster, members, since) = (cluster.clone(), members.clone(), table.epoch);
                table.seats.insert(seat, EpochSeat { cluster, members, listed: since, since, base: Some(*base) });
            }
            Self::Auth { key, nodes, clusters } => replace_auth(table, key, nodes, clusters)?,
            Self::Remove(cluster) => {
                let seat = table.seat_of(cluster);
                let seat = seat.ok_or_else(|| Reject::new(format!("cluster {cluster} holds no seat")))?;
                table.seats.remove(&seat);
            }
            Self::Version(version) => {
                if *version <= table.version {
                    let what = format!("version {version} of the state machine, {} is in force", table.version);
                    return Err(Reject::new(what));
                }
                table.version = *version;
            }
            Self::Operators(operators) => {
                let mut faults = Vec::new();
                operators.check(&mut faults);
                if operators.keys.is_empty() {
                    faults.push("operators.keys: without any, nothing could be reconfigured any more".to_owned());
                }
                if !faults.is_empty() {
                    return Err(Reject::new(faults.join("; ")));
                }
                table.operators = operators.clone();
            }
        }
        Ok(())
    }
}

/// Every cluster begins anew with its holder alone, as if it had been named, and with the members of the order.
fn replace_auth(table: &mut EpochTable, key: &PublicKey, nodes: &[AuthNode], clusters: &[Named]) -> Result<(), Reject> {
    let wrong = |what: String| Err(Reject::new(what));
    if table.auth.as_ref() == Some(key) {
        return wrong("this auth key signs grants already".to_owned());
    }
    let distinct: BTreeSet<_> = nodes.iter().map(|node| node.key).collect();
    if nodes.is_empty() || nodes.len() > AUTH_NODES_MAX || distinct.len() < nodes.len() {
        return wrong(format!("1 to {AUTH_NODES_MAX} different auth nodes are needed, {} found", nodes.len()));
    }
    if nodes.iter().any(|node| node.address.is_empty() || node.address.len() > NAME_BYTES_MAX) {
        return wrong(format!("an auth node needs host and port of its bridge, of at most {NAME_BYTES_MAX} bytes"));
    }
    if clusters.len() > table.seats.len() {
        return wrong("a cluster is named that holds no seat".to_owned());
    }
    let mut keys: BTreeSet<_> = distinct.into_iter().chain([*key]).collect();
    let (epoch, incarnation) = (table.epoch, Incarnation::first_of(table.epoch));
    for seat in table.seats.values_mut() {
        let mut of_cluster = clusters.iter().filter(|named| named.cluster == seat.cluster);
        let (Some(named), None) = (of_cluster.next(), of_cluster.next()) else {
            return wrong(format!(
                "cluster {} must be named, once: another auth key knows nothing of it",
                seat.cluster
            ));
        };
        let Named { cluster, members, holder, disk } = named;
        check_list(cluster, members, holder, &mut keys, Member::check_place)?;
        (seat.members, seat.listed, seat.since) = (members.clone(), epoch, epoch);
        seat.base = Some(Base { holder: *holder, disk: *disk, incarnation });
    }
    (table.auth, table.auth_nodes) = (Some(*key), nodes.to_vec());
    Ok(())
}

fn check_members(
    table: &EpochTable,
    cluster: &ClusterId,
    members: &[Member],
    holder: &PublicKey,
) -> Result<(), Reject> {
    let of_seats = table.seats.values().flat_map(|seat| &seat.members).map(|member| member.key);
    let mut keys = of_seats.chain(table.auth).collect();
    check_list(cluster, members, holder, &mut keys, Member::check)
}

/// `keys` are those that are in use; those of the members are added.
fn check_list(
    cluster: &ClusterId,
    members: &[Member],
    holder: &PublicKey,
    keys: &mut BTreeSet<PublicKey>,
    check: impl Fn(&Member) -> Result<(), &'static str>,
) -> Result<(), Reject> {
    let wrong = |what: String| Err(Reject::new(format!("cluster {cluster}: {what}")));
    if members.is_empty() || members.len() > MEMBERS_MAX {
        return wrong(format!("{} members found, 1 to {MEMBERS_MAX} are allowed", members.len()));
    }
    if !members.iter().any(|member| member.key == *holder) {
        return wrong("the holder is not among the members".to_owned());
    }
    for member in members {
        if !keys.insert(member.key) {
            return wrong(format!("a node is in one cluster, and {} is there twice", member.key));
        }
        if let Err(what) = check(member) {
            return wrong(what.to_owned());
        }
    }
    Ok(())
}

/// The last block of the epoch in which something was ordered at `height`: the first regular checkpoint at least a window behind.
/// Nobody can have voted beyond it without having executed the order: votes lie at most a window above what one has executed.
pub(crate) fn boundary(height: Height, parameters: &Parameters) -> Height {
    let interval = parameters.checkpoint_interval.max(1);
    Height(height.plus(parameters.window).0.div_ceil(interval).saturating_mul(interval))
}

/// A reconfiguration with its approvals, as a transaction of the chain's own holds it.
pub type ApprovedReconfiguration = Approved<Reconfiguration>;

impl Order for Reconfiguration {
    const DOMAIN: Domain = Domain::Reconfiguration;

    fn chain(&self) -> &Digest {
        &self.chain
    }
}

impl Wire for ApprovedReconfiguration {
    const NAME: &'static str = "reconfiguration";
    const BYTES_MAX: usize = EpochTable::BYTES_MAX
        + CHANGES_MAX * (256 + OPERATORS_MAX * 40 + MEMBERS_MAX * (2 * NAME_BYTES_MAX + 64))
        + OPERATORS_MAX * 128;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use standin_foundation::{Incarnation, Seat, Term, View};

    use super::*;
    use crate::batch::Batch;
    use crate::block::Proposal;
    use crate::builtin::Builtin;
    use crate::certificate::{Authority, CheckpointCertificate, SeatVote, VoteTarget};
    use crate::chain::tests::{genesis, step};
    use crate::chain::{Chain, ExecutedBlock};
    use crate::epoch::{EpochProof, EpochStart};
    use crate::error::LedgerError;
    use crate::genesis::Genesis;
    use crate::receipt::Outcome;
    use crate::system::{SYSTEM_TITLE, SystemTransaction};
    use crate::transaction::tests::key;
    use crate::transaction::{Transaction, TransactionBody};

    /// Checkpoints every 4 blocks, a window of 8; two of three operators must approve.
    fn operated() -> Genesis {
        let keys = (21..24).map(|n| key(n).public()).collect();
        Genesis { operators: Operators { keys, needed: 2 }, ..genesis(100) }
    }

    /// One operator is to be enough from the next epoch on.
    fn order(genesis: &Genesis, epoch: u64, operator: u8) -> Reconfiguration {
        let operators = Operators { keys: vec![key(operator).public()], needed: 1 };
        let changes = vec![Change::Operators(operators)];
        Reconfiguration { chain: genesis.digest(), epoch: Epoch(epoch), changes }
    }

    fn transaction(reconfiguration: &Reconfiguration, operators: &[u8], nonce: u64) -> Transaction {
        let approvals = operators.iter().map(|n| reconfiguration.approve(&key(*n))).collect();
        let approved = ApprovedReconfiguration { order: reconfiguration.clone(), approvals };
        let payload = SystemTransaction::Reconfigure(approved).to_wire().unwrap();
        let body = TransactionBody { title: SYSTEM_TITLE.parse().unwrap(), nonce, expires: Height(90), payload };
        Transaction::unsigned(&key(1).public(), &body).unwrap()
    }

    fn rejected(block: &ExecutedBlock) -> &str {
        match &block.receipts[0].outcome {
            Outcome::Rejected(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    fn empty(chain: &mut Chain) -> ExecutedBlock {
        step(chain, vec![])
    }

    /// E1: ordered at s, effective at the first checkpoint at or after s + window, once.
    #[test]
    fn e1_a_reconfiguration_begins_at_the_first_checkpoint_a_window_behind_its_order() {
        let genesis = operated();
        let mut chain = Chain::new(&genesis, Arc::new(Builtin));
        empty(&mut chain);
        let ordered = order(&genesis, 0, 31);
        let block = step(&mut chain, vec![transaction(&ordered, &[21, 23], 1)]);
        assert!(block.receipts[0].outcome.is_applied(), "{:?}", block.receipts);
        let start = EpochStart { epoch: Epoch(1), after: Height(12), seats: Seats::first(4) };
        assert_eq!(
            (chain.ordered_epoch(), chain.epoch_tables().len()),
            (Some(start), 1),
            "2 + 8, at the next checkpoint"
        );
        let again = step(&mut chain, vec![transaction(&order(&genesis, 0, 32), &[21, 23], 2)]);
        assert!(
            rejected(&again).contains("epoch 1 has been ordered and begins above block 12"),
            "{}",
            rejected(&again)
        );
        while chain.height() < Height(12) {
            assert_eq!(chain.ordered_epoch(), Some(start));
            empty(&mut chain);
        }
        assert_eq!((chain.ordered_epoch(), chain.epochs().end_of(Epoch(0))), (None, Some(Height(12))));
        let tables = chain.epoch_tables();
        assert_eq!(tables[1].operators.keys, [key(31).public()]);
        assert_eq!(tables[1].seats, tables[0].seats, "who is not named goes on");
        let old = step(&mut chain, vec![transaction(&order(&genesis, 0, 33), &[31], 3)]);
        assert!(rejected(&old).contains("ordered for epoch 0, this is epoch 1"));
        chain.undo_to(Height(11)).unwrap();
        assert_eq!((chain.ordered_epoch(), chain.epoch_tables().len()), (Some(start), 1), "undone with its block");
    }

    #[test]
    fn a_reconfiguration_needs_its_approvals_and_must_make_sense() {
        let genesis = operated();
        let mut chain = Chain::new(&genesis, Arc::new(Builtin));
        let mut refuse = |ordered: &Reconfiguration, operators: &[u8], nonce| {
            let block = step(&mut chain, vec![transaction(ordered, operators, nonce)]);
            assert!(block.writes.is_empty());
            rejected(&block).to_owned()
        };
        let sound = order(&genesis, 0, 31);
        assert!(refuse(&sound, &[21], 1).contains("approved by 1 operators, 2 are needed"));
        assert!(refuse(&sound, &[21, 9], 2).contains("approved by 1"), "a stranger does not count");
        assert!(refuse(&sound, &[21, 21], 7).contains("each of them once"));
        let foreign = Reconfiguration { chain: Digest::ZERO, ..sound.clone() };
        assert!(refuse(&foreign, &[21, 22], 3).contains("another chain"));
        let nobody = Reconfiguration { changes: vec![Change::Operators(Operators::default())], ..sound.clone() };
        assert!(refuse(&nobody, &[21, 22], 4).contains("nothing could be reconfigured"));
        let twice = Operators { keys: vec![key(5).public(); 2], needed: 3 };
        let twice = Reconfiguration { changes: vec![Change::Operators(twice)], ..sound.clone() };
        assert!(refuse(&twice, &[21, 22], 5).contains("1 to 2 is allowed"));
        assert!(refuse(&Reconfiguration { changes: vec![], ..sound }, &[21, 22], 6).contains("0 changes"));
    }

    /// E2: a named seat begins with what was ordered for it, and the others go on.
    #[test]
    fn e2_a_seat_that_is_named_begins_anew_with_the_epoch() {
        let genesis = Genesis { auth: Some(key(9).public()), ..operated() };
        let mut chain = Chain::new(&genesis, Arc::new(Builtin));
        let hold = |cluster: &str, holder: u8| Change::Hold {
            cluster: cluster.parse().unwrap(),
            base: Base { holder: key(holder).public(), disk: 5, incarnation: Incarnation(1) },
        };
        let mut nonce = 0;
        let mut refuse = |changes: Vec<Change>, chain: &mut Chain, genesis: &Genesis| {
            nonce += 1;
            let ordered = Reconfiguration { changes, ..order(genesis, 0, 31) };
            rejected(&step(chain, vec![transaction(&ordered, &[21, 22], nonce)])).to_owned()
        };
        assert!(refuse(vec![hold("z", 31)], &mut chain, &genesis).contains("cluster z holds no seat"));
        assert!(refuse(vec![hold("c2", 31), hold("c2", 32)], &mut chain, &genesis).contains("named twice"));
        assert!(refuse(vec![hold("c2", 31), hold("c3", 31)], &mut chain, &genesis).contains("would hold two seats"));
        let mut fixed = Chain::new(&operated(), Arc::new(Builtin));
        assert!(refuse(vec![hold("c2", 31)], &mut fixed, &operated()).contains("without an auth node"));
        let ordered = Reconfiguration { changes: vec![hold("c2", 31)], ..order(&genesis, 0, 31) };
        step(&mut chain, vec![transaction(&ordered, &[21, 22], 90)]);
        while chain.epoch_tables().len() < 2 {
            empty(&mut chain);
        }
        let tables = chain.epoch_tables();
        let named = &tables[1].seats[&Seat(1)];
        assert_eq!(
            (named.since, named.base),
            (Epoch(1), Some(Base { holder: key(31).public(), disk: 5, incarnation: Incarnation(1) }))
        );
        assert_eq!(tables[1].seats[&Seat(0)], tables[0].seats[&Seat(0)]);
        let base = tables[1].base_grant(&genesis.digest(), named).unwrap();
        assert_eq!((base.grant.term, base.grant.in_sync.len()), (Term::first_of(Epoch(1)), 1));
    }

    /// E1: quorums of the next epoch are counted without who is removed, and with who is added; numbers of seats stay.
    #[test]
    fn e1_clusters_are_added_and_removed_with_the_next_epoch() {
        let genesis = Genesis { auth: Some(key(9).public()), ..operated() };
        let mut chain = Chain::new(&genesis, Arc::new(Builtin));
        let member = |n: u8| Member {
            key: key(n).public(),
            priority: 1,
            site: "s".to_owned(),
            address: "bank.example:7001".to_owned(),
        };
        let add = |cluster: &str, members: &[u8], holder: u8| Change::Add {
            cluster: cluster.parse().unwrap(),
            members: members.iter().map(|n| member(*n)).collect(),
            base: Base { holder: key(holder).public(), disk: 5, incarnation: Incarnation(1) },
        };
        let remove = |cluster: &str| Change::Remove(cluster.parse().unwrap());
        let mut nonce = 0;
        let mut order = |changes: Vec<Change>, chain: &mut Chain, epoch| {
            nonce += 1;
            let ordered = Reconfiguration { chain: genesis.digest(), epoch: Epoch(epoch), changes };
            step(chain, vec![transaction(&ordered, &[21, 22], nonce)])
        };
        let mut refuse = |changes: Vec<Change>, why: &str| {
            let block = order(changes, &mut chain, 0);
            assert!(rejected(&block).contains(why), "{}", rejected(&block));
        };
        refuse(vec![add("c2", &[41], 41)], "cluster c2 holds a seat");
        refuse(vec![add("e", &[41], 42)], "the holder is not among the members");
        refuse(vec![add("e", &[41, 41], 41)], "a node is in one cluster");
        refuse(vec![add("e", &[41, 2], 41)], "a node is in one cluster");
        refuse(vec![add("e", &[], 41)], "0 members found");
        refuse(vec![add("e", &[41], 41), add("f", &[41], 41)], "a node is in one cluster");
        refuse(vec![remove("z")], "cluster z holds no seat");
        refuse((1..=4).map(|n| remove(&format!("c{n}"))).collect(), "of 4 clusters 0 would stay, 3 must");
        refuse(vec![remove("c1"), remove("c2"), add("e", &[41], 41)], "of 4 clusters 2 would stay, 3 must");
        let mut unsited = member(41);
        unsited.site.clear();
        let base = Base { holder: unsited.key, disk: 1, incarnation: Incarnation(1) };
        refuse(vec![Change::Add { cluster: "e".parse().unwrap(), members: vec![unsited], base }], "name of its site");
        let after = |chain: &mut Chain, epochs| {
            while chain.epoch_tables().len() <= epochs {
                empty(chain);
            }
            chain.epoch_tables().pop().unwrap()
        };
        order(vec![remove("c2"), add("e", &[41, 42], 41)], &mut chain, 0);
        let table = after(&mut chain, 1);
        let clusters: Vec<_> = table.seats.iter().map(|(seat, held)| (seat.0, held.cluster.to_string())).collect();
        let expected = [(0, "c1"), (2, "c3"), (3, "c4"), (4, "e")].map(|(seat, name)| (seat, name.to_owned()));
        assert_eq!(clusters, expected, "the number of who leaves is not given to who comes with it");
        let added = &table.seats[&Seat(4)];
        assert_eq!((added.listed, added.since, added.members.len()), (Epoch(1), Epoch(1), 2));
        assert_eq!(table.base_grant(&genesis.digest(), added).unwrap().grant.holder, key(41).public());
        let taken = order(vec![remove("e"), add("e", &[41], 41)], &mut chain, 1);
        assert!(rejected(&taken).contains("cluster e held seat 4, which another has now"), "{}", rejected(&taken));
        order(vec![add("f", &[51], 51), remove("e")], &mut chain, 1);
        let table = after(&mut chain, 2);
        assert_eq!((table.seat_of(&"f".parse().unwrap()), table.start().seats.len()), (Some(Seat(1)), 4));
        let mut known = genesis.grant_table();
        chain.epoch_tables().into_iter().for_each(|table| known.begin(table));
        let back = order(vec![add("c2", &[61], 61)], &mut chain, 2);
        assert!(rejected(&back).contains("cluster c2 held seat 1, which another has now"), "{}", rejected(&back));
        order(vec![add("e", &[41], 41)], &mut chain, 2);
        assert_eq!(after(&mut chain, 3).seat_of(&"e".parse().unwrap()), Some(Seat(4)), "its own, and not a vacant one");
        let seats = |epoch| known.seats(Epoch(epoch)).unwrap().iter().map(|seat| seat.0).collect::<Vec<_>>();
        assert_eq!([seats(0), seats(1), seats(2)], [vec![0, 1, 2, 3], vec![0, 2, 3, 4], vec![0, 1, 2, 3]]);
        let first = |epoch| Some(Term::first_of(Epoch(epoch)));
        let newest = |seat| known.newest(Seat(seat)).map(|grant| grant.grant.term);
        assert_eq!((newest(1), newest(4)), (first(2), first(1)), "who is gone can be told of it");
    }

    /// Another auth key knows nothing of what the one before granted: every cluster begins anew, with the members of the order.
    #[test]
    fn e2_another_auth_key_names_every_cluster() {
        let genesis = Genesis { auth: Some(key(9).public()), ..operated() };
        let mut chain = Chain::new(&genesis, Arc::new(Builtin));
        let member = |n: u8| Member { site: "s".to_owned(), ..Member::from(key(n).public()) };
        let named = |cluster: u8, holder: u8| Named {
            cluster: format!("c{cluster}").parse().unwrap(),
            members: vec![member(holder), member(holder + 10)],
            holder: key(holder).public(),
            disk: 7,
        };
        let all = || (1..=4).map(|n| named(n, n)).collect::<Vec<_>>();
        let node = |address: &str| AuthNode { key: key(61).public(), address: address.to_owned() };
        let change = |by: u8, nodes: Vec<AuthNode>, clusters: Vec<Named>| Change::Auth {
            key: key(by).public(),
            nodes,
            clusters,
        };
        let mut nonce = 0;
        let mut order = |change: Change, chain: &mut Chain| {
            nonce += 1;
            let ordered = Reconfiguration { chain: genesis.digest(), epoch: Epoch(0), changes: vec![change] };
            step(chain, vec![transaction(&ordered, &[21, 22], nonce)])
        };
        let sound = || vec![node("h:1")];
        let mut refuse = |change: Change, why: &str| {
            let block = order(change, &mut chain);
            assert!(rejected(&block).contains(why), "{}", rejected(&block));
        };
        refuse(change(9, sound(), all()), "signs grants already");
        refuse(change(60, vec![], all()), "different auth nodes are needed");
        refuse(change(60, vec![node("")], all()), "needs host and port");
        refuse(change(60, sound(), all().split_off(1)), "cluster c1 must be named, once");
        refuse(change(60, sound(), [all(), vec![named(5, 5)]].concat()), "holds no seat");
        let stolen = Named { holder: key(1).public(), ..named(2, 2) };
        let with_stolen = vec![named(1, 1), stolen, named(3, 3), named(4, 4)];
        refuse(change(60, sound(), with_stolen), "the holder is not among the members");
        let twice = Named { members: vec![member(2), member(1)], ..named(2, 2) };
        refuse(change(60, sound(), vec![named(1, 1), twice, named(3, 3), named(4, 4)]), "a node is in one cluster");
        order(change(60, sound(), all()), &mut chain);
        while chain.epoch_tables().len() < 2 {
            empty(&mut chain);
        }
        let table = chain.epoch_tables().pop().unwrap();
        assert_eq!((table.auth, table.auth_nodes.len()), (Some(key(60).public()), 1));
        let begins = Some(Base { holder: key(3).public(), disk: 7, incarnation: Incarnation::first_of(Epoch(1)) });
        let seat = &table.seats[&Seat(2)];
        assert_eq!((seat.base, seat.listed, seat.since, seat.members.len()), (begins, Epoch(1), Epoch(1), 2));
        let mut known = genesis.grant_table();
        known.begin(table);
        let since = |n| known.issuer_since(&key(n).public());
        assert_eq!((since(60), since(9)), (Some(Epoch(1)), None));
    }

    #[test]
    fn other_operators_approve_from_the_next_epoch_on() {
        let genesis = operated();
        let mut chain = Chain::new(&genesis, Arc::new(Builtin));
        step(&mut chain, vec![transaction(&order(&genesis, 0, 24), &[21, 22], 1)]);
        while chain.height() < Height(12) {
            empty(&mut chain);
        }
        let old = step(&mut chain, vec![transaction(&order(&genesis, 1, 31), &[21, 22], 2)]);
        assert!(rejected(&old).contains("approved by 0"));
        let new = step(&mut chain, vec![transaction(&order(&genesis, 1, 31), &[24], 3)]);
        assert!(new.receipts[0].outcome.is_applied());
    }

    /// Without operators in the genesis the title is closed, and no state machine reaches the chain's own keys.
    #[test]
    fn the_chains_own_keys_are_out_of_reach() {
        struct Writer;
        impl crate::StateMachine for Writer {
            fn apply(
                &self,
                _: &crate::Context,
                _: &Transaction,
                state: &mut crate::State<'_>,
            ) -> Result<Vec<u8>, Reject> {
                state.put(EpochTable::state_key(Epoch(1)), vec![1]);
                Ok(vec![])
            }
            fn query(&self, _: &crate::trie::Trie, _: &[u8]) -> Result<Vec<u8>, Reject> {
                Ok(vec![])
            }
        }
        let mut chain = Chain::new(&genesis(100), Arc::new(Writer));
        let reached = step(&mut chain, vec![crate::chain::tests::put(1, 50)]);
        assert!(rejected(&reached).contains("chain's own") && reached.writes.is_empty());
        let closed = transaction(&order(&genesis(100), 0, 31), &[21, 22], 2);
        assert!(rejected(&step(&mut chain, vec![closed])).contains("names no operators"));
    }

    /// E1: a certificate's epoch is that of its block, and an epoch proves itself to whoever knows the one before.
    #[test]
    fn e1_an_epoch_proves_itself_and_votes_of_another_are_void_in_it() {
        let genesis = operated();
        let mut chain = Chain::new(&genesis, Arc::new(Builtin));
        step(&mut chain, vec![transaction(&order(&genesis, 0, 31), &[21, 22], 1)]);
        let mut result = None;
        while chain.height() < Height(12) {
            result = empty(&mut chain).checkpoint;
        }
        let sign = |target: &VoteTarget, seat: u16, signer: u8| {
            let content = target.signed_content(&genesis.digest(), Seat(seat), Term(0));
            SeatVote { seat: Seat(seat), term: Term(0), signature: key(signer).sign(Domain::Consensus, &content) }
        };
        let result = result.unwrap();
        let votes = [(0, 1), (1, 2), (2, 3)].map(|(seat, signer)| sign(&result.target(Epoch(0)), seat, signer));
        let certificate = CheckpointCertificate { epoch: Epoch(0), result, votes: votes.to_vec() };
        let proof = EpochProof::new(&chain.snapshot(), &certificate).unwrap();
        let mut table = genesis.grant_table();
        assert_eq!(table.verify_quorum(Epoch(1), [].into_iter()), Err(crate::LedgerError::UnknownEpoch(Epoch(1))));
        table.begin(proof.verify(&table).unwrap());
        assert_eq!([12, 13].map(|height| table.epoch_at(Height(height))), [Epoch(0), Epoch(1)]);
        assert!(table.check_epoch(Epoch(0), Height(13)).is_err() && table.check_epoch(Epoch(1), Height(13)).is_ok());
        // Neither another state nor another certificate proves it.
        let mut forged = certificate.clone();
        forged.result.state_root = Digest::ZERO;
        assert!(EpochProof::new(&chain.snapshot(), &forged).unwrap().verify(&genesis.grant_table()).is_err());
        let elsewhere = Proposal::null(Height(13), Epoch(1), View(0), Seat(0));
        chain.execute(elsewhere, &[] as &[Arc<Batch>]).unwrap();
        let other =
            CheckpointCertificate { result: crate::CheckpointResult { height: Height(13), ..result }, ..certificate };
        assert!(EpochProof::new(&chain.snapshot(), &other).is_none());
    }
    /// Rules that change at one height for all: a program that does not know the new ones carries out every block before, and none after; one that
    /// does goes on, and so does whoever begins with a snapshot of the boundary.
    #[test]
    fn a_version_begins_with_the_epoch_and_stops_programs_that_do_not_know_it() {
        struct Program(u32);
        impl crate::StateMachine for Program {
            fn apply(
                &self,
                context: &crate::Context,
                _: &Transaction,
                state: &mut crate::State<'_>,
            ) -> Result<Vec<u8>, Reject> {
                state.put(context.height.0.to_be_bytes().to_vec(), context.version.to_be_bytes().to_vec());
                Ok(context.version.to_be_bytes().to_vec())
            }
            fn query(&self, _: &crate::trie::Trie, _: &[u8]) -> Result<Vec<u8>, Reject> {
                Ok(vec![])
            }
            fn version(&self) -> u32 {
                self.0
            }
        }
        let genesis = operated();
        let (mut old, mut new) =
            (Chain::new(&genesis, Arc::new(Program(1))), Chain::new(&genesis, Arc::new(Program(2))));
        let ordered = |version: u32, epoch: u64, nonce: u64| {
            let changes = vec![Change::Version(version)];
            let order = Reconfiguration { chain: genesis.digest(), epoch: Epoch(epoch), changes };
            transaction(&order, &[21, 22], nonce)
        };
        let same = step(&mut old, vec![ordered(1, 0, 1)]);
        assert!(rejected(&same).contains("version 1 of the state machine, 1 is in force"));
        step(&mut new, vec![ordered(1, 0, 1)]);
        for chain in [&mut old, &mut new] {
            assert!(step(chain, vec![ordered(2, 0, 2)]).receipts[0].outcome.is_applied());
            assert_eq!((chain.version(), chain.ordered_version()), (1, 2));
        }
        let mut nonce = 10;
        let mut both = |old: &mut Chain, new: &mut Chain| {
            nonce += 1;
            let transactions = vec![crate::chain::tests::put(nonce, new.height().0 + 5)];
            let batches = vec![Arc::new(Batch::new(transactions).unwrap())];
            let mut proposal = Proposal::null(new.height().next(), Epoch(0), View(0), Seat(0));
            proposal.batches = batches.iter().map(|batch| batch.reference()).collect();
            (old.execute(proposal.clone(), &batches), new.execute(proposal, &batches).unwrap())
        };
        while new.epoch_tables().len() < 2 {
            let (old, new) = both(&mut old, &mut new);
            assert_eq!(old.unwrap().hash, new.hash, "by the old rules both do the same");
        }
        let boundary = new.height();
        assert_eq!((new.version(), old.version()), (2, 2));
        let mut joined = Chain::from_snapshot(&genesis, Arc::new(Program(2)), new.snapshot());
        assert_eq!(joined.version(), 2);
        let mut behind = Chain::from_snapshot(&genesis, Arc::new(Program(1)), new.snapshot());
        let (stopped, after) = both(&mut old, &mut new);
        let expected = LedgerError::ProgramTooOld { height: boundary.next(), needed: 2, known: 1 };
        assert_eq!(stopped.unwrap_err(), expected);
        assert_eq!(after.receipts[0].outcome, crate::Outcome::Applied(2u32.to_be_bytes().to_vec()));
        assert_eq!((old.height(), old.state().root()), (boundary, joined.state().root()), "it is sound, and waits");
        let null = || Proposal::null(boundary.next(), Epoch(1), View(0), Seat(0));
        assert_eq!(behind.execute(null(), &[] as &[Arc<Batch>]).unwrap_err(), expected);
        joined.execute(null(), &[] as &[Arc<Batch>]).unwrap();
        new.undo_to(boundary).unwrap();
        assert_eq!(new.version(), 2);
        new.undo_to(Height(boundary.0 - 1)).unwrap();
        assert_eq!(new.version(), 1, "before the boundary the old rules hold");
    }
}
