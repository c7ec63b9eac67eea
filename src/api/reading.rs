//! Reads of what is in the chain, where a role is needed for them: the request says who asks, by a signature.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::http::header;
use actix_web::{FromRequest, HttpRequest, HttpResponse, web};
use standin_console::actor::unix_ms;
use standin_foundation::{Digest, Domain, Encoder, NodeId, PublicKey, SecretKey, Signature};

use super::ErrorView;
use crate::node::NodeHandle;

/// What the header's value begins with.
const SCHEME: &str = "Standin";
/// What the signed path begins with.
const ROOT: &str = "/api/v1";
/// A signed request holds for so long, in ms; clocks may differ by less than that.
const SIGNED_MS: u64 = 60_000;

/// What is read: method, path and query, and the body, which is empty but for a question.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    /// `GET` or `POST`.
    pub method: &'a str,
    /// Path and query, from `/api/v1` on.
    pub target: &'a str,
    /// The body.
    pub body: &'a [u8],
}

impl Reading<'_> {
    fn content(&self, chain: &Digest, node: &NodeId, expires_unix_ms: u64) -> Vec<u8> {
        let mut out = Encoder::default();
        out.digest(chain).raw(node.as_bytes()).bytes(self.method.as_bytes()).bytes(self.target.as_bytes());
        out.digest(&Digest::sha256(self.body)).u64(expires_unix_ms);
        out.into_bytes()
    }
}

/// The value of the `Authorization` header with which a client reads at a node.
pub fn authorization(key: &SecretKey, chain: &Digest, node: &NodeId, reading: Reading<'_>) -> String {
    let expires = unix_ms() + SIGNED_MS;
    let signature = key.sign(Domain::Read, &reading.content(chain, node, expires));
    format!("{SCHEME} {} {expires} {signature}", key.public())
}

/// Who asks, if the request says so.
fn asker(request: &HttpRequest, node: &NodeHandle, body: &[u8]) -> Result<Option<PublicKey>, String> {
    let Some(header) = request.headers().get(header::AUTHORIZATION) else { return Ok(None) };
    let Some(fields) = header.to_str().ok().and_then(|value| value.strip_prefix(SCHEME)) else { return Ok(None) };
    let fields: Vec<_> = fields.split_whitespace().collect();
    let [key, expires, signature] = fields.as_slice() else {
        return Err(format!("authorization: expected `{SCHEME} KEY EXPIRES_UNIX_MS SIGNATURE`"));
    };
    let key: PublicKey = key.parse().map_err(|error| format!("authorization: {error}"))?;
    let expires: u64 = expires.parse().map_err(|error| format!("authorization: expiry: {error}"))?;
    let signature: Signature = signature.parse().map_err(|error| format!("authorization: {error}"))?;
    let now = unix_ms();
    if expires < now || expires > now + 2 * SIGNED_MS {
        return Err(format!(
            "authorization: it has expired, or the clocks differ by more than {} s",
            SIGNED_MS / 1_000
        ));
    }
    let whole = request.uri().path_and_query().map_or_else(|| request.path().to_owned(), ToString::to_string);
    // A proxy, or the program that the node is part of, may have put something before it.
    let target = whole.find(ROOT).and_then(|at| whole.get(at..)).unwrap_or(&whole);
    let reading = Reading { method: request.method().as_str(), target, body };
    match key.verify(Domain::Read, &reading.content(&node.genesis.digest(), &node.node, expires), &signature) {
        true => Ok(Some(key)),
        false => Err("authorization: the signature is not this request's, at this node".to_owned()),
    }
}

/// Whoever asks may read what is in the chain: everybody may, or the chain lists it for that, or a user is logged in at the console.
#[derive(Debug)]
pub(super) struct MayRead(Asker);

/// As whom somebody may read.
#[derive(Debug, Clone, Copy)]
enum Asker {
    /// A user of the console.
    LoggedIn,
    /// Whoever signed the request, if it is signed.
    Key(Option<PublicKey>),
}

impl MayRead {
    /// Whether the chain still says so. A login is asked about when a request comes.
    pub(super) fn still_may(&self, node: &NodeHandle) -> bool {
        match &self.0 {
            Asker::LoggedIn => true,
            Asker::Key(key) => node.access.reads(key.as_ref()).is_ok(),
        }
    }
}

impl FromRequest for MayRead {
    type Error = actix_web::Error;
    type Future = Ready<Result<Self, Self::Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let Some(node) = request.app_data::<web::Data<NodeHandle>>() else {
            return ready(Err(actix_web::error::ErrorInternalServerError("no node is configured here")));
        };
        ready(may_read(request, node, &[]).map_err(|refused| {
            actix_web::error::InternalError::from_response("the role `read` is needed", *refused).into()
        }))
    }
}

/// As [`MayRead`], for a request with a body.
pub(super) fn may_read(request: &HttpRequest, node: &NodeHandle, body: &[u8]) -> Result<MayRead, Box<HttpResponse>> {
    if node.console.is_logged_in(request) {
        return Ok(MayRead(Asker::LoggedIn));
    }
    let allowed = asker(request, node, body).and_then(|asker| {
        let allowed = node.access.reads(asker.as_ref()).map(|()| MayRead(Asker::Key(asker)));
        allowed.map_err(|denied| format!("{denied}; a request that says who asks is signed (`--as`)"))
    });
    allowed.map_err(|why| Box::new(HttpResponse::Forbidden().json(ErrorView::from(why))))
}
