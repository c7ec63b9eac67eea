//! What a node does with connections, requests and stores that are not what they should be. Nothing else suffers.

use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use standin::client::Client;
use standin::config::read_genesis;
use standin_foundation::limits::{HELLO_BYTES_MAX, HTTP_BODY_BYTES_MAX};
use standin_foundation::{Digest, Height, SecretKey};
use standin_ledger::builtin::Operation;
use standin_ledger::transaction::TransactionBody;
use standin_ledger::{Genesis, Outcome, Transaction};
use standin_stage::bridge::frame::{Frame, FrameKind, type_of};
use standin_stage::bridge::hello::{Credentials, Side};
use standin_stage::bridge::{Opened, Pipe, SocketTransport, TlsIdentity, Transport, tls};

use crate::network::{TestNetwork, run, told};

struct Stranger {
    transport: SocketTransport,
    address: String,
    genesis: Genesis,
    node_1: SecretKey,
}

impl Stranger {
    fn of(network: &TestNetwork) -> Self {
        let (certificate, key) = tls::make_certificate("stranger", 1).unwrap();
        let config = std::fs::read_to_string(network.config(1)).unwrap();
        let bridge = config.split_once("[bridge]").unwrap().1;
        let address = bridge.split_once("listen = \"").unwrap().1.split_once('"').unwrap().0.to_owned();
        Self {
            transport: SocketTransport::new(TlsIdentity::from_pem(&certificate, &key).unwrap(), None),
            address,
            genesis: read_genesis(&network.path("genesis.toml")).unwrap(),
            node_1: SecretKey::read(&network.path("s1/node.key")).unwrap(),
        }
    }

    async fn dial(&self) -> Opened {
        self.transport.dial(&self.address).await.unwrap()
    }

    /// Says hello with this key, for this chain; gives the connection if it was let in.
    async fn greet(&self, key: &Path, chain: Digest) -> Option<Pipe> {
        let admitted = [self.node_1.public().node_id()].into_iter().collect();
        let credentials = Credentials { key: SecretKey::read(key).unwrap(), chain, admitted };
        let Opened { mut pipe, binding } = self.dial().await;
        let greeted = credentials.greet(&mut pipe, Side::Dialler, &binding, None).await;
        greeted.is_ok().then_some(pipe)
    }

    /// Sends this as its hello, and waits for the end of the connection.
    async fn say(&self, hello: impl Into<Bytes>) {
        let mut pipe = self.dial().await.pipe;
        pipe.send(hello.into()).await;
        while pipe.receive().await.is_some() {}
    }
}

fn encoded(frame: &Frame) -> Bytes {
    let mut out = BytesMut::new();
    frame.encode(&mut out);
    out.freeze()
}

/// Sends this on a session that was let in, and waits for its end.
async fn send_and_wait_for_the_end(mut pipe: Pipe, message: impl Into<Bytes>) {
    pipe.send(message.into()).await;
    while pipe.receive().await.is_some() {}
}

fn put(network: &TestNetwork, key: &str) {
    let line = format!(r#"{{"put":{{"title":"t","key":"{key}","value":"v"}}}}"#);
    let (code, talk) = told(&network.submit(&[&line]));
    assert_eq!(code, 0, "{talk}");
}

#[test]
fn strangers_and_broken_hellos_are_refused_and_the_chain_goes_on() {
    let network = TestNetwork::start();
    let stranger = Stranger::of(&network);
    let key = network.path("stranger.key");
    assert_eq!(told(&run(&["keygen", key.to_str().unwrap()])).0, 0);
    actix::System::new().block_on(async {
        let chain = stranger.genesis.digest();
        // Its own hello is answered before it is judged: what counts is that no session begins.
        if let Some(mut pipe) = stranger.greet(&key, chain).await {
            assert_eq!(pipe.receive().await, None);
        }
        let admitted = SecretKey::read(&network.path("s4/node.key")).unwrap().public();
        let another = Digest::sha256(b"another");
        stranger.say([b"standin", [1].as_slice(), another.as_bytes(), admitted.as_bytes(), &[5; 32]].concat()).await;
        stranger.say([b"standin".as_slice(), &[9; 110]].concat()).await;
        stranger.say(&b"GET / HTTP/1.1"[..]).await;
        stranger.say(vec![0; HELLO_BYTES_MAX + 1]).await;
        stranger.say(Bytes::new()).await;
        stranger.say(vec![0; 3 << 20]).await;
    });
    for expected in [
        "is not admitted: add its public key to the peers",
        "belongs to another chain",
        "speaks protocol version 9, this node speaks 1",
        "does not begin as a hello",
        "a hello of 2049 bytes is over the limit",
    ] {
        network.wait_for_log(1, expected);
    }
    assert!(!network.logs(1).contains("a hello of 3145728 bytes"), "nobody collects megabytes of a stranger");
    put(&network, "after-strangers");
}

#[test]
fn broken_frames_of_an_admitted_peer_end_its_session_and_nothing_else() {
    let mut network = TestNetwork::start();
    network.kill(4);
    let stranger = Stranger::of(&network);
    let key = network.path("s4/node.key");
    let chain = stranger.genesis.digest();
    let tell = |name: &str, payload: Vec<u8>| Frame {
        lane: 1,
        message_type: type_of(name),
        payload: payload.into(),
        ..Frame::signal(FrameKind::Tell)
    };
    actix::System::new().block_on(async {
        let session = async || stranger.greet(&key, chain).await.unwrap();
        send_and_wait_for_the_end(session().await, &b"garbage"[..]).await;
        let whole = encoded(&tell("consensus.note", vec![1; 40]));
        send_and_wait_for_the_end(session().await, whole.slice(..whole.len() - 1)).await;
        let mut other_version = whole.to_vec();
        other_version[0] = 7;
        send_and_wait_for_the_end(session().await, other_version).await;
        let mut too_large = whole.to_vec();
        too_large[24] = 255;
        send_and_wait_for_the_end(session().await, too_large).await;
        // An unknown message, and one with bytes behind its end, are refused; the session goes on.
        let mut pipe = session().await;
        let ask = Frame { kind: FrameKind::Ask, correlation: 5, deadline_ms: 1_000, ..tell("no.such-message", vec![]) };
        pipe.send(encoded(&ask)).await;
        let refused = answer(&mut pipe).await;
        assert!(refused.contains("unknown message"), "{refused}");
        let trailing = Frame { kind: FrameKind::Ask, deadline_ms: 1_000, ..tell("consensus.note", vec![7; 300]) };
        pipe.send(encoded(&trailing)).await;
        let refused = answer(&mut pipe).await;
        assert!(!refused.is_empty(), "{refused}");
        pipe.send(encoded(&Frame::signal(FrameKind::Ping))).await;
        loop {
            let frames = Frame::decode_all(pipe.receive().await.expect("the session lives")).unwrap();
            if frames.iter().any(|frame| frame.kind == FrameKind::Pong) {
                break;
            }
        }
    });
    for expected in ["Truncated { found: 7", "Truncated { found: 39", "Version(7)", "TooLarge("] {
        network.wait_for_log(1, expected);
    }
    put(&network, "after-broken-frames");
}

/// What the next refusal says.
async fn answer(pipe: &mut Pipe) -> String {
    loop {
        let frames = Frame::decode_all(pipe.receive().await.expect("the session lives")).unwrap();
        if let Some(error) = frames.iter().find(|frame| frame.kind == FrameKind::Error) {
            return String::from_utf8_lossy(&error.payload).into_owned();
        }
    }
}

#[test]
fn replayed_forged_and_malformed_transactions_change_nothing() {
    let network = TestNetwork::start();
    let genesis = read_genesis(&network.path("genesis.toml")).unwrap();
    let key = SecretKey::read(&network.key()).unwrap();
    let receiver = SecretKey::from_bytes(&[77; 32]).unwrap().public();
    let payload = Operation::Transfer { to: receiver, amount: 5 }.to_payload();
    let body = TransactionBody { title: "t".parse().unwrap(), nonce: 1, expires: Height(500), payload };
    let transfer = Transaction::sign(&genesis.digest(), &key, &body).unwrap();
    let elsewhere = Transaction::sign(&Digest::sha256(b"another chain"), &key, &body).unwrap();
    let mut forged = transfer.bytes().to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let forged = Transaction::parse(forged.into()).unwrap();
    actix::System::new().block_on(async {
        let wait = Duration::from_secs(20);
        let clients: Vec<_> = (0..4).map(|index| Client::new(network.url(index), wait)).collect();
        for bad in [forged, elsewhere] {
            let result = clients[0].submit(&[bad], wait).await.unwrap().remove(0);
            assert!(result.refused.as_ref().is_some_and(|why| why.contains("signature")), "{result:?}");
        }
        let first = clients[0].submit(std::slice::from_ref(&transfer), wait).await.unwrap().remove(0);
        assert!(matches!(first.outcome, Some(Outcome::Applied(_))), "{first:?}");
        // The same again, at every node: told what became of it the first time, and paid once.
        for client in &clients {
            let again = client.submit(std::slice::from_ref(&transfer), wait).await.unwrap().remove(0);
            assert_eq!(again, first);
        }
        let http = awc::Client::default();
        let url = format!("{}/api/v1/transactions", network.url(0));
        for (body, status, what) in [
            (b"garbage".to_vec(), 400, "body:"),
            ([&[0, 0, 0, 1, 0, 0, 0, 3], b"abc".as_slice()].concat(), 400, "transaction 0:"),
            (vec![0, 0, 0, 0, 9], 400, "body:"),
            (vec![0; HTTP_BODY_BYTES_MAX + 1], 413, ""),
        ] {
            let mut response = http.post(&url).send_body(body).await.unwrap();
            assert_eq!(response.status().as_u16(), status);
            let text = String::from_utf8(response.body().await.unwrap().to_vec()).unwrap();
            assert!(text.contains(what), "{text}");
        }
    });
    let balance = run(&["query", "--node", network.url(3), "--account", &receiver.to_string()]);
    assert_eq!(crate::network::data(&balance).trim(), "5");
}

#[test]
fn a_damaged_store_is_refused_with_its_path_and_what_to_do() {
    let mut network = TestNetwork::start();
    put(&network, "before");
    for seat in 1..=4 {
        network.kill(seat);
    }
    let config = network.config(2);
    let config = config.to_str().unwrap();
    std::fs::write(network.path("s2/data/store/metadata"), b"not what it was").unwrap();
    for command in ["run", "verify"] {
        let (code, talk) = told(&run(&[command, "-c", config]));
        assert_eq!(code, if command == "run" { 1 } else { 3 }, "{talk}");
        assert!(talk.contains("s2/data/store") && talk.contains("remove it and let this node resync"), "{talk}");
    }
    // Removed as told, and the node is back with the others.
    std::fs::remove_dir_all(network.path("s2/data/store")).unwrap();
    for seat in 1..=4 {
        network.start_node(seat);
    }
    network.wait_all_ready();
    let read = run(&["query", "--node", network.url(1), "--title", "t", "--key", "before"]);
    assert_eq!(crate::network::data(&read).trim(), "v", "{}", told(&read).1);
}
