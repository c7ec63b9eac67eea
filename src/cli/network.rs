//! A network of real node processes on loopback, for the demo and the drills. Every process dies with this one.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use standin::client::Client;
use standin_foundation::{Height, SecretKey};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::Failure;
use super::etcd::Etcd;
use super::init::{Plan, WrittenNetwork, write_network};
use super::layout::RegisterPlace;
use super::links::Links;
use super::newcomer::Newcomer;

/// How often a condition is looked at again.
const POLL: Duration = Duration::from_millis(20);

/// A process that is told to stop does so within this time.
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// Node processes, and the folder that they live in.
#[derive(Debug)]
pub(super) struct Network {
    folder: TempDir,
    files: WrittenNetwork,
    nodes: Vec<Option<Child>>,
    /// Where the output of each node's last start begins.
    outputs_from: Vec<usize>,
    clients: Vec<Client>,
    links: Option<Links>,
    frozen: BTreeSet<usize>,
    /// Auth nodes that came later.
    later_auths: Vec<usize>,
    /// Where the register stands, if the layout wants one.
    _etcd: Option<Etcd>,
}

impl Network {
    /// Writes a network into a temporary folder and starts all of its nodes.
    pub(super) async fn start(plan: &Plan) -> Result<Self, Failure> {
        let mut network = Self::prepare(plan).await?;
        network.launch().await?;
        Ok(network)
    }

    /// Writes a network into a temporary folder; starts its etcd, if the layout wants one.
    pub(super) async fn prepare(plan: &Plan) -> Result<Self, Failure> {
        let etcd = match plan.layout.register {
            RegisterPlace::Log => None,
            RegisterPlace::Etcd => Some(Etcd::start().await?),
        };
        let url = etcd.as_ref().map(Etcd::url).unwrap_or_default();
        let folder = tempfile::Builder::new().prefix("standin-").tempdir()?;
        let files = write_network(&folder.path().join("network"), &Plan { etcd: url, ..plan.clone() })?;
        let clients = files.urls.iter().map(|url| Client::new(url, Duration::from_secs(5))).collect();
        let nodes: Vec<_> = files.configs.iter().map(|_| None).collect();
        let outputs_from = vec![0; nodes.len()];
        Ok(Self {
            folder,
            files,
            nodes,
            outputs_from,
            clients,
            links: None,
            frozen: BTreeSet::new(),
            later_auths: Vec::new(),
            _etcd: etcd,
        })
    }

    /// Starts all nodes.
    pub(super) async fn launch(&mut self) -> Result<(), Failure> {
        self.links = Some(Links::start(&self.files.links).await?);
        for index in (0..self.processes()).rev() {
            self.start_node(index)?;
        }
        self.wait_ready(Duration::from_secs(30)).await
    }

    /// How many nodes hold seats or stand by: they come first.
    pub(super) fn size(&self) -> usize {
        self.files.nodes
    }

    /// How many processes there are: the nodes, then the auth nodes.
    pub(super) fn processes(&self) -> usize {
        self.nodes.len()
    }

    /// The auth nodes.
    pub(super) fn auths(&self) -> std::ops::Range<usize> {
        self.size()..self.size() + self.files.auths
    }

    /// All nodes that hold seats or stand by, those that joined later included.
    pub(super) fn members(&self) -> impl Iterator<Item = usize> + use<> {
        let auths = self.later_auths.clone();
        let later = self.size() + self.files.auths..self.processes();
        (0..self.size()).chain(later.filter(move |index| !auths.contains(index)))
    }

    /// Adds an auth node that is to take another's place, and starts it.
    pub(super) fn join_auth(&mut self, newcomer: Newcomer) -> Result<usize, Failure> {
        let index = self.join_newcomer(newcomer)?;
        self.later_auths.push(index);
        Ok(index)
    }

    /// Adds a node that joins, and starts it.
    pub(super) fn join_newcomer(&mut self, newcomer: Newcomer) -> Result<usize, Failure> {
        let index = self.processes();
        let url = format!("http://{}", newcomer.http);
        self.clients.push(Client::new(&url, Duration::from_secs(5)));
        self.files.configs.push(newcomer.config);
        self.files.urls.push(url);
        self.nodes.push(None);
        self.outputs_from.push(0);
        self.start_node(index)?;
        Ok(index)
    }

    /// A process's name.
    pub(super) fn name(&self, index: usize) -> String {
        let folder = self.node_folder(index);
        folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    pub(super) fn files(&self) -> &WrittenNetwork {
        &self.files
    }

    /// Clients of all nodes that hold seats or stand by.
    pub(super) fn clients(&self) -> &[Client] {
        self.clients.get(..self.size()).unwrap_or_default()
    }

    pub(super) fn client(&self, index: usize) -> Result<&Client, Failure> {
        self.clients.get(index).ok_or_else(|| Failure::new(1, format!("there is no node {index}")))
    }

    pub(super) fn client_key(&self) -> Result<SecretKey, Failure> {
        SecretKey::read(&self.files.client_key).map_err(|error| Failure::new(78, error.to_string()))
    }

    /// The node's data folder.
    pub(super) fn data(&self, index: usize) -> PathBuf {
        self.node_folder(index).join("data")
    }

    /// A file of a process's folder.
    pub(super) fn file(&self, index: usize, name: &str) -> PathBuf {
        self.node_folder(index).join(name)
    }

    pub(super) fn config(&self, index: usize) -> PathBuf {
        self.node_folder(index).join("node.toml")
    }

    fn node_folder(&self, index: usize) -> PathBuf {
        let config = self.files.configs.get(index).and_then(|config| config.parent());
        config.unwrap_or(self.folder.path()).to_owned()
    }

    /// What the node has written to its log output since its last start.
    pub(super) fn output(&self, index: usize) -> String {
        let bytes = std::fs::read(self.node_folder(index).join("output.log")).unwrap_or_default();
        let from = self.outputs_from.get(index).copied().unwrap_or(0);
        String::from_utf8_lossy(bytes.get(from..).unwrap_or_default()).into_owned()
    }

    /// The last lines of [`Self::output`], and how the process ended if it has.
    pub(super) fn last_words(&mut self, index: usize) -> String {
        let output = self.output(index);
        let lines: Vec<_> = output.lines().rev().take(8).collect();
        let ended =
            self.nodes.get_mut(index).and_then(Option::as_mut).and_then(|child| child.try_wait().ok().flatten());
        let ended = ended.map_or(String::new(), |status| format!("\n{status}"));
        lines.into_iter().rev().collect::<Vec<_>>().join("\n") + &ended
    }

    /// Starts a node that is not running.
    pub(super) fn start_node(&mut self, index: usize) -> Result<(), Failure> {
        self.start_node_with(index, &[])
    }

    /// Starts a node that is not running, with these further arguments.
    pub(super) fn start_node_with(&mut self, index: usize, arguments: &[&str]) -> Result<(), Failure> {
        let output = File::options().create(true).append(true).open(self.node_folder(index).join("output.log"))?;
        if let Some(from) = self.outputs_from.get_mut(index) {
            *from = usize::try_from(output.metadata()?.len()).unwrap_or(usize::MAX);
        }
        let child = Command::new(std::env::current_exe()?)
            .args([Path::new("run"), Path::new("--die-with-parent"), Path::new("-c"), &self.config(index)])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .kill_on_drop(true)
            .spawn()?;
        if let Some(place) = self.nodes.get_mut(index) {
            *place = Some(child);
        }
        Ok(())
    }

    fn pid(&self, index: usize) -> Result<Pid, Failure> {
        let id = self.nodes.get(index).and_then(Option::as_ref).and_then(Child::id);
        let pid = id.and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        pid.ok_or_else(|| Failure::new(1, format!("{} does not run", self.name(index))))
    }

    fn signal(&self, index: usize, signal: Signal) -> Result<(), Failure> {
        Ok(kill_process(self.pid(index)?, signal).map_err(std::io::Error::from)?)
    }

    /// Whether the process runs.
    pub(super) fn is_running(&mut self, index: usize) -> bool {
        let child = self.nodes.get_mut(index).and_then(Option::as_mut);
        child.is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Whether the process was started, and has ended by itself.
    pub(super) fn has_ended(&mut self, index: usize) -> bool {
        self.nodes.get(index).is_some_and(Option::is_some) && !self.is_running(index)
    }

    /// SIGKILL, and waits until the process is gone.
    pub(super) async fn kill(&mut self, index: usize) -> Result<(), Failure> {
        if let Some(mut child) = self.nodes.get_mut(index).and_then(Option::take) {
            child.kill().await?;
        }
        Ok(())
    }

    /// SIGTERM, and waits until the process is gone.
    pub(super) async fn stop_node(&mut self, index: usize) -> Result<(), Failure> {
        self.signal(index, Signal::TERM)?;
        if let Some(mut child) = self.nodes.get_mut(index).and_then(Option::take) {
            let ended = tokio::time::timeout(STOP_WITHIN, child.wait()).await;
            let status = ended.map_err(|_| Failure::new(5, format!("{} does not stop", self.name(index))))??;
            if !status.success() {
                return Err(Failure::new(1, format!("{} stopped with {status}", self.name(index))));
            }
        }
        Ok(())
    }

    /// Whether the process ends by itself in time.
    pub(super) async fn ends_within(&mut self, index: usize, within: Duration) -> bool {
        match self.nodes.get_mut(index).and_then(Option::as_mut) {
            Some(child) => tokio::time::timeout(within, child.wait()).await.is_ok(),
            None => true,
        }
    }

    /// SIGSTOP.
    pub(super) fn freeze(&mut self, index: usize) -> Result<(), Failure> {
        self.frozen.insert(index);
        self.signal(index, Signal::STOP)
    }

    /// SIGCONT.
    pub(super) fn thaw(&mut self, index: usize) -> Result<(), Failure> {
        self.frozen.remove(&index);
        self.signal(index, Signal::CONT)
    }

    /// Whether the process runs and is not frozen.
    pub(super) fn answers(&mut self, index: usize) -> bool {
        !self.frozen.contains(&index) && self.is_running(index)
    }

    /// Cuts every link between these and those, or joins them again.
    pub(super) fn cut_between(&self, these: &[usize], those: &[usize], carries: bool) {
        if let Some(links) = &self.links {
            links.set_between(these, those, carries);
        }
    }

    /// Nothing passes between this node and the others; connections stay, as with a cut cable.
    pub(super) fn cut_off(&self, index: usize) {
        if let Some(links) = &self.links {
            links.set(index, false);
        }
    }

    /// The node's links carry again.
    pub(super) fn join(&self, index: usize) {
        if let Some(links) = &self.links {
            links.set(index, true);
        }
    }

    /// SIGTERM to all, and waits for them; says how long the slowest took, and whether all ended with 0.
    pub(super) async fn stop(&mut self) -> Result<(Duration, bool), Failure> {
        let begun = Instant::now();
        for index in 0..self.processes() {
            if self.is_running(index) {
                self.signal(index, Signal::TERM)?;
            }
        }
        let mut clean = true;
        for node in &mut self.nodes {
            if let Some(mut child) = node.take() {
                match tokio::time::timeout(STOP_WITHIN, child.wait()).await {
                    Ok(status) => clean &= status?.success(),
                    Err(_) => {
                        clean = false;
                        child.kill().await?;
                    }
                }
            }
        }
        Ok((begun.elapsed(), clean))
    }

    /// Waits until every node that runs says that it is ready.
    pub(super) async fn wait_ready(&mut self, within: Duration) -> Result<(), Failure> {
        let deadline = Instant::now() + within;
        for index in 0..self.processes() {
            while self.nodes.get(index).is_some_and(Option::is_some) {
                if !self.is_running(index) {
                    return Err(Failure::new(1, format!("{} ended:\n{}", self.name(index), self.last_words(index))));
                }
                if matches!(self.client(index)?.ready().await, Ok((true, _))) {
                    break;
                }
                if Instant::now() > deadline {
                    return Err(Failure::new(
                        5,
                        format!("{} is not ready:\n{}", self.name(index), self.last_words(index)),
                    ));
                }
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// Height of a node; none if it does not answer.
    pub(super) async fn height(&self, index: usize) -> Option<Height> {
        self.clients.get(index)?.status().await.ok().map(|status| status.height)
    }

    /// Waits until all nodes that run have executed up to the same height; gives it.
    pub(super) async fn wait_level(&mut self, within: Duration) -> Result<Height, Failure> {
        let deadline = Instant::now() + within;
        loop {
            let mut heights = Vec::new();
            for index in 0..self.size() {
                if self.is_running(index) {
                    heights.push(self.height(index).await);
                }
            }
            match heights.first().copied().flatten() {
                Some(first) if heights.iter().all(|height| *height == Some(first)) => return Ok(first),
                _ if Instant::now() > deadline => {
                    return Err(Failure::new(5, format!("the nodes do not come to one height: {heights:?}")));
                }
                _ => tokio::time::sleep(POLL).await,
            }
        }
    }
}
