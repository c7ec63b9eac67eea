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
        [2, 2],
        "pushes and answers show that both live: what a pulse tells besides must not grow old"
    );
}

#[test]
fn s3_a_holder_that_becomes_mute_says_so_at_once_whatever_else_it_sends() {
    let mut net = Net::settled(3);
    net.nodes[0].auto_sync = false;
    net.append(0, &["a"]);
    for _ in 0..60 {
        net.now = net.now + 10;
        for n in 0..3 {
            net.step(n, Input::SeatsHeard { ages: vec![0; 9], needed: 2 });
            net.step(n, Input::Tick);
        }
        // Its members hear of it all the time, while its own disk stands still.
        net.append(0, &["b"]);
        if waiting(&net, 0, |message| matches!(message, Message::Pulse(pulse) if pulse.mute)) > 0 {
            return;
        }
        net.queue.clear();
    }
    panic!("it never said so");
}
