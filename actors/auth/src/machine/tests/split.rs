//! Sites that lose each other (S4).

use super::*;

/// Four clusters at two sites: in each, node 2n+1 stands at `s1` and node 2n+2 at `s2`; the holder is at the site of `held`.
fn at_two_sites(held: [u8; 4]) -> Vec<Record> {
    let member = |n: u8, site: &str| Member { key: key(n), priority: 0, site: site.to_owned(), address: String::new() };
    let record = |(n, site): (u8, u8)| {
        let (first, second) = (2 * n + 1, 2 * n + 2);
        let cluster: ClusterId = format!("c{n}").parse().unwrap();
        let fresh = Record::new(cluster.clone(), [member(first, "s1"), member(second, "s2")]);
        let holder = if site == 1 { first } else { second };
        let grant =
            Grant { cluster, holder: key(holder), in_sync: set(&[first, second]), ..fresh_granted().grant.unwrap() };
        Record { version: 1, grant: Some(grant), ..fresh }
    };
    (0..4).zip(held).map(record).collect()
}

/// All members of the clusters are heard, and their holders say how many other seats they hear.
fn hear(auth: &mut Auth, now: u64, records: &[Record], heard_seats: [u16; 4]) {
    for (record, heard) in records.iter().zip(heard_seats) {
        let grant = record.grant.as_ref().unwrap();
        for node in record.admitted.keys() {
            let speaks = grant.holder_id() == *node;
            let told = KeepAlive {
                cluster: record.cluster.clone(),
                term: grant.term,
                released: speaks.then_some(1),
                heard_seats: speaks.then_some(heard),
                register_count: RegisterCount::NONE,
                lacks_ticket: false,
            };
            let asked = Presented::of(*node, Request::KeepAlive(told), 0);
            assert_eq!(auth.decide(Millis(now), &record.cluster, record, &asked), Decision::Alive);
        }
    }
}

fn preferring(sites: &[&str]) -> Auth {
    let split_preference = sites.iter().map(|site| (*site).to_owned()).collect();
    let config = Config { split_preference, split_after_ms: 500, live_ms: 100, ..Config::default() };
    Auth::new(Digest::ZERO, Incarnation(1), config, table(&["c0", "c1", "c2", "c3"]))
}

fn moving(auth: &Auth, now: u64, records: &[Record]) -> Vec<bool> {
    records.iter().map(|record| auth.moves_from(Millis(now), &record.cluster).is_some()).collect()
}

/// S4: when more than f holders hear too few others for long, clusters move to the first listed site at which enough of them live.
#[test]
fn s4_clusters_move_to_the_first_listed_site_that_can_speak_for_a_quorum() {
    let records = at_two_sites([1, 1, 2, 2]);
    let mut auth = preferring(&["s9", "s1", "s2"]);
    for now in (0..=600).step_by(50) {
        assert_eq!(moving(&auth, now, &records), [false; 4], "not at once");
        hear(&mut auth, now, &records, if now < 100 { [3; 4] } else { [1; 4] });
    }
    hear(&mut auth, 650, &records, [1; 4]);
    assert_eq!(moving(&auth, 650, &records), [false, false, true, true], "who stands there stays");
    let ask = |from: u8, in_sync: &[u8]| {
        let update = Update {
            cluster: records[2].cluster.clone(),
            term: Term(1),
            in_sync: set(in_sync),
            head: 9,
            session: 1,
            ticket: Default::default(),
            statements: Vec::new(),
        };
        Presented { ticket_opened: Some(records[2].cluster.clone()), ..present(from, Request::Update(update)) }
    };
    let moved = swap(auth.decide(Millis(660), &records[2].cluster, &records[2], &ask(5, &[5])));
    assert_eq!(moved.grant.as_ref().map(|grant| grant.cause), Some(Cause::Split));
    let mut records = records.clone();
    records[2] = moved;
    hear(&mut auth, 700, &records, [2, 2, 2, 1]);
    assert!(!moving(&auth, 700, &records)[2], "it has moved");
    // Whoever hears enough again is left where it is.
    hear(&mut auth, 750, &records, [3; 4]);
    assert_eq!(moving(&auth, 750, &records), [false; 4]);
}

#[test]
fn s4_nobody_moves_elsewhere_without_a_preference_or_for_a_few() {
    let records = at_two_sites([1, 1, 2, 2]);
    for (sites, heard) in [(&[][..], [1; 4]), (&["s1"][..], [3, 3, 3, 1]), (&["s9"][..], [1; 4])] {
        let mut auth = preferring(sites);
        for now in (0..2_000).step_by(50) {
            hear(&mut auth, now, &records, heard);
        }
        assert_eq!(moving(&auth, 2_000, &records), [false; 4], "{sites:?}");
    }
    let mut auth = preferring(&["s1"]);
    for now in (0..2_000).step_by(50) {
        hear(&mut auth, now, &records, [1; 4]);
    }
    let update = Update {
        cluster: records[3].cluster.clone(),
        term: Term(1),
        in_sync: set(&[8]),
        head: 9,
        session: 1,
        ticket: Default::default(),
        statements: Vec::new(),
    };
    let asked = Presented { ticket_opened: Some(records[3].cluster.clone()), ..present(8, Request::Update(update)) };
    let why = refusal(auth.decide(Millis(2_000), &records[3].cluster, &records[3], &asked));
    assert_eq!(why, Refusal::Elsewhere { site: "s1".to_owned() });
    assert_eq!(moving(&auth, 2_200, &records), [false; 4], "nothing follows from what was said long ago");
    hear(&mut auth, 3_000, &records, [1; 4]);
    assert_eq!(moving(&auth, 3_000, &records), [false; 4], "nor after a silence");
    // Two seats that are dead leave the others alone: nobody has lost anybody.
    let mut auth = preferring(&["s1"]);
    for now in (0..2_000).step_by(50) {
        hear(&mut auth, now, &records[2..], [1; 4]);
    }
    assert_eq!(moving(&auth, 1_950, &records), [false; 4]);
}
