//! A seat that changes hands: the new holder goes on from the log, and from nothing else. The names are those of the traps.

use standin_ledger::CommitCertificate;

use super::*;
use crate::messages::Place;

/// The records that a machine has logged so far.
fn logged(effects: &[Effect], log: &mut Vec<(u64, Record)>) {
    for effect in effects {
        if let Effect::Log { lsn, record } = effect {
            log.push((*lsn, record.clone()));
        }
    }
}

/// A node of the same seat that has followed these records, and now speaks for the seat.
fn successor(seat: u16, log: &[(u64, Record)]) -> (Machine, Vec<Effect>) {
    let parameters = Parameters { checkpoint_interval: 4, window: 8, ..Parameters::default() };
    let identity = Identity { seat: Seat(seat), seats: Seats::first(4), parameters };
    let mut shadow = Machine::shadow(identity, Config::default(), Millis(0));
    for (lsn, record) in log {
        let effects = shadow.step(Millis(5), Input::Followed { lsn: *lsn, record: Some(record.clone()) });
        assert!(sent(&effects).is_empty(), "a shadow says nothing");
    }
    let effects = shadow.step(Millis(6), Input::Activated);
    (shadow, effects)
}

fn bodies(effects: &[Effect]) -> Vec<Body> {
    sent(effects).into_iter().map(|(body, _)| body.clone()).collect()
}

/// Seat 1 has prepared slot 1 with seats 0 and 2, and logged it.
fn prepared() -> (Machine, Vec<(u64, Record)>) {
    let (mut holder, mut log) = (machine(1), Vec::new());
    let digest = proposal(1, 1).digest();
    let prepare = Body::Prepare { view: View(0), height: Height(1), digest };
    for input in [
        arrives(1),
        said(0, Body::PrePrepare { view: View(0), proposal: proposal(1, 1) }),
        said(1, prepare.clone()),
        said(2, prepare),
    ] {
        logged(&holder.step(Millis(1), input), &mut log);
    }
    assert!(log.iter().any(|(_, record)| matches!(record, Record::Prepared(_))));
    (holder, log)
}

#[test]
fn t1_a_new_holder_repeats_the_vote_and_casts_no_other() {
    let (mut holder, mut log) = (machine(1), Vec::new());
    logged(&holder.step(Millis(1), arrives(1)), &mut log);
    let effects = holder.step(Millis(1), said(0, Body::PrePrepare { view: View(0), proposal: proposal(1, 1) }));
    logged(&effects, &mut log);
    let (mut next, effects) = successor(1, &log);
    let vote = Body::Prepare { view: View(0), height: Height(1), digest: proposal(1, 1).digest() };
    assert!(bodies(&effects).contains(&vote));
    next.step(Millis(7), arrives(2));
    let other = next.step(Millis(7), said(0, Body::PrePrepare { view: View(0), proposal: proposal(1, 2) }));
    assert!(sent(&other).is_empty(), "the slot is taken");
}

#[test]
fn t2_what_the_old_holder_had_prepared_is_in_the_new_ones_view_change() {
    let (_, log) = prepared();
    let (mut next, effects) = successor(1, &log);
    assert!(bodies(&effects).iter().any(|body| matches!(body, Body::Commit { height: Height(1), .. })));
    for seat in [2, 3] {
        let body = crate::messages::ViewChange { view: View(1), stable: None, prepared: Vec::new() };
        let effects = next.step(Millis(8), said(seat, Body::ViewChange(body)));
        for body in bodies(&effects) {
            if let Body::ViewChange(body) = body {
                assert_eq!(body.prepared.len(), 1, "nothing that may be final is forgotten");
                return;
            }
        }
    }
    panic!("it never joined");
}

#[test]
fn t3_a_view_that_the_old_holder_left_stays_left() {
    let (mut holder, mut log) = prepared();
    for seat in [2, 3] {
        let body = crate::messages::ViewChange { view: View(1), stable: None, prepared: Vec::new() };
        logged(&holder.step(Millis(2), said(seat, Body::ViewChange(body))), &mut log);
    }
    assert!(log.iter().any(|(_, record)| matches!(record, Record::ViewChange(_))));
    let (mut next, effects) = successor(1, &log);
    assert!(bodies(&effects).iter().all(|body| matches!(body, Body::ViewChange(_))), "no vote in view 0 any more");
    next.step(Millis(9), arrives(2));
    let late = next.step(Millis(9), said(0, Body::PrePrepare { view: View(0), proposal: proposal(2, 2) }));
    assert!(sent(&late).is_empty());
}

#[test]
fn t4_a_new_holder_of_the_primary_assigns_what_was_assigned() {
    let (mut primary, mut log) = (machine(0), Vec::new());
    let effects = primary.step(Millis(1), arrives(1));
    logged(&effects, &mut log);
    let first = bodies(&effects).into_iter().find(|body| matches!(body, Body::PrePrepare { .. }));
    let (mut next, effects) = successor(0, &log);
    assert_eq!(bodies(&effects).into_iter().find(|body| matches!(body, Body::PrePrepare { .. })), first);
    let more = next.step(Millis(60), arrives(2));
    let heights: Vec<_> = bodies(&more)
        .iter()
        .filter_map(|body| if let Body::PrePrepare { proposal, .. } = body { Some(proposal.height.0) } else { None })
        .collect();
    assert!(heights.iter().all(|height| *height == 2), "the next slot: {heights:?}");
}

#[test]
fn t5_a_checkpoint_vote_of_the_old_holder_is_not_contradicted() {
    let result = |root: &[u8]| CheckpointResult {
        height: Height(4),
        block_hash: Digest::ZERO,
        state_root: Digest::sha256(root),
        receipts_root: Digest::ZERO,
    };
    let log = vec![(1, Record::Checkpoint(result(b"x")))];
    let (mut next, effects) = successor(1, &log);
    assert_eq!(bodies(&effects), [Body::Checkpoint(result(b"x"))]);
    next.step(Millis(7), Input::Executed { height: Height(4), checkpoint: Some(result(b"y")), ordered: None });
    let effects = next.step(Millis(7), Input::ResultAgreed(Height(4)));
    assert!(sent(&effects).is_empty());
    assert!(matches!(events(&effects).first(), Some(Event::Disputed { .. })));
}

fn under(term: u64, start: u64, lsn: u64, seat: u16, body: Body) -> Input {
    let writer = Writer { term: Term(term), incarnation: standin_foundation::Incarnation(1) };
    let signer = KeySigner { writer, start, ..signer(seat) };
    Input::MessageReceived(sign(&signer, Epoch(0), body, lsn))
}

/// T9 and V3: votes of one seat under two terms are one vote; votes of several terms make a certificate together.
#[test]
fn t9_votes_count_by_seat_whatever_their_terms() {
    let mut machine = machine(1);
    machine.step(Millis(1), arrives(1));
    machine.step(Millis(1), under(1, 0, 5, 0, Body::PrePrepare { view: View(0), proposal: proposal(1, 1) }));
    let prepare = Body::Prepare { view: View(0), height: Height(1), digest: proposal(1, 1).digest() };
    machine.step(Millis(1), under(1, 0, 9, 2, prepare.clone()));
    let twice = machine.step(Millis(1), under(2, 9, 9, 2, prepare.clone()));
    assert!(sent(&twice).is_empty(), "two of three seats");
    assert!(events(&twice).is_empty(), "a vote that is sent again is no contradiction (V2)");
    let third = machine.step(Millis(1), under(7, 0, 3, 3, prepare));
    let certificate = third.iter().find_map(|effect| match effect {
        Effect::Log { record: Record::Prepared(certificate), .. } => Some(certificate.clone()),
        _ => None,
    });
    let terms: Vec<_> = certificate.unwrap().votes.iter().map(|vote| vote.term.0).collect();
    assert_eq!(terms, [1, 1, 7]);
}

#[test]
fn v2_a_second_different_vote_is_evidence_and_the_first_counts() {
    let mut machine = machine(1);
    let vote = |name: &[u8]| Body::Prepare { view: View(0), height: Height(1), digest: Digest::sha256(name) };
    machine.step(Millis(1), under(1, 0, 5, 2, vote(b"one")));
    let effects = machine.step(Millis(1), under(2, 5, 6, 2, vote(b"other")));
    let evidence = events(&effects).into_iter().find_map(|event| match event {
        Event::Equivocation { seat: Seat(2), evidence } => Some(evidence.clone()),
        _ => None,
    });
    let terms = evidence.unwrap().iter().map(|(_, vote)| vote.term.0).collect::<Vec<_>>();
    assert_eq!(terms, [1, 2], "it names the holder of each term");
}

/// A design that looks right and is not: whoever has no log waits for a stable checkpoint above all that its predecessor may have voted
/// for, and then votes in the same view numbering. Slots are fine by then, views are not: here the predecessor has left view 0 for
/// view 1, so that view 1 may begin without what a quorum in view 0, this seat in it, makes final later. A holder goes on from the log and
/// does not vote in view 0 any more; who has none is let in with a new epoch only, where views begin anew.
#[test]
fn design_2_to_wait_for_a_checkpoint_does_not_stand_for_the_log() {
    let (mut holder, mut log) = prepared();
    for seat in [2, 3] {
        let body = crate::messages::ViewChange { view: View(1), stable: None, prepared: Vec::new() };
        logged(&holder.step(Millis(2), said(seat, Body::ViewChange(body))), &mut log);
    }
    let after = Proposal { view: View(0), ..proposal(5, 5) };
    let votes_in_view_0 = |log: &[(u64, Record)]| {
        let (mut next, _) = successor(1, log);
        next.step(Millis(7), arrives(5));
        next.step(Millis(7), stable_at(4));
        next.step(Millis(7), Input::Executed { height: Height(4), checkpoint: None, ordered: None });
        let effects = next.step(Millis(8), said(0, Body::PrePrepare { view: View(0), proposal: after.clone() }));
        bodies(&effects).iter().any(|body| matches!(body, Body::Prepare { view: View(0), .. }))
    };
    assert!(votes_in_view_0(&[]), "it would, behind the checkpoint: the word given for view 1 is broken");
    assert!(!votes_in_view_0(&log));
}

/// A proven checkpoint.
fn stable_at(height: u64) -> Input {
    let result = CheckpointResult {
        height: Height(height),
        block_hash: Digest::sha256(b"block"),
        state_root: Digest::sha256(b"state"),
        receipts_root: Digest::ZERO,
    };
    let vote = |seat| SeatVote { seat: Seat(seat), term: Term(0), signature: Signature([1; 64]) };
    let certificate = CheckpointCertificate { epoch: Epoch(0), result, votes: [0, 2, 3].map(vote).to_vec() };
    Input::StableReceived(Verifier { authority: Anyone(Term(0)), window: 8 }.checkpoint(certificate).unwrap())
}

/// L9 and T13: a writer whose log begins below what its seat has said is not counted.
#[test]
fn l9_t13_a_log_that_has_lost_its_end_is_not_counted() {
    let mut machine = machine(1);
    machine.step(Millis(1), arrives(1));
    machine.step(Millis(1), under(1, 0, 40, 0, Body::PrePrepare { view: View(0), proposal: proposal(1, 1) }));
    machine
        .step(Millis(1), under(1, 0, 9, 3, Body::Prepare { view: View(0), height: Height(9), digest: Digest::ZERO }));
    let rolled_back = machine.step(
        Millis(2),
        under(
            2,
            39,
            39,
            0,
            Body::Checkpoint(CheckpointResult {
                height: Height(4),
                block_hash: Digest::ZERO,
                state_root: Digest::ZERO,
                receipts_root: Digest::ZERO,
            }),
        ),
    );
    assert!(matches!(events(&rolled_back)[..], [Event::RolledBack { seat: Seat(0), start: 39, seen: 40 }]));
    let prepare = Body::Prepare { view: View(0), height: Height(1), digest: proposal(1, 1).digest() };
    machine.step(Millis(2), under(2, 9, 9, 3, prepare));
    let sound =
        machine.step(Millis(2), under(3, 40, 41, 0, Body::PrePrepare { view: View(0), proposal: proposal(2, 1) }));
    assert!(events(&sound).is_empty(), "a later writer that goes on from there counts again");
}

/// L9 and T13: an image of a disk from before the seat's last restarts comes to a number of life that others know; they know where that
/// life had begun, too.
#[test]
fn l9_t13_a_life_that_begins_twice_is_not_counted_the_second_time() {
    let mut machine = machine(1);
    machine.step(Millis(1), arrives(1));
    machine.step(Millis(1), under(1, 10, 40, 0, Body::PrePrepare { view: View(0), proposal: proposal(1, 1) }));
    let prepare = Body::Prepare { view: View(0), height: Height(1), digest: proposal(1, 1).digest() };
    machine.step(Millis(1), under(1, 3, 9, 2, prepare.clone()));
    machine.step(Millis(1), under(2, 9, 11, 2, prepare.clone()));
    let vote = Body::Prepare { view: View(0), height: Height(2), digest: Digest::ZERO };
    let image = machine.step(Millis(2), under(1, 2, 9, 2, vote.clone()));
    assert!(matches!(events(&image)[..], [Event::RolledBack { seat: Seat(2), start: 2, seen: 3 }]));
    assert!(events(&machine.step(Millis(2), under(1, 3, 9, 2, vote.clone()))).is_empty(), "late, and of that life");
    let told = machine.step(Millis(3), under(2, 12, 13, 2, vote.clone()));
    assert!(events(&told).is_empty(), "its members had all that was seen of that life");
    let again = machine.step(Millis(4), under(2, 9, 14, 2, vote));
    assert!(matches!(events(&again)[..], [Event::RolledBack { seat: Seat(2), start: 9, seen: 12 }]));
}

/// V1: a live message is taken for the highest known term only; what is passed on is judged by its own.
#[test]
fn v1_a_live_message_of_an_ended_term_is_refused() {
    let verifier = Verifier { authority: Anyone(Term(2)), window: 8 };
    let of = |term| {
        let body = Body::Prepare { view: View(0), height: Height(1), digest: Digest::ZERO };
        let Input::MessageReceived(message) = under(term, 0, 1, 2, body) else { panic!("a message") };
        message.into_inner()
    };
    assert!(matches!(verifier.message(Seat(2), of(1)), Err(crate::verify::VerifyError::OldTerm { .. })));
    assert!(verifier.message(Seat(2), of(2)).is_ok());
    let lies = Signed { place: Place::default(), ..of(2) };
    assert!(verifier.message(Seat(2), lies).is_err(), "its place is of another term than its signature");
}

/// A new holder that has just taken over is told all at once what the one before had been told.
#[test]
fn others_help_a_new_holder_at_its_first_status() {
    let (mut other, _) = prepared();
    other.step(Millis(10), Input::StatusReceived(Seat(3), Status::default()));
    let soon = other.step(Millis(11), Input::StatusReceived(Seat(3), Status::default()));
    assert!(sent(&soon).is_empty(), "an old acquaintance waits");
    other.step(Millis(12), Input::HolderChanged(Seat(3)));
    let helped = other.step(Millis(12), Input::StatusReceived(Seat(3), Status::default()));
    assert_eq!(sent(&helped).len(), 2, "its prepare and its commit");
}

/// What was said while the seat had no holder went to one that is gone: the new one asks for it as soon as it hears how far the
/// others are, once, and not after the patience that a slow message would deserve.
#[test]
fn a_new_holder_asks_at_once_for_what_it_missed() {
    let (_, log) = prepared();
    let (mut next, _) = successor(1, &log);
    let asks = |effects: &[Effect]| {
        let fetch = |effect: &&Effect| matches!(effect, Effect::Tell { note: Note::FetchBlocks { .. }, .. });
        effects.iter().filter(fetch).count()
    };
    assert_eq!(asks(&next.step(Millis(7), Input::Tick)), 0, "it has heard nobody");
    let ahead = Status { committed: Height(3), ..Status::default() };
    assert_eq!(asks(&next.step(Millis(8), Input::StatusReceived(Seat(2), ahead))), 1);
    assert_eq!(asks(&next.step(Millis(9), Input::StatusReceived(Seat(3), ahead))), 0);
    assert_eq!(asks(&next.step(Millis(58), Input::Tick)), 1, "the first does not answer: another is asked soon");
    assert_eq!(asks(&next.step(Millis(100), Input::Tick)), 0, "and then not quite as soon");
    let mut patient = machine(1);
    assert_eq!(asks(&patient.step(Millis(8), Input::StatusReceived(Seat(2), ahead))), 0);
}

/// The new holder of another seat has heard nobody: it is told at once where this one stands.
#[test]
fn a_new_holder_of_another_seat_is_told_where_this_one_stands() {
    let effects = machine(1).step(Millis(7), Input::HolderChanged(Seat(2)));
    let told = |effect: &Effect| matches!(effect, Effect::Tell { to: Recipient::One(Seat(2)), note: Note::Status(_) });
    assert!(effects.iter().any(told), "{effects:?}");
}

/// L9: what is sent anew in a new term is said to stand behind all that the log held when the term began, so it waits for all of it.
#[test]
fn l9_what_is_sent_anew_in_a_new_term_waits_for_the_whole_log() {
    let mut machine = machine(1);
    machine.step(Millis(1), arrives(1));
    let voted = machine.step(Millis(1), said(0, Body::PrePrepare { view: View(0), proposal: proposal(1, 1) }));
    let vote = sent(&voted)[0].1;
    let late = machine.step(Millis(2), arrives(2));
    let last = late.iter().find_map(|effect| match effect {
        Effect::Log { lsn, .. } => Some(*lsn),
        _ => None,
    });
    assert!(last > Some(vote), "a payload came after the vote");
    let again = machine.step(Millis(3), Input::Rebased);
    assert_eq!(sent(&again).iter().map(|(_, after)| Some(*after)).collect::<Vec<_>>(), [last]);
}

/// What it was told may have come while it still followed: it is told again when it says where it stands itself, once.
#[test]
fn a_new_holder_of_another_seat_is_told_again_when_it_speaks() {
    let mut other = machine(1);
    let answers = |effects: &[Effect]| {
        let told =
            |effect: &&Effect| matches!(effect, Effect::Tell { to: Recipient::One(Seat(2)), note: Note::Status(_) });
        effects.iter().filter(told).count()
    };
    let mut hear = |at, input| answers(&other.step(Millis(at), input));
    let status = || Input::StatusReceived(Seat(2), Status::default());
    assert_eq!([hear(7, status()), hear(8, status())], [1, 0], "an old acquaintance");
    assert_eq!(hear(9, Input::HolderChanged(Seat(2))), 1);
    assert_eq!([hear(10, status()), hear(11, status())], [1, 0]);
}

/// Its first word may come before the grant that makes it count: it says again where it stands to whoever tells it the same.
#[test]
fn a_new_holder_answers_the_first_status_of_each_seat() {
    let (_, log) = prepared();
    let (mut next, _) = successor(1, &log);
    let answers = |effects: &[Effect]| {
        let told = |effect: &&Effect| matches!(effect, Effect::Tell { to: Recipient::One(_), note: Note::Status(_) });
        effects.iter().filter(told).count()
    };
    let mut hear = |seat| answers(&next.step(Millis(8), Input::StatusReceived(Seat(seat), Status::default())));
    assert_eq!([hear(2), hear(3), hear(2)], [1, 1, 0]);
}

/// Whoever was waited for shortly may answer yet: that is no reason to ask for a snapshot in the place of a few blocks.
#[test]
fn a_new_holder_that_waits_shortly_still_asks_for_blocks() {
    let (_, log) = prepared();
    let (mut next, _) = successor(1, &log);
    let ahead = Status { committed: Height(3), stable: Height(3), ..Status::default() };
    let mut effects = next.step(Millis(8), Input::StatusReceived(Seat(2), ahead));
    for at in [58, 158, 358, 758] {
        effects.extend(next.step(Millis(at), Input::Tick));
    }
    let told = |wanted: fn(&Note) -> bool| {
        effects.iter().filter(|effect| matches!(effect, Effect::Tell { note, .. } if wanted(note))).count()
    };
    assert_eq!(told(|note| matches!(note, Note::FetchManifest)), 0);
    assert_eq!(told(|note| matches!(note, Note::FetchBlocks { .. })), 5);
}

/// A block that this node has executed and that is not in its seat's log would be lost with the power.
#[test]
fn a_new_holder_logs_the_final_blocks_that_the_log_does_not_have() {
    let block = proposal(1, 1);
    let certificate = CommitCertificate {
        epoch: Epoch(0),
        view: View(0),
        height: Height(1),
        digest: block.digest(),
        votes: Vec::new(),
    };
    let blocks = vec![(block.clone(), certificate.clone())];
    let remains = Remains { blocks, executed: Height(1), next_lsn: 1, ..Remains::default() };
    let parameters = Parameters { checkpoint_interval: 4, window: 8, ..Parameters::default() };
    let identity = Identity { seat: Seat(1), seats: Seats::first(4), parameters };
    let mut next = Machine::restore(identity, Config::default(), Millis(0), remains, |_| true);
    let mut log = Vec::new();
    logged(&next.step(Millis(1), Input::Activated), &mut log);
    let expected = [Record::Batch(batch(1)), Record::Committed { proposal: block, certificate }];
    assert_eq!(log.into_iter().map(|(_, record)| record).collect::<Vec<_>>(), expected);
}

/// What waits and stands before the place where the log was cut is not in the log any more: to propose it by name would leave
/// nobody with its payload.
#[test]
fn a_shadow_forgets_what_its_holder_did_not_write_once_more() {
    let records = [
        (1, Record::Batch(batch(1))),
        (2, Record::Batch(batch(2))),
        (3, Record::Batch(batch(2))),
        (4, Record::Base { from: 3, stable: Height(0) }),
    ];
    let (next, _) = successor(1, &records);
    assert!(next.needs_payload(&batch(2).digest()) && !next.needs_payload(&batch(1).digest()));
}
