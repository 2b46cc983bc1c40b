//! All buckets, as a synchronous state machine.

use std::collections::BTreeMap;
use std::time::Duration;

use super::bucket::BucketState;
use super::changes::Changes;
use crate::config::{BucketConfig, Difference};
use crate::error::{Error, ErrorKind, Result};

/// Every bucket of a backend.
#[derive(Debug)]
pub(crate) struct StateMachine {
    /// The name of the backend in errors.
    name: &'static str,
    buckets: BTreeMap<String, BucketState>,
    now: Duration,
    /// The number of buckets that were ever created.
    buckets_created: u64,
    /// The creation time of the last one.
    last_created: Option<Duration>,
}

impl StateMachine {
    /// Creates a state without buckets, for a backend of this name.
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, buckets: BTreeMap::new(), now: Duration::ZERO, buckets_created: 0, last_created: None }
    }

    /// Returns the name of the backend.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Creates a bucket.
    pub(crate) fn create(&mut self, config: BucketConfig, now: Duration) -> Result<&BucketState> {
        check(&config, self.name)?;
        config.check_first_epoch()?;
        let now = self.tick(now);
        if self.buckets.contains_key(&config.name) {
            return Err(Error::new(ErrorKind::BucketExists));
        }
        let config = with_irregularities(config.with_defaults(true, true));
        let name = config.name.clone();
        // Creation times are unique, because they identify buckets.
        let created = self.last_created.map_or(now, |last| now.max(last + Duration::from_nanos(1)));
        self.last_created = Some(created);
        self.buckets_created += 1;
        Ok(self.buckets.entry(name).or_insert_with(|| BucketState::new(config, created)))
    }

    /// Finds a bucket by its name and advances it to the current time. A handle looks up the name for each operation:
    /// as on a server, it works on the bucket that has the name at that time.
    ///
    /// Returns the bucket, the current time of the state, and the changes by entries that have expired.
    pub(crate) fn bucket(&mut self, name: &str, now: Duration) -> Option<(&mut BucketState, Duration, Changes)> {
        let now = self.tick(now);
        let bucket = self.buckets.get_mut(name)?;
        let expired = bucket.advance(now);
        Some((bucket, now, expired))
    }

    /// Changes the settings that `config` sets. Returns the bucket, and the changes of its entries.
    pub(crate) fn update(&mut self, config: BucketConfig, now: Duration) -> Result<(&BucketState, Changes)> {
        check(&config, self.name)?;
        let now = self.tick(now);
        let bucket = self.buckets.get_mut(&config.name).ok_or_else(|| Error::new(ErrorKind::BucketNotFound))?;
        // A refused update changes nothing.
        let config = merge(bucket.config.clone(), config)?;
        let mut changes = bucket.advance(now);
        bucket.reconfigure(config, now, &mut changes);
        Ok((bucket, changes))
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
        write_epochs,
        write_epoch: write_epoch.or(old.write_epoch).or(first_epoch),
        irregular: Vec::new(),
    }))
}

/// Returns a configuration with its irregular settings, as a server reports it.
fn with_irregularities(mut config: BucketConfig) -> BucketConfig {
    let difference = || Difference { setting: "allow_rollup_hdrs", wanted: true.to_string(), found: false.to_string() };
    config.irregular = (config.rollups == Some(false)).then(difference).into_iter().collect();
    config
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use rand::{RngExt, SeedableRng};

    use super::*;
    use crate::backend::{Batch, Write, WriteKind};
    use crate::key::Key;
    use crate::revision::Revision;
    use crate::ttl::Ttl;

    /// Applies the changes of a verb to a copy of the revisions, and compares it with the bucket.
    fn replay(copy: &mut BTreeSet<Revision>, changes: &Changes, bucket: &BucketState, verb: &str) {
        for revision in &changes.stored {
            assert!(copy.insert(*revision), "{verb}: {revision} is stored once");
        }
        for revision in &changes.removed {
            assert!(copy.remove(revision), "{verb}: {revision} was stored");
        }
        assert!(copy.iter().eq(bucket.entries.keys()), "{verb}: {changes:?}");
        let last = bucket.last_revision.get();
        for revision in 0..=last + 1 {
            let keeps_all = revision <= last && (revision + 1..=last).all(|later| copy.contains(&Revision::new(later)));
            assert_eq!(bucket.keeps_all_after(Revision::new(revision)), keeps_all, "{verb}: after {revision}");
        }
    }

    #[test]
    fn every_verb_returns_all_its_changes() {
        for seed in 0..10 {
            let mut random = rand::rngs::StdRng::seed_from_u64(seed);
            let mut machine = StateMachine::new("test:");
            let mut config = BucketConfig::new("b");
            config.history = Some(random.random_range(1..4));
            config.atomic = Some(true);
            config.limit_markers = Some(Duration::from_secs(2));
            machine.create(config, Duration::ZERO).unwrap();
            let (mut copy, mut now) = (BTreeSet::new(), Duration::ZERO);
            for _ in 0..200 {
                now += Duration::from_millis(random.random_range(0..1_500));
                let key = Key::new(format!("k{}", random.random_range(0..6))).unwrap();
                let (bucket, now, expired) = machine.bucket("b", now).unwrap();
                replay(&mut copy, &expired, bucket, "expiry");
                let write = |key: &Key, random: &mut rand::rngs::StdRng| {
                    let kind = match random.random_range(0..6) {
                        0 => WriteKind::Delete,
                        1 => WriteKind::Purge,
                        _ => WriteKind::Put("v".into()),
                    };
                    let ttl = random.random_bool(0.3).then(|| Ttl::new(Duration::from_secs(random.random_range(1..5))));
                    Write::new(key.clone(), kind).with_ttl(ttl.flatten())
                };
                match random.random_range(0..8) {
                    0 => {
                        let changes = bucket.erase(&key, bucket.last_revision);
                        replay(&mut copy, &changes, bucket, "erase");
                    }
                    1 => {
                        let keys = (0..3).map(|number| Key::new(format!("k{number}")).unwrap());
                        let writes = keys.map(|key| write(&key, &mut random)).collect();
                        let changes = bucket.commit(Batch { writes, preconditions: Vec::new() }, now).unwrap();
                        replay(&mut copy, &changes, bucket, "commit");
                    }
                    2 => {
                        let mut config = BucketConfig::new("b");
                        config.history = Some(random.random_range(1..4));
                        config.ttl = Some(Duration::from_secs(random.random_range(4..8)));
                        let (bucket, changes) = machine.update(config, now).unwrap();
                        replay(&mut copy, &changes, bucket, "update");
                    }
                    _ => {
                        let changes = bucket.write(write(&key, &mut random), now).unwrap();
                        replay(&mut copy, &changes, bucket, "write");
                    }
                }
            }
            let (bucket, ..) = machine.bucket("b", now).unwrap();
            assert!(bucket.last_revision.get() > 100, "seed {seed}: the verbs write");
        }
    }
}
