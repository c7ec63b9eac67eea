//! No two correct nodes have different blocks at one height, ever.

use std::collections::BTreeMap;

use standin_foundation::{Digest, Height, Seat};

use super::Violation;

#[derive(Debug, Default)]
pub(super) struct Agreement {
    blocks: BTreeMap<Height, (Digest, Seat)>,
}

impl Agreement {
    pub(super) fn executed(&mut self, seat: Seat, height: Height, hash: Digest) -> Result<(), Violation> {
        let (first, by) = *self.blocks.entry(height).or_insert((hash, seat));
        if first == hash {
            return Ok(());
        }
        let what = format!("height {height}: seat {by} has {}, seat {seat} has {}", first.short(), hash.short());
        Err(Violation { invariant: "agreement", what })
    }
}
