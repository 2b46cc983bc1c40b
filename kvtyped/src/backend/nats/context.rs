//! The state that every operation on a bucket needs: its stream, subjects and leader, and the features of the leader.
//!
//! A server can be upgraded or downgraded while handles exist, so its features are valid for one connection only. In a
//! cluster of mixed versions, they describe the server that led the bucket when they were requested.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};
use tokio::time::Instant;

use super::connection::per_connection::PerConnection;
use super::jetstream::api::Api;
use super::jetstream::features::ServerFeatures;
use super::jetstream::flow_window::FlowWindow;
use super::jetstream::index_subject::index_prefix;
use super::jetstream::message::StoredMessage;
use super::jetstream::stream_config::{stream_name, subject_prefix};
use super::jetstream::stream_info;
use super::jetstream::stream_state::StreamState;
use super::jetstream::write_epochs::{EpochSettings, epoch_prefix};
use super::multi_get_support::{FilterGetSupport, MultiGetSupport};
use crate::backend::{BucketStatus, ClockReading, Deadline, KeySpace, Write};
use crate::config::BucketConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::revision::Revision;
use crate::ttl::Ttl;

/// How long a probe of the stream waits for the leader.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// The state that every operation on a bucket needs.
pub(crate) struct StreamContext {
    pub(crate) api: Api,
    pub(crate) config: BucketConfig,
    /// The creation time of the stream.
    pub(crate) created: SystemTime,
    /// The time of the server when it returned the stream information.
    pub(crate) clock: Option<ClockReading>,
    pub(crate) stream: String,
    /// The prefix of the subjects in the stream: `$KV.b.`. A mirror has the prefix of its origin, unless it maps
    /// subjects.
    pub(crate) prefix: String,
    /// The begin of the subjects that writes are published to: empty, or the API prefix of another account or domain.
    write_api: String,
    /// The write epochs of the stream when the handle was opened.
    epochs: EpochSettings,
    /// The highest revision that this handle has seen.
    seen: AtomicU64,
    /// Whether direct gets are allowed, so that any server that stores the bucket may answer.
    pub(crate) allow_direct: bool,
    /// The API of the leader that decides writes. For a mirror, this is the leader of its origin.
    pub(crate) leader_api: Api,
    pub(crate) leader_stream: String,
    /// The features of the server that leads the stream of writes.
    features: PerConnection<ServerFeatures>,
    /// Whether the server counts the pending messages of several filters correctly.
    pub(crate) reliable_multi_filter_pending: bool,
    /// Whether the server includes the returned message of a direct get in the number of pending messages.
    pub(crate) pending_includes_current: bool,
    /// How long the server recognises the id of a stored message.
    pub(crate) duplicate_window: Duration,
    /// Whether the bucket answers requests for many keys.
    pub(crate) multi_get: MultiGetSupport,
    /// Whether the bucket answers requests for the keys of a filter.
    pub(crate) filter_get: FilterGetSupport,
    /// The window of consumers.
    pub(crate) flow_window: FlowWindow,
}

impl StreamContext {
    /// Creates the context of a bucket from its settings and the stream configuration that contained them.
    pub(crate) fn new(api: &Api, config: BucketConfig, raw: &Map<String, Value>, created: SystemTime) -> Self {
        let duplicate_window =
            Duration::from_nanos(raw.get("duplicate_window").and_then(Value::as_u64).unwrap_or_default());
        let origin = config.mirror.as_ref().map_or(&*config.name, |origin| &*origin.bucket);
        let prefix = stream_info::mapped_prefix(raw, &config.name).unwrap_or_else(|| subject_prefix(origin));
        let external = config.mirror.as_ref().and_then(|origin| origin.external_api());
        let leader_api = external.map_or_else(|| api.clone(), |prefix| api.with_prefix(prefix));
        let write_api = match leader_api.is_default() {
            true => String::new(),
            false => format!("{}.", leader_api.prefix()),
        };
        let epochs = EpochSettings::read(origin, raw);
        let reported = ServerFeatures::from_config(raw);
        let features = PerConnection::default();
        // The configuration of a mirror does not describe the server of its origin.
        if config.mirror.is_none() {
            features.set(api.connection().epoch(), reported);
        }
        Self {
            api: api.clone(),
            stream: stream_name(&config.name),
            leader_stream: stream_name(origin),
            prefix,
            write_api,
            epochs,
            seen: AtomicU64::new(0),
            allow_direct: raw.get("allow_direct").and_then(Value::as_bool).unwrap_or_default(),
            features,
            reliable_multi_filter_pending: reported.counts_multi_filter_pending(),
            pending_includes_current: reported.pending_includes_current(),
            leader_api,
            duplicate_window,
            multi_get: MultiGetSupport::default(),
            filter_get: FilterGetSupport::default(),
            flow_window: FlowWindow::from_config(raw),
            created,
            clock: None,
            config,
        }
    }

    /// Sets the reading of the server's clock in this stream information, which has just arrived.
    pub(crate) fn with_clock(self, info: &Value) -> Self {
        let reading = |server| ClockReading { server, at: Instant::now() };
        Self { clock: stream_info::server_time(info).map(reading), ..self }
    }

    /// Returns the subject of a record in the stream.
    pub(crate) fn subject(&self, key: &Key) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Returns the subject of a key in the leader's stream.
    pub(crate) fn leader_subject(&self, space: KeySpace, key: &Key) -> String {
        format!("{}{key}", self.leader_prefix(space))
    }

    /// Returns the subject that a write of a key is published to.
    pub(crate) fn write_subject(&self, space: KeySpace, key: &Key, epoch: Option<u64>) -> String {
        let (api, origin) = (&self.write_api, self.origin_bucket());
        match (space, epoch) {
            (KeySpace::Index, _) => format!("{api}{}{key}", index_prefix(origin)),
            (KeySpace::Records, Some(epoch)) => format!("{api}{}{key}", epoch_prefix(origin, epoch)),
            (KeySpace::Records, None) => format!("{api}{}{key}", subject_prefix(origin)),
        }
    }

    /// Returns the subject prefix of a key space in the leader's stream.
    pub(crate) fn leader_prefix(&self, space: KeySpace) -> String {
        match space {
            KeySpace::Records if self.config.mirror.is_some() => subject_prefix(self.origin_bucket()),
            space => self.read_prefix(space),
        }
    }

    /// Returns the subject prefix of a key space in the stream that this bucket reads.
    pub(crate) fn read_prefix(&self, space: KeySpace) -> String {
        match space {
            KeySpace::Index => index_prefix(self.origin_bucket()),
            KeySpace::Records => self.prefix.clone(),
        }
    }

    /// Returns the name of the bucket whose leader decides writes: the origin if this bucket is a mirror.
    pub(crate) fn origin_bucket(&self) -> &str {
        self.config.mirror.as_ref().map_or(&*self.config.name, |origin| &*origin.bucket)
    }

    /// Records a revision of the bucket.
    pub(crate) fn saw(&self, revision: Revision) {
        self.seen.fetch_max(revision.get(), Ordering::Relaxed);
    }

    /// Returns the highest revision of the bucket that this handle has seen.
    pub(crate) fn last_seen(&self) -> Revision {
        Revision::new(self.seen.load(Ordering::Relaxed))
    }

    /// Whether several servers may decide writes.
    pub(crate) fn is_replicated(&self) -> bool {
        self.api.connection().is_clustered() || !self.leader_api.is_default()
    }

    /// Returns `EpochMoved` for a write that the bucket would store as no record: when this handle was opened, the
    /// stream took the epoch without the subject transform.
    pub(crate) fn check_epoch(&self, epoch: Option<u64>) -> Result<()> {
        match self.epochs {
            EpochSettings::Damaged { .. } => self.epochs.refusal(epoch).map_or(Ok(()), Err),
            _ => Ok(()),
        }
    }

    /// Returns the limit on the size of a message, in bytes.
    pub(crate) fn max_message_size(&self) -> Option<usize> {
        self.config.max_value_size.and_then(|limit| usize::try_from(limit).ok())
    }

    /// Requests the newest message of a key from the leader.
    pub(crate) async fn leader_newest(
        &self,
        space: KeySpace,
        key: &Key,
        deadline: Deadline,
    ) -> Result<Option<StoredMessage>> {
        self.leader_api.leader_newest(&self.leader_stream, &self.leader_subject(space, key), deadline).await
    }

    /// Requests the last revision from the leader.
    pub(crate) async fn leader_last(&self, deadline: Deadline) -> Result<Revision> {
        let info = self.leader_info(deadline).await?;
        let last = info["state"]["last_seq"].as_u64();
        last.map(Revision::new).ok_or_else(|| Error::backend("the stream information lacks the state"))
    }

    /// Requests the stream information of the leader that decides writes.
    async fn leader_info(&self, deadline: Deadline) -> Result<Value> {
        let info = self.leader_api.stream(self.origin_bucket(), deadline).await?;
        info.ok_or_else(|| Error::new(ErrorKind::BucketNotFound))
    }

    /// Requests the stream information from the leader. Returns `Some(None)` if the bucket does not exist, and `None`
    /// if the leader does not answer within 500 ms.
    pub(crate) async fn probe_stream(&self, deadline: Deadline) -> Option<Option<Value>> {
        let probe_deadline = Deadline::after(deadline.remaining().min(PROBE_TIMEOUT));
        self.leader_api.stream(self.origin_bucket(), probe_deadline).await.ok()
    }

    /// Requests the state of the stream that this bucket reads.
    pub(crate) async fn stream_state(&self, deadline: Deadline) -> Result<StreamState> {
        StreamState::fetch(&self.api, &self.config.name, deadline).await
    }

    /// Requests the status of the bucket. Counts index entries as records.
    pub(crate) async fn stream_status(&self, deadline: Deadline) -> Result<BucketStatus> {
        let info = self.api.stream(&self.config.name, deadline).await?;
        stream_info::status(info.ok_or_else(|| Error::new(ErrorKind::BucketNotFound))?)
    }
}

/// Checks of the features that an operation requires.
impl StreamContext {
    async fn features(&self, deadline: Deadline) -> Result<ServerFeatures> {
        let epoch = self.api.connection().epoch();
        if let Some(known) = self.features.get(epoch) {
            return Ok(known);
        }
        let (_, raw) = stream_info::parse_config(&self.leader_info(deadline).await?)?;
        let features = ServerFeatures::from_config(&raw);
        self.features.set(epoch, features);
        Ok(features)
    }

    /// Returns `Unsupported` if the server would ignore the headers of this write.
    pub(crate) async fn check_header_support(&self, write: &Write, deadline: Deadline) -> Result<()> {
        let is_foreign = write.precondition.as_ref().is_some_and(|precondition| !write.is_own(precondition));
        // Before 2.11, a replicated bucket checks a precondition against the subject of the epoch, which stores nothing.
        let is_in_epoch = write.precondition.is_some() && write.epoch.is_some();
        let ttl = write.ttl.or(self.config.ttl.filter(|_| write.is_index_entry()).and(Some(Ttl::NEVER)));
        let needs = match (ttl, is_foreign) {
            (None, false) if is_in_epoch => "nats-server 2.11 for a precondition in a write epoch",
            (None, false) => return Ok(()),
            (Some(_), _) => "nats-server 2.11 for the TTL of a key",
            (None, true) => "nats-server 2.11 for a precondition on another key",
        };
        let features = self.features(deadline).await?;
        if features.supports_message_ttl() { Ok(()) } else { Err(self.unsupported(needs, features)) }
    }

    /// Returns whether the server treats the id of a refused write as the id of a write in flight.
    pub(crate) async fn deduplicates_rejected_ids(&self, deadline: Deadline) -> bool {
        self.features(deadline).await.is_ok_and(ServerFeatures::deduplicates_rejected_ids)
    }

    /// Returns `Unsupported` if the server rejects batches, or would store each message of a batch separately.
    pub(crate) async fn check_batch_support(&self, deadline: Deadline) -> Result<()> {
        let features = self.features(deadline).await?;
        if !features.supports_atomic_batch() {
            return Err(self.unsupported("nats-server 2.12.1 for atomic batches", features));
        }
        // The configuration of a mirror does not say whether its origin accepts batches.
        if self.config.mirror.is_none() && self.config.atomic != Some(true) {
            return Err(Error::no_batches(&self.config.name));
        }
        Ok(())
    }

    fn unsupported(&self, needs: &str, features: ServerFeatures) -> Error {
        Error::unsupported(needs, features.describe(&self.api.connection().client().server_info().version))
    }
}
