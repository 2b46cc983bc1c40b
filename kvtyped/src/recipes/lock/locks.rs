//! Locks, by name or for a record.

use std::future::IntoFuture;
use std::time::Duration;

use futures::future::BoxFuture;

use super::guard::{LockGuard, LockHolder};
use super::request::{AcquireMode, BucketSource, LEASE, LockOptions, LockRequest, RECIPE};
use crate::backend::Read;
use crate::bucket::Bucket;
use crate::error::{Error, Result};
use crate::key::ModelKey;
use crate::model::{KvModel, SingleRevision};
use crate::recipes::context::LeaseBucket;
use crate::recipes::lease::options::lease_options;
use crate::recipes::lease::wait::WaitLimit;
use crate::recipes::location::BucketLocation;
use crate::recipes::open::{LazyBucket, awaitable_handle, location_options};
use crate::recipes::record::RecipeKey;
use crate::store::Store;

impl Store {
    /// Returns a handle for locks by name, in the bucket of this name. The bucket is created if it is missing.
    ///
    /// The call performs no I/O. The first use opens the bucket, and so does awaiting the handle. Keep the handle or
    /// its clones: each call of this function opens the bucket again.
    ///
    /// Names are compared byte for byte: normalize case and Unicode of names that users choose.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let store = Store::memory();
    /// let locks = store.locks("jobs").await?;
    /// let guard = locks.lock("invoice-42").wait(Duration::from_secs(30)).await?;
    /// assert!(locks.try_lock("invoice-42").await?.is_none());
    /// guard.run(async { /* send the invoice */ }).await?;
    /// guard.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The first use, or awaiting the handle, returns `InvalidConfig` if the times contradict each other, or if the
    /// name is not a valid bucket name. It returns `Unsupported` if the bucket or the server does not support the TTL
    /// of single records, for example before nats-server 2.11, or with a history of more than one revision.
    pub fn locks(&self, name: impl Into<String>) -> Locks {
        Locks { bucket: LazyBucket::new(BucketLocation::new(self, name)), options: LockOptions::default() }
    }
}

impl<T: KvModel> Bucket<T> {
    /// Takes the lock of a key. The lock lives in this bucket, next to the record that it protects. The record does not
    /// have to exist.
    ///
    /// Once another holder has taken the lock, the server refuses writes that are [`fenced_by`](crate::bucket::Put::fenced_by)
    /// the previous guard, even if their sender still considers the lock held. The server does not check writes that
    /// are not fenced.
    ///
    /// A guard lasts for at most 30 days, or for two TTLs if that is longer. It also lasts for at most the bucket's
    /// `ttl`, if the bucket has one. Its fence then expires, and the guard is lost just before. The fence of a dead
    /// holder therefore does not stay in the bucket.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{id}")]
    /// # struct Invoice { id: u64, sent: bool }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let invoices: Bucket<Invoice> = Store::memory().bucket().await?;
    /// let invoice = Invoice { id: 42, sent: true };
    /// let guard = invoices.lock(&invoice.key()).await?;
    /// invoices.put(&invoice).fenced_by(&guard).await?;
    /// guard.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the errors of [`Store::locks`] and [`Locks::lock`].
    ///
    /// # Cancel safety
    ///
    /// See [`Locks::lock`].
    pub fn lock(&self, key: &T::Key) -> Lock
    where
        T: SingleRevision,
    {
        Lock { request: LockRequest::for_record(self, key), wait: None }
    }

    /// Takes the lock of a key if it is free; see [`lock`](Self::lock).
    ///
    /// # Errors
    ///
    /// Returns the errors of [`Store::locks`] and [`Locks::try_lock`].
    ///
    /// # Cancel safety
    ///
    /// See [`Locks::lock`].
    pub fn try_lock(&self, key: &T::Key) -> TryLock
    where
        T: SingleRevision,
    {
        TryLock { request: LockRequest::for_record(self, key), timeout: None }
    }

    /// Returns the holder of a key's lock, or `None` if the lock is free.
    ///
    /// # Errors
    ///
    /// Returns the errors of a read. Returns `Decode` if the record of the lock is not readable.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the read is cancelled.
    pub async fn lock_holder(&self, key: &T::Key) -> Result<Option<LockHolder>> {
        let read = async {
            self.raw("lock_holder")?;
            let key = key.encode().map_err(|error| self.bad_key("lock_holder", error))?;
            let found = holder(&self.as_model(), &RecipeKey::new(RECIPE, key.as_str(), LEASE)).await;
            found.map_err(|error| error.with_context("lock_holder", self.name(), Some(key.as_str())))
        };
        self.observe("lock_holder", Box::pin(read)).await
    }
}

async fn holder(bucket: &LeaseBucket, key: &RecipeKey) -> Result<Option<LockHolder>> {
    bucket.refresh_clock().await;
    Ok(bucket.get(key).read(Read::Leader).await?.as_ref().map(LockHolder::from_entry))
}

/// A handle to locks by name; see [`Store::locks`]. Cheap to clone.
///
/// The handle performs no I/O until its first use, which opens the bucket for all clones. Awaiting the handle opens the
/// bucket at once. An option returns a changed handle. A handle with another bucket opens that bucket on first use.
///
/// A lock is a record with a TTL that its holder renews. It has one holder at a time across all processes. It is free
/// again when its holder releases it, or shortly after its holder dies: after the TTL, which is 30 s unless
/// [`ttl`](Locks::ttl) sets another. Waiters create tickets. On release, the holder hands the lock over to the
/// first ticket with one write, and that waiter receives the write through a watch. Waiters do not poll. They only
/// check the lock from time to time, in case an event was missed.
///
/// Locks are **not reentrant**: a task that takes a lock that it already holds waits for its own release.
///
/// # What this does not guarantee
///
/// * That two holders never *act* at the same time. A holder that is paused, or whose request is slow, may act after
///   its lease has passed to another holder; see [`Lease`](crate::recipes::Lease). If that must not happen, take the
///   lock next to the record that it protects ([`Bucket::lock`]) and fence the writes. For an external system, pass
///   [`fence`](crate::recipes::Lease::fence) to it and let it refuse lower fences.
/// * Durability beyond that of the bucket. A server acknowledges a write before it syncs the write to disk, by default
///   up to two minutes before (`sync_interval`). After a loss of power, two processes may hold the same lock. If
///   correctness depends on the lock, use three replicas, and `sync_interval: always`.
/// * The removal of an unreadable record of a lock. `lock` then fails with `Decode`, which names the key. Remove the
///   record with `nats kv purge BUCKET '=kvtyped.lock.NAME.lease'`. `try_lock` returns `None`.
/// * A fair order, unless all callers set [`fair`](Locks::fair). Callers without `fair` have one ticket at a time
///   for each process and lock.
/// * That a dead waiter delays no other. A ticket counts as dead after two thirds of its TTL without a renewal. If the
///   lock is handed over to a dead waiter before that, the next waiter receives the lock after the TTL of that lease.
#[derive(Debug, Clone)]
pub struct Locks {
    pub(crate) bucket: LazyBucket<LeaseBucket>,
    pub(crate) options: LockOptions,
}

location_options!(Locks: bucket);
awaitable_handle!(Locks: bucket);

impl Locks {
    /// Takes a lock. Waits while another holder has it.
    ///
    /// # Errors
    ///
    /// Returns `Timeout` if [`wait`](Lock::wait) is given and passes. Without it, the call waits for as long as the
    /// lock is held. The outcome is `Unknown` if an attempt was in progress: a lease that arrives later is released.
    /// Returns `BucketNotFound` if the bucket is deleted. With a `wait`, the call also waits for an unreachable server.
    /// Without it, the error of the first attempt is returned. A denial of the first attempt is returned at once. With
    /// a `wait`, the attempt continues after a later denial, which becomes the cause of the `Timeout`. Returns `Decode`
    /// if the record of the lock is not readable. Returns `Unsupported` if a newer version of this crate wrote the
    /// record. Returns `BucketFull` if a bucket with [`max_bytes`](Locks::max_bytes) has no room.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, its place in the queue is lost. A lock that is taken at that moment is released. If
    /// the release cannot be sent, the lock is free after its TTL. A future that is polled once and never again may
    /// take the lock but does not renew it, so the lock is free after its TTL. If the future is polled again, it takes
    /// the lock again.
    pub fn lock(&self, name: impl Into<String>) -> Lock {
        Lock { request: self.request(name), wait: None }
    }

    /// Takes a lock if it is free and no task in this process waits for it.
    ///
    /// # Errors
    ///
    /// Returns the errors of a write.
    ///
    /// # Cancel safety
    ///
    /// See [`lock`](Self::lock).
    pub fn try_lock(&self, name: impl Into<String>) -> TryLock {
        TryLock { request: self.request(name), timeout: None }
    }

    /// Returns the current holder of a lock, or `None` if the lock is free. The answer may be outdated when it arrives.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// let locks = Store::memory().locks("jobs").owner("worker-7").await?;
    /// let guard = locks.lock("invoice-42").note("monthly run").await?;
    /// let holder = locks.holder("invoice-42").await?.expect("it is held");
    /// assert_eq!((holder.owner.as_str(), holder.fence), ("worker-7", guard.fence()));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the errors of a read. Returns `Decode` if the record of the lock is not readable.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the read is cancelled.
    pub async fn holder(&self, name: &str) -> Result<Option<LockHolder>> {
        let read = async {
            let bucket = self.bucket.for_leases(self.options.timing.resolve()?.ttl).await?;
            holder(&bucket, &RecipeKey::new(RECIPE, name, LEASE)).await
        };
        self.in_operation("holder", None, read).await
    }

    async fn open(&self) -> Result<()> {
        self.bucket.for_leases(self.options.timing.resolve()?.ttl).await.map(drop)
    }

    fn request(&self, name: impl Into<String>) -> LockRequest {
        let source = BucketSource::Handle(self.bucket.clone());
        LockRequest { source, name: Ok(name.into()), options: self.options.clone(), fenced: false }
    }
}

/// A builder that takes a lock, and waits for it if necessary; see [`Locks::lock`].
///
/// It waits without a limit unless [`wait`](Self::wait) is given.
#[must_use = "nothing is taken until it is awaited"]
#[derive(Debug)]
pub struct Lock {
    request: LockRequest,
    wait: Option<Duration>,
}

impl Lock {
    /// Sets how long to wait for the lock. Without it, the call waits without a limit while another holder has the
    /// lock.
    pub fn wait(mut self, limit: Duration) -> Self {
        self.wait = Some(limit);
        self
    }
}

impl IntoFuture for Lock {
    type Output = Result<LockGuard>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let guard = self.request.acquire("lock", AcquireMode::Wait, WaitLimit::start(self.wait)).await?;
            // A wait returns the lock or an error.
            guard.ok_or_else(|| Error::unavailable("the wait ended without the lock"))
        })
    }
}

/// A builder that takes a lock only if it is free; see [`Locks::try_lock`].
#[must_use = "nothing is taken until it is awaited"]
#[derive(Debug)]
pub struct TryLock {
    request: LockRequest,
    timeout: Option<Duration>,
}

impl TryLock {
    /// Sets the total time limit, which includes the opening of the bucket. Without it, each request has the store's
    /// timeout.
    ///
    /// If the time passes, the call returns `Timeout`. The outcome is `Unknown` if an attempt was in progress: a lease
    /// that arrives later is released.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

impl IntoFuture for TryLock {
    type Output = Result<Option<LockGuard>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let limit = WaitLimit::start(self.timeout);
            self.request.acquire("try_lock", AcquireMode::Now, limit).await
        })
    }
}

macro_rules! lock_options {
    ($($builder:ident: $($path:ident).+),* $(,)?) => {$(
        impl $builder {
            /// Sets a note in the record of the lock, for others to read.
            pub fn note(mut self, note: impl Into<String>) -> Self {
                self.$($path).+.note = Some(note.into());
                self
            }

            /// Serves waiters in the order of their arrival, among all callers that set this option. Each of them
            /// creates a ticket, even if the lock is free. A ticket costs two more writes and a watch. A caller without
            /// this option creates a ticket only if it has to wait, and takes a free lock ahead of the waiters.
            pub fn fair(mut self) -> Self {
                self.$($path).+.fair = true;
                self
            }
        }
    )*};
}

lock_options!(Locks: options, Lock: request.options, TryLock: request.options);
lease_options!(Locks: options, Lock: request.options, TryLock: request.options);
