//! Work that proceeds independently of the polls of its caller.

use std::future::Future;

use tokio::task::JoinHandle;

use super::lease::Lease;
use crate::error::{Error, ErrorKind, Result};

/// The result of an attempt to take a lease.
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

/// Runs work in a separate task, which ends if the future is dropped.
///
/// A caller may poll a future once and then leave it (`select!`, `buffer_unordered`). The work may hold a mutex that
/// other callers wait for, or a ticket in a wait queue. As a separate task, it proceeds.
pub(super) async fn detached<R: Send + 'static>(work: impl Future<Output = Result<R>> + Send + 'static) -> Result<R> {
    let mut task = Task(tokio::spawn(work));
    // The work does not panic, and only the drop aborts it. An error therefore means that the runtime has ended.
    (&mut task.0).await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Closed)))
}

/// Takes a lease in a separate task. The renewal starts when the caller has the lease.
///
/// If the caller polls so late that the lease is lost, the lease is taken again.
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
