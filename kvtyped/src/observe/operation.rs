//! The operation that is being polled.
//!
//! The current operation is a thread-local value. The future of an operation sets it for each poll, so that the code
//! below needs no further argument. Work in another task joins the operation with [`part_of_operation`].

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tracing::Span;

use super::span;
use crate::error::Error;
use crate::revision::Revision;

/// The progress of an operation.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The number of writes that were sent.
    pub(super) attempts: u32,
    /// The number of requests that were repeated.
    pub(super) retries: u32,
    /// How often the operation lost to another writer.
    pub(super) conflicts: u32,
    pub(super) written: u64,
    pub(super) written_bytes: u64,
    pub(super) read: u64,
    pub(super) read_bytes: u64,
    pub(super) revision: Option<Revision>,
    /// The key of the record, if the store traces keys.
    pub(super) key: Option<String>,
}

/// An observed operation: its span and its progress. Its future is the only lasting owner, so that the span closes when
/// the operation ends.
#[derive(Debug)]
pub(crate) struct Operation {
    span: Span,
    progress: Mutex<Progress>,
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Operation>>> = const { RefCell::new(None) };
}

/// Replaces the current operation. Does nothing while the thread ends.
fn replace_current(operation: Option<Arc<Operation>>) -> Option<Arc<Operation>> {
    CURRENT.try_with(|current| current.replace(operation)).ok().flatten()
}

/// Returns the current operation.
fn current() -> Option<Arc<Operation>> {
    CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
}

impl Operation {
    pub(super) fn new(span: Span) -> Arc<Self> {
        Arc::new(Self { span, progress: Mutex::default() })
    }

    pub(super) fn span(&self) -> &Span {
        &self.span
    }

    pub(super) fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Calls `poll` with this operation as the current one, within its span.
pub(super) fn during<R>(operation: Option<&Arc<Operation>>, poll: impl FnOnce() -> R) -> R {
    /// Restores the operation of the caller, also after a panic.
    struct Restore(Option<Arc<Operation>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            replace_current(self.0.take());
        }
    }
    let _restore = Restore(replace_current(operation.cloned()));
    let _entered = operation.map(|operation| operation.span.enter());
    poll()
}

/// Runs work as a part of the operation that is current now, also in another task. Work that outlives the operation
/// continues without an operation.
pub(crate) fn part_of_operation<F: Future>(work: F) -> impl Future<Output = F::Output> + use<F> {
    let operation = current().as_ref().map(Arc::downgrade);
    async move {
        let mut work = pin!(work);
        poll_fn(|context| {
            let operation = operation.as_ref().and_then(Weak::upgrade);
            during(operation.as_ref(), || work.as_mut().poll(context))
        })
        .await
    }
}

/// The write of a group of operations. Its span is a child of the first operation's span, and is linked to the spans of
/// the other operations.
#[derive(Debug)]
pub(crate) struct SharedWrite {
    operation: Option<Arc<Operation>>,
}

impl SharedWrite {
    /// Creates the write of the current operation.
    pub(crate) fn start() -> Self {
        let first = current().filter(|_| span::is_enabled());
        Self { operation: first.map(|first| Operation::new(span::shared_write(&first.span))) }
    }

    /// Adds the current operation.
    pub(crate) fn join(&self) {
        if let (Some(write), Some(member)) = (&self.operation, current()) {
            write.span.follows_from(&member.span);
        }
    }

    /// Runs the write. Its retries are events in its span.
    pub(crate) async fn run<F: Future>(&self, bucket: &str, members: u32, work: F) -> F::Output {
        let operation = self.operation.as_ref();
        if let Some(operation) = operation {
            span::describe_shared_write(&operation.span, bucket, members);
        }
        let mut work = pin!(work);
        poll_fn(|context| during(operation, || work.as_mut().poll(context))).await
    }
}

fn note(change: impl FnOnce(&Operation)) {
    let _ = CURRENT.try_with(|current| {
        if let Some(operation) = &*current.borrow() {
            change(operation);
        }
    });
}

/// Counts a request that writes records of these sizes.
pub(crate) fn note_write(sizes: impl Iterator<Item = usize>) {
    note(|operation| {
        let mut progress = operation.progress();
        progress.attempts = progress.attempts.saturating_add(1);
        for size in sizes {
            progress.written += 1;
            progress.written_bytes += size as u64;
        }
    });
}

/// Counts a record that was received.
pub(crate) fn note_read(size: usize) {
    note(|operation| {
        let mut progress = operation.progress();
        progress.read += 1;
        progress.read_bytes += size as u64;
    });
}

/// Notes the key of the record.
pub(super) fn note_key(key: &str) {
    note(|operation| operation.progress().key = Some(key.to_owned()));
}

/// Notes the revision of a write.
pub(crate) fn note_revision(revision: Revision) {
    note(|operation| operation.progress().revision = Some(revision));
}

/// Notes that the operation lost to another writer.
pub(crate) fn note_conflict() {
    note(|operation| operation.progress().conflicts += 1);
}

/// Notes that a request is repeated because of this error. The span gets an event with the kind of the error.
pub(crate) fn note_retry(error: &Error) {
    note(|operation| operation.progress().retries += 1);
    tracing::debug!(target: "kvtyped::operation", reason = &*error.kind().name(), "retry");
}

/// Notes that a write is sent again because of this error.
#[cfg(feature = "nats")]
pub(crate) fn note_resend(error: &Error) {
    note(|operation| operation.progress().attempts += 1);
    note_retry(error);
}

/// Notes that a write is sent again because its acknowledgement was lost.
#[cfg(feature = "nats")]
pub(crate) fn note_lost_acknowledgement() {
    note(|operation| {
        let mut progress = operation.progress();
        progress.attempts += 1;
        progress.retries += 1;
    });
    tracing::debug!(target: "kvtyped::operation", reason = "acknowledgement_lost", "retry");
}
