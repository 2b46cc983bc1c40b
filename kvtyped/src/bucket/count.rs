//! `count`.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Duration;

use futures::stream::StreamExt;

use super::decode;
use super::handle::ReadBucket;
use super::verb::verb;
use crate::backend::ScanRequest;
use crate::error::Result;
use crate::model::{Filter, KvModel, RawRecord};

impl<T: KvModel> ReadBucket<T> {
    /// Counts the records that match a filter. Skips removed records and keys that are not keys of the model.
    ///
    /// A server cannot count records without delete markers, so this method reads the headers of all matching entries,
    /// as [`keys`](Self::keys) does. It takes about a second for 100,000 records. It also needs about twenty bytes of
    /// memory for each record until it completes, so that a record that changes during the count is counted once.
    ///
    /// [`status`](Self::status) returns the number of all entries at once, including markers and history.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{tenant}.{id}")]
    /// # struct Session { tenant: String, id: u64 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let sessions: Bucket<Session> = Store::memory().bucket().await?;
    /// for (tenant, id) in [("acme", 1), ("beta", 2), ("acme", 3)] {
    ///     sessions.put(&Session { tenant: tenant.into(), id }).await?;
    /// }
    /// assert_eq!(sessions.count(SessionKey::filter().tenant("acme")).await?, 2);
    /// assert_eq!(sessions.count(..).await?, 3);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `Timeout`, `Unavailable` or `BucketNotFound` if the count cannot be completed.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the work on the server ends.
    pub fn count(&self, filter: impl Into<Filter<T>>) -> Count<'_, T> {
        Count { bucket: self, filter: filter.into(), timeout: None }
    }
}

/// A count of records; see [`ReadBucket::count`].
#[must_use = "nothing is counted until it is awaited"]
#[derive(Debug)]
pub struct Count<'a, T: KvModel> {
    bucket: &'a ReadBucket<T>,
    filter: Filter<T>,
    timeout: Option<Duration>,
}

impl Count<'_, RawRecord> {
    /// Also counts the [reserved](crate::Key::RESERVED) records, such as the records of locks. The filter applies to
    /// their keys.
    pub fn include_reserved(mut self) -> Self {
        self.filter = self.filter.with_reserved();
        self
    }
}

impl<T: KvModel> Count<'_, T> {
    /// Sets the longest time without progress. Default: the bucket's timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    async fn run(self) -> Result<u64> {
        let Self { bucket, filter, timeout } = self;
        let scan = ScanRequest { headers_only: true, ..bucket.scan_request(filter.patterns().clone(), timeout) };
        let mut entries = bucket.scan("count", scan)?;
        let hasher = RandomState::new();
        let mut live = HashSet::new();
        while let Some(scanned) = entries.next().await {
            match scanned {
                Ok(scanned) => {
                    let key = hasher.hash_one(&scanned.entry.key);
                    // A key that is written or removed during the count appears again.
                    match scanned.entry.is_live() && decode::key::<T>(&scanned.entry.key).is_ok() {
                        true => live.insert(key),
                        false => live.remove(&key),
                    };
                }
                // An illegal key is not a record.
                Err(error) if error.key().is_some() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(live.len() as u64)
    }
}

verb!(Count("count", bucket) => u64);
