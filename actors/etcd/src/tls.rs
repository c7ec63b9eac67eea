//! TLS for endpoints that speak it, and the files that logins need.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::client::Error;
use crate::config::Config;

pub(crate) fn password(file: &Path) -> Result<String, Error> {
    let text = fs::read_to_string(file);
    let wrong = |error: std::io::Error| Error::File { path: file.to_owned(), what: error.to_string() };
    Ok(text.map_err(wrong)?.trim_end().to_owned())
}

/// TLS for endpoints that speak it: only authorities that the configuration names are trusted.
pub(crate) fn client(config: &Config) -> Result<rustls::ClientConfig, Error> {
    let wrong = |path: &Path, what: String| Error::File { path: path.to_owned(), what };
    let mut roots = rustls::RootCertStore::empty();
    if let Some(path) = &config.ca_file {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|error| wrong(path, error.to_string()))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| Error::Tls(error.to_string()))?.with_root_certificates(roots);
    let Some((certificate, key)) = &config.certificate else { return Ok(builder.with_no_client_auth()) };
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, error.to_string()))?;
    let with_key = builder.with_client_auth_cert(certificates(certificate)?, private);
    with_key.map_err(|error| wrong(certificate, error.to_string()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let wrong = |what: String| Error::File { path: path.to_owned(), what };
    let found = CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?;
    let found: Result<Vec<_>, _> = found.collect();
    let found = found.map_err(|error| wrong(error.to_string()))?;
    if found.is_empty() { Err(wrong("no certificate in it".to_owned())) } else { Ok(found) }
}
