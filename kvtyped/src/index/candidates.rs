//! The entries of a lookup: the positions where a record may be.

use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};

use super::order::Position;
use crate::backend::{KeySpace, ListKeysRequest, RawBucket};
use crate::error::Result;
use crate::model::KvModel;
use crate::model::index::{Lookup, Many, parse_claim, parse_entry};

/// The number of patterns that are listed at once.
const CONCURRENCY: usize = 8;

/// The entries of a lookup, in the order of the results.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    positions: Vec<Position>,
    is_descending: bool,
    /// The number of positions that were taken.
    taken: usize,
}

impl Candidates {
    /// Lists the entries of a lookup at the leader.
    pub(super) async fn list<T: KvModel>(
        raw: &dyn RawBucket,
        lookup: &Lookup<T, Many>,
        idle_timeout: Duration,
    ) -> Result<Self> {
        let mut positions = Vec::new();
        if let Some(info) = lookup.info() {
            let pages = lookup.patterns().into_iter().map(|pattern| {
                let request = ListKeysRequest { space: KeySpace::Index, pattern, idle_timeout };
                raw.list_keys(request).try_concat()
            });
            let mut pages = stream::iter(pages).buffer_unordered(CONCURRENCY);
            let model = T::SCHEMA.name;
            while let Some(page) = pages.try_next().await? {
                let position = |key: &crate::key::Key| {
                    let (value, key) = match info.is_unique() {
                        true => (parse_claim(model, info, key.as_str())?, ""),
                        false => parse_entry(model, info, key.as_str())?,
                    };
                    let position = || Position { value: value.to_owned(), key: key.to_owned() };
                    lookup.matches_value(value).then(position)
                };
                positions.extend(page.iter().filter_map(position));
            }
        }
        positions.sort_unstable();
        positions.dedup();
        Ok(Self { positions, is_descending: false, taken: 0 })
    }

    /// Reverses the order.
    pub(super) fn descending(mut self) -> Self {
        self.positions.reverse();
        Self { is_descending: true, ..self }
    }

    /// Drops the positions up to this one, inclusive.
    pub(super) fn after(self, position: &Position) -> Self {
        let taken = self.positions.partition_point(|other| !self.is_later(other, position));
        Self { taken, ..self }
    }

    /// Whether a position comes after another one.
    fn is_later(&self, position: &Position, other: &Position) -> bool {
        if self.is_descending { position < other } else { position > other }
    }

    /// Takes the next positions.
    pub(super) fn take(&mut self, count: usize) -> Vec<Position> {
        let begin = self.taken;
        self.taken = (begin + count).min(self.positions.len());
        self.positions.get_mut(begin..self.taken).into_iter().flatten().map(std::mem::take).collect()
    }

    /// Whether a position is still to come.
    pub(super) fn has_left(&self, position: &Position) -> bool {
        let left = self.positions.get(self.taken..).unwrap_or_default();
        let found = match self.is_descending {
            false => left.binary_search(position),
            true => left.binary_search_by(|other| position.cmp(other)),
        };
        found.is_ok()
    }

    /// Whether one record may be at several positions.
    pub(super) fn has_several_values(&self) -> bool {
        let left = self.positions.get(self.taken..).unwrap_or_default();
        left.first().map(|first| &first.value) != left.last().map(|last| &last.value)
    }

    /// Returns the number of positions that were not taken.
    pub(super) fn left(&self) -> usize {
        self.positions.len() - self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(value: &str, key: &str) -> Position {
        Position { value: value.to_owned(), key: key.to_owned() }
    }

    fn candidates() -> Candidates {
        let positions =
            [("a", "1"), ("a", "2"), ("b", "1"), ("c", "9")].map(|(value, key)| position(value, key)).to_vec();
        Candidates { positions, is_descending: false, taken: 0 }
    }

    #[test]
    fn candidates_continue_after_a_position() {
        let mut after = candidates().after(&position("a", "2"));
        assert_eq!((after.left(), after.has_several_values()), (2, true));
        assert!(after.has_left(&position("b", "1")) && !after.has_left(&position("a", "2")));
        assert_eq!(after.take(1), [position("b", "1")]);
        assert!(!after.has_left(&position("b", "1")) && after.has_left(&position("c", "9")));
        assert_eq!(after.take(5), [position("c", "9")]);
        assert_eq!(after.take(5), []);
        // The position itself need not be there.
        assert_eq!(candidates().after(&position("a", "1.5")).left(), 3);
    }

    #[test]
    fn candidates_continue_backwards() {
        let mut after = candidates().descending().after(&position("b", "5"));
        assert!(after.has_left(&position("b", "1")) && !after.has_left(&position("c", "9")));
        assert_eq!(after.take(2), [position("b", "1"), position("a", "2")]);
        assert_eq!(after.take(2), [position("a", "1")]);
    }
}
