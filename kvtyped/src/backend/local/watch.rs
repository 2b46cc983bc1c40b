//! One watch session: a position in a bucket.
//!
//! A poll returns the first entry after the position of the reader. The entry is a stored one or, once the listing is
//! over, one of the [`UnreadRemovals`](crate::backend::state::unread_removals::UnreadRemovals) of entries that were overwritten or removed since.

use std::sync::Arc;
use std::time::Duration;
use std::vec;

use futures::stream::{self, BoxStream, StreamExt};
use tokio::time::Instant;

use super::durable;
use super::search::{KeySearch, SearchStep};
use super::shared::LocalShared;
use crate::backend::state::bucket::BucketState;
use crate::backend::state::entry::{STEP_SIZE, StoredEntry};
use crate::backend::state::log::Ticket;
use crate::backend::state::notify::ChangeSubscription;
use crate::backend::state::unread_removals::Reader;
use crate::backend::{StartFrom, WatchRequest, WatchSignal, WatchStarted};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Patterns;
use crate::revision::Revision;

/// The interval of heartbeats of an idle session.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) fn watch(
    shared: Arc<LocalShared>,
    bucket: String,
    watch: WatchRequest,
) -> BoxStream<'static, Result<WatchSignal>> {
    let start = async move {
        tokio::task::coop::consume_budget().await;
        match WatchSession::open_session(shared, bucket, watch) {
            Ok((started, ticket, session)) => match shown(ticket).await {
                Ok(()) => (Ok(WatchSignal::Started(started)), Some(session)),
                Err(error) => (Err(error), None),
            },
            Err((error, ticket)) => (Err(shown(ticket).await.err().unwrap_or(error)), None),
        }
    };
    let signals = |session| {
        stream::unfold(session, |session: Option<WatchSession>| async move {
            let mut session = session?;
            match session.next().await {
                Ok(signal) => Some((Ok(signal), Some(session))),
                Err(error) => Some((Err(error), None)),
            }
        })
    };
    stream::once(start).flat_map(move |(first, session)| stream::iter([first]).chain(signals(session))).boxed()
}

struct WatchSession {
    shared: Arc<LocalShared>,
    /// The name of the bucket.
    bucket: String,
    /// Notifies of changes of that bucket, and is closed with it. A new bucket of the same name has a new notifier.
    changes: ChangeSubscription,
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
    /// How often effects were reverted before the session.
    rollbacks: u64,
}

/// The initial listing of a session.
struct InitialListing {
    until: Revision,
    /// Only the newest entry of each key, as it was at the start.
    newest: bool,
    source: ListingSource,
}

/// The source of the next entry of a listing.
enum ListingSource {
    /// A search of the keys that match.
    Search(KeySearch),
    /// The result of the search, not yet sorted.
    Found(Vec<Revision>),
    /// The sorted result.
    Revisions(vec::IntoIter<Revision>),
    /// All entries, in the order of their revisions.
    Entries,
}

/// The outcome of one step.
enum SessionStep {
    Emit(WatchSignal, Ticket),
    /// More entries are left to examine.
    Continue,
    /// Nothing happens before this time, unless the bucket changes.
    Sleep(Instant),
}

impl WatchSession {
    fn open_session(
        shared: Arc<LocalShared>,
        name: String,
        watch: WatchRequest,
    ) -> Result<(WatchStarted, Ticket, Self), (Error, Ticket)> {
        // The start of a session never waits here.
        let WatchRequest { patterns, since, headers_only, idle_timeout: _, delivered: _ } = watch;
        let mut state = shared.lock();
        let bucket = match shared.bucket(&mut state, &name) {
            Ok((bucket, _)) => bucket,
            Err(error) => return Err((error, state.full_ticket())),
        };
        let last = bucket.last_revision;
        let (position, contiguous) = match since {
            StartFrom::Newest | StartFrom::History => (Revision::ZERO, true),
            StartFrom::Now => (last, true),
            // A bucket that has not reached the revision delivers every later write.
            StartFrom::After(revision) => (revision.min(last), bucket.keeps_all_after(revision)),
        };
        let listing = InitialListing::new(bucket, &patterns, position, since == StartFrom::Newest);
        let started = WatchStarted { created: shared.date(bucket.created), last_revision: last, contiguous };
        let (changes, reader) = (bucket.notifier.subscribe(), bucket.backlog.attach(last));
        let (ticket, rollbacks) = (state.full_ticket(), state.rollbacks());
        drop(state);
        let session = Self {
            shared,
            bucket: name,
            changes,
            reader,
            patterns,
            headers_only,
            position,
            listing: Some(listing),
            last_emitted: Instant::now(),
            rollbacks,
        };
        Ok((started, ticket, session))
    }

    async fn next(&mut self) -> Result<WatchSignal> {
        loop {
            tokio::task::coop::consume_budget().await;
            // Created before the step, so that no change after the step is missed.
            let changes = self.changes.clone();
            let changed = changes.changed();
            let step = match self.step() {
                Ok(step) => step,
                Err(error) => {
                    let ticket = self.shared.lock().full_ticket();
                    return Err(shown(ticket).await.err().unwrap_or(error));
                }
            };
            match step {
                SessionStep::Emit(signal, ticket) => {
                    shown(ticket).await?;
                    self.last_emitted = Instant::now();
                    return Ok(signal);
                }
                SessionStep::Continue => {}
                // The next step finds out why the wait ended.
                SessionStep::Sleep(until) => drop(tokio::time::timeout_at(until, changed).await),
            }
        }
    }

    /// Examines the current state of the bucket.
    fn step(&mut self) -> Result<SessionStep> {
        let Self {
            shared,
            bucket,
            changes,
            reader,
            patterns,
            headers_only,
            position,
            listing,
            last_emitted,
            rollbacks,
        } = self;
        if let Some(listing) = listing {
            listing.sort();
        }
        let mut state = shared.lock();
        if state.rollbacks() != *rollbacks {
            return Err(reverted());
        }
        let (bucket, _) = shared.bucket(&mut state, bucket)?;
        if changes.is_closed() {
            return Err(Error::new(ErrorKind::BucketNotFound));
        }
        if listing.is_none() && bucket.backlog.is_lost_after(*position) {
            return Err(Error::unavailable(
                "the reader of the watch is too slow, and a removal was lost; read faster, or use a cache",
            ));
        }
        let until = listing.as_ref().map_or(bucket.last_revision, |listing| listing.until);
        let (reached, found) = match listing {
            Some(listing) => listing.next(bucket, patterns, *position),
            None => {
                let wanted = |_, stored: &StoredEntry| patterns.matches(stored.key.as_str());
                bucket.next_change(*position, until, &wanted)
            }
        };
        *position = reached;
        let step = found.map(|stored| {
            let (entry, pending) = (shared.entry(reached, stored, !*headers_only), bucket.at_most_after(reached));
            (WatchSignal::Entry { entry, pending }, stored.seq)
        });
        bucket.backlog.read(reader, reached);
        if let Some((signal, seq)) = step {
            return Ok(SessionStep::Emit(signal, state.ticket(seq)));
        }
        if reached < until {
            return Ok(SessionStep::Continue);
        }
        if listing.take().is_some() {
            return Ok(SessionStep::Emit(WatchSignal::Ready, state.full_ticket()));
        }
        let heartbeat = *last_emitted + HEARTBEAT_INTERVAL;
        if Instant::now() >= heartbeat {
            return Ok(SessionStep::Emit(WatchSignal::Heartbeat { through: reached }, state.full_ticket()));
        }
        // An entry may expire without another operation on the bucket.
        let due = bucket.next_expiry().and_then(|at| shared.instant(at));
        Ok(SessionStep::Sleep(due.map_or(heartbeat, |due| due.min(heartbeat))))
    }
}

/// Waits until the data of a signal is durable.
async fn shown(ticket: Ticket) -> Result<()> {
    if durable::is_durable(ticket).await? { Ok(()) } else { Err(reverted()) }
}

/// The error of a session that may have passed an entry which has returned.
fn reverted() -> Error {
    Error::unavailable("the store had no room for a write, and reverted it; the watch starts again")
}

impl InitialListing {
    fn new(bucket: &BucketState, patterns: &Patterns, after: Revision, newest: bool) -> Self {
        let until = bucket.last_revision;
        // Every entry of the keys: if the newest one is removed before it is delivered, an older one takes its place.
        let search = KeySearch::new(bucket, patterns, after, until, false);
        Self { until, newest, source: search.map_or(ListingSource::Entries, ListingSource::Search) }
    }

    /// Sorts the result of a search. Called without the lock.
    fn sort(&mut self) {
        if let ListingSource::Found(found) = &mut self.source {
            found.sort_unstable();
            found.dedup();
            self.source = ListingSource::Revisions(std::mem::take(found).into_iter());
        }
    }

    /// Returns the next entry after `position`, or else the revision that the listing reached.
    fn next<'a>(
        &mut self,
        bucket: &'a BucketState,
        patterns: &Patterns,
        position: Revision,
    ) -> (Revision, Option<&'a StoredEntry>) {
        let Self { until, newest, source } = self;
        let wanted = |revision, stored: &StoredEntry| {
            patterns.matches(stored.key.as_str()) && !(*newest && bucket.has_another(&stored.key, revision, *until))
        };
        match source {
            ListingSource::Search(search) => {
                match search.step(bucket) {
                    SearchStep::Continue => {}
                    SearchStep::Done(found) => *source = ListingSource::Found(found),
                    SearchStep::TooMany => *source = ListingSource::Entries,
                }
                (position, None)
            }
            ListingSource::Found(_) => (position, None),
            ListingSource::Revisions(revisions) => {
                for (examined, revision) in (1..).zip(revisions) {
                    if let Some(stored) = bucket.entries.get(&revision).filter(|stored| wanted(revision, stored)) {
                        return (revision, Some(stored));
                    }
                    if examined == STEP_SIZE {
                        return (revision, None);
                    }
                }
                (*until, None)
            }
            ListingSource::Entries => bucket.next(position, *until, &wanted),
        }
    }
}

impl Drop for WatchSession {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Some(bucket) = state.peek(&self.bucket)
            && !self.changes.is_closed()
        {
            bucket.backlog.detach(&self.reader);
        }
    }
}
