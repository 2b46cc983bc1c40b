//! The entries that a copy sends at once.

use std::time::Duration;

use futures::stream::FuturesUnordered;

use super::content::Content;
use super::handle::{Bucket, ReadBucket};
use super::write::check_ttl;
use crate::backend::{KeySpace, RawEntry, Read, ReadAt, ScanItem, WriteKind, next_output};
use crate::config::BucketConfig;
use crate::error::{Error, Result};
use crate::model::RawRecord;
use crate::revision::Revision;
use crate::ttl::Ttl;

/// The largest number of records, and of their bytes, that are sent at once.
const MAX_WINDOW: usize = 512;
const MAX_WINDOW_BYTES: usize = 4 * 1_024 * 1_024;

/// Entries of different keys that are sent at once.
#[derive(Default)]
pub(super) struct Window {
    pub(super) entries: Vec<RawEntry>,
    bytes: usize,
    remaining: u64,
    /// The revision of the last entry.
    through: Revision,
}

/// The result of a window.
pub(super) struct Sent {
    pub(super) records: u64,
    pub(super) removed: u64,
    pub(super) expiring: u64,
    pub(super) through: Revision,
    pub(super) remaining: u64,
}

/// The result of one entry.
enum CopiedEntry {
    Written(Revision),
    Removed,
    Expiring,
    /// A delete marker of a record that the target does not have.
    Nothing,
}

impl Window {
    pub(super) fn is_full(&self) -> bool {
        self.entries.len() >= MAX_WINDOW || self.bytes >= MAX_WINDOW_BYTES
    }

    /// Adds an entry in place of an earlier one of its key.
    pub(super) fn push(&mut self, item: ScanItem) {
        let ScanItem { entry, pending } = item;
        (self.through, self.remaining) = (entry.revision, pending);
        self.bytes += entry.value.len();
        self.entries.retain(|earlier| earlier.key != entry.key);
        self.entries.push(entry);
    }

    /// Writes the entries. The revisions of the copies have the order of the entries.
    pub(super) async fn send(self, from: &ReadBucket<RawRecord>, target: &Bucket<RawRecord>) -> Result<Sent> {
        let Self { entries, through, remaining, .. } = self;
        let mut sending: FuturesUnordered<_> = entries
            .iter()
            .enumerate()
            .map(|(index, entry)| async move { (index, copy_entry(entry, from, target).await) })
            .collect();
        let mut outcomes: Vec<CopiedEntry> = entries.iter().map(|_| CopiedEntry::Nothing).collect();
        while let Some((index, outcome)) = next_output(&mut sending).await {
            outcomes[index] = outcome?;
        }
        drop(sending);
        // A write that was sent again may be stored after a later one. Then all later records are written again.
        let (mut last, mut in_order) = (Revision::ZERO, true);
        for (entry, outcome) in entries.iter().zip(&mut outcomes) {
            let CopiedEntry::Written(revision) = outcome else { continue };
            in_order &= *revision > last;
            if !in_order {
                *outcome = copy_entry(entry, from, target).await?;
            } else {
                last = *revision;
            }
        }
        let count = |wanted: fn(&CopiedEntry) -> bool| outcomes.iter().filter(|outcome| wanted(outcome)).count() as u64;
        Ok(Sent {
            records: count(|outcome| matches!(outcome, CopiedEntry::Written(_))),
            removed: count(|outcome| matches!(outcome, CopiedEntry::Removed)),
            expiring: count(|outcome| matches!(outcome, CopiedEntry::Expiring)),
            through,
            remaining,
        })
    }
}

async fn copy_entry(entry: &RawEntry, from: &ReadBucket<RawRecord>, target: &Bucket<RawRecord>) -> Result<CopiedEntry> {
    let deadline = target.deadline(None);
    let located = |error: Error| error.with_key(entry.key.as_str());
    if entry.is_live() {
        let Some(ttl) = copied_ttl(entry, from, target.config()).map_err(located)? else {
            return Ok(CopiedEntry::Expiring);
        };
        let content = Content::put(entry.value.clone(), entry.headers.clone(), None).with_ttl(ttl);
        let revision = target.send_content(&entry.key, content, None, None, deadline).await.map_err(located)?;
        return Ok(CopiedEntry::Written(revision));
    }
    let copy = target
        .inner
        .raw
        .read(KeySpace::Records, &entry.key, ReadAt::Newest(Read::Leader), deadline)
        .await
        .map_err(located)?;
    if !copy.is_some_and(|copy| copy.is_live()) {
        return Ok(CopiedEntry::Nothing);
    }
    let removal = Content::removal(WriteKind::Delete, None);
    target.send_content(&entry.key, removal, None, None, deadline).await.map_err(located)?;
    Ok(CopiedEntry::Removed)
}

/// Returns the TTL of a copy, or `None` if the record expires within a second.
fn copied_ttl(entry: &RawEntry, from: &ReadBucket<RawRecord>, target: &BucketConfig) -> Result<Option<Option<Ttl>>> {
    let Some(left) = from.clock().remaining(entry.created, entry.ttl) else {
        return Ok(Some(entry.ttl.filter(|ttl| ttl.is_never() && target.ttl.is_some())));
    };
    let left = Duration::from_secs(left.as_secs());
    if left.is_zero() {
        return Ok(None);
    }
    if target.ttl.is_some_and(|ttl| ttl <= left) {
        return Ok(Some(None));
    }
    match check_ttl(target, Some(left)) {
        // The TTL of the target replaces that of the source.
        Err(_) if entry.ttl.is_none() && target.ttl.is_some() => Ok(Some(None)),
        ttl => ttl.map(Some),
    }
}
