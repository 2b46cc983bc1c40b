//! The two key spaces of a bucket, and a listing of keys, as data.

use std::time::Duration;

use crate::error::Error;
use crate::key::{Key, Pattern};

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

impl KeySpace {
    /// Adds a key to an error. The key of an index entry contains a value, so no error names it.
    pub(crate) fn name_key(self, error: Error, key: &Key) -> Error {
        match self {
            Self::Records => error.with_key(key.as_str()),
            Self::Index => error,
        }
    }

    /// Returns a key for a message. The key of an index entry is not shown.
    pub(super) fn describe(self, key: &Key) -> String {
        match self {
            Self::Records => format!("`{key}`"),
            Self::Index => "an index entry".to_owned(),
        }
    }
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
