//! The configuration of a bucket: every option of a NATS KV bucket (ADR-8, ADR-57), as plain data.

mod drift;
mod epochs;
mod index_entries;
mod source;

pub use self::drift::{Difference, Drift};
pub use self::source::{Placement, Republish, Source};

use std::collections::BTreeMap;
use std::time::Duration;

/// The settings of a bucket.
///
/// In a request, a setting that is `None` (or an empty list) is unset: a new bucket gets the default, and an existing
/// bucket keeps its value. [`status`](crate::ReadBucket::status) returns a configuration with every setting of the
/// bucket.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct BucketConfig {
    /// The name: `[a-zA-Z0-9_-]+`.
    pub name: String,
    /// The number of revisions that a key keeps, 1 to 64. Default: 1.
    pub history: Option<u8>,
    /// The TTL of every value, counted from its write, at least 100 ms. Default: values never expire.
    pub ttl: Option<Duration>,
    /// The largest value, in bytes. A server counts the headers of a message, too: allow about 256 bytes for them.
    pub max_value_size: Option<u32>,
    /// The largest size of the bucket, in bytes. A full bucket refuses writes.
    pub max_bytes: Option<u64>,
    /// The storage. Default: [`Storage::File`].
    pub storage: Option<Storage>,
    /// The number of servers of a cluster that store the bucket, 1 to 5. Default: 1.
    pub replicas: Option<u8>,
    /// Whether the storage is compressed (S2).
    pub compression: Option<bool>,
    /// A description for people.
    pub description: Option<String>,
    /// The servers that may store the bucket.
    pub placement: Option<Placement>,
    /// A subject to publish each write to, in addition to the bucket.
    pub republish: Option<Republish>,
    /// The bucket that this one mirrors.
    pub mirror: Option<Source>,
    /// The buckets whose writes are copied into this one.
    pub sources: Vec<Source>,
    /// User-defined metadata. Keys that begin with `_nats.` are reserved for the server.
    pub metadata: BTreeMap<String, String>,
    /// The time that the marker of an expired value stays, so that watchers see the expiry. At least 1 s. A shorter
    /// [`ttl`](Self::ttl) of the bucket removes the marker earlier.
    ///
    /// A bucket without markers refuses the TTL of a single key. By default, a new bucket gets
    /// [`BucketConfig::LIMIT_MARKERS`] if the server supports markers (2.11) and the bucket keeps one revision of each
    /// key or has a `ttl`. A bucket with `max_bytes`, or with a `max_value_size` below 256, gets none: a value whose
    /// marker does not fit cannot expire, so a bucket that is full once would stay full.
    ///
    /// In a requested configuration, zero disables the markers: see [`LimitMarkers::Off`]. The configuration of an
    /// existing bucket without markers has `None`.
    pub limit_markers: Option<Duration>,
    /// Whether one message may replace stored records, as a [`purge`](crate::Bucket::purge) replaces the records of its
    /// key. On by default.
    ///
    /// A server does not limit such a message to its own key: a user who may write one key can remove all records of
    /// the bucket with one message. Disable rollups to exclude such a message from a bucket of several users. The
    /// setting does not stop an attacker in the same account. Such a bucket has no purge, no `limit_markers`, no TTL of
    /// a single key, and no locks or other recipes with leases. All of these return `Unsupported`. See
    /// [`permissions`](crate::permissions).
    ///
    /// Set it in every program that opens the bucket, or on the model (`#[kv(rollups = false)]`). A program without
    /// this setting reports drift, and [`Drift::Update`] enables rollups again.
    pub rollups: Option<bool>,
    /// Whether a [transaction](crate::Bucket::transaction) can apply several writes atomically. By default, a new
    /// bucket that is not a mirror supports batches if the server does (2.12.1).
    pub atomic: Option<bool>,
    /// Whether the bucket stores the entries of indexes, under a second subject of its stream. Off by default; a model
    /// with an index turns it on. It cannot be turned off.
    ///
    /// Other clients do not see the entries. `max_bytes` counts them. In a bucket with a [`ttl`](Self::ttl), they need
    /// [`limit_markers`](Self::limit_markers): without them, entries that never expire are lost when a server restarts.
    /// A mirror copies the entries of its origin if it copies all keys, and sources copy none.
    pub index_entries: Option<bool>,
    /// Whether writes name a write epoch, and which other writes the bucket accepts. Unset by default: the bucket has
    /// no write epochs. Set it in every program that opens the bucket, or on the model
    /// (`#[kv(write_epochs = "open")]`).
    ///
    /// A server refuses each write of an earlier epoch, so
    /// [`switch_version`](crate::Bucket::switch_version) stops the writers of an old schema version at one moment.
    ///
    /// Write epochs need nats-server 2.11, and cannot be disabled. A mirror has no write epochs, and a write through a
    /// mirror names no write epoch. An open origin accepts such a write, and a closed origin refuses it: write to the
    /// origin.
    pub write_epochs: Option<WriteEpochs>,
    /// The current write epoch. Set in the configuration of an existing bucket with
    /// [`write_epochs`](Self::write_epochs). In a requested update, the epoch to switch to. A new bucket starts with
    /// the epoch 1. An existing bucket that gets write epochs starts with a number that it never had.
    pub write_epoch: Option<u64>,
    /// Settings of an existing stream that differ from the settings of a bucket in ADR-8, such as `discard = old`. Each
    /// one breaks a guarantee of this crate and is reported as drift. [`Drift::Update`] repairs it if the server allows
    /// the change. Ignored in a requested configuration.
    pub irregular: Vec<Difference>,
}

/// Whether the server writes a marker when a value expires, and how long the marker stays; see
/// [`BucketConfig::limit_markers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LimitMarkers {
    /// No markers, which is the default of other clients. The TTL of a single record is then `Unsupported`, so recipes
    /// that need one (locks, elections, groups) refuse the bucket. The server does not announce that a record expired,
    /// so watches detect [`Removed::Expired`](crate::Removed::Expired) by the TTL and the server's clock.
    ///
    /// A server cannot disable the TTL of messages in a bucket once it is enabled. In such a bucket this setting
    /// disables only the markers.
    Off,
    /// Markers that stay this long, 1 s at least.
    For(Duration),
}

impl LimitMarkers {
    /// Returns the value in a requested [`BucketConfig`].
    pub(crate) fn wish(self) -> Duration {
        match self {
            Self::Off => Duration::ZERO,
            Self::For(stay) => stay,
        }
    }
}

impl From<Duration> for LimitMarkers {
    /// Creates markers that stay this long.
    fn from(stay: Duration) -> Self {
        Self::For(stay)
    }
}

/// The writers that a bucket with write epochs accepts; see [`BucketConfig::write_epochs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WriteEpochs {
    /// Writers of the current epoch, and every writer that names no epoch: other clients, and programs with a version
    /// of this crate from before write epochs.
    Open,
    /// Only writers of the current epoch. Other clients cannot write.
    Closed,
}

/// The storage of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Storage {
    /// Files.
    #[default]
    File,
    /// The server's memory. A restart of the server loses the records.
    Memory,
}

/// The error of an invalid [`BucketConfig`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{setting}` {reason}")]
pub struct ConfigError {
    setting: &'static str,
    reason: String,
}

impl ConfigError {
    /// Returns the invalid setting.
    pub fn setting(&self) -> &'static str {
        self.setting
    }
}

impl BucketConfig {
    /// The largest history of a bucket.
    pub const MAX_HISTORY: u8 = 64;

    /// The default [`limit_markers`](Self::limit_markers) of a new bucket.
    pub const LIMIT_MARKERS: Duration = Duration::from_secs(300);

    /// The shortest life of the delete markers of a model with indexes, and the default of
    /// [`limit_markers`](Self::limit_markers) in a bucket with index entries. A marker must outlive every write in
    /// flight: a create that is applied after the marker is gone could store a record without its entries.
    pub const INDEX_MARKERS: Duration = Duration::from_secs(600);

    /// The write epoch of a new bucket.
    pub(crate) const FIRST_WRITE_EPOCH: u64 = 1;

    /// Creates a configuration with this name and no other setting.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Whether a server that may be behind the leader can answer a read.
    pub(crate) fn may_be_behind(&self) -> bool {
        self.mirror.is_some() || self.replicas.is_some_and(|replicas| replicas > 1)
    }

    /// Whether a purge is refused. For a mirror, the settings of its origin decide.
    pub(crate) fn takes_no_purge(&self) -> bool {
        self.rollups == Some(false) && self.mirror.is_none()
    }

    /// Fills every unset setting with the default of a new bucket.
    ///
    /// `limit_markers` and `atomic` are the capabilities of the backend: whether it can write limit markers, and
    /// whether it supports atomic batches.
    #[must_use]
    pub fn with_defaults(mut self, limit_markers: bool, atomic: bool) -> Self {
        self.irregular.clear();
        let history = *self.history.get_or_insert(1);
        self.storage.get_or_insert_default();
        self.replicas.get_or_insert(1);
        self.compression.get_or_insert(false);
        self.atomic.get_or_insert(atomic && self.mirror.is_none());
        self.index_entries.get_or_insert(false);
        let rollups = *self.rollups.get_or_insert(true);
        let markers_fit = self.max_bytes.is_none() && self.max_value_size.is_none_or(|size| size >= 256);
        if limit_markers && rollups && markers_fit && self.mirror.is_none() && (history == 1 || self.ttl.is_some()) {
            let markers = if self.index_entries == Some(true) { Self::INDEX_MARKERS } else { Self::LIMIT_MARKERS };
            self.limit_markers.get_or_insert(markers);
        }
        self.limit_markers = self.limit_markers.filter(|stay| !stay.is_zero());
        if self.write_epochs.is_some() {
            self.write_epoch.get_or_insert(Self::FIRST_WRITE_EPOCH);
        }
        self
    }

    /// Checks everything that needs no server.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] with the first setting that no server accepts.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let wrong = |setting, reason: String| Err(ConfigError { setting, reason });
        check_bucket_name("name", &self.name)?;
        if let Some(history) = self.history
            && !(1..=Self::MAX_HISTORY).contains(&history)
        {
            return wrong("history", format!("is {history}, and must be from 1 to {}", Self::MAX_HISTORY));
        }
        if let Some(replicas) = self.replicas
            && !(1..=5).contains(&replicas)
        {
            return wrong("replicas", format!("is {replicas}, and must be from 1 to 5"));
        }
        if let Some(ttl) = self.ttl
            && (ttl < Duration::from_millis(100) || nanos(ttl).is_none())
        {
            return wrong("ttl", format!("is {ttl:?}, and must be from 100 ms to 292 years"));
        }
        if let Some(markers) = self.limit_markers
            && !markers.is_zero()
            && (markers < Duration::from_secs(1) || nanos(markers).is_none())
        {
            return wrong(
                "limit_markers",
                format!("is {markers:?}, and must be from 1 s to 292 years, or `LimitMarkers::Off`"),
            );
        }
        if self.rollups == Some(false) && self.limit_markers.is_some_and(|stay| !stay.is_zero()) {
            return wrong("rollups", "cannot be off with `limit_markers`: a marker is a rollup".into());
        }
        if self.max_value_size.is_some_and(|size| size == 0 || i32::try_from(size).is_err()) {
            return wrong("max_value_size", "must be from 1 byte to 2 GiB - 1".into());
        }
        if self.max_bytes.is_some_and(|size| size == 0 || i64::try_from(size).is_err()) {
            return wrong("max_bytes", "must be from 1 byte to 8 EiB - 1".into());
        }
        if self.description.as_ref().is_some_and(|text| text.len() > 4_096) {
            return wrong("description", "must have at most 4,096 bytes".into());
        }
        if self.mirror.is_some() && !self.sources.is_empty() {
            return wrong("mirror", "and `sources` exclude each other".into());
        }
        if self.mirror.is_some() && self.atomic == Some(true) {
            return wrong("atomic", "is not for a mirror; set it on the original bucket".into());
        }
        if self.mirror.is_some() && self.index_entries == Some(true) {
            return wrong("index_entries", "is not for a mirror; set it on the original bucket".into());
        }
        if self.mirror.is_some() && (self.write_epochs.is_some() || self.write_epoch.is_some()) {
            return wrong("write_epochs", "is not for a mirror; set it on the original bucket".into());
        }
        if self.write_epoch == Some(0) {
            let reason = "must be at least 1; write epochs cannot be turned off, because writers of old epochs would be accepted again";
            return wrong("write_epoch", reason.into());
        }
        for source in self.mirror.iter().chain(&self.sources) {
            let setting = if self.mirror.is_some() { "mirror" } else { "sources" };
            check_bucket_name(setting, &source.bucket)?;
            // A server accepts the name of any stream, and copies nothing from a missing one.
            if let Some(bucket) = source.bucket.strip_prefix("KV_") {
                return wrong(
                    setting,
                    format!("names a stream, `KV_{bucket}`; write the name of its bucket: `{bucket}`"),
                );
            }
        }
        if self.metadata.keys().any(|key| key.starts_with("_nats.")) {
            return wrong("metadata", "has a key that begins with `_nats.`, which only the server may set".into());
        }
        Ok(())
    }
}

/// Returns a duration in nanoseconds, the unit of the server.
pub(crate) fn nanos(duration: Duration) -> Option<i64> {
    i64::try_from(duration.as_nanos()).ok()
}

/// Checks that a text is a valid name of a bucket (ADR-6).
pub(crate) fn check_bucket_name(setting: &'static str, name: &str) -> Result<(), ConfigError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if !name.is_empty() && name.len() <= 128 && name.chars().all(legal) {
        return Ok(());
    }
    Err(ConfigError { setting, reason: format!("is {name:?}, and must be `[a-zA-Z0-9_-]+`, 128 characters at most") })
}
