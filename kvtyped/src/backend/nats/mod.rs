//! Buckets in JetStream.
//!
//! A bucket is a stream, a key a subject, a revision a sequence (ADR-8): what is stored here is what every NATS client
//! stores, and reads. The JetStream API is spoken directly, because what `async_nats::jetstream::kv` makes of an
//! answer loses what this library promises: which write a lost acknowledgement belongs to, what a conflict was about,
//! and how long an operation may take.
//!
//! | file | what it knows |
//! |---|---|
//! | `options`, `target` | how JetStream is reached, by a builder and by a URL |
//! | `credentials`, `tls`, `file` | who one is, and how that is shown to a server and to nobody else |
//! | `connect` | the connection that they make |
//! | `link` | the client of a connection, and its replacement when its task ends |
//! | `wire`, `lookout` | one request: its answer, or why there is none |
//! | `api` | the JetStream API: JSON there and back |
//! | `able`, `learned` | what the server can do that takes the writes of a bucket, for as long as a connection stands |
//! | `config`, `echo` | a bucket's settings as a stream's configuration, there and back |
//! | `regular` | the settings of a stream that make it a bucket: what differs, and its repair |
//! | `bucket` | where a bucket is: its stream, its subjects, its leader |
//! | `publish`, `doubt` | the one write path, and what became of a write without an answer |
//! | `count` | counters, which the server adds up (ADR-49) |
//! | `commit`, `parcel` | several writes, all or nothing: what became of them, and their messages |
//! | `read` | one entry |
//! | `replies`, `many` | the entries of many keys, by their names |
//! | `consumer`, `scan` | many entries |
//! | `watch` | many entries, and then the new ones |
//! | `record` | what a stored message says |
//! | `convert`, `codes` | errors: the server's and the client's become the library's here, and only here |
//! | `probe` | all that reads strangers' bytes, for tests without a server |

mod able;
mod api;
mod bucket;
mod codes;
mod commit;
mod config;
mod connect;
mod consumer;
mod convert;
mod count;
mod credentials;
mod delivery;
mod doubt;
mod echo;
mod facts;
mod file;
mod learned;
mod link;
mod listing;
mod lookout;
mod many;
mod options;
mod parcel;
#[cfg(feature = "conformance")]
#[doc(hidden)]
pub mod probe;
mod proof;
mod publish;
mod read;
mod record;
mod regular;
mod replies;
mod scan;
mod target;
mod tls;
mod watch;
mod wire;

pub use self::options::NatsOptions;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use serde_json::{Value, json};

use self::api::{Api, Repeat};
use self::bucket::NatsBucket;
use self::connect::Connector;
use self::count::NatsCounters;
use self::learned::Learned;
use self::wire::Wire;
use super::{Backend, Capabilities, Deadline, RawBucket, RawCounters};
use crate::config::BucketConfig;
use crate::error::{Error, ErrorKind, Result};

/// The buckets of a NATS server, or of a cluster of them.
///
/// # What strangers can do
///
/// Whatever is stored in a bucket is read for what it is, or is an error of its own and disturbs nothing beside it; but
/// for what the client itself does not bear. A header line without a colon ends the connection on which it comes, and
/// the next one, until the message is written over. A bare carriage return in a header ends the task of the client that
/// reads it: a store that made its connection makes another, and its watches and leases continue. Over an application's
/// own client, every later call fails with `Closed`. No client writes such headers, but a user who speaks the protocol
/// directly can. So whoever may write to a bucket can cut off those who read it: give that right as carefully as the
/// right to read.
pub struct NatsBackend {
    api: Api,
    owned: bool,
    /// What the servers can do.
    capabilities: Learned<Capabilities>,
}

impl NatsBackend {
    /// Connects to a server: `nats://127.0.0.1:4222`.
    ///
    /// The URL may name several servers of a cluster, separated by commas, with `tls://` for an encrypted connection;
    /// it may hold credentials, and say where certificates are: [`Store::connect`](crate::Store::connect) has the table.
    /// What it says wins over the options.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` if the URL is not understood, or a file that it names cannot be read, or is none; `Unauthorized` if
    /// the server does not accept the user, `Tls` if the connection cannot be encrypted as wanted, and `Unavailable` or
    /// `Timeout` if there is no server. Nothing is retried in the background.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves no connection behind.
    pub async fn connect(url: &str, options: NatsOptions) -> Result<Self> {
        Self::connected(Connector::new(url, options, None)?).await
    }

    /// Connects to a server as [`connect`](Self::connect) does, with what else the client can be told: a TLS configuration
    /// of one's own, say.
    ///
    /// Credentials that the URL or the options name are read once then, and not for every connection. The name, the timeout
    /// of connecting, the interval of pings, the delay of reconnecting and the event callback are set here, whatever they
    /// were.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    ///
    /// # Cancel safety
    ///
    /// As [`connect`](Self::connect).
    pub async fn connect_with(url: &str, options: NatsOptions, client: async_nats::ConnectOptions) -> Result<Self> {
        Self::connected(Connector::new(url, options, Some(client))?).await
    }

    async fn connected(connector: Connector) -> Result<Self> {
        let (prefix, confined) = (connector.api_prefix()?, connector.is_confined());
        Ok(Self::over(Wire::connect(connector, confined).await?, prefix, true))
    }

    /// The buckets that an application's own connection reaches.
    ///
    /// The connection stays the application's: [`close`](Backend::close) leaves it open. Since its event callback
    /// is the application's too, a subject that the server denies shows as a `Timeout` rather than as
    /// `PermissionDenied`; and a hung server is noticed as fast as its `ping_interval` says.
    pub fn from_client(client: async_nats::Client) -> Self {
        Self::over(Wire::over(client, false), api::DEFAULT_PREFIX.into(), false)
    }

    /// As [`from_client`](Self::from_client), in another JetStream domain or account.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` if the prefix or the domain is not one. Of the options only these two and `confined` are used.
    pub fn from_client_with(client: async_nats::Client, options: NatsOptions) -> Result<Self> {
        let prefix = options.api_prefix()?;
        Ok(Self::over(Wire::over(client, options.confined), prefix, false))
    }

    fn over(wire: Wire, prefix: String, owned: bool) -> Self {
        Self { api: Api::new(Arc::new(wire), prefix), owned, capabilities: Learned::default() }
    }

    async fn known(&self, deadline: Deadline) -> Result<Capabilities> {
        let epoch = self.api.wire().epoch();
        if let Some(known) = self.capabilities.on(epoch) {
            return Ok(known);
        }
        let known = self.api.capabilities(deadline).await?;
        self.capabilities.learn(epoch, known.clone());
        Ok(known)
    }

    async fn make(&self, config: BucketConfig, deadline: Deadline) -> Result<Arc<dyn RawBucket>> {
        config.validate()?;
        let able = self.known(deadline).await?;
        config::check(&config, &able)?;
        let config = config.with_defaults(able.key_ttl, able.atomic);
        // A server takes the same configuration twice, and says so with nothing.
        if self.api.stream(&config.name, deadline).await?.is_some() {
            return Err(Error::new(ErrorKind::BucketExists));
        }
        let wanted = Value::Object(config::stream(&config));
        let verb = format!("STREAM.CREATE.{}", config::stream_name(&config.name));
        let answer = self.api.call(&verb, Some(&wanted), Repeat::Never, deadline).await?;
        let info = answer.map_err(convert::of_settings)?;
        self.echoed(info, &config, &able)
    }

    async fn change(&self, config: BucketConfig, deadline: Deadline) -> Result<Arc<dyn RawBucket>> {
        config.validate()?;
        let able = self.known(deadline).await?;
        config::check(&config, &able)?;
        let found = self.api.stream(&config.name, deadline).await?;
        let info = found.ok_or_else(|| Error::new(ErrorKind::BucketNotFound))?;
        let (now, raw) = echo::of_info(&info)?;
        if echo::normal(&config).differences(&now).is_empty() {
            return Ok(Arc::new(NatsBucket::new(&self.api, now, raw, echo::created(&info)?)));
        }
        let mut wanted = raw.clone();
        regular::repair(&config.name, &mut wanted);
        config::merge(&config, &mut wanted);
        let verb = format!("STREAM.UPDATE.{}", config::stream_name(&config.name));
        let answer = self.api.call(&verb, Some(&Value::Object(wanted)), Repeat::Never, deadline).await?;
        let info = answer.map_err(convert::of_settings)?;
        self.echoed(info, &config, &able)
    }

    /// The bucket that a server says it has made, if it is the one that was wanted: a server ignores what it does not
    /// know.
    fn echoed(&self, info: Value, wanted: &BucketConfig, able: &Capabilities) -> Result<Arc<dyn RawBucket>> {
        let (config, raw) = echo::of_info(&info)?;
        if let Some(difference) = echo::normal(wanted).differences(&config).first() {
            return Err(Error::unsupported(
                format!("a server that takes `{}` = {}", difference.setting, difference.wanted),
                format!("{}, which made it {}", able.backend, difference.found),
            ));
        }
        Ok(Arc::new(NatsBucket::new(&self.api, config, raw, echo::created(&info)?)))
    }

    async fn find(&self, name: &str, deadline: Deadline) -> Result<Option<Arc<dyn RawBucket>>> {
        crate::config::check_bucket_name("name", name)?;
        let Some(info) = self.api.stream(name, deadline).await? else { return Ok(None) };
        let (config, raw) = echo::of_info(&info)?;
        Ok(Some(Arc::new(NatsBucket::new(&self.api, config, raw, echo::created(&info)?))))
    }

    async fn remove(&self, name: &str, deadline: Deadline) -> Result<bool> {
        crate::config::check_bucket_name("name", name)?;
        match self.api.stream(name, deadline).await {
            Ok(None) => return Ok(false),
            // A stream that is not a bucket is not this crate's to delete.
            Ok(Some(info)) => drop(echo::of_info(&info)?),
            Err(error) if error.is_denied() => {}
            Err(error) => return Err(error),
        }
        let verb = format!("STREAM.DELETE.{}", config::stream_name(name));
        match self.api.call(&verb, None, Repeat::Never, deadline).await? {
            Ok(_) => Ok(true),
            Err(error) if error.is_stream_not_found() => Ok(false),
            Err(error) => Err(convert::of_api(error)),
        }
    }

    /// The counters of this name: those that are there, or new ones.
    async fn count(&self, config: BucketConfig, deadline: Deadline) -> Result<Option<Arc<dyn RawCounters>>> {
        config.validate()?;
        let mut config = config;
        config.history.get_or_insert(count::KEPT);
        let config = config.with_defaults(false, false);
        loop {
            let info = match self.api.stream(&config.name, deadline).await? {
                Some(info) => info,
                // What servers can do is asked only where one has to be made: who may do no more than add may not ask.
                None if !self.known(deadline).await?.counters => return Ok(None),
                None => {
                    let wanted = Value::Object(config::counters(&config));
                    let verb = format!("STREAM.CREATE.{}", config::stream_name(&config.name));
                    match self
                        .api
                        .call(&verb, Some(&wanted), Repeat::Never, deadline)
                        .await?
                        .map_err(convert::of_settings)
                    {
                        Ok(info) => info,
                        // Somebody else made one between the look and the making: look again.
                        Err(error) if matches!(error.kind(), ErrorKind::BucketExists) && !deadline.has_passed() => {
                            continue;
                        }
                        Err(error) => return Err(error),
                    }
                }
            };
            let (found, raw) = echo::of_info(&info)?;
            if !config::has_counters(&raw) {
                return Ok(None);
            }
            let bucket = NatsBucket::new(&self.api, found, raw, echo::created(&info)?);
            return Ok(Some(Arc::new(NatsCounters::new(bucket.into_place()))));
        }
    }

    async fn list(&self, deadline: Deadline) -> Result<Vec<String>> {
        let mut names = Vec::new();
        let mut offset = 0;
        loop {
            // Asking for `$KV.>` would leave out mirrors, which have no subjects of their own.
            let asked = json!({ "offset": offset });
            let answer = self.api.call("STREAM.NAMES", Some(&asked), Repeat::UntilAnswered, deadline).await?;
            let answer = answer.map_err(convert::of_api)?;
            let page = answer["streams"].as_array().map(Vec::as_slice).unwrap_or_default();
            names.extend(page.iter().filter_map(Value::as_str).filter_map(config::bucket_name).map(str::to_owned));
            offset += page.len();
            if page.is_empty() || offset as u64 >= answer["total"].as_u64().unwrap_or_default() {
                names.sort_unstable();
                names.dedup();
                return Ok(self.only_buckets(names, deadline).await);
            }
        }
    }
}

/// How many streams are looked at at once, and how long it may take to learn what one is.
const LOOKS: usize = 16;
const LOOK: Duration = Duration::from_secs(1);

impl NatsBackend {
    /// Drops the names of streams that are not buckets. A stream that does not tell (its leader is gone, or the user may not
    /// ask) stays.
    async fn only_buckets(&self, names: Vec<String>, deadline: Deadline) -> Vec<String> {
        let is_bucket = |name: String| async move {
            let soon = Deadline::after(deadline.remaining().min(LOOK));
            let is_bucket = match self.api.stream(&name, soon).await {
                Ok(info) => info.is_some_and(|info| echo::of_info(&info).is_ok()),
                Err(_) => true,
            };
            is_bucket.then_some(name)
        };
        stream::iter(names).map(is_bucket).buffered(LOOKS).filter_map(std::future::ready).collect().await
    }
}

impl Backend for NatsBackend {
    fn capabilities(&self, deadline: Deadline) -> BoxFuture<'_, Result<Capabilities>> {
        self.known(deadline).boxed()
    }

    fn create(&self, config: BucketConfig, deadline: Deadline) -> BoxFuture<'_, Result<Arc<dyn RawBucket>>> {
        self.make(config, deadline).boxed()
    }

    fn open<'a>(&'a self, name: &'a str, deadline: Deadline) -> BoxFuture<'a, Result<Option<Arc<dyn RawBucket>>>> {
        self.find(name, deadline).boxed()
    }

    fn update(&self, config: BucketConfig, deadline: Deadline) -> BoxFuture<'_, Result<Arc<dyn RawBucket>>> {
        self.change(config, deadline).boxed()
    }

    fn delete<'a>(&'a self, name: &'a str, deadline: Deadline) -> BoxFuture<'a, Result<bool>> {
        self.remove(name, deadline).boxed()
    }

    fn counters(
        &self,
        config: BucketConfig,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Option<Arc<dyn RawCounters>>>> {
        self.count(config, deadline).boxed()
    }

    fn names(&self, deadline: Deadline) -> BoxFuture<'_, Result<Vec<String>>> {
        self.list(deadline).boxed()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        async move {
            match self.owned {
                true => self.api.wire().close().await,
                false => Ok(()),
            }
        }
        .boxed()
    }
}

/// Names no server and no user.
impl fmt::Debug for NatsBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsBackend").field("api", &self.api).field("owned", &self.owned).finish_non_exhaustive()
    }
}
