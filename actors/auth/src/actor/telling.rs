//! What an auth node tells of the register: to whoever looks it up, and unasked.

use std::collections::{BTreeMap, BTreeSet};

use actix::fut::wrap_future;
use actix::{ActorFutureExt, AsyncContext};
use serde::{Deserialize, Serialize};
use standin_foundation::wire::Wire;
use standin_foundation::{ClusterId, Epoch, NodeId, Term};
use standin_ledger::{Grant, Member, SignedGrant, SignedMembership};
use standin_stage::{Ctx, Handle, Lane, Message, RemoteMessage, Reply, Shell};

use super::AuthActor;
use crate::register::{Counted, Stored};
use crate::{Answer, Record};

/// A grant that is new, told to every node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice(pub SignedGrant);

impl Wire for Notice {
    const NAME: &'static str = "auth.notice";
    const BYTES_MAX: usize = SignedGrant::BYTES_MAX;
}

impl Message for Notice {
    type Reply = ();
    const LANE: Lane = Lane::Control;
}

impl RemoteMessage for Notice {}

/// A list of members that is new, told to every node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipNotice(pub SignedMembership);

impl Wire for MembershipNotice {
    const NAME: &'static str = "auth.membership";
    const BYTES_MAX: usize = SignedMembership::BYTES_MAX;
}

impl Message for MembershipNotice {
    type Reply = ();
    const LANE: Lane = Lane::Control;
}

impl RemoteMessage for MembershipNotice {}

/// Asks another node for the lists of members that it knows. They are told as notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantMembers;

impl Wire for WantMembers {
    const NAME: &'static str = "auth.want_members";
    const BYTES_MAX: usize = 16;
}

impl Message for WantMembers {
    type Reply = ();
    const LANE: Lane = Lane::Control;
}

impl RemoteMessage for WantMembers {}

/// A cluster as the auth node sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClusterView {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its newest term; zero before the first.
    pub term: Term,
    /// The holder by the newest grant.
    pub holder: Option<NodeId>,
    /// The in-sync set.
    pub in_sync: BTreeSet<NodeId>,
    /// Version of its record: it rises with every change.
    pub version: u64,
    /// The epoch in which the chain last said who the members are: an order about them names it, and the version of their list.
    pub listed: Epoch,
    /// Version of the list of members since then.
    pub membership_version: u64,
    /// The nodes that are admitted.
    pub admitted: BTreeMap<NodeId, Member>,
    /// How long ago the holder was last heard, in ms.
    pub age_ms: Option<u64>,
    /// The holder is past its maximum age.
    pub vacant: bool,
    /// Nodes that may not become holder.
    pub not_electable: BTreeSet<NodeId>,
    /// The register was brought back from a copy, and so many nodes have not said what they know.
    pub recalling: Option<usize>,
}

/// Asks for all clusters.
#[derive(Debug)]
pub struct AskClusters;

impl Message for AskClusters {
    type Reply = Vec<ClusterView>;
    const LANE: Lane = Lane::Control;
}

/// What is told of a cluster at a version of its record.
#[derive(Debug, Clone)]
pub(super) struct Told {
    version: u64,
    pub(super) grant: Option<SignedGrant>,
    pub(super) membership: Option<SignedMembership>,
}

impl Told {
    /// The cluster, if it was ever granted.
    pub(super) fn cluster(&self) -> Option<ClusterId> {
        self.grant.as_ref().map(|signed| signed.grant.cluster.clone())
    }
}

impl Handle<AskClusters> for AuthActor {
    fn handle(&mut self, _: AskClusters, reply: Reply<Vec<ClusterView>>, ctx: &mut Ctx<Self>) {
        let read = wrap_future(self.setup.register.read_all());
        ctx.spawn(read.map(move |read, shell: &mut Shell<Self>, _| match read {
            Ok(records) => reply.send(records.into_iter().map(|record| shell.role.view(record)).collect()),
            Err(error) => shell.role.register_failed(error, reply),
        }));
    }
}

impl AuthActor {
    /// Tells all nodes something.
    /// Says to how many nodes it went out. Whoever is not reached hears of it with its next keep-alive, looks it up, or hears it from
    /// those that were.
    pub(super) fn tell_all<M: RemoteMessage>(&self, message: &M) -> usize {
        self.setup.peers.all().into_iter().filter(|node| node.tell(message).is_ok()).count()
    }

    /// The records of all clusters, whose members may have been changed by another auth node.
    fn tell_memberships(&self, records: &[Record]) {
        let is_of_chain = |record: &&Record| record.listed > Epoch(0) || record.has_changed_members();
        for record in records.iter().filter(is_of_chain) {
            (self.setup.on_membership)(&record.membership(self.chain));
        }
    }

    pub(super) fn look_up(&mut self, cluster: Option<ClusterId>, reply: Reply<Answer>, ctx: &mut Ctx<Self>) {
        let read = wrap_future(self.setup.register.read_all());
        ctx.spawn(read.map(move |read, shell: &mut Shell<Self>, _| match read {
            Ok(records) => {
                shell.role.tell_memberships(&records);
                let wanted = |record: &&Record| cluster.as_ref().is_none_or(|cluster| record.cluster == *cluster);
                reply.send(shell.role.actives(records.iter().filter(wanted)));
            }
            Err(error) => shell.role.register_failed(error, reply),
        }));
    }

    /// Looks at the whole register: another auth node may have granted and admitted meanwhile. Votes in evidence are judged by its
    /// grants, too, and whoever it admitted must be let in to be heard.
    pub(super) fn look(&mut self, ctx: &mut Ctx<Self>) {
        let read = wrap_future(self.setup.register.read_all());
        ctx.spawn(read.map(|read, shell: &mut Shell<Self>, ctx| match read {
            Ok(records) => {
                shell.role.tell_memberships(&records);
                for record in &records {
                    shell.role.told(record);
                }
                if shell.role.check_issuer().is_ok() {
                    shell.role.add_clusters(&records, ctx);
                    shell.role.name_clusters(&records, ctx);
                }
            }
            Err(error) => tracing::debug!(%error, "the register cannot be read"),
        }));
    }

    /// Puts the clusters into the register that the chain has added. Members of theirs that ask before are told that they are not
    /// admitted, and ask again.
    fn add_clusters(&self, records: &[Record], ctx: &mut Ctx<Self>) {
        let is_new = |ordered: &Record| records.iter().all(|record| record.cluster != ordered.cluster);
        for record in self.machine.ordered_records().into_iter().filter(is_new) {
            let cluster = record.cluster.clone();
            let added = wrap_future(self.setup.register.add(record));
            ctx.spawn(added.map(move |added, shell: &mut Shell<Self>, ctx| match added {
                Ok(()) => {
                    tracing::info!(%cluster, "the chain has added a cluster");
                    shell.role.look(ctx);
                }
                // The next look finds it missing.
                Err(error) => tracing::warn!(%cluster, %error, "a cluster could not be added to the register"),
            }));
        }
    }

    /// Moves the records of clusters on that the chain has named since: members that are new in one are let in by its list, and could
    /// not ask before.
    fn name_clusters(&self, records: &[Record], ctx: &mut Ctx<Self>) {
        for record in records.iter().filter(|record| self.machine.named(record).is_some()) {
            let read = wrap_future(self.setup.register.read(&record.cluster));
            ctx.spawn(read.map(|read, shell: &mut Shell<Self>, ctx| {
                let Ok(Counted { content: Some(Stored { record, mark }), .. }) = read else { return };
                let Some(next) = shell.role.machine.named(&record) else { return };
                let swapped = wrap_future(shell.role.setup.register.swap(mark, next));
                // Whether this one was faster or another: the next look shows.
                ctx.spawn(swapped.map(|swapped, shell: &mut Shell<Self>, ctx| match swapped {
                    Ok(_) => shell.role.look(ctx),
                    Err(error) => tracing::warn!(%error, "a cluster could not be moved on as the chain has ordered"),
                }));
            }));
        }
    }

    fn actives<'a>(&mut self, records: impl Iterator<Item = &'a Record>) -> Answer {
        let (mut grants, mut memberships) = (Vec::new(), Vec::new());
        for record in records {
            let told = self.told(record);
            // One that holds no seat any more concerns nobody.
            if self.setup.book.seat_of_cluster(&record.cluster).is_some() {
                grants.extend(told.grant);
                memberships.extend(told.membership);
            }
        }
        Answer::Actives { grants, memberships, epoch: self.setup.book.epoch() }
    }

    /// What is told of a cluster whose record was read. Signatures cost time: what has not changed keeps its own. A record that was
    /// read before another change turns nothing back.
    pub(super) fn told(&mut self, record: &Record) -> Told {
        if let Some(told) = self.told.get(&record.cluster).filter(|told| told.version >= record.version) {
            return told.clone();
        }
        let grant = record.grant.clone().map(|grant| self.signed(grant));
        if let Some(grant) = &grant {
            // It was made with this very key, or ordered by the chain, and holds as soon as its epoch is known here.
            let _ = self.setup.book.note(grant.clone());
        }
        let membership = record.has_changed_members().then(|| record.membership(self.chain).sign(&self.setup.key));
        let told = Told { version: record.version, grant, membership };
        self.told.insert(record.cluster.clone(), told.clone());
        told
    }

    fn view(&self, record: Record) -> ClusterView {
        let now = self.now();
        // What the chain has said since, and nobody has asked about yet.
        let record = self.machine.named(&record).unwrap_or(record);
        let silent = |told: &BTreeSet<NodeId>| record.admitted.keys().filter(|node| !told.contains(*node)).count();
        ClusterView {
            term: record.term(),
            holder: record.grant.as_ref().map(Grant::holder_id),
            in_sync: record.grant.as_ref().map(|grant| grant.in_sync.clone()).unwrap_or_default(),
            age_ms: self.machine.age(&record.cluster, now),
            vacant: self.machine.is_vacant(&record.cluster, now),
            recalling: record.recalling.as_ref().map(silent),
            version: record.version,
            listed: record.listed,
            membership_version: record.membership_version,
            admitted: record.admitted,
            not_electable: record.not_electable,
            cluster: record.cluster,
        }
    }
}
