//! Filters on the records of a model.

use std::fmt;
use std::marker::PhantomData;
use std::ops::RangeFull;

use super::{KvModel, RawRecord};
use crate::key::{Key, KeyError, ModelKey, Pattern, Patterns};

/// A set of records of a model, selected by their keys.
///
/// Functions with a filter take `impl Into<Filter<T>>`. `..` selects every record of the model, and a key selects its
/// record. The filter type that the derive generates is a wildcard. A `Vec` of these is their union.
///
/// ```
/// use kvtyped::prelude::*;
/// use kvtyped::Filter;
///
/// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
/// # #[kv(key = "{tenant}.{id}")]
/// # struct Session { tenant: String, id: u64 }
/// let all: Filter<Session> = (..).into();
/// let acme: Filter<Session> = SessionKey::filter().tenant("acme").into();
/// let one: Filter<Session> = SessionKey::new("acme", 7).into();
/// let two: Filter<Session> = vec![SessionKey::new("acme", 7), SessionKey::new("beta", 1)].into();
/// let filters = [all, acme, one, two].map(|filter| filter.to_string());
/// assert_eq!(filters, ["*.*", "acme.*", "acme.7", "acme.7 | beta.1"]);
/// ```
///
/// A union of thousands of keys matches as fast as one key. A request to a server names at most 512 keys or wildcards.
/// For more, the request uses wider wildcards ([`Pattern::disjoint`]), and the client drops the records that do not
/// match. A user with [restricted](crate::permissions) permissions needs to read the single wildcard that covers the
/// union.
///
/// So `list`, `keys` and `count` of more than 512 single keys can read every record that this wildcard matches.
/// `get_many` reads only the keys that it is given.
///
/// An empty union matches nothing, and so does a union of keys that are too long: `list` and `keys` yield nothing, and
/// `count` returns zero. `watch` and `cache` refuse such a filter (`InvalidConfig`), because they would wait forever.
pub struct Filter<T> {
    patterns: Patterns,
    model: PhantomData<fn() -> T>,
}

impl<T: KvModel> Filter<T> {
    /// Selects the keys that match this pattern.
    ///
    /// A key that matches the pattern but is not a key of the model yields an error in the results.
    pub fn pattern(pattern: Pattern) -> Self {
        // A pattern longer than a key matches nothing. A server would close the connection over such a request.
        Self::of((pattern.to_string().len() <= Key::MAX_BYTES).then_some(pattern))
    }

    /// Selects exactly this key.
    pub fn key(key: &T::Key) -> Self {
        // A key that is too long to exist matches nothing.
        Self::of(key.encode().ok().map(|key| Pattern::exact(&key)))
    }

    fn of(patterns: impl IntoIterator<Item = Pattern>) -> Self {
        Self { patterns: patterns.into_iter().collect(), model: PhantomData }
    }

    /// Returns the patterns. A key is in the filter if it matches one of them.
    pub fn patterns(&self) -> &Patterns {
        &self.patterns
    }

    /// Whether this key is in the filter.
    pub fn matches(&self, key: &T::Key) -> bool {
        key.encode().is_ok_and(|key| self.patterns.matches(key.as_str()))
    }
}

impl Filter<RawRecord> {
    /// Selects the keys that match a subject filter: segments, `*` for any one segment, and `>` at the end for one or
    /// more segments.
    ///
    /// A filter that begins with a wildcard does not match the [reserved](Key::RESERVED) keys. A filter that begins
    /// with the reserved segment does.
    ///
    /// ```
    /// # use kvtyped::{Filter, RawRecord};
    /// let filter = Filter::<RawRecord>::subject("acme.*.>")?;
    /// assert_eq!(filter.to_string(), "acme.*.>");
    /// assert!(Filter::<RawRecord>::subject("acme.>.x").is_err());
    /// # Ok::<(), kvtyped::key::KeyError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns a [`KeyError`] with the first violation: an empty segment, a character that no key has, or a wildcard
    /// that is not a whole segment. A `>` before the end is an illegal character.
    pub fn subject(filter: &str) -> Result<Self, KeyError> {
        Ok(Self::of([Pattern::parse(filter)?]))
    }

    /// Returns a filter that also selects the reserved keys that the wildcards exclude.
    pub(crate) fn with_reserved(self) -> Self {
        let patterns = self.patterns.into_vec();
        let reserved: Vec<_> = patterns.iter().flat_map(Pattern::of_reserved).collect();
        Self::of(patterns.into_iter().chain(reserved))
    }
}

impl<T: KvModel> From<RangeFull> for Filter<T> {
    fn from(_: RangeFull) -> Self {
        Self::pattern(T::Key::pattern())
    }
}

impl<T: KvModel, F: Into<Self>> From<Vec<F>> for Filter<T> {
    fn from(filters: Vec<F>) -> Self {
        Self::of(filters.into_iter().flat_map(|filter| filter.into().patterns.into_vec()))
    }
}

impl<T> Clone for Filter<T> {
    fn clone(&self) -> Self {
        Self { patterns: self.patterns.clone(), model: PhantomData }
    }
}

impl<T> fmt::Debug for Filter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({self})")
    }
}

impl<T> fmt::Display for Filter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, pattern) in self.patterns.iter().enumerate() {
            if index > 0 {
                f.write_str(" | ")?;
            }
            write!(f, "{pattern}")?;
        }
        Ok(())
    }
}
