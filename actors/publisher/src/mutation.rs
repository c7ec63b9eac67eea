//! Rules that can be switched off, to find out whether the tests would notice. Only with the feature `mutations`, which
//! no product build has.

/// A rule that is switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mutation {
    /// A terminal takes frames under any fence.
    FenceUnchecked,
    /// An owner goes on publishing when its lease has run out.
    DeadlineIgnored,
    /// A source takes a push for done when it is handed in.
    AcknowledgedEarly,
    /// A terminal takes a fence from the seats of any epoch.
    RetiredBelieved,
    /// A terminal does not compare the chain.
    ChainUnchecked,
    /// The chain queues whatever comes, with whatever nonce.
    NonceUnchecked,
    /// The chain takes checkpoints under any fence.
    StaleCheckpoint,
    /// A source goes on with the next push after one that came too early was refused.
    GapIgnored,
    /// The chain gives a lock to whoever is first, also to seats that have made nothing of it.
    BarUnkept,
}
