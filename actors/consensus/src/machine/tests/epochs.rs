//! Reconfiguration by the chain, as one replica sees it. The names are those of the rules.

use standin_ledger::EpochStart;

use super::*;
use crate::messages::ViewChange;

const NEXT: EpochStart = EpochStart { epoch: Epoch(1), after: Height(4), seats: Seats::first(4) };

fn result() -> CheckpointResult {
    CheckpointResult {
        height: Height(4),
        block_hash: Digest::sha256(b"block"),
        state_root: Digest::sha256(b"state"),
        receipts_root: Digest::ZERO,
    }
}

/// The boundary's certificate, of the epoch that ends with it.
fn stable() -> Input {
    let vote = |seat| SeatVote { seat: Seat(seat), term: Term(0), signature: Signature([1; 64]) };
    let certificate = CheckpointCertificate { epoch: Epoch(0), result: result(), votes: (0..3).map(vote).collect() };
    Input::StableReceived(Verifier { authority: Anyone(Term(0)), window: 8 }.checkpoint(certificate).unwrap())
}

fn said_in(epoch: u64, seat: u16, body: Body) -> Input {
    Input::MessageReceived(sign(&signer(seat), Epoch(epoch), body, 0))
}

fn pre_prepare(epoch: u64, height: u64, nonce: u64) -> Input {
    let proposal = Proposal { epoch: Epoch(epoch), ..proposal(height, nonce) };
    said_in(epoch, 0, Body::PrePrepare { view: View(0), proposal })
}

/// A replica that has executed an order which takes effect above block 4.
fn ordered(seat: u16) -> Machine {
    ordered_as(seat, NEXT)
}

fn ordered_as(seat: u16, next: EpochStart) -> Machine {
    let mut machine = machine(seat);
    for nonce in 1..9 {
        machine.step(Millis(1), arrives(nonce));
    }
    machine.step(Millis(1), Input::Executed { height: Height(1), checkpoint: None, ordered: Some(next) });
    machine
}

fn executes_the_boundary(machine: &mut Machine) -> Vec<Effect> {
    let mut effects = Vec::new();
    for height in 2..=4 {
        let (height, checkpoint) = (Height(height), (height == 4).then(result));
        effects.extend(machine.step(Millis(2), Input::Executed { height, checkpoint, ordered: Some(NEXT) }));
    }
    effects
}

/// A replica in the epoch that was ordered.
fn begun(seat: u16) -> (Machine, Vec<Effect>) {
    begun_as(seat, NEXT)
}

fn begun_as(seat: u16, next: EpochStart) -> (Machine, Vec<Effect>) {
    let mut machine = ordered_as(seat, next);
    let mut effects = executes_the_boundary(&mut machine);
    effects.extend(machine.step(Millis(3), stable()));
    assert_eq!(machine.epoch(), Epoch(0), "its table must be durable first");
    effects.extend(machine.step(Millis(3), Input::EpochKnown(Epoch(1))));
    (machine, effects)
}

#[test]
fn e1_nobody_votes_beyond_the_boundary() {
    let mut machine = ordered(1);
    assert_eq!(sent(&machine.step(Millis(1), pre_prepare(0, 4, 4))).len(), 1);
    assert!(sent(&machine.step(Millis(1), pre_prepare(0, 5, 5))).is_empty());
    // The primary proposes up to there, with nothing in it if nothing waits, and no further.
    let mut primary = ordered(0);
    let mut proposed = Vec::new();
    for now in 10..200 {
        for (body, _) in sent(&primary.step(Millis(now), Input::Tick)) {
            if let Body::PrePrepare { proposal, .. } = body {
                proposed.push(proposal.height.0);
            }
        }
    }
    assert!(proposed.iter().all(|height| *height <= 4), "{proposed:?}");
}

/// A design that looks right and is not: what was ordered at block 1 takes effect at the next checkpoint, 4, and not a window behind it. A
/// correct replica that has not executed the order yet votes for what lies beyond that, and no further than a window above what it
/// has executed: so that is where the boundary stands.
#[test]
fn design_5_a_boundary_at_the_next_checkpoint_is_too_close() {
    let mut behind = machine(1);
    for nonce in 1..10 {
        behind.step(Millis(1), arrives(nonce));
    }
    let votes: Vec<_> =
        (1..12).filter(|height| !sent(&behind.step(Millis(1), pre_prepare(0, *height, *height))).is_empty()).collect();
    assert_eq!(votes.last(), Some(&8), "beyond 4, and a window above block 0");
}

/// Others wait for an epoch to begin although nobody has anything to say: the way to the boundary is filled with empty blocks.
#[test]
fn e1_the_way_to_the_boundary_is_filled_without_being_asked() {
    let mut primary = machine(0);
    let effects = primary.step(Millis(1), Input::Executed { height: Height(1), checkpoint: None, ordered: Some(NEXT) });
    let proposals: Vec<_> = sent(&effects)
        .into_iter()
        .filter_map(|(body, _)| if let Body::PrePrepare { proposal, .. } = body { Some(proposal) } else { None })
        .collect();
    assert!(
        !proposals.is_empty() && proposals.iter().all(|proposal| proposal.batches.is_empty() && !proposal.checkpoint)
    );
    let Some(first) = proposals.first() else { return };
    let mut backup = machine(1);
    let taken = backup.step(Millis(1), said(0, Body::PrePrepare { view: View(0), proposal: (*first).clone() }));
    assert_eq!(sent(&taken).len(), 1, "also by a replica that has not executed the order");
}

#[test]
fn e1_views_and_vote_logs_start_empty_in_the_new_epoch() {
    let mut machine = ordered(1);
    machine.step(Millis(1), pre_prepare(0, 4, 4));
    for seat in [2, 3] {
        let body = ViewChange { view: View(1), stable: None, prepared: Vec::new() };
        machine.step(Millis(1), said(seat, Body::ViewChange(body)));
    }
    assert_eq!(machine.status().changing_to, Some(View(1)));
    executes_the_boundary(&mut machine);
    machine.step(Millis(3), stable());
    let effects = machine.step(Millis(3), Input::EpochKnown(Epoch(1)));
    assert!(events(&effects).contains(&&Event::EpochBegan(NEXT)));
    let status = machine.status();
    assert_eq!((status.epoch, status.view, status.changing_to), (Epoch(1), View(0), None));
    let first =
        effects.iter().find_map(|effect| if let Effect::Log { record, .. } = effect { Some(record) } else { None });
    assert_eq!(first, Some(&Record::Epoch(NEXT)), "the log says which epoch the records behind it are of");
    let vote = machine.step(Millis(4), pre_prepare(1, 5, 5));
    assert!(matches!(sent(&vote)[..], [(Body::Prepare { height: Height(5), .. }, _)]));
    assert!(vote.iter().any(|effect| matches!(effect, Effect::Send { epoch: Epoch(1), .. })));
}

/// Quorums of an epoch are counted by its own seats, and they take turns by their numbers.
#[test]
fn e1_a_quorum_is_one_of_the_epochs_own_seats() {
    let prepared = |next: EpochStart, voters: &[u16]| {
        let (mut machine, _) = begun_as(1, next);
        let digest = Proposal { epoch: Epoch(1), ..proposal(5, 5) }.digest();
        let mut effects = machine.step(Millis(4), pre_prepare(1, 5, 5));
        for seat in voters {
            let body = Body::Prepare { view: View(0), height: Height(5), digest };
            effects.extend(machine.step(Millis(4), said_in(1, *seat, body)));
        }
        let is_commit = |effect: &Effect| matches!(effect, Effect::Send { body: Body::Commit { .. }, .. });
        effects.iter().any(is_commit)
    };
    let three: Seats = [0, 1, 3].map(Seat).into_iter().collect();
    assert!(prepared(EpochStart { seats: three, ..NEXT }, &[1]), "two of three");
    assert!(!prepared(NEXT, &[1]) && prepared(NEXT, &[1, 2]), "three of four");
    let five = EpochStart { seats: Seats::first(5), ..NEXT };
    assert!(!prepared(five, &[1, 2]) && prepared(five, &[1, 2, 4]), "four of five");
    let (machine, _) = begun_as(1, EpochStart { seats: three, ..NEXT });
    assert_eq!((machine.primary(), primary_of(View(2), three)), (Seat(0), Seat(3)));
}

/// A cluster that the chain has removed says so in its log, and nothing more.
#[test]
fn e1_a_seat_that_was_removed_stands_still() {
    let next = EpochStart { seats: [0, 2, 3].map(Seat).into_iter().collect(), ..NEXT };
    let (mut machine, effects) = begun_as(1, next);
    assert!(events(&effects).contains(&&Event::Removed(next)) && machine.is_halted());
    let logged = |effect: &Effect| matches!(effect, Effect::Log { record: Record::Epoch(start), .. } if *start == next);
    assert!(effects.iter().any(logged), "those who follow it find out");
    assert!(machine.step(Millis(4), pre_prepare(1, 5, 5)).is_empty());
    let remains = Remains { records: vec![(1, Record::Epoch(next))], next_lsn: 2, ..Remains::default() };
    let parameters = Parameters { checkpoint_interval: 4, window: 8, ..Parameters::default() };
    let identity = Identity { seat: Seat(1), seats: Seats::first(4), parameters };
    assert!(Machine::restore(identity, Config::default(), Millis(9), remains, |_| true).is_halted());
    // Who was removed and does not know is told so, and who comes in a later epoch has the proof of the next one.
    let mut other = begun_as(2, next).0;
    let effects = other.step(Millis(4), Input::StatusReceived(Seat(1), Status::default()));
    let told = |effect: &Effect| matches!(effect, Effect::Tell { to: Recipient::One(Seat(1)), note: Note::Status(status) } if status.epoch == Epoch(1));
    assert!(effects.iter().any(told) && !other.statuses().contains_key(&Seat(1)));
    let mut late = ordered_as(2, next);
    let status = Status { epoch: Epoch(1), ..Status::default() };
    let asks = |effect: &Effect| matches!(effect, Effect::Tell { note: Note::FetchEpoch(Epoch(1)), .. });
    assert!(late.step(Millis(4), Input::StatusReceived(Seat(4), status)).iter().any(asks));
}

#[test]
fn e1_votes_and_view_changes_of_another_epoch_are_void() {
    let (mut machine, _) = begun(1);
    machine.step(Millis(4), pre_prepare(1, 5, 5));
    let digest = Proposal { epoch: Epoch(1), ..proposal(5, 5) }.digest();
    let prepare = |epoch, seat| said_in(epoch, seat, Body::Prepare { view: View(0), height: Height(5), digest });
    for seat in [1, 2, 3] {
        assert!(sent(&machine.step(Millis(4), prepare(0, seat))).is_empty());
        let body = ViewChange { view: View(1), stable: None, prepared: Vec::new() };
        machine.step(Millis(4), said_in(0, seat, Body::ViewChange(body)));
    }
    assert_eq!(machine.status().changing_to, None);
    machine.step(Millis(4), prepare(1, 1));
    let prepared = machine.step(Millis(4), prepare(1, 2));
    assert!(matches!(sent(&prepared)[..], [(Body::Commit { .. }, _)]));
}

/// Whoever is first says more in the new epoch before the others are there.
#[test]
fn e1_what_comes_early_is_kept_until_the_epoch_begins() {
    let mut machine = ordered(1);
    assert!(sent(&machine.step(Millis(1), pre_prepare(1, 5, 5))).is_empty());
    executes_the_boundary(&mut machine);
    machine.step(Millis(3), stable());
    let effects = machine.step(Millis(3), Input::EpochKnown(Epoch(1)));
    assert!(matches!(sent(&effects)[..], [(Body::Prepare { height: Height(5), .. }, _)]));
}

/// A seat that is behind asks for the proof, and helps nobody with votes of its own epoch.
#[test]
fn e1_a_seat_in_a_later_epoch_is_asked_for_the_proof() {
    let mut machine = machine(1);
    let later = Status { epoch: Epoch(2), ..Status::default() };
    let effects = machine.step(Millis(1), Input::StatusReceived(Seat(2), later));
    let asks = |effect: &Effect| matches!(effect, Effect::Tell { note: Note::FetchEpoch(Epoch(1)), .. });
    assert!(effects.iter().any(asks), "{effects:?}");
}

/// A new holder may know a checkpoint to be stable that it has not executed: an order may stand in what it lacks.
#[test]
fn e1_a_holder_that_is_behind_votes_no_further_than_a_window_above_what_it_has_executed() {
    let parameters = Parameters { checkpoint_interval: 4, window: 8, ..Parameters::default() };
    let identity = Identity { seat: Seat(1), seats: Seats::first(4), parameters };
    let mut next = Machine::shadow(identity, Config::default(), Millis(0));
    let Input::StableReceived(certificate) = stable() else { return };
    next.step(Millis(1), Input::Followed { lsn: 1, record: Some(Record::Stable(certificate.into_inner())) });
    next.step(Millis(1), Input::Activated);
    assert_eq!((next.stable(), next.executed()), (Height(4), Height(0)));
    next.step(Millis(1), arrives(7));
    assert_eq!(sent(&next.step(Millis(1), pre_prepare(0, 8, 7))).len(), 1);
    assert!(sent(&next.step(Millis(1), pre_prepare(0, 9, 7))).is_empty(), "within the window above the checkpoint");
    let caught_up = next.step(Millis(2), Input::Executed { height: Height(1), checkpoint: None, ordered: None });
    assert!(matches!(sent(&caught_up)[..], [(Body::Prepare { height: Height(9), .. }, _)]));
}

/// The log alone brings a replica back into its epoch, and what stands before the epoch's record binds nobody.
#[test]
fn e1_a_restart_goes_on_in_the_epoch_of_the_log() {
    let (mut machine, mut effects) = begun(1);
    effects.extend(machine.step(Millis(4), pre_prepare(1, 5, 5)));
    let mut records = vec![(1, Record::Batch(batch(5)))];
    let old = ViewChange { view: View(3), stable: None, prepared: Vec::new() };
    records.push((2, Record::ViewChange(old)));
    records.extend(effects.into_iter().filter_map(|effect| match effect {
        Effect::Log { lsn, record } => Some((lsn + 2, record)),
        _ => None,
    }));
    let next_lsn = records.len() as u64 + 1;
    let remains = Remains { records, executed: Height(4), known: Epoch(1), next_lsn, ..Remains::default() };
    let parameters = Parameters { checkpoint_interval: 4, window: 8, ..Parameters::default() };
    let identity = Identity { seat: Seat(1), seats: Seats::first(4), parameters };
    let mut again = Machine::restore(identity, Config::default(), Millis(9), remains, |_| true);
    assert_eq!((again.epoch(), again.status().view, again.status().changing_to), (Epoch(1), View(0), None));
    let said = again.step(Millis(9), Input::Activated);
    let repeats = |effect: &Effect| {
        matches!(effect, Effect::Send { epoch: Epoch(1), body: Body::Prepare { height: Height(5), .. }, .. })
    };
    assert!(said.iter().any(repeats), "{said:?}");
}

/// Results of the next epoch may be agreed on before it has begun here: they are voted for in it, and stand behind its record.
#[test]
fn e1_a_result_beyond_the_boundary_is_voted_for_when_its_epoch_has_begun() {
    let mut machine = ordered(1);
    executes_the_boundary(&mut machine);
    let beyond = CheckpointResult { height: Height(8), ..result() };
    for height in 5..=8 {
        let (height, checkpoint) = (Height(height), (height == 8).then_some(beyond));
        machine.step(Millis(2), Input::Executed { height, checkpoint, ordered: None });
    }
    assert!(sent(&machine.step(Millis(2), Input::ResultAgreed(Height(8)))).is_empty());
    machine.step(Millis(3), stable());
    let effects = machine.step(Millis(3), Input::EpochKnown(Epoch(1)));
    let logged: Vec<_> = effects
        .iter()
        .filter_map(|effect| if let Effect::Log { record, .. } = effect { Some(record) } else { None })
        .collect();
    assert_eq!(logged, [&Record::Epoch(NEXT), &Record::Checkpoint(beyond)]);
    assert!(matches!(sent(&effects)[..], [(Body::Checkpoint(said), _)] if *said == beyond));
    let late = machine.step(Millis(4), Input::ResultAgreed(Height(4)));
    assert!(sent(&late).is_empty(), "nothing is said in an epoch about a block of the one before");
}

/// A checkpoint that came with a snapshot is not in the log: those who follow it need it as much as the votes above it.
#[test]
fn l1_a_new_holder_logs_the_stable_checkpoint_that_its_log_does_not_have() {
    let Input::StableReceived(certificate) = stable() else { return };
    let base = Some(certificate.into_inner());
    let remains = Remains { base: base.clone(), executed: Height(4), next_lsn: 1, ..Remains::default() };
    let parameters = Parameters { checkpoint_interval: 4, window: 8, ..Parameters::default() };
    let identity = Identity { seat: Seat(1), seats: Seats::first(4), parameters };
    let mut next = Machine::restore(identity, Config::default(), Millis(0), remains, |_| true);
    let effects = next.step(Millis(1), Input::Activated);
    let logged = effects
        .iter()
        .find_map(|effect| if let Effect::Log { record, .. } = effect { Some(record.clone()) } else { None });
    assert_eq!(logged, base.map(Record::Stable));
    let followed =
        Remains { records: vec![(1, logged.unwrap())], executed: Height(4), next_lsn: 2, ..Remains::default() };
    let mut again = Machine::restore(identity, Config::default(), Millis(0), followed, |_| true);
    let effects = again.step(Millis(1), Input::Activated);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Log { .. })), "once: {effects:?}");
}
