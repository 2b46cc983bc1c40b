//! Shared helpers: stores of both kinds, and buckets with unique names.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use kvtyped::backend::memory::MemoryBackend;
use kvtyped::integrations::tower_sessions_0_15::SessionRecord;
use kvtyped::prelude::*;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// The time limit of an event that happens soon.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The server version that the integrations need, for the TTL of single records.
const NEEDED: [u64; 3] = [2, 11, 0];

/// Turns each function into a test on memory and a test on a real server.
macro_rules! on_both_backends {
    ($($(#[$attribute:meta])* async fn $name:ident($world:ident: World) $body:block)*) => {
        $($(#[$attribute])* async fn $name($world: $crate::support::World) $body)*

        mod on_memory {
            $(#[tokio::test] async fn $name() { super::$name($crate::support::World::memory()).await; })*
        }

        mod on_nats {
            $(#[tokio::test] async fn $name() {
                if $crate::support::is_supported().await {
                    super::$name($crate::support::World::nats().await).await;
                }
            })*
        }
    };
}
pub(crate) use on_both_backends;

/// Returns whether the server has the TTL of single records. Otherwise checks that the library reports it.
pub(crate) async fn is_supported() -> bool {
    if harness::binary::version() >= NEEDED {
        return true;
    }
    let world = World::nats().await;
    let error = world.sessions().await.expect_err("the server is too old");
    assert!(matches!(error.kind(), kvtyped::ErrorKind::Unsupported { .. }), "{error}");
    println!("unsupported: RecordTtl: {error}");
    false
}

/// A store that several simulated processes share.
pub(crate) struct World {
    pub(crate) store: Store,
    place: Place,
}

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
        let store = Store::connect(url).await.expect("the server is there");
        Self { store, place: Place::Url(url.to_owned()) }
    }

    /// Returns the store of another process.
    pub(crate) async fn another(&self) -> Store {
        match &self.place {
            Place::Memory(memory) => Store::from_backend(Arc::clone(memory) as _),
            Place::Url(url) => Store::connect(url).await.expect("the server is there"),
        }
    }

    /// Opens a new bucket for sessions.
    pub(crate) async fn sessions(&self) -> kvtyped::Result<Bucket<SessionRecord>> {
        self.store.bucket().name(unique("sessions")).await
    }
}

/// Returns a name that is unique in this process. The server belongs to this process.
pub(crate) fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{name}_{}", NEXT.fetch_add(1, Ordering::Relaxed))
}
