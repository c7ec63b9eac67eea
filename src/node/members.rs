//! What becomes of a list of members that comes from the auth node.

use std::sync::{Arc, OnceLock};

use standin_auth::actor::{MembershipNotice, WantMembers};
use standin_cluster::actor::{Auths, MemberActor, MembersChanged};
use standin_consensus::actor::Directory;
use standin_foundation::NodeId;
use standin_ledger::epoch::AuthNode;
use standin_ledger::error::LedgerError;
use standin_ledger::{EpochTable, SignedMembership};
use standin_stage::Address;
use standin_stage::bridge::{PeerConfig, Roster};

/// Whom a list of members concerns.
#[derive(Debug, Clone)]
pub(super) struct Members {
    directory: Directory,
    member: Address<MemberActor>,
    auths: Auths,
    /// Those that the configuration names.
    configured: Arc<[NodeId]>,
    /// Known as soon as the bridge runs.
    roster: Arc<OnceLock<Roster>>,
}

impl Members {
    pub(super) fn new(
        directory: Directory,
        member: Address<MemberActor>,
        auths: Auths,
        configured: Arc<[NodeId]>,
    ) -> Self {
        Self { directory, member, auths, configured, roster: Arc::default() }
    }

    /// The bridge runs: members that are not in the configuration are let in, and those who were removed and may be in a set
    /// still.
    pub(super) fn begin(&self, roster: Roster) {
        let (roster, members) = (self.roster.get_or_init(|| roster), &self.directory.members);
        for (_, member) in members.removed().into_iter().chain(members.all()) {
            admit(roster, member);
        }
        self.dismiss_those_who_left();
        self.ask_named_auths(&self.directory.book.newest_table());
    }

    /// Where the chain has said who the auth nodes are, those are asked.
    fn ask_named_auths(&self, table: &EpochTable) {
        let Some(roster) = self.roster.get().filter(|_| !table.auth_nodes.is_empty()) else { return };
        for AuthNode { key, address } in &table.auth_nodes {
            roster.admit(&PeerConfig { key: *key, address: address.clone() });
        }
        let remotes = table.auth_nodes.iter().filter_map(|node| self.directory.node(&node.key.node_id()));
        self.auths.replace(remotes.collect());
        // Whoever had the key before has nothing to say any more.
        let is_named = |node: &NodeId| table.auth_nodes.iter().any(|named| named.key.node_id() == *node);
        self.configured.iter().filter(|node| !is_named(node)).for_each(|node| roster.dismiss(node));
    }

    /// Checks a list, and tells those whom it concerns. To be called on a thread that runs actors.
    pub(super) fn take(&self, signed: SignedMembership) {
        let members = &self.directory.members;
        let cluster = signed.membership.cluster.clone();
        let seat = match members.note(signed) {
            Ok(Some(seat)) => seat,
            Ok(None) => return,
            // Its proof is asked for, and the list told again.
            Err(LedgerError::UnknownEpoch(epoch)) => {
                return tracing::debug!(%epoch, "members of an epoch that is not known yet");
            }
            Err(error) => return tracing::warn!(%error, "members refused"),
        };
        let now = members.of(seat).map(|membership| membership.members).unwrap_or_default();
        tracing::info!(%cluster, members = now.len(), "the cluster has other members");
        if let Some(roster) = self.roster.get() {
            now.into_values().for_each(|member| admit(roster, member));
        }
        if seat == self.directory.seat {
            self.tell_own();
        }
        self.dismiss_those_who_left();
    }

    /// An epoch has begun: clusters that were added are let in, and those that were removed with the one before are let go.
    pub(super) fn begin_epoch(&self, table: &EpochTable) {
        let members = &self.directory.members;
        let before = members.all();
        members.begin(table);
        if let Some(roster) = self.roster.get() {
            members.all().into_iter().for_each(|(_, member)| admit(roster, member));
            let is_gone = |node: &NodeId| members.seat_of(node).is_none() && *node != self.directory.own;
            let gone = before.into_iter().map(|(_, member)| member.key.node_id()).filter(is_gone);
            gone.for_each(|node| roster.dismiss(&node));
        }
        self.ask_named_auths(table);
        self.tell_own();
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
        let Some(changed) = own.filter(|membership| membership.order() > Default::default()) else { return };
        let priorities = changed.members.into_iter().map(|(node, member)| (node, member.priority)).collect();
        // A full mailbox: it is told again with the next look-up.
        drop(self.member.tell(MembersChanged(priorities)));
    }

    /// Connections of removed nodes end when no grant requires their acknowledgement any more.
    pub(super) fn dismiss_those_who_left(&self) {
        let Some(roster) = self.roster.get() else { return };
        let Directory { book, members, .. } = &self.directory;
        for (seat, member) in members.removed() {
            let node = member.key.node_id();
            if book.newest(seat).is_some_and(|grant| grant.grant.in_sync.contains(&node)) {
                continue;
            }
            members.forget_removed(&node);
            // Unless it has joined another cluster.
            if members.seat_of(&node).is_none() {
                roster.dismiss(&node);
            }
        }
    }
}

/// A member of the genesis is reached where the configuration says.
pub(super) fn admit(roster: &Roster, member: standin_ledger::Member) {
    if !member.address.is_empty() {
        roster.admit(&PeerConfig { key: member.key, address: member.address });
    }
}
