//! A network made by `standin init`, run by `standin run`, gone when dropped.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Tests of a dozen processes and more, one at a time: side by side they would do nothing but wait for each other.
pub(crate) fn whole_machine() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    // A test that failed left nothing behind.
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The program under test.
pub(crate) fn standin() -> Command {
    command(Path::new(env!("CARGO_BIN_EXE_standin")))
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_remove("STANDIN_NODE").env_remove("STANDIN_KEY").stdin(Stdio::null());
    command
}

/// Runs the program with these arguments.
pub(crate) fn run(arguments: &[&str]) -> Output {
    standin().args(arguments).output().unwrap()
}

/// Runs a program to its end, which must come in time.
pub(crate) fn ended_within(command: &mut Command, within: Duration) -> Output {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    let (sender, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output().unwrap()));
    ended.recv_timeout(within).unwrap_or_else(|_| {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        panic!("it did not end within {within:?}: {}", String::from_utf8_lossy(&ended.recv().unwrap().stderr))
    })
}

/// The exit code, and what was said on stderr.
pub(crate) fn told(output: &Output) -> (i32, String) {
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// What came on stdout.
pub(crate) fn data(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs the program, which must end well; gives what it printed.
pub(crate) fn sound(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert_eq!(told(&output).0, 0, "{arguments:?}: {}{}", data(&output), told(&output).1);
    data(&output)
}

/// Runs the program, which must end with this code and say this.
pub(crate) fn refused(arguments: &[&str], code: i32, why: &str) {
    let output = run(arguments);
    let (found, talk) = told(&output);
    assert!(found == code && talk.contains(why), "{arguments:?}: {found} {talk}");
}

/// A network on disk, and its running nodes.
pub(crate) struct TestNetwork {
    folder: TempDir,
    nodes: BTreeMap<usize, Child>,
    stopping: Vec<Child>,
    /// All nodes' addresses, as `--node` takes them.
    pub(crate) urls: String,
}

impl TestNetwork {
    /// Writes a network's files; nothing runs.
    pub(crate) fn files() -> Self {
        Self::files_by(Path::new(env!("CARGO_BIN_EXE_standin")))
    }

    fn files_by(program: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = folder.path().join("net");
        let port = free_ports().to_string();
        let arguments = ["init", made.to_str().unwrap(), "--chain", "test-it", "--port", &port];
        let output = command(program).args(arguments).output().unwrap();
        let (code, talk) = told(&output);
        assert_eq!(code, 0, "{talk}");
        let urls = talk.split_once("--node ").unwrap().1.split_whitespace().next().unwrap().to_owned();
        Self { folder, nodes: BTreeMap::new(), stopping: Vec::new(), urls }
    }

    /// Writes a network's files and starts its four nodes, all by another program than the one under test.
    pub(crate) fn start_by(program: &Path) -> Self {
        let mut network = Self::files_by(program);
        for seat in 1..=4 {
            network.start_node_by(program, seat);
        }
        network.wait_all_ready();
        network
    }

    /// Writes a network's files and starts its four nodes.
    pub(crate) fn start() -> Self {
        let mut network = Self::files();
        for seat in 1..=4 {
            network.start_node(seat);
        }
        network.wait_all_ready();
        network
    }

    /// Starts a node; what it says goes to its log file.
    pub(crate) fn start_node(&mut self, seat: usize) {
        self.start_node_by(Path::new(env!("CARGO_BIN_EXE_standin")), seat);
    }

    fn start_node_by(&mut self, program: &Path, seat: usize) {
        let log = File::options().create(true).append(true).open(self.log(seat)).unwrap();
        let child = command(program)
            .args(["run", "--die-with-parent", "-c", self.config(seat).to_str().unwrap()])
            .stderr(log)
            .spawn()
            .unwrap();
        self.nodes.insert(seat, child);
    }

    /// The process of a node.
    pub(crate) fn pid(&self, seat: usize) -> u32 {
        self.nodes[&seat].id()
    }

    /// Kills a node.
    pub(crate) fn kill(&mut self, seat: usize) {
        let mut node = self.nodes.remove(&seat).unwrap();
        node.kill().unwrap();
        node.wait().unwrap();
    }

    /// Tells a node to stop, without waiting.
    pub(crate) fn stop(&mut self, seat: usize) {
        let node = self.nodes.remove(&seat).unwrap();
        let pid = rustix::process::Pid::from_child(&node);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.stopping.push(node);
    }

    /// Waits until all nodes that were told to have ended.
    pub(crate) fn wait_stopped(&mut self) {
        for mut node in self.stopping.drain(..) {
            assert!(node.wait().unwrap().success());
        }
    }

    fn log(&self, seat: usize) -> PathBuf {
        self.path(&format!("s{seat}/log.txt"))
    }

    /// What the node has said.
    pub(crate) fn logs(&self, seat: usize) -> String {
        std::fs::read_to_string(self.log(seat)).unwrap()
    }

    /// Waits until the node has said this.
    pub(crate) fn wait_for_log(&self, seat: usize, text: &str) {
        let begun = Instant::now();
        loop {
            let log = self.logs(seat);
            if log.contains(text) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "`{text}` is not in\n{log}");
            std::thread::yield_now();
        }
    }

    /// Waits until every node is ready.
    pub(crate) fn wait_all_ready(&self) {
        for url in self.urls.split(',') {
            self.wait_ready(url);
        }
    }

    fn wait_ready(&self, url: &str) {
        let begun = Instant::now();
        while run(&["health", "--node", url]).status.code() != Some(0) {
            if begun.elapsed() > Duration::from_secs(30) {
                let logs: Vec<_> = (1..=4).map(|seat| self.logs(seat)).collect();
                let health = run(&["health", "--node", url]);
                panic!("{url} does not get ready: {} {}\n{}", data(&health), told(&health).1, logs.join("\n"));
            }
        }
    }

    /// A node's configuration; nodes count from 1.
    pub(crate) fn config(&self, seat: usize) -> PathBuf {
        self.path(&format!("s{seat}/node.toml"))
    }

    /// A file of the network.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("net").join(name)
    }

    /// A file beside the network, with this content.
    pub(crate) fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// The client's key with funds.
    pub(crate) fn key(&self) -> PathBuf {
        self.path("client.key")
    }

    /// One node's address.
    pub(crate) fn url(&self, index: usize) -> &str {
        self.urls.split(',').nth(index).unwrap()
    }

    /// `standin submit` with the client's key.
    pub(crate) fn submit(&self, arguments: &[&str]) -> Output {
        let key = self.key();
        let mut all = vec!["submit", "--node", self.url(0), "--key", key.to_str().unwrap()];
        all.extend(arguments);
        run(&all)
    }
}

/// The first of eight free ports that no other network of this process gets: nodes bind theirs some time after `init`, and
/// two networks that looked for free ports at one time could find the same.
fn free_ports() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let block = (std::process::id() % 240 * 101 + NEXT.fetch_add(1, Ordering::Relaxed)) % 240;
        let first = 8_000 + block as u16 * 8;
        if (first..first + 8).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return first;
        }
    }
}

impl Drop for TestNetwork {
    fn drop(&mut self) {
        for node in self.nodes.values_mut().chain(&mut self.stopping) {
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

/// Whether `path` as text stands in the command line of any process.
pub(crate) fn any_process_mentions(path: &Path) -> bool {
    let wanted = path.to_str().unwrap().as_bytes();
    std::fs::read_dir("/proc").unwrap().flatten().any(|process| {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        line.windows(wanted.len()).any(|window| window == wanted)
    })
}

/// A process that dies with the test.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Changes what stands in a file.
pub(crate) fn edit(path: &Path, from: &str, to: &str) {
    let before = std::fs::read_to_string(path).unwrap();
    assert!(before.contains(from), "{from} is not in {}", path.display());
    std::fs::write(path, before.replace(from, to)).unwrap();
}
