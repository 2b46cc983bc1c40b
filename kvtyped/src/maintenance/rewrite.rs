//! `rewrite`: changes records by a function of the caller.

use std::collections::HashMap;
use std::fmt;
use std::future::IntoFuture;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::Instant;

use super::engine::{Changes, Engine, ProgressFn, RewriteProgress};
use super::lease::{Job, JobLease};
use super::options::options;
use super::pacer::Pacer;
use crate::backend::{RawEntry, WriteKind};
use crate::bucket::content::Content;
use crate::bucket::{Bucket, Change, decode};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Filter, KvModel};
use crate::revision::Revision;

const OPERATION: &str = "rewrite";

type ChangeFn<'a, T> = Box<dyn FnMut(T) -> Change<T> + Send + 'a>;

impl<T: KvModel> Bucket<T> {
    /// Changes the records that a filter matches by a function.
    ///
    /// Each record that exists at the start is changed once. It is written under the revision that was read; if another
    /// writer changes the record first, the function runs again on the newest record. A record that the function
    /// returns unchanged is not written. As in a [migration](Self::migrate), a record keeps the rest of its TTL, and
    /// watchers see a [rewrite](crate::Entry::is_rewrite).
    ///
    /// A call that is interrupted has changed some of the records, and the next call runs on all of them again. Let the
    /// function return [`Change::Keep`] for a record that is changed already.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{id}")]
    /// # struct User { id: u64, email: String }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let users: Bucket<User> = Store::memory().bucket().await?;
    /// users.put(&User { id: 1, email: "Ada@example.com".into() }).await?;
    /// users.put(&User { id: 2, email: "bob@example.com".into() }).await?;
    /// let lower_case = |user: User| Change::Put(User { email: user.email.to_lowercase(), ..user });
    /// let rewritten = users.rewrite(.., lower_case).await?;
    /// assert_eq!((rewritten.seen, rewritten.rewritten), (2, 1));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the errors of [`migrate`](Self::migrate). [`Rewritten::refused`] contains each record that could not be
    /// read or written, and each record whose write has an unknown outcome.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the writes in flight may or may not be applied, and no further record is written.
    pub fn rewrite<'a>(
        &'a self,
        filter: impl Into<Filter<T>>,
        change: impl FnMut(T) -> Change<T> + Send + 'a,
    ) -> Rewrite<'a, T> {
        Rewrite {
            bucket: self,
            filter: filter.into(),
            change: Box::new(change),
            pace: None,
            restart_ttl: false,
            wait: None,
            timeout: None,
            on_progress: None,
        }
    }
}

/// A change of many records; see [`Bucket::rewrite`].
#[must_use = "nothing is changed until it is awaited"]
pub struct Rewrite<'a, T: KvModel> {
    bucket: &'a Bucket<T>,
    filter: Filter<T>,
    change: ChangeFn<'a, T>,
    pace: Option<u32>,
    restart_ttl: bool,
    wait: Option<Duration>,
    timeout: Option<Duration>,
    on_progress: Option<ProgressFn<'a>>,
}

/// The result of a rewrite; see [`Bucket::rewrite`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Rewritten {
    /// The number of records that the filter matches.
    pub seen: u64,
    /// The number of records that were written or removed.
    pub rewritten: u64,
    /// How often another writer changed a record first. The function ran again.
    pub raced: u64,
    /// The number of records that expire within a second, and were left.
    pub expiring: u64,
    /// The records that could not be read, or whose write failed or has an unknown outcome: their encoded keys, and the
    /// errors.
    pub refused: Vec<(String, Error)>,
}

options!(Rewrite);

impl<T: KvModel> Rewrite<'_, T> {
    async fn run(self) -> Result<Rewritten> {
        let bucket = self.bucket;
        let rewritten = async {
            bucket.raw(OPERATION)?;
            let lease = JobLease::acquire(bucket, Job::Records(OPERATION), self.wait).await?;
            lease.run(self.rewrite()).await
        };
        rewritten.await.map_err(|error: Error| error.of_model::<T>().with_context(OPERATION, bucket.name(), None))
    }

    async fn rewrite(self) -> Result<Rewritten> {
        let Self { bucket, filter, change, pace, restart_ttl: restarts_ttl, wait: _, timeout, on_progress } = self;
        let status = bucket.refresh_status(bucket.deadline(timeout)).await?;
        let mut engine = Engine {
            bucket,
            operation: OPERATION,
            patterns: filter.patterns().clone(),
            changes: ByFunction(change),
            pacer: Pacer::new(pace, Instant::now()),
            timeout,
            restarts_ttl,
            on_progress,
            progress: RewriteProgress::default(),
            refused: HashMap::new(),
            written: Revision::ZERO,
        };
        let pass = engine.pass(Revision::ZERO, status, None).await?;
        let RewriteProgress { seen, rewritten, raced, .. } = engine.progress;
        Ok(Rewritten { seen, rewritten, raced, expiring: pass.expiring, refused: engine.refused() })
    }
}

/// Changes records by a function.
struct ByFunction<'a, T>(ChangeFn<'a, T>);

impl<T: KvModel> Changes<T> for ByFunction<'_, T> {
    const READS_ALL: bool = true;
    const REPEATABLE: bool = false;

    fn selects(&self, _: &RawEntry) -> bool {
        true
    }

    fn change(&mut self, bucket: &Bucket<T>, entry: &RawEntry) -> Result<Option<Content>> {
        let Some(record) = decode::entry::<T>(entry, bucket.clock())? else { return Ok(None) };
        let (key, found) = (record.key().clone(), record.schema_version());
        let schema = bucket.schema();
        let removal = |kind| Ok(Some(Content::removal(kind, schema.target::<T>()?)));
        match (self.0)(record.into_value()) {
            Change::Keep => Ok(None),
            Change::Delete => removal(WriteKind::Delete),
            Change::Purge => removal(WriteKind::Purge),
            Change::Put(record) if !record.__has_key(&key) => Err(Error::new(ErrorKind::KeyChanged)),
            Change::Put(record) => {
                let content = decode::encode(&record, key, &schema, Some(found))?;
                let is_same = content.kind == WriteKind::Put(entry.value.clone());
                Ok((!is_same || content.headers.version != entry.headers.version).then_some(content))
            }
        }
    }
}

impl<'a, T: KvModel> IntoFuture for Rewrite<'a, T> {
    type Output = Result<Rewritten>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let bucket = self.bucket;
        bucket.observe("rewrite", Box::pin(self.run()))
    }
}

impl<T: KvModel> fmt::Debug for Rewrite<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bucket, filter, pace, restart_ttl, wait, timeout, .. } = self;
        f.debug_struct("Rewrite")
            .field("bucket", bucket)
            .field("filter", filter)
            .field("pace", pace)
            .field("restart_ttl", restart_ttl)
            .field("wait", wait)
            .field("timeout", timeout)
            .finish_non_exhaustive()
    }
}
