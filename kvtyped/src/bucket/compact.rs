//! `compact`.

use std::time::Duration;

use futures::StreamExt;
use futures::stream;

use super::{Bucket, verb};
use crate::backend::{RawEntry, Scan, Scanned, next_output};
use crate::error::Result;
use crate::key::{Key, Pattern};
use crate::model::KvModel;
use crate::revision::Revision;

/// How many keys are worked on at once.
const AT_ONCE: usize = 128;

/// How many markers one round collects before it removes them.
const ROUND: usize = 100_000;

impl<T: KvModel> Bucket<T> {
    /// Removes the markers of what was deleted, purged or expired longer ago than this, with the history that is left
    /// before them. Records stay, and so does what is written meanwhile.
    ///
    /// A marker tells watchers of a removal. One who was away for longer than markers are kept hears of it all the same, by
    /// a `Resync`: so choose a time that is longer than what is usual.
    ///
    /// It covers the whole bucket, whatever the model, and also removes the markers of other models and of locks. The
    /// server's clock measures the age of a marker. nats-server 2.15.1 removed 100,000 markers in 5 s on a busy machine of
    /// two cores.
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
    /// let compacted = sessions.compact(Duration::ZERO).await?; // a day, say, where others watch
    /// assert_eq!(compacted.markers, 1);
    /// assert_eq!(sessions.status().await?.values, 0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of a list; `PermissionDenied` where the user may not purge (`$JS.API.STREAM.PURGE`). What was removed until
    /// then is removed.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves the rest as it is.
    pub fn compact(&self, older_than: Duration) -> Compact<'_, T> {
        Compact { bucket: self, older_than, timeout: None }
    }
}

/// What a compaction removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Compacted {
    /// How many markers. If the server was slow to answer and a removal was sent again, its marker may be missing here and in
    /// `entries`.
    pub markers: u64,
    /// How many entries in all: markers, and the history that was left before them.
    pub entries: u64,
    /// By how many bytes the bucket is smaller, as the backend counts. What others write meanwhile is counted against it.
    pub bytes: u64,
}

/// A removal of old markers; see [`Bucket::compact`].
#[must_use = "nothing is removed until it is awaited"]
#[derive(Debug)]
pub struct Compact<'a, T: KvModel> {
    bucket: &'a Bucket<T>,
    older_than: Duration,
    timeout: Option<Duration>,
}

impl<T: KvModel> Compact<'_, T> {
    /// How long each step may take; the store's time by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    async fn run(self) -> Result<Compacted> {
        let bucket = self.bucket;
        self.steps().await.map_err(|error| error.within("compact", bucket.name(), None))
    }

    async fn steps(self) -> Result<Compacted> {
        let Self { bucket, older_than, timeout } = self;
        let raw = bucket.raw("compact")?;
        let before = raw.status(bucket.deadline(timeout)).await?;
        let is_old = |entry: &RawEntry| {
            entry.is_removed() && before.now.duration_since(entry.created).unwrap_or_default() >= older_than
        };
        let mut compacted = Compacted::default();
        let mut after = Revision::ZERO;
        loop {
            let everything = vec![Pattern::all(), Pattern::reserved()].into();
            let mut scanned = raw.scan(Scan { headers_only: true, after, ..bucket.scan_of(everything, timeout) });
            let mut old = Vec::new();
            while let Some(scanned) = scanned.next().await {
                match scanned {
                    Ok(Scanned { entry, .. }) => {
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
            // Drop the consumer of the scan first. Beside it, the same server removes markers more than ten times as slowly.
            drop(scanned);
            let is_last = old.len() < ROUND;
            let erase = |(key, revision): (Key, Revision)| async move {
                raw.erase(&key, revision, bucket.deadline(timeout)).await
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

verb!(Compact => Compacted);
