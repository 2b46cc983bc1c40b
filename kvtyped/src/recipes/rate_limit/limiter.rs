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
use crate::recipes::location::{BucketLocation, location_options};
use crate::recipes::record::{RecipeKey, RecipeRecord, Unknown};
use crate::store::Store;

/// The recipe's part of a key.
const RECIPE: &str = "rate";

/// The default limit for the attempts of a check that conflicts with other checks of the same key.
const MAX_ATTEMPTS: u32 = 32;

impl Store {
    /// Opens a rate limiter, shared by all processes that open it with this name and the same quota.
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
    /// Returns `InvalidConfig` if the quota allows nothing or is out of range, or if the name is not a valid bucket
    /// name and [`bucket`](OpenRateLimiter::bucket) sets no other. Returns `Unsupported` if the server does not support
    /// the TTL of single records (before nats-server 2.11), or if the settings of the bucket do not fit.
    pub fn rate_limiter(&self, name: impl Into<String>, quota: Quota) -> OpenRateLimiter {
        let name = name.into();
        OpenRateLimiter {
            place: BucketLocation::new(self, &name),
            name,
            quota,
            timeout: None,
            max_attempts: MAX_ATTEMPTS,
        }
    }
}

/// A builder that opens a rate limiter; see [`Store::rate_limiter`].
#[must_use = "nothing is opened until it is awaited"]
#[derive(Debug)]
pub struct OpenRateLimiter {
    place: BucketLocation,
    name: String,
    quota: Quota,
    timeout: Option<Duration>,
    max_attempts: u32,
}

location_options!(OpenRateLimiter: place);

impl OpenRateLimiter {
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

    async fn run(self) -> Result<RateLimiter> {
        let Self { place, name, quota, timeout, max_attempts } = self;
        let rule = quota.rule()?;
        // A missing record means that the key is whole.
        let ttl = rule.burst_duration() + Duration::from_secs(2);
        let bucket: Bucket<RecipeRecord<Record>> = place.open(Some(ttl)).await?;
        let timeout = timeout.unwrap_or(bucket.timeout());
        let clock = ServerClock::new(&name);
        let warned = AtomicBool::new(false);
        let inner = LimiterInner { bucket, name, quota, gcra: rule, ttl, timeout, max_attempts, clock, warned };
        inner.clock.refresh(&inner.bucket, timeout).await?;
        Ok(RateLimiter(Arc::new(inner)))
    }
}

impl IntoFuture for OpenRateLimiter {
    type Output = Result<RateLimiter>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

/// A rate limiter across all processes (GCRA), opened by [`Store::rate_limiter`]. Cheap to clone.
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
///   bursts take to recover, plus ten seconds. A wait of [`retry_after`](RateLimitDecision::retry_after) suffices in each case.
/// * A rate while processes use one name with different quotas. Each process applies its own quota, and ignores the
///   events of the others beyond its burst.
/// * Fairness. Several waiters for one key may proceed in any order.
/// * A use for each permit. An allowed event counts, whether or not it happens. An event may also count if its check
///   was cancelled, or failed with an unknown outcome.
/// * Speed. A check that allows an event is a read and a write. The checks of one key run one after another, at a few
///   hundred a second. A denial is a read.
#[derive(Clone)]
pub struct RateLimiter(Arc<LimiterInner>);

struct LimiterInner {
    bucket: Bucket<RecipeRecord<Record>>,
    name: String,
    quota: Quota,
    gcra: Gcra,
    ttl: Duration,
    timeout: Duration,
    max_attempts: u32,
    clock: ServerClock,
    /// Whether the use of another quota was logged.
    warned: AtomicBool,
}

/// The record of a key.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
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
        let limiter = &*self.0;
        let key = RecipeKey::new(RECIPE, &limiter.name, key);
        let check = limiter.check(&key, events, limiter.timeout).await;
        check.map_err(|error| error.with_context("check", limiter.bucket.name(), Some(&key.to_string())))
    }

    /// Waits until an event is allowed, and counts it.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
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
    async fn check(&self, key: &RecipeKey, events: u32, timeout: Duration) -> Result<RateLimitDecision> {
        let Self { bucket, gcra: rule, clock, .. } = self;
        if events > rule.burst {
            return Err(Error::invalid_config(format!("{events} events at once exceed the burst of {}", rule.burst)));
        }
        if events == 0 {
            return self.peek(key, timeout).await;
        }
        let end = Instant::now().checked_add(timeout);
        clock.refresh(bucket, timeout).await?;
        let left = end.map_or(timeout, |end| end.saturating_duration_since(Instant::now()));
        // Set by the last run of either closure: the closures run again after a conflict.
        let outcome = Mutex::new(RateLimitDecision { retry_after: None, remaining: 0 });
        let tell = |decision| *outcome.lock().unwrap_or_else(PoisonError::into_inner) = decision;
        let first = || {
            // A key that is whole always allows a burst.
            let now = clock.now();
            let used = rule.decide(GcraState::default(), events, now).unwrap_or_default();
            tell(RateLimitDecision { retry_after: None, remaining: rule.remaining(used, now) });
            RecipeRecord { key: key.clone(), value: Record { used, unknown: Unknown::default() } }
        };
        let checked = bucket.try_modify(key, |slot: &mut RecipeRecord<Record>| {
            let now = clock.now();
            self.warn_if_other(slot.value.used);
            let Denied { wait, reset } = match rule.decide(slot.value.used, events, now) {
                Ok(after) => {
                    tell(RateLimitDecision { retry_after: None, remaining: rule.remaining(after, now) });
                    slot.value.used = after;
                    return Ok(());
                }
                Err(denied) => denied,
            };
            // Convert the wait to the slowest clock within the tolerated drift.
            let wait = wait + wait / (MAX_DRIFT_DIVISOR - 1) + Duration::from_nanos(1);
            let denied = RateLimitDecision { retry_after: Some(wait), remaining: rule.remaining(slot.value.used, now) };
            tell(denied);
            // A reset is stored although no event is allowed.
            slot.value.used = reset.ok_or(denied)?;
            Ok(())
        });
        let checked = checked.or_insert_with(first).ttl(self.ttl).max_attempts(self.max_attempts).timeout(left);
        match checked.await {
            Ok(_) => Ok(outcome.into_inner().unwrap_or_else(PoisonError::into_inner)),
            Err(ModifyError::Closure(denied)) => Ok(denied),
            Err(ModifyError::Kv(error)) => Err(error),
        }
    }

    /// Returns how many events are allowed now. Writes nothing under the key.
    async fn peek(&self, key: &RecipeKey, timeout: Duration) -> Result<RateLimitDecision> {
        let end = Instant::now().checked_add(timeout);
        self.clock.refresh(&self.bucket, timeout).await?;
        let left = end.map_or(timeout, |end| end.saturating_duration_since(Instant::now()));
        let entry = self.bucket.get(key).read(Read::Leader).timeout(left).await?;
        let used = entry.map_or_else(GcraState::default, |entry| entry.value.used);
        self.warn_if_other(used);
        Ok(RateLimitDecision { retry_after: None, remaining: self.gcra.remaining(used, self.clock.now()) })
    }

    /// Two processes that use one name with different quotas keep neither quota. Log it once for each handle.
    fn warn_if_other(&self, used: GcraState) {
        if self.gcra.differs(used) && !self.warned.swap(true, Ordering::Relaxed) {
            let (name, quota) = (&self.name, &self.quota);
            tracing::warn!(%name, ?quota, "the rate limiter was used with another quota; this one applies from now on");
        }
    }
}

impl fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LimiterInner { bucket, name, quota, .. } = &*self.0;
        f.debug_struct("RateLimiter")
            .field("name", name)
            .field("bucket", &bucket.name())
            .field("quota", quota)
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
        let limiter = &*self.limiter.0;
        let key = RecipeKey::new(RECIPE, &limiter.name, self.key);
        let timeout = self.timeout.unwrap_or(limiter.timeout);
        let end = Instant::now().checked_add(timeout);
        let located = |error: Error| error.with_context("until_ready", limiter.bucket.name(), Some(&key.to_string()));
        loop {
            let left = end.map_or(timeout, |end| end.saturating_duration_since(Instant::now()));
            let decision = limiter.check(&key, 1, left.min(limiter.timeout)).await.map_err(located)?;
            let Some(wait) = decision.retry_after() else { return Ok(()) };
            let left = end.map_or(timeout, |end| end.saturating_duration_since(Instant::now()));
            if wait >= left {
                return Err(located(Error::unavailable(format!(
                    "the quota allows it in {wait:?} at the earliest, but only {left:?} are left"
                ))));
            }
            tokio::time::sleep(wait).await;
        }
    }
}

impl<'a> IntoFuture for UntilReady<'a> {
    type Output = Result<()>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}
