//! Listings of the entries of all matching keys.
//!
//! The newest entry of each key arrives in revision order. If a key is written during the scan, its old entry is
//! skipped and its new entry arrives later. So a scan continues until nothing is pending. Under writes that never
//! pause, the scan ends after a second round: at the entries that were pending when the last initial entry arrived.
//!
//! A list of few entries is one request, see [`few`]. Any other scan uses one consumer, whatever the number of entries.
//! Without a consumer, each page would make the server examine all entries after it. The server sends at most a window
//! ahead of the reader, so the reader may be slow.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};

use super::get_matching;
use crate::backend::nats::bucket::StreamContext;
use crate::backend::nats::jetstream::consumer::{Consumer, ConsumerEvent, ConsumerRequest, Start};
use crate::backend::nats::jetstream::error;
use crate::backend::nats::jetstream::message::StoredMessage;
use crate::backend::{Backoff, Deadline, ScanItem, ScanRequest};
use crate::error::Result;
use crate::key::{Pattern, Patterns};
use crate::revision::Revision;

/// The minimum and the maximum interval between the heartbeats of an idle server.
const HEARTBEATS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

/// The time limit for a report of the pending messages.
const SHORT_SCAN: Duration = Duration::from_secs(1);

/// The minimum and the maximum number of messages that a server sends ahead of the reader.
const FLOW_WINDOW: (usize, usize) = (32, 4_096);

pub(crate) fn scan(place: Arc<StreamContext>, scan: ScanRequest) -> BoxStream<'static, Result<ScanItem>> {
    if scan.patterns.is_empty() {
        return stream::empty().boxed();
    }
    run(Scanner::new(place, scan))
}

/// A scan that sends no direct get, for users without that permission.
pub(crate) fn by_consumer(place: Arc<StreamContext>, scan: ScanRequest) -> BoxStream<'static, Result<ScanItem>> {
    run(Scanner { is_new: false, ..Scanner::new(place, scan) })
}

fn run(scanning: Scanner) -> BoxStream<'static, Result<ScanItem>> {
    // Boxed, because it is moved with each entry.
    stream::unfold(Some(Box::new(scanning)), |scanning| async move {
        let mut scanning = scanning?;
        match scanning.next().await {
            Ok(Some(entry)) => Some((entry, Some(scanning))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed()
}

/// Returns the filters for the server, which may match more than `patterns`.
///
/// A scan ends when all pending entries have arrived. Some servers count too few entries of several filters, unless the
/// filters are exact keys with the same number of tokens. Such a server gets one filter. A restricted user also gets
/// one filter, because permissions can limit only a request with one filter to some keys.
fn filters(patterns: &Patterns, counted: bool, restricted: bool) -> Vec<Pattern> {
    let disjoint = patterns.filters().to_vec();
    if !restricted && (counted || has_reliable_pending(&disjoint)) {
        return disjoint;
    }
    merge_filters(disjoint)
}

/// Joins the patterns into one that matches at least the same keys.
pub(crate) fn merge_filters(patterns: Vec<Pattern>) -> Vec<Pattern> {
    patterns.into_iter().reduce(|one, other| one.join(&other)).into_iter().collect()
}

/// Returns whether every server counts the pending messages of these disjoint filters correctly.
pub(crate) fn has_reliable_pending(disjoint: &[Pattern]) -> bool {
    let length = |pattern: &Pattern| pattern.as_exact().map(|_| pattern.tokens().len());
    let plain = |pattern: &Pattern| length(pattern).is_some() && length(pattern) == length(&disjoint[0]);
    disjoint.len() < 2 || disjoint.iter().all(plain)
}

struct Scanner {
    place: Arc<StreamContext>,
    scan: ScanRequest,
    consumer: Option<Consumer>,
    backoff: Backoff,
    /// The revision of the last message, or the revision before the first one.
    last: Revision,
    /// The number of messages of the current consumer until the end of the round.
    left: u64,
    /// The number of pending messages according to the last message.
    pending: u64,
    /// Whether this round contains the entries that existed when the consumer was created.
    first_round: bool,
    /// Whether the server's number of pending messages decreased by one with each message.
    steady: bool,
    /// Whether the server must be asked for the number of pending messages.
    unsure: bool,
    over: bool,
    /// Whether no request was sent yet.
    is_new: bool,
    /// Entries of a single request.
    few: VecDeque<(StoredMessage, u64)>,
    /// Whether the server sends at most a window ahead of the reader.
    windowed: bool,
    /// Whether the consumer, by the last report, waits for an acknowledgement that was already sent.
    waits: bool,
}

impl Scanner {
    fn new(place: Arc<StreamContext>, scan: ScanRequest) -> Self {
        Self {
            last: scan.after,
            windowed: !place.flow_window_disabled.load(Ordering::Relaxed),
            place,
            scan,
            consumer: None,
            backoff: Backoff::outage(),
            left: 0,
            pending: 0,
            first_round: true,
            steady: true,
            unsure: false,
            over: false,
            is_new: true,
            few: VecDeque::new(),
            waits: false,
        }
    }

    /// Returns the next entry, or an error in place of one entry. An error of the scan itself ends the scan.
    async fn next(&mut self) -> Result<Option<Result<ScanItem>>> {
        let mut begun = None;
        if std::mem::take(&mut self.is_new) {
            let deadline = Deadline::after(self.scan.idle_timeout);
            self.ask_for_few(deadline).boxed().await?;
            begun = Some(deadline);
        }
        while let Some((stored, behind)) = self.few.pop_front() {
            if let Some(entry) = self.on_delivery(stored, behind) {
                return Ok(Some(entry));
            }
        }
        // Usually the next message has already arrived, and no deadline is needed.
        let mut at_hand = match &mut self.consumer {
            Some(consumer) if !self.over && !self.unsure => consumer.try_next().await,
            _ => None,
        };
        if let Some(ConsumerEvent::Message(stored, pending)) = at_hand {
            if let Some(entry) = self.on_event(stored, pending) {
                return Ok(Some(entry));
            }
            at_hand = None;
        }
        // A request without an answer shares its deadline with the consumer that replaces it.
        let mut deadline = begun.unwrap_or_else(|| Deadline::after(self.scan.idle_timeout));
        while !self.over {
            let Some(consumer) = &mut self.consumer else {
                self.create_consumer(deadline).await?;
                continue;
            };
            if self.unsure {
                self.check_progress(deadline).await?;
                continue;
            }
            let heard = match at_hand.take() {
                Some(heard) => heard,
                None => consumer.next(deadline.at()).await?,
            };
            match heard {
                ConsumerEvent::Message(stored, pending) => {
                    deadline = Deadline::after(self.scan.idle_timeout);
                    if let Some(entry) = self.on_event(stored, pending) {
                        return Ok(Some(entry));
                    }
                }
                // Some pending entries may no longer exist.
                ConsumerEvent::Idle(_) => self.check_progress(deadline).await?,
                ConsumerEvent::Unheard => self.on_ack_denied(deadline).await?,
                ConsumerEvent::Dropped => {
                    self.place.narrow_window();
                    self.on_lost("a message was dropped", deadline).await?;
                }
                ConsumerEvent::Lost(why) => self.on_lost(why, deadline).await?,
            }
        }
        self.consumer = None;
        Ok(None)
    }

    /// Tries to read all of it by one request.
    async fn ask_for_few(&mut self, deadline: Deadline) -> Result<()> {
        let Self { place, scan, .. } = self;
        let is_plain = !scan.history && !scan.headers_only && scan.after == Revision::ZERO && scan.limit.is_none();
        let [filter] = scan.patterns.filters() else { return Ok(()) };
        if !is_plain {
            return Ok(());
        }
        let filter = format!("{}{filter}", place.prefix);
        if let Some(few) = get_matching::ask(place, &filter, deadline).await? {
            (self.few, self.over) = (few.entries, few.is_all);
        }
        Ok(())
    }

    async fn on_lost(&mut self, why: &str, deadline: Deadline) -> Result<()> {
        tracing::debug!(stream = self.place.stream, why, "a scan continues with another consumer");
        self.consumer = None;
        if self.backoff.pause(deadline).await { Ok(()) } else { Err(deadline.error()) }
    }

    async fn on_ack_denied(&mut self, deadline: Deadline) -> Result<()> {
        self.place.flow_window_disabled.store(true, Ordering::Relaxed);
        self.disable_flow_window("the server does not receive its acknowledgements", deadline).await
    }

    async fn disable_flow_window(&mut self, why: &str, deadline: Deadline) -> Result<()> {
        self.windowed = false;
        self.on_lost(why, deadline).await
    }

    async fn create_consumer(&mut self, deadline: Deadline) -> Result<()> {
        let Self { place, scan, last, windowed, .. } = self;
        let patterns =
            filters(&scan.patterns, place.reliable_multi_filter_pending, place.api.connection().is_restricted());
        let filters = patterns.iter().map(|pattern| format!("{}{pattern}", place.prefix));
        // With a history of 1, every message after a revision is the newest of its key. Otherwise the scan starts with
        // the newest entry of each key and skips the revisions up to `last`.
        let from = scan.history || place.config.history == Some(1) && *last > Revision::ZERO;
        let wanted = scan.limit.unwrap_or(FLOW_WINDOW.1).clamp(FLOW_WINDOW.0, FLOW_WINDOW.1);
        let window =
            place.window().filter(|_| *windowed).map(|window| window.min(u32::try_from(wanted).unwrap_or(window)));
        let request = ConsumerRequest {
            stream: place.stream.clone(),
            filters: filters.collect(),
            start: if from { Start::At(Revision::new(last.get() + 1)) } else { Start::Newest },
            headers_only: scan.headers_only,
            heartbeat: (scan.idle_timeout / 5).clamp(HEARTBEATS.0, HEARTBEATS.1),
            window,
        };
        let consumer = match Consumer::create(&place.api, &request, deadline).await {
            Ok(consumer) => consumer,
            Err(error) => match error::too_many_pending(&error) {
                // The next attempt uses the limit that the server named.
                Some(Some(most)) if place.limit_window(most) => return Ok(()),
                Some(_) if *windowed => {
                    *windowed = false;
                    return Ok(());
                }
                _ => return Err(error),
            },
        };
        self.left = consumer.pending;
        (self.first_round, self.steady, self.unsure, self.waits) = (true, true, false, false);
        self.over = self.left == 0;
        self.consumer = Some(consumer);
        Ok(())
    }

    /// Counts a message with this number of pending messages after it.
    ///
    /// While a pending key is written, a server no longer counts its old entry and does not yet count its new one. So
    /// the number is trusted only if it decreased by one with each message. Otherwise the server is asked again.
    fn count(&mut self, pending: u64) {
        self.left = self.left.saturating_sub(1);
        self.steady &= pending == self.left;
        self.pending = pending;
        if pending == 0 || self.left == 0 {
            self.over = self.steady || self.left == 0 && (!self.first_round || self.scan.history);
            self.unsure = !self.over;
        }
    }

    /// Asks the server for the number of pending messages.
    async fn check_progress(&mut self, deadline: Deadline) -> Result<()> {
        self.unsure = false;
        let Some(consumer) = &self.consumer else { return Ok(()) };
        let soon = if self.windowed { Deadline::after(deadline.remaining().min(SHORT_SCAN)) } else { deadline };
        match consumer.position(soon).await {
            Ok(ahead) if ahead.waits && self.waits => self.on_ack_denied(deadline).await,
            Ok(ahead) => {
                self.waits = ahead.waits;
                self.retry_if(ahead.pending);
                Ok(())
            }
            // A timeout may mean that the window is full.
            Err(error) if self.windowed => self.disable_flow_window(&error.to_string(), deadline).await,
            // If the user may not ask, the last reported number decides. If messages of the round are missing, the
            // silence ends the scan.
            Err(error) if error.is_denied() => {
                let told = if self.left == 0 { self.pending } else { 0 };
                self.retry_if(told);
                Ok(())
            }
            Err(error) => self.on_lost(&error.to_string(), deadline).await,
        }
    }

    fn retry_if(&mut self, pending: u64) {
        self.over = pending == 0;
        if self.left == 0 {
            // Every initial entry arrived or was written again. An entry that was written again is still pending.
            self.first_round = false;
            self.left = pending;
        }
    }

    /// Counts a message and returns its result, if it has one.
    fn on_event(&mut self, stored: StoredMessage, pending: u64) -> Option<Result<ScanItem>> {
        self.waits = false;
        self.count(pending);
        self.on_delivery(stored, pending)
    }

    /// Returns the entry of a message, if the scan includes it.
    fn on_delivery(&mut self, stored: StoredMessage, behind: u64) -> Option<Result<ScanItem>> {
        if stored.revision <= self.last {
            return None;
        }
        self.last = stored.revision;
        let entry = match stored.entry(&self.place.prefix) {
            Ok(entry) => entry,
            Err(error) => return Some(Err(error)),
        };
        let matches = self.scan.patterns.matches(entry.key.as_str());
        matches.then_some(Ok(ScanItem { entry, pending: behind }))
    }
}
