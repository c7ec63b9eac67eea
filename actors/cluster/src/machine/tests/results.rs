//! Results that are checked inside the cluster (C1).

use super::*;

/// C1: whoever has left the set is not waited for.
#[test]
fn c1_a_result_is_looked_at_again_when_the_set_shrinks() {
    let mut net = Net::settled(2);
    net.kill(1);
    net.step(0, Input::Computed(Height(4), Digest::sha256(b"x")));
    assert_eq!(net.nodes[0].agreed, None);
    net.run(400);
    assert_eq!(net.nodes[0].agreed, Some(Height(4)));
}

fn computed(net: &mut Net, n: usize, height: u64, result: &str) {
    net.step(n, Input::Computed(Height(height), Digest::sha256(result.as_bytes())));
    net.pump();
}

#[test]
fn c1_the_seat_votes_for_a_result_only_when_all_members_have_computed_it() {
    let mut net = Net::settled(3);
    computed(&mut net, 0, 4, "x");
    computed(&mut net, 1, 4, "x");
    assert_eq!(net.nodes[0].agreed, None, "one has not executed so far");
    net.cut.insert((2, 0));
    computed(&mut net, 2, 4, "x");
    assert_eq!(net.nodes[0].agreed, None, "it was lost");
    net.cut.clear();
    net.run(60);
    assert_eq!(net.nodes[0].agreed, Some(Height(4)), "and told again");
}

#[test]
fn c1_a_member_whose_result_is_wrong_leaves_the_set_until_it_has_agreed_often_enough() {
    let mut net = Net::settled(3);
    computed(&mut net, 0, 4, "x");
    computed(&mut net, 1, 4, "y");
    computed(&mut net, 2, 4, "x");
    assert!(net.has_event(0, |event| matches!(event, Event::Disputed { members, .. } if *members == [id(1)])));
    assert_eq!(net.nodes[0].agreed, None, "other seats decide, not the majority here");
    net.append(0, &["a"]);
    net.run(30);
    assert_eq!(net.released(0), 1, "other records go on");
    net.step(0, Input::Decided(Height(4), Digest::sha256(b"x")));
    assert_eq!(net.nodes[0].agreed, Some(Height(4)));
    net.run(700);
    assert!(net.grant().is_some_and(|grant| !grant.in_sync.contains(&id(1))));
    for height in [8, 12, 16] {
        for n in [0, 1, 2] {
            computed(&mut net, n, height, "z");
        }
    }
    net.run(700);
    assert!(net.grant().is_some_and(|grant| grant.in_sync.contains(&id(1))), "it has agreed three times");
}

/// A holder whose own result is decided against gives the seat up before it has voted.
#[test]
fn c1_t14_a_holder_that_is_wrong_gives_the_seat_up() {
    let mut net = Net::settled(2);
    computed(&mut net, 0, 4, "wrong");
    computed(&mut net, 1, 4, "x");
    net.step(0, Input::Decided(Height(4), Digest::sha256(b"x")));
    net.run(100);
    assert_eq!(net.nodes[0].agreed, None);
    assert_eq!(net.nodes[1].activated, [writer(2, 1)]);
}
