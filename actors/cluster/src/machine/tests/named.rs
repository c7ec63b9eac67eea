//! A seat that the chain has named (E2).

use standin_foundation::{Epoch, Height, Incarnation, Seat, Signature, Term};
use standin_ledger::epoch::Base;
use standin_ledger::{EpochTable, Grant, SignedGrant};

use super::net::{first_table, key, recalled};
use super::*;

/// What the chain orders: the seat is held by this node, on this disk.
fn ordered(n: usize, disk: u64) -> EpochTable {
    let mut table = EpochTable { epoch: Epoch(1), after: Height(64), ..first_table() };
    let seat = table.seats.get_mut(&Seat(0)).unwrap();
    (seat.since, seat.base) = (Epoch(1), Some(Base { holder: key(n), disk, incarnation: Incarnation(0) }));
    table
}

fn base(n: usize, disk: u64) -> Grant {
    let table = ordered(n, disk);
    table.base_grant(&Default::default(), &table.seats[&Seat(0)]).unwrap().grant
}

impl Net {
    fn name(&mut self, n: usize, disk: u64) {
        self.auth.begin(&ordered(n, disk));
        let base = &base(n, disk);
        for n in 0..self.nodes.len() {
            if self.nodes[n].up {
                self.tell_base(n, base);
            }
        }
    }

    fn lose_disk(&mut self, n: usize) {
        self.kill(n);
        self.nodes[n].disk.clear();
        self.nodes[n].synced = 0;
    }

    fn tell_base(&mut self, n: usize, base: &Grant) {
        self.step(n, Input::Granted(SignedGrant { grant: base.clone(), signature: Signature::NONE }));
        self.step(n, Input::Final(Height(0)));
    }
}

fn first() -> Term {
    Term::first_of(Epoch(1))
}

#[test]
fn e2_a_named_seat_begins_with_an_empty_log_and_the_others_follow_it() {
    let mut net = Net::settled(3);
    net.append(0, &["a", "b"]);
    net.run(20);
    net.name(2, 102);
    assert!(!net.nodes[0].member.is_active() && net.nodes[2].member.is_active());
    assert!(net.texts(0).is_empty() && net.texts(2).is_empty(), "what was said in the lineage before is void");
    net.append(2, &["c"]);
    net.run(2_000);
    let grant = net.grant().unwrap().clone();
    assert_eq!((grant.holder_id(), grant.in_sync.len(), grant.epoch), (id(2), 3, Epoch(1)));
    assert!(grant.term > first() && grant.term.lineage() == Epoch(1));
    assert_eq!((net.texts(0), net.texts(1)), (vec!["c".to_owned()], vec!["c".to_owned()]));
}

#[test]
fn e2_on_another_disk_than_the_one_that_was_named_nobody_begins() {
    let mut net = Net::settled(3);
    net.name(2, 999);
    net.run(1_000);
    assert!(net.nodes.iter().all(|node| !node.member.is_active()));
    assert!(net.has_event(2, |event| *event == Event::CannotActivate { term: first() }));
    // It is one disk's, and once: a restart goes on with what it has begun.
    let mut net = Net::settled(1);
    net.name(0, 100);
    net.append(0, &["a"]);
    net.run(50);
    net.kill(0);
    net.restart(0, false);
    net.run(50);
    assert_eq!((net.texts(0), net.nodes[0].member.is_active()), (vec!["a".to_owned()], true));
    net.lose_disk(0);
    net.restart(0, false);
    net.run(1_000);
    assert!(!net.nodes[0].member.is_active(), "what it has said since is lost");
}

/// A node that knows no grant takes what the chain has ordered from the auth node, which knows whether it was granted anew since.
#[test]
fn e2_a_node_that_knows_no_grant_takes_the_base_from_the_auth_node() {
    let mut net = Net::settled(3);
    net.lose_disk(1);
    net.name(2, 102);
    net.auth_up = false;
    net.restart(1, false);
    net.tell_base(1, &base(2, 102));
    assert_eq!(net.nodes[1].member.holder(), None);
    net.auth_up = true;
    net.run(2_000);
    assert_eq!(net.nodes[1].member.holder(), Some(id(2)));
    assert!(net.nodes[1].member.facts().complete);
}

/// What was granted in the lineage before comes late, and a promise to a later register does not refuse what the chain ordered.
#[test]
fn e2_the_base_stands_above_every_term_and_promise_of_the_lineage_before() {
    let mut net = Net::settled(3);
    let late = Grant { term: Term(7), holder: key(1), ..net.grant().unwrap().clone() };
    net.step(2, Input::Answered(recalled(5)));
    net.name(2, 102);
    assert!(net.nodes[2].member.is_active());
    net.step(2, Input::Granted(SignedGrant { grant: late, signature: Signature::NONE }));
    assert!(net.nodes[2].member.is_active());
}

/// Blocks that are final may stand in the log alone: it goes when they are durable in the store.
#[test]
fn e2_the_log_goes_when_the_store_has_what_is_final() {
    let mut net = Net::settled(2);
    net.append(0, &["a"]);
    net.run(20);
    net.step(0, Input::Granted(SignedGrant { grant: base(0, 100), signature: Signature::NONE }));
    net.step(0, Input::Stored(Height(5)));
    assert_eq!(net.texts(0).len(), 1, "nobody has said yet how much the log says to be final");
    net.step(0, Input::Final(Height(8)));
    assert_eq!((net.texts(0), net.nodes[0].member.wants_stored()), (vec!["a".to_owned()], Some(Height(8))));
    net.step(0, Input::Stored(Height(7)));
    assert_eq!(net.texts(0).len(), 1);
    net.step(0, Input::Stored(Height(8)));
    assert!(net.texts(0).is_empty() && net.nodes[0].member.is_active());
}
