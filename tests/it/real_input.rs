//! Real content in, read back from each of the four nodes with its proofs.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::network::{TestNetwork, data, run, told};

const COMMITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples/commits.jsonl");

#[test]
fn the_commit_log_goes_in_and_comes_back_from_every_node_with_proofs() {
    let network = TestNetwork::start();
    let output = network.submit(&["--file", COMMITS]);
    let (code, talk) = told(&output);
    assert_eq!(code, 0, "{talk}");
    let submitted: Vec<serde_json::Value> =
        data(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let lines: Vec<serde_json::Value> =
        std::fs::read_to_string(COMMITS).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(submitted.len(), lines.len());
    for (line, result) in lines.iter().zip(&submitted) {
        let put = &line["put"];
        for index in 0..4 {
            let (title, key) = (put["title"].as_str().unwrap(), put["key"].as_str().unwrap());
            let read = run(&["query", "--node", network.url(index), "--title", title, "--key", key]);
            assert_eq!(data(&read).trim_end(), put["value"].as_str().unwrap());
        }
        prove(&network, result["id"].as_str().unwrap());
    }
}

#[test]
fn all_of_a_title_in_a_block_are_shown_and_proven_to_be_all() {
    let network = TestNetwork::start();
    let line = |title: &str, key: usize| format!(r#"{{"put":{{"title":"{title}","key":"k{key}","value":"v"}}}}"#);
    let lines: Vec<_> = (0..30).map(|n| line(["loans", "bonds", "swaps"][n % 3], n)).collect();
    let file = network.write("titles.jsonl", &lines.join("\n"));
    let submitted = data(&network.submit(&["--file", file.to_str().unwrap()]));
    let results: Vec<serde_json::Value> = submitted.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let height = results[0]["height"].to_string();
    let genesis = network.path("genesis.toml");
    let genesis = genesis.to_str().unwrap();
    for (title, expected) in [("bonds", 10), ("nothing", 0)] {
        let wanted = results.iter().skip(1).step_by(3).filter(|result| result["height"] == results[0]["height"]);
        let wanted: BTreeSet<_> = wanted.map(|result| result["id"].as_str().unwrap().to_owned()).collect();
        let output = run(&["block", "--node", network.url(2), "--genesis", genesis, "--title", title, &height]);
        let (code, talk) = told(&output);
        assert!(code == 0 && talk.contains("proven to be all there are"), "{talk}");
        let shown: BTreeSet<_> = data(&output).lines().map(str::to_owned).collect();
        assert_eq!(shown.len(), expected, "all 30 are in one block: {talk}");
        assert!(expected == 0 || shown == wanted);
    }
    // Against the genesis of another chain nothing is proven.
    let other = TestNetwork::files();
    let other = other.path("genesis.toml");
    let output =
        run(&["block", "--node", network.url(2), "--genesis", other.to_str().unwrap(), "--title", "bonds", &height]);
    assert_eq!(told(&output).0, 3, "{}", told(&output).1);
}

/// A checkpoint covers the block after a second of silence at the latest.
fn prove(network: &TestNetwork, id: &str) {
    let begun = Instant::now();
    loop {
        let (code, talk) = told(&run(&["tx", "--verify", "--node", &network.urls, id]));
        match code {
            0 => return,
            3 if begun.elapsed() < Duration::from_secs(20) => {}
            _ => panic!("{code}: {talk}"),
        }
    }
}
