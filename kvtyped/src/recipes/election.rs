//! Elections: one leader at a time, and everybody can know who.

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

use super::home::Home;
use super::lease::Lease;
use super::place::place_options;
use super::slot::Slot;
use super::terms::lease_options;
use super::told::{Heard, Saying, Speaker, Told, pack, speaks, understood};
use super::wait;
use crate::backend::Read;
use crate::error::Result;
use crate::model::Filter;
use crate::store::Store;
use crate::watch::{Event, Events};

/// The recipe's part of a key.
const RECIPE: &str = "election";
const LEASE: &str = "lease";

impl Store {
    /// An election of this name, in the bucket of this name, which is made if it is missing when it is first used.
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
        Election { place: Home::new(self, RECIPE, name), value: PhantomData }
    }
}

/// An election; see [`Store::election`]. Cheap to clone.
///
/// A leader is whoever holds the one [`Lease`] of the election; it says what it is with a value of the type `T`.
///
/// A new leader is elected, and told to those who observe, only after the one before must have stood down. The record of
/// a leader goes in two ways: the leader removes it when it resigns, and does not lead from then on; or the server lets it
/// expire. The server counts from the arrival of the last renewal, the leader from the moment before it was sent, and the
/// leader stops a [`margin`](Self::margin) earlier, network or not: [`lost`](Lease::lost) has resolved and
/// [`run`](Lease::run) has dropped its work by then.
///
/// # What this does not guarantee
///
/// That a deposed leader *does nothing* any more. What it does outside [`run`](Lease::run), or has sent already, it does
/// not take back, and a process that is paused between a look at its lease and the deed may do it later; see [`Lease`].
/// Where that must not be, give [`fence`](Lease::fence), which grows from leader to leader, to the system outside, and let
/// it refuse lower ones. That candidates are elected in the order in which they came. That what is observed is still so
/// when it is read. And that an election survives what its bucket does not; see [`Locks`](super::Locks).
pub struct Election<T> {
    place: Home,
    value: PhantomData<fn() -> T>,
}

place_options!(Election<T>);
lease_options!(Election<T>: place.terms, Campaign<T>: place.terms);

impl<T> Election<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// Stands for election with this value, and waits until elected.
    ///
    /// # Errors
    ///
    /// Returns `Timeout` if [`wait`](Campaign::wait) is given and passes. Without it, the campaign waits for as long as
    /// others lead. The outcome is `Unknown` if an attempt was in progress: a lease that lands later is released. With
    /// a `wait`, the campaign also waits for an unreachable server. Without it, the first attempt fails. A denial of
    /// the first attempt is returned at once. With a `wait`, the campaign continues after a later denial, which becomes
    /// the cause of the `Timeout`. Returns `InvalidConfig` if the times contradict each other, or the bucket name is
    /// invalid. Returns `Unsupported` if the bucket or the server does not support the TTL of single records, or if a
    /// newer version of this crate wrote the leader's record. Returns `BucketNotFound` if the bucket is deleted.
    /// Returns `Decode` if the record of the leader is not readable. The error names the key. Remove the record with
    /// `nats kv purge`.
    ///
    /// # Cancel safety
    ///
    /// Dropping it withdraws. One who is elected at that very moment resigns; if that cannot be sent, the office is free
    /// after its time to live.
    pub fn campaign(&self, me: &T) -> Campaign<T> {
        Campaign { place: self.place.clone(), me: pack(me), wait: None, value: PhantomData }
    }

    /// Who leads now; `None` if nobody does. The answer may be old when it is read.
    ///
    /// # Errors
    ///
    /// Those of a read; `Decode` if the leader's value is no `T`, or something else stands where it should.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves nothing behind.
    pub async fn leader(&self) -> Result<Option<Leader<T>>> {
        let read = async {
            let bucket = self.place.bucket().await?.of::<Slot<Told<T>>>();
            let entry = bucket.get(&self.place.key(LEASE)).read(Read::Leader).await?;
            Ok(entry.map(|entry| Leader { speaker: Speaker::of(entry) }))
        };
        self.place.within("leader", None, read).await
    }

    /// Who leads now, and every new leader, and what a leader proclaims anew.
    ///
    /// An item is a leader; that nobody leads is none. Who reads slowly, or is cut off meanwhile, may miss leaders in
    /// between, never the last. The stream goes on over outages, and over a bucket that is deleted and made anew.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let election = Store::memory().election::<String>("scheduler");
    /// let leadership = election.campaign(&"starting".to_owned()).await?;
    /// let mut leaders = election.observe().await?;
    /// assert_eq!(*leaders.try_next().await?.expect("somebody leads"), "starting");
    /// leadership.proclaim(&"ready".to_owned()).await?;
    /// assert_eq!(*leaders.try_next().await?.expect("it goes on"), "ready");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// An item is an error where one must know: `Decode` for a leader whose value is no `T`; `BucketNotFound` once, if the
    /// bucket is deleted. The stream goes on. `PermissionDenied` and `Closed` are the last.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if a read of the stream is dropped. Dropping the stream ends the work on the server.
    pub async fn observe(&self) -> Result<Leaders<T>> {
        let watch = async {
            let bucket = self.place.bucket().await?.of::<Slot<Heard>>();
            bucket.watch(Filter::of_key(&self.place.key(LEASE))).await
        };
        let events = self.place.within("observe", None, watch).await?;
        Ok(Leaders { events, last: None, value: PhantomData })
    }
}

/// A campaign; see [`Election::campaign`].
#[must_use = "nobody stands for election until it is awaited"]
pub struct Campaign<T> {
    place: Home,
    me: Result<serde_json::Value>,
    wait: Option<Duration>,
    value: PhantomData<fn() -> T>,
}

impl<T> Campaign<T> {
    /// How long to wait; for ever by default.
    pub fn wait(mut self, longest: Duration) -> Self {
        self.wait = Some(longest);
        self
    }
}

impl<T: 'static> IntoFuture for Campaign<T> {
    type Output = Result<Leadership<T>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { place, me, wait, value: _ } = self;
        Box::pin(async move {
            let elected = async { wait::take(&place, LEASE, Some(me?), wait).await };
            let lease = place.within("campaign", None, elected).await?;
            Ok(Leadership { lease, value: PhantomData })
        })
    }
}

/// An office that is held. Dereferences to its [`Lease`]: `lost`, `run`, `ensure`, `remaining`, `fence`.
///
/// Dropping it resigns without waiting; [`resign`](Self::resign) waits until that is sure.
///
/// # What this does not guarantee
///
/// See [`Election`].
#[must_use = "one whose leadership is dropped resigns"]
pub struct Leadership<T> {
    lease: Lease,
    value: PhantomData<fn() -> T>,
}

impl<T> Leadership<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// Says something else of itself, in the same term: those who observe are told.
    ///
    /// # Errors
    ///
    /// `Lost`, if another may lead by now. After any other error whose outcome is `NotApplied` the value from before stands
    /// (`TooLarge`, say); after one whose outcome is `Unknown` the new one does, with the next renewal at the latest.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves the value to be proclaimed without a witness.
    pub async fn proclaim(&self, value: &T) -> Result<()> {
        let value = pack(value).map_err(|error| self.lease.located("proclaim", error))?;
        self.lease.say("proclaim", Some(value)).await
    }
}

impl<T> Leadership<T> {
    /// Gives up the office, and waits until that is sure; see [`Lease::release`].
    ///
    /// # Errors
    ///
    /// `Lost`, if it was lost before: what it did may have met another leader.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves the resignation to go on without a witness.
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

/// Who leads, or led a moment ago. Dereferences to what it says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader<T> {
    speaker: Speaker<T>,
}

speaks!(Leader, "When it was elected, by its own clock.");

/// A stream of leaders; see [`Election::observe`].
#[must_use = "a stream does nothing until it is polled"]
pub struct Leaders<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    events: Events<Slot<Heard>>,
    /// What was told last.
    last: Option<Saying>,
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
                    let saying = entry.value.saying();
                    if self.last.as_ref() == Some(&saying) {
                        continue;
                    }
                    self.last = Some(saying);
                    Some(understood(entry).map(|(_, speaker)| Leader { speaker }))
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
        Self { place: self.place.clone(), value: PhantomData }
    }
}

impl<T> fmt::Debug for Election<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Election").field(&self.place.name()).finish()
    }
}

impl<T> fmt::Debug for Campaign<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Campaign")
            .field("election", &self.place.name())
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
