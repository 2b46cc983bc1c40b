//! Work that proceeds independently of the polls of its caller.

use std::future::Future;

use super::handle::Lease;
use crate::backend;
use crate::backend::Dropped;
use crate::error::{Error, ErrorKind, Result};

/// The result of an attempt to take a lease.
pub(crate) trait MayHold {
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

/// Runs work that proceeds although its caller is not polled, and ends if the future is dropped.
///
/// The work may hold a mutex that other callers wait for, or a ticket in a wait queue.
pub(crate) async fn detached<R: Send + 'static>(work: impl Future<Output = Result<R>> + Send + 'static) -> Result<R> {
    let closed = || Err(Error::new(ErrorKind::Closed));
    backend::detached(work, Dropped::Ends).await.unwrap_or_else(closed)
}

/// Takes a lease, as [`detached`] work. The renewal starts when the caller has the lease.
///
/// If the caller polls so late that the lease is lost, the lease is taken again.
pub(crate) async fn acquire<H, W>(mut take: impl FnMut() -> W) -> Result<H>
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
