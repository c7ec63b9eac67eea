//! Rules that can be switched off, to find out whether the tests would notice. Only with the feature `mutations`, which
//! no product build has.

/// A rule that is switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mutation {
    /// G1: a change does not look at the term that it is to end.
    SwapWithoutCompare,
    /// G2: an entry whose holder has aged out is forgotten.
    ForgetAged,
    /// G3: a candidate may add members.
    CandidateAdds,
    /// G5: a register that was brought back from a copy grants before all members have said what they know.
    GrantWhileRecalling,
    /// L9: a candidate's head is not compared with what the holder has released.
    ShortLogTakesOver,
    /// Only members of the in-sync set may take over.
    AnyoneTakesOver,
}
