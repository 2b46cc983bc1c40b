//! `history`.

use std::time::Duration;

use futures::stream::StreamExt;

use super::decode;
use super::entry::Version;
use super::handle::ReadBucket;
use super::verb::verb;
use crate::backend::ScanRequest;
use crate::error::Result;
use crate::key::{ModelKey, Pattern};
use crate::model::KvModel;

impl<T: KvModel> ReadBucket<T> {
    /// Reads all stored versions of a key, oldest first: records, deletes, purges and expiries.
    ///
    /// In a replicated bucket, the result is as fresh as a [`list`](Self::list).
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # use kvtyped::Version;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "app", history = 8)]
    /// # struct AppConfig { limit: u32 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let configs: Bucket<AppConfig> = Store::memory().bucket().await?;
    /// configs.put(&AppConfig { limit: 1 }).await?;
    /// configs.delete(&AppConfigKey).await?;
    ///
    /// let past = configs.history(&AppConfigKey).await?;
    /// assert!(matches!(&past[0], Version::Put(entry) if entry.limit == 1));
    /// assert!(matches!(&past[1], Version::Removed { reason: Removed::Deleted, .. }));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `InvalidKey` if the key is too long. A value that does not decode is a [`Version::Undecodable`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the work on the server ends.
    pub fn history<'a>(&'a self, key: &'a T::Key) -> History<'a, T> {
        History { bucket: self, key, timeout: None }
    }
}

/// A read of a key's history; see [`ReadBucket::history`].
#[must_use = "nothing is read until it is awaited"]
#[derive(Debug)]
pub struct History<'a, T: KvModel> {
    bucket: &'a ReadBucket<T>,
    key: &'a T::Key,
    timeout: Option<Duration>,
}

impl<T: KvModel> History<'_, T> {
    /// Sets the longest time without progress. Default: the bucket's timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    async fn run(self) -> Result<Vec<Version<T>>> {
        let Self { bucket, key, timeout } = self;
        let key = key.encode().map_err(|error| bucket.bad_key("history", error))?;
        let scan = ScanRequest { history: true, ..bucket.scan_request(vec![Pattern::exact(&key)].into(), timeout) };
        let mut entries = bucket.scan("history", scan)?;
        let mut versions = Vec::new();
        while let Some(entry) = entries.next().await {
            let version = entry.and_then(|scanned| decode::version(&scanned.entry, bucket.clock()));
            versions.push(version.map_err(|error| error.with_context("history", bucket.name(), Some(key.as_str())))?);
        }
        Ok(versions)
    }
}

verb!(History("history", bucket) => Vec<Version<T>>);
