//! What a node can show: tables of rows by key, and streams of entries, each counted. A reader says how far it is, and gets what came
//! after; one that is too far behind gets all of it anew. So a reader costs nothing while it does not read.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Map, Value};

use crate::protocol::Filter;

/// Rows of a table, those included that went and are remembered. Others are not taken: what a node is told by others must not fill its memory.
const ROWS_MAX: usize = 4_096;
/// Entries of a stream in one answer: of more the newest, and how many were left out.
const ENTRIES_AT_ONCE: usize = 50;

/// All topics of a node, in one life of its process.
#[derive(Debug)]
pub struct Hub {
    epoch: String,
    topics: BTreeMap<&'static str, Topic>,
}

#[derive(Debug)]
enum Topic {
    Table(Table),
    Stream(Stream),
}

#[derive(Debug, Default)]
struct Table {
    rows: BTreeMap<String, Row>,
    /// The newest change's number.
    sequence: u64,
    /// Rows that went up to here are forgotten: whoever has not heard of them gets the whole table.
    forgotten: u64,
}

/// A row: what it has, and what it had, each with the number of its last change.
#[derive(Debug, Default)]
struct Row {
    is_there: bool,
    changed: u64,
    fields: BTreeMap<String, (Option<Value>, u64)>,
}

#[derive(Debug)]
struct Stream {
    keeps: usize,
    sequence: u64,
    entries: VecDeque<Value>,
}

/// What a reader wants of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// The topic.
    pub topic: String,
    /// It has everything up to this number; without it, nothing.
    pub after: Option<u64>,
    /// Of a stream, only entries that have these values.
    pub filter: Filter,
}

/// What a reader gets.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// All of it: a table's rows by key, or the newest entries of a stream.
    Whole {
        /// The topic.
        topic: String,
        /// The number of the newest change in it.
        sequence: u64,
        /// A table's rows, or a stream's entries.
        data: Value,
    },
    /// What changed in a table.
    Rows {
        /// The topic.
        topic: String,
        /// The numbers of the first and the last change.
        changes: (u64, u64),
        /// By key what changed in the row: fields with their new values, null for those that went; null for rows that went.
        patch: Map<String, Value>,
    },
    /// What was added to a stream.
    Entries {
        /// The topic.
        topic: String,
        /// The numbers of the first and the last entry.
        entries: (u64, u64),
        /// What was added, and fits the filter.
        added: Vec<Value>,
        /// Entries that fit, and were left out.
        skipped: u64,
    },
    /// There is no such topic.
    Unknown(String),
}

impl Hub {
    /// Without topics. `epoch` names this life of the process: numbers of another one mean nothing.
    pub fn new(epoch: String) -> Self {
        Self { epoch, topics: BTreeMap::new() }
    }

    /// The name of this life.
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// Adds a table.
    pub fn add_table(&mut self, topic: &'static str) {
        self.topics.insert(topic, Topic::Table(Table::default()));
    }

    /// Adds a stream that keeps so many entries.
    pub fn add_stream(&mut self, topic: &'static str, keeps: usize) {
        self.topics.insert(topic, Topic::Stream(Stream { keeps, sequence: 0, entries: VecDeque::new() }));
    }

    /// The topics that there are.
    pub fn topics(&self) -> impl Iterator<Item = &'static str> {
        self.topics.keys().copied()
    }

    /// Whether there is such a table.
    pub fn is_table(&self, topic: &str) -> bool {
        matches!(self.topics.get(topic), Some(Topic::Table(_)))
    }

    /// Whether there is such a stream.
    pub fn is_stream(&self, topic: &str) -> bool {
        matches!(self.topics.get(topic), Some(Topic::Stream(_)))
    }

    /// Sets a row; what is null is not there. False where there is no such table, or no room in it.
    pub fn put(&mut self, topic: &str, key: &str, row: Map<String, Value>) -> bool {
        match self.topics.get_mut(topic) {
            Some(Topic::Table(table)) => table.put(key, row),
            _ => false,
        }
    }

    /// Takes a row away.
    pub fn remove(&mut self, topic: &str, key: &str) {
        if let Some(Topic::Table(table)) = self.topics.get_mut(topic) {
            table.remove(key);
        }
    }

    /// Adds an entry to a stream. False where there is no such stream.
    pub fn push(&mut self, topic: &str, entry: Value) -> bool {
        let Some(Topic::Stream(stream)) = self.topics.get_mut(topic) else { return false };
        stream.sequence += 1;
        stream.entries.push_back(entry);
        if stream.entries.len() > stream.keeps {
            stream.entries.pop_front();
        }
        true
    }

    /// What a reader has not got; none if that is nothing.
    pub fn read(&self, want: &Want) -> Option<Part> {
        match self.topics.get(want.topic.as_str()) {
            None => Some(Part::Unknown(want.topic.clone())),
            Some(Topic::Table(table)) => table.read(want),
            Some(Topic::Stream(stream)) => stream.read(want),
        }
    }
}

impl Table {
    fn put(&mut self, key: &str, row: Map<String, Value>) -> bool {
        if !self.rows.contains_key(key) && !self.has_room() {
            return false;
        }
        let next = self.sequence + 1;
        let known = self.rows.entry(key.to_owned()).or_default();
        let mut has_changed = !known.is_there;
        known.is_there = true;
        let gone: Vec<_> = known.fields.keys().filter(|field| !row.contains_key(*field)).cloned().collect();
        let gone = gone.into_iter().map(|field| (field, Value::Null));
        for (field, value) in row.into_iter().chain(gone) {
            let value = (!value.is_null()).then_some(value);
            if known.fields.get(&field).and_then(|(value, _)| value.as_ref()) != value.as_ref() {
                known.fields.insert(field, (value, next));
                has_changed = true;
            }
        }
        if has_changed {
            (known.changed, self.sequence) = (next, next);
        }
        true
    }

    fn remove(&mut self, key: &str) {
        let Some(row) = self.rows.get_mut(key).filter(|row| row.is_there) else { return };
        self.sequence += 1;
        (row.is_there, row.changed) = (false, self.sequence);
        row.fields.values_mut().for_each(|field| *field = (None, self.sequence));
    }

    /// Forgets rows that went, if there is no room without that.
    fn has_room(&mut self) -> bool {
        if self.rows.len() >= ROWS_MAX {
            self.rows.retain(|_, row| row.is_there);
            self.forgotten = self.sequence;
        }
        self.rows.len() < ROWS_MAX
    }

    fn read(&self, want: &Want) -> Option<Part> {
        let topic = want.topic.clone();
        let Some(after) = want.after.filter(|after| (self.forgotten..=self.sequence).contains(after)) else {
            let rows = self.rows.iter().filter(|(_, row)| row.is_there);
            let data = rows.map(|(key, row)| (key.clone(), row.since(0))).collect();
            return Some(Part::Whole { topic, sequence: self.sequence, data: Value::Object(data) });
        };
        let changed = self.rows.iter().filter(|(_, row)| row.changed > after);
        let patch: Map<_, _> = changed.map(|(key, row)| (key.clone(), row.since(after))).collect();
        (after < self.sequence).then_some(Part::Rows { topic, changes: (after + 1, self.sequence), patch })
    }
}

impl Row {
    /// What has changed: for a reader with nothing, what is there.
    fn since(&self, after: u64) -> Value {
        if !self.is_there {
            return Value::Null;
        }
        let changed = self.fields.iter().filter(|(_, (value, at))| *at > after && (after > 0 || value.is_some()));
        changed.map(|(field, (value, _))| (field.clone(), value.clone().unwrap_or_default())).collect()
    }
}

impl Stream {
    fn read(&self, want: &Want) -> Option<Part> {
        let topic = want.topic.clone();
        let fits = |entry: &&Value| want.filter.fits(entry);
        let behind = want.after.and_then(|after| self.sequence.checked_sub(after));
        let Some(behind) = behind.filter(|behind| *behind <= self.entries.len() as u64) else {
            let entries: Vec<_> = self.entries.iter().filter(fits).cloned().collect();
            return Some(Part::Whole { topic, sequence: self.sequence, data: Value::Array(entries) });
        };
        if behind == 0 {
            return None;
        }
        let added: Vec<_> = self.entries.iter().skip(self.entries.len() - behind as usize).filter(fits).collect();
        let skipped = added.len().saturating_sub(ENTRIES_AT_ONCE);
        let entries = (self.sequence - behind + 1, self.sequence);
        let added = added.into_iter().skip(skipped).cloned().collect();
        Some(Part::Entries { topic, entries, added, skipped: skipped as u64 })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn row(value: Value) -> Map<String, Value> {
        let Value::Object(row) = value else { panic!("a row is an object") };
        row
    }

    fn hub() -> Hub {
        let mut hub = Hub::new("life".into());
        hub.add_table("nodes");
        hub.add_stream("events", 100);
        hub
    }

    fn want(topic: &str, after: Option<u64>) -> Want {
        Want { topic: topic.into(), after, filter: Filter::default() }
    }

    #[test]
    fn a_reader_gets_what_changed_since_and_nothing_else() {
        let mut hub = hub();
        assert!(hub.put("nodes", "a", row(json!({ "height": 1, "role": "active", "gone": 1 }))));
        let whole = hub.read(&want("nodes", None));
        let data = json!({ "a": { "height": 1, "role": "active", "gone": 1 } });
        assert_eq!(whole, Some(Part::Whole { topic: "nodes".into(), sequence: 1, data }));
        assert_eq!(hub.read(&want("nodes", Some(1))), None);
        hub.put("nodes", "a", row(json!({ "height": 2, "role": "active", "gone": null })));
        hub.put("nodes", "a", row(json!({ "height": 3, "role": "active" })));
        hub.put("nodes", "a", row(json!({ "height": 3, "role": "active" })));
        let patch = row(json!({ "a": { "height": 3, "gone": null } }));
        let changed = Part::Rows { topic: "nodes".into(), changes: (2, 3), patch };
        assert_eq!(hub.read(&want("nodes", Some(1))), Some(changed));
        hub.remove("nodes", "a");
        let went = Part::Rows { topic: "nodes".into(), changes: (4, 4), patch: row(json!({ "a": null })) };
        assert_eq!(hub.read(&want("nodes", Some(3))), Some(went));
        assert!(matches!(hub.read(&want("elsewhere", None)), Some(Part::Unknown(topic)) if topic == "elsewhere"));
    }

    #[test]
    fn whoever_is_too_far_behind_or_of_another_life_gets_all() {
        let mut hub = hub();
        for height in 1..=200 {
            hub.put("nodes", "a", row(json!({ "height": height })));
            hub.push("events", json!({ "height": height }));
        }
        let patch = row(json!({ "a": { "height": 200 } }));
        let changed = Part::Rows { topic: "nodes".into(), changes: (2, 200), patch };
        assert_eq!(hub.read(&want("nodes", Some(1))), Some(changed), "joined, however many they were");
        assert!(matches!(hub.read(&want("nodes", Some(u64::MAX))), Some(Part::Whole { .. })), "of the future");
        assert!(matches!(hub.read(&want("events", Some(u64::MAX))), Some(Part::Whole { .. })));
        let Some(Part::Whole { data: Value::Array(kept), .. }) = hub.read(&want("events", Some(0))) else {
            panic!("a stream keeps what it keeps");
        };
        assert_eq!(kept.len(), 100);
    }

    #[test]
    fn a_burst_is_cut_and_says_how_much_was_left_out() {
        let mut hub = hub();
        for number in 1..=60 {
            hub.push("events", json!({ "number": number, "even": (number % 2 == 0).to_string() }));
        }
        let Some(Part::Entries { entries, added, skipped, .. }) = hub.read(&want("events", Some(0))) else {
            panic!("entries");
        };
        assert_eq!((entries, added.len(), skipped), ((1, 60), 50, 10));
        assert_eq!(added.last(), Some(&json!({ "number": 60, "even": "true" })), "the newest stay");
        let filter: Filter = serde_json::from_value(json!({ "even": "true" })).unwrap();
        let even = Want { filter, ..want("events", Some(0)) };
        let Some(Part::Entries { entries, added, skipped, .. }) = hub.read(&even) else { panic!("entries") };
        assert_eq!((entries, added.len(), skipped), ((1, 60), 30, 0));
    }

    #[test]
    fn a_table_does_not_grow_without_a_bound() {
        let mut hub = hub();
        (0..ROWS_MAX).for_each(|key| assert!(hub.put("nodes", &key.to_string(), row(json!({})))));
        assert!(!hub.put("nodes", "one more", row(json!({}))));
        assert!(hub.put("nodes", "0", row(json!({ "known": true }))));
        let before = ROWS_MAX as u64 + 1;
        hub.remove("nodes", "1");
        assert!(hub.put("nodes", "one more", row(json!({}))), "in the place of one that went");
        assert!(matches!(hub.read(&want("nodes", Some(before))), Some(Part::Whole { .. })), "and is forgotten");
    }

    /// A reader that reads now and then, as the page does.
    fn follow(hub: &Hub, seen: &mut Map<String, Value>, at: &mut Option<u64>) {
        match hub.read(&want("nodes", *at)) {
            Some(Part::Whole { sequence, data: Value::Object(rows), .. }) => (*seen, *at) = (rows, Some(sequence)),
            Some(Part::Rows { changes: (from, to), patch, .. }) => {
                assert_eq!(*at, Some(from - 1), "without a gap");
                patch.into_iter().for_each(|(key, change)| apply(seen, key, change));
                *at = Some(to);
            }
            other => assert_eq!(other, None),
        }
    }

    fn apply(seen: &mut Map<String, Value>, key: String, change: Value) {
        let Value::Object(change) = change else { return drop(seen.remove(&key)) };
        let Value::Object(row) = seen.entry(key).or_insert_with(|| json!({})) else { panic!("a row is an object") };
        for (field, value) in change {
            match value {
                Value::Null => drop(row.remove(&field)),
                value => drop(row.insert(field, value)),
            }
        }
    }

    proptest! {
        #[test]
        fn whoever_follows_sees_the_table_as_it_is(
            changes in prop::collection::vec((0..3_u8, 0..3_u8, 0..3_i64, any::<bool>()), 0..60)
        ) {
            let mut hub = hub();
            let (mut seen, mut at) = (Map::new(), None);
            for (key, what, value, reads) in changes {
                let key = key.to_string();
                match what {
                    0 => hub.remove("nodes", &key),
                    1 => drop(hub.put("nodes", &key, row(json!({ "a": value, "in": { "b": value } })))),
                    _ => drop(hub.put("nodes", &key, row(json!({ "c": value, "in": { "d": 1 } })))),
                }
                if reads {
                    follow(&hub, &mut seen, &mut at);
                }
            }
            follow(&hub, &mut seen, &mut at);
            let Some(Part::Whole { data, .. }) = hub.read(&want("nodes", None)) else { panic!("the table") };
            prop_assert_eq!(Value::Object(seen), data);
        }
    }
}
