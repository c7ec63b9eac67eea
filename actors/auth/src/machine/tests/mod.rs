//! The register's rules, one by one; a test's name begins with its rule.

mod split;

use standin_foundation::{Height, PublicKey, Seat, SecretKey};
use standin_ledger::epoch::Base;
use standin_ledger::grant::Cause;
use standin_ledger::{GrantTable, SignedGrant};

use super::*;
use crate::messages::{
    Action, KeepAlive, MemberOrder, Register, RegisterCount, SetChange, SetFault, Update, WrongResult,
};

fn key(n: u8) -> PublicKey {
    SecretKey::from_bytes(&[n; 32]).unwrap().public()
}

fn id(n: u8) -> NodeId {
    key(n).node_id()
}

fn set(nodes: &[u8]) -> BTreeSet<NodeId> {
    nodes.iter().map(|n| id(*n)).collect()
}

fn cluster() -> ClusterId {
    "a".parse().unwrap()
}

/// The table of an epoch in which these clusters hold the seats.
fn table(clusters: &[&str]) -> EpochTable {
    let clusters = clusters.iter().map(|name| name.parse().unwrap()).collect();
    GrantTable::granted(Digest::ZERO, key(99), clusters).newest_table().clone()
}

/// The cluster is named, in this epoch and this life of the register.
fn named(epoch: u64, holder: u8, incarnation: u64) -> (EpochTable, Grant) {
    let mut table = EpochTable { epoch: Epoch(epoch), after: Height(64), ..table(&["a", "b", "c", "d"]) };
    let seat = table.seats.get_mut(&Seat(0)).unwrap();
    let base = Base { holder: key(holder), disk: 5, incarnation: Incarnation(incarnation) };
    (seat.since, seat.base) = (Epoch(epoch), Some(base));
    let base = table.base_grant(&Digest::ZERO, &table.seats[&Seat(0)]).unwrap().grant;
    (table, base)
}

fn started(incarnation: u64, config: Config) -> Auth {
    Auth::new(Digest::ZERO, Incarnation(incarnation), config, table(&["a", "b", "c", "d"]))
}

fn auth() -> Auth {
    started(1, Config { age_max_ms: 1_000, live_ms: 100, ..Config::default() })
}

/// Nodes 1 to 3 are admitted.
fn fresh() -> Record {
    Record::new(cluster(), [key(1), key(2), key(3)])
}

fn register(from: u8, in_sync: &[u8], session: u64) -> Presented {
    present(from, Request::Register(Register { cluster: cluster(), in_sync: set(in_sync), session }))
}

fn update(from: u8, term: u64, in_sync: &[u8], head: Lsn) -> Presented {
    let update = Update {
        cluster: cluster(),
        term: Term(term),
        in_sync: set(in_sync),
        head,
        session: u64::from(from),
        ticket: Default::default(),
        statements: Vec::new(),
    };
    Presented { ticket_opened: Some(cluster()), ..present(from, Request::Update(update)) }
}

fn set_change(from: u8, term: u64, in_sync: &[u8]) -> Presented {
    present(from, Request::SetChange(SetChange { cluster: cluster(), term: Term(term), in_sync: set(in_sync) }))
}

fn keep_alive(from: u8, term: u64, released: Option<Lsn>) -> Presented {
    present(
        from,
        Request::KeepAlive(KeepAlive {
            cluster: cluster(),
            term: Term(term),
            released,
            heard_seats: None,
            register_count: RegisterCount::NONE,
            lacks_ticket: false,
        }),
    )
}

/// Time passes, in which nothing but node 3 is heard of the cluster.
fn pass(auth: &mut Auth, record: &Record, from: u64, to: u64) {
    for at in (from..to).step_by(50) {
        auth.decide(Millis(at), &cluster(), record, &keep_alive(3, record.term().0, None));
    }
}

fn present(from: u8, request: Request) -> Presented {
    Presented::of(id(from), request, 7)
}

fn suspected(by: &[u8], presented: Presented) -> Presented {
    Presented { suspected_by: set(by), ..presented }
}

fn swap(decision: Decision) -> Record {
    match decision {
        Decision::Swap(record) => *record,
        other => panic!("no swap: {other:?}"),
    }
}

fn refusal(decision: Decision) -> Refusal {
    match decision {
        Decision::Refused(refusal) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

/// Node 1 holds term 1 with all three in sync.
fn registered(auth: &mut Auth) -> Record {
    swap(auth.decide(Millis(0), &cluster(), &fresh(), &register(1, &[1, 2, 3], 7)))
}

#[test]
fn g1_every_grant_is_the_next_term_and_names_the_one_before() {
    let mut auth = auth();
    let first = registered(&mut auth);
    let grant = first.grant.clone().unwrap();
    assert_eq!((grant.term, grant.previous, grant.cause), (Term(1), Digest::ZERO, Cause::First));
    let second = swap(auth.decide(Millis(1), &cluster(), &first, &set_change(1, 1, &[1, 2])));
    let shrunk = second.grant.clone().unwrap();
    assert_eq!((shrunk.term, shrunk.previous, shrunk.cause), (Term(2), grant.digest(), Cause::Shrink));
    let third = swap(auth.decide(Millis(2), &cluster(), &second, &set_change(1, 2, &[1, 2, 3])));
    assert_eq!(third.grant.map(|grant| (grant.term, grant.cause)), Some((Term(3), Cause::Grow)));
}

#[test]
fn g1_a_repeated_request_gets_the_grant_that_it_led_to_and_one_for_an_old_term_nothing() {
    let mut auth = auth();
    let record = registered(&mut auth);
    let again = auth.decide(Millis(1), &cluster(), &record, &register(1, &[1, 2, 3], 7));
    assert_eq!(again, Decision::Repeated(record.grant.clone().unwrap()));
    let shrunk = swap(auth.decide(Millis(1), &cluster(), &record, &set_change(1, 1, &[1, 2])));
    let repeated = auth.decide(Millis(2), &cluster(), &shrunk, &set_change(1, 1, &[1, 2]));
    assert_eq!(repeated, Decision::Repeated(shrunk.grant.clone().unwrap()));
    // Two asked for the same term: one was first.
    let late = refusal(auth.decide(Millis(2), &cluster(), &shrunk, &suspected(&[2, 3], update(2, 1, &[2, 3], 0))));
    assert_eq!(late, Refusal::OldTerm { current: Term(2) });
}

#[test]
fn g2_a_cluster_registers_once_and_an_aged_entry_keeps_its_term() {
    let mut auth = auth();
    let record = registered(&mut auth);
    auth.decide(Millis(0), &cluster(), &record, &keep_alive(1, 1, Some(5)));
    assert!(!auth.is_vacant(&cluster(), Millis(1_000)) && auth.is_vacant(&cluster(), Millis(1_001)));
    pass(&mut auth, &record, 0, 5_000);
    let second = refusal(auth.decide(Millis(5_000), &cluster(), &record, &register(2, &[2], 9)));
    assert_eq!(second, Refusal::Registered, "vacant or not, every later holder comes by update");
    let wiped = refusal(auth.decide(Millis(5_000), &cluster(), &record, &register(1, &[1, 2, 3], 8)));
    assert_eq!(wiped, Refusal::Registered, "another session is another log");
    let taken = swap(auth.decide(Millis(5_000), &cluster(), &record, &update(2, 1, &[2, 3], 5)));
    assert_eq!(taken.grant.map(|grant| (grant.term, grant.cause)), Some((Term(2), Cause::Aged)));
}

#[test]
fn g2_the_holders_keep_alive_revives_its_entry_without_a_new_grant() {
    let mut auth = auth();
    let record = registered(&mut auth);
    auth.decide(Millis(0), &cluster(), &record, &keep_alive(1, 1, Some(0)));
    pass(&mut auth, &record, 0, 3_000);
    assert!(auth.is_vacant(&cluster(), Millis(3_000)));
    auth.decide(Millis(3_000), &cluster(), &record, &keep_alive(1, 1, None));
    assert!(auth.is_vacant(&cluster(), Millis(3_000)), "it lives, and cannot speak");
    assert_eq!(auth.decide(Millis(3_000), &cluster(), &record, &keep_alive(1, 1, Some(0))), Decision::Alive);
    assert!(!auth.is_vacant(&cluster(), Millis(3_000)));
}

#[test]
fn g2_an_auth_node_that_starts_gives_every_entry_one_full_age() {
    let mut first = auth();
    let record = registered(&mut first);
    let mut again = started(1, first.config.clone());
    let early = again.decide(Millis(50_100), &cluster(), &record, &update(2, 1, &[2, 3], 0));
    assert!(matches!(refusal(early), Refusal::NoGround { .. }));
    pass(&mut again, &record, 50_100, 51_100);
    let late = again.decide(Millis(51_101), &cluster(), &record, &update(2, 1, &[2, 3], 0));
    assert!(matches!(late, Decision::Swap(_)));
    // As long again nobody asked here, but another auth node with the same register.
    again.decide(Millis(51_102), &cluster(), &record, &keep_alive(1, 1, Some(0)));
    let back = again.decide(Millis(90_000), &cluster(), &record, &update(2, 1, &[2, 3], 0));
    assert!(matches!(refusal(back), Refusal::NoGround { .. }));
}

#[test]
fn g3_a_candidate_lists_itself_and_members_of_the_old_set_and_only_the_holder_adds() {
    let mut auth = auth();
    let record = registered(&mut auth);
    let two = swap(auth.decide(Millis(0), &cluster(), &record, &set_change(1, 1, &[1, 2])));
    let adds = refusal(auth.decide(Millis(9_000), &cluster(), &two, &update(2, 2, &[2, 3], 0)));
    assert_eq!(adds, Refusal::BadSet { why: SetFault::Adds });
    let without = refusal(auth.decide(Millis(9_000), &cluster(), &two, &update(2, 2, &[1], 0)));
    assert_eq!(without, Refusal::BadSet { why: SetFault::WithoutSender });
    let outsider = refusal(auth.decide(Millis(9_000), &cluster(), &two, &update(3, 2, &[3], 0)));
    assert_eq!(outsider, Refusal::NotInSync);
    let stranger = refusal(auth.decide(Millis(0), &cluster(), &two, &set_change(1, 2, &[1, 2, 4])));
    assert_eq!(stranger, Refusal::BadSet { why: SetFault::Stranger });
    let usurper = refusal(auth.decide(Millis(0), &cluster(), &two, &set_change(2, 2, &[2])));
    assert_eq!(usurper, Refusal::NotHolder);
}

#[test]
fn g4_any_front_comes_to_the_same_grant_from_the_same_record() {
    let (mut here, mut there) = (auth(), auth());
    let record = registered(&mut here);
    assert_eq!(record, registered(&mut there));
    let request = set_change(1, 1, &[1, 3]);
    let one = swap(here.decide(Millis(3), &cluster(), &record, &request));
    let other = swap(there.decide(Millis(900), &cluster(), &record, &request));
    let signer = SecretKey::from_bytes(&[9; 32]).unwrap();
    assert_eq!(one.grant.unwrap().sign(&signer), other.grant.unwrap().sign(&signer));
}

#[test]
fn g5_a_register_that_was_brought_back_grants_nothing_before_all_have_said_what_they_know() {
    let mut auth = auth();
    let record = registered(&mut auth);
    let newest = swap(auth.decide(Millis(0), &cluster(), &record, &set_change(1, 1, &[1, 2])));
    let signer = SecretKey::from_bytes(&[9; 32]).unwrap();
    let mut restored = started(2, auth.config.clone());
    let old = Record { recalling: Some(BTreeSet::new()), ..record };
    let waits = refusal(restored.decide(Millis(9_000), &cluster(), &old, &update(2, 1, &[2], 9)));
    assert_eq!(waits, Refusal::Recovering);
    let says = |from, grant: Option<Grant>, promised| {
        let newest = grant.map(|grant| grant.sign(&signer));
        present(from, Request::Recall { cluster: cluster(), newest, membership: None, promised: Incarnation(promised) })
    };
    let one = swap(restored.decide(Millis(0), &cluster(), &old, &says(3, None, 2)));
    let unpromised = restored.decide(Millis(0), &cluster(), &one, &says(2, newest.grant.clone(), 1));
    assert_eq!(unpromised, Decision::Alive, "who has not promised counts for nothing");
    let two = swap(restored.decide(Millis(0), &cluster(), &one, &says(2, newest.grant.clone(), 2)));
    assert!(two.recalling.is_some() && two.term() == Term(2), "it has learned what it had granted");
    let all = swap(restored.decide(Millis(0), &cluster(), &two, &says(1, None, 2)));
    assert_eq!(all.recalling, None);
    let again = all.grant.clone().unwrap();
    assert_eq!((again.term, again.cause, again.incarnation), (Term(3), Cause::Recovered, Incarnation(2)));
    pass(&mut restored, &all, 9_000, 18_000);
    let granted = swap(restored.decide(Millis(18_000), &cluster(), &all, &update(2, 3, &[2], 9))).grant.unwrap();
    assert_eq!((granted.term, granted.incarnation), (Term(4), Incarnation(2)));
}

/// E2: a cluster that the chain has named goes on from there, whatever the register had granted, recalled or ordered; and nothing is
/// granted in an earlier epoch any more.
#[test]
fn e2_a_cluster_that_was_named_goes_on_from_its_base() {
    let mut auth = auth();
    let before = registered(&mut auth);
    let (ordered, base) = named(2, 3, 1);
    auth.begin(&ordered);
    let barred = Record { not_electable: set(&[2, 3]), forced: Some(Term(1)), recalling: Some(set(&[])), ..before };
    let Decision::Named(named) = auth.decide(Millis(0), &cluster(), &barred, &keep_alive(1, 1, Some(7))) else {
        panic!("whoever asks, it goes on from its base");
    };
    assert_eq!((named.grant.clone(), named.forced, named.recalling.clone()), (Some(base.clone()), None, None));
    assert_eq!(named.not_electable, set(&[2]), "whoever ordered it answers for the holder");
    assert_eq!(auth.named(&named), None, "once");
    let grown = swap(auth.decide(Millis(1), &cluster(), &named, &set_change(3, base.term.0, &[1, 3])));
    let grant = grown.grant.clone().unwrap();
    assert_eq!((grant.term, grant.epoch, grant.previous), (base.term.next(), Epoch(2), base.digest()));
    // What the holder before had released was of another log.
    let mut told = started(1, auth.config.clone());
    told.decide(Millis(0), &cluster(), &fresh_granted(), &keep_alive(1, 1, Some(900)));
    pass(&mut told, &grown, 10, 20_000);
    assert!(!matches!(
        told.decide(Millis(20_000), &cluster(), &grown, &update(1, grant.term.0, &[1], 3)),
        Decision::Refused(Refusal::LogTooShort { .. })
    ));
}

/// G5 and E2: a register that was brought back from a copy does not know what an earlier life of it granted upon a base; only what was
/// ordered in its own life it can go on from without asking everyone. A base that nobody knows a grant upon stands as it is.
#[test]
fn g5_what_was_ordered_in_an_earlier_life_of_the_register_ends_no_recall() {
    let (ordered, base) = named(1, 3, 1);
    let old = Record { recalling: Some(set(&[])), ..fresh_granted() };
    let mut restored = started(2, Config::default());
    restored.begin(&ordered);
    let mut record = restored.named(&old).unwrap();
    assert!(record.recalling.is_some());
    let wanted = set_change(3, base.term.0, &[1, 3]);
    assert_eq!(refusal(restored.decide(Millis(0), &cluster(), &record, &wanted)), Refusal::Recovering);
    let newest = Some(SignedGrant { grant: base.clone(), signature: standin_foundation::Signature::NONE });
    for node in 1..=3 {
        let promised = Incarnation(2);
        let says = Request::Recall { cluster: cluster(), newest: newest.clone(), membership: None, promised };
        record = swap(restored.decide(Millis(0), &cluster(), &record, &present(node, says)));
    }
    assert_eq!((record.recalling.clone(), record.grant.as_ref()), (None, Some(&base)));
    assert_eq!(swap(restored.decide(Millis(1), &cluster(), &record, &wanted)).term(), base.term.next());
    // Ordered anew, in this life.
    restored.begin(&named(2, 3, 2).0);
    assert_eq!(restored.named(&old).unwrap().recalling, None);
}

/// E1: a cluster that was added is in the register as it was ordered, and one that was removed gets nothing any more.
#[test]
fn e1_clusters_come_and_go_with_the_chains_orders() {
    let mut auth = auth();
    let before = registered(&mut auth);
    let member = |n| Member { site: "s".to_owned(), address: "h:1".to_owned(), ..Member::from(key(n)) };
    let mut next = EpochTable { epoch: Epoch(1), after: Height(64), ..table(&["a", "b", "c", "d"]) };
    next.seats.remove(&Seat(0));
    let base = Some(Base { holder: key(41), disk: 5, incarnation: Incarnation(1) });
    let (cluster, members) = ("e".parse::<ClusterId>().unwrap(), vec![member(41), member(42)]);
    let added = EpochSeat { cluster: cluster.clone(), members, listed: Epoch(1), since: Epoch(1), base };
    next.seats.insert(Seat(4), added);
    auth.begin(&next);
    let why = refusal(auth.decide(Millis(0), &super::tests::cluster(), &before, &keep_alive(1, 1, Some(7))));
    assert_eq!(why, Refusal::NoSeat { epoch: Epoch(1) });
    let records = auth.ordered_records();
    assert_eq!((records.len(), records[0].admitted.len(), records[0].recalling.as_ref()), (1, 2, None));
    let begun = auth.named(&records[0]).unwrap();
    assert_eq!(begun.grant.as_ref().map(Grant::holder_id), Some(id(41)));
    assert_eq!(begun.membership(Digest::ZERO).order(), (Epoch(1), 0));
    // A register that was brought back from a copy may have lost what it granted to the cluster.
    let restored = Auth::new(Digest::ZERO, Incarnation(2), Config::default(), next.clone());
    assert_eq!(restored.ordered_records()[0].recalling, Some(set(&[])));
    // A cluster that comes back does so with the members of the new order.
    let back = EpochSeat {
        cluster: before.cluster.clone(),
        listed: Epoch(2),
        since: Epoch(2),
        ..next.seats[&Seat(4)].clone()
    };
    next.seats.insert(Seat(4), back);
    auth.begin(&EpochTable { epoch: Epoch(2), ..next });
    let again = auth.named(&before).unwrap();
    assert_eq!((again.admitted.len(), again.listed, again.membership_version), (2, Epoch(2), 0));
}

/// G5: a register that was brought back from a copy may know less of the chain than those whom it asks. What they know of a later epoch
/// counts when that is proven here, and then those are asked who belong to the cluster by it.
#[test]
fn g5_a_recall_asks_the_members_of_the_newest_order() {
    let old = Record { recalling: Some(set(&[])), ..fresh_granted() };
    let (mut ordered, base) = named(1, 3, 1);
    let seat = ordered.seats.get_mut(&Seat(0)).unwrap();
    (seat.listed, seat.members) = (Epoch(1), vec![Member::from(key(3)), Member::from(key(4))]);
    let mut restored = started(2, Config::default());
    let granted = Grant { term: base.term.next(), cause: Cause::Grow, previous: base.digest(), ..base.clone() };
    let says = |from: u8, newest: &Grant| {
        let newest = Some(SignedGrant { grant: newest.clone(), signature: standin_foundation::Signature::NONE });
        let promised = Incarnation(2);
        present(from, Request::Recall { cluster: cluster(), newest, membership: None, promised })
    };
    let early = restored.decide(Millis(0), &cluster(), &old, &says(3, &granted));
    assert_eq!(early, Decision::Alive, "its epoch is not known here");
    restored.begin(&ordered);
    let mut record = restored.named(&old).unwrap();
    assert_eq!((record.recalling.clone(), record.admitted.len()), (Some(set(&[])), 2));
    record = swap(restored.decide(Millis(1), &cluster(), &record, &says(3, &granted)));
    assert!(record.recalling.is_some(), "node 4 may know more");
    let newer = Grant { term: granted.term.next(), previous: granted.digest(), ..granted.clone() };
    record = swap(restored.decide(Millis(2), &cluster(), &record, &says(4, &newer)));
    let grant = record.grant.unwrap();
    assert_eq!((grant.term, grant.cause, record.recalling), (newer.term.next(), Cause::Recovered, None));
    // A record that got into the later line of grants without its list gets that, too, and is asked again.
    let ahead = Record { grant: Some(granted), recalling: None, ..old };
    let listed = restored.named(&ahead).unwrap();
    assert_eq!((listed.listed, listed.recalling, listed.grant), (Epoch(1), Some(set(&[])), ahead.grant));
}

#[test]
fn g1_no_term_of_another_lineage_is_granted() {
    let mut auth = auth();
    let mut record = registered(&mut auth);
    record.grant.as_mut().unwrap().term = Term(Term::first_of(Epoch(1)).0 - 1);
    let why = refusal(auth.decide(Millis(0), &cluster(), &record, &set_change(1, record.term().0, &[1])));
    assert_eq!(why, Refusal::OutOfTerms);
}

/// A record with node 1 as holder in term 1.
fn fresh_granted() -> Record {
    registered(&mut auth())
}

#[test]
fn g7_who_was_switched_away_from_gets_nothing() {
    let mut auth = auth();
    let mut record = registered(&mut auth);
    (record.forced, record.not_electable) = (Some(Term(1)), set(&[1]));
    let holder = refusal(auth.decide(Millis(0), &cluster(), &record, &set_change(1, 1, &[1])));
    assert_eq!(holder, Refusal::NotElectable);
    let taken = swap(auth.decide(Millis(0), &cluster(), &record, &update(3, 1, &[2, 3], 0)));
    assert_eq!((taken.grant.map(|grant| grant.cause), taken.forced), (Some(Cause::Forced), None));
    let back =
        refusal(auth.decide(Millis(9_000), &cluster(), &Record { forced: None, ..record }, &update(1, 1, &[1], 0)));
    assert_eq!(back, Refusal::NotElectable);
}

#[test]
fn l9_a_candidate_whose_log_is_shorter_than_what_was_released_is_refused() {
    let mut auth = auth();
    let record = registered(&mut auth);
    auth.decide(Millis(0), &cluster(), &record, &keep_alive(1, 1, Some(40)));
    pass(&mut auth, &record, 0, 9_000);
    let short = refusal(auth.decide(Millis(9_000), &cluster(), &record, &update(2, 1, &[2, 3], 39)));
    assert_eq!(short, Refusal::LogTooShort { head: 39, released: 40 });
    assert!(matches!(auth.decide(Millis(9_000), &cluster(), &record, &update(2, 1, &[2, 3], 40)), Decision::Swap(_)));
    let forced = Record { forced: Some(Term(1)), ..record };
    let faulty = auth.decide(Millis(9_000), &cluster(), &forced, &update(2, 1, &[2, 3], 39));
    assert!(matches!(faulty, Decision::Swap(_)), "what a faulty holder said of itself bars nobody");
}

#[test]
fn an_update_needs_a_ground_the_right_ticket_and_admission() {
    let mut auth = auth();
    let record = registered(&mut auth);
    for node in [1, 2, 3] {
        auth.decide(Millis(500), &cluster(), &record, &keep_alive(node, 1, None));
    }
    let now = Millis(550);
    let alone = refusal(auth.decide(now, &cluster(), &record, &suspected(&[2], update(2, 1, &[2, 3], 0))));
    assert_eq!(alone, Refusal::NoGround { missing: 1 }, "node 3 lives, and does not suspect");
    let resigned = Presented { resigned: Some(id(1)), ..update(2, 1, &[1, 2, 3], 0) };
    assert!(matches!(auth.decide(now, &cluster(), &record, &resigned), Decision::Swap(_)));
    let not_his = Presented { resigned: Some(id(3)), ..update(2, 1, &[1, 2, 3], 0) };
    assert!(matches!(refusal(auth.decide(now, &cluster(), &record, &not_his)), Refusal::NoGround { .. }));
    assert!(matches!(
        auth.decide(now, &cluster(), &record, &suspected(&[2, 3], update(2, 1, &[2, 3], 0))),
        Decision::Swap(_)
    ));
    let other = Presented { ticket_opened: Some("b".parse().unwrap()), ..suspected(&[2, 3], update(2, 1, &[2, 3], 0)) };
    assert_eq!(refusal(auth.decide(now, &cluster(), &record, &other)), Refusal::BadTicket);
    let none = Presented { ticket_opened: None, ..suspected(&[2, 3], update(2, 1, &[2, 3], 0)) };
    assert_eq!(refusal(auth.decide(now, &cluster(), &record, &none)), Refusal::BadTicket);
    assert_eq!(refusal(auth.decide(now, &cluster(), &record, &update(4, 1, &[4], 0))), Refusal::NotAdmitted);
}

fn report(from: &str, term: u64) -> Presented {
    let votes = Vec::new();
    let result = standin_ledger::CheckpointResult {
        height: standin_foundation::Height(4),
        block_hash: Digest::ZERO,
        state_root: Digest::ZERO,
        receipts_root: Digest::ZERO,
    };
    let vote = standin_ledger::SeatVote {
        seat: standin_foundation::Seat(0),
        term: Term(term),
        signature: standin_foundation::Signature::NONE,
    };
    let certificate = standin_ledger::CheckpointCertificate { epoch: Epoch(0), result, votes };
    let request = Request::ReportWrong(Box::new(WrongResult { cluster: cluster(), result, vote, certificate }));
    Presented { speaks_for: from.parse().ok(), wrong_in: Some(Term(term)), ..present(9, request) }
}

#[test]
fn g7_a_threshold_of_distinct_seats_within_the_window_forces_the_switch() {
    let mut auth = auth();
    let record = registered(&mut auth);
    let now = Millis(10);
    assert_eq!(auth.decide(now, &cluster(), &record, &report("b", 1)), Decision::Alive);
    assert_eq!(auth.decide(now, &cluster(), &record, &report("b", 1)), Decision::Alive, "one seat counts once");
    let own = refusal(auth.decide(now, &cluster(), &record, &report("a", 1)));
    assert_eq!(own, Refusal::NotHolder, "a cluster does not report itself");
    let stranger = Presented { speaks_for: None, ..report("c", 1) };
    assert_eq!(refusal(auth.decide(now, &cluster(), &record, &stranger)), Refusal::NotHolder);
    let unproven = Presented { wrong_in: None, ..report("c", 1) };
    assert_eq!(refusal(auth.decide(now, &cluster(), &record, &unproven)), Refusal::BadEvidence);
    let over = Millis(10 + auth.config.reports_window_ms);
    assert_eq!(auth.decide(over, &cluster(), &record, &report("c", 1)), Decision::Alive, "the first is too old");
    let forced = swap(auth.decide(over, &cluster(), &record, &report("d", 1)));
    assert_eq!((forced.forced, &forced.not_electable), (Some(Term(1)), &set(&[1])));
    assert_eq!(auth.decide(over, &cluster(), &forced, &report("b", 1)), Decision::Alive, "it is ordered already");
}

/// G5: whoever was told of later changes than the register holds shows that it was brought back from a copy.
#[test]
fn g5_a_register_that_knows_less_than_a_node_was_told_stops() {
    let mut auth = auth();
    let told = |count| {
        let presented = keep_alive(1, 0, None);
        Presented { told_count: count, ..presented }
    };
    assert_eq!(auth.decide(Millis(1), &cluster(), &fresh(), &told(7)), Decision::Alive);
    assert_eq!(auth.decide(Millis(2), &cluster(), &fresh(), &told(8)), Decision::RolledBack { seen: 8 });
}

fn order(record: &Record, action: Action) -> MemberOrder {
    let clears = matches!(&action, Action::Admit(member) if record.not_electable.contains(&member.key.node_id()));
    let (listed, version) = (record.listed, record.membership_version);
    MemberOrder { chain: Digest::ZERO, cluster: cluster(), listed, version, action, clears }
}

fn member(n: u8) -> Member {
    Member { site: "s1".to_owned(), address: "127.0.0.1:1".to_owned(), ..Member::from(key(n)) }
}

#[test]
fn an_admitted_node_may_be_taken_in_and_a_removed_one_may_not_take_over() {
    let mut auth = auth();
    let record = registered(&mut auth);
    let joined = auth.order(&record, &order(&record, Action::Admit(member(4)))).unwrap();
    assert_eq!((joined.membership_version, joined.admitted.len()), (1, 4));
    let grown = swap(auth.decide(Millis(0), &cluster(), &joined, &set_change(1, 1, &[1, 2, 3, 4])));
    let without = auth.order(&grown, &order(&grown, Action::Remove(id(2)))).unwrap();
    let removed = refusal(auth.decide(Millis(9_000), &cluster(), &without, &update(2, 2, &[2, 3], 0)));
    assert_eq!(removed, Refusal::NotAdmitted, "although the grant still lists it");
    assert!(matches!(auth.decide(Millis(0), &cluster(), &without, &set_change(1, 2, &[1, 3, 4])), Decision::Swap(_)));
}

#[test]
fn an_order_is_for_one_list_of_members_and_never_removes_the_holder_or_the_last() {
    let mut auth = auth();
    let record = registered(&mut auth);
    // Once carried out, it counts no more: not for the list that came of it, nor for one of a later epoch, in a register that begins anew.
    let admits = order(&record, Action::Admit(member(4)));
    let joined = auth.order(&record, &admits).unwrap();
    let changed = |listed, version| Err(Refusal::Changed { listed: Epoch(listed), version });
    assert_eq!(auth.order(&joined, &admits), changed(0, 1));
    let anew = Record { listed: Epoch(1), ..Record::new(cluster(), [key(1)]) };
    assert_eq!(auth.order(&anew, &admits), changed(1, 0));
    // A grant in between is nothing that operators decide.
    let granted = swap(auth.decide(Millis(0), &cluster(), &record, &set_change(1, 1, &[1, 2])));
    assert!(granted.version > record.version && auth.order(&granted, &admits).is_ok());
    assert_eq!(auth.order(&record, &order(&record, Action::Remove(id(1)))), Err(Refusal::IsHolder));
    assert_eq!(auth.order(&record, &order(&record, Action::Remove(id(9)))), Err(Refusal::NotAdmitted));
    let homeless = auth.order(&record, &order(&record, Action::Admit(Member::from(key(4)))));
    assert!(matches!(homeless, Err(Refusal::BadMember { .. })), "{homeless:?}");
    let last = Record::new(cluster(), [key(2)]);
    assert!(matches!(auth.order(&last, &order(&last, Action::Remove(id(2)))), Err(Refusal::BadMember { .. })));
    let full = Record::new(cluster(), (1..=8).map(key));
    assert!(matches!(auth.order(&full, &order(&full, Action::Admit(member(9)))), Err(Refusal::BadMember { .. })));
    // Signed before it was caught, it clears nothing.
    let before = order(&record, Action::Admit(member(2)));
    let barred = Record { not_electable: set(&[2]), ..record };
    assert_eq!(auth.order(&barred, &before).unwrap().not_electable, set(&[2]));
    let cleared = auth.order(&barred, &order(&barred, Action::Admit(member(2)))).unwrap();
    assert_eq!((cleared.not_electable.len(), cleared.admitted.len()), (0, 3), "whoever admits it again answers for it");
    let recalled = Record { recalling: Some(BTreeSet::new()), ..cleared };
    assert_eq!(auth.order(&recalled, &order(&recalled, Action::Remove(id(2)))), Err(Refusal::Recovering));
}

/// G5: a node that was admitted after the copy was made may know more than all others: it is heard, too.
#[test]
fn g5_a_recalled_register_hears_members_that_it_does_not_know() {
    let mut auth = auth();
    let record = registered(&mut auth);
    let joined = auth.order(&record, &order(&record, Action::Admit(member(4)))).unwrap();
    let membership = Some(joined.membership(Digest::ZERO).sign(&SecretKey::from_bytes(&[9; 32]).unwrap()));
    let mut restored = started(2, auth.config.clone());
    let mut record = Record { recalling: Some(BTreeSet::new()), ..record };
    for from in [1, 2, 3] {
        let membership = membership.clone().filter(|_| from == 2);
        let says = Request::Recall { cluster: cluster(), newest: None, membership, promised: Incarnation(2) };
        record = swap(restored.decide(Millis(0), &cluster(), &record, &present(from, says)));
    }
    assert!(record.recalling.is_some(), "node 4 has not been heard");
    let says = Request::Recall { cluster: cluster(), newest: None, membership: None, promised: Incarnation(2) };
    record = swap(restored.decide(Millis(0), &cluster(), &record, &present(4, says)));
    assert_eq!(record.recalling, None);
}
