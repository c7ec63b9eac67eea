//! Locks in an etcd: a key that is bound to a lease, made by compare-and-swap, whose revision is the number of the grant.
//!
//! Not etcd's own lock recipe: whoever waits in that is told up to 100 ms late, and it hands out no fence. A lease may be reported as renewed when it is gone
//! (etcd before 3.5.23 and 3.6.5), and a server may sleep past it: the chain's fence keeps terminals right all the same.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use serde_json::json;
use standin_etcd::{Changed, Client, Config, Entry, Error, Lease, LeaseId, Told, decoded, encoded};
use standin_foundation::{Digest, NodeId};
use standin_stage::Address;
use tokio::sync::mpsc;

use super::Publisher;
use super::locks::{LockStore, OutsideListed, OutsideSaid};
use crate::ids::Topic;
use crate::machine::lock::LEASE_MS_MAX;
use crate::machine::outside::{Ask, Said};

/// What is asked and not begun yet.
const ASKS_MAX: usize = 4_096;
/// An etcd that does not answer is asked again after this time, which doubles up to the second.
const AGAIN_MIN: Duration = Duration::from_millis(100);
const AGAIN_MAX: Duration = Duration::from_secs(2);

/// The locks in an etcd.
#[derive(Debug, Clone)]
pub struct EtcdLocks(mpsc::Sender<(Topic, Ask)>);

/// What is asked of it, for whoever carries that out.
#[derive(Debug)]
pub struct Asked(mpsc::Receiver<(Topic, Ask)>);

impl EtcdLocks {
    /// A store, and what [`EtcdLocks::run`] needs.
    pub fn new() -> (Self, Asked) {
        let (sender, receiver) = mpsc::channel(ASKS_MAX);
        (Self(sender), Asked(receiver))
    }

    /// Carries out what is asked of the locks of a chain, for a server, until the actor has ended.
    pub async fn run(
        config: Config,
        (chain, own): (Digest, NodeId),
        Asked(mut asks): Asked,
        publisher: Address<Publisher>,
    ) {
        let client = match Client::new(&config) {
            Ok(client) => client,
            Err(error) => return tracing::error!(%error, "locks that stand in etcd cannot be had"),
        };
        let store = Rc::new(Store {
            client,
            prefix: format!("standin/{chain}/lock/"),
            own: own.to_string(),
            held: RefCell::default(),
            busy: RefCell::default(),
            publisher,
            is_checked: Cell::new(false),
        });
        actix::spawn(Rc::clone(&store).watch());
        while let Some((topic, ask)) = asks.recv().await {
            if store.publisher.has_ended() {
                return;
            }
            let store = Rc::clone(&store);
            actix::spawn(async move { store.carry_out(topic, ask).await });
        }
    }
}

impl LockStore for EtcdLocks {
    fn ask(&self, topic: Topic, ask: Ask) {
        // What is too much is asked again.
        let _ = self.0.try_send((topic, ask));
    }
}

/// A lock that this server has.
#[derive(Debug, Clone, Copy)]
struct Taken {
    lease: LeaseId,
    number: u64,
    lease_ms: u32,
}

/// What came of trying to take one.
enum Tried {
    /// Under this number.
    Taken(u64),
    /// Another has it, at this revision.
    Held(u64),
}

struct Store {
    client: Client,
    prefix: String,
    /// What stands in the keys of this server's locks.
    own: String,
    held: RefCell<BTreeMap<Topic, Taken>>,
    /// Locks that are being asked for.
    busy: RefCell<BTreeSet<Topic>>,
    publisher: Address<Publisher>,
    /// Its version is known.
    is_checked: Cell<bool>,
}

impl Store {
    async fn carry_out(&self, topic: Topic, ask: Ask) {
        match ask {
            Ask::Acquire { above, lease_ms } => {
                if !self.busy.borrow_mut().insert(topic) {
                    return;
                }
                let said = self.acquire(topic, above, lease_ms).await.unwrap_or_else(|error| {
                    tracing::debug!(%topic, %error, "a lock cannot be had from etcd");
                    Said::Failed
                });
                self.busy.borrow_mut().remove(&topic);
                self.say(topic, said);
            }
            Ask::Renew { renewal } => {
                let Some(Taken { lease, number, .. }) = self.held.borrow().get(&topic).copied() else { return };
                match self.renew(topic, lease, number).await {
                    Ok(true) => self.say(topic, Said::Renewed { number, renewal }),
                    Ok(false) => {
                        self.forget(topic, number);
                        self.say(topic, Said::Lost { number });
                    }
                    // It is asked again, and the server stops by itself when its time is over.
                    Err(error) => tracing::debug!(%topic, %error, "a lease in etcd was not renewed"),
                }
            }
            Ask::Release => {
                let held = self.held.borrow_mut().remove(&topic);
                if let Some(Taken { lease, .. }) = held {
                    self.revoke(lease).await;
                }
            }
        }
    }

    /// It is not held any more under this number.
    fn forget(&self, topic: Topic, number: u64) {
        let mut held = self.held.borrow_mut();
        if held.get(&topic).is_some_and(|taken| taken.number == number) {
            held.remove(&topic);
        }
    }

    fn say(&self, topic: Topic, said: Said) {
        // An actor that is too busy is told again, or has ended.
        drop(self.publisher.tell(OutsideSaid { topic, said }));
    }

    /// One that stays ends by itself.
    async fn revoke(&self, lease: LeaseId) {
        if let Err(error) = self.client.revoke(lease).await {
            tracing::debug!(%error, "a lease in etcd was not given back");
        }
    }

    /// True if the lease lives, and the lock is still held by it: the next server removes the key of one that the chain has ended, and not its lease.
    async fn renew(&self, topic: Topic, lease: LeaseId, number: u64) -> Result<bool, Error> {
        if !self.client.keep_alive(lease).await? {
            return Ok(false);
        }
        let key = encoded(format!("{}{topic}", self.prefix));
        let told = self.client.transact(&json!({ "success": [{ "request_range": { "key": key } }] })).await?;
        if told.found(&key).is_some_and(|found| found.create_revision == number) {
            return Ok(true);
        }
        self.revoke(lease).await;
        Ok(false)
    }

    async fn acquire(&self, topic: Topic, above: u64, lease_ms: u32) -> Result<Said, Error> {
        self.check_version().await?;
        let known = self.held.borrow().get(&topic).copied();
        if let Some(Taken { lease, number, lease_ms }) = known {
            // What the chain has ended is taken anew, under another number.
            if number > above && self.client.keep_alive(lease).await? {
                return Ok(Said::Won { number, lease_ms });
            }
            self.forget(topic, number);
            self.revoke(lease).await;
        }
        let Lease { id, seconds } = self.client.grant(u64::from(lease_ms).div_ceil(1_000)).await?;
        let taken = self.take(topic, above, id).await;
        match taken {
            Ok(Tried::Taken(number)) => {
                let lease_ms = u32::try_from(seconds.saturating_mul(1_000)).unwrap_or(LEASE_MS_MAX).min(LEASE_MS_MAX);
                self.held.borrow_mut().insert(topic, Taken { lease: id, number, lease_ms });
                Ok(Said::Won { number, lease_ms })
            }
            Ok(Tried::Held(at)) => {
                self.revoke(id).await;
                Ok(Said::Refused { at })
            }
            Err(error) => {
                self.revoke(id).await;
                Err(error)
            }
        }
    }

    /// An etcd that is too old is asked for nothing else, until it has been upgraded.
    async fn check_version(&self) -> Result<(), Error> {
        if !self.is_checked.get() {
            self.client.check_version("Locks of topics rely on their fences, which are right there").await?;
            self.is_checked.set(true);
        }
        Ok(())
    }

    /// Makes the key, if it is not there; gives its number.
    async fn take(&self, topic: Topic, above: u64, LeaseId(lease): LeaseId) -> Result<Tried, Error> {
        let key = encoded(format!("{}{topic}", self.prefix));
        let (lease, value) = (lease.to_string(), encoded(&self.own));
        let make = json!({
            "compare": [{ "target": "CREATE", "key": key, "create_revision": "0", "result": "EQUAL" }],
            "success": [{ "request_put": { "key": key, "value": value, "lease": lease } }],
            "failure": [{ "request_range": { "key": key } }],
        });
        let told = self.client.transact(&make).await?;
        if told.succeeded {
            return Ok(Tried::Taken(told.revision()));
        }
        let held = Tried::Held(told.revision());
        let Some(found) = told.found(&key) else { return Ok(held) };
        // A number that this etcd has not come to is nobody's.
        let above = if above > told.revision() { 0 } else { above };
        // The chain has taken it away from whom it was given to; or it is of an earlier life of this server.
        let is_over = found.create_revision <= above || found.value == value;
        if !is_over || !self.remove(found).await?.succeeded {
            return Ok(held);
        }
        let told = self.client.transact(&make).await?;
        Ok(if told.succeeded { Tried::Taken(told.revision()) } else { Tried::Held(told.revision()) })
    }

    async fn remove(&self, Entry { key, create_revision, .. }: &Entry) -> Result<Told, Error> {
        let made = create_revision.to_string();
        let remove = json!({
            "compare": [{ "target": "CREATE", "key": key, "create_revision": made, "result": "EQUAL" }],
            "success": [{ "request_delete_range": { "key": key } }],
        });
        self.client.transact(&remove).await
    }

    /// Tells the actor of locks that become free, for as long as it runs.
    async fn watch(self: Rc<Self>) {
        let mut again = AGAIN_MIN;
        while !self.publisher.has_ended() {
            match self.watch_once(&mut again).await {
                Ok(()) => continue,
                Err(error @ Error::TooOld { .. }) => tracing::error!(%error, "locks that stand in etcd cannot be had"),
                Err(error) => tracing::warn!(%error, "locks that stand in etcd cannot be followed now"),
            }
            tokio::time::sleep(again).await;
            again = (again * 2).min(AGAIN_MAX);
        }
    }

    async fn watch_once(&self, again: &mut Duration) -> Result<(), Error> {
        self.check_version().await?;
        // All keys that begin with the prefix.
        let (from, to) = (encoded(&self.prefix), encoded(format!("{}0", self.prefix.trim_end_matches('/'))));
        let mut watch = self.client.watch(&from, &to).await?;
        let range = json!({ "success": [{ "request_range": { "key": from, "range_end": to } }] });
        let held = self.client.transact(&range).await?;
        let (listed, at) = (held.entries().filter_map(|entry| self.topic_of(entry)).collect(), held.revision());
        drop(self.publisher.tell(OutsideListed { held: listed, at }));
        *again = AGAIN_MIN;
        while !self.publisher.has_ended() {
            // One that is over is begun anew, with a new list.
            let Some(changes) = watch.next().await? else { return Ok(()) };
            for changed in changes {
                if let Changed::Gone(entry) = changed
                    && let Some(topic) = self.topic_of(&entry)
                {
                    self.say(topic, Said::Freed { at: entry.mod_revision });
                }
            }
        }
        Ok(())
    }

    fn topic_of(&self, entry: &Entry) -> Option<Topic> {
        let key = String::from_utf8(decoded(&entry.key)?).ok()?;
        key.strip_prefix(&self.prefix)?.parse().ok()
    }
}
