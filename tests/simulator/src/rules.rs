//! Every rule that can be switched off, of all machines: its name in the table, and where it is switched off.

use standin_auth::mutation::Mutation as Auth;
use standin_cluster::mutation::Mutation as Member;
use standin_consensus::mutation::Mutation as Core;

/// A rule that is switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Its name, which begins with the rule's.
    pub name: &'static str,
    /// In the consensus machine.
    pub core: Option<Core>,
    /// In the member machine.
    pub member: Option<Member>,
    /// In the auth machine.
    pub auth: Option<Auth>,
    /// Around the machines.
    pub driver: Option<Driver>,
    /// Only rare hand-overs show that it is missing: it takes hundreds of seeds, and the short table leaves it out.
    pub is_rare: bool,
    /// Only clusters that come and go show that it is missing.
    pub reseats: bool,
    /// The rule that stands behind it: alone it is not seen to be missing, and the table says so.
    pub masked_by: Option<&'static str>,
}

/// A rule that is kept around the machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// V3: votes in certificates are judged by the newest grant.
    JudgeByNewestTerm,
    /// L3: the gate compares numbers, whatever the writer, and a new writer does not empty it.
    GateByNumber,
}

const NONE: Rule = Rule {
    name: "",
    core: None,
    member: None,
    auth: None,
    driver: None,
    is_rare: false,
    reseats: false,
    masked_by: None,
};

const fn core(name: &'static str, core: Core) -> Rule {
    Rule { name, core: Some(core), ..NONE }
}

const fn member(name: &'static str, member: Member) -> Rule {
    Rule { name, member: Some(member), ..NONE }
}

const fn auth(name: &'static str, auth: Auth) -> Rule {
    Rule { name, auth: Some(auth), ..NONE }
}

const fn driver(name: &'static str, driver: Driver) -> Rule {
    Rule { name, driver: Some(driver), ..NONE }
}

const fn rare(rule: Rule) -> Rule {
    Rule { is_rare: true, ..rule }
}

const fn asked_and_granted(name: &'static str, member: Member, auth: Auth) -> Rule {
    Rule { name, member: Some(member), auth: Some(auth), ..NONE }
}

/// The rules of consensus among seats of one node.
pub const CONSENSUS: [Rule; 8] = [
    core("quorum-too-small", Core::QuorumTooSmall),
    core("send-before-sync", Core::SendBeforeSync),
    core("resend-ungated", Core::ResendUngated),
    core("forget-prepared", Core::ForgetPrepared),
    core("accept-twice", Core::AcceptTwice),
    core("ignore-own-result", Core::IgnoreOwnResult),
    core("e1-vote-beyond", Core::VoteBeyondBoundary),
    core("e1-carry-views-over", Core::CarryViewsOver),
];

/// The rules of seats that are held by clusters.
pub const CLUSTERS: [Rule; 21] = [
    rare(auth("g1-swap-without-compare", Auth::SwapWithoutCompare)),
    rare(auth("g2-forget-aged", Auth::ForgetAged)),
    rare(asked_and_granted("g3-candidate-adds", Member::CandidateAdds, Auth::CandidateAdds)),
    asked_and_granted("t8-anyone-takes-over", Member::AnyoneTakesOver, Auth::AnyoneTakesOver),
    rare(auth("g5-grant-while-recalling", Auth::GrantWhileRecalling)),
    member("l1-without-payload", Member::AcknowledgeWithoutPayload),
    rare(member("l1-cut-early", Member::CutEarly)),
    member("l2-release-alone", Member::ReleaseAlone),
    core("l2-resend-ungated", Core::ResendUngated),
    Rule { masked_by: Some("L3"), ..member("l2-old-acks", Member::CountOldAcknowledgements) },
    driver("l3-gate-by-number", Driver::GateByNumber),
    rare(member("l3-undo-alignment", Member::UndoAlignment)),
    rare(member("l4-restart-alone", Member::RestartAlone)),
    member("l5-no-fence", Member::NoFence),
    rare(member("l6-loser-deletes", Member::LoserDeletes)),
    rare(member("l7-always-complete", Member::AlwaysComplete)),
    member("l8-forget-asked", Member::ForgetAsked),
    rare(core("l9-claim-early", Core::ClaimEarly)),
    driver("v3-judge-by-newest", Driver::JudgeByNewestTerm),
    Rule { reseats: true, ..core("e1-count-genesis-seats", Core::CountGenesisSeats) },
    rare(member("e2-found-again", Member::FoundAgain)),
];
