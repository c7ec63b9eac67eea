//! Reads of the state: of the ledger's own records and accounts, and of the node's state machine.

use std::sync::Arc;
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use serde::Deserialize;
use standin_consensus::actor::Ledger;
use standin_foundation::limits::QUERY_BYTES_MAX;
use standin_foundation::{Height, PublicKey};
use standin_ledger::builtin::Question;
use standin_ledger::{Reject, StateMachine, Title};

use super::reading::{self, MayRead};
use super::views::{AnswerView, MachineAnswerView};
use super::{HttpFault, bad, read, respond, unavailable};
use crate::node::NodeHandle;

/// A read that is to see a block waits so long for it: less than clients wait for an answer.
const REACHED_WITHIN: Duration = Duration::from_secs(5);

/// What is asked for.
#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    title: Option<String>,
    key: Option<String>,
    account: Option<String>,
}

/// How fresh an answer has to be.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Fresh {
    /// The node has executed this block at least: what a transaction has changed is seen by whoever gives the height that it was answered with.
    at_least: Option<u64>,
}

impl Fresh {
    /// Waits until the node is so far.
    async fn reached(self, node: &web::Data<NodeHandle>) -> Result<(), HttpResponse> {
        let Some(wanted) = self.at_least.map(Height) else { return Ok(()) };
        let mut executed = node.executed.clone();
        // What was executed before the start is in the store alone.
        let at = read(node, |ledger| Ok(ledger.chain.height())).await.map_err(|fault| respond::<()>(Err(fault)))?;
        if at >= wanted {
            return Ok(());
        }
        match tokio::time::timeout(REACHED_WITHIN, executed.wait_for(|height| *height >= wanted)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(unavailable("the node stops".to_owned())),
            Err(_) => {
                let at = (*node.executed.borrow()).max(at);
                Err(unavailable(format!(
                    "this node has come to block {at}, and not to {wanted}: ask again, or another one"
                )))
            }
        }
    }
}

pub(super) async fn query(
    _: MayRead,
    node: web::Data<NodeHandle>,
    query: web::Query<Wanted>,
    fresh: web::Query<Fresh>,
) -> HttpResponse {
    let question = match question_of(&query) {
        Ok(question) => question,
        Err(error) => return bad(error),
    };
    if let Err(answer) = fresh.reached(&node).await {
        return answer;
    }
    let answer = move |ledger: &Ledger| {
        let key = question.state_key();
        let state = ledger.chain.state();
        Ok(AnswerView {
            height: ledger.chain.height(),
            value: state.get(&key).map(hex::encode),
            root: state.root(),
            proof: state.prove(&key),
        })
    };
    respond(read(&node, answer).await)
}

/// Asks the node's own state machine: the body is the question, as the state machine reads it.
pub(super) async fn ask(
    node: web::Data<NodeHandle>,
    request: HttpRequest,
    fresh: web::Query<Fresh>,
    question: Bytes,
) -> HttpResponse {
    if let Err(refused) = reading::may_read(&request, &node, &question) {
        return *refused;
    }
    if question.len() > QUERY_BYTES_MAX {
        return bad(format!("the question has {} bytes, at most {QUERY_BYTES_MAX} are allowed", question.len()));
    }
    if let Err(answer) = fresh.reached(&node).await {
        return answer;
    }
    let machine = Arc::clone(&node.state_machine);
    let answer = move |ledger: &Ledger| {
        // What panics there is the machine's own code, and the question that of a stranger.
        let ask = std::panic::AssertUnwindSafe(|| machine.query(ledger.chain.state(), &question));
        let answer = std::panic::catch_unwind(ask).unwrap_or_else(|_| Err(Reject::new("the state machine panicked")));
        let answer = answer.map_err(|Reject(why)| HttpFault::Refused(why))?;
        Ok(MachineAnswerView { height: ledger.chain.height(), answer: hex::encode(answer) })
    };
    respond(read(&node, answer).await)
}

fn question_of(query: &Wanted) -> Result<Question, String> {
    match (&query.title, &query.key, &query.account) {
        (Some(title), Some(key), None) if key.len() <= QUERY_BYTES_MAX => {
            let title: Title = title.parse().map_err(|error| format!("title: {error}"))?;
            Ok(Question::Record { title, key: key.clone().into_bytes() })
        }
        (None, None, Some(account)) => {
            let account: PublicKey = account.parse().map_err(|error| format!("account: {error}"))?;
            Ok(Question::Balance { account })
        }
        _ => Err("either `title` and `key`, or `account` is needed".to_owned()),
    }
}
