//! No more messages than are needed: what waits for others, and what goes along with them.

use super::*;

fn waiting(net: &Net, from: usize, fits: impl Fn(&Message) -> bool) -> usize {
    net.queue.iter().filter(|(sender, _, message)| *sender == from && fits(message)).count()
}

#[test]
fn a_record_that_nothing_waits_for_goes_along_with_the_next_that_something_waits_for() {
    let mut net = Net::settled(2);
    net.append(0, &["~a", "~b"]);
    assert_eq!(waiting(&net, 0, |message| matches!(message, Message::Push { .. })), 0);
    net.append(0, &["c"]);
    assert_eq!(waiting(&net, 0, |message| matches!(message, Message::Push { .. })), 1);
    net.pump();
    assert_eq!(net.texts(1), ["~a", "~b", "c"]);
    net.append(0, &["~d"]);
    net.pump();
    assert_eq!(net.texts(1).len(), 3);
    net.run(10);
    assert_eq!(net.texts(1).len(), 4, "or with the next tick");
    assert_eq!(net.released(0), 4);
}

#[test]
fn a_member_answers_once_when_what_it_was_sent_is_durable() {
    let mut net = Net::settled(2);
    net.nodes[1].auto_sync = false;
    net.append(0, &["a"]);
    net.pump();
    assert_eq!((net.texts(1), net.released(0)), (vec!["a".to_owned()], 0));
    net.sync(1);
    assert_eq!(waiting(&net, 1, |message| matches!(message, Message::Ack { lsn: 1, .. })), 1);
    assert_eq!(waiting(&net, 1, |_| true), 1, "and nothing else was said");
}

#[test]
fn a_pulse_is_left_out_where_other_messages_show_that_the_node_lives_but_not_for_long() {
    let mut net = Net::settled(3);
    let pulses_of = |net: &Net, from: usize, to: usize| {
        let fits = |(sender, receiver, message): &&(usize, usize, Message)| {
            (*sender, *receiver) == (from, to) && matches!(message, Message::Pulse(_))
        };
        net.queue.iter().filter(fits).count()
    };
    let mut pulses = [0; 3];
    for _ in 0..40 {
        net.now = net.now + 10;
        for n in 0..3 {
            net.step(n, Input::Tick);
        }
        for (count, (from, to)) in pulses.iter_mut().zip([(1, 2), (0, 1), (1, 0)]) {
            *count += pulses_of(&net, from, to);
        }
        net.pump();
    }
    assert_eq!(pulses[0], 8, "members have nothing else to say to each other: one each 50 ms");
    assert_eq!(
        pulses[1..],
        [4, 4],
        "pushes and answers show that both live: what a pulse tells besides must not grow old"
    );
}

#[test]
fn s3_a_holder_that_becomes_mute_says_so_at_its_next_pulse_whatever_else_it_sends() {
    let mut net = Net::settled(3);
    net.nodes[0].auto_sync = false;
    net.append(0, &["a"]);
    let begun = net.now;
    let mutes = |net: &Net| waiting(net, 0, |message| matches!(message, Message::Pulse(pulse) if pulse.mute));
    while net.now < begun + 600 {
        net.now = net.now + 10;
        for n in 0..3 {
            net.step(n, Input::SeatsHeard { ages: vec![0; 9], needed: 2 });
            net.step(n, Input::Tick);
        }
        // Its members hear of it all the time, and answer, while its own disk stands still.
        net.append(0, &["b"]);
        if mutes(&net) > 0 {
            break;
        }
        net.pump();
    }
    let Config { mute_ms, keep_alive_ms, .. } = Config::default();
    let after = net.now - begun;
    assert!((mute_ms..=mute_ms + keep_alive_ms).contains(&after), "after {after} ms");
}

/// What is sent anew in a new term says that it stands behind all that the log held then: that must have been acknowledged.
#[test]
fn l9_a_tail_that_nothing_waits_for_goes_out_at_once_when_the_term_changes() {
    let mut net = Net::settled(3);
    net.append(0, &["a"]);
    net.run(30);
    net.kill(2);
    net.append(0, &["b"]);
    net.pump();
    // More than goes into one push.
    net.append(0, &["~c"; 600]);
    assert_eq!(net.texts(1).len(), 2);
    net.step(0, Input::LinkDown(id(2)));
    assert_eq!(net.nodes[0].rebased, [writer(2, 1)], "the dead member was left out");
    net.pump();
    assert_eq!((net.texts(1).len(), net.released(0)), (602, 602));
}

#[test]
fn l1_a_payload_that_is_waited_for_does_not_wait() {
    let mut net = Net::settled(2);
    net.append(0, &["?x"]);
    net.pump();
    assert_eq!(net.released(0), 0, "the member lacks the payload");
    net.append(0, &["~+x"]);
    net.pump();
    assert_eq!(net.released(0), 2);
}
