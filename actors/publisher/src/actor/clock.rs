//! The clock of leases: it goes on while the machine is suspended, and nobody sets it.

use rustix::time::{ClockId, clock_gettime};
use standin_foundation::Millis;

/// Now, in ms since the machine was started.
pub(super) fn now() -> Millis {
    let time = clock_gettime(ClockId::Boottime);
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    Millis(seconds.unwrap_or(0).saturating_mul(1_000).saturating_add(nanoseconds.unwrap_or(0) / 1_000_000))
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_goes_forward() {
        let before = super::now();
        assert!(before.0 > 0 && super::now() >= before);
    }
}
