//! What can be done, over HTTP: what there is, what it would do, and doing it.

use std::sync::PoisonError;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};
use serde::Serialize;
use serde_json::json;
use standin_foundation::Digest;

use super::{Console, foreign_page, is_own_page, not_logged_in, unrecorded};
use crate::actions::{About, Ask, Order, Place, SIGNED_MS_MAX};
use crate::actor::unix_ms;
use crate::audit::Act;
use crate::machine::{Asked, Begin, Outcome};
use crate::protocol::{Refusal, Role, UserView};

/// Bytes of an order.
pub(super) const ORDER_BYTES_MAX: usize = 16 * 1024;

/// What can be done at a node.
#[derive(Debug, Serialize)]
struct Offered {
    /// What an order is signed for.
    #[serde(flatten)]
    place: Place,
    /// The node carries actions out.
    enabled: bool,
    /// All of them.
    actions: Vec<About>,
}

pub(super) async fn offered(console: web::Data<Console>) -> HttpResponse {
    let (enabled, actions) = (console.rules.enabled, console.actions.about());
    HttpResponse::Ok().json(Offered { place: Place::clone(&console.place), enabled, actions })
}

pub(super) async fn preview(
    console: web::Data<Console>,
    action: web::Path<String>,
    order: web::Json<Order>,
) -> HttpResponse {
    let Some(action) = console.actions.find(&action) else { return refused(&unknown(&action)) };
    match action.preview(&order).await {
        Ok(preview) => HttpResponse::Ok().json(json!({
            "effect": preview.effect,
            "confirm": preview.confirm,
            "seen": preview.seen(),
        })),
        Err(refusal) => refused(&refusal),
    }
}

pub(super) async fn act(
    console: web::Data<Console>,
    action: web::Path<String>,
    request: HttpRequest,
    ask: web::Json<Ask>,
) -> HttpResponse {
    let (action, ask) = (action.into_inner(), ask.into_inner());
    let user = match (&ask.signed, console.login_of(&request)) {
        (Some(_), _) => match console.operator(&ask, &action) {
            Ok(user) => user,
            Err(refusal) => return refused(&refusal),
        },
        (None, _) if !is_own_page(&request) => return foreign_page(),
        (None, Some(login)) => login.user,
        (None, None) => return not_logged_in(),
    };
    let (name, id) = (user.name.clone(), ask.id.clone());
    let ordered = Ordered { console: console.get_ref().clone(), user, action, ask };
    // Carried out to its end, also if whoever ordered it goes.
    match actix_web::rt::spawn(ordered.run()).await {
        Ok(response) => response,
        Err(error) => {
            tracing::error!(%error, "an action did not end");
            // It may have done anything: the same order must not do it again.
            let fallen = Refusal::new(
                "fallen",
                "the action did not end: see the node's log",
                "look what it has done, and order anew",
            );
            let mut guard = console.guard.lock().unwrap_or_else(PoisonError::into_inner);
            guard.finish(&name, &id, Err(fallen));
            HttpResponse::InternalServerError().json(json!({ "error": "the action did not end: see the node's log" }))
        }
    }
}

impl Console {
    /// Who signed an order: one of those whose keys the node's configuration lists.
    fn operator(&self, ask: &Ask, action: &str) -> Result<UserView, Refusal> {
        let refused = |code, msg: &str, hint: &str| Err(Refusal::new(code, msg, hint));
        let Some(signed) = &ask.signed else { return refused("not_signed", "the order is not signed", "") };
        if !self.rules.operators.contains(&signed.key) {
            let hint = "`console.operators` in the node's configuration lists them";
            return refused("not_an_operator", "the key is no operator's of this node", hint);
        }
        let now = unix_ms();
        if signed.expires_unix_ms <= now || signed.expires_unix_ms > now + SIGNED_MS_MAX {
            let what = "the signature has expired, or holds for longer than five minutes";
            return refused("expired", what, "sign it again, and compare the clocks");
        }
        if !ask.is_signed(&self.place, action) {
            let hint = "it is made for one order at one node of one chain";
            return refused("bad_signature", "the signature is not the key's for this order", hint);
        }
        Ok(UserView { name: format!("key {}", signed.key), role: Role::Admin })
    }
}

fn unknown(action: &str) -> Refusal {
    Refusal::new(
        "unknown_action",
        format!("there is no action `{action}` at this node"),
        "GET /api/v1/actions lists them",
    )
}

/// Bytes of what is ordered, and of an argument.
const TEXT_BYTES_MAX: usize = 256;

/// Refuses what the action does not know, and what would not fit into a line of the audit log.
fn known_arguments(about: &About, order: &Order) -> Result<(), Refusal> {
    let is_known = |name: &String| about.arguments.iter().any(|argument| argument.name == name);
    if let Some(name) = order.args.keys().find(|name| !is_known(name)) {
        return Err(Refusal::new("malformed", format!("`{}` knows no argument `{name}`", about.name), ""));
    }
    match order.args.values().chain([&order.on]).all(|text| text.len() <= TEXT_BYTES_MAX) {
        true => Ok(()),
        false => Err(Refusal::new("malformed", format!("a text is longer than {TEXT_BYTES_MAX} bytes"), "")),
    }
}

/// What came of an order that was new.
enum Carried {
    /// It was begun, and this came of it.
    Out(Outcome),
    /// Nothing was done: it may come again.
    Not(Refusal),
    /// It could not be written down, and so nothing was done.
    Unrecorded(crate::audit::AuditError),
}

/// An order of somebody who is known.
struct Ordered {
    console: Console,
    user: UserView,
    action: String,
    ask: Ask,
}

impl Ordered {
    async fn run(self) -> HttpResponse {
        let Some(action) = self.console.actions.find(&self.action) else { return refused(&unknown(&self.action)) };
        // A signature that is made again is the same order.
        let content = Digest::sha256(&self.ask.content(&self.console.place, &self.action, 0));
        let (user, id, reason) = (self.user.name.as_str(), self.ask.id.as_str(), self.ask.reason.as_str());
        let what = (self.action.as_str(), self.ask.order.on.as_str());
        let asked = Asked { user, role: self.user.role, id, what, content, reason };
        let enabled = self.console.rules.enabled;
        let begin = self.guard(|guard| guard.begin(enabled, action.about().role, asked));
        let outcome = match begin {
            Begin::Again(outcome) => return answer(&outcome),
            Begin::Refused(refusal) => {
                self.record_refusal(&refusal);
                return refused(&refusal);
            }
            Begin::New => self.carry_out(&*action).await,
        };
        match outcome {
            Carried::Out(outcome) => {
                self.guard(|guard| guard.finish(user, id, outcome.clone()));
                answer(&outcome)
            }
            Carried::Not(refusal) => {
                self.guard(|guard| guard.forget(user, id));
                self.record_refusal(&refusal);
                refused(&refusal)
            }
            Carried::Unrecorded(error) => {
                self.guard(|guard| guard.forget(user, id));
                unrecorded(&error)
            }
        }
    }

    /// Whoever may not is told of, too: as many as are worth a sync. That it cannot be written down makes it no more allowed.
    fn record_refusal(&self, refusal: &Refusal) {
        if let Some(suppressed) = self.console.refusals.pass() {
            let more = if suppressed > 0 {
                format!(" ({suppressed} refusals before it are not written down)")
            } else {
                String::new()
            };
            drop(self.record(&format!("{}{more}", refusal_text(refusal))));
        }
    }

    async fn carry_out(&self, action: &dyn crate::actions::Action) -> Carried {
        let (named, name) = (&self.ask.node, &self.console.name);
        if !named.is_empty() && named != name {
            let what = format!("this is {name}, and the order is for `{named}`");
            return Carried::Not(Refusal::new("other_node", what, "order it there"));
        }
        if let Err(refusal) = known_arguments(&action.about(), &self.ask.order) {
            return Carried::Not(refusal);
        }
        let preview = match action.preview(&self.ask.order).await {
            Ok(preview) => preview,
            Err(refusal) => return Carried::Not(refusal),
        };
        if !self.ask.seen.is_empty() && self.ask.seen != preview.seen() {
            let what = "something has changed since the effect was shown";
            return Carried::Not(Refusal::new("changed", what, "look at the effect again"));
        }
        if self.ask.signed.is_none() && self.ask.confirm.trim() != preview.confirm {
            let what = format!("`{}` was typed for a confirmation", self.ask.confirm);
            return Carried::Not(Refusal::new("not_confirmed", what, format!("type `{}`", preview.confirm)));
        }
        if let Err(error) = self.record("begun") {
            return Carried::Unrecorded(error);
        }
        let outcome = action.carry_out(&self.ask.order).await;
        let said = match &outcome {
            Ok(done) => format!("done: {done}"),
            Err(refusal) => refusal_text(refusal),
        };
        tracing::info!(user = self.user.name, action = self.action, on = self.ask.order.on, said, "an operator acted");
        // It is done: that its end cannot be written down must not hide that.
        if let Err(error) = self.record(&said) {
            tracing::error!(%error, "the end of an action is not in the audit log");
        }
        Carried::Out(outcome)
    }

    fn guard<T>(&self, judge: impl FnOnce(&mut crate::machine::Guard) -> T) -> T {
        judge(&mut self.console.guard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn record(&self, outcome: &str) -> Result<(), crate::audit::AuditError> {
        // As JSON: no value reads as another argument. They are few and short, and so whole.
        let args = serde_json::to_string(&self.ask.order.args).unwrap_or_default();
        let args = if self.ask.order.args.is_empty() { String::new() } else { args };
        let on = format!("{} {args}", self.ask.order.on);
        self.console.write_down(Act {
            at_ms: unix_ms(),
            user: self.user.name.clone(),
            role: Some(self.user.role),
            action: self.action.clone(),
            on: on.trim().to_owned(),
            reason: self.ask.reason.clone(),
            outcome: outcome.to_owned(),
        })
    }
}

fn refusal_text(refusal: &Refusal) -> String {
    format!("refused by {}: {}", refusal.code, refusal.msg)
}

fn answer(outcome: &Outcome) -> HttpResponse {
    match outcome {
        Ok(done) => HttpResponse::Ok().json(json!({ "done": done })),
        Err(refusal) => refused(refusal),
    }
}

fn refused(refusal: &Refusal) -> HttpResponse {
    let status = match refusal.code {
        "unknown_action" | "unknown" | "other_node" => StatusCode::NOT_FOUND,
        "role_too_low" | "actions_off" | "not_an_operator" | "bad_signature" | "expired" => StatusCode::FORBIDDEN,
        "no_id" | "no_reason" | "malformed" => StatusCode::BAD_REQUEST,
        "unavailable" => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::CONFLICT,
    };
    let view = json!({ "error": refusal.msg, "code": refusal.code, "hint": refusal.hint });
    HttpResponseBuilder::new(status).json(view)
}
