//! `count_by`.

use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};

use super::options::{LookupOptions, lookup_options};
use crate::backend::KeySpace;
use crate::bucket::ReadBucket;
use crate::bucket::verb::verb;
use crate::error::Result;
use crate::model::index::{Lookup, Many};
use crate::model::{Indexed, KvModel};

/// The number of patterns that are counted at once.
const CONCURRENCY: usize = 8;

impl<T: KvModel> ReadBucket<T> {
    /// Counts the entries of the index that match a lookup, without reading a record.
    ///
    /// The number is an upper bound of the records that programs with the index wrote. It includes the entries of expired
    /// records, entries that a writer has not erased yet, and each matching value of a record with several values.
    /// [`CountBy::exact`] counts the records. The number may be too low for an eventual index, and after writes of other clients.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(bucket = "users", key = "{id}")]
    /// # struct User { id: u64, #[kv(index)] team: String }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// let users: Bucket<User> = Store::memory().bucket().await?;
    /// users.put(&User { id: 7, team: "core".into() }).await?;
    /// assert_eq!(users.count_by(User::by_team("core")).await?, 1);
    /// assert_eq!(users.count_by(User::by_team("web")).exact().await?, 0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `IndexBuilding` if the index is not built, or was dropped. Returns `Timeout`, `Unavailable` or
    /// `BucketNotFound` if the count cannot be completed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub fn count_by(&self, lookup: impl Into<Lookup<T, Many>>) -> CountBy<'_, T>
    where
        T: Indexed,
    {
        CountBy { bucket: self, lookup: lookup.into(), is_exact: false, options: LookupOptions::default() }
    }
}

/// A count by an index; see [`ReadBucket::count_by`].
#[must_use = "nothing is counted until it is awaited"]
#[derive(Debug)]
pub struct CountBy<'a, T: KvModel> {
    bucket: &'a ReadBucket<T>,
    lookup: Lookup<T, Many>,
    is_exact: bool,
    options: LookupOptions,
}

impl<T: KvModel> CountBy<'_, T> {
    /// Reads the records, and counts each one that matches once. Fails with `Decode` if a record cannot be decoded. Costs
    /// as much as [`list_by`](ReadBucket::list_by).
    pub fn exact(mut self) -> Self {
        self.is_exact = true;
        self
    }

    async fn run(self) -> Result<u64> {
        let bucket = self.bucket;
        self.count().await.map_err(|error| error.with_context("count_by", bucket.name(), None))
    }

    async fn count(self) -> Result<u64> {
        let Self { bucket, lookup, is_exact, options } = self;
        if is_exact {
            let records = bucket.list_of(lookup, options).entries("count_by").await?;
            return records.try_fold(0, async |count, _| Ok(count + 1)).await;
        }
        let (raw, deadline) = (bucket.raw("count_by")?, bucket.deadline(options.timeout));
        let Some(info) = lookup.info() else { return Ok(0) };
        loop {
            let build = options.begin(bucket, info, deadline).await?;
            let counts = lookup.patterns().into_iter().map(|pattern| {
                let raw = Arc::clone(raw);
                async move { raw.count_keys(KeySpace::Index, &pattern, deadline).await }
            });
            let counts = stream::iter(counts).buffer_unordered(CONCURRENCY);
            let count = counts.try_fold(0, async |sum, count| Ok(sum + count)).await?;
            if bucket.current_build(info, deadline).await? == build {
                return Ok(count);
            }
        }
    }
}

lookup_options!(CountBy: "Sets the longest time without progress. Default: the bucket's timeout.");
verb!(CountBy("count_by", bucket) => u64);
