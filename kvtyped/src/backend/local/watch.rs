//! One watch session: a position in a bucket.
//!
//! A poll returns the first entry after the position of the reader. The entry is a stored one or, once the listing is
//! over, one of the [`Backlog`](crate::backend::state::backlog::Backlog) of entries that were overwritten or removed since.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt};
use tokio::time::Instant;

use super::backend::{LocalShared, bucket_mut};
use crate::backend::state::backlog::Reader;
use crate::backend::state::bucket::{BucketState, StoredEntry};
use crate::backend::state::notify::ChangeSubscription;
use crate::backend::{StartFrom, WatchRequest, WatchSignal, WatchStarted};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Key, Patterns};
use crate::revision::Revision;

/// The interval of heartbeats of an idle session.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// The number of entries that one step examines before it releases the lock.
const AT_ONCE: usize = 256;

pub(crate) fn watch(
    shared: Arc<LocalShared>,
    bucket: String,
    watch: WatchRequest,
) -> BoxStream<'static, Result<WatchSignal>> {
    let begun = async move {
        tokio::task::coop::consume_budget().await;
        match WatchSession::open_session(shared, bucket, watch) {
            Ok((begun, sitting)) => (Ok(WatchSignal::Started(begun)), Some(sitting)),
            Err(error) => (Err(error), None),
        }
    };
    let then = |sitting| {
        stream::unfold(sitting, |sitting: Option<WatchSession>| async move {
            let mut sitting = sitting?;
            match sitting.next().await {
                Ok(signal) => Some((Ok(signal), Some(sitting))),
                Err(error) => Some((Err(error), None)),
            }
        })
    };
    stream::once(begun).flat_map(move |(first, sitting)| stream::iter([first]).chain(then(sitting))).boxed()
}

struct WatchSession {
    shared: Arc<LocalShared>,
    /// The name of the bucket.
    bucket: String,
    /// Notifies of changes of that bucket, and is closed with it. A new bucket of the same name has a new bell.
    bell: ChangeSubscription,
    /// Keeps the entries that leave the bucket until the watch has delivered them.
    reader: Reader,
    patterns: Patterns,
    headers_only: bool,
    /// All matching entries up to this revision were delivered.
    position: Revision,
    /// The listing of the entries that existed at the start, until it is over.
    listing: Option<InitialListing>,
    /// The time of the last signal.
    last_emitted: Instant,
}

/// The initial listing of a session.
#[derive(Debug, Clone, Copy)]
struct InitialListing {
    until: Revision,
    /// Only the newest entry of each key, as it was at the start.
    newest: bool,
}

/// The outcome of one step.
enum SessionStep {
    Emit(WatchSignal),
    /// More entries are left to examine.
    Continue,
    /// Nothing happens before this time, unless the bell rings.
    Sleep(Instant),
}

impl WatchSession {
    fn open_session(shared: Arc<LocalShared>, name: String, watch: WatchRequest) -> Result<(WatchStarted, Self)> {
        // The start of a session never waits here.
        let WatchRequest { patterns, since, headers_only, idle_timeout: _, delivered: _ } = watch;
        let mut state = shared.lock();
        let (bucket, _) = bucket_mut(&mut state, &shared, &name)?;
        let last = bucket.last_revision;
        let (position, complete) = match since {
            StartFrom::Newest | StartFrom::History => (Revision::ZERO, true),
            StartFrom::Now => (last, true),
            // A bucket that has not reached the revision delivers every later write.
            StartFrom::After(revision) => (revision.min(last), bucket.keeps_all_after(revision)),
        };
        let begun = WatchStarted { created: shared.date(bucket.created), last_revision: last, contiguous: complete };
        let (bell, reader) = (bucket.notifier.subscribe(), bucket.backlog.attach(last));
        drop(state);
        let sitting = Self {
            shared,
            bucket: name,
            bell,
            reader,
            patterns,
            headers_only,
            position,
            listing: Some(InitialListing { until: last, newest: since == StartFrom::Newest }),
            last_emitted: Instant::now(),
        };
        Ok((begun, sitting))
    }

    async fn next(&mut self) -> Result<WatchSignal> {
        loop {
            tokio::task::coop::consume_budget().await;
            // Created before the step, so that no change after the step is missed.
            let bell = self.bell.clone();
            let rung = bell.changed();
            match self.step()? {
                SessionStep::Emit(signal) => {
                    self.last_emitted = Instant::now();
                    return Ok(signal);
                }
                SessionStep::Continue => {}
                // The next step finds out why the wait ended.
                SessionStep::Sleep(until) => drop(tokio::time::timeout_at(until, rung).await),
            }
        }
    }

    /// Examines the current state of the bucket.
    fn step(&mut self) -> Result<SessionStep> {
        let Self { shared, bucket, bell, reader, patterns, headers_only, position, listing, last_emitted: told } = self;
        let mut state = shared.lock();
        let (bucket, _) = bucket_mut(&mut state, shared, bucket)?;
        if bell.is_closed() {
            return Err(Error::new(ErrorKind::BucketNotFound));
        }
        if listing.is_none() && bucket.backlog.is_lost_after(*position) {
            return Err(Error::unavailable("the watch was not read until a removal was dropped from its backlog"));
        }
        let until = listing.map_or(bucket.last_revision, |listing| listing.until);
        let newest = listing.is_some_and(|listing| listing.newest);
        let wanted = |revision, stored: &StoredEntry| {
            patterns.matches(stored.key.as_str()) && !(newest && bucket.has_another(&stored.key, revision, until))
        };
        let (seen, found) = match listing {
            Some(_) => bucket.next(*position, until, &wanted),
            None => bucket.next_change(*position, until, &wanted),
        };
        *position = seen;
        let step = found.map(|stored| {
            let (entry, behind) = (shared.entry(seen, stored, !*headers_only), bucket.at_most_after(seen));
            SessionStep::Emit(WatchSignal::Entry { entry, pending: behind })
        });
        bucket.backlog.read(reader, seen);
        if let Some(step) = step {
            return Ok(step);
        }
        if seen < until {
            return Ok(SessionStep::Continue);
        }
        if listing.take().is_some() {
            return Ok(SessionStep::Emit(WatchSignal::Ready));
        }
        let silent = *told + HEARTBEAT_INTERVAL;
        if Instant::now() >= silent {
            return Ok(SessionStep::Emit(WatchSignal::Heartbeat { through: seen }));
        }
        // An entry may expire without another operation on the bucket.
        let due = bucket.expirations.first().and_then(|(at, _)| shared.epoch.checked_add(*at));
        Ok(SessionStep::Sleep(due.map_or(silent, |due| due.min(silent))))
    }
}

impl Drop for WatchSession {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Ok((bucket, _)) = bucket_mut(&mut state, &self.shared, &self.bucket)
            && !self.bell.is_closed()
        {
            bucket.backlog.detach(&self.reader);
        }
    }
}

/// Returns the first wanted entry of a range, or else the revision that the search reached.
pub(crate) fn first<'a>(
    range: impl Iterator<Item = (&'a Revision, &'a StoredEntry)>,
    until: Revision,
    wanted: &impl Fn(Revision, &StoredEntry) -> bool,
) -> (Revision, Option<&'a StoredEntry>) {
    for (looked, (revision, stored)) in (1..).zip(range) {
        if wanted(*revision, stored) {
            return (*revision, Some(stored));
        }
        if looked == AT_ONCE {
            return (*revision, None);
        }
    }
    (until, None)
}

impl BucketState {
    /// Returns the first wanted entry after `after` and up to `until`, or else the revision that the search reached.
    pub(crate) fn next(
        &self,
        after: Revision,
        until: Revision,
        wanted: &impl Fn(Revision, &StoredEntry) -> bool,
    ) -> (Revision, Option<&StoredEntry>) {
        first(self.entries.range((Bound::Excluded(after), Bound::Included(until))), until, wanted)
    }

    /// Returns the first wanted entry among the stored entries and the entries in the backlog.
    fn next_change(
        &self,
        after: Revision,
        until: Revision,
        wanted: &impl Fn(Revision, &StoredEntry) -> bool,
    ) -> (Revision, Option<&StoredEntry>) {
        let (stored, left) = (self.next(after, until, wanted), self.backlog.next(after, until, wanted));
        std::cmp::min_by_key(stored, left, |(seen, found)| (*seen, found.is_none()))
    }

    /// Whether a key has another entry after `after` and up to `until`.
    fn has_another(&self, key: &Key, after: Revision, until: Revision) -> bool {
        self.keys.get(key).is_some_and(|revisions| revisions.iter().any(|other| (after < *other) && (*other <= until)))
    }

    /// Whether the bucket keeps every write after `revision`. `false` for a revision that it has not reached.
    fn keeps_all_after(&self, revision: Revision) -> bool {
        let later = self.entries.range((Bound::Excluded(revision), Bound::Unbounded)).map(|(later, _)| later.get());
        revision <= self.last_revision && (revision.get() + 1..=self.last_revision.get()).eq(later)
    }

    /// Returns an upper bound of the number of entries after this revision.
    fn at_most_after(&self, revision: Revision) -> u64 {
        (self.last_revision.get() - revision.get()).min((self.entries.len() + self.backlog.len()) as u64)
    }
}
