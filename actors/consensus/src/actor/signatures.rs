//! Clients' signatures: each is checked once, however often its transaction comes.

use std::collections::BTreeSet;
use std::mem;
use std::sync::Mutex;

use standin_foundation::Digest;
use standin_ledger::error::LedgerError;
use standin_ledger::{Batch, ClientSignatures, Genesis, Transaction};

/// Checked signatures that are remembered at least; up to twice as many, of 32 bytes each.
const REMEMBERED: usize = 65_536;

/// Checks the signatures of a chain's clients. What holds is remembered for a while: a node that is behind is sent batches again
/// that wait at it to be checked, and would fall ever further behind.
#[derive(Debug)]
pub struct SignatureCheck {
    chain: Digest,
    required: bool,
    remembered: Mutex<Remembered>,
}

/// The newest, and those before.
#[derive(Debug, Default)]
struct Remembered {
    young: BTreeSet<Digest>,
    old: BTreeSet<Digest>,
}

impl Remembered {
    fn contains(&self, name: &Digest) -> bool {
        self.young.contains(name) || self.old.contains(name)
    }

    fn insert(&mut self, name: Digest) {
        if self.young.len() >= REMEMBERED {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(name);
    }
}

impl SignatureCheck {
    /// For the chain with this genesis.
    pub fn new(genesis: &Genesis) -> Self {
        let required = genesis.parameters.client_signatures == ClientSignatures::Required;
        Self { chain: genesis.digest(), required, remembered: Mutex::default() }
    }

    /// Whether the signature holds, or none is required on this chain. Takes some 50 us where it was not checked before.
    pub fn check(&self, transaction: &Transaction) -> Result<(), LedgerError> {
        if !self.required {
            return Ok(());
        }
        // The id covers all but the signature.
        let name = Digest::sha256_of(&[transaction.id().as_bytes(), transaction.signature().as_bytes()]);
        let is_known = self.remembered.lock().is_ok_and(|remembered| remembered.contains(&name));
        if !is_known {
            transaction.verify(&self.chain)?;
            if let Ok(mut remembered) = self.remembered.lock() {
                remembered.insert(name);
            }
        }
        Ok(())
    }

    /// Checks all of a batch's.
    pub fn check_batch(&self, batch: &Batch) -> Result<(), LedgerError> {
        batch.transactions().iter().try_for_each(|transaction| self.check(transaction))
    }
}

#[cfg(test)]
mod tests {
    use standin_foundation::{Height, SecretKey};
    use standin_ledger::transaction::TransactionBody;

    use super::*;

    #[test]
    fn what_was_checked_holds_and_what_was_not_is_still_refused() {
        let chain = Digest::sha256(b"chain");
        let key = SecretKey::from_bytes(&[1; 32]).unwrap();
        let body = TransactionBody {
            title: "orders".parse().unwrap(),
            nonce: 7,
            expires: Height(100),
            payload: b"payload".to_vec(),
        };
        let signed = Transaction::sign(&chain, &key, &body).unwrap();
        let check = SignatureCheck { chain, required: true, remembered: Mutex::default() };
        let mut forged = signed.bytes().to_vec();
        *forged.last_mut().unwrap() ^= 1;
        let forged = Transaction::parse(forged.into()).unwrap();
        assert_eq!(forged.id(), signed.id(), "another signature of the same transaction");
        for _ in 0..2 {
            assert!(check.check(&forged).is_err());
            check.check(&signed).unwrap();
        }
        assert_eq!(check.remembered.lock().unwrap().young.len(), 1);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_newest_stay() {
        let mut remembered = Remembered::default();
        let name = |number: usize| Digest::sha256(&number.to_be_bytes());
        for number in 0..3 * REMEMBERED {
            remembered.insert(name(number));
        }
        assert!(remembered.young.len() + remembered.old.len() <= 2 * REMEMBERED);
        assert!((2 * REMEMBERED..3 * REMEMBERED).all(|number| remembered.contains(&name(number))));
        assert!(!remembered.contains(&name(0)));
    }
}
