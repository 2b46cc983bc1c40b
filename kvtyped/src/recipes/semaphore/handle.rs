//! Semaphores: a limited number of holders at a time, across all processes.

use std::fmt;
use std::future::IntoFuture;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep_until};

use super::slots::{PermitSlots, SlotState};
use crate::backend::Read;
use crate::bucket::Bucket;
use crate::error::{Error, ErrorKind, Result};
use crate::recipes::context::LeaseContext;
use crate::recipes::lease::acquire::{MayHold, acquire_detached};
use crate::recipes::lease::handle::Lease;
use crate::recipes::lease::options::lease_options;
use crate::recipes::lease::outcome::{AcquireOutcome, AcquireStatus};
use crate::recipes::lease::record::LeaseRecord;
use crate::recipes::lease::request::{AcquireRequest, ExpectedTombstone};
use crate::recipes::lease::wait;
use crate::recipes::lease::wait::{WaitLimit, poll_interval, with_timeout};
use crate::recipes::open::{awaitable_handle, location_options};
use crate::recipes::record::RecipeRecord;
use crate::store::Store;

/// The recipe's part of a key. The parts of a semaphore are the numbers of its slots.
const RECIPE: &str = "semaphore";

/// The largest number of permits. Each permit is a record that every waiter tracks.
const MAX_PERMITS: u32 = 4_096;

impl Store {
    /// Returns a semaphore with this name and number of permits, in the bucket of this name. The bucket is created if
    /// it is missing.
    ///
    /// The call performs no I/O. The first use opens the bucket, and so does awaiting the handle.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let store = Store::memory();
    /// let gpus = store.semaphore("gpu", 2);
    /// let permit = gpus.acquire().wait(Duration::from_secs(60)).await?;
    /// assert_eq!(gpus.available().await?, 1);
    /// permit.run(async { /* use one */ }).await?;
    /// permit.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn semaphore(&self, name: impl Into<String>, permits: u32) -> Semaphore {
        Semaphore { context: LeaseContext::new(self, RECIPE, name), permits }
    }
}

/// A handle to a semaphore; see [`Store::semaphore`]. Cheap to clone.
///
/// The handle performs no I/O until its first use, which opens the bucket for all clones. Awaiting the handle opens the
/// bucket at once. An option returns a changed handle. A handle with another bucket opens that bucket on first use.
///
/// Each permit is a numbered slot with a [`Lease`]. A slot has one holder at a time, so there are never more holders
/// than permits. The permit of a holder that dies is free again after its TTL.
///
/// # What this does not guarantee
///
/// * The same number of permits in all processes. Each process uses the slots below the number that *it* has set. If
///   the numbers differ, the largest number limits the holders, and a process with a smaller number does not see the
///   slots above. So the number can be changed during use, and applies once the last process has the new one.
/// * An order. Waiters may be served in any order.
/// * That a holder *stops acting* when its permit is lost; see [`Lease`].
/// * Durability beyond that of the bucket; see [`Locks`](crate::recipes::Locks).
#[derive(Clone)]
pub struct Semaphore {
    pub(crate) context: LeaseContext,
    permits: u32,
}

location_options!(Semaphore: context.bucket);
awaitable_handle!(Semaphore: context.bucket);
lease_options!(Semaphore: context.options, Acquire: semaphore.context.options, TryAcquire: semaphore.context.options);

impl Semaphore {
    /// Takes a permit. Waits while all permits are taken.
    ///
    /// # Errors
    ///
    /// Returns `Timeout` if [`wait`](Acquire::wait) is given and passes. Without it, the call waits for as long as all
    /// permits are taken. The outcome is `Unknown` if an attempt was in progress: a permit that arrives later is
    /// released. With a `wait`, the call also waits for an unreachable server. Without it, the first attempt fails. A
    /// denial of the first attempt is returned at once. With a `wait`, the attempt continues after a later denial,
    /// which becomes the cause of the `Timeout`. Returns `InvalidConfig` if there are no permits or more than 4,096, if
    /// the timing options contradict each other, or if the bucket name is invalid. Returns `Unsupported` if the bucket
    /// or the server does not support the TTL of single records. Returns `BucketNotFound` if the bucket is deleted.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, no permit remains taken. A permit that is taken at that moment is released. If the
    /// release cannot be sent, the permit is free after its TTL.
    pub fn acquire(&self) -> Acquire {
        Acquire { semaphore: self.clone(), wait: None }
    }

    /// Takes a permit if one is free.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`acquire`](Self::acquire), except for the `Timeout` of the wait.
    ///
    /// # Cancel safety
    ///
    /// See [`acquire`](Self::acquire).
    pub fn try_acquire(&self) -> TryAcquire {
        TryAcquire { semaphore: self.clone(), timeout: None }
    }

    /// Returns how many permits are free. The answer may be outdated when it arrives.
    ///
    /// # Errors
    ///
    /// Returns the errors of a read. Returns `InvalidConfig` for the reasons of [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the read is cancelled.
    pub async fn available(&self) -> Result<u32> {
        let count = async {
            let free = self.checked()?.free(&self.context.bucket().await?).await?;
            Ok(u32::try_from(free.len()).unwrap_or(u32::MAX))
        };
        self.context.in_operation("available", None, count).await
    }

    /// Returns the number of permits that this handle uses.
    pub fn permits(&self) -> u32 {
        self.permits
    }

    async fn open(&self) -> Result<()> {
        self.checked()?.context.open().await
    }

    fn checked(&self) -> Result<&Self> {
        match self.permits {
            1..=MAX_PERMITS => Ok(self),
            permits => Err(Error::invalid_config(format!(
                "a semaphore of {permits} permits; it must have from 1 to {MAX_PERMITS}"
            ))),
        }
    }

    /// Returns the free slots, as read from the leader of the bucket. Any record in a slot takes the slot.
    async fn free(&self, bucket: &Bucket<RecipeRecord<LeaseRecord>>) -> Result<Vec<u32>> {
        let keys = (0..self.permits).map(|slot| self.context.key(slot.to_string()));
        let records = bucket.get_many(keys).read(Read::Leader).results().await?;
        let is_free = |(slot, record)| matches!(record, Ok(None)).then_some(slot);
        Ok((0..self.permits).zip(records).filter_map(is_free).collect())
    }

    /// Tries to take the slot with this number.
    async fn attempt(
        &self,
        request: &AcquireRequest,
        slot: u32,
        expected: ExpectedTombstone,
    ) -> Result<Option<Permit>> {
        let key = request.key.sibling(slot.to_string());
        match (AcquireRequest { key, ..request.clone() }).try_acquire(expected).await {
            AcquireOutcome::Acquired(lease) => Ok(Some(Permit { lease, slot })),
            AcquireOutcome::Contended => Ok(None),
            AcquireOutcome::Failed(error) => Err(error),
        }
    }

    /// Tries to take any slot. The first attempt is at a random slot, so that concurrent callers do not all compete for
    /// the same one. If that slot is taken, the next attempts are at the free slots in random order.
    async fn try_any(&self, request: &AcquireRequest) -> Result<Option<Permit>> {
        if let Some(permit) = self.attempt(request, random_slot(self.permits), ExpectedTombstone::Unknown).await? {
            return Ok(Some(permit));
        }
        if self.permits == 1 {
            return Ok(None);
        }
        let mut free = self.free(&request.bucket).await?;
        while !free.is_empty() {
            let slot = free.swap_remove(crate::jitter::uniform_index(free.len()));
            if let Some(permit) = self.attempt(request, slot, ExpectedTombstone::Unknown).await? {
                return Ok(Some(permit));
            }
        }
        Ok(None)
    }

    async fn try_now(&self, status: &Arc<AcquireStatus>) -> Result<Option<Permit>> {
        let request = self.checked()?.context.waiting_request("", None, status, false).await?;
        self.try_any(&request).await
    }

    /// Waits for any slot with one watch of all slots.
    async fn wait(&self, status: &Arc<AcquireStatus>, retry_transient: bool) -> Result<Permit> {
        let request = self.checked()?.context.waiting_request("", None, status, retry_transient).await?;
        match self.try_any(&request).await {
            Ok(Some(permit)) => return Ok(permit),
            Err(error) if !(retry_transient && error.is_transient()) => return Err(error),
            Ok(None) | Err(_) => {}
        }
        let ttl = request.timing.ttl;
        let mut events = wait::watch(&request.bucket, self.context.all(), &request).await?;
        let mut slots = PermitSlots::new(self.permits);
        let mut next_poll = Instant::now() + poll_interval(ttl);
        loop {
            let event = tokio::select! {
                biased;
                event = events.next() => Some(event),
                () = sleep_until(next_poll) => None,
            };
            let attempted = match event {
                Some(Some(Ok(event))) => {
                    slots.refresh(event);
                    self.try_known(&request, &mut slots).await
                }
                Some(Some(Err(error))) if request.gives_up_on(&error) => return Err(error),
                Some(Some(Err(_))) => continue,
                Some(None) => return Err(Error::new(ErrorKind::Closed)),
                // An event may have been missed.
                None => self.try_any(&request).await,
            };
            match attempted {
                Ok(Some(permit)) => return Ok(permit),
                Ok(None) => {}
                Err(error) if request.waits_out(&error) => {}
                Err(error) => return Err(error),
            }
            next_poll = Instant::now() + poll_interval(ttl);
        }
    }

    /// Tries to take the slots that the watch has shown as free.
    async fn try_known(&self, request: &AcquireRequest, slots: &mut PermitSlots) -> Result<Option<Permit>> {
        while let Some((slot, expected)) = slots.free() {
            // If another process is faster, the watch reports it.
            slots.observe(&slot.to_string(), SlotState::Taken);
            if let Some(permit) = self.attempt(request, slot, expected).await? {
                return Ok(Some(permit));
            }
        }
        Ok(None)
    }
}

/// Returns the number of a random slot.
fn random_slot(permits: u32) -> u32 {
    u32::try_from(crate::jitter::uniform_index(permits as usize)).unwrap_or_default()
}

/// A builder that takes a permit, and waits for one if necessary; see [`Semaphore::acquire`].
///
/// It waits without a limit unless [`wait`](Self::wait) is given.
#[must_use = "nothing is taken until it is awaited"]
#[derive(Debug)]
pub struct Acquire {
    semaphore: Semaphore,
    wait: Option<Duration>,
}

impl Acquire {
    /// Sets how long to wait for a permit. Without it, the call waits without a limit while all permits are taken.
    pub fn wait(mut self, limit: Duration) -> Self {
        self.wait = Some(limit);
        self
    }
}

impl IntoFuture for Acquire {
    type Output = Result<Permit>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { semaphore, wait } = self;
        Box::pin(async move {
            let limit = WaitLimit::start(wait);
            let acquire = || {
                let semaphore = semaphore.clone();
                async move {
                    let status = Arc::default();
                    with_timeout(limit, &status, semaphore.wait(&status, limit.is_given())).await
                }
            };
            let acquired = acquire_detached(acquire);
            semaphore.context.in_operation("acquire", None, acquired).await
        })
    }
}

/// A builder that takes a permit only if one is free; see [`Semaphore::try_acquire`].
#[must_use = "nothing is taken until it is awaited"]
#[derive(Debug)]
pub struct TryAcquire {
    semaphore: Semaphore,
    timeout: Option<Duration>,
}

impl TryAcquire {
    /// Sets the total time limit, which includes the opening of the bucket. Without it, each request has the store's
    /// timeout.
    ///
    /// If the time passes, the call returns `Timeout`. The outcome is `Unknown` if an attempt was in progress: a permit
    /// that arrives later is released.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

impl IntoFuture for TryAcquire {
    type Output = Result<Option<Permit>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { semaphore, timeout } = self;
        Box::pin(async move {
            let limit = WaitLimit::start(timeout);
            let acquire = || {
                let semaphore = semaphore.clone();
                async move {
                    let status = Arc::default();
                    with_timeout(limit, &status, semaphore.try_now(&status)).await
                }
            };
            let acquired = acquire_detached(acquire);
            semaphore.context.in_operation("try_acquire", None, acquired).await
        })
    }
}

/// A held permit. Dereferences to its [`Lease`]: `lost`, `run`, `ensure_remaining`, `remaining`, `fence`.
///
/// Dropping it releases the permit in the background. [`release`](Self::release) waits for the result.
///
/// # What this does not guarantee
///
/// See [`Semaphore`].
#[must_use = "dropping the permit releases it"]
#[derive(Debug)]
pub struct Permit {
    lease: Lease,
    slot: u32,
}

impl Permit {
    /// Returns the number of the permit's slot, counted from zero. Processes with the same number of permits never hold
    /// the same slot at once.
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// Releases the permit and waits until that is confirmed; see [`Lease::release`].
    ///
    /// # Errors
    ///
    /// Returns `Lost` if the permit was lost before. Another holder may have had the same permit.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the release continues in the background and its result is lost.
    pub async fn release(self) -> Result<()> {
        self.lease.release().await
    }
}

impl MayHold for Permit {
    fn lease(&self) -> Option<&Lease> {
        Some(&self.lease)
    }
}

impl Deref for Permit {
    type Target = Lease;

    fn deref(&self) -> &Lease {
        &self.lease
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore").field("name", &self.context.name()).field("permits", &self.permits).finish()
    }
}
