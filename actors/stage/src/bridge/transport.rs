//! Real sockets: actix-ws takes connections, tokio-tungstenite makes them, both over TLS.

use std::any::Any;
use std::net::TcpListener;
use std::sync::Arc;

use actix_web::dev::{Extensions, ServerHandle};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::ServerName;
use standin_foundation::limits::FRAME_BYTES_MAX;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message as WsMessage;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::BridgeError;
use super::pipe::Pipe;
use super::tls::{EXPORTER_LABEL, TlsIdentity};

/// Messages between the socket's task and the session, each way.
const PIPE_MESSAGES: usize = 64;
const PATH: &str = "/bridge/v1";

/// A connection before its hello: the pipe, and the keying material that binds a hello to it.
pub(super) type Opened = (Pipe, Vec<u8>);

/// Opens a connection.
pub(super) async fn dial(address: &str, tls: &TlsIdentity) -> Result<Opened, BridgeError> {
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
        .max_message_size(Some(FRAME_BYTES_MAX * 2))
        .max_frame_size(Some(FRAME_BYTES_MAX * 2))
        .max_write_buffer_size(FRAME_BYTES_MAX * 4);
    let url = format!("wss://standin{PATH}");
    let (socket, _) = tokio_tungstenite::client_async_with_config(url, stream, Some(config))
        .await
        .map_err(|error| failed(format!("websocket: {error}")))?;
    let (mut sink, mut source) = socket.split();
    let (outgoing, mut to_send) = mpsc::channel::<Bytes>(PIPE_MESSAGES);
    let (received, incoming) = mpsc::channel::<Bytes>(PIPE_MESSAGES);
    actix_rt::spawn(async move {
        while let Some(message) = to_send.recv().await {
            if sink.send(WsMessage::Binary(message)).await.is_err() {
                return;
            }
        }
        // The other end may be gone already.
        let _ = sink.close().await;
    });
    actix_rt::spawn(async move {
        while let Some(Ok(message)) = source.next().await {
            if let WsMessage::Binary(bytes) = message
                && received.send(bytes).await.is_err()
            {
                return;
            }
        }
    });
    Ok((Pipe::new(outgoing, incoming), binding))
}

struct Binding(Vec<u8>);

/// Listens; every connection that opens a websocket is handed to `take`, on the listener's own thread.
pub(super) fn listen(
    listener: TcpListener,
    tls: &TlsIdentity,
    take: impl Fn(Opened) + Send + Clone + 'static,
) -> Result<ServerHandle, BridgeError> {
    let address = listener.local_addr().map(|address| address.to_string()).unwrap_or_default();
    let server = HttpServer::new(move || {
        let take = take.clone();
        App::new().route(
            PATH,
            web::get().to(move |request: HttpRequest, body: web::Payload| {
                let opened = upgrade(&request, body);
                let take = take.clone();
                async move {
                    let (response, opened) = opened?;
                    take(opened);
                    Ok::<_, actix_web::Error>(response)
                }
            }),
        )
    })
    .on_connect(remember_binding)
    .workers(1)
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

fn upgrade(request: &HttpRequest, body: web::Payload) -> Result<(HttpResponse, Opened), actix_web::Error> {
    let binding = request.conn_data::<Binding>().map(|binding| binding.0.clone());
    let binding = binding.ok_or_else(|| actix_web::error::ErrorForbidden("TLS is required"))?;
    let (response, mut session, stream) = actix_ws::handle(request, body)?;
    let mut stream = stream.max_frame_size(FRAME_BYTES_MAX * 2);
    let (outgoing, mut to_send) = mpsc::channel::<Bytes>(PIPE_MESSAGES);
    let (received, incoming) = mpsc::channel::<Bytes>(PIPE_MESSAGES);
    let mut pong = session.clone();
    actix_web::rt::spawn(async move {
        while let Some(message) = to_send.recv().await {
            if session.binary(message).await.is_err() {
                return;
            }
        }
        // The other end may be gone already.
        let _ = session.close(None).await;
    });
    actix_web::rt::spawn(async move {
        while let Some(Ok(message)) = stream.recv().await {
            let ended = match message {
                actix_ws::Message::Binary(bytes) => received.send(bytes).await.is_err(),
                actix_ws::Message::Ping(bytes) => pong.pong(&bytes).await.is_err(),
                actix_ws::Message::Close(_) => true,
                _ => false,
            };
            if ended {
                return;
            }
        }
    });
    Ok((response, (Pipe::new(outgoing, incoming), binding)))
}
