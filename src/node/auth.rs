//! The auth node.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use standin_auth::actor::{AskClusters, Asked, AuthActor, AuthConfig, ClusterView, Ordered, first_records};
#[cfg(feature = "etcd")]
use standin_auth::etcd::EtcdRegister;
use standin_auth::messages::MemberOrder;
use standin_auth::register::{LogRegister, Register, RegisterError};
use standin_auth::{Refusal, Request};
use standin_console::http::Console;
use standin_foundation::{ClusterId, Epoch, Incarnation, NodeId, SecretKey};
use standin_ledger::{Approved, Genesis, GrantBook, Membership};
use standin_stage::bridge::{Bridge, OnDown, Roster, Router};
use standin_stage::{Address, CallError, Cell, Registry};
use tokio::sync::watch;

use super::actions::{MemberChange, Restart, Step};
use super::certificate::Certificate;
use super::console::{self, Listed, Teller};
use super::members::admit;
use super::views::{ActorsView, AuthView};
use super::{NodeError, bridge_of, cell_for_one, told};
use crate::config::{AuthSection, ConfigError, Fault, NodeConfig};

/// A handle to what an auth node offers. Cheap to clone; works from any thread.
#[derive(Debug, Clone)]
pub struct AuthHandle {
    /// The node's name.
    pub name: String,
    /// Its id.
    pub node: NodeId,
    /// The chain's beginning.
    pub genesis: Arc<Genesis>,
    /// The actor.
    pub auth: Address<AuthActor>,
    /// The node's actors, by name.
    pub actors: Registry,
    /// The admin console.
    pub console: Console,
    /// The certificate of the bridge.
    pub certificate: Certificate,
}

impl AuthHandle {
    /// Carries out an operator's order; gives the members that came of it, or why nothing was changed.
    pub async fn order(&self, order: Approved<MemberOrder>) -> Result<Result<Membership, Refusal>, CallError> {
        self.auth.ask(Ordered(order), Duration::from_secs(5)).await
    }

    /// All clusters, as the register knows them.
    pub async fn clusters(&self) -> Result<Vec<ClusterView>, CallError> {
        self.auth.ask(AskClusters, Duration::from_secs(2)).await
    }
}

/// A running auth node.
#[derive(Debug)]
pub struct AuthNode {
    handle: AuthHandle,
    bridge: Bridge,
    auth: Cell<AuthActor>,
    console: console::Started,
    fatal: watch::Receiver<Option<String>>,
}

impl AuthNode {
    /// Starts an auth node: opens the register, and waits for what is asked.
    pub fn start(config: &NodeConfig) -> Result<Self, NodeError> {
        let genesis = Arc::new(config.genesis()?);
        let section = config.auth.as_ref().ok_or_else(|| not_auth(config))?;
        let key = SecretKey::read(&section.key_file)?;
        let book = GrantBook::open(&config.data_dir.join("grants"), genesis.grant_table())?;
        let issuer = issuer_since(&book, &genesis, section, &key)?;
        warn_of_unknown_sites(section, &genesis);
        let (bridge, transport, certificate) = bridge_of(config, genesis.digest())?;
        let prepared = Bridge::prepare(&bridge);
        let roster: Arc<OnceLock<Roster>> = Arc::default();
        let (fatal_sender, fatal) = watch::channel(None);
        let setup = AuthConfig {
            genesis: Arc::clone(&genesis),
            key,
            config: section.config.clone(),
            register: open_register(config, section, &genesis, issuer)?,
            issuer,
            book,
            peers: prepared.clone(),
            on_membership: let_in(Arc::clone(&roster)),
            on_fatal: Box::new(move |why| drop(fatal_sender.send(Some(why)))),
        };
        let node = bridge.key.public().node_id();
        let listed = Listed::new(config, node, &setup.genesis);
        let roster_of = listed.clone();
        let (console_cell, page, views) =
            console::start(config, (node, setup.genesis.digest()), prepared.clone(), move || roster_of.all())?;
        let teller = Teller::new(console_cell.address().clone(), None);
        let (auth, made) = cell_for_one::<AuthActor>("auth");
        // The receiver lives as long as the cell.
        drop(made.send(AuthActor::new(setup)));
        let router =
            Router::default().ask_as::<Request, _, _>(auth.address().clone(), |from, request| Asked { from, request });
        let router = standin_console::actor::routes(router, console_cell.address());
        let on_down = OnDown(Box::new(move |node| teller.lost(node)));
        let peers = prepared.clone();
        let bridge = Bridge::start(bridge, prepared, Arc::new(transport), router, Some(on_down))?;
        roster.get_or_init(|| bridge.roster());
        let actors = Registry::default();
        // The first of its name in a registry of its own.
        let _ = actors.register(auth.address());
        let _ = actors.register(console_cell.address());
        let (name, address) = (config.name.clone(), auth.address().clone());
        let view = AuthView {
            name,
            auth: address,
            genesis: Arc::clone(&genesis),
            listed,
            peers: peers.clone(),
            site: console::site_of(config),
        };
        views.set(vec![Box::new(view), Box::new(ActorsView(actors.clone()))]);
        let (name, auth_address) = (config.name.clone(), auth.address().clone());
        for step in [Step::Add, Step::Admit, Step::Remove] {
            let (auth, http) = (auth_address.clone(), config.http_listen.to_string());
            page.actions().add(MemberChange { auth, http, step });
        }
        page.actions().add(Restart(actors.clone()));
        let handle = AuthHandle { name, node, genesis, auth: auth_address, actors, console: page, certificate };
        Ok(Self { handle, bridge, auth, console: console_cell, fatal })
    }

    /// What the auth node offers.
    pub fn handle(&self) -> &AuthHandle {
        &self.handle
    }

    /// Waits until the auth node must not go on; says why.
    pub async fn failed(&self) -> NodeError {
        tokio::select! {
            biased;
            error = told(&self.fatal) => error,
            exit = self.auth.ended() => NodeError::Fatal(format!("{exit:?}")),
        }
    }

    /// Stops in order.
    pub async fn shutdown(self) {
        self.bridge.stop().await;
        drop(self.console);
        self.auth.stop();
        self.auth.ended().await;
    }
}

/// Since when the chain has grants signed with this key.
fn issuer_since(
    book: &GrantBook,
    genesis: &Genesis,
    section: &AuthSection,
    key: &SecretKey,
) -> Result<Epoch, NodeError> {
    let (path, epoch) = (section.key_file.clone(), book.epoch());
    let is_first = genesis.auth == Some(key.public());
    book.issuer_since(&key.public()).ok_or_else(|| match (is_first, section.successor) {
        (_, true) => NodeError::Unnamed { epoch },
        (true, false) => NodeError::Replaced { epoch },
        (false, false) => {
            let expected = genesis.auth.map_or_else(|| "none".to_owned(), |key| key.to_string());
            NodeError::AuthKey { path, expected }
        }
    })
}

/// A member may be admitted there later.
fn warn_of_unknown_sites(section: &AuthSection, genesis: &Genesis) {
    let is_known =
        |site: &String| genesis.seats.iter().flat_map(|seat| &seat.members).any(|member| member.site == *site);
    for site in section.config.split_preference.iter().filter(|site| !is_known(site)) {
        tracing::warn!(site, "auth.split_preference names a site at which no member of the genesis stands");
    }
}

fn not_auth(config: &NodeConfig) -> NodeError {
    let what = "this node is a member: set `node.role = \"auth\"`".to_owned();
    NodeError::Config(ConfigError::Faults(vec![Fault {
        place: config.name.clone(),
        key: "node.role".to_owned(),
        what,
    }]))
}

/// Lets new members in, and removed ones out: whatever they ask is refused anyway.
fn let_in(roster: Arc<OnceLock<Roster>>) -> Box<dyn Fn(&Membership) + Send + Sync> {
    let known = Mutex::new(BTreeMap::<ClusterId, Membership>::new());
    Box::new(move |membership| {
        let Some(roster) = roster.get() else { return };
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.get(&membership.cluster).is_some_and(|known| known.order() >= membership.order()) {
            // The register was read before an order that was carried out meanwhile.
            return;
        }
        let before = known.insert(membership.cluster.clone(), membership.clone());
        let gone = before.iter().flat_map(|before| before.members.keys());
        let is_nowhere = |node: &&NodeId| known.values().all(|membership| !membership.members.contains_key(*node));
        gone.filter(is_nowhere).for_each(|node| roster.dismiss(node));
        membership.members.values().for_each(|member| admit(roster, member.clone()));
    })
}

/// The register, in the place that the configuration names.
fn open_register(
    config: &NodeConfig,
    section: &AuthSection,
    genesis: &Genesis,
    issuer: Epoch,
) -> Result<Arc<dyn Register>, RegisterError> {
    // What the chain has ordered is put in when it is looked at.
    let first = if issuer == Epoch(0) { first_records(genesis) } else { Vec::new() };
    let chain = genesis.digest();
    match &section.etcd {
        #[cfg(feature = "etcd")]
        Some(etcd) => Ok(Arc::new(EtcdRegister::open(etcd, chain, issuer, first)?)),
        _ => Ok(Arc::new(LogRegister::open(&config.data_dir.join("register"), chain, issuer, first)?)),
    }
}

/// Says of the register of stopped auth nodes that it was brought back from a copy: see [`LogRegister::recall`].
pub fn recall(config: &NodeConfig) -> Result<Incarnation, NodeError> {
    let genesis = config.genesis()?;
    let chain = genesis.digest();
    let section = config.auth.as_ref().ok_or_else(|| not_auth(config))?;
    let book = GrantBook::open(&config.data_dir.join("grants"), genesis.grant_table())?;
    let issuer = issuer_since(&book, &genesis, section, &SecretKey::read(&section.key_file)?)?;
    Ok(match &section.etcd {
        #[cfg(feature = "etcd")]
        Some(etcd) => EtcdRegister::recall(etcd, chain, issuer)?,
        _ => LogRegister::recall(&config.data_dir.join("register"), chain, issuer)?,
    })
}
