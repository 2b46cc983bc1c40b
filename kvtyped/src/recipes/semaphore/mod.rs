//! Semaphores: a limited number of holders at a time, across all processes.
//!
//! Each permit is a lease in a numbered slot. A waiter follows all slots with one watch, and tries a random free slot.

pub(crate) mod slots;
pub(crate) mod handle;
pub(crate) mod holders;

pub use self::handle::{Acquire, Permit, Semaphore, TryAcquire};
pub use self::holders::PermitHolder;
