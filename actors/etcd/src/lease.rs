//! Leases: keys that are bound to one go when it ends.

use serde::Deserialize;
use serde_json::json;

use crate::answers::number;
use crate::client::{Client, Error};

/// A lease's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseId(pub u64);

/// A lease that etcd has given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Its number.
    pub id: LeaseId,
    /// For how long after each renewal, in s: it may be longer than what was asked for.
    pub seconds: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Granted {
    #[serde(rename = "ID", deserialize_with = "number")]
    id: u64,
    #[serde(rename = "TTL", deserialize_with = "number")]
    seconds: u64,
}

#[derive(Debug, Deserialize)]
struct Kept {
    result: Granted,
}

impl Client {
    /// A lease of at least so many seconds.
    pub async fn grant(&self, seconds: u64) -> Result<Lease, Error> {
        let Granted { id, seconds } = self.ask("lease/grant", &json!({ "TTL": seconds.to_string() })).await?;
        Ok(Lease { id: LeaseId(id), seconds })
    }

    /// Renews a lease; whether it still was one.
    pub async fn keep_alive(&self, LeaseId(id): LeaseId) -> Result<bool, Error> {
        let Kept { result } = self.ask("lease/keepalive", &json!({ "ID": id.to_string() })).await?;
        // What has ended has no time left, and that is left out.
        Ok(result.seconds > 0)
    }

    /// Ends a lease, and what is bound to it.
    pub async fn revoke(&self, LeaseId(id): LeaseId) -> Result<(), Error> {
        let _: serde_json::Value = self.ask("lease/revoke", &json!({ "ID": id.to_string() })).await?;
        Ok(())
    }
}
