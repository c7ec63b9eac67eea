//! The register in an etcd: several auth nodes share it, and none of them keeps anything.
//!
//! Every read is linearizable and every change a transaction that compares what was read, the register's life included, so no
//! lease and no clock is needed. It is spoken to through its JSON gateway, which runs from etcd 3.4 on.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

use serde_json::json;
use standin_etcd::{CALLS_MAX, Client as Etcd, Config, Entry, Told, decoded, encoded};
use standin_foundation::wire::Wire;
use standin_foundation::{ClusterId, Digest, Epoch, Incarnation};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::machine::Record;
use crate::register::{Counted, Pending, Register, RegisterError, Stored, Written, count_of};

type Task = Box<dyn FnOnce(Rc<Client>) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// The register. One thread speaks with etcd.
#[derive(Debug)]
pub struct EtcdRegister {
    tasks: Option<mpsc::Sender<Task>>,
    thread: Option<JoinHandle<()>>,
    incarnation: Incarnation,
}

impl EtcdRegister {
    /// Opens the register of a chain, or begins one. Clusters that it does not know yet begin with `first`. Waits for etcd.
    pub fn open(config: &Config, chain: Digest, issuer: Epoch, first: Vec<Record>) -> Result<Self, RegisterError> {
        let (tasks, receiver) = mpsc::channel(CALLS_MAX);
        let (opened, told) = std::sync::mpsc::channel();
        let config = config.clone();
        let run = move || {
            let runtime = match actix_rt::Runtime::new() {
                Ok(runtime) => runtime,
                Err(error) => return drop(opened.send(Err(error.into()))),
            };
            runtime.block_on(async move {
                match Client::open(&config, chain, issuer, first).await {
                    Ok(client) => {
                        drop(opened.send(Ok(client.life)));
                        carry_out(Rc::new(client), receiver).await;
                    }
                    Err(error) => drop(opened.send(Err(error))),
                }
            });
        };
        let thread = std::thread::Builder::new().name("register".to_owned()).spawn(run)?;
        let incarnation = told.recv().map_err(|_| RegisterError::Stopped)??;
        Ok(Self { tasks: Some(tasks), thread: Some(thread), incarnation })
    }

    /// Begins a new life of a register that was brought back from a copy, as [`crate::register::LogRegister::recall`] does.
    /// Auth nodes that run stop, and begin the new life when they are started again. Gives the new life.
    pub fn recall(config: &Config, chain: Digest, issuer: Epoch) -> Result<Incarnation, RegisterError> {
        let config = config.clone();
        // A thread of its own: this one may be an actor's.
        let recalled = std::thread::spawn(move || {
            actix_rt::Runtime::new()?.block_on(async move {
                let client = Client::open(&config, chain, issuer, Vec::new()).await?;
                client.recall().await
            })
        });
        recalled.join().map_err(|_| RegisterError::Stopped)?
    }

    fn call<T, F, Fut>(&self, ask: F) -> Pending<T>
    where
        T: Send + 'static,
        F: FnOnce(Rc<Client>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, RegisterError>> + 'static,
    {
        let (done, answer) = oneshot::channel();
        // The asker may have gone.
        let task: Task = Box::new(move |client| Box::pin(async move { drop(done.send(ask(client).await)) }));
        let handed_in = match &self.tasks {
            None => Err(RegisterError::Stopped),
            Some(tasks) => tasks.try_send(task).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => RegisterError::Busy,
                mpsc::error::TrySendError::Closed(_) => RegisterError::Stopped,
            }),
        };
        Box::pin(async move {
            handed_in?;
            answer.await.map_err(|_| RegisterError::Stopped)?
        })
    }
}

impl Drop for EtcdRegister {
    fn drop(&mut self) {
        drop(self.tasks.take());
        if let Some(thread) = self.thread.take() {
            // A panic in the thread has been printed already.
            let _ = thread.join();
        }
    }
}

impl Register for EtcdRegister {
    fn read(&self, cluster: &ClusterId) -> Pending<Counted<Option<Stored>>> {
        let cluster = cluster.clone();
        self.call(move |client| async move { client.read(&cluster).await })
    }

    fn read_all(&self) -> Pending<Vec<Record>> {
        self.call(
            |client| async move { Ok(client.read_all().await?.into_iter().map(|stored| stored.record).collect()) },
        )
    }

    fn swap(&self, mark: u64, next: Record) -> Pending<Counted<bool>> {
        self.call(move |client| async move { client.swap(mark, next).await })
    }

    fn add(&self, record: Record) -> Pending<()> {
        self.call(move |client| async move { client.add(record).await })
    }

    fn incarnation(&self) -> Incarnation {
        self.incarnation
    }
}

/// So many calls at one time as may wait; the last of them are finished before the thread ends.
async fn carry_out(client: Rc<Client>, mut tasks: mpsc::Receiver<Task>) {
    let under_way = Arc::new(Semaphore::new(CALLS_MAX));
    while let Some(task) = tasks.recv().await {
        let Ok(permit) = Arc::clone(&under_way).acquire_owned().await else { return };
        let running = task(Rc::clone(&client));
        actix_rt::spawn(async move {
            running.await;
            drop(permit);
        });
    }
    drop(under_way.acquire_many(CALLS_MAX as u32).await);
}

/// One auth node's way to etcd.
struct Client {
    etcd: Etcd,
    prefix: String,
    life: Incarnation,
}

impl Client {
    async fn open(config: &Config, chain: Digest, issuer: Epoch, first: Vec<Record>) -> Result<Self, RegisterError> {
        let mut client = Self {
            etcd: Etcd::new(config)?,
            prefix: match issuer {
                Epoch(0) => format!("standin/{chain}/register/"),
                // A register of its own for each auth key.
                issuer => format!("standin/{chain}/register-{issuer}/"),
            },
            life: Incarnation::first_of(issuer),
        };
        client.etcd.check_version("The register relies on transactions only, which are right there").await?;
        client.begin(first).await?;
        Ok(client)
    }

    /// Writes what is not there yet: the first life, and the records of new clusters.
    async fn begin(&mut self, first: Vec<Record>) -> Result<(), RegisterError> {
        let life_key = self.key("life");
        let first_life = encode(&Written::Life(self.life))?;
        let told = self.etcd.put_if_absent(&life_key, &first_life).await?;
        if let Some(found) = told.found(&life_key) {
            self.life = life(found)?;
        }
        for record in first {
            self.add(record).await?;
        }
        Ok(())
    }

    async fn add(&self, record: Record) -> Result<(), RegisterError> {
        let key = self.key_of(&record.cluster);
        self.etcd.put_if_absent(&key, &encode(&Written::Record(Box::new(record)))?).await?;
        Ok(())
    }

    async fn read(&self, cluster: &ClusterId) -> Result<Counted<Option<Stored>>, RegisterError> {
        let (life, key) = (self.key("life"), self.key_of(cluster));
        let ranges = json!([{ "request_range": { "key": life } }, { "request_range": { "key": key } }]);
        let told = self.etcd.transact(&json!({ "success": ranges })).await?;
        self.check_life(&told)?;
        let content = told.found(&key).map(stored).transpose()?;
        Ok(Counted { content, count: self.count(&told) })
    }

    async fn read_all(&self) -> Result<Vec<Stored>, RegisterError> {
        // Keys that begin with `cluster/`: up to the one that follows them all.
        let (from, to) = (self.key("cluster/"), self.key("cluster0"));
        let range = json!({ "request_range": { "key": from, "range_end": to } });
        let life = json!({ "request_range": { "key": self.key("life") } });
        let told = self.etcd.transact(&json!({ "success": [life, range] })).await?;
        self.check_life(&told)?;
        let is_life = |entry: &&Entry| entry.key == self.key("life");
        told.entries().filter(|entry| !is_life(entry)).map(stored).collect()
    }

    async fn swap(&self, mark: u64, next: Record) -> Result<Counted<bool>, RegisterError> {
        let (life_key, key) = (self.key("life"), self.key_of(&next.cluster));
        let life = encode(&Written::Life(self.life))?;
        let value = encode(&Written::Record(Box::new(next)))?;
        let told = self
            .etcd
            .transact(&json!({
                "compare": [
                    { "target": "VALUE", "key": life_key, "value": life, "result": "EQUAL" },
                    { "target": "MOD", "key": key, "mod_revision": mark.to_string(), "result": "EQUAL" },
                ],
                "success": [{ "request_put": { "key": key, "value": value } }],
                "failure": [{ "request_range": { "key": life_key } }],
            }))
            .await?;
        if !told.succeeded {
            self.check_life(&told)?;
        }
        Ok(Counted { content: told.succeeded, count: self.count(&told) })
    }

    /// The new life and all marked records, or nothing: a record that lives in the new life without its mark would grant again what
    /// was granted before the copy was made.
    async fn recall(&self) -> Result<Incarnation, RegisterError> {
        let (life_key, before) = (self.key("life"), self.life);
        let old = encode(&Written::Life(before))?;
        let mut compare = vec![json!({ "target": "VALUE", "key": life_key, "value": old, "result": "EQUAL" })];
        let mut put = vec![json!({
            "request_put": { "key": life_key, "value": encode(&Written::Life(before.next()))? }
        })];
        for Stored { record, mark } in self.read_all().await? {
            let key = self.key_of(&record.cluster);
            let next = Record { version: record.version + 1, recalling: Some(BTreeSet::new()), ..record };
            let (mark, value) = (mark.to_string(), encode(&Written::Record(Box::new(next)))?);
            compare.push(json!({ "target": "MOD", "key": key, "mod_revision": mark, "result": "EQUAL" }));
            put.push(json!({ "request_put": { "key": key, "value": value } }));
        }
        let told = self.etcd.transact(&json!({ "compare": compare, "success": put })).await?;
        match told.succeeded {
            true => Ok(before.next()),
            false => Err(RegisterError::Unreachable("somebody else changes the register: try again".to_owned())),
        }
    }

    fn check_life(&self, told: &Told) -> Result<(), RegisterError> {
        let found = told.found(&self.key("life")).map(life).transpose()?.unwrap_or_default();
        match found == self.life {
            true => Ok(()),
            false => Err(RegisterError::Recalled { known: self.life, found }),
        }
    }

    fn count(&self, told: &Told) -> u64 {
        count_of(self.life, told.revision())
    }

    fn key(&self, name: &str) -> String {
        encoded(format!("{}{name}", self.prefix))
    }

    fn key_of(&self, cluster: &ClusterId) -> String {
        self.key(&format!("cluster/{cluster}"))
    }
}

fn encode(written: &Written) -> Result<String, RegisterError> {
    Ok(encoded(written.to_wire()?))
}

fn written(entry: &Entry) -> Result<Written, RegisterError> {
    let unknown = RegisterError::UnknownRecord { sequence: entry.mod_revision };
    decoded(&entry.value).and_then(|bytes| Written::from_wire(&bytes).ok()).ok_or(unknown)
}

fn stored(entry: &Entry) -> Result<Stored, RegisterError> {
    match written(entry)? {
        Written::Record(record) => Ok(Stored { record: *record, mark: entry.mod_revision }),
        Written::Life(_) => Err(RegisterError::UnknownRecord { sequence: entry.mod_revision }),
    }
}

fn life(entry: &Entry) -> Result<Incarnation, RegisterError> {
    match written(entry)? {
        Written::Life(life) => Ok(life),
        Written::Record(_) => Err(RegisterError::UnknownRecord { sequence: entry.mod_revision }),
    }
}
