//! The bucket of a recipe.

use std::time::Duration;

use super::record::{RecipeRecord, Value};
use crate::bucket::{Bucket, OpenBucket};
use crate::config::{BucketConfig, Difference, Drift, Storage};
use crate::error::{Error, ErrorKind, Result};
use crate::model::KvModel;
use crate::store::Store;

/// The bucket of a recipe, and its settings if it is created.
///
/// An existing bucket is used as it is, if its settings fit. The records of models and recipes do not collide.
#[derive(Debug, Clone)]
pub(crate) struct BucketLocation {
    store: Store,
    bucket: String,
    storage: Option<Storage>,
    replicas: Option<u8>,
    max_bytes: Option<u64>,
}

/// The smallest `max_value_size` that is certainly large enough for a recipe's records, headers included.
const MIN_VALUE_SIZE: u32 = 1_024;
/// The smallest `max_bytes` of a bucket that a recipe works in: a record, and the reserve of [`check_room`].
const MIN_BYTES: u64 = 2 * MIN_VALUE_SIZE as u64;

impl BucketLocation {
    pub(crate) fn new(store: &Store, bucket: impl Into<String>) -> Self {
        Self { store: store.clone(), bucket: bucket.into(), storage: None, replicas: None, max_bytes: None }
    }

    pub(crate) fn bucket(&self) -> &str {
        &self.bucket
    }

    pub(crate) fn set_bucket(&mut self, name: String) {
        self.bucket = name;
    }

    pub(crate) fn set_storage(&mut self, storage: Storage) {
        self.storage = Some(storage);
    }

    pub(crate) fn set_replicas(&mut self, replicas: u8) {
        self.replicas = Some(replicas);
    }

    pub(crate) fn set_max_bytes(&mut self, bytes: u64) {
        self.max_bytes = Some(bytes);
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Returns the requested settings of the bucket.
    pub(crate) fn config(&self) -> BucketConfig {
        let mut config = BucketConfig::new(&self.bucket);
        (config.storage, config.replicas, config.max_bytes) = (self.storage, self.replicas, self.max_bytes);
        config
    }

    /// Opens the bucket for records without a TTL.
    pub(crate) async fn open_without_ttl<V: Value>(&self) -> Result<Bucket<RecipeRecord<V>>> {
        let bucket = self.request()?.await?;
        check_bucket(bucket.config(), None)?;
        match bucket.config().ttl {
            None => Ok(bucket),
            Some(ttl) => Err(Error::unsupported(
                "a bucket without a `ttl`, because totals must not expire; use another bucket",
                format!("a bucket with `ttl = {ttl:?}`"),
            )),
        }
    }

    /// Opens the bucket for records with a TTL. The caller must check the bucket with [`check_bucket`], because the
    /// longest TTL may differ between the clones of a handle.
    pub(crate) async fn open_with_ttl<V: Value>(&self) -> Result<Bucket<RecipeRecord<V>>> {
        // Limit markers notify waiters that a record expired. The shortest marker TTL is long enough for that.
        self.request()?.limit_markers(Duration::from_secs(1)).await
    }

    fn request<V: Value>(&self) -> Result<OpenBucket<RecipeRecord<V>>> {
        let mut open = self.store.bucket().name(&self.bucket).on_drift(Drift::Adopt);
        if let Some(storage) = self.storage {
            open = open.storage(storage);
        }
        if let Some(replicas) = self.replicas {
            open = open.replicas(replicas);
        }
        if let Some(bytes) = self.max_bytes {
            if bytes < MIN_BYTES {
                return Err(Error::invalid_config(format!(
                    "`max_bytes` is {bytes}; it must be at least {MIN_BYTES} to hold and renew a record of the recipe"
                )));
            }
            open = open.max_bytes(bytes);
        }
        Ok(open)
    }
}

/// Checks that a recipe can work in a bucket with these settings.
///
/// # Errors
///
/// Returns `Unsupported` with the requirement and the actual setting.
pub(crate) fn check_bucket(config: &BucketConfig, longest: Option<Duration>) -> Result<()> {
    let BucketConfig { history, ttl, max_value_size, max_bytes, limit_markers, mirror, rollups, irregular, .. } =
        config;
    let unfit = |needs: &str, found: String| Err(Error::unsupported(needs, found));
    if mirror.is_some() {
        return unfit("a bucket that is not a mirror, because a mirror lags behind its source", "a mirror".to_owned());
    }
    // Recipes work without direct reads and with deletable messages. Rollups are checked below.
    let harmless =
        |difference: &&Difference| matches!(difference.setting, "allow_direct" | "deny_delete" | "allow_rollup_hdrs");
    if let Some(difference) = irregular.iter().find(|difference| !harmless(difference)) {
        return unfit(
            "a stream with the settings of a bucket; open it once with `.on_drift(Drift::Update)`",
            format!("a stream with another setting ({difference})"),
        );
    }
    if let Some(size) = max_value_size
        && *size < MIN_VALUE_SIZE
    {
        return unfit("a `max_value_size` of at least 1,024 bytes", format!("a bucket with max_value_size = {size}"));
    }
    if let Some(bytes) = max_bytes
        && *bytes < MIN_BYTES
    {
        return unfit(
            "a `max_bytes` of at least 2,048, to hold and renew a record",
            format!("a bucket with max_bytes = {bytes}"),
        );
    }
    let Some(longest) = longest else { return Ok(()) };
    match history {
        None | Some(1) => {}
        Some(history) => {
            return unfit(
                "`history = 1`, because an expired record would reappear otherwise",
                format!("a bucket with history = {history}"),
            );
        }
    }
    if *rollups == Some(false) {
        return unfit(
            "a bucket that allows rollups, for the markers of expired leases",
            "a bucket with rollups = false".to_owned(),
        );
    }
    if limit_markers.is_none() {
        return unfit(
            "`limit_markers`, to announce expired leases; open it once with `.limit_markers(..)` and \
             `.on_drift(Drift::Update)` on nats-server 2.11 or newer",
            "a bucket without `limit_markers`".to_owned(),
        );
    }
    match ttl {
        Some(ttl) if *ttl < 2 * longest => unfit(
            "a bucket whose `ttl` is at least twice the `ttl` of the recipe; shorten the latter",
            format!("a bucket with `ttl = {ttl:?}` for a recipe with `ttl = {longest:?}`"),
        ),
        _ => Ok(()),
    }
}

/// Checks that a bucket with `max_bytes` has room for more than renewals, releases and expiries.
///
/// A full replicated bucket refuses all of these, because it needs room for a write before it subtracts the replaced
/// record. An expiry also writes the limit marker. So nothing expires, and the bucket stays full. New records of a
/// recipe therefore leave an eighth of the bucket free. (A full bucket on a single server lets a marker replace a
/// record of at least its size, but the first renewal of a lease is larger than the lease.)
///
/// # Errors
///
/// Returns `BucketFull` if less than the reserve is free.
pub(crate) async fn check_room<T: KvModel>(bucket: &Bucket<T>) -> Result<()> {
    if bucket.config().max_bytes.is_none() {
        return Ok(());
    }
    let status = match bucket.status().await {
        Ok(status) => status,
        // For a user who may not read the status, the reserve does not apply.
        Err(error) if error.is_denied() => return Ok(()),
        Err(error) => return Err(error),
    };
    let Some(limit) = status.config.max_bytes else { return Ok(()) };
    let reserve = (limit / 8).max(u64::from(MIN_VALUE_SIZE));
    if status.bytes.saturating_add(reserve) <= limit {
        return Ok(());
    }
    let why =
        format!("{} of {limit} bytes are used, and {reserve} are kept free so that leases can expire", status.bytes);
    Err(Error::new(ErrorKind::BucketFull).caused_by(why))
}
