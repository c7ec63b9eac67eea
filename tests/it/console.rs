//! The admin console of a running node, as a browser and as those who are none see it.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::network::{Running, TestNetwork, data, run, told};
use crate::schema::faults;

/// Longer than anything here takes.
const WITHIN: Duration = Duration::from_secs(30);

/// A node's console, as one browser sees it.
struct Browser {
    /// Host and port.
    host: String,
    cookie: String,
}

impl Browser {
    fn link(network: &TestNetwork, seat: usize, role: &str) -> (String, String) {
        let config = network.config(seat);
        let output = run(&["console-token", "-c", config.to_str().unwrap(), "--user", "ops", "--role", role]);
        assert_eq!(told(&output).0, 0, "{}", told(&output).1);
        let link = data(&output).trim().to_owned();
        let (address, token) = link.split_once("/console/#t=").unwrap();
        (address.trim_start_matches("http://").to_owned(), token.to_owned())
    }

    async fn post_login(host: &str, origin: &str, token: &str) -> (u16, Option<String>) {
        let request =
            awc::Client::default().post(format!("http://{host}/console/login")).insert_header(("origin", origin));
        let answer = request.send_json(&json!({ "token": token })).await.unwrap();
        let cookie = answer.headers().get("set-cookie").map(|value| value.to_str().unwrap().to_owned());
        (answer.status().as_u16(), cookie)
    }

    async fn log_in(network: &TestNetwork, seat: usize) -> Self {
        let (host, token) = Self::link(network, seat, "viewer");
        let (status, cookie) = Self::post_login(&host, &format!("http://{host}"), &token).await;
        assert_eq!(status, 200);
        let cookie = cookie.unwrap();
        for rule in ["HttpOnly", "SameSite=Strict"] {
            assert!(cookie.contains(rule), "{cookie}");
        }
        Self { host, cookie: cookie.split(';').next().unwrap().to_owned() }
    }

    async fn upgrade(&self, origin: Option<&str>, cookie: &str) -> Result<WebSocketStream<TcpStream>, u16> {
        let mut request = format!("ws://{}/console/ws", self.host).into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "standin-console.v1".parse().unwrap());
        request.headers_mut().insert("cookie", cookie.parse().unwrap());
        if let Some(origin) = origin {
            request.headers_mut().insert("origin", origin.parse().unwrap());
        }
        let stream = TcpStream::connect(&self.host).await.unwrap();
        match client_async(request, stream).await {
            Ok((socket, answer)) => {
                assert_eq!(answer.headers()["sec-websocket-protocol"], "standin-console.v1");
                Ok(socket)
            }
            Err(Error::Http(answer)) => Err(answer.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    async fn open(&self) -> Page {
        let origin = format!("http://{}", self.host);
        let mut page = Page { socket: self.upgrade(Some(&origin), &self.cookie).await.unwrap() };
        let hello = page.next().await;
        assert_eq!((&hello["t"], &hello["proto"]), (&json!("hello"), &json!(1)), "{hello}");
        assert_eq!(hello["user"], json!({ "name": "ops", "role": "viewer" }));
        page
    }

    async fn get(&self, path: &str, tag: Option<&str>) -> (u16, String, String) {
        let mut request = awc::Client::default().get(format!("http://{}{path}", self.host));
        if let Some(tag) = tag {
            request = request.insert_header(("if-none-match", tag));
        }
        let mut answer = request.send().await.unwrap();
        let header = |name: &str| answer.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
        let (tag, policy) = (header("etag"), header("content-security-policy"));
        assert!(answer.body().await.is_ok());
        (answer.status().as_u16(), tag, policy)
    }
}

/// An open websocket.
struct Page {
    socket: WebSocketStream<TcpStream>,
}

impl Page {
    async fn frame(&mut self) -> Message {
        tokio::time::timeout(WITHIN, self.socket.next()).await.expect("nothing came").unwrap().unwrap()
    }

    async fn next(&mut self) -> Value {
        loop {
            if let Message::Text(text) = self.frame().await {
                return serde_json::from_str(&text).unwrap();
            }
        }
    }

    async fn say(&mut self, text: impl Into<String>) {
        self.socket.send(Message::text(text.into())).await.unwrap();
    }

    async fn until(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        loop {
            let message = self.next().await;
            if fits(&message) {
                return message;
            }
        }
    }

    /// Follows the table of nodes until it is so.
    async fn until_nodes(&mut self, rows: &mut serde_json::Map<String, Value>, fits: impl Fn(&[Value]) -> bool) {
        loop {
            let all: Vec<_> = rows.values().cloned().collect();
            if fits(&all) {
                return;
            }
            let message = self.next().await;
            if message["t"] == "snap" {
                *rows = message["data"].as_object().unwrap().clone();
            }
            for delta in message["d"].as_array().into_iter().flatten().filter(|delta| delta["topic"] == "nodes") {
                for (key, change) in delta["patch"].as_object().unwrap() {
                    let row = rows.entry(key).or_insert_with(|| json!({})).as_object_mut().unwrap();
                    row.extend(change.as_object().unwrap().clone());
                }
            }
        }
    }

    async fn closed_with(&mut self) -> u16 {
        loop {
            if let Message::Close(frame) = self.frame().await {
                return frame.map_or(0, |frame| frame.code.into());
            }
        }
    }
}

#[actix_rt::test]
async fn the_console_shows_all_nodes_and_a_killed_one_at_once() {
    let mut network = TestNetwork::start();
    let browser = Browser::log_in(&network, 1).await;
    let mut page = browser.open().await;
    page.say(r#"{"t":"sub","id":1,"topic":"nodes"}"#).await;
    let mut rows = serde_json::Map::new();
    let all_live =
        |rows: &[Value]| rows.len() == 4 && rows.iter().all(|row| row["state"] == "live" && row["name"].is_string());
    page.until_nodes(&mut rows, all_live).await;
    network.kill(3);
    let is_gone = |rows: &[Value]| rows.iter().any(|row| row["name"] == "s3" && row["state"] == "unreachable");
    page.until_nodes(&mut rows, is_gone).await;
    let gone = rows.values().filter(|row| row["state"] != "live").count();
    assert_eq!(gone, 1, "{rows:?}");
    network.start_node(3);
    page.until_nodes(&mut rows, all_live).await;
    network.stop(1);
    assert_eq!(page.closed_with().await, u16::from(CloseCode::Restart), "the page is told that it may come back");
    network.wait_stopped();
    network.start_node(1);
    network.wait_all_ready();
    drop(browser.open().await);
}

#[actix_rt::test]
async fn whoever_may_not_see_the_console_is_refused() {
    let network = TestNetwork::start();
    let (host, token) = Browser::link(&network, 1, "viewer");
    let own = format!("http://{host}");
    for foreign in ["http://evil.example", "null", &format!("http://evil.example/{host}")] {
        assert_eq!(Browser::post_login(&host, foreign, &token).await.0, 403, "{foreign}");
    }
    assert_eq!(Browser::post_login(&host, &own, "guessed").await.0, 401);
    let (status, cookie) = Browser::post_login(&host, &own, &token).await;
    assert!(status == 200 && !cookie.unwrap().contains("Secure"), "plain HTTP on loopback");
    let (_, over_tls) = Browser::link(&network, 1, "viewer");
    let (status, cookie) = Browser::post_login(&host, &format!("https://{host}"), &over_tls).await;
    assert!(status == 200 && cookie.unwrap().contains("Secure"), "a page behind a proxy with TLS");
    assert_eq!(Browser::post_login(&host, &own, &token).await.0, 401, "a link opens once");
    let config = network.config(1);
    let link_at = |url: &str| {
        let mut command = crate::network::standin();
        command.args(["console-token", "-c", config.to_str().unwrap()]).env("STANDIN__CONSOLE__URL", url);
        crate::network::ended_within(&mut command, WITHIN)
    };
    let link = data(&link_at("https://ledger.example/"));
    assert!(link.starts_with("https://ledger.example/console/#t="), "{link}");
    let (code, why) = told(&link_at("ledger.example"));
    assert!(code == 78 && why.contains("STANDIN__CONSOLE__URL: `console.url`"), "{code} {why}");
    let browser = Browser::log_in(&network, 1).await;
    audit_tells_of_logins(&network, 3);
    assert_eq!(browser.upgrade(Some(&own), "").await.err(), Some(401));
    assert_eq!(browser.upgrade(Some(&own), "standin-console-0=x").await.err(), Some(401));
    assert_eq!(browser.upgrade(Some("http://evil.example"), &browser.cookie).await.err(), Some(403));
    assert_eq!(browser.upgrade(None, &browser.cookie).await.err(), Some(403));
    let (status, tag, policy) = browser.get("/console/", None).await;
    assert!(status == 200 && policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(browser.get("/console/", Some(&tag)).await.0, 304);
    for outside in ["/console/nothing.js", "/console/../node.toml", "/console/%2e%2e/node.toml", "/console//etc/passwd"]
    {
        assert_eq!(browser.get(outside, None).await.0, 404, "{outside}");
    }
}

/// Follows the events of a node until one of this kind comes; gives all, each with the number that stands with it.
async fn events_until(host: &str, last: Option<&str>, kind: &str) -> Vec<(String, Value)> {
    let mut request = awc::Client::default().get(format!("http://{host}/api/v1/events")).timeout(WITHIN);
    if let Some(last) = last {
        request = request.insert_header(("last-event-id", last));
    }
    let mut answer = request.send().await.unwrap();
    assert_eq!(answer.headers().get("content-type").unwrap(), "text/event-stream");
    let (mut text, mut events) = (String::new(), Vec::new());
    let begun = std::time::Instant::now();
    loop {
        // Comments come, too.
        assert!(begun.elapsed() < WITHIN, "no event tells `{kind}`: {events:?}");
        let chunk = tokio::time::timeout(WITHIN, answer.next()).await.expect("nothing came").unwrap().unwrap();
        text.push_str(std::str::from_utf8(&chunk).unwrap());
        while let Some((event, rest)) = text.split_once("\n\n") {
            let field = |name| event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
            let told =
                field("data: ").map(|data| (field("id: ").unwrap_or_default(), serde_json::from_str(&data).unwrap()));
            events.extend(told);
            text = rest.to_owned();
        }
        let has_come = events.iter().any(|(_, event): &(String, Value)| event["kind"] == kind);
        // The number stands with the last of those that came together.
        if has_come && events.last().is_some_and(|(id, _)| !id.is_empty()) {
            return events;
        }
    }
}

#[actix_rt::test]
async fn events_can_be_followed_and_taken_up_again() {
    let mut network = TestNetwork::start();
    let host = network.url(1).trim_start_matches("http://").to_owned();
    // Its seat leads the first view: what is submitted then waits for the next.
    network.kill(1);
    let (url, key) = (network.url(1).to_owned(), network.key());
    let submits = std::thread::spawn(move || {
        let put = r#"{"put":{"title":"t","key":"k","value":"v"}}"#;
        run(&["submit", "--node", &url, "--key", key.to_str().unwrap(), put])
    });
    let first = events_until(&host, None, "view left").await;
    // Whoever has all but the last gets the last, and whoever has another life's gets all.
    let (id, newest) = first.last().unwrap();
    let (epoch, sequence) = id.split_once('/').unwrap();
    let before = format!("{epoch}/{}", sequence.parse::<u64>().unwrap() - 1);
    let kind = newest["kind"].as_str().unwrap();
    assert_eq!(events_until(&host, Some(&before), kind).await[0].1, *newest);
    let all = events_until(&host, Some(&format!("another/{sequence}")), "view left").await;
    assert!(first.iter().all(|(_, event)| all.iter().any(|(_, other)| other == event)), "{all:?}");
    assert_eq!(told(&submits.join().unwrap()).0, 0);
}

/// While the node runs; and whoever changes a line is found out.
fn audit_tells_of_logins(network: &TestNetwork, logins: usize) {
    let config = network.config(1);
    let audit = |command| run(&["audit", command, "-c", config.to_str().unwrap()]);
    assert_eq!(told(&audit("verify")).0, 0, "{}", told(&audit("verify")).1);
    let exported = data(&audit("export"));
    assert_eq!(exported.matches(r#""user":"ops","role":"viewer","action":"log in""#).count(), logins, "{exported}");
    let path = network.path("s1/data/console/audit.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(exported.contains(r#""action":"log in","outcome":"refused: "#), "a guess is told of: {exported}");
    std::fs::write(&path, text.replacen("viewer", "admin", 1)).unwrap();
    let changed = text.lines().position(|line| line.contains("viewer")).unwrap() + 1;
    let (code, why) = told(&audit("verify"));
    assert!(code == 3 && why.contains(&format!("line {changed}: it was changed")), "{code} {why}");
    std::fs::write(&path, text).unwrap();
    let elsewhere = network.config(2);
    assert_eq!(told(&run(&["audit", "verify", "-c", elsewhere.to_str().unwrap()])).0, 0, "nobody was there");
}

#[actix_rt::test]
async fn what_a_console_says_is_bounded_and_checked() {
    let network = TestNetwork::start();
    let browser = Browser::log_in(&network, 2).await;
    let mut page = browser.open().await;
    for bad in ["", "{", r#"{"t":"fly"}"#, r#"{"t":"sub","id":1,"topic":"nodes","more":1}"#] {
        page.say(bad).await;
        let refused = page.until(|message| message["t"] == "res").await;
        assert_eq!((&refused["ok"], &refused["err"]["code"]), (&json!(false), &json!("malformed")), "{bad}: {refused}");
    }
    page.say(r#"{"t":"sub","id":2,"topic":"nowhere"}"#).await;
    let refused = page.until(|message| message["t"] == "res" && message["ok"] == false).await;
    assert_eq!(refused["err"]["code"], "unknown_topic");
    let mut giant = browser.open().await;
    giant.say("x".repeat(65_537)).await;
    assert_eq!(giant.closed_with().await, u16::from(CloseCode::Size));
    let mut flood = browser.open().await;
    for id in 0..100 {
        // Closed at last: what is still said is not heard.
        if flood.socket.send(Message::text(format!(r#"{{"t":"ping","id":{id}}}"#))).await.is_err() {
            break;
        }
    }
    assert_eq!(flood.closed_with().await, 4429);
    let mut open = Vec::new();
    loop {
        let socket = browser.upgrade(Some(&format!("http://{}", browser.host)), &browser.cookie).await.unwrap();
        let mut one_more = Page { socket };
        match one_more.frame().await {
            Message::Close(frame) => {
                let frame = frame.unwrap();
                assert!(u16::from(frame.code) == 4503 && frame.reason.contains("close one"), "{frame:?}");
                break;
            }
            _ => open.push(one_more),
        }
    }
    assert!((8..=16).contains(&open.len()), "{} are open", open.len());
    page.say(r#"{"t":"ping","id":9}"#).await;
    assert_eq!(page.until(|message| message["id"] == 9).await["ok"], true, "the first is served as before");
}

/// What nodes say, and what they take, is what the schema says: everything of all topics, and each kind of message.
#[actix_rt::test]
async fn the_schema_of_the_protocol_is_what_is_spoken() {
    let schema = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/protocol/console.schema.json"));
    let schema: Value = serde_json::from_str(&schema.unwrap()).unwrap();
    let defs = &schema["$defs"];
    let fits = |schema_of: &Value, value: &Value, at: &str| {
        assert_eq!(faults(&schema, schema_of, value, at), Vec::<String>::new(), "{value}");
    };
    let network = TestNetwork::start();
    let (line, key) = (network.write("line", "a\n"), network.key());
    let (line, key) = (line.to_str().unwrap(), key.to_str().unwrap());
    let published = run(&["publish", "rates", "--node", network.url(0), "--key", key, "--file", line]);
    assert_eq!(told(&published).0, 0, "{}", told(&published).1);
    let mut follow = crate::network::standin();
    follow.args(["follow", "rates", "--node", network.url(0), "--from", "1"]);
    follow.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let _follows = Running(follow.spawn().unwrap());
    let browser = Browser::log_in(&network, 1).await;
    let socket = browser.upgrade(Some(&format!("http://{}", browser.host)), &browser.cookie).await.unwrap();
    let mut page = Page { socket };
    let hello = page.next().await;
    fits(&defs["server"], &hello, "hello");
    let topics: Vec<_> =
        hello["topics"].as_array().unwrap().iter().map(|topic| topic.as_str().unwrap().to_owned()).collect();
    let mut said = Vec::new();
    let mut say = async |page: &mut Page, message: Value| {
        fits(&defs["client"], &message, "client");
        said.push(message["t"].clone());
        page.say(message.to_string()).await;
    };
    for (id, topic) in topics.iter().enumerate() {
        say(&mut page, json!({ "t": "sub", "id": id, "topic": topic })).await;
    }
    say(&mut page, json!({ "t": "sub", "id": 90, "topic": "nowhere", "filter": { "a": "b" }, "since": { "epoch": "e", "seq": 1 } })).await;
    say(&mut page, json!({ "t": "unsub", "topic": "nowhere" })).await;
    say(&mut page, json!({ "t": "ping", "id": 91 })).await;
    let mut kinds = std::collections::BTreeSet::new();
    let mut rows = std::collections::BTreeMap::<String, usize>::new();
    let wanted =
        ["actors", "blocks", "consensus", "events", "logs", "nodes", "topics", "terminals", "transactions", "audit"];
    while kinds.len() < 3 || !wanted.iter().all(|topic| rows.get(*topic).is_some_and(|count| *count > 0)) {
        let message = page.next().await;
        fits(&defs["server"], &message, "server");
        kinds.insert(message["t"].as_str().unwrap().to_owned());
        let deltas = message["d"].as_array().into_iter().flatten();
        for part in deltas.chain(Some(&message).filter(|message| message["t"] == "snap")) {
            let topic = part["topic"].as_str().unwrap();
            let table = part["patch"].as_object().or(part["data"].as_object());
            let stream = part["add"].as_array().or(part["data"].as_array());
            for (key, row) in table.into_iter().flatten().filter(|(_, row)| !row.is_null()) {
                // Of a patch, what went is null; and what is not said has not changed.
                let mut row = row.clone();
                row.as_object_mut().unwrap().retain(|_, value| !value.is_null());
                let mut schema_of = defs["rows"][topic].clone();
                assert!(schema_of.is_object(), "{topic} is not told");
                if part["patch"].is_object() {
                    schema_of["required"] = json!([]);
                }
                fits(&schema_of, &row, &format!("{topic} {key}"));
                *rows.entry(topic.to_owned()).or_default() += 1;
            }
            for entry in stream.into_iter().flatten() {
                assert!(defs["entries"][topic].is_object(), "{topic} is not told");
                fits(&defs["entries"][topic], entry, topic);
                *rows.entry(topic.to_owned()).or_default() += 1;
            }
        }
    }
    assert!(["sub", "unsub", "ping"].iter().all(|kind| said.contains(&json!(kind))));
}

/// A thousand connections that say nothing, or half a request, and a thousand pages that nobody may have open: the node serves whoever has work for it.
#[actix_rt::test]
async fn a_thousand_connections_leave_the_node_to_those_who_have_work_for_it() {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: files.maximum, maximum: files.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let network = TestNetwork::start();
    let browser = Browser::log_in(&network, 1).await;
    let mut page = browser.open().await;
    let mut idle = Vec::new();
    for number in 0..1_000 {
        let mut connection = TcpStream::connect(&browser.host).await.unwrap();
        if number % 2 == 0 {
            connection.write_all(b"GET /api/v1/status HTTP/1.1\r\nhost: a-slow-one\r\n").await.unwrap();
        }
        idle.push(connection);
    }
    for _ in 0..1_000 {
        let opened = browser.upgrade(Some(&format!("http://{}", browser.host)), "standin-console=stolen").await;
        assert_eq!(opened.err(), Some(401));
    }
    page.say(r#"{"t":"ping","id":7}"#).await;
    assert_eq!(page.until(|message| message["id"] == 7).await["ok"], true);
    let taken = network.submit(&[r#"{"put":{"title":"test","key":"k","value":"v"}}"#]);
    assert_eq!(told(&taken).0, 0, "{}", told(&taken).1);
    drop(idle);
    assert_eq!(told(&run(&["health", "--node", network.url(0)])).0, 0);
}
