//! The demo: exit 0 means that nothing was lost, doubled or forked, and that nothing is left behind.

use std::path::Path;

use crate::network::{any_process_mentions, data, run, told};

#[test]
fn the_demo_commits_what_it_submits_and_leaves_nothing_behind() {
    let output = run(&["demo", "--for", "5", "--rate", "300", "--json"]);
    let (code, talk) = told(&output);
    assert_eq!(code, 0, "{talk}");
    let outcome: serde_json::Value = serde_json::from_str(&data(&output)).unwrap();
    assert_eq!(
        (outcome["layout"].as_str(), outcome["nodes"].as_u64(), outcome["seats"].as_u64()),
        (Some("four-sites"), Some(12), Some(4))
    );
    for name in ["lost", "doubled", "forks"] {
        assert_eq!(outcome[name], 0, "{outcome}");
    }
    let (submitted, committed) = (outcome["submitted"].as_u64().unwrap(), outcome["committed"].as_u64().unwrap());
    assert!(submitted > 1_000 && committed * 100 >= submitted * 95, "{outcome}");
    let key = talk.split_once("--key ").unwrap().1.split_whitespace().next().unwrap();
    let folder = Path::new(key).parent().unwrap();
    assert!(!folder.exists(), "{} is left", folder.display());
    assert!(!any_process_mentions(folder), "a process is left");
}
