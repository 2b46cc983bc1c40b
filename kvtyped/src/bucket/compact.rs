//! `compact`.

use std::time::Duration;

use futures::StreamExt;
use futures::stream;

use super::handle::Bucket;
use super::verb::verb;
use crate::backend::{KeySpace, RawEntry, ScanItem, ScanRequest, next_output};
use crate::config::BucketConfig;
use crate::error::Result;
use crate::key::{Key, Pattern};
use crate::model::KvModel;
use crate::revision::Revision;

/// The number of concurrent removals.
const AT_ONCE: usize = 128;

/// The number of markers that one round collects before it removes them.
const ROUND: usize = 100_000;

impl<T: KvModel> Bucket<T> {
    /// Removes the delete markers that are older than `older_than`, and the history of their keys before them. A marker
    /// is left by a delete, a purge or an expiry. Records and concurrent writes are unaffected.
    ///
    /// Markers announce removals to watchers. A watcher that was disconnected for longer than markers are kept gets a
    /// `Resync` instead, so choose a time that is longer than usual interruptions.
    ///
    /// The compaction covers the whole bucket, including the markers of other models and of locks. The server's clock
    /// measures the age of a marker. nats-server 2.15.1 removed 100,000 markers in 5 s on a busy machine with two
    /// cores. The server compares each removal with every unacknowledged message of a watch, so an open watch
    /// without a reader slows it (10,000 markers took 25 s).
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{id}")]
    /// # struct Session { id: u64 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let sessions: Bucket<Session> = Store::memory().bucket().await?;
    /// sessions.put(&Session { id: 7 }).await?;
    /// sessions.delete(&SessionKey::new(7)).await?;
    /// let compacted = sessions.compact(Duration::ZERO).await?; // with watchers, for example a day
    /// assert_eq!(compacted.markers, 1);
    /// assert_eq!(sessions.status().await?.values, 0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// In a bucket with index entries, markers younger than [`BucketConfig::INDEX_MARKERS`](crate::config::BucketConfig::INDEX_MARKERS)
    /// stay.
    ///
    /// # Errors
    ///
    /// Returns the errors of a list. Returns `PermissionDenied` if the user may not purge (`$JS.API.STREAM.PURGE`).
    /// Markers that were removed before the error stay removed.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the remaining markers stay.
    pub fn compact(&self, older_than: Duration) -> Compact<'_, T> {
        Compact { bucket: self, older_than, timeout: None }
    }
}

/// The result of a compaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Compacted {
    /// The number of removed markers. If the server was slow and a removal was sent again, its marker may be missing
    /// here and in `entries`.
    pub markers: u64,
    /// The number of removed entries: the markers and the history before them.
    pub entries: u64,
    /// The decrease of the bucket's size in bytes, as the backend counts it. Concurrent writes reduce this number.
    pub bytes: u64,
}

/// A compaction; see [`Bucket::compact`].
#[must_use = "nothing is removed until it is awaited"]
#[derive(Debug)]
pub struct Compact<'a, T: KvModel> {
    bucket: &'a Bucket<T>,
    older_than: Duration,
    timeout: Option<Duration>,
}

impl<T: KvModel> Compact<'_, T> {
    /// Sets the timeout of each step. Default: the bucket's timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    async fn run(self) -> Result<Compacted> {
        let bucket = self.bucket;
        self.steps().await.map_err(|error| error.with_context("compact", bucket.name(), None))
    }

    async fn steps(self) -> Result<Compacted> {
        let Self { bucket, older_than, timeout } = self;
        let raw = bucket.raw("compact")?;
        let older_than = match bucket.config().index_entries {
            Some(true) => older_than.max(BucketConfig::INDEX_MARKERS),
            _ => older_than,
        };
        let before = raw.status(bucket.deadline(timeout)).await?;
        let is_old = |entry: &RawEntry| {
            entry.is_removed() && before.now.duration_since(entry.created).unwrap_or_default() >= older_than
        };
        let mut compacted = Compacted::default();
        let mut after = Revision::ZERO;
        loop {
            let everything = vec![Pattern::all(), Pattern::reserved()].into();
            let mut scanned =
                raw.scan(ScanRequest { headers_only: true, after, ..bucket.scan_request(everything, timeout) });
            let mut old = Vec::new();
            while let Some(scanned) = scanned.next().await {
                match scanned {
                    Ok(ScanItem { entry, .. }) => {
                        after = entry.revision;
                        if is_old(&entry) {
                            old.push((entry.key, entry.revision));
                        }
                    }
                    // A message with an illegal key is not a marker of this crate.
                    Err(error) if error.key().is_some() => {}
                    Err(error) => return Err(error),
                }
                if old.len() == ROUND {
                    break;
                }
            }
            // Drop the consumer of the scan first. While it exists, the same server removes markers more than ten times
            // slower.
            drop(scanned);
            let is_last = old.len() < ROUND;
            let erase = |(key, revision): (Key, Revision)| async move {
                raw.purge_through(KeySpace::Records, &key, revision, bucket.deadline(timeout)).await
            };
            let mut erased = stream::iter(old).map(erase).buffer_unordered(AT_ONCE);
            while let Some(entries) = next_output(&mut erased).await.transpose()? {
                compacted.markers += u64::from(entries > 0);
                compacted.entries += entries;
            }
            if is_last {
                break;
            }
        }
        let after = raw.status(bucket.deadline(timeout)).await?.bytes;
        compacted.bytes = before.bytes.saturating_sub(after);
        Ok(compacted)
    }
}

verb!(Compact("compact", bucket) => Compacted);
