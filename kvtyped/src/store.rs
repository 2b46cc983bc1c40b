//! The store: a connection to the buckets of one server, cluster or process.

use std::collections::HashMap;
use std::fmt;
use std::future::IntoFuture;
#[cfg(feature = "nats")]
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures::future::BoxFuture;

use crate::backend::memory::MemoryBackend;
#[cfg(feature = "nats")]
use crate::backend::nats::{NatsBackend, NatsOptions};
use crate::backend::{Backend, Deadline};
use crate::bucket::{CounterBucket, OpenBucket};
use crate::config::BucketConfig;
use crate::error::{Error, Result};
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

    /// Opens the store at a URL.
    ///
    /// | URL | store |
    /// |---|---|
    /// | `memory:` | a new store in this process |
    /// | `memory:name` | the store of this name in this process, which exists while any handle to it exists |
    /// | `nats://host:4222`, `nats://a:4222,nats://b:4222` | a NATS server, or a cluster with several of its servers |
    /// | `tls://host:4222` | the same with TLS |
    /// | `nats://host?domain=hub`, `nats://host?prefix=$JS.hub.API` | another JetStream domain or account |
    ///
    /// Set credentials and encryption in the URL or on the builder. The URL takes precedence.
    ///
    /// | URL | builder | meaning |
    /// |---|---|---|
    /// | `nats://user:password@host` | [`user_and_password`](Connect::user_and_password) | a user and a password, percent-encoded in a URL |
    /// | `nats://token@host` | [`token`](Connect::token) | a token, percent-encoded in a URL |
    /// | `nats://host?nkey=/path/user.nk` | [`nkey`](Connect::nkey) (the seed), [`nkey_file`](Connect::nkey_file) | an nkey, with the feature `nkeys` |
    /// | `nats://host?creds=/path/user.creds` | [`credentials`](Connect::credentials) (the text), [`credentials_file`](Connect::credentials_file) | a JSON Web Token and its key, with the feature `nkeys` |
    /// | `tls://host` | [`NatsOptions::require_tls`] | requires encryption; trusts the CA certificates of the system |
    /// | `tls://host?ca=/path/ca.pem` | [`root_certificates`](Connect::root_certificates) | the same, but trusts these CA certificates instead |
    /// | `tls://host?cert=/path/cert.pem&key=/path/key.pem` | [`client_certificate`](Connect::client_certificate) | the same, with a client certificate (mutual TLS) |
    /// | `tls://host?tls_first=true` | [`tls_first`](Connect::tls_first) | starts TLS before the first message of the server (`handshake_first`) |
    /// | `tls://host?trust_discovered_servers=true` | [`NatsOptions::trust_discovered_servers`] | also uses servers that a server names before the encryption begins |
    /// | `nats://host?inbox=_INBOX_app` | [`NatsOptions::inbox_prefix`] | receives replies under this prefix |
    /// | `nats://host?restricted=true` | [`NatsOptions::restricted`] | for a user who may read only some keys |
    ///
    /// Files are read for every new connection, so a replaced file takes effect with the next one. No `Debug` output,
    /// error or log of this crate contains secrets. Build a URL with a secret from the environment instead of writing
    /// it into the program. With `nats://` alone, a server may request encryption, but an attacker on the network can
    /// suppress the request: use `tls://`. [`permissions`](crate::permissions) lists the permissions of each role.
    ///
    /// # Errors
    ///
    /// Returns `InvalidConfig` if the URL is of another kind, or if a file cannot be read or is invalid. Returns
    /// `Unauthorized`, `Tls`, `Unavailable` or `Timeout` if no server accepts the connection.
    pub fn connect(url: impl Into<String>) -> Connect {
        Connect {
            url: url.into(),
            timeout: Self::TIMEOUT,
            #[cfg(feature = "nats")]
            options: NatsOptions::default(),
            #[cfg(feature = "nats")]
            client: None,
        }
    }

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

    fn open(&self) -> Result<&Arc<dyn Backend>> {
        self.closed.check()?;
        Ok(&self.backend)
    }

    fn deadline(&self) -> Deadline {
        Deadline::after(self.timeout)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("backend", &self.backend).field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// Opens a store; see [`Store::connect`]. Its `Debug` shows no credentials.
#[must_use = "nothing is opened until it is awaited"]
pub struct Connect {
    url: String,
    timeout: Duration,
    #[cfg(feature = "nats")]
    options: NatsOptions,
    #[cfg(feature = "nats")]
    client: Option<async_nats::ConnectOptions>,
}

impl Connect {
    /// Sets how to connect to a NATS server: JetStream domain or prefix, connection name, inbox prefix, credentials,
    /// certificates. Replaces all earlier options. The URL takes precedence.
    #[cfg(feature = "nats")]
    pub fn options(mut self, options: NatsOptions) -> Self {
        self.options = options;
        self
    }

    /// Sets the options of the client itself, for settings that neither a URL nor [`NatsOptions`] supports. This crate
    /// still decides how soon a hung server is detected and how denials are reported. Credentials files are then read
    /// once, not for every connection.
    #[cfg(feature = "nats")]
    pub fn client(mut self, options: async_nats::ConnectOptions) -> Self {
        self.client = Some(options);
        self
    }

    /// Authenticates with a user and a password; see [`NatsOptions::user_and_password`].
    #[cfg(feature = "nats")]
    pub fn user_and_password(self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.with(|options| options.user_and_password(user, password))
    }

    /// Authenticates with a token; see [`NatsOptions::token`].
    #[cfg(feature = "nats")]
    pub fn token(self, token: impl Into<String>) -> Self {
        self.with(|options| options.token(token))
    }

    /// Authenticates with an nkey, given its seed; see [`NatsOptions::nkey`].
    #[cfg(feature = "nats")]
    pub fn nkey(self, seed: impl Into<String>) -> Self {
        self.with(|options| options.nkey(seed))
    }

    /// Authenticates with an nkey whose seed is in this file; see [`NatsOptions::nkey_file`].
    #[cfg(feature = "nats")]
    pub fn nkey_file(self, path: impl Into<PathBuf>) -> Self {
        self.with(|options| options.nkey_file(path))
    }

    /// Authenticates with the text of a credentials file; see [`NatsOptions::credentials`].
    #[cfg(feature = "nats")]
    pub fn credentials(self, text: impl Into<String>) -> Self {
        self.with(|options| options.credentials(text))
    }

    /// Authenticates with a credentials file (`.creds`); see [`NatsOptions::credentials_file`].
    #[cfg(feature = "nats")]
    pub fn credentials_file(self, path: impl Into<PathBuf>) -> Self {
        self.with(|options| options.credentials_file(path))
    }

    /// Trusts only the CA certificates in this file; see [`NatsOptions::root_certificates`].
    #[cfg(feature = "nats")]
    pub fn root_certificates(self, path: impl Into<PathBuf>) -> Self {
        self.with(|options| options.root_certificates(path))
    }

    /// Presents a client certificate to the server; see [`NatsOptions::client_certificate`].
    #[cfg(feature = "nats")]
    pub fn client_certificate(self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.with(|options| options.client_certificate(certificate, key))
    }

    /// Starts TLS before the first message of the server; see [`NatsOptions::tls_first`].
    #[cfg(feature = "nats")]
    pub fn tls_first(self) -> Self {
        self.with(|options| options.tls_first())
    }

    #[cfg(feature = "nats")]
    fn with(mut self, change: impl FnOnce(NatsOptions) -> NatsOptions) -> Self {
        self.options = change(self.options);
        self
    }

    /// Sets the timeout of connecting, which is also the default timeout of the store's operations. Default:
    /// [`Store::TIMEOUT`].
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    async fn run(self) -> Result<Store> {
        let Self { url, timeout, .. } = &self;
        let url = url.trim();
        let (scheme, rest) = match url.split_once(':') {
            Some((scheme, rest)) => (Some(scheme.to_ascii_lowercase()), rest),
            None => (None, url),
        };
        let backend: Arc<dyn Backend> = match (scheme.as_deref(), rest) {
            (Some("memory"), "" | "//") => Arc::new(MemoryBackend::new()),
            (Some("memory"), name) => {
                let name = name.trim_start_matches('/');
                crate::config::check_bucket_name("the name of a memory", name)?;
                shared_memory(name)
            }
            #[cfg(feature = "nats")]
            (Some("nats" | "tls"), _) => {
                let mut options = self.options.clone();
                options.connect_timeout.get_or_insert(*timeout);
                Arc::new(match self.client.clone() {
                    Some(client) => NatsBackend::connect_with(url, options, client).await?,
                    None => NatsBackend::connect(url, options).await?,
                })
            }
            #[cfg(not(feature = "nats"))]
            (Some("nats" | "tls"), _) => {
                return Err(Error::unsupported("the feature `nats` of kvtyped", "kvtyped without it"));
            }
            (None, "") => return Err(Error::invalid_config("the URL is empty")),
            // Do not show the URL: it may contain a secret.
            _ => return Err(Error::invalid_config("the URL begins with none of `memory:`, `nats://`, `tls://`")),
        };
        Ok(Store::from_backend(backend).with_timeout(*timeout))
    }
}

impl IntoFuture for Connect {
    type Output = Result<Store>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// Returns the in-memory backend of this name, which all stores of the process with the same URL share.
fn shared_memory(name: &str) -> Arc<dyn Backend> {
    static SHARED: LazyLock<Mutex<HashMap<String, Weak<MemoryBackend>>>> = LazyLock::new(Mutex::default);
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(backend) = shared.get(name).and_then(Weak::upgrade) {
        return backend;
    }
    let backend = Arc::new(MemoryBackend::new());
    shared.retain(|_, other| other.strong_count() > 0);
    shared.insert(name.to_owned(), Arc::downgrade(&backend));
    backend
}
