//! A held lock, and the holder of a lock as other processes read it.

use std::fmt;
use std::ops::Deref;
use std::time::{Duration, SystemTime};

use crate::bucket::Entry;
use crate::error::Result;
use crate::recipes::lease::fence::{Fence, FenceRecord};
use crate::recipes::lease::handle::Lease;
use crate::recipes::lease::record::{LeaseRecord, expires_in, fence_of, time_of};
use crate::recipes::record::RecipeRecord;

/// A held lock. Dereferences to its [`Lease`]: `lost`, `run`, `ensure_remaining`, `remaining`, `fence`.
///
/// Dropping the guard releases the lock in the background. [`release`](Self::release) waits for the result.
///
/// # What this does not guarantee
///
/// See [`Locks`](crate::recipes::Locks).
#[must_use = "dropping the guard releases the lock"]
pub struct LockGuard {
    lease: Lease,
}

impl LockGuard {
    pub(crate) fn new(lease: Lease) -> Self {
        Self { lease }
    }

    /// Releases the lock and waits until that is confirmed; see [`Lease::release`].
    ///
    /// # Errors
    ///
    /// Returns `Lost` if the lock was lost before. The protected work may have overlapped with another holder.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the release continues in the background and its result is lost.
    pub async fn release(self) -> Result<()> {
        self.lease.release().await
    }

    /// Returns the fence of the lock, if its bucket has one.
    pub(crate) fn fence_record(&self) -> Option<&FenceRecord> {
        self.lease.fence_record()
    }
}

impl Deref for LockGuard {
    type Target = Lease;

    fn deref(&self) -> &Lease {
        &self.lease
    }
}

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LockGuard").field(&self.lease).finish()
    }
}

/// The holder of a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockHolder {
    /// The name of the holder.
    pub owner: String,
    /// When it took the lock, by its own clock.
    pub since: SystemTime,
    /// The note of the holder.
    pub note: Option<String>,
    /// The fencing token of the holder's term.
    pub fence: Fence,
    /// When the holder last renewed the lock, by the server's clock.
    pub renewed: SystemTime,
    /// The time until the lock expires without a renewal, by the server's clock; see
    /// [`Entry::remaining`](crate::Entry::remaining).
    pub expires_in: Duration,
}

impl LockHolder {
    pub(crate) fn from_entry(entry: &Entry<RecipeRecord<LeaseRecord>>) -> Self {
        let LeaseRecord { owner, since, note, .. } = &entry.value;
        Self {
            owner: owner.clone(),
            since: time_of(*since),
            note: note.clone(),
            fence: fence_of(entry),
            renewed: entry.created(),
            expires_in: expires_in(entry),
        }
    }
}
