//! Rules of the machine, one by one. What many replicas do together is the simulator's.

mod epochs;
mod succession;

use std::sync::Arc;

use standin_foundation::{Digest, Epoch, Height, Millis, Seat, Seats, SecretKey, Signature, Term, View, Writer};
use standin_ledger::builtin::Builtin;
use standin_ledger::certificate::{Authority, CheckpointCertificate, CheckpointResult, SeatVote, Verdict, VoteTarget};
use standin_ledger::genesis::Account;
use standin_ledger::snapshot::{Chunk, Manifest, ServedSnapshot};
use standin_ledger::transaction::TransactionBody;
use standin_ledger::{Batch, BatchRef, Chain, Genesis, Parameters, Proposal, SeatDescriptor, Transaction};

use crate::config::Config;
use crate::effect::{Effect, Event, Input, Recipient, ViewChangeCause};
use crate::machine::{Identity, Machine, Remains};
use crate::messages::{Body, Note, Signed, Status};
use crate::record::Record;
use crate::verify::{KeySigner, Verified, Verifier, primary_of, sign};

fn signer(seat: u16) -> KeySigner {
    let key = SecretKey::from_bytes(&[seat as u8 + 1; 32]).unwrap();
    KeySigner { chain: Digest::ZERO, seat: Seat(seat), writer: Writer::default(), start: 0, key }
}

fn said(seat: u16, body: Body) -> Input {
    let message: Verified<Signed> = sign(&signer(seat), Epoch(0), body, 0);
    Input::MessageReceived(message)
}

fn machine(seat: u16) -> Machine {
    let parameters = Parameters { checkpoint_interval: 4, window: 8, ..Parameters::default() };
    Machine::new(Identity { seat: Seat(seat), seats: Seats::first(4), parameters }, Config::default(), Millis(0))
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
    machine.step(Millis(1), Input::Executed { height: Height(4), checkpoint: Some(result(b"wrong")), ordered: None });
    for seat in [0, 2, 3] {
        machine.step(Millis(1), said(seat, Body::Checkpoint(result(b"right"))));
    }
    assert!(machine.is_halted());
    assert!(machine.step(Millis(2), Input::Tick).is_empty());
}

/// Seat 1 sees everything that makes `proposal` final in view 0.
fn commit(machine: &mut Machine, proposal: &Proposal) -> Vec<Effect> {
    let (view, height, digest) = (View(0), proposal.height, proposal.digest());
    let mut effects = machine.step(Millis(1), said(0, Body::PrePrepare { view, proposal: proposal.clone() }));
    for seat in 1..4 {
        effects.extend(machine.step(Millis(1), said(seat, Body::Prepare { view, height, digest })));
    }
    for seat in 0..3 {
        effects.extend(machine.step(Millis(1), said(seat, Body::Commit { view, height, digest })));
    }
    effects
}

fn has_prepare(effects: &[Effect], wanted: &Proposal) -> bool {
    let is_it = |body: &Body| matches!(body, Body::Prepare { digest, .. } if *digest == wanted.digest());
    sent(effects).iter().any(|(body, _)| is_it(body))
}

#[test]
fn an_assignment_for_a_later_view_does_not_displace_that_of_the_current_view() {
    let mut machine = machine(1);
    for view in [View(2), View(6), View(1_000_002)] {
        let junk = Proposal {
            view,
            proposer: Seat(2),
            checkpoint: true,
            ..Proposal::null(Height(1), Epoch(0), view, Seat(2))
        };
        machine.step(Millis(1), said(2, Body::PrePrepare { view, proposal: junk }));
    }
    // The payload is not here yet: the assignment waits for it.
    let real = proposal(1, 1);
    let waits = machine.step(Millis(1), said(0, Body::PrePrepare { view: View(0), proposal: real.clone() }));
    assert!(!has_prepare(&waits, &real));
    assert!(has_prepare(&machine.step(Millis(1), arrives(1)), &real));
}

#[test]
fn an_assignment_that_comes_again_is_considered_again() {
    let mut machine = machine(1);
    let real = proposal(1, 1);
    let again = || said(0, Body::PrePrepare { view: View(0), proposal: real.clone() });
    machine.step(Millis(1), again());
    // View 1's primary parks something at the same place, and the vote in view 0 is known already.
    machine.slots.get_mut(&Height(1)).unwrap().parked = None;
    machine.step(Millis(1), again());
    assert!(has_prepare(&machine.step(Millis(1), arrives(1)), &real));
}

#[test]
fn a_batch_that_a_later_slot_names_again_keeps_its_payload() {
    let mut machine = machine(1);
    machine.step(Millis(1), arrives(1));
    commit(&mut machine, &proposal(1, 1));
    machine.step(Millis(1), Input::Executed { height: Height(1), checkpoint: None, ordered: None });
    // High in the window, the primary names the same batch once more.
    let again = proposal(8, 1);
    machine.step(Millis(1), said(0, Body::PrePrepare { view: View(0), proposal: again }));
    assert!(machine.needs_payload(&batch(1).digest()));
    // Far behind the window, and still named.
    machine.forget_ordered(Height(100));
    assert!(machine.needs_payload(&batch(1).digest()), "slot 8 will be executed, too");
    machine.slots.clear();
    machine.forget_ordered(Height(100));
    assert!(!machine.needs_payload(&batch(1).digest()));
}

#[test]
fn clients_that_ask_again_for_what_was_ordered_get_a_second_place_and_strangers_do_not() {
    let mut machine = machine(1);
    machine.step(Millis(1), arrives(1));
    commit(&mut machine, &proposal(1, 1));
    assert_eq!(machine.pending().0, 0);
    machine.step(Millis(2), Input::BatchReceived { from: Seat(2), batch: batch(1), needed: false });
    assert_eq!(machine.pending().0, 0, "a late copy");
    let own = machine.step(Millis(2), arrives(1));
    let offered = |effect: &Effect| matches!(effect, Effect::Tell { to: Recipient::One(Seat(0)), note: Note::Offer(names) } if names.contains(&batch(1).digest()));
    assert!(own.iter().any(offered), "the primary dropped its copy as late, and must know");
    // The primary gives it a second place.
    let parameters = Parameters { checkpoint_interval: 4, window: 8, ..Parameters::default() };
    let identity = Identity { seat: Seat(0), seats: Seats::first(4), parameters };
    let mut primary = Machine::new(identity, Config::default(), Millis(0));
    let proposed = primary.step(Millis(1), Input::BatchReceived { from: Seat(0), batch: batch(1), needed: false });
    let first = sent(&proposed).into_iter().find_map(|(body, _)| match body {
        Body::PrePrepare { proposal, .. } => Some(proposal.clone()),
        _ => None,
    });
    let first = first.unwrap();
    commit(&mut primary, &first);
    let again = primary.step(Millis(3), Input::OfferReceived(Seat(1), vec![batch(1).digest()]));
    let is_second =
        |body: &Body| matches!(body, Body::PrePrepare { proposal, .. } if proposal.batches == first.batches);
    assert!(sent(&again).iter().any(|(body, _)| is_second(body)), "{again:?}");
}

#[test]
fn a_seat_that_names_the_end_of_all_views_is_not_followed_there() {
    let mut machine = machine(1);
    let last = crate::messages::ViewChange { view: View(u64::MAX), stable: None, prepared: Vec::new() };
    machine.step(Millis(0), said(3, Body::ViewChange(last)));
    for now in (0..120_000).step_by(250) {
        let effects = machine.step(Millis(now), Input::Tick);
        assert!(events(&effects).is_empty(), "at {now}: {effects:?}");
    }
}

#[test]
fn a_view_is_left_for_a_higher_one_only() {
    let mut machine = machine(1);
    machine.start_view_change(View(3), ViewChangeCause::Joined);
    let sent_before = sent(&std::mem::take(&mut machine.effects)).len();
    machine.start_view_change(View(3), ViewChangeCause::NoNewView);
    machine.start_view_change(View(2), ViewChangeCause::NoNewView);
    assert_eq!((sent_before, machine.effects.len()), (1, 0), "a second view-change could contradict the first");
}

#[test]
fn a_checkpoint_asked_for_with_batches_is_not_accepted() {
    let mut machine = machine(1);
    machine.step(Millis(1), arrives(1));
    let costly = Proposal { checkpoint: true, ..proposal(1, 1) };
    let effects = machine.step(Millis(1), said(0, Body::PrePrepare { view: View(0), proposal: costly.clone() }));
    assert!(!has_prepare(&effects, &costly));
}

#[test]
fn results_are_sent_again_from_the_highest() {
    let mut machine = machine(1);
    for height in 1..=7 {
        let result = CheckpointResult {
            height: Height(height),
            block_hash: Digest::ZERO,
            state_root: Digest::ZERO,
            receipts_root: Digest::ZERO,
        };
        machine.step(Millis(1), Input::Executed { height: Height(height), checkpoint: Some(result), ordered: None });
        machine.step(Millis(1), Input::ResultAgreed(Height(height)));
    }
    let status = Status { committed: Height(7), ..Status::default() };
    let effects = machine.step(Millis(2), Input::StatusReceived(Seat(2), status));
    let again: Vec<_> = sent(&effects)
        .into_iter()
        .filter_map(|(body, _)| match body {
            Body::Checkpoint(result) => Some(result.height.0),
            _ => None,
        })
        .collect();
    assert_eq!(again, [7, 6, 5, 4]);
}

#[test]
fn a_seat_that_asks_for_help_all_the_time_gets_it_no_more_often_than_an_honest_one() {
    let mut machine = machine(1);
    machine.step(Millis(0), arrives(1));
    machine.step(Millis(0), said(0, Body::PrePrepare { view: View(0), proposal: proposal(1, 1) }));
    let mut votes = 0;
    for now in 1_000..2_000 {
        let effects = machine.step(Millis(now), Input::StatusReceived(Seat(3), Status::default()));
        votes += sent(&effects).len();
    }
    assert!((1..=9).contains(&votes), "{votes} votes for a thousand notes in a second");
}

#[test]
fn a_batch_with_a_second_place_is_in_the_log_again_before_the_vote_for_it() {
    let mut machine = machine(1);
    machine.step(Millis(1), arrives(1));
    commit(&mut machine, &proposal(1, 1));
    machine.step(Millis(1), Input::Executed { height: Height(1), checkpoint: None, ordered: None });
    let again = proposal(2, 1);
    let effects = machine.step(Millis(1), said(0, Body::PrePrepare { view: View(0), proposal: again }));
    let records: Vec<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Log { record, .. } => Some(record),
            _ => None,
        })
        .collect();
    let [Record::Batch(logged), Record::Accepted { .. }] = records[..] else { panic!("{records:?}") };
    assert_eq!(logged.digest(), batch(1).digest());
}

#[test]
fn a_liar_that_is_ahead_of_all_does_not_keep_others_from_helping() {
    let mut machine = machine(1);
    let liar = Status { committed: Height(u64::MAX), stable: Height(u64::MAX), ..Status::default() };
    let honest = Status { committed: Height(6), ..Status::default() };
    machine.step(Millis(1), Input::StatusReceived(Seat(0), liar));
    machine.step(Millis(1), Input::StatusReceived(Seat(2), honest));
    let mut asked = Vec::new();
    for now in (0..10_000).step_by(250) {
        for effect in machine.step(Millis(now), Input::Tick) {
            if let Effect::Tell { to: Recipient::One(seat), note } = effect
                && matches!(note, Note::FetchBlocks { .. } | Note::FetchManifest)
            {
                asked.push((seat, matches!(note, Note::FetchBlocks { .. })));
            }
        }
    }
    assert!(asked.contains(&(Seat(2), true)), "blocks, from a seat that has them: {asked:?}");
}

/// The only seat that is known to be ahead may not have stored its newest block yet: blocks are what it is asked for again.
#[test]
fn one_seat_that_has_nothing_yet_is_no_reason_for_a_snapshot() {
    let mut machine = machine(1);
    let ahead = Status { committed: Height(6), stable: Height(4), ..Status::default() };
    machine.step(Millis(1), Input::StatusReceived(Seat(0), ahead));
    let mut asked = Vec::new();
    for now in (250..=1_500).step_by(250) {
        for effect in machine.step(Millis(now), Input::Tick) {
            if let Effect::Tell { to: Recipient::One(_), note } = effect {
                asked.push(note);
                machine.step(Millis(now), Input::UnavailableReceived(Seat(0)));
            }
        }
    }
    let blocks = |note: &Note| matches!(note, Note::FetchBlocks { .. });
    let fetches: Vec<_> =
        asked.iter().filter(|note| blocks(note) || matches!(note, Note::FetchManifest)).map(blocks).collect();
    assert_eq!(fetches.get(..4), Some(&[true, true, true, false][..]), "a round of all others, then a snapshot");
}

/// Takes every signature, of seats that are in this term: what is tested here comes after that.
struct Anyone(Term);

impl Authority for Anyone {
    fn seats(&self, _: Epoch) -> Option<Seats> {
        Some(Seats::first(4))
    }

    fn epoch_at(&self, _: Height) -> Epoch {
        Epoch(0)
    }

    fn term(&self, _: Seat) -> Term {
        self.0
    }

    fn judge(&self, _: &VoteTarget, _: &SeatVote) -> Verdict {
        Verdict::Valid
    }
}

fn manifest() -> Verified<Manifest> {
    let seat = |n: u8| {
        let holder = SecretKey::from_bytes(&[n + 1; 32]).unwrap().public();
        SeatDescriptor::of_one(format!("c{n}").parse().unwrap(), holder)
    };
    let genesis = Genesis {
        chain: "test-snapshot".parse().unwrap(),
        time_ms: 1,
        auth: None,
        parameters: Parameters::default(),
        seats: (0..4).map(seat).collect(),
        operators: Default::default(),
        clients: Default::default(),
        accounts: vec![Account { key: seat(8).members[0].key, amount: 5 }],
    };
    let mut chain = Chain::new(&genesis, Arc::new(Builtin));
    let proposal = Proposal { checkpoint: true, ..Proposal::null(Height(1), Epoch(0), View(0), Seat(0)) };
    let result = chain.execute(proposal, &[]).unwrap().checkpoint.unwrap();
    let vote = |seat| SeatVote { seat: Seat(seat), term: Term(0), signature: Signature([1; 64]) };
    let certificate = CheckpointCertificate { epoch: Epoch(0), result, votes: (0..3).map(vote).collect() };
    let manifest = ServedSnapshot::new(&chain.snapshot(), certificate).manifest().clone();
    Verifier { authority: Anyone(Term(0)), window: 8 }.manifest(manifest).unwrap()
}

#[test]
fn a_seat_that_gives_junk_in_the_place_of_chunks_is_left_for_another() {
    let mut machine = machine(1);
    machine.config.snapshot_gap = 0;
    let ahead = Status { committed: Height(1), stable: Height(1), ..Status::default() };
    machine.step(Millis(1), Input::StatusReceived(Seat(0), ahead));
    let mut left = false;
    for now in (0..10_000).step_by(250) {
        let effects = machine.step(Millis(now), Input::Tick);
        if now > 5_000 {
            // It has the blocks, and no snapshot.
            let blocks = Status { committed: Height(1), ..Status::default() };
            machine.step(Millis(now), Input::StatusReceived(Seat(2), blocks));
        }
        for effect in effects {
            match effect {
                Effect::Tell { to: Recipient::One(Seat(0)), note: Note::FetchManifest } => {
                    machine.step(Millis(now), Input::ManifestReceived(Seat(0), manifest()));
                }
                Effect::Tell { to: Recipient::One(Seat(2)), note: Note::FetchBlocks { .. } } => left = true,
                _ => {}
            }
        }
        let junk = Chunk::Entries(vec![(b"key".to_vec().into(), b"value".to_vec().into())]);
        let junk = Input::ChunkReceived { from: Seat(0), height: Height(1), index: 0, chunk: junk };
        machine.step(Millis(now), junk);
    }
    assert!(left, "seat 2 was never asked");
}

/// How long this replica lingers after blocks that each took so long, in ms.
fn lingers_after(blocks_ms: &[u64]) -> u64 {
    let parameters = Parameters { checkpoint_interval: 256, window: 512, ..Parameters::default() };
    let identity = Identity { seat: Seat(1), seats: Seats::first(4), parameters };
    let mut machine = Machine::new(identity, Config::default(), Millis(0));
    let mut now = 1;
    for (height, took) in (1..).zip(blocks_ms) {
        let proposed = proposal(height, height);
        let (view, digest, height) = (View(0), proposed.digest(), Height(height));
        machine.step(Millis(now), arrives(height.0));
        machine.step(Millis(now), said(0, Body::PrePrepare { view, proposal: proposed }));
        now += took;
        for seat in [0, 2, 3] {
            machine.step(Millis(now), said(seat, Body::Commit { view, height, digest }));
        }
        machine.step(Millis(now), Input::Executed { height, checkpoint: None, ordered: None });
    }
    assert_eq!(machine.status().committed, Height(blocks_ms.len() as u64));
    machine.linger_ms()
}

#[test]
fn what_goes_out_lingers_for_half_of_what_a_commit_takes_within_bounds() {
    assert_eq!(lingers_after(&[]), 2, "what is configured, before anything is known");
    assert_eq!(lingers_after(&[1; 40]), 2);
    assert!((9..=10).contains(&lingers_after(&[20; 60])));
    assert_eq!(lingers_after(&[150; 60]), 20);
    let one_late = [[10; 30].as_slice(), &[900]].concat();
    assert!(
        (10..20).contains(&lingers_after(&one_late)),
        "one that was held up counts as one that took long, and no more"
    );
}
