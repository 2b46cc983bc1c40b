//! Listings of the entries of all matching keys.
//!
//! The newest entry of each key arrives in revision order. If a key is written during the scan, its old entry is
//! skipped and its new entry arrives later. So a scan continues until nothing is pending. Under writes that never
//! pause, the scan ends after a second round: at the entries that were pending when the last initial entry arrived.
//!
//! A list of few entries is one request, see [`get_matching`](super::get_matching). Any other scan uses one consumer, whatever the number of entries.
//! Without a consumer, each page would make the server examine all entries after it. The server sends at most a window
//! ahead of the reader, so the reader may be slow.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};

use super::backlog::Backlog;
use super::filters::filters;
use super::get_matching::get_matching;
use crate::backend::nats::context::StreamContext;
use crate::backend::nats::jetstream::consumer::{Consumer, ConsumerEvent};
use crate::backend::nats::jetstream::consumer_request::{ConsumerRequest, Start};
use crate::backend::nats::jetstream::error::max_ack_pending_limit;
use crate::backend::nats::jetstream::message::StoredMessage;
use crate::backend::{Backoff, Deadline, ScanItem, ScanRequest};
use crate::error::Result;
use crate::revision::Revision;

/// The minimum and the maximum interval between the heartbeats of an idle server.
const HEARTBEATS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

/// The time limit for a report of the pending messages.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// The minimum and the maximum number of messages that a server sends ahead of the reader.
const FLOW_WINDOW: (usize, usize) = (32, 4_096);

/// Scans the entries of matching keys.
pub(crate) fn scan(context: Arc<StreamContext>, request: ScanRequest) -> BoxStream<'static, Result<ScanItem>> {
    if request.patterns.is_empty() {
        return stream::empty().boxed();
    }
    run(Scanner::new(context, request))
}

/// Scans the entries of matching keys without a direct get, for users without that permission.
pub(crate) fn scan_by_consumer(
    context: Arc<StreamContext>,
    request: ScanRequest,
) -> BoxStream<'static, Result<ScanItem>> {
    run(Scanner { is_new: false, ..Scanner::new(context, request) })
}

fn run(scanner: Scanner) -> BoxStream<'static, Result<ScanItem>> {
    // Boxed, because it is moved with each entry.
    stream::unfold(Some(Box::new(scanner)), |scanner| async move {
        let mut scanner = scanner?;
        match scanner.next().await {
            Ok(Some(entry)) => Some((entry, Some(scanner))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed()
}

struct Scanner {
    context: Arc<StreamContext>,
    request: ScanRequest,
    consumer: Option<Consumer>,
    backoff: Backoff,
    /// The revision of the last message, or the revision before the first one.
    last: Revision,
    /// The messages that the current consumer has yet to deliver.
    backlog: Backlog,
    /// Whether the entries of a single request were all entries.
    is_matched: bool,
    /// Whether no request was sent yet.
    is_new: bool,
    /// Entries of a single request.
    matching: VecDeque<(StoredMessage, u64)>,
    /// Whether the server sends at most a window ahead of the reader.
    windowed: bool,
    /// Whether the consumer, by the last report, waits for an acknowledgement that was already sent.
    waits: bool,
}

impl Scanner {
    fn new(context: Arc<StreamContext>, request: ScanRequest) -> Self {
        Self {
            last: request.after,
            windowed: !context.flow_window.is_disabled(),
            context,
            request,
            consumer: None,
            backoff: Backoff::outage(),
            backlog: Backlog::verified(0, false),
            is_matched: false,
            is_new: true,
            matching: VecDeque::new(),
            waits: false,
        }
    }

    /// Returns the next entry, or an error in place of one entry. An error of the scan itself ends the scan.
    async fn next(&mut self) -> Result<Option<Result<ScanItem>>> {
        let mut first_deadline = None;
        if std::mem::take(&mut self.is_new) {
            let deadline = Deadline::after(self.request.idle_timeout);
            self.request_matching(deadline).boxed().await?;
            first_deadline = Some(deadline);
        }
        while let Some((stored, pending)) = self.matching.pop_front() {
            if let Some(entry) = self.on_delivery(stored, pending) {
                return Ok(Some(entry));
            }
        }
        // Usually the next message has already arrived, and no deadline is needed.
        let mut arrived = match &mut self.consumer {
            Some(consumer) if !self.backlog.is_complete() && !self.backlog.needs_check() => consumer.try_next().await,
            _ => None,
        };
        if let Some(ConsumerEvent::Message(stored, pending)) = arrived {
            if let Some(entry) = self.on_event(stored, pending) {
                return Ok(Some(entry));
            }
            arrived = None;
        }
        // A request without a reply shares its deadline with the consumer that replaces it.
        let mut deadline = first_deadline.unwrap_or_else(|| Deadline::after(self.request.idle_timeout));
        while !self.is_matched {
            let Some(consumer) = &mut self.consumer else {
                self.create_consumer(deadline).await?;
                continue;
            };
            if self.backlog.is_complete() {
                break;
            }
            if self.backlog.needs_check() {
                self.check_progress(deadline).await?;
                continue;
            }
            let event = match arrived.take() {
                Some(event) => event,
                None => consumer.next(deadline.at()).await?,
            };
            match event {
                ConsumerEvent::Message(stored, pending) => {
                    deadline = Deadline::after(self.request.idle_timeout);
                    if let Some(entry) = self.on_event(stored, pending) {
                        return Ok(Some(entry));
                    }
                }
                // Some pending entries may no longer exist.
                ConsumerEvent::Idle(_) => self.check_progress(deadline).await?,
                ConsumerEvent::AcksDenied => self.on_acks_denied(deadline).await?,
                ConsumerEvent::Dropped => {
                    self.context.flow_window.halve();
                    self.on_lost("a message was dropped", deadline).await?;
                }
                ConsumerEvent::Lost(why) => self.on_lost(why, deadline).await?,
            }
        }
        self.consumer = None;
        Ok(None)
    }

    /// Tries to read all entries with one request.
    async fn request_matching(&mut self, deadline: Deadline) -> Result<()> {
        let Self { context, request, .. } = self;
        let is_plain =
            !request.history && !request.headers_only && request.after == Revision::ZERO && request.limit.is_none();
        let [filter] = request.patterns.filters() else { return Ok(()) };
        if !is_plain {
            return Ok(());
        }
        let filter = format!("{}{filter}", context.prefix);
        if let Some(matching) = get_matching(context, &filter, deadline).await? {
            (self.matching, self.is_matched) = (matching.entries, matching.is_complete);
        }
        Ok(())
    }

    async fn on_lost(&mut self, why: &str, deadline: Deadline) -> Result<()> {
        tracing::debug!(stream = self.context.stream, why, "a scan continues with another consumer");
        self.consumer = None;
        if self.backoff.pause(deadline).await { Ok(()) } else { Err(deadline.error()) }
    }

    async fn on_acks_denied(&mut self, deadline: Deadline) -> Result<()> {
        self.context.flow_window.disable();
        self.disable_flow_window("the server does not receive its acknowledgements", deadline).await
    }

    async fn disable_flow_window(&mut self, why: &str, deadline: Deadline) -> Result<()> {
        self.windowed = false;
        self.on_lost(why, deadline).await
    }

    async fn create_consumer(&mut self, deadline: Deadline) -> Result<()> {
        let Self { context, request, last, windowed, .. } = self;
        let patterns =
            filters(&request.patterns, context.reliable_multi_filter_pending, context.api.connection().is_restricted());
        let filters = patterns.iter().map(|pattern| format!("{}{pattern}", context.prefix));
        // With a history of 1, every message after a revision is the newest of its key. Otherwise the scan starts with
        // the newest entry of each key and skips the revisions up to `last`.
        let by_revision = request.history || context.config.history == Some(1) && *last > Revision::ZERO;
        let preferred = request.limit.unwrap_or(FLOW_WINDOW.1).clamp(FLOW_WINDOW.0, FLOW_WINDOW.1);
        let window = context
            .flow_window
            .size()
            .filter(|_| *windowed)
            .map(|window| window.min(u32::try_from(preferred).unwrap_or(window)));
        let consumer_request = ConsumerRequest {
            stream: context.stream.clone(),
            filters: filters.collect(),
            start: if by_revision { Start::At(Revision::new(last.get() + 1)) } else { Start::Newest },
            headers_only: request.headers_only,
            heartbeat: (request.idle_timeout / 5).clamp(HEARTBEATS.0, HEARTBEATS.1),
            window,
        };
        let consumer = match Consumer::create(&context.api, &consumer_request, deadline).await {
            Ok(consumer) => consumer,
            Err(error) => match max_ack_pending_limit(&error) {
                // The next attempt uses the limit that the server named.
                Some(Some(limit)) if context.flow_window.set_limit(limit) => return Ok(()),
                Some(_) if *windowed => {
                    *windowed = false;
                    return Ok(());
                }
                _ => return Err(error),
            },
        };
        self.backlog = Backlog::verified(consumer.pending, request.history);
        self.waits = false;
        self.consumer = Some(consumer);
        Ok(())
    }

    /// Asks the server for the number of pending messages.
    async fn check_progress(&mut self, deadline: Deadline) -> Result<()> {
        let Some(consumer) = &self.consumer else { return Ok(()) };
        let check_deadline =
            if self.windowed { Deadline::after(deadline.remaining().min(CHECK_TIMEOUT)) } else { deadline };
        match consumer.position(check_deadline).await {
            Ok(position) if position.waits && self.waits => self.on_acks_denied(deadline).await,
            Ok(position) => {
                self.waits = position.waits;
                self.backlog.on_pending(position.pending);
                Ok(())
            }
            // A timeout may mean that the window is full.
            Err(error) if self.windowed => self.disable_flow_window(&error.to_string(), deadline).await,
            Err(error) if error.is_denied() => {
                self.backlog.on_check_denied();
                Ok(())
            }
            Err(error) => self.on_lost(&error.to_string(), deadline).await,
        }
    }

    /// Counts a message and returns its result, if it has one.
    fn on_event(&mut self, stored: StoredMessage, pending: u64) -> Option<Result<ScanItem>> {
        self.waits = false;
        self.backlog.on_delivery(stored.revision, pending);
        self.on_delivery(stored, pending)
    }

    /// Returns the entry of a message, if the scan includes it.
    fn on_delivery(&mut self, stored: StoredMessage, pending: u64) -> Option<Result<ScanItem>> {
        if stored.revision <= self.last {
            return None;
        }
        self.last = stored.revision;
        let entry = match stored.entry(&self.context.prefix) {
            Ok(entry) => entry,
            Err(error) => return Some(Err(error)),
        };
        let matches = self.request.patterns.matches(entry.key.as_str());
        matches.then_some(Ok(ScanItem { entry, pending }))
    }
}
