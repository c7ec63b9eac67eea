//! Real content in, read back from each of the four nodes with its proofs.

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
