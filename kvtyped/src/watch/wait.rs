//! Waiting for a record.

use std::future::IntoFuture;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;

use super::event::Event;
use crate::backend::Deadline;
use crate::bucket::{Entry, ReadBucket};
use crate::error::{Error, ErrorKind, Result};
use crate::key::ModelKey;
use crate::model::{Filter, KvModel};

impl<T: KvModel> ReadBucket<T> {
    /// Waits until the key has a record that matches a predicate. Returns at once if the current record matches.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{id}")]
    /// # struct Job { id: u64, done: bool }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let jobs: Bucket<Job> = Store::memory().bucket().await?;
    /// let worker = jobs.clone();
    /// tokio::spawn(async move { worker.put(&Job { id: 7, done: true }).await });
    ///
    /// let key = JobKey::new(7);
    /// let job = jobs.wait_for(&key, |job| job.done).timeout(Duration::from_secs(5)).await?;
    /// assert!(job.done);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `InvalidKey` if the key is too long.
    ///
    /// Returns `Timeout` if [`timeout`](WaitFor::timeout) is given and passes. Without it, the call waits without a
    /// limit. Returns `BucketNotFound` if the bucket is deleted. A record that does not decode does not end the wait,
    /// because a later one may decode. Its `Decode` error is the `source` of the timeout. Without a timeout, a
    /// permission that is denied during the wait ends the wait. With a timeout, the wait continues, and the denial is
    /// the `source` of the timeout.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub fn wait_for<'a, P>(&'a self, key: &'a T::Key, predicate: P) -> WaitFor<'a, T, P>
    where
        P: FnMut(&Entry<T>) -> bool + Send + 'a,
    {
        WaitFor { bucket: self, key, predicate, timeout: None }
    }
}

/// A wait for a record; see [`ReadBucket::wait_for`].
#[must_use = "nothing is waited for until it is awaited"]
pub struct WaitFor<'a, T: KvModel, P> {
    bucket: &'a ReadBucket<T>,
    key: &'a T::Key,
    predicate: P,
    timeout: Option<Duration>,
}

impl<T: KvModel, P> WaitFor<'_, T, P> {
    /// Sets the timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

impl<'a, T, P> IntoFuture for WaitFor<'a, T, P>
where
    T: KvModel,
    P: FnMut(&Entry<T>) -> bool + Send + 'a,
{
    type Output = Result<Entry<T>>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { bucket, key, mut predicate, timeout } = self;
        let work = Box::pin(async move {
            let (mut cause, mut is_listed) = (None, false);
            let wait = async {
                key.encode()?;
                let mut events = bucket.watch(Filter::key(key)).run_as("wait_for").await?;
                loop {
                    match events.next().await {
                        Some(Ok(Event::Put(entry))) if predicate(&entry) => return Ok(entry),
                        Some(Ok(Event::Put(_) | Event::Removed { .. })) => cause = None,
                        Some(Ok(Event::Undecodable { key, error, .. })) => {
                            cause = Some(error.with_context("wait_for", bucket.name(), Some(&key)));
                        }
                        Some(Ok(event)) => is_listed |= matches!(event, Event::Ready),
                        Some(Err(error)) if timeout.is_some() && is_listed && may_be_undone(&error) => {
                            cause = Some(error)
                        }
                        Some(Err(error)) => return Err(error),
                        None => return Err(Error::new(ErrorKind::Closed)),
                    }
                }
            };
            let waited = match timeout {
                Some(timeout) => match Deadline::after(timeout).timeout(wait).await {
                    Ok(waited) => waited,
                    Err(late) => Err(match cause {
                        Some(cause) => late.caused_by(cause),
                        None => late,
                    }),
                },
                None => wait.await,
            };
            waited.map_err(|error| error.with_context("wait_for", bucket.name(), Some(&key.to_string())))
        });
        bucket.observe("wait_for", work)
    }
}

/// Returns whether a watch continues after an error, because an administrator may undo the cause.
fn may_be_undone(error: &Error) -> bool {
    !matches!(error.kind(), ErrorKind::BucketNotFound | ErrorKind::Closed)
}

impl<T: KvModel, P> std::fmt::Debug for WaitFor<'_, T, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WaitFor").field("key", self.key).field("timeout", &self.timeout).finish_non_exhaustive()
    }
}
