//! Fencing tokens, which distinguish the terms of a lock.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::bucket::{Create, Delete, FencePrecondition, Modify, Purge, Put, Touch, Transform, TryModify, Update};
use crate::error::{Error, Result};
use crate::model::KvModel;
use crate::recipes::lock::locks::LockGuard;
use crate::recipes::record::RecipeKey;
use crate::revision::Revision;
use crate::ttl::Ttl;
use crate::txn::Transaction;

/// The part of a lock's key for its fence.
pub(crate) const FENCE: &str = "fence";

/// How long the fence of a dead holder lives if no other holder takes the lock.
const LIFE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The TTL of the fence of a lease with this TTL, in a bucket with this `ttl`.
///
/// The fence outlives each guard that can use it. The server counts from the moment when it stores the fence, which is
/// after `sent`. A guard is lost at [`until`] at the latest, and a lost guard fences no write ([`standing`] checks
/// that). `until` is `sent` plus 99 % of the TTL, so the two clocks may run 1 % apart. A renewal of the lease does not
/// extend the fence: it is written once a term, so that its revision stays.
///
/// If the clocks run further apart, the server refuses the writes of a valid guard. It never accepts the write of a
/// stale guard, because an expired or later fence does not have the revision that the write expects.
pub(crate) fn life(ttl: Duration, bucket: Option<Duration>) -> Duration {
    let longest = Duration::from_secs(bucket.map_or(u64::MAX, |bucket| bucket.as_secs()));
    LIFE.max(ttl.saturating_mul(2)).min(longest).min(Ttl::MAX)
}

/// Returns until when a guard may use a fence with this TTL that was sent at `sent`.
pub(crate) fn until(sent: Instant, life: Duration) -> Instant {
    sent + life - life / 100
}

/// A fence in a bucket: a record that is written once in each term. Its revision stays the same until another holder
/// takes the lock.
#[derive(Debug, Clone)]
pub(crate) struct FenceRecord {
    pub(crate) key: RecipeKey,
    pub(crate) revision: Revision,
    pub(crate) standing: FencePrecondition,
    /// Until when the guard may use this fence.
    pub(crate) until: Instant,
}

/// A fencing token: a number that grows with each term of the same lock, across all holders.
///
/// Fences protect external systems. A system that remembers the highest fence that it has seen, and refuses requests
/// with a lower one, accepts nothing from a former holder. The fence is the revision that the lock was taken with. It
/// grows for as long as the bucket exists and is not restored from an older copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence(u64);

impl Fence {
    pub(crate) fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number.
    pub fn get(self) -> u64 {
        self.0
    }
}

/// The writes that a fence can guard.
macro_rules! fenced {
    ($($verb:ident $(<$closure:ident>)?)*) => {$(
        impl<T: KvModel $(, $closure)?> $verb<'_, T $(, $closure)?> {
            /// Applies the write only if no other holder has taken the lock since `guard` was acquired. The server
            /// checks this when it applies the write. The lock must belong to the same bucket:
            /// [`Bucket::lock`](crate::Bucket::lock).
            ///
            /// If another holder has taken the lock, the write returns `Fenced` and nothing is written. If the guard is
            /// already lost, the write returns `Lost` before anything is sent. With a guard of another bucket, or of
            /// [`Store::locks`](crate::Store::locks), it returns `InvalidConfig`. Fenced writes need nats-server 2.11.
            /// Together with an expected revision (`update`, `create`, `modify`, `if_revision`) they need nats-server
            /// 2.12.1, and a bucket with atomic batches.
            pub fn fenced_by(self, guard: &LockGuard) -> Self {
                self.with_fence(Some(standing(guard)))
            }
        }
    )*};
}

fenced!(Put Create Update Delete Purge Touch Modify<F> TryModify<F> Transform<F>);

impl<T: KvModel> Transaction<'_, T> {
    /// Applies the transaction only if no other holder has taken the lock since `guard` was acquired; see
    /// [`Put::fenced_by`](crate::Put::fenced_by).
    pub fn fenced_by(self, guard: &LockGuard) -> Self {
        self.with_fence(Some(standing(guard)))
    }
}

/// Returns the precondition of a write that a guard fences.
fn standing(guard: &LockGuard) -> Result<FencePrecondition> {
    guard.check()?;
    let Some(fencing) = guard.fence_record() else {
        return Err(Error::invalid_config(
            "this lock has no fence in a bucket of records; take the lock with `lock` of the written bucket",
        ));
    };
    Ok(fencing.standing.clone())
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
