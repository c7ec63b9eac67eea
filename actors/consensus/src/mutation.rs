//! Rules that can be switched off, to find out whether the tests would notice. Only with the feature `mutations`, which
//! no product build has; without it nothing can make a value of this type reach a machine.

/// A rule that is switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mutation {
    /// 2f votes make a certificate.
    QuorumTooSmall,
    /// A message leaves before its record is durable.
    SendBeforeSync,
    /// After a change of term a message may say that all of the log stands before it, and leave before that is durable.
    ClaimEarly,
    /// A message that is sent again leaves although its record may not be durable.
    ResendUngated,
    /// A view-change leaves out what was prepared.
    ForgetPrepared,
    /// A slot takes a second proposal in one view.
    AcceptTwice,
    /// A replica votes beyond the boundary of its epoch.
    VoteBeyondBoundary,
    /// Views and view-changes of an epoch go on in the next.
    CarryViewsOver,
    /// Quorums of every epoch are counted by the seats of the genesis.
    CountGenesisSeats,
    /// A replica goes on although its result is not the proven one.
    IgnoreOwnResult,
}
