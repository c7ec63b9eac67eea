//! When an actor is started again, how soon, and when no more.

use std::time::Duration;

/// Whether an actor that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Always.
    Permanent,
    /// After a panic or a failure, not after an orderly end.
    Transient,
    /// Never.
    Temporary,
}

/// How long a restart waits: doubling from `min` to `max`, with jitter.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// The first wait.
    pub min: Duration,
    /// The longest wait.
    pub max: Duration,
}

impl Backoff {
    /// The wait before restart number `attempt`, from 0: between half of the doubled time and all of it.
    pub fn delay(&self, attempt: u32) -> Duration {
        let full = self.min.saturating_mul(1 << attempt.min(20)).min(self.max);
        full / 2 + full.mul_f64(fastrand::f64()) / 2
    }
}

/// At most so many restarts within a time.
#[derive(Debug, Clone, Copy)]
pub struct Intensity {
    /// How many restarts.
    pub restarts_max: usize,
    /// Within what time.
    pub within: Duration,
}

/// How a cell supervises its actor.
#[derive(Debug, Clone, Copy)]
pub struct Supervision {
    /// Whether to start again.
    pub policy: RestartPolicy,
    /// How soon.
    pub backoff: Backoff,
    /// How often.
    pub intensity: Intensity,
}

impl Default for Supervision {
    fn default() -> Self {
        Self {
            policy: RestartPolicy::Transient,
            backoff: Backoff { min: Duration::from_millis(50), max: Duration::from_secs(5) },
            intensity: Intensity { restarts_max: 5, within: Duration::from_secs(30) },
        }
    }
}

impl Supervision {
    /// For an actor around a safety machine: after a panic its state is unknown, and the node must stop.
    pub fn never_restart() -> Self {
        Self { policy: RestartPolicy::Temporary, ..Self::default() }
    }
}
