//! Who may see the console: one-time links, and the logins that they become.
//!
//! A token is 32 random bytes; a node's folder holds its hash alone, with what it opens and until when. Whoever may write to the folder may make a
//! link ([`Tokens::make`]). It opens one login and is gone; the login outlives the process.

use std::collections::VecDeque;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use standin_foundation::Digest;

use crate::protocol::UserView;

/// How long a login lasts.
pub const LOGIN_TIME: Duration = Duration::from_secs(8 * 3600);
/// Tokens of a kind that a node keeps.
const TOKENS_MAX: usize = 256;
/// Logins that may fail within [`FAILURES_WITHIN`], by whomever: tokens cannot be guessed, and guessing is not free.
const FAILURES_MAX: usize = 20;
const FAILURES_WITHIN: Duration = Duration::from_secs(60);

/// Why there is no login.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoginError {
    /// The token opens nothing.
    #[error("the link is not known, was opened before, or has expired: make another with `standin console-token`")]
    Unknown,
    /// Too many have failed.
    #[error("too many logins have failed: wait a minute")]
    TooMany,
    /// The folder.
    #[error("{path}: {source}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// No random bytes.
    #[error("the system gave no random bytes: {0}")]
    Random(String),
    /// Too many tokens are there.
    #[error("{path} holds {count} files: remove those that are not needed")]
    Full {
        /// The folder.
        path: PathBuf,
        /// How many there are.
        count: usize,
    },
}

/// Somebody who is logged in, or may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// Who.
    #[serde(flatten)]
    pub user: UserView,
    /// Until when, in ms since 1970.
    pub expires_unix_ms: u64,
}

/// Tokens of one kind, by their hash, in a folder.
#[derive(Debug, Clone)]
pub struct Tokens {
    folder: PathBuf,
}

impl Tokens {
    /// The one-time links of a node with this data folder.
    pub fn links(data_dir: &Path) -> Self {
        Self { folder: data_dir.join("console").join("links") }
    }

    fn logins(data_dir: &Path) -> Self {
        Self { folder: data_dir.join("console").join("logins") }
    }

    /// Makes a token for somebody; `unix_ms` is the time now.
    pub fn make(&self, login: &Login, unix_ms: u64) -> Result<String, LoginError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| LoginError::Folder { path, source }
        };
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&self.folder).map_err(failed(&self.folder))?;
        let count = self.drop_expired(unix_ms).map_err(failed(&self.folder))?;
        if count >= TOKENS_MAX {
            return Err(LoginError::Full { path: self.folder.clone(), count });
        }
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|error| LoginError::Random(error.to_string()))?;
        let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let path = self.path_of(&token);
        let mut file = fs::OpenOptions::new();
        let mut file = file.write(true).create_new(true).mode(0o600).open(&path).map_err(failed(&path))?;
        let json = serde_json::to_vec(login).map_err(std::io::Error::other);
        json.and_then(|json| file.write_all(&json)).map_err(failed(&path))?;
        Ok(token)
    }

    /// What a token opens.
    fn find(&self, token: &str, unix_ms: u64) -> Option<Login> {
        let login: Login = serde_json::from_slice(&fs::read(self.path_of(token)).ok()?).ok()?;
        (unix_ms < login.expires_unix_ms).then_some(login)
    }

    /// Takes a token away: true for one of those who do it at once.
    fn take(&self, token: &str) -> bool {
        fs::remove_file(self.path_of(token)).is_ok()
    }

    /// Gives how many are left.
    fn drop_expired(&self, unix_ms: u64) -> std::io::Result<usize> {
        let mut left = 0;
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let login = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Login>(&bytes).ok());
            let is_over = login.is_some_and(|login| login.expires_unix_ms <= unix_ms);
            left += usize::from(!is_over || fs::remove_file(&path).is_err());
        }
        Ok(left)
    }

    /// What the time of a look-up tells of a hash tells nothing of its token.
    fn path_of(&self, token: &str) -> PathBuf {
        self.folder.join(Digest::sha256_of(&[b"standin/v1/console-token", token.as_bytes()]).to_string())
    }
}

/// Who is logged in at a node.
#[derive(Debug)]
pub struct Logins {
    links: Tokens,
    logins: Tokens,
    failures: Mutex<VecDeque<Instant>>,
}

impl Logins {
    /// Those of a node with this data folder.
    pub fn new(data_dir: &Path) -> Self {
        Self { links: Tokens::links(data_dir), logins: Tokens::logins(data_dir), failures: Mutex::default() }
    }

    /// Opens a link; gives the secret that the browser keeps. A link that could not be opened for want of room is left.
    pub fn log_in(&self, token: &str, now: Instant, unix_ms: u64) -> Result<(String, Login), LoginError> {
        let Some(link) = self.links.find(token, unix_ms) else { return Err(self.failed(now)) };
        let login = Login { expires_unix_ms: unix_ms + LOGIN_TIME.as_millis() as u64, ..link };
        let secret = self.logins.make(&login, unix_ms)?;
        if !self.links.take(token) {
            self.logins.take(&secret);
            return Err(LoginError::Unknown);
        }
        Ok((secret, login))
    }

    /// Counts a failure. A good link opens all the same: its 256 bits are not guessed, and strangers must not lock operators out.
    fn failed(&self, now: Instant) -> LoginError {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        while failures.front().is_some_and(|failed| now - *failed >= FAILURES_WITHIN) {
            failures.pop_front();
        }
        if failures.len() >= FAILURES_MAX {
            return LoginError::TooMany;
        }
        failures.push_back(now);
        LoginError::Unknown
    }

    /// Whether a login has ended: it has expired, or its file is gone. One that cannot be read now may hold.
    pub fn is_over(&self, secret: &str, unix_ms: u64) -> bool {
        let is_gone = |error: std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
        match fs::read(self.logins.path_of(secret)) {
            Ok(bytes) => serde_json::from_slice::<Login>(&bytes).is_ok_and(|login| unix_ms >= login.expires_unix_ms),
            Err(error) => is_gone(error),
        }
    }

    /// Who has this secret.
    pub fn find(&self, secret: &str, unix_ms: u64) -> Option<Login> {
        self.logins.find(secret, unix_ms)
    }

    /// Ends a login.
    pub fn log_out(&self, secret: &str) {
        self.logins.take(secret);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Role;

    const LATER: u64 = 1_000;

    fn login(name: &str, role: Role) -> Login {
        Login { user: UserView { name: name.to_owned(), role }, expires_unix_ms: LATER }
    }

    fn link(folder: &Path) -> String {
        Tokens::links(folder).make(&login("ops", Role::Operator), 0).unwrap()
    }

    #[test]
    fn a_link_opens_one_login_which_outlives_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let logins = Logins::new(folder.path());
        let token = link(folder.path());
        let (secret, opened) = logins.log_in(&token, Instant::now(), LATER - 1).unwrap();
        assert_eq!(opened.user, login("ops", Role::Operator).user);
        let again = logins.log_in(&token, Instant::now(), LATER - 1);
        assert!(matches!(again, Err(LoginError::Unknown)), "stolen from the history");
        let started_anew = Logins::new(folder.path());
        assert_eq!(started_anew.find(&secret, LATER), Some(opened.clone()));
        assert!(logins.find(&token, LATER).is_none() && logins.find("", LATER).is_none());
        assert!(logins.find(&secret, opened.expires_unix_ms).is_none(), "it ends");
        assert!(!logins.is_over(&secret, LATER) && logins.is_over(&secret, opened.expires_unix_ms));
        let file = fs::read_dir(folder.path().join("console/logins")).unwrap().next().unwrap().unwrap().path();
        let whole = fs::read(&file).unwrap();
        fs::write(&file, b"{").unwrap();
        assert!(!logins.is_over(&secret, LATER), "what cannot be read now may hold");
        fs::write(&file, whole).unwrap();
        logins.log_out(&secret);
        assert!(started_anew.find(&secret, LATER).is_none() && logins.is_over(&secret, LATER));
    }

    #[test]
    fn an_expired_link_opens_nothing_and_no_token_is_in_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let logins = Logins::new(folder.path());
        let token = link(folder.path());
        for entry in fs::read_dir(folder.path().join("console/links")).unwrap() {
            let path = entry.unwrap().path();
            assert!(!path.to_string_lossy().contains(&token) && !fs::read_to_string(path).unwrap().contains(&token));
        }
        assert!(matches!(logins.log_in(&token, Instant::now(), LATER), Err(LoginError::Unknown)));
        for token in ["", "..", "../links", &"x".repeat(100_000)] {
            assert!(matches!(logins.log_in(token, Instant::now(), 0), Err(LoginError::Unknown)));
        }
    }

    #[test]
    fn guessing_is_refused_for_a_minute_and_locks_nobody_out() {
        let folder = tempfile::tempdir().unwrap();
        let logins = Logins::new(folder.path());
        let now = Instant::now();
        (0..FAILURES_MAX).for_each(|_| assert!(matches!(logins.log_in("no", now, 0), Err(LoginError::Unknown))));
        let token = link(folder.path());
        assert!(matches!(logins.log_in("no", now, 0), Err(LoginError::TooMany)));
        assert!(logins.log_in(&token, now, 0).is_ok(), "whoever has a link gets in");
        assert!(matches!(logins.log_in("no", now + FAILURES_WITHIN, 0), Err(LoginError::Unknown)));
    }

    #[test]
    fn tokens_do_not_grow_without_a_bound() {
        let folder = tempfile::tempdir().unwrap();
        let links = Tokens::links(folder.path());
        (0..TOKENS_MAX).for_each(|_| drop(link(folder.path())));
        let refused = links.make(&login("ops", Role::Viewer), LATER - 1);
        assert!(matches!(refused, Err(LoginError::Full { count: TOKENS_MAX, .. })));
        assert!(links.make(&login("ops", Role::Viewer), LATER).is_ok(), "those that have expired go");
    }
}
