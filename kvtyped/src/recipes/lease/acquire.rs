//! Attempts to take a lease.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::fence::{self, FENCE, FenceRecord};
use super::handle::Lease;
use super::outcome::AcquireOutcome;
use super::request::{AcquireRequest, ExpectedTombstone, LeaseWrite};
use crate::backend::Deadline;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::key::ModelKey;
use crate::observe::part_of_operation;
use crate::recipes::location::check_room;
use crate::recipes::open::detached;
use crate::recipes::record::RecipeRecord;
use crate::revision::Revision;

impl AcquireRequest {
    /// Tries once to take the lease, within the timeout of an operation.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, a lease that is taken later is released. So is the lease of an attempt with an unknown
    /// outcome.
    pub(crate) async fn try_acquire(mut self, expected: ExpectedTombstone) -> AcquireOutcome {
        // A fresh id distinguishes this attempt from earlier ones. Otherwise this attempt could mistake the record of
        // an earlier one for its own, or the pending release of an earlier one could remove this lease.
        self.record = self.record.with_fresh_id();
        if let Some(ticket) = &self.ticket {
            self.record.id = format!("{ticket}.{}", self.record.id);
        }
        let (reply, outcome) = oneshot::channel();
        let status = Arc::clone(&self.status);
        status.started();
        let token = self.bucket.context().shutdown().lease_token();
        tokio::spawn(part_of_operation(async move {
            let _token = token;
            let deadline = self.deadline();
            let outcome = match self.write_lease(expected, deadline).await {
                Ok(Some(write)) => self.finish_acquire(write, deadline).await,
                Ok(None) => AcquireOutcome::Contended,
                Err(error) if error.outcome() == Outcome::Unknown => {
                    let _ = reply.send(AcquireOutcome::Failed(error));
                    return self.remove_orphan(true).await;
                }
                Err(error) => AcquireOutcome::Failed(error),
            };
            // If the caller has left, the lease is dropped here, and so released.
            let _ = reply.send(outcome);
        }));
        let outcome = outcome.await.unwrap_or_else(|_| AcquireOutcome::Failed(Error::new(ErrorKind::Closed)));
        status.finished(&outcome);
        outcome
    }

    /// Starts the term of a lease that was written under this holder's id, and writes its fence.
    pub(crate) async fn finish_acquire(self, write: LeaseWrite, deadline: Deadline) -> AcquireOutcome {
        match self.write_fence(&write, deadline).await {
            Ok(fence_record) => AcquireOutcome::Acquired(self.start_keeper(write, fence_record)),
            Err(error) => {
                // Dropped at once, and so released.
                drop(self.start_keeper(write, None));
                match error.kind() {
                    // The lease was lost before its fence was written.
                    ErrorKind::Fenced => AcquireOutcome::Contended,
                    _ => AcquireOutcome::Failed(error),
                }
            }
        }
    }

    async fn write_lease(&self, mut expected: ExpectedTombstone, deadline: Deadline) -> Result<Option<LeaseWrite>> {
        let Self { bucket, key, record, timing, .. } = self;
        check_room(bucket).await?;
        let stored = RecipeRecord { key: key.clone(), value: record.clone() };
        loop {
            let sent_at = Instant::now();
            let timeout = self.write_timeout(deadline);
            let written = match expected {
                ExpectedTombstone::Unknown => bucket.create(&stored).ttl(timing.ttl).timeout(timeout).await,
                ExpectedTombstone::Cached(tombstone) | ExpectedTombstone::Observed(tombstone) => {
                    bucket.update(&stored, tombstone).ttl(timing.ttl).timeout(timeout).await
                }
            };
            let revision = match written {
                Ok(revision) => revision,
                Err(error) if error.is_conflict() => match (expected, error.kind()) {
                    (ExpectedTombstone::Cached(_), _)
                    | (ExpectedTombstone::Observed(_), ErrorKind::Conflict { actual: Some(Revision::ZERO), .. }) => {
                        expected = ExpectedTombstone::Unknown;
                        continue;
                    }
                    _ => return Ok(None),
                },
                Err(error) if error.outcome() == Outcome::Unknown => match self.find_revision(key, deadline).await {
                    Ok(Some(revision)) => revision,
                    _ => return Err(error),
                },
                Err(error) => return Err(error),
            };
            return Ok(Some(LeaseWrite { revision, sent_at }));
        }
    }

    /// Writes the fence of the term. The server accepts the fence only while the lease has the revision of `write`.
    async fn write_fence(&self, write: &LeaseWrite, deadline: Deadline) -> Result<Option<FenceRecord>> {
        let Self { bucket, key, record, timing, fenced, .. } = self;
        let check_time = || match write.sent_at + timing.validity() > Instant::now() {
            true => Ok(()),
            false => Err(Error::timeout(timing.validity())),
        };
        check_time()?;
        if !fenced {
            return Ok(None);
        }
        let fence_key = key.sibling(FENCE);
        let stored = RecipeRecord { key: fence_key.clone(), value: record.clone() };
        let lease = bucket.fence_precondition(key.encode()?, write.revision);
        let (ttl, sent_at) = (fence::fence_ttl(timing.ttl, bucket.config().ttl), Instant::now());
        let put = bucket.put(&stored).ttl(ttl).with_fence(Some(Ok(lease))).timeout(self.write_timeout(deadline));
        let revision = match put.await {
            Ok(revision) => revision,
            Err(error) if error.outcome() == Outcome::Unknown => {
                self.find_revision(&fence_key, deadline).await?.ok_or(error)?
            }
            Err(error) => return Err(error),
        };
        // A guard that is already lost must not be returned.
        check_time()?;
        let precondition = bucket.fence_precondition(fence_key.encode()?, revision);
        let valid_until = fence::valid_until(sent_at, ttl);
        Ok(Some(FenceRecord { key: fence_key, revision, precondition, valid_until }))
    }
}

/// The result of an attempt to take a lease.
pub(crate) trait MayHold {
    /// Returns the lease, if it was taken.
    fn lease(&self) -> Option<&Lease>;
}

impl MayHold for Lease {
    fn lease(&self) -> Option<&Lease> {
        Some(self)
    }
}

impl<H: MayHold> MayHold for Option<H> {
    fn lease(&self) -> Option<&Lease> {
        self.as_ref()?.lease()
    }
}

/// Takes a lease, as [`detached`] work. The renewal starts when the caller has the lease.
///
/// If the caller polls so late that the lease is lost, the lease is taken again.
pub(crate) async fn acquire_detached<H, W>(mut acquire: impl FnMut() -> W) -> Result<H>
where
    H: MayHold + Send + 'static,
    W: Future<Output = Result<H>> + Send + 'static,
{
    loop {
        let acquired = detached(acquire()).await?;
        let Some(lease) = acquired.lease() else { return Ok(acquired) };
        lease.start_renewal();
        if lease.is_held() {
            return Ok(acquired);
        }
    }
}
