//! The backoff of all retries.

use std::time::Duration;

use super::Deadline;

/// Full jitter: each wait is a random duration between zero and a ceiling that doubles, so that colliding callers do
/// not collide again in step.
#[derive(Debug, Clone)]
pub struct Backoff {
    /// How many of the next retries do not wait.
    free: u32,
    ceiling: Duration,
    highest: Duration,
}

impl Backoff {
    /// How many retries of competing writers do not wait.
    const FREE: u32 = 16;

    /// The backoff between writers that compete for a record. Each of them reads the record again after a conflict.
    ///
    /// The first retries do not wait. An attempt takes a fraction of a millisecond, and the timer counts milliseconds. A
    /// writer that waits makes fewer attempts than its rivals, and loses against them.
    pub fn contention() -> Self {
        Self { free: Self::FREE, ..Self::doubling(1, 16) }
    }

    /// The backoff between competing batches. Only the first retry does not wait: a refused batch costs a server as much
    /// as an applied one, and delays the batches after it.
    pub fn contention_of_batches() -> Self {
        Self { free: 1, ..Self::contention() }
    }

    /// The backoff for a server that must finish other work first. The first retry does not wait.
    pub fn congestion() -> Self {
        Self { free: 1, ..Self::doubling(4, 128) }
    }

    /// The backoff during an outage.
    pub fn outage() -> Self {
        Self::doubling(8, 500)
    }

    /// Creates a backoff with these ceilings in milliseconds.
    fn doubling(first: u64, highest: u64) -> Self {
        Self { free: 0, ceiling: Duration::from_millis(first), highest: Duration::from_millis(highest) }
    }

    /// Returns the next wait.
    #[expect(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> Duration {
        if let Some(left) = self.free.checked_sub(1) {
            self.free = left;
            return Duration::ZERO;
        }
        let next = (2 * self.ceiling).min(self.highest);
        let ceiling = std::mem::replace(&mut self.ceiling, next);
        crate::jitter::uniform_duration(ceiling)
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
        !deadline.is_expired()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> [Backoff; 4] {
        [Backoff::contention(), Backoff::contention_of_batches(), Backoff::congestion(), Backoff::outage()]
    }

    #[test]
    fn no_wait_passes_the_ceiling() {
        for mut backoff in all() {
            let highest = backoff.highest;
            assert!((0..1_000).all(|_| backoff.next() <= highest));
        }
    }

    #[test]
    fn the_first_retries_of_competing_writers_do_not_wait() {
        let waits = |mut backoff: Backoff| (0..1_000).map(move |_| backoff.next());
        let free = |backoff| waits(backoff).take_while(Duration::is_zero).count();
        assert_eq!(all().map(free), [16, 1, 1, 0]);
        let longest = |backoff| waits(backoff).max();
        assert!(longest(Backoff::contention()) > Some(Duration::from_millis(12)));
    }

    #[test]
    fn the_ceiling_doubles() {
        let mut backoff = Backoff::outage();
        let ceilings = [(); 8].map(|()| (backoff.ceiling, backoff.next()).0.as_millis());
        assert_eq!(ceilings, [8, 16, 32, 64, 128, 256, 500, 500]);
    }
}
