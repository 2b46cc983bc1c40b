//! An estimate of the server's clock.
//!
//! The wall clocks of two machines are never compared. The server stamps each record that it stores. It stamps a write
//! of this process after the write is sent and before the acknowledgement arrives. The stamp therefore bounds the
//! server's time. From then on, the local monotonic clock advances the bounds, which widen by the tolerated drift.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::gcra::{TimeInterval, nanos};
use crate::backend::Read;
use crate::bucket::Bucket;
use crate::error::{Error, Result};
use crate::recipes::location::check_room;
use crate::recipes::open::detached;
use crate::recipes::record::{RecipeKey, RecipeRecord};

/// Once a reading has this age, the clock is read again.
const REFRESH_AFTER: Duration = Duration::from_secs(10);

/// Once a reading has this age, it is no longer used.
const EXPIRE_AFTER: Duration = Duration::from_secs(60);

/// The reciprocal of the tolerated drift between two clocks: 500 ppm, like the rate of clock slewing.
pub(crate) const MAX_DRIFT_DIVISOR: u32 = 2_000;

/// The TTL of the record that the clock is read from.
const PROBE_TTL: Duration = Duration::from_secs(60);

/// The server's clock. Clones share their samples.
#[derive(Clone)]
pub(crate) struct ServerClock {
    key: RecipeKey,
    last: Arc<Mutex<Option<Sample>>>,
    refreshing: Arc<tokio::sync::Mutex<()>>,
}

/// The bounds of the server's time at a local instant.
#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    now: TimeInterval,
}

/// The value of the record that the server stamps.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct TimestampProbe {}

impl Sample {
    fn now(&self, at: Instant) -> TimeInterval {
        let age = at.saturating_duration_since(self.at);
        let wrong = nanos(age / MAX_DRIFT_DIVISOR);
        let moved = |time: u64| time.saturating_add(nanos(age));
        TimeInterval {
            earliest: moved(self.now.earliest).saturating_sub(wrong),
            latest: moved(self.now.latest).saturating_add(wrong),
        }
    }

    /// Returns the intersection of both samples. If they do not overlap, the server's clock was set, and the newer
    /// sample is returned.
    fn and(self, older: Sample) -> Self {
        let (new, old) = (self.now, older.now(self.at));
        let (earliest, latest) = (new.earliest.max(old.earliest), new.latest.min(old.latest));
        if earliest > latest { self } else { Self { now: TimeInterval { earliest, latest }, ..self } }
    }
}

impl ServerClock {
    pub(crate) fn new(name: &str) -> Self {
        let reader = format!("{:016x}", rand::random::<u64>());
        let key = RecipeKey::new("rate-clock", name, reader);
        Self { key, last: Arc::default(), refreshing: Arc::default() }
    }

    /// Reads the server's clock if the last reading is older than `REFRESH_AFTER`. If another task is reading the
    /// clock, the last reading remains in use. If the last reading is older than `EXPIRE_AFTER`, the call waits for
    /// that task.
    pub(crate) async fn refresh<V>(&self, bucket: &Bucket<RecipeRecord<V>>, timeout: Duration) -> Result<()>
    where
        V: crate::recipes::record::Value,
    {
        if self.age() < REFRESH_AFTER {
            return Ok(());
        }
        let (clock, bucket) = (self.clone(), bucket.as_model::<RecipeRecord<TimestampProbe>>());
        detached(async move { clock.read_again(&bucket, timeout).await }).await
    }

    /// Reads the server's clock if it was never read.
    pub(crate) async fn ensure_read<V>(&self, bucket: &Bucket<RecipeRecord<V>>, timeout: Duration) -> Result<()>
    where
        V: crate::recipes::record::Value,
    {
        if self.sample().is_some() { Ok(()) } else { self.refresh(bucket, timeout).await }
    }

    fn age(&self) -> Duration {
        self.sample().map_or(Duration::MAX, |sample| sample.at.elapsed())
    }

    async fn read_again(&self, bucket: &Bucket<RecipeRecord<TimestampProbe>>, timeout: Duration) -> Result<()> {
        let _refreshing = match self.age() {
            age if age < EXPIRE_AFTER => match self.refreshing.try_lock() {
                Ok(guard) => guard,
                Err(_) => return Ok(()),
            },
            _ => {
                let guard = tokio::time::timeout(timeout, self.refreshing.lock()).await;
                guard.map_err(|_| Error::timeout(timeout))?
            }
        };
        if self.age() < REFRESH_AFTER {
            return Ok(());
        }
        check_room(bucket).await?;
        let sample = self.read(bucket, timeout).await?;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some(last.map_or(sample, |older| sample.and(older)));
        Ok(())
    }

    async fn read(&self, bucket: &Bucket<RecipeRecord<TimestampProbe>>, timeout: Duration) -> Result<Sample> {
        let sent = Instant::now();
        let probe = RecipeRecord { key: self.key.clone(), value: TimestampProbe {} };
        let revision = bucket
            .put(&probe)
            .ttl(bucket.config().ttl.map_or(PROBE_TTL, |ttl| ttl.min(PROBE_TTL)))
            .timeout(timeout)
            .await?;
        let at = Instant::now();
        let stored = bucket.get(&self.key).read(Read::AtLeast(revision)).timeout(timeout).await?;
        let stamped = stored.filter(|probe| probe.revision() == revision).map(|probe| probe.created());
        let since = stamped.and_then(|stamped| stamped.duration_since(SystemTime::UNIX_EPOCH).ok());
        let since = since.ok_or_else(|| Error::unavailable("the server's time could not be read"))?;
        let earliest = nanos(since);
        Ok(Sample { at, now: TimeInterval { earliest, latest: earliest.saturating_add(nanos(at - sent)) } })
    }

    /// Returns the bounds of the current time. The clock must have been read before.
    pub(crate) fn now(&self) -> TimeInterval {
        let nothing = TimeInterval { earliest: 0, latest: u64::MAX };
        self.sample().map_or(nothing, |sample| sample.now(Instant::now()))
    }

    fn sample(&self) -> Option<Sample> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::store::Store;

    #[tokio::test(start_paused = true)]
    async fn bounds_widen_with_time_and_narrow_with_samples() {
        let at = Instant::now();
        let sample = |at, earliest, latest| Sample { at, now: TimeInterval { earliest, latest } };
        let second = 1_000_000_000;
        let first = sample(at, 100 * second, 100 * second + 4);
        let later = at + Duration::from_secs(2);
        assert_eq!(
            first.now(later),
            TimeInterval { earliest: 102 * second - 1_000_000, latest: 102 * second + 4 + 1_000_000 }
        );
        // The samples overlap.
        let second_sample = sample(later, 102 * second + 1, 103 * second).and(first);
        assert_eq!(
            second_sample.now,
            TimeInterval { earliest: 102 * second + 1, latest: 102 * second + 4 + 1_000_000 }
        );
        // The samples overlap in one instant.
        assert_eq!(sample(at, 5, 7).and(sample(at, 7, 9)).now, TimeInterval { earliest: 7, latest: 7 });
        // The clock was set back.
        assert_eq!(sample(later, 5, 6).and(first).now, TimeInterval { earliest: 5, latest: 6 });
    }

    #[tokio::test(start_paused = true)]
    async fn old_clock_reading_is_refreshed() {
        let bucket: Bucket<RecipeRecord<TimestampProbe>> = Store::memory().bucket().name("clock").await.unwrap();
        let clock = ServerClock::new("a");
        let refresh = || clock.refresh(&bucket, Duration::from_secs(1));
        let read = || clock.sample().map(|sample| sample.at);
        // Two concurrent calls without a reading read the clock once.
        let (one, other) = tokio::join!(refresh(), refresh());
        one.and(other).unwrap();
        assert_eq!(bucket.status().await.unwrap().last_revision.get(), 1);
        let first = read();
        assert_eq!(first, Some(Instant::now()));
        tokio::time::advance(REFRESH_AFTER - Duration::from_millis(1)).await;
        refresh().await.unwrap();
        assert_eq!(read(), first);
        tokio::time::advance(Duration::from_millis(1)).await;
        refresh().await.unwrap();
        assert_eq!(read(), Some(Instant::now()));

        // While another task reads the clock, the last reading remains in use, unless it is too old.
        let second = read();
        let _refreshing = clock.refreshing.lock().await;
        tokio::time::advance(EXPIRE_AFTER - Duration::from_millis(1)).await;
        refresh().await.unwrap();
        assert_eq!(read(), second);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(matches!(refresh().await.unwrap_err().kind(), ErrorKind::Timeout { .. }));
    }
}
