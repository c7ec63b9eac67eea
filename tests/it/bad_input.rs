//! Bad input gives a clear error: what, where, what to do; and nothing else suffers.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use crate::network::{TestNetwork, data, run, told};

fn run_node(network: &TestNetwork, seat: usize) -> (i32, String) {
    told(&run(&["run", "-c", network.config(seat).to_str().unwrap()]))
}

fn edit(network: &TestNetwork, seat: usize, from: &str, to: &str) {
    let path = network.config(seat);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from}");
    fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn key_files_that_are_open_wrong_or_missing_end_with_78() {
    let network = TestNetwork::files();
    let key = network.path("s1/node.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let (code, talk) = run_node(&network, 1);
    assert!(code == 78 && talk.contains("chmod 600"), "{code} {talk}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&key, "not a key").unwrap();
    let (code, talk) = run_node(&network, 1);
    assert!(code == 78 && talk.contains("does not hold a secret key"), "{code} {talk}");
    fs::remove_file(&key).unwrap();
    let (code, talk) = run_node(&network, 1);
    assert!(code == 78 && talk.contains("node.key"), "{code} {talk}");
    fs::copy(network.key(), &key).unwrap();
    let (code, talk) = run_node(&network, 1);
    assert!(code == 78 && talk.contains("holds no seat"), "{code} {talk}");
}

#[test]
fn a_configuration_with_two_faults_tells_both() {
    let network = TestNetwork::files();
    edit(&network, 1, "[log]\nlevel = \"info\"", "[log]\nlevle = \"info\"\nlevel = 7");
    let (code, talk) = told(&run(&["config", "check", "-c", network.config(1).to_str().unwrap()]));
    assert_eq!(code, 78);
    assert!(talk.contains("did you mean `level`?") && talk.contains("found 7, a text in quotes is needed"), "{talk}");
    let (code, _) = told(&run(&["config", "check", "-c", network.config(2).to_str().unwrap()]));
    assert_eq!(code, 0);
}

#[test]
fn a_taken_port_says_by_whom() {
    let network = TestNetwork::files();
    let address = network.url(0).strip_prefix("http://").unwrap();
    let _holder = TcpListener::bind(address).unwrap();
    let (code, talk) = run_node(&network, 1);
    assert_eq!(code, 1, "{talk}");
    assert!(talk.contains(address) && talk.contains(&format!("process {}", std::process::id())), "{talk}");
}

#[test]
fn a_store_of_another_chain_is_refused() {
    let (one, two) = (TestNetwork::start(), TestNetwork::files());
    let output = one.submit(&[r#"{"put":{"title":"t","key":"k","value":"v"}}"#]);
    assert_eq!(told(&output).0, 0);
    let (from, to) = (one.path("s1/data/log"), two.path("s1/data/log"));
    fs::create_dir_all(&to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    let (code, talk) = run_node(&two, 1);
    assert!(code == 1 && talk.contains("belongs to another chain"), "{code} {talk}");
}

#[test]
fn transactions_that_cannot_be_are_refused_and_the_chain_goes_on() {
    let network = TestNetwork::start();
    let poor = network.path("poor.key");
    let rich = data(&run(&["keygen", poor.to_str().unwrap()])).trim().to_owned();
    let poor = poor.to_str().unwrap();
    let transfer = format!(r#"{{"transfer":{{"to":"{rich}","amount":5}}}}"#);
    let output = run(&["submit", "--node", network.url(1), "--key", poor, &transfer]);
    assert_eq!(told(&output).0, 6);
    assert!(data(&output).contains("insufficient funds"), "{}", data(&output));
    let large = format!(r#"{{"put":{{"title":"t","key":"k","value":"{}"}}}}"#, "x".repeat(70_000));
    let file = network.write("large.jsonl", &large);
    let (code, talk) = told(&network.submit(&["--file", file.to_str().unwrap()]));
    assert!(code == 6 && talk.contains("limit is 65536"), "{code} {talk}");
    let output = network.submit(&[&transfer]);
    assert_eq!(told(&output).0, 0, "{}", data(&output));
    let balance = run(&["query", "--node", network.url(2), "--account", &rich]);
    assert_eq!(data(&balance).trim(), "5");
}

#[test]
fn a_line_that_does_not_parse_is_named_and_the_rest_waits_for_the_flag() {
    let network = TestNetwork::start();
    let good = r#"{"put":{"title":"t","key":"a","value":"1"}}"#;
    let file = network.write("lines.jsonl", &format!("{good}\n{{\"put\":\n\n{{\"putt\":1}}\n"));
    let file = file.to_str().unwrap();
    let (code, talk) = told(&network.submit(&["--file", file]));
    assert!(code == 2 && talk.contains("line 2:") && talk.contains("line 4:"), "{code} {talk}");
    assert!(talk.contains("nothing was submitted"), "{talk}");
    assert_eq!(told(&run(&["query", "--node", network.url(0), "--title", "t", "--key", "a"])).0, 4);
    let (code, talk) = told(&network.submit(&["--file", file, "--skip-bad-lines"]));
    assert!(code == 6 && talk.contains("1 applied") && talk.contains("2 bad lines"), "{code} {talk}");
    assert_eq!(told(&run(&["query", "--node", network.url(0), "--title", "t", "--key", "a"])).0, 0);
}

#[test]
fn a_node_that_is_not_there_ends_with_69() {
    let (code, talk) = told(&run(&["status", "--node", "http://127.0.0.1:9"]));
    assert!(code == 69 && talk.contains("127.0.0.1:9"), "{code} {talk}");
}
