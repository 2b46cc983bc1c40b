//! The state of a recipe's handle: its bucket, its name and its lease options.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::Mutex;

use super::holding::{Holding, usual_owner};
use super::place::{Place, check};
use super::slot::{self, Slot, SlotKey};
use super::task::detached;
use super::tenure::Claim;
use super::terms::Terms;
use crate::bucket::Bucket;
use crate::config::Storage;
use crate::error::{Error, ErrorKind, Result};
use crate::key::ModelKey;
use crate::model::Filter;
use crate::store::Store;

/// The bucket and the options of a recipe whose handle is created without I/O. The bucket is opened on first use.
#[derive(Debug, Clone)]
pub(super) struct Home {
    recipe: &'static str,
    name: String,
    place: Place,
    /// Shared by the clones. Cleared when the bucket turns out to be deleted or replaced, so that it is opened again.
    opened: Arc<Mutex<Option<Bucket<Slot<Holding>>>>>,
    pub(super) terms: Terms,
}

impl Home {
    pub(super) fn new(store: &Store, recipe: &'static str, name: impl Into<String>) -> Self {
        let name = name.into();
        let place = Place::new(store, &name);
        Self { recipe, name, place, opened: Arc::default(), terms: Terms::default() }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn set_bucket(&mut self, name: String) {
        self.place.set_bucket(name);
        self.opened = Arc::default();
    }

    pub(super) fn set_storage(&mut self, storage: Storage) {
        self.place.set_storage(storage);
        self.opened = Arc::default();
    }

    pub(super) fn set_max_bytes(&mut self, bytes: u64) {
        self.place.set_max_bytes(bytes);
        self.opened = Arc::default();
    }

    pub(super) fn set_replicas(&mut self, replicas: u8) {
        self.place.set_replicas(replicas);
        self.opened = Arc::default();
    }

    /// Returns the key of a part.
    pub(super) fn key(&self, part: impl Into<String>) -> SlotKey {
        SlotKey::new(self.recipe, &*self.name, part)
    }

    /// Returns a filter for all parts, as records that hold a `V`.
    pub(super) fn all<V: slot::Value>(&self) -> Filter<Slot<V>> {
        SlotKey::parts(self.recipe, &self.name)
    }

    /// Returns the bucket. Creates it if it is missing.
    pub(super) async fn bucket(&self) -> Result<Bucket<Slot<Holding>>> {
        let ttl = self.terms.wanted.times()?.ttl;
        let known = self.opened.try_lock().ok().and_then(|opened| opened.clone());
        let bucket = match known {
            Some(bucket) => bucket,
            None => {
                let (place, opened) = (self.place.clone(), Arc::clone(&self.opened));
                let open = async move {
                    let mut opened = opened.lock().await;
                    match &*opened {
                        Some(bucket) => Ok(bucket.clone()),
                        None => Ok(opened.insert(place.open(Some(ttl)).await?).clone()),
                    }
                };
                detached(open).await?
            }
        };
        // Another clone may have opened the bucket with other lease options.
        check(bucket.config(), Some(ttl))?;
        Ok(bucket)
    }

    /// Returns a request for the lease of a part. The lease will contain `value`.
    pub(super) async fn claim(&self, part: impl Into<String>, value: Option<Value>) -> Result<Claim> {
        let times = self.terms.wanted.times()?;
        let key = self.key(part);
        key.encode()?;
        let owner = self.terms.owner.clone().unwrap_or_else(usual_owner);
        let holding = Holding::new(owner, None, value);
        let bucket = self.bucket().await?;
        Ok(Claim::new(bucket, key, self.name.clone(), holding, times))
    }

    /// Runs an operation, and adds its location to the error. If the bucket turns out to be deleted or replaced, the
    /// next operation opens it again.
    pub(super) async fn within<R>(
        &self,
        operation: &'static str,
        part: Option<&str>,
        work: impl Future<Output = Result<R>>,
    ) -> Result<R> {
        match work.await {
            Ok(output) => Ok(output),
            Err(error) => {
                if matches!(error.kind(), ErrorKind::BucketNotFound | ErrorKind::HistoryRewound) {
                    *self.opened.lock().await = None;
                }
                Err(self.located(operation, part, error))
            }
        }
    }

    /// Adds the location to an error.
    pub(super) fn located(&self, operation: &'static str, part: Option<&str>, error: Error) -> Error {
        error.within(operation, self.place.bucket(), Some(part.unwrap_or(&self.name)))
    }
}
