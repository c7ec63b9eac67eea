//! Names and counters of publication.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use standin_foundation::{Digest, InvalidId};
use standin_ledger::Title;

/// What the title of a push begins with; the topic's name follows.
pub const TOPIC_PREFIX: &str = "topic.";

/// The title of instructions about locks and topics.
pub const PUBLISHER_TITLE: &str = "publisher";

/// Name of a topic: 1 to 26 characters of a-z, 0-9, `-`, `_` and `.`.
///
/// It stands in the title of every push, so that a block can prove that it shows all of a topic.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Title);

impl Topic {
    /// The topic that a transaction's title names; none if it names none.
    pub fn of_title(title: Title) -> Option<Self> {
        let name = title.as_str().strip_prefix(TOPIC_PREFIX)?;
        (!name.is_empty()).then_some(Self(title))
    }

    /// The title of a push.
    pub fn title(self) -> Title {
        self.0
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        self.0.as_str().strip_prefix(TOPIC_PREFIX).unwrap_or_default()
    }
}

impl FromStr for Topic {
    type Err = InvalidId;

    fn from_str(name: &str) -> Result<Self, InvalidId> {
        let title = format!("{TOPIC_PREFIX}{name}").parse().ok();
        title.and_then(Self::of_title).ok_or_else(|| InvalidId {
            what: "topic",
            found: name.chars().take(80).collect(),
            expected: "1 to 26 characters of a-z, 0-9, `-`, `_` and `.`".to_owned(),
        })
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic({self})")
    }
}

impl Serialize for Topic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Topic {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The one after it, if there is one.
            pub fn next(self) -> Option<Self> {
                self.0.checked_add(1).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter!(
    /// Number of a lock's grant: one more with each grant, never with a renewal. 0 before the first.
    Fence
);
counter!(
    /// A datum's place in its topic, from 1, without a gap. 0 is "none yet".
    Sequence
);

impl Sequence {
    /// So many further on, if there is such a place.
    pub fn plus(self, count: u64) -> Option<Self> {
        self.0.checked_add(count).map(Self)
    }
}

/// Which frame of a topic is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhichFrame {
    /// The one that a datum is in.
    Of(Sequence),
    /// The newest whose content has a hash.
    Hash(Digest),
}

impl FromStr for WhichFrame {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let sequence = text.parse().ok().filter(|sequence| *sequence > 0 && text.len() < 64);
        let which = sequence.map(|sequence| Self::Of(Sequence(sequence)));
        which.or_else(|| text.parse().ok().map(Self::Hash)).ok_or_else(|| InvalidId {
            what: "frame",
            found: text.chars().take(80).collect(),
            expected: "the number of a datum, from 1 on, or a hash of 64 hexadecimal digits".to_owned(),
        })
    }
}

impl fmt::Display for WhichFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Of(sequence) => write!(f, "{sequence}"),
            Self::Hash(hash) => write!(f, "{hash}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topics_name_is_what_its_title_says_behind_the_prefix() {
        let topic: Topic = "host-load".parse().unwrap();
        assert_eq!((topic.as_str(), topic.title().as_str()), ("host-load", "topic.host-load"));
        assert_eq!(Topic::of_title(topic.title()), Some(topic));
        assert_eq!(Topic::of_title("publisher".parse().unwrap()), None);
        assert_eq!(Topic::of_title("topic.".parse().unwrap()), None);
        for bad in ["", "A", "a b", "abcdefghijklmnopqrstuvwxyz0"] {
            assert!(bad.parse::<Topic>().unwrap_err().to_string().contains("1 to 26"), "{bad}");
        }
    }
}
