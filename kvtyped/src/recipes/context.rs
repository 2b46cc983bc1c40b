//! The state of a handle whose recipe consists of leases: its bucket, its name and its lease options.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::lease::options::LeaseOptions;
use super::lease::outcome::AcquireStatus;
use super::lease::record::{LeaseRecord, default_owner};
use super::lease::request::AcquireRequest;
use super::location::{BucketLocation, check_bucket};
use super::open::LazyBucket;
use super::record::{RecipeKey, RecipeRecord, Value};
use crate::backend::Backoff;
use crate::bucket::Bucket;
use crate::error::{Error, Result};
use crate::key::ModelKey;
use crate::model::Filter;
use crate::store::Store;

/// A bucket of leases.
pub(crate) type LeaseBucket = Bucket<RecipeRecord<LeaseRecord>>;

impl LazyBucket<LeaseBucket> {
    /// Returns the bucket for leases with this TTL.
    pub(crate) async fn for_leases(&self, ttl: Duration) -> Result<LeaseBucket> {
        let open = |location: BucketLocation| async move { location.open_with_ttl().await };
        self.get(open, move |bucket| check_bucket(bucket.config(), Some(ttl))).await
    }

    /// Returns the bucket for a wait, which reports its status. With `retry_transient`, retries temporary errors.
    pub(crate) async fn for_wait(
        &self,
        ttl: Duration,
        status: &AcquireStatus,
        retry_transient: bool,
    ) -> Result<LeaseBucket> {
        let mut backoff = Backoff::outage();
        loop {
            match self.for_leases(ttl).await {
                Err(error) if retry_transient && error.is_transient() => {
                    status.failed(&error);
                    sleep(backoff.next()).await;
                }
                opened => return opened,
            }
        }
    }
}

/// The bucket and the options of a recipe's handle. Clones share the bucket.
#[derive(Debug, Clone)]
pub(crate) struct LeaseContext {
    recipe: &'static str,
    name: String,
    pub(crate) bucket: LazyBucket<LeaseBucket>,
    pub(crate) options: LeaseOptions,
}

impl LeaseContext {
    pub(crate) fn new(store: &Store, recipe: &'static str, name: impl Into<String>) -> Self {
        let name = name.into();
        let bucket = LazyBucket::new(BucketLocation::new(store, &name));
        Self { recipe, name, bucket, options: LeaseOptions::default() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the key of a part.
    pub(crate) fn key(&self, part: impl Into<String>) -> RecipeKey {
        RecipeKey::new(self.recipe, &*self.name, part)
    }

    /// Returns a filter for all parts, as records that hold a `V`.
    pub(crate) fn all<V: Value>(&self) -> Filter<RecipeRecord<V>> {
        RecipeKey::parts(self.recipe, &self.name)
    }

    /// Opens the bucket.
    pub(crate) async fn open(&self) -> Result<()> {
        self.bucket().await.map(drop)
    }

    /// Returns the bucket. Creates it if it is missing.
    pub(crate) async fn bucket(&self) -> Result<LeaseBucket> {
        self.bucket.for_leases(self.options.timing.resolve()?.ttl).await
    }

    /// Returns a request for the lease of a part. The lease will contain `value`.
    pub(crate) async fn request(
        &self,
        part: impl Into<String>,
        value: Option<serde_json::Value>,
    ) -> Result<AcquireRequest> {
        self.waiting_request(part, value, &Arc::default(), false).await
    }

    /// Returns a request for a wait, which reports its status. With `retry_transient`, the opening of the bucket is
    /// repeated after temporary errors.
    pub(crate) async fn waiting_request(
        &self,
        part: impl Into<String>,
        value: Option<serde_json::Value>,
        status: &Arc<AcquireStatus>,
        retry_transient: bool,
    ) -> Result<AcquireRequest> {
        let timing = self.options.timing.resolve()?;
        let key = self.key(part);
        key.encode()?;
        let bucket = self.bucket.for_wait(timing.ttl, status, retry_transient).await?;
        let owner = self.options.owner.clone().unwrap_or_else(|| default_owner(bucket.connection_name()));
        let record = LeaseRecord::new(owner, None, value);
        let request = AcquireRequest::new(bucket, key, self.name.clone(), record, timing);
        Ok(AcquireRequest { status: Arc::clone(status), retry_transient, ..request })
    }

    /// Runs an operation, and adds its location to the error. If the bucket turns out to be deleted or replaced, the
    /// next operation opens it again.
    pub(crate) async fn in_operation<R>(
        &self,
        operation: &'static str,
        part: Option<&str>,
        work: impl Future<Output = Result<R>> + Send,
    ) -> Result<R> {
        let context = self.bucket.context();
        context.observe(operation, self.bucket.name(), Box::pin(self.unobserved(operation, part, work))).await
    }

    /// Runs a part of an operation as [`in_operation`](Self::in_operation) does, without a report.
    pub(crate) async fn unobserved<R>(
        &self,
        operation: &'static str,
        part: Option<&str>,
        work: impl Future<Output = Result<R>> + Send,
    ) -> Result<R> {
        self.bucket.context().until_shutdown(work).await.map_err(|error| {
            self.bucket.forget_if_gone(&error);
            self.located(operation, part, error)
        })
    }

    /// Adds the location to an error.
    pub(crate) fn located(&self, operation: &'static str, part: Option<&str>, error: Error) -> Error {
        error.with_context(operation, self.bucket.name(), Some(part.unwrap_or(&self.name)))
    }
}
