//! Redis and NATS, as their Debian packages install them: started by the bench on free ports, and ended with it. What is spoken with them is the least of their
//! protocols that a publisher and its subscribers need, so that the bench's own part costs little.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use standin::ports::free_addresses;

/// Messages that are written at once.
const PIPELINE: usize = 128;

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
    fn start(program: &str, arguments: impl Fn(SocketAddr, &str) -> Vec<String>) -> Option<Self> {
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

    /// A NATS server.
    pub(crate) fn nats() -> Option<Self> {
        Self::start("nats-server", |address, _| {
            let port = address.port().to_string();
            ["-a", "127.0.0.1", "-p", &port].map(str::to_owned).to_vec()
        })
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
        let greeted = |stream: &mut TcpStream| {
            let mut seen = Vec::new();
            let mut byte = [0];
            while !seen.ends_with(b"PONG\r\n") {
                stream.read_exact(&mut byte).unwrap();
                seen.push(byte[0]);
            }
        };
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
