//! The order of the results of a lookup: by value, then by key.
//!
//! Escaping does not keep the order of texts, so the subjects of a server are sorted again.

use std::borrow::Cow;
use std::cmp::Ordering;

use crate::key::unescape;

/// The position of a record in the results of a lookup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Position {
    /// The escaped value.
    pub(super) value: String,
    /// The escaped key of the record. Empty for a unique value, which has one record.
    pub(super) key: String,
}

/// A segment in its order: numbers by size, and then texts.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Segment<'a> {
    Number(i128),
    Text(Cow<'a, str>),
}

fn read(segment: &str) -> Segment<'_> {
    match segment.parse() {
        Ok(number) if !segment.starts_with('+') => Segment::Number(number),
        _ => Segment::Text(unescape(segment).unwrap_or(Cow::Borrowed(segment))),
    }
}

fn compare(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a.split('.'), b.split('.'));
    loop {
        return match (left.next(), right.next()) {
            (Some(left), Some(right)) => match left == right {
                true => continue,
                false => match read(left).cmp(&read(right)) {
                    // Two texts may be one number, such as `7` and `07`.
                    Ordering::Equal => continue,
                    order => order,
                },
            },
            (None, None) => a.cmp(b),
            (left, right) => left.is_some().cmp(&right.is_some()),
        };
    }
}

impl Ord for Position {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_value = if self.value == other.value { Ordering::Equal } else { compare(&self.value, &other.value) };
        by_value.then_with(|| compare(&self.key, &other.key))
    }
}

impl PartialOrd for Position {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_ordered_by_value_and_key() {
        let sorted = [
            ("-3", "a"),
            ("7", "9"),
            ("7", "10"),
            ("07", "1"),
            ("2026.9.30", "a"),
            ("2026.11.2", "a"),
            ("2026.11.2", "b"),
            ("a=20b", "1"),
            ("a-b", "1"),
            ("ab", "1"),
            ("b", "1"),
        ];
        let sorted = sorted.map(|(value, key)| Position { value: value.into(), key: key.into() });
        let mut positions = sorted.to_vec();
        positions.reverse();
        positions.sort();
        assert!(positions.is_sorted() && positions.first() == sorted.first() && positions.last() == sorted.last());
        let at = |value: &str, key: &str| positions.iter().position(|p| p.value == value && p.key == key);
        assert!(at("7", "9") < at("7", "10"), "numbers by size");
        assert!(at("2026.9.30", "a") < at("2026.11.2", "a"), "segment by segment");
        assert!(at("a=20b", "1") < at("a-b", "1"), "a space before a hyphen, as in the text");
    }
}
