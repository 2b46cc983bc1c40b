//! Locks: by name, or beside the record that they protect.

use std::fmt;
use std::future::IntoFuture;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::fence::Fencing;
use super::holding::{Holder, Holding, usual_owner};
use super::lease::Lease;
use super::line::Line;
use super::place::{Place, check, place_options};
use super::slot::{Slot, SlotKey};
use super::task;
use super::tenure::{Attempt, Claim};
use super::terms::lease_options;
use super::ticket;
use super::times::Wanted;
use super::wait::{Longest, passes, within};
use crate::backend::Read;
use crate::bucket::Bucket;
use crate::error::{Error, Result};
use crate::key::{KeyError, ModelKey};
use crate::model::{KvModel, SingleRevision};
use crate::store::Store;

/// The recipe's part of a key.
const RECIPE: &str = "lock";
const LEASE: &str = "lease";

/// What may be said of a lock, or of all of a name.
#[derive(Debug, Clone, Default)]
struct Options {
    wanted: Wanted,
    owner: Option<String>,
    note: Option<String>,
    fair: bool,
}

impl Store {
    /// Locks by name, in the bucket of this name, which is made if it is missing.
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
    /// `InvalidConfig` if the times contradict each other, or the name is none of a bucket; `Unsupported` if the bucket, or
    /// the server, lets single records not expire (before nats-server 2.11, more history than one, ..).
    pub fn locks(&self, name: impl Into<String>) -> OpenLocks {
        OpenLocks { place: Place::new(self, name), options: Options::default() }
    }
}

impl<T: KvModel> Bucket<T> {
    /// Takes the lock of a key: it stands in this bucket, beside the record that it protects, whether there is one or not.
    ///
    /// Writes that are [`fenced_by`](crate::Put::fenced_by) its guard are refused by the server itself once another has
    /// taken the lock, even if their sender believes that it still has it. A write that is not fenced asks nobody.
    ///
    /// A guard lasts for at most 30 days, and at most for the bucket's `ttl` if it has one. Its fence then expires, and
    /// the guard is lost just before. The fence of a dead holder therefore does not stay in the bucket.
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
    /// `Timeout`, if [`wait`](Lock::wait) passes; else as of [`Store::locks`].
    ///
    /// # Cancel safety
    ///
    /// As of [`Locks::lock`].
    pub fn lock(&self, key: &T::Key) -> Lock
    where
        T: SingleRevision,
    {
        Lock { wanted: WantedLock::beside(self, key), wait: None }
    }

    /// Takes the lock of a key if it is free; see [`lock`](Self::lock).
    ///
    /// # Errors
    ///
    /// As of [`Store::locks`].
    ///
    /// # Cancel safety
    ///
    /// As of [`Locks::lock`].
    pub fn try_lock(&self, key: &T::Key) -> TryLock
    where
        T: SingleRevision,
    {
        TryLock { wanted: WantedLock::beside(self, key) }
    }

    /// Who holds the lock of a key.
    ///
    /// # Errors
    ///
    /// Those of a read; `Decode` if something else stands where the lock should.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves nothing behind.
    pub async fn lock_holder(&self, key: &T::Key) -> Result<Option<Holder>> {
        let key = SlotKey::new(RECIPE, key.encode()?.as_str(), LEASE);
        holder(&self.of(), &key).await
    }
}

async fn holder(bucket: &Bucket<Slot<Holding>>, key: &SlotKey) -> Result<Option<Holder>> {
    Ok(bucket.get(key).read(Read::Leader).await?.map(Holder::of))
}

/// Opens locks; see [`Store::locks`].
#[must_use = "nothing is opened until it is awaited"]
#[derive(Debug)]
pub struct OpenLocks {
    place: Place,
    options: Options,
}

place_options!(OpenLocks);

impl IntoFuture for OpenLocks {
    type Output = Result<Locks>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let times = self.options.wanted.times()?;
            Ok(Locks { bucket: self.place.open(Some(times.ttl)).await?, options: self.options })
        })
    }
}

/// Locks by name. Cheap to clone.
///
/// A lock is a record with a time to live under its name, which its holder renews: one holder at a time, whatever the
/// process. It is free again when its holder gives it back, or soon after the holder dies: after its time to live, 30 s
/// unless [`ttl`](OpenLocks::ttl) says otherwise. Those who wait draw tickets, and whoever gives the lock back hands it on to
/// the first of them: one write, of which that one hears by a watch. Nobody polls, but for a look now and then lest something
/// was missed.
///
/// It is **not reentrant**: a task that holds a lock and takes it again waits for itself.
///
/// # What this does not guarantee
///
/// That two holders never *act* at the same time. A holder that is paused, or whose request is slow, may act after its lease
/// has passed to another; see [`Lease`]. Where that must not be, take the lock beside the record that it protects
/// ([`Bucket::lock`]) and fence the writes, or give [`fence`](Lease::fence) to the system outside and let it refuse lower
/// ones.
///
/// That it survives what the bucket does not: a server acknowledges a write before it is synced to disk, by default up to
/// two minutes before (`sync_interval`). After a loss of power two processes may hold the same lock. Where correctness hangs
/// on it: three replicas, and `sync_interval: always`.
///
/// That an unreadable record in the place of a lock is removed. `lock` then fails with `Decode`, which names the key.
/// Remove the record with `nats kv purge BUCKET '=kvtyped.lock.NAME.lease'`. `try_lock` returns `None`.
///
/// That those who wait get it in the order in which they came, unless all of them say [`fair`](OpenLocks::fair). Of those
/// who do not, one of a process and lock stands in the line at a time.
///
/// That one who dies while it waits holds up nobody: if the lock is handed on to it before its ticket is taken for dead, after
/// two thirds of its time to live, the next has it when that time has passed once more.
#[derive(Debug, Clone)]
pub struct Locks {
    bucket: Bucket<Slot<Holding>>,
    options: Options,
}

impl Locks {
    /// Takes a lock; waits, if another has it.
    ///
    /// # Errors
    ///
    /// Returns `Timeout` if [`wait`](Lock::wait) is given and passes. Without it, the call waits for as long as the
    /// lock is held. The outcome is `Unknown` if an attempt was in progress: a lease that lands later is released.
    /// Returns `BucketNotFound` if the bucket is deleted. With a `wait`, the call also waits for an unreachable server.
    /// Without it, the error of the first attempt is returned. A denial of the first attempt is returned at once. With
    /// a `wait`, the attempt continues after a later denial, which becomes the cause of the `Timeout`. Returns `Decode`
    /// if the record of the lock is not readable. Returns `Unsupported` if a newer version of this crate wrote the
    /// record. Returns `BucketFull` if a bucket with [`max_bytes`](OpenLocks::max_bytes) has no room.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, its place in the queue is lost. A lock that is taken at that moment is released. If
    /// the release cannot be sent, the lock is free after its TTL. A future that is polled once and then left may take
    /// the lock but does not renew it, so the lock is free after its TTL. If the future is polled again, it takes the
    /// lock again.
    pub fn lock(&self, name: impl Into<String>) -> Lock {
        Lock { wanted: self.wanted(name), wait: None }
    }

    /// Takes a lock if it is free, and nobody in this process waits for it.
    ///
    /// # Errors
    ///
    /// Those of a write.
    ///
    /// # Cancel safety
    ///
    /// As of [`lock`](Self::lock).
    pub fn try_lock(&self, name: impl Into<String>) -> TryLock {
        TryLock { wanted: self.wanted(name) }
    }

    /// Who holds a lock now; `None` if nobody does. The answer may be old when it is read.
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
    /// Those of a read; `Decode` if something else stands where the lock should.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves nothing behind.
    pub async fn holder(&self, name: &str) -> Result<Option<Holder>> {
        holder(&self.bucket, &SlotKey::new(RECIPE, name, LEASE)).await
    }

    fn wanted(&self, name: impl Into<String>) -> WantedLock {
        let (bucket, options) = (self.bucket.clone(), self.options.clone());
        WantedLock { bucket, name: Ok(name.into()), options, fenced: false }
    }
}

/// A lock that somebody wants.
#[derive(Debug)]
struct WantedLock {
    bucket: Bucket<Slot<Holding>>,
    name: Result<String, KeyError>,
    options: Options,
    fenced: bool,
}

impl WantedLock {
    fn beside<T: SingleRevision>(bucket: &Bucket<T>, key: &T::Key) -> Self {
        let name = key.encode().map(|key| key.as_str().to_owned());
        Self { bucket: bucket.of(), name, options: Options::default(), fenced: true }
    }

    /// What is claimed, and the line of those who wait for it.
    fn claim(self) -> Result<(Claim, Arc<Line>)> {
        let Self { bucket, name, options, fenced } = self;
        let Options { wanted, owner, note, fair: _ } = options;
        let times = wanted.times()?;
        check(bucket.config(), Some(times.ttl))?;
        let name = name?;
        let key = SlotKey::new(RECIPE, &*name, LEASE);
        key.encode()?;
        let holding = Holding::new(owner.unwrap_or_else(usual_owner), note, None);
        let line = Line::of(&bucket, &key);
        let own = Some(Arc::clone(&line));
        Ok((Claim { fenced, line: own, ..Claim::new(bucket, key, name, holding, times) }, line))
    }

    /// `operation` on the lock, located.
    async fn take(self, operation: &'static str, how: How) -> Result<Option<LockGuard>> {
        let (bucket, fair) = (self.bucket.clone(), self.options.fair);
        let key = self.name.as_ref().ok().cloned();
        let taken = async {
            let (claim, line) = self.claim()?;
            if matches!(how, How::Now) && line.is_held_here() {
                return Ok(None);
            }
            let take = || {
                let (claim, line) = (claim.clone(), Arc::clone(&line));
                async move {
                    match how {
                        How::Now => now(claim, line, fair).await,
                        How::Wait(longest) => {
                            let claim = Claim { patient: longest.is_given(), ..claim };
                            let progress = Arc::clone(&claim.progress);
                            within(longest, &progress, wait(claim, line, fair)).await.map(Some)
                        }
                    }
                }
            };
            let lease = task::acquire(take).await?;
            Ok(lease.map(|lease| LockGuard { lease }))
        };
        taken.await.map_err(|error: Error| error.within(operation, bucket.name(), key.as_deref()))
    }
}

#[derive(Debug, Clone, Copy)]
enum How {
    Now,
    Wait(Longest),
}

async fn now(claim: Claim, line: Arc<Line>, fair: bool) -> Result<Option<Lease>> {
    let Ok(_turn) = line.try_turn() else { return Ok(None) };
    if line.is_held_here() || (fair && ticket::anybody_waits(&claim).await?) {
        return Ok(None);
    }
    first(claim, &line).await
}

/// Whoever is patient waits for what passes, from the first attempt on: the time that its user gave bounds it.
async fn wait(claim: Claim, line: Arc<Line>, fair: bool) -> Result<Lease> {
    if fair {
        return ticket::wait(claim, line, fair).await;
    }
    // The others of this process wait for the turn.
    let _turn = line.turn().await;
    if line.is_taken() {
        claim.progress.is_refused();
    } else {
        match first(claim.clone(), &line).await {
            Ok(Some(lease)) => return Ok(lease),
            Err(error) if !(claim.patient && passes(&error)) => return Err(error),
            Ok(None) | Err(_) => {}
        }
    }
    ticket::wait(claim, line, fair).await
}

/// The first attempt, over the marker that this process has left, if it was the last.
async fn first(claim: Claim, line: &Line) -> Result<Option<Lease>> {
    match claim.attempt(line.marker()).await {
        Attempt::Taken(lease) => Ok(Some(lease)),
        Attempt::Refused => Ok(None),
        Attempt::Failed(error) => Err(error),
    }
}

/// A lock that somebody waits for; see [`Locks::lock`].
#[must_use = "nothing is taken until it is awaited"]
#[derive(Debug)]
pub struct Lock {
    wanted: WantedLock,
    wait: Option<Duration>,
}

impl Lock {
    /// How long to wait; for ever by default.
    pub fn wait(mut self, longest: Duration) -> Self {
        self.wait = Some(longest);
        self
    }
}

impl IntoFuture for Lock {
    type Output = Result<LockGuard>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let taken = self.wanted.take("lock", How::Wait(Longest::begins(self.wait))).await?;
            // Who waits gets it, or an error.
            taken.ok_or_else(|| Error::unavailable("nobody gave the lock"))
        })
    }
}

/// A lock that somebody takes if it is free; see [`Locks::try_lock`].
#[must_use = "nothing is taken until it is awaited"]
#[derive(Debug)]
pub struct TryLock {
    wanted: WantedLock,
}

impl IntoFuture for TryLock {
    type Output = Result<Option<LockGuard>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.wanted.take("try_lock", How::Now))
    }
}

macro_rules! lock_options {
    ($($builder:ident: $($path:ident).+),* $(,)?) => {$(
        impl $builder {
            /// What its holder notes beside, for others to read.
            pub fn note(mut self, note: impl Into<String>) -> Self {
                self.$($path).+.note = Some(note.into());
                self
            }

            /// First come, first served, among all who say so: each draws a ticket, which costs two writes more and a watch,
            /// also where the lock is free. One who does not say so draws one only if it has to wait, and takes a lock that is
            /// free over the heads of those who wait.
            pub fn fair(mut self) -> Self {
                self.$($path).+.fair = true;
                self
            }
        }
    )*};
}

lock_options!(OpenLocks: options, Lock: wanted.options, TryLock: wanted.options);
lease_options!(OpenLocks: options, Lock: wanted.options, TryLock: wanted.options);

/// A lock that is held. Dereferences to its [`Lease`]: `lost`, `run`, `ensure`, `remaining`, `fence`.
///
/// Dropping it gives the lock back without waiting; [`release`](Self::release) waits until that is sure.
///
/// # What this does not guarantee
///
/// See [`Locks`].
#[must_use = "a lock whose guard is dropped is given back"]
pub struct LockGuard {
    lease: Lease,
}

impl LockGuard {
    /// Gives the lock back, and waits until that is sure; see [`Lease::release`].
    ///
    /// # Errors
    ///
    /// `Lost`, if it was lost before: what it protected may have met another holder.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves the release to go on without a witness.
    pub async fn release(self) -> Result<()> {
        self.lease.release().await
    }

    /// What its fence stands on, if it has one in its bucket.
    pub(super) fn fencing(&self) -> Option<&Fencing> {
        self.lease.fencing()
    }
}

impl Deref for LockGuard {
    type Target = Lease;

    fn deref(&self) -> &Lease {
        &self.lease
    }
}

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LockGuard").field(&self.lease).finish()
    }
}
