//! The register in an etcd: several auth nodes share it, and none of them keeps anything.
//!
//! Every read is linearizable and every change a transaction that compares what was read, the register's life included, so no
//! lease and no clock is needed. It is spoken to through its JSON gateway, which runs from etcd 3.4 on.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fs;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use standin_foundation::wire::Wire;
use standin_foundation::{ClusterId, Digest, Epoch, Incarnation};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::config::EtcdConfig;
use crate::machine::Record;
use crate::register::{Counted, Pending, Register, RegisterError, Stored, Written, count_of};

/// Calls that may wait or be under way.
const CALLS_MAX: usize = 1_024;
/// An answer is not read beyond this, in bytes.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What etcd says where the token of a login has ended.
const UNAUTHENTICATED: i64 = 16;

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
    pub fn open(config: &EtcdConfig, chain: Digest, issuer: Epoch, first: Vec<Record>) -> Result<Self, RegisterError> {
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
    pub fn recall(config: &EtcdConfig, chain: Digest, issuer: Epoch) -> Result<Incarnation, RegisterError> {
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
    http: awc::Client,
    endpoints: Vec<String>,
    /// The one that is asked.
    current: Cell<usize>,
    user: Option<(String, String)>,
    token: RefCell<Option<String>>,
    prefix: String,
    life: Incarnation,
}

impl Client {
    async fn open(
        config: &EtcdConfig,
        chain: Digest,
        issuer: Epoch,
        first: Vec<Record>,
    ) -> Result<Self, RegisterError> {
        let tls = Arc::new(tls(config)?);
        let connector = awc::Connector::new().rustls_0_23(tls).limit(CALLS_MAX);
        let timeout = Duration::from_millis(config.timeout_ms);
        let http = awc::Client::builder().connector(connector).timeout(timeout).disable_redirects().finish();
        let user = config.user.as_ref().map(|(name, file)| Ok::<_, RegisterError>((name.clone(), password(file)?)));
        let mut client = Self {
            http,
            endpoints: config.endpoints.iter().map(|endpoint| endpoint.trim_end_matches('/').to_owned()).collect(),
            current: Cell::new(0),
            user: user.transpose()?,
            token: RefCell::new(None),
            prefix: match issuer {
                Epoch(0) => format!("standin/{chain}/register/"),
                // A register of its own for each auth key.
                issuer => format!("standin/{chain}/register-{issuer}/"),
            },
            life: Incarnation::first_of(issuer),
        };
        client.check_version().await?;
        client.begin(first).await?;
        Ok(client)
    }

    /// Refuses an etcd that is too old, and warns of one whose faults are known.
    async fn check_version(&self) -> Result<(), RegisterError> {
        let status: Status = self.ask("maintenance/status", &json!({})).await?;
        let version = status.version;
        match Version::parse(&version) {
            Some(parsed) if parsed < Version(3, 4, 0) => {
                return Err(RegisterError::TooOld { found: version });
            }
            Some(parsed) if parsed.has_known_faults() => tracing::warn!(
                version,
                "this etcd may report a lease as renewed that is gone, and 3.5.0 to 3.5.2 may lose data in a crash: fixed in 3.5.23 \
                 and 3.6.5. The register relies on transactions only, which are right there; upgrade all the same"
            ),
            Some(_) => {}
            None => tracing::warn!(version, "the etcd's version cannot be read"),
        }
        Ok(())
    }

    /// Writes what is not there yet: the first life, and the records of new clusters.
    async fn begin(&mut self, first: Vec<Record>) -> Result<(), RegisterError> {
        let life_key = self.key("life");
        let first_life = encode(&Written::Life(self.life))?;
        let told = self.put_if_absent(&life_key, &first_life).await?;
        if let Some(found) = told.found(&life_key) {
            self.life = found.life()?;
        }
        for record in first {
            self.add(record).await?;
        }
        Ok(())
    }

    async fn add(&self, record: Record) -> Result<(), RegisterError> {
        let key = self.key_of(&record.cluster);
        self.put_if_absent(&key, &encode(&Written::Record(Box::new(record)))?).await.map(drop)
    }

    async fn put_if_absent(&self, key: &str, value: &str) -> Result<Told, RegisterError> {
        self.transact(&json!({
            "compare": [{ "target": "CREATE", "key": key, "create_revision": "0", "result": "EQUAL" }],
            "success": [{ "request_put": { "key": key, "value": value } }],
            "failure": [{ "request_range": { "key": key } }],
        }))
        .await
    }

    async fn read(&self, cluster: &ClusterId) -> Result<Counted<Option<Stored>>, RegisterError> {
        let (life, key) = (self.key("life"), self.key_of(cluster));
        let ranges = json!([{ "request_range": { "key": life } }, { "request_range": { "key": key } }]);
        let told = self.transact(&json!({ "success": ranges })).await?;
        self.check_life(&told)?;
        let content = told.found(&key).map(|found| found.stored()).transpose()?;
        Ok(Counted { content, count: self.count(&told) })
    }

    async fn read_all(&self) -> Result<Vec<Stored>, RegisterError> {
        // Keys that begin with `cluster/`: up to the one that follows them all.
        let (from, to) = (self.key("cluster/"), self.key("cluster0"));
        let range = json!({ "request_range": { "key": from, "range_end": to } });
        let life = json!({ "request_range": { "key": self.key("life") } });
        let told = self.transact(&json!({ "success": [life, range] })).await?;
        self.check_life(&told)?;
        let is_life = |entry: &&Entry| entry.key == self.key("life");
        told.entries().filter(|entry| !is_life(entry)).map(Entry::stored).collect()
    }

    async fn swap(&self, mark: u64, next: Record) -> Result<Counted<bool>, RegisterError> {
        let (life_key, key) = (self.key("life"), self.key_of(&next.cluster));
        let life = encode(&Written::Life(self.life))?;
        let value = encode(&Written::Record(Box::new(next)))?;
        let told = self
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
        let told = self.transact(&json!({ "compare": compare, "success": put })).await?;
        match told.succeeded {
            true => Ok(before.next()),
            false => Err(RegisterError::Unreachable("somebody else changes the register: try again".to_owned())),
        }
    }

    fn check_life(&self, told: &Told) -> Result<(), RegisterError> {
        let found = told.found(&self.key("life")).map(Entry::life).transpose()?.unwrap_or_default();
        match found == self.life {
            true => Ok(()),
            false => Err(RegisterError::Recalled { known: self.life, found }),
        }
    }

    fn count(&self, told: &Told) -> u64 {
        count_of(self.life, told.header.revision)
    }

    fn key(&self, name: &str) -> String {
        BASE64_STANDARD.encode(format!("{}{name}", self.prefix))
    }

    fn key_of(&self, cluster: &ClusterId) -> String {
        self.key(&format!("cluster/{cluster}"))
    }

    async fn transact(&self, body: &Value) -> Result<Told, RegisterError> {
        self.ask("kv/txn", body).await
    }

    /// Asks one member after the other, from the one that answered last. What one of them may have done without an answer is
    /// safe to ask of the next: it compares.
    async fn ask<T: for<'a> Deserialize<'a>>(&self, what: &str, body: &Value) -> Result<T, RegisterError> {
        let mut why = "no endpoint is configured".to_owned();
        for _ in 0..self.endpoints.len() {
            let asked = self.current.get();
            let Some(endpoint) = self.endpoints.get(asked % self.endpoints.len()) else { break };
            match self.ask_at(endpoint, what, body).await {
                Ok(answer) => return Ok(answer),
                Err(error) => why = format!("{endpoint}: {error}"),
            }
            if self.current.get() == asked {
                self.current.set(asked.wrapping_add(1));
            }
        }
        Err(RegisterError::Unreachable(why))
    }

    async fn ask_at<T: for<'a> Deserialize<'a>>(&self, at: &str, what: &str, body: &Value) -> Result<T, String> {
        if self.user.is_some() && self.token.borrow().is_none() {
            self.log_in(at).await?;
        }
        match self.post(at, what, body).await {
            Err(Failed { code: UNAUTHENTICATED, .. }) if self.user.is_some() => {
                self.log_in(at).await?;
                self.post(at, what, body).await
            }
            answered => answered,
        }
        .map_err(Failed::why)
    }

    async fn log_in(&self, at: &str) -> Result<(), String> {
        let Some((name, password)) = &self.user else { return Ok(()) };
        self.token.replace(None);
        let body = json!({ "name": name, "password": password });
        let login: Login = self.post(at, "auth/authenticate", &body).await.map_err(Failed::why)?;
        self.token.replace(Some(login.token));
        Ok(())
    }

    async fn post<T: for<'a> Deserialize<'a>>(&self, at: &str, what: &str, body: &Value) -> Result<T, Failed> {
        let mut request = self.http.post(format!("{at}/v3/{what}"));
        if let Some(token) = &*self.token.borrow() {
            request = request.insert_header(("Authorization", token.as_str()));
        }
        let sent = request.send_json(body).await;
        let mut response = sent.map_err(Failed::because)?;
        let bytes = response.body().limit(ANSWER_BYTES_MAX).await.map_err(Failed::because)?;
        if !response.status().is_success() {
            let told: Option<Failed> = serde_json::from_slice(&bytes).ok();
            return Err(told.unwrap_or_else(|| Failed::because(response.status())));
        }
        serde_json::from_slice(&bytes).map_err(|error| Failed::because(format!("it is no etcd: {error}")))
    }
}

fn encode(written: &Written) -> Result<String, RegisterError> {
    Ok(BASE64_STANDARD.encode(written.to_wire()?))
}

fn password(file: &Path) -> Result<String, RegisterError> {
    let text = fs::read_to_string(file);
    let wrong = |error: std::io::Error| RegisterError::File { path: file.to_owned(), what: error.to_string() };
    Ok(text.map_err(wrong)?.trim_end().to_owned())
}

/// TLS for endpoints that speak it: only authorities that the configuration names are trusted.
fn tls(config: &EtcdConfig) -> Result<rustls::ClientConfig, RegisterError> {
    let wrong = |path: &Path, what: String| RegisterError::File { path: path.to_owned(), what };
    let mut roots = rustls::RootCertStore::empty();
    if let Some(path) = &config.ca_file {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|error| wrong(path, error.to_string()))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| RegisterError::Tls(error.to_string()))?.with_root_certificates(roots);
    let Some((certificate, key)) = &config.certificate else { return Ok(builder.with_no_client_auth()) };
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, error.to_string()))?;
    let with_key = builder.with_client_auth_cert(certificates(certificate)?, private);
    with_key.map_err(|error| wrong(certificate, error.to_string()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, RegisterError> {
    let wrong = |what: String| RegisterError::File { path: path.to_owned(), what };
    let found = CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?;
    let found: Result<Vec<_>, _> = found.collect();
    let found = found.map_err(|error| wrong(error.to_string()))?;
    if found.is_empty() { Err(wrong("no certificate in it".to_owned())) } else { Ok(found) }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32, u32);

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(['.', '-', '+']).map(str::parse);
        Some(Self(parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?))
    }

    fn has_known_faults(self) -> bool {
        self < Self(3, 5, 23) || (self >= Self(3, 6, 0) && self < Self(3, 6, 5))
    }
}

#[derive(Debug, Deserialize)]
struct Status {
    version: String,
}

#[derive(Debug, Deserialize)]
struct Login {
    token: String,
}

/// What etcd answers where it does nothing; why, under one name or both.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Failed {
    code: i64,
    error: String,
    message: String,
}

impl Failed {
    fn because(error: impl std::fmt::Display) -> Self {
        Self { message: error.to_string(), ..Self::default() }
    }

    fn why(self) -> String {
        if self.message.is_empty() { self.error } else { self.message }
    }
}

/// What a transaction came to. Numbers are texts in it, and what is nothing is left out.
#[derive(Debug, Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Told {
    header: Header,
    succeeded: bool,
    responses: Vec<Response>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Header {
    #[serde(deserialize_with = "number")]
    revision: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Response {
    response_range: Range,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Range {
    kvs: Vec<Entry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    key: String,
    value: String,
    #[serde(deserialize_with = "number")]
    mod_revision: u64,
}

impl Told {
    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.responses.iter().flat_map(|response| &response.response_range.kvs)
    }

    fn found(&self, key: &str) -> Option<&Entry> {
        self.entries().find(|entry| entry.key == key)
    }
}

impl Entry {
    fn written(&self) -> Result<Written, RegisterError> {
        let unknown = RegisterError::UnknownRecord { sequence: self.mod_revision };
        let bytes = BASE64_STANDARD.decode(&self.value).ok();
        bytes.and_then(|bytes| Written::from_wire(&bytes).ok()).ok_or(unknown)
    }

    fn stored(&self) -> Result<Stored, RegisterError> {
        match self.written()? {
            Written::Record(record) => Ok(Stored { record: *record, mark: self.mod_revision }),
            Written::Life(_) => Err(RegisterError::UnknownRecord { sequence: self.mod_revision }),
        }
    }

    fn life(&self) -> Result<Incarnation, RegisterError> {
        match self.written()? {
            Written::Life(life) => Ok(life),
            Written::Record(_) => Err(RegisterError::UnknownRecord { sequence: self.mod_revision }),
        }
    }
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_with_known_faults_are_known() {
        let faulty = |text| Version::parse(text).map(Version::has_known_faults);
        for (text, expected) in [("3.4.23", true), ("3.5.22", true), ("3.5.23", false), ("3.6.0", true)] {
            assert_eq!(faulty(text), Some(expected), "{text}");
        }
        assert_eq!((faulty("3.6.5"), faulty("3.7.0-rc.1"), faulty("four")), (Some(false), Some(false), None));
        assert!(Version::parse("3.3.9").unwrap() < Version(3, 4, 0));
    }

    #[test]
    fn what_etcd_says_is_read_whatever_it_leaves_out() {
        let told: Told =
            serde_json::from_str(r#"{"header":{"revision":"7"},"responses":[{"response_range":{}}]}"#).unwrap();
        assert_eq!((told.header.revision, told.succeeded, told.entries().count()), (7, false, 0));
        for text in [r#"{"error":"no leader","code":14}"#, r#"{"error":"x","message":"no leader","code":14}"#] {
            let failed: Failed = serde_json::from_str(text).unwrap();
            assert_eq!((failed.code, failed.why().as_str()), (14, "no leader"));
        }
    }
}
