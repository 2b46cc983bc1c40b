//! Work that runs once for each key. All callers receive its result.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::backend::Read;
use crate::error::{Error, ErrorKind, Result};
use crate::recipes::announcement::Announcement;
use crate::recipes::context::LeaseContext;
use crate::recipes::lease::acquire::acquire_detached;
use crate::recipes::lease::options::lease_options;
use crate::recipes::lease::outcome::AcquireStatus;
use crate::recipes::lease::wait::{Found, LeaseWaiter, WaitLimit, WaitOutcome, with_timeout};
use crate::recipes::open::{awaitable_handle, location_options};
use crate::recipes::record::RecipeRecord;
use crate::store::Store;
use crate::ttl::Ttl;

/// The recipe's part of a key. The parts of a handle are the keys of its work.
const RECIPE: &str = "once";

/// A stored result. It replaces the lease that its work ran under.
#[derive(Clone, Serialize, Deserialize)]
struct StoredResult<T> {
    result: T,
}

/// The record of a key: a run in progress, or its result.
type RunRecord<T> = Announcement<Option<StoredResult<T>>>;

impl Store {
    /// Returns a handle for work that runs once for each key. Runs and results are in the bucket of this name, which is
    /// created if it is missing.
    ///
    /// The call performs no I/O. The first use opens the bucket, and so does awaiting the handle.
    ///
    /// Every caller with the same key gets the result. If the result belongs to one user, put the user into the key.
    /// Keys are compared byte for byte: normalize case and Unicode of names that users choose.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    /// # struct Receipt { amount: u32 }
    /// # async fn charge() -> Receipt { Receipt { amount: 5 } }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let store = Store::memory();
    /// let charges = store.once::<Receipt>("charges");
    /// let receipt = charges.run("charge-42", || async { charge().await }).await?;
    /// // A second call, in any process, returns the stored result. Nothing runs.
    /// assert_eq!(charges.run("charge-42", charge).await?, receipt);
    /// # Ok(())
    /// # }
    /// ```
    pub fn once<T>(&self, name: impl Into<String>) -> Once<T>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        Once { context: LeaseContext::new(self, RECIPE, name), retention: None, value: PhantomData }
    }
}

/// A handle for work that runs once for each key; see [`Store::once`]. Cheap to clone.
///
/// The handle performs no I/O until its first use, which opens the bucket for all clones. Awaiting the handle opens the
/// bucket at once. An option returns a changed handle. A handle with another bucket opens that bucket on first use.
///
/// The running caller has a [`Lease`](crate::recipes::Lease) under the key. The result replaces the lease by
/// compare-and-set, so a run that has lost its lease stores nothing. Concurrent callers wait with a watch and receive
/// the result. If the work fails, panics or is dropped, the key is free, and a waiter takes over. If the process dies,
/// the key is free after the TTL.
///
/// # What this does not guarantee
///
/// * That the *effect* happens once. If the process dies, or loses its lease, after the effect and before the result is
///   stored, the work runs again. Make the effect idempotent, for example with the key as the idempotency key of a
///   payment. Work that is dropped because the lease was lost may leave a partial effect.
/// * That the result of finished work is stored. If the result is too large, or cannot be encoded as JSON, the key is
///   free although the work is done.
/// * Results without a time limit. If a result is kept for a limited time, it is removed then, and the next call
///   runs the work again. The same is true at the end of the bucket's `ttl`, if the bucket has one.
/// * Durability beyond that of the bucket; see [`Locks`](crate::recipes::Locks).
pub struct Once<T> {
    pub(crate) context: LeaseContext,
    pub(crate) retention: Option<Duration>,
    value: PhantomData<fn() -> T>,
}

location_options!(Once<T>: context.bucket);
awaitable_handle!(Once<T>: context.bucket);
lease_options!(Once<T>: context.options);

impl<T> Once<T> {
    async fn open(&self) -> Result<()> {
        self.check_retention()?;
        self.context.open().await
    }

    pub(crate) fn check_retention(&self) -> Result<()> {
        match self.retention {
            Some(retention) if Ttl::new(retention).is_none() => Err(Error::invalid_config(format!(
                "the `retention` of results is {retention:?}; it must be from 1 s to a century"
            ))),
            _ => Ok(()),
        }
    }

    /// Sets how long a result is kept: at least one second, rounded up to whole seconds, and without a limit by
    /// default. A time longer than the `ttl` of the bucket is refused as `InvalidConfig` before the work runs.
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = Some(retention);
        self
    }
}

impl<T> Once<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// Returns the stored result of a key, or `None`. Runs nothing and does not wait.
    ///
    /// # Errors
    ///
    /// Returns the errors of a read. Returns `Decode` if the record of the key is not a result of this type.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the read is cancelled.
    pub async fn get(&self, key: &str) -> Result<Option<T>> {
        self.context.in_operation("get", Some(key), self.stored(key, Read::Leader)).await
    }

    async fn stored(&self, key: &str, read: Read) -> Result<Option<T>> {
        Ok(self.found(key, read).await?.and_then(result_of).map(|stored| stored.value))
    }

    /// Reads the record of a key.
    async fn found(&self, key: &str, read: Read) -> Result<Option<Found<RunRecord<T>>>> {
        let bucket = self.context.bucket().await?.as_model::<RecipeRecord<RunRecord<T>>>();
        Ok(bucket.get(&self.context.key(key)).read(read).await?.map(Found::from_entry))
    }

    /// Takes the lease of a key, or returns its result.
    pub(crate) async fn acquire_or_result(
        &self,
        key: &str,
        wait: Option<Duration>,
        fingerprint: Option<String>,
    ) -> Result<WaitOutcome<Found<T>>> {
        // The cheap path for a key that has a result. The attempt below corrects a stale answer.
        let found = self.found(key, Read::Any).await?;
        if let Some(stored) = found.filter(|found| is_same_request(found, &fingerprint)).and_then(result_of) {
            return Ok(WaitOutcome::Resolved(stored));
        }
        let (limit, status) = (WaitLimit::start(wait), Arc::<AcquireStatus>::default());
        let request = self.context.waiting_request(key, None, &status, limit.is_given());
        let mut request = with_timeout(limit, &status, request).await?;
        request.record.fingerprint.clone_from(&fingerprint);
        // Check this before the work runs, not when its result is stored.
        crate::bucket::check_ttl(request.bucket.config(), self.retention)?;
        let acquire = || {
            let (request, status, fingerprint) = (request.clone(), Arc::clone(&status), fingerprint.clone());
            async move {
                let resolve = |found: Result<Found<RunRecord<T>>>| match found {
                    Ok(found) if !is_same_request(&found, &fingerprint) => {
                        Some(Err(Error::new(ErrorKind::FingerprintMismatch)))
                    }
                    Ok(found) => result_of(found).map(Ok),
                    Err(error) => Some(Err(error)),
                };
                with_timeout(limit, &status, LeaseWaiter::new(request).acquire_unless(resolve)).await
            }
        };
        acquire_detached(acquire).await
    }
}

/// Whether a run has this fingerprint. A missing fingerprint equals any other.
fn is_same_request<T>(found: &Found<RunRecord<T>>, fingerprint: &Option<String>) -> bool {
    match (&found.value.fingerprint, fingerprint) {
        (Some(found), Some(wanted)) => found == wanted,
        _ => true,
    }
}

fn result_of<T>(found: Found<RunRecord<T>>) -> Option<Found<T>> {
    let Found { value, written_at } = found;
    value.value.map(|stored| Found { value: stored.result, written_at })
}

impl<T> Clone for Once<T> {
    fn clone(&self) -> Self {
        Self { context: self.context.clone(), retention: self.retention, value: PhantomData }
    }
}

impl<T> fmt::Debug for Once<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Once").field("name", &self.context.name()).field("retention", &self.retention).finish()
    }
}
