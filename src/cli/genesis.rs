//! `genesis`, and `init --role` of a network that is to begin: each company makes its own keys, and what leaves its host is a descriptor.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;
use standin::config::{Descriptor, NodeRole, PeerEntry, read_genesis, read_peers};
use standin_console::actor::unix_ms;
use standin_foundation::{ClusterId, PublicKey, SecretKey, Signature};
use standin_ledger::clients::{Admission, FirstClients, ListedClient, Role};
use standin_ledger::genesis::Account;
use standin_ledger::{Genesis, MemberDescriptor, Operators, Parameters, SeatDescriptor};

use super::Failure;
use super::commented::{Place, head, log, peer, quoted, section};
use super::files::{make_folder, write};
use super::identity::{new_key, write_identity};
use super::orders::read_key;
use super::output::OutputArguments;

#[derive(Debug, Args)]
pub(super) struct GenesisArguments {
    #[command(subcommand)]
    command: GenesisCommand,
}

#[derive(Debug, Subcommand)]
enum GenesisCommand {
    /// Make `genesis.toml` and `peers.toml` of the descriptors of all nodes (`standin init --role`). Whoever gives the same descriptors and options
    /// gets the same genesis.
    Build(Box<BuildArguments>),
    /// Check a genesis, and that it says of nodes what their descriptors say; ends with 3 if it does not.
    Check {
        /// The genesis file.
        file: PathBuf,
        /// Descriptors, with commas.
        #[arg(long, value_delimiter = ',')]
        descriptor: Vec<PathBuf>,
        /// The file with the addresses of all nodes.
        #[arg(long)]
        peers: Option<PathBuf>,
        /// The digest that the others have told you, on a way of its own.
        #[arg(long)]
        digest: Option<String>,
        #[command(flatten)]
        output: OutputArguments,
    },
}

#[derive(Debug, Args)]
struct BuildArguments {
    /// The descriptors of all nodes.
    #[arg(required = true)]
    descriptors: Vec<PathBuf>,
    /// The folder for the two files.
    #[arg(long)]
    out: PathBuf,
    /// The chain's name.
    #[arg(long)]
    chain: String,
    /// The beginning of its time, in ms since the Unix epoch; now without it. It is part of the genesis.
    #[arg(long, value_name = "UNIX_MS")]
    time: Option<u64>,
    /// Public keys of the operators, who approve what changes, with commas.
    #[arg(long, value_delimiter = ',', required = true)]
    operators: Vec<PublicKey>,
    /// How many of them must approve.
    #[arg(long)]
    needed: u16,
    /// A client: its public key, its roles with `+`, and the transactions that each node takes from it in a second, if they are limited.
    #[arg(long = "client", value_name = "KEY:ROLES[:PER_SECOND]")]
    clients: Vec<ClientArgument>,
    /// Take transactions of listed clients only.
    #[arg(long)]
    listed: bool,
    /// An account that holds something from the beginning.
    #[arg(long = "account", value_name = "KEY:AMOUNT")]
    accounts: Vec<AccountArgument>,
}

#[derive(Debug, Clone)]
struct ClientArgument(ListedClient);

impl std::str::FromStr for ClientArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut fields = text.split(':');
        let (key, roles) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        let key = key.parse().map_err(|error| format!("{error}"))?;
        let roles = roles.split('+').map(str::parse).collect::<Result<BTreeSet<Role>, _>>()?;
        let per_second =
            fields.next().unwrap_or("0").parse().map_err(|error| format!("transactions a second: {error}"))?;
        match fields.next() {
            None => Ok(Self(ListedClient { key, roles, per_second })),
            Some(more) => Err(format!("`{more}` is too much: KEY:ROLES[:PER_SECOND]")),
        }
    }
}

#[derive(Debug, Clone)]
struct AccountArgument(Account);

impl std::str::FromStr for AccountArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, amount) = text.split_once(':').ok_or("expected KEY:AMOUNT")?;
        let key = key.parse().map_err(|error| format!("{error}"))?;
        Ok(Self(Account { key, amount: amount.parse().map_err(|error| format!("amount: {error}"))? }))
    }
}

pub(super) fn genesis(arguments: GenesisArguments) -> Result<(), Failure> {
    match arguments.command {
        GenesisCommand::Build(arguments) => build(*arguments),
        GenesisCommand::Check { file, descriptor, peers, digest, output } => {
            check(&file, &descriptor, peers.as_deref(), digest.as_deref(), output)
        }
    }
}

fn read_descriptor(path: &Path) -> Result<Descriptor, Failure> {
    let text = fs::read_to_string(path).map_err(|error| Failure::new(1, format!("{}: {error}", path.display())))?;
    Descriptor::parse(&text).map_err(|error| Failure::new(78, format!("{}: {error}", path.display())))
}

fn build(arguments: BuildArguments) -> Result<(), Failure> {
    let BuildArguments { descriptors, out, chain, time, operators, needed, clients, listed, accounts } = arguments;
    let mut nodes = descriptors.iter().map(|path| read_descriptor(path)).collect::<Result<Vec<_>, _>>()?;
    // Whoever gives them in another order gets the same.
    nodes.sort_by_key(|node| (node.role == NodeRole::Auth, node.cluster.clone(), node.key));
    let grants: BTreeSet<_> = nodes.iter().filter_map(|node| node.grants).collect();
    if grants.len() > 1 {
        let what = "the auth nodes have different keys for grants: those that share a register share `grants.key`, too (`init --grants-key`)";
        return Err(Failure::new(78, what));
    }
    let mut seats: BTreeMap<ClusterId, Vec<MemberDescriptor>> = BTreeMap::new();
    for node in &nodes {
        if let (NodeRole::Member, Some(cluster)) = (node.role, &node.cluster) {
            let member = MemberDescriptor { key: node.key, priority: node.priority, site: node.site.clone() };
            seats.entry(cluster.clone()).or_default().push(member);
        }
    }
    let wrong = |what: String| Failure::new(78, what);
    let genesis = Genesis {
        chain: chain.parse().map_err(|error| wrong(format!("--chain: {error}")))?,
        time_ms: time.unwrap_or_else(unix_ms),
        auth: grants.into_iter().next(),
        parameters: Parameters::default(),
        operators: Operators { keys: operators, needed },
        clients: FirstClients {
            admission: if listed { Admission::Listed } else { Admission::Open },
            list: clients.into_iter().map(|client| client.0).collect(),
        },
        seats: seats.into_iter().map(|(cluster, members)| SeatDescriptor { cluster, members }).collect(),
        accounts: accounts.into_iter().map(|account| account.0).collect(),
    };
    genesis.check().map_err(|error| wrong(error.to_string()))?;
    genesis.warnings().iter().for_each(|warning| eprintln!("warning: {warning}"));
    make_folder(&out)?;
    let (genesis_file, peers_file) = (out.join("genesis.toml"), out.join("peers.toml"));
    if let Some(existing) = [&genesis_file, &peers_file].into_iter().find(|path| path.exists()) {
        return Err(Failure::new(6, format!("{} exists: nothing is overwritten", existing.display())));
    }
    let text = toml::to_string(&genesis).map_err(|error| Failure::new(1, error.to_string()))?;
    write(&genesis_file, text)?;
    let peers: String = nodes.iter().map(|node| peer(node.role, &node.key, &node.address)).collect();
    write(&peers_file, format!("# Where the nodes of the chain `{}` are reached.\n{peers}", genesis.chain))?;
    eprintln!("{} and {}: the same two files for every node", genesis_file.display(), peers_file.display());
    eprintln!(
        "compare the digest with the others on a way of its own, and check your part with `standin genesis check`"
    );
    println!("{}", genesis.digest());
    Ok(())
}

fn check(
    file: &Path,
    descriptors: &[PathBuf],
    peers: Option<&Path>,
    digest: Option<&str>,
    output: OutputArguments,
) -> Result<(), Failure> {
    let genesis = read_genesis(file)?;
    let found = genesis.digest().to_string();
    let mut faults = Vec::new();
    if digest.is_some_and(|told| told != found) {
        faults.push(format!("the digest is {found}, another one was told"));
    }
    let nodes = descriptors.iter().map(|path| read_descriptor(path)).collect::<Result<Vec<_>, _>>()?;
    for node in &nodes {
        let is_in = match node.role {
            NodeRole::Auth => genesis.auth.is_some() && genesis.auth == node.grants,
            NodeRole::Member => members_of(&genesis, node.cluster.as_ref())
                .any(|member| (member.key, &member.site, member.priority) == (node.key, &node.site, node.priority)),
        };
        if !is_in {
            faults.push(format!("`{}` is not in the genesis as its descriptor says", node.name));
        }
    }
    // Whoever speaks for a seat is chosen among its cluster's members: one that nobody knows would be as good as all others.
    for cluster in nodes.iter().filter_map(|node| node.cluster.as_ref()).collect::<BTreeSet<_>>() {
        for member in members_of(&genesis, Some(cluster)) {
            if !nodes.iter().any(|node| node.key == member.key) {
                let key = member.key;
                faults.push(format!("cluster {cluster} has the member {key}, of which no descriptor was given"));
            }
        }
    }
    if let Some(path) = peers {
        let known = read_peers(path)?;
        for node in &nodes {
            let of_key: Vec<_> = known.iter().filter(|peer| peer.key == node.key).collect();
            let is_it = |peer: &&PeerEntry| (peer.role, &peer.address) == (node.role, &node.address);
            if of_key.len() != 1 || !of_key.iter().all(is_it) {
                faults.push(format!("`{}` is not among the peers, once, at {}", node.name, node.address));
            }
        }
    }
    let told =
        json!({ "digest": genesis.digest(), "genesis": genesis, "warnings": genesis.warnings(), "faults": faults });
    output.one(&told, |_| show(&genesis));
    match faults.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(3, faults.join("; "))),
    }
}

fn members_of<'a>(genesis: &'a Genesis, cluster: Option<&ClusterId>) -> impl Iterator<Item = &'a MemberDescriptor> {
    let of_cluster = genesis.seats.iter().find(|seat| Some(&seat.cluster) == cluster);
    of_cluster.into_iter().flat_map(|seat| &seat.members)
}

fn show(genesis: &Genesis) {
    println!("chain {}, genesis {}", genesis.chain, genesis.digest());
    for (number, seat) in genesis.seats.iter().enumerate() {
        println!("seat {number}: cluster {}", seat.cluster);
        for member in &seat.members {
            let (node, key, priority) = (member.key.node_id().short(), member.key, member.priority);
            println!("  node {node} ({key}), site {}, priority {priority}", member.site);
        }
    }
    match &genesis.auth {
        Some(key) => println!("grants are signed with {key}"),
        None => println!("no auth node: each seat is held by its node for ever"),
    }
    println!("{} of these operators must approve what changes:", genesis.operators.needed);
    genesis.operators.keys.iter().for_each(|key| println!("  {key}"));
    let admission = match genesis.clients.admission {
        Admission::Open => "everybody may submit and read",
        Admission::Listed => "nobody but listed clients may submit and read",
    };
    println!("{admission}; {} clients are listed", genesis.clients.list.len());
    genesis.warnings().iter().for_each(|warning| eprintln!("warning: {warning}"));
}

/// Where a node listens that others reach by this address: by a name, or by an address that need not be this host's own.
pub(super) fn bridge_of(address: &str) -> Result<SocketAddr, Failure> {
    let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse().ok());
    let wrong = || Failure::new(2, "--address: host and port are needed, such as a1.bank-a.example:7001");
    let unspecified = match address.starts_with('[') {
        true => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        false => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    let any = SocketAddr::new(unspecified, port.ok_or_else(wrong)?);
    Ok(address.parse().ok().filter(|address: &SocketAddr| address.ip().is_loopback()).unwrap_or(any))
}

/// A node of a network that is to begin.
#[derive(Debug)]
pub(super) struct Founder<'a> {
    /// What it is to be.
    pub(super) role: NodeRole,
    /// Its name.
    pub(super) name: &'a str,
    /// A member's cluster.
    pub(super) cluster: Option<ClusterId>,
    /// Where it stands.
    pub(super) site: &'a str,
    /// A member's priority.
    pub(super) priority: u8,
    /// Where its bridge can be reached.
    pub(super) address: &'a str,
    /// Where its HTTP listens.
    pub(super) http: SocketAddr,
    /// The key for grants of an auth node that shares its register with another; none to make one.
    pub(super) grants_key: Option<&'a Path>,
}

impl Founder<'_> {
    /// Writes key, certificate, configuration and descriptor into a new folder; gives the descriptor.
    pub(super) fn write(&self, folder: &Path) -> Result<Descriptor, Failure> {
        let Self { role, name, cluster, site, priority, address, http, grants_key } = self;
        if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Failure::new(6, format!("{} is not empty: nothing is overwritten", folder.display())));
        }
        let bridge = bridge_of(address)?;
        let shared = grants_key.map(read_key).transpose()?;
        let key = write_identity(folder)?;
        let own = folder.join("grants.key");
        let grants = match (role, shared) {
            (NodeRole::Member, _) => None,
            (NodeRole::Auth, None) => Some(new_key(&own)?),
            (NodeRole::Auth, Some(shared)) => {
                shared.write_new(&own).map_err(|error| Failure::new(78, error.to_string()))?;
                Some(shared.public())
            }
        };
        let place = Place { name, site, bridge, http: *http };
        let mut node = vec![
            ("peers_file", quoted("peers.toml")),
            ("role", quoted(if *role == NodeRole::Auth { "auth" } else { "member" })),
        ];
        if *role == NodeRole::Auth && !site.is_empty() {
            node.push(("site", quoted(site)));
        }
        let own = match role {
            NodeRole::Auth => section("auth", &[("key_file", quoted("grants.key"))]),
            NodeRole::Member => {
                [section("cluster", &[]), section("consensus", &[]), section("store", &[]), section("limits", &[])]
                    .concat()
            }
        };
        let text = [head(place, "genesis.toml", &node), own, section("console", &[]), log("info")].concat();
        write(&folder.join("node.toml"), text)?;
        let descriptor = Descriptor {
            role: *role,
            name: (*name).to_owned(),
            key,
            cluster: cluster.clone(),
            site: (*site).to_owned(),
            priority: *priority,
            address: (*address).to_owned(),
            grants,
            signature: Signature::NONE,
        };
        let secret: SecretKey = read_key(&folder.join("node.key"))?;
        let descriptor = descriptor.signed(&secret);
        // It is read as others will read it: what they would refuse is refused here.
        let checked = Descriptor::parse(&descriptor.to_toml());
        let checked = checked.map_err(|error| Failure::new(2, error.to_string()))?;
        write(&folder.join("descriptor.toml"), checked.to_toml())?;
        Ok(checked)
    }
}
