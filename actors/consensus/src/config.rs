//! Numbers that each node may choose for itself. What must be the same everywhere is in the genesis.

use std::time::Duration;

/// Configuration of a replica.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// First time-out of a view without progress, in ms. It grows by half with each view that fails.
    pub view_timeout_ms: u64,
    /// The time-out never grows beyond this, in ms.
    pub view_timeout_max_ms: u64,
    /// A batch that waits this long while others are ordered is being starved: change the primary. In ms.
    pub starvation_ms: u64,
    /// Interval at which a replica says where it stands, in ms: at most a quarter of the first time-out, since what was lost
    /// comes back with it.
    pub status_interval_ms: u64,
    /// Proposals that a primary may have open at one time.
    pub in_flight_max: u64,
    /// How long a primary with open proposals waits for more batches at least, in ms, and a seat with open batches for more transactions. It
    /// is half of what a commit takes if that is more, up to 20.
    pub linger_ms: u64,
    /// A primary takes a checkpoint after this much silence, in ms.
    pub idle_checkpoint_ms: u64,
    /// How long a request of catch-up may take before another seat is asked, in ms.
    pub fetch_timeout_ms: u64,
    /// Blocks behind from which a snapshot is asked for instead of blocks.
    pub snapshot_gap: u64,
    /// Bytes of unordered batches that are kept for each seat that made them.
    pub pending_bytes_max: usize,
    /// How long a seat may wait alone for a view change before the others join it, in ms.
    pub rejoin_after_ms: u64,
    /// The others join one seat's view change at most once in this time, in ms.
    pub rejoin_interval_ms: u64,
    /// A gap between two steps of more than this means that this process was paused: time-outs start again. In ms.
    pub pause_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            view_timeout_ms: 1_000,
            view_timeout_max_ms: 8_000,
            starvation_ms: 8_000,
            status_interval_ms: 250,
            in_flight_max: 16,
            linger_ms: 2,
            idle_checkpoint_ms: 1_000,
            fetch_timeout_ms: 1_000,
            snapshot_gap: 4_096,
            pending_bytes_max: 64 * 1024 * 1024,
            rejoin_after_ms: 2_000,
            rejoin_interval_ms: 60_000,
            pause_ms: 500,
        }
    }
}

impl Config {
    /// The time-out of the view after `failed` views without progress: 1.5 times more each, up to the maximum.
    pub fn view_timeout(&self, failed: u32) -> u64 {
        let mut timeout = self.view_timeout_ms;
        for _ in 0..failed.min(32) {
            timeout = timeout.saturating_add(timeout / 2).min(self.view_timeout_max_ms);
        }
        timeout.min(self.view_timeout_max_ms)
    }

    /// The status interval as a duration.
    pub fn status_interval(&self) -> Duration {
        Duration::from_millis(self.status_interval_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_view_timeout_grows_past_its_maximum() {
        let config = Config::default();
        assert_eq!(config.view_timeout(0), 1_000);
        assert_eq!(config.view_timeout(2), 2_250);
        assert!((0..1_000).all(|failed| config.view_timeout(failed) <= 8_000));
    }
}
