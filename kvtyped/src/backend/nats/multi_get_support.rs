//! The support of a bucket for requests for many entries (`multi_last`, ADR-31). Pure state, without I/O.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The number of scans of a filter with too many keys until the next attempt.
const SKIPS: u32 = 100;

/// The number of filters with too many keys that a bucket remembers.
const REMEMBERED: usize = 64;

/// Whether a bucket answers requests for many keys.
#[derive(Debug, Default)]
pub(crate) struct MultiGetSupport {
    /// The epoch of the connection that does not support such requests. Another connection may lead to another server,
    /// with other permissions.
    refused: AtomicU64,
    /// The number of consecutive requests without an answer while reads of single keys were answered.
    silences: AtomicU32,
}

impl MultiGetSupport {
    pub(crate) fn is_refused(&self, epoch: u64) -> bool {
        self.refused.load(Ordering::Relaxed) == epoch
    }

    pub(crate) fn mark_unsupported(&self, epoch: u64) {
        self.refused.store(epoch, Ordering::Relaxed);
    }

    pub(crate) fn mark_supported(&self) {
        self.silences.store(0, Ordering::Relaxed);
    }

    /// Records a request without an answer. On an application's own connection, denials are not reported and show as
    /// silence, so the second silence in a row counts as a refusal.
    pub(crate) fn record_timeout(&self, epoch: u64) {
        if self.silences.fetch_add(1, Ordering::Relaxed) > 0 {
            self.mark_supported();
            self.mark_unsupported(epoch);
        }
    }
}

/// Whether a bucket answers requests for the keys of a filter.
#[derive(Debug, Default)]
pub(crate) struct FilterGetSupport {
    /// The epoch of the last connection without replies.
    refused: AtomicU64,
    /// Filters with too many keys, and how many of their scans make no attempt.
    large: Mutex<VecDeque<(String, u32)>>,
}

impl FilterGetSupport {
    /// Whether a scan of this filter makes no attempt.
    pub(crate) fn should_skip(&self, filter: &str, epoch: u64) -> bool {
        if self.refused.load(Ordering::Relaxed) == epoch {
            return true;
        }
        let mut large = self.large.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(at) = large.iter().position(|(known, _)| known == filter) else { return false };
        if let Some(left) = large[at].1.checked_sub(1) {
            large[at].1 = left;
            return true;
        }
        large.remove(at);
        false
    }

    pub(crate) fn mark_unsupported(&self, epoch: u64) {
        self.refused.store(epoch, Ordering::Relaxed);
    }

    pub(crate) fn record_too_many(&self, filter: &str) {
        let mut large = self.large.lock().unwrap_or_else(PoisonError::into_inner);
        large.retain(|(known, _)| known != filter);
        if large.len() == REMEMBERED {
            large.pop_front();
        }
        large.push_back((filter.to_owned(), SKIPS));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_with_too_many_keys_is_rarely_retried() {
        let support = FilterGetSupport::default();
        let attempts = |scans: u32| (0..scans).filter(|_| !support.should_skip("$KV.b.>", 1)).count();
        assert_eq!(attempts(3), 3);
        support.record_too_many("$KV.b.>");
        assert!(!support.should_skip("$KV.b.acme.>", 1));
        assert_eq!(attempts(100), 0);
        assert_eq!(attempts(3), 3);
        (0..1_000).for_each(|n| support.record_too_many(&format!("$KV.b.{n}.>")));
        assert_eq!(support.large.lock().map(|large| large.len()).ok(), Some(REMEMBERED));
        assert!(support.should_skip("$KV.b.999.>", 1) && !support.should_skip("$KV.b.1.>", 1));
    }

    #[test]
    fn unanswered_request_is_retried_on_new_connection() {
        let support = FilterGetSupport::default();
        support.mark_unsupported(1);
        assert!(support.should_skip("$KV.b.>", 1) && !support.should_skip("$KV.b.>", 2));
    }
}
