//! The capabilities of a backend, and the status of a bucket.

use std::time::SystemTime;

use tokio::time::Instant;

use crate::config::BucketConfig;
use crate::revision::Revision;

/// The capabilities of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Whether single keys can have a TTL and leave a marker when they expire (nats-server 2.11).
    pub key_ttl: bool,
    /// Whether buckets support atomic batches of several writes (nats-server 2.12.1).
    pub atomic: bool,
    /// Whether buckets can mirror and source other buckets.
    pub mirrors: bool,
    /// Whether the backend supports counters (nats-server 2.12).
    pub counters: bool,
    /// Whether buckets support write epochs (nats-server 2.11).
    pub write_epochs: bool,
    /// The name of the backend in messages: `nats-server 2.15.1 (JetStream API level 5)`.
    pub backend: String,
}

impl Capabilities {
    /// Creates the capabilities of a backend of this name that supports nothing beyond the required contract.
    pub fn new(backend: impl Into<String>) -> Self {
        let backend = backend.into();
        Self { key_ttl: false, atomic: false, mirrors: false, counters: false, write_epochs: false, backend }
    }
}

/// The identity of the bucket that a handle was opened on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketIdentity {
    /// The creation time of the bucket.
    pub created: SystemTime,
    /// Grows whenever the bucket may have been replaced, by a new bucket or by an older copy, for example after a lost
    /// connection.
    pub connection_epoch: u64,
}

/// A reading of the clock that dates and expires the entries of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    /// The time of the backend's clock.
    pub server: SystemTime,
    /// When the reading arrived in this process.
    pub at: Instant,
}

/// The current status of a bucket.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct BucketStatus {
    /// The complete settings.
    pub config: BucketConfig,
    /// The number of entries: values, their history, and delete markers. Without index entries.
    pub values: u64,
    /// The size in bytes, as the backend counts it.
    pub bytes: u64,
    /// The revision of the last write. [`Revision::ZERO`] before the first write.
    pub last_revision: Revision,
    /// The creation time of the bucket.
    pub created: SystemTime,
    /// The time of the backend's clock when it answered. This clock dates entries and expires them.
    pub now: SystemTime,
    /// Whether the TTL of a single entry takes effect.
    pub entry_ttl: bool,
    /// Whether the bucket has a leader, which accepts writes.
    pub has_leader: bool,
    /// The number of replicas that are offline or behind the leader.
    pub replicas_behind: u32,
    /// The storage system: `JetStream`, `memory`, `file`.
    pub backing_store: &'static str,
    /// The raw status of the storage system: the stream's information (`$JS.API.STREAM.INFO`) of a server, or the files
    /// and their sizes of a store in a file.
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
            has_leader: true,
            replicas_behind: 0,
            backing_store,
            raw: None,
        }
    }

    /// Returns the name of the bucket.
    pub fn bucket(&self) -> &str {
        &self.config.name
    }
}
