//! `maintain_indexes`: keeps the indexes of a bucket after the writes of other clients and the expiry of records.

use std::fmt;
use std::future::{Future, IntoFuture, pending};
use std::pin::pin;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::{Instant, sleep};

use super::follow_record::{IndexDuplicate, OPERATION, is_final};
use super::follower::{DuplicateFn, Settings, follow};
use super::lease::{Job, JobLease};
use crate::backend::Backoff;
use crate::bucket::Bucket;
use crate::bucket::index::synced::FollowerState;
use crate::error::{Error, ErrorKind, Result};
use crate::model::index::Indexed;

/// The default time between two searches for stale entries.
const SWEEP_INTERVAL: Duration = Duration::from_secs(3_600);

/// A term of this length resets the pauses between terms.
const LONG_TERM: Duration = Duration::from_secs(30);

impl<T: Indexed> Bucket<T> {
    /// Keeps the indexes of the bucket after writes of other clients and the expiry of records: the loop of a service.
    ///
    /// Run it in any number of processes. One of them leads, by a lease in the bucket, and the others wait. In a bucket that
    /// cannot hold leases, all of them work, which is correct but wasteful. The leader watches the bucket:
    ///
    /// * It stores the entries and claims of records that a program without the indexes wrote.
    /// * It erases the entries of records that expired, or that such a program changed or removed.
    /// * It alone stores the entries of indexes with `#[kv(index(eventual))]`.
    ///
    /// The leader stores its position in the bucket, and the next leader resumes there. If changes may have been missed, it
    /// compares all records and entries, like `verify_indexes().repair()`. From time to time, it also searches for entries
    /// that no record matches, which dead writers and writers without the permission to erase leave behind.
    ///
    /// Two records with one unique value are reported, and neither is changed. Until the follower has handled a change,
    /// lookups miss a record of another client. [`synced_revision`](crate::ReadBucket::synced_revision) returns how far it
    /// has come, and `at_least` of a lookup waits for it.
    ///
    /// Temporary errors are retried with growing pauses, and logged at `warn`. [`until`](MaintainIndexes::until) ends the
    /// loop. Without it, only an error does.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(bucket = "users", key = "{id}")]
    /// # struct User { id: u64, #[kv(index(eventual))] team: String }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// let users: Bucket<User> = Store::memory().bucket().await?;
    /// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    /// let follower = tokio::spawn({
    ///     let users = users.clone();
    ///     async move { users.maintain_indexes().until(stopped).await }
    /// });
    /// let written = users.put(&User { id: 1, team: "core".into() }).await?;
    /// # while users.synced_revision("team").await?.is_none() { tokio::task::yield_now().await }
    /// assert_eq!(users.count_by(User::by_team("core")).at_least(written).await?, 1);
    /// # stop.send(()).expect("it runs");
    /// # follower.await.expect("it did not panic")
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `PermissionDenied` if the user may not write entries or purge. Returns `InvalidConfig` if the model has no
    /// name, `Unsupported` if the bucket has no index entries, `SchemaDiffers` if the bucket has other indexes,
    /// `BucketNotFound` if it is deleted, and `Closed` after the shutdown of the store.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the lease is released in the background, and the next leader resumes at the stored
    /// position. A repair that was interrupted is repeated.
    pub fn maintain_indexes(&self) -> MaintainIndexes<'_, T> {
        let settings = Settings { timeout: None, sweep_every: SWEEP_INTERVAL };
        MaintainIndexes { bucket: self, settings, ttl: None, on_duplicate: None }
    }
}

/// The loop that keeps the indexes of a bucket; see [`Bucket::maintain_indexes`].
#[must_use = "nothing is maintained until it is awaited"]
pub struct MaintainIndexes<'a, T: Indexed> {
    bucket: &'a Bucket<T>,
    settings: Settings,
    ttl: Option<Duration>,
    on_duplicate: Option<DuplicateFn<'a>>,
}

impl<'a, T: Indexed> MaintainIndexes<'a, T> {
    /// Sets a future that ends the loop. When it completes, the loop returns, and the lease is released in the background.
    pub fn until<S: Future + Send + 'a>(self, stop: S) -> MaintainIndexesUntil<'a, T, S> {
        MaintainIndexesUntil { follower: self, stop }
    }

    /// Sets the time between two searches for entries that no record matches. A search lists all entries, and reads their
    /// records. Default: one hour.
    pub fn sweep_every(mut self, interval: Duration) -> Self {
        self.settings.sweep_every = interval;
        self
    }

    /// Calls a function for each record with the unique value of another one.
    pub fn on_duplicate(mut self, on_duplicate: impl FnMut(IndexDuplicate) + Send + 'a) -> Self {
        self.on_duplicate = Some(Box::new(on_duplicate));
        self
    }

    /// Sets how long after the death of the leader another process leads: at least 1 s. Default: 30 s.
    ///
    /// Below 15 s the lease may not survive the election of a new leader in a cluster.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Sets the timeout of each request. Default: the bucket's timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = Some(timeout);
        self
    }

    async fn run(self, stop: impl Future + Send) -> Result<()> {
        let bucket = self.bucket;
        let state = bucket.shared::<FollowerState>();
        let ended = {
            let terms = pin!(self.terms(&state));
            tokio::select! {
                biased;
                _ = stop => Ok(()),
                ended = terms => ended,
            }
        };
        if ended.is_ok() {
            state.set(None);
        }
        ended.map_err(|error: Error| error.of_model::<T>().with_context(OPERATION, bucket.name(), None))
    }

    /// Leads term after term, until an error that another term would have too.
    async fn terms(self, state: &FollowerState) -> Result<()> {
        let Self { bucket, settings, ttl, mut on_duplicate } = self;
        if T::SCHEMA.name.is_empty() {
            return Err(Error::invalid_config("the model has no name, so its indexes cannot be maintained"));
        }
        let mut backoff = Backoff::outage();
        loop {
            bucket.raw(OPERATION)?;
            let began = Instant::now();
            let term = async {
                let lease = JobLease::campaign(bucket, Job::Follower(OPERATION), ttl).await?;
                lease.run(follow(bucket, settings, state, &mut on_duplicate)).await
            };
            match term.await {
                Ok(()) => {}
                Err(error) if matches!(error.kind(), ErrorKind::Lost) => {
                    state.set(None);
                    tracing::warn!(bucket = bucket.name(), "the follower of the indexes lost its lease");
                }
                Err(error) if is_final(&error) => return Err(error),
                Err(error) => {
                    tracing::warn!(bucket = bucket.name(), %error, "the follower of the indexes is restarted")
                }
            }
            if began.elapsed() > LONG_TERM {
                backoff = Backoff::outage();
            }
            sleep(backoff.next()).await;
        }
    }
}

/// The loop that keeps the indexes of a bucket, until a signal; see [`MaintainIndexes::until`].
#[must_use = "nothing is maintained until it is awaited"]
pub struct MaintainIndexesUntil<'a, T: Indexed, S> {
    follower: MaintainIndexes<'a, T>,
    stop: S,
}

impl<'a, T: Indexed> IntoFuture for MaintainIndexes<'a, T> {
    type Output = Result<()>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let bucket = self.bucket;
        bucket.observe(OPERATION, Box::pin(self.run(pending::<()>())))
    }
}

impl<'a, T: Indexed, S: Future + Send + 'a> IntoFuture for MaintainIndexesUntil<'a, T, S> {
    type Output = Result<()>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let bucket = self.follower.bucket;
        bucket.observe(OPERATION, Box::pin(self.follower.run(self.stop)))
    }
}

impl<T: Indexed> fmt::Debug for MaintainIndexes<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bucket, settings, .. } = self;
        f.debug_struct("MaintainIndexes").field("bucket", bucket).field("settings", settings).finish_non_exhaustive()
    }
}

impl<T: Indexed, S> fmt::Debug for MaintainIndexesUntil<'_, T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MaintainIndexesUntil").field("follower", &self.follower).finish_non_exhaustive()
    }
}
