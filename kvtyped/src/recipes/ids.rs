//! Unique numbers.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::location::BucketLocation;
use super::open::{LazyBucket, awaitable_handle, detached, location_options};
use super::record::{RecipeKey, RecipeRecord, Unknown};
use crate::backend::Read;
use crate::bucket::{Bucket, Change};
use crate::error::{Error, Outcome, Result};
use crate::store::Store;

/// The recipe's part of a key.
const RECIPE: &str = "ids";

impl Store {
    /// Returns a sequence of unique ids, which all processes share, in the bucket of this name. The bucket is created
    /// if it is missing.
    ///
    /// The call performs no I/O. The first use opens the bucket, and so does awaiting the handle. Each handle allocates
    /// separate blocks, so keep the handle or its clones.
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
    /// The first use, or awaiting the handle, returns `InvalidConfig` if the block size is zero, or if the name is not
    /// a valid bucket name and [`bucket`](Ids::bucket) sets no other. It returns `Unsupported` if the settings of the
    /// bucket do not fit, for example because of a `ttl`.
    pub fn ids(&self, name: impl Into<String>) -> Ids {
        let name = name.into();
        let bucket = LazyBucket::new(BucketLocation::new(self, &name));
        Ids { bucket, name, block: Ids::BLOCK, first: 1, timeout: None }
    }
}

/// A handle to a sequence of unique ids; see [`Store::ids`]. Cheap to clone; clones share their block.
///
/// The handle performs no I/O until its first use, which opens the bucket for all clones. Awaiting the handle opens the
/// bucket at once. An option returns a changed handle. A handle with another bucket opens that bucket on first use.
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
pub struct Ids {
    bucket: LazyBucket<Arc<IdsInner>>,
    name: String,
    block: u64,
    first: u64,
    timeout: Option<Duration>,
}

location_options!(Ids: bucket);
awaitable_handle!(Ids: bucket);

/// The opened bucket, and the state that the clones of a handle share.
struct IdsInner {
    bucket: Bucket<RecipeRecord<NextBlock>>,
    key: RecipeKey,
    block: u64,
    first: u64,
    /// The unused ids of the current block.
    unused: Mutex<Range<u64>>,
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
    /// The default size of a block of ids.
    pub const BLOCK: u64 = 100;

    /// Sets how many ids are allocated at once; [`Ids::BLOCK`] by default. A large block needs fewer requests. A small
    /// block loses fewer ids, because the unused ids of a block are lost when the process ends. The changed handle
    /// shares no block with its original.
    pub fn block(mut self, ids: u64) -> Self {
        self.block = ids;
        self.bucket.reset();
        self
    }

    /// Sets the smallest id; 1 by default. A sequence that is already further continues at its position. The changed
    /// handle shares no block with its original.
    pub fn start_at(mut self, id: u64) -> Self {
        self.first = id;
        self.bucket.reset();
        self
    }

    /// Sets the total time limit of each operation; the store's timeout by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Returns a unique id that is larger than the last one of this handle.
    ///
    /// # Errors
    ///
    /// Returns `OutOfRange` when all ids below [`u64::MAX`] are allocated. Otherwise returns the errors of the block
    /// allocation, for example `Unavailable` or `Timeout`. A block with an unknown outcome is not used. The first use
    /// also returns the errors of [`Store::ids`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, at most the block that is being allocated is lost. No id is returned twice.
    pub async fn next(&self) -> Result<u64> {
        self.bucket.context().observe("next", self.bucket.name(), Box::pin(self.run_next())).await
    }

    async fn run_next(&self) -> Result<u64> {
        let (inner, rest) = self.inner("next").await?;
        if let Some(id) = inner.pop() {
            return Ok(id);
        }
        let timeout = rest.unwrap_or(inner.bucket.timeout());
        let end = Instant::now().checked_add(timeout);
        let located = |error: Error| error.with_context("next", self.bucket.name(), Some(&inner.key.to_string()));
        let allocator = Arc::clone(&inner);
        let next = async move {
            let _allocating = allocator.allocating.lock().await;
            loop {
                // The previous holder of the mutex may have allocated a block.
                if let Some(id) = allocator.pop() {
                    return Ok(id);
                }
                let block = allocator.allocate_block(timeout, end).await?;
                *allocator.unused.lock().unwrap_or_else(PoisonError::into_inner) = block;
            }
        };
        // The timeout includes the wait for earlier callers, which have separate timeouts.
        let next = async move { tokio::time::timeout(timeout, next).await.map_err(|_| Error::timeout(timeout))? };
        detached(next).await.map_err(located)
    }

    /// Returns the first id that no process has allocated: an upper bound of all ids so far. Allocates nothing.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// let orders = Store::memory().ids("orders").await?;
    /// assert_eq!(orders.peek().await?, 1);
    /// orders.next().await?; // allocates a block of 100
    /// assert_eq!(orders.peek().await?, 101);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the errors of a read. The first use also returns the errors of [`Store::ids`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the read is cancelled.
    pub async fn peek(&self) -> Result<u64> {
        self.bucket.context().observe("peek", self.bucket.name(), Box::pin(self.run_peek())).await
    }

    async fn run_peek(&self) -> Result<u64> {
        let (inner, rest) = self.inner("peek").await?;
        let mut get = inner.bucket.get(&inner.key).read(Read::Leader);
        if let Some(rest) = rest {
            get = get.timeout(rest);
        }
        let located = |error: Error| error.with_context("peek", self.bucket.name(), Some(&inner.key.to_string()));
        let stored = get.await.map_err(located)?;
        Ok(stored.map_or(self.first, |record| record.value.next.max(self.first)))
    }

    async fn open(&self) -> Result<()> {
        self.inner("open").await.map(drop)
    }

    /// Returns the opened sequence, and the rest of the time limit. Opens the bucket if necessary.
    async fn inner(&self, operation: &'static str) -> Result<(Arc<IdsInner>, Option<Duration>)> {
        let (name, block, first) = (self.name.clone(), self.block, self.first);
        let open = async move |location: BucketLocation| {
            if block == 0 {
                return Err(Error::invalid_config("`block` is 0; it must be at least 1"));
            }
            let bucket = location.open_without_ttl().await?;
            let key = RecipeKey::new(RECIPE, name, "next");
            let (unused, allocating) = (Mutex::new(0..0), tokio::sync::Mutex::new(()));
            Ok(Arc::new(IdsInner { bucket, key, block, first, unused, allocating }))
        };
        let opened = self.bucket.get_within(self.timeout, open).await;
        opened.map_err(|error| error.with_context(operation, self.bucket.name(), None))
    }
}

impl IdsInner {
    /// Returns the next id of the current block.
    fn pop(&self) -> Option<u64> {
        self.unused.lock().unwrap_or_else(PoisonError::into_inner).next()
    }

    /// Allocates a block. A block with an unknown outcome is abandoned: at worst its ids are lost.
    async fn allocate_block(&self, timeout: Duration, end: Option<Instant>) -> Result<Range<u64>> {
        loop {
            let left = end.map_or(timeout, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Err(Error::timeout(timeout));
            }
            let mut allocated = None;
            let allocate = self.bucket.transform(&self.key, |record| {
                let (next, unknown) = record.map_or_else(Default::default, |record: RecipeRecord<NextBlock>| {
                    (record.value.next, record.value.unknown)
                });
                let next = next.max(self.first);
                let end = next.saturating_add(self.block);
                allocated = (next < end).then_some(next..end);
                match allocated {
                    Some(_) => {
                        Change::Put(RecipeRecord { key: self.key.clone(), value: NextBlock { next: end, unknown } })
                    }
                    None => Change::Keep,
                }
            });
            let result = allocate.max_attempts(u32::MAX).timeout(left).await;
            match (result, allocated) {
                (Ok(_), Some(block)) => return Ok(block),
                (Ok(_), None) => {
                    return Err(Error::out_of_range("no ids are left: the sequence has reached the largest `u64`"));
                }
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
        f.debug_struct("Ids")
            .field("name", &self.name)
            .field("bucket", &self.bucket.name())
            .field("block", &self.block)
            .finish_non_exhaustive()
    }
}
