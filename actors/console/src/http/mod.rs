//! The console over HTTP: the page, logging in, and the websocket.

mod actions;
mod events;
mod page;
mod socket;
mod streams;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use actix_web::cookie::{Cookie, SameSite};
use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, ResponseError, web};
use serde::{Deserialize, Serialize};
use standin_foundation::{Digest, NodeId, PublicKey};
use standin_stage::{Address, Throttle};
use tokio::sync::watch;

use crate::actions::{Actions, Place};
use crate::actor::{ConsoleActor, Logged, Recorded, unix_ms};
use crate::audit::{Act, Audit, AuditError};
use crate::login::{LOGIN_TIME, Login, LoginError, Logins};
use crate::machine::Guard;
use crate::protocol::UserView;

/// Websockets at one time, and of one user.
const SOCKETS_MAX: usize = 64;
const SOCKETS_OF_USER_MAX: usize = 16;
/// Refusals a second that are written down; the others are counted. What is carried out is always written down.
const REFUSALS_RECORDED: u32 = 5;
/// Bytes of a login.
const LOGIN_BYTES_MAX: usize = 4 * 1024;

/// Who may act at a node, besides those who are logged in.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The node carries actions out at all.
    pub enabled: bool,
    /// Whoever has one of these keys may order anything.
    pub operators: BTreeSet<PublicKey>,
    /// The chain, by the hash of its genesis: an order is signed for one.
    pub chain: Digest,
}

/// What the routes of a node's console share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Console {
    node: NodeId,
    name: String,
    actor: Address<ConsoleActor>,
    logins: Arc<Logins>,
    audit: Arc<Audit>,
    rules: Arc<Rules>,
    place: Arc<Place>,
    refusals: Arc<Throttle>,
    actions: Actions,
    guard: Arc<Mutex<Guard>>,
    sockets: Arc<Mutex<BTreeMap<String, usize>>>,
    stopping: Arc<watch::Sender<bool>>,
}

impl Console {
    /// The console of the node with this id and name.
    pub fn new(
        (node, name): (NodeId, String),
        actor: Address<ConsoleActor>,
        logins: Logins,
        audit: Audit,
        rules: Rules,
    ) -> Self {
        let (logins, audit, stopping) = (Arc::new(logins), Arc::new(audit), Arc::new(watch::Sender::new(false)));
        let place = Arc::new(Place { node, chain: rules.chain, life: fastrand::u64(1..) });
        let refusals = Arc::new(Throttle::new(Duration::from_secs(1), REFUSALS_RECORDED));
        let (rules, actions, guard, sockets) = (Arc::new(rules), Actions::default(), Arc::default(), Arc::default());
        Self { node, name, actor, logins, audit, rules, place, refusals, actions, guard, sockets, stopping }
    }

    /// What can be done at the node: whoever embeds it may add to it.
    pub fn actions(&self) -> &Actions {
        &self.actions
    }

    /// Websockets that are open.
    pub fn sessions(&self) -> usize {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }

    /// Shows lines of the node's log: objects with `at_ms`, `level`, `target` and `text`. False where they cannot be taken now.
    pub fn log(&self, lines: Vec<serde_json::Value>) -> bool {
        self.actor.tell(Logged(lines)).is_ok()
    }

    /// Closes all websockets: the node stops.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Adds the page and its websocket, below `/console`, to an Actix application.
    pub fn page_routes(self) -> impl FnOnce(&mut web::ServiceConfig) {
        move |config| {
            let page = web::scope("/console")
                .app_data(json_of(LOGIN_BYTES_MAX))
                .route("/ws", web::get().to(socket::open))
                .route("/login", web::post().to(log_in))
                .route("/logout", web::post().to(log_out))
                .route("/me", web::get().to(me))
                .route("/{file:.*}", web::get().to(page::file));
            config.app_data(web::Data::new(self)).route("/console", web::get().to(page::redirect)).service(page);
        }
    }

    /// Adds the stream of events and the actions, below `/api/v1`, to an Actix application.
    pub fn api_routes(self) -> impl FnOnce(&mut web::ServiceConfig) {
        move |config| {
            let with_order = |path: &str| web::resource(path).app_data(json_of(actions::ORDER_BYTES_MAX));
            config
                .app_data(web::Data::new(self))
                .route("/api/v1/events", web::get().to(events::events))
                .route("/api/v1/console/{topic}", web::get().to(streams::stream))
                .route("/api/v1/actions", web::get().to(actions::offered))
                .service(with_order("/api/v1/actions/{action}/preview").route(web::post().to(actions::preview)))
                .service(with_order("/api/v1/actions/{action}").route(web::post().to(actions::act)));
        }
    }

    /// Cookies do not know ports: several nodes of one host must not take each other's.
    fn cookie_name(&self) -> String {
        format!("standin-console-{}", self.node.short())
    }

    fn secret_of(&self, request: &HttpRequest) -> Option<String> {
        request.cookie(&self.cookie_name()).map(|cookie| cookie.value().to_owned())
    }

    /// Becomes true when the node stops: whoever is streamed to is let go.
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// Whether a user of the page makes this request.
    pub fn is_logged_in(&self, request: &HttpRequest) -> bool {
        self.login_of(request).is_some()
    }

    fn login_of(&self, request: &HttpRequest) -> Option<Login> {
        self.logins.find(&self.secret_of(request)?, unix_ms())
    }

    /// Records what somebody did to their own login. Nothing is done that cannot be recorded.
    fn record(&self, login: &Login, action: &str) -> Result<(), AuditError> {
        let UserView { name: user, role } = login.user.clone();
        let (action, outcome) = (action.to_owned(), "done".to_owned());
        let (on, reason) = (String::new(), String::new());
        self.write_down(Act { at_ms: unix_ms(), user, role: Some(role), action, on, reason, outcome })
    }

    /// Tells of what was carried out at the node by another way than an action: `user` did it, by an order of which the node has seen the proof.
    pub fn record_order(&self, user: String, action: &str, on: String) {
        let (action, outcome, reason) = (action.to_owned(), "done".to_owned(), String::new());
        // It is done: that it cannot be written down must not hide that.
        if let Err(error) = self.write_down(Act { at_ms: unix_ms(), user, role: None, action, on, reason, outcome }) {
            tracing::error!(%error, "an order that was carried out is not in the audit log");
        }
    }

    /// Somebody has come with a link that opens nothing: as many are told of as are worth a sync.
    fn record_failure(&self, error: &LoginError) {
        if let Some(suppressed) = self.refusals.pass() {
            tracing::warn!(%error, suppressed, "a login at the console failed");
            let (action, outcome) = ("log in".to_owned(), format!("refused: {error}"));
            let (user, on, reason) = Default::default();
            drop(self.write_down(Act { at_ms: unix_ms(), user, role: None, action, on, reason, outcome }));
        }
    }

    fn write_down(&self, act: Act) -> Result<(), AuditError> {
        self.audit.record(act.clone())?;
        // It is in the file: a page that does not show it at once is told when it opens again.
        drop(self.actor.tell(Recorded(act)));
        Ok(())
    }

    /// A place for one more websocket of this user.
    fn seat(&self, user: &str) -> Option<Seated> {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let of_user = sockets.get(user).copied().unwrap_or_default();
        if sockets.values().sum::<usize>() >= SOCKETS_MAX || of_user >= SOCKETS_OF_USER_MAX {
            return None;
        }
        sockets.insert(user.to_owned(), of_user + 1);
        Some(Seated { sockets: Arc::clone(&self.sockets), user: user.to_owned() })
    }
}

/// Counts a websocket for as long as it is open.
struct Seated {
    sockets: Arc<Mutex<BTreeMap<String, usize>>>,
    user: String,
}

impl Drop for Seated {
    fn drop(&mut self) {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        match sockets.get_mut(&self.user) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(sockets.remove(&self.user)),
        }
    }
}

#[derive(Debug, Serialize)]
struct ErrorView {
    error: String,
}

fn refused(mut response: actix_web::HttpResponseBuilder, error: impl Into<String>) -> HttpResponse {
    response.json(ErrorView { error: error.into() })
}

/// JSON up to a size; what cannot be read is answered as all errors are.
fn json_of(bytes: usize) -> web::JsonConfig {
    web::JsonConfig::default().limit(bytes).error_handler(|error, _| {
        let response = match error.error_response().status() {
            StatusCode::PAYLOAD_TOO_LARGE => HttpResponse::PayloadTooLarge(),
            _ => HttpResponse::BadRequest(),
        };
        let response = refused(response, format!("the body cannot be read: {error}"));
        actix_web::error::InternalError::from_response(error, response).into()
    })
}

/// A browser says which page it acts for: any other page's acts are refused.
fn is_own_page(request: &HttpRequest) -> bool {
    let said = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let origin = said(header::ORIGIN).and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
    origin.is_some() && origin == said(header::HOST)
}

/// Whether the page was opened over TLS, as behind a proxy: its cookie is for that alone.
fn is_over_tls(request: &HttpRequest) -> bool {
    let origin = request.headers().get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
    origin.is_some_and(|origin| origin.starts_with("https://"))
}

fn foreign_page() -> HttpResponse {
    refused(HttpResponse::Forbidden(), "this page is not the node's own: open the console at the node's own address")
}

fn unrecorded(error: &AuditError) -> HttpResponse {
    tracing::error!(%error, "nothing is done that cannot be recorded");
    refused(HttpResponse::ServiceUnavailable(), format!("nothing is done that cannot be recorded: {error}"))
}

#[derive(Debug, Deserialize)]
struct Token {
    token: String,
}

async fn log_in(console: web::Data<Console>, request: HttpRequest, token: web::Json<Token>) -> HttpResponse {
    if !is_own_page(&request) {
        return foreign_page();
    }
    let opened = console.logins.log_in(&token.token, Instant::now(), unix_ms());
    match opened {
        Ok((secret, login)) => {
            if let Err(error) = console.record(&login, "log in") {
                console.logins.log_out(&secret);
                return unrecorded(&error);
            }
            tracing::info!(user = login.user.name, role = ?login.user.role, "logged in at the console");
            let cookie = Cookie::build(console.cookie_name(), secret)
                .path("/")
                .http_only(true)
                .same_site(SameSite::Strict)
                .secure(is_over_tls(&request))
                .max_age(actix_web::cookie::time::Duration::seconds(LOGIN_TIME.as_secs() as i64))
                .finish();
            HttpResponse::Ok().cookie(cookie).json(login.user)
        }
        Err(error) => {
            console.record_failure(&error);
            match error {
                LoginError::TooMany => refused(HttpResponse::TooManyRequests(), error.to_string()),
                _ => refused(HttpResponse::Unauthorized(), error.to_string()),
            }
        }
    }
}

async fn log_out(console: web::Data<Console>, request: HttpRequest) -> HttpResponse {
    if !is_own_page(&request) {
        return foreign_page();
    }
    if let Some((secret, login)) = console.secret_of(&request).zip(console.login_of(&request)) {
        if let Err(error) = console.record(&login, "log out") {
            return unrecorded(&error);
        }
        console.logins.log_out(&secret);
    }
    let mut cookie = Cookie::build(console.cookie_name(), "").path("/").finish();
    cookie.make_removal();
    HttpResponse::NoContent().cookie(cookie).finish()
}

/// Who is logged in.
async fn me(console: web::Data<Console>, request: HttpRequest) -> HttpResponse {
    match console.login_of(&request) {
        Some(login) => HttpResponse::Ok().json(login.user),
        None => not_logged_in(),
    }
}

fn not_logged_in() -> HttpResponse {
    refused(HttpResponse::Unauthorized(), "nobody is logged in: make a link with `standin console-token`")
}
