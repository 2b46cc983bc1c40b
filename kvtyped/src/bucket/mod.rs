//! The typed bucket and its operations.
//!
//! Most operations return a small builder, and awaiting the builder runs it. [`ReadBucket`] has the reading operations,
//! and [`Bucket`] adds the writing ones.

mod open;
mod encoded;
mod entry;
mod read;
mod get_many;
mod rows;
mod cursor;
mod list;
mod history;
mod count;
mod write;
mod remove;
mod touch;
mod modify;
mod change;
mod put_many;
mod compact;
mod cas;
mod combine;
mod draft;
mod lanes;
mod recent;
pub(crate) mod standing;
mod incarnation;
mod markers;
mod counters;
pub(crate) mod decode;

pub(crate) use self::counters::CounterBucket;

pub(crate) use self::cas::CasAttempts;
pub use self::change::{Change, ModifyError};
pub use self::compact::{Compact, Compacted};
pub use self::count::Count;
pub use self::cursor::{Cursor, ListProgress};
pub use self::entry::{Entry, Removed, Version};
pub use self::get_many::{GetMany, GetManyResults};
pub use self::history::History;
pub use self::list::{Entries, KeyStream, Keys, List};
pub use self::modify::{Modify, Transform, TryModify};
pub use self::open::{OpenBucket, OpenReadBucket};
pub use self::put_many::{DeleteMany, PutMany, WriteManyResults, WriteProgress};
pub use self::read::Get;
pub use self::remove::{Delete, Purge};
pub(crate) use self::standing::{FencePrecondition, FenceResult};
pub use self::touch::Touch;
pub use self::write::{Create, Put, Update};

pub(crate) use self::write::{check_ttl, parse_ttl};

use self::incarnation::SeenRevisions;
use self::lanes::KeyQueues;
use self::markers::Tombstones;

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::backend::{Backend, BucketStatus, Deadline, RawBucket};
use crate::closing::ShutdownSignal;
use crate::config::BucketConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::key::KeyError;
use crate::model::KvModel;

/// Makes the builder of an operation awaitable: awaiting it calls `run`.
macro_rules! verb {
    ($verb:ident => $output:ty) => {
        impl<'a, T: $crate::model::KvModel> IntoFuture for $verb<'a, T> {
            type Output = $crate::error::Result<$output>;
            type IntoFuture = futures::future::BoxFuture<'a, Self::Output>;

            fn into_future(self) -> Self::IntoFuture {
                Box::pin(self.run())
            }
        }
    };
}
use verb;

/// The options that many operations share.
macro_rules! options {
    (ttl: $($verb:ident)*) => {$(
        impl<T: $crate::model::KvModel> $verb<'_, T> {
            /// Sets the TTL of the record: at least one second, rounded up to whole seconds (ADR-43).
            ///
            /// The next `put` or `update` of the record without a TTL removes this TTL. The record then expires by the
            /// bucket's `ttl`, or never if the bucket has none. A TTL that is longer than the bucket's is refused as
            /// `InvalidConfig`, because the server would remove the record by the bucket's TTL.
            pub fn ttl(mut self, ttl: std::time::Duration) -> Self
            where
                T: $crate::model::SingleRevision,
            {
                self.ttl = Some(ttl);
                self
            }
        }
    )*};
    (fence: $($verb:ident)*) => {$(
        impl<T: $crate::model::KvModel> $verb<'_, T> {
            /// Writes only if another record is unchanged.
            pub(crate) fn with_fence(mut self, fence: $crate::bucket::FenceResult) -> Self {
                self.fence = fence;
                self
            }
        }
    )*};
    (timeout: $($verb:ident)*) => {$(
        impl<T: $crate::model::KvModel> $verb<'_, T> {
            /// Sets the total timeout. Default: the bucket's timeout.
            pub fn timeout(mut self, timeout: std::time::Duration) -> Self {
                self.timeout = Some(timeout);
                self
            }
        }
    )*};
}
use options;

/// A read-only handle to a bucket. Writing does not compile.
///
/// ```compile_fail,E0599
/// # use kvtyped::prelude::*;
/// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
/// # #[kv(key = "app")]
/// # struct AppConfig { limit: u32 }
/// # async fn doc(store: Store) -> Result<(), kvtyped::Error> {
/// let configs: ReadBucket<AppConfig> = store.bucket().read_only().await?;
/// configs.put(&AppConfig { limit: 1 }).await?; // no method named `put`
/// # Ok(())
/// # }
/// ```
pub struct ReadBucket<T> {
    inner: Arc<BucketInner>,
    model: PhantomData<fn() -> T>,
}

/// A handle to a bucket of records of the model `T`. Cheap to clone; all clones refer to the same bucket.
///
/// Dereferences to [`ReadBucket`] for the reading operations. Created by [`Store::bucket`](crate::Store::bucket).
///
/// ```
/// # use kvtyped::prelude::*;
/// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
/// # #[kv(bucket = "sessions", key = "{tenant}.{id}")]
/// # struct Session { tenant: String, id: u64, visits: u32 }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), kvtyped::Error> {
/// let sessions: Bucket<Session> = Store::memory().bucket().await?;
/// let key = SessionKey::new("acme", 7);
///
/// sessions.put(&Session { tenant: "acme".into(), id: 7, visits: 1 }).await?;
/// let entry = sessions.modify(&key, |session| session.visits += 1).await?;
/// assert_eq!(entry.visits, 2);
/// assert_eq!(sessions.get(&key).await?, Some(entry));
/// # Ok(())
/// # }
/// ```
pub struct Bucket<T> {
    read: ReadBucket<T>,
}

struct BucketInner {
    backend: Arc<dyn Backend>,
    raw: Arc<dyn RawBucket>,
    timeout: Duration,
    closed: AtomicBool,
    /// The shutdown signal of the store.
    shutdown: Arc<ShutdownSignal>,
    seen: SeenRevisions,
    key_queues: Arc<KeyQueues>,
    tombstones: Tombstones,
    shared: Extensions,
}

/// State that higher modules attach to a bucket, one value per type.
#[derive(Default)]
struct Extensions(Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>);

impl<T: KvModel> ReadBucket<T> {
    fn new(
        backend: Arc<dyn Backend>,
        raw: Arc<dyn RawBucket>,
        timeout: Duration,
        closing: Arc<ShutdownSignal>,
    ) -> Self {
        let met = SeenRevisions::new(raw.identity());
        // A bucket with more history stores every change separately.
        let lanes = Arc::new(KeyQueues::new(!matches!(raw.config().history, None | Some(1))));
        let inner = Arc::new(BucketInner {
            backend,
            raw,
            timeout,
            closed: AtomicBool::new(false),
            shutdown: closing,
            seen: met,
            key_queues: lanes,
            tombstones: Tombstones::default(),
            shared: Extensions::default(),
        });
        Self { inner, model: PhantomData }
    }

    /// Returns the name of the bucket.
    pub fn name(&self) -> &str {
        &self.config().name
    }

    /// Returns the settings of the bucket as they were when it was opened.
    pub fn config(&self) -> &BucketConfig {
        self.inner.raw.config()
    }

    /// Returns the current status of the bucket. Asks the server each time.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(bucket = "config", key = "app", history = 5)]
    /// # struct AppConfig { limit: u32 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// let configs: Bucket<AppConfig> = Store::memory().bucket().await?;
    /// configs.put(&AppConfig { limit: 1 }).await?;
    ///
    /// let status = configs.status().await?;
    /// assert_eq!((status.bucket(), status.values, status.config.history), ("config", 1, Some(5)));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `BucketNotFound` if the bucket does not exist.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn status(&self) -> Result<BucketStatus> {
        let raw = self.raw("status")?;
        raw.status(self.deadline(None)).await.map_err(|error| error.with_context("status", self.name(), None))
    }

    /// Closes this handle and its clones: later calls return errors of the kind `Closed`.
    ///
    /// Running operations complete. The bucket and the store are unaffected.
    pub fn close(&self) {
        self.inner.closed.store(true, Ordering::Release);
    }

    /// Returns the same bucket for records of another model.
    pub(crate) fn as_model<M: KvModel>(&self) -> Bucket<M> {
        Bucket { read: ReadBucket { inner: Arc::clone(&self.inner), model: PhantomData } }
    }

    /// Returns the state of type `S` that a higher module attached to this bucket. All clones of the handle share it.
    pub(crate) fn shared<S: Default + Send + Sync + 'static>(&self) -> Arc<S> {
        let mut shared = self.inner.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_type = shared.entry(TypeId::of::<S>()).or_insert_with(|| Arc::new(S::default()));
        Arc::clone(of_type).downcast().unwrap_or_default()
    }

    /// Returns the shutdown signal of the store.
    pub(crate) fn shutdown(&self) -> Arc<ShutdownSignal> {
        Arc::clone(&self.inner.shutdown)
    }

    pub(crate) fn raw(&self, operation: &'static str) -> Result<&Arc<dyn RawBucket>> {
        if self.inner.closed.load(Ordering::Acquire) || self.inner.shutdown.is_triggered() {
            return Err(Error::new(ErrorKind::Closed).with_context(operation, self.name(), None));
        }
        Ok(&self.inner.raw)
    }

    fn bad_key(&self, operation: &'static str, error: KeyError) -> Error {
        Error::from(error).of_model::<T>().with_context(operation, self.name(), None)
    }

    /// Returns the default timeout of an operation.
    pub(crate) fn timeout(&self) -> Duration {
        self.inner.timeout
    }

    pub(crate) fn deadline(&self, timeout: Option<Duration>) -> Deadline {
        Deadline::after(timeout.unwrap_or(self.inner.timeout))
    }
}

impl<T: KvModel> Bucket<T> {
    /// Returns a read-only handle to the same bucket.
    pub fn read_only(&self) -> ReadBucket<T> {
        self.read.clone()
    }

    /// Deletes the bucket with all its records, for all clients.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "app")]
    /// # struct AppConfig { limit: u32 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// let store = Store::memory();
    /// let configs: Bucket<AppConfig> = store.bucket().await?;
    /// configs.destroy().await?;
    /// assert!(store.buckets().await?.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `BucketNotFound` if the bucket does not exist.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the bucket may or may not be deleted.
    pub async fn destroy(self) -> Result<()> {
        self.raw("destroy")?;
        let there = self.inner.backend.delete(self.name(), self.deadline(None)).await;
        self.close();
        match there {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::new(ErrorKind::BucketNotFound)),
            Err(error) => Err(error),
        }
        .map_err(|error| error.with_context("destroy", self.name(), None))
    }
}

impl<T> Deref for Bucket<T> {
    type Target = ReadBucket<T>;

    fn deref(&self) -> &ReadBucket<T> {
        &self.read
    }
}

impl<T: KvModel> From<Bucket<T>> for ReadBucket<T> {
    fn from(bucket: Bucket<T>) -> Self {
        bucket.read
    }
}

impl<T> Clone for ReadBucket<T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), model: PhantomData }
    }
}

impl<T> Clone for Bucket<T> {
    fn clone(&self) -> Self {
        Self { read: self.read.clone() }
    }
}

impl<T> fmt::Debug for ReadBucket<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadBucket<{}>({:?})", std::any::type_name::<T>(), self.inner.raw.config().name)
    }
}

impl<T> fmt::Debug for Bucket<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bucket<{}>({:?})", std::any::type_name::<T>(), self.inner.raw.config().name)
    }
}
