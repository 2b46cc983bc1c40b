//! Estimates from the entries that a handle reads: the server's clock, and the newest schema version.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::backend::{ClockReading, RawBucket};
use crate::ttl::Ttl;

/// How old a reading may be before an operation that needs the time reads the clock again.
const REFRESH: Duration = Duration::from_secs(60);

/// The estimated clock of the server, and the TTL of the bucket. The entries of a bucket share it.
///
/// The monotonic clock of this process continues the last reading of the server's clock. A reading is the reply of a
/// server, which is younger than its request, so the estimate is at most one round trip behind at that moment.
/// Later, both clocks may drift apart. An entry that is younger than the estimate corrects it.
#[derive(Debug)]
pub(crate) struct BucketClock {
    ttl: Option<Duration>,
    start: Instant,
    /// The server's time at `start`, in nanoseconds since 1970.
    at_start: AtomicU64,
    /// When the server's clock was last read, in nanoseconds since `start`.
    read_at: AtomicU64,
    /// The newest schema version of an entry, and the newest one that the card was read for.
    newest_version: AtomicU32,
    checked_version: AtomicU32,
}

impl BucketClock {
    fn starting_at(start: Instant, ttl: Option<Duration>) -> Self {
        let (at_start, read_at) = (AtomicU64::new(0), AtomicU64::new(0));
        let (newest_version, checked_version) = (AtomicU32::new(0), AtomicU32::new(0));
        Self { ttl, start, at_start, read_at, newest_version, checked_version }
    }

    /// Remembers the schema version of an entry.
    pub(crate) fn observe_version(&self, version: u32) {
        if version > self.newest_version.load(Ordering::Relaxed) {
            self.newest_version.fetch_max(version, Ordering::Relaxed);
        }
    }

    /// Whether an entry is newer than the version that the handle writes, so that the bucket may have been switched. The
    /// caller reads the card, so the answer is `true` once for each version.
    pub(super) fn suspects_switch(&self, writes: u32) -> bool {
        let newest = self.newest_version.load(Ordering::Relaxed);
        newest > writes && newest > self.checked_version.fetch_max(newest, Ordering::Relaxed)
    }

    /// Creates the clock of a bucket from the reading of its backend, or from the local clock if there is no reading.
    pub(super) fn new(raw: &dyn RawBucket) -> Self {
        let start = Instant::now();
        let clock = Self::starting_at(start, raw.config().ttl);
        let ClockReading { server, at } = raw.clock().unwrap_or(ClockReading { server: SystemTime::now(), at: start });
        clock.set(server, at);
        clock
    }

    /// Creates the clock of a bucket that has no server and no TTL.
    #[cfg(test)]
    pub(crate) fn local() -> Self {
        let clock = Self::starting_at(Instant::now(), None);
        clock.set(SystemTime::now(), clock.start);
        clock
    }

    /// Uses a reading of the server's clock.
    pub(super) fn set(&self, server: SystemTime, at: Instant) {
        let elapsed = nanos(at.saturating_duration_since(self.start));
        let before = nanos(self.start.saturating_duration_since(at));
        let at_start = since_1970(server).saturating_add(before).saturating_sub(elapsed);
        self.at_start.store(at_start, Ordering::Relaxed);
        self.read_at.store(elapsed, Ordering::Relaxed);
    }

    /// Whether the last reading of the server's clock is old. The caller reads it, so the next answer is `false`.
    pub(super) fn is_due(&self) -> bool {
        let (elapsed, read_at) = (self.start.elapsed(), self.read_at.load(Ordering::Relaxed));
        let is_due = elapsed.saturating_sub(Duration::from_nanos(read_at)) >= REFRESH;
        if is_due {
            self.read_at.store(nanos(elapsed), Ordering::Relaxed);
        }
        is_due
    }

    /// Uses the time of an entry: the server's clock has reached it.
    pub(crate) fn observe(&self, created: SystemTime) {
        let at_least = since_1970(created).saturating_sub(nanos(self.start.elapsed()));
        if at_least > self.at_start.load(Ordering::Relaxed) {
            self.at_start.fetch_max(at_least, Ordering::Relaxed);
        }
    }

    /// Returns the estimated time of the server.
    pub(crate) fn now(&self) -> SystemTime {
        let now = self.at_start.load(Ordering::Relaxed).saturating_add(nanos(self.start.elapsed()));
        UNIX_EPOCH.checked_add(Duration::from_nanos(now)).unwrap_or(UNIX_EPOCH)
    }

    /// Returns the time since the write of a record.
    pub(crate) fn age(&self, created: SystemTime) -> Duration {
        self.now().duration_since(created).unwrap_or_default()
    }

    /// Returns the time until a record expires by its own TTL or by that of the bucket. `None` if it never expires.
    pub(crate) fn remaining(&self, created: SystemTime, ttl: Option<Ttl>) -> Option<Duration> {
        if ttl.is_some_and(Ttl::is_never) {
            return None;
        }
        let lifetime = ttl.map(Ttl::as_duration).into_iter().chain(self.ttl).min()?;
        Some(lifetime.saturating_sub(self.age(created)))
    }
}

fn since_1970(time: SystemTime) -> u64 {
    nanos(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn clock(ttl: Option<Duration>) -> BucketClock {
        BucketClock::starting_at(Instant::now(), ttl)
    }

    #[tokio::test(start_paused = true)]
    async fn local_time_continues_the_last_reading() {
        let server = UNIX_EPOCH + 1_000_000 * SECOND;
        let clock = clock(None);
        tokio::time::advance(5 * SECOND).await;
        clock.set(server, Instant::now() - 2 * SECOND);
        assert_eq!(clock.now(), server + 2 * SECOND);
        clock.set(server, Instant::now() - 9 * SECOND);
        assert_eq!(clock.now(), server + 9 * SECOND, "a reading from before the start");
        tokio::time::advance(SECOND).await;
        assert_eq!(clock.age(server), 10 * SECOND);
        assert_eq!(clock.age(clock.now() + SECOND), Duration::ZERO, "an entry of the future has no age");
        clock.observe(server + 3 * SECOND);
        assert_eq!(clock.now(), server + 10 * SECOND, "an older entry says nothing");
        clock.observe(server + 30 * SECOND);
        assert_eq!(clock.now(), server + 30 * SECOND);
        clock.set(server, Instant::now());
        assert_eq!(clock.now(), server, "the server's clock was set back");
    }

    #[tokio::test(start_paused = true)]
    async fn old_reading_is_due_once() {
        let clock = clock(None);
        clock.set(UNIX_EPOCH, Instant::now());
        assert!(!clock.is_due());
        tokio::time::advance(REFRESH).await;
        assert!(clock.is_due() && !clock.is_due());
        tokio::time::advance(REFRESH).await;
        clock.set(UNIX_EPOCH, Instant::now());
        assert!(!clock.is_due());
    }

    #[tokio::test(start_paused = true)]
    async fn shorter_ttl_decides_the_remaining_time() {
        let created = UNIX_EPOCH + 1_000_000 * SECOND;
        let remaining = |bucket: Option<u64>, own: Option<u64>, age: u64| {
            let clock = clock(bucket.map(Duration::from_secs));
            clock.set(created + Duration::from_secs(age), Instant::now());
            clock.remaining(created, own.and_then(|own| Ttl::new(Duration::from_secs(own))))
        };
        assert_eq!(remaining(None, None, 1), None);
        assert_eq!(remaining(Some(60), None, 1), Some(59 * SECOND));
        assert_eq!(remaining(Some(60), Some(10), 1), Some(9 * SECOND));
        assert_eq!(remaining(Some(10), Some(60), 1), Some(9 * SECOND));
        assert_eq!(remaining(None, Some(10), 11), Some(Duration::ZERO));
        assert_eq!(clock(Some(SECOND)).remaining(created, Some(Ttl::NEVER)), None);
    }
}
