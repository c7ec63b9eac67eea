//! What operators order: who belongs to a cluster.

use standin_ledger::grant::MEMBERS_MAX;

use super::*;
use crate::messages::{Action, MemberOrder};

impl Auth {
    /// The record after an order that enough operators have approved.
    pub fn order(&self, record: &Record, order: &MemberOrder) -> Result<Record, Refusal> {
        if (order.listed, order.version) != (record.listed, record.membership_version) {
            return Err(Refusal::Changed { listed: record.listed, version: record.membership_version });
        }
        if record.recalling.is_some() {
            return Err(Refusal::Recovering);
        }
        let mut next = record.clone();
        match &order.action {
            Action::Admit(member) => {
                let node = member.key.node_id();
                member.check().map_err(|what| Refusal::BadMember { what: what.to_owned() })?;
                next.admitted.insert(node, member.clone());
                if next.admitted.len() > MEMBERS_MAX {
                    return Err(Refusal::BadMember { what: format!("a cluster has {MEMBERS_MAX} members at most") });
                }
                // Whoever knows what it did, and admits it again, answers for it.
                if order.clears {
                    next.not_electable.remove(&node);
                }
            }
            Action::Remove(node) => {
                if record.grant.as_ref().is_some_and(|grant| grant.holder_id() == *node) {
                    return Err(Refusal::IsHolder);
                }
                next.admitted.remove(node).ok_or(Refusal::NotAdmitted)?;
                if next.admitted.is_empty() {
                    return Err(Refusal::BadMember { what: "a cluster has one member at least".to_owned() });
                }
                next.not_electable.remove(node);
            }
        }
        next.version += 1;
        next.membership_version += 1;
        Ok(next)
    }
}
