//! One drill of each kind. They run one after the other: each has a whole network to itself.

use crate::network::{data, run, told, whole_machine};

fn pass(arguments: &[&str], count: usize) {
    let output = run(&[&["drill", "run", "--json"], arguments].concat());
    let reports: Vec<serde_json::Value> =
        data(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for report in &reports {
        let skipped = report["skipped"].as_str();
        if let Some(why) = skipped {
            let need = if why.contains("etcd") { "etcd" } else { "root" };
            crate::skips::skipped(need, &format!("drill {}", report["drill"]), why);
        }
        assert!(report["passed"] == true || skipped.is_some(), "{report:#}");
        for name in ["lost", "doubled", "forks"] {
            assert_eq!(report[name], 0, "{report:#}");
        }
    }
    assert_eq!(reports.len(), count);
    assert_eq!(told(&output).0, 0);
}

#[test]
fn all_drills_of_seats_that_one_node_holds_pass() {
    let _machine = whole_machine();
    pass(&["all", "--layout", "four-seats"], 8);
}

/// One of each kind: a death, a pause, a start, a lost site, a fault, a forgery, a partition, a lost disk, a register of old, growth,
/// another epoch, a seat that begins anew, clusters that come and go, another auth node; publishers that die, stand still and are cut off.
#[test]
fn drills_of_clusters_pass() {
    let _machine = whole_machine();
    let kinds = [
        "first-start",
        "active-killed",
        "active-frozen",
        "active-and-standby-killed",
        "seat-switched",
        "wrong-result",
        "forged-update",
        "partition-active",
        "sites-split",
        "lost-disk",
        "older-image",
        "auth-restarted-from-backup",
        "grow",
        "operators-replaced",
        "cold-spare",
        "cluster-added",
        "cluster-removed",
        "auth-replaced",
    ];
    pass(&[&kinds[..], &["--layout", "four-sites"]].concat(), kinds.len());
    pass(&["site-lost", "--layout", "two-sites"], 1);
    let published = [
        "publisher-killed",
        "publisher-frozen",
        "publisher-partitioned",
        "publisher-stalled",
        "pushes-during-failover",
        "terminal-reconnects",
        "terminal-behind-retention",
        "publishers-reconfigured",
        "lock-in-etcd",
        "many-topics",
        "two-standbys-race",
        "holder-and-active-killed",
        "disk-full-at-holder",
    ];
    pass(&published, published.len());
    pass(&["auth-front-killed", "--layout", "four-sites-etcd"], 1);
}

#[test]
fn an_unknown_drill_or_layout_is_wrong_usage() {
    let (code, talk) = told(&run(&["drill", "run", "no-such-drill"]));
    assert!(code == 2 && talk.contains("no-such-drill"), "{talk}");
    let (code, talk) = told(&run(&["drill", "run", "all", "--layout", "no-such-layout"]));
    assert!(code == 2 && talk.contains("no-such-layout"), "{talk}");
    let (code, talk) = told(&run(&["drill", "run", "site-lost", "--layout", "four-seats"]));
    assert!(code == 2 && talk.contains("runs on four-sites, two-sites"), "{talk}");
    assert_eq!(data(&run(&["drill", "list"])).lines().count(), 46);
}
