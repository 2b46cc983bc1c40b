//! Lookups that find out whether a write of a lease was applied.

use std::time::Duration;

use super::record::LeaseRecord;
use super::request::AcquireRequest;
use crate::backend::{Backoff, Deadline, Read};
use crate::bucket::Entry;
use crate::error::Result;
use crate::recipes::record::{RecipeKey, RecipeRecord};
use crate::revision::Revision;

impl AcquireRequest {
    /// Returns the deadline of one lookup.
    pub(crate) fn lookup_deadline(&self) -> Deadline {
        Deadline::after(self.timing.attempt_timeout())
    }

    /// Returns the timeout of a write. It leaves time for a lookup in case no reply arrives.
    pub(crate) fn write_timeout(&self, deadline: Deadline) -> Duration {
        let left = deadline.remaining();
        left - self.timing.attempt_timeout().min(left / 4)
    }

    /// Returns the revision of the lease, or of its fence, if it belongs to this holder.
    pub(crate) async fn find_revision(&self, key: &RecipeKey, deadline: Deadline) -> Result<Option<Revision>> {
        Ok(self.find_entry(key, deadline).await?.map(|entry| entry.revision()))
    }

    /// Returns the stored lease, or its fence, if it belongs to this holder.
    pub(crate) async fn find_entry(
        &self,
        key: &RecipeKey,
        deadline: Deadline,
    ) -> Result<Option<Entry<RecipeRecord<LeaseRecord>>>> {
        let timeout = self.timing.attempt_timeout().min(deadline.remaining());
        let entry = self.bucket.get(key).read(Read::Leader).timeout(timeout).await?;
        Ok(entry.filter(|entry| entry.value.id == self.record.id))
    }

    /// Finds and removes a lease that has no holder and that would block others for as long as it lives. Its write
    /// (`may_arrive` if that may still arrive) or its release had an unknown outcome, or its release failed.
    pub(crate) async fn remove_orphan(self, may_arrive: bool) {
        let Self { bucket, key, timing, tombstone_ttl, .. } = &self;
        let deadline = Deadline::after(timing.ttl);
        let mut backoff = Backoff::outage();
        while backoff.pause(deadline).await {
            let revision = match self.find_revision(key, deadline).await {
                Ok(Some(revision)) => revision,
                Ok(None) if !may_arrive => return,
                // For example, the store was closed.
                Err(error) if !error.is_transient() => return,
                Ok(None) | Err(_) => continue,
            };
            match bucket.purge(key).if_revision(revision).ttl(*tombstone_ttl).await {
                // The next lookup shows whether the conflict was a renewal that arrived late.
                Err(_) => {}
                Ok(_) => return,
            }
        }
    }
}
