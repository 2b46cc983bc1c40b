//! The records of recipes, under reserved keys of any bucket.
//!
//! Each record is JSON and declares its [format](FORMAT) as `"v":1`. A rewrite keeps the fields that this version does
//! not know, so a newer version may add fields without a new format.

use std::fmt;
use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value as Packed};

use crate::codec::{Codec, CodecError, Json, Newer};
use crate::config::BucketConfig;
use crate::key::{Key, KeyBuilder, KeyError, KeyParser, ModelKey, Pattern};
use crate::model::{Filter, KvModel, SingleRevision};

/// The key of a recipe's record: `=kvtyped.lock.invoice-42.lease`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RecipeKey {
    /// The recipe: `lock`, `election`, ..
    recipe: String,
    /// The name within the recipe, for example of a lock.
    name: String,
    /// The part: `lease`, `fence`, or the number of a permit.
    part: String,
}

impl RecipeKey {
    pub(crate) fn new(recipe: &str, name: impl Into<String>, part: impl Into<String>) -> Self {
        Self { recipe: recipe.to_owned(), name: name.into(), part: part.into() }
    }

    pub(crate) fn recipe(&self) -> &str {
        &self.recipe
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn part(&self) -> &str {
        &self.part
    }

    /// Returns the key of another part with the same recipe and name.
    pub(crate) fn sibling(&self, part: impl Into<String>) -> Self {
        Self { recipe: self.recipe.clone(), name: self.name.clone(), part: part.into() }
    }

    /// Returns a filter for this part of all names of a recipe.
    pub(crate) fn of_part<V: Value>(recipe: &str, part: &str) -> Filter<RecipeRecord<V>> {
        let pattern = Pattern::new().literal(Key::RESERVED).segment(Some(&recipe.to_owned()), "", "");
        Filter::pattern(pattern.segment::<String>(None, "", "").segment(Some(&part.to_owned()), "", ""))
    }

    /// Returns a filter for all parts of a recipe and name.
    pub(crate) fn parts<V: Value>(recipe: &str, name: &str) -> Filter<RecipeRecord<V>> {
        let pattern = Pattern::new().literal(Key::RESERVED);
        let pattern = pattern.segment(Some(&recipe.to_owned()), "", "").segment(Some(&name.to_owned()), "", "");
        Filter::pattern(pattern.segment::<String>(None, "", ""))
    }
}

impl ModelKey for RecipeKey {
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

impl fmt::Display for RecipeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = KeyBuilder::new();
        self.write(&mut out);
        f.pad(out.as_str())
    }
}

impl FromStr for RecipeKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::decode(text)
    }
}

/// A value of a recipe's record.
pub(crate) trait Value: Serialize + DeserializeOwned + Send + Sync + 'static {}

impl<V: Serialize + DeserializeOwned + Send + Sync + 'static> Value for V {}

/// The format that this version writes, and the newest that it reads. A record without a declaration has format 1.
const FORMAT: u64 = 1;

/// The name of the field that declares the format.
const DECLARES: &str = "v";

/// JSON objects that declare the [format](FORMAT) of a record.
pub(crate) enum Declared {}

impl<V: Value> Codec<V> for Declared {
    const NAME: &'static str = <Json as Codec<V>>::NAME;

    fn encode(value: &V) -> Result<Vec<u8>, CodecError> {
        let object = Json::encode(value)?;
        match object.strip_prefix(b"{") {
            Some(b"}") => Ok(format!("{{\"{DECLARES}\":{FORMAT}}}").into_bytes()),
            Some(fields) => Ok([format!("{{\"{DECLARES}\":{FORMAT},").as_bytes(), fields].concat()),
            None => Err(CodecError::new("json", "the record of a recipe must be an object")),
        }
    }

    fn decode(bytes: &[u8]) -> Result<V, CodecError> {
        // A record of a newer format may have any shape, so its format is read first.
        let Declaration { v: found } = Json::decode(bytes)?;
        if found > FORMAT {
            return Err(CodecError::newer("json", Newer { found, known: FORMAT }));
        }
        Json::decode(bytes)
    }
}

#[derive(Serialize, Deserialize)]
struct Declaration {
    #[serde(default = "declared_by_default")]
    v: u64,
}

fn declared_by_default() -> u64 {
    1
}

/// The fields of a record that this version does not know, for `#[serde(flatten)]`: a rewrite keeps them.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Unknown(Map<String, Packed>);

impl<'de> Deserialize<'de> for Unknown {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut fields = Map::deserialize(deserializer)?;
        fields.remove(DECLARES);
        Ok(Self(fields))
    }
}

/// Shows the names of the fields only.
impl fmt::Debug for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// A record of a recipe: a value under its key, as JSON.
#[derive(Debug, Clone)]
pub(crate) struct RecipeRecord<V> {
    pub(crate) key: RecipeKey,
    pub(crate) value: V,
}

impl<V: Value> KvModel for RecipeRecord<V> {
    type Key = RecipeKey;
    type Value = V;
    type Codec = Declared;

    fn settings() -> BucketConfig {
        // The caller that opens the bucket sets its name.
        BucketConfig { history: Some(1), ..BucketConfig::default() }
    }

    fn key(&self) -> RecipeKey {
        self.key.clone()
    }

    fn stored(&self) -> &V {
        &self.value
    }

    fn from_stored(key: RecipeKey, value: V) -> Self {
        Self { key, value }
    }
}

impl<V: Value> SingleRevision for RecipeRecord<V> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_round_trips_as_key() {
        for name in ["invoice-42", "inv.42", "", "=kvtyped", "a*>", "\u{e9}"] {
            let key = RecipeKey::new("lock", name, "lease");
            assert_eq!(key.to_string().parse::<RecipeKey>().unwrap(), key);
            assert!(RecipeKey::parts::<()>("lock", name).matches(&key));
        }
    }

    #[test]
    fn recipe_bucket_keeps_a_single_revision() {
        assert_eq!(RecipeRecord::<()>::settings().history, Some(1));
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Number {
        n: u64,
        #[serde(flatten)]
        unknown: Unknown,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Nothing {}

    fn encoded<V: Value>(value: &V) -> String {
        String::from_utf8(Declared::encode(value).unwrap()).unwrap()
    }

    #[test]
    fn record_declares_its_format() {
        let number = Number { n: 7, unknown: Unknown::default() };
        assert_eq!(encoded(&number), r#"{"v":1,"n":7}"#);
        assert_eq!(encoded(&Nothing {}), r#"{"v":1}"#);
        assert!(Declared::encode(&7_u64).is_err());
        for bytes in [r#"{"v":1,"n":7}"#, r#"{"n":7}"#] {
            assert_eq!(<Declared as Codec<Number>>::decode(bytes.as_bytes()).unwrap(), number);
        }
    }

    #[test]
    fn rewrite_keeps_unknown_fields() {
        let stored = br#"{"v":1,"n":7,"later":{"big":18446744073709551615,"text":null},"\u00e9":[1.5]}"#;
        let number = Number { n: 8, ..Declared::decode(stored).unwrap() };
        assert_eq!(encoded(&number), r#"{"v":1,"n":8,"later":{"big":18446744073709551615,"text":null},"é":[1.5]}"#);
    }

    #[test]
    fn newer_format_is_distinguished_from_garbage() {
        for newer in [r#"{"v":2,"n":7}"#, r#"{"v":2}"#, r#"{"v":18446744073709551615,"n":"other"}"#] {
            let error = <Declared as Codec<Number>>::decode(newer.as_bytes()).unwrap_err();
            assert_eq!(error.newer_format().map(|newer| newer.known), Some(1), "{newer}");
        }
        for garbage in ["", "junk", "7", r#"{"n":"x"}"#, r#"{"v":"2","n":7}"#, r#"{"v":-1,"n":7}"#] {
            let error = <Declared as Codec<Number>>::decode(garbage.as_bytes()).unwrap_err();
            assert_eq!(error.newer_format(), None, "{garbage}");
        }
    }

    #[test]
    fn open_pattern_excludes_recipe_keys() {
        let open = || Pattern::new().segment::<String>(None, "", "");
        let pattern = (0..3).fold(open(), |pattern, _| pattern.segment::<String>(None, "", ""));
        let key = RecipeKey::new("lock", "a", "lease").to_string();
        assert!(!pattern.matches(&key));
        assert!(pattern.matches("a.b.c.d"));
        assert!(RecipeKey::pattern().matches(&key));
    }
}
