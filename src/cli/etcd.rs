//! An etcd of one's own, for the demo and the drills of a layout whose register stands in one.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use standin::ports::free_addresses;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::Failure;

/// How long an etcd may take to start.
const START_WITHIN: Duration = Duration::from_secs(20);

/// Why a layout that needs one cannot be run.
pub(super) const NOT_INSTALLED: &str = "no etcd is installed here (Debian: the package etcd-server)";

/// An etcd process with one member. It dies with this one.
#[derive(Debug)]
pub(super) struct Etcd {
    folder: TempDir,
    process: Option<Child>,
    client: SocketAddr,
    peer: SocketAddr,
}

impl Etcd {
    /// Whether there is an etcd on this machine.
    pub(super) fn is_installed() -> bool {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&paths).any(|path| path.join("etcd").is_file())
    }

    /// Starts one, and waits until it answers.
    pub(super) async fn start() -> Result<Self, Failure> {
        if !Self::is_installed() {
            return Err(Failure::new(1, NOT_INSTALLED));
        }
        let folder = tempfile::Builder::new().prefix("standin-etcd-").tempdir()?;
        let addresses = free_addresses(2, &[]);
        let [client, peer] = *addresses else { return Err(Failure::new(2, "there are no free ports for an etcd")) };
        let mut etcd = Self { folder, process: None, client, peer };
        etcd.start_again().await?;
        Ok(etcd)
    }

    /// Starts it with what it had, after it was killed.
    pub(super) async fn start_again(&mut self) -> Result<(), Failure> {
        let (client_url, peer_url) = (self.url(), format!("http://{}", self.peer));
        // Whatever becomes of this process, the system ends the etcd with it.
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "etcd", "--name", "one", "--log-level", "error", "--data-dir"])
            .arg(self.folder.path())
            .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("one={peer_url}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| Failure::new(1, format!("cannot start etcd: {error}")))?;
        self.process = Some(process);
        let begun = Instant::now();
        while tokio::net::TcpStream::connect(self.client).await.is_err() {
            if begun.elapsed() > START_WITHIN {
                return Err(Failure::new(5, format!("etcd does not listen on {}", self.client)));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// SIGKILL, and waits until the process is gone.
    pub(super) async fn kill(&mut self) -> Result<(), Failure> {
        if let Some(mut process) = self.process.take() {
            process.kill().await?;
        }
        Ok(())
    }

    /// Its address.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.client)
    }
}

#[cfg(test)]
#[cfg(feature = "etcd")]
mod tests {
    use standin_auth::Record;
    use standin_auth::etcd::EtcdRegister;
    use standin_auth::register::{Register, RegisterError, Stored};
    use standin_etcd::Config as EtcdConfig;
    use standin_foundation::{ClusterId, Digest, Epoch, Incarnation, SecretKey};

    use super::*;
    use crate::cli::skips;

    fn cluster() -> ClusterId {
        "a".parse().unwrap()
    }

    fn first() -> Vec<Record> {
        vec![Record::new(cluster(), [SecretKey::from_bytes(&[7; 32]).unwrap().public()])]
    }

    fn config(url: &str) -> EtcdConfig {
        EtcdConfig { endpoints: vec![url.to_owned()], timeout_ms: 2_000, ..EtcdConfig::default() }
    }

    async fn read(register: &EtcdRegister) -> (Stored, u64) {
        let read = register.read(&cluster()).await.unwrap();
        (read.content.unwrap(), read.count)
    }

    /// A real etcd; none, and a word about it, where none is installed.
    async fn etcd(test: &str) -> Option<Etcd> {
        if Etcd::is_installed() {
            return Some(Etcd::start().await.unwrap());
        }
        skips::skipped("etcd", test, NOT_INSTALLED);
        None
    }

    /// G1, G4: whoever reads sees what was swapped last, wherever that was done, and only one of two swaps goes through.
    #[actix::test]
    async fn g1_two_auth_nodes_change_one_register_by_compare_and_swap() {
        let Some(etcd) = etcd("g1_two_auth_nodes_change_one_register_by_compare_and_swap").await else { return };
        let config = config(&etcd.url());
        let here = EtcdRegister::open(&config, Digest::ZERO, Epoch(0), first()).unwrap();
        let there = EtcdRegister::open(&config, Digest::ZERO, Epoch(0), first()).unwrap();
        let (stored, count) = read(&here).await;
        let next = Record { version: 1, ..stored.record.clone() };
        let swapped = here.swap(stored.mark, next.clone()).await.unwrap();
        assert!(swapped.content && swapped.count > count);
        let late = there.swap(stored.mark, Record { version: 1, ..stored.record }).await.unwrap();
        assert!(!late.content, "another was faster");
        let (seen, seen_count) = read(&there).await;
        assert_eq!(seen.record, next);
        assert!(seen_count >= swapped.count);
        assert_eq!(there.read_all().await.unwrap(), [next]);
        let other = EtcdRegister::open(&config, Digest::sha256(b"another chain"), Epoch(0), first()).unwrap();
        assert_eq!(read(&other).await.0.record.version, 0, "chains do not see each other's registers");
    }

    /// G5: a register that was brought back from a copy begins a new life, and whoever lives in the old one changes nothing.
    #[actix::test]
    async fn g5_a_recalled_register_begins_a_new_life_and_stops_those_in_the_old() {
        let Some(etcd) = etcd("g5_a_recalled_register_begins_a_new_life_and_stops_those_in_the_old").await else {
            return;
        };
        let config = config(&etcd.url());
        let old = EtcdRegister::open(&config, Digest::ZERO, Epoch(0), first()).unwrap();
        let (stored, count) = read(&old).await;
        assert_eq!(EtcdRegister::recall(&config, Digest::ZERO, Epoch(0)).unwrap(), Incarnation(2));
        let swapped = old.swap(stored.mark, Record { version: 1, ..stored.record }).await;
        assert!(matches!(swapped, Err(RegisterError::Recalled { .. })), "{swapped:?}");
        assert!(matches!(old.read(&cluster()).await, Err(RegisterError::Recalled { .. })));
        let new = EtcdRegister::open(&config, Digest::ZERO, Epoch(0), first()).unwrap();
        let (recalled, higher) = read(&new).await;
        assert_eq!((new.incarnation(), recalled.record.recalling), (Incarnation(2), Some(Default::default())));
        assert!(higher > count);
    }

    #[test]
    fn an_etcd_that_is_too_old_is_refused_with_its_version() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let old = std::thread::spawn(move || {
            use std::io::{Read, Write};
            let (mut stream, _) = listener.accept().unwrap();
            // As much as there is: what is asked does not matter.
            let _ = stream.read(&mut [0; 4_096]).unwrap();
            let answer = r#"{"version":"3.3.25"}"#;
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n";
            write!(stream, "{head}content-length: {}\r\n\r\n{answer}", answer.len()).unwrap();
        });
        let refused = EtcdRegister::open(&config(&url), Digest::ZERO, Epoch(0), first());
        old.join().unwrap();
        assert_eq!(refused.unwrap_err().to_string(), "etcd 3.3.25 is too old: 3.4 or newer is needed");
    }

    #[test]
    fn an_etcd_that_is_away_or_is_none_is_told() {
        let nobody = free_addresses(1, &[]);
        let away = EtcdRegister::open(&config(&format!("http://{}", nobody[0])), Digest::ZERO, Epoch(0), first());
        assert!(matches!(&away, Err(RegisterError::Unreachable(why)) if why.contains("connect")), "{away:?}");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let silent = EtcdConfig { timeout_ms: 100, ..config(&url) };
        let silent = EtcdRegister::open(&silent, Digest::ZERO, Epoch(0), first());
        assert!(matches!(&silent, Err(RegisterError::Unreachable(why)) if why.contains(&url)), "{silent:?}");
    }
}
