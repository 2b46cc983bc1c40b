//! Work that goes on whether its caller polls or not.

use std::future::Future;

use tokio::task::JoinHandle;

use super::lease::Lease;
use crate::error::{Error, ErrorKind, Result};

/// What may come of an attempt to take a lease.
pub(super) trait MayHold {
    /// The lease, if it was taken.
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

/// Runs work in a task of its own, which ends if the future is dropped.
///
/// A caller may poll a future once and then leave it (`select!`, `buffer_unordered`). The work may hold a mutex that other
/// callers wait for, or a place in a wait queue; as a task, it proceeds.
pub(super) async fn detached<R: Send + 'static>(work: impl Future<Output = Result<R>> + Send + 'static) -> Result<R> {
    let mut task = Task(tokio::spawn(work));
    // The work does not panic and nobody else aborts it, so an error means that the runtime ends.
    (&mut task.0).await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Closed)))
}

/// Takes a lease in a task of its own. The renewal starts when the caller has it.
///
/// A caller that polls late may find a lease that was lost meanwhile. Then it is taken again.
pub(super) async fn acquire<H, W>(mut take: impl FnMut() -> W) -> Result<H>
where
    H: MayHold + Send + 'static,
    W: Future<Output = Result<H>> + Send + 'static,
{
    loop {
        let taken = detached(take()).await?;
        let Some(lease) = taken.lease() else { return Ok(taken) };
        lease.start_renewal();
        if lease.is_held() {
            return Ok(taken);
        }
    }
}

/// A task that is aborted with its handle.
struct Task<R>(JoinHandle<R>);

impl<R> Drop for Task<R> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
