//! What the handle of a recipe knows: where it works, under which name, and on what terms.

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

/// Where a recipe works whose handle is made without a server: its bucket is opened when it is first used.
#[derive(Debug, Clone)]
pub(super) struct Home {
    recipe: &'static str,
    name: String,
    place: Place,
    /// Shared by the clones; opened again where it turns out to be gone.
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

    /// The key of a part.
    pub(super) fn key(&self, part: impl Into<String>) -> SlotKey {
        SlotKey::new(self.recipe, &*self.name, part)
    }

    /// Every part, as records that hold a `V`.
    pub(super) fn all<V: slot::Value>(&self) -> Filter<Slot<V>> {
        SlotKey::parts(self.recipe, &self.name)
    }

    /// Its bucket, made if it is missing.
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
        // It was opened with the terms of another clone, perhaps.
        check(bucket.config(), Some(ttl))?;
        Ok(bucket)
    }

    /// What is wanted of the lease of a part, in which its holder says `value`.
    pub(super) async fn claim(&self, part: impl Into<String>, value: Option<Value>) -> Result<Claim> {
        let times = self.terms.wanted.times()?;
        let key = self.key(part);
        key.encode()?;
        let owner = self.terms.owner.clone().unwrap_or_else(usual_owner);
        let holding = Holding::new(owner, None, value);
        let bucket = self.bucket().await?;
        Ok(Claim::new(bucket, key, self.name.clone(), holding, times))
    }

    /// Does something, and adds to its error where it happened. A bucket that turns out to be gone, or to be another, is
    /// opened again the next time.
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

    /// An error, and where it happened.
    pub(super) fn located(&self, operation: &'static str, part: Option<&str>, error: Error) -> Error {
        error.within(operation, self.place.bucket(), Some(part.unwrap_or(&self.name)))
    }
}
