//! Writes that the server applies only for the current holder of a lock.

use super::guard::LockGuard;
use crate::bucket::{Create, Delete, FencePrecondition, Modify, Purge, Put, Touch, Transform, TryModify, Update};
use crate::error::{Error, Result};
use crate::model::KvModel;
use crate::txn::Transaction;

/// Adds `fenced_by` to the writes that a fence can guard.
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
                self.with_fence(Some(precondition(guard)))
            }
        }
    )*};
}

fenced!(Put Create Update Delete Purge Touch Modify<F> TryModify<F> Transform<F>);

impl<T: KvModel> Transaction<'_, T> {
    /// Applies the transaction only if no other holder has taken the lock since `guard` was acquired; see
    /// [`Put::fenced_by`](crate::bucket::Put::fenced_by).
    pub fn fenced_by(self, guard: &LockGuard) -> Self {
        self.with_fence(Some(precondition(guard)))
    }
}

/// Returns the precondition of a write that a guard fences.
fn precondition(guard: &LockGuard) -> Result<FencePrecondition> {
    guard.check()?;
    let Some(fence) = guard.fence_record() else {
        return Err(Error::invalid_config("this lock fences no bucket; lock with `lock` of the bucket that you write"));
    };
    Ok(fence.precondition.clone())
}
