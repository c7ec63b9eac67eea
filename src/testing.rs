//! A whole network in one process, for tests of an application: real nodes, real connections over loopback, real logs in a folder that goes
//! with the network. There is nothing to install and nothing to clean up.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use standin_foundation::{ClusterId, Epoch, PublicKey, SecretKey};
use standin_ledger::genesis::{MemberDescriptor, SeatDescriptor};
use standin_ledger::reconfiguration::Change;
use standin_ledger::{Approved, Genesis, Operators, Parameters, Reconfiguration, SystemTransaction};
use standin_stage::bridge::tls::{CERTIFICATE_DAYS, make_certificate};
use tempfile::TempDir;

use crate::embed::{Application, AuthNode, Node, SubmitError};
use crate::node::NodeError;
use crate::ports::free_addresses;

/// Every seat has a holder, and its members are in sync, within this time.
const HELD_WITHIN: Duration = Duration::from_secs(30);
/// How often that is looked at.
const POLL: Duration = Duration::from_millis(10);

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TestError {
    /// There are not so many free ports.
    #[error("there are not {0} free ports for the network")]
    Ports(usize),
    /// A file.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A key.
    #[error(transparent)]
    Key(#[from] standin_foundation::KeyError),
    /// A certificate.
    #[error(transparent)]
    Tls(#[from] standin_stage::bridge::tls::TlsError),
    /// The chain's beginning.
    #[error("the genesis: {0}")]
    Genesis(String),
    /// A seat that nobody came to hold.
    #[error("nobody holds seat {0}")]
    NotHeld(usize),
    /// A seat whose members did not come into the in-sync set.
    #[error("not all nodes of seat {0} came into its in-sync set")]
    NotInSync(usize),
    /// A node.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// An order of operators that was not carried out.
    #[error("the order was not carried out: {0}")]
    Order(#[from] SubmitError),
    /// No node runs.
    #[error("no node of the network runs")]
    NoneRuns,
}

/// Which nodes there are.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Seats: clusters that vote. Four stand the loss of one.
    pub seats: usize,
    /// Nodes of each cluster. With more than one there is an auth node, and another member takes over when a holder goes.
    pub members: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Self { seats: 4, members: 1 }
    }
}

/// A running network. See the example `test_network`.
pub struct TestNetwork<S: Application> {
    folder: TempDir,
    make: Box<dyn Fn() -> S + Send>,
    shape: Shape,
    nodes: Vec<Option<Node<S>>>,
    auth: Option<AuthNode>,
    operator: SecretKey,
}

impl<S: Application> std::fmt::Debug for TestNetwork<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestNetwork")
            .field("folder", &self.folder.path())
            .field("shape", &self.shape)
            .finish_non_exhaustive()
    }
}

impl<S: Application> TestNetwork<S> {
    /// Starts four seats of one node each.
    pub async fn start(make: impl Fn() -> S + Send + 'static) -> Result<Self, TestError> {
        Self::start_as(Shape::default(), make).await
    }

    /// Starts a network of this shape. `make` makes each node's application.
    pub async fn start_as(shape: Shape, make: impl Fn() -> S + Send + 'static) -> Result<Self, TestError> {
        let folder = tempfile::tempdir()?;
        let operator = SecretKey::generate()?;
        write_files(&folder, shape, operator.public())?;
        let nodes = (0..shape.seats * shape.members).map(|_| None).collect();
        let mut network = Self { folder, make: Box::new(make), shape, nodes, auth: None, operator };
        if shape.members > 1 {
            network.auth = Some(AuthNode::builder().config_file(network.config_of("auth")).start().await?);
        }
        for index in 0..network.nodes.len() {
            network.start_node(index).await?;
        }
        network.in_sync().await?;
        Ok(network)
    }

    /// Waits until every seat has a holder with all of its cluster's nodes that run in its in-sync set: then any one of them may go, and another takes over. A
    /// network that has just been started is so.
    pub async fn in_sync(&self) -> Result<(), TestError> {
        for seat in 0..self.shape.seats {
            let begun = Instant::now();
            while !self.is_in_sync(seat).await {
                if begun.elapsed() > HELD_WITHIN {
                    return Err(TestError::NotInSync(seat));
                }
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }

    async fn is_in_sync(&self, seat: usize) -> bool {
        let Some(holder) = self.holder(seat).await.and_then(|holder| self.node(holder)) else { return false };
        let members = seat * self.shape.members..(seat + 1) * self.shape.members;
        let run = members.filter(|index| self.node(*index).is_some()).count();
        holder.handle().cluster().await.is_ok_and(|status| status.view.active && status.view.in_sync.len() >= run)
    }

    /// Waits until a node holds a seat; gives its number. A chain goes on while nobody holds one of four, so that it goes on says nothing of that.
    pub async fn held(&self, seat: usize) -> Result<usize, TestError> {
        let begun = Instant::now();
        loop {
            match self.holder(seat).await {
                Some(holder) => return Ok(holder),
                None if begun.elapsed() > HELD_WITHIN => return Err(TestError::NotHeld(seat)),
                None => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// How many members there are; node `m` of seat `s` has the number `s * members + m`.
    pub fn size(&self) -> usize {
        self.nodes.len()
    }

    /// A node; none while it is stopped.
    pub fn node(&self, index: usize) -> Option<&Node<S>> {
        self.nodes.get(index)?.as_ref()
    }

    /// The auth node; none where each cluster has one node.
    pub fn auth(&self) -> Option<&AuthNode> {
        self.auth.as_ref()
    }

    /// The key of the network's only operator.
    pub fn operator(&self) -> &SecretKey {
        &self.operator
    }

    /// Has the chain carry out changes that begin with its next epoch, such as a newer version of the application's rules; gives that epoch. It begins by
    /// itself, some moments later.
    pub async fn reconfigure(&self, changes: Vec<Change>) -> Result<Epoch, TestError> {
        let node = self.running().next().ok_or(TestError::NoneRuns)?;
        let (chain, epoch) = (node.handle().genesis.digest(), node.handle().book.epoch());
        let order = Approved::draft(Reconfiguration { chain, epoch, changes }).by(&self.operator);
        node.carry_out(&SystemTransaction::Reconfigure(order)).await?;
        Ok(epoch.next())
    }

    /// The nodes that run.
    pub fn running(&self) -> impl Iterator<Item = &Node<S>> {
        self.nodes.iter().flatten()
    }

    /// Stops a node, as when its process is told to: it hands its seat over first.
    pub async fn stop_node(&mut self, index: usize) {
        if let Some(node) = self.nodes.get_mut(index).and_then(Option::take) {
            node.shutdown().await;
        }
    }

    /// Starts a node that is stopped, from the log and the store that it left. A node that runs goes on.
    pub async fn start_node(&mut self, index: usize) -> Result<(), TestError> {
        let config = self.config_of(&name_of(self.shape, index));
        if let Some(place) = self.nodes.get_mut(index).filter(|place| place.is_none()) {
            *place = Some(Node::builder((self.make)()).config_file(config).start().await?);
        }
        Ok(())
    }

    /// The number of the node that holds a seat, as the nodes that run know it; none if nobody does.
    pub async fn holder(&self, seat: usize) -> Option<usize> {
        let members = seat * self.shape.members..(seat + 1) * self.shape.members;
        for index in members {
            let Some(node) = self.node(index) else { continue };
            if node.handle().cluster().await.is_ok_and(|status| status.view.active) {
                return Some(index);
            }
        }
        None
    }

    /// The configuration of a node.
    pub fn config_file(&self, index: usize) -> PathBuf {
        self.config_of(&name_of(self.shape, index))
    }

    /// Stops all nodes, and removes their files.
    pub async fn shutdown(mut self) {
        // At one time: nobody waits for a successor that is about to stop, too.
        futures_util::future::join_all(self.running().map(Node::shutdown)).await;
        self.nodes.clear();
        if let Some(auth) = self.auth.take() {
            auth.shutdown().await;
        }
    }

    fn config_of(&self, name: &str) -> PathBuf {
        self.folder.path().join(name).join("node.toml")
    }
}

fn name_of(shape: Shape, index: usize) -> String {
    format!("s{}-{}", index / shape.members, index % shape.members)
}

/// A node's name, key and two addresses.
struct Place {
    name: String,
    key: PublicKey,
    bridge: SocketAddr,
    http: SocketAddr,
}

/// Writes keys, certificates, genesis and configurations.
fn write_files(folder: &TempDir, shape: Shape, operator: PublicKey) -> Result<(), TestError> {
    let has_auth = shape.members > 1;
    let names = (0..shape.seats * shape.members).map(|index| name_of(shape, index));
    let names: Vec<_> = names.chain(has_auth.then(|| "auth".to_owned())).collect();
    let addresses = free_addresses(2 * names.len(), &[]);
    if addresses.len() < 2 * names.len() {
        return Err(TestError::Ports(2 * names.len()));
    }
    let mut places = Vec::new();
    for (name, pair) in names.into_iter().zip(addresses.chunks(2)) {
        let own = folder.path().join(&name);
        std::fs::create_dir_all(&own)?;
        let key = SecretKey::generate()?;
        key.write_new(&own.join("node.key"))?;
        let (certificate, private) = make_certificate("standin", CERTIFICATE_DAYS)?;
        std::fs::write(own.join("tls.pem"), certificate)?;
        std::fs::write(own.join("tls.key"), private)?;
        if let [bridge, http] = pair {
            places.push(Place { name, key: key.public(), bridge: *bridge, http: *http });
        }
    }
    let grants = SecretKey::generate()?;
    if has_auth {
        grants.write_new(&folder.path().join("auth").join("grants.key"))?;
    }
    let genesis = genesis(shape, &places, has_auth.then(|| grants.public()), operator)?;
    let text = toml::to_string(&genesis).map_err(|error| TestError::Genesis(error.to_string()))?;
    std::fs::write(folder.path().join("genesis.toml"), text)?;
    for place in &places {
        std::fs::write(folder.path().join(&place.name).join("node.toml"), config(place, &places))?;
    }
    Ok(())
}

fn genesis(shape: Shape, places: &[Place], auth: Option<PublicKey>, operator: PublicKey) -> Result<Genesis, TestError> {
    let wrong = |error: String| TestError::Genesis(error);
    let mut seats = Vec::new();
    for (number, members) in places.chunks(shape.members).take(shape.seats).enumerate() {
        let cluster: ClusterId = format!("c{number}").parse().map_err(|error| wrong(format!("{error}")))?;
        let member = |(rank, place): (usize, &Place)| MemberDescriptor {
            key: place.key,
            priority: 200_u8.saturating_sub(rank as u8),
            site: format!("site-{rank}"),
        };
        seats.push(SeatDescriptor { cluster, members: members.iter().enumerate().map(member).collect() });
    }
    let genesis = Genesis {
        chain: "test-network".parse().map_err(|error| wrong(format!("{error}")))?,
        time_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64),
        auth,
        parameters: Parameters::default(),
        operators: Operators { keys: vec![operator], needed: 1 },
        clients: Default::default(),
        seats,
        accounts: Vec::new(),
    };
    genesis.check().map_err(|error| wrong(error.to_string()))?;
    Ok(genesis)
}

fn config(place: &Place, all: &[Place]) -> String {
    let Place { name, key, bridge, http } = place;
    let role = if name == "auth" { "role = \"auth\"\n" } else { "" };
    let auth = if name == "auth" { "[auth]\nkey_file = \"grants.key\"\n" } else { "" };
    let mut text = format!(
        "[node]\nname = \"{name}\"\n{role}key_file = \"node.key\"\ngenesis_file = \"../genesis.toml\"\ndata_dir = \"data\"\n{auth}\
         [bridge]\nlisten = \"{bridge}\"\ncertificate_file = \"tls.pem\"\ncertificate_key_file = \"tls.key\"\n\
         [http]\nlisten = \"{http}\"\n[console]\nactions = true\n\
         [store]\nsegment_bytes = 4194304\nlog_bytes_max = 16777216\nreserve_bytes = 0\n"
    );
    for other in all.iter().filter(|other| other.key != *key) {
        let role = if other.name == "auth" { "role = \"auth\"\n" } else { "" };
        text += &format!("[[peer]]\n{role}key = \"{}\"\naddress = \"{}\"\n", other.key, other.bridge);
    }
    text
}
