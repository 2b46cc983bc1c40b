//! `drop_index`: removes an index from a bucket.

use std::fmt;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use tokio::time::sleep;

use super::lease::{Job, JobLease};
use crate::backend::{KeySpace, ListKeysRequest};
use crate::bucket::verb::verb;
use crate::bucket::{Bucket, CARD_LIFE, ReadBucket};
use crate::config::BucketConfig;
use crate::error::{Error, Result};
use crate::key::Pattern;
use crate::model::index::IndexState;
use crate::model::{KvModel, ModelCard};

const OPERATION: &str = "drop_index";

/// The number of entries that are erased at once.
const AT_ONCE: usize = 64;

impl<T: KvModel> Bucket<T> {
    /// Removes an index from the card of the model, and erases its entries. Returns their number.
    ///
    /// A program without the index cannot open the bucket for writing before that, unless it opens the bucket with
    /// `.on_schema(`[`Drift::Adopt`](crate::Drift::Adopt)`)`.
    ///
    /// Programs that have the index may continue to run. Their lookups fail with `IndexBuilding`, and never miss a record. If
    /// the index is unique, their writes fail with `SchemaDiffers` until they open the bucket again, so that they store no
    /// value twice. If the index is not unique, they continue to store entries, which a second call erases.
    ///
    /// In a bucket with [write epochs](crate::config::WriteEpochs), the server refuses a write that relies on an erased entry.
    /// In other buckets, the call waits for a minute, unless [`all_writers_stopped`](DropIndex::all_writers_stopped) is set.
    /// In that minute, programs read the card again. They send no record later than 30 seconds after its entries. A write
    /// that the server applies more than a minute after it was sent may store a value twice, or lack an entry after the
    /// next build.
    ///
    /// An index that the card does not list has only entries to erase. The next call completes a call that was
    /// interrupted. The handle of this call may write without the index afterwards.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(bucket = "users", key = "{id}")]
    /// # struct User { id: u64, #[kv(index)] team: String }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// let users: Bucket<User> = Store::memory().bucket().await?;
    /// users.put(&User { id: 1, team: "core".into() }).await?;
    /// assert_eq!(users.drop_index("team").await?, 1);
    /// assert!(users.card().await?.expect("the program created it").indexes.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `SchemaDiffers` if the card is unreadable, and `Unavailable` if another job of the model runs, or for an
    /// eventual index [`maintain_indexes`](Self::maintain_indexes).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the index stays `dropping`, and some entries stay.
    pub fn drop_index<'a>(&'a self, index: &'a str) -> DropIndex<'a, T> {
        DropIndex { bucket: self, index, all_stopped: false, timeout: None }
    }
}

/// The removal of an index; see [`Bucket::drop_index`].
#[must_use = "nothing is removed until it is awaited"]
pub struct DropIndex<'a, T: KvModel> {
    bucket: &'a Bucket<T>,
    index: &'a str,
    all_stopped: bool,
    timeout: Option<Duration>,
}

impl<'a, T: KvModel> DropIndex<'a, T> {
    /// Confirms that no other program with the index writes, so that the call does not wait in a bucket without write
    /// epochs. If such a program writes, a unique value may be stored twice.
    pub fn all_writers_stopped(mut self) -> Self {
        self.all_stopped = true;
        self
    }

    /// Sets the timeout of each request. Default: the bucket's timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    async fn run(self) -> Result<u64> {
        let bucket = self.bucket;
        let dropped = async {
            bucket.raw(OPERATION)?;
            let lease = JobLease::acquire(bucket, Job::Records(OPERATION), None).await?;
            lease.run(self.without_follower()).await
        };
        dropped.await.map_err(|error: Error| error.of_model::<T>().with_context(OPERATION, bucket.name(), None))
    }

    /// Erases the entries. Excludes the followers of an eventual index, which would store them again.
    async fn without_follower(self) -> Result<u64> {
        let Self { bucket, index, timeout, .. } = self;
        let config = bucket.refresh_status(bucket.deadline(timeout)).await?.config;
        let card = ReadBucket::<T>::card_in(&config)?;
        if !card.and_then(|card| Some(card.indexes.get(index)?.eventual)).unwrap_or(false) {
            return self.erase().await;
        }
        // A follower that has ended releases its lease in the background.
        let wait = timeout.unwrap_or(bucket.timeout());
        let lease = JobLease::acquire(bucket, Job::Follower(OPERATION), Some(wait)).await?;
        lease.run(self.erase()).await
    }

    async fn erase(self) -> Result<u64> {
        let Self { bucket, index, all_stopped, timeout } = self;
        let begin = |card: Option<ModelCard>, config: &BucketConfig| {
            let changed = card.and_then(|mut card| {
                let found = card.indexes.get_mut(index).filter(|found| found.state != IndexState::Dropping)?;
                found.state = IndexState::Dropping;
                // The server refuses writers that rely on the unique values.
                let moves = found.unique && config.write_epochs.is_some();
                Some((card, moves.then(|| config.write_epoch.unwrap_or_default().saturating_add(1))))
            });
            Ok(changed)
        };
        let config = bucket.update_card(bucket.deadline(timeout), begin).await?;
        let card = ReadBucket::<T>::card_in(&config)?;
        let found = card.as_ref().and_then(|card| card.indexes.get(index)).filter(|found| !found.eventual);
        let waits = config.write_epochs.is_none() && !all_stopped;
        let is_unique = found.filter(|_| waits).map(|found| found.unique);
        if is_unique == Some(true) {
            // Waits until all writers have read the card again, and therefore claim no value.
            sleep(2 * CARD_LIFE).await;
        }
        let through = bucket.refresh_status(bucket.deadline(timeout)).await?.last_revision;
        let pattern = Pattern::new().literal(T::SCHEMA.name).literal(index).open();
        let idle_timeout = timeout.unwrap_or(bucket.timeout());
        let raw = bucket.raw(OPERATION)?;
        let mut pages = raw.list_keys(ListKeysRequest { space: KeySpace::Index, pattern, idle_timeout });
        let mut erased = 0;
        while let Some(page) = pages.try_next().await? {
            let erase =
                |key| async move { raw.purge_through(KeySpace::Index, &key, through, bucket.deadline(timeout)).await };
            let counts: Vec<u64> =
                futures::stream::iter(page).map(erase).buffer_unordered(AT_ONCE).try_collect().await?;
            erased += counts.into_iter().filter(|count| *count > 0).count() as u64;
        }
        if is_unique == Some(false) {
            // Waits until the records of the erased entries are stored, so that the next build finds these records.
            sleep(2 * CARD_LIFE).await;
        }
        let end = |card: Option<ModelCard>, _: &BucketConfig| {
            let changed = card.and_then(|mut card| {
                card.indexes.get(index).filter(|found| found.state == IndexState::Dropping)?;
                card.indexes.remove(index)?;
                Some((card, None))
            });
            Ok(changed)
        };
        bucket.update_card(bucket.deadline(timeout), end).await?;
        bucket.accept_indexes();
        Ok(erased)
    }
}

verb!(DropIndex("drop_index", bucket) => u64);

impl<T: KvModel> fmt::Debug for DropIndex<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bucket, index, all_stopped, timeout } = self;
        f.debug_struct("DropIndex")
            .field("bucket", bucket)
            .field("index", index)
            .field("all_stopped", all_stopped)
            .field("timeout", timeout)
            .finish()
    }
}
