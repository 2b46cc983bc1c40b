//! Groups: the live members, their values, and their arrivals and departures.

use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::time::Duration;

use futures::TryStreamExt;
use futures::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::events::GroupEvents;
use super::member::{Member, MemberInfo};
use super::view::GroupView;
use crate::backend::Read;
use crate::bucket::Bucket;
use crate::error::Result;
use crate::recipes::announcement::{Announcement, encode_value};
use crate::recipes::context::LeaseContext;
use crate::recipes::lease::options::lease_options;
use crate::recipes::lease::wait;
use crate::recipes::open::{awaitable_handle, location_options};
use crate::recipes::record::RecipeRecord;
use crate::store::Store;

/// The recipe's part of a key. The parts of a group are the ids of its members.
const RECIPE: &str = "group";

impl Store {
    /// Returns a group with this name, in the bucket of this name. The bucket is created if it is missing.
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
        Group { context: LeaseContext::new(self, RECIPE, name), value: PhantomData }
    }
}

/// A handle to a group; see [`Store::group`]. Cheap to clone.
///
/// The handle performs no I/O until its first use, which opens the bucket for all clones. Awaiting the handle opens the
/// bucket at once. An option returns a changed handle. A handle with another bucket opens that bucket on first use.
///
/// Each member has a [`Lease`](crate::recipes::Lease) under its id. The lease contains a value of the type `T` that
/// describes the member. A member that leaves is removed at once. A member that dies is removed after its TTL.
///
/// # What this does not guarantee
///
/// * That a listed member is alive. A member that died is listed until its TTL has passed. A member that is
///   disconnected from the server, but still working, is not listed after its TTL.
/// * The same members in two processes at the same time.
/// * That an id has one holder that *acts*; see [`Lease`](crate::recipes::Lease).
/// * Durability beyond that of the bucket; see [`Locks`](crate::recipes::Locks).
pub struct Group<T> {
    context: LeaseContext,
    value: PhantomData<fn() -> T>,
}

location_options!(Group<T>: context.bucket);
awaitable_handle!(Group<T>: context.bucket);
lease_options!(Group<T>: context.options, Join<T>: context.options);

impl<T> Group<T> {
    async fn open(&self) -> Result<()> {
        self.context.open().await
    }
}

impl<T> Group<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// Joins the group under an id that no other member has.
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
    /// If the future is dropped, no membership remains. A member that joins at that moment leaves. If that cannot be
    /// sent, the membership ends after its TTL.
    pub fn join(&self, id: impl Into<String>, me: &T) -> Join<T> {
        Join { context: self.context.clone(), id: id.into(), me: encode_value(me), wait: None, value: PhantomData }
    }

    /// Returns the current members, ordered by id.
    ///
    /// The result is as fresh as a list. In a replicated bucket any server may answer, so a recent member may be
    /// missing, and a member that has just left may be listed. [`get`](Self::get) asks the leader.
    ///
    /// # Errors
    ///
    /// Returns the errors of a list. Returns `Decode` if the value of a member is not a `T`. [`watch`](Self::watch) and
    /// [`view`](Self::view) continue after such a member.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the read is cancelled.
    pub async fn members(&self) -> Result<Vec<MemberInfo<T>>> {
        let list = async {
            let entries = self.open_bucket().await?.list(self.context.all()).await?;
            let mut members: Vec<_> = entries.map_ok(MemberInfo::from_entry).try_collect().await?;
            members.sort_by(|one: &MemberInfo<T>, other| one.id().cmp(other.id()));
            Ok(members)
        };
        self.context.in_operation("members", None, list).await
    }

    /// Returns the member with an id, or `None` if there is no such member. Reads from the leader of the bucket.
    ///
    /// # Errors
    ///
    /// Returns the errors of a read. Returns `Decode` if the value is not a `T`.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the read is cancelled.
    pub async fn get(&self, id: &str) -> Result<Option<MemberInfo<T>>> {
        let read = async {
            let entry = self.open_bucket().await?.get(&self.context.key(id)).read(Read::Leader).await?;
            Ok(entry.map(MemberInfo::from_entry))
        };
        self.context.in_operation("get", Some(id), read).await
    }

    /// Watches the members. The stream yields the current members, then
    /// [`GroupEvent::Ready`](crate::recipes::GroupEvent::Ready), then each change.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # use kvtyped::recipes::{GroupEvent, LeaveReason};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// let workers = Store::memory().group::<String>("workers");
    /// let mut events = workers.watch().await?;
    /// assert!(matches!(events.try_next().await?, Some(GroupEvent::Ready)));
    /// let member = workers.join("node-1", &"10.0.0.7".to_owned()).await?;
    /// let event = events.try_next().await?;
    /// assert!(matches!(event, Some(GroupEvent::Joined(worker)) if worker.id() == "node-1"));
    /// member.leave().await?;
    /// let event = events.try_next().await?;
    /// assert!(matches!(event, Some(GroupEvent::Left { reason: LeaveReason::Left, .. })));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The stream continues after outages, and after the bucket is deleted and created again. It then yields the
    /// changes that it missed. A state that lasted only for a moment may be skipped.
    ///
    /// # Errors
    ///
    /// The stream yields `Decode` for a member whose value is not a `T`, and `BucketNotFound` once if the bucket is
    /// deleted. It continues after both. `PermissionDenied` and `Closed` end the stream.
    ///
    /// # Cancel safety
    ///
    /// If a read of the stream is dropped, no item is lost. If the stream is dropped, the watch on the server ends.
    pub async fn watch(&self) -> Result<GroupEvents<T>> {
        let watch = async { self.context.bucket().await?.as_model().watch(self.context.all()).await };
        Ok(GroupEvents::new(self.context.in_operation("watch", None, watch).await?))
    }

    /// Opens a local view of the members. The view is complete when the call returns, and stays up to date from then
    /// on.
    ///
    /// Reads of the view perform no I/O. The view lags by a moment in normal operation, and for the whole outage while
    /// the connection is lost. A task updates the view and ends with its last handle.
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
    /// Returns the errors of a watch that does not start. Returns `Timeout` if the view is not complete within the
    /// store's timeout.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the view is closed.
    pub async fn view(&self) -> Result<GroupView<T>> {
        let open = async { self.open_bucket().await?.cache(self.context.all()).await };
        Ok(GroupView::new(self.context.in_operation("view", None, open).await?, self.context.clone()))
    }

    async fn open_bucket(&self) -> Result<Bucket<RecipeRecord<Announcement<T>>>> {
        Ok(self.context.bucket().await?.as_model())
    }
}

/// A request to join a group; see [`Group::join`].
///
/// It waits for an id that another member has only if [`wait`](Self::wait) is given.
#[must_use = "no member joins until it is awaited"]
pub struct Join<T> {
    context: LeaseContext,
    id: String,
    me: Result<serde_json::Value>,
    wait: Option<Duration>,
    value: PhantomData<fn() -> T>,
}

impl<T> Join<T> {
    /// Sets how long to wait for the id if another member has it. Without it, the call does not wait.
    ///
    /// This is for a process that restarts under its old id, and finds the record of its previous run. A time slightly
    /// above the TTL is enough.
    pub fn wait(mut self, limit: Duration) -> Self {
        self.wait = Some(limit);
        self
    }
}

impl<T: 'static> IntoFuture for Join<T> {
    type Output = Result<Member<T>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { context, id, me, wait, value: _ } = self;
        Box::pin(async move {
            let join = async {
                match wait {
                    Some(_) => wait::acquire(&context, &id, Some(me?), wait).await,
                    None => wait::acquire_now(&context, &id, Some(me?)).await,
                }
            };
            let lease = context.in_operation("join", Some(&id), join).await?;
            Ok(Member::new(lease, id))
        })
    }
}

impl<T> Clone for Group<T> {
    fn clone(&self) -> Self {
        Self { context: self.context.clone(), value: PhantomData }
    }
}

impl<T> fmt::Debug for Group<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Group").field(&self.context.name()).finish()
    }
}

impl<T> fmt::Debug for Join<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Join").field("id", &self.id).field("wait", &self.wait).finish_non_exhaustive()
    }
}
