//! The record of a lease.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::fence::Fence;
use crate::bucket::Entry;
use crate::host::host_name;
use crate::recipes::record::{RecipeRecord, Unknown, Value as Stored};

/// The stored record of a lease. Its `Debug` output shows no values of users.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct LeaseRecord {
    /// A unique id of this attempt.
    pub(crate) id: String,
    pub(crate) owner: String,
    /// When the lease was taken, in milliseconds since 1970 by the holder's clock. For people to read, never compared.
    pub(crate) since: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
    /// The revision of the first write of the term. Absent in that first write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) term: Option<u64>,
    /// An additional value of the recipe or its user, for example a description of the leader.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub(crate) value: Option<Value>,
    /// How often the value was replaced. Distinguishes a new value from a renewal.
    #[serde(rename = "said", default, skip_serializing_if = "is_zero")]
    pub(crate) value_version: u64,
    /// In a ticket: the requested TTL, in milliseconds, of a lease that is handed over to it.
    #[serde(rename = "wants", default, skip_serializing_if = "Option::is_none")]
    pub(crate) requested_ttl_ms: Option<u64>,
    /// In a lease that was handed over and not yet renewed: the revision of the ticket that it was handed over to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ticket: Option<u64>,
    /// In a run of `once`: the fingerprint of its request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fingerprint: Option<String>,
    #[serde(flatten)]
    pub(crate) unknown: Unknown,
}

impl LeaseRecord {
    pub(crate) fn new(owner: String, note: Option<String>, value: Option<Value>) -> Self {
        let unknown = Unknown::default();
        Self {
            id: fresh_id(),
            owner,
            since: now(),
            note,
            term: None,
            value,
            value_version: 0,
            requested_ttl_ms: None,
            ticket: None,
            fingerprint: None,
            unknown,
        }
    }

    /// Returns the same record for another attempt, with a fresh id and the current time.
    pub(crate) fn with_fresh_id(self) -> Self {
        Self { id: fresh_id(), since: now(), ..self }
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Converts the time of a record.
pub(crate) fn time_of(millis: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_millis(millis)).unwrap_or(UNIX_EPOCH)
}

/// Reads a present field as `Some`, also if it is `null`. By default serde reads `null` as an absent field.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Returns a unique id.
pub(crate) fn fresh_id() -> String {
    format!("{:016x}{:016x}", rand::random::<u64>(), rand::random::<u64>())
}

/// The environment variable that names the owner of the leases of a process.
const OWNER: &str = "KVTYPED_OWNER";

/// Returns the owner name of this process: that of the environment, or else the names of the connection and the host,
/// with the process id.
pub(crate) fn default_owner(connection: Option<&str>) -> String {
    let owner = std::env::var(OWNER).ok().filter(|owner| !owner.is_empty());
    owner.unwrap_or_else(|| process_name(connection, host_name(), std::process::id()))
}

fn process_name(connection: Option<&str>, host: Option<&str>, pid: u32) -> String {
    match (connection, host) {
        (Some(connection), Some(host)) => format!("{connection}@{host} (pid {pid})"),
        (Some(name), None) | (None, Some(name)) => format!("{name} (pid {pid})"),
        (None, None) => format!("process {pid}"),
    }
}

impl fmt::Debug for LeaseRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            id,
            owner,
            since,
            note,
            term,
            value: _,
            value_version,
            requested_ttl_ms,
            ticket,
            fingerprint: _,
            unknown,
        } = self;
        f.debug_struct("LeaseRecord")
            .field("id", id)
            .field("owner", owner)
            .field("since", since)
            .field("note", note)
            .field("term", term)
            .field("value_version", value_version)
            .field("requested_ttl_ms", requested_ttl_ms)
            .field("ticket", ticket)
            .field("unknown", unknown)
            .finish_non_exhaustive()
    }
}

/// Returns the fencing token of the term that an entry belongs to.
pub(crate) fn fence_of(entry: &Entry<RecipeRecord<LeaseRecord>>) -> Fence {
    Fence::new(entry.value.term.unwrap_or_else(|| entry.revision().get()))
}

/// Returns the time until a lease expires without a renewal, by the server's clock. [`Duration::MAX`] for a record without
/// a TTL, which no program of this crate writes.
pub(crate) fn expires_in<V: Stored>(entry: &Entry<RecipeRecord<V>>) -> Duration {
    entry.remaining().unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_owner_names_connection_and_host() {
        let name = |connection, host| process_name(connection, host, 14903);
        assert_eq!(name(None, Some("web-7")), "web-7 (pid 14903)");
        assert_eq!(name(Some("billing"), Some("web-7")), "billing@web-7 (pid 14903)");
        assert_eq!(name(Some("billing"), None), "billing (pid 14903)");
        assert_eq!(name(None, None), "process 14903");
    }
}
