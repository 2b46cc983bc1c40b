//! The store: a connection to the buckets of one server, cluster or process.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::memory::MemoryBackend;
#[cfg(feature = "nats")]
use crate::backend::nats::{NatsBackend, NatsOptions};
use crate::backend::{Backend, Deadline};
use crate::bucket::{CopyTarget, CounterBucket, OpenBucket, OpenRawBucket};
use crate::config::BucketConfig;
use crate::error::Result;
use crate::model::KvModel;
use crate::shutdown::ShutdownSignal;

/// A handle to the buckets of this process's memory, of a NATS server or of a cluster. Cheap to clone.
///
/// The same program runs on each of them. Only the URL differs.
///
/// ```
/// use kvtyped::prelude::*;
///
/// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
/// #[kv(bucket = "config", key = "app")]
/// struct AppConfig { limit: u32 }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), kvtyped::Error> {
/// let url = std::env::var("KVTYPED_URL").unwrap_or_else(|_| "memory:".into());
/// # let url = "memory:";
/// let store = Store::connect(url).await?;
/// let configs: Bucket<AppConfig> = store.bucket().await?;
/// configs.put(&AppConfig { limit: 10 }).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Store {
    backend: Arc<dyn Backend>,
    timeout: Duration,
    closed: Arc<ShutdownSignal>,
}

impl Store {
    /// The default timeout of an operation, long enough for a cluster to elect a new leader.
    pub const TIMEOUT: Duration = Duration::from_secs(10);

    /// Creates a new store in this process's memory, with the same semantics as a server.
    pub fn memory() -> Self {
        Self::from_backend(Arc::new(MemoryBackend::new()))
    }

    /// Creates a store on an existing connection of the application. The client must be of the version of `async-nats`
    /// that this crate re-exports as [`async_nats`](crate::async_nats).
    ///
    /// ```no_run
    /// # use kvtyped::prelude::*;
    /// # async fn doc() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = kvtyped::async_nats::connect("nats://127.0.0.1:4222").await?;
    /// let store = Store::from_client(client);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The application keeps the client: [`close`](Self::close) leaves the connection open. The settings of the client
    /// decide how soon a hung server is detected, and whether a denied permission is reported at once. If the task of
    /// the client ends, every later call fails with `Closed`. A store from [`connect`](Self::connect) replaces its
    /// client instead.
    #[cfg(feature = "nats")]
    pub fn from_client(client: async_nats::Client) -> Self {
        Self::from_backend(Arc::new(NatsBackend::from_client(client)))
    }

    /// Creates a store on an existing connection, in another JetStream domain or account; see
    /// [`from_client`](Self::from_client). Of the options, only the domain, the prefix and `restricted` are used.
    ///
    /// # Errors
    ///
    /// Returns `InvalidConfig` if the domain or the prefix is invalid.
    #[cfg(feature = "nats")]
    pub fn from_client_with(client: async_nats::Client, options: NatsOptions) -> Result<Self> {
        Ok(Self::from_backend(Arc::new(NatsBackend::from_client_with(client, options)?)))
    }

    /// Creates a store on a custom backend; see [`backend`](crate::backend).
    pub fn from_backend(backend: Arc<dyn Backend>) -> Self {
        Self { backend, timeout: Self::TIMEOUT, closed: Arc::default() }
    }

    /// Returns the same store with another default timeout. The timeout bounds each operation, including its retries.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Opens the bucket of a model. Creates the bucket if it does not exist; otherwise compares it with the model.
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
    /// assert_eq!(configs.name(), "app_config");
    /// # Ok(())
    /// # }
    /// ```
    pub fn bucket<T: KvModel>(&self) -> OpenBucket<T> {
        OpenBucket::new(Arc::clone(&self.backend), self.timeout, Arc::clone(&self.closed))
    }

    /// Opens an existing bucket without its model, for a tool that reads or writes buckets of any model.
    ///
    /// Keys and bytes are verbatim. The bucket is neither created nor changed, and its settings and model cards are not
    /// compared with anything. Lists, counts, watches and caches leave out the [reserved](crate::Key::RESERVED) records
    /// of recipes, unless [`include_reserved`](crate::bucket::List::include_reserved) is set. A `get` reads any key.
    ///
    /// The view checks no model: it can write bytes that programs with a model cannot read.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # use kvtyped::{Filter, Key, RawRecord};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = Store::memory();
    /// let locks = store.locks("jobs");
    /// let guard = locks.lock("invoice-42").await?;
    ///
    /// let raw = store.raw("jobs").await?;
    /// raw.put(&RawRecord::new(Key::new("acme.7")?, "plain text")).await?;
    /// let acme = Filter::<RawRecord>::subject("acme.>")?;
    /// let keys: Vec<Key> = raw.keys(acme).await?.try_collect().await?;
    /// assert_eq!(keys, [Key::new("acme.7")?]);
    /// assert_eq!(raw.count(..).await?, 1);
    /// assert!(raw.count(..).include_reserved().await? > 1); // with the records of the lock
    /// # drop(guard);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `BucketNotFound` if the bucket does not exist, and `InvalidConfig` if the name is invalid.
    pub fn raw(&self, name: impl Into<String>) -> OpenRawBucket {
        OpenRawBucket::new(self.bucket(), name.into())
    }

    /// Returns the names of all buckets, in order. Streams without the subjects or settings of a bucket are left out.
    /// Sends one request for each stream whose name begins with `KV_`.
    ///
    /// # Errors
    ///
    /// Returns an error if the backend fails.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn buckets(&self) -> Result<Vec<String>> {
        self.open()?.names(self.deadline()).await
    }

    /// Deletes a bucket with all its records. Returns whether the bucket existed.
    ///
    /// # Errors
    ///
    /// Returns `InvalidConfig` if the name is invalid. Returns an error if the backend fails.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the bucket may or may not be deleted.
    pub async fn delete_bucket(&self, name: &str) -> Result<bool> {
        crate::config::check_bucket_name("name", name)?;
        let deleted = self.open()?.delete(name, self.deadline()).await;
        deleted.map_err(|error| error.with_context("delete_bucket", name, None))
    }

    /// Copies the store into a new file, while writers continue. The copy is consistent: it contains every write that was
    /// acknowledged before the call. Open it like any other file.
    ///
    /// A bucket of the copy skips revisions, so that no revision of the original means another record there.
    ///
    /// # Errors
    ///
    /// Returns `Unsupported` if the store is not a file, and `InvalidConfig` if the path exists or cannot be used.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the copy may or may not be made. An incomplete copy never has this path.
    pub async fn backup(&self, path: impl Into<std::path::PathBuf>) -> Result<()> {
        self.open()?.backup(path.into()).await
    }

    /// Closes the store. If [`connect`](Self::connect) created the connection, sends the pending messages and closes
    /// it. Afterwards this store, its clones and their buckets return errors of the kind `Closed`. Their watches end
    /// with that error.
    ///
    /// Release locks and leaderships first. A closed store can neither renew nor release them. They are lost at their
    /// next renewal, and become free when their TTL ends.
    ///
    /// # Errors
    ///
    /// Returns an error of the backend if the pending messages cannot be sent.
    ///
    /// # Cancel safety
    ///
    /// The store is closed as soon as the future is polled. If the future is dropped, the pending messages may or may
    /// not be sent.
    pub async fn close(&self) -> Result<()> {
        if self.closed.trigger() { self.backend.close().await } else { Ok(()) }
    }

    /// Opens the server-side counters of this name, or only those below a first segment. Returns `None` if the backend
    /// does not support counters, or if a bucket of records has the name.
    pub(crate) async fn server_counters(
        &self,
        config: BucketConfig,
        below: Option<String>,
        timeout: Option<Duration>,
    ) -> Result<Option<CounterBucket>> {
        let timeout = timeout.unwrap_or(self.timeout);
        let name = config.name.clone();
        let raw = self.open()?.counters(config, Deadline::after(timeout)).await;
        let raw = raw.map_err(|error| error.with_context("open", &name, None))?;
        Ok(raw.map(|raw| CounterBucket::new(raw, name, below, timeout, Arc::clone(&self.closed))))
    }

    /// Returns this store as the target of a copy.
    fn copy_target(&self) -> CopyTarget {
        CopyTarget::new(Arc::clone(&self.backend), self.timeout, Arc::clone(&self.closed))
    }

    fn open(&self) -> Result<&Arc<dyn Backend>> {
        self.closed.check()?;
        Ok(&self.backend)
    }

    fn deadline(&self) -> Deadline {
        Deadline::after(self.timeout)
    }
}

impl From<&Store> for CopyTarget {
    fn from(store: &Store) -> Self {
        store.copy_target()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("backend", &self.backend).field("timeout", &self.timeout).finish_non_exhaustive()
    }
}
