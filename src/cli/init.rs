//! `init`: what a network, or one node of it, needs before it runs.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use standin::config::NodeRole;
use standin::ports::free_addresses;
use standin_foundation::{ClusterId, PublicKey, SecretKey};
use standin_ledger::genesis::Account;
use standin_ledger::{ClientSignatures, Genesis, MemberDescriptor, Operators, Parameters, SeatDescriptor};

use super::Failure;
use super::commented::{Place, head, log, peer, quoted, section};
use super::files::{at, make_folder, write};
use super::genesis::Founder;
use super::identity::{new_key, write_identity};
use super::layout::{Layout, RegisterPlace};
use super::links::Link;
use super::newcomer::{Where, write_new_auth, write_newcomer};
use super::ports::{Ports, ports};

#[derive(Debug, Args)]
pub(super) struct InitArguments {
    /// The folder; it must not exist, or be empty.
    folder: PathBuf,
    /// The layout: `four-seats`, `two-sites`, `four-sites`, `four-sites-plus`, `four-sites-etcd` or `publishers`.
    #[arg(long, default_value = "four-seats")]
    layout: String,
    /// The chain's name; that of the layout without it.
    #[arg(long)]
    chain: Option<String>,
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
    /// Make one node in the place of a network: one that joins a network that runs (`--like`), or one of a network that is to begin, of which the
    /// descriptor on stdout is all that others need (`standin genesis build`).
    #[arg(long, value_enum, requires = "name")]
    role: Option<InitRole>,
    /// Configuration of a member of the network that the node joins: genesis and peers are taken from it.
    #[arg(long, requires = "role")]
    like: Option<PathBuf>,
    /// The cluster of a member.
    #[arg(long, requires = "role")]
    cluster: Option<ClusterId>,
    /// The node's name.
    #[arg(long, requires = "role")]
    name: Option<String>,
    /// Where the bridge of the node can be reached by others: host and port. A free port of this host without it, which is good for a look.
    #[arg(long, requires = "role")]
    address: Option<String>,
    /// Where that node stands: what is lost together has the same name.
    #[arg(long, requires = "address", conflicts_with = "like", default_value = "")]
    site: String,
    /// That member's priority: the higher, the earlier it is elected.
    #[arg(long, requires = "address", conflicts_with = "like", default_value_t = 0)]
    priority: u8,
    /// Where that node's HTTP listens: on loopback.
    #[arg(long, requires = "address", default_value = "127.0.0.1:8001")]
    http: SocketAddr,
    /// The key for grants of an auth node that shares its register with another: its `grants.key`, brought over by hand.
    #[arg(long, requires = "address", conflicts_with = "like")]
    grants_key: Option<PathBuf>,
}

/// What a single node is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum InitRole {
    /// A member of a cluster.
    Member,
    /// An auth node that is to take the place of another.
    Auth,
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
    /// What is set in the `[store]` section of each node.
    pub(super) store: Vec<(&'static str, String)>,
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
    match (arguments.role, &arguments.like) {
        (Some(role), Some(like)) => init_newcomer(arguments, role, like),
        (Some(role), None) => init_founder(arguments, role),
        (None, _) => init_network(arguments),
    }
}

const CLUSTER_NEEDED: &str = "--cluster: a member is a node of a cluster";

/// A node of a network that runs.
fn init_newcomer(arguments: &InitArguments, role: InitRole, like: &Path) -> Result<(), Failure> {
    let InitArguments { folder, cluster, .. } = arguments;
    let name = arguments.name.as_deref().unwrap_or_default();
    let place = match &arguments.address {
        Some(address) => Where::reached_at(address, arguments.http)?,
        None => Where::on_this_host(arguments.port)?,
    };
    if role == InitRole::Auth {
        let newcomer = write_new_auth(folder, like, name, place)?;
        eprintln!("it runs, and waits, with");
        println!("standin run -c {}", newcomer.config.display());
        eprintln!("and operators have the chain name it with");
        println!("standin auth replace --with http://{},{} --node NODES --out FILE", newcomer.http, newcomer.address);
        return Ok(());
    }
    let cluster = cluster.as_ref().ok_or_else(|| Failure::new(2, CLUSTER_NEEDED))?;
    let newcomer = write_newcomer(folder, like, cluster, name, place)?;
    if newcomer.joins {
        eprintln!("operators admit it with");
        println!("standin member add {cluster} {} --address {} --site SITE", newcomer.key, newcomer.address);
    } else {
        eprintln!(
            "the genesis has no cluster `{cluster}`: when all its nodes run, operators have the chain add it with"
        );
        let (http, address) = (newcomer.http, newcomer.address);
        println!("standin cluster add {cluster} --member http://{http},SITE,{address} [--member …] --out FILE");
    }
    eprintln!("and it runs with");
    println!("standin run -c {}", newcomer.config.display());
    Ok(())
}

/// A node of a network that is to begin.
fn init_founder(arguments: &InitArguments, role: InitRole) -> Result<(), Failure> {
    let InitArguments { folder, cluster, site, priority, http, .. } = arguments;
    if role == InitRole::Member && cluster.is_none() {
        return Err(Failure::new(2, CLUSTER_NEEDED));
    }
    if role == InitRole::Member && arguments.grants_key.is_some() {
        return Err(Failure::new(2, "--grants-key: a member signs no grants"));
    }
    if !http.ip().is_loopback() {
        return Err(Failure::new(2, "--http: HTTP is plain, so it listens on loopback; put a proxy with TLS in front"));
    }
    let missing =
        || Failure::new(2, "--address HOST:PORT is needed, where others reach the node; or --like, to join a network");
    let founder = Founder {
        role: if role == InitRole::Auth { NodeRole::Auth } else { NodeRole::Member },
        name: arguments.name.as_deref().unwrap_or_default(),
        cluster: cluster.clone(),
        site,
        priority: *priority,
        address: arguments.address.as_deref().ok_or_else(missing)?,
        http: *http,
        grants_key: arguments.grants_key.as_deref(),
    };
    let descriptor = founder.write(folder)?;
    let folder = folder.display();
    eprintln!("{folder}/descriptor.toml, and here, is what others need to know: give it to whoever builds the genesis");
    print!("{}", descriptor.to_toml());
    eprintln!("with genesis.toml and peers.toml beside it, the node runs with: standin run -c {folder}/node.toml");
    Ok(())
}

/// A whole network on this host.
fn init_network(arguments: &InitArguments) -> Result<(), Failure> {
    let plan = Plan {
        layout: Layout::named(&arguments.layout)?,
        chain: arguments.chain.as_ref().unwrap_or(&arguments.layout).clone(),
        port: arguments.port,
        signatures: ClientSignatures::Required,
        store: Vec::new(),
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
        write(&path, compose_file(&network))?;
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
    make_folder(folder)?;
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
    write(&folder.join("genesis.toml"), text)?;
    let links = if plan.relayed { links(&ports)? } else { Vec::new() };
    let mut configs = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let path = folder.join(name).join("node.toml");
        write(&path, node_config(index, &keys, &ports, &links, operator, plan))?;
        configs.push(path);
    }
    let urls = ports.iter().map(|(_, http)| format!("http://{http}")).collect();
    let (nodes, auths) = (plan.layout.nodes.len(), plan.layout.auth.len());
    Ok(WrittenNetwork { configs, urls, nodes, auths, genesis, client_key, operator_key, links })
}

/// Writes a systemd unit beside a node's configuration.
fn write_unit(config: &Path) -> Result<PathBuf, Failure> {
    let config = config.canonicalize().map_err(at(config))?;
    let folder = config.parent().unwrap_or(Path::new("/"));
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let (program, path) = (std::env::current_exe()?, folder.join(format!("standin-{name}.service")));
    let unit = UNIT
        .replace("@NAME@", &name)
        .replace("@USER@", &rustix::process::getuid().as_raw().to_string())
        .replace("@GROUP@", &rustix::process::getgid().as_raw().to_string())
        .replace("@PROGRAM@", &program.display().to_string())
        .replace("@CONFIG@", &config.display().to_string())
        .replace("@FOLDER@", &folder.display().to_string());
    write(&path, unit)?;
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
        clients: Default::default(),
        accounts: vec![Account { key: client, amount: 1_000_000_000 }],
    };
    genesis.check().map_err(|error| configuration(error.to_string()))?;
    Ok(genesis)
}

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

/// The sections of an auth node.
fn auth_sections(plan: &Plan) -> String {
    let sites = plan.layout.sites().into_iter().collect::<Vec<_>>().join(", ");
    let mut set = vec![("key_file", quoted("grants.key")), ("split_preference", quoted(&sites))];
    match plan.layout.register {
        RegisterPlace::Log => section("auth", &set),
        RegisterPlace::Etcd => {
            set.push(("register", quoted("etcd")));
            section("auth", &set) + &section("etcd", &[("endpoints", quoted(&plan.etcd))])
        }
    }
}

fn node_config(
    index: usize,
    keys: &[PublicKey],
    ports: &Ports,
    links: &[Link],
    operator: PublicKey,
    plan: &Plan,
) -> String {
    let Some((bridge, http)) = ports.get(index).copied() else { return String::new() };
    let Plan { store, log_level, layout, .. } = plan;
    let name = layout.names().nth(index).unwrap_or_default();
    let is_auth = |index: usize| index >= layout.nodes.len();
    let role = [("role", quoted("auth"))];
    let role = if is_auth(index) { &role[..] } else { &[] };
    let mut text = head(Place { name, site: layout.site_of(index), bridge, http }, "../genesis.toml", role);
    match (is_auth(index), layout.auth.is_empty()) {
        (true, _) => text += &auth_sections(plan),
        (false, true) => {}
        (false, false) => text += &section("cluster", &[]),
    }
    if !is_auth(index) {
        text += &[section("consensus", &[]), section("store", store), section("limits", &[])].concat();
    }
    let console = [("actions", "true".to_owned()), ("operators", quoted(&operator.to_string()))];
    text += &[section("console", &console), log(log_level)].concat();
    for (other, (key, (address, _))) in keys.iter().zip(ports).enumerate().filter(|(other, _)| *other != index) {
        let link = links.iter().find(|link| link.from == index && link.to == other);
        let address = link.map_or(*address, |link| link.relay);
        let role = if is_auth(other) { NodeRole::Auth } else { NodeRole::Member };
        text += &peer(role, key, &address.to_string());
    }
    text
}
