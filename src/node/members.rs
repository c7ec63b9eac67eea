//! What becomes of a list of members that comes from the auth node.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use standin_auth::actor::{MembershipNotice, WantMembers};
use standin_cluster::actor::{MemberActor, MembersChanged};
use standin_consensus::actor::Directory;
use standin_foundation::{NodeId, Seat};
use standin_ledger::SignedMembership;
use standin_stage::Address;
use standin_stage::bridge::{PeerConfig, Roster};

/// Whom a list of members concerns.
#[derive(Debug, Clone)]
pub(super) struct Members {
    directory: Directory,
    member: Address<MemberActor>,
    /// Known as soon as the bridge runs.
    roster: Arc<OnceLock<Roster>>,
    /// Nodes that were removed, and may be in an in-sync set still.
    leaving: Arc<Mutex<BTreeMap<NodeId, Seat>>>,
}

impl Members {
    pub(super) fn new(directory: Directory, member: Address<MemberActor>) -> Self {
        Self { directory, member, roster: Arc::default(), leaving: Arc::default() }
    }

    /// The bridge runs: members that are not in the configuration are let in, and those who were removed and may be in a set
    /// still. `before` belonged to the chain at its genesis.
    pub(super) fn begin(&self, roster: Roster, before: impl Iterator<Item = (Seat, NodeId)>) {
        for (seat, node) in before.filter(|(_, node)| self.directory.seat_of(node).is_none()) {
            self.lock().insert(node, seat);
        }
        let roster = self.roster.get_or_init(|| roster);
        let is_nowhere = |member: &standin_ledger::Member| self.directory.seat_of(&member.key.node_id()).is_none();
        for (seat, member) in self.directory.members.removed().into_iter().filter(|(_, member)| is_nowhere(member)) {
            self.lock().insert(member.key.node_id(), seat);
            admit(roster, member);
        }
        for (_, member) in self.directory.members.all() {
            admit(roster, member);
        }
        self.dismiss_those_who_left();
    }

    /// Checks a list, and tells those whom it concerns. To be called on a thread that runs actors.
    pub(super) fn take(&self, signed: SignedMembership) {
        let members = &self.directory.members;
        let cluster = signed.membership.cluster.clone();
        let before: BTreeMap<_, _> = members.all().into_iter().map(|(seat, m)| (m.key.node_id(), seat)).collect();
        let seat = match members.note(signed) {
            Ok(Some(seat)) => seat,
            Ok(None) => return,
            Err(error) => return tracing::warn!(%error, "members refused"),
        };
        let now = members.of(seat).map(|membership| membership.members).unwrap_or_default();
        tracing::info!(%cluster, members = now.len(), "the cluster has other members");
        let gone = before.iter().filter(|(node, of)| **of == seat && !now.contains_key(*node));
        self.lock().extend(gone.map(|(node, of)| (*node, *of)));
        for (node, member) in &now {
            self.lock().remove(node);
            if let Some(roster) = self.roster.get() {
                admit(roster, member.clone());
            }
        }
        if seat == self.directory.seat {
            self.tell_own();
        }
        self.dismiss_those_who_left();
    }

    /// Asks one of the others for the lists that it knows.
    pub(super) fn ask_anyone(&self) {
        let connected = self.directory.connected();
        if let Some(remote) = connected.get(fastrand::usize(..connected.len().max(1))) {
            // Another one is asked next time.
            let _ = remote.tell(&WantMembers);
        }
    }

    /// Tells another node the lists that are known here.
    pub(super) fn tell(&self, node: &NodeId) {
        let Some(remote) = self.directory.node(node) else { return };
        for signed in self.directory.members.signed() {
            // What finds no room is asked for again.
            let _ = remote.tell(&MembershipNotice(signed));
        }
    }

    /// Tells the member machine who belongs to its cluster, as far as is known here. It may be told twice.
    pub(super) fn tell_own(&self) {
        let own = self.directory.members.of(self.directory.seat);
        // Nobody has been admitted since the genesis, or not yet.
        let Some(changed) = own.filter(|membership| membership.version > 0) else { return };
        let priorities = changed.members.into_iter().map(|(node, member)| (node, member.priority)).collect();
        // A full mailbox: it is told again with the next look-up.
        drop(self.member.tell(MembersChanged(priorities)));
    }

    /// Connections of removed nodes end when no grant requires their acknowledgement any more.
    pub(super) fn dismiss_those_who_left(&self) {
        let Some(roster) = self.roster.get() else { return };
        let book = &self.directory.book;
        self.lock().retain(|node, seat| {
            if self.directory.seat_of(node).is_some() {
                // It has joined another cluster, or this one again.
                return false;
            }
            let stays = book.newest(*seat).is_some_and(|grant| grant.grant.in_sync.contains(node));
            if !stays {
                roster.dismiss(node);
                self.directory.members.forget_removed(node);
            }
            stays
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<NodeId, Seat>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A member of the genesis is reached where the configuration says.
pub(super) fn admit(roster: &Roster, member: standin_ledger::Member) {
    if !member.address.is_empty() {
        roster.admit(&PeerConfig { key: member.key, address: member.address });
    }
}
