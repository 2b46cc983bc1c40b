//! The records of some candidates.

use super::order::Position;
use crate::backend::{Deadline, KeySpace, RawBucket, RawEntry, Read};
use crate::bucket::{Entry, ReadBucket, decode, stored_claim};
use crate::error::Result;
use crate::key::Key;
use crate::model::KvModel;
use crate::model::index::{Lookup, Many, claim_key};
use crate::observe::StoreEvent;

/// A record at its position.
pub(super) type Found<T> = (Position, Result<Entry<T>>);

/// The records of some positions.
pub(super) struct Page<T: KvModel> {
    /// The records that match the lookup, in the order of the positions.
    pub(super) found: Vec<Found<T>>,
    /// The number of positions without such a record.
    pub(super) dropped: usize,
}

/// Reads the records at these positions.
///
/// A record that is absent or does not match is read again at the leader, because a server that is behind may lack the
/// record, or still have its earlier value.
pub(super) async fn read_page<T: KvModel>(
    bucket: &ReadBucket<T>,
    raw: &dyn RawBucket,
    lookup: &Lookup<T, Many>,
    positions: Vec<Position>,
    read: Read,
    deadline: Deadline,
) -> Result<Page<T>> {
    if positions.is_empty() {
        return Ok(Page { found: Vec::new(), dropped: 0 });
    }
    let mut found = read_records(bucket, raw, lookup, &positions, read, deadline).await?;
    if read != Read::Leader && raw.config().may_be_behind() {
        let doubtful = |(at, entry): (usize, &Option<_>)| entry.is_none().then_some(at);
        let doubtful: Vec<usize> = found.iter().enumerate().filter_map(doubtful).collect();
        let again: Vec<Position> = doubtful.iter().filter_map(|at| positions.get(*at).cloned()).collect();
        let confirmed = read_records(bucket, raw, lookup, &again, Read::Leader, deadline).await?;
        for (at, entry) in doubtful.into_iter().zip(confirmed) {
            if let Some(slot) = found.get_mut(at) {
                *slot = entry;
            }
        }
    }
    let dropped = found.iter().filter(|entry| entry.is_none()).count();
    if dropped > 0 {
        let (index, entries) = (lookup.info().map_or("", |info| info.name), dropped as u64);
        bucket.context().instruments().event(&StoreEvent::IndexFiltered { bucket: bucket.name(), index, entries });
        tracing::debug!(bucket = bucket.name(), dropped, "entries of an index match no record");
    }
    let found = positions.into_iter().zip(found).filter_map(|(position, entry)| Some((position, entry?))).collect();
    Ok(Page { found, dropped })
}

/// Reads the record at each position. Returns `None` if a claim or its record is gone, or if the record does not match.
async fn read_records<T: KvModel>(
    bucket: &ReadBucket<T>,
    raw: &dyn RawBucket,
    lookup: &Lookup<T, Many>,
    positions: &[Position],
    read: Read,
    deadline: Deadline,
) -> Result<Vec<Option<Result<Entry<T>>>>> {
    let keys = record_keys(raw, lookup, positions, read, deadline).await?;
    let known: Vec<Key> = keys.iter().flatten().cloned().collect();
    let mut entries = raw.read_many(KeySpace::Records, &known, read, deadline).await?.into_iter();
    let mut record = |key: Option<Key>| {
        let entry = key.and_then(|_| entries.next()).flatten()?;
        matching_record(bucket, lookup, &entry).transpose()
    };
    Ok(keys.into_iter().map(&mut record).collect())
}

/// Returns the key of the record at each position. `None` if a claim is gone.
async fn record_keys<T: KvModel>(
    raw: &dyn RawBucket,
    lookup: &Lookup<T, Many>,
    positions: &[Position],
    read: Read,
    deadline: Deadline,
) -> Result<Vec<Option<Key>>> {
    let Some(info) = lookup.info() else { return Ok(Vec::new()) };
    if !info.is_unique() {
        return Ok(positions.iter().map(|position| Key::new(position.key.as_str()).ok()).collect());
    }
    let claim = |position: &Position| claim_key(T::SCHEMA.name, info, &position.value);
    let claims = positions.iter().map(claim).collect::<Result<Vec<_>, _>>()?;
    let found = raw.read_many(KeySpace::Index, &claims, read, deadline).await?;
    let owner = |entry: RawEntry| Ok(stored_claim(&entry)?.map(|claim| claim.owner));
    found.into_iter().map(|entry| entry.map_or(Ok(None), owner)).collect()
}

/// Decodes the record that an entry or a claim names. Returns `None` if it does not match the lookup.
pub(super) fn matching_record<T: KvModel, A>(
    bucket: &ReadBucket<T>,
    lookup: &Lookup<T, A>,
    entry: &RawEntry,
) -> Result<Option<Entry<T>>> {
    bucket.record_read(entry);
    Ok(decode::entry::<T>(entry, bucket.clock())?.filter(|found| lookup.matches(found)))
}
