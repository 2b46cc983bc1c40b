//! Coordination: what several processes agree on by a bucket.

mod lock;
mod lease;
mod fence;
mod holding;
mod tenure;
mod times;
mod wait;
mod queue;
mod place;
mod slot;

pub use self::fence::Fence;
pub use self::holding::Holder;
pub use self::lease::Lease;
pub use self::lock::{Lock, LockGuard, Locks, OpenLocks, TryLock};
