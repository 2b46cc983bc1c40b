//! Patterns over keys: the parts of a filter, and the subject filters of a request.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fmt;

use super::escape::{SegmentWriter, escape};
use super::{Key, KeyError, KeySegment, is_legal};

/// The limits on the subject filters of a consumer: their number and the size of their text. A server needs 100 ms to
/// compare 1,000 filters with each other, and four times as long for twice as many.
const MAX_FILTERS: usize = 512;
const MAX_FILTER_BYTES: usize = 64 * 1024;

/// One segment of a [`Pattern`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Token {
    /// Exactly this escaped segment.
    Literal(String),
    /// Any segment with this prefix and suffix. If both are empty, any segment.
    Any {
        /// The prefix of the segment.
        prefix: String,
        /// The suffix of the segment.
        suffix: String,
    },
}

impl Token {
    fn any() -> Self {
        Self::Any { prefix: String::new(), suffix: String::new() }
    }

    /// A literal. A text that is not a legal segment becomes a segment that no key has, so it is never a wildcard.
    fn literal(text: String) -> Self {
        let is_segment = !text.contains('.') && is_legal(text.as_bytes());
        // No key contains `==` unless a template does: an escape never begins with a second `=`.
        Self::Literal(if is_segment { text } else { format!("=={}", escape(&text)) })
    }

    pub(super) fn matches(&self, segment: &str) -> bool {
        match self {
            Self::Literal(text) => segment == text,
            Self::Any { prefix, suffix } => {
                segment.len() > prefix.len() + suffix.len() && between(segment, prefix, suffix).is_some()
            }
        }
    }

    fn is_wild(&self) -> bool {
        matches!(self, Self::Any { .. })
    }
}

/// A set of keys. Each segment is fixed or open, and so is the end.
///
/// A pattern is built from typed values, not from untrusted text, so no value can widen it. It displays as the subject
/// filter for the server. That filter may match more keys than the pattern, because a server has no half-open segments.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Pattern {
    tokens: Vec<Token>,
    tail: bool,
}

impl Pattern {
    /// Creates an empty pattern. Append segments to it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Matches every key of a bucket, except the [reserved](Key::RESERVED) keys.
    pub fn all() -> Self {
        Self { tokens: Vec::new(), tail: true }
    }

    /// Matches every [reserved](Key::RESERVED) key of a bucket.
    pub fn reserved() -> Self {
        Self { tail: true, ..Self::new().literal(Key::RESERVED) }
    }

    /// Parses a subject filter: segments, `*` for any one segment, and `>` at the end.
    pub(crate) fn parse(filter: &str) -> Result<Self, KeyError> {
        let (segments, tail) = match filter.strip_suffix('>') {
            Some("") => return Ok(Self::all()),
            Some(rest) if rest.ends_with('.') => (&rest[..rest.len() - 1], true),
            _ => (filter, false),
        };
        // A wildcard is as long as a plain character, so the positions in an error are right.
        let is_wild = |segment: &str| segment == "*";
        let plain = segments.split('.').map(|segment| if is_wild(segment) { "-" } else { segment });
        Key::new(plain.collect::<Vec<_>>().join("."))?;
        let token = |segment: &str| if is_wild(segment) { Token::any() } else { Token::Literal(segment.to_owned()) };
        Ok(Self { tokens: segments.split('.').map(token).collect(), tail })
    }

    /// Returns the patterns of the [reserved](Key::RESERVED) keys that this pattern would match without its exception.
    pub(crate) fn of_reserved(&self) -> Vec<Self> {
        let reserved = Token::Literal(Key::RESERVED.to_owned());
        match self.tokens.split_first() {
            None if self.tail => {
                let alone = Self { tokens: vec![reserved], tail: false };
                vec![alone, Self::reserved()]
            }
            Some((first, rest)) if first.is_wild() && first.matches(Key::RESERVED) => {
                vec![Self { tokens: [&[reserved], rest].concat(), tail: self.tail }]
            }
            _ => Vec::new(),
        }
    }

    /// Matches exactly this key.
    pub fn exact(key: &Key) -> Self {
        Self { tokens: key.segments().map(|segment| Token::Literal(segment.to_owned())).collect(), tail: false }
    }

    /// Appends a literal segment of a template: `[-/_=a-zA-Z0-9]+`. Any other text, such as a wildcard or a text with a
    /// dot, matches no key.
    #[must_use]
    pub fn literal(mut self, text: &str) -> Self {
        self.tokens.push(Token::literal(text.to_owned()));
        self
    }

    /// Appends a segment with a field between two literals: this value, or any value for `None`.
    #[must_use]
    pub fn segment<S: KeySegment>(mut self, value: Option<&S>, prefix: &str, suffix: &str) -> Self {
        self.tokens.push(match value {
            Some(value) => {
                let mut text = prefix.to_owned();
                let mut segment = SegmentWriter::new(&mut text);
                // As in a key, writing into a segment cannot fail.
                let _ = value.write_segment(&mut segment);
                segment.finish();
                text.push_str(suffix);
                Token::literal(text)
            }
            None => Token::Any { prefix: prefix.to_owned(), suffix: suffix.to_owned() },
        });
        self
    }

    /// Appends the field that takes the rest of the key: this value, or any one or more segments for `None`.
    #[must_use]
    pub fn rest<S: KeySegment>(mut self, value: Option<&S>) -> Self {
        let Some(value) = value else { return self.open() };
        let mut text = String::new();
        let mut segments = SegmentWriter::splitting(&mut text);
        // As in a key, writing into a segment cannot fail.
        let _ = value.write_segment(&mut segments);
        segments.finish();
        self.tokens.extend(text.split('.').map(|segment| Token::Literal(segment.to_owned())));
        self
    }

    /// Matches every key that begins with the segments of this pattern and has at least one more.
    #[must_use]
    pub fn open(self) -> Self {
        Self { tail: true, ..self }
    }

    /// Appends a wildcard for one segment.
    pub(crate) fn any(mut self) -> Self {
        self.tokens.push(Token::any());
        self
    }

    /// Whether a key may have more segments than the pattern.
    pub(crate) fn is_open(&self) -> bool {
        self.tail
    }

    /// Returns the text that every matching key begins with. It ends with a dot if more segments follow.
    pub(crate) fn literal_prefix(&self) -> String {
        let mut prefix = String::new();
        for token in &self.tokens {
            match token {
                Token::Literal(segment) => {
                    prefix.push_str(segment);
                    prefix.push('.');
                }
                Token::Any { prefix: begin, .. } => {
                    prefix.push_str(begin);
                    return prefix;
                }
            }
        }
        if !self.is_open() {
            // The last segment ends the key.
            prefix.pop();
        }
        prefix
    }

    /// Returns the segments.
    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// Whether the pattern matches every longer key that begins with its segments.
    pub(super) fn is_tail(&self) -> bool {
        self.tail
    }

    /// Whether this key is in the set. A pattern with an open first segment does not match the
    /// [reserved](Key::RESERVED) keys.
    pub fn matches(&self, key: &str) -> bool {
        let mut segments = key.split('.');
        if self.tokens.first().is_none_or(Token::is_wild) && segments.clone().next() == Some(Key::RESERVED) {
            return false;
        }
        for token in &self.tokens {
            match segments.next() {
                Some(segment) if token.matches(segment) => {}
                _ => return false,
            }
        }
        self.tail == segments.next().is_some()
    }

    /// Returns the key if the pattern matches exactly one.
    pub fn as_exact(&self) -> Option<String> {
        self.is_exact().then(|| self.to_string())
    }

    /// Whether the pattern matches exactly one key.
    pub(crate) fn is_exact(&self) -> bool {
        !self.tail && !self.tokens.iter().any(Token::is_wild)
    }

    /// Whether the subject filter of `self` matches every subject that the one of `other` matches.
    pub fn covers(&self, other: &Self) -> bool {
        let enough = if self.tail {
            other.tokens.len() + usize::from(other.tail) > self.tokens.len()
        } else {
            !other.tail && other.tokens.len() == self.tokens.len()
        };
        enough && self.tokens.iter().zip(&other.tokens).all(|(mine, theirs)| mine.is_wild() || mine == theirs)
    }

    /// Whether the subject filters of both match a common subject.
    pub fn overlaps(&self, other: &Self) -> bool {
        let (short, long) = if self.tokens.len() <= other.tokens.len() { (self, other) } else { (other, self) };
        let lengths = if short.tokens.len() == long.tokens.len() { short.tail == long.tail } else { short.tail };
        lengths && short.tokens.iter().zip(&long.tokens).all(|(a, b)| a.is_wild() || b.is_wild() || a == b)
    }

    /// Returns the pattern that matches the same keys as the subject filter.
    fn widen(&self) -> Self {
        let widen = |token: &Token| if token.is_wild() { Token::any() } else { token.clone() };
        Self { tokens: self.tokens.iter().map(widen).collect(), tail: self.tail }
    }

    /// Returns a pattern whose subject filter matches every key that either pattern matches.
    pub(crate) fn join(&self, other: &Self) -> Self {
        let tokens = self.tokens.iter().zip(&other.tokens);
        let tokens = tokens.map(|(a, b)| if a == b { a.clone() } else { Token::any() }).collect::<Vec<_>>();
        let same_length = self.tokens.len() == other.tokens.len() && self.tail == other.tail;
        let mut joined = Self { tokens, tail: self.tail || !same_length };
        if joined.tail {
            // `>` needs at least one more segment: drop the last one that the shorter pattern may end with.
            let least = |pattern: &Self| pattern.tokens.len() + usize::from(pattern.tail);
            joined.tokens.truncate(least(self).min(least(other)).saturating_sub(1));
        }
        joined
    }

    /// Returns patterns whose subject filters do not overlap, and that together match at least every key that
    /// `patterns` match.
    ///
    /// A server refuses a consumer whose filters overlap (10138). Request these patterns, and drop the keys that none
    /// of `patterns` [`matches`](Self::matches). There are at most 512 patterns, with at most 64 KiB of text, because a
    /// server compares all filters with each other. If there are more, wider patterns replace them.
    pub fn disjoint(patterns: &[Self]) -> Vec<Self> {
        let mut distinct: Vec<_> = patterns.iter().map(Self::widen).collect();
        retain_distinct(&mut distinct);
        let few = Self::few(distinct);
        if few.iter().all(Self::is_exact) {
            return few;
        }
        let mut disjoint: Vec<Self> = Vec::new();
        for mut pattern in few {
            while let Some(at) = disjoint.iter().position(|other| other.overlaps(&pattern)) {
                let other = disjoint.swap_remove(at);
                pattern = if other.covers(&pattern) {
                    other
                } else if pattern.covers(&other) {
                    pattern
                } else {
                    pattern.join(&other)
                };
            }
            disjoint.push(pattern);
        }
        disjoint
    }

    /// Joins patterns that begin with the same literals until they are within the server limits. It first joins
    /// patterns that differ only in their last segments.
    fn few(mut patterns: Vec<Self>) -> Vec<Self> {
        let length = |pattern: &Self| pattern.tokens.len();
        let mut depth = patterns.iter().map(length).max().unwrap_or_default();
        let text = |token: &Token| if let Token::Literal(text) = token { text.len() + 1 } else { 2 };
        let bytes = |pattern: &Self| pattern.tokens.iter().map(text).sum::<usize>();
        while depth > 0
            && (patterns.len() > MAX_FILTERS || patterns.iter().map(bytes).sum::<usize>() > MAX_FILTER_BYTES)
        {
            depth -= 1;
            let mut joined: Vec<Self> = Vec::new();
            let mut places: HashMap<&[Token], usize> = HashMap::new();
            for pattern in &patterns {
                let literals = pattern.tokens.iter().take(depth).take_while(|token| !token.is_wild()).count();
                match places.entry(&pattern.tokens[..literals]) {
                    Entry::Occupied(at) => {
                        let other = &mut joined[*at.get()];
                        if !other.covers(pattern) {
                            *other = other.join(pattern);
                        }
                    }
                    Entry::Vacant(place) => {
                        place.insert(joined.len());
                        joined.push(pattern.clone());
                    }
                }
            }
            patterns = joined;
        }
        patterns
    }
}

/// The subject filter, without the prefix of the bucket.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, token) in self.tokens.iter().enumerate() {
            if index > 0 {
                f.write_str(".")?;
            }
            match token {
                Token::Literal(text) => f.write_str(text)?,
                Token::Any { .. } => f.write_str("*")?,
            }
        }
        match (self.tail, self.tokens.is_empty()) {
            (true, true) => f.write_str(">"),
            (true, false) => f.write_str(".>"),
            (false, _) => Ok(()),
        }
    }
}

/// Returns the text between a prefix and a suffix.
///
/// Most fields have neither, so an empty literal is not compared. Its pointer dangles, and a `memcmp` with masked loads
/// takes some 80 ns for an unmapped address, even for zero bytes.
pub(super) fn between<'a>(segment: &'a str, prefix: &str, suffix: &str) -> Option<&'a str> {
    let rest = if prefix.is_empty() { segment } else { segment.strip_prefix(prefix)? };
    if suffix.is_empty() { Some(rest) } else { rest.strip_suffix(suffix) }
}

/// Removes every pattern that equals an earlier one.
pub(super) fn retain_distinct(list: &mut Vec<Pattern>) {
    let mut seen = HashSet::with_capacity(list.len());
    let is_first: Vec<_> = list.iter().map(|pattern| seen.insert(pattern)).collect();
    let mut is_first = is_first.into_iter();
    list.retain(|_| is_first.next().unwrap_or(true));
}

#[cfg(test)]
mod tests {
    use super::{Pattern, Token};

    /// Returns every pattern of at most three segments over two literals, with an open end and without.
    fn patterns() -> Vec<Pattern> {
        let tokens = || [Token::Literal("a".to_owned()), Token::Literal("b".to_owned()), Token::any()];
        let mut rows: Vec<Vec<Token>> = vec![Vec::new()];
        let mut from = 0;
        for _ in 0..3 {
            let longer = rows[from..].iter().flat_map(|row| tokens().map(|token| [row.as_slice(), &[token]].concat()));
            let longer = longer.collect::<Vec<_>>();
            from = rows.len();
            rows.extend(longer);
        }
        let open = rows.clone().into_iter().map(|tokens| Pattern { tokens, tail: true });
        let closed = rows.into_iter().skip(1).map(|tokens| Pattern { tokens, tail: false });
        open.chain(closed).collect()
    }

    /// Returns every key of at most four segments over the two literals and another one.
    fn keys() -> Vec<String> {
        let mut keys: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
        let mut from = 0;
        for _ in 0..3 {
            let longer = keys[from..].iter().flat_map(|key| ["a", "b", "c"].map(|end| format!("{key}.{end}")));
            let longer = longer.collect::<Vec<_>>();
            from = keys.len();
            keys.extend(longer);
        }
        keys
    }

    #[test]
    fn invalid_literal_matches_no_key() {
        for text in ["*", ">", "a.b", "a.>", "", "a b", "a\r\nPUB x 0", "é"] {
            let literal = Pattern::new().literal("acme").literal(text);
            let beside = Pattern::new().literal("acme").segment(Some(&"x".to_owned()), text, "");
            for (pattern, is_plain) in [(literal, false), (beside, text.is_empty())] {
                let shown = pattern.to_string();
                let tokens: Vec<_> = shown.split('.').collect();
                assert!(tokens.len() == 2 && !shown.contains(['*', '>', ' ', '\r', '\n']), "{text:?}: {shown:?}");
                for key in ["acme.x", "acme.a.b", "acme.=2A", "acme.=3E", "acme.=_", "acme.ax"] {
                    assert_eq!(pattern.matches(key), is_plain && key == "acme.x", "{text:?} matches {key}");
                }
            }
        }
        assert!(Pattern::new().literal("=kvtyped").literal("a/b").matches("=kvtyped.a/b"), "a plain one stays");
    }

    #[test]
    fn pattern_relations_agree_with_matched_keys() {
        let keys = keys();
        let matched = patterns().into_iter().map(|pattern| {
            let set = keys.iter().map(|key| pattern.matches(key)).collect::<Vec<_>>();
            (pattern, set)
        });
        let matched = matched.collect::<Vec<_>>();
        let both = |a: &[bool], b: &[bool], rule: fn(bool, bool) -> bool| a.iter().zip(b).all(|(a, b)| rule(*a, *b));
        for (a, of_a) in &matched {
            for (b, of_b) in &matched {
                assert_eq!(a.covers(b), both(of_a, of_b, |a, b| a || !b), "{a} covers {b}");
                assert_eq!(a.overlaps(b), !both(of_a, of_b, |a, b| !(a && b)), "{a} overlaps {b}");
                let joined = a.join(b);
                assert!(joined.covers(a) && joined.covers(b), "{a} and {b} join to {joined}");
            }
        }
    }

    #[test]
    fn join_is_as_narrow_as_possible() {
        let pattern = |text: &str| {
            let text = text.strip_suffix('>').map_or((text, false), |text| (text.trim_end_matches('.'), true));
            let token = |text: &str| if text == "*" { Token::any() } else { Token::Literal(text.to_owned()) };
            Pattern { tokens: text.0.split('.').filter(|text| !text.is_empty()).map(token).collect(), tail: text.1 }
        };
        for (a, b, joined) in [
            ("a.b", "a.c", "a.*"),
            ("a.b", "a.b", "a.b"),
            ("a.b.c", "a.b.c.d", "a.b.>"),
            ("a.b", "c.b.d", "*.>"),
            ("a.b.>", "a.b.>", "a.b.>"),
            ("a.b.>", "a.c.>", "a.*.>"),
            ("a.b.>", "a.b.c", "a.b.>"),
            ("a.b.>", "a.b", "a.>"),
            ("a.>", "b", ">"),
        ] {
            assert_eq!(pattern(a).join(&pattern(b)).to_string(), joined, "{a} and {b}");
            assert_eq!(pattern(b).join(&pattern(a)).to_string(), joined, "{b} and {a}");
        }
    }
}
