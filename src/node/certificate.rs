//! The certificate of a node's bridge: when it expires, and how another takes its place while the node runs.

use standin_console::actor::unix_ms;
use standin_stage::bridge::TlsIdentity;
use standin_stage::bridge::tls::TlsError;

use crate::config::NodeConfig;

/// From so many days before its end on, the certificate's expiry is told at the start.
const WARNED_DAYS: i64 = 30;
const DAY_S: i64 = 24 * 60 * 60;

/// The certificate that handshakes use. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct Certificate(TlsIdentity);

impl Certificate {
    /// The one that the configuration names; says so if it ends soon.
    pub(super) fn read(config: &NodeConfig) -> Result<Self, TlsError> {
        let certificate = Self(TlsIdentity::read(&config.certificate_file, &config.certificate_key_file)?);
        let days = certificate.days_left();
        if days < WARNED_DAYS {
            tracing::warn!(days, "the bridge's certificate expires: `standin certificate renew`, and SIGHUP");
        }
        Ok(certificate)
    }

    pub(super) fn tls(&self) -> TlsIdentity {
        self.0.clone()
    }

    /// Connections that are made from now on use what the configuration's files hold now; those that are open stay. Nothing is changed if that is no
    /// certificate with its key. Gives when it expires, in s since the Unix epoch.
    pub fn replace(&self, config: &NodeConfig) -> Result<i64, TlsError> {
        self.0.replace(&config.certificate_file, &config.certificate_key_file)
    }

    /// When it expires, in s since the Unix epoch.
    pub fn expires_unix_s(&self) -> i64 {
        self.0.expires_unix_s()
    }

    /// Whole days until it expires; below zero afterwards.
    pub fn days_left(&self) -> i64 {
        let now = i64::try_from(unix_ms() / 1_000).unwrap_or(i64::MAX);
        (self.expires_unix_s() - now).div_euclid(DAY_S)
    }
}
