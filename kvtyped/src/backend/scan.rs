//! A scan, as data: its request and its items.

use std::time::Duration;

use super::RawEntry;
use crate::key::Patterns;
use crate::revision::Revision;

/// The request of a scan.
#[derive(Debug, Clone)]
pub struct ScanRequest {
    /// Selects the keys that match one of these patterns.
    pub patterns: Patterns,
    /// Returns every kept entry of a key instead of the newest one.
    pub history: bool,
    /// Omits the values.
    pub headers_only: bool,
    /// Returns only entries with a later revision.
    pub after: Revision,
    /// The number of entries that the reader will take, if known. A hint, so that the backend fetches no more than
    /// needed.
    pub limit: Option<usize>,
    /// The idle timeout: the longest time without progress.
    pub idle_timeout: Duration,
}

/// An item of a scan.
#[derive(Debug, Clone, PartialEq)]
pub struct ScanItem {
    /// The entry.
    pub entry: RawEntry,
    /// The number of entries that follow, as far as the backend knows. Too high if the server cannot filter by one of
    /// the patterns.
    pub pending: u64,
}
