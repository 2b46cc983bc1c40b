//! The observation of operations. Every operation runs through this module.

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::Instant;
use tracing::Span;

use super::progress::{Progress, note_key};
use super::report::{Observer, OperationEnd, OperationReport, StoreEvent};
use super::span;
use crate::error::Error;

/// An error of an operation.
pub(crate) trait Failure {
    /// Returns the error of the library, or `None` if a closure of the caller failed.
    fn error(&self) -> Option<&Error>;

    /// Hides the key in the output of the error.
    #[must_use]
    fn hide_key(self) -> Self;
}

impl Failure for Error {
    fn error(&self) -> Option<&Error> {
        Some(self)
    }

    fn hide_key(self) -> Self {
        Self::hide_key(self)
    }
}

impl Failure for Infallible {
    fn error(&self) -> Option<&Error> {
        match *self {}
    }

    fn hide_key(self) -> Self {
        self
    }
}

/// The observer of a store and the properties of its spans.
#[derive(Clone)]
pub(crate) struct Instruments {
    observer: Option<Arc<dyn Observer>>,
    trace_keys: bool,
    /// The kind of the backend.
    system: &'static str,
    /// The host and the port of the server.
    server: Option<(Arc<str>, u16)>,
}

impl Instruments {
    pub(crate) fn new(system: &'static str, server: Option<(Arc<str>, u16)>) -> Self {
        Self { observer: None, trace_keys: false, system, server }
    }

    pub(crate) fn with_observer(self, observer: Arc<dyn Observer>) -> Self {
        Self { observer: Some(observer), ..self }
    }

    pub(crate) fn trace_keys(self, on: bool) -> Self {
        Self { trace_keys: on, ..self }
    }

    pub(crate) fn has_observer(&self) -> bool {
        self.observer.is_some()
    }

    /// Whether an operation that starts now is observed.
    #[inline]
    pub(crate) fn are_active(&self) -> bool {
        self.observer.is_some() || span::is_enabled()
    }

    /// Records the key of the current operation, if the store traces keys.
    #[inline]
    pub(crate) fn note_key(&self, key: &str) {
        if self.trace_keys {
            note_key(key);
        }
    }

    /// Reports an event to the observer.
    pub(crate) fn event(&self, event: &StoreEvent<'_>) {
        if let Some(observer) = &self.observer {
            // An observer that panics must not end the task of the library.
            let _ = catch_unwind(AssertUnwindSafe(|| observer.event(event)));
        }
    }

    /// Observes an operation from its first poll to its end.
    pub(crate) fn observe<'a, O, E>(
        &self,
        operation: &'static str,
        bucket: Cow<'a, str>,
        work: BoxFuture<'a, Result<O, E>>,
    ) -> BoxFuture<'a, Result<O, E>>
    where
        O: 'a,
        E: Failure + 'a,
    {
        let observation =
            Observation { instruments: self.clone(), operation, bucket, progress: Progress::default(), started: None };
        Box::pin(Observed { work, observation })
    }

    fn server(&self) -> Option<(&str, u16)> {
        self.server.as_ref().map(|(host, port)| (&**host, *port))
    }
}

impl Default for Instruments {
    fn default() -> Self {
        Self::new("custom", None)
    }
}

impl fmt::Debug for Instruments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instruments").field("system", &self.system).finish_non_exhaustive()
    }
}

/// An operation whose end is reported once, also if it is dropped.
struct Observation<'a> {
    instruments: Instruments,
    operation: &'static str,
    bucket: Cow<'a, str>,
    progress: Progress,
    /// The start and the span. `None` before the first poll and after the end.
    started: Option<(Instant, Span)>,
}

impl Observation<'_> {
    /// Polls the work of the operation within its span.
    fn poll<R>(&mut self, poll: impl FnOnce() -> R) -> R {
        let Self { instruments, operation, bucket, progress, started } = self;
        let start = || (Instant::now(), span::start(instruments.system, instruments.server(), operation, bucket));
        let (_, span) = started.get_or_insert_with(start);
        let _entered = span.enter();
        progress.during(poll)
    }

    /// Reports the end of the operation.
    fn end(&mut self, end: OperationEnd<'_>) {
        let Some((started, span)) = self.started.take() else { return };
        let Progress { attempts, written, written_bytes, read, read_bytes, .. } = self.progress;
        let (records, bytes) = if written > 0 { (written, written_bytes) } else { (read, read_bytes) };
        let report = OperationReport {
            operation: self.operation,
            system: self.instruments.system,
            bucket: &self.bucket,
            server: self.instruments.server(),
            duration: started.elapsed(),
            attempts,
            records,
            bytes,
            end,
        };
        span::end(&span, &report, &self.progress);
        if let Some(observer) = &self.instruments.observer {
            let _ = catch_unwind(AssertUnwindSafe(|| observer.operation(&report)));
        }
    }
}

impl Drop for Observation<'_> {
    fn drop(&mut self) {
        self.end(OperationEnd::Cancelled);
    }
}

/// The future of an observed operation.
struct Observed<'a, O, E> {
    work: BoxFuture<'a, Result<O, E>>,
    observation: Observation<'a>,
}

impl<O, E: Failure> Future for Observed<'_, O, E> {
    type Output = Result<O, E>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { work, observation } = &mut *self;
        let output = ready!(observation.poll(|| work.poll_unpin(context)));
        observation.end(match &output {
            Ok(_) => OperationEnd::Success,
            Err(error) => error.error().map_or(OperationEnd::Aborted, OperationEnd::Failure),
        });
        Poll::Ready(output)
    }
}
