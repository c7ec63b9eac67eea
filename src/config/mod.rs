//! The node's configuration: one TOML file, then the environment (`STANDIN__SECTION__KEY`).
//!
//! All faults are told at once, each with file, line, column, key, what was found and what is allowed.

pub mod descriptor;
pub mod keys;
mod peers;
mod reader;
mod sections;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use standin_auth::Config as AuthConfig;
use standin_cluster::Config as ClusterConfig;
use standin_consensus::Config as ConsensusConfig;
use standin_etcd::Config as EtcdConfig;
use standin_foundation::{ClusterId, PublicKey};
use standin_ledger::Genesis;
use toml::de::DeTable;

use reader::{Reader, place_of};

pub use descriptor::{Descriptor, DescriptorError};

/// A fault in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// File, line and column; or the environment variable.
    pub place: String,
    /// The key.
    pub key: String,
    /// What was found, and what is allowed.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: `{}`: {}", self.place, self.key, self.what)
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A node was to be started without one.
    #[error("the node has no configuration: name a file, or hand one in")]
    Missing,
    /// A file cannot be read.
    #[error("configuration {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no TOML.
    #[error("configuration {place}: {what}")]
    Syntax {
        /// File, line and column.
        place: String,
        /// What the parser said.
        what: String,
    },
    /// All that is wrong in it.
    #[error("configuration has {} fault(s):\n{}", .0.len(), list(.0))]
    Faults(Vec<Fault>),
    /// The genesis file.
    #[error("genesis {path}: {what}")]
    Genesis {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

fn list(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("  {fault}")).collect::<Vec<_>>().join("\n")
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeRole {
    /// A member of a cluster that holds a seat.
    #[default]
    Member,
    /// The auth node, or one of several that share a register.
    Auth,
}

impl FromStr for NodeRole {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "member" => Ok(Self::Member),
            "auth" => Ok(Self::Auth),
            _ => Err("there is no such role"),
        }
    }
}

/// What an auth node needs besides what every node does.
#[derive(Debug, Clone)]
pub struct AuthSection {
    /// The key that signs grants: the genesis names its public half. Several auth nodes that share a register share it.
    pub key_file: PathBuf,
    /// The key is not the genesis': the node waits until the chain names it.
    pub successor: bool,
    /// The rules' numbers.
    pub config: AuthConfig,
    /// Where its register stands: in an etcd that several auth nodes share, or else in its own data folder.
    pub etcd: Option<EtcdConfig>,
}

/// What may be done at the node by its console and by commands.
#[derive(Debug, Clone, Default)]
pub struct ConsoleSection {
    /// The node carries out actions.
    pub actions: bool,
    /// Whoever has one of these keys may order them by command.
    pub operators: BTreeSet<PublicKey>,
    /// Where people open the page; none where that is where HTTP listens.
    pub url: Option<String>,
}

/// Another node of the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PeerEntry {
    /// What it is.
    pub role: NodeRole,
    /// Its key.
    pub key: PublicKey,
    /// Where its bridge can be reached: host and port.
    pub address: String,
}

/// A node's configuration. Paths are relative to the file's folder and made absolute here.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Name in logs.
    pub name: String,
    /// What the node is.
    pub role: NodeRole,
    /// Where an auth node stands; a member's site is what the chain says.
    pub site: String,
    /// The cluster of a member that joined after the genesis.
    pub cluster_name: Option<ClusterId>,
    /// The auth node's part; none for a member.
    pub auth: Option<AuthSection>,
    /// The member's numbers.
    pub cluster: ClusterConfig,
    /// The node's secret key.
    pub key_file: PathBuf,
    /// The chain's genesis.
    pub genesis_file: PathBuf,
    /// Where log and store lie.
    pub data_dir: PathBuf,
    /// Where the bridge listens.
    pub bridge_listen: SocketAddr,
    /// The bridge's certificate.
    pub certificate_file: PathBuf,
    /// The certificate's private key.
    pub certificate_key_file: PathBuf,
    /// Where HTTP listens.
    pub http_listen: SocketAddr,
    /// Requests that an address may make in a second; 0 for any number.
    pub requests_per_second: u32,
    /// The admin console's part.
    pub console: ConsoleSection,
    /// The other nodes.
    pub peers: Vec<PeerEntry>,
    /// The replica's numbers.
    pub consensus: ConsensusConfig,
    /// Size of a log segment, in bytes.
    pub segment_bytes: u64,
    /// The log is cut when it has grown to this, in bytes.
    pub log_bytes_max: u64,
    /// Bytes that must stay free on the store's file system.
    pub reserve_bytes: u64,
    /// Whether transactions can be looked up by id.
    pub index_transactions: bool,
    /// The newest blocks that are kept; none for all.
    pub keep_blocks: Option<u64>,
    /// Numbers of the publisher.
    pub publisher: standin_publisher::Config,
    /// Whether the node competes for locks of topics.
    pub competes: bool,
    /// The etcd in which the locks of topics stand whose operators have said so; none where there is none.
    pub lock_store: Option<EtcdConfig>,
    /// What is kept of topics, in bytes.
    pub journal_bytes: u64,
    /// Threads that check signatures; 0 for one a core.
    pub verify_threads: usize,
    /// Filter of the log output, such as `info` or `standin_consensus=debug,info`.
    pub log_level: String,
    /// Whether the log output is JSON.
    pub log_json: bool,
}

/// A key of a configuration, as it is understood.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Setting {
    /// Section and key, with a dot.
    pub key: String,
    /// What it is.
    pub value: toml::Value,
    /// Where it is set: file, line and column, or a variable of the environment. None where it is not, and the value is its default.
    pub place: Option<String>,
}

impl NodeConfig {
    /// Reads and checks a file, with the environment on top.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::read_with_settings(path).map(|(config, _)| config)
    }

    /// As [`NodeConfig::read`], and tells what each key is and where that is said, defaults included.
    pub fn read_with_settings(path: &Path) -> Result<(Self, Vec<Setting>), ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::File { path: path.to_owned(), source })?;
        let environment = std::env::vars().filter(|(name, _)| name.starts_with("STANDIN__")).collect();
        Self::parse(path, &text, environment)
    }

    fn parse(
        path: &Path,
        text: &str,
        environment: BTreeMap<String, String>,
    ) -> Result<(Self, Vec<Setting>), ConfigError> {
        let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
            place: place_of(path, text, error.span()),
            what: error.message().to_owned(),
        })?;
        let mut reader = Reader::new(path, text, table.get_ref(), environment);
        let config = reader.node_config();
        reader.find_unknown();
        let settings = reader.settings();
        if reader.faults.is_empty() { Ok((config, settings)) } else { Err(ConfigError::Faults(reader.faults)) }
    }

    /// Reads the genesis that this configuration names.
    pub fn genesis(&self) -> Result<Genesis, ConfigError> {
        read_genesis(&self.genesis_file)
    }
}

/// A configuration of the same folder that says the same, with the place of what is set.
pub fn as_toml(settings: &[Setting], peers: &[PeerEntry]) -> String {
    let (mut text, mut begun) = (String::new(), "");
    for Setting { key, value, place } in settings {
        let (section, key) = key.split_once('.').unwrap_or(("", key));
        if section != begun {
            let gap = if begun.is_empty() { "" } else { "\n" };
            text += &format!("{gap}[{section}]\n");
            begun = section;
        }
        let line = format!("{key} = {value}");
        text += &format!("{line:<52} # {}\n", place.as_deref().unwrap_or("by default"));
    }
    for PeerEntry { role, key, address } in peers {
        let role = if *role == NodeRole::Auth { "role = \"auth\"\n" } else { "" };
        text += &format!("\n[[peer]]\n{role}key = \"{key}\"\naddress = \"{address}\"\n");
    }
    text
}

/// Reads a file that names nodes, as `node.peers_file` does.
pub fn read_peers(path: &Path) -> Result<Vec<PeerEntry>, ConfigError> {
    peers::read(path)
}

/// Reads and checks a genesis file.
pub fn read_genesis(path: &Path) -> Result<Genesis, ConfigError> {
    let wrong = |what: String| ConfigError::Genesis { path: path.to_owned(), what };
    let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let genesis: Genesis = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    genesis.check().map_err(|error| wrong(error.to_string()))?;
    Ok(genesis)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A configuration with these lines in the place of those that a node needs.
    fn text_with(lines: &BTreeMap<&str, &str>) -> String {
        let needed = [
            ("node.key_file", "\"node.key\""),
            ("node.genesis_file", "\"genesis.toml\""),
            ("node.data_dir", "\"data\""),
            ("bridge.listen", "\"127.0.0.1:7001\""),
            ("bridge.certificate_file", "\"tls.pem\""),
            ("bridge.certificate_key_file", "\"tls.key\""),
            ("http.listen", "\"127.0.0.1:8001\""),
        ];
        let all: BTreeMap<_, _> = needed.into_iter().chain(lines.iter().map(|(key, value)| (*key, *value))).collect();
        let mut text = String::new();
        for section in all.keys().map(|key| key.split_once('.').unwrap().0).collect::<BTreeSet<_>>() {
            text += &format!("[{section}]\n");
            for (key, value) in all.iter().filter(|(key, _)| key.split_once('.').unwrap().0 == section) {
                text += &format!("{} = {value}\n", key.split_once('.').unwrap().1);
            }
        }
        text
    }

    const AUTH: [(&str, &str); 4] = [
        ("node.role", "\"auth\""),
        ("auth.key_file", "\"grants.key\""),
        ("auth.register", "\"etcd\""),
        ("etcd.endpoints", "\"http://127.0.0.1:2379\""),
    ];

    fn parsed(text: &str) -> String {
        format!("{:#?}", NodeConfig::parse(Path::new("/n/node.toml"), text, BTreeMap::new()).unwrap().0)
    }

    #[test]
    fn the_table_of_keys_is_what_the_reader_knows() {
        let mut known = BTreeSet::new();
        for lines in [vec![("node.cluster", "\"a\"")], AUTH.to_vec()] {
            let text = text_with(&lines.into_iter().collect());
            let table = DeTable::parse(&text).unwrap();
            let mut reader = Reader::new(Path::new("/n/node.toml"), &text, table.get_ref(), BTreeMap::new());
            reader.node_config();
            assert!(reader.faults.is_empty(), "{:?}", reader.faults);
            known.extend(reader.known());
        }
        let told: BTreeSet<_> = keys::KEYS.iter().map(|key| key.name.to_owned()).collect();
        assert_eq!(told.len(), keys::KEYS.len(), "each once");
        assert_eq!(told, known);
    }

    #[test]
    fn what_the_table_says_of_keys_that_are_not_set_is_so() {
        let defaults = |sections: &[&str]| {
            let of = |key: &&keys::Key| sections.contains(&key.name.split_once('.').unwrap().0);
            keys::KEYS.iter().filter(of).filter_map(|key| Some((key.name, key.default?))).collect::<BTreeMap<_, _>>()
        };
        let member =
            ["node", "bridge", "http", "console", "consensus", "cluster", "store", "publisher", "limits", "log"];
        assert_eq!(parsed(&text_with(&BTreeMap::new())), parsed(&text_with(&defaults(&member))));
        let mut auth = defaults(&["auth", "etcd"]);
        auth.extend(AUTH);
        assert_eq!(parsed(&text_with(&AUTH.into_iter().collect())), parsed(&text_with(&auth)));
    }

    #[test]
    fn the_page_of_the_documentation_is_the_table() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
        let page = fs::read_to_string(page).unwrap();
        assert!(
            page == keys::as_markdown(),
            "write it anew: standin config explain --markdown > docs/configuration.md"
        );
    }

    const SOUND: &str = r#"
[node]
name = "s1"
key_file = "node.key"
genesis_file = "genesis.toml"
data_dir = "data"
[bridge]
listen = "127.0.0.1:7001"
certificate_file = "tls.pem"
certificate_key_file = "tls.key"
[http]
listen = "127.0.0.1:8001"
[consensus]
view_timeout_ms = 500
"#;

    fn parse(text: &str, environment: &[(&str, &str)]) -> Result<NodeConfig, ConfigError> {
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        NodeConfig::parse(Path::new("/etc/standin/node.toml"), text, environment).map(|(config, _)| config)
    }

    #[test]
    fn what_is_shown_is_what_is_understood_and_says_where_it_is_set() {
        let of = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let environment = [of("STANDIN__NODE__CLUSTER", "a"), of("STANDIN__CONSENSUS__VIEW_TIMEOUT_MS", "700")];
        let path = Path::new("/etc/standin/node.toml");
        let key = standin_foundation::SecretKey::from_bytes(&[3; 32]).unwrap().public();
        let peers = format!("{SOUND}[[peer]]\nrole = \"auth\"\nkey = \"{key}\"\naddress = \"host:7\"\n");
        let (config, settings) = NodeConfig::parse(path, &peers, environment.into_iter().collect()).unwrap();
        assert_eq!(config.peers.len(), 1);
        assert_eq!(config.cluster_name, Some("a".parse().unwrap()));
        let shown = |key: &str| {
            let setting = settings.iter().find(|setting| setting.key == key).unwrap();
            (setting.value.to_string(), setting.place.clone().unwrap_or_default())
        };
        assert_eq!(shown("node.name"), of("\"s1\"", "/etc/standin/node.toml:3:8"));
        assert_eq!(shown("node.cluster"), of("\"a\"", "STANDIN__NODE__CLUSTER"));
        assert_eq!(shown("consensus.view_timeout_ms"), of("700", "STANDIN__CONSENSUS__VIEW_TIMEOUT_MS"));
        assert_eq!(shown("consensus.status_interval_ms"), of("175", ""), "a default that follows another key");
        assert_eq!(shown("log.format"), of("\"text\"", ""));
        assert!(settings.iter().all(|setting| !setting.key.starts_with("etcd")), "what is not needed is not shown");
        // Shown, written and read again it is the same.
        let text = as_toml(&settings, &config.peers);
        let (again, _) = NodeConfig::parse(path, &text, BTreeMap::new()).unwrap();
        assert_eq!(format!("{again:?}"), format!("{config:?}"));
    }

    #[test]
    fn a_sound_file_reads_and_the_environment_wins() {
        let config = parse(SOUND, &[("STANDIN__CONSENSUS__VIEW_TIMEOUT_MS", "700")]).unwrap();
        assert_eq!(config.key_file, Path::new("/etc/standin/node.key"));
        assert_eq!((config.consensus.view_timeout_ms, config.consensus.status_interval_ms), (700, 175));
        let error = parse(&SOUND.replace("= 500", "= 500\nstatus_interval_ms = 126"), &[]).unwrap_err().to_string();
        assert!(error.contains("`consensus.status_interval_ms`: found 126, a number from 10 to 125"), "{error}");
    }

    #[test]
    fn all_faults_are_told_at_once_with_their_places() {
        let text = SOUND
            .replace("view_timeout_ms = 500", "view_timeout_ms = \"soon\"\nlinger = 3")
            .replace("listen = \"127.0.0.1:8001\"", "listen = \"nowhere\"")
            + "[stroe]\nsegment_bytes = 1\n[[peer]]\nkey = \"zz\"\naddress = \"host\"\n";
        let error = parse(&text, &[("STANDIN__NODE__COLOUR", "red")]).unwrap_err().to_string();
        for expected in [
            "node.toml:14:19: `consensus.view_timeout_ms`: found \"soon\", a number from 50 to 8000",
            "`consensus.linger`: is not known; did you mean `linger_ms`?",
            "`http.listen`: found \"nowhere\", an address such as",
            "`stroe`: is not known; did you mean `store`?",
            "`peer.key`: public key `zz` is not valid",
            "`peer.address`: host and port are needed",
            "STANDIN__NODE__COLOUR",
        ] {
            assert!(error.contains(expected), "{expected}\n in \n{error}");
        }
    }

    #[test]
    fn missing_keys_and_broken_syntax_are_told() {
        let error = parse("[node]\nname = \"x\"\n", &[]).unwrap_err().to_string();
        assert!(
            error.contains("`node.key_file`: is missing") && error.contains("`bridge.listen`: is missing"),
            "{error}"
        );
        let error = parse("[node\n", &[]).unwrap_err().to_string();
        assert!(error.contains("node.toml:1:"), "{error}");
    }

    #[test]
    fn an_auth_node_needs_its_key_and_a_member_none() {
        let auth = SOUND.replace("[node]\n", "[node]\nrole = \"auth\"\n");
        let error = parse(&auth, &[]).unwrap_err().to_string();
        assert!(error.contains("`auth.key_file`: is missing"), "{error}");
        let sound = auth + "[auth]\nkey_file = \"grants.key\"\nage_max_ms = 500\n";
        let config = parse(&sound, &[]).unwrap();
        assert_eq!((config.role, config.auth.unwrap().config.age_max_ms), (NodeRole::Auth, 500));
        assert!(parse(SOUND, &[]).unwrap().auth.is_none());
        let error = parse(&SOUND.replace("[node]\n", "[node]\nrole = \"king\"\n"), &[]).unwrap_err().to_string();
        assert!(error.contains("`node.role`: found \"king\", \"member\" or \"auth\""), "{error}");
    }

    #[test]
    fn nobody_is_suspected_after_a_single_late_keep_alive() {
        let text = format!("{SOUND}[cluster]\nkeep_alive_ms = 100\nsuspect_ms = 199\n");
        let error = parse(&text, &[]).unwrap_err().to_string();
        assert!(error.contains("`cluster.suspect_ms`: found 199, a number from 200"), "{error}");
        let config = parse(&text.replace("199", "200"), &[]).unwrap().cluster;
        assert!(config.pause_ms > config.keep_alive_ms && config.shrink_ms == 300, "{config:?}");
    }

    #[test]
    fn plain_http_stays_on_loopback() {
        let error = parse(&SOUND.replace("127.0.0.1:8001", "0.0.0.0:8001"), &[]).unwrap_err().to_string();
        assert!(error.contains("loopback"), "{error}");
    }

    #[test]
    fn a_form_of_logs_that_there_is_not_is_told_of() {
        let error = parse(&format!("{SOUND}[log]\nformat = \"jsno\"\n"), &[]).unwrap_err().to_string();
        assert!(error.contains("`log.format`: found \"jsno\", \"text\" or \"json\""), "{error}");
    }
}
