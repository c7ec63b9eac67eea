//! Mutual TLS. Each node has a self-signed certificate, made by `init`. Who a node is, its secp256k1 key says: the signed
//! hello is bound to the TLS session by exported keying material, so whoever sits in between cannot pass it on.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
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

/// Makes a new self-signed certificate: (certificate, private key), both PEM.
pub fn make_certificate(name: &str) -> Result<(String, String), TlsError> {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()])?;
    Ok((made.cert.pem(), made.signing_key.serialize_pem()))
}

/// Both sides' configurations for one node.
#[derive(Debug, Clone)]
pub struct TlsIdentity {
    /// For connections that come in.
    pub server: Arc<ServerConfig>,
    /// For connections that go out.
    pub client: Arc<ClientConfig>,
}

impl TlsIdentity {
    /// Reads certificate and key from PEM files.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let text = |path: &Path| {
            fs::read(path).map_err(|error| TlsError::File { path: path.to_owned(), what: error.to_string() })
        };
        let wrong = |path: &Path, what: String| TlsError::File { path: path.to_owned(), what };
        let cert = CertificateDer::from_pem_slice(&text(certificate)?)
            .map_err(|error| wrong(certificate, format!("no certificate in it: {error}")))?;
        let private = PrivateKeyDer::from_pem_slice(&text(key)?)
            .map_err(|error| wrong(key, format!("no private key in it: {error}")))?;
        Self::new(cert, private)
    }

    /// From PEM texts.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, TlsError> {
        let wrong = |what: String| TlsError::File { path: PathBuf::new(), what };
        let cert = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|e| wrong(e.to_string()))?;
        let private = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| wrong(e.to_string()))?;
        Self::new(cert, private)
    }

    fn new(cert: CertificateDer<'static>, key: PrivateKeyDer<'static>) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let possession = Arc::new(Possession(Arc::clone(&provider)));
        let tls13 = &[&rustls::version::TLS13];
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(tls13)?
            .with_client_cert_verifier(Arc::clone(&possession) as Arc<dyn ClientCertVerifier>)
            .with_single_cert(vec![cert.clone()], key.clone_key())?;
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(tls13)?
            .dangerous()
            .with_custom_certificate_verifier(possession)
            .with_client_auth_cert(vec![cert], key)?;
        Ok(Self { server: Arc::new(server), client: Arc::new(client) })
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
