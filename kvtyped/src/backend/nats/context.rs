//! The features of the server that takes the writes of a bucket.
//!
//! A server ignores a header that it does not know. It would store a record with a TTL forever, check the expected
//! revision of another key against the written key, and store each message of a batch as a separate write. So the
//! features must be detected before such a write. A server can be upgraded or downgraded while handles exist, so a
//! result is valid for one connection only. In a cluster of mixed versions, it describes the server that led the bucket
//! when it was requested.

use serde_json::{Map, Value};

use super::bucket::StreamContext;
use super::connection::per_connection::PerConnection;
use super::jetstream::api::Api;
use super::jetstream::stream_info;
use crate::backend::{Deadline, Write};
use crate::error::{Error, ErrorKind, Result};

/// The first version that accepts a message id in a batch. 2.12.0 accepts batches only without ids.
pub(crate) const ATOMIC_BATCH_VERSION: [u64; 3] = [2, 12, 1];

/// The first JetStream API level whose servers honour the TTL of a key and a precondition on another key (2.11).
pub(crate) const API_LEVEL_MESSAGE_TTL: u64 = 1;

/// The first JetStream API level whose servers accept atomic batches (2.12).
pub(crate) const API_LEVEL_ATOMIC_BATCH: u64 = 2;

/// The API level and the version that the leader of a stream reports in the metadata of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ServerFeatures {
    level: u64,
    version: [u64; 3],
}

impl ServerFeatures {
    fn with(raw: &Map<String, Value>) -> Self {
        Self { level: stream_info::api_level(raw), version: stream_info::server_version(raw) }
    }

    fn supports_message_ttl(self) -> bool {
        self.level >= API_LEVEL_MESSAGE_TTL
    }

    fn supports_atomic_batch(self) -> bool {
        self.level >= API_LEVEL_ATOMIC_BATCH && self.version >= ATOMIC_BATCH_VERSION
    }

    /// Describes the server for the `describe` part of an `Unsupported` error.
    fn describe(self, api: &Api) -> String {
        let [major, minor, patch] = self.version;
        if self.version != [0; 3] {
            return format!("nats-server {major}.{minor}.{patch} (JetStream API level {})", self.level);
        }
        // A server before 2.11 does not report its version. The connected server is not necessarily the leader.
        let connected = api.connection().client().server_info().version;
        match stream_info::parse_version(&connected) < [2, 11, 0] {
            true => format!("nats-server {connected}"),
            false => "a server before 2.11 that leads the bucket's stream".to_owned(),
        }
    }
}

/// Reads the features from a stream configuration that was just received. Returns an empty result for a mirror, because
/// its configuration does not describe the server of its origin.
pub(crate) fn initial_features(api: &Api, raw: &Map<String, Value>, is_mirror: bool) -> PerConnection<ServerFeatures> {
    let learned = PerConnection::default();
    if !is_mirror {
        learned.set(api.connection().epoch(), ServerFeatures::with(raw));
    }
    learned
}

impl StreamContext {
    async fn features(&self, deadline: Deadline) -> Result<ServerFeatures> {
        let epoch = self.api.connection().epoch();
        if let Some(told) = self.features.get(epoch) {
            return Ok(told);
        }
        let info = self.leader_api.stream(self.origin_bucket(), deadline).await?;
        let info = info.ok_or_else(|| Error::new(ErrorKind::BucketNotFound))?;
        let (_, raw) = stream_info::parse_config(&info)?;
        let told = ServerFeatures::with(&raw);
        self.features.set(epoch, told);
        Ok(told)
    }

    /// Returns `Unsupported` if the server would ignore the headers of this write.
    pub(crate) async fn check_header_support(&self, write: &Write, deadline: Deadline) -> Result<()> {
        let elsewhere = write.precondition.as_ref().is_some_and(|guard| guard.key != write.key);
        let needs = match (write.ttl, elsewhere) {
            (None, false) => return Ok(()),
            (Some(_), _) => "nats-server 2.11 for the TTL of a key",
            (None, true) => "nats-server 2.11 for a guard on another key",
        };
        let told = self.features(deadline).await?;
        if told.supports_message_ttl() { Ok(()) } else { Err(Error::unsupported(needs, told.describe(&self.api))) }
    }

    /// Returns whether the server treats the id of a refused write as the id of a write in flight. Replicated buckets
    /// did so before 2.12.
    pub(crate) async fn deduplicates_rejected_ids(&self, deadline: Deadline) -> bool {
        self.features(deadline).await.is_ok_and(|told| told.level < API_LEVEL_ATOMIC_BATCH)
    }

    /// Returns `Unsupported` if the server rejects batches, or would store each message of a batch separately.
    pub(crate) async fn check_batch_support(&self, deadline: Deadline) -> Result<()> {
        let told = self.features(deadline).await?;
        if !told.supports_atomic_batch() {
            return Err(Error::unsupported("nats-server 2.12.1 for atomic batches", told.describe(&self.api)));
        }
        // The configuration of a mirror does not say whether its origin accepts batches.
        if self.config.mirror.is_none() && self.config.atomic != Some(true) {
            return Err(Error::no_batches(&self.config.name));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(level: &str, version: &str) -> ServerFeatures {
        let raw = json!({ "metadata": { "_nats.level": level, "_nats.ver": version } });
        ServerFeatures::with(raw.as_object().unwrap_or(&Map::new()))
    }

    #[test]
    fn a_server_is_known_by_its_level_and_its_version() {
        let old = ServerFeatures::with(&Map::new());
        assert!(!old.supports_message_ttl() && !old.supports_atomic_batch());
        let told_of = |level, version| {
            (told(level, version).supports_message_ttl(), told(level, version).supports_atomic_batch())
        };
        assert_eq!(told_of("1", "2.11.11"), (true, false));
        assert_eq!(told_of("2", "2.12.0"), (true, false));
        assert_eq!(told_of("2", "2.12.1"), (true, true));
        assert_eq!(told_of("5", "2.15.1-RC.1"), (true, true));
    }
}
