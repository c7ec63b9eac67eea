//! Epochs: from which height on who holds the seats, as the chain itself has ordered it.
//!
//! Epoch 0 is the genesis'. Each later one begins above a checkpoint, the **boundary**: the last block of the epoch before. Its
//! table is part of the state from the boundary on, so that the checkpoint's certificate, which the epoch before signed,
//! proves it to anyone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use standin_foundation::limits::SEATS_MAX;
use standin_foundation::wire::Wire;
use standin_foundation::{ClusterId, Digest, Epoch, Height, Incarnation, PublicKey, Seat, Seats, Signature, Term};

use crate::certificate::{Authority, CheckpointCertificate};
use crate::chain::state_root;
use crate::error::LedgerError;
use crate::genesis::{OPERATORS_MAX, Operators};
use crate::grant::{Cause, Grant, MEMBERS_MAX, SignedGrant, request_digest};
use crate::membership::{Member, NAME_BYTES_MAX};
use crate::snapshot::Snapshot;
use crate::state::Write;
use crate::trie::{StateProof, Trie};

/// Auth nodes that share a key.
pub const AUTH_NODES_MAX: usize = 8;

/// Keys of the state that begin with this byte are the chain's own: no state machine writes them.
pub const SYSTEM_PREFIX: u8 = 0xff;

/// Where an epoch begins, and which seats take part in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: Epoch,
    /// The boundary: the last block of the epoch before.
    pub after: Height,
    /// The seats that vote in it.
    pub seats: Seats,
}

impl EpochStart {
    /// The beginning of a chain.
    pub fn genesis(seats: Seats) -> Self {
        Self { epoch: Epoch(0), after: Height(0), seats }
    }
}

/// Where the later epochs begin that are known: all but the genesis'.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Epochs(Vec<EpochStart>);

impl FromIterator<EpochStart> for Epochs {
    fn from_iter<I: IntoIterator<Item = EpochStart>>(starts: I) -> Self {
        let mut epochs = Self::default();
        starts.into_iter().for_each(|start| epochs.note(start));
        epochs
    }
}

impl Epochs {
    /// Takes in where an epoch begins; an order of the chain is never changed, so the first word stands.
    pub fn note(&mut self, start: EpochStart) {
        let place = self.0.binary_search_by_key(&start.epoch, |known| known.epoch);
        if let Err(place) = place
            && start.epoch > Epoch(0)
        {
            self.0.insert(place, start);
        }
    }

    /// The epoch of the block at `height`, as far as is known.
    pub fn at(&self, height: Height) -> Epoch {
        self.0.iter().rev().find(|start| start.after < height).map(|start| start.epoch).unwrap_or_default()
    }

    /// Where an epoch begins, if it is known and not the genesis'.
    pub fn start_of(&self, epoch: Epoch) -> Option<EpochStart> {
        self.0.iter().find(|start| start.epoch == epoch).copied()
    }

    /// The last block of an epoch, if it is known.
    pub fn end_of(&self, epoch: Epoch) -> Option<Height> {
        self.start_of(epoch.next()).map(|next| next.after)
    }

    /// All of them, by rising number.
    pub fn iter(&self) -> impl Iterator<Item = EpochStart> {
        self.0.iter().copied()
    }
}

/// What the chain has ordered for a seat: who holds it from the boundary on, alone at first, with a log that begins empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// The node that speaks for the seat.
    pub holder: PublicKey,
    /// Names the holder's disk. A disk begins once: whoever has lost it since may have lost what was said, and does not begin
    /// again. Zero where there is no auth node.
    pub disk: u64,
    /// The register's life in which it was ordered: what a later one was brought back from may lack what was granted since.
    pub incarnation: Incarnation,
}

/// A seat in one epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochSeat {
    /// The cluster that holds it.
    pub cluster: ClusterId,
    /// The cluster's members when it was given the seat; the auth node admits others and removes them.
    pub members: Vec<Member>,
    /// The epoch from which on these are its members.
    pub listed: Epoch,
    /// The epoch in which its line of grants began, its lineage: grants of earlier ones are void.
    pub since: Epoch,
    /// What was ordered then; none where the line began with the register's first grant.
    pub base: Option<Base>,
}

/// A node of which the chain says where it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthNode {
    /// The node's key.
    pub key: PublicKey,
    /// Where its bridge can be reached: host and port.
    pub address: String,
}

/// Who holds the seats in one epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochTable {
    /// The epoch.
    pub epoch: Epoch,
    /// The boundary: the last block of the epoch before.
    pub after: Height,
    /// The key with which grants of this epoch are signed; none where each seat is held by one node.
    pub auth: Option<PublicKey>,
    /// The auth nodes that have that key, in the order in which they are asked; none where each configuration says who they are.
    pub auth_nodes: Vec<AuthNode>,
    /// Who approves reconfigurations in this epoch.
    pub operators: Operators,
    /// The version of the state machine's rules by which its blocks are executed.
    pub version: u32,
    /// The seats. A cluster keeps its seat's number as long as it holds one; that of a cluster that was removed stays vacant until
    /// another is added.
    pub seats: BTreeMap<Seat, EpochSeat>,
}

impl Wire for EpochTable {
    const NAME: &'static str = "epoch";
    const BYTES_MAX: usize = 256
        + OPERATORS_MAX * 40
        + AUTH_NODES_MAX * (NAME_BYTES_MAX + 64)
        + SEATS_MAX * (256 + MEMBERS_MAX * (2 * NAME_BYTES_MAX + 64));
}

impl EpochTable {
    /// Where the epoch begins, and which seats take part in it.
    pub fn start(&self) -> EpochStart {
        EpochStart { epoch: self.epoch, after: self.after, seats: self.seats.keys().copied().collect() }
    }

    /// The cluster that holds a seat.
    pub fn cluster_of(&self, seat: &Seat) -> Option<&ClusterId> {
        self.seats.get(seat).map(|seat| &seat.cluster)
    }

    /// The seat of a cluster.
    pub fn seat_of(&self, cluster: &ClusterId) -> Option<Seat> {
        self.seats.iter().find(|(_, seat)| seat.cluster == *cluster).map(|(number, _)| *number)
    }

    /// The base of a seat as a grant. Nobody signs it: whoever has the table knows it.
    pub fn base_grant(&self, chain: &Digest, seat: &EpochSeat) -> Option<SignedGrant> {
        let Base { holder, disk, incarnation } = seat.base.filter(|_| self.auth.is_some())?;
        let (node, term) = (holder.node_id(), Term::first_of(seat.since));
        let in_sync = [node].into();
        let request = request_digest(&node, Term(0), &in_sync, Some(disk));
        let grant = Grant {
            chain: *chain,
            epoch: seat.since,
            cluster: seat.cluster.clone(),
            term,
            holder,
            in_sync,
            previous: Digest::ZERO,
            cause: Cause::Ordered,
            incarnation,
            request,
        };
        Some(SignedGrant { grant, signature: Signature::NONE })
    }

    /// Where it stands in the state.
    pub fn state_key(epoch: Epoch) -> Vec<u8> {
        [&[SYSTEM_PREFIX, b'e'][..], &epoch.0.to_be_bytes()].concat()
    }
}

/// Where the table stands that has been ordered and has not begun.
const ORDERED_KEY: [u8; 2] = [SYSTEM_PREFIX, b'o'];

/// The epoch that has been ordered and has not begun.
pub(crate) fn ordered(state: &Trie) -> Option<EpochTable> {
    EpochTable::from_wire(state.get(&ORDERED_KEY)?).ok()
}

/// The table of an epoch that has begun; none for epoch 0, which is the genesis'.
pub(crate) fn table(state: &Trie, epoch: Epoch) -> Option<EpochTable> {
    EpochTable::from_wire(state.get(&EpochTable::state_key(epoch))?).ok()
}

/// The table of the newest epoch that has begun; none if that is the genesis'.
pub fn newest(state: &Trie) -> Option<EpochTable> {
    let has_begun = |epoch: &Epoch| state.get(&EpochTable::state_key(*epoch)).is_some();
    let newest = (1..).map(Epoch).take_while(has_begun).last()?;
    table(state, newest)
}

/// The seat that a cluster held last, by these tables.
pub(crate) fn last_seat_of<'a>(
    tables: impl DoubleEndedIterator<Item = &'a EpochTable>,
    cluster: &ClusterId,
) -> Option<Seat> {
    tables.rev().find_map(|table| table.seat_of(cluster))
}

/// The tables of all epochs that have begun, but the genesis'.
pub(crate) fn tables(state: &Trie) -> impl Iterator<Item = EpochTable> {
    (1..).map_while(|epoch| table(state, Epoch(epoch)))
}

/// What orders a table.
pub(crate) fn write_of_order(table: &EpochTable) -> Option<Write> {
    Some((ORDERED_KEY.to_vec().into(), Some(table.to_wire().ok()?.into())))
}

/// What begins the ordered epoch.
pub(crate) fn writes_of_beginning(table: &EpochTable) -> Option<[Write; 2]> {
    let begun = (EpochTable::state_key(table.epoch).into(), Some(table.to_wire().ok()?.into()));
    Some([begun, (ORDERED_KEY.to_vec().into(), None)])
}

/// That an epoch has begun, and who holds its seats: a proof for anyone who knows the epoch before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochProof {
    /// The word of the epoch before for the state at the boundary.
    certificate: CheckpointCertificate,
    /// Root of the trie in the state root.
    root: Digest,
    /// The other part of the state root: over the ids that are remembered.
    recent: Digest,
    /// That the table stands in the trie.
    proof: StateProof,
}

impl Wire for EpochProof {
    const NAME: &'static str = "epoch.proof";
    const BYTES_MAX: usize = EpochTable::BYTES_MAX + 16 * 1024;
}

impl EpochProof {
    /// The proof for the epoch that begins above a snapshot, whose result `certificate` proves; none if none begins there.
    pub fn new(snapshot: &Snapshot, certificate: &CheckpointCertificate) -> Option<Self> {
        let (state, certificate, recent) = (&snapshot.state, certificate.clone(), snapshot.recent_root());
        let epoch = certificate.epoch.next();
        table(state, epoch).filter(|table| table.after == certificate.result.height)?;
        let (root, proof) = (state.root(), state.prove(&EpochTable::state_key(epoch)));
        Some(Self { certificate, root, recent, proof })
    }

    /// The epoch that it is about.
    pub fn epoch(&self) -> Epoch {
        self.certificate.epoch.next()
    }

    /// The certificate of the boundary.
    pub fn certificate(&self) -> &CheckpointCertificate {
        &self.certificate
    }

    /// Checks it with what is known of the epoch before; gives the table.
    pub fn verify(&self, authority: &impl Authority) -> Result<EpochTable, LedgerError> {
        self.certificate.verify(authority)?;
        self.table()
    }

    /// The table, if it stands in the state that the certificate is for. The certificate itself is not checked.
    pub fn table(&self) -> Result<EpochTable, LedgerError> {
        let Self { certificate, root, recent, proof } = self;
        let is_certified = state_root(root, recent) == certificate.result.state_root;
        let bytes = proof.verify(root, &EpochTable::state_key(self.epoch())).flatten().filter(|_| is_certified);
        let table = bytes.and_then(|bytes| EpochTable::from_wire(bytes).ok());
        let table = table.filter(|table| (table.epoch, table.after) == (self.epoch(), certificate.result.height));
        table.ok_or(LedgerError::BadProof { what: "the table of an epoch", root: *root })
    }
}
