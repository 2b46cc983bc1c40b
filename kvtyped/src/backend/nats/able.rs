//! The features of the server that takes the writes of a bucket.
//!
//! A server ignores a header that it does not know. It would store a record with a TTL forever, check the expected
//! revision of another key against the written key, and store each message of a batch as a separate write. So the
//! features must be detected before such a write. A server can be upgraded or downgraded while handles exist, so a
//! result is valid for one connection only. In a cluster of mixed versions, it describes the server that led the bucket
//! when it was requested.

use serde_json::{Map, Value};

use super::api::Api;
use super::bucket::Place;
use super::echo;
use super::learned::Learned;
use crate::backend::{Deadline, Write};
use crate::error::{Error, ErrorKind, Result};

/// The first version that accepts a message id in a batch. 2.12.0 accepts batches only without ids.
pub(super) const TAKES_BATCHES: [u64; 3] = [2, 12, 1];

/// The first JetStream API level whose servers honour the TTL of a key and a precondition on another key (2.11).
pub(super) const HEEDS_HEADERS: u64 = 1;

/// The first JetStream API level whose servers accept atomic batches (2.12).
pub(super) const BATCHES: u64 = 2;

/// The API level and the version that the leader of a stream reports in the metadata of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    level: u64,
    version: [u64; 3],
}

impl Told {
    fn with(raw: &Map<String, Value>) -> Self {
        Self { level: echo::level(raw), version: echo::version(raw) }
    }

    fn heeds_headers(self) -> bool {
        self.level >= HEEDS_HEADERS
    }

    fn takes_batches(self) -> bool {
        self.level >= BATCHES && self.version >= TAKES_BATCHES
    }

    /// Describes the server for the `found` part of an `Unsupported` error.
    fn found(self, api: &Api) -> String {
        let [major, minor, patch] = self.version;
        if self.version != [0; 3] {
            return format!("nats-server {major}.{minor}.{patch} (JetStream API level {})", self.level);
        }
        // A server before 2.11 does not report its version. The connected server is not necessarily the leader.
        let connected = api.wire().client().server_info().version;
        match echo::numbers(&connected) < [2, 11, 0] {
            true => format!("nats-server {connected}"),
            false => "a server before 2.11 that leads the bucket's stream".to_owned(),
        }
    }
}

/// Reads the features from a stream configuration that was just received. Returns an empty result for a mirror, because
/// its configuration does not describe the server of its origin.
pub(super) fn learned(api: &Api, raw: &Map<String, Value>, is_mirror: bool) -> Learned<Told> {
    let learned = Learned::default();
    if !is_mirror {
        learned.learn(api.wire().epoch(), Told::with(raw));
    }
    learned
}

impl Place {
    async fn told(&self, deadline: Deadline) -> Result<Told> {
        let epoch = self.api.wire().epoch();
        if let Some(told) = self.able.on(epoch) {
            return Ok(told);
        }
        let info = self.leader_api.stream(self.owner(), deadline).await?;
        let info = info.ok_or_else(|| Error::new(ErrorKind::BucketNotFound))?;
        let (_, raw) = echo::of_info(&info)?;
        let told = Told::with(&raw);
        self.able.learn(epoch, told);
        Ok(told)
    }

    /// Returns `Unsupported` if the server would ignore the headers of this write.
    pub(super) async fn check_headers(&self, write: &Write, deadline: Deadline) -> Result<()> {
        let elsewhere = write.guard.as_ref().is_some_and(|guard| guard.key != write.key);
        let needs = match (write.ttl, elsewhere) {
            (None, false) => return Ok(()),
            (Some(_), _) => "nats-server 2.11 for the TTL of a key",
            (None, true) => "nats-server 2.11 for a guard on another key",
        };
        let told = self.told(deadline).await?;
        if told.heeds_headers() { Ok(()) } else { Err(Error::unsupported(needs, told.found(&self.api))) }
    }

    /// Returns whether the server treats the id of a refused write as the id of a write in flight. Replicated buckets
    /// did so before 2.12.
    pub(super) async fn keeps_refused_ids(&self, deadline: Deadline) -> bool {
        self.told(deadline).await.is_ok_and(|told| told.level < BATCHES)
    }

    /// Returns `Unsupported` if the server rejects batches, or would store each message of a batch separately.
    pub(super) async fn check_batches(&self, deadline: Deadline) -> Result<()> {
        let told = self.told(deadline).await?;
        if !told.takes_batches() {
            return Err(Error::unsupported("nats-server 2.12.1 for atomic batches", told.found(&self.api)));
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

    fn told(level: &str, version: &str) -> Told {
        let raw = json!({ "metadata": { "_nats.level": level, "_nats.ver": version } });
        Told::with(raw.as_object().unwrap_or(&Map::new()))
    }

    #[test]
    fn a_server_is_known_by_its_level_and_its_version() {
        let old = Told::with(&Map::new());
        assert!(!old.heeds_headers() && !old.takes_batches());
        let told_of = |level, version| (told(level, version).heeds_headers(), told(level, version).takes_batches());
        assert_eq!(told_of("1", "2.11.11"), (true, false));
        assert_eq!(told_of("2", "2.12.0"), (true, false));
        assert_eq!(told_of("2", "2.12.1"), (true, true));
        assert_eq!(told_of("5", "2.15.1-RC.1"), (true, true));
    }
}
