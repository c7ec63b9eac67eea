//! Bad input gives a clear error: what, where, what to do; and nothing else suffers.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use standin::NodeConfig;
use tempfile::TempDir;

use crate::network::{TestNetwork, data, edit, run, standin, told};

fn run_node(network: &TestNetwork, seat: usize) -> (i32, String) {
    told(&run(&["run", "-c", network.config(seat).to_str().unwrap()]))
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
    assert!(code == 78 && talk.contains("is in no cluster of the genesis"), "{code} {talk}");
}

#[test]
fn a_configuration_with_two_faults_tells_both() {
    let network = TestNetwork::files();
    edit(&network.config(1), "\nlevel = \"info\"", "\nlevle = \"info\"\nlevel = 7");
    let (code, talk) = told(&run(&["config", "check", "-c", network.config(1).to_str().unwrap()]));
    assert_eq!(code, 78);
    assert!(talk.contains("did you mean `level`?") && talk.contains("found 7, a text in quotes is needed"), "{talk}");
    let (code, _) = told(&run(&["config", "check", "-c", network.config(2).to_str().unwrap()]));
    assert_eq!(code, 0);
}

/// Whoever reads only the beginning, as `head` does, is no error.
#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let mut listing = standin().args(["drill", "list"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(listing.stdout.take());
    let output = listing.wait_with_output().unwrap();
    assert_eq!(told(&output), (0, String::new()));
}

/// The auth node of a network, alone: its address, and it dies with the test.
fn auth_node(folder: &TempDir) -> (std::process::Child, String) {
    running(folder, "auth/node.toml", |url| run(&["member", "list", "--auth", url]).status.code() == Some(0))
}

/// A node of a network, alone, that is there when it answers so: its address, and it dies with the test.
fn running(folder: &TempDir, config: &str, answers: impl Fn(&str) -> bool) -> (std::process::Child, String) {
    let config = folder.path().join("net").join(config);
    let address = NodeConfig::read(&config).unwrap().http_listen;
    let child =
        standin().args(["run", "--die-with-parent", "-c", config.to_str().unwrap()]).stderr(Stdio::null()).spawn();
    let url = format!("http://{address}");
    let begun = Instant::now();
    while !answers(&url) {
        assert!(begun.elapsed() < Duration::from_secs(30), "nothing answers at {url}");
    }
    (child.unwrap(), url)
}

#[test]
fn orders_that_no_operator_gave_or_that_cannot_be_are_refused() {
    let folder = clusters();
    let (mut auth, url) = auth_node(&folder);
    let file = |name: &str| folder.path().join("net").join(name).to_str().unwrap().to_owned();
    let new = data(&run(&["keygen", &file("new.key")])).trim().to_owned();
    let admit = |cluster: &str, key: &str, address: &str, site: &str| {
        let order = ["member", "admit", cluster, &new, "--auth", &url, "--key", key];
        told(&run(&[&order[..], &["--address", address, "--site", site]].concat()))
    };
    let operator = file("operator.key");
    for (refused, code, expected) in [
        (admit("a", &file("client.key"), "127.0.0.1:7", "s3"), 6, "approved by 0 operators, 1 are needed"),
        (admit("z", &operator, "127.0.0.1:7", "s3"), 4, "there is no cluster `z`"),
        (admit("a", &operator, "127.0.0.1", "s3"), 6, "host and port of its bridge"),
        (admit("a", &operator, "127.0.0.1:7", " "), 6, "needs the name of its site"),
        (admit("a", &file("no-such.key"), "127.0.0.1:7", "s3"), 78, "no-such.key"),
    ] {
        assert!(refused.0 == code && refused.1.contains(expected), "{refused:?}");
    }
    assert_eq!(admit("a", &operator, "127.0.0.1:7", "s3"), (0, String::new()));
    let (code, talk) = admit("b", &operator, "127.0.0.1:7", "s3");
    assert!(code == 6 && talk.contains("a member of another cluster"), "{talk}");
    let listed = data(&run(&["member", "list", "--auth", &url]));
    assert!(listed.contains("at 127.0.0.1:7"), "{listed}");
    // What the page shows before, as well.
    let order = serde_json::json!({ "on": "z", "args": { "node": new } });
    let shown = actix_web::rt::System::new().block_on(async {
        let asked = awc::Client::default().post(format!("{url}/api/v1/actions/member-remove/preview"));
        let mut answer = asked.insert_header(("origin", url.as_str())).send_json(&order).await.unwrap();
        (answer.status().as_u16(), answer.json::<serde_json::Value>().await.unwrap())
    });
    assert_eq!((shown.0, &shown.1["error"]), (404, &"there is no cluster `z`".into()));
    let mut args = serde_json::json!({ "key": new, "address": "127.0.0.1:7", "site": "s3", "priority": "9" });
    let preview = |args: &serde_json::Value| {
        let order = serde_json::json!({ "on": "a", "args": args });
        actix_web::rt::System::new().block_on(async {
            let asked = awc::Client::default().post(format!("{url}/api/v1/actions/member-admit/preview"));
            let mut answer = asked.insert_header(("origin", url.as_str())).send_json(&order).await.unwrap();
            (answer.status().as_u16(), answer.json::<serde_json::Value>().await.unwrap())
        })
    };
    let (code, shown) = preview(&args);
    let effect = shown["effect"].to_string();
    assert!(code == 200 && effect.contains("is a member of cluster a already"), "{effect}");
    assert!(effect.contains("standin member admit") && effect.contains("--priority 9"), "{effect}");
    args["priority"] = "many".into();
    assert!(preview(&args).1["error"].as_str().unwrap().contains("a number from 0 to 255"));
    auth.kill().unwrap();
    auth.wait().unwrap();
}

#[test]
fn a_node_that_is_to_join_needs_a_network_with_that_cluster() {
    let folder = clusters();
    let file = |name: &str| folder.path().join("net").join(name).to_str().unwrap().to_owned();
    let like = file("a-s1/node.toml");
    let join = |to: &str, cluster: &str| {
        let arguments = ["init", to, "--role", "member", "--like", &like, "--name", "new", "--cluster", cluster];
        told(&run(&arguments))
    };
    let (code, talk) = join(&file("waits"), "z");
    assert!(code == 0 && talk.contains("the genesis has no cluster `z`"), "{talk}");
    assert_eq!(join(&file("new"), "a").0, 0);
    let (code, talk) = join(&file("new"), "a");
    assert!(code == 6 && talk.contains("not empty"), "{talk}");
    assert_eq!(told(&run(&["init", &file("other"), "--role", "member"])).0, 2);
    let stranger = |text: String| text.replacen("cluster = \"a\"", "cluster = \"z\"", 1);
    fs::write(file("new/node.toml"), stranger(fs::read_to_string(file("new/node.toml")).unwrap())).unwrap();
    let (mut waits, http) =
        running(&folder, "new/node.toml", |url| run(&["health", "--node", url]).status.code() == Some(3));
    let (code, talk) = told(&run(&["status", "--node", &http]));
    assert!(code != 0 && talk.contains("cluster z holds no seat: the node waits"), "{code} {talk}");
    waits.kill().unwrap();
    waits.wait().unwrap();
}

#[test]
fn a_register_in_an_etcd_that_is_away_or_half_configured_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("net");
    let arguments = ["init", made.to_str().unwrap(), "--layout", "four-sites-etcd", "--etcd", "http://127.0.0.1:1"];
    assert_eq!(told(&run(&arguments)).0, 0);
    let config = made.join("auth-1/node.toml");
    let (code, talk) = told(&run(&["run", "-c", config.to_str().unwrap()]));
    assert!(code != 0 && talk.contains("the register cannot be reached: http://127.0.0.1:1"), "{code} {talk}");
    let sound = fs::read_to_string(&config).unwrap();
    for (found, wrong, expected) in [
        ("register = \"etcd\"", "register = \"consul\"", "found \"consul\", \"log\" or \"etcd\" is needed"),
        (
            "endpoints = \"http://127.0.0.1:1\"",
            "endpoints = \"127.0.0.1:1\"",
            "found \"127.0.0.1:1\", addresses such as",
        ),
        ("endpoints = \"http:", "endpoints = \"https:", "`etcd.ca_file`: is missing"),
        ("# user = \"\"", "user = \"someone\"", "`etcd.password_file`: is missing"),
        ("# certificate_file = \"\"", "certificate_file = \"etcd.pem\"", "`etcd.certificate_key_file`: is missing"),
    ] {
        assert!(sound.contains(found), "{found}");
        fs::write(&config, sound.replace(found, wrong)).unwrap();
        let (code, talk) = told(&run(&["config", "check", "-c", config.to_str().unwrap()]));
        assert!(code == 78 && talk.contains(expected), "{code} {talk}");
    }
}

/// A network of clusters on disk, with free ports.
fn clusters() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("net");
    let (code, talk) = told(&run(&["init", made.to_str().unwrap(), "--layout", "two-sites", "--chain", "test-two"]));
    assert_eq!(code, 0, "{talk}");
    folder
}

/// Changes a file of the network, and says how this node then starts.
fn start_with(folder: &TempDir, file: &str, change: impl Fn(String) -> String, node: &str) -> (i32, String) {
    let path = folder.path().join("net").join(file);
    let before = fs::read_to_string(&path).unwrap();
    let after = change(before.clone());
    assert_ne!(before, after, "{file}");
    fs::write(&path, after).unwrap();
    let config = folder.path().join("net").join(node).join("node.toml");
    let started = told(&run(&["run", "-c", config.to_str().unwrap()]));
    fs::write(&path, before).unwrap();
    started
}

#[test]
fn clusters_that_cannot_be_are_told_at_the_start() {
    let folder = clusters();
    let no_site = |text: String| text.replacen("site = \"s1\"", "site = \"\"", 1);
    let (code, talk) = start_with(&folder, "genesis.toml", no_site, "b-s1");
    assert!(code == 78 && talk.contains("needs the name of its site"), "{code} {talk}");

    let keys = |text: &str| -> Vec<String> {
        text.lines().filter_map(|line| line.strip_prefix("key = ")).map(str::to_owned).collect()
    };
    let twice = |text: String| text.replace(&keys(&text)[3], &keys(&text)[0]);
    let (code, talk) = start_with(&folder, "genesis.toml", twice, "b-s1");
    assert!(code == 78 && talk.contains("is in the genesis twice: a node is in one cluster"), "{code} {talk}");

    let no_auth = |text: String| text.replace("role = \"auth\"\n", "");
    let (code, talk) = start_with(&folder, "a-s1/node.toml", no_auth, "a-s1");
    assert!(code == 78 && talk.contains("no [[peer]] has the role \"auth\""), "{code} {talk}");

    let other_key = |_| "11".repeat(32);
    let (code, talk) = start_with(&folder, "auth/grants.key", other_key, "auth");
    assert!(code == 78 && talk.contains("is not the auth key that the genesis names"), "{code} {talk}");
    let config = folder.path().join("net/auth/node.toml");
    assert_eq!(told(&run(&["config", "check", "-c", config.to_str().unwrap()])).0, 0);
}

#[test]
fn two_equal_priorities_are_allowed_and_a_cluster_of_one_is_warned_about() {
    let folder = clusters();
    let genesis = folder.path().join("net/genesis.toml");
    let text = fs::read_to_string(&genesis).unwrap().replace("priority = 2", "priority = 1");
    let members: Vec<_> = text.match_indices("[[seats.members]]").map(|(at, _)| at).collect();
    let alone =
        format!("{}{}", &text[..members[1]], &text[text[members[1]..].find("[[seats]]").unwrap() + members[1]..]);
    fs::write(&genesis, alone).unwrap();
    let config = folder.path().join("net/a-s1/node.toml");
    let (code, talk) = told(&run(&["config", "check", "-c", config.to_str().unwrap()]));
    assert!(code == 0 && talk.contains("cluster `a` has one member"), "{code} {talk}");
}

#[test]
fn nodes_misbehave_in_drills_only() {
    let network = TestNetwork::files();
    let config = network.config(1);
    let (code, talk) = told(&run(&["run", "-c", config.to_str().unwrap(), "--misbehave", "wrong-vote"]));
    assert!(code == 6 && talk.contains("on chains named `drill-…` only, this one is `test-it`"), "{code} {talk}");
    let (code, talk) = told(&run(&["run", "-c", config.to_str().unwrap(), "--misbehave", "badly"]));
    assert!(code == 2 && talk.contains("`wrong-result` and `wrong-vote` are known"), "{code} {talk}");
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

/// An address that asks for too much is told so, and when to ask again; what watches over the node is answered all the same.
#[actix_web::test]
async fn an_address_has_so_many_requests_in_a_second() {
    let mut network = TestNetwork::files();
    edit(&network.config(1), "# requests_per_second = 5000", "requests_per_second = 30");
    (1..=4).for_each(|seat| network.start_node(seat));
    network.wait_all_ready();
    let client = awc::Client::builder().timeout(Duration::from_secs(30)).finish();
    let get = async |path: &str| client.get(format!("{}{path}", network.url(0))).send().await.unwrap();
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..300 {
        let mut answer = get("/api/v1/status").await;
        match answer.status().as_u16() {
            200 => taken += 1,
            429 => {
                assert_eq!(answer.headers().get("retry-after").unwrap(), "1");
                let said = answer.body().await.unwrap();
                assert!(String::from_utf8_lossy(&said).contains("more than 30 requests in a second"), "{said:?}");
                refused += 1;
            }
            other => panic!("{other}"),
        }
        assert_eq!(get("/livez").await.status().as_u16(), 200);
    }
    // However slow this machine is, a bucket of thirty is empty before three hundred have been asked for, or they took ten seconds.
    assert!(taken >= 30 && taken + refused == 300, "{taken} {refused}");
    assert!(refused > 0, "{taken} were taken");
    let other = client.get(format!("{}/api/v1/status", network.url(1))).send().await.unwrap();
    assert_eq!(other.status().as_u16(), 200, "the others have a limit of their own");
}
