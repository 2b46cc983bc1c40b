//! One session of a watch.
//!
//! A session reads the facts of the bucket, creates the consumer, and reads the facts again. It starts over if the
//! bucket was recreated in between. The facts determine where the consumer starts: at an explicit sequence, or at the
//! newest message of each subject, never at "new". So a delivery that restarts cannot present old messages as new.
//!
//! A session does not repair itself. If a message, the consumer or the connection is lost, it ends with the reason.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::time::Instant;

use super::backlog::Backlog;
use super::gap_proof::{GapProof, ProofStatus};
use super::scan;
use crate::backend::nats::bucket::StreamContext;
use crate::backend::nats::jetstream::consumer::{Consumer, ConsumerEvent, ConsumerRequest, Start};
use crate::backend::nats::jetstream::error;
use crate::backend::nats::jetstream::message::StoredMessage;
use crate::backend::nats::jetstream::stream_state;
use crate::backend::nats::jetstream::stream_state::{StreamState, has_no_gaps};
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
const LISTING_CHECK: Duration = Duration::from_secs(1);

/// Matches no key: no legal key begins with this character.
const NO_KEY: &str = "!";

pub(crate) fn watch(place: Arc<StreamContext>, watch: WatchRequest) -> BoxStream<'static, Result<WatchSignal>> {
    stream::unfold(State::Begin(place, watch), |state| async move {
        let mut sitting = match state {
            // Boxed, because it moves with each signal.
            State::Begin(place, watch) => match WatchSession::open_session(place, watch).await {
                Ok(sitting) => Box::new(sitting),
                Err(error) => return Some((Err(error), State::Over)),
            },
            State::Sits(sitting) => sitting,
            State::Over => return None,
        };
        match sitting.next().await {
            Ok(told @ Ok(WatchSignal::Incomplete)) => Some((told, State::Over)),
            Ok(told) => Some((told, State::Sits(sitting))),
            Err(error) => Some((Err(error), State::Over)),
        }
    })
    .fuse()
    .boxed()
}

/// The state of a watch.
enum State {
    Begin(Arc<StreamContext>, WatchRequest),
    Sits(Box<WatchSession>),
    Over,
}

struct WatchSession {
    place: Arc<StreamContext>,
    patterns: Patterns,
    created: SystemTime,
    consumer: Consumer,
    request: ConsumerRequest,
    listing: Backlog,
    /// Every subject that this session and the earlier ones delivered.
    delivered: Delivered,
    /// The proof that precedes `Ready`, if one is needed.
    proof: Option<GapProof>,
    ready: bool,
    /// When the session last had every message of the server.
    current: Instant,
    /// The last message before an idle server may have waited for an acknowledgement.
    idle_after: Option<u64>,
    /// Every matching entry up to this revision, inclusive, was delivered.
    upto: Revision,
    /// The signals to deliver before any other.
    first: VecDeque<WatchSignal>,
}

impl WatchSession {
    /// Starts a session. Its first signal is `Started`.
    async fn open_session(place: Arc<StreamContext>, watch: WatchRequest) -> Result<Self> {
        let deadline = Deadline::after(watch.idle_timeout);
        loop {
            let facts = StreamState::fetch(&place, deadline).await?;
            let mut patterns = watch.patterns.filters().to_vec();
            if place.api.connection().is_restricted() {
                patterns = scan::merge_filters(patterns);
            }
            let request = request(&place, &watch, &patterns, &facts);
            let consumer = match Consumer::create(&place.api, &request, deadline).await {
                Ok(consumer) => consumer,
                // The account has a lower limit on `max_ack_pending`. The next attempt uses that limit.
                Err(error) => match error::too_many_pending(&error) {
                    Some(Some(most)) if place.limit_window(most) => continue,
                    _ => return Err(error),
                },
            };
            let mut later = StreamState::fetch(&place, deadline).await?;
            let counts = place.reliable_multi_filter_pending || scan::has_reliable_pending(&patterns);
            let mut proof = None;
            let complete = match watch.since {
                StartFrom::After(revision) => {
                    let whole = request.filters == [format!("{}>", place.prefix)];
                    let counted = whole.then_some(consumer.pending);
                    let is_provable = counts && revision <= facts.last && is_provable(&place, &watch.delivered);
                    let tries = if is_provable { usize::from(whole) } else { stream_state::TRIES };
                    let kept = has_no_gaps(&place, &facts, &mut later, revision, counted, tries, deadline).await?;
                    let is_proven = kept && expires_in_silence(&place);
                    proof = (is_provable && !is_proven).then(|| GapProof::new(kept));
                    kept || is_provable
                }
                StartFrom::Newest | StartFrom::History | StartFrom::Now => true,
            };
            if later.created != facts.created {
                tracing::debug!(stream = place.stream, "a watch restarts, because the bucket was recreated");
                continue;
            }
            let begun = WatchStarted { created: facts.created, last_revision: facts.last, contiguous: complete };
            let start = match watch.since {
                StartFrom::Newest | StartFrom::History => Revision::ZERO,
                StartFrom::Now => facts.last,
                StartFrom::After(revision) => revision,
            };
            // The server that delivers may be behind the server that reported the facts.
            let behind = !later.replica_has_reached(consumer.server.as_deref(), facts.last);
            let min_revision = if behind { facts.last } else { Revision::ZERO };
            let listing = match counts {
                true => Backlog::new(consumer.pending, min_revision),
                false => Backlog::unreliable(later.last, min_revision),
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
            let ready = start >= facts.last && proof.is_none();
            if ready {
                watch.delivered.end_listing();
            }
            return Ok(Self {
                ready,
                request,
                delivered: watch.delivered,
                proof,
                patterns: watch.patterns,
                created: facts.created,
                first: match ready {
                    true => [WatchSignal::Started(begun), WatchSignal::Ready].into(),
                    false => [WatchSignal::Started(begun)].into(),
                },
                upto: start,
                current: Instant::now(),
                idle_after: None,
                place,
                consumer,
                listing,
            });
        }
    }

    /// Returns the next signal, or the error of one entry. An outer error ends the session.
    async fn next(&mut self) -> Result<Result<WatchSignal>> {
        loop {
            if let Some(signal) = self.first.pop_front() {
                return Ok(Ok(signal));
            }
            if let Some(signal) = self.conclude().await? {
                return Ok(Ok(signal));
            }
            // Usually the next message has already arrived, and the clock is not needed.
            let at_hand = if self.consumer.is_current() { self.consumer.try_next().await } else { None };
            let heard = match at_hand {
                Some(heard) => heard,
                // The idle timeout of the consumer is shorter.
                None => self.consumer.next(Instant::now() + 10 * HEARTBEAT).await?,
            };
            match heard {
                ConsumerEvent::Message(stored, behind) => {
                    self.listing.on_delivery(stored.revision, behind);
                    if behind == 0 {
                        self.caught_up();
                    }
                    if self.listing.is_target_reached() {
                        self.peek_position().await;
                    }
                    if let Some(entry) = self.on_delivery(stored) {
                        return Ok(entry.map(|entry| WatchSignal::Entry { entry, pending: behind }));
                    }
                }
                ConsumerEvent::Idle(_)
                    if self.consumer.may_be_stalled().await && !self.has_nothing_to_come().await? => {}
                ConsumerEvent::Idle(upto) => {
                    if self.listing.on_idle(upto) >= STALL_TIMEOUT {
                        return Err(self.close_session("the server that delivers is behind, and stays so").await);
                    }
                    self.caught_up();
                    self.upto = self.upto.max(upto);
                    let concluded = self.conclude().await?;
                    self.first.extend(concluded);
                    self.first.push_back(WatchSignal::Heartbeat { through: self.upto });
                }
                ConsumerEvent::Lost(why) => return Err(self.close_session(why).await),
                ConsumerEvent::Dropped => {
                    self.place.narrow_window();
                    return Err(self.close_session("a message was dropped").await);
                }
                ConsumerEvent::Unheard => return Err(self.unheard().await),
            }
        }
    }

    /// Records that the session has every message of the server. If that took longer than the server keeps limit markers,
    /// one may have expired before it was delivered: the session must prove that it missed no removal.
    fn caught_up(&mut self) {
        let Some(kept) = self.place.config.limit_markers.filter(|_| self.ready) else { return };
        let now = Instant::now();
        if now - std::mem::replace(&mut self.current, now) < kept {
            return;
        }
        tracing::debug!(stream = self.place.stream, "a watch lagged for longer than markers are kept");
        if is_provable(&self.place, &self.delivered) {
            self.proof = Some(GapProof::new(false));
            self.ready = false;
        } else {
            self.first.push_back(WatchSignal::Incomplete);
        }
    }

    /// Returns `Ready` once the listing is over, or `Incomplete` if the session may have missed a removal.
    async fn conclude(&mut self) -> Result<Option<WatchSignal>> {
        if self.ready || !self.listing.is_complete() {
            return Ok(None);
        }
        if let Some(proof) = &mut self.proof {
            match proof.advance(&self.place, &self.request, &self.delivered, self.upto).await {
                Ok(ProofStatus::Pending) => return Ok(None),
                Ok(ProofStatus::Proven) => {}
                Ok(ProofStatus::Failed) => return Ok(Some(WatchSignal::Incomplete)),
                Err(error) if error.is_denied() && proof.not_started() == ProofStatus::Proven => {}
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
    async fn has_nothing_to_come(&mut self) -> Result<bool> {
        if self.idle_after != Some(self.consumer.last()) {
            self.idle_after = Some(self.consumer.last());
            return Ok(false);
        }
        match self.consumer.position(Deadline::after(LISTING_CHECK)).await {
            Ok(ahead) if ahead.waits => return Err(self.unheard().await),
            Ok(ahead) if ahead.pending > 0 => return Ok(false),
            Ok(_) => {}
            // Without permission to ask, trust the second heartbeat.
            Err(error) if error.is_denied() => {}
            Err(error) => return Err(self.close_session(&error.to_string()).await),
        }
        self.consumer.settle();
        Ok(true)
    }

    /// Ends a session whose acknowledgements do not reach the server. The next session has no window.
    async fn unheard(&self) -> Error {
        self.place.flow_window_disabled.store(true, Ordering::Relaxed);
        self.close_session("acknowledgements do not reach the server").await
    }

    /// Continues an uncounted listing to the current last revision of the bucket. If the revision is not available, the
    /// listing continues until no message is pending.
    async fn peek_position(&mut self) {
        match StreamState::fetch(&self.place, Deadline::after(LISTING_CHECK)).await {
            Ok(facts) => self.listing.extend_to(facts.last),
            Err(error) => tracing::debug!(stream = self.place.stream, %error, "the state of the bucket is unknown"),
        }
    }

    /// Returns the entry of a message, unless it was delivered before or matches no pattern.
    fn on_delivery(&mut self, mut stored: StoredMessage) -> Option<Result<RawEntry>> {
        if stored.revision <= self.upto || self.patterns.is_empty() {
            return None;
        }
        self.upto = stored.revision;
        let entry = stored.take_entry(&self.place.prefix);
        let created = stored.created;
        let marker = entry.as_ref().ok().filter(|entry| !entry.is_live());
        let ttl =
            marker.and_then(|marker| marker.ttl.map(Ttl::as_duration)).into_iter().chain(self.place.config.ttl).min();
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
        let time = if self.place.api.connection().is_connected() { LISTING_CHECK } else { Duration::ZERO };
        match StreamState::fetch(&self.place, Deadline::after(time)).await {
            Ok(facts) if facts.created != self.created => Error::new(ErrorKind::BucketNotFound),
            Err(error) if matches!(error.kind(), ErrorKind::BucketNotFound | ErrorKind::Closed) => error,
            _ => Error::unavailable(why),
        }
    }
}

/// Returns whether the delivered keys can prove that a resumed session missed no removal.
fn is_provable(place: &StreamContext, delivered: &Delivered) -> bool {
    delivered.is_complete() && (place.config.history == Some(1) || !delivered.is_listed())
}

/// Whether records expire without a message. The watch then evicts them itself, and the number of keys proves nothing.
fn expires_in_silence(place: &StreamContext) -> bool {
    place.config.limit_markers.is_none() && place.config.ttl.is_some()
}

/// Creates the request of the consumer. The patterns must not overlap.
fn request(place: &StreamContext, watch: &WatchRequest, patterns: &[Pattern], facts: &StreamState) -> ConsumerRequest {
    let mut filters: Vec<_> = patterns.iter().map(|pattern| format!("{}{pattern}", place.prefix)).collect();
    if filters.is_empty() {
        // An empty list of filters would select every key.
        filters.push(format!("{}{NO_KEY}", place.prefix));
    }
    let next = |revision: Revision| Start::At(Revision::new(revision.get().saturating_add(1)));
    ConsumerRequest {
        stream: place.stream.clone(),
        filters,
        start: match watch.since {
            StartFrom::Newest => Start::Newest,
            StartFrom::History => Start::At(Revision::ZERO),
            StartFrom::Now => next(facts.last),
            StartFrom::After(revision) => next(revision),
        },
        headers_only: watch.headers_only,
        heartbeat: HEARTBEAT,
        window: place.window(),
    }
}
