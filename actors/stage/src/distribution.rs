//! How long things take: counted as they happen, read by metrics and the console.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

/// Longer than this is counted as this, in µs: ten minutes.
const MAX_US: u64 = 600_000_000;
/// Values are told apart to this many decimal digits.
const DIGITS: u8 = 2;

/// Durations of one kind since the process began, in µs. Cheap to clone; all clones count together.
#[derive(Clone)]
pub struct Distribution(Arc<Mutex<Histogram<u64>>>);

impl std::fmt::Debug for Distribution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Distribution({})", self.read().len())
    }
}

impl Default for Distribution {
    fn default() -> Self {
        #[allow(clippy::expect_used, reason = "the bounds are sound, and they are constants")]
        let empty = Histogram::new_with_max(MAX_US, DIGITS).expect("sound bounds");
        Self(Arc::new(Mutex::new(empty)))
    }
}

impl Distribution {
    /// It took so long.
    pub fn record(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(MAX_US);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(us);
    }

    /// All of it, in µs, since the process began.
    pub fn read(&self) -> Histogram<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Reads a [`Distribution`] time and again: what was counted since the last time.
#[derive(Debug)]
pub struct Window {
    of: Distribution,
    before: Histogram<u64>,
}

impl Window {
    /// From now on.
    pub fn new(of: Distribution) -> Self {
        Self { before: of.read(), of }
    }

    /// What was counted since the last call, or since the beginning, in µs.
    pub fn take(&mut self) -> Histogram<u64> {
        let now = self.of.read();
        let mut since = now.clone();
        // It only grows: what was there before is in it.
        let _ = since.subtract(&self.before);
        self.before = now;
        since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_holds_what_was_counted_since_the_last() {
        let counted = Distribution::default();
        counted.record(Duration::from_millis(1));
        let mut window = Window::new(counted.clone());
        assert_eq!(window.take().len(), 0);
        (0..100).for_each(|_| counted.record(Duration::from_millis(20)));
        counted.record(Duration::MAX);
        let since = window.take();
        assert_eq!((since.len(), since.value_at_quantile(0.5) / 1_000), (101, 20));
        assert_eq!((window.take().len(), counted.read().len()), (0, 102));
    }
}
