//! Nothing about chains: one process asks a supervised actor of another, sees it fall and begin anew, kills the process, is told of its death.
//!     cargo run --release --example remote_actors
#![allow(clippy::print_stdout, clippy::expect_used, reason = "an example says what it does")]

use std::process::{Command, Stdio};
use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use standin::stage::bridge::{Bridge, BridgeConfig, PeerConfig, Router, SocketTransport, TlsIdentity, tls};
use standin::stage::{Cell, Ctx, Handle, MailboxLimits, Message, RemoteMessage, Reply, Role, Supervision};
use standin_foundation::{Digest, SecretKey, wire::Wire};

#[derive(Debug, Serialize, Deserialize)]
struct Add(u64);

impl Wire for Add {
    const NAME: &'static str = "example.add";
    const BYTES_MAX: usize = 16;
}

impl Message for Add {
    type Reply = Add;
}

impl RemoteMessage for Add {}

struct Adder(u64);

impl Role for Adder {}

impl Handle<Add> for Adder {
    fn handle(&mut self, Add(number): Add, reply: Reply<Add>, _: &mut Ctx<Self>) {
        assert!(number != 13, "unlucky");
        self.0 += number;
        reply.send(Add(self.0));
    }
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A process is its key, and each knows the other's: here they are made of numbers. The lower id dials the higher.
    let mut keys = [1, 2].map(|number| SecretKey::from_bytes(&[number; 32]).expect("in range"));
    keys.sort_by_key(|key| key.public().node_id());
    let [child_key, parent_key] = keys;
    let (certificate, private) = tls::make_certificate("example", 1)?;
    let identity = TlsIdentity::from_pem(&certificate, &private)?;
    let bridge = |key, other: &SecretKey, address: &str, listener, router| {
        let peers = vec![PeerConfig { key: other.public(), address: address.to_owned() }];
        let config = BridgeConfig { key, chain: Digest::sha256(b"example"), peers, limits: MailboxLimits::default() };
        let (peers, transport) = (Bridge::prepare(&config), SocketTransport::new(identity.clone(), Some(listener)));
        Bridge::start(config, peers.clone(), Arc::new(transport), router, None).map(|bridge| (bridge, peers))
    };
    if let Some(parent) = std::env::args().nth(1) {
        let adder = Cell::spawn("adder", Supervision::default(), MailboxLimits::default(), |_| Adder(0));
        let router = Router::default().ask::<Add, Adder>(adder.address().clone());
        let unused = std::net::TcpListener::bind("127.0.0.1:0")?;
        let _serving = bridge(child_key, &parent_key, &parent, unused, router)?;
        // It ends with its parent, whose end closes the pipe.
        actix_web::web::block(|| std::io::stdin().lines().count()).await?;
        return Ok(());
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    let (_bridge, peers) = bridge(parent_key, &child_key, &address, listener, Router::default())?;
    let mut child = Command::new(std::env::current_exe()?).arg(&address).stdin(Stdio::piped()).spawn()?;
    let (remote, soon) = (peers.remote(&child_key.public().node_id()).ok_or("unknown")?, Duration::from_secs(5));
    remote.connected().await;
    println!("it adds 2: {:?}", remote.ask(&Add(2), soon).await?);
    println!("13 is unlucky: {}", remote.ask(&Add(13), soon).await.expect_err("it fell"));
    println!("it has begun anew, and adds 3: {:?}", remote.ask(&Add(3), soon).await?);
    let watching = remote.clone();
    let death = actix_web::rt::spawn(async move { watching.down::<Add>().await });
    remote.ask(&Add(4), soon).await?;
    child.kill()?;
    println!("told of its death: {:?}", death.await?);
    child.wait()?;
    Ok(())
}
