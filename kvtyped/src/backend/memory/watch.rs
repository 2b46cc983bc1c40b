//! One watch session: a position in a bucket.
//!
//! A poll returns the first entry after the position of the reader. The entry is a stored one or, once the listing is
//! over, one of the [`Backlog`](super::backlog::Backlog) of entries that were overwritten or removed since.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt};
use tokio::time::Instant;

use super::backlog::Reader;
use super::bell::Listener;
use super::bucket::{BucketState, Stored};
use super::{Shared, find};
use crate::backend::{Begun, Signal, Since, Watch};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Key, Patterns};
use crate::revision::Revision;

/// The interval of heartbeats of an idle session.
const SILENCE: Duration = Duration::from_secs(1);

/// The number of entries that one step examines before it releases the lock.
const AT_ONCE: usize = 256;

pub(super) fn watch(shared: Arc<Shared>, bucket: String, watch: Watch) -> BoxStream<'static, Result<Signal>> {
    let begun = async move {
        tokio::task::coop::consume_budget().await;
        match Sitting::begin(shared, bucket, watch) {
            Ok((begun, sitting)) => (Ok(Signal::Begun(begun)), Some(sitting)),
            Err(error) => (Err(error), None),
        }
    };
    let then = |sitting| {
        stream::unfold(sitting, |sitting: Option<Sitting>| async move {
            let mut sitting = sitting?;
            match sitting.next().await {
                Ok(signal) => Some((Ok(signal), Some(sitting))),
                Err(error) => Some((Err(error), None)),
            }
        })
    };
    stream::once(begun).flat_map(move |(first, sitting)| stream::iter([first]).chain(then(sitting))).boxed()
}

struct Sitting {
    shared: Arc<Shared>,
    /// The name of the bucket.
    bucket: String,
    /// Notifies of changes of that bucket, and is closed with it. A new bucket of the same name has a new bell.
    bell: Listener,
    /// Keeps the entries that leave the bucket until the watch has delivered them.
    reader: Reader,
    patterns: Patterns,
    headers_only: bool,
    /// All matching entries up to this revision were delivered.
    position: Revision,
    /// The listing of the entries that existed at the start, until it is over.
    listing: Option<Listing>,
    /// The time of the last signal.
    told: Instant,
}

/// The initial listing of a session.
#[derive(Debug, Clone, Copy)]
struct Listing {
    until: Revision,
    /// Only the newest entry of each key, as it was at the start.
    newest: bool,
}

/// The outcome of one step.
enum Step {
    Tell(Signal),
    /// More entries are left to examine.
    Again,
    /// Nothing happens before this time, unless the bell rings.
    Wait(Instant),
}

impl Sitting {
    fn begin(shared: Arc<Shared>, name: String, watch: Watch) -> Result<(Begun, Self)> {
        // The start of a session never waits here.
        let Watch { patterns, since, headers_only, patience: _, delivered: _ } = watch;
        let mut state = shared.lock();
        let (bucket, _) = find(&mut state, &shared, &name)?;
        let last = bucket.last_revision;
        let (position, complete) = match since {
            Since::Newest | Since::History => (Revision::ZERO, true),
            Since::Now => (last, true),
            // A bucket that has not reached the revision delivers every later write.
            Since::After(revision) => (revision.min(last), bucket.keeps_all_after(revision)),
        };
        let begun = Begun { created: shared.date(bucket.created), last_revision: last, complete };
        let (bell, reader) = (bucket.bell.listen(), bucket.backlog.attach(last));
        drop(state);
        let sitting = Self {
            shared,
            bucket: name,
            bell,
            reader,
            patterns,
            headers_only,
            position,
            listing: Some(Listing { until: last, newest: since == Since::Newest }),
            told: Instant::now(),
        };
        Ok((begun, sitting))
    }

    async fn next(&mut self) -> Result<Signal> {
        loop {
            tokio::task::coop::consume_budget().await;
            // Created before the step, so that no change after the step is missed.
            let bell = self.bell.clone();
            let rung = bell.rung();
            match self.step()? {
                Step::Tell(signal) => {
                    self.told = Instant::now();
                    return Ok(signal);
                }
                Step::Again => {}
                // The next step finds out why the wait ended.
                Step::Wait(until) => drop(tokio::time::timeout_at(until, rung).await),
            }
        }
    }

    /// Examines the current state of the bucket.
    fn step(&mut self) -> Result<Step> {
        let Self { shared, bucket, bell, reader, patterns, headers_only, position, listing, told } = self;
        let mut state = shared.lock();
        let (bucket, _) = find(&mut state, shared, bucket)?;
        if bell.is_gone() {
            return Err(Error::new(ErrorKind::BucketNotFound));
        }
        if listing.is_none() && bucket.backlog.is_lost_after(*position) {
            return Err(Error::unavailable("the watch was not read until a removal was dropped from its backlog"));
        }
        let until = listing.map_or(bucket.last_revision, |listing| listing.until);
        let newest = listing.is_some_and(|listing| listing.newest);
        let wanted = |revision, stored: &Stored| {
            patterns.matches(stored.key.as_str()) && !(newest && bucket.has_another(&stored.key, revision, until))
        };
        let (seen, found) = match listing {
            Some(_) => bucket.next(*position, until, &wanted),
            None => bucket.next_change(*position, until, &wanted),
        };
        *position = seen;
        let step = found.map(|stored| {
            let (entry, behind) = (shared.entry(seen, stored, !*headers_only), bucket.at_most_after(seen));
            Step::Tell(Signal::Entry { entry, behind })
        });
        bucket.backlog.read(reader, seen);
        if let Some(step) = step {
            return Ok(step);
        }
        if seen < until {
            return Ok(Step::Again);
        }
        if listing.take().is_some() {
            return Ok(Step::Tell(Signal::Ready));
        }
        let silent = *told + SILENCE;
        if Instant::now() >= silent {
            return Ok(Step::Tell(Signal::Alive { upto: seen }));
        }
        // An entry may expire without another operation on the bucket.
        let due = bucket.due.first().and_then(|(at, _)| shared.epoch.checked_add(*at));
        Ok(Step::Wait(due.map_or(silent, |due| due.min(silent))))
    }
}

impl Drop for Sitting {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Ok((bucket, _)) = find(&mut state, &self.shared, &self.bucket)
            && !self.bell.is_gone()
        {
            bucket.backlog.detach(&self.reader);
        }
    }
}

/// Returns the first wanted entry of a range, or else the revision that the search reached.
pub(super) fn first<'a>(
    range: impl Iterator<Item = (&'a Revision, &'a Stored)>,
    until: Revision,
    wanted: &impl Fn(Revision, &Stored) -> bool,
) -> (Revision, Option<&'a Stored>) {
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
    pub(super) fn next(
        &self,
        after: Revision,
        until: Revision,
        wanted: &impl Fn(Revision, &Stored) -> bool,
    ) -> (Revision, Option<&Stored>) {
        first(self.entries.range((Bound::Excluded(after), Bound::Included(until))), until, wanted)
    }

    /// Returns the first wanted entry among the stored entries and the entries in the backlog.
    fn next_change(
        &self,
        after: Revision,
        until: Revision,
        wanted: &impl Fn(Revision, &Stored) -> bool,
    ) -> (Revision, Option<&Stored>) {
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
