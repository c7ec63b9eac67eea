//! Only what clients submitted takes effect, and at one height only.

use std::collections::{BTreeMap, BTreeSet};

use standin_foundation::{Digest, Height};

use super::Violation;

#[derive(Debug, Default)]
pub(super) struct Validity {
    submitted: BTreeSet<Digest>,
    applied: BTreeMap<Digest, Height>,
}

impl Validity {
    pub(super) fn submitted(&mut self, transaction: Digest) {
        self.submitted.insert(transaction);
    }

    pub(super) fn executed(&mut self, height: Height, applied: &[Digest]) -> Result<(), Violation> {
        for transaction in applied {
            if !self.submitted.contains(transaction) {
                let what = format!("height {height}: nobody submitted {}", transaction.short());
                return Err(Violation { invariant: "validity", what });
            }
            let first = *self.applied.entry(*transaction).or_insert(height);
            if first != height {
                let what = format!("{} took effect at {first} and at {height}", transaction.short());
                return Err(Violation { invariant: "validity", what });
            }
        }
        Ok(())
    }
}
