//! The keys of `once` as an operator sees them.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use futures::stream::Stream;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::handle::Once;
use crate::backend::Read;
use crate::bucket::{Entries, Entry};
use crate::error::{Error, ErrorKind, Result};
use crate::recipes::lease::record::{LeaseRecord, expires_in, time_of};
use crate::recipes::record::RecipeRecord;

impl<T> Once<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// Reads all keys as a stream of keys and states: runs in progress, and stored results. The results are not decoded;
    /// [`get`](Self::get) reads one. A failed run stores nothing, so its key is not included.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// use kvtyped::recipes::OnceState;
    ///
    /// let charges = Store::memory().once::<u32>("charges");
    /// charges.run("charge-42", || async { 5 }).await?;
    /// let mut keys = charges.all().await?;
    /// while let Some((key, state)) = keys.try_next().await? {
    ///     assert!(key == "charge-42" && matches!(state, OnceState::Done { .. }));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the errors of [`list`](crate::ReadBucket::list). A key whose record is not readable is an `Err` item, and
    /// the stream continues.
    ///
    /// # Cancel safety
    ///
    /// If the future or the stream is dropped, the work on the server ends.
    pub async fn all(&self) -> Result<OnceKeys> {
        let list = async {
            let bucket = self.context.bucket().await?;
            bucket.refresh_clock().await;
            Ok(OnceKeys { entries: bucket.list(self.context.all::<LeaseRecord>()).await? })
        };
        self.context.in_operation("all", None, list).await
    }

    /// Removes the stored result of a key, so that the next call runs the work again. Returns whether there was a result.
    ///
    /// A run in progress is left alone, and the answer is `false`.
    ///
    /// # Errors
    ///
    /// Returns the errors of a read and of a purge. Returns `Decode` if the record of the key is not readable.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the result may or may not be removed.
    pub async fn forget(&self, key: &str) -> Result<bool> {
        let forget = async {
            let bucket = self.context.bucket().await?;
            let ttl = self.context.options.timing.resolve()?.ttl;
            let stored = self.context.key(key);
            loop {
                let Some(entry) = bucket.get(&stored).read(Read::Leader).await? else { return Ok(false) };
                if is_running(&entry.value) {
                    return Ok(false);
                }
                match bucket.purge(&stored).if_revision(entry.revision()).ttl(ttl).await {
                    Err(error) if matches!(error.kind(), ErrorKind::Conflict { .. }) => {}
                    removed => return removed.map(|_| true),
                }
            }
        };
        self.context.in_operation("forget", Some(key), forget).await
    }
}

/// Whether the record is a lease, and not a result.
pub(crate) fn is_running(record: &LeaseRecord) -> bool {
    !record.value.as_ref().is_some_and(|value| value.get("result").is_some())
}

/// The state of a key; see [`Once::all`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnceState {
    /// The work runs.
    Running {
        /// The name of the caller that runs it.
        owner: String,
        /// When it began, by the caller's clock.
        since: SystemTime,
        /// When the caller last renewed its lease, by the server's clock.
        renewed: SystemTime,
        /// The time until the lease expires without a renewal, by the server's clock.
        expires_in: Duration,
    },
    /// The result is stored.
    Done {
        /// When the result was stored, by the server's clock.
        stored_at: SystemTime,
        /// The time until the result is removed, by the server's clock. `None` if it is kept.
        expires_in: Option<Duration>,
    },
}

impl OnceState {
    fn from_entry(entry: &Entry<RecipeRecord<LeaseRecord>>) -> Self {
        if !is_running(&entry.value) {
            return Self::Done { stored_at: entry.created(), expires_in: entry.remaining() };
        }
        let LeaseRecord { owner, since, .. } = &entry.value;
        let (renewed, expires_in) = (entry.created(), expires_in(entry));
        Self::Running { owner: owner.clone(), since: time_of(*since), renewed, expires_in }
    }
}

/// A stream of keys and their states; see [`Once::all`].
#[must_use = "a stream does nothing until it is polled"]
pub struct OnceKeys {
    entries: Entries<RecipeRecord<LeaseRecord>>,
}

impl Stream for OnceKeys {
    type Item = Result<(String, OnceState), Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let entry = ready!(self.entries.poll_next_unpin(context));
        let state =
            |entry: Entry<RecipeRecord<LeaseRecord>>| (entry.key().part().to_owned(), OnceState::from_entry(&entry));
        Poll::Ready(entry.map(|entry| entry.map(state)))
    }
}

impl fmt::Debug for OnceKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnceKeys").finish_non_exhaustive()
    }
}
