//! Coordination: what several processes agree on by a bucket.

mod lock;
mod counters;
mod ids;
mod rate;
mod lease;
mod fence;
mod holding;
mod tenure;
mod times;
mod wait;
mod queue;
mod clock;
mod quota;
mod place;
mod slot;

pub use self::counters::{Counters, OpenCounters};
pub use self::fence::Fence;
pub use self::holding::Holder;
pub use self::ids::{Ids, OpenIds};
pub use self::lease::Lease;
pub use self::lock::{Lock, LockGuard, Locks, OpenLocks, TryLock};
pub use self::quota::Quota;
pub use self::rate::{Decision, OpenRateLimiter, RateLimiter, UntilReady};
