//! The keys that are denied at the moment.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The largest number of keys.
const MAX_KEYS: usize = 10_000;

/// Remembers until when a key is denied. Other requests of the key can only extend the denial, so the answer needs no
/// request to the limiter.
#[derive(Debug, Default)]
pub(super) struct Denials(Mutex<HashMap<String, Instant>>);

impl Denials {
    /// Returns the remaining time of a denial.
    pub(super) fn remaining(&self, key: &str) -> Option<Duration> {
        let mut denials = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = denials.get(key)?.saturating_duration_since(Instant::now());
        if left.is_zero() {
            denials.remove(key);
            return None;
        }
        Some(left)
    }

    /// Remembers a denial. Forgets all others if there are too many that still last.
    pub(super) fn insert(&self, key: String, retry_after: Duration) {
        let now = Instant::now();
        let Some(until) = now.checked_add(retry_after) else { return };
        let mut denials = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if denials.len() >= MAX_KEYS {
            denials.retain(|_, until| *until > now);
        }
        if denials.len() >= MAX_KEYS {
            denials.clear();
        }
        denials.insert(key, until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn denial_ends_in_time() {
        let denials = Denials::default();
        denials.insert("a".to_owned(), Duration::from_secs(2));
        tokio::time::advance(Duration::from_millis(1_999)).await;
        assert_eq!(denials.remaining("a"), Some(Duration::from_millis(1)));
        assert_eq!(denials.remaining("b"), None);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(denials.remaining("a"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn number_of_denials_is_bounded() {
        let denials = Denials::default();
        for number in 0..3 * MAX_KEYS {
            denials.insert(number.to_string(), Duration::from_secs(60));
            assert!(denials.0.lock().unwrap().len() <= MAX_KEYS);
        }
        assert!(denials.remaining(&(3 * MAX_KEYS - 1).to_string()).is_some());
    }
}
