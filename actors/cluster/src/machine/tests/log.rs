//! The seat's log: what is acknowledged, released, cut and kept (L1 to L9).

use super::*;

#[test]
fn l1_a_record_that_names_a_payload_is_acknowledged_only_with_it() {
    let mut net = Net::settled(2);
    net.append(0, &["a", "?x", "b"]);
    net.run(30);
    assert_eq!(net.released(0), 1, "the member waits for the payload");
    net.append(0, &["+x"]);
    net.run(30);
    assert_eq!(net.released(0), 4);
}

#[test]
fn l1_the_front_is_cut_only_behind_a_base_that_was_released() {
    let mut net = Net::settled(2);
    net.append(0, &["a", "b", "c"]);
    net.run(30);
    net.nodes[1].auto_sync = false;
    net.append(0, &["live", "|4"]);
    net.run(30);
    assert_eq!(net.texts(0).len(), 5, "the member has not acknowledged the base");
    net.nodes[1].auto_sync = true;
    net.sync(1);
    net.run(60);
    assert_eq!(net.texts(0), ["live", "|4"]);
    assert_eq!(net.texts(1), ["live", "|4"], "the member was told that it is released");
    for n in [0, 1] {
        net.kill(n);
        net.restart(n, false);
        assert_eq!(net.texts(n), ["live", "|4"], "and it is what the disk holds");
        assert_eq!(net.nodes[n].member.facts().base.lsn, 3);
    }
}

#[test]
fn l2_nothing_is_released_before_it_is_durable_here_and_acknowledged_by_every_member() {
    let mut net = Net::settled(3);
    net.nodes[2].auto_sync = false;
    net.append(0, &["a"]);
    net.run(30);
    assert_eq!(net.released(0), 0, "the third has not synced");
    net.nodes[2].auto_sync = true;
    net.sync(2);
    net.pump();
    assert_eq!(net.released(0), 1);
    net.nodes[0].auto_sync = false;
    net.append(0, &["b"]);
    net.run(30);
    assert_eq!(net.released(0), 1, "the holder has not synced");
    net.sync(0);
    assert_eq!(net.released(0), 2);
}

#[test]
fn l2_acknowledgements_of_an_earlier_term_count_for_nothing() {
    let mut net = Net::settled(2);
    net.append(0, &["a"]);
    net.run(30);
    // The set changes, and the holder's term with it: what was acknowledged must be acknowledged again.
    net.cut.insert((1, 0));
    let stale = Message::Ack { writer: writer(1, 1), round: 1, session: 101, lsn: 9 };
    net.append(0, &["b"]);
    net.step(0, Input::Received { from: id(1), message: stale.clone() });
    assert_eq!(net.released(0), 2, "in its own term it counts, though not beyond the log");
    net.run(400);
    assert_eq!(net.grant().map(|grant| grant.term), Some(Term(2)), "the silent member was left out");
    net.cut.clear();
    net.run(1_000);
    assert_eq!(net.grant().map(|grant| grant.in_sync.len()), Some(2), "and taken in again");
    net.cut.insert((1, 0));
    net.append(0, &["c"]);
    net.step(0, Input::Received { from: id(1), message: stale });
    assert_eq!(net.released(0), 2, "an old acknowledgement is of another term");
}

#[test]
fn l3_an_alignment_to_a_later_writer_is_never_undone() {
    let mut net = Net::settled(2);
    net.append(0, &["a"]);
    net.run(30);
    net.kill(0);
    net.restart(0, false);
    net.run(100);
    assert_eq!(net.nodes[1].member.facts().aligned, writer(1, 2));
    let late = push(
        101,
        net.nodes[1].member.head(),
        (0, 2),
        Entry { lsn: 2, hash: Default::default(), record: Bytes::from_static(b"never") },
    );
    net.step(1, Input::Received { from: id(0), message: late });
    assert_eq!(net.texts(1), ["a"]);
    net.kill(1);
    net.restart(1, false);
    assert_eq!(net.nodes[1].member.facts().aligned, writer(1, 2), "also after a restart");
}

#[test]
fn l4_a_restarted_holder_asks_all_its_members_and_adopts_the_longest_log() {
    let mut net = Net::settled(3);
    net.append(0, &["a"]);
    net.run(30);
    // What the holder had sent and not synced is with its members.
    net.nodes[0].auto_sync = false;
    net.append(0, &["b", "c"]);
    net.pump();
    assert_eq!((net.texts(1).len(), net.released(0)), (3, 1));
    net.kill(0);
    net.nodes[0].auto_sync = true;
    net.cut.insert((2, 0));
    net.restart(0, false);
    net.run(50);
    assert_eq!(net.nodes[0].activated, [writer(1, 1)], "one has not answered: it waits");
    net.cut.clear();
    net.run(60);
    assert_eq!(net.nodes[0].activated, [writer(1, 1), writer(1, 2)], "in the same term, without the auth node");
    assert_eq!(net.texts(0), ["a", "b", "c"]);
    assert_eq!(net.released(0), 3, "acknowledged in its new life");
}

#[test]
fn l5_who_asks_goes_on_acknowledging_until_a_newer_grant_is_accepted() {
    let mut net = Net::settled(2);
    net.auth_up = false;
    net.step(1, Input::LinkDown(id(0)));
    net.run(10);
    assert!(net.nodes[1].asked.iter().any(|request| matches!(request, Request::Update(_))));
    net.append(0, &["a"]);
    net.run(30);
    assert_eq!(net.released(0), 1, "the auth node is away, and the seat goes on as before");
}

/// T6: a holder that was paused wakes up after it was replaced, and has nothing that it may say.
#[test]
fn t6_a_holder_that_wakes_up_late_releases_nothing() {
    let mut net = Net::settled(2);
    net.append(0, &["a"]);
    net.run(30);
    net.nodes[0].up = false;
    net.run(400);
    assert_eq!(net.nodes[1].activated, [writer(2, 1)]);
    net.nodes[0].up = true;
    net.append(0, &["late"]);
    net.pump();
    assert_eq!(net.released(0), 1, "nobody acknowledges its term any more");
    net.run(100);
    assert_eq!(net.texts(0), ["a"], "it has learned of the grant, and follows");
    assert!(net.nodes[0].rebuilt > 0 && !net.nodes[0].member.is_active());
}

#[test]
fn l6_a_member_cuts_back_only_to_what_it_shares_with_a_newer_holders_log() {
    let mut net = Net::settled(3);
    net.append(0, &["a"]);
    net.run(30);
    // One member gets more than the other; neither acknowledges to a holder that is gone.
    net.cut.insert((0, 1));
    net.append(0, &["b", "c"]);
    net.pump();
    assert_eq!((net.texts(1).len(), net.texts(2).len()), (1, 3));
    net.kill(0);
    net.cut.clear();
    for n in [1, 2] {
        net.step(n, Input::LinkDown(id(0)));
    }
    net.run(60);
    assert_eq!(net.nodes[1].activated, [writer(2, 1)]);
    net.append(1, &["x"]);
    net.run(60);
    assert_eq!(net.texts(2), ["a", "x"], "b and c never left");
    assert_eq!(net.released(1), 2);
}

#[test]
fn l6_in_one_term_nothing_is_deleted_whatever_the_holder_says() {
    let mut net = Net::settled(2);
    net.append(0, &["a"]);
    net.run(30);
    let other = push(
        101,
        Mark::default(),
        (0, 1),
        Entry { lsn: 1, hash: Default::default(), record: Bytes::from_static(b"other") },
    );
    net.step(1, Input::Received { from: id(0), message: other });
    assert_eq!(net.texts(1), ["a"]);
    assert!(net.has_event(1, |event| matches!(event, Event::Contradicted { lsn: 1 })));
}

/// L7 and T13: a listed member that lost its disk neither asks nor activates, until it has caught up.
#[test]
fn l7_t13_a_member_that_lost_its_log_does_not_take_over() {
    let mut net = Net::settled(2);
    net.append(0, &["a", "b"]);
    net.run(30);
    net.kill(1);
    net.nodes[1].disk.clear();
    net.nodes[1].synced = 0;
    net.cut.extend([(0, 1), (1, 0)]);
    net.auth_up = false;
    net.restart(1, false);
    let grant = SignedGrant { grant: net.grant().unwrap().clone(), signature: standin_foundation::Signature::NONE };
    net.step(1, Input::Granted(grant));
    net.auth_up = true;
    net.kill(0);
    net.run(3_000);
    assert!(net.nodes[1].asked.iter().all(|request| !matches!(request, Request::Update(_))), "not even listed");
    net.restart(0, false);
    net.cut.clear();
    net.run(600);
    assert!(net.nodes[1].member.facts().complete && net.texts(1).len() == 2, "the holder has brought it up");
}

#[test]
fn l7_acknowledgements_of_an_earlier_session_count_for_nothing() {
    let mut net = Net::settled(2);
    net.append(0, &["a"]);
    net.run(30);
    net.kill(1);
    net.nodes[1].disk.clear();
    net.nodes[1].synced = 0;
    net.restart(1, false);
    net.run(60);
    assert_eq!(net.nodes[1].member.facts().session, 901);
    net.cut.insert((1, 0));
    net.append(0, &["b"]);
    let late = Message::Ack { writer: writer(1, 1), round: 1, session: 101, lsn: 2 };
    net.step(0, Input::Received { from: id(1), message: late });
    assert_eq!(net.released(0), 1, "that log is gone");
}

/// L7: what a new holder took over may have been released before it, whatever it knows of that.
#[test]
fn l7_a_log_is_complete_only_with_all_that_the_holder_took_over() {
    let mut net = Net::settled(2);
    net.append(0, &["a", "b", "c"]);
    net.run(60);
    net.kill(1);
    net.nodes[1].disk.clear();
    net.nodes[1].synced = 0;
    net.restart(1, false);
    net.run(60);
    let session = net.nodes[1].member.facts().session;
    net.cut.extend([(0, 1), (1, 0)]);
    net.kill(1);
    net.nodes[1].disk.clear();
    net.nodes[1].synced = 0;
    net.restart(1, false);
    net.run(60);
    assert_eq!(net.nodes[1].member.facts().session, session, "the net names sessions so");
    let entry = net.nodes[0].member.entries().next().unwrap().clone();
    let part = push(session, Mark::default(), (3, 3), entry);
    net.step(1, Input::Received { from: id(0), message: part });
    assert_eq!(net.texts(1), ["a"]);
    assert!(!net.nodes[1].member.facts().complete, "the writer began with three records");
}

/// L5: a node that lost its disk lost its fence with it: the first grant that it takes is the auth node's.
#[test]
fn l5_a_node_that_knows_no_grant_takes_none_from_its_neighbours() {
    let mut net = Net::new(2);
    net.auth_up = false;
    let holder = net::key(0);
    let grant = Grant {
        chain: Digest::ZERO,
        epoch: standin_foundation::Epoch(0),
        cluster: "a".parse().unwrap(),
        term: Term(4),
        holder,
        in_sync: [id(0), id(1)].into(),
        previous: Digest::ZERO,
        cause: standin_ledger::grant::Cause::Grow,
        incarnation: Incarnation(1),
        request: Digest::ZERO,
    };
    let grant = SignedGrant { grant, signature: standin_foundation::Signature::NONE };
    let shown = Message::Grant { grant: grant.clone(), ticket: Bytes::new() };
    net.step(1, Input::Received { from: id(0), message: shown });
    net.step(1, Input::Granted(grant.clone()));
    assert_eq!(net.nodes[1].member.facts().term(), Term(0));
    net.step(1, Input::Answered(Answer::Refused { why: standin_auth::Refusal::Registered, current: Some(grant) }));
    assert_eq!(net.nodes[1].member.facts().term(), Term(4));
}

#[test]
fn l8_until_a_newer_grant_is_known_every_set_that_was_asked_for_must_acknowledge() {
    let mut net = Net::settled(2);
    net.cut.insert((1, 0));
    net.append(0, &["a"]);
    net.run(400);
    assert_eq!(net.grant().map(|grant| grant.in_sync.len()), Some(1));
    net.auth_up = false;
    net.cut.clear();
    net.run(1_000);
    assert!(net.nodes[0].member.facts().asked.contains(&id(1)), "it has asked to take it in");
    net.cut.insert((1, 0));
    net.append(0, &["b"]);
    net.run(100);
    assert_eq!(net.released(0), 1, "the grant may have been made, and its answer lost");
    net.kill(0);
    net.restart(0, false);
    net.run(100);
    assert!(net.released(0) < 2, "also after a restart");
    net.auth_up = true;
    net.run(600);
    assert_eq!(net.released(0), 2, "a newer grant is known");
}

#[test]
fn l9_a_member_that_cut_a_torn_record_is_incomplete_until_the_holder_confirms_it() {
    let mut net = Net::settled(2);
    net.append(0, &["a"]);
    net.run(30);
    net.kill(1);
    net.cut.insert((0, 1));
    net.restart(1, true);
    net.run(30);
    assert!(!net.nodes[1].member.facts().complete);
    net.cut.clear();
    net.run(200);
    assert!(net.nodes[1].member.facts().complete);
}

/// L9: what was cut may have been acknowledged, whether the member was listed, or complete, or neither.
#[test]
fn l9_after_a_tear_nothing_of_the_session_before_counts() {
    let mut net = Net::settled(3);
    net.append(0, &["a"]);
    net.run(30);
    net.kill(1);
    net.run(400);
    assert!(net.grant().is_some_and(|grant| !grant.in_sync.contains(&id(1))), "it is not listed any more");
    net.cut.insert((0, 1));
    let session = net.nodes[1].member.facts().session;
    for torn in 1..=2 {
        net.restart(1, true);
        assert_eq!(net.nodes[1].member.facts().session, session + torn);
        net.kill(1);
    }
    net.restart(1, false);
    assert!(net.nodes[1].member.facts().doubtful, "and that it is doubtful is not forgotten");
    net.cut.clear();
    net.run(20);
    assert!(!net.nodes[1].member.facts().doubtful, "the newest grant does not list it: its log counts for nothing");
    net.run(1_000);
    assert!(net.nodes[1].member.facts().complete);
}

#[test]
fn a_fixed_seat_needs_nobody() {
    let identity = Identity { node: id(0), cluster: "a".parse().unwrap(), members: [(id(0), 0)].into(), fixed: true };
    let mut member = Member::open(identity, Config::default(), net::describe, Found::default(), Millis(0));
    let written = member.step(Millis(0), Input::Tick);
    let last = written.iter().filter(|effect| matches!(effect, Effect::Write { .. })).count() as u64;
    assert!(written.iter().all(|effect| !matches!(effect, Effect::Ask(_) | Effect::Activate { .. })));
    let effects = member.step(Millis(1), Input::Persisted(last));
    assert!(matches!(effects.first(), Some(Effect::Activate { start: 0, .. })));
    member.step(Millis(2), Input::Append(vec![Bytes::from_static(b"a")]));
    let effects = member.step(Millis(3), Input::Persisted(last + 1));
    assert!(matches!(effects.first(), Some(Effect::Released { lsn: 1, .. })));
}
