//! `init`, `keygen`, `config`: what a network needs before it runs.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use standin::config::keys;
use standin::config::{NodeConfig, NodeRole};
use standin::ports::free_addresses;
use standin_foundation::{ClusterId, PublicKey, SecretKey};
use standin_ledger::genesis::Account;
use standin_ledger::{ClientSignatures, Genesis, MemberDescriptor, Operators, Parameters, SeatDescriptor};
use standin_stage::bridge::tls::make_certificate;

use super::Failure;
use super::layout::{Layout, RegisterPlace};
use super::links::Link;
use super::ports::{Ports, ports};

#[derive(Debug, Args)]
pub(super) struct InitArguments {
    /// The folder; it must not exist, or be empty.
    folder: PathBuf,
    /// The layout: `four-seats`, `two-sites`, `four-sites`, `four-sites-plus` or `four-sites-etcd`.
    #[arg(long, default_value = "four-seats")]
    layout: String,
    /// The chain's name.
    #[arg(long, default_value = "four-seats")]
    chain: String,
    /// Write a systemd unit for each node, too.
    #[arg(long)]
    systemd: bool,
    /// Write a compose file, which runs all nodes in containers on the host's network.
    #[arg(long)]
    compose: bool,
    /// The first port; nodes take consecutive ones. Free ports are chosen without it.
    #[arg(long)]
    port: Option<u16>,
    /// The etcd in which the auth nodes of a layout such as `four-sites-etcd` keep their register: addresses, with commas.
    #[arg(long, default_value = "http://127.0.0.1:2379")]
    etcd: String,
    /// Make one node that is to join a network, in the place of a network.
    #[arg(long, value_enum, requires_all = ["like", "name"])]
    role: Option<InitRole>,
    /// Configuration of a member of the network: genesis and peers are taken from it.
    #[arg(long, requires = "role")]
    like: Option<PathBuf>,
    /// The cluster of a member.
    #[arg(long, requires = "role")]
    cluster: Option<ClusterId>,
    /// The node's name.
    #[arg(long, requires = "role")]
    name: Option<String>,
}

/// What a single node is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum InitRole {
    /// A member of a cluster.
    Member,
    /// An auth node that is to take the place of another.
    Auth,
}

#[derive(Debug, Args)]
pub(super) struct KeygenArguments {
    /// The new key file.
    file: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct ConfigArguments {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check a configuration, its key, its certificate and its genesis.
    Check {
        /// The file.
        #[arg(short, long)]
        config: PathBuf,
    },
    /// Tell what a key means, what it takes, and what it is without being set; all keys without one.
    Explain {
        /// The key, such as `cluster.keep_alive_ms`.
        #[arg(conflicts_with = "markdown")]
        key: Option<String>,
        /// Print `docs/configuration.md`.
        #[arg(long, hide = true)]
        markdown: bool,
    },
    /// Show the configuration as it is understood, defaults included.
    Show {
        /// The file.
        #[arg(short, long)]
        config: PathBuf,
    },
}

/// What differs between networks that are made by the same layout.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// Which nodes there are.
    pub(super) layout: Layout,
    /// The chain's name.
    pub(super) chain: String,
    /// The first port; none for free ones.
    pub(super) port: Option<u16>,
    /// Whether clients sign.
    pub(super) signatures: ClientSignatures,
    /// The `[store]` section of each node.
    pub(super) store: String,
    /// Log level of the nodes.
    pub(super) log_level: String,
    /// Nodes reach each other through relays, whose links can be cut.
    pub(super) relayed: bool,
    /// Addresses of the etcd, for a layout whose register stands in one.
    pub(super) etcd: String,
}

impl WrittenNetwork {
    /// Addresses of the nodes, as `--node` takes them.
    pub(super) fn node_urls(&self) -> String {
        self.urls.iter().take(self.nodes).map(String::as_str).collect::<Vec<_>>().join(",")
    }
}

/// A network on disk.
#[derive(Debug)]
pub(super) struct WrittenNetwork {
    /// Configuration files of all processes: the nodes, then the auth nodes.
    pub(super) configs: Vec<PathBuf>,
    /// HTTP addresses of all processes.
    pub(super) urls: Vec<String>,
    /// How many of them are nodes that clients can talk to.
    pub(super) nodes: usize,
    /// How many are auth nodes: they come next.
    pub(super) auths: usize,
    /// Its genesis.
    pub(super) genesis: Genesis,
    /// A client's key with funds.
    pub(super) client_key: PathBuf,
    /// The key of an operator.
    pub(super) operator_key: PathBuf,
    /// The relays that the nodes dial, if they do not dial each other.
    pub(super) links: Vec<Link>,
}

pub(super) fn init(arguments: &InitArguments) -> Result<(), Failure> {
    if let (Some(InitRole::Member), Some(like), Some(cluster), Some(name)) =
        (arguments.role, &arguments.like, &arguments.cluster, &arguments.name)
    {
        let newcomer = write_newcomer(&arguments.folder, like, cluster, name, arguments.port)?;
        if newcomer.joins {
            eprintln!("an operator admits it with");
            println!("standin member add {cluster} {} --address {} --site SITE", newcomer.key, newcomer.address);
        } else {
            eprintln!(
                "the genesis has no cluster `{cluster}`: when all its nodes run, operators have the chain add it with"
            );
            println!("standin cluster add {cluster} --member http://{},SITE [--member …] --out FILE", newcomer.http);
        }
        eprintln!("and it runs with");
        println!("standin run -c {}", newcomer.config.display());
        return Ok(());
    }
    if let (Some(role), Some(like), Some(name)) = (arguments.role, &arguments.like, &arguments.name) {
        if role == InitRole::Member {
            return Err(Failure::new(2, "--cluster: a member is a node of a cluster"));
        }
        let newcomer = write_new_auth(&arguments.folder, like, name, arguments.port)?;
        eprintln!("it runs, and waits, with");
        println!("standin run -c {}", newcomer.config.display());
        eprintln!("and operators have the chain name it with");
        println!("standin auth replace --with http://{} --node NODES --out FILE", newcomer.http);
        return Ok(());
    }
    let plan = Plan {
        layout: Layout::named(&arguments.layout)?,
        chain: arguments.chain.clone(),
        port: arguments.port,
        signatures: ClientSignatures::Required,
        store: STORE_SECTION.to_owned(),
        log_level: "info".to_owned(),
        relayed: false,
        etcd: arguments.etcd.clone(),
    };
    let network = write_network(&arguments.folder, &plan)?;
    eprintln!("{} nodes of chain `{}` in {}", network.nodes, plan.chain, arguments.folder.display());
    for config in &network.configs {
        println!("standin run -c {}", config.display());
    }
    if arguments.systemd {
        for config in &network.configs {
            let unit = write_unit(config)?;
            eprintln!("unit: {}", unit.display());
        }
    }
    if arguments.compose {
        let path = arguments.folder.join("compose.yml");
        fs::write(&path, compose_file(&network))?;
        eprintln!("compose: {}", path.display());
    }
    eprintln!("clients: --node {} --key {}", network.node_urls(), network.client_key.display());
    Ok(())
}

/// Writes keys, certificates, genesis and configurations of a network.
pub(super) fn write_network(folder: &Path, plan: &Plan) -> Result<WrittenNetwork, Failure> {
    if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Failure::new(6, format!("{} is not empty: nothing is overwritten", folder.display())));
    }
    fs::create_dir_all(folder)?;
    let names: Vec<_> = plan.layout.names().collect();
    let ports = ports(plan.port, names.len())?;
    let mut keys = Vec::new();
    for name in &names {
        keys.push(write_identity(&folder.join(name))?);
    }
    let grants = grants_key(folder, &plan.layout)?;
    let operator_key = folder.join("operator.key");
    let operator = new_key(&operator_key)?;
    let client_key = folder.join("client.key");
    let client = new_key(&client_key)?;
    let genesis = genesis(plan, &keys, grants, (client, operator))?;
    for warning in genesis.warnings() {
        eprintln!("warning: {warning}");
    }
    let text = toml::to_string(&genesis).map_err(|error| Failure::new(1, error.to_string()))?;
    fs::write(folder.join("genesis.toml"), text)?;
    let links = if plan.relayed { links(&ports)? } else { Vec::new() };
    let mut configs = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let path = folder.join(name).join("node.toml");
        fs::write(&path, node_config(index, &keys, &ports, &links, operator, plan))?;
        configs.push(path);
    }
    let urls = ports.iter().map(|(_, http)| format!("http://{http}")).collect();
    let (nodes, auths) = (plan.layout.nodes.len(), plan.layout.auth.len());
    Ok(WrittenNetwork { configs, urls, nodes, auths, genesis, client_key, operator_key, links })
}

/// Writes a systemd unit beside a node's configuration.
fn write_unit(config: &Path) -> Result<PathBuf, Failure> {
    let config = config.canonicalize()?;
    let folder = config.parent().unwrap_or(Path::new("/"));
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let (program, path) = (std::env::current_exe()?, folder.join(format!("standin-{name}.service")));
    let unit = UNIT
        .replace("@NAME@", &name)
        .replace("@PROGRAM@", &program.display().to_string())
        .replace("@CONFIG@", &config.display().to_string())
        .replace("@FOLDER@", &folder.display().to_string());
    fs::write(&path, unit)?;
    Ok(path)
}

/// All nodes as services of one compose file, beside which their folders lie.
fn compose_file(network: &WrittenNetwork) -> String {
    let mut text = String::from(
        "# All nodes of the network, on this host. The image: docker build -f configs/ops/Dockerfile -t standin .\n\
         # The folder belongs to whoever runs the containers: set UID and GID to its owner's.\nname: standin\nservices:\n",
    );
    for (config, url) in network.configs.iter().zip(&network.urls) {
        let name = config.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
        let _ = write!(
            text,
            "  {name}:\n    image: standin\n    user: \"${{UID:-1000}}:${{GID:-1000}}\"\n    command: [\"run\", \"-c\", \"/net/{name}/node.toml\"]\n    \
             network_mode: host\n    volumes: [\".:/net\"]\n    restart: on-failure\n    stop_grace_period: 45s\n    init: true\n    \
             healthcheck:\n      test: [\"CMD\", \"standin\", \"health\", \"--node\", \"{url}\"]\n      interval: 10s\n      timeout: 5s\n      start_period: 30s\n"
        );
    }
    text
}

/// A node as a service of systemd.
const UNIT: &str = include_str!("../../configs/ops/standin.service");

/// The key that signs grants; all auth nodes have it.
fn grants_key(folder: &Path, layout: &Layout) -> Result<Option<PublicKey>, Failure> {
    if layout.auth.is_empty() {
        return Ok(None);
    }
    let key = SecretKey::generate().map_err(|error| Failure::new(1, error.to_string()))?;
    for auth in &layout.auth {
        let path = folder.join(&auth.name).join("grants.key");
        key.write_new(&path).map_err(|error| Failure::new(78, error.to_string()))?;
    }
    Ok(Some(key.public()))
}

fn genesis(
    plan: &Plan,
    keys: &[PublicKey],
    auth: Option<PublicKey>,
    (client, operator): (PublicKey, PublicKey),
) -> Result<Genesis, Failure> {
    let configuration = |what: String| Failure::new(78, what);
    let members = |cluster: &ClusterId| {
        let nodes = plan.layout.nodes.iter().zip(keys).filter(|(node, _)| node.cluster == *cluster);
        let member =
            nodes.map(|(node, key)| MemberDescriptor { key: *key, priority: node.priority, site: node.site.clone() });
        member.collect()
    };
    let clusters = plan.layout.clusters().into_iter();
    let seats =
        clusters.map(|cluster| SeatDescriptor { cluster: cluster.clone(), members: members(cluster) }).collect();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let genesis = Genesis {
        chain: plan.chain.parse().map_err(|error| configuration(format!("{error}")))?,
        time_ms: now.as_millis() as u64,
        auth,
        parameters: Parameters { client_signatures: plan.signatures, ..Parameters::default() },
        seats,
        operators: Operators { keys: vec![operator], needed: 1 },
        accounts: vec![Account { key: client, amount: 1_000_000_000 }],
    };
    genesis.check().map_err(|error| configuration(error.to_string()))?;
    Ok(genesis)
}

/// The `[consensus]` section of a node that holds a seat or stands by.
const CONSENSUS_SECTION: &str = "[consensus]\n# view_timeout_ms = 1000\n# status_interval_ms = 250    # at most a quarter of \
                                 view_timeout_ms\n# in_flight_max = 16\n\n";

/// The `[cluster]` section of a member.
const CLUSTER_SECTION: &str = "[cluster]\n# keep_alive_ms = 50\n# suspect_ms = 150           # at least twice keep_alive_ms\n\
             # shrink_ms = 150            # a member that acknowledges nothing for so long is left out\n\
             # grow_after_ms = 500        # a member that keeps up for so long is taken in\n\
             # min_in_sync = 1            # the holder leaves out no member below this number\n\n";

/// The `[console]` section of a node that joins a network.
const CONSOLE_SECTION: &str = "[console]\n# actions = true              # the node carries out what operators order\n\
             # operators = \"\"              # public keys, with commas, of those who may order it by command\n\n";

/// The `[store]` section of a node that is no demo's.
const STORE_SECTION: &str = "# segment_bytes = 67108864\n# reserve_bytes = 536870912\n# index_transactions = true\n";

/// A relay for each ordered pair of nodes.
fn links(ports: &Ports) -> Result<Vec<Link>, Failure> {
    let pairs = (0..ports.len()).flat_map(|from| (0..ports.len()).map(move |to| (from, to)));
    let pairs: Vec<_> = pairs.filter(|(from, to)| from != to).collect();
    let taken: Vec<_> = ports.iter().flat_map(|(bridge, http)| [*bridge, *http]).collect();
    let relays = free_addresses(pairs.len(), &taken);
    if relays.len() < pairs.len() {
        return Err(Failure::new(2, format!("there are not {} free ports for the links", pairs.len())));
    }
    let link = |((from, to), relay): ((usize, usize), SocketAddr)| {
        ports.get(to).map(|(target, _)| Link { from, to, relay, target: *target })
    };
    Ok(pairs.into_iter().zip(relays).filter_map(link).collect())
}

/// What every configuration begins with.
fn head(name: &str, site: &str, role: &str, genesis: &str, (bridge, http): (&SocketAddr, &SocketAddr)) -> String {
    format!(
        "# A node of Standin{site}. Paths are relative to this file; sizes are in bytes, times in ms.\n\
         [node]\nname = \"{name}\"\n{role}key_file = \"node.key\"\ngenesis_file = \"{genesis}\"\ndata_dir = \"data\"\n\n\
         [bridge]\nlisten = \"{bridge}\"\ncertificate_file = \"tls.pem\"\ncertificate_key_file = \"tls.key\"\n\n\
         [http]\nlisten = \"{http}\"\n\n"
    )
}

fn peer(role: NodeRole, key: &PublicKey, address: &str) -> String {
    let role = if role == NodeRole::Auth { "role = \"auth\"\n" } else { "" };
    format!("\n[[peer]]\n{role}key = \"{key}\"\naddress = \"{address}\"\n")
}

/// A node on disk that is to join a network.
#[derive(Debug)]
pub(super) struct Newcomer {
    /// Its configuration.
    pub(super) config: PathBuf,
    /// Its public key.
    pub(super) key: PublicKey,
    /// Its cluster is one of the genesis.
    joins: bool,
    /// Where its bridge listens.
    pub(super) address: SocketAddr,
    /// Where its HTTP listens.
    pub(super) http: SocketAddr,
}

/// Writes key, certificate and configuration of a node that is to join the network of the member whose configuration is `like`.
pub(super) fn write_newcomer(
    folder: &Path,
    like: &Path,
    cluster: &ClusterId,
    name: &str,
    port: Option<u16>,
) -> Result<Newcomer, Failure> {
    let like = Like::read(like)?;
    let role = format!("cluster = \"{cluster}\"\n");
    let sections = format!("{CLUSTER_SECTION}{CONSENSUS_SECTION}[store]\n{STORE_SECTION}\n");
    let joins = like.genesis.seats.iter().any(|seat| seat.cluster == *cluster);
    Ok(Newcomer { joins, ..like.write(folder, name, &role, &sections, port)? })
}

/// Writes keys, certificate and configuration of an auth node that waits until the chain names its key.
pub(super) fn write_new_auth(folder: &Path, like: &Path, name: &str, port: Option<u16>) -> Result<Newcomer, Failure> {
    let like = Like::read(like)?;
    let operators: Vec<_> = like.genesis.operators.keys.iter().map(ToString::to_string).collect();
    let section = format!(
        "[auth]\nkey_file = \"grants.key\"    # signs grants, once the chain has named its public half\n\
         successor = true             # waits until then\noperators = \"{}\"    # may admit and remove members\n\n",
        operators.join(", ")
    );
    let newcomer = like.write(folder, name, "role = \"auth\"\n", &section, port)?;
    new_key(&folder.join("grants.key"))?;
    Ok(newcomer)
}

/// A member whose network another node joins.
struct Like {
    config: NodeConfig,
    genesis: Genesis,
    key: PublicKey,
}

impl Like {
    fn read(path: &Path) -> Result<Self, Failure> {
        let config = NodeConfig::read(path)?;
        let genesis = config.genesis()?;
        if genesis.auth.is_none() {
            let what = format!("the genesis of {} names no auth node: nobody can join its clusters", path.display());
            return Err(Failure::new(78, what));
        }
        let key = SecretKey::read(&config.key_file).map_err(|error| Failure::new(78, error.to_string()))?.public();
        Ok(Self { config, genesis, key })
    }

    fn write(
        &self,
        folder: &Path,
        name: &str,
        role: &str,
        sections: &str,
        port: Option<u16>,
    ) -> Result<Newcomer, Failure> {
        let Self { config: network, key: in_use, .. } = self;
        if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Failure::new(6, format!("{} is not empty: nothing is overwritten", folder.display())));
        }
        let ports = ports(port, 1)?;
        let (bridge, http) = ports.first().copied().ok_or_else(|| Failure::new(2, "there are no free ports"))?;
        let key = write_identity(folder)?;
        let genesis_file = network.genesis_file.canonicalize()?;
        let mut text = head(name, "", role, &genesis_file.display().to_string(), (&bridge, &http));
        text += &format!("{sections}{CONSOLE_SECTION}[log]\nlevel = \"info\"\nformat = \"text\"\n");
        text += &peer(NodeRole::Member, in_use, &network.bridge_listen.to_string());
        // Whoever is to take the place of an auth node takes no word of that one.
        let replaces = role.contains("\"auth\"");
        for known in network.peers.iter().filter(|known| !replaces || known.role == NodeRole::Member) {
            text += &peer(known.role, &known.key, &known.address);
        }
        let config = folder.join("node.toml");
        fs::write(&config, text)?;
        Ok(Newcomer { config, key, joins: false, address: bridge, http })
    }
}

/// A node's key and certificate.
fn write_identity(folder: &Path) -> Result<PublicKey, Failure> {
    fs::create_dir_all(folder)?;
    let key = new_key(&folder.join("node.key"))?;
    let (certificate, private) = make_certificate("standin").map_err(|e| Failure::new(1, e.to_string()))?;
    fs::write(folder.join("tls.pem"), certificate)?;
    write_private(&folder.join("tls.key"), &private)?;
    Ok(key)
}

fn node_config(
    index: usize,
    keys: &[PublicKey],
    ports: &Ports,
    links: &[Link],
    operator: PublicKey,
    plan: &Plan,
) -> String {
    let mut text = String::new();
    let Some((bridge, http)) = ports.get(index) else { return text };
    let Plan { store, log_level, layout, .. } = plan;
    let name = layout.names().nth(index).unwrap_or_default();
    let is_auth = |index: usize| index >= layout.nodes.len();
    let site = match layout.site_of(index) {
        "" => String::new(),
        site => format!(", at the site `{site}`"),
    };
    let role = if is_auth(index) { "role = \"auth\"\n" } else { "" };
    text += &head(name, &site, role, "../genesis.toml", (bridge, http));
    text += match (is_auth(index), layout.auth.is_empty()) {
        (true, _) => {
            "[auth]\nkey_file = \"grants.key\"    # signs grants; the genesis names its public half\n\
             # age_max_ms = 3000          # a holder that is not heard for so long has lost its seat to whoever asks\n\
             # live_ms = 200              # whoever was heard within this time is asked before a holder is replaced\n"
        }
        (false, true) => "",
        (false, false) => CLUSTER_SECTION,
    };
    if is_auth(index) {
        let _ = writeln!(text, "operators = \"{operator}\"    # may admit and remove members");
        let sites = layout.sites().into_iter().collect::<Vec<_>>().join(", ");
        let _ =
            writeln!(text, "split_preference = \"{sites}\"    # where clusters move to when the sites lose each other");
        text += "# split_after_ms = 2000      # and for how long they must have\n";
    }
    match (is_auth(index), layout.register) {
        (false, _) => _ = write!(text, "{CONSENSUS_SECTION}[store]\n{store}\n"),
        (true, RegisterPlace::Log) => text += "\n",
        (true, RegisterPlace::Etcd) => {
            let _ = write!(
                text,
                "register = \"etcd\"          # shared by all auth nodes: they keep nothing\n\n\
                 [etcd]\nendpoints = \"{}\"\n# timeout_ms = 1000\n# ca_file = \"etcd-ca.pem\"      # needed for https\n\
                 # certificate_file = \"etcd.pem\"\n# certificate_key_file = \"etcd.key\"\n\
                 # user = \"standin\"\n# password_file = \"etcd.password\"\n\n",
                plan.etcd
            );
        }
    }
    let _ = write!(
        text,
        "[console]\nactions = true               # the node carries out what operators order; false unless set\n\
         operators = \"{operator}\"    # may order it by command\n\n[log]\nlevel = \"{log_level}\"\nformat = \"text\"\n"
    );
    for (other, (key, (address, _))) in keys.iter().zip(ports).enumerate().filter(|(other, _)| *other != index) {
        let link = links.iter().find(|link| link.from == index && link.to == other);
        let address = link.map_or(*address, |link| link.relay);
        let role = if is_auth(other) { NodeRole::Auth } else { NodeRole::Member };
        text += &peer(role, key, &address.to_string());
    }
    text
}

fn new_key(path: &Path) -> Result<PublicKey, Failure> {
    let key = SecretKey::generate().map_err(|error| Failure::new(1, error.to_string()))?;
    key.write_new(path).map_err(|error| Failure::new(78, error.to_string()))?;
    Ok(key.public())
}

fn write_private(path: &Path, text: &str) -> Result<(), Failure> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}

pub(super) fn keygen(arguments: &KeygenArguments) -> Result<(), Failure> {
    println!("{}", new_key(&arguments.file)?);
    Ok(())
}

pub(super) fn config(arguments: &ConfigArguments) -> Result<(), Failure> {
    match &arguments.command {
        ConfigCommand::Check { config } => {
            let read = NodeConfig::read(config)?;
            let genesis = read.genesis()?;
            let key = SecretKey::read(&read.key_file).map_err(|error| Failure::new(78, error.to_string()))?;
            standin_stage::bridge::TlsIdentity::read(&read.certificate_file, &read.certificate_key_file)
                .map_err(|error| Failure::new(78, error.to_string()))?;
            let place = place_in(&genesis, &read, &key)?;
            for warning in genesis.warnings() {
                eprintln!("warning: {warning}");
            }
            let (path, chain, digest) = (config.display(), &genesis.chain, genesis.digest());
            println!("{path}: sound; {place} of chain `{chain}`, genesis {digest}");
        }
        ConfigCommand::Explain { markdown: true, .. } => print!("{}", keys::as_markdown()),
        ConfigCommand::Explain { key: None, .. } => {
            for key in keys::KEYS {
                println!("{:<32} {}", key.name, key.about);
            }
        }
        ConfigCommand::Explain { key: Some(name), .. } => {
            let unknown = |near: &str| Failure::new(4, format!("there is no key `{name}`; did you mean `{near}`?"));
            let key = keys::find(name).map_err(unknown)?;
            let default =
                key.default.map_or_else(|| "nothing: it must be set, or is not needed".to_owned(), str::to_owned);
            let variable = key.name.to_uppercase().replace('.', "__");
            println!(
                "{}\n  {}\n  takes:      {}\n  without it: {default}\n  environment: STANDIN__{variable}",
                key.name, key.about, key.takes
            );
        }
        ConfigCommand::Show { config } => println!("{:#?}", NodeConfig::read(config)?),
    }
    Ok(())
}

fn place_in(genesis: &Genesis, config: &NodeConfig, key: &SecretKey) -> Result<String, Failure> {
    let wrong = |what: String| Failure::new(78, what);
    if let Some(auth) = &config.auth {
        let grants = SecretKey::read(&auth.key_file).map_err(|error| wrong(error.to_string()))?;
        let is_named = genesis.auth == Some(grants.public());
        return match (is_named, auth.successor) {
            (true, _) => Ok("auth node".to_owned()),
            (false, true) => Ok("auth node, when the chain has named its key,".to_owned()),
            (false, false) => Err(wrong(format!("{}: the genesis names another auth key", auth.key_file.display()))),
        };
    }
    let of_genesis = genesis.seat_of_member(&key.public().node_id()).and_then(|seat| genesis.seats.get(seat.index()));
    match (of_genesis, &config.cluster_name) {
        (Some(seat), _) => Ok(format!("a member of cluster `{}`", seat.cluster)),
        (None, Some(cluster)) => Ok(format!("a member of cluster `{cluster}` that joined after the genesis")),
        (None, None) => {
            Err(wrong("the node's key is in no cluster of the genesis, and `node.cluster` is not set".to_owned()))
        }
    }
}
