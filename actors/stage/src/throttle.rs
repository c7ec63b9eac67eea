//! Lines in a log that a peer can cause must not fill the disk.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Lets so many events through in each interval, and counts the others.
#[derive(Debug)]
pub struct Throttle {
    interval: Duration,
    burst: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    since: Option<Instant>,
    passed: u32,
    suppressed: u64,
}

impl Throttle {
    /// `burst` events each `interval`.
    pub const fn new(interval: Duration, burst: u32) -> Self {
        Self { interval, burst, state: Mutex::new(State { since: None, passed: 0, suppressed: 0 }) }
    }

    /// Whether this event may pass: then how many did not since the last that did.
    pub fn pass(&self) -> Option<u64> {
        let mut state = self.state.lock().ok()?;
        let now = Instant::now();
        if state.since.is_none_or(|since| now.duration_since(since) >= self.interval) {
            (state.since, state.passed) = (Some(now), 0);
        }
        if state.passed >= self.burst {
            state.suppressed += 1;
            return None;
        }
        state.passed += 1;
        Some(std::mem::take(&mut state.suppressed))
    }
}

impl Default for Throttle {
    /// Three events a second.
    fn default() -> Self {
        Self::new(Duration::from_secs(1), 3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_the_others_are_counted() {
        let throttle = Throttle::new(Duration::from_secs(3_600), 2);
        let passed: Vec<_> = (0..4).map(|_| throttle.pass()).collect();
        assert_eq!(passed, [Some(0), Some(0), None, None]);
        throttle.state.lock().unwrap().since = None;
        assert_eq!(throttle.pass(), Some(2));
    }
}
