//! The state of a recipe's handle: its bucket, its name and its lease options.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::lease::options::LeaseOptions;
use super::lease::outcome::AcquireStatus;
use super::lease::record::{LeaseRecord, default_owner};
use super::lease::request::AcquireRequest;
use super::location::{BucketLocation, check_bucket};
use super::open::detached;
use super::record::{RecipeKey, RecipeRecord, Value};
use crate::bucket::Bucket;
use crate::config::Storage;
use crate::error::{Error, ErrorKind, Result};
use crate::key::ModelKey;
use crate::model::Filter;
use crate::store::Store;

/// The bucket and the options of a recipe whose handle is created without I/O. The bucket is opened on first use.
#[derive(Debug, Clone)]
pub(crate) struct LeaseContext {
    recipe: &'static str,
    name: String,
    location: BucketLocation,
    /// Shared by the clones. Cleared when the bucket turns out to be deleted or replaced, so that it is opened again.
    opened: Arc<Mutex<Option<Bucket<RecipeRecord<LeaseRecord>>>>>,
    pub(crate) options: LeaseOptions,
}

impl LeaseContext {
    pub(crate) fn new(store: &Store, recipe: &'static str, name: impl Into<String>) -> Self {
        let name = name.into();
        let location = BucketLocation::new(store, &name);
        Self { recipe, name, location: location, opened: Arc::default(), options: LeaseOptions::default() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn set_bucket(&mut self, name: String) {
        self.location.set_bucket(name);
        self.opened = Arc::default();
    }

    pub(crate) fn set_storage(&mut self, storage: Storage) {
        self.location.set_storage(storage);
        self.opened = Arc::default();
    }

    pub(crate) fn set_max_bytes(&mut self, bytes: u64) {
        self.location.set_max_bytes(bytes);
        self.opened = Arc::default();
    }

    pub(crate) fn set_replicas(&mut self, replicas: u8) {
        self.location.set_replicas(replicas);
        self.opened = Arc::default();
    }

    /// Returns the key of a part.
    pub(crate) fn key(&self, part: impl Into<String>) -> RecipeKey {
        RecipeKey::new(self.recipe, &*self.name, part)
    }

    /// Returns a filter for all parts, as records that hold a `V`.
    pub(crate) fn all<V: Value>(&self) -> Filter<RecipeRecord<V>> {
        RecipeKey::parts(self.recipe, &self.name)
    }

    /// Returns the bucket. Creates it if it is missing.
    pub(crate) async fn bucket(&self) -> Result<Bucket<RecipeRecord<LeaseRecord>>> {
        let ttl = self.options.timing.resolve()?.ttl;
        let known = self.opened.try_lock().ok().and_then(|opened| opened.clone());
        let bucket = match known {
            Some(bucket) => bucket,
            None => {
                let (location, opened) = (self.location.clone(), Arc::clone(&self.opened));
                let open = async move {
                    let mut opened = opened.lock().await;
                    match &*opened {
                        Some(bucket) => Ok(bucket.clone()),
                        None => Ok(opened.insert(location.open(Some(ttl)).await?).clone()),
                    }
                };
                detached(open).await?
            }
        };
        // Another clone may have opened the bucket with other lease options.
        check_bucket(bucket.config(), Some(ttl))?;
        Ok(bucket)
    }

    /// Returns a request for the lease of a part. The lease will contain `value`.
    pub(crate) async fn request(
        &self,
        part: impl Into<String>,
        value: Option<serde_json::Value>,
    ) -> Result<AcquireRequest> {
        let timing = self.options.timing.resolve()?;
        let key = self.key(part);
        key.encode()?;
        let owner = self.options.owner.clone().unwrap_or_else(default_owner);
        let record = LeaseRecord::new(owner, None, value);
        let bucket = self.bucket().await?;
        Ok(AcquireRequest::new(bucket, key, self.name.clone(), record, timing))
    }

    /// Returns a request for a wait, which reports its status. With `retry_transient`, retries temporary errors of the
    /// opening.
    pub(crate) async fn waiting_request(
        &self,
        part: impl Into<String>,
        value: Option<serde_json::Value>,
        status: &Arc<AcquireStatus>,
        retry_transient: bool,
    ) -> Result<AcquireRequest> {
        let request = self.request(part, value).await?;
        Ok(AcquireRequest { status: Arc::clone(status), retry_transient, ..request })
    }

    /// Runs an operation, and adds its location to the error. If the bucket turns out to be deleted or replaced, the
    /// next operation opens it again.
    pub(crate) async fn in_operation<R>(
        &self,
        operation: &'static str,
        part: Option<&str>,
        work: impl Future<Output = Result<R>>,
    ) -> Result<R> {
        match work.await {
            Ok(output) => Ok(output),
            Err(error) => {
                if matches!(error.kind(), ErrorKind::BucketNotFound | ErrorKind::BucketReplaced) {
                    *self.opened.lock().await = None;
                }
                Err(self.located(operation, part, error))
            }
        }
    }

    /// Adds the location to an error.
    pub(crate) fn located(&self, operation: &'static str, part: Option<&str>, error: Error) -> Error {
        error.with_context(operation, self.location.bucket(), Some(part.unwrap_or(&self.name)))
    }
}
