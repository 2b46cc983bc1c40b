//! The bucket that a recipe works in.

use std::time::Duration;

use super::slot::{Slot, Value};
use crate::bucket::{Bucket, OpenBucket};
use crate::config::{BucketConfig, Drift, Storage};
use crate::error::{Error, Result};
use crate::store::Store;

/// Which bucket a recipe works in, and how it is made if it is missing.
///
/// A bucket that is there is taken as it is, if it is fit: its records and those of the recipe do not meet.
#[derive(Debug, Clone)]
pub(super) struct Place {
    store: Store,
    bucket: String,
    storage: Option<Storage>,
    replicas: Option<u8>,
}

/// The smallest `max_value_size` that a recipe's records surely fit into, headers included.
const ROOM: u32 = 1_024;

impl Place {
    pub(super) fn new(store: &Store, bucket: impl Into<String>) -> Self {
        Self { store: store.clone(), bucket: bucket.into(), storage: None, replicas: None }
    }

    pub(super) fn bucket(&self) -> &str {
        &self.bucket
    }

    pub(super) fn set_bucket(&mut self, name: String) {
        self.bucket = name;
    }

    pub(super) fn set_storage(&mut self, storage: Storage) {
        self.storage = Some(storage);
    }

    pub(super) fn set_replicas(&mut self, replicas: u8) {
        self.replicas = Some(replicas);
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// What is said of the bucket.
    pub(super) fn config(&self) -> BucketConfig {
        let mut config = BucketConfig::new(&self.bucket);
        (config.storage, config.replicas) = (self.storage, self.replicas);
        config
    }

    /// Opens the bucket for records that stay for ever.
    pub(super) async fn open_lasting<V: Value>(&self) -> Result<Bucket<Slot<V>>> {
        let bucket = self.open(None).await?;
        match bucket.config().ttl {
            None => Ok(bucket),
            Some(ttl) => {
                let error =
                    Error::unsupported("a bucket without a `ttl`: what is counted must stay", format!("ttl = {ttl:?}"));
                Err(error.within("open", bucket.name(), None))
            }
        }
    }

    /// Opens the bucket; `longest` is the longest TTL that a record of the recipe will ask for, if any asks.
    pub(super) async fn open<V: Value>(&self, longest: Option<Duration>) -> Result<Bucket<Slot<V>>> {
        let mut open: OpenBucket<Slot<V>> = self.store.bucket().name(&self.bucket).on_drift(Drift::Adopt);
        if longest.is_some() {
            // Markers tell those who wait that a record expired; the shortest time is long enough for that.
            open = open.limit_markers(Duration::from_secs(1));
        }
        if let Some(storage) = self.storage {
            open = open.storage(storage);
        }
        if let Some(replicas) = self.replicas {
            open = open.replicas(replicas);
        }
        let bucket = open.await?;
        check(bucket.config(), longest).map_err(|error| error.within("open", bucket.name(), None))?;
        Ok(bucket)
    }
}

/// Whether a recipe can work in a bucket of these settings.
///
/// # Errors
///
/// `Unsupported`, with what is needed and what was found.
pub(super) fn check(config: &BucketConfig, longest: Option<Duration>) -> Result<()> {
    let BucketConfig { history, ttl, max_value_size, max_bytes, limit_markers, mirror, rollups, .. } = config;
    let unfit = |needs: &str, found: String| Err(Error::unsupported(needs, found));
    if mirror.is_some() {
        return unfit("a bucket that is no mirror: a copy is behind what it copies", "mirror".to_owned());
    }
    if let Some(size) = max_value_size
        && *size < ROOM
    {
        return unfit("a bucket whose values may have 1,024 bytes", format!("max_value_size = {size}"));
    }
    let Some(longest) = longest else { return Ok(()) };
    match history {
        None | Some(1) => {}
        Some(history) => {
            return unfit(
                "a bucket with `history = 1`: with more, what expired would come back to life",
                format!("history = {history}"),
            );
        }
    }
    if *rollups == Some(false) {
        return unfit("a bucket that allows rollups: a lease ends in a marker", "rollups = false".to_owned());
    }
    if limit_markers.is_none() {
        return unfit(
            "a bucket with limit markers, which needs nats-server 2.11 and is set when the bucket is made: those who wait hear by them of what expired",
            "a bucket without".to_owned(),
        );
    }
    if let Some(bytes) = max_bytes {
        return unfit(
            "a bucket without `max_bytes`: in one that is full nothing expires",
            format!("max_bytes = {bytes}"),
        );
    }
    match ttl {
        Some(ttl) if *ttl < 2 * longest => unfit(
            "a bucket whose own `ttl` is twice as long as the recipe's, at least",
            format!("ttl = {ttl:?}, and {longest:?} of the recipe"),
        ),
        _ => Ok(()),
    }
}

/// The options that say which bucket a recipe works in.
macro_rules! place_options {
    ($($recipe:ident $(<$($generic:ident),*>)?),* $(,)?) => {$(
        impl $(<$($generic),*>)? $recipe $(<$($generic),*>)? {
            /// The bucket that it works in; by default the one of its own name, which is made if it is missing. Records of
            /// models may be in the same bucket: they do not meet.
            pub fn bucket(mut self, name: impl Into<String>) -> Self {
                self.place.set_bucket(name.into());
                self
            }

            /// Where its bucket is stored, if it is made.
            pub fn storage(mut self, storage: $crate::config::Storage) -> Self {
                self.place.set_storage(storage);
                self
            }

            /// How many servers of a cluster store its bucket, if it is made: three outlive the loss of one.
            pub fn replicas(mut self, replicas: u8) -> Self {
                self.place.set_replicas(replicas);
                self
            }
        }
    )*};
}
pub(super) use place_options;
