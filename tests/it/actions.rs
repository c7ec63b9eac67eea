//! What operators have running nodes do: by command, with a key; and over HTTP, as the page does.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::network::{TestNetwork, data, run, told};

/// Longer than anything here takes.
const WITHIN: Duration = Duration::from_secs(30);

/// A network whose operators' key is at hand.
struct Operated(TestNetwork);

impl Operated {
    fn start() -> Self {
        Self(TestNetwork::start())
    }

    fn operator_key(&self) -> PathBuf {
        self.0.path("operator.key")
    }

    /// Gives the exit code, what was printed, and what was said.
    fn order_as(&self, key: &Path, index: usize, arguments: &[&str]) -> (i32, String, String) {
        let mut all = arguments.to_vec();
        all.extend(["--node", self.0.url(index), "--key", key.to_str().unwrap(), "--reason", "a test"]);
        let output = run(&all);
        let (code, talk) = told(&output);
        (code, data(&output), talk)
    }

    fn order(&self, index: usize, arguments: &[&str]) -> (i32, String, String) {
        self.order_as(&self.operator_key(), index, arguments)
    }

    fn is_done(&self, index: usize, arguments: &[&str]) -> String {
        let (code, done, talk) = self.order(index, arguments);
        assert_eq!(code, 0, "{arguments:?}: {talk}");
        done
    }

    fn is_refused(&self, index: usize, arguments: &[&str], code: i32, why: &str) {
        let (found, _, talk) = self.order(index, arguments);
        assert_eq!((found, talk.contains(why)), (code, true), "{arguments:?}: {talk}");
    }

    fn submits(&self, index: usize) -> (i32, String) {
        let (url, key) = (self.0.url(index), self.0.key());
        let put = r#"{"put":{"title":"test","key":"k","value":"v"}}"#;
        told(&run(&["submit", "--node", url, "--key", key.to_str().unwrap(), put]))
    }

    fn audited(&self, seat: usize) -> Vec<Value> {
        let config = self.0.config(seat);
        let output = run(&["audit", "export", "-c", config.to_str().unwrap()]);
        assert_eq!(told(&output).0, 0, "{}", told(&output).1);
        data(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[test]
fn operators_have_nodes_do_things_by_command_and_every_order_is_written_down() {
    let network = Operated::start();
    let stranger = network.0.key();
    let (code, _, talk) = network.order_as(&stranger, 0, &["read-only", "on"]);
    assert_eq!((code, talk.contains("no operator's")), (77, true), "{talk}");

    assert!(network.is_done(0, &["read-only", "on"]).contains("takes no transactions"));
    let (code, talk) = network.submits(0);
    assert!(code != 0 && talk.contains("read-only"), "{talk}");
    network.is_refused(0, &["read-only", "on"], 6, "already");
    network.is_refused(0, &["read-only", "off", "--name", "s2"], 4, "this is s1");
    network.is_refused(0, &["restart-actor", "console", "--name", "s2"], 4, "this is s1");
    network.is_done(0, &["read-only", "off"]);
    assert_eq!(network.submits(0).0, 0);

    assert!(network.is_done(1, &["log-level", "standin_consensus=debug,info"]).contains("standin_consensus=debug"));
    network.is_refused(1, &["log-level", "no=such=filter"], 6, "is no filter");

    assert!(network.is_done(2, &["restart-actor", "console"]).contains("started again"));
    network.is_refused(2, &["restart-actor", "replica"], 6, "never started again");
    network.is_refused(2, &["restart-actor", "nobody"], 4, "there is no actor");

    network.is_refused(0, &["drain"], 6, "without an auth node");
    network.is_refused(0, &["switch", "nowhere"], 4, "nowhere");

    // The second node's.
    let acts = network.audited(2);
    bundled(&network);
    let said: Vec<_> = acts.iter().map(|act| act["act"]["outcome"].as_str().unwrap().to_owned()).collect();
    assert_eq!(said[0], "begun");
    assert!(said[1].starts_with("done: "), "{said:?}");
    assert!(said[2].starts_with("refused by malformed"), "{said:?}");
    assert!(acts.iter().all(|act| act["act"]["reason"] == "a test" && act["act"]["role"] == "admin"), "{acts:?}");
}

#[test]
fn a_chain_is_not_brought_to_a_stand_by_mistake() {
    let network = Operated::start();
    // A node counts the seats that it hears: all of them soon, and the one that is paused not for long.
    let shows = |index: usize, code: i32, what: &str| {
        let begun = Instant::now();
        loop {
            let output = run(&["pause", "--node", network.0.url(index), "--dry-run"]);
            if told(&output).0 == code {
                assert!(format!("{}{}", data(&output), told(&output).1).contains(what), "{output:?}");
                return;
            }
            assert!(begun.elapsed() < WITHIN, "{output:?}");
        }
    };
    shows(3, 0, "The chain goes on");
    network.is_done(3, &["pause"]);
    assert_eq!(network.submits(0).0, 0, "three of four");
    shows(2, 6, "stand still");
    let halted = network.is_done(2, &["pause", "--halt"]);
    assert!(halted.contains("says nothing"), "{halted}");
    let health = run(&["health", "--node", network.0.url(2)]);
    assert_eq!(told(&health).0, 3, "a node that is paused is not ready");
    network.is_done(2, &["resume"]);
    network.is_done(3, &["resume"]);
    assert_eq!(network.submits(2).0, 0, "it goes on");
    network.0.wait_all_ready();
}

#[actix_web::test]
async fn over_http_an_order_needs_a_login_a_reason_and_what_was_shown_and_is_carried_out_once() {
    let network = Operated::start();
    let host = network.0.url(0).trim_start_matches("http://").to_owned();
    let cookie = |user: &str, role: &str| {
        let config = network.0.config(1);
        let link = data(&run(&["console-token", "-c", config.to_str().unwrap(), "--user", user, "--role", role]));
        let token = link.trim().split_once("#t=").unwrap().1.to_owned();
        let host = host.clone();
        async move {
            let login = awc::Client::default().post(format!("http://{host}/console/login"));
            let answer =
                login.insert_header(("origin", format!("http://{host}"))).send_json(&json!({ "token": token }));
            let answer = answer.await.unwrap();
            let cookie = answer.headers().get("set-cookie").unwrap().to_str().unwrap();
            cookie.split(';').next().unwrap().to_owned()
        }
    };
    let post = |path: &str, cookie: &str, origin: &str, body: Value| {
        let request = awc::Client::default().post(format!("http://{host}/api/v1/actions/{path}"));
        let request = request.insert_header(("cookie", cookie)).insert_header(("origin", origin));
        async move {
            let mut answer = request.send_json(&body).await.unwrap();
            let status = answer.status().as_u16();
            (status, serde_json::from_slice::<Value>(&answer.body().await.unwrap()).unwrap())
        }
    };
    let (viewer, operator) = (cookie("viewer", "viewer").await, cookie("operator", "operator").await);
    let own = format!("http://{host}");
    let order = json!({ "on": "", "args": { "set": "on" } });
    let (status, shown) = post("read-only/preview", "", &own, order.clone()).await;
    assert_eq!(status, 200, "{shown}");
    let ask = |id: &str, changes: Value| {
        let mut ask =
            json!({ "id": id, "order": order, "reason": "a test", "confirm": shown["confirm"], "seen": shown["seen"] });
        ask.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        ask
    };
    let refusals = [
        ("read-only", operator.as_str(), "http://evil.example", ask("1", json!({})), 403, ""),
        ("read-only", "", own.as_str(), ask("1", json!({})), 401, ""),
        ("read-only", viewer.as_str(), &own, ask("1", json!({})), 403, "role_too_low"),
        ("restart-actor", operator.as_str(), &own, ask("1", json!({})), 403, "role_too_low"),
        ("read-only", operator.as_str(), &own, ask("", json!({})), 400, "no_id"),
        ("read-only", operator.as_str(), &own, ask("2", json!({ "reason": " " })), 400, "no_reason"),
        ("read-only", operator.as_str(), &own, ask("3", json!({ "confirm": "yes" })), 409, "not_confirmed"),
        ("read-only", operator.as_str(), &own, ask("4", json!({ "seen": "0000000000000000" })), 409, "changed"),
        (
            "read-only",
            operator.as_str(),
            &own,
            ask("5", json!({ "order": { "args": { "set": "maybe" } } })),
            400,
            "malformed",
        ),
        ("read-only", operator.as_str(), &own, ask("6", json!({ "more": 1 })), 400, ""),
        (
            "read-only",
            operator.as_str(),
            &own,
            ask("10", json!({ "order": { "args": { "set": "on", "x": "" } } })),
            400,
            "malformed",
        ),
        ("no-such", operator.as_str(), &own, ask("7", json!({})), 404, "unknown_action"),
        ("read-only", operator.as_str(), &own, ask("8", json!({ "reason": "x".repeat(20_000) })), 413, ""),
    ];
    for (action, cookie, origin, body, status, code) in refusals {
        let (found, said) = post(action, cookie, origin, body.clone()).await;
        assert_eq!(found, status, "{action} {body}: {said}");
        assert_eq!(said["code"].as_str().unwrap_or_default(), code, "{action}: {said}");
        assert!(!said["error"].as_str().unwrap().is_empty());
    }
    let (status, done) = post("read-only", &operator, &own, ask("9", json!({}))).await;
    assert_eq!(status, 200, "{done}");
    let (status, again) = post("read-only", &operator, &own, ask("9", json!({}))).await;
    assert_eq!((status, &again), (200, &done), "carried out once, and answered twice");
    let other = json!({ "order": { "on": "", "args": { "set": "off" } } });
    assert_eq!(post("read-only", &operator, &own, ask("9", other)).await.1["code"], "id_used");
    two_operators_at_once(&cookie("carol", "operator").await, &operator, &own, &post).await;
    let acts = network.audited(1);
    let acts = acts.into_iter().filter(|act| act["act"]["reason"] == "a test").collect::<Vec<_>>();
    let done: Vec<_> =
        acts.iter().filter(|act| act["act"]["outcome"].as_str().unwrap().starts_with("done: ")).collect();
    assert_eq!(done.len(), 1, "{acts:?}");
    assert_eq!((&done[0]["act"]["user"], &done[0]["act"]["on"]), (&json!("operator"), &json!("{\"set\":\"on\"}")));
}

/// Both have seen the same effect and press at the same moment: one order is carried out, and the other is told that this is not what it saw any more.
async fn two_operators_at_once<Answer: Future<Output = (u16, Value)>>(
    carol: &str,
    operator: &str,
    own: &str,
    post: &impl Fn(&str, &str, &str, Value) -> Answer,
) {
    let order = json!({ "on": "", "args": { "set": "off" } });
    let (_, shown) = post("read-only/preview", "", own, order.clone()).await;
    let press = |cookie: &str, id: &str| {
        let (confirm, seen) = (&shown["confirm"], &shown["seen"]);
        let ask = json!({ "id": id, "order": order, "reason": "both", "confirm": confirm, "seen": seen });
        post("read-only", cookie, own, ask)
    };
    let (one, other) = tokio::join!(press(carol, "20"), press(operator, "21"));
    let (done, refused) = if one.0 == 200 { (one, other) } else { (other, one) };
    assert_eq!((done.0, refused.0), (200, 409), "{done:?} {refused:?}");
    let code = refused.1["code"].as_str().unwrap();
    assert!(["changed", "in_progress", "no_change"].contains(&code), "{refused:?}");
}

/// What is wrong can be told in one file, without a secret in it.
fn bundled(network: &Operated) {
    let (config, out) = (network.0.config(2), network.0.path("bundle.json"));
    let urls = format!("{},http://127.0.0.1:9", network.0.url(1));
    let (config, path) = (config.to_str().unwrap(), out.to_str().unwrap());
    let bundle = ["debug", "bundle", "--node", &urls, "-c", config, "--out", path];
    assert_eq!(told(&run(&bundle)).0, 0);
    let text = std::fs::read_to_string(&out).unwrap();
    let told_of: Value = serde_json::from_str(&text).unwrap();
    let node = &told_of["nodes"][network.0.url(1)];
    assert_eq!(node["/api/v1/status"]["json"]["name"], "s2");
    assert!(node["/metrics"]["text"].as_str().unwrap().contains("standin_height"));
    assert!(told_of["nodes"]["http://127.0.0.1:9"]["/livez"]["error"].is_string(), "one that is gone is told of, too");
    assert_eq!(told_of["configurations"][config]["audit"][0]["action"], "log-level");
    let console = &told_of["configurations"][config]["console"];
    let has = |stream: &str, field: &str| {
        let entries = console[stream]["entries"].as_array().unwrap_or_else(|| panic!("{console}"));
        entries.iter().all(|entry| entry[field].is_string()) && !entries.is_empty()
    };
    assert!(has("logs", "text") && has("events", "kind"), "{console}");
    let settings = told_of["configurations"][config]["settings"].as_array().unwrap();
    assert!(settings.iter().any(|setting| setting["key"] == "consensus.view_timeout_ms"));
    let logged_in = std::fs::read_dir(network.0.path("s2/data/console/logins")).unwrap();
    for login in logged_in.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()) {
        assert!(!login.contains("debug bundle"), "its login has ended: {login}");
    }
    for key in ["net/s2/node.key", "net/s2/tls.key"].map(|file| network.0.path(&file[4..])) {
        let secret = std::fs::read_to_string(key).unwrap();
        let secret = secret.lines().map(str::trim).find(|line| line.len() >= 32 && !line.starts_with('-')).unwrap();
        assert!(!text.contains(secret));
    }
    assert_ne!(told(&run(&bundle)).0, 0, "nothing is written over");
}
