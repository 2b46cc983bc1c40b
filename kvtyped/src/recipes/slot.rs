//! Where recipes keep what they know: records of their own, under reserved keys of any bucket.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::Json;
use crate::config::BucketConfig;
use crate::key::{Key, KeyBuilder, KeyError, KeyParser, ModelKey, Pattern};
use crate::model::{Filter, KvModel, SingleRevision};

/// Where a value of a recipe is: `=kvtyped.lock.invoice-42.lease`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SlotKey {
    /// Which recipe: `lock`, `election`, ..
    recipe: String,
    /// Which of them: the lock's name.
    name: String,
    /// What of it: `lease`, `fence`, the number of a permit.
    part: String,
}

impl SlotKey {
    pub(super) fn new(recipe: &str, name: impl Into<String>, part: impl Into<String>) -> Self {
        Self { recipe: recipe.to_owned(), name: name.into(), part: part.into() }
    }

    pub(super) fn recipe(&self) -> &str {
        &self.recipe
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn part(&self) -> &str {
        &self.part
    }

    /// The key of another part of the same.
    pub(super) fn beside(&self, part: impl Into<String>) -> Self {
        Self { recipe: self.recipe.clone(), name: self.name.clone(), part: part.into() }
    }

    /// Every part of one of a recipe.
    pub(super) fn parts<V: Value>(recipe: &str, name: &str) -> Filter<Slot<V>> {
        let pattern = Pattern::new().literal(Key::RESERVED);
        let pattern = pattern.segment(Some(&recipe.to_owned()), "", "").segment(Some(&name.to_owned()), "", "");
        Filter::of_pattern(pattern.segment::<String>(None, "", ""))
    }
}

impl ModelKey for SlotKey {
    const TEMPLATE: &'static str = "=kvtyped.{recipe}.{name}.{part}";

    fn write(&self, out: &mut KeyBuilder) {
        let Self { recipe, name, part } = self;
        out.literal(Key::RESERVED).literal(".").segment(recipe).literal(".").segment(name).literal(".").segment(part);
    }

    fn parse(parser: &mut KeyParser<'_>) -> Result<Self, KeyError> {
        parser.literal(Key::RESERVED)?;
        let recipe = parser.segment("recipe", "", "")?;
        let name = parser.segment("name", "", "")?;
        Ok(Self { recipe, name, part: parser.segment("part", "", "")? })
    }

    fn pattern() -> Pattern {
        let open = |pattern: Pattern| pattern.segment::<String>(None, "", "");
        open(open(open(Pattern::new().literal(Key::RESERVED))))
    }
}

impl fmt::Display for SlotKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = KeyBuilder::new();
        self.write(&mut out);
        f.pad(out.as_str())
    }
}

impl FromStr for SlotKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::decode(text)
    }
}

/// What a slot can hold.
pub(super) trait Value: Serialize + DeserializeOwned + Send + Sync + 'static {}

impl<V: Serialize + DeserializeOwned + Send + Sync + 'static> Value for V {}

/// A value of a recipe under its key, as JSON.
#[derive(Debug, Clone)]
pub(super) struct Slot<V> {
    pub(super) key: SlotKey,
    pub(super) value: V,
}

impl<V: Value> KvModel for Slot<V> {
    type Key = SlotKey;
    type Value = V;
    type Codec = Json;

    fn settings() -> BucketConfig {
        // Named by whoever opens it.
        BucketConfig { history: Some(1), ..BucketConfig::default() }
    }

    fn key(&self) -> SlotKey {
        self.key.clone()
    }

    fn stored(&self) -> &V {
        &self.value
    }

    fn from_stored(key: SlotKey, value: V) -> Self {
        Self { key, value }
    }
}

impl<V: Value> SingleRevision for Slot<V> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_is_a_key_and_back() {
        for name in ["invoice-42", "inv.42", "", "=kvtyped", "a*>", "\u{e9}"] {
            let key = SlotKey::new("lock", name, "lease");
            assert_eq!(key.to_string().parse::<SlotKey>().unwrap(), key);
            assert!(SlotKey::parts::<()>("lock", name).matches(&key));
        }
    }

    #[test]
    fn one_revision_is_kept_so_that_it_may_have_a_ttl() {
        assert_eq!(Slot::<()>::settings().history, Some(1));
    }

    #[test]
    fn an_open_first_segment_does_not_see_it() {
        let open = || Pattern::new().segment::<String>(None, "", "");
        let pattern = (0..3).fold(open(), |pattern, _| pattern.segment::<String>(None, "", ""));
        let key = SlotKey::new("lock", "a", "lease").to_string();
        assert!(!pattern.matches(&key));
        assert!(pattern.matches("a.b.c.d"));
        assert!(SlotKey::pattern().matches(&key));
    }
}
