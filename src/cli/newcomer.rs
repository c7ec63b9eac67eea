//! A node on disk that is to join a network: a member, or an auth node that is to take the place of another.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use standin::config::{NodeConfig, NodeRole};
use standin_foundation::{ClusterId, PublicKey, SecretKey};
use standin_ledger::Genesis;

use super::Failure;
use super::commented::{Place, Set, head, log, peer, quoted, section};
use super::files::{at, write};
use super::genesis::bridge_of;
use super::identity::{new_key, write_identity};
use super::ports::ports;

/// A node on disk that is to join a network.
#[derive(Debug)]
pub(super) struct Newcomer {
    /// Its configuration.
    pub(super) config: PathBuf,
    /// Its public key.
    pub(super) key: PublicKey,
    /// Its cluster is one of the genesis.
    pub(super) joins: bool,
    /// Where its bridge is reached.
    pub(super) address: String,
    /// Where its HTTP listens.
    pub(super) http: SocketAddr,
}

/// Where a new node listens, and is reached.
#[derive(Debug, Clone)]
pub(super) struct Where {
    bridge: SocketAddr,
    http: SocketAddr,
    address: String,
}

impl Where {
    /// On this host, at these ports, or at free ones.
    pub(super) fn on_this_host(port: Option<u16>) -> Result<Self, Failure> {
        let ports = ports(port, 1)?;
        let (bridge, http) = ports.first().copied().ok_or_else(|| Failure::new(2, "there are no free ports"))?;
        Ok(Self { bridge, http, address: bridge.to_string() })
    }

    /// Where others reach it by this address.
    pub(super) fn reached_at(address: &str, http: SocketAddr) -> Result<Self, Failure> {
        Ok(Self { bridge: bridge_of(address)?, http, address: address.to_owned() })
    }
}

/// Writes key, certificate and configuration of a node that is to join the network of the member whose configuration is `like`.
pub(super) fn write_newcomer(
    folder: &Path,
    like: &Path,
    cluster: &ClusterId,
    name: &str,
    place: Where,
) -> Result<Newcomer, Failure> {
    let like = Like::read(like)?;
    let sections: String = ["cluster", "consensus", "store", "limits"].map(|name| section(name, &[])).concat();
    let joins = like.genesis.seats.iter().any(|seat| seat.cluster == *cluster);
    let node = [("cluster", quoted(cluster.as_str()))];
    let newcomer = like.write(folder, name, NodeRole::Member, (&node, &sections), place)?;
    Ok(Newcomer { joins, ..newcomer })
}

/// Writes keys, certificate and configuration of an auth node that waits until the chain names its key.
pub(super) fn write_new_auth(folder: &Path, like: &Path, name: &str, place: Where) -> Result<Newcomer, Failure> {
    let like = Like::read(like)?;
    let auth = section("auth", &[("key_file", quoted("grants.key")), ("successor", "true".to_owned())]);
    let newcomer = like.write(folder, name, NodeRole::Auth, (&[("role", quoted("auth"))], &auth), place)?;
    new_key(&folder.join("grants.key"))?;
    Ok(newcomer)
}

/// A member whose network another node joins.
struct Like {
    config: NodeConfig,
    genesis: Genesis,
    /// None where only its configuration is here, and not its key.
    key: Option<PublicKey>,
}

impl Like {
    fn read(path: &Path) -> Result<Self, Failure> {
        let config = NodeConfig::read(path)?;
        let genesis = config.genesis()?;
        if genesis.auth.is_none() {
            let what = format!("the genesis of {} names no auth node: nobody can join its clusters", path.display());
            return Err(Failure::new(78, what));
        }
        let key = match SecretKey::read(&config.key_file) {
            Ok(key) => Some(key.public()),
            // On another host than its own, where its key must not be.
            Err(_) if !config.key_file.exists() && !config.peers.is_empty() => None,
            Err(error) => return Err(Failure::new(78, error.to_string())),
        };
        Ok(Self { config, genesis, key })
    }

    fn write(
        &self,
        folder: &Path,
        name: &str,
        role: NodeRole,
        (node, sections): (&Set<'_>, &str),
        listens: Where,
    ) -> Result<Newcomer, Failure> {
        let Self { config: network, key: in_use, .. } = self;
        if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Failure::new(6, format!("{} is not empty: nothing is overwritten", folder.display())));
        }
        let Where { bridge, http, address } = listens;
        let key = write_identity(folder)?;
        let genesis_file = network.genesis_file.canonicalize().map_err(at(&network.genesis_file))?;
        let place = Place { name, site: "", bridge, http };
        let head = head(place, &genesis_file.display().to_string(), node);
        let mut text = [&head, sections, &section("console", &[]), &log("info")].concat();
        // A file that all nodes share names that one, too, and where others reach it.
        let is_reached = !network.bridge_listen.ip().is_unspecified();
        let unnamed = in_use.filter(|key| is_reached && !network.peers.iter().any(|known| known.key == *key));
        if let Some(in_use) = unnamed {
            text += &peer(NodeRole::Member, &in_use, &network.bridge_listen.to_string());
        }
        // Whoever is to take the place of an auth node takes no word of that one.
        let replaces = role == NodeRole::Auth;
        for known in network.peers.iter().filter(|known| !replaces || known.role == NodeRole::Member) {
            text += &peer(known.role, &known.key, &known.address);
        }
        let config = folder.join("node.toml");
        write(&config, text)?;
        Ok(Newcomer { config, key, joins: false, address, http })
    }
}
