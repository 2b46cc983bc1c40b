//! Work that runs once for each key. All callers receive its result.

use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::output::{OnceError, OnceOutput};
use crate::backend::Read;
use crate::error::{Error, ErrorKind, Result};
use crate::recipes::announcement::{Announcement, encode_value};
use crate::recipes::context::LeaseContext;
use crate::recipes::lease::acquire::acquire_detached;
use crate::recipes::lease::handle::Lease;
use crate::recipes::lease::options::lease_options;
use crate::recipes::lease::outcome::AcquireStatus;
use crate::recipes::lease::wait::{LeaseWaiter, WaitLimit, WaitOutcome, with_timeout};
use crate::recipes::open::{awaitable_handle, location_options};
use crate::recipes::record::{RecipeRecord, Value};
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
/// The running caller has a [`Lease`] under the key. The result replaces the lease by compare-and-set, so a run that
/// has lost its lease stores nothing. Concurrent callers wait with a watch and receive the result. If the work fails,
/// panics or is dropped, the key is free, and a waiter takes over. If the process dies, the key is free after the TTL.
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
    context: LeaseContext,
    retention: Option<Duration>,
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

    fn check_retention(&self) -> Result<()> {
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
    /// Returns the result of a key: the stored result, or the result of a run in progress, or else the result of this
    /// work, which runs now.
    ///
    /// The work returns a `T` or a `Result<T, E>`. An `Err` is not stored, and is returned unchanged in
    /// [`OnceError::Closure`].
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # use kvtyped::recipes::OnceError;
    /// # #[derive(Debug, PartialEq)]
    /// # struct Declined;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// let charges = Store::memory().once::<u32>("charges");
    /// let error = charges.run("charge-42", || async { Err(Declined) }).await.unwrap_err();
    /// assert!(matches!(error, OnceError::Closure(Declined)));
    /// assert_eq!(charges.get("charge-42").await?, None); // the next may try
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `Closure` with the error of the work. Returns `Kv` with an error of one of these kinds:
    ///
    /// * `Lost`: the lease was lost while the work ran, and the work was dropped, or the lease was lost before the
    ///   result was stored. The work may have had its effect, so the outcome is `Unknown`. Another process may be
    ///   running the work now.
    /// * `Timeout`: [`wait`](OnceRun::wait) passed before the run of another caller ended.
    /// * `Decode`: the record of the key is not a result of this type. Nothing runs.
    /// * `TooLarge`, `Encode`: the result cannot be stored. The work is done, and the key is free.
    /// * `InvalidConfig`, `Unsupported`, `BucketNotFound`: see [`Store::locks`].
    ///
    /// If the acknowledgement of the result is lost, the record is read for as long as the lease is valid. If that does
    /// not recover the acknowledgement, the outcome is `Unknown`.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, work that runs here is dropped, and the key is free. If the release cannot be sent,
    /// the key is free after the TTL. A result that is being stored is still stored in the background.
    pub fn run<'a, F, Fut, O>(&'a self, key: impl Into<String>, work: F) -> OnceRun<'a, T, F>
    where
        F: FnOnce() -> Fut + Send + 'a,
        Fut: Future<Output = O> + Send + 'a,
        O: OnceOutput<T>,
    {
        OnceRun { once: self, key: key.into(), work, wait: None }
    }

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
        let bucket = self.context.bucket().await?.as_model::<RecipeRecord<RunRecord<T>>>();
        let entry = bucket.get(&self.context.key(key)).read(read).await?;
        Ok(entry.and_then(|entry| result_of(entry.into_value().value)))
    }

    /// Takes the lease of a key, or returns its result.
    async fn acquire_or_result(&self, key: &str, wait: Option<Duration>) -> Result<WaitOutcome<T>> {
        // The cheap path for a key that has a result. The attempt below corrects a stale answer.
        if let Some(result) = self.stored(key, Read::Any).await? {
            return Ok(WaitOutcome::Resolved(result));
        }
        let (limit, status) = (WaitLimit::start(wait), Arc::<AcquireStatus>::default());
        let request = self.context.waiting_request(key, None, &status, limit.is_given());
        let request = with_timeout(limit, &status, request).await?;
        // Check this before the work runs, not when its result is stored.
        crate::bucket::check_ttl(request.bucket.config(), self.retention)?;
        let acquire = || {
            let (request, status) = (request.clone(), Arc::clone(&status));
            async move {
                let resolve = |found: Result<RunRecord<T>>| found.map(result_of).transpose();
                with_timeout(limit, &status, LeaseWaiter::new(request).acquire_unless(resolve)).await
            }
        };
        acquire_detached(acquire).await
    }
}

fn result_of<T>(record: RunRecord<T>) -> Option<T> {
    record.value.map(|stored| stored.result)
}

/// A request to run work once; see [`Once::run`].
///
/// It waits for the run of another caller without a limit unless [`wait`](Self::wait) is given.
#[must_use = "nothing is run until it is awaited"]
pub struct OnceRun<'a, T, F> {
    once: &'a Once<T>,
    key: String,
    work: F,
    wait: Option<Duration>,
}

impl<T, F> OnceRun<'_, T, F> {
    /// Sets how long to wait for the run of another caller. Without it, the call waits without a limit. The time of the
    /// work is not limited.
    pub fn wait(mut self, limit: Duration) -> Self {
        self.wait = Some(limit);
        self
    }
}

impl<'a, T, F, Fut, O> IntoFuture for OnceRun<'a, T, F>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
    F: FnOnce() -> Fut + Send + 'a,
    Fut: Future<Output = O> + Send + 'a,
    O: OnceOutput<T> + 'a,
{
    type Output = Result<T, OnceError<O::Error>>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { once, key, work, wait } = self;
        let context = Arc::clone(once.context.bucket.context());
        let bucket = once.context.bucket.name().to_owned();
        let run = async move {
            let located = |error: Error| OnceError::Kv(once.context.located("run", Some(&key), error));
            once.check_retention().map_err(located)?;
            let entered = once.context.unobserved("run", Some(&key), once.acquire_or_result(&key, wait)).await?;
            let lease = match entered {
                WaitOutcome::Resolved(result) => return Ok(result),
                WaitOutcome::Acquired(lease) => lease,
            };
            // If the work panics or is dropped, the lease is dropped too, and the key is free.
            let output = lease.run(async move { work().await.into_result() }).await;
            match output.map_err(|error| located(error.unknown_outcome()))? {
                Ok(result) => {
                    store_result(lease, &result, once.retention).await.map_err(located)?;
                    Ok(result)
                }
                Err(error) => {
                    // If the release fails, the key is free after the TTL.
                    let _ = lease.release().await;
                    Err(OnceError::Closure(error))
                }
            }
        };
        context.observe("once", bucket, Box::pin(run))
    }
}

/// Replaces the lease with a result.
async fn store_result<T: Value>(lease: Lease, result: &T, retention: Option<Duration>) -> Result<()> {
    let stored = serde_json::json!({ "result": encode_value(result)? });
    lease.complete("run", stored, retention).await.map_err(|error| match error.kind() {
        // The work is done.
        ErrorKind::Lost => error.unknown_outcome(),
        _ => error,
    })
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

impl<T, F> fmt::Debug for OnceRun<'_, T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnceRun").field("key", &self.key).field("wait", &self.wait).finish_non_exhaustive()
    }
}
