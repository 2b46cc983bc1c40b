//! Connecting: from a URL and options to a store.

use std::collections::HashMap;
use std::fmt;
use std::future::IntoFuture;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures::future::BoxFuture;

use crate::backend::Backend;
#[cfg(feature = "file")]
use crate::backend::file::{FileBackend, FileOptions, SyncMode};
use crate::backend::memory::MemoryBackend;
#[cfg(feature = "nats")]
use crate::backend::nats::NatsBackend;
use crate::error::{Error, Result};
use crate::observe::{Instruments, Observer, Origin};
use crate::store::Store;

#[cfg(feature = "nats")]
#[doc(inline)]
pub use crate::backend::nats::{NatsOptions, Secret};
#[doc(inline)]
pub use crate::backend::{AccountUsage, ConnectionState, ServerInfo, Usage};
pub use crate::store::{StoreHealth, StoreInfo};

impl Store {
    /// Opens the store at a URL.
    ///
    /// | URL | store |
    /// |---|---|
    /// | `memory:` | a new store in this process |
    /// | `memory:name` | the store of this name in this process, which exists while any handle to it exists |
    /// | `file:app.kv`, `file:/folder/app.kv`, `file:///folder/app.kv` | a file of this process, with the feature `file`; the path is percent-encoded |
    /// | `file:app.kv?sync=100ms&mode=0640` | the same; see [`OpenFile`](crate::connect::OpenFile) |
    /// | `nats://host:4222`, `nats://a:4222,nats://b:4222` | a NATS server, or a cluster with several of its servers |
    /// | `tls://host:4222` | the same with TLS |
    /// | `nats://host?domain=hub`, `nats://host?prefix=$JS.hub.API` | another JetStream domain or account |
    ///
    /// Set credentials and encryption in the URL, or with [`NatsOptions`] on the builder. The URL takes precedence.
    ///
    /// | URL | `NatsOptions` | meaning |
    /// |---|---|---|
    /// | `nats://user:password@host` | [`user_and_password`](NatsOptions::user_and_password) | a user and a password, percent-encoded in a URL |
    /// | `nats://token@host` | [`token`](NatsOptions::token) | a token, percent-encoded in a URL |
    /// | `nats://host?nkey=/path/user.nk` | [`nkey`](NatsOptions::nkey) (the seed), [`nkey_file`](NatsOptions::nkey_file) | an nkey, with the feature `nkeys` |
    /// | `nats://host?creds=/path/user.creds` | [`credentials`](NatsOptions::credentials) (the text), [`credentials_file`](NatsOptions::credentials_file) | a JSON Web Token and its key, with the feature `nkeys` |
    /// | `tls://host` | [`NatsOptions::require_tls`] | requires encryption; trusts the CA certificates of the system |
    /// | `tls://host?ca=/path/ca.pem` | [`root_certificates`](NatsOptions::root_certificates) | the same, but trusts these CA certificates instead |
    /// | `tls://host?cert=/path/cert.pem&key=/path/key.pem` | [`client_certificate`](NatsOptions::client_certificate) | the same, with a client certificate (mutual TLS) |
    /// | `tls://host?tls_first=true` | [`tls_first`](NatsOptions::tls_first) | starts TLS before the first message of the server (`handshake_first`) |
    /// | `tls://host?trust_discovered_servers=true` | [`NatsOptions::trust_discovered_servers`] | also uses servers that a server names before the encryption begins |
    /// | `nats://host?inbox=_INBOX_app` | [`NatsOptions::inbox_prefix`] | receives replies under this prefix |
    /// | `nats://host?restricted=true` | [`NatsOptions::restricted`] | for a user who may read only some keys |
    ///
    /// ```no_run
    /// # use kvtyped::prelude::*;
    /// # #[cfg(feature = "nats")]
    /// # async fn doc() -> Result<(), kvtyped::Error> {
    /// use kvtyped::connect::NatsOptions;
    ///
    /// let options = NatsOptions::new().credentials_file("/etc/app/user.creds");
    /// let store = Store::connect("tls://nats.example.com").options(options).await?;
    /// # Ok(())
    /// # }
    /// ```
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
            fail_fast_after: None,
            observer: None,
            trace_keys: false,
            #[cfg(feature = "nats")]
            options: NatsOptions::default(),
            #[cfg(feature = "nats")]
            client: None,
        }
    }
}

/// Opens a store; see [`Store::connect`]. Its `Debug` shows no credentials.
#[must_use = "nothing is opened until it is awaited"]
pub struct Connect {
    url: String,
    timeout: Duration,
    fail_fast_after: Option<Duration>,
    observer: Option<Arc<dyn Observer>>,
    trace_keys: bool,
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

    /// Sets the timeout of connecting, which is also the default timeout of the store's operations. Default:
    /// [`Store::TIMEOUT`].
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Refuses operations during an outage: an operation that starts after the connection was down for `outage` fails
    /// at once with `Unavailable`, and is not applied. Off by default, so that an operation waits for the connection
    /// until its timeout.
    ///
    /// A bucket without a leader is not an outage of the connection. A hung server is detected after three missed
    /// pings, six seconds by default. Renewals of leases are refused, too, and retried while the lease is valid.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let url = "memory:";
    /// let store = Store::connect(url).fail_fast_after(Duration::from_secs(1)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn fail_fast_after(mut self, outage: Duration) -> Self {
        self.fail_fast_after = Some(outage);
        self
    }

    /// Sets an observer, which receives a report of each operation and the events of background work. See
    /// [`observe`](crate::observe) and [`Store::with_observer`].
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Sets whether the spans of operations contain the keys of records. By default they contain none, because a key
    /// may be a secret, such as a session id. The keys of a model with `#[kv(sensitive_key)]` never appear.
    pub fn trace_keys(mut self, on: bool) -> Self {
        self.trace_keys = on;
        self
    }

    /// Returns the host and the port of a URL with one server.
    fn target(&self) -> Option<(String, u16)> {
        #[cfg(feature = "nats")]
        if system_of(&self.url) == "nats" {
            return NatsBackend::target(self.url.trim());
        }
        None
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
            #[cfg(feature = "file")]
            (Some("file"), rest) => Arc::new(FileBackend::open(FileOptions::from_url(rest, *timeout)?).await?),
            #[cfg(not(feature = "file"))]
            (Some("file"), _) => return Err(missing_feature("file")),
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
            (Some("nats" | "tls"), _) => return Err(missing_feature("nats")),
            (None, "") => {
                return Err(Error::invalid_config(
                    "the URL is empty; pass `memory:`, `file:path` or `nats://host:port`",
                ));
            }
            // Do not show the URL: it may contain a secret.
            _ => {
                return Err(Error::invalid_config("the URL must begin with `memory:`, `file:`, `nats://` or `tls://`"));
            }
        };
        let mut store =
            Store::of_system(backend, system_of(url)).with_timeout(*timeout).with_traced_keys(self.trace_keys);
        if let Some(outage) = self.fail_fast_after {
            store = store.fail_fast_after(outage);
        }
        Ok(match self.observer {
            Some(observer) => store.with_observer(observer),
            None => store,
        })
    }
}

impl IntoFuture for Connect {
    type Output = Result<Store>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let origin = Origin { system: system_of(&self.url), server: self.target(), ..Origin::default() };
        let instruments = Instruments::new(origin);
        let instruments = match &self.observer {
            Some(observer) => instruments.with_observer(Arc::clone(observer)),
            None => instruments,
        };
        let run = Box::pin(self.run());
        if instruments.are_active() { instruments.observe("connect", "".into(), run) } else { run }
    }
}

/// Returns the kind of the backend of a URL.
fn system_of(url: &str) -> &'static str {
    match url.trim().split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase()).as_deref() {
        Some("memory") => "memory",
        Some("file") => "file",
        _ => "nats",
    }
}

impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

#[cfg(feature = "file")]
impl Store {
    /// Opens the store in a file, for paths that a URL cannot express. Creates the file if it does not exist; its
    /// folder must exist.
    ///
    /// ```
    /// use kvtyped::backend::file::SyncMode;
    /// use kvtyped::prelude::*;
    ///
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "app")]
    /// # struct AppConfig { limit: u32 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = std::env::temp_dir().join(format!("kvtyped-doc-{}", std::process::id()));
    /// # std::fs::create_dir_all(&folder)?;
    /// let store = Store::file(folder.join("app.kv")).sync(SyncMode::Always).await?;
    /// let configs: Bucket<AppConfig> = store.bucket().await?;
    /// configs.put(&AppConfig { limit: 10 }).await?;
    /// store.close().await?;
    ///
    /// let store = Store::file(folder.join("app.kv")).await?;
    /// let configs: Bucket<AppConfig> = store.bucket().await?;
    /// assert_eq!(configs.get(&AppConfigKey).await?.unwrap().limit, 10);
    /// # store.close().await?;
    /// # std::fs::remove_dir_all(&folder)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `InUse` if another process uses the file, and `Damaged` if the file is damaged. Returns `InvalidConfig`
    /// if the path cannot be used, if the file is a database of another application, or if this process has opened it
    /// with other options. Returns `Unsupported` if a newer version of this crate wrote the file, and `Unavailable` if
    /// the file cannot be read or written.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the open is cancelled.
    pub fn file(path: impl Into<std::path::PathBuf>) -> OpenFile {
        OpenFile { options: FileOptions::new(path, Self::TIMEOUT) }
    }
}

/// Opens the store in a file; see [`Store::file`].
#[cfg(feature = "file")]
#[must_use = "nothing is opened until it is awaited"]
#[derive(Debug)]
pub struct OpenFile {
    options: FileOptions,
}

#[cfg(feature = "file")]
impl OpenFile {
    /// Sets when a write is durable. Default: [`SyncMode::Always`]. In a URL: `sync=always`, `sync=100ms` or
    /// `sync=off`.
    pub fn sync(mut self, sync: SyncMode) -> Self {
        self.options.sync = sync;
        self
    }

    /// Sets the permission of new files. Default: `0o600`. In a URL: `mode=0640`. Only on Unix.
    pub fn mode(mut self, mode: u32) -> Self {
        self.options.mode = Some(mode);
        self
    }

    /// Sets the timeout of the open, which is also the default timeout of the store's operations. An open waits for
    /// another process that uses the file. It loads about a million records in some seconds. Default:
    /// [`Store::TIMEOUT`].
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = timeout;
        self
    }

    /// Sets limits and the clock, for tests: the number of rows that one checkpoint step moves, the size of the journal
    /// that starts a checkpoint, and the largest number of pages of the database.
    #[doc(hidden)]
    pub fn test_limits(mut self, rows: i64, journal_bytes: usize, max_pages: Option<u32>) -> Self {
        let limits = &mut self.options.limits;
        (limits.checkpoint_rows, limits.journal_bytes, limits.max_pages) = (rows, journal_bytes, max_pages);
        self
    }

    /// Sets the wall clock of the open, for tests.
    #[doc(hidden)]
    pub fn test_clock(mut self, now: std::time::SystemTime) -> Self {
        self.options.limits.now = Some(now);
        self
    }

    /// Opens the backend, for tests of the backend interface.
    ///
    /// # Errors
    ///
    /// See [`Store::file`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the open is cancelled.
    #[doc(hidden)]
    pub async fn backend(self) -> Result<FileBackend> {
        FileBackend::open(self.options).await
    }

    async fn run(self) -> Result<Store> {
        let timeout = self.options.timeout;
        Ok(Store::of_system(Arc::new(FileBackend::open(self.options).await?), "file").with_timeout(timeout))
    }
}

#[cfg(feature = "file")]
impl IntoFuture for OpenFile {
    type Output = Result<Store>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let instruments = Instruments::new(Origin { system: "file", ..Origin::default() });
        let run = Box::pin(self.run());
        if instruments.are_active() { instruments.observe("connect", "".into(), run) } else { run }
    }
}

/// Returns the error of a URL that needs a feature of this crate.
#[cfg(not(all(feature = "file", feature = "nats")))]
fn missing_feature(feature: &str) -> Error {
    Error::unsupported(
        format!("the feature `{feature}`; enable it with `cargo add kvtyped --features {feature}`"),
        "kvtyped without this feature",
    )
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

#[cfg(test)]
mod tests {
    #[cfg(not(all(feature = "file", feature = "nats")))]
    #[tokio::test]
    async fn url_of_a_missing_feature_names_the_command_that_enables_it() {
        use crate::{ErrorKind, Outcome, Store};
        let urls = [
            ("file:app.kv", "file", cfg!(feature = "file")),
            ("FILE:/app.kv?sync=off", "file", cfg!(feature = "file")),
            ("nats://localhost", "nats", cfg!(feature = "nats")),
            ("tls://localhost", "nats", cfg!(feature = "nats")),
        ];
        for (url, feature, is_enabled) in urls {
            if is_enabled {
                continue;
            }
            let error = Store::connect(url).await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{url}: {error}");
            assert_eq!(error.outcome(), Outcome::NotApplied, "{url}");
            let command = format!("`cargo add kvtyped --features {feature}`");
            assert!(error.to_string().contains(&command), "{url}: {error}");
        }
    }
}
