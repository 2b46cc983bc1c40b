//! So many an hour, over all processes.

use std::fmt;
use std::future::IntoFuture;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::clock::{DRIFT, ServerClock};
use super::place::{Place, place_options};
use super::quota::{Denied, Quota, Rule, Used};
use super::slot::{Slot, SlotKey, Unknown};
use crate::backend::Read;
use crate::bucket::{Bucket, ModifyError};
use crate::error::{Error, Result};
use crate::store::Store;

/// What the keys of the records begin with.
const RECIPE: &str = "rate";

/// How often a check is tried against others of the same key, unless it is said otherwise.
const MAX_ATTEMPTS: u32 = 32;

impl Store {
    /// Opens a rate limiter, which all processes share that open it by this name, with the same quota.
    ///
    /// A limiter can be opened again with another quota. The new quota applies at once. Events under the old quota
    /// count for at most one burst of the new quota. The limiter logs the first key that was used under another quota
    /// at `warn`.
    ///
    /// Keys are compared byte for byte. Normalize case and Unicode of names that users choose, or each spelling has its own quota.
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
    /// assert!(api.check("client-2").await?.is_allowed()); // each key has a quota of its own
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `InvalidConfig` if the quota allows nothing, or is beyond what can be counted, or if the name is not that of a
    /// bucket and [`bucket`](OpenRateLimiter::bucket) says no other; `Unsupported` on a server without TTLs of single records
    /// (before nats-server 2.11), or in a bucket whose settings do not fit.
    pub fn rate_limiter(&self, name: impl Into<String>, quota: Quota) -> OpenRateLimiter {
        let name = name.into();
        OpenRateLimiter { place: Place::new(self, &name), name, quota, timeout: None, max_attempts: MAX_ATTEMPTS }
    }
}

/// Opens a rate limiter; see [`Store::rate_limiter`].
#[must_use = "nothing is opened until it is awaited"]
#[derive(Debug)]
pub struct OpenRateLimiter {
    place: Place,
    name: String,
    quota: Quota,
    timeout: Option<Duration>,
    max_attempts: u32,
}

place_options!(OpenRateLimiter);

impl OpenRateLimiter {
    /// How long a check may take in all; the store's time by default. A limiter that everything waits for wants a short one.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How often a check is tried while others check the same key; 32 times by default. Zero counts as one.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    async fn run(self) -> Result<RateLimiter> {
        let Self { place, name, quota, timeout, max_attempts } = self;
        let rule = quota.rule()?;
        // A record that is gone is a key that is whole again.
        let ttl = rule.whole() + Duration::from_secs(2);
        let bucket: Bucket<Slot<Record>> = place.open(Some(ttl)).await?;
        let timeout = timeout.unwrap_or(bucket.timeout());
        let clock = ServerClock::new(&name);
        let warned = AtomicBool::new(false);
        let inner = Inner { bucket, name, quota, rule, ttl, timeout, max_attempts, clock, warned };
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

/// A rate limiter over all processes (GCRA). Cheap to clone. Made by [`Store::rate_limiter`].
///
/// Over any time, a key is allowed no more events than the quota's burst and what its rate adds in that time: each key has
/// one record, which is changed by compare-and-set, and which is gone when the key has been idle long enough.
///
/// Time is the server's. Each handle reads its clock from the stamp of a write of its own, every ten seconds while it is
/// used, and counts on from there; what it cannot know (the time of the round trip, the drift since then) counts against the
/// caller. The clocks of the processes themselves play no part.
///
/// When the server cannot be reached, a check is an `Err`: the caller decides whether to let through or to turn away.
///
/// # What this does not guarantee
///
/// * An exact rate across clocks that were set. If the server's clock is set forward, or a leader takes over whose
///   clock is ahead, a key may be allowed up to one burst more; if backward, a key may be denied for as long as two
///   bursts take to come back, and ten seconds. A wait of [`retry_after`](Decision::retry_after) suffices in each case.
/// * A rate while processes use one name with different quotas. Each process applies its own quota, and ignores what
///   the other counts beyond its burst.
/// * Fairness. Of several that wait for one key, any may come first.
/// * A use for each permit. An event that was allowed counts, whether the caller makes use of it or not; so may one whose
///   check was cancelled, or failed with an unknown outcome.
/// * Speed. A check that allows is a read and a write, and those of one key go one after the other: some hundred a second.
///   A denial is a read.
#[derive(Clone)]
pub struct RateLimiter(Arc<Inner>);

struct Inner {
    bucket: Bucket<Slot<Record>>,
    name: String,
    quota: Quota,
    rule: Rule,
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
    used: Used,
    #[serde(flatten)]
    unknown: Unknown,
}

/// What a rate limiter says of an event.
#[must_use = "an event that is denied should not happen"]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    retry_after: Option<Duration>,
    remaining: u32,
}

impl Decision {
    /// Whether it is allowed.
    pub fn is_allowed(&self) -> bool {
        self.retry_after.is_none()
    }

    /// How long from now it would be allowed, if nobody else comes first; nothing if it is allowed now.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// How many more events are allowed at this moment.
    pub fn remaining(&self) -> u32 {
        self.remaining
    }
}

impl RateLimiter {
    /// Asks for one event; if it is allowed, it counts.
    ///
    /// # Errors
    ///
    /// `RetriesExhausted` if too many check the same key at once; else those of the bucket. If the outcome is `Unknown`,
    /// the event may count.
    ///
    /// # Cancel safety
    ///
    /// Dropping it before it ends leaves it unknown whether the event counts.
    pub async fn check(&self, key: &str) -> Result<Decision> {
        self.check_n(key, 1).await
    }

    /// Asks for several events, all or none. Zero events are always allowed: the decision has the number of
    /// [`remaining`](Decision::remaining) events, and nothing is written for the key.
    ///
    /// # Errors
    ///
    /// As of [`check`](Self::check); `InvalidConfig` if there are more than the burst, which are never allowed.
    ///
    /// # Cancel safety
    ///
    /// As of [`check`](Self::check).
    pub async fn check_n(&self, key: &str, events: u32) -> Result<Decision> {
        let limiter = &*self.0;
        let key = SlotKey::new(RECIPE, &limiter.name, key);
        let check = limiter.check(&key, events, limiter.timeout).await;
        check.map_err(|error| error.within("check", limiter.bucket.name(), Some(&key.to_string())))
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
    /// `Unavailable` as soon as it is clear that the time does not suffice; nothing counts then. Else as of
    /// [`check`](Self::check).
    ///
    /// # Cancel safety
    ///
    /// As of [`check`](Self::check); while it waits, nothing counts.
    pub fn until_ready<'a>(&'a self, key: &'a str) -> UntilReady<'a> {
        UntilReady { limiter: self, key, timeout: None }
    }
}

impl Inner {
    async fn check(&self, key: &SlotKey, events: u32, timeout: Duration) -> Result<Decision> {
        let Self { bucket, rule, clock, .. } = self;
        if events > rule.burst {
            return Err(Error::invalid_config(format!(
                "{events} events at once are never allowed by a burst of {}",
                rule.burst
            )));
        }
        if events == 0 {
            return self.peek(key, timeout).await;
        }
        let end = Instant::now().checked_add(timeout);
        clock.refresh(bucket, timeout).await?;
        let left = end.map_or(timeout, |end| end.saturating_duration_since(Instant::now()));
        // Set by the last run of either closure: the closures run again after a conflict.
        let outcome = Mutex::new(Decision { retry_after: None, remaining: 0 });
        let tell = |decision| *outcome.lock().unwrap_or_else(PoisonError::into_inner) = decision;
        let first = || {
            // A burst is always allowed to a key that is whole.
            let now = clock.now();
            let used = rule.decide(Used::default(), events, now).unwrap_or_default();
            tell(Decision { retry_after: None, remaining: rule.remaining(used, now) });
            Slot { key: key.clone(), value: Record { used, unknown: Unknown::default() } }
        };
        let checked = bucket.try_modify(key, |slot: &mut Slot<Record>| {
            let now = clock.now();
            self.warn_if_other(slot.value.used);
            let Denied { wait, reset } = match rule.decide(slot.value.used, events, now) {
                Ok(after) => {
                    tell(Decision { retry_after: None, remaining: rule.remaining(after, now) });
                    slot.value.used = after;
                    return Ok(());
                }
                Err(denied) => denied,
            };
            // Convert the wait to the slowest clock within the tolerated drift.
            let wait = wait + wait / (DRIFT - 1) + Duration::from_nanos(1);
            let denied = Decision { retry_after: Some(wait), remaining: rule.remaining(slot.value.used, now) };
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
    async fn peek(&self, key: &SlotKey, timeout: Duration) -> Result<Decision> {
        let end = Instant::now().checked_add(timeout);
        self.clock.refresh(&self.bucket, timeout).await?;
        let left = end.map_or(timeout, |end| end.saturating_duration_since(Instant::now()));
        let entry = self.bucket.get(key).read(Read::Leader).timeout(left).await?;
        let used = entry.map_or_else(Used::default, |entry| entry.value.used);
        self.warn_if_other(used);
        Ok(Decision { retry_after: None, remaining: self.rule.remaining(used, self.clock.now()) })
    }

    /// Two processes that use one name with different quotas keep neither quota. Log it once for each handle.
    fn warn_if_other(&self, used: Used) {
        if self.rule.differs(used) && !self.warned.swap(true, Ordering::Relaxed) {
            let (name, quota) = (&self.name, &self.quota);
            tracing::warn!(%name, ?quota, "the rate limiter was used with another quota; this one applies from now on");
        }
    }
}

impl fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { bucket, name, quota, .. } = &*self.0;
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
    /// How long it may take in all; the limiter's time by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    async fn run(self) -> Result<()> {
        let limiter = &*self.limiter.0;
        let key = SlotKey::new(RECIPE, &limiter.name, self.key);
        let timeout = self.timeout.unwrap_or(limiter.timeout);
        let end = Instant::now().checked_add(timeout);
        let located = |error: Error| error.within("until_ready", limiter.bucket.name(), Some(&key.to_string()));
        loop {
            let left = end.map_or(timeout, |end| end.saturating_duration_since(Instant::now()));
            let decision = limiter.check(&key, 1, left.min(limiter.timeout)).await.map_err(located)?;
            let Some(wait) = decision.retry_after() else { return Ok(()) };
            let left = end.map_or(timeout, |end| end.saturating_duration_since(Instant::now()));
            if wait >= left {
                return Err(located(Error::unavailable(format!(
                    "the quota allows it in {wait:?} at the earliest, and {left:?} are left to wait"
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
