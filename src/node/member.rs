//! A member's node: it holds a seat, or follows the one that does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use standin_auth::Request;
use standin_auth::actor::{MembershipNotice, Notice, WantMembers};
use standin_auth::messages::WrongResult;
use standin_cluster::Identity;
use standin_cluster::actor::{AskMember, Auths, LinkDown, Links, MemberActor, MemberConfig, MemberStatus, Opened};
use standin_cluster::machine::Description;
use standin_consensus::actor::{
    AskStatus, Directory, Ingress, LedgerReader, Replica, ReplicaConfig, ReplicaStatus, Storage, VerifyPool,
};
use standin_consensus::{Event, KeySigner, Record};
use standin_console::http::Console;
use standin_foundation::wire::Wire;
use standin_foundation::{ClusterId, Height, NodeId, PublicKey, Seat, SecretKey, Term, Writer};
use standin_ledger::builtin::Builtin;
use standin_ledger::seat_log::FoundLog;
use standin_ledger::{Genesis, GrantBook, Member, MemberBook, StateMachine};
use standin_publisher::Topics;
use standin_publisher::actor::LinksChanged;
use standin_stage::bridge::{Bridge, OnDown, Peers, Router};
use standin_stage::{Address, CallError, Cell, Registry, Remote};
use tokio::sync::{Semaphore, oneshot, watch};

use super::access::Access;
use super::actions::{self, Modes};
use super::backup::Backups;
use super::certificate::Certificate;
use super::console::{self, Teller};
use super::grants::Grants;
use super::members::Members;
use super::misbehaviour::Misbehaviour;
use super::publisher::{self, Around, Publication};
use super::recorder::Recorder;
use super::views::{
    ActorsView, BlocksView, ConsensusView, MemberView, Newest, TerminalsView, TopicsView, TransactionsView,
};
use super::{NodeError, bridge_of, cell_for_one, told};
use crate::config::{NodeConfig, NodeRole};

/// Jobs that may wait for the signature pool.
const VERIFY_JOBS_MAX: usize = 8_192;

/// Those who may follow the blocks over HTTP at one time.
const FOLLOWERS_MAX: usize = 32;

/// The publisher has come as far as the chain within this time, or is not waited for.
const CURRENT_WITHIN: Duration = Duration::from_secs(1);

/// A handle to what a node offers. Cheap to clone; works from any thread.
#[derive(Clone)]
pub struct NodeHandle {
    /// The node's name.
    pub name: String,
    /// Its id.
    pub node: NodeId,
    /// Its key.
    pub key: PublicKey,
    /// The chain's beginning.
    pub genesis: Arc<Genesis>,
    /// The node's cluster.
    pub cluster: ClusterId,
    /// The seat of the node's cluster.
    pub seat: Seat,
    /// The replica.
    pub replica: Address<Replica>,
    /// The member.
    pub member: Address<MemberActor>,
    /// Grants that the node knows.
    pub book: Arc<GrantBook>,
    /// Who belongs to which cluster, as far as it knows.
    pub members: Arc<MemberBook>,
    /// Reads of chain and store.
    pub reader: LedgerReader,
    /// What clients may have at the node's door.
    pub access: Access,
    /// Checks of what comes in.
    pub ingress: Arc<Ingress>,
    /// The signature pool.
    pub pool: VerifyPool,
    /// The node's actors, by name.
    pub actors: Registry,
    /// Transactions can be looked up by id.
    pub indexes: bool,
    /// What transactions do.
    pub state_machine: Arc<dyn StateMachine>,
    /// The newest block that was executed since the node started; 0 before the first.
    pub executed: watch::Receiver<Height>,
    /// The other nodes, as far as they can be reached.
    pub peers: Peers,
    /// The admin console.
    pub console: Console,
    /// What an operator has set for as long as the process runs.
    pub modes: Modes,
    /// The certificate of the bridge.
    pub certificate: Certificate,
    /// Backups of the chain.
    pub backups: Backups,
    /// Places for those who follow the blocks over HTTP.
    pub followers: Arc<Semaphore>,
    /// Topics, and what the node keeps of them.
    pub publication: Publication,
}

impl std::fmt::Debug for NodeHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeHandle").field("name", &self.name).field("node", &self.node).finish_non_exhaustive()
    }
}

impl NodeHandle {
    /// How the replica stands.
    pub async fn status(&self) -> Result<ReplicaStatus, CallError> {
        self.replica.ask(AskStatus, Duration::from_secs(2)).await
    }

    /// How the member and its cluster stand.
    pub async fn cluster(&self) -> Result<MemberStatus, CallError> {
        self.member.ask(AskMember, Duration::from_secs(2)).await
    }

    /// Waits, for a second at most, until the publisher has come as far as the chain here, as it does a moment after whoever waits for an outcome in the newest block:
    /// topics stand then as whoever has just pushed through this node left them. False if the node does not know how they stand.
    pub async fn topics_current(&self) -> bool {
        let board = &self.publication.board;
        let (sender, head) = oneshot::channel();
        let current = async {
            // A read that is not taken has no answer: then what is known is told.
            if let Ok(head) = head.await {
                board.wait_for(head).await;
            }
        };
        if board.is_live() && self.reader.read(move |ledger| _ = sender.send(ledger.chain.height())) {
            drop(tokio::time::timeout(CURRENT_WITHIN, current).await);
        }
        board.is_live()
    }
}

/// A running member.
#[derive(Debug)]
pub struct MemberNode {
    handle: NodeHandle,
    bridge: Bridge,
    member: Cell<MemberActor>,
    replica: Cell<Replica>,
    console: console::Started,
    publisher: publisher::Started,
    fatal: watch::Receiver<Option<String>>,
}

impl MemberNode {
    /// Starts a node with the built-in state machine: opens log and store, joins the others.
    pub fn start(config: &NodeConfig) -> Result<Self, NodeError> {
        Self::start_with(config, Arc::new(Builtin), None)
    }

    /// Starts a node with a state machine of one's own; on the chain of a drill it may misbehave.
    pub fn start_with(
        config: &NodeConfig,
        state_machine: Arc<dyn StateMachine>,
        misbehaviour: Option<Misbehaviour>,
    ) -> Result<Self, NodeError> {
        let genesis = Arc::new(config.genesis()?);
        if misbehaviour.is_some() && !genesis.chain.as_str().starts_with("drill-") {
            return Err(NodeError::NoDrill(genesis.chain.to_string()));
        }
        let key = SecretKey::read(&config.key_file)?;
        let public = key.public();
        let node = public.node_id();
        let cluster = cluster_of(config, &genesis, &node)?;
        let book = GrantBook::open(&config.data_dir.join("grants"), genesis.grant_table())?;
        let unseated = || NodeError::Unseated { cluster: cluster.to_string(), epoch: book.epoch() };
        let seat = book.seat_of_cluster(&cluster).ok_or_else(unseated)?;
        let (bridge, transport, certificate) = bridge_of(config, genesis.digest())?;
        let prepared = Bridge::prepare(&bridge);
        let members = match genesis.auth {
            Some(_) => MemberBook::open(&config.data_dir.join("members"), &genesis, Some(&book.newest_table()))?,
            None => MemberBook::unkept(&genesis),
        };
        let (book, members) = (Arc::new(book), Arc::new(members));
        let directory = Directory { own: node, seat, book, members, peers: prepared.clone() };
        let auths = auths(config, &genesis, &prepared)?;
        let threads = match config.verify_threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let listed = console::roster(config, Arc::clone(&directory.book), Arc::clone(&directory.members));
        let (console_cell, page, views) = console::start(config, (node, genesis.digest()), prepared.clone(), listed)?;
        let teller = Teller::new(console_cell.address().clone(), Some(cluster.to_string()));
        let pool = VerifyPool::start(threads, VERIFY_JOBS_MAX).map_err(NodeError::Thread)?;
        let ingress = Arc::new(Ingress::new(&genesis, directory.clone(), pool.clone()));

        let (fatal_sender, fatal) = watch::channel(None);
        let members = directory.members.of(seat).map(|membership| membership.members).unwrap_or_default();
        let (opened, found) = Opened::open(member_config(config, &genesis, (node, &cluster), members))?;
        let signer = KeySigner { chain: genesis.digest(), seat, writer: Writer::default(), start: 0, key };
        let reports = auths.clone();
        let accused = Arc::clone(&directory.book);
        // Member and replica tell of grants and epochs to those who need their own addresses: all are known a few lines below.
        let told_later: Arc<OnceLock<Grants>> = Arc::default();
        let (told_now, told_of_epochs) = (Arc::clone(&told_later), Arc::clone(&told_later));
        let (executed, heights) = watch::channel(Height(0));
        let state_machine: Arc<dyn StateMachine> = Arc::new(Topics::new(Arc::clone(&genesis), state_machine));
        let machine = Arc::clone(&state_machine);
        let replica_config = ReplicaConfig {
            genesis: (*genesis).clone(),
            signer,
            consensus: config.consensus,
            storage: Storage {
                folder: config.data_dir.clone(),
                reserve_bytes: config.reserve_bytes,
                index_transactions: config.index_transactions,
                keep_blocks: config.keep_blocks,
            },
            log_bytes_max: config.log_bytes_max,
            state_machine,
            directory: directory.clone(),
            misbehaviour: match misbehaviour {
                Some(Misbehaviour::Replica(how)) => Some(how),
                _ => None,
            },
            on_event: {
                let teller = teller.clone();
                Box::new(move |event| {
                    teller.replica(event);
                    report_wrong(&accused, &reports, event);
                })
            },
            on_first_block: {
                let teller = teller.clone();
                Box::new(move |term: Term, height, ms| teller.first_block(term.0, height, ms))
            },
            on_executed: Box::new(move |height| _ = executed.send_replace(height)),
            on_epoch: Box::new(move || told_of_epochs.get().into_iter().for_each(Grants::epoch_known)),
            on_fatal: Box::new(move |why| drop(fatal_sender.send(Some(why)))),
        };
        let links = Links {
            key: SecretKey::read(&config.key_file)?,
            chain: genesis.digest(),
            cluster: cluster.clone(),
            seat,
            members: Arc::clone(&directory.members),
            peers: prepared.clone(),
            auths: auths.clone(),
            grants: Arc::new(move |grant| told_now.get().is_some_and(|grants| grants.take(grant))),
            on_event: {
                let teller = teller.clone();
                Box::new(move |event, ms| teller.member(event, ms))
            },
        };
        let known = opened.grant();
        let (member, replica, reader) = start_seat(opened, links, found, replica_config)?;
        if directory.book.seat_of_cluster(&cluster) != Some(seat) {
            // The store knew epochs that the book had lost.
            replica.stop();
            member.stop();
            return Err(NodeError::Unseated { cluster: cluster.to_string(), epoch: directory.book.epoch() });
        }
        let grants = Grants {
            directory: directory.clone(),
            ingress: Arc::clone(&ingress),
            members: Members::new(directory.clone(), member.address().clone(), auths.clone(), configured_auths(config)),
            member: member.address().clone(),
            replica: replica.address().clone(),
            teller: teller.clone(),
        };
        let modes = Modes::default();
        let view = MemberView {
            name: config.name.clone(),
            node,
            replica: replica.address().clone(),
            member: member.address().clone(),
            counted: Arc::default(),
            modes: modes.clone(),
            peers: directory.peers.clone(),
        };
        known.map(|grant| grants.take(grant));
        let grants = told_later.get_or_init(|| grants).clone();
        let journal = publisher::open_journal(config, &genesis)?;
        let (locks, runs_locks) = publisher::lock_store(config, (genesis.digest(), node));
        let around = Around {
            genesis: Arc::clone(&genesis),
            key: Arc::new(SecretKey::read(&config.key_file)?),
            directory: directory.clone(),
            replica: replica.address().clone(),
            executed: heights.clone(),
            reader: reader.clone(),
            modes: modes.clone(),
            teller: teller.clone(),
            locks,
            competes: config.competes,
        };
        if genesis.auth.is_some() {
            actix_rt::spawn(publisher::show_members(around.clone()));
        }
        let publishing = match misbehaviour {
            Some(Misbehaviour::StalledPublisher) => standin_publisher::Config { window: 0, ..config.publisher },
            _ => config.publisher,
        };
        let publisher = publisher::start(publishing, &journal, around);
        runs_locks(publisher.address().clone());
        let router = standin_console::actor::routes(routes(&ingress, &grants), console_cell.address());
        let router = standin_publisher::actor::routes(router, publisher.address());
        let lost = member.address().clone();
        let links_changed = publisher.address().clone();
        let on_down = OnDown(Box::new(move |node| {
            // It looks for itself, a little later.
            drop(links_changed.tell(LinksChanged));
            // A full mailbox: keep-alives tell it, later.
            drop(lost.tell(LinkDown(node)));
            teller.lost(node);
        }));
        let bridge = Bridge::start(bridge, prepared, Arc::new(transport), router, Some(on_down))?;
        if genesis.auth.is_some() {
            // The store may know epochs whose proofs were lost.
            directory.members.begin(&directory.book.newest_table());
            grants.members.begin(bridge.roster());
            actix_rt::spawn(grants.look_up(auths));
            let recorder = Recorder {
                genesis: Arc::clone(&genesis),
                key: SecretKey::read(&config.key_file)?,
                cluster: cluster.clone(),
                directory: directory.clone(),
                replica: replica.address().clone(),
                reader: reader.clone(),
                settled: BTreeSet::new(),
            };
            actix_rt::spawn(recorder.run());
        }
        let actors = Registry::default();
        // The first of its name in a registry of its own.
        let _ = actors.register(replica.address());
        let _ = actors.register(member.address());
        let _ = actors.register(console_cell.address());
        let _ = actors.register(publisher.address());
        let newest = Newest { reader: reader.clone(), blocks: Arc::default() };
        let (blocks, transactions) = (BlocksView(newest.clone()), TransactionsView(newest));
        let (own_replica, own_member) = (replica.address().clone(), member.address().clone());
        let consensus = ConsensusView { replica: own_replica, member: own_member, windows: Arc::default() };
        let actors_view = ActorsView(actors.clone());
        let (topics, terminals) = (TopicsView(publisher.board()), TerminalsView(publisher.board()));
        views.set(vec![
            Box::new(view),
            Box::new(actors_view),
            Box::new(blocks),
            Box::new(transactions),
            Box::new(consensus),
            Box::new(topics),
            Box::new(terminals),
        ]);
        let handle = NodeHandle {
            name: config.name.clone(),
            node,
            key: public,
            genesis,
            cluster,
            seat,
            replica: replica.address().clone(),
            member: member.address().clone(),
            access: Access::new(reader.clone(), Arc::clone(&directory.book), Arc::clone(&machine)),
            book: directory.book,
            members: directory.members,
            reader,
            ingress,
            pool,
            actors,
            indexes: config.index_transactions,
            state_machine: machine,
            executed: heights,
            peers: directory.peers,
            console: page,
            modes,
            certificate,
            backups: Backups::new(config),
            followers: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
            publication: publisher.offered(journal),
        };
        actions::add_to(&handle);
        actix_rt::spawn(publisher::follow(handle.clone()));
        Ok(Self { handle, bridge, member, replica, console: console_cell, publisher, fatal })
    }

    /// What the node offers.
    pub fn handle(&self) -> &NodeHandle {
        &self.handle
    }

    /// Waits until the node must not go on; says why.
    pub async fn failed(&self) -> NodeError {
        tokio::select! {
            biased;
            error = told(&self.fatal) => error,
            exit = self.replica.ended() => NodeError::Fatal(format!("{exit:?}")),
            exit = self.member.ended() => NodeError::Fatal(format!("{exit:?}")),
        }
    }

    /// Stops in order: connections, the replica with its store, then the log; that makes everything durable.
    pub async fn shutdown(self) {
        self.publisher.stop().await;
        self.bridge.stop().await;
        drop(self.console);
        self.replica.stop();
        self.replica.ended().await;
        self.member.stop();
        self.member.ended().await;
    }
}

/// The cluster that the genesis lists the node for, or else the one that its configuration names: it joined later.
pub(super) fn cluster_of(config: &NodeConfig, genesis: &Genesis, node: &NodeId) -> Result<ClusterId, NodeError> {
    let of_genesis = genesis.seat_of_member(node).and_then(|seat| genesis.seats.get(seat.index()));
    match (of_genesis, &config.cluster_name) {
        (Some(descriptor), _) => Ok(descriptor.cluster.clone()),
        (None, Some(cluster)) if genesis.auth.is_some() => Ok(cluster.clone()),
        _ => Err(NodeError::NoSeat(config.key_file.clone())),
    }
}

fn configured_auths(config: &NodeConfig) -> Arc<[NodeId]> {
    let auths = config.peers.iter().filter(|peer| peer.role == NodeRole::Auth);
    auths.map(|peer| peer.key.node_id()).collect()
}

fn auths(config: &NodeConfig, genesis: &Genesis, prepared: &Peers) -> Result<Auths, NodeError> {
    let fronts = config.peers.iter().filter(|peer| peer.role == NodeRole::Auth);
    let fronts: Vec<Remote> = fronts.filter_map(|peer| prepared.remote(&peer.key.node_id())).collect();
    if fronts.is_empty() && genesis.auth.is_some() {
        return Err(NodeError::NoAuth);
    }
    Ok(Auths::new(fronts))
}

/// What the node is in its cluster: on a chain without an auth node each seat has one node, for ever.
pub(super) fn member_config(
    config: &NodeConfig,
    genesis: &Genesis,
    (node, cluster): (NodeId, &ClusterId),
    members: BTreeMap<NodeId, Member>,
) -> MemberConfig {
    let priorities = members.into_iter().map(|(node, member)| (node, member.priority));
    MemberConfig {
        identity: Identity {
            node,
            cluster: cluster.clone(),
            // A node that has just joined may not be on the list that it knows.
            members: [(node, 0)].into_iter().chain(priorities).collect(),
            fixed: genesis.auth.is_none(),
        },
        config: config.cluster,
        describe,
        folder: config.data_dir.join("log"),
        segment_bytes: config.segment_bytes,
        chain: genesis.digest(),
    }
}

/// What a member must know of a record of the replica.
fn describe(record: &Bytes) -> Option<Description> {
    let record = Record::from_wire(record).ok()?;
    Some(Description {
        carries: record.carries().map(|batch| (batch.digest(), batch.bytes)),
        names: record.names(),
        base: record.base(),
        may_wait: record.may_wait(),
    })
}

/// Who may say what to this node.
fn routes(ingress: &Arc<Ingress>, grants: &Grants) -> Router {
    let (noticed, noted) = (grants.clone(), grants.clone());
    let sink = Arc::new(move |grant| _ = noted.take(grant));
    let router = standin_consensus::actor::routes(Router::default(), ingress, &grants.replica, sink);
    let directory = grants.directory.clone();
    let is_mate = Arc::new(move |node: &NodeId| directory.is_mate(node));
    let router = standin_cluster::actor::routes(router, &grants.member, is_mate);
    let asked = grants.members.clone();
    let router = router.tell::<WantMembers>(move |from, WantMembers| {
        asked.tell(&from);
        Ok(())
    });
    let members = grants.members.clone();
    let router = router.tell::<MembershipNotice>(move |_, MembershipNotice(membership)| {
        members.take(membership);
        Ok(())
    });
    router.tell::<Notice>(move |_, Notice(grant)| {
        noticed.take(grant);
        Ok(())
    })
}

/// The auth node is told of a seat that was wrong, with what proves it.
fn report_wrong(book: &GrantBook, auths: &Auths, event: &Event) {
    let Event::WrongResult { seat, result, vote, certificate } = event else { return };
    let table = book.newest_table();
    let Some(accused) = table.seats.get(seat).filter(|_| table.auth.is_some()) else { return };
    let (result, vote, certificate) = (*result, vote.clone(), (**certificate).clone());
    let report = WrongResult { cluster: accused.cluster.clone(), result, vote, certificate };
    let asked = auths.ask(Request::ReportWrong(Box::new(report)));
    // The next wrong result is reported, too: nothing depends on this one's arrival.
    actix_rt::spawn(async move { drop(asked.await) });
}

/// The member that keeps the seat's log, and the replica that fills or follows it.
fn start_seat(
    opened: Opened,
    links: Links,
    found: FoundLog,
    config: ReplicaConfig,
) -> Result<(Cell<MemberActor>, Cell<Replica>, LedgerReader), NodeError> {
    let (member_cell, member_made) = cell_for_one::<MemberActor>("member");
    let (replica_cell, replica_made) = cell_for_one::<Replica>("replica");
    let made = || {
        let replica = Replica::open(config, found, replica_cell.address())?;
        let sink = Box::new(replica.log_sink(replica_cell.address()));
        let (member, log) = opened.start(member_cell.address().clone(), links, sink)?;
        let reader = replica.reader();
        // The receivers live as long as the cells.
        drop(member_made.send(member));
        drop(replica_made.send(replica.with_log(Box::new(log))));
        Ok::<_, NodeError>(reader)
    };
    match made() {
        Ok(reader) => Ok((member_cell, replica_cell, reader)),
        Err(error) => {
            member_cell.stop();
            replica_cell.stop();
            Err(error)
        }
    }
}
