//! An etcd of one's own, for the demo and the drills of a layout whose register stands in one.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::Failure;
use super::init::free_addresses;

/// How long an etcd may take to start.
const START_WITHIN: Duration = Duration::from_secs(20);

/// Why a layout that needs one cannot be run.
pub(super) const NOT_INSTALLED: &str = "no etcd is installed here (Debian: the package etcd-server)";

/// An etcd process with one member. It dies with this one.
#[derive(Debug)]
pub(super) struct Etcd {
    _folder: TempDir,
    _process: Child,
    client: SocketAddr,
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
        let (client_url, peer_url) = (format!("http://{client}"), format!("http://{peer}"));
        // Whatever becomes of this process, the system ends the etcd with it.
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "etcd", "--name", "one", "--log-level", "error", "--data-dir"])
            .arg(folder.path())
            .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("one={peer_url}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| Failure::new(1, format!("cannot start etcd: {error}")))?;
        let etcd = Self { _folder: folder, _process: process, client };
        let begun = Instant::now();
        while tokio::net::TcpStream::connect(client).await.is_err() {
            if begun.elapsed() > START_WITHIN {
                return Err(Failure::new(5, format!("etcd does not listen on {client}")));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(etcd)
    }

    /// Its address.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.client)
    }
}
