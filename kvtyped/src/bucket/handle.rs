//! The handles to a bucket and the state that their clones share.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::Instant;

use super::clock::BucketClock;
use super::content::Target;
use super::index::known::KnownValues;
use super::modify::key_queue::KeyQueues;
use super::precondition::{FencePrecondition, FenceResult};
use super::schema_state::{BucketSchema, SchemaState};
use super::seen::SeenRevisions;
use super::tombstones::Tombstones;
use crate::backend::{Backend, Batch, BucketStatus, Deadline, Precondition, RawBucket};
use crate::config::BucketConfig;
use crate::context::StoreContext;
use crate::error::{Error, ErrorKind, Result, is_of_recipe};
use crate::key::{Key, KeyCodec, KeyError};
use crate::model::KvModel;
use crate::observe::Failure;
use crate::revision::Revision;

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
    pub(super) inner: Arc<BucketInner>,
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
    pub(super) read: ReadBucket<T>,
}

pub(super) struct BucketInner {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) raw: Arc<dyn RawBucket>,
    pub(super) key_codec: KeyCodec,
    pub(super) timeout: Duration,
    pub(super) closed: AtomicBool,
    pub(super) context: Arc<StoreContext>,
    /// Whether the keys of the records are secrets.
    pub(super) hides_keys: bool,
    pub(super) schema: SchemaState,
    pub(super) clock: Arc<BucketClock>,
    pub(super) seen: SeenRevisions,
    pub(super) key_queues: Arc<KeyQueues>,
    pub(super) tombstones: Tombstones,
    pub(super) known_values: KnownValues,
    pub(super) shared: Extensions,
}

/// State that higher modules attach to a bucket, one value per type.
#[derive(Default)]
pub(super) struct Extensions(Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>);

impl<T: KvModel> ReadBucket<T> {
    pub(super) fn new(
        backend: Arc<dyn Backend>,
        raw: Arc<dyn RawBucket>,
        key_codec: KeyCodec,
        timeout: Duration,
        context: Arc<StoreContext>,
    ) -> Self {
        let seen = SeenRevisions::new(raw.identity());
        // A bucket with more history stores every change separately.
        let key_queues = Arc::new(KeyQueues::new(!matches!(raw.config().history, None | Some(1))));
        let schema = SchemaState::new(raw.config());
        let clock = Arc::new(BucketClock::new(&*raw));
        let inner = Arc::new(BucketInner {
            backend,
            raw,
            key_codec,
            schema,
            clock,
            timeout,
            closed: AtomicBool::new(false),
            context,
            hides_keys: T::SENSITIVE_KEY,
            seen,
            key_queues,
            tombstones: Tombstones::default(),
            known_values: KnownValues::default(),
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
        self.observe("status", Box::pin(self.status_for("status"))).await
    }

    /// Returns the current status, for a part of another operation.
    pub(crate) async fn status_for(&self, operation: &'static str) -> Result<BucketStatus> {
        let raw = self.raw(operation)?;
        let status = raw.status(self.deadline(None)).await;
        let status = status.map_err(|error| error.with_context(operation, self.name(), None))?;
        self.inner.clock.set(status.now, Instant::now());
        Ok(status)
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

    /// Returns a precondition on this revision of a record.
    pub(crate) fn fence_precondition(&self, key: Key, revision: Revision) -> FencePrecondition {
        FencePrecondition::new(&*self.inner.raw, key, revision)
    }

    /// Returns the precondition of a builder for a write in this bucket.
    pub(crate) fn resolve_fence(&self, fence: FenceResult) -> Result<Option<Precondition>> {
        fence.transpose()?.map(|fence| fence.into_precondition(&*self.inner.raw)).transpose()
    }

    /// Sends a batch in the current write epoch.
    pub(crate) async fn commit_batch(
        &self,
        batch: Batch,
        targets: &[Target],
        deadline: Deadline,
    ) -> Result<Vec<Revision>> {
        self.inner.commit(batch, targets, deadline).await
    }

    /// Returns the schema versions that the bucket takes, as last read.
    pub(crate) fn schema(&self) -> Arc<BucketSchema> {
        self.inner.schema.load()
    }

    /// Reads the server's clock if the last reading is old. Without a new reading, the estimate continues.
    pub(crate) async fn refresh_clock(&self) {
        if self.inner.clock.is_due() {
            let _ = self.status_for("status").await;
        }
    }

    /// Returns the name that the program gave its connection, if any.
    pub(crate) fn connection_name(&self) -> Option<&str> {
        self.inner.backend.connection_name()
    }

    /// Returns the server's clock.
    pub(crate) fn clock(&self) -> &Arc<BucketClock> {
        &self.inner.clock
    }

    /// Whether the store is connected. Performs no I/O.
    pub(crate) fn is_connected(&self) -> bool {
        self.inner.backend.connection().borrow().connected
    }

    /// Observes an operation on this bucket. The records of recipes are not observed: the recipes are.
    #[inline]
    pub(crate) fn observe<'a, O: 'a, E: Failure + 'a>(
        &'a self,
        operation: &'static str,
        work: BoxFuture<'a, Result<O, E>>,
    ) -> BoxFuture<'a, Result<O, E>> {
        if is_of_recipe::<T>() {
            return work;
        }
        let work = match T::SENSITIVE_KEY {
            true => Box::pin(async { work.await.map_err(Failure::hide_key) }),
            false => work,
        };
        self.inner.context.observe(operation, self.name(), work)
    }

    /// Whether the keys of the records are secrets.
    pub(crate) fn hides_keys(&self) -> bool {
        self.inner.hides_keys
    }

    /// Records the key of the current operation in its span, if the store traces keys.
    pub(crate) fn note_key(&self, key: &Key) {
        self.inner.note_key(key);
    }

    /// Returns the context of the store.
    pub(crate) fn context(&self) -> &Arc<StoreContext> {
        &self.inner.context
    }

    pub(crate) fn raw(&self, operation: &'static str) -> Result<&Arc<dyn RawBucket>> {
        let admitted = match self.inner.closed.load(Ordering::Acquire) {
            true => Err(Error::new(ErrorKind::Closed)),
            false if is_of_recipe::<T>() => self.inner.context.admit_recipe(),
            false => self.inner.context.admit(),
        };
        match admitted {
            Ok(()) => Ok(&self.inner.raw),
            Err(error) => Err(error.with_context(operation, self.name(), None)),
        }
    }

    pub(crate) fn bad_key(&self, operation: &'static str, error: KeyError) -> Error {
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
    /// Only the bucket that this handle was opened on is deleted, and not another one that has its name now. To delete
    /// a bucket by its name, use [`Store::delete_bucket`](crate::Store::delete_bucket). All handles to this bucket are
    /// closed, and later calls return `Closed`.
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
    /// Returns `BucketNotFound` if the bucket does not exist. Returns `BucketReplaced` if it was deleted and created
    /// again since this handle was opened.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the bucket may or may not be deleted.
    pub async fn destroy(self) -> Result<()> {
        let destroy = async {
            self.raw("destroy")?;
            let deleted = self.delete_same(self.deadline(None)).await;
            self.close();
            deleted.map_err(|error| error.with_context("destroy", self.name(), None))
        };
        self.observe("destroy", Box::pin(destroy)).await
    }

    /// Deletes the bucket if it is the one that was opened. The server has no conditional delete, so a bucket that is
    /// replaced between the check and the request is deleted.
    async fn delete_same(&self, deadline: Deadline) -> Result<()> {
        self.fetch_identity(deadline).await?;
        match self.inner.backend.delete(self.name(), deadline).await? {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::BucketNotFound)),
        }
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
