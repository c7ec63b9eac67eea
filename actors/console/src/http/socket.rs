//! The websocket: carries out what its [`Session`] decides.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use actix_web::{HttpRequest, HttpResponse, web};
use actix_ws::{AggregatedMessage, AggregatedMessageStream, CloseReason, Closed, ProtocolError};
use standin_foundation::Millis;
use tokio::time::MissedTickBehavior;

use super::{Console, Seated, foreign_page, is_own_page, not_logged_in};
use crate::actor::{Read, Reading, unix_ms};
use crate::login::Login;
use crate::machine::{Close, Effect, HEARTBEAT_MS, Session, Want};
use crate::protocol::{FRAME_MS, INBOUND_BYTES_MAX, SUBPROTOCOL, ServerMessage, VERSION};

/// The actor answers within this time, or is asked again.
const READ_TIME: Duration = Duration::from_secs(1);
/// A closing frame that has not left after this time never will.
const CLOSE_TIME: Duration = Duration::from_secs(1);
/// A login that has ended elsewhere, by another tab or by whoever took its file away, is noticed within this time.
const LOGIN_CHECKED_EVERY: Duration = Duration::from_secs(2);

pub(super) async fn open(
    console: web::Data<Console>,
    request: HttpRequest,
    body: web::Payload,
) -> Result<HttpResponse, actix_web::Error> {
    if !is_own_page(&request) {
        return Ok(foreign_page());
    }
    let Some(login) = console.login_of(&request) else { return Ok(not_logged_in()) };
    let seated = console.seat(&login.user.name);
    let (response, socket, stream) = actix_ws::handle_with_protocols(&request, body, &[SUBPROTOCOL])?;
    let Some(seated) = seated else {
        // A page sees why a websocket is closed, and not why it is not opened.
        actix_web::rt::spawn(close(socket, Close::Full));
        return Ok(response);
    };
    let stream = stream.max_frame_size(INBOUND_BYTES_MAX).aggregate_continuations();
    let stream = stream.max_continuation_size(INBOUND_BYTES_MAX);
    let served = Served {
        console: console.get_ref().clone(),
        secret: console.secret_of(&request).unwrap_or_default(),
        login,
        socket,
        began: Instant::now(),
        outbox: VecDeque::new(),
        sending: None,
        _seated: seated,
    };
    actix_web::rt::spawn(served.run(stream));
    Ok(response)
}

async fn close(socket: actix_ws::Session, why: Close) {
    let reason = CloseReason { code: why.code().into(), description: Some(why.reason().to_owned()) };
    // What does not leave ends with the connection.
    drop(tokio::time::timeout(CLOSE_TIME, socket.close(Some(reason))).await);
}

enum Outgoing {
    Text(String),
    Ping,
}

type Sending = Pin<Box<dyn Future<Output = Result<(), Closed>>>>;

/// A websocket that is open.
struct Served {
    console: Console,
    login: Login,
    /// What the login is known by.
    secret: String,
    socket: actix_ws::Session,
    began: Instant,
    /// Bounded by the session: it says nothing more while something has not left, but for answers, which are few.
    outbox: VecDeque<Outgoing>,
    sending: Option<Sending>,
    _seated: Seated,
}

impl Served {
    fn now(&self) -> Millis {
        Millis(self.began.elapsed().as_millis() as u64)
    }

    async fn read(&self, wants: Vec<Want>) -> Option<Reading> {
        // An actor that does not answer is asked again.
        self.console.actor.ask(Read(wants), READ_TIME).await.ok()
    }

    async fn run(mut self, mut stream: AggregatedMessageStream) {
        let closed = self.serve(&mut stream).await;
        drop(self.sending.take());
        if let Some(why) = closed {
            close(self.socket, why).await;
        }
    }

    /// Serves until the websocket is to be closed, and how; none if it is closed already.
    async fn serve(&mut self, stream: &mut AggregatedMessageStream) -> Option<Close> {
        let Some(reading) = self.read(Vec::new()).await else { return Some(Close::Restart) };
        let expires = self.now() + self.login.expires_unix_ms.saturating_sub(unix_ms());
        let mut session = Session::new(reading.epoch.clone(), expires, self.now());
        let hello = ServerMessage::Hello {
            proto: VERSION,
            node: self.console.name.clone(),
            id: self.console.node.to_string(),
            version: env!("CARGO_PKG_VERSION"),
            epoch: reading.epoch.clone(),
            now_ms: unix_ms(),
            hb_ms: HEARTBEAT_MS,
            user: self.login.user.clone(),
            topics: reading.topics,
        };
        let mut effects = vec![Effect::Send(hello)];
        let mut stopping = self.console.stopping.subscribe();
        let mut logins = tokio::time::interval(LOGIN_CHECKED_EVERY);
        logins.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticks = tokio::time::interval(Duration::from_millis(FRAME_MS / 2));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            for effect in std::mem::take(&mut effects) {
                match effect {
                    Effect::Send(message) => {
                        let Ok(text) = serde_json::to_string(&message) else { continue };
                        session.leaves(self.now());
                        self.outbox.push_back(Outgoing::Text(text));
                    }
                    Effect::Ping => {
                        session.leaves(self.now());
                        self.outbox.push_back(Outgoing::Ping);
                    }
                    Effect::Close(close) => return Some(close),
                }
            }
            self.send_next();
            tokio::select! {
                biased;
                _ = stopping.wait_for(|stopping| *stopping) => return Some(Close::Restart),
                sent = left(&mut self.sending) => {
                    self.sending = None;
                    if sent.is_err() {
                        return None;
                    }
                    session.sent(self.now());
                }
                message = stream.recv() => match message {
                    Some(Ok(AggregatedMessage::Text(text))) => effects = session.received(self.now(), &text),
                    Some(Ok(AggregatedMessage::Binary(_))) => effects = session.received(self.now(), ""),
                    Some(Ok(AggregatedMessage::Ping(_) | AggregatedMessage::Pong(_))) => session.heard(self.now()),
                    Some(Err(ProtocolError::Overflow)) => return Some(Close::TooLarge),
                    Some(Ok(AggregatedMessage::Close(_)) | Err(_)) | None => return None,
                },
                _ = logins.tick() => {
                    if self.console.logins.is_over(&self.secret, unix_ms()) {
                        return Some(Close::LogIn);
                    }
                }
                _ = ticks.tick() => {
                    effects = session.tick(self.now());
                    let wants = session.wants(self.now());
                    if !wants.is_empty()
                        && let Some(now) = self.read(wants).await
                    {
                        if now.epoch != reading.epoch {
                            return Some(Close::Restart);
                        }
                        effects.extend(session.read(unix_ms(), now.parts));
                    }
                }
            }
        }
    }

    fn send_next(&mut self) {
        if self.sending.is_some() {
            return;
        }
        let Some(next) = self.outbox.pop_front() else { return };
        let mut socket = self.socket.clone();
        self.sending = Some(Box::pin(async move {
            match next {
                Outgoing::Text(text) => socket.text(text).await,
                Outgoing::Ping => socket.ping(b"").await,
            }
        }));
    }
}

async fn left(sending: &mut Option<Sending>) -> Result<(), Closed> {
    match sending {
        Some(sending) => sending.await,
        None => std::future::pending().await,
    }
}
