//! One drill of each kind. They run one after the other: each has a whole network to itself.

use crate::network::{data, run, told};

#[test]
fn all_drills_pass() {
    let output = run(&["drill", "run", "all", "--layout", "four-seats", "--json"]);
    let reports: Vec<serde_json::Value> =
        data(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for report in &reports {
        let skipped = report["skipped"].as_str();
        if let Some(why) = skipped {
            eprintln!("{} was skipped: {why}", report["drill"]);
        }
        assert!(report["passed"] == true || skipped.is_some(), "{report:#}");
        for name in ["lost", "doubled", "forks"] {
            assert_eq!(report[name], 0, "{report:#}");
        }
    }
    assert_eq!(reports.len(), 7);
    assert_eq!(told(&output).0, 0);
}

#[test]
fn an_unknown_drill_or_layout_is_wrong_usage() {
    let (code, talk) = told(&run(&["drill", "run", "no-such-drill"]));
    assert!(code == 2 && talk.contains("no-such-drill"), "{talk}");
    let (code, talk) = told(&run(&["drill", "run", "all", "--layout", "no-such-layout"]));
    assert!(code == 2 && talk.contains("no-such-layout"), "{talk}");
    assert_eq!(data(&run(&["drill", "list"])).lines().count(), 7);
}
