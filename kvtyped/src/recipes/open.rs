//! Work that proceeds independently of the polls of its caller.

use std::future::Future;

use crate::backend;
use crate::backend::Dropped;
use crate::error::{Error, ErrorKind, Result};

/// Runs work that proceeds although its caller is not polled, and ends if the future is dropped.
///
/// The work may hold a mutex that other callers wait for, or a ticket in a wait queue.
pub(crate) async fn detached<R: Send + 'static>(work: impl Future<Output = Result<R>> + Send + 'static) -> Result<R> {
    let closed = || Err(Error::new(ErrorKind::Closed));
    backend::detached(work, Dropped::Ends).await.unwrap_or_else(closed)
}
