//! What operators decide together: an order, and the signatures of those who approve it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use standin_foundation::{Canonical, Digest, Domain, PublicKey, SecretKey, Signature};

use crate::genesis::{OPERATORS_MAX, Operators};
use crate::state_machine::Reject;

/// Something that operators order. What it says of its place (an epoch, a number, a version) makes it count once.
pub trait Order: Canonical {
    /// Keeps approvals of one kind of order from counting for another.
    const DOMAIN: Domain;

    /// The chain that it is for: its genesis' digest.
    fn chain(&self) -> &Digest;

    /// An operator's approval.
    fn approve(&self, key: &SecretKey) -> Approval {
        Approval { operator: key.public(), signature: key.sign(Self::DOMAIN, &self.canonical_bytes()) }
    }
}

/// An operator's signature under an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// The operator's key.
    pub operator: PublicKey,
    /// Its signature.
    pub signature: Signature,
}

/// An order, with its approvals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approved<T> {
    /// What is ordered.
    pub order: T,
    /// Who approves.
    pub approvals: Vec<Approval>,
}

impl<T: Order> Approved<T> {
    /// An order that nobody has approved.
    pub fn draft(order: T) -> Self {
        Self { order, approvals: Vec::new() }
    }

    /// The order with this operator's approval, too.
    #[must_use]
    pub fn by(mut self, key: &SecretKey) -> Self {
        let approval = self.order.approve(key);
        self.approvals.retain(|known| known.operator != approval.operator);
        self.approvals.push(approval);
        self
    }

    /// Those whose approvals they have signed themselves. Whether they are operators, the chain knows.
    pub fn signers(&self) -> Vec<PublicKey> {
        let content = self.order.canonical_bytes();
        self.approvals
            .iter()
            .filter(|approval| holds::<T>(approval, &content))
            .map(|approval| approval.operator)
            .collect()
    }

    /// Refuses approvals that are too many: each of them costs a check of a signature.
    pub fn check_approvals(&self) -> Result<(), Reject> {
        let operators: BTreeSet<_> = self.approvals.iter().map(|approval| approval.operator).collect();
        match operators.len() == self.approvals.len() && operators.len() <= OPERATORS_MAX {
            true => Ok(()),
            false => Err(Reject::new(format!("payload: at most {OPERATORS_MAX} operators approve, each of them once"))),
        }
    }

    /// Whether it is of this chain, and approved by as many operators as are needed.
    pub fn check(&self, chain: &Digest, operators: &Operators) -> Result<(), Reject> {
        self.check_approvals()?;
        if self.order.chain() != chain {
            return Err(Reject::new("ordered for another chain"));
        }
        if operators.keys.is_empty() {
            return Err(Reject::new("the genesis names no operators, so nobody can approve it"));
        }
        let content = self.order.canonical_bytes();
        let of_operator = self.approvals.iter().filter(|approval| operators.keys.contains(&approval.operator));
        let needed = usize::from(operators.needed);
        let mut found = 0;
        for approval in of_operator.take(needed) {
            // Each costs a check: whoever sends one that does not hold has the others looked at no more.
            if !holds::<T>(approval, &content) {
                return Err(Reject::new(format!("the approval of {} is not its signature", approval.operator)));
            }
            found += 1;
        }
        match found >= needed {
            true => Ok(()),
            false => Err(Reject::new(format!("approved by {found} operators, {needed} are needed"))),
        }
    }
}

fn holds<T: Order>(approval: &Approval, content: &[u8]) -> bool {
    approval.operator.verify(T::DOMAIN, content, &approval.signature)
}
