//! The removal of a lease by another process than its holder.

use std::time::Duration;

use super::fence::{FENCE, Fence};
use super::record::{LeaseRecord, fence_of};
use crate::backend::Read;
use crate::bucket::Bucket;
use crate::error::{Error, ErrorKind, Result};
use crate::recipes::record::{RecipeKey, RecipeRecord};
use crate::revision::Revision;

/// Removes a lease and its fence, if the lease belongs to this term. Repeats the removal while the holder renews.
pub(crate) async fn remove_lease(
    bucket: &Bucket<RecipeRecord<LeaseRecord>>,
    key: &RecipeKey,
    term: Fence,
    tombstone_ttl: Duration,
) -> Result<()> {
    loop {
        let Some(lease) = bucket.get(key).read(Read::Leader).await? else { return Ok(()) };
        if fence_of(&lease) != term {
            let (expected, actual) = (Revision::new(term.get()), Some(Revision::new(fence_of(&lease).get())));
            return Err(Error::new(ErrorKind::Conflict { expected, actual }));
        }
        // The fence first: the next holder writes its fence after its lease.
        let fence_key = key.sibling(FENCE);
        let fence = bucket.get(&fence_key).read(Read::Leader).await?;
        if let Some(fence) = fence.filter(|fence| fence.value.id == lease.value.id) {
            match bucket.purge(&fence_key).if_revision(fence.revision()).ttl(tombstone_ttl).await {
                Err(error) if error.is_conflict() => continue,
                removed => removed?,
            };
        }
        match bucket.purge(key).if_revision(lease.revision()).ttl(tombstone_ttl).await {
            Err(error) if error.is_conflict() => {}
            removed => return removed.map(drop),
        }
    }
}
