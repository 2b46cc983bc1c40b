//! A scan. It collects revisions first, and reads each entry when its reader asks for it.
//!
//! An entry may be overwritten between the two steps. Its replacement has a later revision, so a second round reads the
//! entries that were written during the first.

use std::ops::Bound;
use std::sync::Arc;
use std::vec;

use futures::stream::{self, BoxStream, StreamExt};

use super::backend::{LocalShared, bucket_mut};
use crate::backend::state::bucket::BucketState;
use crate::backend::{ScanItem, ScanRequest};
use crate::error::Result;
use crate::key::{Key, Pattern};
use crate::revision::Revision;

/// The number of entries that one page looks up.
const PAGE_SIZE: usize = 64;

/// The number of entries or keys that one step searches before it releases the lock.
const SEARCHED_AT_ONCE: usize = 256;

pub(crate) fn scan(
    shared: Arc<LocalShared>,
    bucket: String,
    scan: ScanRequest,
) -> BoxStream<'static, Result<ScanItem>> {
    let scanning = Scanner { shared, bucket, scan, rounds: 2, search: None, revisions: Vec::new().into_iter() };
    let pages = stream::unfold(Some(scanning), |scanning| async move {
        let mut scanning = scanning?;
        tokio::task::coop::consume_budget().await;
        match scanning.page() {
            Ok(Some(page)) => Some((page, Some(scanning))),
            Ok(None) => None,
            Err(error) => Some((vec![Err(error)], None)),
        }
    });
    pages.flat_map(stream::iter).boxed()
}

struct Scanner {
    shared: Arc<LocalShared>,
    bucket: String,
    scan: ScanRequest,
    /// The number of rounds that are left.
    rounds: u32,
    /// The search of the current round, until it is finished.
    search: Option<Search>,
    revisions: vec::IntoIter<Revision>,
}

/// Finds the revisions of one round in steps, so that no step holds the lock for long.
struct Search {
    /// The last revision when the round began. Later entries belong to the next round.
    until: Revision,
    place: Place,
    found: Vec<Revision>,
}

/// The position of a search.
enum Place {
    /// Searches all entries, in the order of their revisions.
    Entries(Revision),
    /// Looks up exact keys, in the order of the patterns.
    Keys(usize),
}

impl Scanner {
    /// Returns the next entries, or an empty page while a search continues. Returns `None` after the last entry.
    fn page(&mut self) -> Result<Option<Vec<Result<ScanItem>>>> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        let (bucket, _) = bucket_mut(&mut state, &shared, &self.bucket)?;
        loop {
            let page: Vec<_> = self.revisions.by_ref().take(PAGE_SIZE).collect();
            let behind = self.revisions.len() as u64;
            if page.is_empty() {
                return Ok(self.fill_page(bucket).then(Vec::new));
            }
            let last = page.len() as u64 - 1;
            let there = page.into_iter().enumerate().filter_map(|(at, revision)| {
                let stored = bucket.entries.get(&revision)?;
                let entry = shared.entry(revision, stored, !self.scan.headers_only);
                Some(Ok(ScanItem { entry, pending: behind + last - at as u64 }))
            });
            let there: Vec<_> = there.collect();
            if !there.is_empty() {
                return Ok(Some(there));
            }
        }
    }

    /// Continues the search. Returns `false` if nothing is left to search.
    fn fill_page(&mut self, bucket: &BucketState) -> bool {
        let mut search = match self.search.take() {
            Some(search) => search,
            None if self.rounds == 0 => return false,
            None => {
                self.rounds -= 1;
                Search::new(&self.scan, bucket)
            }
        };
        if search.step(&self.scan, bucket) {
            self.scan.after = search.until;
            search.found.sort_unstable();
            self.revisions = search.found.into_iter();
        } else {
            self.search = Some(search);
        }
        true
    }
}

impl Search {
    fn new(scan: &ScanRequest, bucket: &BucketState) -> Self {
        let few_keys = scan.patterns.len() <= bucket.entries.len() && scan.patterns.iter().all(Pattern::is_exact);
        let place = if few_keys { Place::Keys(0) } else { Place::Entries(scan.after) };
        Self { until: bucket.last_revision, place, found: Vec::new() }
    }

    /// Searches some more entries or keys. Returns whether all were searched.
    fn step(&mut self, scan: &ScanRequest, bucket: &BucketState) -> bool {
        let Self { until, place, found } = self;
        let wanted = |revision, key: &Key| scan.history || bucket.newest(key) == revision;
        match place {
            Place::Entries(position) => {
                let range = bucket.entries.range((Bound::Excluded(*position), Bound::Included(*until)));
                *position = *until;
                for (looked, (revision, stored)) in (1..).zip(range) {
                    if scan.patterns.matches(stored.key.as_str()) && wanted(*revision, &stored.key) {
                        found.push(*revision);
                    }
                    if looked == SEARCHED_AT_ONCE {
                        *position = *revision;
                        break;
                    }
                }
                position == until
            }
            Place::Keys(next) => {
                let patterns = scan.patterns.iter().skip(*next).take(SEARCHED_AT_ONCE);
                for key in patterns.filter_map(Pattern::as_exact).filter_map(|key| Key::new(key).ok()) {
                    let revisions = bucket.keys.get(&key).into_iter().flatten().copied();
                    let revisions = revisions.filter(|revision| scan.after < *revision && *revision <= *until);
                    found.extend(revisions.filter(|revision| wanted(*revision, &key)));
                }
                *next += SEARCHED_AT_ONCE;
                *next >= scan.patterns.len()
            }
        }
    }
}
