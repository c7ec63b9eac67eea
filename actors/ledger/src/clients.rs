//! Clients: who may submit, read and publish, and how fast. The list is part of the state, and operators change it through the chain.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use serde::{Deserialize, Serialize};
use standin_foundation::wire::Wire;
use standin_foundation::{Canonical, Decoder, Digest, Domain, Encoder, MalformedBytes, PublicKey};

use crate::approval::{Approved, Order};
use crate::epoch::SYSTEM_PREFIX;
use crate::genesis::OPERATORS_MAX;
use crate::state::{State, Write};
use crate::state_machine::Reject;
use crate::trie::Trie;

/// Clients that a genesis may list. Orders may list more.
const LISTED_MAX: usize = 10_000;
/// Changes in one order.
const CHANGES_MAX: usize = 256;

/// From whom the chain takes transactions, and who may read them at its nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Admission {
    /// Everybody. Rates of listed clients count.
    #[default]
    Open,
    /// Listed clients, by their roles.
    Listed,
}

/// What a client may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Have transactions ordered.
    Submit,
    /// Ask nodes for what is in the chain.
    Read,
    /// Publish data.
    Publish,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Submit, Self::Read, Self::Publish];

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Submit => "submit",
            Self::Read => "read",
            Self::Publish => "publish",
        })
    }
}

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|role| role.to_string() == text);
        found.ok_or_else(|| format!("`{text}` is no role: submit, read or publish"))
    }
}

/// What is said of a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// What it may do.
    pub roles: BTreeSet<Role>,
    /// Transactions that each node takes from it in a second; 0 for as many as come.
    #[serde(default)]
    pub per_second: u32,
}

impl Client {
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.u8(self.roles.iter().map(|role| role.bit()).sum()).u32(self.per_second);
        out.into_bytes()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, MalformedBytes> {
        let mut input = Decoder::new(bytes);
        let bits = input.u8()?;
        let roles = Role::ALL.into_iter().filter(|role| bits & role.bit() != 0).collect();
        let client = Self { roles, per_second: input.u32()? };
        input.finish()?;
        Ok(client)
    }
}

/// A client as a genesis lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListedClient {
    /// Its key.
    pub key: PublicKey,
    /// What it may do.
    pub roles: BTreeSet<Role>,
    /// Transactions that each node takes from it in a second; 0 for as many as come.
    #[serde(default)]
    pub per_second: u32,
}

/// The clients of a chain that begins.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FirstClients {
    /// Whether others may do anything.
    pub admission: Admission,
    /// Those that are listed.
    pub list: Vec<ListedClient>,
}

impl FirstClients {
    /// Says what is wrong with them.
    pub(crate) fn check(&self, (has_operators, signs): (bool, bool), faults: &mut Vec<String>) {
        let (count, distinct) =
            (self.list.len(), self.list.iter().map(|listed| listed.key).collect::<BTreeSet<_>>().len());
        if count > LISTED_MAX || distinct < count {
            faults.push(format!(
                "clients.list: {count} found, {distinct} of them different; at most {LISTED_MAX} different ones are allowed"
            ));
        }
        if self.admission == Admission::Listed && !has_operators {
            faults.push("clients.admission: `listed` needs operators, who could list others".to_owned());
        }
        if self.admission == Admission::Listed && !signs {
            faults
                .push("clients.admission: `listed` needs clients that sign: anybody could use a listed key".to_owned());
        }
    }

    /// What stands of them in the state at height 0: nothing where everybody may do everything.
    pub(crate) fn writes(&self) -> Vec<Write> {
        let policy = Policy { admission: self.admission, orders: 0 };
        let listed = self.list.iter().map(|ListedClient { key, roles, per_second }| {
            write_of(key, &Client { roles: roles.clone(), per_second: *per_second })
        });
        let policy = (*self != Self::default()).then(|| policy.write());
        policy.into_iter().chain(listed).collect()
    }
}

impl Canonical for FirstClients {
    fn encode(&self, out: &mut Encoder) {
        out.u8(self.admission as u8).length(self.list.len());
        for ListedClient { key, roles, per_second } in &self.list {
            out.raw(key.as_bytes()).bytes(&Client { roles: roles.clone(), per_second: *per_second }.to_bytes());
        }
    }
}

/// One change of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientChange {
    /// A client is listed, or something else is said of one that is.
    Set(PublicKey, Client),
    /// A client is listed no more.
    Remove(PublicKey),
    /// Whether others may do anything.
    Admission(Admission),
}

/// What is ordered about clients. It takes effect with the next transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientOrder {
    /// The chain.
    pub chain: Digest,
    /// How many such orders have been carried out before: it counts once.
    pub number: u64,
    /// What changes.
    pub changes: Vec<ClientChange>,
}

impl Order for ClientOrder {
    const DOMAIN: Domain = Domain::ClientOrder;

    fn chain(&self) -> &Digest {
        &self.chain
    }
}

impl Canonical for ClientOrder {
    fn encode(&self, out: &mut Encoder) {
        out.digest(&self.chain).u64(self.number).length(self.changes.len());
        for change in &self.changes {
            match change {
                ClientChange::Set(key, client) => out.u8(1).raw(key.as_bytes()).bytes(&client.to_bytes()),
                ClientChange::Remove(key) => out.u8(2).raw(key.as_bytes()),
                ClientChange::Admission(admission) => out.u8(3).u8(*admission as u8),
            };
        }
    }
}

impl Wire for Approved<ClientOrder> {
    const NAME: &'static str = "client order";
    const BYTES_MAX: usize = 256 + CHANGES_MAX * 128 + OPERATORS_MAX * 128;
}

impl ClientOrder {
    /// What carrying it out changes in this state.
    pub(crate) fn writes(&self, state: &Trie) -> Result<Vec<Write>, Reject> {
        let Policy { mut admission, orders } = policy(state);
        if self.number != orders {
            let found = self.number;
            return Err(Reject::new(format!("client order {found}, the next one is {orders}: draft it anew")));
        }
        if self.changes.is_empty() || self.changes.len() > CHANGES_MAX {
            return Err(Reject::new(format!("{} changes, 1 to {CHANGES_MAX} are allowed", self.changes.len())));
        }
        let mut changed = State::new(state);
        for change in &self.changes {
            match change {
                ClientChange::Set(key, client) => changed.put(key_of(key.as_bytes()), client.to_bytes()),
                ClientChange::Remove(key) if changed.get(&key_of(key.as_bytes())).is_none() => {
                    return Err(Reject::new(format!("the client {key} is not listed")));
                }
                ClientChange::Remove(key) => changed.delete(key_of(key.as_bytes())),
                ClientChange::Admission(other) => admission = *other,
            }
        }
        let (key, policy) = Policy { admission, orders: orders + 1 }.write();
        policy.into_iter().for_each(|policy| changed.put(key.clone(), policy));
        Ok(changed.into_writes())
    }
}

/// What holds for all clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Policy {
    pub(crate) admission: Admission,
    /// Client orders that have been carried out.
    orders: u64,
}

/// Where the policy stands; clients' entries begin with the same bytes.
const POLICY_KEY: [u8; 2] = [SYSTEM_PREFIX, b'c'];

impl Policy {
    fn write(self) -> Write {
        let mut out = Encoder::default();
        out.u8(self.admission as u8).u64(self.orders);
        (POLICY_KEY.to_vec().into(), Some(out.into_bytes().into()))
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, MalformedBytes> {
        let mut input = Decoder::new(bytes);
        let admission = if input.u8()? == Admission::Listed as u8 { Admission::Listed } else { Admission::Open };
        let policy = Self { admission, orders: input.u64()? };
        input.finish()?;
        Ok(policy)
    }
}

/// The policy in a state.
pub(crate) fn policy(state: &Trie) -> Policy {
    state.get(&POLICY_KEY).and_then(|bytes| Policy::from_bytes(bytes).ok()).unwrap_or_default()
}

/// From whom the chain takes transactions.
pub fn admission(state: &Trie) -> Admission {
    policy(state).admission
}

fn key_of(client: &[u8; 33]) -> Vec<u8> {
    [&POLICY_KEY[..], client].concat()
}

fn write_of(key: &PublicKey, client: &Client) -> Write {
    (key_of(key.as_bytes()).into(), Some(client.to_bytes().into()))
}

/// Refuses a transaction's sender that does not have the role for it, on a chain of listed clients.
pub(crate) fn check_sender(state: &Trie, sender: &[u8; 33], role: Role) -> Result<(), Reject> {
    match state.get(&key_of(sender)).map(|bytes| Client::from_bytes(bytes)) {
        Some(Ok(client)) if client.roles.contains(&role) => Ok(()),
        Some(_) => Err(Refused::Role(role).into()),
        None => Err(Refused::Unlisted.into()),
    }
}

/// Why a client may not do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The chain takes listed clients only.
    #[error("the chain does not list this client: its operators can (`standin client set`)")]
    Unlisted,
    /// It is listed without this role.
    #[error("the chain lists this client without the role `{0}`")]
    Role(Role),
}

impl From<Refused> for Reject {
    fn from(refused: Refused) -> Self {
        Self::new(refused.to_string())
    }
}

/// The clients as they are at the head, for whoever is not the chain's own thread. Cheap to clone; all clones see the same.
#[derive(Debug, Clone, Default)]
pub struct ClientBook(Arc<RwLock<Clients>>);

/// The clients at a height.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Clients {
    /// Whether others may do anything.
    pub admission: Admission,
    /// Client orders that have been carried out: the number of the next one.
    pub orders: u64,
    /// Those that are listed.
    pub list: BTreeMap<PublicKey, Client>,
    /// How many of them have a rate.
    #[serde(skip)]
    rated: usize,
}

impl Clients {
    /// What a state says of clients.
    pub fn of(state: &Trie) -> Self {
        let mut clients = Self::default();
        state.entries().into_iter().for_each(|(key, value)| clients.note(&key, Some(&value)));
        clients
    }

    /// Whether everybody may submit whatever they like: no sender need be looked up.
    pub fn is_free(&self) -> bool {
        self.admission == Admission::Open && self.rated == 0
    }

    fn note(&mut self, key: &[u8], value: Option<&[u8]>) {
        let Some(client) = key.strip_prefix(&POLICY_KEY) else { return };
        if client.is_empty() {
            let policy = value.and_then(|bytes| Policy::from_bytes(bytes).ok()).unwrap_or_default();
            (self.admission, self.orders) = (policy.admission, policy.orders);
            return;
        }
        let Some(key) = client.try_into().ok().and_then(|key| PublicKey::try_from_bytes(key).ok()) else { return };
        let client = value.and_then(|bytes| Client::from_bytes(bytes).ok());
        self.rated += usize::from(client.as_ref().is_some_and(|client| client.per_second > 0));
        let before = match client {
            Some(client) => self.list.insert(key, client),
            None => self.list.remove(&key),
        };
        self.rated -= usize::from(before.is_some_and(|before| before.per_second > 0));
    }
}

impl ClientBook {
    /// The clients now.
    pub fn read(&self) -> RwLockReadGuard<'_, Clients> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another state has taken the place of all that was.
    pub fn replace(&self, clients: Clients) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = clients;
    }

    /// Takes in what a block has written.
    pub fn note(&self, writes: &[Write]) {
        let mut own = writes.iter().filter(|(key, _)| key.starts_with(&POLICY_KEY)).peekable();
        if own.peek().is_some() {
            let mut clients = self.0.write().unwrap_or_else(PoisonError::into_inner);
            own.for_each(|(key, value)| clients.note(key, value.as_deref()));
        }
    }

    /// Whether a client may do this, and at which rate; 0 for any.
    pub fn may(&self, key: &PublicKey, role: Role) -> Result<u32, Refused> {
        let clients = self.read();
        match (clients.admission, clients.list.get(key)) {
            (Admission::Listed, None) => Err(Refused::Unlisted),
            (Admission::Listed, Some(client)) if !client.roles.contains(&role) => Err(Refused::Role(role)),
            (_, client) => Ok(client.map_or(0, |client| client.per_second)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use standin_foundation::Height;

    use super::*;
    use crate::builtin::{Builtin, Operation};
    use crate::chain::tests::{genesis, step};
    use crate::chain::{Chain, ExecutedBlock};
    use crate::genesis::{Genesis, Operators};
    use crate::receipt::Outcome;
    use crate::system::{SYSTEM_TITLE, SystemTransaction};
    use crate::transaction::tests::key;
    use crate::transaction::{Transaction, TransactionBody};

    fn operated() -> Genesis {
        Genesis { operators: Operators { keys: vec![key(21).public(), key(22).public()], needed: 2 }, ..genesis(100) }
    }

    fn put(sender: u8, nonce: u64) -> Transaction {
        let payload = Operation::Put { key: vec![1], value: vec![sender] }.to_payload();
        let body = TransactionBody { title: "t".parse().unwrap(), nonce, expires: Height(50), payload };
        Transaction::unsigned(&key(sender).public(), &body).unwrap()
    }

    fn order(genesis: &Genesis, number: u64, changes: Vec<ClientChange>, by: &[u8]) -> Transaction {
        let draft = Approved::draft(ClientOrder { chain: genesis.digest(), number, changes });
        let approved = by.iter().fold(draft, |draft, operator| draft.by(&key(*operator)));
        let payload = SystemTransaction::Clients(approved).to_wire().unwrap();
        let title = SYSTEM_TITLE.parse().unwrap();
        let body = TransactionBody { title, nonce: number * 10 + by.len() as u64, expires: Height(50), payload };
        Transaction::unsigned(&key(77).public(), &body).unwrap()
    }

    fn told(block: &ExecutedBlock) -> Vec<String> {
        let told = |outcome: &Outcome| match outcome {
            Outcome::Applied(_) => "applied".to_owned(),
            Outcome::Rejected(why) => why.clone(),
            other => format!("{other:?}"),
        };
        block.receipts.iter().map(|receipt| told(&receipt.outcome)).collect()
    }

    fn client(roles: &[Role]) -> Client {
        Client { roles: roles.iter().copied().collect(), per_second: 7 }
    }

    /// An order takes effect with the next transaction of its own block, counts once, and needs as many operators as the chain says.
    #[test]
    fn the_chain_takes_transactions_of_listed_clients_alone_once_operators_have_said_so() {
        let genesis = operated();
        let mut chain = Chain::new(&genesis, Arc::new(Builtin));
        let close = vec![
            ClientChange::Set(key(1).public(), client(&[Role::Submit])),
            ClientChange::Set(key(2).public(), client(&[Role::Read])),
            ClientChange::Admission(Admission::Listed),
        ];
        let alone = step(&mut chain, vec![order(&genesis, 0, close.clone(), &[21]), put(3, 1)]);
        assert_eq!(told(&alone), ["approved by 1 operators, 2 are needed", "applied"]);
        let both = order(&genesis, 0, close.clone(), &[21, 22]);
        // A batch is in the order of its titles: the chain's own come first.
        let block = step(&mut chain, vec![both, put(3, 2), put(2, 4), put(1, 5)]);
        let (unlisted, role) = (Refused::Unlisted.to_string(), Refused::Role(Role::Submit).to_string());
        assert_eq!(told(&block), ["applied", unlisted.as_str(), role.as_str(), "applied"]);
        let again = step(&mut chain, vec![order(&genesis, 0, close, &[21, 22, 23])]);
        assert!(told(&again)[0].contains("client order 0, the next one is 1"), "{:?}", told(&again));

        // Undone and done again it is the same, and whoever begins with its snapshot knows the same.
        let (root, clients) = (chain.state().root(), Clients::of(chain.state()));
        assert_eq!((clients.admission, clients.orders, clients.list.len()), (Admission::Listed, 1, 2));
        assert_eq!(clients.list[&key(1).public()], client(&[Role::Submit]));
        chain.undo_to(Height(1)).unwrap();
        assert_eq!(Clients::of(chain.state()), Clients::default());
        let both = order(&genesis, 0, vec![ClientChange::Admission(Admission::Listed)], &[21, 22]);
        assert_eq!(told(&step(&mut chain, vec![both, put(1, 6)])), ["applied", unlisted.as_str()]);
        assert_ne!(chain.state().root(), root);
        let open = order(&genesis, 1, vec![ClientChange::Admission(Admission::Open)], &[21, 22]);
        assert_eq!(told(&step(&mut chain, vec![put(1, 7)])), [unlisted.as_str()]);
        assert_eq!(told(&step(&mut chain, vec![open, put(1, 8)])), ["applied", "applied"]);
        let gone = order(&genesis, 2, vec![ClientChange::Remove(key(9).public())], &[21, 22]);
        assert!(told(&step(&mut chain, vec![gone]))[0].contains("is not listed"));
    }

    /// What a node keeps beside the chain says the same as the state, whatever way it came there.
    #[test]
    fn a_book_that_follows_the_writes_is_the_one_that_is_read_anew() {
        let first = FirstClients {
            admission: Admission::Listed,
            list: vec![ListedClient { key: key(1).public(), roles: Role::ALL.into(), per_second: 3 }],
        };
        let genesis = Genesis { clients: first, ..operated() };
        genesis.check().unwrap();
        let mut chain = Chain::new(&genesis, Arc::new(Builtin));
        let book = ClientBook::default();
        book.replace(Clients::of(chain.state()));
        assert_eq!(book.may(&key(1).public(), Role::Publish), Ok(3));
        assert_eq!(book.may(&key(2).public(), Role::Read), Err(Refused::Unlisted));
        let orders = [
            vec![ClientChange::Set(key(2).public(), client(&[Role::Read]))],
            vec![ClientChange::Remove(key(1).public()), ClientChange::Set(key(3).public(), client(&[]))],
            vec![ClientChange::Admission(Admission::Open)],
        ];
        for (number, changes) in (0..).zip(orders) {
            let block = step(&mut chain, vec![order(&genesis, number, changes, &[21, 22])]);
            assert_eq!(told(&block), ["applied"]);
            book.note(&block.writes);
            assert_eq!(*book.read(), Clients::of(chain.state()));
        }
        assert_eq!(book.may(&key(9).public(), Role::Submit), Ok(0), "everybody may now");
    }

    #[test]
    fn a_genesis_that_would_lock_itself_out_is_refused() {
        let closed = FirstClients { admission: Admission::Listed, list: Vec::new() };
        let error = Genesis { clients: closed.clone(), ..genesis(100) }.check().unwrap_err().to_string();
        assert!(error.contains("`listed` needs operators"), "{error}");
        Genesis { clients: closed, ..operated() }.check().unwrap();
        let listed = ListedClient { key: key(1).public(), roles: Role::ALL.into(), per_second: 0 };
        let twice = FirstClients { admission: Admission::Open, list: vec![listed.clone(), listed] };
        let error = Genesis { clients: twice, ..operated() }.check().unwrap_err().to_string();
        assert!(error.contains("2 found, 1 of them different"), "{error}");
    }
}
