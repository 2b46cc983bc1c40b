//! A call of `once`: it returns the stored result, or runs the work.

use std::fmt;
use std::future::IntoFuture;
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::handle::Once;
use super::output::{OnceError, OnceOutput};
use crate::error::{Error, ErrorKind, Result};
use crate::recipes::announcement::encode_value;
use crate::recipes::lease::handle::Lease;
use crate::recipes::lease::wait::WaitOutcome;
use crate::recipes::record::Value;

/// The largest fingerprint, in bytes.
const MAX_FINGERPRINT: usize = 128;

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
    /// * `FingerprintMismatch`: the key was used with another [`fingerprint`](OnceRun::fingerprint). Nothing runs.
    /// * `Decode`: the record of the key is not a result of this type. Nothing runs.
    /// * `TooLarge`, `Encode`: the result cannot be stored. The work is done, and the key is free.
    /// * `InvalidConfig`, `Unsupported`, `BucketNotFound`: see [`Store::locks`](crate::Store::locks).
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
        OnceRun { once: self, key: key.into(), work, wait: None, fingerprint: None }
    }
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
    fingerprint: Option<Result<String>>,
}

/// The result of a call, and whether it was stored before; see [`OnceRun::with_status`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OnceResult<T> {
    /// The result.
    pub value: T,
    /// Whether an earlier call, or a concurrent one, ran the work.
    pub replayed: bool,
    /// When the result was stored, by the server's clock. If this call stored the result, an estimate of that clock; see
    /// [`Entry::age`](crate::Entry::age).
    pub stored_at: SystemTime,
}

impl<'a, T, F> OnceRun<'a, T, F> {
    /// Sets how long to wait for the run of another caller. Without it, the call waits without a limit. The time of the
    /// work is not limited.
    pub fn wait(mut self, limit: Duration) -> Self {
        self.wait = Some(limit);
        self
    }

    /// Sets a hash of the request, of at most 128 bytes. A call with the key and the fingerprint of another request fails
    /// with `FingerprintMismatch`, in place of the result of that request.
    ///
    /// The fingerprint is stored with the run and its result. It is compared only if both calls set one.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # use kvtyped::ErrorKind;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// let charges = Store::memory().once::<u32>("charges");
    /// let (five, nine) = ([5_u8; 32], [9_u8; 32]); // for example SHA-256 of the body of a request
    /// charges.run("charge-42", || async { 5 }).fingerprint(&five).await?;
    ///
    /// let again = charges.run("charge-42", || async { 9 }).fingerprint(&five).with_status().await?;
    /// assert!(again.replayed && again.value == 5);
    /// let other = charges.run("charge-42", || async { 9 }).fingerprint(&nine).await.unwrap_err();
    /// assert!(matches!(other.kv().unwrap().kind(), ErrorKind::FingerprintMismatch));
    /// # Ok(())
    /// # }
    /// ```
    pub fn fingerprint(mut self, hash: impl AsRef<[u8]>) -> Self {
        let hash = hash.as_ref();
        self.fingerprint = Some(match hash.len() {
            1..=MAX_FINGERPRINT => Ok(hash.iter().map(|byte| format!("{byte:02x}")).collect()),
            bytes => Err(Error::invalid_config(format!(
                "the fingerprint has {bytes} bytes; pass a hash of 1 to {MAX_FINGERPRINT} bytes"
            ))),
        });
        self
    }

    /// Returns the result with its status: whether it is the result of another call, and when it was stored.
    pub fn with_status(self) -> OnceRunStatus<'a, T, F> {
        OnceRunStatus { run: self }
    }
}

/// A request to run work once, which returns the status of the result; see [`OnceRun::with_status`].
#[must_use = "nothing is run until it is awaited"]
pub struct OnceRunStatus<'a, T, F> {
    run: OnceRun<'a, T, F>,
}

impl<'a, T, F, Fut, O> OnceRun<'a, T, F>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
    F: FnOnce() -> Fut + Send + 'a,
    Fut: Future<Output = O> + Send + 'a,
    O: OnceOutput<T> + 'a,
{
    async fn result(self) -> Result<OnceResult<T>, OnceError<O::Error>> {
        let Self { once, key, work, wait, fingerprint } = self;
        let located = |error: Error| OnceError::Kv(once.context.located("run", Some(&key), error));
        once.check_retention().map_err(located)?;
        let fingerprint = fingerprint.transpose().map_err(located)?;
        let entered = once.acquire_or_result(&key, wait, fingerprint);
        let lease = match once.context.unobserved("run", Some(&key), entered).await? {
            WaitOutcome::Resolved(found) => {
                return Ok(OnceResult { value: found.value, replayed: true, stored_at: found.written_at });
            }
            WaitOutcome::Acquired(lease) => lease,
        };
        // If the work panics or is dropped, the lease is dropped too, and the key is free.
        let output = lease.run(async move { work().await.into_result() }).await;
        match output.map_err(|error| located(error.unknown_outcome()))? {
            Ok(value) => {
                store_result(lease, &value, once.retention).await.map_err(located)?;
                let stored_at = match once.context.bucket.opened() {
                    Some(bucket) => bucket.clock().now(),
                    None => SystemTime::now(),
                };
                Ok(OnceResult { value, replayed: false, stored_at })
            }
            Err(error) => {
                // If the release fails, the key is free after the TTL.
                let _ = lease.release_unobserved("release").await;
                Err(OnceError::Closure(error))
            }
        }
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
        let bucket = &self.once.context.bucket;
        let run = async move { self.result().await.map(|result| result.value) };
        bucket.context().observe("run", bucket.name(), Box::pin(run))
    }
}

impl<'a, T, F, Fut, O> IntoFuture for OnceRunStatus<'a, T, F>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
    F: FnOnce() -> Fut + Send + 'a,
    Fut: Future<Output = O> + Send + 'a,
    O: OnceOutput<T> + 'a,
{
    type Output = Result<OnceResult<T>, OnceError<O::Error>>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let bucket = &self.run.once.context.bucket;
        bucket.context().observe("run", bucket.name(), Box::pin(self.run.result()))
    }
}

impl<T, F> fmt::Debug for OnceRun<'_, T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnceRun").field("key", &self.key).field("wait", &self.wait).finish_non_exhaustive()
    }
}

impl<T, F> fmt::Debug for OnceRunStatus<'_, T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OnceRunStatus").field(&self.run).finish()
    }
}
