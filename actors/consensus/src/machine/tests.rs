//! Rules of the machine, one by one. What many replicas do together is the simulator's.

use standin_foundation::{Digest, Epoch, Height, Millis, Seat, SecretKey, Term, View};
use standin_ledger::certificate::CheckpointResult;
use standin_ledger::transaction::TransactionBody;
use standin_ledger::{Batch, BatchRef, Parameters, Proposal, Transaction};

use crate::config::Config;
use crate::effect::{Effect, Event, Input, ViewChangeCause};
use crate::machine::{Identity, Machine};
use crate::messages::{Body, Signed};
use crate::record::Record;
use crate::verify::{KeySigner, Verified, sign};

fn signer(seat: u16) -> KeySigner {
    let key = SecretKey::from_bytes(&[seat as u8 + 1; 32]).unwrap();
    KeySigner { chain: Digest::ZERO, seat: Seat(seat), term: Term(0), key }
}

fn said(seat: u16, body: Body) -> Input {
    let message: Verified<Signed> = sign(&signer(seat), Epoch(0), body);
    Input::MessageReceived(message)
}

fn machine(seat: u16) -> Machine {
    let parameters = Parameters { checkpoint_interval: 4, window: 8, ..Parameters::default() };
    Machine::new(Identity { seat: Seat(seat), seats: 4, epoch: Epoch(0), parameters }, Config::default(), Millis(0))
}

fn batch(nonce: u64) -> BatchRef {
    let sender = SecretKey::from_bytes(&[9; 32]).unwrap().public();
    let body = TransactionBody { title: "t".parse().unwrap(), nonce, expires: Height(9), payload: b"p".to_vec() };
    Batch::new(vec![Transaction::unsigned(&sender, &body).unwrap()]).unwrap().reference()
}

fn arrives(nonce: u64) -> Input {
    Input::BatchReceived { from: Seat(1), batch: batch(nonce), needed: false }
}

fn proposal(height: u64, nonce: u64) -> Proposal {
    let mut proposal = Proposal::null(Height(height), Epoch(0), View(0), Seat(0));
    proposal.batches = vec![batch(nonce)];
    proposal
}

fn sent(effects: &[Effect]) -> Vec<(&Body, u64)> {
    fn send(effect: &Effect) -> Option<(&Body, u64)> {
        match effect {
            Effect::Send { body, after, .. } => Some((body, *after)),
            _ => None,
        }
    }
    effects.iter().filter_map(send).collect()
}

fn events(effects: &[Effect]) -> Vec<&Event> {
    fn event(effect: &Effect) -> Option<&Event> {
        match effect {
            Effect::Report(event) => Some(event),
            _ => None,
        }
    }
    effects.iter().filter_map(event).collect()
}

#[test]
fn a_vote_waits_for_the_record_that_it_stands_on() {
    let mut machine = machine(1);
    machine.step(Millis(1), arrives(1));
    let effects = machine.step(Millis(1), said(0, Body::PrePrepare { view: View(0), proposal: proposal(1, 1) }));
    let logged = effects.iter().find_map(|effect| match effect {
        Effect::Log { lsn, record: Record::Accepted { .. } } => Some(*lsn),
        _ => None,
    });
    let (body, after) = sent(&effects)[0];
    assert!(matches!(body, Body::Prepare { .. }));
    assert_eq!(Some(after), logged);
}

#[test]
fn own_votes_count_only_when_they_come_back() {
    let mut machine = machine(1);
    machine.step(Millis(1), arrives(1));
    let digest = proposal(1, 1).digest();
    let prepare = |seat| said(seat, Body::Prepare { view: View(0), height: Height(1), digest });
    machine.step(Millis(1), said(0, Body::PrePrepare { view: View(0), proposal: proposal(1, 1) }));
    let two = machine.step(Millis(1), prepare(2));
    assert!(sent(&two).is_empty(), "two of three: its own has not left");
    let three = machine.step(Millis(1), prepare(1));
    assert!(matches!(sent(&three)[..], [(Body::Commit { .. }, _)]));
}

#[test]
fn a_primary_that_says_two_things_is_reported_with_both_and_the_first_counts() {
    let mut machine = machine(1);
    machine.step(Millis(1), arrives(1));
    machine.step(Millis(1), arrives(2));
    machine.step(Millis(1), said(0, Body::PrePrepare { view: View(0), proposal: proposal(1, 1) }));
    let effects = machine.step(Millis(1), said(0, Body::PrePrepare { view: View(0), proposal: proposal(1, 2) }));
    assert!(sent(&effects).is_empty());
    let [Event::Equivocation { seat: Seat(0), evidence }] = events(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(evidence[0].0.digest, proposal(1, 1).digest());
    assert_eq!(evidence[1].0.digest, proposal(1, 2).digest());
}

#[test]
fn without_work_no_view_fails_and_with_work_each_waits_longer_up_to_eight_seconds() {
    let mut machine = machine(1);
    for now in (0..60_000).step_by(250) {
        assert!(events(&machine.step(Millis(now), Input::Tick)).is_empty());
    }
    let mut now = 60_000;
    machine.step(Millis(now), arrives(1));
    let mut began = now;
    let mut waits = Vec::new();
    while waits.len() < 12 {
        now += 50;
        let effects = machine.step(Millis(now), Input::Tick);
        let started = events(&effects).into_iter().find_map(|event| match event {
            Event::ViewChangeStarted { to, cause } => Some((*to, *cause)),
            _ => None,
        });
        let Some((to, cause)) = started else { continue };
        assert!(matches!(cause, ViewChangeCause::NoProgress | ViewChangeCause::NoNewView));
        waits.push(now - began);
        began = now;
        for seat in [1, 2, 3] {
            let body = crate::messages::ViewChange { view: to, stable: None, prepared: Vec::new() };
            machine.step(Millis(now), said(seat, Body::ViewChange(body)));
        }
        if machine.status().changing_to.is_none() {
            break;
        }
    }
    assert!(waits.iter().all(|wait| *wait <= 8_050), "{waits:?}");
    assert!(waits[0] >= 1_000, "{waits:?}");
}

#[test]
fn a_pause_of_this_process_is_not_held_against_the_primary() {
    let mut machine = machine(1);
    machine.step(Millis(0), arrives(1));
    let effects = machine.step(Millis(60_000), Input::Tick);
    assert!(events(&effects).is_empty(), "it slept for a minute, and the timer begins again");
}

#[test]
fn a_seat_whose_result_differs_from_a_quorum_is_reported_with_evidence() {
    let result = |root: &[u8]| CheckpointResult {
        height: Height(4),
        block_hash: Digest::sha256(b"b"),
        state_root: Digest::sha256(root),
        receipts_root: Digest::ZERO,
    };
    let mut machine = machine(1);
    machine.step(Millis(1), said(3, Body::Checkpoint(result(b"wrong"))));
    machine.step(Millis(1), said(0, Body::Checkpoint(result(b"right"))));
    machine.step(Millis(1), said(2, Body::Checkpoint(result(b"right"))));
    let effects = machine.step(Millis(1), said(1, Body::Checkpoint(result(b"right"))));
    let [Event::WrongResult { seat: Seat(3), result: wrong, vote, certificate }] = events(&effects)[..] else {
        panic!("{effects:?}")
    };
    assert_eq!((*wrong, certificate.result), (result(b"wrong"), result(b"right")));
    assert_eq!(vote.seat, Seat(3));
    assert_eq!(certificate.votes.len(), 3);
}

#[test]
fn a_replica_whose_own_result_is_wrong_stops() {
    let result = |root: &[u8]| CheckpointResult {
        height: Height(4),
        block_hash: Digest::sha256(b"b"),
        state_root: Digest::sha256(root),
        receipts_root: Digest::ZERO,
    };
    let mut machine = machine(1);
    machine.step(Millis(1), Input::Executed { height: Height(4), checkpoint: Some(result(b"wrong")) });
    for seat in [0, 2, 3] {
        machine.step(Millis(1), said(seat, Body::Checkpoint(result(b"right"))));
    }
    assert!(machine.is_halted());
    assert!(machine.step(Millis(2), Input::Tick).is_empty());
}
