//! TLS to what stands in front of a node: its own HTTP listens on loopback, and speaks none.

use std::sync::Arc;

use rustls::crypto::ring::default_provider;
use rustls::{ClientConfig, RootCertStore};

/// Trusts the authorities that the system trusts; `SSL_CERT_FILE` and `SSL_CERT_DIR` name others in their place. Fails if the versions of
/// TLS do not fit the program's ciphers.
pub(crate) fn config() -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    // Some may be of an old form, or none be found: a server whose authority is missing is refused, with the reason.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    Ok(builder.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth())
}

/// What somebody can do about a server that is not trusted.
pub(crate) fn hint(what: &str) -> &'static str {
    match what.contains("UnknownIssuer") {
        true => ": SSL_CERT_FILE names a file with the certificate of its authority",
        false => "",
    }
}
