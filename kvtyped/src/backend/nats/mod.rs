//! A backend that stores buckets in NATS JetStream.
//!
//! A bucket is a stream, a key is a subject, and a revision is a sequence (ADR-8). Every NATS client stores and reads
//! buckets in this format. This module uses the JetStream API directly, because `async_nats::jetstream::kv` drops
//! information that this crate needs: the write that a lost acknowledgement belongs to, the cause of a conflict, and
//! the time limit of an operation.
//!
//! | module | content |
//! |---|---|
//! | `connection` | from a URL to requests on a connection |
//! | `jetstream` | the protocol: streams, stored messages, consumers and error codes |
//! | `multi_get_support` | the support of a bucket for requests for many entries |
//! | `context` | the location of a bucket: its stream, subjects, leader and features |
//! | `read` | reads, scans and watch sessions |
//! | `write` | writes, batches and increments, and the recovery of lost acknowledgements |
//! | `update` | changes of the settings of a bucket |
//! | `bucket`, `counters` | the backend interface of one bucket, and of the counters of one stream |
//! | `fuzzing` | parsers of untrusted bytes, for tests without a server |
//!
//! Each module imports only from modules above it. The files of a folder are listed in its `mod.rs` in the same order.

mod connection;
mod jetstream;
mod multi_get_support;
mod context;
mod read;
mod write;
mod bucket;
mod counters;
mod update;
#[cfg(feature = "conformance")]
#[doc(hidden)]
pub mod fuzzing;

pub use self::connection::credentials::Secret;
pub use self::connection::options::NatsOptions;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use self::bucket::NatsBucket;
use self::connection::connect::Connector;
use self::connection::connection::Connection;
use self::connection::options::DEFAULT_PREFIX;
use self::connection::per_connection::PerConnection;
use self::context::StreamContext;
use self::counters::NatsCounters;
use self::jetstream::api::{Api, Idempotency};
use self::jetstream::error::ApiError;
use self::jetstream::{stream_config, stream_info};
use super::{AccountUsage, Backend, Capabilities, ConnectionState, Deadline, RawBucket, RawCounters};
use crate::config::BucketConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::revision::Revision;

/// A backend that stores buckets on a NATS server or cluster.
///
/// # Untrusted publishers
///
/// Any stored message is read as a record, or reported as one error that affects no other record. Two kinds of headers
/// are exceptions, because the client itself fails on them. A header line without a colon ends the connection that
/// receives it, and each following connection, until the message is overwritten. A bare carriage return in a header
/// ends the task of the client. A store that created its client then replaces it, and its watches and leases continue.
/// Over an application's own client, every later call fails with `Closed`. No client writes such headers, but a user
/// who speaks the protocol directly can. A user who may write to a bucket can therefore disconnect its readers. Grant
/// write permission as carefully as read permission.
pub struct NatsBackend {
    api: Api,
    owns_connection: bool,
    /// The name that the program gave the connection.
    name: Option<String>,
    /// The capabilities of the servers, cached per connection.
    capabilities: PerConnection<Capabilities>,
}

impl NatsBackend {
    /// Connects to a server: `nats://127.0.0.1:4222`.
    ///
    /// The URL may name several servers of a cluster, separated by commas. The scheme `tls://` requires an encrypted
    /// connection. The URL may also contain credentials and the paths of certificates: see the table of
    /// [`Store::connect`](crate::Store::connect). The URL takes precedence over the options.
    ///
    /// # Errors
    ///
    /// Returns `InvalidConfig` if the URL is invalid, or if a file that it names cannot be read or has invalid content.
    /// Returns `Unauthorized` if the server does not accept the user, `Tls` if the connection cannot be encrypted as
    /// required, and `Unavailable` or `Timeout` if no server can be reached. Nothing is retried in the background.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, no connection stays open.
    pub async fn connect(url: &str, options: NatsOptions) -> Result<Self> {
        Self::connected(Connector::new(url, options, None)?).await
    }

    /// Connects to a server as [`connect`](Self::connect) does, with further options of the client, such as a custom
    /// TLS configuration.
    ///
    /// Credentials that the URL or the options name are read once for each client, not for every connection. A client
    /// is replaced only if its task ends. This method overrides the name, the connection timeout, the ping interval,
    /// the reconnect delay and the event callback of the client options.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`connect`](Self::connect).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, no connection stays open.
    pub async fn connect_with(url: &str, options: NatsOptions, client: async_nats::ConnectOptions) -> Result<Self> {
        Self::connected(Connector::new(url, options, Some(client))?).await
    }

    /// Returns the host and the port of a URL with one server.
    pub(crate) fn target(url: &str) -> Option<(String, u16)> {
        Connector::new(url, NatsOptions::default(), None).ok()?.target()
    }

    async fn connected(connector: Connector) -> Result<Self> {
        let (prefix, restricted) = (connector.api_prefix()?, connector.is_restricted());
        let name = connector.connection_name();
        let connection = Connection::connect(connector, restricted).await?;
        Ok(Self { name, ..Self::with_connection(connection, prefix, true) })
    }

    /// Creates a backend on an application's own connection.
    ///
    /// The connection belongs to the application: [`close`](Backend::close) leaves it open. Its event callback also
    /// belongs to the application, so a subject that the server denies shows as a `Timeout` rather than as
    /// `PermissionDenied`. The `ping_interval` of the client decides how soon a hung server is detected.
    pub fn from_client(client: async_nats::Client) -> Self {
        Self::with_connection(Connection::over(client, false), DEFAULT_PREFIX.into(), false)
    }

    /// Creates a backend as [`from_client`](Self::from_client) does, in another JetStream domain or account.
    ///
    /// # Errors
    ///
    /// Returns `InvalidConfig` if the prefix or the domain is invalid. Of the options, only these two and `restricted`
    /// are used.
    pub fn from_client_with(client: async_nats::Client, options: NatsOptions) -> Result<Self> {
        let prefix = options.api_prefix()?;
        Ok(Self::with_connection(Connection::over(client, options.restricted), prefix, false))
    }

    fn with_connection(connection: Arc<Connection>, prefix: String, owned: bool) -> Self {
        Self {
            api: Api::new(connection, prefix),
            owns_connection: owned,
            name: None,
            capabilities: PerConnection::default(),
        }
    }

    async fn server_capabilities(&self, deadline: Deadline) -> Result<Capabilities> {
        let epoch = self.api.connection().epoch();
        if let Some(known) = self.capabilities.get(epoch) {
            return Ok(known);
        }
        let known = self.api.capabilities(deadline).await?;
        self.capabilities.set(epoch, known.clone());
        Ok(known)
    }

    async fn create_stream(&self, config: BucketConfig, deadline: Deadline) -> Result<Arc<dyn RawBucket>> {
        config.validate()?;
        config.check_first_epoch()?;
        let capabilities = self.server_capabilities(deadline).await?;
        stream_config::check(&config, &capabilities)?;
        let config = config.with_defaults(capabilities.key_ttl, capabilities.atomic);
        config.check_index_entries()?;
        // A server accepts a repeated request with the same configuration, and does not report that the stream existed.
        if self.api.stream(&config.name, deadline).await?.is_some() {
            return Err(Error::new(ErrorKind::BucketExists));
        }
        let wanted = Value::Object(stream_config::to_stream_config(&config));
        let verb = format!("STREAM.CREATE.{}", stream_config::stream_name(&config.name));
        let reply = self.api.call(&verb, Some(&wanted), Idempotency::AtMostOnce, deadline).await?;
        let mut info = reply.map_err(ApiError::into_config_error)?;
        // A loaded cluster may confirm a stream without describing it.
        if !info["config"].is_object() {
            let missing =
                || Error::unavailable("the server confirmed the stream without describing it").unknown_outcome();
            info = self.api.stream(&config.name, deadline).await?.ok_or_else(missing)?;
        }
        self.verify_applied(info, &config, &capabilities)
    }

    /// Returns the bucket that the server reports, or `Unsupported` if it lacks a requested setting: a server ignores a
    /// setting that it does not know.
    fn verify_applied(
        &self,
        info: Value,
        wanted: &BucketConfig,
        capabilities: &Capabilities,
    ) -> Result<Arc<dyn RawBucket>> {
        let (config, raw) = stream_info::parse_config(&info)?;
        if wanted.write_epoch > config.write_epoch {
            let found = format!("{}, which stored the epoch {:?}", capabilities.backend, config.write_epoch);
            return Err(Error::unsupported("a server that supports `write_epochs`", found));
        }
        if let Some(difference) = stream_info::normalize(wanted).differences(&config).first() {
            return Err(Error::unsupported(
                format!("a server that supports `{}` = {}", difference.setting, difference.wanted),
                format!("{}, which stored `{}` as {}", capabilities.backend, difference.setting, difference.found),
            ));
        }
        self.bucket(config, &raw, &info)
    }

    /// Creates the handle to a bucket from its settings and the information of its stream.
    fn bucket(&self, config: BucketConfig, raw: &Map<String, Value>, info: &Value) -> Result<Arc<dyn RawBucket>> {
        let context = StreamContext::new(&self.api, config, raw, stream_info::created(info)?).with_clock(info);
        context.saw(Revision::new(info["state"]["last_seq"].as_u64().unwrap_or_default()));
        Ok(Arc::new(NatsBucket::new(context)))
    }

    async fn open_stream(&self, name: &str, deadline: Deadline) -> Result<Option<Arc<dyn RawBucket>>> {
        crate::config::check_bucket_name("name", name)?;
        let Some(info) = self.api.stream(name, deadline).await? else { return Ok(None) };
        let (config, raw) = stream_info::parse_config(&info)?;
        self.bucket(config, &raw, &info).map(Some)
    }

    async fn delete_stream(&self, name: &str, deadline: Deadline) -> Result<bool> {
        crate::config::check_bucket_name("name", name)?;
        match self.api.stream(name, deadline).await {
            Ok(None) => return Ok(false),
            // A stream that is not a bucket was not created by this crate, so it is not deleted.
            Ok(Some(info)) => drop(stream_info::parse_config(&info)?),
            Err(error) if error.is_denied() => {}
            Err(error) => return Err(error),
        }
        let verb = format!("STREAM.DELETE.{}", stream_config::stream_name(name));
        match self.api.call(&verb, None, Idempotency::AtMostOnce, deadline).await? {
            Ok(_) => Ok(true),
            Err(error) if error.is_stream_not_found() => Ok(false),
            Err(error) => Err(error.into_error()),
        }
    }

    /// Opens the counters of this name, or creates them. Returns `None` if the server does not support counters, or if
    /// the existing bucket stores records.
    async fn create_counter_stream(
        &self,
        config: BucketConfig,
        deadline: Deadline,
    ) -> Result<Option<Arc<dyn RawCounters>>> {
        config.validate()?;
        config.check_no_epochs()?;
        config.check_no_index_entries()?;
        let mut config = config;
        config.history.get_or_insert(counters::DEFAULT_HISTORY);
        let config = config.with_defaults(false, false);
        loop {
            let info = match self.api.stream(&config.name, deadline).await? {
                Some(info) => info,
                // Request the capabilities only if the stream must be created: a user who may only increment may not
                // request them.
                None if !self.server_capabilities(deadline).await?.counters => return Ok(None),
                None => {
                    let wanted = Value::Object(stream_config::to_counter_config(&config));
                    let verb = format!("STREAM.CREATE.{}", stream_config::stream_name(&config.name));
                    match self
                        .api
                        .call(&verb, Some(&wanted), Idempotency::AtMostOnce, deadline)
                        .await?
                        .map_err(ApiError::into_config_error)
                    {
                        Ok(info) => info,
                        // Another client created the stream since the look-up: request it again.
                        Err(error) if matches!(error.kind(), ErrorKind::BucketExists) && !deadline.is_expired() => {
                            continue;
                        }
                        Err(error) => return Err(error),
                    }
                }
            };
            let (found, raw) = stream_info::parse_config(&info)?;
            if !stream_config::has_counters(&raw) {
                return Ok(None);
            }
            let context = StreamContext::new(&self.api, found, &raw, stream_info::created(&info)?);
            return Ok(Some(Arc::new(NatsCounters::new(Arc::new(context)))));
        }
    }

    async fn list_streams(&self, deadline: Deadline) -> Result<Vec<String>> {
        let mut names = Vec::new();
        let mut offset = 0;
        loop {
            // Asking for `$KV.>` would leave out mirrors, which have no subjects.
            let body = json!({ "offset": offset });
            let reply = self.api.call("STREAM.NAMES", Some(&body), Idempotency::Idempotent, deadline).await?;
            let reply = reply.map_err(ApiError::into_error)?;
            let page = reply["streams"].as_array().map(Vec::as_slice).unwrap_or_default();
            names.extend(
                page.iter().filter_map(Value::as_str).filter_map(stream_config::bucket_name).map(str::to_owned),
            );
            offset += page.len();
            if page.is_empty() || offset as u64 >= reply["total"].as_u64().unwrap_or_default() {
                names.sort_unstable();
                names.dedup();
                return Ok(self.retain_buckets(names, deadline).await);
            }
        }
    }
}

/// The number of streams that are checked concurrently.
const CONCURRENT_CHECKS: usize = 16;
/// The time limit of the check of one stream.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

impl NatsBackend {
    /// Drops the names of streams that are not buckets. Keeps a stream that cannot be checked, because it has no leader
    /// or the user may not request its information.
    async fn retain_buckets(&self, names: Vec<String>, deadline: Deadline) -> Vec<String> {
        let is_bucket = |name: String| async move {
            let check_deadline = Deadline::after(deadline.remaining().min(CHECK_TIMEOUT));
            let is_bucket = match self.api.stream(&name, check_deadline).await {
                Ok(info) => info.is_some_and(|info| stream_info::parse_config(&info).is_ok()),
                Err(_) => true,
            };
            is_bucket.then_some(name)
        };
        stream::iter(names).map(is_bucket).buffered(CONCURRENT_CHECKS).filter_map(std::future::ready).collect().await
    }
}

impl Backend for NatsBackend {
    fn capabilities(&self, deadline: Deadline) -> BoxFuture<'_, Result<Capabilities>> {
        self.server_capabilities(deadline).boxed()
    }

    fn connection_name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    fn domain(&self) -> Option<&str> {
        stream_info::domain_of(self.api.prefix())
    }

    fn create(&self, config: BucketConfig, deadline: Deadline) -> BoxFuture<'_, Result<Arc<dyn RawBucket>>> {
        self.create_stream(config, deadline).boxed()
    }

    fn open<'a>(&'a self, name: &'a str, deadline: Deadline) -> BoxFuture<'a, Result<Option<Arc<dyn RawBucket>>>> {
        self.open_stream(name, deadline).boxed()
    }

    fn update(&self, config: BucketConfig, deadline: Deadline) -> BoxFuture<'_, Result<Arc<dyn RawBucket>>> {
        self.update_stream(config, deadline).boxed()
    }

    fn delete<'a>(&'a self, name: &'a str, deadline: Deadline) -> BoxFuture<'a, Result<bool>> {
        self.delete_stream(name, deadline).boxed()
    }

    fn counters(
        &self,
        config: BucketConfig,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Option<Arc<dyn RawCounters>>>> {
        self.create_counter_stream(config, deadline).boxed()
    }

    fn names(&self, deadline: Deadline) -> BoxFuture<'_, Result<Vec<String>>> {
        self.list_streams(deadline).boxed()
    }

    fn ping(&self, deadline: Deadline) -> BoxFuture<'_, Result<Duration>> {
        self.api.connection().ping(deadline).boxed()
    }

    fn account(&self, deadline: Deadline) -> BoxFuture<'_, Result<Vec<AccountUsage>>> {
        self.api.account(deadline).boxed()
    }

    fn connection(&self) -> watch::Receiver<ConnectionState> {
        self.api.connection().state()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        async move {
            match self.owns_connection {
                true => self.api.connection().close().await,
                false => Ok(()),
            }
        }
        .boxed()
    }
}

/// Shows no server and no user.
impl fmt::Debug for NatsBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsBackend")
            .field("api", &self.api)
            .field("owns_connection", &self.owns_connection)
            .finish_non_exhaustive()
    }
}
