//! The client: one member of the etcd is asked after the other.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::answers::{Failed, Login, Status, Told};
use crate::config::Config;
use crate::tls;
use crate::version::Version;

/// Calls that may be under way.
pub const CALLS_MAX: usize = 1_024;
/// An answer is not read beyond this, in bytes.
pub(crate) const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What etcd says where the token of a login has ended.
const UNAUTHENTICATED: i64 = 16;

/// Why etcd does not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// None of its members answers, or none does what it is asked for.
    #[error("etcd does not answer: {0}")]
    Unreachable(String),
    /// It is older than the gateway's protocol.
    #[error("etcd {found} is too old: 3.4 or newer is needed")]
    TooOld {
        /// Its version.
        found: String,
    },
    /// A file that is needed to speak with it.
    #[error("{}: {what}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// TLS.
    #[error("TLS: {0}")]
    Tls(String),
}

/// A way to an etcd. It belongs to the thread that made it.
pub struct Client {
    http: awc::Client,
    /// For an answer's head, and for its body.
    timeout: Duration,
    endpoints: Vec<String>,
    /// The one that is asked.
    current: Cell<usize>,
    user: Option<(String, String)>,
    token: RefCell<Option<String>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

/// A key or value as the gateway wants it.
pub fn encoded(bytes: impl AsRef<[u8]>) -> String {
    BASE64_STANDARD.encode(bytes)
}

/// A key or value as the gateway gave it; none if it is no base64.
pub fn decoded(text: &str) -> Option<Vec<u8>> {
    BASE64_STANDARD.decode(text).ok()
}

impl Client {
    /// A client; nothing is asked yet.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let connector = awc::Connector::new().rustls_0_23(Arc::new(tls::client(config)?)).limit(CALLS_MAX);
        let timeout = Duration::from_millis(config.timeout_ms);
        let http = awc::Client::builder().connector(connector).timeout(timeout).disable_redirects().finish();
        let user = config.user.as_ref().map(|(name, file)| Ok::<_, Error>((name.clone(), tls::password(file)?)));
        Ok(Self {
            http,
            timeout,
            endpoints: config.endpoints.iter().map(|endpoint| endpoint.trim_end_matches('/').to_owned()).collect(),
            current: Cell::new(0),
            user: user.transpose()?,
            token: RefCell::new(None),
        })
    }

    /// Refuses an etcd that is too old, and warns of one whose faults are known; `relies` says what that means for whoever asks.
    pub async fn check_version(&self, relies: &str) -> Result<(), Error> {
        let status: Status = self.ask("maintenance/status", &json!({})).await?;
        let version = status.version;
        match Version::parse(&version) {
            Some(parsed) if parsed.is_too_old() => return Err(Error::TooOld { found: version }),
            Some(parsed) if parsed.has_known_faults() => tracing::warn!(
                version,
                "this etcd may report a lease as renewed that is gone, and 3.5.0 to 3.5.2 may lose data in a crash: fixed in 3.5.23 \
                 and 3.6.5. {relies}; upgrade all the same"
            ),
            Some(_) => {}
            None => tracing::warn!(version, "the etcd's version cannot be read"),
        }
        Ok(())
    }

    /// Puts a value where there is none; what is there is in the answer.
    pub async fn put_if_absent(&self, key: &str, value: &str) -> Result<Told, Error> {
        self.transact(&json!({
            "compare": [{ "target": "CREATE", "key": key, "create_revision": "0", "result": "EQUAL" }],
            "success": [{ "request_put": { "key": key, "value": value } }],
            "failure": [{ "request_range": { "key": key } }],
        }))
        .await
    }

    /// Carries a transaction out, in the gateway's form.
    pub async fn transact(&self, body: &Value) -> Result<Told, Error> {
        self.ask("kv/txn", body).await
    }

    /// The member that is asked now.
    pub(crate) fn endpoint(&self) -> Option<String> {
        self.endpoints.get(self.current.get() % self.endpoints.len().max(1)).cloned()
    }

    /// Asks one member after the other, from the one that answered last. What one of them may have done without an answer is
    /// safe to ask of the next: it compares.
    pub(crate) async fn ask<T: for<'a> Deserialize<'a>>(&self, what: &str, body: &Value) -> Result<T, Error> {
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
        Err(Error::Unreachable(why))
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

    pub(crate) fn request(&self, at: &str, what: &str) -> awc::ClientRequest {
        let request = self.http.post(format!("{at}/v3/{what}"));
        match &*self.token.borrow() {
            Some(token) => request.insert_header(("Authorization", token.as_str())),
            None => request,
        }
    }

    async fn post<T: for<'a> Deserialize<'a>>(&self, at: &str, what: &str, body: &Value) -> Result<T, Failed> {
        let sent = self.request(at, what).send_json(body).await;
        let mut response = sent.map_err(Failed::because)?.timeout(self.timeout);
        let bytes = response.body().limit(ANSWER_BYTES_MAX).await.map_err(Failed::because)?;
        if !response.status().is_success() {
            let told: Option<Failed> = serde_json::from_slice(&bytes).ok();
            return Err(told.unwrap_or_else(|| Failed::because(response.status())));
        }
        serde_json::from_slice(&bytes).map_err(|error| Failed::because(format!("it is no etcd: {error}")))
    }
}
