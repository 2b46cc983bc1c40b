//! Answers that wait until their data is durable, and the queue of data that is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::backend::Deadline;
use crate::backend::state::log::{CommitResult, Ticket};
use crate::error::{Error, Result};

/// The size of the queue, and of one permit.
const QUEUE_BYTES: usize = 16 * 1024 * 1024;
const PERMIT_BYTES: usize = 1024;
const PERMITS: u32 = (QUEUE_BYTES / PERMIT_BYTES) as u32;

/// The queue of operations that are not durable.
#[derive(Debug)]
pub(crate) struct Queue {
    space: Arc<Semaphore>,
    /// Whether each operation takes the whole queue, because the storage refused the last group.
    one_by_one: AtomicBool,
}

impl Queue {
    #[cfg(feature = "file")]
    pub(crate) fn new() -> Self {
        Self { space: Arc::new(Semaphore::new(PERMITS as usize)), one_by_one: AtomicBool::new(false) }
    }

    /// Admits operations one by one, or together. One by one, a refused operation cannot revert another operation.
    #[cfg(feature = "file")]
    pub(crate) fn admit_one_by_one(&self, one_by_one: bool) {
        self.one_by_one.store(one_by_one, Ordering::Relaxed);
    }

    /// Waits for the space of an operation of this size.
    pub(super) async fn admit(&self, size: usize, deadline: Deadline) -> Result<OwnedSemaphorePermit> {
        let permits = match self.one_by_one.load(Ordering::Relaxed) {
            true => PERMITS,
            false => u32::try_from(size / PERMIT_BYTES + 1).unwrap_or(PERMITS).min(PERMITS),
        };
        let permit = deadline.timeout(Arc::clone(&self.space).acquire_many_owned(permits)).await?;
        // The semaphore is never closed.
        permit.map_err(|_| Error::unavailable("the queue of the store is closed"))
    }
}

/// Returns the result of a write when its ticket is durable.
pub(super) async fn settle<R>(result: Result<R>, ticket: Ticket, deadline: Deadline) -> Result<R> {
    let Ticket::Pending(commit) = ticket else { return result };
    let is_applied = result.is_ok();
    let unknown = |error: Error| if is_applied { error.unknown_outcome() } else { error };
    match deadline.timeout(commit).await {
        Ok(Ok(CommitResult::Durable)) => result,
        Ok(Ok(CommitResult::Refused(reason))) => Err(Error::unavailable(reason)),
        Ok(Ok(CommitResult::Failed(reason))) => Err(unknown(Error::unavailable(reason))),
        Ok(Err(_)) => Err(unknown(Error::unavailable(WRITER_ENDED))),
        Err(timeout) => Err(unknown(timeout)),
    }
}

/// Waits until the data of a read is durable. Returns `false` if the data was reverted, and the caller must read again.
pub(super) async fn is_shown(ticket: Ticket, deadline: Deadline) -> Result<bool> {
    match ticket {
        Ticket::Durable => Ok(true),
        pending @ Ticket::Pending(_) => deadline.timeout(is_durable(pending)).await?,
    }
}

/// Waits without a deadline; see [`is_shown`].
pub(super) async fn is_durable(ticket: Ticket) -> Result<bool> {
    let Ticket::Pending(result) = ticket else { return Ok(true) };
    match result.await {
        Ok(CommitResult::Durable) => Ok(true),
        Ok(CommitResult::Refused(_)) => Ok(false),
        Ok(CommitResult::Failed(reason)) => Err(Error::unavailable(reason)),
        Err(_) => Err(Error::unavailable(WRITER_ENDED)),
    }
}

const WRITER_ENDED: &str = "the writer of the store ended; open the store again";
