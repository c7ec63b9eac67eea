//! A client of a node's HTTP interface.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_codec::Framed;
use awc::BoxedSocket;
use awc::error::WsClientError;
use awc::error::{ConnectError, PayloadError, SendRequestError};
use awc::ws::{Codec, Frame, Message};
use bytes::Bytes;
use futures_util::{SinkExt as _, Stream, StreamExt as _};
use serde::de::DeserializeOwned;
use serde_json::Value;
use standin_auth::messages::MemberOrder;
use standin_console::actions::{Ask, Order};
use standin_console::actor::unix_ms;
use standin_foundation::limits::HTTP_BODY_BYTES_MAX;
use standin_foundation::{ClusterId, Digest, Encoder, Height, NodeId, PublicKey, SecretKey};
use standin_ledger::{
    Approved, Clients, EpochProof, EpochTable, Genesis, GrantTable, Membership, SignedGrant, Title, Transaction,
    TransactionId,
};
use standin_publisher::machine::terminal::Position;
use standin_publisher::terminal::{MESSAGE_BYTES_MAX, SUBPROTOCOL, ToTerminal};
use standin_publisher::{Fence, Sequence, Topic, WhichFrame};

use crate::api::{
    AnswerView, BlockView, CandidateView, ClusterView, DoneView, ErrorView, FrameView, HeldView, HoldingView,
    OfferedView, PreviewView, Reading, SourceView, StatusView, Submitted, TitleView, TopicView, TopicsView,
    TransactionView, WhichBlock, authorization,
};
use crate::https;
use crate::publication::Begin;

/// Connections that one client may have open.
const CONNECTIONS_MAX: usize = 4_096;
/// The longest that a backup may take on its way.
const BACKUP_TIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// A node that serves a terminal is heard every few seconds: without a word for so long it is gone.
const SILENT_MAX: Duration = Duration::from_secs(15);
/// A signed order holds for so long, in ms: clocks may differ by less than that.
const SIGNED_MS: u64 = 120_000;

/// Why a call came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The node cannot be reached, or did not answer in time.
    #[error("cannot reach {url}: {what}")]
    Unreachable {
        /// What was called.
        url: String,
        /// Why.
        what: String,
    },
    /// The node has too much to do, or is stopping.
    #[error("{0}")]
    Busy(String),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// The node began with a snapshot, and does not have the blocks before.
    #[error("{what}")]
    Gone {
        /// What the node says.
        what: String,
        /// The first block that it has.
        first: Height,
    },
    /// A terminal is ahead of the node.
    #[error("{0}")]
    Ahead(String),
    /// The node refuses the request.
    #[error("{0}")]
    Refused(String),
    /// As the node stands, it cannot be done there: it takes nothing now, or it is not what the request takes it for.
    #[error("{0}")]
    Conflict(String),
    /// The node does not take this from whoever asks.
    #[error("{0}")]
    NotAllowed(String),
    /// The answer cannot be read.
    #[error("the answer of {url} cannot be read: {what}")]
    BadAnswer {
        /// What was called.
        url: String,
        /// Why.
        what: String,
    },
}

/// Calls one node. It belongs to the thread that made it, as Actix's client does.
#[derive(Clone)]
pub struct Client {
    base: String,
    http: awc::Client,
    timeout: Duration,
    reader: Option<Reader>,
}

/// As whom a client reads.
#[derive(Clone)]
struct Reader {
    key: Rc<SecretKey>,
    /// Chain and node, once they are known.
    place: Rc<OnceCell<(Digest, NodeId)>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.base)
    }
}

impl Client {
    /// A client of the node at `base`, such as `http://127.0.0.1:8001`, or `https://…` where a proxy stands in front of it: its certificate is
    /// checked against the authorities that the system trusts, or that `SSL_CERT_FILE` names.
    pub fn new(base: &str, timeout: Duration) -> Self {
        // Requests that wait for outcomes hold a connection each; others must not queue behind them.
        let mut connector = awc::Connector::new().limit(CONNECTIONS_MAX);
        if base.starts_with("https:")
            && let Ok(tls) = https::config()
        {
            connector = connector.rustls_0_23(Arc::new(tls));
        }
        let http = awc::Client::builder().connector(connector).timeout(timeout).disable_redirects().finish();
        Self { base: base.trim_end_matches('/').to_owned(), http, timeout, reader: None }
    }

    /// The same client, which signs its reads: where the chain admits listed clients only, they need the role `read`.
    #[must_use]
    pub fn reading_as(mut self, key: SecretKey) -> Self {
        self.reader = Some(Reader { key: Rc::new(key), place: Rc::default() });
        self
    }

    /// The node's address.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Where the node stands.
    pub async fn status(&self) -> Result<StatusView, ClientError> {
        self.get("/api/v1/status").await
    }

    /// The node's cluster.
    pub async fn cluster(&self) -> Result<ClusterView, ClientError> {
        self.get("/api/v1/cluster").await
    }

    /// What streams of the node's console hold: `events`, `logs`, `audit`. `link` is the token of a link that was made for this: it is used up, and
    /// the login ends again.
    pub async fn console_streams(
        &self,
        link: &str,
        topics: &[&str],
    ) -> Result<serde_json::Map<String, Value>, ClientError> {
        let url = format!("{}/console/login", self.base);
        let request = self.http.post(&url).insert_header(("origin", self.base.as_str()));
        let response = request.send_json(&serde_json::json!({ "token": link })).await;
        let set = response.as_ref().ok().and_then(|response| response.headers().get("set-cookie")?.to_str().ok());
        let cookie = set.and_then(|set| set.split(';').next()).unwrap_or_default().to_owned();
        let _: Value = self.answer(&url, response).await?;
        let with = |request: awc::ClientRequest| {
            request.insert_header(("origin", self.base.as_str())).insert_header(("cookie", cookie.as_str()))
        };
        let mut streams = serde_json::Map::new();
        let mut failed = None;
        for topic in topics {
            let url = format!("{}/api/v1/console/{topic}", self.base);
            match self.answer::<Value, _>(&url, with(self.http.get(&url)).send().await).await {
                Ok(stream) => _ = streams.insert((*topic).to_owned(), stream),
                Err(error) => failed = Some(error),
            }
        }
        // It would end by itself.
        drop(with(self.http.post(format!("{}/console/logout", self.base))).send().await);
        failed.map_or(Ok(streams), Err)
    }

    /// Who held a cluster's seat at a block; at the newest without one. The answer is not checked.
    pub async fn held(&self, cluster: &ClusterId, at: Option<Height>) -> Result<HeldView, ClientError> {
        let at = at.map(|height| format!("?at={height}")).unwrap_or_default();
        self.get(&format!("/api/v1/clusters/{cluster}/holder{at}")).await
    }

    /// Who belongs to which cluster, as far as the node knows.
    pub async fn memberships(&self) -> Result<Vec<Membership>, ClientError> {
        self.get("/api/v1/members").await
    }

    /// A node that waits for its place in the chain.
    pub async fn candidate(&self) -> Result<CandidateView, ClientError> {
        self.get("/api/v1/candidate").await
    }

    /// Who holds the seats in the newest epoch whose proof the node has, checked from the genesis on.
    pub async fn epoch_table(&self) -> Result<EpochTable, ClientError> {
        let genesis = self.genesis().await?;
        Ok(self.grant_table(&genesis).await?.newest_table().clone())
    }

    /// The grants that the node knows. They are not checked.
    pub async fn grants(&self) -> Result<Vec<SignedGrant>, ClientError> {
        self.get("/api/v1/grants").await
    }

    /// The proofs of the epochs that the node knows, by rising number. They are not checked.
    pub async fn epochs(&self) -> Result<Vec<EpochProof>, ClientError> {
        self.get("/api/v1/epochs").await
    }

    /// Who may speak for which seat: the genesis, and the epochs and grants that the node knows and that hold.
    pub async fn grant_table(&self, genesis: &Genesis) -> Result<GrantTable, ClientError> {
        let mut table = genesis.grant_table();
        let grants = if genesis.auth.is_some() { self.grants().await? } else { Vec::new() };
        // What does not hold is left out: a vote that would need it is then of an unknown term.
        let take_in = |table: &mut GrantTable| grants.iter().for_each(|grant| drop(table.note(grant.clone())));
        take_in(&mut table);
        for proof in self.epochs().await? {
            if let Ok(begun) = proof.verify(&table) {
                table.begin(begun);
                take_in(&mut table);
            }
        }
        Ok(table)
    }

    /// The clients that the chain lists.
    pub async fn chain_clients(&self) -> Result<Clients, ClientError> {
        self.get("/api/v1/clients").await
    }

    /// Has an auth node carry out an order of operators; gives the members that came of it.
    pub async fn order(&self, order: &Approved<MemberOrder>) -> Result<Membership, ClientError> {
        let url = format!("{}/api/v1/auth/order", self.base);
        let response = self.http.post(&url).send_json(order).await;
        self.answer(&url, response).await
    }

    /// The clusters, as an auth node's register knows them.
    pub async fn auth(&self) -> Result<Vec<standin_auth::actor::ClusterView>, ClientError> {
        self.get("/api/v1/auth").await
    }

    /// What can be done at the node.
    pub async fn actions(&self) -> Result<OfferedView, ClientError> {
        self.get("/api/v1/actions").await
    }

    /// What an action would do now.
    pub async fn preview(&self, action: &str, order: &Order) -> Result<PreviewView, ClientError> {
        let url = format!("{}/api/v1/actions/{action}/preview", self.base);
        let response = self.http.post(&url).timeout(self.timeout).send_json(order).await;
        self.answer(&url, response).await
    }

    /// Has the node carry out an action, by an operator's key; says what was done.
    pub async fn act(&self, action: &str, ask: Ask, key: &SecretKey) -> Result<String, ClientError> {
        let OfferedView { place, .. } = self.actions().await?;
        let ask = ask.sign(key, &place, action, unix_ms() + SIGNED_MS);
        let url = format!("{}/api/v1/actions/{action}", self.base);
        let response = self.http.post(&url).timeout(self.timeout).send_json(&ask).await;
        let DoneView { done } = self.answer(&url, response).await?;
        Ok(done)
    }

    /// The chain's genesis.
    pub async fn genesis(&self) -> Result<Genesis, ClientError> {
        self.get("/api/v1/genesis").await
    }

    /// A block; none for the newest.
    pub async fn block(&self, which: WhichBlock) -> Result<BlockView, ClientError> {
        self.get(&format!("/api/v1/blocks/{which}")).await
    }

    /// Blocks from a height on, as far as there are; [`ClientError::Gone`] if the node does not have the first of them.
    pub async fn blocks(&self, from: Height, limit: u64) -> Result<Vec<BlockView>, ClientError> {
        self.get(&format!("/api/v1/blocks?from={from}&limit={limit}")).await
    }

    /// A transaction with its proofs.
    pub async fn transaction(&self, id: &TransactionId) -> Result<TransactionView, ClientError> {
        self.get(&format!("/api/v1/transactions/{id}")).await
    }

    /// All transactions of a title in a block, with the proof that there are no others.
    pub async fn title(&self, height: Height, title: Title) -> Result<TitleView, ClientError> {
        let title = percent_encoded(title.as_str());
        self.get(&format!("/api/v1/blocks/{height}/titles/{title}")).await
    }

    /// A question about the state; `query` is the part behind the question mark, encoded.
    pub async fn query(&self, query: &str) -> Result<AnswerView, ClientError> {
        self.get(&format!("/api/v1/query?{query}")).await
    }

    /// Whether the node is ready, with its reasons.
    pub async fn ready(&self) -> Result<(bool, String), ClientError> {
        let url = format!("{}/readyz", self.base);
        let mut response = self.fetch(&url, None).await.map_err(|error| unreachable(&url, error))?;
        let body = response.body().limit(HTTP_BODY_BYTES_MAX).await.map_err(|error| unreachable(&url, error))?;
        Ok((response.status().is_success(), String::from_utf8_lossy(&body).into_owned()))
    }

    /// A backup of the node's chain, as it comes. It is not checked.
    pub async fn backup(&self) -> Result<impl Stream<Item = Result<Bytes, PayloadError>> + Unpin + use<>, ClientError> {
        let path = "/api/v1/backup";
        let (authorization, url) = (self.authorization(path).await?, format!("{}{path}", self.base));
        let response = self.fetch(&url, authorization.as_deref()).await.map_err(|error| unreachable(&url, error))?;
        if response.status().is_success() {
            // However long it takes: whoever reads it sees it go on.
            return Ok(response.timeout(BACKUP_TIME_MAX));
        }
        Err(match self.answer::<serde::de::IgnoredAny, _>(&url, Ok(response)).await {
            Err(error) => error,
            Ok(_) => ClientError::BadAnswer { url, what: "it is neither a backup nor an error".to_owned() },
        })
    }

    /// Submits transactions, and waits so long for their outcomes.
    pub async fn submit(&self, transactions: &[Transaction], wait: Duration) -> Result<Vec<Submitted>, ClientError> {
        let mut out = Encoder::default();
        out.length(transactions.len());
        for transaction in transactions {
            out.bytes(transaction.bytes());
        }
        let url = format!("{}/api/v1/transactions?wait_ms={}", self.base, wait.as_millis());
        let request = self.http.post(&url).timeout(self.timeout + wait).content_type("application/octet-stream");
        let response = request.send_body(out.into_bytes()).await;
        self.answer(&url, response).await
    }

    /// The topics, as the node knows them.
    pub async fn topics(&self) -> Result<TopicsView, ClientError> {
        self.get("/api/v1/topics").await
    }

    /// A topic, as the node knows it.
    pub async fn topic(&self, topic: Topic) -> Result<TopicView, ClientError> {
        self.get(&format!("/api/v1/topics/{topic}")).await
    }

    /// How far a source has come at a topic.
    pub async fn source(&self, topic: Topic, key: &PublicKey) -> Result<SourceView, ClientError> {
        self.get(&format!("/api/v1/topics/{topic}/sources/{key}")).await
    }

    /// Who published a topic under which fences: the newest holdings, or the one of a datum.
    pub async fn holdings(&self, topic: Topic, of: Option<Sequence>) -> Result<Vec<HoldingView>, ClientError> {
        let of = of.map(|sequence| format!("?sequence={sequence}")).unwrap_or_default();
        self.get(&format!("/api/v1/topics/{topic}/holdings{of}")).await
    }

    /// Who published a topic before this fence, the newest first: a hundred holdings at the most.
    pub async fn holdings_before(&self, topic: Topic, fence: Fence) -> Result<Vec<HoldingView>, ClientError> {
        self.get(&format!("/api/v1/topics/{topic}/holdings?before={fence}")).await
    }

    /// A frame that the node keeps of a topic. Its data are those of its hash, and of the one that is asked for. Which frame has a number is the node's own word:
    /// the block in which it entered the queue has its hash.
    pub async fn frame(&self, topic: Topic, which: WhichFrame) -> Result<FrameView, ClientError> {
        let path = format!("/api/v1/topics/{topic}/frames/{which}");
        let frame: FrameView = self.get(&path).await?;
        let is_asked = match which {
            WhichFrame::Of(sequence) => sequence >= frame.first && sequence.0 - frame.first.0 < u64::from(frame.count),
            WhichFrame::Hash(hash) => frame.content == hash,
        };
        if is_asked && frame.is_sound() {
            return Ok(frame);
        }
        let what = "the frame is not the one that was asked for, or its data are not those of its hash".to_owned();
        Err(ClientError::BadAnswer { url: format!("{}{path}", self.base), what })
    }

    /// Follows a topic at the node: behind a position, or from where a terminal begins.
    /// A terminal that follows other nodes, too, is served `late` with what another server publishes.
    pub async fn follow(
        &self,
        topic: Topic,
        (begin, position): (Begin, Option<Position>),
        late: bool,
    ) -> Result<Following, ClientError> {
        let place = match (position, begin) {
            (Some(position), _) | (None, Begin::Behind(position)) => {
                let Position { fence, last, chain, .. } = position;
                format!("last={last}&chain={chain}&fence={fence}&")
            }
            (None, Begin::At(from)) => format!("from={from}&"),
            (None, Begin::Now) => String::new(),
        };
        let path = format!("/api/v1/topics/{topic}/follow?{place}late={late}");
        let (authorization, url) = (self.authorization(&path).await?, format!("{}{path}", self.base));
        let mut request = self.http.ws(&url).protocols([SUBPROTOCOL]).max_frame_size(MESSAGE_BYTES_MAX);
        if let Some(authorization) = authorization {
            request = request.set_header("authorization", authorization);
        }
        let connected = tokio::time::timeout(self.timeout, request.connect()).await;
        match connected {
            Ok(Ok((_, socket))) => Ok(Following { socket }),
            // The answer says no more than a number: the same asked without a websocket tells why.
            Ok(Err(WsClientError::InvalidResponseStatus(status))) => {
                match self.get::<serde::de::IgnoredAny>(&path).await {
                    Err(error) => Err(error),
                    Ok(_) => Err(ClientError::Refused(format!("{url} answered {status}"))),
                }
            }
            Ok(Err(error)) => Err(unreachable(&url, error)),
            Err(_) => Err(unreachable(&url, "no answer in time")),
        }
    }

    /// The text of any of the node's pages, such as `/metrics`, with its status.
    pub async fn text(&self, path: &str) -> Result<(u16, String), ClientError> {
        let url = format!("{}{path}", self.base);
        let mut response = self.fetch(&url, None).await.map_err(|error| unreachable(&url, error))?;
        let body = response.body().limit(64 * HTTP_BODY_BYTES_MAX).await.map_err(|error| unreachable(&url, error))?;
        Ok((response.status().as_u16(), String::from_utf8_lossy(&body).into_owned()))
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let authorization = self.authorization(path).await?;
        let url = format!("{}{path}", self.base);
        let response = self.fetch(&url, authorization.as_deref()).await;
        self.answer(&url, response).await
    }

    /// The signature under a read. What tells of chain and node is read without one.
    async fn authorization(&self, path: &str) -> Result<Option<String>, ClientError> {
        let Some(Reader { key, place }) = &self.reader else { return Ok(None) };
        if place.get().is_none() {
            let unsigned = Self { reader: None, ..self.clone() };
            let (genesis, status) = (Box::pin(unsigned.genesis()).await?, Box::pin(unsigned.status()).await?);
            // Another call may have been faster, with the same.
            let _ = place.set((genesis.digest(), status.node));
        }
        let reading = Reading { method: "GET", target: path, body: &[] };
        Ok(place.get().map(|(chain, node)| authorization(key, chain, node, reading)))
    }

    async fn fetch(
        &self,
        url: &str,
        authorization: Option<&str>,
    ) -> Result<awc::ClientResponse<impl Stream<Item = Result<Bytes, PayloadError>> + Unpin + use<>>, SendRequestError>
    {
        let request = || {
            let request = self.http.get(url);
            authorization.into_iter().fold(request, |request, value| request.insert_header(("authorization", value)))
        };
        let response = request().send().await;
        // The server may close a connection that it took for idle at the moment at which it is used again. To ask a second time
        // changes nothing (RFC 9112, 9.3.1), and by then the pool knows of the end of all that were closed with it.
        match response {
            Err(SendRequestError::Connect(ConnectError::Disconnected)) => request().send().await,
            response => response,
        }
    }

    async fn answer<T: DeserializeOwned, S>(
        &self,
        url: &str,
        response: Result<awc::ClientResponse<S>, SendRequestError>,
    ) -> Result<T, ClientError>
    where
        S: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
    {
        let mut response = response.map_err(|error| unreachable(url, error))?.timeout(self.timeout);
        let body = response.body().limit(64 * HTTP_BODY_BYTES_MAX).await.map_err(|error| unreachable(url, error))?;
        let status = response.status();
        if status.is_success() {
            let bad =
                |error: serde_json::Error| ClientError::BadAnswer { url: url.to_owned(), what: error.to_string() };
            return serde_json::from_slice(&body).map_err(bad);
        }
        let view = serde_json::from_slice::<ErrorView>(&body);
        let ErrorView { mut error, first, hint } = view.unwrap_or_else(|_| format!("{url} answered {status}").into());
        if let Some(hint) = hint.filter(|hint| !hint.is_empty()) {
            error = format!("{error}: {hint}");
        }
        Err(match (status.as_u16(), first) {
            (404, _) => ClientError::NotFound(error),
            (410, Some(first)) => ClientError::Gone { what: error, first },
            (401 | 403, _) => ClientError::NotAllowed(error),
            (409, _) => ClientError::Conflict(error),
            (416, _) => ClientError::Ahead(error),
            (429 | 502..=504, _) => ClientError::Busy(error),
            _ => ClientError::Refused(error),
        })
    }
}

/// A topic that is followed at a node.
pub struct Following {
    socket: Framed<BoxedSocket, Codec>,
}

impl std::fmt::Debug for Following {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Following")
    }
}

/// What a node says to a terminal.
#[derive(Debug)]
pub struct Said(pub ToTerminal);

impl Following {
    /// What the node says next; none when the connection has ended, says what cannot be read, or nothing for too long.
    pub async fn hear(&mut self) -> Option<Said> {
        loop {
            match tokio::time::timeout(SILENT_MAX, self.socket.next()).await.ok()??.ok()? {
                Frame::Binary(bytes) => return ToTerminal::from_bytes(&bytes).ok().map(Said),
                Frame::Ping(bytes) => self.socket.send(Message::Pong(bytes)).await.ok()?,
                Frame::Close(_) => return None,
                _ => {}
            }
        }
    }

    /// Tells the node what the terminal has; false when the connection has ended.
    pub async fn say(&mut self, last: Sequence) -> bool {
        self.socket.send(Message::Text(last.to_string().into())).await.is_ok()
    }
}

fn unreachable(url: &str, error: impl std::fmt::Display) -> ClientError {
    let what = error.to_string();
    ClientError::Unreachable { url: url.to_owned(), what: format!("{what}{}", https::hint(&what)) }
}

/// Text as it may stand in a path or a query.
pub fn percent_encoded(text: &str) -> String {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|byte| if safe(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn read_request(stream: &mut TcpStream) {
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            read.extend(byte);
        }
    }

    /// A server that closes a connection at the moment at which it is used again, as after a pause.
    #[actix::test]
    async fn a_connection_that_ends_when_it_is_used_again_is_no_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = Client::new(&format!("http://{}", listener.local_addr().unwrap()), Duration::from_secs(5));
        let server = std::thread::spawn(move || {
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]";
            let (mut first, _) = listener.accept().unwrap();
            read_request(&mut first);
            first.write_all(answer).unwrap();
            read_request(&mut first);
            drop(first);
            let (mut second, _) = listener.accept().unwrap();
            read_request(&mut second);
            second.write_all(answer).unwrap();
        });
        assert_eq!(client.grants().await, Ok(vec![]));
        assert_eq!(client.grants().await, Ok(vec![]));
        server.join().unwrap();
    }
}
