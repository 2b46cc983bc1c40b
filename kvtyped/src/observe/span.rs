//! The span of an operation.

use tracing::field::Empty;
use tracing::{Level, Span};

use super::progress::Progress;
use super::report::{OperationEnd, OperationReport};
use crate::error::{ErrorKind, Outcome};

/// Whether a subscriber wants the spans of operations.
pub(super) fn is_enabled() -> bool {
    tracing::span_enabled!(target: "kvtyped::operation", Level::DEBUG)
}

/// Creates the span of an operation.
pub(super) fn start(system: &'static str, server: Option<(&str, u16)>, operation: &'static str, bucket: &str) -> Span {
    let space = if bucket.is_empty() { "" } else { " " };
    let batch = if operation.ends_with("_many") && operation != "get_many" { "BATCH " } else { "" };
    let verb = if batch.is_empty() { operation } else { operation.trim_end_matches("_many") };
    let span = tracing::debug_span!(
        target: "kvtyped::operation",
        "operation",
        otel.name = %format_args!("{batch}{verb}{space}{bucket}"),
        otel.kind = if server.is_some() { "client" } else { "internal" },
        otel.status_code = Empty,
        db.system.name = system,
        db.collection.name = Empty,
        db.operation.name = operation,
        db.operation.batch.size = Empty,
        db.response.status_code = Empty,
        error.type = Empty,
        server.address = Empty,
        server.port = Empty,
        kvtyped.attempts = Empty,
        kvtyped.revision = Empty,
        kvtyped.outcome = Empty,
        kvtyped.cancelled = Empty,
        kvtyped.key = Empty,
    );
    if !bucket.is_empty() {
        span.record("db.collection.name", bucket);
    }
    if let Some((host, port)) = server {
        span.record("server.address", host);
        if port != 4222 {
            span.record("server.port", port);
        }
    }
    span
}

/// Records the end of an operation.
pub(super) fn end(span: &Span, report: &OperationReport<'_>, progress: &Progress) {
    if span.is_disabled() {
        return;
    }
    if progress.written >= 2 && (progress.attempts == 1 || report.operation.ends_with("_many")) {
        span.record("db.operation.batch.size", progress.written);
    }
    if let Some(key) = &progress.key {
        span.record("kvtyped.key", &**key);
    }
    if progress.attempts > 0 {
        span.record("kvtyped.attempts", progress.attempts);
    }
    if let (Some(revision), true) = (progress.revision, report.end.is_success()) {
        span.record("kvtyped.revision", revision.get());
    }
    match report.end {
        OperationEnd::Success => return,
        OperationEnd::Cancelled => {
            span.record("kvtyped.cancelled", true);
            return;
        }
        OperationEnd::Aborted => {}
        OperationEnd::Failure(error) => {
            let outcome = match error.outcome() {
                Outcome::NotApplied => "not_applied",
                Outcome::Unknown => "unknown",
            };
            span.record("kvtyped.outcome", outcome);
            if let ErrorKind::Backend { code: Some(code), .. } = error.kind() {
                span.record("db.response.status_code", tracing::field::display(code));
            }
        }
    }
    span.record("otel.status_code", "ERROR");
    span.record("error.type", report.end.error_type().as_deref());
}
