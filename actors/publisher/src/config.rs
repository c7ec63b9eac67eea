//! Numbers that each server may choose for itself.

/// Numbers that each server may choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// A lease, in ms: without a renewal the lock is released so long after the last one.
    pub lease_ms: u32,
    /// How much faster or slower than another a clock may run, in thousandths.
    pub drift_per_mille: u64,
    /// An owner stops so long before its lease ends, in ms.
    pub guard_ms: u64,
    /// The contender of rank r waits r times this long, in ms.
    pub rank_ms: u64,
    /// A connection to an owner that is lost for so long is reason enough to release its locks, in ms.
    pub link_grace_ms: u64,
    /// An owner under which data wait for so long without progress has stalled, in ms.
    pub stall_ms: u64,
    /// What the chain did not answer is said again after this time, in ms.
    pub retry_ms: u64,
    /// A checkpoint is made after so many data …
    pub checkpoint_data: u64,
    /// … or after this time, in ms.
    pub checkpoint_ms: u64,
    /// Data that may be published beyond the last checkpoint on the chain: at most these are sent again by the next owner.
    pub window: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lease_ms: 1_000,
            drift_per_mille: 10,
            guard_ms: 50,
            rank_ms: 5,
            link_grace_ms: 50,
            stall_ms: 3_000,
            retry_ms: 1_000,
            checkpoint_data: 256,
            checkpoint_ms: 20,
            window: 16_384,
        }
    }
}

impl Config {
    /// How long an owner may publish after it has sent the renewal that the chain took, in ms.
    pub fn lease_of_owner(&self, lease_ms: u32) -> u64 {
        let lease = u64::from(lease_ms);
        let slow = lease.saturating_mul(self.drift_per_mille) / 1_000;
        lease.saturating_sub(slow + self.guard_ms)
    }

    /// When a seat takes a lease for ended, after it has seen the renewal, in ms.
    pub fn lease_of_watcher(&self, lease_ms: u32) -> u64 {
        let lease = u64::from(lease_ms);
        lease.saturating_add(lease.saturating_mul(self.drift_per_mille) / 1_000 + 1)
    }
}
