//! The backoff of all retries.

use std::time::Duration;

use super::Deadline;

/// Full jitter: each wait is a random duration between zero and a ceiling that doubles, so that colliding callers do
/// not collide again in step.
#[derive(Debug, Clone)]
pub struct Backoff {
    ceiling: Duration,
    next: Duration,
    highest: Duration,
}

impl Backoff {
    /// The backoff between competing writers. The first retry does not wait: most conflicts are between two writers,
    /// and one of them has just finished.
    pub fn contention() -> Self {
        Self { ceiling: Duration::ZERO, next: Duration::from_millis(4), highest: Duration::from_millis(128) }
    }

    /// The backoff during an outage.
    pub fn outage() -> Self {
        let first = Duration::from_millis(8);
        Self { ceiling: first, next: 2 * first, highest: Duration::from_millis(500) }
    }

    /// Returns the next wait.
    #[expect(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> Duration {
        let ceiling = std::mem::replace(&mut self.ceiling, self.next);
        self.next = (2 * self.next).min(self.highest);
        crate::chance::up_to(ceiling)
    }

    /// Waits. Returns whether any time is left before the deadline.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the wait still counts, and the next one is longer.
    pub async fn pause(&mut self, deadline: Deadline) -> bool {
        let wait = self.next().min(deadline.remaining());
        // The timer counts milliseconds: a sleep of zero takes up to two of them.
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        !deadline.has_passed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_wait_passes_the_ceiling() {
        for mut backoff in [Backoff::contention(), Backoff::outage()] {
            let highest = backoff.highest;
            assert!((0..1_000).all(|_| backoff.next() <= highest));
        }
    }

    #[test]
    fn the_first_retry_of_competing_writers_does_not_wait() {
        assert_eq!(Backoff::contention().next(), Duration::ZERO);
    }
}
