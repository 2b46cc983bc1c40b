//! Groups: who is there, what each says of itself, and who comes and goes.

use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::ops::Deref;
use std::time::Duration;

use futures::TryStreamExt;
use futures::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::group_view::GroupView;
use super::group_watch::GroupEvents;
use super::home::Home;
use super::lease::Lease;
use super::place::place_options;
use super::slot::{Slot, SlotKey};
use super::terms::lease_options;
use super::told::{Speaker, Told, pack, speaks};
use super::wait;
use crate::backend::Read;
use crate::bucket::{Bucket, Entry};
use crate::error::Result;
use crate::store::Store;

/// The recipe's part of a key; the parts of one are its members, by their names.
const RECIPE: &str = "group";

impl Store {
    /// A group of this name, in the bucket of this name, which is made if it is missing when it is first used.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    /// # struct NodeInfo { address: String }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let store = Store::memory();
    /// # let me = NodeInfo { address: "10.0.0.7".into() };
    /// let workers = store.group::<NodeInfo>("workers");
    /// let member = workers.join("node-1", &me).await?; // gone when it dies
    /// for worker in workers.members().await? {
    ///     println!("{} at {}", worker.id(), worker.address);
    /// }
    /// member.leave().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn group<T>(&self, name: impl Into<String>) -> Group<T>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        Group { place: Home::new(self, RECIPE, name), value: PhantomData }
    }
}

/// A group; see [`Store::group`]. Cheap to clone.
///
/// Each member has a [`Lease`] under its id, in which it says what it is with a value of the type `T`. One that leaves is
/// gone at once; one that dies, after its time to live.
///
/// # What this does not guarantee
///
/// That a member is alive because it is listed: one that died is there until its time to live has passed, and one that is
/// cut off from the server but works on is not. That two processes see the same members at the same time. That an id has
/// one holder that *acts*: see [`Lease`]. And that a membership survives what its bucket does not; see
/// [`Locks`](super::Locks).
pub struct Group<T> {
    place: Home,
    value: PhantomData<fn() -> T>,
}

place_options!(Group<T>);
lease_options!(Group<T>: place.terms, Join<T>: place.terms);

impl<T> Group<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// Joins under an id, which nobody else has.
    ///
    /// # Errors
    ///
    /// Returns `AlreadyExists` if a member has the id. A member that died without leaving keeps the id until its TTL
    /// has passed. With [`wait`](Join::wait), the call waits until the id is free, and returns `Timeout` if the time
    /// passes. Returns `InvalidConfig` if the times contradict each other, or the bucket name is invalid. Returns
    /// `Unsupported` if the bucket or the server does not support the TTL of single records, or if a newer version of
    /// this crate wrote the record of the id. Returns `Decode` if the record of the id is not readable. The error names
    /// the key. Remove the record with `nats kv purge`.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves nothing behind. A member that joins at that very moment leaves; if that cannot be sent, it is
    /// gone after its time to live.
    pub fn join(&self, id: impl Into<String>, me: &T) -> Join<T> {
        Join { place: self.place.clone(), id: id.into(), me: pack(me), wait: None, value: PhantomData }
    }

    /// Who is there now, ordered by id.
    ///
    /// It is as fresh as a list: in a replicated bucket any server may answer, so one who has just joined may be missing,
    /// and one who has just left be there. [`get`](Self::get) asks the leader.
    ///
    /// # Errors
    ///
    /// Those of a list; `Decode` if the value of a member is no `T`. [`watch`](Self::watch) and [`view`](Self::view) go on
    /// where that can happen.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves nothing behind.
    pub async fn members(&self) -> Result<Vec<MemberInfo<T>>> {
        let list = async {
            let entries = self.opened().await?.list(self.place.all()).await?;
            let mut members: Vec<_> = entries.map_ok(MemberInfo::of).try_collect().await?;
            members.sort_by(|one: &MemberInfo<T>, other| one.id.cmp(&other.id));
            Ok(members)
        };
        self.place.within("members", None, list).await
    }

    /// The member of an id, if it is there: asked of the leader of the bucket.
    ///
    /// # Errors
    ///
    /// Those of a read; `Decode` if its value is no `T`.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves nothing behind.
    pub async fn get(&self, id: &str) -> Result<Option<MemberInfo<T>>> {
        let read = async {
            let entry = self.opened().await?.get(&self.place.key(id)).read(Read::Leader).await?;
            Ok(entry.map(MemberInfo::of))
        };
        self.place.within("get", Some(id), read).await
    }

    /// Watches who comes and goes: who is there, then [`GroupEvent::Ready`](super::GroupEvent::Ready), then what
    /// changes.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # use kvtyped::{Departure, GroupEvent};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// let workers = Store::memory().group::<String>("workers");
    /// let mut events = workers.watch().await?;
    /// assert!(matches!(events.try_next().await?, Some(GroupEvent::Ready)));
    /// let member = workers.join("node-1", &"10.0.0.7".to_owned()).await?;
    /// assert!(matches!(events.try_next().await?, Some(GroupEvent::Joined(worker)) if worker.id() == "node-1"));
    /// member.leave().await?;
    /// let event = events.try_next().await?;
    /// assert!(matches!(event, Some(GroupEvent::Left { reason: Departure::Left, .. })));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The stream goes on over outages, and over a bucket that is deleted and made anew: what changed meanwhile is told as
    /// if it had happened then. What was so for a moment only may not be told.
    ///
    /// # Errors
    ///
    /// An item is an error where one must know: `Decode` for a member whose value is no `T`; `BucketNotFound` once, if the
    /// bucket is deleted. The stream goes on. `PermissionDenied` and `Closed` are the last.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if a read of the stream is dropped. Dropping the stream ends the work on the server.
    pub async fn watch(&self) -> Result<GroupEvents<T>> {
        let watch = async { self.place.bucket().await?.of().watch(self.place.all()).await };
        Ok(GroupEvents::new(self.place.within("watch", None, watch).await?))
    }

    /// Keeps a local view of who is there: ready when it is awaited, and up to date from then on.
    ///
    /// Reading it takes no network; it may be behind, by a moment while all is well, for as long as it lasts while the
    /// connection is lost. It drives itself, in a task that ends with the last handle.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// let workers = Store::memory().group::<String>("workers");
    /// let mut view = workers.view().await?;
    /// let member = workers.join("node-1", &"10.0.0.7".to_owned()).await?;
    /// view.wait_for(|members| members.len() == 1).await?;
    /// assert_eq!(*view.get("node-1").expect("it is there"), "10.0.0.7");
    /// # drop(member);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of a watch that does not begin; `Timeout` if it is not ready in the store's time.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves nothing behind.
    pub async fn view(&self) -> Result<GroupView<T>> {
        let open = async { self.opened().await?.cache(self.place.all()).await };
        Ok(GroupView::new(self.place.within("view", None, open).await?, self.place.clone()))
    }

    async fn opened(&self) -> Result<Bucket<Slot<Told<T>>>> {
        Ok(self.place.bucket().await?.of())
    }
}

/// One who wants to be a member; see [`Group::join`].
#[must_use = "nobody joins until it is awaited"]
pub struct Join<T> {
    place: Home,
    id: String,
    me: Result<serde_json::Value>,
    wait: Option<Duration>,
    value: PhantomData<fn() -> T>,
}

impl<T> Join<T> {
    /// How long to wait for the id, if a member has it; not at all by default.
    ///
    /// For a process that is started again under its old id, and finds what it was before it died: a little longer than the
    /// time to live is enough.
    pub fn wait(mut self, longest: Duration) -> Self {
        self.wait = Some(longest);
        self
    }
}

impl<T: 'static> IntoFuture for Join<T> {
    type Output = Result<Member<T>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { place, id, me, wait, value: _ } = self;
        Box::pin(async move {
            let join = async {
                match wait {
                    Some(_) => wait::take(&place, &id, Some(me?), wait).await,
                    None => wait::take_now(&place, &id, Some(me?)).await,
                }
            };
            let lease = place.within("join", Some(&id), join).await?;
            Ok(Member { lease, id, value: PhantomData })
        })
    }
}

/// A membership. Dereferences to its [`Lease`]: `lost`, `run`, `ensure`, `remaining`, `fence`.
///
/// Dropping it leaves without waiting; [`leave`](Self::leave) waits until that is sure.
///
/// # What this does not guarantee
///
/// See [`Group`].
#[must_use = "a member that is dropped leaves"]
pub struct Member<T> {
    lease: Lease,
    id: String,
    value: PhantomData<fn() -> T>,
}

impl<T> Member<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// Says something else of itself: those who watch are told.
    ///
    /// # Errors
    ///
    /// `Lost`, if it is no member any more. After any other error whose outcome is `NotApplied` the value from before stands
    /// (`TooLarge`, say); after one whose outcome is `Unknown` the new one does, with the next renewal at the latest.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves the value to be written without a witness.
    pub async fn update(&self, me: &T) -> Result<()> {
        let value = pack(me).map_err(|error| self.lease.located("update", error))?;
        self.lease.say("update", Some(value)).await
    }
}

impl<T> Member<T> {
    /// The id under which it joined.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Leaves, and waits until that is sure; see [`Lease::release`].
    ///
    /// # Errors
    ///
    /// `Lost`, if it was no member any more.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves the departure to go on without a witness.
    pub async fn leave(self) -> Result<()> {
        self.lease.release_as("leave").await
    }
}

impl<T> Deref for Member<T> {
    type Target = Lease;

    fn deref(&self) -> &Lease {
        &self.lease
    }
}

/// One who is a member, or was a moment ago. Dereferences to what it says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberInfo<T> {
    id: String,
    speaker: Speaker<T>,
}

speaks!(MemberInfo, "When it joined, by its own clock.");

impl<T> MemberInfo<T> {
    /// The id under which it joined.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl<T> MemberInfo<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    pub(super) fn heard((key, speaker): (SlotKey, Speaker<T>)) -> Self {
        Self { id: key.part().to_owned(), speaker }
    }

    pub(super) fn of(entry: Entry<Slot<Told<T>>>) -> Self {
        Self { id: entry.key().part().to_owned(), speaker: Speaker::of(entry) }
    }
}

impl<T> Clone for Group<T> {
    fn clone(&self) -> Self {
        Self { place: self.place.clone(), value: PhantomData }
    }
}

impl<T> fmt::Debug for Group<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Group").field(&self.place.name()).finish()
    }
}

impl<T> fmt::Debug for Join<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Join").field("id", &self.id).field("wait", &self.wait).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Member<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("id", &self.id).field("lease", &self.lease).finish()
    }
}
