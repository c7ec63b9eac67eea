//! What a server does, step by step.

use standin_foundation::{Digest, SecretKey};

use super::*;
use crate::frame::Entry;
use crate::frame::tests::content;
use crate::machine::lock::{Ground, LEASE_MS_MAX, LEASE_MS_MIN, Reason};
use crate::messages::Checkpoint;

fn key(n: u8) -> PublicKey {
    SecretKey::from_bytes(&[n; 32]).unwrap().public()
}

fn topic() -> Topic {
    "t".parse().unwrap()
}

fn server() -> Server {
    let mut server = Server::new(key(1), Config::default(), View::default(), Millis(0));
    server.step(Millis(0), Input::Serves(true));
    server.step(Millis(0), Input::Speaks(true));
    server.step(Millis(0), Input::Event(Event::Set { topic: topic(), outside: false }));
    server
}

fn granted(owner: u8, fence: u64) -> Input {
    granted_for(owner, fence, 1_000)
}

fn granted_for(owner: u8, fence: u64, lease_ms: u32) -> Input {
    let (owner, from, before) = (key(owner), Sequence(1), Digest::ZERO);
    Input::Event(Event::Granted(Takeover { topic: topic(), fence: Fence(fence), owner, lease_ms, from, before }))
}

fn released(owner: u8, fence: u64, reason: Reason) -> Input {
    Input::Event(Event::Released { topic: topic(), fence: Fence(fence), owner: key(owner), reason })
}

fn renewed(fence: u64, renewals: u64) -> Input {
    Input::Event(Event::Renewed { topic: topic(), fence: Fence(fence), renewals })
}

fn queued() -> (Entry, Input) {
    let entry = Entry::following(&Digest::ZERO, Sequence(1), &content(&["a"])).unwrap();
    (entry, Input::Event(Event::Queued { topic: topic(), entry }))
}

fn step(server: &mut Server, now: u64, input: Input) -> Vec<Effect> {
    server.step(Millis(now), input).0
}

/// A server of a topic whose lock stands outside the chain, and has asked for it.
fn server_outside() -> Server {
    let mut server = Server::new(key(1), Config::default(), View::default(), Millis(0));
    server.step(Millis(0), Input::Serves(true));
    server.step(Millis(0), Input::Event(Event::Set { topic: topic(), outside: true }));
    server
}

fn says(said: Said) -> Input {
    Input::Outside { topic: topic(), said }
}

fn asked(effects: &[Effect]) -> Vec<Ask> {
    let of = |effect: &Effect| match effect {
        Effect::Outside { ask, .. } => Some(*ask),
        _ => None,
    };
    effects.iter().filter_map(of).collect()
}

fn claims(effects: &[Effect]) -> Vec<(Fence, Option<u64>)> {
    let of = |effect: &Effect| match effect {
        Effect::Submit(Instruction::Acquire { after, outside, .. }) => Some((*after, *outside)),
        _ => None,
    };
    effects.iter().filter_map(of).collect()
}

#[test]
fn a_lock_outside_is_asked_for_there_and_then_claimed_on_the_chain_until_that_has_heard_it() {
    let mut server = Server::new(key(1), Config::default(), View::default(), Millis(0));
    server.step(Millis(0), Input::Serves(true));
    let effects = step(&mut server, 0, Input::Event(Event::Set { topic: topic(), outside: true }));
    assert_eq!((asked(&effects), claims(&effects).len()), (vec![Ask::Acquire { above: 0, lease_ms: 1_000 }], 0));
    let effects = step(&mut server, 10, says(Said::Won { number: 9, lease_ms: 2_000 }));
    assert_eq!(claims(&effects), [(Fence(0), Some(9))]);
    // A grant of before, which the chain had not heard of: it is named once more, behind that.
    step(&mut server, 20, Input::Event(Event::Outside { topic: topic(), number: 7 }));
    let effects = step(&mut server, 20, granted(2, 1));
    assert_eq!(claims(&effects), [(Fence(1), Some(9))]);
    assert_eq!(claims(&step(&mut server, 21, Input::Tick)), []);
    assert_eq!(claims(&step(&mut server, 1_020, Input::Tick)), [(Fence(1), Some(9))], "said again");
    step(&mut server, 1_030, Input::Event(Event::Outside { topic: topic(), number: 9 }));
    let effects = step(&mut server, 1_030, granted(1, 2));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Begin(_))));
    assert_eq!(server.publishes(topic()).map(|(_, fence, _)| fence), Some(Fence(2)));
}

#[test]
fn a_lease_outside_is_renewed_there_and_a_server_that_loses_it_stops_and_gives_the_lock_back() {
    let mut server = server_outside();
    step(&mut server, 5, says(Said::Won { number: 9, lease_ms: 2_000 }));
    step(&mut server, 10, Input::Event(Event::Outside { topic: topic(), number: 9 }));
    step(&mut server, 10, granted_for(1, 1, 2_000));
    let until = |server: &Server| server.publishes(topic()).unwrap().0;
    let first = until(&server);
    assert!(first < Millis(2_000), "from before it was asked for");
    let renewal = asked(&step(&mut server, 700, Input::Tick));
    assert_eq!(renewal, [Ask::Renew { renewal: 1 }]);
    step(&mut server, 705, says(Said::Renewed { number: 8, renewal: 1 }));
    assert_eq!(until(&server), first, "of a lease before");
    step(&mut server, 710, says(Said::Renewed { number: 9, renewal: 1 }));
    assert!(until(&server) > first && until(&server) < Millis(2_700));
    step(&mut server, 800, says(Said::Lost { number: 8 }));
    step(&mut server, 800, says(Said::Freed { at: 9 }));
    assert!(server.publishes(topic()).is_some(), "all that is of a lease before");
    let effects = step(&mut server, 800, says(Said::Lost { number: 9 }));
    assert!(effects.contains(&Effect::End { topic: topic(), fence: Fence(1) }));
    let given_back = Effect::Submit(Instruction::Release { topic: topic(), fence: Fence(1) });
    assert!(effects.contains(&given_back), "{effects:?}");
    assert_eq!(server.publishes(topic()), None);
}

#[test]
fn a_lock_that_is_free_outside_is_raced_for_although_the_chain_still_names_its_owner() {
    let mut server = server_outside();
    step(&mut server, 5, says(Said::Refused { at: 4 }));
    step(&mut server, 10, Input::Event(Event::Outside { topic: topic(), number: 5 }));
    step(&mut server, 10, granted(2, 1));
    assert_eq!(asked(&step(&mut server, 3_000, Input::Tick)), [], "no clock of its own ends it");
    assert_eq!(asked(&step(&mut server, 3_005, says(Said::Freed { at: 5 }))), [], "told late, of a grant before");
    let ask = Ask::Acquire { above: 0, lease_ms: 1_000 };
    assert_eq!(asked(&step(&mut server, 3_010, says(Said::Freed { at: 6 }))), [ask]);
    // Operators, or seats, may end it on the chain meanwhile: then what was given under its number is over.
    step(&mut server, 3_011, says(Said::Failed));
    step(&mut server, 3_012, released(2, 1, Reason::Ordered));
    let ask = Ask::Acquire { above: 5, lease_ms: 1_000 };
    assert_eq!(asked(&step(&mut server, 4_100, Input::Tick)), [ask]);
    let effects = step(&mut server, 4_120, says(Said::Won { number: 12, lease_ms: 2_000 }));
    assert_eq!(claims(&effects), [(Fence(1), Some(12))]);
    let again = step(&mut server, 5_200, Input::Tick);
    assert_eq!((asked(&again).len(), claims(&again)), (0, vec![(Fence(1), Some(12))]), "it has it, and says so again");
    step(&mut server, 5_230, Input::Serves(false));
    let effects = step(&mut server, 5_240, granted(1, 2));
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Begin(_))), "no more wanted");
}

fn attested(effects: &[Effect]) -> Vec<Ground> {
    let of = |effect: &Effect| match effect {
        Effect::Submit(Instruction::Attest(attestations)) => Some(attestations[0].ground),
        _ => None,
    };
    effects.iter().filter_map(of).collect()
}

fn asks(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Submit(Instruction::Acquire { .. })))
}

/// It has asked for the lock at 0, and owns it at 20.
fn owner() -> Server {
    let mut server = server();
    assert_eq!(server.owned(), 0);
    let begun = step(&mut server, 20, granted(1, 1));
    assert!(matches!(begun[..], [Effect::Begin(_)]), "{begun:?}");
    server
}

#[test]
fn a_server_alone_asks_for_a_free_lock_and_publishes_what_waits() {
    let mut server = Server::new(key(1), Config::default(), View::default(), Millis(0));
    assert!(
        !asks(&step(&mut server, 0, Input::Event(Event::Set { topic: topic(), outside: false }))),
        "not before it serves"
    );
    assert!(asks(&step(&mut server, 0, Input::Serves(true))));
    assert!(!asks(&step(&mut server, 10, Input::Tick)), "once");
    step(&mut server, 20, granted(1, 1));
    let (entry, input) = queued();
    let upto = entry.last();
    assert_eq!(step(&mut server, 30, input), [Effect::Publish { topic: topic(), fence: Fence(1), upto }]);
    let published = Some(Checkpoint { upto, chain: entry.chain });
    let hold = Hold { topic: topic(), fence: Fence(1), renewal: None, published };
    assert_eq!(step(&mut server, 50, Input::Tick), [Effect::Submit(Instruction::Hold(vec![hold]))]);
    assert!(step(&mut server, 70, Input::Tick).is_empty(), "the chain has not answered");
}

/// H8, H9: the deadline counts from before the renewal was sent, and nothing is published beyond it.
#[test]
fn h9_an_owner_whose_renewals_are_not_final_stops_by_itself_and_goes_on_when_they_are() {
    let mut server = owner();
    assert_eq!(server.publishes(topic()).map(|(until, ..)| until), Some(Millis(940)), "1 % and 50 ms less");
    let renewals = |effects: &[Effect]| {
        let of = |effect: &Effect| match effect {
            Effect::Submit(Instruction::Hold(holds)) => holds[0].renewal,
            _ => None,
        };
        effects.iter().filter_map(of).collect::<Vec<_>>()
    };
    assert_eq!(renewals(&step(&mut server, 340, Input::Tick)), [1]);
    assert_eq!(renewals(&step(&mut server, 680, Input::Tick)), [1], "the same again: each number counts once");
    assert!(step(&mut server, 950, queued().1).is_empty(), "the lease is over");
    let renewed_late = step(&mut server, 1_000, renewed(1, 1));
    assert_eq!(server.publishes(topic()).map(|(until, ..)| until), Some(Millis(340 + 940)), "from the first time");
    assert!(renewed_late.iter().any(|effect| matches!(effect, Effect::Publish { .. })), "{renewed_late:?}");
    let lost = step(&mut server, 1_100, released(1, 1, Reason::Expired));
    assert!(lost.contains(&Effect::End { topic: topic(), fence: Fence(1) }));
    assert_eq!(server.publishes(topic()), None);
}

/// H8: the owner of a lease has stopped before any seat takes the lease for ended, whatever the rates of their clocks within what is allowed; and one that was suspended
/// finds its lease over before it publishes anything. The wall clock has no part in it.
#[test]
fn h8_no_clock_that_drifts_or_jumps_lets_an_owner_outlast_its_lease() {
    let config = Config::default();
    for lease_ms in [LEASE_MS_MIN, LEASE_MS_MIN + 1, 999, 1_000, LEASE_MS_MAX] {
        // Local ms in a thousand true ones.
        let (slow, fast) = (1_000 - config.drift_per_mille, 1_000 + config.drift_per_mille);
        let owner_stops = (config.lease_of_owner(lease_ms) * 1_000).div_ceil(slow);
        let seat_sees_end = config.lease_of_watcher(lease_ms) * 1_000 / fast;
        assert!(owner_stops < seat_sees_end, "a lease of {lease_ms} ms: {owner_stops} and {seat_sees_end}");
    }
    let mut server = owner();
    let woken = step(&mut server, 60_000, queued().1);
    assert!(!woken.iter().any(|effect| matches!(effect, Effect::Publish { .. })), "{woken:?}");
    assert!(server.publishes(topic()).is_some_and(|(until, ..)| until < Millis(60_000)));
}

#[test]
fn a_lock_of_an_earlier_life_is_given_back() {
    let mut server = server();
    step(&mut server, 5, granted(2, 1));
    let effects = step(&mut server, 10, granted(1, 2));
    let release = Effect::Submit(Instruction::Release { topic: topic(), fence: Fence(2) });
    assert!(effects.contains(&release), "asked for by whoever had this key before: {effects:?}");
    assert_eq!(server.publishes(topic()), None);
}

/// H16, and time-out, and a lost connection, each said once and of what was seen.
#[test]
fn a_seat_says_what_it_has_seen_of_other_owners_and_never_of_its_own_server() {
    let mut server = server();
    step(&mut server, 0, granted(2, 1));
    assert!(attested(&step(&mut server, 1_010, Input::Tick)).is_empty());
    assert_eq!(attested(&step(&mut server, 1_011, Input::Tick)), [Ground::Expired { renewals: 0 }]);
    assert!(attested(&step(&mut server, 1_500, Input::Tick)).is_empty(), "once");
    step(&mut server, 1_600, renewed(1, 1));
    let link = |is_up| Input::Link { server: key(2).node_id(), is_up };
    step(&mut server, 1_620, link(false));
    assert!(attested(&step(&mut server, 1_690, Input::Tick)).is_empty(), "it never was connected");
    step(&mut server, 1_695, link(true));
    step(&mut server, 1_700, link(false));
    assert!(attested(&step(&mut server, 1_749, Input::Tick)).is_empty());
    assert_eq!(attested(&step(&mut server, 1_750, Input::Tick)), [Ground::Lost { renewals: 1 }]);
    step(&mut server, 1_760, link(true));
    step(&mut server, 1_770, queued().1);
    let mut at = 1_770;
    let mut said = Vec::new();
    for renewals in 2..20 {
        at += 300;
        said.extend(attested(&step(&mut server, at, renewed(1, renewals))));
    }
    assert_eq!(said.first(), Some(&Ground::Stalled { published: Sequence(0) }), "it renews, and publishes nothing");
    let mut own = owner();
    assert!(attested(&step(&mut own, 60_000, Input::Tick)).is_empty());
}

/// H13: false alarms make the next one wait longer.
#[test]
fn h13_a_lock_that_is_lost_again_and_again_is_given_more_time() {
    let mut server = server();
    let mut waits = Vec::new();
    let (mut now, mut fence) = (0, 0);
    for _ in 0..5 {
        fence += 1;
        step(&mut server, now, granted(2, fence));
        step(&mut server, now, Input::Link { server: key(2).node_id(), is_up: true });
        step(&mut server, now, Input::Link { server: key(2).node_id(), is_up: false });
        let waited = (0..2_000).find(|ms| !attested(&step(&mut server, now + ms, Input::Tick)).is_empty()).unwrap();
        waits.push(waited);
        now += waited;
        step(&mut server, now, released(2, fence, Reason::Lost));
        step(&mut server, now, Input::Link { server: key(2).node_id(), is_up: true });
    }
    assert_eq!(waits, [50, 50, 50, 100, 200]);
}

#[test]
fn a_server_that_leaves_gives_its_locks_back_and_competes_no_more() {
    let mut server = owner();
    let effects = step(&mut server, 30, Input::Serves(false));
    let release = Effect::Submit(Instruction::Release { topic: topic(), fence: Fence(1) });
    assert_eq!(effects, [Effect::End { topic: topic(), fence: Fence(1) }, release]);
    assert!(!asks(&step(&mut server, 40, released(1, 1, Reason::Resigned))));
    assert!(!asks(&step(&mut server, 90_000, Input::Tick)));
    assert!(asks(&step(&mut server, 90_010, Input::Serves(true))), "until it serves again");
}

/// Whoever was found wanting lets the others try first.
#[test]
fn a_suspect_races_behind_all_others() {
    let mut server = owner();
    step(&mut server, 100, released(1, 1, Reason::Stalled));
    assert!(!asks(&step(&mut server, 1_099, Input::Tick)));
    assert!(asks(&step(&mut server, 1_101, Input::Tick)));
}
