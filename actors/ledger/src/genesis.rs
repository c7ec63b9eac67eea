//! What all nodes of a chain must agree on before its first block.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use standin_foundation::limits::{FRAME_BYTES_MAX, PROPOSAL_BATCHES_MAX, SEATS_MAX, TITLE_BYTES_MAX};
use standin_foundation::{
    Canonical, ChainId, ClusterId, Digest, Encoder, Epoch, Height, Incarnation, NodeId, PublicKey, Seat, View,
};

use crate::block::{Header, Proposal};
use crate::builtin::Builtin;
use crate::certificate;
use crate::clients::FirstClients;
use crate::epoch::{Base, EpochSeat, EpochTable};
use crate::error::LedgerError;
use crate::grant::{GrantTable, MEMBERS_MAX};
use crate::membership::Member;
use crate::trie::Trie;

/// The most heights for which ids may be remembered: their roots must fit into a snapshot's manifest.
const REPLAY_WINDOW_MAX: u64 = 65_536;

/// Whether transactions must carry their client's signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientSignatures {
    /// Every seat checks every signature.
    #[default]
    Required,
    /// Nobody does; only on chains marked as test by their name (`test-…`, `drill-…`).
    None,
}

/// Numbers that change what is agreed on, and so must be the same everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Parameters {
    /// A checkpoint every so many blocks.
    pub checkpoint_interval: u64,
    /// Slots that may be open above the last stable checkpoint; at least twice the checkpoint interval.
    pub window: u64,
    /// For how many heights a transaction's id is remembered, and so how far ahead its last height may lie.
    pub replay_window: u64,
    /// Whether clients sign.
    pub client_signatures: ClientSignatures,
    /// The version of the state machine's rules that the chain begins with; operators order later ones.
    pub version: u32,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            checkpoint_interval: 32,
            window: 128,
            replay_window: 4_096,
            client_signatures: ClientSignatures::Required,
            version: 1,
        }
    }
}

/// A seat as the genesis names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeatDescriptor {
    /// The cluster that holds the seat.
    pub cluster: ClusterId,
    /// The nodes that are admitted to the cluster from the beginning: one where there is no auth node.
    pub members: Vec<MemberDescriptor>,
}

impl SeatDescriptor {
    /// A seat that one node holds.
    pub fn of_one(cluster: ClusterId, key: PublicKey) -> Self {
        Self { cluster, members: vec![MemberDescriptor { key, priority: 0, site: String::new() }] }
    }
}

/// A member of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberDescriptor {
    /// The node's key.
    pub key: PublicKey,
    /// The higher, the earlier it is elected; ties go by node id.
    #[serde(default)]
    pub priority: u8,
    /// Where it stands: what is lost together has the same name.
    #[serde(default)]
    pub site: String,
}

/// Keys in [`Operators`].
pub const OPERATORS_MAX: usize = 64;

/// Who approves reconfigurations, and how many of them it takes. A reconfiguration may name others.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operators {
    /// Their keys. Without any, nothing can be reconfigured.
    pub keys: Vec<PublicKey>,
    /// How many of them must approve.
    pub needed: u16,
}

impl Operators {
    /// Says what is wrong with them.
    pub(crate) fn check(&self, faults: &mut Vec<String>) {
        let (count, distinct) = (self.keys.len(), self.keys.iter().collect::<BTreeSet<_>>().len());
        if count > OPERATORS_MAX || distinct < count {
            faults.push(format!(
                "operators.keys: {count} found, {distinct} of them different; at most {OPERATORS_MAX} different ones are allowed"
            ));
        }
        if count > 0 && !(1..=count).contains(&usize::from(self.needed)) {
            faults.push(format!("operators.needed: {} found, 1 to {count} is allowed", self.needed));
        }
    }
}

/// An account that holds something from the beginning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// Its key.
    pub key: PublicKey,
    /// What it holds.
    pub amount: u64,
}

/// The beginning of a chain. Its digest stands in everything that is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Genesis {
    /// The chain's name.
    pub chain: ChainId,
    /// Beginning of time, in ms since the Unix epoch.
    pub time_ms: u64,
    /// The key with which the auth node signs grants; none where each seat is held by one node for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<PublicKey>,
    /// Numbers that must be the same everywhere.
    #[serde(default)]
    pub parameters: Parameters,
    /// Who approves reconfigurations.
    #[serde(default)]
    pub operators: Operators,
    /// Who may submit, read and publish.
    #[serde(default)]
    pub clients: FirstClients,
    /// The seats, in order.
    pub seats: Vec<SeatDescriptor>,
    /// First accounts.
    #[serde(default)]
    pub accounts: Vec<Account>,
}

impl Genesis {
    /// Checks everything that can be wrong, and says all of it.
    pub fn check(&self) -> Result<(), LedgerError> {
        let mut faults = Vec::new();
        let Parameters { checkpoint_interval, window, replay_window, client_signatures, version: _ } = self.parameters;
        if self.seats.is_empty() || self.seats.len() > SEATS_MAX {
            faults.push(format!("seats: {} found, 1 to {SEATS_MAX} are allowed", self.seats.len()));
        }
        self.check_seats(&mut faults);
        self.operators.check(&mut faults);
        let signs = client_signatures == ClientSignatures::Required;
        self.clients.check((!self.operators.keys.is_empty(), signs), &mut faults);
        if checkpoint_interval == 0 || window < 2 * checkpoint_interval || window > 1_024 {
            faults.push(format!(
                "parameters.window: {window} found, from twice the checkpoint interval \
                 ({checkpoint_interval}, at least 1) to 1024 is allowed"
            ));
        }
        let most = largest_window(self.seats.len());
        if window > most {
            faults.push(format!(
                "parameters.window: {window} found, {most} is the most that {} seats can prove in one message when a view \
                 changes",
                self.seats.len()
            ));
        }
        if replay_window == 0 || replay_window > REPLAY_WINDOW_MAX {
            faults
                .push(format!("parameters.replay_window: {replay_window} found, 1 to {REPLAY_WINDOW_MAX} is allowed"));
        }
        if client_signatures == ClientSignatures::None && !self.chain.is_test() {
            faults.push(format!(
                "parameters.client_signatures: `none` needs a chain named `test-…` or `drill-…`, this one is `{}`",
                self.chain
            ));
        }
        if self.accounts.iter().try_fold(0u64, |sum, account| sum.checked_add(account.amount)).is_none() {
            faults.push("accounts: the sum of all amounts is above 2^64 - 1".to_owned());
        }
        if faults.is_empty() { Ok(()) } else { Err(LedgerError::BadGenesis(faults.join("; "))) }
    }

    fn check_seats(&self, faults: &mut Vec<String>) {
        let mut clusters = BTreeSet::new();
        let mut keys: BTreeSet<_> = self.auth.iter().copied().collect();
        for SeatDescriptor { cluster, members } in &self.seats {
            if !clusters.insert(cluster) {
                faults.push(format!("seats: cluster `{cluster}` holds two seats"));
            }
            let allowed = if self.auth.is_some() { 1..=MEMBERS_MAX } else { 1..=1 };
            if !allowed.contains(&members.len()) {
                let (found, most) = (members.len(), allowed.end());
                let why = if self.auth.is_some() { "" } else { ": without an auth node each seat has one node" };
                faults.push(format!("seats: cluster `{cluster}` has {found} members, 1 to {most} are allowed{why}"));
            }
            for member in members {
                if !keys.insert(member.key) {
                    faults.push(format!(
                        "seats: the key {} of cluster `{cluster}` is in the genesis twice: a node is in one cluster, and each \
                         needs a key of its own",
                        member.key
                    ));
                }
                if self.auth.is_some() && member.site.trim().is_empty() {
                    faults.push(format!(
                        "seats: member {} of cluster `{cluster}` needs the name of its site",
                        member.key
                    ));
                }
            }
        }
    }

    /// What is allowed, and most likely not what is wanted.
    pub fn warnings(&self) -> Vec<String> {
        let alone = self.seats.iter().filter(|seat| self.auth.is_some() && seat.members.len() == 1);
        let told = |seat: &SeatDescriptor| {
            format!("cluster `{}` has one member: nobody takes its seat over when that one is lost", seat.cluster)
        };
        alone.map(told).collect()
    }

    /// The seat of the cluster that a node is admitted to from the beginning.
    pub fn seat_of_member(&self, node: &NodeId) -> Option<Seat> {
        let is_member = |seat: &SeatDescriptor| seat.members.iter().any(|member| member.key.node_id() == *node);
        self.seats.iter().position(is_member).map(|index| Seat(index as u16))
    }

    /// All nodes that are admitted to a cluster from the beginning, with its seat.
    pub fn members(&self) -> impl Iterator<Item = (Seat, &MemberDescriptor)> {
        let seats = self.seats.iter().enumerate();
        seats.flat_map(|(index, seat)| seat.members.iter().map(move |member| (Seat(index as u16), member)))
    }

    /// The digest that names this chain in everything signed.
    pub fn digest(&self) -> Digest {
        Digest::sha256_of(&[b"standin/v1/genesis", &self.canonical_bytes()])
    }

    /// Who may speak for which seat, as far as the genesis alone tells.
    pub fn grant_table(&self) -> GrantTable {
        GrantTable::new(self.digest(), self.epoch_table())
    }

    /// The table of epoch 0.
    pub fn epoch_table(&self) -> EpochTable {
        let seat = |SeatDescriptor { cluster, members }: &SeatDescriptor| {
            // Where there is no auth node, the only member holds the seat.
            let holder = members.first().filter(|_| self.auth.is_none());
            let base =
                holder.map(|MemberDescriptor { key, .. }| Base { holder: *key, disk: 0, incarnation: Incarnation(0) });
            let members = members.iter().map(Member::of_genesis).collect();
            EpochSeat { cluster: cluster.clone(), members, listed: Epoch(0), since: Epoch(0), base }
        };
        EpochTable {
            epoch: Epoch(0),
            after: Height(0),
            auth: self.auth,
            auth_nodes: Vec::new(),
            operators: self.operators.clone(),
            version: self.parameters.version,
            seats: (0..).map(Seat).zip(self.seats.iter().map(seat)).collect(),
        }
    }

    /// The header at height 0. Its parent is the genesis digest.
    pub fn header(&self) -> Header {
        let proposal = Proposal::null(Height(0), Default::default(), View(0), Seat(0));
        Header {
            parent: self.digest(),
            time_ms: self.time_ms,
            transactions_root: proposal.transactions_root(),
            proposal,
        }
    }

    /// The state at height 0.
    pub fn state(&self) -> Trie {
        let accounts: Vec<_> = self.accounts.iter().map(|account| (account.key, account.amount)).collect();
        let mut trie = Trie::default();
        for (key, value) in Builtin::genesis_writes(&accounts).into_iter().chain(self.clients.writes()) {
            if let Some(value) = value {
                trie.insert(key, value);
            }
        }
        trie
    }
}

/// The largest window for which the proof that a view may begin fits into one frame: a quorum's view-changes, each with a
/// full proposal and a quorum of votes for every slot of the window.
pub(crate) fn largest_window(seats: usize) -> u64 {
    const BATCH_NAME_BYTES: usize = 48 + 2 * TITLE_BYTES_MAX;
    const PROPOSAL_BYTES: usize = 64 + PROPOSAL_BATCHES_MAX * BATCH_NAME_BYTES;
    const VOTE_BYTES: usize = 80;
    let quorum = certificate::quorum(seats);
    let slot = PROPOSAL_BYTES + quorum * VOTE_BYTES;
    // What stands beside the slots: signatures, the stable checkpoint's certificate.
    let rest = quorum * (1_024 + quorum * VOTE_BYTES);
    (FRAME_BYTES_MAX.saturating_sub(rest) / (quorum * slot)) as u64
}

impl Canonical for Genesis {
    fn encode(&self, out: &mut Encoder) {
        let parameters = &self.parameters;
        out.bytes(self.chain.as_str().as_bytes()).u64(self.time_ms);
        out.u64(parameters.checkpoint_interval).u64(parameters.window).u64(parameters.replay_window);
        out.u8(parameters.client_signatures as u8).u32(parameters.version);
        self.clients.encode(out);
        out.length(usize::from(self.auth.is_some()));
        if let Some(auth) = &self.auth {
            out.raw(auth.as_bytes());
        }
        out.length(self.operators.keys.len()).u16(self.operators.needed);
        for operator in &self.operators.keys {
            out.raw(operator.as_bytes());
        }
        out.length(self.seats.len());
        for seat in &self.seats {
            out.bytes(seat.cluster.as_str().as_bytes()).length(seat.members.len());
            for member in &seat.members {
                out.raw(member.key.as_bytes()).u8(member.priority).bytes(member.site.as_bytes());
            }
        }
        out.length(self.accounts.len());
        for account in &self.accounts {
            out.raw(account.key.as_bytes()).u64(account.amount);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transaction::tests::key;

    fn genesis(chain: &str) -> Genesis {
        let seat = |n: u8| SeatDescriptor::of_one(format!("c{n}").parse().unwrap(), key(n).public());
        Genesis {
            chain: chain.parse().unwrap(),
            time_ms: 1,
            auth: None,
            parameters: Parameters::default(),
            operators: Operators::default(),
            clients: Default::default(),
            seats: (1..=4).map(seat).collect(),
            accounts: vec![],
        }
    }

    #[test]
    fn a_sound_genesis_passes_and_any_change_changes_its_digest() {
        let sound = genesis("payments");
        sound.check().unwrap();
        let mut other = sound.clone();
        other.parameters.window = 256;
        assert_ne!(other.digest(), sound.digest());
    }

    #[test]
    fn a_cluster_of_one_member_is_allowed_and_warned_about() {
        let mut clusters = genesis("payments");
        clusters.auth = Some(key(9).public());
        clusters.seats.iter_mut().for_each(|seat| seat.members[0].site = "s1".to_owned());
        clusters.seats[0].members.push(MemberDescriptor { key: key(8).public(), priority: 1, site: "s2".to_owned() });
        clusters.check().unwrap();
        assert_eq!(clusters.warnings().len(), 3);
        assert_eq!(clusters.seat_of_member(&key(8).public().node_id()), Some(Seat(0)));
        assert!(genesis("payments").warnings().is_empty());
    }

    #[test]
    fn the_window_is_bounded_by_what_one_message_can_prove() {
        assert!(largest_window(4) >= 256 && largest_window(10) >= 128);
        assert!(largest_window(64) < 32);
        let mut wide = genesis("payments");
        wide.parameters.window = 1_024;
        let text = wide.check().unwrap_err().to_string();
        assert!(text.contains(&format!("{} is the most that 4 seats", largest_window(4))), "{text}");
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let mut bad = genesis("payments");
        bad.parameters.client_signatures = ClientSignatures::None;
        bad.parameters.window = 3;
        bad.seats[1].members = bad.seats[0].members.clone();
        bad.operators = Operators { keys: vec![key(8).public(); 2], needed: 3 };
        let text = bad.check().unwrap_err().to_string();
        for expected in ["client_signatures", "window", "a key of its own", "1 of them different", "operators.needed"] {
            assert!(text.contains(expected), "{text}");
        }
        let mut clusters = genesis("payments");
        clusters.auth = Some(clusters.seats[0].members[0].key);
        clusters.seats[1].cluster = clusters.seats[0].cluster.clone();
        clusters.seats[2].members.clear();
        let text = clusters.check().unwrap_err().to_string();
        for expected in ["holds two seats", "a key of its own", "has 0 members", "needs the name of its site"] {
            assert!(text.contains(expected), "{text}");
        }
        bad = genesis("test-x");
        bad.parameters.client_signatures = ClientSignatures::None;
        bad.check().unwrap();
    }
}
