//! The features of a server, by its API level and its version.
//!
//! A server ignores a header that it does not know. It would store a record with a TTL forever, check the expected
//! revision of another key against the written key, and store each message of a batch as a separate write. So the
//! client checks the features before such a write.

use serde_json::{Map, Value};

/// The first version that accepts a message id in a batch. 2.12.0 accepts batches only without ids.
pub(crate) const ATOMIC_BATCH_VERSION: [u64; 3] = [2, 12, 1];

/// The first JetStream API level whose servers honour the TTL of a key and a precondition on another key (2.11).
pub(crate) const API_LEVEL_MESSAGE_TTL: u64 = 1;

/// The first JetStream API level whose servers accept atomic batches (2.12).
pub(crate) const API_LEVEL_ATOMIC_BATCH: u64 = 2;

/// The first version that counts the pending messages of several filters correctly. Older versions count too few.
const MULTI_FILTER_PENDING_VERSION: [u64; 3] = [2, 12, 4];

/// The first version that excludes the returned message when a direct get reports the number of pending messages. Older
/// versions include it.
const PENDING_EXCLUDES_CURRENT_VERSION: [u64; 3] = [2, 12, 0];

/// The API level and the version that the leader of a stream reports in the metadata of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ServerFeatures {
    level: u64,
    version: [u64; 3],
}

impl ServerFeatures {
    /// Reads the features from the configuration of a stream.
    pub(crate) fn from_config(raw: &Map<String, Value>) -> Self {
        Self { level: api_level(raw), version: server_version(raw) }
    }

    pub(crate) fn supports_message_ttl(self) -> bool {
        self.level >= API_LEVEL_MESSAGE_TTL
    }

    pub(crate) fn supports_atomic_batch(self) -> bool {
        self.level >= API_LEVEL_ATOMIC_BATCH && self.version >= ATOMIC_BATCH_VERSION
    }

    /// Whether the server treats the id of a refused write as the id of a write in flight. Replicated buckets did so
    /// before 2.12.
    pub(crate) fn deduplicates_rejected_ids(self) -> bool {
        self.level < API_LEVEL_ATOMIC_BATCH
    }

    /// Whether the server counts the pending messages of several filters correctly.
    pub(crate) fn counts_multi_filter_pending(self) -> bool {
        self.version >= MULTI_FILTER_PENDING_VERSION
    }

    /// Whether the server includes the returned message when a direct get reports the number of pending messages.
    pub(crate) fn pending_includes_current(self) -> bool {
        self.version < PENDING_EXCLUDES_CURRENT_VERSION
    }

    /// Describes the leader for the `found` part of an `Unsupported` error. `connected` is the version of the connected
    /// server, which is not necessarily the leader.
    pub(crate) fn describe(self, connected: &str) -> String {
        let [major, minor, patch] = self.version;
        if self.version != [0; 3] {
            return format!("nats-server {major}.{minor}.{patch} (JetStream API level {})", self.level);
        }
        // A server before 2.11 does not report its version.
        match parse_version(connected) < [2, 11, 0] {
            true => format!("nats-server {connected}"),
            false => "a server before 2.11 that leads the bucket's stream".to_owned(),
        }
    }
}

/// Returns the JetStream API level of the server that reported this configuration, or 0 if it reports no level.
pub(crate) fn api_level(raw: &Map<String, Value>) -> u64 {
    let level = raw.get("metadata").and_then(|notes| notes["_nats.level"].as_str());
    level.and_then(|level| level.parse().ok()).unwrap_or_default()
}

/// Returns the version of the server that reported this configuration, or zeros if it reports no version.
pub(crate) fn server_version(raw: &Map<String, Value>) -> [u64; 3] {
    let version = raw.get("metadata").and_then(|notes| notes["_nats.ver"].as_str()).unwrap_or_default();
    parse_version(version)
}

/// Returns the numbers of a version: `2.12.1-RC.1` is 2, 12, 1.
pub(crate) fn parse_version(version: &str) -> [u64; 3] {
    let mut numbers = version.split(['.', '-']).map(|number| number.parse().unwrap_or_default());
    std::array::from_fn(|_| numbers.next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn features(level: &str, version: &str) -> ServerFeatures {
        let raw = json!({ "metadata": { "_nats.level": level, "_nats.ver": version } });
        ServerFeatures::from_config(raw.as_object().unwrap_or(&Map::new()))
    }

    #[test]
    fn server_features_follow_api_level_and_version() {
        let old = ServerFeatures::from_config(&Map::new());
        assert!(!old.supports_message_ttl() && !old.supports_atomic_batch());
        let supports = |level, version| {
            (features(level, version).supports_message_ttl(), features(level, version).supports_atomic_batch())
        };
        assert_eq!(supports("1", "2.11.11"), (true, false));
        assert_eq!(supports("2", "2.12.0"), (true, false));
        assert_eq!(supports("2", "2.12.1"), (true, true));
        assert_eq!(supports("5", "2.15.1-RC.1"), (true, true));
    }
}
