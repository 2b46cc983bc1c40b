//! `count`.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Duration;

use futures::stream::StreamExt;

use super::{ReadBucket, decode, verb};
use crate::backend::Scan;
use crate::error::Result;
use crate::model::{Filter, KvModel};

impl<T: KvModel> ReadBucket<T> {
    /// Counts the records that a filter matches. Removed ones are not counted, nor are keys that are none of the model's.
    ///
    /// No server counts records without the markers of removed ones. So this reads the headers of all that matches, as
    /// [`keys`](Self::keys) does: about a second for some 100,000 records, and some twenty bytes of memory for each
    /// meanwhile, so that one that is written while it is counted counts once.
    /// [`status`](Self::status) tells at once how many entries a bucket holds, markers and history included.
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
    /// `Timeout`, `Unavailable`, `BucketNotFound`: it is not counted to the end.
    ///
    /// # Cancel safety
    ///
    /// Dropping it ends the work on the server.
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

impl<T: KvModel> Count<'_, T> {
    /// How long it may go without progress; the store's time by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    async fn run(self) -> Result<u64> {
        let Self { bucket, filter, timeout } = self;
        let scan = Scan { headers_only: true, ..bucket.scan_of(filter.patterns().clone(), timeout) };
        let mut entries = bucket.scan("count", scan)?;
        let hasher = RandomState::new();
        let mut live = HashSet::new();
        while let Some(scanned) = entries.next().await {
            match scanned {
                Ok(scanned) => {
                    let key = hasher.hash_one(&scanned.entry.key);
                    // It comes again if it was written meanwhile, or removed.
                    match scanned.entry.is_live() && decode::key::<T>(&scanned.entry.key).is_ok() {
                        true => live.insert(key),
                        false => live.remove(&key),
                    };
                }
                // What is no key at all is no record.
                Err(error) if error.key().is_some() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(live.len() as u64)
    }
}

verb!(Count => u64);
