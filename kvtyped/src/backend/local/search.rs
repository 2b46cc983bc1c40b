//! A search in the index of keys.

use std::collections::VecDeque;
use std::ops::Bound;

use crate::backend::state::bucket::BucketState;
use crate::backend::state::entry::STEP_SIZE;
use crate::key::{Key, Pattern, Patterns, Token};
use crate::revision::Revision;

/// How many times more expensive an entry is in a search by key than in a search by revision. A search by key sorts the
/// revisions that it finds, and looks up each of them.
const KEY_COST: usize = 8;

/// Finds the entries of the keys that match, in steps, so that no step holds the lock for long.
///
/// The cost is that of the keys with the prefixes of the patterns, and does not depend on the size of the bucket. The
/// search ends without a result if it becomes more expensive than a search by revision. Its result is therefore a
/// bounded share of the entries.
pub(super) struct KeySearch {
    patterns: Patterns,
    after: Revision,
    until: Revision,
    /// Whether only the newest entry of each key is wanted.
    newest: bool,
    /// The number of patterns whose keys were examined, or are in `range`.
    next: usize,
    /// The keys of the current pattern that are left to examine.
    range: Option<KeyRange>,
    found: Vec<Revision>,
    /// The number of keys and entries that the search may still examine.
    budget: usize,
}

/// The keys from `start` on that begin with `prefix`.
struct KeyRange {
    prefix: String,
    start: Key,
}

/// The outcome of one step.
pub(super) enum SearchStep {
    /// Keys are left to examine.
    Continue,
    /// The revisions of the entries that match, in no order. If patterns overlap, a revision may be repeated.
    Done(Vec<Revision>),
    /// A search by revision is cheaper.
    TooMany,
}

impl KeySearch {
    /// Creates a search for the entries with revisions after `after` and up to `until`: for the newest entry of each
    /// key, or for all.
    ///
    /// Returns `None` if a search by revision is cheaper, or if a pattern does not fix the beginning of its keys.
    pub(super) fn new(
        bucket: &BucketState,
        patterns: &Patterns,
        after: Revision,
        until: Revision,
        newest: bool,
    ) -> Option<Self> {
        let later = until.get().saturating_sub(after.get());
        let budget = usize::try_from(later).unwrap_or(usize::MAX).min(bucket.entries.len()) / KEY_COST;
        let is_cheaper = patterns.len() <= budget && patterns.iter().all(has_prefix);
        let patterns = is_cheaper.then(|| patterns.clone())?;
        Some(Self { patterns, after, until, newest, next: 0, range: None, found: Vec::new(), budget })
    }

    /// Examines some more keys.
    pub(super) fn step(&mut self, bucket: &BucketState) -> SearchStep {
        let most = STEP_SIZE.min(self.budget);
        let mut examined = 0;
        while examined < most || self.is_over() {
            if let Some(range) = self.range.take() {
                examined += self.examine(bucket, range, most - examined);
            } else if let Some(pattern) = self.patterns.get(self.next) {
                self.next += 1;
                examined += 1;
                match pattern.as_exact() {
                    Some(key) => {
                        // No bucket has a key that is too long.
                        let revisions = Key::new(key).ok().and_then(|key| bucket.keys.get(&key));
                        examined += revisions.map_or(0, |revisions| self.add(revisions));
                    }
                    None => self.range = KeyRange::of_pattern(pattern),
                }
            } else {
                return SearchStep::Done(std::mem::take(&mut self.found));
            }
        }
        self.budget = self.budget.saturating_sub(examined);
        if self.budget == 0 { SearchStep::TooMany } else { SearchStep::Continue }
    }

    /// Whether the keys of all patterns were examined.
    fn is_over(&self) -> bool {
        self.range.is_none() && self.next == self.patterns.len()
    }

    /// Examines some keys of a range, and keeps the rest of the range. Returns the number of examined keys and entries.
    fn examine(&mut self, bucket: &BucketState, range: KeyRange, most: usize) -> usize {
        let mut examined = 0;
        let keys = bucket.keys.range((Bound::Included(&range.start), Bound::Unbounded));
        for (key, revisions) in keys.take_while(|(key, _)| key.as_str().starts_with(&range.prefix)) {
            if examined >= most {
                self.range = Some(KeyRange { start: key.clone(), ..range });
                break;
            }
            examined += 1;
            if self.patterns.matches(key.as_str()) {
                examined += self.add(revisions);
            }
        }
        examined
    }

    /// Adds the wanted revisions of a key. Returns the number of examined revisions.
    fn add(&mut self, revisions: &VecDeque<Revision>) -> usize {
        let first = if self.newest { revisions.len() - 1 } else { 0 };
        let wanted = revisions.range(first..).filter(|revision| self.after < **revision && **revision <= self.until);
        self.found.extend(wanted);
        revisions.len() - first
    }
}

impl KeyRange {
    /// Returns the keys that a pattern with a prefix can match. `None` if no key can have the prefix.
    fn of_pattern(pattern: &Pattern) -> Option<Self> {
        let prefix = pattern.literal_prefix();
        // `-` is the smallest character of a key.
        let start = if prefix.ends_with('.') { format!("{prefix}-") } else { prefix.clone() };
        Some(Self { start: Key::new(start).ok()?, prefix })
    }
}

/// Whether all keys that a pattern matches begin with one text.
fn has_prefix(pattern: &Pattern) -> bool {
    match pattern.tokens().first() {
        Some(Token::Literal(_)) => true,
        Some(Token::Any { prefix, .. }) => !prefix.is_empty(),
        // Without segments, only an open pattern matches keys.
        None => !pattern.is_open(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::*;
    use crate::backend::{Write, WriteKind};
    use crate::config::BucketConfig;

    /// Returns a bucket with these keys.
    fn bucket(keys: impl IntoIterator<Item = String>) -> BucketState {
        let mut bucket = BucketState::new(1, BucketConfig::new("b").with_defaults(true, true), Duration::ZERO);
        for key in keys {
            let write = Write::new(Key::new(key).unwrap(), WriteKind::Put("v".into()));
            assert_eq!(bucket.write(write, Duration::ZERO).unwrap().stored.len(), 1);
        }
        bucket
    }

    /// Returns the number of steps and the number of found entries. `None` if a search by revision is cheaper.
    fn cost(bucket: &BucketState, patterns: Vec<Pattern>) -> Option<(usize, usize)> {
        let (patterns, last) = (Patterns::new(patterns), bucket.last_revision);
        let mut search = KeySearch::new(bucket, &patterns, Revision::ZERO, last, true)?;
        for steps in 1.. {
            match search.step(bucket) {
                SearchStep::Done(found) => return Some((steps, found.len())),
                SearchStep::Continue => {}
                SearchStep::TooMany => return None,
            }
        }
        None
    }

    #[test]
    fn search_cost_follows_the_matches() {
        let keys = (0..20_000).map(|number| format!("{}.{number}", if number % 2_000 == 7 { "acme" } else { "other" }));
        let bucket = bucket(keys);
        let acme = Pattern::new().literal("acme");
        assert_eq!(cost(&bucket, vec![acme.clone().any()]), Some((1, 10)), "one step examines 256 keys at most");
        assert_eq!(cost(&bucket, vec![acme.clone().open()]), Some((1, 10)));
        assert_eq!(cost(&bucket, vec![acme.clone().segment::<String>(None, "1", "")]), Some((1, 5)));
        assert_eq!(cost(&bucket, vec![acme.clone().literal("7"), Pattern::new().literal("none").any()]), Some((1, 1)));
        let other = Pattern::new().literal("other");
        assert_eq!(cost(&bucket, vec![other.clone().segment::<String>(None, "19", "")]), Some((9, 1_110)));
        assert_eq!(cost(&bucket, vec![other.any()]), None, "most of the bucket");
        assert_eq!(cost(&bucket, vec![Pattern::new().any().literal("7")]), None, "the first segment is open");
        assert_eq!(cost(&bucket, Vec::new()), Some((1, 0)));
    }

    #[test]
    fn prefix_ends_with_the_last_fixed_segment() {
        let keys = ["acme", "acme-1", "acme-1.a", "acme.-", "acme./", "acme.1", "acme.1.a", "acme/1", "acme1.a"];
        let more = (0..200).map(|number| format!("z.{number}"));
        let bucket = bucket(keys.map(str::to_owned).into_iter().chain(more));
        let acme = Pattern::new().literal("acme");
        assert_eq!(cost(&bucket, vec![acme.clone().any()]), Some((1, 3)));
        assert_eq!(cost(&bucket, vec![acme.clone().open()]), Some((1, 4)));
        assert_eq!(cost(&bucket, vec![acme.clone()]), Some((1, 1)));
        let too_long = Pattern::new().literal(&"a".repeat(Key::MAX_BYTES));
        assert_eq!(cost(&bucket, vec![too_long.clone().any(), too_long.any().any(), acme]), Some((1, 1)));
    }
}
