//! Fencing tokens, which distinguish the terms of a lock.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::bucket::FencePrecondition;
use crate::recipes::record::RecipeKey;
use crate::revision::Revision;
use crate::ttl::Ttl;

/// The part of a lock's key for its fence.
pub(crate) const FENCE: &str = "fence";

/// How long the fence of a dead holder lives if no other holder takes the lock.
const MIN_TTL: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Returns the TTL of the fence of a lease with this TTL, in a bucket with this `ttl`.
///
/// The fence outlives each guard that can use it. The server counts from the moment when it stores the fence, which is
/// after `sent_at`. A guard is lost at [`valid_until`] at the latest, and a lost guard fences no write (`fenced_by`
/// checks that). `valid_until` is `sent_at` plus 99 % of the TTL, so the two clocks may run 1 % apart. A renewal of the
/// lease does not extend the fence: it is written once a term, so that its revision stays.
///
/// If the clocks run further apart, the server refuses the writes of a valid guard. It never accepts the write of a
/// stale guard, because an expired or later fence does not have the revision that the write expects.
pub(crate) fn fence_ttl(ttl: Duration, bucket_ttl: Option<Duration>) -> Duration {
    let longest = Duration::from_secs(bucket_ttl.map_or(u64::MAX, |bucket| bucket.as_secs()));
    MIN_TTL.max(ttl.saturating_mul(2)).min(longest).min(Ttl::MAX)
}

/// Returns until when a guard may use a fence with this TTL that was sent at `sent_at`.
pub(crate) fn valid_until(sent_at: Instant, ttl: Duration) -> Instant {
    sent_at + ttl - ttl / 100
}

/// A fence in a bucket: a record that is written once in each term. Its revision stays the same until another holder
/// takes the lock.
#[derive(Debug, Clone)]
pub(crate) struct FenceRecord {
    pub(crate) key: RecipeKey,
    pub(crate) revision: Revision,
    pub(crate) precondition: FencePrecondition,
    /// Until when the guard may use this fence.
    pub(crate) valid_until: Instant,
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

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
