//! How an etcd is reached.

use std::path::PathBuf;

/// How an etcd is reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// Addresses of its members' client ports, such as `http://127.0.0.1:2379`. One is asked until it does not answer.
    pub endpoints: Vec<String>,
    /// How long an answer of one member is waited for, in ms.
    pub timeout_ms: u64,
    /// Certificates of the authorities that vouch for its members, in PEM; needed for `https`.
    pub ca_file: Option<PathBuf>,
    /// This node's certificate and private key, in PEM, where etcd asks for one.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// A user of etcd, and the file that holds its password.
    pub user: Option<(String, PathBuf)>,
}
