//! The location of a bucket: its stream, subjects and leader.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde_json::{Map, Value, json};

use super::connection::per_connection::PerConnection;
use super::context;
use super::context::ServerFeatures;
use super::jetstream::api::{Api, Idempotency};
use super::jetstream::{error, message, stream_config, stream_info};
use super::read::{get, get_many, get_matching, scan, watch};
use super::write::{commit, publish};
use crate::backend::{
    Batch, BucketIdentity, BucketStatus, Deadline, Dropped, RawBucket, RawEntry, Read, ReadAt, ScanItem, ScanRequest,
    WatchRequest, WatchSignal, Write, detached,
};
use crate::config::BucketConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::revision::Revision;

/// The first version that counts the pending messages of several filters correctly. Older versions count too few.
const MULTI_FILTER_PENDING_VERSION: [u64; 3] = [2, 12, 4];

/// The first version that excludes the returned message when a direct get reports the number of pending messages. Older
/// versions include it.
const PENDING_EXCLUDES_CURRENT_VERSION: [u64; 3] = [2, 12, 0];

/// A handle to one bucket.
pub(super) struct NatsBucket {
    place: Arc<StreamContext>,
}

/// The state that every operation on a bucket needs.
pub(super) struct StreamContext {
    pub(super) api: Api,
    pub(super) config: BucketConfig,
    /// The creation time of the stream.
    pub(super) created: SystemTime,
    pub(super) stream: String,
    /// The prefix of the subjects in the stream: `$KV.b.`. A mirror has the prefix of its origin, unless it maps
    /// subjects.
    pub(super) prefix: String,
    /// The prefix of the subjects that writes are published to. It begins with the API prefix of another account or
    /// domain.
    pub(super) write_prefix: String,
    /// Whether direct gets are allowed, so that any server that stores the bucket may answer.
    pub(super) allow_direct: bool,
    /// The API of the leader that decides writes. For a mirror, this is the leader of its origin.
    pub(super) leader_api: Api,
    pub(super) leader_stream: String,
    /// The features of the server that takes the writes.
    pub(super) features: PerConnection<ServerFeatures>,
    /// Whether the server counts the pending messages of several filters correctly.
    pub(super) reliable_multi_filter_pending: bool,
    /// Whether the server includes the returned message of a direct get in the number of pending messages.
    pub(super) pending_includes_current: bool,
    /// How long the server recognises the id of a stored message.
    pub(super) duplicate_window: Duration,
    /// Whether the bucket answers requests for many keys.
    pub(super) multi_get: get_many::MultiGetSupport,
    /// Whether requests about few keys of a filter are answered.
    pub(super) few: get_matching::Support,
    /// The limit on the unacknowledged messages of a consumer: that of the stream or, once known, that of the account.
    pub(super) max_ack_pending: AtomicUsize,
    /// Whether acknowledgements were found not to reach the server, so that a consumer should have no window.
    pub(super) flow_window_disabled: AtomicBool,
    /// The number of messages that a subscription is expected to buffer.
    window: AtomicU32,
}

/// The first and the smallest window of a watch. The first is a quarter of the default capacity of a subscription of
/// the client.
const WINDOW: (u32, u32) = (16_384, 32);

impl NatsBucket {
    /// Creates a bucket from its settings and the stream configuration that contained them.
    pub(super) fn new(api: &Api, config: BucketConfig, raw: Map<String, Value>, created: SystemTime) -> Self {
        let direct = raw.get("allow_direct").and_then(Value::as_bool).unwrap_or_default();
        let duplicate_window =
            Duration::from_nanos(raw.get("duplicate_window").and_then(Value::as_u64).unwrap_or_default());
        let owner = config.mirror.as_ref().map_or(&*config.name, |origin| &*origin.bucket);
        let prefix =
            stream_info::mapped_prefix(&raw, &config.name).unwrap_or_else(|| stream_config::subject_prefix(owner));
        let elsewhere = config.mirror.as_ref().and_then(|origin| origin.external_api());
        let leader_api = elsewhere.map_or_else(|| api.clone(), |prefix| api.with_prefix(prefix));
        let written = stream_config::subject_prefix(owner);
        let write_prefix = match leader_api.is_default() {
            true => written,
            false => format!("{}.{written}", leader_api.prefix()),
        };
        let limits = raw.get("consumer_limits").and_then(|limits| limits["max_ack_pending"].as_u64());
        let limit = limits.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
        let max_ack_pending = limit.unwrap_or(usize::MAX);
        let place = StreamContext {
            api: api.clone(),
            stream: stream_config::stream_name(&config.name),
            leader_stream: stream_config::stream_name(owner),
            prefix,
            write_prefix,
            allow_direct: direct,
            features: context::initial_features(api, &raw, config.mirror.is_some()),
            reliable_multi_filter_pending: stream_info::server_version(&raw) >= MULTI_FILTER_PENDING_VERSION,
            pending_includes_current: stream_info::server_version(&raw) < PENDING_EXCLUDES_CURRENT_VERSION,
            leader_api,
            duplicate_window,
            multi_get: get_many::MultiGetSupport::default(),
            few: get_matching::Support::default(),
            max_ack_pending: AtomicUsize::new(max_ack_pending),
            flow_window_disabled: AtomicBool::new(false),
            window: AtomicU32::new(WINDOW.0),
            created,
            config,
        };
        Self { place: Arc::new(place) }
    }

    pub(super) fn into_context(self) -> Arc<StreamContext> {
        self.place
    }
}

impl StreamContext {
    /// The `max_ack_pending` of a consumer. `None` if acknowledgements do not reach the server and the stream does not
    /// require them.
    pub(super) fn window(&self) -> Option<u32> {
        match (self.flow_window_disabled.load(Ordering::Relaxed), self.forced_window()) {
            (true, forced) => forced,
            (false, limit) => Some(self.window.load(Ordering::Relaxed).min(limit.unwrap_or(u32::MAX))),
        }
    }

    /// Remembers the account's limit on `max_ack_pending`. Returns `false` if it is not below the known limit, so that
    /// another attempt would fail as well.
    pub(super) fn limit_window(&self, most: usize) -> bool {
        most > 0 && self.max_ack_pending.fetch_min(most, Ordering::Relaxed) > most
    }

    /// Halves the window after a subscription dropped a message.
    pub(super) fn narrow_window(&self) {
        let halved = |window: u32| Some((window / 2).max(WINDOW.1));
        let _ = self.window.fetch_update(Ordering::Relaxed, Ordering::Relaxed, halved);
    }

    /// Returns the subject of a key in the stream.
    pub(super) fn subject(&self, key: &Key) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Returns the subject of a key in the leader's stream.
    pub(super) fn leader_subject(&self, key: &Key) -> String {
        match self.config.mirror {
            Some(ref origin) => format!("{}{key}", stream_config::subject_prefix(&origin.bucket)),
            None => self.subject(key),
        }
    }

    /// Returns the subject prefix of the entries in the leader's stream.
    pub(super) fn leader_prefix(&self) -> String {
        match self.config.mirror {
            Some(ref origin) => stream_config::subject_prefix(&origin.bucket),
            None => self.prefix.clone(),
        }
    }

    /// Requests the newest message of a key from the leader.
    pub(super) async fn leader_newest(&self, key: &Key, deadline: Deadline) -> Result<Option<message::StoredMessage>> {
        self.leader_api.leader_newest(&self.leader_stream, &self.leader_subject(key), deadline).await
    }

    /// Requests the last revision from the leader.
    pub(super) async fn leader_last(&self, deadline: Deadline) -> Result<Revision> {
        let info = self.leader_api.stream(self.origin_bucket(), deadline).await?;
        let info = info.ok_or_else(|| Error::new(ErrorKind::BucketNotFound))?;
        let last = info["state"]["last_seq"].as_u64();
        last.map(Revision::new).ok_or_else(|| error::backend("the stream information lacks the state"))
    }

    /// Returns the window of a consumer that needs none. A stream that limits `max_ack_pending` refuses a consumer
    /// without acknowledgements (10082).
    pub(super) fn forced_window(&self) -> Option<u32> {
        u32::try_from(self.max_ack_pending.load(Ordering::Relaxed)).ok()
    }

    /// Returns the name of the bucket whose leader decides writes: the origin if this bucket is a mirror.
    pub(super) fn origin_bucket(&self) -> &str {
        self.config.mirror.as_ref().map_or(&*self.config.name, |origin| &*origin.bucket)
    }

    /// Requests the stream information from the leader. Returns `Some(None)` if the bucket does not exist, and `None`
    /// if the leader does not answer within 500 ms.
    pub(super) async fn probe_stream(&self, deadline: Deadline) -> Option<Option<Value>> {
        let soon = Deadline::after(deadline.remaining().min(Duration::from_millis(500)));
        self.leader_api.stream(self.origin_bucket(), soon).await.ok()
    }

    /// Erases the entries of a key up to a revision. Later entries are kept, so the request is safe to repeat.
    async fn erase(&self, key: &Key, upto: Revision, deadline: Deadline) -> Result<u64> {
        let verb = format!("STREAM.PURGE.{}", self.leader_stream);
        let which = json!({ "filter": self.leader_subject(key), "seq": upto.get().saturating_add(1) });
        match self.leader_api.call(&verb, Some(&which), Idempotency::Idempotent, deadline).await? {
            Ok(answer) => Ok(answer["purged"].as_u64().unwrap_or_default()),
            Err(error) if error.is_stream_not_found() => Err(Error::new(ErrorKind::BucketNotFound)),
            Err(error) => Err(error::from_api_error(error)),
        }
    }

    async fn status(&self, deadline: Deadline) -> Result<BucketStatus> {
        let info = self.api.stream(&self.config.name, deadline).await?;
        let info = info.ok_or_else(|| Error::new(ErrorKind::BucketNotFound))?;
        stream_info::status(info)
    }
}

impl RawBucket for NatsBucket {
    fn config(&self) -> &BucketConfig {
        &self.place.config
    }

    fn identity(&self) -> BucketIdentity {
        BucketIdentity { created: self.place.created, connection_epoch: self.place.api.connection().epoch() }
    }

    fn status(&self, deadline: Deadline) -> BoxFuture<'_, Result<BucketStatus>> {
        self.place.status(deadline).boxed()
    }

    fn write(&self, write: Write, deadline: Deadline) -> BoxFuture<'_, Result<Revision>> {
        publish::publish(&self.place, write, deadline).boxed()
    }

    fn commit(&self, batch: Batch, deadline: Deadline) -> BoxFuture<'_, Result<Vec<Revision>>> {
        let place = Arc::clone(&self.place);
        // A batch holds one of the connection's permits for batches, so it continues although its caller is not polled.
        let work = async move { commit::commit(&place, batch, deadline).await };
        let closed = || Err(Error::new(ErrorKind::Closed).unknown_outcome());
        async move { detached(work, Dropped::Continues).await.unwrap_or_else(closed) }.boxed()
    }

    fn purge_through<'a>(&'a self, key: &'a Key, upto: Revision, deadline: Deadline) -> BoxFuture<'a, Result<u64>> {
        self.place.erase(key, upto, deadline).boxed()
    }

    fn read<'a>(&'a self, key: &'a Key, at: ReadAt, deadline: Deadline) -> BoxFuture<'a, Result<Option<RawEntry>>> {
        get::read(&self.place, key, at, deadline).boxed()
    }

    fn read_many<'a>(
        &'a self,
        keys: &'a [Key],
        read: Read,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Vec<Option<RawEntry>>>> {
        get_many::read_many(&self.place, keys, read, deadline).boxed()
    }

    fn scan(&self, scan: ScanRequest) -> BoxStream<'static, Result<ScanItem>> {
        scan::scan(Arc::clone(&self.place), scan)
    }

    fn watch(&self, watch: WatchRequest) -> BoxStream<'static, Result<WatchSignal>> {
        watch::watch(Arc::clone(&self.place), watch)
    }
}

impl fmt::Debug for NatsBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsBucket").field("stream", &self.place.stream).field("api", &self.place.api).finish()
    }
}
