//! Mutual TLS. Each node has a self-signed certificate, made by `init`. Who a node is, its secp256k1 key says: the signed
//! hello is bound to the TLS session by exported keying material, so whoever sits in between cannot pass it on.
//!
//! So a certificate can be replaced at any time, and nobody has to be told: connections that are made from then on use the new one. Its expiry is
//! told, and not enforced: a date that was forgotten must not stop a ledger, and the certificate proves nothing that the hello does not.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};

/// Label of the exported keying material that a hello signs.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-standin-hello-v1";

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("TLS file {path}: {what}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// rustls refused.
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
    /// A certificate cannot be made.
    #[error("making a TLS certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// How long a new certificate is good, unless it is said otherwise, in days.
pub const CERTIFICATE_DAYS: u32 = 397;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Makes a new self-signed certificate, good from a day ago on, so that clocks may differ: (certificate, private key), both PEM.
pub fn make_certificate(name: &str, days: u32) -> Result<(String, String), TlsError> {
    let key = rcgen::KeyPair::generate()?;
    let mut parameters = rcgen::CertificateParams::new(vec![name.to_owned()])?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    parameters.not_before = epoch + now.saturating_sub(DAY);
    parameters.not_after = epoch + now + DAY * days;
    let certificate = parameters.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// A node's certificate, and both sides' configurations with it. Clones share the certificate.
#[derive(Debug, Clone)]
pub struct TlsIdentity {
    /// For connections that come in.
    pub server: Arc<ServerConfig>,
    /// For connections that go out.
    pub client: Arc<ClientConfig>,
    current: Arc<Current>,
}

impl TlsIdentity {
    /// Reads certificate and key from PEM files.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        Self::new(Loaded::read(certificate, key)?)
    }

    /// From PEM texts.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, TlsError> {
        let none = Path::new("");
        Self::new(Loaded::parse((none, certificate.as_bytes()), (none, key.as_bytes()))?)
    }

    fn new(loaded: Loaded) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let possession = Arc::new(Possession(Arc::clone(&provider)));
        let current = Arc::new(Current(RwLock::new(loaded)));
        let tls13 = &[&rustls::version::TLS13];
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(tls13)?
            .with_client_cert_verifier(Arc::clone(&possession) as Arc<dyn ClientCertVerifier>)
            .with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(tls13)?
            .dangerous()
            .with_custom_certificate_verifier(possession)
            .with_client_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesClientCert>);
        Ok(Self { server: Arc::new(server), client: Arc::new(client), current })
    }

    /// Connections that are made from now on use what stands in these files; those that are open stay. Where they do not hold a certificate and its
    /// key, everything stays as it is. Gives when the certificate expires, in seconds since the Unix epoch.
    pub fn replace(&self, certificate: &Path, key: &Path) -> Result<i64, TlsError> {
        let loaded = Loaded::read(certificate, key)?;
        let expires = loaded.expires_unix_s;
        *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(expires)
    }

    /// When the certificate expires, in seconds since the Unix epoch.
    pub fn expires_unix_s(&self) -> i64 {
        self.current.0.read().unwrap_or_else(PoisonError::into_inner).expires_unix_s
    }
}

/// A certificate with its key, and what it says of its end.
#[derive(Debug)]
struct Loaded {
    certified: Arc<CertifiedKey>,
    expires_unix_s: i64,
}

impl Loaded {
    fn read(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let bytes = |path: &Path| {
            fs::read(path).map_err(|error| TlsError::File { path: path.to_owned(), what: error.to_string() })
        };
        Self::parse((certificate, &bytes(certificate)?), (key, &bytes(key)?))
    }

    fn parse(
        (certificate_path, certificate): (&Path, &[u8]),
        (key_path, key): (&Path, &[u8]),
    ) -> Result<Self, TlsError> {
        let wrong = |path: &Path, what: String| TlsError::File { path: path.to_owned(), what };
        let in_certificate = |what: String| wrong(certificate_path, what);
        let certificate = CertificateDer::from_pem_slice(certificate)
            .map_err(|error| in_certificate(format!("no certificate in it: {error}")))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate)
            .map_err(|error| in_certificate(format!("the certificate cannot be read: {error}")))?;
        let expires_unix_s = parsed.validity().not_after.timestamp();
        let private = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| wrong(key_path, format!("no private key in it: {error}")))?;
        let provider = rustls::crypto::ring::default_provider();
        let certified = CertifiedKey::from_der(vec![certificate.clone()], private, &provider).map_err(|error| {
            wrong(key_path, format!("it is not the certificate's key, or no key that can be used: {error}"))
        })?;
        Ok(Self { certified: Arc::new(certified), expires_unix_s })
    }
}

/// What handshakes use now.
#[derive(Debug)]
struct Current(RwLock<Loaded>);

impl Current {
    fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner).certified)
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.certified())
    }
}

impl ResolvesClientCert for Current {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.certified())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Takes any certificate whose private key the peer proves to hold. No name and no authority counts: the signed hello,
/// which is bound to this very session, says who the peer is.
#[derive(Debug)]
struct Possession(Arc<CryptoProvider>);

impl Possession {
    fn check(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn old_version<T>() -> Result<T, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is spoken here".to_owned()))
    }
}

impl ServerCertVerifier for Possession {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::old_version()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Possession {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::old_version()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_replaced_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("tls.pem"), folder.path().join("tls.key"));
        let write = |days: u32| {
            let (pem, private) = make_certificate("standin", days).unwrap();
            fs::write(&certificate, pem).unwrap();
            fs::write(&key, private).unwrap();
        };
        write(10);
        let identity = TlsIdentity::read(&certificate, &key).unwrap();
        let first = identity.expires_unix_s();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        assert!((first - now - 10 * 86_400).abs() < 60, "{first}");
        let other = make_certificate("standin", 50).unwrap();
        fs::write(&certificate, other.0).unwrap();
        let error = identity.clone().replace(&certificate, &key).unwrap_err().to_string();
        assert!(error.contains("it is not the certificate's key"), "{error}");
        assert_eq!(identity.expires_unix_s(), first);
        fs::write(&certificate, "rot").unwrap();
        assert!(identity.replace(&certificate, &key).unwrap_err().to_string().contains("no certificate in it"));
        write(20);
        let second = identity.clone().replace(&certificate, &key).unwrap();
        assert_eq!((second - first) / 86_400, 10);
        assert_eq!(identity.expires_unix_s(), second, "clones share it");
    }
}
