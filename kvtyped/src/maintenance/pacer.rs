//! The speed of a job: its limit, and how many writes are in flight.

use std::time::Duration;

use tokio::time::Instant;

use crate::backend::Backoff;

/// The number of writes in flight at the start, and at most.
const WINDOW: (usize, usize) = (64, 512);

/// A slower acknowledgement than this halves the number of writes in flight.
const SLOW: Duration = Duration::from_millis(500);

/// How much time a job that is behind its pace may make up for.
const BURST: Duration = Duration::from_millis(10);

/// The number of temporary failures in a row that end a job.
const MAX_FAILURES: u32 = 30;

/// Decides when the next write starts.
#[derive(Debug)]
pub(super) struct Pacer {
    /// The time between two writes.
    interval: Duration,
    next: Instant,
    window: usize,
    /// Acknowledgements since the window last grew.
    acknowledged: usize,
    last_cut: Instant,
    backoff: Backoff,
    failures: u32,
}

impl Pacer {
    /// Creates a pacer of this number of records a second, or without a limit.
    pub(super) fn new(pace: Option<u32>, now: Instant) -> Self {
        let interval = pace.map_or(Duration::ZERO, |pace| Duration::from_secs(1) / pace.max(1));
        let (window, _) = WINDOW;
        let backoff = Backoff::outage();
        Self { interval, next: now, window, acknowledged: 0, last_cut: now, backoff, failures: 0 }
    }

    /// Returns the number of writes that may be in flight.
    pub(super) fn window(&self) -> usize {
        self.window
    }

    /// Returns the number of records that are read ahead: about a second of work.
    pub(super) fn read_ahead(&self) -> usize {
        match self.interval {
            Duration::ZERO => WINDOW.1,
            interval => usize::try_from(Duration::from_secs(1).as_nanos() / interval.as_nanos().max(1))
                .unwrap_or(WINDOW.1)
                .clamp(1, WINDOW.1),
        }
    }

    /// Returns the time when the next write may start.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    pub(super) fn started(&mut self, now: Instant) {
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        self.next = self.next.max(earliest) + self.interval;
    }

    /// Records an acknowledgement of a write that was sent at `sent`.
    pub(super) fn acknowledged(&mut self, sent: Instant, now: Instant) {
        (self.failures, self.backoff) = (0, Backoff::outage());
        if now.saturating_duration_since(sent) > SLOW {
            return self.cut(sent, now);
        }
        self.acknowledged += 1;
        if self.acknowledged >= self.window {
            self.acknowledged = 0;
            self.window = (self.window + self.window / 2 + 1).min(WINDOW.1);
        }
    }

    /// Records a temporary failure, and pauses. Returns whether the job may continue.
    pub(super) fn failed(&mut self, sent: Instant, now: Instant) -> bool {
        // The writes in flight fail together, and count once.
        if sent >= self.last_cut {
            self.failures += 1;
            self.next = self.next.max(now + self.backoff.next());
        }
        self.cut(sent, now);
        self.failures < MAX_FAILURES
    }

    /// Halves the window, once for all writes that were in flight together.
    fn cut(&mut self, sent: Instant, now: Instant) {
        if sent >= self.last_cut {
            (self.window, self.acknowledged, self.last_cut) = ((self.window / 2).max(1), 0, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn pace_limits_the_records_of_a_second() {
        let start = Instant::now();
        let mut pacer = Pacer::new(Some(1_000), start);
        let (mut now, mut started) = (start, 0);
        while now < start + Duration::from_secs(1) {
            while pacer.next() <= now {
                pacer.started(now);
                started += 1;
            }
            now += 7 * MS;
        }
        assert!((990..=1_012).contains(&started), "{started}");
    }

    #[tokio::test(start_paused = true)]
    async fn slow_acknowledgements_halve_the_window_once() {
        let start = Instant::now();
        let mut pacer = Pacer::new(None, start);
        for _ in 0..10_000 {
            pacer.acknowledged(start, start + MS);
        }
        assert_eq!(pacer.window(), WINDOW.1);
        let late = start + 2 * SLOW;
        (0..100).for_each(|_| pacer.acknowledged(start, late));
        assert_eq!(pacer.window(), WINDOW.1 / 2);
        pacer.acknowledged(late, late + 2 * SLOW);
        assert_eq!(pacer.window(), WINDOW.1 / 4);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_end_the_job() {
        let start = Instant::now();
        let mut pacer = Pacer::new(None, start);
        // Writes that are in flight together fail together.
        assert!((0..1_000).all(|_| pacer.failed(start, start + MS)));
        assert_eq!(pacer.window(), WINDOW.0 / 2);
        pacer.acknowledged(start, start + 2 * MS);
        assert!((3..MAX_FAILURES + 2).all(|at| pacer.failed(start + at * MS, start + at * MS)));
        let last = start + MAX_FAILURES * 2 * MS;
        assert!(!pacer.failed(last, last));
        assert!(pacer.window() >= 1 && pacer.next() > start);
    }
}
