//! A set of patterns that matches a key in constant time.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use super::Key;
use super::pattern::Pattern;
use super::pattern::{Token, retain_distinct};

/// The union of some patterns. Clones share it.
///
/// The cost of [`matches`](Self::matches) does not grow with the number of patterns. Exact keys are hashed, and open
/// patterns share a tree of their segments.
#[derive(Clone, Default)]
pub struct Patterns(Arc<Inner>);

#[derive(Default)]
struct Inner {
    list: Vec<Pattern>,
    /// Built by the first `matches`: most filters are a single pattern, and many are never matched.
    index: OnceLock<Index>,
    filters: OnceLock<Vec<Pattern>>,
}

#[derive(Default)]
struct Index {
    exact: HashSet<Box<str>>,
    open: Node,
}

/// A node of the tree: the patterns that continue one sequence of segments.
#[derive(Default)]
struct Node {
    literals: HashMap<String, Node>,
    wild: Vec<(Token, Node)>,
    /// A pattern ends here.
    is_end: bool,
    /// A pattern matches every longer key.
    is_tail: bool,
}

impl Patterns {
    /// Creates the union of these patterns. Duplicates are removed.
    pub fn new(mut list: Vec<Pattern>) -> Self {
        if list.len() > 1 {
            retain_distinct(&mut list);
        }
        Self(Arc::new(Inner { list, ..Inner::default() }))
    }

    /// Whether one of the patterns matches this key.
    pub fn matches(&self, key: &str) -> bool {
        match &*self.0.list {
            [] => false,
            [pattern] => pattern.matches(key),
            list => self.0.index.get_or_init(|| Index::new(list)).matches(key),
        }
    }

    /// Returns the subject filters of [`Pattern::disjoint`] for these patterns.
    pub fn filters(&self) -> &[Pattern] {
        self.0.filters.get_or_init(|| Pattern::disjoint(self))
    }

    /// Returns the patterns, or a copy if they are shared.
    pub(crate) fn into_vec(self) -> Vec<Pattern> {
        Arc::try_unwrap(self.0).map_or_else(|shared| shared.list.clone(), |inner| inner.list)
    }
}

impl Index {
    fn new(list: &[Pattern]) -> Self {
        let mut index = Self::default();
        for pattern in list {
            match pattern.as_exact() {
                Some(key) => drop(index.exact.insert(key.into())),
                None => index.open.insert(pattern),
            }
        }
        index
    }

    fn matches(&self, key: &str) -> bool {
        if self.exact.contains(key) {
            return true;
        }
        let (first, rest) = split(key);
        self.open.matches_literally(first, rest) || first != Key::RESERVED && self.open.matches_openly(first, rest)
    }
}

impl Node {
    fn insert(&mut self, pattern: &Pattern) {
        let mut node = self;
        for token in pattern.tokens() {
            node = match token {
                Token::Literal(text) => node.literals.entry(text.clone()).or_default(),
                Token::Any { .. } => node.wild_child(token),
            };
        }
        if pattern.is_tail() {
            node.is_tail = true;
        } else {
            node.is_end = true;
        }
    }

    fn wild_child(&mut self, token: &Token) -> &mut Self {
        let at = self.wild.iter().position(|(other, _)| other == token).unwrap_or(self.wild.len());
        if at == self.wild.len() {
            self.wild.push((token.clone(), Self::default()));
        }
        &mut self.wild[at].1
    }

    fn matches(&self, rest: Option<&str>) -> bool {
        let Some(rest) = rest else { return self.is_end };
        let (segment, rest) = split(rest);
        self.matches_literally(segment, rest) || self.matches_openly(segment, rest)
    }

    fn matches_literally(&self, segment: &str, rest: Option<&str>) -> bool {
        self.literals.get(segment).is_some_and(|node| node.matches(rest))
    }

    fn matches_openly(&self, segment: &str, rest: Option<&str>) -> bool {
        self.is_tail || self.wild.iter().any(|(token, node)| token.matches(segment) && node.matches(rest))
    }
}

/// Splits a key into its first segment and the rest.
fn split(key: &str) -> (&str, Option<&str>) {
    key.split_once('.').map_or((key, None), |(segment, rest)| (segment, Some(rest)))
}

impl Deref for Patterns {
    type Target = [Pattern];

    fn deref(&self) -> &[Pattern] {
        &self.0.list
    }
}

impl<'a> IntoIterator for &'a Patterns {
    type Item = &'a Pattern;
    type IntoIter = std::slice::Iter<'a, Pattern>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl From<Vec<Pattern>> for Patterns {
    fn from(list: Vec<Pattern>) -> Self {
        Self::new(list)
    }
}

impl FromIterator<Pattern> for Patterns {
    fn from_iter<I: IntoIterator<Item = Pattern>>(list: I) -> Self {
        Self::new(list.into_iter().collect())
    }
}

impl PartialEq for Patterns {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl fmt::Debug for Patterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
