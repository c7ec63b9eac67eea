//! A network of real node processes, made by `standin init`, for benches. Every process dies with it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::rc::Rc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use standin::api::{ClusterView, RoleView};
use standin::client::Client;
use standin::config::read_genesis;
use standin_foundation::SecretKey;
use standin_ledger::Genesis;

/// How often a condition is looked at again.
pub(crate) const POLL: Duration = Duration::from_millis(2);

/// A node and its process; the auth node has no client.
pub(crate) struct Node {
    config: PathBuf,
    pub(crate) client: Option<Client>,
    process: Option<Child>,
}

impl Node {
    pub(crate) fn start(&mut self, environment: &[(&str, &str)]) {
        let log = std::fs::File::options().create(true).append(true).open(self.config.with_extension("log"));
        let child = Command::new(env!("CARGO_BIN_EXE_standin"))
            .args(["run", "--die-with-parent", "-c"])
            .arg(&self.config)
            .envs(environment.iter().copied())
            .stderr(log.unwrap())
            .spawn();
        self.process = Some(child.unwrap());
    }

    /// What the node has logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.config.with_extension("log")).unwrap_or_default()
    }

    /// The key that it signs with.
    pub(crate) fn key(&self) -> SecretKey {
        SecretKey::read(&self.config.with_file_name("node.key")).unwrap()
    }

    /// The folder that holds its files.
    pub(crate) fn name(&self) -> &str {
        self.config.parent().unwrap().file_name().unwrap().to_str().unwrap()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.process.is_some()
    }

    pub(crate) fn signal(&mut self, signal: Signal) {
        let process = self.process.as_mut().unwrap();
        kill_process(Pid::from_raw(process.id() as i32).unwrap(), signal).unwrap();
    }

    pub(crate) fn reap(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.wait().unwrap();
        }
    }

    /// CPU time of the process so far, in clock ticks of 10 ms: fields 14 and 15 of its `stat`, user and system.
    pub(crate) fn cpu_ticks(&self) -> u64 {
        let id = self.process.as_ref().unwrap().id();
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
        // The name, in parentheses, may hold spaces.
        let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }
}

pub(crate) struct Network {
    _folder: tempfile::TempDir,
    pub(crate) genesis: Genesis,
    pub(crate) client_key: Rc<SecretKey>,
    pub(crate) nodes: Vec<Node>,
}

impl Drop for Network {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(mut process) = node.process.take() {
                // Nothing can be done about a process that is gone.
                let _ = process.kill();
                let _ = process.wait();
            }
        }
    }
}

impl Network {
    /// Makes a network's files, with what `edit` changes in its genesis.
    pub(crate) fn init(layout: &str, chain: &str, edit: impl FnOnce(&mut Genesis)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = folder.path().join("net");
        let output = Command::new(env!("CARGO_BIN_EXE_standin"))
            .args(["init", made.to_str().unwrap(), "--layout", layout, "--chain", chain])
            .output()
            .unwrap();
        let (commands, talk) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        let urls = talk.split_once("--node ").unwrap().1.split_whitespace().next().unwrap();
        let mut clients = urls.split(',').map(|url| Client::new(url, Duration::from_secs(5)));
        let configs = commands.lines().map(|line| PathBuf::from(line.rsplit(' ').next().unwrap()));
        let nodes = configs.map(|config| Node { config, client: clients.next(), process: None }).collect();
        let genesis = edited(&made.join("genesis.toml"), edit);
        let client_key = Rc::new(SecretKey::read(&made.join("client.key")).unwrap());
        Self { _folder: folder, genesis, client_key, nodes }
    }

    /// Starts all nodes, and waits until they are ready.
    pub(crate) async fn start(&mut self, environment: &[(&str, &str)]) {
        self.nodes.iter_mut().for_each(|node| node.start(environment));
        for client in self.clients() {
            while !matches!(client.ready().await, Ok((true, _))) {
                tokio::time::sleep(POLL).await;
            }
        }
    }

    pub(crate) fn clients(&self) -> Vec<Client> {
        self.nodes.iter().filter_map(|node| node.client.clone()).collect()
    }

    pub(crate) fn client(&self, node: usize) -> Client {
        self.nodes[node].client.clone().unwrap()
    }

    pub(crate) async fn views(&self) -> Vec<(usize, ClusterView)> {
        let mut views = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            if let (Some(client), Some(_)) = (&node.client, &node.process)
                && let Ok(view) = client.cluster().await
            {
                views.push((index, view));
            }
        }
        views
    }

    /// Waits until every seat is held with all of its members in sync and complete; gives the holders.
    pub(crate) async fn whole(&self) -> Vec<(usize, ClusterView)> {
        loop {
            let views = self.views().await;
            let size = |view: &ClusterView| views.iter().filter(|(_, other)| other.seat == view.seat).count();
            let whole = |view: &ClusterView| view.role == RoleView::Active && view.in_sync.len() == size(view);
            let holders: Vec<_> = views.iter().filter(|(_, view)| whole(view)).cloned().collect();
            if holders.len() == self.genesis.seats.len()
                && views.len() == self.clients().len()
                && views.iter().all(|(_, view)| view.complete)
            {
                return holders;
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

fn edited(path: &Path, edit: impl FnOnce(&mut Genesis)) -> Genesis {
    let mut genesis = read_genesis(path).unwrap();
    edit(&mut genesis);
    std::fs::write(path, toml::to_string(&genesis).unwrap()).unwrap();
    genesis
}
