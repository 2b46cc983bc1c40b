//! The wait for a lease that another holder has.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::time::{Instant, sleep, sleep_until};

use super::handle::Lease;
use super::keeper::{AcquireOutcome, AcquireRequest, ExpectedTombstone};
use super::outcome::AcquireStatus;
use super::record::LeaseRecord;
use super::task;
use super::task::MayHold;
use crate::backend::{Backoff, Read};
use crate::bucket::Bucket;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::model::{Filter, KvModel};
use crate::recipes::context::LeaseContext;
use crate::recipes::record::{RecipeRecord, Value};
use crate::watch::{Event, Events};

/// The longest time without an event of a lease before its waiter reads the lease.
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(10);

/// Returns how long the waiter for a lease with this TTL relies on its watch before it reads the lease.
pub(crate) fn poll_interval(ttl: Duration) -> Duration {
    let longest = ttl.min(MAX_POLL_INTERVAL);
    longest - crate::chance::uniform_duration(longest / 4)
}

/// Returns whether an error of a watch is permanent.
pub(crate) fn is_final(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::BucketNotFound | ErrorKind::Closed | ErrorKind::InvalidConfig { .. })
}

/// Returns whether an administrator may undo the error: a denied permission, or JetStream disabled for the account.
fn is_of_the_account(error: &Error) -> bool {
    let is_denied = matches!(error.kind(), ErrorKind::PermissionDenied { .. } | ErrorKind::Unsupported { .. });
    is_denied && !is_unreadable(error)
}

impl AcquireRequest {
    /// Returns whether an error of a watch or a read ends the wait. Otherwise the error is recorded as the cause of a
    /// later timeout.
    pub(crate) fn gives_up_on(&self, error: &Error) -> bool {
        if is_final(error) || (is_of_the_account(error) && !self.retry_transient) {
            return true;
        }
        self.progress.fails(error);
        false
    }

    /// Returns whether the wait continues after a failed attempt that is not the first.
    pub(crate) fn waits_out(&self, error: &Error) -> bool {
        passes(error) || (self.retry_transient && is_of_the_account(error))
    }
}

/// A waiter for a lease.
pub(crate) struct LeaseWaiter {
    claim: AcquireRequest,
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
pub(crate) struct Longest {
    longest: Option<Duration>,
    /// `None` without a limit.
    end: Option<Instant>,
}

impl Longest {
    pub(crate) fn begins(longest: Option<Duration>) -> Self {
        Self { longest, end: longest.and_then(|longest| Instant::now().checked_add(longest)) }
    }

    /// Returns whether the user set a limit. Such a wait continues after temporary errors.
    pub(crate) fn is_given(self) -> bool {
        self.longest.is_some()
    }
}

/// Bounds a wait by the time limit of its user, if any.
pub(crate) async fn with_timeout<R>(
    longest: Longest,
    progress: &AcquireStatus,
    wait: impl Future<Output = Result<R>>,
) -> Result<R> {
    let Longest { longest: Some(longest), end: Some(end) } = longest else { return wait.await };
    tokio::time::timeout_at(end, wait).await.unwrap_or_else(|_| Err(progress.timeout_error(longest)))
}

/// Takes a lease. Waits while another holder has it, for at most `longest`. With that limit, the wait continues after
/// temporary errors, from the first attempt on.
pub(crate) async fn acquire(
    place: &LeaseContext,
    part: &str,
    value: Option<serde_json::Value>,
    longest: Option<Duration>,
) -> Result<Lease> {
    let longest = Longest::begins(longest);
    let take = || {
        let (place, part, value) = (place.clone(), part.to_owned(), value.clone());
        async move {
            let progress = Arc::<AcquireStatus>::default();
            let take = async {
                let claim = place.request(part, value).await?;
                let claim =
                    AcquireRequest { progress: Arc::clone(&progress), retry_transient: longest.is_given(), ..claim };
                let blocked = claim.clone();
                let settled = |there: Result<LeaseRecord>| there.err().map(|error| Err(unreadable(error, &blocked)));
                match LeaseWaiter::new(claim).acquire_unless::<LeaseRecord, Infallible>(settled).await? {
                    WaitOutcome::Acquired(lease) => Ok(lease),
                    WaitOutcome::Resolved(never) => match never {},
                }
            };
            with_timeout(longest, &progress, take).await
        }
    };
    task::acquire(take).await
}

/// Takes a free lease without a wait.
///
/// # Errors
///
/// Returns `AlreadyExists` if the lease is held.
pub(crate) async fn take_now(place: &LeaseContext, part: &str, value: Option<serde_json::Value>) -> Result<Lease> {
    let take = || {
        let (place, part, value) = (place.clone(), part.to_owned(), value.clone());
        async move {
            let claim = place.request(part, value).await?;
            match claim.clone().try_acquire(ExpectedTombstone::Unknown).await {
                AcquireOutcome::Acquired(lease) => Ok(lease),
                AcquireOutcome::Failed(error) => Err(error),
                AcquireOutcome::Contended => match claim.bucket.get(&claim.key).read(Read::Leader).await {
                    Err(error) if is_unreadable(&error) => Err(unreadable(error, &claim)),
                    _ => Err(Error::new(ErrorKind::AlreadyExists)),
                },
            }
        }
    };
    task::acquire(take).await
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
pub(crate) fn unreadable(error: Error, claim: &AcquireRequest) -> Error {
    let ErrorKind::Decode { codec, detail } = error.kind() else { return error };
    let (bucket, key) = (claim.bucket.name(), &claim.key);
    let detail =
        format!("{detail}; the lease is blocked until this record is removed: `nats kv purge {bucket} '{key}'`");
    let kind = ErrorKind::Decode { codec, detail };
    Error::new(kind).at_revision(error.revision().unwrap_or_default()).with_key(key.to_string())
}

/// Starts a watch. With a time limit, retries after temporary errors.
pub(crate) async fn watch<T: KvModel>(
    bucket: &Bucket<T>,
    filter: Filter<T>,
    claim: &AcquireRequest,
) -> Result<Events<T>> {
    let mut backoff = Backoff::outage();
    loop {
        match bucket.watch(filter.clone()).await {
            Err(error) if claim.retry_transient && claim.waits_out(&error) => {
                claim.progress.fails(&error);
                sleep(backoff.next()).await;
            }
            begun => return begun,
        }
    }
}

impl LeaseWaiter {
    pub(crate) fn new(claim: AcquireRequest) -> Self {
        Self { claim }
    }

    /// Takes the lease. Waits while another holder has it, unless `settled` accepts the record of that holder.
    pub(crate) async fn acquire_unless<V: Value, R>(
        self,
        settled: impl FnMut(Result<V>) -> Option<Result<R>>,
    ) -> Result<WaitOutcome<R>> {
        match self.claim.clone().try_acquire(ExpectedTombstone::Unknown).await {
            AcquireOutcome::Acquired(lease) => Ok(WaitOutcome::Acquired(lease)),
            AcquireOutcome::Failed(error) if !(self.claim.retry_transient && passes(&error)) => Err(error),
            AcquireOutcome::Contended | AcquireOutcome::Failed(_) => self.wait_unless(settled).await,
        }
    }

    /// Waits for the lease. Makes an attempt when the lease is removed, and checks it from time to time in case an
    /// event was missed.
    async fn wait_unless<V: Value, R>(
        self,
        mut settled: impl FnMut(Result<V>) -> Option<Result<R>>,
    ) -> Result<WaitOutcome<R>> {
        let bucket = self.claim.bucket.as_model::<RecipeRecord<V>>();
        let key = self.claim.key.clone();
        let mut events = watch(&bucket, Filter::key(&key), &self.claim).await?;
        let mut held = false;
        let mut look = Instant::now() + poll_interval(self.claim.times.ttl);
        loop {
            let event = tokio::select! {
                biased;
                event = events.next() => Some(event),
                () = sleep_until(look) => None,
            };
            let mut there = None;
            let mut over = ExpectedTombstone::Unknown;
            match event {
                Some(Some(Ok(Event::Removed { revision, .. }))) => over = ExpectedTombstone::Observed(revision),
                Some(Some(Ok(Event::Ready))) if !held => {}
                Some(Some(Ok(Event::Resync))) => {
                    held = false;
                    continue;
                }
                Some(Some(Ok(Event::Put(entry)))) => there = Some(Ok(entry.into_value().value)),
                Some(Some(Ok(Event::Undecodable { error, .. }))) => there = Some(Err(error)),
                Some(Some(Ok(_))) => continue,
                Some(Some(Err(error))) if self.claim.gives_up_on(&error) => return Err(error),
                Some(Some(Err(_))) => continue,
                Some(None) => return Err(Error::new(ErrorKind::Closed)),
                None => match bucket.get(&key).read(Read::Leader).await {
                    Ok(entry) => there = entry.map(|entry| Ok(entry.into_value().value)),
                    Err(error) if is_unreadable(&error) => there = Some(Err(error)),
                    Err(error) if self.claim.gives_up_on(&error) => return Err(error),
                    // The holder is unknown until the next check.
                    Err(_) => {
                        look = Instant::now() + poll_interval(self.claim.times.ttl);
                        continue;
                    }
                },
            }
            look = Instant::now() + poll_interval(self.claim.times.ttl);
            if let Some(there) = there {
                held = true;
                match settled(there) {
                    Some(settled) => return settled.map(WaitOutcome::Resolved),
                    None => continue,
                }
            }
            match self.attempt(over).await? {
                Some(lease) => return Ok(WaitOutcome::Acquired(lease)),
                // Another process was faster. The watch reports it.
                None => held = true,
            }
        }
    }

    async fn attempt(&self, over: ExpectedTombstone) -> Result<Option<Lease>> {
        match self.claim.clone().try_acquire(over).await {
            AcquireOutcome::Acquired(lease) => Ok(Some(lease)),
            AcquireOutcome::Contended => Ok(None),
            // The wait continues after a temporary error. The user's time limit bounds it.
            AcquireOutcome::Failed(error) if self.claim.waits_out(&error) => Ok(None),
            AcquireOutcome::Failed(error) => Err(error),
        }
    }
}

/// Returns whether a wait continues after an error, because the cause is temporary. After an unknown outcome, a lease
/// that may have been taken expires. Refused credentials count as an unreachable server: the client keeps reconnecting.
pub(crate) fn passes(error: &Error) -> bool {
    error.is_retryable() || error.outcome() == Outcome::Unknown || matches!(error.kind(), ErrorKind::Unauthorized)
}
