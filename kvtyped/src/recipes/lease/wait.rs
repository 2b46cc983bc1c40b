//! The wait for a lease that another holder has.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use tokio::time::{Instant, sleep, sleep_until};

use super::acquire::{MayHold, acquire_detached};
use super::handle::Lease;
use super::outcome::{AcquireOutcome, AcquireStatus};
use super::record::LeaseRecord;
use super::request::{AcquireRequest, ExpectedTombstone};
use crate::backend::{Backoff, Read};
use crate::bucket::{Bucket, Entry};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Filter, KvModel};
use crate::recipes::context::LeaseContext;
use crate::recipes::record::{RecipeRecord, Value};
use crate::watch::{Event, Events};

/// The longest time without an event of a lease before its waiter reads the lease.
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(10);

/// Returns how long the waiter for a lease with this TTL relies on its watch before it reads the lease.
pub(crate) fn poll_interval(ttl: Duration) -> Duration {
    let longest = ttl.min(MAX_POLL_INTERVAL);
    longest - crate::jitter::uniform_duration(longest / 4)
}

/// Returns whether an administrator may undo the error: a denied permission, or JetStream disabled for the account.
fn is_account_error(error: &Error) -> bool {
    let is_denied = matches!(error.kind(), ErrorKind::PermissionDenied { .. } | ErrorKind::Unsupported { .. });
    is_denied && !is_unreadable(error)
}

impl AcquireRequest {
    /// Returns whether an error of a watch or a read ends the wait. Otherwise the error is recorded as the cause of a
    /// later timeout.
    pub(crate) fn gives_up_on(&self, error: &Error) -> bool {
        if error.is_terminal() || (is_account_error(error) && !self.retry_transient) {
            return true;
        }
        self.status.failed(error);
        false
    }

    /// Returns whether the wait continues after a failed attempt that is not the first.
    pub(crate) fn waits_out(&self, error: &Error) -> bool {
        error.is_transient() || (self.retry_transient && is_account_error(error))
    }
}

/// The outcome of a wait.
pub(crate) enum WaitOutcome<R> {
    Acquired(Lease),
    /// The record of the other holder makes the wait unnecessary.
    Resolved(R),
}

impl<R> MayHold for WaitOutcome<R> {
    fn lease(&self) -> Option<&Lease> {
        match self {
            Self::Acquired(lease) => Some(lease),
            Self::Resolved(_) => None,
        }
    }
}

/// The time limit of a wait, counted from its start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WaitLimit {
    limit: Option<Duration>,
    /// `None` without a limit.
    end: Option<Instant>,
}

impl WaitLimit {
    pub(crate) fn start(limit: Option<Duration>) -> Self {
        Self { limit, end: limit.and_then(|limit| Instant::now().checked_add(limit)) }
    }

    /// Returns whether the user set a limit. Such a wait continues after temporary errors.
    pub(crate) fn is_given(self) -> bool {
        self.limit.is_some()
    }
}

/// Bounds a wait by the time limit of its user, if any.
pub(crate) async fn with_timeout<R>(
    limit: WaitLimit,
    status: &AcquireStatus,
    wait: impl Future<Output = Result<R>>,
) -> Result<R> {
    let WaitLimit { limit: Some(limit), end: Some(end) } = limit else { return wait.await };
    tokio::time::timeout_at(end, wait).await.unwrap_or_else(|_| Err(status.timeout_error(limit)))
}

/// Takes a lease. Waits while another holder has it, for at most `wait`. With that limit, the wait continues after
/// temporary errors, from the first attempt on.
pub(crate) async fn acquire(
    context: &LeaseContext,
    part: &str,
    value: Option<serde_json::Value>,
    wait: Option<Duration>,
) -> Result<Lease> {
    let limit = WaitLimit::start(wait);
    let acquire = || {
        let (context, part, value) = (context.clone(), part.to_owned(), value.clone());
        async move {
            let status = Arc::<AcquireStatus>::default();
            let acquire = async {
                let request = context.waiting_request(part, value, &status, limit.is_given()).await?;
                let blocked = request.clone();
                let resolve =
                    |found: Result<Found<LeaseRecord>>| found.err().map(|error| Err(unreadable(error, &blocked)));
                match LeaseWaiter::new(request).acquire_unless::<LeaseRecord, Infallible>(resolve).await? {
                    WaitOutcome::Acquired(lease) => Ok(lease),
                    WaitOutcome::Resolved(never) => match never {},
                }
            };
            with_timeout(limit, &status, acquire).await
        }
    };
    acquire_detached(acquire).await
}

/// Takes a free lease without a wait.
///
/// # Errors
///
/// Returns `AlreadyExists` if the lease is held.
pub(crate) async fn acquire_now(context: &LeaseContext, part: &str, value: Option<serde_json::Value>) -> Result<Lease> {
    let acquire = || {
        let (context, part, value) = (context.clone(), part.to_owned(), value.clone());
        async move {
            let request = context.request(part, value).await?;
            match request.clone().try_acquire(ExpectedTombstone::Unknown).await {
                AcquireOutcome::Acquired(lease) => Ok(lease),
                AcquireOutcome::Failed(error) => Err(error),
                AcquireOutcome::Contended => match request.bucket.get(&request.key).read(Read::Leader).await {
                    Err(error) if is_unreadable(&error) => Err(unreadable(error, &request)),
                    _ => {
                        let taken = "the name is taken; wait until it is free with `.wait(..)`, or use another name";
                        Err(Error::new(ErrorKind::AlreadyExists).caused_by(taken))
                    }
                },
            }
        }
    };
    acquire_detached(acquire).await
}

/// Returns whether a record is not readable as a recipe's record: it is garbage or has a newer format.
pub(crate) fn is_unreadable(error: &Error) -> bool {
    // The error of a record has a revision, unlike the error of an account without JetStream.
    match error.kind() {
        ErrorKind::Decode { .. } => true,
        ErrorKind::Unsupported { .. } => error.revision().is_some(),
        _ => false,
    }
}

/// Returns the error of an unreadable record of a lease. No lease can be taken until the record is removed.
pub(crate) fn unreadable(error: Error, request: &AcquireRequest) -> Error {
    let ErrorKind::Decode { codec, detail } = error.kind() else { return error };
    let (bucket, key) = (request.bucket.name(), &request.key);
    let detail =
        format!("{detail}; the lease is blocked until this record is removed: `nats kv purge {bucket} '{key}'`");
    let kind = ErrorKind::Decode { codec, detail };
    Error::new(kind).at_revision(error.revision().unwrap_or_default()).with_key(key.to_string())
}

/// Starts a watch. With a time limit, retries after temporary errors.
pub(crate) async fn watch<T: KvModel>(
    bucket: &Bucket<T>,
    filter: Filter<T>,
    request: &AcquireRequest,
) -> Result<Events<T>> {
    let mut backoff = Backoff::outage();
    loop {
        match bucket.watch(filter.clone()).await {
            Err(error) if request.retry_transient && request.waits_out(&error) => {
                request.status.failed(&error);
                sleep(backoff.next()).await;
            }
            started => return started,
        }
    }
}

/// A waiter for a lease.
pub(crate) struct LeaseWaiter {
    request: AcquireRequest,
}

/// The record of a holder, with the time of its last write.
pub(crate) struct Found<V> {
    pub(crate) value: V,
    /// By the server's clock.
    pub(crate) written_at: SystemTime,
}

impl<V: Value> Found<V> {
    pub(crate) fn from_entry(entry: Entry<RecipeRecord<V>>) -> Self {
        Self { written_at: entry.created(), value: entry.into_value().value }
    }
}

/// An observation of the lease during a wait.
enum Observed<V> {
    /// The lease is free.
    Free(ExpectedTombstone),
    /// The record of the holder, or the error that decoding it returned.
    Held(Result<Found<V>>),
    /// Nothing about the holder.
    Nothing,
}

impl LeaseWaiter {
    pub(crate) fn new(request: AcquireRequest) -> Self {
        Self { request }
    }

    /// Takes the lease. Waits while another holder has it, unless `resolve` accepts the record of that holder.
    pub(crate) async fn acquire_unless<V: Value, R>(
        self,
        resolve: impl FnMut(Result<Found<V>>) -> Option<Result<R>>,
    ) -> Result<WaitOutcome<R>> {
        match self.request.clone().try_acquire(ExpectedTombstone::Unknown).await {
            AcquireOutcome::Acquired(lease) => Ok(WaitOutcome::Acquired(lease)),
            AcquireOutcome::Failed(error) if !(self.request.retry_transient && error.is_transient()) => Err(error),
            AcquireOutcome::Contended | AcquireOutcome::Failed(_) => self.wait_unless(resolve).await,
        }
    }

    /// Waits for the lease. Makes an attempt when the lease is removed, and reads it from time to time in case an event
    /// was missed.
    async fn wait_unless<V: Value, R>(
        self,
        mut resolve: impl FnMut(Result<Found<V>>) -> Option<Result<R>>,
    ) -> Result<WaitOutcome<R>> {
        let bucket = self.request.bucket.as_model::<RecipeRecord<V>>();
        let poll_interval = || poll_interval(self.request.timing.ttl);
        let mut events = watch(&bucket, Filter::key(&self.request.key), &self.request).await?;
        let mut is_held = false;
        let mut next_poll = Instant::now() + poll_interval();
        loop {
            let event = tokio::select! {
                biased;
                event = events.next() => Some(event.unwrap_or_else(|| Err(Error::new(ErrorKind::Closed)))),
                () = sleep_until(next_poll) => None,
            };
            let observed = match event {
                Some(Ok(Event::Removed { revision, .. })) => Observed::Free(ExpectedTombstone::Observed(revision)),
                Some(Ok(Event::Ready)) if !is_held => Observed::Free(ExpectedTombstone::Unknown),
                Some(Ok(Event::Put(entry))) => Observed::Held(Ok(Found::from_entry(entry))),
                Some(Ok(Event::Undecodable { error, .. })) => Observed::Held(Err(error)),
                Some(Ok(Event::Resync)) => {
                    is_held = false;
                    continue;
                }
                Some(Ok(_)) => continue,
                Some(Err(error)) if self.request.gives_up_on(&error) => return Err(error),
                Some(Err(_)) => continue,
                None => self.poll(&bucket).await?,
            };
            next_poll = Instant::now() + poll_interval();
            match observed {
                Observed::Nothing => {}
                Observed::Held(found) => {
                    is_held = true;
                    if let Some(resolved) = resolve(found) {
                        return resolved.map(WaitOutcome::Resolved);
                    }
                }
                Observed::Free(expected) => match self.attempt(expected).await? {
                    Some(lease) => return Ok(WaitOutcome::Acquired(lease)),
                    // Another process was faster. The watch reports it.
                    None => is_held = true,
                },
            }
        }
    }

    /// Reads the lease from the leader of the bucket.
    async fn poll<V: Value>(&self, bucket: &Bucket<RecipeRecord<V>>) -> Result<Observed<V>> {
        match bucket.get(&self.request.key).read(Read::Leader).await {
            Ok(Some(entry)) => Ok(Observed::Held(Ok(Found::from_entry(entry)))),
            Ok(None) => Ok(Observed::Free(ExpectedTombstone::Unknown)),
            Err(error) if is_unreadable(&error) => Ok(Observed::Held(Err(error))),
            Err(error) if self.request.gives_up_on(&error) => Err(error),
            // The holder is unknown until the next read.
            Err(_) => Ok(Observed::Nothing),
        }
    }

    async fn attempt(&self, expected: ExpectedTombstone) -> Result<Option<Lease>> {
        match self.request.clone().try_acquire(expected).await {
            AcquireOutcome::Acquired(lease) => Ok(Some(lease)),
            AcquireOutcome::Contended => Ok(None),
            // The wait continues after a temporary error. The user's time limit bounds it.
            AcquireOutcome::Failed(error) if self.request.waits_out(&error) => Ok(None),
            AcquireOutcome::Failed(error) => Err(error),
        }
    }
}
