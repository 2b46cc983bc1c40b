//! Elections: one leader at a time, visible to all processes.

use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{Stream, StreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::backend::Read;
use crate::error::Result;
use crate::model::Filter;
use crate::recipes::announcement::{
    Announced, Announcement, AnnouncementVersion, RawAnnouncement, announced_accessors, decode, encode_value,
};
use crate::recipes::context::LeaseContext;
use crate::recipes::lease::fence::Fence;
use crate::recipes::lease::handle::Lease;
use crate::recipes::lease::options::lease_options;
use crate::recipes::lease::remove::remove_lease;
use crate::recipes::lease::wait;
use crate::recipes::open::{awaitable_handle, location_options};
use crate::recipes::record::RecipeRecord;
use crate::store::Store;
use crate::watch::{Event, Events};

/// The recipe's part of a key.
pub(crate) const RECIPE: &str = "election";
pub(crate) const LEASE: &str = "lease";

impl Store {
    /// Returns an election with this name, in the bucket of this name. The bucket is created if it is missing.
    ///
    /// The call performs no I/O. The first use opens the bucket, and so does awaiting the handle.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    /// # struct NodeInfo { address: String }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let store = Store::memory();
    /// # let me = NodeInfo { address: "10.0.0.7".into() };
    /// let election = store.election::<NodeInfo>("scheduler");
    /// let leadership = election.campaign(&me).await?; // waits until elected
    /// let leader = election.leader().await?.expect("it is me");
    /// assert_eq!((leader.address.as_str(), leader.fence()), ("10.0.0.7", leadership.fence()));
    /// leadership.run(async { /* what only the leader does */ }).await?;
    /// leadership.resign().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn election<T>(&self, name: impl Into<String>) -> Election<T>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        Election { context: LeaseContext::new(self, RECIPE, name), value: PhantomData }
    }
}

/// A handle to an election; see [`Store::election`]. Cheap to clone.
///
/// The handle performs no I/O until its first use, which opens the bucket for all clones. Awaiting the handle opens the
/// bucket at once. An option returns a changed handle. A handle with another bucket opens that bucket on first use.
///
/// The leader is the holder of the only [`Lease`] of the election. The lease contains a value of the type `T` that
/// describes the leader.
///
/// A new leader is elected, and announced to observers, only after the previous leader must have stepped down. The
/// record of a leader ends in one of two ways. Either the leader resigns: it stops leading and then removes the record.
/// Or the server expires the record. The server counts from the arrival of the last renewal, the leader from the moment
/// before the renewal was sent. The leader also stops a [`safety_margin`](Self::safety_margin) earlier, with or without
/// a network. By then [`lost`](Lease::lost) has resolved, and [`run`](Lease::run) has dropped its work.
///
/// # What this does not guarantee
///
/// * That a deposed leader *stops acting*. It does not undo its actions outside of [`run`](Lease::run), or requests
///   that it has already sent. A process that is paused between a check of its lease and an action may act later; see
///   [`Lease`]. If that must not happen, pass [`fence`](Lease::fence), which grows from leader to leader, to the
///   external system, and let that system refuse lower fences.
/// * An order. Candidates may be elected in any order.
/// * Fresh observations. An observed leader may already have been replaced.
/// * Durability beyond that of the bucket; see [`Locks`](crate::recipes::Locks).
pub struct Election<T> {
    pub(crate) context: LeaseContext,
    value: PhantomData<fn() -> T>,
}

location_options!(Election<T>: context.bucket);
awaitable_handle!(Election<T>: context.bucket);
lease_options!(Election<T>: context.options, Campaign<T>: context.options);

impl<T> Election<T> {
    async fn open(&self) -> Result<()> {
        self.context.open().await
    }
}

impl<T> Election<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// Campaigns for leadership with this value, and waits until elected.
    ///
    /// # Errors
    ///
    /// Returns `Timeout` if [`wait`](Campaign::wait) is given and passes. Without it, the campaign waits for as long as
    /// others lead. The outcome is `Unknown` if an attempt was in progress: a lease that arrives later is released.
    /// With a `wait`, the campaign also waits for an unreachable server. Without it, the first attempt fails. A denial
    /// of the first attempt is returned at once. With a `wait`, the campaign continues after a later denial, which
    /// becomes the cause of the `Timeout`. Returns `InvalidConfig` if the times contradict each other, or the bucket
    /// name is invalid. Returns `Unsupported` if the bucket or the server does not support the TTL of single records,
    /// or if a newer version of this crate wrote the leader's record. Returns `BucketNotFound` if the bucket is
    /// deleted. Returns `Decode` if the record of the leader is not readable. The error names the key. Remove the
    /// record with `nats kv purge`.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the candidate withdraws. A candidate that is elected at that moment resigns. If the
    /// resignation cannot be sent, the leadership is free after its TTL.
    pub fn campaign(&self, me: &T) -> Campaign<T> {
        Campaign { context: self.context.clone(), me: encode_value(me), wait: None, value: PhantomData }
    }

    /// Returns the current leader, or `None` if there is no leader. The answer may be outdated when it arrives.
    ///
    /// # Errors
    ///
    /// Returns the errors of a read. Returns `Decode` if the leader's value is not a `T`, or if the record is not a
    /// lease.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the read is cancelled.
    pub async fn leader(&self) -> Result<Option<Leader<T>>> {
        let read = async {
            let bucket = self.context.bucket().await?.as_model::<RecipeRecord<Announcement<T>>>();
            bucket.refresh_clock().await;
            let entry = bucket.get(&self.context.key(LEASE)).read(Read::Leader).await?;
            Ok(entry.map(|entry| Leader { announced: Announced::from_entry(entry) }))
        };
        self.context.in_operation("leader", None, read).await
    }

    /// Ends the term of a leader that still has this [`fence`](Leader::fence), so that another candidate is elected.
    /// Does nothing if there is no leader.
    ///
    /// The leader learns of the loss at its next renewal, and may act until then, as after an expiry. A new leader may
    /// be elected before that.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// let election = Store::memory().election::<String>("scheduler");
    /// let stuck = election.campaign(&"10.0.0.7".to_owned()).await?;
    /// let leader = election.leader().await?.expect("there is a leader");
    /// election.depose(leader.fence()).await?;
    /// assert!(election.leader().await?.is_none());
    /// # drop(stuck);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `Conflict` if another term has begun: nothing is changed. Otherwise returns the errors of a read and of
    /// a purge. Returns `Decode` if the record of the leader is not a lease.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the term may or may not have ended.
    pub async fn depose(&self, fence: Fence) -> Result<()> {
        let remove = async {
            let bucket = self.context.bucket().await?;
            let ttl = self.context.options.timing.resolve()?.ttl;
            remove_lease(&bucket, &self.context.key(LEASE), fence, ttl).await
        };
        self.context.in_operation("depose", None, remove).await
    }

    /// Watches the leader. The stream yields the current leader, each new leader, and each new value of a leader.
    ///
    /// The stream yields nothing while there is no leader. A slow or disconnected reader may miss leaders in between,
    /// but never the latest one. The stream continues after outages, and after the bucket is deleted and created again.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let election = Store::memory().election::<String>("scheduler");
    /// let leadership = election.campaign(&"starting".to_owned()).await?;
    /// let mut leaders = election.observe().await?;
    /// assert_eq!(*leaders.try_next().await?.expect("there is a leader"), "starting");
    /// leadership.proclaim(&"ready".to_owned()).await?;
    /// assert_eq!(*leaders.try_next().await?.expect("the stream continues"), "ready");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The stream yields `Decode` for a leader whose value is not a `T`, and `BucketNotFound` once if the bucket is
    /// deleted. It continues after both. `PermissionDenied` and `Closed` end the stream.
    ///
    /// # Cancel safety
    ///
    /// If a read of the stream is dropped, no item is lost. If the stream is dropped, the watch on the server ends.
    pub async fn observe(&self) -> Result<Leaders<T>> {
        let watch = async {
            let bucket = self.context.bucket().await?.as_model::<RecipeRecord<RawAnnouncement>>();
            bucket.watch(Filter::key(&self.context.key(LEASE))).await
        };
        let events = self.context.in_operation("observe", None, watch).await?;
        Ok(Leaders { events, last: None, value: PhantomData })
    }
}

/// A campaign for leadership; see [`Election::campaign`].
///
/// It waits without a limit unless [`wait`](Self::wait) is given.
#[must_use = "a campaign does not start until it is awaited"]
pub struct Campaign<T> {
    context: LeaseContext,
    me: Result<serde_json::Value>,
    wait: Option<Duration>,
    value: PhantomData<fn() -> T>,
}

impl<T> Campaign<T> {
    /// Creates a campaign with an encoded value.
    pub(crate) fn from_encoded(context: LeaseContext, me: serde_json::Value) -> Self {
        Self { context, me: Ok(me), wait: None, value: PhantomData }
    }

    /// Sets how long to wait for the leadership. Without it, the campaign waits without a limit while others lead.
    pub fn wait(mut self, limit: Duration) -> Self {
        self.wait = Some(limit);
        self
    }
}

impl<T: 'static> IntoFuture for Campaign<T> {
    type Output = Result<Leadership<T>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { context, me, wait, value: _ } = self;
        Box::pin(async move {
            let elected = async { wait::acquire(&context, LEASE, Some(me?), wait).await };
            let lease = context.in_operation("campaign", None, elected).await?;
            Ok(Leadership { lease, value: PhantomData })
        })
    }
}

/// A leadership that is held. Dereferences to its [`Lease`]: `lost`, `run`, `ensure_remaining`, `remaining`, `fence`.
///
/// Dropping it resigns in the background. [`resign`](Self::resign) waits for the result.
///
/// # What this does not guarantee
///
/// See [`Election`].
#[must_use = "dropping the leadership resigns"]
pub struct Leadership<T> {
    lease: Lease,
    value: PhantomData<fn() -> T>,
}

impl<T> Leadership<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// Replaces the leader's value within the same term. Observers receive the new value.
    ///
    /// # Errors
    ///
    /// Returns `Lost` if another process may lead now. After any other error with the outcome `NotApplied` (for example
    /// `TooLarge`), the previous value remains. After an error with the outcome `Unknown`, the new value is stored with
    /// the next renewal at the latest.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the value is still written in the background and the result is lost.
    pub async fn proclaim(&self, value: &T) -> Result<()> {
        self.lease.set_value("proclaim", encode_value(value)).await
    }
}

impl<T> Leadership<T> {
    /// Releases the leadership and waits until that is confirmed, as every guard does; see [`Lease::release`].
    ///
    /// # Errors
    ///
    /// Returns `Lost` if the leadership was lost before. Its actions may have overlapped with another leader.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the release continues in the background and its result is lost.
    pub async fn release(self) -> Result<()> {
        self.lease.release_as("release").await
    }

    /// Resigns: [`release`](Self::release) in the word of elections.
    ///
    /// # Errors
    ///
    /// Returns `Lost` if the leadership was lost before. Its actions may have overlapped with another leader.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the resignation continues in the background and its result is lost.
    pub async fn resign(self) -> Result<()> {
        self.lease.release_as("resign").await
    }
}

impl<T> Deref for Leadership<T> {
    type Target = Lease;

    fn deref(&self) -> &Lease {
        &self.lease
    }
}

/// A leader, which may have been replaced since the read. Dereferences to its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader<T> {
    pub(crate) announced: Announced<T>,
}

announced_accessors!(Leader, "When it was elected, by its own clock.");

/// A stream of leaders; see [`Election::observe`].
#[must_use = "a stream does nothing until it is polled"]
pub struct Leaders<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    events: Events<RecipeRecord<RawAnnouncement>>,
    /// The last announcement that was yielded.
    last: Option<AnnouncementVersion>,
    value: PhantomData<fn() -> T>,
}

impl<T> Stream for Leaders<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    type Item = Result<Leader<T>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let item = match ready!(self.events.poll_next_unpin(context)) {
                Some(Ok(Event::Put(entry))) => {
                    let version = entry.value.version();
                    if self.last.as_ref() == Some(&version) {
                        continue;
                    }
                    self.last = Some(version);
                    Some(decode(entry).map(|(_, announced)| Leader { announced }))
                }
                Some(Ok(Event::Undecodable { error, .. })) => Some(Err(error)),
                Some(Ok(_)) => continue,
                Some(Err(error)) => Some(Err(error)),
                None => None,
            };
            return Poll::Ready(item);
        }
    }
}

impl<T> Clone for Election<T> {
    fn clone(&self) -> Self {
        Self { context: self.context.clone(), value: PhantomData }
    }
}

impl<T> fmt::Debug for Election<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Election").field(&self.context.name()).finish()
    }
}

impl<T> fmt::Debug for Campaign<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Campaign")
            .field("election", &self.context.name())
            .field("wait", &self.wait)
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Leadership<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Leadership").field(&self.lease).finish()
    }
}

impl<T> fmt::Debug for Leaders<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaders").field("last", &self.last).finish_non_exhaustive()
    }
}
