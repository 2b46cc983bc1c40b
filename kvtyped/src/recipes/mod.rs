//! Coordination: what several processes agree on by a bucket.

mod lock;
mod election;
mod semaphore;
mod group;
mod group_watch;
mod group_view;
mod once;
mod once_run;
mod lease;
mod fence;
mod holding;
mod tenure;
mod times;
mod wait;
mod queue;
mod home;
mod terms;
mod told;
mod place;
mod slot;

pub use self::election::{Campaign, Election, Leader, Leaders, Leadership};
pub use self::fence::Fence;
pub use self::group::{Group, Join, Member, MemberInfo};
pub use self::group_view::GroupView;
pub use self::group_watch::{Departure, GroupEvent, GroupEvents};
pub use self::holding::Holder;
pub use self::lease::Lease;
pub use self::lock::{Lock, LockGuard, Locks, OpenLocks, TryLock};
pub use self::once::{Once, Run};
pub use self::once_run::{RunError, RunOutput};
pub use self::semaphore::{Acquire, Permit, Semaphore, TryAcquire};
