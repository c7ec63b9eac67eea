//! What stands between commands and nodes: a proxy with TLS, and one that loses answers.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use standin_stage::bridge::tls::make_certificate;
use tokio_rustls::TlsAcceptor;

use crate::network::{TestNetwork, data, ended_within, standin, told};

/// Nothing here takes longer.
const WITHIN: Duration = Duration::from_secs(60);

fn address_of(network: &TestNetwork) -> SocketAddr {
    network.url(0).strip_prefix("http://").unwrap().parse().unwrap()
}

/// A proxy with a certificate for `localhost`, which it writes there, in front of a node; it lives as long as the test's process.
fn with_tls(node: SocketAddr, authority: &Path) -> u16 {
    let (certificate, private) = make_certificate("localhost", 2).unwrap();
    std::fs::write(authority, &certificate).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let private = PrivateKeyDer::from_pem_slice(private.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let acceptor = TlsAcceptor::from(Arc::new(config.with_single_cert(chain, private).unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        actix::System::new().block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                actix::spawn(async move {
                    // Whoever does not trust it goes away.
                    let Ok(mut outside) = acceptor.accept(stream).await else { return };
                    let mut inside = tokio::net::TcpStream::connect(node).await.unwrap();
                    drop(tokio::io::copy_bidirectional(&mut outside, &mut inside).await);
                });
            }
        });
    });
    port
}

#[test]
fn nodes_are_reached_through_a_proxy_with_tls() {
    let network = TestNetwork::start();
    let folder = tempfile::tempdir().unwrap();
    let authority = folder.path().join("authority.pem");
    let url = format!("https://localhost:{}", with_tls(address_of(&network), &authority));
    let ask = |arguments: &[&str], trusts: bool| {
        let mut command = standin();
        command.args(arguments).args(["--node", &url]);
        if trusts {
            command.env("SSL_CERT_FILE", &authority);
        }
        ended_within(&mut command, WITHIN)
    };
    let status = ask(&["status", "-o", "json"], true);
    assert_eq!(told(&status).0, 0, "{}", told(&status).1);
    assert!(data(&status).contains("\"height\""), "{}", data(&status));
    let (code, why) = told(&ask(&["status"], false));
    assert!(code == 69 && why.contains("UnknownIssuer") && why.contains("SSL_CERT_FILE"), "{code} {why}");
    // A websocket passes, too.
    let key = network.key();
    let mut publish = standin();
    publish.args(["publish", "rates", "--node", &url, "--key", key.to_str().unwrap()]).env("SSL_CERT_FILE", &authority);
    let input = folder.path().join("input");
    std::fs::write(&input, "1.07\n1.08\n").unwrap();
    let published = ended_within(publish.args(["--file", input.to_str().unwrap()]), WITHIN);
    assert_eq!(told(&published).0, 0, "{}", told(&published).1);
    let followed = ask(&["follow", "rates", "--from", "1", "--count", "2"], true);
    assert_eq!((told(&followed).0, data(&followed).as_str()), (0, "1.07\n1.08\n"), "{}", told(&followed).1);
}

/// Hands on what it is sent, and the node's answer to nobody: as a node that dies when it has just done what it was asked for.
fn that_loses_answers(node: SocketAddr) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        while let Ok((mut outside, _)) = listener.accept() {
            let mut inside = TcpStream::connect(node).unwrap();
            let mut answer = inside.try_clone().unwrap();
            let mut asked = outside.try_clone().unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = asked.read(&mut buffer) {
                    if inside.write_all(&buffer[..count]).is_err() {
                        break;
                    }
                }
            });
            // It ends when the node has answered.
            let _ = answer.read(&mut [0; 1]);
            let _ = outside.shutdown(std::net::Shutdown::Both);
            let _ = outside.flush();
        }
    });
    url
}

#[test]
fn what_was_handed_to_a_node_that_is_gone_goes_to_the_next_and_takes_effect_once() {
    let network = TestNetwork::start();
    let nodes = format!("{},{}", that_loses_answers(address_of(&network)), network.url(1));
    let receiver = standin_foundation::SecretKey::generate().unwrap().public();
    let line = format!("{{\"transfer\":{{\"to\":\"{receiver}\",\"amount\":7}}}}");
    let key = network.key();
    let mut submit = standin();
    submit.args(["submit", "--node", &nodes, "--key", key.to_str().unwrap(), &line]);
    let submitted = ended_within(&mut submit, WITHIN);
    let (code, talk) = told(&submitted);
    assert!(code == 0 && talk.contains("1 applied, 0 rejected") && talk.contains("handed in again"), "{code} {talk}");
    let account = receiver.to_string();
    let balance = ended_within(standin().args(["query", "--account", &account, "--node", network.url(1)]), WITHIN);
    assert!(data(&balance).contains('7') && !data(&balance).contains("14"), "{}", data(&balance));
}
