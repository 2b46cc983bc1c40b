//! Revisions.

use std::fmt;

/// The number that a bucket assigns to a write. Revisions increase across all keys of the bucket, so they order any two
/// writes. Gaps are normal.
///
/// A revision is a plain number. A revision that was stored elsewhere, or sent to another process, keeps its meaning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(u64);

impl Revision {
    /// The revision before the first one. As an expected revision, it means that the key has no entry.
    pub const ZERO: Self = Self::new(0);

    /// Creates a revision from its number, for example from the number that another client reported.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<u64> for Revision {
    fn from(number: u64) -> Self {
        Self::new(number)
    }
}

impl From<Revision> for u64 {
    fn from(revision: Revision) -> Self {
        revision.0
    }
}
