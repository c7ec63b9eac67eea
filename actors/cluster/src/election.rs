//! Who should hold the seat: a pure function of the neighbour table, so that every member comes to the same answer.

use standin_foundation::NodeId;

/// What the election looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The node.
    pub node: NodeId,
    /// The higher, the earlier.
    pub priority: u8,
    /// It stands by: it becomes active before any other.
    pub is_standby: bool,
    /// It may become active at all.
    pub electable: bool,
    /// It is being taken out of service: it comes after all others.
    pub drains: bool,
}

/// The candidates in the order in which they may become active: the standby, then by falling priority, then by id; those that drain in the
/// same order behind all others. Those that are not electable are left out.
pub fn order(candidates: impl IntoIterator<Item = Candidate>) -> Vec<NodeId> {
    let mut order: Vec<_> = candidates.into_iter().filter(|candidate| candidate.electable).collect();
    order.sort_by_key(|candidate| {
        let Candidate { node, priority, is_standby, drains, .. } = *candidate;
        (drains, !is_standby, std::cmp::Reverse(priority), node)
    });
    order.into_iter().map(|candidate| candidate.node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(id: u8, priority: u8) -> Candidate {
        let node = format!("{id:02x}").repeat(32).parse().unwrap();
        Candidate { node, priority, is_standby: false, electable: true, drains: false }
    }

    #[test]
    fn the_highest_priority_is_first_and_ties_go_to_the_lower_id() {
        let (a, b, c) = (candidate(1, 5), candidate(2, 9), candidate(3, 9));
        assert_eq!(order([c, a, b]), [b.node, c.node, a.node]);
        assert_eq!(order([a, b, c]), order([b, c, a]), "whatever the table's order");
    }

    #[test]
    fn a_standby_comes_first_and_who_is_not_electable_never() {
        let (mut a, mut b, c) = (candidate(1, 1), candidate(2, 9), candidate(3, 5));
        a.is_standby = true;
        b.electable = false;
        assert_eq!(order([a, b, c]), [a.node, c.node]);
    }

    #[test]
    fn whoever_drains_comes_last_and_is_not_forbidden() {
        let (mut a, b, mut c) = (candidate(1, 9), candidate(2, 1), candidate(3, 5));
        (a.drains, a.is_standby, c.drains) = (true, true, true);
        assert_eq!(order([a, b, c]), [b.node, a.node, c.node]);
    }
}
