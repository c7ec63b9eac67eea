//! What a drill's node does wrong.

use std::str::FromStr;

use standin_consensus::actor::Misbehaviour as ReplicaMisbehaviour;

/// How a node misbehaves, on a chain of a drill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misbehaviour {
    /// Its replica does.
    Replica(ReplicaMisbehaviour),
    /// As a publisher it holds its locks and publishes nothing.
    StalledPublisher,
}

impl FromStr for Misbehaviour {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "stalled-publisher" => Ok(Self::StalledPublisher),
            of_replica => {
                let known = of_replica.parse().map(Self::Replica);
                known.map_err(|known: &str| format!("{known}, and `stalled-publisher`"))
            }
        }
    }
}
