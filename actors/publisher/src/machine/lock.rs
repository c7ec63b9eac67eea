//! The lock of a topic, as the chain keeps it: who may publish, under which fence.
//!
//! It knows no clock. Time stands in what seats attest: each measures for itself, and f+1 of them release the lock.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use standin_foundation::{Height, PublicKey, Seat};

use crate::ids::{Fence, Sequence};

/// The shortest lease, in ms.
pub const LEASE_MS_MIN: u32 = 100;
/// A seat that has made nothing of a lock may have it again when it has been free for so many blocks: nobody else wants it.
pub const BARRED_BLOCKS: u64 = 8;
/// The longest lease, in ms.
pub const LEASE_MS_MAX: u32 = 60_000;

/// A topic's lock.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Lock {
    /// The newest grant's number.
    pub fence: Fence,
    /// Who has it; none while it is free.
    pub held: Option<Grant>,
    /// The number that a lock service outside the chain has given with the grant that holds; 0 where none does.
    pub outside: u64,
    /// The seat of whoever had the newest grant, and whether anything was published under it.
    user: Option<(Seat, bool)>,
    /// Seats that have had it since anything was published, and have published nothing while data waited.
    barred: BTreeSet<Seat>,
    /// The block in which it became free last.
    free_since: Height,
    /// What seats have attested since the last renewal or checkpoint that would make it void.
    attested: BTreeMap<Seat, Ground>,
}

/// A grant of the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Who may publish.
    pub owner: PublicKey,
    /// For how long after each renewal, in ms.
    pub lease_ms: u32,
    /// How often it has been renewed.
    pub renewals: u64,
    /// When it would be released without a further renewal, in ms since the Unix epoch. For people to read: nothing compares it.
    pub release_at_ms: u64,
}

/// Why a seat wants a lock released. It names what the seat has seen, so that anything newer makes it void.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Ground {
    /// The lease ran out, on the seat's own clock, after this renewal.
    Expired {
        /// The newest renewal that it knows.
        renewals: u64,
    },
    /// The connection to the owner is lost, after this renewal.
    Lost {
        /// The newest renewal that it knows.
        renewals: u64,
    },
    /// Data wait, and nothing was published for too long after this.
    Stalled {
        /// The newest checkpoint that it knows.
        published: Sequence,
    },
}

/// Why a lock became free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// The owner gave it back.
    Resigned,
    /// It was not renewed in time.
    Expired,
    /// f+1 seats lost the connection to the owner.
    Lost,
    /// The owner lives and publishes nothing.
    Stalled,
    /// Operators ordered it.
    Ordered,
    /// The lock service outside the chain has given it to another.
    Superseded,
}

impl Reason {
    /// Whether the owner was found wanting: it competes again behind all others.
    pub fn is_suspicion(self) -> bool {
        matches!(self, Self::Expired | Self::Lost | Self::Stalled)
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Resigned => "resigned",
            Self::Expired => "expired",
            Self::Lost => "lost",
            Self::Stalled => "stalled",
            Self::Ordered => "ordered",
            Self::Superseded => "superseded",
        })
    }
}

impl From<Ground> for Reason {
    fn from(ground: Ground) -> Self {
        match ground {
            Ground::Expired { .. } => Self::Expired,
            Ground::Lost { .. } => Self::Lost,
            Ground::Stalled { .. } => Self::Stalled,
        }
    }
}

/// Why the lock does not do what it was told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LockRefused {
    /// Another has it.
    #[error("the lock is held by {owner} under fence {fence}")]
    Held {
        /// Who.
        owner: PublicKey,
        /// Under which fence.
        fence: Fence,
    },
    /// It was granted and released since the contender looked.
    #[error("the newest fence is {newest}, and not {found}: another was faster")]
    Superseded {
        /// What the contender knew.
        found: Fence,
        /// What is.
        newest: Fence,
    },
    /// The fence is not that of the grant that holds.
    #[error("fence {found} does not hold: {}", told(*.newest, *.is_held))]
    StaleFence {
        /// What was shown.
        found: Fence,
        /// The newest.
        newest: Fence,
        /// Whether the newest holds.
        is_held: bool,
    },
    /// Not the owner.
    #[error("the lock belongs to {owner}: nobody else renews it, releases it or publishes under it")]
    NotOwner {
        /// Who does.
        owner: PublicKey,
    },
    /// Not the next renewal.
    #[error("renewal {found}: the next one is {next}")]
    NotNext {
        /// What was shown.
        found: u64,
        /// What would be.
        next: u64,
    },
    /// The lock service has given the lock to another since.
    #[error("the lock service has given the lock under number {newest}: {found} is no more than that")]
    Outside {
        /// What was shown.
        found: u64,
        /// The newest.
        newest: u64,
    },
    /// The lease is too short or too long.
    #[error("a lease of {0} ms: {LEASE_MS_MIN} to {LEASE_MS_MAX} are allowed")]
    Lease(u32),
    /// Its seat has had the lock, and published nothing of what waited.
    #[error(
        "seat {seat} has had the lock and published nothing of what waits: before block {until} it is another seat's"
    )]
    Barred {
        /// The seat.
        seat: Seat,
        /// If it is free until then, the seat may have it again.
        until: Height,
    },
    /// What is attested has been overtaken.
    #[error("attested of {found:?}: the lock is beyond that")]
    Overtaken {
        /// What was attested.
        found: Ground,
    },
    /// Fences end.
    #[error("there are no more fences")]
    NoFence,
}

fn told(newest: Fence, is_held: bool) -> String {
    match is_held {
        true => format!("{newest} does"),
        false => format!("the lock is free since {newest}"),
    }
}

impl Lock {
    /// Grants the lock, if it is free and the contender knows the newest fence. `time_ms` is the block's.
    pub fn acquire(
        &mut self,
        owner: PublicKey,
        after: Fence,
        lease_ms: u32,
        time_ms: u64,
    ) -> Result<Fence, LockRefused> {
        if !(LEASE_MS_MIN..=LEASE_MS_MAX).contains(&lease_ms) {
            return Err(LockRefused::Lease(lease_ms));
        }
        if let Some(grant) = &self.held {
            return Err(LockRefused::Held { owner: grant.owner, fence: self.fence });
        }
        if after != self.fence {
            return Err(LockRefused::Superseded { found: after, newest: self.fence });
        }
        self.fence = self.fence.next().ok_or(LockRefused::NoFence)?;
        let release_at_ms = time_ms.saturating_add(u64::from(lease_ms));
        self.held = Some(Grant { owner, lease_ms, renewals: 0, release_at_ms });
        self.attested.clear();
        Ok(self.fence)
    }

    /// Grants a lock that stands in a lock service outside the chain, which has given it under a number that only rises: whoever had it before has lost it. Gives
    /// who that was.
    pub fn claim(
        &mut self,
        owner: PublicKey,
        (after, outside): (Fence, u64),
        lease_ms: u32,
        time_ms: u64,
    ) -> Result<(Fence, Option<Grant>), LockRefused> {
        if after != self.fence {
            return Err(LockRefused::Superseded { found: after, newest: self.fence });
        }
        if outside <= self.outside {
            return Err(LockRefused::Outside { found: outside, newest: self.outside });
        }
        let before = self.held.take();
        match self.acquire(owner, after, lease_ms, time_ms) {
            Ok(fence) => {
                self.outside = outside;
                Ok((fence, before))
            }
            Err(refused) => {
                self.held = before;
                Err(refused)
            }
        }
    }

    /// Whether a seat may have the lock at this block. One that has had it and published nothing while data waited is kept from it until another seat has published
    /// something, or the lock has been free for some blocks: or else servers that lie could have it for ever, lease after lease and turn by turn.
    pub fn may_have(&self, seat: Seat, height: Height) -> Result<(), LockRefused> {
        let until = self.free_since.plus(BARRED_BLOCKS);
        match self.barred.contains(&seat) && height < until {
            true => Err(LockRefused::Barred { seat, until }),
            false => Ok(()),
        }
    }

    /// A member of this seat has just been granted the lock.
    pub fn had_by(&mut self, seat: Seat) {
        self.user = Some((seat, false));
    }

    /// The newest grant has ended in this block, by its owner's word or on suspicion. `waits`: there are data that wait.
    pub fn ended(&mut self, height: Height, waits: bool) {
        self.free_since = height;
        if let Some((seat, false)) = self.user.filter(|_| waits) {
            self.barred.insert(seat);
        }
    }

    /// The grant, if it is the sender's and this fence holds.
    pub fn check(&self, sender: &PublicKey, fence: Fence) -> Result<&Grant, LockRefused> {
        let stale = LockRefused::StaleFence { found: fence, newest: self.fence, is_held: self.held.is_some() };
        match &self.held {
            Some(grant) if fence == self.fence && grant.owner == *sender => Ok(grant),
            Some(grant) if fence == self.fence => Err(LockRefused::NotOwner { owner: grant.owner }),
            _ => Err(stale),
        }
    }

    /// Renews the lease. `number` is the renewal that this is to be: each takes effect once, and in order.
    pub fn renew(&mut self, sender: &PublicKey, fence: Fence, number: u64, time_ms: u64) -> Result<(), LockRefused> {
        let next = self.check(sender, fence)?.renewals.saturating_add(1);
        if number != next {
            return Err(LockRefused::NotNext { found: number, next });
        }
        if let Some(grant) = &mut self.held {
            grant.renewals = next;
            grant.release_at_ms = time_ms.saturating_add(u64::from(grant.lease_ms));
        }
        self.attested.retain(|_, ground| matches!(ground, Ground::Stalled { .. }));
        Ok(())
    }

    /// The owner has published: what was attested of its standing still is void; and all that was, where its renewals are not the chain's and nothing else makes it so.
    pub fn progressed(&mut self, outside: bool) {
        self.user = self.user.map(|(seat, _)| (seat, true));
        self.barred.clear();
        self.attested.retain(|_, ground| !outside && !matches!(ground, Ground::Stalled { .. }));
    }

    /// The owner gives the lock back.
    pub fn release(&mut self, sender: &PublicKey, fence: Fence) -> Result<(), LockRefused> {
        self.check(sender, fence)?;
        self.free();
        Ok(())
    }

    /// Operators take it from its owner; gives who that was.
    pub fn force(&mut self) -> Option<Grant> {
        let held = self.held.take();
        self.free();
        held
    }

    /// Takes a seat's word. Gives why the lock is free now, if `needed` seats want it released.
    pub fn attest(
        &mut self,
        seat: Seat,
        fence: Fence,
        ground: Ground,
        (published, needed): (Sequence, usize),
    ) -> Result<Option<Reason>, LockRefused> {
        let Some(grant) = self.held.as_ref().filter(|_| fence == self.fence) else {
            let is_held = self.held.is_some();
            return Err(LockRefused::StaleFence { found: fence, newest: self.fence, is_held });
        };
        let holds = match ground {
            Ground::Expired { renewals } | Ground::Lost { renewals } => renewals == grant.renewals,
            Ground::Stalled { published: seen } => seen == published,
        };
        if !holds {
            return Err(LockRefused::Overtaken { found: ground });
        }
        self.attested.insert(seat, ground);
        if self.attested.len() < needed.max(1) {
            return Ok(None);
        }
        self.free();
        Ok(Some(ground.into()))
    }

    /// How many seats want it released.
    pub fn attested(&self) -> usize {
        self.attested.len()
    }

    fn free(&mut self) {
        self.held = None;
        self.attested.clear();
        // Whatever number came with it, an absurd one as well: it bars nobody any more.
        self.outside = 0;
    }
}

#[cfg(test)]
mod tests {
    use standin_foundation::SecretKey;

    use super::*;

    fn key(n: u8) -> PublicKey {
        SecretKey::from_bytes(&[n; 32]).unwrap().public()
    }

    fn held() -> Lock {
        let mut lock = Lock::default();
        assert_eq!(lock.acquire(key(1), Fence(0), 1_000, 5_000), Ok(Fence(1)));
        lock
    }

    /// H3: whoever comes second has lost, whatever it knew, and each grant has the next fence.
    #[test]
    fn h3_one_of_many_contenders_gets_the_lock_and_fences_rise_by_one() {
        let mut lock = held();
        assert_eq!(
            lock.acquire(key(2), Fence(0), 1_000, 5_000),
            Err(LockRefused::Held { owner: key(1), fence: Fence(1) })
        );
        lock.release(&key(1), Fence(1)).unwrap();
        assert_eq!(
            lock.acquire(key(2), Fence(0), 1_000, 0),
            Err(LockRefused::Superseded { found: Fence(0), newest: Fence(1) }),
            "it competes for what another has had since"
        );
        for fence in 1..1_000 {
            assert_eq!(lock.acquire(key(2), Fence(fence), 1_000, 0), Ok(Fence(fence + 1)));
            assert!(lock.acquire(key(3), Fence(fence), 1_000, 0).is_err());
            assert!(lock.acquire(key(3), Fence(fence + 1), 1_000, 0).is_err());
            lock.release(&key(2), Fence(fence + 1)).unwrap();
        }
    }

    #[test]
    fn only_its_owner_renews_and_releases_it_and_only_under_its_fence() {
        let mut lock = held();
        assert_eq!(lock.renew(&key(2), Fence(1), 1, 0), Err(LockRefused::NotOwner { owner: key(1) }));
        assert_eq!(lock.release(&key(2), Fence(1)), Err(LockRefused::NotOwner { owner: key(1) }));
        let future = lock.renew(&key(1), Fence(2), 1, 0).unwrap_err();
        assert_eq!(future.to_string(), "fence 2 does not hold: 1 does");
        assert_eq!(lock.renew(&key(1), Fence(1), 2, 0), Err(LockRefused::NotNext { found: 2, next: 1 }));
        lock.renew(&key(1), Fence(1), 1, 6_000).unwrap();
        assert_eq!(lock.held.map(|grant| (grant.renewals, grant.release_at_ms)), Some((1, 7_000)));
        assert!(lock.renew(&key(1), Fence(1), 1, 0).is_err(), "each takes effect once");
        lock.release(&key(1), Fence(1)).unwrap();
        let late = lock.renew(&key(1), Fence(1), 2, 0).unwrap_err();
        assert_eq!(late.to_string(), "fence 1 does not hold: the lock is free since 1");
    }

    #[test]
    fn whoever_the_lock_service_named_last_has_it_and_nobody_earlier() {
        let mut lock = Lock::default();
        assert_eq!(lock.claim(key(1), (Fence(0), 7), 2_000, 0), Ok((Fence(1), None)));
        let superseded = LockRefused::Superseded { found: Fence(0), newest: Fence(1) };
        assert_eq!(lock.claim(key(2), (Fence(0), 9), 2_000, 0), Err(superseded));
        let late = LockRefused::Outside { found: 7, newest: 7 };
        assert_eq!(lock.claim(key(2), (Fence(1), 7), 2_000, 0), Err(late));
        assert_eq!(lock.claim(key(2), (Fence(1), 9), 1, 0), Err(LockRefused::Lease(1)));
        assert_eq!(lock.held.map(|grant| grant.owner), Some(key(1)), "what is refused changes nothing");
        let (fence, before) = lock.claim(key(2), (Fence(1), 9), 2_000, 0).unwrap();
        assert_eq!((fence, before.map(|grant| grant.owner), lock.outside), (Fence(2), Some(key(1)), 9));
        lock.claim(key(3), (Fence(2), u64::MAX), 2_000, 0).unwrap();
        let stalled = Ground::Stalled { published: Sequence(0) };
        assert_eq!(lock.attest(Seat(0), Fence(3), stalled, (Sequence(0), 1)), Ok(Some(Reason::Stalled)));
        assert_eq!(
            lock.claim(key(1), (Fence(3), 12), 2_000, 0),
            Ok((Fence(4), None)),
            "an absurd number bars nobody for good"
        );
        let lost = Ground::Lost { renewals: 0 };
        assert_eq!(lock.attest(Seat(0), Fence(4), lost, (Sequence(0), 2)), Ok(None));
        lock.progressed(true);
        assert_eq!(
            lock.attest(Seat(1), Fence(4), lost, (Sequence(0), 2)),
            Ok(None),
            "words of different days do not add up"
        );
    }

    #[test]
    fn a_lease_of_no_sense_is_refused() {
        for lease in [0, LEASE_MS_MIN - 1, LEASE_MS_MAX + 1] {
            assert_eq!(Lock::default().acquire(key(1), Fence(0), lease, 0), Err(LockRefused::Lease(lease)));
        }
    }

    #[test]
    fn seats_release_it_when_enough_have_seen_the_same_renewal_run_out() {
        let mut lock = held();
        let expired = |renewals| Ground::Expired { renewals };
        let none = (Sequence(0), 2);
        assert_eq!(lock.attest(Seat(0), Fence(1), expired(0), none), Ok(None));
        assert_eq!(lock.attest(Seat(0), Fence(1), expired(0), none), Ok(None), "a seat counts once");
        lock.renew(&key(1), Fence(1), 1, 0).unwrap();
        assert_eq!(lock.attested(), 0, "a renewal makes it void");
        assert_eq!(lock.attest(Seat(1), Fence(1), expired(0), none), Err(LockRefused::Overtaken { found: expired(0) }));
        assert_eq!(lock.attest(Seat(1), Fence(1), Ground::Lost { renewals: 1 }, none), Ok(None));
        assert_eq!(lock.attest(Seat(2), Fence(1), expired(1), none), Ok(Some(Reason::Expired)));
        assert_eq!(lock.held, None);
        assert!(lock.attest(Seat(3), Fence(1), expired(1), none).is_err(), "it is free already");
        assert_eq!(lock.acquire(key(2), Fence(1), 1_000, 0), Ok(Fence(2)));
        assert_eq!(lock.attested(), 0);
    }

    /// H16: renewing does not help one who publishes nothing.
    #[test]
    fn h16_a_holder_that_renews_and_stands_still_is_released() {
        let mut lock = held();
        let stalled = Ground::Stalled { published: Sequence(4) };
        assert_eq!(lock.attest(Seat(0), Fence(1), stalled, (Sequence(4), 2)), Ok(None));
        lock.renew(&key(1), Fence(1), 1, 0).unwrap();
        assert_eq!(lock.attested(), 1, "a renewal is no progress");
        lock.progressed(false);
        assert_eq!(lock.attested(), 0);
        let overtaken = lock.attest(Seat(1), Fence(1), stalled, (Sequence(5), 2));
        assert_eq!(overtaken, Err(LockRefused::Overtaken { found: stalled }));
        let stalled = Ground::Stalled { published: Sequence(5) };
        lock.attest(Seat(1), Fence(1), stalled, (Sequence(5), 2)).unwrap();
        assert_eq!(lock.attest(Seat(2), Fence(1), stalled, (Sequence(5), 2)), Ok(Some(Reason::Stalled)));
    }

    /// H17.
    #[test]
    fn h17_fences_end_and_do_not_begin_again() {
        let mut lock = Lock { fence: Fence(u64::MAX), ..Lock::default() };
        assert_eq!(lock.acquire(key(1), Fence(u64::MAX), 1_000, 0), Err(LockRefused::NoFence));
        assert_eq!(lock.fence, Fence(u64::MAX));
    }
}
