//! Members that come and go.

use super::*;

/// A node that joins is followed by nobody until the holder has taken it in; the list alone changes no set.
#[test]
fn a_member_that_joins_is_taken_in_when_it_keeps_up() {
    let mut net = Net::settled(3);
    net.append(0, &["a"]);
    net.run(50);
    let two: BTreeMap<_, _> = [0, 1].map(|n| (id(n), 9 - n as u8)).into();
    net.order_members(&[0, 1]);
    for n in [0, 1] {
        net.step(n, Input::Members(two.clone()));
    }
    net.run(300);
    assert_eq!(net.grant().map(|grant| grant.in_sync.len()), Some(2), "the removed one has left the set");
    net.append(0, &["b"]);
    net.run(100);
    assert_eq!(net.released(0), 2, "and is not waited for");
    let three: BTreeMap<_, _> = [0, 1, 2].map(|n| (id(n), 9 - n as u8)).into();
    net.order_members(&[0, 1, 2]);
    for n in [0, 1, 2] {
        net.step(n, Input::Members(three.clone()));
    }
    net.run(2_000);
    assert_eq!(net.grant().map(|grant| grant.in_sync.len()), Some(3));
    assert_eq!(net.texts(2), ["a", "b"]);
}

/// Whoever was removed and is still listed does not ask for the seat, and does not stand in the way of who does.
#[test]
fn a_removed_member_does_not_take_over() {
    let mut net = Net::settled(3);
    net.cut.insert((0, 2));
    net.cut.insert((2, 0));
    let without: BTreeMap<_, _> = [0, 2].map(|n| (id(n), 9 - n as u8)).into();
    net.order_members(&[0, 2]);
    for n in [1, 2] {
        net.step(n, Input::Members(without.clone()));
    }
    net.kill(0);
    for n in [1, 2] {
        net.step(n, Input::LinkDown(id(0)));
    }
    net.run(400);
    assert!(net.nodes[1].activated.is_empty());
    assert_eq!(net.nodes[2].activated.len(), 1);
}

/// Where the floor forbids to let a removed member go alone, it goes when another one comes: in one change, which the auth node
/// grants.
#[test]
fn a_removed_member_is_exchanged_where_the_floor_forbids_to_shrink() {
    let mut net = Net::with(3, Config { min_in_sync: 2, ..Config::default() });
    net.order_members(&[0, 1]);
    let members = |of: &[usize]| of.iter().map(|n| (id(*n), 9 - *n as u8)).collect::<BTreeMap<_, _>>();
    for n in [0, 1] {
        net.step(n, Input::Members(members(&[0, 1])));
    }
    net.kill(2);
    net.run(800);
    assert_eq!(net.grant().map(|grant| grant.in_sync.len()), Some(2));
    net.order_members(&[0, 2]);
    net.restart(2, false);
    for n in [0, 1, 2] {
        net.step(n, Input::Members(members(&[0, 2])));
    }
    net.run(3_000);
    assert_eq!(net.grant().map(|grant| grant.in_sync.clone()), Some([id(0), id(2)].into()));
}
