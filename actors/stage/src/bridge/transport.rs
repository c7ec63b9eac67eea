//! How connections are made and taken: a trait, so that the same bridge runs on sockets and on a simulated network; and
//! real sockets: actix-ws takes connections, tokio-tungstenite makes them, both over TLS.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::net::TcpListener;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::dev::{Extensions, Payload, ServerHandle};
use actix_web::error::PayloadError;
use actix_web::{App, FromRequest, HttpRequest, HttpResponse, HttpServer, web};
use bytes::Bytes;
use futures_util::{SinkExt, Stream, StreamExt};
use rustls::pki_types::ServerName;
use standin_foundation::limits::FRAME_BYTES_MAX;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as WsMessage;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::BridgeError;
use super::pipe::{Allowance, Pipe};
use super::tls::{EXPORTER_LABEL, TlsIdentity};

/// A future that stays on its thread.
pub type Local<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// A connection before its hello.
#[derive(Debug)]
pub struct Opened {
    /// Both directions.
    pub pipe: Pipe,
    /// What binds a hello to this very connection: keying material that both ends know, and nobody in between.
    pub binding: Vec<u8>,
}

/// Called with each connection that comes in, on a thread that runs a [`tokio::task::LocalSet`].
pub type Take = Arc<dyn Fn(Opened) + Send + Sync>;

/// A way to make connections and to take them.
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// Makes a connection to `address`: host and port.
    fn dial<'a>(&'a self, address: &'a str) -> Local<'a, Result<Opened, BridgeError>>;

    /// Begins to take connections. Called once.
    fn listen(&self, take: Take) -> Result<Box<dyn Listening>, BridgeError>;
}

/// Connections are being taken.
pub trait Listening: fmt::Debug {
    /// Ends it, within about a second.
    fn stop(&self) -> Local<'_, ()>;
}

/// Messages between the socket's task and the session, each way.
const PIPE_MESSAGES: usize = 64;
/// Bytes that are read at one time: the buffer is cleared before each read, and most messages are small.
const READ_BUFFER_BYTES: usize = 8 * 1024;
const PATH: &str = "/bridge/v1";
/// A message that has not gone out after this long never will.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the other end has to close its side.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections that a node takes at one time, those of strangers included.
const CONNECTIONS_MAX: usize = 512;

/// Websockets over TLS over TCP.
#[derive(Debug)]
pub struct SocketTransport {
    tls: TlsIdentity,
    listener: Mutex<Option<TcpListener>>,
}

impl SocketTransport {
    /// Takes connections from `listener`; without one, only makes them.
    pub fn new(tls: TlsIdentity, listener: Option<TcpListener>) -> Self {
        Self { tls, listener: Mutex::new(listener) }
    }
}

impl Transport for SocketTransport {
    fn dial<'a>(&'a self, address: &'a str) -> Local<'a, Result<Opened, BridgeError>> {
        Box::pin(dial(address, &self.tls))
    }

    fn listen(&self, take: Take) -> Result<Box<dyn Listening>, BridgeError> {
        let listener = self.listener.lock().ok().and_then(|mut listener| listener.take());
        let none = || BridgeError::Listen {
            address: String::new(),
            source: std::io::Error::other("the transport has no listener, or it is in use"),
        };
        Ok(Box::new(SocketListening(listen(listener.ok_or_else(none)?, &self.tls, take)?)))
    }
}

#[derive(Debug)]
struct SocketListening(ServerHandle);

impl Listening for SocketListening {
    fn stop(&self) -> Local<'_, ()> {
        Box::pin(self.0.stop(true))
    }
}

/// Opens a connection.
async fn dial(address: &str, tls: &TlsIdentity) -> Result<Opened, BridgeError> {
    let failed = |what: String| BridgeError::Dial { address: address.to_owned(), what };
    let tcp = TcpStream::connect(address).await.map_err(|error| failed(error.to_string()))?;
    tcp.set_nodelay(true).map_err(|error| failed(error.to_string()))?;
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(&tls.client));
    let name = ServerName::try_from("standin").map_err(|error| failed(error.to_string()))?;
    let stream = connector.connect(name, tcp).await.map_err(|error| failed(format!("TLS: {error}")))?;
    let binding = stream
        .get_ref()
        .1
        .export_keying_material(vec![0; 32], EXPORTER_LABEL, None)
        .map_err(|error| failed(format!("TLS: {error}")))?;
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .max_message_size(Some(FRAME_BYTES_MAX * 2))
        .max_frame_size(Some(FRAME_BYTES_MAX * 2))
        .max_write_buffer_size(FRAME_BYTES_MAX * 4);
    let url = format!("wss://standin{PATH}");
    let (socket, _) = tokio_tungstenite::client_async_with_config(url, stream, Some(config))
        .await
        .map_err(|error| failed(format!("websocket: {error}")))?;
    Ok(Opened { pipe: pipe_over(socket), binding })
}

/// Whether a step of sending was done in time: an end that takes nothing must not hold what waits for it.
async fn in_time<E>(step: impl Future<Output = Result<(), E>>) -> bool {
    matches!(tokio::time::timeout(SEND_TIMEOUT, step).await, Ok(Ok(())))
}

/// Carries a websocket's binary messages both ways until either side ends.
pub(super) fn pipe_over<S>(socket: WebSocketStream<S>) -> Pipe
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (mut sink, mut source) = socket.split();
    let (outgoing, mut to_send) = mpsc::channel::<Bytes>(PIPE_MESSAGES);
    let (received, incoming) = mpsc::channel::<Bytes>(PIPE_MESSAGES);
    actix_rt::spawn(async move {
        while let Some(message) = to_send.recv().await {
            if !in_time(sink.send(WsMessage::Binary(message))).await {
                return;
            }
        }
        // The other end may be gone already.
        in_time(sink.close()).await;
    });
    actix_rt::spawn(async move {
        loop {
            let message = tokio::select! {
                biased;
                () = received.closed() => break,
                message = source.next() => message,
            };
            let goes_on = match message {
                Some(Ok(WsMessage::Binary(bytes))) => received.send(bytes).await.is_ok(),
                Some(Ok(_)) => true,
                Some(Err(_)) | None => false,
            };
            if !goes_on {
                return;
            }
        }
        // Nobody reads any more. The other end gets a moment to take what was sent last and to close, but no more: the socket
        // must not stay for its sake.
        let closing = async { while let Some(Ok(_)) = source.next().await {} };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
    });
    Pipe::new(outgoing, incoming)
}

struct Binding(Vec<u8>);

/// Every connection that opens a websocket is handed to `take`, on the listener's own thread.
fn listen(listener: TcpListener, tls: &TlsIdentity, take: Take) -> Result<ServerHandle, BridgeError> {
    let address = listener.local_addr().map(|address| address.to_string()).unwrap_or_default();
    let server = HttpServer::new(move || {
        let take = Arc::clone(&take);
        App::new().route(
            PATH,
            web::get().to(move |request: HttpRequest, body: web::Payload| {
                let take = Arc::clone(&take);
                async move {
                    let (response, opened) = upgrade(&request, body).await?;
                    take(opened);
                    Ok::<_, actix_web::Error>(response)
                }
            }),
        )
    })
    .on_connect(remember_binding)
    .workers(1)
    .max_connections(CONNECTIONS_MAX)
    .disable_signals()
    .shutdown_timeout(1)
    .listen_rustls_0_23(listener, (*tls.server).clone())
    .map_err(|error| BridgeError::Listen { address, source: error })?
    .run();
    let handle = server.handle();
    actix_rt::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "the bridge's listener ended");
        }
    });
    Ok(handle)
}

fn remember_binding(connection: &dyn Any, extensions: &mut Extensions) {
    type Tls = actix_tls::accept::rustls_0_23::TlsStream<actix_web::rt::net::TcpStream>;
    if let Some(stream) = connection.downcast_ref::<Tls>() {
        let (tcp, session) = stream.get_ref();
        // Without it votes wait for more bytes that never come; but a connection works without it.
        let _ = tcp.set_nodelay(true);
        if let Ok(binding) = session.export_keying_material(vec![0; 32], EXPORTER_LABEL, None) {
            extensions.insert(Binding(binding));
        }
    }
}

async fn upgrade(request: &HttpRequest, body: web::Payload) -> Result<(HttpResponse, Opened), actix_web::Error> {
    let binding = request.conn_data::<Binding>().map(|binding| binding.0.clone());
    let binding = binding.ok_or_else(|| actix_web::error::ErrorForbidden("TLS is required"))?;
    let allowance = Arc::new(Allowance::default());
    let body = limited(request, body, &allowance).await?;
    let (response, mut session, stream) = actix_ws::handle(request, body)?;
    let mut stream = stream.max_frame_size(FRAME_BYTES_MAX * 2);
    let (outgoing, mut to_send) = mpsc::channel::<Bytes>(PIPE_MESSAGES);
    let (received, incoming) = mpsc::channel::<Bytes>(PIPE_MESSAGES);
    let mut pong = session.clone();
    actix_web::rt::spawn(async move {
        while let Some(message) = to_send.recv().await {
            if !in_time(session.binary(message)).await {
                break;
            }
        }
        // The other end may be gone already.
        in_time(session.close(None)).await;
    });
    let counted = Arc::clone(&allowance);
    actix_web::rt::spawn(async move {
        loop {
            let message = tokio::select! {
                biased;
                () = received.closed() => return,
                message = stream.recv() => message,
            };
            counted.message_done();
            let goes_on = match message {
                Some(Ok(actix_ws::Message::Binary(bytes))) => received.send(bytes).await.is_ok(),
                Some(Ok(actix_ws::Message::Ping(bytes))) => in_time(pong.pong(&bytes)).await,
                Some(Ok(actix_ws::Message::Close(_)) | Err(_)) | None => false,
                Some(Ok(_)) => true,
            };
            if !goes_on {
                return;
            }
        }
    });
    Ok((response, Opened { pipe: Pipe::new(outgoing, incoming).with_allowance(allowance), binding }))
}

/// The body, which ends when more comes than is allowed: the websocket codec collects a frame before it looks at its length.
async fn limited(
    request: &HttpRequest,
    body: web::Payload,
    allowance: &Arc<Allowance>,
) -> Result<web::Payload, actix_web::Error> {
    let allowance = Arc::clone(allowance);
    let counted = body.map(move |bytes| match bytes {
        Ok(bytes) if !allowance.take(bytes.len()) => Err(PayloadError::Overflow),
        other => other,
    });
    let boxed: Pin<Box<dyn Stream<Item = Result<Bytes, PayloadError>>>> = Box::pin(counted);
    web::Payload::from_request(request, &mut Payload::from(boxed)).await
}
