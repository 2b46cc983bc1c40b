//! The span of an operation.

use tracing::field::Empty;
use tracing::{Level, Span};

use super::report::{OperationEnd, OperationReport};
use crate::error::{ErrorKind, Outcome};

/// The port of NATS, which spans leave out.
const DEFAULT_PORT: u16 = 4222;

/// Whether a subscriber wants the spans of operations.
#[inline]
pub(super) fn is_enabled() -> bool {
    tracing::span_enabled!(target: "kvtyped::operation", Level::DEBUG)
}

/// The fields of a span at its start.
pub(super) struct SpanStart<'a> {
    pub(super) system: &'static str,
    pub(super) namespace: Option<&'a str>,
    pub(super) server: Option<(&'a str, u16)>,
    pub(super) operation: &'static str,
    pub(super) bucket: &'a str,
}

/// Creates the span of an operation.
pub(super) fn start(start: &SpanStart<'_>) -> Span {
    if !is_enabled() {
        return Span::none();
    }
    let SpanStart { system, namespace, server, operation, bucket } = *start;
    let space = if bucket.is_empty() { "" } else { " " };
    let batch = if operation.ends_with("_many") && operation != "get_many" { "BATCH " } else { "" };
    let verb = if batch.is_empty() { operation } else { operation.trim_end_matches("_many") };
    let port = server.map(|(_, port)| port).filter(|port| *port != DEFAULT_PORT);
    tracing::debug_span!(
        target: "kvtyped::operation",
        "operation",
        otel.name = %format_args!("{batch}{verb}{space}{bucket}"),
        otel.kind = if system == "nats" { "client" } else { "internal" },
        otel.status_code = Empty,
        db.system.name = system,
        db.namespace = namespace,
        db.collection.name = Some(bucket).filter(|bucket| !bucket.is_empty()),
        db.operation.name = operation,
        db.operation.batch.size = Empty,
        db.response.status_code = Empty,
        error.type = Empty,
        server.address = server.map(|(host, _)| host),
        server.port = port,
        network.peer.address = Empty,
        kvtyped.attempts = Empty,
        kvtyped.revision = Empty,
        kvtyped.outcome = Empty,
        kvtyped.cancelled = Empty,
        kvtyped.key = Empty,
    )
}

/// Creates the span of a write that several operations share, as a child of the first operation.
pub(super) fn shared_write(first: &Span) -> Span {
    tracing::debug_span!(
        target: "kvtyped::operation",
        parent: first,
        "group_commit",
        otel.name = Empty,
        otel.kind = "internal",
        db.collection.name = Empty,
        kvtyped.group.size = Empty,
    )
}

/// Records what a shared write stores.
pub(super) fn describe_shared_write(span: &Span, bucket: &str, members: u32) {
    span.record("otel.name", tracing::field::display(format_args!("group_commit {bucket}")));
    span.record("db.collection.name", bucket);
    span.record("kvtyped.group.size", members);
}

/// The fields of a span that its report does not have.
pub(super) struct SpanEnd<'a> {
    pub(super) written: u64,
    pub(super) revision: Option<u64>,
    pub(super) key: Option<&'a str>,
    pub(super) peer: Option<&'a str>,
}

/// Records the end of an operation.
pub(super) fn end(span: &Span, report: &OperationReport<'_>, details: &SpanEnd<'_>) {
    let SpanEnd { written, revision, key, peer } = *details;
    if written >= 2 && (report.attempts == 1 || report.operation.ends_with("_many")) {
        span.record("db.operation.batch.size", written);
    }
    span.record("kvtyped.key", key);
    span.record("network.peer.address", peer);
    if report.attempts > 0 {
        span.record("kvtyped.attempts", report.attempts);
    }
    if report.end.is_success() {
        span.record("kvtyped.revision", revision);
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
