//! The store: a connection to the buckets of one server, cluster or process.

mod info;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

pub use self::info::{StoreHealth, StoreInfo};
use crate::backend::memory::MemoryBackend;
#[cfg(feature = "nats")]
use crate::backend::nats::{NatsBackend, NatsOptions};
use crate::backend::{AccountUsage, Backend, ConnectionState, Deadline};
use crate::bucket::{CopyTarget, CounterBucket, OpenBucket, OpenRawBucket};
use crate::config::BucketConfig;
use crate::context::StoreContext;
use crate::error::{ErrorKind, Result};
use crate::model::KvModel;
use crate::observe::{Instruments, Observer, Origin, StoreEvent, report_event};

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
    context: Arc<StoreContext>,
}

impl Store {
    /// The default timeout of an operation, long enough for a cluster to elect a new leader.
    pub const TIMEOUT: Duration = Duration::from_secs(10);

    /// Creates a new store in this process's memory, with the same semantics as a server.
    pub fn memory() -> Self {
        Self::of_system(Arc::new(MemoryBackend::new()), "memory")
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
        Self::of_system(Arc::new(NatsBackend::from_client(client)), "nats")
    }

    /// Creates a store on an existing connection, in another JetStream domain or account; see
    /// [`from_client`](Self::from_client). Of the options, only the domain, the prefix and `restricted` are used.
    ///
    /// # Errors
    ///
    /// Returns `InvalidConfig` if the domain or the prefix is invalid.
    #[cfg(feature = "nats")]
    pub fn from_client_with(client: async_nats::Client, options: NatsOptions) -> Result<Self> {
        Ok(Self::of_system(Arc::new(NatsBackend::from_client_with(client, options)?), "nats"))
    }

    /// Creates a store on a custom backend; see [`backend`](crate::backend).
    pub fn from_backend(backend: Arc<dyn Backend>) -> Self {
        Self::of_system(backend, "custom")
    }

    /// Creates a store on a backend of this kind.
    pub(crate) fn of_system(backend: Arc<dyn Backend>, system: &'static str) -> Self {
        let connection = backend.connection();
        let server = connection.borrow().server.as_ref().map(|server| (server.host.clone(), server.port));
        let namespace = backend.domain().map(str::to_owned);
        let origin = Origin { system, namespace, server, connection: Some(connection) };
        let context = StoreContext::default().instrumented(|_| Instruments::new(origin));
        Self { backend, timeout: Self::TIMEOUT, context: Arc::new(context) }
    }

    /// Returns the same store with an observer, which receives a report of each operation and the events of background
    /// work. The other handles of the store are unchanged. See [`observe`](crate::observe).
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// use std::sync::Arc;
    /// use kvtyped::observe::{Observer, OperationReport};
    ///
    /// struct Print;
    ///
    /// impl Observer for Print {
    ///     fn operation(&self, report: &OperationReport<'_>) {
    ///         println!("{} took {:?}", report.operation, report.duration);
    ///     }
    /// }
    ///
    /// let store = Store::memory().with_observer(Arc::new(Print));
    /// ```
    #[must_use]
    pub fn with_observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.report_connection(&observer);
        self.context = Arc::new(self.context.as_ref().clone().instrumented(|old| old.with_observer(observer)));
        self
    }

    /// Returns the same store with the keys of records in its spans. By default, spans contain no keys.
    #[must_use]
    pub fn with_traced_keys(mut self, on: bool) -> Self {
        self.context = Arc::new(self.context.as_ref().clone().instrumented(|old| old.trace_keys(on)));
        self
    }

    /// Reports the loss of the connection and its return to the observer.
    fn report_connection(&self, observer: &Arc<dyn Observer>) {
        let (mut connection, observer) = (self.connection(), Arc::downgrade(observer));
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            let mut lost_at = None;
            while connection.changed().await.is_ok() {
                let Some(observer) = observer.upgrade() else { return };
                let state = connection.borrow_and_update().clone();
                match (state.connected, lost_at.take()) {
                    (true, Some(lost)) => {
                        let outage = state.since.saturating_duration_since(lost);
                        report_event(&*observer, &StoreEvent::Reconnected { outage });
                    }
                    (false, lost) => {
                        lost_at = Some(lost.unwrap_or(state.since));
                        report_event(&*observer, &StoreEvent::Disconnected);
                    }
                    (true, None) => {}
                }
            }
        });
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
        OpenBucket::new(Arc::clone(&self.backend), self.timeout, Arc::clone(&self.context))
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
        let names = async { self.open()?.names(self.deadline()).await };
        self.context.observe("buckets", "", Box::pin(names)).await
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
        let delete = async {
            let deleted = self.open()?.delete(name, self.deadline()).await;
            deleted.map_err(|error| error.with_context("delete_bucket", name, None))
        };
        self.context.observe("delete_bucket", name, Box::pin(delete)).await
    }

    /// Copies the store into a new file, while writers continue. The copy is consistent: it contains every write that
    /// was acknowledged before the call. Open it like any other file.
    ///
    /// A bucket of the copy skips revisions, so that no revision of the original means another record there.
    ///
    /// # Errors
    ///
    /// Returns `Unsupported` if the store is not in a file, and `InvalidConfig` if the path exists or cannot be used.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the copy may or may not be made. An incomplete copy never has this path.
    pub async fn backup(&self, path: impl Into<std::path::PathBuf>) -> Result<()> {
        let path = path.into();
        let backup = async { self.open()?.backup(path).await };
        self.context.observe("backup", "", Box::pin(backup)).await
    }

    /// Closes the store. If [`connect`](Self::connect) created the connection, sends the pending messages and closes
    /// it. Afterwards this store, its clones and their buckets return errors of the kind `Closed`. Their watches end
    /// with that error.
    ///
    /// A closed store can neither renew nor release locks and leaderships. Their guards report `Lost`, and they become
    /// free when their TTL ends. [`shutdown`](Self::shutdown) releases them first.
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
        self.context.observe("close", "", Box::pin(self.run_close())).await
    }

    async fn run_close(&self) -> Result<()> {
        if self.context.shutdown().trigger() { self.backend.close().await } else { Ok(()) }
    }

    /// Shuts the store down: refuses new operations, releases every lease, ends watches and caches, and then closes the
    /// store as [`close`](Self::close) does. Call it when the process is asked to end, so that its locks are free at
    /// once instead of after their TTL.
    ///
    /// New operations, and waits for a lock or another lease, end with `Closed`. Operations that already run continue;
    /// finish your requests first. Every lease of this store and its clones is released: locks, leaderships, permits,
    /// memberships, running work of `once`, and jobs of maintenance. Their guards then report `Lost`.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// let store = Store::connect("memory:shutdown-example").await?;
    /// let other = Store::connect("memory:shutdown-example").await?;
    /// let guard = store.locks("jobs").lock("nightly").await?;
    ///
    /// store.shutdown(Duration::from_secs(5)).await?;
    /// assert!(!guard.is_held());
    /// assert!(other.locks("jobs").try_lock("nightly").await?.is_some());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `Timeout` if a lease is not released within `grace`. That lease becomes free after its TTL. Returns an
    /// error of the backend if the pending messages cannot be sent. The store is closed in both cases.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the releases continue in the background, and the store refuses new operations but is
    /// not closed. Call [`close`](Self::close) then.
    pub async fn shutdown(&self, grace: Duration) -> Result<()> {
        let shutdown = async {
            self.context.shutdown().drain();
            let released = self.context.shutdown().released(grace).await;
            let closed = self.run_close().await;
            released.and(closed)
        };
        self.context.observe("shutdown", "", Box::pin(shutdown)).await
    }

    /// Measures a round trip to the server. Needs no permission for JetStream.
    ///
    /// The message goes to an inbox of this connection. A user who may not publish there also gets a result,
    /// because the server answers with the denial. With [`from_client`](Self::from_client), such a user gets a `Timeout`.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// let round_trip = Store::memory().ping().await?;
    /// assert!(round_trip < Duration::from_secs(1));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `Unavailable` if there is no connection, and `Timeout` if the server does not answer.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn ping(&self) -> Result<Duration> {
        let ping = async { self.open()?.ping(self.deadline()).await };
        self.context.observe("ping", "", Box::pin(ping)).await
    }

    /// Returns the server of the store, and the capabilities of the backend.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// let info = Store::memory().info().await?;
    /// assert!(info.capabilities.key_ttl && info.server.is_none());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if the server does not answer. The capabilities need the permission to publish to
    /// `$JS.API.INFO`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn info(&self) -> Result<StoreInfo> {
        let info = async {
            let capabilities = self.open()?.capabilities(self.deadline()).await?;
            Ok(StoreInfo { server: self.connection().borrow().server.clone(), capabilities })
        };
        self.context.observe("info", "", Box::pin(info)).await
    }

    /// Returns the JetStream usage and limits of the account: one item, or one for each tier. Returns no item without a
    /// server.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// for account in Store::memory().account().await? {
    ///     let left = account.file.limit.map(|limit| limit.saturating_sub(account.file.used));
    ///     println!("{left:?} bytes of files are left");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if the server does not answer. The request needs the permission to publish to
    /// `$JS.API.INFO`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn account(&self) -> Result<Vec<AccountUsage>> {
        let account = async { self.open()?.account(self.deadline()).await };
        self.context.observe("account", "", Box::pin(account)).await
    }

    /// Returns the state of the connection and its changes, as a channel of the latest state. Performs no I/O.
    ///
    /// On a connection of [`connect`](Self::connect), the client reports a change at once. Over a client of the
    /// application, a change is visible after 100 ms. A hung server is detected after three missed pings.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// let connection = Store::memory().connection();
    /// assert!(connection.borrow().connected);
    /// ```
    pub fn connection(&self) -> watch::Receiver<ConnectionState> {
        self.backend.connection()
    }

    /// Returns the health of the connection: its state, and the time of a round trip. Needs no permission for
    /// JetStream.
    ///
    /// Use the health to decide whether the process is *ready* for requests. Do not use it for *liveness*: an outage of
    /// the server must not restart every process. [`ReadBucket::health`](crate::ReadBucket::health) checks one bucket.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// let health = Store::memory().health().await?;
    /// assert!(health.is_healthy());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `Closed` if the store is closed. A server that does not answer within the store's timeout is a result,
    /// not an error.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn health(&self) -> Result<StoreHealth> {
        let health = async {
            self.context.shutdown().check()?;
            let connection = self.connection().borrow().clone();
            let round_trip = match connection.connected {
                true => match self.backend.ping(self.deadline()).await {
                    Ok(round_trip) => Some(round_trip),
                    Err(error) if matches!(error.kind(), ErrorKind::Closed) => return Err(error),
                    Err(_) => None,
                },
                false => None,
            };
            Ok(StoreHealth { connection, round_trip })
        };
        self.context.observe("health", "", Box::pin(health)).await
    }

    /// Refuses operations after an outage of this length; see
    /// [`Connect::fail_fast_after`](crate::connect::Connect::fail_fast_after).
    pub(crate) fn fail_fast_after(mut self, outage: Duration) -> Self {
        let context = StoreContext::clone(&self.context);
        self.context = Arc::new(context.fail_fast(outage, self.connection()));
        self
    }

    /// Returns the state that everything opened by this store shares.
    pub(crate) fn context(&self) -> &Arc<StoreContext> {
        &self.context
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
        Ok(raw.map(|raw| CounterBucket::new(raw, name, below, timeout, Arc::clone(&self.context))))
    }

    /// Returns this store as the target of a copy.
    fn copy_target(&self) -> CopyTarget {
        CopyTarget::new(Arc::clone(&self.backend), self.timeout, Arc::clone(&self.context))
    }

    fn open(&self) -> Result<&Arc<dyn Backend>> {
        self.context.admit()?;
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
