//! Who holds the seat: the start and the recoveries (R), suspicion and asking (S), grants (G).

use super::net::{cluster, key, recalled};
use super::*;

/// R0: the table fills, the first of it registers, and the others follow it.
#[test]
fn r0_the_first_start_elects_registers_and_hands_the_ticket_to_all() {
    let net = Net::settled(3);
    assert_eq!(net.nodes[0].activated, [writer(1, 1)]);
    assert!(net.nodes[1].activated.is_empty() && net.nodes[2].activated.is_empty());
    assert!(net.nodes.iter().all(|node| node.member.facts().ticket == "ticket"));
}

/// R1: the active dies, the standby goes on with all that was released; the third member follows it.
#[test]
fn r1_the_standby_takes_over_with_the_whole_log() {
    let mut net = Net::settled(3);
    net.append(0, &["a", "b"]);
    net.run(20);
    assert_eq!(net.released(0), 2);
    net.kill(0);
    for n in [1, 2] {
        net.step(n, Input::LinkDown(id(0)));
    }
    net.run(100);
    assert_eq!(net.nodes[1].activated, [writer(2, 1)], "within moments, since the connection was closed");
    assert_eq!(net.texts(1), ["a", "b"]);
    assert_eq!(net.released(1), 2, "acknowledged anew, in the new term");
    net.append(1, &["c"]);
    net.run(50);
    assert_eq!((net.released(1), net.texts(2).len()), (3, 3));
}

/// R2: active and standby die together; a reserve that is in sync goes on.
#[test]
fn r2_a_reserve_takes_over_when_active_and_standby_die_together() {
    let mut net = Net::settled(3);
    net.append(0, &["a"]);
    net.run(20);
    net.kill(0);
    net.kill(1);
    net.run(1_500);
    assert_eq!(net.nodes[2].activated.len(), 1);
    assert_eq!((net.texts(2), net.released(2)), (vec!["a".to_owned()], 1));
    assert_eq!(net.grant().map(|grant| grant.in_sync.len()), Some(1));
}

/// T8: the active went on without a member, which does not have all that was said: with the active gone it waits, and says so.
#[test]
fn t8_a_member_that_was_left_out_does_not_take_over() {
    let mut net = Net::settled(2);
    net.cut.extend([(0, 1), (1, 0)]);
    net.append(0, &["a"]);
    net.run(700);
    assert_eq!(net.grant().map(|grant| grant.in_sync.len()), Some(1), "it goes on alone");
    assert_eq!((net.released(0), net.texts(1).len()), (1, 0));
    net.kill(0);
    net.run(5_000);
    assert!(net.nodes[1].activated.is_empty());
    assert_eq!(net.grant().map(|grant| (grant.holder_id(), grant.term)), Some((id(0), Term(2))));
    net.restart(0, false);
    net.cut.clear();
    net.run(2_000);
    assert!(net.nodes[0].member.is_active() && net.texts(1) == ["a"]);
}

/// S1 and S3: a member that answers and gets no further is silent, and a node whose disk hangs asks for nothing.
#[test]
fn s3_a_member_whose_disk_hangs_is_left_out_and_does_not_take_over() {
    let mut net = Net::settled(2);
    net.nodes[1].auto_sync = false;
    net.append(0, &["a"]);
    net.run(400);
    assert_eq!(net.grant().map(|grant| (grant.holder_id(), grant.in_sync.len())), Some((id(0), 1)));
    assert_eq!(net.released(0), 1);
    assert!(net.nodes[1].activated.is_empty());
}

/// R3: the auth node orders the cluster away from its holder.
#[test]
fn r3_a_forced_switch_moves_the_seat_to_the_standby() {
    let mut net = Net::settled(3);
    net.record.forced = Some(Term(1));
    net.record.not_electable.insert(id(0));
    let order = standin_auth::Answer::Alive {
        newer: None,
        register_count: RegisterCount::NONE,
        incarnation: Incarnation(1),
        forced: Some(Term(1)),
        recall: false,
        ticket: None,
    };
    for n in [0, 1, 2] {
        net.step(n, Input::Answered(order.clone()));
    }
    net.run(100);
    assert_eq!(net.nodes[1].activated, [writer(2, 1)]);
    assert!(!net.nodes[0].member.is_active());
}

#[test]
fn s1_a_holder_that_hears_too_few_seats_leaves_nobody_out_and_is_replaced() {
    let mut net = Net::settled(3);
    net.nodes[0].hears = 1;
    net.cut.insert((2, 0));
    net.append(0, &["a"]);
    net.run(390);
    assert!(net.nodes[0].asked.iter().all(|request| !matches!(request, Request::SetChange(_))), "it yields");
    net.run(700);
    assert_eq!(net.nodes[1].activated.len(), 1, "it says so itself, and the others move the seat");
}

/// What was heard of other seats before a member fell silent says nothing: in a split both happen at one moment.
#[test]
fn s1_a_member_that_falls_silent_together_with_the_other_seats_is_not_left_out() {
    let mut net = Net::settled(3);
    net.nodes[0].frozen_ear = true;
    net.run(20);
    net.cut.insert((2, 0));
    net.append(0, &["a"]);
    net.run(390);
    assert!(net.nodes[0].asked.iter().all(|request| !matches!(request, Request::SetChange(_))));
    net.nodes[0].frozen_ear = false;
    net.run(390);
    assert!(net.nodes[0].asked.iter().any(|request| matches!(request, Request::SetChange(_))), "they are heard again");
}

#[test]
fn s1_silence_is_measured_after_the_holder_last_woke() {
    let mut net = Net::settled(2);
    net.append(0, &["a"]);
    net.run(30);
    // The holder stands still for long; its member had answered all the time.
    net.now = net.now + 60_000;
    net.step(0, Input::Tick);
    assert!(net.nodes[0].asked.iter().all(|request| !matches!(request, Request::SetChange(_))));
    net.pump();
    net.run(100);
    assert_eq!(net.grant().map(|grant| grant.term), Some(Term(1)));
}

/// A member that suspected the holder for a moment, and does not any more, is no ground for others to replace it.
#[test]
fn a_suspicion_that_is_not_repeated_counts_for_nothing() {
    let mut net = Net::settled(3);
    let suspects = |net: &mut Net| {
        let statement = standin_auth::Statement {
            claim: standin_auth::Claim::Suspicion,
            cluster: cluster(),
            term: Term(1),
            node: key(2),
            signature: standin_foundation::Signature::NONE,
        };
        net.step(1, Input::Received { from: id(2), message: Message::Statement(statement) });
    };
    suspects(&mut net);
    net.run(600);
    net.step(1, Input::LinkDown(id(0)));
    net.run(200);
    assert_eq!(
        net.grant().map(|grant| grant.term),
        Some(Term(1)),
        "the other member hears the holder, and so does this one again"
    );
    suspects(&mut net);
    net.step(1, Input::LinkDown(id(0)));
    net.run(50);
    assert_eq!(net.grant().map(|grant| grant.holder_id()), Some(id(1)));
}

#[test]
fn s2_a_candidate_of_a_later_rank_waits_and_is_not_forbidden() {
    let mut net = Net::settled(3);
    net.kill(0);
    net.kill(1);
    net.step(2, Input::LinkDown(id(0)));
    net.run(90);
    assert!(net.nodes[2].asked.iter().all(|request| !matches!(request, Request::Update(_))), "the standby comes first");
    net.run(1_000);
    assert_eq!(net.nodes[2].activated.len(), 1);
}

#[test]
fn a_seat_is_moved_on_purpose_to_the_member_that_was_named() {
    let mut net = Net::settled(3);
    net.append(0, &["a"]);
    net.run(30);
    net.step(0, Input::Resign(Some(id(2))));
    net.run(60);
    assert_eq!(net.nodes[2].activated, [writer(2, 1)]);
    assert_eq!(net.grant().map(|grant| grant.in_sync.len()), Some(3), "the old holder stays in the set");
    assert_eq!((net.texts(2), net.released(2)), (vec!["a".to_owned()], 1));
}

#[test]
fn a_node_that_drains_gives_the_seat_up_and_takes_it_only_where_nobody_else_does() {
    let mut net = Net::settled(3);
    net.append(0, &["a"]);
    net.run(30);
    net.step(0, Input::Drain(true));
    net.run(60);
    assert_eq!(net.nodes[1].activated.len(), 1, "the standby, at once");
    assert_eq!((net.texts(1), net.grant().map(|grant| grant.in_sync.len())), (vec!["a".to_owned()], Some(3)));
    // The first of the table drains: the last takes over, which would have come after it.
    net.kill(1);
    net.run(600);
    assert_eq!(net.grant().map(|grant| grant.holder_id()), Some(id(2)));
    assert!(net.nodes[0].member.view().drains && net.nodes[0].activated.len() == 1);
    // Nobody else is left: a seat that is held by a node that drains is better than one that is not held.
    net.kill(2);
    net.run(1_000);
    assert_eq!(net.grant().map(|grant| grant.holder_id()), Some(id(0)));
    // As soon as another is there, it has the seat.
    net.restart(2, false);
    net.run(4_000);
    assert_eq!(net.grant().map(|grant| grant.holder_id()), Some(id(2)));
    // Two that drain do not pass the seat to and fro.
    net.step(2, Input::Drain(true));
    net.run(100);
    let (term, holder) = net.grant().map(|grant| (grant.term, grant.holder_id())).unwrap();
    net.run(5_000);
    assert_eq!(net.grant().map(|grant| (grant.term, grant.holder_id())), Some((term, holder)));
    net.step(2, Input::Drain(false));
    net.step(0, Input::Drain(false));
    net.kill(2);
    net.run(600);
    assert_eq!(net.grant().map(|grant| grant.holder_id()), Some(id(0)), "it is back");
}

/// G6: whoever hears an older term answers with the newest grant.
#[test]
fn g6_an_older_term_is_answered_with_the_newest_grant() {
    let mut net = Net::settled(2);
    net.nodes[0].up = false;
    net.run(400);
    assert_eq!(net.nodes[1].member.facts().term(), Term(2));
    net.queue.clear();
    let probe = Message::Probe { writer: writer(1, 1), round: 0, head: Mark::default() };
    net.step(1, Input::Received { from: id(0), message: probe });
    let answered = net.queue.iter().any(|(_, to, message)| {
        *to == 0 && matches!(message, Message::Grant { grant, .. } if grant.grant.term == Term(2))
    });
    assert!(answered);
}

/// G5: a node that has promised to a later register refuses what an earlier one granted.
#[test]
fn g5_a_grant_of_an_older_register_is_refused_after_the_promise() {
    let mut net = Net::settled(2);
    net.step(1, Input::Answered(recalled(5)));
    assert!(matches!(
        net.nodes[1].asked.last(),
        Some(Request::Recall { promised: Incarnation(5), newest: Some(_), .. })
    ));
    let mut old = net.grant().unwrap().clone();
    old.term = Term(2);
    let old = SignedGrant { grant: old, signature: standin_foundation::Signature::NONE };
    net.step(1, Input::Granted(old));
    assert_eq!(net.nodes[1].member.facts().term(), Term(1));
}

/// G5: while others have not said what they know, each answer asks for it again: it is said at an interval, and not at the pace of the link.
#[test]
fn g5_what_is_known_is_said_at_an_interval() {
    let mut net = Net::settled(2);
    net.auth_up = false;
    let said = |net: &Net| net.nodes[1].asked.iter().filter(|asked| matches!(asked, Request::Recall { .. })).count();
    for _ in 0..5 {
        net.step(1, Input::Answered(recalled(2)));
    }
    assert_eq!(said(&net), 1);
    net.run(1_000);
    net.step(1, Input::Answered(recalled(2)));
    assert_eq!(said(&net), 2);
}
