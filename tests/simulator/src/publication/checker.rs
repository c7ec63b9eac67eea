//! What was promised, judged from outside: by data's own names (source and number) and by what came when. Shares nothing with the machines.

use std::collections::{BTreeMap, BTreeSet};

use crate::invariants::Violation;

/// A datum's name: its source, and its number there.
pub type Name = (usize, u64);

/// What terminals saw and sources were told, per topic.
#[derive(Debug, Default)]
pub struct Checker {
    topics: Vec<Promises>,
}

#[derive(Debug, Default)]
struct Promises {
    /// The order, as the first terminal that came so far has seen it.
    order: Vec<Name>,
    /// The same, to be looked up.
    seen: BTreeSet<Name>,
    /// The last datum of each source in the order.
    last_of: BTreeMap<usize, u64>,
    /// What sources were told is safe, and no terminal has yet.
    owed: BTreeSet<Name>,
    /// Data that each terminal has.
    delivered: Vec<usize>,
    /// The highest fence of which each terminal knew.
    fences: Vec<u64>,
    /// The newest grant: its fence, and who.
    granted: u64,
}

fn violated(invariant: &'static str, what: String) -> Result<(), Violation> {
    Err(Violation { invariant, what })
}

impl Checker {
    /// For so many topics and terminals.
    pub fn new(topics: usize, terminals: usize) -> Self {
        let promises = || Promises { delivered: vec![0; terminals], fences: vec![0; terminals], ..Promises::default() };
        Self { topics: (0..topics).map(|_| promises()).collect() }
    }

    /// A lock was granted.
    pub fn granted(&mut self, topic: usize, fence: u64) -> Result<(), Violation> {
        let newest = &mut self.topics[topic].granted;
        if fence != *newest + 1 {
            return violated("fences_rise", format!("topic {topic}: fence {fence} was granted after {newest}"));
        }
        *newest = fence;
        Ok(())
    }

    /// A terminal has learned of a takeover.
    pub fn learned(&mut self, topic: usize, terminal: usize, fence: u64) -> Result<(), Violation> {
        let promises = &mut self.topics[topic];
        if fence > promises.granted {
            let what = format!("topic {topic}, terminal {terminal}: fence {fence} is believed, and was never granted");
            return violated("no_false_takeover", what);
        }
        promises.fences[terminal] = fence.max(promises.fences[terminal]);
        Ok(())
    }

    /// A terminal's consumer got a datum, sent under a fence.
    pub fn delivered(&mut self, topic: usize, terminal: usize, name: Name, fence: u64) -> Result<(), Violation> {
        let promises = &mut self.topics[topic];
        let known = promises.fences[terminal];
        if fence < known {
            return violated(
                "nothing_stale",
                format!(
                    "topic {topic}, terminal {terminal}: {name:?} was first delivered under fence {fence}, and it knew {known}"
                ),
            );
        }
        let place = promises.delivered[terminal];
        promises.delivered[terminal] += 1;
        match promises.order.get(place) {
            Some(expected) if *expected == name => Ok(()),
            Some(expected) => violated(
                "one_order",
                format!(
                    "topic {topic}, terminal {terminal}: datum {place} is {name:?}, and others got {expected:?} there"
                ),
            ),
            None => {
                // What a source had not been told of when it was started again may be missing; nothing comes twice or earlier.
                if let Some(last) = promises.last_of.insert(name.0, name.1).filter(|last| *last >= name.1) {
                    return violated(
                        "sources_order",
                        format!("topic {topic}, terminal {terminal}: {name:?} came after {last} of that source"),
                    );
                }
                promises.order.push(name);
                promises.seen.insert(name);
                promises.owed.remove(&name);
                Ok(())
            }
        }
    }

    /// A source was told that a datum is safe.
    pub fn acknowledged(&mut self, topic: usize, name: Name) {
        let promises = &mut self.topics[topic];
        if !promises.seen.contains(&name) {
            promises.owed.insert(name);
        }
    }

    /// The chain took a checkpoint.
    pub fn published(&mut self, topic: usize, fence: u64) -> Result<(), Violation> {
        let newest = self.topics[topic].granted;
        match fence == newest {
            true => Ok(()),
            false => violated(
                "no_stale_checkpoint",
                format!("topic {topic}: a checkpoint under fence {fence}, the newest is {newest}"),
            ),
        }
    }

    /// Data that every terminal has.
    pub fn common(&self) -> u64 {
        let least = |promises: &Promises| promises.delivered.iter().min().copied().unwrap_or(0) as u64;
        self.topics.iter().map(least).sum()
    }

    /// Whether every terminal has all that was acknowledged, and all that others have.
    pub fn is_settled(&self) -> bool {
        self.missing().is_none()
    }

    fn missing(&self) -> Option<String> {
        for (topic, promises) in self.topics.iter().enumerate() {
            if let Some(lost) = promises.owed.first() {
                return Some(format!("topic {topic}: {lost:?} was acknowledged, and no terminal has it"));
            }
            let behind = promises.delivered.iter().position(|count| *count < promises.order.len());
            if let Some(terminal) = behind {
                let (has, all) = (promises.delivered[terminal], promises.order.len());
                return Some(format!("topic {topic}: terminal {terminal} has {has} data of {all}"));
            }
        }
        None
    }

    /// Says what is missing when everything must have come.
    pub fn demand_all(&self) -> Result<(), Violation> {
        self.missing().map_or(Ok(()), |what| violated("nothing_lost", what))
    }
}
