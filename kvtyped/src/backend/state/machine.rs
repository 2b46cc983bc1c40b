//! All buckets, as a synchronous state machine.

use std::collections::BTreeMap;
use std::time::Duration;

use super::bucket::BucketState;
use crate::config::{BucketConfig, Difference};
use crate::error::{Error, ErrorKind, Result};

/// The name of this backend.
pub(crate) const NAME: &str = "memory:";

/// Every bucket of a backend.
#[derive(Debug, Default)]
pub(crate) struct StateMachine {
    buckets: BTreeMap<String, BucketState>,
    now: Duration,
    /// The number of buckets that were ever created.
    buckets_created: u64,
    /// The creation time of the last one.
    last_created: Option<Duration>,
}

impl StateMachine {
    /// Creates a bucket.
    pub(crate) fn create(&mut self, config: BucketConfig, now: Duration) -> Result<&BucketState> {
        check(&config)?;
        let now = self.tick(now);
        if self.buckets.contains_key(&config.name) {
            return Err(Error::new(ErrorKind::BucketExists));
        }
        let config = told(config.with_defaults(true, true));
        let name = config.name.clone();
        // Creation times are unique, because they identify buckets.
        let created = self.last_created.map_or(now, |last| now.max(last + Duration::from_nanos(1)));
        self.last_created = Some(created);
        self.buckets_created += 1;
        Ok(self.buckets.entry(name).or_insert_with(|| BucketState::new(config, created)))
    }

    /// Finds a bucket by its name and advances it to the current time. A handle looks up the name for each operation:
    /// as on a server, it works on the bucket that has the name at that time.
    pub(crate) fn bucket(&mut self, name: &str, now: Duration) -> Option<(&mut BucketState, Duration)> {
        let now = self.tick(now);
        let bucket = self.buckets.get_mut(name)?;
        bucket.advance(now);
        Some((bucket, now))
    }

    /// Changes the settings that `config` sets.
    pub(crate) fn update(&mut self, config: BucketConfig, now: Duration) -> Result<&BucketState> {
        check(&config)?;
        let (bucket, now) = self.bucket(&config.name, now).ok_or_else(|| Error::new(ErrorKind::BucketNotFound))?;
        let config = merge(bucket.config.clone(), config)?;
        bucket.reconfigure(config, now);
        Ok(bucket)
    }

    /// Removes a bucket. Returns whether it existed.
    pub(crate) fn delete(&mut self, name: &str) -> bool {
        self.buckets.remove(name).is_some()
    }

    /// Returns the number of buckets that were ever created.
    pub(crate) fn buckets_created(&self) -> u64 {
        self.buckets_created
    }

    /// Returns the names of all buckets, in order.
    pub(crate) fn names(&self) -> Vec<String> {
        self.buckets.keys().cloned().collect()
    }

    /// Returns a time that never goes backwards.
    fn tick(&mut self, now: Duration) -> Duration {
        self.now = self.now.max(now);
        self.now
    }
}

/// Refuses settings that no server accepts, and settings that need a server.
fn check(config: &BucketConfig) -> Result<()> {
    config.validate()?;
    if config.mirror.is_some() || !config.sources.is_empty() {
        return Err(Error::unsupported("a NATS server (`mirror` and `sources`)", NAME));
    }
    Ok(())
}

/// Merges the settings of `new` into `old`.
fn merge(old: BucketConfig, new: BucketConfig) -> Result<BucketConfig> {
    // Destructured, so that a new setting cannot be forgotten.
    let BucketConfig {
        name,
        history,
        ttl,
        max_value_size,
        max_bytes,
        storage,
        replicas,
        compression,
        description,
        placement,
        republish,
        mirror,
        sources,
        metadata,
        limit_markers,
        rollups,
        atomic,
        irregular: _,
    } = new;
    if storage.is_some() && storage != old.storage {
        return Err(Error::invalid_config("`storage` cannot change"));
    }
    let mut notes = old.metadata;
    notes.extend(metadata);
    Ok(told(BucketConfig {
        name,
        history: history.or(old.history),
        ttl: ttl.or(old.ttl),
        max_value_size: max_value_size.or(old.max_value_size),
        max_bytes: max_bytes.or(old.max_bytes),
        storage: old.storage,
        replicas: replicas.or(old.replicas),
        compression: compression.or(old.compression),
        description: description.or(old.description),
        placement: placement.or(old.placement),
        republish: republish.or(old.republish),
        mirror: mirror.or(old.mirror),
        sources: if sources.is_empty() { old.sources } else { sources },
        metadata: notes,
        limit_markers: limit_markers.or(old.limit_markers).filter(|stay| !stay.is_zero() && rollups != Some(false)),
        // As on a server, markers imply rollups, and an update repairs irregular settings.
        rollups: Some(rollups != Some(false) || limit_markers.is_some_and(|stay| !stay.is_zero())),
        atomic: atomic.or(old.atomic),
        irregular: Vec::new(),
    }))
}

/// Returns a configuration with its irregular settings, as a server reports it.
fn told(mut config: BucketConfig) -> BucketConfig {
    let difference = || Difference { setting: "allow_rollup_hdrs", wanted: true.to_string(), found: false.to_string() };
    config.irregular = (config.rollups == Some(false)).then(difference).into_iter().collect();
    config
}
