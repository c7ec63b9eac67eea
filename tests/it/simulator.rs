//! Seeds that once showed a violation, and a first look at each run.

use standin_simulator::{Protocol, Scenario, publication, rules, run, stories};

/// What each of these found is in the history of the consensus machine; none may find it again.
const FOUND: [u64; 13] = [12, 58, 80, 90, 175, 886, 1886, 2876, 3571, 6, 4, 6281, 8335];
/// The same for seats that are held by clusters.
const FOUND_CLUSTERS: [u64; 5] = [34, 166, 335, 366, 9667];
/// And for publication: a lock service of the simulator's own gave a lease without beginning it anew.
const FOUND_PUBLICATION: [u64; 1] = [3577];

fn scenario(protocol: Protocol, seed: u64) -> Scenario {
    Scenario { protocol, seed, rule: None }
}

#[test]
fn seeds_that_once_failed_pass() {
    let consensus = FOUND.map(|seed| ("consensus", scenario(Protocol::Consensus, seed)));
    let clusters = FOUND_CLUSTERS.map(|seed| ("clusters", scenario(Protocol::Clusters, seed)));
    for (name, scenario) in consensus.into_iter().chain(clusters) {
        if let Err(violation) = run(&scenario) {
            let seed = scenario.seed;
            panic!(
                "seed {seed}: {violation}\n\
                 cargo run --release -p standin-simulator --bin seeds -- --protocol {name} --replay {seed}"
            );
        }
    }
    for seed in FOUND_PUBLICATION {
        if let Err(violation) = publication::run(seed, None) {
            panic!(
                "seed {seed}: {violation}\n\
                 cargo run --release -p standin-simulator --bin seeds -- --protocol publication --replay {seed}"
            );
        }
    }
}

#[test]
fn a_seed_gives_the_same_run_every_time() {
    for protocol in [Protocol::Consensus, Protocol::Clusters] {
        for seed in 1..12 {
            let report = |()| run(&scenario(protocol, seed)).map(|report| format!("{report:?}")).unwrap();
            assert_eq!(report(()), report(()));
        }
    }
}

/// What a rule's absence breaks within a few seeds.
fn broken_without(name: &str) -> &'static str {
    let rule = rules::CLUSTERS.into_iter().find(|rule| rule.name == name);
    let run_of = |seed| run(&Scenario { protocol: Protocol::Clusters, seed, rule });
    assert!(rule.is_some(), "{name}");
    (1..100).find_map(|seed| run_of(seed).err()).map_or("nothing", |violation| violation.invariant)
}

/// A design that looks right and is not: a new term fences the old holder, and whoever has it speaks, with whatever log.
#[test]
fn design_1_a_fence_without_the_log_forks() {
    assert_eq!(broken_without("t8-anyone-takes-over"), "one_log");
}

/// A design that looks right and is not: only votes of the current term count, in certificates, too.
#[test]
fn design_4_certificates_judged_by_the_current_term_lose_what_was_certified() {
    assert_ne!(broken_without("v3-judge-by-newest"), "nothing");
}

#[test]
fn story_t12_a_grant_that_only_its_cluster_hears_of() {
    stories::a_grant_that_only_its_cluster_hears_of().unwrap();
}

#[test]
fn story_auth_down_for_an_hour() {
    stories::auth_down_for_an_hour().unwrap();
}

#[test]
fn story_a_wrong_result_is_found_inside_the_cluster() {
    stories::wrong_result_found_inside().unwrap();
}

#[test]
fn story_a_wrong_result_is_found_by_the_other_seats() {
    stories::wrong_result_found_by_the_others().unwrap();
}

#[test]
fn story_actives_are_killed_one_by_one() {
    stories::actives_killed_one_by_one().unwrap();
}
