//! Revisions.

use std::fmt;

/// The number that a bucket gives to a write: it grows over the whole bucket, so two revisions tell which write came
/// later, whatever their keys. Gaps are normal.
///
/// A revision is a plain number. A revision that was stored elsewhere, or sent to another process, keeps its meaning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(u64);

impl Revision {
    /// The revision before the first: of a key under which nothing is stored.
    pub const ZERO: Self = Self::new(0);

    /// The revision with this number, as another client told it.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
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
