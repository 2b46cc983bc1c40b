//! A scan: the revisions that there were, each looked up when it is asked for.
//!
//! What was overwritten in the meantime is not there any more, and what replaced it has a later revision: so it is looked
//! for again, once, behind the first.

use std::sync::Arc;
use std::vec;

use futures::stream::{self, BoxStream, StreamExt};

use super::bucket::BucketState;
use super::{Shared, find};
use crate::backend::{Scan, Scanned};
use crate::error::Result;
use crate::revision::Revision;

/// How many entries are looked up at once.
const AT_ONCE: usize = 64;

pub(super) fn scan(shared: Arc<Shared>, bucket: String, scan: Scan) -> BoxStream<'static, Result<Scanned>> {
    let scanning = Scanning { shared, bucket, scan, rounds: 2, revisions: Vec::new().into_iter() };
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

struct Scanning {
    shared: Arc<Shared>,
    bucket: String,
    scan: Scan,
    /// How often it is still looked what there is.
    rounds: u32,
    revisions: vec::IntoIter<Revision>,
}

impl Scanning {
    /// The next entries; `None` after the last.
    fn page(&mut self) -> Result<Option<Vec<Result<Scanned>>>> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        let (bucket, _) = find(&mut state, &shared, &self.bucket)?;
        loop {
            let page: Vec<_> = self.revisions.by_ref().take(AT_ONCE).collect();
            let behind = self.revisions.len() as u64;
            if page.is_empty() {
                if self.rounds == 0 {
                    return Ok(None);
                }
                self.look(bucket);
                continue;
            }
            let last = page.len() as u64 - 1;
            let there = page.into_iter().enumerate().filter_map(|(at, revision)| {
                let stored = bucket.entries.get(&revision)?;
                let entry = shared.entry(revision, stored, !self.scan.headers_only);
                Some(Ok(Scanned { entry, behind: behind + last - at as u64 }))
            });
            let there: Vec<_> = there.collect();
            if !there.is_empty() {
                return Ok(Some(there));
            }
        }
    }

    fn look(&mut self, bucket: &BucketState) {
        self.rounds -= 1;
        self.revisions = bucket.scan(&self.scan).into_iter();
        self.scan.after = bucket.last_revision;
    }
}
