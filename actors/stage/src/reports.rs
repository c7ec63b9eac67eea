//! What must not be lost on its way to an actor. Peers can fill an actor's mailbox; a report of its own threads, or of an actor
//! that works with it, would find no room there and be missed for ever. So reports wait in a queue of their own, bounded by
//! what they answer, and the mailbox carries only the news that there are some: if even that finds no room, there are
//! messages to be handled, and the actor looks at its reports with each.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// A queue that loses nothing. Cheap to clone.
#[derive(Debug)]
pub struct Reports<T>(Arc<Mutex<VecDeque<T>>>);

impl<T> Clone for Reports<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Reports<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Reports<T> {
    /// Adds a report.
    pub fn push(&self, report: T) {
        // Poisoned only by a panic between two lines of this file.
        if let Ok(mut reports) = self.0.lock() {
            reports.push_back(report);
        }
    }

    /// Takes the oldest.
    pub fn take(&self) -> Option<T> {
        self.0.lock().ok().and_then(|mut reports| reports.pop_front())
    }
}
