//! One session of a watch.
//!
//! A session reads the state of the stream, creates the consumer, and reads the state again. It starts over if the
//! bucket was recreated in between. The state determines where the consumer starts: at an explicit sequence, or at the
//! newest message of each subject, never at "new". So a delivery that restarts cannot present old messages as new.
//!
//! A session does not repair itself. If a message, the consumer or the connection is lost, it ends with the reason.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::time::Instant;

use super::backlog::Backlog;
use super::filters::{has_reliable_pending, merge_filters};
use super::gap_check::{GAP_CHECK_ATTEMPTS, has_no_gaps};
use super::gap_proof::{GapProof, ProofStatus};
use crate::backend::nats::context::StreamContext;
use crate::backend::nats::jetstream::consumer::{Consumer, ConsumerEvent};
use crate::backend::nats::jetstream::consumer_request::{ConsumerRequest, Start};
use crate::backend::nats::jetstream::error::max_ack_pending_limit;
use crate::backend::nats::jetstream::message::StoredMessage;
use crate::backend::nats::jetstream::stream_state::StreamState;
use crate::backend::{Deadline, Delivered, RawEntry, StartFrom, WatchRequest, WatchSignal, WatchStarted};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Pattern, Patterns};
use crate::revision::Revision;
use crate::ttl::Ttl;

/// The interval of the heartbeats of an idle server.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The session ends after this number of consecutive idle reports of a server that is behind. After a partition, a
/// server stayed behind for 40 s, while another server was up to date. The next consumer may be created on that server.
const STALL_TIMEOUT: u32 = 3;

/// The time limit for a query of the state of the bucket or the consumer.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// Matches no key: no legal key begins with this character.
const NO_KEY: &str = "!";

/// Watches matching keys until the session is lost.
pub(crate) fn watch(context: Arc<StreamContext>, watch: WatchRequest) -> BoxStream<'static, Result<WatchSignal>> {
    stream::unfold(State::Begin(context, watch), |state| async move {
        let mut session = match state {
            // Boxed, because it moves with each signal.
            State::Begin(context, watch) => match WatchSession::open_session(context, watch).await {
                Ok(session) => Box::new(session),
                Err(error) => return Some((Err(error), State::Over)),
            },
            State::Open(session) => session,
            State::Over => return None,
        };
        match session.next().await {
            Ok(signal @ Ok(WatchSignal::Incomplete)) => Some((signal, State::Over)),
            Ok(signal) => Some((signal, State::Open(session))),
            Err(error) => Some((Err(error), State::Over)),
        }
    })
    .fuse()
    .boxed()
}

/// The state of a watch.
enum State {
    Begin(Arc<StreamContext>, WatchRequest),
    Open(Box<WatchSession>),
    Over,
}

struct WatchSession {
    context: Arc<StreamContext>,
    patterns: Patterns,
    created: SystemTime,
    consumer: Consumer,
    request: ConsumerRequest,
    backlog: Backlog,
    /// Every subject that this session and the earlier ones delivered.
    delivered: Delivered,
    /// The proof that precedes `Ready`, if one is needed.
    proof: Option<GapProof>,
    ready: bool,
    /// When the session last had every message of the server.
    caught_up_at: Instant,
    /// The last message before an idle server may have waited for an acknowledgement.
    idle_after: Option<u64>,
    /// Every matching entry up to this revision, inclusive, was delivered.
    through: Revision,
    /// The signals to deliver before any other.
    queue: VecDeque<WatchSignal>,
}

impl WatchSession {
    /// Starts a session. Its first signal is `Started`.
    async fn open_session(context: Arc<StreamContext>, watch: WatchRequest) -> Result<Self> {
        let deadline = Deadline::after(watch.idle_timeout);
        loop {
            let before = context.stream_state(deadline).await?;
            let mut patterns = watch.patterns.filters().to_vec();
            if context.api.connection().is_restricted() {
                patterns = merge_filters(patterns);
            }
            let request = consumer_request(&context, &watch, &patterns, &before);
            let consumer = match Consumer::create(&context.api, &request, deadline).await {
                Ok(consumer) => consumer,
                // The account has a lower limit on `max_ack_pending`. The next attempt uses that limit.
                Err(error) => match max_ack_pending_limit(&error) {
                    Some(Some(limit)) if context.flow_window.set_limit(limit) => continue,
                    _ => return Err(error),
                },
            };
            let mut after = context.stream_state(deadline).await?;
            let is_reliable = context.reliable_multi_filter_pending || has_reliable_pending(&patterns);
            let mut proof = None;
            let contiguous = match watch.since {
                StartFrom::After(revision) => {
                    let is_whole = request.filters == [format!("{}>", context.prefix)];
                    let counted = is_whole.then_some(consumer.pending);
                    let is_provable = is_reliable && revision <= before.last && is_provable(&context, &watch.delivered);
                    let attempts = if is_provable { usize::from(is_whole) } else { GAP_CHECK_ATTEMPTS };
                    let no_gap =
                        has_no_gaps(&context, &before, &mut after, revision, counted, attempts, deadline).await?;
                    let is_proven = no_gap && expires_in_silence(&context);
                    proof = (is_provable && !is_proven).then(|| GapProof::new(no_gap));
                    no_gap || is_provable
                }
                StartFrom::Newest | StartFrom::History | StartFrom::Now => true,
            };
            if after.created != before.created {
                tracing::debug!(stream = context.stream, "a watch restarts, because the bucket was recreated");
                continue;
            }
            let started = WatchStarted { created: before.created, last_revision: before.last, contiguous };
            let start = match watch.since {
                StartFrom::Newest | StartFrom::History => Revision::ZERO,
                StartFrom::Now => before.last,
                StartFrom::After(revision) => revision,
            };
            // The server that delivers may be behind the server that reported the state.
            let is_behind = !after.replica_has_reached(consumer.server.as_deref(), before.last);
            let min_revision = if is_behind { before.last } else { Revision::ZERO };
            let backlog = match is_reliable {
                true => Backlog::reported(consumer.pending, min_revision),
                false => Backlog::up_to(after.last, min_revision),
            };
            match watch.since {
                StartFrom::Newest => {
                    watch.delivered.restart();
                    watch.delivered.reserve(consumer.pending);
                }
                StartFrom::History => watch.delivered.restart(),
                StartFrom::Now => watch.delivered.forget(),
                StartFrom::After(_) => {}
            }
            let ready = start >= before.last && proof.is_none();
            if ready {
                watch.delivered.end_listing();
            }
            return Ok(Self {
                ready,
                request,
                delivered: watch.delivered,
                proof,
                patterns: watch.patterns,
                created: before.created,
                queue: match ready {
                    true => [WatchSignal::Started(started), WatchSignal::Ready].into(),
                    false => [WatchSignal::Started(started)].into(),
                },
                through: start,
                caught_up_at: Instant::now(),
                idle_after: None,
                context,
                consumer,
                backlog,
            });
        }
    }

    /// Returns the next signal, or the error of one entry. An outer error ends the session.
    async fn next(&mut self) -> Result<Result<WatchSignal>> {
        loop {
            if let Some(signal) = self.queue.pop_front() {
                return Ok(Ok(signal));
            }
            if let Some(signal) = self.conclude().await? {
                return Ok(Ok(signal));
            }
            // Usually the next message has already arrived, and the clock is not needed.
            let arrived = if self.consumer.is_current() { self.consumer.try_next().await } else { None };
            let event = match arrived {
                Some(event) => event,
                // The idle timeout of the consumer is shorter.
                None => self.consumer.next(Instant::now() + 10 * HEARTBEAT).await?,
            };
            match event {
                ConsumerEvent::Message(stored, pending) => {
                    self.backlog.on_delivery(stored.revision, pending);
                    if pending == 0 {
                        self.on_caught_up();
                    }
                    if self.backlog.needs_check() {
                        self.extend_backlog().await;
                    }
                    if let Some(entry) = self.on_delivery(stored) {
                        return Ok(entry.map(|entry| WatchSignal::Entry { entry, pending }));
                    }
                }
                ConsumerEvent::Idle(_)
                    if self.consumer.may_be_stalled().await && !self.has_nothing_pending().await? => {}
                ConsumerEvent::Idle(through) => {
                    if self.backlog.on_idle(through) >= STALL_TIMEOUT {
                        return Err(self
                            .close_session("the replica of this watch does not catch up with the bucket")
                            .await);
                    }
                    self.on_caught_up();
                    self.through = self.through.max(through);
                    let concluded = self.conclude().await?;
                    self.queue.extend(concluded);
                    self.queue.push_back(WatchSignal::Heartbeat { through: self.through });
                }
                ConsumerEvent::Lost(why) => return Err(self.close_session(why).await),
                ConsumerEvent::Dropped => {
                    self.context.flow_window.halve();
                    return Err(self.close_session("a message was dropped").await);
                }
                ConsumerEvent::AcksDenied => return Err(self.on_acks_denied().await),
            }
        }
    }

    /// Records that the session has every message of the server. If that took longer than the server keeps limit markers,
    /// one may have expired before it was delivered: the session must prove that it missed no removal.
    fn on_caught_up(&mut self) {
        let Some(marker_ttl) = self.context.config.limit_markers.filter(|_| self.ready) else { return };
        let now = Instant::now();
        if now - std::mem::replace(&mut self.caught_up_at, now) < marker_ttl {
            return;
        }
        tracing::debug!(stream = self.context.stream, "a watch lagged for longer than markers are kept");
        if is_provable(&self.context, &self.delivered) {
            self.proof = Some(GapProof::new(false));
            self.ready = false;
        } else {
            self.queue.push_back(WatchSignal::Incomplete);
        }
    }

    /// Returns `Ready` once the listing is over, or `Incomplete` if the session may have missed a removal.
    async fn conclude(&mut self) -> Result<Option<WatchSignal>> {
        if self.ready || !self.backlog.is_complete() {
            return Ok(None);
        }
        if let Some(proof) = &mut self.proof {
            match proof.advance(&self.context, &self.request, &self.delivered, self.through).await {
                Ok(ProofStatus::Pending) => return Ok(None),
                Ok(ProofStatus::Proven) => {}
                Ok(ProofStatus::Failed) => return Ok(Some(WatchSignal::Incomplete)),
                Err(error) if error.is_denied() && proof.unproven() == ProofStatus::Proven => {}
                Err(error) if error.is_denied() => return Ok(Some(WatchSignal::Incomplete)),
                Err(error) => return Err(self.close_session(&error.to_string()).await),
            }
        }
        self.ready = true;
        self.delivered.end_listing();
        Ok(Some(WatchSignal::Ready))
    }

    /// Whether an idle server has nothing to deliver, although it reported pending messages. It may have waited for an
    /// acknowledgement. The server is therefore asked only when it is idle again after everything was acknowledged.
    async fn has_nothing_pending(&mut self) -> Result<bool> {
        if self.idle_after != Some(self.consumer.last()) {
            self.idle_after = Some(self.consumer.last());
            return Ok(false);
        }
        match self.consumer.position(Deadline::after(CHECK_TIMEOUT)).await {
            Ok(position) if position.waits => return Err(self.on_acks_denied().await),
            Ok(position) if position.pending > 0 => return Ok(false),
            Ok(_) => {}
            // Without permission to ask, trust the second heartbeat.
            Err(error) if error.is_denied() => {}
            Err(error) => return Err(self.close_session(&error.to_string()).await),
        }
        self.consumer.clear_pending();
        Ok(true)
    }

    /// Ends a session whose acknowledgements do not reach the server. The next session has no window.
    async fn on_acks_denied(&self) -> Error {
        self.context.flow_window.disable();
        self.close_session("acknowledgements do not reach the server").await
    }

    /// Continues an uncounted listing to the current last revision of the bucket. If the revision is not available, the
    /// listing continues until no message is pending.
    async fn extend_backlog(&mut self) {
        match self.context.stream_state(Deadline::after(CHECK_TIMEOUT)).await {
            Ok(state) => self.backlog.extend_to(state.last),
            Err(error) => tracing::debug!(stream = self.context.stream, %error, "the state of the bucket is unknown"),
        }
    }

    /// Returns the entry of a message, unless it was delivered before or matches no pattern.
    fn on_delivery(&mut self, mut stored: StoredMessage) -> Option<Result<RawEntry>> {
        if stored.revision <= self.through || self.patterns.is_empty() {
            return None;
        }
        self.through = stored.revision;
        let entry = stored.take_entry(&self.context.prefix);
        let created = stored.created;
        let marker = entry.as_ref().ok().filter(|entry| !entry.is_live());
        let ttl =
            marker.and_then(|marker| marker.ttl.map(Ttl::as_duration)).into_iter().chain(self.context.config.ttl).min();
        let expires = marker.and(ttl).and_then(|ttl| created.checked_add(ttl));
        self.delivered.insert(&stored.subject, expires, created);
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return Some(Err(error)),
        };
        self.patterns.matches(entry.key.as_str()).then_some(Ok(entry))
    }

    /// Returns the error that ends the session after something was lost.
    async fn close_session(&self, why: &str) -> Error {
        // Without a connection, no server can be asked.
        let time = if self.context.api.connection().is_connected() { CHECK_TIMEOUT } else { Duration::ZERO };
        match self.context.stream_state(Deadline::after(time)).await {
            Ok(state) if state.created != self.created => Error::new(ErrorKind::BucketNotFound),
            Err(error) if matches!(error.kind(), ErrorKind::BucketNotFound | ErrorKind::Closed) => error,
            _ => Error::unavailable(why),
        }
    }
}

/// Returns whether the delivered keys can prove that a resumed session missed no removal.
fn is_provable(context: &StreamContext, delivered: &Delivered) -> bool {
    delivered.is_complete() && (context.config.history == Some(1) || !delivered.is_listed())
}

/// Whether records expire without a message. The watch then evicts them itself, and the number of keys proves nothing.
fn expires_in_silence(context: &StreamContext) -> bool {
    context.config.limit_markers.is_none() && context.config.ttl.is_some()
}

/// Creates the request of the consumer. The patterns must not overlap.
fn consumer_request(
    context: &StreamContext,
    watch: &WatchRequest,
    patterns: &[Pattern],
    before: &StreamState,
) -> ConsumerRequest {
    let mut filters: Vec<_> = patterns.iter().map(|pattern| format!("{}{pattern}", context.prefix)).collect();
    if filters.is_empty() {
        // An empty list of filters would select every key.
        filters.push(format!("{}{NO_KEY}", context.prefix));
    }
    let next = |revision: Revision| Start::At(Revision::new(revision.get().saturating_add(1)));
    ConsumerRequest {
        stream: context.stream.clone(),
        filters,
        start: match watch.since {
            StartFrom::Newest => Start::Newest,
            StartFrom::History => Start::At(Revision::ZERO),
            StartFrom::Now => next(before.last),
            StartFrom::After(revision) => next(revision),
        },
        headers_only: watch.headers_only,
        heartbeat: HEARTBEAT,
        window: context.flow_window.size(),
    }
}
