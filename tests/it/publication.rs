//! Data on their way from a source to terminals through real nodes, while the one that publishes dies, stands still, and comes back.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actix_web::web::{Payload, get, to};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use standin::client::Client;
use standin::publication::{Begin, Notice, Terminal};
use standin_foundation::{Digest, Epoch, Seat, SecretKey, Term};
use standin_publisher::machine::terminal::{Alarm, Position};
use standin_publisher::machine::witness::{TakeoverProof, Word};
use standin_publisher::messages::Takeover;
use standin_publisher::terminal::{SUBPROTOCOL, ToTerminal};
use standin_publisher::{Fence, Sequence, Topic};

use crate::network::{TestNetwork, data, ended_within, refused, run, sound, standin, told};

/// Nothing here takes longer.
const WITHIN: Duration = Duration::from_secs(60);

/// Conditions are looked at again after this time, until they hold.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A child that dies with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn all(network: &TestNetwork) -> String {
    (0..4).map(|index| network.url(index)).collect::<Vec<_>>().join(",")
}

/// A source that pushes numbers, one every few ms, as long as it is asked to.
struct Source {
    child: Running,
    next: u64,
}

impl Source {
    fn begin(network: &TestNetwork, topic: &str) -> Self {
        let mut command = standin();
        command.args(["publish", "--node", &all(network), "--key", network.key().to_str().unwrap(), topic]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        Self { child: Running(command.spawn().unwrap()), next: 1 }
    }

    /// Pushes so many more, some ms apart.
    fn push(&mut self, count: u64) {
        let stdin = self.child.0.stdin.as_mut().unwrap();
        for _ in 0..count {
            writeln!(stdin, "{}", self.next).unwrap();
            stdin.flush().unwrap();
            self.next += 1;
            // A source of the real world does not push as fast as it can.
            std::thread::park_timeout(Duration::from_millis(3));
        }
    }

    /// No more comes; waits until everything is queued.
    fn end(mut self) -> u64 {
        drop(self.child.0.stdin.take());
        let deadline = Instant::now() + WITHIN;
        let status = loop {
            match self.child.0.try_wait().unwrap() {
                Some(status) => break status,
                None => assert!(Instant::now() < deadline, "the source does not end"),
            }
            std::thread::park_timeout(LOOK_AGAIN);
        };
        let mut said = String::new();
        std::io::Read::read_to_string(&mut self.child.0.stderr.take().unwrap(), &mut said).unwrap();
        assert!(status.success(), "{said}");
        self.next - 1
    }
}

/// A terminal that prints to a file.
fn terminal(network: &TestNetwork, topic: &str, out: &Path, arguments: &[&str]) -> Running {
    let mut command = standin();
    command.args(["follow", "--node", &all(network), topic]).args(arguments);
    command.stdout(std::fs::File::options().append(true).create(true).open(out).unwrap()).stderr(Stdio::null());
    Running(command.spawn().unwrap())
}

fn lines(out: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(out).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| line.parse().unwrap()).collect()
}

fn wait_for_lines(out: &Path, count: u64) -> Vec<u64> {
    let deadline = Instant::now() + WITHIN;
    loop {
        let found = lines(out);
        if found.len() as u64 >= count {
            return found;
        }
        assert!(Instant::now() < deadline, "{} of {count} data came to {}", found.len(), out.display());
        std::thread::park_timeout(LOOK_AGAIN);
    }
}

/// The seat whose node publishes a topic.
fn publishing(network: &TestNetwork, topic: &str) -> usize {
    let deadline = Instant::now() + WITHIN;
    loop {
        let publishes = |seat: &usize| {
            let shown = run(&["lock", "list", "--node", network.url(*seat - 1), "-o", "jsonl", "--timeout", "2"]);
            let lines: Vec<serde_json::Value> =
                data(&shown).lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            lines.iter().any(|line| line["topic"] == topic && line["publishes_here"] == true)
        };
        if let Some(seat) = (1..=4).find(publishes) {
            return seat;
        }
        assert!(Instant::now() < deadline, "nobody publishes {topic}");
    }
}

fn signal(network: &TestNetwork, seat: usize, name: &str) {
    let pid = network.pid(seat).to_string();
    assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
}

/// H2, H4: what was acknowledged arrives once and in order, although the holder is killed under load, twice.
#[test]
fn a_stream_goes_on_through_the_death_of_whoever_publishes_it() {
    let mut network = TestNetwork::start();
    let mut source = Source::begin(&network, "stream");
    source.push(50);
    let out = network.path("seen");
    let following = terminal(&network, "stream", &out, &["--from", "1"]);
    wait_for_lines(&out, 50);
    let first = publishing(&network, "stream");
    source.push(30);
    network.kill(first);
    source.push(120);
    let second = publishing(&network, "stream");
    assert_ne!(first, second);
    network.start_node(first);
    network.wait_all_ready();
    source.push(30);
    network.kill(second);
    source.push(120);
    let count = source.end();
    assert_eq!(wait_for_lines(&out, count), (1..=count).collect::<Vec<_>>());
    drop(following);

    let holdings = recorded(&network, first, count);
    assert!(holdings.len() >= 3 && holdings.iter().skip(1).all(|holding| holding["ended"] == "lost"), "{holdings:?}");
    let published = |holding: &serde_json::Value| (holding["from"].as_u64().unwrap(), holding["upto"].as_u64());
    let mut next = 1;
    for (from, upto) in holdings.iter().rev().map(published) {
        assert_eq!(from, next, "{holdings:?}");
        next = upto.map_or(next, |upto| upto + 1);
    }
    assert_eq!(next, count + 1, "every datum has its holding");
}

/// Who published what, newest first, once the chain tells it of so many data: terminals have a datum before its checkpoint is on the chain.
fn recorded(network: &TestNetwork, seat: usize, count: u64) -> Vec<serde_json::Value> {
    let deadline = Instant::now() + WITHIN;
    loop {
        let shown = sound(&["lock", "show", "stream", "--node", network.url(seat - 1), "-o", "json"]);
        let mut shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        let serde_json::Value::Array(holdings) = shown["holdings"].take() else { panic!("{shown}") };
        if holdings.iter().filter_map(|holding| holding["upto"].as_u64()).max() == Some(count) {
            return holdings;
        }
        assert!(Instant::now() < deadline, "the chain does not tell of {count} data: {holdings:?}");
        std::thread::park_timeout(LOOK_AGAIN);
    }
}

/// H1: a holder that is frozen loses the lock after its lease, and nothing of it is seen when it wakes.
#[test]
fn nothing_is_seen_of_a_holder_that_wakes_up_late() {
    let network = TestNetwork::start();
    let mut source = Source::begin(&network, "stream");
    source.push(20);
    let out = network.path("seen");
    let _following = terminal(&network, "stream", &out, &["--from", "1", "-o", "jsonl"]);
    let frozen = publishing(&network, "stream");
    source.push(20);
    signal(&network, frozen, "-STOP");
    source.push(400);
    let second = publishing(&network, "stream");
    assert_ne!(second, frozen);
    signal(&network, frozen, "-CONT");
    source.push(100);
    let count = source.end();
    let deadline = Instant::now() + WITHIN;
    let seen: Vec<serde_json::Value> = loop {
        let text = std::fs::read_to_string(&out).unwrap();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let seen: Vec<_> = whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        if seen.len() as u64 >= count {
            break seen;
        }
        assert!(Instant::now() < deadline, "{} of {count}", seen.len());
        std::thread::park_timeout(LOOK_AGAIN);
    };
    let numbers: Vec<u64> = seen.iter().map(|line| line["sequence"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=count).collect::<Vec<_>>());
    let fences: Vec<u64> = seen.iter().map(|line| line["fence"].as_u64().unwrap()).collect();
    assert!(fences.is_sorted() && fences.last() > fences.first(), "a fence never goes back: {fences:?}");
}

/// H6: a terminal that is killed anywhere goes on where it has stored that it stood, at other nodes, too.
#[test]
fn a_terminal_goes_on_from_where_it_stored_that_it_stood() {
    let network = TestNetwork::start();
    let mut source = Source::begin(&network, "stream");
    let (out, position) = (network.path("seen"), network.path("position"));
    let stored = ["--position", position.to_str().unwrap()];
    source.push(5);
    for _ in 0..4 {
        let following = terminal(&network, "stream", &out, &stored);
        source.push(40);
        drop(following);
        source.push(20);
    }
    let count = source.end();
    let _following = terminal(&network, "stream", &out, &stored);
    // It may have printed a frame and died before it stored that: then that frame comes again, and nothing else.
    let mut seen = wait_for_lines(&out, count);
    seen.dedup();
    let deadline = Instant::now() + WITHIN;
    while seen.last() != Some(&count) {
        assert!(Instant::now() < deadline, "{:?}", seen.last());
        std::thread::park_timeout(LOOK_AGAIN);
        seen = lines(&out);
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, (1..=count).collect::<Vec<_>>());

    let forged = std::fs::read_to_string(&position).unwrap();
    let mut forged: serde_json::Value = serde_json::from_str(&forged).unwrap();
    forged["chain"] = "11".repeat(32).into();
    std::fs::write(&position, forged.to_string()).unwrap();
    let nodes = all(&network);
    let mut command = standin();
    command.args(["follow", "--node", &nodes, "stream", stored[0], stored[1]]);
    let ended = ended_within(&mut command, WITHIN);
    assert_eq!(told(&ended).0, 6, "{}", told(&ended).1);
    assert!(told(&ended).1.contains("no frame that ends at"), "{}", told(&ended).1);
}

#[test]
fn what_cannot_be_published_or_followed_is_refused_with_the_reason() {
    let network = TestNetwork::start();
    let (node, key) = (network.url(0), network.key());
    let key = key.to_str().unwrap();
    refused(&["follow", "nowhere", "--node", node], 4, "there is no topic `nowhere`");
    refused(&["lock", "show", "nowhere", "--node", node], 4, "there is no topic `nowhere`");
    refused(&["follow", "UPPER", "--node", node], 2, "1 to 26 characters");
    let large = network.write("large", &format!("{}\n", "x".repeat(49_153)));
    let large = ["publish", "t", "--node", node, "--key", key, "--file", large.to_str().unwrap()];
    refused(&large, 6, "at most 49152 are allowed");
    let small = network.write("small", "EURUSD;1.08\nUSDJPY;151.2\n");
    sound(&["publish", "rates", "--node", node, "--key", key, "--file", small.to_str().unwrap(), "--id-before", ";"]);
    let seen = sound(&["follow", "rates", "--node", node, "--from", "2", "--count", "1", "-o", "jsonl"]);
    let seen: serde_json::Value = serde_json::from_str(seen.trim()).unwrap();
    assert_eq!((&seen["id"], &seen["value"], &seen["sequence"]), (&"USDJPY".into(), &"151.2".into(), &2.into()));
    let release = |key| ["lock", "release", "rates", "--node", node, "--key", key];
    refused(&release(key), 6, "approved by 0 operators, 1 are needed");
    sound(&release(network.path("operator.key").to_str().unwrap()));
    let shown = sound(&["lock", "show", "rates", "--node", node, "-o", "json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let ended = |holding: &serde_json::Value| holding["ended"] == "ordered";
    assert!(shown["holdings"].as_array().unwrap().iter().any(ended), "{shown}");
}

/// H11: a server that gives itself the topic, with all signatures that it can make, is found out, and the stream goes on from the others.
#[actix_web::test]
async fn a_server_that_makes_up_a_takeover_is_found_out() {
    let network = TestNetwork::start();
    let mut source = Source::begin(&network, "stream");
    source.push(30);
    let client = Client::new(network.url(0), Duration::from_secs(10));
    assert_eq!(source.end(), 30);
    let genesis = client.genesis().await.unwrap();
    let topic: Topic = "stream".parse().unwrap();
    let liar = SecretKey::read(&network.path("s1/node.key")).unwrap();
    let takeover = Takeover {
        topic,
        fence: Fence(99),
        owner: liar.public(),
        lease_ms: 1_000,
        from: Sequence(1),
        before: Digest::ZERO,
    };
    // A seat's own word, and one that it makes for another seat.
    let word = |seat| Word::sign(&genesis.digest(), &liar, takeover, (Epoch(0), Seat(seat), Term(0))).witness;
    let proof = TakeoverProof { takeover, epoch: Epoch(0), witnesses: vec![word(0), word(0), word(1)] };
    let says = [ToTerminal::Start(Position::default()), ToTerminal::Takeover(proof)].map(|said| said.to_bytes());
    let served = says.clone();
    let follow = move |request: HttpRequest, body: Payload| {
        let served = served.clone();
        async move {
            let (response, mut socket, _) = actix_ws::handle_with_protocols(&request, body, &[SUBPROTOCOL])?;
            actix_web::rt::spawn(async move {
                for message in served {
                    drop(socket.binary(message).await);
                }
                std::future::pending::<()>().await;
            });
            Ok::<_, actix_web::Error>(response)
        }
    };
    let app = move || App::new().route("/api/v1/topics/{topic}/follow", get().to(follow.clone()));
    let server = HttpServer::new(app).workers(1).bind(("127.0.0.1", 0)).unwrap();
    let false_node = Client::new(&format!("http://{}", server.addrs()[0]), Duration::from_secs(10));
    let server = server.run();
    let handle = server.handle();
    actix_web::rt::spawn(server);

    let mut terminal = Terminal::begin(vec![false_node, client], genesis, topic, Begin::At(Sequence(1)));
    let (mut alarm, mut delivered, mut fence) = (None, 0, Fence(0));
    while alarm.is_none() || delivered < 30 {
        match tokio::time::timeout(WITHIN, terminal.next()).await.unwrap().unwrap() {
            Notice::Alarm { alarm: told, .. } => alarm = Some(told),
            Notice::Delivered(frame) => (delivered, fence) = (frame.position.last.0, frame.position.fence),
            Notice::Renewed { .. } => {}
            Notice::Takeover { takeover, .. } => assert_ne!(takeover.fence, Fence(99)),
        }
    }
    assert!(matches!(alarm, Some(Alarm::Unproven { fence: Fence(99), .. })), "{alarm:?}");
    assert!((Fence(1)..Fence(99)).contains(&fence));
    handle.stop(false).await;
}

/// What a false etcd was asked besides its version; and the version that it says it has.
#[derive(Clone, Default)]
struct FalseEtcd(Arc<Mutex<(String, Vec<String>)>>);

impl FalseEtcd {
    /// Answers on a free port: at once with its version, and never with anything else.
    fn start(&self) -> String {
        let told = self.clone();
        let answer = move |request: HttpRequest| {
            let told = told.clone();
            async move {
                let path = request.path().to_owned();
                if path.ends_with("/maintenance/status") {
                    let version = told.0.lock().unwrap().0.clone();
                    return HttpResponse::Ok().json(serde_json::json!({ "version": version }));
                }
                told.0.lock().unwrap().1.push(path);
                std::future::pending().await
            }
        };
        let app = move || App::new().default_service(to(answer.clone()));
        let server = HttpServer::new(app).workers(1).bind(("127.0.0.1", 0)).unwrap();
        let url = format!("http://{}", server.addrs()[0]);
        actix_web::rt::spawn(server.run());
        url
    }

    fn is(&self, version: &str) {
        self.0.lock().unwrap().0 = version.to_owned();
    }

    fn asked(&self) -> usize {
        self.0.lock().unwrap().1.len()
    }
}

/// A lock in an etcd that is too old, or does not answer, is nobody's: what is pushed is queued all the same, and all other topics go on.
#[actix_web::test]
async fn an_etcd_that_is_too_old_or_silent_holds_up_its_own_topics_and_nothing_else() {
    let etcd = FalseEtcd::default();
    etcd.is("3.3.27");
    let url = etcd.start();
    let mut network = TestNetwork::files();
    for seat in 1..=4 {
        let mut config = std::fs::read_to_string(network.config(seat)).unwrap();
        config.push_str(&format!("\n[publisher]\nlock_store = \"etcd\"\n\n[etcd]\nendpoints = \"{url}\"\n"));
        std::fs::write(network.config(seat), config).unwrap();
        network.start_node(seat);
    }
    let all_of_it = move || {
        network.wait_all_ready();
        let (node, key, operator) = (network.url(0), network.key(), network.path("operator.key"));
        let (key, operator) = (key.to_str().unwrap(), operator.to_str().unwrap());
        sound(&["topic", "set", "outside", "--outside", "--node", node, "--key", operator]);
        let data = network.write("data", "1\n2\n3\n");
        let goes_on = |from: &str| {
            for topic in ["outside", "inside"] {
                sound(&["publish", topic, "--node", node, "--key", key, "--file", data.to_str().unwrap()]);
            }
            sound(&["follow", "inside", "--node", node, "--from", from, "--count", "3"]);
            let shown = sound(&["lock", "show", "outside", "--node", node, "-o", "json"]);
            let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
            assert!(shown["topic"]["owner"].is_null(), "{shown}");
        };
        goes_on("1");
        (1..=4).for_each(|seat| network.wait_for_log(seat, "3.3.27"));
        assert_eq!(etcd.asked(), 0, "nothing is asked of one that is too old");
        etcd.is("3.5.23");
        let begun = Instant::now();
        while etcd.asked() == 0 {
            assert!(begun.elapsed() < WITHIN, "it is not asked once it is new enough");
            std::thread::park_timeout(LOOK_AGAIN);
        }
        goes_on("4");
    };
    // The false etcd answers here meanwhile.
    actix_web::web::block(all_of_it).await.unwrap();
}

/// H14: a terminal that takes nothing is cut; another one at the same node has everything long before.
#[test]
fn a_terminal_that_takes_nothing_is_cut_and_holds_up_nobody() {
    const COUNT: usize = 3_000;
    let network = TestNetwork::start();
    let (node, key) = (network.url(0), network.key());
    let publish = |file: &Path| {
        let (key, file) = (key.to_str().unwrap(), file.to_str().unwrap());
        sound(&["publish", "large", "--node", node, "--key", key, "--file", file]);
    };
    publish(&network.write("first", "0\n"));
    let address = node.strip_prefix("http://").unwrap();
    let mut idle = TcpStream::connect(address).unwrap();
    let head = [
        "GET /api/v1/topics/large/follow?from=1 HTTP/1.1",
        &format!("Host: {address}"),
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        &format!("Sec-WebSocket-Protocol: {SUBPROTOCOL}"),
    ];
    idle.write_all(format!("{}\r\n\r\n", head.join("\r\n")).as_bytes()).unwrap();
    let mut status = [0; 12];
    idle.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 101");

    // Far more than the system keeps for a connection.
    let lines: String = (1..COUNT).map(|number| format!("{number} {}\n", "x".repeat(10_000))).collect();
    publish(&network.write("large", &lines));
    let all = COUNT.to_string();
    let seen = sound(&["follow", "large", "--node", node, "--from", "1", "--count", &all]);
    assert_eq!(seen.lines().count(), COUNT);
    let begun = Instant::now();
    let metrics = || {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
        let mut told = String::new();
        stream.read_to_string(&mut told).unwrap();
        told
    };
    while !metrics().contains("\nstandin_terminals 0\n") {
        assert!(begun.elapsed() < WITHIN, "it is still served");
        std::thread::park_timeout(LOOK_AGAIN);
    }
}
