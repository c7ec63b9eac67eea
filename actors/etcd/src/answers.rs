//! What etcd answers. Numbers are texts in it, and what is nothing is left out.

use serde::{Deserialize, Deserializer};

#[derive(Debug, Deserialize)]
pub(crate) struct Status {
    pub(crate) version: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Login {
    pub(crate) token: String,
}

/// What etcd answers where it does nothing; why, under one name or both.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Failed {
    pub(crate) code: i64,
    error: String,
    message: String,
}

impl Failed {
    pub(crate) fn because(error: impl std::fmt::Display) -> Self {
        Self { message: error.to_string(), ..Self::default() }
    }

    pub(crate) fn why(self) -> String {
        if self.message.is_empty() { self.error } else { self.message }
    }
}

/// What a transaction came to. Numbers are texts in it, and what is nothing is left out.
#[derive(Debug, Deserialize)]
#[serde(default)]
#[derive(Default)]
pub struct Told {
    header: Header,
    /// What was compared held.
    pub succeeded: bool,
    responses: Vec<Response>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Header {
    #[serde(deserialize_with = "number")]
    pub(crate) revision: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Response {
    response_range: Range,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Range {
    kvs: Vec<Entry>,
}

/// A key with its value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// Its key, encoded.
    pub key: String,
    /// Its value, encoded.
    pub value: String,
    /// The revision in which it was made.
    #[serde(deserialize_with = "number")]
    pub create_revision: u64,
    /// The revision in which it was changed last.
    #[serde(deserialize_with = "number")]
    pub mod_revision: u64,
}

impl Told {
    /// How often etcd has changed.
    pub fn revision(&self) -> u64 {
        self.header.revision
    }

    /// What was asked for.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.responses.iter().flat_map(|response| &response.response_range.kvs)
    }

    /// What stands under a key.
    pub fn found(&self, key: &str) -> Option<&Entry> {
        self.entries().find(|entry| entry.key == key)
    }
}

pub(crate) fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_etcd_says_is_read_whatever_it_leaves_out() {
        let told: Told =
            serde_json::from_str(r#"{"header":{"revision":"7"},"responses":[{"response_range":{}}]}"#).unwrap();
        assert_eq!((told.revision(), told.succeeded, told.entries().count()), (7, false, 0));
        for text in [r#"{"error":"no leader","code":14}"#, r#"{"error":"x","message":"no leader","code":14}"#] {
            let failed: Failed = serde_json::from_str(text).unwrap();
            assert_eq!((failed.code, failed.why().as_str()), (14, "no leader"));
        }
    }
}
