//! Requests of callers to the thread of the journal.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{oneshot, watch};

use crate::error::Result;

/// The request of a backup.
pub(super) struct BackupRequest {
    pub(super) path: PathBuf,
    pub(super) reply: oneshot::Sender<Result<()>>,
}

/// The requests to the thread, and its result.
pub(super) struct Control {
    backups: Mutex<VecDeque<BackupRequest>>,
    /// The result of the thread, when it has ended.
    end: watch::Sender<Option<Result<(), String>>>,
}

impl Control {
    pub(super) fn new() -> Self {
        Self { backups: Mutex::default(), end: watch::Sender::new(None) }
    }

    pub(super) fn push(&self, request: BackupRequest) {
        self.lock().push_back(request);
    }

    pub(super) fn has_requests(&self) -> bool {
        !self.lock().is_empty()
    }

    pub(super) fn next(&self) -> Option<BackupRequest> {
        self.lock().pop_front()
    }

    /// Publishes the result of the thread, and drops the requests that it did not answer.
    pub(super) fn closed(&self, result: Result<(), String>) {
        self.end.send_replace(Some(result));
        self.lock().clear();
    }

    /// Whether the thread has ended.
    pub(super) fn is_closed(&self) -> bool {
        self.end.borrow().is_some()
    }

    /// Waits until the thread has ended.
    pub(super) async fn wait_closed(&self) -> Result<(), String> {
        let mut end = self.end.subscribe();
        let result = end.wait_for(Option::is_some).await.map(|result| result.clone());
        // The sender is part of `self`.
        result.ok().flatten().unwrap_or(Ok(()))
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<BackupRequest>> {
        self.backups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
