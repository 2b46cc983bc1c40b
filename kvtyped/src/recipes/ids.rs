//! Numbers that nobody else gets.

use std::fmt;
use std::future::IntoFuture;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::place::{Place, place_options};
use super::slot::{Slot, SlotKey, Unknown};
use super::task::detached;
use crate::bucket::{Bucket, Change};
use crate::error::{Error, Outcome, Result};
use crate::store::Store;

/// What the key of the record begins with.
const RECIPE: &str = "ids";

impl Store {
    /// Opens a sequence of ids: numbers that are given out once, to whichever process asks.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let store = Store::memory();
    /// let orders = store.ids("orders").await?;
    /// assert_eq!(orders.next().await?, 1);
    /// assert_eq!(orders.next().await?, 2); // of the same block: no network
    ///
    /// let elsewhere = store.ids("orders").await?;
    /// assert_eq!(elsewhere.next().await?, 101); // of a block of its own
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `InvalidConfig` if the block is zero, or if the name is not that of a bucket and [`bucket`](OpenIds::bucket) says no
    /// other; `Unsupported` if the bucket forgets its records after a time.
    pub fn ids(&self, name: impl Into<String>) -> OpenIds {
        let name = name.into();
        OpenIds { place: Place::new(self, &name), name, block: OpenIds::BLOCK, first: 1, timeout: None }
    }
}

/// Opens a sequence of ids; see [`Store::ids`].
#[must_use = "nothing is opened until it is awaited"]
#[derive(Debug)]
pub struct OpenIds {
    place: Place,
    name: String,
    block: u64,
    first: u64,
    timeout: Option<Duration>,
}

place_options!(OpenIds);

impl OpenIds {
    /// How many ids are taken at once, unless it is said otherwise.
    pub const BLOCK: u64 = 100;

    /// How many ids are taken at once; [`OpenIds::BLOCK`] by default. A large block saves the network, a small one saves
    /// ids: what is left of it when the process ends is lost.
    pub fn block(mut self, ids: u64) -> Self {
        self.block = ids;
        self
    }

    /// No id is below this one; 1 by default. A sequence that has got further goes on where it is.
    pub fn start_at(mut self, id: u64) -> Self {
        self.first = id;
        self
    }

    /// How long an operation may take in all; the store's time by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    async fn run(self) -> Result<Ids> {
        let Self { place, name, block, first, timeout } = self;
        if block == 0 {
            return Err(Error::invalid_config("`block` is 0, and must be 1 at least"));
        }
        let bucket: Bucket<Slot<Next>> = place.open_lasting().await?;
        let timeout = timeout.unwrap_or(bucket.timeout());
        let key = SlotKey::new(RECIPE, name, "next");
        let (left, taking) = (Mutex::new(0..0), tokio::sync::Mutex::new(()));
        Ok(Ids(Arc::new(Inner { bucket, key, block, first, timeout, left, taking })))
    }
}

impl IntoFuture for OpenIds {
    type Output = Result<Ids>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

/// A sequence of ids. Cheap to clone; clones share their block. Made by [`Store::ids`].
///
/// A handle takes a block of ids by one compare-and-set and gives them out without the network. No id is given out twice,
/// whichever tasks and processes ask, and each handle's ids increase.
///
/// # What this does not guarantee
///
/// * Ids without gaps. What is left of a block is lost when its process ends, and so is a block whose taking was cancelled,
///   or was not acknowledged.
/// * An order between processes: an id may be given out after a larger one was given out elsewhere.
/// * Anything beyond the life of its bucket: ids are given out again where it is deleted, or set back to an older copy.
#[derive(Clone)]
pub struct Ids(Arc<Inner>);

struct Inner {
    bucket: Bucket<Slot<Next>>,
    key: SlotKey,
    block: u64,
    first: u64,
    timeout: Duration,
    left: Mutex<Range<u64>>,
    /// Held by the one who takes a block, for all who wait.
    taking: tokio::sync::Mutex<()>,
}

/// The first id that nobody has taken.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Next {
    next: u64,
    #[serde(flatten)]
    unknown: Unknown,
}

impl Ids {
    /// An id that nobody else got or gets, larger than the last one of this handle.
    ///
    /// # Errors
    ///
    /// `OutOfRange` when all ids below [`u64::MAX`] are taken. Otherwise those of taking a block, `Unavailable` and
    /// `Timeout` for example; no id is given out, and a block whose fate is unknown is not used.
    ///
    /// # Cancel safety
    ///
    /// Dropping it before it ends loses at most the block that is being taken. No id is given out twice.
    pub async fn next(&self) -> Result<u64> {
        let Inner { bucket, key, timeout, .. } = &*self.0;
        if let Some(id) = self.0.pop() {
            return Ok(id);
        }
        let located = |error: Error| error.within("next", bucket.name(), Some(&key.to_string()));
        let end = Instant::now().checked_add(*timeout);
        let (inner, timeout) = (Arc::clone(&self.0), *timeout);
        let next = async move {
            let _taking = inner.taking.lock().await;
            loop {
                // Whoever had the turn before may have taken enough.
                if let Some(id) = inner.pop() {
                    return Ok(id);
                }
                let block = inner.take(end).await?;
                *inner.left.lock().unwrap_or_else(PoisonError::into_inner) = block;
            }
        };
        // Those who came first have their own time; that of taking a block is within it.
        let next = async move { tokio::time::timeout(timeout, next).await.map_err(|_| Error::timeout(timeout))? };
        detached(next).await.map_err(located)
    }
}

impl Inner {
    /// An id of the block that is there.
    fn pop(&self) -> Option<u64> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).next()
    }

    /// Takes a block. One whose fate is unknown is left to itself: at worst it is lost.
    async fn take(&self, end: Option<Instant>) -> Result<Range<u64>> {
        loop {
            let left = end.map_or(self.timeout, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Err(Error::timeout(self.timeout));
            }
            let mut taken = None;
            let take = self.bucket.transform(&self.key, |slot| {
                let (next, unknown) =
                    slot.map_or_else(Default::default, |slot: Slot<Next>| (slot.value.next, slot.value.unknown));
                let next = next.max(self.first);
                let end = next.saturating_add(self.block);
                taken = (next < end).then_some(next..end);
                match taken {
                    Some(_) => Change::Put(Slot { key: self.key.clone(), value: Next { next: end, unknown } }),
                    None => Change::Keep,
                }
            });
            let result = take.max_attempts(u32::MAX).timeout(left).await;
            match (result, taken) {
                (Ok(_), Some(block)) => return Ok(block),
                (Ok(_), None) => return Err(Error::out_of_range("all ids below the end of `u64` are taken")),
                (Err(error), _) if error.outcome() == Outcome::Unknown => {
                    tracing::debug!(%error, "a block of ids is abandoned");
                }
                (Err(error), _) => return Err(error),
            }
        }
    }
}

impl fmt::Debug for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { bucket, key, block, .. } = &*self.0;
        f.debug_struct("Ids")
            .field("name", &key.name())
            .field("bucket", &bucket.name())
            .field("block", block)
            .finish_non_exhaustive()
    }
}
