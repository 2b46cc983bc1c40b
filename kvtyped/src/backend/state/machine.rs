//! All buckets, as a synchronous state machine.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use super::bucket::BucketState;
use super::changes::Changes;
use super::effect::Effect;
use super::log::{Applied, Log, Ticket};
use crate::config::{BucketConfig, Difference};
use crate::error::{Error, ErrorKind, Result};

/// Every bucket of a backend.
#[derive(Debug)]
pub(crate) struct StateMachine {
    /// The name of the backend in errors.
    name: &'static str,
    pub(super) buckets: BTreeMap<String, BucketState>,
    pub(super) now: Duration,
    /// The number of buckets that were ever created.
    buckets_created: u64,
    /// The creation time of the last one.
    last_created: Option<Duration>,
    /// The log of a durable backend.
    pub(super) log: Option<Log>,
}

impl StateMachine {
    /// Creates a state without buckets, for a backend of this name.
    pub(crate) fn new(name: &'static str) -> Self {
        let (buckets, now) = (BTreeMap::new(), Duration::ZERO);
        Self { name, buckets, now, buckets_created: 0, last_created: None, log: None }
    }

    /// Creates a state of stored buckets. The time of the state begins at `now`.
    #[cfg(any(feature = "file", test))]
    pub(crate) fn restore(
        name: &'static str,
        buckets: Vec<BucketState>,
        buckets_created: u64,
        now: Duration,
        log: Log,
    ) -> Self {
        let buckets = buckets.into_iter().map(|bucket| (bucket.config.name.clone(), bucket)).collect();
        Self { name, buckets, now, buckets_created, last_created: Some(now), log: Some(log) }
    }

    /// Returns an error if the backend failed or was closed.
    pub(crate) fn check(&self) -> Result<()> {
        self.log.as_ref().map_or(Ok(()), Log::check)
    }

    /// Returns the ticket of an answer with data of this effect and of earlier ones.
    pub(crate) fn ticket(&mut self, seq: u64) -> Ticket {
        self.log.as_mut().map_or(Ticket::Durable, |log| log.ticket(seq))
    }

    /// Returns the ticket of an answer with any data of the current state.
    pub(crate) fn full_ticket(&mut self) -> Ticket {
        self.log.as_mut().map_or(Ticket::Durable, |log| log.ticket(log.last()))
    }

    /// Returns how often effects were reverted.
    pub(crate) fn rollbacks(&self) -> u64 {
        self.log.as_ref().map_or(0, |log| log.rollbacks)
    }

    /// Returns the log of a durable backend.
    pub(crate) fn log(&mut self) -> Option<&mut Log> {
        self.log.as_mut()
    }

    /// Returns all buckets.
    #[cfg(feature = "file")]
    pub(crate) fn buckets(&self) -> impl Iterator<Item = &BucketState> {
        self.buckets.values()
    }

    /// Returns the name of the backend.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Creates a bucket.
    pub(crate) fn create(&mut self, config: BucketConfig, now: Duration) -> Result<&BucketState> {
        self.check()?;
        check(&config, self.name)?;
        config.check_first_epoch()?;
        let now = self.tick(now);
        if self.buckets.contains_key(&config.name) {
            return Err(Error::new(ErrorKind::BucketExists));
        }
        let config = with_irregularities(config.with_defaults(true, true));
        config.check_index_entries()?;
        let name = config.name.clone();
        // Creation times are unique, because they identify buckets.
        let created = self.last_created.map_or(now, |last| now.max(last + Duration::from_nanos(1)));
        self.last_created = Some(created);
        self.buckets_created += 1;
        let id = self.buckets_created;
        let mut bucket = BucketState::new(id, config, created);
        if let Some(log) = &mut self.log {
            log.push(Effect::BucketCreated { bucket: id, config: bucket.config.clone() }, created);
            log.end_operation(None);
            bucket.touched = log.last();
        }
        Ok(self.buckets.entry(name).or_insert(bucket))
    }

    /// Finds a bucket by its name and advances it to the current time. A handle looks up the name for each operation:
    /// as on a server, it works on the bucket that has the name at that time.
    ///
    /// Returns the bucket and the current time of the state.
    pub(crate) fn bucket(&mut self, name: &str, now: Duration) -> Option<(&mut BucketState, Duration)> {
        let now = self.tick(now);
        let bucket = self.buckets.get_mut(name)?;
        advance(bucket, now, &mut self.log);
        Some((bucket, now))
    }

    /// Finds a bucket by its name as it is.
    pub(crate) fn peek(&mut self, name: &str) -> Option<&mut BucketState> {
        self.buckets.get_mut(name)
    }

    /// Applies a verb to a bucket. `visible` means that the verb removes only entries that it replaces.
    pub(crate) fn change(
        &mut self,
        name: &str,
        now: Duration,
        visible: bool,
        permit: Option<OwnedSemaphorePermit>,
        verb: impl FnOnce(&mut BucketState, Duration) -> Result<Changes>,
    ) -> Result<Applied> {
        let now = self.tick(now);
        let bucket = self.buckets.get_mut(name).ok_or_else(|| Error::new(ErrorKind::BucketNotFound))?;
        advance(bucket, now, &mut self.log);
        let changes = verb(bucket, now)?;
        Ok(match &mut self.log {
            Some(log) => log.record(bucket, changes, now, visible, permit),
            None => Applied { removed: changes.removed.len() as u64, stored: changes.stored, seq: 0 },
        })
    }

    /// Removes the entries of all buckets that have expired.
    #[cfg(feature = "file")]
    pub(crate) fn advance_all(&mut self, now: Duration) {
        let now = self.tick(now);
        for bucket in self.buckets.values_mut() {
            advance(bucket, now, &mut self.log);
        }
    }

    /// Changes the settings that `config` sets.
    pub(crate) fn update(&mut self, config: BucketConfig, now: Duration) -> Result<&BucketState> {
        self.check()?;
        check(&config, self.name)?;
        let now = self.tick(now);
        let bucket = self.buckets.get_mut(&config.name).ok_or_else(|| Error::new(ErrorKind::BucketNotFound))?;
        // A refused update changes nothing.
        config.check_index_update(&bucket.config)?;
        let config = merge(bucket.config.clone(), config)?;
        config.check_index_entries()?;
        advance(bucket, now, &mut self.log);
        let previous = bucket.config.clone();
        let mut changes = Changes::default();
        bucket.reconfigure(config, now, &mut changes);
        if let Some(log) = &mut self.log {
            log.push(Effect::BucketConfigured { bucket: bucket.id, config: bucket.config.clone(), previous }, now);
            bucket.touched = log.last();
            log.record(bucket, changes, now, false, None);
            log.end_operation(None);
        }
        Ok(bucket)
    }

    /// Removes a bucket. Returns whether it existed.
    pub(crate) fn delete(&mut self, name: &str, now: Duration) -> Result<bool> {
        self.check()?;
        let now = self.tick(now);
        let Some(bucket) = self.buckets.remove(name) else { return Ok(false) };
        if let Some(log) = &mut self.log {
            log.push(Effect::BucketDeleted { bucket: Box::new(bucket) }, now);
            log.end_operation(None);
        }
        Ok(true)
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

/// Removes the entries of a bucket that have expired.
fn advance(bucket: &mut BucketState, now: Duration, log: &mut Option<Log>) {
    let expired = bucket.advance(now);
    if let Some(log) = log
        && !expired.is_empty()
    {
        log.record(bucket, expired, now, false, None);
    }
}

/// Refuses settings that no server accepts, and settings that need a server.
fn check(config: &BucketConfig, backend: &str) -> Result<()> {
    config.validate()?;
    if config.mirror.is_some() || !config.sources.is_empty() {
        return Err(Error::unsupported("a NATS server (`mirror` and `sources`)", backend));
    }
    Ok(())
}

/// Merges the settings of `new` into `old`.
fn merge(old: BucketConfig, mut new: BucketConfig) -> Result<BucketConfig> {
    new.check_switch(&old)?;
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
        index_entries,
        write_epochs,
        write_epoch,
        irregular: _,
    } = new;
    if storage.is_some() && storage != old.storage {
        return Err(Error::invalid_config("`storage` cannot change; create another bucket"));
    }
    let write_epochs = write_epochs.or(old.write_epochs);
    let first_epoch = write_epochs.map(|_| BucketConfig::FIRST_WRITE_EPOCH);
    let mut notes = old.metadata;
    notes.extend(metadata);
    Ok(with_irregularities(BucketConfig {
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
        index_entries: index_entries.or(old.index_entries),
        write_epochs,
        write_epoch: write_epoch.or(old.write_epoch).or(first_epoch),
        irregular: Vec::new(),
    }))
}

/// Returns a configuration with its irregular settings, as a server reports it.
pub(crate) fn with_irregularities(mut config: BucketConfig) -> BucketConfig {
    let difference = || Difference { setting: "allow_rollup_hdrs", wanted: true.to_string(), found: false.to_string() };
    config.irregular = (config.rollups == Some(false)).then(difference).into_iter().collect();
    config
}
