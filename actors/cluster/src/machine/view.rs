//! How a member stands, for people.

use super::*;

/// Another member, as last heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MateView {
    /// Who.
    pub node: NodeId,
    /// The higher, the earlier it is elected.
    pub priority: u8,
    /// How long ago anything of it came, in ms; none if nothing ever did.
    pub heard_ms: Option<u64>,
    /// Head of its log, by its own word.
    pub head: Lsn,
    /// Up to here it has executed, by its own word.
    pub executed: Height,
    /// Its log is complete, by its own word.
    pub complete: bool,
    /// It is being taken out of service, by its own word.
    pub drains: bool,
    /// As holder: records of the log that it has not acknowledged.
    pub behind: Option<u64>,
}

/// A member and its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Its newest term.
    pub term: Term,
    /// The holder by that term's grant.
    pub holder: Option<NodeId>,
    /// Its set.
    pub in_sync: BTreeSet<NodeId>,
    /// The member that becomes holder next, as far as this one knows.
    pub standby: Option<NodeId>,
    /// This node speaks for the seat.
    pub active: bool,
    /// Its log holds everything that was released.
    pub complete: bool,
    /// Names its disk.
    pub disk: u64,
    /// The register's life, by the auth node's last answer; zero before one has come.
    pub register: Incarnation,
    /// The last record of its log.
    pub head: Lsn,
    /// The last record that it can acknowledge: durable with all before it, payloads that they name included.
    pub sound: Lsn,
    /// What was released, as far as it knows.
    pub released: Lsn,
    /// Why the holder is suspected, and for how long, in ms.
    pub suspicion: Option<(Suspicion, u64)>,
    /// It is being taken out of service: it takes the seat only where nobody else does.
    pub drains: bool,
    /// The other members.
    pub mates: Vec<MateView>,
}

impl Member {
    /// How the member stands.
    pub fn view(&self) -> View {
        let mates = self.neighbours.iter().map(|(node, neighbour)| MateView {
            node: *node,
            priority: neighbour.pulse.priority,
            heard_ms: neighbour.heard.map(|at| self.now - at),
            head: neighbour.pulse.head,
            executed: neighbour.pulse.executed,
            complete: neighbour.pulse.complete,
            drains: neighbour.pulse.drains,
            behind: self.holding.as_ref().and_then(|holding| holding.behind(node, self.log.head().lsn)),
        });
        View {
            term: self.facts.term(),
            holder: self.holder(),
            in_sync: self.in_sync(),
            standby: self.standby(),
            active: self.is_active(),
            complete: self.facts.complete,
            disk: self.facts.disk,
            register: self.register,
            head: self.log.head().lsn,
            sound: self.log.durable_with_payloads(),
            released: self.released(),
            suspicion: self.takeover.suspected().map(|(since, cause)| (cause, self.now - since)),
            drains: self.drains.is_some(),
            mates: mates.collect(),
        }
    }
}
