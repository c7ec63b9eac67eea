//! Places in a seat's log.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{Incarnation, Term};

/// Number of a record in a seat's log, from 1. Zero means "before the first".
pub type Lsn = u64;

/// Who writes a seat's log: the holder of a term, in one of its lives. Later writers compare greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Writer {
    /// The term.
    pub term: Term,
    /// The holder's life within it.
    pub incarnation: Incarnation,
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.incarnation)
    }
}
