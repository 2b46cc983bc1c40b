//! Lookups: the values of an index to search for.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use super::{By, IndexInfo, Indexable, RangeField, RangeValue, ValueText, layout, values_of};
use crate::key::{Key, KeyError, Pattern};
use crate::model::KvModel;

/// The arity of a lookup of a unique index: at most one record has the value.
#[derive(Debug, Clone, Copy)]
pub struct One;

/// The arity of any other lookup: several records may match.
#[derive(Debug, Clone, Copy)]
pub struct Many;

/// A search for records by the values of one index. `User::by_team("core")` creates one.
///
/// Its `Debug` output names the index, and not the values.
#[must_use = "a lookup does nothing until it is passed to `get_by`, `list_by` or `count_by`"]
pub struct Lookup<T, A> {
    index: usize,
    /// Any of these. Empty if nothing matches.
    prefixes: Vec<Prefix>,
    /// The lowest and the highest value of a range. Its values have texts of one length, so texts have their order.
    between: Option<(Option<String>, Option<String>)>,
    check: Option<Check<T>>,
    arity: PhantomData<fn() -> A>,
}

/// A test of a record, for lookups that the entries alone do not decide.
type Check<T> = Arc<dyn Fn(&T) -> bool + Send + Sync>;

/// The leading segments of a value, escaped. `None` is any segment.
type Prefix = Vec<Option<String>>;

impl<T: KvModel, A> Lookup<T, A> {
    /// Creates a lookup of one value of the index at this position. Called from generated code.
    #[doc(hidden)]
    pub fn value(index: usize, write: impl FnOnce(&mut ValueText)) -> Self {
        let text = T::__INDEXES.get(index).map(|info| ValueText::build(info, write));
        let prefixes = text.map(|text| text.split('.').map(|segment| Some(segment.to_owned())).collect());
        Self::any_of(index, prefixes.into_iter().collect())
    }

    /// Creates a lookup of any value of a field. Called from generated code.
    #[doc(hidden)]
    pub fn values<F: Indexable>(index: usize, field: &F) -> Self {
        let mut prefixes: Vec<Prefix> = Vec::new();
        field.each_value(&mut |value| {
            let of_value = Self::value(index, |text| _ = text.segment(value));
            prefixes.extend(of_value.prefixes);
        });
        prefixes.sort_unstable();
        prefixes.dedup();
        Self::any_of(index, prefixes)
    }

    /// Creates a lookup of every value. Called from generated code.
    #[doc(hidden)]
    pub fn all(index: usize) -> Self {
        Self::any_of(index, vec![Prefix::new()])
    }

    /// Sets an escaped segment. Called from generated code.
    #[doc(hidden)]
    pub fn segment(mut self, segment: usize, text: String) -> Self {
        for prefix in &mut self.prefixes {
            if prefix.len() <= segment {
                prefix.resize(segment + 1, None);
            }
            if let Some(place) = prefix.get_mut(segment) {
                *place = Some(text.clone());
            }
        }
        self
    }

    /// Creates a lookup of the values of a field in a range. Called from generated code.
    #[doc(hidden)]
    pub fn range<F: RangeField + 'static>(
        index: usize,
        by: By,
        range: impl RangeBounds<F::Value>,
        field: fn(&T) -> &F,
    ) -> Self {
        let scale = <F::Value as RangeValue>::SCALE;
        let depth = scale.depth(by);
        let range: (Bound<F::Value>, Bound<F::Value>) = (range.start_bound().cloned(), range.end_bound().cloned());
        let levels = |bound: &Bound<F::Value>| match bound {
            Bound::Included(value) | Bound::Excluded(value) => {
                let mut levels = value.levels();
                levels.truncate(depth);
                Some(levels)
            }
            Bound::Unbounded => None,
        };
        let (low, high) = (levels(&range.0), levels(&range.1));
        let paths = match (&low, &high) {
            (Some(low), Some(high)) if low > high => Vec::new(),
            _ => scale.cover(low.as_deref(), high.as_deref(), depth),
        };
        let prefix = |path: &Vec<u32>| scale.segments(path).map(Some).collect();
        let text = |levels: &Vec<u32>| scale.segments(levels).collect::<Vec<_>>().join(".");
        let between = Some((low.as_ref().map(text), high.as_ref().map(text)));
        let check: Check<T> = Arc::new(move |record| {
            let mut found = false;
            field(record).each_value(&mut |value| found |= range.contains(value));
            found
        });
        Self { between, check: Some(check), ..Self::any_of(index, paths.iter().map(prefix).collect()) }
    }

    fn any_of(index: usize, prefixes: Vec<Prefix>) -> Self {
        Self { index, prefixes, between: None, check: None, arity: PhantomData }
    }

    /// Returns the position of the index in the list of the model.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Returns the definition of the index. `None` only for a lookup that was not generated.
    pub fn info(&self) -> Option<&'static IndexInfo> {
        T::__INDEXES.get(self.index)
    }

    /// Returns the patterns of the entries, in the index key space. Their union can match more entries than
    /// [`matches_value`](Self::matches_value). Empty if nothing matches.
    pub fn patterns(&self) -> Vec<Pattern> {
        let Some(info) = self.info() else { return Vec::new() };
        let pattern = |prefix: &Prefix| {
            let start = layout::of_index(T::SCHEMA.name, info);
            let segments = (0..info.segments).map(|at| prefix.get(at).and_then(Option::as_deref));
            let pattern = segments.fold(start, |pattern, segment| match segment {
                Some(text) => pattern.literal(text),
                None => pattern.any(),
            });
            if info.is_unique() { pattern } else { pattern.open() }
        };
        self.prefixes.iter().map(pattern).collect()
    }

    /// Returns the keys of the claims, for a lookup of a unique index. Empty if nothing matches.
    ///
    /// # Errors
    ///
    /// Returns [`KeyError::EntryTooLong`] if a value is too long, so that no record has it.
    pub fn claims(&self) -> Result<Vec<Key>, KeyError> {
        let Some(info) = self.info() else { return Ok(Vec::new()) };
        let values = self.prefixes.iter().filter_map(|prefix| prefix.iter().cloned().collect::<Option<Vec<_>>>());
        values.map(|segments| layout::claim_key(T::SCHEMA.name, info, &segments.join("."))).collect()
    }

    /// Whether an entry with this value belongs to the lookup. The record decides, see [`matches`](Self::matches).
    pub fn matches_value(&self, value: &str) -> bool {
        let matches = |prefix: &Prefix| {
            let mut segments = value.split('.');
            prefix.iter().all(|wanted| match (wanted, segments.next()) {
                (Some(wanted), Some(segment)) => wanted == segment,
                (None, Some(_)) => true,
                (_, None) => false,
            })
        };
        let is_between = self.between.as_ref().is_none_or(|(low, high)| {
            low.as_deref().is_none_or(|low| low <= value) && high.as_deref().is_none_or(|high| value <= high)
        });
        is_between && self.prefixes.iter().any(matches)
    }

    /// Whether a record belongs to the lookup.
    pub fn matches(&self, record: &T) -> bool {
        let values = values_of(record);
        let any = values.of_index(self.index).any(|value| self.matches_value(&value.text));
        any && self.check.as_ref().is_none_or(|check| check(record))
    }
}

/// A lookup that finds at most one record.
#[diagnostic::on_unimplemented(
    message = "several records may have this value",
    label = "not a lookup of a unique index",
    note = "use `list_by`, or make the index unique with `#[kv(unique)]`"
)]
pub trait UniqueLookup<T> {
    /// Returns the lookup.
    fn into_unique(self) -> Lookup<T, One>;
}

impl<T: KvModel> UniqueLookup<T> for Lookup<T, One> {
    fn into_unique(self) -> Self {
        self
    }
}

impl<T> From<Lookup<T, One>> for Lookup<T, Many> {
    fn from(Lookup { index, prefixes, between, check, arity: _ }: Lookup<T, One>) -> Self {
        Self { index, prefixes, between, check, arity: PhantomData }
    }
}

impl<T, A> Clone for Lookup<T, A> {
    fn clone(&self) -> Self {
        let Self { index, prefixes, between, check, arity } = self;
        let (prefixes, between, check) = (prefixes.clone(), between.clone(), check.clone());
        Self { index: *index, prefixes, between, check, arity: *arity }
    }
}

impl<T: KvModel, A> fmt::Debug for Lookup<T, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.info().map(|info| info.name);
        f.debug_struct("Lookup").field("index", &name.unwrap_or_default()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::{IndexKind, IndexValue, IndexValues, Indexable};
    use super::*;
    use crate::codec::Json;
    use crate::config::BucketConfig;
    use crate::model::ModelSchema;

    #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct User {
        id: u64,
        email: String,
        team: Option<String>,
        tags: Vec<String>,
        bio: String,
    }

    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    struct Id(u64);

    impl fmt::Display for Id {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.fmt(f)
        }
    }

    impl std::str::FromStr for Id {
        type Err = KeyError;

        fn from_str(text: &str) -> Result<Self, KeyError> {
            crate::key::ModelKey::decode(text)
        }
    }

    impl crate::key::ModelKey for Id {
        const TEMPLATE: &'static str = "{id}";

        fn write(&self, out: &mut crate::key::KeyBuilder) {
            out.segment(&self.0);
        }

        fn parse(parser: &mut crate::key::KeyParser<'_>) -> Result<Self, KeyError> {
            parser.segment("id", "", "").map(Self)
        }

        fn pattern() -> Pattern {
            Pattern::new().any()
        }
    }

    impl KvModel for User {
        type Key = Id;
        type Value = Self;
        type Codec = Json;

        const SCHEMA: ModelSchema<Self> = ModelSchema::first::<Json, 1>("user");
        const __INDEXES: &'static [IndexInfo] = &[
            IndexInfo::new("email", IndexKind::Unique, "{email}"),
            IndexInfo::new("team", IndexKind::Many, "{team}"),
            IndexInfo::new("tags", IndexKind::Many, "{tags}"),
            IndexInfo::new("by_place", IndexKind::Many, "{team}.{id}").segments(2),
            IndexInfo::new("bio", IndexKind::Many, "{bio}").hashed(),
        ];

        fn settings() -> BucketConfig {
            BucketConfig::new("users")
        }

        fn key(&self) -> Id {
            Id(self.id)
        }

        fn stored(&self) -> &Self {
            self
        }

        fn from_stored(_: Id, stored: Self) -> Self {
            stored
        }

        fn __index_values(&self, out: &mut IndexValues) {
            self.email.each_value(&mut |email| out.push(0, |text| _ = text.segment(email)));
            self.team.each_value(&mut |team| out.push(1, |text| _ = text.segment(team)));
            self.tags.each_value(&mut |tag| out.push(2, |text| _ = text.segment(tag)));
            self.team.each_value(&mut |team| out.push(3, |text| _ = text.segment(team).segment(&self.id)));
            self.bio.each_value(&mut |bio| out.push(4, |text| _ = text.segment(bio)));
        }
    }

    fn ada() -> User {
        let tags = ["b.c", "a", "a", ""].map(str::to_owned).to_vec();
        User { id: 7, email: "ada@x".into(), team: None, tags, bio: "long ".repeat(1000) }
    }

    fn of<A>(index: usize, value: &str) -> Lookup<User, A> {
        Lookup::value(index, |text| _ = text.segment(&value.to_owned()))
    }

    #[test]
    fn values_are_sorted_and_distinct() {
        let hash = "8a06ffc55d3de2d9d33a6a9bd4e3a0a5";
        let values = values_of(&ada());
        let texts = values.iter().map(|value| (value.index, &*value.text)).collect::<Vec<_>>();
        let (plain, hashed) = texts.split_at(4);
        assert_eq!(plain, [(0, "ada=40x"), (2, "=_"), (2, "a"), (2, "b=2Ec")]);
        assert_eq!(hashed.iter().map(|(index, text)| (*index, text.len())).collect::<Vec<_>>(), [(4, hash.len())]);
        assert!(IndexValues::default().is_empty());
        let member = User { team: Some("core".into()), ..ada() };
        let new = values_of(&member);
        let added = new.without(&values).map(|value| (value.index, &*value.text)).collect::<Vec<_>>();
        assert_eq!(added, [(1, "core"), (3, "core.7")]);
        assert_eq!(values.without(&new).count(), 0);
        assert!(new.contains(&IndexValue { index: 1, text: "core".into() }));
    }

    #[test]
    fn lookup_selects_entries_and_records() {
        let tag = of::<Many>(2, "b.c");
        assert_eq!(tag.patterns().iter().map(ToString::to_string).collect::<Vec<_>>(), ["user.tags.b=2Ec.>"]);
        assert!(tag.matches_value("b=2Ec") && !tag.matches_value("b"));
        assert!(tag.matches(&ada()) && !of::<Many>(2, "b").matches(&ada()));
        let bio = of::<Many>(4, &ada().bio);
        assert!(bio.matches(&ada()) && !of::<Many>(4, "other").matches(&ada()));
    }

    #[test]
    fn lookup_of_unique_index_names_its_claim() {
        let email = of::<One>(0, "ada@x");
        assert_eq!(email.patterns().iter().map(ToString::to_string).collect::<Vec<_>>(), ["user.email.ada=40x"]);
        assert_eq!(email.claims().unwrap(), [Key::new("user.email.ada=40x").unwrap()]);
        let error = of::<One>(0, &"a".repeat(2000)).claims().unwrap_err();
        assert!(matches!(error, KeyError::EntryTooLong { index: "email", .. }), "{error}");
        let many: Lookup<User, Many> = email.into();
        assert!(many.matches(&ada()));
    }

    #[test]
    fn open_segment_matches_any_value() {
        let lookup = Lookup::<User, Many>::all(3).segment(1, "7".to_owned());
        assert_eq!(lookup.patterns().iter().map(ToString::to_string).collect::<Vec<_>>(), ["user.by_place.*.7.>"]);
        assert!(lookup.matches_value("core.7") && !lookup.matches_value("core.8"));
        let prefix = Lookup::<User, Many>::all(3).segment(0, "core".to_owned());
        assert_eq!(prefix.patterns()[0].to_string(), "user.by_place.core.*.>");
        assert!(prefix.matches_value("core.8") && !prefix.matches_value("cor.8"));
    }
}
