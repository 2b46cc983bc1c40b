//! The task that updates a live value, and the state that it writes.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::context::StoreContext;
use crate::error::{Error, ErrorKind, Result, key_hash};
use crate::model::KvModel;
use crate::observe::StoreEvent;
use crate::revision::Revision;
use crate::watch::event::{Event, Events};
use crate::watch::update::runtime_ended;

pub(crate) type DefaultFn<T> = Box<dyn Fn() -> T + Send + Sync>;
pub(crate) type ValidateFn<T> = Box<dyn Fn(&T) -> Result<(), Reason> + Send + Sync>;
/// Makes the live value of a record. Without `derive`, it is the record.
pub(crate) type DeriveFn<T, U> = Box<dyn Fn(T) -> Result<U, Reason> + Send + Sync>;
/// The error of a function of the user.
type Reason = Box<dyn std::error::Error + Send + Sync>;

/// The state that the updater writes and the handles read.
pub(crate) struct LiveState<U> {
    pub(crate) value: ArcSwap<U>,
    /// Increases with each value.
    pub(crate) version: AtomicU64,
    pub(crate) revision: AtomicU64,
    /// Receives every value. The updater owns the sender, so the channel closes when the updater ends.
    pub(crate) values: watch::Receiver<Arc<U>>,
    /// The error of an invalid newest record, or the reason for the end of the live value.
    pub(crate) error: watch::Sender<Option<Arc<Error>>>,
}

impl<U> LiveState<U> {
    /// Creates the shared state with a first value. Also returns the sender of later values.
    pub(crate) fn new(value: Arc<U>, revision: Revision, error: Option<Arc<Error>>) -> (Self, watch::Sender<Arc<U>>) {
        let (sender, values) = watch::channel(Arc::clone(&value));
        let shared = Self {
            version: AtomicU64::new(0),
            revision: AtomicU64::new(revision.get()),
            values,
            value: ArcSwap::new(value),
            error: watch::Sender::new(error),
        };
        (shared, sender)
    }
}

/// Turns events into values.
pub(crate) struct LiveUpdater<T: KvModel, U> {
    events: Events<T>,
    context: Arc<StoreContext>,
    key: String,
    rules: Rules<T>,
    derive: DeriveFn<T, U>,
    /// The error of the last record, if it is invalid.
    refusal: Option<Arc<Error>>,
    /// The error of the watch, until the watch works again.
    failure: Option<Arc<Error>>,
    /// Whether the current or last listing contained a record.
    listed: bool,
    /// Whether the first listing is complete.
    pub(crate) is_ready: bool,
    /// Whether a value or the default was ever set.
    has_value: bool,
    /// The last revision that was logged as invalid.
    logged: Revision,
}

/// The check of a live value, and its default.
pub(crate) struct Rules<T> {
    pub(crate) default: Option<DefaultFn<T>>,
    /// Whether the default also replaces an invalid first record.
    pub(crate) default_if_invalid: bool,
    pub(crate) check: Option<ValidateFn<T>>,
}

/// The effect of an event on the value.
pub(crate) enum LiveUpdate<U> {
    Value(Arc<U>, Revision),
    /// The error of the updater changed: a record is invalid, or the watch failed or recovered.
    Error,
    /// There is no first value: the first record is invalid and the default must not hide it, or the default is
    /// invalid.
    Invalid,
    /// Nothing changed.
    Nothing,
}

impl<T: KvModel, U> LiveUpdater<T, U> {
    pub(crate) fn new(
        events: Events<T>,
        context: Arc<StoreContext>,
        key: String,
        rules: Rules<T>,
        derive: DeriveFn<T, U>,
    ) -> Self {
        Self {
            events,
            context,
            key,
            rules,
            derive,
            refusal: None,
            failure: None,
            listed: false,
            is_ready: false,
            has_value: false,
            logged: Revision::ZERO,
        }
    }

    /// Returns the error of the watch, or else of the newest value.
    pub(crate) fn error(&self) -> Option<Arc<Error>> {
        self.failure.as_ref().or(self.refusal.as_ref()).cloned()
    }

    /// Returns whether the watch failed before the first listing was complete.
    pub(crate) fn has_failed(&self) -> bool {
        self.failure.is_some() && !self.is_ready
    }

    /// Returns the effect of the next event. `None` means that the watch has ended.
    pub(crate) async fn next(&mut self) -> Option<LiveUpdate<U>> {
        let Some(event) = self.events.next_or_idle().await? else {
            return Some(self.failure.take().map_or(LiveUpdate::Nothing, |_| LiveUpdate::Error));
        };
        let mut result = LiveUpdate::Error;
        let error = match event {
            Ok(Event::Put(entry)) => {
                self.listed = true;
                let revision = entry.revision();
                match self.check_value(&entry).and_then(|()| self.derive_value(entry.into_value())) {
                    Ok(value) => return Some(self.apply(value, revision)),
                    Err(reason) => Error::new(ErrorKind::Rejected { reason }).at_revision(revision),
                }
            }
            Ok(Event::Removed { revision, .. }) => {
                self.listed = true;
                match self.default_value() {
                    Ok(Some(value)) => return Some(self.apply(value, revision)),
                    Ok(None) => return Some(LiveUpdate::Nothing),
                    Err(error) => error.at_revision(revision),
                }
            }
            Ok(Event::Ready) => {
                self.is_ready = true;
                let was_listed = std::mem::replace(&mut self.listed, true);
                if was_listed && self.has_value {
                    return Some(LiveUpdate::Nothing);
                }
                if was_listed && self.rules.default.is_some() && !self.rules.default_if_invalid {
                    return Some(LiveUpdate::Invalid);
                }
                match self.default_value() {
                    // If the last record is invalid, keep the reason.
                    Ok(Some(value)) => {
                        self.has_value = true;
                        return Some(LiveUpdate::Value(Arc::new(value), Revision::ZERO));
                    }
                    Ok(None) => return Some(LiveUpdate::Nothing),
                    Err(error) => {
                        if !self.has_value {
                            result = LiveUpdate::Invalid;
                        }
                        error
                    }
                }
            }
            Ok(Event::Resync) => {
                self.listed = false;
                return Some(LiveUpdate::Nothing);
            }
            Ok(Event::Undecodable { error, .. }) => {
                self.listed = true;
                error
            }
            Ok(_) => return Some(LiveUpdate::Nothing),
            Err(error) => {
                self.failure = Some(self.located(error));
                return Some(LiveUpdate::Error);
            }
        };
        let error = self.located(error);
        self.report(&error);
        (self.refusal, self.failure) = (Some(error), None);
        Some(result)
    }

    fn located(&self, error: Error) -> Arc<Error> {
        let error = error.with_context("live", self.events.bucket(), Some(&self.key));
        Arc::new(if T::SENSITIVE_KEY { error.hide_key() } else { error })
    }

    /// Reports each invalid revision once. The log does not contain the reason, which may quote the value.
    fn report(&mut self, error: &Error) {
        let Some(revision) = error.revision().filter(|revision| *revision != self.logged) else { return };
        self.logged = revision;
        let bucket = self.events.bucket();
        let key = if T::SENSITIVE_KEY { key_hash(&self.key) } else { self.key.clone() };
        let kind = error.kind().name();
        tracing::warn!(
            bucket,
            key,
            revision = revision.get(),
            kind,
            "a live value skips an invalid record; the last valid one stays"
        );
        self.context.instruments().event(&StoreEvent::LiveRejected { bucket, revision, error });
    }

    fn apply(&mut self, value: U, revision: Revision) -> LiveUpdate<U> {
        (self.refusal, self.failure) = (None, None);
        self.has_value = true;
        LiveUpdate::Value(Arc::new(value), revision)
    }

    /// Checks a value by the functions of the model and of the builder. A panic of either rejects the value.
    fn check_value(&self, value: &T) -> Result<(), String> {
        let check = || {
            value.__validate()?;
            self.rules.check.as_ref().map_or(Ok(()), |check| check(value))
        };
        match std::panic::catch_unwind(AssertUnwindSafe(check)) {
            Ok(checked) => checked.map_err(|reason| reason.to_string()),
            Err(_) => Err("the check function panicked".to_owned()),
        }
    }

    /// Derives the live value of a record. A panic rejects the record.
    fn derive_value(&self, value: T) -> Result<U, String> {
        match std::panic::catch_unwind(AssertUnwindSafe(|| (self.derive)(value))) {
            Ok(derived) => derived.map_err(|reason| reason.to_string()),
            Err(_) => Err("the derive function panicked".to_owned()),
        }
    }

    fn default_value(&self) -> Result<Option<U>> {
        let Some(default) = &self.rules.default else { return Ok(None) };
        let value = std::panic::catch_unwind(AssertUnwindSafe(default));
        let value = value.map_err(|_| "the default function panicked".to_owned());
        let value = value.and_then(|value| self.derive_value(value));
        value.map(Some).map_err(|reason| Error::new(ErrorKind::Rejected { reason }))
    }
}

/// Records the reason for the end, and then closes the channel of values.
struct CloseOnDrop<U> {
    shared: Arc<LiveState<U>>,
    sender: watch::Sender<Arc<U>>,
    is_known: bool,
}

impl<U> CloseOnDrop<U> {
    /// Marks the reason for the end as recorded.
    fn finish(mut self) {
        self.is_known = true;
    }
}

impl<U> Drop for CloseOnDrop<U> {
    fn drop(&mut self) {
        if !self.is_known {
            self.shared.error.send_replace(Some(Arc::new(runtime_ended())));
        }
    }
}

/// Updates the value until the last handle is dropped or the watch ends.
pub(crate) fn run_updater<T: KvModel, U: Send + Sync + 'static>(
    mut updater: LiveUpdater<T, U>,
    shared: Arc<LiveState<U>>,
    sender: watch::Sender<Arc<U>>,
) -> impl Future<Output = ()> + Send {
    // Created before the task starts: a runtime that ends may never poll the task.
    let end = CloseOnDrop { shared, sender, is_known: false };
    async move {
        let shared = &end.shared;
        while let Some(step) = updater.next().await {
            match step {
                LiveUpdate::Value(value, revision) => {
                    shared.error.send_if_modified(|error| error.take().is_some());
                    shared.revision.store(revision.get(), Ordering::Release);
                    shared.value.store(Arc::clone(&value));
                    shared.version.fetch_add(1, Ordering::AcqRel);
                    end.sender.send_replace(value);
                }
                LiveUpdate::Error => {
                    shared.error.send_replace(updater.error());
                }
                LiveUpdate::Nothing | LiveUpdate::Invalid => {}
            }
        }
        end.finish();
    }
}
