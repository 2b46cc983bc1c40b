//! How much a rate limiter allows, and what follows for one moment (GCRA): plain arithmetic, time is an argument.
//!
//! A key's state is one time, at which it is *whole* again: nothing of its burst is used. What is allowed moves it on by one
//! interval; what would move it further than a whole burst ahead of now is denied. Now is known only as an interval, so
//! both of its ends are used, each where it allows less: a key is never whole before the later, and the burst counts from
//! the earlier.

use std::time::Duration;

use crate::error::{Error, Result};

/// The longest time that a whole burst may take to come back.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How many events are allowed in how much time, and how many at once.
///
/// ```
/// use std::time::Duration;
/// use kvtyped::Quota;
///
/// let api = Quota::per_second(10).burst(20);
/// let mails = Quota::new(3, Duration::from_secs(600)).burst(1); // never two within 200 s
/// # let _ = (api, mails);
/// ```
#[must_use = "a quota limits nothing by itself"]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    events: u32,
    period: Duration,
    burst: u32,
}

impl Quota {
    /// So many events a period, and as many at once.
    pub const fn new(events: u32, period: Duration) -> Self {
        Self { events, period, burst: events }
    }

    /// So many events a second, and as many at once.
    pub const fn per_second(events: u32) -> Self {
        Self::new(events, Duration::from_secs(1))
    }

    /// So many events a minute, and as many at once.
    pub const fn per_minute(events: u32) -> Self {
        Self::new(events, Duration::from_secs(60))
    }

    /// So many events an hour, and as many at once.
    pub const fn per_hour(events: u32) -> Self {
        Self::new(events, Duration::from_secs(60 * 60))
    }

    /// How many may come at once after a pause.
    pub const fn burst(mut self, events: u32) -> Self {
        self.burst = events;
        self
    }

    /// The quota in numbers.
    pub(super) fn rule(self) -> Result<Rule> {
        let Self { events, period, burst } = self;
        let wrong = |reason: String| Err(Error::invalid_config(reason));
        if events == 0 {
            return wrong("a quota of 0 events allows nothing: it must be 1 at least".to_owned());
        }
        if burst == 0 {
            return wrong("a burst of 0 events allows nothing: it must be 1 at least".to_owned());
        }
        // Rounded up: never faster than asked.
        let interval = period.as_nanos().div_ceil(u128::from(events));
        if period.as_nanos() < u128::from(events) {
            return wrong(format!("{events} events in {period:?} are more than one a nanosecond"));
        }
        let whole = interval.saturating_mul(u128::from(burst));
        match u64::try_from(whole) {
            Ok(whole) if whole <= nanos(LONGEST) => Ok(Rule { interval: nanos_of(interval), burst, whole }),
            _ => wrong(format!(
                "a burst of {burst} at {events} in {period:?} takes `burst * period / events` to come back, and that must be 365 days at most"
            )),
        }
    }
}

/// A quota in numbers; times in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    /// What one event costs.
    interval: u64,
    pub(super) burst: u32,
    /// What a whole burst costs.
    whole: u64,
}

/// Between which times it is now, in nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Now {
    pub(super) earliest: u64,
    pub(super) latest: u64,
}

impl Rule {
    /// How long a key needs to be whole again, at most.
    pub(super) fn whole(&self) -> Duration {
        Duration::from_nanos(self.whole)
    }

    /// When the key is whole again if these events happen now; or how long from now they would be allowed.
    pub(super) fn decide(&self, whole_at: Option<u64>, events: u32, now: Now) -> Result<u64, Duration> {
        let cost = self.interval.saturating_mul(events.into());
        let whole_at = self.sane(whole_at, now);
        let limit = now.earliest.saturating_add(self.whole);
        match whole_at.max(now.earliest).saturating_add(cost).checked_sub(limit) {
            None | Some(0) => Ok(whole_at.max(now.latest).saturating_add(cost)),
            Some(wait) => Err(Duration::from_nanos(wait)),
        }
    }

    /// How many events would be allowed now.
    pub(super) fn remaining(&self, whole_at: Option<u64>, now: Now) -> u32 {
        let used = self.sane(whole_at, now).saturating_sub(now.earliest);
        let left = self.whole.saturating_sub(used) / self.interval;
        u32::try_from(left).unwrap_or(self.burst).min(self.burst)
    }

    /// What lies further ahead than a whole burst was written by a clock that was set back since, or for another quota.
    fn sane(&self, whole_at: Option<u64>, now: Now) -> u64 {
        whole_at.unwrap_or(0).min(now.latest.saturating_add(self.whole))
    }
}

pub(super) fn nanos(duration: Duration) -> u64 {
    nanos_of(duration.as_nanos())
}

fn nanos_of(nanos: u128) -> u64 {
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::error::ErrorKind;

    const SECOND: u64 = 1_000_000_000;

    fn at(time: u64) -> Now {
        Now { earliest: time, latest: time }
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let rule = Quota::per_second(10).burst(3).rule().unwrap();
        let mut state = None;
        for left in [2, 1, 0] {
            state = Some(rule.decide(state, 1, at(SECOND)).unwrap());
            assert_eq!(rule.remaining(state, at(SECOND)), left);
        }
        assert_eq!(rule.decide(state, 1, at(SECOND)), Err(Duration::from_millis(100)));
        assert_eq!(rule.decide(state, 2, at(SECOND)), Err(Duration::from_millis(200)));
        let later = at(SECOND + 100_000_000);
        state = Some(rule.decide(state, 1, later).unwrap());
        assert!(rule.decide(state, 1, later).is_err());
    }

    #[test]
    fn no_window_has_more_than_the_quota_whatever_the_clocks_say() {
        for seed in 0..500_u64 {
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut next = |below: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % below
            };
            let (burst, events) = (1 + next(5) as u32, 1 + next(20) as u32);
            let rule = Quota::per_second(events).burst(burst).rule().unwrap();
            let (mut state, mut time, mut allowed) = (None, SECOND, Vec::new());
            for _ in 0..300 {
                time += next(2 * rule.interval);
                // Each process knows the time as well as it knows it.
                let now = Now { earliest: time - next(rule.interval), latest: time + next(rule.interval) };
                if let Ok(whole_at) = rule.decide(state, 1, now) {
                    state = Some(whole_at);
                    allowed.push(time);
                }
            }
            for (from, first) in allowed.iter().enumerate() {
                for (to, last) in allowed.iter().enumerate().skip(from) {
                    let most = u64::from(burst) + (last - first) / rule.interval;
                    assert!((to - from) as u64 + 1 <= most, "seed {seed}: {} of {most}", to - from + 1);
                }
            }
        }
    }

    #[test]
    fn a_clock_that_was_set_back_denies_for_no_longer_than_a_burst() {
        let rule = Quota::per_second(1).burst(2).rule().unwrap();
        let state = Some(1_000 * SECOND);
        assert_eq!(rule.decide(state, 1, at(SECOND)), Err(Duration::from_secs(1)));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let year = Duration::from_secs(400 * 24 * 60 * 60);
        for quota in [
            Quota::per_second(0),
            Quota::per_second(1).burst(0),
            Quota::new(1, Duration::ZERO),
            Quota::new(2, Duration::from_nanos(1)),
            Quota::new(1, year),
            Quota::new(1, Duration::MAX).burst(u32::MAX),
            Quota::per_hour(1).burst(u32::MAX),
        ] {
            let error = quota.rule().unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{quota:?}: {error}");
        }
        assert!(Quota::per_second(u32::MAX).rule().is_err(), "more than one a nanosecond");
        assert!(Quota::per_second(1_000_000_000).rule().is_ok());
    }
}
