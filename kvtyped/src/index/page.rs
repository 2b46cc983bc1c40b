//! The records of some candidates.

use futures::stream::{self, StreamExt, TryStreamExt};

use super::order::Position;
use crate::backend::{Deadline, RawBucket, RawEntry, Read};
use crate::bucket::{Entry, ReadBucket, decode, read_claim};
use crate::error::Result;
use crate::key::Key;
use crate::model::KvModel;
use crate::model::index::{Lookup, Many, claim_key};
use crate::observe::StoreEvent;

/// The number of claims that are read at once.
const CONCURRENCY: usize = 64;

/// A record at its position.
pub(super) type Found<T> = (Position, Result<Entry<T>>);

/// Reads the records at these positions. Returns the records that match the lookup, in the order of the positions.
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
) -> Result<Vec<Found<T>>> {
    let keys = keys(raw, lookup, &positions, read, deadline).await?;
    let known: Vec<Key> = keys.iter().flatten().cloned().collect();
    let mut entries = raw.read_many(&known, read, deadline).await?.into_iter();
    let mut found: Vec<Option<Result<Entry<T>>>> = keys
        .iter()
        .map(|key| key.as_ref().and_then(|_| decoded(bucket, lookup, entries.next().flatten().as_ref())))
        .collect();
    if read != Read::Leader && raw.config().may_be_behind() {
        let doubtful = |(at, entry): (usize, &Option<_>)| entry.is_none().then_some(at);
        let doubtful: Vec<usize> = found.iter().enumerate().filter_map(doubtful).collect();
        let again: Vec<Position> = doubtful.iter().filter_map(|at| positions.get(*at).cloned()).collect();
        let keys = self::keys(raw, lookup, &again, Read::Leader, deadline).await?;
        let known: Vec<Key> = keys.iter().flatten().cloned().collect();
        let mut entries = raw.read_many(&known, Read::Leader, deadline).await?.into_iter();
        for (at, key) in doubtful.into_iter().zip(keys) {
            let entry = key.and_then(|_| entries.next().flatten());
            if let Some(slot) = found.get_mut(at) {
                *slot = decoded(bucket, lookup, entry.as_ref());
            }
        }
    }
    let dropped = found.iter().filter(|entry| entry.is_none()).count();
    if dropped > 0 {
        let (index, entries) = (lookup.info().map_or("", |info| info.name), dropped as u64);
        bucket.context().instruments().event(&StoreEvent::IndexFiltered { bucket: bucket.name(), index, entries });
        tracing::debug!(bucket = bucket.name(), dropped, "entries of an index match no record");
    }
    Ok(positions.into_iter().zip(found).filter_map(|(position, entry)| Some((position, entry?))).collect())
}

/// Returns the key of the record at each position. `None` if a claim is gone.
async fn keys<T: KvModel>(
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
    let owner = |position: &Position| {
        let key = claim_key(T::SCHEMA.name, info, &position.value);
        async move { Ok(read_claim(raw, &key?, read, deadline).await?.1.map(|claim| claim.owner)) }
    };
    stream::iter(positions.iter().map(owner)).buffered(CONCURRENCY).try_collect().await
}

/// Decodes the record of an entry. Returns `None` if there is no record, or if it does not match.
fn decoded<T: KvModel>(
    bucket: &ReadBucket<T>,
    lookup: &Lookup<T, Many>,
    entry: Option<&RawEntry>,
) -> Option<Result<Entry<T>>> {
    let entry = entry?;
    bucket.record_read(entry);
    match decode::entry::<T>(entry, bucket.clock()) {
        Ok(None) => None,
        Ok(Some(found)) => lookup.matches(&found).then_some(Ok(found)),
        Err(error) => Some(Err(error)),
    }
}
