//! Locks, by name or for a record.
//!
//! A lock is a lease with a wait queue. Waiters create tickets next to the lease. On release, the holder passes the
//! lease to the first ticket with one write.

pub(crate) mod guard;
pub(crate) mod fenced_by;
pub(crate) mod queue_view;
pub(crate) mod wait_queue;
pub(crate) mod ticket;
pub(crate) mod request;
pub(crate) mod locks;
pub(crate) mod inspect;

pub use self::guard::{LockGuard, LockHolder};
pub use self::inspect::{HeldLocks, LockEvent, LockEvents, LockWaiter};
pub use self::locks::{Lock, Locks, TryLock};
