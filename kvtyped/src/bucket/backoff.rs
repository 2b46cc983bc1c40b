//! The one way to wait before trying again.

use std::time::Duration;

/// Full jitter: each wait is anything from nothing to a ceiling that doubles.
///
/// Writers that met once do not meet again in step. The first retry does not wait at all: most conflicts are between
/// two, and one of them has just finished.
#[derive(Debug)]
pub(super) struct Backoff {
    retries: u32,
}

impl Backoff {
    const BASE: Duration = Duration::from_millis(2);
    const CEILING: Duration = Duration::from_millis(128);

    pub(super) fn new() -> Self {
        Self { retries: 0 }
    }

    /// The next wait.
    pub(super) fn next(&mut self) -> Duration {
        let ceiling = match self.retries {
            0 => Duration::ZERO,
            retries => Self::BASE.saturating_mul(1 << retries.min(10)).min(Self::CEILING),
        };
        self.retries += 1;
        ceiling.mul_f64(rand::random::<f64>())
    }
}

#[cfg(test)]
mod tests {
    use super::Backoff;
    use std::time::Duration;

    #[test]
    fn the_first_retry_does_not_wait_and_no_wait_passes_the_ceiling() {
        let mut backoff = Backoff::new();
        assert_eq!(backoff.next(), Duration::ZERO);
        assert!((0..1000).all(|_| backoff.next() <= Backoff::CEILING));
    }
}
