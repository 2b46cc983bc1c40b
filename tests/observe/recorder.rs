//! A subscriber that keeps the spans of operations, and an observer that keeps the reports.

use std::collections::BTreeMap;
use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use kvtyped::observe::{Observer, OperationEnd, OperationReport, StoreEvent};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Metadata, Subscriber};

/// The fields of a span or of an event.
#[derive(Debug, Default, Clone)]
pub(super) struct Fields(pub(super) BTreeMap<String, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        write!(text, "{value:?}").expect("a string takes all");
        self.0.insert(field.name().to_owned(), text.trim_matches('"').to_owned());
    }
}

/// A span with all its fields.
#[derive(Debug, Default, Clone)]
pub(super) struct Seen {
    pub(super) fields: BTreeMap<String, String>,
    pub(super) name: &'static str,
    pub(super) id: u64,
    pub(super) parent: Option<u64>,
    pub(super) follows: Vec<u64>,
    /// The fields of its events.
    pub(super) events: Vec<BTreeMap<String, String>>,
    handles: u32,
}

impl Seen {
    pub(super) fn is_closed(&self) -> bool {
        self.handles == 0
    }
}

/// Collects the spans of operations of this thread.
#[derive(Debug, Default, Clone)]
pub(super) struct Spans(Arc<Mutex<Collected>>);

#[derive(Debug, Default)]
struct Collected {
    spans: Vec<Seen>,
    entered: Vec<usize>,
}

impl Spans {
    fn change<R>(&self, change: impl FnOnce(&mut Collected) -> R) -> R {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn all(&self) -> Vec<Seen> {
        self.change(|collected| collected.spans.clone())
    }

    /// Returns the spans of operations, and no spans of shared writes.
    pub(super) fn operations(&self) -> Vec<Seen> {
        self.all().into_iter().filter(|span| span.name == "operation").collect()
    }

    pub(super) fn of(&self, operation: &str) -> Vec<Seen> {
        let is = |span: &Seen| span.fields.get("db.operation.name").is_some_and(|name| name == operation);
        self.all().into_iter().filter(is).collect()
    }
}

fn index(id: &Id) -> usize {
    usize::try_from(id.into_u64()).expect("it is small") - 1
}

impl Subscriber for Spans {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "kvtyped::operation"
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut fields = Fields::default();
        span.record(&mut fields);
        self.change(|Collected { spans, entered }| {
            let current = entered.last().map(|index| *index as u64 + 1);
            let parent = if span.is_contextual() { current } else { span.parent().map(Id::into_u64) };
            let id = spans.len() as u64 + 1;
            let name = span.metadata().name();
            spans.push(Seen { fields: fields.0, name, id, parent, handles: 1, ..Seen::default() });
            Id::from_u64(id)
        })
    }

    fn record(&self, id: &Id, values: &Record<'_>) {
        let mut fields = Fields::default();
        values.record(&mut fields);
        self.change(|collected| collected.spans[index(id)].fields.extend(fields.0));
    }

    fn record_follows_from(&self, id: &Id, follows: &Id) {
        self.change(|collected| collected.spans[index(id)].follows.push(follows.into_u64()));
    }

    fn event(&self, event: &tracing::Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        self.change(|Collected { spans, entered }| {
            if let Some(current) = entered.last() {
                spans[*current].events.push(fields.0);
            }
        });
    }

    fn enter(&self, id: &Id) {
        self.change(|collected| collected.entered.push(index(id)));
    }

    fn exit(&self, id: &Id) {
        self.change(|Collected { entered, .. }| {
            let at = entered.iter().rposition(|entered| *entered == index(id)).expect("it was entered");
            entered.remove(at);
        });
    }

    fn clone_span(&self, id: &Id) -> Id {
        self.change(|collected| collected.spans[index(id)].handles += 1);
        id.clone()
    }

    fn try_close(&self, id: Id) -> bool {
        self.change(|collected| {
            let span = &mut collected.spans[index(&id)];
            span.handles -= 1;
            span.handles == 0
        })
    }
}

/// A report without its references.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) operation: &'static str,
    pub(super) bucket: String,
    pub(super) namespace: Option<String>,
    pub(super) attempts: u32,
    pub(super) retries: u32,
    pub(super) conflicts: u32,
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) error: Option<String>,
    /// The operation that the error names.
    pub(super) named: Option<&'static str>,
}

/// Keeps every report and all events.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    reports: Mutex<Vec<Kept>>,
    events: Mutex<Vec<String>>,
}

impl Recorder {
    pub(super) fn reports(&self) -> Vec<Kept> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn of(&self, operation: &str) -> Vec<Kept> {
        self.reports().into_iter().filter(|report| report.operation == operation).collect()
    }

    pub(super) fn events(&self) -> Vec<String> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Observer for Recorder {
    fn operation(&self, report: &OperationReport<'_>) {
        let OperationReport { operation, namespace, bucket, attempts, retries, conflicts, records, bytes, end, .. } =
            *report;
        let (bucket, namespace) = (bucket.to_owned(), namespace.map(str::to_owned));
        let named = if let OperationEnd::Failure(error) = end { error.operation() } else { None };
        let error = end.error_type();
        let kept = Kept { operation, bucket, namespace, attempts, retries, conflicts, records, bytes, error, named };
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
    }

    fn event(&self, event: &StoreEvent<'_>) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{event:?}"));
    }
}
