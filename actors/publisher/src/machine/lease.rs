//! A lock that this server owns: until when it may publish, and when it must renew.

use standin_foundation::Millis;

use crate::config::Config;
use crate::ids::Fence;

/// A lease, on the owner's clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lease {
    pub(super) fence: Fence,
    lease_ms: u32,
    /// Nothing is published from then on, unless a renewal is final.
    valid_until: Millis,
    renewals: u64,
    /// When the renewal under way was sent first, and last.
    sent: Option<(Millis, Millis)>,
    /// When the next one is sent.
    renew_at: Millis,
}

impl Lease {
    /// Of a grant that was asked for at `asked`.
    pub(super) fn granted(fence: Fence, lease_ms: u32, asked: Millis, config: &Config) -> Self {
        Self {
            fence,
            lease_ms,
            valid_until: asked + config.lease_of_owner(lease_ms),
            renewals: 0,
            sent: None,
            renew_at: asked + u64::from(lease_ms) / 3,
        }
    }

    /// Whether something may be published now.
    pub(super) fn is_valid(&self, now: Millis) -> bool {
        now < self.valid_until
    }

    /// Until when, if nothing is heard.
    pub(super) fn valid_until(&self) -> Millis {
        self.valid_until
    }

    /// The renewal to send now, and when to look again.
    pub(super) fn due(&mut self, now: Millis) -> (Option<u64>, Millis) {
        let interval = u64::from(self.lease_ms) / 3;
        if now < self.renew_at {
            return (None, self.renew_at);
        }
        self.renew_at = now + interval;
        let first = self.sent.map_or(now, |(first, _)| first);
        self.sent = Some((first, now));
        (Some(self.renewals + 1), self.renew_at)
    }

    /// The chain took a renewal. It counts from when it was sent for the first time: nobody can know which of several the chain took.
    pub(super) fn renewed(&mut self, number: u64, config: &Config) {
        if number != self.renewals + 1 {
            return;
        }
        self.renewals = number;
        if let Some((first, last)) = self.sent.take() {
            self.valid_until = self.valid_until.max(first + config.lease_of_owner(self.lease_ms));
            self.renew_at = last + u64::from(self.lease_ms) / 3;
        }
    }
}
