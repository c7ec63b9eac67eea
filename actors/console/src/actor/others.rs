//! What is known of the other nodes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use standin_foundation::NodeId;

use super::{COLLECT_INTERVAL, DETAIL_BYTES_MAX, Row};
use crate::Happening;
use crate::messages::Report;

/// Whoever tells nothing for so long is late.
const LATE_AFTER: Duration = COLLECT_INTERVAL.saturating_mul(3);

#[derive(Debug, Default)]
pub(super) struct Others(BTreeMap<NodeId, Other>);

#[derive(Debug, Default)]
struct Other {
    row: Row,
    /// When it last told, by this node's clocks.
    told: Option<(Instant, u64)>,
    /// Its end has closed the connection since.
    is_lost: bool,
    /// Its life, and the number of its next happening.
    next: (u64, u64),
}

impl Others {
    /// It told how it stands.
    pub(super) fn told(&mut self, node: NodeId, row: Row, unix_ms: u64) {
        let other = self.0.entry(node).or_default();
        (other.row, other.told, other.is_lost) = (row, Some((Instant::now(), unix_ms)), false);
    }

    /// It belongs to nothing any more.
    pub(super) fn forget(&mut self, node: &NodeId) {
        self.0.remove(node);
    }

    /// It closed the connection.
    pub(super) fn lost(&mut self, node: &NodeId) {
        if let Some(other) = self.0.get_mut(node) {
            other.is_lost = true;
        }
    }

    /// What happened there that was not told before.
    pub(super) fn new_of(&mut self, node: &NodeId, report: &Report) -> Vec<Happening> {
        let other = self.0.entry(*node).or_default();
        if other.next.0 != report.life {
            other.next = (report.life, 0);
        }
        let known = other.next.1.saturating_sub(report.from) as usize;
        other.next.1 = other.next.1.max(report.from.saturating_add(report.happened.len() as u64));
        let is_sound = |happening: &&Happening| happening.detail.len() <= DETAIL_BYTES_MAX;
        report.happened.iter().skip(known).filter(is_sound).cloned().collect()
    }

    /// A row for each node: what is known of it, what it says of itself, and how sure that is.
    pub(super) fn rows(
        &self,
        roster: &BTreeMap<NodeId, Row>,
        is_connected: impl Fn(&NodeId) -> bool,
        now: Instant,
    ) -> Vec<(NodeId, Row)> {
        let all = roster.iter().map(|(node, known)| {
            let other = self.0.get(node);
            let told = other.and_then(|other| other.told);
            let is_late = told.is_none_or(|(at, _)| now - at > LATE_AFTER);
            let state = match (is_connected(node), other.is_some_and(|other| other.is_lost)) {
                (false, _) | (true, true) => "unreachable",
                (true, false) if is_late => "late",
                (true, false) => "live",
            };
            let mut row = other.map(|other| other.row.clone()).unwrap_or_default();
            // Where it belongs is not its own word.
            row.extend(known.clone());
            row.insert("state".to_owned(), state.into());
            if let Some((_, unix_ms)) = told {
                row.insert("as_of_ms".to_owned(), unix_ms.into());
            }
            (*node, row)
        });
        all.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    fn happening(detail: &str) -> Happening {
        let detail = detail.to_owned();
        Happening { at_ms: 1, kind: Kind::Granted, cluster: None, term: Some(2), ms: None, detail }
    }

    fn report(life: u64, from: u64, details: &[&str]) -> Report {
        let happened = details.iter().map(|detail| happening(detail)).collect();
        Report { life, rows: Vec::new(), from, happened }
    }

    fn node(number: u8) -> NodeId {
        hex_node(&format!("{number:02x}").repeat(32))
    }

    fn hex_node(hex: &str) -> NodeId {
        hex.parse().unwrap()
    }

    #[test]
    fn what_happened_is_shown_once() {
        let mut others = Others::default();
        let mut details = |report: &Report| {
            let new = others.new_of(&node(1), report);
            new.into_iter().map(|happening| happening.detail).collect::<Vec<_>>()
        };
        assert_eq!(details(&report(7, 4, &["a", "b"])), ["a", "b"]);
        assert_eq!(details(&report(7, 4, &["a", "b", "c"])), ["c"], "told again");
        assert_eq!(details(&report(7, 5, &["b", "c"])), [""; 0]);
        assert_eq!(details(&report(7, 9, &["d"])), ["d"], "some were too many to keep");
        assert_eq!(details(&report(8, 0, &["e"])), ["e"], "started anew");
        assert_eq!(details(&report(8, u64::MAX, &["f"])), ["f"], "whatever it says");
        assert_eq!(details(&report(8, 0, &[&"x".repeat(DETAIL_BYTES_MAX + 1)])), [""; 0], "bounded");
    }

    #[test]
    fn a_row_says_how_sure_it_is() {
        let mut others = Others::default();
        let roster = [(node(1), Row::from_iter([("site".to_owned(), "a".into())]))].into_iter().collect();
        let now = Instant::now();
        let state = |others: &Others, connected, now| {
            let rows = others.rows(&roster, |_| connected, now);
            let [(_, row)] = &rows[..] else { panic!("one row") };
            assert_eq!(row["site"], "a");
            row["state"].as_str().unwrap().to_owned()
        };
        assert_eq!(state(&others, false, now), "unreachable");
        assert_eq!(state(&others, true, now), "late", "it has told nothing yet");
        let says =
            [("height".to_owned(), 3.into()), ("site".to_owned(), "b".into()), ("state".to_owned(), "dead".into())];
        others.told(node(1), Row::from_iter(says), 5);
        assert_eq!(state(&others, true, Instant::now()), "live");
        assert_eq!(state(&others, true, Instant::now() + LATE_AFTER * 2), "late", "frozen, or overloaded");
        others.lost(&node(1));
        assert_eq!(state(&others, true, Instant::now()), "unreachable", "before the bridge knows");
        others.told(node(1), Row::new(), 6);
        assert_eq!(state(&others, true, Instant::now()), "live");
    }
}
