//! Planted secrets, and a subscriber that searches for them in all traces and `Debug` output.
//!
//! `KVTYPED_TRACE_SENTINELS=1 cargo test -p kvtyped-tests --test suite` runs the whole suite with a subscriber for all
//! levels down to TRACE, and with a password in each connection of a [`World`](crate::support::World). The program ends
//! with an error if the password or another planted secret is traced.

use std::error::Error as StdError;
use std::fmt::{Debug, Write as _};
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};

use kvtyped::Error;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

pub(crate) const PASSWORD: &str = "pa55word-sentinel";
pub(crate) const TOKEN: &str = "t0ken-sentinel";
pub(crate) const VALUE: &str = "va1ue-sentinel";

/// The number of lines between two reports of the figures.
const OBSERVED: u64 = 100_000;

/// Adds a password to the URL if the whole suite is monitored. A server without users ignores the password.
pub(crate) fn planted(url: &str) -> String {
    if std::env::var_os("KVTYPED_TRACE_SENTINELS").is_none() {
        return url.to_owned();
    }
    static WATCH: Once = Once::new();
    WATCH.call_once(|| {
        tracing::subscriber::set_global_default(Watching::default()).expect("no other global subscriber is set");
    });
    match url.split_once("://") {
        Some((scheme, rest)) if !rest.contains('@') => format!("{scheme}://suite:{PASSWORD}@{rest}"),
        _ => url.to_owned(),
    }
}

/// Returns the secret that a line shows, if any.
pub(crate) fn found<'a>(line: &str, credentials: &[&'a str]) -> Option<&'a str> {
    let credential = credentials.iter().chain(&[PASSWORD, TOKEN]).find(|secret| line.contains(**secret)).copied();
    credential.or_else(|| (line.contains(VALUE) && !is_read(line)).then_some(VALUE))
}

/// Returns whether the client itself traced the line for a received message, with its content
/// (`async_nats::connection`, at TRACE).
pub(crate) fn is_read(line: &str) -> bool {
    line.starts_with("async_nats::connection") && line.contains("read operation completed")
}

/// A subscriber that checks each line and keeps none.
#[derive(Debug, Default)]
struct Watching {
    lines: AtomicU64,
    ours: AtomicU64,
}

impl Watching {
    fn note(&self, metadata: &Metadata<'_>, record: impl FnOnce(&mut Line)) {
        self.check(Line::of(metadata, record).0);
    }

    fn check(&self, line: String) {
        // `eprintln!` is captured by the test harness.
        let mut stderr = std::io::stderr();
        if let Some(secret) = found(&line, &[]) {
            let _ = writeln!(stderr, "a secret is traced ({secret}): {line}");
            std::process::exit(101);
        }
        if line.starts_with("kvtyped") {
            self.ours.fetch_add(1, Ordering::Relaxed);
        }
        let lines = self.lines.fetch_add(1, Ordering::Relaxed) + 1;
        if lines.is_multiple_of(OBSERVED) {
            let ours = self.ours.load(Ordering::Relaxed);
            let _ = writeln!(stderr, "no secret in {lines} lines of traces, {ours} of them of kvtyped");
        }
    }
}

impl Subscriber for Watching {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        self.note(span.metadata(), |line| span.record(line));
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        let mut line = Line("span".into());
        values.record(&mut line);
        self.check(line.0);
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        self.note(event.metadata(), |line| event.record(line));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The control: every planted secret is found.
#[test]
fn planted_secrets_are_found() {
    for (line, secret) in [
        (format!("kvtyped::store event message=connecting to {PASSWORD}"), PASSWORD),
        (format!("async_nats::connection event message=read operation completed {TOKEN}"), TOKEN),
        (format!("kvtyped::bucket event value={VALUE}"), VALUE),
        ("kvtyped event seed=SUAM".to_owned(), "SUAM"),
    ] {
        assert_eq!(found(&line, &["SUAM"]), Some(secret), "{line}");
    }
    let read = format!("async_nats::connection event message=read operation completed {VALUE}");
    assert_eq!(found(&read, &["SUAM"]), None);
}

/// All events and spans of this thread and all shown values, one line each, prefixed with the origin.
#[derive(Debug, Clone, Default)]
pub(crate) struct Everything(Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Line {
    fn of(metadata: &Metadata<'_>, record: impl FnOnce(&mut Self)) -> Self {
        let mut line = Self(format!("{} {}", metadata.target(), metadata.name()));
        record(&mut line);
        line
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").expect("a string takes all");
    }
}

impl Everything {
    fn push(&self, line: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    fn note(&self, metadata: &Metadata<'_>, record: impl FnOnce(&mut Line)) {
        self.push(Line::of(metadata, record).0);
    }

    pub(crate) fn shown(&self, what: &impl Debug) {
        self.push(format!("shown {what:?} {what:#?}"));
    }

    /// Records all representations of an error and its causes.
    pub(crate) fn error(&self, error: &Error) {
        self.shown(error);
        let mut next: Option<&dyn StdError> = Some(error);
        while let Some(error) = next {
            self.push(format!("shown {error} {error:?}"));
            next = error.source();
        }
        self.push(format!("shown {} {:?}", error.kind(), error.kind()));
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Subscriber for Everything {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        self.note(span.metadata(), |line| span.record(line));
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        let mut line = Line("span".into());
        values.record(&mut line);
        self.push(line.0);
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        self.note(event.metadata(), |line| event.record(line));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
