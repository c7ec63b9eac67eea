//! What a drill's replica does wrong. The machines know nothing of it.

use standin_foundation::Digest;
use standin_ledger::CheckpointResult;

/// How a replica of a drill misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misbehaviour {
    /// While it speaks for its seat it computes wrong results.
    WrongResult,
    /// It votes for wrong results, whatever its cluster has agreed on.
    WrongVote,
}

impl std::str::FromStr for Misbehaviour {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "wrong-result" => Ok(Self::WrongResult),
            "wrong-vote" => Ok(Self::WrongVote),
            _ => Err("`wrong-result` and `wrong-vote` are known"),
        }
    }
}

pub(super) fn distorted(mut result: CheckpointResult) -> CheckpointResult {
    result.state_root = Digest::sha256_of(&[b"wrong", result.state_root.as_bytes()]);
    result
}
