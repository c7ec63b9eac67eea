//! Transactions that the chain itself carries out, under a title of their own: what operators order, and grants that are put on
//! record.

use serde::{Deserialize, Serialize};
use standin_foundation::wire::Wire;
use standin_foundation::{Height, SecretKey};

use crate::approval::Approved;
use crate::clients::ClientOrder;
use crate::error::LedgerError;
use crate::genesis::{ClientSignatures, Genesis};
use crate::grant::SignedGrant;
use crate::history::RECORDED_AT_ONCE;
use crate::reconfiguration::ApprovedReconfiguration;
use crate::state_machine::Reject;
use crate::transaction::{Transaction, TransactionBody};

/// The title of transactions that the chain itself carries out.
pub const SYSTEM_TITLE: &str = "standin";

/// The payload of such a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SystemTransaction {
    /// What operators order for the next epoch.
    Reconfigure(ApprovedReconfiguration),
    /// What operators order about clients.
    Clients(Approved<ClientOrder>),
    /// Grants are put on record. Anyone may: they prove themselves.
    Record(Vec<SignedGrant>),
}

impl Wire for SystemTransaction {
    const NAME: &'static str = "system transaction";
    const BYTES_MAX: usize = ApprovedReconfiguration::BYTES_MAX + 64;
}

impl SystemTransaction {
    /// Reads a transaction's payload.
    pub fn from_payload(payload: &[u8]) -> Result<Self, Reject> {
        let read = Self::from_wire(payload).map_err(|error| Reject::new(format!("payload: {error}")))?;
        match &read {
            Self::Reconfigure(approved) => approved.check_approvals()?,
            Self::Clients(approved) => approved.check_approvals()?,
            Self::Record(grants) if grants.is_empty() || grants.len() > RECORDED_AT_ONCE => {
                let found = grants.len();
                return Err(Reject::new(format!(
                    "payload: {found} grants, 1 to {RECORDED_AT_ONCE} are recorded at once"
                )));
            }
            Self::Record(_) => {}
        }
        Ok(read)
    }

    /// The transaction that says this, signed where the chain asks for that. It lives for half of what the chain allows above `height`.
    pub fn sign(
        &self,
        genesis: &Genesis,
        key: &SecretKey,
        nonce: u64,
        height: Height,
    ) -> Result<Transaction, LedgerError> {
        let title = SYSTEM_TITLE.parse()?;
        let payload = self.to_wire()?;
        let expires = height.plus(genesis.parameters.replay_window / 2);
        let body = TransactionBody { title, nonce, expires, payload };
        match genesis.parameters.client_signatures {
            ClientSignatures::Required => Transaction::sign(&genesis.digest(), key, &body),
            ClientSignatures::None => Transaction::unsigned(&key.public(), &body),
        }
    }
}

/// Whether the chain itself carries a transaction out.
pub fn is_system(transaction: &Transaction) -> bool {
    transaction.title().as_str() == SYSTEM_TITLE
}

/// Refuses what can never be carried out, before it is ordered.
pub fn check(transaction: &Transaction) -> Result<(), Reject> {
    SystemTransaction::from_payload(transaction.payload()).map(drop)
}
