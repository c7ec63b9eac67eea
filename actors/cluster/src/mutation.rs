//! Rules that can be switched off, to find out whether the tests would notice. Only with the feature `mutations`, which
//! no product build has.

/// A rule that is switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mutation {
    /// L1: a record that names a payload is acknowledged without it.
    AcknowledgeWithoutPayload,
    /// L2: records are released without the members' acknowledgements.
    ReleaseAlone,
    /// L2: acknowledgements of an earlier writer count.
    CountOldAcknowledgements,
    /// L3: an alignment to a later writer is undone by a late message of an earlier one.
    UndoAlignment,
    /// L4: a restarted holder goes on as if it had never stopped.
    RestartAlone,
    /// L5: a member goes on acknowledging after it has accepted a newer grant.
    NoFence,
    /// L6: a member deletes its log when it loses, or cuts it back for any holder.
    LoserDeletes,
    /// L7: a node takes whatever log it has for complete.
    AlwaysComplete,
    /// L8: only the current set's acknowledgements are required while another has been asked for.
    ForgetAsked,
    /// G3: a candidate lists whomever it reaches.
    CandidateAdds,
    /// E2: the node that the chain has named begins its seat's log, whatever disk it has.
    FoundAgain,
    /// T8: whoever follows takes over, with whatever log it has.
    AnyoneTakesOver,
    /// A log is cut at the front before the new base is released.
    CutEarly,
}
