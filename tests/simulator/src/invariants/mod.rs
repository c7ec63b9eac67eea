//! What must hold, whatever happens. A file each; none of them uses the code that it judges.

mod agreement;
mod durability;
mod no_loss;
mod one_epoch;
mod one_log;
mod one_vote;
mod validity;

use standin_consensus::Signed;
use standin_consensus::effect::Event;
use standin_foundation::{ClusterId, Digest, Seat};
use standin_ledger::SignedGrant;
use standin_ledger::grant::Cause;

use crate::disk::Disk;
use crate::node::{Node, Observation};

/// A rule that does not hold.
#[derive(Debug, Clone)]
pub struct Violation {
    /// The invariant's name, which is its file's.
    pub invariant: &'static str,
    /// What was seen.
    pub what: String,
}

impl Violation {
    /// Runs something whose panic is a violation, too.
    pub(crate) fn guard<T>(run: impl FnOnce() -> Result<T, Self>) -> Result<T, Self> {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or_else(|cause| {
            let what = cause.downcast_ref::<String>().cloned();
            let what = what.or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(Self { invariant: "no_panic", what: what.unwrap_or_default() })
        })
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

/// All invariants, and what they remember.
#[derive(Debug)]
pub struct Invariants {
    agreement: agreement::Agreement,
    validity: validity::Validity,
    one_vote: one_vote::OneVote,
    no_loss: no_loss::NoLoss,
    one_log: one_log::OneLog,
    one_epoch: one_epoch::OneEpoch,
}

impl Invariants {
    /// For a chain with so many seats.
    pub fn new(seats: usize) -> Self {
        Self {
            agreement: agreement::Agreement::default(),
            validity: validity::Validity::default(),
            one_vote: one_vote::OneVote::default(),
            no_loss: no_loss::NoLoss::new(seats),
            one_log: one_log::OneLog::default(),
            one_epoch: one_epoch::OneEpoch::default(),
        }
    }

    /// A client submitted a transaction.
    pub fn submitted(&mut self, transaction: Digest) {
        self.validity.submitted(transaction);
    }

    /// A message left a holder: all members that its grant lists have what it stands for. Each disk comes with whether it is
    /// the holder's own, which may propose by name what a quorum holds.
    pub fn emitted_by_holder<'a>(
        &self,
        message: &Signed,
        disks: impl Iterator<Item = (bool, &'a Disk)>,
    ) -> Result<(), Violation> {
        for (is_holder, disk) in disks {
            durability::check(disk, message)?;
            if !is_holder {
                durability::check_payloads(disk, message)?;
            }
        }
        Ok(())
    }

    /// The auth node has made a grant.
    pub fn granted(&mut self, grant: &SignedGrant) -> Result<(), Violation> {
        self.one_log.granted(grant)
    }

    /// Why the grants of a cluster were made, in order.
    pub fn causes(&self, cluster: &ClusterId) -> Vec<Cause> {
        self.one_log.causes(cluster)
    }

    /// Judges what became of a seat's log at a correct node.
    pub fn check_log(&mut self, node: &Node, observation: &Observation) -> Result<(), Violation> {
        self.one_log.check(node, observation)
    }

    /// Judges what a correct node did.
    pub fn check(&mut self, seat: Seat, disk: &Disk, observation: &Observation) -> Result<(), Violation> {
        match observation {
            Observation::Emitted(message) => {
                durability::check(disk, message)?;
                self.one_epoch.said(message)?;
                self.one_vote.check(message)
            }
            Observation::Executed { proposal, certificate, hash, applied } => {
                self.agreement.executed(seat, proposal.height, *hash)?;
                self.no_loss.committed(proposal.height, certificate, proposal)?;
                self.one_epoch.executed(proposal.height, certificate)?;
                self.validity.executed(proposal.height, applied)
            }
            Observation::Installed(result) => self.agreement.executed(seat, result.height, result.block_hash),
            Observation::Event(Event::EpochBegan(start)) => {
                self.no_loss.begun(*start);
                self.one_epoch.begun(*start)
            }
            Observation::Event(event) => judge(seat, event),
            Observation::Member(_) | Observation::Released(..) | Observation::Activated(_) => Ok(()),
        }
    }
}

/// With at most f faulty seats no correct machine may find a contradiction.
fn judge(seat: Seat, event: &Event) -> Result<(), Violation> {
    let fatal = matches!(event, Event::SafetyViolated { .. } | Event::Diverged { .. } | Event::Disputed { .. });
    if fatal { Err(Violation { invariant: "agreement", what: format!("seat {seat}: {event:?}") }) } else { Ok(()) }
}
