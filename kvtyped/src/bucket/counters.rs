//! Counters that the backend increments, accessed by name.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;

use crate::backend::{Deadline, RawCounters};
use crate::context::StoreContext;
use crate::error::{Error, Result};
use crate::key::{Key, KeyBuilder, KeyError, Pattern, unescape};
use crate::observe::note_write;

/// The number of attempts while a concurrent increment keeps the total out of range.
const ATTEMPTS: u32 = 8;

/// The counters of one bucket, or only those below a first segment.
#[derive(Clone)]
pub(crate) struct CounterBucket {
    raw: Arc<dyn RawCounters>,
    bucket: String,
    below: Option<String>,
    timeout: Duration,
    context: Arc<StoreContext>,
}

impl CounterBucket {
    pub(crate) fn new(
        raw: Arc<dyn RawCounters>,
        bucket: String,
        below: Option<String>,
        timeout: Duration,
        context: Arc<StoreContext>,
    ) -> Self {
        Self { raw, bucket, below, timeout, context }
    }

    /// Increments the counter and returns the new total. If the total leaves the range of `i64`, the opposite increment
    /// undoes the change.
    ///
    /// If the total was out of range before, another client is about to undo its own increment, so the increment is
    /// retried.
    pub(crate) async fn add(&self, name: &str, delta: i64, timeout: Option<Duration>) -> Result<i64> {
        let (raw, key, deadline) = (self.raw("add")?, self.key("add", name)?, self.deadline(timeout));
        let located = |error| self.located(error, "add", &key);
        let delta = i128::from(delta);
        let mut attempts = 0;
        loop {
            note_write(std::iter::empty());
            let total = raw.add(&key, delta, deadline).await.map_err(located)?;
            if let Ok(total) = i64::try_from(total) {
                return Ok(total);
            }
            let refusal = Error::out_of_range(format!("the increment {delta} gives {total}, which exceeds an `i64`"));
            if let Err(error) = raw.add(&key, -delta, deadline).await {
                return Err(located(refusal.caused_by(error).unknown_outcome()));
            }
            attempts += 1;
            let was_in_range = i64::try_from(total.saturating_sub(delta)).is_ok();
            if was_in_range || attempts >= ATTEMPTS || deadline.is_expired() {
                return Err(located(refusal));
            }
        }
    }

    /// Returns the total, or zero if the counter does not exist.
    pub(crate) async fn get(&self, name: &str, timeout: Option<Duration>) -> Result<i64> {
        let key = self.key("get", name)?;
        let total = self.raw("get")?.read(&key, self.deadline(timeout)).await;
        total.and_then(|total| in_range(total.unwrap_or(0))).map_err(|error| self.located(error, "get", &key))
    }

    /// Removes a counter.
    pub(crate) async fn remove(&self, name: &str, timeout: Option<Duration>) -> Result<()> {
        let (key, deadline) = (self.key("remove", name)?, self.deadline(timeout));
        self.raw("remove")?.remove(&key, deadline).await.map_err(|error| self.located(error, "remove", &key))
    }

    /// Returns the totals of all counters.
    pub(crate) fn all(&self, timeout: Option<Duration>) -> Result<BoxStream<'static, Result<(String, i64)>>> {
        let patience = timeout.unwrap_or(self.timeout);
        let pattern = match &self.below {
            Some(below) => Pattern::new().segment(Some(below), "", ""),
            None => Pattern::new(),
        };
        let totals = self.raw("all")?.scan(pattern.segment::<String>(None, "", ""), patience);
        let bucket = self.bucket.clone();
        let totals = totals.map(move |total| {
            let (key, total) = total.map_err(|error| error.with_context("all", &bucket, None))?;
            let last = key.segments().last().unwrap_or_default();
            match unescape(last) {
                Ok(name) => match in_range(total) {
                    Ok(total) => Ok((name.into_owned(), total)),
                    Err(error) => Err(error.with_context("all", &bucket, Some(key.as_str()))),
                },
                Err(error) => {
                    let error = Error::from(KeyError::Segment { field: "name", error });
                    Err(error.with_context("all", &bucket, Some(key.as_str())))
                }
            }
        });
        Ok(totals.boxed())
    }

    fn deadline(&self, timeout: Option<Duration>) -> Deadline {
        Deadline::after(timeout.unwrap_or(self.timeout))
    }

    fn raw(&self, operation: &'static str) -> Result<&dyn RawCounters> {
        self.context.admit().map_err(|error| error.with_context(operation, &self.bucket, None))?;
        Ok(&*self.raw)
    }

    fn key(&self, operation: &'static str, name: &str) -> Result<Key> {
        let mut key = KeyBuilder::new();
        if let Some(below) = &self.below {
            key.segment(below).literal(".");
        }
        key.segment(&name.to_owned());
        Key::new(key.as_str()).map_err(|error| Error::from(error).with_context(operation, &self.bucket, None))
    }

    fn located(&self, error: Error, operation: &'static str, key: &Key) -> Error {
        error.with_context(operation, &self.bucket, Some(key.as_str()))
    }
}

fn in_range(total: i128) -> Result<i64> {
    i64::try_from(total).map_err(|_| Error::out_of_range(format!("the total {total} exceeds an `i64`")))
}

impl fmt::Debug for CounterBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CounterBucket")
            .field("bucket", &self.bucket)
            .field("below", &self.below)
            .finish_non_exhaustive()
    }
}
