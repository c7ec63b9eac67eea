//! Data on their way from a source to terminals through real nodes, while the one that publishes dies, stands still, and comes back.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actix_web::dev::ServerHandle;
use actix_web::web::{Payload, get, to};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use standin::api::WhichBlock;
use standin::client::{Client, ClientError};
use standin::publication::{Begin, FollowError, Notice, Publisher, Terminal};
use standin_foundation::{Digest, Epoch, Height, Seat, SecretKey, Term};
use standin_publisher::frame::{Content, Datum, Entry};
use standin_publisher::machine::source::SourceConfig;
use standin_publisher::machine::terminal::{Alarm, Position, Published};
use standin_publisher::machine::witness::{TakeoverProof, Word};
use standin_publisher::messages::Takeover;
use standin_publisher::terminal::{SUBPROTOCOL, ToTerminal};
use standin_publisher::{Fence, Sequence, Topic};

use crate::network::{Running, TestNetwork, data, edit, ended_within, refused, run, sound, standin, told};

/// Nothing here takes longer.
const WITHIN: Duration = Duration::from_secs(60);

/// Conditions are looked at again after this time, until they hold.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

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
    let following = terminal(&network, "stream", &out, &stored);
    let mut seen = wait_for_lines(&out, count);
    let deadline = Instant::now() + WITHIN;
    while seen.last() != Some(&count) {
        assert!(Instant::now() < deadline, "{:?}", seen.last());
        std::thread::park_timeout(LOOK_AGAIN);
        seen = lines(&out);
    }
    // Each time it was killed it may have printed a frame and not stored that yet: then that frame comes again, and nothing else.
    let (mut next, mut again) = (1, 0);
    for datum in seen {
        again += u64::from(datum < next);
        assert!(datum <= next && datum + 128 >= next, "{datum} comes where {next} does");
        next = datum + 1;
    }
    assert!(next == count + 1 && again <= 4, "{again} times");

    // It stores a position when it has printed what led to it: nobody else may write there now.
    drop(following);
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
    // H17: ahead of all nodes, or under a fence that there is not. Nodes that are only behind would have come so far meanwhile.
    let ahead = |name: &str, key: &str| {
        let mut position = forged.clone();
        position[key] = 1_000_000.into();
        let path = network.write(name, &position.to_string());
        let mut command = standin();
        command.args(["follow", "--node", &nodes, "stream", "--position", path.to_str().unwrap()]);
        let (code, why) = told(&ended_within(&mut command, WITHIN));
        assert!(code == 6 && why.contains("no node is as far as the terminal"), "{code} {why}");
    };
    std::thread::scope(|scope| {
        scope.spawn(|| ahead("ahead", "last"));
        scope.spawn(|| ahead("future", "fence"));
    });
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
    // The payload is had by the hash that the chain has of it, from any node.
    for url in (0..4).map(|seat| network.url(seat)) {
        let frame = |which: &str| {
            let shown = sound(&["topic", "frame", "rates", which, "--node", url, "-o", "json"]);
            serde_json::from_str::<serde_json::Value>(&shown).unwrap()
        };
        // A node that is a little behind has it in a moment.
        let deadline = Instant::now() + WITHIN;
        while told(&run(&["topic", "frame", "rates", "2", "--node", url])).0 == 4 {
            assert!(Instant::now() < deadline, "{url} does not have the frame");
            std::thread::park_timeout(LOOK_AGAIN);
        }
        let by_datum = frame("2");
        // Both lines may have gone into one frame.
        let place = 2 - by_datum["first"].as_u64().unwrap() as usize;
        assert_eq!(by_datum["data"][place]["value"], "151.2");
        assert_eq!(frame(by_datum["content"].as_str().unwrap()), by_datum);
        refused(&["topic", "frame", "rates", "3", "--node", url], 4, "this node keeps data 1 to 2");
        refused(&["topic", "frame", "rates", &"7".repeat(64), "--node", url], 4, "ask another node");
    }
    refused(&["topic", "frame", "rates", "0", "--node", node], 2, "the number of a datum, from 1 on");
    let release = |key| ["lock", "release", "rates", "--node", node, "--key", key];
    refused(&release(key), 6, "approved by 0 operators, 1 are needed");
    sound(&release(network.path("operator.key").to_str().unwrap()));
    let shown = sound(&["lock", "show", "rates", "--node", node, "-o", "json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let ended = |holding: &serde_json::Value| holding["ended"] == "ordered";
    assert!(shown["holdings"].as_array().unwrap().iter().any(ended), "{shown}");
}

/// A node of which nothing but this is heard, by each terminal.
fn node_that_says(says: Vec<Vec<u8>>) -> (Client, ServerHandle) {
    let follow = move |request: HttpRequest, body: Payload| {
        let served = says.clone();
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
    let node = Client::new(&format!("http://{}", server.addrs()[0]), Duration::from_secs(10));
    let server = server.run();
    let handle = server.handle();
    actix_web::rt::spawn(server);
    (node, handle)
}

/// A node behind a door that is shut: whoever knocks waits until it is opened.
fn behind_a_door(node: &str) -> (Client, std::sync::mpsc::Sender<()>) {
    let node = node.strip_prefix("http://").unwrap().to_owned();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (open, opened) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let Ok(()) = opened.recv() else { return };
        while let Ok((outside, _)) = listener.accept() {
            let inside = TcpStream::connect(&node).unwrap();
            let ways = [(&outside, &inside), (&inside, &outside)];
            for (mut from, mut to) in ways.map(|(from, to)| (from.try_clone().unwrap(), to.try_clone().unwrap())) {
                std::thread::spawn(move || {
                    drop(std::io::copy(&mut from, &mut to));
                    drop(to.shutdown(std::net::Shutdown::Write));
                });
            }
        }
    });
    (Client::new(&url, Duration::from_secs(30)), open)
}

/// H11: a server that is first, and whose frames follow each other, is believed until others contradict it: then the terminal stops, and says
/// so, and does not go on with the one who was first. And one that would begin in the middle is not listened to at all.
#[actix_web::test]
async fn a_false_server_that_is_first_is_found_out_by_the_others() {
    let network = TestNetwork::start();
    let mut source = Source::begin(&network, "stream");
    source.push(5);
    assert_eq!(source.end(), 5);
    let client = Client::new(network.url(0), Duration::from_secs(10));
    let (genesis, topic) = (client.genesis().await.unwrap(), "stream".parse::<Topic>().unwrap());
    let mut honest = client.follow(topic, (Begin::At(Sequence(1)), None), false).await.unwrap();
    let proof = loop {
        if let ToTerminal::Takeover(proof) = honest.hear().await.unwrap().0 {
            break proof;
        }
    };
    let content = Content::new(&[Datum { id: Default::default(), value: "made up".into() }]).unwrap();
    let entry = Entry::following(&Digest::ZERO, Sequence(1), &content).unwrap();
    let made_up = Published { fence: proof.takeover.fence, entry, content };
    let start = |last, chain| ToTerminal::Start(Position { last: Sequence(last), chain, ..Position::default() });
    let begin = |says: Vec<ToTerminal>| {
        let (liar, handle) = node_that_says(says.iter().map(ToTerminal::to_bytes).collect());
        let doors: Vec<_> = (1..3).map(|index| behind_a_door(network.url(index))).collect();
        let nodes = std::iter::once(liar).chain(doors.iter().map(|(node, _)| node.clone())).collect();
        let terminal = Terminal::begin(nodes, genesis.clone(), topic, Begin::At(Sequence(1)));
        (terminal, doors.into_iter().map(|(_, open)| open).collect::<Vec<_>>(), handle)
    };
    let says = vec![start(0, Digest::ZERO), ToTerminal::Takeover(proof), ToTerminal::Frame(made_up)];
    let (mut terminal, doors, handle) = begin(says);
    let mut heard = async || tokio::time::timeout(WITHIN, terminal.next()).await.unwrap();
    while !matches!(heard().await.unwrap(), Notice::Delivered(_)) {}
    doors.iter().for_each(|open| open.send(()).unwrap());
    let ended = loop {
        match heard().await {
            Ok(Notice::Delivered(delivered)) => panic!("{delivered:?}"),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    let is_told = matches!(ended, FollowError::History(_) | FollowError::Refused(ClientError::Conflict(_)));
    assert!(is_told, "{ended}");
    handle.stop(false).await;

    let (mut terminal, doors, handle) = begin(vec![start(1_000, Digest::sha256(b"anything"))]);
    let mut heard = async || tokio::time::timeout(WITHIN, terminal.next()).await.unwrap().unwrap();
    let alarm = heard().await;
    let wanted = Alarm::Start { wanted: Sequence(1), found: Sequence(1_000) };
    assert!(matches!(&alarm, Notice::Alarm { alarm, .. } if *alarm == wanted), "{alarm:?}");
    doors.iter().for_each(|open| open.send(()).unwrap());
    let mut next = 1;
    while next <= 5 {
        if let Notice::Delivered(delivered) = heard().await {
            assert_eq!(delivered.entry.first, Sequence(next));
            next = delivered.position.last.0 + 1;
        }
    }
    handle.stop(false).await;
}

/// H8: a source whose clock stands before where it stood, or that gives the session of its life before: nothing of what it pushes is taken for known.
#[actix_web::test]
async fn a_session_that_is_not_new_is_made_so() {
    let network = TestNetwork::start();
    let (topic, session) = ("stream".parse::<Topic>().unwrap(), u64::MAX / 2);
    for (value, session) in [("1", session), ("2", session), ("3", 7)] {
        let key = SecretKey::read(&network.key()).unwrap();
        let nodes = vec![Client::new(network.url(0), Duration::from_secs(10))];
        let mut source = Publisher::begin(nodes, topic, key, session, SourceConfig::default()).await.unwrap();
        source.push(Datum { id: Default::default(), value: value.into() }).unwrap();
        let told = tokio::time::timeout(WITHIN, source.acknowledged()).await.unwrap().unwrap();
        assert_eq!(told.sequence.map(|sequence| sequence.to_string()).as_deref(), Some(value));
    }
}

/// A file of another program: bytes that are no text, cut, and replaced by another one of its name.
#[test]
fn a_file_is_followed_when_it_is_cut_or_replaced() {
    let network = TestNetwork::start();
    let (file, node) = (network.path("log"), network.url(0));
    std::fs::write(&file, b"first \xff\xfe line\nsecond line\n").unwrap();
    let mut command = standin();
    command.args(["publish", "log", "--node", node, "--key", network.key().to_str().unwrap()]);
    command.args(["--follow", "--file", file.to_str().unwrap()]).stdout(Stdio::null()).stderr(Stdio::null());
    let _source = Running(command.spawn().unwrap());
    let come = |count: &str| {
        let mut command = standin();
        command.args(["follow", "log", "--node", node, "--from", "1", "--count", count]);
        loop {
            let followed = ended_within(&mut command, WITHIN);
            match told(&followed).0 {
                // The topic begins with its first datum.
                4 => std::thread::park_timeout(LOOK_AGAIN),
                0 => return followed.stdout,
                code => panic!("{code} {}", told(&followed).1),
            }
        }
    };
    assert_eq!(come("2"), b"first \xff\xfe line\nsecond line\n");
    std::fs::write(&file, "third\n").unwrap();
    assert!(come("3").ends_with(b"\nthird\n"));
    let next = network.write("log.new", "fourth\n");
    std::fs::rename(next, &file).unwrap();
    assert!(come("4").ends_with(b"\nfourth\n"));
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
    let (false_node, handle) = node_that_says(says.to_vec());

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
    // The node knows the topic whose first datum it has just said to be queued.
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

/// Data that no node has any more, since every journal is lost and the blocks that had them are forgotten: nobody publishes the topic until operators give them up. It
/// goes on behind them, and who wants them is told.
#[actix_web::test]
async fn what_no_node_has_any_more_is_given_up_by_operators() {
    let mut network = TestNetwork::files();
    edit(&network.path("genesis.toml"), "replay_window = 4096", "replay_window = 64");
    edit(&network.path("genesis.toml"), "window = 128", "window = 64");
    for seat in 1..=4 {
        edit(&network.config(seat), "# keep_blocks = 0", "keep_blocks = 1");
        edit(&network.config(seat), "[log]\n", "[publisher]\ncompetes = false\n\n[log]\n");
        network.start_node(seat);
    }
    network.wait_all_ready();
    // Nobody publishes them.
    let mut source = Source::begin(&network, "rates");
    source.push(3);
    source.end();
    let client = Client::new(network.url(0), WITHIN);
    let deadline = Instant::now() + WITHIN;
    // One after the other, until the block of the first is forgotten.
    let mut other = Source::begin(&network, "others");
    while client.block(WhichBlock::At(Height(100))).await.is_ok() || client.status().await.unwrap().height.0 < 100 {
        other.push(20);
        assert!(Instant::now() < deadline, "blocks are not forgotten");
    }
    other.end();
    (1..=4).for_each(|seat| network.stop(seat));
    network.wait_stopped();
    for seat in 1..=4 {
        std::fs::remove_dir_all(network.path(&format!("s{seat}/data/journal"))).unwrap();
        edit(&network.config(seat), "competes = false", "competes = true");
        network.start_node(seat);
    }
    network.wait_all_ready();
    let topic: Topic = "rates".parse().unwrap();
    for index in 0..4 {
        let node = Client::new(network.url(index), WITHIN);
        while !node.topic(topic).await.is_ok_and(|view| view.lacks) {
            assert!(Instant::now() < deadline, "node {index} does not say that it lacks data");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let (_, metrics) = node.text("/metrics").await.unwrap();
        assert!(metrics.contains("standin_topic_lacks{topic=\"rates\"} 1"), "{metrics}");
    }
    // What comes later waits behind them.
    let push =
        ["publish", "--node", &all(&network), "--key", network.key().to_str().unwrap(), "rates"].map(str::to_owned);
    let mut later = standin()
        .args(&push)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map(Running)
        .unwrap();
    writeln!(later.0.stdin.take().unwrap(), "later").unwrap();
    assert!(later.0.wait().unwrap().success());
    // It may have gone in through another node.
    let before = loop {
        match client.topic(topic).await.unwrap() {
            view if view.queued == Sequence(4) => break view,
            view => assert!(Instant::now() < deadline, "{view:?}"),
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    };
    assert_eq!((before.published, before.owner), (Sequence(0), None));

    let (nodes, key) = (all(&network), network.path("operator.key"));
    let skip = ["topic", "skip", "--node", &nodes, "--key", key.to_str().unwrap()];
    refused(&[&skip[..], &["rates", "--upto", "4"]].concat(), 6, "a node has data of topic rates from 4 on");
    sound(&[&skip[..], &["rates"]].concat());
    refused(&[&skip[..], &["rates"]].concat(), 6, "does not lack data of topic rates that wait");
    // Of this one the newest are in blocks that are kept.
    sound(&[&skip[..], &["others"]].concat());
    let others: Topic = "others".parse().unwrap();
    while !client.topic(others).await.is_ok_and(|view| view.published == view.queued) {
        assert!(Instant::now() < deadline, "what is left is not published");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let printed = sound(&["follow", "--node", &all(&network), "rates", "--from", "4", "--count", "1"]);
    assert_eq!(printed, "later\n");
    refused(&["follow", "--node", &all(&network), "rates", "--from", "1"], 6, "4");
    let after = client.topic(topic).await.unwrap();
    assert!((after.queued, after.lacks) == (Sequence(4), false), "{after:?}");
}
