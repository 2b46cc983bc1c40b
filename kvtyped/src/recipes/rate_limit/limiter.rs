//! Rate limits across all processes.

use std::fmt;
use std::future::IntoFuture;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::gcra::{Denied, Gcra, GcraState, Quota};
use super::server_clock::{MAX_DRIFT_DIVISOR, ServerClock};
use crate::backend::Read;
use crate::bucket::{Bucket, ModifyError};
use crate::error::{Error, Result};
use crate::observe::StoreEvent;
use crate::recipes::location::{BucketLocation, check_bucket};
use crate::recipes::open::{LazyBucket, awaitable_handle, location_options};
use crate::recipes::record::{RecipeKey, RecipeRecord, Unknown};
use crate::store::Store;

/// The recipe's part of a key.
pub(crate) const RECIPE: &str = "rate";

/// The default limit for the attempts of a check that conflicts with other checks of the same key.
const MAX_ATTEMPTS: u32 = 32;

impl Store {
    /// Returns a rate limiter, shared by all processes that use this name and the same quota, in the bucket of this
    /// name. The bucket is created if it is missing.
    ///
    /// The call performs no I/O. The first use opens the bucket and reads the server's clock, and so does awaiting the
    /// handle.
    ///
    /// A limiter can be opened again with another quota. The new quota applies at once. Events under the old quota
    /// count for at most one burst of the new quota. The limiter logs the first key that was used under another quota
    /// at `warn`.
    ///
    /// Keys are compared byte for byte. Normalize case and Unicode of names that users choose, or each spelling has its
    /// own quota.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # use kvtyped::recipes::Quota;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let store = Store::memory();
    /// let api = store.rate_limiter("api", Quota::per_minute(60).burst(2)).await?;
    /// assert!(api.check("client-1").await?.is_allowed());
    /// assert!(api.check("client-1").await?.is_allowed());
    ///
    /// let third = api.check("client-1").await?;
    /// assert!(third.retry_after().is_some_and(|wait| wait < Duration::from_millis(1_100)));
    /// assert!(api.check("client-2").await?.is_allowed()); // each key has a separate quota
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The first use, or awaiting the handle, returns `InvalidConfig` if the quota allows nothing or is out of range,
    /// or if the name is not a valid bucket name and [`bucket`](RateLimiter::bucket) sets no other. It returns
    /// `Unsupported` if the server does not support the TTL of single records (before nats-server 2.11), or if the
    /// settings of the bucket do not fit.
    pub fn rate_limiter(&self, name: impl Into<String>, quota: Quota) -> RateLimiter {
        let name = name.into();
        let bucket = LazyBucket::new(BucketLocation::new(self, &name));
        RateLimiter { bucket, name, quota, timeout: None, max_attempts: MAX_ATTEMPTS }
    }
}

/// A handle to a rate limiter across all processes (GCRA); see [`Store::rate_limiter`]. Cheap to clone.
///
/// The handle performs no I/O until its first use, which opens the bucket for all clones. Awaiting the handle opens the
/// bucket at once. An option returns a changed handle. A handle with another bucket opens that bucket on first use.
///
/// In any period, a key is allowed at most the quota's burst plus the events that its rate adds in that period. Each
/// key has one record, which is changed by compare-and-set and expires when the key has been idle long enough.
///
/// The limiter uses the server's time. While a handle is in use, it reads the server's clock every ten seconds from the
/// timestamp of a write, and advances it with the local monotonic clock in between. Uncertainty (the time of the round
/// trip, the drift since then) counts against the caller. The wall clocks of the processes are not used.
///
/// If the server cannot be reached, a check returns an `Err`. The caller decides whether to allow or refuse the event.
///
/// # What this does not guarantee
///
/// * An exact rate across clock changes. If the server's clock is set forward, or a leader with a faster clock takes
///   over, a key may be allowed up to one burst more. If the clock is set back, a key may be denied for as long as two
///   bursts take to recover, plus ten seconds. A wait of [`retry_after`](RateLimitDecision::retry_after) suffices in
///   each case.
/// * A rate while processes use one name with different quotas. Each process applies its own quota, and ignores the
///   events of the others beyond its burst.
/// * Fairness. Several waiters for one key may proceed in any order.
/// * A use for each permit. An allowed event counts, whether or not it happens. An event may also count if its check
///   was cancelled, or failed with an unknown outcome.
/// * Speed. A check that allows an event is a read and a write. The checks of one key run one after another, at a few
///   hundred a second. A denial is a read.
#[derive(Clone)]
pub struct RateLimiter {
    pub(crate) bucket: LazyBucket<Arc<LimiterInner>>,
    pub(crate) name: String,
    pub(crate) quota: Quota,
    pub(crate) timeout: Option<Duration>,
    max_attempts: u32,
}

location_options!(RateLimiter: bucket);
awaitable_handle!(RateLimiter: bucket);

/// The opened bucket, and the state that the clones of a handle share.
pub(crate) struct LimiterInner {
    pub(crate) bucket: Bucket<RecipeRecord<Record>>,
    name: String,
    quota: Quota,
    gcra: Gcra,
    ttl: Duration,
    clock: ServerClock,
    /// Whether the use of another quota was logged.
    warned: AtomicBool,
}

/// The record of a key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    #[serde(flatten)]
    used: GcraState,
    #[serde(flatten)]
    unknown: Unknown,
}

/// The decision of a rate limiter on an event.
#[must_use = "an event that is denied should not happen"]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimitDecision {
    retry_after: Option<Duration>,
    remaining: u32,
}

impl RateLimitDecision {
    /// Returns whether the event is allowed.
    pub fn is_allowed(&self) -> bool {
        self.retry_after.is_none()
    }

    /// Returns how long from now the event would be allowed, if no other event comes first. Returns `None` if the event
    /// is allowed now.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Returns how many more events are allowed now.
    pub fn remaining(&self) -> u32 {
        self.remaining
    }
}

impl RateLimiter {
    /// Sets the total time limit of a check; the store's timeout by default. Set a short limit if every request waits
    /// for the limiter.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets how often a check is tried while other checks of the same key conflict; 32 times by default. Zero counts as
    /// one.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    async fn open(&self) -> Result<()> {
        let (limiter, timeout) = self.inner(self.timeout).await?;
        limiter.clock.ensure_read(&limiter.bucket, timeout).await
    }

    /// Returns the opened limiter, and the rest of the time limit. Opens the bucket if necessary.
    pub(crate) async fn inner(&self, timeout: Option<Duration>) -> Result<(Arc<LimiterInner>, Duration)> {
        let (name, quota) = (self.name.clone(), self.quota);
        let open = async move |location: BucketLocation| {
            let gcra = quota.gcra()?;
            // A missing record means that the full burst is available.
            let ttl = gcra.burst_duration() + Duration::from_secs(2);
            let bucket = location.open_with_ttl().await?;
            check_bucket(bucket.config(), Some(ttl))?;
            let (clock, warned) = (ServerClock::new(&name), AtomicBool::new(false));
            Ok(Arc::new(LimiterInner { bucket, name, quota, gcra, ttl, clock, warned }))
        };
        let (limiter, rest) = self.bucket.get_within(timeout, open).await?;
        let rest = rest.unwrap_or(limiter.bucket.timeout());
        Ok((limiter, rest))
    }

    /// Checks one event. An allowed event counts.
    ///
    /// # Errors
    ///
    /// Returns `RetriesExhausted` if too many checks use the same key at once. Otherwise returns the errors of the
    /// bucket. If the outcome is `Unknown`, the event may count.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the event may or may not count.
    pub async fn check(&self, key: &str) -> Result<RateLimitDecision> {
        self.check_n(key, 1).await
    }

    /// Checks several events, all or none. Zero events are always allowed: the decision contains the number of
    /// [`remaining`](RateLimitDecision::remaining) events, and nothing is written for the key.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`check`](Self::check). Returns `InvalidConfig` if `events` exceeds the burst, which never
    /// allows them.
    ///
    /// # Cancel safety
    ///
    /// See [`check`](Self::check).
    pub async fn check_n(&self, key: &str, events: u32) -> Result<RateLimitDecision> {
        let key = RecipeKey::new(RECIPE, &self.name, key);
        let check = async {
            let (limiter, timeout) = self.inner(self.timeout).await?;
            limiter.check(&key, events, self.max_attempts, timeout).await
        };
        let decision = self.in_operation("check", &key, check).await?;
        if !decision.is_allowed() {
            let denied = StoreEvent::RateDenied { bucket: self.bucket.name(), limiter: &self.name };
            self.bucket.context().instruments().event(&denied);
        }
        Ok(decision)
    }

    /// Observes an operation on a key, and adds its location to the error.
    pub(crate) async fn in_operation<R>(
        &self,
        operation: &'static str,
        key: &RecipeKey,
        work: impl Future<Output = Result<R>> + Send,
    ) -> Result<R> {
        let located = async {
            work.await.map_err(|error| error.with_context(operation, self.bucket.name(), Some(&key.to_string())))
        };
        self.bucket.context().observe(operation, self.bucket.name(), Box::pin(located)).await
    }

    /// Waits until an event is allowed, and counts it.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # use kvtyped::recipes::Quota;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let store = Store::memory();
    /// let mails = store.rate_limiter("mails", Quota::per_second(50).burst(1)).await?;
    /// for _ in 0..3 {
    ///     mails.until_ready("smtp").timeout(Duration::from_secs(5)).await?;
    ///     // send one
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `Unavailable` as soon as the time limit cannot suffice. The event does not count then. Otherwise returns
    /// the errors of [`check`](Self::check).
    ///
    /// # Cancel safety
    ///
    /// See [`check`](Self::check). Nothing counts during the wait.
    pub fn until_ready<'a>(&'a self, key: &'a str) -> UntilReady<'a> {
        UntilReady { limiter: self, key, timeout: None }
    }
}

impl LimiterInner {
    async fn check(
        &self,
        key: &RecipeKey,
        events: u32,
        max_attempts: u32,
        timeout: Duration,
    ) -> Result<RateLimitDecision> {
        let Self { bucket, gcra, clock, .. } = self;
        if events > gcra.burst {
            return Err(Error::invalid_config(format!(
                "{events} events at once exceed the burst of {}; ask for fewer, or raise it",
                gcra.burst
            )));
        }
        if events == 0 {
            return self.peek(key, 0, timeout).await;
        }
        let end = Instant::now().checked_add(timeout);
        clock.refresh(bucket, timeout).await?;
        let left = end.map_or(timeout, |end| end.saturating_duration_since(Instant::now()));
        // Set by the last run of either closure: the closures run again after a conflict.
        let decision = Mutex::new(RateLimitDecision { retry_after: None, remaining: 0 });
        let set_decision = |new| *decision.lock().unwrap_or_else(PoisonError::into_inner) = new;
        let new = || {
            // A key without a record allows a full burst.
            let now = clock.now();
            let used = gcra.decide(GcraState::default(), events, now).unwrap_or_default();
            set_decision(RateLimitDecision { retry_after: None, remaining: gcra.remaining(used, now) });
            RecipeRecord { key: key.clone(), value: Record { used, unknown: Unknown::default() } }
        };
        let checked = bucket.try_modify(key, |record: &mut RecipeRecord<Record>| {
            let now = clock.now();
            self.warn_if_other(record.value.used);
            let Denied { wait, reset } = match gcra.decide(record.value.used, events, now) {
                Ok(after) => {
                    set_decision(RateLimitDecision { retry_after: None, remaining: gcra.remaining(after, now) });
                    record.value.used = after;
                    return Ok(());
                }
                Err(denied) => denied,
            };
            let denied = RateLimitDecision {
                retry_after: Some(on_slowest_clock(wait)),
                remaining: gcra.remaining(record.value.used, now),
            };
            set_decision(denied);
            // A reset is stored although no event is allowed.
            record.value.used = reset.ok_or(denied)?;
            Ok(())
        });
        let checked = checked.or_insert_with(new).ttl(self.ttl).max_attempts(max_attempts).timeout(left);
        match checked.await {
            Ok(_) => Ok(decision.into_inner().unwrap_or_else(PoisonError::into_inner)),
            Err(ModifyError::Closure(denied)) => Ok(denied),
            Err(ModifyError::Kv(error)) => Err(error),
        }
    }

    /// Returns the decision on these events. Writes nothing under the key.
    pub(crate) async fn peek(&self, key: &RecipeKey, events: u32, timeout: Duration) -> Result<RateLimitDecision> {
        let end = Instant::now().checked_add(timeout);
        self.clock.refresh(&self.bucket, timeout).await?;
        let left = end.map_or(timeout, |end| end.saturating_duration_since(Instant::now()));
        let entry = self.bucket.get(key).read(Read::Leader).timeout(left).await?;
        let used = entry.map_or_else(GcraState::default, |entry| entry.value.used);
        self.warn_if_other(used);
        let now = self.clock.now();
        let denied = if events == 0 { None } else { self.gcra.decide(used, events, now).err() };
        let retry_after = denied.map(|Denied { wait, .. }| on_slowest_clock(wait));
        Ok(RateLimitDecision { retry_after, remaining: self.gcra.remaining(used, now) })
    }

    /// Two processes that use one name with different quotas keep neither quota. Log it once for each handle.
    fn warn_if_other(&self, used: GcraState) {
        if self.gcra.differs(used) && !self.warned.swap(true, Ordering::Relaxed) {
            let (name, quota) = (&self.name, &self.quota);
            tracing::warn!(%name, ?quota, "the rate limiter was used with another quota; this one applies from now on");
        }
    }
}

/// Converts a wait to the slowest clock within the tolerated drift.
fn on_slowest_clock(wait: Duration) -> Duration {
    wait + wait / (MAX_DRIFT_DIVISOR - 1) + Duration::from_nanos(1)
}

impl fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiter")
            .field("name", &self.name)
            .field("bucket", &self.bucket.name())
            .field("quota", &self.quota)
            .finish_non_exhaustive()
    }
}

/// A wait for an event to be allowed; see [`RateLimiter::until_ready`].
#[must_use = "nothing is waited for until it is awaited"]
#[derive(Debug)]
pub struct UntilReady<'a> {
    limiter: &'a RateLimiter,
    key: &'a str,
    timeout: Option<Duration>,
}

impl UntilReady<'_> {
    /// Sets the total time limit; the limiter's timeout by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    async fn run(self) -> Result<()> {
        let Self { limiter: handle, key, timeout } = self;
        let key = RecipeKey::new(RECIPE, &handle.name, key);
        let located = |error: Error| error.with_context("until_ready", handle.bucket.name(), Some(&key.to_string()));
        let (limiter, timeout) = handle.inner(timeout.or(handle.timeout)).await.map_err(located)?;
        let check_timeout = handle.timeout.unwrap_or(limiter.bucket.timeout());
        let end = Instant::now().checked_add(timeout);
        loop {
            let left = end.map_or(timeout, |end| end.saturating_duration_since(Instant::now()));
            let decision =
                limiter.check(&key, 1, handle.max_attempts, left.min(check_timeout)).await.map_err(located)?;
            let Some(wait) = decision.retry_after() else { return Ok(()) };
            let left = end.map_or(timeout, |end| end.saturating_duration_since(Instant::now()));
            if wait >= left {
                return Err(located(Error::unavailable(format!(
                    "the quota allows the event in {wait:?}, but the timeout ends in {left:?}; allow more time"
                ))));
            }
            let context = handle.bucket.context();
            let sleep = async {
                tokio::time::sleep(wait).await;
                Ok(())
            };
            context.until_shutdown(sleep).await.map_err(located)?;
        }
    }
}

impl<'a> IntoFuture for UntilReady<'a> {
    type Output = Result<()>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let bucket = &self.limiter.bucket;
        bucket.context().observe("until_ready", bucket.name(), Box::pin(self.run()))
    }
}
