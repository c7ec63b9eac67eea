//! What can be done at a node: by its page, by `/api/v1/actions`, and by commands.
//!
//! An [`Action`] shows its effect before it is carried out, or names the rule that refuses it. Whoever orders it is somebody who is logged in,
//! with a role, or has an operator's key ([`Signed`]); gives a reason; and, at the page, types what is asked for. The same order is carried out once.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use standin_foundation::{Digest, Domain, Encoder, NodeId, PublicKey, SecretKey, Signature};

use crate::protocol::{Refusal, Role};

/// An order that is signed holds for at most so long, in ms.
pub const SIGNED_MS_MAX: u64 = 5 * 60 * 1_000;

/// What an action is called, and who may order it.
#[derive(Debug, Clone, Serialize)]
pub struct About {
    /// Its name, which is also the command's.
    pub name: &'static str,
    /// Who may order it.
    pub role: Role,
    /// What it does, in a sentence.
    pub what: &'static str,
    /// What it is done to: `node`, `cluster`, `actor`.
    pub on: &'static str,
    /// What it needs besides.
    pub arguments: &'static [Argument],
}

/// Something that an action needs to know.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Argument {
    /// Its name.
    pub name: &'static str,
    /// What it says.
    pub what: &'static str,
    /// Whether the action needs it.
    pub needed: bool,
    /// What it can be.
    #[serde(flatten)]
    pub kind: Kind,
}

/// What an argument can be.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(tag = "kind", content = "one_of", rename_all = "snake_case")]
pub enum Kind {
    /// Any text.
    Text,
    /// The id of a member of the node's cluster.
    Member,
    /// One of these.
    OneOf(&'static [&'static str]),
}

/// What is to be done, to what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// To what: a name, as the page shows it.
    #[serde(default)]
    pub on: String,
    /// What the action needs besides.
    #[serde(default)]
    pub args: BTreeMap<String, String>,
}

impl Order {
    /// An argument; none where it is missing or empty.
    pub fn arg(&self, name: &str) -> Option<&str> {
        self.args.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }
}

/// What an action will do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preview {
    /// Its effect, in sentences. What changes from second to second has no place here: see [`Preview::seen`].
    pub effect: Vec<String>,
    /// What is to be typed for a confirmation.
    pub confirm: String,
}

impl Preview {
    /// Names what was shown: an order that gives it is refused if the same action would do something else by then.
    pub fn seen(&self) -> String {
        let mut out = Encoder::default();
        self.effect.iter().for_each(|line| _ = out.bytes(line.as_bytes()));
        Digest::sha256(&out.into_bytes()).to_string().chars().take(16).collect()
    }
}

/// The future of an answer, or of the rule that refuses.
pub type Answer<T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send>>;

/// Something that can be done at a node.
pub trait Action: Send + Sync {
    /// What it is called.
    fn about(&self) -> About;

    /// What it would do now.
    fn preview(&self, order: &Order) -> Answer<Preview>;

    /// Does it; says in a sentence what was done. What may have changed since the preview is looked at again.
    fn carry_out(&self, order: &Order) -> Answer<String>;
}

/// All actions of a node. Cheap to clone.
#[derive(Clone, Default)]
pub struct Actions(Arc<RwLock<Vec<Arc<dyn Action>>>>);

impl Actions {
    /// Adds one, behind those that are there.
    pub fn add(&self, action: impl Action + 'static) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).push(Arc::new(action));
    }

    /// Takes all of them away: they hold what they act on.
    pub fn clear(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// What can be done, by the order in which it was added.
    pub fn about(&self) -> Vec<About> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).iter().map(|action| action.about()).collect()
    }

    /// The action with this name.
    pub fn find(&self, name: &str) -> Option<Arc<dyn Action>> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().find(|action| action.about().name == name).cloned()
    }
}

impl std::fmt::Debug for Actions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.about().iter().map(|about| about.name)).finish()
    }
}

/// An order, as it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// Names the order: one that comes again is not carried out again.
    pub id: String,
    /// The name of the node that is to do it; empty: whichever is asked. Whoever signs should name it: another node refuses it then, also
    /// one in wrong hands that answers in its name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// What it is done to.
    pub order: Order,
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// What was typed for a confirmation.
    #[serde(default)]
    pub confirm: String,
    /// What was shown ([`Preview::seen`]); empty if nothing was.
    #[serde(default)]
    pub seen: String,
    /// An operator's signature, in the place of a login and of what is typed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<Signed>,
}

/// Where an order is to be carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The node.
    pub node: NodeId,
    /// The chain, by the hash of its genesis.
    pub chain: Digest,
    /// The life of the process: it remembers what it has carried out, and the next one knows nothing of it.
    pub life: u64,
}

/// An operator's signature over an order to one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// The operator's key.
    pub key: PublicKey,
    /// The order holds until then, in ms since 1970: at most [`SIGNED_MS_MAX`] from now.
    pub expires_unix_ms: u64,
    /// The signature.
    pub signature: Signature,
}

impl Ask {
    /// Signs it for this life of this node of this chain.
    pub fn sign(mut self, key: &SecretKey, place: &Place, action: &str, expires_unix_ms: u64) -> Self {
        let signature = key.sign(Domain::Action, &self.content(place, action, expires_unix_ms));
        self.signed = Some(Signed { key: key.public(), expires_unix_ms, signature });
        self
    }

    /// Whether the key in it has signed it, for this life of this node of this chain.
    pub fn is_signed(&self, place: &Place, action: &str) -> bool {
        self.signed.as_ref().is_some_and(|signed| {
            let content = self.content(place, action, signed.expires_unix_ms);
            signed.key.verify(Domain::Action, &content, &signed.signature)
        })
    }

    /// What is signed, and what makes two orders the same.
    pub(crate) fn content(&self, place: &Place, action: &str, expires_unix_ms: u64) -> Vec<u8> {
        let mut out = Encoder::default();
        out.digest(&place.chain).raw(place.node.as_bytes()).u64(place.life);
        out.bytes(self.node.as_bytes()).bytes(action.as_bytes()).bytes(self.id.as_bytes());
        out.bytes(self.order.on.as_bytes()).bytes(self.reason.as_bytes()).u64(expires_unix_ms);
        out.u64(self.order.args.len() as u64);
        self.order.args.iter().for_each(|(name, value)| _ = out.bytes(name.as_bytes()).bytes(value.as_bytes()));
        out.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask() -> Ask {
        let order = Order { on: "a".into(), args: [("to".to_owned(), "b".to_owned())].into() };
        let (id, reason) = ("1".to_owned(), "patching".to_owned());
        Ask { id, node: "n".into(), order, reason, confirm: String::new(), seen: String::new(), signed: None }
    }

    #[test]
    fn a_signature_is_for_one_order_at_one_life_of_one_node_of_one_chain() {
        let key = SecretKey::generate().unwrap();
        let place = Place { node: key.public().node_id(), chain: Digest::sha256(b"chain"), life: 1 };
        let signed = ask().sign(&key, &place, "switch", 5);
        assert!(signed.is_signed(&place, "switch"));
        assert!(!ask().is_signed(&place, "switch"), "nobody has");
        assert!(!signed.is_signed(&place, "drain"));
        let another = SecretKey::generate().unwrap().public().node_id();
        let others = [
            Place { chain: Digest::sha256(b"other"), ..place.clone() },
            Place { node: another, ..place.clone() },
            Place { life: 2, ..place.clone() },
        ];
        assert!(others.iter().all(|other| !signed.is_signed(other, "switch")));
        let changes: [fn(&mut Ask); 6] = [
            |ask| ask.id = "2".into(),
            |ask| ask.node.clear(),
            |ask| ask.order.on = "b".into(),
            |ask| drop(ask.order.args.insert("to".into(), "c".into())),
            |ask| ask.reason = "for fun".into(),
            |ask| ask.signed.as_mut().unwrap().expires_unix_ms += 1,
        ];
        for change in changes {
            let mut changed = signed.clone();
            change(&mut changed);
            assert!(!changed.is_signed(&place, "switch"), "{changed:?}");
        }
    }

    #[test]
    fn what_was_shown_has_a_name_of_its_own() {
        let preview = |effect: &[&str]| Preview {
            effect: effect.iter().map(|line| (*line).to_owned()).collect(),
            confirm: "a".to_owned(),
        };
        assert_eq!(preview(&["one", "two"]).seen(), preview(&["one", "two"]).seen());
        assert_ne!(preview(&["one", "two"]).seen(), preview(&["one", "three"]).seen());
        assert_ne!(preview(&["one", "two"]).seen(), preview(&["onetwo"]).seen());
    }
}
