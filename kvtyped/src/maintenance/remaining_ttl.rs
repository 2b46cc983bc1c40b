//! The rest of the life of a record, by the server's clock.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::backend::BucketStatus;
use crate::ttl::Ttl;

/// The life of a record after a rewrite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RemainingTtl {
    /// The TTL of the new write. `None` for a record that does not expire.
    Keep(Option<Ttl>),
    /// Less than a second is left, which no TTL can express.
    Expiring,
}

impl RemainingTtl {
    /// Returns the rest of the life of a record, rounded up to whole seconds. `own` is the TTL of the record, and
    /// `bucket` that of its bucket.
    pub(super) fn of(own: Option<Ttl>, bucket: Option<Duration>, created: SystemTime, now: SystemTime) -> Self {
        let expiring = own.filter(|ttl| !ttl.is_never()).map(Ttl::as_duration);
        let life = match (own, bucket) {
            (Some(ttl), _) if ttl.is_never() => return Self::Keep(own),
            (_, Some(bucket)) => expiring.map_or(bucket, |ttl| ttl.min(bucket)),
            (_, None) => match expiring {
                Some(ttl) => ttl,
                None => return Self::Keep(None),
            },
        };
        let age = now.duration_since(created).unwrap_or_default();
        let rest = life.saturating_sub(age);
        if rest < Ttl::MIN {
            return Self::Expiring;
        }
        // A TTL of another client may be longer than a century.
        Self::Keep(Ttl::new(rest).or(own))
    }
}

/// The server's clock. Its time is never ahead of the server, so that no record expires early.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServerTime {
    reported: SystemTime,
    received: Instant,
}

impl ServerTime {
    /// Creates the clock from a status that has just arrived.
    pub(super) fn new(status: &BucketStatus) -> Self {
        Self { reported: status.now, received: Instant::now() }
    }

    pub(super) fn now(&self) -> SystemTime {
        self.reported + self.received.elapsed()
    }

    /// Returns the time since the server reported its clock.
    pub(super) fn age(&self) -> Duration {
        self.received.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rest(own: Option<u64>, bucket: Option<u64>, age_ms: u64) -> RemainingTtl {
        let created = SystemTime::UNIX_EPOCH + 1_000 * SECOND;
        let own = own.and_then(|seconds| Ttl::new(Duration::from_secs(seconds)));
        RemainingTtl::of(own, bucket.map(Duration::from_secs), created, created + Duration::from_millis(age_ms))
    }

    fn seconds(seconds: u64) -> RemainingTtl {
        RemainingTtl::Keep(Ttl::new(Duration::from_secs(seconds)))
    }

    #[test]
    fn rest_is_rounded_up() {
        assert_eq!(rest(Some(10), None, 0), seconds(10));
        assert_eq!(rest(Some(10), None, 1), seconds(10));
        assert_eq!(rest(Some(10), None, 8_999), seconds(2));
        assert_eq!(rest(Some(10), None, 9_000), seconds(1));
        assert_eq!(rest(Some(10), None, 9_001), RemainingTtl::Expiring);
        assert_eq!(rest(Some(10), None, 60_000), RemainingTtl::Expiring);
    }

    #[test]
    fn shorter_ttl_decides() {
        assert_eq!(rest(Some(10), Some(100), 0), seconds(10));
        assert_eq!(rest(Some(100), Some(10), 0), seconds(10));
        assert_eq!(rest(None, Some(100), 40_500), seconds(60));
        assert_eq!(rest(None, None, 40_500), RemainingTtl::Keep(None));
    }

    #[test]
    fn never_stays_never() {
        let (never, created) = (Some(Ttl::NEVER), SystemTime::UNIX_EPOCH);
        assert_eq!(RemainingTtl::of(never, Some(SECOND), created, created + 9 * SECOND), RemainingTtl::Keep(never));
    }

    #[test]
    fn record_of_a_later_time_keeps_its_life() {
        let created = SystemTime::UNIX_EPOCH + 100 * SECOND;
        let ttl = Ttl::new(10 * SECOND);
        assert_eq!(RemainingTtl::of(ttl, None, created, SystemTime::UNIX_EPOCH), RemainingTtl::Keep(ttl));
    }
}
