//! Transactions as people write them: JSON lines.
//!
//! ```text
//! {"put": {"title": "commits", "key": "1f3a", "value": "Workspace and foundation"}}
//! {"delete": {"title": "commits", "key": "1f3a"}}
//! {"transfer": {"to": "02ab…", "amount": 5}}
//! ```

use serde::Deserialize;
use standin_foundation::{Height, PublicKey, SecretKey};
use standin_ledger::builtin::Operation;
use standin_ledger::system::SYSTEM_TITLE;
use standin_ledger::transaction::TransactionBody;
use standin_ledger::{Genesis, Title, Transaction};

/// A line of input.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Line {
    /// Sets a record.
    Put {
        /// The namespace.
        title: Title,
        /// The record's key.
        key: String,
        /// Its value.
        value: String,
    },
    /// Removes a record.
    Delete {
        /// The namespace.
        title: Title,
        /// The record's key.
        key: String,
    },
    /// Moves an amount from the signer's account.
    Transfer {
        /// The receiver.
        to: PublicKey,
        /// How much.
        amount: u64,
    },
}

/// Reads one line; the error says what is wrong with it.
pub(super) fn parse_line(text: &str) -> Result<Line, String> {
    let line = serde_json::from_str(text).map_err(|error| error.to_string())?;
    match &line {
        Line::Put { title, .. } | Line::Delete { title, .. } if title.as_str() == SYSTEM_TITLE => {
            Err(format!("the title `{SYSTEM_TITLE}` is the chain's own: see `standin reconfigure`"))
        }
        _ => Ok(line),
    }
}

impl Line {
    fn into_body(self, nonce: u64, expires: Height) -> Result<TransactionBody, String> {
        let transfers = "transfers".parse().map_err(|error| format!("{error}"))?;
        let (title, operation) = match self {
            Self::Put { title, key, value } => {
                (title, Operation::Put { key: key.into_bytes(), value: value.into_bytes() })
            }
            Self::Delete { title, key } => (title, Operation::Delete { key: key.into_bytes() }),
            Self::Transfer { to, amount } => (transfers, Operation::Transfer { to, amount }),
        };
        Ok(TransactionBody { title, nonce, expires, payload: operation.to_payload() })
    }

    /// Signs the line as a transaction that lives as long as the chain allows above `height`.
    pub(super) fn sign(
        self,
        genesis: &Genesis,
        key: &SecretKey,
        nonce: u64,
        height: Height,
    ) -> Result<Transaction, String> {
        let expires = height.plus(genesis.parameters.replay_window / 2);
        let body = self.into_body(nonce, expires)?;
        Transaction::sign(&genesis.digest(), key, &body).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_read_and_faults_are_told() {
        assert!(parse_line(r#"{"put":{"title":"t","key":"k","value":"v"}}"#).is_ok());
        assert!(parse_line(r#"{"delete":{"title":"t","key":"k"}}"#).is_ok());
        for (line, expected) in [
            ("{", "EOF"),
            (r#"{"putt":{}}"#, "unknown variant"),
            (r#"{"put":{"title":"Not A Title","key":"k","value":"v"}}"#, "not valid"),
            (r#"{"put":{"title":"t","key":"k"}}"#, "missing field"),
            (r#"{"delete":{"title":"standin","key":"k"}}"#, "the chain's own"),
            (r#"{"transfer":{"to":"zz","amount":1}}"#, "public key"),
            (r#"{"transfer":{"to":"zz","amount":-1}}"#, "public key"),
        ] {
            let error = parse_line(line).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
