//! Unique numbers.

use std::fmt;
use std::future::IntoFuture;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::location::{BucketLocation, location_options};
use super::open::detached;
use super::record::{RecipeKey, RecipeRecord, Unknown};
use crate::bucket::{Bucket, Change};
use crate::error::{Error, Outcome, Result};
use crate::store::Store;

/// The recipe's part of a key.
const RECIPE: &str = "ids";

impl Store {
    /// Opens a sequence of unique ids, which all processes share.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let store = Store::memory();
    /// let orders = store.ids("orders").await?;
    /// assert_eq!(orders.next().await?, 1);
    /// assert_eq!(orders.next().await?, 2); // from the same block: no network
    ///
    /// let elsewhere = store.ids("orders").await?;
    /// assert_eq!(elsewhere.next().await?, 101); // from another block
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `InvalidConfig` if the block size is zero, or if the name is not a valid bucket name and
    /// [`bucket`](OpenIds::bucket) sets no other. Returns `Unsupported` if the settings of the bucket do not fit, for
    /// example because of a `ttl`.
    pub fn ids(&self, name: impl Into<String>) -> OpenIds {
        let name = name.into();
        OpenIds { place: BucketLocation::new(self, &name), name, block: OpenIds::BLOCK, first: 1, timeout: None }
    }
}

/// A builder that opens a sequence of ids; see [`Store::ids`].
#[must_use = "nothing is opened until it is awaited"]
#[derive(Debug)]
pub struct OpenIds {
    place: BucketLocation,
    name: String,
    block: u64,
    first: u64,
    timeout: Option<Duration>,
}

location_options!(OpenIds: place);

impl OpenIds {
    /// The default size of a block of ids.
    pub const BLOCK: u64 = 100;

    /// Sets how many ids are allocated at once; [`OpenIds::BLOCK`] by default. A large block needs fewer requests. A
    /// small block loses fewer ids, because the unused ids of a block are lost when the process ends.
    pub fn block(mut self, ids: u64) -> Self {
        self.block = ids;
        self
    }

    /// Sets the smallest id; 1 by default. A sequence that is already further continues at its position.
    pub fn start_at(mut self, id: u64) -> Self {
        self.first = id;
        self
    }

    /// Sets the total time limit of each operation; the store's timeout by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    async fn run(self) -> Result<Ids> {
        let Self { place, name, block, first, timeout } = self;
        if block == 0 {
            return Err(Error::invalid_config("`block` is 0; it must be at least 1"));
        }
        let bucket: Bucket<RecipeRecord<NextBlock>> = place.open_without_ttl().await?;
        let timeout = timeout.unwrap_or(bucket.timeout());
        let key = RecipeKey::new(RECIPE, name, "next");
        let (left, taking) = (Mutex::new(0..0), tokio::sync::Mutex::new(()));
        Ok(Ids(Arc::new(IdsInner { bucket, key, block, first, timeout, left, allocating: taking })))
    }
}

impl IntoFuture for OpenIds {
    type Output = Result<Ids>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

/// A sequence of unique ids, opened by [`Store::ids`]. Cheap to clone; clones share their block.
///
/// A handle allocates a block of ids by one compare-and-set, and returns the ids of the block without I/O. No id is
/// returned twice, by any task or process, and the ids of each handle increase.
///
/// # What this does not guarantee
///
/// * Ids without gaps. The unused ids of a block are lost when its process ends. A block is also lost if its allocation
///   was cancelled or not acknowledged.
/// * An order between processes. A process may return an id after another process has returned a larger one.
/// * Uniqueness beyond the life of the bucket. Ids repeat if the bucket is deleted, or restored from an older copy.
#[derive(Clone)]
pub struct Ids(Arc<IdsInner>);

struct IdsInner {
    bucket: Bucket<RecipeRecord<NextBlock>>,
    key: RecipeKey,
    block: u64,
    first: u64,
    timeout: Duration,
    left: Mutex<Range<u64>>,
    /// Held by the task that allocates a block, while other tasks wait.
    allocating: tokio::sync::Mutex<()>,
}

/// The first id that is not allocated.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct NextBlock {
    next: u64,
    #[serde(flatten)]
    unknown: Unknown,
}

impl Ids {
    /// Returns a unique id that is larger than the last one of this handle.
    ///
    /// # Errors
    ///
    /// Returns `OutOfRange` when all ids below [`u64::MAX`] are allocated. Otherwise returns the errors of the block
    /// allocation, for example `Unavailable` or `Timeout`. A block with an unknown outcome is not used.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, at most the block that is being allocated is lost. No id is returned twice.
    pub async fn next(&self) -> Result<u64> {
        let IdsInner { bucket, key, timeout, .. } = &*self.0;
        if let Some(id) = self.0.pop() {
            return Ok(id);
        }
        let located = |error: Error| error.with_context("next", bucket.name(), Some(&key.to_string()));
        let end = Instant::now().checked_add(*timeout);
        let (inner, timeout) = (Arc::clone(&self.0), *timeout);
        let next = async move {
            let _taking = inner.allocating.lock().await;
            loop {
                // The previous holder of the mutex may have allocated a block.
                if let Some(id) = inner.pop() {
                    return Ok(id);
                }
                let block = inner.allocate_block(end).await?;
                *inner.left.lock().unwrap_or_else(PoisonError::into_inner) = block;
            }
        };
        // The timeout includes the wait for earlier callers, which have separate timeouts.
        let next = async move { tokio::time::timeout(timeout, next).await.map_err(|_| Error::timeout(timeout))? };
        detached(next).await.map_err(located)
    }
}

impl IdsInner {
    /// Returns the next id of the current block.
    fn pop(&self) -> Option<u64> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).next()
    }

    /// Allocates a block. A block with an unknown outcome is abandoned: at worst its ids are lost.
    async fn allocate_block(&self, end: Option<Instant>) -> Result<Range<u64>> {
        loop {
            let left = end.map_or(self.timeout, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Err(Error::timeout(self.timeout));
            }
            let mut taken = None;
            let take = self.bucket.transform(&self.key, |slot| {
                let (next, unknown) = slot.map_or_else(Default::default, |slot: RecipeRecord<NextBlock>| {
                    (slot.value.next, slot.value.unknown)
                });
                let next = next.max(self.first);
                let end = next.saturating_add(self.block);
                taken = (next < end).then_some(next..end);
                match taken {
                    Some(_) => {
                        Change::Put(RecipeRecord { key: self.key.clone(), value: NextBlock { next: end, unknown } })
                    }
                    None => Change::Keep,
                }
            });
            let result = take.max_attempts(u32::MAX).timeout(left).await;
            match (result, taken) {
                (Ok(_), Some(block)) => return Ok(block),
                (Ok(_), None) => return Err(Error::out_of_range("all ids of a `u64` are taken")),
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
        let IdsInner { bucket, key, block, .. } = &*self.0;
        f.debug_struct("Ids")
            .field("name", &key.name())
            .field("bucket", &bucket.name())
            .field("block", block)
            .finish_non_exhaustive()
    }
}
