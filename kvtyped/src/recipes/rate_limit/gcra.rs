//! The quota of a rate limiter, and its decision for one moment (GCRA). Plain arithmetic: the time is an argument.
//!
//! The state of a key is the time when the key is *whole* again: its full burst is available. An allowed event moves
//! that time by one interval. An event that would move it further than a full burst ahead of now is denied. The current
//! time is only bounded, so each comparison uses the bound that allows less. A key is not whole before the upper bound,
//! and the burst counts from the lower bound. A burst after a pause would lose the difference between the bounds. The
//! state therefore also contains the time since when it counts: no later event is earlier than that time.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The longest time that a full burst may take to recover.
const MAX_RECOVERY: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The largest difference between two processes in their upper bound of the time. It exceeds a round trip.
const MAX_CLOCK_ERROR: Duration = Duration::from_secs(10);

/// A number of events that are allowed in a period, and a number that are allowed at once.
///
/// ```
/// use std::time::Duration;
/// use kvtyped::recipes::Quota;
///
/// let api = Quota::per_second(10).burst(20);
/// let mails = Quota::new(3, Duration::from_secs(600)).burst(1); // never two within 200 s
/// # let _ = (api, mails);
/// ```
#[must_use = "a quota has no effect until a rate limiter uses it"]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    events: u32,
    period: Duration,
    burst: u32,
}

impl Quota {
    /// Allows this number of events in each period, and as many at once.
    pub const fn new(events: u32, period: Duration) -> Self {
        Self { events, period, burst: events }
    }

    /// Allows this number of events in each second, and as many at once.
    pub const fn per_second(events: u32) -> Self {
        Self::new(events, Duration::from_secs(1))
    }

    /// Allows this number of events in each minute, and as many at once.
    pub const fn per_minute(events: u32) -> Self {
        Self::new(events, Duration::from_secs(60))
    }

    /// Allows this number of events in each hour, and as many at once.
    pub const fn per_hour(events: u32) -> Self {
        Self::new(events, Duration::from_secs(60 * 60))
    }

    /// Sets how many events are allowed at once after a pause.
    pub const fn burst(mut self, events: u32) -> Self {
        self.burst = events;
        self
    }

    /// Returns the number of events in each period.
    pub const fn events(&self) -> u32 {
        self.events
    }

    /// Returns the period.
    pub const fn period(&self) -> Duration {
        self.period
    }

    /// Returns how many events are allowed at once after a pause.
    pub const fn max_burst(&self) -> u32 {
        self.burst
    }

    /// Returns the parameters of the quota.
    pub(crate) fn gcra(self) -> Result<Gcra> {
        let Self { events, period, burst } = self;
        let invalid = |reason: String| Err(Error::invalid_config(reason));
        if events == 0 {
            return invalid("a quota of 0 events allows nothing; it must be at least 1".to_owned());
        }
        if burst == 0 {
            return invalid("a burst of 0 events allows nothing; it must be at least 1".to_owned());
        }
        // Rounded up, so the rate is never higher than requested.
        let interval = period.as_nanos().div_ceil(u128::from(events));
        if period.as_nanos() < u128::from(events) {
            return invalid(format!("{events} events in {period:?} exceed one per nanosecond; lower the quota"));
        }
        let burst_duration = interval.saturating_mul(u128::from(burst));
        match u64::try_from(burst_duration) {
            Ok(burst_duration) if burst_duration <= nanos(MAX_RECOVERY) => {
                Ok(Gcra { interval: nanos_of(interval), burst, burst_duration })
            }
            _ => invalid(format!(
                "a burst of {burst} at {events} in {period:?} refills in `burst * period / events`, which must be at most 365 days"
            )),
        }
    }
}

/// The parameters of a quota. All times are in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gcra {
    /// The cost of one event.
    interval: u64,
    pub(crate) burst: u32,
    /// The cost of a full burst.
    burst_duration: u64,
}

/// The bounds of the current time, in nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimeInterval {
    pub(crate) earliest: u64,
    pub(crate) latest: u64,
}

/// The state of a key, in nanoseconds since 1970 by the server's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct GcraState {
    /// When the full burst is available again: the theoretical arrival time of GCRA.
    #[serde(rename = "whole_at")]
    tat: u64,
    /// The latest time when the key may last have been whole. All counted events happened since then.
    since: u64,
    /// The cost of one event under the quota of the writer. Zero if the writer did not record it.
    #[serde(default)]
    interval: u64,
    /// The burst of the writer's quota.
    #[serde(default)]
    burst: u32,
}

/// The reason why events are not allowed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Denied {
    /// The time until the events are allowed.
    pub(crate) wait: Duration,
    /// The state to store so that the wait suffices, if the stored state does not fit this quota and this clock.
    pub(crate) reset: Option<GcraState>,
}

impl Gcra {
    /// Returns the longest time that a key needs to be whole again.
    pub(crate) fn burst_duration(&self) -> Duration {
        Duration::from_nanos(self.burst_duration)
    }

    /// Returns the state after these events, or the time until they are allowed.
    pub(crate) fn decide(&self, used: GcraState, events: u32, now: TimeInterval) -> Result<GcraState, Denied> {
        let cost = self.interval.saturating_mul(events.into());
        let (GcraState { tat, since, .. }, limit) = self.now(used, now);
        let after = tat.saturating_add(cost);
        if after <= limit {
            return Ok(self.used(after, since));
        }
        // The wait ends as soon as there is room. If the key may be whole by then, but not certainly, the wait ends
        // when the key is certainly whole.
        let bounded = self.clamp(used, now);
        let GcraState { tat, since, .. } = bounded;
        let wait = tat.saturating_add(cost).saturating_sub(self.burst_duration).saturating_sub(now.earliest);
        let sure = tat >= now.latest.saturating_add(wait).max(since);
        let wait = Duration::from_nanos(if sure { wait } else { tat.saturating_sub(now.earliest) });
        let moved = (bounded.tat, bounded.since) != (used.tat, used.since);
        Err(Denied { wait, reset: moved.then(|| self.used(bounded.tat, bounded.since)) })
    }

    /// Returns how many events would be allowed now.
    pub(crate) fn remaining(&self, used: GcraState, now: TimeInterval) -> u32 {
        let (GcraState { tat, .. }, limit) = self.now(used, now);
        u32::try_from(limit.saturating_sub(tat) / self.interval).unwrap_or(self.burst).min(self.burst)
    }

    /// Returns whether a state was written under another quota.
    pub(crate) fn differs(&self, used: GcraState) -> bool {
        (used.interval, used.burst) != (0, 0) && (used.interval, used.burst) != (self.interval, self.burst)
    }

    fn used(&self, tat: u64, since: u64) -> GcraState {
        GcraState { tat, since, interval: self.interval, burst: self.burst }
    }

    /// Returns the current state, and the limit that the state cannot move beyond.
    fn now(&self, used: GcraState, now: TimeInterval) -> (GcraState, u64) {
        let GcraState { tat, since, .. } = self.clamp(used, now);
        // The burst grows by the time that has certainly passed since the key was whole. With wide time bounds, that is
        // zero.
        let latest = now.latest.max(since);
        if tat <= now.earliest {
            return (self.used(latest, latest), latest.saturating_add(self.burst_duration));
        }
        (self.used(tat.max(latest), since), now.earliest.max(since).saturating_add(self.burst_duration))
    }

    /// Returns the state, bounded by the largest debt of this quota.
    ///
    /// A state further ahead than a whole burst was written before the clock was set back, or under another quota. The
    /// bound moves with `now`, so a denial that uses the bound must store it. Otherwise no wait would suffice.
    fn clamp(&self, used: GcraState, now: TimeInterval) -> GcraState {
        let GcraState { tat, since, .. } = used;
        let furthest = now.latest.saturating_add(self.burst_duration);
        if since > furthest.saturating_add(nanos(MAX_CLOCK_ERROR)) {
            return self.used(furthest, now.latest);
        }
        GcraState { tat: tat.min(furthest.max(since.saturating_add(self.burst_duration))), ..used }
    }
}

pub(crate) fn nanos(duration: Duration) -> u64 {
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

    fn at(time: u64) -> TimeInterval {
        TimeInterval { earliest: time, latest: time }
    }

    #[test]
    fn burst_is_allowed_then_rate_applies() {
        let gcra = Quota::per_second(10).burst(3).gcra().unwrap();
        let mut used = GcraState::default();
        // A burst is allowed in full, however wide the time bounds are.
        let now = TimeInterval { earliest: SECOND, latest: SECOND + 90_000_000 };
        for left in [2, 1, 0] {
            used = gcra.decide(used, 1, now).unwrap();
            assert_eq!(gcra.remaining(used, now), left);
        }
        let mut used = GcraState::default();
        for _ in 0..3 {
            used = gcra.decide(used, 1, at(SECOND)).unwrap();
        }
        let denied = |millis| Err(Denied { wait: Duration::from_millis(millis), reset: None });
        assert_eq!(gcra.decide(used, 1, at(SECOND)), denied(100));
        assert_eq!(gcra.decide(used, 2, at(SECOND)), denied(200));
        let later = at(SECOND + 100_000_000);
        used = gcra.decide(used, 1, later).unwrap();
        assert!(gcra.decide(used, 1, later).is_err());
    }

    #[test]
    fn no_window_exceeds_quota_despite_clock_error() {
        for seed in 0..1_000_u64 {
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut next = |below: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % below
            };
            let (burst, events) = (1 + next(5) as u32, 1 + next(20) as u32);
            let gcra = Quota::per_second(events).burst(burst).gcra().unwrap();
            let unsure = 1 + next(3 * gcra.interval);
            let pause = 1 + next(3 * gcra.interval);
            let (mut used, mut time, mut allowed) = (GcraState::default(), 100 * SECOND, Vec::new());
            for _ in 0..300 {
                time += next(pause);
                // Each process has different time bounds.
                let now = TimeInterval { earliest: time - next(unsure), latest: time + next(unsure) };
                match gcra.decide(used, 1, now) {
                    Ok(after) => {
                        used = after;
                        allowed.push(time);
                    }
                    Err(Denied { wait, reset }) => {
                        assert_eq!(reset, None, "seed {seed}: a denial with one quota and clock writes nothing");
                        let wait = u64::try_from(wait.as_nanos()).unwrap();
                        let then = TimeInterval { earliest: now.earliest + wait, latest: now.latest + wait };
                        assert!(
                            gcra.decide(used, 1, then).is_ok(),
                            "seed {seed}: denied after a wait of `retry_after`"
                        );
                    }
                }
            }
            for (from, first) in allowed.iter().enumerate() {
                for (to, last) in allowed.iter().enumerate().skip(from) {
                    let most = u64::from(burst) + (last - first) / gcra.interval;
                    let count = (to - from + 1) as u64;
                    assert!(count <= most, "seed {seed}: {count} of {most}");
                }
            }
        }
    }

    #[test]
    fn denial_after_clock_setback_is_bounded() {
        let gcra = Quota::per_second(1).burst(2).gcra().unwrap();
        for ahead in [1_000, 13, 12, 3, 2, 1] {
            let mut used = GcraState::default();
            for _ in 0..2 {
                used = gcra.decide(used, 1, at((10 + ahead) * SECOND)).unwrap();
            }
            let wait = gcra.decide(used, 1, at(10 * SECOND)).unwrap_err().wait;
            assert!(wait <= MAX_CLOCK_ERROR + 2 * gcra.burst_duration(), "{wait:?}");
        }
    }

    /// Quotas that change and a clock that jumps forward and back: one wait of `retry_after` suffices.
    #[test]
    fn wait_of_retry_after_always_suffices() {
        let (mut resets, mut denials) = (0, 0);
        for seed in 0..2_000_u64 {
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut next = |below: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % below
            };
            let (mut used, mut time) = (GcraState::default(), 1_000_000 * SECOND);
            for step in 0..60 {
                let period = [1, 60, 3_600, 86_400][next(4) as usize];
                let quota = Quota::new(1 + next(20) as u32, Duration::from_secs(period)).burst(1 + next(30) as u32);
                let gcra = quota.gcra().unwrap();
                match next(6) {
                    0 => time += next(100_000 * SECOND),
                    1 => time -= next(50_000 * SECOND),
                    _ => time += next(2 * gcra.interval),
                }
                for _ in 0..next(40) {
                    let events = 1 + next(gcra.burst.into()) as u32;
                    let now = TimeInterval { earliest: time - next(SECOND), latest: time + next(SECOND) };
                    let Denied { wait, reset } = match gcra.decide(used, events, now) {
                        Ok(after) => {
                            used = after;
                            continue;
                        }
                        Err(denied) => denied,
                    };
                    (resets, denials) = (resets + usize::from(reset.is_some()), denials + 1);
                    used = reset.unwrap_or(used);
                    assert!(
                        wait <= MAX_CLOCK_ERROR + 2 * gcra.burst_duration() + Duration::from_secs(2),
                        "seed {seed}, {step}: {wait:?}"
                    );
                    let wait = nanos(wait);
                    let then = TimeInterval { earliest: now.earliest + wait, latest: now.latest + wait };
                    used = gcra.decide(used, events, then).unwrap_or_else(|denied| {
                        panic!("seed {seed}, step {step}: {denied:?} after a wait of `retry_after`")
                    });
                    time += wait;
                }
            }
        }
        assert!(resets > 1_000 && denials > 10 * resets, "{resets} of {denials}");
    }

    /// A state of an hourly quota does not block a quota of one second.
    #[test]
    fn debt_of_another_quota_is_bounded_by_burst() {
        let hourly = Quota::per_hour(1).gcra().unwrap();
        let used = hourly.decide(GcraState::default(), 1, at(10 * SECOND)).unwrap();
        let gcra = Quota::per_second(10).gcra().unwrap();
        assert!(gcra.differs(used) && !hourly.differs(used) && !gcra.differs(GcraState::default()));
        let Denied { wait, reset } = gcra.decide(used, 1, at(11 * SECOND)).unwrap_err();
        assert_eq!(wait, Duration::from_millis(100));
        let later = at(11 * SECOND + 100_000_000);
        assert!(gcra.decide(reset.unwrap(), 1, later).is_ok());
        // The control: without the stored bound, each denial is followed by another.
        assert_eq!(gcra.decide(used, 1, later).unwrap_err().wait, wait);
    }

    #[test]
    fn invalid_quota_is_refused() {
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
            let error = quota.gcra().unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{quota:?}: {error}");
        }
        assert!(Quota::per_second(u32::MAX).gcra().is_err(), "the quota exceeds one event per nanosecond");
        assert!(Quota::per_second(1_000_000_000).gcra().is_ok());
    }
}
