//! Shared helpers of the tests: stores of both kinds, buckets with unique names, models.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use kvtyped::Event;
use kvtyped::backend::Backend;
use kvtyped::backend::memory::MemoryBackend;
use kvtyped::backend::nats::{NatsBackend, NatsOptions};
use kvtyped::bucket::OpenBucket;
use kvtyped::codec::{Bytes, Text};
use kvtyped::prelude::*;
use kvtyped::recipes::Lease;
use kvtyped::watch::Events;

#[path = "forward.rs"]
pub(crate) mod forward;
#[path = "sentinels.rs"]
pub(crate) mod sentinels;

/// Turns each function into a test on memory and a test on a real server.
///
/// The function gets a [`World`] with a store and unique bucket names. `needs` before the functions names a server
/// feature that all of them require; see [`needs`](crate::needs).
macro_rules! on_both_backends {
    ($(needs $feature:ident;)? $($(#[$attribute:meta])* async fn $name:ident($world:ident: World) $body:block)*) => {
        $($(#[$attribute])* async fn $name($world: $crate::support::World) $body)*

        mod on_memory {
            $(#[tokio::test] async fn $name() { super::$name($crate::support::World::memory()).await; })*
        }

        mod on_nats {
            $crate::support::on_nats! { [$($feature)?] $($name)* }
        }
    };
}
pub(crate) use on_both_backends;

/// The tests of [`on_both_backends`] on a server, which may require a feature.
macro_rules! on_nats {
    ([] $($name:ident)*) => {
        $(#[tokio::test] async fn $name() { super::$name($crate::support::World::nats().await).await; })*
    };
    ([$feature:ident] $($name:ident)*) => {
        $(#[tokio::test] async fn $name() {
            $crate::needs::needs!($feature);
            super::$name($crate::support::World::nats().await).await;
        })*
    };
}
pub(crate) use on_nats;

/// The oldest supported server version.
pub(crate) const OLD: &str = "2.10.26";

/// A store, and a way to name buckets in it.
pub(crate) struct World {
    pub(crate) store: Store,
    place: Place,
}

/// The location of the buckets of a world.
enum Place {
    Memory(Arc<MemoryBackend>),
    Url(String),
}

impl World {
    pub(crate) fn memory() -> Self {
        let memory = Arc::new(MemoryBackend::new());
        Self { store: Store::from_backend(Arc::clone(&memory) as _), place: Place::Memory(memory) }
    }

    pub(crate) async fn nats() -> Self {
        Self::at(&harness::shared().await.url()).await
    }

    pub(crate) async fn at(url: &str) -> Self {
        Self::of(Store::connect(sentinels::planted(url)).await.expect("the server is there"), url)
    }

    /// Returns the world of an existing store.
    pub(crate) fn of(store: Store, url: &str) -> Self {
        Self { store, place: Place::Url(url.to_owned()) }
    }

    /// Returns whether the world uses a server, which may be old.
    pub(crate) fn is_on_a_server(&self) -> bool {
        matches!(self.place, Place::Url(_))
    }

    /// Returns another store with the same buckets, like that of another process. Closing it simulates a crash: its
    /// leases are neither renewed nor released.
    pub(crate) async fn another(&self) -> Store {
        match &self.place {
            Place::Memory(memory) => Store::from_backend(Arc::clone(memory) as _),
            Place::Url(url) => Self::at(url).await.store,
        }
    }

    /// Returns a backend with the same buckets.
    pub(crate) async fn backend(&self) -> Arc<dyn Backend> {
        match &self.place {
            Place::Memory(memory) => Arc::clone(memory) as _,
            Place::Url(url) => {
                Arc::new(NatsBackend::connect(url, NatsOptions::new()).await.expect("the server is there"))
            }
        }
    }

    /// Returns the builder of a bucket that no other test uses.
    pub(crate) fn fresh<T: KvModel>(&self) -> OpenBucket<T> {
        self.store.bucket().name(unique(&T::settings().name))
    }

    /// Opens a bucket that no other test uses.
    pub(crate) async fn bucket<T: KvModel>(&self) -> Bucket<T> {
        self.fresh().await.expect("the bucket opens")
    }
}

/// Returns a name that is unique in this process. The server belongs to this process.
pub(crate) fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{name}_{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A model with one revision per key, so that single records may have a TTL.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(key = "{tenant}.{id}", codec = MsgPack, history = 1)]
pub(crate) struct Session {
    pub(crate) tenant: String,
    pub(crate) id: u64,
    pub(crate) visits: u32,
}

impl Session {
    pub(crate) fn new(tenant: &str, id: u64) -> Self {
        Self { tenant: tenant.into(), id, visits: 0 }
    }

    pub(crate) fn visited(self, visits: u32) -> Self {
        Self { visits, ..self }
    }
}

/// A model with ten revisions per key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(key = "doc.{name}", history = 10)]
pub(crate) struct Document {
    pub(crate) name: String,
    pub(crate) text: String,
}

impl Document {
    pub(crate) fn new(name: &str, text: &str) -> Self {
        Self { name: name.into(), text: text.into() }
    }
}

/// The raw bytes under the keys of [`Session`].
#[derive(Clone, Debug, PartialEq, KvModel)]
#[kv(key = "{tenant}.{id}", codec = Bytes)]
pub(crate) struct RawSession {
    pub(crate) tenant: String,
    pub(crate) id: String,
    #[kv(value)]
    pub(crate) bytes: Vec<u8>,
}

impl RawSession {
    pub(crate) fn new(tenant: &str, id: &str, bytes: &[u8]) -> Self {
        Self { tenant: tenant.into(), id: id.into(), bytes: bytes.into() }
    }
}

/// Raw records under the reserved keys of the recipes.
#[derive(Clone, Debug, PartialEq, KvModel)]
#[kv(key = "=kvtyped.{recipe}.{name}.{part}", codec = Text, history = 1)]
pub(crate) struct ForeignRecord {
    pub(crate) recipe: String,
    pub(crate) name: String,
    pub(crate) part: String,
    #[kv(value)]
    pub(crate) text: String,
}

impl ForeignRecord {
    pub(crate) fn new(recipe: &str, name: &str, part: &str, text: &str) -> Self {
        Self { recipe: recipe.into(), name: name.into(), part: part.into(), text: text.into() }
    }
}

/// Opens an existing bucket with another model.
pub(crate) async fn seen_as<T: KvModel>(world: &World, name: &str) -> Bucket<T> {
    world.store.bucket().name(name).must_exist().on_drift(Drift::Adopt).await.expect("the bucket is there")
}

/// Checks that a lock excludes other holders while its guard is valid, and that fencing tokens grow.
#[derive(Default)]
pub(crate) struct ExclusionCheck {
    inside: AtomicU32,
    pub(crate) visits: AtomicU32,
    last_fence: AtomicU64,
}

impl ExclusionCheck {
    pub(crate) async fn visit(&self, lease: &Lease) {
        if !lease.is_held() {
            return;
        }
        assert_eq!(self.inside.fetch_add(1, Ordering::SeqCst), 0, "two hold {lease:?} at once");
        let fence = lease.fence().get();
        let last = self.last_fence.swap(fence, Ordering::SeqCst);
        assert!(last < fence, "the fence went from {last} to {fence}");
        tokio::task::yield_now().await;
        self.visits.fetch_add(1, Ordering::SeqCst);
        self.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The time limit for anything that must happen, on a loaded machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// The tolerance for the end of an operation. The promise is a tenth of a second. The rest is for a machine with two
/// cores that runs other tests and servers at the same time.
pub(crate) const LATE: Duration = Duration::from_millis(300);

/// Awaits an operation and asserts that it ends in time.
pub(crate) async fn in_time<O: IntoFuture>(what: &str, time: Duration, operation: O) -> O::Output {
    let start = tokio::time::Instant::now();
    let output = operation.into_future().await;
    let took = start.elapsed();
    assert!(took <= time + LATE, "{what} took {took:?} of {time:?}");
    output
}

/// Polls a future at most this number of times, and then drops it.
pub(crate) async fn dropped_after<F: IntoFuture>(future: F, polls: u32) {
    let mut future = std::pin::pin!(future.into_future());
    for _ in 0..polls {
        if futures::poll!(&mut future).is_ready() {
            break;
        }
        tokio::task::yield_now().await;
    }
}

/// An event in a comparable form.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Observed {
    Put(String, Revision),
    Touched(String, Revision),
    Removed(String, Revision, Removed),
    Undecodable(String, Revision),
    Ready,
    Resync,
    Lagging,
}

impl Observed {
    pub(crate) fn of<T: KvModel>(event: &Event<T>) -> Self {
        match event {
            Event::Put(entry) => Self::Put(entry.key().to_string(), entry.revision()),
            Event::HeadersOnly { key, revision, .. } => Self::Touched(key.to_string(), *revision),
            Event::Removed { key, revision, reason } => Self::Removed(key.to_string(), *revision, *reason),
            Event::Undecodable { key, revision, .. } => Self::Undecodable(key.clone(), *revision),
            Event::Ready => Self::Ready,
            Event::Resync => Self::Resync,
            Event::Lagging { .. } => Self::Lagging,
            _ => panic!("an event that the tests do not know"),
        }
    }
}

/// Returns the next item of a stream that must have one.
pub(crate) async fn soon<S: futures::Stream + Unpin>(stream: &mut S) -> S::Item {
    let next = tokio::time::timeout(SOON, stream.next()).await;
    next.expect("the stream yields in time").expect("the stream continues")
}

/// Returns the next event in a comparable form.
pub(crate) async fn reported<T: KvModel>(events: &mut Events<T>) -> Observed {
    Observed::of(&soon(events).await.expect("an event"))
}

/// Returns the events before `Ready`.
pub(crate) async fn listing<T: KvModel>(events: &mut Events<T>) -> Vec<Observed> {
    let mut before = Vec::new();
    loop {
        match reported(events).await {
            Observed::Ready => return before,
            other => before.push(other),
        }
    }
}
