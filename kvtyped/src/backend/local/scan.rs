//! A scan. It collects revisions first, and reads each entry when its reader asks for it.
//!
//! An entry may be overwritten between the two steps. Its replacement has a later revision, so a second round reads the
//! entries that were written during the first.

use std::ops::Bound;
use std::sync::Arc;
use std::vec;

use futures::stream::{self, BoxStream, StreamExt};

use super::durable;
use super::search::{KeySearch, SearchStep};
use super::shared::LocalShared;
use crate::backend::state::bucket::BucketState;
use crate::backend::state::entry::STEP_SIZE;
use crate::backend::state::log::Ticket;
use crate::backend::{Deadline, ScanItem, ScanRequest};
use crate::error::Result;
use crate::revision::Revision;

/// The number of entries that one page looks up.
const PAGE_SIZE: usize = 64;

pub(crate) fn scan(
    shared: Arc<LocalShared>,
    bucket: String,
    scan: ScanRequest,
) -> BoxStream<'static, Result<ScanItem>> {
    let scanner = Scanner {
        round_after: scan.after,
        shared,
        bucket,
        scan,
        rounds: 2,
        search: None,
        found: Vec::new(),
        revisions: Vec::new().into_iter(),
    };
    let pages = stream::unfold(Some(scanner), |scanner| async move {
        let mut scanner = scanner?;
        tokio::task::coop::consume_budget().await;
        match scanner.next().await {
            Ok(Some(page)) => Some((page, Some(scanner))),
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
    /// The result of a finished search, not yet sorted.
    found: Vec<Revision>,
    revisions: vec::IntoIter<Revision>,
    /// The position before the current round.
    round_after: Revision,
}

/// The outcome of one step of a scan.
enum ScanStep {
    /// Entries, all durable.
    Page(Vec<Result<ScanItem>>),
    /// The search continues, or its result is empty.
    Continue,
    /// The result depends on data that is not durable. If that data is reverted, the step is repeated.
    Wait(Ticket, Repeat),
    End,
}

/// The step to repeat.
enum Repeat {
    /// The search of the current round.
    Search,
    /// A page without some of its entries.
    Page { all: Vec<Revision>, present: Vec<Revision> },
}

/// Finds the revisions of one round in steps, so that no step holds the lock for long.
struct Search {
    /// The last revision when the round began. Later entries belong to the next round.
    until: Revision,
    /// How often effects were reverted before the round began.
    rollbacks: u64,
    order: SearchOrder,
}

/// The order of a search.
enum SearchOrder {
    /// Examines the keys that the patterns can match.
    Keys(KeySearch),
    /// Examines all entries, in the order of their revisions.
    Revisions { position: Revision, found: Vec<Revision> },
}

impl Scanner {
    /// Returns the next entries, or an empty page while a search continues. Returns `None` after the last entry.
    async fn next(&mut self) -> Result<Option<Vec<Result<ScanItem>>>> {
        let deadline = Deadline::after(self.scan.idle_timeout);
        loop {
            let step = match self.step() {
                Ok(step) => step,
                Err(error) => {
                    let ticket = self.shared.lock().full_ticket();
                    if durable::is_shown(ticket, deadline).await? {
                        return Err(error);
                    }
                    continue;
                }
            };
            match step {
                ScanStep::Page(page) => return Ok(Some(page)),
                ScanStep::Continue => return Ok(Some(Vec::new())),
                ScanStep::End => return Ok(None),
                ScanStep::Wait(ticket, repeat) => {
                    let is_shown = durable::is_shown(ticket, deadline).await?;
                    match repeat {
                        Repeat::Page { all, present } => {
                            let page = if is_shown { present } else { all };
                            self.revisions =
                                page.into_iter().chain(self.revisions.by_ref()).collect::<Vec<_>>().into_iter();
                        }
                        Repeat::Search if is_shown => return Ok(Some(Vec::new())),
                        Repeat::Search => self.repeat_round(),
                    }
                }
            }
        }
    }

    /// Begins the current round again.
    fn repeat_round(&mut self) {
        self.found.clear();
        self.search = None;
        self.scan.after = self.round_after;
        self.rounds += 1;
    }

    fn step(&mut self) -> Result<ScanStep> {
        if !self.found.is_empty() {
            // Sorted without the lock.
            self.found.sort_unstable();
            self.found.dedup();
            self.revisions = std::mem::take(&mut self.found).into_iter();
        }
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        let rollbacks = state.rollbacks();
        let (bucket, _) = shared.bucket(&mut state, &self.bucket)?;
        let page: Vec<_> = self.revisions.by_ref().take(PAGE_SIZE).collect();
        let later = self.revisions.len() as u64;
        if !page.is_empty() {
            let last = page.len() as u64 - 1;
            let entries = page.iter().enumerate().filter_map(|(at, revision)| {
                let stored = bucket.entries.get(revision)?;
                let entry = shared.entry(*revision, stored, !self.scan.headers_only);
                Some(Ok(ScanItem { entry, pending: later + last - at as u64 }))
            });
            let entries: Vec<_> = entries.collect();
            if entries.len() < page.len() {
                let present = page.iter().filter(|revision| bucket.entries.contains_key(revision)).copied().collect();
                if let pending @ Ticket::Pending(_) = state.full_ticket() {
                    return Ok(ScanStep::Wait(pending, Repeat::Page { all: page, present }));
                }
            }
            return Ok(ScanStep::Page(entries));
        }
        let Some(until) = self.search(bucket, rollbacks) else { return Ok(ScanStep::End) };
        if !until {
            return Ok(ScanStep::Continue);
        }
        Ok(match state.full_ticket() {
            Ticket::Durable => ScanStep::Continue,
            pending @ Ticket::Pending(_) => ScanStep::Wait(pending, Repeat::Search),
        })
    }

    /// Continues the search. Returns whether the round is searched, or `None` if nothing is left to search.
    fn search(&mut self, bucket: &BucketState, rollbacks: u64) -> Option<bool> {
        if self.search.as_ref().is_some_and(|search| search.rollbacks != rollbacks) {
            self.repeat_round();
        }
        let mut search = match self.search.take() {
            Some(search) => search,
            None if self.rounds == 0 => return None,
            None => {
                self.rounds -= 1;
                self.round_after = self.scan.after;
                Search::new(&self.scan, bucket, rollbacks)
            }
        };
        let found = search.step(&self.scan, bucket);
        let is_over = found.is_some();
        match found {
            Some(found) => {
                self.scan.after = search.until;
                self.found = found;
            }
            None => self.search = Some(search),
        }
        Some(is_over)
    }
}

impl Search {
    fn new(scan: &ScanRequest, bucket: &BucketState, rollbacks: u64) -> Self {
        let until = bucket.last_revision;
        let keys = KeySearch::new(bucket, &scan.patterns, scan.after, until, !scan.history);
        Self { until, rollbacks, order: keys.map_or_else(|| SearchOrder::by_revision(scan), SearchOrder::Keys) }
    }

    /// Examines some more entries. Returns the result if all were examined.
    fn step(&mut self, scan: &ScanRequest, bucket: &BucketState) -> Option<Vec<Revision>> {
        match &mut self.order {
            SearchOrder::Keys(search) => match search.step(bucket) {
                SearchStep::Done(found) => return Some(found),
                SearchStep::Continue => {}
                SearchStep::TooMany => self.order = SearchOrder::by_revision(scan),
            },
            SearchOrder::Revisions { position, found } => {
                let range = bucket.entries.range((Bound::Excluded(*position), Bound::Included(self.until)));
                for (examined, (revision, stored)) in (1..).zip(range) {
                    let is_wanted = scan.history || bucket.is_newest(&stored.key, *revision);
                    if is_wanted && scan.patterns.matches(stored.key.as_str()) {
                        found.push(*revision);
                    }
                    if examined == STEP_SIZE {
                        *position = *revision;
                        return None;
                    }
                }
                return Some(std::mem::take(found));
            }
        }
        None
    }
}

impl SearchOrder {
    fn by_revision(scan: &ScanRequest) -> Self {
        Self::Revisions { position: scan.after, found: Vec::new() }
    }
}
