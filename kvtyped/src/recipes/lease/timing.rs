//! The TTL of a lease, and the times that depend on it.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::ttl::Ttl;

/// The default TTL of a lease. It is long enough for a cluster to elect a new leader.
pub(crate) const TTL: Duration = Duration::from_secs(30);

/// The times of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeaseTiming {
    /// How long after the last renewal the server expires the lease.
    pub(crate) ttl: Duration,
    /// The longest time from the sending of one renewal to the next.
    pub(crate) renew_every: Duration,
    /// How long before its expiry the holder gives the lease up.
    pub(crate) margin: Duration,
}

/// The times of a lease that a user has set.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LeaseTimingOptions {
    pub(crate) ttl: Option<Duration>,
    pub(crate) renew_every: Option<Duration>,
    pub(crate) margin: Option<Duration>,
}

impl LeaseTimingOptions {
    /// Returns the times of the lease. Unset times follow from the others.
    ///
    /// # Errors
    ///
    /// Returns `InvalidConfig` if the times contradict each other.
    pub(crate) fn resolve(self) -> Result<LeaseTiming> {
        let invalid = |reason: String| Err(Error::invalid_config(reason));
        let ttl = self.ttl.unwrap_or(TTL);
        if Ttl::new(ttl).is_none() {
            return invalid(format!("the ttl of a lease is {ttl:?}; it must be from 1 s to a century (ADR-43)"));
        }
        let margin = self.margin.unwrap_or(LeaseTiming::defaults(ttl).margin);
        let Some(validity) = ttl.checked_sub(margin).filter(|validity| !validity.is_zero()) else {
            return invalid(format!("a lease must end before it expires: margin ({margin:?}) < ttl ({ttl:?})"));
        };
        let renew_every = self.renew_every.unwrap_or((ttl / 3).min(validity / 2));
        if renew_every.is_zero() || renew_every >= validity {
            return invalid(format!(
                "a lease must be renewed before it ends: 0 < renew_every ({renew_every:?}) < ttl ({ttl:?}) - margin ({margin:?})"
            ));
        }
        Ok(LeaseTiming { ttl, renew_every, margin })
    }
}

impl LeaseTiming {
    /// Returns the times of a ticket for a lease with these times. A ticket is short, so that a dead waiter is passed
    /// over soon even if the lease is long.
    pub(crate) fn for_ticket(self) -> Self {
        let ttl = self.ttl.min(TTL);
        Self::defaults(ttl)
    }

    /// Returns the default times for a TTL of at least one second.
    fn defaults(ttl: Duration) -> Self {
        // A busy machine may stall for a second, so the margin is at least a second. A short lease limits it to a
        // third.
        let margin = (ttl / 10).max(Duration::from_secs(1)).min(ttl / 3);
        Self { ttl, renew_every: (ttl / 3).min((ttl - margin) / 2), margin }
    }

    /// Returns how long the lease is valid after the sending of its last renewal.
    pub(crate) fn validity(self) -> Duration {
        self.ttl - self.margin
    }

    /// Returns the timeout of one attempt to renew the lease.
    pub(crate) fn attempt_timeout(self) -> Duration {
        // Leaves time for several attempts. A busy machine needs a quarter of a second for one.
        Duration::from_secs(2).min((self.validity() / 4).max(Duration::from_millis(250)))
    }

    /// Returns the delay between a failed renewal and the next attempt.
    pub(crate) fn retry_delay(self) -> Duration {
        Duration::from_millis(500).min(self.validity() / 8)
    }

    /// Returns the delay from the sending of one renewal to the next. It is shorter by a random amount each time, so
    /// that leases that started together spread out.
    pub(crate) fn renewal_delay(self) -> Duration {
        self.renew_every - crate::jitter::uniform_duration(self.renew_every / 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn timing(ttl: u64, renew_every: Option<u64>, margin: Option<u64>) -> Result<LeaseTiming> {
        let ms = Duration::from_millis;
        LeaseTimingOptions { ttl: Some(ms(ttl)), renew_every: renew_every.map(ms), margin: margin.map(ms) }.resolve()
    }

    #[test]
    fn default_times_match_docs() {
        let times = LeaseTimingOptions::default().resolve().unwrap();
        assert_eq!((times.ttl.as_secs(), times.renew_every.as_secs(), times.margin.as_secs()), (30, 10, 3));
        assert_eq!((times.attempt_timeout().as_secs(), times.retry_delay().as_millis()), (2, 500));
    }

    #[test]
    fn short_leases_leave_time_to_renew() {
        for ttl in [1_000, 1_001, 1_500, 2_000, 3_000, 6_000, 15_000] {
            let times = timing(ttl, None, None).unwrap();
            assert!(
                times.renew_every + times.attempt_timeout() < times.validity() && times.validity() < times.ttl,
                "{times:?}"
            );
        }
    }

    #[test]
    fn contradicting_times_are_refused_with_relation() {
        for (timing, relation) in [
            (timing(999, None, None), "from 1 s"),
            (timing(2_000, None, Some(2_000)), "margin (2s) < ttl (2s)"),
            (timing(3_000, Some(2_000), Some(1_000)), "renew_every (2s) < ttl (3s) - margin (1s)"),
            (timing(3_000, Some(0), None), "0 < renew_every"),
        ] {
            let error = timing.unwrap_err();
            assert!(
                matches!(error.kind(), ErrorKind::InvalidConfig { reason } if reason.contains(relation)),
                "{error}"
            );
        }
    }

    #[test]
    fn ticket_ttl_is_at_most_the_default() {
        for ttl in [1_000, 1_500, 6_000, 30_000] {
            assert_eq!(timing(ttl, None, None).unwrap().for_ticket(), timing(ttl, None, None).unwrap());
        }
        let day = timing(86_400_000, Some(80_000_000), Some(1)).unwrap();
        assert_eq!(day.for_ticket(), LeaseTimingOptions::default().resolve().unwrap());
    }

    #[test]
    fn renewals_are_never_late() {
        let times = LeaseTimingOptions::default().resolve().unwrap();
        let range = times.renew_every - times.renew_every / 10..=times.renew_every;
        assert!((0..1_000).map(|_| times.renewal_delay()).all(|after| range.contains(&after)));
    }

    #[test]
    fn wide_margin_shortens_other_times() {
        let times = timing(3_000, None, Some(2_000)).unwrap();
        assert_eq!(times.validity(), Duration::from_secs(1));
        assert_eq!(times.renew_every, Duration::from_millis(500));
        assert_eq!(
            (times.attempt_timeout(), times.retry_delay()),
            (Duration::from_millis(250), Duration::from_millis(125))
        );
    }
}
