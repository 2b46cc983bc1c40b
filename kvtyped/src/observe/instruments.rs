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
use tokio::sync::watch;
use tokio::time::Instant;

use super::operation::{Operation, Progress, during, note_key};
use super::report::{Observer, OperationEnd, OperationReport, StoreEvent};
use super::span::{self, SpanEnd, SpanStart};
use crate::backend::ConnectionState;
use crate::error::Error;
use crate::revision::Revision;

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

/// The place where the operations of a store run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origin {
    /// The kind of the backend.
    pub(crate) system: &'static str,
    /// The JetStream domain.
    pub(crate) namespace: Option<String>,
    /// The host and the port of the server.
    pub(crate) server: Option<(String, u16)>,
    /// The state of the connection, which names the server that answers.
    pub(crate) connection: Option<watch::Receiver<ConnectionState>>,
}

/// The observer of a store and the properties of its spans. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Instruments(Arc<Settings>);

#[derive(Clone, Default)]
struct Settings {
    observer: Option<Arc<dyn Observer>>,
    trace_keys: bool,
    origin: Origin,
}

impl Instruments {
    pub(crate) fn new(origin: Origin) -> Self {
        Self(Arc::new(Settings { observer: None, trace_keys: false, origin }))
    }

    pub(crate) fn with_observer(&self, observer: Arc<dyn Observer>) -> Self {
        Self(Arc::new(Settings { observer: Some(observer), ..Settings::clone(&self.0) }))
    }

    pub(crate) fn trace_keys(&self, on: bool) -> Self {
        Self(Arc::new(Settings { trace_keys: on, ..Settings::clone(&self.0) }))
    }

    #[inline]
    pub(crate) fn has_observer(&self) -> bool {
        self.0.observer.is_some()
    }

    /// Whether an operation that starts now is observed.
    #[inline]
    pub(crate) fn are_active(&self) -> bool {
        self.has_observer() || span::is_enabled()
    }

    /// Records the key of the current operation, if the store traces keys.
    #[inline]
    pub(crate) fn note_key(&self, key: &str) {
        if self.0.trace_keys {
            note_key(key);
        }
    }

    /// Reports an event to the observer.
    pub(crate) fn event(&self, event: &StoreEvent<'_>) {
        if let Some(observer) = &self.0.observer {
            report_event(&**observer, event);
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
        let observation = Observation { instruments: self.clone(), name: operation, bucket, started: None };
        Box::pin(Observed { work, observation })
    }
}

impl fmt::Debug for Instruments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instruments").field("origin", &self.0.origin).finish_non_exhaustive()
    }
}

/// Reports an event to an observer.
pub(crate) fn report_event(observer: &dyn Observer, event: &StoreEvent<'_>) {
    // An observer that panics must not end the task of the library.
    let _ = catch_unwind(AssertUnwindSafe(|| observer.event(event)));
}

/// An operation whose end is reported once, also if it is dropped.
struct Observation<'a> {
    instruments: Instruments,
    name: &'static str,
    bucket: Cow<'a, str>,
    /// The start of the operation. `None` before the first poll and after the end.
    started: Option<(Instant, Arc<Operation>)>,
}

impl Observation<'_> {
    /// Polls the work of the operation within its span.
    fn poll<R>(&mut self, poll: impl FnOnce() -> R) -> R {
        let Self { instruments, name, bucket, started } = self;
        let start = || {
            let Origin { system, namespace, server, .. } = &instruments.0.origin;
            let server = server.as_ref().map(|(host, port)| (&**host, *port));
            let start = SpanStart { system, namespace: namespace.as_deref(), server, operation: name, bucket };
            (Instant::now(), Operation::new(span::start(&start)))
        };
        let (_, operation) = started.get_or_insert_with(start);
        during(Some(operation), poll)
    }

    /// Reports the end of the operation.
    fn end(&mut self, end: OperationEnd<'_>) {
        let Some((started, operation)) = self.started.take() else { return };
        let Settings { observer, origin, .. } = &*self.instruments.0;
        let progress = std::mem::take(&mut *operation.progress());
        let Progress { attempts, retries, conflicts, written, written_bytes, read, read_bytes, revision, key } =
            progress;
        let (records, bytes) = if written > 0 { (written, written_bytes) } else { (read, read_bytes) };
        let report = OperationReport {
            operation: self.name,
            system: origin.system,
            namespace: origin.namespace.as_deref(),
            bucket: &self.bucket,
            server: origin.server.as_ref().map(|(host, port)| (&**host, *port)),
            duration: started.elapsed(),
            attempts,
            retries,
            conflicts: conflicts.max(u32::from(end.is_conflict())),
            records,
            bytes,
            end,
        };
        if !operation.span().is_disabled() {
            let state = origin.connection.as_ref().map(|connection| connection.borrow());
            let peer = state.as_ref().and_then(|state| state.server.as_ref()).map(|server| &*server.address);
            let (revision, key) = (revision.map(Revision::get), key.as_deref());
            span::end(operation.span(), &report, &SpanEnd { written, revision, key, peer });
        }
        if let Some(observer) = observer {
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
