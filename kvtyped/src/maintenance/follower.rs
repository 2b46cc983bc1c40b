//! One term of a follower: it repairs the indexes after each change of a record.

use std::time::{Duration, SystemTime};

use futures::StreamExt;
use futures::future::{BoxFuture, Fuse, FusedFuture, FutureExt};
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, sleep_until};

use super::build_index::with_state;
use super::follow_queue::FollowQueue;
use super::follow_record::{IndexDuplicate, OPERATION, Repairs, Seen, follow_record, is_final, is_kept};
use super::verify_indexes::{Fingerprints, IndexCheck, check_entries};
use crate::backend::{Backoff, RawEntry, StartFrom, next_output};
use crate::bucket::index::synced::{FollowerState, Synced};
use crate::bucket::{Bucket, decode};
use crate::config::BucketConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::model::index::{IndexState, Indexed};
use crate::model::{Filter, ModelCard};
use crate::observe::StoreEvent;
use crate::revision::Revision;
use crate::watch::start::start_watch;
use crate::watch::update::WatchUpdate;

/// The number of records that are repaired at once.
const AT_ONCE: usize = 64;

/// The shortest time between two stored positions.
const STORE_INTERVAL: Duration = Duration::from_millis(250);

/// How often the age is reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// The shortest time between two searches for stale entries.
const SWEEP_PAUSE: Duration = Duration::from_millis(100);

/// The longest time between two stored positions in a bucket whose delete markers do not expire.
const REFRESH_INTERVAL: Duration = Duration::from_secs(60);

/// The settings of a follower.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub(super) timeout: Option<Duration>,
    /// The time between two searches for stale entries.
    pub(super) sweep_every: Duration,
}

pub(super) type DuplicateFn<'a> = Box<dyn FnMut(IndexDuplicate) + Send + 'a>;

/// The repair of one record.
struct Done {
    key: Key,
    /// The revision of the change in the watch.
    at: Revision,
    result: Result<Repairs>,
}

/// Follows the bucket until an error.
///
/// # Errors
///
/// Returns the error that ends the term, among them `Closed` at the shutdown of the store.
pub(super) async fn follow<T: Indexed>(
    bucket: &Bucket<T>,
    settings: Settings,
    state: &FollowerState,
    on_duplicate: &mut Option<DuplicateFn<'_>>,
) -> Result<()> {
    Term::start(bucket, settings, state, on_duplicate).await?.run().await
}

type Sweep<'a> = Fuse<BoxFuture<'a, Result<Repairs>>>;

struct Term<'a, 'd, T: Indexed> {
    bucket: &'a Bucket<T>,
    settings: Settings,
    state: &'a FollowerState,
    on_duplicate: &'a mut Option<DuplicateFn<'d>>,
    open: FollowQueue,
    /// The revision to resume after. Zero lists the bucket.
    after: Revision,
    /// The start of the term, and the server's time then.
    started: (Instant, SystemTime),
    /// The time of the last search for stale entries. Zero asks for one.
    swept: u64,
    /// When this term may search for them again.
    next_sweep: Instant,
    /// Whether the records of the bucket are being listed.
    is_listing: bool,
    /// Whether the listing has ended, and its repairs have not.
    is_listed: bool,
    /// Whether the position may be stored.
    is_complete: bool,
    /// The last stored position and its time. `None` before the first one.
    stored: Option<(Revision, Instant)>,
    has_changed: bool,
    refresh: Duration,
    current: Instant,
}

impl<'a, 'd, T: Indexed> Term<'a, 'd, T> {
    async fn start(
        bucket: &'a Bucket<T>,
        settings: Settings,
        state: &'a FollowerState,
        on_duplicate: &'a mut Option<DuplicateFn<'d>>,
    ) -> Result<Self> {
        let deadline = bucket.deadline(settings.timeout);
        let found = bucket.read_synced(deadline).await?;
        let status = bucket.refresh_status(deadline).await?;
        // A removal is missed if its delete marker is gone.
        let life = status.config.limit_markers.filter(|life| *life < Duration::from_secs(1 << 40));
        let refresh = life.map_or(REFRESH_INTERVAL, |life| (life / 4).min(REFRESH_INTERVAL));
        let resumed = found.filter(|(synced, _)| {
            let is_readable =
                |name: &str| bucket.schema().index::<T>(name).is_some_and(|card| card.state.is_readable());
            let is_kept = |info| synced.keeps(info) && (!info.is_eventual || is_readable(info.name));
            T::__INDEXES.iter().all(is_kept) && synced.revision() <= status.last_revision
        });
        let (after, swept) = match &resumed {
            Some((synced, stored)) => {
                let gap = status.now.duration_since(*stored).unwrap_or_default();
                let is_complete = life.is_none_or(|life| gap < life / 2) && status.config.limit_markers.is_some();
                (synced.revision(), if is_complete { synced.swept } else { 0 })
            }
            None => (Revision::ZERO, 0),
        };
        let now = Instant::now();
        state.set(Some(now));
        Ok(Self {
            bucket,
            settings,
            state,
            on_duplicate,
            open: FollowQueue::after(after),
            after,
            started: (now, status.now),
            swept,
            next_sweep: now,
            is_listing: resumed.is_none(),
            is_listed: false,
            is_complete: resumed.is_some(),
            stored: resumed.is_some().then_some((after, now)),
            has_changed: false,
            refresh,
            current: now,
        })
    }

    async fn run(mut self) -> Result<()> {
        let Settings { timeout, .. } = self.settings;
        let bucket = self.bucket;
        let since = if self.is_listing { StartFrom::Newest } else { StartFrom::After(self.after) };
        let filter = Filter::from(..);
        let mut updates = start_watch(bucket, &filter, since, true, timeout, OPERATION).await?;
        let mut repairs = FuturesUnordered::new();
        let mut sweep: Sweep<'a> = Fuse::terminated();
        let mut report = Instant::now();
        loop {
            while repairs.len() < AT_ONCE
                && let Some((key, seen)) = self.open.next()
            {
                repairs.push(async move {
                    let result = patiently(bucket, &key, seen, timeout).await;
                    Done { key, at: seen.revision, result }
                });
            }
            if self.is_listed && self.open.is_empty() {
                self.end_listing().await?;
            }
            if sweep.is_terminated() && self.is_complete && self.is_sweep_due() {
                sweep = sweep_stale(bucket, timeout).boxed().fuse();
            }
            self.store_position().await?;
            let next_store = self.next_store();
            tokio::select! {
                biased;
                Some(done) = next_output(&mut repairs), if !repairs.is_empty() => {
                    let Done { key, at, result } = done;
                    match result {
                        Ok(done) => self.report_repairs(done),
                        Err(error) if is_of_record(&error) => {
                            tracing::warn!(bucket = bucket.name(), %error, "the index entries of a record were not repaired");
                        }
                        // The next term resumes before this change, so that it is not skipped.
                        Err(error) => return Err(error),
                    }
                    self.open.done(key, at);
                }
                swept = &mut sweep, if !sweep.is_terminated() => match swept {
                    Ok(repairs) => {
                        (self.swept, self.next_sweep) = (self.server_seconds(), Instant::now() + SWEEP_PAUSE);
                        self.has_changed = true;
                        self.report_repairs(repairs);
                    }
                    Err(error) if error.is_transient() => {
                        self.next_sweep = Instant::now() + REPORT_INTERVAL;
                        tracing::warn!(bucket = bucket.name(), %error, "the search for stale index entries is repeated");
                    }
                    Err(error) => return Err(error),
                },
                update = updates.next(), if !self.open.is_full() => match update {
                    Some(Ok(update)) => self.apply(update),
                    // An illegal key is not a record.
                    Some(Err(error)) if error.key().is_some() => {}
                    Some(Err(error)) if is_final(&error) => return Err(error),
                    Some(Err(error)) => tracing::warn!(bucket = bucket.name(), %error, "the follower waits for its watch"),
                    None => return Err(Error::unavailable("the watch of the follower ended")),
                },
                () = sleep_until(next_store.min(report)) => {
                    if report <= Instant::now() {
                        let age = self.current.elapsed();
                        bucket.context().instruments().event(&StoreEvent::IndexFollower { bucket: bucket.name(), age });
                        report = Instant::now() + REPORT_INTERVAL;
                    }
                }
            }
        }
    }

    fn apply(&mut self, update: WatchUpdate) {
        match update {
            WatchUpdate::Entry(entry, pending) => {
                self.add(entry);
                self.note_current(pending == 0);
            }
            WatchUpdate::Ready => {
                self.is_listed = self.is_listing;
                self.is_listing = false;
                self.note_current(true);
            }
            WatchUpdate::Resync => {
                // Everything follows. Removals may have been missed.
                (self.is_listing, self.is_listed, self.is_complete, self.swept) = (true, false, false, 0);
            }
            WatchUpdate::Alive(position) => {
                self.open.advance(position);
                // Index entries are not events of the watch.
                self.has_changed |= self.stored.is_none_or(|(reached, _)| position > reached);
                self.note_current(true);
            }
            WatchUpdate::Lagging(_) | WatchUpdate::Interrupted(_) => {}
        }
    }

    fn add(&mut self, entry: RawEntry) {
        self.open.advance(entry.revision);
        self.has_changed = true;
        if decode::key::<T>(&entry.key).is_err() {
            return;
        }
        let (is_removal, is_listed, is_kept) = (!entry.is_live(), self.is_listing, is_kept::<T>(&entry));
        let needs_nothing = match is_listed {
            true => is_removal,
            false => is_kept && !T::__INDEXES.iter().any(|info| info.is_eventual),
        };
        if !needs_nothing {
            self.open.add(entry.key, Seen { revision: entry.revision, is_removal, is_listed, is_kept });
        }
    }

    fn note_current(&mut self, is_caught_up: bool) {
        if is_caught_up && !self.is_listing && self.is_complete && self.open.is_empty() {
            self.current = Instant::now();
            self.state.set(Some(self.current));
        }
    }

    /// Marks the eventual indexes as readable after all records have their entries.
    async fn end_listing(&mut self) -> Result<()> {
        self.is_listed = false;
        let bucket = self.bucket;
        let change = |card: Option<ModelCard>, _: &BucketConfig| {
            let is_missing = |info: &crate::model::index::IndexInfo| {
                let index = card.as_ref().and_then(|card| card.indexes.get(info.name));
                let is_readable = index.is_some_and(|index| index.describes(info) && index.state.is_readable());
                // `drop_index` completes an interrupted removal.
                !is_readable && index.is_none_or(|index| index.state != IndexState::Dropping)
            };
            let eventual: Vec<_> = T::__INDEXES.iter().filter(|info| info.is_eventual && is_missing(info)).collect();
            if eventual.is_empty() {
                return Ok(None);
            }
            let changed = eventual
                .into_iter()
                .try_fold(card.clone(), |card, info| with_state(bucket, card, info, IndexState::Readable).map(Some));
            Ok(changed.flatten().map(|card| (card, None)))
        };
        bucket.update_card(bucket.deadline(self.settings.timeout), change).await?;
        (self.is_complete, self.has_changed) = (true, true);
        self.note_current(true);
        Ok(())
    }

    fn server_seconds(&self) -> u64 {
        let (started, now) = self.started;
        let now = now + started.elapsed();
        now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
    }

    fn is_sweep_due(&self) -> bool {
        let age = Duration::from_secs(self.server_seconds().saturating_sub(self.swept));
        age >= self.settings.sweep_every && self.next_sweep <= Instant::now()
    }

    /// Returns when the position is stored next.
    fn next_store(&self) -> Instant {
        let now = Instant::now();
        match self.stored {
            _ if !self.is_complete => now + REPORT_INTERVAL,
            Some((_, at)) if self.has_changed => at + STORE_INTERVAL,
            Some((_, at)) => at + self.refresh,
            None => self.started.0,
        }
    }

    /// Stores the position, if it is due. A position that cannot be stored costs a later term some time.
    async fn store_position(&mut self) -> Result<()> {
        let position = self.open.position();
        let now = Instant::now();
        if !self.is_complete || now < self.next_store() {
            return Ok(());
        }
        let is_behind = !self.open.is_empty();
        let synced = Synced::new(T::__INDEXES, position, self.swept);
        let mut reached = position;
        match self.bucket.write_synced(&synced, self.bucket.deadline(self.settings.timeout)).await {
            Ok(revision) => (reached, self.has_changed) = (revision, is_behind),
            Err(error) if is_final(&error) => return Err(error),
            Err(error) => {
                tracing::debug!(bucket = self.bucket.name(), %error, "the position of the follower was not stored");
            }
        }
        self.stored = Some((reached, Instant::now()));
        Ok(())
    }

    fn report_repairs(&mut self, repairs: Repairs) {
        let (bucket, instruments) = (self.bucket.name(), self.bucket.context().instruments());
        for (index, (stored, erased)) in repairs.counts {
            let Some(info) = T::__INDEXES.get(index).filter(|_| stored + erased > 0) else { continue };
            instruments.event(&StoreEvent::IndexRepaired { bucket, index: info.name, stored, erased });
        }
        for duplicate in repairs.duplicates {
            let index = duplicate.index;
            instruments.event(&StoreEvent::IndexDuplicate { bucket, index });
            tracing::warn!(bucket, index, "two records have one unique value; change one of them");
            if let Some(on_duplicate) = self.on_duplicate {
                on_duplicate(duplicate);
            }
        }
    }
}

/// Repairs the entries of a record. Retries temporary errors without a limit, so that no change is skipped.
async fn patiently<T: Indexed>(
    bucket: &Bucket<T>,
    key: &Key,
    seen: Seen,
    timeout: Option<Duration>,
) -> Result<Repairs> {
    let mut backoff = Backoff::outage();
    loop {
        match follow_record(bucket, key, seen, timeout).await {
            Err(error) if (error.is_transient() || error.is_conflict()) && !is_final(&error) => {
                tracing::debug!(bucket = bucket.name(), %error, "a repair of index entries is repeated");
                sleep(backoff.next()).await;
            }
            done => return done,
        }
    }
}

/// Whether another attempt would have the same error, because of the contents of one record or claim.
fn is_of_record(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Decode { .. } | ErrorKind::Encode { .. } | ErrorKind::InvalidKey | ErrorKind::TooLarge { .. }
    )
}

/// Erases the entries and claims of all indexes that no record matches.
async fn sweep_stale<T: Indexed>(bucket: &Bucket<T>, timeout: Option<Duration>) -> Result<Repairs> {
    let (mut repairs, nothing) = (Repairs::default(), Fingerprints::default());
    for (index, info) in T::__INDEXES.iter().enumerate() {
        let mut check = IndexCheck::new(info);
        check_entries(bucket, (index, info), &nothing, true, timeout, &mut check).await?;
        repairs.erased(index, check.repaired);
    }
    Ok(repairs)
}
