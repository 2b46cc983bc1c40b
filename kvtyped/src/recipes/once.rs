//! Once: work that is done one time for a key, and its result given to all who ask.

use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::home::Home;
use super::lease::Lease;
use super::once_run::{RunError, RunOutput};
use super::place::place_options;
use super::slot::{Slot, Value};
use super::task;
use super::tenure::Claim;
use super::terms::lease_options;
use super::told::{Told, pack};
use super::wait::{Longest, Waited, Waiting, within};
use crate::backend::Read;
use crate::error::{Error, ErrorKind, Result};
use crate::store::Store;

/// The recipe's part of a key; the parts of one are the keys that it runs for.
const RECIPE: &str = "once";

/// A result, as it stands in the place of the lease under which it was made.
#[derive(Clone, Serialize, Deserialize)]
struct Done<T> {
    result: T,
}

/// A run, or its result.
type Running<T> = Told<Option<Done<T>>>;

impl Store {
    /// Work that is done once for a key; runs and results are in the bucket of this name, which is made if it is missing
    /// when it is first used.
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
    /// // Whoever asks again, wherever, gets the same; nothing runs.
    /// assert_eq!(charges.run("charge-42", charge).await?, receipt);
    /// # Ok(())
    /// # }
    /// ```
    pub fn once<T>(&self, name: impl Into<String>) -> Once<T>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        Once { place: Home::new(self, RECIPE, name), keep: None, value: PhantomData }
    }
}

/// Work that is done once for a key; see [`Store::once`]. Cheap to clone.
///
/// Who runs has a [`Lease`] under the key. The result is written in its place, by compare-and-set: a run that was overtaken
/// stores nothing. Those who come meanwhile wait by watching, and get the result. Work that fails, panics or is dropped
/// leaves the key free, and one who waits takes over; so it is, after the time to live, if its process dies.
///
/// # What this does not guarantee
///
/// That the *effect* happens once. A run whose process dies, or loses its lease, after the effect and before the result is
/// stored runs again: make the effect idempotent, by passing the key on, say, as the idempotency key of a payment. Work
/// that is dropped because the lease was lost may have left an effect half done. A result that cannot be stored (it is too
/// large, or cannot be written as JSON) leaves the key free although the work is done. A result that is kept for a time is
/// forgotten then, and the next run runs; so it is at the end of the bucket's own `ttl`, if it has one. And nothing survives what
/// its bucket does not; see [`Locks`](super::Locks).
pub struct Once<T> {
    place: Home,
    keep: Option<Duration>,
    value: PhantomData<fn() -> T>,
}

place_options!(Once<T>);
lease_options!(Once<T>: place.terms);

impl<T> Once<T> {
    /// Sets how long a result is kept: at least one second, rounded up to whole seconds, and without a limit by
    /// default. A time longer than the `ttl` of the bucket is refused as `InvalidConfig` before the work runs.
    pub fn keep(mut self, keep: Duration) -> Self {
        self.keep = Some(keep);
        self
    }
}

impl<T> Once<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// Gives the result of a key: the stored one, or the one that somebody else is about to have, or else the one of this
    /// work, which is run then.
    ///
    /// The work gives a `T`, or a `Result<T, E>` of which an `Err` is not stored: it comes back as it is, in
    /// [`RunError::Closure`].
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # use kvtyped::RunError;
    /// # #[derive(Debug, PartialEq)]
    /// # struct Declined;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// let charges = Store::memory().once::<u32>("charges");
    /// let error = charges.run("charge-42", || async { Err(Declined) }).await.unwrap_err();
    /// assert!(matches!(error, RunError::Closure(Declined)));
    /// assert_eq!(charges.get("charge-42").await?, None); // the next may try
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `Closure`, with what the work said. `Kv`, with an error of the kind
    /// * `Lost`: the lease was lost while the work ran, which was dropped, or before its result was stored. It may have had
    ///   its effect, so the outcome is `Unknown`; another may run by now;
    /// * `Timeout`: [`wait`](Run::wait) passed before another's run ended;
    /// * `Decode`: what is stored under the key is no result of this kind; nothing is run;
    /// * `TooLarge`, `Encode`: the result cannot be stored. The work is done, and the key is free;
    /// * `InvalidConfig`, `Unsupported`, `BucketNotFound`: as of [`Store::locks`].
    ///
    /// If the acknowledgement of the result's own write is lost, what is stored is looked at for as long as the lease is
    /// valid; where that does not tell, the outcome is `Unknown`.
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops the work, if that runs here, and leaves the key free; if that cannot be sent, it is free after the
    /// time to live. A result that is being stored is stored without a witness.
    pub fn run<'a, F, Fut, O>(&'a self, key: impl Into<String>, work: F) -> Run<'a, T, F>
    where
        F: FnOnce() -> Fut + Send + 'a,
        Fut: Future<Output = O> + Send + 'a,
        O: RunOutput<T>,
    {
        Run { once: self, key: key.into(), work, wait: None }
    }

    /// The result of a key, if it is stored; runs nothing and waits for nobody.
    ///
    /// # Errors
    ///
    /// Those of a read; `Decode` if what is stored is no result of this kind.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves nothing behind.
    pub async fn get(&self, key: &str) -> Result<Option<T>> {
        self.place.within("get", Some(key), self.stored(key, Read::Leader)).await
    }

    async fn stored(&self, key: &str, read: Read) -> Result<Option<T>> {
        let bucket = self.place.bucket().await?.of::<Slot<Running<T>>>();
        let entry = bucket.get(&self.place.key(key)).read(read).await?;
        Ok(entry.and_then(|entry| result_of(entry.into_value().value)))
    }

    /// The lease of a key, or its result.
    async fn enter(&self, key: &str, longest: Option<Duration>) -> Result<Waited<T>> {
        // The usual case of a key that is done, and cheap. A stale answer is made good by what follows.
        if let Some(result) = self.stored(key, Read::Any).await? {
            return Ok(Waited::Settled(result));
        }
        let longest = Longest::begins(longest);
        let claim = Claim { patient: longest.is_given(), ..self.place.claim(key, None).await? };
        // Check this before the work runs, not when its result is stored.
        crate::bucket::check_ttl(claim.bucket.config(), self.keep)?;
        let take = || {
            let claim = claim.clone();
            async move {
                let progress = Arc::clone(&claim.progress);
                let settled = |there: Result<Running<T>>| there.map(result_of).transpose();
                within(longest, &progress, Waiting::new(claim).take_unless(settled)).await
            }
        };
        task::acquire(take).await
    }
}

fn result_of<T>(running: Running<T>) -> Option<T> {
    running.value.map(|done| done.result)
}

/// Work that is run once; see [`Once::run`].
#[must_use = "nothing is run until it is awaited"]
pub struct Run<'a, T, F> {
    once: &'a Once<T>,
    key: String,
    work: F,
    wait: Option<Duration>,
}

impl<T, F> Run<'_, T, F> {
    /// How long to wait for another's run; for ever by default. The work itself takes as long as it takes.
    pub fn wait(mut self, longest: Duration) -> Self {
        self.wait = Some(longest);
        self
    }
}

impl<'a, T, F, Fut, O> IntoFuture for Run<'a, T, F>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
    F: FnOnce() -> Fut + Send + 'a,
    Fut: Future<Output = O> + Send + 'a,
    O: RunOutput<T> + 'a,
{
    type Output = Result<T, RunError<O::Error>>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { once, key, work, wait } = self;
        Box::pin(async move {
            let located = |error: Error| RunError::Kv(once.place.located("run", Some(&key), error));
            if let Some(keep) = once.keep
                && crate::ttl::Ttl::new(keep).is_none()
            {
                let reason = format!("a result that is kept for {keep:?}: it is 1 s at least and a century at most");
                return Err(located(Error::invalid_config(reason)));
            }
            let entered = once.place.within("run", Some(&key), once.enter(&key, wait)).await?;
            let lease = match entered {
                Waited::Settled(result) => return Ok(result),
                Waited::Taken(lease) => lease,
            };
            // If it panics or is dropped, so is the lease, and the key is free.
            let output = lease.run(async move { work().await.into_result() }).await;
            match output.map_err(|error| located(error.unknown_outcome()))? {
                Ok(result) => {
                    store(lease, &result, once.keep).await.map_err(located)?;
                    Ok(result)
                }
                Err(error) => {
                    // If that fails, the key is free after its time.
                    let _ = lease.release().await;
                    Err(RunError::Closure(error))
                }
            }
        })
    }
}

/// Writes a result in the place of the lease.
async fn store<T: Value>(lease: Lease, result: &T, keep: Option<Duration>) -> Result<()> {
    let done = serde_json::json!({ "result": pack(result)? });
    lease.finish("run", done, keep).await.map_err(|error| match error.kind() {
        // The work is done.
        ErrorKind::Lost => error.unknown_outcome(),
        _ => error,
    })
}

impl<T> Clone for Once<T> {
    fn clone(&self) -> Self {
        Self { place: self.place.clone(), keep: self.keep, value: PhantomData }
    }
}

impl<T> fmt::Debug for Once<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Once").field("name", &self.place.name()).field("keep", &self.keep).finish()
    }
}

impl<T, F> fmt::Debug for Run<'_, T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("key", &self.key).field("wait", &self.wait).finish_non_exhaustive()
    }
}
