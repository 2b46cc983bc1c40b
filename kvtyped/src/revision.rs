//! Revisions.

use std::fmt;

/// The number that a bucket gives to a write: it grows over the whole bucket, so two revisions tell which write came
/// later, whatever their keys. Gaps are normal.
///
/// Changes of one record that wait for each other in one process are stored by one write
/// ([`modify`](crate::Bucket::modify)). Of these only the last is what is stored; those before it have the same number,
/// come just before it in the order, and an `update` that expects one of them is refused, as if they had been written
/// each for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    number: u64,
    /// Whether it is what was stored, and not a change on the way to it. Compared last.
    stored: bool,
}

impl Revision {
    /// The revision before the first: of a key under which nothing is stored.
    pub const ZERO: Self = Self::new(0);

    /// The revision with this number, as another client told it.
    pub const fn new(number: u64) -> Self {
        Self { number, stored: true }
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.number
    }

    /// A change that was stored with this revision, under others that came after it.
    pub(crate) const fn overtaken(self) -> Self {
        Self { number: self.number, stored: false }
    }

    /// Whether something other was stored under its number.
    pub(crate) const fn is_overtaken(self) -> bool {
        !self.stored
    }
}

impl Default for Revision {
    fn default() -> Self {
        Self::ZERO
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number.fmt(f)
    }
}

impl From<u64> for Revision {
    fn from(number: u64) -> Self {
        Self::new(number)
    }
}

impl From<Revision> for u64 {
    fn from(revision: Revision) -> Self {
        revision.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_overtaken_comes_just_before_what_is_stored() {
        let stored = Revision::new(7);
        assert!(Revision::new(6) < stored.overtaken() && stored.overtaken() < stored);
        assert_eq!((stored.overtaken().get(), stored.overtaken().to_string()), (7, "7".to_owned()));
        assert_eq!(Revision::default(), Revision::ZERO);
    }
}
