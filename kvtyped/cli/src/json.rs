//! A JSON value that keeps the order of its fields.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

/// A JSON value. An object keeps the order of its fields, so that an edit does not sort them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

/// Builds an object from its fields. A field that is `None` is left out.
macro_rules! object {
    ($($key:expr => $value:expr),* $(,)?) => {{
        let fields: Vec<(String, Option<$crate::json::Json>)> =
            vec![$(($key.to_owned(), $crate::json::IntoField::into_field($value))),*];
        $crate::json::Json::Object(fields.into_iter().filter_map(|(key, value)| Some((key, value?))).collect())
    }};
}
pub(crate) use object;

/// A value of a field that may be absent.
pub(crate) trait IntoField {
    fn into_field(self) -> Option<Json>;
}

impl<T: Into<Json>> IntoField for T {
    fn into_field(self) -> Option<Json> {
        Some(self.into())
    }
}

impl<T: Into<Json>> IntoField for Option<T> {
    fn into_field(self) -> Option<Json> {
        self.map(Into::into)
    }
}

impl Json {
    /// Parses a text of JSON.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text)
    }

    /// Returns one line of JSON.
    pub(crate) fn line(&self) -> String {
        // The keys are texts, and a float that JSON cannot express becomes `null`.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Returns indented JSON.
    pub(crate) fn pretty(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Returns the field of an object.
    pub(crate) fn get(&self, field: &str) -> Option<&Self> {
        match self {
            Self::Object(fields) => fields.iter().find(|(key, _)| key == field).map(|(_, value)| value),
            _ => None,
        }
    }

    /// Returns the text, if the value is a text.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the number, if the value is a number that fits.
    pub(crate) fn unsigned(&self) -> Option<u64> {
        match self {
            Self::Unsigned(number) => Some(*number),
            _ => None,
        }
    }

    /// Returns whether the value is `true`.
    pub(crate) fn is_true(&self) -> bool {
        *self == Self::Bool(true)
    }

    /// Whether the value contains a float that is larger than the integers that floats express exactly.
    pub(crate) fn has_large_float(&self) -> bool {
        match self {
            Self::Float(value) => value.abs() >= 9_007_199_254_740_992.0,
            Self::List(items) => items.iter().any(Self::has_large_float),
            Self::Object(fields) => fields.iter().any(|(_, value)| value.has_large_float()),
            _ => false,
        }
    }

    /// Returns the number of lists and objects that contain each other.
    pub(crate) fn depth(&self) -> usize {
        let deepest = match self {
            Self::List(items) => items.iter().map(Self::depth).max(),
            Self::Object(fields) => fields.iter().map(|(_, value)| value.depth()).max(),
            _ => return 0,
        };
        1 + deepest.unwrap_or_default()
    }

    /// Applies a merge patch (RFC 7396): a `null` removes a field, an object changes fields, and any other value
    /// replaces.
    pub(crate) fn merge(self, patch: &Self) -> Self {
        let Self::Object(changes) = patch else { return patch.clone() };
        let mut fields = match self {
            Self::Object(fields) => fields,
            _ => Vec::new(),
        };
        for (key, change) in changes {
            let at = fields.iter().position(|(field, _)| field == key);
            match (at, change) {
                (Some(at), Self::Null) => {
                    fields.remove(at);
                }
                (None, Self::Null) => {}
                (Some(at), change) => {
                    let old = std::mem::replace(&mut fields[at].1, Self::Null);
                    fields[at].1 = old.merge(change);
                }
                (None, change) => fields.push((key.clone(), Self::Null.merge(change))),
            }
        }
        Self::Object(fields)
    }

    /// Adds the fields of another object to the end of an object.
    pub(crate) fn extended(mut self, other: Self) -> Self {
        if let (Self::Object(fields), Self::Object(more)) = (&mut self, other) {
            fields.extend(more);
        }
        self
    }

    /// Adds a field to the end of an object. Does nothing if the value is absent.
    pub(crate) fn with(mut self, key: &str, value: impl IntoField) -> Self {
        if let (Self::Object(fields), Some(value)) = (&mut self, value.into_field()) {
            fields.push((key.to_owned(), value));
        }
        self
    }
}

macro_rules! from {
    ($($type:ty => |$value:ident| $json:expr;)*) => {$(
        impl From<$type> for Json {
            fn from($value: $type) -> Self {
                $json
            }
        }
    )*};
}

from! {
    bool => |value| Self::Bool(value);
    u8 => |value| Self::Unsigned(value.into());
    u32 => |value| Self::Unsigned(value.into());
    u64 => |value| Self::Unsigned(value);
    usize => |value| Self::Unsigned(value as u64);
    i64 => |value| if let Ok(value) = u64::try_from(value) { Self::Unsigned(value) } else { Self::Signed(value) };
    f64 => |value| Self::Float(value);
    &str => |value| Self::Text(value.to_owned());
    String => |value| Self::Text(value);
    &String => |value| Self::Text(value.clone());
    Vec<Json> => |value| Self::List(value);
    kvtyped::Revision => |value| Self::Unsigned(value.get());
}

/// Milliseconds.
impl From<std::time::Duration> for Json {
    fn from(value: std::time::Duration) -> Self {
        Self::Unsigned(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }
}

/// A value of `serde_json`, whose objects are sorted.
impl From<&serde_json::Value> for Json {
    fn from(value: &serde_json::Value) -> Self {
        use serde_json::Value;
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => Self::Unsigned(number),
                (_, Some(number)) => Self::Signed(number),
                _ => Self::Float(number.as_f64().unwrap_or_default()),
            },
            Value::String(text) => Self::Text(text.clone()),
            Value::Array(items) => Self::List(items.iter().map(Self::from).collect()),
            Value::Object(fields) => {
                Self::Object(fields.iter().map(|(key, value)| (key.clone(), Self::from(value))).collect())
            }
        }
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Unsigned(value) => serializer.serialize_u64(*value),
            Self::Signed(value) => serializer.serialize_i64(*value),
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::Text(value) => serializer.serialize_str(value),
            Self::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                items.iter().try_for_each(|item| list.serialize_element(item))?;
                list.end()
            }
            Self::Object(fields) => {
                let mut object = serializer.serialize_map(Some(fields.len()))?;
                fields.iter().try_for_each(|(key, value)| object.serialize_entry(key, value))?;
                object.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Unsigned(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Json, E> {
        Ok(Json::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Json, E> {
        Ok(Json::Float(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Text(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Json, E> {
        Ok(Json::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Json, A::Error> {
        let mut object = Vec::new();
        while let Some(field) = fields.next_entry()? {
            object.push(field);
        }
        Ok(Json::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Json {
        Json::parse(text.as_bytes()).expect("it is JSON")
    }

    #[test]
    fn order_numbers_and_repeated_fields_stay() {
        let text = r#"{"z":1,"a":[0.1,-7,18446744073709551615,1e+300],"z":null}"#;
        assert_eq!(parse(text).line(), text);
    }

    #[test]
    fn merge_patches_follow_the_examples_of_the_rfc() {
        for (original, patch, merged) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
            (r#"{"a":[1,2]}"#, r#"{"a":{"b":1}}"#, r#"{"a":{"b":1}}"#),
            (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
            (r#"{"a":"foo"}"#, "null", "null"),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
            ("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
            ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        ] {
            assert_eq!(parse(original).merge(&parse(patch)).line(), merged, "{original} {patch}");
        }
    }

    #[test]
    fn depth_counts_lists_and_objects() {
        for (text, depth) in [("1", 0), ("[]", 1), (r#"{"a":1,"b":[{}]}"#, 3)] {
            assert_eq!(parse(text).depth(), depth, "{text}");
        }
    }
}
