//! What the tests of the verbs share: stores of both kinds, buckets with names of their own, models.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use kvtyped::backend::memory::MemoryBackend;
use kvtyped::prelude::*;
use kvtyped::{Events, Lease, OpenBucket};

#[path = "sentinels.rs"]
pub(crate) mod sentinels;

/// Turns each function into a test on memory and a test on a real server.
///
/// The function gets a [`World`]: a store, and names for buckets that nobody else uses. What all of them need of a server
/// stands before them; see [`needs`](crate::needs).
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

/// The tests of [`on_both_backends`] on a server, which may need something of it.
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

/// The oldest server that the library works with.
pub(crate) const OLD: &str = "2.10.26";

/// A store, and a way to name buckets in it.
pub(crate) struct World {
    pub(crate) store: Store,
    place: Place,
}

/// Where the buckets of a world are.
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

    /// The world of a store that was connected in some other way.
    pub(crate) fn of(store: Store, url: &str) -> Self {
        Self { store, place: Place::Url(url.to_owned()) }
    }

    /// Whether it is one of a server's, which may be old.
    pub(crate) fn is_on_a_server(&self) -> bool {
        matches!(self.place, Place::Url(_))
    }

    /// Another store with the same buckets, as another process has it. Closed, it is as good as dead: nothing that it holds
    /// is renewed or given back any more.
    pub(crate) async fn another(&self) -> Store {
        match &self.place {
            Place::Memory(memory) => Store::from_backend(Arc::clone(memory) as _),
            Place::Url(url) => Self::at(url).await.store,
        }
    }

    /// The builder of a bucket that no other test has.
    pub(crate) fn fresh<T: KvModel>(&self) -> OpenBucket<T> {
        self.store.bucket().name(unique(&T::settings().name))
    }

    /// A bucket that no other test has.
    pub(crate) async fn bucket<T: KvModel>(&self) -> Bucket<T> {
        self.fresh().await.expect("the bucket opens")
    }
}

/// A name that is given once in this process; the server is this process's own.
pub(crate) fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{name}_{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// One revision is kept: single records may have a TTL.
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

/// Ten revisions are kept.
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

/// Whatever bytes are stored, under the keys of [`Session`].
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

/// Whatever is stored where a recipe has its own.
#[derive(Clone, Debug, PartialEq, KvModel)]
#[kv(key = "=kvtyped.{recipe}.{name}.{part}", codec = Text, history = 1)]
pub(crate) struct Junk {
    pub(crate) recipe: String,
    pub(crate) name: String,
    pub(crate) part: String,
    #[kv(value)]
    pub(crate) text: String,
}

impl Junk {
    pub(crate) fn new(recipe: &str, name: &str, part: &str, text: &str) -> Self {
        Self { recipe: recipe.into(), name: name.into(), part: part.into(), text: text.into() }
    }
}

/// The same bucket, seen through another model.
pub(crate) async fn seen_as<T: KvModel>(world: &World, name: &str) -> Bucket<T> {
    world.store.bucket().name(name).must_exist().on_drift(Drift::Adopt).await.expect("the bucket is there")
}

/// What happens under a lock: never two at once, by guards that say they are valid; fences grow.
#[derive(Default)]
pub(crate) struct Room {
    inside: AtomicU32,
    pub(crate) visits: AtomicU32,
    last_fence: AtomicU64,
}

impl Room {
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

/// How long anything that must come may take, on a machine that is busy.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// How late an operation may end. A tenth of a second is the promise; the rest is for a machine of two cores that runs
/// other tests, and servers, meanwhile.
pub(crate) const LATE: Duration = Duration::from_millis(300);

/// Awaits an operation that has to end within its time.
pub(crate) async fn in_time<O: IntoFuture>(what: &str, time: Duration, operation: O) -> O::Output {
    let start = tokio::time::Instant::now();
    let output = operation.into_future().await;
    let took = start.elapsed();
    assert!(took <= time + LATE, "{what} took {took:?} of {time:?}");
    output
}

/// Drops a future after so many polls, wherever it is by then, or when it is done.
pub(crate) async fn dropped_after<F: IntoFuture>(future: F, polls: u32) {
    let mut future = std::pin::pin!(future.into_future());
    for _ in 0..polls {
        if futures::poll!(&mut future).is_ready() {
            break;
        }
        tokio::task::yield_now().await;
    }
}

/// What an event says, to be compared.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Told {
    Put(String, Revision),
    Touched(String, Revision),
    Removed(String, Revision, Removed),
    Undecodable(String, Revision),
    Ready,
    Resync,
    Lagging,
}

impl Told {
    pub(crate) fn of<T: KvModel>(event: &Event<T>) -> Self {
        match event {
            Event::Put(entry) => Self::Put(entry.key().to_string(), entry.revision()),
            Event::Touched { key, revision, .. } => Self::Touched(key.to_string(), *revision),
            Event::Removed { key, revision, reason } => Self::Removed(key.to_string(), *revision, *reason),
            Event::Undecodable { key, revision, .. } => Self::Undecodable(key.clone(), *revision),
            Event::Ready => Self::Ready,
            Event::Resync => Self::Resync,
            Event::Lagging { .. } => Self::Lagging,
            _ => panic!("an event that the tests do not know"),
        }
    }
}

/// The next item of a stream that must have one.
pub(crate) async fn soon<S: futures::Stream + Unpin>(stream: &mut S) -> S::Item {
    let next = tokio::time::timeout(SOON, stream.next()).await;
    next.expect("it comes soon").expect("the stream goes on")
}

/// What the next event says.
pub(crate) async fn told<T: KvModel>(events: &mut Events<T>) -> Told {
    Told::of(&soon(events).await.expect("an event"))
}

/// What comes before `Ready`.
pub(crate) async fn listing<T: KvModel>(events: &mut Events<T>) -> Vec<Told> {
    let mut before = Vec::new();
    loop {
        match told(events).await {
            Told::Ready => return before,
            other => before.push(other),
        }
    }
}
