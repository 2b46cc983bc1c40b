//! The repair of the index entries of one record.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::TryStreamExt;
use tokio::time::sleep;

use crate::backend::{Backoff, KeySpace, ListKeysRequest, RawEntry};
use crate::bucket::index::clean::CleanEnd;
use crate::bucket::index::slot::Slot;
use crate::bucket::{Bucket, ReadBucket};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::model::index::{IndexInfo, Indexed, entries_of_record, kept_by_writers, parse_entry};
use crate::revision::Revision;

pub(super) const OPERATION: &str = "maintain_indexes";

/// How often an entry is cleaned again if a writer comes first.
const CLEAN_ATTEMPTS: u32 = 5;

/// How often a record is read again that should have expired.
const EXPIRY_ATTEMPTS: u32 = 8;

/// Two records with one unique value, found by [`Bucket::maintain_indexes`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct IndexDuplicate {
    /// The index.
    pub index: &'static str,
    /// The key of the record that has the value in the index.
    pub owner: String,
    /// The key of the other record, which lookups by the value do not find.
    pub other: String,
}

/// A change of a record, as a follower has seen it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// The revision of the change.
    pub(super) revision: Revision,
    /// Whether the change has removed the record.
    pub(super) is_removal: bool,
    /// Whether a listing contains the record, and not a watch the change.
    pub(super) is_listed: bool,
    /// Whether the writer of the change has kept the entries.
    pub(super) is_kept: bool,
}

/// The repairs of a follower.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    /// The number of stored and erased entries, by the position of the index.
    pub(super) counts: BTreeMap<usize, (u64, u64)>,
    pub(super) duplicates: Vec<IndexDuplicate>,
}

impl Repairs {
    pub(super) fn stored(&mut self, index: usize, count: u64) {
        self.counts.entry(index).or_default().0 += count;
    }

    pub(super) fn erased(&mut self, index: usize, count: u64) {
        self.counts.entry(index).or_default().1 += count;
    }
}

/// Whether the writer of a record or a delete marker has kept the entries of this program's indexes.
pub(super) fn is_kept<T: Indexed>(entry: &RawEntry) -> bool {
    entry.headers.indexes() == kept_by_writers(T::__INDEXES)
}

/// Stores the missing entries of a record, and erases its stale ones. Two processes may do this at once, while others write.
///
/// An entry is stored again even if it exists, unless the writer of the record has kept it. An earlier writer, which took the
/// value from the record, may be about to erase the entry. The erasure has an older revision than the new entry.
pub(super) async fn follow_record<T: Indexed>(
    bucket: &Bucket<T>,
    key: &Key,
    seen: Seen,
    timeout: Option<Duration>,
) -> Result<Repairs> {
    let mut repairs = Repairs::default();
    let newest = newest_after(bucket, key, seen, timeout).await?;
    if let Some(entry) = newest.as_ref().filter(|entry| entry.is_live()) {
        let is_kept = is_kept::<T>(entry);
        let deadline = bucket.deadline(timeout);
        let slots = match seen.is_listed {
            true => {
                let kept = |info: &IndexInfo| is_kept && !info.is_eventual;
                bucket.unsure_slots(entry, bucket.slots_of(entry, |_| true), kept, deadline).await?
            }
            false => bucket.slots_of(entry, |info| info.is_eventual || !is_kept),
        };
        store(bucket, entry, slots, timeout, &mut repairs).await?;
    }
    // A listing ends with a search of all stale entries.
    if seen.is_listed {
        return Ok(repairs);
    }
    erase_stale(bucket, key, |info| info.is_eventual || !seen.is_kept, timeout, &mut repairs).await?;
    let is_of_writers = |index: &usize| T::__INDEXES.get(*index).is_some_and(|info| !info.is_eventual);
    let has_stored = repairs.counts.iter().any(|(index, (stored, _))| *stored > 0 && is_of_writers(index));
    if has_stored && newest_of(bucket, key, timeout).await?.as_ref().is_none_or(is_kept::<T>) {
        // A writer may have replaced the record before its entries were stored, and has erased nothing then.
        erase_stale(bucket, key, |info| !info.is_eventual, timeout, &mut repairs).await?;
    }
    Ok(repairs)
}

/// Reads a record at the leader. Waits a moment if the record should have expired: a server without delete markers may
/// return it a little longer.
async fn newest_after<T: Indexed>(
    bucket: &Bucket<T>,
    key: &Key,
    seen: Seen,
    timeout: Option<Duration>,
) -> Result<Option<RawEntry>> {
    let (mut backoff, mut attempts) = (Backoff::outage(), 0);
    loop {
        let newest = newest_of(bucket, key, timeout).await?;
        let is_expiring = newest.as_ref().is_some_and(|entry| entry.is_live() && entry.revision == seen.revision);
        if !(seen.is_removal && is_expiring) || attempts == EXPIRY_ATTEMPTS {
            return Ok(newest);
        }
        attempts += 1;
        sleep(backoff.next()).await;
    }
}

async fn newest_of<T: Indexed>(bucket: &Bucket<T>, key: &Key, timeout: Option<Duration>) -> Result<Option<RawEntry>> {
    Ok(bucket.newest_of(std::slice::from_ref(key), bucket.deadline(timeout)).await?.remove(key))
}

/// Stores entries and claims of a record.
async fn store<T: Indexed>(
    bucket: &Bucket<T>,
    entry: &RawEntry,
    slots: Vec<Slot>,
    timeout: Option<Duration>,
    repairs: &mut Repairs,
) -> Result<()> {
    // One claim each, because each may have another owner.
    for slot in slots {
        let index = slot.index;
        match bucket.index_record(entry.clone(), vec![slot], bucket.deadline(timeout)).await {
            Ok(()) => repairs.stored(index, 1),
            Err(error) => match error.kind() {
                ErrorKind::NotUnique { index, owner } => {
                    let other = entry.key.to_string();
                    repairs.duplicates.push(IndexDuplicate { index, owner: owner.clone(), other });
                }
                _ => return Err(error),
            },
        }
    }
    Ok(())
}

/// Erases the entries of a record that it does not have. The stale claim of a unique value stays: its key does not name the
/// record, and the next writer of the value takes it over.
async fn erase_stale<T: Indexed>(
    bucket: &Bucket<T>,
    key: &Key,
    is_selected: impl Fn(&IndexInfo) -> bool,
    timeout: Option<Duration>,
    repairs: &mut Repairs,
) -> Result<()> {
    let model = T::SCHEMA.name;
    let raw = bucket.raw(OPERATION)?;
    let idle_timeout = timeout.unwrap_or(bucket.timeout());
    for (index, info) in T::__INDEXES.iter().enumerate() {
        if info.is_unique() || !is_selected(info) {
            continue;
        }
        let pattern = entries_of_record(model, info, key);
        let list = ListKeysRequest { space: KeySpace::Index, pattern, idle_timeout };
        let listed: Vec<Key> = raw.list_keys(list).try_concat().await?;
        if listed.is_empty() {
            continue;
        }
        let slots: Vec<Slot> = listed
            .iter()
            .filter_map(|entry| {
                let (text, owner) = parse_entry(model, info, entry.as_str())?;
                (owner == key.as_str()).then(|| Slot { index, text: text.to_owned(), key: entry.clone() })
            })
            .collect();
        let mut newest = newest_of(bucket, key, timeout).await?;
        if slots.iter().all(|slot| ReadBucket::<T>::has_slot(newest.as_ref(), slot)) {
            continue;
        }
        let mut through = Revision::ZERO;
        if info.is_eventual {
            // The record is read after that revision, so entries that a later record needs are newer.
            through = bucket.refresh_status(bucket.deadline(timeout)).await?.last_revision;
            newest = newest_of(bucket, key, timeout).await?;
        }
        for slot in slots {
            if !ReadBucket::<T>::has_slot(newest.as_ref(), &slot) {
                let is_erased = erase_slot(bucket, slot, Some(key.clone()), info, through, timeout).await?;
                repairs.erased(index, u64::from(is_erased));
            }
        }
    }
    Ok(())
}

/// Erases an entry or a claim that its record does not have. `owner` is the record of an entry, and `None` for a claim.
/// For an eventual index, `through` is the last revision of the bucket before the record was read.
pub(super) async fn erase_slot<T: Indexed>(
    bucket: &Bucket<T>,
    slot: Slot,
    owner: Option<Key>,
    info: &IndexInfo,
    through: Revision,
    timeout: Option<Duration>,
) -> Result<bool> {
    if info.is_eventual {
        // No writer stores such entries, and each follower stores them again after each change of the record.
        bucket.erase_followed(&slot, through, bucket.deadline(timeout)).await?;
        return Ok(true);
    }
    for _ in 0..CLEAN_ATTEMPTS {
        match bucket.clean_slot(slot.clone(), owner.clone(), bucket.deadline(timeout)).await? {
            CleanEnd::Erase(_) => return Ok(true),
            CleanEnd::Keep => return Ok(false),
            CleanEnd::Raced => {}
        }
    }
    Ok(false)
}

/// Whether an error ends a follower. Other errors are retried, or affect one record.
pub(super) fn is_final(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::PermissionDenied { .. }
            | ErrorKind::InvalidConfig { .. }
            | ErrorKind::Unsupported { .. }
            | ErrorKind::SchemaDiffers { .. }
            | ErrorKind::BucketNotFound
            | ErrorKind::BucketReplaced
            | ErrorKind::Closed
    )
}
