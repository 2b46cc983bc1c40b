//! The two key spaces of a bucket, and a listing of keys, as data.

use std::time::Duration;

use crate::key::Pattern;

/// A key space of a bucket. The same key in two spaces names two different entries. Both spaces share the revisions and
/// the limits of the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum KeySpace {
    /// The records.
    #[default]
    Records,
    /// The entries of indexes, in a bucket with [`index_entries`](crate::config::BucketConfig::index_entries). No scan,
    /// watch or other client sees them.
    Index,
}

/// The request of a listing of keys.
#[derive(Debug, Clone)]
pub struct ListKeysRequest {
    /// The key space.
    pub space: KeySpace,
    /// Selects the keys.
    pub pattern: Pattern,
    /// The idle timeout: the longest time without a page.
    pub idle_timeout: Duration,
}
