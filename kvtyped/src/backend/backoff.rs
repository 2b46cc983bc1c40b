//! The one way to wait before trying again.

use std::time::Duration;

use super::Deadline;

/// Full jitter: each wait is anything from nothing to a ceiling that doubles, so that those who met once do not meet
/// again in step.
#[derive(Debug, Clone)]
pub struct Backoff {
    ceiling: Duration,
    next: Duration,
    highest: Duration,
}

impl Backoff {
    /// Between writers that compete. The first retry does not wait at all: most conflicts are between two, and one of
    /// them has just finished.
    pub fn contention() -> Self {
        Self { ceiling: Duration::ZERO, next: Duration::from_millis(4), highest: Duration::from_millis(128) }
    }

    /// Until something is there again.
    pub fn outage() -> Self {
        let first = Duration::from_millis(8);
        Self { ceiling: first, next: 2 * first, highest: Duration::from_millis(500) }
    }

    /// The next wait.
    #[expect(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> Duration {
        let ceiling = std::mem::replace(&mut self.ceiling, self.next);
        self.next = (2 * self.next).min(self.highest);
        crate::chance::up_to(ceiling)
    }

    /// Waits; tells whether there is time left.
    ///
    /// # Cancel safety
    ///
    /// Dropping it counts as a wait: the next is longer.
    pub async fn pause(&mut self, deadline: Deadline) -> bool {
        let wait = self.next().min(deadline.remaining());
        // The timer counts milliseconds: a sleep of nothing is one of two of them.
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
