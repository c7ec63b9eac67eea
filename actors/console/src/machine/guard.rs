//! What stands before every action: that it was asked for rightly, and once.

use std::collections::{BTreeMap, VecDeque};

use standin_foundation::Digest;

use crate::protocol::{Refusal, Role};

/// Orders that are remembered, so that none is carried out twice.
const REMEMBERED_MAX: usize = 1_000;
/// Bytes of an order's id and of its reason.
const ID_BYTES_MAX: usize = 64;
const REASON_BYTES_MAX: usize = 512;

/// What came of an order.
pub type Outcome = Result<String, Refusal>;

/// Somebody's order, as far as the guard judges it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Who orders.
    pub user: &'a str,
    /// As what.
    pub role: Role,
    /// The order's id.
    pub id: &'a str,
    /// What is to be done, and on what: one order about it is carried out at a time.
    pub what: (&'a str, &'a str),
    /// Hash of all that it says.
    pub content: Digest,
    /// Why.
    pub reason: &'a str,
}

/// Whether an order is to be carried out.
#[derive(Debug, PartialEq, Eq)]
pub enum Begin {
    /// It is.
    New,
    /// It was, and this came of it.
    Again(Outcome),
    /// It is not.
    Refused(Refusal),
}

/// The guard. Remembers the last orders.
#[derive(Debug, Default)]
pub struct Guard {
    /// By user and id.
    orders: BTreeMap<(String, String), Remembered>,
    /// Their keys, the oldest first.
    oldest: VecDeque<(String, String)>,
}

#[derive(Debug)]
struct Remembered {
    /// Hash of what was ordered.
    content: Digest,
    what: (String, String),
    /// What came of it; none while it is carried out.
    outcome: Option<Outcome>,
}

impl Guard {
    /// Judges an order to do something that needs `role`, where actions are `enabled`. One that is new is remembered, until
    /// [`Guard::finish`] without an end.
    pub fn begin(&mut self, enabled: bool, role: Role, asked: Asked<'_>) -> Begin {
        let refused = |code, msg: String, hint: &str| Begin::Refused(Refusal::new(code, msg, hint));
        if !enabled {
            let what = "this node carries out no actions";
            return refused("actions_off", what.to_owned(), "set `console.actions = true` in its configuration");
        }
        if asked.role < role {
            let what = format!("{} may not order this: it needs {}, and the login is {}", asked.user, role, asked.role);
            return refused("role_too_low", what, "make a link with another role: `standin console-token --role`");
        }
        if asked.id.is_empty() || asked.id.len() > ID_BYTES_MAX {
            let what = format!("the order's id has {} bytes: 1 to {ID_BYTES_MAX} are needed", asked.id.len());
            return refused("no_id", what, "the id makes that an order which comes twice is carried out once");
        }
        if asked.reason.trim().is_empty() || asked.reason.len() > REASON_BYTES_MAX {
            let what =
                format!("the reason has {} bytes: 1 to {REASON_BYTES_MAX} are needed", asked.reason.trim().len());
            return refused("no_reason", what, "it stands in the audit log");
        }
        let key = (asked.user.to_owned(), asked.id.to_owned());
        match self.orders.get(&key) {
            Some(known) if known.content != asked.content => {
                return refused("id_used", "another order had this id".to_owned(), "give each order an id of its own");
            }
            Some(Remembered { outcome: Some(outcome), .. }) => return Begin::Again(outcome.clone()),
            Some(Remembered { outcome: None, .. }) => {
                let what = "the order is being carried out".to_owned();
                return refused("in_progress", what, "ask again with the same id");
            }
            None => {}
        }
        // Both have seen the same, and the second would be done to what the first leaves.
        let is_same = |known: &Remembered| (known.what.0.as_str(), known.what.1.as_str()) == asked.what;
        let busy = self.orders.iter().find(|(_, known)| known.outcome.is_none() && is_same(known));
        if let Some(((user, _), _)) = busy {
            return refused("in_progress", format!("{user} is doing this now"), "look at the effect again after it");
        }
        self.remember(key, &asked);
        Begin::New
    }

    fn remember(&mut self, key: (String, String), asked: &Asked<'_>) {
        // One that is being carried out is never forgotten; there are as many as there are connections.
        while self.oldest.len() >= REMEMBERED_MAX {
            let Some(place) =
                self.oldest.iter().position(|key| self.orders.get(key).is_none_or(|known| known.outcome.is_some()))
            else {
                break;
            };
            if let Some(old) = self.oldest.remove(place) {
                self.orders.remove(&old);
            }
        }
        self.oldest.push_back(key.clone());
        let what = (asked.what.0.to_owned(), asked.what.1.to_owned());
        self.orders.insert(key, Remembered { content: asked.content, what, outcome: None });
    }

    /// Nothing was done of an order that was new: it may come again.
    pub fn forget(&mut self, user: &str, id: &str) {
        let key = (user.to_owned(), id.to_owned());
        self.orders.remove(&key);
        self.oldest.retain(|known| *known != key);
    }

    /// What came of an order that was new.
    pub fn finish(&mut self, user: &str, id: &str, outcome: Outcome) {
        if let Some(known) = self.orders.get_mut(&(user.to_owned(), id.to_owned())) {
            known.outcome = Some(outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(id: &str) -> Asked<'_> {
        let content = Digest::sha256(id.as_bytes());
        Asked { user: "ops", role: Role::Operator, id, what: ("switch", id), content, reason: "patching" }
    }

    fn code(begin: Begin) -> &'static str {
        match begin {
            Begin::Refused(refusal) => refusal.code,
            Begin::New => "new",
            Begin::Again(_) => "again",
        }
    }

    #[test]
    fn nothing_is_done_without_a_role_a_reason_and_leave() {
        let (mut guard, long_id, long) = (Guard::default(), "x".repeat(65), "x".repeat(513));
        let mut begin = |enabled, role, asked| code(guard.begin(enabled, role, asked));
        assert_eq!(begin(false, Role::Viewer, asked("1")), "actions_off");
        assert_eq!(begin(true, Role::Admin, asked("1")), "role_too_low");
        assert_eq!(begin(true, Role::Operator, asked("")), "no_id");
        assert_eq!(begin(true, Role::Operator, asked(&long_id)), "no_id");
        assert_eq!(begin(true, Role::Operator, Asked { reason: " ", ..asked("1") }), "no_reason");
        assert_eq!(begin(true, Role::Operator, Asked { reason: &long, ..asked("1") }), "no_reason");
        assert_eq!(begin(true, Role::Operator, asked("1")), "new");
        assert_eq!(begin(true, Role::Operator, Asked { role: Role::Admin, user: "chief", ..asked("2") }), "new");
    }

    #[test]
    fn an_order_that_comes_twice_is_carried_out_once() {
        let mut guard = Guard::default();
        let begin = |guard: &mut Guard, asked| guard.begin(true, Role::Operator, asked);
        assert_eq!(begin(&mut guard, asked("1")), Begin::New);
        assert_eq!(code(begin(&mut guard, asked("1"))), "in_progress", "two browsers, one button");
        guard.finish("ops", "1", Ok("done".to_owned()));
        assert_eq!(begin(&mut guard, asked("1")), Begin::Again(Ok("done".to_owned())));
        let other = Asked { content: Digest::ZERO, ..asked("1") };
        assert_eq!(code(begin(&mut guard, other)), "id_used");
        assert_eq!(begin(&mut guard, Asked { user: "another", ..asked("1") }), Begin::New, "ids are a user's own");
        guard.forget("another", "1");
        assert_eq!(begin(&mut guard, Asked { user: "another", ..other }), Begin::New, "of which nothing was done");
    }

    #[test]
    fn of_two_operators_at_once_one_is_let_in() {
        let mut guard = Guard::default();
        let order = |user, id, what| Asked { user, what, ..asked(id) };
        let mut begin = |asked| code(guard.begin(true, Role::Operator, asked));
        assert_eq!(begin(order("ada", "1", ("switch", "a"))), "new");
        assert_eq!(begin(order("bob", "7", ("switch", "a"))), "in_progress");
        assert_eq!(begin(order("bob", "8", ("switch", "b"))), "new");
        assert_eq!(begin(order("bob", "9", ("drain", "a"))), "new");
        guard.finish("ada", "1", Ok("done".to_owned()));
        assert_eq!(code(guard.begin(true, Role::Operator, order("bob", "7", ("switch", "a")))), "new");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_is_under_way_is_not_forgotten() {
        let mut guard = Guard::default();
        let ids: Vec<_> = (0..REMEMBERED_MAX + 10).map(|id| id.to_string()).collect();
        assert_eq!(guard.begin(true, Role::Operator, asked("slow")), Begin::New);
        for id in &ids {
            assert_eq!(guard.begin(true, Role::Operator, asked(id)), Begin::New);
            guard.finish("ops", id, Ok(String::new()));
        }
        assert_eq!((guard.orders.len(), guard.oldest.len()), (REMEMBERED_MAX, REMEMBERED_MAX));
        assert_eq!(code(guard.begin(true, Role::Operator, asked("slow"))), "in_progress");
    }
}
