//! What an actor shows of itself.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counters of one cell, over all its incarnations.
#[derive(Debug)]
pub struct Probe {
    name: String,
    pub(crate) handled: AtomicU64,
    pub(crate) shed: AtomicU64,
    pub(crate) expired: AtomicU64,
    pub(crate) restarts: AtomicU64,
    pub(crate) restartable: AtomicBool,
    last_panic: Mutex<Option<String>>,
}

impl Probe {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            handled: AtomicU64::new(0),
            shed: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            restartable: AtomicBool::new(false),
            last_panic: Mutex::new(None),
        }
    }

    /// The cell's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Messages handled.
    pub fn handled(&self) -> u64 {
        self.handled.load(Ordering::Relaxed)
    }

    /// Messages refused because a lane was full.
    pub fn shed(&self) -> u64 {
        self.shed.load(Ordering::Relaxed)
    }

    /// Messages whose deadline passed while they waited.
    pub fn expired(&self) -> u64 {
        self.expired.load(Ordering::Relaxed)
    }

    /// Restarts.
    pub fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// Whether it may be started again while it runs: not an actor whose state must match what is durable.
    pub fn restartable(&self) -> bool {
        self.restartable.load(Ordering::Relaxed)
    }

    /// What the last panic said.
    pub fn last_panic(&self) -> Option<String> {
        self.last_panic.lock().map_or(None, |text| text.clone())
    }

    pub(crate) fn note_panic(&self, what: &str) {
        if let Ok(mut text) = self.last_panic.lock() {
            *text = Some(what.to_owned());
        }
    }
}
