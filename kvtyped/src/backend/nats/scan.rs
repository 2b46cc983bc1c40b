//! The entries of all keys that match.
//!
//! The newest of each key come in the order of their revisions. A key that is written while the scan goes on is skipped
//! where it was, and comes later; so a scan goes on until nothing is to come. Under writes that never pause it ends when it
//! has caught up with where they were when the last of the first entries came.
//!
//! It is one consumer, whatever the number of entries: a page read without one costs the server a look at all that is
//! behind it. The server sends ahead of the reader, no more than a window, so that a reader may take its time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, BoxStream};

use super::bucket::Place;
use super::consumer::{Consumer, Heard, Request, Start};
use super::convert;
use super::record::Stored;
use crate::backend::{Backoff, Deadline, Scan, Scanned};
use crate::error::Result;
use crate::key::{Pattern, Patterns};
use crate::revision::Revision;

/// How often, at most and at least, an idle server says that it lives.
const HEARTBEATS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

/// How soon a server tells how far it is, if it does.
const SOON: Duration = Duration::from_secs(1);

/// How many messages a server sends ahead of the reader, at least and at most.
const WINDOW: (usize, usize) = (32, 4_096);

pub(super) fn scan(place: Arc<Place>, scan: Scan) -> BoxStream<'static, Result<Scanned>> {
    if scan.patterns.is_empty() {
        return stream::empty().boxed();
    }
    // In a box: it is handed on with each entry.
    stream::unfold(Some(Box::new(Scanning::new(place, scan))), |scanning| async move {
        let mut scanning = scanning?;
        match scanning.next().await {
            Ok(Some(entry)) => Some((entry, Some(scanning))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed()
}

/// What the server is asked for: it may match more than `patterns`.
///
/// A scan ends when all that was to come came. A server that counts too few of several filters, unless they are keys of
/// one length, is asked for one filter; and so is any for whom a permission says which keys those may be.
fn filters(patterns: &Patterns, counted: bool, confined: bool) -> Vec<Pattern> {
    let disjoint = patterns.filters().to_vec();
    if !confined && (counted || are_counted(&disjoint)) {
        return disjoint;
    }
    joined(disjoint)
}

/// One that matches what any of these matches, or more.
pub(super) fn joined(patterns: Vec<Pattern>) -> Vec<Pattern> {
    patterns.into_iter().reduce(|one, other| one.join(&other)).into_iter().collect()
}

/// Whether every server counts right what is to come for these filters, which do not overlap.
pub(super) fn are_counted(disjoint: &[Pattern]) -> bool {
    let length = |pattern: &Pattern| pattern.as_exact().map(|_| pattern.tokens().len());
    let plain = |pattern: &Pattern| length(pattern).is_some() && length(pattern) == length(&disjoint[0]);
    disjoint.len() < 2 || disjoint.iter().all(plain)
}

struct Scanning {
    place: Arc<Place>,
    scan: Scan,
    consumer: Option<Consumer>,
    backoff: Backoff,
    /// The revision of the last message that came, or the one after which to begin.
    last: Revision,
    /// How many messages are to come until the end, of the current consumer.
    left: u64,
    /// How many were to come after the last message, as it told.
    pending: u64,
    /// Whether those are the ones that were there when the consumer was made.
    first_round: bool,
    /// Whether the server's count of what is to come went down by one with each message.
    steady: bool,
    /// Whether it has to be asked how many are to come.
    unsure: bool,
    over: bool,
    /// Whether the server sends no more than a window ahead of the reader.
    windowed: bool,
    /// Whether the consumer waits, as was learned last, for an acknowledgement that was sent.
    waits: bool,
}

impl Scanning {
    fn new(place: Arc<Place>, scan: Scan) -> Self {
        Self {
            last: scan.after,
            windowed: !place.unwindowed.load(Ordering::Relaxed),
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
            waits: false,
        }
    }

    /// The next entry, or an error in the place of one; an error of the scan itself ends it.
    async fn next(&mut self) -> Result<Option<Result<Scanned>>> {
        // Most of the time the next message is there, and nobody need know what time it is.
        let mut at_hand = match &mut self.consumer {
            Some(consumer) if !self.over && !self.unsure => consumer.at_hand().await,
            _ => None,
        };
        if let Some(Heard::Message(stored, pending)) = at_hand {
            if let Some(entry) = self.hear(stored, pending) {
                return Ok(Some(entry));
            }
            at_hand = None;
        }
        let mut deadline = Deadline::after(self.scan.patience);
        while !self.over {
            let Some(consumer) = &mut self.consumer else {
                self.begin(deadline).await?;
                continue;
            };
            if self.unsure {
                self.look(deadline).await?;
                continue;
            }
            let heard = match at_hand.take() {
                Some(heard) => heard,
                None => consumer.next(deadline.at()).await?,
            };
            match heard {
                Heard::Message(stored, pending) => {
                    deadline = Deadline::after(self.scan.patience);
                    if let Some(entry) = self.hear(stored, pending) {
                        return Ok(Some(entry));
                    }
                }
                // Some of what was to come may be there no longer.
                Heard::Idle(_) => self.look(deadline).await?,
                Heard::Unheard => self.unheard(deadline).await?,
                Heard::Dropped => {
                    self.place.narrow_window();
                    self.lost("a message was dropped", deadline).await?;
                }
                Heard::Lost(why) => self.lost(why, deadline).await?,
            }
        }
        self.consumer = None;
        Ok(None)
    }

    async fn lost(&mut self, why: &str, deadline: Deadline) -> Result<()> {
        tracing::debug!(stream = self.place.stream, why, "a scan goes on with another consumer");
        self.consumer = None;
        if self.backoff.pause(deadline).await { Ok(()) } else { Err(deadline.error()) }
    }

    async fn unheard(&mut self, deadline: Deadline) -> Result<()> {
        self.place.unwindowed.store(true, Ordering::Relaxed);
        self.without_window("its acknowledgements are not heard", deadline).await
    }

    async fn without_window(&mut self, why: &str, deadline: Deadline) -> Result<()> {
        self.windowed = false;
        self.lost(why, deadline).await
    }

    async fn begin(&mut self, deadline: Deadline) -> Result<()> {
        let Self { place, scan, last, windowed, .. } = self;
        let patterns = filters(&scan.patterns, place.counts_filters, place.api.wire().is_confined());
        let filters = patterns.iter().map(|pattern| format!("{}{pattern}", place.prefix));
        // Where one revision is kept, what comes after one is the newest; else the older ones have to be passed over.
        let from = scan.history || place.config.history == Some(1) && *last > Revision::ZERO;
        let wanted = scan.wanted.unwrap_or(WINDOW.1).clamp(WINDOW.0, WINDOW.1);
        let window =
            place.window().filter(|_| *windowed).map(|window| window.min(u32::try_from(wanted).unwrap_or(window)));
        let request = Request {
            stream: place.stream.clone(),
            filters: filters.collect(),
            start: if from { Start::At(Revision::new(last.get() + 1)) } else { Start::Newest },
            headers_only: scan.headers_only,
            heartbeat: (scan.patience / 5).clamp(HEARTBEATS.0, HEARTBEATS.1),
            window,
        };
        let consumer = match Consumer::create(&place.api, &request, deadline).await {
            Ok(consumer) => consumer,
            Err(error) => match convert::too_many_pending(&error) {
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

    /// Counts a message after which so many are to come.
    ///
    /// While a key is written that is still to come, a server counts its old entry no longer, and its new one not yet. So
    /// its count is believed if it went down by one with each message; else it is asked again.
    fn count(&mut self, pending: u64) {
        self.left = self.left.saturating_sub(1);
        self.steady &= pending == self.left;
        self.pending = pending;
        if pending == 0 || self.left == 0 {
            self.over = self.steady || self.left == 0 && (!self.first_round || self.scan.history);
            self.unsure = !self.over;
        }
    }

    /// Asks how many are to come.
    async fn look(&mut self, deadline: Deadline) -> Result<()> {
        self.unsure = false;
        let Some(consumer) = &self.consumer else { return Ok(()) };
        let soon = if self.windowed { Deadline::after(deadline.remaining().min(SOON)) } else { deadline };
        match consumer.ahead(soon).await {
            Ok(ahead) if ahead.waits && self.waits => self.unheard(deadline).await,
            Ok(ahead) => {
                self.waits = ahead.waits;
                self.go_on_if(ahead.pending);
                Ok(())
            }
            // The silence may mean that the window is full.
            Err(error) if self.windowed => self.without_window(&error.to_string(), deadline).await,
            // One who may not ask has to believe what was told last, or the silence.
            Err(error) if error.is_denied() => {
                let told = if self.left == 0 { self.pending } else { 0 };
                self.go_on_if(told);
                Ok(())
            }
            Err(error) => self.lost(&error.to_string(), deadline).await,
        }
    }

    fn go_on_if(&mut self, pending: u64) {
        self.over = pending == 0;
        if self.left == 0 {
            // All that was there when this began came, or was written again: then it is among those to come.
            self.first_round = false;
            self.left = pending;
        }
    }

    /// Counts a message, and gives what it tells, if that is anything.
    fn hear(&mut self, stored: Stored, pending: u64) -> Option<Result<Scanned>> {
        self.waits = false;
        self.count(pending);
        self.take(stored, pending)
    }

    /// The entry to give for a message, if one is.
    fn take(&mut self, stored: Stored, behind: u64) -> Option<Result<Scanned>> {
        if stored.revision <= self.last {
            return None;
        }
        self.last = stored.revision;
        let entry = match stored.entry(&self.place.prefix) {
            Ok(entry) => entry,
            Err(error) => return Some(Err(error)),
        };
        let matches = self.scan.patterns.matches(entry.key.as_str());
        matches.then_some(Ok(Scanned { entry, behind }))
    }
}
