//! What a backend can do, and how a bucket is.

use std::time::SystemTime;

use crate::config::BucketConfig;
use crate::revision::Revision;

/// What a backend can do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Whether single keys can have a TTL, and expired ones leave a marker (nats-server 2.11).
    pub key_ttl: bool,
    /// Whether buckets can take several writes, all or nothing (nats-server 2.12.1).
    pub atomic: bool,
    /// Whether buckets can mirror and source other buckets.
    pub mirrors: bool,
    /// Whether it adds counters up itself (nats-server 2.12).
    pub counters: bool,
    /// Who answers, for messages: `nats-server 2.15.1 (JetStream API level 5)`.
    pub backend: String,
}

impl Capabilities {
    /// Those of a backend of this name that can do nothing beyond the contract.
    pub fn new(backend: impl Into<String>) -> Self {
        Self { key_ttl: false, atomic: false, mirrors: false, counters: false, backend: backend.into() }
    }
}

/// Which bucket a handle was opened on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incarnation {
    /// When it was made.
    pub created: SystemTime,
    /// Grows whenever the bucket may have become another one, or an older copy of itself: the connection was lost, say.
    pub epoch: u64,
}

/// How a bucket is at this moment.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct BucketStatus {
    /// Its settings, complete.
    pub config: BucketConfig,
    /// How many entries it holds: values, their history, and markers.
    pub values: u64,
    /// How large it is, in bytes, as the backend counts.
    pub bytes: u64,
    /// The revision of the last write; [`Revision::ZERO`] before the first.
    pub last_revision: Revision,
    /// When it was made.
    pub created: SystemTime,
    /// The time of the backend's clock when it answered. This clock dates entries and expires them.
    pub now: SystemTime,
    /// Whether the TTL of a single entry takes effect.
    pub entry_ttl: bool,
    /// What stores it: `JetStream`, `memory`.
    pub backing_store: &'static str,
    /// What the server said, where there is one: the stream's information (`$JS.API.STREAM.INFO`).
    pub raw: Option<serde_json::Value>,
}

impl BucketStatus {
    /// The status of an empty bucket with these settings and creation time. Its clock is the local one, and single
    /// entries can have a TTL if it has limit markers.
    pub fn new(config: BucketConfig, backing_store: &'static str, created: SystemTime) -> Self {
        let entry_ttl = config.limit_markers.is_some();
        let now = SystemTime::now();
        Self {
            config,
            values: 0,
            bytes: 0,
            last_revision: Revision::ZERO,
            created,
            now,
            entry_ttl,
            backing_store,
            raw: None,
        }
    }

    /// The name of the bucket.
    pub fn bucket(&self) -> &str {
        &self.config.name
    }
}
