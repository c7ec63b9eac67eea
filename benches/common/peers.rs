//! Redis, NATS and etcd, as their Debian packages install them: started by the bench on free ports, and ended with it. What is spoken with them is the least of their
//! protocols that a publisher and its subscribers need, so that the bench's own part costs little.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use standin::ports::free_addresses;

/// Messages that are written at once.
const PIPELINE: usize = 128;
/// Writes to a stream of JetStream that may be without an answer.
const WINDOWS: usize = 8;

/// A peer's process; it dies with this.
pub(crate) struct Peer {
    process: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have gone.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn installed(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|path| path.join(program).is_file())
}

impl Peer {
    fn start(program: &str, arguments: impl FnOnce(SocketAddr, &str) -> Vec<String>) -> Option<Self> {
        if !installed(program) {
            println!("{program} is not installed here: left out");
            return None;
        }
        let (folder, address) = (tempfile::tempdir().unwrap(), free_addresses(1, &[])[0]);
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", program])
            .args(arguments(address, folder.path().to_str().unwrap()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20), "{program} does not listen");
            thread::park_timeout(Duration::from_millis(10));
        }
        Some(Self { process, address, _folder: folder })
    }

    /// A Redis; `durable` syncs every write before it answers.
    pub(crate) fn redis(durable: bool) -> Option<Self> {
        let appends = if durable { "yes" } else { "no" };
        Self::start("redis-server", |address, folder| {
            let port = address.port().to_string();
            ["--port", &port, "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", appends]
                .into_iter()
                .chain(["--appendfsync", "always"])
                .map(str::to_owned)
                .collect()
        })
    }

    /// A NATS server; with JetStream beside it, which keeps its streams in files, and syncs them every other minute: this version takes no other interval.
    pub(crate) fn nats(jet_stream: bool) -> Option<Self> {
        Self::start("nats-server", |address, folder| {
            let port = address.port().to_string();
            let streams = if jet_stream { vec!["-js", "-sd", folder] } else { Vec::new() };
            ["-a", "127.0.0.1", "-p", &port].into_iter().chain(streams).map(str::to_owned).collect()
        })
    }

    /// An etcd of one member.
    pub(crate) fn etcd() -> Option<Self> {
        let peer = format!("http://{}", free_addresses(1, &[])[0]);
        Self::start("etcd", |address, folder| {
            let client = format!("http://{address}");
            let (cluster, level) = (format!("one={peer}"), "error");
            ["--name", "one", "--log-level", level, "--data-dir", folder, "--listen-client-urls", &client]
                .into_iter()
                .chain(["--advertise-client-urls", &client, "--listen-peer-urls", &peer])
                .chain(["--initial-advertise-peer-urls", &peer, "--initial-cluster", &cluster])
                .map(str::to_owned)
                .collect()
        })
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// Publishes so many messages of so many bytes over Redis to subscribers: a second, as the slowest of them has them.
    pub(crate) fn redis_published(&self, count: usize, bytes: usize, subscribers: usize) -> f64 {
        let value = "x".repeat(bytes);
        let message = format!("*3\r\n$7\r\nPUBLISH\r\n$5\r\nbench\r\n${bytes}\r\n{value}\r\n");
        let pushed = format!("*3\r\n$7\r\nmessage\r\n$5\r\nbench\r\n${bytes}\r\n{value}\r\n").len();
        let confirmed = "*3\r\n$9\r\nsubscribe\r\n$5\r\nbench\r\n:1\r\n".len();
        let all: Vec<_> = (0..subscribers)
            .map(|_| {
                let mut stream = self.connect();
                stream.write_all(b"*2\r\n$9\r\nSUBSCRIBE\r\n$5\r\nbench\r\n").unwrap();
                take(&mut stream, confirmed);
                thread::spawn(move || take(&mut stream, count * pushed))
            })
            .collect();
        let begun = Instant::now();
        // `:10` for each.
        let answered = format!(":{subscribers}\r\n").len();
        self.pipeline(count, &message, answered);
        all.into_iter().for_each(|subscriber| subscriber.join().unwrap());
        count as f64 / begun.elapsed().as_secs_f64()
    }

    /// Appends so many messages to a stream of Redis, durably: a second.
    pub(crate) fn redis_appended(&self, count: usize, bytes: usize) -> f64 {
        let value = "x".repeat(bytes);
        let message = format!("*5\r\n$4\r\nXADD\r\n$5\r\nbench\r\n$1\r\n*\r\n$1\r\nv\r\n${bytes}\r\n{value}\r\n");
        let mut stream = self.connect();
        let begun = Instant::now();
        let mut answers = BufReader::new(stream.try_clone().unwrap());
        let mut left = count;
        while left > 0 {
            let now = left.min(PIPELINE);
            stream.write_all(message.repeat(now).as_bytes()).unwrap();
            // Each answers with an id, in two lines.
            let mut lines = 0;
            let mut byte = [0];
            while lines < 2 * now {
                answers.read_exact(&mut byte).unwrap();
                lines += usize::from(byte[0] == b'\n');
            }
            left -= now;
        }
        count as f64 / begun.elapsed().as_secs_f64()
    }

    /// Takes a key of Redis that goes after a time; whether it was free.
    pub(crate) fn redis_taken(&self, key: &str, lasts: Duration) -> bool {
        let mut stream = self.connect();
        stream.write_all(format!("SET {key} owner NX PX {}\r\n", lasts.as_millis()).as_bytes()).unwrap();
        read_until(&mut stream, "\r\n") == "+OK\r\n"
    }

    fn pipeline(&self, count: usize, message: &str, answer: usize) {
        let mut stream = self.connect();
        let mut left = count;
        while left > 0 {
            let now = left.min(PIPELINE);
            stream.write_all(message.repeat(now).as_bytes()).unwrap();
            take(&mut stream, now * answer);
            left -= now;
        }
    }

    /// Publishes over NATS to subscribers: a second, as the slowest of them has them.
    pub(crate) fn nats_published(&self, count: usize, bytes: usize, subscribers: usize) -> f64 {
        let value = "x".repeat(bytes);
        let message = format!("PUB bench {bytes}\r\n{value}\r\n");
        let pushed = format!("MSG bench 1 {bytes}\r\n{value}\r\n").len();
        let hello = "CONNECT {\"verbose\":false}\r\nPING\r\n";
        let greeted = |stream: &mut TcpStream| _ = read_until(stream, "PONG\r\n");
        let all: Vec<_> = (0..subscribers)
            .map(|_| {
                let mut stream = self.connect();
                stream.write_all(format!("SUB bench 1\r\n{hello}").as_bytes()).unwrap();
                greeted(&mut stream);
                thread::spawn(move || take(&mut stream, count * pushed))
            })
            .collect();
        let mut stream = self.connect();
        stream.write_all(hello.as_bytes()).unwrap();
        greeted(&mut stream);
        let begun = Instant::now();
        let mut left = count;
        while left > 0 {
            let now = left.min(PIPELINE);
            stream.write_all(message.repeat(now).as_bytes()).unwrap();
            left -= now;
        }
        all.into_iter().for_each(|subscriber| subscriber.join().unwrap());
        count as f64 / begun.elapsed().as_secs_f64()
    }
}

impl Peer {
    /// Publishes to a stream of JetStream, with an acknowledgement for each, to consumers that acknowledge nothing: a second, as the slowest of them has them.
    pub(crate) fn jet_stream_published(&self, round: usize, (count, bytes): (usize, usize), consumers: usize) -> f64 {
        let (value, subject) = ("x".repeat(bytes), format!("js.{round}"));
        let mut stream = self.jet_stream_connected();
        let made = format!(
            "{{\"name\":\"S{round}\",\"subjects\":[\"{subject}\"],\"storage\":\"file\",\"num_replicas\":1,\"retention\":\"limits\"}}"
        );
        asked(&mut stream, &format!("$JS.API.STREAM.CREATE.S{round}"), &made);
        let all: Vec<_> = (0..consumers)
            .map(|consumer| {
                let mut stream = self.jet_stream_connected();
                stream.write_all(format!("SUB d.{round}.{consumer} 7\r\n").as_bytes()).unwrap();
                let wanted = format!(
                    "{{\"stream_name\":\"S{round}\",\"config\":{{\"deliver_subject\":\"d.{round}.{consumer}\",\"ack_policy\":\"none\",\"deliver_policy\":\"all\"}}}}"
                );
                asked(&mut stream, &format!("$JS.API.CONSUMER.CREATE.S{round}"), &wanted);
                // Heads of messages differ in their lengths: each is as many bytes as its own says.
                thread::spawn(move || take_messages(&mut BufReader::with_capacity(256 * 1024, stream), count))
            })
            .collect();
        let begun = Instant::now();
        let message = format!("PUB {subject} acks.1 {bytes}\r\n{value}\r\n");
        stream.write_all(b"SUB acks.1 8\r\n").unwrap();
        let mut acknowledged = BufReader::new(stream.try_clone().unwrap());
        let (mut left, mut under_way) = (count, 0);
        while left + under_way > 0 {
            if left > 0 && under_way < WINDOWS * PIPELINE {
                let now = left.min(PIPELINE);
                stream.write_all(message.repeat(now).as_bytes()).unwrap();
                (left, under_way) = (left - now, under_way + now);
            } else {
                let now = under_way.min(PIPELINE);
                take_messages(&mut acknowledged, now);
                under_way -= now;
            }
        }
        all.into_iter().for_each(|consumer| consumer.join().unwrap());
        let rate = count as f64 / begun.elapsed().as_secs_f64();
        asked(&mut self.jet_stream_connected(), &format!("$JS.API.STREAM.DELETE.S{round}"), "");
        rate
    }

    fn jet_stream_connected(&self) -> TcpStream {
        let mut stream = self.connect();
        stream.write_all(b"CONNECT {\"verbose\":false}\r\nPING\r\n").unwrap();
        read_until(&mut stream, "PONG\r\n");
        stream
    }
}

/// Asks JetStream for something, and gives the answer.
fn asked(stream: &mut TcpStream, subject: &str, body: &str) {
    let bytes = body.len();
    stream
        .write_all(format!("SUB answer.1 9\r\nUNSUB 9 1\r\nPUB {subject} answer.1 {bytes}\r\n{body}\r\n").as_bytes())
        .unwrap();
    let head = read_until(stream, "\r\n");
    assert!(head.starts_with("MSG answer.1 9 "), "{head}");
    let answer = read_until(stream, "\r\n");
    assert!(!answer.contains("\"error\""), "{answer}");
}

/// Reads up to and with an end, a byte at a time.
fn read_until(stream: &mut impl Read, end: &str) -> String {
    let (mut seen, mut byte) = (Vec::new(), [0]);
    while !seen.ends_with(end.as_bytes()) {
        stream.read_exact(&mut byte).unwrap();
        seen.push(byte[0]);
    }
    String::from_utf8(seen).unwrap()
}

/// Reads so many messages of NATS: `MSG subject id [reply] bytes`, the bytes, and an end of line.
fn take_messages(stream: &mut impl BufRead, count: usize) {
    let (mut head, mut body) = (String::new(), Vec::new());
    let mut seen = 0;
    while seen < count {
        head.clear();
        stream.read_line(&mut head).unwrap();
        if head.starts_with("PING") {
            continue;
        }
        let bytes: usize = head.trim_end().rsplit(' ').next().unwrap().parse().unwrap();
        body.resize(bytes + 2, 0);
        stream.read_exact(&mut body).unwrap();
        seen += 1;
    }
}

/// Reads so many bytes.
fn take(stream: &mut TcpStream, mut count: usize) {
    let mut buffer = vec![0; 256 * 1024];
    while count > 0 {
        let part = count.min(buffer.len());
        let read = stream.read(&mut buffer[..part]).unwrap();
        assert_ne!(read, 0, "the peer has closed the connection");
        count -= read;
    }
}
