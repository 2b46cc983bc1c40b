//! Where buckets are: the first thing that a program makes.

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
use crate::closing::Closing;
use crate::config::BucketConfig;
use crate::error::{Error, Result};
use crate::model::KvModel;

/// A place that holds buckets: this process's memory, a NATS server, a cluster. Cheap to clone.
///
/// The same program runs on each; only the URL differs.
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
    closed: Arc<Closing>,
}

impl Store {
    /// How long an operation may take unless it, or the store, is told otherwise: long enough for a cluster to elect a
    /// new leader meanwhile.
    pub const TIMEOUT: Duration = Duration::from_secs(10);

    /// Opens the store at a URL.
    ///
    /// | URL | store |
    /// |---|---|
    /// | `memory:` | a fresh one in this process |
    /// | `memory:name` | the one of this name in this process, for as long as somebody has it open |
    /// | `nats://host:4222`, `nats://a:4222,nats://b:4222` | a NATS server, or a cluster by several of its servers |
    /// | `tls://host:4222` | the same with TLS |
    /// | `nats://host?domain=hub`, `nats://host?prefix=$JS.hub.API` | in another JetStream domain or account |
    ///
    /// Who one is, and how the connection is encrypted, stands in the URL or is said to the builder; what the URL says
    /// wins.
    ///
    /// | URL | builder | what |
    /// |---|---|---|
    /// | `nats://user:password@host` | [`user_and_password`](Connect::user_and_password) | a user and a password, percent-encoded in a URL |
    /// | `nats://token@host` | [`token`](Connect::token) | a token, percent-encoded in a URL |
    /// | `nats://host?nkey=/path/user.nk` | [`nkey`](Connect::nkey) (the seed), [`nkey_file`](Connect::nkey_file) | an nkey, with the feature `nkeys` |
    /// | `nats://host?creds=/path/user.creds` | [`credentials`](Connect::credentials) (the text), [`credentials_file`](Connect::credentials_file) | a JSON Web Token and its key, with the feature `nkeys` |
    /// | `tls://host` | [`NatsOptions::require_tls`] | encrypted, or not at all; the system's authorities are trusted |
    /// | `tls://host?ca=/path/ca.pem` | [`root_certificates`](Connect::root_certificates) | the same, and these authorities are trusted instead |
    /// | `tls://host?cert=/path/cert.pem&key=/path/key.pem` | [`client_certificate`](Connect::client_certificate) | the same, with a certificate of one's own (mutual TLS) |
    /// | `tls://host?tls_first=true` | [`tls_first`](Connect::tls_first) | encrypted before the server says anything (`handshake_first`) |
    /// | `tls://host?trust_discovered_servers=true` | [`NatsOptions::trust_discovered_servers`] | also uses servers that a server names before the encryption begins |
    /// | `nats://host?inbox=_INBOX_app` | [`NatsOptions::inbox_prefix`] | answers arrive under these subjects |
    /// | `nats://host?confined=true` | [`NatsOptions::confined`] | for a user who may read some keys only |
    ///
    /// Files are read for every new connection, so what was replaced counts from the next one on. Secrets are in no
    /// `Debug`, no error and no log of this crate; a URL that holds one is better built from the environment than written
    /// down. With `nats://` alone a server may ask for encryption, and whoever sits between can talk it out of that:
    /// write `tls://`. [`permissions`](crate::permissions) says what a user must be allowed.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` for a URL of another kind, or a file that cannot be read or is none; `Unauthorized`, `Tls`,
    /// `Unavailable` or `Timeout` if no server lets us in.
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

    /// A fresh store in this process's memory: no server, the same semantics.
    pub fn memory() -> Self {
        Self::from_backend(Arc::new(MemoryBackend::new()))
    }

    /// The buckets that an application's own connection reaches. The client is that of the `async-nats` which this crate
    /// re-exports as [`async_nats`](crate::async_nats).
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
    /// The client still belongs to the application: [`close`](Self::close) leaves it open. Its settings decide how soon
    /// a hung server is noticed, and whether a denied permission is reported at once. If the task of the client ends,
    /// every later call fails with `Closed`. A store that [`connect`](Self::connect) made replaces its client instead.
    #[cfg(feature = "nats")]
    pub fn from_client(client: async_nats::Client) -> Self {
        Self::from_backend(Arc::new(NatsBackend::from_client(client)))
    }

    /// As [`from_client`](Self::from_client), in another JetStream domain or account.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` if the domain or the prefix is none. Of the options only these two and `confined` are used.
    #[cfg(feature = "nats")]
    pub fn from_client_with(client: async_nats::Client, options: NatsOptions) -> Result<Self> {
        Ok(Self::from_backend(Arc::new(NatsBackend::from_client_with(client, options)?)))
    }

    /// The buckets of a backend of one's own; see [`backend`](crate::backend).
    pub fn from_backend(backend: Arc<dyn Backend>) -> Self {
        Self { backend, timeout: Self::TIMEOUT, closed: Arc::default() }
    }

    /// The same store with another time for an operation: everything that it does, retries included, ends within it.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Opens the bucket of a model: makes it if it is missing, compares it with the model if it is there.
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

    /// The names of all buckets, in order. Streams without the subjects or settings of a bucket are left out. Sends one request
    /// for each stream whose name begins with `KV_`.
    ///
    /// # Errors
    ///
    /// Those of the backend.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves nothing behind.
    pub async fn buckets(&self) -> Result<Vec<String>> {
        self.open()?.names(self.deadline()).await
    }

    /// Deletes a bucket with all that is in it; tells whether there was one.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` if the name is none; else those of the backend.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves it unknown whether the bucket is deleted.
    pub async fn delete_bucket(&self, name: &str) -> Result<bool> {
        crate::config::check_bucket_name("name", name)?;
        let deleted = self.open()?.delete(name, self.deadline()).await;
        deleted.map_err(|error| error.within("delete_bucket", name, None))
    }

    /// Sends what is to be sent and closes the connection, if it was made by [`connect`](Self::connect). From then on
    /// this store, its clones and the buckets that they opened answer with errors of the kind `Closed`; it is the last that
    /// their watches tell.
    ///
    /// Release the locks and leaderships that are held before: with the store closed they can be neither renewed nor given
    /// back, so they are lost at their next renewal and free for others when their time to live ends.
    ///
    /// # Errors
    ///
    /// Those of the backend, if what was to be sent could not be.
    ///
    /// # Cancel safety
    ///
    /// Once polled, the store is closed; dropping it leaves it unknown whether what was to be sent was.
    pub async fn close(&self) -> Result<()> {
        if self.closed.close() { self.backend.close().await } else { Ok(()) }
    }

    /// The counters of this name, if the backend has them and no bucket of records has the name; of them those below a
    /// first segment, if it is given.
    pub(crate) async fn server_counters(
        &self,
        config: BucketConfig,
        below: Option<String>,
        timeout: Option<Duration>,
    ) -> Result<Option<CounterBucket>> {
        let timeout = timeout.unwrap_or(self.timeout);
        let name = config.name.clone();
        let raw = self.open()?.counters(config, Deadline::after(timeout)).await;
        let raw = raw.map_err(|error| error.within("open", &name, None))?;
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
    /// How a NATS server is reached, in place of what was said so far: JetStream domain or prefix, the connection's name, the
    /// prefix of its inboxes, credentials, certificates. What the URL says wins.
    #[cfg(feature = "nats")]
    pub fn options(mut self, options: NatsOptions) -> Self {
        self.options = options;
        self
    }

    /// The client's own options, for what neither a URL nor [`NatsOptions`] can say. How soon a hung server is noticed and
    /// how denials are told stays this crate's; credentials files are read once then, and not for every connection.
    #[cfg(feature = "nats")]
    pub fn client(mut self, options: async_nats::ConnectOptions) -> Self {
        self.client = Some(options);
        self
    }

    /// Signing in with a user and a password; see [`NatsOptions::user_and_password`].
    #[cfg(feature = "nats")]
    pub fn user_and_password(self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.with(|options| options.user_and_password(user, password))
    }

    /// Signing in with a token; see [`NatsOptions::token`].
    #[cfg(feature = "nats")]
    pub fn token(self, token: impl Into<String>) -> Self {
        self.with(|options| options.token(token))
    }

    /// Signing in with an nkey, of which this is the seed; see [`NatsOptions::nkey`].
    #[cfg(feature = "nats")]
    pub fn nkey(self, seed: impl Into<String>) -> Self {
        self.with(|options| options.nkey(seed))
    }

    /// Signing in with an nkey whose seed is in this file; see [`NatsOptions::nkey_file`].
    #[cfg(feature = "nats")]
    pub fn nkey_file(self, path: impl Into<PathBuf>) -> Self {
        self.with(|options| options.nkey_file(path))
    }

    /// Signing in with the text of a credentials file; see [`NatsOptions::credentials`].
    #[cfg(feature = "nats")]
    pub fn credentials(self, text: impl Into<String>) -> Self {
        self.with(|options| options.credentials(text))
    }

    /// Signing in with a credentials file (`.creds`); see [`NatsOptions::credentials_file`].
    #[cfg(feature = "nats")]
    pub fn credentials_file(self, path: impl Into<PathBuf>) -> Self {
        self.with(|options| options.credentials_file(path))
    }

    /// Trusting the authorities in this file, in place of the system's; see [`NatsOptions::root_certificates`].
    #[cfg(feature = "nats")]
    pub fn root_certificates(self, path: impl Into<PathBuf>) -> Self {
        self.with(|options| options.root_certificates(path))
    }

    /// Showing the server a certificate; see [`NatsOptions::client_certificate`].
    #[cfg(feature = "nats")]
    pub fn client_certificate(self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.with(|options| options.client_certificate(certificate, key))
    }

    /// Encrypting before the server says anything; see [`NatsOptions::tls_first`].
    #[cfg(feature = "nats")]
    pub fn tls_first(self) -> Self {
        self.with(|options| options.tls_first())
    }

    #[cfg(feature = "nats")]
    fn with(mut self, change: impl FnOnce(NatsOptions) -> NatsOptions) -> Self {
        self.options = change(self.options);
        self
    }

    /// How long connecting, and every operation of the store unless it is told otherwise, may take;
    /// [`Store::TIMEOUT`] by default.
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
            // The URL itself may hold a secret: it is not shown.
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

/// The memory of this name: what two parts of a process share when they open the same URL.
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
