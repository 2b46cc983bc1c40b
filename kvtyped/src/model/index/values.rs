//! The index values of a record.

use super::{IndexInfo, ValueText};

/// The index values of one record, sorted and without duplicates.
///
/// The default has no values, like an absent record. Its `Debug` output contains the number of the values, and not the
/// values.
#[derive(Clone, Default)]
pub struct IndexValues {
    indexes: &'static [IndexInfo],
    values: Vec<IndexValue>,
}

/// One value of an index.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct IndexValue {
    /// The position of the index in the list of the model.
    pub index: usize,
    /// The escaped segments of the value, separated by dots.
    pub text: String,
}

impl IndexValues {
    /// Creates the values of a model with these indexes.
    pub(super) fn new(indexes: &'static [IndexInfo]) -> Self {
        Self { indexes, values: Vec::new() }
    }

    /// Sorts the values, and removes duplicates.
    pub(super) fn finish(mut self) -> Self {
        self.values.sort_unstable();
        self.values.dedup();
        self
    }

    /// Appends a value of the index at this position. Called from generated code.
    #[doc(hidden)]
    pub fn push(&mut self, index: usize, write: impl FnOnce(&mut ValueText)) {
        if let Some(info) = self.indexes.get(index) {
            self.values.push(IndexValue { index, text: ValueText::build(info, write) });
        }
    }

    /// Returns all values.
    pub fn iter(&self) -> std::slice::Iter<'_, IndexValue> {
        self.values.iter()
    }

    /// Returns the values of the index at this position.
    pub fn of_index(&self, index: usize) -> impl Iterator<Item = &IndexValue> {
        self.values.iter().filter(move |value| value.index == index)
    }

    /// Whether the record has this value.
    pub fn contains(&self, value: &IndexValue) -> bool {
        self.values.binary_search(value).is_ok()
    }

    /// Returns the values that `other` does not have.
    pub fn without<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a IndexValue> {
        self.values.iter().filter(|value| !other.contains(value))
    }

    /// Whether the record has no index value.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

impl PartialEq for IndexValues {
    fn eq(&self, other: &Self) -> bool {
        self.values == other.values
    }
}

impl Eq for IndexValues {}

impl<'a> IntoIterator for &'a IndexValues {
    type Item = &'a IndexValue;
    type IntoIter = std::slice::Iter<'a, IndexValue>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl std::fmt::Debug for IndexValues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IndexValues({} values)", self.values.len())
    }
}

/// Shows the position of the index only.
impl std::fmt::Debug for IndexValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IndexValue").field("index", &self.index).finish_non_exhaustive()
    }
}
